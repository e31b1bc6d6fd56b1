//! What an earlier life started for a group that it held, and that the file does not name any
//! more: stopped, because nobody else will. Each `active` service is noted when it is first
//! started, with all that is needed to stop it; the note goes when it has been stopped.
//!
//! And that a group was to open, noted until its `after_close` is over.

use std::fs;
use std::path::{Path, PathBuf};

use evenkeel_config::{Runs, SERVICES_MAX, ServiceSpec, When};
use evenkeel_core::{Epoch, GroupName, ServiceName};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::command::{Foreground, Scripts};
use super::service::Driver;
use super::unit::Unit;
use super::{Settings, Shared};
use crate::machine::{RETRY_MAX, RETRY_MIN, Report, StopOutcome};
use crate::v1::{self, Held};

/// Why it is stopped.
const UNNAMED: &str = "the configuration does not name it any more";

/// What the names of such notes end in.
const ENDING: &str = "held";

/// What the name of the note of an opening ends in.
const OPENED: &str = "opened";

fn path(notes: &Path, group: &GroupName, service: &ServiceName) -> PathBuf {
    notes.join(format!("{group}.{service}.{ENDING}"))
}

/// Notes that a service is started because its group is held here.
pub(super) fn note(notes: &Path, group: &GroupName, spec: &ServiceSpec) {
    if spec.when == When::Always {
        return;
    }
    if let Err(error) = v1::note_held(&path(notes, group, &spec.name), &held(spec)) {
        tracing::warn!(%error, %group, service = %spec.name, "should a changed file not name it \
            any more, it will run on");
    }
}

/// It has been stopped.
pub(super) fn forget(notes: &Path, group: &GroupName, service: &ServiceName) {
    v1::forget(&path(notes, group, service));
}

/// No name has a `+`.
fn opened_path(notes: &Path, group: &GroupName) -> PathBuf {
    notes.join(format!("{group}+{OPENED}"))
}

/// The epoch in which an earlier life was to open a group that it has not closed since.
pub(super) fn opened(notes: &Path, group: &GroupName) -> Option<Epoch> {
    v1::noted_opened(&opened_path(notes, group))
}

/// Notes that a group is to open.
pub(super) fn note_opened(notes: &Path, group: &GroupName, epoch: Epoch) {
    if let Err(error) = v1::note_opened(&opened_path(notes, group), epoch) {
        tracing::warn!(%error, %group, "should the daemon end before the group has closed, its \
            after_close will not be run");
    }
}

/// It has closed, and `after_close` is over.
pub(super) fn forget_opened(notes: &Path, group: &GroupName) {
    v1::forget(&opened_path(notes, group));
}

fn held(spec: &ServiceSpec) -> Held {
    let stop_timeout = spec.stop_timeout;
    match &spec.what {
        Runs::Unit(unit) => Held::Unit {
            unit: unit.clone(),
            stop_timeout,
        },
        Runs::Foreground { .. } => Held::Process { stop_timeout },
        Runs::Scripts { stop, .. } => Held::Scripts {
            stop: stop.clone(),
            stop_timeout,
        },
    }
}

/// Something that nobody names any more.
#[derive(Debug)]
pub(super) struct Left {
    /// `GROUP.SERVICE`.
    name: String,
    held: Held,
    note: PathBuf,
}

impl Left {
    /// Whether systemd is needed to stop it.
    pub(super) fn is_unit(&self) -> bool {
        matches!(self.held, Held::Unit { .. })
    }
}

/// What is noted and not named by `settings`.
pub(super) fn find(settings: &Settings) -> Vec<Left> {
    let services = || {
        let groups = settings.groups.iter();
        groups.flat_map(|group| group.hosted.services.iter().map(move |one| (group, one)))
    };
    let named = |name: &str, noted: &Held| {
        services().any(|(group, spec)| match (&spec.what, noted) {
            // By whatever name: it is in good hands.
            (Runs::Unit(unit), Held::Unit { unit: noted, .. }) => unit == noted,
            (Runs::Unit(_), _) | (_, Held::Unit { .. }) => false,
            (Runs::Foreground { .. } | Runs::Scripts { .. }, _) => {
                name == format!("{}.{}", group.name, spec.name)
            }
        })
    };
    // Unreadable is empty: nothing was started by an earlier life.
    let files = fs::read_dir(&settings.notes)
        .into_iter()
        .flatten()
        .flatten();
    let notes = files.take(SERVICES_MAX * 4).filter_map(|file| {
        let note = file.path();
        let name = note.file_name()?.to_str()?;
        let name = name.strip_suffix(ENDING)?.strip_suffix('.')?.to_owned();
        let Some(held) = v1::noted_held(&note) else {
            tracing::warn!(note = %note.display(), "this note makes no sense: should something \
                run that it is about, nobody will stop it");
            return None;
        };
        Some(Left { name, held, note })
    });
    notes
        .filter(|left| !named(&left.name, &left.held))
        .collect()
}

/// Stops it by the ladder, again and again until it is down.
pub(super) async fn stop(shared: Shared, left: Left, reports: mpsc::Sender<Report>) {
    let mut pause = RETRY_MIN;
    while let Err(reason) = left.try_to_stop(&shared).await {
        let service = left.name.clone();
        // Told each time, so that it is never long ago; where nobody listens the log has it.
        let _ = reports.try_send(Report::LeftRuns { service, reason });
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    let _ = reports.try_send(Report::LeftStopped { service: left.name });
}

impl Left {
    async fn try_to_stop(&self, shared: &Shared) -> Result<(), String> {
        let stop_timeout = self.held.stop_timeout();
        let outcome = match &self.held {
            Held::Unit { unit, .. } => match &shared.systemd {
                Some(systemd) => Unit::to_stop(systemd, unit, stop_timeout).stop().await,
                // Asked for in `shared` when there is one.
                None => return Ok(()),
            },
            Held::Process { .. } => {
                let process = shared.notes.join(&self.name);
                Foreground::to_stop(&process, stop_timeout).stop().await
            }
            Held::Scripts { stop, .. } => Scripts::to_stop(stop, stop_timeout).stop().await,
        };
        let service = &self.name;
        match outcome {
            StopOutcome::Clean => tracing::info!(service, "stopped: {UNNAMED}"),
            StopOutcome::Forced { how } => tracing::warn!(service, how, "stopped: {UNNAMED}"),
            StopOutcome::Failed { reason } => {
                tracing::error!(service, reason, "may still run, though {UNNAMED}");
                return Err(reason);
            }
        }
        v1::forget(&self.note);
        Ok(())
    }
}
