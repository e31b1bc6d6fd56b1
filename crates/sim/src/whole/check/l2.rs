//! L2: a group does not come back to a node that failed it until that node has been well for a
//! while. Only when the holder is lost as well may whoever lives go on; one that is heard and deaf
//! is lost when it has been so for long.

use core::time::Duration;
use std::collections::BTreeMap;

use evenkeel_core::command::Assign;
use evenkeel_core::evidence::Cause;
use evenkeel_core::policy::deaf_patience;
use evenkeel_core::standby::WELL_MIN;
use evenkeel_core::{GroupId, NodeId};

use super::{Violation, broken};
use crate::whole::recipe::{MS, nanos};

/// What a leader's clock, and the way of an entry, may take from that while.
const SLACK: u64 = 500 * MS;

/// Its books.
#[derive(Default)]
pub(in crate::whole) struct Books {
    failed: BTreeMap<(GroupId, NodeId), u64>,
}

impl Books {
    /// When a node last failed a group, if it has not served well since.
    pub(in crate::whole) fn failed_at(&self, group: GroupId, node: NodeId) -> Option<u64> {
        self.failed.get(&(group, node)).copied()
    }

    /// A move is decided, with leases of so many nanoseconds. A holder that is about to stop is as
    /// good as lost.
    pub(in crate::whole) fn moved(
        &mut self,
        at: u64,
        assign: &Assign,
        stopping: bool,
        lease: u64,
    ) -> Result<(), Violation> {
        let to = (assign.group, assign.holder);
        let cause = &assign.evidence.cause;
        let failed = self.failed.get(&to).copied();
        let while_ago = nanos(WELL_MIN) * 9 / 10 - SLACK;
        if let Some(since) = failed
            && is_choice(cause, lease)
            && !stopping
            && assign.evidence.from != Some(assign.holder)
            && at < since + while_ago
        {
            let seen = format!(
                "group {:?} comes back to node {:?} ({}), which failed it {} ms before",
                assign.group,
                assign.holder,
                cause.word(),
                (at - since) / MS
            );
            return broken("L2", seen);
        }
        match (cause.is_failure(), assign.evidence.from) {
            (true, Some(from)) => {
                self.failed.insert((assign.group, from), at);
            }
            // It served well to the end: what it failed before is forgiven.
            (false, Some(from)) if *cause != Cause::HolderReleased => {
                self.failed.remove(&(assign.group, from));
            }
            (_, _) => {}
        }
        Ok(())
    }
}

/// Moves away from a holder that lives, by the policy alone.
fn is_choice(cause: &Cause, lease: u64) -> bool {
    match cause {
        Cause::HolderDeaf { standing } => *standing < deaf_patience(Duration::from_nanos(lease)),
        Cause::RuleHolds | Cause::HolderUnready | Cause::Failback | Cause::Drained => true,
        Cause::FirstStart
        | Cause::HolderSilent { .. }
        | Cause::HolderUnlisted
        | Cause::Operator
        | Cause::HolderStopping
        | Cause::HolderRestarted
        | Cause::HolderReleased
        | Cause::FloorAbove { .. }
        | Cause::Recovered
        | Cause::Reconfigured => false,
    }
}
