//! ICMP echo (RFC 792, RFC 4443): one socket for any number of targets.
//!
//! A ping socket (`SOCK_DGRAM`) needs no right but a place in
//! `net.ipv4.ping_group_range`, which is empty by default and in every new network
//! namespace; a raw socket needs `CAP_NET_RAW`. The first that can be had is taken.
//!
//! A reply is ours if it comes from the target and carries our nonce and the number of
//! the question: a raw socket sees the replies to everybody's questions, and anybody may
//! send us some. Times are those of the boot clock around the calls: the kernel's own
//! receive stamps are of the calendar clock, which decides nothing here.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evenkeel_core::Moment;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::clock;
use crate::sys::icmp;

/// Questions waiting for their replies on one socket: far more than checks ask, and an
/// end for the table when a network goes silent.
const PENDING_MAX: usize = 8192;
/// Replies read in one go when a question's time is up.
const DRAIN_MAX: usize = 1024;
/// Room for the longest IPv4 header (60) and our echo; longer packets are cut, and are
/// not ours.
const RECEIVE_LENGTH: usize = 128;
/// ICMP header of an echo.
const HEADER_LENGTH: usize = 8;
/// Nonce and number.
const PAYLOAD_LENGTH: usize = 16;
/// Length of an echo.
const ECHO_LENGTH: usize = HEADER_LENGTH + PAYLOAD_LENGTH;
/// Types of echo and reply.
const ECHO_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const ECHO_V6: u8 = 128;
const REPLY_V6: u8 = 129;

/// Which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// ICMP.
    V4,
    /// ICMPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Why a ping has no reply.
#[derive(Debug, Error)]
pub enum PingError {
    /// Neither kind of socket can be had.
    #[error(
        "open a socket for ICMP: {source} (give CAP_NET_RAW, or a place in net.ipv4.ping_group_range)"
    )]
    Open {
        /// What the kernel said to the raw socket.
        source: io::Error,
    },
    /// The fixed source address is not ours.
    #[error("send ICMP from {from}: {source}")]
    Source {
        /// The source that was wished.
        from: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel did not send the question.
    #[error("ping {target}: {source}")]
    Send {
        /// Whom to ask.
        target: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// No reply came.
    #[error("ping {target}: no reply within {} ms", within.as_millis())]
    Silent {
        /// Who was asked.
        target: IpAddr,
        /// How long was waited.
        within: Duration,
    },
    /// The table of questions is full.
    #[error("ping {target}: {PENDING_MAX} questions wait for replies already")]
    Busy {
        /// Whom to ask.
        target: IpAddr,
    },
}

/// A reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// From the question to the reply.
    pub took: Duration,
}

/// How a socket came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A ping socket.
    Datagram,
    /// A raw socket.
    Raw,
}

/// A socket that asks, and the task that sorts its replies.
pub struct Pinger {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    socket: UdpSocket,
    kind: Kind,
    family: Family,
    nonce: u64,
    next: AtomicU64,
    pending: Mutex<BTreeMap<u64, Pending>>,
}

struct Pending {
    target: IpAddr,
    answer: oneshot::Sender<Moment>,
}

impl Pinger {
    /// A socket for `family`, sending from `source` if given. Must be called within a
    /// tokio runtime.
    pub fn open(family: Family, source: Option<IpAddr>) -> Result<Self, PingError> {
        let (socket, kind) = open_socket(family)?;
        if let Some(from) = source {
            let refused = |source| PingError::Source { from, source };
            socket
                .bind(&SocketAddr::new(from, 0).into())
                .map_err(refused)?;
        }
        // To the runtime an ICMP socket is like a UDP socket without ports.
        let socket = UdpSocket::from_std(std::net::UdpSocket::from(std::os::fd::OwnedFd::from(
            socket,
        )));
        let socket = socket.map_err(|source| PingError::Open { source })?;
        let shared = Arc::new(Shared {
            socket,
            kind,
            family,
            nonce: RandomState::new().build_hasher().finish(),
            next: AtomicU64::new(0),
            pending: Mutex::default(),
        });
        let task = tokio::spawn(receive(shared.clone())).abort_handle();
        Ok(Self { shared, task })
    }

    /// How its socket came to be.
    pub fn kind(&self) -> Kind {
        self.shared.kind
    }

