//! Processes by their name or by a pid file, and the moment when the last of them is dead.
//!
//! ```text
//!        none found                          found
//!   Absent <-------------- search -------------> Running
//!      \___ asked for ________^ ^________ all of them are dead ___/
//! ```
//!
//! Deaths come by pidfd, so that nothing is asked again and again while one lives. At the
//! last death the machine is searched once more: children that nobody had found yet, or a
//! successor, go on. Only then the processes are gone. While none is known, a search is made
//! when somebody [looks](Watch::look).
//!
//! One pass through `/proc` serves all searches that wait, whoever makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::listener::Holder;
use crate::process::{Identity, ProcessError, Watched};

/// Processes of one name that are watched, the oldest. Those beyond are found when all of
/// these are dead.
const WATCHED_MAX: usize = 64;
/// Searches waiting for a pass. A full queue only makes the askers wait.
const SEARCHES_MAX: usize = 64;
/// Share of the time that passes through `/proc` may take: one in so many.
const SCAN_SHARE: u32 = 10;
/// Shortest pause between two passes.
const SCAN_PAUSE: Duration = Duration::from_millis(20);
/// The longest pid file that is read: a number and an end of line.
const PIDFILE_LENGTH_MAX: u64 = 64;

/// Which processes are meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Their name, as in `/proc/PID/comm`.
    pub name: String,
    /// The file with the number of the one; else all of that name are meant.
    pub pidfile: Option<PathBuf>,
}

/// Whether any of them lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// None.
    Absent {
        /// The oldest of those that were seen last.
        death_of: Option<Holder>,
    },
    /// Some.
    Running {
        /// The oldest.
        oldest: Holder,
        /// How many are watched.
        processes: usize,
    },
    /// It cannot be said.
    Unknown {
        /// Why, for people.
        reason: Arc<str>,
    },
}

/// All watched names of this machine. Everything stops when it and the last [`Watch`] are
/// dropped.
#[derive(Clone)]
pub struct Names {
    runtime: Handle,
    searches: mpsc::Sender<Search>,
}

/// A look at one name. Its task ends with it.
pub struct Watch {
    presence: watch::Receiver<Option<Presence>>,
    asked: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells when the last process has died.
pub struct Deaths(watch::Receiver<Option<Holder>>);

impl Deaths {
    /// Waits until the last process is dead and no other is there. Cancel-safe.
    pub async fn next(&mut self) -> Holder {
        loop {
            // The task ends only with its watch, or with the runtime.
            if self.0.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Some(holder) = self.0.borrow_and_update().clone() {
                return holder;
            }
        }
    }
}

impl Watch {
    /// The newest state. Where none is known to live the machine is searched first.
    pub async fn look(&self) -> Presence {
        let mut presence = self.presence.clone();
        let now = presence.borrow_and_update().clone();
        self.asked.notify_one();
        match now {
            Some(Presence::Running { .. }) => {}
            Some(_) | None => {
                if presence.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        }
        let newest = presence.borrow().clone();
        newest.unwrap_or_else(|| Presence::Unknown {
            reason: "not searched yet".into(),
        })
    }
}

impl Names {
    /// Nothing watched yet. Must be called within a tokio runtime.
    pub fn start() -> Self {
        let (searches, queue) = mpsc::channel(SEARCHES_MAX);
        let runtime = Handle::current();
        runtime.spawn(scan(queue));
        Self { runtime, searches }
    }

    /// Looks at these processes, and tells of their end.
    pub fn watch(&self, wanted: Wanted) -> (Watch, Deaths) {
        let (say, presence) = watch::channel(None);
        let (tell, deaths) = watch::channel(None);
        let asked = Arc::new(Notify::new());
        let look = Look {
            wanted,
            say,
            tell,
            asked: asked.clone(),
            searches: self.searches.clone(),
        };
        let task = self.runtime.spawn(look.run()).abort_handle();
        let watch = Watch {
            presence,
            asked,
            task,
        };
        (watch, Deaths(deaths))
    }
}

/// The task of one name.
struct Look {
    wanted: Wanted,
    say: watch::Sender<Option<Presence>>,
    tell: watch::Sender<Option<Holder>>,
    asked: Arc<Notify>,
    searches: mpsc::Sender<Search>,
}

impl Look {
    async fn run(self) {
        let mut last: Option<Holder> = None;
        let mut ran = false;
        loop {
            let found = self.search().await;
            if let Ok(held) = &found
                && let Some(oldest) = held.first()
            {
                let oldest = holder_of(oldest);
                last = Some(oldest.clone());
                ran = true;
                self.say.send_replace(Some(Presence::Running {
                    oldest,
                    processes: held.len(),
                }));
                self.attend(held).await;
                continue;
            }
            let presence = match found {
                // What ran is dead, whatever its pid file has become.
                Err(reason) if !ran => Presence::Unknown { reason },
                Err(_) | Ok(_) => Presence::Absent {
                    death_of: last.clone(),
                },
            };
            self.say.send_replace(Some(presence));
            if ran {
                self.tell.send_replace(last.clone());
            }
            ran = false;
            self.asked.notified().await;
        }
    }

