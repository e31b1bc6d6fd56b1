//! The world: true time, the queue of what is to happen, and who is told of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel_consensus::{Event as Agreed, virtual_time};
use evenkeel_core::command::Command;
use evenkeel_core::lease::Message;
use evenkeel_core::ledger::Ledger;
use evenkeel_core::standby::judge;
use evenkeel_core::topology::Topology;
use evenkeel_core::{Epoch, GroupId, Incarnation, NodeId};
use evenkeel_wire::v1::entry;
use evenkeel_wire::v1::hello::Hello;

use super::check::{Books, Violation, l1, l2, l3, s1, s2, s5, s6};
use super::disk::SimDisk;
use super::faults::Faults;
use super::host::{Begin, Host, StateDir};
use super::inbox::{Inbox, Letter, News};
use super::kernel::Kernel;
use super::operator::Operator;
use super::place;
use super::recipe::{MS, Recipe, S, nanos};
use super::service::{Health, Services};
use super::story::{Line, Story, Telling};
use super::thread::Input;
use super::wires::Wires;
use crate::chance::Chance;
use crate::clock::Clock;

/// How often connections are looked after.
const LINKS: u64 = 100 * MS;
/// How long a connection outlives its link.
const IDLE_MAX: u64 = 500 * MS;
/// How long a node that was refused waits before it tries again.
pub(super) const REFUSED: u64 = S;
/// How often the checkers of what lasts look.
const LOOK: u64 = 50 * MS;
/// A seam that stalls takes so many times as long, within this.
const STALL_FACTOR: u64 = 1000;
/// The longest stall of a seam.
const STALL_MAX: u64 = 300 * MS;
/// A write that takes longer makes a disk unwell.
const QUICK_WRITE: u64 = 20 * MS;

/// How much may happen within a second: several times what has been seen of any seed. More comes of
/// nodes that answer each other without end, or of one that asks as fast as it is refused.
const HAPPENINGS_MAX: u64 = 100_000;

/// Something that happens at a moment of true time.
pub(super) enum Happening {
    /// A datagram reaches a node's socket.
    Datagram {
        from: usize,
        to: usize,
        lives: (Incarnation, Incarnation),
        message: Message,
    },
    /// A report reaches a node.
    Report {
        from: (usize, u64),
        to: usize,
        bytes: Arc<[u8]>,
    },
    /// The next word on one of a worker's channels is due.
    Seam {
        host: usize,
        process: u64,
        channel: usize,
    },
    /// A task has brought something.
    Brings {
        host: usize,
        process: u64,
        news: Box<News>,
    },
    /// A timer of the lease thread is due.
    Wakes { host: usize, process: u64 },
    /// A lease thread that stood still between deciding and doing goes on.
    Resumes { host: usize, process: u64 },
    /// The decision thread lets time pass.
    Ticks { host: usize, process: u64 },
    /// The checks of a node answer.
    Asks { host: usize, process: u64 },
    /// The same, once.
    AsksOnce { host: usize, process: u64 },
    /// The mover has announced a group.
    Announced {
        host: usize,
        process: u64,
        group: GroupId,
        epoch: Epoch,
    },
    /// The mover has let a group's clients go.
    Drained {
        host: usize,
        process: u64,
        group: GroupId,
        epoch: Epoch,
    },
    /// The mover has ended a group's connections.
    Farewell {
        host: usize,
        process: u64,
        group: GroupId,
    },
    /// A service has started.
    Up {
        host: usize,
        process: u64,
        group: GroupId,
        epoch: Epoch,
    },
    /// A worker begins, if the one before it is still the last.
    Begins {
        host: usize,
        process: u64,
        begin: Begin,
    },
    /// A guard shuts later than it was said: only with a deliberate fault.
    ClosesLate { host: usize, group: GroupId },
    /// A machine goes on that was paused so many times; its clock showed this.
    Unpauses {
        host: usize,
        pauses: u64,
        shows: u64,
    },
    /// A node gets another file.
    Reloads { host: usize, file: usize },
    /// A disk is mended.
    Mended { host: usize },
    /// Connections are looked after.
    Links,
    /// Two nodes have shaken hands.
    Connects { ends: [(usize, u64); 2] },
    /// The checkers look.
    Looks,
}

/// Which thread a happening is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    Lease,
    Decision,
    Nobody,
}

