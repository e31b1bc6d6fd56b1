//! A page of memory that outlives the process: a file under /run, mapped. The lease
//! thread mirrors promises and floors in it, so that a worker restarted in the same
//! boot still knows them (DESIGN 3.1 rule 4). Writing is a store into memory: no system
//! call, no disk.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// The longest mapping; what belongs here is a few numbers per group and voter.
pub const LENGTH_MAX: usize = 1 << 20;

const WORD: usize = size_of::<u64>();

/// Why there is no shared page. Follows "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ShmError {
    /// The length is zero, no multiple of eight bytes, or above [`LENGTH_MAX`].
    #[error("map {path}: {length} is no length for it")]
    Length {
        /// The file.
        path: PathBuf,
        /// What was asked for, in bytes.
        length: usize,
    },
    /// Somebody else could write it, or it is no plain file: its content proves nothing.
    #[error("map {path}: {what}; remove it and start again")]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The kernel refused.
    #[error("{attempt} {path}: {source}")]
    Kernel {
        /// What was tried.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// A mapped file of fixed length. Bytes are read and written one by one, words of eight
/// bytes in one piece; nothing else is promised about what another process sees while
/// this one writes. Nobody may shorten the file while it is mapped (the access would
/// kill this process), which is why only its owner may open it.
#[derive(Debug)]
pub struct SharedPage {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the value alone, is freed once, on drop, and every
// access to it is atomic.
unsafe impl Send for SharedPage {}
// SAFETY: as above: shared references only make atomic accesses.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Maps `length` bytes of the file at `path`, made with mode 0600 if there is none.
    /// A shorter file grows by zeros; what it held stays. Refused if it is a link, no
    /// plain file, of another owner, or open to others.
    pub fn open(path: &Path, length: usize) -> Result<Self, ShmError> {
        if length == 0 || length > LENGTH_MAX || !length.is_multiple_of(WORD) {
            return Err(ShmError::Length {
                path: path.to_owned(),
                length,
            });
        }
        let failed = |attempt| {
            move |error: rustix::io::Errno| ShmError::Kernel {
                attempt,
                path: path.to_owned(),
                source: error.into(),
            }
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed("open"))?
            .into();
        Self::of(&file, path, length)
    }

    /// Maps `length` bytes of a file that is open already, as [`SharedPage::open`] does:
    /// memory that a parent handed down (memfd_create(2)). `path` names it in errors.
    pub fn of(file: &File, path: &Path, length: usize) -> Result<Self, ShmError> {
        if length == 0 || length > LENGTH_MAX || !length.is_multiple_of(WORD) {
            return Err(ShmError::Length {
                path: path.to_owned(),
                length,
            });
        }
        let failed = |attempt| {
            move |error: rustix::io::Errno| ShmError::Kernel {
                attempt,
                path: path.to_owned(),
                source: error.into(),
            }
        };
        trust(file, path)?;
        // Reserved, not only sized: storing into a page that a full /run cannot provide
        // would kill this process.
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length as u64)
            .map_err(failed("reserve space for"))?;
        let start = map(file, length).map_err(failed("map"))?;
        Ok(Self { start, length })
    }

    /// The length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.length
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(
            at < self.length,
            "byte {at} is outside of {} bytes",
            self.length
        );
        // SAFETY: `at` is inside the mapping, which lives as long as `self`, is readable
        // and writable, and is only accessed by atomics.
        unsafe { AtomicU8::from_ptr(self.start.as_ptr().add(at)) }
    }

    /// The word at byte `at`, which must be a multiple of eight inside the page. Its
    /// accesses are whole, also as seen by other processes.
    ///
    /// # Panics
    /// If `at` is outside or between words: a fault of the caller.
    pub fn word(&self, at: usize) -> &AtomicU64 {
        assert!(
            at.is_multiple_of(WORD) && at < self.length,
            "word {at} is not in {} bytes",
            self.length
        );
        // SAFETY: `at` is a multiple of 8 inside a mapping that starts at a page and is a
        // multiple of 8 long, so that all eight bytes are inside and aligned; the mapping
        // lives as long as `self` and is only accessed by atomics.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(at).cast::<u64>()) }
    }

    /// Copies the bytes from `at` on into `into`.
    ///
    /// # Panics
    /// If they reach past the end: a fault of the caller.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        for (offset, byte) in into.iter_mut().enumerate() {
            *byte = self.byte(at + offset).load(Ordering::Acquire);
        }
    }

    /// Copies `bytes` to `at`. Not in one piece: write a word that says "valid" last.
    ///
    /// # Panics
    /// If they reach past the end: a fault of the caller.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        for (offset, byte) in bytes.iter().enumerate() {
            self.byte(at + offset).store(*byte, Ordering::Release);
        }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: `start` and `length` are what `mmap` gave, and no reference into the
        // mapping outlives `self`. What was written stays in the file.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "unmapping what was mapped does not fail");
    }
}

