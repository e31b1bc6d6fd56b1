//! The configuration file of a lab's cluster, as an administrator would write it.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use evenkeel_host::address::contains;

use crate::host::{Family, Place};

/// What differs between the clusters of a lab.
#[derive(Clone, Debug)]
pub(crate) struct Wishes {
    /// `profile`.
    pub(crate) profile: &'static str,
    /// `fail_when`; left out if `None`.
    pub(crate) fail_when: Option<String>,
    /// Time-out of the checks.
    pub(crate) timeout: Duration,
    /// Time from one question of a check to the next.
    pub(crate) interval: Duration,
    /// In which family the nodes talk, and are asked.
    pub(crate) talk: Family,
}

/// A group of a lab's cluster.
#[derive(Clone, Debug)]
pub(crate) struct GroupPlan {
    /// Its name.
    pub(crate) name: String,
    /// Its servers in order of preference.
    pub(crate) nodes: Vec<String>,
    /// Its addresses, with their prefixes.
    pub(crate) addresses: Vec<(IpAddr, u8)>,
    /// `failback`; left out if `None`.
    pub(crate) failback: Option<String>,
}

/// The port of the daemons (DESIGN 5).
pub(crate) const PORT: u16 = 7946;

/// The file for `servers` and, if there is one, `witness`, with `groups`.
pub(crate) fn text(
    wishes: &Wishes,
    servers: &[Place],
    witness: Option<&Place>,
    groups: &[GroupPlan],
) -> String {
    let mut text = format!("cluster = \"lab\"\nprofile = \"{}\"\n\n", wishes.profile);
    for server in servers {
        node(&mut text, wishes.talk, server, "");
    }
    if let Some(witness) = witness {
        node(&mut text, wishes.talk, witness, "witness = true\n");
    }
    for planned in groups {
        group(&mut text, wishes, planned);
    }
    text
}

fn group(text: &mut String, wishes: &Wishes, planned: &GroupPlan) {
    let quoted = |items: Vec<String>| {
        items
            .iter()
            .map(|item| format!("\"{item}\""))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let name = &planned.name;
    let nodes = quoted(planned.nodes.clone());
    let addresses = planned.addresses.iter();
    let addresses = quoted(
        addresses
            .map(|(ip, prefix)| address(*ip, *prefix))
            .collect(),
    );
    let _ = write!(
        text,
        "\n[group.{name}]\nnodes = [{nodes}]\naddresses = [{addresses}]\n"
    );
    if let Some(rule) = &wishes.fail_when {
        let _ = writeln!(text, "fail_when = \"{rule}\"");
    }
    if let Some(failback) = &planned.failback {
        let _ = writeln!(text, "failback = \"{failback}\"");
    }
    let pace = format!(
        "interval = \"{}ms\"\ntimeout = \"{}ms\"\n",
        wishes.interval.as_millis(),
        wishes.timeout.as_millis()
    );
    let _ = write!(
        text,
        "\n[group.{name}.check.ping]\nping = \"{{node}}\"\n{pace}\
         \n[group.{name}.check.apache]\nhttp = \"http://{{node}}/who\"\n{pace}\
         from = [\"node\", \"peers\"]\nfall = 2\nrise = 3\n"
    );
}

/// A group's address. One that is not of the hosts' own networks says on which interface it
/// belongs.
fn address(ip: IpAddr, prefix: u8) -> String {
    let near = |place: IpAddr| contains(place, prefix, ip);
    let host = Place::new("any", 1);
    if near(host.ip()) || near(host.ip6()) {
        format!("{ip}/{prefix}")
    } else {
        format!("{ip}/{prefix}@eth0")
    }
}

fn node(text: &mut String, talk: Family, place: &Place, more: &str) {
    let address = SocketAddr::new(place.ip_of(talk), PORT);
    let _ = write!(
        text,
        "[node.{}]\naddress = \"{address}\"\n{more}",
        place.name
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster;

    #[test]
    fn a_cluster_may_have_no_witness_and_talk_over_ipv6() {
        let wishes = |talk| Wishes {
            profile: "fast",
            fail_when: None,
            timeout: Duration::from_millis(200),
            interval: Duration::from_millis(50),
            talk,
        };
        let (servers, witness) = (cluster::servers(2), Place::new("tie", 13));
        let alone = text(&wishes(Family::Six), &servers, None, &[]);
        assert!(
            alone.contains("address = \"[2001:db8::b]:7946\""),
            "{alone}"
        );
        assert!(!alone.contains("witness"), "{alone}");
        let usual = text(&wishes(Family::Four), &servers, Some(&witness), &[]);
        assert!(usual.contains("address = \"192.0.2.13:7946\"\nwitness = true"));
    }
}
