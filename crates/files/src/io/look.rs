//! Reading what is at a path, so that what was read is what was there at one moment.
//!
//! A file that changes while it is read gives a mixture that never existed; no checksum of what was
//! read shows that. So what the kernel knows of the file is asked before and after, and if it differs
//! the file is looked at again.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::root::{Entry, Root, magic};
use crate::path::SharePath;
use crate::state::{Attributes, EXTENDED_BYTES_MAX, Kind, State, Time, is_replicated};

/// How often a file that changes while it is read is begun anew at once.
const TRIES_MAX: usize = 3;

/// Of how many bytes the blocks are that the kernel counts, whatever the file system has.
const BLOCK: i64 = 512;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Nothing.
    Gone,
    /// Another file system is mounted there: it is no part of the share.
    Elsewhere,
    /// This.
    Here(Here),
}

/// Something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// What and how it is.
    pub state: State,
    /// By which it is known to be still the same.
    pub stamp: Stamp,
    /// How many names it has.
    pub names: u64,
    /// The content of a file that is no longer than was asked for.
    pub content: Option<Vec<u8>>,
}

/// What the kernel changes whenever the content or the attributes of an object change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    modified: Time,
    changed: Time,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// It changed each time while it was read.
    #[error("it keeps changing while it is read")]
    Changing,
    /// More attributes than are carried.
    #[error("its extended attributes are longer than {EXTENDED_BYTES_MAX} bytes")]
    Attributes,
    /// The kernel said no.
    #[error("failed to {what}: {source}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> LookError {
    move |source| LookError::Failed {
        what,
        source: source.into(),
    }
}

/// Looks, and reads the content of a file of at most `content_max` bytes.
pub fn look(root: &Root, path: &SharePath, content_max: u64) -> Result<Looked, LookError> {
    for _ in 0..TRIES_MAX {
        match try_look(root, path, content_max) {
            Err(LookError::Changing) => {}
            other => return other,
        }
    }
    Err(LookError::Changing)
}

fn try_look(root: &Root, path: &SharePath, content_max: u64) -> Result<Looked, LookError> {
    let entry = match root.entry(path) {
        Ok(entry) => entry,
        // What was a directory on the way is none any more.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Looked::Gone),
        Err(Errno::XDEV) => return Ok(Looked::Elsewhere),
        Err(error) => return Err(failed("reach its directory")(error)),
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = match rustix::fs::openat(&entry.directory, entry.name, flags, Mode::empty()) {
        Ok(open) => open,
        Err(Errno::NOENT) => return Ok(Looked::Gone),
        Err(error) => return Err(failed("open it")(error)),
    };
    let stat = rustix::fs::fstat(&open).map_err(failed("look at it"))?;
    if stat.st_dev != root.device() {
        return Ok(Looked::Elsewhere);
    }
    let kind = kind_of(&open, &stat)?;
    let content = match kind {
        Kind::File { size, .. } if size <= content_max => Some(read(&entry, &stat, content_max)?),
        _ => None,
    };
    let extended = extended(&open)?;
    let after = rustix::fs::fstat(&open).map_err(failed("look at it"))?;
    if stamp(&after) != stamp(&stat) {
        return Err(LookError::Changing);
    }
    let attributes = Attributes {
        mode: stat.st_mode & 0o7777,
        owner: stat.st_uid,
        group: stat.st_gid,
        modified: stamp(&stat).modified,
        extended,
    };
    Ok(Looked::Here(Here {
        state: State { kind, attributes },
        stamp: stamp(&stat),
        names: stat.st_nlink,
        content,
    }))
}

fn kind_of(open: &OwnedFd, stat: &Stat) -> Result<Kind, LookError> {
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            sparse: stat.st_blocks.saturating_mul(BLOCK) < stat.st_size,
        },
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(open, "", Vec::new());
            let target = target.map_err(failed("read where it leads"))?;
            Kind::Link {
                target: target.into_bytes(),
            }
        }
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        special => Kind::Device {
            block: special == FileType::BlockDevice,
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
        },
    })
}

