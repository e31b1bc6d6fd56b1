//! The mover itself: a thread that feeds the machine with words and changes, carries
//! out its effects, and tells.

mod courier;
mod ender;
mod flows;
mod worker;

pub use self::flows::{FlowReport, FlowWatch, Snapshots};

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use evenkeel_core::GroupId;
use evenkeel_core::topology::ServiceAddress;
use evenkeel_host::address::{self, Changes, Owner};
use evenkeel_host::frame::FrameSocket;
use evenkeel_host::netlink::{Connection, Family};
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::CapabilitySet;
use tokio::sync::mpsc;

use self::courier::Courier;
pub use self::courier::Held;

use crate::drain::Wanted;
use crate::machine::{GroupStatus, Report, Want};
use crate::resolve::{Site, resolve};
use crate::{TrafficError, machine};

/// How long the kernel keeps an address that nobody refreshes: the coarse belt for the
/// day when daemon and guard are both gone. Many times the restart of a worker, and
/// refreshing 2,000 addresses every third of it costs under 1 % of a processor.
pub const BELT: Duration = Duration::from_secs(30);

/// What a mover needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The groups that this node may hold, with their addresses.
    pub groups: Vec<(GroupId, Vec<ServiceAddress>)>,
    /// How long an address outlives the mover; `None` for ever. [`BELT`] unless there
    /// is a reason. The kernel counts in seconds.
    pub belt: Option<Duration>,
    /// The real-time priority of the mover's thread, below those of the lease and
    /// decision threads; `None` for an ordinary one. Where the system refuses it, the
    /// thread is ordinary and a warning says so.
    pub realtime: Option<u8>,
}

impl Settings {
    /// The usual settings for `groups`.
    pub fn new(groups: Vec<(GroupId, Vec<ServiceAddress>)>) -> Self {
        Self {
            groups,
            belt: Some(BELT),
            realtime: None,
        }
    }
}

/// Words not yet heard by the mover's thread. The newest replaces the older: nothing is
/// queued, so nothing here can overflow.
#[derive(Debug, Default)]
struct Words {
    assigned: BTreeMap<GroupId, Vec<Site>>,
    wants: BTreeMap<GroupId, Want>,
    resets: BTreeSet<GroupId>,
    doubts: BTreeSet<GroupId>,
    stop: bool,
}

/// What the handle and the threads share.
#[derive(Debug)]
struct Shared {
    words: Mutex<Words>,
    status: Mutex<BTreeMap<GroupId, GroupStatus>>,
    wake: OwnedFd,
}

