//! Three servers, a spare, a witness, and the four groups, by small numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::cluster;
use crate::config_text::GroupPlan;
use crate::host::Place;

/// The servers; the last one is the spare.
pub(super) use crate::cluster::SERVERS;

/// The servers and the witness.
pub(super) const VOTERS: usize = SERVERS.len() + 1;

/// A group.
pub(super) struct Group {
    pub(super) name: &'static str,
    /// Its servers in order of preference.
    pub(super) nodes: &'static [usize],
    /// After how long it goes back by itself.
    pub(super) failback: Option<Duration>,
    /// Whether it has an IPv6 address, too.
    six: bool,
    /// Last byte of its addresses.
    number: u8,
}

/// The groups.
pub(super) const GROUPS: [Group; 4] = [
    Group {
        name: "mail",
        nodes: &[0, 3],
        failback: Some(Duration::from_secs(5)),
        six: false,
        number: 101,
    },
    Group {
        name: "shop",
        nodes: &[1, 3],
        failback: None,
        six: true,
        number: 102,
    },
    Group {
        name: "wiki",
        nodes: &[2, 3],
        failback: Some(Duration::from_secs(9)),
        six: false,
        number: 103,
    },
    Group {
        name: "www",
        nodes: &[1, 2, 3, 0],
        failback: Some(Duration::from_secs(7)),
        six: true,
        number: 104,
    },
];

impl Group {
    /// The address that is asked.
    pub(super) fn ip(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, self.number))
    }

    /// All its addresses.
    pub(super) fn addresses(&self) -> Vec<(IpAddr, u8)> {
        let last = u16::from(self.number);
        let six = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        let six = self.six.then_some((IpAddr::V6(six), 64));
        [(self.ip(), 24)].into_iter().chain(six).collect()
    }

    fn plan(&self) -> GroupPlan {
        let failback = self.failback;
        GroupPlan {
            name: self.name.to_owned(),
            nodes: self
                .nodes
                .iter()
                .map(|node| SERVERS[*node].to_owned())
                .collect(),
            addresses: self.addresses(),
            failback: failback.map(|after| format!("auto after {}s", after.as_secs())),
        }
    }
}

/// The servers for the lab.
pub(super) fn servers() -> Vec<Place> {
    cluster::servers(SERVERS.len())
}

/// The groups for the lab.
pub(super) fn groups() -> Vec<GroupPlan> {
    GROUPS.iter().map(Group::plan).collect()
}

/// The number of a server.
pub(super) fn number(name: &str) -> Option<usize> {
    SERVERS.iter().position(|server| *server == name)
}
