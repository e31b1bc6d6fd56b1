//! Issue, "Seen to hold" 2 and 7 and "Bad input": what runs with a group, on a real systemd
//! and under the packaged unit of the daemon. Services and hooks run in order, where the
//! group is and nowhere else; plugins of Nagios and a notify script of keepalived's run as
//! they are; a bad one costs its deadline and no more.

mod faults;
mod planned;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Ending;
use super::drain::shows;
use crate::cluster::{Cluster, Plan, epoch};
use crate::setup::scripts::{NOTIFIED, STORY};
use crate::{apache, systemd, wait};

/// Time for a move and for what runs with it, and for a node to be told of it.
const SOON: Duration = Duration::from_secs(10);

/// What keepalived's script is told as the priority of the first server; of each later one,
/// one less.
const FIRST_PRIORITY: usize = 200;

type Step = fn(&mut Cluster, &Plan) -> Result<Option<String>>;

pub(super) fn play(cluster: &mut Cluster, plan: &Plan) -> Result<Ending> {
    let steps: [(&str, Step); 22] = [
        ("the first opening", first_opening),
        ("plugins of Nagios", plugins),
        ("a switchover", planned::switched),
        ("and another", planned::switched),
        ("a drain", planned::drained),
        ("the worker killed", planned::worker_killed),
        ("the daemon restarted", planned::daemon_restarted),
        ("a service added and removed", planned::reloaded),
        (
            "a service killed that may be restarted",
            faults::restarted_there,
        ),
        ("a service killed", faults::killed),
        ("a first answer that is late", faults::late_answer),
        ("a power cut", faults::power_cut),
        ("a start that fails", faults::start_fails),
        ("a stop that hangs", faults::stop_hangs),
        ("a unit that does not exist", faults::unit_missing),
        ("a service started by somebody else", faults::foreign),
        (
            "a hook that hangs before the opening",
            faults::opening_hangs,
        ),
        ("a hook that writes a gigabyte", faults::gigabyte),
        (
            "a hook that hangs before the closing",
            faults::closing_hangs,
        ),
        ("a holder cut off", faults::cut_off),
        ("all cut off", faults::all_cut_off),
        ("a frozen daemon", faults::frozen),
    ];
    let (mut told, mut wrong) = (Vec::new(), Vec::new());
    for (what, step) in steps {
        match one(cluster, plan, step) {
            Ok(figure) => told.extend(figure.map(|figure| format!("{what}: {figure}"))),
            // The others are worth knowing, too.
            Err(fault) => {
                wrong.push(format!("{what}: {fault:#}"));
                heal(cluster)
                    .with_context(|| format!("nothing more after {}", wrong.join("\n")))?;
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(Ending::Held(told.join("; ")))
}

/// One step, and all as it should be after it.
fn one(cluster: &mut Cluster, plan: &Plan, step: Step) -> Result<Option<String>> {
    cluster.observer.mark();
    for name in cluster.server_names() {
        begin_anew(cluster, &name)?;
    }
    let figure = step(cluster, plan)?;
    let holder = heal(cluster)?;
    only_there(cluster, &holder).context("afterwards")?;
    cluster.verdict().check()?;
    Ok(figure)
}

/// As [`Cluster::heal`], also where a node failed the group for a second time in this scenario
/// and is held down for longer than a cluster usually takes.
fn heal(cluster: &mut Cluster) -> Result<String> {
    cluster.heal().or_else(|_| cluster.wait_whole())
}

/// Has the group moved to one of the servers, by its place in the order: faults are spread,
/// because whoever fails a group again and again is held down for longer each time.
fn holder_at(cluster: &Cluster, place: usize) -> Result<String> {
    let holder = cluster.wait_whole()?;
    let wanted = cluster.server_names().swap_remove(place);
    if holder != wanted {
        cluster.switch_over(&holder, &wanted)?;
        for name in cluster.server_names() {
            begin_anew(cluster, &name)?;
        }
    }
    Ok(wanted)
}

/// Forgets what happened on a server, and what a step before left for its hooks to do.
fn begin_anew(cluster: &Cluster, name: &str) -> Result<()> {
    let host = cluster.host(name)?;
    fs::write(host.seen(STORY), "").context("clearing a story")?;
    for hook in ["before_open", "after_open", "before_close", "after_close"] {
        let _ = fs::remove_file(host.seen(&crate::setup::scripts::misdeed(hook)));
    }
    Ok(())
}

/// What happened on a server, in order.
fn story(cluster: &Cluster, name: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(cluster.host(name)?.seen(STORY)).unwrap_or_default();
    Ok(text.lines().map(str::to_owned).collect())
}

/// Waits until a server's story has lines that begin so, in this order.
fn tells(cluster: &Cluster, name: &str, lines: &[&str]) -> Result<Vec<String>> {
    let mut last = Vec::new();
    let told = wait::until(&format!("{name} tells {lines:?}"), SOON, || {
        last = story(cluster, name)?;
        let mut left = last.iter();
        let all = lines
            .iter()
            .all(|line| left.any(|one| one.starts_with(line)));
        Ok(all.then(|| last.clone()))
    });
    told.with_context(|| format!("it tells {last:#?}"))
}

/// What keepalived's script knows on a server.
fn notified(cluster: &Cluster, name: &str, state: &str) -> Result<()> {
    let place = cluster.server_names().iter().position(|one| one == name);
    let priority = FIRST_PRIORITY - place.context("no server")?;
    let wanted = format!("INSTANCE www {state} {priority}");
    let path = cluster.host(name)?.seen(NOTIFIED);
    let mut last = String::new();
    let told = wait::until(
        &format!("keepalived's script is told {wanted:?}"),
        SOON,
        || {
            last = fs::read_to_string(&path).unwrap_or_default();
            Ok((last.trim() == wanted).then_some(()))
        },
    );
    told.with_context(|| format!("{name} was told {last:?}"))
}

/// Waits until Apache is in this state on a server, as its systemd says.
fn apache_is(cluster: &Cluster, name: &str, states: &[&str]) -> Result<()> {
    let host = cluster.host(name)?;
    let mut last = String::new();
    let is = wait::until(&format!("Apache is {states:?} on {name}"), SOON, || {
        last = systemd::active_state(host, apache::UNIT)?;
        Ok(states.contains(&last.as_str()).then_some(()))
    });
    is.with_context(|| format!("it is {last}"))
}

/// What does not run.
const DOWN: [&str; 2] = ["inactive", "failed"];

/// Waits until what runs on the holder alone does so, there and nowhere else.
fn only_there(cluster: &Cluster, holder: &str) -> Result<()> {
    for name in cluster.server_names() {
        let here = name == holder;
        apache_is(cluster, &name, if here { &["active"] } else { &DOWN })?;
        wait::until(&format!("the command is right on {name}"), SOON, || {
            Ok((app(cluster, &name)?.is_some() == here).then_some(()))
        })?;
        notified(cluster, &name, if here { "MASTER" } else { "BACKUP" })?;
    }
    Ok(())
}

/// The process of the service that is a command, as its host counts.
fn app(cluster: &Cluster, name: &str) -> Result<Option<u32>> {
    let found = cluster
        .host(name)?
        .output(&["pgrep", "-o", "-f", "/app app$"])?;
    let text = String::from_utf8_lossy(&found.stdout);
    Ok(text.trim().parse().ok())
}

/// The servers that do not hold the group.
fn standbys(cluster: &Cluster, holder: &str) -> Vec<String> {
    let mut all = cluster.server_names();
    all.retain(|name| name != holder);
    all
}

/// Whoever holds the group still does, in the same epoch.
fn unmoved(cluster: &Cluster, holder: &str, before: u64) -> Result<()> {
    ensure!(cluster.wait_whole()? == holder, "the group has moved");
    ensure!(
        epoch(cluster, holder)? == before,
        "the group was assigned anew"
    );
    Ok(())
}

/// Services in order, the hooks around the opening with all that they are told, and nothing
/// on the standbys.
fn first_opening(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    // What happened before the stories were cleared: so it has to happen again.
    let first = cluster.wait_whole()?;
    let [next, _] = &standbys(cluster, &first)[..] else {
        bail!("not three servers")
    };
    cluster.switch_over(&first, next)?;
    let told = tells(
        cluster,
        next,
        &["service app starts", "hook before_open", "hook after_open"],
    )?;
    ensure!(
        told.len() == 3 && !told[0].contains("with 0 of Apache"),
        "{next} tells {told:#?}"
    );
    let number = epoch(cluster, next)?;
    for (line, role) in [(&told[1], "opening"), (&told[2], "holder")] {
        let facts =
            format!(" group=www role={role} epoch={number} node={next} peer={first} reason=");
        ensure!(
            line.contains(&facts) && !line.ends_with('='),
            "a hook was told {line:?}, not {facts:?}"
        );
    }
    only_there(cluster, next)?;
    Ok(None)
}

/// They say on the holder that all is well, and on the standbys nothing.
fn plugins(cluster: &mut Cluster, _: &Plan) -> Result<Option<String>> {
    let holder = cluster.wait_whole()?;
    for words in ["HTTP OK", "TCP OK", "PROCS OK"] {
        shows(cluster, &holder, words)?;
    }
    Ok(None)
}
