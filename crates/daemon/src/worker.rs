//! The worker: brings all rooms up, in the order that loses no time, and runs them.
//!
//! ```text
//!   thread    what                                  priority
//!   lease     lease machine, its socket, guard      real-time 30
//!   main      decision machine, engine, QUIC        real-time 20
//!   mover     addresses and announcements           real-time 10
//!   services  units, commands and hooks             ordinary, favoured (nice -10)
//!   flows     clients' connections                  ordinary, favoured (nice -10)
//!   log       what must be synced                   ordinary
//!   guard     the guard's cold side                 ordinary
//!   ordinary  checks, control socket                ordinary, favoured (nice -10)
//!   canary    measures how late ordinary work runs  ordinary
//! ```
//!
//! The first worker of a life remembers nothing: it reads its floors before its lease
//! thread answers anything. Every later one is an *heir*: it makes all that can be made
//! beside a living worker, above all its lease thread with guard and sockets, and waits
//! until the kernel passes it the baton. Then its lease thread goes on within a
//! millisecond, from the mirror, keys included; the other rooms follow when the dead
//! worker's files are closed. Usually it has been waiting long before (`parent.rs`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use evenkeel_checks::{Prober, probes_of};
use evenkeel_consensus::{ElectionTiming, Engine, Events, LogFile, Ports};
use evenkeel_console::server::ControlSocket;
use evenkeel_core::generation::{Generations, Members, Start as GenerationsStart, Voters};
use evenkeel_core::lease::{Life, Start};
use evenkeel_core::node::{Event, Start as NodeStart};
use evenkeel_core::topology::{ServiceAddress, Timing};
use evenkeel_core::{Epoch, GroupId, Incarnation, Moment};
use evenkeel_guard::{Claim, Guard, Keeper};
use evenkeel_host::clock;
use evenkeel_host::lateness::Canary;
use evenkeel_host::process::Watched;
use evenkeel_host::sys::sched::{self, Parent, Share};
use evenkeel_traffic::{Mover, Settings as MoverSettings};
use evenkeel_transport::{Endpoint, Incoming, PeerAddress, Settings as TransportSettings, Tuning};
use evenkeel_wire::v1::hello::Hello;
use rustix::process::Pid;
use tokio::sync::{mpsc, oneshot};

use crate::agreement::{AssignmentsRaiseFloors, OverQuic, SharedLedger, assignment_of};
use crate::checks::Resting;
use crate::decision::{self, Driver, End, QUESTIONS_MAX, Restart, Rooms, Sources};
use crate::flight::{self, Recorded};
use crate::flows::FlowCarrier;
use crate::generations::{LogPlace, members_of};
use crate::guarded::Guarded;
use crate::inherited::Inherited;
use crate::keeper::KeeperThread;
use crate::lease::{self, Parts, Started, Turned};
use crate::mirror::{Memory, baton};
use crate::options::Options;
use crate::parent::NEEDS_NEW_LIFE;
use crate::peers::Gate;
use crate::prepare::{Prepared, fingerprints};
use crate::services::Running;
use crate::shutdown::Shutdown;
use crate::state;

/// Real-time priority of the mover.
const MOVER_PRIORITY: u8 = 10;
/// Reports of rooms that may wait for the decision thread.
const REPORTS_MAX: usize = 1024;
/// Threads for everything that may wait. One: what blocks has threads of its own, and two
/// spend more on waking each other than on checks that ask 20 times a second.
const ORDINARY_THREADS: usize = 1;
/// How long an heir waits until the kernel has cleared the dead worker away; usually some
/// 50 ms. After that it goes on without a log, and tries again.
const END_MAX: Duration = Duration::from_secs(3);
/// How long it waits for the log to be opened; usually a few milliseconds. After that it serves
/// without its log until the disk answers.
const LOG_OPEN_MAX: Duration = Duration::from_secs(1);
/// Where bpffs is on most machines.
const BPFFS: &str = "/sys/fs/bpf";
/// Where we mount one of our own if it is not there.
const OWN_BPFFS: &str = "/run/evenkeel/bpf";

