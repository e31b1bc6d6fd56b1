//! The fault matrix: every trouble of the lab, and pairs of them, on real hosts, kernel, Apache
//! and daemon; clusters of 2, 3 and 5 nodes, both profiles, IPv4 and IPv6. docs/matrix.md says
//! how to read what it writes.

mod case;
mod design;
mod judge;
mod outlook;
mod picture;
mod report;
mod strike;
mod trouble;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::keep_logs;
use crate::bridge::Switch;
use crate::cli::MatrixOptions;
use crate::cluster::{self, Cluster, LogDisk, Plan, Profile};
use crate::host::Family;
use crate::inside::Lab;
use crate::setup::Setup;
use case::Played;
pub(crate) use design::{Case, Nodes, family};
use design::{Design, Factors};
use report::{Record, Report};
pub(crate) use strike::Under;
pub(crate) use trouble::Trouble;

/// Cases that are played on one cluster: what has failed a group is held down for twice as long
/// each time, and a new cluster is there sooner.
const WARM_CASES: usize = 3;

/// What a case takes before any was played: seen on two cores, with its share of new clusters.
const CASE_GUESS: Duration = Duration::from_secs(8);

/// From one question of a check to the next with four servers, each of which all others ask: more
/// would be a load of its own on a machine that has all of them.
const FIVE_INTERVAL: Duration = Duration::from_millis(100);

/// Rounds of single troubles at the beginning, before the pairs: enough that each has a figure
/// when the time is over early.
const ROUNDS_FIRST: usize = 2;

/// Rounds of single troubles in the end, if there is time: nobody reads finer distributions.
const ROUNDS_LAST: usize = 48;

/// The lines of the logs that are shown for a case that could not be played.
const LOG_LINES: usize = 15;

/// What is played, in this order.
struct Programme {
    /// The pairs that the issue names.
    named: Vec<Case>,
    /// Each trouble alone, some rounds.
    singles: Vec<Case>,
    /// The covering design.
    design: Design,
    /// Each trouble alone, round after round.
    repeats: Vec<Case>,
    /// Troubles that cannot be played here, and why.
    skipped: Vec<(Trouble, String)>,
}

impl Programme {
    fn of(options: &MatrixOptions, seed: u64) -> Result<Self> {
        let asked = match options.rows.is_empty() {
            true => trouble::ALL.to_vec(),
            false => options.rows.clone(),
        };
        let (mut troubles, mut skipped) = (Vec::new(), Vec::new());
        for trouble in asked {
            match hindrance(trouble, options) {
                Some(why) => skipped.push((trouble, why)),
                None => troubles.push(trouble),
            }
        }
        let factors = Factors {
            troubles,
            nodes: given(&options.nodes, &[Nodes::Two, Nodes::Three, Nodes::Five]),
            profiles: given(&options.profile, &[Profile::Balanced, Profile::Fast]),
            families: given(&options.family, &[Family::Four, Family::Six]),
        };
        ensure!(!factors.troubles.is_empty(), "nothing is left to be played");
        Ok(Self {
            named: factors.named(seed),
            singles: factors.singles(ROUNDS_FIRST, seed),
            design: factors.design(seed),
            // Another seed, or the same times would be drawn again.
            repeats: factors.singles(ROUNDS_LAST, seed.wrapping_add(1)),
            skipped,
        })
    }

    fn cases(&self) -> impl Iterator<Item = &Case> {
        let first = self.named.iter().chain(&self.singles);
        first.chain(&self.design.cases).chain(&self.repeats)
    }
}

fn given<T: Clone>(wished: &[T], all: &[T]) -> Vec<T> {
    if wished.is_empty() {
        all.to_vec()
    } else {
        wished.to_vec()
    }
}

/// Why a trouble cannot be played here.
fn hindrance(trouble: Trouble, options: &MatrixOptions) -> Option<String> {
    let root = crate::apache::can_change_user();
    match trouble {
        Trouble::Older if options.older.is_none() => {
            Some("needs a program of an older version: --older PATH".into())
        }
        Trouble::ClockStep if !options.step_clock => {
            Some("steps the clock of this whole machine: only with --step-clock".into())
        }
        Trouble::ClockStep | Trouble::DiskFull | Trouble::DiskFrozen if !root => {
            Some("needs real root".into())
        }
        other => other.setup().hindrance(),
    }
}

