//! The agreed state as a whole, from a leader or from the log: `wire::v1::snapshot`.

use evenkeel_core::ledger::Ledger;
use evenkeel_wire::v1::snapshot;

use crate::{MEMORY, Target, values};

/// As much as the engine takes from a peer is in `agreement`; longer ones say nothing new.
const LENGTH_MAX: usize = 1 << 20;

pub(crate) const TARGET: Target = Target {
    name: "snapshot",
    reads: "the machine's part of snapshots (engine, start)",
    seeds,
    judge,
    length_max: LENGTH_MAX,
    memory: MEMORY,
    memory_per_byte: 96,
    mutants: 8000,
};

fn seeds() -> Vec<Vec<u8>> {
    vec![
        snapshot::encode(&values::ledger()),
        snapshot::encode(&Ledger::default()),
    ]
}

fn judge(input: &[u8]) {
    let Ok(value) = snapshot::decode(input) else {
        return;
    };
    // Bytes are compared and not values: a measure may be no number.
    let written = snapshot::encode(&value);
    let Ok(again) = snapshot::decode(&written) else {
        panic!("what is read is written, and not read again");
    };
    assert_eq!(snapshot::encode(&again), written, "what is read is written");
}
