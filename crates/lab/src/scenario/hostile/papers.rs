//! Certificates that do not count, and one that counts though it has ended.
//!
//! Each is tried on the standby's own machine, at the standby's address: whoever gets so far has
//! everything but the right certificate.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_host::clock::now;

use crate::client::Client;
use crate::cluster::{Cluster, WITNESS};
use crate::daemon::{self, Evenkeel};
use crate::{process, wait};

/// The mark of processes with a certificate that is not theirs.
const ROGUE: &str = "rogue";
/// A node that is refused says so by then, and the others say so of it.
const REFUSED: Duration = Duration::from_secs(15);
/// For so long a refused node is watched.
const WATCH: Duration = Duration::from_secs(3);
/// How long a holder without a majority may still answer: its lease, and what the lab is late.
const SLACK: Duration = Duration::from_millis(100);
/// When a certificate was issued that has ended long since.
const LONG_AGO: &str = "2020-01-01T00:00:00Z";
/// What the log says of it.
const ENDED: &str = "has ended";

/// One pretender at the standby's address.
struct Rogue {
    config: PathBuf,
    node: String,
    pki: PathBuf,
}

impl Rogue {
    /// Runs it in the standby's place until the witness has said why it is refused.
    fn play(&self, cluster: &mut Cluster, standby: &str, reasons: &[&str]) -> Result<()> {
        let program = cluster.evenkeel().program.clone();
        let host = cluster.host_mut(standby)?;
        process::kill_all(&host.mark(daemon::PROGRAM))?;
        let state = host.disk().join(format!("{ROGUE}.state"));
        let _ = std::fs::remove_dir_all(&state);
        let options: [(&str, OsString); 5] = [
            ("--config", self.config.clone().into()),
            ("--node", self.node.clone().into()),
            ("--state", state.into()),
            ("--pki", self.pki.clone().into()),
            ("--socket", host.disk().join("rogue.sock").into()),
        ];
        let mut argv = vec![program.into_os_string(), "run".into()];
        for (option, value) in options {
            argv.extend([option.into(), value]);
        }
        host.start(ROGUE, &argv)?;
        let told = wait_refused(cluster, standby, reasons);
        std::thread::sleep(WATCH);
        let heard = is_heard(cluster, standby);
        let host = cluster.host(standby)?;
        let runs = !process::with_mark(&host.mark(ROGUE))?.is_empty();
        process::kill_all(&host.mark(ROGUE))?;
        cluster.start_daemon(standby)?;
        told?;
        ensure!(
            runs,
            "the pretender did not run: nothing was tried; see {ROGUE}.log"
        );
        ensure!(!heard?, "{standby} is heard though it was refused");
        cluster.wait_whole().map(drop)
    }
}

/// Waits until the witness tells that it refused the node, for one of these reasons: each side
/// dials, and the newest refusal is told.
fn wait_refused(cluster: &Cluster, node: &str, reasons: &[&str]) -> Result<()> {
    let what = format!("{WITNESS} refuses {node}: {}", reasons.join(", or "));
    wait::until(&what, REFUSED, || {
        let host = cluster.host(WITNESS)?;
        let told = cluster.evenkeel().order(host, &["status"])?;
        let given = reasons.iter().any(|reason| told.contains(reason));
        Ok(given.then_some(()))
    })
}

/// Whether the witness hears a node.
fn is_heard(cluster: &Cluster, name: &str) -> Result<bool> {
    let status = cluster.status(WITNESS)?;
    let status = status.context("the witness says nothing")?;
    Ok(status
        .nodes
        .iter()
        .any(|node| node.name == name && node.alive))
}

fn place(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.lab().directory().join("papers").join(name)
}

/// Another authority, of a cluster of the same name, has issued the standby's certificate.
pub(super) fn foreign(cluster: &mut Cluster, standby: &str) -> Result<()> {
    let place = place(cluster, "foreign");
    let foreign = Evenkeel {
        authority: place.join("authority"),
        ..cluster.evenkeel().clone()
    };
    foreign.make_authority()?;
    foreign.issue(standby, &place)?;
    let rogue = Rogue {
        config: foreign.config,
        node: standby.to_owned(),
        pki: place,
    };
    rogue.play(cluster, standby, &["was issued by another authority"])
}

