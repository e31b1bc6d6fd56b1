//! What the kernel says of changes on a file system. Names in it are anybody's who may write there.

use evenkeel_host::fuzzing::{notices, overflow, renamed};

use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "notices",
    reads: "notices of fanotify (host)",
    seeds,
    judge,
    length_max: 64 * 1024,
    memory: MEMORY,
    memory_per_byte: 1,
    mutants: 20_000,
};

/// The least that a notice takes.
const HEAD: usize = 24;

fn seeds() -> Vec<Vec<u8>> {
    let one = renamed(b"\x01\x02\x03\x04\x05\x06\x07\x08", b"was", b"is\xff");
    vec![[one.clone(), overflow(), one.clone()].concat(), one]
}

fn judge(input: &[u8]) {
    let (heard, told, understood) = notices(input);
    assert!(heard <= input.len() / HEAD && told <= input.len());
    // What it writes itself is read, with whatever follows.
    let own = renamed(b"directory", b"from", b"to");
    let (more, told_more, as_well) = notices(&[&own, input].concat());
    let names = 2 * b"directory".len() + b"from".len() + b"to".len();
    assert_eq!(
        (more, told_more, as_well),
        (heard + 1, told + names, understood)
    );
}
