//! A file whose space is taken before it is needed, so that a disk filled by others cannot stop
//! the log (DESIGN 3.1 rule 11), and which never grows past a bound.
//!
//! The space is taken beyond the end of the file (`FALLOC_FL_KEEP_SIZE`), where the store grows
//! into it. Shrinking gives such space back, so it is taken again after every shrink.

use core::ops::Bound;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// A store's file with reserved space.
#[derive(Debug)]
pub(super) struct Reserved {
    inner: FileBackend,
    file: File,
    reserve: u64,
    bound: u64,
    /// The file system cannot reserve; said once.
    unsupported: AtomicBool,
}

/// The text of the error for a file at its bound; found again by `file` to tell it from others.
pub(super) const AT_BOUND: &str = "the log is at its bound";

impl Reserved {
    /// Takes `reserve` bytes for `file`, which may grow to `bound`.
    pub(super) fn new(file: File, reserve: u64, bound: u64) -> io::Result<Self> {
        let inner = FileBackend::new(file.try_clone()?).map_err(io::Error::other)?;
        Ok(Self {
            inner,
            file,
            reserve,
            bound,
            unsupported: AtomicBool::new(false),
        })
    }

    /// Takes the space. No space is an error; a file system that cannot do it is not.
    fn take(&self) -> io::Result<()> {
        if self.unsupported.load(Ordering::Relaxed) {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, self.reserve) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.unsupported.store(true, Ordering::Relaxed);
                tracing::warn!(
                    "this file system cannot reserve space for the log; a full disk will stop it"
                );
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl StorageBackend for Reserved {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.bound {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, AT_BOUND));
        }
        self.inner.set_len(len)?;
        self.take()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
