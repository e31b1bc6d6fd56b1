//! The decision machine of one node: routes between health, policy and roles, and
//! has no rule of its own. "May it move" is answered elsewhere, by [`crate::lease`].
//!
//! Events come in through [`Node::step`], levels and one-shot acts go out through
//! [`Node::poll`]. It is driven by the daemon in life and by the simulator in tests.

mod planned;
mod verdicts;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::Moment;
use crate::command::{Assign, Command};
use crate::evidence::{Evidence, FACT_LENGTH_MAX, shortened};
use crate::foresee::Present;
use crate::health::{CheckState, GroupReport, Measure, Report, Silence, Standing, View};
use crate::lease::{Assignment, PATIENCE_LEASES};
use crate::ledger::{Change, Ledger};
use crate::maintenance::{Ask, Desk};
use crate::names::{CheckName, Epoch, GroupId, Incarnation, NodeId, ServiceName};
use crate::policy::{self, Hearing, Noticed, Situation, Wish, hearing};
use crate::quorum::majority;
use crate::role::{Farewell, Leased, Role, Run, Want};
use crate::settling::{Fresh, Settle, Settling};
use crate::standby::Wellness;
use crate::story::Said;
use crate::switchover::Switchovers;
use crate::topology::{ServiceAddress, Topology};
use verdicts::{Key, OwnVerdict, Verdicts};

/// How often a report is repeated when nothing changes: three may be lost before the last
/// one is too old.
pub const REPORT_REPEAT: Duration = Duration::from_millis(200);
/// How long the leader waits to hear of an assignment that is agreed on, or that its predecessor
/// had appended and may have got agreed on, before it decides on the group without it; and before
/// it proposes again what may be agreed on twice.
pub const PROPOSAL_PATIENCE: Duration = Duration::from_millis(500);
/// How long the leader leaves a group alone whose move was not agreed on: an engine that does not
/// take it, because it hands leadership on or too much waits for its disk, says so at once, and
/// would be asked again as fast as the processor can.
pub const PROPOSAL_PAUSE: Duration = Duration::from_millis(100);
/// How long a holder waits before it tells anew how an opening went, if that was not agreed on.
pub const ACCOUNT_PAUSE: Duration = Duration::from_secs(1);
/// How long an operator waits for a switchover before hearing that it did not work.
pub const WISH_PATIENCE: Duration = Duration::from_secs(10);
/// How many operators' wishes may be under way: more are refused.
pub const WISHES_MAX: usize = 32;
/// How long a leader that holds a group waits before it hands leadership on.
pub const LEADERSHIP_PATIENCE: Duration = Duration::from_millis(500);
/// How long a holder may take to open beyond what its services and hooks may take by the file: some
/// leases in any profile, and a machine that has just started.
pub const OPENING_SLACK: Duration = Duration::from_secs(15);
/// What a holder says of an opening that has taken longer.
pub const NOT_OPEN_IN_TIME: &str = "it has the group and has not opened it in time";
/// How many acts may wait to be polled; the driver polls after each step.
const ACTS_MAX: usize = 4096;

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Another node's report arrived.
    Reported {
        /// From whom.
        from: NodeId,
        /// What it says.
        report: Report,
    },
    /// A check of this node answered.
    Verdict {
        /// The group.
        group: GroupId,
        /// The check.
        check: CheckName,
        /// Whom it judges.
        judged: NodeId,
        /// What it says.
        state: CheckState,
        /// When that was last confirmed.
        at: Moment,
        /// Since when nothing has been answered, if silence is all that speaks against it.
        silent_since: Option<Moment>,
        /// What exactly.
        detail: String,
        /// What its newest answer measured.
        measures: Vec<Measure>,
    },
    /// How late work of ordinary priority runs on this node.
    Lateness(Duration),
    /// Whether this node votes; not until this says so.
    Votes(bool),
    /// Index up to which it has durably what was decided.
    Stored(u64),
    /// Whether this node could take a group; none: it could.
    Readiness {
        /// The group.
        group: GroupId,
        /// Why not.
        unready: Option<String>,
    },
    /// What this node knows of the services of a group here, by who starts them: the whole list,
    /// replaced each time.
    Services {
        /// The group.
        group: GroupId,
        /// Each of them, and whether it has just been started or is being started again.
        all: Vec<(ServiceName, Option<Fresh>)>,
    },
    /// Why this node's log cannot be written, if it cannot. What it holds it goes on with (DESIGN
    /// 3.1 rule 11); it takes nothing over.
    Log {
        /// Why not.
        fault: Option<String>,
    },
    /// The guard's state.
    Guard {
        /// Both kinds are active.
        full: bool,
    },
    /// An assignment became durable in this node's log.
    Appended {
        /// Its epoch.
        epoch: Epoch,
        /// The entry.
        assign: Assign,
    },
    /// Who decides now: the voters of the log, in this generation of it.
    Deciders {
        /// The generation.
        generation: u64,
        /// The voters.
        voters: BTreeSet<NodeId>,
    },
    /// An entry is agreed.
    Committed {
        /// Its epoch.
        epoch: Epoch,
        /// The entry.
        command: Command,
    },
    /// The agreed state arrived whole.
    Restored {
        /// The state.
        ledger: Ledger,
    },
    /// Who leads.
    Leader {
        /// Nobody, this node or another.
        leader: Option<NodeId>,
    },
    /// A proposal of this node was agreed on or not.
    Proposed {
        /// The act's id.
        id: u64,
        /// Why not.
        failed: Option<String>,
    },
    /// The lease machine opened an epoch, or resumed it.
    Opened {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
    },
    /// The epoch is about to open here. News only where the log cannot be read.
    Opening {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
    },
    /// The proven lease ran out.
    Lapsed {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
    },
    /// The epoch was given up.
    Released {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
    },
    /// The lease machine neither holds nor waits for a group: its newest assignment, which
    /// may not be agreed on.
    Idle(Assignment),
    /// What this voter hears of the holders: the whole list, replaced each time.
    Silences(Vec<Silence>),
    /// A voter refused this holder because its floor is above the epoch.
    FloorAbove {
        /// The group.
        group: GroupId,
        /// The floor.
        floor: Epoch,
    },
    /// A mover did something for a group.
    Phase {
        /// The group.
        group: GroupId,
        /// What.
        what: String,
        /// All is done: the account can be given.
        last: bool,
    },
    /// The mover has let the clients of a group go, as [`Want::Draining`] asked.
    Drained {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// Connections that were still busy when the time was over.
        busy: u32,
    },
    /// What the administrator has run before a planned closing is over, as [`Run::Closing`]
    /// asked.
    MayClose {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
    },
    /// An operator's wish reached the leader.
    Wish {
        /// To be named in the reply.
        id: u64,
        /// The wish.
        wish: Wish,
    },
    /// An operator's wish about a node reached the leader.
    Maintain {
        /// To be named in the reply.
        id: u64,
        /// The wish.
        ask: Ask,
    },
    /// This node was told to stop.
    Stop,
    /// It goes on after all: a shutdown was called off.
    Stay,
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Propose an entry; the answer comes back as [`Event::Proposed`].
    Propose {
        /// To be named in the answer.
        id: u64,
        /// The entry.
        command: Command,
    },
    /// Tell all other nodes.
    Tell(Report),
    /// Make this true on this machine.
    Want {
        /// The group.
        group: GroupId,
        /// What.
        want: Want,
    },
    /// Have this of a group run on this machine.
    Run {
        /// The group.
        group: GroupId,
        /// What.
        run: Run,
    },
    /// Tell the lease machine that what runs with an epoch is stopped, though the epoch is
    /// nobody else's yet ([`crate::lease::Machine::abandon`]). Comes before the
    /// [`Act::Run`] that stops it.
    Abandon {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Answer an operator.
    Reply {
        /// Which wish.
        id: u64,
        /// The new holder serves, or why not.
        outcome: Result<String, String>,
    },
    /// Hand leadership to another node.
    Transfer {
        /// To whom.
        to: NodeId,
    },
    /// Write a line.
    Say(Said),
}

