//! The decision thread: the real decision machine between engine, peers, lease thread, services
//! and operators, as `crates/daemon/src/{decision,voting,generations,worker}.rs` drive it.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use evenkeel_consensus::{
    Engine, Event as Agreed, Events, Members as LogMembers, Ports, Settings, Virtual, virtual_time,
};
use evenkeel_core::command::{Assign, Command};
use evenkeel_core::evidence::Cause;
use evenkeel_core::generation::{
    Facts, Generations, Members, Start as GenerationsStart, Step, Voters,
};
use evenkeel_core::health::Standing;
use evenkeel_core::lease::{Assignment, Event as Leased};
use evenkeel_core::ledger::Ledger;
use evenkeel_core::node::{Act, Event, Node, Start as NodeStart};
use evenkeel_core::role::Want;
use evenkeel_core::suffrage::{Greeting, Suffrage};
use evenkeel_core::topology::ServiceAddress;
use evenkeel_core::{Epoch, GroupId, Incarnation, Moment, NodeId};
use evenkeel_wire::flight;
use evenkeel_wire::v1::hello::{Hello, LOG_UNREAD};
use evenkeel_wire::v1::{entry, report};
use serde_json::Value;

use super::agreement::{AssignmentsRaiseFloors, SharedLedger, assignment_of};
use super::gate::Gate;
use super::host::{Begin, Worker};
use super::inbox::{Letter, News, Started};
use super::recipe::{MS, S};
use super::story::{self, Line};
use super::thread::{Order, Told, event_of};
use super::world::{Happening, World};

/// How often time is let pass for what only waits.
const TICK: u64 = 50 * MS;
/// How long a closing holder may take to tell its clients before its guard closes.
const FAREWELL_MAX: u64 = 10 * MS;
/// How long a failed disk is left alone before the engine is tried again.
const ENGINE_PAUSE: Duration = Duration::from_secs(2);
/// How long a daemon that was told to stop waits for somebody to take over.
const HANDOVER_MAX: Duration = Duration::from_millis(5_300);
/// What a node says that cannot open what it is assigned.
const NO_VOTE: &str = "it does not vote yet";
/// What an operator hears of a node without a log.
const NO_ENGINE: &str = "this node's log cannot be written now";

/// The thread.
pub(super) struct Driver {
    /// The decision machine.
    pub(super) node: Node,
    /// The engine; none while its disk has failed.
    pub(super) engine: Option<Engine<Virtual>>,
    /// Who is let in.
    pub(super) gate: Gate,
    /// What this node says of itself.
    pub(super) hello: Hello,
    generations: Generations,
    told_deciders: Option<(u64, BTreeSet<NodeId>)>,
    may_open: bool,
    voting: Voting,
    farewells: BTreeMap<GroupId, Assignment>,
    durable: u64,
    leading_in: u64,
    readiness: BTreeMap<GroupId, Option<String>>,
    stop_by: Option<Moment>,
    /// When the engine may be started again.
    engine_at: Option<Moment>,
    starting: bool,
}

/// What is known of this node's right to vote.
struct Voting {
    suffrage: Suffrage,
    taken: Option<u64>,
    may: bool,
    swearing: bool,
    again_at: Moment,
    told: bool,
}

impl Voting {
    fn owes_oath(&self) -> bool {
        self.may && self.taken.is_none() && !self.swearing
    }
}

impl Driver {
    /// Whether this node votes, as the decision machine was told.
    pub(super) fn votes(&self) -> bool {
        self.voting.told
    }

    /// Whether this life takes part.
    pub(super) fn is_settled(&self) -> bool {
        self.generations.settled()
    }

    /// Whether its log can be written, as far as it knows.
    pub(super) fn has_engine(&self) -> bool {
        self.engine.is_some()
    }
}

fn members_of(engine: &Engine<Virtual>) -> Members {
    match engine.members() {
        LogMembers::Unknown => Members::Unknown,
        LogMembers::Alone(one) => Members::Alone(one),
        LogMembers::Growing(one) => Members::Growing(one),
        LogMembers::All => Members::All,
    }
}

// ---- a worker begins ---------------------------------------------------------------------

impl World {
    /// A worker begins: an heir with its lease thread, any other with its log.
    pub(super) fn begin_worker(&mut self, host: usize, begin: Begin) {
        let nonce = self.chance.next();
        let file = self.hosts[host].file;
        let one = &mut self.hosts[host];
        // Without a mirror there is nothing to go on from.
        let begin = match begin {
            Begin::Heir if one.kernel.memory.is_none() => Begin::Life,
            begin => begin,
        };
        if begin != Begin::Heir {
            one.incarnation = one.state.begin(nonce);
            one.kernel.memory = None;
        }
        one.process += 1;
        one.stopping = false;
        one.dies_after = None;
        (one.thread_frozen, one.driver_frozen, one.stalls_for) = (0, 0, 0);
        one.worker = Some(Worker {
            topology: self.places[file].clone(),
            digest: 1 + file as u64,
            thread: None,
            driver: None,
            begin,
            ledger: SharedLedger::default(),
            orders: Default::default(),
            news: Default::default(),
            agreed: Default::default(),
            due: [0; 3],
        });
        one.services.renew();
        let all = self.addresses_of_file(file);
        self.hosts[host].kernel.guard.guard_closed(all);
        self.seen.started += 1;
        let (process, life) = (self.hosts[host].process, self.hosts[host].incarnation);
        self.books.s6.begins(self.hosts[host].id, life);
        self.hosts[host].began = self.at;
        self.tell(|| Line::node(host, "begins").text(format!("{begin:?} {life:?}")));
        self.wires.seat(host, process, true);
        if begin == Begin::Heir {
            self.begin_thread(host, &[], Duration::ZERO);
        } else {
            self.books.s4[host].clear();
        }
        if begin == Begin::Boot {
            self.books.s6.booted(host);
        }
        self.start_engine(host);
    }

