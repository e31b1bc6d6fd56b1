//! A client as people have them: a new TCP connection and an HTTP request every so
//! often, whether or not the ones before were answered (an open loop).
//!
//! A request is _good_ when the whole answer, status 200, is there within
//! [`PATIENCE`] of its start; everything else is a failed request (DESIGN 5).

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;
use evenkeel_host::sys::sched::{self, Share};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::Timespec;

use crate::host::Host;

/// The page that names the host at once.
pub(crate) const QUICK: &str = "/who";

/// The page that names it after a while ([`crate::application`]).
pub(crate) const SLOW: &str = "/slow";

/// How long a client waits for the whole answer (DESIGN 5).
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// A new request every so often (DESIGN 7).
pub(crate) const PACE: Duration = Duration::from_millis(2);

/// The same over IPv6: often enough to tell an outage to within a hundredth of a second,
/// seldom enough to leave the machine to the others.
pub(crate) const PACE6: Duration = Duration::from_millis(10);

/// Longest answer that is read: the page is a host's name.
const ANSWER_MAX: usize = 4096;

/// Requests begun in one go, so that a client that is behind attends to those under way
/// as well: one that only begins holds every worker of a server with empty connections.
const BEGUN_MAX: usize = 16;

/// Its priority: a client stands for other machines, which load on the servers does not
/// slow down. Below everything of the daemon.
const PRIORITY: u8 = 1;

/// Most events taken from the kernel at once.
const EVENTS_MAX: usize = 256;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The whole page, which names this host.
    Good(Arc<str>),
    /// The connection was refused or reset, or ended early.
    Broken,
    /// An answer that is not the page.
    Wrong,
    /// Nothing whole within [`PATIENCE`].
    Silent,
    /// The client itself could not ask: says nothing about the servers.
    Unasked,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// When the connection was begun.
    pub(crate) start: Moment,
    /// When its outcome was known.
    pub(crate) end: Moment,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

impl Record {
    /// The whole page came in time.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self.outcome, Outcome::Good(_))
    }
}

#[derive(Debug, Default)]
struct Shared {
    records: Mutex<Vec<Record>>,
    /// When each request was begun, in order.
    starts: Mutex<Vec<Moment>>,
    stopping: AtomicBool,
}

/// A client that is asking.
#[derive(Debug)]
pub(crate) struct Client {
    pace: Duration,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Client {
    /// Begins to ask `target` for `page` every `pace`, from `host`.
    pub(crate) fn start(
        host: &Host,
        target: SocketAddr,
        page: &'static str,
        pace: Duration,
    ) -> Result<Self> {
        let network = host.network()?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("client".into())
            .spawn(move || {
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&network),
                    Some(LinkNameSpaceType::Network),
                )
                .context("entering the client's network")?;
                // The namespace is held by the thread now.
                drop(network);
                // Refused without the right; `Seen::pause` tells how late it ran.
                let _ = sched::realtime(PRIORITY, Share::InTurns);
                Asking::new(target, page, pace, &theirs)?.run()
            })
            .context("starting the client")?;
        Ok(Self {
            pace,
            shared,
            thread: Some(thread),
        })
    }

    /// From one question to the next.
    pub(crate) fn pace(&self) -> Duration {
        self.pace
    }

    /// The requests that have ended since the one numbered `*from`, which is moved on.
    pub(crate) fn since(&self, from: &mut usize) -> Vec<Record> {
        let records = self
            .shared
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let new = records.get(*from..).unwrap_or_default().to_vec();
        *from = records.len();
        new
    }

    /// How many requests were begun from `from` on and before `to`, ended or not.
    pub(crate) fn begun(&self, from: Moment, to: Moment) -> usize {
        let starts = self
            .shared
            .starts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = |moment| starts.partition_point(|start| *start < moment);
        before(to) - before(from)
    }

    /// When the first good answer was there.
    pub(crate) fn first_good(&self) -> Option<Moment> {
        let records = self.records();
        records.iter().find(|one| one.is_good()).map(|one| one.end)
    }

    /// The last good answer, and who gave it.
    pub(crate) fn last_good(&self) -> Option<(Moment, Arc<str>)> {
        let records = self
            .shared
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        records
            .iter()
            .rev()
            .find_map(|record| match &record.outcome {
                Outcome::Good(host) => Some((record.end, Arc::clone(host))),
                _ => None,
            })
    }

    /// All requests that have ended, in the order of their ends.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.since(&mut 0)
    }

    /// Stops asking, waits for what is outstanding, and returns every request.
    pub(crate) fn stop(mut self) -> Result<Vec<Record>> {
        self.end()?;
        Ok(self.records())
    }

    fn end(&mut self) -> Result<()> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(done)) => done,
            Some(Err(_)) => Err(anyhow!("the client panicked")),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// One request under way.
struct Pending {
    socket: OwnedFd,
    start: Moment,
    asked: bool,
    answer: Vec<u8>,
}

/// What has become of a request after an event.
enum Progress {
    Waiting,
    Ended(Outcome),
}

/// The client's thread.
struct Asking<'a> {
    target: SocketAddr,
    pace: Duration,
    question: Vec<u8>,
    epoll: OwnedFd,
    shared: &'a Shared,
    pending: BTreeMap<u64, Pending>,
    /// Numbers in the order of their starts; some have ended already.
    by_age: VecDeque<u64>,
    next_number: u64,
    names: BTreeMap<Vec<u8>, Arc<str>>,
}

