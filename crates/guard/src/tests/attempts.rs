//! Attempts to connect are held, and nothing else is, and not for ever.

use std::net::{SocketAddr, TcpListener, TcpStream};

use super::*;
use crate::GuardError;

/// How long an attempt is waited for that is expected to fail: less than the second after
/// which the client's kernel tries again.
const SOON: Duration = Duration::from_millis(300);

/// Longer than the test takes.
const LONG: Duration = Duration::from_secs(50);

fn listener(address: &str) -> TcpListener {
    TcpListener::bind(SocketAddr::new(ip(address), 80)).expect("a port of the node")
}

/// Whether a new connection from the client's host succeeds at once.
fn connects(world: &World, address: &str) -> bool {
    let target = SocketAddr::new(ip(address), 80);
    within(&world.client, || {
        TcpStream::connect_timeout(&target, SOON).is_ok()
    })
}

#[test]
fn attempts_are_dropped_and_nothing_else() {
    for backends in [Backends::Both, Backends::NftOnly] {
        let world = World::new();
        let (mut guard, mut keeper) = world.guard(backends);
        let _listeners = [listener(V4), listener(V6)];
        hold(&mut guard, LONG);
        for address in [V4, V6] {
            until("it is open", || connects(&world, address));
        }
        let (began, done) = keeper
            .hold(GROUP, &[ip(V4), ip(V6)], LONG)
            .expect("nftables is there");
        assert!(began <= done && done <= now());
        for address in [V4, V6] {
            assert!(!connects(&world, address), "{backends:?}: {address}");
        }
        world.assert_answers(true, "a ping is no attempt");
        let repairs = keeper.verify_and_repair().expect("a verification");
        assert!(repairs.is_clean(), "{backends:?}: {repairs:?}");
        assert!(!connects(&world, V4), "{backends:?}: after a verification");
        // Of one address only, from now on.
        keeper.hold(GROUP, &[ip(V6)], LONG).expect("once more");
        assert!(connects(&world, V4) && !connects(&world, V6));
        keeper.unhold(GROUP).expect("it lets them pass");
        assert!(connects(&world, V6));
        keeper.unhold(GROUP).expect("nothing to do");
    }
}

#[test]
fn a_hold_opens_nothing_and_closing_ends_nothing() {
    let world = World::new();
    let (mut guard, mut keeper) = world.guard(Backends::Both);
    let _listener = listener(V4);
    keeper.hold(GROUP, &[ip(V4)], LONG).expect("held");
    keeper.unhold(GROUP).expect("let pass");
    assert!(!connects(&world, V4), "it never had a lease");
    keeper.hold(GROUP, &[ip(V4)], LONG).expect("held");
    hold(&mut guard, LONG);
    assert!(!connects(&world, V4), "held, though it is open");
}

#[test]
fn a_hold_ends_by_itself() {
    let world = World::new();
    let (mut guard, mut keeper) = world.guard(Backends::Both);
    let _listener = listener(V4);
    hold(&mut guard, LONG);
    keeper
        .hold(GROUP, &[ip(V4)], Duration::from_millis(1_500))
        .expect("held");
    assert!(!connects(&world, V4));
    // Nobody says anything any more.
    until("its time is over", || connects(&world, V4));
}

/// What a process held that has ended is none of the next one's: it may be the holder.
#[test]
fn the_next_process_holds_nothing() {
    let world = World::new();
    let (guard, mut keeper) = world.guard(Backends::Both);
    let _listener = listener(V4);
    keeper.hold(GROUP, &[ip(V4)], LONG).expect("held");
    drop((guard, keeper));
    let (mut guard, _keeper) = world.guard(Backends::Both);
    hold(&mut guard, LONG);
    until("it is served", || connects(&world, V4));
}

#[test]
fn a_guard_without_nftables_says_that_it_cannot_hold() {
    let world = World::new();
    let (_guard, mut keeper) = world.guard(Backends::BpfOnly);
    let refused = keeper.hold(GROUP, &[ip(V4)], LONG);
    assert!(
        matches!(refused, Err(GuardError::CannotHold)),
        "{refused:?}"
    );
}
