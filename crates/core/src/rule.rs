//! The rule: which failing checks mean that a group should move.
//!
//! `fail_when` is a boolean expression over the names of checks. A name stands for
//! "this check fails". Answers have three values, because a silent prober must never
//! move a group: unknown stays unknown unless the rest decides (Kleene's logic).

use core::fmt;

use crate::names::CheckName;

/// An expression over failing checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// This check fails.
    Check(CheckName),
    /// The part does not hold.
    Not(Box<Rule>),
    /// All parts hold. Written `a and b`, or `all` for all checks.
    All(Vec<Rule>),
    /// At least one part holds. Written `a or b`, or `any` for all checks.
    Any(Vec<Rule>),
    /// At least so many parts hold. Written `2 of (a, b, c)`.
    AtLeast(usize, Vec<Rule>),
}

/// A truth that may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Truth {
    /// It holds.
    Yes,
    /// It does not hold.
    No,
    /// Nobody knows, or what is known is too old.
    Unknown,
}

/// Why a text is no rule: what is wrong, and the bytes of the text it points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFault {
    /// First byte of the place in the text.
    pub at: usize,
    /// Length of the place in bytes; at least 1 unless the text ended too early.
    pub length: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub help: String,
}

impl fmt::Display for RuleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)
    }
}

impl std::error::Error for RuleFault {}
