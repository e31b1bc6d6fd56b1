//! What would happen if: one fault, thought through in the leader's eyes.
//!
//! There is no second set of rules. [`foresee`] takes a copy of what the leader knows, lets the
//! others say in it, moment by moment, what they would say if the fault happened now
//! ([`future`]), and asks [`policy::decide`] at each of these moments. What it answers first is
//! the forecast. Everybody else is taken to go on saying what they say now, also one that died
//! less than [`REPORT_AGE_MAX`] ago: nobody can know that yet.
//!
//! | fault                | who is silent                  | what the others say                     |
//! |----------------------|--------------------------------|-----------------------------------------|
//! | a node dies          | it, to everybody               | its renewals are missing; its checks by peers fail |
//! | a check fails        | nobody                         | it fails for the group's holder, with all who ask it |
//! | a service fails      | nobody                         | the group's holder says that it cannot serve |
//! | a link is cut        | each of the two to the other   | the renewals of the other are missing; its checks fail |
//!
//! A holder that reaches no majority loses its lease: those who hear it say that it is deaf. If
//! the leader reaches none, somebody else who does is elected first; if nobody does, nothing may
//! serve. Leases themselves are not run here: who reaches a majority gets one, and how long that
//! takes is told as bounds ([`Dark`]).

mod future;

use core::time::Duration;
use std::collections::BTreeSet;

use crate::Moment;
use crate::command::{Assign, Command};
use crate::evidence::{Cause, Considered};
use crate::health::{REPORT_AGE_MAX, SILENCE_PATIENCE, View};
use crate::ledger::Ledger;
use crate::names::{CheckName, Epoch, GroupId, NodeId, ServiceName};
use crate::policy::{self, Noticed, Situation};
use crate::quorum::majority;
use crate::rule::{Truth, nearest};
use crate::standby::{Fitness, Wellness, well_min};
use crate::topology::{CheckPolicy, Group, Topology};
use future::Future;

/// What follows a decision where the old holder's promises are over: agreement, opening and
/// announcement. The lab sees 3 to 20 ms on a quiet machine; this leaves room for a busy one.
pub const OPENING_MOST: Duration = Duration::from_millis(50);
/// How much later than the reason for it a step is looked at, so that the reason counts.
const AFTER: Duration = Duration::from_millis(1);
/// How many moments are looked at: files have a handful of different times for their checks.
const MOMENTS_MAX: usize = 64;
/// The longest text that is read as a fault: two names, and room.
const TEXT_LENGTH_MAX: usize = 200;

/// What might happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node dies: its power is cut.
    Node(NodeId),
    /// A check of a group fails for its holder.
    Check {
        /// The group.
        group: GroupId,
        /// The check.
        check: CheckName,
    },
    /// A service of a group fails on its holder for good: no tries on the spot are left.
    Service {
        /// The group.
        group: GroupId,
        /// The service.
        service: ServiceName,
    },
    /// Two nodes hear each other no more, and everybody else does.
    Link(NodeId, NodeId),
}

impl Fault {
    /// Reads `node:NAME`, `service:GROUP/NAME` or `link:A-B` (`link:A,B` if the names have
    /// dashes), or says what is wrong with it.
    pub fn parse(text: &str, topology: &Topology) -> Result<Self, String> {
        let forms = "write node:NAME, service:GROUP/NAME or link:A-B";
        if text.len() > TEXT_LENGTH_MAX {
            return Err(format!("that is too long for a failure: {forms}"));
        }
        match text.split_once(':') {
            Some(("node", name)) => node(name, topology).map(Self::Node),
            Some(("service", rest)) => match rest.split_once('/') {
                Some((group, check)) => service(group, check, topology),
                None => Err(format!(
                    "{rest:?} names no service: write service:GROUP/NAME"
                )),
            },
            Some(("link", rest)) => link(rest, topology),
            Some(_) | None => Err(format!("{text:?} is no failure: {forms}")),
        }
    }

