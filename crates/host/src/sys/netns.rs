//! A network of its own for some work: what is tried in it touches nothing of the machine's.

use std::io;

use rustix::thread::UnshareFlags;

/// Does `work` on a thread in a new network namespace, which has nothing but a loopback device
/// that is down. It is gone, with all that was made in it, when the thread, those that it has
/// started, and their sockets are. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
///
/// The thread or the namespace cannot be had, or the work panics.
pub fn in_new<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let inside = move || {
            // SAFETY: of what can be unshared, only the table of descriptors makes the call
            // unsound; the network namespace alone is, for this new thread alone.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            Ok(work())
        };
        let thread = std::thread::Builder::new().spawn_scoped(scope, inside)?;
        let panicked = |_| Err(io::Error::other("the work there failed"));
        thread.join().unwrap_or_else(panicked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::links;
    use crate::netlink::{Connection, Family};

    fn names() -> Vec<String> {
        let mut route = Connection::open(Family::Route).expect("a socket");
        let links = links(&mut route).expect("a list");
        links.into_iter().map(|link| link.name).collect()
    }

    #[test]
    fn there_is_only_a_loopback_inside_and_nothing_changes_outside() {
        let before = names();
        match in_new(names) {
            Ok(inside) => assert_eq!(inside, ["lo"]),
            Err(error) => {
                let root = rustix::process::geteuid().is_root();
                assert!(!root, "root may: {error}");
                eprintln!("NOT TESTED: no right to make a network namespace");
            }
        }
        assert_eq!(names(), before);
    }
}
