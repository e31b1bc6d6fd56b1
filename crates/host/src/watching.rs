//! Watching a directory and all that is below it, however large, by one mark on its file system
//! (`fanotify(7)`, Linux 5.17).
//!
//! The mark costs one call whatever lies below, needs no visit of the directories, and a rename is
//! one notice with both names. The price: what happens elsewhere on the same file system is told
//! as well, and left out here. A directory is named by its handle, and its path is looked up when
//! the notice is read: so a path is as the directory is called *then*. Notices of one object are
//! joined by the kernel. What is told is therefore where to look, and never what is there: **read
//! the state, do not play the notices**.
//!
//! What is read in one go is in the kernel's order. A name that was used before its directory was
//! renamed is told by the directory's new name, before the rename itself: who plays renames on a
//! copy plays those of one go first.
//!
//! Not told: writes through a mapping that outlives the last descriptor, and what other machines
//! do on a network's file system.

mod record;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::sys::fanotify;
use crate::sys::pidfd::await_readable;
use record::{Handle, Place, Record, Records};

pub(crate) use record::{OVERFLOW, written};

/// What is read at once: some hundred notices.
const BUFFER_BYTES: usize = 64 * 1024;

/// How often it is read before what was read is handed over. Notices that come faster than they
/// are worked off stay in the kernel, whose queue has an end.
const READS_MAX: usize = 64;

/// How often a path is looked up that is not what it was a moment ago: a directory above it is
/// being renamed. Its rename will be told.
const LOOK_UPS_MAX: usize = 3;

/// Why a directory cannot be watched, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It cannot be opened.
    #[error("failed to open {path}: {source}")]
    Open {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Not with these rights.
    #[error(
        "no right to watch a whole file system: that takes CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH \
         of this machine, not of a user namespace"
    )]
    Rights,
    /// Not on this file system, or not by this kernel.
    #[error("{path} cannot be watched by a mark on its file system: {source}")]
    Unable {
        /// What.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It is on another file system than when it began to be watched: something was mounted, or is
    /// no longer.
    #[error("{path} is on another file system than before")]
    Elsewhere {
        /// What.
        path: PathBuf,
    },
    /// The kernel does not tell.
    #[error("failed to read what has changed: {0}")]
    Read(io::Error),
}

/// What is told. Paths are below the watched directory; the empty path is that directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What has this path may have changed, or be gone.
    Touched {
        /// Where to look.
        path: PathBuf,
        /// In which ways.
        ways: Ways,
        /// Who did it, 0 if the kernel does not say. The last of several.
        process: i32,
    },
    /// What had one path has another. Its content and attributes are as they were.
    Moved {
        /// Where it was.
        from: PathBuf,
        /// Where it is.
        to: PathBuf,
        /// Whether it is a directory, with all that is below.
        directory: bool,
        /// Who did it.
        process: i32,
    },
    /// What has this path came from outside, with all that is below.
    Arrived {
        /// Where to look.
        path: PathBuf,
        /// Who did it.
        process: i32,
    },
    /// Notices are missing: everything has to be looked at.
    Lost {
        /// Why.
        why: String,
    },
}

/// Ways in which something changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways(u64);

impl Ways {
    /// Its content, and whoever wrote may go on.
    pub fn written(self) -> bool {
        self.0 & libc::FAN_MODIFY != 0
    }

    /// The last descriptor that could write was closed.
    pub fn closed(self) -> bool {
        self.0 & libc::FAN_CLOSE_WRITE != 0
    }

    /// The name came or went.
    pub fn entry(self) -> bool {
        self.0 & (libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_RENAME) != 0
    }

    /// Its owner, rights, times, extended attributes or number of names.
    pub fn attributes(self) -> bool {
        self.0 & libc::FAN_ATTRIB != 0
    }
}

