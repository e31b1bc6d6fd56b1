//! The engine: what the daemon calls.

use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use evenkeel_core::names::{Epoch, GroupId, NodeId};
use openraft::alias::InstantOf;
use openraft::async_runtime::WatchReceiver as _;
use openraft::{AsyncRuntime, Config, Instant as _, Raft, SnapshotPolicy, StepDownPolicy};

use crate::error::{ConsensusError, TransferError};
use crate::event::{Event, Events, Teller};
use crate::log::Log;
use crate::peer::{Peers, ask};
use crate::ports::{Floor, Floors, Image, Network, OATH_BEFORE, Ports};
use crate::runtime::{Live, Runtime, unbroken};
use crate::settings::{APPEND_ENTRIES_MAX, ElectionTiming, Limits, Settings};
use crate::state::{Desk, State, StateParts, Telling};
use crate::status::{Follower, Status};
use crate::types::{Types, epoch_of};
use crate::v1::{self, Reply, Request};
use crate::watch;
use crate::writer::Writer;

mod propose;
mod receive;
mod trust;
mod whole;

pub use whole::Members;

/// How long each step of a shutdown may take: a disk that hangs must not keep the daemon alive.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);

/// A request may wait here while the engine is busy; more would only be answered too late.
const CALLS_WAITING_MAX: u64 = 1024;

/// Agreement among the voters. Clones are the same engine.
pub struct Engine<R: Runtime = Live> {
    pub(crate) inner: Arc<Inner<R>>,
}

impl<R: Runtime> Clone for Engine<R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<R: Runtime> core::fmt::Debug for Engine<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Engine of {:?}", self.inner.me)
    }
}

/// What all clones share.
pub(crate) struct Inner<R: Runtime> {
    pub(crate) me: NodeId,
    /// All voters of the configuration, whether or not they vote in this generation now.
    pub(crate) voters: BTreeSet<u64>,
    /// See [`crate::generation`].
    pub(crate) generation: u64,
    /// The members when the engine was started.
    pub(crate) members_at_start: v1::Members,
    pub(crate) timing: ElectionTiming,
    pub(crate) raft: Raft<Types<R>, State<R>>,
    pub(crate) log: Log<R>,
    pub(crate) writer: Writer<R>,
    pub(crate) desk: Arc<Desk<R>>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) floors: Arc<dyn Floors>,
    pub(crate) teller: Teller,
    /// The log was not lost since this node's oath.
    pub(crate) sworn: AtomicBool,
    pub(crate) voting: AtomicBool,
    /// A log that was lost follows leaders from this term on.
    pub(crate) trusted_from: AtomicU64,
    pub(crate) disk_slow: AtomicBool,
    pub(crate) stopping: AtomicBool,
    /// How many appends of a leader were taken.
    pub(crate) heard: AtomicU64,
    /// Since when leadership is being handed over, and in which term.
    pub(crate) handing: Mutex<Option<(InstantOf<Types<R>>, u64)>>,
}

impl<R: Runtime> Inner<R> {
    /// Whether this node seeks leadership: it may vote, and its disk is quick.
    pub(crate) fn apply_seeking(&self, despite_disk: bool) {
        let slow = self.disk_slow.load(Ordering::Relaxed) && !despite_disk;
        self.raft
            .runtime_config()
            .elect(self.voting.load(Ordering::Relaxed) && !slow);
    }

    /// Whether its log is known not to have been lost.
    pub(crate) fn remembers(&self) -> bool {
        self.sworn.load(Ordering::Relaxed)
    }

    /// Whether this node would take leadership.
    pub(crate) fn fit(&self) -> bool {
        let slow = self.disk_slow.load(Ordering::Relaxed);
        self.voting.load(Ordering::Relaxed) && !slow && !self.stopping.load(Ordering::Relaxed)
    }

