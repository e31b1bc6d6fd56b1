//! The rows of DESIGN 7: each fault again and again, as a client sees it, and whether
//! two hosts ever answered.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;
use serde::Serialize;

use crate::bridge::Switch;
use crate::cli::BenchOptions;
use crate::client::{Client, PACE, PACE6, PATIENCE, QUICK, Record, SLOW};
use crate::cluster::{Cluster, Plan, Profile, WITNESS};
use crate::fault::{self, Fault};
use crate::figures::{self, Seen, Spread, spread};
use crate::inside::Lab;
use crate::setup::Setup;
use crate::{apache, wait};

/// Good requests watched before a fault.
pub(crate) const CALM: Duration = Duration::from_millis(300);

/// A service counts as back once it has answered for so long without a gap.
pub(crate) const STEADY: Duration = Duration::from_millis(400);

/// A gap longer than this and the time between two questions starts the count again.
pub(crate) const STEADY_GAP: Duration = Duration::from_millis(25);

/// A service that is not back by then counts as lost.
const LOST: Duration = Duration::from_secs(10);

/// Lines of a log shown when a run went wrong.
const LOG_LINES: usize = 15;

/// Violations shown per row; all of them are in the JSON.
const VIOLATIONS_SHOWN: usize = 5;

/// One row of the table: something that is done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// Power cut of the holder.
    PowerCut,
    /// The holder's service killed.
    ServiceKilled,
    /// The holder's service hung.
    ServiceHung,
    /// All processes of the holder's daemon stopped, later let go on.
    DaemonFrozen,
    /// All processes of the holder's daemon killed.
    DaemonKilled,
    /// The worker of the holder's daemon killed.
    WorkerKilled,
    /// The holder's cable cut in both directions.
    CutBoth,
    /// Nobody hears the holder.
    CutFrom,
    /// The holder hears nobody.
    CutTo,
    /// Power cut of a voter that does not hold: the witness and the standby in turn.
    VoterDeath,
    /// Planned switchover, requests in flight.
    Switchover,
    /// The holder is drained for maintenance, requests in flight.
    NodeDrained,
    /// The holder's daemon is told to stop, requests in flight.
    DaemonStopped,
    /// The holder is rebooted, a real systemd with its logind, requests in flight.
    Rebooted,
    /// The holder's service killed; its processes are watched by their name.
    ServiceKilledProcess,
    /// The holder's service killed, a unit of a real systemd that is watched.
    ServiceKilledUnit,
    /// The holder's service killed, a unit that runs on the holder alone: the standby has to
    /// start it first.
    ColdStandby,
}

/// All rows, in the table's order.
const ROWS: [Row; 17] = [
    Row::PowerCut,
    Row::ServiceKilled,
    Row::ServiceHung,
    Row::DaemonFrozen,
    Row::DaemonKilled,
    Row::WorkerKilled,
    Row::CutBoth,
    Row::CutFrom,
    Row::CutTo,
    Row::VoterDeath,
    Row::Switchover,
    Row::NodeDrained,
    Row::DaemonStopped,
    Row::Rebooted,
    Row::ServiceKilledProcess,
    Row::ServiceKilledUnit,
    Row::ColdStandby,
];

/// A server that fails again and again is left alone for twice as long each time: after so many
/// runs, each server having failed twice, a new cluster is there sooner.
const WARM_RUNS: usize = 4;

/// One on which nothing runs while it stands by is held down for half a minute at once.
const COLD_RUNS: usize = 1;

/// What a cold standby may take beyond the start of the service, in ms.
const BEYOND_START: f64 = 20.0;

/// What a row must reach (DESIGN 7).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    /// A client's outage, in ms: middle, and 99 of 100.
    Outage(f64, f64),
    /// No request may fail.
    NoneFailed,
    /// A client's outage, beyond what the service takes to start, in ms.
    BeyondStart(f64),
}

