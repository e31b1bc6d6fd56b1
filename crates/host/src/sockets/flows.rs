//! Established TCP connections to addresses of this machine, by their four-tuples: what
//! the next holder of an address has to know to end them for clients that only wait.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{
    FILTER_MAX, IDENTITY_LENGTH, INET_DIAG_REQ_BYTECODE, SOCK_DIAG_BY_FAMILY, SocketsError,
    Transport, filter, header, read, state,
};
use crate::netlink::{Connection, Request};

/// Connections whose client may be waiting for us: established, closed by the client's
/// side only (it waits for the rest), closed by ours without the client having said that
/// it knows. One whose handshake is not over asks again by itself.
const WAITING_STATES: u32 = state(1) | state(4) | state(8);

/// One connection, seen from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The server's end; an IPv4 address inside IPv6 is shown as IPv4.
    pub service: SocketAddr,
    /// The client's end.
    pub client: SocketAddr,
}

/// The connections whose server's end is one of `addresses`, in order, at most `limit` of
/// each family of sockets; beyond that it is left open which. Clients at link-local
/// addresses are left out: such an address means nothing on another machine.
///
/// Walks the kernel's table of connections twice, once per family: some 0.3 ms for an
/// empty one of 262,144 places.
pub fn flows(
    connection: &mut Connection,
    addresses: &BTreeSet<IpAddr>,
    limit: usize,
) -> Result<Vec<Flow>, SocketsError> {
    let ipv4: BTreeSet<IpAddr> = addresses.iter().copied().filter(IpAddr::is_ipv4).collect();
    let mut all = Vec::new();
    // An IPv6 socket also serves IPv4 peers, unless its program forbade it.
    for (family, addresses) in [(libc::AF_INET, &ipv4), (libc::AF_INET6, addresses)] {
        if addresses.is_empty() {
            continue;
        }
        let nobody = [0; IDENTITY_LENGTH];
        let body = header(family as u8, Transport::Tcp, WAITING_STATES, &nobody);
        let mut request = Request::new(SOCK_DIAG_BY_FAMILY, 0, &body);
        if addresses.len() <= FILTER_MAX {
            request = request.with(INET_DIAG_REQ_BYTECODE, &filter(addresses));
        }
        let mut found: Vec<Flow> = Vec::new();
        connection.dump(&request, &mut found, Vec::clear, |found, message| {
            if let Some(one) = read(Transport::Tcp, message)
                && found.len() < limit
                && addresses.contains(&one.local.ip())
                && !is_link_local(one.remote.ip())
            {
                found.push(Flow {
                    service: one.local,
                    client: one.remote,
                });
            }
        })?;
        all.append(&mut found);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::netlink::Family;

    #[test]
    fn the_servers_end_is_found_and_the_clients_is_not() {
        let listener = TcpListener::bind("127.7.8.7:0").expect("loopback");
        let service = listener.local_addr().expect("bound");
        let clients: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(service).expect("it listens"))
            .collect();
        let addresses = BTreeSet::from([service.ip()]);
        let mut connection = Connection::open(Family::Sockets).expect("a socket");
        let found = flows(&mut connection, &addresses, 100).expect("listed");
        let mut expected: Vec<Flow> = clients
            .iter()
            .map(|client| Flow {
                service,
                client: client.local_addr().expect("connected"),
            })
            .collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(
            flows(&mut connection, &addresses, 2).expect("listed").len(),
            2,
            "bounded"
        );
    }
}
