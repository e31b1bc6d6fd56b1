//! What goes wrong with services and hooks: each time with its end known beforehand.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::super::drain::shows;
use super::super::reload::none_failed;
use super::{DOWN, SOON, apache_is, app, begin_anew, epoch, holder_at, standbys, tells, unmoved};
use crate::bench::settled;
use crate::bridge::Cable;
use crate::cluster::{Cluster, GROUP, Plan, WITNESS};
use crate::setup::scripts::misdeed;
use crate::{apache, daemon, process, systemd, wait};

use evenkeel_core::settling::Settling;
use evenkeel_host::clock::now;

/// A hook may take this long in the file of these clusters.
const HOOK_TIME: Duration = Duration::from_secs(1);

/// What a hook that writes a gigabyte may cost the daemon: far less than that.
const MEMORY_MAX: u64 = 100 << 20;

/// A holder that does not get its lease back stops what runs on it alone after so many.
const PATIENCE_LEASES: u32 = 10;

/// Waits until somebody else than `holder` serves; who.
fn another(cluster: &Cluster, holder: &str) -> Result<String> {
    wait::until("another one holds the group", SOON, || {
        Ok(cluster.serving()?.filter(|name| name != holder))
    })
}

/// Changes Apache's unit on a server, until [`as_packaged`].
fn alter(cluster: &Cluster, name: &str, lines: &str) -> Result<()> {
    let host = cluster.host(name)?;
    let text = format!("[Service]\n{lines}");
    let place = host.disk().join("units/apache2.service.d/zz-altered.conf");
    fs::write(place, text).context("altering a unit")?;
    systemd::systemctl(host, &["daemon-reload"]).map(drop)
}

fn as_packaged(cluster: &Cluster, name: &str) -> Result<()> {
    let host = cluster.host(name)?;
    let place = host.disk().join("units/apache2.service.d/zz-altered.conf");
    fs::remove_file(place).context("altering a unit back")?;
    systemd::systemctl(host, &["daemon-reload"]).map(drop)
}

/// With a try on the spot left, a service is started where it was, and nothing moves, though a
/// check watches its process.
pub(super) fn restarted_there(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = cluster.wait_whole()?;
    let number = epoch(cluster, &holder)?;
    let before = app(cluster, &holder)?.context("the command does not run")?;
    cluster
        .host(&holder)?
        .run(&["kill", "-KILL", &before.to_string()], "")?;
    tells(cluster, &holder, &["service app starts"])?;
    ensure!(app(cluster, &holder)? != Some(before), "it was not killed");
    unmoved(cluster, &holder, number)?;
    Ok(None)
}

/// Without one the group moves, and the next one starts what is cold.
pub(super) fn killed(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = holder_at(cluster, 0)?;
    apache::kill(cluster.host(&holder)?)?;
    let to = another(cluster, &holder)?;
    tells(cluster, &to, &["service app starts", "hook before_open"])?;
    // Whatever systemd does there by itself.
    apache_is(cluster, &holder, &DOWN)?;
    Ok(None)
}

/// What has just been started on a cold standby and does not answer yet is waited for.
pub(super) fn late_answer(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = cluster.wait_whole()?;
    let to = standbys(cluster, &holder).pop().context("no standby")?;
    let host = cluster.host(&to)?;
    alter(
        cluster,
        &to,
        "ExecStartPost=/usr/bin/pkill -STOP -x apache2\n",
    )?;
    let switch = ["switch", GROUP, "--to", &to];
    cluster.evenkeel().order(cluster.host(WITNESS)?, &switch)?;
    let number = epoch(cluster, &to)?;
    // By then a check fails.
    shows(cluster, WITNESS, Settling::Started.words())?;
    host.run(&["pkill", "-CONT", "-x", "apache2"], "")?;
    unmoved(cluster, &to, number)?;
    as_packaged(cluster, &to)?;
    Ok(None)
}

pub(super) fn power_cut(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = holder_at(cluster, 1)?;
    cluster.power_cut(&holder)?;
    let to = another(cluster, &holder)?;
    tells(cluster, &to, &["service app starts", "hook before_open"])?;
    Ok(None)
}

