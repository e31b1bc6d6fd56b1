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
use crate::inside::Lab;
use crate::scenario::{self, Scenario};
use crate::{demo, launch, self_test};

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
        What::Demo(options) => demo::show(
            &lab,
            &switch,
            &program(&lab, options.evenkeel.as_deref())?,
            options.plain,
        ),
    }
}