    /// Whether `to` would take leadership now. Asked first, because the engine leads no more once
    /// it has begun to hand over, whether or not the other takes it.
    pub(crate) async fn is_fit(&self, to: NodeId) -> bool {
        let ttl = self.timing.election_min;
        let answer = self.ask(to, &Request::Fit, ttl).await;
        answer == Ok(Reply::Fit(true))
    }

    /// Sends one request in this generation and reads its reply, within `ttl`.
    pub(crate) async fn ask(
        &self,
        to: NodeId,
        request: &Request,
        ttl: Duration,
    ) -> Result<Reply, crate::NetworkError> {
        ask::<R>(&*self.network, to, self.generation, request, ttl).await
    }

    /// Who votes now, as far as this node's log tells.
    pub(crate) fn members(&self) -> v1::Members {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        match metrics.membership_config.log_id() {
            Some(_) => v1::Members::of(metrics.membership_config.membership()),
            // The log names nobody, or the engine has not said so yet.
            None => self.members_at_start.clone(),
        }
    }

    /// Begins to hand leadership over.
    pub(crate) async fn hand_over(&self, to: NodeId) -> Result<(), TransferError> {
        let term = self
            .raft
            .server_metrics()
            .borrow_watched()
            .vote
            .leader_id
            .term;
        *self.handing.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((InstantOf::<Types<R>>::now(), term));
        let begun = self.raft.trigger().transfer_leader(to.0).await;
        begun.map_err(|_| TransferError::Stopped)
    }

    /// For how long this node has been handing over leadership that it still has.
    pub(crate) fn handing(&self) -> Option<Duration> {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let mut handing = self.handing.lock().unwrap_or_else(PoisonError::into_inner);
        let leads = metrics.current_leader == Some(self.me.0);
        let term = metrics.vote.leader_id.term;
        *handing = handing.filter(|(_, handed)| leads && *handed == term);
        handing.map(|(since, _)| since.elapsed())
    }
}

