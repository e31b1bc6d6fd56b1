//! Disks that hang and disks that fail (DESIGN 3.1 rule 11).
//!
//! These run on one thread: if a stuck disk blocked the runtime, nothing here would move.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::harness::*;
use crate::{Disk, DiskError, Event, Image, ProposeError, TransferError, Write, v1};

/// What the test does to the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Hangs,
    Full,
}

/// A disk in the test's hands.
#[derive(Clone)]
struct Hand(Arc<(Mutex<Mood>, Condvar)>);

impl Hand {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(Mood::Well), Condvar::new())))
    }

    fn set(&self, mood: Mood) {
        *self.0.0.lock().unwrap() = mood;
        self.0.1.notify_all();
    }
}

struct Held {
    inner: Box<dyn Disk>,
    hand: Hand,
}

impl Disk for Held {
    fn load(&mut self) -> Result<Image, DiskError> {
        self.inner.load()
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), DiskError> {
        let (mood, changed) = &*self.hand.0;
        let mut mood = mood.lock().unwrap();
        while *mood == Mood::Hangs {
            mood = changed.wait(mood).unwrap();
        }
        if *mood == Mood::Full {
            return Err(DiskError::Full {
                doing: "write the log",
                path: "/there".into(),
            });
        }
        self.inner.write(writes)
    }
}

async fn held_cluster() -> (Cluster, [Hand; 3]) {
    let mut cluster = Cluster::empty();
    let hands = [Hand::new(), Hand::new(), Hand::new()];
    for (node, hand) in ALL.into_iter().zip(&hands) {
        let inner = cluster.file(node);
        cluster
            .start_with(
                settings(node),
                Box::new(Held {
                    inner,
                    hand: hand.clone(),
                }),
            )
            .await;
    }
    (cluster, hands)
}

#[tokio::test]
async fn a_leader_whose_disk_hangs_gives_leadership_up_until_it_is_quick() {
    let (mut cluster, hands) = held_cluster().await;
    let leader = cluster.leader().await;
    let hand = hands[usize::try_from(leader.0).expect("small") - 1].clone();
    hand.set(Mood::Hangs);
    // Decided by the others, though the leader cannot write it down.
    let epoch = cluster
        .engine(leader)
        .propose(1, b"go".to_vec())
        .await
        .expect("applied");
    let node = cluster.nodes.get_mut(&leader).expect("it runs");
    let waiting = node
        .event(|event| match event {
            Event::DiskSlow { waiting } => Some(*waiting),
            Event::Appended { .. } => panic!("nothing is durable on a disk that hangs"),
            _ => None,
        })
        .await;
    assert!(waiting > TIMING.append_slow, "{waiting:?}");
    let next = cluster.leader_but(Some(leader)).await;
    let later = cluster
        .engine(next)
        .propose(2, b"on".to_vec())
        .await
        .expect("applied");
    assert!(later > epoch);
    // It takes no leadership while the disk hangs, and nothing breaks by asking.
    let refused = cluster.engine(next).transfer(leader).await;
    assert_eq!(refused, Err(TransferError::Refused(leader)));
    hand.set(Mood::Well);
    let node = cluster.nodes.get_mut(&leader).expect("it runs");
    node.event(|event| matches!(event, Event::DiskQuick { .. }).then_some(()))
        .await;
    cluster.applied(leader, b"on").await;
    cluster.leader().await;
    cluster
        .engine(next)
        .transfer(leader)
        .await
        .expect("it takes it again");
}

/// Whoever is to take over must be known to be unable before there is anything to decide.
#[tokio::test]
async fn a_disk_that_hangs_is_noticed_though_nothing_is_written() {
    let (mut cluster, hands) = held_cluster().await;
    let leader = cluster.leader().await;
    let [quiet, _] = others(leader);
    hands[usize::try_from(quiet.0).expect("small") - 1].set(Mood::Hangs);
    let node = cluster.nodes.get_mut(&quiet).expect("it runs");
    node.event(|event| matches!(event, Event::DiskSlow { .. }).then_some(()))
        .await;
    let waiting = node.engine.disk_waiting().expect("a write waits");
    assert!(waiting > TIMING.append_slow, "{waiting:?}");
    hands[usize::try_from(quiet.0).expect("small") - 1].set(Mood::Well);
    node.event(|event| matches!(event, Event::DiskQuick { .. }).then_some(()))
        .await;
}

