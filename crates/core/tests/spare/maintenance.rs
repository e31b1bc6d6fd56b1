//! Maintenance, step by step.

use std::time::Duration;

use evenkeel_core::maintenance::Ask;
use evenkeel_core::node::Event;
use evenkeel_core::standby::FORGIVEN_AFTER;

use crate::place::{GROUPS, WITNESS, group_id, id};
use crate::world::World;

const MAIL: usize = 0;
const SHOP: usize = 1;
const WIKI: usize = 2;
const WWW: usize = 3;
const SPARE: usize = 3;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn served(world: &World) -> [Option<usize>; 4] {
    [MAIL, SHOP, WIKI, WWW].map(|group| world.serving(group))
}

fn drain(world: &mut World, node: usize, lasting: Option<u64>) -> Result<String, String> {
    let ask = Ask::Drain {
        node: id(node),
        lasting: lasting.map(secs),
        force: false,
    };
    maintain(world, ask)
}

fn undrain(world: &mut World, node: usize) -> Result<String, String> {
    maintain(world, Ask::Undrain { node: id(node) })
}

fn maintain(world: &mut World, ask: Ask) -> Result<String, String> {
    let reply = world.maintain(ask);
    world.pass(secs(2));
    world.replies.remove(&reply).expect("an answer")
}

fn is_drained(world: &World, node: usize) -> bool {
    world.ledger().drained(id(node)).is_some()
}

/// Groups are treated separately, so one spare takes all of them: serving beats balance.
#[test]
fn one_spare_takes_four_groups_at_once_and_gives_back_those_that_the_file_says() {
    let mut world = World::new();
    assert_eq!(served(&world), [Some(0), Some(1), Some(2), Some(0)]);
    for (node, group) in [
        (0, MAIL),
        (1, SHOP),
        (2, WIKI),
        (0, WWW),
        (1, WWW),
        (2, WWW),
    ] {
        world.service(node, group, true);
    }
    world.pass(secs(2));
    assert_eq!(served(&world), [Some(SPARE); 4]);
    for (node, group) in [
        (0, MAIL),
        (1, SHOP),
        (2, WIKI),
        (0, WWW),
        (1, WWW),
        (2, WWW),
    ] {
        world.service(node, group, false);
    }
    world.pass(secs(10));
    assert_eq!(served(&world), [Some(SPARE); 4], "held down");
    world.pass(secs(60));
    // wiki comes back by hand only.
    assert_eq!(served(&world), [Some(0), Some(1), Some(SPARE), Some(0)]);
}

#[test]
fn a_drained_node_is_left_by_all_its_groups_and_gets_them_back_when_the_file_says() {
    let mut world = World::new();
    world.pass(secs(60));
    let told = drain(&mut world, 0, None).expect("granted");
    assert_eq!(told, "ams1 is drained; it holds mail, www");
    assert_eq!(served(&world), [Some(SPARE), Some(1), Some(2), Some(1)]);
    assert!(world.moves[4..].iter().all(|one| one.4 == "drained"));
    // Over a restart, and for ever.
    world.die(0);
    world.pass(secs(100));
    world.boot(0);
    world.pass(secs(7200));
    assert_eq!(served(&world), [Some(SPARE), Some(1), Some(2), Some(1)]);
    // It was well for long, so it gets them back at once.
    undrain(&mut world, 0).expect("granted");
    assert_eq!(served(&world), [Some(0), Some(1), Some(2), Some(0)]);
    let again = undrain(&mut world, 0).expect_err("refused");
    assert_eq!(again, "ams1 is not drained");
}

#[test]
fn a_drained_node_serves_while_nobody_else_could_and_no_longer() {
    let mut world = World::new();
    world.die(SPARE);
    world.pass(secs(2));
    drain(&mut world, 1, None).expect("granted");
    assert_eq!(world.serving(SHOP), Some(1), "nobody else is there");
    world.boot(SPARE);
    world.pass(secs(2));
    assert_eq!(world.serving(SHOP), Some(SPARE));
    // Serving beats not serving: back to it, and away again once the other is well.
    world.service(SPARE, SHOP, true);
    world.pass(secs(2));
    assert_eq!(world.serving(SHOP), Some(1));
    world.service(SPARE, SHOP, false);
    world.pass(secs(25));
    assert_eq!(world.serving(SHOP), Some(1), "it has just failed: L2");
    world.pass(secs(10));
    assert_eq!(world.serving(SHOP), Some(SPARE));
}

