//! The mover's thread.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use evenkeel_core::{GroupId, Moment};
use evenkeel_host::address::{self, Change, Changes, Existing, Lifetime, Placement};
use evenkeel_host::clock;
use evenkeel_host::frame::{Forwards, FrameSocket, Mac, Pacer, Sent, announcement};
use evenkeel_host::netlink::{self, Connection, Family, Heard, NetlinkError};
use evenkeel_host::sys::sched;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc;

use super::Shared;
use super::ender::{Ended, Ender};
use crate::campaign::{Forms, Round};
use crate::machine::{Attempt, Effect, Event, Everything, Machine, Report, TURN, Volley};

/// Frames per millisecond: 2,000 addresses in both forms are out in 32 ms, and a switch
/// sees a tenth of what a gigabit carries.
const FRAMES_PER_MS: u32 = 128;
/// Frames at once after a pause: what is due after the thread was kept waiting 4 ms.
const FRAMES_BURST: u32 = 512;
/// Frames that an address costs at most.
const FRAMES_PER_ADDRESS: u32 = 2;
/// How long one frame may wait for room in the socket; after that it counts as dropped,
/// and the next round brings it.
const SOCKET_WAIT: Duration = Duration::from_millis(2);
/// Plans carried out before the thread listens to words again: each plan follows from
/// changes, and a mad source of them must not keep it from hearing "stop".
const PLANS_MAX: usize = 8;
/// Addresses placed before the thread listens to words and announces again: as many as one
/// system call takes, one or two milliseconds' work.
const PLACED_AT_ONCE: usize = netlink::BATCH_MAX;
/// From how many IPv4 addresses on stopgaps come first: more than are placed at once. Fewer are
/// placed before anything else could be done, and their stopgaps would only cost time.
const STOPGAPS_FROM: usize = PLACED_AT_ONCE + 1;
/// How long many addresses wait for their deletion. The kernel changes addresses one after the
/// other, on many kernels for all containers together: the next holder, or a group that arrives
/// here, is to be through by then. (2,200 addresses were announced 72 ms after the opening at
/// worst while the holder before, on the same kernel, deleted its own, and 35 ms without.)
const CLEARING_WAITS: Duration = Duration::from_millis(100);
/// The pause after so many addresses were deleted at once: whoever places some meanwhile waits
/// a fifth longer. 2,000 are gone within 0.2 s, and nobody waits for that.
const CLEARED_PAUSE: Duration = Duration::from_millis(4);
/// Reports kept while nobody fetches them.
const REPORTS_MAX: usize = 4_096;
/// How soon unfetched reports are offered again.
const REPORTS_RETRY: Duration = Duration::from_millis(10);
/// How soon a broken conversation with the kernel is tried again.
const NETLINK_RETRY: Duration = Duration::from_millis(100);
/// The longest sleep; nothing depends on it.
const SLEEP_MAX: Duration = Duration::from_secs(3_600);

/// Reports on their way out.
#[derive(Debug)]
pub(super) struct Outbox {
    reports: mpsc::Sender<Report>,
    waiting: VecDeque<Report>,
    missed: u64,
}

impl Outbox {
    pub(super) fn new(reports: mpsc::Sender<Report>) -> Self {
        Self {
            reports,
            waiting: VecDeque::new(),
            missed: 0,
        }
    }

    fn tell(&mut self, report: Report) {
        if self.waiting.len() == REPORTS_MAX {
            self.waiting.pop_front();
            self.missed += 1;
        }
        self.waiting.push_back(report);
    }

    fn flush(&mut self) {
        if self.missed > 0
            && self
                .reports
                .try_send(Report::Missed {
                    reports: self.missed,
                })
                .is_ok()
        {
            self.missed = 0;
        }
        while let Ok(place) = self.reports.try_reserve() {
            let Some(report) = self.waiting.pop_front() else {
                return;
            };
            place.send(report);
        }
        if self.reports.is_closed() {
            self.waiting.clear();
        }
    }
}

/// What is to be placed of a group.
pub(super) struct Placing {
    group: GroupId,
    /// Made this machine's own before any is placed.
    stopgaps: VecDeque<Placement>,
    places: VecDeque<Placement>,
}

