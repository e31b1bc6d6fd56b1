//! The lease thread: the real lease machine with its orders, datagrams, mirror and guard, as
//! `crates/daemon/src/lease.rs` drives it. Here it can stand still, or die, between any two of its
//! outputs.

use core::time::Duration;
use std::collections::VecDeque;

use evenkeel_core::health::Silence;
use evenkeel_core::lease::{
    Assignment, Event, Lease, Life, Machine, Message, Output, Phase, Record, Settings, Start,
    Status,
};
use evenkeel_core::policy::{Hearing, fine_for, hearing};
use evenkeel_core::topology::Timing;
use evenkeel_core::{Epoch, GroupId, Incarnation, Moment};
use evenkeel_wire::v1::lease as form;

use super::check::{s1, s2};
use super::host::Begin;
use super::kernel::Memory;
use super::place;
use super::story::Line;
use super::world::{Happening, World};

/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// From one look at the holders to the next at least.
const LOOK_MIN: Duration = Duration::from_millis(1);

/// What the lease thread is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// An assignment is durable in this node's log.
    FloorRaised(Assignment),
    /// An assignment is agreed.
    Committed(GroupId, Epoch),
    /// An assignment's entry was truncated.
    Truncated(GroupId, Epoch),
    /// What runs with a group is ready for this epoch to open.
    Ready(GroupId, Epoch),
    /// Give a group back.
    Release(GroupId),
    /// What ran with this epoch is stopped.
    Abandon(GroupId, Epoch),
    /// This node votes: its floors are known again.
    Recall,
    /// Tell every group's state again.
    Tell,
}

/// What the lease thread says.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// Something happened.
    Event(Event),
    /// How a group stands.
    State(GroupId, Status),
    /// All groups were told of.
    All,
    /// Which holders this voter does not hear.
    Silences(Vec<Silence>),
}

/// The thread.
pub(super) struct Thread {
    /// The machine.
    pub(super) machine: Machine,
    timing: Timing,
    quiet_until: Moment,
    missed: bool,
    silent: bool,
    looked_at: Moment,
    /// The newest wake-up asked for, in true time.
    wake: u64,
    /// It stood still between deciding and doing: what its clock showed when it decided.
    decided: Option<Moment>,
    /// Records that are to be written: only with a deliberate fault they wait.
    unwritten: Vec<Record>,
}

/// What a machine is asked.
pub(super) enum Input {
    /// A datagram.
    Datagram(usize, Message),
    /// An order.
    Order(Order),
    /// Time passed.
    Wake,
}

impl World {
    /// A lease thread begins.
    pub(super) fn begin_thread(&mut self, host: usize, floors: &[Assignment], quiet: Duration) {
        let now = self.hosts[host].now(self.at);
        let start = self.thread_start(host, quiet);
        let settings = self.lease_settings(host);
        let one = &mut self.hosts[host];
        let life = Life {
            incarnation: one.incarnation,
            seq_base: now.as_nanos(),
        };
        let mut machine = Machine::new(now, settings, life, start);
        for floor in floors {
            machine.floor_raised(now, floor);
        }
        one.kernel.memory = Some(Memory::begin(&machine, one.kernel.memory.as_ref()));
        let timing = self.recipe.timing;
        let Some(worker) = &mut one.worker else {
            return;
        };
        worker.thread = Some(Thread {
            machine,
            timing,
            quiet_until: now + timing.lease,
            missed: false,
            silent: false,
            looked_at: now,
            wake: u64::MAX,
            decided: None,
            unwritten: Vec::new(),
        });
        self.carry_out(host, None);
        self.plan_wake(host);
    }

    fn thread_start(&self, host: usize, quiet_for: Duration) -> Start {
        let one = &self.hosts[host];
        let begin = one.worker.as_ref().map(|worker| worker.begin);
        match (begin, &one.kernel.memory) {
            (Some(Begin::Heir), Some(memory)) => Start::Mirrored(memory.mirror()),
            _ if self.faults.no_silence => Start::Fresh,
            _ => Start::Amnesiac { quiet_for },
        }
    }

    fn lease_settings(&self, host: usize) -> Settings {
        let (recipe, topology) = (&self.recipe, &self.places[self.hosts[host].file]);
        let cold = (0..recipe.groups).filter(|group| recipe.cold[*group]);
        Settings {
            me: self.hosts[host].id,
            voters: topology.voters().map(|voter| voter.id).collect(),
            membership: topology.membership(),
            lease: recipe.timing.lease,
            heartbeat: recipe.timing.heartbeat,
            lease_max: recipe.timing.lease,
            prepared: cold.map(place::group_id).collect(),
            faults: self.faults.lease,
        }
    }

