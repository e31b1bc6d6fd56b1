//! Making a path of the replica what the source says that it is.
//!
//! Whatever is new is made whole in the share's own directory, on the same file system, and gets
//! its name in one step, which goes through the [gate](super::gate): so nobody ever sees half a
//! file, and nothing gets a name that an old epoch sends. What it replaces, or what is gone, is taken
//! out of sight in one step as well, and removed at leisure.
//!
//! Each step on a name changes the time of its directory, which is replicated too: so the source
//! sends that along, and it is set whatever had to be done.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use evenkeel_core::fence::Refused;
use evenkeel_core::{Epoch, NodeId};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use super::gate::Gate;
use super::look::{extended, stat_at};
use super::root::{Entry, Root, magic};
use crate::path::{OWN, SharePath};
use crate::state::{Attributes, Kind, State, Time};

/// Where things are made, below [`OWN`]; and where they wait for their removal.
const STAGING: &str = "new";

/// The unit in which a file's zeros are left out, where it has holes.
const PAGE: usize = 4096;

/// Why something cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The directory in which it would be is not there, or is none.
    #[error("its directory is not there yet")]
    NoParent,
    /// What was to be moved is not there, or not what it is on the source.
    #[error("what was to be moved is not there")]
    NotThere,
    /// Another file system is mounted on the way or there.
    #[error("another file system is mounted there")]
    Elsewhere,
    /// The fence.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    /// The kernel said no.
    #[error("failed to {what}: {source}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> MakeError {
    move |source| MakeError::Failed {
        what,
        source: source.into(),
    }
}

/// Changes one replica, for one epoch of one source.
#[derive(Debug)]
pub struct Maker {
    root: Root,
    gate: Arc<Gate>,
    who: (Epoch, NodeId),
    staging: OwnedFd,
    count: u64,
}

impl Maker {
    /// One that begins by removing what an earlier one has left unfinished: there is one at a time.
    pub fn new(root: Root, gate: Arc<Gate>, who: (Epoch, NodeId)) -> Result<Self, MakeError> {
        let own = directory_in(&root, OWN)?;
        let staging = directory_in(&own, STAGING)?;
        let mut this = Self {
            root,
            gate,
            who,
            staging,
            count: 0,
        };
        let left = names(&this.staging)?;
        // None of the names that it will give is taken meanwhile.
        let highest = left.iter().filter_map(|name| name.to_str()?.parse().ok());
        this.count = highest.max().unwrap_or(0);
        for name in left {
            this.dispose(name);
        }
        Ok(this)
    }

    /// Makes a path this, with the content of a file that is all here. Its directory has the time
    /// `parent` after that. Says whether a directory was made that was not there before.
    pub fn put(
        &mut self,
        path: &SharePath,
        state: &State,
        content: &[u8],
        parent: Option<Time>,
    ) -> Result<bool, MakeError> {
        let entry = self.entry(path)?;
        let there = stat_at(&entry).map_err(failed("look at what is there"))?;
        if there.is_some_and(|stat| stat.st_dev != self.root.device()) {
            return Err(MakeError::Elsewhere);
        }
        let is_directory = |mode| FileType::from_raw_mode(mode) == FileType::Directory;
        let was_directory = there.map(|stat| is_directory(stat.st_mode));
        let becomes_directory = state.kind == Kind::Directory;
        if becomes_directory && was_directory == Some(true) {
            self.gate.within(self.who, || {
                let open = open_path(&entry.directory, entry.name)?;
                set_attributes(&open, state)?;
                set_time(&entry.directory, parent)
            })??;
            return Ok(false);
        }
        let name = self.fresh();
        let made = self.make(&name, state, content);
        let placed = made.and_then(|()| {
            self.gate.within(self.who, || {
                let flags = match was_directory {
                    Some(was) if was != becomes_directory => RenameFlags::EXCHANGE,
                    Some(_) => RenameFlags::empty(),
                    None => RenameFlags::NOREPLACE,
                };
                rename(&self.staging, &name, &entry.directory, entry.name, flags)
                    .map_err(failed("give it its name"))?;
                set_time(&entry.directory, parent)
            })?
        });
        // What it replaced, or what got no name.
        self.dispose(name);
        placed.map(|()| becomes_directory)
    }

    /// Makes that nothing is at a path.
    pub fn remove_at(&mut self, path: &SharePath, parent: Option<Time>) -> Result<(), MakeError> {
        let entry = match self.entry(path) {
            Err(MakeError::NoParent) => return Ok(()),
            entry => entry?,
        };
        let there = stat_at(&entry).map_err(failed("look at what is there"))?;
        let Some(there) = there else {
            // It came and went on the source, which changed its directory.
            return self
                .gate
                .within(self.who, || set_time(&entry.directory, parent))?;
        };
        if there.st_dev != self.root.device() {
            return Err(MakeError::Elsewhere);
        }
        let name = self.fresh();
        self.gate.within(self.who, || {
            let flags = RenameFlags::NOREPLACE;
            rename(&entry.directory, entry.name, &self.staging, &name, flags)
                .map_err(failed("take it away"))?;
            set_time(&entry.directory, parent)
        })??;
        self.dispose(name);
        Ok(())
    }

