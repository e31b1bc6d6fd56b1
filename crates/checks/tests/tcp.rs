//! `tcp` checks: a real Apache that is asked by hand, and servers that do everything wrong.

mod support;

use std::time::Duration;

use evenkeel_checks::{ANSWER_LENGTH_MAX, Asker, Probe, State};
use support::apache::{self, Apache, Mpm};
use support::server::{Server, hold, read_request};
use support::{SOON, Told, check, line, verdict_on};
use tokio::io::AsyncWriteExt;

const HEAD: &str = "HEAD / HTTP/1.0\r\n\r\n";

/// What is not about the deadline gets plenty of time.
fn patient(probe: Probe) -> Probe {
    Probe {
        timeout: SOON,
        ..probe
    }
}

#[tokio::test]
async fn a_real_server_is_asked_and_its_death_seen_without_a_question() {
    if !apache::is_here("a_real_server_is_asked_and_its_death_seen_without_a_question") {
        return;
    }
    let apache = Apache::start(Mpm::Event);
    let asks = |send, expect| patient(line(apache.at, send, expect));
    check(asks(None, None), State::Ok, "connected in ").await;
    check(asks(Some(HEAD), Some("200 OK")), State::Ok, "answers in ").await;
    check(
        asks(Some(HEAD), Some("500 ")),
        State::Failing,
        "no \"500 \" in \"HTTP/1.1 200 OK",
    )
    .await;
    // Asked once in an hour, and yet.
    let seldom = Probe {
        interval: Duration::from_secs(3600),
        rise: 1,
        ..asks(None, None)
    };
    let mut told = Told::start(vec![seldom]);
    told.wait_for_state(State::Ok).await;
    let at = apache.at;
    drop(apache);
    let dead = told.wait_for_state(State::Failing).await;
    let nobody = format!("nobody listens on {at}");
    assert!(dead.detail.contains(&nobody), "{}", dead.detail);
}

#[tokio::test]
async fn a_greeting_is_waited_for_and_found_across_pieces() {
    let server = Server::start(|mut stream| async move {
        for piece in ["22", "0 mail ", "ready\r\n"] {
            tokio::task::yield_now().await;
            let _ = stream.write_all(piece.as_bytes()).await;
            let _ = stream.flush().await;
        }
        hold(stream).await;
    })
    .await;
    for expect in ["220 ", "mail ready\r\n"] {
        let probe = patient(line(server.at, None, Some(expect)));
        check(probe, State::Ok, "answers in ").await;
    }
}

#[tokio::test]
async fn what_is_missing_is_told_with_what_came_instead() {
    for (said, detail) in [
        ("", "no \"+PONG\", and no answer: connection closed"),
        (
            "-LOADING\r\n",
            "no \"+PONG\" in \"-LOADING\\r\\n\": connection closed",
        ),
    ] {
        let server = Server::start(move |mut stream| async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(said.as_bytes()).await;
        })
        .await;
        let probe = patient(line(server.at, Some("PING\r\n"), Some("+PONG")));
        check(probe, State::Failing, detail).await;
    }
}

#[tokio::test]
async fn silence_and_endless_answers_are_bounded() {
    let mute = Server::start(hold).await;
    check(line(mute.at, None, None), State::Ok, "connected in ").await;
    let probe = line(mute.at, None, Some("220 "));
    check(probe, State::Failing, "no answer within 200 ms").await;
    // It speaks, but never says it.
    let slow = Server::start(|mut stream| async move {
        let _ = stream.write_all(b"421 later\r\n").await;
        hold(stream).await;
    })
    .await;
    let probe = line(slow.at, None, Some("220 "));
    let detail = "no \"220 \" in \"421 later\\r\\n\" within 200 ms";
    check(probe, State::Failing, detail).await;
    let flood = Server::saying_for_ever("", "all work and no play ").await;
    let verdict = verdict_on(patient(line(flood.at, Some("x"), Some("220 ")))).await;
    assert_eq!(verdict.state, State::Failing);
    assert!(verdict.detail.starts_with("no \"220 \" in \"all work"));
    assert!(
        verdict.detail.contains("nothing else in"),
        "{} of {ANSWER_LENGTH_MAX}",
        verdict.detail
    );
    drop(flood);
}

#[tokio::test]
async fn a_refusal_is_a_failure_for_a_peer_as_well() {
    let server = Server::start(hold).await;
    let at = server.at;
    drop(server);
    let peer = Probe {
        role: Asker::Peer,
        watch_listener: false,
        ..patient(line(at, None, None))
    };
    check(peer, State::Failing, "connection refused").await;
}
