//! Issue, "Seen to hold" 6, and the disks and clocks of the lab: trouble that is no
//! reason to move.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use evenkeel_host::clock::now;
use rustix::process::Pid;

use super::Ending;
use crate::bench::settled;
use crate::client::{Outcome, Record};
use crate::cluster::{self, Cluster, WITNESS};
use crate::daemon;
use crate::fault::clock::Step;
use crate::fault::disk::{self, Frozen};
use crate::fault::{self, Fault, load};
use crate::{figures, wait};

/// Busy loops per server.
const LOOPS: usize = 32;

/// A dead service is replaced by then, under whatever load.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// How long a cluster with a bad disk or clock is watched.
const WATCH: Duration = Duration::from_secs(5);

/// Longer than addresses stay that nobody cares for any more, a guard against dead daemons:
/// whoever serves beside a frozen disk goes on caring.
const BELT: Duration = Duration::from_secs(32);

/// A node that cannot write its log tells the others by then: it tries for seconds.
const TOLD_LIMIT: Duration = Duration::from_secs(30);

/// A step of the calendar clock.
const STEP: Duration = Duration::from_secs(3600);

/// Watches for `length` that nothing moves and that no two hosts answer; returns what
/// the client saw.
fn nothing_moves(cluster: &mut Cluster, holder: &str, length: Duration) -> Result<figures::Seen> {
    nothing_moves_by(cluster, holder, |_| {
        std::thread::sleep(length);
        Ok(())
    })
}

/// The same while something is done.
pub(super) fn nothing_moves_by(
    cluster: &mut Cluster,
    holder: &str,
    meanwhile: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<figures::Seen> {
    let epoch = cluster::epoch(cluster, WITNESS)?;
    cluster.observer.mark();
    let client = cluster.client()?;
    let from = now();
    meanwhile(cluster)?;
    let to = now();
    let seen = figures::seen(&settled(&client, from, to), from, to);
    cluster.verdict().check()?;
    let serving = cluster.serving()?;
    ensure!(
        serving.as_deref() == Some(holder),
        "{serving:?} serves, not {holder}"
    );
    let later = cluster::epoch(cluster, WITNESS)?;
    ensure!(
        later == epoch,
        "{holder} serves again: epoch {epoch} became {later}"
    );
    Ok(seen)
}

/// Not one request failed; else how many, how, and when.
pub(super) fn none_failed(seen: &figures::Seen) -> Result<()> {
    let (first, last) = seen.failed_at.unwrap_or((seen.from, seen.from));
    ensure!(
        seen.failed == 0,
        "{} of {} requests failed ({} reset or refused), begun {:.3} to {:.3} s after the beginning",
        seen.failed,
        seen.requests,
        seen.broken,
        first.since(seen.from).as_secs_f64(),
        last.since(seen.from).as_secs_f64()
    );
    Ok(())
}

/// The holder's service dies under the load that moves nothing: how long a client waits
/// for the other one.
fn dies_all_the_same(cluster: &mut Cluster, holder: &str) -> Result<Duration> {
    let other = cluster.other(holder)?;
    let client = cluster.client()?;
    let struck = now();
    fault::inject(cluster, Fault::ServiceKilled, holder)?;
    let mut cursor = 0;
    let back = wait::until("the other server answers", DEATH_LIMIT, || {
        let good = |record: &Record| {
            let by_other = matches!(&record.outcome, Outcome::Good(host) if **host == *other);
            (by_other && record.end > struck).then_some(record.end)
        };
        Ok(client.since(&mut cursor).iter().find_map(good))
    })?;
    Ok(back.since(struck))
}

/// Busy loops and a saturated disk on both servers.
pub(super) fn busy(cluster: &mut Cluster, length: Duration) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    for name in cluster.server_names() {
        let host = cluster.host_mut(&name)?;
        load::start_spinning(host, LOOPS)?;
        load::start_churning(host)?;
    }
    let ending = nothing_moves(cluster, &holder, length)
        .and_then(|seen| Ok((seen, dies_all_the_same(cluster, &holder)?)));
    for name in cluster.server_names() {
        load::stop(cluster.host(&name)?)?;
    }
    let (seen, death) = ending?;
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    Ok(Ending::Held(format!(
        "no takeover in {} s; client's longest gap {:.0} ms, {} of {} requests failed, the \
         slowest good one took {:.0} ms (it began one every {:.0} ms at worst); the service \
         killed under that load: back after {:.0} ms",
        length.as_secs(),
        ms(seen.gap),
        seen.failed,
        seen.requests,
        ms(seen.slowest),
        ms(seen.pause),
        ms(death)
    )))
}