/// What a cluster has to be like for a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    nodes: Nodes,
    profile: Profile,
    family: Family,
    image: bool,
    mixed: bool,
    setup: Setup,
}

impl Kind {
    fn of(case: &Case) -> Self {
        Self {
            nodes: case.shape.nodes,
            profile: case.shape.profile,
            family: case.shape.family,
            image: case.troubles().any(Trouble::needs_image),
            mixed: case.has(Trouble::Older),
            setup: case.first.setup(),
        }
    }

    fn plan(self, program: &Path, older: Option<&Path>) -> Plan {
        let servers = cluster::servers(self.nodes.servers());
        let mut plan = Plan::with_servers(program, self.profile, servers);
        plan.witness = self.nodes.witness();
        plan.talk = self.family;
        plan.setup = self.setup;
        if self.nodes == Nodes::Five {
            plan.interval = FIVE_INTERVAL;
        }
        if self.image {
            plan.log_disk = LogDisk::Image;
        }
        if self.mixed {
            plan.older = older.map(Path::to_owned);
        }
        plan
    }
}

/// The cluster that is there, and for how many cases it has been.
struct Kept {
    kind: Kind,
    cluster: Cluster,
    cases: usize,
}

/// Plays cases one after the other.
struct Player<'a> {
    lab: &'a Lab,
    switch: &'a Arc<Switch>,
    program: &'a Path,
    older: Option<PathBuf>,
    options: &'a MatrixOptions,
    kept: Option<Kept>,
}

impl Player<'_> {
    /// A cluster for a case: the one that is there, or a new one.
    fn cluster(&mut self, kind: Kind) -> Result<&mut Kept> {
        let fits = |kept: &Kept| kept.kind == kind && kept.cases < WARM_CASES;
        if !self.kept.as_ref().is_some_and(fits) {
            // Its hosts have the names of the next one's.
            drop(self.kept.take());
            let plan = kind.plan(self.program, self.older.as_deref());
            let cluster = Cluster::start(self.lab, self.switch, &plan)?;
            self.kept = Some(Kept {
                kind,
                cluster,
                cases: 0,
            });
        }
        self.kept.as_mut().context("a cluster")
    }

    fn play(&mut self, case: &Case) -> Record {
        let start = Instant::now();
        let done = self.try_to_play(case);
        let (played, trouble) = match done {
            Ok(played) => (Some(played), None),
            Err(fault) => (None, Some(format!("{fault:#}"))),
        };
        let well = played.as_ref().is_some_and(Played::is_well);
        if !well {
            self.keep(case, trouble.is_some());
        }
        Record::new(case, start.elapsed(), played, trouble)
    }

    fn try_to_play(&mut self, case: &Case) -> Result<Played> {
        let kept = self.cluster(Kind::of(case))?;
        kept.cases += 1;
        let (played, as_it_was) = case::play(&mut kept.cluster, case)?;
        if !as_it_was {
            kept.cases = WARM_CASES;
        }
        Ok(played)
    }

    /// Keeps what a person needs who looks for what went wrong; no other case is played there.
    fn keep(&mut self, case: &Case, show: bool) {
        let Some(kept) = &mut self.kept else { return };
        kept.cases = WARM_CASES;
        let name = case.to_string().replace('/', "-");
        keep_logs(&kept.cluster, self.options.keep_logs.as_deref(), &name);
        for node in kept.cluster.names().iter().filter(|_| show) {
            println!(
                "    --- log of {node}\n{}",
                kept.cluster.log_tail(node, LOG_LINES)
            );
        }
    }
}

/// How much time there is, and whether the next case fits.
struct Budget {
    start: Instant,
    limit: Duration,
    cases: u32,
}

impl Budget {
    /// What a case takes.
    fn each(&self) -> Duration {
        match self.cases {
            0 => CASE_GUESS,
            cases => self.start.elapsed() / cases,
        }
    }

