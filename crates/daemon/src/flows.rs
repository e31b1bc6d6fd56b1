//! The traffic room's lists of connections, carried between the nodes: what the holder of a
//! group sees goes to the group's other nodes; what they have when they open it themselves
//! goes back to the room, which tickles the clients.
//!
//! Each peer has a task, and one request to it is under way at a time: what changed since
//! the state that the peer last said to have, or all. Requests and not one-way messages,
//! because of those only the newest arrives. All of it runs among ordinary work.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evenkeel_core::role::Want;
use evenkeel_core::topology::Topology;
use evenkeel_core::{GroupId, NodeId};
use evenkeel_traffic::campaign::Why;
use evenkeel_traffic::flows::{Changes, Flow, Heard, Snapshot, Standby, changes};
use evenkeel_traffic::{FlowReport, FlowWatch, Report, Snapshots, TrafficError};
use evenkeel_transport::{Endpoint, Request};
use evenkeel_wire::v1::flows::{Ends, Flows, decode_have, encode_have};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};

use crate::peers::FLOWS;

/// How long a peer may take to answer: long enough for a megabyte on a slow line.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How soon a peer that could not be told is tried again; at once if it connects.
const RETRY: Duration = Duration::from_secs(1);
/// Reports of the room that wait to be logged.
const REPORTS_MAX: usize = 64;

/// The room's adapter. Its calls never wait.
pub struct FlowCarrier {
    watch: FlowWatch,
    standby: Arc<Mutex<Standby>>,
    peers: BTreeMap<NodeId, Arc<Notify>>,
    runtime: Handle,
}

impl FlowCarrier {
    /// Starts the room, and the tasks that tell the other nodes of the groups that `me` may
    /// hold, on `runtime`.
    pub fn start(
        topology: &Topology,
        me: NodeId,
        endpoint: &Endpoint,
        runtime: &Handle,
    ) -> Result<Self, TrafficError> {
        let own = topology.groups.values();
        let own: Vec<_> = own.filter(|group| group.nodes.contains(&me)).collect();
        let (tell, reports) = mpsc::channel(REPORTS_MAX);
        let watch = FlowWatch::start(tell)?;
        runtime.spawn(log(topology.clone(), reports));
        let mut shared: BTreeMap<NodeId, BTreeSet<GroupId>> = BTreeMap::new();
        for group in &own {
            for peer in group.nodes.iter().filter(|peer| **peer != me) {
                shared.entry(*peer).or_default().insert(group.id);
            }
        }
        let mut peers = BTreeMap::new();
        for (peer, groups) in shared {
            let connected = Arc::new(Notify::new());
            let teller = Teller {
                endpoint: endpoint.clone(),
                peer,
                groups,
                snapshots: watch.snapshots(),
                connected: Arc::clone(&connected),
                had: BTreeMap::new(),
            };
            runtime.spawn(teller.run());
            peers.insert(peer, connected);
        }
        Ok(Self {
            watch,
            standby: Arc::new(Mutex::new(Standby::new(own.iter().map(|group| group.id)))),
            peers,
            runtime: runtime.clone(),
        })
    }

    /// This is wanted of the group from now on.
    pub fn want(&self, group: GroupId, want: &Want) {
        match want {
            Want::Open { epoch, addresses }
            | Want::Draining {
                epoch, addresses, ..
            } => {
                let ips: BTreeSet<IpAddr> = addresses.iter().map(|address| address.ip).collect();
                self.watch.open(group, *epoch, ips);
            }
            // Whoever opens it next has what was told last.
            _ => self.watch.close(group),
        }
    }

    /// The mover reports: once a group that opened here is announced, the clients of the
    /// holder before it are told. After a planned move, too: one whose connection ended in
    /// time takes no notice, and the others hear at last.
    pub fn reported(&self, report: &Report) {
        if let Report::Announced {
            group,
            epoch,
            why: Why::Opened,
            ..
        } = report
        {
            let flows = lock(&self.standby).opened(*group, *epoch);
            self.watch.tickle(*group, *epoch, flows);
        }
    }

