//! ICMP echo with and without the right to ping sockets, and into the void.

mod netns;

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use evenkeel_host::ping::{Family, Kind, PingError, Pinger};
use netns::run;

const WITHIN: Duration = Duration::from_secs(5);
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[tokio::test]
async fn a_raw_socket_is_taken_where_ping_sockets_are_forbidden() {
    if !netns::inside("a_raw_socket_is_taken_where_ping_sockets_are_forbidden") {
        return;
    }
    run("ip link set lo up");
    for (groups, kind) in [("1 0", Kind::Raw), ("0 0", Kind::Datagram)] {
        fs::write(PING_GROUPS, groups).expect("our own namespace");
        for (family, target) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")] {
            let pinger = Pinger::open(family, None).expect("one of the two");
            assert_eq!(pinger.kind(), kind, "{family:?}");
            let reply = pinger
                .ask(ip(target), WITHIN)
                .await
                .expect("loopback replies");
            assert!(reply.took < WITHIN);
        }
    }
}

#[tokio::test]
async fn silence_and_unreachable_networks_are_told_apart() {
    if !netns::inside("silence_and_unreachable_networks_are_told_apart") {
        return;
    }
    run("ip link set lo up");
    run("ip address add 192.0.2.1/32 dev lo");
    run("nft add table ip t");
    run("nft add chain ip t in { type filter hook input priority 0 ; }");
    run("nft add rule ip t in ip daddr 192.0.2.1 drop");
    let pinger = Pinger::open(Family::V4, None).expect("root may ping");

    let silent = pinger.ask(ip("192.0.2.1"), Duration::from_millis(50)).await;
    assert!(
        matches!(silent, Err(PingError::Silent { .. })),
        "{silent:?}"
    );
    assert_eq!(
        silent.expect_err("silent").to_string(),
        "ping 192.0.2.1: no reply within 50 ms"
    );
    let unreachable = pinger.ask(ip("198.51.100.1"), WITHIN).await;
    assert!(
        matches!(unreachable, Err(PingError::Send { .. })),
        "{unreachable:?}"
    );
}
