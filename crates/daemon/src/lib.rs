//! Where the rooms meet: threads, driver, one adapter file per room, supervision.

mod agreement;
mod decision;
mod departure;
mod drain;
mod flows;
mod generations;
mod inherited;
mod keeper;
mod lease;
mod logging;
mod mirror;
pub mod options;
mod parent;
mod peers;
mod prepare;
mod state;
mod status;
mod voting;
mod worker;

use std::process::ExitCode;

use evenkeel_host::sys::sched;

pub use options::Options;

/// What `ps` and `pgrep` call all processes of the daemon (DESIGN 5).
const PROCESS_NAME: &str = "evenkeel";

/// Runs the daemon in the foreground until it is told to stop: as the parent, or, if a
/// parent says so in the environment, as one of its workers.
pub fn run(options: &Options) -> ExitCode {
    // A worker is started by another path than its program's name.
    sched::name_thread(PROCESS_NAME);
    match std::env::var(inherited::WORKER) {
        Ok(inherited) => worker::run(options, &inherited),
        Err(_) => parent::run(options),
    }
}
