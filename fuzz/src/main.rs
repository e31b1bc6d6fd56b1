//! One program for all targets, so that it is linked once: the environment says which one.

#![no_main]

use std::sync::OnceLock;

use evenkeel_fuzz::{TARGETS, Target, attend, target};
use libfuzzer_sys::fuzz_target;

/// Names the target.
const TARGET: &str = "EVENKEEL_FUZZ_TARGET";

/// The target that was named.
fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let named = std::env::var(TARGET).unwrap_or_default();
        target(&named).unwrap_or_else(|| {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("{TARGET}={named:?} is none of: {}", names.join(" "));
            std::process::exit(2);
        })
    })
}

fuzz_target!(|input: &[u8]| attend(chosen(), input));
