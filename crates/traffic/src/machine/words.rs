//! What goes into the machine and what comes out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use evenkeel_core::{Epoch, GroupId};
use evenkeel_host::address::{Address, Change, Link, Placement};
use evenkeel_host::frame::Mac;

use crate::campaign::{Forms, Round, Why};
use crate::resolve::Site;

/// What is wanted of a group on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Its addresses are not on this machine, and no connection to them is open.
    Absent,
    /// Its addresses are configured, but not announced: the guard is closed still.
    Closed,
    /// The guard is open for `epoch`: announce, now and for a minute.
    Open {
        /// The assignment; a newer one is announced anew.
        epoch: Epoch,
    },
    /// A planned move away has begun. Addresses, announcements and guard stay as they
    /// are; attempts to connect are copied ([`Report::Holding`]) so that they can be
    /// passed on, and requests in flight are waited for ([`Report::Drained`]).
    Draining {
        /// The assignment that ends.
        epoch: Epoch,
        /// How long requests in flight may take, from this word on.
        drain: Duration,
    },
}

/// What was put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// An address had been deleted.
    Address,
    /// The interface had been down, or gone and made again.
    Interface,
    /// The local route of an address had been deleted, or it had a twin on another
    /// interface.
    Route,
}

/// What was attempted when something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// To put addresses onto their interface.
    Place,
    /// To take them away.
    Remove,
    /// To end the sockets on them.
    EndSockets,
    /// To announce them.
    Announce,
    /// To hold attempts to connect, or to pass them on.
    Hold,
    /// To see what their connections are doing, or to end idle ones.
    Look,
    /// To hear of changes.
    Listen,
    /// To run in real time; it runs as an ordinary thread.
    Schedule,
}

/// What the mover observed. It writes no log itself, because a slow disk must not delay
/// a takeover: whoever receives these does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// All addresses of the group are on their interfaces.
    Placed {
        /// The group.
        group: GroupId,
        /// How many addresses it has.
        addresses: usize,
        /// How many of them were there already, from an earlier life.
        adopted: usize,
        /// Since it was wanted.
        took: Duration,
    },
    /// All addresses of the group were announced once; repeats follow.
    Announced {
        /// The group.
        group: GroupId,
        /// The assignment.
        epoch: Epoch,
        /// Why.
        why: Why,
        /// How many addresses were announced. Fewer than the group has if an interface
        /// is down or has no neighbours.
        addresses: usize,
        /// How many were dropped on the way out: the guard was not open, or the queue
        /// full.
        dropped: usize,
        /// Since the reason to announce.
        took: Duration,
    },
    /// Something had changed under the group and was put right.
    Repaired {
        /// The group.
        group: GroupId,
        /// What.
        what: Repair,
        /// How often something was put right for this group so far.
        count: u64,
        /// Since it was noticed.
        took: Duration,
    },
    /// The connections to the group's addresses were ended.
    Reset {
        /// The group.
        group: GroupId,
        /// How many.
        sockets: usize,
        /// Since it was wanted.
        took: Duration,
    },
    /// None of the group's addresses is on this machine any more.
    Gone {
        /// The group.
        group: GroupId,
        /// Since it was wanted.
        took: Duration,
    },
    /// Attempts to connect to the draining group are being copied: from now on the guard
    /// may drop them. If they cannot be copied there is [`Report::Failed`] instead, and
    /// draining goes on without holding anything.
    Holding {
        /// The group.
        group: GroupId,
        /// The assignment that ends.
        epoch: Epoch,
    },
    /// No request of the draining group is in flight any more, or its time is over. Told
    /// once for each `Draining`, whatever could be held.
    Drained {
        /// The group.
        group: GroupId,
        /// The assignment that ends.
        epoch: Epoch,
        /// Since draining was wanted.
        took: Duration,
        /// Connections that still have a request in flight.
        busy: usize,
        /// Attempts to connect that are held so far.
        held: usize,
    },
    /// The attempts that were held for a group that has left: what became of them. Told
    /// once, when nothing more is passed on.
    PassedOn {
        /// The group.
        group: GroupId,
        /// How many were sent to the new holder.
        attempts: usize,
        /// How many were not: nobody announced the group in time, there were too many, or
        /// the frame could not be sent.
        dropped: usize,
        /// From the group's leaving to the first one that was passed on, or to giving up.
        took: Duration,
    },
    /// A move was called off: the attempts that were held are this node's own again. Told
    /// once, where any could be held.
    PutBack {
        /// The group.
        group: GroupId,
        /// How many came in again.
        attempts: usize,
        /// How many did not: there were too many, or the kernel takes none back. They come
        /// again by themselves.
        dropped: usize,
    },
    /// Something does not succeed; it is tried again. Told when it starts and when the
    /// reason changes.
    Failed {
        /// The group; `None` if it concerns all.
        group: Option<GroupId>,
        /// What was attempted.
        what: Attempt,
        /// The reason, and the remedy where there is one.
        error: String,
    },
    /// Somebody else configured one of the group's addresses on this machine.
    Foreign {
        /// The group.
        group: GroupId,
        /// The address.
        address: IpAddr,
        /// The interface.
        device: String,
    },
    /// Reports that nobody fetched were dropped.
    Missed {
        /// How many.
        reports: u64,
    },
}

