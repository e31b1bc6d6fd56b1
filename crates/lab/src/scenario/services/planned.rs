//! What is meant to happen, under requests: 0 of them may fail.

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};

use super::super::reload::none_failed;
use super::{SOON, apache_is, app, epoch, standbys, story, tells, unmoved};
use crate::bench::settled;
use crate::client::SLOW;
use crate::cluster::{Cluster, Plan};
use crate::{apache, daemon, figures, systemd, wait};

use evenkeel_host::clock::now;

/// What the end of a planned move does on the former holder, in order.
const LEAVES: [&str; 3] = ["hook before_close", "service app stops", "hook after_close"];

/// Does something under requests that take a while, none of which may fail; tells the longest
/// gap between two answers.
fn unharmed(
    cluster: &mut Cluster,
    what: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<Option<String>> {
    let client = cluster.client_of(SLOW)?;
    wait::until("answers come", SOON, || Ok(client.last_good()))?;
    let from = now();
    what(cluster)?;
    let to = now();
    let records = settled(&client, from, to);
    none_failed(&records)?;
    let gap = figures::seen(&records, from, to).gap.as_secs_f64() * 1e3;
    Ok(Some(format!("0 failed, gap {gap:.0} ms")))
}

/// The former holder's part of a planned move: services stopped after the hook that comes
/// before, each while what it needs still runs.
fn has_left(cluster: &Cluster, name: &str) -> Result<()> {
    let told = tells(cluster, name, &LEAVES)?;
    ensure!(told.len() == LEAVES.len(), "{name} tells {told:#?}");
    ensure!(told[0].contains("role=closing"), "{}", told[0]);
    ensure!(!told[1].contains("with 0 of Apache"), "{}", told[1]);
    ensure!(told[2].contains("role=standby"), "{}", told[2]);
    apache_is(cluster, name, &super::DOWN)
}

/// The new holder starts what is cold while the old one holds new attempts.
pub(super) fn switched(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = cluster.wait_whole()?;
    let to = standbys(cluster, &holder).pop().context("no standby")?;
    let figure = unharmed(cluster, |cluster| {
        cluster.switch_over(&holder, &to)?;
        cluster.wait_holder(&to, SOON)
    })?;
    has_left(cluster, &holder)?;
    Ok(figure)
}

pub(super) fn drained(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = cluster.wait_whole()?;
    let figure = unharmed(cluster, |cluster| {
        cluster.maintain(&holder, "drain", &holder)
    });
    let left = has_left(cluster, &holder);
    cluster.maintain(&holder, "undrain", &holder)?;
    left.and(figure)
}

/// Nothing that runs with the group notices, and no hook runs.
pub(super) fn worker_killed(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = cluster.wait_whole()?;
    let running = |cluster: &Cluster| -> Result<(String, Option<u32>)> {
        let invocation = systemd::property(cluster.host(&holder)?, apache::UNIT, "InvocationID")?;
        Ok((invocation, app(cluster, &holder)?))
    };
    let (before, number) = (running(cluster)?, epoch(cluster, &holder)?);
    let figure = unharmed(cluster, |cluster| {
        let worker = daemon::worker(cluster.host(&holder)?)?;
        kill_process(worker, Signal::KILL).context("killing the worker")?;
        wait::until("another worker is at work", SOON, || {
            let now = daemon::worker(cluster.host(&holder)?).ok();
            Ok((now.is_some_and(|now| now != worker)).then_some(()))
        })?;
        unmoved(cluster, &holder, number)
    })?;
    ensure!(
        running(cluster)? == before,
        "something else runs: {:?}, not {before:?}",
        running(cluster)?
    );
    let told = story(cluster, &holder)?;
    ensure!(told.is_empty(), "it was not to tell {told:#?}");
    Ok(figure)
}

/// SIGTERM by the holder's systemd: the group is handed over, and what ran with it stops.
pub(super) fn daemon_restarted(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = cluster.wait_whole()?;
    let figure = unharmed(cluster, |cluster| {
        systemd::systemctl(cluster.host(&holder)?, &["restart", daemon::UNIT]).map(drop)
    })?;
    has_left(cluster, &holder)?;
    ensure!(
        cluster.wait_whole()? != holder,
        "{holder} has kept the group"
    );
    Ok(figure)
}

/// A service more, and away again: started and stopped on the holder, and nowhere else.
pub(super) fn reloaded(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = cluster.wait_whole()?;
    let number = epoch(cluster, &holder)?;
    let first = cluster.config()?;
    let line = first
        .lines()
        .find(|line| line.ends_with("/app\", \"app\"]"))
        .context("the file is not as expected")?
        .replace("\"app\"]", "\"extra\"]");
    let more = format!("{first}\n[group.www.service.extra]\n{line}\n");
    let figure = unharmed(cluster, |cluster| {
        for (text, words) in [
            (&more, "service extra starts"),
            (&first, "service extra stops"),
        ] {
            cluster.write_config(text)?;
            let host = cluster.host(&holder)?;
            cluster
                .evenkeel()
                .order(host, &["reload", "--everywhere"])?;
            tells(cluster, &holder, &[words])?;
        }
        unmoved(cluster, &holder, number)
    })?;
    for name in standbys(cluster, &holder) {
        let told = story(cluster, &name)?;
        ensure!(told.is_empty(), "{name} was not to tell {told:#?}");
    }
    Ok(figure)
}