    /// Gives what is at `from`, if it is this, the path `to`, where nothing is or a file that a file
    /// replaces. Their directories have the times of `parents` after that.
    pub fn rename_to(
        &mut self,
        from: &SharePath,
        to: &SharePath,
        state: &State,
        parents: (Option<Time>, Option<Time>),
    ) -> Result<(), MakeError> {
        let source = match self.entry(from) {
            Err(MakeError::NoParent) => return Err(MakeError::NotThere),
            entry => entry?,
        };
        let target = self.entry(to)?;
        let here = stat_at(&source).map_err(failed("look at what is there"))?;
        let there = stat_at(&target).map_err(failed("look at what is there"))?;
        let fits = here.is_some_and(|stat| is_like(&stat, state));
        let flags = match there {
            None => RenameFlags::NOREPLACE,
            Some(stat) => {
                let file = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
                if !file(stat.st_mode) || !matches!(state.kind, Kind::File { .. }) {
                    return Err(MakeError::NotThere);
                }
                RenameFlags::empty()
            }
        };
        if !fits {
            return Err(MakeError::NotThere);
        }
        self.gate.within(self.who, || {
            rename(
                &source.directory,
                source.name,
                &target.directory,
                target.name,
                flags,
            )
            .map_err(failed("rename it"))?;
            let open = open_path(&target.directory, target.name)?;
            set_attributes(&open, state)?;
            set_time(&source.directory, parents.0)?;
            set_time(&target.directory, parents.1)
        })?
    }

    /// The replica's root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    fn entry<'b>(&self, path: &'b SharePath) -> Result<Entry<'b>, MakeError> {
        self.root.entry(path).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => MakeError::NoParent,
            Errno::XDEV => MakeError::Elsewhere,
            error => failed("reach its directory")(error),
        })
    }

    fn fresh(&mut self) -> OsString {
        self.count += 1;
        self.count.to_string().into()
    }

    /// Makes something, whole, that has no name in the share yet.
    fn make(&self, name: &OsStr, state: &State, content: &[u8]) -> Result<(), MakeError> {
        let private = Mode::from_raw_mode(0o600);
        let special =
            |kind, device| rustix::fs::mknodat(&self.staging, name, kind, private, device);
        match &state.kind {
            Kind::Directory => {
                let private = Mode::from_raw_mode(0o700);
                rustix::fs::mkdirat(&self.staging, name, private)
            }
            Kind::File { sparse, .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&self.staging, name, flags, private);
                let file = File::from(file.map_err(failed("make it"))?);
                return write(&file, content, *sparse)
                    .map_err(|source| MakeError::Failed {
                        what: "write it",
                        source,
                    })
                    .and_then(|()| set_attributes(&open_path(&self.staging, name)?, state));
            }
            Kind::Link { target } => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), &self.staging, name)
            }
            Kind::Fifo => special(FileType::Fifo, 0),
            Kind::Socket => special(FileType::Socket, 0),
            Kind::Device {
                block,
                major,
                minor,
            } => {
                let kind = match block {
                    true => FileType::BlockDevice,
                    false => FileType::CharacterDevice,
                };
                special(kind, rustix::fs::makedev(*major, *minor))
            }
        }
        .map_err(failed("make it"))?;
        set_attributes(&open_path(&self.staging, name)?, state)
    }

    /// Removes something of the staging directory, or leaves it there, out of sight, for the next try
    /// to remove what is left: nothing waits for it.
    fn dispose(&mut self, name: OsString) {
        if let Err(error) = self.remove(name) {
            tracing::warn!(%error, "what was replaced in a share was not removed yet");
        }
    }

    /// Removes something of the staging directory, with all that is in it: directories in it are
    /// brought up here first, however deep they are, and what is mounted in one is not touched.
    fn remove(&mut self, name: OsString) -> Result<(), MakeError> {
        let mut left = vec![name];
        while let Some(name) = left.pop() {
            match rustix::fs::unlinkat(&self.staging, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(failed("remove what is replaced")(error)),
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = rustix::fs::openat(&self.staging, &name, flags, Mode::empty())
                .map_err(failed("remove what is replaced"))?;
            let mut inner = Vec::new();
            for entry in names(&open)? {
                match rustix::fs::unlinkat(&open, &entry, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR | Errno::PERM) => {
                        let up = self.fresh();
                        let flags = RenameFlags::NOREPLACE;
                        rename(&open, &entry, &self.staging, &up, flags)
                            .map_err(failed("remove a directory of what is replaced"))?;
                        inner.push(up);
                    }
                    Err(error) => return Err(failed("remove what is replaced")(error)),
                }
            }
            rustix::fs::unlinkat(&self.staging, &name, AtFlags::REMOVEDIR)
                .map_err(failed("remove a directory that is replaced"))?;
            left.extend(inner);
        }
        Ok(())
    }
}

