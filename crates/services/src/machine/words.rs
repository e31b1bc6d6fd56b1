//! What is said to the machine and what it says.

use std::fmt;
use std::time::Duration;

use evenkeel_config::When;
use evenkeel_core::settling::Fresh;
use evenkeel_core::{Epoch, GroupId, ServiceName};

/// What is wanted of a group's services. `Standby` also follows `Closing`.
pub use evenkeel_core::role::Run as Want;

/// Why something is wanted, for the environment of hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Why, in a few words: `EVENKEEL_REASON`.
    pub reason: String,
    /// The node that holds the group besides us, if one is known: `EVENKEEL_PEER`.
    pub peer: String,
}

/// When the administrator's programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before addresses open.
    BeforeOpen,
    /// After they have.
    AfterOpen,
    /// Before they close, in a planned move.
    BeforeClose,
    /// After services have stopped.
    AfterClose,
    /// keepalived's notify script.
    Keepalived,
}

impl Hook {
    /// Its key in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeOpen => "before_open",
            Self::AfterOpen => "after_open",
            Self::BeforeClose => "before_close",
            Self::AfterClose => "after_close",
            Self::Keepalived => "keepalived",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is seen of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing for the moment.
    Unknown,
    /// It runs.
    Up,
    /// It does not.
    Down,
    /// There is no such thing on this machine.
    Missing,
}

/// How a stop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopOutcome {
    /// As asked.
    Clean,
    /// By signals.
    Forced {
        /// Which way.
        how: String,
    },
    /// Some of it may still run. Nobody waits for it any longer.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What happens to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody said what is wanted.
    Want(Want),
    /// The daemon ends: as [`Want::Standby`], and what would end with it is stopped as well.
    Leave,
    /// A service, by its place in the list, looks so, with a word for people.
    Seen(usize, Seen, String),
    /// The step that [`Effect::Start`] began is over.
    Started(usize, Result<(), String>),
    /// The step that [`Effect::Stop`] began is over.
    Stopped(usize, StopOutcome),
    /// The hook of [`Effect::RunHook`] is over.
    HookDone(Hook, Result<(), String>),
    /// [`super::Machine::deadline`] has come.
    Time,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start a service, within its deadline; answer with [`Event::Started`].
    Start(usize),
    /// End the step of [`Effect::Start`] as soon as possible; it still answers.
    GiveUp(usize),
    /// Stop a service, by the ladder; answer with [`Event::Stopped`].
    Stop(usize),
    /// Run a hook within its deadline; answer with [`Event::HookDone`].
    RunHook(Hook, Epoch),
    /// Note that the group was to open here in this epoch, for the next life.
    NoteOpened(Epoch),
    /// It is closed, and `after_close` is over.
    ForgetOpened,
    /// Tell keepalived's script this state; nobody waits for it.
    Notify(&'static str),
    /// Tell this.
    Report(Report),
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Everything runs and `before_open` is over: the group may open.
    Ready {
        /// Which group.
        group: GroupId,
        /// Under which assignment.
        epoch: Epoch,
        /// Since the word.
        took: Duration,
        /// It was open already, under an older assignment: nothing was waited for.
        goes_on: bool,
    },
    /// `before_close` is over: the group may close.
    MayClose {
        /// Which group.
        group: GroupId,
        /// Under which assignment.
        epoch: Epoch,
        /// Since the word.
        took: Duration,
        /// The hook failed or its time was over.
        by_deadline: bool,
    },
    /// What runs on the holder alone has stopped and `after_close` is over.
    Stopped {
        /// Which group.
        group: GroupId,
        /// Since the word.
        took: Duration,
    },
    /// A service does not run and no tries are left.
    Failed {
        /// Whose.
        group: GroupId,
        /// Which.
        service: ServiceName,
        /// Why.
        reason: String,
    },
    /// A service that had failed runs.
    Recovered {
        /// Whose.
        group: GroupId,
        /// Which.
        service: ServiceName,
    },
    /// A service that ought to run has ended.
    Died {
        /// Whose.
        group: GroupId,
        /// Which.
        service: ServiceName,
        /// How.
        detail: String,
    },
    /// What ought to run on the holder alone was started here by somebody else.
    Foreign {
        /// Whose.
        group: GroupId,
        /// Which.
        service: ServiceName,
    },
    /// A service did not stop when asked and was stopped by signals.
    Forced {
        /// Whose.
        group: GroupId,
        /// Which.
        service: ServiceName,
        /// Which way.
        how: String,
    },
    /// A service may still run although it was to stop.
    StopFailed {
        /// Whose.
        group: GroupId,
        /// Which.
        service: ServiceName,
        /// Why.
        reason: String,
    },
    /// A hook failed, or was killed at its deadline.
    HookFailed {
        /// Whose.
        group: GroupId,
        /// Which.
        hook: Hook,
        /// Under which assignment.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// What the file does not name any more may still run; it is tried again.
    LeftRuns {
        /// `GROUP.SERVICE`.
        service: String,
        /// Why.
        reason: String,
    },
    /// What the file does not name any more has stopped.
    LeftStopped {
        /// `GROUP.SERVICE`.
        service: String,
    },
    /// Nobody fetched these reports, and the oldest were dropped.
    Missed {
        /// How many.
        reports: u64,
    },
}

/// What a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Up,
    /// It does not run.
    Down,
    /// It is being started.
    Starting,
    /// It is being stopped.
    Stopping,
    /// It does not run although it ought to, and no tries are left.
    Failed,
    /// Nothing is known of it.
    Unknown,
}

/// One service, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Its name.
    pub name: ServiceName,
    /// When it runs.
    pub when: When,
    /// What it does.
    pub state: State,
    /// What is wrong, if anything is.
    pub detail: Option<String>,
    /// Whether it was started in this life, or is being started again: what asks for it may have
    /// to wait.
    pub fresh: Option<Fresh>,
    /// Somebody else started it on a standby, and it still runs.
    pub foreign: bool,
}

/// What is wrong with a service that is `foreign`, for people.
pub const FOREIGN: &str = "somebody else started it, though it is to run on the holder alone";

/// One group, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// What is wanted; nothing before the first word.
    pub want: Option<Want>,
    /// The daemon ends.
    pub leaving: bool,
    /// Whether it has been reached.
    pub reached: bool,
    /// The hook that runs now.
    pub hook: Option<Hook>,
    /// Its services, in the order of the file.
    pub services: Vec<ServiceStatus>,
    /// Why this node could not hold the group well; empty if it could.
    pub unready: Vec<String>,
    /// What is wrong with the files that are run. It makes a standby unready; a holder has
    /// them run already.
    pub faults: Vec<String>,
}
