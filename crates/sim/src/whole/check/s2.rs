//! S2: epochs never shrink, and each has one holder; all nodes agree on the same entries.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel_core::command::Command;
use evenkeel_core::ledger::Assigned;
use evenkeel_core::{Epoch, GroupId, Incarnation, NodeId};
use evenkeel_wire::v1::entry;

use super::{Violation, broken};

/// Who acts.
pub(in crate::whole) struct Actor {
    pub(in crate::whole) node: NodeId,
    pub(in crate::whole) life: Incarnation,
    /// Whether what it was allowed before a pause of the whole machine still seems to run: such a
    /// one may act after its successor (DESIGN 3.1 rule 9), as for S1.
    pub(in crate::whole) excused: bool,
}

/// Its books.
#[derive(Default)]
pub(in crate::whole) struct Books {
    /// What was decided, by index.
    pub(in crate::whole) log: BTreeMap<u64, (Epoch, Arc<[u8]>)>,
    holders: BTreeMap<Epoch, (GroupId, NodeId, Incarnation)>,
    newest: BTreeMap<GroupId, Epoch>,
    floors: BTreeMap<(usize, GroupId), Epoch>,
}

impl Books {
    /// A node says that an entry is decided. True if nobody has said so before.
    pub(in crate::whole) fn decided(
        &mut self,
        node: usize,
        epoch: Epoch,
        payload: &Arc<[u8]>,
    ) -> Result<bool, Violation> {
        if let Some((known, bytes)) = self.log.get(&epoch.index) {
            if (known, bytes) == (&epoch, payload) {
                return Ok(false);
            }
            let seen = format!(
                "node {node} takes {epoch:?} for decided, and another entry, {known:?}, was"
            );
            return broken("S2", seen).map(|()| false);
        }
        self.log.insert(epoch.index, (epoch, Arc::clone(payload)));
        if let Ok(Command::Assign(assign)) = entry::decode(payload) {
            let holder = (assign.group, assign.holder, assign.incarnation);
            self.holders.insert(epoch, holder);
        }
        Ok(true)
    }

    /// A node knows this assignment as agreed. True if nobody has said so before.
    pub(in crate::whole) fn learned(&mut self, assigned: &Assigned) -> bool {
        let Assigned { epoch, assign } = assigned;
        let holder = (assign.group, assign.holder, assign.incarnation);
        let new = !self.holders.contains_key(epoch);
        self.holders.entry(*epoch).or_insert(holder);
        new
    }

    /// A guard is open under `epoch`.
    pub(in crate::whole) fn acts(
        &mut self,
        group: GroupId,
        epoch: Epoch,
        actor: Actor,
    ) -> Result<(), Violation> {
        let Actor { node, life, .. } = actor;
        let newest = self.newest.entry(group).or_insert(epoch);
        if epoch < *newest && !actor.excused {
            let seen = format!("node {node:?} acts under {epoch:?} after {newest:?}");
            return broken("S2", seen);
        }
        *newest = epoch.max(*newest);
        match self.holders.get(&epoch) {
            Some(known) if *known == (group, node, life) => Ok(()),
            Some(known) => broken(
                "S2",
                format!("{epoch:?} is of {known:?}, and node {node:?} {life:?} acts under it"),
            ),
            None => broken(
                "S2",
                format!("node {node:?} acts under {epoch:?}, which nobody has decided"),
            ),
        }
    }

    /// The floor of a node after a step of its lease machine.
    pub(in crate::whole) fn floor(
        &mut self,
        node: usize,
        group: GroupId,
        floor: Epoch,
    ) -> Result<(), Violation> {
        let known = self.floors.entry((node, group)).or_insert(floor);
        if floor < *known {
            let seen = format!("the floor of node {node} sinks from {known:?} to {floor:?}");
            return broken("S2", seen);
        }
        *known = floor;
        Ok(())
    }

    /// What a node had stored is lost: its floors too.
    pub(in crate::whole) fn forget(&mut self, node: usize) {
        self.floors.retain(|(of, _), _| *of != node);
    }
}
