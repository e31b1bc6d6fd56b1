//! A majority is lost, one node goes on alone, the others come back: in virtual time, on disks
//! that lose what power cuts lose. A failing seed fails again: `EVENKEEL_SEED=<seed>`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::names::{Epoch, GroupId, NodeId};
use openraft::AsyncRuntime;
use openraft_rt_sim::{SimInstant, SimRuntime};

use super::harness::{A, ALL, Journal, Running, Wires, others, settings, start};
use crate::v1::{self, Refusal, Reply, Request, Vote};
use crate::{
    ConsensusError, Disk as _, Members, MemoryDisk, Recovered, Recovery, Settings, Virtual,
};

const SEEDS: u64 = 20;

/// A wait may take this long in virtual time.
const WAIT_MAX: Duration = Duration::from_secs(30);

fn now() -> SimInstant {
    <SimInstant as openraft::Instant>::now()
}

async fn pause(span: Duration) {
    SimRuntime::sleep(span).await;
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(now() - began < WAIT_MAX, "waited too long for {what}");
        pause(Duration::from_millis(1)).await;
    }
}

struct World {
    wires: Arc<Wires<Virtual>>,
    nodes: BTreeMap<NodeId, Running<Virtual>>,
    disks: BTreeMap<NodeId, MemoryDisk>,
}

impl World {
    async fn new() -> Self {
        let mut world = Self {
            wires: Wires::new(Duration::from_micros(200)),
            nodes: BTreeMap::new(),
            disks: ALL.map(|node| (node, MemoryDisk::new())).into(),
        };
        for node in ALL {
            world.start(node).await;
        }
        world
    }

    async fn start(&mut self, node: NodeId) {
        let disk = self.disks[&node].share();
        disk.set_latency(Duration::from_millis(1));
        let running = start::<Virtual>(settings(node), Box::new(disk), &self.wires).await;
        self.nodes.insert(node, running);
    }

    /// Power off, what the disk was doing kept or lost.
    fn crash(&mut self, node: NodeId, keep: bool) {
        let next = self.disks[&node].crash(keep);
        self.disks.insert(node, next);
        self.wires.leave(node);
        let running = self.nodes.remove(&node).expect("it runs");
        drop(SimRuntime::spawn(running.engine.shutdown()));
    }

    async fn leader(&self) -> NodeId {
        until("a leader", || {
            self.nodes.iter().find_map(|(node, running)| {
                let status = running.engine.status();
                let fresh = status
                    .quorum_heard
                    .is_some_and(|age| age < Duration::from_millis(200));
                (status.leader == Some(*node) && fresh).then_some(*node)
            })
        })
        .await
    }

    async fn propose(&self, by: NodeId, request: u128) -> Epoch {
        let payload = format!("entry {request}").into_bytes();
        let proposed = self.nodes[&by].engine.propose(request, payload).await;
        proposed.expect("decided")
    }

    fn recover(&self, node: NodeId) -> Recovered {
        let recovery = Recovery {
            me: node,
            all: ALL.to_vec(),
            drawn: 77,
        };
        let mut disk = self.disks[&node].share();
        crate::recover(&mut disk, &recovery, |_| b"recovered".to_vec()).expect("recovered")
    }

    fn join(&self, node: NodeId, generation: u64) -> crate::SetAside {
        let mut disk = self.disks[&node].share();
        crate::join(&mut disk, generation).expect("joined")
    }

    fn journal(&self, node: NodeId) -> Journal {
        self.nodes[&node].journal.clone()
    }

    async fn applied(&self, node: NodeId, payload: &[u8]) {
        let journal = self.journal(node);
        until("an entry", || {
            let there = journal.payloads().iter().any(|found| found == payload);
            there.then_some(())
        })
        .await;
    }

    /// Until the leader, alone, knows that all others have its whole log.
    async fn caught_up(&self, leader: NodeId) {
        until("the others to catch up", || {
            let status = self.nodes[&leader].engine.status();
            let behind = status
                .followers
                .iter()
                .any(|follower| follower.matched != status.last_index);
            (status.followers.len() == 2 && !behind).then_some(())
        })
        .await;
    }

