//! The thread that looks at connections and tickles clients. An ordinary one: nothing of
//! this may be in the way of announcements.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use evenkeel_core::{Epoch, GroupId, Moment};
use evenkeel_host::clock;
use evenkeel_host::frame::{Pacer, Sent};
use evenkeel_host::netlink::{Connection, Family};
use evenkeel_host::sockets::{self, Flow, SocketsError};
use evenkeel_host::sys::sched;
use evenkeel_host::tickle::{Tickle, TickleSocket};
use tokio::sync::{mpsc, watch};

use crate::TrafficError;
use crate::flows::{
    Due, FLOWS_MAX, Listing, PAUSE_MAX, PAUSE_MIN, Snapshot, Tickled, Tickles, pause,
};

/// Packets per millisecond: [`FLOWS_MAX`] clients are tickled in 160 ms, and a link sees a
/// twentieth of what a gigabit carries.
const PACKETS_PER_MS: u32 = 128;
/// Packets at once after a pause.
const PACKETS_BURST: u32 = 512;
/// Packets for which it pays to wake up.
const PACKETS_TURN: u32 = 32;
/// How long one packet may wait for room in the socket.
const SOCKET_WAIT: Duration = Duration::from_millis(2);
/// Connections read per look and family, of all groups: beyond it which ones is left open.
const READ_MAX: usize = 65_536;
/// The longest sleep; nothing depends on it.
const SLEEP_MAX: Duration = Duration::from_secs(3_600);

/// What the thread tells, for the log: dropped if nobody fetches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowReport {
    /// The clients of a group that opened here were tickled once; repeats follow.
    Tickled(Tickled),
    /// A group has more connections than are told to the standbys; told when it starts.
    TooMany {
        /// The group.
        group: GroupId,
        /// How many are left out.
        left_out: usize,
    },
    /// Something does not succeed; it is tried again. Told when it starts and when the
    /// reason changes. Follows "failed to".
    Failed(String),
}

/// What each open group's connections are; the newest only.
pub type Snapshots = BTreeMap<GroupId, Snapshot>;

/// A group that is open here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Open {
    epoch: Epoch,
    addresses: BTreeSet<IpAddr>,
}

/// What the thread is to do. The newest word on a group replaces the older.
#[derive(Debug, Default)]
struct Words {
    open: BTreeMap<GroupId, Open>,
    tickle: BTreeMap<GroupId, (Epoch, Vec<Flow>)>,
    /// Something above is new.
    new: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    words: Mutex<Words>,
    said: Condvar,
}

impl Shared {
    /// Nothing in there is half done when a thread panics.
    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, word: impl FnOnce(&mut Words)) {
        let mut words = self.words();
        word(&mut words);
        words.new = true;
        drop(words);
        self.said.notify_one();
    }
}

/// The handle of the thread. Its calls never wait and may come from any thread; dropped, it
/// ends the thread.
#[derive(Debug)]
pub struct FlowWatch {
    shared: Arc<Shared>,
    snapshots: watch::Receiver<Snapshots>,
    thread: Option<JoinHandle<()>>,
}

impl FlowWatch {
    /// Starts it in the network namespace of the calling thread. A few dozen `reports` are
    /// enough.
    pub fn start(reports: mpsc::Sender<FlowReport>) -> Result<Self, TrafficError> {
        let shared = Arc::new(Shared::default());
        let (tell, snapshots) = watch::channel(Snapshots::new());
        let worker = Worker {
            shared: Arc::clone(&shared),
            open: BTreeMap::new(),
            listings: BTreeMap::new(),
            tell,
            reports,
            sockets: None,
            tickles: Tickles::default(),
            voice: None,
            look_at: Moment::MAX,
            trouble: None,
        };
        let thread = std::thread::Builder::new()
            .name("flows".to_owned())
            .spawn(move || worker.run())
            .map_err(TrafficError::Start)?;
        Ok(Self {
            shared,
            snapshots,
            thread: Some(thread),
        })
    }

