//! What the matrix came to: a line per case, a summary, a Markdown table, JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use super::case::Played;
use super::design::{Case, Design, Gap};
use super::trouble::{self, Trouble};
use crate::cluster::Profile;
use crate::figures::{Spread, spread};
use crate::host::Family;

/// One case and what it came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    /// By which `--case` plays it again.
    pub(crate) name: String,
    pub(crate) nodes: usize,
    pub(crate) profile: Profile,
    /// In which family nodes talked and the quick client asked: 4 or 6.
    pub(crate) family: u8,
    /// Whether the second trouble came within a lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) within_a_lease: Option<bool>,
    pub(crate) troubles: Vec<Trouble>,
    pub(crate) seconds: f64,
    /// Nothing, if the lab could not play it.
    pub(crate) played: Option<Played>,
    /// Why it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_played: Option<String>,
}

impl Record {
    pub(crate) fn new(
        case: &Case,
        took: Duration,
        played: Option<Played>,
        not_played: Option<String>,
    ) -> Self {
        Self {
            name: case.to_string(),
            nodes: case.shape.nodes.count(),
            profile: case.shape.profile,
            family: if case.shape.family == Family::Four {
                4
            } else {
                6
            },
            within_a_lease: case.second.map(|_| case.shape.gap == Gap::Within),
            troubles: case.troubles().collect(),
            seconds: took.as_secs_f64(),
            played,
            not_played,
        }
    }

    pub(crate) fn is_well(&self) -> bool {
        self.played.as_ref().is_some_and(Played::is_well)
    }

    /// What was not as it has to be.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let not_played = self
            .not_played
            .iter()
            .map(|why| format!("could not be played: {why}"));
        let played = self.played.iter().flat_map(Played::complaints);
        not_played.chain(played).collect()
    }

    /// The outage that clients of the family saw in which the quick one asks.
    pub(crate) fn outage(&self) -> Option<f64> {
        let outage = self.played.as_ref()?.outage_ms;
        if self.family == 4 {
            outage.ipv4
        } else {
            outage.ipv6
        }
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        let mut text = format!("{:<58}", self.name);
        match &self.played {
            None => text += " NOT PLAYED",
            Some(played) => {
                let outage = |one: Option<f64>| {
                    one.map_or_else(|| format!("{:>8}", "-"), |ms| format!("{ms:>8.1}"))
                };
                let _ = write!(
                    text,
                    "{:>7} {}{} {:>5}/{:<4} {}",
                    played.expected,
                    outage(played.outage_ms.ipv4),
                    outage(played.outage_ms.ipv6),
                    played.failed.ipv4,
                    played.failed.ipv6,
                    played.moves.join(", ")
                );
            }
        }
        text += if self.is_well() { "" } else { "  SHORT" };
        let _ = write!(text, " ({:.0} s)", self.seconds);
        text
    }
}

/// The machine on which it was measured.
#[derive(Clone, Debug, Serialize)]
struct Machine {
    processor: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    /// Processes that wanted to run when it began, over five minutes: figures of a machine that
    /// others use are worth little.
    load_at_start: f64,
}

/// The words after `name` in a file of /proc of lines `name: words`.
fn line_of(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let (key, words) = line.split_once(':')?;
        (key.trim() == name).then(|| words.trim().to_owned())
    });
    found.unwrap_or_else(|| "unknown".to_owned())
}

impl Machine {
    fn here() -> Self {
        let memory = line_of("/proc/meminfo", "MemTotal");
        let memory = memory
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse::<u64>().ok());
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load
            .split_whitespace()
            .nth(1)
            .and_then(|load| load.parse().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: line_of("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory.unwrap_or_default() / 1024,
            kernel: kernel.trim().to_owned(),
            load_at_start: load.unwrap_or_default(),
        }
    }
}

/// What `--version` of the daemon's program says.
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.unwrap_or_else(|_| "unknown".to_owned())
}

/// All that was played.
pub(crate) struct Report {
    machine: Machine,
    version: String,
    began: String,
    seed: u64,
    skipped: Vec<(Trouble, String)>,
    cases: Vec<Case>,
    pub(crate) records: Vec<Record>,
    took: Duration,
}

