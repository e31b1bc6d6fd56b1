//! A disk in memory with a crash model, for virtual time and tests.
//!
//! A write takes the time that the test has set, and what is under way when the power goes is
//! kept or lost as a whole, which is what the real file promises. After a crash the handle is
//! dead: nothing is written or acknowledged through it any more.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_core::names::GroupId;

use crate::error::DiskError;
use crate::ports::{Disk, Floor, Image, Write};
use crate::writer::raise;

#[derive(Debug, Default)]
struct Platter {
    generation: u64,
    oath: Option<u64>,
    vote: Option<Vec<u8>>,
    committed: Option<Vec<u8>>,
    purged: Option<Vec<u8>>,
    snapshot: Option<Vec<u8>>,
    entries: BTreeMap<u64, Vec<u8>>,
    floors: BTreeMap<GroupId, Floor>,
    latency: Duration,
    under_way: Vec<Write>,
    /// Only handles of this life write.
    life: u64,
}

/// A handle on a disk in memory, of one life of its node.
#[derive(Debug)]
pub struct MemoryDisk {
    platter: Arc<Mutex<Platter>>,
    life: u64,
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self {
            platter: Arc::default(),
            life: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how long every write takes from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// The same disk for the same life: for the test's hands, beside the engine's.
    pub fn share(&self) -> Self {
        Self {
            platter: self.platter.clone(),
            life: self.life,
        }
    }

    /// Cuts the power: earlier handles are dead, and the write that is under way is kept or lost.
    /// The disk for the next life.
    pub fn crash(&self, keep_under_way: bool) -> Self {
        let mut platter = self.lock();
        let under_way = core::mem::take(&mut platter.under_way);
        if keep_under_way {
            platter.put(&under_way);
        }
        platter.life += 1;
        Self {
            platter: self.platter.clone(),
            life: platter.life,
        }
    }
}

impl Platter {
    fn put(&mut self, writes: &[Write]) {
        for write in writes {
            match write.clone() {
                Write::Vote(vote) => self.vote = Some(vote),
                Write::Committed(mark) => self.committed = Some(mark),
                Write::Entry { index, entry } => drop(self.entries.insert(index, entry)),
                Write::TruncateFrom(index) => drop(self.entries.split_off(&index)),
                Write::PurgeTo { index, mark } => {
                    self.entries = self.entries.split_off(&(index + 1));
                    self.purged = Some(mark);
                }
                Write::Snapshot(snapshot) => self.snapshot = Some(snapshot),
                Write::Floor(floor) => raise(&mut self.floors, &floor),
                Write::Oath(oath) => self.oath = Some(oath),
                Write::Generation(generation) => self.generation = generation,
                Write::Forget => {
                    (self.generation, self.oath) = (0, None);
                    (self.vote, self.committed, self.purged) = (None, None, None);
                    self.snapshot = None;
                    self.entries.clear();
                }
                Write::Probe => {}
            }
        }
    }
}

impl Disk for MemoryDisk {
    fn load(&mut self) -> Result<Image, DiskError> {
        let platter = self.lock();
        Ok(Image {
            generation: platter.generation,
            oath: platter.oath,
            vote: platter.vote.clone(),
            committed: platter.committed.clone(),
            purged: platter.purged.clone(),
            snapshot: platter.snapshot.clone(),
            entries: platter
                .entries
                .iter()
                .map(|(index, entry)| (*index, entry.clone()))
                .collect(),
            floors: platter.floors.values().cloned().collect(),
        })
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), DiskError> {
        let mut platter = self.lock();
        if platter.life != self.life {
            return Err(DiskError::Failed);
        }
        platter.under_way.clear();
        platter.put(writes);
        Ok(())
    }

    fn delay(&mut self, writes: &[Write]) -> Duration {
        let mut platter = self.lock();
        if platter.life == self.life {
            platter.under_way = writes.to_vec();
        }
        platter.latency
    }
}
