//! A step of the calendar clock. There is one such clock per machine, and no name
//! space for it, so the step reaches all hosts and the machine itself: only root can
//! do it, it is done on request only, and it is undone whatever happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// Where a step is noted before it is made, in the lab's directory: seconds.
const NOTE: &str = "clock-step";

/// A step that is undone when this is dropped.
#[derive(Debug)]
pub(crate) struct Step {
    note: PathBuf,
}

impl Step {
    /// Sets the calendar clock `by` ahead.
    pub(crate) fn ahead(directory: &Path, by: Duration) -> Result<Self> {
        let note = directory.join(NOTE);
        if note.exists() {
            bail!("the clock is stepped already");
        }
        let seconds = i64::try_from(by.as_secs()).context("a step of centuries")?;
        fs::write(&note, seconds.to_string()).context("noting the step of the clock")?;
        let step = Self { note };
        shift(seconds).context("stepping the clock")?;
        Ok(step)
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        undo(&self.note);
    }
}

fn shift(seconds: i64) -> rustix::io::Result<()> {
    let now = clock_gettime(ClockId::Realtime);
    clock_settime(
        ClockId::Realtime,
        Timespec {
            tv_sec: now.tv_sec + seconds,
            tv_nsec: now.tv_nsec,
        },
    )
}

fn undo(note: &Path) {
    let Some(seconds) = fs::read_to_string(note)
        .ok()
        .and_then(|text| text.parse::<i64>().ok())
    else {
        return;
    };
    // The note goes first: a step undone twice would be a step.
    if fs::remove_file(note).is_ok() && shift(-seconds).is_err() {
        eprintln!("evenkeel lab: the clock of this machine is {seconds} s ahead");
    }
}

/// Undoes a step that a lab has left behind: the janitor's duty.
pub(crate) fn undo_left_step(directory: &Path) {
    undo(&directory.join(NOTE));
}
