//! Clients do not hang: connections to a holder whose power is cut, idle and active ones,
//! IPv4 and IPv6, and when each client learned that its connection is gone. And a holder whose
//! daemon was killed: its programs' connections end when it returns.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;
use evenkeel_host::sys::sched::{self, Share};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::Timespec;

use super::Ending;
use crate::apache;
use crate::cluster::{Cluster, SERVICE, SERVICE6};
use crate::fault::{self, Fault};
use crate::figures::spread;
use crate::host::Host;
use crate::wait;

/// Clients of each kind; with two kinds and two families few enough that Apache has a thread
/// for each and some left for the checks.
const CLIENTS: usize = 10;
/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// How long they are connected before the power is cut: the standby has heard of them then.
const CALM: Duration = Duration::from_millis(1_500);
/// How often an active client sends a byte.
const PACE: Duration = Duration::from_millis(20);
/// A client that has not learned of it by then hangs.
const HANGS: Duration = Duration::from_secs(1);
/// How long after that they are watched, so that the report can tell late from never.
const WATCH: Duration = Duration::from_secs(3);
/// Clients stand for other machines, which load here does not slow down.
const PRIORITY: u8 = 1;

/// What a client does while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Idle,
    Active,
}

/// One client's connection.
struct Connected {
    kind: Kind,
    service: IpAddr,
    stream: TcpStream,
    knew: Option<Moment>,
}

/// What became of one client.
struct Fate {
    kind: Kind,
    service: IpAddr,
    knew: Option<Moment>,
}

impl Fate {
    fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Idle => "idle",
            Kind::Active => "active",
        };
        let family = if self.service.is_ipv4() { 4 } else { 6 };
        format!("{kind} IPv{family}")
    }
}

impl Connected {
    fn connect(kind: Kind, service: IpAddr) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&apache::page(service), CONNECT)
            .with_context(|| format!("connecting to {service}"))?;
        stream.set_nodelay(true)?;
        // Apache takes no notice of a connection before a first byte, and waits for the rest
        // of a request for a minute.
        stream.write_all(b"GET /")?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            kind,
            service,
            stream,
            knew: None,
        })
    }

    /// Notes whether the client knows by now.
    fn look(&mut self) -> Result<()> {
        match self.stream.read(&mut [0; 64]) {
            Ok(0) => self.knew = Some(now()),
            Ok(_) => bail!("an answer to half a request"),
            Err(error) => self.failed(&error),
        }
        Ok(())
    }

    fn send(&mut self) {
        if let Err(error) = self.stream.write(b"a") {
            self.failed(&error);
        }
    }

    fn failed(&mut self, error: &std::io::Error) {
        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            self.knew = Some(now());
        }
    }
}

/// Clients that are connected, and watched on a thread of theirs.
struct Clients {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Fate>>>,
}

impl Clients {
    fn start(host: &Host) -> Result<Self> {
        let network = host.network()?;
        let done = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&done);
        let (told, ready) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("clients".into())
            .spawn(move || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(network.as_fd(), kind)
                    .context("entering the clients' network")?;
                drop(network);
                let _ = sched::realtime(PRIORITY, Share::InTurns);
                let all = connect_all()?;
                let _ = told.send(());
                watch(all, &theirs)
            })
            .context("starting the clients")?;
        let clients = Self { done, thread };
        match ready.recv() {
            Ok(()) => Ok(clients),
            // It has ended already, and says why.
            Err(_) => Err(clients.end().err().unwrap_or_else(|| anyhow!("no clients"))),
        }
    }

    fn end(self) -> Result<Vec<Fate>> {
        self.done.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the clients panicked"))?
    }
}

fn connect_all() -> Result<Vec<Connected>> {
    let mut all = Vec::new();
    for service in [SERVICE, SERVICE6] {
        for kind in [Kind::Idle, Kind::Active] {
            for _ in 0..CLIENTS {
                all.push(Connected::connect(kind, service)?);
            }
        }
    }
    Ok(all)
}

/// Watches until told that it is enough, or all know.
fn watch(mut all: Vec<Connected>, done: &AtomicBool) -> Result<Vec<Fate>> {
    let mut send_at = now() + PACE;
    while !done.load(Ordering::Relaxed) && all.iter().any(|one| one.knew.is_none()) {
        if now() >= send_at {
            send_at += PACE;
            for one in &mut all {
                if one.kind == Kind::Active && one.knew.is_none() {
                    one.send();
                }
            }
        }
        for index in ready(&all, send_at)? {
            all[index].look()?;
        }
    }
    let fate = |one: Connected| Fate {
        kind: one.kind,
        service: one.service,
        knew: one.knew,
    };
    Ok(all.into_iter().map(fate).collect())
}

