//! Scenarios: stories with a condition that must hold at their end.

mod addresses;
mod clients;
mod drain;
mod foresee;
mod freeze;
mod hostile;
mod identity;
mod load;
mod majority;
mod many_checks;
mod pool;
mod reload;
mod rest;
mod rule;
mod services;
mod spare;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::bench::keep_logs;
use crate::bridge::Switch;
use crate::cli::ScenarioOptions;
use crate::cluster::{Cluster, Plan};
use crate::inside::Lab;
use crate::setup::Setup;

/// The scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// A daemon frozen and thawed: mute within the lease, and ever after.
    Freeze,
    /// The rule "ping and apache": neither alone moves the group, both do.
    RuleAnd,
    /// The default rule: either moves it.
    RuleAny,
    /// No majority: mute; `recover` serves again; afterwards one holder.
    Majority,
    /// Maintenance: groups leave a drained node, and come to it only in need.
    Drain,
    /// `plan` and `doctor`: what is foreseen happens, what is wrong is found.
    Foresee,
    /// Busy loops and a saturated disk: no takeover.
    Load,
    /// A cloned state directory: never two holders.
    Clone,
    /// A second process of one node: never two holders.
    Double,
    /// A voter restarted in the middle of a takeover: never two holders.
    Restart,
    /// A voter's log lost: it casts no vote, also after a restart, until it is readmitted.
    LostLog,
    /// A full disk of the log: the holder keeps serving.
    DiskFull,
    /// A frozen disk of the log, and a reload beside it: the holder keeps serving. Root only.
    DiskFrozen,
    /// A step of the calendar clock of this machine: nothing happens. Root only, and
    /// only if asked for by name.
    ClockStep,
    /// Connections of idle and active clients to a holder whose power is cut: all are told.
    Clients,
    /// The configuration changed, the program replaced: not one request fails.
    Reload,
    /// Services and hooks on a real systemd: in order, once, and whatever goes wrong with them
    /// without a move or a wait that it is not worth. Root only.
    Services,
    /// Planned moves under clients that keep their connections: not one request fails.
    Pool,
    /// Thousands of checks on one node, then all of them failing: no heartbeat is late.
    ManyChecks,
    /// Three servers and a spare with four groups through a random series of deaths, returns,
    /// drains and failbacks: each group is where the order says. Only if asked for by name, for
    /// it takes long.
    Spare,
    /// A group of 2,200 addresses moves: all announced soon, no heartbeat late.
    Addresses,
    /// Forged, cut, repeated and reordered traffic, certificates that do not count, and a flood of
    /// the daemons' port for `--seconds`: nothing moves and no request fails.
    Hostile,
    /// At rest: processor and memory per node.
    Rest,
}

const USUAL: &[Scenario] = &[
    Scenario::Freeze,
    Scenario::RuleAnd,
    Scenario::RuleAny,
    Scenario::Majority,
    Scenario::Drain,
    Scenario::Foresee,
    Scenario::Load,
    Scenario::Clone,
    Scenario::Double,
    Scenario::Restart,
    Scenario::LostLog,
    Scenario::DiskFull,
    Scenario::DiskFrozen,
    Scenario::Clients,
    Scenario::Reload,
    Scenario::Services,
    Scenario::Pool,
    Scenario::ManyChecks,
    Scenario::Addresses,
    Scenario::Hostile,
    Scenario::Rest,
];

/// How a scenario ended, if it did not fail.
pub(crate) enum Ending {
    /// It held; with its figures.
    Held(String),
    /// It cannot be played here; why.
    Impossible(String),
}

impl Scenario {
    fn plan(self, program: &Path, options: &ScenarioOptions) -> Plan {
        let mut plan = Plan::new(program, options.profile);
        plan.interval = Duration::from_millis(options.check_interval);
        match self {
            Self::Spare => spare::plan(&mut plan),
            Self::RuleAnd => plan.fail_when = Some("ping and apache".into()),
            Self::Services => plan.setup = Setup::Services,
            Self::Addresses => addresses::enlarge(&mut plan),
            Self::DiskFull => plan.log_disk = crate::cluster::LogDisk::Small,
            Self::DiskFrozen => plan.log_disk = crate::cluster::LogDisk::Image,
            _ => {}
        }
        plan
    }