/// Runs a worker until it is told to stop.
pub fn run(options: &Options, inherited: &str) -> ExitCode {
    crate::logging::start();
    abort_on_panic();
    match bring_up(options, inherited) {
        Ok(Outcome::Stopped) => ExitCode::SUCCESS,
        Ok(Outcome::NeedsNewLife) => ExitCode::from(NEEDS_NEW_LIFE),
        Ok(Outcome::Broken(what)) => {
            tracing::error!("a part of the daemon is gone: {what}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("evenkeel: refused: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A thread that dies takes the worker with it: half a daemon is worse than a new one.
/// Killed, not aborted: where core dumps are collected, the kernel would keep the threads
/// of an aborted process until all its memory is written, and the heir waiting.
fn abort_on_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        told(info);
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::process::abort();
    }));
}

enum Outcome {
    Stopped,
    NeedsNewLife,
    Broken(&'static str),
}

fn bring_up(options: &Options, inherited: &str) -> anyhow::Result<Outcome> {
    let inherited = Inherited::take(inherited)?;
    if let Parent::Gone = sched::die_with(inherited.parent)? {
        return Ok(Outcome::Stopped);
    }
    // First of all: a continued worker's leases have milliseconds left.
    let realtime = sched::realtime(decision::PRIORITY, Share::InTurns);
    let prepared = Prepared::again(options, inherited.handed.clone())?;
    let memory = Memory::open(&inherited.memory)?;
    let mut advice = Vec::new();
    note(&mut advice, realtime);
    let first = memory.is_blank();
    if first {
        note(&mut advice, sched::lock_memory());
    }
    let start = Starting {
        options,
        prepared,
        inherited,
        memory,
        advice,
        ledger: SharedLedger::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if first {
            start.first().await
        } else {
            start.heir().await
        }
    })
}

fn note(advice: &mut Vec<String>, outcome: Result<(), sched::SchedError>) {
    if let Err(error) = outcome {
        tracing::warn!("failed to {error}");
        advice.push(format!("failed to {error}"));
    }
}

struct Starting<'a> {
    options: &'a Options,
    prepared: Prepared,
    inherited: Inherited,
    memory: Memory,
    advice: Vec<String>,
    ledger: SharedLedger,
}

/// The way to the others.
struct Connected {
    gate: Gate,
    hello: Hello,
    endpoint: (Endpoint, Incoming),
    restart: Restart,
}

/// What both ways of starting lead to: the lease thread at work, and what it needs beside
/// it.
struct Leading {
    lease: Started,
    keeper: Option<Keeper>,
    connected: Connected,
    voters: Voters,
    /// None while the log cannot be opened.
    engine: Option<(Engine, Events)>,
    /// The log is still being opened: its disk does not answer.
    late: Option<oneshot::Receiver<decision::Started>>,
    control: ControlSocket,
    stop: oneshot::Receiver<()>,
    /// For people: from what was the start counted, and when did the leases run.
    since: Moment,
    lease_at: Moment,
    /// This worker goes on where another died.
    continued: bool,
}

