//! What can happen next, drawn from a seed, and how it is made to happen.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;

use super::oracle::Oracle;
use super::place::{GROUPS, SERVERS};
use crate::apache;
use crate::chance::Chance;
use crate::cluster::{Cluster, WITNESS};

/// How many servers may be dead at once: with the witness a majority of five is left.
const DEAD_MAX: usize = 2;
/// How many servers may be drained at once; more are refused now and then.
const DRAINED_MAX: usize = 2;
/// Of the orders that are refused or change little one in so many is given.
const RARELY: usize = 8;
/// The longest that a step waits for a failback: the first hold-down, and the stable time.
pub(super) const AWAITED: Duration = Duration::from_secs(45);
/// Draws for one step: some always fits.
const TRIES: usize = 1_000;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Cut(usize),
    Boot(usize),
    /// Its Apache is killed.
    Kill(usize),
    /// Its Apache is started.
    Heal(usize),
    Drain(usize),
    Undrain(usize),
    Switch(usize, usize),
    /// Nothing is done until a group goes back by itself.
    Await(usize),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = |node: &usize| SERVERS[*node];
        match self {
            Self::Cut(node) => write!(f, "power cut of {}", server(node)),
            Self::Boot(node) => write!(f, "boot of {}", server(node)),
            Self::Kill(node) => write!(f, "Apache killed on {}", server(node)),
            Self::Heal(node) => write!(f, "Apache started on {}", server(node)),
            Self::Drain(node) => write!(f, "drain {}", server(node)),
            Self::Undrain(node) => write!(f, "undrain {}", server(node)),
            Self::Switch(group, to) => {
                write!(f, "switch {} --to {}", GROUPS[*group].name, server(to))
            }
            Self::Await(group) => write!(f, "until {} goes back", GROUPS[*group].name),
        }
    }
}

/// Draws the steps.
pub(super) struct Draw(pub(super) Chance);

impl Draw {
    /// The next step that makes sense.
    pub(super) fn step(&mut self, oracle: &Oracle, leads_since: Moment) -> Option<Op> {
        (0..TRIES).find_map(|_| self.draw(oracle, leads_since))
    }

    fn draw(&mut self, oracle: &Oracle, leads_since: Moment) -> Option<Op> {
        let (node, group) = (self.0.below(SERVERS.len()), self.0.below(GROUPS.len()));
        let server = &oracle.servers[node];
        let op = match self.0.below(20) {
            0..=2 if server.up && oracle.dead() < DEAD_MAX => Op::Cut(node),
            3..=8 if !server.up => Op::Boot(node),
            9 if server.up && !server.sick => Op::Kill(node),
            10..=12 if server.up && server.sick => Op::Heal(node),
            13 => self.drain(oracle, node)?,
            14..=15 if server.drained.is_some() => Op::Undrain(node),
            16 => self.switch(oracle, group, leads_since)?,
            17..=19 => {
                let due = |group| {
                    oracle
                        .goes_back(group, now(), leads_since, AWAITED)
                        .is_some()
                };
                Op::Await((0..GROUPS.len()).find(|group| due(*group))?)
            }
            _ => return None,
        };
        Some(op)
    }

    /// Mostly of one that lives, and granted.
    fn drain(&mut self, oracle: &Oracle, node: usize) -> Option<Op> {
        let servers = &oracle.servers;
        let drained = servers.iter().filter(|one| one.drained.is_some()).count();
        let sense = servers[node].up && servers[node].drained.is_none() && drained < DRAINED_MAX;
        let wanted = sense && oracle.may_drain(node) || self.0.below(RARELY) == 0;
        wanted.then_some(Op::Drain(node))
    }

    /// Mostly one that is granted.
    fn switch(&mut self, oracle: &Oracle, group: usize, leads_since: Moment) -> Option<Op> {
        let nodes = GROUPS[group].nodes;
        let to = nodes[self.0.below(nodes.len())];
        let granted = oracle.may_switch(group, to, now(), leads_since);
        (granted != Some(false) || self.0.below(RARELY) == 0).then_some(Op::Switch(group, to))
    }
}

/// Makes it happen, and tells the oracle.
pub(super) fn play(
    cluster: &mut Cluster,
    oracle: &mut Oracle,
    op: Op,
    leads_since: Moment,
) -> Result<()> {
    oracle.disturbed = now();
    match op {
        Op::Cut(node) => {
            oracle.servers[node].up = false;
            cluster.power_cut(SERVERS[node])?;
        }
        Op::Boot(node) => {
            cluster.boot(SERVERS[node])?;
            let server = &mut oracle.servers[node];
            (server.up, server.sick) = (true, false);
            server.life += 1;
            (server.booted, server.well_since) = (now(), now());
        }
        Op::Kill(node) => {
            oracle.servers[node].sick = true;
            apache::kill(cluster.host(SERVERS[node])?)?;
        }
        Op::Heal(node) => {
            apache::heal(cluster.host_mut(SERVERS[node])?)?;
            let server = &mut oracle.servers[node];
            (server.sick, server.well_since) = (false, now());
        }
        Op::Drain(node) => {
            let granted = oracle.may_drain(node);
            if granted {
                oracle.servers[node].drained = Some(now());
            }
            let code = ask(cluster, &["drain", SERVERS[node], "--no-wait"])?;
            ensure!(
                granted == (code == 0),
                "granted: {granted}; exit code {code}"
            );
        }
        Op::Undrain(node) => {
            oracle.servers[node].drained = None;
            let code = ask(cluster, &["undrain", SERVERS[node]])?;
            ensure!(code == 0, "exit code {code}");
        }
        Op::Switch(group, to) => {
            let granted = oracle.may_switch(group, to, now(), leads_since);
            switch(cluster, oracle, (group, to), granted)?;
        }
        Op::Await(_) => {}
    }
    // What is counted from now on begins when it is done.
    oracle.disturbed = now();
    Ok(())
}

fn switch(
    cluster: &Cluster,
    oracle: &mut Oracle,
    (group, to): (usize, usize),
    granted: Option<bool>,
) -> Result<()> {
    let code = ask(
        cluster,
        &["switch", GROUPS[group].name, "--to", SERVERS[to]],
    )?;
    ensure!(
        granted.is_none_or(|granted| granted == (code == 0)),
        "granted: {granted:?}; exit code {code}"
    );
    oracle.wish = (code == 0).then_some((group, to));
    Ok(())
}

/// Asks the daemon of the witness, which always lives.
fn ask(cluster: &Cluster, order: &[&str]) -> Result<i32> {
    let output = cluster.evenkeel().ask(cluster.host(WITNESS)?, order)?;
    Ok(output.status.code().unwrap_or(-1))
}
