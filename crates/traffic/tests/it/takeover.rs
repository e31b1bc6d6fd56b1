//! A neighbour follows the address from one host to the other.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::net::{DB, Lan, OPEN, PATIENCE, WWW, service, wait_for};
use evenkeel_host::address::{self, Existing, Lifetime, Placement};
use evenkeel_host::netlink::{Connection, Family};
use evenkeel_traffic::{Report, Settings, Want};

fn a_neighbour_follows(address: &str) {
    let Some(lan) = Lan::new(3) else { return };
    let (one, two, client) = (lan.host(1), lan.host(2), lan.host(3));
    let ip = address.split('/').next().expect("an address");
    let mut old = one.mover(&[address]);
    old.mover.want(WWW, OPEN);
    assert_eq!(old.announced(), 1);
    client.learn(ip);
    assert!(
        client.neighbour(ip).contains(&one.mac()),
        "{}",
        client.neighbour(ip)
    );

    // The old holder's guard is not part of this test: its address goes first.
    old.mover.want(WWW, Want::Absent);
    old.gone();
    let mut new = two.mover(&[address]);
    new.mover.want(WWW, Want::Closed);
    assert_eq!(new.placed(), 0);
    assert!(
        client.neighbour(ip).contains(&one.mac()),
        "closed means not announced"
    );
    new.mover.want(WWW, OPEN);
    assert_eq!(new.announced(), 1);
    wait_for("the neighbour knows the new holder", || {
        client.neighbour(ip).contains(&two.mac())
    });
    client.learn(ip);
}

#[test]
fn a_neighbour_follows_an_ipv4_address() {
    a_neighbour_follows("192.0.2.100/24");
}

#[test]
fn a_neighbour_follows_an_ipv6_address() {
    a_neighbour_follows("2001:db8::100/64");
}

/// The address is configured alone, tagged, deprecated if IPv6, and expires by itself;
/// no other route than the local one comes with it.
#[test]
fn an_address_is_configured_as_promised() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let before = one.ip("route show");
    let mut mover = one.mover(&["192.0.2.100/24", "2001:db8::100/64@eth0"]);
    mover.mover.want(WWW, Want::Closed);
    mover.placed();
    let ipv4 = one.ip("-d -4 -o address show dev eth0 to 192.0.2.100");
    let ipv6 = one.ip("-d -6 -o address show dev eth0 to 2001:db8::100");
    for (text, prefix) in [(&ipv4, "192.0.2.100/32"), (&ipv6, "2001:db8::100/128")] {
        assert!(
            text.contains(prefix) && text.contains("noprefixroute"),
            "{text}"
        );
        assert!(
            !text.contains("tentative") && !text.contains("forever"),
            "{text}"
        );
        assert!(!text.contains("secondary"), "{text}");
    }
    assert!(
        ipv6.contains("deprecated") && ipv6.contains("nodad"),
        "{ipv6}"
    );
    assert_eq!(one.ip("route show"), before);
    let ours: Vec<_> = one
        .addresses()
        .into_iter()
        .filter(|address| address.owner == evenkeel_host::address::Owner::Evenkeel)
        .collect();
    assert_eq!(ours.len(), 2);
}

/// Without `promote_secondaries`, the primary address of a subnet takes the others along
/// when it is deleted.
#[test]
fn an_address_outlives_the_systems_own_in_its_subnet() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    one.inside(|| {
        for device in ["all", "eth0"] {
            let path = format!("/proc/sys/net/ipv4/conf/{device}/promote_secondaries");
            std::fs::write(path, "0").expect("root");
        }
    });
    let mut mover = one.mover(&["192.0.2.100/24", "192.0.2.101/24"]);
    mover.mover.want(WWW, Want::Closed);
    mover.placed();
    one.ip("address add 192.0.2.9/24 dev eth0");
    one.ip("address delete 192.0.2.1/24 dev eth0");
    assert!(
        !one.has("192.0.2.1") && !one.has("192.0.2.9"),
        "the hazard is real"
    );
    assert!(one.has("192.0.2.100") && one.has("192.0.2.101"));
    mover.mover.want(WWW, Want::Absent);
    mover.gone();
    assert!(!one.has("192.0.2.100") && !one.has("192.0.2.101"));
    let status = mover.mover.status()[&WWW];
    assert_eq!(
        (status.repairs, status.placed),
        (0, 0),
        "nothing had to be put right"
    );
}

/// Enough that their deletion in turns takes longer than a test waits between two words.
const MANY: u16 = 8_000;

/// A node that loses a large group gains a small one in the same moment: the mover hears of it,
/// and places it, before the large one is gone.
#[test]
fn a_group_that_arrives_does_not_wait_for_one_that_leaves() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let address = |at: u16| service(&format!("10.0.{}.{}/16@eth0", at / 250, at % 250 + 1));
    let mut both = one
        .start(Settings::new(vec![
            (WWW, vec![service("192.0.2.100/24")]),
            (DB, (0..MANY).map(address).collect()),
        ]))
        .expect("it starts");
    both.mover.want(DB, Want::Closed);
    both.placed();
    both.mover.want(DB, Want::Absent);
    // From here on it is about the addresses.
    both.report(|report| matches!(report, Report::Reset { .. }).then_some(()));
    both.mover.want(WWW, OPEN);
    let mut order = Vec::new();
    both.report(|report| {
        match report {
            Report::Placed { group, .. } => order.push(("placed", *group)),
            Report::Gone { group, .. } => order.push(("gone", *group)),
            _ => {}
        }
        (order.len() == 2).then_some(())
    });
    assert_eq!(order, [("placed", WWW), ("gone", DB)]);
    wait_for("the status says so", || {
        both.mover.status()[&DB].placed == 0
    });
    assert!(one.has("192.0.2.100") && !one.has("10.0.0.1"));
}

