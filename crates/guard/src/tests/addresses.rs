//! Which addresses belong to which group: changing that never opens anything.

use super::*;
use crate::GuardError;

const EPOCH: Epoch = Epoch { term: 1, index: 7 };

#[test]
fn an_address_that_joins_an_open_group_waits_for_its_epoch() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, mut keeper) = world.guard(backends);
        keeper
            .set_addresses(GROUP, Epoch::NONE, &[ip(V4)])
            .expect("one leaves");
        hold(&mut guard, PATIENCE);
        until("the first answers", || world.answers(V4));
        keeper
            .set_addresses(GROUP, EPOCH, &[ip(V4), ip(V6)])
            .expect("one joins");
        keeper.verify_and_repair().expect("a verification");
        assert!(
            !world.answers(V6),
            "{backends:?}: opened by the epoch before"
        );
        hold(&mut guard, PATIENCE);
        keeper.verify_and_repair().expect("a verification");
        assert!(
            !world.answers(V6),
            "{backends:?}: opened by a renewal of the epoch before"
        );
        guard.set_deadline(GROUP, EPOCH.index, now() + PATIENCE, now);
        keeper.verify_and_repair().expect("a verification");
        until("it answers under its own epoch", || world.answers(V6));
        assert!(world.answers(V4));
    }
}

/// A worker that goes on for another reads older assignments once more.
#[test]
fn what_an_older_assignment_lists_does_not_open_with_a_newer_one() {
    let older = Epoch { index: 6, ..EPOCH };
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, mut keeper) = world.guard(backends);
        keeper
            .set_addresses(GROUP, EPOCH, &[ip(V4)])
            .expect("one left");
        guard.set_deadline(GROUP, EPOCH.index, now() + PATIENCE, now);
        until("the first answers", || world.answers(V4));
        keeper
            .set_addresses(GROUP, older, &[ip(V6)])
            .expect("no error");
        keeper.verify_and_repair().expect("a verification");
        assert!(!world.answers(V6), "{backends:?}: it had left");
        assert!(world.answers(V4), "{backends:?}: it stays");
        guard.set_deadline(GROUP, EPOCH.index, now() + PATIENCE, now);
        keeper.verify_and_repair().expect("a verification");
        assert!(!world.answers(V6), "{backends:?}: renewed, and it had left");
    }
}

/// A changed configuration: what nobody guards is closed, and what is open stays so.
#[test]
fn addresses_without_an_assignment_are_guarded_closed() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, mut keeper) = world.guard(backends);
        keeper
            .set_addresses(GROUP, EPOCH, &[ip(V4)])
            .expect("one is left");
        keeper.forget(&[ip(V6)]).expect("nobody guards it");
        guard.set_deadline(GROUP, EPOCH.index, now() + PATIENCE, now);
        until("the guarded one answers", || world.answers(V4));
        keeper.guard_closed(&[ip(V4), ip(V6)]).expect("guarded");
        assert!(!world.answers(V6), "{backends:?}");
        assert!(world.answers(V4), "{backends:?}: it was open");
        guard.set_deadline(GROUP, EPOCH.index, now() + PATIENCE, now);
        assert!(!world.answers(V6), "{backends:?}: it is of no group");
    }
}

#[test]
fn an_address_that_joins_a_closed_group_opens_with_it() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, mut keeper) = world.guard(backends);
        keeper
            .set_addresses(GROUP, Epoch::NONE, &[ip(V4)])
            .expect("one leaves");
        keeper
            .set_addresses(GROUP, EPOCH, &[ip(V4), ip(V6)])
            .expect("it joins again");
        guard.set_deadline(GROUP, EPOCH.index, now() + PATIENCE, now);
        world.assert_answers(true, "together");
    }
}

#[test]
fn an_address_that_left_stays_closed_until_it_is_forgotten() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, mut keeper) = world.guard(backends);
        hold(&mut guard, PATIENCE);
        world.assert_answers(true, "while both belong to the group");
        keeper
            .set_addresses(GROUP, EPOCH, &[ip(V4)])
            .expect("one leaves");
        assert!(!world.answers(V6), "{backends:?}: it left");
        assert_eq!(keeper.orphans(), [ip(V6)]);
        keeper.forget(&[ip(V4)]).expect("not an orphan: left alone");
        guard.close(GROUP);
        assert!(!world.answers(V4), "{backends:?}: still guarded");
        keeper.forget(&[ip(V6)]).expect("it is forgotten");
        until("it is not guarded any more", || world.answers(V6));
        assert!(keeper.orphans().is_empty());
    }
}

/// Two thousand addresses cost one renewal: the message has one element.
#[test]
fn thousands_of_addresses_are_one_group() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, mut keeper) = world.guard(backends);
        let mut all = vec![ip(V4), ip(V6)];
        for number in 0..1000_u16 {
            let [high, low] = number.to_be_bytes();
            all.push(IpAddr::from([10, 79, high, low]));
            all.push(IpAddr::from([0xfd79, 0, 0, 0, 0, 0, 0, number]));
        }
        keeper
            .set_addresses(GROUP, Epoch::NONE, &all)
            .expect("they are taken");
        world.assert_answers(false, "while closed");
        hold(&mut guard, PATIENCE);
        world.assert_answers(true, "while held");
        drop((guard, keeper));
        let (_, keeper) = Guard::open(&world.settings(backends), &claim()).expect("a guard");
        assert_eq!(
            keeper.guarded.len(),
            all.len(),
            "found again by the next process"
        );
        world.assert_answers(true, "still");
    }
}

#[test]
fn too_many_are_refused() {
    let world = World::new();
    let (_guard, mut keeper) = world.guard(Backends::Both);
    let many: Vec<IpAddr> = (0..=crate::ADDRESSES_MAX as u32)
        .map(|number| IpAddr::V4((0x0b00_0000 + number).into()))
        .collect();
    let refused = keeper.set_addresses(GROUP, EPOCH, &many);
    assert!(
        matches!(refused, Err(GuardError::TooManyAddresses { .. })),
        "{refused:?}"
    );
    world.assert_answers(false, "after the refusal");
    for group in 1..crate::GROUPS_MAX as u64 {
        keeper
            .set_addresses(GroupId(group), EPOCH, &[])
            .expect("a place for the group");
    }
    let refused = keeper.set_addresses(GroupId(99_999), EPOCH, &[]);
    assert!(
        matches!(refused, Err(GuardError::TooManyGroups)),
        "{refused:?}"
    );
}

/// The table knows groups by 32 bits: two that it cannot tell apart are refused.
#[test]
fn groups_with_one_tag_are_refused() {
    let world = World::new();
    let (_guard, mut keeper) = world.guard(Backends::Both);
    let twin = GroupId(GROUP.0.rotate_left(32));
    assert_ne!(twin, GROUP);
    for group in [twin, GroupId(0), GroupId(0x0000_0005_0000_0005)] {
        let refused = keeper.set_addresses(group, EPOCH, &[ip("10.77.0.9")]);
        assert!(
            matches!(refused, Err(GuardError::AlikeGroups { .. })),
            "{refused:?}"
        );
    }
}