    /// Whether two nodes do not hear each other any more.
    fn cuts(&self, one: NodeId, other: NodeId) -> bool {
        match self {
            Self::Node(dead) => one == *dead || other == *dead,
            Self::Check { .. } | Self::Service { .. } => false,
            Self::Link(a, b) => (one, other) == (*a, *b) || (other, one) == (*a, *b),
        }
    }

    fn kills(&self, node: NodeId) -> bool {
        matches!(self, Self::Node(dead) if *dead == node)
    }
}

/// `; did you mean "x"?`, or all that there are.
fn instead<'c>(word: &str, known: impl Iterator<Item = &'c str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => {
            let known: Vec<&str> = known.take(12).collect();
            format!("it has {}", known.join(", "))
        }
    }
}

fn node(name: &str, topology: &Topology) -> Result<NodeId, String> {
    let mut nodes = topology.nodes.values();
    let found = nodes.find(|one| one.name.as_str() == name);
    found.map(|one| one.id).ok_or_else(|| {
        let known = topology.nodes.values().map(|one| one.name.as_str());
        format!(
            "the configuration has no node {name:?}: {}",
            instead(name, known)
        )
    })
}

/// A service, or else a check: where one bears the name of the other, the check asks for the
/// service, and the service is what fails.
fn service(group: &str, name: &str, topology: &Topology) -> Result<Fault, String> {
    let mut groups = topology.groups.values();
    let Some(found) = groups.find(|one| one.name.as_str() == group) else {
        let known = topology.groups.values().map(|one| one.name.as_str());
        let instead = instead(group, known);
        return Err(format!(
            "the configuration has no group {group:?}: {instead}"
        ));
    };
    if let Some(service) = found.services.iter().find(|one| one.as_str() == name) {
        return Ok(Fault::Service {
            group: found.id,
            service: service.clone(),
        });
    }
    let mut checks = found.checks.iter();
    if let Some(policy) = checks.find(|one| one.name.as_str() == name) {
        return Ok(Fault::Check {
            group: found.id,
            check: policy.name.clone(),
        });
    }
    if found.checks.is_empty() && found.services.is_empty() {
        return Err(format!(
            "the group {group} has no checks and no services: nothing of it can be seen to fail but \
             its node"
        ));
    }
    let services = found.services.iter().map(ServiceName::as_str);
    let known = services.chain(found.checks.iter().map(|one| one.name.as_str()));
    let instead = instead(name, known);
    Err(format!(
        "the group {group} has no service or check {name:?}: {instead}"
    ))
}

/// Names may have dashes: each dash is tried.
fn link(rest: &str, topology: &Topology) -> Result<Fault, String> {
    let splits = match rest.split_once(',') {
        Some(split) => vec![split],
        None => {
            let dashes = rest.match_indices('-');
            dashes
                .map(|(at, _)| (&rest[..at], &rest[at + 1..]))
                .collect()
        }
    };
    let mut known = splits.iter().filter_map(|(a, b)| {
        let (a, b) = (node(a, topology).ok()?, node(b, topology).ok()?);
        Some((a, b))
    });
    match (known.next(), known.next()) {
        (Some((a, b)), None) if a == b => {
            Err(format!("{rest:?} names one node twice: name the two ends"))
        }
        (Some((a, b)), None) => Ok(Fault::Link(a, b)),
        (Some(_), Some(_)) => Err(format!(
            "{rest:?} can be read in two ways: write a comma between the two names"
        )),
        (None, _) => match splits.as_slice() {
            [] => Err(format!("{rest:?} names no link: write link:A-B")),
            [(a, b), ..] => {
                let wrong = node(a, topology).and_then(|_| node(b, topology));
                Err(wrong.err().unwrap_or_default())
            }
        },
    }
}

