//! Who listens, asked of the kernel: `sock_diag(7)` over netlink.
//!
//! Two questions. [`listening`] is exact: which socket would a connection to this
//! address reach? The kernel answers with its own look-up (`inet_lookup`), wildcards
//! and dual-stack sockets included, in microseconds whatever the number of sockets.
//! [`sockets`] lists all sockets that such connections may reach (`SO_REUSEPORT`
//! spreads them over several). Both see the network namespace of the calling thread.
//!
//! The structures are those of `include/uapi/linux/inet_diag.h`, written by hand: two
//! fixed layouts do not deserve a dependency.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use thiserror::Error;

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `TCP_LISTEN` of `net/tcp_states.h`.
const TCP_LISTEN: u8 = 10;
/// Length of a netlink header.
const HEADER_LENGTH: usize = 16;
/// Length of `struct inet_diag_req_v2`.
const REQUEST_LENGTH: usize = 56;
/// Length of `struct inet_diag_msg`.
const ANSWER_LENGTH: usize = 72;
/// The kernel fills at most 32 KiB of a dump at a time (`NLMSG_GOODSIZE`, `netlink_dump`).
const RECEIVE_LENGTH: usize = 32 * 1024;
/// Parts of one dump: enough for 200,000 listening sockets, and an end for a kernel
/// that never says that it is done.
const PARTS_MAX: usize = 1024;

/// Why the kernel did not say who listens.
#[derive(Debug, Error)]
#[error("ask the kernel who listens: {0}")]
pub struct DiagError(#[from] io::Error);

/// A listening TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listening {
    /// Its own address; unspecified for "any".
    pub local: SocketAddr,
    /// Its inode: `/proc/PID/fd` links to `socket:[INODE]`.
    pub inode: u64,
    /// The user who made it.
    pub uid: u32,
}

impl Listening {
    /// Whether connections to `target` may reach this socket.
    pub fn serves(&self, target: SocketAddr) -> bool {
        if self.local.port() != target.port() {
            return false;
        }
        match (self.local.ip(), target.ip()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => own.is_unspecified() || own == ip,
            (IpAddr::V6(own), IpAddr::V6(ip)) => own.is_unspecified() || own == ip,
            // A dual-stack socket; one bound to a mapped address is the same as IPv4.
            (IpAddr::V6(own), IpAddr::V4(ip)) => {
                own.is_unspecified() || own.to_ipv4_mapped() == Some(ip)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }
}

/// The socket that a connection to `target` would reach now, if anyone listens.
pub fn listening(target: SocketAddr) -> Result<Option<Listening>, DiagError> {
    let socket = open()?;
    send(&socket, &request(Question::Exact(target)))?;
    let mut buffer = Vec::with_capacity(RECEIVE_LENGTH);
    socket.recv(&mut buffer, libc::MSG_DONTWAIT)?;
    for message in Messages(&buffer) {
        match message? {
            // A connection of another kind cannot come back: the question names no
            // remote end. Trust the state all the same.
            Message::Socket {
                state: TCP_LISTEN,
                listening,
            } => return Ok(Some(listening)),
            Message::Socket { .. } | Message::Done => {}
            Message::Error(libc::ENOENT) => return Ok(None),
            Message::Error(errno) => return Err(io::Error::from_raw_os_error(errno).into()),
        }
    }
    Ok(None)
}

/// All listening sockets of this network namespace.
pub fn sockets() -> Result<Vec<Listening>, DiagError> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(family, &mut found)?;
    }
    Ok(found)
}

