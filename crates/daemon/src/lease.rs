//! The lease thread: the lease machine, its socket, the guard and the mirror, and
//! nothing else. Real-time; no file, log line, lock, name server or handshake.
//!
//! Who has the leases is who has the baton ([`crate::mirror::baton`]): the thread takes it
//! before it does anything, and keeps it until it ends. In a worker that waits beside
//! another the thread is there already, and the baton comes when the other is dead.
//!
//! ```text
//!   datagrams ──▶ keyring ──▶ machine ──▶ mirror, guard, datagrams (in that order)
//!   orders    ──────────────▶    │
//!                                └──▶ news (bounded; told again if some were lost)
//! ```

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use evenkeel_core::generation::Voters;
use evenkeel_core::health::Silence;
use evenkeel_core::lease::Life;
use evenkeel_core::lease::{
    Assignment, Event, GROUPS_MAX, Machine, Output, Phase, Settings, Start, Status,
};
use evenkeel_core::policy::{Hearing, fine_for, hearing};
use evenkeel_core::topology::{Timing, membership};
use evenkeel_core::{Epoch, GroupId, Moment, NodeId};
use evenkeel_guard::Guard;
use evenkeel_host::clock;
use evenkeel_host::sys::baton::Baton;
use evenkeel_host::sys::sched::{self, Share};
use evenkeel_transport::seal::Mirrored;
use evenkeel_transport::{Fingerprint, Keyring, LeaseKeys};
use evenkeel_wire::v1::lease as form;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::process::Pid;
use tokio::sync::{mpsc, oneshot};

use crate::mirror::{Found, Memory};

/// Real-time priority: above the decision thread, below the kernel's network threads.
pub const PRIORITY: u8 = 30;
/// Name of the thread, and of one that waits for another worker's death.
const WORKING: &str = "lease";
const WAITING: &str = "heir";
/// Orders that may wait. They come one per log entry or connection; a full queue means
/// that the thread is gone.
const ORDERS_MAX: usize = 1024;
/// News that may wait. Lost ones are made good by telling every group's state again, which must fit
/// in beside the silences, the voters and the last word: it would never come to an end otherwise.
const NEWS_MAX: usize = GROUPS_MAX + 64;
/// Datagrams taken in one go before orders and timers get their turn.
const DATAGRAMS_PER_TURN: usize = 64;
/// The longest sleep: orders and datagrams wake the thread, this is for its bookkeeping.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// From one look at the holders to the next at least: a burst of datagrams needs one.
const LOOK_MIN: Duration = Duration::from_millis(1);
/// Larger than any lease datagram.
const DATAGRAM_MAX: usize = 1500;

/// What the lease thread is told.
#[derive(Debug)]
pub enum Order {
    /// An assignment is durable in this node's log.
    FloorRaised(Assignment),
    /// An assignment is agreed.
    Committed(GroupId, Epoch),
    /// An assignment's entry was truncated.
    Truncated(GroupId, Epoch),
    /// What runs with a group is ready for this epoch to open.
    Ready(GroupId, Epoch),
    /// Give a group back.
    Release(GroupId),
    /// What ran with this epoch is stopped, though nobody else has the group yet.
    Abandon(GroupId, Epoch),
    /// This node votes: if its floors were lost before its start, they are known again.
    Recall,
    /// Whose promises make a lease from now on. Whatever is held is closed and spent.
    Voters(Voters),
    /// Say that everything ordered before has been carried out.
    Reached(tokio::sync::oneshot::Sender<()>),
    /// Keys of a new connection.
    Keys(LeaseKeys),
    /// Tell every group's state again.
    Tell,
    /// End.
    Stop,
}

/// What the lease thread says.
#[derive(Debug)]
pub enum News {
    /// Something happened.
    Event(Event),
    /// How a group stands: told for all groups when news were lost.
    State(GroupId, Status),
    /// All groups were told of.
    Told,
    /// Whose promises make a lease here; told again if news were lost.
    Voters(Voters),
    /// Which holders this voter does not hear; the whole list.
    Silences(Vec<Silence>),
    /// The guard could not be told in time, or does not know the group yet.
    GuardLate(GroupId),
}

/// The way to the lease thread.
#[derive(Clone)]
pub struct LeaseThread {
    orders: SyncSender<Order>,
    wake: Arc<OwnedFd>,
}

