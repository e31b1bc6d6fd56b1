//! Commands as services: a program that stays in the foreground, or scripts that end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_config::{Command, ServiceSpec};
use evenkeel_host::process::{Identity, Watched};
use evenkeel_host::run::{
    Child, End, Finished, Leftovers, Limits, Output, Program, RunError, run, run_told,
};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::{Instant, sleep, timeout};

use super::service::Driver;
use crate::doctor::file_of;
use crate::machine::{Seen, StopOutcome};
use crate::v1;

/// How long a killed process group is waited for.
pub(super) const AFTER_KILL: Duration = Duration::from_secs(2);

/// How long one question for the status may take.
const STATUS_MAX: Duration = Duration::from_secs(5);

/// How soon a starting service is asked whether it is up, and how seldom at the most.
const ASK_MIN: Duration = Duration::from_millis(10);
const ASK_MAX: Duration = Duration::from_millis(250);

/// How often scripts are asked for the status. Nothing else tells that what they started
/// has ended; checks are there for more haste.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// What is kept of what a command says: enough to tell what is wrong.
const OUTPUT_MAX: usize = 4_096;

/// The program that a command of the file is, with more arguments behind its own. It does not
/// run if others could change its file, whoever looked at that before.
pub(super) fn program(command: &Command, more: &[&str]) -> Program {
    let program = match command {
        Command::Shell(line) => Program::shell(line),
        Command::Program { path, arguments } => {
            let own = arguments.iter().map(String::as_str);
            Program::new(path, own.chain(more.iter().copied()))
        }
    };
    match file_of(command) {
        Some(file) => program.only_if_trusted(file),
        None => program,
    }
}

/// The note of a program that has to end. A worker that is killed leaves it running without
/// its deadline; the next finds it by this ([`super::left`]).
pub(super) struct Noted(PathBuf);

impl Noted {
    /// Notes that a program runs.
    pub(super) fn new(note: &Path, pid: u32) -> Self {
        // One that has ended already needs no note.
        if let Ok(identity) = Identity::of(pid)
            && let Err(error) = v1::note(note, identity)
        {
            tracing::warn!(%error, note = %note.display(), "should the daemon be replaced now, \
                a program that it runs will have no end");
        }
        Self(note.to_owned())
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        v1::forget(&self.0);
    }
}

/// Runs a program that is noted at `note` until it ends.
pub(super) async fn run_noted(
    program: &Program,
    limits: &Limits,
    note: &Path,
) -> Result<Finished, RunError> {
    let mut noted = None;
    run_told(program, limits, |pid| noted = Some(Noted::new(note, pid))).await
}

fn limits(within: Duration) -> Limits {
    Limits {
        time: within,
        output: OUTPUT_MAX,
        leftovers: Leftovers::Leave,
    }
}

/// Asks for the status; what it says comes back if it is not good.
async fn ask(program: &Program) -> Result<(), String> {
    done(program, question(program, STATUS_MAX).await?)
}

fn done(program: &Program, answer: (End, String)) -> Result<(), String> {
    match answer {
        (End::Exit(0), _) => Ok(()),
        (end, line) if line.is_empty() => Err(format!("{} {end}", program.path().display())),
        (end, line) => Err(format!("{} {end}: {line}", program.path().display())),
    }
}

async fn question(program: &Program, within: Duration) -> Result<(End, String), String> {
    let finished = run(program, &limits(within)).await;
    let finished = finished.map_err(|error| format!("failed to {error}"))?;
    Ok((finished.end, finished.line()))
}

/// Asks until the answer is that it is up. At the deadline what it said last comes back.
async fn until_up(status: &Program, deadline: Instant, within: Duration) -> Result<(), String> {
    let mut last = None;
    let asking = async {
        let mut pause = ASK_MIN;
        while let Err(why) = ask(status).await {
            last = Some(why);
            sleep(pause).await;
            pause = (pause * 2).min(ASK_MAX);
        }
    };
    let up = tokio::time::timeout_at(deadline, asking).await;
    up.map_err(|_| match last {
        Some(last) => format!("it was not up within {within:?}: {last}"),
        None => format!("it was not up within {within:?}: its status gave no answer"),
    })
}

/// A process that runs for a service.
pub(super) enum Life {
    /// Started by us.
    Ours(Child),
    /// Started by an earlier life of the daemon.
    Found(Watched),
}

impl Life {
    pub(super) async fn ended(&self) {
        match self {
            Self::Ours(child) => child.ended().await,
            Self::Found(watched) => watched.wait_death().await,
        }
    }