    /// The group is open here for `epoch`: its connections are listed from now on.
    pub fn open(&self, group: GroupId, epoch: Epoch, addresses: BTreeSet<IpAddr>) {
        let open = Open { epoch, addresses };
        self.shared.say(|words| {
            words.open.insert(group, open);
        });
    }

    /// The group is not open here: nothing is listed or tickled for it.
    pub fn close(&self, group: GroupId) {
        self.shared.say(|words| {
            words.open.remove(&group);
            words.tickle.remove(&group);
        });
    }

    /// The group opened here for `epoch` and was announced: the clients of `flows`, which
    /// belonged to an earlier holder, are to be reset.
    pub fn tickle(&self, group: GroupId, epoch: Epoch, flows: Vec<Flow>) {
        if flows.is_empty() {
            return;
        }
        self.shared.say(|words| {
            words.tickle.insert(group, (epoch, flows));
        });
    }

    /// The connections of open groups; of a group that is closed again, the last that was
    /// seen.
    pub fn snapshots(&self) -> watch::Receiver<Snapshots> {
        self.snapshots.clone()
    }
}

impl Drop for FlowWatch {
    fn drop(&mut self) {
        self.shared.say(|words| words.stop = true);
        if let Some(thread) = self.thread.take() {
            // A panic was told by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Whether the thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

struct Worker {
    shared: Arc<Shared>,
    open: BTreeMap<GroupId, Open>,
    listings: BTreeMap<GroupId, Listing>,
    tell: watch::Sender<Snapshots>,
    reports: mpsc::Sender<FlowReport>,
    sockets: Option<Connection>,
    tickles: Tickles,
    voice: Option<TickleSocket>,
    look_at: Moment,
    trouble: Option<String>,
}

impl Worker {
    fn run(mut self) {
        sched::name_thread("flows");
        // Refused without the right: then it is late on a busy machine.
        let _ = sched::favoured();
        let mut pacer = Pacer::new(clock::now(), PACKETS_PER_MS, PACKETS_BURST);
        while self.words() == Go::On {
            let paced = self.tickle(&mut pacer);
            if paced.is_none() && clock::now() >= self.look_at {
                self.look();
            }
            self.sleep(paced);
        }
    }

    fn words(&mut self) -> Go {
        let now = clock::now();
        let mut words = self.shared.words();
        if words.stop {
            return Go::Stop;
        }
        if !std::mem::take(&mut words.new) {
            return Go::On;
        }
        let tickle = std::mem::take(&mut words.tickle);
        let changed = self.open != words.open;
        if changed {
            self.open = words.open.clone();
        }
        drop(words);
        if changed {
            let open = &self.open;
            self.listings.retain(|group, _| open.contains_key(group));
            self.look_at = if open.is_empty() { Moment::MAX } else { now };
        }
        for (group, (epoch, flows)) in tickle {
            self.tickles.begin(now, group, epoch, flows);
        }
        if changed {
            let closed: Vec<GroupId> = self
                .tickles
                .groups()
                .filter(|group| !self.open.contains_key(group))
                .collect();
            for group in closed {
                self.tickles.end(group);
            }
        }
        Go::On
    }

    /// Reads the connections to `addresses`.
    fn read(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<Vec<Flow>, SocketsError> {
        let mut sockets = match self.sockets.take() {
            Some(sockets) => sockets,
            None => Connection::open(Family::Sockets)?,
        };
        let found = sockets::flows(&mut sockets, addresses, READ_MAX)?;
        // After a failure the next one begins anew.
        self.sockets = Some(sockets);
        Ok(found)
    }

    fn look(&mut self) {
        let began = clock::now();
        let all = self.open.values().flat_map(|open| &open.addresses);
        let all: BTreeSet<IpAddr> = all.copied().collect();
        let changed = match self.read(&all) {
            Ok(found) => {
                self.trouble = None;
                self.note(began, &found)
            }
            Err(error) => {
                self.failed(format!("learn of clients' connections: {error}"));
                self.look_at = clock::now() + PAUSE_MAX;
                return;
            }
        };
        let now = clock::now();
        let mut wait = pause(now.since(began), changed);
        if self.tickles.due() != Moment::MAX {
            // The others are told of the clients that come back as soon as of any.
            wait = wait.min(PAUSE_MIN);
        }
        self.look_at = now + wait;
    }

    /// Takes in what a look found; whether anything was new.
    fn note(&mut self, began: Moment, found: &[Flow]) -> bool {
        let mut news = Vec::new();
        for (group, open) in &self.open {
            let listing = self
                .listings
                .entry(*group)
                .or_insert_with(|| Listing::new(open.epoch));
            if listing.epoch() != open.epoch {
                *listing = Listing::new(open.epoch);
            }
            let theirs: Vec<Flow> = found
                .iter()
                .filter(|flow| open.addresses.contains(&flow.service.ip()))
                .copied()
                .collect();
            let had_room = !listing.leaves_out();
            if let Some(snapshot) = listing.look(began.as_nanos(), &theirs) {
                if had_room && snapshot.left_out > 0 {
                    let _ = self.reports.try_send(FlowReport::TooMany {
                        group: *group,
                        left_out: snapshot.left_out,
                    });
                }
                news.push((*group, snapshot));
            }
        }
        let changed = !news.is_empty();
        if changed {
            self.tell.send_modify(|all| all.extend(news));
        }
        changed
    }

    fn failed(&mut self, error: String) {
        if self.trouble.as_ref() != Some(&error) {
            // Nobody may be listening.
            let _ = self.reports.try_send(FlowReport::Failed(error.clone()));
            self.trouble = Some(error);
        }
    }

    /// Sends what is due and allowed; says how long until more is allowed, if more is due.
    fn tickle(&mut self, pacer: &mut Pacer) -> Option<Duration> {
        loop {
            let now = clock::now();
            let limit = pacer.allowed(now);
            if limit == 0 {
                return Some(pacer.wait(PACKETS_TURN));
            }
            match self.tickles.next(now, limit as usize) {
                None => {
                    self.voice = None;
                    return None;
                }
                Some(Due::Look(group, services)) => {
                    let living = self.read(&services).unwrap_or_else(|error| {
                        self.failed(format!("learn which connections live here: {error}"));
                        // A tickle does a living one no harm.
                        Vec::new()
                    });
                    self.tickles.living(group, &living);
                }
                Some(Due::Send(group, flows, sequence)) => {
                    let out = flows.iter().filter(|flow| self.shoot(flow, sequence));
                    let dropped = flows.len() - out.count();
                    pacer.used(u32::try_from(flows.len()).unwrap_or(u32::MAX));
                    if let Some(tickled) = self.tickles.sent(clock::now(), group, dropped) {
                        let _ = self.reports.try_send(FlowReport::Tickled(tickled));
                    }
                }
            }
        }
    }

    /// Sends one tickle; whether it left.
    fn shoot(&mut self, flow: &Flow, sequence: u32) -> bool {
        let Some(tickle) = Tickle::new(flow, sequence) else {
            return false;
        };
        let from = flow.service.ip();
        if self.voice.as_ref().is_none_or(|voice| voice.from() != from) {
            match TickleSocket::open(from) {
                Ok(socket) => self.voice = Some(socket),
                Err(error) => {
                    self.failed(format!("send from {from}: {error}"));
                    return false;
                }
            }
        }
        let Some(voice) = &self.voice else {
            return false;
        };
        let deadline = clock::now() + SOCKET_WAIT;
        loop {
            match voice.send(flow.client.ip(), &tickle) {
                Ok(Sent::Full) if clock::now() < deadline => std::thread::yield_now(),
                Ok(sent) => return sent == Sent::Out,
                // No way to this client now.
                Err(_) => return false,
            }
        }
    }

    fn sleep(&self, paced: Option<Duration>) {
        let until = self.look_at.min(self.tickles.due());
        let time = paced.unwrap_or_else(|| clock::now().until(until).min(SLEEP_MAX));
        let words = self.shared.words();
        let nothing_new = |words: &mut Words| !words.new && !words.stop;
        let waited = self
            .shared
            .said
            .wait_timeout_while(words, time, nothing_new);
        drop(waited);
    }
}

const _: () = assert!(READ_MAX >= FLOWS_MAX, "a group's bound can be reached");
