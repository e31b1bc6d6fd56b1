//! The configuration file of a lab's cluster, as an administrator would write it.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use crate::host::Place;

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
}

/// The port of the daemons (DESIGN 5).
pub(crate) const PORT: u16 = 7946;

/// The file for `servers` and `witness` with one group `www` of `addresses`.
pub(crate) fn text(
    wishes: &Wishes,
    servers: &[Place],
    witness: &Place,
    addresses: &[(IpAddr, u8)],
) -> String {
    let mut text = format!("cluster = \"lab\"\nprofile = \"{}\"\n\n", wishes.profile);
    for server in servers {
        node(&mut text, server, "");
    }
    node(&mut text, witness, "witness = true\n");
    let quoted = |items: Vec<String>| {
        items
            .iter()
            .map(|item| format!("\"{item}\""))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let nodes = quoted(servers.iter().map(|place| place.name.clone()).collect());
    let addresses = quoted(
        addresses
            .iter()
            .map(|(ip, prefix)| format!("{ip}/{prefix}"))
            .collect(),
    );
    let _ = write!(
        text,
        "\n[group.www]\nnodes = [{nodes}]\naddresses = [{addresses}]\n"
    );
    if let Some(rule) = &wishes.fail_when {
        let _ = writeln!(text, "fail_when = \"{rule}\"");
    }
    let pace = format!(
        "interval = \"{}ms\"\ntimeout = \"{}ms\"\n",
        wishes.interval.as_millis(),
        wishes.timeout.as_millis()
    );
    let _ = write!(
        text,
        "\n[group.www.check.ping]\nping = \"{{node}}\"\n{pace}\
         \n[group.www.check.apache]\nhttp = \"http://{{node}}/who\"\n{pace}\
         from = [\"node\", \"peers\"]\nfall = 2\nrise = 3\n"
    );
    text
}

fn node(text: &mut String, place: &Place, more: &str) {
    let _ = write!(
        text,
        "[node.{}]\naddress = \"{}:{PORT}\"\n{more}",
        place.name,
        place.ip()
    );
}
