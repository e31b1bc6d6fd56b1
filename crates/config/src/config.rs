//! The whole file: the parts in order, and what is kept of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use evenkeel_core::names::{CheckName, GroupId, NodeId, NodeName, ServiceName};
use evenkeel_core::topology::{Group, ServiceAddress, Topology};
use toml::de::DeTable;

use crate::check::CheckSpec;
use crate::fault::{Faults, Report, late};
use crate::group::{self, FoundGroup};
use crate::hook::Hooks;
use crate::interface::{Interface, NoInterface, interface_for};
use crate::name;
use crate::node::{self, FoundNodes};
use crate::revoked::{self, Fingerprint};
use crate::section::{Keys, Section};
use crate::service::ServiceSpec;
use crate::source::{Place, Source, Span};
use crate::{effective, syntax, timing};

const KEYS: Keys = Keys {
    known: &["cluster", "profile", "timing", "node", "group", "revoked"],
    later: &[],
};

/// What runs with a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosted {
    /// Its services, in the order of the file.
    pub services: Vec<ServiceSpec>,
    /// Its hooks.
    pub hooks: Hooks,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// What decisions need to know: nodes, groups, addresses, times.
    pub topology: Topology,
    /// The checks of each group, in the order of the file; every group has an entry.
    pub checks: BTreeMap<GroupId, Vec<CheckSpec>>,
    /// What runs with each group; every group has an entry.
    pub hosted: BTreeMap<GroupId, Hosted>,
    /// Certificates that no longer count, in ascending order.
    pub revoked: Vec<Fingerprint>,
    /// Equal on two nodes exactly if their files mean the same.
    pub digest: u64,
    /// What somebody should know, although the file is used.
    pub warnings: Faults,
    places: SourceMap,
}

/// Where things stand in the file.
#[derive(Clone, Debug)]
struct SourceMap {
    source: Arc<Source>,
    nodes: BTreeMap<NodeId, Span>,
    groups: BTreeMap<GroupId, Span>,
    addresses: BTreeMap<(GroupId, IpAddr), Span>,
    checks: BTreeMap<(GroupId, CheckName), Span>,
    services: BTreeMap<(GroupId, ServiceName), Span>,
    hooks: BTreeMap<(GroupId, &'static str), Span>,
}

impl SourceMap {
    fn new(source: Arc<Source>, nodes: &FoundNodes, groups: &[FoundGroup]) -> Self {
        let mut map = Self {
            source,
            nodes: BTreeMap::new(),
            groups: BTreeMap::new(),
            addresses: BTreeMap::new(),
            checks: BTreeMap::new(),
            services: BTreeMap::new(),
            hooks: BTreeMap::new(),
        };
        for node in &nodes.all {
            map.nodes.insert(NodeId::of(&node.name), node.span.clone());
        }
        for found in groups {
            let id = found.group.id;
            map.groups.insert(id, found.span.clone());
            for (address, span) in &found.addresses {
                map.addresses.insert((id, address.ip), span.clone());
            }
            for (spec, span) in &found.checks {
                map.checks
                    .insert((id, spec.policy.name.clone()), span.clone());
            }
            for (spec, span) in &found.services {
                map.services.insert((id, spec.name.clone()), span.clone());
            }
            for (hook, span) in &found.hook_places {
                map.hooks.insert((id, *hook), span.clone());
            }
        }
        map
    }

    fn place(&self, span: Option<&Span>) -> Option<Place> {
        span.map(|span| self.source.place(span.start))
    }
}

impl Config {
    /// The file, as it was named.
    pub fn origin(&self) -> &str {
        self.places.source.name()
    }

    /// The text that it was read from: [`crate::parse`] makes the same of it again.
    pub fn text(&self) -> &str {
        self.places.source.text()
    }

    /// The meaning of the file in canonical form, defaults written out.
    pub fn effective(&self) -> String {
        effective_text(&self.topology, &self.revoked, &self.checks, &self.hosted)
    }

    /// The node of this name, or the fault to show: the command line names one that is
    /// not in the file.
    pub fn node(&self, name: &str) -> Result<&evenkeel_core::topology::Node, Faults> {
        let found = self
            .topology
            .nodes
            .values()
            .find(|node| node.name.as_str() == name);
        found.ok_or_else(|| {
            let names = self.topology.nodes.values().map(|node| node.name.as_str());
            let mut listed: Vec<&str> = names.clone().collect();
            listed.sort_unstable();
            let help = match evenkeel_core::rule::nearest(name, names) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("its nodes are {}", listed.join(", ")),
            };
            let what = format!(
                "there is no node {} in this file",
                crate::fault::shown(name)
            );
            Faults::of_file(self.origin(), what, help)
        })
    }

    /// Where `[node.NAME]` stands.
    pub fn place_of_node(&self, name: &NodeName) -> Option<Place> {
        self.places.place(self.places.nodes.get(&NodeId::of(name)))
    }

    /// Where `[group.NAME]` stands.
    pub fn place_of_group(&self, group: GroupId) -> Option<Place> {
        self.places.place(self.places.groups.get(&group))
    }

    /// Where an address of a group stands.
    pub fn place_of_address(&self, group: GroupId, ip: IpAddr) -> Option<Place> {
        self.places.place(self.places.addresses.get(&(group, ip)))
    }

