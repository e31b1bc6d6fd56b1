//! Peers measured beside evenkeel in the same run: on the same hosts, with the same client,
//! observer and faults, one after the other in each round. `docs/compare.md` says what the
//! figures mean and what cannot be compared.

mod measure;
pub(crate) mod overlap;
mod peers;
mod report;
mod row;
pub(crate) mod stage;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::bridge::Switch;
use crate::inside::Lab;
use measure::Limits;
use peers::{NAMES, Name, Peer};
use report::{Entry, Outcome, Results, Told};
use row::{ROWS, Row};
use stage::Stage;

/// Options of the comparison.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompareOptions {
    /// The daemon's program.
    #[arg(long, value_name = "PATH")]
    pub(crate) evenkeel: Option<PathBuf>,
    /// Rounds; in each, every peer plays every row once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Peers; all unless given.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Name>,
    /// Rows; all unless given.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Row>,
    /// A service that is not back by then counts as lost, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    lost: u64,
    /// How long the busy loops run, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    load: u64,
    /// Write every run to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables to this file as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write a picture of the outages to this file as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Copy the peers' logs into this directory when a run went wrong or did not heal.
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
}

impl CompareOptions {
    fn limits(&self) -> Limits {
        Limits {
            lost: Duration::from_secs(self.lost),
            load: Duration::from_secs(self.load),
        }
    }

    fn rows(&self) -> Vec<Row> {
        if self.rows.is_empty() {
            ROWS.to_vec()
        } else {
            self.rows.clone()
        }
    }

    fn names(&self) -> Vec<Name> {
        if self.peers.is_empty() {
            NAMES.to_vec()
        } else {
            self.peers.clone()
        }
    }
}

/// Whether a program, by name or path, is there.
fn is_here(program: &str) -> bool {
    let places = std::env::var_os("PATH").unwrap_or_default();
    Path::new(program).is_absolute() && Path::new(program).exists()
        || std::env::split_paths(&places).any(|place| place.join(program).is_file())
}

/// Fails if a peer that was asked for is not installed: it should not be missing from the
/// tables by accident.
fn check_needed(peers: &BTreeMap<Name, Box<dyn Peer>>) -> Result<()> {
    let needed = peers.values().flat_map(|peer| peer.needs());
    let missing = needed.filter(|(program, _)| !is_here(program));
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        bail!(
            "programs of the peers are missing, of Debian's packages {}: make setup-peers \
             installs them without starting them, or leave those peers out with --peers",
            packages.join(" ")
        );
    }
    Ok(())
}

/// What the figures were measured on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let uname = rustix::system::uname();
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim().to_owned())
    });
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().find_map(|line| {
        let name = line.strip_prefix("PRETTY_NAME=")?;
        Some(name.trim_matches('"').to_owned())
    });
    format!(
        "{cores} processors ({}), Linux {}, {}",
        model.unwrap_or_else(|| "of an unknown kind".to_owned()),
        uname.release().to_string_lossy(),
        system.unwrap_or_else(|| "an unknown system".to_owned())
    )
}

/// Why a peer has no stage.
#[derive(Clone)]
enum Closed {
    /// It cannot work here.
    Skipped(String),
    /// It did not start.
    Wrong(String),
}

impl From<Closed> for Outcome {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Skipped(why) => Self::Skipped(why),
            Closed::Wrong(why) => Self::Wrong(why),
        }
    }
}

/// One peer's part of one round.
struct Turn<'a> {
    lab: &'a Lab,
    switch: &'a Arc<Switch>,
    options: &'a CompareOptions,
    name: Name,
    round: usize,
    stage: Option<Stage>,
    /// Why there can be no stage in this turn: it is not tried again for each row.
    closed: Option<Closed>,
}

impl Turn<'_> {
    /// The peer on a stage; a new one if there is none.
    fn stage(&mut self, peer: &mut dyn Peer) -> std::result::Result<&mut Stage, Closed> {
        if let Some(why) = &self.closed {
            return Err(why.clone());
        }
        if self.stage.is_none() {
            let opened = match Stage::open(self.lab, self.switch, peer) {
                Ok(Ok(stage)) => Ok(stage),
                Ok(Err(hindrance)) => Err(Closed::Skipped(hindrance)),
                Err(fault) => Err(Closed::Wrong(format!("it did not start: {fault:#}"))),
            };
            self.closed = opened.as_ref().err().cloned();
            self.stage = Some(opened?);
        }
        let none = || Closed::Wrong("there is no stage".to_owned());
        self.stage.as_mut().ok_or_else(none)
    }

    fn play(&mut self, peer: &mut dyn Peer, row: Row) -> Outcome {
        if let Some(why) = peer.cannot(row) {
            return Outcome::Skipped(why);
        }
        let (round, limits) = (self.round, self.options.limits());
        let measured = match self.stage(peer) {
            Err(closed) => return closed.into(),
            Ok(stage) => measure::run(stage, peer, row, round, limits),
        };
        let well = measured.as_ref().is_ok_and(|run| run.unhealed.is_none());
        if !well && let Some(stage) = self.stage.take() {
            // The next row takes a new one: what this one ended as is no start.
            if let Some(into) = &self.options.keep_logs {
                let name = format!("{:?}-{row:?}-{round}", self.name);
                stage.keep_logs(peer, &into.join(name));
            }
        }
        match measured {
            Ok(measured) => Outcome::Measured(measured),
            Err(fault) => Outcome::Wrong(format!("{fault:#}")),
        }
    }
}

