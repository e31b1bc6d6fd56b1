//! The worker: brings all rooms up, in the order that loses no time, and runs them.
//!
//! ```text
//!   thread    what                                  priority
//!   lease     lease machine, its socket, guard      real-time 30
//!   main      decision machine, engine, QUIC        real-time 20
//!   mover     addresses and announcements           real-time 10
//!   log       what must be synced                   ordinary
//!   guard     the guard's cold side                 ordinary
//!   ordinary  checks, control socket                ordinary
//! ```
//!
//! A worker that continues a crashed one starts the lease thread first, from the mirror,
//! keys included: its leases have milliseconds left. A worker that remembers nothing
//! reads its floors first, because nothing may be answered without them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use evenkeel_checks::{Prober, probes_of};
use evenkeel_consensus::{ElectionTiming, Engine, LogFile, Ports};
use evenkeel_console::server::ControlSocket;
use evenkeel_core::generation::{Generations, Members, Start as GenerationsStart, Voters};
use evenkeel_core::lease::{Life, Start};
use evenkeel_core::node::{Event, Node, Start as NodeStart};
use evenkeel_core::{Epoch, GroupId, Incarnation, Moment};
use evenkeel_guard::{Guard, Keeper};
use evenkeel_host::clock;
use evenkeel_host::sys::sched::{self, Parent, Share};
use evenkeel_host::sys::udp;
use evenkeel_traffic::{Mover, Settings as MoverSettings};
use evenkeel_transport::{Endpoint, PeerAddress, Settings as TransportSettings, Tuning};
use evenkeel_wire::v1::hello::Hello;
use tokio::sync::{mpsc, oneshot};

use crate::agreement::{AssignmentsRaiseFloors, OverQuic, SharedLedger, assignment_of};
use crate::decision::{self, Driver, End, QUESTIONS_MAX, Restart, Rooms, Sources};
use crate::generations::{LogPlace, members_of};
use crate::keeper::KeeperThread;
use crate::lease::{self, Parts};
use crate::mirror::{Found, Memory};
use crate::options::Options;
use crate::parent::{NEEDS_NEW_LIFE, memory_path};
use crate::peers::Gate;
use crate::prepare::{Prepared, fingerprints};
use crate::state;

/// Real-time priority of the mover.
const MOVER_PRIORITY: u8 = 10;
/// Reports of rooms that may wait for the decision thread.
const REPORTS_MAX: usize = 1024;
/// Threads for everything that may wait.
const ORDINARY_THREADS: usize = 2;
/// Where bpffs is on most machines.
const BPFFS: &str = "/sys/fs/bpf";
/// Where we mount one of our own if it is not there.
const OWN_BPFFS: &str = "/run/evenkeel/bpf";

/// What the parent hands to its worker.
struct Inherited {
    incarnation: Incarnation,
    memory: PathBuf,
    parent: rustix::process::Pid,
    started: Moment,
}

impl Inherited {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let incarnation = Incarnation {
            counter: number()?,
            nonce: number()?,
        };
        let memory = memory_path(i32::try_from(number()?).ok()?);
        let parent = rustix::process::Pid::from_raw(i32::try_from(number()?).ok()?)?;
        let started = Moment::from_nanos(words.next()?.parse().ok()?);
        Some(Self {
            incarnation,
            memory,
            parent,
            started,
        })
    }
}

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
fn abort_on_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        told(info);
        std::process::abort();
    }));
}

enum Outcome {
    Stopped,
    NeedsNewLife,
    Broken(&'static str),
}

fn bring_up(options: &Options, inherited: &str) -> anyhow::Result<Outcome> {
    let inherited = Inherited::parse(inherited)
        .with_context(|| format!("{} is not what a parent says", crate::parent::WORKER))?;
    if let Parent::Gone = sched::die_with(inherited.parent)? {
        return Ok(Outcome::Stopped);
    }
    // First of all: a continued worker's leases have milliseconds left.
    let realtime = sched::realtime(decision::PRIORITY, Share::InTurns);
    let prepared = Prepared::load(options)?;
    let mut memory = Memory::open(&inherited.memory)?;
    let found = memory.read(inherited.incarnation);
    if let Found::Torn = found {
        return Ok(Outcome::NeedsNewLife);
    }
    let pair =
        udp::pair(prepared.node.address).map_err(|error| at_node(&prepared, &error.to_string()))?;
    let control = ControlSocket::bind(&options.socket)?;
    let mut advice = Vec::new();
    note(&mut advice, realtime);
    // A continued worker locks its memory when its leases run again.
    if let Found::Blank = found {
        note(&mut advice, sched::lock_memory());
    }
    let ordinary = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ORDINARY_THREADS)
        .thread_name("ordinary")
        .enable_all()
        .build()?;
    let start = Starting {
        options,
        prepared,
        inherited,
        memory,
        advice,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(start.run(found, pair, control, ordinary))
}

fn note(advice: &mut Vec<String>, outcome: Result<(), sched::SchedError>) {
    if let Err(error) = outcome {
        tracing::warn!("failed to {error}");
        advice.push(format!("failed to {error}"));
    }
}

fn at_node(prepared: &Prepared, message: &str) -> anyhow::Error {
    match prepared.config.place_of_node(&prepared.node.name) {
        Some(place) => anyhow::anyhow!("{}:{place}: {message}", prepared.config.origin()),
        None => anyhow::anyhow!("{message}"),
    }
}

struct Starting<'a> {
    options: &'a Options,
    prepared: Prepared,
    inherited: Inherited,
    memory: Memory,
    advice: Vec<String>,
}

