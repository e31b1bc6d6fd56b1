//! "May it move": promises, floors, leases. The one place that can allow a node to act
//! for a group; policy, operators and bugs elsewhere can ask it to stop, never to start.
//!
//! # The protocol
//!
//! A *voter* promises a holder not to help anybody else act for a group for a while. A
//! *holder* that has such promises from a majority may act until the first of them
//! could run out: that is its *lease*. Since two majorities share a voter, two holders
//! can only overlap if some voter helps both, and three rules keep each voter from that:
//!
//! - its **floor**. Every assignment is an entry of the agreed log and has an [`Epoch`].
//!   Once an [`Assignment`] is in a voter's log it renews no lower epoch, ever: the
//!   floor is kept apart from the log, and does not sink when the entry is truncated.
//! - the **wait**. A voter whose floor is at an epoch says how long its promises to
//!   lower ones still run. The new holder opens when its assignment is committed and a
//!   majority has said so and those times are over. What a voter has said stays true:
//!   its floor forbids new promises below.
//! - the **silence**. A voter that starts without memory answers nothing for the
//!   longest lease that it has ever allowed. With memory ([`Mirror`]) it goes on.
//!
//! Clocks differ: the holder counts its lease from *before* it asked and gives up a
//! margin of a fifth; the voter counts from when it answered; the next holder adds the
//! margin again. So two clocks may run apart by a fifth, and nobody compares times.
//!
//! A holder that gives the group back marks its epochs **spent**, shuts its guard, and
//! only then says so; late answers then prove nothing, and promises are free at once. An
//! epoch belongs to one [`Incarnation`] of one node, so a daemon that has forgotten what
//! it gave back cannot use it again.
//!
//! A holder whose lease has run out shuts its guard too, and asks **anew**: its Renew
//! says below which number no answer will ever prove anything to it any more, and it
//! forgets those asks and what was promised for them. A voter notes the newest number for
//! which a promise was made; if that is **void**, it takes the promise back, and tells
//! the next holder at once if there is one. So a holder that is heard but hears nobody
//! is promised nothing that somebody else would have to wait for, and it may still resume
//! if nobody is assigned. While it is without its lease the asks of the later half of
//! that time count, all earlier ones are void: soon enough for the next holder, and late
//! enough for an answer whose round trip takes several heartbeats.
//!
//! Why that is safe: what a voter takes back was made for numbers whose answers prove
//! nothing from before the moment at which it was told so, in this process (they are
//! forgotten) and in any later one (which counts only answers to its own asks), and what
//! they had proved was over and shut by then. A word that comes late, twice or out of
//! order names a number below every ask that counts, and a promise for one that counts
//! bears that number or a higher one.
//!
//! ```text
//!   holder                voters              next holder
//!     | Renew (e1, L) ----> | promise e1 until now + L
//!     | <---------- Answer  |
//!     | Extend to t+L-margin|
//!     |                     | <== Assign e2 appended: floor e2
//!     | Renew (e1) -------> |
//!     | <- BelowFloor, e2 - | --- Standing (e2, lower = rest of e1) --> |
//!     | shuts               | <------------------------- Renew (e2) --- |
//!     | Released (e1) ----> | --- Standing (e2, lower = 0) -----------> |
//!     |                     | --- Answer (promised, lower = 0) -------> | opens
//!
//!   holder that hears nobody
//!     | Renew (e1, 7) ----> | promise e1 until now + L, for 7
//!     |      (lost) Answer  |
//!     |                     | <== Assign e2 appended: floor e2
//!     |                     | --- Standing (e2, lower = rest of e1) --> |
//!     | lease over: shuts   |
//!     | Renew (e1, 8, void  |
//!     |        below 8) --> | --- Standing (e2, lower = 0) -----------> | opens
//!     | (lost) BelowFloor   |
//! ```
//!
//! # The holder's side of one group
//!
//! | from \ what     | assigned to me     | assigned to other | conditions met | lease over | asked to release | majority above | truncated |
//! | --------------- | ------------------ | ----------------- | -------------- | ---------- | ---------------- | -------------- | --------- |
//! | Idle            | Opening            | Idle              | -              | -          | Idle             | -              | Idle      |
//! | Opening         | Opening (newer)    | Idle, gives back  | Held           | -          | Spent            | Spent          | Idle      |
//! | Held            | Held, opening too  | Idle, closes      | Held, extends  | Lapsed, closes | Spent, closes | Spent, closes | Held      |
//! | Lapsed          | Lapsed, opening too| Idle, closes      | Held, resumes  | -          | Spent, closes    | Spent, closes  | Lapsed    |
//! | Spent           | Opening (newer)    | Idle              | -              | -          | Spent            | -              | Spent     |
//!
//! *Conditions met*: committed, clear of older promises, and promised by a majority;
//! once opened, the promises alone. A node that is assigned the group again in the same
//! life keeps its old epoch until the new one opens, so that it does not blink: its own
//! promises to lower epochs do not make it wait. *Majority above*: a majority has refused it twice
//! for a newer epoch of somebody else; one of its own (`BelowOwn`) is on its way to it and is waited
//! for, as long as the lease lasts. `tests.rs` walks the table.
//!
//! # How many of each
//!
//! One [`Machine`] per node; in it one voter and one holder per group; at most two
//! tenures of a holder (one opened, one opening), [`PROMISES_MAX`] promises of a voter.
//!
//! # What is shown, and where
//!
//! `crates/sim` runs this very machine: every state of small worlds, and far larger ones
//! at random, with clocks that differ, a bad network, truncations, releases, freezes and
//! restarts at any point; and with each rule taken away ([`Faults`]) it finds the two
//! holders.

mod holder;
mod machine;
mod message;
mod mirror;
mod opening;
mod output;
mod settings;
#[cfg(test)]
mod tests;
mod voter;

pub use machine::{Life, Machine, Status};
pub use message::{Answer, Message, Refusal, Released, Renew, Standing, Verdict};
pub use mirror::{Assigned, Held, Mirror, Promise, Record, Start};
pub use output::{Event, Output, Phase, Why};
pub use settings::{
    ASKS_MAX, Faults, GROUPS_MAX, MARGIN_MIN, OPENING_HEARTBEAT_MIN, OPENING_LEASES,
    PATIENCE_LEASES, PROMISES_MAX, Settings, VOTERS_MAX,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
