//! `evenkeel plan`: the leader's forecast, in the words of the console.

use std::time::Duration;

use evenkeel_console::api::v1::{self as api, Answer, Foreseen};
use evenkeel_core::NodeId;
use evenkeel_core::foresee::{Election, Fault, Forecast, GroupForecast, Mute, Outcome, Present};
use evenkeel_core::topology::{Timing, Topology};
use evenkeel_host::clock;

use crate::decision::{Driver, Waiting, wall_ms};
use crate::status::rfc3339;
use crate::worker::election_timing;

/// What an election takes on top of its waits: round trips and writes.
const ELECTION_WORK: Duration = Duration::from_millis(100);

impl Driver {
    /// What would happen if, asked of the leader. It is thought through beside the decision
    /// thread, on a copy.
    pub(crate) fn plan(&self, failure: String, waiting: Waiting) {
        let topology = self.node.topology();
        let refused = match Fault::parse(&failure, topology) {
            Err(reason) => reason,
            Ok(_) if self.node.leader() != Some(self.me) => {
                "this node does not lead any more: ask again".to_owned()
            }
            Ok(fault) => {
                let present = self.node.present(clock::now());
                tokio::task::spawn_blocking(move || {
                    let election = election(&present.topology.timing);
                    let forecast = present.foresee(&fault, election);
                    let plan = told(&present, &failure, &fault, &forecast);
                    waiting.answer(Answer::Plan(plan));
                });
                return;
            }
        };
        waiting.answer(Answer::Refused(refused));
    }
}

/// How long an election takes (`consensus::ElectionTiming`).
fn election(timing: &Timing) -> Election {
    let timing = election_timing(timing);
    Election {
        least: timing.election_max + timing.election_min,
        most: timing.election_max * 2 + ELECTION_WORK,
    }
}

fn told(present: &Present, failure: &str, fault: &Fault, forecast: &Forecast) -> api::Plan {
    let topology = &present.topology;
    let name = |id: NodeId| topology.node_name(id);
    api::Plan {
        failure: failure.to_owned(),
        failure_words: match fault {
            Fault::Node(node) => format!("{} dies", name(*node)),
            Fault::Link(a, b) => format!("{} and {} hear each other no more", name(*a), name(*b)),
            Fault::Service { group, service } => format!(
                "the service {service} of {} fails on its holder for good",
                topology.group_name(*group)
            ),
            Fault::Check { group, check } => format!(
                "the check {check} of {} fails on its holder",
                topology.group_name(*group)
            ),
        },
        at: rfc3339(wall_ms()),
        asked: name(present.me),
        decider: forecast.decider.map(name),
        elected: forecast.elected,
        votes: forecast.votes.iter().copied().map(name).collect(),
        needed: forecast.needed,
        voters: forecast.voters,
        groups: forecast
            .groups
            .iter()
            .map(|one| group(topology, one))
            .collect(),
    }
}

fn group(topology: &Topology, said: &GroupForecast) -> api::GroupPlan {
    let name = |id: NodeId| topology.node_name(id);
    let (outcome, to, cause) = match &said.outcome {
        Outcome::Stays => (Foreseen::Stays, None, None),
        Outcome::Renewed { cause } => (Foreseen::Renewed, None, Some(cause)),
        Outcome::Moves { to, cause } => (Foreseen::Moves, Some(*to), Some(cause)),
        Outcome::Muted(_) => (Foreseen::Muted, None, None),
        Outcome::Closed => (Foreseen::Closed, None, None),
    };
    let serves = match said.outcome {
        Outcome::Stays | Outcome::Renewed { .. } => said.holder,
        Outcome::Moves { to, .. } => Some(to),
        Outcome::Muted(_) | Outcome::Closed => None,
    };
    let mute = match &said.outcome {
        Outcome::Muted(mute) => Some(mute_words(topology, said.holder, *mute)),
        _ => None,
    };
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    api::GroupPlan {
        name: topology.group_name(said.group),
        holder: said.holder.map(name),
        outcome,
        to: to.map(name),
        cause: cause.map(|cause| cause.word().to_owned()),
        because: cause.map(ToString::to_string).or(mute),
        note: said.note.clone(),
        serves: serves.map(name),
        dark_ms: said.dark.map(|dark| api::Span {
            least: ms(dark.least),
            most: ms(dark.most),
        }),
        next: said.next.map(name),
        protected: said.protected,
        considered: said
            .considered
            .iter()
            .map(|one| format!("{}: {}", name(one.node), one.why))
            .collect(),
    }
}

fn mute_words(topology: &Topology, holder: Option<NodeId>, mute: Mute) -> String {
    let name = |id: NodeId| topology.node_name(id);
    let holder = holder.map_or_else(|| "nobody".to_owned(), name);
    match mute {
        Mute::NoMajority => "no majority of voters is left: it is mute until one is back, or \
                             until `evenkeel recover --alone`"
            .to_owned(),
        Mute::HolderAlone => {
            format!("{holder} reaches no majority any more, and nobody else could take over")
        }
        Mute::NobodyFit => format!("{holder} is gone, and nobody else could take over"),
        Mute::CannotOpen(to) => format!(
            "it is assigned to {}, which reaches no majority and may not serve",
            name(to)
        ),
    }
}
