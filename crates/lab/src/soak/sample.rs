//! What the daemon's processes have and what their logs take, at one moment.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::Pid;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::daemon;

/// What a process of the daemon is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// Restarts the worker.
    Parent,
    /// Does the work.
    Worker,
    /// Waits to be the next worker.
    Reserve,
}

/// One process of the daemon. A number may be given again, but not with the same start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Who {
    pub(crate) node: String,
    pub(crate) pid: i32,
    /// In ticks since the machine started.
    pub(crate) started: u64,
}

/// What one process has.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Holding {
    pub(crate) who: Who,
    pub(crate) part: Part,
    /// Memory that is there (RSS).
    pub(crate) memory_kib: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

/// What a node's files take on disk.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Disk {
    pub(crate) node: String,
    /// The state directory: the log that nodes agree on, its snapshots, what was reserved.
    pub(crate) state_kib: u64,
    /// The log for people, which a machine's journal would bound.
    pub(crate) text_kib: u64,
}

/// Everything at one moment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Since the beginning, in seconds.
    pub(crate) at_s: f64,
    pub(crate) holdings: Vec<Holding>,
    pub(crate) disks: Vec<Disk>,
}

/// Looks at all nodes that have power. A process that ends meanwhile is left out.
pub(crate) fn take(cluster: &Cluster, at_s: f64) -> Result<Sample> {
    let (mut holdings, mut disks) = (Vec::new(), Vec::new());
    for node in cluster.names() {
        let Ok(host) = cluster.host(&node) else {
            continue;
        };
        let worker = daemon::worker(host).ok();
        for (index, pid) in daemon::processes(host)?.into_iter().enumerate() {
            let part = match (Some(pid) == worker, index) {
                (true, _) => Part::Worker,
                (false, 0) => Part::Parent,
                (false, _) => Part::Reserve,
            };
            holdings.extend(holding(&node, pid, part));
        }
        let text = host.disk().join(format!("{}.log", daemon::PROGRAM));
        disks.push(Disk {
            state_kib: taken(&daemon::state(host))? / 1024,
            text_kib: fs::metadata(&text).map_or(0, |file| file.len()) / 1024,
            node,
        });
    }
    Ok(Sample {
        at_s,
        holdings,
        disks,
    })
}

fn holding(node: &str, pid: Pid, part: Part) -> Option<Holding> {
    let place = format!("/proc/{}", pid.as_raw_nonzero());
    let status = fs::read_to_string(format!("{place}/status")).ok()?;
    let stat = fs::read_to_string(format!("{place}/stat")).ok()?;
    Some(Holding {
        who: Who {
            node: node.to_owned(),
            pid: pid.as_raw_nonzero().get(),
            started: started(&stat)?,
        },
        part,
        memory_kib: number(&status, "VmRSS")?,
        descriptors: fs::read_dir(format!("{place}/fd")).ok()?.count() as u64,
        threads: number(&status, "Threads")?,
    })
}

/// The first number of a line `name: ...` of /proc/PID/status.
fn number(status: &str, name: &str) -> Option<u64> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, words) = lines.find(|(key, _)| *key == name)?;
    words.split_whitespace().next()?.parse().ok()
}

/// When the process was started, out of /proc/PID/stat: the twentieth word after its name, which
/// stands in brackets and may have blanks.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Bytes that a directory's files take on the disk, reserved ones too.
fn taken(place: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(place).with_context(|| format!("looking at {}", place.display()))? {
        let entry = entry?;
        // A file that goes meanwhile takes nothing.
        let Ok(meta) = entry.metadata() else { continue };
        sum += if meta.is_dir() {
            taken(&entry.path())?
        } else {
            meta.blocks() * 512
        };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        let status = "Name:\tevenkeel\nVmRSS:\t   11264 kB\nThreads:\t12\n";
        assert_eq!(number(status, "VmRSS"), Some(11_264));
        assert_eq!(number(status, "Threads"), Some(12));
        assert_eq!(number(status, "Rss"), None);
        let stat = "41 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(started(stat), Some(777));
        let own = fs::read_to_string("/proc/self/stat").expect("a process");
        assert!(started(&own).is_some_and(|ticks| ticks > 0));
    }
}
