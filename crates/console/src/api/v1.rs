//! Version 1: requests, answers, and the status document of DESIGN 5.

use serde::{Deserialize, Serialize};

/// The longest request, in bytes.
pub const REQUEST_LENGTH_MAX: usize = 64 * 1024;
/// The longest answer, in bytes: the status of a large cluster.
pub const ANSWER_LENGTH_MAX: usize = 16 * 1024 * 1024;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// The status document.
    Status,
    /// Move a group on purpose.
    Switch {
        /// The group.
        group: String,
        /// Where to; the best standby if absent.
        to: Option<String>,
        /// Though nobody could take over from there.
        #[serde(default, skip_serializing_if = "is_false")]
        force: bool,
    },
    /// Let a node's groups leave it, and give it none while others could serve.
    Drain {
        /// The node.
        node: String,
        /// For how long, in milliseconds; until undrained if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_ms: Option<u64>,
        /// Though no majority would be left without it.
        #[serde(default, skip_serializing_if = "is_false")]
        force: bool,
    },
    /// Let a drained node have groups again.
    Undrain {
        /// The node.
        node: String,
    },
    /// The last moves.
    Why {
        /// Of this group; of all if absent.
        group: Option<String>,
    },
    /// Let a node back in whose identity was refused.
    Readmit {
        /// The node.
        node: String,
    },
    /// Serve without a majority: the other voters are stopped, says the operator.
    Recover {
        /// The nodes that the operator has stopped.
        stopped: Vec<String>,
    },
    /// Take up a changed file, or a new program.
    Reload {
        /// On this node; on the one that is asked if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// Which step of it.
        step: ReloadStep,
    },
}

/// A step of a reload. The process that answers may be replaced by it, so it is begun with
/// one question and its outcome fetched with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadStep {
    /// Judge the file, and change nothing.
    Check,
    /// Begin to take it up.
    Apply {
        /// Only if this is its digest, as a check has told it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// Begin to take up the program that is on disk now.
    Upgrade,
    /// How far is that?
    Outcome {
        /// The number that the first answer named.
        id: u64,
    },
}

impl Request {
    /// Whether it changes anything: only root may ask it.
    pub fn changes(&self) -> bool {
        match self {
            Self::Status | Self::Why { .. } => false,
            Self::Switch { .. }
            | Self::Drain { .. }
            | Self::Undrain { .. }
            | Self::Readmit { .. }
            | Self::Recover { .. }
            | Self::Reload { .. } => true,
        }
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The status document.
    Status(Status),
    /// The last moves, newest last.
    Why(Vec<Move>),
    /// It was done; a sentence for people.
    Done(String),
    /// It was not done; why, and what to do.
    Refused(String),
    /// How a reload or an upgrade stands.
    Reload(Reload),
}

/// How a reload or an upgrade stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// Its number.
    pub id: u64,
    /// What was asked for.
    pub what: ReloadWhat,
    /// How far it is.
    pub state: ReloadState,
    /// When it was asked for, RFC 3339.
    pub at: String,
    /// Digest of the file, once it was read and is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What exactly; why not, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadWhat {
    /// To judge the file.
    Check,
    /// To take it up.
    Reload,
    /// To take up the program on disk.
    Upgrade,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadState {
    /// Under way.
    Running,
    /// The file was judged: it could be taken up.
    Good,
    /// Done.
    Applied,
    /// Nothing was changed.
    Refused,
}

/// The status of the cluster as one node knows it. Every fact has an age; a stale one
/// is unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the cluster.
    pub cluster: String,
    /// The node that answers.
    pub node: String,
    /// Who leads.
    pub leader: Option<String>,
    /// Whether this node is in touch with a majority of voters.
    pub quorum: bool,
    /// All groups.
    pub groups: Vec<Group>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// After `recover`, until the cluster is whole again: who decides alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<Box<Alone>>,
    /// What is wrong and what to do about it, most urgent first.
    #[serde(default)]
    pub advice: Vec<String>,
    /// Version of the program that answers.
    #[serde(default)]
    pub version: String,
    /// Digest of the configuration that runs.
    #[serde(default)]
    pub digest: String,
    /// The last reload or upgrade of this node since its daemon was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<Box<Reload>>,
}

