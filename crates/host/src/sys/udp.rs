//! Two UDP sockets on one port: the kernel sorts lease datagrams from QUIC, so that
//! the lease thread never waits for QUIC's queue, nor QUIC for the lease's.
//!
//! Both sockets are bound to the same address with `SO_REUSEPORT`. A classic BPF
//! program of the group (`SO_ATTACH_REUSEPORT_CBPF`, socket(7); in the kernel
//! `net/core/sock_reuseport.c`) sees each datagram from its first payload byte and
//! answers with the number of the socket, in the order of binding: QUIC version 1 sets
//! the bit 0x40 in every first byte (RFC 9000, 17.2 and 17.3.1: the fixed bit, which
//! our endpoints do not grease), lease datagrams have it clear.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use thiserror::Error;

/// First byte of every lease datagram: the bit 0x40 is clear, so it cannot be QUIC.
pub const LEASE_FIRST_BYTE: u8 = 0x0e;
/// The longest lease datagram in bytes of payload: what passes every path whole
/// (IPv6's smallest MTU of 1280 less 48 bytes of headers), so that none is ever cut up.
pub const LEASE_DATAGRAM_MAX: usize = 1232;
/// The shortest lease datagram in bytes of payload: header (1 + 8 + 8) and seal (16).
pub const LEASE_DATAGRAM_MIN: usize = 33;

/// The bit that QUIC version 1 sets in every first byte.
const QUIC_FIXED_BIT: u32 = 0x40;
/// Length of a UDP header in bytes: a socket filter sees the datagram with it.
const UDP_HEADER: u32 = 8;
/// Receive buffer of each socket in bytes: half a second of a flood of small datagrams
/// at 10,000 a second (the kernel counts some 800 bytes for each).
const RECEIVE_BUFFER: usize = 4 << 20;
/// Type of service "network control" (RFC 4594 CS6): queues that know precedence let a
/// renewal go before bulk traffic.
const NETWORK_CONTROL: u32 = 0xc0;

/// The two sockets of one port. Both are nonblocking and close on exec.
#[derive(Debug)]
pub struct UdpPair {
    /// QUIC: everything whose first byte has the bit 0x40.
    pub control: UdpSocket,
    /// Sealed lease datagrams: first byte [`LEASE_FIRST_BYTE`], plausible length,
    /// nothing else gets into its queue.
    pub lease: UdpSocket,
}