    /// One turn of the thread.
    pub(super) fn turn(&mut self, host: usize, input: Input) {
        let at = self.at;
        // A later wake-up was planned before this earlier one: there is another for what is due.
        let stale = matches!(input, Input::Wake)
            && self.hosts[host].thread().is_some_and(|one| one.wake > at);
        if stale {
            return;
        }
        let decided = self.hosts[host].thread().and_then(|one| one.decided);
        if decided.is_some() {
            self.carry_out(host, decided);
        }
        let now = self.hosts[host].now(at);
        if let Input::Datagram(from, message) = &input {
            let from = self.hosts[*from].id;
            let books = self.books.s4[host].entry(message.group()).or_default();
            books.hears(from, message);
            self.books.s6.heard(at, now, host, message);
        }
        if let Input::Order(Order::FloorRaised(one)) = &input {
            self.books.s6.floor(now, host, one.group, one.epoch);
        }
        self.tell_input(host, &input);
        let from = match &input {
            Input::Datagram(from, _) => Some(self.hosts[*from].id),
            Input::Order(_) | Input::Wake => None,
        };
        let Some(thread) = self.hosts[host].thread() else {
            return;
        };
        let machine = &mut thread.machine;
        match input {
            Input::Datagram(_, message) => {
                if let Some(from) = from {
                    machine.receive(now, from, message);
                }
            }
            Input::Order(order) => {
                obey(thread, now, order);
                let quiet_until = thread.machine.quiet_until();
                if let (Order::Recall, Some(memory)) = (order, &mut self.hosts[host].kernel.memory)
                {
                    memory.set_quiet_until(quiet_until);
                }
            }
            Input::Wake => thread.wake = u64::MAX,
        }
        if let Some(thread) = self.hosts[host].thread() {
            thread.machine.tick(now);
        }
        self.after_step(host, now);
    }

    fn after_step(&mut self, host: usize, now: Moment) {
        self.seen.steps += 1;
        let stall = core::mem::take(&mut self.hosts[host].stalls_for);
        if stall > 0 {
            let (at, process) = (self.at, self.hosts[host].process);
            let one = &mut self.hosts[host];
            one.thread_frozen = one.thread_frozen.max(at + stall);
            if let Some(thread) = one.thread() {
                thread.decided = Some(now);
            }
            self.plan(at + stall, Happening::Resumes { host, process });
        } else {
            self.carry_out(host, None);
            self.check_floors(host);
        }
        self.look(host);
        self.plan_wake(host);
    }

    /// The thread moves again.
    pub(super) fn resume(&mut self, host: usize) {
        let decided = self.hosts[host].thread().and_then(|one| one.decided);
        if decided.is_some() {
            self.carry_out(host, decided);
            self.check_floors(host);
        }
        self.plan_wake(host);
    }

    fn plan_wake(&mut self, host: usize) {
        let (at, process) = (self.at, self.hosts[host].process);
        let now = self.hosts[host].now(at);
        let late = self.chance.below(self.recipe.late_max);
        let clock = self.hosts[host].clock;
        let Some(thread) = self.hosts[host].thread() else {
            return;
        };
        let due = thread.machine.next_deadline().unwrap_or(Moment::MAX);
        let due = due.min(thread.next_look(now)).min(now + SLEEP_MAX);
        let wake = clock.when(due).max(at + 1) + late;
        if wake < thread.wake {
            thread.wake = wake;
            self.plan(wake, Happening::Wakes { host, process });
        }
    }

    /// Does what the machine wants, in its order, unless the worker dies midway. `decided`: when
    /// it had decided, if it stood still since.
    fn carry_out(&mut self, host: usize, decided: Option<Moment>) {
        if let Some(thread) = self.hosts[host].thread() {
            thread.decided = None;
        }
        while self.violation.is_none() {
            if self.hosts[host].dies_after == Some(0) {
                return self.kill_worker(host);
            }
            let polled = self.hosts[host].thread().and_then(|one| one.machine.poll());
            let Some(output) = polled else { break };
            if let Some(left) = &mut self.hosts[host].dies_after {
                *left -= 1;
            }
            self.carry_out_one(host, output, decided);
        }
        let one = &mut self.hosts[host];
        let unwritten = one.thread().map(|one| core::mem::take(&mut one.unwritten));
        if let Some(memory) = &mut one.kernel.memory {
            let records = unwritten.into_iter().flatten();
            records.for_each(|record| memory.write(record));
        }
    }

