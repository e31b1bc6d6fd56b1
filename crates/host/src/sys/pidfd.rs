//! Handing a pidfd to the runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A pidfd whose readiness (the death of its process) the runtime awaits. Must be called
/// within a tokio runtime.
pub fn await_readable(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open and the same while it is registered. An
    // `OwnedFd` answers with one descriptor for life, nobody else can close it, and the
    // `AsyncFd` deregisters it before it drops it.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}
