//! Who could be next: the nodes of a group in the order in which they would serve.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::Moment;
use crate::health::{GroupReport, Heard, View};
use crate::ledger::{Drained, Ledger};
use crate::names::{Epoch, GroupId, NodeId};
use crate::rule::Truth;
use crate::topology::{Group, Topology};

/// How long a node is held down after it has failed a group once.
pub const HOLD_DOWN_FIRST: Duration = Duration::from_secs(30);
/// The longest hold-down: it doubles with each failure up to here.
pub const HOLD_DOWN_MAX: Duration = Duration::from_secs(600);
/// A held-down node is taken after this much of well-being if nobody else is fit:
/// serving again beats waiting, but not while it flaps. It doubles with each failure, as the
/// hold-down does, up to [`WAIT_MAX`].
pub const WELL_MIN: Duration = Duration::from_secs(3);
/// The longest time that a group which nobody serves waits for a node that has failed it, however
/// often: what hit all its nodes may long be mended, and a group that is dark loses nothing by a try.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// A node that has been well for a group for so long without a break is forgiven what it
/// failed: six times the longest hold-down, so whoever flaps at a pace that a hold-down
/// can slow keeps its count.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(3600);

/// Why a node that has just started takes nothing yet.
pub const CATCHING_UP: &str = "its daemon has just started and has not caught up with the log yet";

/// How many failing checks the reason of a candidate names.
const NAMED_MAX: usize = 4;

/// How fit a node is to serve a group, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// Alive, ready, and no rule speaks against it.
    Fit,
    /// As fit, but it failed the group not long ago.
    HeldDown,
    /// Alive and ready; whether its checks are well is not known.
    Unknown,
    /// It failed the group a moment ago and has not been well for [`well_min`] yet, or is held
    /// down for what runs on the holder alone, so that nothing shows whether that would fail here
    /// again: a move to it now could be the first of many.
    Recovering,
    /// An operator drains it: it could serve, and does so only if nobody else could.
    Drained,
    /// The rule of the group holds for it.
    Failing,
    /// It says itself that it could not serve, or is about to stop.
    Unready,
    /// Not heard lately.
    Absent,
}

/// One node as a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// How fit it is.
    pub fitness: Fitness,
    /// If an operator drains it: how fit it would be otherwise.
    pub drained: Option<Fitness>,
    /// Whether its own processors are too busy for one of the group's checks.
    pub overloaded: bool,
    /// Why, for people.
    pub why: String,
}

/// Since when each node has been well for each group, as this leader saw it, and when
/// it learned of each failure. Times are this node's own; a new leader starts anew,
/// which only makes it more careful.
#[derive(Clone, Debug, Default)]
pub struct Wellness {
    well_since: BTreeMap<(GroupId, NodeId), Moment>,
    failed_at: BTreeMap<(GroupId, NodeId), (Epoch, Moment)>,
    drained_at: BTreeMap<NodeId, (Epoch, Moment)>,
    held_since: BTreeMap<GroupId, (NodeId, Moment)>,
    assigned_at: BTreeMap<GroupId, (Epoch, Moment)>,
    taken_at: BTreeMap<GroupId, (Epoch, Moment)>,
}