impl Starting<'_> {
    fn hosts(&self) -> bool {
        !self.prepared.node.witness
    }

    /// The longest lease ever allowed, from the state directory's identity. The parent holds the
    /// lock and has written it; unreadable means the longest known.
    fn quiet_for(&self) -> Duration {
        state::lease_max(&self.options.state).unwrap_or(self.prepared.topology().timing.lease)
    }

    /// What the lease thread is made of.
    fn parts(&self, guard: Option<Guard>, start: Start, voters: Voters) -> anyhow::Result<Parts> {
        Ok(Parts {
            settings: self.prepared.lease_settings(),
            voters,
            life: Life {
                incarnation: self.inherited.incarnation,
                seq_base: clock::now().as_nanos(),
            },
            start,
            quiet_until: clock::now() + self.quiet_for(),
            floors: Vec::new(),
            socket: self.inherited.sockets.lease.try_clone()?,
            peers: self.prepared.peers(),
            keys: Vec::new(),
            revoked: fingerprints(&self.prepared.config),
            guard,
            memory: Memory::open(&self.inherited.memory)?,
            timing: self.prepared.topology().timing,
        })
    }

    /// Gate, greeting, transport, and how an engine is started over it.
    fn connect(&self) -> anyhow::Result<Connected> {
        let topology = self.prepared.topology();
        let gate = Gate::new(
            self.prepared.node.id,
            topology.cluster.clone(),
            topology.membership(),
            self.ledger.clone(),
        );
        let past = state::lives(&self.options.state);
        let hello = hello(&self.prepared, self.inherited.incarnation, past);
        let socket = self.inherited.sockets.control.try_clone()?;
        let endpoint = endpoint(&self.prepared, &gate, &hello, socket)?;
        let state = &self.options.state;
        let place = self.place();
        let restart = engine_starter(&self.prepared, &place, state, &endpoint.0, &self.ledger);
        Ok(Connected {
            gate,
            hello,
            endpoint,
            restart,
        })
    }

    /// The first worker of a life: nothing is answered before the floors are known.
    async fn first(self) -> anyhow::Result<Outcome> {
        let control = ControlSocket::bind(&self.options.socket)?;
        let stop = stop_signal()?;
        let (guard, keeper) = if self.hosts() {
            let (guard, keeper) = Guard::open(&self.guard_settings(), &self.claim()?)?;
            (Some(guard), Some(self.with_addresses(keeper)?))
        } else {
            (None, None)
        };
        let connected = self.connect()?;
        let (engine, agreed) = (connected.restart)().await.map_err(anyhow::Error::msg)?;
        let voters = if members_of(&engine) == Members::Alone(self.prepared.node.id) {
            Voters::Me
        } else {
            Voters::All
        };
        let quiet_for = if engine.status().remembers {
            self.quiet_for()
        } else {
            // Its floors are not known either.
            Duration::MAX
        };
        let mut parts = self.parts(guard, Start::Amnesiac { quiet_for }, voters)?;
        parts.floors = engine.floors().iter().filter_map(assignment_of).collect();
        let lease = lease::start(parts, baton(&self.inherited.memory)?)?;
        let leading = Leading {
            lease,
            keeper,
            connected,
            voters,
            engine: Some((engine, agreed)),
            late: None,
            control,
            stop,
            since: self.inherited.started,
            lease_at: clock::now(),
            continued: false,
        };
        self.lead(leading).await
    }

    /// A later worker of a life: waits until the one before it is dead.
    async fn heir(self) -> anyhow::Result<Outcome> {
        let mut stop = stop_signal()?;
        let (guard, seat) = if self.hosts() {
            let (guard, seat) = Guard::resume(&self.guard_settings(), &self.claim()?)?;
            (Some(guard), Some(seat))
        } else {
            (None, None)
        };
        // Replaced by what the worker before it left.
        let nothing = Start::Amnesiac {
            quiet_for: Duration::MAX,
        };
        let parts = self.parts(guard, nothing, Voters::All)?;
        let (lease, turned) = lease::wait(parts, baton(&self.inherited.memory)?)?;
        let turned = tokio::select! {
            biased;
            turned = turned => turned?,
            _ = &mut stop => return Ok(Outcome::Stopped),
        };
        let (before, since) = match turned {
            Turned::Continued { before, at } => (before, at),
            Turned::NeedsNewLife => return Ok(Outcome::NeedsNewLife),
            Turned::Retired => return Ok(Outcome::Stopped),
        };
        let lease_at = clock::now();
        if let Some(before) = before {
            wait_for_end(before).await;
        }
        let control = ControlSocket::replace(&self.options.socket)?;
        let keeper = match seat {
            Some(seat) => {
                // Its addresses are what the worker before this one said. The file may have
                // others, which must not get into a group that is open.
                let mut keeper = Keeper::join(&self.guard_settings(), &self.claim()?, seat)?;
                // But what nobody guards yet must be closed before anything places it.
                keeper.guard_closed(&self.addresses())?;
                Some(keeper)
            }
            None => None,
        };
        let connected = self.connect()?;
        let (engine, late) = open_log(&connected.restart).await;
        let leading = Leading {
            lease,
            keeper,
            connected,
            voters: self.memory.voters(),
            engine,
            late,
            control,
            stop,
            since,
            lease_at,
            continued: true,
        };
        self.lead(leading).await
    }

    /// Brings up what is left, and runs until told to stop.
    async fn lead(mut self, leading: Leading) -> anyhow::Result<Outcome> {
        let me = self.prepared.node.id;
        let Leading {
            lease: (lease, news),
            mut keeper,
            connected,
            voters,
            engine,
            late,
            control,
            stop,
            since,
            lease_at,
            continued,
        } = leading;
        let Connected {
            gate,
            hello,
            endpoint: (endpoint, incoming),
            restart,
        } = connected;
        let settled = continued && self.memory.was_settled();
        let generations = self.generations(engine.as_ref().map(|(one, _)| one), settled, voters);
        let (engine, agreed) = match engine {
            Some((engine, agreed)) => (Some(Arc::new(engine)), Some(agreed)),
            None => (None, None),
        };
        let ordinary = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(ORDINARY_THREADS)
            .thread_name("ordinary")
            .on_thread_start(|| {
                // Refused without the right: then the checks run as late as other
                // programs, notice it and say "unknown".
                let _ = sched::favoured();
            })
            .enable_all()
            .build()?;
        let (traffic_out, traffic) = mpsc::channel(REPORTS_MAX);
        let (mover, placed) = if self.hosts() {
            let mut groups = self.agreed_addresses(own_groups(&self.prepared));
            if let Some(keeper) = &mut keeper {
                if engine.is_none() {
                    // Nobody can say what is agreed, but what was is what the guard has.
                    only_guarded(&mut groups, keeper);
                }
                // The log may have addresses that the file has not.
                let agreed = groups.iter().flat_map(|(_, addresses)| addresses);
                let agreed: Vec<IpAddr> = agreed.map(|address| address.ip).collect();
                keeper.guard_closed(&agreed)?;
            }
            let mover = mover(&self.prepared, &groups, traffic_out.clone())?;
            (Some(mover), groups.into_iter().collect())
        } else {
            (None, BTreeMap::new())
        };
        let (services_out, services_news) = mpsc::channel(REPORTS_MAX);
        let services = Running::start(&self.prepared, services_out.clone())?;
        let flows = if self.hosts() {
            let topology = self.prepared.topology();
            Some(FlowCarrier::start(
                topology,
                me,
                &endpoint,
                ordinary.handle(),
            )?)
        } else {
            None
        };
        let guarded = keeper.as_ref().map(Keeper::addresses).unwrap_or_default();
        let (keeper, guard_news, _no_guard) = match keeper {
            Some(keeper) => {
                let (keeper, news) = KeeperThread::start(keeper)?;
                (Some(keeper), news, None)
            }
            None => {
                let (none, news) = mpsc::unbounded_channel();
                (None, news, Some(none))
            }
        };
        let (verdicts_out, verdicts) = mpsc::channel(REPORTS_MAX);
        let config = &self.prepared.config;
        let probes = probes_of(&config.topology, &config.checks, me);
        for fault in evenkeel_checks::faults_of(&config.topology, &config.checks, me) {
            tracing::error!("failed to {fault}: that check is unknown until a reload");
        }
        let prober = {
            let _inside = ordinary.enter();
            Arc::new(Prober::start(probes, verdicts_out.clone()))
        };
        let (shutdown, machine) = {
            let _inside = ordinary.enter();
            Shutdown::start(self.hosts())
        };
        let (ask, questions) = mpsc::channel(QUESTIONS_MAX);
        let serving = ordinary.spawn(control.serve(move |request| {
            let ask = ask.clone();
            async move { question(&ask, request).await }
        }));
        let node = self.node(match &engine {
            Some(_) => Known::Ledger,
            None => Known::Had(placed.clone()),
        });
        if continued {
            // Late, because it holds up everything that touches new memory meanwhile.
            note(&mut self.advice, sched::lock_memory());
        }
        let rooms = Rooms {
            restart,
            late,
            mover,
            services,
            flows,
            keeper,
            gate,
            ledger: self.ledger.clone(),
            hello,
            placed,
            advice: self.advice.clone(),
            canary: Canary::start()?,
            generations,
            place: self.place(),
            state: self.options.state.clone(),
            memory: Memory::open(&self.inherited.memory)?,
            line: self.inherited.line,
            shutdown,
            guarded: Guarded::new(guarded),
            resting: Resting::new(Arc::clone(&prober), &config.topology),
        };
        let driver = Driver::new(
            node,
            me,
            self.inherited.incarnation,
            self.prepared.config.digest,
            lease,
            engine,
            endpoint,
            rooms,
        );
        let sources = Sources {
            agreed,
            incoming,
            news,
            traffic,
            services: services_news,
            guard: guard_news,
            verdicts,
            questions,
            stop,
            machine,
        };
        self.memory.set_ready();
        tracing::info!(
            node = self.options.node.as_str(),
            cluster = self.prepared.topology().cluster,
            start = self.inherited.incarnation.counter,
            version = env!("CARGO_PKG_VERSION"),
            continued,
            lease_ms = lease_at.since(since).as_secs_f64() * 1e3,
            up_ms = clock::now().since(since).as_secs_f64() * 1e3,
            "running"
        );
        let end = driver.run(sources).await;
        drop(prober);
        serving.abort();
        drop((traffic_out, verdicts_out, services_out));
        ordinary.shutdown_background();
        Ok(match end {
            End::Stopped => Outcome::Stopped,
            End::Broken(what) => Outcome::Broken(what),
        })
    }

    /// Which generation of the log counts here, and whether this life takes part in it.
    fn generations(&self, engine: Option<&Engine>, settled: bool, voters: Voters) -> Generations {
        // A log that a worker died in giving up is of a lesser generation than the one obeyed.
        let stored = engine.map_or(0, Engine::generation);
        let generation = stored.max(self.memory.generation());
        self.memory.set_generation(generation);
        let start = GenerationsStart {
            me: self.prepared.node.id,
            lease: self.prepared.topology().timing.lease,
            generation,
            settled,
            voters,
        };
        Generations::new(clock::now(), start, self.place().all.iter().copied())
    }

    fn place(&self) -> LogPlace {
        log_place(&self.prepared, state::log_path(&self.options.state))
    }

    /// The decision machine, ready for every group of this node.
    fn node(&self, known: Known) -> Recorded {
        let (ledger, had) = match known {
            Known::Ledger => (Some(self.ledger.copy()), BTreeMap::new()),
            Known::Had(had) => (None, had),
        };
        let start = NodeStart {
            me: self.prepared.node.id,
            incarnation: self.inherited.incarnation,
            topology: self.prepared.topology().clone(),
            config_digest: self.prepared.config.digest,
            ledger,
            had,
            first_seq: clock::now().as_nanos(),
        };
        let place = flight::Place {
            node: self.options.node.to_string(),
            life: self.inherited.incarnation.counter,
            file: self.prepared.config.text().into(),
            state: self.options.state.clone(),
        };
        let mut node = Recorded::new(clock::now(), start, place);
        for (group, _) in own_groups(&self.prepared) {
            let event = Event::Readiness {
                group,
                unready: None,
            };
            node.step(clock::now(), event, 0);
        }
        node
    }

    fn guard_settings(&self) -> evenkeel_guard::Settings {
        evenkeel_guard::Settings {
            cluster: self.prepared.topology().cluster.clone(),
            node: self.prepared.node.name.to_string(),
            bpffs: bpffs(),
            backends: evenkeel_guard::Backends::Both,
        }
    }

    /// The parent's; one of its own, which then fails with the reason, if that has none.
    fn claim(&self) -> anyhow::Result<Claim> {
        match &self.inherited.claim {
            Some(claim) => Ok(claim.clone()),
            None => Claim::open().context("failed to open a netfilter socket"),
        }
    }

    /// The same with the addresses that are agreed on, where some are: a changed file may give
    /// one to a group that does not have it yet, and two groups must not move one address.
    fn agreed_addresses(&self, mut groups: OwnGroups) -> OwnGroups {
        self.ledger.with(|ledger| {
            for (group, addresses) in &mut groups {
                match ledger.current(*group) {
                    Some(current) => *addresses = ledger.addresses_of(current),
                    None => addresses.retain(|one| {
                        let current = ledger
                            .groups
                            .values()
                            .filter_map(|one| one.current.as_ref());
                        let mut held = current.flat_map(|one| &one.assign.addresses);
                        !held.any(|held| held.ip == one.ip)
                    }),
                }
            }
        });
        groups
    }

    /// All addresses of the file.
    fn addresses(&self) -> Vec<IpAddr> {
        let groups = self.prepared.topology().groups.values();
        groups
            .flat_map(|group| group.addresses.iter().map(|address| address.ip))
            .collect()
    }

    /// Has every address of the file guarded before anything else happens, by the group that
    /// it is guarded by already or by none: only an assignment puts it into one. (An earlier
    /// life may have left a group open, and the file may have moved an address into it since.)
    fn with_addresses(&self, mut keeper: Keeper) -> anyhow::Result<Keeper> {
        keeper.guard_closed(&self.addresses())?;
        Ok(keeper)
    }
}

