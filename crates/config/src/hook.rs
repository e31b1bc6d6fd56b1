//! `[group.G.hook]`: programs of the administrator around an opening and a closing.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::command::{self, Command, Strings};
use crate::duration;
use crate::fault::Report;
use crate::section::{Keys, Section};
use crate::source::Span;

/// Nothing runs in less than a process takes; a takeover waits for hooks.
const TIMEOUT_BOUNDS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(600);

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

const KEYS: Keys = Keys {
    known: &[
        "before_open",
        "after_open",
        "before_close",
        "after_close",
        "keepalived",
        "hook_timeout",
    ],
    later: &[],
};

/// The hooks of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Run when the services of a new holder are up, before its addresses open.
    pub before_open: Option<Command>,
    /// Run when its addresses are open.
    pub after_open: Option<Command>,
    /// Run before addresses close in a planned move.
    pub before_close: Option<Command>,
    /// Run when addresses are closed and services have stopped.
    pub after_close: Option<Command>,
    /// A notify script of keepalived, told of every change as keepalived tells it.
    pub keepalived: Option<Command>,
    /// How long each may run.
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            before_open: None,
            after_open: None,
            before_close: None,
            after_close: None,
            keepalived: None,
            timeout: TIMEOUT_DEFAULT,
        }
    }
}

impl Hooks {
    /// Each hook that is there, with the key that names it.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Command)> {
        let all = [
            ("before_open", &self.before_open),
            ("after_open", &self.after_open),
            ("before_close", &self.before_close),
            ("after_close", &self.after_close),
            ("keepalived", &self.keepalived),
        ];
        all.into_iter()
            .filter_map(|(name, command)| Some((name, command.as_ref()?)))
    }
}

/// Where each hook that is there stands, by its key.
pub(crate) type Places = Vec<(&'static str, Span)>;

/// Reads the hooks of a group.
pub(crate) fn read(group: &Section<'_>, report: &mut Report) -> (Hooks, Places) {
    let help = format!("write [{}.hook] and its keys below it", group.path);
    let Some(section) = group.section("hook", &help, report) else {
        return (Hooks::default(), Places::new());
    };
    section.only(&KEYS, report);
    let mut hook = |key| command::read(&section, key, Strings::Paths, report);
    let hooks = Hooks {
        before_open: hook("before_open"),
        after_open: hook("after_open"),
        before_close: hook("before_close"),
        after_close: hook("after_close"),
        keepalived: hook("keepalived"),
        timeout: TIMEOUT_DEFAULT,
    };
    let timeout = duration::read(&section, "hook_timeout", TIMEOUT_BOUNDS, report);
    let hooks = Hooks {
        timeout: timeout.map_or(TIMEOUT_DEFAULT, |(time, _)| time),
        ..hooks
    };
    let place = |name: &'static str| Some((name, section.value(name)?.span()));
    let places = hooks.all().filter_map(|(name, _)| place(name)).collect();
    (hooks, places)
}
