//! Three nodes on files, in real time.

use std::sync::Arc;

use evenkeel_core::names::GroupId;

use super::harness::*;
use crate::{Disk as _, Event, ProposeError, TransferError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_from_any_node_is_applied_once_on_all() {
    let (cluster, leader) = Cluster::led().await;
    let [follower, other] = others(leader);
    let epoch = cluster
        .engine(follower)
        .propose(7, b"hello".to_vec())
        .await
        .expect("applied");
    // The same request again, from everywhere: the same epoch, and nothing new is applied.
    for node in [follower, other, leader] {
        let again = cluster
            .engine(node)
            .propose(7, b"hello".to_vec())
            .await
            .expect("applied");
        assert_eq!(again, epoch);
    }
    let last = cluster
        .engine(other)
        .propose(8, b"last".to_vec())
        .await
        .expect("applied");
    assert!(last > epoch);
    for node in ALL {
        cluster.applied(node, b"last").await;
        let journal = cluster.nodes[&node].journal.0.lock().unwrap().clone();
        assert_eq!(
            journal,
            [(epoch, b"hello".to_vec()), (last, b"last".to_vec())]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_proposed_everywhere_at_once_is_in_the_log_once() {
    let (cluster, leader) = Cluster::led().await;
    let before = cluster.engine(leader).status().last_index;
    let proposals = ALL.map(|node| {
        let engine = cluster.engine(node).clone();
        tokio::spawn(async move { engine.propose(1, b"assign 1".to_vec()).await })
    });
    let mut epochs = Vec::new();
    for proposal in proposals {
        epochs.push(proposal.await.expect("no panic").expect("applied"));
    }
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    // A second entry would raise a floor above the epoch that everybody was told.
    assert_eq!(
        cluster.engine(leader).status().last_index,
        before.map(|index| index + 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_the_leader_and_restarts() {
    let (mut cluster, leader) = Cluster::led().await;
    for request in 0..20 {
        let payload = format!("entry {request}").into_bytes();
        cluster
            .engine(leader)
            .propose(request, payload)
            .await
            .expect("applied");
    }
    cluster.stop(leader).await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    cluster
        .engine(next)
        .propose(100, b"after".to_vec())
        .await
        .expect("applied");
    // The former leader, from its disk.
    cluster.start(leader).await;
    cluster.applied(leader, b"after").await;
    // And all of them.
    for node in ALL {
        cluster.stop(node).await;
    }
    for node in ALL {
        cluster.start(node).await;
    }
    let again = cluster.leader().await;
    cluster
        .engine(again)
        .propose(101, b"reborn".to_vec())
        .await
        .expect("applied");
    let repeated = cluster
        .engine(again)
        .propose(3, b"entry 3".to_vec())
        .await
        .expect("known");
    for node in ALL {
        cluster.applied(node, b"reborn").await;
        let journal = cluster.nodes[&node].journal.0.lock().unwrap().clone();
        assert_eq!(journal.len(), 22);
        assert_eq!(journal[3], (repeated, b"entry 3".to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_sent() {
    let (mut cluster, leader) = Cluster::led().await;
    let [to, other] = others(leader);
    assert_eq!(
        cluster.engine(other).transfer(to).await,
        Err(TransferError::NotLeader(Some(leader)))
    );
    cluster.engine(leader).transfer(to).await.expect("taken");
    assert_eq!(cluster.engine(leader).leader(), Some(to));
    let node = cluster.nodes.get_mut(&to).expect("it runs");
    node.event(|event| matches!(event, Event::Leading { .. }).then_some(()))
        .await;
    cluster
        .engine(leader)
        .propose(1, b"on".to_vec())
        .await
        .expect("applied");
}

/// What a leader concludes from what it knows in its term must not come after what another decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_proposed_in_a_term_is_decided_in_it_or_never() {
    let (mut cluster, mut leader) = Cluster::led().await;
    // On a busy machine another may have been elected meanwhile.
    let term = loop {
        let term = cluster.engine(leader).status().term;
        let payload = b"in time".to_vec();
        match cluster.engine(leader).propose_in(term, 1, payload).await {
            Ok(epoch) => {
                assert_eq!(epoch.term, term);
                break term;
            }
            Err(ProposeError::NotLeading) => leader = cluster.leader().await,
            Err(error) => panic!("{error}"),
        }
    };
    let [follower, _] = others(leader);
    let refused = Err(ProposeError::NotLeading);
    for (node, term) in [(follower, term), (leader, term - 1), (leader, term + 1)] {
        let late = cluster.engine(node).propose_in(term, 2, b"late".to_vec());
        assert_eq!(late.await, refused, "{node:?} in {term}");
    }
    // It takes the entry, nobody else gets it, and another leads: it is cut off, and not proposed
    // again to the other.
    let proposer = cluster.engine(leader).clone();
    cluster.wires.lose_entries(true);
    let lost = tokio::spawn(async move { proposer.propose_in(term, 3, b"lost".to_vec()).await });
    let node = cluster.nodes.get_mut(&leader).expect("it runs");
    let cut_off = node
        .event(|event| match event {
            Event::Appended { epoch, payload } => (payload[..] == b"lost"[..]).then_some(*epoch),
            _ => None,
        })
        .await;
    assert!(cluster.engine(leader).has_entry(cut_off));
    cluster.wires.isolate(leader);
    cluster.wires.lose_entries(false);
    let next = cluster.leader_but(Some(leader)).await;
    let next = cluster.engine(next).clone();
    next.propose(4, b"next".to_vec()).await.expect("applied");
    cluster.wires.heal();
    assert_eq!(lost.await.expect("no panic"), refused);
    let last = next.propose(5, b"last".to_vec()).await.expect("applied");
    for node in ALL {
        cluster.applied(node, b"last").await;
        assert!(cluster.engine(node).has_entry(last));
        assert!(!cluster.engine(node).has_entry(cut_off), "{node:?}");
        let decided = cluster.nodes[&node].journal.payloads();
        assert_eq!(decided, [&b"in time"[..], b"next", b"last"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_acknowledged() {
    let (cluster, leader) = Cluster::led().await;
    cluster.wires.isolate(leader);
    let lost = cluster.engine(leader).propose(1, b"lost".to_vec()).await;
    assert_eq!(lost, Err(ProposeError::TimedOut(TIMING.propose_within)));
    // It may still say that it leads, but not that anybody followed it lately.
    let heard = cluster.engine(leader).status().quorum_heard;
    assert!(
        heard.is_none_or(|age| age >= TIMING.propose_within / 2),
        "{heard:?}"
    );
    assert!(cluster.nodes[&leader].journal.payloads().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncation_lowers_no_floor() {
    let (mut cluster, leader) = Cluster::led().await;
    let group = GroupId(1);
    let proposer = cluster.engine(leader).clone();
    // The leader keeps leading, so that it takes the entry, but nobody else gets it.
    cluster.wires.lose_entries(true);
    let lost = tokio::spawn(async move { proposer.propose(1, b"assign 1 to a".to_vec()).await });
    let node = cluster.nodes.get_mut(&leader).expect("it runs");
    let appended = node
        .event(|event| match event {
            Event::Appended { epoch, .. } => Some(*epoch),
            _ => None,
        })
        .await;
    cluster.wires.isolate(leader);
    cluster.wires.lose_entries(false);
    lost.abort();
    let floors = cluster.engine(leader).floors();
    assert_eq!((floors[0].group, floors[0].epoch), (group, appended));
    // The others decide something else at the same place.
    let next = cluster.leader_but(Some(leader)).await;
    cluster
        .engine(next)
        .propose(2, b"plain".to_vec())
        .await
        .expect("applied");
    cluster
        .engine(next)
        .propose(3, b"plainer".to_vec())
        .await
        .expect("applied");
    assert!(cluster.engine(next).floors().is_empty());
    cluster.wires.heal();
    let node = cluster.nodes.get_mut(&leader).expect("it runs");
    let since = node
        .event(|event| match event {
            Event::Truncated { since } => Some(*since),
            _ => None,
        })
        .await;
    assert!(since <= appended.index);
    cluster.applied(leader, b"plainer").await;
    assert_eq!(
        cluster.nodes[&leader].journal.payloads(),
        [&b"plain"[..], b"plainer"]
    );
    // The entry is gone, the floor is not; nor is it after a restart.
    assert_eq!(cluster.engine(leader).floors(), floors);
    cluster.stop(leader).await;
    cluster.start(leader).await;
    assert_eq!(cluster.engine(leader).floors(), floors);
    assert_eq!(floors[0].assignment, b"assign 1 to a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lags_far_behind_gets_a_snapshot_and_its_floors() {
    let (mut cluster, leader) = Cluster::led().await;
    let [lagging, other] = others(leader);
    cluster.stop(lagging).await;
    let engine = cluster.engine(leader).clone();
    let epoch = engine
        .propose(0, b"assign 4".to_vec())
        .await
        .expect("applied");
    for request in 1..100 {
        engine
            .propose(request, format!("entry {request}").into_bytes())
            .await
            .expect("applied");
    }
    until("the log to be purged", || {
        (engine.inner.log.first_index()? > epoch.index).then_some(())
    })
    .await;
    cluster.start(lagging).await;
    cluster.applied(lagging, b"entry 99").await;
    let node = cluster.nodes.get_mut(&lagging).expect("it runs");
    // The first one is its own start, with nothing of this.
    node.event(|event| match event {
        Event::Restored { applied } if *applied >= epoch => Some(()),
        _ => None,
    })
    .await;
    let floors = cluster.engine(lagging).floors();
    assert_eq!((floors[0].group, floors[0].epoch), (GroupId(4), epoch));
    assert_eq!(cluster.nodes[&lagging].journal.payloads().len(), 100);
    // It knows which requests were applied before it was there.
    cluster
        .engine(leader)
        .transfer(lagging)
        .await
        .expect("taken");
    let again = cluster
        .engine(other)
        .propose(0, b"assign 4".to_vec())
        .await
        .expect("known");
    assert_eq!(again, epoch);
    // And keeps all of it.
    cluster.stop(lagging).await;
    cluster.start(lagging).await;
    assert_eq!(cluster.engine(lagging).floors(), floors);
}

/// A daemon that drops its engine without a shutdown, as a panic does, can start it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_dropped_gives_its_log_back() {
    let (mut cluster, leader) = Cluster::led().await;
    cluster.wires.leave(leader);
    drop(cluster.nodes.remove(&leader));
    let mut file = cluster.file(leader);
    until("the log's lock", || file.load().ok()).await;
    drop(file);
    cluster.start(leader).await;
    cluster.leader().await;
}

/// Found by fuzzing: the engine took it, could not restore the machine from it, and stopped for
/// good.
#[tokio::test]
async fn a_snapshot_that_the_machine_cannot_read_is_refused() {
    use crate::v1::{self, Asked, LogId, Members, Refusal, Reply, Request};
    let mut cluster = Cluster::empty();
    cluster.start(A).await;
    let snapshot = v1::Snapshot {
        applied: Some(LogId { term: 9, index: 7 }),
        voters_at: Some(LogId { term: 0, index: 0 }),
        members: Members {
            configs: vec![ALL.iter().map(|node| node.0).collect()],
            learners: [].into(),
        },
        requests: Vec::new(),
        floors: Vec::new(),
        machine: vec![0xff],
    };
    let asked = Asked {
        generation: 0,
        request: Request::Snapshot {
            vote: v1::Vote {
                term: 9,
                node: B.0,
                committed: true,
            },
            snapshot: v1::encode(&snapshot),
        },
    };
    let engine = cluster.engine(A);
    let reply = engine.handle(B, v1::encode(&asked)).await;
    let refused = Reply::Refused(Refusal::Unreadable);
    assert_eq!(v1::decode::<Reply>(&reply), Ok(refused));
    assert_eq!(engine.status().stopped, None);
}

/// An engine whose disk fails is started again and again: what each left behind would fill the memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_was_shut_down_leaves_nothing_behind() {
    let (mut cluster, leader) = Cluster::led().await;
    let inner = Arc::downgrade(&cluster.engine(leader).inner);
    let machine = Arc::downgrade(&cluster.nodes[&leader].journal.0);
    cluster.stop(leader).await;
    until("the engine to be gone", || {
        (inner.strong_count() + machine.strong_count() == 0).then_some(())
    })
    .await;
}
