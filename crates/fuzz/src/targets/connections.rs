//! Lists of clients' connections from a holder, and what standbys say they have:
//! `wire::v1::flows`.

use evenkeel_wire::v1::flows::{self, Flows};

use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "connections",
    reads: "lists of connections and their answers (flows)",
    seeds,
    judge,
    length_max: flows::FLOWS_LENGTH_MAX,
    memory: MEMORY,
    memory_per_byte: 48,
    mutants: 20_000,
};

fn seeds() -> Vec<Vec<u8>> {
    let ends = |service: &str, client: &str| {
        (
            service.parse().expect("an address"),
            client.parse().expect("an address"),
        )
    };
    let flows = Flows {
        group: values::www(),
        epoch: values::epoch(3),
        base: 1,
        sequence: 2,
        added: vec![
            ends("192.0.2.100:80", "198.51.100.1:50000"),
            ends("[2001:db8::100]:80", "[2001:db8:1::1]:50000"),
        ],
        gone: vec![ends("192.0.2.100:443", "198.51.100.2:50000")],
    };
    vec![flows.encode(), flows::encode_have(300)]
}

fn judge(input: &[u8]) {
    if let Ok(read) = Flows::decode(input) {
        // A connection takes six bytes at least.
        assert!(read.added.len() + read.gone.len() <= input.len() / 6);
        assert_eq!(Flows::decode(&read.encode()), Ok(read));
    }
    if let Ok(have) = flows::decode_have(input) {
        assert_eq!(flows::decode_have(&flows::encode_have(have)), Ok(have));
    }
}
