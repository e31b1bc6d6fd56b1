//! Issue 3, "Seen to hold" 5: a group of thousands of addresses of both families moves, in each
//! of the ways in which groups move. When every one of them was announced, from the opening on;
//! that no heartbeat is late for them; and that one renewal is sent for all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::many_checks::beat;
use super::{Ending, rest};
use crate::cluster::{Cluster, Plan, SERVICE, SERVICE6};
use crate::fault::{self, Fault};
use crate::figures::spread;
use crate::heartbeat::{Heartbeats, calendar};
use crate::observer::{Kind, Report};
use crate::{daemon, wait};

/// How many of each family, with those of the group's page.
const IPV4: u32 = 2_000;
const IPV6: u32 = 200;

/// All are announced within this of the opening.
const ANNOUNCED_MAX: Duration = Duration::from_millis(50);

/// Time for a group to have moved, before the run counts as failed.
const MOVES_LIMIT: Duration = Duration::from_secs(10);

/// How long heartbeats are watched before and after a move. The announcements' first repeats
/// fall into it, four sweeps over all addresses.
const WATCH: Duration = Duration::from_millis(1_500);

/// Ways to move, one after the other in each run.
const WAYS: [Way; 3] = [Way::PowerCut, Way::Switch, Way::DaemonKilled];

#[derive(Clone, Copy, Debug)]
enum Way {
    PowerCut,
    Switch,
    DaemonKilled,
}

/// The addresses beside those of the group's page. Those of IPv4 are of another network than
/// the hosts'.
pub(super) fn more() -> impl Iterator<Item = (IpAddr, u8)> {
    let (first4, first6) = (Ipv4Addr::new(10, 64, 1, 0), SERVICE6);
    let ipv4 = (1..IPV4).map(move |at| (IpAddr::V4((first4.to_bits() + at).into()), 16));
    let ipv6 = (1..IPV6).map(move |at| {
        let base = match first6 {
            IpAddr::V6(ip) => ip,
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        };
        (
            IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() + u128::from(at))),
            64,
        )
    });
    ipv4.chain(ipv6)
}

/// What one move came to.
struct Moved {
    /// From the opening to the first announcement of the last address.
    announced: Duration,
    /// The longest time between two heartbeats of any holder.
    beat: Duration,
    /// Processor time of the new holder's daemon.
    used: Duration,
}

/// When `host` first announced each address since `from`, on the calendar clock; those that it
/// has not are missing.
fn announced(report: &Report, host: &str, from: Duration) -> Vec<Duration> {
    let rows = report.stretches.iter();
    rows.filter_map(|(address, row)| {
        let kind = match address {
            IpAddr::V4(_) => Kind::Arp,
            IpAddr::V6(_) => Kind::Advertisement,
        };
        let of_host = |stretch: &&crate::observer::Stretch| {
            stretch.host == host
                && stretch.first.calendar >= from
                && stretch.kinds.contains_key(&kind)
        };
        row.iter().find(of_host).map(|one| one.first.calendar)
    })
    .collect()
}

/// Waits until `host` has announced all addresses; gives when the first and the last were.
fn wait_announced(cluster: &Cluster, host: &str, from: Duration) -> Result<(Duration, Duration)> {
    let count = usize::try_from(IPV4 + IPV6)?;
    let mut seen = 0;
    let all = wait::until("every address is announced", MOVES_LIMIT, || {
        let times = announced(&cluster.observer.report(), host, from);
        seen = times.len();
        Ok((seen == count).then_some(times))
    })
    .with_context(|| format!("{seen} of {count} were"))?;
    let first = all.iter().min().context("no address")?;
    let last = all.iter().max().context("no address")?;
    Ok((*first, *last))
}

/// Moves the group away from `holder`.
fn set_off(cluster: &mut Cluster, way: Way, holder: &str, standby: &str) -> Result<()> {
    match way {
        Way::PowerCut => fault::inject(cluster, Fault::PowerCut, holder),
        Way::Switch => cluster.switch_over(holder, standby),
        Way::DaemonKilled => fault::inject(cluster, Fault::DaemonKilled, holder),
    }
}

