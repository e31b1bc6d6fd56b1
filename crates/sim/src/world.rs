//! The world: true time, the network, and what happens to nodes when.

use std::collections::{BTreeMap, VecDeque};

use evenkeel_core::lease::{Assignment, Event as Said, Faults, Message, Output, Phase, Settings};
use evenkeel_core::{Epoch, GroupId, Incarnation, Moment, NodeId};

use crate::agreement::{Agreement, Disk, Told};
use crate::chance::Chance;
use crate::check::{Violation, s1, s2, s4};
use crate::clock::Clock;
use crate::mix::{MS, Mix};
use crate::node::{Node, Restart};

/// The one group of a simulated cluster: groups share nothing but numbers of Renews.
pub const GROUP: GroupId = GroupId(7);

/// Lines of the story that a failing run tells.
const STORY_MAX: usize = 200;

/// How often what runs with a lapsed epoch is stopped, per mille of a machine's steps.
const ABANDONED_OFTEN: u64 = 20;

/// How often services turn out to be started, per mille of a machine's steps.
const READY_OFTEN: u64 = 50;

/// Something that happens at a moment of true time.
#[derive(Clone, Debug)]
enum Happening {
    /// A message reaches a node's socket.
    Arrives {
        to: usize,
        from: usize,
        message: Message,
    },
    /// A node's log has something to tell to this process.
    Tells { node: usize, process: u64 },
    /// A timer of this process is due.
    Wakes { node: usize, process: u64 },
    /// A node that stood still between deciding and doing goes on.
    Resumes { node: usize, process: u64 },
    /// A process starts.
    Starts {
        node: usize,
        process: u64,
        restart: Restart,
    },
}

/// What a machine is asked.
enum Input {
    Receive(NodeId, Message),
    Told(Told),
    Release,
    Tick,
}

/// Counts of what a run has seen: a search that sees no moves proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Guards opened.
    pub opened: u64,
    /// Leases that ran out and came back.
    pub resumed: u64,
    /// Leases given back.
    pub given_back: u64,
    /// Renews that declared earlier ones void.
    pub anew: u64,
    /// Processes started.
    pub started: u64,
    /// Steps of machines.
    pub steps: u64,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.opened += other.opened;
        self.resumed += other.resumed;
        self.given_back += other.given_back;
        self.anew += other.anew;
        self.started += other.started;
        self.steps += other.steps;
    }
}

/// Everything.
pub struct World {
    /// True time in nanoseconds.
    pub at: u64,
    /// What it is made of.
    pub mix: Mix,
    /// Where its luck comes from.
    pub chance: Chance,
    /// Draws when services are started.
    services: Chance,
    /// The nodes; voters first.
    pub nodes: Vec<Node>,
    /// Their disks.
    pub disks: Vec<Disk>,
    /// Who leads.
    pub agreement: Agreement,
    /// `cut[a][b]`: nothing goes from a to b.
    pub cut: Vec<Vec<bool>>,
    /// What a node sends before this true time arrives late.
    pub lags_until: Vec<u64>,
    /// Whether the network still loses and delays.
    pub healed: bool,
    /// The first property found broken.
    pub violation: Option<Violation>,
    /// What has been seen.
    pub seen: Seen,
    faults: Faults,
    s2: s2::Books,
    s4: Vec<s4::Books>,
    queue: BTreeMap<(u64, u64), Happening>,
    number: u64,
    story: Option<VecDeque<String>>,
}

