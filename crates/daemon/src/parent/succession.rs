//! The parent executes a new program in its own place: same process, same children, same
//! memory, sockets and locks (`execve(2)`). Its worker is of the new program already.
//!
//! What a process keeps over that: its number and its children (so the kernel does not end
//! the workers), its mask of signals (held back from before until the new program listens)
//! and every descriptor that is not closed on execution.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use evenkeel_console::api::v1::Reload;
use evenkeel_host::sys::signals;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::{LifeOfDaemon, Signals, Supervisor, runtime};
use crate::inherited::{Succession, Text};
use crate::options::Options;
use crate::prepare::Prepared;
use crate::process::Process;
use crate::state::StateDir;

/// Carries to the new program what it needs to know.
pub const PARENT: &str = "EVENKEEL_PARENT";

/// What the program before this one says.
#[derive(Serialize, Deserialize)]
struct Handover {
    /// Descriptors and life, as workers are told them, and the reading end of the pipe.
    told: String,
    /// The worker.
    worker: i32,
    /// The waiting one.
    reserve: Option<i32>,
    /// The outcome to show.
    done: Reload,
}

impl Supervisor<'_> {
    /// Executes the program in this one's place; returns only if that fails, with why.
    pub(super) fn succeed(&mut self, done: &Reload) -> std::io::Error {
        if let Err(error) = signals::hold() {
            return error;
        }
        let error = self.execute(done).unwrap_or_else(|error| error);
        if let Err(error) = signals::let_through() {
            tracing::error!(%error, "signals may not be heard any more");
        }
        error
    }

    fn execute(&self, done: &Reload) -> std::io::Result<std::io::Error> {
        let number = |process: &Process| process.pid().as_raw_nonzero().get();
        let life = &self.life;
        let told = self
            .kept
            .told_successor(life.incarnation, &life.memory, &self.text)?;
        let handover = Handover {
            told,
            worker: number(&self.worker),
            reserve: self.reserve.as_ref().map(number),
            done: done.clone(),
        };
        let handover = serde_json::to_string(&handover).map_err(std::io::Error::other)?;
        let mut arguments = std::env::args_os();
        let mut command = Command::new(&self.program);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        Ok(command.args(arguments).env(PARENT, handover).exec())
    }
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
    let running = Prepared::again(options, &succession.text)?;
    let state = StateDir::go_on(&options.state, &running.whose(), succession.lock)?;
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
    let text = Text::new(running.config.text())?;
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
    supervisor.show(handover.done);
    Ok(supervisor)
}