/// Why the port cannot be had.
#[derive(Debug, Error)]
pub enum UdpPairError {
    /// Another socket has it: most likely another evenkeel.
    #[error("UDP port {} on {} is in use by another process (`ss -ulpn` shows which); is a second evenkeel running?", addr.port(), addr.ip())]
    InUse {
        /// What was to be bound.
        addr: SocketAddr,
    },
    /// The address is on no interface of this machine.
    #[error("{} is not an address of this machine: correct `address` of this node in the file, or add it to an interface", addr.ip())]
    NotOurs {
        /// What was to be bound.
        addr: SocketAddr,
    },
    /// Ports below 1024 need a right.
    #[error("no right to bind UDP port {}: run as root, or with CAP_NET_BIND_SERVICE", addr.port())]
    NoRight {
        /// What was to be bound.
        addr: SocketAddr,
    },
    /// Some other call failed.
    #[error("{what} for UDP {addr}: {source}")]
    Call {
        /// What was to be bound.
        addr: SocketAddr,
        /// What was attempted.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Binds the two sockets of `addr`. With port 0 the kernel chooses one for both.
///
/// Nobody else can have the port at the same time: the first socket is bound
/// exclusively and only then opened for sharing, so a second evenkeel, which starts in
/// the same way, is refused whenever it comes.
pub fn pair(addr: SocketAddr) -> Result<UdpPair, UdpPairError> {
    let control = socket(addr)?;
    attach(&control, addr, &quic_filter())?;
    bind(&control, addr)?;
    let bound = control
        .local_addr()
        .map_err(|source| call(addr, "asking for the bound address", source))?
        .as_socket()
        .unwrap_or(addr);
    control
        .set_reuse_port(true)
        .map_err(|source| call(bound, "setting SO_REUSEPORT", source))?;

    let lease = socket(addr)?;
    attach(&lease, addr, &lease_filter())?;
    mark_urgent(&lease, bound)?;
    lease
        .set_reuse_port(true)
        .map_err(|source| call(bound, "setting SO_REUSEPORT", source))?;
    bind(&lease, bound)?;
    steer(&control).map_err(|source| call(bound, "attaching the steering program", source))?;
    Ok(UdpPair {
        control: control.into(),
        lease: lease.into(),
    })
}

fn call(addr: SocketAddr, what: &'static str, source: io::Error) -> UdpPairError {
    UdpPairError::Call { addr, what, source }
}

/// A nonblocking UDP socket with a large receive buffer, not yet bound.
fn socket(addr: SocketAddr) -> Result<Socket, UdpPairError> {
    let made = || {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if addr.is_ipv6() {
            // Else an IPv6 wildcard would take the IPv4 port too, which another cluster may own.
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    };
    let socket = made().map_err(|source| call(addr, "making a socket", source))?;
    enlarge(&socket, addr)?;
    Ok(socket)
}

/// Asks for [`RECEIVE_BUFFER`]: past the limit of the system if we have the right to,
/// else up to that limit.
fn enlarge(socket: &Socket, addr: SocketAddr) -> Result<(), UdpPairError> {
    if set_int(
        socket,
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        RECEIVE_BUFFER as libc::c_int,
    )
    .is_ok()
    {
        return Ok(());
    }
    socket
        .set_recv_buffer_size(RECEIVE_BUFFER)
        .map_err(|source| call(addr, "enlarging the receive buffer", source))
}

fn mark_urgent(socket: &Socket, addr: SocketAddr) -> Result<(), UdpPairError> {
    let marked = if addr.is_ipv6() {
        socket.set_tclass_v6(NETWORK_CONTROL)
    } else {
        socket.set_tos_v4(NETWORK_CONTROL)
    };
    marked.map_err(|source| call(addr, "setting the type of service", source))
}

fn bind(socket: &Socket, addr: SocketAddr) -> Result<(), UdpPairError> {
    socket
        .bind(&addr.into())
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => UdpPairError::InUse { addr },
            Some(libc::EADDRNOTAVAIL) => UdpPairError::NotOurs { addr },
            Some(libc::EACCES) => UdpPairError::NoRight { addr },
            _ => call(addr, "binding", source),
        })
}

fn attach(socket: &Socket, addr: SocketAddr, filter: &[SockFilter]) -> Result<(), UdpPairError> {
    socket
        .attach_filter(filter)
        .map_err(|source| call(addr, "attaching the socket filter", source))
}

const fn op(code: u32, jump_true: u8, jump_false: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, jump_true, jump_false, k)
}

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_LENGTH: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_LEN;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const JUMP_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP_BITS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
/// "Accept the whole datagram" of a socket filter.
const KEEP: u32 = u32::MAX;
/// "Drop it" of a socket filter.
const DROP: u32 = 0;

/// Only lease datagrams of a plausible length.
fn lease_filter() -> [SockFilter; 7] {
    [
        op(LOAD_LENGTH, 0, 0, 0),
        op(JUMP_AT_LEAST, 0, 4, UDP_HEADER + LEASE_DATAGRAM_MIN as u32),
        op(JUMP_GREATER, 3, 0, UDP_HEADER + LEASE_DATAGRAM_MAX as u32),
        op(LOAD_BYTE, 0, 0, UDP_HEADER),
        op(JUMP_EQUAL, 0, 1, LEASE_FIRST_BYTE as u32),
        op(RETURN, 0, 0, KEEP),
        op(RETURN, 0, 0, DROP),
    ]
}

/// Only datagrams with QUIC's bit. (A load past the end drops the datagram.)
fn quic_filter() -> [SockFilter; 4] {
    [
        op(LOAD_BYTE, 0, 0, UDP_HEADER),
        op(JUMP_BITS, 0, 1, QUIC_FIXED_BIT),
        op(RETURN, 0, 0, KEEP),
        op(RETURN, 0, 0, DROP),
    ]
}

/// Tells the group of sockets which of them gets a datagram: 0 is control, 1 is lease.
fn steer(group: &Socket) -> io::Result<()> {
    let program = [
        op(LOAD_BYTE, 0, 0, 0),
        op(JUMP_BITS, 0, 1, QUIC_FIXED_BIT),
        op(RETURN, 0, 0, 0),
        op(RETURN, 0, 0, 1),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut().cast(),
    };
    set(
        group,
        libc::SOL_SOCKET,
        libc::SO_ATTACH_REUSEPORT_CBPF,
        &program,
    )
}

fn set_int(socket: &Socket, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    set(socket, level, name, &value)
}

