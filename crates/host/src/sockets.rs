//! Conversations of this machine's programs: listed and ended by their local address.
//!
//! When an address leaves in an orderly way, its TCP connections are aborted first, so
//! that clients are told by a reset instead of waiting on a server that is gone
//! (sock_diag(7), `SOCK_DESTROY`; Linux 4.9 with `CONFIG_INET_DIAG_DESTROY`). What
//! listens stays: the programs keep their sockets for the day the address returns.

pub(crate) mod flight;
mod flows;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::netlink::{Connection, Family, Message, NetlinkError, Request};

pub use self::flight::{Flight, Stage, flights};
pub use self::flows::{Flow, flows};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const BYTECODE_JUMP: u8 = 1;
const BYTECODE_SOURCE: u8 = 7;

/// `struct inet_diag_sockid`.
const IDENTITY_LENGTH: usize = 48;
/// `struct inet_diag_msg`.
const ANSWER_LENGTH: usize = 72;

/// Up to so many addresses the kernel itself picks the sockets; with more, its filter
/// would be slower than reading them all and picking here.
const FILTER_MAX: usize = 32;

/// Sockets ended per round, which bounds the memory of the list; the rest is found by
/// the next round.
const ROUND_MAX: usize = 65_536;

/// Rounds of looking and ending: a second one for what was accepted during the first,
/// more for more than [`ROUND_MAX`].
const ROUNDS_MAX: usize = 16;

/// TCP: everything that has a peer, but not TIME_WAIT, which nobody waits for.
const TCP_STATES: u32 = state(1)
    | state(2)
    | state(3)
    | state(4)
    | state(5)
    | state(8)
    | state(9)
    | state(11)
    | state(12);
/// UDP: sockets that were connected to a peer.
const UDP_STATES: u32 = state(1);

const fn state(number: u32) -> u32 {
    1 << number
}

/// Why conversations could not be listed or ended. Follows "failed to".
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// No talk with the kernel.
    #[error("list sockets: {0}")]
    Netlink(#[from] NetlinkError),
    /// The kernel does not end sockets for us.
    #[error(
        "end sockets: {0}; it takes CAP_NET_ADMIN and a kernel with CONFIG_INET_DIAG_DESTROY, \
         without which idle clients notice a move only when they send"
    )]
    Refused(#[source] io::Error),
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => libc::IPPROTO_TCP as u8,
            Self::Udp => libc::IPPROTO_UDP as u8,
        }
    }

    fn states(self) -> u32 {
        match self {
            Self::Tcp => TCP_STATES,
            Self::Udp => UDP_STATES,
        }
    }
}

/// One program's socket that talks to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// How.
    pub transport: Transport,
    /// Our end; an IPv4 address inside IPv6 is shown as IPv4.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    family: u8,
    identity: [u8; IDENTITY_LENGTH],
}

