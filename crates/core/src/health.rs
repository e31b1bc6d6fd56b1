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
//! unknown. A refused connection, a wrong answer, a dead process always count, but for what the
//! judged node says that it is just starting ([`crate::settling`]): unknown, until its first good
//! answer or for a bounded time.

use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeMap;

mod sayings;

use sayings::{Row, Said, Sayings};

use crate::Moment;
use crate::names::{CheckName, Epoch, GroupId, Incarnation, NodeId, ServiceName};
use crate::rule::Truth;
use crate::settling::Settling;
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

/// A group that has just been opened is not judged by silence for so long: all its clients come
/// at once, those that waited during the move above all, and a server that begins with few
/// workers lets them wait. It would lose the group for that, and the next one as well. Beyond what
/// a web server needs for more workers; who really hangs there is left this much later.
pub const WELCOME: Duration = Duration::from_secs(1);

/// How many failing checks a [`Ruling`] names: people read no more, and evidence holds fewer.
pub const FAILING_TOLD_MAX: usize = 16;

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

/// What a check measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// What.
    pub label: String,
    /// How much; none if it could not say.
    pub value: Option<f64>,
    /// Of what: none, `s`, `ms`, `us`, `%`, `B` and its multiples, `c` for a counter.
    pub unit: String,
}

/// What one prober says about one check of one judged node.
#[derive(Clone, Debug, PartialEq)]
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
    /// What its newest answer measured.
    pub measures: Vec<Measure>,
    /// Detail and measures are left out, because what was said before still says it well enough.
    pub terse: bool,
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
    /// Services that are being started there: what fails of their checks does not count now.
    pub settling: Vec<(ServiceName, Settling)>,
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
#[derive(Clone, Debug, PartialEq)]
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
    /// Whether what it has applied of the log names this life of it: it knows what was decided
    /// before it started, and gets what is decided now.
    pub caught_up: bool,
    /// Why its log cannot be written, if it cannot: it goes on with what it holds, and is given
    /// nothing.
    pub log_fault: Option<String>,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
    /// How late work of ordinary priority has lately run on it.
    pub lateness: Duration,
    /// What it asked.
    pub checks: Vec<CheckReport>,
    /// Whether that is all that it asks. Where that would be too much for one report, each tells
    /// a part: what is new, and in turns the rest.
    pub whole: bool,
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
    /// The report. What it says of checks is kept elsewhere.
    pub report: Report,
    /// When it arrived here.
    pub at: Moment,
}

/// The newest report of every node, the own one included.
#[derive(Clone, Debug)]
pub struct View {
    heard: BTreeMap<NodeId, Heard>,
    said: Sayings,
    /// In which epoch each node has a group open, and since when if that was seen.
    opened: BTreeMap<(NodeId, GroupId), (Epoch, Option<Moment>)>,
    /// Rulings that stand until something is heard, or the moment beside them has passed.
    rulings: RefCell<BTreeMap<(GroupId, NodeId), (Moment, Ruling)>>,
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
#[derive(Clone, Debug, PartialEq)]
pub struct Ruling {
    /// With all silence at face value.
    pub face: Truth,
    /// With silence on overloaded machines taken for unknown for [`SILENCE_PATIENCE`].
    pub patient: Truth,
    /// With silence on overloaded machines taken for unknown. If this holds, the ones
    /// above do.
    pub definite: Truth,
    /// The checks that fail, at face value: the first [`FAILING_TOLD_MAX`] of them.
    pub failing: Vec<(CheckName, Merged)>,
    /// How many fail.
    pub failures: usize,
    /// Some checks are idle there: whether what they ask for would run well, nobody knows.
    pub idle: bool,
}

/// A check's answer in one place, merged over those who asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The answer.
    pub state: CheckState,
    /// How old the newest part of it is.
    pub age: Duration,
    /// What exactly, for people.
    pub detail: String,
    /// Who said the part that decided.
    pub said_by: Option<NodeId>,
    /// What was measured.
    pub measures: Vec<Measure>,
}

impl View {
    /// Nothing heard yet, of nodes that ask what this topology says.
    pub fn new(topology: &Topology) -> Self {
        Self {
            heard: BTreeMap::new(),
            said: Sayings::new(topology),
            opened: BTreeMap::new(),
            rulings: RefCell::default(),
        }
    }

    /// Takes a report in. An older one of the same life changes nothing.
    pub fn hear(&mut self, now: Moment, node: NodeId, mut report: Report) {
        if let Some(known) = self.heard.get(&node) {
            let older =
                known.report.incarnation == report.incarnation && known.report.seq >= report.seq;
            if older || known.report.incarnation.counter > report.incarnation.counter {
                return;
            }
        }
        self.rulings.get_mut().clear();
        self.note_openings(now, node, &report);
        let checks = core::mem::take(&mut report.checks);
        self.said.hear(now, node, checks, report.whole);
        self.heard.insert(node, Heard { report, at: now });
    }