/// A directory that is watched, for as long as this lives. Made and used within a tokio runtime.
///
/// It does not keep the file system from being unmounted. Then the mark is gone without a notice,
/// also when the same file system is mounted there again: whoever must know that nothing was missed
/// changes something and waits for the notice of it.
#[derive(Debug)]
pub struct Watch {
    group: AsyncFd<OwnedFd>,
    path: PathBuf,
    /// Of the file system that is marked.
    device: u64,
    buffer: Box<[u8]>,
}

impl Watch {
    /// Watches from now on.
    pub fn start(path: &Path) -> Result<Self, WatchError> {
        let unable = |source: io::Error| match source.raw_os_error() {
            Some(libc::EPERM) => WatchError::Rights,
            _ => {
                let path = path.to_owned();
                WatchError::Unable { path, source }
            }
        };
        let root = open(path)?;
        let group = fanotify::group().map_err(unable)?;
        fanotify::mark_file_system(group.as_fd(), root.as_fd(), fanotify::TOLD).map_err(unable)?;
        // That directories are found by their handles is known before anything relies on it.
        let (kind, bytes) = fanotify::handle_of(root.as_fd()).map_err(unable)?;
        let bytes = &bytes;
        let reading = Reading::new(&root).map_err(unable)?;
        let found = reading.look_up(Handle { kind, bytes }).map_err(unable)?;
        if found.as_deref() != Some(Path::new("")) {
            return Err(unable(io::Error::other("its handle leads elsewhere")));
        }
        Ok(Self {
            group: await_readable(group).map_err(unable)?,
            path: path.to_owned(),
            device: device_of(&root).map_err(unable)?,
            buffer: vec![0; BUFFER_BYTES].into(),
        })
    }

    /// What changed since it was asked last, in the kernel's order: at least one change. Waits
    /// until there is one. Cancel-safe. After an error that is no [`WatchError::Read`] what
    /// waits is kept.
    pub async fn changes(&mut self) -> Result<Vec<Change>, WatchError> {
        loop {
            let mut ready = self.group.readable().await.map_err(WatchError::Read)?;
            let root = open(&self.path)?;
            if device_of(&root).map_err(WatchError::Read)? != self.device {
                let path = self.path.clone();
                return Err(WatchError::Elsewhere { path });
            }
            let mut reading = Reading::new(&root).map_err(WatchError::Read)?;
            let mut changes = Vec::new();
            for _ in 0..READS_MAX {
                match rustix::io::read(self.group.get_ref(), &mut self.buffer[..]) {
                    Ok(length) => reading.all(&self.buffer[..length], &mut changes),
                    Err(Errno::WOULDBLOCK) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(WatchError::Read(error.into())),
                }
            }
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd, WatchError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| WatchError::Open {
        path: path.to_owned(),
        source: error.into(),
    })
}

fn device_of(open: &OwnedFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(open)?.st_dev)
}

/// What is read in one go, and where its directories are.
struct Reading<'a> {
    root: &'a OwnedFd,
    /// The root as the kernel calls it now.
    root_path: PathBuf,
    /// The directory that was looked up last. Mostly it is the next one, too.
    last: Option<(i32, Vec<u8>, Option<PathBuf>)>,
}

impl<'a> Reading<'a> {
    fn new(root: &'a OwnedFd) -> io::Result<Self> {
        Ok(Self {
            root,
            root_path: path_of(root)?,
            last: None,
        })
    }

    fn all(&mut self, read: &[u8], changes: &mut Vec<Change>) {
        for record in (Records { rest: read }) {
            let told = match record {
                Ok(record) => self.one(record),
                Err(record::Unknown) => Err("this kernel's notices are not understood".to_owned()),
            };
            match told {
                Ok(change) => changes.extend(change),
                Err(why) => changes.push(Change::Lost { why }),
            }
        }
    }

