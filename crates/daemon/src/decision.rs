//! The decision thread: feeds the decision machine with what happens and carries out
//! what it wants. Real-time, one step below the lease thread; no rule of its own.
//!
//! ```text
//!   engine, peers, lease thread, mover, guard, checks, operators
//!        └──────────────▶ Node::step ──▶ acts ──▶ the same
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use evenkeel_checks::Verdict;
use evenkeel_consensus::{Engine, Event as Agreed};
use evenkeel_console::api::v1::{Answer, Request as Asked};
use evenkeel_core::command::{Assign, Command};
use evenkeel_core::generation::Generations;
use evenkeel_core::health::Standing;
use evenkeel_core::lease::{Assignment, Event as Leased};
use evenkeel_core::ledger::Ledger;
use evenkeel_core::node::{Act, Event};
use evenkeel_core::policy::Wish;
use evenkeel_core::role::Want;
use evenkeel_core::story::Loudness;
use evenkeel_core::topology::ServiceAddress;
use evenkeel_core::{Epoch, GroupId, GroupName, Incarnation, Moment, NodeId, NodeName};
use evenkeel_host::clock;
use evenkeel_host::lateness::Canary;
use evenkeel_host::logind::Seen;
use evenkeel_services::Report as Service;
use evenkeel_traffic::{Mover, Report as Traffic, Want as OnWire};
use evenkeel_transport::{Endpoint, Incoming, Message, PeerEvent, RefusedBy, Request, Responder};
use evenkeel_wire::v1::hello::{Hello, LOG_UNREAD};
use evenkeel_wire::v1::{entry, report};
use ring::rand::SecureRandom;
use tokio::sync::{mpsc, oneshot};

use crate::agreement::{SharedLedger, assignment_of};
use crate::checks::{self, Resting};
use crate::flight::Recorded;
use crate::flows::FlowCarrier;
use crate::generations::{Changed, LogPlace, Pending, close};
use crate::guarded::Guarded;
use crate::keeper::{KeeperNews, KeeperThread};
use crate::lease::{LeaseThread, News, Order, event_of};
use crate::line::WorkerEnd;
use crate::mirror::Memory;
use crate::peers::{ASK, FLOWS, Gate, RAFT, REPORT};
use crate::services::Running;
use crate::shutdown;
use crate::status::{self, Beside};
use crate::voting::{NoOath, Voting};

/// Real-time priority: below the lease thread.
pub const PRIORITY: u8 = 20;
/// How long a closing holder may take to tell its clients before its guard closes.
pub(crate) const FAREWELL_MAX: Duration = Duration::from_millis(10);
/// How long the last addresses may take to leave when the daemon ends.
const LEAVE_MAX: Duration = Duration::from_secs(2);
/// How long a question to the leader may take: longer than its own patience.
pub(crate) const ASK_PATIENCE: Duration = Duration::from_secs(12);
/// How often time is let pass for what only waits: reports are repeated and grow old,
/// hold-downs end, in steps of this. Silences, verdicts and reports come by themselves.
const TICK: Duration = Duration::from_millis(50);
/// Changes of the lateness of ordinary work below this are noise.
const LATENESS_STEP: Duration = Duration::from_millis(5);
/// How long after its start a worker without a reserve is worth a word: the first reserve is
/// started half a second after it, and one that fails is tried again.
const RESERVE_MISSED: Duration = Duration::from_secs(5);
/// Operators' questions that may wait.
pub const QUESTIONS_MAX: usize = 64;
/// Answers of tasks that may wait.
const ANSWERS_MAX: usize = 1024;

/// An operator's question and where its answer goes.
pub type Question = (Asked, oneshot::Sender<Answer>);

/// Where the outcome of a wish goes.
pub(crate) enum Waiting {
    Here(oneshot::Sender<Answer>),
    There(Responder),
}

impl Waiting {
    /// Tells it.
    pub(crate) fn answer(self, answer: Answer) {
        match self {
            Self::Here(sender) => {
                // The operator may have gone.
                let _ = sender.send(answer);
            }
            Self::There(responder) => responder.send(as_json(&answer)),
        }
    }
}

/// Where everything comes from.
pub struct Sources {
    /// The engine; none while its disk has failed.
    pub agreed: Option<evenkeel_consensus::Events>,
    /// The peers.
    pub incoming: Incoming,
    /// The lease thread.
    pub news: mpsc::Receiver<News>,
    /// The mover.
    pub traffic: mpsc::Receiver<Traffic>,
    /// What runs with the groups.
    pub services: mpsc::Receiver<Service>,
    /// The guard's keeper.
    pub guard: mpsc::UnboundedReceiver<KeeperNews>,
    /// The checks.
    pub verdicts: mpsc::Receiver<Verdict>,
    /// Operators.
    pub questions: mpsc::Receiver<Question>,
    /// Told to stop.
    pub stop: oneshot::Receiver<()>,
    /// A shutdown of the machine.
    pub machine: shutdown::Machine,
}

/// Where everything goes.
pub struct Driver {
    /// The decision machine, on record.
    pub node: Recorded,
    /// This node.
    pub me: NodeId,
    /// This life.
    pub incarnation: Incarnation,
    /// Digest of the configuration.
    pub config_digest: u64,
    /// The lease thread.
    pub lease: LeaseThread,
    /// The engine; none while its disk has failed.
    pub engine: Option<Arc<Engine>>,
    /// Starts the engine again.
    pub restart: Restart,
    /// The engine's first start, if that is still under way.
    pub late: Option<oneshot::Receiver<Started>>,
    /// The transport.
    pub endpoint: Endpoint,
    /// The mover; a witness has none.
    pub mover: Option<Mover>,
    /// What runs with the groups; none where nothing does.
    pub(crate) services: Option<Running>,
    /// Clients' connections; a witness has none.
    pub flows: Option<FlowCarrier>,
    /// The guard's keeper; a witness has none.
    pub keeper: Option<KeeperThread>,
    /// Who is let in.
    pub gate: Gate,
    /// The agreed state as the engine drives it.
    pub ledger: SharedLedger,
    /// What this node says of itself, without what it knows of others.
    pub hello: Hello,
    /// Which addresses the mover has for each group.
    pub placed: BTreeMap<GroupId, Vec<ServiceAddress>>,
    /// What people should know from the start.
    pub advice: Vec<String>,
    /// How late ordinary work runs here.
    pub canary: Canary,
    /// Which generation of the log counts, and whether this life takes part in it.
    pub generations: Generations,
    /// Where the log is.
    pub place: LogPlace,
    /// What outlives the worker.
    pub memory: Memory,
    /// A change of generation under way.
    pub(crate) pending: Pending,
    /// What the decision machine was told of who decides.
    pub(crate) told_deciders: Option<(u64, BTreeSet<NodeId>)>,
    /// Whether this node votes.
    pub(crate) voting: Voting,
    /// Groups whose new connections the guard was asked to hold.
    pub(crate) held: BTreeSet<GroupId>,
    /// When clients of a group were let go last.
    pub(crate) let_go_at: Option<Moment>,
    /// The way to the parent.
    pub(crate) line: Arc<WorkerEnd>,
    /// A shutdown of the machine.
    pub(crate) shutdown: shutdown::Shutdown,
    /// Which addresses the guard certainly has.
    pub(crate) guarded: Guarded,
    /// Checks that are asked only where their group is open.
    resting: Resting,
    up_since: Moment,
    books: Books,
}

