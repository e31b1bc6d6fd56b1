//! What an earlier life started for a group that it held, and that the file does not name any
//! more: stopped, because nobody else will. Each `active` service is noted when it is first
//! started, with all that is needed to stop it; the note goes when it has been stopped.
//!
//! What is left of a group that is there has gone, or has been tried to stop once, before the
//! group's first word is heard: it may be the same thing by another name.
//!
//! Programs that had a deadline, hooks and the commands that start and stop, are noted while they
//! run. Nobody ends those of a worker that was killed, so they are, before they run again.
//!
//! And that a group was to open, noted until its `after_close` is over.

use std::fs;
use std::path::{Path, PathBuf};

use evenkeel_config::{GROUPS_MAX, Runs, SERVICES_MAX, ServiceSpec, When};
use evenkeel_core::{Epoch, GroupId, GroupName, ServiceName};
use evenkeel_host::process::{Identity, Watched};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::command::{AFTER_KILL, Foreground, Life, Scripts};
use super::service::Driver;
use super::unit::Unit;
use super::{Settings, Shared};
use crate::machine::{RETRY_MAX, RETRY_MIN, Report, StopOutcome};
use crate::v1::{self, Held};

/// Why it is stopped.
const UNNAMED: &str = "the configuration does not name it any more";

/// What the names of such notes end in.
const ENDING: &str = "held";

/// How many notes are looked at: of each service its process or that it was started, what is held
/// and a command that runs, of each group its opening and five hooks, by the file that was and by the one that is.
const NOTES_MAX: usize = 2 * (3 * SERVICES_MAX + 6 * GROUPS_MAX);

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
    v1::forget_started(&own_path(notes, group, service));
}

/// Where the notes of a service of the file are.
pub(super) fn own_path(notes: &Path, group: &GroupName, service: &ServiceName) -> PathBuf {
    notes.join(format!("{group}.{service}"))
}

/// Whether nothing tells that it runs.
const fn is_blind(spec: &ServiceSpec) -> bool {
    matches!(spec.what, Runs::Scripts { status: None, .. })
}

/// Notes that a service has been started, if a later life could not see that it runs.
pub(super) fn note_started(notes: &Path, group: &GroupName, spec: &ServiceSpec) {
    if !is_blind(spec) {
        return;
    }
    if let Err(error) = v1::note_started(&own_path(notes, group, &spec.name)) {
        tracing::warn!(%error, %group, service = %spec.name, "a restarted worker will start it \
            again, since it has no status");
    }
}

/// Whether an earlier life has started a service, and not stopped it since, of which nothing
/// tells whether it runs.
pub(super) fn is_started(notes: &Path, group: &GroupName, spec: &ServiceSpec) -> bool {
    is_blind(spec) && v1::is_noted_started(&own_path(notes, group, &spec.name))
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

/// Something of an earlier life that nobody else would end.
#[derive(Debug)]
pub(super) struct Left {
    /// `GROUP.SERVICE`, `GROUP+HOOK`, or the group alone.
    name: String,
    what: What,
    note: PathBuf,
}

#[derive(Debug)]
enum What {
    /// What the file does not name any more.
    Held(Held),
    /// A program that has to end.
    Running(Identity),
    /// The note of an opening of a group that the file does not name any more.
    Opened,
}

impl Left {
    /// Whether systemd is needed to stop it.
    pub(super) fn is_unit(&self) -> bool {
        matches!(self.what, What::Held(Held::Unit { .. }))
    }

    /// Whether it is the program of that name, which its end has cut off.
    pub(super) fn is_program(&self, name: &str) -> bool {
        self.name == name && matches!(self.what, What::Running(_))
    }

    /// Whether it is of a group; of those of the longest name, should several fit.
    fn fits(&self, group: &GroupName) -> bool {
        let rest = self.name.strip_prefix(group.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '+']))
    }

    /// The group of `settings` that it is of, if that is there.
    pub(super) fn group(&self, settings: &Settings) -> Option<GroupId> {
        let groups = settings.groups.iter().filter(|one| self.fits(&one.name));
        let group = groups.max_by_key(|one| one.name.as_str().len());
        group.map(|group| group.group)
    }
}

/// What is noted and not named by `settings`.
pub(super) fn find(settings: &Settings) -> Vec<Left> {
    // Unreadable is empty: nothing was started by an earlier life.
    let files = fs::read_dir(&settings.notes)
        .into_iter()
        .flatten()
        .flatten();
    let files = files.take(NOTES_MAX);
    files
        .filter_map(|file| left_by(settings, file.path()))
        .collect()
}

/// What is left by a note.
fn left_by(settings: &Settings, note: PathBuf) -> Option<Left> {
    let file = note.file_name()?.to_str()?;
    if let Some(name) = file
        .strip_suffix(OPENED)
        .and_then(|it| it.strip_suffix('+'))
    {
        let name = name.to_owned();
        let named = settings.groups.iter().any(|one| one.name.as_str() == name);
        let what = What::Opened;
        return (!named).then_some(Left { name, what, note });
    }
    if let Some(name) = file.strip_suffix(v1::RUNNING) {
        let name = name.to_owned();
        let what = What::Running(v1::noted(&note)?);
        return Some(Left { name, what, note });
    }
    let name = file.strip_suffix(ENDING)?.strip_suffix('.')?.to_owned();
    let Some(held) = v1::noted_held(&note) else {
        tracing::warn!(note = %note.display(), "this note makes no sense: should something run \
            that it is about, nobody will stop it");
        return None;
    };
    let named = is_named(settings, &name, &held);
    let what = What::Held(held);
    (!named).then_some(Left { name, what, note })
}