    /// Notes since when groups are open on a node. Of one that is heard for the first time
    /// nobody knows.
    fn note_openings(&mut self, now: Moment, node: NodeId, report: &Report) {
        let seen = self.heard.contains_key(&node).then_some(now);
        // Of no more groups than one report may name.
        let named = |group: GroupId| report.groups.iter().any(|one| one.group == group);
        self.opened
            .retain(|(of, group), _| *of != node || named(*group));
        let open = report.groups.iter();
        for one in open.filter(|one| one.standing == Standing::Open) {
            let known = self.opened.entry((node, one.group));
            let known = known.or_insert((one.epoch, seen));
            if known.0 != one.epoch {
                *known = (one.epoch, seen);
            }
        }
    }

    /// Until when silence says nothing about a group on a node: it has just been opened there.
    fn welcome(&self, now: Moment, node: NodeId, group: GroupId) -> Option<Moment> {
        let (epoch, since) = self.opened.get(&(node, group))?;
        let still = self.standing(now, node, group)?;
        let until = (*since)? + WELCOME;
        (still.standing == Standing::Open && still.epoch == *epoch && now < until).then_some(until)
    }

    /// Forgets a node: what its former life said does not count any more.
    pub fn forget(&mut self, node: NodeId) {
        self.rulings.get_mut().clear();
        self.said.forget(node);
        self.heard.remove(&node);
        self.opened.retain(|(of, _), _| *of != node);
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

    /// The same with all that the node has said of checks, in however many reports.
    pub fn last_whole(&self, node: NodeId) -> Option<Heard> {
        let mut heard = self.heard.get(&node)?.clone();
        heard.report.checks = self.said.retold(heard.at, node);
        heard.report.whole = true;
        Some(heard)
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

    /// Whether a group is not open on a node, by that node's own fresh account: then checks of
    /// what runs on the holder alone are idle there.
    fn is_closed(&self, now: Moment, judged: NodeId, group: GroupId) -> bool {
        let said = self.standing(now, judged, group);
        said.is_some_and(|said| !said.standing.is_open())
    }

    /// Why a failure of a check does not count, by what the judged node says of the services that
    /// it has just started or starts again.
    fn held_back(
        &self,
        now: Moment,
        judged: NodeId,
        group: GroupId,
        policy: &CheckPolicy,
    ) -> Option<Settling> {
        let service = policy.service.as_ref()?;
        let mut settling = self.standing(now, judged, group)?.settling.iter();
        let found = settling.find(|(name, _)| *name == service.name)?;
        Some(found.1)
    }

    /// What one prober's answer comes to.
    fn weighed(&self, place: &Place<'_>, prober: NodeId, said: &Said) -> CheckState {
        let Place { now, policy, .. } = *place;
        if said.age(now) > said.age_max(policy) {
            return CheckState::Unknown;
        }
        let (CheckState::Failing, Some(silence)) = (said.state, said.silence(now)) else {
            return said.state;
        };
        if place.welcome.is_some() {
            return CheckState::Unknown;
        }
        // One end of the silence may just be overloaded.
        let unknown = match place.silent {
            Silent::AtFace => false,
            Silent::Patiently => silence < SILENCE_PATIENCE,
            Silent::Never => true,
        };
        match unknown && self.busiest(now, [place.judged, prober], policy).is_some() {
            true => CheckState::Unknown,
            false => CheckState::Failing,
        }
    }

    fn busiest(&self, now: Moment, ends: [NodeId; 2], policy: &CheckPolicy) -> Option<Duration> {
        let busy = |node| self.overload(now, node, policy.timeout);
        ends.into_iter().filter_map(busy).max()
    }

    /// Who asks about a group on a node and was heard lately.
    fn voices(&self, now: Moment, judged: NodeId, group: GroupId) -> Voices<'_> {
        let fresh = |prober: &NodeId| self.fresh(now, *prober).is_some();
        let (mut own, mut peers) = (None, Vec::new());
        for (prober, row) in self.said.rows(group, judged) {
            match fresh(&prober) {
                true if prober == judged => own = Some(row),
                true => peers.push((prober, row)),
                false => {}
            }
        }
        Voices { own, peers }
    }

    /// Which of the probers decides, and what that comes to: the node itself if it says that it
    /// fails, or else the peers, by their majority (DESIGN 5).
    fn decided<'s>(&self, place: &Place<'_>, voices: &Voices<'s>) -> Decided<'s> {
        let policy = place.policy;
        let own = voices.own.filter(|_| policy.from_node);
        let own = own.and_then(|row| row[place.index].as_ref());
        let own = own.map(|said| (self.weighed(place, place.judged, said), place.judged, said));
        let peers = match policy.from_peers {
            true => self.peers_say(place, voices),
            false => None,
        };
        let own_decides = match (own, peers) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some((own, ..)), Some((peers, ..))) => match (own, peers) {
                (CheckState::Failing, _) => true,
                (_, CheckState::Failing) => false,
                (CheckState::Unknown, _) => false,
                (CheckState::Ok | CheckState::Idle, _) => true,
            },
        };
        if own_decides { own } else { peers }
    }

    fn peers_say<'s>(&self, place: &Place<'_>, voices: &Voices<'s>) -> Decided<'s> {
        let said = || {
            let said = voices.peers.iter();
            let said = said.filter_map(|(peer, row)| Some((*peer, row[place.index].as_ref()?)));
            said.map(|(peer, said)| (self.weighed(place, peer, said), peer, said))
                .filter(|(state, ..)| *state != CheckState::Unknown)
        };
        let (mut all, mut failing) = (0, 0);
        for (state, ..) in said() {
            all += 1;
            failing += usize::from(state == CheckState::Failing);
        }
        let verdict = if failing * 2 > all {
            CheckState::Failing
        } else {
            CheckState::Ok
        };
        // Some may not ask yet, or not any more.
        said()
            .find(|(state, ..)| *state == verdict)
            .or_else(|| said().find(|(state, ..)| *state != CheckState::Failing))
    }

    /// A check of a node: failing if the node itself says so, or if a majority of the
    /// peers that can be asked do (DESIGN 5).
    pub fn check(
        &self,
        now: Moment,
        judged: NodeId,
        group: GroupId,
        policy: &CheckPolicy,
        silent: Silent,
    ) -> Merged {
        if policy.rests && self.is_closed(now, judged, group) {
            let at = self.fresh(now, judged).map_or(now, |heard| heard.at);
            return Merged {
                state: CheckState::Idle,
                age: now.since(at),
                detail: "not asked: its service is not meant to run here now".to_owned(),
                said_by: Some(judged),
                measures: Vec::new(),
            };
        }
        let index = self.said.index(group, &policy.name);
        let place = index.map(|index| Place {
            now,
            judged,
            index,
            policy,
            silent,
            welcome: self.welcome(now, judged, group),
        });
        let voices = self.voices(now, judged, group);
        let decided = place.as_ref();
        let decided = decided.and_then(|place| self.decided(place, &voices));
        match (place.as_ref(), decided) {
            (Some(place), Some((CheckState::Failing, prober, said))) => {
                let mut merged = self.merged(place, CheckState::Failing, prober, said);
                if let Some(settling) = self.held_back(now, judged, group, policy) {
                    merged.state = CheckState::Unknown;
                    merged.detail.push_str("; it ");
                    merged.detail.push_str(settling.words());
                }
                merged
            }
            (Some(place), Some((state, prober, said))) => self.merged(place, state, prober, said),
            _ => Merged {
                state: CheckState::Unknown,
                age: Duration::MAX,
                detail: "nobody who asks has answered lately".to_owned(),
                said_by: None,
                measures: Vec::new(),
            },
        }
    }

    fn merged(&self, place: &Place<'_>, state: CheckState, prober: NodeId, said: &Said) -> Merged {
        let Place { now, policy, .. } = *place;
        let mut detail = said.detail.clone();
        let stale = said.age(now) > said.age_max(policy);
        let silence = said
            .silence(now)
            .filter(|_| !stale && said.state == CheckState::Failing);
        if silence.is_some() && place.welcome.is_some() {
            detail.push_str("; that does not count yet, the group has only just been opened there");
        }
        if let Some(silence) = silence
            && let Some(late) = self.busiest(now, [place.judged, prober], policy)
        {
            detail.push_str(&format!(
                "; no answer for {:.1} s, on a machine that runs ordinary work {} ms late",
                silence.as_secs_f64(),
                late.as_millis()
            ));
        }
        Merged {
            state,
            age: said.age(now),
            detail,
            said_by: Some(prober),
            measures: said.measures.clone(),
        }
    }

    /// Whether the rule of a group holds for a node, and the checks that say so.
    pub fn rule(&self, now: Moment, group: &Group, node: NodeId) -> Ruling {
        let key = (group.id, node);
        if let Some((until, ruling)) = self.rulings.borrow().get(&key)
            && now <= *until
        {
            return ruling.clone();
        }
        let (ruling, until) = self.ruling(now, group, node);
        let kept = (until, ruling.clone());
        self.rulings.borrow_mut().insert(key, kept);
        ruling
    }

    /// The ruling, and until when it stands if nothing more is heard.
    fn ruling(&self, now: Moment, group: &Group, node: NodeId) -> (Ruling, Moment) {
        let face = self.holds(now, group, node, Silent::AtFace);
        let with = |silent| match face.failures {
            0 => face.truth,
            _ => self.holds(now, group, node, silent).truth,
        };
        let (patient, definite) = (with(Silent::Patiently), with(Silent::Never));
        // How long a silence has lasted changes with every moment.
        let until = if face.failures > 0 { now } else { face.until };
        let ruling = Ruling {
            face: face.truth,
            patient,
            definite,
            failing: face.failing,
            failures: face.failures,
            idle: face.idle,
        };
        (ruling, until)
    }

    fn holds(&self, now: Moment, group: &Group, node: NodeId, silent: Silent) -> Holding {
        let mut holding = Holding {
            truth: Truth::No,
            failing: Vec::new(),
            failures: 0,
            idle: false,
            until: self.fresh_until(now),
        };
        // The checks that are not well, by name: few, so that thousands that are cost little.
        let mut unwell: Vec<(&CheckName, Truth)> = Vec::new();
        let closed = self.is_closed(now, node, group.id);
        let voices = self.voices(now, node, group.id);
        let welcome = self.welcome(now, node, group.id);
        if let Some(until) = welcome {
            holding.until = holding.until.min(until);
        }
        for (index, policy) in group.checks.iter().enumerate() {
            if policy.rests && closed {
                holding.idle = true;
                continue;
            }
            let place = Place {
                now,
                judged: node,
                index,
                policy,
                silent,
                welcome,
            };
            let Some((state, prober, said)) = self.decided(&place, &voices) else {
                unwell.push((&policy.name, Truth::Unknown));
                continue;
            };
            match state {
                CheckState::Ok => {
                    let stale = said.stale_after(policy);
                    holding.until = holding.until.min(stale);
                }
                CheckState::Idle => holding.idle = true,
                CheckState::Unknown => unwell.push((&policy.name, Truth::Unknown)),
                CheckState::Failing if self.held_back(now, node, group.id, policy).is_some() => {
                    unwell.push((&policy.name, Truth::Unknown));
                }
                CheckState::Failing => {
                    unwell.push((&policy.name, Truth::Yes));
                    holding.failures += 1;
                    if holding.failing.len() < FAILING_TOLD_MAX {
                        let merged = self.merged(&place, state, prober, said);
                        holding.failing.push((policy.name.clone(), merged));
                    }
                }
            }
        }
        unwell.sort_unstable_by_key(|(name, _)| *name);
        holding.truth = group.fail_when.evaluate(|name| {
            let found = unwell.binary_search_by_key(&name, |(name, _)| *name);
            found.map_or(Truth::No, |at| unwell[at].1)
        });
        holding.failing.sort_by(|one, other| one.0.cmp(&other.0));
        holding
    }

    /// Until when every report that is fresh now stays so.
    fn fresh_until(&self, now: Moment) -> Moment {
        let ends = self.heard.values().map(|heard| heard.at + REPORT_AGE_MAX);
        ends.filter(|end| *end >= now).min().unwrap_or(now)
    }
}

