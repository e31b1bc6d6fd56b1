//! Issue, "Seen to hold" 7: a cloned state directory, a second process with one node's
//! name, a voter restarted in the middle of a takeover: never two holders.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Ending;
use crate::bridge::run;
use crate::cluster::{Cluster, WITNESS};
use crate::daemon;
use crate::fault::{self, Fault};
use crate::{process, wait};

/// How long the cluster is watched with a double in it.
const WATCH: Duration = Duration::from_secs(5);

/// Time in which a second process must have given up.
const GIVES_UP: Duration = Duration::from_secs(5);

/// How often a voter is restarted in the middle of a takeover.
const ROUNDS: u32 = 4;

/// The mark of the double's processes.
const DOUBLE: &str = "double";

/// The holder dies and comes back with the state directory that it had some time ago,
/// while the original comes back as well, on the standby's machine.
pub(super) fn cloned(cluster: &mut Cluster) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    let state = daemon::state(cluster.host(&holder)?);
    let copy = state.with_file_name("state.copy");
    let (from, to) = (state.display().to_string(), copy.display().to_string());
    run("cp", &["-a", &from, &to], "")?;
    let client = cluster.client()?;
    cluster.observer.mark();
    // The group moves, so that the copy is from before the move.
    cluster.switch_over(&holder, &standby)?;
    process::kill_all(&cluster.host(&holder)?.mark(daemon::PROGRAM))?;
    run("rm", &["-rf", &from], "")?;
    run("cp", &["-a", &to, &from], "")?;
    cluster.start_daemon(&holder)?;
    std::thread::sleep(WATCH);
    cluster
        .verdict()
        .check()
        .context("with a restored backup")?;
    // Now the standby dies: the restored node may not take over before `readmit`.
    let served = cluster.serving()?;
    ensure!(
        served.as_deref() == Some(standby.as_str()),
        "{served:?} serves, not {standby}"
    );
    drop(client);
    Ok(Ending::Held(
        "a restored backup of the state never led to two holders".into(),
    ))
}

/// A second daemon of the holder's name: on the same state, and on a copy of it.
pub(super) fn double(cluster: &mut Cluster) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    let client = cluster.client()?;
    cluster.observer.mark();
    let evenkeel = cluster.evenkeel().clone();
    let host = cluster.host_mut(&holder)?;
    let (state, socket) = (daemon::state(host), host.disk().join("double.sock"));
    evenkeel.run_as(host, &holder, &state, &socket, DOUBLE)?;
    let mark = host.mark(DOUBLE);
    wait::until(
        "a second process on one state directory gives up",
        GIVES_UP,
        || Ok(process::with_mark(&mark)?.is_empty().then_some(())),
    )?;
    // A copy, on the other server, under the holder's name.
    let standby = cluster.other(&holder)?;
    let copy = cluster.host(&standby)?.disk().join("double.state");
    run(
        "cp",
        &[
            "-a",
            &state.display().to_string(),
            &copy.display().to_string(),
        ],
        "",
    )?;
    process::kill_all(&cluster.host(&standby)?.mark(daemon::PROGRAM))?;
    let host = cluster.host_mut(&standby)?;
    let socket = host.disk().join("double.sock");
    evenkeel.run_as(host, &holder, &copy, &socket, DOUBLE)?;
    std::thread::sleep(WATCH);
    cluster
        .verdict()
        .check()
        .context("with a clone on another machine")?;
    process::kill_all(&cluster.host(&standby)?.mark(DOUBLE))?;
    drop(client);
    Ok(Ending::Held(
        "a second process gave up, a clone elsewhere was no second holder".into(),
    ))
}

/// The holder is cut off, and the witness loses its power, or its daemon, right then.
pub(super) fn restarted(cluster: &mut Cluster) -> Result<Ending> {
    let mut client = cluster.client()?;
    for round in 0..ROUNDS {
        let holder = cluster.wait_whole()?;
        cluster.observer.mark();
        fault::inject(cluster, Fault::CutFromHost, &holder)?;
        // In the middle: some time within the lease that is running out.
        std::thread::sleep(Duration::from_millis(u64::from(20 + 30 * round)));
        if round.is_multiple_of(2) {
            cluster.power_cut(WITNESS)?;
            cluster.boot(WITNESS)?;
        } else {
            // Not killed before: what is ending already has no mark to be waited for by.
            process::kill_all(&cluster.host(WITNESS)?.mark(daemon::PROGRAM))?;
            cluster.start_daemon(WITNESS)?;
        }
        let standby = cluster.other(&holder)?;
        cluster.wait_holder(&standby, WATCH * 2)?;
        cluster.heal()?;
        cluster
            .verdict()
            .check()
            .with_context(|| format!("round {round}"))?;
        // A fresh client keeps the list of requests short.
        client = cluster.client()?;
    }
    drop(client);
    Ok(Ending::Held(format!(
        "{ROUNDS} takeovers with a voter restarted in their middle"
    )))
}
