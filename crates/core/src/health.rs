//! What is known of every node: the newest report of each, with its age.
//!
//! Every node tells all others what it sees, at once when something changes and
//! every so often when nothing does. A report that has become too old says nothing:
//! it turns into "unknown", and unknown never moves a group.
//!
//! Silence of a service has two meanings. On a machine with time to spare it means that
//! the service hangs. On one whose processors are overloaded it may only be slow, and
//! then another overloaded machine would do no better. So each node measures how late
//! ordinary work runs on it ([`Report::lateness`]), and [`View::rule`] answers with silence
//! on overloaded machines at face value, taken for unknown for a while, and taken for
//! unknown. A refused connection, a wrong answer, a dead process always count.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::Moment;
use crate::names::{CheckName, Epoch, GroupId, Incarnation, NodeId};
use crate::rule::Truth;
use crate::switchover::Departure;
use crate::topology::{CheckPolicy, Group, Topology};

/// A report older than this says nothing: several repeats must have been lost.
pub const REPORT_AGE_MAX: Duration = Duration::from_millis(700);

/// How many times an answer waits for a processor on its way: the prober that connects,
/// the process that accepts, the one that answers, the prober that reads, and as many
/// again for what stands behind a web server. A machine on which each of these waits is
/// longer than that part of a check's time-out is too busy for the check to mean anything.
pub const WAITS_PER_ANSWER: u32 = 6;

/// Silence on an overloaded machine counts after all once there has been no answer at all
/// for so long: a slow service answers now and then, a dead one does not. Beyond the
/// patience of whoever waits for a web page.
pub const SILENCE_PATIENCE: Duration = Duration::from_secs(10);

/// What a check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckState {
    /// Well.
    Ok,
    /// Not well.
    Failing,
    /// Nobody knows.
    Unknown,
    /// Not asked, on purpose.
    Idle,
}

/// What one prober says about one check of one judged node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// The group.
    pub group: GroupId,
    /// The check.
    pub check: CheckName,
    /// The node that is judged.
    pub judged: NodeId,
    /// The answer.
    pub state: CheckState,
    /// How old the answer was when the report was made.
    pub age: Duration,
    /// For how long nothing had been answered at all, if it is failing and nothing but
    /// silence speaks against it.
    pub silent: Option<Duration>,
    /// What exactly, for people.
    pub detail: String,
}

/// How a node stands towards a group, by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not hold the group.
    Off,
    /// It waits for older promises to run out.
    Opening,
    /// It serves.
    Open,
    /// It would serve but no majority proves its lease.
    Lapsed,
    /// It gave its epoch up.
    Released,
}

/// A node's own account of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// The group.
    pub group: GroupId,
    /// The epoch it speaks of.
    pub epoch: Epoch,
    /// How it stands.
    pub standing: Standing,
    /// Why it could not take the group, if it could not.
    pub unready: Option<String>,
    /// How far it is with letting the clients of an open group go.
    pub departure: Departure,
}

/// What a voter hears of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The group.
    pub group: GroupId,
    /// The epoch that the voter listens for.
    pub epoch: Epoch,
    /// How long since a Renew of it arrived.
    pub unheard: Duration,
    /// How long the proven deadline in it has stood still; none if it never moved.
    pub standing: Option<Duration>,
}

/// Everything that one node tells the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The life of its daemon.
    pub incarnation: Incarnation,
    /// Grows with each report of one life.
    pub seq: u64,
    /// It was told to stop and wants to hand over.
    pub stopping: bool,
    /// Whether both kinds of kernel guard are active.
    pub guard_full: bool,
    /// Digest of its configuration.
    pub config_digest: u64,
    /// The generation of the agreed log that it obeys.
    pub generation: u64,
    /// Whether it votes: not before it has settled, nor when its log was lost.
    pub votes: bool,
    /// Index up to which it has durably what was decided: never less in a later life, unless its
    /// log was lost or replaced by an old copy.
    pub stored: u64,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
    /// How late work of ordinary priority has lately run on it.
    pub lateness: Duration,
    /// What it asked.
    pub checks: Vec<CheckReport>,
    /// How it stands towards each group that names it.
    pub groups: Vec<GroupReport>,
    /// Holders that it, as a voter, does not hear.
    pub silences: Vec<Silence>,
    /// Assignments above a committed epoch that its floor has seen.
    pub floors_above: Vec<(GroupId, Epoch)>,
    /// Said by a leader: planned moves are to come, so these groups' holders shall let their
    /// clients go.
    pub leaving: Vec<(GroupId, Epoch)>,
}