fn dump(family: i32, found: &mut Vec<Listening>) -> Result<(), DiagError> {
    let socket = open()?;
    send(&socket, &request(Question::All(family)))?;
    let mut buffer = Vec::with_capacity(RECEIVE_LENGTH);
    for _ in 0..PARTS_MAX {
        buffer.clear();
        socket.recv(&mut buffer, libc::MSG_DONTWAIT)?;
        for message in Messages(&buffer) {
            match message? {
                Message::Socket {
                    state: TCP_LISTEN,
                    listening,
                } => found.push(listening),
                Message::Socket { .. } => {}
                Message::Done => return Ok(()),
                Message::Error(errno) => return Err(io::Error::from_raw_os_error(errno).into()),
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the list of sockets has no end").into())
}

/// A socket of its own for each question: it is bound to the network namespace of the
/// thread that asks, and no answer can belong to an older question.
fn open() -> io::Result<Socket> {
    Socket::new(NETLINK_SOCK_DIAG)
}

/// The kernel handles the request within this call, so that the answer is there when
/// it returns and receiving never waits.
fn send(socket: &Socket, request: &[u8]) -> io::Result<()> {
    let sent = socket.send(request, 0)?;
    if sent == request.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

enum Question {
    Exact(SocketAddr),
    All(i32),
}

/// A netlink header and a `struct inet_diag_req_v2`.
fn request(question: Question) -> [u8; HEADER_LENGTH + REQUEST_LENGTH] {
    let mut bytes = [0; HEADER_LENGTH + REQUEST_LENGTH];
    let (family, flags) = match question {
        Question::Exact(target) => (family_of(target.ip()), libc::NLM_F_REQUEST),
        Question::All(family) => (family, libc::NLM_F_REQUEST | libc::NLM_F_DUMP),
    };
    let (header, body) = bytes.split_at_mut(HEADER_LENGTH);
    header[0..4].copy_from_slice(&((HEADER_LENGTH + REQUEST_LENGTH) as u32).to_ne_bytes());
    header[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    header[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
    body[0] = family as u8;
    body[1] = libc::IPPROTO_TCP as u8;
    body[4..8].copy_from_slice(&(1u32 << TCP_LISTEN).to_ne_bytes());
    if let Question::Exact(target) = question {
        body[8..10].copy_from_slice(&target.port().to_be_bytes());
        match target.ip() {
            IpAddr::V4(ip) => body[12..16].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => body[12..28].copy_from_slice(&ip.octets()),
        }
    }
    // INET_DIAG_NOCOOKIE: whichever socket it is.
    body[48..56].fill(0xff);
    bytes
}

fn family_of(ip: IpAddr) -> i32 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    }
}

pub(crate) enum Message {
    Socket { state: u8, listening: Listening },
    Done,
    Error(i32),
}

/// The netlink messages of one datagram.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl Iterator for Messages<'_> {
    type Item = io::Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = take(self.0);
        match &taken {
            Some((_, rest)) => self.0 = rest,
            None => self.0 = &[],
        }
        let garbled = || io::Error::new(io::ErrorKind::InvalidData, "the answer is garbled");
        Some(taken.map(|(message, _)| message).ok_or_else(garbled))
    }
}

/// The first message of `bytes`, and what follows it.
fn take(bytes: &[u8]) -> Option<(Message, &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER_LENGTH..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    let message = match i32::from(kind) {
        libc::NLMSG_DONE => Message::Done,
        libc::NLMSG_ERROR => {
            Message::Error(i32::from_ne_bytes(body.get(0..4)?.try_into().ok()?).saturating_neg())
        }
        _ => socket_of(body)?,
    };
    Some((message, rest))
}

/// A `struct inet_diag_msg`.
fn socket_of(body: &[u8]) -> Option<Message> {
    let body = body.get(0..ANSWER_LENGTH)?;
    let port = u16::from_be_bytes(body[4..6].try_into().ok()?);
    let ip = match i32::from(body[0]) {
        libc::AF_INET => {
            let octets: [u8; 4] = body[8..12].try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        _ => {
            let octets: [u8; 16] = body[8..24].try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(octets))
        }
    };
    let listening = Listening {
        local: SocketAddr::new(ip, port),
        uid: u32::from_ne_bytes(body[64..68].try_into().ok()?),
        inode: u64::from(u32::from_ne_bytes(body[68..72].try_into().ok()?)),
    };
    Some(Message::Socket {
        state: body[1],
        listening,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    fn inode_of(socket: impl AsFd) -> u64 {
        rustix::fs::fstat(socket).expect("an open file").st_ino
    }

    fn at(text: &str, port: u16) -> SocketAddr {
        SocketAddr::new(text.parse().expect("an address"), port)
    }

    #[test]
    fn the_exact_question_finds_the_socket_and_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let local = listener.local_addr().expect("bound");
        let found = listening(local)
            .expect("the kernel answers")
            .expect("it listens");
        assert_eq!(found.inode, inode_of(&listener));
        assert_eq!(found.local, local);
        assert_eq!(
            listening(at("127.0.0.2", local.port())).expect("an answer"),
            None
        );
        drop(listener);
        assert_eq!(listening(local).expect("an answer"), None);
    }

    #[test]
    fn wildcard_and_dual_stack_sockets_are_found_for_every_address() {
        for (bound, target) in [
            ("0.0.0.0", "127.0.0.1"),
            ("0.0.0.0", "192.0.2.77"),
            ("::", "::1"),
            ("::", "127.0.0.1"),
        ] {
            let listener = TcpListener::bind(at(bound, 0)).expect("loopback");
            let port = listener.local_addr().expect("bound").port();
            let found = listening(at(target, port))
                .expect("an answer")
                .expect(target);
            assert_eq!(found.inode, inode_of(&listener), "{bound} for {target}");
            assert!(found.serves(at(target, port)), "{found:?} for {target}");
        }
    }

    #[test]
    fn a_connection_is_not_a_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let local = listener.local_addr().expect("bound");
        let client = std::net::TcpStream::connect(local).expect("connects");
        let _server = listener.accept().expect("accepts");
        drop(listener);
        assert_eq!(listening(local).expect("an answer"), None);
        drop(client);
    }

    #[test]
    fn the_list_holds_every_family() {
        let four = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let six = TcpListener::bind("[::1]:0").expect("loopback");
        let all = sockets().expect("an answer");
        for listener in [&four, &six] {
            let local = listener.local_addr().expect("bound");
            let found = all.iter().find(|socket| socket.inode == inode_of(listener));
            assert_eq!(found.expect("listed").local, local);
        }
    }

    #[test]
    fn which_sockets_serve_which_targets() {
        let check = |own: &str, target: &str, expected: bool| {
            let socket = Listening {
                local: own.parse().expect("own"),
                inode: 1,
                uid: 0,
            };
            assert_eq!(
                socket.serves(target.parse().expect("target")),
                expected,
                "{own} {target}"
            );
        };
        check("192.0.2.1:80", "192.0.2.1:80", true);
        check("192.0.2.1:80", "192.0.2.2:80", false);
        check("0.0.0.0:80", "192.0.2.2:80", true);
        check("0.0.0.0:80", "192.0.2.2:81", false);
        check("0.0.0.0:80", "[2001:db8::1]:80", false);
        check("[::]:80", "192.0.2.2:80", true);
        check("[::ffff:192.0.2.2]:80", "192.0.2.2:80", true);
        check("[2001:db8::1]:80", "192.0.2.2:80", false);
    }

    #[test]
    fn garbled_answers_are_errors_not_panics() {
        for length in 0..HEADER_LENGTH + ANSWER_LENGTH {
            let mut bytes = vec![0xff; length];
            assert!(Messages(&bytes).all(|message| message.is_err()) || length == 0);
            if length >= 4 {
                bytes[0..4].copy_from_slice(&(length as u32).to_ne_bytes());
                assert!(Messages(&bytes).all(|message| message.is_err()), "{length}");
            }
        }
    }
}
