//! The tasks beside the engine: who leads, how the disk does, and the forming of a new cluster.
//!
//! Three tasks per engine. Each holds the engine weakly and ends when it does.
//!
//! The disk is judged by how long its oldest write has been waiting ([`Disk`]):
//!
//! | state | a write waits longer than `append_slow` | a write was durable in less than half of it |
//! | ----- | --------------------------------------- | -------------------------------------------- |
//! | quick | slow: tell, stop seeking leadership     | quick                                        |
//! | slow  | slow: hand leadership to a quicker voter | quick: tell, seek leadership again           |
//!
//! A slow leader that knows no quicker voter keeps leading: giving up would help nobody. A slow
//! node seeks leadership all the same when nobody has led for long, because a slow leader is
//! better than none. While there is nothing to write the disk is tried now and then.

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use evenkeel_core::names::NodeId;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use openraft::{AsyncRuntime, Instant as _};

use crate::engine::Inner;
use crate::event::Event;
use crate::ports::Write;
use crate::runtime::Runtime;
use crate::types::{Membership, Types, epoch_of};
use crate::v1;
use crate::writer::{Done, Order, Pace};

/// A snapshot is taken when the payloads in the log are more than this, however few they are. Must
/// be more than the entries kept behind a snapshot can be, or every look would take another.
const LOG_BYTES_SNAPSHOT: usize = 32 * 1024 * 1024;

/// How often a disk is tried that has nothing to write: a hung one is to be known before somebody
/// relies on it, and each try costs what a small decision does.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// How many longest elections a node with a slow disk leaves leadership to others.
const LEADERLESS_MAX: u32 = 5;

/// How many longest elections a slow leader waits before it hands over to somebody else.
const HANDOVER_PATIENCE: u32 = 2;

/// After how many longest elections a handover that nobody took is given up. The engine cannot
/// take leadership back, so it stops and is started again by the daemon; by then the others have
/// long chosen a leader, unless they cannot.
const HANDOVER_MAX: u32 = 10;

/// Starts the tasks that last as long as the engine.
pub(crate) fn start<R: Runtime>(inner: &Arc<Inner<R>>) {
    let seen = Seen {
        roles: inner.raft.server_metrics(),
        all: inner.raft.metrics(),
    };
    let teller = inner.teller.clone();
    let me = inner.me;
    drop(R::Async::spawn(tell_role::<R>(me, seen, teller)));
    drop(R::Async::spawn(look_after::<R>(Arc::downgrade(inner))));
}

/// What the engine shows of itself: who leads, which changes seldom, and everything.
struct Seen<R: Runtime> {
    roles: WatchReceiverOf<Types<R>, RaftServerMetrics<Types<R>>>,
    all: WatchReceiverOf<Types<R>, RaftMetrics<Types<R>>>,
}

/// Tells who leads, at first and at every change. That this node does, it says once it has applied an
/// entry of its own term, with which it begins: before that it does not know what its predecessors
/// have decided (the Raft paper, section 8), and must not conclude anything from what it knows.
async fn tell_role<R: Runtime>(me: NodeId, mut seen: Seen<R>, teller: crate::event::Teller) {
    let mut told = None;
    loop {
        let (leader, term) = {
            let roles = seen.roles.borrow_and_update();
            let leader = roles.current_leader.map(NodeId);
            (leader, roles.vote.leader_id.term)
        };
        let applied = {
            let all = seen.all.borrow_and_update();
            all.last_applied.as_ref().map(|id| epoch_of(id).term)
        };
        let (event, waits) = match leader {
            Some(leader) if leader == me && applied >= Some(term) => {
                (Event::Leading { term }, false)
            }
            Some(leader) if leader == me => (Event::Following { leader: None, term }, true),
            leader => (Event::Following { leader, term }, false),
        };
        if told.as_ref() != Some(&event) {
            teller.tell(event.clone());
            told = Some(event);
        }
        let changed = match waits {
            true => seen.all.changed().await,
            false => seen.roles.changed().await,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Forms the cluster if this node's log is empty. All voters do so with the same voters, which the
/// engine allows; one goes first, so that the first election has one candidate. A node that comes
/// late hears from the leader during the wait and has nothing to form.
pub(crate) fn form<R: Runtime>(inner: &Arc<Inner<R>>) {
    // Later generations are begun by `recover` and joined, never formed.
    if inner.generation > 0 {
        return;
    }
    let weak = Arc::downgrade(inner);
    let first = inner.voters.first() == Some(&inner.me.0);
    let wait = if first {
        Duration::ZERO
    } else {
        inner.timing.election_max * 2
    };
    drop(R::Async::spawn(async move {
        R::Async::sleep(wait).await;
        let Some(inner) = weak.upgrade() else { return };
        if !inner.voting.load(Ordering::Relaxed) {
            return;
        }
        let members: Membership = v1::membership(inner.voters.clone());
        let members: std::collections::BTreeMap<_, _> = members
            .nodes()
            .map(|(node, info)| (*node, info.clone()))
            .collect();
        // An error says that the log is not empty (any more), which is what was wanted.
        match inner.raft.initialize(members).await {
            Ok(()) => tracing::info!("formed the cluster with an empty log"),
            Err(error) => tracing::debug!(%error, "nothing to form"),
        }
    }));
}

/// What the disk is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) pace: Pace,
    pub(crate) last_index: Option<u64>,
    pub(crate) append_slow: Duration,
}

/// How the disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Quick,
    /// Slow; a voter that has this index on disk is quicker than this node was.
    Slow {
        since_index: Option<u64>,
    },
}

/// What follows from a look at the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As before, and quick.
    Fine,
    /// It has become slow.
    Slowed { waiting: Duration },
    /// It is still slow, and a write is waiting.
    StillSlow,
    /// It is still slow, and nothing is waiting: try it.
    Try,
    /// It has become quick.
    Recovered { took: Duration },
}

