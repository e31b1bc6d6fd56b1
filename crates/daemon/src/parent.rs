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
//! A changed file, or a new program, comes in the same way: a reserve with it is started, and
//! once that waits, the worker is ended (`change.rs`). The parent itself executes a new
//! program in its own place (`succession.rs`).
//!
//! The reserve takes over by itself, within a millisecond (`mirror::baton`). The parent
//! hears of the death later, when the kernel has cleared the worker away; then it calls
//! the reserve its worker and starts another reserve.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use evenkeel_core::Incarnation;
use evenkeel_guard::Claim;
use evenkeel_host::clock;
use evenkeel_host::notify;
use evenkeel_host::sys::sched::{self, Share};
use evenkeel_host::sys::udp;
use ring::rand::SecureRandom;
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal as Kill};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::inherited::{Kept, Text, WORKER, path_of};
use crate::line::{Ask, Board, ParentEnd};
use crate::mirror::{Memory, baton};
use crate::options::Options;
use crate::prepare::Prepared;
use crate::process::Process;
use crate::shutdown::stop_patience;
use crate::state::StateDir;

mod change;
mod succession;

pub use succession::{PARENT, go_on};

use change::{Change, Judged, Stage};

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
/// What the service manager waits for longer than we do.
const STOP_SLACK: Duration = Duration::from_secs(5);
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
    let mut state = StateDir::open(&options.state, &prepared.whose())?;
    for warning in &prepared.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = runtime()?;
    let _inside = runtime.enter();
    // Before the life begins: a port in use is refused with nothing changed.
    let lock = state.lock().try_clone()?.into();
    let line = ParentEnd::new()?;
    let kept = Kept::new(sockets(&prepared)?, claim(&prepared), lock, line)?;
    // Refused without the right: then a restart may take longer under load.
    let _ = sched::realtime(PRIORITY, Share::InTurns);
    runtime.block_on(async {
        let life = LifeOfDaemon::begin(&prepared, &mut state)?;
        Supervisor::new(options, prepared, kept, state, life)?
            .run()
            .await
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

fn sockets(prepared: &Prepared) -> anyhow::Result<udp::UdpPair> {
    let address: SocketAddr = prepared.node.address;
    udp::pair(address).map_err(
        |error| match prepared.config.place_of_node(&prepared.node.name) {
            Some(place) => anyhow::anyhow!("{place}: {error}"),
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

    /// Starts a worker of `program`, with the configuration `text`.
    fn start_worker(
        &self,
        program: &Path,
        options: &Options,
        kept: &Kept,
        text: &Text,
    ) -> anyhow::Result<Process> {
        let mut command = Command::new(program);
        command
            .args(options.arguments())
            .env_remove(PARENT)
            .env(WORKER, kept.told(self.incarnation, &self.memory, text));
        std::os::unix::process::CommandExt::arg0(&mut command, "evenkeel");
        Ok(Process::start(&mut command)?)
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
    Asked(Ask),
    Judged(Judged),
    ReserveDue,
    /// A change under way is to be looked at.
    Look,
}

/// The program that runs, also when another file has taken its place.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The parent's work.
struct Supervisor<'a> {
    options: &'a Options,
    /// What runs.
    running: Prepared,
    text: Text,
    kept: Kept,
    state: StateDir,
    signals: Signals,
    life: LifeOfDaemon,
    worker: Process,
    worker_since: Instant,
    reserve: Option<Process>,
    reserve_due: Instant,
    /// Before the next start of a worker, or of a reserve, after ends in a row.
    pause: Duration,
    reserve_pause: Duration,
    /// A reload or an upgrade under way.
    change: Option<Change>,
    /// What is still being read though nobody waits for it: a file system that hangs.
    late: Option<tokio::sync::oneshot::Receiver<Judged>>,
    board: Board,
    /// Where the program was when it was started.
    program: PathBuf,
    /// Told to stop while a worker was being ended.
    stop_after: bool,
    /// Workers that were killed and that something keeps from ending.
    departing: Vec<Process>,
}

impl<'a> Supervisor<'a> {
    fn new(
        options: &'a Options,
        running: Prepared,
        kept: Kept,
        state: StateDir,
        life: LifeOfDaemon,
    ) -> anyhow::Result<Self> {
        let text = Text::of(&running)?;
        let own = Path::new(OWN_PROGRAM);
        // Listening first: a signal must not end a parent that has begun a life.
        let signals = Signals::listen()?;
        let worker = life.start_worker(own, options, &kept, &text)?;
        Self::with(
            options,
            (running, text),
            kept,
            state,
            life,
            (signals, worker),
        )
    }

    fn with(
        options: &'a Options,
        (running, text): (Prepared, Text),
        kept: Kept,
        state: StateDir,
        life: LifeOfDaemon,
        (signals, worker): (Signals, Process),
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            options,
            running,
            text,
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
            change: None,
            late: None,
            board: Board::default(),
            program: std::env::current_exe()?,
            stop_after: false,
            departing: Vec::new(),
        })
    }

    async fn run(mut self) -> anyhow::Result<ExitCode> {
        loop {
            let code = match self.woken().await? {
                Woken::Worker(status) => self.worker_ended(status).await?,
                Woken::Reserve(status) => {
                    self.reserve_ended(status);
                    None
                }
                Woken::ReserveDue => {
                    self.start_reserve();
                    None
                }
                Woken::Asked(ask) => {
                    self.begin_change(ask);
                    None
                }
                Woken::Judged(judged) => {
                    self.judged(judged).await?;
                    None
                }
                Woken::Look => {
                    self.look_at_change().await;
                    None
                }
                Woken::Told(Told::Reload) => {
                    self.begin_change(change::by_signal());
                    None
                }
                Woken::Told(Told::Stop) => {
                    self.stop_after = true;
                    None
                }
            };
            if let Some(code) = code {
                return self.end(code).await;
            }
            if self.stop_after && !self.is_ending_worker() {
                let _ = self.promote_if_it_leads();
                // First, or it would go on where the worker stops.
                self.dismiss_reserve().await?;
                let patience = stop_patience(&self.running.config);
                if let Err(error) = notify::stopping(patience + STOP_SLACK) {
                    tracing::debug!(%error, "the service manager cannot be told to wait");
                }
                return stop(&mut self.worker, patience).await;
            }
        }
    }

    async fn worker_ended(&mut self, status: ExitStatus) -> anyhow::Result<Option<ExitCode>> {
        let ended = judge(status, self.life.was_ready());
        match (&ended, self.change.as_ref().map(|change| &change.stage)) {
            (Ended::Crashed(_), Some(Stage::Preparing | Stage::Ending)) => {
                self.reserve_goes_on().await?;
                return Ok(None);
            }
            (_, Some(Stage::Proving)) => {
                self.go_back(&status).await?;
                return Ok(None);
            }
            _ => {}
        }
        match ended {
            Ended::Stopped => return Ok(Some(ExitCode::SUCCESS)),
            // It has said why.
            Ended::Refused => return Ok(Some(ExitCode::FAILURE)),
            Ended::NeedsNewLife => {
                tracing::warn!(
                    "the memory of the last worker cannot be trusted: a new life begins"
                );
                self.give_up_change("the daemon had to begin a new life meanwhile");
                self.dismiss_reserve().await?;
                self.life = LifeOfDaemon::begin(&self.running, &mut self.state)?;
                self.replace_worker().await?;
            }
            Ended::Crashed(how) => {
                tracing::error!(how, "the worker ended unexpectedly: another goes on");
                self.replace_worker().await?;
            }
        }
        Ok(None)
    }

    fn reserve_ended(&mut self, status: ExitStatus) {
        if status.code() == Some(i32::from(NEEDS_NEW_LIFE)) {
            // It found the worker dead before we did, and its memory spoiled.
            self.lose_reserve(status);
            self.worker.signal(Kill::KILL);
        } else {
            self.lose_reserve(status);
        }
        self.change_lost_reserve(&status);
    }

    /// Waits for what happens next.
    async fn woken(&mut self) -> std::io::Result<Woken> {
        self.departing.retain_mut(|one| !one.has_ended());
        let missing = self.reserve.is_none() && !self.is_ending_worker();
        let look = self.change.as_ref().and_then(Change::next_look);
        let reserve = async {
            match &mut self.reserve {
                Some(reserve) => reserve.wait().await,
                None => std::future::pending().await,
            }
        };
        let judged = async {
            match &mut self.change {
                Some(change) => change.judged().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            status = self.worker.wait() => Ok(Woken::Worker(status?)),
            status = reserve => Ok(Woken::Reserve(status?)),
            told = self.signals.next(), if !self.stop_after => Ok(Woken::Told(told)),
            judged = judged => Ok(Woken::Judged(judged)),
            ask = self.kept.line.next() => Ok(Woken::Asked(ask?)),
            () = sleep_until(look) => Ok(Woken::Look),
            () = tokio::time::sleep_until(self.reserve_due), if missing => Ok(Woken::ReserveDue),
        }
    }

    /// The worker whose lease thread is at work, as the memory says.
    fn leading(&self) -> Option<Pid> {
        Memory::open(&self.life.path()).ok()?.worker()
    }

    /// The worker may be dead without our knowing it yet, or never be gone as long as a disk
    /// hangs: then the reserve has its leases, and is the worker. Says whether it is.
    fn promote_if_it_leads(&mut self) -> bool {
        let leads = self.leading();
        if leads.is_some()
            && self.reserve.as_ref().map(Process::pid) == leads
            && let Some(reserve) = self.reserve.take()
        {
            let former = std::mem::replace(&mut self.worker, reserve);
            self.departing.push(former);
            self.worker_since = Instant::now();
            self.reserve_due = self.worker_since + RESERVE_AFTER;
            return true;
        }
        false
    }

    /// The reserve is the worker now; without one, another is started.
    async fn replace_worker(&mut self) -> anyhow::Result<()> {
        self.pause = if self.worker_since.elapsed() >= LIVED_LONG {
            Duration::ZERO
        } else {
            pause_after(self.pause)
        };
        match self.reserve.take() {
            Some(reserve) => {
                self.reserve_pause = Duration::ZERO;
                self.worker = reserve;
            }
            None => self.start_again().await,
        }
        self.worker_since = Instant::now();
        self.reserve_due = self.worker_since + RESERVE_AFTER.max(self.pause);
        Ok(())
    }

    /// Starts a worker where none is left, as often as it takes: without memory or processes
    /// for one now, there may be in a moment, and the leases of a parent that ends are lost.
    /// Only being told to stop ends it; the worker is then the one that has ended.
    async fn start_again(&mut self) {
        let own = Path::new(OWN_PROGRAM);
        let (life, options) = (&self.life, self.options);
        let (kept, text) = (&self.kept, &self.text);
        let start = || life.start_worker(own, options, kept, text);
        let started = tokio::select! {
            biased;
            started = start_until_it_works(start, self.pause) => Some(started),
            () = told_to_stop(&mut self.signals) => None,
        };
        match started {
            Some(worker) => self.worker = worker,
            None => self.stop_after = true,
        }
    }

    fn start_reserve(&mut self) {
        // Whether the worker is up is not told: it is looked at.
        if !self.life.was_ready() {
            self.reserve_due = Instant::now() + RESERVE_AFTER;
            return;
        }
        let own = Path::new(OWN_PROGRAM);
        match self
            .life
            .start_worker(own, self.options, &self.kept, &self.text)
        {
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

    /// Ends the reserve; whether it has ended in time. One that a disk keeps from dying is no
    /// reason to keep the worker waiting.
    async fn dismiss_reserve(&mut self) -> std::io::Result<bool> {
        let Some(reserve) = &mut self.reserve else {
            return Ok(true);
        };
        reserve.signal(Kill::KILL);
        let ended = tokio::time::timeout(DISMISS_MAX, reserve.wait()).await;
        if ended.is_ok() {
            self.reserve = None;
        }
        Ok(ended.is_ok())
    }

    async fn end(mut self, code: ExitCode) -> anyhow::Result<ExitCode> {
        self.dismiss_reserve().await?;
        Ok(code)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
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

/// Starts a worker, at once or ever later.
async fn start_until_it_works(
    start: impl Fn() -> anyhow::Result<Process>,
    mut pause: Duration,
) -> Process {
    loop {
        tokio::time::sleep(pause).await;
        match start() {
            Ok(worker) => return worker,
            Err(error) => {
                tracing::error!(%error, "no worker can be started; trying again");
                pause = pause_after(pause);
            }
        }
    }
}

/// Returns when we are told to stop; reloads are not begun meanwhile.
async fn told_to_stop(signals: &mut Signals) {
    while !matches!(signals.next().await, Told::Stop) {}
}

async fn stop(worker: &mut Process, patience: Duration) -> anyhow::Result<ExitCode> {
    worker.signal(Kill::TERM);
    if tokio::time::timeout(patience, worker.wait()).await.is_err() {
        tracing::error!(
            "the worker did not hand over within {} s: ending it",
            patience.as_secs()
        );
        worker.signal(Kill::KILL);
        let _ = tokio::time::timeout(DISMISS_MAX, worker.wait()).await;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
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
    fn a_worker_that_cannot_be_started_is_tried_again_until_it_can() {
        let tries = std::cell::Cell::new(0);
        let start = || {
            tries.set(tries.get() + 1);
            match tries.get() {
                // As the kernel says it without processes left (EAGAIN).
                1..=3 => Err(std::io::Error::from_raw_os_error(11).into()),
                _ => Ok(Process::start(Command::new("sleep").arg("600"))?),
            }
        };
        runtime().block_on(async {
            let mut worker = start_until_it_works(start, Duration::ZERO).await;
            assert_eq!(tries.get(), 4);
            worker.signal(Kill::KILL);
            assert!(!worker.wait().await.expect("ended").success());
        });
    }

    #[test]
    fn a_worker_gets_its_patience_and_no_more() {
        runtime().block_on(async {
            // What it executes ignores the signal as well, and leaves nobody behind.
            let script = "trap '' TERM; echo up; exec sleep 600";
            let mut command = Command::new("sh");
            command
                .args(["-c", script])
                .stdout(std::process::Stdio::piped());
            #[expect(clippy::zombie_processes, reason = "adopted and waited for below")]
            let mut child = command.spawn().expect("started");
            let mut up = [0; 3];
            let mut out = child.stdout.take().expect("piped");
            std::io::Read::read_exact(&mut out, &mut up).expect("it is up");
            let mut worker = Process::adopt(Pid::from_child(&child)).expect("adopted");
            let code = stop(&mut worker, Duration::from_millis(50)).await;
            assert_eq!(code.expect("stopped"), ExitCode::FAILURE);
            assert!(worker.has_ended());
            let mut worker = Process::start(Command::new("sleep").arg("600")).expect("started");
            let code = stop(&mut worker, Duration::from_secs(600)).await;
            assert_eq!(code.expect("stopped"), ExitCode::SUCCESS);
        });
    }

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
