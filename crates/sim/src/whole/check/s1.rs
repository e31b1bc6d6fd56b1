//! S1: never two machines that let the same address through at one instant of true time.
//!
//! Two open spans overlap exactly if, at the beginning of one of them, the other is open; a span
//! begins when a guard is extended, or when an address joins an open group. A machine that was
//! paused as a whole is excused for what it was allowed before the pause (DESIGN 3.1 rule 9).

use std::net::IpAddr;

use super::{Violation, broken};
use crate::whole::host::Host;

/// Asked when these addresses of a machine may have become open.
pub(in crate::whole) fn opened(
    hosts: &[Host],
    who: usize,
    addresses: &[IpAddr],
    at: u64,
) -> Result<(), Violation> {
    let counts = |host: &&Host| at >= host.excused_until;
    if !counts(&&hosts[who]) {
        return Ok(());
    }
    for ip in addresses.iter().filter(|ip| hosts[who].passes(**ip, at)) {
        let others = (0..hosts.len()).filter(|other| *other != who);
        let mut open = others.filter(|other| hosts[*other].passes(*ip, at));
        if let Some(other) = open.find(|other| counts(&&hosts[*other])) {
            let seen = format!("{ip} opens on node {who} while it is open on node {other}");
            return broken("S1", seen);
        }
    }
    Ok(())
}
