//! Letting the clients of a group go before a planned move, and passing on those that
//! come meanwhile. Pure: frames and what connections do come in, frames and reports go
//! out; `io::courier` does the rest.
//!
//! | stage   | what happens                                              | until                                  |
//! |---------|-----------------------------------------------------------|----------------------------------------|
//! | Easing  | everything is served; requests already in flight finish   | they have, or [`HOLD_TIME`] is left    |
//! | Asking  | attempts to connect are copied; the guard is asked to drop them | it does, or cannot               |
//! | Holding | copies are kept; what is in flight finishes               | nothing is, or the time is over        |
//! | Drained | copies are kept                                           | the group is assigned away             |
//! | Leaving | copies go to whoever announces the address                | [`PASS_ON_TIME`] after the first, or [`GIVE_UP`] |
//!
//! Clients are held only for the last stretch: one that waits for a second counts as
//! failed, and a download that takes a minute must not cost all others that much.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use evenkeel_core::{Epoch, GroupId, Moment};
use evenkeel_host::attempt::{Overheard, overheard};
use evenkeel_host::frame::Mac;
use evenkeel_host::sockets::{Flight, Stage as Connection};

use crate::machine::Report;

/// The longest that attempts are held while requests are in flight. With the move itself
/// it stays below the second after which a request counts as failed.
pub const HOLD_TIME: Duration = Duration::from_millis(700);
/// How long the guard may take to hold attempts before it goes without.
pub const GUARD_TIME: Duration = Duration::from_millis(300);
/// How often connections are looked at while attempts are held: what a request takes is
/// found out to within so much.
pub const LOOK_EVERY: Duration = Duration::from_millis(4);
/// How often before that.
pub const EASE_EVERY: Duration = Duration::from_millis(20);
/// An answered connection that has been quiet for so long waits for nothing: two ticks of
/// the slowest kernel clock, which all of this is measured by.
pub const SETTLED: Duration = Duration::from_millis(20);
/// A client that has connected and asks nothing for so long is no request in flight.
pub const ASK_TIME: Duration = Duration::from_millis(300);
/// How long attempts that come here still are passed on after the first one was: until
/// the last neighbour has heard of the move.
pub const PASS_ON_TIME: Duration = Duration::from_secs(3);
/// How long the next holder may take to announce the group: by then clients have tried
/// again by themselves.
pub const GIVE_UP: Duration = Duration::from_secs(4);
/// Attempts kept per group: several hundred milliseconds of ten thousand a second. Of
/// more, the oldest are dropped, and come again by themselves after a second.
pub const HELD_MAX: usize = 4_096;

/// Both ends of a connection: the client's, ours.
type Ends = (SocketAddr, SocketAddr);

/// An attempt that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    at: Moment,
    ends: Ends,
    device: u32,
    frame: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Easing,
    Asking {
        since: Moment,
    },
    Holding {
        since: Moment,
    },
    Drained,
    Leaving {
        since: Moment,
        first: Option<Moment>,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell.
    Report(Report),
    /// Send this copied frame on, out of the device that it came in by.
    PassOn {
        /// The group.
        group: GroupId,
        /// The device.
        device: u32,
        /// The frame as it came in.
        frame: Vec<u8>,
        /// To whom.
        to: Mac,
    },
}

/// What is wanted of a group, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Let the clients go.
    Draining {
        /// The assignment that ends.
        epoch: Epoch,
        /// How long requests in flight may take.
        drain: Duration,
        /// The group's addresses.
        addresses: BTreeSet<IpAddr>,
    },
    /// It is assigned away.
    Absent,
    /// It stays.
    Present,
}

#[derive(Clone, Debug)]
struct Drain {
    epoch: Epoch,
    since: Moment,
    drain: Duration,
    addresses: BTreeSet<IpAddr>,
    stage: Stage,
    /// Since when the guard drops attempts, at the earliest and at the latest; until the
    /// connections were looked at after that.
    transaction: Option<(Moment, Moment)>,
    /// The guard was asked to drop attempts.
    told: bool,
    /// The guard does not drop attempts: they are this node's own until it leaves.
    unguarded: bool,
    /// Requests that were in flight when it began, once they were looked at.
    early: Option<BTreeSet<Ends>>,
    /// When clients that have asked nothing yet were seen first.
    silent: BTreeMap<Ends, Moment>,
    look_at: Moment,
    held: VecDeque<Held>,
    sent: usize,
    dropped: usize,
    /// Who has announced which address, and on which device it was heard.
    homes: BTreeMap<IpAddr, (u32, Mac)>,
}