    fn has_room(&self) -> bool {
        self.start.elapsed() + self.each() <= self.limit
    }
}

fn tell_programme(programme: &Programme, options: &MatrixOptions, seed: u64) {
    let (named, singles) = (programme.named.len(), programme.singles.len());
    let pairs = programme.design.cases.len();
    let (_, wanted) = programme.design.covered(std::iter::empty());
    let designed = u32::try_from(named + singles + pairs).unwrap_or(u32::MAX);
    let minutes = (CASE_GUESS * designed).as_secs() / 60;
    println!(
        "matrix, --seed {seed}: {named} pairs that are named, {singles} single troubles, {pairs} \
         pairs by a covering design ({wanted} pairs of any two things to meet); at about {} s a \
         case {minutes} minutes, of which there are {}; single troubles again in what is left",
        CASE_GUESS.as_secs(),
        options.minutes
    );
    for (trouble, why) in &programme.skipped {
        println!("SKIPPED  {trouble}: {why}");
    }
}

fn tell(number: usize, record: &Record) {
    println!("{number:>4} {}", record.line());
    for complaint in record.complaints() {
        println!("     {complaint}");
    }
}

/// Plays the matrix and writes its table, its figures and its pictures; fails if anything was
/// not as it has to be.
pub(crate) fn run(
    lab: &Lab,
    switch: &Arc<Switch>,
    program: &Path,
    options: &MatrixOptions,
) -> Result<ExitCode> {
    let seed = options.seed();
    let programme = Programme::of(options, seed)?;
    tell_programme(&programme, options, seed);
    let cases: Vec<&Case> = match options.case.is_empty() {
        true => programme.cases().collect(),
        false => options.case.iter().collect(),
    };
    if options.list {
        cases.iter().for_each(|case| println!("{case}"));
        return Ok(ExitCode::SUCCESS);
    }
    let older = options
        .older
        .as_deref()
        .map(|path| beside(lab, path))
        .transpose()?;
    let mut player = Player {
        lab,
        switch,
        program,
        older,
        options,
        kept: None,
    };
    let mut report = Report::begin(program, seed, &programme.skipped);
    let limit = Duration::from_secs(options.minutes * 60);
    let mut budget = Budget {
        start: Instant::now(),
        limit,
        cases: 0,
    };
    for case in cases {
        // Cases that were asked for by name are all played.
        if options.case.is_empty() && !budget.has_room() {
            break;
        }
        let record = player.play(case);
        budget.cases += 1;
        report.add(case, record, budget.start.elapsed());
        let count = report.records.len();
        tell(count, &report.records[count - 1]);
        // What was played is not lost if the rest is.
        write(&report, &programme.design, options)?;
    }
    println!("\n{}", report.summary(&programme.design));
    Ok(if report.is_well() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The program of another version where hosts find it: it may have the name of the other one.
fn beside(lab: &Lab, program: &Path) -> Result<PathBuf> {
    let place = lab.directory().join("older");
    fs::create_dir_all(&place).context("making a place for another version")?;
    let path = place.join("evenkeel");
    fs::copy(program, &path).with_context(|| format!("copying {}", program.display()))?;
    Ok(path)
}

fn write(report: &Report, design: &Design, options: &MatrixOptions) -> Result<()> {
    let put = |path: &Path, text: String| {
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    };
    if let Some(path) = &options.json {
        put(path, serde_json::to_string_pretty(&report.json(design))?)?;
    }
    if let Some(path) = &options.markdown {
        put(path, report.markdown(design))?;
    }
    if let Some(place) = &options.svg {
        fs::create_dir_all(place).with_context(|| format!("making {}", place.display()))?;
        for (name, text) in picture::all(report) {
            put(&place.join(name), text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_would_end_too_late_is_not_begun() {
        let budget = |limit, cases| Budget {
            start: Instant::now(),
            limit,
            cases,
        };
        assert!(budget(CASE_GUESS * 2, 0).has_room());
        assert!(!budget(CASE_GUESS / 2, 0).has_room());
    }
}