    /// A connection to the peer works, which may have forgotten what it was told.
    pub fn connected(&self, peer: NodeId) {
        if let Some(told) = self.peers.get(&peer) {
            told.notify_one();
        }
    }

    /// A holder tells.
    pub fn told(&self, request: Request) {
        let standby = Arc::clone(&self.standby);
        self.runtime.spawn(async move {
            match Flows::decode(&request.body) {
                Ok(flows) => {
                    let (group, heard) = heard(flows);
                    let have = lock(&standby).hear(group, &heard);
                    request.reply.send(encode_have(have).into());
                }
                // Without an answer it tries again later.
                Err(error) => tracing::debug!(%error, "a peer's list of connections is not read"),
            }
        });
    }
}

/// Nothing in there is half done when a thread panics.
fn lock(standby: &Mutex<Standby>) -> MutexGuard<'_, Standby> {
    standby.lock().unwrap_or_else(PoisonError::into_inner)
}

fn heard(flows: Flows) -> (GroupId, Heard) {
    let list = |ends: Vec<Ends>| {
        let flow = |(service, client)| Flow { service, client };
        ends.into_iter().map(flow).collect()
    };
    let heard = Heard {
        epoch: flows.epoch,
        base: flows.base,
        sequence: flows.sequence,
        changes: Changes {
            added: list(flows.added),
            gone: list(flows.gone),
        },
    };
    (flows.group, heard)
}

/// What leads a peer that has `had` to `now`.
fn message(group: GroupId, had: Option<&Snapshot>, now: &Snapshot) -> Flows {
    let had = had.filter(|had| had.epoch == now.epoch);
    let before: &[Flow] = had.map_or(&[], |had| &had.flows);
    let Changes { added, gone } = changes(before, &now.flows);
    let ends = |flows: Vec<Flow>| {
        let ends = |flow: Flow| (flow.service, flow.client);
        flows.into_iter().map(ends).collect()
    };
    Flows {
        group,
        epoch: now.epoch,
        base: had.map_or(0, |had| had.sequence),
        sequence: now.sequence,
        added: ends(added),
        gone: ends(gone),
    }
}

/// Tells one peer.
struct Teller {
    endpoint: Endpoint,
    peer: NodeId,
    groups: BTreeSet<GroupId>,
    snapshots: watch::Receiver<Snapshots>,
    connected: Arc<Notify>,
    /// What the peer has said to have.
    had: Snapshots,
}

impl Teller {
    /// Until the room ends.
    async fn run(mut self) {
        loop {
            if self.tell().await.is_ok() {
                tokio::select! {
                    changed = self.snapshots.changed() => if changed.is_err() { return },
                    () = self.connected.notified() => self.had.clear(),
                }
                continue;
            }
            // Changes alone do not make a peer answer that does not.
            let connected = tokio::time::timeout(RETRY, self.connected.notified());
            if connected.await.is_ok() {
                self.had.clear();
            }
            if self.snapshots.has_changed().is_err() {
                return;
            }
        }
    }

    /// Brings the peer up to date.
    async fn tell(&mut self) -> Result<(), Untold> {
        let now: Vec<(GroupId, Snapshot)> = {
            let all = self.snapshots.borrow_and_update();
            let ours = all.iter().filter(|(group, _)| self.groups.contains(group));
            ours.map(|(group, snapshot)| (*group, snapshot.clone()))
                .collect()
        };
        for (group, snapshot) in now {
            let had = self.had.get(&group);
            if had
                .is_some_and(|had| (had.epoch, had.sequence) == (snapshot.epoch, snapshot.sequence))
            {
                continue;
            }
            let said = self.ask(message(group, had, &snapshot)).await?;
            if said == snapshot.sequence {
                self.had.insert(group, snapshot);
                continue;
            }
            // It has something else, or nothing: all of it, and what it says then stands.
            self.had.remove(&group);
            if self.ask(message(group, None, &snapshot)).await? != snapshot.sequence {
                // It has opened a newer epoch, or knows a newer holder.
                continue;
            }
            self.had.insert(group, snapshot);
        }
        Ok(())
    }

