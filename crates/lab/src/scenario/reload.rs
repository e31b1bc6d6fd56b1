//! Issue, "Seen to hold" 1: a changed configuration, on one node and on all, by command and
//! by signal; a faulty one; an address that moves to another group and back; one that leaves the
//! cluster; another program. Under 500 new requests a second, with answers that take 100 ms, not one fails,
//! and nobody else ever answers.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};

use super::Ending;
use crate::client::{Client, Outcome, Record, SLOW};
use crate::cluster::{Cluster, GROUP, Plan, SERVICE, SERVICE6};
use crate::daemon;
use crate::inside::Lab;
use crate::wait;

/// Requests before the first change and after the last one.
const STEADY: Duration = Duration::from_millis(500);
/// Time for a change to be there, as a node's status tells it.
const THERE: Duration = Duration::from_secs(30);
/// An address that is in the file for a while.
const LEAVES: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 150));
/// A guard has forgotten an address by then that nobody has wanted any more: it waits for a
/// minute, and looks every second.
const FORGOTTEN: Duration = Duration::from_secs(68);
/// Another group, for an address to move to.
const OTHER: &str = "other";

/// A program that can be replaced.
pub(super) fn own_program(lab: &Lab, program: &Path) -> Result<PathBuf> {
    let own = lab.directory().join("evenkeel-to-upgrade");
    fs::copy(program, &own).context("copying the program")?;
    Ok(own)
}

pub(super) fn play(cluster: &mut Cluster, plan: &Plan, runs: usize) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    let first = cluster.config()?;
    cluster.observer.mark();
    let client = cluster.client_of(SLOW)?;
    std::thread::sleep(STEADY);
    let mut from = 0;
    let mut asked = 0;
    let mut asked6 = 0;
    for run in 0..runs {
        let steps: [(&str, bool, Step); 6] = [
            ("a reload of one node and of all", true, checks),
            ("a faulty file", true, faulty),
            ("SIGHUP", true, signal),
            // The IPv6 address itself is out for a moment.
            ("an address to another group", false, regroup),
            ("and back", false, group_gone),
            ("an upgrade of all", true, upgrade),
        ];
        for (what, also6, step) in steps {
            let client6 = also6.then(|| cluster.client6_of(SLOW)).transpose()?;
            step(cluster, plan, &holder, &first)
                .and_then(|()| settled(cluster, &holder))
                .with_context(|| format!("run {run}: {what}"))?;
            let records6 = client6.map(Client::stop).transpose()?.unwrap_or_default();
            asked6 += records6.len();
            none_failed(&records6).with_context(|| format!("run {run}: {what}, IPv6"))?;
            // Those under way end within a second; the next step's count has them.
            let records = client.since(&mut from);
            asked += records.len();
            none_failed(&records).with_context(|| format!("run {run}: {what}"))?;
        }
    }
    leaves_the_cluster(cluster, &holder, &first).context("an address that leaves the file")?;
    std::thread::sleep(STEADY);
    let rest = client.stop()?;
    none_failed(&rest)?;
    ensure!(
        rest.len() >= asked && asked > 0,
        "too few requests: {asked}"
    );
    cluster.verdict().check()?;
    Ok(Ending::Held(format!(
        "{} requests over IPv4 and {asked6} over IPv6 during {runs} rounds of changes, each \
         answered after 100 ms, 0 failed",
        rest.len()
    )))
}

type Step = fn(&Cluster, &Plan, &str, &str) -> Result<()>;

pub(super) fn none_failed(records: &[Record]) -> Result<()> {
    let failed: Vec<&Record> = records
        .iter()
        .filter(|one| !one.is_good() && one.outcome != Outcome::Unasked)
        .collect();
    ensure!(
        failed.is_empty(),
        "{} of {} requests failed, the first {:?}",
        failed.len(),
        records.len(),
        failed.first()
    );
    Ok(())
}

/// The same node holds, and all nodes run one configuration.
fn settled(cluster: &Cluster, holder: &str) -> Result<()> {
    ensure!(cluster.wait_whole()? == holder, "the group has moved");
    wait::until("all nodes run one configuration", THERE, || {
        let mut digests = Vec::new();
        for name in cluster.names() {
            digests.extend(cluster.status(&name)?.map(|status| status.digest));
        }
        let whole = digests.len() == cluster.names().len();
        digests.dedup();
        Ok((whole && digests.len() == 1).then_some(()))
    })
}

fn digest(cluster: &Cluster, name: &str) -> Result<String> {
    let status = cluster.status(name)?.context("no status")?;
    Ok(status.digest)
}

