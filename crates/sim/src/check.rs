//! The checkers: one file for each property of DESIGN 3.3. Each keeps books of its own
//! and believes nothing that a machine says about itself.

pub mod l1;
pub mod s1;
pub mod s2;
pub mod s4;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name in DESIGN 3.3.
    pub property: &'static str,
    /// What was seen.
    pub seen: String,
}