/// How long an election takes, from the death of a leader: the engine's business, so an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Election {
    /// At least.
    pub least: Duration,
    /// At most, on a machine with time to spare.
    pub most: Duration,
}

/// For how long nobody answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dark {
    /// At least.
    pub least: Duration,
    /// At most, on machines with time to spare, without the start of services and hooks.
    pub most: Duration,
}

/// Why a group would be mute until something else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mute {
    /// No majority of voters is left.
    NoMajority,
    /// Its holder reaches no majority, and nobody could take over.
    HolderAlone,
    /// Its holder is dead and nobody could take over.
    NobodyFit,
    /// It is assigned to a node that reaches no majority.
    CannotOpen(NodeId),
}

/// What becomes of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on where it is.
    Stays,
    /// It goes on where it is, under a new epoch: a blink.
    Renewed {
        /// Why.
        cause: Cause,
    },
    /// It moves.
    Moves {
        /// Where to.
        to: NodeId,
        /// Why.
        cause: Cause,
    },
    /// Nobody serves it.
    Muted(Mute),
    /// Nobody has it, before or after.
    Closed,
}

/// The forecast for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupForecast {
    /// The group.
    pub group: GroupId,
    /// Who holds it now.
    pub holder: Option<NodeId>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// When the leader decides, after the fault; none if it decides nothing.
    pub decided: Option<Duration>,
    /// For how long nobody answers, if it is served afterwards.
    pub dark: Option<Dark>,
    /// Who could take over after that.
    pub next: Option<NodeId>,
    /// Whether it would outlive the death of whoever serves it then.
    pub protected: bool,
    /// What more there is to say.
    pub note: Option<String>,
    /// Every node of the group, as it would be seen when it is decided, or in the end.
    pub considered: Vec<Considered>,
}

/// What would happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Who decides then; none: nobody can.
    pub decider: Option<NodeId>,
    /// It has to be elected first.
    pub elected: bool,
    /// Voters of the side that decides; or of the largest side, if nobody can.
    pub votes: Vec<NodeId>,
    /// How many are needed.
    pub needed: usize,
    /// How many voters there are.
    pub voters: usize,
    /// All groups, in order of their identity.
    pub groups: Vec<GroupForecast>,
}

/// Who is left and whom they reach.
struct Reach<'a> {
    situation: &'a Situation<'a>,
    fault: &'a Fault,
}

impl Reach<'_> {
    fn votes(&self, node: NodeId) -> bool {
        let situation = self.situation;
        situation.view.votes(situation.now, node) && !self.fault.kills(node)
    }

    /// The votes that a node reaches, its own included.
    fn from(&self, node: NodeId) -> Vec<NodeId> {
        if self.fault.kills(node) {
            return Vec::new();
        }
        let reached = |voter: &NodeId| *voter == node || !self.fault.cuts(node, *voter);
        let deciders = self.situation.deciders.iter().copied();
        let deciders = deciders.filter(|voter| self.votes(*voter));
        deciders.filter(reached).collect()
    }

    fn is_majority(&self, node: NodeId) -> bool {
        self.from(node).len() >= majority(self.situation.deciders.len())
    }

    /// Who decides then: the leader, or whoever can be elected.
    fn decider(&self) -> Option<NodeId> {
        let me = self.situation.me;
        let others = self.situation.deciders.iter().copied();
        let all = std::iter::once(me).chain(others.filter(|node| *node != me));
        let mut fit = all.filter(|node| self.votes(*node) && self.is_majority(*node));
        fit.next()
    }
}

/// All that policy looks at, as a copy: a large cluster takes a while to think through, which is
/// not for the thread that decides in earnest.
#[derive(Clone, Debug)]
pub struct Present {
    /// Now.
    pub now: Moment,
    /// The leader.
    pub me: NodeId,
    /// The configuration.
    pub topology: Topology,
    /// What is agreed.
    pub ledger: Ledger,
    /// What is known.
    pub view: View,
    /// For how long nodes have been well.
    pub wellness: Wellness,
    /// Who decides.
    pub deciders: BTreeSet<NodeId>,
    /// Since when it leads.
    pub leading_since: Moment,
}