impl LeaseThread {
    /// Tells it something. Never waits.
    ///
    /// # Panics
    /// If the thread does not take its orders: nothing that this process does can be
    /// relied on then, and the kernel's guard makes ending it safe.
    pub fn order(&self, order: Order) {
        match self.orders.try_send(order) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => panic!("the lease thread does not take its orders"),
            // It was told to stop.
            Err(TrySendError::Disconnected(_)) => return,
        }
        // A full counter wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// What the thread is made of.
pub struct Parts {
    /// The lease machine's settings, with all voters.
    pub settings: Settings,
    /// Whose promises make a lease at first.
    pub voters: Voters,
    /// Its life.
    pub life: Life,
    /// How it starts.
    pub start: Start,
    /// Until when promises of earlier lives may run that this one does not know of.
    pub quiet_until: Moment,
    /// Durable floors to be known before anything is answered.
    pub floors: Vec<Assignment>,
    /// The socket for lease datagrams.
    pub socket: UdpSocket,
    /// Where the peers are.
    pub peers: BTreeMap<NodeId, SocketAddr>,
    /// Keys from the mirror.
    pub keys: Vec<Mirrored>,
    /// Certificates that do not count any more, nor do keys that they proved.
    pub revoked: Vec<Fingerprint>,
    /// The guard; a witness has none.
    pub guard: Option<Guard>,
    /// The mirror's memory.
    pub memory: Memory,
    /// Lease and heartbeat: when silence is suspicious.
    pub timing: Timing,
}

/// A thread that was started: the way to it, and what it says.
pub type Started = (LeaseThread, mpsc::Receiver<News>);

/// How the thread of a worker that waited came to its turn.
#[derive(Debug)]
pub enum Turned {
    /// The one before it is dead; it goes on with the same leases.
    Continued {
        /// The worker that is dead, or being cleared away.
        before: Option<Pid>,
        /// When it was known.
        at: Moment,
    },
    /// What the one before left cannot be trusted: this life must end.
    NeedsNewLife,
    /// The one before was told to stop: nobody goes on.
    Retired,
}

/// Starts the thread of a life's first worker.
///
/// # Panics
/// (In the thread, which ends the process.) If the baton cannot be had.
pub fn start(parts: Parts, baton: Baton) -> std::io::Result<Started> {
    spawn(WORKING, move |orders, news, wake| {
        baton.take().expect("a baton that the parent has prepared");
        parts.memory.set_worker();
        Thread::new(parts, orders, news, wake).run();
    })
}

/// Starts the thread of a worker that waits for the death of another. It goes on with
/// what that one left as soon as the kernel passes the baton on: a millisecond later the
/// leases are renewed again.
///
/// # Panics
/// (In the thread, which ends the process.) If the baton cannot be had.
pub fn wait(
    mut parts: Parts,
    baton: Baton,
) -> std::io::Result<(Started, oneshot::Receiver<Turned>)> {
    let (say, turned) = oneshot::channel();
    let started = spawn(WAITING, move |orders, news, wake| {
        parts.memory.set_reserve();
        baton.take().expect("a baton that the parent has prepared");
        sched::name_thread(WORKING);
        let at = clock::now();
        // The main thread may be ending: then nobody wants to know.
        match parts.inherit(at) {
            Ok(before) => {
                let mut thread = Thread::new(parts, orders, news, wake);
                thread.carry_out();
                let _ = say.send(Turned::Continued { before, at });
                thread.run();
            }
            Err(end) => {
                let _ = say.send(end);
                hold_the_baton();
            }
        }
    })?;
    Ok((started, turned))
}

/// Until the process ends: if this thread ended, another worker would take over.
fn hold_the_baton() -> ! {
    loop {
        std::thread::park();
    }
}

impl Parts {
    /// Takes up what the worker before this one left; which that was.
    fn inherit(&mut self, at: Moment) -> Result<Option<Pid>, Turned> {
        if self.memory.is_retired() {
            return Err(Turned::Retired);
        }
        match self.memory.read(self.life.incarnation) {
            Found::Whole { mirror, keys } => {
                let before = self.memory.worker();
                self.memory.set_worker();
                self.life.seq_base = at.as_nanos();
                self.start = Start::Mirrored(mirror);
                self.keys = keys;
                self.voters = self.memory.voters();
                Ok(before.filter(|before| *before != rustix::process::getpid()))
            }
            Found::Blank | Found::Torn => Err(Turned::NeedsNewLife),
        }
    }
}

fn spawn(
    name: &str,
    body: impl FnOnce(Receiver<Order>, mpsc::Sender<News>, Arc<OwnedFd>) + Send + 'static,
) -> std::io::Result<Started> {
    let (orders, received) = sync_channel(ORDERS_MAX);
    let (news, heard) = mpsc::channel(NEWS_MAX);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let own_wake = Arc::clone(&wake);
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Refused without the right; the caller has asked before and said so.
            let _ = sched::realtime(PRIORITY, Share::UntilItWaits);
            body(received, news, own_wake);
        })?;
    Ok((LeaseThread { orders, wake }, heard))
}