/// What those who ask about one group on one node have said, in the order of the file.
struct Voices<'s> {
    own: Option<&'s Row>,
    peers: Vec<(NodeId, &'s Row)>,
}

/// A check in one place at one moment.
struct Place<'a> {
    now: Moment,
    judged: NodeId,
    /// Which of the group's checks.
    index: usize,
    policy: &'a CheckPolicy,
    silent: Silent,
    /// Until when silence says nothing there.
    welcome: Option<Moment>,
}

/// A state, who decided it, and what that one said.
type Decided<'s> = Option<(CheckState, NodeId, &'s Said)>;

/// Whether a rule holds, as far as one way to take silence goes.
struct Holding {
    truth: Truth,
    failing: Vec<(CheckName, Merged)>,
    failures: usize,
    idle: bool,
    until: Moment,
}

impl Standing {
    /// Whether the group is open there, as far as its services go: a lease that lapses for a
    /// moment stops none.
    pub const fn is_open(self) -> bool {
        match self {
            Self::Open | Self::Lapsed => true,
            Self::Off | Self::Opening | Self::Released => false,
        }
    }
}

/// An answer older than this is unknown: a few questions must have gone unanswered.
pub fn answer_age_max(policy: &CheckPolicy) -> Duration {
    policy.interval * 3 + policy.timeout + REPORT_AGE_MAX
}
