//! The few words of netlink that the guard speaks, written and read by hand: messages,
//! attributes, nests (`include/uapi/linux/netlink.h`). Small and without allocation
//! where the lease thread uses it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use evenkeel_host::sys::inherit;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::{RecvFlags, SendFlags};

/// Flags of a message.
pub(crate) mod flag {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Larger than any single datagram that the kernel makes of a dump (32 KiB).
const RECEIVE_BYTES: usize = 64 * 1024;

/// Messages in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    /// What is written so far.
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    /// A message with a fixed `head` after the netlink header, then what `body` adds.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        head: &[u8],
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(head);
        body(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute; returns where its value begins.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> usize {
        self.bytes
            .extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        let at = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        at
    }

    /// A number in network order.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// A text with a zero at its end.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest<T>(&mut self, kind: u16, body: impl FnOnce(&mut Self) -> T) -> T {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let answer = body(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        answer
    }
}

/// A message that was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// Its type.
    pub(crate) kind: u16,
    /// Of the request that it answers.
    pub(crate) sequence: u32,
    /// Of the socket whose request made it; in an announcement, whoever caused it.
    pub(crate) port: u32,
    /// What follows the netlink header.
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// The answer to a request: zero for done, otherwise a negative error number.
    pub(crate) fn verdict(&self) -> Option<i32> {
        match self.kind {
            NLMSG_ERROR => Some(i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?)),
            _ => None,
        }
    }

    /// The last of a dump.
    pub(crate) fn is_done(&self) -> bool {
        self.kind == NLMSG_DONE
    }
}

/// The messages in a datagram; stops at the first that is cut off.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.get(..HEADER)?;
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = word(0) as usize;
        let body = datagram.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let message = Message {
            kind,
            sequence: word(8),
            port: word(12),
            body,
        };
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`, type and value; stops at the first that is cut off.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the attribute `kind`.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// A number in network order.
pub(crate) fn read_number(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(bytes, kind)?.try_into().ok()?))
}

/// A text that ends with a zero.
pub(crate) fn read_text(bytes: &[u8], kind: u16) -> Option<&str> {
    std::str::from_utf8(find(bytes, kind)?.split(|byte| *byte == 0).next()?).ok()
}

/// A netlink socket of this network namespace.
pub(crate) struct Port {
    socket: Socket,
    number: u32,
}

impl Port {
    /// Opens a socket of `protocol` that also hears `groups` (a bit per group).
    pub(crate) fn open(protocol: isize, groups: u32) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, groups))?;
        Self::of(socket)
    }

    /// A socket that another process opened and bound. What was answered to that one is
    /// still in it.
    pub(crate) fn inherited(descriptor: OwnedFd) -> io::Result<Self> {
        Self::of(inherit::netlink(descriptor))
    }

    fn of(socket: Socket) -> io::Result<Self> {
        let mut bound = SocketAddr::new(0, 0);
        socket.get_address(&mut bound)?;
        // Answers then carry only the head of what they answer.
        let _ = socket.set_cap_ack(true);
        Ok(Self {
            number: bound.port_number(),
            socket,
        })
    }

    /// Its number, by which the kernel knows an owner.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Sends; requests to the kernel are carried out before this returns.
    pub(crate) fn send(&self, bytes: &[u8]) -> rustix::io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL))
            .map(|_| ())
    }

    /// Reads one datagram if there is one.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> rustix::io::Result<Option<usize>> {
        let answer = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT)
        });
        match answer {
            // The second number is the datagram's real length: what does not fit is
            // lost, and `RECEIVE_BYTES` makes that impossible.
            Ok((count, _)) => Ok(Some(count)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads all answers that are there and gives each message to `each`, until it says
    /// that this was the last. Since the kernel answers before `send` returns, there is
    /// nothing to wait for.
    pub(crate) fn drain(&self, mut each: impl FnMut(Message<'_>) -> Read) -> io::Result<()> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        while let Some(count) = self.receive(&mut buffer)? {
            for message in messages(&buffer[..count]) {
                if each(message) == Read::Enough {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Sends a request for a dump and gives each message of the answer to `each`.
    pub(crate) fn dump(&self, request: &[u8], mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.send(request)?;
        let mut verdict = 0;
        self.drain(|message| {
            if let Some(code) = message.verdict() {
                verdict = code;
                return Read::Enough;
            }
            if message.is_done() {
                return Read::Enough;
            }
            each(message);
            Read::More
        })?;
        if verdict == 0 {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(-verdict))
        }
    }
}

/// Whether to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// More may follow.
    More,
    /// This was the last.
    Enough,
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut writer = Writer::default();
        writer.message(7, flag::REQUEST, 3, &[5, 0, 0, 0], |writer| {
            writer.text(1, "name");
            writer.nest(2, |writer| writer.number(9, 0x0102_0304));
        });
        let all: Vec<_> = messages(&writer.bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].sequence), (7, 3));
        let body = &all[0].body[4..];
        assert_eq!(read_text(body, 1), Some("name"));
        assert_eq!(
            read_number(find(body, 2).expect("a nest"), 9),
            Some(0x0102_0304)
        );
    }

    #[test]
    fn what_is_cut_off_ends_the_reading() {
        let mut writer = Writer::default();
        writer.message(7, 0, 3, &[], |writer| writer.number(1, 5));
        for length in 0..writer.bytes.len() {
            let found = messages(&writer.bytes[..length]).count();
            assert_eq!(found, 0, "of {length} bytes");
        }
        assert_eq!(
            attributes(&[3, 0, 1, 0]).count(),
            0,
            "shorter than its own header"
        );
    }
}
