//! A cluster under load for hours, with troubles by chance: whether what its daemons have grows.
//!
//! Between two troubles, when all is at rest again, everything that the daemon's processes have
//! is noted: memory, descriptors, threads, and what their state takes on disk. In the end the
//! first quarter is compared with the last ([`drift`]). What ends processes befalls one server
//! alone ([`VICTIM`]): the daemons of all other nodes live as long as the soak, or there would be
//! nothing to compare.

mod drift;
mod sample;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evenkeel_host::clock::now;
use serde::Serialize;

use crate::bench::{keep_logs, settled};
use crate::bridge::Switch;
use crate::chance::Chance;
use crate::cli::SoakOptions;
use crate::client::{Client, PACE, PACE6, QUICK};
use crate::cluster::{self, Cluster, Plan};
use crate::figures::{Spread, seen, spread};
use crate::host::Family;
use crate::inside::Lab;
use crate::matrix::{Trouble, Under};
use crate::wait;
use drift::Drifts;
use sample::Sample;

/// Whose processes may end: the second server.
const VICTIM: &str = cluster::SERVERS[1];

/// What fails nobody: as often as may be.
const MILD: [Trouble; 6] = [
    Trouble::Switchover,
    Trouble::NodeDrained,
    Trouble::LinkOut,
    Trouble::LinkIn,
    Trouble::WorkerKilled,
    Trouble::StandbyDeath,
];

/// What a server is held down for, each time for twice as long.
const HARD: [Trouble; 9] = [
    Trouble::PowerCut,
    Trouble::DaemonKilled,
    Trouble::ServiceKilled,
    Trouble::ServiceHung,
    Trouble::CutBoth,
    Trouble::CutFrom,
    Trouble::CutTo,
    Trouble::Loss,
    Trouble::Flapping,
];

/// From one hard trouble to the next: a server that fails more often is left alone for minutes,
/// and the soak would be one long outage.
const HARD_EVERY: Duration = Duration::from_secs(240);

/// How long a trouble lasts.
const LASTS: Duration = Duration::from_secs(3);

/// At rest for so long before anything is noted: connections of dead nodes are given up, reports
/// are as they were.
const REST: Duration = Duration::from_secs(5);

/// A group is served again by then: the longest that a server must have been well that failed
/// every [`HARD_EVERY`] for some hours.
const BACK_LIMIT: Duration = Duration::from_secs(300);

/// Most of what went wrong that is told.
const TOLD_MAX: usize = 20;

/// What came of it.
#[derive(Serialize)]
struct Outcome {
    seed: u64,
    hours: f64,
    rounds: usize,
    requests: u64,
    failed: u64,
    outage_ms: Spread,
    drifts: Drifts,
    /// What was not as it has to be, but for the drifts.
    wrong: Vec<String>,
    samples: Vec<Sample>,
}

struct Soak<'a> {
    cluster: Cluster,
    options: &'a SoakOptions,
    chance: Chance,
    start: Instant,
    last_hard: Instant,
    samples: Vec<Sample>,
    outages: Vec<Duration>,
    requests: u64,
    failed: u64,
    rounds: usize,
    wrong: Vec<String>,
}

impl Soak<'_> {
    /// What befalls whom next.
    fn draw(&mut self, holder: &str) -> (Trouble, String) {
        let hard = self.last_hard.elapsed() >= HARD_EVERY;
        let kinds: &[Trouble] = if hard { &HARD } else { &MILD };
        if hard {
            self.last_hard = Instant::now();
        }
        let trouble = match kinds[self.chance.below(kinds.len())] {
            // It is the holder: its death would be a hard one.
            Trouble::StandbyDeath if holder == VICTIM => Trouble::Switchover,
            other => other,
        };
        let name = if ends_processes(trouble) {
            VICTIM
        } else {
            holder
        };
        (trouble, name.to_owned())
    }

    /// Waits until clients can be served and everybody is heard; who holds the group.
    fn wait_served(&self) -> Result<String> {
        let mut last = String::new();
        let served = wait::until("the group is served and all are heard", BACK_LIMIT, || {
            let Some(holder) = self.cluster.serving()? else {
                "nobody serves".clone_into(&mut last);
                return Ok(None);
            };
            for name in self.cluster.names() {
                let heard = self.cluster.status(&name)?.is_some_and(|status| {
                    status.quorum && status.nodes.iter().all(|node| node.alive)
                });
                if !heard {
                    last = format!("{name} does not hear all");
                    return Ok(None);
                }
            }
            Ok(Some(holder))
        });
        served.with_context(|| format!("last: {last}"))
    }

    /// One trouble, put right again, and what there is at rest.
    fn round(&mut self) -> Result<()> {
        let holder = self.wait_served()?;
        let other = self.cluster.other(&holder)?;
        let (trouble, name) = self.draw(&holder);
        let clients = [(Family::Four, PACE), (Family::Six, PACE6)]
            .map(|(family, pace)| self.cluster.client_over(family, QUICK, pace));
        let [four, six] = clients;
        let (four, six) = (four?, six?);
        self.cluster.observer.mark();
        let from = now();
        std::thread::sleep(REST);
        let mut under = Under::default();
        let far = if name == holder { &other } else { &holder };
        under.strike(&mut self.cluster, trouble, (&name, far), &mut self.chance)?;
        std::thread::sleep(LASTS);
        under.end(&mut self.cluster)?;
        self.cluster.mend()?;
        if trouble == Trouble::NodeDrained {
            self.cluster.maintain(&other, "undrain", &name)?;
        }
        self.wait_served()
            .with_context(|| format!("after {trouble} of {name}"))?;
        std::thread::sleep(REST);
        let failed = self.note_requests(&[four, six], from);
        let verdict = self.cluster.verdict();
        if let Err(fault) = verdict.check() {
            self.wrong.push(format!(
                "round {}, {trouble} of {name}: {fault:#}",
                self.rounds
            ));
        }
        let at = self.start.elapsed().as_secs_f64();
        self.samples.push(sample::take(&self.cluster, at)?);
        println!(
            "{at:>7.0} s  {trouble} of {name}, {failed} requests failed: {}",
            last_line(&self.samples)
        );
        Ok(())
    }

    /// Returns how many failed.
    fn note_requests(&mut self, clients: &[Client], from: evenkeel_core::Moment) -> u64 {
        let (to, before) = (now(), self.failed);
        for client in clients {
            let seen = seen(&settled(client, from, to), from, to);
            self.requests += seen.requests;
            self.failed += seen.failed;
            self.outages.push(seen.gap);
        }
        self.failed - before
    }

    fn run(&mut self) -> Result<()> {
        let length = Duration::from_secs_f64(self.options.hours * 3600.0);
        while self.start.elapsed() < length {
            self.rounds += 1;
            self.round()
                .with_context(|| format!("round {}", self.rounds))?;
        }
        Ok(())
    }
}

