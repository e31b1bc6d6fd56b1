//! What the cluster has agreed on: the deterministic result of the log's entries.
//! Equal logs give equal ledgers on every node and in every version, but for what nobody
//! asks for and an older version still keeps, and for how often nodes failed: policy alone looks
//! at that, and versions may forgive differently.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use crate::command::{Assign, Command, Drain, Opened, Recovered};
use crate::evidence::Cause;
use crate::names::{Epoch, GroupId, Incarnation, NodeId};
use crate::topology::ServiceAddress;

/// How many moves of a group are remembered for `why`.
pub const MOVES_MAX: usize = 32;

/// The agreed state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Per group: who holds it, and how that came about.
    pub groups: BTreeMap<GroupId, GroupRecord>,
    /// Per node: the life of its daemon that counts.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// The last entry applied.
    pub applied: Epoch,
    /// The last recovery, and the entry that tells of it.
    pub recovered: Option<(Epoch, Recovered)>,
}

/// What is agreed about one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRecord {
    /// The newest assignment.
    pub current: Option<Assigned>,
    /// The last moves, oldest first; at most [`MOVES_MAX`].
    pub moves: VecDeque<Move>,
    /// How often each node has failed this group since it last served it well, or was well for
    /// long ([`Command::Forgive`]).
    pub failures: BTreeMap<NodeId, Failure>,
}

impl GroupRecord {
    /// Forgets the addresses of older moves as far as nobody asks for them: what counts is
    /// which of them a move may still answer for, from the newest back to the last one that
    /// was seen open (DESIGN 3.1 rule 10). Thirty-two lists of thousands would be too long
    /// for a snapshot.
    fn forget_addresses(&mut self) {
        let mut newer: BTreeSet<IpAddr> = BTreeSet::new();
        let mut over = false;
        for one in self.moves.iter_mut().rev() {
            let addresses = &mut one.assigned.assign.addresses;
            if over {
                *addresses = Vec::new();
            } else {
                addresses.retain(|address| newer.insert(address.ip));
                addresses.shrink_to_fit();
            }
            over |= one.opened.is_some();
        }
    }
}

/// An assignment with its epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Its epoch.
    pub epoch: Epoch,
    /// The entry.
    pub assign: Assign,
}

/// One move and how it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The assignment.
    pub assigned: Assigned,
    /// The holder's own account, once it has given it.
    pub opened: Option<Opened>,
}

/// That a node failed a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The assignment that took the group away from it.
    pub epoch: Epoch,
    /// How often that has happened.
    pub count: u32,
}

/// What is agreed about one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeRecord {
    /// The life of its daemon that counts; none right after a readmission.
    pub incarnation: Option<Incarnation>,
    /// The entry that readmitted it, until another life follows the one that came next.
    pub readmitted: Option<Epoch>,
    /// That an operator drains it: whatever life it is in.
    pub drained: Option<Drained>,
}

/// That an operator drains a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// The entry that began it.
    pub began: Epoch,
    /// For how long; none: until an operator ends it. Whoever leads counts it on its own clock
    /// since it learned of the entry: no two calendars need to agree.
    pub lasting: Option<Duration>,
    /// When it began, by the calendar of the leader then: for people only.
    pub wall_ms: u64,
}

/// What an entry changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A group has a new holder.
    Assigned(GroupId),
    /// A node's life was recorded.
    Started(NodeId),
    /// A node was readmitted.
    Readmitted(NodeId),
    /// A holder told how the opening went.
    Told(GroupId),
    /// A generation began.
    Recovered,
    /// A node is drained from now on.
    Drained(NodeId),
    /// A node is drained no more.
    Undrained(NodeId),
    /// A node's failures of a group are forgotten.
    Forgiven(GroupId, NodeId),
    /// The entry was known or obsolete: nothing changed.
    Nothing,
}