/// The decision machine.
pub struct Node {
    me: NodeId,
    incarnation: Incarnation,
    topology: Topology,
    config_digest: u64,
    ledger: Ledger,
    view: View,
    wellness: Wellness,
    noticed: Noticed,
    leader: Option<NodeId>,
    generation: u64,
    votes: bool,
    stored: u64,
    deciders: BTreeSet<NodeId>,
    leading_since: Moment,
    stopping: bool,
    guard_full: bool,
    lateness: Duration,
    verdicts: Verdicts,
    said: Saying,
    unready: BTreeMap<GroupId, Option<String>>,
    /// Openings that have taken too long.
    late: BTreeMap<GroupId, Epoch>,
    log_fault: Option<String>,
    settling: Settle,
    roles: BTreeMap<GroupId, Role>,
    wanted: BTreeMap<GroupId, Want>,
    running: BTreeMap<GroupId, Run>,
    silences: Vec<Silence>,
    floors_above: BTreeMap<GroupId, Epoch>,
    proposing: BTreeMap<GroupId, Proposing>,
    /// When the last move of a group was not agreed on, by this leader.
    not_agreed: BTreeMap<GroupId, Moment>,
    /// The newest assignment of each group that this node's log has, agreed on or not.
    appended: BTreeMap<GroupId, Epoch>,
    accounts: BTreeMap<u64, (GroupId, Epoch)>,
    /// The lease machine's last word of each group: it may be ahead of what the log has shown. A
    /// worker that goes on for another may learn only from the next leader that its epoch is agreed.
    leased: BTreeMap<GroupId, (Epoch, Leased)>,
    /// Openings that are still to be told of, and from when on.
    untold: BTreeMap<GroupId, (Epoch, Moment)>,
    recording: BTreeMap<NodeId, Moment>,
    wishes: Vec<planned::Pending>,
    switchovers: Switchovers,
    desk: Desk,
    heard: BTreeMap<NodeId, bool>,
    /// Since when no majority of those who decide is heard.
    alone: Option<Moment>,
    next_id: u64,
    seq: u64,
    told_at: Moment,
    dirty: bool,
    transfer_asked: Moment,
    knows_ledger: bool,
    /// Which addresses each group has here, while the ledger is not known.
    had: BTreeMap<GroupId, Vec<ServiceAddress>>,
    acts: VecDeque<Act>,
}

/// A move under way. Another one of the group would be decided without knowing of it.
#[derive(Clone, Debug)]
struct Proposing {
    /// Number of the proposal.
    id: u64,
    /// What the entry will be known by.
    evidence: Evidence,
    /// When it was agreed on: this node hears of the entry in a moment.
    agreed: Option<Moment>,
}

/// How many changes of checks are said within a second; of more only the number.
const SAID_MAX: u32 = 50;

/// How many changes of checks have been said lately: a flood of them must not become one of
/// lines, which cost more than the changes.
#[derive(Debug, Default)]
struct Saying {
    since: Moment,
    said: u32,
    left_out: u32,
}

impl Saying {
    const SPAN: Duration = Duration::from_secs(1);

