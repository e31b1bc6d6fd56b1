//! Peers: which messages there are, and who is let in (DESIGN 3.1 rule 8).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evenkeel_core::health::Report;
use evenkeel_core::{Epoch, Incarnation, Moment, NodeId};
use evenkeel_host::clock;
use evenkeel_transport::{Admission, Class};
use evenkeel_wire::v1::hello::Hello;

use crate::agreement::SharedLedger;

/// Requests between consensus engines.
pub const RAFT: Class = Class(1);
/// Reports, one-way.
pub const REPORT: Class = Class(2);
/// What an operator asked of a node that does not lead.
pub const ASK: Class = Class(3);
/// Connections of a group's clients, told by its holder.
pub const FLOWS: Class = Class(4);

/// A node that was heard so lately is running: another process that says it is the same
/// node is a clone, not a restart.
const RUNNING: Duration = Duration::from_millis(350);

/// What a node must be to be let in.
#[derive(Clone)]
pub struct Gate(Arc<Mutex<Known>>);

struct Known {
    me: NodeId,
    cluster: String,
    membership: u64,
    ledger: SharedLedger,
    lives: BTreeMap<NodeId, Life>,
    /// The readmission of each node that was heard of last.
    readmitted: BTreeMap<NodeId, Epoch>,
}

#[derive(Clone, Copy)]
struct Life {
    incarnation: Incarnation,
    heard: Moment,
    /// In which generation its log was, and up to which index it certainly went.
    log: (u64, u64),
}