impl Ledger {
    /// Applies one entry. Entries come in the order of the log; one that is not newer
    /// than the last applied changes nothing.
    pub fn apply(&mut self, epoch: Epoch, command: &Command) -> Change {
        if epoch <= self.applied {
            return Change::Nothing;
        }
        self.applied = epoch;
        match command {
            Command::Assign(assign) => self.assign(epoch, assign),
            Command::Started { node, incarnation } => {
                let record = self.nodes.entry(*node).or_default();
                // A readmission is for one life: should that one lose its log as well, an
                // operator has to say so again.
                if record.incarnation.is_some_and(|life| life != *incarnation) {
                    record.readmitted = None;
                }
                record.incarnation = Some(*incarnation);
                Change::Started(*node)
            }
            Command::Readmit { node } => {
                let record = self.nodes.entry(*node).or_default();
                record.incarnation = None;
                record.readmitted = Some(epoch);
                Change::Readmitted(*node)
            }
            Command::Opened(opened) => self.told(opened),
            Command::Recovered(recovered) => {
                self.recovered = Some((epoch, recovered.clone()));
                Change::Recovered
            }
            Command::Drain(drain) => self.drain(epoch, drain),
            Command::Undrain { node, began } => self.undrain(*node, *began),
            Command::Forgive {
                group,
                node,
                failure,
            } => self.forgive(*group, *node, *failure),
        }
    }

    /// The newest drain replaces an older one, its time included.
    fn drain(&mut self, epoch: Epoch, drain: &Drain) -> Change {
        let record = self.nodes.entry(drain.node).or_default();
        record.drained = Some(Drained {
            began: epoch,
            lasting: drain.lasting,
            wall_ms: drain.wall_ms,
        });
        Change::Drained(drain.node)
    }

    fn undrain(&mut self, node: NodeId, began: Option<Epoch>) -> Change {
        let record = self.nodes.get_mut(&node);
        let ended = record.and_then(|record| {
            let meant = |one: &mut Drained| began.is_none_or(|began| began == one.began);
            record.drained.take_if(meant)
        });
        ended.map_or(Change::Nothing, |_| Change::Undrained(node))
    }

    fn forgive(&mut self, group: GroupId, node: NodeId, failure: Epoch) -> Change {
        let Some(record) = self.groups.get_mut(&group) else {
            return Change::Nothing;
        };
        match record.failures.get(&node) {
            Some(known) if known.epoch == failure => {
                record.failures.remove(&node);
                Change::Forgiven(group, node)
            }
            Some(_) | None => Change::Nothing,
        }
    }

    /// That an operator drains a node, if so.
    pub fn drained(&self, node: NodeId) -> Option<&Drained> {
        self.nodes.get(&node)?.drained.as_ref()
    }

    fn assign(&mut self, epoch: Epoch, assign: &Assign) -> Change {
        let record = self.groups.entry(assign.group).or_default();
        match (assign.evidence.from, assign.evidence.cause.is_failure()) {
            (Some(from), true) => {
                let failure = record
                    .failures
                    .entry(from)
                    .or_insert(Failure { epoch, count: 0 });
                failure.epoch = epoch;
                failure.count = failure.count.saturating_add(1);
            }
            // It lost its lease and gave up, or was refused: neither its failure nor well to the end.
            (Some(_), false)
                if matches!(
                    assign.evidence.cause,
                    Cause::HolderReleased | Cause::FloorAbove { .. }
                ) => {}
            // It served well to the end: earlier failures are forgiven. Who never opened has shown
            // nothing.
            (Some(from), false) => {
                let last = record.moves.back();
                if last.is_some_and(|last| last.opened.is_some()) {
                    record.failures.remove(&from);
                }
            }
            (None, _) => {}
        }
        let assigned = Assigned {
            epoch,
            assign: assign.clone(),
        };
        record.current = Some(assigned.clone());
        while record.moves.len() >= MOVES_MAX {
            record.moves.pop_front();
        }
        record.moves.push_back(Move {
            assigned,
            opened: None,
        });
        record.forget_addresses();
        Change::Assigned(assign.group)
    }

    /// The first account counts: a restarted worker tells of its resumption again.
    fn told(&mut self, opened: &Opened) -> Change {
        let Some(record) = self.groups.get_mut(&opened.group) else {
            return Change::Nothing;
        };
        let known = record
            .moves
            .iter_mut()
            .find(|one| one.assigned.epoch == opened.epoch);
        match known {
            Some(one) if one.assigned.assign.holder == opened.node && one.opened.is_none() => {
                one.opened = Some(opened.clone());
                record.forget_addresses();
                Change::Told(opened.group)
            }
            Some(_) | None => Change::Nothing,
        }
    }

    /// The newest assignment of a group.
    pub fn current(&self, group: GroupId) -> Option<&Assigned> {
        self.groups
            .get(&group)
            .and_then(|record| record.current.as_ref())
    }

