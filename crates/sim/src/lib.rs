//! The simulated world and its checkers. Never shipped.
//!
//! Real [`evenkeel_core::lease`] machines run in virtual true time on nodes whose
//! clocks run at different rates, over a network that loses, delays, doubles and
//! reorders, above an agreement that elects, appends, truncates and commits by Raft's
//! rules, with kernels whose guards outlive the daemons. Everything is drawn from one
//! seed, the mix of faults itself included. One checker for each property of DESIGN
//! 3.3 watches every step.
//!
//! A second world, [`whole`], runs everything of a node: decisions and the real engine as well. It
//! sees more and is slower; this one is fast and looks deeper into leases.
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
pub mod whole;
pub mod world;