impl Placing {
    /// Of many IPv4 addresses the stopgaps come first and they themselves last: they answer
    /// meanwhile, and the others do not.
    fn new(group: GroupId, places: Vec<Placement>) -> Self {
        let is_ipv4 = |one: &Placement| one.ip.is_ipv4();
        let (ipv4, others): (Vec<_>, Vec<_>) = places.iter().copied().partition(is_ipv4);
        if ipv4.len() < STOPGAPS_FROM {
            return Self {
                group,
                stopgaps: VecDeque::new(),
                places: places.into(),
            };
        }
        Self {
            group,
            stopgaps: ipv4.iter().copied().collect(),
            places: others.into_iter().chain(ipv4).collect(),
        }
    }

    fn is_done(&self) -> bool {
        self.stopgaps.is_empty() && self.places.is_empty()
    }
}

/// What is to be deleted of a group, or of none.
pub(super) struct Clearing {
    group: Option<GroupId>,
    places: VecDeque<Placement>,
}

/// The next of `places` to be dealt with at once.
fn some_of(places: &mut VecDeque<Placement>) -> Vec<Placement> {
    let some = places.len().min(PLACED_AT_ONCE);
    places.drain(..some).collect()
}

/// All that the kernel has.
pub(super) fn look(route: &mut Connection) -> Result<Everything, NetlinkError> {
    Ok(Everything {
        links: address::links(route)?,
        addresses: address::addresses(route)?,
        stopgaps: address::stopgaps(route)?,
    })
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) machine: Machine,
    pub(super) changes: Changes,
    pub(super) route: Connection,
    /// What is to be placed: the groups of [`Effect::Add`], each once, in the order of their
    /// turns.
    pub(super) placing: VecDeque<Placing>,
    /// What is to be deleted: the groups of [`Effect::Clear`], each once, in the order of their
    /// turns.
    pub(super) clearing: VecDeque<Clearing>,
    /// When the next of them may be deleted.
    pub(super) clears_at: Moment,
    pub(super) frames: Option<FrameSocket>,
    pub(super) ender: Ender,
    pub(super) ended: Receiver<Ended>,
    pub(super) lifetime: Lifetime,
    pub(super) reports: Outbox,
}

/// Whether the thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

impl Worker {
    pub(super) fn run(mut self, realtime: Option<u8>) {
        sched::name_thread("traffic");
        if let Some(priority) = realtime
            && let Err(error) = sched::realtime(priority, sched::Share::InTurns)
        {
            self.failed(Attempt::Schedule, error.to_string());
        }
        let mut pacer = Pacer::new(clock::now(), FRAMES_PER_MS, FRAMES_BURST);
        while self.words() == Go::On {
            if let Err(error) = self.settle() {
                self.reconnect(error);
            }
            let pause = self.announce(&mut pacer);
            self.reports.flush();
            if self.place() || self.clear() {
                continue;
            }
            if pause.is_none() {
                *self.shared.status() = self.machine.status();
            }
            self.sleep(pause);
        }
        self.reports.flush();
    }

    /// Hands the machine what was said and what the ender did.
    fn words(&mut self) -> Go {
        self.shared.woken();
        let now = clock::now();
        let words = std::mem::take(&mut *self.shared.words());
        if words.stop {
            return Go::Stop;
        }
        let assigned = words
            .assigned
            .into_iter()
            .map(|(group, new)| Event::Assign(group, new));
        let resets = words.resets.into_iter().map(Event::Reset);
        let wants = words
            .wants
            .into_iter()
            .map(|(group, want)| Event::Want(group, want));
        let doubts = words.doubts.into_iter().map(Event::Doubt);
        for event in assigned.chain(resets).chain(wants).chain(doubts) {
            if let Event::Assign(group, _) = &event {
                // What it had may not belong to it any more.
                self.placing.retain(|other| other.group != *group);
                self.machine.step(now, Event::Tried(*group));
            }
            self.machine.step(now, event);
        }
        while let Ok((ticket, outcome)) = self.ended.try_recv() {
            self.machine.step(now, Event::SocketsEnded(ticket, outcome));
        }
        Go::On
    }