impl World {
    /// A cluster in which the first assignment has just been agreed upon.
    pub fn new(mix: Mix, mut chance: Chance, faults: Faults, tell: bool) -> Self {
        let count = mix.nodes();
        let ids: Vec<NodeId> = (0..count as u64).map(|n| NodeId(n + 1)).collect();
        let nodes: Vec<Node> = (0..count)
            .map(|n| {
                let settings = Settings {
                    me: ids[n],
                    voters: ids[..mix.voters].to_vec(),
                    membership: 77,
                    lease: mix.leases[n],
                    heartbeat: mix.leases[n] / 5,
                    lease_max: mix.lease_max,
                    prepared: mix.prepared.then_some(GROUP).into_iter().collect(),
                    faults,
                };
                let clock = Clock::booted(0, chance.between(1, 1000) * MS, mix.rates[n]);
                Node::fresh(ids[n], clock, mix.guard_late, settings, 0)
            })
            .collect();
        let mut world = Self {
            at: 0,
            disks: vec![Disk::default(); count],
            agreement: Agreement::new(mix.voters),
            cut: vec![vec![false; count]; count],
            lags_until: vec![0; count],
            healed: false,
            violation: None,
            seen: Seen::default(),
            faults,
            s2: s2::Books::new(count),
            s4: vec![s4::Books::default(); count],
            queue: BTreeMap::new(),
            number: 0,
            story: tell.then(VecDeque::new),
            mix,
            services: chance.clone(),
            chance,
            nodes,
        };
        let everybody: Vec<usize> = (0..world.mix.voters).collect();
        world.agreement.elect(&mut world.disks, 0, &everybody);
        let holder = world.any_node();
        world.propose(0, holder, false);
        world.settle(0);
        world
    }

    /// Lets everything happen up to true time `until`.
    pub fn run_until(&mut self, until: u64) {
        while self.violation.is_none() {
            let Some(entry) = self.queue.first_entry() else {
                break;
            };
            if entry.key().0 > until {
                break;
            }
            self.at = entry.key().0;
            let happening = entry.remove();
            self.happen(happening);
        }
        self.at = until;
    }

    /// The story so far, if it is being told.
    pub fn story(&self) -> Vec<String> {
        self.story.iter().flatten().cloned().collect()
    }