fn map(file: &File, length: usize) -> rustix::io::Result<NonNull<u8>> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::SHARED | MapFlags::POPULATE;
    // SAFETY: the kernel chooses where; nothing mapped before is touched.
    let start = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            length,
            protection,
            flags,
            file.as_fd(),
            0,
        )
    }?;
    NonNull::new(start.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)
}

fn trust(file: &File, path: &Path) -> Result<(), ShmError> {
    use std::os::unix::fs::MetadataExt;

    let untrusted = |what| {
        Err(ShmError::Untrusted {
            path: path.to_owned(),
            what,
        })
    };
    let metadata = file.metadata().map_err(|source| ShmError::Kernel {
        attempt: "look at",
        path: path.to_owned(),
        source,
    })?;
    if !metadata.is_file() {
        return untrusted("it is no plain file");
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return untrusted("it belongs to another user");
    }
    if metadata.mode() & 0o077 != 0 {
        return untrusted("others may open it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_written_outlives_the_mapping() {
        let directory = tempfile::tempdir().expect("a place for it");
        let path = directory.path().join("lease");
        let page = SharedPage::open(&path, 4096).expect("a fresh file");
        assert_eq!(
            (page.len(), page.word(0).load(Ordering::Acquire)),
            (4096, 0)
        );
        page.word(8).store(0x1122_3344_5566_7788, Ordering::Release);
        page.write(4090, b"end");
        drop(page);
        assert_eq!(
            std::fs::metadata(&path).expect("it is there").mode() & 0o777,
            0o600
        );
        let page = SharedPage::open(&path, 8192).expect("the same file, longer");
        assert_eq!(page.word(8).load(Ordering::Acquire), 0x1122_3344_5566_7788);
        let mut end = [0; 4];
        page.read(4090, &mut end);
        assert_eq!(&end, b"end\0");
        assert_eq!(page.word(8184).load(Ordering::Acquire), 0, "grown by zeros");
    }

    #[test]
    fn two_mappings_share_their_words() {
        let directory = tempfile::tempdir().expect("a place for it");
        let path = directory.path().join("lease");
        let one = SharedPage::open(&path, 64).expect("a fresh file");
        let other = SharedPage::open(&path, 64).expect("the same file");
        one.word(16).store(7, Ordering::Release);
        assert_eq!(other.word(16).load(Ordering::Acquire), 7);
    }

    #[test]
    fn a_file_that_others_could_have_written_is_refused() {
        let directory = tempfile::tempdir().expect("a place for it");
        let path = directory.path().join("lease");
        drop(SharedPage::open(&path, 64).expect("a fresh file"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o620)).expect("it is ours");
        let refused = SharedPage::open(&path, 64).expect_err("open to the group");
        assert!(matches!(refused, ShmError::Untrusted { .. }), "{refused}");
        let link = directory.path().join("link");
        symlink(&path, &link).expect("a link");
        assert!(matches!(
            SharedPage::open(&link, 64),
            Err(ShmError::Kernel { .. })
        ));
        for length in [0, 7, LENGTH_MAX + 8] {
            assert!(matches!(
                SharedPage::open(&path, length),
                Err(ShmError::Length { .. })
            ));
        }
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_byte_past_the_end_is_a_fault() {
        let directory = tempfile::tempdir().expect("a place for it");
        let page = SharedPage::open(&directory.path().join("lease"), 64).expect("a fresh file");
        page.write(60, b"12345");
    }
}