    /// The groups that are assigned to a node.
    pub fn held_by(&self, node: NodeId) -> impl Iterator<Item = GroupId> {
        let groups = self.groups.iter();
        let held = move |record: &GroupRecord| {
            let current = record.current.as_ref();
            current.is_some_and(|current| current.assign.holder == node)
        };
        groups.filter_map(move |(group, record)| held(record).then_some(*group))
    }

    /// The addresses of an assignment without those that another group has got since: a group
    /// that was gone from the file for a while comes back with what it had, and must not take
    /// it from whoever has it now.
    pub fn addresses_of(&self, assigned: &Assigned) -> Vec<ServiceAddress> {
        let Assigned { epoch, assign } = assigned;
        let others = self.groups.iter().filter(|(id, _)| **id != assign.group);
        let newer: Vec<&Assign> = others
            .flat_map(|(_, record)| record.current.iter())
            .filter(|other| other.epoch > *epoch)
            .map(|other| &other.assign)
            .collect();
        let taken = |own: &&ServiceAddress| {
            newer
                .iter()
                .any(|other| other.addresses.iter().any(|held| held.ip == own.ip))
        };
        let own = assign.addresses.iter();
        own.filter(|own| !taken(own)).cloned().collect()
    }

    /// The entry that readmitted this life of a node: it may vote although its log does not show
    /// that it did before. Only once the life itself is on record: a log that is being fetched
    /// again passes through the readmissions of earlier lives.
    pub fn readmission(&self, node: NodeId, incarnation: Incarnation) -> Option<Epoch> {
        let record = self.nodes.get(&node)?;
        let recorded = self.counts(node, incarnation);
        record.readmitted.filter(|_| recorded)
    }

    /// Whether this life of a node is the one on record.
    pub fn counts(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let record = self.nodes.get(&node);
        record.is_some_and(|record| record.incarnation == Some(incarnation))
    }