impl Present {
    /// Thinks a fault through.
    pub fn foresee(&self, fault: &Fault, election: Election) -> Forecast {
        let situation = Situation {
            now: self.now,
            me: self.me,
            topology: &self.topology,
            ledger: &self.ledger,
            view: &self.view,
            wellness: &self.wellness,
            deciders: &self.deciders,
            leading_since: self.leading_since,
            // Nothing of it goes into the log.
            wall_ms: 0,
        };
        foresee(&situation, fault, election)
    }
}

/// Thinks a fault through. `situation` is the leader's.
fn foresee(situation: &Situation<'_>, fault: &Fault, election: Election) -> Forecast {
    let reach = Reach { situation, fault };
    let decider = reach.decider();
    let elected = decider.is_some_and(|decider| decider != situation.me);
    let largest = || {
        let sides = situation.deciders.iter().map(|node| reach.from(*node));
        sides.max_by_key(Vec::len).unwrap_or_default()
    };
    let votes = decider.map_or_else(largest, |decider| reach.from(decider));
    let mut run = Run {
        situation,
        fault,
        reach: &reach,
        election: elected.then_some(election),
        future: Future::new(situation, fault, decider.unwrap_or(situation.me)),
        wellness: situation.wellness.clone(),
    };
    let mut decided: Vec<(GroupId, Duration, Assign)> = Vec::new();
    if decider.is_some() {
        for after in run.moments() {
            run.decide(after, &mut decided);
        }
    }
    let groups = situation.topology.groups.values();
    Forecast {
        decider,
        elected,
        votes,
        needed: majority(situation.deciders.len()),
        voters: situation.deciders.len(),
        groups: groups
            .map(|group| {
                let mut all = decided.iter();
                let known = all.find(|one| one.0 == group.id);
                run.tell(group, known, decider.is_some())
            })
            .collect(),
    }
}

struct Run<'a> {
    situation: &'a Situation<'a>,
    fault: &'a Fault,
    reach: &'a Reach<'a>,
    /// If somebody has to be elected first.
    election: Option<Election>,
    future: Future<'a>,
    wellness: Wellness,
}

