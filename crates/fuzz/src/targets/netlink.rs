//! What the kernel says of links, addresses, routes and sockets. It is believed, but not that it never
//! changes: a newer one, or one of a container, may say it at greater length.

use evenkeel_host::fuzzing::{netlink, request};

use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "netlink",
    reads: "answers of rtnetlink and sock_diag (mover, flows, courier, checks)",
    seeds,
    judge,
    length_max: 32 * 1024,
    memory: MEMORY,
    memory_per_byte: 64,
    mutants: 20_000,
};

/// `RTM_NEWLINK`, `RTM_NEWADDR`, `RTM_NEWROUTE` (rtnetlink(7)), `SOCK_DIAG_BY_FAMILY` (sock_diag(7)).
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const SOCKET: u16 = 20;

fn seeds() -> Vec<Vec<u8>> {
    let mut link = [0; 16];
    link[2..4].copy_from_slice(&1_u16.to_ne_bytes());
    link[4..8].copy_from_slice(&2_i32.to_ne_bytes());
    let link = request(
        NEW_LINK,
        &link,
        &[(3, b"eth0\0"), (1, &[2, 0, 0, 0, 0, 7])],
        1,
    );
    let ip = [192, 0, 2, 100];
    let lifetime = [0xff; 16];
    let address = [2, 24, 0, 0, 2, 0, 0, 0];
    let address = request(
        NEW_ADDRESS,
        &address,
        &[(1, &ip), (2, &ip), (6, &lifetime)],
        1,
    );
    let route = [2, 32, 0, 0, 255, 2, 254, 2, 0, 0, 0, 0];
    let route = request(NEW_ROUTE, &route, &[(1, &ip), (4, &2_u32.to_ne_bytes())], 1);
    let mut socket = [0; 72];
    (socket[0], socket[1]) = (2, 10);
    socket[4..6].copy_from_slice(&80_u16.to_be_bytes());
    socket[8..12].copy_from_slice(&ip);
    let socket = request(SOCKET, &socket, &[(2, &[0; 200])], 1);
    vec![
        [link.clone(), address.clone(), route.clone()].concat(),
        socket.clone(),
        [socket, link, address, route].concat(),
    ]
}

fn judge(input: &[u8]) {
    let heard = netlink(input);
    // Each has a header, and nothing is read twice.
    assert!(heard.messages <= input.len() / 16);
    assert!(heard.bytes <= 2 * input.len());
    assert!(heard.changes.len() <= heard.messages);
    assert!(heard.ends.len() <= 2 * heard.messages);
}
