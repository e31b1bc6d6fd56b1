//! The room itself: a thread with a task per group, which feeds the machine and carries
//! out its effects, and one per service, which starts, stops and looks.

mod command;
mod group;
mod left;
mod service;
mod unit;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use evenkeel_config::{Hosted, Runs, When};
use evenkeel_core::{GroupId, GroupName, NodeName};
use evenkeel_host::sys::sched;
use evenkeel_host::systemd::{SYSTEM_BUS, Systemd};
use tokio::sync::{mpsc, oneshot, watch};

use self::left::Left;
use crate::ServicesError;
use crate::machine::{Context, GroupStatus, Report, Want};

/// How long a program that is just being executed may hold up the end of the room.
const END_MAX: Duration = Duration::from_millis(500);

/// How long a service takes at most, after its time to stop, until it is given up: the signals
/// of the ladder, and the questions between them.
const LADDER_MAX: Duration = Duration::from_secs(10);

/// How long everything of a group that stops with the daemon may take to stop, with the
/// ladder of signals, the hook that may be running and the one that comes after.
pub fn stop_max(hosted: &Hosted) -> Duration {
    let stopping = hosted.services.iter();
    let stopping = stopping
        .filter(|one| one.when == When::Active || matches!(one.what, Runs::Foreground { .. }));
    let services: Duration = stopping.map(|one| one.stop_timeout + LADDER_MAX).sum();
    let hooks = &hosted.hooks;
    let running = [&hooks.before_open, &hooks.after_open, &hooks.before_close];
    let running = running.iter().any(|hook| hook.is_some());
    let count = u32::from(running) + u32::from(hooks.after_close.is_some());
    services + hooks.timeout * count
}

/// A group that this node may hold.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// Its identity.
    pub group: GroupId,
    /// Its name, for hooks and notes.
    pub name: GroupName,
    /// What runs with it.
    pub hosted: Hosted,
    /// What keepalived's script is told as priority: the greater, the more this node is
    /// preferred (1 to 254).
    pub priority: u8,
}

/// What the room needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The groups that this node may hold.
    pub groups: Vec<GroupSettings>,
    /// This node, for hooks.
    pub node: NodeName,
    /// Where started commands are noted: a directory below /run, of this node alone,
    /// that outlives the daemon and not the boot.
    pub notes: PathBuf,
    /// The address of the bus on which systemd is ([`SYSTEM_BUS`]).
    pub bus: String,
}

impl Settings {
    /// The usual settings.
    pub fn new(groups: Vec<GroupSettings>, node: NodeName, notes: PathBuf) -> Self {
        Self {
            groups,
            node,
            notes,
            bus: SYSTEM_BUS.to_owned(),
        }
    }
}

/// What every task shares.
#[derive(Clone, Debug)]
struct Shared {
    node: NodeName,
    notes: PathBuf,
    /// Nothing where no group has a unit.
    systemd: Option<Systemd>,
    status: Arc<Mutex<Published>>,
}

/// What people and the daemon see.
#[derive(Debug, Default)]
struct Published {
    groups: BTreeMap<GroupId, GroupStatus>,
    /// Grows with each change.
    version: u64,
}

type Word = Option<(Said, Context)>;

/// What is said of a group.
#[derive(Clone, Copy, Debug)]
enum Said {
    Want(Want),
    /// The daemon ends.
    Leave,
}

