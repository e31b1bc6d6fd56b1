//! Descriptors that a parent hands to the process it starts: by number, in the
//! environment or on the command line.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

/// A descriptor of this process, inherited under `number`, as one of its own. What this
/// process starts does not inherit it further, under neither number. Refused if nothing
/// is open there.
pub fn descriptor(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: the number is not -1; if it is not open, the calls below fail with EBADF and
    // do nothing. If it is, it stays open: only its owner could close it, and an inherited
    // descriptor has none in this process.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 0)?)
}

/// A netlink socket made elsewhere. A socket of another kind refuses what is asked of it.
pub fn netlink(descriptor: OwnedFd) -> netlink_sys::Socket {
    // SAFETY: the descriptor is open and owned; its owner becomes the socket.
    unsafe { netlink_sys::Socket::from_raw_fd(descriptor.into_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn what_is_open_is_taken_and_what_is_not_is_refused() {
        let (mut read, write) = io::pipe().expect("a pipe");
        let number = OwnedFd::from(write).into_raw_fd();
        let mut taken = std::fs::File::from(descriptor(number).expect("it is open"));
        io::Write::write_all(&mut taken, b"x").expect("written");
        let mut byte = [0];
        io::Read::read_exact(&mut read, &mut byte).expect("read");
        assert_eq!(&byte, b"x");
        assert!(descriptor(-1).is_err());
        assert!(descriptor(1 << 20).is_err());
    }
}
