//! S4: no guard deadline beyond the proven lease. The proof is computed anew from the
//! messages that really were sent and really arrived, without what was declared void.

use std::collections::BTreeMap;

use evenkeel_core::lease::{Lease, Machine, Message, Verdict};
use evenkeel_core::quorum::majority;
use evenkeel_core::{Epoch, Moment, NodeId};

use super::Violation;

/// Its books about one node.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// For each Renew sent: its epoch, and its sending time on the node's clock.
    sent: BTreeMap<u64, (Epoch, Moment)>,
    /// For each epoch and voter: the newest Renew that it promised for, by its sending
    /// time and number.
    promised: BTreeMap<(Epoch, NodeId), (Moment, u64)>,
    /// For each epoch: the number below which no answer proves anything any more.
    void: BTreeMap<Epoch, u64>,
}

impl Books {
    /// The node's clock begins anew, or its memory is gone: nothing old counts.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// The node sends a message.
    pub fn sends(&mut self, now: Moment, message: &Message) {
        if let Message::Renew(renew) = message {
            self.sent.entry(renew.seq).or_insert((renew.epoch, now));
            let void = self.void.entry(renew.epoch).or_default();
            *void = (*void).max(renew.void);
        }
    }

    /// The node is handed a message.
    pub fn hears(&mut self, from: NodeId, message: &Message) {
        let Message::Answer(answer) = message else {
            return;
        };
        if answer.verdict != Verdict::Promised {
            return;
        }
        let Some((epoch, sent)) = self.sent.get(&answer.seq).copied() else {
            return;
        };
        let best = self.promised.entry((epoch, from)).or_default();
        *best = (*best).max((sent, answer.seq));
    }

    /// The node's guard is given a lease.
    pub fn extended(&self, machine: &Machine, lease: &Lease) -> Result<(), Violation> {
        let settings = machine.settings();
        let (length, margin) = (settings.lease, settings.margin(settings.lease));
        let void = self.void.range(lease.epoch()..).map(|(_, below)| *below);
        let void = void.max().unwrap_or(0);
        let others = settings
            .voters
            .iter()
            .filter(|voter| **voter != settings.me)
            .filter_map(|voter| self.promised.get(&(lease.epoch(), *voter)))
            .filter(|(sent, seq)| *seq >= void && *sent + length - margin >= lease.until())
            .count();
        let own = machine.record(lease.group()).is_some_and(|record| {
            record.promises.iter().flatten().any(|promise| {
                promise.to.node == settings.me
                    && promise.to.epoch == lease.epoch()
                    && promise.until - margin >= lease.until()
            })
        });
        let proven = others + usize::from(own && settings.votes());
        if proven >= majority(settings.voters.len()) {
            return Ok(());
        }
        let seen = format!(
            "node {:?} extends to {:?}, proven by {proven}",
            settings.me, lease
        );
        Err(Violation {
            property: "S4",
            seen,
        })
    }
}