/// A directory of the product's own, made if it is not there.
fn directory_in(parent: impl AsFd, name: &str) -> Result<OwnedFd, MakeError> {
    let private = Mode::from_raw_mode(0o700);
    match rustix::fs::mkdirat(&parent, name, private) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("make the share's own directory")(error)),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&parent, name, flags, Mode::empty())
        .map_err(failed("open the share's own directory"))
}

fn names(directory: &OwnedFd) -> Result<Vec<OsString>, MakeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::openat(directory, ".", flags, Mode::empty())
        .map_err(failed("read a directory"))?;
    let mut names = Vec::new();
    for entry in Dir::new(open).map_err(failed("read a directory"))? {
        let entry = entry.map_err(failed("read a directory"))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

fn rename(
    from: &OwnedFd,
    name: &OsStr,
    to: &OwnedFd,
    other: &OsStr,
    flags: RenameFlags,
) -> Result<(), Errno> {
    rustix::fs::renameat_with(from, name, to, other, flags)
}

fn open_path(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, MakeError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(failed("open it"))
}

/// Whether what is there is, by all that a look tells, what is meant.
fn is_like(stat: &rustix::fs::Stat, state: &State) -> bool {
    let kind = FileType::from_raw_mode(stat.st_mode);
    match state.kind {
        Kind::Directory => kind == FileType::Directory,
        Kind::File { size, .. } => {
            let modified = state.attributes.modified;
            kind == FileType::RegularFile
                && u64::try_from(stat.st_size).ok() == Some(size)
                && stat.st_mtime == modified.seconds
                && u32::try_from(stat.st_mtime_nsec).ok() == Some(modified.nanos)
        }
        // These are made anew as quickly.
        _ => false,
    }
}

/// Writes all of it; where it has holes, not the pages that are all zeros.
fn write(file: &File, content: &[u8], sparse: bool) -> io::Result<()> {
    if !sparse {
        return file.write_all_at(content, 0);
    }
    let size = u64::try_from(content.len()).map_err(io::Error::other)?;
    file.set_len(size)?;
    let mut at = 0;
    for page in content.chunks(PAGE) {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, at)?;
        }
        at += page.len() as u64;
    }
    Ok(())
}

/// Owner first: a change of it takes away rights and capabilities. Times last.
fn set_attributes(open: &OwnedFd, state: &State) -> Result<(), MakeError> {
    let Attributes {
        mode,
        owner,
        group,
        modified,
        ..
    } = state.attributes;
    let ids = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(group)));
    rustix::fs::chownat(open, "", ids.0, ids.1, AtFlags::EMPTY_PATH)
        .map_err(failed("give it its owner"))?;
    if !matches!(state.kind, Kind::Link { .. }) {
        let mode = Mode::from_raw_mode(mode);
        rustix::fs::chmodat(CWD, magic(open), mode, AtFlags::empty())
            .map_err(failed("give it its rights"))?;
    }
    set_extended(open, state)?;
    set_time_of(open, modified)
}

fn set_extended(open: &OwnedFd, state: &State) -> Result<(), MakeError> {
    let wanted = &state.attributes.extended;
    let there = extended(open).map_err(|error| MakeError::Failed {
        what: "read its extended attributes",
        source: io::Error::other(error),
    })?;
    let path = magic(open);
    for name in there.keys().filter(|name| !wanted.contains_key(*name)) {
        rustix::fs::removexattr(&path, OsStr::from_bytes(name))
            .map_err(failed("take an extended attribute away"))?;
    }
    for (name, value) in wanted {
        if there.get(name) != Some(value) {
            rustix::fs::setxattr(&path, OsStr::from_bytes(name), value, XattrFlags::empty())
                .map_err(failed("give it an extended attribute"))?;
        }
    }
    Ok(())
}

fn set_time(directory: &OwnedFd, modified: Option<Time>) -> Result<(), MakeError> {
    modified.map_or(Ok(()), |modified| set_time_of(directory, modified))
}

fn set_time_of(open: &OwnedFd, modified: Time) -> Result<(), MakeError> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: modified.nanos.into(),
        },
    };
    rustix::fs::utimensat(CWD, magic(open), &times, AtFlags::empty())
        .map_err(failed("give it its time"))
}