    /// Adds a line to the story.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        let Some(story) = &mut self.story else { return };
        if story.len() >= STORY_MAX {
            story.pop_front();
        }
        story.push_back(format!(
            "{:>11.6} ms  {}",
            self.at as f64 / MS as f64,
            line()
        ));
    }

    /// Any node at all.
    pub fn any_node(&mut self) -> usize {
        self.chance.below(self.nodes.len() as u64) as usize
    }

    // ---- agreement --------------------------------------------------------------

    /// The leader of some term on `leader` assigns the group to `holder`, in its
    /// present life or in the one before.
    pub fn propose(&mut self, leader: usize, holder: usize, stale: bool) {
        let Some(term) = self.agreement.leads(leader) else {
            return;
        };
        let (id, incarnation) = (self.nodes[holder].id, self.nodes[holder].incarnation);
        let counter = incarnation.counter - u64::from(stale && incarnation.counter > 1);
        let incarnation = Incarnation {
            counter,
            ..incarnation
        };
        let told = self
            .agreement
            .propose(&mut self.disks, term, |epoch| Assignment {
                group: GROUP,
                epoch,
                holder: id,
                incarnation,
            });
        self.tell(|| format!("leader {leader} proposes {told:?}"));
        self.log_tells(leader, told);
    }

    /// A leader brings all others up to date, twice, so that they learn of the commit.
    pub fn settle(&mut self, leader: usize) {
        let Some(term) = self.agreement.leads(leader) else {
            return;
        };
        for follower in (0..self.nodes.len()).chain(0..self.nodes.len()) {
            if follower != leader && self.can_append(follower) {
                self.replicate(term, leader, follower, crate::agreement::Extent::Whole);
            }
        }
    }

    /// One follower is brought up to date.
    pub fn replicate(
        &mut self,
        term: u64,
        leader: usize,
        follower: usize,
        extent: crate::agreement::Extent,
    ) {
        let (told, leader_told) = self
            .agreement
            .replicate(&mut self.disks, term, follower, extent);
        self.log_tells(follower, told);
        self.log_tells(leader, leader_told);
    }

    /// Whether a node's log can be written to.
    pub fn can_append(&self, node: usize) -> bool {
        self.nodes[node].awake(self.at)
    }

    fn log_tells(&mut self, node: usize, told: impl IntoIterator<Item = Told>) {
        for told in told {
            let late = if self.healed {
                MS / 2
            } else {
                self.mix.delay_max
            };
            let at = self.at + self.chance.between(1, late);
            let process = self.nodes[node].process;
            self.nodes[node].tells.push_back(told);
            self.plan(at, Happening::Tells { node, process });
        }
    }

    // ---- deeds ------------------------------------------------------------------

    /// A node is asked to give the group back.
    pub fn release(&mut self, node: usize) {
        if self.nodes[node].awake(self.at) {
            self.tell(|| format!("node {node} is asked to release"));
            self.step(node, Input::Release);
        }
    }

    /// A node stands still.
    pub fn freeze(&mut self, node: usize, span: u64) {
        self.tell(|| format!("node {node} freezes for {span} ns"));
        let until = self.at + span;
        self.nodes[node].frozen_until = self.nodes[node].frozen_until.max(until);
    }

    /// A node's daemon ends, and begins again later.
    pub fn restart(&mut self, node: usize, restart: Restart, down: u64) {
        self.tell(|| format!("node {node} ends: {restart:?}, down for {down} ns"));
        self.agreement.forget(node);
        self.nodes[node].stop(self.at, restart, down);
        let process = self.nodes[node].process;
        self.plan(
            self.at + down,
            Happening::Starts {
                node,
                process,
                restart,
            },
        );
    }

    /// All faults end: links, loss, freezes, doubts about identities.
    pub fn heal(&mut self) {
        self.tell(|| "all faults end".to_string());
        self.healed = true;
        self.cut.iter_mut().for_each(|row| row.fill(false));
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        for node in 0..self.nodes.len() {
            self.nodes[node].dies_after = None;
            self.nodes[node].stalls_for = 0;
            self.nodes[node].frozen_until = self.at;
            ids.iter()
                .for_each(|id| self.nodes[node].machine.set_excluded(*id, false));
        }
        let late: Vec<(u64, u64)> = self.queue.keys().copied().collect();
        for key in late {
            let now = self.at;
            let hurry = match self.queue.get(&key) {
                Some(Happening::Starts { .. } | Happening::Resumes { .. }) => true,
                Some(Happening::Wakes { .. } | Happening::Tells { .. }) => true,
                Some(Happening::Arrives { .. }) | None => false,
            };
            if hurry
                && key.0 > now
                && let Some(happening) = self.queue.remove(&key)
            {
                if let Happening::Starts { node, .. } = happening {
                    self.nodes[node].down_until = now;
                }
                self.queue.insert((now, key.1), happening);
            }
        }
    }

    // ---- what happens -----------------------------------------------------------

    fn plan(&mut self, at: u64, happening: Happening) {
        self.number += 1;
        self.queue.insert((at, self.number), happening);
    }

    fn happen(&mut self, happening: Happening) {
        let (node, process) = match &happening {
            Happening::Arrives { to, .. } => (*to, None),
            Happening::Tells { node, process }
            | Happening::Wakes { node, process }
            | Happening::Resumes { node, process }
            | Happening::Starts { node, process, .. } => (*node, Some(*process)),
        };
        if process.is_some_and(|process| process != self.nodes[node].process) {
            return;
        }
        let starts = matches!(happening, Happening::Starts { .. });
        if self.at < self.nodes[node].down_until && !starts {
            return;
        }
        if self.at < self.nodes[node].frozen_until {
            let thaw = self.nodes[node].frozen_until;
            self.plan(thaw, happening);
            return;
        }
        if std::mem::take(&mut self.nodes[node].decided) {
            self.carry_out(node);
        }
        if self.at < self.nodes[node].down_until && !starts {
            return;
        }
        match happening {
            Happening::Arrives { to, from, message } => {
                self.s4[to].hears(self.nodes[from].id, &message);
                let from = self.nodes[from].id;
                self.step(to, Input::Receive(from, message));
            }
            Happening::Tells { node, .. } => {
                if let Some(told) = self.nodes[node].tells.pop_front() {
                    self.step(node, Input::Told(told));
                }
            }
            Happening::Wakes { node, .. } => {
                self.nodes[node].wake = u64::MAX;
                self.step(node, Input::Tick);
            }
            Happening::Resumes { .. } => {}
            Happening::Starts { node, restart, .. } => self.start(node, restart),
        }
    }

    fn start(&mut self, node: usize, restart: Restart) {
        self.seen.started += 1;
        self.tell(|| format!("node {node} starts"));
        let boot = self.chance.between(1, 50) * MS;
        self.nodes[node].start(self.at, restart, boot);
        if restart != Restart::Worker {
            self.s4[node].forget();
        }
        self.carry_out(node);
        let disk = &self.disks[node];
        let floor = if self.faults.floor_follows_log {
            disk.assignment_within(disk.entries.len())
        } else {
            disk.floor
        };
        if let Some(floor) = floor {
            self.step(node, Input::Told(Told::Appended(floor)));
        }
    }

    /// One step of a machine: asked now, its outputs carried out now or, if the node
    /// stalls, later.
    fn step(&mut self, node: usize, input: Input) {
        self.seen.steps += 1;
        let now = self.nodes[node].clock.shows(self.at);
        if let Input::Receive(from, message) = &input {
            let (from, message) = (*from, *message);
            self.tell(|| format!("node {node} at {now:?} hears {from:?}: {message:?}"));
        }
        if let Input::Told(told) = &input {
            let told = *told;
            self.tell(|| format!("node {node} at {now:?} is told {told:?}"));
        }
        let machine = &mut self.nodes[node].machine;
        match input {
            Input::Receive(from, message) => machine.receive(now, from, message),
            Input::Told(Told::Appended(assignment)) => machine.floor_raised(now, &assignment),
            Input::Told(Told::Truncated(epoch, back)) => {
                machine.truncated(now, GROUP, epoch, back.as_ref());
            }
            Input::Told(Told::Committed(epoch)) => machine.committed(now, GROUP, epoch),
            Input::Release => machine.release(now, GROUP),
            Input::Tick => machine.tick(now),
        }
        let status = machine.status(GROUP);
        let floor = status.floor.map_or(Epoch::NONE, |floor| floor.epoch);
        // Services are stopped after a lapse: sooner than in life, and whatever has come since.
        let lapsed = status.held.filter(|_| status.phase == Phase::Lapsed);
        if let Some(held) = lapsed.filter(|_| self.mix.prepared && !self.healed)
            && self.services.happens(ABANDONED_OFTEN)
        {
            machine.abandon(now, GROUP, held);
        }
        // Services start within a few turns, sooner or later, and at once in the end.
        if self.mix.prepared && (self.healed || self.services.happens(READY_OFTEN)) {
            machine.ready(now, GROUP, floor);
        }
        let checked = self.s2.floor(node, floor);
        self.note(checked);
        let stall = std::mem::take(&mut self.nodes[node].stalls_for);
        if stall > 0 {
            self.freeze(node, stall);
            self.nodes[node].decided = true;
            let process = self.nodes[node].process;
            self.plan(self.at + stall, Happening::Resumes { node, process });
        } else {
            self.carry_out(node);
        }
        self.plan_wake(node);
    }

    fn plan_wake(&mut self, node: usize) {
        if self.at < self.nodes[node].down_until {
            return;
        }
        let Some(deadline) = self.nodes[node].machine.next_deadline() else {
            return;
        };
        let late = self.chance.below(self.mix.late_max);
        let at = self.nodes[node].clock.when(deadline).max(self.at + 1) + late;
        if at < self.nodes[node].wake {
            self.nodes[node].wake = at;
            let process = self.nodes[node].process;
            self.plan(at, Happening::Wakes { node, process });
        }
    }

    // ---- what nodes do ----------------------------------------------------------

    /// Polls and carries out, one after the other, unless the process dies midway.
    fn carry_out(&mut self, node: usize) {
        while self.violation.is_none() {
            if self.nodes[node].dies_after == Some(0) {
                let down = self.chance.between(1, 3 * MS);
                return self.restart(node, Restart::Worker, down);
            }
            let Some(output) = self.nodes[node].machine.poll() else {
                return;
            };
            if let Some(left) = &mut self.nodes[node].dies_after {
                *left -= 1;
            }
            self.carry_out_one(node, &output);
        }
    }

    fn carry_out_one(&mut self, node: usize, output: &Output) {
        match output {
            Output::Mirror(group) => {
                if let Some(record) = self.nodes[node].machine.record(*group) {
                    self.nodes[node].memory.write(record);
                }
            }
            Output::Transmit { to, message } => {
                let anew = matches!(message, Message::Renew(renew) if renew.void > 0);
                self.seen.anew += u64::from(anew);
                self.send(node, *to, *message);
            }
            Output::Extend(lease) => {
                self.nodes[node].extend(self.at, lease.until());
                let (until, epoch) = (lease.until(), lease.epoch());
                self.tell(|| format!("node {node} extends {epoch:?} to {until:?}"));
                self.check_extension(node, lease);
            }
            Output::Close { epoch, .. } => {
                self.tell(|| format!("node {node} closes {epoch:?}"));
                self.nodes[node].guard = Moment::ZERO;
            }
            Output::Event(said) => self.count(node, said),
        }
    }

    fn count(&mut self, node: usize, said: &Said) {
        match said {
            Said::Opened { .. } => self.seen.opened += 1,
            Said::Resumed { .. } => self.seen.resumed += 1,
            Said::Released { .. } | Said::Lost { .. } => self.seen.given_back += 1,
            Said::Opening { .. }
            | Said::Lapsed { .. }
            | Said::Abandoned { .. }
            | Said::FloorAbove { .. }
            | Said::Refused { .. }
            | Said::NoRoom { .. } => {}
        }
        let said = *said;
        self.tell(|| format!("node {node} says {said:?}"));
    }

    fn check_extension(&mut self, node: usize, lease: &evenkeel_core::lease::Lease) {
        let checked = s1::extended(&self.nodes, node, self.at);
        self.note(checked);
        let (id, incarnation) = (self.nodes[node].id, self.nodes[node].incarnation);
        if self.nodes[node].open(self.at) {
            // Otherwise it came too late, and opened nothing.
            let checked = self.s2.extended(id, incarnation, lease.epoch());
            self.note(checked);
        }
        let checked = self.s4[node].extended(&self.nodes[node].machine, lease);
        self.note(checked);
    }

    /// With a deliberate fault in place only its worst consequence counts.
    pub fn note(&mut self, checked: Result<(), Violation>) {
        let broken = self.faults != Faults::default();
        if let Err(violation) = checked
            && (!broken || violation.property == "S1")
        {
            self.tell(|| format!("{violation:?}"));
            self.violation.get_or_insert(violation);
        }
    }

    fn send(&mut self, from: usize, to: NodeId, message: Message) {
        let now = self.nodes[from].clock.shows(self.at);
        self.s4[from].sends(now, &message);
        let Some(to) = self.nodes.iter().position(|node| node.id == to) else {
            return;
        };
        let copies = 1 + u64::from(!self.healed && self.chance.happens(self.mix.doubled));
        for _ in 0..copies {
            if self.cut[from][to] || (!self.healed && self.chance.happens(self.mix.loss)) {
                continue;
            }
            let delay = self.delay(from);
            self.plan(self.at + delay, Happening::Arrives { to, from, message });
        }
    }

    fn delay(&mut self, from: usize) -> u64 {
        if self.healed {
            return self.chance.between(MS / 20, MS / 4);
        }
        let lease = self.mix.lease_max.as_nanos() as u64;
        if self.at < self.lags_until[from] {
            return self.chance.between(lease / 4, 2 * lease);
        }
        let slow = self.chance.happens(self.mix.slow);
        let longest = if slow { 3 * lease } else { self.mix.delay_max };
        self.chance.between(self.mix.delay_min, longest)
    }
}
