//! The helper roles in which the lab starts its own binary again.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::{application, cli, fault, init, launch};

/// First argument of a helper role; none of them is a command that people type.
pub(crate) const INSIDE: &str = "lab-inside";
/// The first process of a host.
pub(crate) const INIT: &str = "lab-init";
/// Carries out orders on a host whose first process is systemd.
pub(crate) const AGENT: &str = "lab-agent";
/// Removes the lab's directory when the lab has gone.
pub(crate) const JANITOR: &str = "lab-janitor";
/// The slow application behind a host's Apache.
pub(crate) const APPLICATION: &str = "lab-application";
/// Spins: load on the processor.
pub(crate) const SPIN: &str = "lab-spin";
/// Writes and syncs without end: load on the disk.
pub(crate) const CHURN: &str = "lab-churn";

/// Runs the helper role that `arguments` (program name first) ask for; `None` if they
/// ask for none, and the program goes on as usual. Call it first thing in `main`,
/// before threads exist.
pub fn entry(arguments: &[OsString]) -> Option<ExitCode> {
    let role = arguments.get(1)?.to_str()?;
    let rest = &arguments[2..];
    let done = match role {
        INSIDE => cli::main_inside(rest),
        INIT => init::main(rest),
        AGENT => init::agent(rest),
        JANITOR => launch::janitor(rest),
        APPLICATION => application::main(rest),
        SPIN => fault::load::spin(rest),
        CHURN => fault::load::churn(rest),
        _ => return None,
    };
    Some(done.unwrap_or_else(|fault| {
        eprintln!("evenkeel lab: {fault:#}");
        ExitCode::FAILURE
    }))
}