    /// To the process and its group.
    pub(super) fn signal(&self, signal: Signal) {
        match self {
            Self::Ours(child) => child.signal(signal),
            // The number names the group for as long as one of its processes lives, the first
            // of them or not; if somebody else has it by now, none does.
            Self::Found(watched) => {
                let now = Identity::of(watched.pid());
                let taken = now.is_ok_and(|now| now != watched.identity());
                let pid = i32::try_from(watched.pid()).ok().and_then(Pid::from_raw);
                if let (false, Some(pid)) = (taken, pid) {
                    let _ = kill_process_group(pid, signal);
                }
            }
        }
    }

    /// How it ended, for people.
    async fn how(&mut self) -> End {
        match self {
            Self::Ours(child) => child.wait().await,
            Self::Found(_) => End::Unknown,
        }
    }
}

/// A program that stays in the foreground.
pub(super) struct Foreground {
    start: Program,
    status: Option<Program>,
    start_timeout: Duration,
    stop_timeout: Duration,
    note: PathBuf,
    life: Option<Life>,
    /// Why there is none.
    detail: String,
    anew: bool,
}

impl Foreground {
    pub(super) fn new(
        start: &Command,
        status: Option<&Command>,
        spec: &ServiceSpec,
        note: &Path,
    ) -> Self {
        let found = v1::noted(note).and_then(|identity| Watched::open_same(identity).ok());
        Self {
            start: program(start, &[]),
            status: status.map(|status| program(status, &[])),
            start_timeout: spec.start_timeout,
            stop_timeout: spec.stop_timeout,
            note: note.to_owned(),
            life: found.map(Life::Found),
            detail: "it was not started".to_owned(),
            anew: true,
        }
    }

    /// Only to be stopped.
    pub(super) fn to_stop(note: &Path, stop_timeout: Duration) -> Self {
        let found = v1::noted(note).and_then(|identity| Watched::open_same(identity).ok());
        Self {
            start: Program::shell("exit 1"),
            status: None,
            start_timeout: Duration::ZERO,
            stop_timeout,
            note: note.to_owned(),
            life: found.map(Life::Found),
            detail: "it does not run".to_owned(),
            anew: true,
        }
    }

    async fn start_it(&mut self, deadline: Instant) -> Result<(), String> {
        if self.life.is_none() {
            // Its output goes where ours does: it outlives us, and a pipe to us would not.
            let start = Child::start(&self.start, Output::Log, None, self.start_timeout);
            let mut child = start.await.map_err(|error| format!("failed to {error}"))?;
            child.stay();
            let identity = Identity::of(child.pid());
            if let Ok(identity) = identity
                && let Err(error) = v1::note(&self.note, identity)
            {
                tracing::warn!(%error, note = %self.note.display(), "a restarted daemon will \
                    not find what it started");
            }
            self.life = Some(Life::Ours(child));
        }
        let (Some(life), Some(status)) = (&self.life, &self.status) else {
            return Ok(());
        };
        tokio::select! {
            () = life.ended() => Err(self.bury().await),
            up = until_up(status, deadline, self.start_timeout) => up,
        }
    }

    /// After its end: what it left behind is killed, so that a new one finds the place
    /// free, and how it ended is told.
    async fn bury(&mut self) -> String {
        let Some(mut life) = self.life.take() else {
            return self.detail.clone();
        };
        life.signal(Signal::KILL);
        self.detail = format!("it {}", life.how().await);
        v1::forget(&self.note);
        self.detail.clone()
    }
}

impl Driver for Foreground {
    async fn start(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.start_timeout;
        self.start_it(deadline).await
    }

    async fn stop(&mut self) -> StopOutcome {
        let Some(life) = &self.life else {
            return StopOutcome::Clean;
        };
        life.signal(Signal::TERM);
        if timeout(self.stop_timeout, life.ended()).await.is_ok() {
            self.bury().await;
            return StopOutcome::Clean;
        }
        life.signal(Signal::KILL);
        let why = format!("it did not end within {:?} of SIGTERM", self.stop_timeout);
        if timeout(AFTER_KILL, life.ended()).await.is_ok() {
            self.bury().await;
            let how = format!("{why}; SIGKILL to its process group ended it");
            return StopOutcome::Forced { how };
        }
        StopOutcome::Failed {
            reason: format!("{why}, nor by SIGKILL yet"),
        }
    }

    async fn look(&mut self) -> (Seen, String) {
        let Some(life) = &self.life else {
            if !self.anew {
                return std::future::pending().await;
            }
            self.anew = false;
            return (Seen::Down, self.detail.clone());
        };
        if self.anew {
            self.anew = false;
            return (Seen::Up, "it runs".to_owned());
        }
        life.ended().await;
        (Seen::Down, self.bury().await)
    }

