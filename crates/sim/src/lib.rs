//! The simulated world and its checkers. Never shipped.
//!
//! Real [`evenkeel_core::lease`] machines run in virtual true time on nodes whose
//! clocks run at different rates, over a network that loses, delays, doubles and
//! reorders, above an agreement that elects, appends, truncates and commits by Raft's
//! rules, with kernels whose guards outlive the daemons. Everything is drawn from one
//! seed, the mix of faults itself included. One checker for each property of DESIGN
//! 3.3 watches every step.
//!
//! The exhaustive search of a small world with the same machines is in
//! `tests/exhaustive`.

pub mod agreement;
pub mod chance;
pub mod check;
pub mod clock;
pub mod mix;
pub mod node;
mod plot;
pub mod run;
pub mod world;