/// The handle of the running room. Its calls never wait. Dropped, the room stops; what it
/// started goes on running, for the next life to find, but for hooks, which are killed.
#[derive(Debug)]
pub struct Services {
    words: BTreeMap<GroupId, watch::Sender<Word>>,
    status: Arc<Mutex<Published>>,
    /// Told or dropped to have stopped what is left of an earlier life.
    sweep: Option<oneshot::Sender<()>>,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Services {
    /// Starts the room. Nothing is started or stopped before something is wanted of its
    /// group, so that a restarted worker disturbs nobody. `reports` should hold a few
    /// hundred; if nobody fetches them, the newest wait inside, then the oldest are
    /// dropped ([`Report::Missed`]). The channel closes if the room's thread dies.
    ///
    /// # Errors
    ///
    /// That there is no thread, or no place for notes. What is wrong with a service shows
    /// in [`Services::status`].
    pub fn start(settings: Settings, reports: mpsc::Sender<Report>) -> Result<Self, ServicesError> {
        std::fs::create_dir_all(&settings.notes).map_err(|source| ServicesError::Directory {
            path: settings.notes.clone(),
            source,
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ServicesError::Start)?;
        let status: Arc<Mutex<Published>> = Arc::default();
        let left = left::find(&settings);
        let systemd_needed = needs_systemd(&settings, &left);
        let mut left_of: BTreeMap<Option<GroupId>, Vec<Left>> = BTreeMap::new();
        for one in left {
            left_of.entry(one.group(&settings)).or_default().push(one);
        }
        let (sweep, swept) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let mut words = BTreeMap::new();
        let mut groups = Vec::new();
        for group in settings.groups.clone() {
            let (word, hear) = watch::channel(None);
            let left = left_of.remove(&Some(group.group)).unwrap_or_default();
            words.insert(group.group, word);
            groups.push((group, left, hear));
        }
        let left = left_of.remove(&None).unwrap_or_default();
        let shared_status = Arc::clone(&status);
        let thread = std::thread::Builder::new()
            .name("services".to_owned())
            .spawn(move || {
                // Refused without the right: then services start as late as other programs
                // run. What is started is ordinary all the same.
                let _ = sched::favoured();
                runtime.block_on(async move {
                    let shared = shared(settings, shared_status, systemd_needed);
                    let tasks: Vec<_> = groups
                        .into_iter()
                        .map(|(group, left, hear)| {
                            let (shared, reports) = (shared.clone(), reports.clone());
                            tokio::spawn(group::run(shared, group, left, hear, reports))
                        })
                        .collect();
                    tokio::spawn(sweep_up(swept, shared.clone(), left, reports));
                    // Closed without a word: the handle is gone.
                    let _ = stopped.await;
                    drop(tasks);
                });
                runtime.shutdown_timeout(END_MAX);
            })
            .map_err(ServicesError::Start)?;
        Ok(Self {
            words,
            status,
            sweep: Some(sweep),
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Says what is wanted of `group` from now on, and why. An unknown group is ignored.
    /// After a restart of the worker the first word about a group that is open must be
    /// [`Want::Open`]: [`Want::Standby`] stops its services.
    pub fn want(&self, group: GroupId, want: Want, context: Context) {
        if let Some(words) = self.words.get(&group) {
            words.send_replace(Some((Said::Want(want), context)));
        }
    }

    /// Says that the daemon ends: as [`Want::Standby`] for every group, and commands in the
    /// foreground stop as well that run on standbys. They would be killed with the daemon.
    pub fn leave(&self, context: &Context) {
        for words in self.words.values() {
            words.send_replace(Some((Said::Leave, context.clone())));
        }
    }

    /// Stops what an earlier life started for groups that it held and that `settings` does not
    /// name any more. For the caller to say when that is closed. What is left of groups that
    /// are there goes with the first word about them.
    pub fn sweep(&mut self) {
        if let Some(sweep) = self.sweep.take() {
            // The thread may have ended.
            let _ = sweep.send(());
        }
    }

    /// What each group looks like.
    pub fn status(&self) -> BTreeMap<GroupId, GroupStatus> {
        self.published().groups.clone()
    }

    /// The same, if it is not what it was when `known` was the version. Cheap if nothing has
    /// changed.
    pub fn status_since(&self, known: &mut u64) -> Option<BTreeMap<GroupId, GroupStatus>> {
        let published = self.published();
        if published.version == *known {
            return None;
        }
        *known = published.version;
        Some(published.groups.clone())
    }

    fn published(&self) -> std::sync::MutexGuard<'_, Published> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic was told by the panic hook, and by the closed channel.
            let _ = thread.join();
        }
    }
}

/// Waits for the word, then stops what is left.
async fn sweep_up(
    swept: oneshot::Receiver<()>,
    shared: Shared,
    left: Vec<Left>,
    reports: mpsc::Sender<Report>,
) {
    // Dropped without a word: the room ends.
    if swept.await.is_ok() {
        left::stop(shared, left, reports).await;
    }
}

/// Whether a room for `settings` would have anything to do.
pub fn is_needed(settings: &Settings) -> bool {
    !settings.groups.is_empty() || !left::find(settings).is_empty()
}

fn needs_systemd(settings: &Settings, left: &[Left]) -> bool {
    let services = settings
        .groups
        .iter()
        .flat_map(|group| &group.hosted.services);
    let mut units = services.filter(|service| matches!(service.what, Runs::Unit(_)));
    units.next().is_some() || left.iter().any(Left::is_unit)
}

fn shared(settings: Settings, status: Arc<Mutex<Published>>, systemd_needed: bool) -> Shared {
    Shared {
        node: settings.node,
        notes: settings.notes,
        systemd: systemd_needed.then(|| Systemd::start(&settings.bus)),
        status,
    }
}
