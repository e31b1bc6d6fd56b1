//! `[node.NAME]`: a machine that runs evenkeel.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use evenkeel_core::names::{NodeId, NodeName};
use evenkeel_core::topology::Node;

use crate::address::{AddressKind, classify};
use crate::fault::{Report, shown};
use crate::name;
use crate::section::{Keys, Section, Text};
use crate::source::Span;

/// Every node talks to every other several times per lease.
pub const NODES_MAX: usize = 64;

/// The port that examples and help lines name; the file always says it.
const PORT_EXAMPLE: u16 = 7946;

/// Two voters out of three outlive the third; fewer than three outlive nobody.
const VOTERS_ENOUGH: usize = 3;

const KEYS: Keys = Keys {
    known: &["address", "witness", "voter"],
    later: &[],
};

/// A node as the file describes it, as far as it can be told.
pub(crate) struct FoundNode {
    pub(crate) name: NodeName,
    pub(crate) span: Span,
    /// Address and its place, unless it is wrong.
    pub(crate) address: Option<(SocketAddr, Span)>,
    pub(crate) witness: bool,
    voter: bool,
}

/// All nodes, in the order of the file.
pub(crate) struct FoundNodes {
    pub(crate) all: Vec<FoundNode>,
    /// All keys under `node`, those that are no names too: a group may speak of them.
    pub(crate) names: Vec<String>,
}

impl FoundNodes {
    pub(crate) fn find(&self, name: &str) -> Option<&FoundNode> {
        self.all.iter().find(|node| node.name.as_str() == name)
    }

    /// The nodes as core knows them. Those with a faulty address are left out; the file is
    /// refused for them anyway.
    pub(crate) fn nodes(&self) -> BTreeMap<NodeId, Node> {
        let whole = self.all.iter().filter_map(|found| {
            let id = NodeId::of(&found.name);
            let (address, _) = found.address.as_ref()?;
            let node = Node {
                id,
                name: found.name.clone(),
                address: *address,
                witness: found.witness,
                voter: found.voter,
            };
            Some((id, node))
        });
        whole.collect()
    }
}

/// Reads all nodes and what must hold between them.
pub(crate) fn read(top: &Section<'_>, report: &mut Report) -> FoundNodes {
    let sections = top.sections("node", report);
    if sections.is_empty() && !top.has("node") {
        let example = format!("[node.ams1] with address = \"192.0.2.11:{PORT_EXAMPLE}\"");
        report.refuse(
            &top.span,
            "the file has no nodes",
            format!("add for example {example}"),
        );
    }
    if let Some((name, _)) = sections.get(NODES_MAX) {
        let what = format!("there are {} nodes, more than {NODES_MAX}", sections.len());
        report.refuse(&name.span, what, "make several clusters of them");
    }
    let names = top.names("node");
    let all = sections
        .iter()
        .take(NODES_MAX)
        .filter_map(|(name, section)| {
            let found = read_one(name, section, report)?;
            Some(found)
        });
    let nodes = FoundNodes {
        all: all.collect(),
        names,
    };
    judge_identities(&nodes, report);
    judge_addresses(&nodes, report);
    judge_voters(&nodes, report);
    nodes
}

fn read_one(key: &Text<'_>, section: &Section<'_>, report: &mut Report) -> Option<FoundNode> {
    section.only(&KEYS, report);
    let name = name::read("node", key, NodeName::new, report);
    let example = format!("address = \"192.0.2.11:{PORT_EXAMPLE}\"");
    let address = section.required("address", &example, report);
    let address = address.and_then(|text| Some((read_address(&text, report)?, text.span)));
    let witness = section.flag("witness", report).unwrap_or(false);
    let voter = section.flag("voter", report).unwrap_or(true);
    if !voter && let Some(value) = section.value("voter") {
        let (what, help) = match witness {
            true => (
                "a witness that does not vote has no purpose",
                "remove witness or voter",
            ),
            // A later version may: then the daemon has to know it, too.
            false => (
                "every node votes in this version",
                "remove it; a node that is to host nothing is a witness (witness = true)",
            ),
        };
        report.refuse(&value.span(), what, help);
    }
    Some(FoundNode {
        name: name?,
        span: key.span.clone(),
        address,
        witness,
        voter,
    })
}

