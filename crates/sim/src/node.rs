//! A simulated node: a real lease machine, and around it what outlives or stops it.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use evenkeel_core::lease::{Life, Machine, Mirror, Record, Settings, Start};
use evenkeel_core::{GroupId, Incarnation, Moment, NodeId};

use crate::agreement::Told;
use crate::clock::Clock;

/// How a node's daemon ends and begins again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The worker alone: mirror and incarnation stay.
    Worker,
    /// The daemon: the mirror stays, the incarnation is new.
    Daemon,
    /// The daemon, and the mirror is gone.
    Amnesia,
    /// The machine: guard and mirror are gone, the boot clock begins anew.
    Reboot,
}

/// The memory that outlives a process.
#[derive(Clone, Debug)]
pub struct Memory {
    incarnation: Incarnation,
    quiet_until: Moment,
    records: BTreeMap<GroupId, Record>,
}

impl Memory {
    /// The whole of what a machine knows at its start.
    pub fn of(machine: &Machine) -> Self {
        let mirror = machine.mirror();
        Self {
            incarnation: mirror.incarnation,
            quiet_until: mirror.quiet_until,
            records: mirror
                .records
                .into_iter()
                .map(|record| (record.group, record))
                .collect(),
        }
    }

    /// One record, newer.
    pub fn write(&mut self, record: Record) {
        self.records.insert(record.group, record);
    }

    fn mirror(&self) -> Mirror {
        Mirror {
            incarnation: self.incarnation,
            quiet_until: self.quiet_until,
            records: self.records.values().copied().collect(),
        }
    }
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its identity.
    pub id: NodeId,
    /// Its boot clock.
    pub clock: Clock,
    /// What runs on it.
    pub machine: Machine,
    /// The kernel's guard: shut from this moment of its clock on, or a little later;
    /// zero if it was told to shut. Outlives the daemon.
    pub guard: Moment,
    /// How much later it shuts by itself.
    pub guard_late: Duration,
    /// The memory that outlives the daemon.
    pub memory: Memory,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Counts processes, so that what was meant for an older one is dropped.
    pub process: u64,
    /// No process runs until this true time.
    pub down_until: u64,
    /// The process stands still until this true time.
    pub frozen_until: u64,
    /// What its log has to tell, in order.
    pub tells: VecDeque<Told>,
    /// Dies after so many more outputs.
    pub dies_after: Option<usize>,
    /// Stands still for so long between its next step and the outputs of it.
    pub stalls_for: u64,
    /// It stood still between deciding and doing: outputs wait to be polled.
    pub decided: bool,
    /// The newest wake-up asked for.
    pub wake: u64,
}

impl Node {
    /// A node that has just been installed.
    pub fn fresh(
        id: NodeId,
        clock: Clock,
        guard_late: Duration,
        settings: Settings,
        at: u64,
    ) -> Self {
        let incarnation = Incarnation {
            counter: 1,
            nonce: id.0,
        };
        let now = clock.shows(at);
        let life = Life {
            incarnation,
            seq_base: now.as_nanos(),
        };
        let machine = Machine::new(now, settings, life, Start::Fresh);
        Self {
            id,
            clock,
            guard: Moment::ZERO,
            guard_late,
            memory: Memory::of(&machine),
            machine,
            incarnation,
            process: 0,
            down_until: 0,
            frozen_until: 0,
            tells: VecDeque::new(),
            dies_after: None,
            stalls_for: 0,
            decided: false,
            wake: u64::MAX,
        }
    }

    /// The process ends.
    pub fn stop(&mut self, at: u64, restart: Restart, down: u64) {
        self.process += 1;
        self.down_until = at + down;
        self.frozen_until = 0;
        self.tells.clear();
        self.dies_after = None;
        self.stalls_for = 0;
        self.decided = false;
        self.wake = u64::MAX;
        if restart == Restart::Reboot {
            self.guard = Moment::ZERO;
        }
    }

    /// A new process begins. A boot clock that begins anew shows `boot` already.
    pub fn start(&mut self, at: u64, restart: Restart, boot: u64) {
        if restart == Restart::Reboot {
            self.clock = Clock::booted(at, boot, self.clock.rate());
        }
        if restart != Restart::Worker {
            self.incarnation.counter += 1;
            self.incarnation.nonce = self.incarnation.nonce.wrapping_mul(31) + 7;
        }
        let settings = self.machine.settings().clone();
        let start = match restart {
            Restart::Worker | Restart::Daemon => Start::Mirrored(self.memory.mirror()),
            Restart::Amnesia | Restart::Reboot => Start::Amnesiac {
                quiet_for: settings.lease_max,
            },
        };
        let now = self.clock.shows(at);
        let life = Life {
            incarnation: self.incarnation,
            seq_base: now.as_nanos(),
        };
        self.machine = Machine::new(now, settings, life, start);
        self.memory = Memory::of(&self.machine);
    }

    /// Whether its kernel lets the addresses through at true time `at`.
    pub fn open(&self, at: u64) -> bool {
        self.guard > Moment::ZERO && self.clock.shows(at) < self.guard + self.guard_late
    }

    /// Its guard is given a deadline; one that has passed opens nothing.
    pub fn extend(&mut self, at: u64, until: Moment) {
        let late = until <= self.clock.shows(at);
        self.guard = if late { Moment::ZERO } else { until };
    }

    /// Whether a process runs and moves.
    pub fn awake(&self, at: u64) -> bool {
        at >= self.down_until && at >= self.frozen_until
    }
}
