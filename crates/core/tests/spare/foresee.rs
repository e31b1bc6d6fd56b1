//! What `plan` says about a death or a failing service is what the decision machines then do:
//! after random series of everything, a fault is foreseen, made to happen, and compared.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_core::foresee::{Election, Fault, Forecast, Mute, Outcome};
use evenkeel_core::maintenance::Ask;
use evenkeel_core::node::Event;
use evenkeel_core::{CheckName, NodeId, NodeName};

use crate::chance::Chance;
use crate::place::{
    GROUPS, NODES, SERVERS, WITNESS, check, group_id, id, number, service, topology,
};
use crate::world::{ELECTION, World};

/// A forecast is for so long: what it says of later moments is not compared.
const HORIZON: Duration = Duration::from_secs(9);
const STEPS: u64 = 40;
const DEAD_MAX: usize = 2;

const QUICK: Election = Election {
    least: ELECTION,
    most: ELECTION,
};

/// Where a group goes, and why.
type Moved = (usize, &'static str);

fn foreseen(world: &World, fault: &Fault) -> Forecast {
    let leader = world.leader().expect("somebody leads");
    let present = world.node(leader).present(world.now);
    present.foresee(fault, QUICK)
}

/// The moves of a forecast, as far as it is compared; none for a group that is not compared.
fn moves_of(forecast: &Forecast) -> BTreeMap<usize, Option<Moved>> {
    let groups = 0..GROUPS.len();
    let known = groups.filter_map(|group| {
        let said = forecast.groups.iter();
        let said = said.clone().find(|one| one.group == group_id(group));
        let said = said.expect("every group is spoken of");
        let late = said.decided.is_some_and(|decided| decided > HORIZON);
        let holder = said.holder.map(number);
        let moved = match &said.outcome {
            Outcome::Moves { to, cause } => Some((number(*to), cause.word())),
            Outcome::Renewed { cause } => Some((holder.expect("a holder"), cause.word())),
            Outcome::Stays | Outcome::Muted(_) | Outcome::Closed => None,
        };
        (!late).then_some((group, moved))
    });
    known.collect()
}

struct Run {
    world: World,
    chance: Chance,
    sick: [[bool; NODES.len()]; GROUPS.len()],
    compared: usize,
    moved: usize,
    muted: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            world: World::new(),
            chance: Chance(seed),
            sick: Default::default(),
            compared: 0,
            moved: 0,
            muted: 0,
        }
    }

    fn dead(&self) -> usize {
        let nodes = 0..NODES.len();
        nodes.filter(|node| !self.world.alive(*node)).count()
    }

    fn group(&mut self) -> usize {
        usize::try_from(self.chance.below(GROUPS.len() as u64)).expect("small")
    }

    /// What the leader thinks of the nodes of a group.
    fn seen(&self, group: usize) -> Vec<String> {
        let Some(leader) = self.world.leader() else {
            return vec!["nobody leads".to_owned()];
        };
        let nodes = GROUPS[group].1.iter();
        let seen = nodes.map(|node| self.world.why(leader, group, *node));
        std::iter::once(format!("{leader} leads"))
            .chain(seen)
            .collect()
    }

    /// Something happens, so that the next fault finds another world.
    fn stir(&mut self) {
        let all: Vec<usize> = (0..NODES.len()).collect();
        let (any, server) = (self.chance.one(&all), self.chance.one(&SERVERS));
        let group = self.group();
        let led = self.world.leader().is_some();
        match self.chance.below(6) {
            0 if self.world.alive(any) && self.dead() < DEAD_MAX => self.world.die(any),
            1 | 2 if !self.world.alive(any) => self.world.boot(any),
            3 if GROUPS[group].1.contains(&server) => {
                let sick = !self.sick[group][server];
                self.sick[group][server] = sick;
                self.world.service(server, group, sick);
            }
            4 if led => {
                let lasting = self.chance.one(&[None, Some(60)]);
                self.world.maintain(Ask::Drain {
                    node: id(server),
                    lasting: lasting.map(Duration::from_secs),
                    force: true,
                });
            }
            5 if led && self.world.ledger().drained(id(server)).is_some() => {
                self.world.maintain(Ask::Undrain { node: id(server) });
            }
            _ => {}
        }
        let pause = match self.chance.below(3) {
            0 => 300 + self.chance.below(900),
            1 => self.chance.below(8_000),
            _ => self.chance.below(90_000),
        };
        self.world.pass(Duration::from_millis(pause));
    }

    /// Whether somebody has died whom the leader still takes for alive. Then no forecast of its can
    /// be right: it may say that a group goes there.
    fn unnoticed_death(&self, leader: usize) -> bool {
        let view = self.world.node(leader).view();
        let mut dead = (0..NODES.len()).filter(|node| !self.world.alive(*node));
        dead.any(|node| view.alive(self.world.now, id(node)))
    }

    /// A fault is foreseen, happens, and is compared.
    fn compare(&mut self) {
        let (Some(leader), true) = (self.world.leader(), self.world.is_calm()) else {
            return;
        };
        if self.unnoticed_death(leader) {
            return;
        }
        let all: Vec<usize> = (0..NODES.len()).collect();
        let victim = self.chance.one(&all);
        let group = self.group();
        let kill = self.world.alive(victim) && victim != leader && self.dead() < DEAD_MAX;
        let serving = self.world.serving(group);
        let fault = match (self.chance.below(3), serving) {
            (0, Some(holder)) if !self.sick[group][holder] => Fault::Check {
                group: group_id(group),
                check: check(),
            },
            _ if kill => Fault::Node(id(victim)),
            _ => return,
        };
        let forecast = foreseen(&self.world, &fault);
        assert!(forecast.decider.is_some(), "a majority lives");
        let wanted = moves_of(&forecast);
        let (since, before) = (self.world.now, self.world.moves.len());
        match fault {
            Fault::Node(_) => self.world.die(victim),
            Fault::Check { .. } | Fault::Service { .. } | Fault::Link(..) => {
                let holder = serving.expect("somebody serves");
                self.sick[group][holder] = true;
                self.world.service(holder, group, true);
            }
        }
        self.world.pass(HORIZON);
        for (group, wanted) in wanted {
            let mut moves = self.world.moves[before..].iter();
            let first = moves.find(|one| one.1 == group);
            let done = first.map(|one| (one.3, one.4));
            let at = first.map(|one| one.0.since(since));
            // A failback or the end of a drain that comes due meanwhile has nothing to do with it.
            let planned = |one: &Moved| ["failback", "drained"].contains(&one.1);
            if wanted.is_none() && done.as_ref().is_some_and(planned) {
                continue;
            }
            assert_eq!(
                done,
                wanted,
                "{}: {fault:?} at {at:?}; foreseen: {:#?}; now {:?}",
                GROUPS[group].0,
                forecast
                    .groups
                    .iter()
                    .find(|one| one.group == group_id(group)),
                self.seen(group),
            );
            self.compared += 1;
            self.moved += usize::from(done.is_some());
            let said = forecast.groups.iter();
            let said = said.clone().find(|one| one.group == group_id(group));
            if said.is_some_and(|one| one.outcome == Outcome::Muted(Mute::NobodyFit)) {
                self.muted += 1;
                assert_eq!(self.world.serving(group), None, "{}", GROUPS[group].0);
            }
        }
    }
}