/// Single troubles of one kind in one profile.
#[derive(Clone, Debug, Serialize)]
struct Single {
    trouble: Trouble,
    nodes: usize,
    profile: Profile,
    runs: usize,
    /// Of the runs in which clients were served again before it was put right.
    ipv4_outage_ms: Spread,
    ipv6_outage_ms: Spread,
    failed_max: u64,
    /// In how many nobody answered until it was put right.
    mute: usize,
    went_back: usize,
    false_takeovers: usize,
    untruths: usize,
    two_answered_ms: f64,
}

/// One trouble in all pairs with it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct InPairs {
    cases: usize,
    served: usize,
    outage_max_ms: f64,
    mute: usize,
    two_answered_ms: f64,
    went_back: usize,
    false_takeovers: usize,
    untruths: usize,
    short: usize,
}

/// What a document for programs has.
#[derive(Serialize)]
pub(crate) struct Document<'a> {
    machine: &'a Machine,
    program: &'a str,
    began: &'a str,
    seconds: f64,
    seed: u64,
    designed: usize,
    pairs_met: usize,
    pairs_wanted: usize,
    skipped: Vec<String>,
    singles: Vec<Single>,
    cases: &'a [Record],
}

impl Report {
    /// Of a run that begins now.
    pub(crate) fn begin(program: &Path, seed: u64, skipped: &[(Trouble, String)]) -> Self {
        Self {
            machine: Machine::here(),
            version: version(program),
            began: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            seed,
            skipped: skipped.to_vec(),
            cases: Vec::new(),
            records: Vec::new(),
            took: Duration::ZERO,
        }
    }

    pub(crate) fn add(&mut self, case: &Case, record: Record, took: Duration) {
        self.cases.push(case.clone());
        self.records.push(record);
        self.took = took;
    }

    /// Whether all was as it has to be.
    pub(crate) fn is_well(&self) -> bool {
        !self.records.is_empty() && self.records.iter().all(Record::is_well)
    }

    fn played(&self) -> impl Iterator<Item = (&Record, &Played)> {
        self.records
            .iter()
            .filter_map(|record| Some((record, record.played.as_ref()?)))
    }

    fn singles(&self) -> Vec<Single> {
        let mut groups: BTreeMap<(usize, usize, Profile), Vec<&Played>> = BTreeMap::new();
        for (record, played) in self
            .played()
            .filter(|(record, _)| record.troubles.len() == 1)
        {
            let place = trouble::ALL
                .iter()
                .position(|one| *one == record.troubles[0]);
            let key = (place.unwrap_or_default(), record.nodes, record.profile);
            groups.entry(key).or_default().push(played);
        }
        let groups = groups.into_iter();
        groups
            .map(|((place, nodes, profile), runs)| {
                single(trouble::ALL[place], nodes, profile, &runs)
            })
            .collect()
    }

    fn in_pairs(&self, trouble: Trouble) -> InPairs {
        let mut all = InPairs::default();
        let pairs = self
            .played()
            .filter(|(record, _)| record.troubles.len() == 2);
        for (record, played) in pairs.filter(|(record, _)| record.troubles.contains(&trouble)) {
            all.cases += 1;
            all.served += usize::from(played.served);
            all.mute += usize::from(!played.served);
            all.outage_max_ms = all.outage_max_ms.max(record.outage().unwrap_or_default());
            all.two_answered_ms += played.two_answered_ms;
            all.went_back += played.went_back;
            all.false_takeovers += played.false_takeovers.len();
            all.untruths += played.untruths.len();
            all.short += usize::from(!played.is_well());
        }
        all
    }

    /// How much of the design was played, how many pairs met, and how many can.
    fn covered(&self, design: &Design) -> (usize, usize, usize) {
        let played = self.cases.iter().zip(&self.records);
        let played: Vec<&Case> = played
            .filter(|(_, one)| one.played.is_some())
            .map(|(case, _)| case)
            .collect();
        let done = design
            .cases
            .iter()
            .filter(|case| played.contains(case))
            .count();
        let (met, wanted) = design.covered(played.into_iter());
        (done, met, wanted)
    }

