//! What each TCP connection of an address is doing: is a request in flight? From
//! sock_diag(7) with `INET_DIAG_INFO` (`struct tcp_info`, tcp(7)).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{
    Conversation, FILTER_MAX, IDENTITY_LENGTH, INET_DIAG_REQ_BYTECODE, SOCK_DIAG_BY_FAMILY,
    SocketsError, Transport, filter, header, read, state,
};
use crate::netlink::{Connection, Message, Request};

const INET_DIAG_INFO: u16 = 2;
/// Where the request says which attributes the answers shall have.
const EXTENSIONS_AT: usize = 2;

/// Established, SYN received (both numbers that it has), and on the way to the end while
/// what was sent is not acknowledged.
const STATES: u32 =
    state(1) | state(3) | state(4) | state(5) | state(8) | state(9) | state(11) | state(12);

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The client has asked for it, and its last word is missing.
    Opening,
    /// Both may send; the client may have said its last.
    Open,
    /// The server has said its last.
    Closing,
}

/// What one connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// How far it is.
    pub stage: Stage,
    /// Bytes that came and that the program has not read.
    pub unread: u32,
    /// Bytes that the program wrote and that the peer has not acknowledged. The end of
    /// the connection counts as one.
    pub unsent: u32,
    /// Milliseconds since data was sent, in the kernel's ticks of up to 10 ms; since the
    /// connection was made if none was.
    pub sent_ago: u32,
    /// Milliseconds since the peer acknowledged anything, likewise: what was sent just now
    /// over a long way is not answered yet when it arrives.
    pub acknowledged_ago: u32,
    /// Milliseconds since data came, likewise.
    pub received_ago: u32,
    /// Segments with data that came; `None` if the kernel does not count them.
    pub received: Option<u32>,
    /// Segments with data that were sent, likewise.
    pub sent: Option<u32>,
}

/// The TCP connections whose local address is one of `addresses`, at most so many, each
/// with what it takes to [`end`](super::end) it.
pub fn flights(
    connection: &mut Connection,
    addresses: &BTreeSet<IpAddr>,
    limit: usize,
) -> Result<Vec<(Conversation, Flight)>, SocketsError> {
    let mut found = Vec::new();
    let ipv4: BTreeSet<IpAddr> = addresses.iter().copied().filter(IpAddr::is_ipv4).collect();
    // An IPv6 socket also serves IPv4 peers, unless its program forbade it.
    for (family, addresses) in [(libc::AF_INET, &ipv4), (libc::AF_INET6, addresses)] {
        if addresses.is_empty() {
            continue;
        }
        let none = [0; IDENTITY_LENGTH];
        let mut head = header(family as u8, Transport::Tcp, STATES, &none);
        head[EXTENSIONS_AT] = 1 << (INET_DIAG_INFO - 1);
        let mut request = Request::new(SOCK_DIAG_BY_FAMILY, 0, &head);
        if addresses.len() <= FILTER_MAX {
            request = request.with(INET_DIAG_REQ_BYTECODE, &filter(addresses));
        }
        let mut part: Vec<(Conversation, Flight)> = Vec::new();
        connection.dump(&request, &mut part, Vec::clear, |part, message| {
            if part.len() < limit
                && let Some(found) = flight(message)
                && addresses.contains(&found.1.local.ip())
            {
                part.push(found);
            }
        })?;
        found.extend(part);
    }
    found.truncate(limit);
    Ok(found)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// `struct inet_diag_msg`: state at 1, queues at 56 and 60. `struct tcp_info`: last data
/// sent at 44, received at 52, last acknowledgement at 56, segments with data in at 152, out at 156.
pub(crate) fn flight(message: Message<'_>) -> Option<(Conversation, Flight)> {
    let ends = read(Transport::Tcp, message)?;
    let (answer, mut attributes) = message.split(super::ANSWER_LENGTH)?;
    let stage = match answer[1] {
        3 | 12 => Stage::Opening,
        1 | 8 => Stage::Open,
        _ => Stage::Closing,
    };
    let info = attributes.find(|(kind, _)| *kind == INET_DIAG_INFO);
    let info = info.map_or(&[][..], |(_, info)| info);
    let flight = Flight {
        local: ends.local,
        remote: ends.remote,
        stage,
        unread: number(answer, 56)?,
        unsent: number(answer, 60)?,
        sent_ago: number(info, 44).unwrap_or(u32::MAX),
        acknowledged_ago: number(info, 56).unwrap_or(u32::MAX),
        received_ago: number(info, 52).unwrap_or(u32::MAX),
        received: number(info, 152),
        sent: number(info, 156),
    };
    Some((ends, flight))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::netlink::Family;

    fn only(listener: &TcpListener) -> Flight {
        let address = listener.local_addr().expect("bound").ip();
        let mut connection = Connection::open(Family::Sockets).expect("a socket");
        let found = flights(&mut connection, &BTreeSet::from([address]), 10).expect("listed");
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].1
    }

    /// The kernel's own account of a request and its answer on loopback.
    #[test]
    fn a_request_is_seen_until_it_is_answered() {
        let listener = TcpListener::bind("127.7.7.9:0").expect("loopback");
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).expect("it listens");
        let (mut server, _) = listener.accept().expect("a client");
        let new = only(&listener);
        assert_eq!((new.stage, new.unread, new.unsent), (Stage::Open, 0, 0));
        assert_eq!((new.received, new.sent), (Some(0), Some(0)));
        client.write_all(b"ask").expect("written");
        let mut ask = [0; 3];
        server.peek(&mut ask).expect("it came");
        assert_eq!(only(&listener).unread, 3);
        server.read_exact(&mut ask).expect("it came");
        let asked = only(&listener);
        assert_eq!(
            (asked.unread, asked.received, asked.sent),
            (0, Some(1), Some(0))
        );
        server.write_all(b"answer").expect("written");
        let mut answer = [0; 6];
        client.read_exact(&mut answer).expect("it came");
        assert_eq!(only(&listener).sent, Some(1));
    }
}
