//! The simulated world and its checkers. Never shipped.
