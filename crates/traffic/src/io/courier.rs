//! The thread that lets clients go and passes attempts to connect on: it feeds
//! [`Drains`] with frames and with what connections do, and ends those that are idle. It sleeps unless a group leaves as
//! planned, and is an ordinary one, because it looks through all connections of a group.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use evenkeel_core::{GroupId, Moment};
use evenkeel_host::address;
use evenkeel_host::attempt::{ATTEMPT_LENGTH_MAX, readdress};
use evenkeel_host::clock;
use evenkeel_host::frame::{FrameSocket, Mac, Sent};
use evenkeel_host::netlink::{Connection, Family};
use evenkeel_host::reentry::Reentry;
use evenkeel_host::sockets::{self, Conversation, Flight, SocketsError, flights};
use evenkeel_host::sys::{sched, tap::Tap};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::mpsc;

use crate::drain::{Drains, LOOK_EVERY, Output, Wanted};
use crate::machine::{Attempt, Report};

/// Connections looked at; of more, nobody knows what they are doing.
const FLIGHTS_MAX: usize = 65_536;
/// Frames taken before words are listened to again.
const FRAMES_MAX: usize = 256;
/// Reports kept while nobody fetches them; each drain makes four.
const REPORTS_MAX: usize = 4_096;
/// The longest sleep; nothing depends on it.
const SLEEP_MAX: Duration = Duration::from_secs(3_600);

/// When the guard's transaction that holds attempts began and was done; `None` if the
/// guard cannot hold any.
pub type Held = Option<(Moment, Moment)>;

/// Words not heard yet: the newest replaces the older.
#[derive(Debug, Default)]
struct Words {
    wants: BTreeMap<GroupId, Wanted>,
    held: BTreeMap<GroupId, Held>,
    freed: BTreeSet<GroupId>,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    words: Mutex<Words>,
    wake: OwnedFd,
}