/// Addresses configured and deleted one after the other in [`an_ipv6_address_is_taken_at_once`]:
/// with the kernel's own route alone, several of so many are late.
const ADDRESSES: u16 = 60;

/// What comes for an IPv6 address is this machine's own as soon as it is configured, though
/// the kernel makes its local route later; and no more once it is deleted.
#[test]
fn an_ipv6_address_is_taken_at_once() {
    let Some(lan) = Lan::new(1) else { return };
    let host = lan.host(1);
    host.ip("link set lo up");
    host.inside(|| {
        let mut route = Connection::open(Family::Route).expect("a socket");
        let links = address::links(&mut route).expect("listed");
        let eth0 = links.iter().find(|link| link.name == "eth0");
        let device = eth0.expect("it is plugged in").index;
        let server = UdpSocket::bind("[::]:0").expect("a socket");
        let port = server.local_addr().expect("bound").port();
        let client = UdpSocket::bind("[::]:0").expect("a socket");
        let arrives = |ip: IpAddr, patience: Duration| {
            server.set_read_timeout(Some(patience)).expect("a socket");
            let sent = client.send_to(b"?", SocketAddr::new(ip, port));
            sent.is_ok() && server.recv_from(&mut [0; 8]).is_ok()
        };
        for last in 0..ADDRESSES {
            let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, last).into();
            let places = [Placement { device, ip }];
            let life = Lifetime::at_least(PATIENCE);
            let added = address::add(&mut route, &places, life, Existing::Refuse);
            assert!(added.expect("the kernel answers")[0].is_ok());
            assert!(arrives(ip, PATIENCE), "{ip} was dropped");
            // The restored route, too, goes with the address.
            let restored = address::restore_local_routes(&mut route, &places);
            assert!(restored.expect("the kernel answers")[0].is_ok());
            let deleted = address::delete(&mut route, &places);
            assert!(deleted.expect("the kernel answers")[0].is_ok());
            assert!(!arrives(ip, Duration::from_millis(1)), "{ip} is gone");
        }
    });
}

/// With a stopgap alone this machine answers for an address and takes what comes for it, sends
/// nothing from it of its own accord, and loses nothing when the stopgap goes.
#[test]
fn a_stopgap_stands_in_for_an_ipv4_address() {
    let Some(lan) = Lan::new(2) else { return };
    let (host, client) = (lan.host(1), lan.host(2));
    let text = "192.0.2.100";
    let (routes, source) = (host.ip("route show"), host.ip("route get 192.0.2.2"));
    let on_host = |change: fn(&mut Connection, &[Placement])| {
        host.inside(move || {
            let mut route = Connection::open(Family::Route).expect("a socket");
            let links = address::links(&mut route).expect("listed");
            let eth0 = links.iter().find(|link| link.name == "eth0");
            let device = eth0.expect("it is plugged in").index;
            let ip = text.parse().expect("an address");
            change(&mut route, &[Placement { device, ip }]);
        });
    };
    let ask = || {
        client.ip("neighbour flush dev eth0");
        client.learn(text);
    };
    on_host(|route, places| {
        address::add_stopgaps(route, places).expect("the kernel answers");
        address::add_stopgaps(route, places).expect("a second time does no harm");
        assert_eq!(address::stopgaps(route).expect("listed"), places);
    });
    ask();
    assert!(!host.has(text));
    assert_eq!(host.ip("route show"), routes);
    assert_eq!(host.ip("route get 192.0.2.2"), source);
    on_host(|route, places| {
        let life = Lifetime::at_least(PATIENCE);
        let added = address::add(route, places, life, Existing::Refuse);
        assert!(added.expect("the kernel answers")[0].is_ok());
        let deleted = address::delete_stopgaps(route, places);
        assert!(deleted.expect("the kernel answers")[0].is_ok());
        let deleted = address::delete_stopgaps(route, places).expect("the kernel answers");
        let error = deleted[0].as_ref().expect_err("it is gone");
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::SRCH.raw_os_error())
        );
        assert!(address::stopgaps(route).expect("listed").is_empty());
    });
    ask();
    on_host(|route, places| {
        let deleted = address::delete(route, places);
        assert!(deleted.expect("the kernel answers")[0].is_ok());
    });
    let left = host.ip("route show table local");
    assert!(!left.contains(text), "{left}");
}

/// Of many addresses all answer before the first is placed.
#[test]
fn many_ipv4_addresses_answer_before_they_are_placed() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let addresses = (0..200).map(|at| service(&format!("198.18.0.{at}/16@eth0")));
    let groups = vec![(WWW, addresses.collect())];
    let mut watched = one.inside(|| address::Changes::open().expect("a socket"));
    let mut mover = one
        .start(evenkeel_traffic::Settings::new(groups))
        .expect("it starts");
    mover.mover.want(WWW, OPEN);
    assert_eq!(mover.announced(), 200);
    wait_for("the stopgaps go", || one.stopgaps().is_empty());
    let mut order = String::new();
    let note = |change| match change {
        address::Change::Stopgap(_) => order.push('+'),
        address::Change::Address(_) => order.push('a'),
        address::Change::StopgapGone(_) => order.push('-'),
        _ => {}
    };
    watched.hear(note).expect("heard");
    let expected = ["+".repeat(200), "a".repeat(200), "-".repeat(200)];
    assert_eq!(order, expected.concat());
}
