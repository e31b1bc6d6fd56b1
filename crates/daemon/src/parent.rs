//! The parent: checks everything that can be refused, begins a life, and keeps a worker
//! running. It does little, so that it has little to fail by: the worker does the work,
//! and a crash of it is made good within milliseconds.
//!
//! ```text
//!   parent  state directory's lock, counter, mirror's memory
//!     └─ worker  everything else; killed by the kernel if the parent dies
//! ```

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use evenkeel_core::Incarnation;
use evenkeel_host::clock;
use evenkeel_host::sys::sched::{self, Share};
use ring::rand::SecureRandom;
use rustix::fs::MemfdFlags;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::mirror::Memory;
use crate::options::Options;
use crate::prepare::Prepared;
use crate::state::StateDir;

/// Carries a worker's life from the parent: `counter nonce memfd parent start`, the last
/// in nanoseconds of the boot clock.
pub const WORKER: &str = "EVENKEEL_WORKER";
/// Real-time priority of the parent: it only has to wake up and start a process.
const PRIORITY: u8 = 5;
/// A worker that lived for so long crashed by chance: the next starts at once.
const LIVED_LONG: Duration = Duration::from_secs(5);
/// The longest pause before a worker that keeps crashing is started again.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a worker may take to hand over before it is ended.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Exit code of a worker whose mirror cannot be trusted: it needs a new life.
pub const NEEDS_NEW_LIFE: u8 = 75;

/// Runs the daemon in the foreground until it is told to stop.
pub fn run(options: &Options) -> ExitCode {
    crate::logging::start();
    match prepare_and_supervise(options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("evenkeel: refused: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn prepare_and_supervise(options: &Options) -> anyhow::Result<ExitCode> {
    let prepared = Prepared::load(options)?;
    let whose = prepared.whose();
    let mut state = StateDir::open(&options.state, &whose)?;
    // The lock goes to the worker too: it is free only when both have ended.
    rustix::io::fcntl_setfd(state.lock(), rustix::io::FdFlags::empty())?;
    for warning in &prepared.warnings {
        tracing::warn!("{warning}");
    }
    // Refused without the right: then a restart may take longer under load.
    let _ = sched::realtime(PRIORITY, Share::InTurns);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(supervise(options, &prepared, &mut state))
}

/// A life: its identity and the memory that its workers share.
struct LifeOfDaemon {
    incarnation: Incarnation,
    memory: OwnedFd,
}

impl LifeOfDaemon {
    fn begin(prepared: &Prepared, state: &mut StateDir) -> anyhow::Result<Self> {
        let counter = state.begin_life(&prepared.whose())?;
        let mut nonce = [0; 8];
        ring::rand::SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| anyhow::anyhow!("the kernel gives no random numbers"))?;
        let incarnation = Incarnation {
            counter,
            nonce: u64::from_le_bytes(nonce),
        };
        // Not closed on exec: the worker inherits it.
        let memory = rustix::fs::memfd_create("evenkeel-mirror", MemfdFlags::empty())?;
        rustix::fs::fchmod(&memory, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        Ok(Self {
            incarnation,
            memory,
        })
    }

    fn path(&self) -> PathBuf {
        memory_path(self.memory.as_raw_fd())
    }

    fn was_ready(&self) -> bool {
        Memory::open(&self.path()).is_ok_and(|memory| memory.was_ready())
    }

    fn start_worker(&self, options: &Options) -> anyhow::Result<Child> {
        let Incarnation { counter, nonce } = self.incarnation;
        let life = format!(
            "{counter} {nonce} {} {} {}",
            self.memory.as_raw_fd(),
            std::process::id(),
            clock::now().as_nanos()
        );
        let mut command = Command::new("/proc/self/exe");
        command.args(options.arguments()).env(WORKER, life);
        command.arg0("evenkeel");
        Ok(command.spawn()?)
    }
}

/// Where a descriptor of this process can be opened again.
pub fn memory_path(descriptor: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{descriptor}"))
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

enum Told {
    Stop,
    Reload,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            biased;
            _ = self.term.recv() => Told::Stop,
            _ = self.int.recv() => Told::Stop,
            _ = self.hup.recv() => Told::Reload,
        }
    }
}

enum Ended {
    Stopped,
    Refused,
    NeedsNewLife,
    Crashed(String),
}

fn judge(status: ExitStatus, was_ready: bool) -> Ended {
    match status.code() {
        Some(0) => Ended::Stopped,
        Some(code) if code == i32::from(NEEDS_NEW_LIFE) => Ended::NeedsNewLife,
        Some(_) if !was_ready => Ended::Refused,
        _ => Ended::Crashed(status.to_string()),
    }
}

async fn supervise(
    options: &Options,
    prepared: &Prepared,
    state: &mut StateDir,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let mut life = LifeOfDaemon::begin(prepared, state)?;
    let mut pause = Duration::ZERO;
    loop {
        let started = clock::now();
        let mut worker = life.start_worker(options)?;
        let status = match attend(&mut worker, &mut signals).await? {
            Attended::Ended(status) => status,
            Attended::ToldToStop => return stop(&mut worker).await,
        };
        match judge(status, life.was_ready()) {
            Ended::Stopped => return Ok(ExitCode::SUCCESS),
            // It has said why.
            Ended::Refused => return Ok(ExitCode::FAILURE),
            Ended::NeedsNewLife => {
                tracing::warn!(
                    "the memory of the last worker cannot be trusted: a new life begins"
                );
                life = LifeOfDaemon::begin(prepared, state)?;
            }
            Ended::Crashed(how) => {
                tracing::error!(how, "the worker ended unexpectedly: starting it again");
            }
        }
        pause = if clock::now().since(started) >= LIVED_LONG {
            Duration::ZERO
        } else {
            pause_after(pause)
        };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// The second start comes at once as well: one crash is no pattern.
fn pause_after(last: Duration) -> Duration {
    const FIRST: Duration = Duration::from_millis(1);
    if last.is_zero() {
        FIRST
    } else {
        (last * 4).min(PAUSE_MAX)
    }
}

enum Attended {
    Ended(ExitStatus),
    ToldToStop,
}

async fn attend(worker: &mut Child, signals: &mut Signals) -> std::io::Result<Attended> {
    loop {
        tokio::select! {
            biased;
            status = worker.wait() => return Ok(Attended::Ended(status?)),
            told = signals.next() => match told {
                Told::Stop => return Ok(Attended::ToldToStop),
                Told::Reload => {
                    tracing::warn!("a changed configuration needs a restart in this version: nothing is reloaded");
                }
            },
        }
    }
}

async fn stop(worker: &mut Child) -> anyhow::Result<ExitCode> {
    if let Some(pid) = worker
        .id()
        .and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()))
    {
        // Gone already is what we want.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(STOP_PATIENCE, worker.wait())
        .await
        .is_err()
    {
        tracing::error!(
            "the worker did not hand over within {} s: ending it",
            STOP_PATIENCE.as_secs()
        );
        worker.kill().await?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_in_a_row_are_answered_more_and_more_slowly() {
        let mut pause = Duration::ZERO;
        let mut total = Duration::ZERO;
        for _ in 0..20 {
            pause = pause_after(pause);
            total += pause;
        }
        assert_eq!(pause, PAUSE_MAX);
        assert!(pause_after(Duration::ZERO) <= Duration::from_millis(1));
        assert!(total > Duration::from_secs(20));
    }
}
