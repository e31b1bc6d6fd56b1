//! The leader dies, too, and leadership wanders: a new leader counts times anew, so only what
//! must hold in the end is looked at, once every hold-down and every drain with an end is over.

use std::time::Duration;

use evenkeel_core::maintenance::Ask;

use crate::chance::Chance;
use crate::place::{GROUPS, NODES, SERVERS, id};
use crate::world::World;

/// Rounds of steps, each followed by a long rest.
const ROUNDS: usize = 20;
const STEPS: u64 = 10;
/// Longer than the longest hold-down and the longest stable time together, counted anew once.
const REST: Duration = Duration::from_secs(1400);
/// A group that moved within this before the end of a rest flaps.
const STILL: Duration = Duration::from_secs(300);
const DEAD_MAX: usize = 2;

struct Run {
    world: World,
    sick: [[bool; NODES.len()]; GROUPS.len()],
    done: Vec<String>,
}

impl Run {
    fn step(&mut self, chance: &mut Chance) {
        let all: Vec<usize> = (0..NODES.len()).collect();
        let (any, server) = (chance.one(&all), chance.one(&SERVERS));
        let dead = all.iter().filter(|node| !self.world.alive(**node)).count();
        let group = usize::try_from(chance.below(GROUPS.len() as u64)).expect("small");
        let did = match chance.below(6) {
            0 if self.world.alive(any) && dead < DEAD_MAX => {
                self.world.die(any);
                format!("{any} died")
            }
            1 if !self.world.alive(any) => {
                self.world.boot(any);
                format!("{any} returned")
            }
            2 if GROUPS[group].1.contains(&server) => {
                let sick = !self.sick[group][server];
                self.sick[group][server] = sick;
                self.world.service(server, group, sick);
                match sick {
                    true => format!("{server} fails {group}"),
                    false => format!("{server} is well for {group}"),
                }
            }
            3 if self.world.leader().is_some() => {
                let secs = chance.one(&[None, Some(60)]);
                self.world.maintain(Ask::Drain {
                    node: id(server),
                    lasting: secs.map(Duration::from_secs),
                    force: true,
                });
                format!("{server} drained for {secs:?}")
            }
            4 if self.world.leader().is_some() && self.drained(server) => {
                self.world.maintain(Ask::Undrain { node: id(server) });
                format!("{server} undrained")
            }
            _ => return,
        };
        self.done.push(did);
    }

    fn drained(&self, node: usize) -> bool {
        self.world.ledger().drained(id(node)).is_some()
    }

    /// Alive, and its service is well.
    fn well(&self, group: usize, node: usize) -> bool {
        self.world.alive(node) && !self.sick[group][node]
    }

    fn look(&self) {
        for (group, (name, nodes, back)) in GROUPS.iter().enumerate() {
            let said = || {
                let last = self.done.len().saturating_sub(30);
                format!("{name} of {nodes:?}; last steps: {:?}", &self.done[last..])
            };
            let serving = self.world.serving(group);
            if nodes.iter().any(|node| self.world.alive(*node)) {
                assert!(serving.is_some(), "nobody serves {}", said());
            }
            let wells = nodes.iter().copied().filter(|node| self.well(group, *node));
            let free = wells.clone().find(|node| !self.drained(*node));
            let (Some(holder), Some(_)) = (serving, wells.clone().next()) else {
                continue;
            };
            assert!(self.well(group, holder), "{holder} is unfit: {}", said());
            let Some(first) = free else { continue };
            assert!(!self.drained(holder), "{holder} is drained: {}", said());
            if back.is_some() {
                assert_eq!(holder, first, "not back: {}", said());
            }
            let since = self.world.now.back(STILL);
            let moved = self.world.moves.iter().rev().find(|one| one.1 == group);
            assert!(moved.is_none_or(|one| one.0 < since), "flaps: {}", said());
        }
    }
}

#[test]
fn whoever_dies_and_leads_every_group_is_where_it_belongs_in_the_end() {
    for seed in crate::seeds(0..3) {
        let told = std::panic::catch_unwind(|| {
            let mut chance = Chance(seed);
            let mut run = Run {
                world: World::new(),
                sick: Default::default(),
                done: Vec::new(),
            };
            for _ in 0..ROUNDS {
                for _ in 0..STEPS {
                    run.step(&mut chance);
                    let pause = match chance.below(3) {
                        0 => chance.below(900),
                        1 => chance.below(8_000),
                        _ => chance.below(90_000),
                    };
                    run.world.pass(Duration::from_millis(pause));
                }
                let before = run.world.moves.len();
                run.world.pass(REST);
                // A move off a failing node, a return, and as much again for each group.
                assert!(run.world.moves.len() - before <= 4 * GROUPS.len());
                run.look();
            }
            (run.done.len(), run.world.moves.len())
        });
        match told {
            Ok((steps, moves)) => println!("seed {seed}: {steps} steps, {moves} moves"),
            Err(_) => panic!("with seed {seed}"),
        }
    }
}
