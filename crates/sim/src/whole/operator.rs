//! Operators: what they ask, of which node, and whether they hear an answer
//! (`crates/daemon/src/drain.rs`).

use core::time::Duration;
use std::collections::BTreeMap;

use evenkeel_consensus::virtual_time;
use evenkeel_core::command::Command;
use evenkeel_core::maintenance::Ask;
use evenkeel_core::node::Event;
use evenkeel_core::policy::Wish;
use evenkeel_core::{Moment, NodeId};
use evenkeel_wire::v1::entry;

use super::host::Begin;
use super::inbox::{Letter, News};
use super::place;
use super::recipe::{MS, S};
use super::story::Line;
use super::world::{Happening, REFUSED, World};

/// How long a node may be without a vote, or refused, before the operator lets it in again.
const READMIT_AFTER: u64 = 6 * S;
/// How often the operator looks, once all is mended.
const LOOK: u64 = S;

/// A question that waits for its answer.
pub(super) struct Question {
    /// The node that was asked.
    pub(super) host: usize,
    /// When, on its clock.
    pub(super) since: Moment,
    /// For people.
    pub(super) what: String,
}

/// The operators.
#[derive(Default)]
pub(super) struct Operator {
    /// What waits, by number.
    pub(super) waiting: BTreeMap<u64, Question>,
    next: u64,
    /// When another node last let it not in: its status says so.
    pub(super) refused: BTreeMap<usize, u64>,
    /// Since when each node has no vote, or is refused.
    voteless: BTreeMap<usize, u64>,
    looked_at: u64,
}

impl World {
    /// Asks whoever leads by the word of some node.
    fn ask_leader(&mut self, what: String, event: impl FnOnce(u64) -> Event) {
        let some = self.any_host();
        let leader = self.hosts[some]
            .driver_of()
            .and_then(|one| one.node.leader());
        let Some(host) = leader.and_then(|leader| self.place_of(leader)) else {
            return;
        };
        if !self.hosts[host].is_awake(self.at) || self.hosts[host].driver_of().is_none() {
            return;
        }
        self.operator.next += 1;
        let id = self.operator.next;
        let since = self.hosts[host].now(self.at);
        self.tell(|| Line::node(host, "operator").text(what.clone()));
        let question = Question { host, since, what };
        self.operator.waiting.insert(id, question);
        self.step(host, event(id));
    }

    /// An operator switches a group to some node or to none in particular.
    pub(super) fn switch(&mut self, force: bool) {
        let group = self.any_group();
        let nodes = self.places[0].groups[&group].nodes.clone();
        let to = self.chance.happens(600).then(|| self.chance.pick(&nodes));
        self.books.s6.wished(self.at, group);
        let wish = Wish { group, to, force };
        self.ask_leader(format!("{wish:?}"), |id| Event::Wish { id, wish });
    }

    /// An operator drains a node.
    pub(super) fn drain(&mut self) {
        let node = self.any_host();
        let node = self.hosts[node].id;
        let lasting = self
            .chance
            .happens(500)
            .then(|| Duration::from_secs(self.chance.between(10, 20)));
        let force = self.chance.happens(300);
        let ask = Ask::Drain {
            node,
            lasting,
            force,
        };
        self.ask_leader(format!("{ask:?}"), |id| Event::Maintain { id, ask });
    }

    /// An operator drains no node any more.
    pub(super) fn undrain_all(&mut self) {
        let leader = self.leader();
        let Some(driver) = leader.and_then(|leader| self.hosts[leader].driver_of()) else {
            return;
        };
        let ledger = driver.node.ledger();
        let nodes: Vec<NodeId> = self.hosts.iter().map(|host| host.id).collect();
        let drained = nodes
            .into_iter()
            .filter(|node| ledger.drained(*node).is_some());
        let drained: Vec<NodeId> = drained.collect();
        for node in drained {
            let ask = Ask::Undrain { node };
            self.ask_leader(format!("{ask:?}"), |id| Event::Maintain { id, ask });
        }
    }