    fn play(self, cluster: &mut Cluster, plan: &Plan, options: &ScenarioOptions) -> Result<Ending> {
        match self {
            Self::Freeze => freeze::play(cluster, plan),
            Self::RuleAnd => rule::and(cluster),
            Self::RuleAny => rule::any(cluster),
            Self::Majority => majority::play(cluster),
            Self::Drain => drain::play(cluster),
            Self::Foresee => foresee::play(cluster),
            Self::Load => load::busy(cluster, options.length()),
            Self::Clone => identity::cloned(cluster),
            Self::Double => identity::double(cluster),
            Self::Restart => identity::restarted(cluster),
            Self::LostLog => identity::lost_log(cluster),
            Self::DiskFull => load::disk_full(cluster),
            Self::DiskFrozen => load::disk_frozen(cluster),
            Self::ClockStep => load::clock_step(cluster),
            Self::Clients => clients::play(cluster, options.runs),
            Self::Reload => reload::play(cluster, plan, options.runs),
            Self::Services => services::play(cluster, plan),
            Self::Pool => pool::play(cluster, options.runs),
            Self::ManyChecks => many_checks::play(cluster, plan, options.length()),
            Self::Hostile => hostile::play(cluster, plan, options.length()),
            Self::Spare => spare::play(cluster, options.steps, options.seed()),
            Self::Addresses => addresses::play(cluster, plan, options.runs),
            Self::Rest => rest::play(cluster, options.length()),
        }
    }

    /// Why it cannot be played here.
    fn hindrance(self) -> Option<String> {
        if self == Self::Services {
            return Setup::Services.hindrance();
        }
        let root = crate::apache::can_change_user();
        (!root && matches!(self, Self::DiskFrozen | Self::ClockStep))
            .then(|| "needs real root".to_owned())
    }
}

/// Plays one scenario on a cluster of its own.
fn play_one(
    lab: &Lab,
    switch: &Arc<Switch>,
    program: &Path,
    scenario: Scenario,
    options: &ScenarioOptions,
) -> Result<Ending> {
    if let Some(why) = scenario.hindrance() {
        return Ok(Ending::Impossible(why));
    }
    let mut plan = scenario.plan(program, options);
    if scenario == Scenario::Reload {
        plan.program = reload::own_program(lab, program)?;
    }
    let mut cluster = Cluster::start(lab, switch, &plan)?;
    let ending = cluster
        .wait_whole()
        .and_then(|_holder| scenario.play(&mut cluster, &plan, options));
    if ending.is_err() {
        keep_logs(
            &cluster,
            options.keep_logs.as_deref(),
            &format!("{scenario:?}"),
        );
    }
    ending
}

/// Plays the scenarios and prints how each ended.
pub(crate) fn run(
    lab: &Lab,
    switch: &Arc<Switch>,
    program: &Path,
    options: &ScenarioOptions,
) -> Result<ExitCode> {
    let chosen = if options.scenarios.is_empty() {
        USUAL.to_vec()
    } else {
        options.scenarios.clone()
    };
    let (mut held, mut failed, mut skipped) = (0, 0, 0);
    for scenario in chosen {
        match play_one(lab, switch, program, scenario, options) {
            Ok(Ending::Held(figures)) => {
                held += 1;
                println!("held     {scenario:?}: {figures}");
            }
            Ok(Ending::Impossible(why)) => {
                skipped += 1;
                println!("SKIPPED  {scenario:?}: {why}");
            }
            Err(fault) => {
                failed += 1;
                println!("FAILED   {scenario:?}: {fault:#}");
            }
        }
    }
    println!("{held} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