/// Counts of what a run has seen: a search that sees no moves proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Guards opened.
    pub opened: u64,
    /// Leases that ran out.
    pub lapsed: u64,
    /// Leases that ran out and came back.
    pub resumed: u64,
    /// Leases given back.
    pub given_back: u64,
    /// Assignments decided.
    pub moves: u64,
    /// Assignments cut off.
    pub truncated: u64,
    /// Workers started.
    pub started: u64,
    /// Nodes that lost what they had stored.
    pub forgotten: u64,
    /// Nodes let in again.
    pub readmitted: u64,
    /// Connections refused.
    pub refused: u64,
    /// Terms in which somebody led.
    pub terms: u64,
    /// Operators whose wish came true.
    pub wishes: u64,
    /// Deeds done.
    pub deeds: u64,
    /// Steps of lease machines.
    pub steps: u64,
    /// Steps of decision machines.
    pub decisions: u64,
    /// Happenings.
    pub happenings: u64,
    /// The most of them within a second.
    pub busiest: u64,
    /// How long the cluster took to come to rest in the end, in nanoseconds.
    pub to_rest: u64,
    /// The longest time that a group was without service though it need not be.
    pub unserved: u64,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.opened += other.opened;
        self.lapsed += other.lapsed;
        self.resumed += other.resumed;
        self.given_back += other.given_back;
        self.moves += other.moves;
        self.truncated += other.truncated;
        self.started += other.started;
        self.forgotten += other.forgotten;
        self.readmitted += other.readmitted;
        self.refused += other.refused;
        self.terms += other.terms;
        self.wishes += other.wishes;
        self.deeds += other.deeds;
        self.steps += other.steps;
        self.decisions += other.decisions;
        self.happenings += other.happenings;
        self.busiest = self.busiest.max(other.busiest);
        self.to_rest = self.to_rest.max(other.to_rest);
        self.unserved = self.unserved.max(other.unserved);
    }
}

/// Everything.
pub struct World {
    /// True time in nanoseconds.
    pub at: u64,
    /// What it is made of.
    pub recipe: Recipe,
    /// Where its luck comes from.
    pub chance: Chance,
    /// What is done wrong on purpose.
    pub faults: Faults,
    /// The first property found broken.
    pub violation: Option<Violation>,
    /// What has been seen.
    pub seen: Seen,
    pub(super) hosts: Vec<Host>,
    pub(super) places: Vec<Topology>,
    pub(super) wires: Wires,
    pub(super) inbox: Inbox,
    /// The lives that have keys for each other, by who has them.
    pub(super) keys: BTreeMap<(usize, usize), (Incarnation, Incarnation)>,
    pub(super) operator: Operator,
    pub(super) books: Books,
    cut_since: BTreeMap<(usize, usize), u64>,
    tries_at: BTreeMap<(usize, usize), u64>,
    queue: BTreeMap<(u64, u64), Happening>,
    number: u64,
    /// When the second began in which happenings are counted, and how many there have been.
    second: (u64, u64),
    calm: bool,
    story: Story,
}

impl World {
    /// A cluster that has just been installed: every machine is switched on within a second.
    pub fn new(recipe: Recipe, mut chance: Chance, faults: Faults, telling: Telling) -> Self {
        let places: Vec<Topology> = (0..place::VERSIONS)
            .map(|version| place::topology(&recipe, version))
            .collect();
        let ids: Vec<NodeId> = (0..recipe.nodes).map(place::node_id).collect();
        let wires = Wires::new(&recipe, ids.clone(), Chance::new(chance.next()));
        let hosts = (0..recipe.nodes)
            .map(|node| new_host(&recipe, node, &mut chance, faults))
            .collect();
        let books = Books {
            s2: s2::Books::default(),
            s4: vec![BTreeMap::new(); recipe.nodes],
            s5: s5::Books::default(),
            s6: s6::Books::new(recipe.timing),
            l1: l1::Books::default(),
            l2: l2::Books::default(),
        };
        let mut world = Self {
            at: 0,
            chance,
            faults,
            violation: None,
            seen: Seen::default(),
            hosts,
            places,
            wires,
            inbox: Inbox::default(),
            keys: BTreeMap::new(),
            operator: Operator::default(),
            books,
            cut_since: BTreeMap::new(),
            tries_at: BTreeMap::new(),
            queue: BTreeMap::new(),
            number: 0,
            second: (0, 0),
            calm: false,
            story: Story::new(telling),
            recipe,
        };
        for host in 0..world.hosts.len() {
            let at = world.chance.below(S);
            let (process, begin) = (0, Begin::Boot);
            world.plan(
                at,
                Happening::Begins {
                    host,
                    process,
                    begin,
                },
            );
        }
        world.plan(LINKS, Happening::Links);
        world.plan(LOOK, Happening::Looks);
        world
    }

    // ---- time ---------------------------------------------------------------------------

    /// Plans something.
    pub(super) fn plan(&mut self, at: u64, happening: Happening) {
        self.number += 1;
        self.queue.insert((at, self.number), happening);
    }