impl Shared {
    /// Nothing in these maps is half done when a thread panics.
    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// The way to the thread. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Courier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Courier {
    /// Starts it in the network namespace of the calling thread.
    pub(super) fn start(reports: mpsc::Sender<Report>) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let shared = Arc::new(Shared {
            words: Mutex::default(),
            wake,
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            drains: Drains::default(),
            tap: None,
            out: None,
            seen: Vec::new(),
            trouble: None,
            reports,
            waiting: VecDeque::new(),
        };
        let thread = std::thread::Builder::new()
            .name("traffic-courier".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    pub(super) fn want(&self, group: GroupId, wanted: Wanted) {
        self.shared.words().wants.insert(group, wanted);
        self.shared.wake();
    }

    pub(super) fn held(&self, group: GroupId, held: Held) {
        self.shared.words().held.insert(group, held);
        self.shared.wake();
    }

    pub(super) fn freed(&self, group: GroupId) {
        self.shared.words().freed.insert(group);
        self.shared.wake();
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        self.shared.words().stop = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // A panic was told by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Where frames are sent on: the socket, the hardware address of each device, and the way
/// back into it, made when it is needed.
struct Out {
    socket: FrameSocket,
    macs: BTreeMap<u32, Mac>,
    back: BTreeMap<u32, io::Result<Reentry>>,
}

impl Out {
    fn pass_on(&self, device: u32, frame: &mut [u8], to: Mac) -> Option<()> {
        let from = *self.macs.get(&device)?;
        readdress(frame, to, from).ok()?;
        let sent = self.socket.send(device, frame).ok()?;
        (sent == Sent::Out).then_some(())
    }

    fn put_back(&mut self, device: u32, frame: &mut [u8]) -> Result<(), String> {
        let own = self.macs.get(&device).ok_or("its interface is gone")?;
        let back = self.back.entry(device);
        let back = back.or_insert_with(|| Reentry::open(device));
        let back = back.as_ref().map_err(ToString::to_string)?;
        back.put_back(frame, *own)
            .map_err(|error| error.to_string())
    }
}

struct Worker {
    shared: Arc<Shared>,
    drains: Drains,
    tap: Option<Tap>,
    out: Option<Out>,
    /// The connections at the last look.
    seen: Vec<Conversation>,
    /// Why they cannot be seen or ended, if that was told.
    trouble: Option<String>,
    reports: mpsc::Sender<Report>,
    waiting: VecDeque<Report>,
}

impl Worker {
    fn run(mut self) {
        sched::name_thread("traffic-courier");
        // Refused without the right: then it runs like everything else.
        let _ = sched::favoured();
        while self.hear() {
            let now = clock::now();
            if self.look(now) {
                self.copy(now);
            }
            self.drains.tick(now);
            self.act();
            if !self.drains.copies() {
                (self.tap, self.out) = (None, None);
            }
            self.sleep();
        }
    }

    /// Takes words, then frames. False if it is to end.
    fn hear(&mut self) -> bool {
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        let words = std::mem::take(&mut *self.shared.words());
        if words.stop {
            return false;
        }
        let now = clock::now();
        for (group, wanted) in words.wants {
            self.drains.want(now, group, wanted);
        }
        for (group, held) in words.held {
            self.drains.held(now, group, held);
        }
        for group in words.freed {
            self.drains.freed(now, group);
        }
        self.take_frames();
        true
    }

    fn take_frames(&mut self) {
        let Some(tap) = &self.tap else { return };
        let mut buffer = [0; ATTEMPT_LENGTH_MAX];
        for _ in 0..FRAMES_MAX {
            // A device that has gone, or a damaged socket: what comes through counts.
            let Ok(Some(seen)) = tap.receive(&mut buffer) else {
                return;
            };
            let frame = &buffer[..seen.length];
            self.drains.frame(clock::now(), seen.device, frame);
        }
    }

    /// Looks at connections if that is due. True if attempts are to be copied now.
    fn look(&mut self, now: Moment) -> bool {
        let addresses = self.drains.to_look_at(now);
        if addresses.is_empty() {
            return false;
        }
        let found = Connection::open(Family::Sockets)
            .map_err(SocketsError::from)
            .and_then(|mut kernel| flights(&mut kernel, &addresses, FLIGHTS_MAX));
        let (found, whole) = match found {
            Ok(found) => {
                let whole = found.len() < FLIGHTS_MAX;
                (found, whole)
            }
            Err(error) => {
                self.failed(&error);
                (Vec::new(), false)
            }
        };
        let flights: Vec<Flight> = found.iter().map(|(_, flight)| *flight).collect();
        self.seen = found.into_iter().map(|(one, _)| one).collect();
        self.drains.looked(clock::now(), &flights, whole)
    }

    /// Tells once of each reason.
    fn failed(&mut self, error: &SocketsError) {
        let error = error.to_string();
        if self.trouble.as_ref() != Some(&error) {
            self.tell(Report::Failed {
                group: None,
                what: Attempt::Look,
                error: error.clone(),
            });
            self.trouble = Some(error);
        }
    }

    fn tell(&mut self, report: Report) {
        if self.waiting.len() < REPORTS_MAX {
            self.waiting.push_back(report);
        }
    }

    /// Ends connections that were seen.
    fn end(&mut self, ends: &[(SocketAddr, SocketAddr)]) {
        let ends: BTreeSet<_> = ends.iter().collect();
        let seen = self.seen.iter();
        let chosen = seen.filter(|one| ends.contains(&(one.remote, one.local)));
        let chosen: Vec<Conversation> = chosen.copied().collect();
        let ended = Connection::open(Family::Sockets)
            .map_err(SocketsError::from)
            .and_then(|mut kernel| sockets::end(&mut kernel, &chosen));
        // What cannot be ended now is ended with the rest.
        if let Err(error) = ended {
            self.failed(&error);
        }
    }

    fn put_back(&mut self, group: GroupId, frames: Vec<(u32, Vec<u8>)>, dropped: usize) {
        let (mut back, mut lost) = (0, dropped);
        let mut reason = None;
        for (device, mut frame) in frames {
            let out = self.out.as_mut().ok_or_else(String::new);
            match out.and_then(|out| out.put_back(device, &mut frame)) {
                Ok(()) => back += 1,
                Err(error) => {
                    lost += 1;
                    reason = Some(error);
                }
            }
        }
        if let Some(error) = reason {
            self.tell(Report::Failed {
                group: Some(group),
                what: Attempt::Hold,
                error: format!("let what was held come in again: {error}"),
            });
        }
        self.tell(Report::PutBack {
            group,
            attempts: back,
            dropped: lost,
        });
    }

    fn copy(&mut self, now: Moment) {
        if self.tap.is_some() {
            return self.drains.copying();
        }
        let opened = Tap::open().and_then(|tap| {
            tap.keep_attempts()?;
            let socket = FrameSocket::open()?;
            Ok((tap, socket))
        });
        let macs = own_macs();
        match (opened, macs) {
            (Ok((tap, socket)), Ok(macs)) => {
                self.tap = Some(tap);
                self.out = Some(Out {
                    socket,
                    macs,
                    back: BTreeMap::new(),
                });
                self.drains.copying();
            }
            (Err(error), _) => self.drains.cannot_copy(now, &error.to_string()),
            (_, Err(error)) => self.drains.cannot_copy(now, &error),
        }
    }

    fn act(&mut self) {
        for output in self.drains.outputs() {
            match output {
                Output::Report(report) => self.tell(report),
                Output::PassOn {
                    group,
                    device,
                    mut frame,
                    to,
                } => {
                    let out = self.out.as_ref();
                    let sent = out.and_then(|out| out.pass_on(device, &mut frame, to));
                    if sent.is_none() {
                        self.drains.not_passed(group);
                    }
                }
                Output::PutBack {
                    group,
                    frames,
                    dropped,
                } => self.put_back(group, frames, dropped),
                Output::End(ends) => self.end(&ends),
            }
        }
        while let Ok(place) = self.reports.try_reserve() {
            let Some(report) = self.waiting.pop_front() else {
                return;
            };
            place.send(report);
        }
    }

    fn sleep(&self) {
        let now = clock::now();
        let mut pause = self.drains.next().map_or(SLEEP_MAX, |at| now.until(at));
        if !self.waiting.is_empty() && !self.reports.is_closed() {
            pause = pause.min(LOOK_EVERY);
        }
        let pause = Timespec {
            tv_sec: i64::try_from(pause.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(pause.subsec_nanos()),
        };
        let mut fds = vec![PollFd::from_borrowed_fd(
            self.shared.wake.as_fd(),
            PollFlags::IN,
        )];
        if let Some(tap) = &self.tap {
            fds.push(PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN));
        }
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, Some(&pause));
    }
}

fn own_macs() -> Result<BTreeMap<u32, Mac>, String> {
    let mut route = Connection::open(Family::Route).map_err(|error| error.to_string())?;
    let links = address::links(&mut route).map_err(|error| error.to_string())?;
    let links = links.into_iter();
    Ok(links
        .filter_map(|link| Some((link.index, link.mac?)))
        .collect())
}
