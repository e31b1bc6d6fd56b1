//! Searches at random for a broken property, in one of two worlds. Prints the first seed that
//! fails with its story, and exits 1.
//!
//! ```text
//! evenkeel-sim --seeds N [--from SEED] [--fault NAME]       leases over a modelled agreement
//! evenkeel-sim whole --seeds A..B [--fault NAME] [--commit TEXT] [--jobs N]
//! evenkeel-sim whole --seed N [--tell]                      the whole world, one run
//! evenkeel-sim whole --seed N --replay STORY --node NODE    feeds a story into a machine again
//! ```

mod whole_mode;

use std::process::ExitCode;

use evenkeel_core::lease::Faults;
use evenkeel_sim::run::{Telling, once, run};
use evenkeel_sim::world::Seen;

/// What was asked for.
struct Ask {
    seeds: u64,
    from: u64,
    faults: Faults,
}

/// The deliberate faults by name.
fn fault(name: &str) -> Option<Faults> {
    let mut faults = Faults::default();
    match name {
        "no-restart-rule" => faults.no_restart_rule = true,
        "no-wait" => faults.no_wait = true,
        "floor-follows-log" => faults.floor_follows_log = true,
        "spent-reusable" => faults.spent_reusable = true,
        "no-margin" => faults.no_margin = true,
        "void-counts" => faults.void_counts = true,
        "void-before-shut" => faults.void_before_shut = true,
        "void-unnumbered" => faults.void_unnumbered = true,
        "any-incarnation" => faults.any_incarnation = true,
        _ => return None,
    }
    Some(faults)
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Ask, String> {
    let mut ask = Ask {
        seeds: 1000,
        from: 0,
        faults: Faults::default(),
    };
    while let Some(word) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|e| format!("{word} {value}: {e}"))
        };
        match word.as_str() {
            "--seeds" => ask.seeds = number()?,
            "--from" => ask.from = number()?,
            "--fault" => {
                ask.faults = fault(&value).ok_or_else(|| format!("no fault is named {value}"))?;
            }
            _ => {
                return Err(format!(
                    "{word} is unknown; there are --seeds, --from, --fault"
                ));
            }
        }
    }
    Ok(ask)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "whole") {
        return whole_mode::main(words.into_iter().skip(1));
    }
    let ask = match parse(words.into_iter()) {
        Ok(ask) => ask,
        Err(why) => {
            eprintln!("evenkeel-sim: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut sum = Seen::default();
    for seed in ask.from..ask.from + ask.seeds {
        let ran = if ask.faults == Faults::default() {
            run(seed)
        } else {
            once(seed, ask.faults, Telling::Verdict)
                .or_else(|_| once(seed, ask.faults, Telling::Story))
        };
        match ran {
            Ok(seen) => sum += seen,
            Err(failure) => {
                println!("{failure}\nafter {} seeds", seed - ask.from + 1);
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{} seeds without a broken property: {sum:?}", ask.seeds);
    ExitCode::SUCCESS
}
