//! Where the rooms meet: threads, driver, one adapter file per room, supervision.

mod agreement;
mod checks;
mod decision;
mod departure;
pub mod doctor;
mod drain;
mod flight;
mod flows;
#[doc(hidden)]
pub mod fuzzing;
mod generations;
mod guarded;
mod inherited;
mod keeper;
mod lease;
mod line;
mod logging;
mod mirror;
pub mod options;
mod parent;
mod peers;
mod plan;
mod prepare;
mod process;
mod reload;
mod reloading;
mod removed;
mod services;
mod shutdown;
mod state;
mod status;
mod voting;
mod worker;

use std::path::Path;
use std::process::ExitCode;

use evenkeel_host::sys::sched;

pub use flight::replay;
pub use options::Options;

/// What `ps` and `pgrep` call all processes of the daemon (DESIGN 5).
const PROCESS_NAME: &str = "evenkeel";

/// Runs the daemon in the foreground until it is told to stop: as the parent, or, if a
/// parent says so in the environment, as one of its workers.
pub fn run(options: &Options) -> ExitCode {
    // A worker is started by another path than its program's name.
    sched::name_thread(PROCESS_NAME);
    if let Ok(inherited) = std::env::var(inherited::WORKER) {
        return worker::run(options, &inherited);
    }
    match std::env::var(parent::PARENT) {
        Ok(told) => parent::go_on(options, &told),
        Err(_) => parent::run(options),
    }
}

/// What this program understands of what another version leaves to it, as JSON: asked before
/// it takes that one's place. With what it makes of the configuration at `of`, as a parent
/// hands it down.
pub fn forms(of: Option<&Path>) -> String {
    serde_json::to_string(&reload::Forms::own(of)).unwrap_or_default()
}
