//! S5: what was acknowledged is decided, and stays so.

use evenkeel_core::Epoch;
use evenkeel_core::ledger::Ledger;

use super::{Violation, broken, s2};
use crate::whole::recipe::S;

/// How long after its acknowledgement an entry must be known as decided: the word of it is on its
/// way through the same queue.
const KNOWN_WITHIN: u64 = S;

struct Acknowledged {
    at: u64,
    epoch: Epoch,
    payload: Vec<u8>,
}

/// Its books.
#[derive(Default)]
pub(in crate::whole) struct Books {
    young: Vec<Acknowledged>,
    newest: Epoch,
}

impl Books {
    /// Somebody was told that this is agreed.
    pub(in crate::whole) fn acknowledged(&mut self, at: u64, epoch: Epoch, payload: &[u8]) {
        self.young.push(Acknowledged {
            at,
            epoch,
            payload: payload.to_vec(),
        });
    }

    /// Looks up what was acknowledged a while ago. That it stays so is S2's to see: nothing else
    /// can be decided in its place.
    pub(in crate::whole) fn look(&mut self, at: u64, s2: &s2::Books) -> Result<(), Violation> {
        let (old, young): (Vec<_>, Vec<_>) = core::mem::take(&mut self.young)
            .into_iter()
            .partition(|one| one.at + KNOWN_WITHIN <= at);
        self.young = young;
        for one in old {
            let known = s2.log.get(&one.epoch.index);
            let same = known.is_some_and(|(epoch, payload)| {
                *epoch == one.epoch && payload[..] == one.payload[..]
            });
            if !same {
                let seen = format!("{:?} was acknowledged, and is not decided", one.epoch);
                return broken("S5", seen);
            }
            self.newest = self.newest.max(one.epoch);
        }
        Ok(())
    }

    /// In the end every node has all that was ever acknowledged.
    pub(in crate::whole) fn in_the_end(
        &self,
        node: usize,
        ledger: &Ledger,
    ) -> Result<(), Violation> {
        if ledger.applied >= self.newest {
            return Ok(());
        }
        let seen = format!(
            "node {node} knows what was decided up to {:?}, and {:?} was acknowledged",
            ledger.applied, self.newest
        );
        broken("S5", seen)
    }
}
