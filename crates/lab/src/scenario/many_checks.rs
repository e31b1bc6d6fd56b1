//! Issue 3, "Seen to hold" 6: thousands of checks on one node, and then all of them failing at
//! once: what they cost, that no heartbeat is late for them, that every node knows them all.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Ending, rest};
use crate::cluster::{Cluster, GROUP, Plan, WITNESS};
use crate::heartbeat::{Heartbeats, calendar};
use crate::{apache, daemon, wait};

/// How many.
const CHECKS: usize = 5_000;

/// The node that asks them, of itself.
const NODE: &str = "ams1";

/// What they are of, in equal parts: of the machine, of a server that takes connections, and of its
/// pages, each by a new connection.
const KINDS: &str = "a third each ping, tcp and http";

/// The share of one core that they should cost, beside what the daemon takes without them (the
/// scenario `rest` judges that). Told, not judged: pings alone reach it, a third of new connections
/// each for tcp and http do not, as the kernel takes most of it for those alone (`many.rs` among the
/// examples of the checks measures that).
const CORE_PERCENT_GOAL: f64 = 10.0;

/// What is judged, so that it does not become more: 19 to 20 % in a release build.
const CORE_PERCENT_MAX: f64 = 25.0;

/// Time for what a daemon takes without them to be seen.
const REST: Duration = Duration::from_secs(10);

/// Time for all checks to be known everywhere, in whichever state.
const KNOWN_LIMIT: Duration = Duration::from_secs(30);

/// Time for a group to leave a node all of whose checks fail.
const LEAVES_LIMIT: Duration = Duration::from_secs(10);

/// The wire and the threads that watch it, beside what they measure of themselves.
const SLACK: Duration = Duration::from_millis(2);

/// A group that cannot move, with the checks.
fn more_checks() -> String {
    let mut text = format!("\n[group.shop]\nnodes = [\"{NODE}\"]\n");
    for number in 0..CHECKS {
        let question = match number % 3 {
            0 => "tcp = \"{node}:80\"",
            1 => "http = \"http://{node}/who\"",
            _ => "ping = \"{node}\"",
        };
        let _ = writeln!(
            text,
            "[group.shop.check.c{number}]\n{question}\nfrom = [\"node\"]"
        );
    }
    text
}

