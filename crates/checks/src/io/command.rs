//! `exec` and `nagios`: a program that is run to ask, within bounds.
//!
//! It may hang, fork, and write for ever: it gets its time and an amount of output, and is
//! killed with all that it started (`evenkeel_host::run`). A program that others could change
//! is never run. What is wrong with the program says nothing about the service: the check is
//! unknown then, and moves nothing.
//!
//! Only so many run at once, each in its turn; one that does not come to its turn in time is
//! unknown as well.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_host::run::{self, End, Finished, Leftovers, Limits, Program};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::io::{Answer, nagios};
use crate::machine::Outcome;
use crate::probe::{Command, Manner, Millis, Phases, bounded};

/// Programs that run at once. Each takes a process, two pipes and some megabytes; with more,
/// they would only wait for the processor instead.
const RUNNING_MAX: usize = 64;
/// What is kept of an answer: the first line counts, and what measures there are.
const OUTPUT_MAX: usize = 16 * 1024;

/// Who may run now.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(RUNNING_MAX)))
    }
}

/// Asks once. The program gets the whole of `within` once it has its turn.
pub(crate) async fn ask(command: &Command, turns: &Turns, within: Duration) -> Answer {
    let Ok(Ok(turn)) = timeout(within, turns.0.clone().acquire_owned()).await else {
        return unasked(format!(
            "its turn did not come within {} ms: {RUNNING_MAX} other programs run",
            Millis(within)
        ));
    };
    let Some((program, arguments)) = command.words.split_first() else {
        return unasked("there is no program");
    };
    let _turn = match trusted(program.clone(), turn, within).await {
        Ok(turn) => turn,
        Err(why) => return unasked(why),
    };
    let limits = Limits {
        time: within,
        output: OUTPUT_MAX,
        leftovers: Leftovers::Kill,
    };
    match run::run(&Program::new(program, arguments), &limits).await {
        Err(refused) => unasked(refused),
        Ok(finished) => Answer {
            phases: Phases {
                first_byte: Some(finished.took),
                ..Phases::default()
            },
            ..judge(command.manner, &finished, within)
        },
    }
}

fn unasked(why: impl std::fmt::Display) -> Answer {
    let detail = format!("could not ask: {why}");
    Answer::new(Outcome::Unasked, bounded(&detail))
}

/// Looks at the program, on a thread for waits: its file system may hang. The turn goes with
/// it, so that what hangs cannot pile up.
async fn trusted(
    program: String,
    turn: OwnedSemaphorePermit,
    within: Duration,
) -> Result<OwnedSemaphorePermit, String> {
    let shown = program.clone();
    let look = tokio::task::spawn_blocking(move || (run::trusted(program), turn));
    match timeout(within, look).await {
        Ok(Ok((Ok(()), turn))) => Ok(turn),
        Ok(Ok((Err(why), _))) => Err(format!("{shown}: {why}")),
        Ok(Err(_)) => Err("this program is ending".to_owned()),
        Err(_) => Err(format!("the file system of {shown} does not answer")),
    }
}

fn judge(manner: Manner, finished: &Finished, within: Duration) -> Answer {
    match finished.end {
        End::Killed => {
            let within = Millis(within);
            let detail = format!("no end within {within} ms; it was killed");
            Answer::new(Outcome::Silent, said(detail, &line(manner, finished)))
        }
        // It broke: that says nothing about the service.
        End::Signal(_) | End::Unknown => unasked(format!("the program {}", finished.end)),
        End::Exit(status) => match manner {
            Manner::Exec => exec(status, finished),
            Manner::Nagios => nagios::judge(status, &finished.output),
        },
    }
}

fn exec(status: i32, finished: &Finished) -> Answer {
    let line = finished.line();
    match status {
        0 => {
            let detail = format!("ended well in {} ms", Millis(finished.took));
            Answer::new(Outcome::Good, said(detail, &line))
        }
        status => {
            let detail = format!("ended with status {status}");
            Answer::new(Outcome::Bad, said(detail, &line))
        }
    }
}

fn line(manner: Manner, finished: &Finished) -> String {
    match manner {
        Manner::Exec => finished.line(),
        Manner::Nagios => nagios::text(&finished.output),
    }
}

fn said(detail: String, line: &str) -> String {
    match line {
        "" => detail,
        line => bounded(&format!("{detail}: {line}")),
    }
}
