//! What makes this machine unfit to carry addresses, found without changing anything.

use std::fs;

use evenkeel_core::topology::ServiceAddress;
use evenkeel_host::address::{self, Link};
use evenkeel_host::netlink::{Connection, Family};
use rustix::thread::CapabilitySet;

use crate::TrafficError;
use crate::resolve::resolve;

/// The first kernel that keeps the tag of an address (`IFA_PROTO`).
const KERNEL_MIN: (u32, u32) = (5, 18);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, but less well than it could.
    Warning,
    /// It does not work.
    Error,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, and what to do about it.
    pub text: String,
}

/// Looks whether this machine can carry `addresses`, in the network namespace of the
/// calling thread.
pub fn examine(addresses: &[ServiceAddress]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    findings.extend(kernel(&release));
    let rights = rustix::thread::capabilities(None);
    findings.extend(rights.map_or(Vec::new(), |sets| missing_rights(sets.effective)));
    match look(addresses) {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(error_of(format!("failed to {error}"))),
    }
    findings
}

fn error_of(text: String) -> Finding {
    Finding {
        severity: Severity::Error,
        text,
    }
}

fn kernel(release: &str) -> Option<Finding> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return None;
    };
    ((major, minor) < KERNEL_MIN).then(|| {
        error_of(format!(
            "Linux {release} does not keep the tags of addresses, so that evenkeel's own could \
             not be told from the system's: it takes {}.{} or newer",
            KERNEL_MIN.0, KERNEL_MIN.1
        ))
    })
}

fn missing_rights(rights: CapabilitySet) -> Vec<Finding> {
    let needed = [
        (
            CapabilitySet::NET_ADMIN,
            "CAP_NET_ADMIN",
            "configure addresses",
        ),
        (CapabilitySet::NET_RAW, "CAP_NET_RAW", "announce addresses"),
    ];
    let missing = needed
        .into_iter()
        .filter(|(right, _, _)| !rights.contains(*right));
    missing
        .map(|(_, name, purpose)| {
            error_of(format!(
                "this process lacks {name} and cannot {purpose}: run it as root or set \
                 AmbientCapabilities={name} in its unit"
            ))
        })
        .collect()
}

fn look(addresses: &[ServiceAddress]) -> Result<Vec<Finding>, TrafficError> {
    let mut route = Connection::open(Family::Route)?;
    let links = address::links(&mut route)?;
    let present = address::addresses(&mut route)?;
    let mut findings = Vec::new();
    for address in addresses {
        match resolve(std::slice::from_ref(address), &links, &present) {
            Ok(sites) => {
                let named = |link: &&Link| sites.iter().any(|site| site.device == link.name);
                let link = links.iter().find(named);
                findings.extend(link.and_then(|link| link_finding(address, link)));
            }
            Err(error) => findings.push(error_of(format!("failed to {error}"))),
        }
    }
    findings.dedup();
    Ok(findings)
}

fn link_finding(address: &ServiceAddress, link: &Link) -> Option<Finding> {
    let name = &link.name;
    let switched_off = || {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    };
    if address.ip.is_ipv6() && switched_off() {
        return Some(error_of(format!(
            "IPv6 is switched off on {name}, where {address} belongs: set \
             net.ipv6.conf.{name}.disable_ipv6=0"
        )));
    }
    if !link.up {
        return Some(error_of(format!(
            "{name} is down, where {address} belongs: bring it up with: ip link set {name} up"
        )));
    }
    link.mac.is_none().then(|| Finding {
        severity: Severity::Warning,
        text: format!(
            "{name} is no Ethernet, so that {address} cannot be announced there: something \
             else has to bring its traffic to this machine"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_found() {
        assert!(kernel("5.10.0-28-amd64").is_some());
        assert!(kernel("4.19").is_some());
        assert!(kernel("5.18.0").is_none());
        assert!(kernel("6.1.0-13-amd64").is_none());
        assert!(kernel("unknown").is_none());
    }

    #[test]
    fn missing_rights_are_named() {
        assert_eq!(missing_rights(CapabilitySet::all()), []);
        let found = missing_rights(CapabilitySet::NET_ADMIN);
        assert_eq!(found.len(), 1);
        assert!(found[0].text.contains("CAP_NET_RAW"), "{found:?}");
    }

    #[test]
    fn an_address_without_a_place_is_found() {
        let nowhere = ServiceAddress {
            ip: "192.0.2.1".parse().unwrap(),
            prefix: 24,
            device: Some("no-such-device".to_owned()),
        };
        let found = examine(&[nowhere]);
        assert!(
            found
                .iter()
                .any(|finding| finding.text.contains("no-such-device")),
            "{found:?}"
        );
    }
}
