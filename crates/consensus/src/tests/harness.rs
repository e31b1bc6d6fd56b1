//! Clusters in one process: engines joined by a network of function calls that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evenkeel_core::names::{Epoch, GroupId, NodeId};
use openraft::AsyncRuntime;
use tempfile::TempDir;

use crate::v1::{self, Request};
use crate::{
    BoxFuture, Disk, ElectionTiming, Engine, Event, Events, Floors, Limits, Live, LogFile, Machine,
    Network, NetworkError, Ports, Runtime, Settings, Unreadable,
};

pub(super) const A: NodeId = NodeId(1);
pub(super) const B: NodeId = NodeId(2);
pub(super) const C: NodeId = NodeId(3);
pub(super) const ALL: [NodeId; 3] = [A, B, C];

/// Patience of every wait in these tests.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Quick elections that a busy test machine still keeps apart.
pub(super) const TIMING: ElectionTiming = ElectionTiming {
    heartbeat: Duration::from_millis(30),
    election_min: Duration::from_millis(120),
    election_max: Duration::from_millis(240),
    append_slow: Duration::from_millis(150),
    propose_within: Duration::from_secs(3),
};

/// What joins the engines.
pub(super) struct Wires<R: Runtime> {
    engines: Mutex<BTreeMap<NodeId, Engine<R>>>,
    /// Ordered pairs that do not reach each other.
    cuts: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// Appends with entries are lost, while heartbeats pass.
    entries_lost: AtomicBool,
    /// One way.
    latency: Duration,
}

impl<R: Runtime> Wires<R> {
    pub(super) fn new(latency: Duration) -> Arc<Self> {
        Arc::new(Self {
            engines: Mutex::default(),
            cuts: Mutex::default(),
            entries_lost: AtomicBool::new(false),
            latency,
        })
    }

    pub(super) fn join(&self, node: NodeId, engine: Engine<R>) {
        self.engines.lock().unwrap().insert(node, engine);
    }

    pub(super) fn leave(&self, node: NodeId) {
        drop(self.engines.lock().unwrap().remove(&node));
    }

    /// Cuts `node` off, both ways.
    pub(super) fn isolate(&self, node: NodeId) {
        let mut cuts = self.cuts.lock().unwrap();
        for other in ALL {
            cuts.extend([(node, other), (other, node)]);
        }
    }

    pub(super) fn heal(&self) {
        self.cuts.lock().unwrap().clear();
    }

    /// Loses, or passes again, appends with entries.
    pub(super) fn lose_entries(&self, lost: bool) {
        self.entries_lost.store(lost, Ordering::Relaxed);
    }

    fn loses(&self, request: &[u8]) -> bool {
        let carries = || match v1::decode(request).map(|asked: v1::Asked<Request>| asked.request) {
            Ok(Request::Append { entries, .. }) => !entries.is_empty(),
            _ => false,
        };
        self.entries_lost.load(Ordering::Relaxed) && carries()
    }

    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !self.cuts.lock().unwrap().contains(&(from, to))
    }

    fn engine(&self, node: NodeId) -> Option<Engine<R>> {
        self.engines.lock().unwrap().get(&node).cloned()
    }
}

/// One node's end of the wires.
pub(super) struct Wire<R: Runtime> {
    pub(super) me: NodeId,
    pub(super) wires: Arc<Wires<R>>,
}

impl<R: Runtime> Network for Wire<R> {
    fn request(
        &self,
        to: NodeId,
        request: Vec<u8>,
        _ttl: Duration,
    ) -> BoxFuture<Result<Vec<u8>, NetworkError>> {
        let (me, wires) = (self.me, self.wires.clone());
        Box::pin(async move {
            let gone = || NetworkError::Unreachable("cut".to_owned());
            pause::<R>(wires.latency).await;
            if wires.loses(&request) {
                return Err(gone());
            }
            let engine = wires
                .engine(to)
                .filter(|_| wires.passes(me, to))
                .ok_or_else(gone)?;
            let reply = engine.handle(me, request).await;
            pause::<R>(wires.latency).await;
            if wires.passes(to, me) {
                Ok(reply)
            } else {
                Err(gone())
            }
        })
    }
}

async fn pause<R: Runtime>(span: Duration) {
    if !span.is_zero() {
        R::Async::sleep(span).await;
    }
}

/// A machine that writes down what it is told.
#[derive(Clone, Default)]
pub(super) struct Journal(pub(super) Arc<Mutex<Vec<Line>>>);

/// One applied entry.
pub(super) type Line = (Epoch, Vec<u8>);

impl Journal {
    pub(super) fn payloads(&self) -> Vec<Vec<u8>> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|(_, payload)| payload.clone())
            .collect()
    }
}

impl Machine for Journal {
    fn apply(&mut self, epoch: Epoch, payload: &[u8]) {
        let mut journal = self.0.lock().unwrap();
        assert!(
            journal.last().is_none_or(|(last, _)| *last < epoch),
            "epochs only grow"
        );
        journal.push((epoch, payload.to_vec()));
    }

    fn snapshot(&self) -> Vec<u8> {
        let rows: Vec<(u64, u64, Vec<u8>)> = self
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|(epoch, payload)| (epoch.term, epoch.index, payload.clone()))
            .collect();
        postcard::to_stdvec(&rows).unwrap()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        let rows: Vec<(u64, u64, Vec<u8>)> =
            postcard::from_bytes(bytes).map_err(|error| Unreadable(error.to_string()))?;
        *self.0.lock().unwrap() = rows
            .into_iter()
            .map(|(term, index, payload)| (Epoch { term, index }, payload))
            .collect();
        Ok(())
    }
}