fn set<T>(socket: &Socket, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `socket` lives; `value` is readable for
    // the length given, and what it points to (a program) outlives the call, which copies.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn lease_datagram(mark: u8) -> Vec<u8> {
        let mut datagram = vec![mark; LEASE_DATAGRAM_MIN];
        datagram[0] = LEASE_FIRST_BYTE;
        datagram
    }

    /// The next datagram, waiting for it at most two seconds.
    fn next(socket: &UdpSocket) -> Vec<u8> {
        socket.set_nonblocking(false).expect("blocking");
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("time-out");
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).expect("a datagram");
        buffer[..length].to_vec()
    }

    fn is_empty(socket: &UdpSocket) -> bool {
        socket.set_nonblocking(true).expect("nonblocking");
        socket.recv(&mut [0; 2048]).is_err()
    }

    fn sorts(loopback: &str) {
        let pair = pair(loopback.parse().expect("an address")).expect("a pair");
        let to = pair.control.local_addr().expect("bound");
        assert_eq!(to, pair.lease.local_addr().expect("bound"));
        // Many senders: without the program the kernel would spread them by hash.
        for mark in 0..32u8 {
            let sender = UdpSocket::bind((to.ip(), 0)).expect("a sender");
            sender.send_to(&lease_datagram(mark), to).expect("sent");
            sender.send_to(&[0x40 | mark, mark], to).expect("sent");
            sender.send_to(&[0xc0, mark], to).expect("sent");
            assert_eq!(next(&pair.lease), lease_datagram(mark));
            assert_eq!(next(&pair.control), [0x40 | mark, mark]);
            assert_eq!(next(&pair.control), [0xc0, mark]);
        }
        assert!(is_empty(&pair.lease) && is_empty(&pair.control));
    }

    #[test]
    fn the_first_byte_chooses_the_socket() {
        sorts("127.0.0.1:0");
        sorts("[::1]:0");
    }

    #[test]
    fn foreign_bytes_never_reach_the_lease_socket() {
        let pair = pair("127.0.0.1:0".parse().expect("an address")).expect("a pair");
        let to = pair.lease.local_addr().expect("bound");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a sender");
        for first in (0..=255u8).filter(|first| *first != LEASE_FIRST_BYTE) {
            let mut datagram = lease_datagram(7);
            datagram[0] = first;
            sender.send_to(&datagram, to).expect("sent");
        }
        sender.send_to(&[], to).expect("sent");
        sender
            .send_to(&lease_datagram(7)[..LEASE_DATAGRAM_MIN - 1], to)
            .expect("sent");
        let mut long = vec![0; LEASE_DATAGRAM_MAX + 1];
        long[0] = LEASE_FIRST_BYTE;
        sender.send_to(&long, to).expect("sent");
        // Loopback keeps the order: were anything before this one let in, it would come first.
        long.truncate(LEASE_DATAGRAM_MAX);
        sender.send_to(&long, to).expect("sent");
        assert_eq!(next(&pair.lease), long);
        assert!(is_empty(&pair.lease));
    }

    #[test]
    fn a_second_pair_is_refused() {
        let first = pair("127.0.0.1:0".parse().expect("an address")).expect("a pair");
        let addr = first.control.local_addr().expect("bound");
        assert!(matches!(pair(addr), Err(UdpPairError::InUse { .. })));
        let any = SocketAddr::new("0.0.0.0".parse().expect("an address"), addr.port());
        assert!(matches!(pair(any), Err(UdpPairError::InUse { .. })));
        drop(first);
        let _again = pair(addr).expect("free after the first is gone");
    }

    #[test]
    fn refusals_say_what_to_do() {
        // 192.0.2.0/24 is for documentation (RFC 5737): on no machine.
        let refused = pair("192.0.2.1:7946".parse().expect("an address")).expect_err("not ours");
        assert!(
            refused
                .to_string()
                .contains("is not an address of this machine"),
            "{refused}"
        );
    }

    #[test]
    fn a_flood_on_one_socket_leaves_the_other_alone() {
        let pair = pair("127.0.0.1:0".parse().expect("an address")).expect("a pair");
        let to = pair.lease.local_addr().expect("bound");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a sender");
        let flood = [0x40; 1200];
        for _ in 0..20_000 {
            let _ = sender.send_to(&flood, to);
        }
        sender.send_to(&lease_datagram(9), to).expect("sent");
        assert_eq!(next(&pair.lease), lease_datagram(9));
    }
}