impl Row {
    fn name(self) -> &'static str {
        match self {
            Self::PowerCut => "power cut",
            Self::ServiceKilled => "service killed",
            Self::ServiceHung => "service hung",
            Self::DaemonFrozen => "daemon frozen",
            Self::DaemonKilled => "daemon killed",
            Self::WorkerKilled => "worker killed",
            Self::CutBoth => "cut, both directions",
            Self::CutFrom => "cut, from the holder",
            Self::CutTo => "cut, to the holder",
            Self::VoterDeath => "other voter dies",
            Self::Switchover => "planned switchover",
            Self::NodeDrained => "node drained",
            Self::DaemonStopped => "daemon stopped",
            Self::Rebooted => "machine rebooted",
            Self::ServiceKilledProcess => "killed, by process",
            Self::ServiceKilledUnit => "killed, by unit",
            Self::ColdStandby => "killed, cold standby",
        }
    }

    /// The fault that befalls the holder, if it is one.
    fn fault(self) -> Option<Fault> {
        Some(match self {
            Self::PowerCut => Fault::PowerCut,
            Self::ServiceKilled
            | Self::ServiceKilledProcess
            | Self::ServiceKilledUnit
            | Self::ColdStandby => Fault::ServiceKilled,
            Self::ServiceHung => Fault::ServiceHung,
            Self::DaemonFrozen => Fault::DaemonFrozen,
            Self::DaemonKilled => Fault::DaemonKilled,
            Self::WorkerKilled => Fault::WorkerKilled,
            Self::CutBoth => Fault::CutBoth,
            Self::CutFrom => Fault::CutFromHost,
            Self::CutTo => Fault::CutToHost,
            Self::VoterDeath
            | Self::Switchover
            | Self::NodeDrained
            | Self::DaemonStopped
            | Self::Rebooted => return None,
        })
    }

    fn goal(self, plan: &Plan) -> Goal {
        match self {
            Self::ServiceKilled | Self::ServiceKilledProcess | Self::ServiceKilledUnit => {
                Goal::Outage(15.0, 40.0)
            }
            Self::ColdStandby => Goal::BeyondStart(BEYOND_START),
            Self::ServiceHung => {
                let limit = plan.timeout().as_secs_f64() * 2e3 + 50.0;
                Goal::Outage(limit, limit)
            }
            Self::WorkerKilled
            | Self::VoterDeath
            | Self::Switchover
            | Self::NodeDrained
            | Self::DaemonStopped
            | Self::Rebooted => Goal::NoneFailed,
            Self::PowerCut
            | Self::DaemonFrozen
            | Self::DaemonKilled
            | Self::CutBoth
            | Self::CutFrom
            | Self::CutTo => match plan.profile {
                Profile::Balanced => Goal::Outage(150.0, 250.0),
                Profile::Fast => Goal::Outage(50.0, 80.0),
            },
        }
    }

    /// The cluster that it takes.
    fn setup(self) -> Setup {
        match self {
            Self::ServiceKilledProcess => Setup::Process,
            Self::ServiceKilledUnit => Setup::Unit,
            Self::Rebooted => Setup::Systemd,
            Self::ColdStandby => Setup::Cold,
            _ => Setup::Http,
        }
    }

    /// What the client asks for: planned moves have requests in flight.
    fn page(self) -> &'static str {
        match self {
            Self::Switchover | Self::NodeDrained | Self::DaemonStopped | Self::Rebooted => SLOW,
            _ => QUICK,
        }
    }

    /// How many runs are played on one cluster.
    fn runs_of_a_cluster(self) -> usize {
        match self {
            Self::ColdStandby => COLD_RUNS,
            _ => WARM_RUNS,
        }
    }

    /// Whether the group is to have another holder afterwards.
    fn moves(self) -> bool {
        !matches!(self, Self::WorkerKilled | Self::VoterDeath)
    }
}

/// One run of a row.
#[derive(Clone, Debug)]
struct Run {
    seen: Seen,
    /// How long the service alone took to start, where the standby had to start it.
    start: Option<Duration>,
    /// The same over IPv6.
    seen6: Seen,
    violations: Vec<String>,
    returns: Vec<String>,
    missed: u64,
}

/// All runs of a row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    profile: Profile,
    row: Row,
    outage_ms: Spread,
    /// What the service alone took to start in the same runs, where that was part of it.
    start_ms: Option<Spread>,
    failed: Count,
    requests: u64,
    /// The same three over IPv6, asked every 10 ms.
    ipv6_outage_ms: Spread,
    ipv6_failed: Count,
    ipv6_requests: u64,
    client_pause_ms: f64,
    goal: String,
    reached: bool,
    runs_wrong: usize,
    violations: Vec<String>,
    moved_back: Vec<String>,
    frames_missed: u64,
}