    /// Lets everything happen up to true time `until`, the engines included.
    pub async fn run_until(&mut self, until: u64) {
        while self.violation.is_none() {
            self.at = nanos(virtual_time::now());
            while let Some(letter) = self.inbox.take() {
                self.pace();
                self.open(letter);
            }
            let due = self.queue.first_key_value().map(|(key, _)| key.0);
            match due {
                Some(due) if due <= self.at => {
                    if let Some((_, happening)) = self.queue.pop_first() {
                        self.pace();
                        self.happen(happening);
                    }
                }
                _ if self.at >= until => return,
                due => {
                    let next = due.unwrap_or(until).min(until);
                    self.inbox.wait(next).await;
                }
            }
        }
    }

    /// Something happens: not endlessly without time passing.
    fn pace(&mut self) {
        if self.at >= self.second.0 + S {
            self.second = (self.at, 0);
        }
        self.second.1 += 1;
        self.seen.busiest = self.seen.busiest.max(self.second.1);
        if self.second.1 > HAPPENINGS_MAX {
            let seen = format!("{HAPPENINGS_MAX} happenings within a second: a storm");
            let property = "bounds";
            self.note(Err(Violation { property, seen }));
        }
    }

    /// A delay on the way from one thread to another; none overtakes another.
    pub(super) fn over_seam(&mut self, host: usize, channel: usize) {
        let most = self.recipe.seam_max;
        let stalls = !self.calm && self.chance.below(1_000_000) < self.recipe.seam_stalls;
        let took = match (self.calm, stalls) {
            (true, _) => MS / 50,
            (false, true) => self
                .chance
                .between(most, (most * STALL_FACTOR).min(STALL_MAX)),
            (false, false) => self.chance.between(1_000, most),
        };
        let (at, process) = (self.at, self.hosts[host].process);
        let Some(worker) = &mut self.hosts[host].worker else {
            return;
        };
        let due = (at + took).max(worker.due[channel]);
        worker.due[channel] = due;
        self.plan(
            due,
            Happening::Seam {
                host,
                process,
                channel,
            },
        );
    }

    /// Whether everything is mended.
    pub(super) fn is_calm(&self) -> bool {
        self.calm
    }

    // ---- telling ------------------------------------------------------------------------

    /// Whether lines are wanted.
    pub(super) fn is_telling(&self) -> bool {
        self.story.is_told()
    }

