//! The parent executes a new program in its own place: same process, same children, same
//! memory, sockets and locks (`execve(2)`). Its worker is of the new program already.
//!
//! What a process keeps over that: its number and its children (so the kernel does not end
//! the workers), its mask of signals (held back from before until the new program listens)
//! and every descriptor that is not closed on execution.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use evenkeel_console::api::v1::Reload;
use evenkeel_host::sys::signals;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::{LifeOfDaemon, Signals, Supervisor, Told, runtime};
use crate::inherited::{Succession, Text, bequeath, path_of};
use crate::options::Options;
use crate::prepare::Prepared;
use crate::process::Process;
use crate::state::{Known, StateDir};

/// Carries to the new program what it needs to know.
pub const PARENT: &str = "EVENKEEL_PARENT";

/// How long what was told already may take to be heard: the runtime looks once.
const HEARD: Duration = Duration::from_millis(1);

/// What the program before this one says.
#[derive(Serialize, Deserialize)]
struct Handover {
    /// Descriptors and life, as workers are told them, and the reading end of the pipe.
    told: String,
    /// The worker.
    worker: i32,
    /// The waiting one.
    reserve: Option<i32>,
    /// Those that were killed and have not ended yet.
    departing: Vec<i32>,
    /// The outcome to show.
    done: Reload,
    /// What is known of the state directory.
    state: Known,
    /// Where the program was when it was started: the next one is looked for there.
    program: PathBuf,
}

impl Supervisor<'_> {
    /// Executes the program in this one's place; returns only if that fails, with why.
    pub(super) async fn succeed(&mut self, program: &File, done: &Reload) -> std::io::Error {
        if let Err(error) = signals::hold() {
            return error;
        }
        if let Err(error) = say_again(&mut self.signals).await {
            tracing::error!(%error, "what was told a moment ago is lost");
        }
        let error = self.execute(program, done).unwrap_or_else(|error| error);
        if let Err(error) = signals::let_through() {
            tracing::error!(%error, "signals may not be heard any more");
        }
        error
    }

    fn execute(&self, program: &File, done: &Reload) -> std::io::Result<std::io::Error> {
        let number = |process: &Process| process.pid().as_raw_nonzero().get();
        let life = &self.life;
        let told = self
            .kept
            .told_successor(life.incarnation, &life.memory, &self.text)?;
        let handover = Handover {
            told,
            worker: number(&self.worker),
            reserve: self.reserve.as_ref().map(number),
            departing: self.departing.iter().map(number).collect(),
            done: done.clone(),
            state: self.state.known(),
            program: self.program.clone(),
        };
        let handover = serde_json::to_string(&handover).map_err(std::io::Error::other)?;
        let mut arguments = std::env::args_os();
        // Left open: should it be a script, whoever reads that must find it.
        bequeath(program)?;
        let mut command = Command::new(path_of(program.as_raw_fd()));
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        Ok(command.args(arguments).env(PARENT, handover).exec())
    }
}

/// What we were told before signals were held back, and have not heard yet, is in this
/// program's memory alone: it is said again, and waits for whoever listens next.
async fn say_again(signals: &mut Signals) -> std::io::Result<()> {
    while let Ok(told) = tokio::time::timeout(HEARD, signals.next()).await {
        signals::say_again(match told {
            Told::Stop => Signal::TERM,
            Told::Reload => Signal::HUP,
        })?;
    }
    Ok(())
}

/// Goes on where another program was.
pub fn go_on(options: &Options, told: &str) -> ExitCode {
    crate::logging::start();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error.into()),
    };
    runtime
        .block_on(async { take_up(options, told)?.run().await })
        .unwrap_or_else(|error| refuse(&error))
}

fn refuse(error: &anyhow::Error) -> ExitCode {
    eprintln!("evenkeel: refused: {error:#}");
    ExitCode::FAILURE
}

fn take_up<'a>(options: &'a Options, told: &str) -> anyhow::Result<Supervisor<'a>> {
    let handover: Handover = serde_json::from_str(told)?;
    let succession = Succession::take(&handover.told)?;
    // Nothing is read from a disk: it may hang, and others than we may have changed what is
    // there.
    let running = Prepared::again(options, succession.handed)?;
    let state = StateDir::go_on(&options.state, succession.lock, handover.state);
    let life = LifeOfDaemon {
        incarnation: succession.incarnation,
        memory: succession.memory,
    };
    let process = |number| {
        let pid = Pid::from_raw(number).ok_or_else(|| anyhow::anyhow!("no process {number}"))?;
        anyhow::Ok(Process::adopt(pid)?)
    };
    let worker = process(handover.worker)?;
    let reserve = handover.reserve.map(process).transpose()?;
    let signals = Signals::listen()?;
    signals::let_through()?;
    let text = Text::of(&running)?;
    let parts = (running, text);
    let mut supervisor = Supervisor::with(
        options,
        parts,
        succession.kept,
        state,
        life,
        (signals, worker),
    )?;
    // One of the former program: its end brings one of this.
    if let Some(reserve) = reserve {
        reserve.signal(rustix::process::Signal::KILL);
        supervisor.reserve = Some(reserve);
    }
    supervisor.program = handover.program;
    // One that has been waited for meanwhile is nobody's.
    let departing = handover.departing.into_iter().map(process);
    supervisor.departing = departing.filter_map(Result::ok).collect();
    supervisor.show(handover.done);
    Ok(supervisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_in_the_moment_of_the_execution_waits_for_the_next_program() {
        runtime().expect("a runtime").block_on(async {
            let mut signals = Signals::listen().expect("listening");
            // Told, and not heard yet: it would be gone with this program's memory.
            signals::say_again(Signal::TERM).expect("told");
            signals::hold().expect("held");
            // And this one while nothing is let through.
            signals::say_again(Signal::HUP).expect("told");
            say_again(&mut signals).await.expect("said again");
            // The next program listens, and then lets through what waits.
            let mut next = Signals::listen().expect("listening");
            let early = tokio::time::timeout(HEARD, next.next()).await;
            assert!(early.is_err(), "it is held back");
            signals::let_through().expect("let through");
            let told = [next.next().await, next.next().await];
            assert!(matches!(told, [Told::Stop, Told::Reload]));
        });
    }
}
