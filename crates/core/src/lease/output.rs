//! What a lease machine wants done, and what it has to say.

use core::time::Duration;

use super::Lease;
use super::message::{Message, Refusal};
use crate::Moment;
use crate::names::{Epoch, GroupId, NodeId};

/// One thing to do, in the order in which they are polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Write [`super::Machine::record`] of this group into the mirror, before any
    /// later output is carried out.
    Mirror(GroupId),
    /// Send it, once. Nothing waits for its arrival.
    Transmit {
        /// To whom; never this node itself.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// The guard may let the group's addresses through until the end of the lease.
    Extend(Lease),
    /// The guard must shut now: the Released that follows says that it has, or, after a
    /// lapse, the Renew that declares earlier ones void.
    Close {
        /// The group.
        group: GroupId,
        /// The newest epoch that is over.
        epoch: Epoch,
    },
    /// Something that others want to know.
    Event(Event),
}

/// What happened to this node's tenure of a group, or what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Assigned to this life of this node; it asks, and waits for older promises.
    Opening {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Opened: the guard is extended from here on.
    Opened {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// Time since this process learned of the assignment.
        waited: Duration,
        /// The end of the first lease.
        until: Moment,
    },
    /// The lease ran out: the guard is shut by itself, asking goes on (rule 6).
    Lapsed {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// When the lease ended.
        at: Moment,
    },
    /// The lease runs again, under the same epoch.
    Resumed {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// The time without it.
        gap: Duration,
    },
    /// Lapsed for so long that the group's `active` services stop (rule 6). Asking
    /// goes on; [`Event::Resumed`] may still follow, unless whoever stops them gives the
    /// epoch back ([`super::Machine::abandon`]).
    Abandoned {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Given back because somebody asked for it. The epoch is spent.
    Released {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Given back because it is over. The epoch is spent.
    Lost {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// What ended it.
        why: Why,
    },
    /// A voter has a newer assignment in its log: if that was truncated, the leader
    /// must commit a newer one (rule 1). Said once for each voter and floor.
    FloorAbove {
        /// The group.
        group: GroupId,
        /// The epoch that it refuses.
        epoch: Epoch,
        /// Who.
        voter: NodeId,
        /// Its floor.
        floor: Epoch,
    },
    /// A voter refuses for another reason. Said once for each voter and reason.
    Refused {
        /// The group.
        group: GroupId,
        /// The epoch that it refuses.
        epoch: Epoch,
        /// Who.
        voter: NodeId,
        /// Why.
        refusal: Refusal,
    },
    /// The table of groups is full: this one gets neither votes nor a holder here.
    NoRoom {
        /// The group.
        group: GroupId,
    },
}

/// What ended a tenure that nobody asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// This node's own log names another holder.
    Superseded,
    /// A majority of voters have a newer assignment.
    Overtaken,
    /// The voters were replaced ([`super::Machine::set_voters`]).
    VotersReplaced,
    /// It belonged to an earlier life of this node.
    EarlierLife,
}

/// Where a group stands on this node, as its holder or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Not assigned to this life of this node.
    Idle,
    /// Assigned; waits for the commit, for older promises or for its own majority.
    Opening,
    /// The lease runs.
    Held,
    /// Opened once; the lease has run out, asking goes on.
    Lapsed,
    /// Assigned, but given back: only a newer epoch can be held.
    Spent,
}
