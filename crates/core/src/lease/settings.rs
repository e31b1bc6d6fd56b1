//! What a lease machine is told once: who votes, how long, and its bounds.

use core::time::Duration;
use std::collections::BTreeSet;

use crate::Moment;
use crate::names::{GroupId, NodeId};

/// Groups per cluster. Each takes one fixed slot of the mirror (under half a
/// kilobyte), and one Renew per voter and heartbeat.
pub const GROUPS_MAX: usize = 1024;

/// Voters per cluster: more than this many votes make nothing safer and every
/// renewal dearer.
pub const VOTERS_MAX: usize = 15;

/// Running promises of one voter to different epochs of one group. Two are usual (the
/// old holder and the new one); four means three moves within one lease, and more are
/// refused until the oldest has run out.
pub const PROMISES_MAX: usize = 4;

/// Renewals of one epoch whose answers still count. An answer to an older one comes
/// when the lease that it proves is nearly over.
pub const ASKS_MAX: usize = 64;

/// The least margin: scheduling and the resolution of timers, where `L/5` is less.
pub const MARGIN_MIN: Duration = Duration::from_millis(2);

/// The least time between two renewals of an epoch that waits to open.
pub const OPENING_HEARTBEAT_MIN: Duration = Duration::from_millis(1);

/// For so many leases a new holder may wait to open before it counts as deaf: older
/// promises run for one at most, the margin comes on top, and the commit takes a while.
pub const OPENING_LEASES: u32 = 2;

/// After so many leases without the right to act, a holder's services stop (rule 6),
/// and an epoch that waits to open is renewed at the ordinary pace.
pub const PATIENCE_LEASES: u32 = 10;

/// What one lease machine is told at its start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// This node.
    pub me: NodeId,
    /// All voters; this node among them if it votes. At most [`VOTERS_MAX`].
    pub voters: Vec<NodeId>,
    /// Digest of the voters ([`crate::topology::Topology::membership`]).
    pub membership: u64,
    /// L: the length of the promises that this node asks for.
    pub lease: Duration,
    /// How often it asks.
    pub heartbeat: Duration,
    /// The longest promise that this node makes. Whatever it has ever been is what
    /// [`super::Start::Amnesiac`] must be silent for.
    pub lease_max: Duration,
    /// Groups that this node opens only once it has been told that what they consist of is
    /// started ([`super::Machine::ready`]).
    pub prepared: BTreeSet<GroupId>,
    /// What a test breaks on purpose; nothing in a product.
    pub faults: Faults,
}

impl Settings {
    /// The smallest number of voters that is more than half.
    pub fn majority(&self) -> usize {
        crate::quorum::majority(self.voters.len())
    }

    /// Whether this node's own vote counts.
    pub fn votes(&self) -> bool {
        self.voters.contains(&self.me)
    }

    /// `max(length/5, 2 ms)`: what clocks may drift apart during a promise of that
    /// length, counted once by the old holder and once by the new one (rules 2, 3).
    pub fn margin(&self, length: Duration) -> Duration {
        if self.faults.no_margin {
            Duration::ZERO
        } else {
            (length / 5).max(MARGIN_MIN)
        }
    }

    /// What a promise to a Renew sent at `sent` is worth to its sender (rule 2).
    pub(super) fn worth(&self, sent: Moment) -> Moment {
        sent + self.lease.saturating_sub(self.margin(self.lease))
    }

    /// The pace at which an epoch that waits to open asks.
    pub fn opening_heartbeat(&self) -> Duration {
        (self.heartbeat / 4)
            .max(OPENING_HEARTBEAT_MIN)
            .min(self.heartbeat)
    }

    /// How long a holder may take to open before it is suspected of hearing nobody.
    pub fn opening_time(&self) -> Duration {
        self.lease * OPENING_LEASES
    }

    /// How long a holder without its lease keeps its services.
    pub fn patience(&self) -> Duration {
        self.lease * PATIENCE_LEASES
    }
}

/// Rules taken away, one by one, to show that the checkers would notice. For tests
/// alone: each of these makes two holders possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A voter without memory answers at once (against rule 4).
    pub no_restart_rule: bool,
    /// A holder opens as soon as its Assign is committed (against rule 3).
    pub no_wait: bool,
    /// A truncated entry takes the floor back with it (against rule 1).
    pub floor_follows_log: bool,
    /// A released epoch can be renewed again (against rule 5).
    pub spent_reusable: bool,
    /// Clocks are believed to agree (against rules 2 and 3).
    pub no_margin: bool,
    /// An epoch belongs to a node, whichever of its lives (against rule 8).
    pub any_incarnation: bool,
    /// A holder goes on counting answers to the asks that it has declared void.
    pub void_counts: bool,
    /// A holder declares asks void without having shut its guard: that the deadline has
    /// passed is not enough where a guard shuts late by itself.
    pub void_before_shut: bool,
    /// A voter takes back the promises to a holder that declares asks void, whichever
    /// asks they were made for.
    pub void_unnumbered: bool,
}
