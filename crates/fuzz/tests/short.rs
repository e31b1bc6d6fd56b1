//! Every target with its seeds and a number of their mutants, the same ones each time. One at a time,
//! because memory is counted for the whole process.

use std::sync::{Mutex, PoisonError};

use evenkeel_fuzz::{Mutator, TARGETS, attend_or_keep, target};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The same mutants in each run.
const SEED: u64 = 0x6675_7a7a;

fn short(name: &str) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let target = target(name).expect("a target of that name");
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{name} begins with nothing");
    attend_or_keep(target, &[]);
    for seed in &seeds {
        attend_or_keep(target, seed);
        // What is cut off anywhere.
        let step = seed.len().div_ceil(64).max(1);
        for length in (0..seed.len()).step_by(step) {
            attend_or_keep(target, &seed[..length]);
        }
    }
    let mut mutator = Mutator::new(seeds, target.length_max, SEED);
    for _ in 0..target.mutants {
        attend_or_keep(target, &mutator.mutant());
    }
}

macro_rules! short {
    ($($name:ident),* $(,)?) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { short(stringify!($name)); })*
    };
}

short![
    agreement,
    certificate,
    config,
    connections,
    consensus_forms,
    control,
    daemon_forms,
    dns,
    echo,
    entry,
    flight,
    frames,
    gate,
    hello,
    http,
    lease,
    leases,
    log_file,
    mirror,
    nagios,
    neighbours,
    netlink,
    nftables,
    node,
    notes,
    notices,
    process,
    report,
    seal,
    server_certificate,
    shares,
    smtp,
    snapshot,
    state,
    stored_log,
    tcp,
];

#[test]
fn every_target_is_tested() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, TESTED);
}

/// The bounds are seen to bind, or they would prove nothing.
#[test]
fn a_judge_that_takes_too_much_is_caught() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let greedy = evenkeel_fuzz::Target {
        name: "greedy",
        reads: "nothing",
        seeds: Vec::new,
        judge: |input| drop(vec![0_u8; 1000 * input.len()]),
        length_max: 5000,
        memory: 1 << 20,
        memory_per_byte: 10,
        mutants: 0,
    };
    evenkeel_fuzz::attend(&greedy, &[0; 1000]);
    let caught = std::panic::catch_unwind(|| evenkeel_fuzz::attend(&greedy, &[0; 5000]));
    assert!(
        caught.is_err(),
        "five megabytes are more than one and a little"
    );
    let slow = evenkeel_fuzz::Target {
        judge: |_| {
            let begun = evenkeel_fuzz::used();
            while evenkeel_fuzz::used() - begun < evenkeel_fuzz::TIME_MAX * 2 {
                std::hint::spin_loop();
            }
        },
        ..greedy
    };
    let caught = std::panic::catch_unwind(|| evenkeel_fuzz::attend(&slow, &[0]));
    assert!(caught.is_err(), "it takes twice the time");
}