/// Another interval and a check more: on the holder, then on all.
fn checks(cluster: &Cluster, _: &Plan, holder: &str, first: &str) -> Result<()> {
    let before = digest(cluster, holder)?;
    let text = first.replace("interval = \"50ms\"", "interval = \"60ms\"");
    cluster.write_config(&format!(
        "{text}\n[group.www.check.port]\ntcp = \"{{node}}:80\"\ninterval = \"100ms\"\n"
    ))?;
    let host = cluster.host(holder)?;
    cluster.evenkeel().order(host, &["reload"])?;
    let after = digest(cluster, holder)?;
    ensure!(before != after, "the holder runs what it ran before");
    let said = cluster
        .evenkeel()
        .order(host, &["reload", "--everywhere"])?;
    ensure!(
        said.matches(&after).count() == cluster.names().len(),
        "not every node is told with its digest: {said}"
    );
    Ok(())
}

/// Refused on one node and on all, with the place, and nothing changes.
fn faulty(cluster: &Cluster, _: &Plan, holder: &str, first: &str) -> Result<()> {
    let good = cluster.config()?;
    let before = digest(cluster, holder)?;
    let parts = [
        (first.replace("[group.www]", "[group.www"), "evenkeel.toml:"),
        (
            first.replace("192.0.2.12:7946", "192.0.2.12:7946\"\nwitness = \"no"),
            "evenkeel.toml:",
        ),
        (
            first.replace("[node.tie]", "[node.other]"),
            "voters are fixed",
        ),
    ];
    for (text, reason) in parts {
        cluster.write_config(&text)?;
        for arguments in [&["reload"][..], &["reload", "--everywhere"]] {
            let output = cluster.evenkeel().ask(cluster.host(holder)?, arguments)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(
                output.status.code() == Some(1) && said.contains(reason),
                "{arguments:?}: {}: {said}",
                output.status
            );
        }
        ensure!(digest(cluster, holder)? == before, "something has changed");
    }
    cluster.write_config(&good)
}

/// A signal to each node's parent takes the first file up again.
fn signal(cluster: &Cluster, _: &Plan, holder: &str, first: &str) -> Result<()> {
    let before = digest(cluster, holder)?;
    cluster.write_config(first)?;
    for name in cluster.names() {
        let parent = daemon::processes(cluster.host(&name)?)?;
        let parent = parent.first().context("no daemon")?;
        kill_process(*parent, Signal::HUP).context("sending SIGHUP")?;
        wait::until(&format!("{name} has taken it up"), THERE, || {
            let status = cluster.status(&name)?;
            Ok(status.filter(|one| one.digest != before).map(drop))
        })?;
    }
    Ok(())
}

/// The IPv6 address gets a group of its own.
fn regroup(cluster: &Cluster, _: &Plan, holder: &str, first: &str) -> Result<()> {
    let both = format!("addresses = [\"{SERVICE}/24\", \"{SERVICE6}/64\"]");
    ensure!(first.contains(&both), "the file is not as expected");
    let text = first.replace(&both, &format!("addresses = [\"{SERVICE}/24\"]"));
    let servers = cluster.server_names().join("\", \"");
    cluster.write_config(&format!(
        "{text}\n[group.{OTHER}]\nnodes = [\"{servers}\"]\naddresses = [\"{SERVICE6}/64\"]\n"
    ))?;
    everywhere(cluster, holder)?;
    wait_addresses(cluster, holder, GROUP, &[format!("{SERVICE}/24")])?;
    wait_addresses(cluster, holder, OTHER, &[format!("{SERVICE6}/64")])
}

/// And back: the group of its own is gone.
fn group_gone(cluster: &Cluster, _: &Plan, holder: &str, first: &str) -> Result<()> {
    cluster.write_config(first)?;
    everywhere(cluster, holder)?;
    let both = [format!("{SERVICE}/24"), format!("{SERVICE6}/64")];
    wait_addresses(cluster, holder, GROUP, &both)?;
    // The group was open before it got its address back: that is placed and announced a moment
    // later, and what clients see of that is no part of the next step.
    let client = cluster.client_host();
    wait::until("the address that came back answers", THERE, || {
        let asked = client.output(&["ping", "-6", "-c1", "-W1", &SERVICE6.to_string()])?;
        Ok(asked.status.success().then_some(()))
    })
}