    fn carry_out_one(&mut self, host: usize, output: Output, decided: Option<Moment>) {
        let late = self.faults.mirror_late;
        match output {
            Output::Mirror(group) => {
                let one = &mut self.hosts[host];
                let record = one.thread().and_then(|one| one.machine.record(group));
                let Some(record) = record else { return };
                if let (true, Some(thread)) = (late, one.thread()) {
                    thread.unwritten.push(record);
                } else if let Some(memory) = &mut one.kernel.memory {
                    memory.write(record);
                }
            }
            Output::Transmit { to, message } => {
                if let Some(to) = self.place_of(to) {
                    self.transmit(host, to, message);
                }
            }
            Output::Extend(lease) => self.extend(host, &lease, decided),
            Output::Close { group, epoch } => {
                self.tell(|| Line::node(host, "closes").group(group).epoch(epoch));
                if self.faults.released_early {
                    let at = self.at + self.chance.below(self.recipe.lease());
                    self.plan(at, Happening::ClosesLate { host, group });
                } else {
                    self.hosts[host].kernel.guard.close(group);
                }
            }
            Output::Event(event) => {
                self.count(host, event);
                self.tell(|| Line::node(host, "lease").text(format!("{event:?}")));
                self.tell_driver(host, Told::Event(event));
            }
        }
    }

    fn count(&mut self, host: usize, event: Event) {
        if let Event::Released { group, .. } | Event::Lost { group, .. } = event {
            let id = self.hosts[host].id;
            self.books.s6.gave_up(self.at, group, id);
        }
        if let Event::Opening { group, .. } = event {
            let now = self.hosts[host].now(self.at);
            self.books.s6.asks(now, host, group);
        }
        match event {
            Event::Opened { .. } => self.seen.opened += 1,
            Event::Resumed { .. } => self.seen.resumed += 1,
            Event::Released { .. } | Event::Lost { .. } => self.seen.given_back += 1,
            Event::Lapsed { .. } => self.seen.lapsed += 1,
            Event::Opening { .. }
            | Event::Abandoned { .. }
            | Event::FloorAbove { .. }
            | Event::Refused { .. }
            | Event::NoRoom { .. } => {}
        }
    }

    fn extend(&mut self, host: usize, lease: &Lease, decided: Option<Moment>) {
        let (at, group) = (self.at, lease.group());
        let now = self.hosts[host].now(at);
        let mut until = lease.until();
        if let (true, Some(decided)) = (self.faults.guard_relative, decided) {
            until = now + decided.until(until);
        }
        let known = self.hosts[host]
            .kernel
            .guard
            .extend(group, lease.epoch(), until);
        self.tell(|| {
            let line = Line::node(host, "extends")
                .group(group)
                .epoch(lease.epoch());
            line.text(format!("until {until:?}, now {now:?}"))
        });
        if !known {
            return;
        }
        let worker = self.hosts[host].worker.as_ref();
        if let Some(thread) = worker.and_then(|worker| worker.thread.as_ref()) {
            let books = self.books.s4[host].entry(group).or_default();
            let proven = books.extended(&thread.machine, lease);
            self.note(proven);
        }
        self.books.s6.extended(at, now, host, group);
        let beyond = super::check::s4::deadline(host, lease, until);
        self.note(beyond);
        if now < until {
            let addresses: Vec<_> = self.hosts[host].kernel.guard.addresses_of(group).collect();
            let overlap = s1::opened(&self.hosts, host, &addresses, at);
            self.note(overlap);
            let one = &self.hosts[host];
            let actor = s2::Actor {
                node: one.id,
                life: one.incarnation,
                excused: at < one.excused_until,
            };
            let acted = self.books.s2.acts(group, lease.epoch(), actor);
            self.note(acted);
        }
    }

    fn transmit(&mut self, from: usize, to: usize, message: Message) {
        let now = self.hosts[from].now(self.at);
        let books = self.books.s4[from].entry(message.group()).or_default();
        books.sends(now, &message);
        let life = self.hosts[from].incarnation;
        let Some(peer) = self.keys.get(&(from, to)).copied() else {
            return;
        };
        if peer.0 != life {
            return;
        }
        let mut buffer = [0; form::MESSAGE_LENGTH_MAX];
        let bytes = form::encode(&message, &mut buffer);
        debug_assert_eq!(form::decode(bytes).as_ref(), Ok(&message));
        for at in self.wires.datagram(self.at, from, to) {
            let datagram = Happening::Datagram {
                from,
                to,
                lives: peer,
                message,
            };
            self.plan(at, datagram);
        }
    }

    /// A datagram arrives: opened if its keys are those of the two lives.
    pub(super) fn arrive(
        &mut self,
        from: usize,
        to: usize,
        lives: (Incarnation, Incarnation),
        message: Message,
    ) {
        let known = self.keys.get(&(to, from)).copied();
        if known == Some((lives.1, lives.0)) && self.hosts[to].incarnation == lives.1 {
            self.turn(to, Input::Datagram(from, message));
        }
    }