/// A report and when it came.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The report.
    pub report: Report,
    /// When it arrived here.
    pub at: Moment,
}

/// The newest report of every node, the own one included.
#[derive(Clone, Debug, Default)]
pub struct View {
    heard: BTreeMap<NodeId, Heard>,
}

/// What silence on overloaded machines is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silent {
    /// A failure, as everywhere.
    AtFace,
    /// Unknown until it has lasted for [`SILENCE_PATIENCE`].
    Patiently,
    /// Unknown.
    Never,
}

/// Whether the rule of a group holds for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// With all silence at face value.
    pub face: Truth,
    /// With silence on overloaded machines taken for unknown for [`SILENCE_PATIENCE`].
    pub patient: Truth,
    /// With silence on overloaded machines taken for unknown. If this holds, the ones
    /// above do.
    pub definite: Truth,
    /// The checks that fail, at face value.
    pub failing: Vec<(CheckName, Merged)>,
}

/// A check's answer in one place, merged over those who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The answer.
    pub state: CheckState,
    /// How old the newest part of it is.
    pub age: Duration,
    /// What exactly, for people.
    pub detail: String,
    /// Who said the part that decided.
    pub said_by: Option<NodeId>,
}

impl View {
    /// Takes a report in. An older one of the same life changes nothing.
    pub fn hear(&mut self, now: Moment, node: NodeId, report: Report) {
        if let Some(known) = self.heard.get(&node) {
            let older =
                known.report.incarnation == report.incarnation && known.report.seq >= report.seq;
            if older || known.report.incarnation.counter > report.incarnation.counter {
                return;
            }
        }
        self.heard.insert(node, Heard { report, at: now });
    }

    /// Forgets a node: what its former life said does not count any more.
    pub fn forget(&mut self, node: NodeId) {
        self.heard.remove(&node);
    }

    /// The newest report of a node, if it is fresh enough to mean something.
    pub fn fresh(&self, now: Moment, node: NodeId) -> Option<&Heard> {
        self.heard
            .get(&node)
            .filter(|heard| now.since(heard.at) <= REPORT_AGE_MAX)
    }

    /// The newest report of a node, however old.
    pub fn last(&self, node: NodeId) -> Option<&Heard> {
        self.heard.get(&node)
    }

    /// Whether a node has been heard lately.
    pub fn alive(&self, now: Moment, node: NodeId) -> bool {
        self.fresh(now, node).is_some()
    }

    /// Whether a node votes, by its own fresh account.
    pub fn votes(&self, now: Moment, node: NodeId) -> bool {
        self.fresh(now, node)
            .is_some_and(|heard| heard.report.votes)
    }

    /// How a node stands towards a group by its own fresh account.
    pub fn standing(&self, now: Moment, node: NodeId, group: GroupId) -> Option<&GroupReport> {
        self.fresh(now, node)?
            .report
            .groups
            .iter()
            .find(|one| one.group == group)
    }

    /// How late ordinary work runs on a node, if that may make a check silent that waits
    /// for an answer for so long.
    pub fn overload(&self, now: Moment, node: NodeId, timeout: Duration) -> Option<Duration> {
        let lateness = self.fresh(now, node)?.report.lateness;
        (lateness * WAITS_PER_ANSWER >= timeout).then_some(lateness)
    }

    /// What one prober says about a check of `judged`: none if it does not ask, or
    /// has not been heard lately. Too old an answer is unknown.
    fn said(
        &self,
        now: Moment,
        prober: NodeId,
        judged: NodeId,
        group: GroupId,
        policy: &CheckPolicy,
        silent: Silent,
    ) -> Option<Merged> {
        let heard = self.fresh(now, prober)?;
        let said =
            heard.report.checks.iter().find(|one| {
                one.group == group && one.judged == judged && one.check == policy.name
            })?;
        let age = said.age + now.since(heard.at);
        let stale = age > answer_age_max(policy);
        let mut merged = Merged {
            state: if stale {
                CheckState::Unknown
            } else {
                said.state
            },
            age,
            detail: said.detail.clone(),
            said_by: Some(prober),
        };
        if merged.state == CheckState::Failing
            && let Some(silence) = said.silent
        {
            let silence = silence + now.since(heard.at);
            self.weigh(now, [judged, prober], policy, silence, silent, &mut merged);
        }
        Some(merged)
    }