/// What a group looks like now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// What is wanted; `None` if nobody said yet.
    pub want: Option<Want>,
    /// How many addresses it has.
    pub addresses: usize,
    /// How many of them are on their interfaces.
    pub placed: usize,
    /// How often something was put right.
    pub repairs: u64,
}

/// All that the kernel has of what is looked at here.
#[derive(Clone, Debug, Default)]
pub struct Everything {
    /// The links.
    pub links: Vec<Link>,
    /// The addresses, whoever configured them.
    pub addresses: Vec<Address>,
    /// The stopgaps of IPv4 addresses.
    pub stopgaps: Vec<Placement>,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The group consists of these addresses from now on.
    Assign(GroupId, Vec<Site>),
    /// This is wanted of the group from now on.
    Want(GroupId, Want),
    /// End the connections to the group's addresses now, whatever is wanted of it.
    Reset(GroupId),
    /// Somebody saw a reason to announce the group anew.
    Doubt(GroupId),
    /// The kernel told of a change.
    Change(Change),
    /// Everything that is there, because changes were missed.
    Resync(Everything),
    /// What the last [`Effect::Add`] of the group names was tried, or is not going to be.
    Tried(GroupId),
    /// The conversation with the kernel broke off: effects may not have been carried out, and what
    /// was in turn is not going to be.
    Broken,
    /// The kernel refused an effect.
    Refused(GroupId, Attempt, String),
    /// An `EndSockets` with this ticket ended so many sockets, or failed.
    SocketsEnded(u64, Result<usize, String>),
    /// What the last [`Effect::Clear`] of the group names was tried.
    Cleared(Option<GroupId>),
    /// So much became of the last [`Volley`] of the group.
    Sent(GroupId, Round),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Configure these addresses, in some turns, between which changes are heard and what is
    /// placed is announced. Ask [`Machine::places`] before each, and say [`Event::Tried`] at the
    /// end. A new [`Event::Assign`] ends it.
    ///
    /// [`Machine::places`]: super::Machine::places
    Add(GroupId, Vec<Placement>),
    /// Delete these now: the group has them on a wrong interface.
    Remove(GroupId, Vec<Placement>),
    /// Delete these in some turns, after everything that is to be placed: nobody waits for it. Of
    /// no group if they left theirs. Ask [`Machine::clears`] of each, and say [`Event::Cleared`] at
    /// the end.
    ///
    /// [`Machine::clears`]: super::Machine::clears
    Clear(Option<GroupId>, Vec<Placement>),
    /// Take their stopgaps away.
    RemoveStopgaps(Vec<Placement>),
    /// Put back their local routes.
    RestoreRoutes(GroupId, Vec<Placement>),
    /// Renew their lifetimes.
    Refresh(Vec<Placement>),
    /// End the sockets on these addresses and say so with the ticket.
    EndSockets(u64, BTreeSet<IpAddr>),
    /// Tell.
    Report(Report),
}

/// Addresses to announce now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volley {
    /// The group.
    pub group: GroupId,
    /// How.
    pub forms: Forms,
    /// Where, from which hardware address, what.
    pub shots: Vec<(Placement, Mac)>,
}
