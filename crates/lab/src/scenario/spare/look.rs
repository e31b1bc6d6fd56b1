//! What is to be seen of the cluster: `status` of every node, `why`, the wire, the clients.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_console::api::v1::Move;
use evenkeel_core::Moment;
use evenkeel_host::clock::now;

use super::oracle::{Oracle, Step};
use super::place::{GROUPS, Group, SERVERS, number};
use crate::apache;
use crate::client::{Client, QUICK};
use crate::cluster::{Cluster, WITNESS};
use crate::daemon::{Candidate, GroupStatus, Status};

/// From one question of a client to the next: outages are told to within twice that.
const PACE: Duration = Duration::from_millis(20);

/// A node that lives, and what it says.
pub(super) type Said = (String, Status);

/// What every living node says; the name of one that says nothing.
pub(super) fn everybody(cluster: &Cluster, oracle: &Oracle) -> Result<Result<Vec<Said>, String>> {
    let servers = SERVERS.iter().zip(&oracle.servers);
    let living = servers
        .filter(|(_, server)| server.up)
        .map(|(name, _)| *name);
    let mut all = Vec::new();
    for name in [WITNESS].into_iter().chain(living) {
        match cluster.status(name)? {
            Some(status) => all.push((name.to_owned(), status)),
            None => return Ok(Err(format!("{name} says nothing"))),
        }
    }
    Ok(Ok(all))
}

/// All moves that a node remembers, oldest first for each group.
pub(super) fn moves(cluster: &Cluster, at: &str) -> Result<Vec<Move>> {
    let told = cluster
        .evenkeel()
        .order(cluster.host(at)?, &["why", "--json"])?;
    let mut moves: Vec<Move> = serde_json::from_str(&told).context("understanding why --json")?;
    moves.sort_by_key(|one| one.epoch);
    Ok(moves)
}

/// What `status` of a node lacks of what the oracle says.
pub(super) fn lacking(said: &Said, oracle: &Oracle, leads_since: Moment) -> Option<String> {
    let (by, status) = said;
    let lacks = |what: String| Some(format!("{by}: {what}"));
    if !status.quorum || status.leader.is_none() {
        return lacks("no majority or leader".to_owned());
    }
    let lives = |name: &str| number(name).is_none_or(|node| oracle.servers[node].up);
    if let Some(wrong) = status
        .nodes
        .iter()
        .find(|one| one.alive != lives(&one.name))
    {
        return lacks(format!("{} is alive: {}", wrong.name, wrong.alive));
    }
    for (group, planned) in GROUPS.iter().enumerate() {
        let told = status.groups.iter().find(|one| one.name == planned.name);
        let Some(told) = told else {
            return lacks(format!("{} is not known", planned.name));
        };
        if let Some(what) = group_lacks(told, oracle, group, leads_since) {
            return lacks(format!("{}: {what}", planned.name));
        }
    }
    None
}

fn group_lacks(
    told: &GroupStatus,
    oracle: &Oracle,
    group: usize,
    leads_since: Moment,
) -> Option<String> {
    let held = &oracle.groups[group];
    if told.holder.as_deref() != Some(SERVERS[held.holder]) {
        return Some(format!("held by {:?}", told.holder));
    }
    if oracle.is_served(group) != (told.state == "serving") {
        return Some(format!("it is {}", told.state));
    }
    for one in &told.nodes {
        if let Some(what) = apache_lacks(one, oracle) {
            return Some(what);
        }
        let wanted = number(&one.name);
        let wanted = wanted.and_then(|node| oracle.is_ready(group, node, now(), leads_since));
        if wanted.is_some_and(|wanted| wanted != one.ready) {
            return Some(format!(
                "{} is ready: {}, {:?}",
                one.name, one.ready, one.reason
            ));
        }
        if !one.ready && one.reason.as_deref().unwrap_or_default().is_empty() {
            return Some(format!("{} is not ready, for no reason", one.name));
        }
    }
    None
}

/// What is known of a living server's Apache, if it is not so: whether it is ready may depend on other
/// things, and the next step is to find it known.
fn apache_lacks(told: &Candidate, oracle: &Oracle) -> Option<String> {
    let server = &oracle.servers[number(&told.name)?];
    let wanted = if server.sick { "failing" } else { "ok" };
    let check = told.checks.iter().find(|check| check.name == "apache");
    let state = check.map(|check| check.state.as_str());
    (server.up && state != Some(wanted))
        .then(|| format!("{}'s apache is {state:?}, not {wanted}", told.name))
}