/// The settings in the engine's words.
fn config(settings: &Settings) -> Result<Config, ConsensusError> {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let ElectionTiming {
        heartbeat,
        election_min,
        election_max,
        ..
    } = settings.timing;
    let Limits {
        snapshot_every,
        entries_kept,
        ..
    } = settings.limits;
    Config {
        cluster_name: "evenkeel".to_owned(),
        heartbeat_interval: millis(heartbeat),
        election_timeout_min: millis(election_min),
        election_timeout_max: millis(election_max),
        // A snapshot travels in one request, on links that carry a megabyte in this time.
        install_snapshot_timeout: millis(election_max.max(Duration::from_secs(2))),
        max_payload_entries: APPEND_ENTRIES_MAX,
        replication_lag_threshold: snapshot_every.saturating_mul(2),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        max_in_snapshot_log_to_keep: entries_kept,
        api_channel_size: Some(CALLS_WAITING_MAX),
        // The engine's internal queues; their unit is a word or two.
        notification_channel_size: Some(4096),
        state_machine_channel_size: Some(256),
        // Followers get entries while the leader's own disk is still busy with them: a leader
        // with a slow disk delays no decision (rule 11).
        broadcast_submitted_on_append: Some(true),
        enable_elect: settings.may_vote,
        // A leader is never removed: a generation of one voter only grows.
        removed_leader_step_down: StepDownPolicy::Never,
        // A node that cannot win must not disturb one that leads.
        enable_pre_vote: Some(true),
        // A peer that comes back is talked to at once, not after the default of up to a second.
        backoff: "20ms 50ms 100ms ...300ms".to_owned(),
        // A voter that lost its disk comes back with an empty log. Without this the leader would
        // panic. What makes it safe is that such a voter does not vote until it is readmitted
        // (rule 8), and takes entries only from a leader that was not left behind (`trust`): what
        // only it and that leader had is still on the leader.
        allow_log_reversion: Some(true),
        // A leader that restarts asks for votes again, like anybody.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
    .validate()
    .map_err(|error| ConsensusError::Timing(error.to_string()))
}

/// The members that the log or the snapshot names, if either does.
fn stored_members<R: Runtime>(
    log: &Log<R>,
    image: &Image,
) -> Result<Option<v1::Members>, ConsensusError> {
    if let Some(members) = log.members() {
        return Ok(Some(members));
    }
    let snapshot: Option<v1::Snapshot> = image
        .snapshot
        .as_deref()
        .map(|bytes| crate::log::stored(bytes, "snapshot"))
        .transpose()?;
    Ok(snapshot
        .filter(|snapshot| snapshot.voters_at.is_some())
        .map(|snapshot| snapshot.members))
}

/// Whether a log of `generation` with such members belongs to a configuration with these voters:
/// at first all vote, in a later generation all are named. Somebody votes in any: a majority of
/// nobody is always there, and would agree to anything.
pub(crate) fn fits(members: &v1::Members, generation: u64, voters: &BTreeSet<u64>) -> bool {
    let configs = &members.configs;
    let all_vote = configs.iter().all(|config| config == voters);
    let somebody_votes = !configs.is_empty() && configs.iter().all(|config| !config.is_empty());
    somebody_votes && &members.everybody() == voters && (all_vote || generation > 0)
}

fn stopped_text<E: core::fmt::Display>(error: E) -> ConsensusError {
    ConsensusError::Engine(error.to_string())
}

impl<R: Runtime> Engine<R> {
    /// Starts the engine: opens the disk, brings the machine up to date, joins the voters.
    ///
    /// The first event is [`Event::Restored`]. A node whose log is empty forms the cluster with
    /// the others; all must be given the same voters.
    pub async fn start(settings: Settings, ports: Ports) -> Result<(Self, Events), ConsensusError> {
        if !settings.voters.contains(&settings.me) {
            return Err(ConsensusError::NotAVoter(settings.me));
        }
        let config = config(&settings)?;
        let (teller, events) = Teller::new();
        let (writer, image) = Writer::<R>::start(ports.disk, teller.clone()).await?;
        let parts = Assembly {
            settings,
            config,
            writer: writer.clone(),
            image,
            teller,
        };
        match parts
            .assemble(ports.network, ports.machine, ports.floors)
            .await
        {
            Ok(engine) => Ok((engine, events)),
            Err(error) => {
                // Gives the log's lock back before anybody reads the error.
                writer.stop().await;
                Err(error)
            }
        }
    }

    /// The floors that are durable on this node, at most one per group. For the lease machine at
    /// start and after [`Event::Restored`] and [`Event::Missed`].
    pub fn floors(&self) -> Vec<Floor> {
        self.inner.writer.floors()
    }

    /// The epoch of the newest assignment of a group that this node's log has ever had.
    pub fn floor_of(&self, group: GroupId) -> Option<Epoch> {
        self.inner.writer.floor_of(group)
    }

    /// Whether the entry of an epoch is in this node's log. One that is not was decided and has been
    /// purged since, which the machine knows, or was truncated.
    pub fn has_entry(&self, epoch: Epoch) -> bool {
        self.inner.log.has(epoch)
    }

    /// Who leads, as far as this node knows: a leader that has died is named until another asks
    /// for votes.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner
            .raft
            .server_metrics()
            .borrow_watched()
            .current_leader
            .map(NodeId)
    }

    /// Hands leadership to voter `to`, and waits until it has it. For this node when it leads:
    /// leadership belongs on a node that does not hold.
    pub async fn transfer(&self, to: NodeId) -> Result<(), TransferError> {
        let inner = &self.inner;
        if !inner
            .members()
            .configs
            .iter()
            .all(|config| config.contains(&to.0))
        {
            return Err(TransferError::NotAVoter(to));
        }
        let leader = self.leader();
        if leader != Some(inner.me) {
            return Err(TransferError::NotLeader(leader));
        }
        if to == inner.me {
            return Ok(());
        }
        if !inner.is_fit(to).await {
            return Err(TransferError::Refused(to));
        }
        inner.hand_over(to).await?;
        let mut seen = inner.raft.server_metrics();
        let taken = async {
            while seen.borrow_and_update().current_leader != Some(to.0) {
                if seen.changed().await.is_err() {
                    return Err(TransferError::Stopped);
                }
            }
            Ok(())
        };
        let within = inner.timing.election_max * 2;
        match <R::Async as AsyncRuntime>::timeout(within, taken).await {
            Ok(outcome) => outcome,
            Err(_) => Err(TransferError::TimedOut(to, within)),
        }
    }

    /// Marks the log as that of a node that votes, under an oath of this number. Ends once that is
    /// durable, or when the log thread ends; it does not hold up the engine's own end.
    pub fn swear(&self, oath: u64) -> impl Future<Output = Result<(), ConsensusError>> + use<R> {
        let inner = self.inner.clone();
        async move {
            let sworn = inner.log.swear(oath).await;
            sworn.map_err(|error| ConsensusError::Engine(error.to_string()))?;
            inner.sworn.store(true, Ordering::Relaxed);
            Ok(())
        }
    }

    /// Says which oaths are noted outside of the log: a log that bears another one is an old copy.
    /// Without a note any is believed. Until this is said, the log counts as lost.
    pub fn believe(&self, noted: &[u64]) {
        let believed = |oath| noted.is_empty() || noted.contains(&oath);
        let sworn = self.inner.log.oath().is_some_and(believed);
        self.inner.sworn.store(sworn, Ordering::Relaxed);
    }

    /// Whether this node votes and may be elected. A voter that lost its memory takes entries all
    /// the same, until it is readmitted (rule 8). Only if [`Status::remembers`], as after
    /// [`Engine::swear`] or [`Engine::believe`].
    pub fn set_voting(&self, voting: bool) {
        debug_assert!(!voting || self.inner.remembers(), "not sworn");
        if self.inner.voting.swap(voting, Ordering::Relaxed) == voting {
            return;
        }
        self.inner.apply_seeking(false);
        if voting {
            watch::form(&self.inner);
        }
    }

    /// For how long the log's disk has owed an answer, if it does.
    pub fn disk_waiting(&self) -> Option<Duration> {
        self.inner.writer.pace().waiting
    }

    /// The engine's state.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let metrics = inner.raft.metrics().borrow_watched().clone();
        let heard = |node: u64| {
            metrics
                .heartbeat
                .as_ref()?
                .get(&node)
                .copied()
                .flatten()
                .map(|at| at.elapsed())
        };
        let followers = metrics.replication.as_ref().map(|replication| {
            replication
                .iter()
                .filter(|(node, _)| **node != inner.me.0)
                .map(|(node, matched)| Follower {
                    node: NodeId(*node),
                    matched: matched.as_ref().map(|id| id.index),
                    heard: heard(*node),
                })
                .collect()
        });
        Status {
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            last_index: inner.log.last_index(),
            committed: metrics.local_committed.as_ref().map(epoch_of),
            applied: metrics.last_applied.as_ref().map(epoch_of),
            snapshot: metrics.snapshot.as_ref().map(epoch_of),
            quorum_heard: metrics.last_quorum_acked.map(|at| at.elapsed()),
            followers: followers.unwrap_or_default(),
            oath: inner.log.oath(),
            remembers: inner.remembers(),
            voting: inner.voting.load(Ordering::Relaxed),
            disk_slow: inner.disk_slow.load(Ordering::Relaxed),
            last_write: inner.writer.pace().took,
            stopped: metrics.running_state.err().map(|error| error.to_string()),
        }
    }

    /// Stops the engine and gives the log's lock back. Bounded, even when the disk hangs.
    pub async fn shutdown(self) {
        let inner = &self.inner;
        inner.stopping.store(true, Ordering::Relaxed);
        let within = SHUTDOWN_WITHIN;
        let raft = inner.raft.clone();
        let ends = unbroken::<R, _>(async move { raft.shutdown().await.is_ok() });
        drop(<R::Async as AsyncRuntime>::timeout(within, ends).await);
        drop(<R::Async as AsyncRuntime>::timeout(within, inner.log.settle()).await);
        drop(<R::Async as AsyncRuntime>::timeout(within, inner.writer.stop()).await);
        inner.teller.close();
    }
}

