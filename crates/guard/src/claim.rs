//! What makes the nftables table ours: the socket that owns it.
//!
//! The kernel lets an owned table be changed through its owner's socket alone, and calls
//! it an orphan when that socket is closed. A process that is killed closes its sockets
//! late, after its memory has been taken down. So the socket belongs to somebody who
//! outlives the process, its parent, and the next process goes on through the same one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::Port;

/// The socket that owns, or will own, the guard's nftables table. Used by one process at
/// a time: those who hold it for others never send or read.
#[derive(Clone)]
pub struct Claim(Arc<Port>);

impl Claim {
    /// A new one.
    ///
    /// # Errors
    ///
    /// The kernel has no netfilter, or refuses.
    pub fn open() -> io::Result<Self> {
        Port::open(NETLINK_NETFILTER, 0).map(Arc::new).map(Self)
    }

    /// One that a parent has opened and handed down.
    ///
    /// # Errors
    ///
    /// It is no such socket.
    pub fn inherited(descriptor: OwnedFd) -> io::Result<Self> {
        Port::inherited(descriptor).map(Arc::new).map(Self)
    }

    pub(crate) fn port(&self) -> Arc<Port> {
        Arc::clone(&self.0)
    }
}

impl AsFd for Claim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
