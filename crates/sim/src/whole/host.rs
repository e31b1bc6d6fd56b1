//! One machine: what is on its disk, what its kernel keeps, and the worker that runs on it.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use evenkeel_consensus::Event as Agreed;
use evenkeel_core::topology::Topology;
use evenkeel_core::{GroupId, Incarnation, Moment, NodeId};

use super::agreement::SharedLedger;
use super::disk::{Backup, SimDisk};
use super::driver::Driver;
use super::kernel::Kernel;
use super::service::Services;
use super::thread::{Order, Thread, Told};
use crate::clock::Clock;

/// How many earlier lives a state directory remembers.
const LIVES_MAX: usize = 32;

/// The small files of the state directory (`crates/daemon/src/state.rs`).
#[derive(Clone, Debug, Default)]
pub(super) struct StateDir {
    /// How often the daemon was started.
    pub(super) counter: u64,
    /// Its lives, oldest first.
    pub(super) lives: Vec<Incarnation>,
    /// The oaths that are noted beside the log.
    pub(super) oaths: Vec<u64>,
}

impl StateDir {
    /// A new life begins.
    pub(super) fn begin(&mut self, nonce: u64) -> Incarnation {
        self.counter += 1;
        let life = Incarnation {
            counter: self.counter,
            nonce,
        };
        self.lives.push(life);
        if self.lives.len() > LIVES_MAX {
            self.lives.remove(0);
        }
        life
    }
}

/// How a worker begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// The next worker of the same life: it goes on from the mirror.
    Heir,
    /// A new life of the daemon, without memory.
    Life,
    /// The machine was off: guard, mirror and boot clock begin anew.
    Boot,
}

/// One process of the daemon: its threads and what waits between them.
pub(super) struct Worker {
    /// The file that it has read.
    pub(super) topology: Topology,
    /// Its digest.
    pub(super) digest: u64,
    /// The lease thread, once it has begun.
    pub(super) thread: Option<Thread>,
    /// The decision thread, once it has begun.
    pub(super) driver: Option<Driver>,
    /// How it began.
    pub(super) begin: Begin,
    /// The agreed state as its engine drives it.
    pub(super) ledger: SharedLedger,
    /// Orders on their way to the lease thread.
    pub(super) orders: VecDeque<Order>,
    /// News on their way from the lease thread.
    pub(super) news: VecDeque<Told>,
    /// Events on their way from the engine.
    pub(super) agreed: VecDeque<Agreed>,
    /// When the last of each was due: none overtakes another.
    pub(super) due: [u64; 3],
}

/// One machine.
pub(super) struct Host {
    /// Its identity.
    pub(super) id: NodeId,
    /// It votes and hosts nothing.
    pub(super) witness: bool,
    /// Its boot clock.
    pub(super) clock: Clock,
    /// It is paused as a whole.
    pub(super) paused: bool,
    /// How often it was.
    pub(super) pauses: u64,
    /// Until when a pause of the whole machine excuses what its guard lets through (DESIGN 3.1
    /// rule 9).
    pub(super) excused_until: u64,
    /// When its daemon began last.
    pub(super) began: u64,
    /// It has power.
    pub(super) powered: bool,
    /// What the kernel keeps.
    pub(super) kernel: Kernel,
    /// What is beside the log.
    pub(super) state: StateDir,
    /// Where the log is.
    pub(super) disk: SimDisk,
    /// A backup of both.
    pub(super) backup: Option<(StateDir, Backup)>,
    /// The version of the file that is there.
    pub(super) file: usize,
    /// Its present life.
    pub(super) incarnation: Incarnation,
    /// Counts workers, so that what was meant for an older one is dropped.
    pub(super) process: u64,
    /// What runs.
    pub(super) worker: Option<Worker>,
    /// An operator has stopped it: it is not started by itself.
    pub(super) stopped: bool,
    /// It was told to stop, and hands over.
    pub(super) stopping: bool,
    /// The lease thread stands still until then.
    pub(super) thread_frozen: u64,
    /// The decision thread stands still until then.
    pub(super) driver_frozen: u64,
    /// The worker dies after so many more outputs of its lease thread.
    pub(super) dies_after: Option<usize>,
    /// The lease thread stands still for so long between its next step and the outputs of it.
    pub(super) stalls_for: u64,
    /// What runs with the groups, and what is asked about it.
    pub(super) services: Services,
    /// What was last wanted of each group: whether it is announced.
    pub(super) announced: BTreeMap<GroupId, bool>,
}

impl Host {
    /// What its clock shows.
    pub(super) fn now(&self, at: u64) -> Moment {
        self.clock.shows(at)
    }

    /// Whether a packet for the address passes at true time `at`.
    pub(super) fn passes(&self, ip: IpAddr, at: u64) -> bool {
        self.powered && !self.paused && self.kernel.passes(ip, self.now(at))
    }

    /// Whether it serves a group: its guard is open, and it has announced the addresses.
    pub(super) fn serves(&self, group: GroupId, at: u64) -> bool {
        let announced = self.announced.get(&group).copied().unwrap_or(false);
        self.powered && !self.paused && announced && self.kernel.guard.is_open(group, self.now(at))
    }

    /// The lease thread, if there is one.
    pub(super) fn thread(&mut self) -> Option<&mut Thread> {
        self.worker.as_mut()?.thread.as_mut()
    }

    /// The decision thread, if there is one.
    pub(super) fn driver(&mut self) -> Option<&mut Driver> {
        self.worker.as_mut()?.driver.as_mut()
    }

    /// The same, to look at.
    pub(super) fn driver_of(&self) -> Option<&Driver> {
        self.worker.as_ref()?.driver.as_ref()
    }

    /// Whether a worker runs there and moves.
    pub(super) fn is_awake(&self, at: u64) -> bool {
        self.worker.is_some() && at >= self.thread_frozen && at >= self.driver_frozen
    }
}