/// One line about one run, as it ends.
fn say(entry: &Entry) {
    let what = match &entry.outcome {
        Outcome::Measured(run) => format!(
            "outage {:.0} ms{}, {} of {} failed, two answered {:.0} ms ({} times){}",
            run.outage_ms,
            if run.served { "" } else { " (not back)" },
            run.failed,
            run.requests,
            run.two_ms + run.two_later_ms,
            run.two_cases,
            match &run.unhealed {
                None => String::new(),
                Some(why) => format!(", not right again: {why}"),
            }
        ),
        Outcome::Skipped(why) => format!("skipped: {why}"),
        Outcome::Wrong(why) => format!("WENT WRONG: {why}"),
    };
    println!(
        "round {}, {}, {}: {what}",
        entry.round + 1,
        entry.peer.text(),
        entry.row.name()
    );
}

/// All rows of all peers, round after round; in each round another peer begins.
fn play(
    lab: &Lab,
    switch: &Arc<Switch>,
    options: &CompareOptions,
    peers: &mut BTreeMap<Name, Box<dyn Peer>>,
    results: &mut Results,
) -> Result<()> {
    let (rows, mut order) = (options.rows(), options.names());
    let told = peers.iter();
    let told = told.filter_map(|(name, peer)| Some((*name, peer.hindrance()?)));
    let mut hindrances: BTreeMap<Name, String> = told.collect();
    for round in 0..options.rounds {
        for &name in &order {
            let peer = peers.get_mut(&name).context("a peer without a name")?;
            let mut turn = Turn {
                lab,
                switch,
                options,
                name,
                round,
                stage: None,
                closed: hindrances.get(&name).cloned().map(Closed::Skipped),
            };
            for &row in &rows {
                let outcome = turn.play(&mut **peer, row);
                let entry = Entry {
                    round,
                    peer: name,
                    row,
                    outcome,
                };
                say(&entry);
                results.runs.push(entry);
            }
            // What it cannot do here it cannot do in the next round.
            if let Some(Closed::Skipped(why)) = turn.closed {
                hindrances.insert(name, why);
            }
            // Whatever becomes of the rest, what was measured is there.
            write(options, results)?;
        }
        order.rotate_left(1);
    }
    Ok(())
}

/// Writes the files that were asked for.
fn write(options: &CompareOptions, results: &Results) -> Result<()> {
    let put = |path: &Option<PathBuf>, text: &dyn Fn() -> Result<String>| match path {
        Some(path) => {
            fs::write(path, text()?).with_context(|| format!("writing {}", path.display()))
        }
        None => Ok(()),
    };
    put(&options.json, &|| {
        Ok(serde_json::to_string_pretty(results)?)
    })?;
    put(&options.markdown, &|| Ok(results.markdown()))?;
    put(&options.svg, &|| Ok(results.picture().svg()))
}

/// Runs the comparison; fails if a run went wrong, or if evenkeel let two hosts answer.
pub(crate) fn run(
    lab: &Lab,
    switch: &Arc<Switch>,
    program: &Path,
    options: &CompareOptions,
) -> Result<ExitCode> {
    let names = options.names();
    let peers = names.iter().map(|name| (*name, name.peer(program)));
    let mut peers: BTreeMap<Name, Box<dyn Peer>> = peers.collect();
    check_needed(&peers)?;
    let told = |name: &Name| Told {
        peer: *name,
        version: peers[name].version(),
        setup: peers[name].told(),
    };
    // In the tables' order, whatever order they were asked for in.
    let inside = NAMES.iter().filter(|name| peers.contains_key(*name));
    let mut results = Results {
        machine: machine(),
        lost_seconds: options.lost,
        load_seconds: options.load,
        peers: inside.map(told).collect(),
        runs: Vec::new(),
    };
    play(lab, switch, options, &mut peers, &mut results)?;
    println!("{}", results.table());
    let behind = results.behind();
    for line in &behind {
        println!("behind: {line}");
    }
    if behind.is_empty() {
        println!("evenkeel is ahead of every peer, or level, in every row that was played");
    }
    let bad = results.runs.iter().filter(|entry| match &entry.outcome {
        Outcome::Measured(run) => entry.peer.is_ours() && run.two_cases > 0,
        Outcome::Skipped(_) => false,
        Outcome::Wrong(_) => true,
    });
    Ok(match bad.count() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