impl Wellness {
    /// Takes note of the present: call it often.
    pub fn observe(&mut self, now: Moment, topology: &Topology, ledger: &Ledger, view: &View) {
        self.drained_at
            .retain(|node, _| ledger.drained(*node).is_some());
        for (node, record) in &ledger.nodes {
            let Some(drained) = record.drained else {
                continue;
            };
            let known = self.drained_at.entry(*node).or_insert((drained.began, now));
            if known.0 != drained.began {
                *known = (drained.began, now);
            }
        }
        for group in topology.groups.values() {
            if let Some(current) = ledger.current(group.id) {
                let holder = current.assign.holder;
                let known = self.held_since.entry(group.id).or_insert((holder, now));
                if known.0 != holder {
                    *known = (holder, now);
                }
                let known = self.assigned_at.entry(group.id);
                let known = known.or_insert((current.epoch, now));
                if known.0 != current.epoch {
                    *known = (current.epoch, now);
                }
                let says = view.standing(now, holder, group.id);
                let taken = self.taken_at.get(&group.id);
                if says.is_some_and(|said| said.epoch >= current.epoch)
                    && taken.is_none_or(|taken| taken.0 != current.epoch)
                {
                    self.taken_at.insert(group.id, (current.epoch, now));
                }
            }
            for node in &group.nodes {
                let key = (group.id, *node);
                let failure = ledger
                    .groups
                    .get(&group.id)
                    .and_then(|record| record.failures.get(node));
                match failure {
                    None => {
                        self.failed_at.remove(&key);
                    }
                    Some(failure) => {
                        let news = (failure.epoch, now);
                        let known = self.failed_at.insert(key, news);
                        match known.filter(|known| known.0 == failure.epoch) {
                            Some(known) => {
                                self.failed_at.insert(key, known);
                            }
                            // A node that has just died still seems well while its last report
                            // is fresh: what it was before the failure says nothing.
                            None => {
                                self.well_since.remove(&key);
                            }
                        }
                    }
                }
                let ruling = view.rule(now, group, *node);
                if could_serve(now, view, group.id, *node) && ruling.face == Truth::No {
                    self.well_since.entry(key).or_insert(now);
                } else {
                    self.well_since.remove(&key);
                }
            }
        }
    }

    /// How long a node has been well without a break.
    pub fn well_for(&self, now: Moment, group: GroupId, node: NodeId) -> Option<Duration> {
        self.well_since
            .get(&(group, node))
            .map(|since| now.since(*since))
    }

    /// How long a group has been where it is.
    pub fn held_for(&self, now: Moment, group: GroupId) -> Option<Duration> {
        self.held_since
            .get(&group)
            .map(|(_, since)| now.since(*since))
    }

    /// For how long this node has known of the newest assignment of a group.
    pub fn assigned_for(&self, now: Moment, group: GroupId) -> Option<Duration> {
        self.assigned_at.get(&group).map(|(_, at)| now.since(*at))
    }

    /// For how long this node has known that the holder of a group has its newest assignment; none if
    /// the holder has not said so.
    pub fn taken_for(&self, now: Moment, group: GroupId) -> Option<Duration> {
        let (epoch, _) = self.assigned_at.get(&group)?;
        let (taken, at) = self.taken_at.get(&group)?;
        (taken == epoch).then(|| now.since(*at))
    }

    /// For how long this node has known that another is drained.
    pub fn drained_for(&self, now: Moment, node: NodeId) -> Option<Duration> {
        self.drained_at.get(&node).map(|(_, at)| now.since(*at))
    }

    /// How much longer a node is drained; none: until an operator ends it.
    pub fn drain_left(&self, now: Moment, node: NodeId, drained: &Drained) -> Option<Duration> {
        let known = self.drained_for(now, node).unwrap_or_default();
        let lasting = drained.lasting?;
        Some(lasting.saturating_sub(known))
    }

    /// How much longer a node is held down; none if it is not.
    pub fn held_down(
        &self,
        now: Moment,
        ledger: &Ledger,
        group: GroupId,
        node: NodeId,
    ) -> Option<Duration> {
        self.held_down_within(now, ledger, (group, node), HOLD_DOWN_MAX)
    }

    /// The same, `most` at most.
    fn held_down_within(
        &self,
        now: Moment,
        ledger: &Ledger,
        (group, node): (GroupId, NodeId),
        most: Duration,
    ) -> Option<Duration> {
        let (_, at) = self.failed_at.get(&(group, node))?;
        let count = ledger.groups.get(&group)?.failures.get(&node)?.count;
        let until = *at + doubled(HOLD_DOWN_FIRST, count).min(most);
        (now < until).then(|| now.until(until))
    }
}