/// Whether the file names what is held, so that it is in good hands.
fn is_named(settings: &Settings, name: &str, held: &Held) -> bool {
    let groups = settings.groups.iter();
    let mut services =
        groups.flat_map(|group| group.hosted.services.iter().map(move |one| (group, one)));
    services.any(|(group, spec)| match (&spec.what, held) {
        // By whatever name.
        (Runs::Unit(unit), Held::Unit { unit: held, .. }) => unit == held,
        (Runs::Foreground { .. }, Held::Process { .. })
        | (Runs::Scripts { .. }, Held::Scripts { .. }) => {
            name == format!("{}.{}", group.name, spec.name)
        }
        // What it has become does not know how to stop what it was.
        _ => false,
    })
}

/// Stops all of it, side by side, by the ladder. What that does not stop is tried again
/// behind it.
pub(super) async fn stop(shared: Shared, left: Vec<Left>, reports: mpsc::Sender<Report>) {
    let is_running = |one: &Left| matches!(one.what, What::Running(_));
    // Programs first: one may be starting what is stopped then.
    let (programs, others) = left.into_iter().partition::<Vec<_>, _>(is_running);
    for some in [programs, others] {
        let mut tries = JoinSet::new();
        for one in some {
            tries.spawn(stop_one(shared.clone(), one, reports.clone()));
        }
        while tries.join_next().await.is_some() {}
    }
}

async fn stop_one(shared: Shared, left: Left, reports: mpsc::Sender<Report>) {
    if let Err(reason) = left.try_to_stop(&shared).await {
        left.tell(reason, &reports);
        tokio::spawn(stop_at_last(shared, left, reports));
    }
}

async fn stop_at_last(shared: Shared, left: Left, reports: mpsc::Sender<Report>) {
    let mut pause = RETRY_MIN;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
        let Err(reason) = left.try_to_stop(&shared).await else {
            break;
        };
        left.tell(reason, &reports);
    }
    let _ = reports.try_send(Report::LeftStopped { service: left.name });
}

impl Left {
    /// Each time, so that it is never long ago; where nobody listens the log has it.
    fn tell(&self, reason: String, reports: &mpsc::Sender<Report>) {
        let service = self.name.clone();
        let _ = reports.try_send(Report::LeftRuns { service, reason });
    }

    async fn try_to_stop(&self, shared: &Shared) -> Result<(), String> {
        match &self.what {
            What::Held(held) => self.stop_service(shared, held).await,
            What::Running(identity) => self.end_program(*identity).await,
            What::Opened => {
                v1::forget(&self.note);
                Ok(())
            }
        }
    }

    /// Kills a program of an earlier life with all its processes.
    async fn end_program(&self, identity: Identity) -> Result<(), String> {
        if let Ok(watched) = Watched::open_same(identity) {
            let program = &self.name;
            tracing::warn!(program, "killed: the worker that ran it has been replaced");
            let life = Life::Found(watched);
            life.signal(Signal::KILL);
            if timeout(AFTER_KILL, life.ended()).await.is_err() {
                return Err("SIGKILL to its process group has not ended it yet".to_owned());
            }
        }
        if v1::noted(&self.note) == Some(identity) {
            v1::forget(&self.note);
        }
        Ok(())
    }

    async fn stop_service(&self, shared: &Shared, held: &Held) -> Result<(), String> {
        let service = &self.name;
        match self.stop_held(shared, held).await {
            StopOutcome::Clean => tracing::info!(service, "stopped: {UNNAMED}"),
            StopOutcome::Forced { how } => tracing::warn!(service, how, "stopped: {UNNAMED}"),
            StopOutcome::Failed { reason } => {
                tracing::error!(service, reason, "may still run, though {UNNAMED}");
                return Err(reason);
            }
        }
        // What has been started meanwhile under its name has notes of its own.
        if v1::noted_held(&self.note).as_ref() == Some(held) {
            v1::forget(&self.note);
            v1::forget_started(&shared.notes.join(&self.name));
        }
        Ok(())
    }

    async fn stop_held(&self, shared: &Shared, held: &Held) -> StopOutcome {
        let stop_timeout = held.stop_timeout();
        match held {
            Held::Unit { unit, .. } => match &shared.systemd {
                Some(systemd) => Unit::to_stop(systemd, unit, stop_timeout).stop().await,
                // Asked for in `shared` when there is one.
                None => StopOutcome::Clean,
            },
            Held::Process { .. } => {
                let process = shared.notes.join(&self.name);
                Foreground::to_stop(&process, stop_timeout).stop().await
            }
            Held::Scripts { stop, .. } => {
                let note = shared.notes.join(&self.name);
                Scripts::to_stop(stop, &note, stop_timeout).stop().await
            }
        }
    }
}