    fn addresses_of_file(&self, file: usize) -> Vec<IpAddr> {
        let groups = self.places[file].groups.values();
        let all = groups.flat_map(|group| &group.addresses);
        all.map(|address| address.ip).collect()
    }

    /// Starts an engine on the log.
    fn start_engine(&mut self, host: usize) {
        let keep = self.chance.happens(500);
        let one = &mut self.hosts[host];
        one.disk = one.disk.next(keep, false);
        one.disk.set_latency(self.recipe.writes[host]);
        let Some(worker) = &one.worker else { return };
        let voters = worker.topology.voters().map(|voter| voter.id).collect();
        let settings = Settings {
            may_vote: false,
            ..Settings::new(one.id, voters)
        };
        let (process, noted) = (one.process, one.state.oaths.clone());
        let ports = Ports {
            disk: Box::new(one.disk.share()),
            network: Arc::new(self.wires.of(host, process)),
            machine: Box::new(worker.ledger.clone()),
            floors: Arc::new(AssignmentsRaiseFloors),
        };
        let inbox = self.inbox.clone();
        drop(virtual_time::spawn(async move {
            let started = Engine::<Virtual>::start(settings, ports).await;
            let started = started.map_err(|error| error.to_string());
            if let Ok((engine, _)) = &started {
                engine.believe(&noted);
            }
            inbox.put(Letter {
                host,
                process,
                news: News::Started(started),
            });
        }));
    }

