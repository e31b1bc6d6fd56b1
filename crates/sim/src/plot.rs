//! Stories that pure chance tells too rarely: several deeds in an order that leads to
//! where holes hide. Who plays in them, and how long they wait, is drawn.

use crate::agreement::Extent;
use crate::node::Restart;
use crate::run::{elect, some_leader};
use crate::world::World;

/// Time goes on for up to two fifths of a lease.
fn pause(world: &mut World) -> bool {
    let lease = world.mix.lease_max.as_nanos() as u64;
    let span = world.chance.between(1, lease * 2 / 5);
    world.run_until(world.at + span);
    world.violation.is_none()
}

/// A leader assigns the group and brings it to one follower; another is elected who
/// does not have it, and cuts it off there; the first is elected again.
pub(crate) fn cut_and_back(world: &mut World) {
    let first = world.any_node();
    if world.agreement.leads(first).is_none() && !elect(world, first) {
        return;
    }
    let (Some(term), follower, holder) = (
        world.agreement.leads(first),
        world.any_node(),
        world.any_node(),
    ) else {
        return;
    };
    world.propose(first, holder, false);
    if first == follower || !world.can_append(follower) {
        return;
    }
    world.replicate(term, first, follower, Extent::Whole);
    if !pause(world) {
        return;
    }
    let second = (0..world.mix.voters).find(|other| {
        *other != first && *other != follower && elect_without(world, *other, &[first, follower])
    });
    if let Some(second) = second
        && let Some(term) = world.agreement.leads(second)
        && world.can_append(follower)
    {
        world.replicate(term, second, follower, Extent::CutOnly);
    }
    if pause(world) && (0..5).any(|_| elect(world, first)) {
        one_by_one(world, first, follower);
    }
}

/// A leader brings the others up to date with pauses between them, `last` after one or
/// two of them; then everybody.
fn one_by_one(world: &mut World, leader: usize, last: usize) {
    let some = world.chance.between(1, 2);
    let drawn: Vec<usize> = (0..some).map(|_| world.any_node()).collect();
    for follower in drawn.into_iter().filter(|f| *f != last).chain([last]) {
        let Some(term) = world.agreement.leads(leader) else {
            return;
        };
        if follower != leader && world.can_append(follower) {
            world.replicate(term, leader, follower, Extent::Whole);
        }
        if !pause(world) {
            return;
        }
    }
    world.settle(leader);
}

/// Elected by those who have not heard of the newest assignment, as far as they go.
fn elect_without(world: &mut World, candidate: usize, out: &[usize]) -> bool {
    let electors: Vec<usize> = (0..world.mix.voters)
        .filter(|voter| !out.contains(voter) && world.can_append(*voter))
        .collect();
    world
        .agreement
        .elect(&mut world.disks, candidate, &electors)
        || elect(world, candidate)
}

/// A holder gives back while all it sends is late, dies, and returns without memory
/// before its words arrive; then the group is assigned to somebody.
pub(crate) fn release_and_return(world: &mut World) {
    let Some(holder) = (0..world.nodes.len()).find(|node| world.nodes[*node].open(world.at)) else {
        return;
    };
    let lease = world.mix.lease_max.as_nanos() as u64;
    world.lags_until[holder] = world.at + 1;
    world.release(holder);
    let restart = world
        .chance
        .pick(&[Restart::Amnesia, Restart::Daemon, Restart::Worker]);
    let down = world.chance.between(1, lease / 10);
    world.restart(holder, restart, down);
    for _ in 0..2 {
        if !pause(world) {
            return;
        }
        if let Some(leader) = some_leader(world) {
            world.settle(leader);
        }
    }
    if let Some(leader) = some_leader(world) {
        let next = world.any_node();
        world.propose(leader, next, false);
        if pause(world) {
            world.settle(leader);
        }
    }
}

/// The holder hears nobody for a while, but is heard. The group is assigned to somebody
/// before its lease runs out, or after; now and then it hears again in the middle.
pub(crate) fn deafen(world: &mut World) {
    let Some(holder) = (0..world.nodes.len()).find(|node| world.nodes[*node].open(world.at)) else {
        return;
    };
    for other in 0..world.nodes.len() {
        world.cut[other][holder] = true;
    }
    let pauses = world.chance.between(0, 4);
    for _ in 0..pauses {
        if !pause(world) {
            return;
        }
    }
    let hears = world.chance.between(0, 2);
    for step in 0..3 {
        if step == hears {
            (0..world.nodes.len()).for_each(|other| world.cut[other][holder] = false);
        }
        if let Some(leader) = some_leader(world) {
            if step == 0 {
                let next = world.any_node();
                world.propose(leader, next, false);
            }
            let follower = world.any_node();
            if follower != leader
                && world.can_append(follower)
                && let Some(term) = world.agreement.leads(leader)
            {
                world.replicate(term, leader, follower, Extent::Whole);
            }
        }
        if !pause(world) {
            return;
        }
    }
    if let Some(leader) = some_leader(world) {
        world.settle(leader);
    }
}
