//! Issue, "Seen to hold" 3: after SIGSTOP of every process of the daemon the address is
//! mute within the lease, and after SIGCONT it stays mute on the old holder.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_host::clock::now;
use rustix::process::Signal;

use super::Ending;
use crate::cluster::{Cluster, Plan};
use crate::fault::{self, Fault};

/// How long the old holder is watched after it goes on.
const WATCH: Duration = Duration::from_secs(3);

/// Time for a takeover.
const TAKEOVER: Duration = Duration::from_secs(10);

pub(super) fn play(cluster: &mut Cluster, plan: &Plan) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    let client = cluster.client()?;
    std::thread::sleep(Duration::from_millis(300));
    cluster.observer.mark();
    // With the standby cut off nobody else answers, so that clients keep asking the old
    // holder: what ends its answers is its guard alone.
    fault::inject(cluster, Fault::PowerCut, &standby)?;
    std::thread::sleep(Duration::from_millis(300));
    let frozen = now();
    fault::inject(cluster, Fault::DaemonFrozen, &holder)?;
    std::thread::sleep(WATCH);
    let last = cluster
        .observer
        .report()
        .last_of(&holder)
        .context("the holder never answered")?;
    let alone = last.since(frozen);
    ensure!(
        alone <= plan.profile.lease(),
        "{holder} still answered {} ms after it was frozen",
        alone.as_millis()
    );
    cluster.signal_daemon(&holder, Signal::CONT)?;
    cluster.heal()?;

    // And once more with a standby that takes over.
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    cluster.observer.mark();
    std::thread::sleep(Duration::from_millis(300));
    fault::inject(cluster, Fault::DaemonFrozen, &holder)?;
    cluster.wait_holder(&standby, TAKEOVER)?;
    let thawed = now();
    cluster.signal_daemon(&holder, Signal::CONT)?;
    std::thread::sleep(WATCH);
    cluster.verdict().check()?;
    let report = cluster.observer.report();
    let last = report
        .last_of(&holder)
        .context("the holder never answered")?;
    ensure!(last < thawed, "{holder} answered after it was thawed");
    drop(client);
    Ok(Ending::Held(format!(
        "mute {:.1} ms after SIGSTOP (lease {} ms), and after SIGCONT",
        alone.as_secs_f64() * 1e3,
        plan.profile.lease().as_millis()
    )))
}
