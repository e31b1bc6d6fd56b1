//! Nodes that come late, nodes that lost their memory, and strangers.

use evenkeel_core::names::NodeId;

use super::harness::*;
use crate::v1::{self, Body, Entry, LogId, Refusal, Reply, Request, Vote};
use crate::{ConsensusError, Engine, Event, Live, TransferError};

async fn ask(engine: &Engine<Live>, from: NodeId, request: &Request) -> Reply {
    let generation = engine.generation();
    let asked = v1::Asked {
        generation,
        request,
    };
    let reply = engine.handle(from, v1::encode(&asked)).await;
    v1::decode(&reply).expect("a reply")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_without_memory_takes_entries_but_does_not_vote() {
    let (mut cluster, leader) = Cluster::led().await;
    let [wiped, other] = others(leader);
    cluster
        .engine(leader)
        .propose(1, b"known".to_vec())
        .await
        .expect("applied");
    cluster.applied(wiped, b"known").await;
    cluster.stop(wiped).await;
    std::fs::remove_file(cluster.dir.path().join(format!("{wiped:?}.redb"))).expect("wiped");
    cluster.start_without_vote(wiped).await;
    // The leader does not trip over a log that went backwards.
    cluster.applied(wiped, b"known").await;
    // The log that was fetched again does not pass for one that was never lost.
    cluster.stop(wiped).await;
    cluster.start_without_vote(wiped).await;
    assert!(!cluster.engine(wiped).status().remembers);
    cluster
        .engine(leader)
        .propose(2, b"more".to_vec())
        .await
        .expect("applied");
    cluster.applied(wiped, b"more").await;
    cluster.stop(leader).await;
    let vote = Vote {
        term: 1000,
        node: other.0,
        committed: false,
    };
    let last = Some(LogId {
        term: 999,
        index: 1_000_000,
    });
    for ballot in [
        Request::Vote {
            vote,
            last,
            transfer: true,
        },
        Request::WouldVote { vote, last },
        Request::Transfer {
            from: vote,
            to: wiped.0,
            last,
        },
    ] {
        let reply = ask(cluster.engine(wiped), other, &ballot).await;
        assert_eq!(reply, Reply::Refused(Refusal::NotVoting), "{ballot:?}");
    }
    assert!(!cluster.engine(wiped).status().voting);
    cluster.engine(wiped).swear(7).await.expect("marked");
    cluster.engine(wiped).set_voting(true);
    cluster.leader().await;
    // From now on it does, also after a restart.
    assert!(cluster.engine(wiped).status().remembers);
    cluster
        .engine(other)
        .propose(3, b"again".to_vec())
        .await
        .expect("applied");
}

/// A copy of the log from before the last loss: what was said since is not in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_another_oath_is_not_believed() {
    let (mut cluster, leader) = Cluster::led().await;
    let [one, _] = others(leader);
    let oath = cluster.engine(one).status().oath.expect("it votes");
    for (noted, believed) in [
        (vec![], true),
        (vec![oath], true),
        (vec![oath + 1, oath], true),
        (vec![oath + 1], false),
    ] {
        cluster.stop(one).await;
        cluster.start_without_vote(one).await;
        assert!(!cluster.engine(one).status().remembers);
        cluster.engine(one).believe(&noted);
        assert_eq!(cluster.engine(one).status().remembers, believed);
    }
    cluster.engine(one).swear(oath + 1).await.expect("sworn");
    assert!(cluster.engine(one).status().remembers);
    assert_eq!(cluster.engine(one).status().oath, Some(oath + 1));
}