    /// In a few lines.
    pub(crate) fn summary(&self, design: &Design) -> String {
        let (done, met, wanted) = self.covered(design);
        let well = self
            .records
            .iter()
            .filter(|record| record.is_well())
            .count();
        let two: f64 = self
            .played()
            .map(|(_, played)| played.two_answered_ms)
            .sum();
        let count =
            |of: fn(&Played) -> usize| -> usize { self.played().map(|(_, one)| of(one)).sum() };
        let unplayed = self
            .records
            .iter()
            .filter(|record| record.played.is_none())
            .count();
        format!(
            "{} cases in {:.0} minutes, {well} as they have to be, {} short, {unplayed} could not \
             be played\n\
             of the covering design {done} of {} cases; {met} of {wanted} pairs met\n\
             two nodes answered for {two:.1} ms; answered without a majority: {}; false takeovers: \
             {}; untruths of why: {}",
            self.records.len(),
            self.took.as_secs_f64() / 60.0,
            self.records.len() - well,
            design.cases.len(),
            count(|one| usize::from(one.answered_without_majority > 0)),
            count(|one| one.false_takeovers.len()),
            count(|one| one.untruths.len()),
        )
    }

    /// For programs.
    pub(crate) fn json<'a>(&'a self, design: &Design) -> Document<'a> {
        let (_, met, wanted) = self.covered(design);
        let skipped = self.skipped.iter();
        Document {
            machine: &self.machine,
            program: &self.version,
            began: &self.began,
            seconds: self.took.as_secs_f64(),
            seed: self.seed,
            designed: design.cases.len(),
            pairs_met: met,
            pairs_wanted: wanted,
            skipped: skipped
                .map(|(trouble, why)| format!("{trouble}: {why}"))
                .collect(),
            singles: self.singles(),
            cases: &self.records,
        }
    }

    /// For people.
    pub(crate) fn markdown(&self, design: &Design) -> String {
        let mut text = String::from("# Fault matrix: what was seen\n\n");
        let machine = &self.machine;
        let _ = write!(
            text,
            "{} on {} ({} cores, {} MiB, Linux {}), begun {} with load {:.2}; \
             `evenkeel lab matrix --seed {}`.\n\n```text\n{}\n```\n\n",
            self.version,
            machine.processor,
            machine.cores,
            machine.memory_mib,
            machine.kernel,
            self.began,
            machine.load_at_start,
            self.seed,
            self.summary(design)
        );
        for (trouble, why) in &self.skipped {
            let _ = writeln!(text, "**Skipped: {trouble}**, {why}.\n");
        }
        self.put_singles(&mut text);
        self.put_pairs(&mut text);
        self.put_short(&mut text);
        text
    }

    fn put_singles(&self, text: &mut String) {
        *text += "## Each trouble alone\n\nOutage in ms as clients saw it, p50 / worst, of the runs \
                  in which they were served again before the trouble was put right.\n\n\
                  | trouble | nodes | profile | runs | IPv4 | IPv6 | failed, worst run | mute until put \
                  right | two answered | went back | false takeovers | untruths of why |\n\
                  | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
        for one in self.singles() {
            let outage = |spread: &Spread| match spread.count {
                0 => "-".to_owned(),
                _ => format!("{:.0} / {:.0}", spread.p50, spread.max),
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {:.0} ms | {} | {} | {} |",
                one.trouble,
                one.nodes,
                one.profile.name(),
                one.runs,
                outage(&one.ipv4_outage_ms),
                outage(&one.ipv6_outage_ms),
                one.failed_max,
                one.mute,
                one.two_answered_ms,
                one.went_back,
                one.false_takeovers,
                one.untruths
            );
        }
    }

    fn put_pairs(&self, text: &mut String) {
        *text += "\n## Each trouble in pairs with all others\n\n\
                  | trouble | pairs | served again | worst outage, ms | not served until put right | \
                  two answered | went back | false takeovers | untruths of why | short |\n\
                  | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
        for trouble in trouble::ALL {
            let all = self.in_pairs(trouble);
            if all.cases == 0 {
                continue;
            }
            let _ = writeln!(
                text,
                "| {trouble} | {} | {} | {:.0} | {} | {:.0} ms | {} | {} | {} | {} |",
                all.cases,
                all.served,
                all.outage_max_ms,
                all.mute,
                all.two_answered_ms,
                all.went_back,
                all.false_takeovers,
                all.untruths,
                all.short
            );
        }
    }

    fn put_short(&self, text: &mut String) {
        *text += "\n## What was not as it has to be\n\n";
        if self.is_well() {
            *text += "Nothing.\n";
        }
        for record in self.records.iter().filter(|record| !record.is_well()) {
            let _ = writeln!(text, "- `--case {}`", record.name);
            for complaint in record.complaints() {
                let _ = writeln!(text, "  - {complaint}");
            }
            if let Some(played) = &record.played {
                let (struck, moves) = (played.struck.join(", "), played.moves.join(", "));
                let _ = writeln!(text, "  - what was done: {struck}; moves: {moves}");
            }
        }
    }
}