/// The witness's certificate, at the standby's address.
pub(super) fn of_another(cluster: &mut Cluster, standby: &str) -> Result<()> {
    let place = place(cluster, "another");
    cluster.evenkeel().issue(WITNESS, &place)?;
    // The same voters, so that nothing but the certificate is wrong: the two change places.
    let (here, there) = (
        cluster.host(standby)?.ip().to_string(),
        cluster.witness_ip()?.to_string(),
    );
    let text = cluster.config()?;
    let swapped = text
        .replace(&format!("\"{here}:"), "\"HERE:")
        .replace(&format!("\"{there}:"), &format!("\"{here}:"))
        .replace("\"HERE:", &format!("\"{there}:"));
    let config = place.join("swapped.toml");
    std::fs::write(&config, swapped).context("writing a file with two nodes swapped")?;
    let rogue = Rogue {
        config,
        node: WITNESS.to_owned(),
        pki: place,
    };
    // Who dials the standby's address gets the witness's certificate, and the witness itself is
    // called by a second process of its own name.
    let reasons = [
        "which is this node: two processes share one name",
        &format!("not of {standby}"),
    ];
    rogue.play(cluster, standby, &reasons)
}

/// Starts the daemon of a node with a certificate of its own that was issued then; returns the
/// certificate's fingerprint.
fn renew(cluster: &mut Cluster, name: &str, label: &str, from: Option<&str>) -> Result<String> {
    let place = place(cluster, label);
    let told = cluster.evenkeel().issue_from(name, &place, from)?;
    let fingerprint = told
        .split_whitespace()
        .skip_while(|word| *word != "fingerprint")
        .nth(1)
        .map(str::to_owned)
        .with_context(|| format!("no fingerprint in: {told}"))?;
    let host = cluster.host(name)?;
    let used = daemon::pki(host, name);
    for file in [format!("{name}.pem"), format!("{name}.key")] {
        std::fs::copy(place.join(&file), used.join(&file))
            .with_context(|| format!("renewing {file}"))?;
    }
    process::kill_all(&host.mark(daemon::PROGRAM))?;
    cluster.start_daemon(name)?;
    cluster.wait_whole()?;
    Ok(fingerprint)
}

/// The standby's certificate is revoked by the others while its daemon runs on, connected, with
/// keys for lease datagrams that both sides have: from then on it is nobody's voter.
///
/// What clients see meanwhile is no matter: the witness is taken away to see who counts.
pub(super) fn revoked(cluster: &mut Cluster, holder: &str, standby: &str) -> Result<()> {
    let fingerprint = renew(cluster, standby, "revoked", None)?;
    let usual = cluster.config()?;
    cluster.write_config(&format!("revoked = [\"{fingerprint}\"]\n{usual}"))?;
    for name in [WITNESS, holder] {
        let host = cluster.host(name)?;
        cluster.evenkeel().order(host, &["reload"])?;
    }
    let outcome = without_its_vote(cluster, standby);
    cluster.write_config(&usual)?;
    if cluster.status(WITNESS)?.is_none() {
        cluster.boot(WITNESS)?;
    }
    for name in [WITNESS, holder] {
        let host = cluster.host(name)?;
        wait::until(&format!("{name} takes its file up"), REFUSED, || {
            let told = cluster.evenkeel().ask(host, &["reload"])?;
            Ok(told.status.success().then_some(()))
        })?;
    }
    cluster.wait_whole()?;
    outcome
}

fn without_its_vote(cluster: &mut Cluster, standby: &str) -> Result<()> {
    wait_refused(cluster, standby, &["is revoked"])?;
    std::thread::sleep(WATCH);
    ensure!(!is_heard(cluster, standby)?, "{standby} is still heard");
    let client: Client = cluster.client()?;
    wait::until("the holder serves", REFUSED, || {
        Ok(client.first_good().map(drop))
    })?;
    cluster.power_cut(WITNESS)?;
    let cut = now();
    std::thread::sleep(WATCH);
    let last = client.last_good().map(|(at, _)| at);
    let after = last.map_or(Duration::ZERO, |last| last.since(cut));
    ensure!(
        after <= cluster.profile().lease() + SLACK,
        "{} ms after the witness was gone the holder still answered: {standby}, whose certificate \
         is revoked, gave it a majority",
        after.as_millis()
    );
    Ok(())
}

/// The standby's certificate has ended: people are told, and it serves.
pub(super) fn ended(cluster: &mut Cluster, holder: &str, standby: &str) -> Result<()> {
    renew(cluster, standby, "ended", Some(LONG_AGO))?;
    wait::until(
        "the witness remarks that a certificate has ended",
        REFUSED,
        || Ok((cluster.log_count(WITNESS, ENDED) > 0).then_some(())),
    )?;
    cluster.switch_over(holder, standby)?;
    cluster.wait_whole()?;
    cluster.switch_over(standby, holder)?;
    cluster.wait_whole().map(drop)
}
