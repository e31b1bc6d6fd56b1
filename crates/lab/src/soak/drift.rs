//! How what the processes have changed from the first quarter of a soak to its last.

use std::collections::BTreeMap;

use serde::Serialize;

use super::sample::{Part, Sample, Who};

/// Memory may grow by so much of a hundred (issue).
const MEMORY_PERCENT: f64 = 5.0;

/// What a state directory may take: the log's reserve and its snapshot, 32 and 8 MiB at most each
/// (`evenkeel-consensus`), and as much again while one replaces the other; and the files of the
/// flight recorder, 128 MiB at most (`evenkeel-daemon`).
const STATE_KIB: u64 = (80 + 128) * 1024;

/// A quarter has so many samples at least, or its middle says nothing.
const SAMPLES_MIN: usize = 4;

/// The middle and the least of one thing in one quarter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quarter {
    pub(crate) median: u64,
    pub(crate) least: u64,
}

/// One thing in the first quarter and in the last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Drift {
    pub(crate) first: Quarter,
    pub(crate) last: Quarter,
}

impl Drift {
    /// By how much of a hundred the middle grew; less than nothing if it shrank.
    pub(crate) fn percent(&self) -> f64 {
        let (first, last) = (self.first.median as f64, self.last.median as f64);
        (last - first) / first.max(1.0) * 100.0
    }

    /// Whether it only grows: the middle did and the least did. What comes and goes with requests
    /// and connections moves the one, a leak both.
    fn leaks(&self) -> bool {
        self.last.median > self.first.median && self.last.least > self.first.least
    }
}

/// A process that lived through both quarters.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Lived {
    pub(crate) who: Who,
    pub(crate) part: Part,
    pub(crate) memory_kib: Drift,
    pub(crate) descriptors: Drift,
    pub(crate) threads: Drift,
}

/// What became of a soak's samples.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Drifts {
    pub(crate) lived: Vec<Lived>,
    /// The most that each node's state took in the last quarter.
    pub(crate) state_kib: BTreeMap<String, u64>,
    /// The same of its log for people, which the machine's journal has to bound.
    pub(crate) text_kib: BTreeMap<String, u64>,
    /// What is over its bound, in words.
    pub(crate) over: Vec<String>,
}

fn quarter(mut values: Vec<u64>) -> Option<Quarter> {
    values.sort_unstable();
    let (median, least) = (values.get(values.len() / 2)?, values.first()?);
    (values.len() >= SAMPLES_MIN).then_some(Quarter {
        median: *median,
        least: *least,
    })
}

/// Compares the first quarter of `samples` with the last.
pub(crate) fn compare(samples: &[Sample]) -> Drifts {
    let part = samples.len() / 4;
    let (first, last) = (&samples[..part], &samples[samples.len() - part..]);
    let mut found = Drifts {
        lived: lived(first, last),
        state_kib: most(last, |disk| disk.state_kib),
        text_kib: most(last, |disk| disk.text_kib),
        over: Vec::new(),
    };
    if found.lived.is_empty() {
        found
            .over
            .push("no process lived long enough to be compared".into());
    }
    for one in &found.lived {
        found.over.extend(over(one));
    }
    for (node, kib) in found.state_kib.iter().filter(|(_, kib)| **kib > STATE_KIB) {
        let text = format!("{node}: its state takes {kib} KiB, over {STATE_KIB}");
        found.over.push(text);
    }
    found
}

fn over(one: &Lived) -> Vec<String> {
    let Who { node, pid, .. } = &one.who;
    let name = format!("{node}: {:?} {pid}", one.part);
    let mut over = Vec::new();
    let percent = one.memory_kib.percent();
    if percent > MEMORY_PERCENT {
        over.push(format!(
            "{name}: memory grew by {percent:.1} %, over {MEMORY_PERCENT} %"
        ));
    }
    for (what, drift) in [("descriptors", one.descriptors), ("threads", one.threads)] {
        if drift.leaks() {
            let (first, last) = (drift.first.median, drift.last.median);
            over.push(format!("{name}: {first} {what} became {last}"));
        }
    }
    over
}

