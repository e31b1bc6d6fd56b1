//! The parent: checks everything that can be refused, begins a life, and keeps a worker
//! running and another waiting beside it. It does little, so that it has little to fail
//! by: the worker does the work, and the one in reserve makes its death good.
//!
//! ```text
//!   parent  state directory's lock, counter, mirror's memory, sockets
//!     ├─ worker   everything else; killed by the kernel if the parent dies
//!     └─ reserve  ready to go on; waits for the worker's death, as it waits for ours
//! ```
//!
//! The reserve takes over by itself, within a millisecond (`mirror::baton`). The parent
//! hears of the death later, when the kernel has cleared the worker away; then it calls
//! the reserve its worker and starts another reserve.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use evenkeel_core::Incarnation;
use evenkeel_guard::Claim;
use evenkeel_host::clock;
use evenkeel_host::sys::sched::{self, Share};
use evenkeel_host::sys::udp;
use ring::rand::SecureRandom;
use rustix::fs::MemfdFlags;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::inherited::{Kept, WORKER, path_of};
use crate::mirror::{Memory, baton};
use crate::options::Options;
use crate::prepare::Prepared;
use crate::state::StateDir;

/// Real-time priority of the parent: it only has to wake up and start a process.
const PRIORITY: u8 = 5;
/// A worker that lived for so long crashed by chance: the next starts at once.
const LIVED_LONG: Duration = Duration::from_secs(5);
/// The longest pause before a worker that keeps crashing is started again.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a worker has for itself before a reserve is started beside it: bringing the
/// rooms up needs the processor.
const RESERVE_AFTER: Duration = Duration::from_millis(500);
/// The longest pause before a reserve that keeps ending is started again: each try says
/// why it failed.
const RESERVE_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a reserve that was killed is waited for.
const DISMISS_MAX: Duration = Duration::from_secs(1);
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
    if let Some(by) = clock::shift() {
        anyhow::bail!(
            "the boot clock of this process is shifted by {} s (a time namespace), and the \
             kernel's guard counts by the machine's own: start evenkeel outside of that namespace",
            by.as_secs_f64()
        );
    }
    let prepared = Prepared::load(options)?;
    let whose = prepared.whose();
    let mut state = StateDir::open(&options.state, &whose)?;
    for warning in &prepared.warnings {
        tracing::warn!("{warning}");
    }
    // Before the life begins: a port in use is refused with nothing changed.
    let kept = Kept::new(
        sockets(&prepared)?,
        claim(&prepared),
        prepared.config.text(),
        state.lock().try_clone()?.into(),
    )?;
    // Refused without the right: then a restart may take longer under load.
    let _ = sched::realtime(PRIORITY, Share::InTurns);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        Supervisor::new(options, &prepared, &kept, &mut state)?
            .run()
            .await
    })
}

fn sockets(prepared: &Prepared) -> anyhow::Result<udp::UdpPair> {
    let address: SocketAddr = prepared.node.address;
    udp::pair(address).map_err(
        |error| match prepared.config.place_of_node(&prepared.node.name) {
            Some(place) => anyhow::anyhow!("{}:{place}: {error}", prepared.config.origin()),
            None => error.into(),
        },
    )
}

/// The claim to the guard's table, where a guard is needed. Why there is none, the worker
/// says when it tries for itself.
fn claim(prepared: &Prepared) -> Option<Claim> {
    (!prepared.node.witness).then(Claim::open)?.ok()
}

/// A life: its identity and the memory that its workers share.
struct LifeOfDaemon {
    incarnation: Incarnation,
    memory: OwnedFd,
}

impl LifeOfDaemon {
    fn begin(prepared: &Prepared, state: &mut StateDir) -> anyhow::Result<Self> {
        let mut nonce = [0; 8];
        ring::rand::SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| anyhow::anyhow!("the kernel gives no random numbers"))?;
        let nonce = u64::from_le_bytes(nonce);
        let counter = state.begin_life(&prepared.whose(), nonce)?;
        let incarnation = Incarnation { counter, nonce };
        // Not closed on exec: the workers inherit it.
        let memory = rustix::fs::memfd_create("evenkeel-mirror", MemfdFlags::empty())?;
        rustix::fs::fchmod(&memory, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        let life = Self {
            incarnation,
            memory,
        };
        baton(&life.path())?.prepare()?;
        Ok(life)
    }

    fn path(&self) -> PathBuf {
        path_of(self.memory.as_raw_fd())
    }

    fn was_ready(&self) -> bool {
        Memory::open(&self.path()).is_ok_and(|memory| memory.was_ready())
    }

    fn start_worker(&self, options: &Options, kept: &Kept) -> anyhow::Result<Child> {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(options.arguments())
            .env(WORKER, kept.told(self.incarnation, &self.memory));
        command.arg0("evenkeel");
        Ok(command.spawn()?)
    }
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

/// What wakes the parent.
enum Woken {
    Worker(ExitStatus),
    Reserve(ExitStatus),
    Told(Told),
    ReserveDue,
}

/// The parent's work.
struct Supervisor<'a> {
    options: &'a Options,
    prepared: &'a Prepared,
    kept: &'a Kept,
    state: &'a mut StateDir,
    signals: Signals,
    life: LifeOfDaemon,
    worker: Child,
    worker_since: Instant,
    reserve: Option<Child>,
    reserve_due: Instant,
    /// Before the next start of a worker, or of a reserve, after ends in a row.
    pause: Duration,
    reserve_pause: Duration,
}

