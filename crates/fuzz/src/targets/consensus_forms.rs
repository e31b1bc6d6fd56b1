//! What engines say to each other and keep: every form of `consensus::v1`.

use evenkeel_consensus::fuzzing::{FORMS, examples};
use evenkeel_wire::v1::{entry, snapshot};

use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "consensus_forms",
    reads: "requests, replies, entries, votes, marks, floors, snapshots (engine, start)",
    seeds,
    judge,
    length_max: 256 * 1024,
    memory: MEMORY,
    memory_per_byte: 128,
    mutants: 10_000,
};

fn seeds() -> Vec<Vec<u8>> {
    let nodes = values::nodes();
    let payload = entry::encode(&values::commands()[2]);
    let agreed = snapshot::encode(&values::ledger());
    let examples = examples(nodes[1], &nodes, &payload, &agreed);
    examples
        .into_iter()
        .map(|(form, bytes)| [&[form as u8][..], &bytes].concat())
        .collect()
}

fn judge(input: &[u8]) {
    let Some((form, bytes)) = input.split_first() else {
        return;
    };
    let (name, again) = FORMS[usize::from(*form) % FORMS.len()];
    if let Some(written) = again(bytes) {
        assert_eq!(
            again(&written),
            Some(written.clone()),
            "{name}: what is read is written"
        );
        // Numbers may have been written with more bytes than they need.
        assert!(
            written.len() <= bytes.len(),
            "{name}: more is written than was read"
        );
    }
}