/// The conversations whose local address is one of `addresses`, at most so many.
pub fn conversations(
    connection: &mut Connection,
    addresses: &BTreeSet<IpAddr>,
    limit: usize,
) -> Result<Vec<Conversation>, SocketsError> {
    let mut found = Vec::new();
    let ipv4: BTreeSet<IpAddr> = addresses.iter().copied().filter(IpAddr::is_ipv4).collect();
    for transport in [Transport::Tcp, Transport::Udp] {
        // An IPv6 socket also serves IPv4 peers, unless its program forbade it.
        for (family, addresses) in [(libc::AF_INET, &ipv4), (libc::AF_INET6, addresses)] {
            if addresses.is_empty() {
                continue;
            }
            let part = list(connection, transport, family as u8, addresses, limit);
            match part {
                Ok(part) => found.extend(part),
                // A kernel built without the module for UDP; nothing to end then.
                Err(NetlinkError::Refused(error))
                    if transport == Transport::Udp
                        && error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    found.truncate(limit);
    Ok(found)
}

fn list(
    connection: &mut Connection,
    transport: Transport,
    family: u8,
    addresses: &BTreeSet<IpAddr>,
    limit: usize,
) -> Result<Vec<Conversation>, NetlinkError> {
    let mut request = Request::new(
        SOCK_DIAG_BY_FAMILY,
        0,
        &header(family, transport, transport.states(), &[0; IDENTITY_LENGTH]),
    );
    if addresses.len() <= FILTER_MAX {
        request = request.with(INET_DIAG_REQ_BYTECODE, &filter(addresses));
    }
    let mut found: Vec<Conversation> = Vec::new();
    connection.dump(&request, &mut found, Vec::clear, |found, message| {
        if let Some(conversation) = read(transport, message)
            && found.len() < limit
            && addresses.contains(&conversation.local.ip())
        {
            found.push(conversation);
        }
    })?;
    Ok(found)
}

/// `struct inet_diag_req_v2`.
fn header(family: u8, transport: Transport, states: u32, identity: &[u8]) -> Vec<u8> {
    let mut header = vec![family, transport.number(), 0, 0];
    header.extend_from_slice(&states.to_ne_bytes());
    header.extend_from_slice(identity);
    header
}

/// A program for the kernel's socket filter (`inet_diag_bc_run` in
/// `net/ipv4/inet_diag.c`): take a socket whose source is one of `addresses`. Each test
/// is followed by a jump to the end, which accepts; a failed test skips that jump, and
/// the last one jumps past the end, which rejects. A test for IPv4 also finds the
/// address inside IPv6.
fn filter(addresses: &BTreeSet<IpAddr>) -> Vec<u8> {
    let mut program = Vec::new();
    let mut jumps = Vec::new();
    for (at, ip) in addresses.iter().enumerate() {
        let (family, octets) = match ip {
            IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
        };
        let length = 4 + 8 + octets.len();
        let bits = octets.len() * 8;
        program.extend_from_slice(&[BYTECODE_SOURCE, length as u8]);
        program.extend_from_slice(&(length as u16 + 4).to_ne_bytes());
        program.extend_from_slice(&[family as u8, bits as u8, 0, 0]);
        program.extend_from_slice(&(-1_i32).to_ne_bytes());
        program.extend_from_slice(&octets);
        if at + 1 < addresses.len() {
            jumps.push(program.len());
            program.extend_from_slice(&[BYTECODE_JUMP, 4, 0, 0]);
        }
    }
    for jump in jumps {
        let distance = u16::try_from(program.len() - jump).unwrap_or(u16::MAX);
        program[jump + 2..jump + 4].copy_from_slice(&distance.to_ne_bytes());
    }
    program
}

pub(crate) fn read(transport: Transport, message: Message<'_>) -> Option<Conversation> {
    let (answer, _) = message.split(ANSWER_LENGTH)?;
    let family = answer[0];
    let identity: [u8; IDENTITY_LENGTH] = answer.get(4..4 + IDENTITY_LENGTH)?.try_into().ok()?;
    let port = |at: usize| u16::from_be_bytes([identity[at], identity[at + 1]]);
    let ip = |at: usize| -> Option<IpAddr> {
        if i32::from(family) == libc::AF_INET {
            Some(Ipv4Addr::from(<[u8; 4]>::try_from(&identity[at..at + 4]).ok()?).into())
        } else {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(&identity[at..at + 16]).ok()?);
            Some(ip.to_canonical())
        }
    };
    Some(Conversation {
        transport,
        local: SocketAddr::new(ip(4)?, port(0)),
        remote: SocketAddr::new(ip(20)?, port(2)),
        family,
        identity,
    })
}

/// Ends every conversation on `addresses` and says how many there were: TCP peers get a
/// reset, the programs an error (`ECONNABORTED`). Sockets that listen, and UDP sockets
/// without a peer, stay.
///
/// The resets leave by the ordinary way: a closed guard drops them.
pub fn destroy(addresses: &BTreeSet<IpAddr>) -> Result<usize, SocketsError> {
    let mut connection = Connection::open(Family::Sockets)?;
    let mut destroyed = 0;
    for _ in 0..ROUNDS_MAX {
        let found = conversations(&mut connection, addresses, ROUND_MAX)?;
        if found.is_empty() {
            break;
        }
        destroyed += end(&mut connection, &found)?;
    }
    Ok(destroyed)
}

/// Ends these conversations, as [`destroy`] does, and says how many of them had not ended by
/// themselves. Fails if the kernel ends none and refuses one.
pub fn end(
    connection: &mut Connection,
    conversations: &[Conversation],
) -> Result<usize, SocketsError> {
    let outcomes = connection.batch(conversations.iter().map(|conversation| {
        let header = header(
            conversation.family,
            conversation.transport,
            conversation.transport.states(),
            &conversation.identity,
        );
        Request::new(SOCK_DESTROY, 0, &header)
    }))?;
    let mut ended = 0;
    let mut refused = None;
    for outcome in outcomes {
        match outcome {
            Ok(()) => ended += 1,
            // It ended by itself meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if ended == 0 => Err(SocketsError::Refused(error)),
        Some(_) | None => Ok(ended),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect()
    }

    /// Runs a filter as the kernel does, on the source address of a socket.
    fn run(program: &[u8], source: IpAddr) -> bool {
        let (mut at, length) = (0_usize, program.len());
        while at < length {
            let step = |yes: bool| {
                if yes {
                    usize::from(program[at + 1])
                } else {
                    usize::from(u16::from_ne_bytes([program[at + 2], program[at + 3]]))
                }
            };
            let holds = match program[at] {
                BYTECODE_JUMP => false,
                BYTECODE_SOURCE => match source {
                    IpAddr::V4(ip) => {
                        i32::from(program[at + 4]) == libc::AF_INET
                            && program[at + 12..at + 16] == ip.octets()
                    }
                    IpAddr::V6(ip) => {
                        i32::from(program[at + 4]) == libc::AF_INET6
                            && program[at + 12..at + 28] == ip.octets()
                    }
                },
                code => panic!("operation {code} at {at}"),
            };
            at += step(holds);
        }
        at == length
    }

    #[test]
    fn the_filter_takes_its_addresses_and_no_other() {
        let wanted = ips(&["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]);
        let program = filter(&wanted);
        for ip in &wanted {
            assert!(run(&program, *ip), "{ip}");
        }
        for ip in ips(&["192.0.2.3", "2001:db8::3", "0.0.0.0"]) {
            assert!(!run(&program, ip), "{ip}");
        }
        let one = filter(&ips(&["192.0.2.1"]));
        assert!(run(&one, "192.0.2.1".parse().unwrap()));
        assert!(!run(&one, "192.0.2.2".parse().unwrap()));
    }

    /// Both ends of a connection on loopback, one per side of the list.
    #[test]
    fn conversations_are_found_by_their_local_address() {
        let listener = TcpListener::bind("127.7.7.7:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let client = TcpStream::connect(address).expect("it listens");
        let mut connection = Connection::open(Family::Sockets).expect("a socket");
        let found = conversations(&mut connection, &ips(&["127.7.7.7"]), 100).expect("listed");
        let ends: Vec<_> = found
            .iter()
            .map(|found| (found.local, found.remote))
            .collect();
        assert_eq!(ends, [(address, client.local_addr().expect("connected"))]);
        let none = conversations(&mut connection, &ips(&["127.7.7.8"]), 100).expect("listed");
        assert_eq!(none, []);
        let many: BTreeSet<IpAddr> = (0..100).map(|at| IpAddr::from([127, 7, 7, at])).collect();
        let found = conversations(&mut connection, &many, 100).expect("listed");
        assert_eq!(found.len(), 1, "the same without the kernel's filter");
    }
}