impl Gate {
    /// A gate that knows the file and the agreed state.
    pub fn new(me: NodeId, cluster: String, membership: u64, ledger: SharedLedger) -> Self {
        Self(Arc::new(Mutex::new(Known {
            me,
            cluster,
            membership,
            ledger,
            lives: BTreeMap::new(),
            readmitted: BTreeMap::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has reported.
    pub fn heard(&self, now: Moment, node: NodeId, report: &Report) {
        let mut known = self.lock();
        let before = known.lives.get(&node);
        // A new worker of the same life does not know yet what it has.
        let had = before
            .filter(|life| life.incarnation == report.incarnation)
            .filter(|life| life.log.0 == report.generation)
            .map_or(0, |life| life.log.1);
        let log = (report.generation, report.stored.max(had));
        let life = Life {
            incarnation: report.incarnation,
            heard: now,
            log,
        };
        known.lives.insert(node, life);
    }

    /// A node was readmitted: what was known of its lives before that is void.
    pub fn readmitted(&self, node: NodeId, by: Option<Epoch>) {
        let Some(by) = by else { return };
        let mut known = self.lock();
        if known.readmitted.get(&node).is_none_or(|last| *last < by) {
            known.readmitted.insert(node, by);
            known.lives.remove(&node);
        }
    }

    /// Judges a node that says hello.
    pub fn admit(&self, now: Moment, from: NodeId, hello: &Hello) -> Result<(), String> {
        let mut known = self.lock();
        known.judge(now, from, hello)?;
        let log = known.lives.get(&from).map_or((0, 0), |life| life.log);
        known.lives.insert(
            from,
            Life {
                incarnation: hello.incarnation,
                heard: now,
                log,
            },
        );
        Ok(())
    }

    /// The same as the transport wants it.
    pub fn admission(&self) -> Admission {
        let gate = self.clone();
        Arc::new(move |from, bytes| {
            let hello = Hello::decode(bytes).map_err(|error| error.to_string())?;
            gate.admit(clock::now(), from, &hello)
        })
    }
}

impl Life {
    /// Whether the log had more than another life says. One that was lost says nothing.
    fn is_after(&self, hello: &Hello) -> bool {
        let (generation, stored) = self.log;
        generation == hello.generation && hello.last_log_index < stored
    }
}

impl Known {
    fn judge(&self, now: Moment, from: NodeId, hello: &Hello) -> Result<(), String> {
        if hello.node != from || from == self.me {
            return Err("it says that it is another node than its certificate".to_owned());
        }
        if hello.cluster != self.cluster {
            return Err(format!(
                "its file is for the cluster {}, ours for {}: correct `cluster` in one of them",
                hello.cluster, self.cluster
            ));
        }
        if hello.membership != self.membership {
            return Err(
                "its file names other voters than ours: give all nodes the same file".to_owned(),
            );
        }
        // One that knows what was agreed later may have been readmitted in between.
        let newer = self.ledger.with(|ledger| hello.applied > ledger.applied);
        if !newer
            && !self
                .ledger
                .with(|ledger| ledger.admits(from, hello.incarnation))
        {
            return Err(format!(
                "its state directory is older than what the cluster remembers of it, or a copy \
                 (start {} is known; it says {}). If that is on purpose (a new disk, a restored \
                 backup), run `evenkeel readmit` with its name on another node",
                self.remembered(from),
                hello.incarnation.counter
            ));
        }
        if let Some(unseen) = self.unseen(from, hello).filter(|_| !newer) {
            return Err(format!(
                "its state directory has not seen start {unseen} of this node, which the cluster \
                 remembers: it was restored from a backup, or is a copy. If that is on purpose, run \
                 `evenkeel readmit` with its name on another node"
            ));
        }
        // So may one whose life is on record since.
        let settled = newer || self.records(from, hello.incarnation);
        match self.lives.get(&from) {
            Some(life) if life.incarnation == hello.incarnation => Ok(()),
            Some(life) if !settled && life.incarnation.counter >= hello.incarnation.counter => {
                Err(format!(
                    "a newer start of this node is known ({} before, {} now): is its state directory \
                 a copy?",
                    life.incarnation.counter, hello.incarnation.counter
                ))
            }
            Some(life) if now.since(life.heard) < RUNNING => {
                Err("this node runs already: is this a second process or a copy of it?".to_owned())
            }
            Some(life) if !settled && life.is_after(hello) => Err(format!(
                "its log ends at entry {}, and it had {} before: it was restored from a backup. If \
                 that is on purpose, run `evenkeel readmit` with its name on another node",
                hello.last_log_index, life.log.1
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// The life on record, if the node's state directory should know it and does not: it was
    /// restored, and has been started so often since that its counter has caught up.
    fn unseen(&self, node: NodeId, hello: &Hello) -> Option<u64> {
        let known = self
            .ledger
            .with(|ledger| ledger.nodes.get(&node)?.incarnation)?;
        let oldest = hello.past.first()?;
        let seen = known == hello.incarnation || hello.past.contains(&known);
        (!seen && known.counter >= oldest.counter).then_some(known.counter)
    }

    /// Whether this very life is the one on record.
    fn records(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.ledger.with(|ledger| {
            let record = ledger.nodes.get(&node);
            record.is_some_and(|record| record.incarnation == Some(incarnation))
        })
    }

    fn remembered(&self, node: NodeId) -> u64 {
        self.ledger
            .with(|ledger| {
                ledger
                    .nodes
                    .get(&node)
                    .and_then(|record| record.incarnation)
            })
            .map_or(0, |life| life.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_consensus::Machine;
    use evenkeel_core::command::Command;
    use evenkeel_wire::v1::hello::LOG_UNREAD;

    const PEER: NodeId = NodeId(2);

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn hello(counter: u64, nonce: u64) -> Hello {
        Hello {
            cluster: "shop".to_owned(),
            node: PEER,
            incarnation: Incarnation { counter, nonce },
            version: "test".to_owned(),
            membership: 7,
            last_log_index: 0,
            generation: 0,
            settled: false,
            knows: Vec::new(),
            past: Vec::new(),
            applied: Epoch::NONE,
        }
    }

    fn gate() -> (Gate, SharedLedger) {
        let ledger = SharedLedger::default();
        (
            Gate::new(NodeId(1), "shop".to_owned(), 7, ledger.clone()),
            ledger,
        )
    }

    fn report(counter: u64, nonce: u64, stored: u64) -> Report {
        Report {
            incarnation: Incarnation { counter, nonce },
            seq: 1,
            stopping: false,
            guard_full: true,
            config_digest: 1,
            generation: 0,
            votes: true,
            stored,
            caught_up: true,
            log_fault: None,
            leader: None,
            lateness: Duration::ZERO,
            checks: Vec::new(),
            whole: true,
            groups: Vec::new(),
            silences: Vec::new(),
            floors_above: Vec::new(),
            leaving: Vec::new(),
        }
    }

    #[test]
    fn a_restart_is_let_in_once_the_old_process_is_silent() {
        let (gate, _) = gate();
        assert_eq!(gate.admit(at(0), PEER, &hello(1, 5)), Ok(()));
        gate.heard(at(100), PEER, &report(1, 5, 0));
        assert!(gate.admit(at(200), PEER, &hello(2, 6)).is_err(), "it runs");
        assert_eq!(gate.admit(at(600), PEER, &hello(2, 6)), Ok(()));
        let error = gate.admit(at(2000), PEER, &hello(1, 5)).expect_err("older");
        assert!(error.contains("newer start"), "{error}");
    }

    #[test]
    fn a_clone_is_refused_while_the_original_runs_and_by_the_agreed_state() {
        let (gate, mut ledger) = gate();
        assert_eq!(gate.admit(at(0), PEER, &hello(3, 5)), Ok(()));
        assert!(
            gate.admit(at(9000), PEER, &hello(3, 6)).is_err(),
            "the same number"
        );
        let started = Command::Started {
            node: PEER,
            incarnation: Incarnation {
                counter: 9,
                nonce: 1,
            },
        };
        ledger.apply(
            Epoch { term: 1, index: 1 },
            &evenkeel_wire::v1::entry::encode(&started),
        );
        let error = gate.admit(at(9000), PEER, &hello(8, 6)).expect_err("older");
        assert!(error.contains("readmit"), "{error}");
    }

    #[test]
    fn a_log_that_has_become_shorter_is_refused() {
        let (gate, _) = gate();
        let says = |life: u64, last_log_index, generation| Hello {
            last_log_index,
            generation,
            ..hello(life, life)
        };
        assert_eq!(gate.admit(at(0), PEER, &says(1, 3, 0)), Ok(()));
        gate.heard(at(100), PEER, &report(1, 1, 70));
        // The same life says what it said when it was connected first.
        assert_eq!(gate.admit(at(200), PEER, &says(1, 3, 0)), Ok(()));
        let error = gate
            .admit(at(1000), PEER, &says(2, 69, 0))
            .expect_err("restored");
        assert!(error.contains("restored from a backup"), "{error}");
        // Whole; of another generation; lost, and says so.
        for hello in [says(2, 70, 0), says(2, 0, 1), says(2, LOG_UNREAD, 0)] {
            let (gate, _) = self::gate();
            gate.heard(at(100), PEER, &report(1, 1, 70));
            assert_eq!(gate.admit(at(1000), PEER, &hello), Ok(()));
        }
    }

    #[test]
    fn a_restored_directory_is_refused_however_often_it_is_started() {
        let (gate, mut ledger) = gate();
        let life = |counter, nonce| Incarnation { counter, nonce };
        let started = Command::Started {
            node: PEER,
            incarnation: life(3, 1),
        };
        let payload = evenkeel_wire::v1::entry::encode(&started);
        ledger.apply(Epoch { term: 1, index: 1 }, &payload);
        let says = |past: Vec<Incarnation>| Hello {
            past,
            ..hello(5, 9)
        };
        // Restored from before start 3, and started as 3, 4 and 5 since.
        let restored = says(vec![life(1, 1), life(2, 1), life(3, 9), life(4, 9)]);
        let error = gate.admit(at(0), PEER, &restored).expect_err("restored");
        assert!(error.contains("has not seen start 3"), "{error}");
        // What it knows is newer than what is known here: it may have been readmitted.
        let newer = Hello {
            applied: Epoch { term: 1, index: 2 },
            ..restored
        };
        assert_eq!(gate.admit(at(0), PEER, &newer), Ok(()));
        // It saw that start; or remembers only later ones; or does not say.
        for past in [
            vec![life(2, 1), life(3, 1), life(4, 1)],
            vec![life(4, 1)],
            Vec::new(),
        ] {
            let (gate, mut ledger) = self::gate();
            ledger.apply(Epoch { term: 1, index: 1 }, &payload);
            assert_eq!(gate.admit(at(0), PEER, &says(past)), Ok(()));
        }
    }

    #[test]
    fn one_that_was_readmitted_meanwhile_is_let_in_although_its_former_life_is_remembered() {
        let (gate, mut ledger) = gate();
        gate.heard(at(0), PEER, &report(9, 1, 70));
        let says = |applied| Hello {
            applied,
            last_log_index: 3,
            ..hello(1, 5)
        };
        assert!(
            gate.admit(at(1000), PEER, &says(Epoch::NONE)).is_err(),
            "a new disk"
        );
        // It knows more: its readmission may be among that.
        assert_eq!(
            gate.admit(at(1000), PEER, &says(Epoch { term: 1, index: 4 })),
            Ok(())
        );
        // This node has learned of the life, if not of the readmission.
        gate.heard(at(2000), PEER, &report(9, 1, 70));
        let started = Command::Started {
            node: PEER,
            incarnation: Incarnation {
                counter: 1,
                nonce: 5,
            },
        };
        let payload = evenkeel_wire::v1::entry::encode(&started);
        ledger.apply(Epoch { term: 1, index: 5 }, &payload);
        assert_eq!(gate.admit(at(3000), PEER, &says(Epoch::NONE)), Ok(()));
    }

    #[test]
    fn another_cluster_other_voters_or_another_name_are_refused() {
        let (gate, _) = gate();
        let other = Hello {
            cluster: "other".to_owned(),
            ..hello(1, 1)
        };
        assert!(
            gate.admit(at(0), PEER, &other)
                .expect_err("refused")
                .contains("cluster")
        );
        let other = Hello {
            membership: 8,
            ..hello(1, 1)
        };
        assert!(
            gate.admit(at(0), PEER, &other)
                .expect_err("refused")
                .contains("voters")
        );
        let error = gate
            .admit(at(0), NodeId(3), &hello(1, 1))
            .expect_err("refused");
        assert!(error.contains("certificate"), "{error}");
    }
}
