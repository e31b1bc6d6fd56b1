//! The table of stages, which connections count as busy, and whose attempts are passed on.

use std::net::Ipv4Addr;

use evenkeel_host::frame::{Forwards, gratuitous_request, unsolicited_advertisement};

use super::*;

const GROUP: GroupId = GroupId(1);
const NEXT: Mac = [2, 0, 0, 0, 0, 7];
const IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const DRAIN: Duration = Duration::from_secs(2);

fn at(ms: u64) -> Moment {
    Moment::from_nanos((1_000 + ms) * 1_000_000)
}

fn epoch(index: u64) -> Epoch {
    Epoch { term: 1, index }
}

fn ip6() -> std::net::Ipv6Addr {
    "2001:db8::64".parse().expect("an address")
}

fn draining(index: u64) -> Wanted {
    Wanted::Draining {
        epoch: epoch(index),
        drain: DRAIN,
        addresses: BTreeSet::from([IP.into(), ip6().into()]),
    }
}

/// An attempt to connect from this port.
fn syn(port: u16) -> Vec<u8> {
    let mut frame = vec![9; 12];
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([192, 0, 2, 9]);
    frame.extend(IP.octets());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    frame
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 9], port))
}

/// An answered connection that has been quiet for a second.
fn idle(port: u16) -> Flight {
    Flight {
        local: SocketAddr::from((IP, 80)),
        remote: client(port),
        stage: Connection::Open,
        unread: 0,
        unsent: 0,
        sent_ago: 1_000,
        acknowledged_ago: 1_000,
        received_ago: 1_010,
        received: Some(1),
        sent: Some(1),
    }
}

/// One whose request is not answered yet.
fn asked(port: u16) -> Flight {
    Flight {
        received_ago: 40,
        sent_ago: 41,
        sent: Some(0),
        ..idle(port)
    }
}

fn reports(drains: &mut Drains) -> Vec<Report> {
    let told = |output| match output {
        Output::Report(report) => Some(report),
        Output::PassOn { .. } | Output::PutBack { .. } | Output::End(_) => None,
    };
    drains.outputs().into_iter().filter_map(told).collect()
}

fn port(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}

/// The ports of the clients that are passed on, and to whom.
fn passed(drains: &mut Drains) -> Vec<(u16, Mac)> {
    let sent = |output| match output {
        Output::PassOn { frame, to, .. } => Some((port(&frame), to)),
        Output::Report(_) | Output::PutBack { .. } | Output::End(_) => None,
    };
    drains.outputs().into_iter().filter_map(sent).collect()
}

/// The ports of the clients that are put back, if that is to be done now.
fn put_back(drains: &mut Drains) -> Option<Vec<u16>> {
    let ports = |frames: Vec<(u32, Vec<u8>)>| frames.iter().map(|one| port(&one.1)).collect();
    drains
        .outputs()
        .into_iter()
        .find_map(|output| match output {
            Output::PutBack { frames, .. } => Some(ports(frames)),
            Output::Report(_) | Output::PassOn { .. } | Output::End(_) => None,
        })
}

/// The ports of the clients whose connections are ended.
fn ended(drains: &mut Drains) -> Vec<u16> {
    let outputs = drains.outputs().into_iter();
    let ends = outputs.filter_map(|output| match output {
        Output::End(ends) => Some(ends),
        Output::Report(_) | Output::PassOn { .. } | Output::PutBack { .. } => None,
    });
    ends.flatten().map(|(remote, _)| remote.port()).collect()
}

/// A group whose attempts are copied since `at(ms)`, with nothing in flight.
fn asking(ms: u64) -> Drains {
    let mut drains = Drains::default();
    drains.want(at(ms), GROUP, draining(5));
    assert!(drains.looked(at(ms), &[], true), "nothing was in flight");
    drains.copying();
    assert!(matches!(reports(&mut drains)[..], [Report::Holding { .. }]));
    drains
}

