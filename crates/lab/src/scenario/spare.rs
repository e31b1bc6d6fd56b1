//! Issue, three servers and a spare with four groups: each group lands where the order says,
//! through a long random series of deaths, returns, drains, switches and failbacks. After each
//! step all is as an oracle of the scenario's own says ([`oracle`]), on every living node, on the
//! wire and for a client, and `why` explains every move: nothing else has moved.

mod look;
mod oracle;
mod place;
mod steps;

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use evenkeel_console::api::v1::Move;
use evenkeel_core::Moment;
use evenkeel_host::clock::now;

use super::Ending;
use crate::chance::Chance;
use crate::cluster::{Cluster, Plan, WITNESS};
use crate::figures::spread;
use look::Wire;
use oracle::{Oracle, Step};
use place::{GROUPS, SERVERS};
use steps::{Draw, Op};

/// From one question of a check to the next: four groups ask a lot on one machine.
const INTERVAL: Duration = Duration::from_millis(200);
/// From one look to the next while the cluster comes to rest.
const LOOK: Duration = Duration::from_millis(100);
/// Time for the cluster to rest after a step, once nothing has to move any more by the oracle's
/// spans: a boot, the 3 s of a node that recovers, takeovers on a busy machine.
const REST_LIMIT: Duration = Duration::from_secs(40);
/// A move that was read so soon after a step may have been decided before it.
const OVERLAP: Duration = Duration::from_secs(3);
/// Steps told when something is wrong.
const TOLD: usize = 12;

/// Changes a usual plan to three servers and a spare.
pub(super) fn plan(plan: &mut Plan) {
    plan.servers = place::servers();
    plan.groups = place::groups();
    plan.interval = INTERVAL;
}

/// What the series came to.
#[derive(Default)]
struct Figures {
    moves: usize,
    deaths: usize,
    failbacks: usize,
    unplanned: Vec<Duration>,
    planned: Vec<Duration>,
    failed_in_planned: usize,
}

struct Run<'a> {
    cluster: &'a mut Cluster,
    oracle: Oracle,
    /// What it was before the last step, and when that began: a move may have come in between.
    before: (Oracle, Moment),
    wires: Vec<Wire>,
    /// The newest assignment of each group that was explained.
    known: Vec<u64>,
    began: Moment,
    /// Since when the leader's daemon runs.
    leads_since: Moment,
    /// Moves of this step: group, and what.
    moved: Vec<(usize, Step)>,
    /// Which groups were served before this step.
    served: Vec<bool>,
    last_move: Moment,
    told: Vec<String>,
    figures: Figures,
}

/// Plays a series of so many steps from a seed.
pub(super) fn play(cluster: &mut Cluster, steps: usize, seed: u64) -> Result<Ending> {
    println!("spare: {steps} steps from --seed {seed}");
    let mut run = Run::new(cluster)?;
    let mut draw = Draw(Chance(seed));
    for number in 1..=steps {
        let step = run.step(&mut draw);
        step.with_context(|| run.trouble(seed, number))?;
    }
    let files = run.replay()?;
    let figures = run.figures.told(steps, seed);
    Ok(Ending::Held(format!(
        "{figures}; {files} files of flight recorders replayed"
    )))
}

impl Figures {
    fn told(&self, steps: usize, seed: u64) -> String {
        let (unplanned, planned) = (spread(&self.unplanned), spread(&self.planned));
        format!(
            "{steps} steps from seed {seed}, {} of them deaths; {} moves, all explained, {} of them \
             failbacks. Dark for p50 {:.0}, worst {:.0} ms in {} unplanned moves; in {} planned \
             ones {} requests failed, the longest without an answer was {:.0} ms",
            self.deaths,
            self.moves,
            self.failbacks,
            unplanned.p50,
            unplanned.max,
            unplanned.count,
            planned.count,
            self.failed_in_planned,
            planned.max,
        )
    }
}