/// It has helped to elect a leader and to decide, and has forgotten it. The leader before that one
/// does not know it either: together they must not decide anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_without_memory_does_not_follow_a_leader_that_was_left_behind() {
    let (mut cluster, old) = Cluster::led().await;
    cluster.wires.isolate(old);
    let next = cluster.leader_but(Some(old)).await;
    let decided = cluster.engine(next).propose(1, b"later".to_vec()).await;
    decided.expect("decided by two of three");
    let [one, other] = others(old);
    let lost = if one == next { other } else { one };
    cluster.applied(lost, b"later").await;
    cluster.stop(lost).await;
    std::fs::remove_file(cluster.dir.path().join(format!("{lost:?}.redb"))).expect("wiped");
    // Now the new leader is away, and the old one is heard.
    cluster.wires.heal();
    cluster.wires.isolate(next);
    cluster.start_without_vote(lost).await;
    let stale = cluster.engine(old).propose(2, b"stale".to_vec()).await;
    assert!(stale.is_err(), "{stale:?}");
    assert_eq!(cluster.engine(lost).status().last_index, None);
    // With all there it follows the one that counts.
    cluster.wires.heal();
    cluster.applied(lost, b"later").await;
    cluster.applied(old, b"later").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_nonsense_are_refused() {
    let (cluster, leader) = Cluster::led().await;
    let engine = cluster.engine(leader);
    let [other, third] = others(leader);
    let vote = Vote {
        term: 1000,
        node: other.0,
        committed: true,
    };
    let honest = Request::WouldVote { vote, last: None };
    let stranger = NodeId(99);
    assert_eq!(
        ask(engine, stranger, &honest).await,
        Reply::Refused(Refusal::Stranger)
    );
    assert_eq!(
        ask(engine, leader, &honest).await,
        Reply::Refused(Refusal::Stranger)
    );
    // In another's name.
    assert_eq!(
        ask(engine, third, &honest).await,
        Reply::Refused(Refusal::Stranger)
    );
    for nonsense in [&b""[..], b"\x01", b"\x09\x01\x01", &[0xff; 300]] {
        let reply = engine.handle(other, nonsense.to_vec()).await;
        assert_eq!(v1::decode(&reply), Ok(Reply::Refused(Refusal::Unreadable)));
    }
    let named = Body::Voters([1, 2].into());
    let entries = vec![Entry {
        id: LogId {
            term: 1000,
            index: 1,
        },
        body: named,
    }];
    let foreign = Request::Append {
        vote,
        after: None,
        entries,
        committed: None,
    };
    assert_eq!(
        ask(engine, other, &foreign).await,
        Reply::Refused(Refusal::OtherVoters)
    );
    assert!(engine.status().term < 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_other_voters_is_refused() {
    let (mut cluster, leader) = Cluster::led().await;
    cluster.stop(leader).await;
    let mut wrong = settings(leader);
    wrong.voters = vec![leader, NodeId(77), NodeId(78)];
    let ports = crate::Ports {
        disk: cluster.file(leader),
        network: std::sync::Arc::new(Wire {
            me: leader,
            wires: cluster.wires.clone(),
        }),
        machine: Box::new(Journal::default()),
        floors: std::sync::Arc::new(()),
    };
    let refused = Engine::<Live>::start(wrong, ports)
        .await
        .expect_err("refused");
    assert!(matches!(refused, ConsensusError::OtherVoters), "{refused}");
    // Nothing was changed, and the file is free.
    cluster.start(leader).await;
    cluster.leader().await;
}

/// The engine itself never takes back a handover that it has begun, so ours must end it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handover_that_nobody_takes_stops_the_engine_so_that_it_can_start_again() {
    let (mut cluster, leader) = Cluster::led().await;
    let [mute, gone] = others(leader);
    cluster.engine(mute).set_voting(false);
    cluster.stop(gone).await;
    let refused = cluster.engine(leader).transfer(mute).await;
    assert_eq!(refused, Err(TransferError::Refused(mute)));
    cluster
        .engine(leader)
        .propose(1, b"still leads".to_vec())
        .await
        .expect("applied");
    // As if the other had changed its mind in between.
    cluster
        .engine(leader)
        .inner
        .hand_over(mute)
        .await
        .expect("begun");
    let node = cluster.nodes.get_mut(&leader).expect("it runs");
    node.event(|event| matches!(event, Event::Stopped { .. }).then_some(()))
        .await;
    cluster.stop(leader).await;
    cluster.start(leader).await;
    cluster.engine(mute).set_voting(true);
    cluster.leader().await;
    cluster
        .engine(leader)
        .propose(2, b"on".to_vec())
        .await
        .expect("applied");
}