    /// Asks `target` and waits for its reply.
    pub async fn ask(&self, target: IpAddr, within: Duration) -> Result<Reply, PingError> {
        let shared = &*self.shared;
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let mut reply = shared.expect(number, target)?;
        let _forget = Forget { shared, number };
        let asked = clock::now();
        let exchange = async {
            let echo = shared.echo(number);
            shared
                .socket
                .send_to(&echo, SocketAddr::new(target, 0))
                .await?;
            // The sender is dropped only with the table.
            Ok((&mut reply).await.unwrap_or(Moment::MAX))
        };
        match tokio::time::timeout(within, exchange).await {
            Ok(Ok(at)) => Ok(Reply {
                took: at.since(asked),
            }),
            Ok(Err(source)) => Err(PingError::Send { target, source }),
            Err(_) => {
                // On a busy machine the reply may wait in the socket: read before judging.
                shared.drain();
                let silent = PingError::Silent { target, within };
                reply
                    .try_recv()
                    .map(|at| Reply {
                        took: at.since(asked),
                    })
                    .map_err(|_| silent)
            }
        }
    }
}

/// Takes a question off the table, however its asker ends.
struct Forget<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut pending = self
            .shared
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pending.remove(&self.number);
    }
}

fn open_socket(family: Family) -> Result<(Socket, Kind), PingError> {
    let (domain, protocol) = match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    let failed = |source| PingError::Open { source };
    let (socket, kind) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => (socket, Kind::Datagram),
        Err(_) => (
            Socket::new(domain, Type::RAW, Some(protocol)).map_err(failed)?,
            Kind::Raw,
        ),
    };
    if kind == Kind::Raw {
        match family {
            Family::V4 => icmp::only_echo_replies(&socket),
            Family::V6 => icmp::only_echo_replies_v6(&socket),
        }
        .map_err(failed)?;
    }
    socket.set_nonblocking(true).map_err(failed)?;
    Ok((socket, kind))
}