/// `192.0.2.11:7946` or `[2001:db8::11]:7946`.
fn read_address(text: &Text<'_>, report: &mut Report) -> Option<SocketAddr> {
    let Ok(address) = text.value.parse::<SocketAddr>() else {
        let (what, help) = explain(text.value);
        report.refuse(&text.span, what, help);
        return None;
    };
    let scoped = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
    let fault = match classify(address.ip()) {
        _ if address.port() == 0 => Some(("port 0 is no port", "write the port to listen on")),
        AddressKind::Unspecified => Some((
            "a node's address cannot be unspecified",
            "write the address at which the other nodes reach it",
        )),
        AddressKind::Multicast | AddressKind::Broadcast => Some((
            "a node's address cannot be a multicast or broadcast address",
            "write the address at which the other nodes reach it",
        )),
        AddressKind::Mapped => Some((
            "this is an IPv4 address written as IPv6",
            "write it as IPv4",
        )),
        AddressKind::LinkLocal6 => Some((
            "a link-local address means another thing on every interface",
            "write a global or unique local address",
        )),
        _ if scoped => Some(("a scope cannot stand here", "write the address without %")),
        AddressKind::Loopback | AddressKind::Ordinary => None,
    };
    if let Some((what, help)) = fault {
        report.refuse(&text.span, format!("{}: {what}", shown(text.value)), help);
        return None;
    }
    Some(address)
}

/// Why a text is no address with a port.
fn explain(text: &str) -> (String, String) {
    if let Ok(ip) = text.parse::<IpAddr>() {
        let whole = SocketAddr::new(ip, PORT_EXAMPLE);
        return (
            format!("{} has no port", shown(text)),
            format!("write for example \"{whole}\""),
        );
    }
    let bracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(ip) = bracketed.and_then(|inner| inner.parse::<Ipv6Addr>().ok()) {
        let whole = SocketAddr::new(ip.into(), PORT_EXAMPLE);
        return (
            format!("{} has no port", shown(text)),
            format!("write for example \"{whole}\""),
        );
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if host.parse::<IpAddr>().is_ok() {
        return (
            format!("{port:?} is no port"),
            "a port is a number from 1 to 65535".into(),
        );
    }
    let what = format!("{} is not an address with a port", shown(text));
    let help = format!(
        "write for example \"192.0.2.11:{PORT_EXAMPLE}\" or \"[2001:db8::11]:{PORT_EXAMPLE}\"; names are not looked up, because nodes must find each other when DNS is down"
    );
    (what, help)
}

fn judge_identities(nodes: &FoundNodes, report: &mut Report) {
    let mut seen: BTreeMap<NodeId, &FoundNode> = BTreeMap::new();
    for node in &nodes.all {
        if let Some(other) = seen.insert(NodeId::of(&node.name), node) {
            let other = (other.name.as_str(), &other.span);
            name::refuse_collision("node", node.name.as_str(), &node.span, other, report);
        }
    }
}

fn judge_addresses(nodes: &FoundNodes, report: &mut Report) {
    let mut sockets: BTreeMap<SocketAddr, (&FoundNode, &Span)> = BTreeMap::new();
    let mut machines: BTreeMap<IpAddr, (&FoundNode, &Span)> = BTreeMap::new();
    for node in &nodes.all {
        let Some((address, span)) = &node.address else {
            continue;
        };
        if let Some((other, place)) = sockets.insert(*address, (node, span)) {
            let what = format!(
                "{} is already the address of {:?}",
                address,
                other.name.as_str()
            );
            let help = "every node has its own address and port";
            report.refuse(span, what, help).also(place, "here first");
        } else if let Some((other, place)) = machines.insert(address.ip(), (node, span)) {
            let what = format!(
                "{:?} and {:?} are on one machine",
                other.name.as_str(),
                node.name.as_str()
            );
            let help = "they fail together, so two such votes count as one; give each a machine of its own";
            report.warn(span, what, help).also(place, "the other one");
        }
    }
}

fn judge_voters(nodes: &FoundNodes, report: &mut Report) {
    let voters = nodes.all.iter().filter(|node| node.voter).count();
    let Some(first) = nodes.all.first() else {
        return;
    };
    // Those that are to have no vote have been spoken of.
    if voters != nodes.all.len() {
        return;
    }
    if voters < VOTERS_ENOUGH {
        let what = match voters {
            1 => "there is one voter: when it fails, everything is mute".to_owned(),
            more => format!("there are {more} voters: when either fails, everything is mute"),
        };
        let help = "add a third vote: a small machine anywhere, with witness = true";
        report.warn(&first.span, what, help);
    } else if voters.is_multiple_of(2) {
        let what = format!(
            "{voters} voters outlive no more failures than {}",
            voters - 1
        );
        let help = "add a witness: a small machine anywhere, with witness = true";
        report.warn(&first.span, what, help);
    }
}