/// All groups whose clients are let go.
#[derive(Clone, Debug, Default)]
pub struct Drains {
    groups: BTreeMap<GroupId, Drain>,
    outputs: Vec<Output>,
}

/// Whether a request is in flight on a connection. `patient`: it has only just been seen.
pub fn is_busy(flight: &Flight, patient: bool) -> bool {
    let settled = |ago: u32| Duration::from_millis(ago.into()) >= SETTLED;
    let answered_ago = flight.sent_ago.min(flight.acknowledged_ago);
    match flight.stage {
        Connection::Opening => patient,
        // Its end counts as one byte.
        Connection::Closing => flight.unsent > 1,
        Connection::Open if flight.unread > 0 || flight.unsent > 0 => true,
        Connection::Open => match (flight.received, flight.sent) {
            (Some(0), Some(0)) => patient,
            (Some(0), _) => !settled(answered_ago),
            (Some(_), Some(0)) => true,
            // A question that is younger than the last answer; in the same tick, either.
            _ => flight.received_ago < flight.sent_ago || !settled(answered_ago),
        },
    }
}

impl Drain {
    fn new(now: Moment, epoch: Epoch, drain: Duration, addresses: BTreeSet<IpAddr>) -> Self {
        Self {
            epoch,
            since: now,
            drain,
            addresses,
            stage: Stage::Easing,
            transaction: None,
            told: false,
            unguarded: false,
            early: None,
            silent: BTreeMap::new(),
            look_at: now,
            held: VecDeque::new(),
            sent: 0,
            dropped: 0,
            homes: BTreeMap::new(),
        }
    }

    fn looks(&self) -> bool {
        matches!(self.stage, Stage::Easing | Stage::Holding { .. })
    }

    fn copies(&self) -> bool {
        !matches!(self.stage, Stage::Easing)
    }

    /// When a stage ends by itself.
    fn deadline(&self) -> Option<Moment> {
        let end = self.since + self.drain;
        match self.stage {
            Stage::Easing => Some(self.since + self.drain.saturating_sub(HOLD_TIME)),
            Stage::Asking { since } => Some(since + GUARD_TIME),
            Stage::Holding { since } => Some(end.min(since + HOLD_TIME).max(since)),
            Stage::Drained => None,
            Stage::Leaving {
                first: Some(at), ..
            } => Some(at + PASS_ON_TIME),
            Stage::Leaving { since, .. } => Some(since + GIVE_UP),
        }
    }

    /// The connections of the group with a request in flight.
    fn busy(&mut self, now: Moment, flights: &[Flight]) -> BTreeSet<Ends> {
        let mut silent = BTreeMap::new();
        let mut busy = BTreeSet::new();
        let own = |flight: &&Flight| self.addresses.contains(&flight.local.ip());
        for flight in flights.iter().filter(own) {
            let ends = (flight.remote, flight.local);
            let first = *self.silent.get(&ends).unwrap_or(&now);
            if flight.received.unwrap_or(0) == 0 {
                silent.insert(ends, first);
            }
            if is_busy(flight, now.since(first) < ASK_TIME) {
                busy.insert(ends);
            }
        }
        self.silent = silent;
        busy
    }

    fn keep(&mut self, held: Held) {
        if self.unguarded && !matches!(self.stage, Stage::Leaving { .. }) {
            return;
        }
        // Tried again by the client: the newer one counts.
        self.held.retain(|known| known.ends != held.ends);
        if self.held.len() >= HELD_MAX {
            self.held.pop_front();
            self.dropped += 1;
        }
        self.held.push_back(held);
    }

    /// Forgets copies of what this node has accepted itself: what came before the guard
    /// dropped it, and what came while it began to and has become a connection.
    fn forget_accepted(&mut self, flights: &[Flight]) {
        let Some((began, done)) = self.transaction.take() else {
            return;
        };
        let ends: BTreeSet<Ends> = flights.iter().map(|one| (one.remote, one.local)).collect();
        let ours = |held: &Held| held.at < began || (held.at <= done && ends.contains(&held.ends));
        self.held.retain(|held| !ours(held));
    }
}

