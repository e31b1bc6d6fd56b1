//! Hostile traffic against a whole cluster: forged, cut, repeated and reordered datagrams to every
//! daemon, from a stranger and in each node's name, also after restarts; certificates that do not
//! count; a flood of the daemons' port. Nothing moves, no request fails, and never do two answer.
//!
//! The attacker is the clients' machine, which hears everything: the switch is tapped. It has no
//! key of the cluster. It does not take over the hardware addresses of others, which is an attack
//! on the network itself.

mod attacks;
mod chance;
mod forger;
mod papers;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use evenkeel_host::clock::now;

use self::attacks::Front;
use self::chance::Chance;
use self::forger::{Ear, Forger, Heard};
use super::Ending;
use super::load::{none_failed, nothing_moves_by};
use crate::bench::settled;
use crate::cluster::{Cluster, Plan, WITNESS};
use crate::figures::{self, Seen};
use crate::heartbeat::{Heartbeats, calendar};
use crate::process;
use crate::{daemon, wait};

/// How long the wire is listened to before what was heard is used.
const LISTEN: Duration = Duration::from_secs(2);
/// After an attack the cluster is watched for so long: longer than what it could have started.
const AFTER: Duration = Duration::from_secs(2);
/// Lease datagrams that a cluster at rest sends in [`LISTEN`], at least: fewer would mean that
/// the wire was not heard.
const LEASES_MIN: usize = 100;
/// A daemon that was restarted is connected again by then.
const BACK: Duration = Duration::from_secs(20);
/// The same attack each time.
const SEED: u64 = 0x6861_726d;
/// Forged datagrams made before a flood, so that making them costs it nothing.
const PREPARED: usize = 8192;
/// How often a flood looks at the clock, in frames.
const LOOK_EVERY: u64 = 1024;
/// What a node says in its log when a lease has run out.
const LAPSED: &str = "mute here: no majority of voters renews";

/// What the attacks need, and what watches them.
struct Stage {
    forger: Forger,
    front: Front,
    chance: Chance,
    holder: String,
    standby: String,
    told: Vec<String>,
}

impl Stage {
    /// Plays one attack: nothing moves, no request fails. `play` says how many frames it sent.
    fn harmless(
        &mut self,
        cluster: &mut Cluster,
        name: &str,
        play: impl FnOnce(&mut Self, &mut Cluster) -> Result<u64>,
    ) -> Result<Seen> {
        let holder = self.holder.clone();
        let mut sent = 0;
        let seen = nothing_moves_by(cluster, &holder, |cluster| {
            sent = play(self, cluster)?;
            std::thread::sleep(AFTER);
            Ok(())
        });
        let seen = seen.with_context(|| name.to_owned())?;
        none_failed(&seen).with_context(|| name.to_owned())?;
        ensure!(sent > 0, "{name}: nothing was sent");
        self.told.push(format!("{name} {sent}"));
        Ok(seen)
    }
}

/// What daemons say in a while; certainly leases among it.
fn listen(cluster: &Cluster) -> Result<Vec<Heard>> {
    let heard = Ear::open(cluster.switch())?.listen(LISTEN)?;
    let leases = heard.iter().filter(|one| one.is_lease()).count();
    ensure!(
        leases >= LEASES_MIN,
        "only {leases} lease datagrams of {} were heard",
        heard.len()
    );
    Ok(heard)
}

pub(super) fn play(cluster: &mut Cluster, plan: &Plan, length: Duration) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    let mut stage = Stage {
        forger: Forger::on(cluster.client_host())?,
        front: Front::of(cluster)?,
        chance: Chance::new(SEED),
        holder,
        standby,
        told: Vec::new(),
    };
    traffic(cluster, &mut stage)?;
    restarts(cluster, &mut stage)?;
    let refused = certificates(cluster, &mut stage)?;
    let flood = flood(cluster, plan, &mut stage, length)?;
    Ok(Ending::Held(format!(
        "frames without effect: {}; {refused}; {flood}",
        stage.told.join(", ")
    )))
}

/// Everything that can be done to single datagrams.
fn traffic(cluster: &mut Cluster, stage: &mut Stage) -> Result<()> {
    let heard = listen(cluster)?;
    stage.harmless(cluster, "forged", |stage, _| {
        attacks::forged(&stage.forger, &stage.front, &mut stage.chance, &heard)
    })?;
    stage.harmless(cluster, "cut", |stage, _| {
        attacks::truncated(&stage.forger, &heard)
    })?;
    stage.harmless(cluster, "repeated", |stage, _| {
        attacks::replayed(&stage.forger, &mut stage.chance, &heard)
    })?;
    let holder = stage.holder.clone();
    stage.harmless(cluster, "reordered and doubled", |stage, cluster| {
        attacks::reordered(cluster, &stage.forger, &holder)
    })?;
    Ok(())
}

