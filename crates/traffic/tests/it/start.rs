//! What a mover finds when it starts, and what it refuses.

use std::time::Duration;

use evenkeel_host::address::{Lifetime, Owner};
use evenkeel_traffic::{Settings, TrafficError, Want};

use crate::net::{Host, Lan, OPEN, Running, WWW, service, wait_for};

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

/// So many that placing them takes far longer than to see that it has begun.
const MANY: u16 = 2_000;

/// A host whose mover was stopped between the stopgaps and the addresses of its group, and the
/// next life's mover.
fn after_a_death_in_between(lan: &Lan) -> (Host, Running) {
    let one = lan.host(1);
    let addresses = (0..MANY).map(|at| {
        let [high, low] = at.to_be_bytes();
        service(&format!("198.18.{high}.{low}/16@eth0"))
    });
    let settings = Settings::new(vec![(WWW, addresses.collect())]);
    let first = one.start(settings.clone()).expect("it starts");
    first.mover.want(WWW, Want::Closed);
    wait_for("it begins", || !one.stopgaps().is_empty());
    drop(first);
    let left = one.stopgaps().len();
    assert!(
        left > 0 && ours(&one) < usize::from(MANY),
        "it was too quick to be stopped"
    );
    let second = one.start(settings).expect("it starts");
    assert_eq!(one.stopgaps().len(), left, "they stay until a word");
    (one, second)
}

fn ours(host: &Host) -> usize {
    let addresses = host.addresses().into_iter();
    addresses.filter(|one| one.owner == Owner::Evenkeel).count()
}

#[test]
fn stopgaps_of_an_earlier_life_go_when_their_addresses_are_placed() {
    let Some(lan) = Lan::new(1) else { return };
    let (one, mut second) = after_a_death_in_between(&lan);
    second.mover.want(WWW, OPEN);
    second.placed();
    assert_eq!(ours(&one), usize::from(MANY));
    wait_for("their stopgaps go", || one.stopgaps().is_empty());
    assert_eq!(ours(&one), usize::from(MANY), "and nothing else");
    let shown = one.ip("route show table local type local");
    let routes = shown.matches("local 198.18.").count();
    assert_eq!(routes, usize::from(MANY), "the kernel's own stay");
}

#[test]
fn stopgaps_of_an_earlier_life_go_if_not_wanted() {
    let Some(lan) = Lan::new(1) else { return };
    let (one, mut second) = after_a_death_in_between(&lan);
    second.mover.want(WWW, Want::Absent);
    second.gone();
    assert_eq!((one.stopgaps().len(), ours(&one)), (0, 0));
}

/// A route does not expire as an address does; here the mover sees to it.
#[test]
fn stopgaps_go_if_nobody_says_anything() {
    let Some(lan) = Lan::new(1) else { return };
    let (one, _second) = after_a_death_in_between(&lan);
    wait_for("they expire", || one.stopgaps().is_empty());
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