/// How many checks of the group are in which state, as a node tells it.
fn states(cluster: &Cluster, name: &str) -> Result<BTreeMap<String, usize>> {
    let host = cluster.host(name)?;
    let text = cluster.evenkeel().order(host, &["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&text)?;
    let list = |value: &serde_json::Value, key: &str| {
        let list = value.get(key).and_then(serde_json::Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let mut states = BTreeMap::new();
    for group in list(&status, "groups") {
        if group.get("name").and_then(serde_json::Value::as_str) != Some("shop") {
            continue;
        }
        for check in list(&group, "nodes")
            .iter()
            .flat_map(|node| list(node, "checks"))
        {
            let state = check.get("state").and_then(serde_json::Value::as_str);
            *states
                .entry(state.unwrap_or("none").to_owned())
                .or_default() += 1;
        }
    }
    Ok(states)
}

/// Waits until every node tells that so many checks are in a state; returns how long it took.
fn wait_known(cluster: &Cluster, state: &str, count: usize) -> Result<Duration> {
    let start = Instant::now();
    for name in cluster.names() {
        let mut last = BTreeMap::new();
        wait::until(
            &format!("{name} tells of {count} {state} checks"),
            KNOWN_LIMIT,
            || {
                last = states(cluster, &name)?;
                Ok((last.get(state) >= Some(&count)).then_some(()))
            },
        )
        .with_context(|| format!("it tells of {last:?}"))?;
    }
    Ok(start.elapsed())
}

pub(super) fn play(cluster: &mut Cluster, plan: &Plan, length: Duration) -> Result<Ending> {
    if cluster.wait_whole()? != NODE {
        let host = cluster.host(NODE)?;
        cluster
            .evenkeel()
            .order(host, &["switch", GROUP, "--to", NODE])?;
    }
    let without = spent(cluster, REST)?;
    let beats = Heartbeats::start(cluster.switch(), [192, 0, 2, 13].into())?;
    cluster.write_config(&(cluster.config()? + &more_checks()))?;
    let host = cluster.host(NODE)?;
    cluster
        .evenkeel()
        .order(host, &["reload", "--everywhere"])?;
    cluster.wait_whole()?;
    let known = wait_known(cluster, "ok", CHECKS)?;

    let held = held(cluster)?;
    beats.mark();
    let from = calendar();
    let costs = spent(cluster, length)?;
    let calm = beat(&beats, plan, NODE, from)?;
    ensure!(
        self::held(cluster)? == held,
        "the group moved, though nothing happened"
    );
    let flood = flood(cluster, plan, &beats)?;
    let told: Vec<String> = costs
        .iter()
        .map(|(name, percent)| {
            let before = without.get(name).copied().unwrap_or_default();
            format!("{name} {percent:.1} % of a core ({before:.1} without)")
        })
        .collect();
    let figures = format!(
        "{CHECKS} checks at 1 s on {NODE}, {KINDS}: {}; known everywhere after {known:.1?}; longest time \
         between heartbeats {calm:.1?}; {flood}",
        told.join(", ")
    );
    let added = costs
        .iter()
        .map(|(name, percent)| percent - without.get(name).copied().unwrap_or_default());
    let most = added.fold(0.0, f64::max);
    let goal = match most < CORE_PERCENT_GOAL {
        true => "reached",
        false => "not reached",
    };
    let figures = format!("{figures}; they cost {most:.1} %, goal {CORE_PERCENT_GOAL} %: {goal}");
    ensure!(most < CORE_PERCENT_MAX, "too much: {figures}");
    Ok(Ending::Held(figures))
}

/// Who serves the other group, and in which epoch, as the witness tells it.
fn held(cluster: &Cluster) -> Result<(Option<String>, u64)> {
    let status = cluster
        .status(WITNESS)?
        .context("the witness says nothing")?;
    let group = status.groups.into_iter().find(|one| one.name == GROUP);
    let group = group.context("the witness does not know the group")?;
    let serving = group.holder.filter(|_| group.state == "serving");
    Ok((serving, group.epoch))
}

/// All checks fail at once, with the service of the other group.
fn flood(cluster: &mut Cluster, plan: &Plan, beats: &Heartbeats) -> Result<String> {
    let other = cluster.other(NODE)?;
    beats.mark();
    let from = calendar();
    apache::kill(cluster.host(NODE)?)?;
    let start = Instant::now();
    wait::until("the other group leaves", LEAVES_LIMIT, || {
        let (holder, _) = held(cluster)?;
        Ok((holder.as_ref() == Some(&other)).then_some(()))
    })?;
    let left = start.elapsed();
    // Pings are well.
    let failing = CHECKS - CHECKS / 3;
    let known = wait_known(cluster, "failing", failing)?;
    let longest = beat(beats, plan, &other, from)?;
    cluster.verdict().check()?;
    Ok(format!(
        "{failing} fail at once: the other group has left after {left:.1?}, all know after \
         {known:.1?} more, longest time between heartbeats {longest:.1?}"
    ))
}

/// Processor time that each node's daemon takes in a while, in percent of a core.
fn spent(cluster: &Cluster, length: Duration) -> Result<BTreeMap<String, f64>> {
    let used = |name: &str| rest::total_used(&daemon::processes(cluster.host(name)?)?);
    let mut before = Vec::new();
    for name in cluster.names() {
        before.push((used(&name)?, Instant::now(), name));
    }
    std::thread::sleep(length);
    let percent = |(before, since, name): (Duration, Instant, String)| {
        let spent = used(&name)?.saturating_sub(before);
        let percent = spent.as_secs_f64() / since.elapsed().as_secs_f64() * 100.0;
        Ok((name, percent))
    };
    before.into_iter().map(percent).collect()
}

/// The longest time between two heartbeats of a holder: late by one interval at most, beside what
/// this machine was late.
pub(super) fn beat(
    beats: &Heartbeats,
    plan: &Plan,
    host: &str,
    from: Duration,
) -> Result<Duration> {
    let to = calendar();
    let gaps = beats.gaps(host, from, to);
    let longest = gaps.into_iter().max();
    let longest = longest.with_context(|| format!("no heartbeats of {host} were seen"))?;
    let noise = beats.noise(from, to);
    let most = plan.profile.lease() / 3 + noise + SLACK;
    ensure!(
        longest <= most,
        "{longest:?} between two heartbeats of {host}, more than {most:?}; a thread of that \
         priority was late by {noise:?} at most"
    );
    Ok(longest)
}
