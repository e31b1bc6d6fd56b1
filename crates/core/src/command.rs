//! What the cluster agrees on: the entries of the log.

use core::time::Duration;

use crate::evidence::Evidence;
use crate::names::{Epoch, GroupId, Incarnation, NodeId};
use crate::topology::ServiceAddress;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A group gets a holder. Its epoch is the (term, index) of the entry.
    Assign(Assign),
    /// A node's daemon has started: the life that counts from now on.
    Started {
        /// The node.
        node: NodeId,
        /// Its new life.
        incarnation: Incarnation,
    },
    /// An operator lets a node back in whose identity was refused.
    Readmit {
        /// The node.
        node: NodeId,
    },
    /// A new generation of the log began: an operator declared the other voters stopped.
    Recovered(Recovered),
    /// The new holder tells how the move went. Not on the path of the takeover.
    Opened(Opened),
    /// An operator announces maintenance of a node: its groups leave it.
    Drain(Drain),
    /// The maintenance of a node is over.
    Undrain {
        /// The node.
        node: NodeId,
        /// The entry that began what ends, if its time is over: not a later one. None: an
        /// operator says so.
        began: Option<Epoch>,
    },
    /// A node that failed a group has been well for so long that its failures are forgotten.
    Forgive {
        /// The group.
        group: GroupId,
        /// The node.
        node: NodeId,
        /// The assignment that took the group away from it last; not a later one.
        failure: Epoch,
    },
}

/// An operator announces maintenance of a node (`evenkeel drain`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The node.
    pub node: NodeId,
    /// For how long; none: until an operator ends it.
    pub lasting: Option<Duration>,
    /// When, in milliseconds of the leader's calendar clock: for people only.
    pub wall_ms: u64,
}

/// A group gets a holder (DESIGN 3.1 rule 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assign {
    /// The group.
    pub group: GroupId,
    /// Its holder from this epoch on.
    pub holder: NodeId,
    /// The life of the holder's daemon that may act; no other may.
    pub incarnation: Incarnation,
    /// The addresses that it holds: they follow the entry, not the file (rule 10).
    pub addresses: Vec<ServiceAddress>,
    /// Why.
    pub evidence: Evidence,
}

/// What a new generation began with (`evenkeel recover`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The only voter.
    pub by: NodeId,
    /// The voters that were declared stopped.
    pub stopped: Vec<NodeId>,
    /// The generation.
    pub generation: u64,
    /// The last entry of the old generation that it has.
    pub last: Epoch,
    /// When, in milliseconds of its calendar clock: for people only.
    pub wall_ms: u64,
}

/// How the opening went, in times of the new holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The group.
    pub group: GroupId,
    /// The assignment.
    pub epoch: Epoch,
    /// Who opened.
    pub node: NodeId,
    /// The phases, in order.
    pub phases: Vec<Phase>,
}

/// One phase of a move, as one node measured it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// What happened, in a few words.
    pub what: String,
    /// How long after the assignment reached this node.
    pub after: Duration,
}
