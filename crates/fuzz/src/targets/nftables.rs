//! What the kernel says of the guard's table and of devices. Other programs may have written to them.

use std::net::IpAddr;

use evenkeel_core::GroupId;
use evenkeel_guard::fuzzing::{guarded, netlink};

use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "nftables",
    reads: "answers of nfnetlink about the table, and of devices (guard)",
    seeds,
    judge,
    length_max: 64 * 1024,
    memory: MEMORY,
    memory_per_byte: 64,
    mutants: 20_000,
};

/// `NFT_MSG_NEWSETELEM` of the nftables subsystem.
const NEW_ELEMENT: u16 = (10 << 8) | 12;

fn all() -> Vec<(IpAddr, GroupId)> {
    let ip = |text: &str| text.parse().expect("an address");
    vec![
        (ip("192.0.2.100"), values::www()),
        (ip("2001:db8::100"), GroupId(7)),
    ]
}

fn seeds() -> Vec<Vec<u8>> {
    vec![guarded(NEW_ELEMENT, &all()), guarded(NEW_ELEMENT, &[])]
}

fn judge(input: &[u8]) {
    let heard = netlink(input);
    assert!(heard.messages <= input.len() / 16);
    assert!(heard.bytes <= 2 * input.len());
    assert!(heard.guarded.len() <= input.len() / 4);
    // What it writes itself it finds again, with whatever follows.
    let own = guarded(NEW_ELEMENT, &all());
    let mut both = own.clone();
    both.resize(own.len().next_multiple_of(4), 0);
    both.extend_from_slice(input);
    assert!(netlink(&both).guarded.starts_with(&all()));
}
