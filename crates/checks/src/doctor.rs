//! What makes this machine unfit to ask a configuration's checks, found without changing
//! anything. None of it is a fault of the file: another node may be fit.

use evenkeel_host::systemd::{Running, Systemd};

use crate::io::unit::missing;
use crate::probe::{Asker, Probe, Resolved};

/// Everything that is wrong on this machine with what these probes ask of it. Asks systemd if
/// it has to; call it within a tokio runtime, where waiting is allowed.
pub async fn examine(probes: &[Probe], systemd: &Systemd) -> Vec<String> {
    let mut faults = Vec::new();
    for probe in probes.iter().filter(|probe| probe.role == Asker::Node) {
        let Resolved::Unit(unit) = &probe.question else {
            continue;
        };
        let check = &probe.check;
        match systemd.look(unit).await {
            Ok(state) if state.running() == Running::Missing => {
                faults.push(format!("check {check}: {unit} is {}", missing(&state)));
            }
            Ok(_) => {}
            Err(error) => faults.push(format!("check {check}: failed to {error}")),
        }
    }
    faults
}