    /// An operator hears an answer.
    pub(super) fn replied(&mut self, host: usize, id: u64, outcome: Result<String, String>) {
        self.operator.waiting.remove(&id);
        self.seen.wishes += u64::from(outcome.is_ok());
        self.tell(|| Line::node(host, "replies").text(format!("{outcome:?}")));
    }

    /// An operator gives the nodes another file, one after the other.
    pub(super) fn reload(&mut self) {
        let file = usize::try_from(self.chance.below(place::VERSIONS as u64)).unwrap_or(0);
        for host in 0..self.hosts.len() {
            let at = self.at + self.chance.below(3 * S);
            self.plan(at, Happening::Reloads { host, file });
        }
    }

    /// A node has another file: its worker is replaced by one that has read it.
    pub(super) fn reloads(&mut self, host: usize, file: usize) {
        if self.hosts[host].file == file {
            return;
        }
        self.hosts[host].file = file;
        self.tell(|| Line::node(host, "reloads").text(format!("file {file}")));
        if self.hosts[host].worker.is_some() {
            self.end_worker(host);
            self.begin_worker(host, Begin::Heir);
        }
    }

    /// What an operator does who finds the cluster as it was left: starts what stands, lets in
    /// again who has no vote, ends what is drained.
    pub(super) fn tend(&mut self) {
        if self.at < self.operator.looked_at + LOOK {
            return;
        }
        self.operator.looked_at = self.at;
        self.undrain_all();
        for host in 0..self.hosts.len() {
            let votes = self.hosts[host]
                .driver_of()
                .is_none_or(super::driver::Driver::votes);
            let refused = self.operator.refused.get(&host);
            let refused = refused.is_some_and(|last| self.at < last + 2 * REFUSED);
            if votes && !refused {
                self.operator.voteless.remove(&host);
                continue;
            }
            let since = *self.operator.voteless.entry(host).or_insert(self.at);
            if self.at >= since + READMIT_AFTER {
                self.operator.voteless.insert(host, self.at);
                self.readmit(host);
            }
        }
    }

    fn readmit(&mut self, host: usize) {
        let node = self.hosts[host].id;
        let Some(leader) = self.leader() else { return };
        let engine = self.hosts[leader]
            .driver_of()
            .and_then(|one| one.engine.clone());
        let Some(engine) = engine else { return };
        self.seen.readmitted += 1;
        self.tell(|| Line::node(leader, "operator").text(format!("readmit {host}")));
        let payload = entry::encode(&Command::Readmit { node });
        let request = u128::from(self.chance.next());
        let (process, inbox) = (self.hosts[leader].process, self.inbox.clone());
        drop(virtual_time::spawn(async move {
            let outcome = engine.propose(request, payload.clone()).await;
            let outcome = outcome.map_err(|error| error.to_string());
            let id = 0;
            inbox.put(Letter {
                host: leader,
                process,
                news: News::Proposed {
                    id,
                    payload,
                    outcome,
                },
            });
        }));
    }

    /// Who leads, by its own word and that of a majority.
    pub(super) fn leader(&self) -> Option<usize> {
        let voted = |host: usize| {
            let id = self.hosts[host].id;
            let named = self.hosts.iter().filter(|one| {
                let driver = one.driver_of();
                driver.is_some_and(|driver| driver.node.leader() == Some(id))
            });
            let own = self.hosts[host].driver_of();
            let own = own.is_some_and(|driver| driver.node.leader() == Some(id));
            own && named.count() * 2 > self.hosts.len()
        };
        (0..self.hosts.len()).find(|host| voted(*host))
    }

    /// A moment between two steps of a person.
    pub(super) fn moment(&mut self) -> u64 {
        self.chance.between(200 * MS, 5 * S)
    }
}
