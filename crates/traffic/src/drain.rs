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
//! | Returning | the move was called off: copies are kept                | the guard drops nothing more, or [`GUARD_TIME`]; then they are put back |
//!
//! Clients are held only for the last stretch: one that waits for a second counts as
//! failed, and a download that takes a minute must not cost all others that much.
//!
//! In that stretch a connection on which nobody waits for anything is ended as soon as it
//! is seen. It would be at the end anyway; but of a client's pool of connections some are
//! always busy, and never all idle at one look. So the set only shrinks, and the client
//! finds closed what it was about to use next, which it knows how to do without: servers
//! end idle connections all the time. It is a reset and not a polite end, because only the
//! program that has the socket could say that; to a client that does not wait it is the same.

use std::collections::{BTreeMap, BTreeSet};
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
/// When question and answer came in one tick, nobody knows which was the last. A connection
/// that is used as fast as it answers looks like that while an answer is awaited, so for so
/// long it counts as a question.
pub const UNSURE: Duration = Duration::from_millis(300);
/// A client that has connected and asks nothing for so long is no request in flight.
pub const ASK_TIME: Duration = Duration::from_millis(300);
/// How long attempts that come here still are passed on after the first one was: until
/// the last neighbour has heard of the move.
pub const PASS_ON_TIME: Duration = Duration::from_secs(3);
/// How long the next holder may take to announce the group: by then clients have tried
/// again by themselves.
pub const GIVE_UP: Duration = Duration::from_secs(4);
/// Idle connections ended at one look, so that frames are not kept waiting for longer than
/// it takes to end so many; the rest has its turn at the next look, or is reset in the end.
pub const ENDED_MAX: usize = 256;
/// A connection that was busy when it began and on which nothing at all has happened since,
/// for so long, is not waited for while attempts are held: the client spoke last and expects
/// no answer (a pong, a window update, a statement closed), or it has waited for so long
/// that its request counts as failed.
pub const STALE: Duration = Duration::from_secs(1);
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
    Returning {
        since: Moment,
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
    /// The group stays: let these copied frames come in again, each by its device, and tell
    /// what became of them.
    PutBack {
        /// The group.
        group: GroupId,
        /// The devices, and the frames as they came in.
        frames: Vec<(u32, Vec<u8>)>,
        /// Of more, so many were dropped.
        dropped: usize,
    },
    /// End these connections: client's end, ours.
    End(Vec<Ends>),
}

/// What of a connection changes whenever anything happens on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trace {
    stage: Connection,
    unread: u32,
    unsent: u32,
    received: Option<u32>,
    sent: Option<u32>,
}

impl Trace {
    /// `None` where the kernel does not count: then nobody knows.
    fn of(flight: &Flight) -> Option<Self> {
        let counted = flight.received.is_some() && flight.sent.is_some();
        counted.then_some(Self {
            stage: flight.stage,
            unread: flight.unread,
            unsent: flight.unsent,
            received: flight.received,
            sent: flight.sent,
        })
    }
}

/// A request that was in flight when draining began.
#[derive(Clone, Copy, Debug)]
struct Early {
    first: Option<Trace>,
    /// Something has happened since.
    changed: bool,
}

impl Early {
    /// Takes in what is seen now; true if it is that request no more: something was
    /// answered, and something was asked.
    fn is_over(&mut self, now: Option<Trace>) -> bool {
        self.changed |= now.is_none() || now != self.first;
        let (Some(first), Some(now)) = (self.first, now) else {
            return false;
        };
        now.received > first.received && now.sent > first.sent
    }
}

/// The copies of one group, found by their connection and by their age.
#[derive(Clone, Debug, Default)]
struct Copies {
    /// By number; the oldest has the lowest.
    by_age: BTreeMap<u64, Held>,
    by_ends: BTreeMap<Ends, u64>,
    next: u64,
}

impl Copies {
    fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Keeps one; the newer of two of one connection counts. True if the oldest had to go.
    fn keep(&mut self, held: Held) -> bool {
        if let Some(known) = self.by_ends.insert(held.ends, self.next) {
            self.by_age.remove(&known);
        }
        self.by_age.insert(self.next, held);
        self.next += 1;
        if self.by_age.len() <= HELD_MAX {
            return false;
        }
        if let Some((_, oldest)) = self.by_age.pop_first() {
            self.by_ends.remove(&oldest.ends);
        }
        true
    }

    fn retain(&mut self, keep: impl Fn(&Held) -> bool) {
        let by_ends = &mut self.by_ends;
        self.by_age.retain(|_, held| {
            let keep = keep(held);
            if !keep {
                by_ends.remove(&held.ends);
            }
            keep
        });
    }