    /// Adds a line to the story.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> Line) {
        if self.story.is_told() {
            let line = line();
            self.story.add(self.at, line);
        }
    }

    /// The last lines, and a digest of all.
    pub fn end(&mut self) -> (Vec<String>, u64) {
        // An engine knows the wires, and they know it: neither would ever be freed.
        for node in 0..self.hosts.len() {
            self.wires.answer_by(node, None);
        }
        core::mem::replace(&mut self.story, Story::new(Telling::Verdict)).end()
    }

    /// Notes what a checker says.
    pub(super) fn note(&mut self, checked: Result<(), Violation>) {
        if let Err(violation) = checked {
            self.tell(|| Line::world("broken").text(format!("{violation:?}")));
            self.violation.get_or_insert(violation);
        }
    }

    /// The number of a node.
    pub(super) fn place_of(&self, id: NodeId) -> Option<usize> {
        self.hosts.iter().position(|host| host.id == id)
    }

    // ---- what tasks bring ---------------------------------------------------------------

    fn open(&mut self, letter: Letter) {
        let Letter {
            host,
            process,
            news,
        } = letter;
        if let News::Agreed(event) = &news {
            self.witness(host, event);
        }
        if process != self.hosts[host].process {
            return;
        }
        match news {
            News::Agreed(event) => {
                if let Some(worker) = &mut self.hosts[host].worker {
                    worker.agreed.push_back(event);
                    self.over_seam(host, 2);
                }
            }
            news => {
                let at = self.at + self.chance.between(1_000, self.recipe.seam_max);
                let news = Box::new(news);
                self.plan(
                    at,
                    Happening::Brings {
                        host,
                        process,
                        news,
                    },
                );
            }
        }
    }

    /// What an engine says, for the checkers: before it has crossed any seam.
    fn witness(&mut self, host: usize, event: &Agreed) {
        match event {
            Agreed::Committed { epoch, payload } => {
                let (epoch, payload) = (*epoch, Arc::clone(payload));
                match self.books.s2.decided(host, epoch, &payload) {
                    Ok(true) => self.decided(epoch, &payload),
                    Ok(false) => {}
                    Err(violation) => self.note(Err(violation)),
                }
            }
            Agreed::Leading { term } => {
                self.seen.terms += 1;
                let led = self.books.s6.leads(*term, self.hosts[host].id);
                self.note(led);
                let term = *term;
                self.tell(|| Line::node(host, "leads").text(format!("term {term}")));
            }
            Agreed::Appended { epoch, payload } => {
                if let Ok(Command::Assign(assign)) = entry::decode(payload) {
                    self.books.s6.appended(assign.group, *epoch);
                }
                self.tell(|| Line::node(host, "appends").epoch(*epoch));
            }
            Agreed::Truncated { .. }
            | Agreed::Following { .. }
            | Agreed::Restored { .. }
            | Agreed::DiskSlow { .. }
            | Agreed::DiskQuick { .. }
            | Agreed::DiskFailed { .. }
            | Agreed::Stopped { .. }
            | Agreed::Missed { .. } => {
                self.tell(|| Line::node(host, "engine").text(format!("{event:?}")));
            }
        }
    }

    /// A node has learned what is agreed as a whole: what nobody has said to be decided is so.
    pub(super) fn learned(&mut self, ledger: &Ledger) {
        for (group, record) in &ledger.groups {
            if let Some(current) = &record.current
                && self.books.s2.learned(current)
            {
                self.books.s6.learned(*group, current);
            }
        }
    }

    fn decided(&mut self, epoch: Epoch, payload: &[u8]) {
        let Ok(command) = entry::decode(payload) else {
            return;
        };
        self.tell(|| {
            Line::world("decided")
                .epoch(epoch)
                .text(format!("{command:?}"))
        });
        match &command {
            Command::Assign(assign) => {
                self.seen.moves += 1;
                let at = self.at;
                let explained = self.books.s6.moved(epoch, assign, payload);
                self.note(explained);
                let from = assign.evidence.from;
                let stopping = from.is_some_and(|from| self.books.s6.stops(at, from));
                let well = self
                    .books
                    .l2
                    .moved(at, assign, stopping, self.recipe.lease());
                self.note(well);
            }
            Command::Drain(drain) => self.books.s6.drained(self.at, drain.node),
            Command::Started { .. }
            | Command::Readmit { .. }
            | Command::Opened(_)
            | Command::Recovered(_)
            | Command::Undrain { .. }
            | Command::Forgive { .. } => {}
        }
    }

    // ---- what happens -------------------------------------------------------------------

    fn happen(&mut self, happening: Happening) {
        self.seen.happenings += 1;
        let (thread, host, process) = addressee(&happening);
        if let Some((host, process)) = host.zip(process)
            && process != self.hosts[host].process
        {
            return;
        }
        if let Some(host) = host {
            let one = &self.hosts[host];
            let frozen = match thread {
                Thread::Lease => one.thread_frozen,
                Thread::Decision => one.driver_frozen,
                Thread::Nobody => 0,
            };
            if self.at < frozen {
                return self.plan(frozen, happening);
            }
        }
        self.dispatch(happening);
    }

    fn dispatch(&mut self, happening: Happening) {
        match happening {
            Happening::Datagram {
                from,
                to,
                lives,
                message,
            } => self.arrive(from, to, lives, message),
            Happening::Report { from, to, bytes } => {
                if self.wires.is_connected(from.0, to) && self.hosts[from.0].process == from.1 {
                    self.told(to, from.0, &bytes);
                }
            }
            Happening::Seam { host, channel, .. } => self.cross(host, channel),
            Happening::Brings { host, news, .. } => self.bring(host, *news),
            Happening::Wakes { host, .. } => self.turn(host, Input::Wake),
            Happening::Resumes { host, .. } => self.resume(host),
            Happening::Ticks { host, .. } => {
                self.tick(host);
                self.check_answers(host);
            }
            Happening::Asks { host, .. } => self.ask(host, true),
            Happening::AsksOnce { host, .. } => self.ask(host, false),
            Happening::Announced {
                host, group, epoch, ..
            } => self.is_announced(host, group, epoch),
            Happening::Drained {
                host, group, epoch, ..
            } => {
                let busy = 0;
                let event = evenkeel_core::node::Event::Drained { group, epoch, busy };
                self.step(host, event);
            }
            Happening::Farewell { host, group, .. } => self.end_farewell(host, group),
            Happening::Up {
                host, group, epoch, ..
            } => self.up(host, group, epoch),
            Happening::Begins {
                host,
                process,
                begin,
            } if self.hosts[host].paused => {
                let begins = Happening::Begins {
                    host,
                    process,
                    begin,
                };
                self.plan(self.at + LINKS, begins);
            }
            Happening::Begins { host, begin, .. } => self.begins(host, begin),
            Happening::ClosesLate { host, group } => self.hosts[host].kernel.guard.close(group),
            Happening::Unpauses {
                host,
                pauses,
                shows,
            } => {
                if self.hosts[host].pauses == pauses {
                    self.unpause(host, shows);
                }
            }
            Happening::Reloads { host, file } if self.hosts[host].paused => {
                self.plan(self.at + LINKS, Happening::Reloads { host, file });
            }
            Happening::Reloads { host, file } => self.reloads(host, file),
            Happening::Mended { host } => self.hosts[host].disk.set_failing(false),
            Happening::Links => self.mind_links(),
            Happening::Connects { ends } => self.connects(ends),
            Happening::Looks => self.looks(),
        }
    }

    fn cross(&mut self, host: usize, channel: usize) {
        let Some(worker) = &mut self.hosts[host].worker else {
            return;
        };
        match channel {
            0 => {
                let told = worker.news.pop_front();
                match (told, &mut worker.thread) {
                    (Some(told), _) if worker.driver.is_some() => self.leased(host, told),
                    // Nobody reads yet: all is told again.
                    (Some(_), Some(thread)) => thread.miss(),
                    (Some(_) | None, _) => {}
                }
            }
            1 => {
                if let Some(order) = worker.orders.pop_front() {
                    self.turn(host, Input::Order(order));
                }
            }
            _ => {
                if let Some(event) = worker.agreed.pop_front() {
                    self.agreed(host, event);
                }
            }
        }
    }

    fn bring(&mut self, host: usize, news: News) {
        match news {
            News::Agreed(event) => self.agreed(host, event),
            News::EngineEnded => {
                let has = self.hosts[host]
                    .driver_of()
                    .is_some_and(|one| one.has_engine());
                if has {
                    self.lose_engine(host);
                }
            }
            News::Proposed {
                id,
                payload,
                outcome,
            } => self.proposed(host, id, &payload, outcome),
            News::Started(started) => self.engine_started(host, started),
            News::Sworn(taken) => self.sworn(host, taken),
        }
    }

    fn begins(&mut self, host: usize, begin: Begin) {
        let one = &mut self.hosts[host];
        if one.stopped || one.worker.is_some() {
            return;
        }
        if begin == Begin::Boot {
            one.powered = true;
            let boot = self.chance.between(1, 50) * MS;
            let one = &mut self.hosts[host];
            one.clock = Clock::booted(self.at, boot, one.clock.rate());
            one.excused_until = 0;
        }
        if self.hosts[host].powered {
            self.begin_worker(host, begin);
        }
    }

    /// A worker ends, with everything in it.
    pub(super) fn end_worker(&mut self, host: usize) {
        let one = &mut self.hosts[host];
        one.process += 1;
        one.dies_after = None;
        let stopping = core::mem::take(&mut one.stopping);
        let worker = one.worker.take();
        let process = one.process;
        one.disk = one.disk.next(true, false);
        self.wires.seat(host, process, false);
        let driver = worker.and_then(|worker| worker.driver);
        if let Some(engine) = driver.and_then(|driver| driver.engine) {
            drop(virtual_time::spawn(engine.shutdown()));
        }
        self.operator.waiting.retain(|_, one| one.host != host);
        self.tell(|| Line::node(host, "ends"));
        if stopping {
            // Its operator starts it again after a while.
            let at = self.at + self.moment();
            self.hosts[host].kernel.memory = None;
            let begin = Begin::Life;
            self.plan(
                at,
                Happening::Begins {
                    host,
                    process,
                    begin,
                },
            );
        }
    }

    // ---- connections --------------------------------------------------------------------

    fn mind_links(&mut self) {
        let count = self.hosts.len();
        for one in 0..count {
            for other in one + 1..count {
                self.mind_link(one, other);
            }
        }
        self.plan(self.at + LINKS, Happening::Links);
    }

    fn mind_link(&mut self, one: usize, other: usize) {
        let (at, pair) = (self.at, (one, other));
        let cut = self.wires.is_cut(one, other) || self.wires.is_cut(other, one);
        let cut = cut || self.hosts[one].paused || self.hosts[other].paused;
        if self.wires.is_connected(one, other) {
            if !cut {
                self.cut_since.remove(&pair);
            } else if at >= *self.cut_since.entry(pair).or_insert(at) + IDLE_MAX {
                self.cut_since.remove(&pair);
                self.wires.connect(one, other, false);
                self.tell(|| Line::world("disconnected").text(format!("{one} and {other}")));
            }
            return;
        }
        let ready = |host: &Host| host.is_awake(at) && host.driver_of().is_some();
        let due = self.tries_at.get(&pair).is_none_or(|due| at >= *due);
        if due
            && ready(&self.hosts[one])
            && ready(&self.hosts[other])
            && let Some(took) = self.wires.handshake(at, one, other)
        {
            let ends = [one, other].map(|end| (end, self.hosts[end].process));
            self.plan(at + took, Happening::Connects { ends });
            self.tries_at.insert(pair, at + took + LINKS);
        }
    }

    fn connects(&mut self, ends: [(usize, u64); 2]) {
        let same = |(end, process): (usize, u64)| {
            let host = &self.hosts[end];
            host.process == process && host.is_awake(self.at)
        };
        let [(one, _), (other, _)] = ends;
        if !ends.into_iter().all(same) || self.wires.is_connected(one, other) {
            return;
        }
        let (Some(mine), Some(theirs)) = (self.hello_of(one), self.hello_of(other)) else {
            return;
        };
        let admitted = self.admit(one, &theirs).map_err(|reason| (other, reason));
        let admitted = admitted.and_then(|()| {
            let admitted = self.admit(other, &mine);
            admitted.map_err(|reason| (one, reason))
        });
        if let Err((refused, reason)) = admitted {
            self.seen.refused += 1;
            self.operator.refused.insert(refused, self.at);
            self.tries_at.insert((one, other), self.at + REFUSED);
            self.tell(|| Line::world("refused").text(format!("{one} and {other}: {reason}")));
            return;
        }
        self.tell(|| Line::world("connected").text(format!("{one} and {other}")));
        self.wires.connect(one, other, true);
        let lives = (mine.incarnation, theirs.incarnation);
        self.keys.insert((one, other), lives);
        self.keys.insert((other, one), (lives.1, lives.0));
        self.connected(one, &theirs);
        self.connected(other, &mine);
    }

    fn hello_of(&self, host: usize) -> Option<Hello> {
        self.hosts[host]
            .driver_of()
            .map(|driver| driver.hello.clone())
    }

    fn admit(&mut self, host: usize, hello: &Hello) -> Result<(), &'static str> {
        let now = self.hosts[host].now(self.at);
        match self.hosts[host].driver() {
            Some(driver) => driver.gate.admit(now, hello),
            None => Err("it does not run"),
        }
    }

    // ---- the checkers of what lasts -------------------------------------------------------

    fn check_answers(&mut self, host: usize) {
        let now = self.hosts[host].now(self.at);
        let waiting = self.operator.waiting.values();
        let mut own = waiting.filter(|one| one.host == host);
        let late = own.find_map(|one| l3::answered(now, one).err());
        if let Some(violation) = late {
            self.note(Err(violation));
        }
    }

    fn looks(&mut self) {
        let kept = self.books.s5.look(self.at, &self.books.s2);
        self.note(kept);
        let sound = self.sound();
        let groups: Vec<GroupId> = (0..self.recipe.groups).map(place::group_id).collect();
        for group in groups {
            let could = self.could_serve(group, &sound);
            let served = self.holder_of(group).is_some();
            let (unserved, looked) = self.books.l1.look(self.at, group, could, served);
            self.seen.unserved = self.seen.unserved.max(unserved);
            self.note(looked.map_err(|violation| Violation {
                seen: format!("{}; {}", violation.seen, self.outlook(group)),
                ..violation
            }));
        }
        self.plan(self.at + LOOK, Happening::Looks);
    }

    /// Who serves a group now.
    pub(super) fn holder_of(&self, group: GroupId) -> Option<usize> {
        (0..self.hosts.len()).find(|host| self.hosts[*host].serves(group, self.at))
    }

    /// The machines of which nothing is wrong, over links of which nothing is: as many as talk
    /// with one another.
    fn sound(&self) -> Vec<usize> {
        if self.wires.loss() > 20 {
            return Vec::new();
        }
        let sound: Vec<usize> = (0..self.hosts.len())
            .filter(|host| self.is_sound(*host))
            .collect();
        let talk = |one: usize, other: usize| {
            one == other
                || self.wires.is_connected(one, other)
                    && !self.wires.is_cut(one, other)
                    && !self.wires.is_cut(other, one)
        };
        let with = |one: usize| -> Vec<usize> {
            let mut all: Vec<usize> = vec![one];
            for other in &sound {
                if !all.contains(other) && all.iter().all(|known| talk(*known, *other)) {
                    all.push(*other);
                }
            }
            all
        };
        let sets = sound.iter().map(|one| with(*one));
        sets.max_by_key(Vec::len).unwrap_or_default()
    }

    fn is_sound(&self, host: usize) -> bool {
        let one = &self.hosts[host];
        let Some(driver) = one.driver_of() else {
            return false;
        };
        let disk = one.disk.is_well(self.at, QUICK_WRITE);
        let lags = self.wires.lags(host, self.at);
        one.powered
            && !one.paused
            && one.is_awake(self.at)
            && !one.stopping
            && driver.has_engine()
            && driver.votes()
            && disk
            && !lags
            && one.stalls_for == 0
            && self.at >= one.excused_until
    }

    fn could_serve(&self, group: GroupId, sound: &[usize]) -> bool {
        let topology = &self.places[0].groups[&group];
        let fit = |host: &usize| {
            let one = &self.hosts[*host];
            topology.nodes.contains(&one.id)
                && one.services.health(group) == Health::Well
                && one.services.is_honest(group, self.at)
                && !self.may_be_waited_for(group, one.id, topology.cold)
        };
        sound.len() * 2 > self.hosts.len() && sound.iter().any(fit)
    }

    /// What whoever leads thinks of a group, for people.
    fn outlook(&self, group: GroupId) -> String {
        let Some(leader) = self.leader() else {
            return "nobody leads".to_owned();
        };
        let now = self.hosts[leader].now(self.at);
        let Some(node) = self.hosts[leader].driver_of().map(|driver| &driver.node) else {
            return format!("node {leader} leads, and does not run");
        };
        let (ledger, view) = (node.ledger(), node.view());
        let current = ledger.current(group).map(|one| {
            let holder = self.place_of(one.assign.holder);
            format!("assigned to {holder:?} in {:?}", one.epoch)
        });
        let mut text = format!("node {leader} leads, {}", current.unwrap_or_default());
        for (number, host) in self.hosts.iter().enumerate() {
            let Some(policy) = node.topology().groups.get(&group) else {
                return format!("{text}, and its file has not the group");
            };
            if policy.nodes.contains(&host.id) {
                let one = judge(now, ledger, view, node.wellness(), policy, host.id);
                text.push_str(&format!("; {number}: {:?}, {}", one.fitness, one.why));
            }
            let role = host.driver_of().and_then(|driver| driver.node.role(group));
            if let Some(role) = role {
                let (standing, epoch) = (role.standing(), role.epoch());
                text.push_str(&format!("; at {number} {standing:?} in {epoch:?}"));
            }
        }
        text
    }

    /// Whether a node that failed a group may be left alone for longer than the bound has room for.
    fn may_be_waited_for(&self, group: GroupId, node: NodeId, cold: bool) -> bool {
        let host = self.place_of(node).map(|host| &self.hosts[host]);
        let start = host.and_then(|host| host.services.failed_at(group));
        if start.is_some_and(|failed| self.at < failed + l1::WAIT) {
            return true;
        }
        let Some(failed_at) = self.books.l2.failed_at(group, node) else {
            return false;
        };
        let ledgers = self.hosts.iter().filter_map(Host::driver_of);
        let ledgers = ledgers.map(|driver| driver.node.ledger());
        let newest = ledgers.max_by_key(|ledger| ledger.applied);
        let failures = newest.and_then(|ledger| ledger.groups.get(&group)?.failures.get(&node));
        let often = failures.is_some_and(|failures| failures.count > l1::FAILURES);
        // Who leads counts from where it learned of the failure: not before its own start.
        let counts_since = self.leader().map_or(0, |leader| self.hosts[leader].began);
        (often || cold) && self.at < failed_at.max(counts_since) + l1::WAIT
    }

    // ---- the end ------------------------------------------------------------------------

    /// Everything is mended: from now on nothing goes wrong.
    pub(super) fn mend(&mut self) {
        self.tell(|| Line::world("mended"));
        self.calm = true;
        self.wires.calm();
        let newest = self.hosts.iter().map(|host| host.file).max().unwrap_or(0);
        for host in 0..self.hosts.len() {
            let now = self.at;
            let one = &mut self.hosts[host];
            one.disk.set_failing(false);
            one.disk.hang_until(core::time::Duration::ZERO);
            one.disk.set_latency(core::time::Duration::from_micros(300));
            one.services.heal();
            let frozen = [one.thread_frozen, one.driver_frozen];
            one.thread_frozen = one.thread_frozen.min(now);
            one.driver_frozen = one.driver_frozen.min(now);
            self.thaw(host, frozen.into_iter().filter(|until| *until > now));
            let one = &mut self.hosts[host];
            (one.dies_after, one.stalls_for) = (None, 0);
            let shows = one.clock.shows(now).as_nanos();
            if one.paused {
                self.unpause(host, shows);
            }
            self.plan(now + MS, Happening::Reloads { host, file: newest });
        }
    }

    /// What waited for the end of a freeze happens now, in its order.
    fn thaw(&mut self, host: usize, ends: impl Iterator<Item = u64>) {
        for end in ends {
            let of_host = |happening: &Happening| addressee(happening).1 == Some(host);
            let waiting = self.queue.range((end, 0)..=(end, u64::MAX));
            let waiting = waiting.filter(|(_, happening)| of_host(happening));
            let keys: Vec<(u64, u64)> = waiting.map(|(key, _)| *key).collect();
            for key in keys {
                if let Some(happening) = self.queue.remove(&key) {
                    self.plan(self.at, happening);
                }
            }
        }
    }

    /// Why the cluster is not at rest, if it is not: every group is served by exactly one node,
    /// the one that is agreed on, and all nodes know the same.
    pub(super) fn unrest(&self) -> Option<String> {
        let mut applied = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let Some(driver) = host.driver_of() else {
                return Some(format!("node {number} does not run"));
            };
            if !driver.has_engine() {
                return Some(format!("node {number} has no log"));
            }
            if !driver.votes() {
                let settled = driver.is_settled();
                return Some(format!("node {number} does not vote (settled: {settled})"));
            }
            applied.push(driver.node.ledger());
        }
        let same = applied.windows(2).all(|pair| pair[0] == pair[1]);
        let Some(ledger) = applied.first().filter(|_| same) else {
            return Some("the nodes do not know the same".to_owned());
        };
        if self.leader().is_none() {
            return Some("nobody leads".to_owned());
        }
        for number in 0..self.recipe.groups {
            let group = place::group_id(number);
            let current = ledger.current(group).map(|one| one.assign.holder);
            let hosts = 0..self.hosts.len();
            let serving: Vec<usize> = hosts
                .filter(|host| self.hosts[*host].serves(group, self.at))
                .collect();
            let holder = current.and_then(|holder| self.place_of(holder));
            if holder.map(|holder| vec![holder]) != Some(serving.clone()) {
                return Some(format!(
                    "group {number} is assigned to {holder:?} and served by {serving:?}"
                ));
            }
        }
        None
    }

    /// What is agreed, on each node that runs.
    pub(super) fn check_end(&mut self) {
        let mut checked = Ok(());
        for (number, host) in self.hosts.iter().enumerate() {
            if let Some(driver) = host.driver_of() {
                let ledger = driver.node.ledger();
                checked = checked.and_then(|()| self.books.s5.in_the_end(number, ledger));
            }
        }
        self.note(checked);
        if let Some(one) = self.operator.waiting.values().next() {
            let since = self.hosts[one.host].now(self.at).since(one.since);
            if since >= evenkeel_core::node::WISH_PATIENCE * 2 {
                let seen = format!("whoever asked for {} still waits", one.what);
                let property = "L3";
                self.note(Err(Violation { property, seen }));
            }
        }
    }

    /// Checks the one thing that begins without anybody's doing: a pause that ends.
    pub(super) fn check_openings(&mut self, host: usize) {
        let groups: Vec<GroupId> = (0..self.recipe.groups).map(place::group_id).collect();
        for group in groups {
            let all: Vec<_> = self.hosts[host].kernel.guard.addresses_of(group).collect();
            let overlap = s1::opened(&self.hosts, host, &all, self.at);
            self.note(overlap);
        }
    }
}