    /// Hears, plans and acts until there is nothing to do now.
    fn settle(&mut self) -> Result<(), NetlinkError> {
        for _ in 0..PLANS_MAX {
            self.hear()?;
            let effects = self.machine.plan(clock::now());
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(effect)?;
            }
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<(), NetlinkError> {
        let now = clock::now();
        let machine = &mut self.machine;
        match self
            .changes
            .hear(|change: Change| machine.step(now, Event::Change(change)))?
        {
            Heard::All => Ok(()),
            Heard::Lost => self.resync(),
        }
    }

    fn resync(&mut self) -> Result<(), NetlinkError> {
        let all = look(&mut self.route)?;
        self.machine.step(clock::now(), Event::Resync(all));
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), NetlinkError> {
        match effect {
            Effect::Add(group, places) => {
                self.placing.push_back(Placing::new(group, places));
                Ok(())
            }
            Effect::Remove(group, places) => {
                let outcomes = address::delete(&mut self.route, &places)?;
                self.refused(Some(group), Attempt::Remove, &places, outcomes)
            }
            Effect::Clear(group, places) => {
                if places.len() > PLACED_AT_ONCE {
                    self.clears_at = clock::now() + CLEARING_WAITS;
                }
                let places = places.into();
                self.clearing.push_back(Clearing { group, places });
                Ok(())
            }
            Effect::RemoveStopgaps(places) => self.remove_stopgaps(&places),
            Effect::RestoreRoutes(group, places) => {
                let outcomes = address::restore_local_routes(&mut self.route, &places)?;
                self.refused(Some(group), Attempt::Place, &places, outcomes)
            }
            Effect::Refresh(places) => {
                // One that was deleted this very moment is made anew by this, which the
                // next plan would do as well. A refusal shows as an address that expires.
                address::add(&mut self.route, &places, self.lifetime, Existing::Refresh)?;
                Ok(())
            }
            Effect::EndSockets(ticket, ips) => {
                if let Err(error) = self.ender.end(ticket, ips) {
                    self.machine
                        .step(clock::now(), Event::SocketsEnded(ticket, Err(error)));
                }
                Ok(())
            }
            Effect::Report(report) => {
                self.reports.tell(report);
                Ok(())
            }
        }
    }

    /// Places some of what is to be placed; whether there was anything. Groups take turns.
    fn place(&mut self) -> bool {
        let Some(mut placing) = self.placing.pop_front() else {
            return false;
        };
        let group = placing.group;
        if !self.machine.places(group) {
            // It is to leave: none of the rest.
            placing = Placing::new(group, Vec::new());
        }
        let placed = if placing.stopgaps.is_empty() {
            let places = some_of(&mut placing.places);
            self.place_some(group, &places)
        } else {
            let places = some_of(&mut placing.stopgaps);
            self.stop_gaps(&places)
        };
        if let Err(error) = placed {
            self.reconnect(error);
            return true;
        }
        if placing.is_done() {
            self.machine.step(clock::now(), Event::Tried(group));
        } else {
            self.placing.push_back(placing);
        }
        true
    }

    /// Deletes some of what is to be deleted; whether there was anything to be done now. Groups
    /// take turns.
    fn clear(&mut self) -> bool {
        if clock::now() < self.clears_at {
            return false;
        }
        let Some(mut clearing) = self.clearing.pop_front() else {
            return false;
        };
        let group = clearing.group;
        let mut places = some_of(&mut clearing.places);
        let is_full = places.len() == PLACED_AT_ONCE;
        // Some may have been wanted back since, or gone with their interface.
        places.retain(|place| self.machine.clears(*place));
        if let Err(error) = self.clear_some(group, &places) {
            self.reconnect(error);
            return true;
        }
        if is_full {
            self.clears_at = clock::now() + CLEARED_PAUSE;
        }
        if clearing.places.is_empty() {
            self.machine.step(clock::now(), Event::Cleared(group));
        } else {
            self.clearing.push_back(clearing);
        }
        true
    }

    fn clear_some(
        &mut self,
        group: Option<GroupId>,
        places: &[Placement],
    ) -> Result<(), NetlinkError> {
        let outcomes = address::delete(&mut self.route, places)?;
        self.refused(group, Attempt::Remove, places, outcomes)?;
        // What is gone is heard of before what is left is looked for.
        self.hear()
    }

    /// One that does not succeed is none: the address itself comes all the same.
    fn stop_gaps(&mut self, places: &[Placement]) -> Result<(), NetlinkError> {
        address::add_stopgaps(&mut self.route, places)?;
        self.hear()
    }

    fn remove_stopgaps(&mut self, places: &[Placement]) -> Result<(), NetlinkError> {
        let outcomes = address::delete_stopgaps(&mut self.route, places)?;
        for (place, outcome) in places.iter().zip(outcomes) {
            // The kernel does not tell of routes that go with their device.
            let is_gone = |error: io::Error| error.raw_os_error() == Some(libc::ESRCH);
            if outcome.is_err_and(is_gone) {
                let gone = Change::StopgapGone(*place);
                self.machine.step(clock::now(), Event::Change(gone));
            }
        }
        Ok(())
    }

    fn place_some(&mut self, group: GroupId, places: &[Placement]) -> Result<(), NetlinkError> {
        let outcomes = address::add(&mut self.route, places, self.lifetime, Existing::Refuse)?;
        self.refused(Some(group), Attempt::Place, places, outcomes)?;
        // What was just placed may have been the last: it is seen before it is missed.
        self.hear()
    }

    /// Tells the machine of the first refusal. One that only says that things are not as
    /// we believed makes us look again.
    fn refused(
        &mut self,
        group: Option<GroupId>,
        what: Attempt,
        places: &[Placement],
        outcomes: Vec<io::Result<()>>,
    ) -> Result<(), NetlinkError> {
        let mut told = None;
        let mut surprise = false;
        for (place, outcome) in places.iter().zip(outcomes) {
            match outcome.map_err(|error| (error.raw_os_error(), error)) {
                Ok(()) => {}
                Err((Some(libc::EEXIST | libc::EADDRNOTAVAIL | libc::ENODEV), _)) => {
                    surprise = true;
                }
                Err((_, error)) => {
                    told.get_or_insert_with(|| explain(what, *place, &error));
                }
            }
        }
        if let (Some(group), Some(error)) = (group, told) {
            self.machine
                .step(clock::now(), Event::Refused(group, what, error));
        }
        if surprise { self.resync() } else { Ok(()) }
    }

    fn reconnect(&mut self, error: NetlinkError) {
        self.failed(Attempt::Listen, error.to_string());
        self.placing.clear();
        self.clearing.clear();
        self.machine.step(clock::now(), Event::Broken);
        std::thread::sleep(NETLINK_RETRY);
        match (Changes::open(), Connection::open(Family::Route)) {
            (Ok(changes), Ok(route)) => {
                self.changes = changes;
                self.route = route;
                if let Err(error) = self.resync() {
                    self.failed(Attempt::Listen, error.to_string());
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                self.failed(Attempt::Listen, error.to_string());
            }
        }
    }

    /// Tells of trouble that concerns all groups.
    fn failed(&mut self, what: Attempt, error: String) {
        self.reports.tell(Report::Failed {
            group: None,
            what,
            error,
        });
    }

    /// Sends what is due and allowed; says how long until more is allowed, if more is due.
    fn announce(&mut self, pacer: &mut Pacer) -> Option<Duration> {
        let mut forwards = BTreeMap::new();
        loop {
            let now = clock::now();
            let limit = pacer.allowed(now) / FRAMES_PER_ADDRESS;
            if limit == 0 {
                // Sleep until a whole turn may leave: fewer wake-ups for the same rate.
                return Some(pacer.wait(TURN as u32 * FRAMES_PER_ADDRESS));
            }
            let volley = self.machine.volley(now, limit as usize)?;
            let round = self.fire(&volley, pacer, &mut forwards);
            self.machine
                .step(clock::now(), Event::Sent(volley.group, round));
            for effect in self.machine.plan(clock::now()) {
                match effect {
                    Effect::Report(report) => self.reports.tell(report),
                    // Not lost: it is planned again as long as it is needed.
                    other => {
                        if let Err(error) = self.carry_out(other) {
                            self.reconnect(error);
                        }
                    }
                }
            }
        }
    }

    fn fire(
        &mut self,
        volley: &Volley,
        pacer: &mut Pacer,
        forwards: &mut BTreeMap<u32, Forwards>,
    ) -> Round {
        let mut round = Round {
            sent: 0,
            dropped: 0,
        };
        self.open_socket(volley.group);
        let Some(socket) = &self.frames else {
            round.dropped = volley.shots.len();
            return round;
        };
        for (place, mac) in &volley.shots {
            let forwards = *forwards
                .entry(place.device)
                .or_insert_with(|| forwarding(&self.machine.device_name(place.device)));
            let (frames, sent) = shoot(socket, *place, *mac, forwards, volley.forms);
            pacer.used(frames);
            match sent {
                Sent::Out => round.sent += 1,
                Sent::Dropped | Sent::Full => round.dropped += 1,
            }
        }
        round
    }

    /// Opens the socket for frames where it could not be opened before.
    fn open_socket(&mut self, group: GroupId) {
        if self.frames.is_some() {
            return;
        }
        match FrameSocket::open() {
            Ok(socket) => self.frames = Some(socket),
            Err(error) => {
                let error = format!("open a socket for announcements: {error}");
                let event = Event::Refused(group, Attempt::Announce, error);
                self.machine.step(clock::now(), event);
            }
        }
    }

    fn sleep(&self, pause: Option<Duration>) {
        let now = clock::now();
        let mut time = now.until(self.machine.deadline()).min(SLEEP_MAX);
        if let Some(pause) = pause {
            time = time.max(pause);
        }
        if !self.clearing.is_empty() {
            time = time.min(now.until(self.clears_at));
        }
        if !self.reports.waiting.is_empty() {
            time = time.min(REPORTS_RETRY);
        }
        let timeout = Timespec::try_from(time).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let mut sources = [
            PollFd::new(&*self.shared, PollFlags::IN),
            PollFd::from_borrowed_fd(self.changes.as_fd(), PollFlags::IN),
        ];
        // An interrupted or failed wait is a short one.
        let _ = poll(&mut sources, Some(&timeout));
    }
}

/// Sends the frames of one address; says how many there were, and the worst that
/// happened to one of them.
fn shoot(
    socket: &FrameSocket,
    place: Placement,
    mac: Mac,
    forwards: Forwards,
    forms: Forms,
) -> (u32, Sent) {
    let (from, most) = match forms {
        Forms::First => (0, 1),
        Forms::Second => (1, usize::MAX),
        Forms::All => (0, usize::MAX),
    };
    let mut count = 0;
    let mut worst = Sent::Out;
    let announcement = announcement(mac, place.ip, forwards);
    for frame in announcement.frames().skip(from).take(most) {
        count += 1;
        let deadline = clock::now() + SOCKET_WAIT;
        let sent = loop {
            match socket.send(place.device, frame) {
                Ok(Sent::Full) if clock::now() < deadline => {
                    wait_writable(socket, clock::now().until(deadline));
                }
                Ok(sent) => break sent,
                // The interface went down or away: its change is being told.
                Err(_) => break Sent::Dropped,
            }
        };
        if sent != Sent::Out {
            worst = sent;
        }
    }
    (count, worst)
}

fn wait_writable(socket: &FrameSocket, time: Duration) {
    let timeout = Timespec::try_from(time).unwrap_or(Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    });
    let _ = poll(
        &mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)],
        Some(&timeout),
    );
}

/// Whether the machine forwards IPv6 on an interface, as the kernel itself says in its
/// own advertisements.
fn forwarding(device: &str) -> Forwards {
    match std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{device}/forwarding")) {
        Ok(text) if text.trim() == "1" => Forwards::Yes,
        Ok(_) | Err(_) => Forwards::No,
    }
}

fn explain(what: Attempt, place: Placement, error: &io::Error) -> String {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM) => ": this process lacks CAP_NET_ADMIN",
        Some(libc::EACCES) if place.ip.is_ipv6() => {
            ": IPv6 is switched off there; set net.ipv6.conf.DEVICE.disable_ipv6=0"
        }
        Some(_) | None => "",
    };
    let verb = match what {
        Attempt::Place => "place",
        Attempt::Remove => "remove",
        Attempt::EndSockets => "end the sockets of",
        Attempt::Announce => "announce",
        Attempt::Hold => "hold attempts to connect to",
        Attempt::Listen | Attempt::Look | Attempt::Schedule => "watch",
    };
    format!(
        "{verb} {} on interface {}: {error}{remedy}",
        place.ip, place.device
    )
}
