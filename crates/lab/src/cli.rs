//! The lab's own command line, `evenkeel lab ...`, and its continuation inside.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::bench::{self, Row};
use crate::bridge::Switch;
use crate::cluster::Profile;
use crate::compare::{self, CompareOptions};
use crate::demo::DemoOptions;
use crate::host::Family;
use crate::inside::Lab;
use crate::matrix::{self, Case, Nodes, Trouble};
use crate::scenario::{self, Scenario};
use crate::{demo, launch, self_test, soak};

/// Real hosts in namespaces on this machine: faults, figures, scenarios.
#[derive(Debug, Parser)]
#[command(name = "evenkeel lab", bin_name = "evenkeel lab")]
struct Line {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Check the lab itself, without the daemon: does it see what it is to see?
    SelfTest,
    /// Break the cluster in every way, again and again, and print what a client saw.
    Bench(BenchOptions),
    /// Measure peers beside evenkeel: the same hosts, client, observer and faults.
    Compare(CompareOptions),
    /// Play scenarios to their end and say whether they held.
    Scenario(ScenarioOptions),
    /// Play every fault and pairs of them on clusters of every shape, and say what was seen.
    Matrix(MatrixOptions),
    /// Keep a cluster under load and faults for hours, and say what of its memory, descriptors
    /// and files has grown.
    Soak(SoakOptions),
    /// What `evenkeel demo` shows.
    #[command(hide = true)]
    Demo(DemoLine),
}

/// Options of the benchmark.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchOptions {
    /// The daemon's program.
    #[arg(long, value_name = "PATH")]
    evenkeel: Option<PathBuf>,
    /// Runs of each row.
    #[arg(long, default_value_t = 20)]
    pub(crate) runs: usize,
    /// Profiles; both unless given.
    #[arg(long, value_delimiter = ',')]
    pub(crate) profile: Vec<Profile>,
    /// Rows; all unless given.
    #[arg(long, value_delimiter = ',')]
    pub(crate) rows: Vec<Row>,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Copy the daemons' logs into this directory, after each row and each run that
    /// went wrong.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep_logs: Option<PathBuf>,
}

/// Options of the scenarios.
#[derive(Clone, Debug, Args)]
pub(crate) struct ScenarioOptions {
    /// The daemon's program.
    #[arg(long, value_name = "PATH")]
    evenkeel: Option<PathBuf>,
    /// Which; all unless given.
    pub(crate) scenarios: Vec<Scenario>,
    /// The timing profile.
    #[arg(long, default_value = "balanced")]
    pub(crate) profile: Profile,
    /// Length of the scenarios that watch something for a time, in seconds.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Runs of the scenarios that tell a distribution or repeat a round of changes.
    #[arg(long, default_value_t = 5)]
    pub(crate) runs: usize,
    /// Steps of the scenario that is a random series.
    #[arg(long, default_value_t = 200)]
    pub(crate) steps: usize,
    /// What that series is drawn from: the same seed, the same steps, as far as time allows.
    /// Another one each time unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// From one question of a check to the next, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pub(crate) check_interval: u64,
    /// Copy the daemons' logs into this directory if something went wrong.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep_logs: Option<PathBuf>,
}

/// Options of the fault matrix.
#[derive(Clone, Debug, Args)]
pub(crate) struct MatrixOptions {
    /// The daemon's program.
    #[arg(long, value_name = "PATH")]
    evenkeel: Option<PathBuf>,
    /// The program of an older version, which runs beside the daemon's on every second node of
    /// some clusters.
    #[arg(long, value_name = "PATH")]
    pub(crate) older: Option<PathBuf>,
    /// Clusters of so many nodes: 2, 3, 5; all unless given.
    #[arg(long, value_delimiter = ',')]
    pub(crate) nodes: Vec<Nodes>,
    /// Profiles; both unless given.
    #[arg(long, value_delimiter = ',')]
    pub(crate) profile: Vec<Profile>,
    /// In which families the nodes talk: 4, 6; both unless given. Clients ask in both.
    #[arg(long, value_delimiter = ',', value_parser = matrix::family)]
    pub(crate) family: Vec<Family>,
    /// Time there is for all of it.
    #[arg(long, default_value_t = 90)]
    pub(crate) minutes: u64,
    /// What the design is drawn from: the same seed, the same cases. Another one each time unless
    /// given.
    #[arg(long)]
    seed: Option<u64>,
    /// Troubles; all unless given.
    #[arg(long, value_delimiter = ',')]
    pub(crate) rows: Vec<Trouble>,
    /// Play only this case, by the name that a report gives it; may be given again.
    #[arg(long, value_name = "CASE")]
    pub(crate) case: Vec<Case>,
    /// Play `clock-step`, too, which steps the clock of this whole machine and back. Root only.
    #[arg(long)]
    pub(crate) step_clock: bool,
    /// Print the names of the cases and play none.
    #[arg(long)]
    pub(crate) list: bool,
    /// Write what was seen to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the tables to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Draw pictures into this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) svg: Option<PathBuf>,
    /// Copy the daemons' logs into this directory for each case that was not as it has to be.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep_logs: Option<PathBuf>,
}