impl Shared {
    fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self {
            words: Mutex::default(),
            status: Mutex::default(),
            wake,
        })
    }

    /// Nothing in these maps is half done when a thread panics.
    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, BTreeMap<GroupId, GroupStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn woken(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// The handle of a running mover. Its calls never wait for the kernel (but for
/// [`Mover::assign`]) and may come from any thread. Dropped, the mover stops and leaves
/// the addresses as they are, for the next life to adopt; say `Absent` and wait for
/// [`Report::Gone`] before, where they should go.
#[derive(Debug)]
pub struct Mover {
    shared: Arc<Shared>,
    courier: Courier,
    /// The addresses of each group, for the courier.
    addresses: Mutex<BTreeMap<GroupId, BTreeSet<IpAddr>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Mover {
    /// Starts a mover in the network namespace of the calling thread. It finds the
    /// interface of every address and refuses to start if one has no place or is
    /// configured by the system itself; nothing is changed then.
    ///
    /// Addresses that an earlier life left behind stay as they are until something is
    /// wanted of their group, so that a restarted worker disturbs nobody.
    ///
    /// Waits for the kernel, some milliseconds. `reports` should hold a few hundred; if
    /// nobody fetches them, the newest wait inside the mover, then the oldest are
    /// dropped ([`Report::Missed`]). The channel closes if the mover's thread dies.
    pub fn start(settings: Settings, reports: mpsc::Sender<Report>) -> Result<Self, TrafficError> {
        // Listening starts before looking: what changes in between is heard.
        let changes = Changes::open()?;
        let mut route = Connection::open(Family::Route)?;
        let all = worker::look(&mut route)?;
        let count: usize = settings
            .groups
            .iter()
            .map(|(_, addresses)| addresses.len())
            .sum();
        if count > 0 {
            require_right(count)?;
        }
        let mut sites = Vec::new();
        for (group, wanted) in &settings.groups {
            sites.push((*group, resolve(wanted, &all.links, &all.addresses)?));
        }
        let frames = match FrameSocket::open() {
            Ok(frames) => Some(frames),
            // A witness announces nothing and needs no right to.
            Err(_) if count == 0 => None,
            Err(error) => return Err(TrafficError::Frames(error)),
        };
        let shared = Arc::new(Shared::new().map_err(TrafficError::Start)?);
        let (ender, ended) = ender::start(Arc::clone(&shared)).map_err(TrafficError::Start)?;
        let mut machine = machine::Machine::new(settings.belt.map(|belt| belt / 3));
        let now = evenkeel_host::clock::now();
        let members = sites
            .iter()
            .map(|(group, sites)| (*group, sites.iter().map(|site| site.ip).collect()));
        let members: BTreeMap<GroupId, BTreeSet<IpAddr>> = members.collect();
        for (group, sites) in sites {
            machine.step(now, machine::Event::Assign(group, sites));
        }
        machine.step(now, machine::Event::Resync(all));
        let worker = worker::Worker {
            shared: Arc::clone(&shared),
            machine,
            changes,
            route,
            placing: std::collections::VecDeque::new(),
            clearing: std::collections::VecDeque::new(),
            clears_at: evenkeel_core::Moment::ZERO,
            frames,
            ender,
            ended,
            lifetime: settings
                .belt
                .map_or(address::Lifetime::Endless, address::Lifetime::at_least),
            reports: worker::Outbox::new(reports.clone()),
        };
        let thread = std::thread::Builder::new()
            .name("traffic".to_owned())
            .spawn(move || worker.run(settings.realtime))
            .map_err(TrafficError::Start)?;
        Ok(Self {
            shared,
            courier: Courier::start(reports).map_err(TrafficError::Start)?,
            addresses: Mutex::new(members),
            threads: vec![thread],
        })
    }

    /// Says what is wanted of `group` from now on. An unknown group is ignored.
    pub fn want(&self, group: GroupId, want: Want) {
        self.courier.want(group, self.wanted(group, want));
        self.shared.words().wants.insert(group, want);
        self.shared.wake();
    }

    /// What is wanted, as the courier has to know it.
    fn wanted(&self, group: GroupId, want: Want) -> Wanted {
        match want {
            Want::Draining { epoch, drain } => {
                let all = self.addresses.lock();
                let all = all.unwrap_or_else(PoisonError::into_inner);
                Wanted::Draining {
                    epoch,
                    drain,
                    addresses: all.get(&group).cloned().unwrap_or_default(),
                }
            }
            Want::Absent => Wanted::Absent,
            Want::Closed | Want::Open { .. } => Wanted::Present,
        }
    }

    fn consists_of(&self, group: GroupId, sites: &[Site]) {
        let all = self.addresses.lock();
        let mut all = all.unwrap_or_else(PoisonError::into_inner);
        all.insert(group, sites.iter().map(|site| site.ip).collect());
    }

    /// A planned farewell: the connections to the group's addresses are ended, so that
    /// clients learn at once ([`Report::Reset`]), then the addresses go
    /// ([`Report::Gone`]). Call it while the guard is open still, and close the guard
    /// after `Reset`: a closed guard drops the resets.
    pub fn release(&self, group: GroupId) {
        self.want(group, Want::Absent);
    }

    /// Ends the connections to the group's addresses and leaves the addresses as they
    /// are. [`Report::Reset`] says when it is done.
    pub fn reset(&self, group: GroupId) {
        self.shared.words().resets.insert(group);
        self.shared.wake();
    }

    /// There is a reason to announce the group anew: somebody else answered for one of
    /// its addresses, this machine was paused. Does nothing unless the group is open.
    pub fn doubt(&self, group: GroupId) {
        self.shared.words().doubts.insert(group);
        self.shared.wake();
    }

    /// The answer to [`Report::Holding`]: the guard drops attempts to connect to the
    /// draining group since some moment between `began` and `done` of its transaction;
    /// `None` if it cannot. Attempts from before are this node's own; later ones are held.
    pub fn held(&self, group: GroupId, transaction: Held) {
        self.courier.held(group, transaction);
    }

    /// The guard does not drop attempts to connect to the group any more: those that were
    /// kept come in again, if the group stays ([`Report::PutBack`]).
    pub fn freed(&self, group: GroupId) {
        self.courier.freed(group);
    }

    /// The group consists of `addresses` from now on; what it had besides is taken away.
    /// Refused as [`Mover::start`] refuses, and then nothing changes. Waits for the
    /// kernel, some milliseconds; call it in the mover's network namespace.
    pub fn assign(&self, group: GroupId, addresses: &[ServiceAddress]) -> Result<(), TrafficError> {
        let sites = sites_of(addresses)?;
        self.consists_of(group, &sites);
        self.shared.words().assigned.insert(group, sites);
        self.shared.wake();
        Ok(())
    }

    /// What each group looks like, as the mover's thread saw it last.
    pub fn status(&self) -> BTreeMap<GroupId, GroupStatus> {
        self.shared.status().clone()
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.shared.words().stop = true;
        self.shared.wake();
        for thread in self.threads.drain(..) {
            // A panic was told by the panic hook, and by the closed channel.
            let _ = thread.join();
        }
    }
}

/// Whether a mover here could place `addresses`; changes nothing. Waits for the kernel, some
/// milliseconds.
///
/// # Errors
///
/// As [`Mover::start`] refuses.
pub fn fits(addresses: &[ServiceAddress]) -> Result<(), TrafficError> {
    sites_of(addresses).map(drop)
}

/// What movers have placed on this machine. Waits for the kernel, some milliseconds; call it in
/// the mover's network namespace.
///
/// # Errors
///
/// The kernel does not answer.
pub fn placed() -> Result<Vec<ServiceAddress>, TrafficError> {
    let mut route = Connection::open(Family::Route)?;
    let links = address::links(&mut route)?;
    let present = address::addresses(&mut route)?;
    let ours = present.iter().filter(|one| one.owner == Owner::Evenkeel);
    let named = |index: u32| links.iter().find(|link| link.index == index);
    Ok(ours
        .filter_map(|one| {
            Some(ServiceAddress {
                ip: one.ip,
                prefix: one.prefix,
                device: Some(named(one.device)?.name.clone()),
            })
        })
        .collect())
}

fn sites_of(addresses: &[ServiceAddress]) -> Result<Vec<Site>, TrafficError> {
    let mut route = Connection::open(Family::Route)?;
    let links = address::links(&mut route)?;
    let present = address::addresses(&mut route)?;
    let sites = resolve(addresses, &links, &present)?;
    if !sites.is_empty() {
        require_right(sites.len())?;
    }
    Ok(sites)
}

fn require_right(addresses: usize) -> Result<(), TrafficError> {
    let rights = rustix::thread::capabilities(None);
    let rights = rights.map_or(CapabilitySet::all(), |sets| sets.effective);
    if rights.contains(CapabilitySet::NET_ADMIN) {
        Ok(())
    } else {
        Err(TrafficError::Right(addresses))
    }
}
