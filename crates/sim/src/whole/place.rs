//! The configuration of a simulated cluster, in all its versions: the file as an operator changes
//! it. Versions differ in which addresses which group has; nodes and voters stay.

use core::time::Duration;
use std::collections::BTreeMap;

use evenkeel_core::rule::Rule;
use evenkeel_core::topology::{
    CheckPolicy, Failback, Group, Node, OfService, ServiceAddress, Topology, WithoutMajority,
};
use evenkeel_core::{CheckName, GroupId, GroupName, NodeId, NodeName, ServiceName};

use super::recipe::Recipe;

/// Names of the nodes.
const NODES: [&str; 5] = ["ams1", "fra1", "bru1", "lux1", "tie"];
/// Names of the groups.
const GROUPS: [&str; 4] = ["www", "mail", "shop", "wiki"];
/// Versions of the file.
pub(super) const VERSIONS: usize = 3;
/// How often a check asks.
pub(super) const ASKED: Duration = Duration::from_millis(500);

/// The check that asks the service, from the node itself.
pub(super) fn web() -> CheckName {
    CheckName::new("web").expect("a name")
}

/// The check that asks the machine, from its peers.
pub(super) fn ping() -> CheckName {
    CheckName::new("ping").expect("a name")
}

/// The service of every group.
pub(super) fn service() -> ServiceName {
    ServiceName::new("httpd").expect("a name")
}

/// The identity of a node.
pub(super) fn node_id(node: usize) -> NodeId {
    NodeId::of(&NodeName::new(NODES[node]).expect("a name"))
}

/// The identity of a group.
pub(super) fn group_id(group: usize) -> GroupId {
    GroupId::of(&GroupName::new(GROUPS[group]).expect("a name"))
}

/// The addresses of a group in a version of the file: in the second the first group gives one of
/// its own to the next, in the third it has one that is new.
fn addresses(recipe: &Recipe, version: usize, group: usize) -> Vec<ServiceAddress> {
    let moved = recipe.groups > 1 && version == 1;
    let last = |group: usize, number: usize| u8::try_from(100 + 10 * group + number).unwrap_or(0);
    let mut bytes = vec![last(group, 0)];
    if group == 0 && !moved || group == 1 && moved {
        bytes.push(last(0, 1));
    }
    if group == 0 && version == 2 {
        bytes.push(last(0, 2));
    }
    let address = |last: u8| ServiceAddress {
        ip: [192, 0, 2, last].into(),
        prefix: 24,
        device: None,
    };
    bytes.into_iter().map(address).collect()
}

fn policy(name: CheckName, cold: bool) -> CheckPolicy {
    let is_web = name == web();
    let service = OfService {
        name: service(),
        restarts: false,
        grace: Duration::from_secs(2),
    };
    CheckPolicy {
        name,
        interval: ASKED,
        timeout: ASKED,
        fall: 1,
        rise: 1,
        from_node: is_web,
        from_peers: !is_web,
        rests: is_web && cold,
        service: is_web.then_some(service),
    }
}

fn group(recipe: &Recipe, version: usize, number: usize) -> Group {
    let hosts = recipe.nodes - usize::from(recipe.witness);
    // Each group prefers another node.
    let order = (0..hosts).map(|at| node_id((number + at) % hosts));
    let cold = recipe.cold[number];
    let checks = [web(), ping()];
    let rule = if number.is_multiple_of(2) {
        "web"
    } else {
        "web and ping"
    };
    let failback = match number {
        2 => Failback::AutoAfter(Duration::from_secs(10)),
        _ => Failback::Manual,
    };
    Group {
        id: group_id(number),
        name: GroupName::new(GROUPS[number]).expect("a name"),
        nodes: order.collect(),
        addresses: addresses(recipe, version, number),
        fail_when: Rule::parse(rule, &checks).expect("a rule"),
        failback,
        drain: Duration::from_millis(if number == 1 { 300 } else { 0 }),
        before_close: Duration::ZERO,
        preparing: Duration::from_secs(if cold { 2 } else { 0 }),
        cold,
        without_majority: WithoutMajority::Mute,
        services: vec![service()],
        checks: checks.map(|name| policy(name, cold)).to_vec(),
    }
}

/// One version of the file.
pub(super) fn topology(recipe: &Recipe, version: usize) -> Topology {
    let machine = |node: usize| Node {
        id: node_id(node),
        name: NodeName::new(NODES[node]).expect("a name"),
        address: ([192, 0, 2, 11 + u8::try_from(node).unwrap_or(0)], 7946).into(),
        witness: recipe.witness && node + 1 == recipe.nodes,
        voter: true,
    };
    let nodes = (0..recipe.nodes).map(|node| (node_id(node), machine(node)));
    let groups = (0..recipe.groups).map(|one| (group_id(one), group(recipe, version, one)));
    Topology {
        cluster: "sim".to_owned(),
        timing: recipe.timing,
        nodes: nodes.collect::<BTreeMap<_, _>>(),
        groups: groups.collect(),
    }
}
