//! The consensus engine under any series of requests of peers that have proved their names. It may
//! refuse them; it may not stop, forget a floor, or leave anybody without an answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evenkeel_consensus::{
    BoxFuture, Disk, DiskError, ElectionTiming, Engine, Floor, Image, Live, Network, NetworkError,
    Ports, Settings, Write,
};
use evenkeel_core::NodeId;
use evenkeel_daemon::fuzzing::agreed;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::input::{Input, piece};
use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "agreement",
    reads: "series of requests between engines, as the engine takes them (decision thread)",
    seeds,
    judge,
    length_max: 64 * 1024,
    // The engine with its queues, and a runtime.
    memory: 4 * MEMORY,
    memory_per_byte: 512,
    mutants: 150,
};

/// An answer comes by then on the busiest machine, or never.
const PATIENCE: Duration = Duration::from_secs(20);

/// So long that the engine does nothing by itself meanwhile.
const TIMING: ElectionTiming = ElectionTiming {
    heartbeat: Duration::from_secs(10),
    election_min: Duration::from_secs(100),
    election_max: Duration::from_secs(200),
    append_slow: Duration::from_secs(100),
    propose_within: Duration::from_millis(10),
};

/// Nobody can be reached.
pub(super) struct Nobody;

impl Network for Nobody {
    fn request(
        &self,
        _: NodeId,
        _: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<Result<Vec<u8>, NetworkError>> {
        Box::pin(async { Err(NetworkError::Unreachable("nobody".to_owned())) })
    }
}

/// A disk that holds what it is given, and shows the floors.
#[derive(Clone, Default)]
pub(super) struct Shelf(pub(super) Arc<Mutex<Image>>);

impl Shelf {
    fn floors(&self) -> Vec<Floor> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .floors
            .clone()
    }
}

impl Disk for Shelf {
    fn load(&mut self) -> Result<Image, DiskError> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), DiskError> {
        let mut image = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            if let Write::Floor(floor) = write {
                let known = image
                    .floors
                    .iter_mut()
                    .find(|known| known.group == floor.group);
                match known {
                    Some(known) if known.epoch >= floor.epoch => {}
                    Some(known) => *known = floor.clone(),
                    None => image.floors.push(floor.clone()),
                }
            }
        }
        Ok(())
    }
}

pub(super) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// An engine of the first node on that disk; none if it cannot be started from it.
pub(super) async fn start(shelf: Shelf) -> Option<Engine<Live>> {
    let nodes = values::nodes();
    let settings = Settings {
        timing: TIMING,
        ..Settings::new(nodes[0], nodes.to_vec())
    };
    let (machine, floors) = agreed();
    let ports = Ports {
        disk: Box::new(shelf),
        network: Arc::new(Nobody),
        machine,
        floors,
    };
    let (engine, _events) = Engine::<Live>::start(settings, ports).await.ok()?;
    Some(engine)
}

fn seeds() -> Vec<Vec<u8>> {
    use evenkeel_consensus::fuzzing::examples;
    use evenkeel_wire::v1::{entry, snapshot};
    let nodes = values::nodes();
    let payload = entry::encode(&values::commands()[2]);
    let agreed = snapshot::encode(&values::ledger());
    let requests = examples(nodes[1], &nodes, &payload, &agreed);
    let requests: Vec<Vec<u8>> = requests
        .into_iter()
        .filter(|(form, _)| *form == 0)
        .map(|(_, bytes)| [&[0][..], &piece(&bytes)].concat())
        .collect();
    let mut seeds = vec![requests.concat()];
    let reversed: Vec<Vec<u8>> = requests.iter().rev().cloned().collect();
    seeds.push(reversed.concat());
    seeds.extend(requests);
    seeds
}

fn judge(input: &[u8]) {
    let nodes = values::nodes();
    let shelf = Shelf::default();
    runtime().block_on(async {
        let engine = start(shelf.clone()).await.expect("a new log");
        let mut input = Input(input);
        let mut floors = Vec::new();
        while !input.is_over() {
            let from = nodes[1 + usize::from(input.below(2))];
            let request = input.piece().to_vec();
            let answer = timeout(PATIENCE, engine.handle(from, request)).await;
            assert!(answer.is_ok_and(|answer| !answer.is_empty()), "no answer");
            let now = engine.floors();
            kept(&floors, &now);
            floors = now;
        }
        let stopped = engine.status().stopped;
        assert_eq!(stopped, None, "the engine has stopped");
        assert!(timeout(PATIENCE, engine.shutdown()).await.is_ok(), "no end");
        kept(&floors, &shelf.floors());
    });
}

/// No floor sinks or is lost.
fn kept(before: &[Floor], after: &[Floor]) {
    for floor in before {
        let now = after.iter().find(|now| now.group == floor.group);
        assert!(
            now.is_some_and(|now| now.epoch >= floor.epoch),
            "{floor:?} is lost"
        );
    }
}
