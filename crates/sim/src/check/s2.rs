//! S2: epochs never shrink, and each has one holder.

use std::collections::BTreeMap;

use evenkeel_core::{Epoch, Incarnation, NodeId};

use super::Violation;

/// Its books.
#[derive(Clone, Debug)]
pub struct Books {
    holders: BTreeMap<Epoch, (NodeId, Incarnation)>,
    newest: Epoch,
    floors: Vec<Epoch>,
}

impl Books {
    /// Books about so many nodes.
    pub fn new(nodes: usize) -> Self {
        Self {
            holders: BTreeMap::new(),
            newest: Epoch::NONE,
            floors: vec![Epoch::NONE; nodes],
        }
    }

    /// A guard was opened or extended under `epoch`.
    pub fn extended(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        epoch: Epoch,
    ) -> Result<(), Violation> {
        if epoch < self.newest {
            let seen = format!("node {node:?} acts under {epoch:?} after {:?}", self.newest);
            return Err(Violation {
                property: "S2",
                seen,
            });
        }
        self.newest = epoch;
        let known = *self.holders.entry(epoch).or_insert((node, incarnation));
        if known != (node, incarnation) {
            let seen = format!("{epoch:?} is held by {known:?} and by {node:?} {incarnation:?}");
            return Err(Violation {
                property: "S2",
                seen,
            });
        }
        Ok(())
    }

    /// The floor of a node's machine after a step of it.
    pub fn floor(&mut self, node: usize, floor: Epoch) -> Result<(), Violation> {
        if floor < self.floors[node] {
            let seen = format!("the floor of node {node} sinks to {floor:?}");
            return Err(Violation {
                property: "S2",
                seen,
            });
        }
        self.floors[node] = floor;
        Ok(())
    }
}