impl Disk {
    /// One look.
    pub(crate) fn judge(self, facts: Facts) -> (Self, Verdict) {
        let Facts {
            pace,
            last_index,
            append_slow,
        } = facts;
        match (self, pace.waiting) {
            (Self::Quick, Some(waiting)) if waiting > append_slow => (
                Self::Slow {
                    since_index: last_index,
                },
                Verdict::Slowed { waiting },
            ),
            (Self::Quick, _) => (Self::Quick, Verdict::Fine),
            (Self::Slow { .. }, Some(_)) => (self, Verdict::StillSlow),
            (Self::Slow { .. }, None) => match pace.took {
                Some(took) if took < append_slow / 2 => (Self::Quick, Verdict::Recovered { took }),
                _ => (self, Verdict::Try),
            },
        }
    }
}

async fn look_after<R: Runtime>(weak: std::sync::Weak<Inner<R>>) {
    let mut keeper = Keeper {
        disk: Disk::Quick,
        heard: 0,
        leaderless: 0,
        snapshot_asked: false,
        untried: 0,
    };
    loop {
        let Some(tick) = weak.upgrade().map(|inner| inner.timing.heartbeat) else {
            return;
        };
        R::Async::sleep(tick).await;
        let Some(inner) = weak.upgrade() else { return };
        if inner.stopping.load(Ordering::Relaxed) {
            return;
        }
        if let Err(reason) = inner.raft.metrics().borrow_watched().running_state.clone() {
            tracing::error!(%reason, "the engine has stopped");
            inner.teller.tell(Event::Stopped {
                reason: reason.to_string(),
            });
            // Nothing more will come: whoever listens starts it again.
            inner.teller.close();
            return;
        }
        if inner.handing() > Some(inner.timing.election_max * HANDOVER_MAX) {
            let reason = "a handover of leadership was not taken by anybody".to_owned();
            tracing::error!(reason, "the engine stops and must be started again");
            inner.teller.tell(Event::Stopped { reason });
            inner.teller.close();
            drop(inner.raft.shutdown().await);
            return;
        }
        keeper.look(&inner).await;
    }
}

struct Keeper {
    disk: Disk,
    /// How many appends of a leader had been taken at the last look.
    heard: u64,
    /// For how many looks no leader was heard.
    leaderless: u32,
    snapshot_asked: bool,
    /// For how many looks the disk has not been tried.
    untried: u32,
}

impl Keeper {
    /// A quiet log shows nothing of its disk, and a disk that hangs tells nobody: it would be
    /// noticed when something is to be decided, by the one who was to take over.
    async fn probe_now_and_then<R: Runtime>(&mut self, inner: &Arc<Inner<R>>) {
        self.untried += 1;
        if inner.timing.heartbeat * self.untried < PROBE_EVERY {
            return;
        }
        self.untried = 0;
        Self::probe(inner).await;
    }

    async fn probe<R: Runtime>(inner: &Arc<Inner<R>>) {
        let probe = Order {
            writes: vec![Write::Probe],
            events: Vec::new(),
            done: Done::Nobody,
        };
        drop(inner.writer.order(probe).await);
    }

