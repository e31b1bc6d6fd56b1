//! What the engine finds in its log at a start: any values in their places.

use std::sync::{Arc, Mutex};

use evenkeel_consensus::fuzzing::examples;
use evenkeel_consensus::{Floor, Image};
use evenkeel_core::GroupId;
use evenkeel_wire::v1::{entry, snapshot};

use super::agreement::{Shelf, runtime, start};
use crate::input::{Input, piece};
use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "stored_log",
    reads: "values in the log, as the engine takes them up (start)",
    seeds,
    judge,
    length_max: 64 * 1024,
    memory: 4 * MEMORY,
    memory_per_byte: 512,
    mutants: 150,
};

fn seeds() -> Vec<Vec<u8>> {
    let nodes = values::nodes();
    let payload = entry::encode(&values::commands()[2]);
    let agreed = snapshot::encode(&values::ledger());
    let all = examples(nodes[1], &nodes, &payload, &agreed);
    // By form: entries 2, votes 3, marks 4, floors 5, snapshots 6 (`fuzzing::FORMS`).
    let of = |form: usize| {
        let found = all.iter().find(|(one, _)| *one == form);
        found.map(|(_, bytes)| piece(bytes)).unwrap_or_default()
    };
    let entry = |index: u8| [&[4, index][..], &of(2)].concat();
    let (vote, mark) = ([&[0][..], &of(3)].concat(), of(4));
    let committed = [&[1][..], &mark].concat();
    let purged = [&[2][..], &mark].concat();
    let snapshot = [&[3][..], &of(6)].concat();
    vec![
        [vote.clone(), committed.clone(), entry(4)].concat(),
        [vote, snapshot, purged, entry(5)].concat(),
        [&committed[..], &[5, 3], &of(5), &entry(4), &entry(5)].concat(),
    ]
}

fn judge(input: &[u8]) {
    let mut image = Image::default();
    let mut input = Input(input);
    while !input.is_over() {
        match input.below(7) {
            0 => image.vote = Some(input.piece().to_vec()),
            1 => image.committed = Some(input.piece().to_vec()),
            2 => image.purged = Some(input.piece().to_vec()),
            3 => image.snapshot = Some(input.piece().to_vec()),
            4 => {
                let index = u64::from(input.byte());
                image.entries.retain(|(known, _)| *known < index);
                image.entries.push((index, input.piece().to_vec()));
            }
            5 => {
                let group = GroupId(u64::from(input.byte()));
                image.floors.retain(|floor| floor.group != group);
                image.floors.push(Floor {
                    group,
                    epoch: values::epoch(u64::from(input.byte())),
                    assignment: input.piece().to_vec(),
                });
            }
            _ => image.oath = Some(input.number()),
        }
    }
    let floors = image.floors.clone();
    let shelf = Shelf(Arc::new(Mutex::new(image)));
    runtime().block_on(async {
        let Some(engine) = start(shelf).await else {
            return;
        };
        let found = engine.floors();
        for floor in &floors {
            let same = found.iter().find(|one| one.group == floor.group);
            assert!(
                same.is_some_and(|one| one.epoch >= floor.epoch),
                "{floor:?} is lost at a start"
            );
        }
        let stopped = engine.status().stopped;
        assert_eq!(stopped, None, "it has started, and stopped");
        engine.shutdown().await;
    });
}