    /// The same entries everywhere.
    fn agree(&self) {
        let reference = self.journal(A).0.lock().unwrap().clone();
        for node in ALL {
            assert_eq!(*self.journal(node).0.lock().unwrap(), reference, "{node:?}");
        }
    }
}

/// Two of three are gone, one has recovered and serves.
async fn alone() -> (World, NodeId, Recovered) {
    let mut world = World::new().await;
    let leader = world.leader().await;
    world.propose(leader, 1).await;
    let [me, other] = others(leader);
    world.applied(me, b"entry 1").await;
    for node in [leader, other, me] {
        world.crash(node, true);
    }
    let recovered = world.recover(me);
    world.start(me).await;
    assert_eq!(world.leader().await, me);
    (world, me, recovered)
}

#[test]
fn a_node_alone_decides_above_everything_that_was_and_remembers_it() {
    SimRuntime::with_seed(1).block_on(async {
        let (mut world, me, recovered) = alone().await;
        let engine = &world.nodes[&me].engine;
        assert_eq!(engine.members(), Members::Alone(me));
        assert_eq!(engine.generation(), recovered.generation);
        let epoch = world.propose(me, 2).await;
        assert!(epoch.term > 1 << 32, "{epoch:?}");
        assert!(epoch.index > recovered.last.index);
        assert_eq!(
            world.journal(me).payloads(),
            [&b"entry 1"[..], b"recovered", b"entry 2"]
        );
        // And after another start, still alone.
        world.crash(me, true);
        world.start(me).await;
        assert_eq!(world.leader().await, me);
        assert_eq!(world.nodes[&me].engine.members(), Members::Alone(me));
        assert!(world.propose(me, 3).await > epoch);
        // And after another recovery.
        world.crash(me, true);
        let again = world.recover(me);
        assert!(again.generation >> 32 == (recovered.generation >> 32) + 1);
        world.start(me).await;
        assert_eq!(world.leader().await, me);
        assert!(world.propose(me, 4).await.term > again.generation);
    });
}

/// S5: an entry that was only appended here may have been acknowledged there.
#[test]
fn what_was_appended_and_not_known_to_be_decided_is_kept() {
    SimRuntime::with_seed(2).block_on(async {
        let mut world = World::new().await;
        let leader = world.leader().await;
        world.propose(leader, 1).await;
        // Nobody answers the leader any more.
        world.wires.isolate(leader);
        let engine = world.nodes[&leader].engine.clone();
        let lost = SimRuntime::spawn(async move { engine.propose(2, b"assign 3".to_vec()).await });
        until("the append", || {
            let floors = world.nodes[&leader].engine.floors();
            floors
                .iter()
                .find(|floor| floor.group == GroupId(3))
                .cloned()
        })
        .await;
        drop(lost);
        for node in ALL {
            world.crash(node, true);
        }
        let recovered = world.recover(leader);
        assert!(recovered.undecided > 0, "{recovered:?}");
        world.start(leader).await;
        assert_eq!(world.leader().await, leader);
        assert_eq!(
            world.journal(leader).payloads(),
            [&b"entry 1"[..], b"assign 3", b"recovered"]
        );
        assert_eq!(
            world.nodes[&leader].engine.floors()[0].epoch,
            recovered.last
        );
    });
}

