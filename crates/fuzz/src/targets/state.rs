//! The state directory: identity, lives, oaths, as any disk or hand may have left them.

use std::time::Duration;

use evenkeel_daemon::fuzzing::{STATE_FILES, begin, swear};

use crate::input::{Input, piece};
use crate::{MEMORY, Target, place, values};

pub(crate) const TARGET: Target = Target {
    name: "state",
    reads: "identity.json, lives, voted (start, doctor)",
    seeds,
    judge,
    length_max: 32 * 1024,
    memory: MEMORY,
    memory_per_byte: 64,
    mutants: 2_000,
};

const LEASE: Duration = Duration::from_millis(120);
const NONCE: u64 = 77;

fn seeds() -> Vec<Vec<u8>> {
    let dir = place::directory();
    let node = values::name("ams1");
    let mut seeds = Vec::new();
    for life in 1..4 {
        begin(dir.path(), &node, LEASE, life).expect("begun");
        swear(dir.path(), &[life, life + 1][..life as usize % 2 + 1]).expect("noted");
        let files = (0..).zip(STATE_FILES).map(|(number, file)| {
            let bytes = std::fs::read(dir.path().join(file)).expect("there");
            [&[number][..], &piece(&bytes)].concat()
        });
        seeds.push(files.flatten().collect());
    }
    seeds
}

fn judge(input: &[u8]) {
    let dir = place::directory();
    let mut input = Input(input);
    while !input.is_over() {
        let file = STATE_FILES[usize::from(input.below(STATE_FILES.len() as u8))];
        std::fs::write(dir.path().join(file), input.piece()).expect("written");
    }
    let before = || STATE_FILES.map(|file| std::fs::read(dir.path().join(file)).ok());
    let found = before();
    let node = values::name("ams1");
    let Ok(first) = begin(dir.path(), &node, LEASE, NONCE) else {
        assert_eq!(before(), found, "changed by a refusal");
        return;
    };
    assert!(first.lease_max >= Some(LEASE), "{:?}", first.lease_max);
    assert!(first.lives.len() <= 64);
    assert!(first.oaths.as_ref().is_none_or(|oaths| oaths.len() <= 2));
    let own = first.lives.last().expect("its own life");
    assert_eq!((own.counter, own.nonce), (first.counter, NONCE));
    let second = begin(dir.path(), &node, LEASE, NONCE + 1);
    if first.counter < u64::MAX {
        let second = second.unwrap_or_else(|why| panic!("not begun again: {why}"));
        assert_eq!(
            second.counter,
            first.counter + 1,
            "each life has a higher number"
        );
    }
}