    async fn look<R: Runtime>(&mut self, inner: &Arc<Inner<R>>) {
        let facts = Facts {
            pace: inner.writer.pace(),
            last_index: inner.log.last_index(),
            append_slow: inner.timing.append_slow,
        };
        let (disk, verdict) = self.disk.judge(facts);
        self.disk = disk;
        match verdict {
            Verdict::Fine => self.probe_now_and_then(inner).await,
            Verdict::Slowed { waiting } => {
                tracing::warn!(
                    ?waiting,
                    "the disk of the log is slow; this node does not seek leadership"
                );
                inner.disk_slow.store(true, Ordering::Relaxed);
                inner.apply_seeking(false);
                inner.teller.tell(Event::DiskSlow { waiting });
                self.give_up(inner).await;
            }
            Verdict::StillSlow => self.give_up(inner).await,
            Verdict::Try => {
                self.give_up(inner).await;
                Self::probe(inner).await;
            }
            Verdict::Recovered { took } => {
                tracing::info!(?took, "the disk of the log is quick again");
                inner.disk_slow.store(false, Ordering::Relaxed);
                inner.apply_seeking(false);
                inner.teller.tell(Event::DiskQuick { took });
            }
        }
        self.mind_leaderless(inner);
        self.mind_size(inner).await;
    }

    /// Hands leadership to the voter that is furthest, if one is quicker than this node.
    async fn give_up<R: Runtime>(&self, inner: &Inner<R>) {
        let Disk::Slow { since_index } = self.disk else {
            return;
        };
        let patience = inner.timing.election_max * HANDOVER_PATIENCE;
        if inner.handing().is_some_and(|since| since < patience) {
            return;
        }
        let metrics = inner.raft.metrics().borrow_watched().clone();
        let Some(replication) = metrics.replication else {
            return;
        };
        let mut quicker: Vec<(Option<u64>, u64)> = replication
            .iter()
            .filter(|(node, _)| **node != inner.me.0)
            .map(|(node, matched)| (matched.as_ref().map(|id| id.index), *node))
            .filter(|(matched, _)| *matched >= since_index)
            .collect();
        quicker.sort_unstable_by(|one, other| other.cmp(one));
        for (_, to) in quicker {
            if inner.is_fit(NodeId(to)).await {
                drop(inner.hand_over(NodeId(to)).await);
                return;
            }
        }
    }

    /// A slow leader is better than none.
    fn mind_leaderless<R: Runtime>(&mut self, inner: &Inner<R>) {
        let heard = inner.heard.load(Ordering::Relaxed);
        let leads = {
            let metrics = inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            let patience = inner.timing.election_max;
            metrics
                .last_quorum_acked
                .is_some_and(|at| at.elapsed() < patience)
        };
        let led = heard != self.heard || leads;
        self.heard = heard;
        self.leaderless = if led {
            0
        } else {
            self.leaderless.saturating_add(1)
        };
        if self.disk == Disk::Quick {
            return;
        }
        let bound = inner.timing.election_max * LEADERLESS_MAX;
        inner.apply_seeking(inner.timing.heartbeat * self.leaderless > bound);
    }

    /// Takes a snapshot early when the entries are large.
    async fn mind_size<R: Runtime>(&mut self, inner: &Inner<R>) {
        let large = inner.log.bytes() > LOG_BYTES_SNAPSHOT;
        if large && !self.snapshot_asked {
            drop(inner.raft.trigger().snapshot().await);
        }
        self.snapshot_asked = large;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_millis(300);

    fn judge(disk: Disk, waiting: Option<u64>, took: Option<u64>) -> (Disk, Verdict) {
        let pace = Pace {
            waiting: waiting.map(Duration::from_millis),
            took: took.map(Duration::from_millis),
        };
        disk.judge(Facts {
            pace,
            last_index: Some(7),
            append_slow: SLOW,
        })
    }

    /// The table at the top, and what lies between its columns.
    #[test]
    fn the_disk_is_judged_by_its_oldest_write() {
        let slow = Disk::Slow {
            since_index: Some(7),
        };
        let waiting = Duration::from_millis(301);
        assert_eq!(
            judge(Disk::Quick, Some(301), Some(1)),
            (slow, Verdict::Slowed { waiting })
        );
        assert_eq!(
            judge(Disk::Quick, Some(300), None),
            (Disk::Quick, Verdict::Fine)
        );
        assert_eq!(
            judge(Disk::Quick, None, Some(900)),
            (Disk::Quick, Verdict::Fine)
        );
        assert_eq!(judge(slow, Some(5), Some(1)), (slow, Verdict::StillSlow));
        assert_eq!(judge(slow, None, Some(150)), (slow, Verdict::Try));
        let took = Duration::from_millis(149);
        assert_eq!(
            judge(slow, None, Some(149)),
            (Disk::Quick, Verdict::Recovered { took })
        );
    }
}
