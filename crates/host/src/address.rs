//! The addresses of this machine: listed, added, deleted, watched. And the links that
//! carry them.
//!
//! Evenkeel configures a service address always alone: as /32 or /128, whatever subnet
//! it belongs to, without DAD and without a route for its prefix. So it is never the
//! primary address of a subnet, whose deletion would take the others along
//! (`promote_secondaries`), nor their secondary; no connected route comes and goes with
//! it; and the system's settings stay as they are. Replies to its own subnet leave by
//! the route that belongs to the machine's own address there.
//!
//! Each carries a tag ([`TAG`], `IFA_PROTO`, Linux 5.18), so that what an earlier life
//! left behind is told from what the administrator configured, and a lifetime, so that
//! the kernel deletes it if nobody is left to renew it. An IPv6 address is deprecated
//! from the start (preferred lifetime 0): programs can bind it, but the kernel does not
//! choose it as a source.
//!
//! A *stopgap* is a local route of ours (its protocol number is [`TAG`], too) that makes an
//! address this machine's own in place of the kernel's, which comes with the address
//! (`ip route show table local`). It stands behind the kernel's and has no source address,
//! so nothing is ever sent from an address because of it. For IPv6 it comes after the
//! address, since the kernel makes its own late, and expires. For IPv4 it comes *before*
//! many addresses, which take the kernel five times as long ([`add_stopgaps`]): the
//! kernel answers for them and delivers what comes for them meanwhile. Those do not expire,
//! so that whoever adds them has to take them away again, and those of an earlier life
//! ([`stopgaps`]).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::netlink::{
    Attributes, CREATE, Connection, EXCLUSIVE, Heard, Listener, Message, NetlinkError, REPLACE,
    Request, u16_at, u32_at,
};

/// The protocol number of addresses that evenkeel configured, as `ip -d address` shows
/// it: free in `include/uapi/linux/if_addr.h` and iproute2's `rt_addrprotos`.
pub const TAG: u8 = 0x6b;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTA_EXPIRES: u16 = 23;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_KERNEL: u8 = 2;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;

const ARPHRD_ETHER: u16 = 1;
const INFINITY: u32 = u32::MAX;