/// Waits until something happens to one that does not know yet, at most until `deadline`; says
/// to which.
fn ready(all: &[Connected], deadline: Moment) -> Result<Vec<usize>> {
    let waiting: Vec<usize> = (0..all.len())
        .filter(|index| all[*index].knew.is_none())
        .collect();
    let mut sources: Vec<PollFd<'_>> = waiting
        .iter()
        .map(|index| PollFd::new(&all[*index].stream, PollFlags::IN))
        .collect();
    let pause = Timespec::try_from(now().until(deadline)).context("a short pause")?;
    // An interrupted wait is a short one.
    let _ = poll(&mut sources, Some(&pause));
    let happened = waiting
        .into_iter()
        .zip(&sources)
        .filter(|(_, source)| !source.revents().is_empty());
    Ok(happened.map(|(index, _)| index).collect())
}

/// When each client learned of it, of all runs.
#[derive(Default)]
struct Learned {
    since_cut: Vec<Duration>,
    since_opening: Vec<Duration>,
    /// Beyond [`HANGS`], in words.
    hung: Vec<String>,
}

/// One run: connected, calm, power cut, healed.
fn run_once(cluster: &mut Cluster, learned: &mut Learned) -> Result<()> {
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    cluster.observer.mark();
    let clients = Clients::start(cluster.client_host())?;
    std::thread::sleep(CALM);
    let (struck, calendar) = (now(), SystemTime::now().duration_since(UNIX_EPOCH)?);
    fault::inject(cluster, Fault::PowerCut, &holder)?;
    std::thread::sleep(now().until(struck + HANGS + WATCH));
    let fates = clients.end()?;
    let opened = cluster
        .openings(&standby)
        .into_iter()
        .rfind(|at| *at >= calendar)
        .with_context(|| format!("{standby} did not open"))?;
    let opened = opened.saturating_sub(calendar);
    for fate in fates {
        let took = fate.knew.map(|knew| knew.since(struck));
        ensure!(
            fate.knew.is_none_or(|knew| knew >= struck),
            "a client ({}) lost its connection before the power was cut",
            fate.name()
        );
        match took {
            Some(took) if took <= HANGS => {
                learned.since_cut.push(took);
                learned.since_opening.push(took.saturating_sub(opened));
            }
            Some(took) => learned
                .hung
                .push(format!("{}: {} ms", fate.name(), took.as_millis())),
            None => learned.hung.push(format!("{}: never", fate.name())),
        }
    }
    cluster.verdict().check()?;
    cluster.heal()?;
    Ok(())
}

/// Connections to the group's addresses that a node's programs still have.
fn left_on(cluster: &Cluster, name: &str) -> Result<usize> {
    let mut left = 0;
    for service in [SERVICE, SERVICE6] {
        let service = match service {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let list = ["ss", "-Htn", "state", "established", "src", &service];
        left += cluster.host(name)?.run(&list, "")?.lines().count();
    }
    Ok(left)
}

/// A holder whose daemon was killed keeps its programs, with all their connections. When the
/// daemon returns they are ended; their clients were told long before.
fn old_connections_end(cluster: &mut Cluster) -> Result<()> {
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    let clients = Clients::start(cluster.client_host())?;
    std::thread::sleep(CALM);
    let struck = now();
    fault::inject(cluster, Fault::DaemonKilled, &holder)?;
    cluster.wait_holder(&standby, WATCH)?;
    std::thread::sleep(now().until(struck + HANGS + HANGS));
    let hung = clients.end()?;
    let hung = hung.iter().filter(|fate| fate.knew.is_none()).count();
    ensure!(hung == 0, "{hung} clients hung after the daemon was killed");
    ensure!(
        left_on(cluster, &holder)? > 0,
        "{holder} had no connections left to end: this shows nothing"
    );
    cluster.heal()?;
    wait::until("the old holder's connections end", WATCH, || {
        Ok((left_on(cluster, &holder)? == 0).then_some(()))
    })
}

pub(super) fn play(cluster: &mut Cluster, runs: usize) -> Result<Ending> {
    let mut learned = Learned::default();
    for _ in 0..runs {
        run_once(cluster, &mut learned)?;
    }
    let (cut, opening) = (spread(&learned.since_cut), spread(&learned.since_opening));
    let figures = format!(
        "{runs} runs, {} clients each, half of them idle, half IPv6: learned of it after p50 \
         {:.0}, p99 {:.0}, max {:.0} ms from the cut; p50 {:.1}, p99 {:.1}, max {:.1} ms from the \
         new holder's opening; a killed daemon that returned ended what its programs still had",
        CLIENTS * 4,
        cut.p50,
        cut.p99,
        cut.max,
        opening.p50,
        opening.p99,
        opening.max
    );
    ensure!(
        learned.hung.is_empty(),
        "{} clients hung for over {} ms ({}); the others: {figures}",
        learned.hung.len(),
        HANGS.as_millis(),
        learned.hung.join(", ")
    );
    old_connections_end(cluster)?;
    Ok(Ending::Held(figures))
}