/// The content of a regular file, if it is still the one that was looked at.
fn read(entry: &Entry<'_>, looked: &Stat, content_max: u64) -> Result<Vec<u8>, LookError> {
    // Not blocked where somebody has put a pipe there meanwhile.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat(&entry.directory, entry.name, flags, Mode::empty());
    // That it is copied is no use of it; only its owner and root may say so.
    let opened = open(flags | OFlags::NOATIME).or_else(|error| match error {
        Errno::PERM => open(flags),
        other => Err(other),
    });
    let opened = match opened {
        Ok(opened) => opened,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Err(LookError::Changing),
        Err(error) => return Err(failed("open it to read it")(error)),
    };
    let stat = rustix::fs::fstat(&opened).map_err(failed("look at it"))?;
    if stamp(&stat) != stamp(looked) {
        return Err(LookError::Changing);
    }
    let mut content = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0));
    let mut file = std::fs::File::from(opened).take(content_max + 1);
    file.read_to_end(&mut content)
        .map_err(|source| LookError::Failed {
            what: "read it",
            source,
        })?;
    if u64::try_from(content.len()).ok() != u64::try_from(stat.st_size).ok() {
        return Err(LookError::Changing);
    }
    Ok(content)
}

/// The extended attributes that are replicated.
pub(crate) fn extended(
    open: &OwnedFd,
) -> Result<std::collections::BTreeMap<Vec<u8>, Vec<u8>>, LookError> {
    let mut all = std::collections::BTreeMap::new();
    let path = magic(open);
    let length = match rustix::fs::listxattr_query(&path) {
        // This file system has none, or none for things of this kind.
        Ok(0) | Err(Errno::NOTSUP | Errno::PERM) => return Ok(all),
        Ok(length) => length,
        Err(error) => return Err(failed("list its extended attributes")(error)),
    };
    let mut names = vec![0_u8; length];
    let length = match rustix::fs::listxattr(&path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::RANGE) => return Err(LookError::Changing),
        Err(error) => return Err(failed("list its extended attributes")(error)),
    };
    let mut left = EXTENDED_BYTES_MAX;
    for name in names[..length].split(|byte| *byte == 0) {
        if !is_replicated(name) {
            continue;
        }
        let os_name = std::ffi::OsStr::from_bytes(name);
        let value = value(&path, os_name)?;
        let taken = name.len() + value.len();
        left = left.checked_sub(taken).ok_or(LookError::Attributes)?;
        all.insert(name.to_vec(), value);
    }
    Ok(all)
}

fn value(path: &str, name: &std::ffi::OsStr) -> Result<Vec<u8>, LookError> {
    let changing = |error| match error {
        Errno::NODATA | Errno::RANGE => LookError::Changing,
        error => failed("read an extended attribute")(error),
    };
    let length = rustix::fs::getxattr_query(path, name).map_err(changing)?;
    if length > EXTENDED_BYTES_MAX {
        return Err(LookError::Attributes);
    }
    let mut value = vec![0_u8; length];
    if length > 0 {
        let read = rustix::fs::getxattr(path, name, &mut value[..]).map_err(changing)?;
        value.truncate(read);
    }
    Ok(value)
}

/// By which an object is known to be as it was.
pub(crate) fn stamp(stat: &Stat) -> Stamp {
    let time = |seconds, nanos: u64| Time {
        seconds,
        nanos: u32::try_from(nanos).unwrap_or(0),
    };
    Stamp {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: stat.st_size,
        modified: time(stat.st_mtime, stat.st_mtime_nsec),
        changed: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// What a directory has in it: names, in no order.
pub fn names_in(root: &Root, path: &SharePath) -> Result<Vec<Vec<u8>>, LookError> {
    let directory = root.directory(path).map_err(failed("reach it"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::openat(&directory, ".", flags, Mode::empty());
    let open = open.map_err(failed("open it to read it"))?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(open).map_err(failed("read it"))? {
        let entry = entry.map_err(failed("read it"))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// What is known of an entry without opening it; nothing if there is none.
pub(crate) fn stat_at(entry: &Entry<'_>) -> Result<Option<Stat>, Errno> {
    let directory = entry.directory.as_fd();
    match rustix::fs::statat(directory, entry.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a path is a regular file with one name: somebody who made it will close it.
pub(crate) fn is_lone_file(root: &Root, path: &SharePath) -> bool {
    let stat = root.entry(path).and_then(|entry| stat_at(&entry));
    matches!(stat, Ok(Some(stat))
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1)
}
