//! The engine's state as numbers, for decisions that need facts and for people.

use core::time::Duration;

use evenkeel_core::names::{Epoch, NodeId};

/// How far another voter is, as the leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    /// The voter.
    pub node: NodeId,
    /// The last index that it has acknowledged as durable.
    pub matched: Option<u64>,
    /// How long ago the newest message that it has answered was sent.
    pub heard: Option<Duration>,
}

/// The engine's state at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The term.
    pub term: u64,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The last index in this node's log.
    pub last_index: Option<u64>,
    /// The last entry known to be decided.
    pub committed: Option<Epoch>,
    /// The last entry applied to the machine.
    pub applied: Option<Epoch>,
    /// The last entry in the stored snapshot.
    pub snapshot: Option<Epoch>,
    /// On a leader: how long ago a majority of voters was last proven to follow it. A leader that
    /// is cut off still believes it leads; this age is what tells.
    pub quorum_heard: Option<Duration>,
    /// On a leader: the other voters.
    pub followers: Vec<Follower>,
    /// The oath in this node's log; none if it never voted, or the log was lost.
    pub oath: Option<u64>,
    /// Whether the log is known not to have been lost since this node's oath.
    pub remembers: bool,
    /// Whether this node votes and may be elected.
    pub voting: bool,
    /// Whether the disk is too slow for this node to lead.
    pub disk_slow: bool,
    /// How long the last durable write took, from the engine's order to its completion.
    pub last_write: Option<Duration>,
    /// Whether the engine has stopped, and why.
    pub stopped: Option<String>,
}
