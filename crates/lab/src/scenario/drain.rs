//! Maintenance by `evenkeel drain`, with the command line's answers and exit codes.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Ending;
use crate::apache;
use crate::cluster::{Cluster, GROUP, WITNESS};
use crate::wait;

/// Time for a move that needs no hold-down to end.
const SOON: Duration = Duration::from_secs(10);

/// The hold-down of a first failure, and time for the move after it.
const AFTER_HOLD_DOWN: Duration = Duration::from_secs(60);

pub(super) fn play(cluster: &mut Cluster) -> Result<Ending> {
    let first = cluster.wait_whole()?;
    let second = cluster.other(&first)?;
    cluster.observer.mark();
    leaves(cluster, &first, &second)?;
    refusals(cluster, &first, &second)?;
    serves_in_need(cluster, &first, &second)?;
    outlives_a_reboot(cluster, &first)?;
    // Asked of a node that does not lead, most probably: passed on.
    says(cluster, &second, &["undrain", &first], 0, "drained no more")?;
    cluster.wait_whole()?;
    stays_without_another(cluster, &first, &second)?;
    cluster.wait_whole()?;
    cluster.verdict().check()?;
    Ok(Ending::Held(
        "left, refused, served in need, left again, outlived a reboot, stayed with its reason"
            .into(),
    ))
}

/// What a command must answer.
fn says(cluster: &Cluster, at: &str, order: &[&str], code: i32, words: &str) -> Result<()> {
    let output = cluster.evenkeel().ask(cluster.host(at)?, order)?;
    let told = [&output.stdout[..], &output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    ensure!(
        output.status.code() == Some(code) && told.contains(words),
        "{order:?} ended with {:?}, not {code} and {words:?}: {told}",
        output.status.code()
    );
    Ok(())
}

/// Until a node's `status` has the words.
pub(super) fn shows(cluster: &Cluster, at: &str, words: &str) -> Result<()> {
    wait::until(&format!("{at} shows {words:?}"), SOON, || {
        let told = cluster.evenkeel().order(cluster.host(at)?, &["status"])?;
        Ok(told.contains(words).then_some(()))
    })
}

fn leaves(cluster: &Cluster, first: &str, second: &str) -> Result<()> {
    let done = format!("{first} holds nothing");
    says(cluster, first, &["drain", first, "--for", "1h"], 0, &done)?;
    cluster.wait_holder(second, SOON)?;
    for name in [first, second, WITNESS] {
        shows(cluster, name, "drained by an operator for another 59 min")?;
        shows(cluster, name, "NOT PROTECTED")?;
    }
    let why = "an operator drains the holder";
    says(cluster, second, &["why", GROUP], 0, why)
}

fn refusals(cluster: &Cluster, first: &str, second: &str) -> Result<()> {
    let left = "only 1 of 3 voters would be left";
    says(cluster, WITNESS, &["drain", second], 1, left)?;
    let undrain = "`evenkeel undrain` ends that";
    let switch = ["switch", GROUP, "--to", first];
    says(cluster, WITNESS, &switch, 1, undrain)?;
    let too_long = ["drain", first, "--for", "31d"];
    says(cluster, WITNESS, &too_long, 1, "30 days")?;
    says(cluster, WITNESS, &["drain", "nobody"], 1, "no node nobody")
}

/// The other one dies: serving beats not serving. Once it is back, and its hold-down over, the
/// group leaves the drained one again.
fn serves_in_need(cluster: &mut Cluster, first: &str, second: &str) -> Result<()> {
    cluster.power_cut(second)?;
    cluster.wait_holder(first, SOON)?;
    shows(cluster, first, &format!("{GROUP} stays on {first}"))?;
    cluster.boot(second)?;
    cluster.wait_holder(second, AFTER_HOLD_DOWN)
}

fn outlives_a_reboot(cluster: &mut Cluster, first: &str) -> Result<()> {
    cluster.power_cut(first)?;
    cluster.boot(first)?;
    wait::until("it has booted", SOON, || cluster.status(first))?;
    shows(cluster, first, "drained by an operator")?;
    shows(cluster, WITNESS, "drained by an operator")
}

fn stays_without_another(cluster: &mut Cluster, first: &str, second: &str) -> Result<()> {
    apache::stop(cluster.host(first)?)?;
    shows(cluster, WITNESS, "NOT PROTECTED")?;
    let stays = "nobody else is fit to take it";
    says(cluster, WITNESS, &["drain", second], 2, stays)?;
    shows(cluster, WITNESS, "without an end")?;
    apache::heal(cluster.host_mut(first)?)?;
    cluster.wait_holder(first, SOON)?;
    says(cluster, WITNESS, &["undrain", second], 0, "drained no more")
}
