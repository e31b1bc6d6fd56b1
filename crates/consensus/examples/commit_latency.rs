//! How long a proposal takes to be decided: three engines in one process, each with its log on
//! disk, joined by function calls. Prints distributions; judges nothing.
//!
//! `cargo run --release -p evenkeel-consensus --example commit_latency -- [DIR] [COUNT]`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use evenkeel_consensus::{
    BoxFuture, Engine, Limits, Live, LogFile, Machine, Network, NetworkError, Ports, Settings,
    Unreadable,
};
use evenkeel_core::names::{Epoch, NodeId};

type Engines = Arc<Mutex<BTreeMap<NodeId, Engine<Live>>>>;

/// Calls the peer's engine.
struct Calls {
    me: NodeId,
    engines: Engines,
}

impl Network for Calls {
    fn request(
        &self,
        to: NodeId,
        request: Vec<u8>,
        _ttl: Duration,
    ) -> BoxFuture<Result<Vec<u8>, NetworkError>> {
        let me = self.me;
        let engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = engines.get(&to).cloned();
        Box::pin(async move {
            let gone = || NetworkError::Unreachable("not started".to_owned());
            Ok(engine.ok_or_else(gone)?.handle(me, request).await)
        })
    }
}

/// Counts.
struct Count(u64);

impl Machine for Count {
    fn apply(&mut self, _: Epoch, _: &[u8]) {
        self.0 += 1;
    }
    fn snapshot(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }
    fn restore(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        let bytes = bytes
            .try_into()
            .map_err(|_| Unreadable("no count".to_owned()))?;
        self.0 = u64::from_be_bytes(bytes);
        Ok(())
    }
}

fn print(what: &str, mut spans: Vec<Duration>) {
    spans.sort();
    let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize];
    println!(
        "{what:<28} n {:>5}  min {:>9.2?}  p50 {:>9.2?}  p95 {:>9.2?}  p99 {:>9.2?}  max {:>9.2?}",
        spans.len(),
        at(0.0),
        at(0.5),
        at(0.95),
        at(0.99),
        at(1.0)
    );
}

async fn leader(nodes: &BTreeMap<NodeId, Engine<Live>>) -> NodeId {
    loop {
        let known: Vec<_> = nodes.values().map(Engine::leader).collect();
        if let [Some(first), ..] = known[..]
            && known.iter().all(|leader| *leader == Some(first))
        {
            return first;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn start(
    node: NodeId,
    dir: &std::path::Path,
    engines: &Engines,
) -> Result<Engine<Live>, Box<dyn std::error::Error>> {
    let disk = LogFile::new(dir.join(format!("{node:?}.redb")), node, Limits::default());
    let ports = Ports {
        disk: Box::new(disk),
        network: Arc::new(Calls {
            me: node,
            engines: engines.clone(),
        }),
        machine: Box::new(Count(0)),
        floors: Arc::new(()),
    };
    let (engine, mut events) =
        Engine::start(Settings::new(node, (1..=3).map(NodeId).collect()), ports).await?;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    engines
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(node, engine.clone());
    Ok(engine)
}

async fn commits(
    what: &str,
    by: &Engine<Live>,
    requests: core::ops::Range<u128>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut spans = Vec::new();
    for request in requests {
        let began = Instant::now();
        by.propose(request, vec![0; 300]).await?;
        spans.push(began.elapsed());
    }
    print(what, spans);
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let default = std::env::temp_dir().join(format!("evenkeel-commit-{}", std::process::id()));
    let dir = arguments.next().map_or(default, PathBuf::from);
    let count: u128 = arguments.next().map_or(Ok(500), |count| count.parse())?;
    std::fs::create_dir_all(&dir)?;
    let engines: Engines = Arc::default();
    let mut nodes = BTreeMap::new();
    let began = Instant::now();
    for node in (1..=3).map(NodeId) {
        nodes.insert(node, start(node, &dir, &engines).await?);
    }
    let first = leader(&nodes).await;
    println!("first leader after {:.0?}", began.elapsed());
    commits("commit, from the leader", &nodes[&first], 0..count).await?;
    let follower = nodes
        .keys()
        .copied()
        .find(|node| *node != first)
        .ok_or("no follower")?;
    commits(
        "commit, from a follower",
        &nodes[&follower],
        count..2 * count,
    )
    .await?;
    let mut handed = Vec::new();
    for _ in 0..20 {
        let from = leader(&nodes).await;
        let to = nodes
            .keys()
            .copied()
            .find(|node| *node != from)
            .ok_or("no other")?;
        let began = Instant::now();
        nodes[&from].transfer(to).await?;
        handed.push(began.elapsed());
    }
    print("leadership handed over", handed);
    let mut replaced = Vec::new();
    for _ in 0..10 {
        let lost = leader(&nodes).await;
        engines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&lost);
        let engine = nodes.remove(&lost).ok_or("no leader")?;
        let began = Instant::now();
        engine.shutdown().await;
        leader_but(&nodes, lost).await;
        replaced.push(began.elapsed());
        nodes.insert(lost, start(lost, &dir, &engines).await?);
    }
    print("leader lost, next leads", replaced);
    for engine in nodes.into_values() {
        engine.shutdown().await;
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

async fn leader_but(nodes: &BTreeMap<NodeId, Engine<Live>>, lost: NodeId) {
    while leader(nodes).await == lost {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