    /// At each wake-up: who is silent, and what was missed.
    fn look(&mut self, host: usize) {
        let now = self.hosts[host].now(self.at);
        let again = !self.faults.news_lost;
        let Some(thread) = self.hosts[host].thread() else {
            return;
        };
        let said = thread.look(now, again);
        for told in said {
            self.tell_driver(host, told);
        }
    }

    /// A word on its way to the decision thread; lost if there is no room for it.
    fn tell_driver(&mut self, host: usize, told: Told) {
        let room = self.recipe.news_max;
        let Some(worker) = &mut self.hosts[host].worker else {
            return;
        };
        if worker.news.len() < room {
            worker.news.push_back(told);
            self.over_seam(host, 0);
        } else if let Some(thread) = &mut worker.thread {
            thread.missed = true;
        }
    }

    /// What it has decided and not done yet dies with it, and was never said.
    fn check_floors(&mut self, host: usize) {
        let groups: Vec<GroupId> = (0..self.recipe.groups).map(place::group_id).collect();
        for group in groups {
            let status = self.hosts[host]
                .thread()
                .map(|one| one.machine.status(group));
            let Some(status) = status else { return };
            let floor = status.floor.map_or(Epoch::NONE, |floor| floor.epoch);
            let checked = self.books.s2.floor(host, group, floor);
            self.note(checked);
        }
    }

    fn tell_input(&mut self, host: usize, input: &Input) {
        if !self.is_telling() {
            return;
        }
        let line = match input {
            Input::Datagram(from, message) => {
                Line::node(host, "hears").text(format!("from {from}: {message:?}"))
            }
            Input::Order(order) => Line::node(host, "ordered").text(format!("{order:?}")),
            Input::Wake => return,
        };
        self.tell(|| line);
    }
}

fn obey(thread: &mut Thread, now: Moment, order: Order) {
    let machine = &mut thread.machine;
    match order {
        Order::FloorRaised(assignment) => machine.floor_raised(now, &assignment),
        Order::Committed(group, epoch) => machine.committed(now, group, epoch),
        Order::Truncated(group, epoch) => machine.truncated(now, group, epoch, None),
        Order::Ready(group, epoch) => machine.ready(now, group, epoch),
        Order::Release(group) => machine.release(now, group),
        Order::Abandon(group, epoch) => machine.abandon(now, group, epoch),
        Order::Recall => machine.recall(now, thread.quiet_until),
        Order::Tell => thread.missed = true,
    }
}

impl Thread {
    /// When the next look is due.
    fn next_look(&self, now: Moment) -> Moment {
        if self.silent || self.missed {
            return self.looked_at + self.timing.heartbeat / 2;
        }
        let fine = self
            .machine
            .observations(now)
            .map(|(_, seen)| fine_for(&self.timing, seen.renewed, seen.advanced));
        now + fine.min().unwrap_or(SLEEP_MAX).max(LOOK_MIN)
    }

    /// A word of it was lost.
    pub(super) fn miss(&mut self) {
        self.missed = true;
    }

    fn look(&mut self, now: Moment, again: bool) -> VecDeque<Told> {
        let mut said = VecDeque::new();
        let pace = if self.silent {
            self.timing.heartbeat / 2
        } else {
            LOOK_MIN
        };
        if now.since(self.looked_at) < pace {
            return said;
        }
        self.looked_at = now;
        let timing = self.timing;
        let silences: Vec<Silence> = self
            .machine
            .observations(now)
            .map(|(group, seen)| Silence {
                group,
                epoch: seen.epoch,
                unheard: seen.renewed,
                standing: seen.advanced,
            })
            .filter(|one| hearing(&timing, one.unheard, one.standing) != Hearing::Fine)
            .collect();
        if self.silent || !silences.is_empty() {
            self.silent = !silences.is_empty();
            said.push_back(Told::Silences(silences));
        }
        if core::mem::take(&mut self.missed) && again {
            for record in self.machine.mirror().records {
                let status = self.machine.status(record.group);
                said.push_back(Told::State(record.group, status));
            }
            said.push_back(Told::All);
        }
        said
    }
}

/// What a group's state amounts to for the decision machine, when events were lost.
pub(super) fn event_of(group: GroupId, status: &Status) -> Option<evenkeel_core::node::Event> {
    use evenkeel_core::node::Event as Decision;
    let floor = status.floor?;
    let epoch = floor.epoch;
    let held = status.held.unwrap_or(epoch);
    match status.phase {
        Phase::Idle => Some(Decision::Idle(floor)),
        Phase::Opening => Some(Decision::Opening { group, epoch }),
        Phase::Held => Some(Decision::Opened { group, epoch: held }),
        Phase::Lapsed => Some(Decision::Lapsed { group, epoch: held }),
        Phase::Spent => Some(Decision::Released { group, epoch }),
    }
}
