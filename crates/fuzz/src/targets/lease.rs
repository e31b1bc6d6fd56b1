//! Messages between lease machines, once their seal is open: `wire::v1::lease`.

use evenkeel_wire::v1::lease::{self, MESSAGE_LENGTH_MAX};

use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "lease",
    reads: "lease messages after the seal (lease thread)",
    seeds,
    judge,
    length_max: 4 * MESSAGE_LENGTH_MAX,
    memory: MEMORY,
    memory_per_byte: 0,
    mutants: 50_000,
};

fn seeds() -> Vec<Vec<u8>> {
    let mut buffer = [0; MESSAGE_LENGTH_MAX];
    let messages = values::messages(7).into_iter();
    messages
        .map(|message| lease::encode(&message, &mut buffer).to_vec())
        .collect()
}

fn judge(input: &[u8]) {
    let Ok(message) = lease::decode(input) else {
        return;
    };
    assert!(input.len() <= MESSAGE_LENGTH_MAX);
    let mut buffer = [0; MESSAGE_LENGTH_MAX];
    let written = lease::encode(&message, &mut buffer);
    assert_eq!(
        lease::decode(written),
        Ok(message),
        "what is read is written"
    );
}