/// Failed requests per run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Count {
    p50: u64,
    max: u64,
    total: u64,
}

fn failed<'a>(runs: impl Iterator<Item = &'a Seen>) -> Count {
    let mut all: Vec<u64> = runs.map(|seen| seen.failed).collect();
    all.sort_unstable();
    Count {
        p50: all
            .get(all.len().saturating_sub(1) / 2)
            .copied()
            .unwrap_or_default(),
        max: all.last().copied().unwrap_or_default(),
        total: all.iter().sum(),
    }
}

fn line(row: Row, plan: &Plan, runs: &[Run], wrong: usize) -> Line {
    let gaps: Vec<Duration> = runs.iter().map(|run| run.seen.gap).collect();
    let starts: Vec<Duration> = runs.iter().filter_map(|run| run.start).collect();
    let gaps6: Vec<Duration> = runs.iter().map(|run| run.seen6.gap).collect();
    let (outage, outage6, start) = (spread(&gaps), spread(&gaps6), spread(&starts));
    let counted = failed(runs.iter().map(|run| &run.seen));
    let counted6 = failed(runs.iter().map(|run| &run.seen6));
    let goal = row.goal(plan);
    // Between two questions nothing is seen: what is asked less often looks worse by that.
    let blind = (PACE6 - PACE).as_secs_f64() * 1e3;
    let met = match goal {
        Goal::Outage(p50, p99) => {
            let within = |seen: &Spread, blind| seen.p50 <= p50 + blind && seen.p99 <= p99 + blind;
            within(&outage, 0.0) && within(&outage6, blind)
        }
        Goal::NoneFailed => counted.total == 0 && counted6.total == 0,
        Goal::BeyondStart(most) => {
            !starts.is_empty() && outage.p50 <= start.p50 + most && outage.p99 <= start.p99 + most
        }
    };
    let violations: Vec<String> = runs.iter().flat_map(|run| run.violations.clone()).collect();
    let returns: Vec<String> = runs.iter().flat_map(|run| run.returns.clone()).collect();
    let missed = runs.iter().map(|run| run.missed).sum();
    let pause = runs
        .iter()
        .map(|run| run.seen.pause)
        .max()
        .unwrap_or_default();
    Line {
        profile: plan.profile,
        row,
        outage_ms: outage,
        start_ms: (!starts.is_empty()).then_some(start),
        failed: counted,
        requests: runs.iter().map(|run| run.seen.requests).sum(),
        ipv6_outage_ms: outage6,
        ipv6_failed: counted6,
        ipv6_requests: runs.iter().map(|run| run.seen6.requests).sum(),
        client_pause_ms: pause.as_secs_f64() * 1e3,
        goal: match goal {
            Goal::Outage(p50, p99) => format!("{p50:.0} / {p99:.0}"),
            Goal::NoneFailed => "0 failed".into(),
            Goal::BeyondStart(most) => format!("start + {most:.0}"),
        },
        reached: met && wrong == 0 && violations.is_empty() && returns.is_empty() && missed == 0,
        runs_wrong: wrong,
        violations,
        moved_back: returns,
        frames_missed: missed,
    }
}

fn print_head(profile: Profile, runs: usize) {
    println!(
        "\n{} profile, {runs} runs each; outage in ms as clients see it, over IPv4 every {} ms, \
         over IPv6 every {} ms",
        profile.name(),
        PACE.as_millis(),
        PACE6.as_millis()
    );
    println!(
        "{:<21} {:>7} {:>7} {:>7}  {:>13} {:>11}  {:>7} {:>7} {:>7} {:>11}  {:>7} {:>5} {:>6}",
        "",
        "p50",
        "p99",
        "max",
        "goal p50/p99",
        "failed/run",
        "v6 p50",
        "v6 p99",
        "v6 max",
        "failed/run",
        "two ans",
        "back",
        "wrong"
    );
}

