//! The witness leads all the time, so every time is known exactly: the moves of 200 steps are
//! those of the oracle, one by one, with their causes.

use std::time::Duration;

use evenkeel_core::maintenance::Ask;

use crate::chance::Chance;
use crate::oracle::{APART, Op, Oracle};
use crate::place::{GROUPS, NODES, SERVERS, id};
use crate::world::World;

const STEPS: usize = 200;
/// Candidates for a step; some always fit.
const TRIES: usize = 10_000;
/// How many of the four servers may be dead at once: three of five votes are left.
const DEAD_MAX: usize = 2;

fn pick(chance: &mut Chance, oracle: &Oracle) -> Option<Op> {
    let node = chance.one(&SERVERS);
    let group = usize::try_from(chance.below(GROUPS.len() as u64)).expect("small");
    let going = |node: &&usize| !oracle.up(**node) || oracle.stopping(**node);
    let gone = SERVERS.iter().filter(going).count();
    let up = oracle.up(node) && !oracle.stopping(node);
    match chance.below(10) {
        // Who was told to stop dies before anything else happens to it.
        0 | 1 if oracle.stopping(node) => Some(Op::Die(node)),
        0 | 1 if up && gone < DEAD_MAX => Some(Op::Die(node)),
        2 | 3 if !oracle.up(node) => Some(Op::Return(node)),
        4 if up && gone < DEAD_MAX => Some(Op::Stop(node)),
        5 if up && !oracle.sick(node, group) => Some(Op::Sick(node, group)),
        6 if oracle.up(node) && oracle.sick(node, group) => Some(Op::Heal(node, group)),
        7 => {
            let secs = [None, Some(20 + chance.below(200))];
            Some(Op::Drain(node, chance.one(&secs)))
        }
        8 if oracle.drained(node) => Some(Op::Undrain(node)),
        9 if oracle.may_switch(group, node) => Some(Op::Switch(group, node)),
        _ => None,
    }
}

/// How long nothing happens: mostly not long, sometimes until all hold-downs are over.
fn pause(chance: &mut Chance) -> u64 {
    match chance.below(20) {
        0 => 400_000 + chance.below(400_000),
        1..=5 => 20_000 + chance.below(100_000),
        _ => 3_500 + chance.below(20_000),
    }
}

struct Run {
    world: World,
    oracle: Oracle,
    done: Vec<(u64, Op)>,
    began: u64,
    first_moves: usize,
}

impl Run {
    fn new() -> Self {
        let mut world = World::new();
        // Past the hold-downs and stable times of the start.
        world.pass(Duration::from_secs(60));
        let began = world.now.as_nanos() / 1_000_000;
        let first_moves = world.moves.len();
        assert_eq!(first_moves, GROUPS.len(), "{:?}", world.moves);
        let mut run = Self {
            world,
            oracle: Oracle::new(began - 60_000),
            done: Vec::new(),
            began,
            first_moves,
        };
        run.oracle.pass(began).expect("nothing happens");
        run.compare();
        run
    }

    fn step(&mut self, chance: &mut Chance) {
        for _try in 0..TRIES {
            let pause = pause(chance);
            let at = self.world.now.as_nanos() / 1_000_000 + pause;
            let mut oracle = self.oracle.clone();
            let passed = oracle.pass(at).and_then(|()| oracle.is_quiet());
            if passed.and_then(|()| oracle.is_settled()).is_err() {
                continue;
            }
            let Some(op) = pick(chance, &oracle) else {
                continue;
            };
            let granted = match op {
                Op::Drain(node, _) => oracle.may_drain(node),
                _ => true,
            };
            let before = oracle.clone();
            if granted && oracle.apply(op).is_err() {
                continue;
            }
            self.world.pass(Duration::from_millis(pause));
            self.oracle = before;
            self.compare();
            self.oracle = oracle;
            self.done.push((at - self.began, op));
            self.play(op, granted);
            self.world.pass_to(at + APART - 100);
            self.compare_moves();
            self.world.pass_to(at + APART);
            self.oracle.pass(at + APART).expect("looked at before");
            return;
        }
        panic!("no step is beyond doubt; last steps: {:?}", self.last());
    }

    fn play(&mut self, op: Op, granted: bool) {
        let world = &mut self.world;
        let reply = match op {
            Op::Die(node) => {
                world.die(node);
                None
            }
            Op::Return(node) => {
                world.boot(node);
                None
            }
            Op::Stop(node) => {
                world.stop(node);
                None
            }
            Op::Sick(node, group) => {
                world.service(node, group, true);
                None
            }
            Op::Heal(node, group) => {
                world.service(node, group, false);
                None
            }
            Op::Drain(node, secs) => Some(world.maintain(Ask::Drain {
                node: id(node),
                lasting: secs.map(Duration::from_secs),
                force: false,
            })),
            Op::Undrain(node) => Some(world.maintain(Ask::Undrain { node: id(node) })),
            Op::Switch(group, to) => Some(world.switch(group, to)),
        };
        let Some(reply) = reply else { return };
        world.pass(Duration::from_millis(500));
        let outcome = world.replies.remove(&reply).expect("an answer");
        assert_eq!(outcome.is_ok(), granted, "{op:?}: {outcome:?}");
    }

    fn last(&self) -> &[(u64, Op)] {
        &self.done[self.done.len().saturating_sub(12)..]
    }

    fn compare_moves(&self) {
        for (group, (name, ..)) in GROUPS.iter().enumerate() {
            let real = self.world.moves[self.first_moves..].iter();
            let real: Vec<_> = real
                .filter(|one| one.1 == group)
                .map(|one| (one.2.expect("held"), one.3, one.4))
                .collect();
            let told = self.oracle.moves.iter().filter(|one| one.0 == group);
            let told: Vec<_> = told.map(|one| (one.1, one.2, one.3)).collect();
            let at = real.iter().zip(&told).take_while(|(a, b)| a == b).count();
            assert!(
                real.len() == at && told.len() == at,
                "{}: the moves are {:?} and should be {:?}; nodes {NODES:?}; last steps: {:?}\n{:?}",
                name,
                &real[at.saturating_sub(2)..],
                &told[at.saturating_sub(2)..],
                self.last(),
                self.oracle
            );
        }
    }

    /// Every group is where it must be, and serves if its holder lives.
    fn compare(&self) {
        self.compare_moves();
        for (group, (name, ..)) in GROUPS.iter().enumerate() {
            let holder = self.oracle.holder(group);
            let serving = self.world.serving(group);
            let wanted = Some(holder).filter(|holder| self.oracle.up(*holder));
            assert_eq!(serving, wanted, "{}; last steps: {:?}", name, self.last());
        }
    }
}

#[test]
fn through_200_steps_every_group_is_where_the_order_says() {
    for seed in crate::seeds(0..6) {
        let told = std::panic::catch_unwind(|| {
            let mut chance = Chance(seed);
            let mut run = Run::new();
            (0..STEPS).for_each(|_| run.step(&mut chance));
            run.oracle.moves.len()
        });
        match told {
            Ok(moves) => println!("seed {seed}: {STEPS} steps, {moves} moves"),
            Err(_) => panic!("with seed {seed}"),
        }
    }
}