#[test]
fn who_failed_before_the_drain_takes_the_group_all_the_same() {
    let mut world = World::new();
    world.service(SPARE, WIKI, true);
    world.service(2, WIKI, true);
    world.pass(secs(2));
    world.service(SPARE, WIKI, false);
    world.pass(secs(2));
    assert_eq!(world.serving(WIKI), Some(SPARE));
    world.service(2, WIKI, false);
    world.pass(secs(5));
    drain(&mut world, SPARE, None).expect("granted");
    assert_eq!(
        world.serving(WIKI),
        Some(2),
        "held down, but the operator knows"
    );
}

#[test]
fn a_switch_goes_to_no_drained_node_and_is_not_undone_at_once() {
    let mut world = World::new();
    drain(&mut world, 1, None).expect("granted");
    let reply = world.switch(WWW, 1);
    world.pass(secs(1));
    let reason = world.replies.remove(&reply).expect("an answer");
    let reason = reason.expect_err("refused");
    assert!(reason.contains("drained by an operator"), "{reason}");
    assert!(reason.contains("evenkeel undrain"), "{reason}");
    world.pass(secs(60));
    let reply = world.switch(WWW, 2);
    world.pass(secs(20));
    world
        .replies
        .remove(&reply)
        .expect("an answer")
        .expect("done");
    assert_eq!(world.serving(WWW), Some(2), "www goes back after 45 s");
    world.pass(secs(30));
    assert_eq!(world.serving(WWW), Some(0));
}

#[test]
fn the_last_majority_is_not_spent_unless_forced() {
    let mut world = World::new();
    drain(&mut world, 0, None).expect("four of five are left");
    drain(&mut world, 1, None).expect("three of five are left");
    let reason = drain(&mut world, WITNESS, None).expect_err("two would be left");
    assert!(
        reason.contains("only 2 of 5 voters would be left"),
        "{reason}"
    );
    assert!(reason.contains("ams1 (drained as well)"), "{reason}");
    undrain(&mut world, 1).expect("granted");
    world.die(1);
    world.pass(secs(2));
    let reason = drain(&mut world, 2, None).expect_err("two would be left");
    assert!(reason.contains("fra1 (not heard)"), "{reason}");
    assert!(reason.contains("--force"), "{reason}");
    let force = Ask::Drain {
        node: id(2),
        lasting: None,
        force: true,
    };
    maintain(&mut world, force).expect("granted");
    assert!(is_drained(&world, 2));
    // Who is drained already may be drained anew: for longer, say.
    undrain(&mut world, 2).expect("granted");
    drain(&mut world, 0, Some(60)).expect("granted");
}

/// The holder has lost its vote: with it the majority would not be gone, with the other it would.
#[test]
fn a_switch_onto_the_last_majority_needs_force() {
    let mut world = World::new();
    world.die(1);
    world.give(0, Event::Votes(false));
    world.pass(secs(2));
    let reply = world.switch(MAIL, SPARE);
    world.pass(secs(1));
    let reason = world.replies.remove(&reply).expect("an answer");
    let reason = reason.expect_err("refused");
    assert!(reason.contains("--force"), "{reason}");
    world.give(0, Event::Votes(true));
    let reply = world.switch(MAIL, SPARE);
    world.pass(secs(1));
    world
        .replies
        .remove(&reply)
        .expect("an answer")
        .expect("done");
}

#[test]
fn two_drains_at_once_do_not_spend_what_each_would_leave() {
    let mut world = World::new();
    drain(&mut world, 0, None).expect("four of five are left");
    let asks = [1, 2].map(|node| Ask::Drain {
        node: id(node),
        lasting: None,
        force: false,
    });
    let replies = asks.map(|ask| world.maintain(ask));
    world.pass(secs(2));
    let outcomes = replies.map(|reply| world.replies.remove(&reply).expect("an answer"));
    assert!(outcomes[0].is_ok() && outcomes[1].is_err(), "{outcomes:?}");
}