    /// An engine was started, or could not be.
    pub(super) fn engine_started(&mut self, host: usize, started: Started) {
        let driver = self.hosts[host].driver_of().is_some();
        match started {
            Ok((engine, events)) => {
                self.forward(host, events);
                self.wires.answer_by(host, Some(engine.clone()));
                if driver {
                    self.regain_engine(host, engine);
                } else {
                    self.begin_driver(host, Some(engine));
                }
            }
            Err(reason) => {
                self.tell(|| Line::node(host, "no engine").text(reason.clone()));
                let heir = self.hosts[host].worker.as_ref();
                let heir = heir.is_some_and(|worker| worker.begin == Begin::Heir);
                if driver {
                    self.log_fault(host, Some(&reason));
                    self.pause_engine(host);
                } else if heir {
                    self.begin_driver(host, None);
                    self.log_fault(host, Some("it could not be opened"));
                    self.lose_engine(host);
                } else {
                    // Refused at its start: whoever supervises it starts it again.
                    self.end_worker(host);
                    let process = self.hosts[host].process;
                    let begin = Begin::Life;
                    let at = self.at + S;
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
        }
    }

    /// Carries the events of an engine to the world.
    fn forward(&self, host: usize, mut events: Events) {
        let process = self.hosts[host].process;
        let inbox = self.inbox.clone();
        drop(virtual_time::spawn(async move {
            while let Some(event) = events.next().await {
                let news = News::Agreed(event);
                inbox.put(Letter {
                    host,
                    process,
                    news,
                });
            }
            let news = News::EngineEnded;
            inbox.put(Letter {
                host,
                process,
                news,
            });
        }));
    }

    fn begin_driver(&mut self, host: usize, engine: Option<Engine<Virtual>>) {
        let begin = self.hosts[host].worker.as_ref().map(|worker| worker.begin);
        if begin != Some(Begin::Heir) {
            let floors = engine.as_ref().map_or_else(Vec::new, Engine::floors);
            let floors: Vec<Assignment> = floors.iter().filter_map(assignment_of).collect();
            let remembers = engine.as_ref().is_some_and(|one| one.status().remembers);
            let lease = self.recipe.timing.lease;
            let quiet = if remembers { lease } else { Duration::MAX };
            self.begin_thread(host, &floors, quiet);
            if self.hosts[host].worker.is_none() {
                // Killed while it wrote its memory. (Seed 344.)
                return;
            }
        }
        let now = self.hosts[host].now(self.at);
        let (driver, born) = self.new_driver(host, now, engine);
        self.tell(|| story::born(host, now, born));
        if let Some(worker) = &mut self.hosts[host].worker {
            worker.driver = Some(driver);
        }
        let groups = self.own_groups(host);
        for group in groups {
            self.tell_readiness_of(host, group);
        }
        self.mind_generations(host);
        self.restore(host);
        self.consider_voting(host);
        self.greet(host);
        self.step(host, Event::Guard { full: true });
        let process = self.hosts[host].process;
        self.plan(self.at + TICK, Happening::Ticks { host, process });
        self.plan(self.at + MS, Happening::Asks { host, process });
    }

    fn new_driver(
        &self,
        host: usize,
        now: Moment,
        engine: Option<Engine<Virtual>>,
    ) -> (Driver, Value) {
        let one = &self.hosts[host];
        let worker = one.worker.as_ref().expect("a worker that begins");
        let topology = worker.topology.clone();
        let voters: Vec<NodeId> = topology.voters().map(|voter| voter.id).collect();
        let memory = one.kernel.memory.as_ref();
        let settled = worker.begin == Begin::Heir && memory.is_some_and(|memory| memory.settled);
        let start = GenerationsStart {
            me: one.id,
            lease: topology.timing.lease,
            generation: 0,
            settled,
            voters: Voters::All,
        };
        let generations = Generations::new(now, start, voters.iter().copied());
        let hello = Hello {
            cluster: topology.cluster.clone(),
            node: one.id,
            incarnation: one.incarnation,
            version: "sim".to_owned(),
            membership: topology.membership(),
            last_log_index: 0,
            generation: 0,
            settled,
            knows: Vec::new(),
            past: one.state.lives.clone(),
            applied: Epoch::NONE,
        };
        let suffrage = Suffrage::new(one.id, voters);
        let start = NodeStart {
            me: one.id,
            incarnation: one.incarnation,
            topology,
            config_digest: worker.digest,
            ledger: engine.as_ref().map(|_| worker.ledger.copy()),
            had: placed(&one.kernel.placed),
            first_seq: now.as_nanos(),
        };
        let born = match self.is_telling() {
            true => flight::born(&start, one.file.into()),
            false => Value::Null,
        };
        let driver = Driver {
            node: Node::new(now, start),
            engine,
            gate: Gate::new(worker.ledger.clone(), self.faults.gate_open),
            hello,
            generations,
            told_deciders: None,
            may_open: false,
            voting: Voting {
                suffrage,
                taken: None,
                may: false,
                swearing: false,
                again_at: Moment::ZERO,
                told: false,
            },
            farewells: BTreeMap::new(),
            durable: 0,
            leading_in: 0,
            readiness: BTreeMap::new(),
            stop_by: None,
            engine_at: None,
            starting: false,
        };
        (driver, born)
    }
}

fn placed(placed: &BTreeMap<GroupId, Vec<IpAddr>>) -> BTreeMap<GroupId, Vec<ServiceAddress>> {
    let address = |ip: &IpAddr| ServiceAddress {
        ip: *ip,
        prefix: 24,
        device: None,
    };
    let groups = placed.iter();
    groups
        .map(|(group, all)| (*group, all.iter().map(address).collect()))
        .collect()
}

// ---- what the machine is told, and what it wants -------------------------------------------

impl World {
    /// One step of the decision machine of a node.
    pub(super) fn step(&mut self, host: usize, event: Event) {
        let now = self.hosts[host].now(self.at);
        let wall_ms = self.at / MS;
        if self.hosts[host].driver_of().is_none() {
            return;
        }
        if self.is_telling() {
            let events = [event.clone()];
            self.tell(|| story::step(host, now, wall_ms, &events));
        }
        self.seen.decisions += 1;
        if let Some(driver) = self.hosts[host].driver() {
            driver.node.step(now, event, wall_ms);
        }
        self.carry_out_acts(host);
    }

    /// Several at once.
    pub(super) fn step_all(&mut self, host: usize, events: Vec<Event>) {
        let now = self.hosts[host].now(self.at);
        let wall_ms = self.at / MS;
        if self.hosts[host].driver_of().is_none() {
            return;
        }
        self.tell(|| story::step(host, now, wall_ms, &events));
        self.seen.decisions += 1;
        if let Some(driver) = self.hosts[host].driver() {
            driver.node.step_all(now, events, wall_ms);
        }
        self.carry_out_acts(host);
    }

    fn carry_out_acts(&mut self, host: usize) {
        while let Some(act) = self.hosts[host].driver().and_then(|one| one.node.poll()) {
            self.act_on(host, act);
        }
    }

    fn act_on(&mut self, host: usize, act: Act) {
        self.tell(|| story::act(host, &act));
        match act {
            Act::Propose { id, command } => self.propose(host, id, command),
            Act::Tell(report) => {
                self.books
                    .s6
                    .reported(self.at, self.hosts[host].id, &report);
                let bytes: Arc<[u8]> = report::encode(&report).into();
                for to in 0..self.hosts.len() {
                    if to == host {
                        continue;
                    }
                    if let Some(at) = self.wires.report(self.at, host, to) {
                        let process = self.hosts[host].process;
                        let bytes = Arc::clone(&bytes);
                        let from = (host, process);
                        self.plan(at, Happening::Report { from, to, bytes });
                    }
                }
            }
            Act::Want { group, want } => self.want(host, group, want),
            Act::Run { group, run } => self.run_group(host, group, run),
            Act::Abandon { group, epoch } => self.order(host, Order::Abandon(group, epoch)),
            Act::Reply { id, outcome } => self.replied(host, id, outcome),
            Act::Transfer { to } => {
                let engine = self.hosts[host]
                    .driver_of()
                    .and_then(|one| one.engine.clone());
                if let Some(engine) = engine {
                    drop(virtual_time::spawn(async move {
                        // Whether it was taken shows by who leads.
                        let _ = engine.transfer(to).await;
                    }));
                }
            }
            Act::Say(_) => {}
        }
    }

    /// Something for the lease thread.
    pub(super) fn order(&mut self, host: usize, order: Order) {
        if let Some(worker) = &mut self.hosts[host].worker {
            worker.orders.push_back(order);
            self.over_seam(host, 1);
        }
    }

    fn propose(&mut self, host: usize, id: u64, mut command: Command) {
        if self.faults.evidence_dropped
            && let Command::Assign(assign) = &mut command
        {
            assign.evidence.cause = Cause::HolderReleased;
            assign.evidence.checks.clear();
        }
        let assigns = matches!(command, Command::Assign(_));
        let payload = entry::encode(&command);
        if let Command::Assign(assign) = &command {
            self.books
                .s6
                .proposes(self.at, assign, &payload, &self.hosts);
        }
        let process = self.hosts[host].process;
        let nonce = self.hosts[host].incarnation.nonce;
        let inbox = self.inbox.clone();
        let request = (u128::from(nonce) << 64) | u128::from(id);
        let early = self.faults.acknowledged_early && !assigns;
        let Some(driver) = self.hosts[host].driver() else {
            return;
        };
        let term = (assigns && !self.faults.stale_term).then_some(driver.leading_in);
        let engine = self.hosts[host]
            .driver_of()
            .and_then(|one| one.engine.clone());
        let put = move |payload: Vec<u8>, outcome| {
            inbox.put(Letter {
                host,
                process,
                news: News::Proposed {
                    id,
                    payload,
                    outcome,
                },
            });
        };
        drop(virtual_time::spawn(async move {
            let told = payload.clone();
            if early {
                put(told.clone(), Ok(Epoch::NONE));
            }
            let outcome = match (engine, term) {
                (None, _) => Err(NO_ENGINE.to_owned()),
                (Some(engine), Some(term)) => {
                    let proposed = engine.propose_in(term, request, payload).await;
                    proposed.map_err(|error| error.to_string())
                }
                (Some(engine), None) => {
                    let proposed = engine.propose(request, payload).await;
                    proposed.map_err(|error| error.to_string())
                }
            };
            put(told, outcome);
        }));
    }

    /// What became of a proposal.
    pub(super) fn proposed(
        &mut self,
        host: usize,
        id: u64,
        payload: &[u8],
        outcome: Result<Epoch, String>,
    ) {
        if let Ok(epoch) = &outcome {
            self.books.s5.acknowledged(self.at, *epoch, payload);
        }
        if self.faults.answers_lost {
            return;
        }
        let failed = outcome.err();
        self.step(host, Event::Proposed { id, failed });
    }

    fn want(&mut self, host: usize, group: GroupId, want: Want) {
        let process = self.hosts[host].process;
        let (addresses, open) = match &want {
            Want::Absent => (None, None),
            Want::Closed { addresses } => (Some(addresses.clone()), None),
            Want::Open { epoch, addresses } => (Some(addresses.clone()), Some(*epoch)),
            Want::Draining {
                epoch, addresses, ..
            } => (Some(addresses.clone()), Some(*epoch)),
        };
        let one = &mut self.hosts[host];
        let guard = &one.kernel.guard;
        let may = |all: &Vec<ServiceAddress>| all.iter().all(|one| guard.has(one.ip));
        match addresses.filter(may) {
            Some(all) => {
                let ips = all.iter().map(|address| address.ip).collect();
                one.kernel.placed.insert(group, ips);
            }
            None if want == Want::Absent => {
                one.kernel.placed.remove(&group);
            }
            None => {}
        }
        one.announced.insert(group, open.is_some());
        let soon = self.at + self.chance.between(MS / 10, 10 * MS);
        match want {
            Want::Open { epoch, .. } => {
                let done = Happening::Announced {
                    host,
                    process,
                    group,
                    epoch,
                };
                self.plan(soon, done);
            }
            Want::Draining { epoch, drain, .. } => {
                let most = super::recipe::nanos(drain);
                let at = self.at + self.chance.between(MS, most.max(2 * MS));
                let done = Happening::Drained {
                    host,
                    process,
                    group,
                    epoch,
                };
                self.plan(at, done);
            }
            Want::Absent => self.plan(
                soon,
                Happening::Farewell {
                    host,
                    process,
                    group,
                },
            ),
            Want::Closed { .. } => {}
        }
    }

    /// The mover has told the network that the addresses are here.
    pub(super) fn is_announced(&mut self, host: usize, group: GroupId, epoch: Epoch) {
        let role = self.hosts[host]
            .driver_of()
            .and_then(|one| one.node.role(group));
        let same = role.is_some_and(|role| role.epoch() == epoch);
        if same {
            let what = "announced".to_owned();
            let last = true;
            self.step(host, Event::Phase { group, what, last });
        }
    }

    /// The clients of a closing group have been told.
    pub(super) fn end_farewell(&mut self, host: usize, group: GroupId) {
        let driver = self.hosts[host].driver();
        if let Some(assignment) = driver.and_then(|one| one.farewells.remove(&group)) {
            self.order(host, Order::FloorRaised(assignment));
        }
    }
}

// ---- what the engine says ------------------------------------------------------------------

impl World {
    /// One event of the engine reaches the driver.
    pub(super) fn agreed(&mut self, host: usize, event: Agreed) {
        match event {
            Agreed::Appended { epoch, payload } => {
                if let Some(driver) = self.hosts[host].driver() {
                    driver.durable = epoch.index;
                }
                if let Ok(Command::Assign(assign)) = entry::decode(&payload) {
                    self.appended(host, epoch, assign);
                }
            }
            Agreed::Committed { epoch, payload } => {
                if let Ok(command) = entry::decode(&payload) {
                    self.committed(host, epoch, command);
                }
            }
            Agreed::Truncated { since } => {
                let Some(driver) = self.hosts[host].driver() else {
                    return;
                };
                driver.durable = driver.durable.min(since.saturating_sub(1));
                self.seen.truncated += 1;
                self.tell_truncated(host);
            }
            Agreed::Leading { term } => {
                let me = self.hosts[host].id;
                if let Some(driver) = self.hosts[host].driver() {
                    driver.leading_in = term;
                }
                self.step(host, Event::Leader { leader: Some(me) });
            }
            Agreed::Following { leader, .. } => {
                let me = self.hosts[host].id;
                let leader = leader.filter(|leader| *leader != me);
                self.step(host, Event::Leader { leader });
            }
            Agreed::Restored { .. } | Agreed::Missed { .. } => {
                self.restore(host);
                self.greet(host);
                self.consider_voting(host);
                self.step(host, Event::Tick);
            }
            Agreed::DiskFailed { reason } => self.log_fault(host, Some(&reason)),
            Agreed::DiskSlow { .. } | Agreed::DiskQuick { .. } | Agreed::Stopped { .. } => {}
        }
    }

    fn appended(&mut self, host: usize, epoch: Epoch, assign: Assign) {
        let group = assign.group;
        let assignment = Assignment {
            group,
            epoch,
            holder: assign.holder,
            incarnation: assign.incarnation,
        };
        self.guard(host, group, epoch, &assign.addresses);
        let (me, life) = (self.hosts[host].id, self.hosts[host].incarnation);
        let ours = assignment.is_of(me, life);
        let Some(driver) = self.hosts[host].driver() else {
            return;
        };
        let role = driver.node.role(group);
        let open =
            role.is_some_and(|role| role.standing() == Standing::Open && role.epoch() < epoch);
        if open && !ours && assign.evidence.cause.is_planned() {
            driver.farewells.insert(group, assignment);
            let process = self.hosts[host].process;
            let at = self.at + FAREWELL_MAX;
            self.plan(
                at,
                Happening::Farewell {
                    host,
                    process,
                    group,
                },
            );
        } else if !self.faults.floor_at_commit {
            self.order(host, Order::FloorRaised(assignment));
            if self.is_truncated(host, group, epoch) {
                self.order(host, Order::Truncated(group, epoch));
            }
        }
        if self.faults.opens_at_append {
            self.order(host, Order::Committed(group, epoch));
        }
        self.step(host, Event::Appended { epoch, assign });
    }

    fn committed(&mut self, host: usize, epoch: Epoch, command: Command) {
        match &command {
            Command::Assign(assign) if self.is_outdated(host, assign.group, epoch) => {}
            Command::Assign(assign) => {
                let assign = assign.clone();
                self.guard(host, assign.group, epoch, &assign.addresses);
                if self.faults.floor_at_commit {
                    let assignment = Assignment {
                        group: assign.group,
                        epoch,
                        holder: assign.holder,
                        incarnation: assign.incarnation,
                    };
                    self.order(host, Order::FloorRaised(assignment));
                }
                let driver = self.hosts[host].driver();
                if driver.is_some_and(|one| one.generations.may_open()) {
                    self.order(host, Order::Committed(assign.group, epoch));
                }
                self.forgive_at_once(host, epoch, &assign);
            }
            Command::Readmit { node } => {
                let node = *node;
                if let Some(driver) = self.hosts[host].driver() {
                    driver.gate.readmitted(node, Some(epoch));
                }
            }
            Command::Started { .. }
            | Command::Opened(_)
            | Command::Recovered(_)
            | Command::Drain(_)
            | Command::Undrain { .. }
            | Command::Forgive { .. } => {}
        }
        self.step(host, Event::Committed { epoch, command });
        self.greet(host);
        self.consider_voting(host);
        let durable = self.hosts[host].driver_of().map_or(0, |one| one.durable);
        self.step(host, Event::Stored(epoch.index.min(durable)));
    }

    /// A deliberate fault: the leader has a failure forgotten that was agreed on this moment.
    fn forgive_at_once(&mut self, host: usize, epoch: Epoch, assign: &Assign) {
        let leads = self.hosts[host]
            .driver_of()
            .and_then(|one| one.node.leader());
        let leads = leads == Some(self.hosts[host].id);
        let failed = assign.evidence.cause.is_failure();
        let (true, true, true, Some(node)) = (
            self.faults.hold_down_ignored,
            leads,
            failed,
            assign.evidence.from,
        ) else {
            return;
        };
        let command = Command::Forgive {
            group: assign.group,
            node,
            failure: epoch,
        };
        self.propose(host, u64::MAX - epoch.index, command);
    }

    /// Has the addresses of an assignment guarded.
    fn guard(&mut self, host: usize, group: GroupId, epoch: Epoch, all: &[ServiceAddress]) {
        if self.hosts[host].witness {
            return;
        }
        let mut ips: BTreeSet<IpAddr> = all.iter().map(|address| address.ip).collect();
        if self.faults.addresses_from_file {
            let file = self.hosts[host].file;
            let known = self.places[file].groups.get(&group);
            let addresses = known.into_iter().flat_map(|group| &group.addresses);
            ips = addresses.map(|address| address.ip).collect();
        }
        let now = self.hosts[host].now(self.at);
        let guard = &mut self.hosts[host].kernel.guard;
        guard.set_addresses(group, epoch, &ips, now);
        let admitted = guard.admit_waiting(now);
        let all: Vec<IpAddr> = ips.into_iter().chain(admitted).collect();
        let overlap = super::check::s1::opened(&self.hosts, host, &all, self.at);
        self.note(overlap);
    }

    /// Takes the agreed state over as a whole.
    fn restore(&mut self, host: usize) {
        let engine = self.hosts[host]
            .driver_of()
            .and_then(|one| one.engine.clone());
        let Some(engine) = engine else {
            self.order(host, Order::Tell);
            return;
        };
        for floor in engine.floors() {
            if let Some(assignment) = assignment_of(&floor) {
                self.order(host, Order::FloorRaised(assignment));
            }
        }
        let Some(worker) = &self.hosts[host].worker else {
            return;
        };
        let ledger = worker.ledger.copy();
        self.learned(&ledger);
        if let Some(driver) = self.hosts[host].driver() {
            for (node, record) in &ledger.nodes {
                driver.gate.readmitted(*node, record.readmitted);
            }
        }
        let may_open = self.hosts[host].driver_of();
        let may_open = may_open.is_some_and(|one| one.generations.may_open());
        for (group, record) in &ledger.groups {
            if let Some(current) = &record.current
                && !self.is_outdated(host, *group, current.epoch)
            {
                self.guard(host, *group, current.epoch, &ledger.addresses_of(current));
                if may_open {
                    self.order(host, Order::Committed(*group, current.epoch));
                }
            }
        }
        self.step(host, Event::Restored { ledger });
        self.tell_truncated(host);
        self.order(host, Order::Tell);
    }

    /// Whether this node's log has a newer assignment of the group.
    fn is_outdated(&self, host: usize, group: GroupId, epoch: Epoch) -> bool {
        let engine = self.hosts[host].driver_of();
        let engine = engine.and_then(|one| one.engine.as_ref());
        engine.and_then(|engine| engine.floor_of(group)) > Some(epoch)
    }

    /// Which floors are of entries that were truncated.
    fn tell_truncated(&mut self, host: usize) {
        let engine = self.hosts[host].driver_of();
        let Some(engine) = engine.and_then(|one| one.engine.clone()) else {
            return;
        };
        for floor in engine.floors() {
            if self.is_truncated(host, floor.group, floor.epoch) {
                self.order(host, Order::Truncated(floor.group, floor.epoch));
            }
        }
    }

    fn is_truncated(&self, host: usize, group: GroupId, epoch: Epoch) -> bool {
        let engine = self.hosts[host].driver_of();
        let engine = engine.and_then(|one| one.engine.as_ref());
        let (Some(engine), Some(worker)) = (engine, &self.hosts[host].worker) else {
            return false;
        };
        let decided = |ledger: &Ledger| ledger.current(group).map(|one| one.epoch);
        !engine.has_entry(epoch) && worker.ledger.with(decided) < Some(epoch)
    }

    fn log_fault(&mut self, host: usize, reason: Option<&str>) {
        let fault = reason.map(|reason| format!("its log cannot be written: {reason}"));
        self.step(host, Event::Log { fault });
    }

    /// The engine has stopped. Leases go on without it; it is tried again.
    pub(super) fn lose_engine(&mut self, host: usize) {
        self.wires.answer_by(host, None);
        let Some(driver) = self.hosts[host].driver() else {
            return;
        };
        if let Some(engine) = driver.engine.take() {
            drop(virtual_time::spawn(engine.shutdown()));
        }
        self.consider_voting(host);
        self.step(host, Event::Leader { leader: None });
        self.pause_engine(host);
    }

    fn pause_engine(&mut self, host: usize) {
        let now = self.hosts[host].now(self.at);
        if let Some(driver) = self.hosts[host].driver() {
            driver.engine_at = Some(now + ENGINE_PAUSE);
            driver.starting = false;
        }
    }

    fn regain_engine(&mut self, host: usize, engine: Engine<Virtual>) {
        let Some(driver) = self.hosts[host].driver() else {
            return;
        };
        driver.starting = false;
        driver.engine = Some(engine);
        driver.durable = 0;
        (driver.voting.may, driver.voting.taken) = (false, None);
        driver.voting.again_at = Moment::ZERO;
        self.log_fault(host, None);
        self.restore(host);
        self.consider_voting(host);
        self.greet(host);
    }
}

// ---- peers, the lease thread, time ---------------------------------------------------------

impl World {
    /// A connection came up, and its other end said hello.
    pub(super) fn connected(&mut self, host: usize, hello: &Hello) {
        let now = self.hosts[host].now(self.at);
        let (me, life) = (self.hosts[host].id, self.hosts[host].incarnation);
        let past = self.hosts[host].state.lives.clone();
        let never = self.hosts[host].state.oaths.is_empty();
        let Some(driver) = self.hosts[host].driver() else {
            return;
        };
        let from = hello.node;
        driver
            .generations
            .greeted(now, from, hello.generation, hello.settled);
        if hello.last_log_index != LOG_UNREAD {
            let mut lives = hello.knows.iter();
            let may_have_voted =
                |known: Incarnation| known != life && !(never && past.contains(&known));
            let greeting = Greeting {
                knows_earlier_life: lives
                    .any(|(node, known)| *node == me && may_have_voted(*known)),
                has_log: hello.last_log_index > 0,
            };
            driver.voting.suffrage.greeted(from, greeting);
        }
        self.consider_voting(host);
    }

    /// A report arrives.
    pub(super) fn told(&mut self, host: usize, from: usize, bytes: &[u8]) {
        let now = self.hosts[host].now(self.at);
        let from = self.hosts[from].id;
        let Ok(report) = report::decode(bytes) else {
            return;
        };
        if let Some(driver) = self.hosts[host].driver() {
            driver.gate.heard(now, from, &report);
            driver.generations.reported(now, from, report.generation);
        }
        self.step(host, Event::Reported { from, report });
    }

    /// The lease thread's word arrives.
    pub(super) fn leased(&mut self, host: usize, told: Told) {
        let event = match told {
            Told::Silences(silences) => Some(Event::Silences(silences)),
            Told::State(group, status) => event_of(group, &status),
            Told::All => {
                self.services_told(host);
                None
            }
            Told::Event(event) => decision_of(event),
        };
        if let Some(event) = event {
            self.step(host, event);
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, host: usize) {
        let now = self.hosts[host].now(self.at);
        self.mind_generations(host);
        let owes = self.hosts[host].driver_of();
        if owes.is_some_and(|one| one.voting.owes_oath()) {
            self.consider_voting(host);
        }
        let due = self.hosts[host].driver_of().and_then(|one| one.engine_at);
        let starting = self.hosts[host].driver_of().is_some_and(|one| one.starting);
        if due.is_some_and(|due| now >= due) && !starting {
            if let Some(driver) = self.hosts[host].driver() {
                (driver.starting, driver.engine_at) = (true, None);
            }
            self.start_engine(host);
        }
        self.step(host, Event::Tick);
        let admitted = self.hosts[host].kernel.guard.admit_waiting(now);
        let overlap = super::check::s1::opened(&self.hosts, host, &admitted, self.at);
        self.note(overlap);
        if self.may_end(host, now) {
            self.leave(host);
            return;
        }
        let process = self.hosts[host].process;
        let late = self.chance.below(self.recipe.late_max);
        let at = self.at + TICK + late;
        self.plan(at, Happening::Ticks { host, process });
    }

    /// The daemon is told to stop.
    pub(super) fn stop(&mut self, host: usize) {
        let now = self.hosts[host].now(self.at);
        self.hosts[host].stopping = true;
        if let Some(driver) = self.hosts[host].driver() {
            driver.stop_by = Some(now + HANDOVER_MAX);
        }
        self.step(host, Event::Stop);
    }

    fn may_end(&self, host: usize, now: Moment) -> bool {
        let driver = self.hosts[host].driver_of();
        driver.is_some_and(|driver| {
            let by = driver.stop_by;
            by.is_some_and(|by| driver.node.may_stop() || now >= by)
        })
    }

    /// Closes what is left, and ends.
    fn leave(&mut self, host: usize) {
        let groups = self.own_groups(host);
        for group in groups {
            self.turn(host, super::thread::Input::Order(Order::Release(group)));
        }
        // It may have been killed on the way.
        if self.hosts[host].worker.is_none() {
            return;
        }
        self.tell(|| Line::node(host, "stopped"));
        self.hosts[host].kernel.placed.clear();
        self.end_worker(host);
    }

    /// The groups that a node may hold.
    pub(super) fn own_groups(&self, host: usize) -> Vec<GroupId> {
        let (id, file) = (self.hosts[host].id, self.hosts[host].file);
        let groups = self.places[file].groups.values();
        groups
            .filter(|group| group.nodes.contains(&id))
            .map(|group| group.id)
            .collect()
    }
}

fn decision_of(event: Leased) -> Option<Event> {
    match event {
        Leased::Opened { group, epoch, .. } | Leased::Resumed { group, epoch, .. } => {
            Some(Event::Opened { group, epoch })
        }
        Leased::Lapsed { group, epoch, .. } => Some(Event::Lapsed { group, epoch }),
        Leased::Released { group, epoch } | Leased::Lost { group, epoch, .. } => {
            Some(Event::Released { group, epoch })
        }
        Leased::FloorAbove { group, floor, .. } => Some(Event::FloorAbove { group, floor }),
        Leased::Refused { .. }
        | Leased::NoRoom { .. }
        | Leased::Opening { .. }
        | Leased::Abandoned { .. } => None,
    }
}

// ---- generations and the right to vote -----------------------------------------------------

impl World {
    fn mind_generations(&mut self, host: usize) {
        let now = self.hosts[host].now(self.at);
        let Some(driver) = self.hosts[host].driver() else {
            return;
        };
        let members = driver.engine.as_ref().map_or(Members::Unknown, members_of);
        // Of the growth after a recovery nothing is seen with one generation.
        let facts = Facts {
            members,
            leads: false,
            caught_up: BTreeSet::new(),
            serving: false,
        };
        let mut settled = false;
        while let Some(step) = driver.generations.step(now, &facts) {
            settled |= matches!(step, Step::Settle(_));
        }
        let voters = driver.generations.deciders();
        let deciders = Some((0, voters.clone()));
        let news = driver.told_deciders != deciders;
        driver.told_deciders = deciders;
        let may_open = driver.generations.may_open();
        let opens = may_open != driver.may_open;
        driver.may_open = may_open;
        if settled {
            if let Some(memory) = &mut self.hosts[host].kernel.memory {
                memory.settled = true;
            }
            self.consider_voting(host);
            self.greet(host);
        }
        if news {
            let generation = 0;
            self.step(host, Event::Deciders { generation, voters });
            self.greet(host);
        }
        if opens {
            for group in self.own_groups(host) {
                self.tell_readiness_of(host, group);
            }
            self.restore(host);
        }
    }

    /// What new connections hear of this node.
    pub(super) fn greet(&mut self, host: usize) {
        let lost = self.has_lost_log(host);
        let ledger = self.hosts[host]
            .worker
            .as_ref()
            .map(|one| one.ledger.clone());
        let (Some(ledger), Some(driver)) = (ledger, self.hosts[host].driver()) else {
            return;
        };
        driver.hello.knows = ledger.with(|ledger| {
            let lives = ledger.nodes.iter();
            lives
                .filter_map(|(node, record)| Some((*node, record.incarnation?)))
                .collect()
        });
        driver.hello.applied = ledger.with(|ledger| ledger.applied);
        driver.hello.settled = driver.generations.settled();
        driver.hello.last_log_index = match &driver.engine {
            Some(engine) if !lost => engine.status().last_index.unwrap_or(0),
            Some(_) | None => LOG_UNREAD,
        };
    }

    fn has_lost_log(&self, host: usize) -> bool {
        let engine = self.hosts[host]
            .driver_of()
            .and_then(|one| one.engine.as_ref());
        let remembers = engine.is_some_and(|engine| engine.status().remembers);
        !self.hosts[host].state.oaths.is_empty() && !remembers
    }

    /// Votes as soon as it may.
    pub(super) fn consider_voting(&mut self, host: usize) {
        let engine = self.hosts[host]
            .driver_of()
            .and_then(|one| one.engine.clone());
        let status = engine.as_ref().map(Engine::status);
        let borne = status.filter(|status| status.remembers);
        let borne = borne.and_then(|status| status.oath);
        let begins = engine.is_some() && self.may_begin_to_vote(host);
        let noted = self.hosts[host].state.oaths.clone();
        let Some(driver) = self.hosts[host].driver() else {
            return;
        };
        driver.voting.may |= borne.is_some() || begins;
        let sworn = borne.is_some_and(|borne| noted.contains(&borne));
        if driver.voting.owes_oath() {
            self.swear(host, borne);
        }
        let Some(driver) = self.hosts[host].driver() else {
            return;
        };
        let votes = driver.voting.may && sworn && driver.generations.settled();
        if let Some(engine) = &engine {
            engine.set_voting(votes);
        }
        let news = driver.voting.told != votes;
        driver.voting.told = votes;
        if votes {
            let readmission = self.readmission(host);
            if let Some(memory) = &mut self.hosts[host].kernel.memory {
                memory.voted = Some(readmission);
            }
        }
        if news {
            if votes {
                self.order(host, Order::Recall);
            }
            self.step(host, Event::Votes(votes));
        }
    }

    fn readmission(&self, host: usize) -> Epoch {
        let one = &self.hosts[host];
        let Some(worker) = &one.worker else {
            return Epoch::NONE;
        };
        let readmission = worker
            .ledger
            .with(|ledger| ledger.readmission(one.id, one.incarnation));
        readmission.unwrap_or(Epoch::NONE)
    }

    fn may_begin_to_vote(&self, host: usize) -> bool {
        if self.faults.votes_after_amnesia {
            return true;
        }
        let one = &self.hosts[host];
        let used = one.kernel.memory.as_ref().and_then(|memory| memory.voted);
        let readmitted = self.readmission(host) > used.unwrap_or(Epoch::NONE);
        let Some(driver) = one.driver_of() else {
            return false;
        };
        let is_new = one.state.oaths.is_empty()
            && used.is_none()
            && driver.generations.settled()
            && driver.voting.suffrage.is_new();
        readmitted || is_new
    }

    fn swear(&mut self, host: usize, bears: Option<u64>) {
        let now = self.hosts[host].now(self.at);
        // Neither of the two numbers that mean something else.
        let number = self.chance.next().clamp(1, u64::MAX - 1);
        let (process, inbox) = (self.hosts[host].process, self.inbox.clone());
        let first = self.hosts[host].state.oaths.first().copied();
        let Some(driver) = self.hosts[host].driver() else {
            return;
        };
        let engine = driver.engine.clone();
        let Some(engine) = engine.filter(|_| now >= driver.voting.again_at) else {
            return;
        };
        driver.voting.swearing = true;
        driver.voting.again_at = now + ENGINE_PAUSE;
        if let Some(former) = bears.or(first) {
            self.hosts[host].state.oaths = vec![former, number];
        }
        drop(virtual_time::spawn(async move {
            let sworn = engine.swear(number).await;
            let sworn = sworn.map(|()| number).map_err(|error| error.to_string());
            inbox.put(Letter {
                host,
                process,
                news: News::Sworn(sworn),
            });
        }));
    }

    /// The oath was taken, or could not be.
    pub(super) fn sworn(&mut self, host: usize, taken: Result<u64, String>) {
        let Some(driver) = self.hosts[host].driver() else {
            return;
        };
        driver.voting.swearing = false;
        match taken {
            Ok(number) => {
                driver.voting.taken = Some(number);
                self.hosts[host].state.oaths = vec![number];
                self.consider_voting(host);
                self.greet(host);
            }
            Err(_) => {
                if self.hosts[host].driver_of().is_some_and(Driver::has_engine) {
                    self.lose_engine(host);
                }
            }
        }
    }

    /// Tells the decision machine whether this node could take a group, if that is news.
    pub(super) fn tell_readiness_of(&mut self, host: usize, group: GroupId) {
        let unready = self.hosts[host].services.unready(group);
        let Some(driver) = self.hosts[host].driver() else {
            return;
        };
        let vote = (!driver.generations.may_open()).then(|| NO_VOTE.to_owned());
        let unready = vote.or(unready);
        if driver.readiness.get(&group) != Some(&unready) {
            driver.readiness.insert(group, unready.clone());
            self.step(host, Event::Readiness { group, unready });
        }
    }
}
