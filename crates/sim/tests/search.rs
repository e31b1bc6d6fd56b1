//! The random search, as far as every build can afford it, and the proof that it can
//! see: each rule of the protocol taken away is found.

use evenkeel_core::lease::Faults;
use evenkeel_sim::run::{Telling, once, run};
use evenkeel_sim::world::Seen;

/// Runs with the product's rules in every build. `cargo run -p evenkeel-sim` goes on.
const SEEDS: u64 = 8_000;

/// Runs within which a missing rule must have shown itself. The rarest, the floor that
/// follows the log, takes about one run in 10,000.
const FAULT_SEEDS: u64 = 100_000;

#[test]
fn no_seed_breaks_a_property() {
    let mut sum = Seen::default();
    for seed in 0..SEEDS {
        match run(seed) {
            Ok(seen) => sum += seen,
            Err(failure) => panic!("{failure}"),
        }
    }
    // A search in which nothing moves would prove nothing.
    assert!(sum.opened > 2 * SEEDS, "{sum:?}");
    assert!(sum.resumed > SEEDS / 4, "{sum:?}");
    assert!(sum.given_back > SEEDS, "{sum:?}");
    assert!(sum.started > SEEDS, "{sum:?}");
    assert!(sum.anew > SEEDS, "{sum:?}");
}

#[test]
fn a_seed_means_the_same_run_every_time() {
    for seed in [3, 1_000_003] {
        let faults = Faults::default();
        assert_eq!(
            once(seed, faults, Telling::Verdict).ok(),
            once(seed, faults, Telling::Story).ok()
        );
    }
}

fn finds_two_holders(faults: Faults) {
    let found = (0..FAULT_SEEDS).find_map(|seed| once(seed, faults, Telling::Verdict).err());
    let failure = found.unwrap_or_else(|| panic!("{FAULT_SEEDS} runs see nothing of {faults:?}"));
    assert_eq!(failure.violation.property, "S1");
}

#[test]
fn a_voter_that_answers_at_once_after_its_restart_is_found() {
    finds_two_holders(Faults {
        no_restart_rule: true,
        ..Faults::default()
    });
}

#[test]
fn opening_without_waiting_is_found() {
    finds_two_holders(Faults {
        no_wait: true,
        ..Faults::default()
    });
}

#[test]
fn a_floor_that_follows_the_log_is_found() {
    finds_two_holders(Faults {
        floor_follows_log: true,
        ..Faults::default()
    });
}

#[test]
fn a_released_epoch_in_use_again_is_found() {
    finds_two_holders(Faults {
        spent_reusable: true,
        ..Faults::default()
    });
}

#[test]
fn a_missing_margin_is_found() {
    finds_two_holders(Faults {
        no_margin: true,
        ..Faults::default()
    });
}

#[test]
fn an_epoch_shared_by_two_lives_is_found() {
    finds_two_holders(Faults {
        any_incarnation: true,
        ..Faults::default()
    });
}

#[test]
fn an_answer_counted_that_was_declared_void_is_found() {
    finds_two_holders(Faults {
        void_counts: true,
        ..Faults::default()
    });
}

#[test]
fn asks_declared_void_before_the_guard_has_shut_are_found() {
    finds_two_holders(Faults {
        void_before_shut: true,
        ..Faults::default()
    });
}

#[test]
fn promises_taken_back_for_newer_asks_are_found() {
    finds_two_holders(Faults {
        void_unnumbered: true,
        ..Faults::default()
    });
}
