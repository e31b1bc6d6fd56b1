//! Checks: verdicts on their way to the decision machine, and where groups are open on the way
//! back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use evenkeel_checks::{Prober, Verdict};
use evenkeel_core::node::{Event, Node};
use evenkeel_core::topology::{CheckPolicy, Group, Topology};
use evenkeel_core::{GroupId, NodeId, ServiceName};
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

/// Tells the prober where the groups are open whose checks ask for what runs only there, and
/// what was started again on the spot.
pub struct Resting {
    prober: Arc<Prober>,
    told: BTreeMap<GroupId, Option<NodeId>>,
    /// The nodes of each group with a service that may be started again.
    watched: Vec<(GroupId, NodeId)>,
    restarting: BTreeSet<(GroupId, NodeId, ServiceName)>,
}

impl Resting {
    /// Nothing told yet.
    pub fn new(prober: Arc<Prober>, topology: &Topology) -> Self {
        let groups = topology.groups.values();
        let resting = groups.filter(|group| group.checks.iter().any(|policy| policy.rests));
        let of = |policy: &CheckPolicy| policy.service.as_ref().is_some_and(|of| of.restarts);
        let groups = topology.groups.values();
        let restarted = groups.filter(|group| group.checks.iter().any(of));
        let nodes = |group: &Group| {
            let nodes = group.nodes.clone().into_iter();
            let id = group.id;
            nodes.map(move |node| (id, node))
        };
        Self {
            prober,
            told: resting.map(|group| (group.id, None)).collect(),
            watched: restarted.flat_map(nodes).collect(),
            restarting: BTreeSet::new(),
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
        self.mind_restarts(node);
    }

    /// Failures before a restart say nothing of what runs after it: `rise` good answers would have
    /// to outweigh them.
    fn mind_restarts(&mut self, node: &Node) {
        let mut now = BTreeSet::new();
        for (group, judged) in &self.watched {
            let again = node.restarting(*judged, *group);
            now.extend(again.map(|service| (*group, *judged, service.clone())));
        }
        for (group, judged, service) in self.restarting.difference(&now) {
            self.prober.renew(*group, *judged, service);
        }
        self.restarting = now;
    }
}
