//! Who listens on a port of this machine, and the moment when nobody does any more.
//!
//! A connection probe notices a dead service at its next question; the kernel knows at
//! once. So the processes that hold the listening socket are watched by pidfd, and at
//! each death the kernel is asked whether anybody still listens ([`diag`]):
//!
//! ```text
//!            nobody, never seen                nobody any more
//!   Unseen <------------------- ask the kernel ----------------> Gone
//!      \___ asked again ___________^   |  ^ \______ asked again ___/
//!                                      v  |
//!       find the holders, watch them all  |  a death, the socket replaced, a second gone by
//! ```
//!
//! A death alone means nothing: children of a server come and go, and a killed parent
//! may leave children that serve. When a server is killed whole, its processes die one
//! after another; after each death the question is therefore repeated for a moment, so
//! that children which nobody had found yet are not needed to notice the last one's end.
//! Where the holders cannot be seen (another PID namespace, no `CAP_SYS_PTRACE`), the
//! question is repeated steadily instead: [`Presence::Listening`] then names nobody.
//!
//! A socket that systemd holds open for a service (socket activation) still listens
//! when the service dies, and connections to it wait: that is for a probe to judge.
//!
//! One task per watched address and one for passes through `/proc`, whoever asks.

pub mod diag;
pub mod holders;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use evenkeel_core::Moment;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::clock;
use crate::process::{Identity, ProcessError, Watched};

/// Time between two questions where no death can be awaited. One costs some 10 us.
const POLL: Duration = Duration::from_millis(10);
/// So many watched addresses may poll at that rate; more share it.
const POLLERS_FREE: usize = 16;
/// Time between two questions after a death: what a service killed whole may cost.
const AFTER_DEATH_POLL: Duration = Duration::from_millis(2);
/// How long a death is followed up: the kernel ends all processes of a service that is
/// killed whole within this time, even on a busy machine.
const AFTER_DEATH: Duration = Duration::from_millis(50);
/// Time between two questions while all holders live: a server may close its socket,
/// or replace it, without a death.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Time between two searches for holders that could not be seen.
const SEARCH_AGAIN: Duration = Duration::from_secs(10);
/// Share of the time that passes through `/proc` may take: one in so many.
const SCAN_SHARE: u32 = 10;
/// Shortest pause between two passes.
const SCAN_PAUSE: Duration = Duration::from_millis(20);
/// Searches waiting for a pass. A full queue only makes the askers wait.
const SEARCHES_MAX: usize = 64;

/// A process that holds a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name for people.
    pub name: Arc<str>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Whether anybody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nobody, and nobody has since the watch began.
    Unseen,
    /// Somebody does.
    Listening {
        /// The oldest process that holds the socket; none if we may not see it.
        by: Option<Holder>,
        /// How many processes hold it (of those that we watch).
        processes: usize,
    },
    /// Nobody any more.
    Gone {
        /// When the kernel said so.
        since: Moment,
        /// The oldest process that had held the socket, if it was seen and has died, else
        /// another one that has just died.
        death_of: Option<Holder>,
    },
    /// The kernel does not tell.
    Unknown {
        /// Why, for people.
        reason: Arc<str>,
    },
}

/// All watched addresses of this machine. Cheap to clone; everything stops when the
/// last clone and the last [`Watch`] are dropped.
#[derive(Clone)]
pub struct Listeners {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Handle,
    searches: mpsc::Sender<Search>,
    watched: Mutex<BTreeMap<SocketAddr, Weak<Target>>>,
    pollers: Arc<AtomicUsize>,
}

/// One watched address; its task ends with it.
struct Target {
    presence: watch::Receiver<Presence>,
    task: AbortHandle,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A look at one address. Dropping it ends the look.
pub struct Watch {
    presence: watch::Receiver<Presence>,
    _target: Arc<Target>,
}

impl Watch {
    /// The newest state.
    pub fn presence(&self) -> Presence {
        self.presence.borrow().clone()
    }

