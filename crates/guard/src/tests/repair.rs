//! What others take away is put back, and nothing opens meanwhile.

use super::*;
use evenkeel_host::sys::bpf::Link;

/// Repairs take milliseconds; the tests share the machine with others.
const REPAIR: Duration = Duration::from_secs(1);

/// Verifies as the daemon does, on events and at intervals, until `done`.
fn keep_until(keeper: &mut Keeper, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < REPAIR, "not within {REPAIR:?}: {what}");
        wait_for_event(keeper);
        keeper.verify_and_repair().expect("the repair succeeds");
    }
}

fn wait_for_event(keeper: &Keeper) {
    let events = keeper.events();
    let mut polled = [rustix::event::PollFd::new(
        &events,
        rustix::event::PollFlags::IN,
    )];
    let interval = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(crate::VERIFY_INTERVAL.subsec_nanos()),
    };
    rustix::event::poll(&mut polled, Some(&interval)).expect("to poll");
}

fn tables(world: &World) -> String {
    let output = run(&format!("ip netns exec {} nft list ruleset", world.node));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn an_owned_table_resists_others() {
    let world = World::new();
    let (mut guard, mut keeper) = world.guard(Backends::NftOnly);
    let name = world.settings(Backends::NftOnly).key();
    let node = &world.node;
    run(&format!("ip netns exec {node} nft flush ruleset"));
    let refused = try_run(&format!(
        "ip netns exec {node} nft delete table netdev {name}"
    ));
    assert!(
        !refused.status.success(),
        "another program deleted the table"
    );
    world.assert_answers(false, "after a flush by others");
    let repairs = keeper.verify_and_repair().expect("a verification");
    assert!(repairs.is_clean(), "{repairs:?}");
    hold(&mut guard, PATIENCE);
    world.assert_answers(true, "when it is held after the flush");
}

/// Each way in which others can damage a table that is not owned.
#[test]
fn a_damaged_table_is_made_anew() {
    let name = |world: &World| world.settings(Backends::NftOnly).key();
    let damages = [
        "flush ruleset",
        "delete table netdev NAME",
        "flush chain netdev NAME egress",
        "flush chain netdev NAME in-INDEX",
        "flush set netdev NAME held",
        "flush map netdev NAME guarded4",
        "add element netdev NAME guarded4 { 10.9.9.9 : drop }",
    ];
    for backends in [Backends::NftOnly, Backends::Both] {
        let world = World::new();
        let (mut guard, mut keeper) = world.guard_with(backends, Ownership::Never);
        let whole = tables(&world);
        assert!(whole.contains("flags timeout"), "{whole}");
        let index = run(&format!("ip -n {} -o link show veth0", world.node)).stdout;
        let index = String::from_utf8_lossy(&index)
            .split(':')
            .next()
            .unwrap_or("")
            .to_owned();
        for damage in damages {
            let damage = damage
                .replace("NAME", &name(&world))
                .replace("INDEX", &index);
            hold(&mut guard, PATIENCE);
            run(&format!("ip netns exec {} nft {damage}", world.node));
            let mut made = 0;
            let start = Instant::now();
            while made == 0 {
                assert!(start.elapsed() < REPAIR, "not repaired: {damage}");
                wait_for_event(&keeper);
                made += keeper.verify_and_repair().expect("a repair").tables;
            }
            guard.close(GROUP);
            world.assert_answers(false, &format!("after: {damage}"));
            hold(&mut guard, PATIENCE);
            world.assert_answers(true, &format!("when held after: {damage}"));
            guard.close(GROUP);
            let repairs = keeper.verify_and_repair().expect("a verification");
            assert!(
                repairs.is_clean(),
                "{repairs:?} after {damage} was put right"
            );
        }
    }
}

/// The daemon does nothing here: one mechanism enforces while the other is gone.
#[test]
fn one_mechanism_enforces_while_the_other_is_gone() {
    let world = World::new();
    let (_guard, _keeper) = world.guard_with(Backends::Both, Ownership::Never);
    run(&format!("ip netns exec {} nft flush ruleset", world.node));
    world.assert_answers(false, "with eBPF alone");

    let world = World::new();
    let (_guard, _keeper) = world.guard(Backends::Both);
    for link in links(&world) {
        link.detach().expect("to detach");
    }
    world.assert_answers(false, "with nftables alone");
}

/// A group that is held does not fall silent because the table was made anew.
#[test]
fn a_held_group_goes_into_the_new_table() {
    let world = World::new();
    let (mut guard, mut keeper) = world.guard_with(Backends::Both, Ownership::Never);
    hold(&mut guard, PATIENCE);
    run(&format!("ip netns exec {} nft flush ruleset", world.node));
    keep_until(&mut keeper, "the table is made anew", || {
        tables(&world).contains("expires")
    });
    world.assert_answers(true, "in the new table");

    // With nftables alone, nothing proves until when: it waits for the next renewal.
    let world = World::new();
    let (mut guard, mut keeper) = world.guard_with(Backends::NftOnly, Ownership::Never);
    hold(&mut guard, PATIENCE);
    run(&format!("ip netns exec {} nft flush ruleset", world.node));
    keep_until(&mut keeper, "the table is made anew", || {
        tables(&world).contains("held")
    });
    world.assert_answers(false, "in the new table of nftables alone");
    hold(&mut guard, PATIENCE);
    world.assert_answers(true, "after its next renewal");
}

fn pins(world: &World) -> Vec<std::path::PathBuf> {
    let directory = world.settings(Backends::Both).pins().expect("a directory");
    let entries = std::fs::read_dir(directory).expect("pins");
    entries.map(|entry| entry.expect("a pin").path()).collect()
}

fn links(world: &World) -> Vec<Link> {
    let link = |path: &std::path::PathBuf| path.to_string_lossy().rsplit('/').next()?.find('-');
    let found = pins(world).into_iter().filter(|path| link(path).is_some());
    found
        .map(|path| Link::open(&path).expect("a link"))
        .collect()
}

#[test]
fn a_detached_link_and_a_removed_pin_are_put_back() {
    let world = World::new();
    let (mut guard, mut keeper) = world.guard(Backends::BpfOnly);
    let found = links(&world);
    assert_eq!(found.len(), 4, "two sides of lo and veth0");
    for link in &found {
        link.detach().expect("to detach");
    }
    assert!(world.answers("10.77.0.1"));
    let repairs = keeper.verify_and_repair().expect("a repair");
    assert_eq!((repairs.links, repairs.pins), (4, 0), "{repairs:?}");
    world.assert_answers(false, "after its links were detached");

    for pin in pins(&world) {
        if pin
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains('-'))
        {
            std::fs::remove_file(&pin).expect("to remove the pin");
        }
    }
    let repairs = keeper.verify_and_repair().expect("a repair");
    assert_eq!((repairs.links, repairs.pins), (0, 4), "{repairs:?}");
    assert_eq!(links(&world).len(), 4);
    hold(&mut guard, PATIENCE);
    world.assert_answers(true, "when it is held after all of that");
    assert!(
        keeper
            .verify_and_repair()
            .expect("a verification")
            .is_clean()
    );
}

