//! Maintenance of nodes: which one may be drained, where its groups go, and what ends by
//! itself.
//!
//! A drained node is announced to go down: its groups leave it by planned moves, it gets a group
//! only if nobody else could serve, and its vote is not counted on when another is to be drained.
//! It keeps voting.
//!
//! | a drained node that holds a group      | a standby that is                            | then     |
//! |----------------------------------------|----------------------------------------------|----------|
//! | well                                   | fit                                          | it moves |
//! | well                                   | held down for a failure before the drain     | it moves |
//! | well                                   | held down for a failure since                | it stays until the hold-down ends |
//! | well                                   | anything else, or drained as well            | it stays |
//! | dead, or failing                       | as of every other holder                     | policy   |
//!
//! Who drains a node knows of the failures before; what happened since would begin a flapping.
//!
//! **Times are counted by whoever leads**, on its boot clock, since it learned of the entry; every
//! node learns of it when it is agreed on, so a change of leader changes nothing. A node whose
//! daemon has started since begins anew: a drain may last longer than was said, never shorter.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::Moment;
use crate::command::{Command, Drain};
use crate::ledger::Ledger;
use crate::names::{GroupId, NodeId};
use crate::policy::{Refusal, Situation};
use crate::quorum::majority;
use crate::standby::{Candidate, FORGIVEN_AFTER, Fitness};

/// The shortest drain with an end: less than a group needs to leave.
pub const LASTING_MIN: Duration = Duration::from_secs(10);
/// The longest drain with an end: a longer one is no maintenance, and may be left without.
pub const LASTING_MAX: Duration = Duration::from_secs(30 * 86_400);
/// How long an entry may take to be agreed on before its operator hears that it was not, and
/// before an entry of the leader's own is proposed again.
pub const AGREEMENT_PATIENCE: Duration = Duration::from_secs(5);
/// How many entries that the leader proposes of itself may be under way: the rest follow.
const OWN_MAX: usize = 16;

/// What an operator asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Drain a node.
    Drain {
        /// The node.
        node: NodeId,
        /// For how long; none: until undrained.
        lasting: Option<Duration>,
        /// Though no majority would be left without it.
        force: bool,
    },
    /// Drain it no more.
    Undrain {
        /// The node.
        node: NodeId,
    },
}

/// Where a group goes that is to leave its drained holder.
pub fn target(
    ledger: &Ledger,
    group: GroupId,
    holder: NodeId,
    ranked: &[Candidate],
) -> Option<NodeId> {
    let began = ledger.drained(holder)?.began;
    let failed_since = |one: &Candidate| {
        let record = ledger.groups.get(&group);
        let failure = record.and_then(|record| record.failures.get(&one.node));
        failure.is_some_and(|failure| failure.epoch > began)
    };
    let could = |one: &&Candidate| match one.fitness {
        Fitness::Fit => true,
        Fitness::HeldDown => !failed_since(one),
        Fitness::Unknown
        | Fitness::Recovering
        | Fitness::Drained
        | Fitness::Failing
        | Fitness::Unready
        | Fitness::Absent => false,
    };
    let others = ranked.iter().filter(|one| one.node != holder);
    others.filter(could).map(|one| one.node).next()
}

/// Voters that are heard, vote and are not `without`.
fn votes_left(situation: &Situation<'_>, without: NodeId) -> impl Iterator<Item = NodeId> {
    let (now, view) = (situation.now, situation.view);
    let voters = situation.deciders.iter().copied();
    voters.filter(move |voter| *voter != without && view.votes(now, *voter))
}

/// Whether the majority would be gone with this node: its vote is one of the last.
pub fn is_last_majority(situation: &Situation<'_>, node: NodeId) -> bool {
    situation.deciders.contains(&node)
        && votes_left(situation, node).count() < majority(situation.deciders.len())
}

/// Grants an operator's wish, or says why not.
pub fn grant(situation: &Situation<'_>, ask: Ask) -> Result<Command, Refusal> {
    let (Ask::Drain { node, .. } | Ask::Undrain { node }) = ask;
    if !situation.topology.nodes.contains_key(&node) {
        return Err(Refusal("the configuration has no such node".to_owned()));
    }
    match ask {
        Ask::Drain {
            node,
            lasting,
            force,
        } => {
            if lasting.is_some_and(|span| !(LASTING_MIN..=LASTING_MAX).contains(&span)) {
                return Err(Refusal(format!(
                    "a drain lasts from {} s to {} days; without a time it lasts until \
                     `evenkeel undrain`",
                    LASTING_MIN.as_secs(),
                    LASTING_MAX.as_secs() / 86_400
                )));
            }
            if !force {
                leaves_a_majority(situation, node)?;
            }
            Ok(Command::Drain(Drain {
                node,
                lasting,
                wall_ms: situation.wall_ms,
            }))
        }
        Ask::Undrain { node } => match situation.ledger.drained(node) {
            Some(_) => Ok(Command::Undrain { node, began: None }),
            None => Err(Refusal(format!(
                "{} is not drained",
                situation.topology.node_name(node)
            ))),
        },
    }
}