#[test]
fn what_is_foreseen_of_deaths_and_failures_is_what_happens() {
    let (mut compared, mut moved, mut muted) = (0, 0, 0);
    for seed in crate::seeds(0..12) {
        let told = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            for _ in 0..STEPS {
                run.stir();
                run.compare();
            }
            (run.compared, run.moved, run.muted)
        });
        let Ok(told) = told else {
            panic!("with seed {seed}");
        };
        compared += told.0;
        moved += told.1;
        muted += told.2;
    }
    println!("{compared} forecasts of groups compared, {moved} moved, {muted} muted");
    assert!(
        compared > 500 && moved > 50 && muted > 0,
        "{compared}, {moved}, {muted}"
    );
}

#[test]
fn the_death_of_the_leader_takes_an_election_first() {
    let mut world = World::new();
    let leader = world.leader().expect("somebody leads");
    assert_eq!(leader, WITNESS);
    let forecast = foreseen(&world, &Fault::Node(id(leader)));
    assert!(forecast.elected && forecast.decider.is_some());
    assert_eq!((forecast.votes.len(), forecast.needed), (4, 3));
    let all = forecast.groups.iter();
    for said in all {
        assert_eq!(said.outcome, Outcome::Stays);
        assert!(said.protected, "three of five are left without another");
    }
    // A holder that leads, once the witness is gone.
    world.die(WITNESS);
    world.pass(Duration::from_secs(3));
    let leader = world.leader().expect("elected");
    let fault = Fault::Node(id(leader));
    let forecast = foreseen(&world, &fault);
    assert!(forecast.elected);
    let wanted = moves_of(&forecast);
    let before = world.moves.len();
    world.die(leader);
    world.pass(HORIZON);
    for (group, wanted) in wanted {
        let first = world.moves[before..].iter().find(|one| one.1 == group);
        assert_eq!(
            first.map(|one| (one.3, one.4)),
            wanted,
            "{}",
            GROUPS[group].0
        );
    }
    // Another death would take the majority with it: nobody is protected any more.
    let next = (0..NODES.len()).find(|node| world.alive(*node) && world.leader() != Some(*node));
    let forecast = foreseen(&world, &Fault::Node(id(next.expect("three live"))));
    assert_eq!((forecast.decider, forecast.votes.len()), (None, 2));
    for said in &forecast.groups {
        assert_eq!(said.outcome, Outcome::Muted(Mute::NoMajority));
        assert!(!said.protected && said.next.is_none() && said.dark.is_none());
    }
}

