//! Three servers, a spare, a witness, and four groups, by small numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_core::rule::Rule;
use evenkeel_core::topology::{
    CheckPolicy, Failback, Group, Node as Machine, ServiceAddress, Timing, Topology,
    WithoutMajority,
};
use evenkeel_core::{CheckName, GroupId, GroupName, NodeId, NodeName, ServiceName};

/// The nodes; the last one votes only.
pub const NODES: [&str; 5] = ["ams1", "fra1", "bru1", "spare", "tie"];
/// Number of the witness.
pub const WITNESS: usize = 4;
/// The servers.
pub const SERVERS: [usize; 4] = [0, 1, 2, 3];

/// A group: its name, its nodes in order, and after how many seconds it goes back.
pub const GROUPS: [(&str, &[usize], Option<u64>); 4] = [
    ("mail", &[0, 3], Some(20)),
    ("shop", &[1, 3], Some(37)),
    ("wiki", &[2, 3], None),
    ("www", &[0, 1, 2, 3], Some(45)),
];

/// Number of the group with something that runs on its holder alone.
pub const COLD: usize = 1;

pub fn id(node: usize) -> NodeId {
    NodeId::of(&NodeName::new(NODES[node]).expect("a name"))
}

pub fn number(id: NodeId) -> usize {
    let numbers = 0..NODES.len();
    numbers
        .clone()
        .find(|node| self::id(*node) == id)
        .expect("one of the nodes")
}

pub fn group_id(group: usize) -> GroupId {
    GroupId::of(&GroupName::new(GROUPS[group].0).expect("a name"))
}

pub fn check() -> CheckName {
    CheckName::new("service").expect("a name")
}

pub fn service() -> ServiceName {
    ServiceName::new("daemon").expect("a name")
}

fn group(number: usize) -> Group {
    let (name, nodes, back) = GROUPS[number];
    let octet = u8::try_from(100 + number).expect("small");
    Group {
        id: group_id(number),
        name: GroupName::new(name).expect("a name"),
        nodes: nodes.iter().map(|node| id(*node)).collect(),
        addresses: vec![ServiceAddress {
            ip: [192, 0, 2, octet].into(),
            prefix: 24,
            device: None,
        }],
        fail_when: Rule::parse("any", &[check()]).expect("a rule"),
        failback: back.map_or(Failback::Manual, |secs| {
            Failback::AutoAfter(Duration::from_secs(secs))
        }),
        drain: Duration::ZERO,
        before_close: Duration::ZERO,
        preparing: Duration::ZERO,
        cold: number == COLD,
        without_majority: WithoutMajority::Mute,
        services: vec![service()],
        checks: vec![CheckPolicy {
            name: check(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            fall: 1,
            rise: 1,
            from_node: true,
            from_peers: false,
            rests: false,
            service: None,
        }],
    }
}

pub fn topology() -> Topology {
    let machine = |node: usize| Machine {
        id: id(node),
        name: NodeName::new(NODES[node]).expect("a name"),
        address: ([192, 0, 2, 11 + u8::try_from(node).expect("small")], 7946).into(),
        witness: node == WITNESS,
        voter: true,
    };
    let nodes = (0..NODES.len()).map(|node| (id(node), machine(node)));
    let groups = (0..GROUPS.len()).map(|number| (group_id(number), group(number)));
    Topology {
        cluster: "shop".to_owned(),
        timing: Timing {
            lease: Duration::from_millis(120),
            heartbeat: Duration::from_millis(20),
        },
        nodes: nodes.collect::<BTreeMap<_, _>>(),
        groups: groups.collect(),
    }
}