/// Every node learns of a drain when it is agreed on, so another leader ends it in time.
#[test]
fn a_drain_ends_in_time_though_the_leader_changes() {
    let mut world = World::new();
    drain(&mut world, 0, Some(600)).expect("granted");
    world.pass(secs(300));
    world.die(WITNESS);
    world.pass(secs(295));
    assert!(is_drained(&world, 0));
    assert_ne!(world.leader(), Some(WITNESS));
    world.pass(secs(6));
    assert!(!is_drained(&world, 0));
}

/// Whoever has just started does not know since when: later, never earlier, and not never.
#[test]
fn a_leader_that_has_just_started_ends_a_drain_later_but_ends_it() {
    let mut world = World::new();
    drain(&mut world, 0, Some(600)).expect("granted");
    // All that knew of it are restarted.
    for node in [0, 1, 2, 3, WITNESS] {
        world.die(node);
        world.pass(secs(10));
        world.boot(node);
        world.pass(secs(10));
    }
    world.pass(secs(505));
    assert!(is_drained(&world, 0), "605 s since it began");
    world.pass(secs(100));
    assert!(!is_drained(&world, 0));
}

#[test]
fn times_that_make_no_sense_are_refused() {
    let mut world = World::new();
    for lasting in [0, 9, 30 * 86_400 + 1] {
        let reason = drain(&mut world, 0, Some(lasting)).expect_err("refused");
        assert!(reason.contains("from 10 s to 30 days"), "{reason}");
    }
    let unknown = Ask::Undrain {
        node: evenkeel_core::NodeId(7),
    };
    let reason = maintain(&mut world, unknown).expect_err("refused");
    assert!(reason.contains("no such node"), "{reason}");
}

#[test]
fn a_drained_node_leads_only_if_everybody_is_drained() {
    let mut world = World::new();
    assert_eq!(world.leader(), Some(WITNESS));
    drain(&mut world, WITNESS, None).expect("granted");
    world.pass(secs(10));
    let leader = world.leader().expect("somebody leads");
    assert_eq!(leader, SPARE, "it holds nothing");
}

/// L2: a node that died still seems well for 700 ms. The one that is left fails, too.
#[test]
fn a_group_does_not_go_back_to_a_holder_that_has_just_died() {
    let mut world = World::new();
    world.service(2, WIKI, true);
    world.pass(secs(60));
    assert_eq!(world.serving(WIKI), Some(SPARE));
    let before = world.moves.len();
    world.die(SPARE);
    world.pass(secs(10));
    let moves: Vec<_> = world.moves[before..]
        .iter()
        .filter(|one| one.1 == WIKI)
        .collect();
    assert_eq!(moves.len(), 1, "{moves:?}");
    assert_eq!(world.serving(WIKI), Some(2), "unfit, but alive");
}

#[test]
fn failures_are_counted_shown_and_forgotten_after_long_well_being() {
    let mut world = World::new();
    let failures = |world: &World| {
        let record = &world.ledger().groups[&group_id(MAIL)];
        record.failures.get(&id(0)).map(|failure| failure.count)
    };
    for count in 1..=3 {
        world.service(0, MAIL, true);
        world.pass(secs(1));
        world.service(0, MAIL, false);
        assert_eq!(failures(&world), Some(count));
        // Out of every hold-down, and back after 20 s.
        let rest = if count < 3 { 150 } else { 60 };
        world.pass(secs(rest));
    }
    let why = world.why(WITNESS, MAIL, 0);
    assert!(
        why.starts_with("well, but it failed the group 3 times; others are preferred for 6"),
        "{why}"
    );
    world.pass(FORGIVEN_AFTER - secs(61));
    assert_eq!(failures(&world), Some(3));
    world.pass(secs(10));
    assert_eq!(failures(&world), None);
    assert_eq!(world.serving(MAIL), Some(0), "{}", GROUPS[MAIL].0);
}

#[test]
fn status_says_for_how_long_a_node_is_drained() {
    let mut world = World::new();
    drain(&mut world, 0, Some(3600)).expect("granted");
    world.pass(secs(100));
    let why = world.why(WITNESS, MAIL, 0);
    assert_eq!(why, "drained by an operator for another 58 min; well");
}
