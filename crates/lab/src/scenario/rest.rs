//! Issue, "Seen to hold" 8: what a node costs at rest.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;

use super::Ending;
use crate::cluster::Cluster;
use crate::{daemon, wait};

/// At most this share of one core (DESIGN 7).
const CORE_PERCENT_MAX: f64 = 1.0;

/// At most this much memory (DESIGN 7).
const MEMORY_MIB_MAX: f64 = 30.0;

/// Time for the files of the start: the recorder waits for what follows a move.
const FILES_LIMIT: Duration = Duration::from_secs(15);

/// Processor time that a process has used.
fn used(pid: Pid) -> Result<Duration> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let rest = text.rsplit_once(')').context("an odd /proc/PID/stat")?.1;
    let mut ticks = rest
        .split_whitespace()
        .skip(11)
        .map(|word| word.parse().unwrap_or(0_u64));
    let ticks = ticks.next().unwrap_or(0) + ticks.next().unwrap_or(0);
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

/// Memory that is a process's own share (PSS), in MiB.
fn memory(pid: Pid) -> Result<f64> {
    let path = format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero());
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .context("no Pss")?;
    let kib: f64 = line.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(kib / 1024.0)
}

/// Processor time that processes have used.
pub(super) fn total_used(pids: &[Pid]) -> Result<Duration> {
    pids.iter().map(|pid| used(*pid)).sum()
}

/// The first opening is on record with the holder and with the leader, and comes to the same again.
fn replayed(cluster: &Cluster) -> Result<usize> {
    wait::until("the flight recorder's files are there", FILES_LIMIT, || {
        let mut files = 0;
        for name in cluster.names() {
            files += cluster.evenkeel().replay_all(cluster.host(&name)?)?;
        }
        Ok((files >= 2).then_some(files))
    })
}

pub(super) fn play(cluster: &mut Cluster, length: Duration) -> Result<Ending> {
    cluster.wait_whole()?;
    // What is left of the start.
    std::thread::sleep(Duration::from_secs(3));
    let mut before = Vec::new();
    for name in cluster.names() {
        let pids = daemon::processes(cluster.host(&name)?)?;
        before.push((name, total_used(&pids)?, pids));
    }
    let start = Instant::now();
    std::thread::sleep(length);
    let passed = start.elapsed().as_secs_f64();
    let (mut figures, mut over) = (Vec::new(), false);
    for (name, used, pids) in before {
        let percent = (total_used(&pids)? - used).as_secs_f64() / passed * 100.0;
        let mib: f64 = pids.iter().map(|pid| memory(*pid)).sum::<Result<f64>>()?;
        over |= percent > CORE_PERCENT_MAX || mib > MEMORY_MIB_MAX;
        figures.push(format!("{name} {percent:.2} % of a core, {mib:.1} MiB"));
    }
    let files = replayed(cluster)?;
    let figures = format!("{}; {files} files replayed", figures.join("; "));
    ensure!(
        !over,
        "over {CORE_PERCENT_MAX} % or {MEMORY_MIB_MAX} MiB: {figures}"
    );
    Ok(Ending::Held(figures))
}
