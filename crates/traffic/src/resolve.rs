//! Which interface an address belongs on: the one that the file names, or the one whose
//! own subnet contains it, the smallest subnet if there are several. And whether
//! somebody else has it already.

use std::collections::BTreeSet;
use std::net::IpAddr;

use evenkeel_core::topology::ServiceAddress;
use evenkeel_host::address::{Address, Link, Owner, contains};

use crate::TrafficError;

/// An address and the interface where it is placed, by name: a device made again under
/// its name is the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The address.
    pub ip: IpAddr,
    /// The interface's name.
    pub device: String,
}

/// Finds the place of each address, in their order. `links` and `present` are what the
/// kernel lists; addresses that evenkeel itself left there neither show a subnet nor
/// stand in the way.
pub fn resolve(
    addresses: &[ServiceAddress],
    links: &[Link],
    present: &[Address],
) -> Result<Vec<Site>, TrafficError> {
    addresses
        .iter()
        .map(|address| {
            refuse_foreign(address, links, present)?;
            let device = match &address.device {
                Some(device) => named(address, device, links)?,
                None => by_subnet(address, links, present)?,
            };
            Ok(Site {
                ip: address.ip,
                device,
            })
        })
        .collect()
}

fn refuse_foreign(
    address: &ServiceAddress,
    links: &[Link],
    present: &[Address],
) -> Result<(), TrafficError> {
    let foreign = |seen: &&Address| seen.ip == address.ip && seen.owner == Owner::Others;
    match present.iter().find(foreign) {
        Some(seen) => Err(TrafficError::Foreign {
            address: address.to_string(),
            ip: seen.ip,
            prefix: seen.prefix,
            device: name_of(seen.device, links),
        }),
        None => Ok(()),
    }
}

fn name_of(index: u32, links: &[Link]) -> String {
    let link = links.iter().find(|link| link.index == index);
    link.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
}

fn named(address: &ServiceAddress, device: &str, links: &[Link]) -> Result<String, TrafficError> {
    if links.iter().any(|link| link.name == device) {
        return Ok(device.to_owned());
    }
    Err(TrafficError::NoDevice {
        address: address.to_string(),
        device: device.to_owned(),
        present: list(links.iter().map(|link| link.name.as_str())),
    })
}

fn by_subnet(
    address: &ServiceAddress,
    links: &[Link],
    present: &[Address],
) -> Result<String, TrafficError> {
    let subnet = || format!("{}/{}", network(address), address.prefix);
    // An address alone in its prefix says nothing of a subnet; neither does one of ours.
    let fits = |seen: &&Address| {
        seen.owner == Owner::Others
            && seen.prefix < evenkeel_host::address::single(seen.ip)
            && contains(seen.network, seen.prefix, address.ip)
    };
    let longest = present.iter().filter(fits).map(|seen| seen.prefix).max();
    let devices: BTreeSet<String> = present
        .iter()
        .filter(fits)
        .filter(|seen| Some(seen.prefix) == longest)
        .map(|seen| name_of(seen.device, links))
        .collect();
    let mut names = devices.iter();
    match (names.next(), names.next()) {
        (Some(device), None) => Ok(device.clone()),
        (None, _) => Err(TrafficError::NoSubnet {
            address: address.to_string(),
            subnet: subnet(),
        }),
        (Some(_), Some(_)) => Err(TrafficError::SeveralDevices {
            address: address.to_string(),
            subnet: subnet(),
            devices: list(devices.iter().map(String::as_str)),
        }),
    }
}

/// The address with the bits after its prefix set to zero.
fn network(address: &ServiceAddress) -> IpAddr {
    match address.ip {
        IpAddr::V4(ip) => {
            let bits = 32 - u32::from(address.prefix.min(32));
            IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(bits).unwrap_or(0)).into())
        }
        IpAddr::V6(ip) => {
            let bits = 128 - u32::from(address.prefix.min(128));
            IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(bits).unwrap_or(0)).into())
        }
    }
}

/// The most names in one message: a machine may have thousands of interfaces.
const LISTED_MAX: usize = 12;

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown = names
        .iter()
        .take(LISTED_MAX)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(LISTED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_host::address::Lifetime;

    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mac: Some([2, 0, 0, 0, 0, index as u8]),
            up: true,
            carrier: true,
            kind: String::new(),
        }
    }

    fn present(device: u32, text: &str, owner: Owner) -> Address {
        let (ip, prefix) = text.split_once('/').unwrap();
        let ip: IpAddr = ip.parse().unwrap();
        let prefix = prefix.parse().unwrap();
        Address {
            device,
            ip,
            network: ip,
            prefix,
            owner,
            lifetime: Lifetime::Endless,
        }
    }

    fn address(text: &str) -> ServiceAddress {
        let (rest, device) = match text.split_once('@') {
            Some((rest, device)) => (rest, Some(device.to_owned())),
            None => (text, None),
        };
        let (ip, prefix) = rest.split_once('/').unwrap();
        ServiceAddress {
            ip: ip.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
            device,
        }
    }

    fn check(text: &str, expected: Result<&str, &str>) {
        let links = [
            link(1, "lo"),
            link(2, "eth0"),
            link(3, "eth1"),
            link(4, "eth2"),
        ];
        let seen = [
            present(1, "127.0.0.1/8", Owner::Others),
            present(2, "192.0.2.11/24", Owner::Others),
            present(2, "2001:db8::11/64", Owner::Others),
            present(3, "198.51.100.11/24", Owner::Others),
            present(4, "198.51.100.12/24", Owner::Others),
            present(3, "10.0.0.1/8", Owner::Others),
            present(4, "10.1.0.1/16", Owner::Others),
            present(2, "203.0.113.9/24", Owner::Evenkeel),
            present(3, "192.0.2.77/32", Owner::Others),
            present(2, "192.0.2.50/32", Owner::Evenkeel),
        ];
        match (resolve(&[address(text)], &links, &seen), expected) {
            (Ok(sites), Ok(device)) => assert_eq!(sites[0].device, device, "{text}"),
            (Err(error), Err(part)) => {
                let error = error.to_string();
                assert!(error.contains(part), "{text}: {error}");
            }
            (found, _) => panic!("{text}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn addresses_find_their_interface() {
        check("192.0.2.100/24", Ok("eth0"));
        check("2001:db8::64/64", Ok("eth0"));
        check("192.0.2.50/24", Ok("eth0"));
        check("192.0.2.100/32", Ok("eth0"));
        check("10.1.2.3/24", Ok("eth2"));
        check("10.2.2.3/24", Ok("eth1"));
        check("198.51.100.100/24@eth2", Ok("eth2"));
        check("203.0.113.5/32@lo", Ok("lo"));
    }

    #[test]
    fn what_has_no_place_is_refused_with_the_remedy() {
        check(
            "203.0.113.5/24",
            Err("no interface of this machine has an address in 203.0.113.0/24: name one with @"),
        );
        check("2001:db8:1::5/64", Err("in 2001:db8:1::/64"));
        check(
            "198.51.100.100/24",
            Err("the interfaces eth1, eth2 all have"),
        );
        check(
            "192.0.2.100/24@eth9",
            Err("no interface eth9; it has lo, eth0, eth1, eth2"),
        );
    }

    #[test]
    fn what_the_system_itself_configured_is_refused() {
        check(
            "192.0.2.11/24",
            Err("ip address delete 192.0.2.11/24 dev eth0"),
        );
        check(
            "192.0.2.77/24",
            Err("ip address delete 192.0.2.77/32 dev eth1"),
        );
        check("192.0.2.77/24@eth0", Err("configured it on eth1"));
    }
}
