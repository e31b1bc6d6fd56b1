//! Addresses that move: `"192.0.2.100/24"`, `"192.0.2.100/24@eth0"`, IPv6 likewise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use evenkeel_core::topology::ServiceAddress;

use crate::fault::{Report, shown};
use crate::section::Text;

/// The longest name of an interface in bytes: the kernel's `IFNAMSIZ` less the final zero.
const DEVICE_LENGTH_MAX: usize = 15;

/// What an address is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressKind {
    /// `0.0.0.0/8` and `::`.
    Unspecified,
    Loopback,
    Multicast,
    Broadcast,
    /// `::ffff:0:0/96`: IPv4 in IPv6 clothes, which would hide that two are the same.
    Mapped,
    /// `fe80::/10`.
    LinkLocal6,
    Ordinary,
}

pub(crate) fn classify(ip: IpAddr) -> AddressKind {
    match ip {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => AddressKind::Unspecified,
        IpAddr::V4(Ipv4Addr::BROADCAST) => AddressKind::Broadcast,
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => AddressKind::Unspecified,
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => AddressKind::Mapped,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => AddressKind::LinkLocal6,
        ip if ip.is_loopback() => AddressKind::Loopback,
        ip if ip.is_multicast() => AddressKind::Multicast,
        IpAddr::V4(_) | IpAddr::V6(_) => AddressKind::Ordinary,
    }
}

