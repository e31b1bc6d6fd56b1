//! Checks: verdicts on their way to the decision machine, and where groups are open on the way
//! back.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel_checks::{Prober, Verdict};
use evenkeel_core::node::{Event, Node};
use evenkeel_core::topology::Topology;
use evenkeel_core::{GroupId, NodeId};
use tokio::sync::mpsc;

/// Verdicts that are taken in at once, at the cost of one: a flood must not hold up what else
/// there is.
const AT_ONCE_MAX: usize = 256;

/// All verdicts that are there, as soon as there is one; none once nobody asks any more.
/// Cancel-safe.
pub async fn next(verdicts: &mut mpsc::Receiver<Verdict>) -> Option<Vec<Verdict>> {
    let mut all = Vec::new();
    match verdicts.recv_many(&mut all, AT_ONCE_MAX).await {
        0 => None,
        _ => Some(all),
    }
}

/// What a verdict is to the decision machine.
pub fn event_of(verdict: Verdict) -> Event {
    let Verdict {
        group,
        check,
        judged,
        state,
        at,
        silent_since,
        detail,
        measures,
        ..
    } = verdict;
    Event::Verdict {
        group,
        check,
        judged,
        state,
        at,
        silent_since,
        detail,
        measures,
    }
}

/// Tells the prober where the groups are open whose checks ask for what runs only there.
pub struct Resting {
    prober: Arc<Prober>,
    told: BTreeMap<GroupId, Option<NodeId>>,
}

impl Resting {
    /// Nothing told yet.
    pub fn new(prober: Arc<Prober>, topology: &Topology) -> Self {
        let groups = topology.groups.values();
        let resting = groups.filter(|group| group.checks.iter().any(|policy| policy.rests));
        Self {
            prober,
            told: resting.map(|group| (group.id, None)).collect(),
        }
    }

    /// Tells what has changed.
    pub fn mind(&mut self, node: &Node) {
        for (group, told) in &mut self.told {
            let open = node.serving(*group);
            if *told != open {
                *told = open;
                self.prober.serving(*group, open);
            }
        }
    }
}
