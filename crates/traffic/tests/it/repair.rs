//! Whatever somebody else changes is put right, and told.

use evenkeel_traffic::{Repair, Report, Want};

use crate::net::{Host, Lan, OPEN, Running, WWW, wait_for};

const ADDRESSES: [&str; 2] = ["192.0.2.100/24", "2001:db8::100/64"];

fn opened(host: &Host) -> Running {
    let mut mover = host.mover(&ADDRESSES);
    mover.mover.want(WWW, OPEN);
    assert_eq!(mover.announced(), 2);
    mover
}

fn repaired(mover: &mut Running) -> (Repair, u64) {
    mover.report(|report| match report {
        Report::Repaired { what, count, .. } => Some((*what, *count)),
        _ => None,
    })
}

#[test]
fn a_deleted_address_is_back() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let mut mover = opened(&one);
    for (at, address) in ["192.0.2.100/32", "2001:db8::100/128"]
        .into_iter()
        .enumerate()
    {
        one.ip(&format!("address delete {address} dev eth0"));
        let ip = address.split('/').next().expect("an address");
        wait_for("the address is back", || one.has(ip));
        assert_eq!(repaired(&mut mover), (Repair::Address, at as u64 + 1));
    }
}

/// What a network manager does that believes that all addresses are its own.
#[test]
fn a_flushed_interface_has_its_addresses_back() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let mut mover = opened(&one);
    one.ip("address flush dev eth0");
    wait_for("the addresses are back", || {
        one.has("192.0.2.100") && one.has("2001:db8::100")
    });
    assert_eq!(repaired(&mut mover).0, Repair::Address);
    assert!(
        !one.has("192.0.2.1"),
        "the system's own are not our business"
    );
}

#[test]
fn a_deleted_local_route_is_back() {
    let Some(lan) = Lan::new(2) else { return };
    let (one, client) = (lan.host(1), lan.host(2));
    let mut mover = opened(&one);
    for (version, ip) in [(4, "192.0.2.100"), (6, "2001:db8::100")] {
        one.ip(&format!("route delete local {ip} dev eth0 table local"));
        assert_eq!(repaired(&mut mover).0, Repair::Route);
        let shown = one.ip(&format!("-{version} route show table local {ip}"));
        assert!(shown.contains(&format!("local {ip} dev eth0")), "{shown}");
        client.learn(ip);
    }
}

#[test]
fn an_interface_that_went_down_and_up_has_its_addresses_and_tells_its_neighbours() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let mut mover = opened(&one);
    one.ip("link set eth0 down");
    mover.report(|report| matches!(report, Report::Failed { .. }).then_some(()));
    wait_for("IPv6 addresses vanish with the interface", || {
        !one.has("2001:db8::100")
    });
    one.ip("link set eth0 up");
    assert_eq!(repaired(&mut mover).0, Repair::Interface);
    assert!(one.has("192.0.2.100") && one.has("2001:db8::100"));
    assert_eq!(mover.announced(), 2, "announced anew");
}

#[test]
fn a_device_made_again_has_its_addresses() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let mut mover = opened(&one);
    one.ip("link delete eth0");
    // A device that goes away is told to be down first, if anybody looks that closely.
    mover.report(|report| match report {
        Report::Failed { error, .. } => error.contains("eth0 is gone").then_some(()),
        _ => None,
    });
    one.plug(&lan.space("br"));
    assert_eq!(repaired(&mut mover).0, Repair::Interface);
    assert!(one.has("192.0.2.100") && one.has("2001:db8::100"));
    assert_eq!(mover.announced(), 2, "announced anew");
}

/// The address is not only deleted but taken by the system: told, and left alone.
#[test]
fn an_address_that_the_system_configures_meanwhile_is_told() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let mut mover = one.mover(&ADDRESSES);
    mover.mover.want(WWW, Want::Absent);
    mover.gone();
    one.ip("address add 192.0.2.100/24 dev eth0");
    let device = mover.report(|report| match report {
        Report::Foreign { device, .. } => Some(device.clone()),
        _ => None,
    });
    assert_eq!(device, "eth0");
    assert!(one.has("192.0.2.100"));
}

/// More changes than the socket holds: nothing is lost for good.
#[test]
fn a_flood_of_changes_is_survived() {
    let Some(lan) = Lan::new(1) else { return };
    let one = lan.host(1);
    let mut mover = opened(&one);
    let batch = std::env::temp_dir().join(lan.space("flood"));
    let mut text = String::new();
    for at in 0..1_000 {
        text += &format!("address add 10.{}.{}.1/32 dev eth0\n", at / 250, at % 250);
    }
    text += "address delete 192.0.2.100/32 dev eth0\n";
    std::fs::write(&batch, text).expect("written");
    one.ip(&format!("-batch {}", batch.display()));
    std::fs::remove_file(&batch).expect("it was there");
    wait_for("the address is back", || one.has("192.0.2.100"));
    assert_eq!(repaired(&mut mover).0, Repair::Address);
}