    /// Returns once all are dead, or the oldest that lives has become another program: a
    /// child bears its parent's name until it executes its own.
    async fn attend(&self, held: &[Watched]) {
        for process in held {
            loop {
                tokio::select! {
                    biased;
                    () = process.wait_death() => break,
                    () = self.asked.notified() => {}
                }
                if name_of(process.pid()).is_some_and(|name| name != self.wanted.name) {
                    return;
                }
            }
        }
    }

    /// Those that live, oldest first.
    async fn search(&self) -> Result<Vec<Watched>, Arc<str>> {
        let (answer, found) = oneshot::channel();
        let search = Search {
            wanted: self.wanted.clone(),
            answer,
        };
        let ending = || Arc::<str>::from("this program is ending");
        self.searches.send(search).await.map_err(|_| ending())?;
        let mut refused = None;
        let mut held = Vec::new();
        for identity in found.await.map_err(|_| ending())?? {
            match Watched::open_same(identity) {
                Ok(process) => held.push(process),
                Err(ProcessError::Ended { .. } | ProcessError::Replaced { .. }) => {}
                Err(error @ ProcessError::Refused { .. }) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if held.is_empty() => Err(error.to_string().into()),
            Some(_) | None => Ok(held),
        }
    }
}

fn holder_of(process: &Watched) -> Holder {
    Holder {
        pid: process.pid(),
        name: process.name().into(),
    }
}

/// A wish to know which processes there are.
struct Search {
    wanted: Wanted,
    answer: oneshot::Sender<Found>,
}

type Found = Result<Vec<Identity>, Arc<str>>;

/// Serves all searches that wait with one pass through `/proc`, and rests in between.
async fn scan(mut queue: mpsc::Receiver<Search>) {
    let mut searches = Vec::new();
    while queue.recv_many(&mut searches, SEARCHES_MAX).await > 0 {
        let wanted: Vec<Wanted> = searches
            .iter()
            .map(|search| search.wanted.clone())
            .collect();
        let begun = Instant::now();
        let found = tokio::task::spawn_blocking(move || find(&wanted)).await;
        let mut found = found.unwrap_or_default().into_iter();
        for search in searches.drain(..) {
            let found = found.next().unwrap_or_else(|| Ok(Vec::new()));
            // The asker may have gone by now.
            let _ = search.answer.send(found);
        }
        sleep(SCAN_PAUSE.max(begun.elapsed().saturating_mul(SCAN_SHARE))).await;
    }
}

/// The processes that each of `wanted` means, oldest first. Slow: blocks.
fn find(wanted: &[Wanted]) -> Vec<Found> {
    let by_name = wanted.iter().filter(|one| one.pidfile.is_none());
    let names: BTreeSet<&str> = by_name.map(|one| one.name.as_str()).collect();
    let table = match names.is_empty() {
        true => Ok(BTreeMap::new()),
        false => all_named(&names),
    };
    wanted
        .iter()
        .map(|one| match (&one.pidfile, &table) {
            (Some(path), _) => in_file(path, &one.name),
            (None, Ok(table)) => Ok(table.get(&one.name).cloned().unwrap_or_default()),
            (None, Err(reason)) => Err(reason.clone()),
        })
        .collect()
}

fn all_named(names: &BTreeSet<&str>) -> Result<BTreeMap<String, Vec<Identity>>, Arc<str>> {
    let entries = fs::read_dir("/proc").map_err(|refused| format!("read /proc: {refused}"))?;
    let mut table: BTreeMap<String, Vec<Identity>> = BTreeMap::new();
    for entry in entries.flatten() {
        let number = entry.file_name();
        let Some(pid) = number.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes come and go during the pass; one that is gone has no name.
        let Some(name) = name_of(pid).filter(|name| names.contains(name.as_str())) else {
            continue;
        };
        if let Ok(identity) = Identity::of(pid) {
            table.entry(name).or_default().push(identity);
        }
    }
    for found in table.values_mut() {
        found.sort_unstable();
        found.truncate(WATCHED_MAX);
    }
    Ok(table)
}

/// The process whose number the file holds, if it lives and bears the name: a file left
/// behind may hold the number of another one.
fn in_file(path: &Path, name: &str) -> Found {
    let shown = path.display();
    // A named pipe must not hold us up.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("read {shown}: {error}").into()),
    };
    let mut text = String::new();
    file.take(PIDFILE_LENGTH_MAX)
        .read_to_string(&mut text)
        .map_err(|error| format!("read {shown}: {error}"))?;
    let number = text.split_ascii_whitespace().next().unwrap_or_default();
    let Ok(pid) = number.parse::<u32>() else {
        return Err(format!("{shown} holds no number of a process").into());
    };
    if name_of(pid).is_none_or(|found| found != name) {
        return Ok(Vec::new());
    }
    Ok(Identity::of(pid).into_iter().collect())
}

/// The name that the kernel keeps of a process.
fn name_of(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    String::from_utf8(name.to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    const SOON: Duration = Duration::from_secs(20);

    /// A copy of `sleep` under a name of its own.
    struct Sleepers {
        place: tempfile::TempDir,
        name: String,
        children: Vec<Child>,
    }

    impl Sleepers {
        fn new(name: &str) -> Self {
            let place = tempfile::tempdir().expect("a directory");
            let name = format!("{name}{}", std::process::id());
            fs::copy("/bin/sleep", place.path().join(&name)).expect("sleep is there");
            Self {
                place,
                name,
                children: Vec::new(),
            }
        }

        fn start(&mut self) -> u32 {
            let child = Command::new(self.place.path().join(&self.name))
                .arg("60")
                .spawn();
            self.children.push(child.expect("it starts"));
            self.children.last().expect("just pushed").id()
        }

        fn kill(&mut self, at: usize) {
            let mut child = self.children.remove(at);
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }

        fn wanted(&self, pidfile: bool) -> Wanted {
            let pidfile = pidfile.then(|| self.place.path().join("pid"));
            Wanted {
                name: self.name.clone(),
                pidfile,
            }
        }

        fn write(&self, text: &str) {
            fs::write(self.place.path().join("pid"), text).expect("our directory");
        }
    }

    impl Drop for Sleepers {
        fn drop(&mut self) {
            while !self.children.is_empty() {
                self.kill(0);
            }
        }
    }

    async fn running(watch: &Watch) -> (u32, usize) {
        let search = async {
            loop {
                if let Presence::Running { oldest, processes } = watch.look().await {
                    return (oldest.pid, processes);
                }
            }
        };
        tokio::time::timeout(SOON, search).await.expect("found")
    }

    #[tokio::test]
    async fn the_last_death_counts_and_successors_are_found() {
        let mut sleepers = Sleepers::new("evk-a");
        let (watch, mut deaths) = Names::start().watch(sleepers.wanted(false));
        assert_eq!(watch.look().await, Presence::Absent { death_of: None });
        let first = sleepers.start();
        assert_eq!(running(&watch).await, (first, 1));
        // A second one that the watch does not know.
        let second = sleepers.start();
        sleepers.kill(0);
        let search = async {
            while running(&watch).await.0 != second {
                // The watch's own task runs on this thread.
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, search).await.expect("found");
        sleepers.kill(0);
        let dead = tokio::time::timeout(SOON, deaths.next()).await;
        assert_eq!(dead.expect("told").pid, second);
        assert!(matches!(
            watch.look().await,
            Presence::Absent { death_of: Some(holder) } if holder.pid == second
        ));
    }

    #[tokio::test]
    async fn a_pid_file_is_believed_only_with_the_name() {
        let mut sleepers = Sleepers::new("evk-b");
        let (watch, mut deaths) = Names::start().watch(sleepers.wanted(true));
        assert_eq!(watch.look().await, Presence::Absent { death_of: None });
        let pid = sleepers.start();
        sleepers.write("nonsense");
        assert!(matches!(watch.look().await, Presence::Unknown { .. }));
        // Somebody else's number.
        sleepers.write(&std::process::id().to_string());
        while !matches!(watch.look().await, Presence::Absent { .. }) {}
        sleepers.write(&format!("{pid}\n"));
        assert_eq!(running(&watch).await, (pid, 1));
        sleepers.write("nonsense");
        sleepers.kill(0);
        let dead = tokio::time::timeout(SOON, deaths.next()).await;
        assert_eq!(dead.expect("told").pid, pid);
    }

    #[tokio::test]
    async fn a_process_that_becomes_another_program_is_let_go() {
        let name = format!("evk-c{}", std::process::id());
        let place = tempfile::tempdir().expect("a directory");
        let shell = place.path().join(&name);
        fs::copy("/bin/sh", &shell).expect("a shell is there");
        let line = "read line; exec sleep 60";
        let mut child = Command::new(shell)
            .args(["-c", line])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("it starts");
        let wanted = Wanted {
            name,
            pidfile: None,
        };
        let (watch, mut deaths) = Names::start().watch(wanted);
        assert_eq!(running(&watch).await, (child.id(), 1));
        drop(child.stdin.take());
        let told = async {
            loop {
                tokio::select! {
                    holder = deaths.next() => return holder,
                    _ = watch.look() => tokio::task::yield_now().await,
                }
            }
        };
        let told = tokio::time::timeout(SOON, told).await;
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        assert_eq!(told.expect("told").pid, child.id());
    }
}
