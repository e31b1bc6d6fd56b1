//! The doctor's own judgements, and what it says where nothing is as it should be.

use super::*;

fn topology() -> Topology {
    let text = r#"
        cluster = "shop"
        node.a.address = "192.0.2.1:7946"
        node.b.address = "192.0.2.2:7946"
        node.t = { address = "192.0.2.3:7946", witness = true }
        [group.g]
        nodes = ["a", "b"]
        addresses = ["192.0.2.9/24"]
        check.ping.ping = "{node}"
    "#;
    let config = evenkeel_config::parse(text, "f").expect("a good file");
    config.topology
}

#[test]
fn who_answers_for_an_address_is_a_node_or_a_stranger() {
    let arp = "IP address HW type Flags HW address Mask Device\n\
               192.0.2.2 0x1 0x2 02:00:00:00:00:0b * eth0\n\
               192.0.2.77 0x1 0x2 02:00:00:00:00:77 * eth0\n";
    let neighbours = neighbours_of(arp);
    let judge = |last, free| {
        let mac = [2, 0, 0, 0, 0, last];
        let ip = "192.0.2.9".parse().expect("an address");
        answered(&topology(), ip, mac, &neighbours, free)
    };
    let held = judge(0x0b, false);
    assert_eq!(held.severity, Severity::Fine);
    assert!(held.what.contains("b (02:00:00:00:00:0b)"), "{held:?}");
    assert_eq!(judge(0x0b, true).severity, Severity::Unfit);
    assert_eq!(judge(0x77, false).severity, Severity::Warning);
    assert_eq!(judge(0x77, true).severity, Severity::Unfit);
    assert_eq!(judge(0x99, true).severity, Severity::Unfit);
}

#[test]
fn a_round_trip_is_judged_by_the_lease() {
    let timing = topology().timing;
    let severity = |ms| near("b", Duration::from_millis(ms), &timing).severity;
    assert_eq!(severity(29), Severity::Fine);
    assert_eq!(severity(30), Severity::Warning);
}

#[test]
fn a_port_in_use_and_a_foreign_address_are_found() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let mut node = topology().nodes.into_values().next().expect("a node");
    node.address = taken.local_addr().expect("an address");
    let found = own_port(&node);
    assert!(found.remedy.contains("ss -ulpn"), "{found:?}");
    drop(taken);
    assert_eq!(own_port(&node).severity, Severity::Fine);
    node.address = "198.51.100.1:7946".parse().expect("an address");
    let found = own_port(&node);
    assert!(
        found.remedy.contains("no address of this machine"),
        "{found:?}"
    );
}

#[test]
fn much_that_is_fine_is_counted_and_nothing_that_is_wrong_is_left_out() {
    let mut chart = Chart(Vec::new());
    let fine = (0..200).map(|n| Finding::fine(&n.to_string(), "well"));
    let wrong = (0..200).map(|n| Finding::unfit(&n.to_string(), "wrong"));
    chart.add("network", fine.chain(wrong));
    let count = |fit| chart.0.iter().filter(|one| one.severity == fit).count();
    assert_eq!(count(Fit::Unfit), 200);
    assert_eq!(count(Fit::Fit), FINDINGS_MAX + 1);
    assert!(chart.0.iter().any(|one| one.what.starts_with("136 more")));
}

#[test]
fn without_a_file_and_without_a_daemon_it_still_looks_at_the_machine() {
    let dir = tempfile::tempdir().expect("a directory");
    let asked = Asked {
        socket: dir.path().join("none.sock"),
        config: Some(dir.path().join("none.toml")),
        node: Some("a".into()),
        state: Some(dir.path().join("state")),
        pki: Some(dir.path().join("pki")),
        measure: MEASURE_MIN,
    };
    let doctor = examine(&asked);
    assert!(!doctor.daemon && doctor.runs.is_none());
    assert_eq!(doctor.verdict, Fit::Unfit);
    let area = |area: &str| -> Vec<&Found> {
        let findings = doctor.findings.iter();
        findings.filter(|one| one.area == area).collect()
    };
    assert!(
        area("daemon")
            .iter()
            .any(|one| one.what.contains("no daemon answers"))
    );
    let file = area("file");
    assert!(file[0].what.contains("cannot be read"), "{file:?}");
    assert!(area("machine").iter().any(|one| one.place == "jitter"));
    assert!(!dir.path().join("state").exists(), "nothing is made");
}

#[test]
fn a_node_that_the_file_does_not_have_is_named_with_those_that_it_has() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("c.toml");
    let text = "cluster = \"shop\"\nnode.a.address = \"192.0.2.1:7946\"\n";
    fs::write(&config, text).expect("written");
    let asked = Asked {
        socket: dir.path().join("none.sock"),
        config: Some(config),
        node: Some("x".into()),
        measure: MEASURE_MIN,
        ..Asked::default()
    };
    let doctor = examine(&asked);
    let mut findings = doctor.findings.iter();
    assert!(findings.any(|one| one.what.contains("has no node \"x\"; it has a")));
    assert_eq!(doctor.cluster, "shop");
}