#[test]
fn a_crash_leaves_the_old_generation_or_the_new_one() {
    SimRuntime::with_seed(3).block_on(async {
        let mut world = World::new().await;
        let leader = world.leader().await;
        world.propose(leader, 1).await;
        for node in ALL {
            world.crash(node, true);
        }
        let before = world.disks[&leader].share().load().expect("an image");
        // A handle of a life that is over: the write fails as a whole.
        let mut dead = world.disks[&leader].share();
        let next = world.disks[&leader].crash(false);
        world.disks.insert(leader, next);
        let recovery = Recovery {
            me: leader,
            all: ALL.to_vec(),
            drawn: 1,
        };
        let refused = crate::recover(&mut dead, &recovery, |_| Vec::new());
        assert!(
            matches!(refused, Err(ConsensusError::Disk(_))),
            "{refused:?}"
        );
        let refused = crate::join(&mut dead, 1 << 32);
        assert!(
            matches!(refused, Err(ConsensusError::Disk(_))),
            "{refused:?}"
        );
        assert_eq!(
            world.disks[&leader].share().load().expect("an image"),
            before
        );
        for node in ALL {
            world.start(node).await;
        }
        let leader = world.leader().await;
        world.propose(leader, 2).await;
    });
}

#[test]
fn an_empty_log_begins_no_generation() {
    let recovery = Recovery {
        me: A,
        all: ALL.to_vec(),
        drawn: 1,
    };
    let refused = crate::recover(&mut MemoryDisk::new(), &recovery, |_| Vec::new());
    assert!(
        matches!(refused, Err(ConsensusError::NothingToRecover)),
        "{refused:?}"
    );
}

/// The old majority is back, with a longer log than the one that recovered, and takes no part.
#[test]
fn an_old_majority_takes_no_part_until_it_joins_and_its_own_entries_are_gone() {
    for seed in 0..SEEDS / 4 {
        SimRuntime::with_seed(seed).block_on(async {
            let mut world = World::new().await;
            let leader = world.leader().await;
            let [me, other] = others(leader);
            world.propose(leader, 1).await;
            world.applied(me, b"entry 1").await;
            world.crash(me, true);
            // Decided without the one that will recover: the risk that the operator takes.
            for request in 2..50 {
                world.propose(leader, request).await;
            }
            let floor = world.nodes[&leader]
                .engine
                .propose(50, b"assign 7".to_vec())
                .await
                .expect("decided");
            for node in [leader, other] {
                world.crash(node, true);
            }
            let recovered = world.recover(me);
            world.start(me).await;
            assert_eq!(world.leader().await, me);
            world.propose(me, 100).await;
            // They come back and even lead; neither hears the other generation.
            for node in [leader, other] {
                world.start(node).await;
            }
            until("the old ones to lead", || {
                let leads = |node: NodeId| world.nodes[&node].engine.leader() == Some(node);
                (leads(leader) || leads(other)).then_some(())
            })
            .await;
            let ballot = v1::Asked {
                generation: 0,
                request: Request::WouldVote {
                    vote: Vote {
                        term: u64::MAX,
                        node: other.0,
                        committed: false,
                    },
                    last: None,
                },
            };
            let reply = world.nodes[&me]
                .engine
                .handle(other, v1::encode(&ballot))
                .await;
            let refused = Ok(Reply::Refused(Refusal::OtherGeneration));
            assert_eq!(v1::decode::<Reply>(&reply), refused);
            assert_eq!(world.nodes[&me].engine.leader(), Some(me));
            for node in [leader, other] {
                world.crash(node, true);
                let set_aside = world.join(node, recovered.generation);
                assert_eq!(set_aside.generation, 0);
                assert!(set_aside.last.index > recovered.last.index);
                world.start(node).await;
                world.applied(node, b"entry 100").await;
                assert!(world.nodes[&node].engine.status().remembers);
                // The floor outlives the entry that raised it.
                let floors = world.nodes[&node].engine.floors();
                assert_eq!(floors[0].epoch, floor);
            }
            world.caught_up(me).await;
            world.agree();
            let kept = world.journal(me).payloads();
            assert_eq!(kept, [&b"entry 1"[..], b"recovered", b"entry 100"]);
        });
    }
}

