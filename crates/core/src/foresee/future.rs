//! What everybody would say, so long after a fault.

use core::time::Duration;

use super::{Fault, Reach, fails_within};
use crate::health::{CheckReport, CheckState, Report, Silence, View};
use crate::ledger::Ledger;
use crate::names::NodeId;
use crate::policy::{Hearing, Situation, hearing};
use crate::topology::{CheckPolicy, Group};

/// The words of a check that the forecast lets fail.
const SUPPOSED: &str = "fails, as the plan supposes";
const UNANSWERED: &str = "no answer, as the plan supposes";

/// What is known, as it would become.
pub(super) struct Future<'a> {
    situation: &'a Situation<'a>,
    fault: &'a Fault,
    /// Who listens.
    pub(super) decider: NodeId,
    /// What is agreed by then.
    pub(super) ledger: Ledger,
}

impl<'a> Future<'a> {
    pub(super) fn new(situation: &'a Situation<'a>, fault: &'a Fault, decider: NodeId) -> Self {
        Self {
            situation,
            fault,
            decider,
            ledger: situation.ledger.clone(),
        }
    }

    /// What the decider would have heard by then.
    pub(super) fn view(&self, after: Duration) -> View {
        let present = self.situation;
        let mut view = View::new(present.topology);
        for node in present.topology.nodes.keys() {
            let Some(last) = present.view.last_whole(*node) else {
                continue;
            };
            let speaks = present.view.alive(present.now, *node)
                && (*node == self.decider || !self.fault.cuts(*node, self.decider))
                && !self.fault.kills(*node);
            match speaks {
                // Its last word stays, and grows old.
                false => view.hear(last.at, *node, last.report),
                true => {
                    let report = self.report(*node, &last.report, after);
                    view.hear(present.now + after, *node, report);
                }
            }
        }
        view
    }

    /// What a node that lives would say.
    fn report(&self, node: NodeId, last: &Report, after: Duration) -> Report {
        let mut report = last.clone();
        for said in &mut report.checks {
            said.silent = said.silent.map(|silent| silent + after);
        }
        report.silences = self.silences(node, last, after);
        let groups = self.situation.topology.groups.values();
        for (group, policy) in groups.flat_map(|one| one.checks.iter().map(move |p| (one, p))) {
            self.unanswered(node, group, policy, after, &mut report);
            self.supposed(node, group, policy, &mut report);
        }
        self.failed(node, &mut report);
        report
    }

    /// The service that the fault is about.
    fn failed(&self, node: NodeId, report: &mut Report) {
        let Fault::Service { group, service } = self.fault else {
            return;
        };
        let holder = self.situation.ledger.current(*group);
        if holder.is_none_or(|current| current.assign.holder != node) {
            return;
        }
        for said in report.groups.iter_mut().filter(|one| one.group == *group) {
            said.unready = Some(format!("service {service}: {SUPPOSED}"));
        }
    }

    /// Holders that a voter does not hear, or hears to be deaf.
    fn silences(&self, voter: NodeId, last: &Report, after: Duration) -> Vec<Silence> {
        let timing = &self.situation.topology.timing;
        let reach = Reach {
            situation: self.situation,
            fault: self.fault,
        };
        let mut all = Vec::new();
        for group in self.situation.topology.groups.keys() {
            let Some(current) = self.ledger.current(*group) else {
                continue;
            };
            let holder = current.assign.holder;
            let before = self.situation.ledger.current(*group);
            // A new holder begins anew.
            if before.map(|one| one.epoch) != Some(current.epoch) {
                continue;
            }
            let mut known = last.silences.iter();
            let known = known.find(|one| one.group == *group && one.epoch == current.epoch);
            let now = Silence {
                group: *group,
                epoch: current.epoch,
                unheard: after,
                standing: Some(after),
            };
            if holder != voter && self.fault.cuts(holder, voter) {
                all.push(now);
            } else if let Some(known) = known {
                all.push(*known);
            } else if holder != voter && !reach.is_majority(holder) {
                all.push(Silence {
                    unheard: Duration::ZERO,
                    ..now
                });
            }
        }
        all.retain(|one| hearing(timing, one.unheard, one.standing) != Hearing::Fine);
        all
    }

    /// Checks of nodes that this one does not reach any more.
    fn unanswered(
        &self,
        prober: NodeId,
        group: &Group,
        policy: &CheckPolicy,
        after: Duration,
        report: &mut Report,
    ) {
        if !policy.from_peers || after < fails_within(policy) {
            return;
        }
        for said in &mut report.checks {
            let meant = said.group == group.id && said.check == policy.name;
            let lost = said.judged != prober && self.fault.cuts(said.judged, prober);
            if meant && lost && said.state != CheckState::Failing {
                said.state = CheckState::Failing;
                said.silent = Some(after);
                said.age = Duration::ZERO;
                said.detail = UNANSWERED.to_owned();
            }
        }
    }

    /// The check that the fault is about.
    fn supposed(&self, prober: NodeId, group: &Group, policy: &CheckPolicy, report: &mut Report) {
        let Fault::Check { group: of, check } = self.fault else {
            return;
        };
        let holder = self.situation.ledger.current(group.id);
        let (true, Some(holder)) = (*of == group.id && *check == policy.name, holder) else {
            return;
        };
        let judged = holder.assign.holder;
        let asks = match prober == judged {
            true => policy.from_node,
            false => policy.from_peers,
        };
        if !asks {
            return;
        }
        let mine = |said: &CheckReport| {
            said.group == group.id && said.check == policy.name && said.judged == judged
        };
        report.checks.retain(|said| !mine(said));
        report.checks.push(CheckReport {
            group: group.id,
            check: policy.name.clone(),
            judged,
            state: CheckState::Failing,
            age: Duration::ZERO,
            silent: None,
            detail: SUPPOSED.to_owned(),
            measures: Vec::new(),
            terse: false,
        });
    }
}