#[test]
fn busy_is_what_somebody_waits_for() {
    let table = [
        ("idle", idle(1), false, false),
        ("asked for the first time", asked(1), true, true),
        (
            "asked again",
            Flight {
                received_ago: 500,
                ..idle(1)
            },
            true,
            true,
        ),
        (
            "answered just now",
            Flight {
                sent_ago: 4,
                received_ago: 8,
                ..idle(1)
            },
            true,
            true,
        ),
        (
            "asked and answered in one tick",
            Flight {
                received_ago: 1_000,
                ..idle(1)
            },
            false,
            false,
        ),
        (
            "asked and answered in one tick, or the other way round",
            Flight {
                received_ago: 100,
                sent_ago: 100,
                acknowledged_ago: 100,
                ..idle(1)
            },
            true,
            true,
        ),
        (
            "unread",
            Flight {
                unread: 1,
                ..idle(1)
            },
            true,
            true,
        ),
        (
            "unacknowledged",
            Flight {
                unsent: 1,
                ..idle(1)
            },
            true,
            true,
        ),
        (
            "connected, nothing asked",
            Flight {
                received: Some(0),
                sent: Some(0),
                ..idle(1)
            },
            true,
            false,
        ),
        (
            "greeted, nothing asked",
            Flight {
                received: Some(0),
                ..idle(1)
            },
            false,
            false,
        ),
        (
            "on its way",
            Flight {
                stage: Connection::Opening,
                ..idle(1)
            },
            true,
            false,
        ),
        (
            "closed, all arrived",
            Flight {
                stage: Connection::Closing,
                unsent: 1,
                ..idle(1)
            },
            false,
            false,
        ),
        (
            "closed, not all arrived",
            Flight {
                stage: Connection::Closing,
                unsent: 9,
                ..idle(1)
            },
            true,
            true,
        ),
    ];
    for (what, flight, patient, later) in table {
        assert_eq!(is_busy(&flight, true), patient, "{what}");
        assert_eq!(is_busy(&flight, false), later, "{what}, a while later");
    }
}

/// A second group that begins to ask asks for itself alone: a hold that is begun anew lets
/// attempts in between.
#[test]
fn the_guard_is_asked_once_for_each_group() {
    let mut drains = asking(0);
    drains.copying();
    assert_eq!(reports(&mut drains), []);
}

#[test]
fn attempts_are_held_only_once_the_early_requests_are_done() {
    let mut drains = Drains::default();
    drains.want(at(0), GROUP, draining(5));
    assert!(!drains.looked(at(0), &[asked(1)], true));
    assert!(!drains.copies(), "everybody is served");
    // Another came meanwhile: it is not waited for here.
    assert!(!drains.looked(at(20), &[asked(1), asked(2)], true));
    assert!(drains.looked(at(40), &[idle(1), asked(2)], true));
    drains.copying();
    let holding = Report::Holding {
        group: GROUP,
        epoch: epoch(5),
    };
    assert_eq!(reports(&mut drains), [holding]);
    drains.held(at(45), GROUP, Some((at(43), at(44))));
    drains.looked(at(45), &[idle(1), asked(2)], true);
    assert_eq!(reports(&mut drains), []);
    drains.looked(at(49), &[idle(1), idle(2)], true);
    let drained = Report::Drained {
        group: GROUP,
        epoch: epoch(5),
        took: Duration::from_millis(49),
        busy: 0,
        held: 0,
    };
    assert_eq!(reports(&mut drains), [drained]);
}

/// A connection that is used as fast as it answers is busy at every look, with another
/// request: who came meanwhile is not waited for here.
#[test]
fn a_connection_that_is_used_at_once_again_delays_nobody() {
    let mut drains = Drains::default();
    drains.want(at(0), GROUP, draining(5));
    let again = |received, sent| Flight {
        received: Some(received),
        sent: Some(sent),
        received_ago: 10,
        ..idle(1)
    };
    assert!(!drains.looked(at(0), &[again(5, 8)], true));
    // Its answer comes piece by piece; then it asks again.
    assert!(!drains.looked(at(20), &[again(5, 9)], true));
    assert!(!drains.looked(at(40), &[again(5, 11)], true));
    assert!(drains.looked(at(60), &[again(6, 11)], true));
}