/// With the others back and voting, the death of the one that was alone is like any other.
#[test]
fn a_cluster_made_whole_outlives_the_one_that_recovered() {
    for seed in 0..SEEDS / 4 {
        SimRuntime::with_seed(seed).block_on(async {
            let (mut world, me, recovered) = alone().await;
            for node in others(me) {
                assert_eq!(world.join(node, recovered.generation).generation, 0);
                world.start(node).await;
            }
            world.caught_up(me).await;
            // Followers without a vote replace nobody.
            world.wires.isolate(me);
            pause(Duration::from_secs(3)).await;
            for node in others(me) {
                assert_eq!(world.nodes[&node].engine.members(), Members::Alone(me));
                assert_ne!(world.nodes[&node].engine.leader(), Some(node));
            }
            world.wires.heal();
            assert_eq!(world.leader().await, me);
            world.nodes[&me].engine.make_whole().await.expect("whole");
            assert_eq!(world.nodes[&me].engine.members(), Members::All);
            let before = world.propose(me, 10).await;
            world.crash(me, true);
            let next = world.leader().await;
            assert_ne!(next, me);
            assert!(world.propose(next, 11).await > before);
            world.start(me).await;
            world.applied(me, b"entry 11").await;
            world.agree();
        });
    }
}

/// The one that is alone loses its power at any moment while it makes the cluster whole. The
/// others never decide anything without it until they vote, and it always gets there in the end.
#[test]
fn growing_outlives_a_crash_at_any_moment() {
    let seeds = match std::env::var("EVENKEEL_SEED") {
        Ok(seed) => vec![seed.parse().expect("EVENKEEL_SEED is a number")],
        Err(_) => (0..SEEDS).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        println!("EVENKEEL_SEED={seed}");
        SimRuntime::with_seed(seed).block_on(async {
            let (mut world, me, recovered) = alone().await;
            for node in others(me) {
                world.join(node, recovered.generation);
                world.start(node).await;
            }
            world.caught_up(me).await;
            let engine = world.nodes[&me].engine.clone();
            drop(SimRuntime::spawn(async move {
                drop(engine.make_whole().await);
            }));
            pause(Duration::from_micros(150 * seed)).await;
            let shown = world.nodes[&me].engine.members();
            world.crash(me, seed % 2 == 0);
            // Its own log, not what the others were sent, says whether it may be alone.
            let durable = world.disks[&me].share().load().expect("an image");
            let last: v1::Entry =
                v1::decode(&durable.entries.last().expect("entries").1).expect("an entry");
            println!("shown {shown:?}, last durable {:?}", last.body);
            let led = {
                pause(Duration::from_secs(3)).await;
                others(me).into_iter().find(|node| {
                    let status = world.nodes[node].engine.status();
                    status.leader == Some(*node)
                        && status
                            .quorum_heard
                            .is_some_and(|age| age < Duration::from_millis(200))
                })
            };
            // They lead without it only if its own log had named them voters.
            if led.is_some() {
                assert_ne!(shown, Members::Alone(me));
            }
            world.start(me).await;
            let leader = world.leader().await;
            if world.nodes[&leader].engine.members() != Members::All {
                world.caught_up(leader).await;
                let made = world.nodes[&leader].engine.make_whole().await;
                made.expect("whole");
                assert_eq!(world.nodes[&leader].engine.members(), Members::All);
            }
            let leader = world.leader().await;
            world.propose(leader, 20).await;
            for node in ALL {
                world.applied(node, b"entry 20").await;
            }
            world.agree();
        });
    }
}

/// A second loss: the one that was alone dies before the others vote again.
#[test]
fn a_follower_of_the_one_that_is_alone_can_recover_in_its_turn() {
    SimRuntime::with_seed(4).block_on(async {
        let (mut world, me, first) = alone().await;
        let [next, third] = others(me);
        for node in [next, third] {
            world.join(node, first.generation);
            world.start(node).await;
        }
        world.propose(me, 5).await;
        world.caught_up(me).await;
        world.applied(next, b"entry 5").await;
        world.crash(me, true);
        world.crash(next, true);
        let second = world.recover(next);
        assert!(second.generation > first.generation);
        world.start(next).await;
        assert_eq!(world.leader().await, next);
        for node in [me, third] {
            if node != me {
                world.crash(node, true);
            }
            assert_eq!(
                world.join(node, second.generation).generation,
                first.generation
            );
            world.start(node).await;
        }
        world.caught_up(next).await;
        world.nodes[&next].engine.make_whole().await.expect("whole");
        world.propose(me, 6).await;
        for node in ALL {
            world.applied(node, b"entry 6").await;
        }
        world.agree();
    });
}

