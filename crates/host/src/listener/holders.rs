//! Which processes hold a socket: `/proc/PID/fd` of everybody.
//!
//! The kernel keeps no way back from a socket to its processes, so that this reads
//! every open file of every process: some milliseconds on a small machine, 100 ms and
//! more on a large one. It is never on a path that decides, runs on a thread for
//! blocking work, and looks for any number of sockets in one pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use crate::process::Identity;

/// Files looked at per process. Programs open their listening sockets when they start,
/// the list is in order of number, and a busy proxy has a million connections behind.
const FILES_PER_PROCESS_MAX: usize = 4096;
/// Holders remembered per socket; the oldest are kept. A server with more children
/// than that is found by the others' death all the same, see `listener`.
const HOLDERS_MAX: usize = 64;

/// What a pass through `/proc` found.
#[derive(Debug, Default)]
pub struct Holders {
    /// By inode: who holds it, oldest first.
    pub by_inode: BTreeMap<u64, Vec<Identity>>,
    /// Processes whose files we may not see (`CAP_SYS_PTRACE`).
    pub hidden: usize,
}

/// Finds the processes of our PID namespace that hold one of `inodes`. Slow: blocks.
pub fn find(inodes: &BTreeSet<u64>) -> io::Result<Holders> {
    let mut holders = Holders::default();
    for entry in fs::read_dir("/proc")? {
        // Processes come and go during the pass; one that is gone holds nothing.
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        look_at(pid, inodes, &mut holders);
    }
    for found in holders.by_inode.values_mut() {
        found.sort_unstable();
        found.truncate(HOLDERS_MAX);
    }
    Ok(holders)
}

/// Adds `pid` to the holders of what it holds.
fn look_at(pid: u32, inodes: &BTreeSet<u64>, holders: &mut Holders) {
    // The identity is read before the files: were the number given to another process
    // in between, opening its pidfd fails and the next pass finds the truth.
    let Ok(identity) = Identity::of(pid) else {
        return;
    };
    let files = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(files) => files,
        Err(refused) => {
            if refused.kind() == io::ErrorKind::PermissionDenied {
                holders.hidden += 1;
            }
            return;
        }
    };
    let mut held = BTreeSet::new();
    for file in files.take(FILES_PER_PROCESS_MAX).flatten() {
        let Ok(link) = fs::read_link(file.path()) else {
            continue;
        };
        let Some(inode) = link.to_str().and_then(inode_of) else {
            continue;
        };
        if inodes.contains(&inode) {
            held.insert(inode);
        }
    }
    for inode in held {
        holders.by_inode.entry(inode).or_default().push(identity);
    }
}

/// The inode in `socket:[INODE]`.
fn inode_of(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn links_to_sockets_are_told_from_others() {
        assert_eq!(inode_of("socket:[4711]"), Some(4711));
        assert_eq!(inode_of("pipe:[4711]"), None);
        assert_eq!(inode_of("socket:[]"), None);
        assert_eq!(inode_of("/tmp/socket:[1]"), None);
    }

    #[test]
    fn we_find_ourselves() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let inode = rustix::fs::fstat(&listener).expect("an open file").st_ino;
        let holders = find(&BTreeSet::from([inode, 1])).expect("/proc is there");
        let us = Identity::of(std::process::id()).expect("we run");
        assert_eq!(holders.by_inode.keys().collect::<Vec<_>>(), [&inode]);
        // A child that another test is about to start may hold it for a moment too.
        assert_eq!(holders.by_inode[&inode].first(), Some(&us));
    }
}