#[test]
fn a_cut_link_moves_nothing_while_both_ends_reach_a_majority() {
    let world = World::new();
    for (a, b) in [(0, 1), (0, WITNESS), (2, 3)] {
        let forecast = foreseen(&world, &Fault::Link(id(a), id(b)));
        assert!(!forecast.elected);
        for said in &forecast.groups {
            assert_eq!(
                said.outcome,
                Outcome::Stays,
                "{}-{}: {said:?}",
                NODES[a],
                NODES[b]
            );
        }
    }
}

/// With two of five dead, a cut link leaves one of its ends, or both, without a majority.
#[test]
fn a_cut_link_beside_two_deaths_costs_what_reaches_no_majority() {
    let mut world = World::new();
    world.die(1);
    world.die(2);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.leader(), Some(WITNESS));
    let mail = |forecast: &Forecast| {
        let mut groups = forecast.groups.iter();
        let mail = groups.find(|one| one.group == group_id(0));
        mail.expect("every group is spoken of").clone()
    };
    // The holder and its only standby: neither reaches three votes.
    let forecast = foreseen(&world, &Fault::Link(id(0), id(3)));
    assert_eq!(forecast.decider, Some(id(WITNESS)));
    let said = mail(&forecast);
    assert_eq!(said.outcome, Outcome::Muted(Mute::CannotOpen(id(3))));
    assert_eq!((said.dark, said.next, said.protected), (None, None, false));
    // The holder and the leader: the spare reaches both, leads, and takes over.
    let forecast = foreseen(&world, &Fault::Link(id(0), id(WITNESS)));
    assert_eq!((forecast.decider, forecast.elected), (Some(id(3)), true));
    let said = mail(&forecast);
    let Outcome::Moves { to, cause } = &said.outcome else {
        panic!("{said:#?}");
    };
    assert_eq!((*to, cause.word()), (id(3), "holder-deaf"));
    let dark = said.dark.expect("it is served in the end");
    assert!(dark.least >= ELECTION && dark.most > dark.least, "{dark:?}");
    // Neither end holds it: the spare's groups go on.
    let shop = forecast.groups.iter().find(|one| one.group == group_id(1));
    assert_eq!(shop.map(|one| &one.outcome), Some(&Outcome::Stays));
}

/// A service without tries left makes its holder unable to serve, whatever the rule says.
#[test]
fn a_service_that_fails_for_good_moves_its_group_to_where_it_is_foreseen() {
    for group in 0..GROUPS.len() {
        let mut world = World::new();
        let holder = world.serving(group).expect("somebody serves");
        let fault = Fault::Service {
            group: group_id(group),
            service: service(),
        };
        let forecast = foreseen(&world, &fault);
        let wanted = moves_of(&forecast);
        let (to, cause) = wanted[&group].expect("it moves");
        assert_eq!(cause, "holder-unready");
        let said = forecast.groups.iter();
        let said = said.clone().find(|one| one.group == group_id(group));
        let said = said.expect("every group is spoken of");
        let why = &said.considered;
        assert!(
            why.iter().any(|one| one.why.contains("service daemon")),
            "{why:?}"
        );
        assert!(
            said.dark
                .is_some_and(|dark| dark.most < Duration::from_millis(100))
        );
        let group_id = group_id(group);
        let unready = Some("service daemon: it exited with status 1".to_owned());
        let event = Event::Readiness {
            group: group_id,
            unready,
        };
        world.give(holder, event);
        world.pass(HORIZON);
        let first = world.moves.iter().rfind(|one| one.1 == group);
        assert_eq!(first.map(|one| (one.3, one.4)), Some((to, cause)));
        for (other, wanted) in wanted.iter().filter(|(other, _)| **other != group) {
            assert_eq!(*wanted, None, "{}", GROUPS[*other].0);
        }
    }
    // Nobody else is left for it.
    let mut world = World::new();
    let holder = world.serving(0).expect("somebody serves");
    let other = GROUPS[0].1.iter().find(|node| **node != holder);
    world.die(*other.expect("two nodes"));
    world.pass(HORIZON);
    let fault = Fault::Service {
        group: group_id(0),
        service: service(),
    };
    let forecast = foreseen(&world, &fault);
    let said = forecast.groups.iter().find(|one| one.group == group_id(0));
    let said = said.expect("every group is spoken of");
    assert_eq!(said.outcome, Outcome::Stays);
    assert!(
        said.note
            .as_ref()
            .is_some_and(|note| note.contains("nobody else"))
    );
}

