//! On which interface of this machine an address belongs. Pure: the interfaces are an
//! argument; the daemon asks the kernel for them when it starts.

use std::net::IpAddr;

use evenkeel_core::topology::ServiceAddress;
use thiserror::Error;

use crate::address::{in_subnet, width};

/// How many interfaces a help line lists.
const LISTED_MAX: usize = 8;

/// An interface of this machine, with what the operating system itself configured on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub device: String,
    /// Its addresses with the length of their prefixes; may be empty.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Why an address has no interface here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoInterface {
    /// The file names one that this machine does not have.
    #[error("this machine has no interface {device:?} for {address}")]
    Unknown {
        /// The address, as the file writes it.
        address: ServiceAddress,
        /// What the file names.
        device: String,
        /// What there is.
        present: Vec<String>,
    },
    /// No interface has an address in the subnet.
    #[error("no interface of this machine is in the subnet of {address}")]
    NoSubnet {
        /// The address, as the file writes it.
        address: ServiceAddress,
        /// What there is.
        present: Vec<String>,
    },
    /// Several interfaces are in the subnet.
    #[error("{} are both in the subnet of {address}", .devices.join(" and "))]
    Ambiguous {
        /// The address, as the file writes it.
        address: ServiceAddress,
        /// The interfaces that it could belong on.
        devices: Vec<String>,
    },
}

impl NoInterface {
    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::Unknown {
                address, present, ..
            } => {
                let subnet = format!("\"{}/{}\"", address.ip, address.prefix);
                format!(
                    "write {subnet} to find it from the subnet, or name another: {}",
                    list(present)
                )
            }
            Self::NoSubnet { address, present } => format!(
                "give an interface an address of that subnet, or name the interface, as in \"{}/{}@{}\": {}",
                address.ip,
                address.prefix,
                present.first().map_or("eth0", String::as_str),
                list(present)
            ),
            Self::Ambiguous { address, devices } => format!(
                "name the interface, as in \"{}/{}@{}\"",
                address.ip,
                address.prefix,
                devices.first().map_or("eth0", String::as_str)
            ),
        }
    }
}

fn list(present: &[String]) -> String {
    let listed: Vec<&str> = present
        .iter()
        .take(LISTED_MAX)
        .map(String::as_str)
        .collect();
    match present.len() {
        0 => "this machine has none".into(),
        all if all > LISTED_MAX => format!("there are {} and others", listed.join(", ")),
        _ => format!("there is {}", listed.join(", ")),
    }
}

/// The interface on which `address` belongs: the one that the file names, or else the one
/// with an address in its subnet (the narrowest, if several). Addresses of whole width
/// and the address itself, left over from an earlier run, say nothing.
pub fn interface_for(
    address: &ServiceAddress,
    interfaces: &[Interface],
) -> Result<String, NoInterface> {
    if let Some(device) = &address.device {
        return match interfaces
            .iter()
            .any(|interface| interface.device == *device)
        {
            true => Ok(device.clone()),
            false => Err(NoInterface::Unknown {
                address: address.clone(),
                device: device.clone(),
                present: names(interfaces),
            }),
        };
    }
    let fits = interfaces.iter().filter_map(|interface| {
        let prefixes = interface.addresses.iter().filter(|(ip, prefix)| {
            *ip != address.ip && *prefix < width(*ip) && in_subnet(address.ip, *ip, *prefix)
        });
        Some((
            prefixes.map(|(_, prefix)| *prefix).max()?,
            &interface.device,
        ))
    });
    let fits: Vec<(u8, &String)> = fits.collect();
    let narrowest = fits.iter().map(|(prefix, _)| *prefix).max();
    let best = fits.iter().filter(|(prefix, _)| Some(*prefix) == narrowest);
    let best: Vec<String> = best.map(|(_, device)| (*device).clone()).collect();
    match best.as_slice() {
        [] => Err(NoInterface::NoSubnet {
            address: address.clone(),
            present: names(interfaces),
        }),
        [only] => Ok(only.clone()),
        _ => Err(NoInterface::Ambiguous {
            address: address.clone(),
            devices: best,
        }),
    }
}

fn names(interfaces: &[Interface]) -> Vec<String> {
    let without_lo = interfaces
        .iter()
        .filter(|interface| interface.device != "lo");
    without_lo
        .map(|interface| interface.device.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Vec<Interface> {
        let interface = |device: &str, addresses: &[(&str, u8)]| Interface {
            device: device.into(),
            addresses: addresses
                .iter()
                .map(|(ip, prefix)| (ip.parse().expect("an address"), *prefix))
                .collect(),
        };
        vec![
            interface("lo", &[("127.0.0.1", 8), ("::1", 128)]),
            interface("eth0", &[("192.0.2.11", 24), ("2001:db8::11", 64)]),
            interface("eth1", &[("10.1.0.1", 16), ("198.51.100.7", 32)]),
            interface("eth2", &[("10.1.2.1", 24)]),
            interface("eth3", &[("192.0.2.12", 24), ("203.0.113.9", 24)]),
            interface("eth4", &[]),
        ]
    }

    fn asked(ip: &str, prefix: u8, device: Option<&str>) -> Result<String, NoInterface> {
        let ip = ip.parse().expect("an address");
        let device = device.map(str::to_owned);
        interface_for(&ServiceAddress { ip, prefix, device }, &machine())
    }

    #[test]
    fn the_subnet_or_the_file_says_which() {
        assert_eq!(asked("2001:db8::100", 64, None).as_deref(), Ok("eth0"));
        assert_eq!(asked("10.1.9.9", 16, None).as_deref(), Ok("eth1"));
        assert_eq!(
            asked("10.1.2.9", 24, None).as_deref(),
            Ok("eth2"),
            "the narrowest"
        );
        assert_eq!(asked("198.18.0.1", 24, Some("eth4")).as_deref(), Ok("eth4"));
    }

    #[test]
    fn what_is_missing_is_said_with_its_remedy() {
        let fault = asked("192.0.2.100", 24, None).expect_err("two interfaces");
        assert_eq!(
            fault.to_string(),
            "eth0 and eth3 are both in the subnet of 192.0.2.100/24"
        );
        assert_eq!(
            fault.help(),
            "name the interface, as in \"192.0.2.100/24@eth0\""
        );

        let fault = asked("198.51.100.8", 24, None).expect_err("only a /32");
        assert_eq!(
            fault.to_string(),
            "no interface of this machine is in the subnet of 198.51.100.8/24"
        );
        assert!(
            fault.help().contains("\"198.51.100.8/24@eth0\""),
            "{}",
            fault.help()
        );

        let fault = asked("192.0.2.100", 24, Some("wlan0")).expect_err("no such interface");
        assert_eq!(
            fault.to_string(),
            "this machine has no interface \"wlan0\" for 192.0.2.100/24@wlan0"
        );
        assert!(
            fault.help().contains("eth0, eth1, eth2, eth3, eth4"),
            "{}",
            fault.help()
        );
    }

    #[test]
    fn the_address_itself_is_no_proof_of_an_interface() {
        assert!(matches!(
            asked("203.0.113.9", 24, None),
            Err(NoInterface::NoSubnet { .. })
        ));
    }
}
