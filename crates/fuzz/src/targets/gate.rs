//! Who is let in by what it says of itself: `daemon::peers`. Any series of hellos of nodes that have
//! proved their names.

use evenkeel_core::Moment;
use evenkeel_core::topology::membership;
use evenkeel_daemon::fuzzing::Door;
use evenkeel_wire::v1::hello::Hello;

use crate::input::{Input, piece};
use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "gate",
    reads: "series of hellos, judged by what is known (transport's runtime)",
    seeds,
    judge,
    length_max: 16 * 1024,
    memory: MEMORY,
    memory_per_byte: 64,
    mutants: 20_000,
};

/// One nanosecond in so many is counted, so that a series spans seconds.
const STEP: u64 = 1 << 20;

fn voters() -> u64 {
    membership(values::nodes())
}

fn seeds() -> Vec<Vec<u8>> {
    let [_, fra1, tie] = values::nodes();
    let said = |from, counter| {
        let mut hello = values::hello(from, voters());
        hello.incarnation = values::life(counter);
        piece(&hello.encode())
    };
    let series = [(0, fra1, 3), (1, tie, 1), (0, fra1, 4), (0, fra1, 2)];
    let series = series.map(|(who, from, counter)| {
        [&[who][..], &500_u16.to_le_bytes(), &said(from, counter)].concat()
    });
    vec![series.concat()]
}

fn judge(input: &[u8]) {
    let [ams1, fra1, tie] = values::nodes();
    let door = Door::new(ams1, voters());
    let mut now = Moment::from_nanos(1);
    let mut input = Input(input);
    while !input.is_over() {
        let from = [fra1, tie][usize::from(input.below(2))];
        now = Moment::from_nanos(now.as_nanos() + u64::from(input.short()) * STEP);
        let words = input.piece();
        let admitted = door.admit(now, from, words);
        if let Err(reason) = &admitted {
            assert!(!reason.is_empty());
            continue;
        }
        let Ok(hello) = Hello::decode(words) else {
            panic!("let in without being understood");
        };
        assert_eq!((hello.node, hello.membership), (from, voters()));
        assert_eq!(hello.cluster, "shop");
        // The same words are let in again at once, and another life of the same start is not.
        assert_eq!(door.admit(now, from, words), Ok(()));
        let mut clone = hello;
        clone.incarnation.nonce ^= 1;
        assert!(
            door.admit(now, from, &clone.encode()).is_err(),
            "a clone is let in"
        );
    }
}
