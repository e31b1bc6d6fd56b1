//! A reload or an upgrade, as the parent carries it out: all or nothing.
//!
//! | stage     | what happens                                        | if it does not work              |
//! |-----------|-----------------------------------------------------|----------------------------------|
//! | reading   | the file is read and judged, the program asked      | refused, nothing was touched     |
//! | preparing | a reserve with the new one comes up beside the worker | refused; another reserve       |
//! | ending    | the worker is killed, the reserve has its leases    | does it not end: the reserve goes on beside it |
//! | proving   | the new worker brings the rooms up                  | back to the former one, refused  |
//!
//! Who has the baton has the leases (`host::sys::baton`), so two workers with different
//! configurations never both act: the reserve's lease thread waits for the death of the
//! worker's. The worker is killed rather than asked to go: a death at any instant is what the
//! mirror, the model and the benchmark have all been shown to bear, and an orderly end would
//! be a second way to the same place with a time in it when nobody renews.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use evenkeel_console::api::v1::{Reload, ReloadState, ReloadWhat};
use evenkeel_host::sys::signals;
use ring::rand::SecureRandom;
use rustix::process::Signal as Kill;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{RESERVE_AFTER, Supervisor};
use crate::inherited::Text;
use crate::line::Ask;
use crate::mirror::{Found, Memory};
use crate::options::Options;
use crate::prepare::Prepared;
use crate::process::Process;
use crate::reload::{self, Holding, Made, Successor};
use crate::status::rfc3339;

/// How long a file may take to be read and judged: longer means that its disk hangs. Longer
/// than a program may take to say what it understands.
const READ_MAX: Duration = Duration::from_secs(6);
/// How long a reserve may take until it waits for the worker's end: usually a tenth of a
/// second, several on a machine that is overloaded.
const PREPARE_MAX: Duration = Duration::from_secs(10);
/// How long a worker that was killed may take to be gone; usually a twentieth of a second. A
/// disk that hangs keeps it for longer, and then its reserve is taken for the worker.
const END_MAX: Duration = Duration::from_secs(5);
/// How long the new worker may take to bring its rooms up, and to close what it must not
/// hold any more.
const PROVE_MAX: Duration = Duration::from_secs(10);
/// How often a change under way is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How often the mirror is read, should the worker be writing it.
const MIRROR_TRIES: usize = 5;

/// What reading a file, or asking a program, came to.
pub(super) type Judged = Result<Next, String>;

/// What is to run.
pub(super) enum Next {
    /// This configuration.
    Config(Box<Prepared>),
    /// This program.
    Program(Successor),
}

/// How far a change is.
pub(super) enum Stage {
    Reading(oneshot::Receiver<Judged>),
    Preparing,
    Ending,
    Proving,
}

/// A change under way.
pub(super) struct Change {
    ask: Ask,
    at_ms: u64,
    pub(super) stage: Stage,
    /// When the stage has taken too long.
    due: Instant,
    /// What is to run, once it has been judged.
    next: Option<(Next, Option<Text>)>,
}

impl Change {
    /// When it is to be looked at next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        match self.stage {
            Stage::Reading(_) | Stage::Ending => Some(self.due),
            Stage::Preparing | Stage::Proving => Some(self.due.min(Instant::now() + LOOK)),
        }
    }

    /// What was read, once it was.
    pub(super) async fn judged(&mut self) -> Judged {
        match &mut self.stage {
            Stage::Reading(judged) => judged
                .await
                .unwrap_or_else(|_| Err("the thread that read it has died".to_owned())),
            Stage::Preparing | Stage::Ending | Stage::Proving => std::future::pending().await,
        }
    }

    fn outcome(&self, state: ReloadState, text: String) -> Reload {
        let digest = match &self.next {
            Some((Next::Config(next), _)) => Some(digest_of(next)),
            Some((Next::Program(_), _)) | None => None,
        };
        Reload {
            id: self.ask.id,
            what: self.ask.what,
            state,
            at: rfc3339(self.at_ms),
            digest,
            text,
        }
    }

    fn enter(&mut self, stage: Stage, patience: Duration) {
        self.stage = stage;
        self.due = Instant::now() + patience;
    }
}

/// As people compare it.
pub(super) fn digest_of(prepared: &Prepared) -> String {
    format!("{:016x}", prepared.config.digest)
}

