//! What lease machines say to one another. Plain words: the wire room gives them a
//! form, the transport says truthfully who sent them.

use core::time::Duration;

use crate::names::{Epoch, GroupId, Incarnation};

/// One message between two lease machines. Each fits into a datagram; losing,
/// doubling, delaying or reordering any of them costs time, never safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// Holder to voter, every heartbeat.
    Renew(Renew),
    /// Voter to holder, for each Renew that it may answer.
    Answer(Answer),
    /// Voter to the assigned holder, unasked, when its floor rises or promises are
    /// given back or void: what an [`Answer`] would say at the next Renew, earlier.
    Standing(Standing),
    /// Holder that was, to all voters and to the next holder: it has closed.
    Released(Released),
}

impl Message {
    /// The group it speaks of.
    pub const fn group(&self) -> GroupId {
        match self {
            Self::Renew(renew) => renew.group,
            Self::Answer(answer) => answer.group,
            Self::Standing(standing) => standing.group,
            Self::Released(released) => released.group,
        }
    }
}

/// "Promise not to help anybody else act for this group for so long" (rule 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Renew {
    /// The group.
    pub group: GroupId,
    /// The assignment under which the sender acts, or will.
    pub epoch: Epoch,
    /// The life of the sender that the assignment names (rule 8).
    pub incarnation: Incarnation,
    /// How long the promise is to last, from its making.
    pub length: Duration,
    /// Distinguishes this Renew from every other of the sender's process.
    pub seq: u64,
    /// Digest of who votes, as the sender believes.
    pub membership: u64,
    /// The sender's proven deadline in nanoseconds of its own clock. Means nothing to
    /// the voter except that it advances, or does not (rule 7).
    pub proven: u64,
    /// From a holder whose lease has run out, otherwise zero: no answer to a Renew of
    /// this life, of this epoch or a lower one, with a [`Renew::seq`] below this number
    /// will ever prove anything, and what such answers proved is over and shut.
    pub void: u64,
}

/// A voter's answer to one [`Renew`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Answer {
    /// The group.
    pub group: GroupId,
    /// The epoch of the Renew.
    pub epoch: Epoch,
    /// The number of the Renew.
    pub seq: u64,
    /// The voter's floor for this group.
    pub floor: Epoch,
    /// Promised, or why not.
    pub verdict: Verdict,
    /// How long promises to lower epochs still run, those to this very incarnation
    /// left out. Said only if the floor equals the epoch: above it, this voter could
    /// still make such promises; below it, it makes none to this one.
    pub lower: Option<Duration>,
}

/// What a voter made of a [`Renew`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// A promise of exactly the length asked for, from the moment of its making.
    Promised,
    /// No promise.
    Refused(Refusal),
}

/// Why a voter makes no promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// A newer assignment has reached this voter's log; the answer names it.
    BelowFloor,
    /// The same, and it is to this very life: it is on its way to the holder's log as well (an
    /// address more), and nothing is to be closed for it.
    BelowOwn,
    /// This epoch, or a later one, was given back by its holder.
    Released,
    /// The epoch belongs to another node, or to another life of this one.
    OtherHolder,
    /// The two have different ideas of who votes.
    OtherMembership,
    /// Longer than this voter's settings allow (or no time at all).
    TooLong,
    /// No room for another promise or group: see [`super::PROMISES_MAX`] and
    /// [`super::GROUPS_MAX`].
    Full,
    /// The node's identity is in doubt: it waits for an operator's `readmit`.
    Excluded,
}

/// What a voter's floor forbids, and how long older promises still run (rule 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Standing {
    /// The group.
    pub group: GroupId,
    /// The voter's floor.
    pub epoch: Epoch,
    /// Digest of who votes, as the voter believes.
    pub membership: u64,
    /// How long promises to lower epochs still run.
    pub lower: Duration,
}

/// "I have closed and will not act under this epoch or a lower one again" (rule 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Released {
    /// The group.
    pub group: GroupId,
    /// The newest epoch given back.
    pub epoch: Epoch,
    /// The life to which it was assigned.
    pub incarnation: Incarnation,
}
