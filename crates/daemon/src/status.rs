//! The status document and the story of moves, from what the decision machine knows.

use std::time::Duration;

use evenkeel_console::api::v1 as api;
use evenkeel_core::generation::{Generations, Members, SETTLE_PATIENCE};
use evenkeel_core::health::{CheckState, Measure, Silent, Standing};
use evenkeel_core::ledger::{Assigned, Move};
use evenkeel_core::maintenance;
use evenkeel_core::node::Node;
use evenkeel_core::quorum::majority;
use evenkeel_core::standby::{self, Candidate, Fitness};
use evenkeel_core::topology::Group;
use evenkeel_core::{GroupId, Moment, NodeId};

use crate::decision::wall_ms;

/// What the decision machine does not know.
pub struct Beside<'a> {
    /// This node.
    pub me: NodeId,
    /// Round trips.
    pub rtt: &'a dyn Fn(NodeId) -> Option<Duration>,
    /// Why nodes were refused, for people.
    pub notes: &'a dyn Fn(NodeId) -> Option<String>,
    /// Which generation of the log counts, and who votes in it.
    pub generations: &'a Generations,
    /// Whether a node votes: its log was not lost.
    pub votes: &'a dyn Fn(Moment, NodeId) -> bool,
    /// Digest of the own configuration.
    pub config_digest: u64,
    /// What else people should know.
    pub advice: Vec<String>,
    /// The last reload or upgrade of this node.
    pub reload: Option<api::Reload>,
    /// What runs with a group here.
    pub services: &'a dyn Fn(GroupId) -> Vec<api::Service>,
}

/// The calendar as RFC 3339, with milliseconds.
pub fn rfc3339(wall_ms: u64) -> String {
    let ms = i64::try_from(wall_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| "unknown".to_owned(), |at| format!("{at:.3}"))
}

/// The status document.
pub fn status(now: Moment, node: &Node, beside: &Beside<'_>) -> api::Status {
    let topology = node.topology();
    let alive = |id: NodeId| id == beside.me || node.view().alive(now, id);
    let deciders = node.deciders();
    let voting = deciders
        .iter()
        .filter(|id| alive(**id) && (beside.votes)(now, **id));
    let quorum = voting.count() >= majority(deciders.len());
    let groups: Vec<api::Group> = topology
        .groups
        .values()
        .map(|one| group(now, node, beside, one, quorum))
        .collect();
    let nodes: Vec<api::Node> = topology
        .nodes
        .values()
        .map(|one| api::Node {
            name: one.name.to_string(),
            alive: alive(one.id),
            witness: one.witness,
            rtt_ms: (beside.rtt)(one.id).map(|rtt| rtt.as_secs_f64() * 1e3),
            note: note(now, node, beside, one.id),
            drained: drained(now, node, one.id).map(Box::new),
        })
        .collect();
    // The engine names the last one until another is elected, though it may be dead.
    let leader = node.leader().filter(|id| quorum && alive(*id));
    let mut advice = advice(now, node, beside, quorum, leader);
    advice.extend(log_advice(now, node));
    advice.extend(drain_advice(wall_ms(), node, &nodes));
    advice.extend(beside.advice.iter().cloned());
    advice.extend(beside.reload.as_ref().and_then(refused_reload));
    api::Status {
        cluster: topology.cluster.clone(),
        node: topology.node_name(beside.me),
        leader: leader.map(|id| topology.node_name(id)),
        quorum,
        groups,
        nodes,
        advice,
        alone: alone(now, node, beside).map(Box::new),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        digest: format!("{:016x}", beside.config_digest),
        reload: beside.reload.clone().map(Box::new),
    }
}

/// A reload that was refused is told until another one is done: SIGHUP has no other answer.
fn refused_reload(reload: &api::Reload) -> Option<String> {
    let what = match reload.what {
        api::ReloadWhat::Check | api::ReloadWhat::Reload => "reload",
        api::ReloadWhat::Upgrade => "upgrade",
    };
    (reload.state == api::ReloadState::Refused).then(|| {
        format!(
            "the last {what} ({}) was refused, and what ran before goes on: {}",
            reload.at, reload.text
        )
    })
}