impl<'a> Supervisor<'a> {
    fn new(
        options: &'a Options,
        prepared: &'a Prepared,
        kept: &'a Kept,
        state: &'a mut StateDir,
    ) -> anyhow::Result<Self> {
        let signals = Signals::listen()?;
        let life = LifeOfDaemon::begin(prepared, state)?;
        let worker = life.start_worker(options, kept)?;
        let now = Instant::now();
        Ok(Self {
            options,
            prepared,
            kept,
            state,
            signals,
            life,
            worker,
            worker_since: now,
            reserve: None,
            reserve_due: now + RESERVE_AFTER,
            pause: Duration::ZERO,
            reserve_pause: Duration::ZERO,
        })
    }

    async fn run(mut self) -> anyhow::Result<ExitCode> {
        loop {
            match self.woken().await? {
                Woken::Worker(status) => match judge(status, self.life.was_ready()) {
                    Ended::Stopped => return self.end(ExitCode::SUCCESS).await,
                    // It has said why.
                    Ended::Refused => return self.end(ExitCode::FAILURE).await,
                    Ended::NeedsNewLife => {
                        tracing::warn!(
                            "the memory of the last worker cannot be trusted: a new life begins"
                        );
                        self.dismiss_reserve().await?;
                        self.life = LifeOfDaemon::begin(self.prepared, self.state)?;
                        self.replace_worker().await?;
                    }
                    Ended::Crashed(how) => {
                        tracing::error!(how, "the worker ended unexpectedly: another goes on");
                        self.replace_worker().await?;
                    }
                },
                Woken::Reserve(status) if status.code() == Some(i32::from(NEEDS_NEW_LIFE)) => {
                    // It found the worker dead before we did, and its memory spoiled.
                    self.lose_reserve(status);
                    let _ = self.worker.start_kill();
                }
                Woken::Reserve(status) => self.lose_reserve(status),
                Woken::ReserveDue => self.start_reserve(),
                Woken::Told(Told::Reload) => tracing::warn!(
                    "a changed configuration needs a restart in this version: nothing is reloaded"
                ),
                Woken::Told(Told::Stop) => {
                    self.promote_if_it_leads();
                    // First, or it would go on where the worker stops.
                    self.dismiss_reserve().await?;
                    return stop(&mut self.worker).await;
                }
            }
        }
    }

    /// Waits for what happens next.
    async fn woken(&mut self) -> std::io::Result<Woken> {
        let missing = self.reserve.is_none();
        let reserve = async {
            match &mut self.reserve {
                Some(reserve) => reserve.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            status = self.worker.wait() => Ok(Woken::Worker(status?)),
            status = reserve => Ok(Woken::Reserve(status?)),
            told = self.signals.next() => Ok(Woken::Told(told)),
            () = tokio::time::sleep_until(self.reserve_due), if missing => Ok(Woken::ReserveDue),
        }
    }

    /// The worker may be dead without our knowing it yet: then the reserve has its leases.
    fn promote_if_it_leads(&mut self) {
        let leads = Memory::open(&self.life.path())
            .ok()
            .and_then(|memory| memory.worker());
        let number = leads.map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
        if number.is_some()
            && self.reserve.as_ref().and_then(Child::id) == number
            && let Some(reserve) = self.reserve.take()
        {
            self.worker = reserve;
        }
    }

    /// The reserve is the worker now; without one, another is started.
    async fn replace_worker(&mut self) -> anyhow::Result<()> {
        self.pause = if self.worker_since.elapsed() >= LIVED_LONG {
            Duration::ZERO
        } else {
            pause_after(self.pause)
        };
        self.worker = match self.reserve.take() {
            Some(reserve) => {
                self.reserve_pause = Duration::ZERO;
                reserve
            }
            None => {
                tokio::time::sleep(self.pause).await;
                self.life.start_worker(self.options, self.kept)?
            }
        };
        self.worker_since = Instant::now();
        self.reserve_due = self.worker_since + RESERVE_AFTER.max(self.pause);
        Ok(())
    }

    fn start_reserve(&mut self) {
        // Whether the worker is up is not told: it is looked at.
        if !self.life.was_ready() {
            self.reserve_due = Instant::now() + RESERVE_AFTER;
            return;
        }
        match self.life.start_worker(self.options, self.kept) {
            Ok(reserve) => self.reserve = Some(reserve),
            Err(error) => {
                tracing::error!(%error, "failed to start a worker in reserve; trying again");
                self.reserve_pause = PAUSE_MAX;
                self.reserve_due = Instant::now() + PAUSE_MAX;
            }
        }
    }

    /// The reserve ended before its turn.
    fn lose_reserve(&mut self, status: ExitStatus) {
        self.reserve = None;
        self.reserve_pause = (self.reserve_pause * 2).clamp(RESERVE_AFTER, RESERVE_PAUSE_MAX);
        self.reserve_due = Instant::now() + self.reserve_pause;
        tracing::warn!(
            how = status.to_string(),
            "the worker in reserve ended: until there is another, a crash takes longer to make good"
        );
    }

    async fn dismiss_reserve(&mut self) -> std::io::Result<()> {
        let Some(mut reserve) = self.reserve.take() else {
            return Ok(());
        };
        reserve.start_kill()?;
        // One that a disk keeps from dying is no reason to keep the worker waiting.
        let _ = tokio::time::timeout(DISMISS_MAX, reserve.wait()).await;
        Ok(())
    }

    async fn end(mut self, code: ExitCode) -> anyhow::Result<ExitCode> {
        self.dismiss_reserve().await?;
        Ok(code)
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
