//! Netlink: how this machine's links, addresses, routes and sockets are asked for and
//! changed. A [`Connection`] sends requests and reads their answers, in batches; a
//! [`Listener`] hears the kernel tell of changes.
//!
//! The attributes are read by hand instead of by a crate of message types: a handful is
//! needed here, the same walk serves the route and the socket families, and a kernel
//! that lengthens an attribute nobody here looks at must not hide a link from us.
//!
//! Formats: RFC 3549, `include/uapi/linux/netlink.h`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use evenkeel_core::Moment;
use netlink_sys::Socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};

use crate::clock;

/// How long the kernel may take to answer one request. It answers within the system
/// call that asks, so that only a lock held by something sick makes it this slow.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// Requests sent in one go. Should all fail, what the kernel tells of them waits in the
/// receive buffer of the socket until all are carried out, and 212 KiB (the usual default)
/// hold some 270.
pub const BATCH_MAX: usize = 64;

/// How often a dump is repeated because the kernel's table changed under it; what the
/// last one says is then taken, and the changes are heard of by the [`Listener`].
const DUMPS_MAX: usize = 4;

/// Longest answer read at once: the kernel fills at most 32 KiB of a dump into one
/// buffer (`netlink_recvmsg`).
const ANSWER_LENGTH_MAX: usize = 32 * 1024;

/// Room for changes not read yet: two thousand addresses make 2 MiB of them.
const CHANGES_LENGTH_MAX: usize = 4 * 1024 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`: change what is there.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: refuse if it is there.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`: make it if it is not there.
pub const CREATE: u16 = 0x400;

const HEADER_LENGTH: usize = 16;

/// What went wrong between this process and the kernel. Follows "failed to".
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket: the process has too many, or the kernel lacks the family.
    #[error("open a netlink socket for {family}: {source}")]
    Open {
        /// The family, for people.
        family: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The request did not leave.
    #[error("send a netlink request: {0}")]
    Send(#[source] io::Error),
    /// The answer could not be read.
    #[error("read a netlink answer: {0}")]
    Receive(#[source] io::Error),
    /// No answer within [`ANSWER_TIME_MAX`].
    #[error("read a netlink answer: none within {ANSWER_TIME_MAX:?}")]
    Late,
    /// The kernel refused a whole request.
    #[error("read a netlink answer: refused: {0}")]
    Refused(#[source] io::Error),
}

/// A family of netlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes.
    Route,
    /// Sockets (`NETLINK_SOCK_DIAG`).
    Sockets,
}

impl Family {
    fn number(self) -> isize {
        match self {
            Self::Route => netlink_sys::protocols::NETLINK_ROUTE,
            Self::Sockets => netlink_sys::protocols::NETLINK_SOCK_DIAG,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Route => "routes",
            Self::Sockets => "sockets",
        }
    }
}

fn open(family: Family) -> Result<Socket, NetlinkError> {
    let failed = |source| NetlinkError::Open {
        family: family.text(),
        source,
    };
    let mut socket = Socket::new(family.number()).map_err(failed)?;
    socket.bind_auto().map_err(failed)?;
    Ok(socket)
}

/// One request: a kind, flags, a fixed part and attributes.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of `kind` (`RTM_NEWADDR`, ...) whose fixed part is `body`.
    pub fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        let mut request = Self { bytes };
        request.pad();
        request
    }

    /// The same with one more attribute.
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        debug_assert!(
            usize::from(length) == value.len() + 4,
            "attributes are short"
        );
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// What is sent, under this number.
    pub(crate) fn numbered(mut self, sequence: u32) -> Vec<u8> {
        self.finish(0, sequence);
        self.bytes
    }

    /// Writes length, flags and sequence number, which are known only when it is sent.
    fn finish(&mut self, flags: u16, sequence: u32) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `RTM_NEWLINK`, ...
    pub kind: u16,
    /// Everything after the header: fixed part and attributes.
    pub body: &'a [u8],
    flags: u16,
    sequence: u32,
}

impl<'a> Message<'a> {
    /// The fixed part of `length` bytes and the attributes after it, or `None` if the
    /// message is shorter.
    pub fn split(&self, length: usize) -> Option<(&'a [u8], Attributes<'a>)> {
        let (fixed, rest) = self.body.split_at_checked(length)?;
        Some((fixed, Attributes { rest }))
    }

    fn error(&self) -> Option<i32> {
        Some(i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?))
    }
}

/// The messages in one buffer read from the kernel.
pub(crate) struct Messages<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.rest.get(..HEADER_LENGTH)?;
        let length = u32_at(header, 0)? as usize;
        if length < HEADER_LENGTH {
            return None;
        }
        let body = self.rest.get(HEADER_LENGTH..length)?;
        let message = Message {
            kind: u16_at(header, 4)?,
            flags: u16_at(header, 6)?,
            sequence: u32_at(header, 8)?,
            body,
        };
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(message)
    }
}