/// What was said to a daemon is said again to the one after it: to the next worker of the
/// holder, which has its leases and keys, and to new lives of the other voters, which have neither.
fn restarts(cluster: &mut Cluster, stage: &mut Stage) -> Result<()> {
    let heard = listen(cluster)?;
    let holder = stage.holder.clone();
    stage.harmless(cluster, "repeated to the next worker", |stage, cluster| {
        let worker = daemon::worker(cluster.host(&holder)?)?;
        rustix::process::kill_process(worker, rustix::process::Signal::KILL)
            .context("killing the worker")?;
        attacks::replayed(&stage.forger, &mut stage.chance, &heard)
    })?;
    for name in [stage.standby.clone(), WITNESS.to_owned()] {
        let before = attacks::keys(&heard);
        let what = format!("repeated to a new life of {name}");
        stage.harmless(cluster, &what, |stage, cluster| {
            process::kill_all(&cluster.host(&name)?.mark(daemon::PROGRAM))?;
            cluster.start_daemon(&name)?;
            // Again and again while it comes up: before it has keys, and with new ones.
            let begun = Instant::now();
            let mut sent = 0;
            while !is_whole(cluster)? {
                sent += attacks::replayed(&stage.forger, &mut stage.chance, &heard)?;
                if begun.elapsed() > BACK {
                    bail!("{name} does not come back while what it said before is repeated to it");
                }
            }
            sent += attacks::replayed(&stage.forger, &mut stage.chance, &heard)?;
            Ok(sent)
        })?;
        cluster.wait_whole()?;
        let after = attacks::keys(&listen(cluster)?);
        ensure!(
            after.difference(&before).next().is_some(),
            "{name} has no new keys: it was not restarted"
        );
    }
    Ok(())
}

/// Whether every node hears every other one.
fn is_whole(cluster: &Cluster) -> Result<bool> {
    for name in cluster.names() {
        let Some(status) = cluster.status(&name)? else {
            return Ok(false);
        };
        let alive = status.nodes.iter().all(|node| node.alive);
        if !alive || !status.quorum {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Certificates that do not count, and one that counts though it has ended.
fn certificates(cluster: &mut Cluster, stage: &mut Stage) -> Result<String> {
    let (holder, standby) = (stage.holder.clone(), stage.standby.clone());
    for (name, play) in [
        (
            "another authority's certificate",
            papers::foreign as fn(&mut Cluster, &str) -> Result<()>,
        ),
        ("another node's certificate", papers::of_another),
    ] {
        let seen = nothing_moves_by(cluster, &holder, |cluster| play(cluster, &standby))
            .with_context(|| name.to_owned())?;
        none_failed(&seen).with_context(|| name.to_owned())?;
    }
    papers::revoked(cluster, &holder, &standby).context("a revoked certificate")?;
    cluster.verdict().check().context("a revoked certificate")?;
    if cluster.wait_whole()? != holder {
        cluster.switch_over(WITNESS, &holder)?;
        cluster.wait_whole()?;
    }
    let client = cluster.client()?;
    wait::until("the client is served", BACK, || {
        Ok(client.first_good().map(drop))
    })?;
    let from = now();
    papers::ended(cluster, &holder, &standby).context("a certificate that has ended")?;
    let to = now();
    let seen = figures::seen(&settled(&client, from, to), from, to);
    none_failed(&seen).context("moves to and from a node whose certificate has ended")?;
    cluster.verdict().check()?;
    Ok(
        "certificates of another authority, of another node, and a revoked one counted for \
        nothing, one that has ended served"
            .into(),
    )
}

/// All ports at full rate, from one processor, in everybody's name: everything that an attacker
/// can invent who has listened.
fn flood(
    cluster: &mut Cluster,
    plan: &Plan,
    stage: &mut Stage,
    length: Duration,
) -> Result<String> {
    let heard = listen(cluster)?;
    let std::net::IpAddr::V4(voter) = cluster.witness_ip()? else {
        bail!("the lab's daemons speak IPv4");
    };
    let beats = Heartbeats::start(cluster.switch(), voter)?;
    let lapses = lapses(cluster, stage);
    let mut frames = Vec::with_capacity(PREPARED);
    while frames.len() < PREPARED {
        let payload = attacks::invented(&mut stage.chance, &heard);
        frames.extend(stage.front.send(&mut stage.chance, &payload));
    }
    beats.mark();
    let from = calendar();
    let (mut sent, mut refused) = (0, 0);
    let mut took = Duration::ZERO;
    let seen = stage.harmless(cluster, "in the flood", |stage, _| {
        let begun = Instant::now();
        for frame in frames.iter().cycle() {
            match stage.forger.send(frame)? {
                true => sent += 1,
                false => refused += 1,
            }
            let count: u64 = sent + refused;
            if count.is_multiple_of(LOOK_EVERY) && begun.elapsed() >= length {
                break;
            }
        }
        took = begun.elapsed();
        Ok(sent)
    })?;
    let to = calendar();
    let gaps = beats.gaps(&stage.holder, from, to);
    let longest = gaps.iter().max().copied().unwrap_or_default();
    ensure!(!gaps.is_empty(), "no heartbeats of the holder were seen");
    let late = plan.profile.heartbeat() * 2;
    let late = gaps.iter().filter(|gap| **gap > late).count();
    let after = self::lapses(cluster, stage);
    ensure!(after == lapses, "a lease ran out {} times", after - lapses);
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    Ok(format!(
        "flood of {:.0} s: {:.0} frames a second ({refused} found no room), {late} of {} heartbeats \
         late by one or more, {:.0} ms between two at most (a thread of that priority was late by \
         {:.1} ms), 0 leases lost, {} of {} requests failed, longest gap {:.0} ms, slowest {:.0} ms",
        took.as_secs_f64(),
        sent as f64 / took.as_secs_f64(),
        gaps.len(),
        ms(longest),
        ms(beats.noise(from, to)),
        seen.failed,
        seen.requests,
        ms(seen.gap),
        ms(seen.slowest),
    ))
}

/// How often the holder's log says that a lease has run out.
fn lapses(cluster: &Cluster, stage: &Stage) -> usize {
    cluster.log_count(&stage.holder, LAPSED)
}