/// What a worker knows of its groups when it begins.
enum Known {
    /// The log can be read.
    Ledger,
    /// It cannot: only which addresses each group has here.
    Had(BTreeMap<GroupId, Vec<ServiceAddress>>),
}

/// Gives each group the addresses that the guard has in it, as they are placed here; one that is
/// not, as the file has it.
fn only_guarded(groups: &mut OwnGroups, keeper: &Keeper) {
    let mut placed = BTreeMap::new();
    match evenkeel_traffic::placed() {
        Ok(all) => placed.extend(all.into_iter().map(|one| (one.ip.to_canonical(), one))),
        Err(error) => {
            tracing::warn!(%error, "the kernel does not list its addresses; the file's are used")
        }
    }
    for (group, addresses) in groups {
        let of_file = core::mem::take(addresses);
        *addresses = keeper
            .addresses_of(*group)
            .filter_map(|ip| {
                let here = placed.get(&ip).cloned();
                here.or_else(|| of_file.iter().find(|one| one.ip == ip).cloned())
            })
            .collect();
    }
}

/// Opens the log, but does not wait long for its disk: the worker serves without its log rather
/// than not at all, and gets it when the disk answers. There is never a second opening beside the
/// first.
async fn open_log(
    restart: &Restart,
) -> (
    Option<(Engine, Events)>,
    Option<oneshot::Receiver<decision::Started>>,
) {
    let (say, mut opened) = oneshot::channel();
    let opening = restart();
    tokio::spawn(async move {
        // The worker may have ended meanwhile.
        let _ = say.send(opening.await);
    });
    match tokio::time::timeout(LOG_OPEN_MAX, &mut opened).await {
        Ok(Ok(Ok(engine))) => (Some(engine), None),
        Ok(Ok(Err(reason))) => {
            tracing::error!(reason, "the log cannot be opened; leases go on without it");
            (None, None)
        }
        Ok(Err(_)) => {
            tracing::error!("the log's thread has died; leases go on without it");
            (None, None)
        }
        Err(_) => {
            tracing::warn!("the log's disk does not answer; leases go on without it");
            (None, Some(opened))
        }
    }
}