/// The attributes of a message: kind (without the nesting bits) and value.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes nested in `value`.
    pub fn nested(value: &'a [u8]) -> Self {
        Self { rest: value }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.rest, 0)?);
        let kind = u16_at(self.rest, 2)? & 0x3fff;
        let value = self.rest.get(4..length)?;
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, value))
    }
}

/// The native-endian number at `at`, if the bytes reach so far.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The native-endian number at `at`, if the bytes reach so far.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A conversation with the kernel, in the network namespace of the thread that opened
/// it. Every call waits for the kernel, at most [`ANSWER_TIME_MAX`] for an answer.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens a conversation about `family`.
    pub fn open(family: Family) -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: open(family)?,
            sequence: 0,
            buffer: vec![0; ANSWER_LENGTH_MAX],
        })
    }

    fn next_sequence(&mut self) -> u32 {
        // Zero marks changes that nobody asked for.
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        rustix::net::send(&self.socket, bytes, SendFlags::empty())
            .map_err(|error| NetlinkError::Send(error.into()))?;
        Ok(())
    }

    /// Reads one buffer of answers, waiting until `deadline`.
    fn receive(&mut self, deadline: Moment) -> Result<usize, NetlinkError> {
        loop {
            match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, length)) => return Ok(length.min(self.buffer.len())),
                Err(rustix::io::Errno::AGAIN) => {
                    let left = clock::now().until(deadline);
                    if left.is_zero() {
                        return Err(NetlinkError::Late);
                    }
                    wait_readable(self.socket.as_fd(), left).map_err(NetlinkError::Receive)?;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(NetlinkError::Receive(error.into())),
            }
        }
    }

    /// Asks for a table and hands each row to `row`. If the table changes meanwhile it
    /// is read again from its start, after a call of `restart`, which forgets the rows.
    pub fn dump<State>(
        &mut self,
        request: &Request,
        state: &mut State,
        restart: impl Fn(&mut State),
        row: impl Fn(&mut State, Message<'_>),
    ) -> Result<(), NetlinkError> {
        for _ in 0..DUMPS_MAX {
            restart(state);
            if self.dump_once(request, state, &row)? == Dump::Whole {
                break;
            }
        }
        Ok(())
    }

    /// Like [`Connection::dump`], but the kernel leaves out rows that differ from the fixed part
    /// of the request, so that one table of a router's millions of routes is cheap. Kernels
    /// before 4.20 do not choose: look at each row all the same.
    pub fn dump_chosen<State>(
        &mut self,
        request: &Request,
        state: &mut State,
        restart: impl Fn(&mut State),
        row: impl Fn(&mut State, Message<'_>),
    ) -> Result<(), NetlinkError> {
        let chooses = self.socket.set_netlink_get_strict_chk(true).is_ok();
        let outcome = self.dump(request, state, restart, row);
        if chooses {
            let reset = self.socket.set_netlink_get_strict_chk(false);
            reset.map_err(NetlinkError::Send)?;
        }
        outcome
    }

    fn dump_once<State>(
        &mut self,
        request: &Request,
        state: &mut State,
        row: &impl Fn(&mut State, Message<'_>),
    ) -> Result<Dump, NetlinkError> {
        let sequence = self.next_sequence();
        let mut request = request.clone();
        request.finish(NLM_F_DUMP, sequence);
        self.send(&request.bytes)?;
        let mut dump = Dump::Whole;
        loop {
            let length = self.receive(clock::now() + ANSWER_TIME_MAX)?;
            for message in (Messages {
                rest: &self.buffer[..length],
            }) {
                if message.sequence != sequence {
                    continue;
                }
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    dump = Dump::Torn;
                }
                match message.kind {
                    NLMSG_DONE => match message.error() {
                        Some(code) if code < 0 => return Err(refused(code)),
                        Some(_) | None => return Ok(dump),
                    },
                    NLMSG_ERROR => return Err(refused(message.error().unwrap_or(-libc::EIO))),
                    _ => row(state, message),
                }
            }
        }
    }

    /// Carries out all `requests`, [`BATCH_MAX`] per system call, and says of each
    /// whether the kernel did it. A request that fails does not stop the others.
    ///
    /// Only the last request of a system call asks for an acknowledgement: the kernel takes
    /// them in their order and tells of each failure unasked, so whatever was not told of
    /// by then succeeded. Asking for all costs as much as a tenth of the work itself.
    pub fn batch(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<Vec<io::Result<()>>, NetlinkError> {
        let mut outcomes = Vec::new();
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let mut sequences = BTreeMap::new();
            let mut bytes = Vec::new();
            let mut turn = requests.by_ref().take(BATCH_MAX).peekable();
            let mut last = 0;
            while let Some(mut request) = turn.next() {
                last = self.next_sequence();
                let asks = if turn.peek().is_none() { NLM_F_ACK } else { 0 };
                request.finish(asks, last);
                bytes.extend_from_slice(&request.bytes);
                sequences.insert(last, outcomes.len());
                outcomes.push(Ok(()));
            }
            self.send(&bytes)?;
            self.await_outcomes(last, &sequences, &mut outcomes)?;
        }
        Ok(outcomes)
    }

    /// Reads what failed, until the answer to the request numbered `last`.
    fn await_outcomes(
        &mut self,
        last: u32,
        sequences: &BTreeMap<u32, usize>,
        outcomes: &mut [io::Result<()>],
    ) -> Result<(), NetlinkError> {
        let deadline = clock::now() + ANSWER_TIME_MAX;
        loop {
            let length = self.receive(deadline)?;
            for message in (Messages {
                rest: &self.buffer[..length],
            }) {
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                let Some(at) = sequences.get(&message.sequence) else {
                    continue;
                };
                match message.error() {
                    Some(0) => {}
                    Some(code) => {
                        outcomes[*at] = Err(io::Error::from_raw_os_error(code.saturating_neg()));
                    }
                    None => outcomes[*at] = Err(io::ErrorKind::InvalidData.into()),
                }
                if message.sequence == last {
                    return Ok(());
                }
            }
        }
    }
}

/// Whether a dump shows one state of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dump {
    Whole,
    Torn,
}

