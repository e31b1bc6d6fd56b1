//! Visits every state of a small world (what it is made of: `world`), in several
//! directions, because no machine has the memory for all of them at once:
//!
//! | test              | ticks | in flight | what may happen besides one move         | states, unique |
//! | ----------------- | ----- | --------- | ---------------------------------------- | -------------- |
//! | messages          | 4     | 2         | loss, delay, reordering                  | 3.7 million    |
//! | two moves         | 5     | 1         | a second move, to either of two nodes    | 2.1 million    |
//! | truncation        | 4     | 1         | an election, a cut or a partial append   | 1.4 million    |
//! | release           | 3     | 2         | a release, in time or aborted            | 3.3 million    |
//! | lost memory       | 5     | 1         | a release, a restart without the mirror  | 0.8 million    |
//! | kept memory       | 5     | 1         | a release, a restart with the mirror     | 1.2 million    |
//! | clocks            | 5     | 1         | a tick too many or too few, lost memory  | 2.6 million    |
//! | freeze            | 4     | 1         | a node stands still, a tick off          | 1.7 million    |
//! | doubled           | 3     | 2         | a message arrives twice                  | 4.3 million    |
//! | void asks         | 4     | 1         | a heartbeat each tick, kept memory       | 0.2 million    |
//!
//! 21 million states in all, nearly three times as many transitions; some minutes on two
//! cores. With the wait, the margin or the restart rule taken away two open guards are
//! found here too, and with the spent epoch, the forgetting of void asks or the numbers
//! of promises a guard that no majority backs; all of them are found by the random
//! search, which goes far beyond these bounds.
//! `EVENKEEL_TICKS=n` makes every world last n ticks longer.

mod world;

use evenkeel_core::lease::Faults;
use stateright::{Checker, HasDiscoveries, Model};
use world::{Bounds, S1, S4, Small};

/// One move to node 1, one message in flight.
const PLAIN: Bounds = Bounds {
    ticks: 5,
    heartbeat: 2,
    in_flight: 1,
    holders: 0b010,
    proposals: 1,
    elections: 0,
    cuts: 0,
    releases: 0,
    workers: 0,
    amnesias: 0,
    doubles: 0,
    skews: 0,
    freezes: 0,
};

/// A holder that may hear nobody, and asks at every tick.
const DEAF: Bounds = Bounds {
    ticks: 4,
    heartbeat: 1,
    in_flight: 2,
    ..PLAIN
};

/// Visits all states; every property holds in each, and the group does move.
fn visit(bounds: Bounds) {
    let more = std::env::var("EVENKEEL_TICKS")
        .ok()
        .and_then(|n| n.parse::<u8>().ok());
    let bounds = Bounds {
        ticks: bounds.ticks + more.unwrap_or(0),
        ..bounds
    };
    let small = Small {
        bounds,
        faults: Faults::default(),
    };
    let visited = small
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_dfs()
        .join();
    let (all, unique) = (visited.state_count(), visited.unique_state_count());
    println!(
        "{all} states, {unique} unique, depth {}",
        visited.max_depth()
    );
    visited.assert_properties();
    assert!(unique > 50_000, "hardly anything was visited");
}

/// With a rule taken away, `property` is broken in some state.
fn finds(property: &'static str, bounds: Bounds, faults: Faults) {
    let wanted = HasDiscoveries::AnyOf([property].into());
    let visited = Small { bounds, faults }
        .checker()
        .threads(2)
        .finish_when(wanted)
        .spawn_dfs()
        .join();
    assert!(
        visited.discovery(property).is_some(),
        "nothing seen of {faults:?}"
    );
}

#[test]
fn messages_are_lost_late_and_out_of_order() {
    visit(Bounds {
        ticks: 4,
        in_flight: 2,
        ..PLAIN
    });
}

#[test]
fn the_group_moves_twice() {
    visit(Bounds {
        proposals: 2,
        holders: 0b011,
        ..PLAIN
    });
}

#[test]
fn entries_are_truncated() {
    visit(Bounds {
        ticks: 4,
        elections: 1,
        cuts: 1,
        ..PLAIN
    });
}

#[test]
fn a_holder_releases() {
    visit(Bounds {
        ticks: 3,
        in_flight: 2,
        releases: 1,
        ..PLAIN
    });
}

#[test]
fn a_daemon_returns_without_its_memory() {
    visit(Bounds {
        releases: 1,
        amnesias: 1,
        ..PLAIN
    });
}

#[test]
fn a_worker_returns_with_its_memory() {
    visit(Bounds {
        releases: 1,
        workers: 1,
        ..PLAIN
    });
}

#[test]
fn clocks_run_apart_as_far_as_the_margin() {
    visit(Bounds {
        skews: 1,
        amnesias: 1,
        ..PLAIN
    });
}

#[test]
fn a_node_freezes() {
    visit(Bounds {
        ticks: 4,
        skews: 1,
        freezes: 1,
        ..PLAIN
    });
}

#[test]
fn a_message_arrives_twice() {
    visit(Bounds {
        ticks: 3,
        in_flight: 2,
        doubles: 1,
        ..PLAIN
    });
}

#[test]
fn a_deaf_holder_declares_its_asks_void() {
    visit(Bounds {
        in_flight: 1,
        workers: 1,
        ..DEAF
    });
}

#[test]
fn opening_without_waiting_is_found() {
    finds(
        S1,
        PLAIN,
        Faults {
            no_wait: true,
            ..Faults::default()
        },
    );
}

#[test]
fn a_missing_margin_is_found() {
    let bounds = Bounds { skews: 1, ..PLAIN };
    finds(
        S1,
        bounds,
        Faults {
            no_margin: true,
            ..Faults::default()
        },
    );
}

#[test]
fn a_voter_that_answers_at_once_after_its_restart_is_found() {
    let bounds = Bounds {
        ticks: 6,
        amnesias: 1,
        ..PLAIN
    };
    finds(
        S1,
        bounds,
        Faults {
            no_restart_rule: true,
            ..Faults::default()
        },
    );
}

#[test]
fn a_released_epoch_in_use_again_is_found() {
    let bounds = Bounds {
        ticks: 4,
        in_flight: 2,
        releases: 1,
        ..PLAIN
    };
    finds(
        S4,
        bounds,
        Faults {
            spent_reusable: true,
            ..Faults::default()
        },
    );
}

#[test]
fn an_answer_counted_that_was_declared_void_is_found() {
    finds(
        S4,
        DEAF,
        Faults {
            void_counts: true,
            ..Faults::default()
        },
    );
}

#[test]
fn promises_taken_back_for_newer_asks_are_found() {
    finds(
        S4,
        DEAF,
        Faults {
            void_unnumbered: true,
            ..Faults::default()
        },
    );
}
