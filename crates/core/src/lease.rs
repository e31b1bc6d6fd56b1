//! "May it move": promises, floors, leases.

use crate::Moment;
use crate::names::{Epoch, GroupId};

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