fn refused(code: i32) -> NetlinkError {
    NetlinkError::Refused(io::Error::from_raw_os_error(code.saturating_neg()))
}

fn wait_readable(socket: BorrowedFd<'_>, time: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(time).unwrap_or(Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    });
    match poll(
        &mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)],
        Some(&timeout),
    ) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What reading the changes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// All changes up to now were handed out.
    All,
    /// Some were lost, because they came faster than they were read: everything must
    /// be asked for again.
    Lost,
}

/// Hears of changes, in the network namespace of the thread that opened it. Wait for
/// its descriptor to become readable, then call [`Listener::hear`].
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Listener {
    /// Listens to the multicast `groups` (`RTNLGRP_...`) of the route family.
    pub fn open(groups: &[u32]) -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::Open {
            family: "changes",
            source,
        };
        let socket = open(Family::Route)?;
        // Past the system's limit where we may; where we may not, an overflow is heard
        // as `Lost` and costs one more dump.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, CHANGES_LENGTH_MAX)
            .is_err()
        {
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, CHANGES_LENGTH_MAX)
                .map_err(|error| failed(error.into()))?;
        }
        for group in groups {
            socket.add_membership(*group).map_err(failed)?;
        }
        Ok(Self {
            socket,
            buffer: vec![0; ANSWER_LENGTH_MAX],
        })
    }

    /// Hands every change that waits to `each`. Never waits.
    pub fn hear(&mut self, mut each: impl FnMut(Message<'_>)) -> Result<Heard, NetlinkError> {
        let mut heard = Heard::All;
        loop {
            match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, length)) => {
                    let length = length.min(self.buffer.len());
                    (Messages {
                        rest: &self.buffer[..length],
                    })
                    .for_each(&mut each);
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(heard),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::NOBUFS) => heard = Heard::Lost,
                Err(error) => return Err(NetlinkError::Receive(error.into())),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(requests: Vec<Request>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (at, mut request) in requests.into_iter().enumerate() {
            request.finish(NLM_F_ACK, u32::try_from(at).expect("few") + 1);
            bytes.extend_from_slice(&request.bytes);
        }
        bytes
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = bytes_of(vec![
            Request::new(20, CREATE, &[1, 2, 3, 4, 5, 6, 7, 8])
                .with(3, b"abc\0")
                .with(7, &[9]),
            Request::new(21, 0, &[]),
        ]);
        let messages: Vec<_> = Messages { rest: &bytes }.collect();
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].kind, messages[0].sequence), (20, 1));
        assert_eq!(messages[0].flags, CREATE | NLM_F_ACK | NLM_F_REQUEST);
        let (fixed, attributes) = messages[0].split(8).expect("long enough");
        assert_eq!(fixed, [1, 2, 3, 4, 5, 6, 7, 8]);
        let attributes: Vec<_> = attributes.collect();
        assert_eq!(attributes, [(3, &b"abc\0"[..]), (7, &[9][..])]);
        assert_eq!((messages[1].kind, messages[1].body.len()), (21, 0));
    }

    #[test]
    fn a_cut_or_mad_message_ends_the_walk() {
        let bytes = bytes_of(vec![Request::new(20, 0, &[0; 8]).with(3, b"abcd")]);
        for length in 0..bytes.len() {
            let message = Messages {
                rest: &bytes[..length],
            }
            .next();
            assert!(message.is_none(), "{message:?} read from {length} bytes");
        }
        assert!(
            Messages { rest: &[0; 64] }.next().is_none(),
            "a length of zero"
        );
        assert!(
            Attributes {
                rest: &[0, 0, 1, 0, 0, 0]
            }
            .next()
            .is_none()
        );
        assert!(
            Attributes {
                rest: &[200, 0, 1, 0, 0, 0]
            }
            .next()
            .is_none()
        );
    }
}