#[test]
fn faults_are_read_or_refused_with_what_to_write() {
    let known = topology();
    let read = |text: &str| Fault::parse(text, &known);
    assert_eq!(read("node:ams1"), Ok(Fault::Node(id(0))));
    assert_eq!(read("link:ams1-fra1"), Ok(Fault::Link(id(0), id(1))));
    assert_eq!(read("link:fra1,tie"), Ok(Fault::Link(id(1), id(WITNESS))));
    let failing = Fault::Check {
        group: group_id(0),
        check: check(),
    };
    assert_eq!(read("service:mail/service"), Ok(failing));
    let failed = Fault::Service {
        group: group_id(0),
        service: service(),
    };
    assert_eq!(read("service:mail/daemon"), Ok(failed));
    // A check that bears the name of a service asks for it.
    let mut both = known.clone();
    let mail = both.groups.get_mut(&group_id(0)).expect("a group");
    mail.checks[0].name = CheckName::new("daemon").expect("a name");
    let found = Fault::parse("service:mail/daemon", &both);
    assert!(matches!(found, Ok(Fault::Service { .. })), "{found:?}");
    let long = format!("node:{}", "x".repeat(1000));
    for (text, words) in [
        ("", "write node:NAME"),
        ("ams1", "write node:NAME"),
        ("weather:rain", "write node:NAME"),
        (long.as_str(), "too long"),
        ("node:", "no node \"\""),
        ("node:ams2", "did you mean \"ams1\"?"),
        ("service:mail", "write service:GROUP/NAME"),
        ("service:mial/service", "did you mean \"mail\"?"),
        (
            "service:mail/x",
            "no service or check \"x\": it has daemon, service",
        ),
        ("link:ams1", "write link:A-B"),
        ("link:ams1-nobody", "no node \"nobody\""),
        ("link:nobody-ams1", "no node \"nobody\""),
        ("link:ams1-ams1", "names one node twice"),
    ] {
        let why = read(text).expect_err(text);
        assert!(why.contains(words), "{text}: {why}");
    }
}

#[test]
fn names_with_dashes_are_told_apart_or_need_a_comma() {
    let mut known = topology();
    let first = known.nodes.values().next().cloned().expect("a node");
    let mut add = |text: &str| {
        let name = NodeName::new(text).expect("a name");
        let node = evenkeel_core::topology::Node {
            id: NodeId::of(&name),
            name,
            ..first.clone()
        };
        let id = node.id;
        known.nodes.insert(id, node);
        id
    };
    let (a_b, c, d_e) = (add("a-b"), add("c"), add("d-e"));
    let read = |topology: &_, text: &str| Fault::parse(text, topology);
    assert_eq!(read(&known, "link:a-b-c"), Ok(Fault::Link(a_b, c)));
    assert_eq!(read(&known, "link:a-b-d-e"), Ok(Fault::Link(a_b, d_e)));
    let name = |text: &str| NodeName::new(text).expect("a name");
    for text in ["a", "b-c"] {
        let node = evenkeel_core::topology::Node {
            id: NodeId::of(&name(text)),
            name: name(text),
            ..first.clone()
        };
        known.nodes.insert(node.id, node);
    }
    let why = read(&known, "link:a-b-c").expect_err("two ways");
    assert!(why.contains("write a comma"), "{why}");
    assert_eq!(read(&known, "link:a-b,c"), Ok(Fault::Link(a_b, c)));
}