/// What IPv6 makes of a route without a metric that a program adds (`IP6_RT_PRIO_USER`);
/// the kernel's own local routes have none, so the two never meet.
const ADDED_METRIC: u32 = 1024;
/// How long the stopgap of an IPv6 address lasts, in seconds: longer than the kernel ever
/// needs, short enough to do no harm if nobody is left to take the address away.
const STOPGAP_SECONDS: u32 = 5;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number; a device made again under the same name has another.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None` where there is no Ethernet (tunnels, loopback).
    pub mac: Option<[u8; 6]>,
    /// The administrator has it up (`IFF_UP`).
    pub up: bool,
    /// It can carry frames (`IFF_RUNNING`).
    pub carrier: bool,
    /// What kind of software device it is (`veth`, `bond`, ...); empty for hardware.
    pub kind: String,
}

impl Link {
    /// The hardware address with which it can speak to neighbours now, if it can.
    pub fn voice(&self) -> Option<[u8; 6]> {
        if self.carrier { self.mac } else { None }
    }
}

/// Who configured an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Evenkeel, in this life or an earlier one.
    Evenkeel,
    /// The system or its administrator.
    Others,
}

/// How long an address stays unless it is refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// For ever.
    Endless,
    /// For so many whole seconds.
    Seconds(u32),
}

impl Lifetime {
    /// At least `span`, at least a second: the kernel counts in seconds.
    pub fn at_least(span: Duration) -> Self {
        let seconds = span
            .as_secs()
            .saturating_add(u64::from(span.subsec_nanos() > 0));
        Self::Seconds(u32::try_from(seconds.max(1)).unwrap_or(INFINITY - 1))
    }

    fn number(self) -> u32 {
        match self {
            Self::Endless => INFINITY,
            Self::Seconds(seconds) => seconds,
        }
    }
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's number.
    pub device: u32,
    /// The address itself.
    pub ip: IpAddr,
    /// Any address of its subnet: the address itself, or the other end of a
    /// point-to-point link.
    pub network: IpAddr,
    /// Length of the subnet's prefix in bits.
    pub prefix: u8,
    /// Who configured it.
    pub owner: Owner,
    /// How long it stays.
    pub lifetime: Lifetime,
}

/// Where evenkeel configures a service address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placement {
    /// The interface's number.
    pub device: u32,
    /// The address.
    pub ip: IpAddr,
}

/// What to do with an address that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse (`EEXIST`): it might be somebody else's.
    Refuse,
    /// Refresh its lifetime and its tag.
    Refresh,
}

/// Length of the prefix that holds one address alone.
pub fn single(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Whether `ip` lies in the subnet of `network` with `prefix` bits.
pub fn contains(network: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            let bits = 32 - u32::from(prefix.min(32));
            let mask = u32::MAX.checked_shl(bits).unwrap_or(0);
            network.to_bits() & mask == ip.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            let bits = 128 - u32::from(prefix.min(128));
            let mask = u128::MAX.checked_shl(bits).unwrap_or(0);
            network.to_bits() & mask == ip.to_bits() & mask
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// All links.
pub fn links(connection: &mut Connection) -> Result<Vec<Link>, NetlinkError> {
    let mut links = Vec::new();
    let request = Request::new(RTM_GETLINK, 0, &[0; 16]);
    connection.dump(&request, &mut links, Vec::clear, |links, message| {
        if message.kind == RTM_NEWLINK {
            links.extend(read_link(message));
        }
    })?;
    Ok(links)
}

/// All addresses, of both families.
pub fn addresses(connection: &mut Connection) -> Result<Vec<Address>, NetlinkError> {
    let mut addresses = Vec::new();
    let request = Request::new(RTM_GETADDR, 0, &[0; 8]);
    connection.dump(
        &request,
        &mut addresses,
        Vec::clear,
        |addresses, message| {
            if message.kind == RTM_NEWADDR {
                addresses.extend(read_address(message));
            }
        },
    )?;
    Ok(addresses)
}

/// Configures `placements` and says of each what came of it, in their order.
pub fn add(
    connection: &mut Connection,
    placements: &[Placement],
    lifetime: Lifetime,
    existing: Existing,
) -> Result<Vec<io::Result<()>>, NetlinkError> {
    let flags = match existing {
        Existing::Refuse => CREATE | EXCLUSIVE,
        Existing::Refresh => CREATE | REPLACE,
    };
    let outcomes = connection.batch(placements.iter().map(|placement| {
        let ip = octets(placement.ip);
        let ifa_flags = libc::IFA_F_NODAD | libc::IFA_F_NOPREFIXROUTE;
        let valid = lifetime.number();
        let preferred = if placement.ip.is_ipv6() { 0 } else { valid };
        let mut cache = [0; 16];
        cache[..4].copy_from_slice(&preferred.to_ne_bytes());
        cache[4..8].copy_from_slice(&valid.to_ne_bytes());
        Request::new(RTM_NEWADDR, flags, &address_header(*placement))
            .with(IFA_LOCAL, ip.as_slice())
            .with(IFA_ADDRESS, ip.as_slice())
            .with(IFA_FLAGS, &ifa_flags.to_ne_bytes())
            .with(IFA_CACHEINFO, &cache)
            .with(IFA_PROTO, &[TAG])
    }))?;
    if existing == Existing::Refuse {
        let added = placements.iter().zip(&outcomes);
        let added = added.filter(|(one, outcome)| one.ip.is_ipv6() && outcome.is_ok());
        let added: Vec<Placement> = added.map(|(one, _)| *one).collect();
        if !added.is_empty() {
            stop_gap(connection, &added)?;
        }
    }
    Ok(outcomes)
}

/// Makes IPv6 addresses that were just configured this machine's own at once. The kernel
/// leaves that, the local route, to a worker of its own, which can be kept waiting for tens
/// of milliseconds by whoever else configures something (a container that starts or ends).
/// Until then what comes for the address is dropped: also the answer to the first
/// question for a neighbour, which is repeated only a second later. A stopgap that does
/// not succeed is none: the kernel's route comes all the same.
fn stop_gap(connection: &mut Connection, added: &[Placement]) -> Result<(), NetlinkError> {
    connection.batch(added.iter().map(|placement| {
        let header = local_route(*placement, TAG);
        Request::new(RTM_NEWROUTE, CREATE | REPLACE, &header)
            .with(RTA_DST, octets(placement.ip).as_slice())
            .with(RTA_OIF, &placement.device.to_ne_bytes())
            .with(RTA_PRIORITY, &ADDED_METRIC.to_ne_bytes())
            .with(RTA_EXPIRES, &STOPGAP_SECONDS.to_ne_bytes())
    }))?;
    Ok(())
}

/// Makes IPv4 addresses this machine's own before they are configured. See the top of this
/// page; one that is there already is no fault. Of IPv6 addresses nothing is done: the kernel
/// answers questions for a neighbour only once the address itself is there.
pub fn add_stopgaps(
    connection: &mut Connection,
    placements: &[Placement],
) -> Result<(), NetlinkError> {
    let early = placements.iter().filter(|one| one.ip.is_ipv4());
    connection.batch(early.map(|placement| {
        let header = local_route(*placement, TAG);
        Request::new(RTM_NEWROUTE, CREATE | EXCLUSIVE, &header)
            .with(RTA_DST, octets(placement.ip).as_slice())
            .with(RTA_OIF, &placement.device.to_ne_bytes())
            .with(RTA_PRIORITY, &ADDED_METRIC.to_ne_bytes())
    }))?;
    Ok(())
}

/// Takes stopgaps away and says of each what came of it, in their order. The kernel's own
/// routes, those of addresses that are there, stay.
pub fn delete_stopgaps(
    connection: &mut Connection,
    placements: &[Placement],
) -> Result<Vec<io::Result<()>>, NetlinkError> {
    connection.batch(placements.iter().map(|placement| {
        let header = local_route(*placement, TAG);
        Request::new(RTM_DELROUTE, 0, &header)
            .with(RTA_DST, octets(placement.ip).as_slice())
            .with(RTA_OIF, &placement.device.to_ne_bytes())
            .with(RTA_PRIORITY, &ADDED_METRIC.to_ne_bytes())
    }))
}

/// The stopgaps of IPv4 addresses that are there, whoever left them.
pub fn stopgaps(connection: &mut Connection) -> Result<Vec<Placement>, NetlinkError> {
    let mut found = Vec::new();
    let mut header = [0; 12];
    header[0] = libc::AF_INET as u8;
    header[4] = RT_TABLE_LOCAL;
    header[5] = TAG;
    let request = Request::new(RTM_GETROUTE, 0, &header);
    let listed = connection.dump_chosen(&request, &mut found, Vec::clear, |found, message| {
        if message.kind == RTM_NEWROUTE
            && let Some((placement, TAG)) = read_local_route(message)
        {
            found.push(placement);
        }
    });
    match listed {
        // The table is made with the first address.
        Err(NetlinkError::Refused(error)) if error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(Vec::new())
        }
        listed => listed.map(|()| found),
    }
}

/// Deletes `placements` and says of each what came of it, in their order. An address
/// of the same number but a wider prefix, which is somebody else's, stays. With an IPv6
/// address goes the local route that was added here, which the kernel would leave behind:
/// this machine would go on taking for its own what it sends to the next holder.
pub fn delete(
    connection: &mut Connection,
    placements: &[Placement],
) -> Result<Vec<io::Result<()>>, NetlinkError> {
    let outcomes = connection.batch(placements.iter().map(|placement| {
        let ip = octets(placement.ip);
        Request::new(RTM_DELADDR, 0, &address_header(*placement))
            .with(IFA_LOCAL, ip.as_slice())
            .with(IFA_ADDRESS, ip.as_slice())
    }))?;
    let routed: Vec<&Placement> = placements.iter().filter(|one| one.ip.is_ipv6()).collect();
    if !routed.is_empty() {
        // Mostly there is none.
        connection.batch(routed.into_iter().map(|placement| {
            Request::new(RTM_DELROUTE, 0, &local_route(*placement, 0))
                .with(RTA_DST, octets(placement.ip).as_slice())
                .with(RTA_OIF, &placement.device.to_ne_bytes())
                .with(RTA_PRIORITY, &ADDED_METRIC.to_ne_bytes())
        }))?;
    }
    Ok(outcomes)
}

/// Puts back the route in the table `local` by which this machine takes packets for an
/// address as its own; the kernel makes it with the address, and anybody may delete it.
pub fn restore_local_routes(
    connection: &mut Connection,
    placements: &[Placement],
) -> Result<Vec<io::Result<()>>, NetlinkError> {
    connection.batch(placements.iter().map(|placement| {
        let ip = octets(placement.ip);
        let header = local_route(*placement, RTPROT_KERNEL);
        let request = Request::new(RTM_NEWROUTE, CREATE | REPLACE, &header)
            .with(RTA_DST, ip.as_slice())
            .with(RTA_OIF, &placement.device.to_ne_bytes());
        match placement.ip {
            IpAddr::V4(_) => request.with(RTA_PREFSRC, ip.as_slice()),
            IpAddr::V6(_) => request,
        }
    }))
}

/// `struct rtmsg` of an address's local route.
fn local_route(placement: Placement, protocol: u8) -> [u8; 12] {
    let scope = if placement.ip.is_ipv4() {
        RT_SCOPE_HOST
    } else {
        0
    };
    [
        family(placement.ip),
        single(placement.ip),
        0,
        0,
        RT_TABLE_LOCAL,
        protocol,
        scope,
        RTN_LOCAL,
        0,
        0,
        0,
        0,
    ]
}

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// `struct ifaddrmsg`.
fn address_header(placement: Placement) -> [u8; 8] {
    let mut header = [family(placement.ip), single(placement.ip), 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&placement.device.to_ne_bytes());
    header
}

/// The bytes of an address as attributes carry them.
struct Octets {
    bytes: [u8; 16],
    length: usize,
}

impl Octets {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn octets(ip: IpAddr) -> Octets {
    let mut bytes = [0; 16];
    let length = match ip {
        IpAddr::V4(ip) => {
            bytes[..4].copy_from_slice(&ip.octets());
            4
        }
        IpAddr::V6(ip) => {
            bytes = ip.octets();
            16
        }
    };
    Octets { bytes, length }
}

fn read_ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

fn read_text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(crate) fn read_link(message: Message<'_>) -> Option<Link> {
    let (header, attributes) = message.split(16)?;
    let flags = u32_at(header, 8)?;
    let set = |flag: libc::c_int| flags & flag.unsigned_abs() != 0;
    let mut link = Link {
        index: u32_at(header, 4)?,
        name: String::new(),
        mac: None,
        up: set(libc::IFF_UP),
        carrier: set(libc::IFF_UP) && set(libc::IFF_RUNNING),
        kind: String::new(),
    };
    let ethernet = u16_at(header, 2)? == ARPHRD_ETHER;
    for (kind, value) in attributes {
        match kind {
            IFLA_IFNAME => link.name = read_text(value),
            IFLA_ADDRESS if ethernet => link.mac = value.try_into().ok(),
            IFLA_LINKINFO => {
                let mut nested = Attributes::nested(value);
                if let Some((_, value)) = nested.find(|(kind, _)| *kind == IFLA_INFO_KIND) {
                    link.kind = read_text(value);
                }
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

pub(crate) fn read_address(message: Message<'_>) -> Option<Address> {
    let (header, attributes) = message.split(8)?;
    let (mut local, mut network, mut tag, mut valid) = (None, None, 0, INFINITY);
    for (kind, value) in attributes {
        match kind {
            IFA_LOCAL => local = read_ip(value),
            IFA_ADDRESS => network = read_ip(value),
            IFA_PROTO => tag = value.first().copied().unwrap_or(0),
            IFA_CACHEINFO => valid = u32_at(value, 4)?,
            _ => {}
        }
    }
    let network = network.or(local)?;
    Some(Address {
        device: u32_at(header, 4)?,
        ip: local.unwrap_or(network),
        network,
        prefix: header[1],
        owner: if tag == TAG {
            Owner::Evenkeel
        } else {
            Owner::Others
        },
        lifetime: if valid == INFINITY {
            Lifetime::Endless
        } else {
            Lifetime::Seconds(valid)
        },
    })
}

/// The place for which a route in the table `local` takes packets, and the protocol number of
/// the route, if that is what the message is about.
pub(crate) fn read_local_route(message: Message<'_>) -> Option<(Placement, u8)> {
    let (header, attributes) = message.split(12)?;
    let (prefix, mut table) = (header[1], u32::from(header[4]));
    let (protocol, kind) = (header[5], header[7]);
    let (mut ip, mut device) = (None, None);
    for (kind, value) in attributes {
        match kind {
            RTA_DST => ip = read_ip(value),
            RTA_OIF => device = u32_at(value, 0),
            RTA_TABLE => table = u32_at(value, 0)?,
            _ => {}
        }
    }
    let ip = ip?;
    let local = kind == RTN_LOCAL && table == u32::from(RT_TABLE_LOCAL) && prefix == single(ip);
    let device = device?;
    local.then_some((Placement { device, ip }, protocol))
}

/// What it means that a local route is there or gone.
fn route_change(message: Message<'_>, change: [fn(Placement) -> Change; 2]) -> Option<Change> {
    let [of_kernel, of_ours] = change;
    match read_local_route(message)? {
        (placement, TAG) if placement.ip.is_ipv4() => Some(of_ours(placement)),
        // It comes and goes by itself.
        (_, TAG) => None,
        (placement, _) => Some(of_kernel(placement)),
    }
}

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link is new or different.
    Link(Link),
    /// The link with this number is gone, and its addresses with it.
    LinkGone(u32),
    /// An address is new or different.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// The local route of an address is there.
    Route(Placement),
    /// The local route of an address is gone.
    RouteGone(Placement),
    /// The stopgap of an IPv4 address is there.
    Stopgap(Placement),
    /// The stopgap of an IPv4 address is gone.
    StopgapGone(Placement),
}

/// Hears of links, addresses and their local routes. See [`Listener`].
#[derive(Debug)]
pub struct Changes {
    listener: Listener,
}

impl Changes {
    /// Starts to listen, in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let listener = Listener::open(&[
            RTNLGRP_LINK,
            RTNLGRP_IPV4_IFADDR,
            RTNLGRP_IPV6_IFADDR,
            RTNLGRP_IPV4_ROUTE,
            RTNLGRP_IPV6_ROUTE,
        ])?;
        Ok(Self { listener })
    }

    /// Hands every change that waits to `each`, in the order in which they happened.
    /// Never waits. A change made over a [`Connection`] can be heard as soon as its
    /// acknowledgement is there.
    pub fn hear(&mut self, mut each: impl FnMut(Change)) -> Result<Heard, NetlinkError> {
        self.listener.hear(|message| {
            if let Some(change) = read_change(message) {
                each(change);
            }
        })
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

pub(crate) fn read_change(message: Message<'_>) -> Option<Change> {
    match message.kind {
        // A bridge tells of its ports in the family AF_BRIDGE: a port that leaves the
        // bridge is "deleted" there, but the link stays.
        RTM_NEWLINK | RTM_DELLINK if message.body.first() != Some(&0) => None,
        RTM_NEWLINK => read_link(message).map(Change::Link),
        RTM_DELLINK => read_link(message).map(|link| Change::LinkGone(link.index)),
        RTM_NEWADDR => read_address(message).map(Change::Address),
        RTM_DELADDR => read_address(message).map(Change::AddressGone),
        RTM_NEWROUTE => route_change(message, [Change::Route, Change::Stopgap]),
        RTM_DELROUTE => route_change(message, [Change::RouteGone, Change::StopgapGone]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Family;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn subnets_contain_what_they_should() {
        assert!(contains(ip("192.0.2.1"), 24, ip("192.0.2.200")));
        assert!(!contains(ip("192.0.2.1"), 24, ip("192.0.3.1")));
        assert!(contains(ip("192.0.2.1"), 0, ip("10.0.0.1")));
        assert!(!contains(ip("192.0.2.1"), 32, ip("192.0.2.2")));
        assert!(contains(ip("2001:db8::1"), 64, ip("2001:db8::ffff")));
        assert!(!contains(ip("2001:db8::1"), 64, ip("2001:db8:0:1::1")));
        assert!(contains(ip("2001:db8::1"), 0, ip("::1")));
        assert!(!contains(ip("0.0.0.0"), 0, ip("::1")));
    }

    #[test]
    fn lifetimes_are_whole_seconds_and_never_zero() {
        assert_eq!(Lifetime::at_least(Duration::ZERO), Lifetime::Seconds(1));
        assert_eq!(
            Lifetime::at_least(Duration::from_millis(1_001)),
            Lifetime::Seconds(2)
        );
        assert_eq!(
            Lifetime::at_least(Duration::MAX),
            Lifetime::Seconds(INFINITY - 1)
        );
    }

    /// A namespace in which nothing was ever configured has no table of local routes.
    #[test]
    fn without_any_address_there_are_no_stopgaps() {
        let found = crate::sys::netns::in_new(|| {
            let mut connection = Connection::open(Family::Route).expect("a socket");
            stopgaps(&mut connection).expect("listed")
        });
        match found {
            Ok(found) => assert_eq!(found, []),
            Err(error) => {
                let root = rustix::process::geteuid().is_root();
                assert!(!root, "root may: {error}");
                eprintln!("NOT TESTED: no right to make a network namespace");
            }
        }
    }

    #[test]
    fn the_loopback_link_and_its_address_are_listed() {
        let mut connection = Connection::open(Family::Route).expect("a socket");
        let links = links(&mut connection).expect("links");
        let lo = links
            .iter()
            .find(|link| link.name == "lo")
            .expect("every namespace has one");
        assert_eq!(lo.mac, None);
        if lo.up {
            let addresses = addresses(&mut connection).expect("addresses");
            let found = addresses
                .iter()
                .find(|address| address.ip == ip("127.0.0.1"));
            let found = found.expect("loopback is up");
            assert_eq!((found.device, found.prefix), (lo.index, 8));
            assert_eq!(
                (found.owner, found.lifetime),
                (Owner::Others, Lifetime::Endless)
            );
        }
    }
}
