//! Every frame that enters this network namespace, with the device it came in by and
//! the kernel's own time of arrival: `AF_PACKET` (packet(7)), receiving only. The lab
//! watches with it who answers for an address; a holder that leaves copies attempts to
//! connect with it. A tap is before every filter of the kernel, the guard's among them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Room for frames that the reader has not fetched yet: at 2,000 small frames a second
/// this bridges tens of seconds without the reader, so that a loaded machine does not
/// blind it.
const RECEIVE_BUFFER: libc::c_int = 64 << 20;

/// An open tap on all devices of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Tap(OwnedFd);

/// One frame that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of it that were put into the buffer.
    pub length: usize,
    /// Index of the device by which it came in.
    pub device: u32,
    /// When the kernel took it in, as `CLOCK_REALTIME` since 1970.
    pub calendar: Duration,
}

/// An aligned place for control messages.
#[repr(align(8))]
struct Control([u8; 128]);

fn set<T>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is valid for `length` bytes for the whole call, and the kernel only
    // reads it.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl Tap {
    /// Opens a tap that does not block. Needs `CAP_NET_RAW` in the network namespace.
    ///
    /// # Errors
    ///
    /// What the kernel says: `EPERM` without the right.
    pub fn open() -> io::Result<Self> {
        let all = i32::from((libc::ETH_P_ALL as u16).to_be());
        // SAFETY: plain numbers; the result is checked before it is used.
        let raw = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                all,
            )
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by socket(2) and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let yes: libc::c_int = 1;
        set(
            fd.as_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            &yes,
        )?;
        set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &yes)?;
        // Without the right to force it, the ordinary limit has to do.
        if set(
            fd.as_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            &RECEIVE_BUFFER,
        )
        .is_err()
        {
            set(
                fd.as_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUF,
                &RECEIVE_BUFFER,
            )?;
        }
        Ok(Self(fd))
    }

    /// From now on only attempts to connect (TCP with SYN and without ACK), ARP and
    /// neighbour advertisements come in: whatever else passes costs a few instructions.
    /// What is waiting already may be anything.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn keep_attempts(&self) -> io::Result<()> {
        self.attach(&mut attempts())
    }

    /// From now on frames that come from this hardware address are left out, by the kernel: a
    /// watcher that is flooded with what it does not look for misses nothing then. What is
    /// waiting already may be anything.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn leave_out(&self, from: [u8; 6]) -> io::Result<()> {
        self.attach(&mut not_from(from))
    }

    fn attach(&self, program: &mut [libc::sock_filter]) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: program.len() as libc::c_ushort,
            filter: program.as_mut_ptr(),
        };
        // The kernel copies the program that this points to, which lives through the call.
        set(
            self.0.as_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            &program,
        )
    }

    /// The next frame, its first bytes put into `buffer`; `None` if none is waiting.
    ///
    /// # Errors
    ///
    /// What the kernel says, `ENETDOWN` of a device that has just gone excepted: that is
    /// no fault of the tap.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Seen>> {
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let mut control = Control([0; 128]);
        // SAFETY: both structures are plain numbers and pointers for which zero is valid.
        let (mut from, mut message) = unsafe {
            (
                std::mem::zeroed::<libc::sockaddr_ll>(),
                std::mem::zeroed::<libc::msghdr>(),
            )
        };
        message.msg_name = std::ptr::from_mut(&mut from).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        // SAFETY: `message` points to `from`, `part`, `control` and, through `part`, to
        // `buffer`; all live until after the call, with the lengths given.
        let got = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        if got < 0 {
            let fault = io::Error::last_os_error();
            return match fault.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(None),
                _ => Err(fault),
            };
        }
        Ok(Some(Seen {
            length: got.unsigned_abs().min(buffer.len()),
            device: from.sll_ifindex.unsigned_abs(),
            calendar: time_in(&message),
        }))
    }

    /// Frames lost for want of room since the last call: what the tap has not seen.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn take_lost(&self) -> io::Result<u32> {
        // SAFETY: two numbers, for which zero is valid.
        let mut counts = unsafe { std::mem::zeroed::<libc::tpacket_stats>() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: `counts` has room for `length` bytes and lives through the call.
        let done = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                std::ptr::from_mut(&mut counts).cast(),
                &raw mut length,
            )
        };
        if done == 0 {
            Ok(counts.tp_drops)
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

const LOAD_WORD: u16 = 0x20;
const LOAD_SHORT: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// "Take so many bytes of the frame": all of any.
const WHOLE: u32 = 0x4_0000;

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The program of [`Tap::leave_out`]: offsets count from the Ethernet header, jumps from the
/// next line.
fn not_from(mac: [u8; 6]) -> [libc::sock_filter; 6] {
    let [a, b, c, d, e, f] = mac;
    [
        op(LOAD_WORD, 0, 0, 8),
        op(IF_EQUAL, 0, 2, u32::from_be_bytes([c, d, e, f])),
        op(LOAD_SHORT, 0, 0, 6),
        op(IF_EQUAL, 1, 0, u32::from(u16::from_be_bytes([a, b]))),
        op(RETURN, 0, 0, WHOLE),
        op(RETURN, 0, 0, 0),
    ]
}

/// The program of [`Tap::keep_attempts`]: offsets count from the Ethernet header.
fn attempts() -> [libc::sock_filter; 22] {
    const LOAD_BYTE_AFTER_X: u16 = 0x50;
    const X_IS_HEADER: u16 = 0xb1;
    const AND: u16 = 0x54;
    const IF_BITS: u16 = 0x45;
    // Jumps count from the next line: to the last but one, which takes the frame, or to the
    // last, which does not.
    [
        op(LOAD_SHORT, 0, 0, 12),
        op(IF_EQUAL, 18, 0, 0x0806),
        op(IF_EQUAL, 0, 8, 0x0800),
        // IPv4: TCP, not a later fragment, the flags behind a header of any length.
        op(LOAD_BYTE, 0, 0, 23),
        op(IF_EQUAL, 0, 16, 6),
        op(LOAD_SHORT, 0, 0, 20),
        op(IF_BITS, 14, 0, 0x1fff),
        op(X_IS_HEADER, 0, 0, 14),
        op(LOAD_BYTE_AFTER_X, 0, 0, 27),
        op(AND, 0, 0, 0x17),
        op(IF_EQUAL, 9, 10, 0x02),
        // IPv6: the type of an ICMPv6 message, or TCP flags.
        op(IF_EQUAL, 0, 9, 0x86dd),
        op(LOAD_BYTE, 0, 0, 20),
        op(IF_EQUAL, 3, 0, 6),
        op(IF_EQUAL, 0, 6, 58),
        op(LOAD_BYTE, 0, 0, 54),
        op(IF_EQUAL, 3, 4, 136),
        op(LOAD_BYTE, 0, 0, 67),
        op(AND, 0, 0, 0x17),
        op(IF_EQUAL, 0, 1, 0x02),
        op(RETURN, 0, 0, WHOLE),
        op(RETURN, 0, 0, 0),
    ]
}

/// The kernel's time of arrival in a received message; zero if it carries none.
fn time_in(message: &libc::msghdr) -> Duration {
    // SAFETY: `message` was filled in by recvmsg(2) and its control buffer still lives.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !at.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole aligned header
        // within the control buffer.
        let header = unsafe { *at };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_TIMESTAMPNS {
            // SAFETY: the kernel puts a `timespec` after a header of this kind.
            let time = unsafe {
                libc::CMSG_DATA(at)
                    .cast::<libc::timespec>()
                    .read_unaligned()
            };
            let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
            return Duration::new(time.tv_sec.unsigned_abs(), nanos);
        }
        // SAFETY: as above; `at` is a header of this message.
        at = unsafe { libc::CMSG_NXTHDR(message, at) };
    }
    Duration::ZERO
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Instant;

    use super::*;

    /// What frames on loopback come from.
    const LOOPBACK: [u8; 6] = [0; 6];
    const MARK: &[u8] = b"evenkeel-tap-leaves-out";
    /// For a frame on loopback.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// Whether a datagram on loopback is seen by `tap` before `limit` is over.
    fn sees_itself(tap: &Tap, limit: Duration) -> bool {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let to = socket.local_addr().expect("bound");
        socket.send_to(MARK, to).expect("sent");
        let mut buffer = [0; 256];
        let begun = Instant::now();
        while begun.elapsed() < limit {
            while let Some(seen) = tap.receive(&mut buffer).expect("a tap") {
                let frame = &buffer[..seen.length];
                if frame.windows(MARK.len()).any(|window| window == MARK) {
                    return true;
                }
            }
        }
        false
    }

    #[test]
    fn only_what_is_to_be_left_out_is_not_seen() {
        let tap = match Tap::open() {
            Ok(tap) => tap,
            Err(fault) => {
                eprintln!("NOT TESTED: a tap that leaves frames out: {fault}");
                return;
            }
        };
        for other in [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0]] {
            tap.leave_out(other).expect("a filter");
            assert!(sees_itself(&tap, PATIENCE), "{other:?}");
        }
        tap.leave_out(LOOPBACK).expect("a filter");
        // The kernel hands a frame to taps before `send` returns.
        assert!(!sees_itself(&tap, Duration::from_millis(50)));
    }
}