    fn look_anew(&mut self) {
        self.anew = true;
    }
}

/// Commands that end, as those of an init script.
pub(super) struct Scripts {
    start: Program,
    stop: Program,
    status: Option<Program>,
    start_timeout: Duration,
    stop_timeout: Duration,
    /// Where `start` and `stop` are noted while they run.
    note: PathBuf,
    /// When to ask next.
    due: Instant,
}

impl Scripts {
    pub(super) fn new(
        start: &Command,
        stop: &Command,
        status: Option<&Command>,
        spec: &ServiceSpec,
        note: &Path,
    ) -> Self {
        Self {
            start: program(start, &[]),
            stop: program(stop, &[]),
            status: status.map(|status| program(status, &[])),
            start_timeout: spec.start_timeout,
            stop_timeout: spec.stop_timeout,
            note: v1::running(note),
            due: Instant::now(),
        }
    }

    /// Only to be stopped.
    pub(super) fn to_stop(stop: &Command, note: &Path, stop_timeout: Duration) -> Self {
        Self {
            start: Program::shell("exit 1"),
            stop: program(stop, &[]),
            status: None,
            start_timeout: Duration::ZERO,
            stop_timeout,
            note: v1::running(note),
            due: Instant::now(),
        }
    }

    /// Its output goes where ours does: what it leaves running inherits that, and outlives
    /// us.
    async fn run_start(&self, deadline: Instant) -> Result<(), String> {
        let within = self.start_timeout;
        let start = Child::start(&self.start, Output::Log, None, within);
        let mut child = start.await.map_err(|error| format!("failed to {error}"))?;
        let noted = Noted::new(&self.note, child.pid());
        // Dropped at the deadline, it is killed with its group.
        let end = tokio::time::timeout_at(deadline, child.wait()).await;
        drop(noted);
        let end = end.map_err(|_| format!("it was not up within {within:?}"))?;
        if !end.is_success() {
            let path = self.start.path().display();
            return Err(format!("{path} {end}; what it wrote is in our log"));
        }
        match &self.status {
            Some(status) => until_up(status, deadline, within).await,
            None => Ok(()),
        }
    }

    /// Whether its status says that it runs.
    async fn is_up(&self, deadline: Instant) -> bool {
        match &self.status {
            Some(status) => matches!(
                tokio::time::timeout_at(deadline, ask(status)).await,
                Ok(Ok(()))
            ),
            None => false,
        }
    }

    async fn run_stop(&self) -> Result<(), String> {
        let finished = run_noted(&self.stop, &limits(self.stop_timeout), &self.note).await;
        let finished = finished.map_err(|error| format!("failed to {error}"))?;
        done(&self.stop, (finished.end, finished.line()))
    }

    /// Whether its status says that it does not run.
    async fn is_down(&self) -> bool {
        match &self.status {
            Some(status) => matches!(
                question(status, STATUS_MAX).await,
                Ok((End::Exit(1..=3), _))
            ),
            None => false,
        }
    }
}

impl Driver for Scripts {
    async fn start(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.start_timeout;
        // What runs already is not started: many a script calls that a failure. A worker that
        // goes on for another one may not have seen yet what runs.
        if self.is_up(deadline).await {
            return Ok(());
        }
        self.run_start(deadline).await
    }

    async fn stop(&mut self) -> StopOutcome {
        if self.is_down().await {
            return StopOutcome::Clean;
        }
        match self.run_stop().await {
            Ok(()) => StopOutcome::Clean,
            Err(_) if self.is_down().await => StopOutcome::Clean,
            Err(reason) => StopOutcome::Failed { reason },
        }
    }

    async fn look(&mut self) -> (Seen, String) {
        let Some(status) = &self.status else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(self.due).await;
        let answer = question(status, STATUS_MAX).await;
        self.due = Instant::now() + STATUS_EVERY;
        match answer {
            Ok((End::Exit(0), _)) => (Seen::Up, "its status says so".to_owned()),
            // LSB: dead with or without a note of it, or not running.
            Ok((End::Exit(code @ 1..=3), line)) => {
                (Seen::Down, format!("its status ended with {code}: {line}"))
            }
            Ok((end, line)) => (Seen::Unknown, format!("its status {end}: {line}")),
            Err(reason) => (Seen::Unknown, reason),
        }
    }

    fn look_anew(&mut self) {
        self.due = Instant::now();
    }
}