    async fn ask(&self, flows: Flows) -> Result<u64, Untold> {
        // Before the work of writing it down.
        self.endpoint.rtt(self.peer).ok_or(Untold)?;
        let body = flows.encode().into();
        let answer = self.endpoint.request(self.peer, FLOWS, body, ANSWER_MAX);
        let answer = answer.await.map_err(|_| Untold)?;
        decode_have(&answer).map_err(|_| Untold)
    }
}

/// The peer is not connected, of an older version, or too busy.
struct Untold;

/// Writes down what the room reports.
async fn log(topology: Topology, mut reports: mpsc::Receiver<FlowReport>) {
    while let Some(report) = reports.recv().await {
        match report {
            FlowReport::Tickled(tickled) => tracing::info!(
                group = topology.group_name(tickled.group),
                epoch = tickled.epoch.number(),
                clients = tickled.clients,
                living = tickled.living,
                dropped = tickled.dropped,
                ms = tickled.took.as_secs_f64() * 1e3,
                "clients of the holder before were told that their connections are gone"
            ),
            FlowReport::TooMany { group, left_out } => tracing::warn!(
                group = topology.group_name(group),
                left_out,
                "more connections than standbys are told of: after a takeover the oldest of them \
                 learn of it only when they send"
            ),
            FlowReport::Failed(error) => tracing::warn!(
                "failed to {error}; clients that only wait may not learn of a takeover"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::Epoch;

    const WWW: GroupId = GroupId(1);

    fn snapshot(index: u64, sequence: u64, clients: &[u16]) -> Snapshot {
        let flow = |port: &u16| Flow {
            service: "192.0.2.100:80".parse().expect("an address"),
            client: std::net::SocketAddr::new([198, 51, 100, 1].into(), *port),
        };
        Snapshot {
            epoch: Epoch { term: 1, index },
            sequence,
            flows: clients.iter().map(flow).collect(),
            left_out: 0,
        }
    }

    /// Through the wire and into a standby.
    fn carry(standby: &mut Standby, had: Option<&Snapshot>, now: &Snapshot) -> u64 {
        let bytes = message(WWW, had, now).encode();
        let (group, heard) = heard(Flows::decode(&bytes).expect("read"));
        standby.hear(group, &heard)
    }

    #[test]
    fn what_the_holder_sees_is_what_the_standby_has() {
        let mut standby = Standby::new([WWW]);
        let steps = [
            snapshot(5, 10, &[]),
            snapshot(5, 11, &[1, 2, 3]),
            snapshot(5, 12, &[2, 4]),
        ];
        let mut had = None;
        for step in &steps {
            assert_eq!(carry(&mut standby, had, step), step.sequence);
            had = Some(step);
        }
        let next = Epoch { term: 1, index: 6 };
        assert_eq!(standby.opened(WWW, next), *steps[2].flows);
    }

    #[test]
    fn a_new_epoch_is_told_as_a_whole() {
        let (old, new) = (snapshot(5, 10, &[1, 2]), snapshot(6, 11, &[1]));
        let message = message(WWW, Some(&old), &new);
        assert_eq!((message.base, message.added.len()), (0, 1));
        assert!(message.gone.is_empty());
    }

    #[test]
    fn a_standby_that_forgot_says_so_and_is_told_all() {
        let mut standby = Standby::new([WWW]);
        let (before, now) = (snapshot(5, 10, &[1, 2]), snapshot(5, 11, &[2, 3]));
        assert_eq!(carry(&mut standby, Some(&before), &now), 0);
        assert_eq!(carry(&mut standby, None, &now), 11);
    }
}