impl<'a> Asking<'a> {
    fn new(target: SocketAddr, page: &str, pace: Duration, shared: &'a Shared) -> Result<Self> {
        Ok(Self {
            target,
            pace,
            question: format!("GET {page} HTTP/1.0\r\nHost: {target}\r\n\r\n").into_bytes(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("making an epoll")?,
            shared,
            pending: BTreeMap::new(),
            by_age: VecDeque::new(),
            next_number: 0,
            names: BTreeMap::new(),
        })
    }

    fn run(mut self) -> Result<()> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut due = now();
        loop {
            let stopping = self.shared.stopping.load(Ordering::Relaxed);
            for _ in 0..BEGUN_MAX {
                if stopping || due > now() {
                    break;
                }
                self.begin();
                due += self.pace;
            }
            self.give_up();
            if stopping && self.pending.is_empty() {
                return Ok(());
            }
            let pause = now().until(self.next_deadline(if stopping { Moment::MAX } else { due }));
            let pause = Timespec {
                tv_sec: i64::try_from(pause.as_secs()).unwrap_or(1),
                tv_nsec: i64::from(pause.subsec_nanos()),
            };
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&pause),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(fault) => return Err(fault).context("waiting for answers"),
            }
            for event in &events {
                self.attend(event.data.u64());
            }
        }
    }

    /// The next moment at which something has to be done without an event.
    fn next_deadline(&self, due: Moment) -> Moment {
        let oldest = self
            .pending
            .values()
            .next()
            .map(|pending| pending.start + PATIENCE);
        oldest.map_or(due, |moment| moment.min(due))
    }

    fn connect(&self, number: u64) -> rustix::io::Result<OwnedFd> {
        let family = match self.target {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        // Closing leaves no connection in TIME_WAIT: the ports last for long runs.
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(
            &self.epoll,
            &socket,
            epoll::EventData::new_u64(number),
            events,
        )?;
        match rustix::net::connect(&socket, &self.target) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(fault) => Err(fault),
        }
    }

    fn begin(&mut self) {
        let number = self.next_number;
        self.next_number += 1;
        let start = now();
        self.shared
            .starts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(start);
        match self.connect(number) {
            Ok(socket) => {
                let answer = Vec::new();
                self.pending.insert(
                    number,
                    Pending {
                        socket,
                        start,
                        asked: false,
                        answer,
                    },
                );
                self.by_age.push_back(number);
            }
            Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => {
                self.record(start, Outcome::Broken);
            }
            Err(_) => self.record(start, Outcome::Unasked),
        }
    }

    /// Ends what has waited too long.
    fn give_up(&mut self) {
        let latest = now().back(PATIENCE);
        while let Some(number) = self.by_age.front().copied() {
            match self.pending.get(&number) {
                Some(pending) if pending.start > latest => return,
                Some(_) => self.finish(number, Outcome::Silent),
                None => {}
            }
            self.by_age.pop_front();
        }
    }

    fn attend(&mut self, number: u64) {
        // An event may come after its request was given up.
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        if let Progress::Ended(outcome) = pending.go_on(&self.question, &mut self.names) {
            self.finish(number, outcome);
        }
    }

    fn finish(&mut self, number: u64, outcome: Outcome) {
        if let Some(pending) = self.pending.remove(&number) {
            self.record(pending.start, outcome);
        }
    }

    fn record(&self, start: Moment, outcome: Outcome) {
        self.shared
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Record {
                start,
                end: now(),
                outcome,
            });
    }
}

impl Pending {
    /// Does what can be done without waiting.
    fn go_on(&mut self, question: &[u8], names: &mut BTreeMap<Vec<u8>, Arc<str>>) -> Progress {
        if !self.asked {
            match rustix::net::send(&self.socket, question, rustix::net::SendFlags::NOSIGNAL) {
                Ok(_) => self.asked = true,
                Err(Errno::AGAIN | Errno::NOTCONN) => return Progress::Waiting,
                Err(_) => return Progress::Ended(Outcome::Broken),
            }
        }
        let mut buffer = [0; 1024];
        loop {
            match rustix::io::read(&self.socket, &mut buffer) {
                Ok(0) => return Progress::Ended(self.judge(names).unwrap_or(Outcome::Broken)),
                Ok(length) => self.answer.extend_from_slice(&buffer[..length]),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Progress::Waiting,
                Err(_) => return Progress::Ended(Outcome::Broken),
            }
            if self.answer.len() > ANSWER_MAX {
                return Progress::Ended(Outcome::Wrong);
            }
            if let Some(outcome) = self.judge(names) {
                return Progress::Ended(outcome);
            }
        }
    }

    /// The outcome, if the answer is whole.
    fn judge(&self, names: &mut BTreeMap<Vec<u8>, Arc<str>>) -> Option<Outcome> {
        let end = self
            .answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&self.answer[..end]).ok()?;
        let body = &self.answer[end + 4..];
        let length: usize = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        })?;
        let body = body.get(..length)?;
        let good = head.split_whitespace().nth(1) == Some("200");
        Some(if good {
            let name = names
                .entry(body.to_vec())
                .or_insert_with(|| String::from_utf8_lossy(body).trim().into());
            Outcome::Good(Arc::clone(name))
        } else {
            Outcome::Wrong
        })
    }
}