impl Run<'_> {
    /// When something changes that policy looks at, in order.
    fn moments(&self) -> BTreeSet<Duration> {
        let topology = self.situation.topology;
        let lease = topology.timing.lease;
        let ready = self
            .election
            .map_or(Duration::ZERO, |election| election.most);
        let mut all = BTreeSet::from([
            Duration::ZERO,
            lease * 3 / 4,
            // The holder is deaf once its lease, and what its voters add, is over.
            lease + topology.timing.heartbeat,
            REPORT_AGE_MAX + AFTER,
            // Silence on an overloaded machine counts.
            SILENCE_PATIENCE + REPORT_AGE_MAX + AFTER,
            ready,
        ]);
        // Nodes that failed a moment ago are taken again.
        let records = self.situation.ledger.groups.values();
        let counts = records.flat_map(|one| one.failures.values().map(|failure| failure.count));
        let counts: BTreeSet<u32> = counts.chain([1]).collect();
        let taken_again = counts.into_iter().take(MOMENTS_MAX).map(well_min);
        all.extend(taken_again.map(|well| well + REPORT_AGE_MAX + AFTER));
        let policies = topology.groups.values().flat_map(|group| &group.checks);
        let failing: BTreeSet<Duration> = policies.map(fails_within).collect();
        all.extend(failing.into_iter().take(MOMENTS_MAX));
        all.split_off(&ready)
    }

    /// What the leader would decide so long after the fault.
    fn decide(&mut self, after: Duration, decided: &mut Vec<(GroupId, Duration, Assign)>) {
        let now = self.situation.now + after;
        let view = self.future.view(after);
        let topology = self.situation.topology;
        self.wellness
            .observe(now, topology, &self.future.ledger, &view);
        let mut fresh = Vec::new();
        for group in topology.groups.values() {
            if decided.iter().any(|one| one.0 == group.id) {
                continue;
            }
            let situation = Situation {
                now,
                me: self.future.decider,
                ledger: &self.future.ledger,
                view: &view,
                wellness: &self.wellness,
                leading_since: self.leading_since(),
                ..*self.situation
            };
            if let Some(assign) = policy::decide(&situation, &mut Noticed::default(), group) {
                fresh.push(assign);
            }
        }
        for assign in fresh {
            let applied = self.future.ledger.applied;
            let epoch = Epoch {
                term: applied.term,
                index: applied.index + 1,
            };
            let command = Command::Assign(assign.clone());
            self.future.ledger.apply(epoch, &command);
            decided.push((assign.group, after, assign));
        }
    }

    fn leading_since(&self) -> Moment {
        match self.election {
            Some(election) => self.situation.now + election.most,
            None => self.situation.leading_since,
        }
    }

    fn tell(
        &self,
        group: &Group,
        known: Option<&(GroupId, Duration, Assign)>,
        decidable: bool,
    ) -> GroupForecast {
        let current = self.situation.ledger.current(group.id);
        let holder = current.map(|current| current.assign.holder);
        let outcome = self.outcome(group, holder, known, decidable);
        let serves = match &outcome {
            Outcome::Stays | Outcome::Renewed { .. } => holder,
            Outcome::Moves { to, .. } => Some(*to),
            Outcome::Muted(_) | Outcome::Closed => None,
        };
        // Long enough after all of it that who is dead is known to be.
        let after = SILENCE_PATIENCE + REPORT_AGE_MAX + AFTER;
        let view = self.future.view(after);
        let then = Situation {
            now: self.situation.now + after,
            me: self.future.decider,
            ledger: &self.future.ledger,
            view: &view,
            wellness: &self.wellness,
            leading_since: self.leading_since(),
            ..*self.situation
        };
        let ranked = policy::rank(&then, group);
        let fit = |node: NodeId| Some(node) != serves && self.reach.is_majority(node);
        let mut could = ranked.iter().filter(|one| one.fitness <= Fitness::HeldDown);
        let next = could.find(|one| fit(one.node)).map(|one| one.node);
        let next = next.filter(|_| serves.is_some() && decidable);
        let considered = match known {
            Some((_, _, assign)) => assign.evidence.considered.clone(),
            None => ranked
                .iter()
                .map(|one| Considered {
                    node: one.node,
                    why: one.why.clone(),
                })
                .collect(),
        };
        GroupForecast {
            group: group.id,
            holder,
            dark: serves.and_then(|_| self.dark(group, &outcome, known.map(|one| one.1))),
            decided: known.map(|one| one.1),
            protected: next.is_some() && serves.is_some_and(|node| self.is_spared(node)),
            next,
            note: self.note(&then, group, &outcome),
            outcome,
            considered,
        }
    }

    /// Whether a majority would be left without that node, too.
    fn is_spared(&self, node: NodeId) -> bool {
        let left = self.reach.from(self.future.decider);
        let left = left.iter().filter(|voter| **voter != node).count();
        left >= majority(self.situation.deciders.len())
    }

    fn outcome(
        &self,
        group: &Group,
        holder: Option<NodeId>,
        known: Option<&(GroupId, Duration, Assign)>,
        decidable: bool,
    ) -> Outcome {
        let opens = |node: NodeId| self.reach.is_majority(node);
        if let Some((_, _, assign)) = known {
            let to = assign.holder;
            let cause = assign.evidence.cause.clone();
            return match (opens(to), Some(to) == holder) {
                (false, _) => Outcome::Muted(Mute::CannotOpen(to)),
                (true, true) => Outcome::Renewed { cause },
                (true, false) => Outcome::Moves { to, cause },
            };
        }
        let Some(holder) = holder else {
            return Outcome::Closed;
        };
        if !decidable {
            return Outcome::Muted(Mute::NoMajority);
        }
        let heard = self.situation.view.alive(self.situation.now, holder);
        if self.fault.kills(holder) || !heard && self.silent_now(group) {
            return Outcome::Muted(Mute::NobodyFit);
        }
        // One that the leader does not hear may be well; its voters say nothing against it.
        if heard && !opens(holder) {
            return Outcome::Muted(Mute::HolderAlone);
        }
        Outcome::Stays
    }

    /// Whether somebody says that the holder is silent already.
    fn silent_now(&self, group: &Group) -> bool {
        let Situation { now, view, .. } = *self.situation;
        let mut deciders = self.situation.deciders.iter();
        deciders.any(|voter| {
            let heard = view.fresh(now, *voter);
            heard.is_some_and(|heard| {
                let mut silences = heard.report.silences.iter();
                silences.any(|one| one.group == group.id)
            })
        })
    }

    fn dark(&self, group: &Group, outcome: &Outcome, decided: Option<Duration>) -> Option<Dark> {
        let timing = &self.situation.topology.timing;
        let (lease, heartbeat) = (timing.lease, timing.heartbeat);
        let cause = match outcome {
            Outcome::Stays => return Some(Dark::default()),
            Outcome::Renewed { cause } | Outcome::Moves { cause, .. } => cause,
            Outcome::Muted(_) | Outcome::Closed => return None,
        };
        if cause.is_planned() {
            return Some(Dark::default());
        }
        let decided = decided.unwrap_or_default();
        if matches!(self.fault, Fault::Service { group: of, .. } if *of == group.id) {
            // Its end is seen at once.
            return Some(Dark {
                least: Duration::ZERO,
                most: decided + OPENING_MOST,
            });
        }
        if let Fault::Check { group: of, check } = self.fault
            && *of == group.id
        {
            // A death that is watched is seen at once; an answer that does not come, late.
            let mut checks = group.checks.iter();
            let found = checks.find(|one| one.name == *check).map(fails_within);
            return Some(Dark {
                least: Duration::ZERO,
                most: decided.max(found.unwrap_or_default()) + OPENING_MOST,
            });
        }
        // The last promise was made up to a heartbeat before the fault.
        let promised = lease.saturating_sub(heartbeat);
        let elected = self.election.map_or(Duration::ZERO, |one| one.least);
        let from = match self.election {
            Some(election) if decided <= election.most => elected,
            Some(_) | None => decided.min(promised),
        };
        Some(Dark {
            least: promised.max(from),
            most: lease.max(decided) + OPENING_MOST,
        })
    }

    /// Why a failing check or service moves nothing.
    fn note(&self, then: &Situation<'_>, group: &Group, outcome: &Outcome) -> Option<String> {
        if let Fault::Service { group: of, .. } = self.fault {
            let stays = *of == group.id && *outcome == Outcome::Stays;
            return stays.then(|| "it cannot serve, but nobody else would do better".to_owned());
        }
        let Fault::Check { group: of, check } = self.fault else {
            return None;
        };
        if *of != group.id || *outcome != Outcome::Stays {
            return None;
        }
        let holder = self.situation.ledger.current(group.id)?.assign.holder;
        let ruling = then.view.rule(then.now, group, holder);
        Some(match ruling.face {
            Truth::Yes => "its rule holds, but nobody else would do better".to_owned(),
            Truth::No | Truth::Unknown => {
                format!("{check} alone does not fulfil its rule (`fail_when`)")
            }
        })
    }
}

/// How long it takes at most until a check that answers nothing any more counts as failing.
fn fails_within(policy: &CheckPolicy) -> Duration {
    policy.interval * policy.fall + policy.timeout
}