/// A download that does not end: others wait for the last stretch alone.
#[test]
fn an_endless_request_costs_the_others_no_second() {
    let mut drains = Drains::default();
    drains.want(at(0), GROUP, draining(5));
    let mut held_since = None;
    for ms in (0..=2_000).step_by(4) {
        if drains.looked(at(ms), &[asked(1)], true) {
            held_since = Some(ms);
            drains.copying();
            drains.held(at(ms), GROUP, Some((at(ms), at(ms))));
        }
    }
    assert_eq!(held_since, Some(1_300));
    let told = reports(&mut drains);
    assert!(
        matches!(
            told[..],
            [Report::Holding { .. }, Report::Drained { busy: 1, .. }]
        ),
        "{told:?}"
    );
}

#[test]
fn what_is_held_goes_to_whoever_announces_the_address() {
    let mut drains = asking(0);
    drains.frame(at(1), 3, &syn(1));
    drains.frame(at(3), 3, &syn(2));
    drains.frame(at(3), 3, &syn(3));
    drains.held(at(4), GROUP, Some((at(2), at(4))));
    // The third was let in while the guard began to drop attempts.
    drains.looked(at(4), &[idle(3)], true);
    drains.frame(at(6), 3, &syn(4));
    drains.frame(at(7), 3, &syn(4));
    drains.outputs();
    drains.want(at(10), GROUP, Wanted::Absent);
    assert_eq!(passed(&mut drains), [], "nobody has announced it");
    drains.frame(
        at(30),
        3,
        &unsolicited_advertisement(NEXT, ip6(), Forwards::No),
    );
    assert_eq!(passed(&mut drains), [], "that was the other address");
    drains.frame(at(31), 3, &gratuitous_request(NEXT, IP));
    assert_eq!(passed(&mut drains), [(2, NEXT), (4, NEXT)]);
    drains.frame(at(500), 3, &syn(9));
    assert_eq!(passed(&mut drains), [(9, NEXT)], "a late one, at once");
    drains.tick(at(31) + PASS_ON_TIME);
    let end = Report::PassedOn {
        group: GROUP,
        attempts: 3,
        dropped: 0,
        took: Duration::from_millis(21),
    };
    assert_eq!(reports(&mut drains), [end]);
    assert!(!drains.copies());
}

#[test]
fn without_a_guard_that_drops_them_attempts_are_our_own_until_we_leave() {
    for late in [false, true] {
        let mut drains = asking(0);
        drains.frame(at(1), 3, &syn(1));
        if late {
            drains.tick(at(0) + GUARD_TIME);
        } else {
            drains.held(at(2), GROUP, None);
        }
        drains.frame(at(302), 3, &syn(2));
        drains.looked(at(304), &[], true);
        assert_eq!(reports(&mut drains).len(), 1, "drained all the same");
        drains.want(at(310), GROUP, Wanted::Absent);
        drains.frame(at(315), 3, &syn(3));
        drains.frame(at(320), 3, &gratuitous_request(NEXT, IP));
        assert_eq!(passed(&mut drains), [(3, NEXT)]);
    }
}

#[test]
fn nobody_announces_and_it_ends_all_the_same() {
    let mut drains = asking(0);
    drains.held(at(1), GROUP, Some((at(0), at(0))));
    drains.frame(at(2), 3, &syn(1));
    drains.looked(at(4), &[], true);
    drains.want(at(5), GROUP, Wanted::Absent);
    drains.outputs();
    drains.tick(at(5) + GIVE_UP);
    let told = reports(&mut drains);
    assert!(
        matches!(
            told[..],
            [Report::PassedOn {
                attempts: 0,
                dropped: 1,
                ..
            }]
        ),
        "{told:?}"
    );
    assert_eq!(drains.next(), None);
}

/// A pool of connections is never all idle at one look: so each is ended when it is.
#[test]
fn idle_connections_are_ended_one_by_one_while_attempts_are_held() {
    let mut drains = Drains::default();
    drains.want(at(0), GROUP, draining(5));
    assert!(drains.looked(at(0), &[idle(1), idle(2)], true));
    assert_eq!(ended(&mut drains), [], "they are served");
    drains.copying();
    drains.held(at(1), GROUP, Some((at(0), at(1))));
    drains.outputs();
    let waits = Flight {
        received: Some(0),
        sent: Some(0),
        ..idle(4)
    };
    let lately = Flight {
        received_ago: 35,
        sent_ago: 30,
        acknowledged_ago: 30,
        ..idle(3)
    };
    drains.looked(at(1), &[idle(2), asked(1), lately, waits], true);
    assert_eq!(ended(&mut drains), [3, 2], "the last used first");
    // What it asked is answered; the others are gone.
    drains.looked(at(5), &[asked(1), waits], true);
    assert_eq!(ended(&mut drains), []);
    drains.looked(at(9), &[idle(1)], true);
    let told = reports(&mut drains);
    assert!(
        matches!(told[..], [Report::Drained { busy: 0, .. }]),
        "{told:?}"
    );
}

