//! The guard outlives its process, and the next process continues it.

use super::*;

#[test]
fn it_stays_closed_without_a_process() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        drop(world.guard(backends));
        world.assert_answers(false, "after the process ended");
    }
}

#[test]
fn what_was_granted_ends_without_a_process() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, keeper) = world.guard(backends);
        let deadline = hold(&mut guard, Duration::from_millis(1500));
        drop((guard, keeper));
        let mut answered = false;
        while now() < deadline - Duration::from_millis(200) {
            answered |= world.answers(V4);
        }
        assert!(answered, "{backends:?}: mute before its deadline");
        until("the deadline has passed", || now() >= deadline);
        world.assert_answers(false, "after the deadline");
    }
}

#[test]
fn the_next_process_continues() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, keeper) = world.guard(backends);
        let deadline = hold(&mut guard, PATIENCE);
        drop((guard, keeper));

        let settings = world.settings(backends);
        let (mut guard, mut keeper) = Guard::open(&settings).expect("a guard");
        world.assert_answers(true, "through the restart");
        if backends != Backends::NftOnly {
            assert_eq!(guard.deadline(GROUP), Some(deadline));
        }
        assert_eq!(keeper.groups(), [GROUP]);
        keeper
            .set_addresses(GROUP, Epoch::NONE, &[ip(V4), ip(V6)])
            .expect("the same again");
        world.assert_answers(true, "after the same addresses were set");
        guard.close(GROUP);
        world.assert_answers(false, "after the new process closed it");
        hold(&mut guard, PATIENCE);
        world.assert_answers(true, "after the new process held it");
        assert!(
            keeper
                .verify_and_repair()
                .expect("a verification")
                .is_clean()
        );
    }
}

/// The pins may be lost with a mount namespace while the table lives on.
#[test]
fn one_mechanism_learns_from_the_other() {
    let world = World::new();
    drop(world.guard(Backends::NftOnly));
    let (mut guard, keeper) = Guard::open(&world.settings(Backends::Both)).expect("a guard");
    assert_eq!(
        keeper.orphans(),
        [ip(V4), ip(V6)],
        "known by the table, closed in eBPF"
    );
    hold(&mut guard, PATIENCE);
    world.assert_answers(false, "though no group is said to have it");
    drop((guard, keeper));

    let world = World::new();
    drop(world.guard(Backends::BpfOnly));
    let (mut guard, keeper) = Guard::open(&world.settings(Backends::Both)).expect("a guard");
    assert_eq!(keeper.groups(), [GROUP]);
    hold(&mut guard, PATIENCE);
    world.assert_answers(true, "as both mechanisms now know the group");
    drop((guard, keeper));
}

/// Two live processes with one name: the second is refused by the table's owner.
#[test]
fn a_second_process_cannot_take_the_table() {
    let world = World::new();
    let (_guard, _keeper) = world.guard(Backends::NftOnly);
    let refused = Guard::open(&world.settings(Backends::Both)).map(|_| ());
    assert!(
        matches!(refused, Err(crate::GuardError::InUse { .. })),
        "{refused:?}"
    );
}

/// The pins were in another bpffs: what hangs on them would drop for ever.
#[test]
fn programs_on_lost_pins_are_detached() {
    let world = World::new();
    drop(world.guard(Backends::BpfOnly));
    world.assert_answers(false, "after the process ended");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let settings = Settings {
        bpffs: elsewhere.path().to_owned(),
        ..world.settings(Backends::BpfOnly)
    };
    let (mut guard, mut keeper) = Guard::open(&settings).expect("a guard");
    keeper
        .set_addresses(GROUP, Epoch::NONE, &[ip(V4), ip(V6)])
        .expect("they are taken");
    world.assert_answers(false, "before it is held");
    hold(&mut guard, PATIENCE);
    world.assert_answers(true, "when it is held");
    keeper.uninstall().expect("it is taken away");
}

#[test]
fn uninstalling_leaves_nothing() {
    for backends in ALL_BACKENDS {
        for by_keeper in [true, false] {
            let world = World::new();
            let settings = world.settings(backends);
            let (guard, keeper) = world.guard(backends);
            world.assert_answers(false, "while it is installed");
            if by_keeper {
                keeper.uninstall().expect("it is taken away");
                drop(guard);
            } else {
                drop((guard, keeper));
                crate::uninstall(&settings).expect("it is taken away");
            }
            world.assert_answers(true, "when there is no guard any more");
            let rules = run(&format!("ip netns exec {} nft list ruleset", world.node)).stdout;
            assert!(rules.is_empty(), "{}", String::from_utf8_lossy(&rules));
            let left = std::fs::read_dir(&settings.bpffs)
                .expect("a directory")
                .count();
            assert_eq!(left, 0, "pins are left");
            assert!(!evenkeel_host::sys::bpffs::is_bpffs(&settings.bpffs).expect("a directory"));
            crate::uninstall(&settings).expect("uninstalling again is no fault");
        }
    }
}
