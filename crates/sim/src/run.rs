//! One run: a phase of faults, then their end and the demand for service.

use evenkeel_core::lease::Faults;
use evenkeel_core::quorum::majority;

use crate::agreement::Extent;
use crate::chance::Chance;
use crate::check::{Violation, l1};
use crate::mix::{Deed, MS, Mix};
use crate::node::Restart;
use crate::plot;
use crate::world::{Seen, World};

/// A run that found a property broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Repeats it.
    pub seed: u64,
    /// What broke.
    pub violation: Violation,
    /// True time of it.
    pub at: u64,
    /// The last that happened, if the run was asked to tell.
    pub story: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.story {
            writeln!(f, "{line}")?;
        }
        let Violation { property, seen } = &self.violation;
        writeln!(
            f,
            "seed {}: {property} is broken at {} ns: {seen}",
            self.seed, self.at
        )?;
        write!(
            f,
            "repeat with: cargo run -p evenkeel-sim -- --from {} --seeds 1",
            self.seed
        )
    }
}

impl std::error::Error for Failure {}

/// Whether a run tells its story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Only what broke.
    Verdict,
    /// The last events too. Slower.
    Story,
}

/// Runs one seed with the product's rules; a failing one is run again for its story.
pub fn run(seed: u64) -> Result<Seen, Box<Failure>> {
    once(seed, Faults::default(), Telling::Verdict)
        .or_else(|_| once(seed, Faults::default(), Telling::Story))
}

/// Runs one seed.
pub fn once(seed: u64, faults: Faults, telling: Telling) -> Result<Seen, Box<Failure>> {
    let mut chance = Chance::new(seed);
    let mix = Mix::draw(&mut chance);
    let mut world = World::new(mix, chance, faults, telling == Telling::Story);
    chaos(&mut world);
    if world.violation.is_none() && faults == Faults::default() {
        peace(&mut world);
    }
    match world.violation.take() {
        None => Ok(world.seen),
        Some(violation) => Err(Box::new(Failure {
            seed,
            violation,
            at: world.at,
            story: world.story(),
        })),
    }
}

fn chaos(world: &mut World) {
    let end = world.mix.chaos;
    while world.at < end && world.violation.is_none() {
        let pause = world.chance.between(1, 2 * world.mix.pause);
        world.run_until(world.at + pause);
        if world.violation.is_none() {
            let deed = world.mix.deed(&mut world.chance);
            act(world, deed);
        }
    }
}

/// Any span up to three leases, short ones as often as long ones.
pub(crate) fn span(world: &mut World) -> u64 {
    let lease = world.mix.lease_max.as_nanos() as u64;
    let most = world
        .chance
        .pick(&[lease / 20, lease / 4, lease, 3 * lease]);
    world.chance.between(1, most)
}

fn act(world: &mut World, deed: Deed) {
    let node = world.any_node();
    match deed {
        Deed::Elect => {
            elect(world, node);
        }
        Deed::Propose => propose(world),
        Deed::Replicate => {
            let extent = world
                .chance
                .pick(&[Extent::Whole, Extent::Whole, Extent::OneEntry]);
            replicate(world, node, extent);
        }
        Deed::CutOnly => replicate(world, node, Extent::CutOnly),
        Deed::Settle => {
            if let Some(leader) = some_leader(world) {
                world.settle(leader);
            }
        }
        Deed::Release => world.release(node),
        Deed::CutLink => {
            let other = world.any_node();
            world.cut[node][other] = !world.cut[node][other];
        }
        Deed::Freeze => {
            let span = span(world);
            world.freeze(node, span);
        }
        Deed::Stall => world.nodes[node].stalls_for = span(world),
        Deed::CrashMidway => {
            let after = world.chance.below(8) as usize;
            world.nodes[node].dies_after = Some(after);
        }
        Deed::CrashWorker => crash(world, node, Restart::Worker),
        Deed::CrashDaemon => crash(world, node, Restart::Daemon),
        Deed::Amnesia => crash(world, node, Restart::Amnesia),
        Deed::Reboot => crash(world, node, Restart::Reboot),
        Deed::Lag => world.lags_until[node] = world.at + span(world),
        Deed::CutAndBack => plot::cut_and_back(world),
        Deed::ReleaseAndReturn => plot::release_and_return(world),
        Deed::Deafen => plot::deafen(world),
        Deed::Exclude => {
            let other = world.any_node();
            let (id, on) = (world.nodes[other].id, world.chance.happens(500));
            world.nodes[node].machine.set_excluded(id, on);
        }
    }
}

fn crash(world: &mut World, node: usize, restart: Restart) {
    if world.at >= world.nodes[node].down_until {
        let down = span(world) / 2;
        world.restart(node, restart, down);
    }
}

/// The newest leader, or now and then one that has not learned of its end.
pub(crate) fn some_leader(world: &mut World) -> Option<usize> {
    let any = world.any_node();
    let newest = world.agreement.newest().map(|(_, node)| node);
    let stale = world.chance.happens(200) && world.agreement.leads(any).is_some();
    let leader = if stale { Some(any) } else { newest };
    leader.filter(|leader| world.can_append(*leader))
}

/// `candidate` stands for election among a drawn majority of those who are up.
pub(crate) fn elect(world: &mut World, candidate: usize) -> bool {
    let mut electors: Vec<usize> = (0..world.mix.voters)
        .filter(|v| world.can_append(*v))
        .collect();
    while electors.len() > majority(world.mix.voters) && world.chance.happens(700) {
        let out = world.chance.below(electors.len() as u64) as usize;
        if electors[out] != candidate {
            electors.remove(out);
        }
    }
    let elected = world
        .agreement
        .elect(&mut world.disks, candidate, &electors);
    if elected {
        world.tell(|| format!("node {candidate} is elected by {electors:?}"));
    }
    elected
}

fn propose(world: &mut World) {
    let Some(leader) = some_leader(world) else {
        return;
    };
    let holder = world.any_node();
    let stale = world.chance.happens(50);
    world.propose(leader, holder, stale);
    if world.chance.happens(400) {
        world.settle(leader);
    }
}

fn replicate(world: &mut World, follower: usize, extent: Extent) {
    let Some(leader) = some_leader(world) else {
        return;
    };
    let Some(term) = world.agreement.leads(leader) else {
        return;
    };
    if leader != follower && world.can_append(follower) {
        world.replicate(term, leader, follower, extent);
    }
}

/// The faults stop: a live node is assigned, and must serve in time and go on.
fn peace(world: &mut World) {
    world.heal();
    let begin = world.at;
    world.run_until(begin + MS / 10);
    let voters = world.mix.voters;
    // The one with the longest log can always win; a thinned electorate may pass it over.
    let Some(leader) = (0..3 * voters)
        .map(|n| n % voters)
        .find(|voter| elect(world, *voter))
    else {
        let seen = "nobody can be elected".to_string();
        world.note(Err(Violation {
            property: "L1",
            seen,
        }));
        return;
    };
    let holder = world.any_node();
    world.propose(leader, holder, false);
    world.settle(leader);
    world.run_until(begin + l1::bound(&world.mix));
    let lasting = l1::lasting(&world.mix).as_nanos() as u64;
    let end = world.at + lasting;
    while world.violation.is_none() && world.at < end {
        let checked = l1::serves(&world.nodes, holder, world.at);
        world.note(checked);
        world.run_until(world.at + MS / 2);
    }
}
