//! A group answers while it is held, and is mute from its deadline on.

use super::*;
use crate::Extended;

#[test]
fn a_new_guard_is_closed() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        world.assert_answers(true, "before there is a guard");
        let (guard, _keeper) = world.guard(backends);
        world.assert_answers(false, "though it was never held");
        assert!(
            world.answers("10.77.0.1"),
            "an address that is not guarded is let through"
        );
        assert!(
            world.answers("fd77::1"),
            "an address that is not guarded is let through"
        );
        assert_eq!(guard.deadline(GROUP), None);
    }
}

/// The core of it: nobody closes anything here, the process might be frozen. Each
/// answer carries the moment at which the server sent it.
#[test]
fn what_is_not_renewed_falls_silent_at_its_deadline() {
    for backends in ALL_BACKENDS {
        for address in BOTH_FAMILIES {
            let world = World::new();
            let (mut guard, _keeper) = world.guard(backends);
            world.assert_answers(false, "before it is held");
            world.teach_client();
            let echo = Echo::open(address);
            let deadline = hold(&mut guard, Duration::from_millis(400));
            let end = deadline + Duration::from_millis(300);
            let answers = std::thread::scope(|scope| {
                scope.spawn(|| echo.serve_until(end));
                within(&world.client, || ask_until(address, end))
            });
            assert!(
                answers.len() > 5,
                "{backends:?} {address}: only {answers:?}"
            );
            let late: Vec<_> = answers.iter().filter(|at| **at >= deadline).collect();
            assert!(
                late.is_empty(),
                "{backends:?} {address}: after {deadline:?}: {late:?}"
            );
        }
    }
}

#[test]
fn renewals_keep_it_open() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, _keeper) = world.guard(backends);
        world.teach_client();
        let echo = Echo::open(V4);
        let first = hold(&mut guard, Duration::from_millis(120));
        let end = first + Duration::from_millis(700);
        let answers = std::thread::scope(|scope| {
            scope.spawn(|| echo.serve_until(end));
            let asked = scope.spawn(|| within(&world.client, || ask_until(V4, end)));
            while now() < end {
                hold(&mut guard, Duration::from_millis(120));
                std::thread::park_timeout(Duration::from_millis(20));
            }
            asked.join().expect("answers")
        });
        assert!(
            answers.iter().any(|at| *at > first),
            "{backends:?}: mute though renewed"
        );
    }
}

/// A process that was frozen with a renewal in its hands, and thaws.
#[test]
fn a_late_renewal_opens_nothing() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, _keeper) = world.guard(backends);
        let past = now() - Duration::from_millis(1);
        assert_eq!(guard.set_deadline(GROUP, 1, past, now), Extended::Late);
        world.assert_answers(false, "after a late renewal");
        // The clock passes the deadline between the first look and the second.
        let looks = std::cell::Cell::new(0);
        let deadline = now() + Duration::from_millis(50);
        let frozen = || {
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                deadline - Duration::from_millis(50)
            } else {
                deadline
            }
        };
        let extended = guard.set_deadline(GROUP, 1, deadline, frozen);
        // Nobody has anything to do between the two with eBPF alone.
        if backends != Backends::BpfOnly {
            assert_eq!(extended, Extended::Late);
        }
        if backends == Backends::NftOnly {
            world.assert_answers(false, "after a freeze inside of a renewal");
        }
    }
}

/// Less than a tick of the kernel would be no time-out at all, which means for ever.
#[test]
fn the_shortest_lease_is_not_for_ever() {
    let world = World::new();
    let (mut guard, _keeper) = world.guard(Backends::NftOnly);
    for micros in [1, 500, 1_000, 3_999, 9_999, 10_001, 12_000] {
        hold(&mut guard, Duration::from_micros(micros));
    }
    until("the last one has run out", || {
        guard.deadline(GROUP).is_none_or(|end| end < now())
    });
    world.assert_answers(false, "after a very short lease");
}

#[test]
fn closing_mutes_at_once() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, _keeper) = world.guard(backends);
        hold(&mut guard, PATIENCE);
        world.assert_answers(true, "while it is held");
        guard.close(GROUP);
        world.assert_answers(false, "after closing");
        assert_eq!(guard.deadline(GROUP), None);
        hold(&mut guard, PATIENCE);
        world.assert_answers(true, "when it is held again");
    }
}

#[test]
fn groups_do_not_open_one_another() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, mut keeper) = world.guard(backends);
        keeper
            .set_addresses(OTHER, Epoch::NONE, &[ip(V6)])
            .expect("it moves");
        hold(&mut guard, PATIENCE);
        until("the held one answers", || world.answers(V4));
        assert!(
            !world.answers(V6),
            "{backends:?}: it belongs to a group that is not held"
        );
        guard.set_deadline(OTHER, 1, now() + PATIENCE, now);
        until("the other answers", || world.answers(V6));
        let unknown = guard.set_deadline(GroupId(5), 1, now() + PATIENCE, now);
        assert_eq!(unknown, Extended::UnknownGroup);
    }
}

/// The node itself reaches an address that is closed here and lives elsewhere.
#[test]
fn a_standby_reaches_the_holder() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (_guard, mut keeper) = world.guard(backends);
        // With the node's own address as source: the other one is closed.
        let elsewhere = [("10.77.0.2", "10.77.0.1"), ("fd77::2", "fd77::1")];
        let guarded = elsewhere.map(|(address, _)| ip(address));
        keeper
            .set_addresses(OTHER, Epoch::NONE, &guarded)
            .expect("they are taken");
        let node = &world.node;
        for (address, source) in elsewhere {
            until(
                &format!("{address} is reached through {backends:?}"),
                || {
                    let line = format!("ping -n -q -c 1 -W 0.15 -I {source} {address}");
                    try_run(&format!("ip netns exec {node} {line}"))
                        .status
                        .success()
                },
            );
        }
    }
}

/// The loopback device is a device.
#[test]
fn the_node_itself_is_not_answered_either() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, _keeper) = world.guard(backends);
        let local = |address: &str| {
            let line = format!(
                "ip netns exec {} ping -n -q -c 1 -W 0.15 {address}",
                world.node
            );
            try_run(&line).status.success()
        };
        for address in BOTH_FAMILIES {
            assert!(!local(address), "{backends:?}: {address} answers over lo");
        }
        hold(&mut guard, PATIENCE);
        for address in BOTH_FAMILIES {
            until("it answers over lo", || local(address));
        }
    }
}