/// Whether a node says that it could serve a group, whatever its checks say.
fn could_serve(now: Moment, view: &View, group: GroupId, node: NodeId) -> bool {
    let stays = |heard: &Heard| !heard.report.stopping && heard.report.log_fault.is_none();
    let ready = |said: &GroupReport| said.unready.is_none();
    view.fresh(now, node).is_some_and(stays) && view.standing(now, node, group).is_some_and(ready)
}

/// `first` for the first failure, doubled with each further one, up to [`HOLD_DOWN_MAX`].
fn doubled(first: Duration, count: u32) -> Duration {
    let times = 2u32.saturating_pow(count.saturating_sub(1).min(16));
    first.saturating_mul(times).min(HOLD_DOWN_MAX)
}

/// How long a node that has failed a group so often, and is held down, must have been well
/// without a break before it is taken.
pub fn well_min(count: u32) -> Duration {
    doubled(WELL_MIN, count).min(WAIT_MAX)
}

/// Judges one node for one group.
pub fn judge(
    now: Moment,
    ledger: &Ledger,
    view: &View,
    wellness: &Wellness,
    group: &Group,
    node: NodeId,
) -> Candidate {
    let (fitness, mut why) = assess(now, ledger, view, wellness, group, node);
    let drained = ledger.drained(node).map(|drained| {
        let left = wellness.drain_left(now, node, drained);
        why = format!("{}; {why}", drained_words(left));
        fitness
    });
    let strictest = group.checks.iter().map(|policy| policy.timeout).min();
    let late = strictest.and_then(|timeout| view.overload(now, node, timeout));
    if let Some(late) = late {
        why.push_str(&format!(
            "; its processors are overloaded: ordinary work runs {} ms late",
            late.as_millis()
        ));
    }
    let fitness = match drained {
        Some(_) if fitness < Fitness::Drained => Fitness::Drained,
        Some(_) | None => fitness,
    };
    Candidate {
        node,
        fitness,
        drained,
        overloaded: late.is_some(),
        why,
    }
}

fn assess(
    now: Moment,
    ledger: &Ledger,
    view: &View,
    wellness: &Wellness,
    group: &Group,
    node: NodeId,
) -> (Fitness, String) {
    let Some(heard) = view.fresh(now, node) else {
        let why = match view.last(node) {
            None => "never heard".to_owned(),
            Some(last) => format!("not heard for {} ms", now.since(last.at).as_millis()),
        };
        return (Fitness::Absent, why);
    };
    if heard.report.stopping {
        return (Fitness::Unready, "its daemon was told to stop".to_owned());
    }
    // Who holds the group has what it takes: a log that is fetched anew only looks behind.
    let holds = ledger.current(group.id).is_some_and(|current| {
        (current.assign.holder, current.assign.incarnation) == (node, heard.report.incarnation)
    });
    if !(heard.report.caught_up || holds) {
        return (Fitness::Unready, CATCHING_UP.to_owned());
    }
    let standing = heard.report.groups.iter().find(|one| one.group == group.id);
    match standing {
        None => return (Fitness::Unready, "it does not know the group".to_owned()),
        Some(standing) => {
            if let Some(reason) = &standing.unready {
                return (Fitness::Unready, reason.clone());
            }
        }
    }
    // No renewal touches a disk (DESIGN 3.1 rule 11): who holds the group goes on.
    let current = ledger.current(group.id);
    let holds = current.is_some_and(|current| current.assign.holder == node);
    if let Some(fault) = &heard.report.log_fault
        && !holds
    {
        return (Fitness::Unready, fault.clone());
    }
    let ruling = view.rule(now, group, node);
    let names = |says: &str| {
        let names = ruling.failing.iter().take(NAMED_MAX);
        let mut names: Vec<String> = names
            .map(|(name, merged)| format!("{name} {says}: {}", merged.detail))
            .collect();
        if ruling.failures > names.len() {
            names.push(format!("and {} more", ruling.failures - names.len()));
        }
        names.join("; ")
    };
    match ruling.face {
        Truth::Yes if ruling.patient == Truth::Yes => (Fitness::Failing, names("fails")),
        Truth::Yes => (Fitness::Unknown, names("is silent")),
        Truth::Unknown => (Fitness::Unknown, "its checks are not known yet".to_owned()),
        Truth::No => {
            let Some(left) = wellness.held_down(now, ledger, group.id, node) else {
                return (Fitness::Fit, "well".to_owned());
            };
            if (ruling.idle || group.cold)
                && failed_to_serve(ledger, group.id, node)
                && let Some(left) =
                    wellness.held_down_within(now, ledger, (group.id, node), WAIT_MAX)
            {
                // Nobody knows whether what failed here would do so again.
                let why = format!(
                    "it failed the group {}, and what it would serve with does not run there now; \
                     taken again in {} s",
                    times(ledger, group.id, node),
                    left.as_secs() + 1
                );
                return (Fitness::Recovering, why);
            }
            let well = wellness.well_for(now, group.id, node).unwrap_or_default();
            let well_min = well_min(failures(ledger, group.id, node));
            if well < well_min {
                let why = format!(
                    "it failed the group {}; taken again once it has been well for {} s",
                    times(ledger, group.id, node),
                    well_min.as_secs()
                );
                return (Fitness::Recovering, why);
            }
            let why = format!(
                "well, but it failed the group {}; others are preferred for {} s more",
                times(ledger, group.id, node),
                left.as_secs() + 1
            );
            (Fitness::HeldDown, why)
        }
    }
}

