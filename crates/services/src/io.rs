//! The room itself: a thread with a task per group, which feeds the machine and carries
//! out its effects, and one per service, which starts, stops and looks.

mod command;
mod group;
mod service;
mod unit;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use evenkeel_config::{Hosted, Runs};
use evenkeel_core::{GroupId, GroupName, NodeName};
use evenkeel_host::sys::sched;
use evenkeel_host::systemd::{SYSTEM_BUS, Systemd};
use tokio::sync::{mpsc, watch};

use crate::ServicesError;
use crate::machine::{Context, GroupStatus, Report, Want};

/// How long a program that is just being executed may hold up the end of the room.
const END_MAX: Duration = Duration::from_millis(500);

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
    status: Arc<Mutex<BTreeMap<GroupId, GroupStatus>>>,
}

type Word = Option<(Want, Context)>;

/// The handle of the running room. Its calls never wait. Dropped, the room stops; what it
/// started goes on running, for the next life to find, but for hooks, which are killed.
#[derive(Debug)]
pub struct Services {
    words: BTreeMap<GroupId, watch::Sender<Word>>,
    status: Arc<Mutex<BTreeMap<GroupId, GroupStatus>>>,
    /// Dropped to end the thread.
    stop: Option<tokio::sync::oneshot::Sender<()>>,
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
        let status: Arc<Mutex<BTreeMap<GroupId, GroupStatus>>> = Arc::default();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let mut words = BTreeMap::new();
        let mut groups = Vec::new();
        for group in settings.groups.clone() {
            let (word, hear) = watch::channel(None);
            words.insert(group.group, word);
            groups.push((group, hear));
        }
        let shared_status = Arc::clone(&status);
        let thread = std::thread::Builder::new()
            .name("services".to_owned())
            .spawn(move || {
                // Refused without the right: then services start as late as other programs
                // run. What is started is ordinary all the same.
                let _ = sched::favoured();
                runtime.block_on(async move {
                    let shared = shared(settings, shared_status);
                    let tasks: Vec<_> = groups
                        .into_iter()
                        .map(|(group, hear)| {
                            tokio::spawn(group::run(shared.clone(), group, hear, reports.clone()))
                        })
                        .collect();
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
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Says what is wanted of `group` from now on, and why. An unknown group is ignored.
    /// After a restart of the worker the first word about a group that is open must be
    /// [`Want::Open`]: [`Want::Standby`] stops its services.
    pub fn want(&self, group: GroupId, want: Want, context: Context) {
        if let Some(words) = self.words.get(&group) {
            words.send_replace(Some((want, context)));
        }
    }

    /// What each group looks like.
    pub fn status(&self) -> BTreeMap<GroupId, GroupStatus> {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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

fn shared(settings: Settings, status: Arc<Mutex<BTreeMap<GroupId, GroupStatus>>>) -> Shared {
    let services = settings
        .groups
        .iter()
        .flat_map(|group| &group.hosted.services);
    let mut units = services.filter(|service| matches!(service.what, Runs::Unit(_)));
    let systemd = units.next().map(|_| Systemd::start(&settings.bus));
    Shared {
        node: settings.node,
        notes: settings.notes,
        systemd,
        status,
    }
}