/// A drain takes no vote away, but who drains a node is about to. Others that are drained are
/// about to go as well.
fn leaves_a_majority(situation: &Situation<'_>, node: NodeId) -> Result<(), Refusal> {
    let needed = majority(situation.deciders.len());
    let ledger = situation.ledger;
    let counts = |voter: &NodeId| {
        let heard = situation.view.fresh(situation.now, *voter);
        ledger.drained(*voter).is_none() && heard.is_some_and(|heard| !heard.report.stopping)
    };
    let left = votes_left(situation, node).filter(counts).count();
    if left >= needed || !situation.deciders.contains(&node) {
        return Ok(());
    }
    let missing = situation.deciders.iter().filter(|voter| {
        **voter != node && !(situation.view.votes(situation.now, **voter) && counts(voter))
    });
    let missing: Vec<String> = missing
        .map(|voter| {
            let why = match ledger.drained(*voter) {
                Some(_) => "drained as well",
                None if situation.view.alive(situation.now, *voter) => "without a vote now",
                None => "not heard",
            };
            format!("{} ({why})", situation.topology.node_name(*voter))
        })
        .collect();
    let name = situation.topology.node_name(node);
    let missing = match missing.is_empty() {
        true => String::new(),
        false => format!("; missing: {}", missing.join(", ")),
    };
    Err(Refusal(format!(
        "without {name} only {left} of {} voters would be left, and {needed} are needed for \
         anything to serve{missing}. Bring them back first; or, if {name} is not going to be \
         stopped, say --force",
        situation.deciders.len()
    )))
}

/// Why a group stays on its drained holder, for people.
pub fn staying(name: &dyn Fn(NodeId) -> String, holder: NodeId, ranked: &[Candidate]) -> String {
    let others = ranked.iter().filter(|one| one.node != holder);
    let why: Vec<String> = others
        .map(|one| format!("{}: {}", name(one.node), one.why))
        .collect();
    if why.is_empty() {
        return "the group has no other node".to_owned();
    }
    format!("nobody else is fit to take it: {}", why.join("; "))
}

/// What has come to its end, in the leader's eyes: drains whose time is over, failures of nodes
/// that have been well for long.
fn over(situation: &Situation<'_>) -> impl Iterator<Item = Command> {
    let Situation {
        now,
        ledger,
        wellness,
        ..
    } = *situation;
    let drains = ledger.nodes.iter().filter_map(move |(node, record)| {
        let drained = record.drained?;
        let known = wellness.drained_for(now, *node)?;
        let began = Some(drained.began);
        (known >= drained.lasting?).then_some(Command::Undrain { node: *node, began })
    });
    let failures = ledger.groups.iter().flat_map(move |(group, record)| {
        record.failures.iter().filter_map(move |(node, failure)| {
            let well = wellness.well_for(now, *group, *node)?;
            (well >= FORGIVEN_AFTER).then_some(Command::Forgive {
                group: *group,
                node: *node,
                failure: failure.epoch,
            })
        })
    });
    drains.chain(failures)
}

/// What one entry of the leader's own ends: not proposed twice at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ends {
    Drain(NodeId),
    Failures(GroupId, NodeId),
}

/// An operator's entry that is being agreed on.
#[derive(Clone, Debug)]
struct Pending {
    id: u64,
    proposal: u64,
    asked: Moment,
    done: String,
}

/// An answer to an operator.
pub type Reply = (u64, Result<String, String>);

/// What is under way at the leader.
#[derive(Clone, Debug, Default)]
pub struct Desk {
    pending: Option<Pending>,
    own: BTreeMap<Ends, Moment>,
}

impl Desk {
    /// An operator's wish as a command, or the refusal. One at a time, so that two together
    /// cannot spend the majority that each alone would leave.
    pub fn take(&self, situation: &Situation<'_>, ask: Ask) -> Result<Command, String> {
        if self.pending.is_some() {
            return Err("another drain is being agreed on: ask again in a moment".to_owned());
        }
        grant(situation, ask).map_err(|refusal| refusal.0)
    }

    /// The command is proposed.
    pub fn proposing(&mut self, now: Moment, id: u64, proposal: u64, done: String) {
        self.pending = Some(Pending {
            id,
            proposal,
            asked: now,
            done,
        });
    }

    /// A proposal was agreed on or not; the answer, if an operator waits for it.
    pub fn proposed(&mut self, proposal: u64, failed: Option<&String>) -> Option<Reply> {
        let pending = self.pending.take_if(|one| one.proposal == proposal)?;
        let outcome = match failed {
            None => Ok(pending.done),
            Some(reason) => Err(format!("it was not agreed on: {reason}")),
        };
        Some((pending.id, outcome))
    }

    /// The answer for who has waited for too long.
    pub fn late(&mut self, now: Moment) -> Option<Reply> {
        let late = |one: &mut Pending| now.since(one.asked) >= AGREEMENT_PATIENCE;
        let pending = self.pending.take_if(late)?;
        let reason = "no majority has agreed on it so far: `evenkeel status` tells whether it was \
                      done after all";
        Some((pending.id, Err(reason.to_owned())))
    }

    /// What the leader proposes of itself now.
    pub fn due(&mut self, situation: &Situation<'_>) -> Vec<Command> {
        let now = situation.now;
        self.own
            .retain(|_, asked| now.since(*asked) < AGREEMENT_PATIENCE);
        let mut due = Vec::new();
        for command in over(situation) {
            let ends = match &command {
                Command::Undrain { node, .. } => Ends::Drain(*node),
                Command::Forgive { group, node, .. } => Ends::Failures(*group, *node),
                _ => continue,
            };
            if self.own.len() < OWN_MAX && !self.own.contains_key(&ends) {
                self.own.insert(ends, now);
                due.push(command);
            }
        }
        due
    }
}
