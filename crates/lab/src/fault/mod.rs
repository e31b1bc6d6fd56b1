//! Faults, from outside: nothing in the daemon helps with them.

pub(crate) mod clock;
pub(crate) mod disk;
pub(crate) mod load;

use anyhow::{Context, Result};
use rustix::process::{Signal, kill_process};

use crate::bridge::{Cable, Switch};
use crate::host::Host;
use crate::{apache, daemon, process};

/// What faults befall: hosts on a switch, and the program that is to keep them serving.
pub(crate) trait Ground {
    /// A host that has power.
    fn host(&self, name: &str) -> Result<&Host>;

    /// The switch that they hang on.
    fn switch(&self) -> &Switch;

    /// Cuts the power of a host.
    fn power_cut(&mut self, name: &str) -> Result<()>;

    /// The mark of the processes of that program.
    fn program(&self) -> &'static str {
        daemon::PROGRAM
    }
}

/// What can befall a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No power: nothing runs, nothing is sent.
    PowerCut,
    /// Every process of Apache killed.
    ServiceKilled,
    /// Every process of Apache stopped: connections are accepted and never answered.
    ServiceHung,
    /// Every process of the daemon stopped.
    DaemonFrozen,
    /// Every process of the daemon killed; Apache and the kernel go on.
    DaemonKilled,
    /// The daemon's worker killed; its parent goes on.
    WorkerKilled,
    /// The cable cut in both directions, the carrier up.
    CutBoth,
    /// Nobody hears the node; it hears all.
    CutFromHost,
    /// The node hears nobody; all hear it.
    CutToHost,
}

/// Does it to node `name`.
pub(crate) fn inject(ground: &mut impl Ground, fault: Fault, name: &str) -> Result<()> {
    let mark = ground.host(name)?.mark(ground.program());
    let cable = |cable| ground.switch().worsen_cable(name, cable);
    match fault {
        Fault::PowerCut => ground.power_cut(name),
        Fault::ServiceKilled => apache::kill(ground.host(name)?),
        Fault::ServiceHung => apache::hang(ground.host(name)?),
        Fault::DaemonFrozen => process::freeze_all(&mark),
        Fault::DaemonKilled => process::kill_all(&mark),
        Fault::WorkerKilled => kill_process(daemon::worker(ground.host(name)?)?, Signal::KILL)
            .context("killing the worker"),
        Fault::CutBoth => cable(Cable::CUT),
        Fault::CutFromHost => cable(Cable::MUTE),
        Fault::CutToHost => cable(Cable::DEAF),
    }
}