struct Thread {
    machine: Machine,
    voters: Voters,
    all: Vec<NodeId>,
    socket: UdpSocket,
    peers: BTreeMap<NodeId, SocketAddr>,
    keyring: Keyring,
    guard: Option<Guard>,
    memory: Memory,
    orders: Receiver<Order>,
    news: mpsc::Sender<News>,
    wake: Arc<OwnedFd>,
    timing: Timing,
    heartbeat: Duration,
    quiet_until: Moment,
    sealed: Vec<u8>,
    datagram: Vec<u8>,
    missed: bool,
    silent: bool,
    looked_at: Moment,
    keys_at: Moment,
}

/// How often the counters of the keys are mirrored: a replayed datagram of the last
/// moments before a crash can only repeat what was true then.
const KEYS_REPEAT: Duration = Duration::from_millis(500);

enum Turn {
    Again,
    End,
}

impl Thread {
    fn new(
        parts: Parts,
        orders: Receiver<Order>,
        news: mpsc::Sender<News>,
        wake: Arc<OwnedFd>,
    ) -> Self {
        let now = clock::now();
        let mut keyring = Keyring::new();
        for key in parts.keys {
            if counts(&key.keys, &parts.revoked, &parts.peers) {
                keyring.restore(now, key);
            }
        }
        let heartbeat = parts.settings.heartbeat;
        let all = parts.settings.voters.clone();
        let mut settings = parts.settings;
        let (voters, membership) = voters_of(parts.voters, settings.me, &all);
        (settings.voters, settings.membership) = (voters, membership);
        let mut machine = Machine::new(now, settings, parts.life, parts.start);
        for floor in &parts.floors {
            machine.floor_raised(now, floor);
        }
        let mut memory = parts.memory;
        memory.set_voters(parts.voters);
        memory.begin(&machine.mirror());
        Self {
            machine,
            voters: parts.voters,
            all,
            socket: parts.socket,
            peers: parts.peers,
            keyring,
            guard: parts.guard,
            memory,
            orders,
            news,
            wake,
            timing: parts.timing,
            heartbeat,
            quiet_until: parts.quiet_until,
            sealed: Vec::with_capacity(DATAGRAM_MAX),
            datagram: vec![0; DATAGRAM_MAX],
            missed: false,
            silent: false,
            looked_at: now,
            keys_at: now,
        }
    }

    fn run(mut self) {
        self.carry_out();
        loop {
            self.sleep();
            self.hear();
            if let Turn::End = self.obey() {
                self.carry_out();
                // Before this thread ends, and with it its hold on the baton.
                self.memory.retire();
                return;
            }
            self.machine.tick(clock::now());
            self.carry_out();
            self.look();
        }
    }

