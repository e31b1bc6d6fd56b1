//! Entries of the log, as agreed, and what is kept beside a floor: `wire::v1::entry`.

use evenkeel_core::NodeId;
use evenkeel_wire::v1::entry;

use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "entry",
    reads: "payloads of log entries, and floors (engine, start)",
    seeds,
    judge,
    length_max: entry::ENTRY_LENGTH_MAX,
    memory: MEMORY,
    memory_per_byte: 64,
    mutants: 20_000,
};

fn seeds() -> Vec<Vec<u8>> {
    let commands = values::commands();
    let mut seeds: Vec<Vec<u8>> = commands.iter().map(entry::encode).collect();
    seeds.push(entry::encode_floor(NodeId(9), values::life(3)));
    seeds
}

fn judge(input: &[u8]) {
    if let Ok(command) = entry::decode(input) {
        let written = entry::encode(&command);
        assert_eq!(entry::decode(&written).as_ref(), Ok(&command));
        // All nodes come to the same state, also those that got what was written anew.
        let apply = |bytes: &[u8]| {
            let mut ledger = values::ledger();
            if let Ok(command) = entry::decode(bytes) {
                ledger.apply(values::epoch(100), &command);
            }
            ledger
        };
        assert_eq!(apply(&written), apply(input));
    }
    if let Ok((holder, life)) = entry::decode_floor(input) {
        let written = entry::encode_floor(holder, life);
        assert_eq!(entry::decode_floor(&written), Ok((holder, life)));
    }
}
