//! A pause of the voters is not a move (DESIGN 3.1 rule 6): the holder gets its lease back
//! under its epoch, however long a round trip takes, up to the lease. It must, although
//! it declares asks void while it is without its lease.

use core::time::Duration;

use evenkeel_core::lease::Faults;
use evenkeel_sim::chance::Chance;
use evenkeel_sim::mix::Mix;
use evenkeel_sim::world::{GROUP, World};

/// Heartbeats of a simulated lease.
const HEARTBEATS: u32 = 5;

/// How the holder loses its majority for a while.
#[derive(Clone, Copy, Debug)]
enum Pause {
    /// All others stand still, and read afterwards what they were sent.
    Frozen,
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
}

fn nanos(span: Duration) -> u64 {
    span.as_nanos() as u64
}

/// A pause of this length, then service again, in time and without a gap.
fn resumes(seed: u64, lease: Duration, trip: Duration, pause: Pause, length: Duration) {
    let what = format!("seed {seed}, {lease:?}, trip {trip:?}, {pause:?} for {length:?}");
    let mix = Mix::calm(lease, trip / 2);
    let mut world = World::new(mix, Chance::new(seed), Faults::default(), false);
    world.run_until(nanos(lease * 3));
    let holder = (0..3).find(|node| world.nodes[*node].open(world.at));
    let holder = holder.unwrap_or_else(|| panic!("nobody holds: {what}"));
    let held = world.nodes[holder].machine.status(GROUP).held;

    let others = (0..3).filter(|node| *node != holder);
    for other in others.clone() {
        match pause {
            Pause::Frozen => world.freeze(other, nanos(length)),
            Pause::Deaf => world.cut[other][holder] = true,
            Pause::Mute => world.cut[holder][other] = true,
        }
    }
    world.run_until(world.at + nanos(length));
    assert!(!world.nodes[holder].open(world.at), "no lapse: {what}");
    for other in others {
        world.cut[other][holder] = false;
        world.cut[holder][other] = false;
    }

    let bound = nanos(trip * 2 + lease / HEARTBEATS * 2);
    world.run_until(world.at + bound);
    let end = world.at + nanos(lease * 4);
    while world.at < end {
        assert!(world.nodes[holder].open(world.at), "not resumed: {what}");
        world.run_until(world.at + nanos(lease / 50));
    }
    assert_eq!(world.violation, None, "{what}");
    assert_eq!(
        world.nodes[holder].machine.status(GROUP).held,
        held,
        "{what}"
    );
    assert_eq!((world.seen.opened, world.seen.resumed), (1, 1), "{what}");
}

#[test]
fn a_holder_resumes_whatever_a_round_trip_takes() {
    // In balanced and in wan; trips up to more than half a lease, which is several
    // heartbeats. A longer one could not keep a lease going between two heartbeats.
    for lease in [Duration::from_millis(120), Duration::from_millis(1500)] {
        for trip in [2, 10, 20, 30, 40, 55].map(|part| lease * part / 100) {
            for pause in [Pause::Frozen, Pause::Deaf, Pause::Mute] {
                for length in [110, 130, 150, 200, 330, 1700].map(|part| lease * part / 100) {
                    resumes(7, lease, trip, pause, length + trip);
                }
            }
        }
    }
}

#[test]
fn a_holder_resumes_at_whatever_moment_the_pause_ends() {
    let lease = Duration::from_millis(120);
    for seed in 0..200 {
        let trip = lease * (2 + (seed as u32 * 7) % 54) / 100;
        let length = lease + trip + lease * (seed as u32 % 40) / 20;
        resumes(seed, lease, trip, Pause::Frozen, length);
        resumes(seed, lease, trip, Pause::Deaf, length);
    }
}