/// An address more, and away again: it answers nowhere, and once the guards have forgotten it
/// another machine and this one can use it without evenkeel.
fn leaves_the_cluster(cluster: &Cluster, holder: &str, first: &str) -> Result<()> {
    let both = format!("\"{SERVICE}/24\", \"{SERVICE6}/64\"");
    ensure!(first.contains(&both), "the file is not as expected");
    cluster.write_config(&first.replace(&both, &format!("{both}, \"{LEAVES}/24\"")))?;
    everywhere(cluster, holder)?;
    let served = [format!("{SERVICE}/24"), format!("{SERVICE6}/64")];
    let more = [&served[..], &[format!("{LEAVES}/24")]].concat();
    wait_addresses(cluster, holder, GROUP, &more)?;
    wait_answers(cluster, true).context("while it is in the file")?;
    cluster.write_config(first)?;
    everywhere(cluster, holder)?;
    wait_addresses(cluster, holder, GROUP, &served)?;
    wait_answers(cluster, false)?;
    // Still guarded: who puts it there by hand is mute.
    let standby = cluster.other(holder)?;
    let by_hand = |name: &str, what: &str| {
        let address = format!("{LEAVES}/24");
        let words = ["ip", "addr", what, &address, "dev", "eth0"];
        cluster.host(name)?.output(&words)
    };
    by_hand(&standby, "add")?;
    ensure!(!answers(cluster)?, "it answers while it is still guarded");
    // The daemon may have taken it away.
    by_hand(&standby, "del")?;
    // An address that is on a device is not forgotten: so it has to be away for that long.
    std::thread::sleep(FORGOTTEN);
    for name in [&standby, holder] {
        by_hand(name, "add")?;
        let there = wait_answers(cluster, true);
        by_hand(name, "del")?;
        there.with_context(|| format!("on {name}, without evenkeel"))?;
        wait_answers(cluster, false)?;
    }
    Ok(())
}

/// Whether anybody answers for the address that left, asked anew.
fn answers(cluster: &Cluster) -> Result<bool> {
    let client = cluster.client_host();
    client.output(&[
        "ip",
        "neigh",
        "flush",
        "to",
        &LEAVES.to_string(),
        "dev",
        "eth0",
    ])?;
    let asked = client.output(&["ping", "-c1", "-W1", &LEAVES.to_string()])?;
    Ok(asked.status.success())
}

fn wait_answers(cluster: &Cluster, expected: bool) -> Result<()> {
    let what = if expected {
        "it answers"
    } else {
        "it answers no more"
    };
    wait::until(what, THERE, || {
        Ok((answers(cluster)? == expected).then_some(()))
    })
}

fn everywhere(cluster: &Cluster, at: &str) -> Result<()> {
    let host = cluster.host(at)?;
    cluster
        .evenkeel()
        .order(host, &["reload", "--everywhere"])
        .map(drop)
}

fn wait_addresses(cluster: &Cluster, at: &str, group: &str, addresses: &[String]) -> Result<()> {
    let what = format!("{group} serves {}", addresses.join(", "));
    wait::until(&what, THERE, || {
        let Some(status) = cluster.status(at)? else {
            return Ok(None);
        };
        let there = status
            .groups
            .iter()
            .any(|one| one.name == group && one.state == "serving" && one.addresses == addresses);
        Ok(there.then_some(()))
    })
}

/// Programs that cannot go on are refused.
fn no_programs(cluster: &Cluster, plan: &Plan, holder: &str, good: &Path) -> Result<()> {
    let asks = format!("[ \"$1\" = forms ] && exec {} \"$@\"", good.display());
    for (script, reason) in [
        ("exit 1".to_owned(), "an older version needs a restart"),
        (format!("{asks}; exit 1"), "does not come up"),
    ] {
        let beside = plan.program.with_extension("new");
        fs::write(&beside, format!("#!/bin/sh\n{script}\n")).context("writing a script")?;
        fs::set_permissions(&beside, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        fs::rename(&beside, &plan.program).context("replacing the program")?;
        // The client is the good one.
        let client = crate::daemon::Evenkeel {
            program: good.to_owned(),
            ..cluster.evenkeel().clone()
        };
        let output = client.ask(cluster.host(holder)?, &["upgrade"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1) && said.contains(reason),
            "{}: {said}",
            output.status
        );
    }
    Ok(())
}

/// The same program, in another file: parents stay the same processes.
fn upgrade(cluster: &Cluster, plan: &Plan, holder: &str, _: &str) -> Result<()> {
    let good = plan.program.with_extension("good");
    fs::copy(&plan.program, &good).context("copying the program")?;
    no_programs(cluster, plan, holder, &good)?;
    fs::rename(&good, &plan.program).context("replacing the program")?;
    for name in cluster.names() {
        let host = cluster.host(&name)?;
        let parent = || anyhow::Ok(daemon::processes(host)?.first().copied());
        let before = parent()?;
        cluster.evenkeel().order(host, &["upgrade"])?;
        ensure!(parent()? == before, "{name} has another parent");
        let number = before.context("no daemon")?.as_raw_nonzero();
        let runs = fs::read_link(format!("/proc/{number}/exe")).context("its program")?;
        ensure!(
            !runs.to_string_lossy().ends_with("(deleted)"),
            "{name} still runs {}",
            runs.display()
        );
    }
    Ok(())
}