fn print_line(line: &Line) {
    println!(
        "{:<21} {:>7.1} {:>7.1} {:>7.1}  {:>13} {:>5}..{:<4}  {:>7.1} {:>7.1} {:>7.1} \
         {:>5}..{:<4}  {:>7} {:>5} {:>6}  {}",
        line.row.name(),
        line.outage_ms.p50,
        line.outage_ms.p99,
        line.outage_ms.max,
        line.goal,
        line.failed.p50,
        line.failed.max,
        line.ipv6_outage_ms.p50,
        line.ipv6_outage_ms.p99,
        line.ipv6_outage_ms.max,
        line.ipv6_failed.p50,
        line.ipv6_failed.max,
        line.violations.len(),
        line.moved_back.len(),
        line.runs_wrong,
        if line.reached { "reached" } else { "SHORT" },
    );
    if let Some(start) = line.start_ms {
        println!(
            "    the service alone starts in {:.1} / {:.1} / {:.1}: {:+.1} / {:+.1} beyond it",
            start.p50,
            start.p99,
            start.max,
            line.outage_ms.p50 - start.p50,
            line.outage_ms.p99 - start.p99
        );
    }
    for violation in line.violations.iter().take(VIOLATIONS_SHOWN) {
        println!("    TWO ANSWERED: {violation}");
    }
    for back in line.moved_back.iter().take(VIOLATIONS_SHOWN) {
        println!("    moved back unasked: {back}");
    }
    if line.frames_missed > 0 {
        println!("    the observer missed {} frames", line.frames_missed);
    }
}

/// Waits until `record`s after `since` show the service steady again. `from` of another
/// host than `not`, if that is given.
pub(crate) fn wait_steady(client: &Client, since: Moment, not: Option<&str>) -> Result<()> {
    let gap = STEADY_GAP + client.pace();
    let mut cursor = 0;
    let mut steady: Option<(Moment, Moment)> = None;
    wait::until("the service is back", LOST, || {
        for record in client.since(&mut cursor) {
            if record.end < since || !record.is_good() {
                continue;
            }
            if let crate::client::Outcome::Good(host) = &record.outcome
                && not == Some(&**host)
            {
                steady = None;
                continue;
            }
            steady = match steady {
                Some((first, last)) if record.end.since(last) < gap => Some((first, record.end)),
                _ => Some((record.end, record.end)),
            };
        }
        Ok(steady
            .filter(|(first, last)| last.since(*first) >= STEADY)
            .map(drop))
    })
}

/// Records of requests begun since `from`, once all begun before `to` have ended.
pub(crate) fn settled(client: &Client, from: Moment, to: Moment) -> Vec<Record> {
    let settled = to + PATIENCE + PATIENCE / 20;
    std::thread::sleep(now().until(settled));
    client
        .records()
        .into_iter()
        .filter(|record| record.start >= from)
        .collect()
}

fn strike(cluster: &mut Cluster, row: Row, holder: &str, round: usize) -> Result<()> {
    if let Some(fault) = row.fault() {
        return fault::inject(cluster, fault, holder);
    }
    let standby = cluster.other(holder)?;
    match row {
        Row::VoterDeath if round.is_multiple_of(2) => cluster.power_cut(WITNESS),
        Row::VoterDeath => cluster.power_cut(&standby),
        Row::NodeDrained => cluster.maintain(holder, "drain", holder),
        Row::DaemonStopped => cluster.stop_daemon(holder),
        Row::Rebooted => cluster.reboot(holder),
        _ => cluster.switch_over(holder, &standby),
    }
}

/// One run: calm, fault, steady again, healed; all of it under the observer.
fn run_once(cluster: &mut Cluster, row: Row, round: usize) -> Result<Run> {
    let holder = cluster.wait_whole()?;
    let client = cluster.client_of(row.page())?;
    let client6 = cluster.client6_of(row.page())?;
    // Under the same requests as what is compared with it.
    let start = match row {
        Row::ColdStandby => {
            let standby = cluster.host(&cluster.other(&holder)?)?;
            Some(apache::start_time(standby, cluster.client_host())?)
        }
        _ => None,
    };
    cluster.observer.mark();
    for client in [&client, &client6] {
        wait_steady(client, now(), None).context("before the fault")?;
    }
    let from = now();
    std::thread::sleep(CALM);
    let struck = now();
    strike(cluster, row, &holder, round)?;
    for client in [&client, &client6] {
        wait_steady(client, struck, row.moves().then_some(holder.as_str()))?;
    }
    let to = now();
    if row == Row::NodeDrained {
        cluster.maintain(&holder, "undrain", &holder)?;
    }
    // A standby on which nothing runs is held down for half a minute after it has failed: who gets
    // a new cluster for each run need not wait for that.
    if row.runs_of_a_cluster() > 1 {
        cluster.heal()?;
    }
    let records = settled(&client, from, to);
    let report = cluster.verdict();
    let seen = figures::seen(&records, from, to);
    let seen6 = figures::seen(&settled(&client6, from, to), from, to);
    let unasked = seen.unasked + seen6.unasked;
    ensure!(
        unasked == 0,
        "the clients themselves failed {unasked} times"
    );
    Ok(Run {
        seen,
        start,
        seen6,
        violations: report.violations,
        returns: report.returns,
        missed: report.missed,
    })
}