/// After a recovery, until the cluster is whole again.
fn alone(now: Moment, node: &Node, beside: &Beside<'_>) -> Option<api::Alone> {
    let (Members::Alone(one) | Members::Growing(one)) = beside.generations.members() else {
        return None;
    };
    let topology = node.topology();
    let others = || topology.voters().filter(|voter| voter.id != one);
    let heard = |id| id == beside.me || node.view().alive(now, id);
    let names = |here: bool| {
        let named = others().filter(|voter| heard(voter.id) == here);
        named.map(|voter| voter.name.to_string()).collect()
    };
    let recovered = node.ledger().recovered.as_ref();
    Some(api::Alone {
        node: topology.node_name(one),
        since: recovered.map_or_else(
            || "unknown".to_owned(),
            |(_, recovered)| rfc3339(recovered.wall_ms),
        ),
        missing: names(false),
        returning: names(true),
    })
}

fn alone_advice(alone: &api::Alone, quorum: bool) -> String {
    let api::Alone {
        node,
        since,
        missing,
        returning,
    } = alone;
    let then = if missing.is_empty() {
        format!(
            "{} follow it and vote again within seconds: nothing to do but wait, or readmit one \
             that has lost its log",
            returning.join(" and ")
        )
    } else {
        format!(
            "bring back {}, where they reach {node}: then they follow by themselves",
            missing.join(" and ")
        )
    };
    if quorum {
        format!(
            "{node} decides ALONE since {since}, because an operator ran `evenkeel recover`: if it \
             fails, nobody takes over. {then}"
        )
    } else {
        format!(
            "{node} decides alone since {since} (`evenkeel recover`) and is not heard, so nothing \
             may serve here. Bring it back; or, only if it is stopped for good, stop every other \
             node that is not heard and run `evenkeel recover --alone` with their names on the \
             server that is to go on"
        )
    }
}

fn note(now: Moment, node: &Node, beside: &Beside<'_>, id: NodeId) -> Option<String> {
    if let Some(note) = (beside.notes)(id) {
        return Some(note);
    }
    let heard = node.view().fresh(now, id)?;
    if heard.report.config_digest != beside.config_digest {
        return Some("has another configuration file".to_owned());
    }
    if heard.report.stopping {
        return Some("is stopping".to_owned());
    }
    if let Some(fault) = &heard.report.log_fault {
        return Some(format!(
            "{fault}; it goes on with what it holds, takes nothing over and does not vote on changes"
        ));
    }
    let voter = node.topology().voters().any(|one| one.id == id);
    (voter && !heard.report.votes).then(|| {
        "does not vote: it has just started, or its log was lost (then see `status` there)"
            .to_owned()
    })
}

fn advice(
    now: Moment,
    node: &Node,
    beside: &Beside<'_>,
    quorum: bool,
    leader: Option<NodeId>,
) -> Vec<String> {
    let topology = node.topology();
    let silent: Vec<String> = topology
        .voters()
        .filter(|one| one.id != beside.me && !node.view().alive(now, one.id))
        .map(|one| one.name.to_string())
        .collect();
    let voteless = |me: bool| -> Vec<String> {
        topology
            .voters()
            .filter(|one| me && one.id == beside.me || node.view().alive(now, one.id))
            .filter(|one| (me || one.id != beside.me) && !(beside.votes)(now, one.id))
            .map(|one| one.name.to_string())
            .collect()
    };
    let absent: Vec<String> = [("not heard", &silent), ("without a vote", &voteless(true))]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", names.join(", ")))
        .collect();
    let named: Vec<String> = silent
        .iter()
        .chain(&voteless(false))
        .map(|name| format!("--i-have-stopped {name}"))
        .collect();
    let mut advice = Vec::new();
    if let Some(alone) = alone(now, node, beside) {
        advice.push(alone_advice(&alone, quorum));
    } else if !beside.generations.settled() {
        advice.push(format!(
            "this node has just started and listens for the other voters for up to {} s (not heard: {})",
            SETTLE_PATIENCE.as_secs(),
            silent.join(", ")
        ));
    } else if !quorum {
        advice.push(format!(
            "no majority of voters can be reached ({}), so nothing may serve: two sides could \
             otherwise answer at once. Bring one of them back or mend the network. Only if all of \
             them are stopped for good: `evenkeel recover --alone {}` on the server that is to go on",
            absent.join("; "),
            named.join(" ")
        ));
    } else if leader.is_none() {
        advice.push(
            "no leader: the voters agree on one within a second, if a majority of them votes; \
             until then nothing can be moved"
                .to_owned(),
        );
    }
    let differing = topology.nodes.keys().any(|id| {
        node.view()
            .fresh(now, *id)
            .is_some_and(|heard| heard.report.config_digest != beside.config_digest)
    });
    if differing {
        advice.push("the nodes have different configurations: make the files equal, then `evenkeel reload --everywhere`".to_owned());
    }
    advice
}

