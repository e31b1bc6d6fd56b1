//! The parent's children, by number and pidfd: a parent that executes a new program keeps
//! its children, and must be able to take up those that another program started.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use evenkeel_host::sys::pidfd::await_readable;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, waitpid};
use tokio::io::unix::AsyncFd;

/// A child of this process.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts one.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        Self::adopt(Pid::from_child(&child)).inspect_err(|_| {
            // Nobody would know of it.
            let _ = child.kill();
            let _ = child.wait();
        })
    }

    /// Takes up a child of this process that was started before.
    pub fn adopt(pid: Pid) -> io::Result<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        Ok(Self {
            pid,
            pidfd: await_readable(pidfd)?,
            ended: None,
        })
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end. Loses nothing when it is dropped before that.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended {
                return Ok(status);
            }
            let mut ready = self.pidfd.readable().await?;
            match waitpid(Some(self.pid), WaitOptions::NOHANG)? {
                Some((_, status)) => self.ended = Some(ExitStatus::from_raw(status.as_raw())),
                None => ready.clear_ready(),
            }
        }
    }

    /// Whether it has ended. One that has is no zombie any more.
    pub fn has_ended(&mut self) -> bool {
        if self.ended.is_none()
            && let Ok(Some((_, status))) = waitpid(Some(self.pid), WaitOptions::NOHANG)
        {
            self.ended = Some(ExitStatus::from_raw(status.as_raw()));
        }
        self.ended.is_some()
    }

    /// Sends it a signal, unless its end is known. One that is gone already is what is wanted.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let _ = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn the_end_of_a_child_is_told_however_often_it_is_asked() {
        runtime().block_on(async {
            let mut child =
                Process::start(Command::new("sh").args(["-c", "exit 7"])).expect("started");
            for _ in 0..2 {
                assert_eq!(child.wait().await.expect("ended").code(), Some(7));
            }
            // The number may be another's by now.
            child.signal(Signal::KILL);
        });
    }

    #[test]
    fn a_child_that_was_started_before_is_taken_up() {
        runtime().block_on(async {
            let started = Process::start(Command::new("sleep").arg("600")).expect("started");
            let mut child = Process::adopt(started.pid()).expect("adopted");
            let early = tokio::time::timeout(std::time::Duration::from_millis(20), child.wait());
            assert!(early.await.is_err(), "it lives");
            child.signal(Signal::KILL);
            assert_eq!(child.wait().await.expect("ended").signal(), Some(9));
        });
    }
}