    /// Waits for a datagram, an order or the machine's deadline.
    fn sleep(&self) {
        let now = clock::now();
        let due = self.machine.next_deadline().unwrap_or(Moment::MAX);
        let look = self.next_look(now);
        let left = now.until(due.min(look)).min(SLEEP_MAX);
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
        ];
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, Some(&timeout));
    }

    /// When the next look is due. While all is fine, not before a holder could have
    /// become silent or deaf: with renewals coming in, each look is put off by the next.
    fn next_look(&self, now: Moment) -> Moment {
        if self.silent || self.missed {
            return self.looked_at + self.heartbeat / 2;
        }
        let fine = self
            .machine
            .observations(now)
            .map(|(_, seen)| fine_for(&self.timing, seen.renewed, seen.advanced));
        now + fine.min().unwrap_or(SLEEP_MAX).max(LOOK_MIN)
    }

    fn hear(&mut self) {
        for _ in 0..DATAGRAMS_PER_TURN {
            let Ok((length, _)) = self.socket.recv_from(&mut self.datagram) else {
                return;
            };
            // What cannot be opened or read was not sent by a node of this cluster.
            let Ok((from, message)) = self.keyring.open(&mut self.datagram[..length]) else {
                continue;
            };
            let Ok(message) = form::decode(message) else {
                continue;
            };
            self.machine.receive(clock::now(), from, message);
            self.carry_out();
        }
    }

    fn obey(&mut self) -> Turn {
        let mut drained = [0; 8];
        // Nothing to drain is nothing to do.
        let _ = rustix::io::read(&self.wake, &mut drained);
        while let Ok(order) = self.orders.try_recv() {
            let now = clock::now();
            match order {
                Order::FloorRaised(assignment) => self.machine.floor_raised(now, &assignment),
                Order::Committed(group, epoch) => self.machine.committed(now, group, epoch),
                Order::Truncated(group, epoch) => self.machine.truncated(now, group, epoch, None),
                Order::Ready(group, epoch) => self.machine.ready(now, group, epoch),
                Order::Release(group) => self.machine.release(now, group),
                Order::Abandon(group, epoch) => self.machine.abandon(now, group, epoch),
                Order::Recall => {
                    self.machine.recall(now, self.quiet_until);
                    // Later than the machine: noted too late, it is only silent for longer.
                    self.memory.set_quiet_until(self.machine.quiet_until());
                }
                Order::Voters(voters) => self.replace_voters(now, voters),
                Order::Reached(told) => {
                    self.carry_out();
                    // Whoever asked has gone.
                    let _ = told.send(());
                }
                Order::Keys(keys) => {
                    self.keyring.install(now, keys);
                    self.memory.write_keys(self.keyring.mirror());
                }
                Order::Tell => self.missed = true,
                Order::Stop => return Turn::End,
            }
            self.carry_out();
        }
        Turn::Again
    }

    fn replace_voters(&mut self, now: Moment, voters: Voters) {
        let me = self.machine.settings().me;
        let (ids, membership) = voters_of(voters, me, &self.all);
        if voters == Voters::All {
            self.memory.set_voters(voters);
        }
        self.machine.set_voters(now, ids, membership);
        self.carry_out();
        self.memory.set_voters(voters);
        self.voters = voters;
        self.tell(News::Voters(voters));
    }

    /// Does what the machine wants, in its order: what must be remembered is written
    /// before what relies on it leaves.
    fn carry_out(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Mirror(group) => {
                    if let Some(record) = self.machine.record(group) {
                        self.memory.write(&record);
                    }
                }
                Output::Transmit { to, message } => {
                    let mut buffer = [0; form::MESSAGE_LENGTH_MAX];
                    let bytes = form::encode(&message, &mut buffer);
                    let Some(address) = self.peers.get(&to) else {
                        continue;
                    };
                    if self
                        .keyring
                        .seal(clock::now(), to, bytes, &mut self.sealed)
                        .is_ok()
                    {
                        // A full queue or no route is a lost datagram.
                        let _ = self.socket.send_to(&self.sealed, address);
                    }
                }
                Output::Extend(lease) => {
                    let Some(guard) = &mut self.guard else {
                        continue;
                    };
                    match guard.extend(&lease, clock::now) {
                        evenkeel_guard::Extended::Open => {}
                        evenkeel_guard::Extended::Late | evenkeel_guard::Extended::UnknownGroup => {
                            self.tell(News::GuardLate(lease.group()));
                        }
                    }
                }
                Output::Close { group, .. } => {
                    if let Some(guard) = &mut self.guard {
                        guard.close(group);
                    }
                }
                Output::Event(event) => self.tell(News::Event(event)),
            }
        }
    }

    fn tell(&mut self, news: News) {
        if self.news.try_send(news).is_err() {
            self.missed = true;
        }
    }

    /// At each wake-up, so that a silence is seen the moment it counts: who is silent, and
    /// what was missed.
    fn look(&mut self) {
        let now = clock::now();
        let pace = if self.silent {
            self.heartbeat / 2
        } else {
            LOOK_MIN
        };
        if now.since(self.looked_at) < pace {
            return;
        }
        self.looked_at = now;
        if now.since(self.keys_at) >= KEYS_REPEAT {
            self.keys_at = now;
            self.memory.write_keys(self.keyring.mirror());
        }
        let timing = self.timing;
        let silences: Vec<Silence> = self
            .machine
            .observations(now)
            .map(|(group, seen)| Silence {
                group,
                epoch: seen.epoch,
                unheard: seen.renewed,
                standing: seen.advanced,
            })
            .filter(|one| hearing(&timing, one.unheard, one.standing) != Hearing::Fine)
            .collect();
        if self.silent || !silences.is_empty() {
            self.silent = !silences.is_empty();
            self.tell(News::Silences(silences));
        }
        if self.missed {
            self.missed = false;
            self.tell(News::Voters(self.voters));
            for record in self.machine.mirror().records {
                let status = self.machine.status(record.group);
                self.tell(News::State(record.group, status));
            }
            // If there is no room for the last word, all is told again.
            self.tell(News::Told);
        }
    }
}

