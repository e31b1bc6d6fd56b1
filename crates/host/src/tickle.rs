//! The tickle: a bare ACK with a sequence number that is certainly wrong, from the address
//! of a server that is gone to one of its clients. The client answers with what it believes
//! (RFC 9293 3.10.7.4: an unacceptable segment is answered by an ACK); the kernel of the
//! address's new holder knows of no such connection and answers that with a reset. So a
//! client that only waits learns at once that there is nothing to wait for.
//!
//! Harmless where it is not needed: a client without the connection answers with a reset
//! that meets nothing, and one whose connection lives here gets its own ACK as a duplicate.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::frame::{Sent, checksum};
use crate::sockets::Flow;

/// Header of IPv6, the longer one, and of TCP without options.
const LENGTH_MAX: usize = IPV6_LENGTH + TCP_LENGTH;
const IPV4_LENGTH: usize = 20;
const IPV6_LENGTH: usize = 40;
const TCP_LENGTH: usize = 20;

const TCP: u8 = 6;
const ACK: u8 = 0x10;
/// What Linux begins with; nothing depends on it.
const HOPS: u8 = 64;
/// Don't fragment, as every segment of TCP.
const DONT_FRAGMENT: u16 = 0x4000;
/// Some window; there is nobody to use it.
const WINDOW: u16 = 1024;

/// A packet with its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tickle {
    bytes: [u8; LENGTH_MAX],
    length: usize,
}

impl Tickle {
    /// The tickle of `flow`'s client with `sequence`. It should differ from try to try: one
    /// of a few thousand numbers may fall into the client's window, and that one is taken
    /// for an old acknowledgement and not answered. None if the ends are of two families.
    pub fn new(flow: &Flow, sequence: u32) -> Option<Self> {
        let mut bytes = [0; LENGTH_MAX];
        let (header, tcp) = match (flow.service.ip(), flow.client.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes[..IPV4_LENGTH].copy_from_slice(&ipv4(from, to));
                let tcp = segment(flow, sequence, &[&from.octets(), &to.octets()]);
                (IPV4_LENGTH, tcp)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes[..IPV6_LENGTH].copy_from_slice(&ipv6(from, to));
                let tcp = segment(flow, sequence, &[&from.octets(), &to.octets()]);
                (IPV6_LENGTH, tcp)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let length = header + TCP_LENGTH;
        bytes[header..length].copy_from_slice(&tcp);
        Some(Self { bytes, length })
    }

    /// The packet, IP header first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// RFC 791 3.1. The kernel itself adds identification and checksum (raw(7)).
fn ipv4(from: Ipv4Addr, to: Ipv4Addr) -> [u8; IPV4_LENGTH] {
    let mut header = [0; IPV4_LENGTH];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((IPV4_LENGTH + TCP_LENGTH) as u16).to_be_bytes());
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8] = HOPS;
    header[9] = TCP;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    header
}

/// RFC 8200 3.
fn ipv6(from: Ipv6Addr, to: Ipv6Addr) -> [u8; IPV6_LENGTH] {
    let mut header = [0; IPV6_LENGTH];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(TCP_LENGTH as u16).to_be_bytes());
    header[6] = TCP;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&to.octets());
    header
}

/// RFC 9293 3.1, acknowledging nothing. The pseudo headers of both families sum up alike:
/// addresses, length, protocol.
fn segment(flow: &Flow, sequence: u32, ends: &[&[u8]; 2]) -> [u8; TCP_LENGTH] {
    let mut segment = [0; TCP_LENGTH];
    segment[0..2].copy_from_slice(&flow.service.port().to_be_bytes());
    segment[2..4].copy_from_slice(&flow.client.port().to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[12] = (TCP_LENGTH as u8 / 4) << 4;
    segment[13] = ACK;
    segment[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    let rest = [0, TCP, 0, TCP_LENGTH as u8];
    let sum = checksum(&[ends[0], ends[1], &rest, &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// Sends tickles from one address. It is bound to it, so that rules that route by source
/// hold, and that it must be configured here. Receives nothing.
#[derive(Debug)]
pub struct TickleSocket {
    socket: Socket,
    from: IpAddr,
}

impl TickleSocket {
    /// Opens it in the network namespace of the calling thread. Needs `CAP_NET_RAW`;
    /// `EADDRNOTAVAIL` if `from` is not configured here.
    pub fn open(from: IpAddr) -> io::Result<Self> {
        let domain = match from {
            IpAddr::V4(_) => Domain::IPV4,
            IpAddr::V6(_) => Domain::IPV6,
        };
        // This protocol means that packets come with their headers, and none is received.
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let socket = Socket::new(domain, Type::RAW, Some(raw))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(SocketAddr::new(from, 0)))?;
        Ok(Self { socket, from })
    }

    /// Which address it sends from.
    pub fn from(&self) -> IpAddr {
        self.from
    }

    /// Sends one tickle to `to`, by the ordinary routes and filters. Never waits.
    pub fn send(&self, to: IpAddr, tickle: &Tickle) -> io::Result<Sent> {
        // No port: where IPv6 has one here it must be the protocol's number.
        let to = SockAddr::from(SocketAddr::new(to, 0));
        match self.socket.send_to(tickle.bytes(), &to) {
            Ok(_) => Ok(Sent::Out),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Sent::Dropped),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Full),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(service: &str, client: &str) -> Flow {
        Flow {
            service: service.parse().expect("an address"),
            client: client.parse().expect("an address"),
        }
    }

    #[test]
    fn an_ipv4_tickle_is_whole_and_its_checksum_holds() {
        let flow = flow("192.0.2.100:80", "198.51.100.7:40000");
        let tickle = Tickle::new(&flow, 0x8000_0001).expect("one family");
        let bytes = tickle.bytes();
        assert_eq!(bytes.len(), 40);
        assert_eq!(
            bytes[..12],
            [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0],
            "the kernel adds the checksum"
        );
        assert_eq!(bytes[12..20], [192, 0, 2, 100, 198, 51, 100, 7]);
        assert_eq!(bytes[20..24], [0, 80, 0x9c, 0x40]);
        assert_eq!(bytes[24..32], [0x80, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[32..34], [0x50, ACK]);
        // A receiver sums everything, checksum included, and gets all ones.
        let pseudo = [0, 6, 0, 20];
        assert_eq!(checksum(&[&bytes[12..20], &pseudo, &bytes[20..]]), 0);
    }

    #[test]
    fn an_ipv6_tickle_is_whole_and_its_checksum_holds() {
        let flow = flow("[2001:db8::100]:443", "[2001:db8:1::7]:40000");
        let tickle = Tickle::new(&flow, 7).expect("one family");
        let bytes = tickle.bytes();
        assert_eq!(bytes.len(), 60);
        assert_eq!(bytes[..8], [0x60, 0, 0, 0, 0, 20, 6, 64]);
        let pseudo = [0, 6, 0, 20];
        assert_eq!(checksum(&[&bytes[8..40], &pseudo, &bytes[40..]]), 0);
    }

    #[test]
    fn two_families_make_no_connection() {
        let flow = flow("192.0.2.100:80", "[2001:db8::7]:4000");
        assert_eq!(Tickle::new(&flow, 0), None);
    }

    #[test]
    fn an_address_that_is_not_here_sends_nothing() {
        let error = TickleSocket::open(IpAddr::from([192, 0, 2, 253])).expect_err("not here");
        let expected = [libc::EADDRNOTAVAIL, libc::EPERM];
        assert!(
            error
                .raw_os_error()
                .is_some_and(|code| expected.contains(&code)),
            "{error}"
        );
    }
}
