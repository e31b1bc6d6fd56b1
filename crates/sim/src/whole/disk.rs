//! A disk: transactions that are slow, hang, fail, and are kept or lost as a whole when the power
//! goes, which is what the real log file promises. The small files of the state directory are
//! written and renamed, so they are whole as well ([`super::host::StateDir`]).

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_consensus::{Disk, DiskError, Floor, Image, Write, virtual_time};
use evenkeel_core::GroupId;

/// How many acknowledged writes a disk that lies keeps in its cache.
const CACHED_MAX: usize = 64;

#[derive(Clone, Debug, Default)]
struct Platter {
    generation: u64,
    oath: Option<u64>,
    vote: Option<Vec<u8>>,
    committed: Option<Vec<u8>>,
    purged: Option<Vec<u8>>,
    snapshot: Option<Vec<u8>>,
    entries: BTreeMap<u64, Vec<u8>>,
    floors: BTreeMap<GroupId, Floor>,
}

impl Platter {
    fn put(&mut self, writes: &[Write]) {
        for write in writes {
            match write.clone() {
                Write::Vote(vote) => self.vote = Some(vote),
                Write::Committed(mark) => self.committed = Some(mark),
                Write::Entry { index, entry } => {
                    self.entries.insert(index, entry);
                }
                Write::TruncateFrom(index) => drop(self.entries.split_off(&index)),
                Write::PurgeTo { index, mark } => {
                    self.entries = self.entries.split_off(&(index + 1));
                    self.purged = Some(mark);
                }
                Write::Snapshot(snapshot) => self.snapshot = Some(snapshot),
                Write::Floor(floor) => self.raise(floor),
                Write::Oath(oath) => self.oath = Some(oath),
                Write::Generation(generation) => self.generation = generation,
                Write::Forget => {
                    let floors = core::mem::take(&mut self.floors);
                    *self = Self {
                        floors,
                        ..Self::default()
                    };
                }
                Write::Probe => {}
            }
        }
    }

    fn raise(&mut self, floor: Floor) {
        let known = self.floors.get(&floor.group);
        if known.is_none_or(|known| known.epoch < floor.epoch) {
            self.floors.insert(floor.group, floor);
        }
    }

    fn image(&self) -> Image {
        let entries = self.entries.iter();
        Image {
            generation: self.generation,
            oath: self.oath,
            vote: self.vote.clone(),
            committed: self.committed.clone(),
            purged: self.purged.clone(),
            snapshot: self.snapshot.clone(),
            entries: entries.map(|(at, entry)| (*at, entry.clone())).collect(),
            floors: self.floors.values().cloned().collect(),
        }
    }
}

#[derive(Debug, Default)]
struct Drive {
    platter: Platter,
    under_way: Vec<Write>,
    /// Acknowledged and not on the platter: only on a disk that lies.
    cached: Vec<Vec<Write>>,
    lies: bool,
    latency: Duration,
    hangs_until: Duration,
    fails: bool,
    /// Only handles of this life write.
    life: u64,
}

/// What was on a disk at some moment.
#[derive(Clone, Debug)]
pub(super) struct Backup(Platter);

/// A handle on a disk, of one process.
#[derive(Debug)]
pub(super) struct SimDisk {
    drive: Arc<Mutex<Drive>>,
    life: u64,
}

impl SimDisk {
    /// An empty disk; one that `lies` acknowledges what it has not written.
    pub(super) fn new(lies: bool) -> Self {
        let drive = Drive {
            lies,
            ..Drive::default()
        };
        Self {
            drive: Arc::new(Mutex::new(drive)),
            life: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Drive> {
        self.drive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long every write takes from now on.
    pub(super) fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Nothing that begins before this true time ends before it.
    pub(super) fn hang_until(&self, until: Duration) {
        self.lock().hangs_until = until;
    }

    /// Whether writes fail.
    pub(super) fn set_failing(&self, fails: bool) {
        self.lock().fails = fails;
    }

    /// The process ends: its handle is dead, and the write under way is kept or lost. So is, if the
    /// power goes, what a disk that lies has in its cache. The handle of the next process.
    pub(super) fn next(&self, keep_under_way: bool, power_goes: bool) -> Self {
        let mut drive = self.lock();
        let under_way = core::mem::take(&mut drive.under_way);
        let cached = core::mem::take(&mut drive.cached);
        if !power_goes {
            for writes in cached {
                drive.platter.put(&writes);
            }
        }
        if keep_under_way && !(power_goes && drive.lies) {
            drive.platter.put(&under_way);
        }
        drive.life += 1;
        let life = drive.life;
        drop(drive);
        Self {
            drive: self.drive.clone(),
            life,
        }
    }

    /// Whether it takes writes, each within `quick` nanoseconds.
    pub(super) fn is_well(&self, at: u64, quick: u64) -> bool {
        let drive = self.lock();
        let hangs = drive.hangs_until > Duration::from_nanos(at);
        !drive.fails && !hangs && drive.latency <= Duration::from_nanos(quick)
    }

    /// A backup of the log.
    pub(super) fn copy(&self) -> Backup {
        Backup(self.lock().platter.clone())
    }

    /// Puts a backup in place of the log; none: an empty disk. No process may run.
    pub(super) fn replace(&self, copy: Option<&Backup>) {
        let mut drive = self.lock();
        drive.platter = copy.map(|copy| copy.0.clone()).unwrap_or_default();
        drive.cached.clear();
        drive.under_way.clear();
    }

    /// Another handle for the same process.
    pub(super) fn share(&self) -> Self {
        Self {
            drive: self.drive.clone(),
            life: self.life,
        }
    }
}

impl Disk for SimDisk {
    fn load(&mut self) -> Result<Image, DiskError> {
        let drive = self.lock();
        if drive.life != self.life || drive.fails {
            return Err(DiskError::Failed);
        }
        let mut whole = drive.platter.clone();
        for writes in &drive.cached {
            whole.put(writes);
        }
        Ok(whole.image())
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), DiskError> {
        let mut drive = self.lock();
        if drive.life != self.life || drive.fails {
            return Err(DiskError::Failed);
        }
        drive.under_way.clear();
        if drive.lies {
            drive.cached.push(writes.to_vec());
            if drive.cached.len() > CACHED_MAX {
                let oldest = drive.cached.remove(0);
                drive.platter.put(&oldest);
            }
        } else {
            drive.platter.put(writes);
        }
        Ok(())
    }

    fn delay(&mut self, writes: &[Write]) -> Duration {
        let mut drive = self.lock();
        if drive.life == self.life {
            drive.under_way = writes.to_vec();
        }
        let hangs = drive.hangs_until.saturating_sub(virtual_time::now());
        drive.latency.max(hangs)
    }
}
