//! L1: while a majority of voters and one fit node live and talk, every group is served.
//!
//! In the first phase "live and talk" is meant strictly: among machines of which nothing is wrong,
//! over links of which nothing is. The bound is for what may come first: a new leader, the silence
//! of voters that have just started, a node that must be well for a while after it failed once or
//! twice. One that failed the group more often, or for which nothing shows whether it would fail
//! again, is not counted as fit while it may be waited for: by a leader that has started since, from
//! its start.

use std::collections::BTreeMap;

use evenkeel_core::GroupId;
use evenkeel_core::standby::WAIT_MAX;

use super::{Violation, broken};
use crate::whole::recipe::S;

/// How long a group may be without service though it need not be, in the first phase.
pub(in crate::whole) const SERVED_WITHIN: u64 = 20 * S;
/// How long the cluster may take to come to rest once all is mended: also for nodes that have failed
/// a group often, and are waited for.
pub(in crate::whole) const MENDED_WITHIN: u64 = 60 * S + WAIT;
/// How long a node that failed a group may be waited for.
pub(in crate::whole) const WAIT: u64 = WAIT_MAX.as_secs() * S;
/// Failures after which a node is taken again within the bound, if its checks show that it is well.
pub(in crate::whole) const FAILURES: u32 = 2;

/// Its books.
#[derive(Default)]
pub(in crate::whole) struct Books {
    since: BTreeMap<GroupId, u64>,
}

impl Books {
    /// A look at a group: whether it could be served, and is. For how long it is not.
    pub(in crate::whole) fn look(
        &mut self,
        at: u64,
        group: GroupId,
        could: bool,
        served: bool,
    ) -> (u64, Result<(), Violation>) {
        if served || !could {
            self.since.remove(&group);
            return (0, Ok(()));
        }
        let since = *self.since.entry(group).or_insert(at);
        let checked = if at < since + SERVED_WITHIN {
            Ok(())
        } else {
            let seen = format!("group {group:?} could be served, and is not since {since} ns");
            broken("L1", seen)
        };
        (at - since, checked)
    }
}
