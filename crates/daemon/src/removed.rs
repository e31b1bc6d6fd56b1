//! Groups that the configuration of this worker does not have, or not on this node, though a
//! worker before it held them: closed and given back before this worker says anything.
//!
//! What rests on that order: a node whose reports bear a digest holds none of the groups that
//! this configuration has not (`core::policy` hands a former group's addresses on by it).

use std::collections::BTreeSet;

use evenkeel_core::GroupId;
use evenkeel_core::lease::Assignment;
use evenkeel_traffic::Report as Traffic;

use crate::decision::{Driver, FAREWELL_MAX, Sources};
use crate::lease::Order;
use crate::mirror::{Found, Memory};
use crate::reload::holds;

/// How often the mirror is read, should the lease thread be writing it.
const MIRROR_TRIES: usize = 5;

impl Driver {
    /// Ends the connections of what this node must not hold any more, takes the addresses
    /// off, closes, and gives the lease back; returns when that is done.
    pub(crate) async fn close_removed(&mut self, sources: &mut Sources, memory: &Memory) {
        let removed = self.removed(memory);
        if removed.is_empty() {
            return;
        }
        let mut left: BTreeSet<GroupId> = BTreeSet::new();
        for group in &removed {
            let topology = self.node.topology();
            tracing::warn!(
                group = topology.group_name(*group),
                "held here, and the configuration does not have it here any more: closed"
            );
            let ledger = &self.ledger;
            let addresses = ledger.with(|ledger| {
                let current = ledger.current(*group)?;
                Some(ledger.addresses_of(current))
            });
            // Without its log the addresses are not known: muted, and gone within the belt.
            if let (Some(mover), Some(addresses)) = (&self.mover, addresses)
                && mover.assign(*group, &addresses).is_ok()
            {
                mover.release(*group);
                left.insert(*group);
            }
        }
        // The guard stays open for the resets, as in every planned move.
        let until = tokio::time::Instant::now() + FAREWELL_MAX;
        while !left.is_empty() {
            match tokio::time::timeout_at(until, sources.traffic.recv()).await {
                Ok(Some(Traffic::Reset { group, .. } | Traffic::Gone { group, .. })) => {
                    left.remove(&group);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        for group in removed {
            self.lease.order(Order::Release(group));
        }
        let (told, reached) = tokio::sync::oneshot::channel();
        self.lease.order(Order::Reached(told));
        // The thread has ended, and with it this process.
        let _ = reached.await;
    }

    fn removed(&self, memory: &Memory) -> Vec<GroupId> {
        let found =
            (0..MIRROR_TRIES).find_map(|_| match memory.again().ok()?.read(self.incarnation) {
                Found::Whole { mirror, .. } => Some(mirror.records),
                Found::Blank | Found::Torn => None,
            });
        let records = found.unwrap_or_default();
        let held = records
            .iter()
            .filter(|one| holds(one, self.me, self.incarnation));
        held.map(|one| one.group)
            .filter(|group| self.node.role(*group).is_none())
            .collect()
    }

    /// Whether this node may use an assignment. One to it of a group that its configuration
    /// does not have here raises the floor like any other, and is given back unused.
    pub(crate) fn give_back_unknown(&self, assignment: &Assignment) {
        let ours = assignment.holder == self.me && assignment.incarnation == self.incarnation;
        if ours && self.node.role(assignment.group).is_none() {
            self.lease.order(Order::Release(assignment.group));
        }
    }
}
