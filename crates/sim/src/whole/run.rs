//! One run: a phase in which things go wrong, then their end and the demand for rest.

use evenkeel_consensus::virtual_time;
use evenkeel_wire::flight::{self, replay::Replayed};
use serde_json::Value;

use super::check::{Violation, l1};
use super::faults::Faults;
use super::place;
use super::recipe::{MS, Recipe, S};
use super::story::Telling;
use super::world::{Seen, World};
use crate::chance::Chance;

/// How long the cluster must then stay at rest.
const RESTING: u64 = 3 * S;
/// How often it is looked at whether it is at rest.
const LOOK: u64 = 50 * MS;

/// A run that found a property broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Repeats it.
    pub seed: u64,
    /// What was done wrong on purpose, by name.
    pub fault: Option<String>,
    /// What broke.
    pub violation: Violation,
    /// True time of it.
    pub at: u64,
    /// The last that happened, if the run was asked to tell.
    pub story: Vec<String>,
}

impl Failure {
    /// The one command that repeats it.
    pub fn command(&self) -> String {
        let fault = self.fault.iter().map(|fault| format!(" --fault {fault}"));
        format!(
            "cargo run --release -p evenkeel-sim -- whole --seed {}{}",
            self.seed,
            fault.collect::<String>()
        )
    }
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
        write!(f, "repeat with: {}", self.command())
    }
}

impl std::error::Error for Failure {}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it saw, or what broke.
    pub outcome: Result<Seen, Box<Failure>>,
    /// Of the whole story, if it was told.
    pub digest: u64,
    /// How much true time it took.
    pub simulated: u64,
    /// The last lines of the story, or all, as was asked.
    pub story: Vec<String>,
}

/// Runs one seed; a failing one is run again for its story.
pub fn run(seed: u64, faults: Faults) -> Result<Seen, Box<Failure>> {
    once(seed, faults, Telling::Verdict)
        .outcome
        .or_else(|_| once(seed, faults, Telling::Last).outcome)
}

/// Runs one seed.
pub fn once(seed: u64, faults: Faults, telling: Telling) -> Ended {
    let mut chance = Chance::new(seed);
    let recipe = Recipe::draw(&mut chance);
    let world = World::new(recipe, chance, faults, telling);
    play(seed, world)
}

/// Plays a world to its end.
pub fn play(seed: u64, mut world: World) -> Ended {
    virtual_time::run(seed, async move {
        chaos(&mut world).await;
        if world.violation.is_none() {
            peace(&mut world).await;
        }
        let (story, digest) = world.end();
        let outcome = match world.violation.take() {
            None => Ok(world.seen),
            Some(violation) => Err(Box::new(Failure {
                seed,
                fault: None,
                violation,
                at: world.at,
                story: story.clone(),
            })),
        };
        Ended {
            outcome,
            digest,
            simulated: world.at,
            story,
        }
    })
}

/// Feeds what a story says of one node of this seed's cluster into its decision machine again.
///
/// # Errors
/// The first line that cannot be read, or that differs.
pub fn replay(seed: u64, story: &str, node: usize) -> Result<Replayed, String> {
    let recipe = Recipe::draw(&mut Chance::new(seed));
    let file = |file: &Value| {
        let number = file.as_u64().and_then(|file| usize::try_from(file).ok());
        let file = number.ok_or_else(|| format!("{file} is no version of the configuration"))?;
        Ok(place::topology(&recipe, file))
    };
    flight::replay::replay(story.lines(), &node.into(), file, |_| {})
}

async fn chaos(world: &mut World) {
    let end = world.recipe.chaos;
    while world.at < end && world.violation.is_none() {
        let pause = world.chance.between(1, 2 * world.recipe.pause);
        world.run_until((world.at + pause).min(end)).await;
        if world.violation.is_none()
            && let Some(deed) = world.recipe.deed(&mut world.chance)
        {
            world.act(deed);
        }
    }
}

/// All is mended: the cluster comes to rest in time, and stays so.
async fn peace(world: &mut World) {
    world.mend();
    let began = world.at;
    let mut rested: Option<(u64, u64)> = None;
    let mut unrest = String::new();
    while world.violation.is_none() {
        world.run_until(world.at + LOOK).await;
        world.tend();
        match (world.unrest(), rested) {
            (Some(why), _) => {
                unrest = why;
                rested = None;
            }
            (None, None) => rested = Some((world.at, world.seen.moves)),
            (None, Some((_, moves))) if moves != world.seen.moves => {
                rested = Some((world.at, world.seen.moves));
            }
            (None, Some((since, _))) if world.at >= since + RESTING => {
                world.seen.to_rest = since - began;
                return world.check_end();
            }
            (None, Some(_)) => {}
        }
        if world.at >= began + l1::MENDED_WITHIN + RESTING {
            let seen = format!("the cluster does not come to rest: {unrest}");
            let property = "L1";
            return world.note(Err(Violation { property, seen }));
        }
    }
}
