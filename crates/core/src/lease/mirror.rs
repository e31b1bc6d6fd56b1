//! What must outlive the process (rule 4): a worker that its parent restarts goes on
//! where the last one stopped, with no silence and no gap in its leases.
//!
//! The driver keeps one [`Record`] per group in memory that outlives the process and
//! dies with the boot (a mapped file under /run), and a head with the rest of
//! [`Mirror`]. It writes the whole mirror once after [`super::Machine::new`], before it
//! polls (a mirror of another incarnation is replaced in one stroke: a new file,
//! renamed). Then it writes one record for every [`super::Output::Mirror`], in the
//! order of the outputs: a promise is in the mirror before the answer that relies on it
//! leaves. A mirror that is torn, absent or of another boot is none:
//! [`super::Start::Amnesiac`].

use super::Assignment;
use super::settings::PROMISES_MAX;
use crate::Moment;
use crate::names::{Epoch, GroupId, Incarnation, NodeId};

/// How a machine starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// No process of this node has ever been able to promise anything to this
    /// cluster: its state directory was made by this very start *and* the node's name
    /// is new to the cluster. When in doubt, [`Start::Amnesiac`]: it costs one lease.
    Fresh,
    /// Promises may be running that this process does not know of: it answers no
    /// Renew for so long, the longest lease that this node has ever allowed.
    Amnesiac {
        /// The length of the silence on this node's clock, from the start.
        /// [`Duration::MAX`](core::time::Duration::MAX) if the floors were lost as well, with
        /// the log: until [`Machine::recall`](super::Machine::recall).
        quiet_for: core::time::Duration,
    },
    /// The mirror of an earlier process of the same boot, which is dead. What it
    /// promised is kept; what
    /// it held goes on if it was this incarnation, and otherwise is closed and given
    /// back.
    Mirrored(Mirror),
}

/// All that a process knew, in integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The life that wrote it.
    pub incarnation: Incarnation,
    /// Until when it was silent: a crash during the silence does not end it. Changed by
    /// [`Machine::recall`](super::Machine::recall) alone, so it belongs into the head.
    pub quiet_until: Moment,
    /// One for each group, at most [`super::GROUPS_MAX`].
    pub records: Vec<Record>,
}

/// All that a process knew of one group. Fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// The group.
    pub group: GroupId,
    /// The floor.
    pub floor: Option<Assignment>,
    /// The newest epoch known as committed, or [`Epoch::NONE`].
    pub committed: Epoch,
    /// Voter: the newest epoch given back by its holder.
    pub released: Epoch,
    /// Voter: promises that may still run, with the lives to which they bind epochs.
    pub promises: [Option<Promise>; PROMISES_MAX],
    /// Holder: the newest epoch that this life has given back; nothing up to it is
    /// ever renewed or opened.
    pub spent: Epoch,
    /// Holder: the last deadline given to the guard.
    pub guard: Moment,
    /// Holder: the epoch that was opened, with its proven deadline.
    pub held: Option<Held>,
}

/// A voter's word: nobody else until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Promise {
    /// To whom, in which life, under which epoch.
    pub to: Assigned,
    /// Until when, on this voter's clock.
    pub until: Moment,
    /// The newest [`super::Renew::seq`] it was made for: a holder that declares that one
    /// void needs the promise no more.
    pub seq: u64,
}

/// Somebody's claim to an epoch: the epoch and the one life that may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// The epoch.
    pub epoch: Epoch,
    /// The node.
    pub node: NodeId,
    /// The life of that node.
    pub incarnation: Incarnation,
}

/// An epoch that this node has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// The epoch.
    pub epoch: Epoch,
    /// Its proven deadline.
    pub until: Moment,
}