    fn one(&mut self, record: Record<'_>) -> Result<Option<Change>, String> {
        if record.mask & OVERFLOW != 0 {
            return Err("the kernel's queue of notices was full".to_owned());
        }
        let process = record.process;
        let ways = Ways(record.mask);
        let directory = record.mask & libc::FAN_ONDIR != 0;
        if record.mask & libc::FAN_RENAME == 0 {
            // Without a directory it is the number of an inode's names, which changed with one
            // of those names: that is told for itself.
            let path = self.path(record.at)?;
            return Ok(path.map(|path| Change::Touched {
                path,
                ways,
                process,
            }));
        }
        if directory {
            self.last = None;
        }
        let change = match (self.path(record.from)?, self.path(record.to)?) {
            (Some(from), Some(to)) => Some(Change::Moved {
                from,
                to,
                directory,
                process,
            }),
            (Some(path), None) => Some(Change::Touched {
                path,
                ways,
                process,
            }),
            (None, Some(path)) => Some(Change::Arrived { path, process }),
            (None, None) => None,
        };
        Ok(change)
    }

    /// The path of an entry below the root.
    fn path(&mut self, place: Option<Place<'_>>) -> Result<Option<PathBuf>, String> {
        let Some(Place { directory, name }) = place else {
            return Ok(None);
        };
        let known = matches!(&self.last, Some((kind, bytes, _))
            if *kind == directory.kind && bytes == directory.bytes);
        if !known {
            let found = self
                .look_up(directory)
                .map_err(|error| format!("failed to look up a directory by its handle: {error}"))?;
            self.last = Some((directory.kind, directory.bytes.to_vec(), found));
        }
        let found = self.last.as_ref().and_then(|(_, _, path)| path.as_ref());
        Ok(found.map(|path| match name {
            b"" | b"." => path.clone(),
            name => path.join(std::ffi::OsStr::from_bytes(name)),
        }))
    }

    /// Where a directory is below the root; nothing if it is elsewhere, or no more.
    fn look_up(&self, directory: Handle<'_>) -> io::Result<Option<PathBuf>> {
        let opened =
            match fanotify::open_directory(self.root.as_fd(), directory.kind, directory.bytes) {
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return Ok(None),
                opened => opened?,
            };
        for _ in 0..LOOK_UPS_MAX {
            let path = path_of(&opened)?;
            let Ok(below) = path.strip_prefix(&self.root_path) else {
                return Ok(None);
            };
            if self.is_at(&opened, below)? {
                return Ok(Some(below.to_owned()));
            }
        }
        Ok(None)
    }

    /// Whether a directory is what the root has at a path. It is not where something else is
    /// mounted over it, or where the path that the kernel tells begins in another place: that of
    /// a directory outside of what is mounted here.
    fn is_at(&self, directory: &OwnedFd, below: &Path) -> io::Result<bool> {
        let there = if below.as_os_str().is_empty() {
            rustix::fs::fstat(self.root)?
        } else {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            match rustix::fs::openat2(self.root, below, flags, Mode::empty(), resolve) {
                Ok(found) => rustix::fs::fstat(found)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::AGAIN) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        };
        let here = rustix::fs::fstat(directory)?;
        Ok((here.st_dev, here.st_ino) == (there.st_dev, there.st_ino))
    }
}

/// What the kernel calls an open file now.
fn path_of(open: &OwnedFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

/// For `crates/fuzz`: how many notices are read of a buffer, with how many bytes of handles and
/// names, and whether all were understood.
pub(crate) fn read_notices(bytes: &[u8]) -> (usize, usize, bool) {
    let mut understood = true;
    let (mut notices, mut told) = (0, 0);
    for record in (Records { rest: bytes }) {
        let Ok(record) = record else {
            understood = false;
            continue;
        };
        notices += 1;
        for place in [record.at, record.from, record.to].into_iter().flatten() {
            told += place.directory.bytes.len() + place.name.len();
        }
    }
    (notices, told, understood)
}

#[cfg(test)]
mod tests;
