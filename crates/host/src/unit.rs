//! Units of systemd by events, and the moment when one is down.
//!
//! systemd tells by D-Bus; it needs some milliseconds to notice a death, to judge it and to say
//! so. The kernel tells at once. So the main process of a unit that is up is watched by pidfd,
//! and when it dies while the unit's control group is empty, the unit is down whatever systemd
//! still says:
//!
//! ```text
//!   systemd: up ------> Up --- main process dead, its control group empty ---> Down
//!   systemd: not up --> Down                                                    |
//!   bus away ---------> Unknown        systemd says anything new: as above <----'
//! ```
//!
//! Where others of the control group live on, as children that serve or a successor that takes
//! the main process' place, nobody but systemd knows what that means, and its word is waited
//! for. A main process that does not belong to the unit as this process sees it (another
//! namespace of processes) is not watched.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::listener::Holder;
use crate::process::Watched;
use crate::systemd::{Running, Seen, Systemd, Unit};

/// Time between two looks at a control group after the death of the main process.
const AFTER_DEATH_POLL: Duration = Duration::from_millis(1);
/// How long it is looked at: the processes of a unit that is killed whole die within this time,
/// even on a busy machine. After that systemd has the word.
const AFTER_DEATH: Duration = Duration::from_millis(100);
/// Where the control groups are, on a machine as systemd makes it.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Whether a unit is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It cannot be said, and why.
    Unknown(String),
    /// systemd says so.
    Known(Unit),
    /// systemd has not said anything yet, but nothing of it lives.
    Dead {
        /// What was its main process.
        main: Holder,
    },
}

impl Presence {
    fn is_up(&self) -> bool {
        matches!(self, Self::Known(unit) if unit.running() == Running::Up)
    }
}

/// A look at one unit. Its task ends with it.
pub struct Watch {
    presence: watch::Receiver<Presence>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells when a unit that was up is not any more.
pub struct Falls(watch::Receiver<Presence>);

impl Falls {
    /// Waits until a unit that was up is seen to be down. A bus that is away is no fall.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Presence {
        match self.0.changed().await {
            Ok(()) => self.0.borrow_and_update().clone(),
            // The task ends only with its watch, or with the runtime.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Watch {
    /// Looks at a unit from now on. Must be called within a tokio runtime.
    pub fn start(systemd: &Systemd, unit: &str) -> (Self, Falls) {
        let nothing = Presence::Unknown("not asked yet".to_owned());
        let (say, presence) = watch::channel(nothing.clone());
        let (tell, falls) = watch::channel(nothing);
        let follow = follow(systemd.watch(unit), say, tell);
        let task = tokio::spawn(follow).abort_handle();
        (Self { presence, task }, Falls(falls))
    }

    /// The newest state; where none is known, the next one. Give it a deadline.
    pub async fn look(&self) -> Presence {
        let mut presence = self.presence.clone();
        let known = presence.wait_for(|presence| !matches!(presence, Presence::Unknown(_)));
        match known.await {
            Ok(known) => known.clone(),
            Err(_) => self.presence.borrow().clone(),
        }
    }

    /// The newest state.
    pub fn presence(&self) -> Presence {
        self.presence.borrow().clone()
    }
}

/// The task of one unit.
async fn follow(
    mut seen: watch::Receiver<Seen>,
    say: watch::Sender<Presence>,
    tell: watch::Sender<Presence>,
) {
    let mut main: Option<Main> = None;
    let mut was_up = false;
    loop {
        let now = match &*seen.borrow_and_update() {
            Seen::Unknown(reason) => Presence::Unknown(reason.clone()),
            Seen::Known(unit) => Presence::Known(unit.clone()),
        };
        main = main_of(&now, main);
        let fell = was_up && !now.is_up() && !matches!(now, Presence::Unknown(_));
        // A bus that is away says nothing, and what it says next may be the end.
        was_up = now.is_up() || was_up && matches!(now, Presence::Unknown(_));
        say.send_replace(now.clone());
        if fell {
            tell.send_replace(now);
        }
        tokio::select! {
            biased;
            changed = seen.changed() => if changed.is_err() { return },
            holder = last_death(&mut main) => {
                let dead = Presence::Dead { main: holder };
                say.send_replace(dead.clone());
                if was_up {
                    tell.send_replace(dead);
                }
                was_up = false;
                if seen.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The main process of a unit that is up, where it can be watched.
struct Main {
    process: Watched,
    /// The unit's control group, as a directory.
    cgroup: PathBuf,
}

/// Watches the main process of a unit that is up, on with the one before if it is the same. A
/// bus that is away changes nothing about it.
fn main_of(presence: &Presence, before: Option<Main>) -> Option<Main> {
    let unit = match presence {
        Presence::Known(unit) if presence.is_up() && unit.main_pid > 0 => unit,
        Presence::Unknown(_) => return before,
        Presence::Known(_) | Presence::Dead { .. } => return None,
    };
    match before {
        Some(main) if main.process.pid() == unit.main_pid => Some(main),
        Some(_) | None => Main::open(unit),
    }
}

impl Main {
    fn open(unit: &Unit) -> Option<Self> {
        let process = Watched::open(unit.main_pid).ok()?;
        let own = cgroup_of(unit.main_pid)?;
        // Its number may be one of another namespace.
        if unit.control_group.len() < 2 || !own.ends_with(&unit.control_group) {
            return None;
        }
        let cgroup = PathBuf::from(format!("{CGROUPS}{own}"));
        let main = Self { process, cgroup };
        (main.is_populated() == Some(true)).then_some(main)
    }

    /// Whether anything lives in the control group or below it. A group that is gone has nobody.
    fn is_populated(&self) -> Option<bool> {
        match fs::read_to_string(self.cgroup.join("cgroup.events")) {
            Ok(text) => Some(text.lines().any(|line| line == "populated 1")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(false),
            Err(_) => None,
        }
    }
}

/// Returns once the main process is dead and nothing of the unit is left. Forgets a main process
/// whose death others survive. Cancel-safe: begun anew, it finds what it found.
async fn last_death(main: &mut Option<Main>) -> Holder {
    let Some(watched) = main.as_ref() else {
        return std::future::pending().await;
    };
    watched.process.wait_death().await;
    let until = Instant::now() + AFTER_DEATH;
    while watched.is_populated() != Some(false) {
        if Instant::now() >= until {
            *main = None;
            return std::future::pending().await;
        }
        sleep(AFTER_DEATH_POLL).await;
    }
    Holder {
        pid: watched.process.pid(),
        name: watched.process.name().into(),
    }
}

/// The control group of a process, from the root of the hierarchy that this process sees.
fn cgroup_of(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(line.to_owned())
}