    /// Silence between a node and its prober, one of which may just be overloaded.
    fn weigh(
        &self,
        now: Moment,
        ends: [NodeId; 2],
        policy: &CheckPolicy,
        silence: Duration,
        silent: Silent,
        merged: &mut Merged,
    ) {
        let busy = |node| self.overload(now, node, policy.timeout);
        let Some(late) = ends.into_iter().filter_map(busy).max() else {
            return;
        };
        let unknown = match silent {
            Silent::AtFace => false,
            Silent::Patiently => silence < SILENCE_PATIENCE,
            Silent::Never => true,
        };
        merged.detail.push_str(&format!(
            "; no answer for {:.1} s, on a machine that runs ordinary work {} ms late",
            silence.as_secs_f64(),
            late.as_millis()
        ));
        if unknown {
            merged.state = CheckState::Unknown;
        }
    }

    /// A check of a node: failing if the node itself says so, or if a majority of the
    /// peers that can be asked do (DESIGN 5).
    pub fn check(
        &self,
        now: Moment,
        topology: &Topology,
        judged: NodeId,
        group: GroupId,
        policy: &CheckPolicy,
        silent: Silent,
    ) -> Merged {
        let own = if policy.from_node {
            self.said(now, judged, judged, group, policy, silent)
        } else {
            None
        };
        let peers = if policy.from_peers {
            self.peers_say(now, topology, judged, group, policy, silent)
        } else {
            None
        };
        merge(own, peers)
    }

    fn peers_say(
        &self,
        now: Moment,
        topology: &Topology,
        judged: NodeId,
        group: GroupId,
        policy: &CheckPolicy,
        silent: Silent,
    ) -> Option<Merged> {
        let said: Vec<Merged> = topology
            .nodes
            .keys()
            .filter(|peer| **peer != judged)
            .filter_map(|peer| self.said(now, *peer, judged, group, policy, silent))
            .filter(|said| said.state != CheckState::Unknown)
            .collect();
        let failing = said
            .iter()
            .filter(|one| one.state == CheckState::Failing)
            .count();
        let verdict = if failing * 2 > said.len() {
            CheckState::Failing
        } else {
            CheckState::Ok
        };
        said.into_iter().find(|one| one.state == verdict)
    }

    /// Whether the rule of a group holds for a node, and the checks that say so.
    pub fn rule(&self, now: Moment, topology: &Topology, group: &Group, node: NodeId) -> Ruling {
        let (face, failing) = self.holds(now, topology, group, node, Silent::AtFace);
        let with = |silent| match failing.is_empty() {
            true => face,
            false => self.holds(now, topology, group, node, silent).0,
        };
        let (patient, definite) = (with(Silent::Patiently), with(Silent::Never));
        Ruling {
            face,
            patient,
            definite,
            failing,
        }
    }

    fn holds(
        &self,
        now: Moment,
        topology: &Topology,
        group: &Group,
        node: NodeId,
        silent: Silent,
    ) -> (Truth, Vec<(CheckName, Merged)>) {
        let answers: BTreeMap<CheckName, Merged> = group
            .checks
            .iter()
            .map(|policy| {
                (
                    policy.name.clone(),
                    self.check(now, topology, node, group.id, policy, silent),
                )
            })
            .collect();
        let truth = group.fail_when.evaluate(|name| {
            answers
                .get(name)
                .map_or(Truth::Unknown, |merged| match merged.state {
                    CheckState::Failing => Truth::Yes,
                    CheckState::Ok | CheckState::Idle => Truth::No,
                    CheckState::Unknown => Truth::Unknown,
                })
        });
        let failing = answers
            .into_iter()
            .filter(|(_, merged)| merged.state == CheckState::Failing)
            .collect();
        (truth, failing)
    }
}

/// An answer older than this is unknown: a few questions must have gone unanswered.
pub fn answer_age_max(policy: &CheckPolicy) -> Duration {
    policy.interval * 3 + policy.timeout + REPORT_AGE_MAX
}

fn merge(own: Option<Merged>, peers: Option<Merged>) -> Merged {
    let unknown = || Merged {
        state: CheckState::Unknown,
        age: Duration::MAX,
        detail: "nobody who asks has answered lately".to_owned(),
        said_by: None,
    };
    match (own, peers) {
        (Some(own), Some(peers)) => {
            let own_decides = match (own.state, peers.state) {
                (CheckState::Failing, _) => true,
                (_, CheckState::Failing) => false,
                (CheckState::Unknown, _) => false,
                (CheckState::Ok | CheckState::Idle, _) => true,
            };
            if own_decides { own } else { peers }
        }
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => unknown(),
    }
}
