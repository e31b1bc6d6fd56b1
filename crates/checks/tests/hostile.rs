//! Servers that do everything wrong: each is judged, in time, with a reason to read.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use evenkeel_checks::{Asker, BODY_LENGTH_MAX, Probe, State};
use evenkeel_core::{CheckName, GroupId, NodeId, ServiceName};
use support::server::{Server, hold, read_request};
use support::{ME, SOON, Told, page, page_with, quick, verdict_on};
use tokio::io::AsyncWriteExt;

/// What is not about the deadline gets plenty of time.
async fn check(server: Server, state: State, detail: &str) {
    let timeout = if detail.contains("within") {
        page(server.at).timeout
    } else {
        SOON
    };
    let probe = Probe {
        timeout,
        ..page(server.at)
    };
    support::check(probe, state, detail).await;
}

#[tokio::test]
async fn half_answers_and_lies_are_failures() {
    let cut = "connection closed before the answer was whole";
    check(
        Server::start(|stream| async { drop(stream) }).await,
        State::Failing,
        "",
    )
    .await;
    check(Server::saying("").await, State::Failing, cut).await;
    check(
        Server::saying("HTTP/1.1 200 OK\r\nContent-Le").await,
        State::Failing,
        cut,
    )
    .await;
    let lie = Server::saying("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort").await;
    check(lie, State::Failing, "HTTP 200, but ").await;
    let lie = Server::saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel").await;
    check(lie, State::Failing, "HTTP 200, but ").await;
    let lie = Server::saying("HTTP/1.1 200 OK\r\nContent-Length: lots\r\n\r\n").await;
    check(lie, State::Failing, "the answer is not HTTP: ").await;
    let more = Server::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nwell and more").await;
    check(more, State::Ok, "HTTP 200 in ").await;
    let old = Server::saying("HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    check(old, State::Ok, "HTTP 200 in ").await;
}

#[tokio::test]
async fn what_is_not_http_is_a_failure() {
    check(
        Server::saying("220 mail ready\r\n").await,
        State::Failing,
        "the answer is not HTTP: ",
    )
    .await;
    check(
        Server::saying("\0\u{1b}[2J\u{7f}").await,
        State::Failing,
        "",
    )
    .await;
    let endless = Server::saying_for_ever("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n").await;
    check(endless, State::Failing, "the answer is not HTTP: ").await;
    let long = Server::saying_for_ever("HTTP/1.1 200 OK\r\nX-Long: ", "longer and longer").await;
    check(long, State::Failing, "the answer is not HTTP: ").await;
    // Interim answers without end are legal, and never an answer.
    let never = Server::saying_for_ever("", "HTTP/1.1 100 Continue\r\n\r\n").await;
    check(never, State::Failing, "no answer within 200 ms").await;
}

#[tokio::test]
async fn slow_and_endless_bodies_are_bounded() {
    let slow = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    check(
        slow,
        State::Failing,
        "HTTP 200, but no whole body within 200 ms (connect ",
    )
    .await;
    let film = || Server::saying_for_ever("HTTP/1.1 200 OK\r\n\r\n", "frame after frame");
    check(film().await, State::Ok, "HTTP 200 in ").await;
    let film = film().await;
    let probe = page_with(film.at, |http| http.body = Some("the end".to_owned()));
    let verdict = verdict_on(Probe {
        timeout: SOON,
        ..probe
    })
    .await;
    let expected = format!("HTTP 200 without \"the end\" in {BODY_LENGTH_MAX} bytes, ");
    assert!(verdict.detail.starts_with(&expected), "{}", verdict.detail);
}

#[tokio::test]
async fn a_text_is_found_across_the_pieces_of_a_body() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for piece in [
            head,
            "4\r\nall ",
            "\r\n6\r\nhands ",
            "\r\n4\r\nwell\r\n0\r\n\r\n",
        ] {
            let _ = stream.write_all(piece.as_bytes()).await;
            let _ = stream.flush().await;
        }
    })
    .await;
    let probe = page_with(server.at, |http| http.body = Some("hands well".to_owned()));
    let verdict = verdict_on(Probe {
        timeout: SOON,
        ..probe
    })
    .await;
    assert_eq!(verdict.state, State::Ok, "{}", verdict.detail);
}

