//! The root of a share, and what is below it, found without ever leaving it.
//!
//! Every path goes through `openat2(2)` with the kernel's own promise that no symbolic link is
//! followed, that nothing above the root is reached, and no other file system: what others do to
//! the tree meanwhile cannot lead a write out of it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::path::SharePath;

/// A root that is open, for one piece of work: while it is, its file system cannot be unmounted.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
    id: RootId,
}

/// By which a root is known again: its file system, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RootId {
    device: u64,
    inode: u64,
}

/// How often a path is resolved anew, because somebody renamed a directory on the way just then.
const RESOLVED_MAX: usize = 100;

/// A directory and the name of an entry in it.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) directory: OwnedFd,
    pub(crate) name: &'a OsStr,
}

impl Root {
    /// Opens the directory at this path of the machine.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&directory)?;
        let id = RootId {
            device: stat.st_dev,
            inode: stat.st_ino,
        };
        Ok(Self { directory, id })
    }

    /// Of its file system.
    pub(crate) fn device(&self) -> u64 {
        self.id.device
    }

    /// Which directory of which file system it is.
    pub(crate) fn id(&self) -> RootId {
        self.id
    }

    /// Has all that was done to its file system reach the disk.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.directory)?)
    }

    /// A directory below it, or itself, to reach entries by.
    pub(crate) fn directory(&self, path: &SharePath) -> Result<OwnedFd, Errno> {
        let at = match path.as_bytes() {
            b"" => Path::new("."),
            bytes => Path::new(OsStr::from_bytes(bytes)),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        for _ in 1..RESOLVED_MAX {
            match rustix::fs::openat2(&self.directory, at, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The directory in which a path is, and its name there. The root is `.` in itself.
    pub(crate) fn entry<'a>(&self, path: &'a SharePath) -> Result<Entry<'a>, Errno> {
        let (directory, name) = match path.parent() {
            None => (SharePath::root(), &b"."[..]),
            Some(parent) => (parent, path.name()),
        };
        let directory = self.directory(&directory)?;
        let name = OsStr::from_bytes(name);
        Ok(Entry { directory, name })
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// A path of this process to what is open, whatever it is: also by `O_PATH`, also a symbolic link,
/// which is not followed then.
pub(crate) fn magic(open: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", open.as_raw_fd())
}