/// One move.
fn move_once(cluster: &mut Cluster, plan: &Plan, beats: &Heartbeats, way: Way) -> Result<Moved> {
    let holder = cluster.wait_whole()?;
    let standby = cluster.other(&holder)?;
    let used = |cluster: &Cluster| rest::total_used(&daemon::processes(cluster.host(&standby)?)?);
    beats.mark();
    let calm = calendar();
    std::thread::sleep(WATCH);
    let before = beat(beats, plan, &holder, calm)?;
    renewals(beats, plan, &holder, calm)?;
    cluster.observer.mark();
    let (used_before, struck) = (used(cluster)?, calendar());
    set_off(cluster, way, &holder, &standby)?;
    let (first, last) = wait_announced(cluster, &standby, struck)?;
    std::thread::sleep(WATCH);
    let after = beat(beats, plan, &standby, struck)?;
    let used = used(cluster)?.saturating_sub(used_before);
    let told = cluster
        .openings(&standby)
        .into_iter()
        .rfind(|at| *at >= struck);
    // The log may be late, an announcement cannot be early.
    let opened = told
        .with_context(|| format!("{standby} did not open"))?
        .min(first);
    cluster.verdict().check()?;
    Ok(Moved {
        announced: last.saturating_sub(opened),
        beat: before.max(after),
        used,
    })
}

/// One renewal is sent for all addresses: not more datagrams than heartbeats.
fn renewals(beats: &Heartbeats, plan: &Plan, holder: &str, from: Duration) -> Result<()> {
    let to = calendar();
    let sent = beats.gaps(holder, from, to).len();
    let heartbeat = plan.profile.lease() / 6;
    let due = to.saturating_sub(from).as_nanos() / heartbeat.as_nanos();
    ensure!(
        sent as u128 <= due + due / 4 + 2,
        "{sent} lease datagrams to a voter in the time of {due} heartbeats"
    );
    Ok(())
}

pub(super) fn play(cluster: &mut Cluster, plan: &Plan, runs: usize) -> Result<Ending> {
    let IpAddr::V4(witness) = cluster.witness_ip()? else {
        anyhow::bail!("the witness has no IPv4 address");
    };
    let beats = Heartbeats::start(cluster.switch(), witness)?;
    let mut told = Vec::new();
    let mut late = Vec::new();
    let mut all: Vec<Vec<Moved>> = WAYS.iter().map(|_| Vec::new()).collect();
    for run in 0..runs {
        for (way, moves) in WAYS.into_iter().zip(&mut all) {
            let (moved, noise) = {
                let from = calendar();
                let moved = move_once(cluster, plan, &beats, way)
                    .with_context(|| format!("run {run}, {way:?}"))?;
                (moved, beats.noise(from, calendar()))
            };
            if moved.announced > ANNOUNCED_MAX + noise {
                late.push(format!(
                    "{:?} in run {run}, {way:?} (threads were late by {noise:?} at most)",
                    moved.announced
                ));
            }
            moves.push(moved);
            cluster
                .heal()
                .with_context(|| format!("run {run}, after {way:?}"))?;
        }
    }
    for (way, moves) in WAYS.into_iter().zip(&all) {
        told.push(summary(way, moves));
    }
    let figures = format!(
        "{runs} runs, {IPV4} IPv4 and {IPV6} IPv6 addresses; {}",
        told.join("; ")
    );
    ensure!(
        late.is_empty(),
        "announced later than {ANNOUNCED_MAX:?}: {}; {figures}",
        late.join(", ")
    );
    Ok(Ending::Held(figures))
}

fn summary(way: Way, moves: &[Moved]) -> String {
    let of = |value: fn(&Moved) -> Duration| {
        let values: Vec<Duration> = moves.iter().map(value).collect();
        spread(&values)
    };
    let (announced, beat) = (of(|one| one.announced), of(|one| one.beat));
    let used = of(|one| one.used);
    format!(
        "{way:?}: the last one announced p50 {:.1}, max {:.1} ms after the opening, longest time \
         between heartbeats p50 {:.1}, max {:.1} ms, processor time of the new holder p50 {:.0}, \
         max {:.0} ms",
        announced.p50, announced.max, beat.p50, beat.max, used.p50, used.max
    )
}

/// The group with all of them.
pub(super) fn enlarge(plan: &mut Plan) {
    debug_assert!(SERVICE.is_ipv4() && SERVICE6.is_ipv6(), "one of each");
    if let Some(group) = plan.groups.first_mut() {
        group.addresses.extend(more());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_is_said_and_all_differ() {
        let mut all: std::collections::BTreeSet<IpAddr> = more().map(|(ip, _)| ip).collect();
        all.extend([SERVICE, SERVICE6]);
        let ipv4 = all.iter().filter(|ip| ip.is_ipv4()).count();
        assert_eq!((ipv4, all.len() - ipv4), (2_000, 200));
    }
}