/// Waits until the kernel has cleared a dead worker away: its files are closed then, the
/// log's lock among them. Not for ever, because a disk that hangs keeps it from dying.
async fn wait_for_end(before: Pid) {
    let Ok(watch) = Watched::open(before.as_raw_nonzero().get().cast_unsigned()) else {
        // Nothing of it is left.
        return;
    };
    if tokio::time::timeout(END_MAX, watch.wait_death())
        .await
        .is_err()
    {
        tracing::warn!(
            pid = before.as_raw_nonzero().get(),
            "the worker before this one does not end: a disk that hangs? Going on without its log"
        );
    }
}

/// Where the pins of the guard are on this machine.
pub(crate) fn bpffs() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let there = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(BPFFS) && words.next() == Some("bpf")
    });
    PathBuf::from(if there { BPFFS } else { OWN_BPFFS })
}

fn hello(prepared: &Prepared, incarnation: Incarnation, past: Vec<Incarnation>) -> Hello {
    Hello {
        cluster: prepared.topology().cluster.clone(),
        node: prepared.node.id,
        incarnation,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        membership: prepared.topology().membership(),
        last_log_index: 0,
        generation: 0,
        settled: false,
        knows: Vec::new(),
        past,
        applied: Epoch::NONE,
    }
}

fn endpoint(
    prepared: &Prepared,
    gate: &Gate,
    hello: &Hello,
    control: std::net::UdpSocket,
) -> anyhow::Result<(Endpoint, evenkeel_transport::Incoming)> {
    let topology = prepared.topology();
    let others = topology
        .nodes
        .values()
        .filter(|node| node.id != prepared.node.id);
    let settings = TransportSettings {
        tuning: Tuning::of(&topology.timing),
        peers: others
            .map(|node| PeerAddress {
                name: node.name.clone(),
                address: node.address,
            })
            .collect(),
        revoked: fingerprints(&prepared.config),
        hello: hello.encode().into(),
        admission: gate.admission(),
    };
    Ok(Endpoint::prepare(
        settings,
        control,
        prepared.identity.clone(),
    )?)
}

