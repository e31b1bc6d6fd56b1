//! Filters of raw ICMP sockets (`raw(7)`, RFC 3542 section 3.2).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `SOL_RAW` and `ICMP_FILTER` of `linux/icmp.h`.
const SOL_RAW: libc::c_int = 255;
const ICMP_FILTER: libc::c_int = 1;
/// `ICMPV6_FILTER` of `linux/icmpv6.h`.
const ICMPV6_FILTER: libc::c_int = 1;
/// Echo reply in ICMP (RFC 792) and ICMPv6 (RFC 4443).
const ECHO_REPLY: u32 = 0;
const ECHO_REPLY_V6: u32 = 129;

/// Lets only echo replies through to a raw ICMP socket: other traffic then costs its
/// owner nothing.
pub fn only_echo_replies(socket: impl AsFd) -> io::Result<()> {
    // A set bit drops the type.
    let filter: u32 = !(1 << ECHO_REPLY);
    set(&socket, SOL_RAW, ICMP_FILTER, &filter)
}

/// The same for a raw ICMPv6 socket.
pub fn only_echo_replies_v6(socket: impl AsFd) -> io::Result<()> {
    let mut filter = [u32::MAX; 8];
    filter[(ECHO_REPLY_V6 / 32) as usize] &= !(1 << (ECHO_REPLY_V6 % 32));
    set(&socket, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &filter)
}

/// Words are plain data without padding; the two callers pass `u32` and `[u32; 8]`.
fn set<T: Copy>(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call, and the pointer and length
    // describe `value`, which outlives it; the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
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