/// The next one cannot start it: the one after that serves.
pub(super) fn start_fails(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = holder_at(cluster, 2)?;
    let status = cluster.status(&holder)?.context("no status")?;
    let group = status.groups.iter().find(|one| one.name == GROUP);
    let next = group
        .and_then(|group| group.next.clone())
        .context("nobody would be next")?;
    alter(cluster, &next, "ExecStartPre=/bin/false\n")?;
    let begun = Instant::now();
    apache::kill(cluster.host(&holder)?)?;
    let last = wait::until("somebody serves that can", SOON, || {
        let serving = cluster.serving()?;
        Ok(serving.filter(|name| *name != holder && *name != next))
    })?;
    let took = begun.elapsed();
    shows(cluster, &next, "service apache")?;
    tells(cluster, &last, &["service app starts", "hook before_open"])?;
    as_packaged(cluster, &next)?;
    Ok(Some(format!("served after {} ms", took.as_millis())))
}

/// The new holder does not wait for it, and the old one ends it by signals.
pub(super) fn stop_hangs(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = cluster.wait_whole()?;
    let to = standbys(cluster, &holder).pop().context("no standby")?;
    let lines = "ExecStop=\nExecStop=/bin/sleep 600\nTimeoutStopSec=600\n";
    alter(cluster, &holder, lines)?;
    let client = cluster.client()?;
    wait::until("answers come", SOON, || Ok(client.last_good()))?;
    let from = now();
    cluster.switch_over(&holder, &to)?;
    none_failed(&settled(&client, from, now()))?;
    shows(cluster, &holder, "did not stop when asked")?;
    apache_is(cluster, &holder, &DOWN)?;
    as_packaged(cluster, &holder)?;
    Ok(Some("0 failed".to_owned()))
}

/// A standby that has no such unit is not ready, says why, and nothing moves.
pub(super) fn unit_missing(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = cluster.wait_whole()?;
    let number = epoch(cluster, &holder)?;
    let name = standbys(cluster, &holder).pop().context("no standby")?;
    let host = cluster.host(&name)?;
    let unit = host.disk().join("units").join(apache::UNIT);
    let aside = unit.with_extension("aside");
    fs::rename(&unit, &aside).context("removing a unit")?;
    systemd::systemctl(host, &["daemon-reload"])?;
    shows(cluster, &holder, "not-found")?;
    let status = cluster.status(&holder)?.context("no status")?;
    let group = status.groups.iter().find(|one| one.name == GROUP);
    let node = group.and_then(|group| group.nodes.iter().find(|node| node.name == name));
    ensure!(node.is_some_and(|node| !node.ready), "{name} seems ready");
    fs::rename(&aside, &unit).context("putting a unit back")?;
    systemd::systemctl(host, &["daemon-reload"])?;
    unmoved(cluster, &holder, number)?;
    Ok(None)
}

/// What somebody starts on a standby is noticed and said, and nothing moves.
pub(super) fn foreign(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = cluster.wait_whole()?;
    let number = epoch(cluster, &holder)?;
    let name = standbys(cluster, &holder).pop().context("no standby")?;
    systemd::systemctl(cluster.host(&name)?, &["start", apache::UNIT])?;
    shows(cluster, &name, "somebody else started it")?;
    systemd::systemctl(cluster.host(&name)?, &["stop", apache::UNIT])?;
    unmoved(cluster, &holder, number)?;
    Ok(None)
}

/// Has a hook of a server do something bad.
fn misbehave(cluster: &Cluster, name: &str, hook: &str, line: &str) -> Result<()> {
    let path = cluster.host(name)?.seen(&misdeed(hook));
    fs::write(path, format!("{line}\n")).context("spoiling a hook")
}