/// What the driver itself has to remember.
#[derive(Default)]
struct Books {
    waiting: BTreeMap<u64, Waiting>,
    next_wish: u64,
    notes: BTreeMap<NodeId, String>,
    farewells: BTreeMap<GroupId, (Assignment, Moment)>,
    stop_by: Option<Moment>,
    /// Until when what runs here is waited for, once nothing is held here any more.
    rest_by: Option<Moment>,
    /// Why this node could take no group at all.
    unready: Option<String>,
    /// What was said of each group.
    readiness: BTreeMap<GroupId, Option<String>>,
    lateness: Duration,
    hello_said: Bytes,
    /// Index of the last entry that is on disk, as far as was told.
    durable: u64,
    /// The term in which this node led last, as far as the decision machine was told.
    leading_in: u64,
    /// The log's disk has not answered for too long.
    disk_hangs: bool,
}

/// A started engine and its events, or why it did not start.
pub type Started = Result<(Engine, evenkeel_consensus::Events), String>;

/// Starts an engine on this node's log. It does not vote before it is told to.
pub type Restart = Arc<dyn Fn() -> evenkeel_consensus::BoxFuture<Started> + Send + Sync>;

/// A write of the log that has not been done for so long: its disk hangs. A slow one, which only
/// leads no more, is quicker.
const DISK_HANGS: Duration = Duration::from_secs(1);
/// One that takes less does not hang.
const DISK_ANSWERS: Duration = Duration::from_millis(100);
const NO_ANSWER: &str = "its disk does not answer";

/// How long a failed disk is left alone before the engine is tried again.
pub(crate) const ENGINE_PAUSE: Duration = Duration::from_secs(2);
/// How often a stopping engine is looked at.
pub(crate) const ENGINE_LOOK: Duration = Duration::from_millis(50);

/// What a task brings back.
pub(crate) enum Brought {
    Proposed { id: u64, failed: Option<String> },
    Engine(Started),
    Changed(Changed),
    Sworn(Result<u64, NoOath>),
}