/// The parts of an engine before they are one.
struct Assembly<R: Runtime> {
    settings: Settings,
    config: Config,
    writer: Writer<R>,
    image: Image,
    teller: Teller,
}

impl<R: Runtime> Assembly<R> {
    async fn assemble(
        self,
        network: Arc<dyn Network>,
        machine: Box<dyn crate::Machine>,
        floors: Arc<dyn Floors>,
    ) -> Result<Engine<R>, ConsensusError> {
        let Self {
            settings,
            config,
            writer,
            image,
            teller,
        } = self;
        let log = Log::open(&image, writer.clone(), floors.clone())?;
        if settings.may_vote {
            let sworn = log.swear(log.oath().unwrap_or(OATH_BEFORE)).await;
            sworn.map_err(|error| ConsensusError::Engine(error.to_string()))?;
        }
        let voters: BTreeSet<u64> = settings.voters.iter().map(|node| node.0).collect();
        let generation = image.generation;
        let stored = stored_members(&log, &image)?;
        if stored
            .as_ref()
            .is_some_and(|stored| !fits(stored, generation, &voters))
        {
            return Err(ConsensusError::OtherVoters);
        }
        let desk = Desk::new();
        let telling = Arc::new(Telling::default());
        let state = State::new(StateParts {
            machine,
            rules: floors.clone(),
            desk: desk.clone(),
            snapshot: image.snapshot,
            writer: writer.clone(),
            teller: teller.clone(),
            telling: telling.clone(),
        });
        let peers = Peers {
            me: settings.me,
            generation,
            network: network.clone(),
            append_ttl: settings.timing.election_min,
        };
        let raft = Raft::build(settings.me.0, Arc::new(config), peers, log.clone(), state)
            .await
            .map_err(stopped_text)?;
        let inner = Arc::new(Inner {
            me: settings.me,
            voters,
            generation,
            members_at_start: stored.unwrap_or_default(),
            timing: settings.timing,
            raft,
            log,
            writer,
            desk,
            network,
            floors,
            teller,
            sworn: AtomicBool::new(settings.may_vote),
            voting: AtomicBool::new(settings.may_vote),
            trusted_from: AtomicU64::new(u64::MAX),
            disk_slow: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            handing: Mutex::new(None),
        });
        let engine = Engine { inner };
        telling.start();
        let applied = engine.inner.desk.applied().unwrap_or_default();
        engine.inner.teller.tell(Event::Restored { applied });
        engine.inner.raft.run();
        watch::start(&engine.inner);
        if settings.may_vote {
            watch::form(&engine.inner);
        }
        Ok(engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration without voters would fit wherever all are named.
    #[test]
    fn members_fit_only_if_somebody_votes() {
        let voters = BTreeSet::from([1, 2, 3]);
        let fits = |configs: &[&[u64]], learners: &[u64], generation| {
            let members = v1::Members {
                configs: configs
                    .iter()
                    .map(|one| one.iter().copied().collect())
                    .collect(),
                learners: learners.iter().copied().collect(),
            };
            fits(&members, generation, &voters)
        };
        assert!(fits(&[&[1, 2, 3]], &[], 0));
        assert!(fits(&[&[1]], &[2, 3], 1));
        assert!(fits(&[&[1], &[1, 2, 3]], &[], 1));
        assert!(!fits(&[&[1]], &[2, 3], 0));
        for generation in [0, 1] {
            assert!(!fits(&[], &[1, 2, 3], generation), "nobody votes");
            assert!(!fits(&[&[]], &[1, 2, 3], generation), "nobody votes");
            assert!(!fits(&[&[1, 2, 3], &[]], &[], generation), "half of it");
            assert!(!fits(&[&[1, 2]], &[], generation), "somebody is not named");
        }
    }
}