fn group(now: Moment, node: &Node, beside: &Beside<'_>, group: &Group, quorum: bool) -> api::Group {
    let topology = node.topology();
    let current = node.ledger().current(group.id);
    let holder = current.map(|current| current.assign.holder);
    let ranked = rank(now, node, group);
    let next = ranked
        .iter()
        .find(|one| Some(one.node) != holder && one.fitness <= Fitness::HeldDown)
        .filter(|_| quorum);
    let spare_vote = spare_vote(now, node, beside, holder);
    let full = holder
        .and_then(|holder| node.view().fresh(now, holder))
        .is_some_and(|heard| heard.report.guard_full);
    api::Group {
        name: group.name.to_string(),
        holder: holder.map(|id| topology.node_name(id)),
        epoch: current.map_or(0, |current| current.epoch.number()),
        state: state(now, node, group, current, quorum),
        since: current.map_or_else(
            || "never".to_owned(),
            |current| rfc3339(current.assign.evidence.wall_ms),
        ),
        addresses: current.map_or_else(
            || group.addresses.iter().map(ToString::to_string).collect(),
            |current| {
                current
                    .assign
                    .addresses
                    .iter()
                    .map(ToString::to_string)
                    .collect()
            },
        ),
        guard: if full { "full" } else { "reduced" }.to_owned(),
        protected: next.is_some() && spare_vote,
        next: next.map(|one| topology.node_name(one.node)),
        nodes: group
            .nodes
            .iter()
            .map(|id| group_node(now, node, group, *id, &ranked))
            .collect(),
        services: (beside.services)(group.id),
    }
}

fn rank(now: Moment, node: &Node, group: &Group) -> Vec<Candidate> {
    standby::rank(now, node.ledger(), node.view(), node.wellness(), group)
}

/// That an operator drains a node, and what it still holds.
fn drained(now: Moment, node: &Node, id: NodeId) -> Option<api::Drained> {
    let (topology, ledger) = (node.topology(), node.ledger());
    let drained = ledger.drained(id)?;
    let left = node.wellness().drain_left(now, id, drained);
    let since = rfc3339(drained.wall_ms);
    let held = ledger.held_by(id);
    let held = held.filter_map(|group| topology.groups.get(&group));
    let holds = held.map(|group| {
        let ranked = rank(now, node, group);
        let to = maintenance::target(ledger, group.id, id, &ranked);
        let to = to.map(|to| topology.node_name(to));
        let why = match &to {
            Some(to) => format!("it leaves for {to}"),
            None => maintenance::staying(&|id| topology.node_name(id), id, &ranked),
        };
        api::Held {
            group: group.name.to_string(),
            to,
            why,
        }
    });
    Some(api::Drained {
        words: format!("{}, since {since}", standby::drained_words(left)),
        since,
        left_s: left.map(|left| left.as_secs()),
        holds: holds.collect(),
    })
}

/// A disk that is dead for ever moves nothing, and is no secret.
fn log_advice(now: Moment, node: &Node) -> impl Iterator<Item = String> {
    let nodes = node.topology().nodes.values();
    nodes.filter_map(move |one| {
        let heard = node.view().fresh(now, one.id)?;
        let fault = heard.report.log_fault.as_ref()?;
        Some(format!(
            "{name}: {fault}. It goes on with the groups that it holds and takes no other: free \
             space or mend the disk there; `evenkeel drain {name}` moves them before its end",
            name = one.name
        ))
    })
}

/// No drain without an end is forgotten, and no group stays on a drained node unseen.
fn drain_advice(wall_ms: u64, node: &Node, nodes: &[api::Node]) -> Vec<String> {
    let mut advice = Vec::new();
    for (one, known) in nodes.iter().zip(node.topology().nodes.keys()) {
        let (Some(told), Some(drained)) = (&one.drained, node.ledger().drained(*known)) else {
            continue;
        };
        if drained.lasting.is_none() {
            let age = wall_ms.saturating_sub(drained.wall_ms) / 1000;
            let age = match age {
                0..=7_199 => format!("{} min", age / 60),
                7_200..=172_799 => format!("{} h", age / 3600),
                _ => format!("{} days", age / 86_400),
            };
            advice.push(format!(
                "{name} is drained for {age} now, without an end: `evenkeel undrain {name}` when \
                 the work is done",
                name = one.name
            ));
        }
        for held in told.holds.iter().filter(|held| held.to.is_none()) {
            advice.push(format!(
                "{} stays on {}, which is drained: {}",
                held.group, one.name, held.why
            ));
        }
    }
    advice
}