enum Input {
    Agreed(Agreed),
    Peer(PeerEvent),
    Asked(Request),
    Told(Message),
    Lease(News),
    Traffic(Traffic),
    Service(Service),
    Guard(KeeperNews),
    Verdicts(Vec<Verdict>),
    Question(Question),
    Brought(Brought),
    Stop,
    Machine(Seen),
    Tick,
    /// The engine has stopped: its disk has failed.
    EngineEnded,
    /// A source has ended: this process cannot go on.
    Ended(&'static str),
}

/// How the driver ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to stop, and has.
    Stopped,
    /// A part of the process is gone.
    Broken(&'static str),
}

/// The calendar in milliseconds: for people only.
pub(crate) fn wall_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

impl Driver {
    /// A driver that remembers nothing yet.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one of the rooms, named once, here"
    )]
    pub fn new(
        node: Recorded,
        me: NodeId,
        incarnation: Incarnation,
        config_digest: u64,
        lease: LeaseThread,
        engine: Option<Arc<Engine>>,
        endpoint: Endpoint,
        rooms: Rooms,
    ) -> Self {
        let Rooms {
            restart,
            late,
            mover,
            services,
            flows,
            keeper,
            gate,
            ledger,
            hello,
            placed,
            advice,
            canary,
            generations,
            place,
            state,
            memory,
            line,
            shutdown,
            guarded,
            resting,
        } = rooms;
        let voters = node.topology().voters().map(|voter| voter.id).collect();
        let voting = Voting::new(&state, me, voters);
        Self {
            node,
            me,
            incarnation,
            config_digest,
            lease,
            engine,
            restart,
            late,
            endpoint,
            mover,
            services,
            flows,
            keeper,
            gate,
            ledger,
            hello,
            placed,
            advice,
            canary,
            generations,
            place,
            memory,
            pending: Pending::default(),
            told_deciders: None,
            voting,
            held: BTreeSet::new(),
            let_go_at: None,
            line: Arc::new(line),
            shutdown,
            guarded,
            resting,
            up_since: clock::now(),
            books: Books::default(),
        }
    }

    /// Runs until told to stop.
    pub async fn run(mut self, mut sources: Sources) -> End {
        let (bring, mut brought) = mpsc::channel(ANSWERS_MAX);
        let mut ticked = clock::now();
        self.mind_generations(&bring);
        match self.memory.again() {
            Ok(memory) => self.close_removed(&mut sources, &memory).await,
            // A group that is gone from the file may be open, and its address given away.
            Err(error) => {
                tracing::error!(%error, "failed to look at what is held here");
                return End::Broken("memory");
            }
        }
        // Before it votes, the lease thread must have its floors.
        self.restore();
        self.consider_voting(&bring);
        self.greet();
        // Not before it knows what to say of itself.
        self.endpoint.begin();
        self.memory.set_serving();
        self.begin_without_log(&bring);
        let mut stop_heard = false;
        loop {
            let due = self.next_tick(ticked);
            let input = next(&mut sources, &mut brought, due, stop_heard).await;
            match input {
                Input::Ended(what) => return End::Broken(what),
                Input::EngineEnded => {
                    sources.agreed = None;
                    // Otherwise it was ended on purpose, and another follows.
                    if !self.generations.changing() && self.engine.is_some() {
                        self.lose_engine(&bring);
                    }
                }
                // What the old log still had to say is void.
                Input::Agreed(_) if self.generations.changing() => {}
                Input::Brought(Brought::Changed(changed)) => {
                    if let Some(agreed) = self.changed(changed, &bring) {
                        sources.agreed = Some(agreed);
                    }
                }
                Input::Brought(Brought::Engine(started)) => {
                    sources.agreed = self.regain_engine(started, &bring);
                }
                Input::Stop => {
                    stop_heard = true;
                    self.books.stop_by = Some(clock::now() + self.handover_patience());
                    tracing::info!("told to stop: handing over");
                    self.step(Event::Stop, &bring);
                }
                Input::Tick => {
                    ticked = clock::now();
                    self.tick(&bring);
                    let answers = self.disk_answers();
                    self.node.mind(ticked, wall_ms(), answers);
                    if self.may_end() {
                        self.leave(&mut sources).await;
                        return End::Stopped;
                    }
                }
                other => self.take(other, &bring),
            }
            self.tell_services();
        }
    }

    fn take(&mut self, input: Input, bring: &mpsc::Sender<Brought>) {
        match input {
            Input::Agreed(event) => self.agreed(event, bring),
            Input::Peer(event) => self.peer(event, bring),
            Input::Asked(request) => self.asked(request, bring),
            Input::Told(message) => self.told(&message, bring),
            Input::Lease(news) => self.leased(news, bring),
            Input::Traffic(report) => self.traffic(report, bring),
            Input::Service(report) => self.served(report, bring),
            Input::Guard(news) => self.kept(news, bring),
            Input::Verdicts(verdicts) => {
                let events = verdicts.into_iter().map(checks::event_of).collect();
                self.node.step_all(clock::now(), events, wall_ms());
                self.carry_out(bring);
            }
            Input::Question((asked, answer)) => self.question(asked, answer, bring),
            Input::Machine(seen) => self.machine(seen, bring),
            Input::Brought(Brought::Proposed { id, failed }) => {
                self.step(Event::Proposed { id, failed }, bring);
            }
            Input::Brought(Brought::Sworn(sworn)) => self.sworn(sworn, bring),
            Input::Brought(Brought::Engine(_) | Brought::Changed(_))
            | Input::EngineEnded
            | Input::Stop
            | Input::Tick
            | Input::Ended(_) => {}
        }
    }

    pub(crate) fn step(&mut self, event: Event, bring: &mpsc::Sender<Brought>) {
        self.node.step(clock::now(), event, wall_ms());
        self.carry_out(bring);
    }

    fn carry_out(&mut self, bring: &mpsc::Sender<Brought>) {
        while let Some(act) = self.node.poll() {
            self.act(act, bring);
        }
        self.resting.mind(&self.node);
    }

    fn act(&mut self, act: Act, bring: &mpsc::Sender<Brought>) {
        match act {
            Act::Propose { id, command } => self.propose(id, &command, bring),
            Act::Tell(report) => {
                let body = Bytes::from(report::encode(&report));
                let others: Vec<NodeId> = self.endpoint.up();
                for peer in others {
                    // Who is not connected will hear the next one.
                    let _ = self.endpoint.send(peer, REPORT, body.clone());
                }
            }
            Act::Want { group, want } => self.want(group, want),
            Act::Run { group, run } => self.run_group(group, run),
            Act::Abandon { group, epoch } => self.lease.order(Order::Abandon(group, epoch)),
            Act::Reply { id, outcome } => self.reply(id, outcome),
            Act::Transfer { to } => {
                let Some(engine) = self.engine.clone() else {
                    return;
                };
                tokio::spawn(async move {
                    if let Err(error) = engine.transfer(to).await {
                        tracing::info!(%error, "leadership was not handed over");
                    }
                });
            }
            Act::Say(said) => {
                let text = said.text(self.node.topology());
                match said.loudness() {
                    Loudness::Info => tracing::info!("{text}"),
                    Loudness::Warning => tracing::warn!("{text}"),
                }
            }
        }
    }

    fn propose(&self, id: u64, command: &Command, bring: &mpsc::Sender<Brought>) {
        let payload = entry::encode(command);
        let request = (u128::from(self.incarnation.nonce) << 64) | u128::from(id);
        let engine = self.engine.clone();
        let bring = bring.clone();
        // An assignment follows from what this node knows as the leader of its term. What other
        // entries say is true whoever leads.
        let term = matches!(command, Command::Assign(_)).then_some(self.books.leading_in);
        tokio::spawn(async move {
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
            let failed = outcome.err();
            // The driver has ended: nobody asks any more.
            let _ = bring.send(Brought::Proposed { id, failed }).await;
        });
    }

    fn want(&mut self, group: GroupId, want: Want) {
        self.stop_holding(group, &want);
        let Some(mover) = &self.mover else { return };
        if let Some(flows) = &self.flows {
            flows.want(group, &want);
        }
        let (addresses, want) = match want {
            Want::Absent => (None, OnWire::Absent),
            Want::Closed { addresses } => (Some(addresses), OnWire::Closed),
            Want::Open { epoch, addresses } => (Some(addresses), OnWire::Open { epoch }),
            Want::Draining {
                epoch,
                addresses,
                drain,
            } => (Some(addresses), OnWire::Draining { epoch, drain }),
        };
        if let Some(addresses) = addresses
            && self.placed.get(&group) != Some(&addresses)
            && self.may_place(&addresses)
        {
            match mover.assign(group, &addresses) {
                Ok(()) => {
                    self.placed.insert(group, addresses);
                }
                Err(error) => {
                    tracing::error!(%error, "failed to place the addresses of an assignment");
                }
            }
        }
        mover.want(group, want);
    }

    pub(crate) fn reply(&mut self, id: u64, outcome: Result<String, String>) {
        let answer = match outcome {
            Ok(text) => Answer::Done(text),
            Err(reason) => Answer::Refused(reason),
        };
        if let Some(waiting) = self.books.waiting.remove(&id) {
            waiting.answer(answer);
        }
    }

    fn agreed(&mut self, event: Agreed, bring: &mpsc::Sender<Brought>) {
        match event {
            Agreed::Appended { epoch, payload } => {
                self.books.durable = epoch.index;
                if let Ok(Command::Assign(assign)) = entry::decode(&payload) {
                    self.appended(epoch, assign, bring);
                }
            }
            Agreed::Committed { epoch, payload } => match entry::decode(&payload) {
                Ok(command) => self.committed(epoch, command, bring),
                Err(error) => tracing::error!(%error, "an agreed entry cannot be read"),
            },
            Agreed::Truncated { since } => {
                self.books.durable = self.books.durable.min(since.saturating_sub(1));
                self.tell_truncated();
            }
            Agreed::Leading { term } => {
                self.books.leading_in = term;
                let leader = Some(self.me);
                self.step(Event::Leader { leader }, bring);
            }
            Agreed::Following { leader, .. } => {
                let leader = leader.filter(|leader| *leader != self.me);
                self.step(Event::Leader { leader }, bring);
            }
            Agreed::Restored { .. } | Agreed::Missed { .. } => {
                self.restore();
                self.greet();
                self.consider_voting(bring);
                self.step(Event::Tick, bring);
            }
            Agreed::DiskSlow { waiting } => tracing::warn!(
                ms = waiting.as_millis(),
                "the log's disk is slow: this node does not lead until it is quick again"
            ),
            Agreed::DiskFailed { reason } => {
                tracing::error!(
                    reason,
                    "the log's disk has failed: this node cannot vote on changes"
                );
                self.log_fault(Some(&reason), bring);
            }
            Agreed::DiskQuick { took } => {
                tracing::info!(ms = took.as_millis(), "the log's disk is quick again");
            }
            Agreed::Stopped { reason } => tracing::error!(reason, "the engine has stopped"),
        }
    }

    /// Its log could not be opened at the start: that is still under way, or tried again.
    fn begin_without_log(&mut self, bring: &mpsc::Sender<Brought>) {
        if self.engine.is_some() {
            return;
        }
        let Some(late) = self.late.take() else {
            self.log_fault(Some("it could not be opened"), bring);
            self.lose_engine(bring);
            return;
        };
        self.log_fault(Some(NO_ANSWER), bring);
        let bring = bring.clone();
        tokio::spawn(async move {
            let started = late.await;
            let started = started.unwrap_or_else(|_| Err("its thread has died".to_owned()));
            // The driver has ended: nobody wants it any more.
            let _ = bring.send(Brought::Engine(started)).await;
        });
    }

    /// Whether the log's disk takes what it is given.
    fn disk_answers(&self) -> bool {
        let engine = self.engine.as_ref();
        let waiting = engine.and_then(|engine| engine.disk_waiting());
        engine.is_some() && waiting.is_none_or(|waiting| waiting < DISK_ANSWERS)
    }

    /// A disk that hangs tells nobody so: this node takes nothing over until it answers.
    fn mind_disk(&mut self, bring: &mpsc::Sender<Brought>) {
        let waiting = self
            .engine
            .as_ref()
            .and_then(|engine| engine.disk_waiting());
        let hangs = waiting.is_some_and(|waiting| waiting >= DISK_HANGS);
        if hangs != self.books.disk_hangs && self.engine.is_some() {
            self.books.disk_hangs = hangs;
            self.log_fault(hangs.then_some(NO_ANSWER), bring);
        }
    }

    /// The engine has stopped. Leases go on without it (DESIGN 3.1 rule 11): voters
    /// renew what they renewed. It is tried again until its disk is well.
    pub(crate) fn lose_engine(&mut self, bring: &mpsc::Sender<Brought>) {
        let old = self.engine.take();
        self.books.disk_hangs = false;
        self.consider_voting(bring);
        self.step(Event::Leader { leader: None }, bring);
        let (restart, bring) = (Arc::clone(&self.restart), bring.clone());
        tokio::spawn(async move {
            close(old).await;
            tokio::time::sleep(ENGINE_PAUSE).await;
            // The driver has ended: nobody wants it any more.
            let _ = bring.send(Brought::Engine(restart().await)).await;
        });
    }

    pub(crate) fn regain_engine(
        &mut self,
        started: Started,
        bring: &mpsc::Sender<Brought>,
    ) -> Option<evenkeel_consensus::Events> {
        match started {
            Ok((engine, agreed)) => {
                tracing::info!("the log can be written");
                self.voting.reopened();
                // What of it is on disk shows when more is appended.
                self.books.durable = 0;
                self.engine = Some(Arc::new(engine));
                self.log_fault(None, bring);
                let unready = self.unready();
                self.readiness(&unready, bring);
                self.restore();
                self.consider_voting(bring);
                self.greet();
                Some(agreed)
            }
            Err(reason) => {
                self.log_fault(Some(&reason), bring);
                self.lose_engine(bring);
                None
            }
        }
    }

    /// Takes the agreed state over as a whole: at the start, after a snapshot, and when
    /// events were missed.
    pub(crate) fn restore(&mut self) {
        let floors = self
            .engine
            .as_ref()
            .map_or_else(Vec::new, |engine| engine.floors());
        for floor in floors {
            if let Some(assignment) = assignment_of(&floor) {
                self.lease.order(Order::FloorRaised(assignment));
                self.give_back_unknown(&assignment);
            }
        }
        if self.engine.is_none() {
            // What is held here shows without the log as well.
            self.lease.order(Order::Tell);
            return;
        }
        let ledger = self.ledger.copy();
        for (node, record) in &ledger.nodes {
            self.gate.readmitted(*node, record.readmitted);
        }
        for (group, record) in &ledger.groups {
            if let Some(current) = &record.current
                && !self.is_outdated(*group, current.epoch)
            {
                self.guard(*group, current.epoch, &ledger.addresses_of(current));
                if self.generations.may_open() {
                    self.lease.order(Order::Committed(*group, current.epoch));
                }
            }
        }
        self.node
            .step(clock::now(), Event::Restored { ledger }, wall_ms());
        self.tell_truncated();
        self.lease.order(Order::Tell);
        self.tell_lost();
    }

    /// Whether this node's log has a newer assignment of the group: a worker that goes on for another
    /// reads what is agreed from where the mark of that was written last, and the group may be open
    /// here under the newer one. What an older one lists would open with it, though it may be another
    /// group's by now (rule 10), and opening the older one is barred by the floor in any case.
    fn is_outdated(&self, group: GroupId, epoch: Epoch) -> bool {
        let floor = self
            .engine
            .as_ref()
            .and_then(|engine| engine.floor_of(group));
        floor > Some(epoch)
    }

    /// Which floors are of entries that were truncated: nothing becomes of them, and who waits for
    /// one would only hide that nobody holds the group. They may have been truncated before this
    /// worker, or while it missed events.
    fn tell_truncated(&self) {
        let Some(engine) = &self.engine else { return };
        for floor in engine.floors() {
            if self.is_truncated(engine, floor.group, floor.epoch) {
                self.lease.order(Order::Truncated(floor.group, floor.epoch));
            }
        }
    }

    fn is_truncated(&self, engine: &Engine, group: GroupId, epoch: Epoch) -> bool {
        if engine.has_entry(epoch) {
            return false;
        }
        // Asked afterwards: what has been purged meanwhile is in the ledger.
        let decided = |ledger: &Ledger| ledger.current(group).map(|one| one.epoch);
        self.ledger.with(decided) < Some(epoch)
    }

    fn appended(&mut self, epoch: Epoch, assign: Assign, bring: &mpsc::Sender<Brought>) {
        let group = assign.group;
        let assignment = Assignment {
            group,
            epoch,
            holder: assign.holder,
            incarnation: assign.incarnation,
        };
        self.guard(group, epoch, &assign.addresses);
        let ours = assign.holder == self.me && assign.incarnation == self.incarnation;
        let open = self
            .node
            .role(group)
            .is_some_and(|role| role.standing() == Standing::Open && role.epoch() < epoch);
        if open && !ours && assign.evidence.cause.is_planned() {
            // The mover ends the connections first, so that clients learn at once: a
            // closed guard would drop the resets.
            self.books
                .farewells
                .insert(group, (assignment, clock::now() + FAREWELL_MAX));
        } else {
            self.lease.order(Order::FloorRaised(assignment));
            self.give_back_unknown(&assignment);
            // Who missed events may be told of it after its end.
            if self
                .engine
                .as_ref()
                .is_some_and(|engine| self.is_truncated(engine, group, epoch))
            {
                self.lease.order(Order::Truncated(group, epoch));
            }
        }
        self.note_cause(epoch, &assign);
        self.step(Event::Appended { epoch, assign }, bring);
    }

    fn end_farewell(&mut self, group: GroupId) {
        if let Some((assignment, _)) = self.books.farewells.remove(&group) {
            self.lease.order(Order::FloorRaised(assignment));
        }
    }

    fn committed(&mut self, epoch: Epoch, command: Command, bring: &mpsc::Sender<Brought>) {
        match &command {
            Command::Assign(assign) if self.is_outdated(assign.group, epoch) => {}
            Command::Assign(assign) => {
                self.guard(assign.group, epoch, &assign.addresses);
                if self.generations.may_open() {
                    self.lease.order(Order::Committed(assign.group, epoch));
                }
            }
            Command::Readmit { node } => {
                self.gate.readmitted(*node, Some(epoch));
                self.books.notes.remove(node);
            }
            Command::Started { .. }
            | Command::Opened(_)
            | Command::Recovered(_)
            | Command::Drain(_)
            | Command::Undrain { .. }
            | Command::Forgive { .. } => {}
        }
        self.step(Event::Committed { epoch, command }, bring);
        self.greet();
        self.consider_voting(bring);
        self.step(Event::Stored(epoch.index.min(self.books.durable)), bring);
        self.tell_lost();
    }

    /// What new connections hear of this node.
    pub(crate) fn greet(&mut self) {
        let knows = self.ledger.with(|ledger| {
            let lives = ledger.nodes.iter();
            lives
                .filter_map(|(node, record)| Some((*node, record.incarnation?)))
                .collect()
        });
        self.hello.knows = knows;
        self.hello.applied = self.ledger.with(|ledger| ledger.applied);
        self.hello.generation = self.generations.own();
        self.hello.settled = self.generations.settled();
        self.hello.last_log_index = match &self.engine {
            Some(engine) if !self.has_lost_log() => engine.status().last_index.unwrap_or(0),
            // Nor does one say much that was lost.
            Some(_) | None => LOG_UNREAD,
        };
        let said = Bytes::from(self.hello.encode());
        if said != self.books.hello_said {
            if let Err(error) = self.endpoint.set_hello(said.clone()) {
                tracing::error!(%error, "failed to say hello");
            }
            self.books.hello_said = said;
        }
    }

    fn peer(&mut self, event: PeerEvent, bring: &mpsc::Sender<Brought>) {
        match event {
            PeerEvent::Up {
                peer,
                keys,
                rtt,
                hello,
            } => {
                self.books.notes.remove(&peer);
                self.lease.order(Order::Keys(keys));
                if let Some(flows) = &self.flows {
                    flows.connected(peer);
                }
                tracing::info!(
                    peer = self.node.topology().node_name(peer),
                    rtt_ms = rtt.as_secs_f64() * 1e3,
                    "connected"
                );
                if let Ok(hello) = Hello::decode(&hello) {
                    let (generation, settled) = (hello.generation, hello.settled);
                    self.generations
                        .greeted(clock::now(), peer, generation, settled);
                    self.weigh(peer, &hello);
                }
                self.consider_voting(bring);
            }
            PeerEvent::Down { peer, reason } => tracing::warn!(
                peer = self.node.topology().node_name(peer),
                %reason,
                "connection lost"
            ),
            PeerEvent::Refused {
                peer,
                remote,
                by,
                reason,
            } => {
                let who = match by {
                    RefusedBy::Us => "this node refused it",
                    RefusedBy::Them => "it refused this node",
                };
                tracing::warn!(%remote, reason, "{who}");
                if let Some(peer) = peer {
                    self.books.notes.insert(peer, format!("{who}: {reason}"));
                }
            }
            PeerEvent::CertificateAlarm { whose, days_left } => {
                tracing::warn!(
                    ?whose,
                    days_left,
                    "a certificate ends soon or has ended; nothing stops because of it"
                );
            }
        }
    }

    fn asked(&mut self, request: Request, bring: &mpsc::Sender<Brought>) {
        if request.class == FLOWS {
            if let Some(flows) = &self.flows {
                flows.told(request);
            }
            return;
        }
        let Request {
            from,
            class,
            body,
            reply,
        } = request;
        if class == RAFT {
            // Dropped without an answer: the other side hears that there is none.
            let Some(engine) = self.engine.clone() else {
                return;
            };
            tokio::spawn(async move {
                let answer = engine.handle(from, body.into()).await;
                reply.send(answer.into());
            });
        } else if class == ASK {
            match serde_json::from_slice::<Asked>(&body) {
                Ok(Asked::Reload { node: None, step }) => self.reload_for_peer(step, reply),
                Ok(asked) => self.as_leader(asked, Waiting::There(reply), bring),
                Err(_) => {
                    let answer = Answer::Refused("the leader does not understand this".to_owned());
                    reply.send(as_json(&answer));
                }
            }
        }
    }

    fn told(&mut self, message: &Message, bring: &mpsc::Sender<Brought>) {
        if message.class != REPORT {
            return;
        }
        match report::decode(&message.body) {
            Ok(report) => {
                let from = message.from;
                self.gate.heard(clock::now(), from, &report);
                self.generations
                    .reported(clock::now(), from, report.generation);
                self.step(Event::Reported { from, report }, bring);
            }
            Err(error) => {
                self.books
                    .notes
                    .insert(message.from, format!("is not understood: {error}"));
            }
        }
    }

    fn leased(&mut self, news: News, bring: &mpsc::Sender<Brought>) {
        let event = match news {
            News::Silences(silences) => Some(Event::Silences(silences)),
            News::State(group, status) => event_of(group, &status),
            News::GuardLate(group) => {
                let group = self.node.topology().group_name(group);
                tracing::debug!(
                    group,
                    "the guard was told too late, or does not know the group yet"
                );
                None
            }
            News::Voters(voters) => {
                self.generations.switched(clock::now(), voters);
                None
            }
            News::Told => {
                self.leases_told();
                None
            }
            News::Event(event) => self.lease_event(event),
        };
        if let Some(event) = event {
            if let Event::Released { group, .. } = event {
                // The guard drops everything now.
                self.unhold(group);
            }
            self.step(event, bring);
        }
    }

    fn lease_event(&self, event: Leased) -> Option<Event> {
        match event {
            Leased::Opened { group, epoch, .. } | Leased::Resumed { group, epoch, .. } => {
                Some(Event::Opened { group, epoch })
            }
            Leased::Lapsed { group, epoch, .. } => Some(Event::Lapsed { group, epoch }),
            Leased::Released { group, epoch } | Leased::Lost { group, epoch, .. } => {
                Some(Event::Released { group, epoch })
            }
            Leased::FloorAbove { group, floor, .. } => Some(Event::FloorAbove { group, floor }),
            Leased::Refused {
                group,
                epoch,
                voter,
                refusal,
            } => {
                tracing::warn!(
                    group = self.node.topology().group_name(group),
                    epoch = epoch.number(),
                    voter = self.node.topology().node_name(voter),
                    ?refusal,
                    "a voter does not renew"
                );
                None
            }
            Leased::NoRoom { group } => {
                tracing::error!(?group, "too many groups for the lease machine");
                None
            }
            Leased::Opening { .. } | Leased::Abandoned { .. } => None,
        }
    }

    fn traffic(&mut self, report: Traffic, bring: &mpsc::Sender<Brought>) {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        if let Some(flows) = &self.flows {
            flows.reported(&report);
        }
        let topology = self.node.topology();
        match report {
            Traffic::Placed {
                group, addresses, ..
            } => {
                let what = format!("{addresses} addresses placed, closed");
                self.step(
                    Event::Phase {
                        group,
                        what,
                        last: false,
                    },
                    bring,
                );
            }
            Traffic::Announced {
                group,
                addresses,
                dropped,
                ..
            } => {
                let what = if dropped == 0 {
                    format!("{addresses} addresses announced")
                } else {
                    format!("{addresses} addresses announced, {dropped} frames dropped on the way")
                };
                self.step(
                    Event::Phase {
                        group,
                        what,
                        last: true,
                    },
                    bring,
                );
            }
            Traffic::Repaired {
                group,
                what,
                count,
                took,
            } => tracing::warn!(
                group = topology.group_name(group),
                ?what,
                count,
                ms = ms(took),
                "somebody changed an address; it was put right"
            ),
            Traffic::Reset {
                group,
                sockets,
                took,
            } => {
                tracing::info!(
                    group = topology.group_name(group),
                    sockets,
                    ms = ms(took),
                    "connections ended"
                );
                self.end_farewell(group);
            }
            Traffic::Gone { group, took } => {
                tracing::info!(
                    group = topology.group_name(group),
                    ms = ms(took),
                    "addresses removed"
                );
                self.end_farewell(group);
            }
            Traffic::Failed { group, what, error } => tracing::error!(
                group = group.map(|group| topology.group_name(group)),
                ?what,
                error,
                "the mover does not succeed; it tries again"
            ),
            Traffic::Foreign {
                group,
                address,
                device,
            } => tracing::error!(
                group = topology.group_name(group),
                %address,
                device,
                "the operating system configures an address of the group itself: take it out of its network configuration"
            ),
            Traffic::Holding { group, epoch } => self.holding(group, epoch),
            Traffic::Drained {
                group, epoch, busy, ..
            } => {
                let busy = u32::try_from(busy).unwrap_or(u32::MAX);
                self.let_go_at = Some(clock::now());
                self.step(Event::Drained { group, epoch, busy }, bring);
            }
            Traffic::PassedOn {
                group,
                attempts,
                dropped,
                took,
            } => {
                tracing::info!(
                    group = topology.group_name(group),
                    attempts,
                    dropped,
                    ms = ms(took),
                    "connections that waited were passed on"
                );
            }
            Traffic::PutBack {
                group,
                attempts,
                dropped,
            } => tracing::info!(
                group = topology.group_name(group),
                attempts,
                dropped,
                "the group stays: connections that waited are served here"
            ),
            Traffic::Missed { reports } => {
                tracing::warn!(reports, "reports of the mover were missed")
            }
        }
    }

    /// The log is given up for another generation: what it had says nothing of the next one.
    pub(crate) fn forget_stored(&mut self, bring: &mpsc::Sender<Brought>) {
        self.books.durable = 0;
        self.step(Event::Stored(0), bring);
    }

    /// Why the log cannot be written now, if it cannot.
    fn log_fault(&mut self, reason: Option<&str>, bring: &mpsc::Sender<Brought>) {
        let fault = reason.map(|reason| format!("its log cannot be written: {reason}"));
        self.step(Event::Log { fault }, bring);
    }

    /// Whether this node could take any group at all.
    pub(crate) fn readiness(&mut self, unready: &Option<String>, bring: &mpsc::Sender<Brought>) {
        self.books.unready.clone_from(unready);
        self.tell_readiness(bring);
    }

    /// Tells the decision machine of each group whether this node could take it, if that is
    /// news.
    pub(crate) fn tell_readiness(&mut self, bring: &mpsc::Sender<Brought>) {
        let topology = self.node.topology();
        let own: Vec<GroupId> = topology
            .groups
            .values()
            .filter(|group| group.nodes.contains(&self.me))
            .map(|group| group.id)
            .collect();
        for group in own {
            let unready = self.books.unready.clone();
            let unready = unready.or_else(|| self.services_unready(group));
            if self.books.readiness.get(&group) != Some(&unready) {
                self.books.readiness.insert(group, unready.clone());
                self.step(Event::Readiness { group, unready }, bring);
            }
        }
    }

    fn question(
        &mut self,
        asked: Asked,
        answer: oneshot::Sender<Answer>,
        bring: &mpsc::Sender<Brought>,
    ) {
        // An operator who has gone needs no answer: `send` may fail.
        match asked {
            Asked::Status => {
                let _ = answer.send(Answer::Status(self.status()));
            }
            Asked::Why { group } => {
                let _ = answer.send(self.why(group.as_deref()));
            }
            Asked::Readmit { node } => self.readmit(&node, answer),
            Asked::Recover { stopped } => self.recover(&stopped, answer, bring),
            asked @ (Asked::Switch { .. }
            | Asked::Drain { .. }
            | Asked::Undrain { .. }
            | Asked::Plan { .. }) => {
                self.at_leader(asked, answer, bring);
            }
            Asked::Doctor => {
                let _ = answer.send(Answer::Doctor(self.doctor()));
            }
            Asked::Reload { node, step } => self.reload(node, step, answer),
        }
    }

    /// What people should know of this node beside what the decision machine knows.
    fn advice(&self) -> Vec<String> {
        let mut advice = self.advice.clone();
        advice.extend(self.voting_advice());
        advice.extend(self.shutdown_advice());
        advice.extend(self.services_advice());
        let own = rustix::process::getpid();
        let waits = |pid| pid != own && rustix::process::test_kill_process(pid).is_ok();
        let long_up = clock::now().since(self.up_since) >= RESERVE_MISSED;
        if long_up && !self.memory.reserve().is_some_and(waits) {
            advice.push(
                "no worker waits in reserve: if this one crashed now, another would take longer to \
                 go on; the log says why"
                    .to_owned(),
            );
        }
        advice
    }

    pub(crate) fn status(&self) -> evenkeel_console::api::v1::Status {
        let beside = Beside {
            me: self.me,
            rtt: &|peer| self.endpoint.rtt(peer),
            notes: &|peer| self.books.notes.get(&peer).cloned(),
            config_digest: self.config_digest,
            advice: self.advice(),
            reload: self.line.board().and_then(|board| board.last().cloned()),
            generations: &self.generations,
            votes: &|now, id| self.is_voting(now, id),
            services: &|group| self.services_status(group),
        };
        status::status(clock::now(), &self.node, &beside)
    }

    fn why(&self, group: Option<&str>) -> Answer {
        let known = |name: &str| {
            self.node
                .topology()
                .groups
                .values()
                .any(|one| one.name.as_str() == name)
        };
        match group {
            Some(name) if !known(name) => {
                Answer::Refused(format!("the configuration has no group {name}"))
            }
            _ => Answer::Why(status::moves(&self.node, group)),
        }
    }

    /// Who waits for the answer with this number.
    pub(crate) fn waits(&mut self, waiting: Waiting) -> u64 {
        self.books.next_wish += 1;
        let id = self.books.next_wish;
        self.books.waiting.insert(id, waiting);
        id
    }

    pub(crate) fn switch(
        &mut self,
        group: &str,
        to: Option<&str>,
        force: bool,
        waiting: Waiting,
        bring: &mpsc::Sender<Brought>,
    ) {
        let id = self.waits(waiting);
        let named = GroupName::new(group).ok().map(|name| GroupId::of(&name));
        let to = match to.map(NodeName::new) {
            None => Ok(None),
            Some(Ok(name)) => Ok(Some(NodeId::of(&name))),
            Some(Err(fault)) => Err(fault),
        };
        match (named, to) {
            (Some(group), Ok(to)) => self.step(
                Event::Wish {
                    id,
                    wish: Wish { group, to, force },
                },
                bring,
            ),
            (None, _) => self.reply(id, Err(format!("{group} is not the name of a group"))),
            (_, Err(fault)) => self.reply(id, Err(format!("the node's name is none: {fault}"))),
        }
    }

    fn readmit(&self, node: &str, answer: oneshot::Sender<Answer>) {
        let known = NodeName::new(node).ok().map(|name| NodeId::of(&name));
        let Some(id) = known.filter(|id| self.node.topology().nodes.contains_key(id)) else {
            let _ = answer.send(Answer::Refused(format!(
                "the configuration has no node {node}"
            )));
            return;
        };
        let mut drawn = [0; 16];
        if ring::rand::SystemRandom::new().fill(&mut drawn).is_err() {
            let _ = answer.send(Answer::Refused(
                "the kernel gives no random numbers".to_owned(),
            ));
            return;
        }
        let Some(engine) = self.engine.clone() else {
            let _ = answer.send(Answer::Refused(NO_ENGINE.to_owned()));
            return;
        };
        let payload = entry::encode(&Command::Readmit { node: id });
        let node = node.to_owned();
        tokio::spawn(async move {
            let said = match engine.propose(u128::from_le_bytes(drawn), payload).await {
                Ok(_) => Answer::Done(format!(
                    "{node} is let back in: start its daemon if it does not run"
                )),
                Err(error) => Answer::Refused(error.to_string()),
            };
            let _ = answer.send(said);
        });
    }

    /// A tick passes the time where nothing happens; only a farewell is in a hurry.
    fn next_tick(&self, ticked: Moment) -> Moment {
        let farewell = self.books.farewells.values().map(|(_, by)| *by).min();
        (ticked + TICK).min(farewell.unwrap_or(Moment::MAX))
    }

    fn tick(&mut self, bring: &mpsc::Sender<Brought>) {
        let now = clock::now();
        let due: Vec<GroupId> = self
            .books
            .farewells
            .iter()
            .filter(|(_, (_, by))| now >= *by)
            .map(|(group, _)| *group)
            .collect();
        for group in due {
            self.end_farewell(group);
        }
        let late = self.canary.lateness();
        if late.abs_diff(self.books.lateness) > self.books.lateness / 2 + LATENESS_STEP {
            self.books.lateness = late;
            self.step(Event::Lateness(late), bring);
        }
        self.mind_disk(bring);
        self.mind_generations(bring);
        if self.voting.owes_oath() {
            self.consider_voting(bring);
        }
        self.mind_services(bring);
        self.step(Event::Tick, bring);
        self.mind_shutdown(bring);
        self.mind_guarded();
    }

    /// Whether this process is to end.
    pub(crate) fn told_to_stop(&self) -> bool {
        self.books.stop_by.is_some()
    }

    fn may_end(&mut self) -> bool {
        let Some(by) = self.books.stop_by else {
            return false;
        };
        let now = clock::now();
        if self.node.may_stop() {
            // It goes on voting while what ran with the groups stops.
            let patience = self.services_stop_max();
            let by = *self.books.rest_by.get_or_insert(now + patience);
            return self.services_rest() || now >= by;
        }
        let late = now >= by;
        if late {
            tracing::warn!("nobody took over in time: closing all the same");
        }
        late
    }

    /// Whether clients of a group are still being told that it closes.
    pub(crate) fn parts_with(&self, group: GroupId) -> bool {
        self.books.farewells.contains_key(&group)
    }

    /// Closes what is left, waits for the addresses to go, and says goodbye.
    async fn leave(&mut self, sources: &mut Sources) {
        let groups: Vec<GroupId> = self.node.topology().groups.keys().copied().collect();
        if let Some(mover) = &self.mover {
            for group in &groups {
                mover.release(*group);
            }
            let mut left: BTreeSet<GroupId> = mover
                .status()
                .iter()
                .filter(|(_, one)| one.placed > 0)
                .map(|(id, _)| *id)
                .collect();
            let until = tokio::time::Instant::now() + LEAVE_MAX;
            while !left.is_empty() {
                match tokio::time::timeout_at(until, sources.traffic.recv()).await {
                    Ok(Some(Traffic::Gone { group, .. })) => {
                        left.remove(&group);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        }
        for group in groups {
            self.lease.order(Order::Release(group));
        }
        let patience = clock::now() + self.services_stop_max();
        let by = self.books.rest_by.unwrap_or(patience);
        self.stop_services(&mut sources.services, by).await;
        self.lease.order(Order::Stop);
        let answers = self.disk_answers();
        if let Some(Ok(engine)) = self.engine.take().map(Arc::try_unwrap) {
            engine.shutdown().await;
        }
        self.endpoint.close().await;
        self.forward_stragglers().await;
        self.node.finish(clock::now(), wall_ms(), answers).await;
        tracing::info!("stopped");
    }
}

/// What the driver gets beside engine, transport and lease thread.
pub struct Rooms {
    /// Starts the engine again after its disk has failed.
    pub restart: Restart,
    /// The engine's first start, if that is still under way.
    pub late: Option<oneshot::Receiver<Started>>,
    /// The mover; a witness has none.
    pub mover: Option<Mover>,
    /// What runs with the groups; none where nothing does.
    pub(crate) services: Option<Running>,
    /// Clients' connections; a witness has none.
    pub flows: Option<FlowCarrier>,
    /// The guard's keeper; a witness has none.
    pub keeper: Option<KeeperThread>,
    /// Who is let in.
    pub gate: Gate,
    /// The agreed state.
    pub ledger: SharedLedger,
    /// What this node says of itself.
    pub hello: Hello,
    /// Which addresses the mover starts with.
    pub placed: BTreeMap<GroupId, Vec<ServiceAddress>>,
    /// What people should know from the start.
    pub advice: Vec<String>,
    /// How late ordinary work runs here.
    pub canary: Canary,
    /// Which generation of the log counts.
    pub generations: Generations,
    /// Where the log is.
    pub place: LogPlace,
    /// The state directory.
    pub state: PathBuf,
    /// What outlives the worker.
    pub memory: Memory,
    /// The way to the parent.
    pub line: WorkerEnd,
    /// A shutdown of the machine.
    pub shutdown: shutdown::Shutdown,
    /// Which addresses the guard has.
    pub guarded: Guarded,
    /// Checks that are asked only where their group is open.
    pub resting: Resting,
}

pub(crate) fn as_json(answer: &Answer) -> Bytes {
    serde_json::to_vec(answer).unwrap_or_default().into()
}

/// What operators hear while the log's disk has failed.
pub(crate) const NO_ENGINE: &str =
    "this node's log cannot be written now: see its log lines; ask another node";

async fn next_agreed(agreed: &mut Option<evenkeel_consensus::Events>) -> Option<Agreed> {
    match agreed {
        Some(agreed) => agreed.next().await,
        None => std::future::pending().await,
    }
}

/// The next thing that happened; leases first, ticks last. Every arm is cancel-safe:
/// they are receivers that lose nothing when they are not chosen.
async fn next(
    sources: &mut Sources,
    brought: &mut mpsc::Receiver<Brought>,
    due: Moment,
    stop_heard: bool,
) -> Input {
    let or = |what: &'static str| move || Input::Ended(what);
    tokio::select! {
        biased;
        news = sources.news.recv() => news.map_or_else(or("lease thread"), Input::Lease),
        event = next_agreed(&mut sources.agreed) => event.map_or(Input::EngineEnded, Input::Agreed),
        event = sources.incoming.events.next() => event.map_or_else(or("transport"), Input::Peer),
        request = sources.incoming.requests.next() => request.map_or_else(or("transport"), Input::Asked),
        message = sources.incoming.messages.next() => message.map_or_else(or("transport"), Input::Told),
        verdicts = checks::next(&mut sources.verdicts) => verdicts.map_or_else(or("checks"), Input::Verdicts),
        report = sources.services.recv() => report.map_or_else(or("services"), Input::Service),
        report = sources.traffic.recv() => report.map_or_else(or("mover"), Input::Traffic),
        state = sources.guard.recv() => state.map_or_else(or("guard"), Input::Guard),
        one = brought.recv() => one.map_or_else(or("driver"), Input::Brought),
        question = sources.questions.recv() => question.map_or_else(or("control socket"), Input::Question),
        _ = &mut sources.stop, if !stop_heard => Input::Stop,
        seen = sources.machine.next() => Input::Machine(seen),
        () = tokio::time::sleep(clock::now().until(due)) => Input::Tick,
    }
}
