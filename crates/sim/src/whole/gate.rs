//! Who is let in (DESIGN 3.1 rule 8): what `crates/daemon/src/peers.rs` asks of a node that says
//! hello, by the same agreed state.

use core::time::Duration;
use std::collections::BTreeMap;

use evenkeel_core::health::Report;
use evenkeel_core::{Epoch, Incarnation, Moment, NodeId};
use evenkeel_wire::v1::hello::Hello;

use super::agreement::SharedLedger;

/// A node that was heard so lately is running: another process of it is no restart.
const RUNNING: Duration = Duration::from_millis(350);

#[derive(Clone, Copy, Debug)]
struct Life {
    incarnation: Incarnation,
    heard: Moment,
    stored: u64,
}

/// What one process knows of the others' lives.
pub(super) struct Gate {
    ledger: SharedLedger,
    lives: BTreeMap<NodeId, Life>,
    readmitted: BTreeMap<NodeId, Epoch>,
    /// Lets everybody in: a deliberate fault.
    open: bool,
}

impl Gate {
    /// A gate that knows the agreed state.
    pub(super) fn new(ledger: SharedLedger, open: bool) -> Self {
        Self {
            ledger,
            lives: BTreeMap::new(),
            readmitted: BTreeMap::new(),
            open,
        }
    }

    /// A node has reported.
    pub(super) fn heard(&mut self, now: Moment, node: NodeId, report: &Report) {
        let before = self.lives.get(&node);
        let same = before.filter(|life| life.incarnation == report.incarnation);
        let stored = same.map_or(0, |life| life.stored).max(report.stored);
        let life = Life {
            incarnation: report.incarnation,
            heard: now,
            stored,
        };
        self.lives.insert(node, life);
    }

    /// A node was readmitted: what was known of its lives before that is void.
    pub(super) fn readmitted(&mut self, node: NodeId, by: Option<Epoch>) {
        let Some(by) = by else { return };
        if self.readmitted.get(&node).is_none_or(|last| *last < by) {
            self.readmitted.insert(node, by);
            self.lives.remove(&node);
        }
    }

    /// Judges a node that says hello.
    pub(super) fn admit(&mut self, now: Moment, hello: &Hello) -> Result<(), &'static str> {
        if !self.open {
            self.judge(now, hello)?;
        }
        let stored = self.lives.get(&hello.node).map_or(0, |life| life.stored);
        let life = Life {
            incarnation: hello.incarnation,
            heard: now,
            stored,
        };
        self.lives.insert(hello.node, life);
        Ok(())
    }

    fn judge(&self, now: Moment, hello: &Hello) -> Result<(), &'static str> {
        let (from, life) = (hello.node, hello.incarnation);
        let newer = self.ledger.with(|ledger| hello.applied > ledger.applied);
        if !newer && !self.ledger.with(|ledger| ledger.admits(from, life)) {
            return Err("an older start than is on record");
        }
        if !newer && self.is_unseen(hello) {
            return Err("it has not seen the start that is on record");
        }
        let settled = newer || self.ledger.with(|ledger| ledger.counts(from, life));
        let Some(known) = self.lives.get(&from) else {
            return Ok(());
        };
        if known.incarnation == life {
            Ok(())
        } else if !settled && known.incarnation.counter >= life.counter {
            Err("a newer start is known")
        } else if now.since(known.heard) < RUNNING {
            Err("it runs already")
        } else if !settled && hello.last_log_index < known.stored {
            Err("its log had more")
        } else {
            Ok(())
        }
    }

    /// Whether its state directory should know the life on record, and does not.
    fn is_unseen(&self, hello: &Hello) -> bool {
        let known = self.ledger.with(|ledger| {
            let record = ledger.nodes.get(&hello.node)?;
            record.incarnation
        });
        let (Some(known), Some(oldest)) = (known, hello.past.first()) else {
            return false;
        };
        let seen = known == hello.incarnation || hello.past.contains(&known);
        !seen && known.counter >= oldest.counter
    }
}
