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
        let (mut guard, mut keeper) = Guard::open(&settings, &claim()).expect("a guard");
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

/// A process that waits beside another goes on where that one died, through the socket
/// that its parent keeps for both, and only later keeps the guard itself.
#[test]
fn a_warm_successor_continues() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let settings = world.settings(backends);
        let claim = claim();
        let (mut guard, mut keeper) = Guard::open(&settings, &claim).expect("a guard");
        keeper
            .set_addresses(GROUP, Epoch::NONE, &[ip(V4), ip(V6)])
            .expect("they are taken");
        hold(&mut guard, PATIENCE);
        let (mut next, seat) = Guard::resume(&settings, &claim).expect("a second handle");
        world.assert_answers(true, "though another waits");
        guard.close(GROUP);
        world.assert_answers(false, "as the first still decides");
        drop((guard, keeper));

        hold(&mut next, PATIENCE);
        world.assert_answers(true, "as the successor holds it");
        let mut keeper = Keeper::join(&settings, &claim, seat).expect("its keeper");
        world.assert_answers(true, "through the joining");
        assert_eq!(keeper.groups(), [GROUP]);
        assert_eq!(
            keeper.state().nft.is_active(),
            backends != Backends::BpfOnly
        );
        keeper
            .set_addresses(GROUP, Epoch::NONE, &[ip(V4), ip(V6)])
            .expect("the same again");
        let repairs = keeper.verify_and_repair().expect("a verification");
        assert!(repairs.is_clean(), "{backends:?}: {repairs:?}");
        next.close(GROUP);
        world.assert_answers(false, "after the successor closed it");
        hold(&mut next, PATIENCE);
        world.assert_answers(true, "after it held it again");
    }
}

#[test]
fn nobody_resumes_what_is_not_there() {
    let world = World::new();
    let refused = Guard::resume(&world.settings(Backends::Both), &claim()).map(|_| ());
    assert!(
        matches!(refused, Err(crate::GuardError::NoBackend { .. })),
        "{refused:?}"
    );
}

/// The pins may be lost with a mount namespace while the table lives on.
#[test]
fn one_mechanism_learns_from_the_other() {
    let world = World::new();
    drop(world.guard(Backends::NftOnly));
    let (mut guard, keeper) =
        Guard::open(&world.settings(Backends::Both), &claim()).expect("a guard");
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
    let (mut guard, keeper) =
        Guard::open(&world.settings(Backends::Both), &claim()).expect("a guard");
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
    let refused = Guard::open(&world.settings(Backends::Both), &claim()).map(|_| ());
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
    let (mut guard, mut keeper) = Guard::open(&settings, &claim()).expect("a guard");
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
