//! Reports of nodes: `wire::v1::report`.

use evenkeel_wire::v1::report;

use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "report",
    reads: "reports, one-way (decision thread)",
    seeds,
    judge,
    length_max: report::REPORT_LENGTH_MAX / 4,
    memory: MEMORY,
    memory_per_byte: 64,
    mutants: 8000,
};

fn seeds() -> Vec<Vec<u8>> {
    (1..3)
        .map(|seq| report::encode(&values::report(seq)))
        .collect()
}

fn judge(input: &[u8]) {
    let Ok(value) = report::decode(input) else {
        return;
    };
    // Bytes are compared and not values: a measure may be no number.
    let written = report::encode(&value);
    let Ok(again) = report::decode(&written) else {
        panic!("what is read is written, and not read again");
    };
    assert_eq!(report::encode(&again), written, "what is read is written");
}