impl Starting<'_> {
    async fn run(
        mut self,
        found: Found,
        pair: udp::UdpPair,
        control: ControlSocket,
        ordinary: tokio::runtime::Runtime,
    ) -> anyhow::Result<Outcome> {
        let me = self.prepared.node.id;
        let hosts = !self.prepared.node.witness;
        let (guard, keeper) = if hosts { self.guard()? } else { (None, None) };
        let life = Life {
            incarnation: self.inherited.incarnation,
            seq_base: clock::now().as_nanos(),
        };
        let ledger = SharedLedger::default();
        let mut parts = Parts {
            settings: self.prepared.lease_settings(),
            voters: Voters::All,
            life,
            start: Start::Fresh,
            floors: Vec::new(),
            socket: pair.lease,
            peers: self.prepared.peers(),
            keys: Vec::new(),
            guard,
            memory: self.memory,
            timing: self.prepared.topology().timing,
        };
        let ready = Memory::open(&self.inherited.memory)?;
        let mut lease_after = Duration::ZERO;
        let mut continued = false;
        let mut voters = Voters::All;
        // A continued worker's leases run: its lease thread comes first.
        let (early, parts) = match found {
            Found::Whole { mirror, keys } => {
                parts.start = Start::Mirrored(mirror);
                parts.keys = keys;
                voters = ready.voters();
                parts.voters = voters;
                let started = lease::start(parts)?;
                lease_after = clock::now().since(self.inherited.started);
                continued = true;
                (Some(started), None)
            }
            Found::Blank | Found::Torn => (None, Some(parts)),
        };
        let gate = Gate::new(
            me,
            self.prepared.topology().cluster.clone(),
            self.prepared.topology().membership(),
            ledger.clone(),
        );
        let hello = hello(&self.prepared, self.inherited.incarnation);
        let (endpoint, incoming) = endpoint(&self.prepared, &gate, &hello, pair.control)?;
        let log = state::log_path(&self.options.state);
        let remembers = log.exists();
        let place = log_place(&self.prepared, log);
        let restart = engine_starter(&self.prepared, &place, &endpoint, &ledger);
        // A new life does not vote before it has settled.
        let settled = continued && ready.was_settled();
        let (engine, agreed) = match restart(remembers && settled).await {
            Ok((engine, agreed)) => (Some(Arc::new(engine)), Some(agreed)),
            // A continued worker renews without its log rather than not at all.
            Err(reason) if early.is_some() => {
                tracing::error!(reason, "the log cannot be opened; leases go on without it");
                (None, None)
            }
            Err(reason) => anyhow::bail!(reason),
        };
        let voting = remembers && engine.as_ref().is_some_and(|one| one.status().remembers);
        let (lease, news, _lease_thread) = match (early, parts) {
            (Some(started), _) => started,
            (None, Some(mut parts)) => {
                let floors = engine
                    .as_ref()
                    .map_or_else(Vec::new, |engine| engine.floors());
                parts.floors = floors.iter().filter_map(assignment_of).collect();
                if engine.as_deref().map(members_of) == Some(Members::Alone(me)) {
                    voters = Voters::Me;
                }
                parts.voters = voters;
                // The longest lease ever allowed, from the state directory's identity.
                parts.start = Start::Amnesiac {
                    quiet_for: quiet_for(self.options, &self.prepared),
                };
                lease::start(parts)?
            }
            (None, None) => unreachable!("one of the two is there"),
        };
        let (traffic_out, traffic) = mpsc::channel(REPORTS_MAX);
        let (mover, placed) = match hosts {
            true => {
                let groups = own_groups(&self.prepared);
                let mover = mover(&self.prepared, &groups, traffic_out.clone())?;
                (Some(mover), groups.into_iter().collect())
            }
            false => (None, Default::default()),
        };
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
        let probes = probes_of(&config.topology, &config.checks, me)?;
        let prober = {
            let _inside = ordinary.enter();
            Prober::start(probes, verdicts_out.clone())
        };
        let (ask, questions) = mpsc::channel(QUESTIONS_MAX);
        let serving = ordinary.spawn(control.serve(move |request| {
            let ask = ask.clone();
            async move { question(&ask, request).await }
        }));
        let stop = stop_signal()?;
        let mut node = Node::new(
            clock::now(),
            NodeStart {
                me,
                incarnation: self.inherited.incarnation,
                topology: self.prepared.topology().clone(),
                config_digest: self.prepared.config.digest,
                ledger: engine.is_some().then(|| ledger.copy()),
                first_seq: life.seq_base,
            },
        );
        for group in own_groups(&self.prepared) {
            let event = Event::Readiness {
                group: group.0,
                unready: None,
            };
            node.step(clock::now(), event, 0);
        }
        // A log that a worker died in giving up is of a lesser generation than the one obeyed.
        let stored = engine.as_ref().map_or(0, |engine| engine.generation());
        let generation = stored.max(ready.generation());
        ready.set_generation(generation);
        let generations = Generations::new(
            clock::now(),
            GenerationsStart {
                me,
                lease: self.prepared.topology().timing.lease,
                generation,
                settled,
                voters,
            },
            place.all.iter().copied(),
        );
        let rooms = Rooms {
            restart,
            mover,
            keeper,
            gate,
            ledger,
            hello,
            placed,
            advice: self.advice.clone(),
            voting,
            generations,
            place,
            memory: ready,
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
            guard: guard_news,
            verdicts,
            questions,
            stop,
        };
        if continued {
            // Late, because it holds up everything that touches new memory meanwhile.
            note(&mut self.advice, sched::lock_memory());
        }
        driver.memory.set_ready();
        tracing::info!(
            node = self.options.node.as_str(),
            cluster = self.prepared.topology().cluster,
            start = self.inherited.incarnation.counter,
            version = env!("CARGO_PKG_VERSION"),
            lease_ms = lease_after.as_secs_f64() * 1e3,
            up_ms = clock::now().since(self.inherited.started).as_secs_f64() * 1e3,
            "running"
        );
        let end = driver.run(sources).await;
        drop(prober);
        serving.abort();
        drop((traffic_out, verdicts_out));
        ordinary.shutdown_background();
        Ok(match end {
            End::Stopped => Outcome::Stopped,
            End::Broken(what) => Outcome::Broken(what),
        })
    }

    /// Opens the guard and closes every address of the file before anything else: what
    /// an earlier life left open stays open only as long as its lease.
    fn guard(&self) -> anyhow::Result<(Option<Guard>, Option<Keeper>)> {
        let settings = evenkeel_guard::Settings {
            cluster: self.prepared.topology().cluster.clone(),
            node: self.prepared.node.name.to_string(),
            bpffs: bpffs(),
            backends: evenkeel_guard::Backends::Both,
        };
        let (guard, mut keeper) = Guard::open(&settings)?;
        for group in self.prepared.topology().groups.values() {
            let ips: Vec<IpAddr> = group.addresses.iter().map(|address| address.ip).collect();
            keeper.set_addresses(group.id, Epoch::NONE, &ips)?;
        }
        Ok((Some(guard), Some(keeper)))
    }
}