fn ends_processes(trouble: Trouble) -> bool {
    matches!(
        trouble,
        Trouble::PowerCut | Trouble::DaemonKilled | Trouble::WorkerKilled | Trouble::StandbyDeath
    )
}

/// The newest sample in a few words.
fn last_line(samples: &[Sample]) -> String {
    let Some(sample) = samples.last() else {
        return String::new();
    };
    let memory: u64 = sample.holdings.iter().map(|one| one.memory_kib).sum();
    let descriptors: u64 = sample.holdings.iter().map(|one| one.descriptors).sum();
    let threads: u64 = sample.holdings.iter().map(|one| one.threads).sum();
    let state: u64 = sample.disks.iter().map(|disk| disk.state_kib).sum();
    format!(
        "{} processes, {} MiB, {descriptors} descriptors, {threads} threads; state {} MiB",
        sample.holdings.len(),
        memory / 1024,
        state / 1024
    )
}

fn tell(outcome: &Outcome) {
    println!(
        "\n{} rounds in {:.2} hours from --seed {}; {} of {} requests failed, the longest outage of \
         a round p50 {:.0}, worst {:.0} ms",
        outcome.rounds,
        outcome.hours,
        outcome.seed,
        outcome.failed,
        outcome.requests,
        outcome.outage_ms.p50,
        outcome.outage_ms.max
    );
    println!("processes that lived all the while, medians of the first and of the last quarter:");
    for one in &outcome.drifts.lived {
        println!(
            "  {:<6} {:<8} memory {:>6} -> {:>6} KiB ({:+.1} %), descriptors {:>3} -> {:>3}, \
             threads {:>2} -> {:>2}",
            one.who.node,
            format!("{:?}", one.part),
            one.memory_kib.first.median,
            one.memory_kib.last.median,
            one.memory_kib.percent(),
            one.descriptors.first.median,
            one.descriptors.last.median,
            one.threads.first.median,
            one.threads.last.median
        );
    }
    for (node, kib) in &outcome.drifts.state_kib {
        let text = outcome
            .drifts
            .text_kib
            .get(node)
            .copied()
            .unwrap_or_default();
        println!("  {node:<6} state at most {kib} KiB; its log for people {text} KiB so far");
    }
    for wrong in outcome
        .wrong
        .iter()
        .chain(&outcome.drifts.over)
        .take(TOLD_MAX)
    {
        println!("WRONG  {wrong}");
    }
}

/// Runs the soak and tells what drifted; fails above the bounds.
pub(crate) fn run(
    lab: &Lab,
    switch: &Arc<Switch>,
    program: &Path,
    options: &SoakOptions,
) -> Result<ExitCode> {
    ensure!(
        options.nodes.witness(),
        "two nodes alone outlive no fault: 3 or 5"
    );
    let seed = options.seed();
    println!("soak for {} hours, --seed {seed}", options.hours);
    let servers = cluster::servers(options.nodes.servers());
    let mut plan = Plan::with_servers(program, options.profile, servers);
    plan.witness = options.nodes.witness();
    let cluster = Cluster::start(lab, switch, &plan)?;
    cluster.wait_whole()?;
    let mut soak = Soak {
        cluster,
        options,
        chance: Chance(seed),
        start: Instant::now(),
        last_hard: Instant::now(),
        samples: Vec::new(),
        outages: Vec::new(),
        requests: 0,
        failed: 0,
        rounds: 0,
        wrong: Vec::new(),
    };
    if let Err(fault) = soak.run() {
        soak.wrong.push(format!("{fault:#}"));
    }
    let outcome = Outcome {
        seed,
        hours: soak.start.elapsed().as_secs_f64() / 3600.0,
        rounds: soak.rounds,
        requests: soak.requests,
        failed: soak.failed,
        outage_ms: spread(&soak.outages),
        drifts: drift::compare(&soak.samples),
        wrong: soak.wrong,
        samples: soak.samples,
    };
    tell(&outcome);
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&outcome)?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    let well = outcome.wrong.is_empty() && outcome.drifts.over.is_empty();
    if !well {
        keep_logs(&soak.cluster, options.keep_logs.as_deref(), "soak");
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