/// A payload `assign <group> ...` raises the floor of the group.
pub(super) struct Rules;

impl Floors for Rules {
    fn floors(&self, payload: &[u8]) -> Vec<(GroupId, Vec<u8>)> {
        match payload {
            [b'a', b's', b's', b'i', b'g', b'n', b' ', group, ..] => {
                vec![(GroupId(u64::from(*group - b'0')), payload.to_vec())]
            }
            _ => Vec::new(),
        }
    }

    fn reads(&self, snapshot: &[u8]) -> Result<(), Unreadable> {
        Journal::default().restore(snapshot)
    }
}

/// One running node.
pub(super) struct Running<R: Runtime> {
    pub(super) engine: Engine<R>,
    pub(super) events: Events,
    pub(super) journal: Journal,
}

impl<R: Runtime> Running<R> {
    /// Waits for the first event for which `pick` has an answer.
    pub(super) async fn event<T>(&mut self, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let wanted = async {
            loop {
                let event = self.events.next().await.expect("the engine runs");
                if let Some(found) = pick(&event) {
                    return found;
                }
                seen.push(event);
            }
        };
        match tokio::time::timeout(PATIENCE, wanted).await {
            Ok(found) => found,
            Err(_) => panic!("the event does not come; these did: {seen:#?}"),
        }
    }
}

pub(super) fn settings(node: NodeId) -> Settings {
    Settings {
        timing: TIMING,
        limits: Limits {
            snapshot_every: 30,
            entries_kept: 5,
            ..Limits::default()
        },
        ..Settings::new(node, ALL.to_vec())
    }
}

/// Starts one node on `wires`.
pub(super) async fn start<R: Runtime>(
    settings: Settings,
    disk: Box<dyn Disk>,
    wires: &Arc<Wires<R>>,
) -> Running<R> {
    let (me, journal) = (settings.me, Journal::default());
    let ports = Ports {
        disk,
        network: Arc::new(Wire {
            me,
            wires: wires.clone(),
        }),
        machine: Box::new(journal.clone()),
        floors: Arc::new(Rules),
    };
    let (engine, events) = Engine::<R>::start(settings, ports)
        .await
        .expect("the engine starts");
    wires.join(me, engine.clone());
    Running {
        engine,
        events,
        journal,
    }
}

/// A cluster on files.
pub(super) struct Cluster {
    pub(super) dir: TempDir,
    pub(super) wires: Arc<Wires<Live>>,
    pub(super) nodes: BTreeMap<NodeId, Running<Live>>,
}

impl Cluster {
    /// No node runs yet.
    pub(super) fn empty() -> Self {
        Self {
            dir: TempDir::new().expect("a directory"),
            wires: Wires::new(Duration::ZERO),
            nodes: BTreeMap::new(),
        }
    }

    /// All nodes run and one leads.
    pub(super) async fn led() -> (Self, NodeId) {
        let mut cluster = Self::empty();
        for node in ALL {
            cluster.start(node).await;
        }
        let leader = cluster.leader().await;
        (cluster, leader)
    }

    pub(super) fn file(&self, node: NodeId) -> Box<LogFile> {
        let path = self.dir.path().join(format!("{node:?}.redb"));
        Box::new(LogFile::new(path, node, settings(node).limits))
    }

    pub(super) async fn start(&mut self, node: NodeId) {
        let disk = self.file(node);
        self.start_with(settings(node), disk).await;
    }

    /// As the daemon starts a voter whose log has no mark.
    pub(super) async fn start_without_vote(&mut self, node: NodeId) {
        let disk = self.file(node);
        let settings = Settings {
            may_vote: false,
            ..settings(node)
        };
        self.start_with(settings, disk).await;
    }

    pub(super) async fn start_with(&mut self, settings: Settings, disk: Box<dyn Disk>) {
        let node = settings.me;
        let running = start(settings, disk, &self.wires).await;
        self.nodes.insert(node, running);
    }

    pub(super) async fn stop(&mut self, node: NodeId) {
        self.wires.leave(node);
        let running = self.nodes.remove(&node).expect("it runs");
        running.engine.shutdown().await;
    }

    pub(super) fn engine(&self, node: NodeId) -> &Engine<Live> {
        &self.nodes[&node].engine
    }

    /// Waits until all running nodes agree on a leader, and answers it.
    pub(super) async fn leader(&self) -> NodeId {
        self.leader_but(None).await
    }

    /// The same among all but `former`.
    pub(super) async fn leader_but(&self, former: Option<NodeId>) -> NodeId {
        until("a leader", || {
            let led = |leader: NodeId| {
                self.nodes
                    .iter()
                    .filter(|(node, _)| Some(**node) != former)
                    .all(|(_, running)| running.engine.leader() == Some(leader))
            };
            self.nodes
                .keys()
                .copied()
                .find(|node| Some(*node) != former && led(*node))
        })
        .await
    }

    /// Waits until `node` has applied `payload`.
    pub(super) async fn applied(&self, node: NodeId, payload: &[u8]) {
        let journal = self.nodes[&node].journal.clone();
        until("the entry", || {
            journal
                .payloads()
                .iter()
                .any(|found| found == payload)
                .then_some(())
        })
        .await;
    }
}

/// Waits for an answer, at most [`PATIENCE`].
pub(super) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited too long for {what}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The nodes that are not `node`.
pub(super) fn others(node: NodeId) -> [NodeId; 2] {
    let mut rest = ALL.into_iter().filter(|other| *other != node);
    [
        rest.next().expect("three nodes"),
        rest.next().expect("three nodes"),
    ]
}