impl<'a> Run<'a> {
    /// What is on record of it comes to the same, on every node that has power.
    fn replay(&self) -> Result<usize> {
        let servers = SERVERS.iter().zip(&self.oracle.servers);
        let living = servers.filter(|(_, one)| one.up).map(|(name, _)| *name);
        let mut files = 0;
        for name in [WITNESS].into_iter().chain(living) {
            let host = self.cluster.host(name)?;
            files += self.cluster.evenkeel().replay_all(host)?;
        }
        ensure!(files > 0, "there is no file of a flight recorder");
        Ok(files)
    }

    /// A cluster that is whole, each group on its first server.
    fn new(cluster: &'a mut Cluster) -> Result<Self> {
        let began = now();
        let oracle = Oracle::new(began);
        let mut wires = Vec::new();
        for group in &GROUPS {
            wires.push(Wire::start(cluster, group)?);
        }
        let mut run = Self {
            cluster,
            before: (oracle.clone(), began),
            oracle,
            wires,
            known: vec![0; GROUPS.len()],
            began,
            leads_since: began,
            moved: Vec::new(),
            served: vec![true; GROUPS.len()],
            last_move: began,
            told: Vec::new(),
            figures: Figures::default(),
        };
        for one in look::moves(run.cluster, WITNESS)? {
            let group = group_of(&one)?;
            run.known[group] = one.epoch;
            run.oracle.groups[group].holder = look::holder_of(&one)?;
        }
        run.rest()?;
        for wire in &mut run.wires {
            wire.gap(began);
        }
        Ok(run)
    }

    fn step(&mut self, draw: &mut Draw) -> Result<()> {
        let op = draw.step(&self.oracle, self.leads_since);
        let op = op.context("no step makes sense")?;
        let start = Instant::now();
        self.told.push(op.to_string());
        self.moved.clear();
        self.cluster.observer.mark();
        self.before = (self.oracle.clone(), now());
        self.served = (0..GROUPS.len())
            .map(|group| self.oracle.answers(group))
            .collect();
        steps::play(self.cluster, &mut self.oracle, op, self.leads_since)?;
        if let Op::Await(group) = op {
            self.goes_back(group)?;
        }
        self.rest()?;
        self.cluster.verdict().check()?;
        self.figures.deaths += usize::from(matches!(op, Op::Cut(_)));
        self.note_gaps();
        let moves: Vec<String> = self.moved.iter().map(told).collect();
        let line = format!("{op}: {}", moves.join(", "));
        println!("  {line} ({:.1} s)", start.elapsed().as_secs_f64());
        *self.told.last_mut().context("a step")? = line;
        Ok(())
    }

