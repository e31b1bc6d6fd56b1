//! What the configuration says, checked: nodes, groups, addresses, times.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::names::{CheckName, GroupId, GroupName, NodeId, NodeName, ServiceName};
use crate::rule::Rule;

/// The cluster as one checked configuration file describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// Name of the cluster; certificates carry it.
    pub cluster: String,
    /// Lease and heartbeat.
    pub timing: Timing,
    /// All nodes, by identity.
    pub nodes: BTreeMap<NodeId, Node>,
    /// All groups, by identity.
    pub groups: BTreeMap<GroupId, Group>,
}

impl Topology {
    /// The voters, in order of identity.
    pub fn voters(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.voter)
    }

    /// A digest of who votes: carried by every Renew, so that two nodes with
    /// different ideas of the majority never count each other's votes.
    pub fn membership(&self) -> u64 {
        membership(self.voters().map(|node| node.id))
    }

    /// The name of a node, or its number if the file does not know it.
    pub fn node_name(&self, id: NodeId) -> String {
        self.nodes
            .get(&id)
            .map_or_else(|| format!("node {id:?}"), |node| node.name.to_string())
    }

    /// The name of a group, or its number if the file does not know it.
    pub fn group_name(&self, id: GroupId) -> String {
        self.groups
            .get(&id)
            .map_or_else(|| format!("group {id:?}"), |group| group.name.to_string())
    }
}

/// The digest of these voters, in order of identity.
pub fn membership(voters: impl IntoIterator<Item = NodeId>) -> u64 {
    let mut digest: u64 = 0xcbf2_9ce4_8422_2325;
    for node in voters {
        for byte in node.0.to_le_bytes() {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    digest
}

/// One machine running evenkeel.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Identity, from the name.
    pub id: NodeId,
    /// Name, as in the file and in the certificate.
    pub name: NodeName,
    /// Where the others reach it: UDP for control and leases, TCP for bulk.
    pub address: SocketAddr,
    /// Votes and hosts nothing.
    pub witness: bool,
    /// Its vote counts.
    pub voter: bool,
}

/// Lease and heartbeat, and what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// L: how long a promise lasts.
    pub lease: Duration,
    /// How often the holder renews.
    pub heartbeat: Duration,
}

impl Timing {
    /// `max(L/5, 2 ms)`: covers drift of clocks during one lease (DESIGN 3.1 rule 2).
    pub fn margin(&self) -> Duration {
        (self.lease / 5).max(Duration::from_millis(2))
    }
}

/// What moves together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Identity, from the name.
    pub id: GroupId,
    /// Name, as in the file.
    pub name: GroupName,
    /// The nodes that may hold it, in order of preference.
    pub nodes: Vec<NodeId>,
    /// The addresses that move.
    pub addresses: Vec<ServiceAddress>,
    /// When a node is unfit: which failing checks mean that the group should move.
    pub fail_when: Rule,
    /// Whether it returns to a preferred node by itself.
    pub failback: Failback,
    /// Planned moves: time for requests in flight.
    pub drain: Duration,
    /// Planned moves: time for what the administrator has run before that. Zero if there is
    /// nothing to be waited for.
    pub before_close: Duration,
    /// How long what a new holder starts and runs before it opens may take, all in all.
    pub preparing: Duration,
    /// Something of it runs on the holder alone: whether it runs on a standby shows only when
    /// that one has taken over.
    pub cold: bool,
    /// What happens without a majority.
    pub without_majority: WithoutMajority,
    /// What runs with it, in the order of the file.
    pub services: Vec<ServiceName>,
    /// Its checks, in the order of the file.
    pub checks: Vec<CheckPolicy>,
}

impl Group {
    /// How long its holder may take from the word that it is to move as planned until its
    /// clients are let go.
    pub fn departure_max(&self) -> Duration {
        self.before_close + self.drain
    }
}

/// An address that moves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAddress {
    /// The address.
    pub ip: IpAddr,
    /// Length of its subnet's prefix in bits: says on which interface it belongs.
    pub prefix: u8,
    /// The interface, if the file names one.
    pub device: Option<String>,
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)?;
        match &self.device {
            Some(device) => write!(f, "@{device}"),
            None => Ok(()),
        }
    }
}

/// Whether a group returns to a preferred node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// Only when an operator says so.
    Manual,
    /// By itself once the preferred node has been well for so long.
    AutoAfter(Duration),
}

/// What a holder does when no majority can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutMajority {
    /// Mutes itself: safe, and the only thing that this version does. Serving on would take a
    /// proof that the others are off (ARCHITECTURE.md, "Where the code differs").
    Mute,
}

/// What decisions need to know of a check; how it asks is the checks room's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckPolicy {
    /// Its name within the group.
    pub name: CheckName,
    /// Time from one question to the next.
    pub interval: Duration,
    /// Time after which an answer counts as missing.
    pub timeout: Duration,
    /// How many failures in a row make it failing.
    pub fall: u32,
    /// How many good answers in a row make it well again.
    pub rise: u32,
    /// The judged node asks itself.
    pub from_node: bool,
    /// The other nodes ask.
    pub from_peers: bool,
    /// It asks about a service that runs on the holder alone: idle where the group is not open.
    pub rests: bool,
    /// The service of the group that it asks about, if any.
    pub service: Option<OfService>,
}

/// What decisions need to know of the service that a check asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfService {
    /// Its name.
    pub name: ServiceName,
    /// It is started again on the spot when it ends.
    pub restarts: bool,
    /// For so long after its start the check waits for its first good answer at most.
    pub grace: Duration,
}