/// Sorts replies until the socket breaks or its owner stops.
async fn receive(shared: Arc<Shared>) {
    loop {
        let read = || match shared.drain() {
            Drained::Empty => Err(io::ErrorKind::WouldBlock.into()),
            Drained::More => Ok(()),
        };
        // Leaves nothing half done when it is cancelled. A flood of replies gives
        // others their turn after each round.
        if shared
            .socket
            .async_io(Interest::READABLE, read)
            .await
            .is_err()
        {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Whether there may be more to read.
enum Drained {
    Empty,
    More,
}

impl Shared {
    fn expect(&self, number: u64, target: IpAddr) -> Result<oneshot::Receiver<Moment>, PingError> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() >= PENDING_MAX {
            return Err(PingError::Busy { target });
        }
        let (answer, reply) = oneshot::channel();
        pending.insert(number, Pending { target, answer });
        Ok(reply)
    }

    /// Reads what has arrived, up to a bound. Asks the kernel itself: on a busy machine
    /// the runtime may not know yet that there is something.
    fn drain(&self) -> Drained {
        let mut buffer = [0; RECEIVE_LENGTH];
        for _ in 0..DRAIN_MAX {
            match rustix::net::recvfrom(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((length, _, from)) => {
                    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                    if let (Some(packet), Some(from)) = (buffer.get(..length), from) {
                        self.sort(packet, from.ip());
                    }
                }
                Err(Errno::AGAIN) => return Drained::Empty,
                // An error that the network reported about an earlier question; that
                // question runs into its deadline.
                Err(_) => {}
            }
        }
        Drained::More
    }

    fn sort(&self, packet: &[u8], from: IpAddr) {
        let Some(number) = self.number_of(packet) else {
            return;
        };
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending
            .get(&number)
            .is_none_or(|question| question.target != from)
        {
            return;
        }
        if let Some(question) = pending.remove(&number) {
            // The asker may have gone by now.
            let _ = question.answer.send(clock::now());
        }
    }

    /// Which of our questions a packet replies to.
    fn number_of(&self, packet: &[u8]) -> Option<u64> {
        number_of(self.kind, self.family, self.nonce, packet)
    }

    /// A question. The kernel writes the identifier of a ping socket, and the checksum
    /// of everything but a raw IPv4 socket.
    fn echo(&self, number: u64) -> [u8; ECHO_LENGTH] {
        let mut echo = [0; ECHO_LENGTH];
        echo[0] = match self.family {
            Family::V4 => ECHO_V4,
            Family::V6 => ECHO_V6,
        };
        echo[4..6].copy_from_slice(&(self.nonce as u16).to_be_bytes());
        echo[6..8].copy_from_slice(&(number as u16).to_be_bytes());
        echo[8..16].copy_from_slice(&self.nonce.to_be_bytes());
        echo[16..24].copy_from_slice(&number.to_be_bytes());
        let sum = checksum(&echo);
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        echo
    }
}

/// The number of the question that a packet replies to, if it is one with this nonce.
pub(crate) fn number_of(kind: Kind, family: Family, nonce: u64, packet: &[u8]) -> Option<u64> {
    let with_header = kind == Kind::Raw && family == Family::V4;
    let header = if with_header {
        usize::from(packet.first()? & 0x0f) * 4
    } else {
        0
    };
    let echo = packet.get(header..header + ECHO_LENGTH)?;
    let expected = match family {
        Family::V4 => REPLY_V4,
        Family::V6 => REPLY_V6,
    };
    let (own, rest) = echo[HEADER_LENGTH..].split_at(8);
    if echo[0] != expected || own != nonce.to_be_bytes() {
        return None;
    }
    Some(u64::from_be_bytes(rest.try_into().ok()?))
}

/// The internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const WITHIN: Duration = Duration::from_secs(5);

    fn loopback(family: Family) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    #[test]
    fn the_checksum_makes_the_sum_nought() {
        // The example of RFC 1071 section 3.
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
    }

    #[tokio::test]
    async fn many_questions_at_once_get_their_own_replies() {
        for family in [Family::V4, Family::V6] {
            let pinger = Arc::new(Pinger::open(family, None).expect("root may ping"));
            let mut asked = tokio::task::JoinSet::new();
            for _ in 0..200 {
                let pinger = pinger.clone();
                asked.spawn(async move { pinger.ask(loopback(family), WITHIN).await });
            }
            while let Some(reply) = asked.join_next().await {
                reply.expect("no panic").expect("loopback replies");
            }
            assert!(pinger.shared.pending.lock().expect("whole").is_empty());
        }
    }

    #[tokio::test]
    async fn replies_of_strangers_are_not_ours() {
        let pinger = Pinger::open(Family::V4, None).expect("root may ping");
        let shared = &pinger.shared;
        let target = loopback(Family::V4);
        let mut reply = shared.expect(7, target).expect("room");
        let header = if shared.kind == Kind::Raw { 20 } else { 0 };
        let mut good = vec![0x45; header];
        good.extend(shared.echo(7));
        good[header] = REPLY_V4;

        for length in 0..good.len() {
            shared.sort(&good[..length], target);
        }
        let mut question = good.clone();
        question[header] = ECHO_V4;
        shared.sort(&question, target);
        let mut other_nonce = good.clone();
        other_nonce[header + 8] ^= 1;
        shared.sort(&other_nonce, target);
        shared.sort(&good, Ipv4Addr::new(127, 0, 0, 2).into());
        assert!(reply.try_recv().is_err());

        shared.sort(&good, target);
        reply.try_recv().expect("this one is");
    }

    #[tokio::test]
    async fn an_asker_that_gives_up_leaves_nothing_behind() {
        let pinger = Pinger::open(Family::V4, None).expect("root may ping");
        {
            let ask = pinger.ask(Ipv4Addr::new(127, 0, 0, 1).into(), WITHIN);
            tokio::pin!(ask);
            // One poll: the question is out, the reply is not read yet.
            std::future::poll_fn(|context| {
                let _ = ask.as_mut().poll(context);
                std::task::Poll::Ready(())
            })
            .await;
        }
        assert!(pinger.shared.pending.lock().expect("whole").is_empty());
    }

    #[tokio::test]
    async fn a_source_that_is_not_ours_is_refused() {
        let foreign = Ipv4Addr::new(192, 0, 2, 99).into();
        let refused = Pinger::open(Family::V4, Some(foreign)).map(drop);
        assert!(
            matches!(refused, Err(PingError::Source { .. })),
            "{refused:?}"
        );
        let own = Ipv4Addr::new(127, 0, 0, 9).into();
        let pinger = Pinger::open(Family::V4, Some(own)).expect("an own address");
        pinger
            .ask(Ipv4Addr::LOCALHOST.into(), WITHIN)
            .await
            .expect("a reply");
    }
}
