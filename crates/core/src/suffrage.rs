//! Whether a voter whose log remembers nothing may vote (DESIGN 3.1 rule 8).
//!
//! A vote and an acknowledged entry must never be forgotten: a voter that lost its log could help
//! another majority agree on something else. So a node votes only
//!
//! - if its log bears the durable mark of a voter: it was never lost since; or
//! - if an operator has readmitted this life of it
//!   ([`Ledger::readmission`](crate::ledger::Ledger::readmission)), after its log was lost; or
//! - if it is **new**: it cannot have voted before. Its state directory says that it never voted
//!   (that is noted beside the log, so the loss of the log alone is seen from it), and the others,
//!   who would know if the whole directory was lost, say:
//!
//! | the others, as heard in this life                           | new                          |
//! | ----------------------------------------------------------- | ---------------------------- |
//! | so many that each majority with this node has one of them ([`witnesses`]) never heard of an earlier life of it | yes |
//! | nobody has a log yet, and with this node they are a majority | yes: the cluster is being formed |
//! | anything else                                               | no, or not yet               |
//!
//! The first line, because whatever this node helped decide in an earlier life was decided by a
//! majority with it. One less would not do: with three voters A, B and W, a B that was away would
//! call W new although A and W have decided without it.
//!
//! What the table cannot see: the whole directory lost in the first second of a life, before that
//! life is on record with the others; and of three voters two without a log (lost with the
//! directory, or never installed) while the third, the only one that has it, is away. Nor can
//! anybody see that a log is an old copy (with its mark, from a backup) whose voter is heard only
//! by others that lag so far behind that they do not know its last life either.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::NodeId;
use crate::quorum::{majority, witnesses};

/// What another voter says when it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// It has agreed on an earlier life of this node.
    pub knows_earlier_life: bool,
    /// Its log has, or had, entries.
    pub has_log: bool,
}

/// What the other voters have said so far. Who knew an earlier life, or had a log, did so: a
/// later word that does not know it any more comes from one that has lost its own log.
#[derive(Clone, Debug)]
pub struct Suffrage {
    others: BTreeSet<NodeId>,
    heard: BTreeMap<NodeId, Greeting>,
}

impl Suffrage {
    /// Nobody was heard yet. `voters` are all voters of the configuration.
    pub fn new(me: NodeId, voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            others: voters.into_iter().filter(|voter| *voter != me).collect(),
            heard: BTreeMap::new(),
        }
    }

    /// A node was connected. One that is no voter says nothing here.
    pub fn greeted(&mut self, from: NodeId, greeting: Greeting) {
        if self.others.contains(&from) {
            let word = self.heard.entry(from).or_insert(greeting);
            word.knows_earlier_life |= greeting.knows_earlier_life;
            word.has_log |= greeting.has_log;
        }
    }

    /// Whether this node cannot have voted before.
    pub fn is_new(&self) -> bool {
        let voters = self.others.len() + 1;
        let strangers = self.heard.values().filter(|said| !said.knows_earlier_life);
        let strangers = strangers.count();
        let forming = self.heard.values().all(|said| !said.has_log);
        strangers >= witnesses(voters) || forming && strangers + 1 >= majority(voters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Greeting = Greeting {
        knows_earlier_life: false,
        has_log: false,
    };
    const STRANGER: Greeting = Greeting {
        knows_earlier_life: false,
        has_log: true,
    };
    const KNOWS: Greeting = Greeting {
        knows_earlier_life: true,
        has_log: true,
    };

    fn is_new(voters: u64, said: &[Greeting]) -> bool {
        let mut suffrage = Suffrage::new(NodeId(1), (1..=voters).map(NodeId));
        for (other, greeting) in (2..).zip(said) {
            suffrage.greeted(NodeId(other), *greeting);
        }
        suffrage.is_new()
    }

    #[test]
    fn the_table_is_kept() {
        for (voters, said, wanted) in [
            // Forming: two of three, three of five.
            (3, &[][..], false),
            (3, &[EMPTY], true),
            (3, &[EMPTY, EMPTY], true),
            (5, &[EMPTY], false),
            (5, &[EMPTY, EMPTY], true),
            // A cluster that lives: all of two others, three of four.
            (3, &[STRANGER], false),
            (3, &[EMPTY, STRANGER], true),
            (3, &[STRANGER, STRANGER], true),
            (5, &[STRANGER, STRANGER], false),
            (5, &[STRANGER, STRANGER, EMPTY], true),
            // Of two, the other one; of four, two.
            (2, &[STRANGER], true),
            (2, &[KNOWS], false),
            (4, &[STRANGER], false),
            (4, &[STRANGER, STRANGER], true),
            // Known: never with three; with five, what three do not know was not decided.
            (3, &[KNOWS], false),
            (3, &[KNOWS, EMPTY], false),
            (3, &[KNOWS, STRANGER], false),
            (5, &[KNOWS, STRANGER, EMPTY], false),
            (5, &[KNOWS, STRANGER, STRANGER, EMPTY], true),
            // Alone there is nobody who could tell, and nobody to disagree with.
            (1, &[], true),
        ] {
            assert_eq!(is_new(voters, said), wanted, "{voters} voters, {said:?}");
        }
    }

    /// Whoever decided something with an earlier life of this node meets every set of others that
    /// calls it new, unless all that were heard have no log at all.
    #[test]
    fn a_life_that_helped_decide_is_never_called_new_by_those_with_a_log() {
        for voters in [2_usize, 3, 4, 5] {
            let others: Vec<u64> = (1..voters as u64).collect();
            let sets = 1_u32 << others.len();
            let within = |set: u32, other: u64| set & (1 << (other - 1)) != 0;
            // With this node's own vote they were a majority.
            let deciding = |set: &u32| set.count_ones() as usize + 1 >= majority(voters);
            for decided in (0..sets).filter(deciding) {
                for (heard, logs) in (0..sets).flat_map(|heard| (0..sets).map(move |l| (heard, l)))
                {
                    let mut suffrage = Suffrage::new(NodeId(0), (0..voters as u64).map(NodeId));
                    for other in others.iter().filter(|other| within(heard, **other)) {
                        let greeting = Greeting {
                            knows_earlier_life: within(decided, *other),
                            has_log: within(decided | logs, *other),
                        };
                        suffrage.greeted(NodeId(*other), greeting);
                    }
                    assert!(
                        !suffrage.is_new() || heard & (decided | logs) == 0,
                        "{voters} voters, decided by {decided:b}, heard {heard:b}, logs {logs:b}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_was_known_once_counts_and_only_voters_have_a_word() {
        let mut suffrage = Suffrage::new(NodeId(1), [1, 2, 3].map(NodeId));
        suffrage.greeted(NodeId(9), EMPTY);
        assert!(!suffrage.is_new());
        suffrage.greeted(NodeId(2), EMPTY);
        assert!(suffrage.is_new());
        for word in [KNOWS, EMPTY] {
            suffrage.greeted(NodeId(2), word);
            assert!(!suffrage.is_new());
        }
        // Its log was lost; that of the third is nobody's proof either.
        suffrage.greeted(NodeId(3), EMPTY);
        assert!(!suffrage.is_new());
    }
}