fn most(samples: &[Sample], of: fn(&super::sample::Disk) -> u64) -> BTreeMap<String, u64> {
    let mut most = BTreeMap::new();
    for disk in samples.iter().flat_map(|sample| &sample.disks) {
        let known: &mut u64 = most.entry(disk.node.clone()).or_default();
        *known = of(disk).max(*known);
    }
    most
}

/// Every process that is in the first sample and in the last: it has been there all the while.
fn lived(first: &[Sample], last: &[Sample]) -> Vec<Lived> {
    let (Some(begin), Some(end)) = (first.first(), last.last()) else {
        return Vec::new();
    };
    let ends = |who: &Who| end.holdings.iter().find(|one| one.who == *who);
    let all = begin.holdings.iter().filter_map(|one| {
        let as_what = ends(&one.who)?.part;
        let of = |read: fn(&super::sample::Holding) -> u64| {
            let values = |samples: &[Sample]| {
                let all = samples.iter().flat_map(|sample| &sample.holdings);
                quarter(all.filter(|other| other.who == one.who).map(read).collect())
            };
            Some(Drift {
                first: values(first)?,
                last: values(last)?,
            })
        };
        // A reserve that became the worker has other work: nothing to compare.
        if as_what != one.part {
            return None;
        }
        Some(Lived {
            who: one.who.clone(),
            part: one.part,
            memory_kib: of(|one| one.memory_kib)?,
            descriptors: of(|one| one.descriptors)?,
            threads: of(|one| one.threads)?,
        })
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Disk, Holding};
    use super::*;

    fn holding(node: &str, pid: i32, (memory_kib, descriptors): (u64, u64)) -> Holding {
        Holding {
            who: Who {
                node: node.into(),
                pid,
                started: 1,
            },
            part: Part::Worker,
            memory_kib,
            descriptors,
            threads: 9,
        }
    }

    /// Forty samples of a process, of which `of` says what it has.
    fn samples(of: impl Fn(u64) -> (u64, u64), state_kib: u64) -> Vec<Sample> {
        let one = |index: u64| Sample {
            at_s: index as f64,
            holdings: vec![
                holding("ams1", 7, of(index)),
                holding("fra1", 100 + index as i32, (1, 1)),
            ],
            disks: vec![Disk {
                node: "ams1".into(),
                state_kib,
                text_kib: index,
            }],
        };
        (0..40).map(one).collect()
    }

    #[test]
    fn what_stays_is_within_its_bounds() {
        // Up and down with the load, and back.
        let drifts = compare(&samples(
            |index| (11_000 + index % 7 * 100, 40 + index % 5),
            33_000,
        ));
        assert_eq!(drifts.over, Vec::<String>::new());
        assert_eq!(drifts.lived.len(), 1, "the others are new each time");
        assert_eq!(drifts.text_kib["ams1"], 39);
    }

    #[test]
    fn memory_that_grows_is_seen() {
        let grows = |percent: u64| {
            let drifts = compare(&samples(
                |index| (10_000 + index * percent * 100 / 39, 40),
                1,
            ));
            drifts.over
        };
        assert!(grows(4).is_empty());
        assert_eq!(grows(10).len(), 1, "{:?}", grows(10));
    }

    #[test]
    fn a_leaked_descriptor_is_seen_among_those_that_come_and_go() {
        let drifts = compare(&samples(|index| (1, 40 + index % 5 + index / 30), 1));
        assert_eq!(drifts.over.len(), 1, "{:?}", drifts.over);
        assert!(drifts.over[0].contains("descriptors"));
    }

    #[test]
    fn a_log_that_grows_past_its_bound_is_seen() {
        assert!(compare(&samples(|_| (1, 1), STATE_KIB)).over.is_empty());
        assert_eq!(compare(&samples(|_| (1, 1), STATE_KIB + 1)).over.len(), 1);
    }

    #[test]
    fn too_few_samples_prove_nothing() {
        let few: Vec<Sample> = samples(|_| (1, 1), 1).into_iter().take(12).collect();
        assert_eq!(compare(&few).over.len(), 1);
        assert_eq!(compare(&[]).over.len(), 1);
    }
}