/// What SIGHUP asks for.
pub(super) fn by_signal() -> Ask {
    let mut id = [0; 8];
    // Without random numbers it cannot be asked for by its number, which nobody knows anyway.
    let _ = ring::rand::SystemRandom::new().fill(&mut id);
    Ask {
        id: u64::from_le_bytes(id),
        what: ReloadWhat::Reload,
        digest: None,
    }
}

impl Supervisor<'_> {
    /// Begins what was asked for, unless something is under way.
    pub(super) fn begin_change(&mut self, ask: Ask) {
        let now_ms = crate::decision::wall_ms();
        if let Some(why) = self.busy() {
            self.show(Reload {
                id: ask.id,
                what: ask.what,
                state: ReloadState::Refused,
                at: rfc3339(now_ms),
                digest: None,
                text: why.to_owned(),
            });
            return;
        }
        let (say, judged) = oneshot::channel();
        let reading = Reading {
            what: ask.what,
            options: self.options.clone(),
            program: self.program.clone(),
            text: self.text.path(),
            made: Made::of(&self.running.config),
        };
        // On a thread of its own: a file system may hang, and the parent must not. It hears no
        // signals: what it heard could be lost when the parent executes another program.
        let held = signals::hold();
        let started = std::thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || {
                // The parent may have given it up.
                let _ = say.send(reading.judge());
            });
        let let_through = signals::let_through();
        if let Err(error) = held.and(let_through) {
            tracing::warn!(%error, "failed to keep signals from a thread");
        }
        let change = Change {
            ask,
            at_ms: now_ms,
            stage: Stage::Reading(judged),
            due: Instant::now() + READ_MAX,
            next: None,
        };
        self.show(change.outcome(ReloadState::Running, String::new()));
        self.change = Some(change);
        if let Err(error) = started {
            self.give_up_change(&format!("no thread can be started: {error}"));
        }
    }

    fn busy(&mut self) -> Option<&'static str> {
        if let Some(late) = &mut self.late
            && !matches!(late.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        {
            self.late = None;
        }
        if self.change.is_some() {
            Some("another reload or upgrade is under way: ask again when it is done")
        } else if self.late.is_some() {
            Some(
                "the file of an earlier reload is still being read: its disk hangs; look at it first",
            )
        } else if self.stop_after {
            Some("the daemon is stopping")
        } else if !self.life.was_ready() {
            Some("the daemon is still starting: ask again in a moment")
        } else {
            None
        }
    }

    /// The file was read, the program asked.
    pub(super) async fn judged(&mut self, judged: Judged) -> anyhow::Result<()> {
        let judged = judged.and_then(|next| match next {
            Next::Config(next) => self.may_replace(&next).map(|()| Next::Config(next)),
            program => Ok(program),
        });
        let Some(change) = &mut self.change else {
            return Ok(());
        };
        let next = match judged {
            Ok(next) => next,
            Err(reason) => {
                self.give_up_change(&reason);
                return Ok(());
            }
        };
        let text = match &next {
            Next::Config(next) => match Text::of(next) {
                Ok(text) => Some(text),
                // No memory, no descriptor: no reason to end what runs.
                Err(error) => {
                    self.give_up_change(&format!("no memory for the new text: {error}"));
                    return Ok(());
                }
            },
            Next::Program(_) => None,
        };
        let warnings = match &next {
            Next::Config(next) => next.warnings.join("\n"),
            Next::Program(_) => String::new(),
        };
        change.next = Some((next, text));
        if change.ask.what == ReloadWhat::Check {
            let outcome = change.outcome(ReloadState::Good, warnings);
            self.change = None;
            self.show(outcome);
            return Ok(());
        }
        let outcome = change.outcome(ReloadState::Running, String::new());
        if change.ask.digest.is_some() && change.ask.digest != outcome.digest {
            self.give_up_change("the file was changed after it was checked: check it again");
            return Ok(());
        }
        self.show(outcome);
        self.prepare().await
    }

    fn may_replace(&self, next: &Prepared) -> Result<(), String> {
        let life = self.life.incarnation;
        let holding = (0..MIRROR_TRIES)
            .find_map(|_| match Memory::open(&self.life.path()).ok()?.read(life) {
                Found::Whole { mirror, .. } => {
                    Some(Holding::of(&mirror.records, next.node.id, life))
                }
                Found::Blank | Found::Torn => None,
            })
            .ok_or("what this node holds cannot be read now: ask again")?;
        reload::may_replace(&self.running, next, &holding)
    }

    /// Starts the reserve with what is to run, in the place of the one that waits.
    async fn prepare(&mut self) -> anyhow::Result<()> {
        self.promote_if_it_leads();
        if !self.dismiss_reserve().await? {
            self.give_up_change("the worker in reserve does not end: a disk that hangs?");
            return Ok(());
        }
        let Some((next, text)) = self.change.as_ref().and_then(|change| change.next.as_ref())
        else {
            return Ok(());
        };
        let program = match next {
            Next::Config(_) => PathBuf::from(super::OWN_PROGRAM),
            Next::Program(next) => next.path(),
        };
        let text = text.as_ref().unwrap_or(&self.text);
        match self
            .life
            .start_worker(&program, self.options, &self.kept, text)
        {
            Ok(reserve) => {
                self.reserve = Some(reserve);
                if let Some(change) = &mut self.change {
                    change.enter(Stage::Preparing, PREPARE_MAX);
                }
            }
            Err(error) => {
                self.reserve_due = Instant::now();
                self.give_up_change(&format!("a worker with it cannot be started: {error}"));
            }
        }
        Ok(())
    }

    /// Looks how far it is.
    pub(super) async fn look_at_change(&mut self) {
        let Some(change) = &mut self.change else {
            return;
        };
        let late = Instant::now() >= change.due;
        let memory = Memory::open(&self.life.path()).ok();
        let worker = self.worker.pid();
        match &change.stage {
            Stage::Reading(_) if late => {
                if let Some(Change {
                    stage: Stage::Reading(judged),
                    ..
                }) =
                    self.replace_change_by_nothing("it cannot be read in time: does its disk hang?")
                {
                    self.late = Some(judged);
                }
            }
            Stage::Preparing => {
                let waits = memory.and_then(|memory| memory.reserve());
                if waits.is_some() && waits == self.reserve.as_ref().map(Process::pid) {
                    change.enter(Stage::Ending, END_MAX);
                    self.worker.signal(Kill::KILL);
                } else if late {
                    // Its end brings another one, with what runs.
                    if let Some(reserve) = &self.reserve {
                        reserve.signal(Kill::KILL);
                    }
                    self.give_up_change(
                        "a worker with it does not come up in time; the log may say why",
                    );
                }
            }
            // The reserve has the leases, whatever keeps the dead one: it goes on without what
            // that one has still open, its log above all.
            Stage::Ending if late => {
                change.due = Instant::now() + END_MAX;
                tracing::warn!("the former worker does not end: a disk that hangs?");
                if self.promote_if_it_leads()
                    && let Some(change) = &mut self.change
                {
                    change.enter(Stage::Proving, PROVE_MAX);
                }
            }
            Stage::Proving if memory.is_some_and(|memory| memory.is_serving(worker)) => {
                self.commit().await;
            }
            // Its end leads back, and if a disk keeps it from ending, its reserve does, which has
            // the former configuration.
            Stage::Proving if late => {
                change.due = Instant::now() + END_MAX;
                self.worker.signal(Kill::KILL);
                if self.promote_if_it_leads() {
                    self.give_up_change(
                        "the worker with it does not come up in time, and does not end: a disk \
                         that hangs? The former configuration goes on",
                    );
                }
            }
            Stage::Reading(_) | Stage::Ending | Stage::Proving => {}
        }
    }

    /// Whether the worker was killed for the reserve, and is not gone yet.
    pub(super) fn is_ending_worker(&self) -> bool {
        self.change
            .as_ref()
            .is_some_and(|change| matches!(change.stage, Stage::Ending))
    }

    /// The worker is dead, and the reserve with the new one has its leases.
    pub(super) async fn reserve_goes_on(&mut self) -> anyhow::Result<()> {
        if self.reserve.is_none() {
            self.give_up_change("the worker in reserve was lost as well");
            return self.replace_worker().await;
        }
        self.replace_worker().await?;
        if let Some(change) = &mut self.change {
            change.enter(Stage::Proving, PROVE_MAX);
        }
        Ok(())
    }

    /// The reserve that was to go on has ended.
    pub(super) fn change_lost_reserve(&mut self, status: &ExitStatus) {
        let waited = |change: &Change| matches!(change.stage, Stage::Preparing);
        if self.change.as_ref().is_some_and(waited) {
            self.reserve_due = Instant::now() + RESERVE_AFTER;
            self.give_up_change(&format!(
                "a worker with it does not come up ({status}); the log says why"
            ));
        }
    }

    /// The new worker has ended before it was up: back to what ran before.
    pub(super) async fn go_back(&mut self, status: &ExitStatus) -> anyhow::Result<()> {
        self.give_up_change(&format!(
            "the worker with it ended before it was up ({status}), and the former one goes on; the \
             log says why"
        ));
        self.pause = Duration::ZERO;
        self.replace_worker().await
    }

    /// The new worker is up.
    async fn commit(&mut self) {
        let Some(mut change) = self.change.take() else {
            return;
        };
        match change.next.take() {
            Some((Next::Config(next), Some(text))) => {
                (self.running, self.text) = (*next, text);
                // One that came up meanwhile has the former configuration, and must not go on
                // with it after a crash. Its end brings one that has this.
                if let Some(reserve) = &self.reserve {
                    reserve.signal(Kill::KILL);
                }
                let digest = digest_of(&self.running);
                let warnings = &self.running.warnings;
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                let mut outcome = change.outcome(ReloadState::Applied, applied(&digest, warnings));
                outcome.digest = Some(digest);
                self.show(outcome);
            }
            Some((Next::Program(next), _)) => {
                let text = format!("version {} runs", next.forms.version);
                let done = change.outcome(ReloadState::Applied, text);
                // It does not return if it works.
                let error = self.succeed(&next.file, &done).await;
                let mut outcome = done;
                outcome.text = format!(
                    "{}, but not its parent, which could not be replaced ({error}): a crash of the \
                     worker brings the former program back. Restart this node when it is convenient",
                    outcome.text
                );
                self.show(outcome);
            }
            Some((Next::Config(_), None)) | None => {}
        }
    }

    /// Gives up what is under way: nothing was changed.
    pub(super) fn give_up_change(&mut self, reason: &str) {
        // What it had come to goes with it.
        let _ = self.replace_change_by_nothing(reason);
    }

    fn replace_change_by_nothing(&mut self, reason: &str) -> Option<Change> {
        let change = self.change.take()?;
        self.show(change.outcome(ReloadState::Refused, reason.to_owned()));
        Some(change)
    }

    /// Shows the workers how it stands, and says it if that is news.
    pub(super) fn show(&mut self, outcome: Reload) {
        let what = match outcome.what {
            ReloadWhat::Check => "check of the file",
            ReloadWhat::Reload => "reload",
            ReloadWhat::Upgrade => "upgrade",
        };
        let text = &outcome.text;
        match outcome.state {
            ReloadState::Running if outcome.digest.is_none() => tracing::info!("{what} begun"),
            ReloadState::Running | ReloadState::Good => {}
            // Below that are warnings, which have been told as such.
            ReloadState::Applied => {
                let done = text.lines().next().unwrap_or_default();
                tracing::info!("{what} done: {done}");
            }
            ReloadState::Refused => tracing::warn!("{what} refused, nothing is changed: {text}"),
        }
        self.board.note(outcome);
        if let Err(error) = self.kept.line.show(&self.board) {
            tracing::error!(%error, "failed to show the workers how the {what} stands");
        }
    }
}

