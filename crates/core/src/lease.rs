//! "May it move": promises, floors, leases.
mod holder;
mod machine;
mod message;
mod mirror;
mod opening;
mod output;
mod settings;
mod voter;

pub use machine::{Life, Machine, Status};
pub use message::{Answer, Message, Refusal, Released, Renew, Standing, Verdict};
pub use mirror::{Assigned, Held, Mirror, Promise, Record, Start};
pub use output::{Event, Output, Phase, Why};
pub use settings::{
    ASKS_MAX, Faults, GROUPS_MAX, MARGIN_MIN, OPENING_HEARTBEAT_MIN, PATIENCE_LEASES, PROMISES_MAX,
    Settings, VOTERS_MAX,
};
pub use voter::Observation;

use crate::Moment;
use crate::names::{Epoch, GroupId, Incarnation, NodeId};

/// One Assign, as far as leases are concerned: who may hold a group from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment {
    /// The group.
    pub group: GroupId,
    /// The (term, index) of the log entry.
    pub epoch: Epoch,
    /// The node to which the group is assigned.
    pub holder: NodeId,
    /// The one life of that node which may use the epoch (rule 8).
    pub incarnation: Incarnation,
}

impl Assignment {
    /// Whether it is made out to this life of this node.
    pub fn is_of(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.holder == node && self.incarnation == incarnation
    }

    pub(crate) fn assigned(&self) -> Assigned {
        Assigned {
            epoch: self.epoch,
            node: self.holder,
            incarnation: self.incarnation,
        }
    }
}

/// The proven right to act for a group until a moment. Only this module makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    group: GroupId,
    epoch: Epoch,
    until: Moment,
}

impl Lease {
    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }
    /// The assignment it belongs to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
    /// The holder's own clock after which it may not act.
    pub fn until(&self) -> Moment {
        self.until
    }
}