impl Drains {
    /// Says what is wanted of a group from now on.
    pub fn want(&mut self, now: Moment, group: GroupId, wanted: Wanted) {
        match wanted {
            Wanted::Draining {
                epoch,
                drain,
                addresses,
            } => {
                let known = self.groups.get(&group);
                let same = |known: &Drain| {
                    known.epoch == epoch && !matches!(known.stage, Stage::Leaving { .. })
                };
                if !known.is_some_and(same) {
                    self.end(now, group);
                    let drain = Drain::new(now, epoch, drain, addresses);
                    self.groups.insert(group, drain);
                }
            }
            Wanted::Absent => self.leave(now, group),
            Wanted::Present => self.end(now, group),
        }
    }

    fn leave(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        match group.stage {
            Stage::Leaving { .. } => {}
            // Nothing was copied yet.
            Stage::Easing => {
                self.groups.remove(&id);
            }
            Stage::Asking { .. } | Stage::Holding { .. } | Stage::Drained => {
                group.forget_accepted(&[]);
                group.stage = Stage::Leaving {
                    since: now,
                    first: None,
                };
                self.pass_on(now, id);
            }
        }
    }

    /// The guard drops attempts since some moment of this transaction; `None` if it
    /// cannot, and then nothing is held.
    pub fn held(&mut self, now: Moment, id: GroupId, transaction: Option<(Moment, Moment)>) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        match (group.stage, transaction) {
            (Stage::Asking { .. }, _) => {}
            // Later than it was waited for: what comes from now on is dropped all the same.
            (Stage::Holding { .. } | Stage::Drained, Some(_)) if group.unguarded => {
                (group.transaction, group.unguarded) = (transaction, false);
                return;
            }
            _ => return,
        }
        group.stage = Stage::Holding { since: now };
        group.look_at = now;
        group.transaction = transaction;
        group.unguarded = transaction.is_none();
        if group.unguarded {
            group.held.clear();
        }
    }

    /// Attempts cannot be copied: draining goes on without.
    pub fn cannot_copy(&mut self, now: Moment, error: &str) {
        let asking = |(id, group): (&GroupId, &Drain)| {
            matches!(group.stage, Stage::Asking { .. }).then_some(*id)
        };
        let asking: Vec<GroupId> = self.groups.iter().filter_map(asking).collect();
        for group in asking {
            self.outputs.push(Output::Report(Report::Failed {
                group: Some(group),
                what: crate::machine::Attempt::Hold,
                error: error.to_owned(),
            }));
            self.held(now, group, None);
        }
    }

    /// Attempts can be copied from now on: the guard is asked to drop them.
    pub fn copying(&mut self) {
        for (id, group) in &mut self.groups {
            if matches!(group.stage, Stage::Asking { .. }) && !group.told {
                group.told = true;
                self.outputs.push(Output::Report(Report::Holding {
                    group: *id,
                    epoch: group.epoch,
                }));
            }
        }
    }

    /// The addresses whose connections are to be looked at now.
    pub fn to_look_at(&self, now: Moment) -> BTreeSet<IpAddr> {
        let due = |group: &&Drain| group.looks() && group.look_at <= now;
        let groups = self.groups.values().filter(due);
        groups.flat_map(|group| group.addresses.clone()).collect()
    }

    /// What the connections of those addresses are doing. True if some group wants its
    /// attempts copied that did not before.
    pub fn looked(&mut self, now: Moment, flights: &[Flight]) -> bool {
        let due = |group: &Drain| group.looks() && group.look_at <= now;
        let groups = self.groups.iter().filter(|(_, group)| due(group));
        let groups: Vec<GroupId> = groups.map(|(id, _)| *id).collect();
        let mut copies = false;
        for id in groups {
            let Some(group) = self.groups.get_mut(&id) else {
                continue;
            };
            let busy = group.busy(now, flights);
            let late = group.deadline().is_some_and(|at| at <= now);
            if group.stage == Stage::Easing {
                let early = group.early.get_or_insert_with(|| busy.clone());
                early.retain(|ends| busy.contains(ends));
                group.look_at = now + EASE_EVERY;
                if early.is_empty() || late {
                    group.stage = Stage::Asking { since: now };
                    copies = true;
                }
                continue;
            }
            group.look_at = now + LOOK_EVERY;
            group.forget_accepted(flights);
            if busy.is_empty() || late {
                group.stage = Stage::Drained;
                self.outputs.push(Output::Report(Report::Drained {
                    group: id,
                    epoch: group.epoch,
                    took: now.since(group.since),
                    busy: busy.len(),
                    held: group.held.len(),
                }));
            }
        }
        copies
    }

    /// A frame came in by a device.
    pub fn frame(&mut self, now: Moment, device: u32, frame: &[u8]) {
        let (ip, heard) = match overheard(frame) {
            Some(heard @ Overheard::Attempt { to, .. }) => (to.ip(), heard),
            Some(heard @ Overheard::Announcement { ip, .. }) => (ip, heard),
            None => return,
        };
        let owns =
            |(_, group): &(&GroupId, &mut Drain)| group.copies() && group.addresses.contains(&ip);
        let Some((id, group)) = self.groups.iter_mut().find(owns) else {
            return;
        };
        let id = *id;
        match heard {
            Overheard::Attempt { from, to } => group.keep(Held {
                at: now,
                ends: (from, to),
                device,
                frame: frame.to_vec(),
            }),
            // Whoever says so while this node still serves is not the next holder. One
            // machine alone is: no group address, and not nobody.
            Overheard::Announcement { ip, mac } => {
                let leaves = matches!(group.stage, Stage::Leaving { .. });
                if leaves && mac[0] & 1 == 0 && mac != [0; 6] {
                    group.homes.insert(ip, (device, mac));
                }
            }
        }
        self.pass_on(now, id);
    }

    /// Sends on what can be sent on.
    fn pass_on(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let Stage::Leaving { since, first } = group.stage else {
            return;
        };
        let mut passed = false;
        let waiting = std::mem::take(&mut group.held);
        for held in waiting {
            match group.homes.get(&held.ends.1.ip()) {
                Some((device, mac)) if *device == held.device => {
                    passed = true;
                    group.sent += 1;
                    self.outputs.push(Output::PassOn {
                        group: id,
                        device: held.device,
                        frame: held.frame,
                        to: *mac,
                    });
                }
                Some(_) | None => group.held.push_back(held),
            }
        }
        if passed && first.is_none() {
            let first = Some(now);
            group.stage = Stage::Leaving { since, first };
        }
    }

    /// A frame could not be sent on.
    pub fn not_passed(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.sent = group.sent.saturating_sub(1);
            group.dropped += 1;
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) {
        let late = |group: &Drain| group.deadline().is_some_and(|at| at <= now);
        let groups = self.groups.iter().filter(|(_, group)| late(group));
        let groups: Vec<GroupId> = groups.map(|(id, _)| *id).collect();
        for id in groups {
            let stage = self.groups.get(&id).map(|group| group.stage);
            match stage {
                Some(Stage::Asking { .. }) => self.held(now, id, None),
                Some(Stage::Leaving { .. }) => self.end(now, id),
                // Told when connections are looked at next.
                Some(Stage::Easing | Stage::Holding { .. } | Stage::Drained) | None => {}
            }
        }
    }

    fn end(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.remove(&id) else {
            return;
        };
        if !group.copies() {
            return;
        }
        let took = match group.stage {
            Stage::Leaving { since, first } => first.unwrap_or(now).since(since),
            _ => Duration::ZERO,
        };
        self.outputs.push(Output::Report(Report::PassedOn {
            group: id,
            attempts: group.sent,
            dropped: group.dropped + group.held.len(),
            took,
        }));
    }

    /// Whether frames are to be copied.
    pub fn copies(&self) -> bool {
        self.groups.values().any(Drain::copies)
    }

    /// When to look or to tick next.
    pub fn next(&self) -> Option<Moment> {
        let next = |group: &Drain| {
            let look = group.looks().then_some(group.look_at);
            look.into_iter().chain(group.deadline()).min()
        };
        self.groups.values().filter_map(next).min()
    }

    /// What is to be done, in order.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }
}

#[cfg(test)]
mod tests;