fn single(trouble: Trouble, nodes: usize, profile: Profile, runs: &[&Played]) -> Single {
    let outages = |of: fn(&Played) -> Option<f64>| {
        let all = runs.iter().filter_map(|one| of(one));
        let all: Vec<Duration> = all.map(|ms| Duration::from_secs_f64(ms / 1e3)).collect();
        spread(&all)
    };
    let failed = runs
        .iter()
        .map(|one| one.failed.ipv4 + one.failed.ipv6)
        .max();
    Single {
        trouble,
        nodes,
        profile,
        runs: runs.len(),
        ipv4_outage_ms: outages(|one| one.outage_ms.ipv4),
        ipv6_outage_ms: outages(|one| one.outage_ms.ipv6),
        failed_max: failed.unwrap_or_default(),
        mute: runs.iter().filter(|one| !one.served).count(),
        went_back: runs.iter().map(|one| one.went_back).sum(),
        false_takeovers: runs.iter().map(|one| one.false_takeovers.len()).sum(),
        untruths: runs.iter().map(|one| one.untruths.len()).sum(),
        two_answered_ms: runs.iter().map(|one| one.two_answered_ms).sum(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::matrix::case::Both;

    /// A report of cases and the outages that they are to have had.
    pub(crate) fn of(cases: &[(&str, Option<f64>)]) -> Report {
        let mut report = Report::begin(Path::new("/nowhere/evenkeel"), 1, &[]);
        for (name, outage) in cases {
            let case: Case = name.parse().expect("a case");
            let played = Played {
                outage_ms: Both {
                    ipv4: *outage,
                    ipv6: *outage,
                },
                served: outage.is_some(),
                expected: "either",
                ..Played::default()
            };
            let record = Record::new(&case, Duration::from_secs(9), Some(played), None);
            report.add(&case, record, Duration::from_secs(9));
        }
        report
    }

    fn design() -> Design {
        let factors = super::super::Factors {
            troubles: vec![Trouble::PowerCut, Trouble::Loss],
            nodes: vec![crate::matrix::Nodes::Three],
            profiles: vec![Profile::Fast],
            families: vec![Family::Four],
        };
        factors.design(1)
    }

    #[test]
    fn a_table_has_what_was_played_and_what_was_short() {
        let mut report = of(&[
            ("3/fast/4/power-cut/1", Some(40.0)),
            ("3/fast/4/power-cut/2", Some(60.0)),
            ("3/fast/6/power-cut+loss/within/3", None),
        ]);
        let good = report.markdown(&design());
        assert!(
            good.contains("| power-cut | 3 | fast | 2 | 40 / 60 | 40 / 60 |"),
            "{good}"
        );
        assert!(good.contains("\nNothing.\n"), "{good}");
        assert!(report.is_well());
        let played = report.records[2].played.as_mut().expect("played");
        played.false_takeovers.push("ams1 to fra1 (rule)".into());
        assert!(!report.is_well());
        let bad = report.markdown(&design());
        assert!(
            bad.contains("--case 3/fast/6/power-cut+loss/within/3"),
            "{bad}"
        );
        assert!(bad.contains("false takeover: ams1 to fra1 (rule)"), "{bad}");
        assert!(!bad.contains("\nNothing.\n"));
    }

    #[test]
    fn what_was_not_played_covers_nothing() {
        let design = design();
        let mut report = of(&[]);
        let case = &design.cases[0];
        let broken = Record::new(case, Duration::from_secs(1), None, Some("no disk".into()));
        report.add(case, broken, Duration::from_secs(1));
        assert_eq!(report.covered(&design).0, 0);
        assert!(report.summary(&design).contains("1 could not be played"));
    }
}
