//! The first words of a node that has proved its name: `wire::v1::hello`.

use evenkeel_wire::v1::hello::{HELLO_LENGTH_MAX, Hello};

use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "hello",
    reads: "hellos (transport's runtime)",
    seeds,
    judge,
    length_max: 2 * HELLO_LENGTH_MAX,
    memory: MEMORY,
    memory_per_byte: 64,
    mutants: 40_000,
};

fn seeds() -> Vec<Vec<u8>> {
    vec![values::hello(values::node("fra1"), 7).encode()]
}

fn judge(input: &[u8]) {
    let Ok(hello) = Hello::decode(input) else {
        return;
    };
    assert!(input.len() <= HELLO_LENGTH_MAX);
    let written = hello.encode();
    // What was left out is written, so that it may be longer; an honest one is not too long.
    if written.len() <= HELLO_LENGTH_MAX {
        assert_eq!(
            Hello::decode(&written),
            Ok(hello),
            "what is read is written"
        );
    }
}