fn log_place(prepared: &Prepared, path: PathBuf) -> LogPlace {
    LogPlace {
        path,
        me: prepared.node.id,
        all: prepared.topology().voters().map(|node| node.id).collect(),
        limits: evenkeel_consensus::Limits::default(),
    }
}

/// How patient elections are: nodes whose lease is long are far from each other.
pub(crate) fn election_timing(timing: &Timing) -> ElectionTiming {
    if timing.lease >= Duration::from_secs(1) {
        ElectionTiming::WAN
    } else {
        ElectionTiming::LAN
    }
}

fn engine_starter(
    prepared: &Prepared,
    place: &LogPlace,
    state: &Path,
    endpoint: &Endpoint,
    ledger: &SharedLedger,
) -> Restart {
    let topology = prepared.topology();
    let LogPlace {
        path: log, me, all, ..
    } = place.clone();
    let mut settings = evenkeel_consensus::Settings::new(me, all);
    // The driver says when: what the log shows is known only once it is open.
    settings.may_vote = false;
    settings.timing = election_timing(&topology.timing);
    let (endpoint, ledger) = (endpoint.clone(), ledger.clone());
    let state = state.to_owned();
    Arc::new(move || {
        let (settings, state) = (settings.clone(), state.clone());
        let ports = Ports {
            disk: Box::new(LogFile::new(&log, me, settings.limits)),
            network: Arc::new(OverQuic(endpoint.clone())),
            machine: Box::new(ledger.clone()),
            floors: Arc::new(AssignmentsRaiseFloors),
        };
        Box::pin(async move {
            let started = Engine::start(settings, ports).await;
            let (engine, events) = started.map_err(|error| error.to_string())?;
            // Now that the log is locked: whoever had it before has noted what he was going to.
            let noted = state::oaths(&state).map_err(|error| error.to_string());
            match noted {
                Ok(noted) => engine.believe(&noted),
                Err(reason) => {
                    engine.shutdown().await;
                    return Err(reason);
                }
            }
            Ok((engine, events))
        })
    })
}

