//! Networks that swallow, refuse or are not there: in namespaces of their own.

mod support;

use std::net::{IpAddr, SocketAddr};

use evenkeel_checks::State;
use support::netns::{self, run};
use support::{Told, page, ping};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A namespace where 192.0.2.1 is ours and swallows everything, 192.0.2.2 is ours and
/// whole, and nothing else is anywhere.
fn build() {
    run("ip link set lo up");
    run("ip address add 192.0.2.1/32 dev lo");
    run("ip address add 192.0.2.2/32 dev lo");
    run("nft add table ip t");
    run("nft add chain ip t in { type filter hook input priority 0 ; }");
    run("nft add rule ip t in ip daddr 192.0.2.1 drop");
}

#[tokio::test]
async fn what_is_swallowed_fails_by_its_deadline() {
    if !netns::inside("what_is_swallowed_fails_by_its_deadline") {
        return;
    }
    build();
    let mut told = Told::start(vec![ping(ip("192.0.2.1"))]);
    let ill = told.wait_for_state(State::Failing).await;
    assert!(
        ill.detail.starts_with("no echo within 200 ms"),
        "{}",
        ill.detail
    );
    // The way back opens: well again.
    run("nft delete table ip t");
    let well = told.wait_for_state(State::Ok).await;
    assert!(well.detail.starts_with("echo in "), "{}", well.detail);

    run("nft add table ip t");
    run("nft add chain ip t in { type filter hook input priority 0 ; }");
    run("nft add rule ip t in ip daddr 192.0.2.1 drop");
    let mut told = Told::start(vec![page(SocketAddr::new(ip("192.0.2.1"), 80))]);
    let ill = told.wait_for_state(State::Failing).await;
    assert!(
        ill.detail.starts_with("no connection within 200 ms"),
        "{}",
        ill.detail
    );
}

#[tokio::test]
async fn a_prober_without_a_network_knows_nothing() {
    if !netns::inside("a_prober_without_a_network_knows_nothing") {
        return;
    }
    build();
    let nowhere = ip("198.51.100.1");
    for probe in [ping(nowhere), page(SocketAddr::new(nowhere, 80))] {
        let mut told = Told::start(vec![probe]);
        let verdict = told
            .wait_for(|verdict| verdict.detail.contains("could not ask: "))
            .await;
        assert_eq!(verdict.state, State::Unknown, "{}", verdict.detail);
        assert!(
            verdict.detail.contains("Network is unreachable"),
            "{}",
            verdict.detail
        );
    }
}

#[tokio::test]
async fn a_refusal_by_the_network_is_a_failure() {
    if !netns::inside("a_refusal_by_the_network_is_a_failure") {
        return;
    }
    build();
    run("nft add rule ip t in ip daddr 192.0.2.2 tcp dport 80 reject with tcp reset");
    let mut probe = page(SocketAddr::new(ip("192.0.2.2"), 80));
    probe.role = evenkeel_checks::Asker::Peer;
    let mut told = Told::start(vec![probe, ping(ip("192.0.2.2"))]);
    let ill = told
        .wait_for(|verdict| verdict.state == State::Failing)
        .await;
    assert_eq!(ill.detail, "connection refused");
    told.wait_for(|verdict| verdict.state == State::Ok && verdict.check.as_str() == "ping")
        .await;
}