/// One node decides alone, and nobody could take over from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alone {
    /// Which.
    pub node: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// The other voters that are not heard.
    pub missing: Vec<String>,
    /// Those that are heard, and follow it without a vote so far.
    pub returning: Vec<String>,
}

/// How a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its holder answers.
    Serving,
    /// It has a new holder that does not answer yet.
    Moving,
    /// It has no holder.
    Closed,
    /// Its holder may not answer: no majority proves its lease.
    Muted,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Who holds it.
    pub holder: Option<String>,
    /// Number of the assignment.
    pub epoch: u64,
    /// How it stands.
    pub state: State,
    /// Since when, RFC 3339.
    pub since: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// `full` or `reduced`: the holder's kernel guard.
    pub guard: String,
    /// Whether somebody could take over now.
    pub protected: bool,
    /// Who would.
    pub next: Option<String>,
    /// Every node of the group.
    pub nodes: Vec<GroupNode>,
}

/// One node's readiness for one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupNode {
    /// Its name.
    pub name: String,
    /// Whether it could serve.
    pub ready: bool,
    /// Why (not).
    pub reason: String,
    /// Its checks.
    pub checks: Vec<Check>,
}

/// One check of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// `ok`, `failing`, `unknown` or `idle`.
    pub state: String,
    /// Age of the answer in milliseconds.
    pub age_ms: u64,
    /// What exactly.
    pub detail: String,
    /// What the newest answer measured: what plugins of Nagios call performance data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<Measure>,
}

/// One thing that a check measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// What.
    pub label: String,
    /// How much; absent if the plugin could not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Of what: `s`, `ms`, `us`, `%`, `B` and its multiples, `c` for a counter; absent for a
    /// plain number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Heard lately.
    pub alive: bool,
    /// Votes and hosts nothing.
    pub witness: bool,
    /// Round trip to it, if it is connected.
    pub rtt_ms: Option<f64>,
    /// What this node knows of it, for people: refused, other configuration, ...
    #[serde(default)]
    pub note: Option<String>,
    /// That an operator drains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<Box<Drained>>,
}

/// That an operator drains a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drained {
    /// Since when, RFC 3339.
    pub since: String,
    /// How much longer, in seconds; until undrained if absent.
    pub left_s: Option<u64>,
    /// In words, without the node's name: "drained for another 58 min".
    pub words: String,
    /// The groups that it still holds.
    pub holds: Vec<Held>,
}

/// A group on a drained node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The group.
    pub group: String,
    /// Where it goes; absent if it stays.
    pub to: Option<String>,
    /// Why it stays, or that it leaves.
    pub why: String,
}

/// One move of a group, for `why`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// The group.
    pub group: String,
    /// Number of the assignment.
    pub epoch: u64,
    /// When it was decided, RFC 3339.
    pub at: String,
    /// From whom.
    pub from: Option<String>,
    /// To whom.
    pub to: String,
    /// One word: `holder-silent`, `rule`, `operator`, ...
    pub cause: String,
    /// The cause in a sentence.
    pub because: String,
    /// Who decided.
    pub decided_by: String,
    /// For how long the reason had been known before the decision, in milliseconds.
    pub known_for_ms: f64,
    /// Checks that failed, with who said so and what.
    pub evidence: Vec<String>,
    /// Every node as the leader saw it.
    pub considered: Vec<String>,
    /// What the new holder did, with milliseconds since the assignment reached it.
    pub phases: Vec<Phase>,
    /// Whether the new holder has told that it serves.
    pub completed: bool,
}

/// One phase of a move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// What.
    pub what: String,
    /// Milliseconds since the assignment reached the new holder.
    pub after_ms: f64,
}