/// Whether keys that the worker before this one had are still a node's of the file. Its connection
/// is judged anew in any case; without this, a node whose certificate has been revoked would stay
/// a voter and a holder for as long as it does not connect.
fn counts(keys: &LeaseKeys, revoked: &[Fingerprint], peers: &BTreeMap<NodeId, SocketAddr>) -> bool {
    !revoked.contains(&keys.proof) && peers.contains_key(&keys.peer)
}

/// The voters and their digest.
fn voters_of(voters: Voters, me: NodeId, all: &[NodeId]) -> (Vec<NodeId>, u64) {
    let ids = match voters {
        Voters::Me => vec![me],
        Voters::All => all.to_vec(),
    };
    let digest = membership(ids.iter().copied());
    (ids, digest)
}

/// What a group's state amounts to for the decision machine, when events were lost.
pub fn event_of(group: GroupId, status: &Status) -> Option<evenkeel_core::node::Event> {
    use evenkeel_core::node::Event as Decision;
    let floor = status.floor?;
    let epoch = floor.epoch;
    match status.phase {
        Phase::Idle => Some(Decision::Idle(floor)),
        Phase::Opening => Some(Decision::Opening { group, epoch }),
        Phase::Held => Some(Decision::Opened {
            group,
            epoch: status.held.unwrap_or(epoch),
        }),
        Phase::Lapsed => Some(Decision::Lapsed {
            group,
            epoch: status.held.unwrap_or(epoch),
        }),
        Phase::Spent => Some(Decision::Released { group, epoch }),
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_core::Incarnation;
    use evenkeel_core::node::Event as Decision;

    use super::*;

    #[test]
    fn keys_of_a_revoked_certificate_or_of_a_node_that_is_gone_count_no_more() {
        let keys = |peer, proof: &[u8]| LeaseKeys {
            peer: NodeId(peer),
            id: 1,
            seal: [1; 32],
            open: [2; 32],
            proof: Fingerprint::of(proof),
        };
        let revoked = [Fingerprint::of(b"lost")];
        let at = ([192, 0, 2, 12], 7946).into();
        let peers = BTreeMap::from([(NodeId(2), at)]);
        assert!(counts(&keys(2, b"good"), &revoked, &peers));
        assert!(!counts(&keys(2, b"lost"), &revoked, &peers));
        assert!(!counts(&keys(3, b"good"), &revoked, &peers));
    }

    #[test]
    fn each_state_is_told_as_what_it_means() {
        let group = GroupId(7);
        let epoch = |index| Epoch { term: 1, index };
        let (counter, nonce) = (1, 9);
        let floor = Assignment {
            group,
            epoch: epoch(6),
            holder: NodeId(2),
            incarnation: Incarnation { counter, nonce },
        };
        let told = |phase, held| {
            let floor = Some(floor);
            let status = Status {
                phase,
                floor,
                held,
                ..Status::default()
            };
            event_of(group, &status).map(|event| format!("{event:?}"))
        };
        let said = |event: Decision| Some(format!("{event:?}"));
        // A newer epoch may be waited for while an older one is held, or has lapsed.
        let held = epoch(5);
        let opened = said(Decision::Opened { group, epoch: held });
        assert_eq!(told(Phase::Held, Some(held)), opened);
        let lapsed = said(Decision::Lapsed { group, epoch: held });
        assert_eq!(told(Phase::Lapsed, Some(held)), lapsed);
        let released = said(Decision::Released {
            group,
            epoch: floor.epoch,
        });
        assert_eq!(told(Phase::Spent, None), released);
        assert_eq!(told(Phase::Idle, None), said(Decision::Idle(floor)));
        let opening = said(Decision::Opening {
            group,
            epoch: floor.epoch,
        });
        assert_eq!(told(Phase::Opening, None), opening);
        assert!(event_of(group, &Status::default()).is_none());
    }
}
