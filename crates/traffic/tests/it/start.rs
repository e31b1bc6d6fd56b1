//! What a mover finds when it starts, and what it refuses.

use std::time::Duration;

use evenkeel_host::address::Lifetime;
use evenkeel_traffic::{Settings, TrafficError, Want};

use crate::net::{Lan, OPEN, WWW, service, wait_for};

#[test]
fn an_address_of_the_system_is_refused_and_nothing_changes() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    one.ip("address add 192.0.2.101/24 dev eth0");
    let before = one.addresses();
    let Err(error) = one.try_mover(&["192.0.2.100/24", "192.0.2.101/24"]) else {
        panic!("it started")
    };
    assert!(matches!(error, TrafficError::Foreign { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("ip address delete 192.0.2.101/24 dev eth0"),
        "{text}"
    );
    assert_eq!(one.addresses(), before);
    for (address, part) in [
        (
            "198.51.100.1/24",
            "no interface of this machine has an address in 198.51.100.0/24",
        ),
        ("192.0.2.100/24@eth7", "no interface eth7"),
    ] {
        let Err(error) = one.try_mover(&[address]) else {
            panic!("{address}: it started")
        };
        assert!(error.to_string().contains(part), "{address}: {error}");
    }
}

/// A worker dies and its successor goes on; nobody on the network notices.
#[test]
fn addresses_of_an_earlier_life_are_adopted_if_wanted() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let addresses = ["192.0.2.100/24", "2001:db8::100/64"];
    let mut first = one.mover(&addresses);
    first.mover.want(WWW, OPEN);
    first.announced();
    drop(first);
    assert!(
        one.has("192.0.2.100") && one.has("2001:db8::100"),
        "left for the next life"
    );
    let mut second = one.mover(&addresses);
    second.mover.want(WWW, OPEN);
    assert_eq!(second.placed(), 2);
}

#[test]
fn addresses_of_an_earlier_life_go_if_not_wanted() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let addresses = ["192.0.2.100/24", "2001:db8::100/64"];
    let mut first = one.mover(&addresses);
    first.mover.want(WWW, OPEN);
    first.announced();
    drop(first);
    let mut second = one.mover(&addresses);
    second.mover.want(WWW, Want::Absent);
    second.gone();
    assert!(!one.has("192.0.2.100") && !one.has("2001:db8::100"));
}

/// The belt: where nobody is left to refresh them, the kernel removes addresses. And
/// while somebody is, they stay.
#[test]
fn addresses_expire_only_when_nobody_refreshes_them() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let groups = vec![(
        WWW,
        vec![service("192.0.2.100/24"), service("2001:db8::100/64")],
    )];
    let settings = Settings {
        belt: Some(Duration::from_secs(2)),
        ..Settings::new(groups)
    };
    let mut mover = one.start(settings).expect("it starts");
    mover.mover.want(WWW, Want::Closed);
    mover.placed();
    let lifetimes = || {
        let addresses = one.addresses().into_iter();
        let ours = addresses.filter(|address| address.lifetime != Lifetime::Endless);
        ours.count()
    };
    let end = std::time::Instant::now() + Duration::from_secs(4);
    wait_for("two lifetimes have passed", || {
        assert_eq!(lifetimes(), 2, "refreshed in time");
        std::time::Instant::now() > end
    });
    assert_eq!(
        mover.mover.status()[&WWW].repairs,
        0,
        "they were never gone"
    );
    drop(mover);
    wait_for("they expire", || lifetimes() == 0);
}

#[test]
fn the_addresses_of_a_group_can_change_while_it_is_held() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let mut mover = one.mover(&["192.0.2.100/24", "192.0.2.101/24"]);
    mover.mover.want(WWW, OPEN);
    mover.announced();
    let handle = mover.mover;
    let handle = one.inside(move || {
        let wanted = [service("192.0.2.101/24"), service("192.0.2.102/24")];
        handle.assign(WWW, &wanted).expect("they have a place");
        let refused = handle.assign(WWW, &[service("192.0.2.1/24")]);
        assert!(matches!(refused, Err(TrafficError::Foreign { .. })));
        handle
    });
    wait_for("the new one is there and the old one is gone", || {
        one.has("192.0.2.102") && !one.has("192.0.2.100")
    });
    assert!(one.has("192.0.2.101"));
    drop(handle);
}
