//! What `evenkeel plan` and `evenkeel doctor` say on a real cluster, held against what happens.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_console::api::v1::{Doctor, Fit, Foreseen, GroupPlan, Plan};

use super::Ending;
use crate::cluster::{Cluster, GROUP, WITNESS};
use crate::{daemon, wait};

/// Time for a takeover on a busy machine.
const SOON: Duration = Duration::from_secs(10);

pub(super) fn play(cluster: &mut Cluster) -> Result<Ending> {
    let first = cluster.wait_whole()?;
    let second = cluster.other(&first)?;
    cluster.observer.mark();
    refusals(cluster, &first)?;
    nothing_moves(cluster, &first, &second)?;
    healthy(cluster, &first)?;
    unanswered(cluster, &second)?;
    let dark = death(cluster, &first, &second)?;
    cluster.boot(&first)?;
    cluster.wait_whole()?;
    cluster.verdict().check()?;
    Ok(Ending::Held(format!(
        "as foreseen; a death was to be dark for {} to {} ms",
        dark.0, dark.1
    )))
}

fn plan(cluster: &Cluster, at: &str, failure: &str) -> Result<Plan> {
    let host = cluster.host(at)?;
    let told = cluster
        .evenkeel()
        .order(host, &["plan", failure, "--json"])?;
    serde_json::from_str(&told).context("understanding plan --json")
}

fn of_group(plan: &Plan) -> Result<&GroupPlan> {
    let mut groups = plan.groups.iter();
    groups
        .find(|one| one.name == GROUP)
        .with_context(|| format!("{GROUP} is not spoken of: {plan:?}"))
}

/// Bad questions get their reason, wherever they are asked.
fn refusals(cluster: &Cluster, first: &str) -> Result<()> {
    for (failure, words) in [
        ("node:nobody", "no node \"nobody\""),
        ("service:nothing/x", "no group \"nothing\""),
        ("link:nobody-nowhere", "no node \"nobody\""),
        ("weather:rain", "write node:NAME"),
    ] {
        for at in [first, WITNESS] {
            let output = cluster
                .evenkeel()
                .ask(cluster.host(at)?, &["plan", failure])?;
            let told = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.code() == Some(1) && told.contains(words),
                "{failure} at {at}: {:?} {told}",
                output.status.code()
            );
        }
    }
    Ok(())
}

fn nothing_moves(cluster: &Cluster, first: &str, second: &str) -> Result<()> {
    for failure in [format!("link:{first},{second}"), format!("node:{WITNESS}")] {
        for at in [first, second, WITNESS] {
            let plan = plan(cluster, at, &failure)?;
            let group = of_group(&plan)?;
            ensure!(group.outcome == Foreseen::Stays, "{failure}: {plan:?}");
        }
    }
    // With the witness gone, the holder's death would take the majority with it.
    let bare = plan(cluster, first, &format!("node:{WITNESS}"))?;
    ensure!(!of_group(&bare)?.protected, "two votes of three: {bare:?}");
    Ok(())
}

fn doctor(cluster: &Cluster, at: &str, more: &[&str]) -> Result<(Output, Doctor)> {
    let host = cluster.host(at)?;
    let program = cluster.evenkeel().program.display().to_string();
    let mut argv = vec![program.as_str(), "doctor", "--json", "--measure", "300ms"];
    argv.extend(more);
    let output = host.output(&argv)?;
    let found = serde_json::from_slice(&output.stdout).with_context(|| {
        let told = String::from_utf8_lossy(&output.stderr);
        format!("understanding doctor --json: {told}")
    })?;
    Ok((output, found))
}

/// A healthy node; its jitter may be a warning, as may the guard of an older kernel.
fn healthy(cluster: &Cluster, at: &str) -> Result<()> {
    let socket = daemon::socket(cluster.host(at)?).display().to_string();
    let (output, found) = doctor(cluster, at, &["--socket", &socket])?;
    let wrong: Vec<_> = found
        .findings
        .iter()
        .filter(|one| one.severity == Fit::Unfit)
        .collect();
    ensure!(wrong.is_empty(), "{at} is not healthy: {wrong:?}");
    let code = i32::from(found.verdict == Fit::Reduced);
    ensure!(output.status.code() == Some(code), "{:?}", output.status);
    ensure!(
        found.daemon && found.runs.is_some(),
        "the daemon was not asked"
    );
    for (area, words) in [
        ("peers", "answers within"),
        ("groups", "served, and protected"),
        ("certificate", "valid for"),
        ("state", "its daemon uses it"),
        ("network", "belongs on"),
        ("guard", "enforces"),
    ] {
        let mut findings = found.findings.iter();
        ensure!(
            findings.any(|one| one.area == area && one.what.contains(words)),
            "{area} does not say {words:?}: {:?}",
            found.findings
        );
    }
    Ok(())
}

/// A daemon that does not answer, though it uses the state directory.
fn unanswered(cluster: &Cluster, at: &str) -> Result<()> {
    let host = cluster.host(at)?;
    let path = |path: std::path::PathBuf| path.display().to_string();
    let config = path(cluster.evenkeel().config.clone());
    let state = path(daemon::state(host));
    let pki = path(host.disk().join(format!("pki-{at}")));
    let nowhere = path(host.disk().join("nowhere.sock"));
    let (output, found) = doctor(
        cluster,
        at,
        &[
            "--socket", &nowhere, "--config", &config, "--node", at, "--state", &state, "--pki",
            &pki,
        ],
    )?;
    ensure!(output.status.code() == Some(2), "{:?}", output.status);
    let mut wrong = found
        .findings
        .iter()
        .filter(|one| one.severity == Fit::Unfit);
    ensure!(
        wrong.any(|one| one.area == "state" && one.what.contains("does not answer")),
        "{:?}",
        found.findings
    );
    // The holder answers on the wire; it is a node of the cluster.
    let mut wire = found
        .findings
        .iter()
        .filter(|one| one.what.contains("answers for it"));
    ensure!(
        wire.all(|one| one.severity != Fit::Unfit),
        "the holder is taken for a stranger: {:?}",
        found.findings
    );
    Ok(())
}

/// The holder dies, and it is as the plan said; the next death would be the last.
fn death(cluster: &mut Cluster, first: &str, second: &str) -> Result<(u64, u64)> {
    let failure = format!("node:{first}");
    let foreseen = plan(cluster, WITNESS, &failure)?;
    let group = of_group(&foreseen)?;
    ensure!(
        group.outcome == Foreseen::Moves && group.to.as_deref() == Some(second),
        "{foreseen:?}"
    );
    ensure!(
        group.cause.as_deref() == Some("holder-silent") && !group.protected,
        "{foreseen:?}"
    );
    let dark = group.dark_ms.context("no time")?;
    cluster.power_cut(first)?;
    cluster.wait_holder(second, SOON)?;
    let why = cluster
        .evenkeel()
        .order(cluster.host(second)?, &["why", GROUP])?;
    ensure!(why.contains("had heard nothing from the holder"), "{why}");
    // Until the report of the dead one is too old.
    wait::until("the last majority is seen", SOON, || {
        let next = plan(cluster, second, &format!("node:{second}"))?;
        let mute = next.decider.is_none() && of_group(&next)?.outcome == Foreseen::Muted;
        Ok(mute.then_some(()))
    })?;
    Ok((dark.least, dark.most))
}
