//! The checkers of the whole world: one file for each property of DESIGN 3.3. Each keeps books of
//! its own and believes nothing that a machine says about itself. S3 is about databases and files,
//! and comes with their rooms.

pub mod l1;
pub mod l2;
pub mod l3;
pub mod s1;
pub mod s2;
pub mod s4;
pub mod s5;
pub mod s6;

use std::collections::BTreeMap;

use evenkeel_core::GroupId;

pub use crate::check::Violation;

/// All books.
pub(super) struct Books {
    /// Epochs and their holders.
    pub(super) s2: s2::Books,
    /// What proves leases, for each node and group.
    pub(super) s4: Vec<BTreeMap<GroupId, crate::check::s4::Books>>,
    /// What was acknowledged.
    pub(super) s5: s5::Books,
    /// What was so in the world.
    pub(super) s6: s6::Books,
    /// How long groups were without service though they need not be.
    pub(super) l1: l1::Books,
    /// Who failed what.
    pub(super) l2: l2::Books,
}

fn broken(property: &'static str, seen: String) -> Result<(), Violation> {
    Err(Violation { property, seen })
}