/// A move of `why` as a step of the oracle's.
pub(super) fn step_of(one: &Move) -> Result<Step> {
    const CAUSES: [&str; 6] = [
        "holder-silent",
        "holder-restarted",
        "rule",
        "drained",
        "failback",
        "operator",
    ];
    let cause = CAUSES.into_iter().find(|cause| *cause == one.cause);
    Ok((
        holder_of(one)?,
        cause.with_context(|| format!("nothing here is {}: {one:?}", one.cause))?,
    ))
}

/// Where it went.
pub(super) fn holder_of(one: &Move) -> Result<usize> {
    number(&one.to).with_context(|| format!("a holder that is no server: {one:?}"))
}

/// Whether `why` tells what a person needs: who was left, what spoke against it, and every node
/// that was thought of.
pub(super) fn is_explained(one: &Move, group: &Group, from: usize) -> Result<()> {
    ensure!(
        one.from.as_deref() == Some(SERVERS[from]),
        "it was held by {}: {one:?}",
        SERVERS[from]
    );
    ensure!(
        !one.because.is_empty() && !one.decided_by.is_empty(),
        "{one:?}"
    );
    for node in group.nodes {
        let named = one
            .considered
            .iter()
            .any(|line| line.starts_with(SERVERS[*node]));
        ensure!(named, "nothing is said of {}: {one:?}", SERVERS[*node]);
    }
    let apache = one.evidence.iter().any(|line| line.contains("apache"));
    ensure!(
        one.cause != "rule" || apache,
        "the failing check is not named: {one:?}"
    );
    Ok(())
}

/// Who answers on the wire and to a client.
pub(super) struct Wire {
    client: Client,
    read: usize,
    last_good: Moment,
}

/// What a client saw since it was asked last.
pub(super) struct Gap {
    /// The longest time without a good answer.
    pub(super) longest: Duration,
    pub(super) failed: usize,
}

impl Wire {
    pub(super) fn start(cluster: &Cluster, group: &Group) -> Result<Self> {
        let page = apache::page(group.ip());
        Ok(Self {
            client: Client::start(cluster.client_host(), page, QUICK, PACE)?,
            read: 0,
            last_good: now(),
        })
    }

    /// What there was since the last time, and how many requests failed that were begun since.
    pub(super) fn gap(&mut self, since: Moment) -> Gap {
        let records = self.client.since(&mut self.read);
        let mut gap = Gap {
            longest: Duration::ZERO,
            failed: 0,
        };
        for record in records {
            if record.is_good() {
                gap.longest = gap.longest.max(record.end.since(self.last_good));
                self.last_good = self.last_good.max(record.end);
            } else {
                gap.failed += usize::from(record.start >= since);
            }
        }
        gap
    }

    /// What of a served group is not as it must be, on the wire and for a client, since a moment.
    pub(super) fn lacks(
        &self,
        cluster: &Cluster,
        group: &Group,
        holder: usize,
        since: Moment,
    ) -> Option<String> {
        let wanted = SERVERS[holder];
        let answers = self.client.last_good().filter(|(at, _)| *at >= since);
        match answers.map(|(_, host)| host) {
            Some(host) if *host == *wanted => {}
            host => return Some(format!("{} answers a client: {:?}", group.name, told(host))),
        }
        let report = cluster.observer.report();
        for (address, _) in group.addresses() {
            let last = report.stretches.get(&address).and_then(|row| row.last());
            let last = last.map(|stretch| stretch.host.as_str());
            // The other address is spoken for at an opening only.
            if last.is_some_and(|last| last != wanted) || (last.is_none() && address == group.ip())
            {
                return Some(format!("{address} is answered for by {last:?}"));
            }
        }
        None
    }
}

fn told(host: Option<Arc<str>>) -> String {
    host.map_or_else(|| "nobody".to_owned(), |host| host.to_string())
}

/// How the moves that two nodes tell differ.
pub(super) fn differ(ours: &[Move], theirs: &[Move], by: &str) -> Option<String> {
    let words = |one: &Move| {
        let from = one.from.as_deref().unwrap_or_default();
        format!(
            "{} {}: {from} to {} ({})",
            one.group, one.epoch, one.to, one.cause
        )
    };
    let ours: Vec<String> = ours.iter().map(words).collect();
    let theirs: Vec<String> = theirs.iter().map(words).collect();
    (ours != theirs).then(|| format!("{by} tells other moves than {WITNESS}: {theirs:?}, {ours:?}"))
}
