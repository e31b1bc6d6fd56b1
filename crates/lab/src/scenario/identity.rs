//! Issue, "Seen to hold" 7: a cloned state directory, a second process with one node's
//! name, a voter restarted in the middle of a takeover: never two holders. And a voter whose
//! log was lost, which may have voted for what it no longer knows: no vote until `readmit`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_host::clock::now;

use super::Ending;
use crate::bridge::run;
use crate::client::Client;
use crate::cluster::{Cluster, WITNESS};
use crate::daemon;
use crate::fault::{self, Fault};
use crate::{process, wait};

/// How long the cluster is watched with a double in it.
const WATCH: Duration = Duration::from_secs(5);

/// Time in which a second process must have given up.
const GIVES_UP: Duration = Duration::from_secs(5);

/// How often a restored state directory is started: more often than the real one was since.
const STARTS: u32 = 3;

/// How often a voter is restarted in the middle of a takeover.
const ROUNDS: u32 = 4;

/// Time for a node to fetch the log, or for an election.
const SOON: Duration = Duration::from_secs(10);

/// After which a node has told the others how far its log goes: twice the time from one report to
/// the next. What it lost that is newer than its last report is not seen.
const REPORTED: Duration = Duration::from_millis(400);

/// After which what was going to move has moved.
const SETTLES: Duration = Duration::from_secs(2);

/// How often the servers are asked meanwhile.
const LOOK: Duration = Duration::from_millis(100);

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
    std::thread::sleep(REPORTED);
    process::kill_all(&cluster.host(&holder)?.mark(daemon::PROGRAM))?;
    run("rm", &["-rf", &from], "")?;
    run("cp", &["-a", &to, &from], "")?;
    cluster.start_daemon(&holder)?;
    std::thread::sleep(WATCH);
    cluster
        .verdict()
        .check()
        .context("with a restored backup")?;
    // However often it is started: its counter catches up, what it has not seen does not.
    for _ in 0..STARTS {
        process::kill_all(&cluster.host(&holder)?.mark(daemon::PROGRAM))?;
        cluster.start_daemon(&holder)?;
    }
    wait::until("the restored node is told from the real one", SOON, || {
        let told = cluster
            .evenkeel()
            .order(cluster.host(&standby)?, &["status"])?;
        Ok(told.contains("restored from a backup").then_some(()))
    })?;
    let served = cluster.serving()?;
    ensure!(
        served.as_deref() == Some(standby.as_str()),
        "{served:?} serves, not {standby}"
    );
    let other = cluster.host(&standby)?;
    cluster.evenkeel().order(other, &["readmit", &holder])?;
    cluster.wait_whole().context("after readmit")?;
    cluster.verdict().check()?;
    drop(client);
    Ok(Ending::Held(
        "a restored backup of the state never led to two holders, and is let in by `readmit`"
            .into(),
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

/// The standby's log is lost. It fetches it again and is restarted, and still casts no vote and
/// promises nothing: with the witness away everything is mute. Readmitted, it does both.
pub(super) fn lost_log(cluster: &mut Cluster) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    let client = cluster.client()?;
    cluster.observer.mark();
    let log = daemon::state(cluster.host(&standby)?).join("log.redb");
    for loss in [true, false] {
        process::kill_all(&cluster.host(&standby)?.mark(daemon::PROGRAM))?;
        if loss {
            std::fs::remove_file(&log).with_context(|| format!("removing {}", log.display()))?;
        }
        cluster.start_daemon(&standby)?;
        cluster.wait_whole()?;
        wait_for_vote(cluster, &standby, false)?;
    }
    // The others start anew: what they say of it first must not let it in either.
    for other in [WITNESS, &holder] {
        process::kill_all(&cluster.host(other)?.mark(daemon::PROGRAM))?;
        cluster.start_daemon(other)?;
        cluster.wait_whole()?;
        wait_for_vote(cluster, &standby, false)?;
    }
    without_the_witness(cluster, &standby, false, &client)?;
    let witness = cluster.host(WITNESS)?;
    cluster.evenkeel().order(witness, &["readmit", &standby])?;
    wait_for_vote(cluster, &standby, true)?;
    without_the_witness(cluster, &standby, true, &client)?;
    process::kill_all(&cluster.host(&standby)?.mark(daemon::PROGRAM))?;
    cluster.start_daemon(&standby)?;
    cluster.wait_whole()?;
    wait_for_vote(cluster, &standby, true)?;
    without_the_witness(cluster, &standby, true, &client)?;
    cluster.verdict().check()?;
    drop(client);
    Ok(Ending::Held(
        "no vote without a memory, a vote after `readmit`".into(),
    ))
}

/// The witness is away for a while: the two servers are a majority if both vote.
fn without_the_witness(
    cluster: &mut Cluster,
    standby: &str,
    votes: bool,
    client: &Client,
) -> Result<()> {
    let sees = |cluster: &Cluster| -> Result<Option<bool>> {
        let status = cluster.status(standby)?;
        Ok(status.map(|status| status.quorum && status.leader.is_some()))
    };
    cluster.power_cut(WITNESS)?;
    wait::until("the servers notice", SOON, || {
        Ok((sees(cluster)? == Some(votes)).then_some(()))
    })?;
    std::thread::sleep(SETTLES);
    let since = now();
    let end = since + WATCH;
    while now() < end {
        let seen = sees(cluster)?;
        ensure!(
            seen == Some(votes),
            "a majority of the two servers: {seen:?} instead of {votes}"
        );
        std::thread::sleep(LOOK);
    }
    let served = client.last_good().is_some_and(|(at, _)| at > since);
    ensure!(
        served == votes,
        "served without the witness: {served} instead of {votes}"
    );
    cluster.boot(WITNESS)?;
    cluster.wait_whole()?;
    Ok(())
}

fn wait_for_vote(cluster: &Cluster, name: &str, votes: bool) -> Result<()> {
    let what = format!("status on {name} says whether it votes ({votes})");
    wait::until(&what, SOON, || {
        let told = cluster.evenkeel().order(cluster.host(name)?, &["status"])?;
        let quorum = cluster.status(name)?.is_some_and(|status| status.quorum);
        Ok((quorum && told.contains("does not vote") != votes).then_some(()))
    })
}