#[tokio::test]
async fn an_answer_in_small_pieces_is_acknowledged_at_once() {
    // Each piece waits for the acknowledgement of the one before (Nagle), and a kernel that thinks
    // that we talk much keeps those back for 40 ms.
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        for piece in [
            "HTTP/1.1 200 OK\r\n",
            "Content-Length: 4\r\n\r\n",
            "we",
            "ll",
        ] {
            let _ = stream.write_all(piece.as_bytes()).await;
        }
        hold(stream).await;
    })
    .await;
    for interval in [50, 1000].map(Duration::from_millis) {
        let mut told = Told::start(vec![Probe {
            interval,
            timeout: SOON,
            ..page(server.at)
        }]);
        told.wait_for(|verdict| {
            verdict.state == State::Ok && verdict.phases.total() < Duration::from_millis(30)
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_without_tls_fails_a_question_with_it() {
    let server = Server::saying("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let probe = page_with(server.at, |http| {
        let trust = evenkeel_checks::Trust::Anybody;
        http.tls = Some(evenkeel_checks::TlsExpect {
            trust,
            name: "localhost".to_owned(),
        });
    });
    let verdict = verdict_on(Probe {
        timeout: SOON,
        ..probe
    })
    .await;
    assert_eq!(verdict.state, State::Failing);
    assert!(verdict.detail.starts_with("TLS "), "{}", verdict.detail);
    let silent = Server::start(hold).await;
    let probe = page_with(silent.at, |http| {
        let trust = evenkeel_checks::Trust::Anybody;
        http.tls = Some(evenkeel_checks::TlsExpect {
            trust,
            name: "localhost".to_owned(),
        });
    });
    let verdict = verdict_on(probe).await;
    assert!(
        verdict.detail.starts_with("no TLS handshake within 200 ms"),
        "{}",
        verdict.detail
    );
}

#[tokio::test]
async fn a_refusal_fails_at_once_only_where_the_kernel_can_be_asked() {
    let closed = SocketAddr::from(([127, 0, 0, 1], support::apache::free_port()));
    let mut probe = page(closed);
    (probe.fall, probe.interval) = (1000, Duration::from_secs(3600));
    let mut told = Told::start(vec![probe]);
    let verdict = told.wait_for_state(State::Failing).await;
    assert_eq!(
        verdict.detail,
        format!("connection refused, nobody listens on {closed}")
    );

    let mut probe = page(closed);
    (probe.fall, probe.role) = (3, Asker::Peer);
    let mut told = Told::start(vec![probe]);
    let unknown = told
        .wait_for(|verdict| verdict.detail.contains("connection refused"))
        .await;
    assert_eq!(unknown.state, State::Failing);
    assert_eq!(unknown.detail, "connection refused");
}

#[tokio::test]
async fn a_prober_that_was_stalled_says_unknown() {
    let server = Server::start(hold).await;
    let mut probe = quick(page(server.at));
    probe.timeout = Duration::from_millis(300);
    let mut told = Told::start(vec![probe]);
    while server.accepted.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    // The runtime of this test has one thread: nobody runs meanwhile.
    std::thread::sleep(Duration::from_millis(600));
    let verdict = told
        .wait_for(|verdict| verdict.detail.contains("ms late"))
        .await;
    assert_eq!(verdict.state, State::Unknown);
    // Questions that it asks afterwards count again.
    told.wait_for_state(State::Failing).await;
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell";

#[tokio::test]
async fn probes_are_replaced_as_a_set_and_unchanged_ones_go_on() {
    let (one, two) = (Server::saying(GOOD).await, Server::saying(GOOD).await);
    let named = |probe: Probe, name: &str| Probe {
        check: CheckName::new(name).expect("a name"),
        ..probe
    };
    let patient = |probe: Probe| Probe {
        timeout: SOON,
        ..probe
    };
    let first = named(patient(page(one.at)), "one");
    let second = named(patient(page(two.at)), "two");
    let mut told = Told::start(vec![first.clone()]);
    told.wait_for_state(State::Ok).await;

    told.prober.set_probes(vec![first.clone(), second.clone()]);
    let seen = told.wait_for(|verdict| verdict.check == first.check || verdict.state == State::Ok);
    let seen = seen.await;
    assert_eq!(
        seen.state,
        State::Ok,
        "an unchanged probe starts anew: {seen:?}"
    );
    told.wait_for(|verdict| verdict.check == second.check && verdict.state == State::Ok)
        .await;

    told.prober.set_probes(vec![Probe {
        rests: true,
        ..second.clone()
    }]);
    let idle = told.wait_for(|verdict| verdict.check == second.check).await;
    assert_eq!(idle.state, State::Idle);
    let asked = (
        one.accepted.load(Ordering::Relaxed),
        two.accepted.load(Ordering::Relaxed),
    );
    told.stays(Duration::from_millis(300), |verdict| {
        verdict.check == second.check && verdict.state == State::Idle
    })
    .await;
    let now = (
        one.accepted.load(Ordering::Relaxed),
        two.accepted.load(Ordering::Relaxed),
    );
    // A question may have been under way.
    assert!(
        now.0 <= asked.0 + 1 && now.1 <= asked.1 + 1,
        "{asked:?} {now:?}"
    );

    told.prober.set_probes(vec![second.clone()]);
    told.wait_for(|verdict| verdict.check == second.check && verdict.state == State::Ok)
        .await;
}

#[tokio::test]
async fn what_rests_is_asked_only_where_its_group_is_open() {
    let server = Server::saying(GOOD).await;
    let resting = Probe {
        rests: true,
        timeout: SOON,
        // Only the opening can make it ask in time.
        interval: Duration::from_secs(3600),
        ..page(server.at)
    };
    let group = resting.group;
    let mut told = Told::start(vec![resting]);
    let idle = told.wait_for(|_| true).await;
    assert_eq!(idle.state, State::Idle);
    told.prober.serving(group, Some(NodeId(77)));
    told.prober.serving(GroupId(77), Some(ME));
    told.stays(Duration::from_millis(100), |_| false).await;
    assert_eq!(server.accepted.load(Ordering::Relaxed), 0);

    told.prober.serving(group, Some(ME));
    let first = told.wait_for(|verdict| verdict.state != State::Unknown);
    assert_eq!(first.await.state, State::Ok);
    told.prober.serving(group, None);
    let idle = told.wait_for(|verdict| verdict.state != State::Ok).await;
    assert_eq!(idle.state, State::Idle);
}

#[tokio::test]
async fn what_was_started_again_needs_one_good_answer() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = free.local_addr().expect("bound");
    drop(free);
    let apache = ServiceName::new("apache").expect("a name");
    let probe = Probe {
        service: Some(apache.clone()),
        interval: Duration::from_millis(10),
        // More than the test could wait for.
        rise: 1_000_000,
        ..page(at)
    };
    let group = probe.group;
    let mut told = Told::start(vec![probe]);
    told.wait_for_state(State::Failing).await;
    let server = Server::saying_at(at, GOOD).await;
    let other = ServiceName::new("mysql").expect("a name");
    told.prober.renew(group, ME, &other);
    told.prober.renew(group, NodeId(77), &apache);
    told.stays(Duration::from_millis(100), |verdict| {
        verdict.state == State::Failing
    })
    .await;
    told.prober.renew(group, ME, &apache);
    told.wait_for_state(State::Ok).await;
    drop(server);
}

#[tokio::test]
async fn what_has_just_been_started_may_take_a_few_questions() {
    // Nobody listens there (yet): a refusal that is not waited for otherwise.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = free.local_addr().expect("bound");
    drop(free);
    let resting = Probe {
        rests: true,
        interval: Duration::from_millis(10),
        fall: 4,
        ..page(at)
    };
    let mut told = Told::start(vec![resting.clone()]);
    told.prober.serving(resting.group, Some(ME));
    let failing = told.wait_for_state(State::Failing).await;
    assert!(failing.detail.contains("connection refused"), "{failing:?}");
    let mut machine = Told::start(vec![Probe {
        rests: false,
        interval: Duration::from_secs(3600),
        ..resting.clone()
    }]);
    machine.wait_for_state(State::Failing).await;
    // The same, had it to wait for `fall` answers, would not be told at all.
    let seldom = Probe {
        interval: Duration::from_secs(3600),
        ..resting.clone()
    };
    let mut told = Told::start(vec![seldom]);
    told.prober.serving(resting.group, Some(ME));
    told.stays(Duration::from_millis(200), |verdict| {
        verdict.state != State::Failing
    })
    .await;
}

#[tokio::test]
async fn hundreds_of_hung_checks_do_not_disturb_one_that_is_well() {
    let (well, hung) = (Server::saying(GOOD).await, Server::start(hold).await);
    let mut probes: Vec<Probe> = (0..200)
        .map(|number| Probe {
            judged: NodeId(1000 + number),
            ..page(hung.at)
        })
        .map(|probe| Probe {
            watch_listener: false,
            interval: Duration::from_millis(200),
            ..probe
        })
        .collect();
    probes.push(Probe {
        timeout: SOON,
        ..page(well.at)
    });
    let mut told = Told::start(probes);
    let mut failing = std::collections::BTreeSet::new();
    let (mut good, mut worst) = (0, None);
    let watch = async {
        while failing.len() < 200 || good < 5 {
            let verdict = told.verdicts.recv().await.expect("the prober lives");
            match (verdict.judged == support::ME, verdict.state) {
                (true, State::Ok) => good += 1,
                (true, State::Unknown) if good == 0 => {}
                (true, _) => worst = Some(verdict),
                (false, State::Failing) => _ = failing.insert(verdict.judged),
                (false, _) => {}
            }
        }
    };
    tokio::time::timeout(SOON, watch)
        .await
        .expect("all are judged");
    assert_eq!(worst, None);
}