/// Groups and their addresses.
pub type OwnGroups = Vec<(GroupId, Vec<ServiceAddress>)>;

/// The groups that this node may hold.
pub fn own_groups(prepared: &Prepared) -> OwnGroups {
    let groups = prepared.topology().groups.values();
    groups
        .filter(|group| group.nodes.contains(&prepared.node.id))
        .map(|group| (group.id, group.addresses.clone()))
        .collect()
}

fn mover(
    prepared: &Prepared,
    groups: &OwnGroups,
    reports: mpsc::Sender<evenkeel_traffic::Report>,
) -> anyhow::Result<Mover> {
    let mut settings = MoverSettings::new(groups.clone());
    settings.realtime = Some(MOVER_PRIORITY);
    Mover::start(settings, reports)
        .map_err(|error| at_address(prepared, groups, &error.to_string()))
}

/// Points at the address in the file that the message speaks of.
pub fn at_address(prepared: &Prepared, groups: &OwnGroups, message: &str) -> anyhow::Error {
    let config = &prepared.config;
    let named = groups
        .iter()
        .flat_map(|(group, addresses)| addresses.iter().map(move |address| (*group, address.ip)));
    let place = named
        .filter(|(_, ip)| message.contains(&ip.to_string()))
        .find_map(|(group, ip)| config.place_of_address(group, ip));
    match place {
        Some(place) => anyhow::anyhow!("{place}: {message}"),
        None => anyhow::anyhow!("{message}"),
    }
}

async fn question(
    ask: &mpsc::Sender<decision::Question>,
    request: evenkeel_console::api::v1::Request,
) -> evenkeel_console::api::v1::Answer {
    use evenkeel_console::api::v1::Answer;
    let (answer, answered) = oneshot::channel();
    if ask.try_send((request, answer)).is_err() {
        return Answer::Refused("too many questions are waiting: ask again".to_owned());
    }
    answered
        .await
        .unwrap_or_else(|_| Answer::Refused("the daemon is stopping".to_owned()))
}

fn stop_signal() -> std::io::Result<oneshot::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    // The parent hears the terminal's interrupt too, and sends SIGTERM.
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    let (told, stop) = oneshot::channel();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                biased;
                _ = term.recv() => break,
                _ = int.recv() => {}
                _ = hup.recv() => {}
            }
        }
        // The driver may have ended by itself.
        let _ = told.send(());
    });
    Ok(stop)
}
