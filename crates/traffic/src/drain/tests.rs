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
        Output::PassOn { .. } => None,
    };
    drains.outputs().into_iter().filter_map(told).collect()
}

/// The ports of the clients that are passed on, and to whom.
fn passed(drains: &mut Drains) -> Vec<(u16, Mac)> {
    let port = |frame: &[u8]| u16::from_be_bytes([frame[34], frame[35]]);
    let sent = |output| match output {
        Output::PassOn { frame, to, .. } => Some((port(&frame), to)),
        Output::Report(_) => None,
    };
    drains.outputs().into_iter().filter_map(sent).collect()
}

/// A group whose attempts are copied since `at(ms)`, with nothing in flight.
fn asking(ms: u64) -> Drains {
    let mut drains = Drains::default();
    drains.want(at(ms), GROUP, draining(5));
    assert!(drains.looked(at(ms), &[]), "nothing was in flight");
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
    assert!(!drains.looked(at(0), &[asked(1)]));
    assert!(!drains.copies(), "everybody is served");
    // Another came meanwhile: it is not waited for here.
    assert!(!drains.looked(at(20), &[asked(1), asked(2)]));
    assert!(drains.looked(at(40), &[idle(1), asked(2)]));
    drains.copying();
    let holding = Report::Holding {
        group: GROUP,
        epoch: epoch(5),
    };
    assert_eq!(reports(&mut drains), [holding]);
    drains.held(at(45), GROUP, Some((at(43), at(44))));
    drains.looked(at(45), &[idle(1), asked(2)]);
    assert_eq!(reports(&mut drains), []);
    drains.looked(at(49), &[idle(1), idle(2)]);
    let drained = Report::Drained {
        group: GROUP,
        epoch: epoch(5),
        took: Duration::from_millis(49),
        busy: 0,
        held: 0,
    };
    assert_eq!(reports(&mut drains), [drained]);
}

/// A download that does not end: others wait for the last stretch alone.
#[test]
fn an_endless_request_costs_the_others_no_second() {
    let mut drains = Drains::default();
    drains.want(at(0), GROUP, draining(5));
    let mut held_since = None;
    for ms in (0..=2_000).step_by(4) {
        if drains.looked(at(ms), &[asked(1)]) {
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
    drains.looked(at(4), &[idle(3)]);
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
        drains.looked(at(304), &[]);
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
    drains.looked(at(4), &[]);
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

#[test]
fn a_group_that_stays_holds_nothing_any_more() {
    let mut drains = asking(0);
    drains.want(at(5), GROUP, Wanted::Present);
    assert!(!drains.copies());
    assert!(matches!(
        reports(&mut drains)[..],
        [Report::PassedOn { attempts: 0, .. }]
    ));
    // Asked again, in the same epoch: from the beginning.
    drains.want(at(9), GROUP, draining(5));
    assert_eq!(drains.next(), Some(at(9)));
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
    drains.looked(at(4), &[]);
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
    drains.looked(at(312), &[]);
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
    drains.looked(at(3), &[]);
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
