//! A baton that death passes on: a lock in shared memory, held by one thread of one
//! process for as long as it lives. When that thread ends, however it ends, the kernel
//! gives the lock to the next that waits for it.
//!
//! It is a robust, process-shared mutex (`pthread_mutexattr_setrobust(3)`; in the kernel
//! `exit_robust_list` in `kernel/futex/core.c`). The kernel walks a dying thread's robust
//! list before it takes the process's memory and descriptors down. A parent hears of a
//! dead child only after all of that, tens of milliseconds later for a process with
//! sockets and locked memory; whoever waits for the baton hears of it at once, and knows
//! for certain that the thread before it runs no more.

use std::io;

use super::shm::SharedPage;

/// Bytes of shared memory that a baton takes, from a multiple of eight.
pub const BATON_BYTES: usize = 64;

const _: () = assert!(size_of::<libc::pthread_mutex_t>() <= BATON_BYTES);
const _: () = assert!(align_of::<libc::pthread_mutex_t>() <= size_of::<u64>());

/// How the baton came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nobody had it.
    Free,
    /// The thread that had it is dead.
    FromTheDead,
}

/// A baton in shared memory.
#[derive(Debug)]
pub struct Baton {
    /// Kept mapped for as long as the baton may be held.
    page: SharedPage,
    at: usize,
}

impl Baton {
    /// The baton at byte `at` of the page, prepared by somebody before.
    ///
    /// # Panics
    /// If it does not fit there: a fault of the caller.
    pub fn at(page: SharedPage, at: usize) -> Self {
        assert!(
            at.is_multiple_of(size_of::<u64>()) && at + BATON_BYTES <= page.len(),
            "no room for a baton at byte {at}"
        );
        Self { page, at }
    }

    fn mutex(&self) -> *mut libc::pthread_mutex_t {
        self.page.word(self.at).as_ptr().cast()
    }

    /// Makes the baton, free. Once, before anybody else knows of the page.
    pub fn prepare(&self) -> io::Result<()> {
        let mut attributes = std::mem::MaybeUninit::uninit();
        // SAFETY: each call gets a pointer to attributes that live until the last of them,
        // initialised by the first; the mutex is memory of its size and alignment (asserted
        // above and in `at`) that is mapped for as long as `self` lives and that nobody else
        // uses yet, which the caller promises.
        unsafe {
            check(libc::pthread_mutexattr_init(attributes.as_mut_ptr()))?;
            let attributes = attributes.assume_init_mut();
            let made = check(libc::pthread_mutexattr_setpshared(
                attributes,
                libc::PTHREAD_PROCESS_SHARED,
            ))
            .and_then(|()| {
                check(libc::pthread_mutexattr_setrobust(
                    attributes,
                    libc::PTHREAD_MUTEX_ROBUST,
                ))
            })
            .and_then(|()| check(libc::pthread_mutex_init(self.mutex(), attributes)));
            libc::pthread_mutexattr_destroy(attributes);
            made
        }
    }

    /// Waits until nobody living has the baton, and takes it for the rest of the calling
    /// thread's life: there is no giving it back. The page stays mapped for ever, since
    /// the kernel looks into it when the thread ends.
    pub fn take(self) -> io::Result<Taken> {
        let mutex = self.mutex();
        // SAFETY: `prepare` has made the mutex, and it stays mapped: `self` is forgotten
        // below, also when the lock was not taken.
        let answer = unsafe { libc::pthread_mutex_lock(mutex) };
        std::mem::forget(self);
        match answer {
            0 => Ok(Taken::Free),
            libc::EOWNERDEAD => {
                // SAFETY: as above, and this thread now holds the mutex.
                check(unsafe { libc::pthread_mutex_consistent(mutex) })?;
                Ok(Taken::FromTheDead)
            }
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn check(answer: libc::c_int) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::mpsc;
    use std::time::Duration;

    const AT: usize = 64;

    fn baton(path: &Path) -> Baton {
        Baton::at(SharedPage::open(path, 256).expect("a page"), AT)
    }

    #[test]
    fn the_living_keep_it_and_the_dead_pass_it_on() {
        let directory = tempfile::tempdir().expect("a place for it");
        let path = directory.path().join("page");
        baton(&path).prepare().expect("prepared");
        let (end, ended) = mpsc::channel::<()>();
        let (say, said) = mpsc::channel();
        let first = baton(&path);
        let told = say.clone();
        let holder = std::thread::spawn(move || {
            let _ = told.send(first.take());
            let _ = ended.recv();
        });
        assert_eq!(said.recv().expect("taken").expect("no fault"), Taken::Free);
        for _ in 0..2 {
            let next = baton(&path);
            let say = say.clone();
            std::thread::spawn(move || {
                let _ = say.send(next.take());
            });
        }
        let nobody = said.recv_timeout(Duration::from_millis(50));
        assert!(nobody.is_err(), "the holder lives: {nobody:?}");
        drop(end);
        holder.join().expect("it ended");
        // The second of those who wait gets it too, since the first has ended as well.
        for _ in 0..2 {
            let taken = said.recv_timeout(Duration::from_secs(10)).expect("taken");
            assert_eq!(taken.expect("no fault"), Taken::FromTheDead);
        }
    }

    #[test]
    #[should_panic(expected = "no room")]
    fn it_must_fit() {
        let directory = tempfile::tempdir().expect("a place for it");
        let page = SharedPage::open(&directory.path().join("page"), 64).expect("a page");
        let _ = Baton::at(page, 8);
    }
}