#[test]
fn connections_are_ended_a_few_at_a_time_and_never_unguarded() {
    let many: Vec<Flight> = (1..=1_000).map(idle).chain([asked(1_001)]).collect();
    for guarded in [true, false] {
        let mut drains = asking(0);
        drains.held(at(1), GROUP, guarded.then_some((at(0), at(1))));
        drains.looked(at(1), &many, true);
        let expected = if guarded { ENDED_MAX } else { 0 };
        assert_eq!(ended(&mut drains).len(), expected);
    }
}

/// The client spoke last and expects no answer: nothing happens on it while everybody is
/// served, so nobody is held for it.
#[test]
fn a_connection_on_which_nothing_happens_is_not_waited_for() {
    let mut drains = Drains::default();
    drains.want(at(0), GROUP, draining(5));
    let alive = |ms: u64| Flight {
        received: Some(1 + (ms / 500) as u32),
        ..asked(2)
    };
    for ms in (0..1_300).step_by(20) {
        assert!(!drains.looked(at(ms), &[asked(1), alive(ms)], true), "{ms}");
    }
    assert!(drains.looked(at(1_300), &[asked(1), alive(1_300)], true));
    drains.copying();
    drains.held(at(1_301), GROUP, Some((at(1_300), at(1_301))));
    drains.outputs();
    drains.looked(at(1_301), &[asked(1), alive(1_300)], true);
    assert_eq!(reports(&mut drains), [], "the second is waited for");
    let again = Flight {
        received: Some(2),
        ..asked(1)
    };
    drains.looked(at(1_305), &[again], true);
    assert_eq!(reports(&mut drains), [], "the first, once it asks again");
    drains.looked(at(1_309), &[asked(1), idle(2)], true);
    let told = reports(&mut drains);
    assert!(
        matches!(told[..], [Report::Drained { busy: 1, .. }]),
        "cut off, and said so: {told:?}"
    );
}

/// With little time everything was busy throughout: that says nothing.
#[test]
fn a_short_time_to_drain_makes_nothing_stale() {
    let mut drains = Drains::default();
    let mut wanted = draining(5);
    if let Wanted::Draining { drain, .. } = &mut wanted {
        *drain = Duration::from_secs(1);
    }
    drains.want(at(0), GROUP, wanted);
    assert!(!drains.looked(at(0), &[asked(1)], true));
    assert!(drains.looked(at(300), &[asked(1)], true));
    drains.copying();
    drains.held(at(301), GROUP, Some((at(300), at(301))));
    drains.outputs();
    drains.looked(at(301), &[asked(1)], true);
    assert_eq!(reports(&mut drains), []);
}

/// A look that failed, or did not see all, is no reason to cut anybody off.
#[test]
fn what_cannot_be_seen_is_waited_for() {
    let mut drains = Drains::default();
    drains.want(at(0), GROUP, draining(5));
    assert!(!drains.looked(at(0), &[], false));
    assert!(!drains.looked(at(20), &[], false));
    assert!(drains.looked(at(40), &[], true), "nothing was in flight");
    drains.copying();
    drains.held(at(41), GROUP, Some((at(40), at(41))));
    drains.outputs();
    drains.looked(at(41), &[], false);
    drains.looked(at(45), &[idle(1)], false);
    assert_eq!(reports(&mut drains), []);
    drains.looked(at(41) + HOLD_TIME, &[], false);
    let told = reports(&mut drains);
    assert!(
        matches!(told[..], [Report::Drained { busy: 1, .. }]),
        "not for ever: {told:?}"
    );
}