#[tokio::test]
async fn a_disk_that_fails_stops_the_engine_and_says_so() {
    let (mut cluster, hands) = held_cluster().await;
    let leader = cluster.leader().await;
    hands[usize::try_from(leader.0).expect("small") - 1].set(Mood::Full);
    let [other, _] = others(leader);
    let proposer = cluster.engine(leader).clone();
    let lost = tokio::spawn(async move { proposer.propose(1, b"go".to_vec()).await });
    let node = cluster.nodes.get_mut(&leader).expect("it runs");
    let reason = node
        .event(|event| match event {
            Event::DiskFailed { reason } => Some(reason.clone()),
            _ => None,
        })
        .await;
    assert!(reason.contains("/there: the disk is full"), "{reason}");
    node.event(|event| matches!(event, Event::Stopped { .. }).then_some(()))
        .await;
    // Otherwise whoever listens would wait for ever, and never start it again.
    let end = tokio::time::timeout(super::harness::PATIENCE, async {
        while node.events.next().await.is_some() {}
    });
    end.await.expect("the events end with the engine");
    assert!(cluster.engine(leader).status().stopped.is_some());
    // It may have been decided by the others before the engine stopped.
    let lost = lost.await.expect("no panic");
    assert!(
        matches!(lost, Ok(_) | Err(ProposeError::Stopped)),
        "{lost:?}"
    );
    cluster.stop(leader).await;
    cluster.leader().await;
    cluster
        .engine(other)
        .propose(2, b"on".to_vec())
        .await
        .expect("the others go on");
}

#[tokio::test]
async fn a_disk_that_hangs_does_not_hold_a_shutdown_up() {
    let (mut cluster, hands) = held_cluster().await;
    let leader = cluster.leader().await;
    let hand = hands[usize::try_from(leader.0).expect("small") - 1].clone();
    hand.set(Mood::Hangs);
    cluster
        .engine(leader)
        .propose(1, b"go".to_vec())
        .await
        .expect("applied");
    let stopping = cluster.stop(leader);
    tokio::time::timeout(Duration::from_secs(10), stopping)
        .await
        .expect("it is bounded");
    hand.set(Mood::Well);
}

/// Seed 15 of the whole simulated world: patience with a shutdown ended while the disk hung, and
/// the next peer to ask brought the process down.
#[tokio::test]
async fn whoever_asks_an_engine_that_could_not_be_stopped_in_time_is_answered() {
    let (mut cluster, hands) = held_cluster().await;
    let leader = cluster.leader().await;
    let [asked, asks] = others(leader);
    let hand = hands[usize::try_from(asked.0).expect("small") - 1].clone();
    hand.set(Mood::Hangs);
    let engine = cluster.engine(asked).clone();
    let vote = v1::Vote {
        term: 1000,
        node: asks.0,
        committed: false,
    };
    let ballot = v1::encode(&v1::Asked {
        generation: engine.generation(),
        request: &v1::Request::Vote {
            vote,
            last: Some(v1::LogId {
                term: 999,
                index: 1_000_000,
            }),
            transfer: true,
        },
    });
    // It waits for the disk.
    let before = tokio::spawn({
        let (engine, ballot) = (engine.clone(), ballot.clone());
        async move { engine.handle(asks, ballot).await }
    });
    // The vote is being written: the engine has let the request in.
    while engine.disk_waiting().is_none() {
        tokio::task::yield_now().await;
    }
    let stopping = cluster.stop(asked);
    tokio::time::timeout(Duration::from_secs(10), stopping)
        .await
        .expect("it is bounded");
    hand.set(Mood::Well);
    let reply = tokio::time::timeout(super::harness::PATIENCE, before).await;
    let reply = reply.expect("it is answered").expect("without a panic");
    v1::decode::<v1::Reply>(&reply).expect("a reply");
}

/// A leader that decides before it knows what its predecessors decided decides about a group that is
/// elsewhere by now (seed 84 of the whole simulated world: opened and taken away within 1 ms).
#[tokio::test]
async fn who_leads_has_been_told_what_was_decided_before() {
    let (mut cluster, hands) = held_cluster().await;
    let leader = cluster.leader().await;
    let holds = |mood| {
        for (node, hand) in ALL.into_iter().zip(&hands) {
            if node != leader {
                hand.set(mood);
            }
        }
    };
    // It reaches the others, and is decided by none of them while this one leads.
    holds(Mood::Hangs);
    let proposer = cluster.engine(leader).clone();
    let proposed = tokio::spawn(async move { proposer.propose(1, b"before".to_vec()).await });
    let node = cluster.nodes.get_mut(&leader).expect("it runs");
    node.event(|event| matches!(event, Event::Appended { .. }).then_some(()))
        .await;
    for node in others(leader) {
        let waits = || cluster.engine(node).disk_waiting().is_some();
        while !waits() {
            tokio::task::yield_now().await;
        }
    }
    cluster.stop(leader).await;
    drop(proposed);
    holds(Mood::Well);
    let next = cluster.leader_but(Some(leader)).await;
    let node = cluster.nodes.get_mut(&next).expect("it runs");
    let mut known = false;
    node.event(|event| {
        if let Event::Committed { payload, .. } = event {
            known |= **payload == *b"before";
        }
        matches!(event, Event::Leading { .. }).then_some(())
    })
    .await;
    assert!(known, "it leads, and what was decided comes only now");
}
