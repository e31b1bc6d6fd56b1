//! Issue, "Seen to hold" 5: without a majority everything is mute; `recover` serves
//! again; when the others return there is still one holder.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_host::clock::now;

use super::Ending;
use crate::cluster::{Cluster, WITNESS};
use crate::wait;

/// Time for the last node to mute itself, or to serve after `recover`.
const SOON: Duration = Duration::from_secs(10);

/// How long silence is watched.
const WATCH: Duration = Duration::from_secs(2);

pub(super) fn play(cluster: &mut Cluster) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    let other = cluster.other(&holder)?;
    let client = cluster.client()?;
    std::thread::sleep(Duration::from_millis(300));
    cluster.power_cut(WITNESS)?;
    cluster.power_cut(&other)?;
    wait::until("the last node mutes itself", SOON, || {
        let status = cluster.status(&holder)?;
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
        report.last_of(&holder).is_none(),
        "{holder} answers without a majority"
    );
    let told = cluster
        .evenkeel()
        .order(cluster.host(&holder)?, &["status"])?;
    ensure!(
        told.contains("recover"),
        "status does not say what to do:\n{told}"
    );

    let asked = now();
    cluster.evenkeel().order(
        cluster.host(&holder)?,
        &[
            "recover",
            "--alone",
            "--i-have-stopped",
            &other,
            "--i-have-stopped",
            WITNESS,
        ],
    )?;
    wait::until("the last node serves after recover", SOON, || {
        Ok(client.last_good().filter(|(at, _)| *at > asked).map(drop))
    })?;
    cluster.observer.mark();
    cluster.boot(&other)?;
    cluster.boot(WITNESS)?;
    let last = cluster.wait_whole().context("after the others returned")?;
    std::thread::sleep(WATCH);
    cluster.verdict().check()?;
    Ok(Ending::Held(format!(
        "mute without a majority, recovered, then {last} alone holds"
    )))
}