/// How many bits an address has.
pub(crate) const fn width(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address as a number, in the upper bits: comparing prefixes is then the same for
/// both families.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Whether `ip` lies in the subnet of `member` with this prefix.
pub(crate) fn in_subnet(ip: IpAddr, member: IpAddr, prefix: u8) -> bool {
    let differing = (bits(ip) ^ bits(member)).leading_zeros();
    ip.is_ipv4() == member.is_ipv4() && (differing >= u32::from(prefix))
}

/// Why a text is no address; the bytes of the text that are wrong come with it.
struct Wrong {
    part: Range<usize>,
    what: String,
    help: String,
}

fn wrong<T>(
    part: Range<usize>,
    what: impl Into<String>,
    help: impl Into<String>,
) -> Result<T, Wrong> {
    Err(Wrong {
        part,
        what: what.into(),
        help: help.into(),
    })
}

/// Reads an address that moves.
pub(crate) fn read(text: &Text<'_>, report: &mut Report) -> Option<ServiceAddress> {
    match parse(text.value) {
        Ok(address) => Some(address),
        Err(wrong) => {
            let place = text.inside(report.source(), wrong.part);
            report.refuse(&place, wrong.what, wrong.help);
            None
        }
    }
}

fn parse(text: &str) -> Result<ServiceAddress, Wrong> {
    let (subnet, device) = match text.split_once('@') {
        Some((subnet, device)) => (subnet, Some(parse_device(device, subnet.len() + 1)?)),
        None => (text, None),
    };
    let (ip_text, prefix_text) = match subnet.split_once('/') {
        Some((ip, prefix)) => (ip, Some(prefix)),
        None => (subnet, None),
    };
    let ip = parse_ip(ip_text, text)?;
    let Some(prefix_text) = prefix_text else {
        let usual = if ip.is_ipv4() { 24 } else { 64 };
        let after = text.strip_prefix(subnet).unwrap_or_default();
        return wrong(
            0..subnet.len(),
            format!("{} has no prefix length", shown(ip_text)),
            format!("write the length of its subnet, for example \"{ip}/{usual}{after}\""),
        );
    };
    let prefix_at = ip_text.len() + 1..subnet.len();
    let prefix = parse_prefix(ip, prefix_text, prefix_at.clone())?;
    judge_host_part(ip, prefix, text)?;
    if device.is_none() && prefix == width(ip) {
        return wrong(
            prefix_at,
            format!("a subnet of /{prefix} has no interface"),
            format!(
                "write the length of the subnet, or name the interface, as in \"{ip}/{prefix}@eth0\""
            ),
        );
    }
    Ok(ServiceAddress { ip, prefix, device })
}

fn parse_ip(ip_text: &str, text: &str) -> Result<IpAddr, Wrong> {
    let place = 0..ip_text.len();
    let Ok(ip) = ip_text.parse::<IpAddr>() else {
        return wrong(
            if ip_text.is_empty() {
                0..text.len()
            } else {
                place
            },
            format!("{} is not an IP address", shown(ip_text)),
            "write for example \"192.0.2.100/24\" or \"2001:db8::100/64\"",
        );
    };
    let other = "write the address that clients ask for";
    match classify(ip) {
        AddressKind::Unspecified => wrong(place, format!("{ip} is the unspecified address"), other),
        AddressKind::Loopback => wrong(place, format!("{ip} is a loopback address"), other),
        AddressKind::Multicast => wrong(place, format!("{ip} is a multicast address"), other),
        AddressKind::Broadcast => wrong(place, format!("{ip} is the broadcast address"), other),
        AddressKind::Mapped => wrong(
            place,
            format!("{ip} is an IPv4 address written as IPv6"),
            "write it as IPv4",
        ),
        AddressKind::LinkLocal6 => wrong(
            place,
            format!("{ip} is a link-local address"),
            "write a global or unique local address: clients beyond the link cannot reach this one",
        ),
        AddressKind::Ordinary => Ok(ip),
    }
}

fn parse_prefix(ip: IpAddr, text: &str, place: Range<usize>) -> Result<u8, Wrong> {
    let most = width(ip);
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u8>() {
        Ok(prefix) if digits && (1..=most).contains(&prefix) => Ok(prefix),
        Ok(_) | Err(_) => {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            wrong(
                place,
                format!("{} is no prefix length", shown(text)),
                format!("for {family} it is a number from 1 to {most}"),
            )
        }
    }
}

/// The first address of a subnet names the subnet (RFC 1122 3.2.1.3; RFC 4291 2.6.1 for
/// IPv6), and the last of an IPv4 subnet all its hosts. Subnets of one or two addresses
/// have neither (RFC 3021, RFC 6164).
fn judge_host_part(ip: IpAddr, prefix: u8, text: &str) -> Result<(), Wrong> {
    let host_bits = u32::from(width(ip) - prefix);
    if host_bits < 2 {
        return Ok(());
    }
    let host = (bits(ip) << prefix) >> prefix >> (128 - u32::from(width(ip)));
    let whole = 0..text.find('@').unwrap_or(text.len());
    let help = "write the address that clients ask for, with the length of its subnet";
    if host == 0 {
        return wrong(
            whole,
            format!("{ip} is the address of the subnet {ip}/{prefix} itself"),
            help,
        );
    }
    let all_ones = (1_u128 << host_bits) - 1;
    if ip.is_ipv4() && host == all_ones {
        return wrong(
            whole,
            format!("{ip} is the broadcast address of its subnet /{prefix}"),
            help,
        );
    }
    Ok(())
}

/// A name that the kernel takes for an interface (`dev_valid_name`).
fn parse_device(device: &str, at: usize) -> Result<String, Wrong> {
    let place = at..at + device.len();
    let foreign = |c: char| c == '/' || c == ':' || c == '@' || c.is_whitespace() || c.is_control();
    let valid = !device.is_empty()
        && device.len() <= DEVICE_LENGTH_MAX
        && device != "."
        && device != ".."
        && !device.contains(foreign);
    if !valid {
        return wrong(
            place,
            format!("{} is no name of an interface", shown(device)),
            "`ip link` lists the interfaces of a machine",
        );
    }
    if device == "lo" {
        return wrong(
            place,
            "an address on lo is reachable from this machine only",
            "name the interface that clients are behind, or none",
        );
    }
    Ok(device.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_people_write_them() {
        let reads = |text: &str, canonical: &str| match parse(text) {
            Ok(address) => assert_eq!(address.to_string(), canonical),
            Err(wrong) => panic!("{text}: {}", wrong.what),
        };
        reads("192.0.2.100/24", "192.0.2.100/24");
        reads("192.0.2.100/24@eth0.100", "192.0.2.100/24@eth0.100");
        reads("192.0.2.100/32@eth0", "192.0.2.100/32@eth0");
        reads("192.0.2.0/31", "192.0.2.0/31");
        reads("2001:DB8:0::100/64", "2001:db8::100/64");
        reads("2001:db8::100/128@bond0", "2001:db8::100/128@bond0");
        reads("2001:db8::ffff:ffff/96", "2001:db8::ffff:ffff/96");
    }

    #[test]
    fn what_is_no_address_is_pointed_at() {
        let refused = |marked: &str, what: &str| {
            let text = marked.replace('^', "");
            let at = marked.find('^').expect("a mark");
            let end = marked.rfind('^').expect("a mark") - 1;
            match parse(&text) {
                Ok(address) => panic!("{text} is {address}"),
                Err(wrong) => {
                    assert_eq!((wrong.what.as_str(), wrong.part), (what, at..end), "{text}")
                }
            }
        };
        refused("^192.0.2.100^", "\"192.0.2.100\" has no prefix length");
        refused("^192.0.2.100^@eth0", "\"192.0.2.100\" has no prefix length");
        refused("^192.0.2^/24", "\"192.0.2\" is not an IP address");
        refused(
            "^www.example.com^/24",
            "\"www.example.com\" is not an IP address",
        );
        refused("^/24^", "\"\" is not an IP address");
        refused("192.0.2.100/^33^", "\"33\" is no prefix length");
        refused("192.0.2.100/^0^", "\"0\" is no prefix length");
        refused("192.0.2.100/^+24^", "\"+24\" is no prefix length");
        refused("192.0.2.100/^^", "\"\" is no prefix length");
        refused(
            "192.0.2.100/^255.255.255.0^",
            "\"255.255.255.0\" is no prefix length",
        );
        refused("2001:db8::1/^129^", "\"129\" is no prefix length");
        refused("192.0.2.100/^32^", "a subnet of /32 has no interface");
        refused("2001:db8::1/^128^", "a subnet of /128 has no interface");
        refused(
            "^192.0.2.0/24^",
            "192.0.2.0 is the address of the subnet 192.0.2.0/24 itself",
        );
        refused(
            "^192.0.2.255/24^@eth0",
            "192.0.2.255 is the broadcast address of its subnet /24",
        );
        refused(
            "^2001:db8::/64^",
            "2001:db8:: is the address of the subnet 2001:db8::/64 itself",
        );
        refused("^0.0.0.0^/24", "0.0.0.0 is the unspecified address");
        refused("^::^/64", ":: is the unspecified address");
        refused("^127.0.0.1^/8", "127.0.0.1 is a loopback address");
        refused("^::1^/64", "::1 is a loopback address");
        refused("^224.0.0.1^/24", "224.0.0.1 is a multicast address");
        refused("^ff02::1^/64", "ff02::1 is a multicast address");
        refused(
            "^255.255.255.255^/24",
            "255.255.255.255 is the broadcast address",
        );
        refused(
            "^::ffff:192.0.2.1^/120",
            "::ffff:192.0.2.1 is an IPv4 address written as IPv6",
        );
        refused("^fe80::1^/64@eth0", "fe80::1 is a link-local address");
        refused("192.0.2.100/24@^^", "\"\" is no name of an interface");
        refused("192.0.2.100/24@^a/b^", "\"a/b\" is no name of an interface");
        refused(
            "192.0.2.100/24@^sixteen-letters-^",
            "\"sixteen-letters-\" is no name of an interface",
        );
        refused(
            "192.0.2.100/24@^lo^",
            "an address on lo is reachable from this machine only",
        );
    }

    #[test]
    fn subnets_contain_their_own_family_only() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(in_subnet(ip("192.0.2.100"), ip("192.0.2.1"), 24));
        assert!(!in_subnet(ip("192.0.3.100"), ip("192.0.2.1"), 24));
        assert!(in_subnet(ip("192.0.3.100"), ip("192.0.2.1"), 23));
        assert!(in_subnet(ip("2001:db8::100"), ip("2001:db8::1"), 64));
        assert!(!in_subnet(ip("192.0.2.1"), ip("c000:201::"), 8));
        assert!(in_subnet(ip("10.0.0.1"), ip("10.0.0.1"), 32));
    }
}