fn new_host(recipe: &Recipe, node: usize, chance: &mut Chance, faults: Faults) -> Host {
    let mut kernel = Kernel::default();
    kernel.guard.late = recipe.guard_late;
    let disk = SimDisk::new(faults.disk_lies);
    disk.set_latency(recipe.writes[node]);
    Host {
        id: place::node_id(node),
        witness: recipe.witness && node + 1 == recipe.nodes,
        clock: Clock::booted(0, chance.between(1, 1000) * MS, recipe.rates[node]),
        paused: false,
        pauses: 0,
        excused_until: 0,
        began: 0,
        powered: false,
        kernel,
        state: StateDir::default(),
        disk,
        backup: None,
        file: 0,
        incarnation: Incarnation::default(),
        process: 0,
        worker: None,
        stopped: false,
        stopping: false,
        thread_frozen: 0,
        driver_frozen: 0,
        dies_after: None,
        stalls_for: 0,
        services: Services::default(),
        announced: BTreeMap::new(),
    }
}

fn addressee(happening: &Happening) -> (Thread, Option<usize>, Option<u64>) {
    match happening {
        Happening::Datagram { to, .. } => (Thread::Lease, Some(*to), None),
        Happening::Report { to, .. } => (Thread::Decision, Some(*to), None),
        Happening::Seam {
            host,
            process,
            channel,
        } => {
            let thread = if *channel == 1 {
                Thread::Lease
            } else {
                Thread::Decision
            };
            (thread, Some(*host), Some(*process))
        }
        Happening::Wakes { host, process } | Happening::Resumes { host, process } => {
            (Thread::Lease, Some(*host), Some(*process))
        }
        Happening::Brings { host, process, .. }
        | Happening::Ticks { host, process }
        | Happening::Asks { host, process }
        | Happening::AsksOnce { host, process }
        | Happening::Announced { host, process, .. }
        | Happening::Drained { host, process, .. }
        | Happening::Farewell { host, process, .. }
        | Happening::Up { host, process, .. } => (Thread::Decision, Some(*host), Some(*process)),
        Happening::Begins { host, process, .. } => (Thread::Nobody, Some(*host), Some(*process)),
        Happening::ClosesLate { .. }
        | Happening::Unpauses { .. }
        | Happening::Reloads { .. }
        | Happening::Mended { .. }
        | Happening::Links
        | Happening::Connects { .. }
        | Happening::Looks => (Thread::Nobody, None, None),
    }
}