/// A `tc` user can take away a qdisc, but our programs do not hang on one.
#[test]
fn a_foreign_qdisc_changes_nothing() {
    let world = World::new();
    let (_guard, _keeper) = world.guard(Backends::BpfOnly);
    let node = &world.node;
    run(&format!(
        "ip netns exec {node} tc qdisc add dev veth0 clsact"
    ));
    world.assert_answers(false, "with a clsact qdisc");
    run(&format!(
        "ip netns exec {node} tc qdisc del dev veth0 clsact"
    ));
    world.assert_answers(false, "without it again");
}

#[test]
fn devices_that_come_later_are_covered() {
    for backends in ALL_BACKENDS {
        let world = World::new();
        let (mut guard, mut keeper) = world.guard(backends);
        let node = &world.node;
        let (v4, v6) = ("10.78.0.100", "fd78::100");
        keeper
            .set_addresses(OTHER, Epoch::NONE, &[ip(v4), ip(v6)])
            .expect("they are taken");
        // The second round has the same name and another number.
        for round in 0..2 {
            world.join("veth1");
            let mut covered = 0;
            keep_until(&mut keeper, "the device is covered", || {
                covered += 1;
                covered > 1
            });
            for (namespace, host) in [(node, "100"), (&world.client, "2")] {
                run(&format!(
                    "ip -n {namespace} address add 10.78.0.{host}/24 dev veth1"
                ));
                run(&format!(
                    "ip -n {namespace} address add fd78::{host}/64 dev veth1 nodad"
                ));
            }
            for address in [v4, v6] {
                assert!(
                    !world.answers(address),
                    "{backends:?} {round}: {address} is closed"
                );
            }
            guard.set_deadline(OTHER, 1, now() + PATIENCE, now);
            for address in [v4, v6] {
                until(&format!("{address} answers, {backends:?}"), || {
                    world.answers(address)
                });
            }
            guard.close(OTHER);
            run(&format!("ip -n {node} link delete veth1"));
            keeper.verify_and_repair().expect("a verification");
        }
        assert!(
            keeper
                .verify_and_repair()
                .expect("a verification")
                .is_clean()
        );
        let chains = tables(&world).matches("hook egress").count();
        let expected = if backends == Backends::BpfOnly { 0 } else { 2 };
        assert_eq!(chains, expected, "chains of devices that are gone are gone");
    }
}

#[test]
fn a_renamed_device_stays_covered() {
    let world = World::new();
    let (_guard, mut keeper) = world.guard(Backends::NftOnly);
    let node = &world.node;
    for line in ["veth0 down", "veth0 name lan0", "lan0 up"] {
        run(&format!("ip -n {node} link set {line}"));
    }
    for line in [
        "address replace 10.77.0.1/24",
        "address replace 10.77.0.100/24",
    ] {
        run(&format!("ip -n {node} {line} dev lan0"));
    }
    keeper.verify_and_repair().expect("a verification");
    until("the unguarded address answers", || {
        world.answers("10.77.0.1")
    });
    assert!(!world.answers(V4), "after renaming the device");
    assert!(tables(&world).contains("lan0"), "{}", tables(&world));
}