    fn may(&mut self, now: Moment) -> bool {
        if self.left_out == 0 && now.since(self.since) >= Self::SPAN {
            (self.since, self.said) = (now, 0);
        }
        let may = self.said < SAID_MAX;
        match may {
            true => self.said += 1,
            false => self.left_out += 1,
        }
        may
    }

    /// How many were left out, once their second is over.
    fn left_out(&mut self, now: Moment) -> Option<u32> {
        if self.left_out == 0 || now.since(self.since) < Self::SPAN {
            return None;
        }
        (self.since, self.said) = (now, 0);
        Some(core::mem::take(&mut self.left_out))
    }
}

/// What a node starts from.
#[derive(Clone)]
pub struct Start {
    /// This node.
    pub me: NodeId,
    /// This life of its daemon.
    pub incarnation: Incarnation,
    /// The configuration.
    pub topology: Topology,
    /// Its digest.
    pub config_digest: u64,
    /// The agreed state as the log on disk has it; none if the log cannot be read now.
    /// Until it is known nothing is wanted of the movers but what the lease machine says: a
    /// continued worker must not take away what it still holds.
    pub ledger: Option<Ledger>,
    /// Which addresses each group has on this machine, while the log cannot be read.
    pub had: BTreeMap<GroupId, Vec<ServiceAddress>>,
    /// Where this process begins to number its reports and proposals: later processes
    /// of one incarnation begin higher, so nanoseconds of the boot clock do.
    pub first_seq: u64,
}

impl Node {
    /// A node that knows its configuration and its log, and nothing of the others.
    pub fn new(now: Moment, start: Start) -> Self {
        let Start {
            me,
            incarnation,
            topology,
            config_digest,
            ledger,
            had,
            first_seq,
        } = start;
        let roles = topology
            .groups
            .values()
            .filter(|group| group.nodes.contains(&me))
            .map(|group| (group.id, Role::new(group.id, now)))
            .collect();
        let deciders = topology.voters().map(|node| node.id).collect();
        let view = View::new(&topology);
        let settling = Settle::new(&topology);
        let mut node = Self {
            me,
            incarnation,
            topology,
            config_digest,
            ledger: Ledger::default(),
            view,
            wellness: Wellness::default(),
            noticed: Noticed::default(),
            leader: None,
            generation: 0,
            votes: false,
            stored: 0,
            deciders,
            leading_since: now,
            stopping: false,
            guard_full: false,
            lateness: Duration::ZERO,
            verdicts: Verdicts::default(),
            said: Saying::default(),
            unready: BTreeMap::new(),
            late: BTreeMap::new(),
            log_fault: None,
            settling,
            roles,
            wanted: BTreeMap::new(),
            running: BTreeMap::new(),
            silences: Vec::new(),
            floors_above: BTreeMap::new(),
            proposing: BTreeMap::new(),
            not_agreed: BTreeMap::new(),
            appended: BTreeMap::new(),
            accounts: BTreeMap::new(),
            leased: BTreeMap::new(),
            untold: BTreeMap::new(),
            recording: BTreeMap::new(),
            wishes: Vec::new(),
            switchovers: Switchovers::default(),
            desk: Desk::default(),
            heard: BTreeMap::new(),
            alone: None,
            next_id: first_seq,
            seq: first_seq,
            told_at: Moment::ZERO,
            dirty: true,
            transfer_asked: now,
            knows_ledger: false,
            had,
            acts: VecDeque::new(),
        };
        if let Some(ledger) = ledger {
            node.restored(now, ledger);
        }
        node
    }

