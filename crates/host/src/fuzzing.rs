//! Doors for `crates/fuzz`, and for nobody else: readers of what the kernel and the network say
//! that have no other way in but a socket. Each calls the readers themselves.
//!
//! Not behind a feature: see the module of the same name in `evenkeel_transport`.

use std::net::SocketAddr;

use crate::netlink::{Messages, Request};
use crate::ping::{Family, Kind, number_of};
use crate::sockets::{self, Transport};
use crate::{address, listener, process, watching};

/// Which question an ICMP packet replies to, if it is one with this nonce.
pub fn echoed(kind: Kind, family: Family, nonce: u64, packet: &[u8]) -> Option<u64> {
    number_of(kind, family, nonce, packet)
}

/// What was read of one buffer of netlink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Messages.
    pub messages: usize,
    /// The bytes of all their bodies, and those of all values of attributes in them.
    pub bytes: usize,
    /// Changes of links, addresses and routes.
    pub changes: Vec<address::Change>,
    /// Ends of connections: ours, the peer's.
    pub ends: Vec<(SocketAddr, SocketAddr)>,
    /// Sockets that listen.
    pub listening: Vec<SocketAddr>,
}

/// Everything that is read of netlink, of one buffer.
pub fn netlink(buffer: &[u8]) -> Heard {
    let mut heard = Heard::default();
    for message in (Messages { rest: buffer }) {
        heard.messages += 1;
        heard.bytes += message.body.len();
        if let Some((_, attributes)) = message.split(0) {
            heard.bytes += attributes.map(|(_, value)| value.len()).sum::<usize>();
        }
        heard.changes.extend(address::read_change(message));
        let pair = sockets::read(Transport::Tcp, message);
        heard.ends.extend(pair.map(|one| (one.local, one.remote)));
        let flight = sockets::flight::flight(message);
        heard
            .ends
            .extend(flight.map(|(_, one)| (one.local, one.remote)));
    }
    for message in listener::diag::Messages(buffer) {
        if let Ok(listener::diag::Message::Socket { listening, .. }) = message {
            heard.listening.push(listening.local);
        }
    }
    heard
}

/// The bytes of a request, as they are sent.
pub fn request(kind: u16, body: &[u8], attributes: &[(u16, &[u8])], sequence: u32) -> Vec<u8> {
    let request = Request::new(kind, 0, body);
    let whole = attributes
        .iter()
        .fold(request, |request, (kind, value)| request.with(*kind, value));
    whole.numbered(sequence)
}

/// When a process was started, by its line in `/proc`, whose name may be anything.
pub fn start_of(stat: &str) -> Option<u64> {
    process::start_of(stat)
}

/// What was read of one buffer of fanotify: notices, the bytes of their handles and names, and
/// whether all was understood.
pub fn notices(buffer: &[u8]) -> (usize, usize, bool) {
    watching::read_notices(buffer)
}

/// A notice as the kernel writes it: a rename from one entry of a directory to another.
pub fn renamed(directory: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let infos = [
        (libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, directory, from),
        (libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, directory, to),
        (libc::FAN_EVENT_INFO_TYPE_FID, directory, &[][..]),
    ];
    watching::written(libc::FAN_RENAME, 1, &infos)
}

/// As it tells that notices were dropped.
pub fn overflow() -> Vec<u8> {
    watching::written(watching::OVERFLOW, 0, &[])
}
