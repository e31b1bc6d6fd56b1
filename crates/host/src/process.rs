//! Processes by pidfd: their death is an event, not something to poll for.
//!
//! A process is more than its number, which the kernel gives to another one later:
//! [`Identity`] adds the moment of its start, and [`Watched`] holds a pidfd, which
//! never changes its owner (`pidfd_open(2)`).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use thiserror::Error;
use tokio::io::unix::AsyncFd;

/// `/proc/PID/stat` is one line of 52 numbers and a name of at most 64 bytes.
const STAT_LENGTH_MAX: usize = 2048;

/// Why a process cannot be watched.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// It is gone, or was never there.
    #[error("watch process {pid}: it has ended")]
    Ended {
        /// Its number.
        pid: u32,
    },
    /// The number belongs to another process by now.
    #[error("watch process {pid}: the number belongs to another process by now")]
    Replaced {
        /// The number.
        pid: u32,
    },
    /// The kernel refused.
    #[error("watch process {pid}: {source}")]
    Refused {
        /// Its number.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Which process: its number and the moment of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Start in clock ticks since boot (field 22 of `/proc/PID/stat`). First, so that
    /// the order of identities is the order of age.
    pub start: u64,
    /// Its number in our own PID namespace.
    pub pid: u32,
}

impl Identity {
    /// The process that has the number `pid` now.
    pub fn of(pid: u32) -> Result<Self, ProcessError> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|source| {
            // ESRCH: it ended between open and read.
            match source.kind() {
                io::ErrorKind::NotFound => ProcessError::Ended { pid },
                _ if source.raw_os_error() == Some(libc::ESRCH) => ProcessError::Ended { pid },
                _ => ProcessError::Refused { pid, source },
            }
        })?;
        match start_of(&stat) {
            Some(start) => Ok(Self { start, pid }),
            None => Err(ProcessError::Refused {
                pid,
                source: io::Error::new(io::ErrorKind::InvalidData, "its stat file is unreadable"),
            }),
        }
    }
}

/// Field 22 of a stat line. The name (field 2) may hold blanks and brackets, so that
/// fields are counted from the last closing bracket.
pub(crate) fn start_of(stat: &str) -> Option<u64> {
    if stat.len() > STAT_LENGTH_MAX {
        return None;
    }
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The name of a process for people (`/proc/PID/comm`), or its number.
pub fn name_of(pid: u32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => name
            .trim_end()
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect(),
        Err(_) => format!("process {pid}"),
    }
}

/// A process whose death is awaited. Closing it has no effect on the process.
#[derive(Debug)]
pub struct Watched {
    identity: Identity,
    name: String,
    pidfd: AsyncFd<OwnedFd>,
}

impl Watched {
    /// Watches the process that has the number `pid` now. Must be called within a
    /// tokio runtime.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        Self::open_same(Identity::of(pid)?)
    }

    /// Watches `identity`, or fails if its number has been given to another process
    /// since. Must be called within a tokio runtime.
    pub fn open_same(identity: Identity) -> Result<Self, ProcessError> {
        let pid = identity.pid;
        let pidfd = open_pidfd(pid)?;
        // The pidfd stands for whoever had the number when it was opened. Reading the
        // start afterwards says who has it now; if that process is the same and the
        // pidfd has not become readable, all three are one.
        if Identity::of(pid)? != identity {
            return Err(ProcessError::Replaced { pid });
        }
        if has_ended(&pidfd) {
            return Err(ProcessError::Ended { pid });
        }
        let name = name_of(pid);
        let pidfd = crate::sys::pidfd::await_readable(pidfd)
            .map_err(|source| ProcessError::Refused { pid, source })?;
        Ok(Self {
            identity,
            name,
            pidfd,
        })
    }

    /// Which process.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// Its name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has ended. A zombie has: its files are closed already
    /// (`do_exit` closes them before it notifies).
    pub fn is_dead(&self) -> bool {
        has_ended(self.pidfd.get_ref())
    }

    /// Returns once it has ended: all its threads are gone and its files closed.
    pub async fn wait_death(&self) {
        // A pidfd stays readable for ever after the death. An error of the reactor
        // means that the runtime is going down; then nobody is left to be told.
        while !self.is_dead() {
            match self.pidfd.readable().await {
                Ok(mut ready) if !self.is_dead() => ready.clear_ready(),
                Ok(_) => {}
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

fn open_pidfd(pid: u32) -> Result<OwnedFd, ProcessError> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(number) = number else {
        return Err(ProcessError::Ended { pid });
    };
    match rustix::process::pidfd_open(number, PidfdFlags::NONBLOCK) {
        Ok(fd) => Ok(fd),
        Err(rustix::io::Errno::SRCH) => Err(ProcessError::Ended { pid }),
        Err(errno) => Err(ProcessError::Refused {
            pid,
            source: errno.into(),
        }),
    }
}

/// A pidfd becomes readable when its process ends.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(rustix::event::poll(&mut fds, Some(&at_once)), Ok(ready) if ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};
    use std::time::Duration;

    struct Sleeper(Child);
    impl Sleeper {
        fn start() -> Self {
            Self(
                Command::new("sleep")
                    .arg("60")
                    .spawn()
                    .expect("sleep starts"),
            )
        }
        fn kill(&mut self) {
            self.0.kill().expect("our own child");
        }
    }
    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn the_start_is_found_behind_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(start_of(&format!("7 (a) {tail}")), Some(4242));
        assert_eq!(start_of(&format!("7 (a) b) 1 2 (c)) {tail}")), Some(4242));
        assert_eq!(start_of("7 (a) S 1 2"), None);
        assert_eq!(start_of(""), None);
    }

    #[tokio::test]
    async fn a_death_is_noticed_while_the_process_is_still_a_zombie() {
        let mut sleeper = Sleeper::start();
        let watched = Watched::open(sleeper.0.id()).expect("it runs");
        assert!(!watched.is_dead());
        sleeper.kill();
        tokio::time::timeout(Duration::from_secs(5), watched.wait_death())
            .await
            .expect("noticed");
        assert!(watched.is_dead());
        assert!(matches!(
            Watched::open(watched.pid()),
            Err(ProcessError::Ended { .. })
        ));
    }

    #[tokio::test]
    async fn a_living_process_is_not_reported() {
        let sleeper = Sleeper::start();
        let watched = Watched::open(sleeper.0.id()).expect("it runs");
        let waited = tokio::time::timeout(Duration::from_millis(50), watched.wait_death()).await;
        assert!(waited.is_err());
        assert_eq!(watched.pid(), sleeper.0.id());
    }

    #[tokio::test]
    async fn a_number_that_was_given_away_is_refused() {
        let sleeper = Sleeper::start();
        let mut identity = Identity::of(sleeper.0.id()).expect("it runs");
        identity.start -= 1;
        assert!(matches!(
            Watched::open_same(identity),
            Err(ProcessError::Replaced { .. })
        ));
    }

    #[tokio::test]
    async fn a_process_that_never_was_has_ended() {
        for pid in [0, u32::MAX, 0x3fff_fffe] {
            assert!(
                matches!(Watched::open(pid), Err(ProcessError::Ended { .. })),
                "{pid}"
            );
        }
    }
}