    /// Waits for a failback that is due.
    fn goes_back(&mut self, group: usize) -> Result<()> {
        let start = Instant::now();
        let back = |run: &Self| run.moved.iter().any(|one| one.0 == group);
        while !back(self) {
            self.look()?;
            ensure!(
                start.elapsed() < steps::AWAITED + REST_LIMIT,
                "{} does not go back",
                GROUPS[group].name
            );
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Waits until nothing has to move any more and everybody says what the oracle says.
    fn rest(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let Some(lacking) = self.look()? else {
                return Ok(());
            };
            ensure!(start.elapsed() < REST_LIMIT, "no rest: {lacking}");
            std::thread::sleep(LOOK);
        }
    }

    /// Explains what has moved, and tells what is not at rest.
    fn look(&mut self) -> Result<Option<String>> {
        let moves = look::moves(self.cluster, WITNESS)?;
        for one in &moves {
            self.explain(one)?;
        }
        let said = match look::everybody(self.cluster, &self.oracle)? {
            Ok(said) => said,
            Err(lacking) => return Ok(Some(lacking)),
        };
        if let Some(leader) = said
            .first()
            .and_then(|(_, status)| status.leader.as_deref())
        {
            self.leads_since = self.started(leader);
        }
        let lacking = said
            .iter()
            .find_map(|one| look::lacking(one, &self.oracle, self.leads_since));
        if lacking.is_some() {
            return Ok(lacking);
        }
        if let Some(lacking) = self.unmoved().or_else(|| self.untold(&moves)) {
            return Ok(Some(lacking));
        }
        for (by, _) in &said {
            let theirs = look::moves(self.cluster, by)?;
            if let Some(lacking) = look::differ(&moves, &theirs, by) {
                return Ok(Some(lacking));
            }
        }
        Ok(self.on_the_wire())
    }

    /// Since when the daemon of a node runs.
    fn started(&self, name: &str) -> Moment {
        place::number(name).map_or(self.began, |node| self.oracle.servers[node].booted)
    }

    /// What has to move, or was asked to.
    fn unmoved(&self) -> Option<String> {
        if let Some((group, to)) = self.oracle.wish {
            return Some(format!("{} is not on {}", GROUPS[group].name, SERVERS[to]));
        }
        (0..GROUPS.len()).find_map(|group| {
            let needs = self.oracle.needs(group, now(), self.leads_since);
            (!needs.contains(&None)).then(|| format!("{}: {needs:?}", GROUPS[group].name))
        })
    }

    /// A served group whose holder has not told how its last move went.
    fn untold(&self, moves: &[Move]) -> Option<String> {
        (0..GROUPS.len()).find_map(|group| {
            let mut of = moves.iter().filter(|one| one.group == GROUPS[group].name);
            let last = of.next_back()?;
            let told = last.completed && !last.phases.is_empty();
            (self.oracle.is_served(group) && !told).then(|| format!("not told: {last:?}"))
        })
    }

    fn on_the_wire(&self) -> Option<String> {
        let since = self.last_move.max(self.before.1);
        (0..GROUPS.len()).find_map(|group| {
            if !self.oracle.answers(group) {
                return None;
            }
            let holder = self.oracle.groups[group].holder;
            self.wires[group].lacks(self.cluster, &GROUPS[group], holder, since)
        })
    }

    /// A move that the oracle does not know yet must be one that it finds right.
    fn explain(&mut self, one: &Move) -> Result<()> {
        let group = group_of(one)?;
        if one.epoch <= self.known[group] {
            return Ok(());
        }
        let (step, at) = (look::step_of(one)?, now());
        look::is_explained(one, &GROUPS[group], self.oracle.groups[group].holder)?;
        let leads_since = self.started(&one.decided_by);
        let mut right = self.oracle.needs(group, at, leads_since);
        if at.since(self.before.1) < OVERLAP {
            right.extend(self.before.0.needs(group, at, leads_since));
        }
        if !right.contains(&Some(step)) {
            bail!(
                "{} moved as {step:?}, right is {right:?}: {one:?}",
                GROUPS[group].name
            );
        }
        self.oracle.moved(group, step, at);
        self.before.0.moved(group, step, at);
        self.known[group] = one.epoch;
        self.last_move = at;
        self.moved.push((group, step));
        self.figures.moves += 1;
        self.figures.failbacks += usize::from(step.1 == "failback");
        Ok(())
    }

    /// What the clients of groups saw that moved once, from and to a server that serves.
    fn note_gaps(&mut self) {
        for group in 0..GROUPS.len() {
            let gap = self.wires[group].gap(self.before.1);
            let mut moved = self.moved.iter().filter(|one| one.0 == group);
            let (Some((_, (_, cause))), None) = (moved.next(), moved.next()) else {
                continue;
            };
            if !self.oracle.answers(group) || !self.served[group] {
                continue;
            }
            match *cause {
                "holder-silent" | "rule" => self.figures.unplanned.push(gap.longest),
                _ => {
                    self.figures.planned.push(gap.longest);
                    self.figures.failed_in_planned += gap.failed;
                }
            }
        }
    }

    /// What a person needs who looks for what went wrong.
    fn trouble(&self, seed: u64, number: usize) -> String {
        let mut text = format!("step {number} of --seed {seed}; the last steps:");
        for line in self.told.iter().rev().take(TOLD).rev() {
            let _ = write!(text, "\n  {line}");
        }
        let _ = write!(
            text,
            "\nmoved meanwhile: {:?}\n{:?}",
            self.moved, self.oracle
        );
        text
    }
}

fn group_of(one: &Move) -> Result<usize> {
    let found = GROUPS.iter().position(|group| group.name == one.group);
    found.with_context(|| format!("a group that nobody planned: {one:?}"))
}

fn told((group, (to, cause)): &(usize, Step)) -> String {
    format!("{} to {} ({cause})", GROUPS[*group].name, SERVERS[*to])
}