/// Whether what a node failed a group with is what it would serve with: not a power cut, or a
/// cable. A failure whose move is not remembered any more is taken for one.
fn failed_to_serve(ledger: &Ledger, group: GroupId, node: NodeId) -> bool {
    let Some(record) = ledger.groups.get(&group) else {
        return false;
    };
    let Some(failure) = record.failures.get(&node) else {
        return false;
    };
    let mut moves = record.moves.iter();
    let known = moves.find(|one| one.assigned.epoch == failure.epoch);
    known.is_none_or(|one| one.assigned.assign.evidence.cause.is_of_services())
}

/// All nodes of a group, best first: by fitness, then by the order of the file.
pub fn rank(
    now: Moment,
    ledger: &Ledger,
    view: &View,
    wellness: &Wellness,
    group: &Group,
) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = group
        .nodes
        .iter()
        .map(|node| judge(now, ledger, view, wellness, group, *node))
        .collect();
    all.sort_by_key(order);
    all
}

/// What candidates are sorted by, best first; the order of the file decides among equals. A
/// node that nobody drains comes before one that is as unfit and drained.
pub fn order(candidate: &Candidate) -> (Fitness, Option<Fitness>) {
    (candidate.fitness, candidate.drained)
}

/// "drained by an operator for another 58 min", for people.
pub fn drained_words(left: Option<Duration>) -> String {
    let until = match left.map(|left| left.as_secs()) {
        None => "until `evenkeel undrain`".to_owned(),
        Some(secs @ 0..=119) => format!("for another {secs} s"),
        Some(secs @ 120..=7_199) => format!("for another {} min", secs / 60),
        Some(secs) => format!("for another {} h", secs / 3600),
    };
    format!("drained by an operator {until}")
}

/// How often a node failed a group.
fn failures(ledger: &Ledger, group: GroupId, node: NodeId) -> u32 {
    let record = ledger.groups.get(&group);
    let failure = record.and_then(|record| record.failures.get(&node));
    failure.map_or(0, |failure| failure.count)
}

/// The same for people.
fn times(ledger: &Ledger, group: GroupId, node: NodeId) -> String {
    match failures(ledger, group, node) {
        0 | 1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}