/// Switches to a server, or away from the holder, with a bad hook, and waits for the end of it.
fn switched_with(cluster: &Cluster, at_new: bool, hook: &str, line: &str) -> Result<Duration> {
    let holder = cluster.wait_whole()?;
    let to = standbys(cluster, &holder).pop().context("no standby")?;
    let bad = if at_new { &to } else { &holder };
    misbehave(cluster, bad, hook, line)?;
    let begun = Instant::now();
    cluster.switch_over(&holder, &to)?;
    cluster.wait_holder(&to, SOON)?;
    let took = begun.elapsed();
    let number = epoch(cluster, &to)?;
    unmoved(cluster, &to, number)?;
    if line.starts_with("sleep") {
        shows(cluster, bad, &format!("hook {hook}"))?;
    }
    ensure!(
        took < HOOK_TIME + SOON / 2,
        "it took {took:?}, far more than the hook may"
    );
    Ok(took)
}

pub(super) fn opening_hangs(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let took = switched_with(cluster, true, "before_open", "sleep 600")?;
    Ok(Some(format!("moved after {} ms", took.as_millis())))
}

pub(super) fn closing_hangs(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let took = switched_with(cluster, false, "before_close", "sleep 600")?;
    Ok(Some(format!("moved after {} ms", took.as_millis())))
}

pub(super) fn gigabyte(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let took = switched_with(
        cluster,
        true,
        "after_open",
        "head -c 1000000000 /dev/zero; head -c 1000000000 /dev/zero >&2",
    )?;
    let holder = cluster.wait_whole()?;
    for pid in daemon::processes(cluster.host(&holder)?)? {
        let path = format!("/proc/{}/status", pid.as_raw_nonzero());
        let status = fs::read_to_string(path).unwrap_or_default();
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: u64 = most
            .and_then(|most| most.split_whitespace().next()?.parse().ok())
            .unwrap_or_default();
        ensure!(kib << 10 < MEMORY_MAX, "the daemon took {kib} KiB");
    }
    Ok(Some(format!("moved after {} ms", took.as_millis())))
}

/// Cut off, the former holder stops what runs on it alone, with nobody to tell it so.
pub(super) fn cut_off(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = holder_at(cluster, 1)?;
    cluster.switch().set_cable(&holder, Cable::CUT)?;
    let begun = Instant::now();
    another(cluster, &holder)?;
    apache_is(cluster, &holder, &DOWN)?;
    let took = begun.elapsed();
    tells(cluster, &holder, &["service app stops", "hook after_close"])?;
    Ok(Some(format!("stopped there after {} ms", took.as_millis())))
}

/// Nobody hears anybody for longer than a holder keeps what runs on it alone. Whoever has the
/// group then makes it ready before it opens, though it may be the same node.
pub(super) fn all_cut_off(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = holder_at(cluster, 0)?;
    let before = epoch(cluster, &holder)?;
    for name in cluster.names() {
        cluster.switch().set_cable(&name, Cable::CUT)?;
    }
    tells(cluster, &holder, &["service app stops", "hook after_close"])?;
    apache_is(cluster, &holder, &DOWN)?;
    begin_anew(cluster, &holder)?;
    for name in cluster.names() {
        cluster.switch().set_cable(&name, Cable::WHOLE)?;
    }
    let begun = Instant::now();
    // Not until the cluster is whole: who failed the group before is held down for a while.
    let next = wait::until("the group is served", SOON, || cluster.serving())?;
    let took = begun.elapsed();
    let ready = ["service app starts", "hook before_open", "hook after_open"];
    tells(cluster, &next, &ready)?;
    ensure!(epoch(cluster, &next)? > before, "it is the old assignment");
    let there = if next == holder { "there" } else { "elsewhere" };
    Ok(Some(format!(
        "served after {} ms, {there}",
        took.as_millis()
    )))
}

/// Frozen for longer than it may keep what runs on it alone, it stops that when it goes on.
pub(super) fn frozen(cluster: &mut Cluster, plan: &Plan) -> Result<Option<String>> {
    let holder = holder_at(cluster, 2)?;
    let until = Instant::now() + plan.profile.lease() * (PATIENCE_LEASES + 1);
    cluster.signal_daemon(&holder, Signal::STOP)?;
    another(cluster, &holder)?;
    apache_is(cluster, &holder, &["active"])?;
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    process::thaw_all(&cluster.host(&holder)?.mark(daemon::PROGRAM))?;
    tells(cluster, &holder, &["service app stops", "hook after_close"])?;
    apache_is(cluster, &holder, &DOWN)?;
    Ok(None)
}