    fn clear(&mut self) {
        (self.by_age, self.by_ends) = Default::default();
    }

    /// All of them, the oldest first.
    fn take(&mut self) -> impl Iterator<Item = Held> {
        self.by_ends.clear();
        std::mem::take(&mut self.by_age).into_values()
    }
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
    early: Option<BTreeMap<Ends, Early>>,
    /// Of those, what is not waited for as long as it stays so.
    stale: BTreeMap<Ends, Trace>,
    /// How many were busy at the last look.
    busy: usize,
    /// The guard drops nothing more.
    freed: bool,
    /// When clients that have asked nothing yet were seen first.
    silent: BTreeMap<Ends, Moment>,
    look_at: Moment,
    held: Copies,
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
    let since = |ago: u32| Duration::from_millis(ago.into());
    let settled = |ago: u32| since(ago) >= SETTLED;
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
            // A question that is younger than the last answer.
            _ if flight.received_ago < flight.sent_ago => true,
            _ if flight.received_ago == flight.sent_ago => since(flight.sent_ago) < UNSURE,
            _ => !settled(answered_ago),
        },
    }
}

fn ends(flight: &Flight) -> Ends {
    (flight.remote, flight.local)
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
            stale: BTreeMap::new(),
            busy: 0,
            freed: false,
            silent: BTreeMap::new(),
            look_at: now,
            held: Copies::default(),
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
            Stage::Returning { since } => Some(since + GUARD_TIME),
        }
    }

    /// The connections of the group with a request in flight, and those without, the
    /// ones that were used last first.
    fn sort<'a>(&mut self, now: Moment, flights: &'a [Flight]) -> (Vec<&'a Flight>, Vec<Ends>) {
        let mut silent = BTreeMap::new();
        let mut busy = Vec::new();
        let mut idle = Vec::new();
        let own = |flight: &&Flight| self.addresses.contains(&flight.local.ip());
        for flight in flights.iter().filter(own) {
            let ends = ends(flight);
            let first = *self.silent.get(&ends).unwrap_or(&now);
            if flight.received.unwrap_or(0) == 0 {
                silent.insert(ends, first);
            }
            if is_busy(flight, now.since(first) < ASK_TIME) {
                busy.push(flight);
            } else if flight.stage == Connection::Open {
                idle.push((flight.received_ago, ends));
            }
        }
        self.silent = silent;
        idle.sort_unstable();
        (busy, idle.into_iter().map(|(_, ends)| ends).collect())
    }

    /// Notes what has happened on connections that were busy when it began; true if none of
    /// them is any more. `whole`: all connections were seen.
    fn ease(&mut self, busy: &[&Flight], whole: bool) -> bool {
        let busy = busy.iter().map(|flight| (ends(flight), Trace::of(flight)));
        let busy: BTreeMap<Ends, Option<Trace>> = busy.collect();
        let Some(early) = &mut self.early else {
            let none = busy.is_empty();
            let new = |first| Early {
                first,
                changed: false,
            };
            let early = busy.into_iter().map(|(ends, trace)| (ends, new(trace)));
            self.early = whole.then(|| early.collect());
            return none && whole;
        };
        early.retain(|ends, one| match busy.get(ends) {
            Some(now) => !one.is_over(*now),
            None => !whole,
        });
        early.is_empty()
    }

    /// Easing is over: what nothing has happened on is not waited for.
    fn ask(&mut self, now: Moment) {
        self.stage = Stage::Asking { since: now };
        let early = self.early.take().unwrap_or_default();
        if now.since(self.since) >= STALE {
            let still = early.into_iter().filter(|(_, one)| !one.changed);
            let still = still.filter_map(|(ends, one)| Some((ends, one.first?)));
            self.stale = still.collect();
        }
    }

    /// Whether a busy connection is waited for.
    fn waits_for(&self, flight: &Flight) -> bool {
        let known = self.stale.get(&ends(flight));
        known.is_none_or(|known| Trace::of(flight) != Some(*known))
    }

    fn keep(&mut self, held: Held) {
        if self.unguarded && !matches!(self.stage, Stage::Leaving { .. }) {
            return;
        }
        self.dropped += usize::from(self.held.keep(held));
    }

    /// Forgets copies of what this node has accepted itself: what came before the guard
    /// dropped it, and what came while it began to and has become a connection.
    fn forget_accepted(&mut self, flights: &[Flight]) {
        let Some((began, done)) = self.transaction.take() else {
            return;
        };
        let ends: BTreeSet<Ends> = flights.iter().map(ends).collect();
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
                    let over =
                        matches!(known.stage, Stage::Leaving { .. } | Stage::Returning { .. });
                    known.epoch == epoch && !over
                };
                if !known.is_some_and(same) {
                    self.end(now, group);
                    let drain = Drain::new(now, epoch, drain, addresses);
                    self.groups.insert(group, drain);
                }
            }
            Wanted::Absent => self.leave(now, group),
            Wanted::Present => self.call_off(now, group),
        }
    }

    /// The group stays: whoever waits is to be served here after all, once the guard lets
    /// them.
    fn call_off(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let held = match group.stage {
            Stage::Easing | Stage::Leaving { .. } => false,
            Stage::Returning { .. } => return,
            // The guard has been asked, and may not have answered yet.
            Stage::Asking { .. } => group.told,
            Stage::Holding { .. } | Stage::Drained => !group.unguarded,
        };
        if held && !group.freed {
            // What it has let in before is none of those that wait.
            group.forget_accepted(&[]);
            group.stage = Stage::Returning { since: now };
        } else {
            self.end(now, id);
        }
    }

    /// The guard does not drop attempts any more.
    pub fn freed(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        match group.stage {
            Stage::Returning { .. } => self.end(now, id),
            // The word that it stays comes in a moment.
            Stage::Asking { .. } | Stage::Holding { .. } | Stage::Drained => group.freed = true,
            Stage::Easing | Stage::Leaving { .. } => {}
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
            Stage::Asking { .. }
            | Stage::Holding { .. }
            | Stage::Drained
            | Stage::Returning { .. } => {
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
            (Stage::Returning { .. }, Some(_)) => {
                group.transaction = transaction;
                group.forget_accepted(&[]);
                return;
            }
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

    /// What the connections of those addresses are doing; `whole`: these are all of them.
    /// What could not be seen counts as busy: nobody knows. True if some group wants its
    /// attempts copied that did not before.
    pub fn looked(&mut self, now: Moment, flights: &[Flight], whole: bool) -> bool {
        let due = |group: &Drain| group.looks() && group.look_at <= now;
        let groups = self.groups.iter().filter(|(_, group)| due(group));
        let groups: Vec<GroupId> = groups.map(|(id, _)| *id).collect();
        let mut copies = false;
        for id in groups {
            let Some(group) = self.groups.get_mut(&id) else {
                continue;
            };
            let (busy, mut idle) = group.sort(now, flights);
            let late = group.deadline().is_some_and(|at| at <= now);
            if group.stage == Stage::Easing {
                group.look_at = now + EASE_EVERY;
                if group.ease(&busy, whole) || late {
                    group.ask(now);
                    copies = true;
                }
                continue;
            }
            group.look_at = now + LOOK_EVERY;
            if whole {
                group.forget_accepted(flights);
                group.busy = busy.iter().filter(|one| group.waits_for(one)).count();
            }
            let unseen = usize::from(!whole);
            if group.busy.max(unseen) == 0 || late {
                group.stage = Stage::Drained;
                // What is cut off is all that somebody may wait for.
                let cut = if whole { busy.len() } else { group.busy.max(1) };
                self.outputs.push(Output::Report(Report::Drained {
                    group: id,
                    epoch: group.epoch,
                    took: now.since(group.since),
                    busy: cut,
                    held: group.held.len(),
                }));
            } else if !group.unguarded && !idle.is_empty() {
                idle.truncate(ENDED_MAX);
                self.outputs.push(Output::End(idle));
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
        let waiting: Vec<Held> = group.held.take().collect();
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
                Some(_) | None => drop(group.held.keep(held)),
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
                Some(Stage::Leaving { .. } | Stage::Returning { .. }) => self.end(now, id),
                // Told when connections are looked at next.
                Some(Stage::Easing | Stage::Holding { .. } | Stage::Drained) | None => {}
            }
        }
    }

    fn end(&mut self, now: Moment, id: GroupId) {
        let Some(mut group) = self.groups.remove(&id) else {
            return;
        };
        match group.stage {
            Stage::Easing => {}
            Stage::Leaving { since, first } => {
                self.outputs.push(Output::Report(Report::PassedOn {
                    group: id,
                    attempts: group.sent,
                    dropped: group.dropped + group.held.len(),
                    took: first.unwrap_or(now).since(since),
                }));
            }
            Stage::Asking { .. }
            | Stage::Holding { .. }
            | Stage::Drained
            | Stage::Returning { .. } => {
                group.forget_accepted(&[]);
                let held = group.held.take();
                self.outputs.push(Output::PutBack {
                    group: id,
                    frames: held.map(|held| (held.device, held.frame)).collect(),
                    dropped: group.dropped,
                });
            }
        }
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
