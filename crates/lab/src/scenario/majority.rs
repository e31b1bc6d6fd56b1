//! Issue, "Seen to hold" 5: without a majority everything is mute; `recover` serves
//! again; when the others return there is still one holder, and the cluster is whole: the
//! next failure is a takeover like any other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_host::clock::now;

use super::Ending;
use crate::client::Client;
use crate::cluster::{Cluster, WITNESS};
use crate::daemon;
use crate::fault::{self, Fault};
use crate::wait;

/// Time for the last node to mute itself, or to serve after `recover`.
const SOON: Duration = Duration::from_secs(10);

/// How long silence is watched.
const WATCH: Duration = Duration::from_secs(2);

/// Processes of a daemon whose reserve is there.
const PARENT_AND_TWO: usize = 3;

/// How the two that were lost come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Return {
    /// The server, then the witness, each before the other is known to be there.
    AtOnce,
    /// The witness, and the server once the witness is heard.
    WitnessFirst,
    /// The server, and the witness once the server is heard.
    ServerFirst,
    /// The one that recovered loses its power meanwhile and comes back while it is alone.
    AfterARestart,
    /// The worker of the one that recovered is killed while it is alone: its reserve goes on.
    AfterAWorkersDeath,
    /// Both with new disks, each readmitted.
    WithNewDisks,
    /// While the one that recovered is off: they are a majority of the old log and serve. It
    /// comes back to them.
    WithoutIt,
}

/// Who is left of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Holder,
    Standby,
}

const ROUNDS: [(Left, Return); 8] = [
    (Left::Holder, Return::AtOnce),
    (Left::Standby, Return::AtOnce),
    (Left::Standby, Return::WitnessFirst),
    (Left::Holder, Return::ServerFirst),
    (Left::Standby, Return::AfterARestart),
    (Left::Holder, Return::AfterAWorkersDeath),
    (Left::Standby, Return::WithNewDisks),
    (Left::Holder, Return::WithoutIt),
];

pub(super) fn play(cluster: &mut Cluster) -> Result<Ending> {
    for (left, back) in ROUNDS {
        round(cluster, left, back).with_context(|| format!("left: {left:?}, back: {back:?}"))?;
    }
    Ok(Ending::Held(format!(
        "{} times mute without a majority, recovered alone, whole again, and then a takeover",
        ROUNDS.len()
    )))
}

fn round(cluster: &mut Cluster, left: Left, back: Return) -> Result<()> {
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    let (me, other) = match left {
        Left::Holder => (holder, standby),
        Left::Standby => (standby, holder),
    };
    let client = cluster.client()?;
    std::thread::sleep(Duration::from_millis(300));
    cluster.observer.mark();
    let disks = [other.as_str(), WITNESS].map(|name| cluster.host(name).map(daemon::state));
    cluster.power_cut(WITNESS)?;
    cluster.power_cut(&other)?;
    if back == Return::WithNewDisks {
        for disk in disks {
            let disk = disk?;
            std::fs::remove_dir_all(&disk)
                .with_context(|| format!("emptying {}", disk.display()))?;
        }
    }
    mute(cluster, &me)?;
    recover(cluster, &me, &other, &client)?;
    come_back(cluster, &me, &other, back, &client)?;
    let last = cluster.wait_whole().context("after the others returned")?;
    std::thread::sleep(WATCH);
    let again = cluster.wait_whole().context("a while after that")?;
    ensure!(last == again, "the group went from {last} to {again}");
    cluster.verdict().check()?;
    takeover(cluster, &again)
}

/// Nobody answers, and `status` says what to do.
fn mute(cluster: &mut Cluster, me: &str) -> Result<()> {
    wait::until("the last node mutes itself", SOON, || {
        let status = cluster.status(me)?;
        let muted = status.is_some_and(|status| {
            !status.quorum
                && status
                    .groups
                    .first()
                    .is_some_and(|group| group.state == "muted")
        });
        Ok(muted.then_some(()))
    })?;
    cluster.observer.mark();
    std::thread::sleep(WATCH);
    let report = cluster.observer.report();
    ensure!(
        report.last_of(me).is_none(),
        "{me} answers without a majority"
    );
    let told = cluster.evenkeel().order(cluster.host(me)?, &["status"])?;
    ensure!(
        told.contains("recover"),
        "status does not say what to do:\n{told}"
    );
    Ok(())
}