/// Copies the daemons' logs out of the lab.
pub(crate) fn keep_logs(cluster: &Cluster, into: Option<&Path>, name: &str) {
    let Some(into) = into else { return };
    let place = into.join(name);
    let _ = fs::create_dir_all(&place);
    for node in cluster.names() {
        let from = cluster.lab().directory().join(&node).join("evenkeel.log");
        let _ = fs::copy(from, place.join(format!("{node}.log")));
    }
}

fn show_trouble(cluster: &Cluster, row: Row, round: usize, fault: &anyhow::Error) {
    println!("    {} run {round} went wrong: {fault:#}", row.name());
    for name in cluster.names() {
        println!(
            "    --- log of {name}\n{}",
            cluster.log_tail(&name, LOG_LINES)
        );
    }
}

fn run_row(
    mut cluster: Cluster,
    plan: &Plan,
    row: Row,
    options: &BenchOptions,
) -> Result<(Cluster, Line)> {
    let (mut runs, mut wrong) = (Vec::new(), 0);
    for round in 0..options.runs {
        if round > 0 && round.is_multiple_of(row.runs_of_a_cluster()) {
            cluster = cluster.restart(plan)?;
        }
        match run_once(&mut cluster, row, round) {
            Ok(run) => {
                if !run.violations.is_empty() || !run.returns.is_empty() {
                    let name = format!("{}-{row:?}-{round}", plan.profile.name());
                    keep_logs(&cluster, options.keep_logs.as_deref(), &name);
                }
                runs.push(run);
            }
            Err(fault) => {
                wrong += 1;
                show_trouble(&cluster, row, round, &fault);
                let name = format!("{}-{row:?}-{round}", plan.profile.name());
                keep_logs(&cluster, options.keep_logs.as_deref(), &name);
                cluster = cluster.restart(plan)?;
            }
        }
    }
    cluster.heal()?;
    let line = line(row, plan, &runs, wrong);
    let name = format!("{}-{row:?}", plan.profile.name());
    keep_logs(&cluster, options.keep_logs.as_deref(), &name);
    Ok((cluster, line))
}

/// Runs the benchmark and prints its table; fails if any row is short of its goal.
pub(crate) fn run(
    lab: &Lab,
    switch: &Arc<Switch>,
    program: &Path,
    options: &BenchOptions,
) -> Result<ExitCode> {
    let profiles = if options.profile.is_empty() {
        vec![Profile::Balanced, Profile::Fast]
    } else {
        options.profile.clone()
    };
    let rows = if options.rows.is_empty() {
        ROWS.to_vec()
    } else {
        options.rows.clone()
    };
    let mut lines = Vec::new();
    for profile in profiles {
        let mut kept: Option<(Setup, Cluster)> = None;
        print_head(profile, options.runs);
        for row in &rows {
            let mut plan = Plan::new(program, profile);
            plan.setup = row.setup();
            if let Some(why) = plan.setup.hindrance() {
                println!("{:<21} SKIPPED: {why}", row.name());
                continue;
            }
            let cluster = match kept.take() {
                Some((setup, cluster)) if setup == plan.setup => cluster,
                other => {
                    drop(other);
                    Cluster::start(lab, switch, &plan)?
                }
            };
            let (same, line) = run_row(cluster, &plan, *row, options)?;
            kept = Some((plan.setup, same));
            print_line(&line);
            lines.push(line);
        }
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&lines)?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    let short = lines.iter().filter(|line| !line.reached).count();
    println!("\n{} rows reached, {short} short", lines.len() - short);
    Ok(if short == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