/// The disks of the logs of all nodes filled up.
pub(super) fn disk_full(cluster: &mut Cluster) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    for name in cluster.names() {
        disk::fill(&daemon::state(cluster.host(&name)?))?;
    }
    let seen = nothing_moves(cluster, &holder, WATCH);
    for name in cluster.names() {
        disk::empty(&daemon::state(cluster.host(&name)?))?;
    }
    let seen = seen?;
    none_failed(&seen)?;
    cluster.wait_whole()?;
    Ok(Ending::Held(
        "the holder kept serving, and the cluster is whole again".into(),
    ))
}

/// The disk of the holder's log frozen, and then a reload: its worker can be killed, but does not
/// go away, and the next one cannot read the log.
pub(super) fn disk_frozen(cluster: &mut Cluster) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    let state = daemon::state(cluster.host(&holder)?);
    let frozen = Frozen::freeze(cluster.lab().directory(), &state)?;
    let served = serves_without_its_log(cluster, &holder, &standby);
    let left = served.and_then(|()| leaves_without_its_log(cluster, &holder));
    drop(frozen);
    left?;
    cluster.maintain(WITNESS, "undrain", &holder)?;
    cluster.wait_whole()?;
    standby_with_frozen_disk(cluster)?;
    Ok(Ending::Held(
        "the holder kept serving beside a frozen disk, over a crash and a reload, and was drained \
         without a failed request; a standby with one was left alone"
            .into(),
    ))
}

/// A worker dies while its log is quiet, so that the next one is kept by opening it; then one is
/// replaced that its disk keeps from ending.
fn serves_without_its_log(cluster: &mut Cluster, holder: &str, standby: &str) -> Result<()> {
    fault::inject(cluster, Fault::WorkerKilled, holder)?;
    let seen = nothing_moves_by(cluster, holder, |cluster| {
        let host = cluster.host(holder)?;
        others_know_of_disk(cluster, holder)?;
        // Something that is agreed on without the holder.
        let witness = cluster.host(WITNESS)?;
        let order = ["drain", standby, "--force"];
        cluster.evenkeel().order(witness, &order)?;
        let workers: Vec<_> = daemon::processes(host)?.into_iter().skip(1).collect();
        cluster.evenkeel().order(host, &["reload"])?;
        let left = |pid: &Pid| Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists();
        ensure!(
            workers.iter().any(left),
            "no worker was kept by its disk: nothing was tried"
        );
        // Now the standby is as fit as can be, and the holder's log cannot be written.
        cluster.maintain(WITNESS, "undrain", standby)?;
        others_know_of_disk(cluster, holder)?;
        std::thread::sleep(BELT);
        Ok(())
    })?;
    none_failed(&seen)
}

fn others_know_of_disk(cluster: &Cluster, node: &str) -> Result<()> {
    wait::until("the others know of the disk", TOLD_LIMIT, || {
        let status = cluster.status(WITNESS)?;
        let mut advice = status.iter().flat_map(|status| &status.advice);
        Ok(advice.any(|line| tells_of_disk(line, node)).then_some(()))
    })
}

/// An operator moves the group off the node, as planned as any move.
fn leaves_without_its_log(cluster: &mut Cluster, holder: &str) -> Result<()> {
    let standby = cluster.other(holder)?;
    let client = cluster.client()?;
    let from = now();
    cluster.maintain(WITNESS, "drain", holder)?;
    cluster.wait_holder(&standby, DEATH_LIMIT)?;
    let to = now();
    none_failed(&figures::seen(&settled(&client, from, to), from, to))
}

/// Whoever could not write down that it gets the group does not get it.
fn standby_with_frozen_disk(cluster: &mut Cluster) -> Result<()> {
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    let state = daemon::state(cluster.host(&standby)?);
    let frozen = Frozen::freeze(cluster.lab().directory(), &state)?;
    let seen = nothing_moves_by(cluster, &holder, |cluster| {
        others_know_of_disk(cluster, &standby)?;
        let asked = cluster.switch_over(WITNESS, &standby);
        ensure!(asked.is_err(), "the group was moved to a frozen disk");
        Ok(())
    });
    drop(frozen);
    none_failed(&seen?)?;
    cluster.wait_whole().map(drop)
}

fn tells_of_disk(line: &str, holder: &str) -> bool {
    line.starts_with(&format!("{holder}: its log cannot be written"))
}

/// The calendar clock an hour ahead, and back.
pub(super) fn clock_step(cluster: &mut Cluster) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    let step = Step::ahead(cluster.lab().directory(), STEP)?;
    let seen = nothing_moves(cluster, &holder, WATCH);
    drop(step);
    let seen = seen?;
    none_failed(&seen)?;
    nothing_moves(cluster, &holder, WATCH)?;
    Ok(Ending::Held(
        "an hour ahead and back: nothing happened".into(),
    ))
}
