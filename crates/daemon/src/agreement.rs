//! The consensus room's ports: which entries raise floors, what entries drive, and the
//! way to the peers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evenkeel_consensus::{BoxFuture, Floor, Floors, Machine, Network, NetworkError, Unreadable};
use evenkeel_core::command::Command;
use evenkeel_core::lease::Assignment;
use evenkeel_core::ledger::Ledger;
use evenkeel_core::{Epoch, GroupId, NodeId};
use evenkeel_transport::{Endpoint, TransportError};
use evenkeel_wire::v1::{entry, snapshot};

use crate::peers::RAFT;

/// Assignments raise floors; nothing else does.
pub struct AssignmentsRaiseFloors;

impl Floors for AssignmentsRaiseFloors {
    fn floors(&self, payload: &[u8]) -> Vec<(GroupId, Vec<u8>)> {
        match entry::decode(payload) {
            Ok(Command::Assign(assign)) => {
                vec![(
                    assign.group,
                    entry::encode_floor(assign.holder, assign.incarnation),
                )]
            }
            Ok(
                Command::Started { .. }
                | Command::Readmit { .. }
                | Command::Opened(_)
                | Command::Recovered(_)
                | Command::Drain(_)
                | Command::Undrain { .. }
                | Command::Forgive { .. },
            ) => Vec::new(),
            // From a newer version: every node of this version skips it alike.
            Err(_) => Vec::new(),
        }
    }

    fn reads(&self, bytes: &[u8]) -> Result<(), Unreadable> {
        let read = snapshot::decode(bytes).map(drop);
        read.map_err(|error| Unreadable(error.to_string()))
    }
}

/// A durable floor in the lease machine's words.
pub fn assignment_of(floor: &Floor) -> Option<Assignment> {
    let (holder, incarnation) = entry::decode_floor(&floor.assignment).ok()?;
    Some(Assignment {
        group: floor.group,
        epoch: floor.epoch,
        holder,
        incarnation,
    })
}

/// The agreed state, shared between the engine, which drives it, and those who look.
#[derive(Clone, Default)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of it as it is now.
    pub fn copy(&self) -> Ledger {
        self.lock().clone()
    }

    /// Forgets everything: another generation's log begins. The engine must not run.
    pub fn clear(&self) {
        *self.lock() = Ledger::default();
    }

    /// Looks at it.
    pub fn with<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.lock())
    }
}

impl Machine for SharedLedger {
    fn apply(&mut self, epoch: Epoch, payload: &[u8]) {
        match entry::decode(payload) {
            Ok(command) => {
                self.lock().apply(epoch, &command);
            }
            Err(error) => tracing::error!(%error, "an agreed entry cannot be read and is skipped"),
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

/// Requests between engines travel as requests between nodes.
pub struct OverQuic(pub Endpoint);

impl Network for OverQuic {
    fn request(
        &self,
        to: NodeId,
        request: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<Result<Vec<u8>, NetworkError>> {
        let endpoint = self.0.clone();
        Box::pin(async move {
            let answer = endpoint.request(to, RAFT, request.into(), ttl).await;
            answer.map(Vec::from).map_err(|error| match error {
                TransportError::Deadline(_) => NetworkError::TimedOut,
                other => NetworkError::Unreachable(other.to_string()),
            })
        })
    }
}