fn bpffs() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let there = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(BPFFS) && words.next() == Some("bpf")
    });
    PathBuf::from(if there { BPFFS } else { OWN_BPFFS })
}

fn quiet_for(options: &Options, prepared: &Prepared) -> Duration {
    // The parent holds the lock and has written it; unreadable means the longest known.
    state::lease_max(&options.state).unwrap_or(prepared.topology().timing.lease)
}

fn hello(prepared: &Prepared, incarnation: Incarnation) -> Hello {
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
    Ok(Endpoint::start(
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

fn engine_starter(
    prepared: &Prepared,
    place: &LogPlace,
    endpoint: &Endpoint,
    ledger: &SharedLedger,
) -> Restart {
    let topology = prepared.topology();
    let LogPlace {
        path: log, me, all, ..
    } = place.clone();
    let mut settings = evenkeel_consensus::Settings::new(me, all);
    let far = topology.timing.lease >= Duration::from_secs(1);
    settings.timing = if far {
        ElectionTiming::WAN
    } else {
        ElectionTiming::LAN
    };
    let (endpoint, ledger) = (endpoint.clone(), ledger.clone());
    Arc::new(move |may_vote| {
        let mut settings = settings.clone();
        settings.may_vote = may_vote;
        let ports = Ports {
            disk: Box::new(LogFile::new(&log, me, settings.limits)),
            network: Arc::new(OverQuic(endpoint.clone())),
            machine: Box::new(ledger.clone()),
            floors: Arc::new(AssignmentsRaiseFloors),
        };
        Box::pin(async move {
            Engine::start(settings, ports)
                .await
                .map_err(|error| error.to_string())
        })
    })
}

type OwnGroups = Vec<(GroupId, Vec<evenkeel_core::topology::ServiceAddress>)>;

/// The groups that this node may hold.
fn own_groups(prepared: &Prepared) -> OwnGroups {
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
fn at_address(prepared: &Prepared, groups: &OwnGroups, message: &str) -> anyhow::Error {
    let config = &prepared.config;
    let named = groups
        .iter()
        .flat_map(|(group, addresses)| addresses.iter().map(move |address| (*group, address.ip)));
    let place = named
        .filter(|(_, ip)| message.contains(&ip.to_string()))
        .find_map(|(group, ip)| config.place_of_address(group, ip));
    match place {
        Some(place) => anyhow::anyhow!("{}:{place}: {message}", config.origin()),
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