/// The one that recovered last time follows the other one this time: what the log said of its
/// being alone is gone, so it never leads while it learns.
#[test]
fn a_former_recovery_makes_nobody_lead_while_it_learns() {
    for seed in 0..SEEDS {
        SimRuntime::with_seed(seed).block_on(async {
            let (mut world, me, first) = alone().await;
            let [next, third] = others(me);
            // Enough for a snapshot, with the members of that time in it.
            for request in 10..10 + u128::from(seed % 3) * 40 {
                world.propose(me, request).await;
            }
            for node in [next, third] {
                world.join(node, first.generation);
                world.start(node).await;
            }
            world.caught_up(me).await;
            world.nodes[&me].engine.make_whole().await.expect("whole");
            world.propose(me, 5).await;
            world.applied(next, b"entry 5").await;
            for node in ALL {
                world.crash(node, true);
            }
            let second = world.recover(next);
            let image = world.disks[&next].share().load().expect("an image");
            let naming = image.entries.iter().filter(|(_, bytes)| {
                let entry: v1::Entry = v1::decode(bytes).expect("an entry");
                matches!(entry.body, v1::Body::Voters(_) | v1::Body::Members(_))
            });
            let named: Vec<u64> = naming.map(|(index, _)| *index).collect();
            assert_eq!(named, [second.last.index + 1]);
            world.start(next).await;
            // Known at once, not only when the engine has had its first turn.
            assert_eq!(world.nodes[&next].engine.members(), Members::Alone(next));
            assert_eq!(world.leader().await, next);
            let term = world.nodes[&next].engine.status().term;
            for node in [me, third] {
                world.join(node, second.generation);
                world.start(node).await;
            }
            world.caught_up(next).await;
            pause(Duration::from_secs(2)).await;
            for node in [me, third] {
                let running = world.nodes.get_mut(&node).expect("it runs");
                while let Some(event) = running.events.try_next() {
                    assert!(
                        !matches!(event, crate::Event::Leading { .. }),
                        "seed {seed}"
                    );
                }
            }
            assert_eq!(world.nodes[&next].engine.status().term, term);
            world.agree();
        });
    }
}

/// Joining without memory: no vote before `readmit`, also after the next start.
#[test]
fn a_lost_log_that_joins_shows_that_it_was_lost() {
    SimRuntime::with_seed(5).block_on(async {
        let (mut world, me, recovered) = alone().await;
        let [lost, kept] = others(me);
        world.disks.insert(lost, MemoryDisk::new());
        let mut disk = world.disks[&lost].share();
        crate::join(&mut disk, recovered.generation).expect("joined");
        world.join(kept, recovered.generation);
        world.wires.isolate(me);
        for (node, remembers) in [(lost, false), (kept, true)] {
            let disk = world.disks[&node].share();
            let settings = Settings {
                may_vote: remembers,
                ..settings(node)
            };
            let running = start::<Virtual>(settings, Box::new(disk), &world.wires).await;
            assert_eq!(running.engine.status().remembers, remembers);
            assert_eq!(running.engine.members(), Members::Unknown);
            // Nothing is formed in a later generation.
            running.engine.swear(7).await.expect("marked");
            running.engine.set_voting(true);
            world.nodes.insert(node, running);
        }
        pause(Duration::from_secs(2)).await;
        for node in [lost, kept] {
            assert_eq!(world.nodes[&node].engine.status().last_index, None);
        }
    });
}
