//! The file system that holds pins of eBPF objects.

use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags};

/// `BPF_FS_MAGIC` of `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// What the kernel itself puts into each new bpffs (`kernel/bpf/inode.c`).
const KERNELS_OWN: [&str; 2] = ["maps.debug", "progs.debug"];

/// Whether `path` lies in a bpffs.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let found = rustix::fs::statfs(path)?;
    // The type of the field differs between machines; the magic number has 32 bits.
    Ok(found.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}

/// Makes sure that `path` is a directory in a bpffs, and mounts one on it if not. In a
/// mount namespace of our own it is gone with the namespace, and the pins with it.
pub fn ensure(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    if is_bpffs(path)? {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", path, "bpf", flags, Some(c"mode=0700"))?;
    Ok(())
}

/// Unmounts the bpffs at `path`, if it is a mount point and nothing is pinned in it.
pub fn unmount_if_empty(path: &Path) -> io::Result<()> {
    let ours = |entry: &io::Result<std::fs::DirEntry>| match entry {
        Ok(entry) => !KERNELS_OWN.iter().any(|name| entry.file_name() == *name),
        Err(_) => true,
    };
    let empty = !std::fs::read_dir(path)?.any(|entry| ours(&entry));
    if !empty || !is_bpffs(path)? {
        return Ok(());
    }
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        // A directory inside a bpffs that somebody else mounted.
        Err(rustix::io::Errno::INVAL) => Ok(()),
        answer => Ok(answer?),
    }
}