    /// Whether this life of a node may take part: not older than the one on record,
    /// and not another one with the same counter (DESIGN 3.1 rule 8).
    pub fn admits(&self, node: NodeId, incarnation: Incarnation) -> bool {
        match self.nodes.get(&node).and_then(|record| record.incarnation) {
            None => true,
            Some(known) => incarnation == known || incarnation.counter > known.counter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Evidence;

    const GROUP: GroupId = GroupId(7);

    fn assign(holder: u64, from: Option<u64>, cause: Cause) -> Command {
        Command::Assign(Assign {
            group: GROUP,
            holder: NodeId(holder),
            incarnation: Incarnation {
                counter: 1,
                nonce: 9,
            },
            addresses: Vec::new(),
            evidence: Evidence {
                cause,
                from: from.map(NodeId),
                decided_by: NodeId(3),
                wall_ms: 0,
                known_for: core::time::Duration::ZERO,
                checks: Vec::new(),
                considered: Vec::new(),
            },
        })
    }

    fn at(index: u64) -> Epoch {
        Epoch { term: 1, index }
    }

    #[test]
    fn the_newest_assignment_counts_and_old_entries_change_nothing() {
        let mut ledger = Ledger::default();
        assert_eq!(
            ledger.apply(at(1), &assign(1, None, Cause::FirstStart)),
            Change::Assigned(GROUP)
        );
        assert_eq!(
            ledger.apply(at(2), &assign(2, Some(1), Cause::Operator)),
            Change::Assigned(GROUP)
        );
        assert_eq!(
            ledger.apply(at(1), &assign(1, None, Cause::FirstStart)),
            Change::Nothing
        );
        let current = ledger.current(GROUP).expect("a holder");
        assert_eq!((current.epoch, current.assign.holder), (at(2), NodeId(2)));
    }

    #[test]
    fn only_failures_are_counted_against_the_old_holder() {
        let mut ledger = Ledger::default();
        ledger.apply(at(1), &assign(2, Some(1), Cause::Operator));
        assert!(ledger.groups[&GROUP].failures.is_empty());
        ledger.apply(at(2), &assign(1, Some(2), Cause::RuleHolds));
        ledger.apply(at(3), &assign(2, Some(2), Cause::RuleHolds));
        assert_eq!(
            ledger.groups[&GROUP].failures[&NodeId(2)],
            Failure {
                epoch: at(3),
                count: 2
            }
        );
    }

    #[test]
    fn who_gives_up_after_a_lost_lease_has_neither_failed_nor_made_good() {
        let mut ledger = Ledger::default();
        // In either epoch it has served for a while.
        let open = |ledger: &mut Ledger, index| {
            let opened = Opened {
                group: GROUP,
                epoch: at(index),
                node: NodeId(2),
                phases: Vec::new(),
            };
            let told = ledger.apply(at(index + 1), &Command::Opened(opened));
            assert_eq!(told, Change::Told(GROUP));
        };
        ledger.apply(at(1), &assign(1, Some(2), Cause::RuleHolds));
        ledger.apply(at(2), &assign(2, Some(1), Cause::HolderReleased));
        open(&mut ledger, 2);
        ledger.apply(at(4), &assign(2, Some(2), Cause::HolderReleased));
        open(&mut ledger, 4);
        let failures = &ledger.groups[&GROUP].failures;
        let (epoch, count) = (at(1), 1);
        assert_eq!(failures.get(&NodeId(2)), Some(&Failure { epoch, count }));
        assert_eq!(failures.get(&NodeId(1)), None);
        ledger.apply(at(6), &assign(1, Some(2), Cause::Operator));
        assert!(ledger.groups[&GROUP].failures.is_empty(), "it served well");
    }

    #[test]
    fn the_memory_of_moves_is_bounded() {
        let mut ledger = Ledger::default();
        for index in 1..=100 {
            ledger.apply(at(index), &assign(index % 2, None, Cause::Operator));
        }
        assert_eq!(ledger.groups[&GROUP].moves.len(), MOVES_MAX);
    }

    fn with(last_bytes: &[u8]) -> Command {
        let Command::Assign(mut assign) = assign(1, None, Cause::Operator) else {
            unreachable!("it is an assignment");
        };
        let address = |last: &u8| ServiceAddress {
            ip: [192, 0, 2, *last].into(),
            prefix: 24,
            device: None,
        };
        assign.addresses = last_bytes.iter().map(address).collect();
        Command::Assign(assign)
    }

    /// The last bytes of the addresses of each move, oldest first.
    fn kept(ledger: &Ledger) -> Vec<Vec<u8>> {
        let last = |address: &ServiceAddress| match address.ip {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        };
        let of = |one: &Move| one.assigned.assign.addresses.iter().map(last).collect();
        ledger.groups[&GROUP].moves.iter().map(of).collect()
    }

    #[test]
    fn a_move_keeps_the_addresses_that_only_it_may_still_answer_for() {
        let mut ledger = Ledger::default();
        let open = |ledger: &mut Ledger, index| {
            let opened = Opened {
                group: GROUP,
                epoch: at(index),
                node: NodeId(1),
                phases: Vec::new(),
            };
            ledger.apply(at(index + 50), &Command::Opened(opened))
        };
        ledger.apply(at(1), &with(&[1, 2]));
        ledger.apply(at(2), &with(&[1, 2, 3]));
        open(&mut ledger, 2);
        ledger.apply(at(60), &with(&[1, 4]));
        let expected: Vec<Vec<u8>> = vec![vec![], vec![2, 3], vec![1, 4]];
        assert_eq!(kept(&ledger), expected);
        assert_eq!(
            ledger.current(GROUP).map(|one| one.assign.addresses.len()),
            Some(2),
            "the assignment itself is whole"
        );
        open(&mut ledger, 60);
        let expected: Vec<Vec<u8>> = vec![vec![], vec![], vec![1, 4]];
        assert_eq!(kept(&ledger), expected);
    }

    #[test]
    fn an_older_life_or_a_clone_is_not_admitted_until_readmitted() {
        let mut ledger = Ledger::default();
        let node = NodeId(5);
        let life = |counter, nonce| Incarnation { counter, nonce };
        assert!(ledger.admits(node, life(1, 1)));
        ledger.apply(
            at(1),
            &Command::Started {
                node,
                incarnation: life(4, 1),
            },
        );
        assert!(ledger.admits(node, life(4, 1)));
        assert!(ledger.admits(node, life(5, 2)));
        assert!(!ledger.admits(node, life(4, 2)), "a clone");
        assert!(!ledger.admits(node, life(3, 1)), "a restored backup");
        ledger.apply(at(2), &Command::Readmit { node });
        assert!(ledger.admits(node, life(1, 7)));
    }

    #[test]
    fn a_drain_lasts_over_lives_until_it_is_ended_and_the_newest_counts() {
        let mut ledger = Ledger::default();
        let node = NodeId(5);
        let drain = |secs| {
            Command::Drain(Drain {
                node,
                lasting: Some(Duration::from_secs(secs)),
                wall_ms: 1,
            })
        };
        let undrain = |began| Command::Undrain { node, began };
        assert_eq!(ledger.apply(at(1), &undrain(None)), Change::Nothing);
        assert_eq!(ledger.apply(at(2), &drain(60)), Change::Drained(node));
        let incarnation = Incarnation {
            counter: 2,
            nonce: 7,
        };
        ledger.apply(at(3), &Command::Started { node, incarnation });
        ledger.apply(at(4), &Command::Readmit { node });
        assert_eq!(ledger.drained(node).map(|one| one.began), Some(at(2)));
        // Its time was over, but somebody drained it again meanwhile.
        ledger.apply(at(5), &drain(90));
        assert_eq!(ledger.apply(at(6), &undrain(Some(at(2)))), Change::Nothing);
        let known = ledger.drained(node).copied().expect("drained");
        assert_eq!(known.lasting, Some(Duration::from_secs(90)));
        assert_eq!(
            ledger.apply(at(7), &undrain(Some(at(5)))),
            Change::Undrained(node)
        );
        assert_eq!(ledger.drained(node), None);
    }

    #[test]
    fn the_failures_that_are_meant_are_forgiven_and_no_later_ones() {
        let mut ledger = Ledger::default();
        ledger.apply(at(1), &assign(1, Some(2), Cause::RuleHolds));
        let forgive = |failure| Command::Forgive {
            group: GROUP,
            node: NodeId(2),
            failure,
        };
        ledger.apply(at(2), &assign(2, Some(1), Cause::Operator));
        ledger.apply(at(3), &assign(1, Some(2), Cause::RuleHolds));
        assert_eq!(ledger.apply(at(4), &forgive(at(1))), Change::Nothing);
        assert_eq!(ledger.groups[&GROUP].failures[&NodeId(2)].count, 2);
        let forgiven = Change::Forgiven(GROUP, NodeId(2));
        assert_eq!(ledger.apply(at(5), &forgive(at(3))), forgiven);
        assert!(ledger.groups[&GROUP].failures.is_empty());
    }

    /// Who was moved away as planned before it had opened at all has shown nothing.
    #[test]
    fn failures_are_forgotten_by_a_planned_move_from_a_group_that_was_open() {
        for opens in [false, true] {
            let mut ledger = Ledger::default();
            ledger.apply(at(1), &assign(1, Some(2), Cause::RuleHolds));
            ledger.apply(at(2), &assign(2, Some(1), Cause::RuleHolds));
            if opens {
                let opened = Command::Opened(Opened {
                    group: GROUP,
                    epoch: at(2),
                    node: NodeId(2),
                    phases: Vec::new(),
                });
                assert_eq!(ledger.apply(at(3), &opened), Change::Told(GROUP));
            }
            ledger.apply(at(4), &assign(1, Some(2), Cause::HolderStopping));
            let failures = &ledger.groups[&GROUP].failures;
            assert_eq!(failures.get(&NodeId(2)).is_none(), opens);
        }
    }

    #[test]
    fn a_readmission_is_for_one_life() {
        let mut ledger = Ledger::default();
        let node = NodeId(5);
        let life = |counter| Incarnation { counter, nonce: 7 };
        let started = |counter| Command::Started {
            node,
            incarnation: life(counter),
        };
        ledger.apply(at(1), &started(1));
        assert_eq!(ledger.readmission(node, life(1)), None);
        ledger.apply(at(2), &Command::Readmit { node });
        // Whose it is shows when that life is agreed on.
        assert_eq!(ledger.readmission(node, life(2)), None);
        ledger.apply(at(3), &started(2));
        // Said twice, because the first proposal was slow.
        ledger.apply(at(4), &started(2));
        assert_eq!(ledger.readmission(node, life(2)), Some(at(2)));
        assert_eq!(ledger.readmission(node, life(3)), None);
        ledger.apply(at(5), &started(3));
        assert_eq!(ledger.readmission(node, life(3)), None);
        assert_eq!(ledger.readmission(node, life(2)), None);
    }
}