/// Whether a majority would be left without the holder.
fn spare_vote(now: Moment, node: &Node, beside: &Beside<'_>, holder: Option<NodeId>) -> bool {
    let deciders = node.deciders();
    let left = deciders
        .iter()
        .filter(|id| Some(**id) != holder && (beside.votes)(now, **id))
        .count();
    left >= majority(deciders.len())
}

fn state(
    now: Moment,
    node: &Node,
    group: &Group,
    current: Option<&Assigned>,
    quorum: bool,
) -> api::State {
    let Some(current) = current else {
        return api::State::Closed;
    };
    let said = node.view().standing(now, current.assign.holder, group.id);
    match said
        .filter(|said| said.epoch == current.epoch)
        .map(|said| said.standing)
    {
        Some(Standing::Open) => api::State::Serving,
        Some(Standing::Lapsed) => api::State::Muted,
        Some(Standing::Opening | Standing::Off | Standing::Released) | None => {
            if quorum {
                api::State::Moving
            } else {
                api::State::Muted
            }
        }
    }
}

fn group_node(
    now: Moment,
    node: &Node,
    group: &Group,
    id: NodeId,
    ranked: &[Candidate],
) -> api::GroupNode {
    let judged = ranked.iter().find(|one| one.node == id);
    let checks = group
        .checks
        .iter()
        .map(|policy| {
            let check = |silent| node.view().check(now, id, group.id, policy, silent);
            let mut merged = check(Silent::Patiently);
            if merged.state == CheckState::Unknown {
                merged.detail = check(Silent::AtFace).detail;
            }
            api::Check {
                name: policy.name.to_string(),
                state: match merged.state {
                    CheckState::Ok => "ok",
                    CheckState::Failing => "failing",
                    CheckState::Unknown => "unknown",
                    CheckState::Idle => "idle",
                }
                .to_owned(),
                age_ms: u64::try_from(merged.age.as_millis()).unwrap_or(u64::MAX),
                detail: merged.detail,
                measures: merged.measures.into_iter().map(measure).collect(),
            }
        })
        .collect();
    api::GroupNode {
        name: node.topology().node_name(id),
        ready: judged.is_some_and(|one| one.fitness <= Fitness::HeldDown),
        reason: judged.map_or_else(String::new, |one| one.why.clone()),
        checks,
    }
}

fn measure(measure: Measure) -> api::Measure {
    api::Measure {
        label: measure.label,
        // What is no number has no form in JSON.
        value: measure.value.filter(|value| value.is_finite()),
        unit: measure.unit,
    }
}

/// The moves of a group, or of all, oldest first.
pub fn moves(node: &Node, only: Option<&str>) -> Vec<api::Move> {
    let topology = node.topology();
    let mut all: Vec<(&Move, api::Move)> = node
        .ledger()
        .groups
        .iter()
        .filter(|(id, _)| only.is_none_or(|name| topology.group_name(**id) == name))
        .flat_map(|(_, record)| &record.moves)
        .map(|one| (one, story(node, one)))
        .collect();
    all.sort_by_key(|(one, _)| one.assigned.epoch);
    all.into_iter().map(|(_, story)| story).collect()
}

fn story(node: &Node, one: &Move) -> api::Move {
    let topology = node.topology();
    let name = |id: NodeId| topology.node_name(id);
    let assign = &one.assigned.assign;
    let evidence = &assign.evidence;
    api::Move {
        group: topology.group_name(assign.group),
        epoch: one.assigned.epoch.number(),
        at: rfc3339(evidence.wall_ms),
        from: evidence.from.map(name),
        to: name(assign.holder),
        cause: evidence.cause.word().to_owned(),
        because: evidence.cause.to_string(),
        decided_by: name(evidence.decided_by),
        known_for_ms: evidence.known_for.as_secs_f64() * 1e3,
        evidence: evidence
            .checks
            .iter()
            .map(|fact| {
                format!(
                    "{} ({} says): {}",
                    fact.check,
                    name(fact.said_by),
                    fact.detail
                )
            })
            .collect(),
        considered: evidence
            .considered
            .iter()
            .map(|one| format!("{}: {}", name(one.node), one.why))
            .collect(),
        phases: one.opened.as_ref().map_or_else(Vec::new, |opened| {
            opened
                .phases
                .iter()
                .map(|phase| api::Phase {
                    what: phase.what.clone(),
                    after_ms: phase.after.as_secs_f64() * 1e3,
                })
                .collect()
        }),
        completed: one.opened.is_some(),
    }
}