    /// Waits for a state that has not been returned by this function before. States in
    /// between may be skipped. Cancel-safe.
    pub async fn changed(&mut self) -> Presence {
        match self.presence.changed().await {
            Ok(()) => self.presence.borrow_and_update().clone(),
            // The task never ends by itself; only a runtime that goes down ends it.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Listeners {
    /// Nothing watched yet. Must be called within a tokio runtime.
    pub fn start() -> Self {
        let (searches, queue) = mpsc::channel(SEARCHES_MAX);
        let runtime = Handle::current();
        runtime.spawn(scan(queue));
        let watched = Mutex::default();
        let pollers = Arc::default();
        Self {
            inner: Arc::new(Inner {
                runtime,
                searches,
                watched,
                pollers,
            }),
        }
    }

    /// Looks at `target`, an address and port of this machine.
    pub fn watch(&self, target: SocketAddr) -> Watch {
        let mut watched = self
            .inner
            .watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        watched.retain(|_, target| target.strong_count() > 0);
        let shared = match watched.get(&target).and_then(Weak::upgrade) {
            Some(shared) => shared,
            None => {
                let shared = Arc::new(self.begin(target));
                watched.insert(target, Arc::downgrade(&shared));
                shared
            }
        };
        let mut presence = shared.presence.clone();
        presence.mark_changed();
        Watch {
            presence,
            _target: shared,
        }
    }

    fn begin(&self, target: SocketAddr) -> Target {
        let (publish, presence) = watch::channel(Presence::Unseen);
        let look = Look {
            target,
            publish,
            searches: self.inner.searches.clone(),
            pollers: self.inner.pollers.clone(),
            seen: Seen::Never,
        };
        let task = self.inner.runtime.spawn(look.run()).abort_handle();
        Target { presence, task }
    }
}

/// Who was seen listening last.
enum Seen {
    Never,
    Hidden,
    Held {
        /// The oldest.
        main: Holder,
        identity: Identity,
        /// One that has just died.
        died: Option<Holder>,
    },
}

fn holder_of(process: &Watched) -> Holder {
    Holder {
        pid: process.pid(),
        name: process.name().into(),
    }
}

/// The task of one address.
struct Look {
    target: SocketAddr,
    publish: watch::Sender<Presence>,
    searches: mpsc::Sender<Search>,
    pollers: Arc<AtomicUsize>,
    seen: Seen,
}

impl Look {
    async fn run(mut self) {
        loop {
            match diag::listening(self.target) {
                Err(refused) => {
                    self.say(Presence::Unknown {
                        reason: refused.to_string().into(),
                    });
                    sleep(LOOK_AGAIN).await;
                }
                Ok(None) => {
                    self.say_nobody();
                    self.poll_pause().await;
                }
                Ok(Some(_)) => {
                    // Its end must be told even if it comes before the holders are found.
                    if matches!(self.seen, Seen::Never) {
                        self.seen = Seen::Hidden;
                    }
                    self.attend().await;
                }
            }
        }
    }

    /// Somebody listens: returns when that may have changed, at once if it has.
    async fn attend(&mut self) {
        let Some(held) = self.find_holders().await else {
            return;
        };
        match held.first() {
            None => self.attend_hidden().await,
            Some(main) => {
                let holder = holder_of(main);
                let (main, identity) = (holder.clone(), main.identity());
                self.seen = Seen::Held {
                    main,
                    identity,
                    died: None,
                };
                self.say(Presence::Listening {
                    by: Some(holder),
                    processes: held.len(),
                });
                self.attend_held(held).await;
            }
        }
    }

    /// The holders cannot be seen: asks steadily, and searches again after a while.
    async fn attend_hidden(&mut self) {
        self.say(Presence::Listening {
            by: None,
            processes: 0,
        });
        let until = Instant::now() + SEARCH_AGAIN;
        while Instant::now() < until {
            self.poll_pause().await;
            if self.inode().is_none() {
                return;
            }
        }
    }

    /// Watches all holders.
    async fn attend_held(&mut self, held: Vec<Watched>) {
        let mut alive = held.len();
        let mut deaths = JoinSet::new();
        for process in held {
            deaths.spawn(async move {
                process.wait_death().await;
                holder_of(&process)
            });
        }
        let known = self.inode();
        let mut follow_up_until = Instant::now();
        while alive > 0 {
            let following_up = Instant::now() < follow_up_until;
            let pause = if following_up {
                AFTER_DEATH_POLL
            } else {
                LOOK_AGAIN
            };
            // Cancel-safe: a death that is not taken now is there the next time.
            if let Ok(death) = timeout(pause, deaths.join_next()).await {
                alive -= 1;
                follow_up_until = Instant::now() + AFTER_DEATH;
                self.remember(death.and_then(Result::ok));
            } else if !following_up {
                self.remember(None);
            }
            // `SO_REUSEPORT` answers with any of several sockets: then the holders are
            // searched once a second, which is what it costs.
            if known.is_none() || self.inode() != known {
                return;
            }
        }
    }

    /// Which of the holders has just died, other than the oldest perhaps.
    fn remember(&mut self, death: Option<Holder>) {
        if let Seen::Held { died, .. } = &mut self.seen {
            *died = death;
        }
    }

    /// The processes that hold the sockets behind the address, oldest first; nothing
    /// if nobody listens any more. Goes on asking the kernel while it searches.
    async fn find_holders(&self) -> Option<Vec<Watched>> {
        let (answer, found) = oneshot::channel();
        let search = Search {
            target: self.target,
            answer,
        };
        let search = async {
            // Both fail only when the runtime goes down: then as if nobody were visible.
            self.searches.send(search).await.ok()?;
            found.await.ok()
        };
        tokio::pin!(search);
        loop {
            if let Ok(found) = timeout(AFTER_DEATH_POLL, &mut search).await {
                let found = found.unwrap_or_default();
                return Some(
                    found
                        .into_iter()
                        .filter_map(|id| Watched::open_same(id).ok())
                        .collect(),
                );
            }
            self.inode()?;
        }
    }

    /// The inode of the socket that a connection would reach; none if nobody listens, or
    /// the kernel does not tell.
    fn inode(&self) -> Option<u64> {
        let socket = diag::listening(self.target).ok().flatten();
        socket.map(|socket| socket.inode)
    }

    fn say_nobody(&self) {
        let death_of = match &self.seen {
            Seen::Never => return self.say(Presence::Unseen),
            Seen::Hidden => None,
            Seen::Held {
                main,
                identity,
                died,
            } => match Watched::open_same(*identity) {
                Err(ProcessError::Ended { .. } | ProcessError::Replaced { .. }) => {
                    Some(main.clone())
                }
                // A process closes its files a moment before it is dead: the oldest may
                // be about to die behind the others.
                Ok(_) | Err(ProcessError::Refused { .. }) => died.clone(),
            },
        };
        if !matches!(*self.publish.borrow(), Presence::Gone { .. }) {
            self.say(Presence::Gone {
                since: clock::now(),
                death_of,
            });
        }
    }

    fn say(&self, presence: Presence) {
        self.publish.send_if_modified(|old| {
            let news = *old != presence;
            *old = presence;
            news
        });
    }

    /// Waits for the next of steady questions; longer when many addresses poll.
    async fn poll_pause(&self) {
        let _one = Counted::new(&self.pollers);
        let pollers = self.pollers.load(Ordering::Relaxed);
        let factor = pollers.div_ceil(POLLERS_FREE).max(1);
        sleep(POLL.saturating_mul(u32::try_from(factor).unwrap_or(u32::MAX))).await;
    }
}

/// Counts one poller while it waits, also when its task is stopped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A wish to know who holds the sockets behind an address.
struct Search {
    target: SocketAddr,
    answer: oneshot::Sender<Vec<Identity>>,
}

/// Serves all searches that wait with one pass through `/proc`, and rests in between.
async fn scan(mut queue: mpsc::Receiver<Search>) {
    let mut searches = Vec::new();
    while queue.recv_many(&mut searches, SEARCHES_MAX).await > 0 {
        let targets: Vec<SocketAddr> = searches.iter().map(|search| search.target).collect();
        let begun = Instant::now();
        let found = tokio::task::spawn_blocking(move || find_all(&targets)).await;
        let found = found.unwrap_or_default();
        for search in searches.drain(..) {
            let holders = found.get(&search.target).cloned().unwrap_or_default();
            // The asker may have gone by now.
            let _ = search.answer.send(holders);
        }
        sleep(SCAN_PAUSE.max(begun.elapsed().saturating_mul(SCAN_SHARE))).await;
    }
}

/// The holders behind each of `targets`, oldest first. Slow: blocks.
fn find_all(targets: &[SocketAddr]) -> BTreeMap<SocketAddr, Vec<Identity>> {
    let Ok(sockets) = diag::sockets() else {
        return BTreeMap::new();
    };
    let behind = |target: SocketAddr| {
        sockets
            .iter()
            .filter(move |socket| socket.serves(target))
            .map(|socket| socket.inode)
    };
    let wanted: BTreeSet<u64> = targets.iter().flat_map(|target| behind(*target)).collect();
    let Ok(holders) = holders::find(&wanted) else {
        return BTreeMap::new();
    };
    targets
        .iter()
        .map(|target| {
            let all = behind(*target)
                .filter_map(|inode| holders.by_inode.get(&inode))
                .flatten();
            (
                *target,
                all.copied().collect::<BTreeSet<_>>().into_iter().collect(),
            )
        })
        .collect()
}
