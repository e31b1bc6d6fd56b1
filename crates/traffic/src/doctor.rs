//! What makes this machine unfit to carry addresses, found without changing anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use evenkeel_core::finding::Finding;
use evenkeel_core::topology::ServiceAddress;
use evenkeel_host::address::{self, Link};
use evenkeel_host::arping;
use evenkeel_host::frame::Mac;
use evenkeel_host::netlink::{Connection, Family};
use rustix::thread::CapabilitySet;

use crate::TrafficError;
use crate::resolve::resolve;

/// The first kernel that keeps the tag of an address (`IFA_PROTO`).
const KERNEL_MIN: (u32, u32) = (5, 18);

/// Looks whether this machine can carry `addresses`, in the network namespace of the
/// calling thread.
pub fn examine(addresses: &[ServiceAddress]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let fine = || Finding::fine("kernel", format!("Linux {release}"));
    findings.push(kernel(&release).unwrap_or_else(fine));
    let rights = rustix::thread::capabilities(None);
    findings.extend(rights.map_or(Vec::new(), |sets| missing_rights(sets.effective)));
    let loose = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_loose");
    findings.extend(tracking(loose.ok().as_deref()));
    match look(addresses) {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(error_of(format!("failed to {error}"))),
    }
    findings
}

fn error_of(text: String) -> Finding {
    Finding::unfit("", text)
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

/// A new holder resets connections that it does not know, so that their clients know at once; a
/// firewall that tracks connections must show it their segments. None: nothing is tracked here.
fn tracking(loose: Option<&str>) -> Option<Finding> {
    let place = "net.netfilter.nf_conntrack_tcp_loose";
    (loose?.trim() == "0").then(|| {
        Finding::warning(
            place,
            "is 0: where a rule drops invalid segments, clients of a holder that died hang instead \
             of being reset",
        )
        .remedy(format!(
            "sysctl {place}=1, or let the groups' addresses past such rules (manual, Firewall)"
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
    let mut looked: BTreeSet<&str> = BTreeSet::new();
    for address in addresses {
        match resolve(std::slice::from_ref(address), &links, &present) {
            Ok(sites) => {
                let named = |link: &&Link| sites.iter().any(|site| site.device == link.name);
                let link = links.iter().find(named);
                findings.extend(link.map(|link| place_of(address, link)));
                let new = link.filter(|link| address.ip.is_ipv4() && looked.insert(&link.name));
                findings.extend(new.into_iter().flat_map(settings));
            }
            Err(error) => findings.push(error_of(format!("failed to {error}"))),
        }
    }
    findings.dedup();
    Ok(findings)
}

/// Where an address belongs, and whether it can be served there.
fn place_of(address: &ServiceAddress, link: &Link) -> Finding {
    let fine = || Finding::fine(&address.to_string(), format!("belongs on {}", link.name));
    link_finding(address, link).unwrap_or_else(fine)
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
    if !link.carrier {
        return Some(error_of(format!(
            "{name} has no carrier, where {address} belongs: plug it in, or see what is at its \
             other end"
        )));
    }
    link.mac.is_none().then(|| {
        Finding::warning(
            "",
            format!(
                "{name} is no Ethernet, so that {address} cannot be announced there: something \
                 else has to bring its traffic to this machine"
            ),
        )
    })
}

/// Settings of the kernel that keep neighbours or clients from reaching IPv4 addresses there.
fn settings(link: &Link) -> Vec<Finding> {
    let name = &link.name;
    // Of the two the kernel takes the greater.
    let number = |what: &str| {
        let read = |place: &str| {
            let path = format!("/proc/sys/net/ipv4/conf/{place}/{what}");
            let text = fs::read_to_string(path).ok()?;
            text.trim().parse::<u32>().ok()
        };
        read("all").max(read(name)).unwrap_or(0)
    };
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let found = [
        answers_for(name, number("arp_ignore")),
        lets_in(name, number("rp_filter"), &defaults(&routes)),
    ];
    found.into_iter().flatten().collect()
}

fn answers_for(name: &str, arp_ignore: u32) -> Option<Finding> {
    let place = format!("net.ipv4.conf.{name}.arp_ignore");
    let remedy =
        format!("sysctl {place}=0, and net.ipv4.conf.all.arp_ignore=0 (1 is good as well)");
    match arp_ignore {
        0 | 1 | 3 => None,
        8 => Some(
            Finding::unfit(
                &place,
                "is 8: this machine answers no ARP, so nobody finds it",
            )
            .remedy(remedy),
        ),
        other => Some(
            Finding::warning(
                &place,
                format!(
                    "is {other}: addresses of whole width, as ours are, may not be answered for"
                ),
            )
            .remedy(remedy),
        ),
    }
}

/// The devices of default routes, from /proc/net/route.
fn defaults(routes: &str) -> Vec<String> {
    let lines = routes.lines().skip(1);
    let default = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let whole = words.get(1) == Some(&"00000000") && words.get(7) == Some(&"00000000");
        words.first().filter(|_| whole).map(ToString::to_string)
    };
    lines.filter_map(default).collect()
}

/// A strict filter drops what comes in where its answer would not go out.
fn lets_in(name: &str, rp_filter: u32, defaults: &[String]) -> Option<Finding> {
    let elsewhere = !defaults.is_empty() && defaults.iter().all(|one| one != name);
    (rp_filter == 1 && elsewhere).then(|| {
        let place = format!("net.ipv4.conf.{name}.rp_filter");
        Finding::warning(
            &place,
            format!(
                "is strict, and the default route leaves by {}: clients beyond this segment that \
                 come in by {name} are dropped",
                defaults.join(", ")
            ),
        )
        .remedy(format!(
            "sysctl {place}=2 (loose), or a route back by {name}"
        ))
    })
}

/// Who answers on the wire for the IPv4 addresses among `addresses`, of those that are not on
/// this machine and have a place here. Asks without claiming them, and waits for `within` on
/// each interface.
pub fn on_the_wire(
    addresses: &[ServiceAddress],
    within: Duration,
) -> Result<BTreeMap<IpAddr, Mac>, TrafficError> {
    let mut route = Connection::open(Family::Route)?;
    let links = address::links(&mut route)?;
    let present = address::addresses(&mut route)?;
    let mut wanted: BTreeMap<String, Vec<Ipv4Addr>> = BTreeMap::new();
    for address in addresses {
        let own = present.iter().any(|seen| seen.ip == address.ip);
        let sites = resolve(std::slice::from_ref(address), &links, &present);
        if let (IpAddr::V4(ip), false, Ok(sites)) = (address.ip, own, sites) {
            for site in sites {
                wanted.entry(site.device).or_default().push(ip);
            }
        }
    }
    let mut answers = BTreeMap::new();
    for (device, ips) in wanted {
        let link = links.iter().find(|link| link.name == device);
        let Some((link, mac)) = link.and_then(|link| Some((link, link.voice()?))) else {
            continue;
        };
        // Without the right, or on a device that has just gone, nobody is heard.
        let heard = arping::ask(link.index, mac, &ips, within).unwrap_or_default();
        answers.extend(heard.into_iter().map(|(ip, mac)| (IpAddr::V4(ip), mac)));
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::finding::Severity;

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
        assert!(found[0].what.contains("CAP_NET_RAW"), "{found:?}");
    }

    #[test]
    fn settings_that_hide_addresses_are_found() {
        let severity = |value| answers_for("eth0", value).map(|one| one.severity);
        assert_eq!([0, 1, 3].map(severity), [None; 3]);
        assert_eq!(severity(2), Some(Severity::Warning));
        assert_eq!(severity(8), Some(Severity::Unfit));
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                      eth1 00000000 0102000A 0003 0 0 0 00000000 0 0 0\n\
                      eth0 0002000A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        assert_eq!(defaults(routes), ["eth1"]);
        assert!(lets_in("eth0", 1, &defaults(routes)).is_some());
        assert!(lets_in("eth0", 2, &defaults(routes)).is_none());
        assert!(lets_in("eth1", 1, &defaults(routes)).is_none());
        assert!(lets_in("eth0", 1, &[]).is_none(), "there is nothing beyond");
        assert!(tracking(Some("0\n")).is_some());
        assert!(tracking(Some("1\n")).is_none());
        assert!(tracking(None).is_none(), "nothing is tracked");
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
                .any(|finding| finding.what.contains("no-such-device")),
            "{found:?}"
        );
    }
}