/// Refused until every silent voter is named; then it serves.
fn recover(cluster: &Cluster, me: &str, other: &str, client: &Client) -> Result<()> {
    const ALONE: [&str; 3] = ["recover", "--alone", "--i-have-stopped"];
    let host = cluster.host(me)?;
    let half = cluster
        .evenkeel()
        .ask(host, &[&ALONE[..], &[other]].concat())?;
    let said = String::from_utf8_lossy(&half.stderr).into_owned();
    ensure!(
        !half.status.success() && said.contains(WITNESS),
        "the witness was not named: {said}"
    );
    let asked = now();
    let all = [&ALONE[..], &[other, "--i-have-stopped", WITNESS]].concat();
    cluster.evenkeel().order(host, &all)?;
    serves(client, asked, "the last node serves after recover")?;
    let told = cluster.evenkeel().order(host, &["status"])?;
    ensure!(
        told.contains("ALONE") && told.contains("NOT PROTECTED"),
        "status does not say that it is alone:\n{told}"
    );
    Ok(())
}

fn serves(client: &Client, since: evenkeel_core::Moment, what: &str) -> Result<()> {
    wait::until(what, SOON, || {
        Ok(client.last_good().filter(|(at, _)| *at > since).map(drop))
    })
}

fn come_back(
    cluster: &mut Cluster,
    me: &str,
    other: &str,
    back: Return,
    client: &Client,
) -> Result<()> {
    match back {
        Return::AtOnce => {
            cluster.boot(other)?;
            cluster.boot(WITNESS)
        }
        Return::WitnessFirst => one_by_one(cluster, me, [WITNESS, other]),
        Return::ServerFirst => one_by_one(cluster, me, [other, WITNESS]),
        Return::AfterARestart => {
            cluster.power_cut(me)?;
            let cut = now();
            cluster.boot(me)?;
            serves(client, cut, "it serves alone after a restart")?;
            cluster.boot(WITNESS)?;
            cluster.boot(other)
        }
        Return::AfterAWorkersDeath => {
            wait::until("a worker waits in reserve", SOON, || {
                let told = cluster.evenkeel().order(cluster.host(me)?, &["status"])?;
                let waits = daemon::processes(cluster.host(me)?)?.len() >= PARENT_AND_TWO;
                Ok((waits && !told.contains("in reserve")).then_some(()))
            })?;
            fault::inject(cluster, Fault::WorkerKilled, me)?;
            serves(client, now(), "it serves alone after its worker's death")?;
            cluster.boot(WITNESS)?;
            cluster.boot(other)
        }
        Return::WithNewDisks => {
            for name in [other, WITNESS] {
                cluster.boot(name)?;
                wait::until(&format!("{me} refuses {name}"), SOON, || {
                    let told = cluster.evenkeel().order(cluster.host(me)?, &["status"])?;
                    Ok(told.contains("evenkeel readmit").then_some(()))
                })?;
                let host = cluster.host(me)?;
                cluster.evenkeel().order(host, &["readmit", name])?;
            }
            Ok(())
        }
        Return::WithoutIt => {
            cluster.power_cut(me)?;
            let cut = now();
            cluster.boot(WITNESS)?;
            cluster.boot(other)?;
            serves(client, cut, "the old majority serves")?;
            cluster.boot(me)
        }
    }
}

fn one_by_one(cluster: &mut Cluster, me: &str, names: [&str; 2]) -> Result<()> {
    for name in names {
        cluster.boot(name)?;
        wait::until(&format!("{me} hears {name}"), SOON, || {
            let status = cluster.status(me)?.unwrap_or_default();
            let heard = status
                .nodes
                .iter()
                .any(|node| node.name == name && node.alive);
            Ok(heard.then_some(()))
        })?;
        // Still alone with one of two back, and still serving.
        std::thread::sleep(WATCH / 2);
    }
    Ok(())
}

/// The cluster is whole: its holder dies and the other one takes over.
fn takeover(cluster: &mut Cluster, holder: &str) -> Result<()> {
    let next = cluster.other(holder)?;
    cluster.observer.mark();
    cluster.power_cut(holder)?;
    cluster
        .wait_holder(&next, SOON)
        .context("a second failure")?;
    cluster.boot(holder)?;
    cluster.wait_whole().context("after the second failure")?;
    cluster.verdict().check()
}
