//! The consensus room's ports: which entries raise floors, and what entries drive
//! (`crates/daemon/src/agreement.rs`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_consensus::{Floor, Floors, Machine, Unreadable};
use evenkeel_core::command::Command;
use evenkeel_core::lease::Assignment;
use evenkeel_core::ledger::Ledger;
use evenkeel_core::{Epoch, GroupId};
use evenkeel_wire::v1::{entry, snapshot};

/// Assignments raise floors; nothing else does.
pub(super) struct AssignmentsRaiseFloors;

impl Floors for AssignmentsRaiseFloors {
    fn floors(&self, payload: &[u8]) -> Vec<(GroupId, Vec<u8>)> {
        match entry::decode(payload) {
            Ok(Command::Assign(assign)) => {
                let floor = entry::encode_floor(assign.holder, assign.incarnation);
                vec![(assign.group, floor)]
            }
            Ok(_) | Err(_) => Vec::new(),
        }
    }
}

/// A durable floor in the lease machine's words.
pub(super) fn assignment_of(floor: &Floor) -> Option<Assignment> {
    let (holder, incarnation) = entry::decode_floor(&floor.assignment).ok()?;
    Some(Assignment {
        group: floor.group,
        epoch: floor.epoch,
        holder,
        incarnation,
    })
}

/// The agreed state of one process, shared between the engine, which drives it, and the driver.
#[derive(Clone, Default)]
pub(super) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of it as it is now.
    pub(super) fn copy(&self) -> Ledger {
        self.lock().clone()
    }

    /// Looks at it.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.lock())
    }
}

impl Machine for SharedLedger {
    fn apply(&mut self, epoch: Epoch, payload: &[u8]) {
        if let Ok(command) = entry::decode(payload) {
            self.lock().apply(epoch, &command);
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        snapshot::encode(&self.lock())
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        let ledger = snapshot::decode(bytes).map_err(|error| Unreadable(error.to_string()))?;
        *self.lock() = ledger;
        Ok(())
    }
}