    /// What is agreed.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What is known of the others.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The configuration.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// For how long nodes have been well.
    pub fn wellness(&self) -> &Wellness {
        &self.wellness
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The voters of the log now: all, or after a recovery one alone.
    pub fn deciders(&self) -> &BTreeSet<NodeId> {
        &self.deciders
    }

    /// A group on this node.
    pub fn role(&self, group: GroupId) -> Option<&Role> {
        self.roles.get(&group)
    }

    /// Whether this node was told to stop and nothing is assigned to it any more.
    pub fn may_stop(&self) -> bool {
        self.stopping && self.leader != Some(self.me) && !self.holds_here()
    }

    /// Whether this node has anything to hand over. A log that cannot be read or written does not
    /// tell what has become of it.
    fn holds_here(&self) -> bool {
        if self.knows_ledger && self.log_fault.is_none() {
            return self.holds_any(self.me);
        }
        let mut roles = self.roles.values();
        roles.any(|role| match role.standing() {
            Standing::Opening | Standing::Open | Standing::Lapsed => true,
            Standing::Off | Standing::Released => false,
        })
    }

    /// Whether a group of the configuration is assigned to a node. One that the configuration
    /// has no more stays in the agreed state, and is nobody's.
    fn holds_any(&self, node: NodeId) -> bool {
        let mut known = self.topology.groups.keys();
        known.any(|group| {
            let current = self.ledger.current(*group);
            current.is_some_and(|current| current.assign.holder == node)
        })
    }

    /// A copy of all that policy looks at, to think a fault through elsewhere: it means something
    /// at the leader only, whose eyes count.
    pub fn present(&self, now: Moment) -> Present {
        Present {
            now,
            me: self.me,
            topology: self.topology.clone(),
            ledger: self.ledger.clone(),
            view: self.view.clone(),
            wellness: self.wellness.clone(),
            deciders: self.deciders.clone(),
            leading_since: self.leading_since,
        }
    }

    /// Takes an event in. Acts are then to be polled.
    pub fn step(&mut self, now: Moment, event: Event, wall_ms: u64) {
        self.take(now, event, wall_ms);
        self.settle(now, wall_ms);
    }

    /// Takes several in that came together, at the cost of one. Give it a few hundred at most.
    pub fn step_all(&mut self, now: Moment, events: impl IntoIterator<Item = Event>, wall_ms: u64) {
        for event in events {
            self.take(now, event, wall_ms);
        }
        self.settle(now, wall_ms);
    }

    fn take(&mut self, now: Moment, event: Event, wall_ms: u64) {
        match event {
            Event::Reported { from, report } => self.view.hear(now, from, report),
            Event::Verdict {
                group,
                check,
                judged,
                state,
                at,
                silent_since,
                detail,
                measures,
            } => {
                let verdict = OwnVerdict {
                    state,
                    at,
                    silent_since,
                    detail: shortened(&detail, FACT_LENGTH_MAX),
                    measures,
                };
                self.verdict(now, (group, judged, check), verdict);
            }
            Event::Lateness(late) => {
                // Growing overload is told at once: silence will be judged by it.
                self.dirty |= late > self.lateness * 2;
                self.lateness = late;
            }
            Event::Votes(votes) => {
                self.dirty |= self.votes != votes;
                self.votes = votes;
            }
            // For a later life to be compared with: in no hurry.
            Event::Stored(index) => self.stored = index,
            Event::Readiness { group, unready } => {
                self.dirty |= self.unready.insert(group, unready.clone()) != Some(unready);
            }
            Event::Services { group, all } => {
                let open = self.is_open(group);
                self.dirty |= self.settling.told(now, group, open, &all);
            }
            Event::Log { fault } => {
                let fault = fault.map(|fault| shortened(&fault, FACT_LENGTH_MAX));
                self.dirty |= self.log_fault != fault;
                self.log_fault = fault;
            }
            Event::Guard { full } => {
                self.dirty |= self.guard_full != full;
                self.guard_full = full;
            }
            Event::Appended { epoch, assign } => self.appended(now, epoch, &assign),
            Event::Deciders { generation, voters } => {
                self.dirty |= (self.generation, &self.deciders) != (generation, &voters);
                (self.generation, self.deciders) = (generation, voters);
            }
            Event::Committed { epoch, command } => self.committed(now, epoch, &command),
            Event::Restored { ledger } => self.restored(now, ledger),
            Event::Leader { leader } => self.led(now, leader),
            Event::Proposed { id, failed } => self.proposed(now, id, failed),
            Event::Opened { group, epoch } => self.opened(now, group, epoch),
            Event::Opening { group, epoch } => self.goes_on(now, group, epoch),
            Event::Lapsed { group, epoch } => self.lapsed(now, group, epoch),
            Event::Released { group, epoch } => self.released(now, group, epoch),
            Event::Idle(newest) => self.idle(now, &newest),
            Event::Silences(silences) => self.hear_silences(silences),
            Event::FloorAbove { group, floor } => {
                self.dirty |= self.floors_above.insert(group, floor) != Some(floor);
            }
            Event::Phase { group, what, last } => self.phase(now, group, &what, last),
            Event::Drained { group, epoch, busy } => self.drained(now, group, epoch, busy),
            Event::MayClose { group, epoch } => {
                if let Some(role) = self.roles.get_mut(&group) {
                    role.may_close(epoch);
                }
            }
            Event::Wish { id, wish } => self.wish(now, id, wish, wall_ms),
            Event::Maintain { id, ask } => self.maintain(now, id, ask, wall_ms),
            Event::Stop => {
                self.dirty |= !self.stopping;
                self.stopping = true;
            }
            Event::Stay => {
                self.dirty |= self.stopping;
                self.stopping = false;
            }
            Event::Tick => {}
        }
    }

    /// Draws the conclusions.
    fn settle(&mut self, now: Moment, wall_ms: u64) {
        self.say_checks(now);
        self.note_heard(now);
        self.dirty |= self.settling.observe(now, self.me, &self.view);
        // What the leader sees itself reaches its view with its own report: before it decides.
        if self.leader == Some(self.me) {
            self.tell(now);
        }
        self.wellness
            .observe(now, &self.topology, &self.ledger, &self.view);
        if self.leader == Some(self.me) {
            self.lead(now, wall_ms);
        }
        self.mind_departures(now);
        self.mind_openings(now);
        self.give_accounts(now);
        self.tell(now);
        self.settle_wishes(now);
        self.want(now);
    }

    /// The next act, in order.
    pub fn poll(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    fn act(&mut self, act: Act) {
        // The driver polls after each step; a full queue means that it does not, and
        // then nothing that this machine says can be relied on.
        assert!(
            self.acts.len() < ACTS_MAX,
            "the driver does not poll the decision machine"
        );
        self.acts.push_back(act);
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn verdict(&mut self, now: Moment, key: Key, verdict: OwnVerdict) {
        let (group, judged, check) = key.clone();
        let (state, detail) = (verdict.state, verdict.detail.clone());
        if !self.verdicts.put(now, key, verdict) {
            return;
        }
        self.dirty = true;
        if state == CheckState::Failing && judged == self.me {
            self.settling.fails(now, group, &check);
        }
        if !self.said.may(now) {
            return;
        }
        let state = match state {
            CheckState::Ok => "ok",
            CheckState::Failing => "failing",
            CheckState::Unknown => "unknown",
            CheckState::Idle => "idle",
        };
        self.act(Act::Say(Said::Check {
            group,
            check: check.to_string(),
            judged,
            state,
            detail,
        }));
    }

    /// Says how many changes of checks were too many to say each.
    fn say_checks(&mut self, now: Moment) {
        if let Some(more) = self.said.left_out(now) {
            self.act(Act::Say(Said::MoreChecks { more }));
        }
    }

    fn is_open(&self, group: GroupId) -> bool {
        let own = self.roles.get(&group);
        own.is_some_and(|role| role.standing().is_open())
    }

    /// Services of a group that are being started again on a node, by its own word.
    pub fn restarting(
        &self,
        node: NodeId,
        group: GroupId,
    ) -> impl Iterator<Item = &ServiceName> + use<'_> {
        let said = self.view.last(node);
        let groups = said.into_iter().flat_map(|heard| &heard.report.groups);
        let settling = groups.filter(move |one| one.group == group);
        let settling = settling.flat_map(|one| &one.settling);
        let again = settling.filter(|(_, why)| *why == Settling::Restarting);
        again.map(|(name, _)| name)
    }

    /// Where a group is open, by what this node knows: itself, or the node that said so last.
    pub fn serving(&self, group: GroupId) -> Option<NodeId> {
        if self.is_open(group) {
            return Some(self.me);
        }
        let others = self.topology.groups.get(&group)?.nodes.iter();
        let open = others.filter(|node| **node != self.me).filter_map(|node| {
            let said = self.view.last(*node)?.report.groups.iter();
            let said = said.filter(|one| one.group == group && one.standing.is_open());
            said.map(|one| (one.epoch, *node)).next()
        });
        open.max().map(|(_, node)| node)
    }

    fn appended(&mut self, now: Moment, epoch: Epoch, assign: &Assign) {
        let known = self.appended.entry(assign.group).or_insert(epoch);
        *known = epoch.max(*known);
        let Some(role) = self.roles.get_mut(&assign.group) else {
            return;
        };
        if assign.holder == self.me && assign.incarnation == self.incarnation {
            role.assigned(now, epoch, &assign.addresses);
            // It will not say so again.
            match self.leased.get(&assign.group) {
                Some((said, word)) if *said == epoch => role.leased(now, epoch, *word),
                Some(_) | None => {}
            }
        } else {
            role.assigned_away(now, epoch);
        }
        self.dirty = true;
    }

    fn committed(&mut self, now: Moment, epoch: Epoch, command: &Command) {
        if let Command::Assign(assign) = command {
            self.appended(now, epoch, assign);
        }
        match self.ledger.apply(epoch, command) {
            Change::Assigned(group) => self.assigned(now, group),
            // What the former life said may still be fresh, and must not be taken for the life
            // that was let in.
            Change::Readmitted(node) if node != self.me => self.view.forget(node),
            Change::Drained(node) => {
                let lasting = self.ledger.drained(node).and_then(|one| one.lasting);
                self.act(Act::Say(Said::Drained { node, lasting }));
            }
            Change::Undrained(node) => self.act(Act::Say(Said::Undrained { node })),
            // Told at once: from now on this node can be given groups.
            Change::Started(node) if node == self.me => self.dirty = true,
            Change::Forgiven(group, node) => self.act(Act::Say(Said::Forgiven { group, node })),
            Change::Started(_)
            | Change::Readmitted(_)
            | Change::Told(_)
            | Change::Recovered
            | Change::Nothing => {}
        }
    }

    fn assigned(&mut self, _now: Moment, group: GroupId) {
        let Some(current) = self.ledger.current(group) else {
            return;
        };
        // Another one is from an earlier leader: this one's own comes after it.
        let evidence = &current.assign.evidence;
        let mut proposing = self.proposing.get(&group).into_iter();
        if proposing.any(|one| one.evidence == *evidence) {
            self.proposing.remove(&group);
        }
        self.noticed.nothing(group);
        let (epoch, holder) = (current.epoch, current.assign.holder);
        let cause = current.assign.evidence.cause.clone();
        if self
            .floors_above
            .get(&group)
            .is_some_and(|floor| *floor <= epoch)
        {
            self.floors_above.remove(&group);
        }
        self.act(Act::Say(Said::Assigned {
            group,
            epoch,
            holder,
            cause,
        }));
        self.dirty = true;
    }

    fn restored(&mut self, now: Moment, ledger: Ledger) {
        for (group, record) in &ledger.groups {
            let Some(current) = &record.current else {
                continue;
            };
            let (epoch, mut assign) = (current.epoch, current.assign.clone());
            assign.addresses = ledger.addresses_of(current);
            debug_assert_eq!(*group, assign.group);
            self.appended(now, epoch, &assign);
        }
        self.ledger = ledger;
        self.knows_ledger = true;
        self.dirty = true;
    }

    fn led(&mut self, now: Moment, leader: Option<NodeId>) {
        if self.leader == leader {
            return;
        }
        self.leader = leader;
        self.proposing.clear();
        self.not_agreed.clear();
        self.switchovers.clear();
        if leader == Some(self.me) {
            self.leading_since = now;
        } else {
            self.refuse_wishes();
        }
        self.act(Act::Say(Said::Leads { leader }));
        self.dirty = true;
    }

    fn proposed(&mut self, now: Moment, id: u64, failed: Option<String>) {
        let account = self.accounts.remove(&id);
        if let (Some((group, epoch)), Some(_)) = (account, &failed) {
            if let Some(role) = self.roles.get_mut(&group) {
                role.untell(epoch);
                self.untold.insert(group, (epoch, now + ACCOUNT_PAUSE));
            }
            return;
        }
        if let Some((id, outcome)) = self.desk.proposed(id, failed.as_ref()) {
            self.act(Act::Reply { id, outcome });
            return;
        }
        let mut proposing = self.proposing.iter_mut();
        let known = proposing.find(|(_, known)| known.id == id);
        let Some(reason) = failed else {
            if let Some((_, known)) = known {
                known.agreed = Some(now);
            }
            return;
        };
        if let Some(group) = known.map(|(group, _)| *group) {
            self.proposing.remove(&group);
            self.not_agreed.insert(group, now);
            self.act(Act::Say(Said::NotAgreed {
                group,
                reason: reason.clone(),
            }));
        }
        self.wish_not_agreed(id, &reason);
    }

    /// Without the log, the lease machine's word is all that is known of a group here.
    fn goes_on(&mut self, now: Moment, group: GroupId, epoch: Epoch) {
        if self.knows_ledger {
            return;
        }
        if let Some(role) = self.roles.get_mut(&group) {
            let had = self.had.get(&group).map_or(&[][..], Vec::as_slice);
            role.continued(now, epoch, had);
            self.dirty = true;
        }
    }

    fn opened(&mut self, now: Moment, group: GroupId, epoch: Epoch) {
        self.goes_on(now, group, epoch);
        let Some(role) = self.roles.get_mut(&group) else {
            return;
        };
        self.leased.insert(group, (epoch, Leased::Open));
        self.settling.opened(now, group);
        if role.opened(now, epoch) {
            let after = role.after_assignment(now);
            self.act(Act::Say(Said::Opened {
                group,
                epoch,
                after,
            }));
        }
        self.dirty = true;
    }

    fn lapsed(&mut self, now: Moment, group: GroupId, epoch: Epoch) {
        self.goes_on(now, group, epoch);
        let Some(role) = self.roles.get_mut(&group) else {
            return;
        };
        self.leased.insert(group, (epoch, Leased::Lapsed));
        if role.lapsed(now, epoch) {
            self.act(Act::Say(Said::Lapsed { group, epoch }));
            self.dirty = true;
        }
    }

    fn released(&mut self, now: Moment, group: GroupId, epoch: Epoch) {
        self.goes_on(now, group, epoch);
        let Some(role) = self.roles.get_mut(&group) else {
            return;
        };
        self.leased.insert(group, (epoch, Leased::Released));
        role.released(now, epoch);
        self.act(Act::Say(Said::Released { group, epoch }));
        self.dirty = true;
    }

    fn idle(&mut self, now: Moment, newest: &Assignment) {
        if newest.is_of(self.me, self.incarnation) {
            return;
        }
        if let Some(role) = self.roles.get_mut(&newest.group) {
            match self.knows_ledger {
                true => role.assigned_away(now, newest.epoch),
                false => role.continued_elsewhere(now, newest.epoch),
            }
            self.dirty = true;
        }
    }

    fn hear_silences(&mut self, silences: Vec<Silence>) {
        let timing = self.topology.timing;
        let loud = |list: &[Silence]| -> Vec<(GroupId, Epoch, Hearing)> {
            let judged = list.iter().map(|one| {
                (
                    one.group,
                    one.epoch,
                    hearing(&timing, one.unheard, one.standing),
                )
            });
            judged.collect()
        };
        self.dirty |= loud(&self.silences) != loud(&silences);
        self.silences = silences;
    }

    fn phase(&mut self, now: Moment, group: GroupId, what: &str, last: bool) {
        let Some(role) = self.roles.get_mut(&group) else {
            return;
        };
        role.phase(now, what);
        if last {
            self.untold.insert(group, (role.epoch(), now));
        }
    }

    /// Tells how openings went, until that is agreed on: what a group had before is nobody else's
    /// until it has told that it is open without it (DESIGN 3.1 rule 10).
    fn give_accounts(&mut self, now: Moment) {
        let mut opened = Vec::new();
        let (me, roles) = (self.me, &mut self.roles);
        self.untold.retain(|group, (epoch, from)| {
            let Some(role) = roles.get_mut(group) else {
                return false;
            };
            let is_open = role.standing() == Standing::Open;
            if is_open && role.epoch() == *epoch && now >= *from {
                opened.extend(role.account(me));
                return false;
            }
            // A lease that lapses may come back.
            role.epoch() == *epoch && (is_open || role.standing() == Standing::Lapsed)
        });
        for opened in opened {
            let id = self.fresh_id();
            self.accounts.insert(id, (opened.group, opened.epoch));
            let command = Command::Opened(opened);
            self.act(Act::Propose { id, command });
        }
    }

    fn maintain(&mut self, now: Moment, id: u64, ask: Ask, wall_ms: u64) {
        let granted = if self.leader == Some(self.me) {
            self.desk.take(&self.situation(now, wall_ms), ask)
        } else {
            Err("this node does not lead any more: ask again".to_owned())
        };
        match granted {
            Err(reason) => self.act(Act::Reply {
                id,
                outcome: Err(reason),
            }),
            Ok(command) => {
                let proposal = self.fresh_id();
                let done = self.done_text(ask);
                self.desk.proposing(now, id, proposal, done);
                self.act(Act::Propose {
                    id: proposal,
                    command,
                });
            }
        }
    }

    fn done_text(&self, ask: Ask) -> String {
        let (Ask::Drain { node, .. } | Ask::Undrain { node }) = ask;
        let name = self.topology.node_name(node);
        let held = self.ledger.held_by(node);
        let held: Vec<String> = held.map(|group| self.topology.group_name(group)).collect();
        match ask {
            Ask::Undrain { .. } => format!("{name} is drained no more"),
            Ask::Drain { .. } if held.is_empty() => format!("{name} is drained; it holds nothing"),
            Ask::Drain { .. } => format!("{name} is drained; it holds {}", held.join(", ")),
        }
    }

    fn propose(&mut self, assign: Assign) -> u64 {
        let id = self.fresh_id();
        let proposing = Proposing {
            id,
            evidence: assign.evidence.clone(),
            agreed: None,
        };
        self.proposing.insert(assign.group, proposing);
        self.act(Act::Say(Said::Deciding {
            group: assign.group,
            to: assign.holder,
            evidence: assign.evidence.clone(),
        }));
        self.act(Act::Propose {
            id,
            command: Command::Assign(assign),
        });
        id
    }

    fn situation(&self, now: Moment, wall_ms: u64) -> Situation<'_> {
        Situation {
            now,
            me: self.me,
            topology: &self.topology,
            ledger: &self.ledger,
            view: &self.view,
            wellness: &self.wellness,
            deciders: &self.deciders,
            leading_since: self.leading_since,
            wall_ms,
        }
    }

    /// Whether an assignment of the group is on its way to be agreed on: a proposal of this leader,
    /// or what the one before had appended. That is agreed on with the leader's first entry or, cut
    /// off, never.
    pub(crate) fn is_moving(&self, now: Moment, group: GroupId) -> bool {
        let current = self.ledger.current(group);
        let current = current.map_or(Epoch::NONE, |current| current.epoch);
        let ahead = self.appended.get(&group).is_some_and(|one| *one > current);
        let settles = now.since(self.leading_since) < PROPOSAL_PATIENCE;
        self.proposing.contains_key(&group) || ahead && settles
    }

    fn lead(&mut self, now: Moment, wall_ms: u64) {
        let waits = |at| now.since(at) < PROPOSAL_PATIENCE;
        self.proposing.retain(|_, one| one.agreed.is_none_or(waits));
        let pauses = |at| now.since(at) < PROPOSAL_PAUSE;
        self.not_agreed.retain(|_, at| pauses(*at));
        let ledger = &self.ledger;
        self.switchovers
            .keep_current(|group| ledger.current(group).map(|current| current.epoch));
        self.grant_wishes(now, wall_ms);
        let groups: Vec<GroupId> = self.topology.groups.keys().copied().collect();
        for id in groups {
            if self.is_moving(now, id) || self.not_agreed.contains_key(&id) {
                continue;
            }
            let mut noticed = core::mem::take(&mut self.noticed);
            let decision = policy::decide(
                &self.situation(now, wall_ms),
                &mut noticed,
                &self.topology.groups[&id],
            );
            self.noticed = noticed;
            match decision {
                Some(assign) => {
                    self.go(now, assign);
                }
                None if !self.is_wished(id) => self.switchovers.drop_group(id),
                None => {}
            }
        }
        let mut desk = core::mem::take(&mut self.desk);
        let due = desk.due(&self.situation(now, wall_ms));
        self.desk = desk;
        for command in due {
            let id = self.fresh_id();
            self.act(Act::Propose { id, command });
        }
        self.record_lives(now);
        self.prefer_other_leader(now);
    }

    /// Gets each node's life agreed on, so that every voter knows an older one or a
    /// clone when it comes (DESIGN 3.1 rule 8).
    fn record_lives(&mut self, now: Moment) {
        let news: Vec<(NodeId, Incarnation)> = self
            .topology
            .nodes
            .keys()
            .filter_map(|node| {
                let life = self.view.fresh(now, *node)?.report.incarnation;
                let known = self
                    .ledger
                    .nodes
                    .get(node)
                    .and_then(|record| record.incarnation);
                let newer = known.is_none_or(|known| known.counter < life.counter);
                newer.then_some((*node, life))
            })
            .collect();
        for (node, incarnation) in news {
            let waited = self
                .recording
                .get(&node)
                .is_none_or(|asked| now.since(*asked) >= PROPOSAL_PATIENCE);
            if waited {
                self.recording.insert(node, now);
                let id = self.fresh_id();
                let command = Command::Started { node, incarnation };
                self.act(Act::Propose { id, command });
            }
        }
    }

    /// Leadership belongs on a node that holds nothing: then the death of a holder
    /// needs no election before its groups move. And not on one that is about to go.
    fn prefer_other_leader(&mut self, now: Moment) {
        let holds = |node: NodeId| self.holds_any(node);
        let drained = |node: NodeId| self.ledger.drained(node).is_some();
        let leaving = self.stopping || drained(self.me);
        let settled = now.since(self.leading_since) >= LEADERSHIP_PATIENCE
            && now.since(self.transfer_asked) >= LEADERSHIP_PATIENCE * 4
            && self.proposing.is_empty()
            && self.switchovers.is_idle();
        if !(settled && (leaving || holds(self.me))) {
            return;
        }
        let fit = |node: NodeId| {
            node != self.me
                && self.deciders.contains(&node)
                && self
                    .view
                    .fresh(now, node)
                    .is_some_and(|heard| !heard.report.stopping)
        };
        let idle = self
            .topology
            .voters()
            .filter(|node| fit(node.id) && !holds(node.id) && !drained(node.id));
        let best = idle.max_by_key(|node| node.witness).map(|node| node.id);
        let any = |may: &dyn Fn(NodeId) -> bool| {
            let voters = self.topology.voters().map(|node| node.id);
            voters.filter(|node| fit(*node)).find(|node| may(*node))
        };
        let to = match (leaving, self.stopping) {
            (false, _) => best,
            (true, false) => best.or_else(|| any(&|node| !drained(node))),
            (true, true) => best
                .or_else(|| any(&|node| !drained(node)))
                .or_else(|| any(&|_| true)),
        };
        if let Some(to) = to {
            self.transfer_asked = now;
            self.act(Act::Transfer { to });
        }
    }

    fn want(&mut self, now: Moment) {
        let mut news = Vec::new();
        let patience = self.patience();
        let roles = self.roles.iter();
        for (group, role) in roles.filter(|(_, role)| self.knows_ledger || role.is_unlogged()) {
            let want = role.want();
            if self.wanted.get(group) != Some(&want) {
                self.wanted.insert(*group, want.clone());
                news.push(Act::Want {
                    group: *group,
                    want,
                });
            }
            let run = role.run(now, patience, self.alone);
            if let Some(run) = run.filter(|run| self.running.get(group) != Some(run)) {
                self.running.insert(*group, run);
                if let Some(epoch) = role.abandons(run) {
                    let group = *group;
                    news.push(Act::Abandon { group, epoch });
                }
                news.push(Act::Run { group: *group, run });
            }
        }
        for act in news {
            self.act(act);
        }
    }

    fn patience(&self) -> Duration {
        self.topology.timing.lease * PATIENCE_LEASES
    }

    /// What of each group should run here beside its addresses now, whatever was said before;
    /// a group that is left as it is, is left out. None before anything is known: the ledger, or
    /// without it what the lease machine goes on with.
    pub fn runs(&self, now: Moment) -> Option<BTreeMap<GroupId, Run>> {
        let roles = self.roles.iter();
        let known = roles.filter(|(_, role)| self.knows_ledger || role.is_unlogged());
        let runs = known.clone().filter_map(|(group, role)| {
            let run = role.run(now, self.patience(), self.alone)?;
            Some((*group, run))
        });
        (self.knows_ledger || known.count() > 0).then(|| runs.collect())
    }

    /// What a group here takes before it closes as planned.
    fn farewell(&self, group: GroupId) -> Farewell {
        let group = self.topology.groups.get(&group);
        let farewell = group.map(|group| Farewell {
            drain: group.drain,
            before_close: group.before_close,
        });
        farewell.unwrap_or_default()
    }

    fn note_heard(&mut self, now: Moment) {
        let mut news = Vec::new();
        for node in self.topology.nodes.keys().filter(|node| **node != self.me) {
            let heard = self.view.alive(now, *node);
            let before = self.heard.insert(*node, heard).unwrap_or(false);
            if before != heard {
                news.push((*node, heard));
            }
        }
        for (node, heard) in news {
            self.act(Act::Say(Said::Node { node, heard }));
        }
        let heard = |node: &&NodeId| **node == self.me || self.view.alive(now, **node);
        let count = self.deciders.iter().filter(heard).count();
        let alone = count < majority(self.deciders.len());
        self.alone = alone.then(|| self.alone.unwrap_or(now));
    }

    /// Tells the others: at once when something changed, and every so often anyway.
    fn tell(&mut self, now: Moment) {
        let loud =
            !self.silences.is_empty() && now.since(self.told_at) >= self.topology.timing.heartbeat;
        if !(self.dirty || loud || now.since(self.told_at) >= REPORT_REPEAT) {
            return;
        }
        self.dirty = false;
        self.told_at = now;
        self.seq += 1;
        let report = self.report(now);
        self.view.hear(now, self.me, report.clone());
        self.act(Act::Tell(report));
    }

    /// Why this node could not take a group, or not go on with it.
    fn unready(&self, group: GroupId, role: &Role) -> Option<String> {
        let Some(unready) = self.unready.get(&group) else {
            return Some("its network interfaces have not been looked at yet".to_owned());
        };
        let late = || {
            let late = self.late.get(&group)?;
            let known = *late == role.epoch() && role.standing() == Standing::Opening;
            known.then(|| NOT_OPEN_IN_TIME.to_owned())
        };
        unready.clone().or_else(late)
    }

    /// Looks which openings have taken too long: a service that hangs in its start, or whose word
    /// was lost, must not keep a group for ever (L3).
    fn mind_openings(&mut self, now: Moment) {
        for (group, role) in &self.roles {
            let Some(preparing) = self.topology.groups.get(group).map(|one| one.preparing) else {
                continue;
            };
            let took = role.after_assignment(now);
            // What was never agreed on, nobody waits for.
            let current = self.ledger.current(*group);
            let agreed = current.is_some_and(|current| current.epoch == role.epoch());
            let late = role.standing() == Standing::Opening
                && (agreed || role.is_unlogged())
                && took >= preparing + OPENING_SLACK;
            if late && self.late.insert(*group, role.epoch()) != Some(role.epoch()) {
                self.dirty = true;
            }
        }
    }

    fn report(&mut self, now: Moment) -> Report {
        let (checks, whole) = self.verdicts.report(now);
        Report {
            incarnation: self.incarnation,
            seq: self.seq,
            stopping: self.stopping,
            guard_full: self.guard_full,
            config_digest: self.config_digest,
            generation: self.generation,
            votes: self.votes,
            stored: self.stored,
            caught_up: self.ledger.counts(self.me, self.incarnation),
            log_fault: self.log_fault.clone(),
            leader: self.leader,
            lateness: self.lateness,
            checks,
            whole,
            groups: self
                .roles
                .iter()
                .map(|(group, role)| GroupReport {
                    group: *group,
                    epoch: role.epoch(),
                    standing: role.standing(),
                    unready: self.unready(*group, role),
                    departure: role.departure(),
                    settling: self.settling.of(*group),
                })
                .collect(),
            silences: self.silences.clone(),
            floors_above: self
                .floors_above
                .iter()
                .map(|(group, epoch)| (*group, *epoch))
                .collect(),
            leaving: self.switchovers.leaving(),
        }
    }
}
