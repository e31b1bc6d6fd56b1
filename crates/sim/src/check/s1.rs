//! S1: never two nodes whose guards let the same address through at one instant of
//! true time.

use super::Violation;
use crate::node::Node;

/// Asked whenever a guard is opened or extended: two open spans overlap exactly if,
/// at the beginning of one of them, the other is open.
pub fn extended(nodes: &[Node], who: usize, at: u64) -> Result<(), Violation> {
    if !nodes[who].open(at) {
        return Ok(());
    }
    let other = (0..nodes.len()).find(|other| *other != who && nodes[*other].open(at));
    match other {
        None => Ok(()),
        Some(other) => Err(Violation {
            property: "S1",
            seen: format!("node {who} opens while node {other} is open"),
        }),
    }
}