    /// Where `[group.G.check.NAME]` stands.
    pub fn place_of_check(&self, group: GroupId, check: &CheckName) -> Option<Place> {
        self.places
            .place(self.places.checks.get(&(group, check.clone())))
    }

    /// Where `[group.G.service.NAME]` stands.
    pub fn place_of_service(&self, group: GroupId, service: &ServiceName) -> Option<Place> {
        self.places
            .place(self.places.services.get(&(group, service.clone())))
    }

    /// Where the hook of a group stands that has this key.
    pub fn place_of_hook(&self, group: GroupId, hook: &'static str) -> Option<Place> {
        self.places.place(self.places.hooks.get(&(group, hook)))
    }

    /// The interface of this machine on which an address of a group belongs.
    ///
    /// # Errors
    ///
    /// Why there is none, pointing at the address in the file.
    pub fn interface_of(
        &self,
        group: GroupId,
        address: &ServiceAddress,
        interfaces: &[Interface],
    ) -> Result<String, Faults> {
        interface_for(address, interfaces).map_err(|fault: NoInterface| {
            self.fault_at_address(group, address.ip, fault.to_string(), fault.help())
        })
    }

    /// A fault of an address that shows only on a machine, at its place in the file: no
    /// interface, or the operating system configures it itself.
    pub fn fault_at_address(
        &self,
        group: GroupId,
        ip: IpAddr,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Faults {
        match self.places.addresses.get(&(group, ip)) {
            Some(span) => late(&self.places.source, span, message.into(), help.into()),
            None => Faults::of_file(self.origin(), message, help),
        }
    }

    /// A fault of a node that shows only on a machine, at its place in the file: a port
    /// in use, an address that the machine does not have.
    pub fn fault_at_node(
        &self,
        name: &NodeName,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Faults {
        match self.places.nodes.get(&NodeId::of(name)) {
            Some(span) => late(&self.places.source, span, message.into(), help.into()),
            None => Faults::of_file(self.origin(), message, help),
        }
    }
}

/// Reads the whole file.
pub(crate) fn read(source: Arc<Source>) -> Result<Config, Faults> {
    let mut report = Report::new(source.clone());
    let (table, errors) = DeTable::parse_recoverable(source.text());
    if !errors.is_empty() {
        syntax::refuse(&errors, &mut report);
    }
    let found = if errors.is_empty() {
        read_table(table.get_ref(), &mut report)
    } else {
        None
    };
    let warnings = report.finish()?;
    // Whatever keeps a part from being whole has been refused.
    let Found {
        cluster,
        timing,
        nodes,
        groups,
        revoked,
    } = found.ok_or_else(|| {
        Faults::of_file(
            source.name(),
            "the file makes no sense",
            "compare it with the manual",
        )
    })?;
    let topology = Topology {
        cluster,
        timing,
        nodes: nodes.nodes(),
        groups: groups
            .iter()
            .map(|found| (found.group.id, found.group.clone()))
            .collect(),
    };
    let checks = groups.iter().map(|found| {
        let specs = found.checks.iter().map(|(spec, _)| spec.clone()).collect();
        (found.group.id, specs)
    });
    let checks: BTreeMap<GroupId, Vec<CheckSpec>> = checks.collect();
    let hosted = groups.iter().map(|found| {
        let services = found
            .services
            .iter()
            .map(|(spec, _)| spec.clone())
            .collect();
        let hooks = found.hooks.clone();
        (found.group.id, Hosted { services, hooks })
    });
    let hosted: BTreeMap<GroupId, Hosted> = hosted.collect();
    let digest = effective::digest(&effective_text(&topology, &revoked, &checks, &hosted));
    let places = SourceMap::new(source, &nodes, &groups);
    Ok(Config {
        topology,
        checks,
        hosted,
        revoked,
        digest,
        warnings,
        places,
    })
}

/// The parts of a file.
struct Found {
    cluster: String,
    timing: evenkeel_core::topology::Timing,
    nodes: FoundNodes,
    groups: Vec<FoundGroup>,
    revoked: Vec<Fingerprint>,
}

/// Every part is read, whatever is wrong with the others.
fn read_table(table: &DeTable<'_>, report: &mut Report) -> Option<Found> {
    let top = Section::top(table);
    top.only(&KEYS, report);
    let cluster = top.required("cluster", "cluster = \"shop\"", report);
    // A certificate carries it, so it obeys the same rules as a node's name.
    let cluster = cluster.and_then(|text| name::read("cluster", &text, NodeName::new, report));
    let timing = timing::read(&top, report);
    let revoked = revoked::read(&top, report);
    let nodes = node::read(&top, report);
    let groups = group::read(&top, &nodes, report);
    Some(Found {
        cluster: cluster?.to_string(),
        timing: timing?,
        nodes,
        groups,
        revoked,
    })
}

fn effective_text(
    topology: &Topology,
    revoked: &[Fingerprint],
    checks: &BTreeMap<GroupId, Vec<CheckSpec>>,
    hosted: &BTreeMap<GroupId, Hosted>,
) -> String {
    let checks = |group: &Group| checks.get(&group.id).map_or(&[][..], Vec::as_slice);
    effective::text(topology, revoked, checks, |group| hosted.get(&group.id))
}