/// The move is called off: who waits is served here, as soon as the guard lets him.
#[test]
fn a_group_that_stays_takes_back_what_was_held() {
    let mut drains = asking(0);
    drains.frame(at(1), 3, &syn(1));
    drains.held(at(4), GROUP, Some((at(2), at(4))));
    drains.frame(at(5), 3, &syn(2));
    drains.want(at(6), GROUP, Wanted::Present);
    drains.frame(at(7), 3, &syn(3));
    assert_eq!(put_back(&mut drains), None, "they would be dropped again");
    drains.freed(at(8), GROUP);
    assert_eq!(put_back(&mut drains), Some(vec![2, 3]));
    assert!(!drains.copies());
    // Asked again, in the same epoch: from the beginning.
    drains.want(at(9), GROUP, draining(5));
    assert_eq!(drains.next(), Some(at(9)));
}

#[test]
fn a_guard_that_does_not_say_when_it_lets_go_is_not_waited_for_long() {
    for early in [true, false] {
        let mut drains = asking(0);
        drains.held(at(4), GROUP, Some((at(2), at(4))));
        drains.frame(at(5), 3, &syn(2));
        if early {
            drains.freed(at(6), GROUP);
        }
        drains.want(at(7), GROUP, Wanted::Present);
        if !early {
            drains.tick(at(7) + GUARD_TIME);
        }
        assert_eq!(put_back(&mut drains), Some(vec![2]));
    }
}

/// Assigned away after all, before the copies were put back.
#[test]
fn a_group_that_leaves_after_all_passes_on_what_it_held() {
    let mut drains = asking(0);
    drains.held(at(1), GROUP, Some((at(0), at(1))));
    drains.frame(at(2), 3, &syn(1));
    drains.want(at(3), GROUP, Wanted::Present);
    drains.want(at(4), GROUP, Wanted::Absent);
    drains.frame(at(5), 3, &gratuitous_request(NEXT, IP));
    assert_eq!(passed(&mut drains), [(1, NEXT)]);
}

/// Over a long way an answer is settled some time after it has arrived, not after it left.
#[test]
fn an_answer_that_was_acknowledged_just_now_is_not_settled() {
    let far = Flight {
        sent_ago: 90,
        acknowledged_ago: 4,
        received_ago: 95,
        ..idle(1)
    };
    assert!(is_busy(&far, false));
}

/// Somebody who claims the address before this node has left gets nobody's connection.
#[test]
fn claims_before_the_group_has_left_do_not_count() {
    let mut drains = asking(0);
    drains.held(at(1), GROUP, Some((at(0), at(0))));
    drains.frame(at(2), 3, &syn(1));
    drains.frame(at(3), 3, &gratuitous_request(NEXT, IP));
    drains.looked(at(4), &[], true);
    drains.outputs();
    drains.want(at(5), GROUP, Wanted::Absent);
    for nobody in [[0; 6], [0xff; 6]] {
        drains.frame(at(6), 3, &gratuitous_request(nobody, IP));
    }
    assert_eq!(passed(&mut drains), []);
    drains.frame(at(7), 3, &gratuitous_request(NEXT, IP));
    assert_eq!(passed(&mut drains), [(1, NEXT)]);
}

/// The guard answers after it was given up: it drops attempts all the same.
#[test]
fn a_late_guard_is_believed() {
    let mut drains = asking(0);
    drains.tick(at(0) + GUARD_TIME);
    drains.held(at(310), GROUP, Some((at(305), at(308))));
    drains.frame(at(309), 3, &syn(1));
    drains.looked(at(312), &[], true);
    drains.outputs();
    drains.want(at(320), GROUP, Wanted::Absent);
    drains.frame(at(330), 3, &gratuitous_request(NEXT, IP));
    assert_eq!(passed(&mut drains), [(1, NEXT)]);
}

#[test]
fn the_number_of_attempts_is_bounded() {
    let mut drains = asking(0);
    drains.held(at(1), GROUP, Some((at(0), at(0))));
    for port in 1..=(HELD_MAX as u16 + 10) {
        drains.frame(at(2), 3, &syn(port));
    }
    drains.looked(at(3), &[], true);
    let told = reports(&mut drains);
    assert!(
        matches!(told[..], [Report::Drained { held: HELD_MAX, .. }]),
        "{told:?}"
    );
    drains.want(at(4), GROUP, Wanted::Absent);
    drains.frame(at(5), 3, &gratuitous_request(NEXT, IP));
    assert_eq!(
        passed(&mut drains).first(),
        Some(&(11, NEXT)),
        "the oldest went"
    );
}
