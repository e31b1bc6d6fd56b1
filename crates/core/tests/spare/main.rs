//! Three servers and a spare with four groups (with a witness): each group is where the order
//! says, through long random series of deaths, returns, drains, failures, switches and failbacks.
//!
//! The decision machines are the real ones. Which seeds are run can be said by
//! `EVENKEEL_SEEDS=first..last`; a failure names its seed and the last steps.

mod chance;
mod converge;
mod exact;
mod foresee;
mod maintenance;
mod oracle;
mod place;
mod world;

/// The seeds of a test: its own, or those of the environment.
fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("EVENKEEL_SEEDS") else {
        return usual;
    };
    let range = text.split_once("..").and_then(|(first, last)| {
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        Some(first..last)
    });
    range.expect("EVENKEEL_SEEDS is no range like 0..100")
}