/// Options of the soak.
#[derive(Clone, Debug, Args)]
pub(crate) struct SoakOptions {
    /// The daemon's program.
    #[arg(long, value_name = "PATH")]
    evenkeel: Option<PathBuf>,
    /// How long.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) hours: f64,
    /// How many nodes: 3 or 5. Two alone outlive no fault.
    #[arg(long, default_value = "3")]
    pub(crate) nodes: Nodes,
    /// The timing profile.
    #[arg(long, default_value = "balanced")]
    pub(crate) profile: Profile,
    /// What the troubles are drawn from. Another one each time unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Write all samples to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Copy the daemons' logs into this directory if something went wrong.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep_logs: Option<PathBuf>,
}

/// A seed that nobody gave.
fn some_seed() -> u64 {
    // People type it again: six digits are enough.
    evenkeel_host::clock::now().as_nanos() / 1_000 % 1_000_000
}

impl MatrixOptions {
    /// What the design is drawn from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(some_seed)
    }
}

impl SoakOptions {
    /// What the troubles are drawn from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(some_seed)
    }
}

impl ScenarioOptions {
    /// Length of the scenarios that watch something for a time.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// What a random series is drawn from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
            .unwrap_or_else(|| evenkeel_host::clock::now().as_nanos())
    }
}

#[derive(Clone, Debug, Args)]
struct DemoLine {
    #[arg(long)]
    evenkeel: Option<PathBuf>,
    #[arg(long)]
    plain: bool,
}

/// The daemon's program: as given, or this one; from the lab's own binary the
/// `evenkeel` beside it.
fn program(lab: &Lab, given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => {
            let here = std::env::current_exe().context("finding this program")?;
            if here.file_name().is_some_and(|name| name == "evenkeel-lab") {
                here.with_file_name("evenkeel")
            } else {
                here
            }
        }
    };
    lab.within_reach(&path)
}

fn parse(arguments: &[OsString]) -> std::result::Result<Line, clap::Error> {
    let name = OsString::from("evenkeel lab");
    Line::try_parse_from(std::iter::once(&name).chain(arguments))
}

/// Runs `evenkeel lab ARGUMENTS` (without program name and `lab`).
pub fn main_lab(arguments: &[OsString]) -> ExitCode {
    if let Err(fault) = parse(arguments) {
        let _ = fault.print();
        return ExitCode::from(u8::try_from(fault.exit_code()).unwrap_or(2));
    }
    launch::launch(arguments).unwrap_or_else(|fault| {
        eprintln!("evenkeel lab: {fault:#}");
        ExitCode::FAILURE
    })
}

/// The command line that shows the demo, inside.
pub(crate) fn demo_arguments(options: &DemoOptions) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("demo")];
    if let Some(path) = &options.evenkeel {
        arguments.extend(["--evenkeel".into(), path.clone().into_os_string()]);
    }
    if options.plain {
        arguments.push("--plain".into());
    }
    arguments
}

/// The role of the lab's first process.
pub(crate) fn main_inside(arguments: &[OsString]) -> Result<ExitCode> {
    let line = parse(arguments).context("an inner command line")?;
    let lab = Lab::enter()?;
    let switch = Arc::new(Switch::new()?);
    match line.what {
        What::SelfTest => self_test::run(&lab, &switch),
        What::Bench(options) => bench::run(
            &lab,
            &switch,
            &program(&lab, options.evenkeel.as_deref())?,
            &options,
        ),
        What::Compare(options) => compare::run(
            &lab,
            &switch,
            &program(&lab, options.evenkeel.as_deref())?,
            &options,
        ),
        What::Scenario(options) => scenario::run(
            &lab,
            &switch,
            &program(&lab, options.evenkeel.as_deref())?,
            &options,
        ),
        What::Matrix(options) => matrix::run(
            &lab,
            &switch,
            &program(&lab, options.evenkeel.as_deref())?,
            &options,
        ),
        What::Soak(options) => soak::run(
            &lab,
            &switch,
            &program(&lab, options.evenkeel.as_deref())?,
            &options,
        ),
        What::Demo(options) => demo::show(
            &lab,
            &switch,
            &program(&lab, options.evenkeel.as_deref())?,
            options.plain,
        ),
    }
}
