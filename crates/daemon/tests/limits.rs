//! What the file allows fits into what carries it: the longest assignment into an entry of
//! the log, and the agreed state of as many addresses as there may be into a snapshot.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use evenkeel_config::{ADDRESSES_MAX, ADDRESSES_PER_GROUP_MAX, NODES_MAX};
use evenkeel_consensus::{PAYLOAD_BYTES_MAX, SNAPSHOT_BYTES_MAX};
use evenkeel_core::command::{Assign, Command};
use evenkeel_core::evidence::{Cause, CheckFact, Considered, Evidence, FACT_LENGTH_MAX, FACTS_MAX};
use evenkeel_core::ledger::{Ledger, MOVES_MAX};
use evenkeel_core::topology::ServiceAddress;
use evenkeel_core::{CheckName, Epoch, GroupId, Incarnation, NodeId};
use evenkeel_transport::BODY_MAX;
use evenkeel_wire::v1::{entry, snapshot};

/// The longest name of an interface (IFNAMSIZ without its zero).
const INTERFACE: &str = "interface-nr-15";

fn addresses(from: usize, count: usize) -> Vec<ServiceAddress> {
    let base = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0xffff, 0, 0, 0).to_bits();
    let one = |number: usize| ServiceAddress {
        ip: IpAddr::V6(Ipv6Addr::from_bits(base + number as u128)),
        prefix: 128,
        device: Some(INTERFACE.to_owned()),
    };
    (from..from + count).map(one).collect()
}

/// As much as any evidence tells.
fn evidence() -> Evidence {
    let text = "x".repeat(FACT_LENGTH_MAX);
    let fact = CheckFact {
        check: CheckName::new(&"c".repeat(63)).expect("a name"),
        said_by: NodeId(u64::MAX),
        detail: text.clone(),
    };
    let considered = |node| Considered {
        node: NodeId(node),
        why: text.clone(),
    };
    Evidence {
        cause: Cause::RuleHolds,
        from: Some(NodeId(u64::MAX)),
        decided_by: NodeId(u64::MAX),
        wall_ms: u64::MAX,
        known_for: Duration::from_secs(1 << 32),
        checks: vec![fact; FACTS_MAX],
        considered: (0..NODES_MAX as u64).map(considered).collect(),
    }
}

fn assign(group: usize, evidence: Evidence) -> Assign {
    Assign {
        group: GroupId(u64::MAX - group as u64),
        holder: NodeId(u64::MAX),
        incarnation: Incarnation {
            counter: u64::MAX,
            nonce: u64::MAX,
        },
        addresses: addresses(group * ADDRESSES_PER_GROUP_MAX, ADDRESSES_PER_GROUP_MAX),
        evidence,
    }
}

#[test]
fn the_longest_assignment_fits_into_an_entry() {
    let bytes = entry::encode(&Command::Assign(assign(0, evidence())));
    assert!(
        (100_000..=PAYLOAD_BYTES_MAX).contains(&bytes.len()),
        "{} bytes, {PAYLOAD_BYTES_MAX} are allowed",
        bytes.len()
    );
    assert!(entry::decode(&bytes).is_ok());
}

/// Also when no group has ever opened, so that all its moves count.
#[test]
fn a_state_of_as_many_addresses_as_there_may_be_fits_into_a_snapshot() {
    let few = Evidence {
        checks: Vec::new(),
        considered: Vec::new(),
        ..evidence()
    };
    let mut ledger = Ledger::default();
    let mut assignments: BTreeMap<usize, Assign> = BTreeMap::new();
    for group in 0..ADDRESSES_MAX / ADDRESSES_PER_GROUP_MAX {
        assignments.insert(group, assign(group, few.clone()));
    }
    let mut index = 0;
    for _ in 0..MOVES_MAX {
        for assignment in assignments.values() {
            index += 1;
            let epoch = Epoch { term: 1, index };
            ledger.apply(epoch, &Command::Assign(assignment.clone()));
        }
    }
    let bytes = snapshot::encode(&ledger);
    let most = SNAPSHOT_BYTES_MAX.min(BODY_MAX);
    assert!(
        (1_000_000..=most).contains(&bytes.len()),
        "{} bytes, {most} are allowed",
        bytes.len()
    );
    assert_eq!(snapshot::decode(&bytes).expect("whole"), ledger);
}