/// What who asked for it is told: that it runs, and below that what somebody should know.
fn applied(digest: &str, warnings: &[String]) -> String {
    let mut text = format!("the configuration {digest} runs");
    for warning in warnings {
        text.push('\n');
        text.push_str(warning);
    }
    text
}

/// What is read on a thread of its own.
struct Reading {
    what: ReloadWhat,
    options: Options,
    program: PathBuf,
    /// The text that runs, for the program to make something of it.
    text: PathBuf,
    /// What this one makes of it.
    made: Made,
}

impl Reading {
    fn judge(&self) -> Judged {
        match self.what {
            ReloadWhat::Check | ReloadWhat::Reload => reload::read(&self.options)
                .map(|next| Next::Config(Box::new(next)))
                .map_err(|error| format!("{error:#}")),
            ReloadWhat::Upgrade => reload::may_succeed(&self.program, &self.text, &self.made)
                .map(Next::Program)
                .map_err(|error| format!("{error:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::applied;

    #[test]
    fn what_is_doubtful_in_a_file_that_is_taken_up_is_told() {
        assert_eq!(applied("00ff", &[]), "the configuration 00ff runs");
        let warnings = [
            "f:3:1: warning: a".to_owned(),
            "f:9:1: warning: b".to_owned(),
        ];
        assert_eq!(
            applied("00ff", &warnings),
            "the configuration 00ff runs\nf:3:1: warning: a\nf:9:1: warning: b"
        );
    }
}
