//! The standby's side: what it was told of the clients of groups that others hold.
//!
//! | heard                                           | kept                  | answer         |
//! |-------------------------------------------------|-----------------------|----------------|
//! | of a group that is not known here               | nothing               | 0              |
//! | of an epoch older than what is kept, or than one that opened here | as before | 0        |
//! | all, of a newer epoch, or newer                 | it                    | its number     |
//! | all, not newer                                  | as before             | what is kept   |
//! | changes of what is kept                         | that with them        | its number     |
//! | changes of something else, or of too much       | as before             | what is kept   |
//!
//! The answer is what the sender builds on next; if it is not what it sent, it sends all. So
//! nothing that is lost, repeated or overtaken does harm for longer than one message.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_core::{Epoch, GroupId};

use super::{Changes, FLOWS_MAX, Flow, applied};

/// One message of a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The assignment under which it holds the group.
    pub epoch: Epoch,
    /// What it builds on; 0 for nothing.
    pub base: u64,
    /// The number of what it leads to.
    pub sequence: u64,
    /// What changed.
    pub changes: Changes,
}

#[derive(Debug, Default)]
struct Kept {
    /// The newest epoch that opened here: what older holders say comes too late.
    opened: Epoch,
    epoch: Epoch,
    sequence: u64,
    flows: Vec<Flow>,
}

/// What is known of all groups; at most [`FLOWS_MAX`] connections of each.
#[derive(Debug)]
pub struct Standby {
    groups: BTreeMap<GroupId, Kept>,
}

impl Standby {
    /// Nothing known yet of these groups, and of no others ever.
    pub fn new(groups: impl IntoIterator<Item = GroupId>) -> Self {
        let kept = groups.into_iter().map(|group| (group, Kept::default()));
        Self {
            groups: kept.collect(),
        }
    }

    /// Takes a message in and gives the answer.
    pub fn hear(&mut self, group: GroupId, heard: &Heard) -> u64 {
        let Some(kept) = self.groups.get_mut(&group) else {
            return 0;
        };
        if heard.epoch < kept.epoch || heard.epoch <= kept.opened {
            return 0;
        }
        if heard.base == 0 {
            let newer = heard.epoch > kept.epoch || heard.sequence > kept.sequence;
            if newer && heard.changes.added.len() <= FLOWS_MAX {
                let all: BTreeSet<Flow> = heard.changes.added.iter().copied().collect();
                kept.take_in(heard, all.into_iter().collect());
            }
        } else if heard.epoch == kept.epoch
            && heard.base == kept.sequence
            && let Some(flows) = applied(&kept.flows, &heard.changes)
        {
            kept.take_in(heard, flows);
        }
        kept.answer(heard.epoch)
    }

    /// The group opened here for `epoch`: whose clients are to be tickled. They are given
    /// out once.
    pub fn opened(&mut self, group: GroupId, epoch: Epoch) -> Vec<Flow> {
        let Some(kept) = self.groups.get_mut(&group) else {
            return Vec::new();
        };
        if epoch <= kept.opened {
            return Vec::new();
        }
        kept.opened = epoch;
        if kept.epoch >= epoch {
            return Vec::new();
        }
        kept.sequence = 0;
        std::mem::take(&mut kept.flows)
    }
}

impl Kept {
    fn take_in(&mut self, heard: &Heard, flows: Vec<Flow>) {
        self.epoch = heard.epoch;
        self.sequence = heard.sequence;
        self.flows = flows;
    }

    fn answer(&self, epoch: Epoch) -> u64 {
        if self.epoch == epoch {
            self.sequence
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::flows;
    use super::*;

    const WWW: GroupId = GroupId(1);

    fn epoch(index: u64) -> Epoch {
        Epoch { term: 1, index }
    }

    fn heard(index: u64, base: u64, sequence: u64, added: &[u32], gone: &[u32]) -> Heard {
        Heard {
            epoch: epoch(index),
            base,
            sequence,
            changes: Changes {
                added: flows(added.iter().copied()),
                gone: flows(gone.iter().copied()),
            },
        }
    }

    #[test]
    fn all_and_then_changes_make_the_list_and_opening_gives_it_once() {
        let mut standby = Standby::new([WWW]);
        assert_eq!(standby.hear(WWW, &heard(5, 0, 10, &[3, 1], &[])), 10);
        assert_eq!(standby.hear(WWW, &heard(5, 10, 11, &[2], &[3])), 11);
        assert_eq!(standby.opened(WWW, epoch(6)), flows([1, 2]));
        assert_eq!(standby.opened(WWW, epoch(7)), [], "given once");
        assert_eq!(
            standby.hear(WWW, &heard(5, 11, 12, &[4], &[])),
            0,
            "the old holder comes too late"
        );
        assert_eq!(standby.opened(WWW, epoch(8)), []);
        assert_eq!(standby.hear(WWW, &heard(9, 0, 13, &[4], &[])), 13);
        assert_eq!(standby.opened(WWW, epoch(10)), flows([4]));
    }

    #[test]
    fn changes_of_what_is_not_here_ask_for_all() {
        let mut standby = Standby::new([WWW]);
        assert_eq!(standby.hear(WWW, &heard(5, 10, 11, &[2], &[])), 0);
        assert_eq!(standby.hear(WWW, &heard(5, 0, 12, &[1], &[])), 12);
        assert_eq!(standby.hear(WWW, &heard(5, 11, 13, &[2], &[])), 12);
        // A repeated and an overtaken message change nothing.
        assert_eq!(standby.hear(WWW, &heard(5, 0, 12, &[8], &[])), 12);
        assert_eq!(standby.hear(WWW, &heard(5, 0, 11, &[9], &[])), 12);
        assert_eq!(standby.opened(WWW, epoch(6)), flows([1]));
    }

    #[test]
    fn a_newer_holder_replaces_an_older_one_and_not_the_other_way_round() {
        let mut standby = Standby::new([WWW]);
        assert_eq!(standby.hear(WWW, &heard(5, 0, 900, &[1], &[])), 900);
        // Its numbers are of another machine.
        assert_eq!(standby.hear(WWW, &heard(6, 0, 3, &[2], &[])), 3);
        assert_eq!(standby.hear(WWW, &heard(5, 0, 901, &[1], &[])), 0);
        assert_eq!(standby.opened(WWW, epoch(7)), flows([2]));
    }

    #[test]
    fn a_holder_that_never_opened_leaves_the_list_of_the_one_before() {
        let mut standby = Standby::new([WWW]);
        standby.hear(WWW, &heard(5, 0, 1, &[1], &[]));
        // Epoch 6 went to another node that died before it could say anything.
        assert_eq!(standby.opened(WWW, epoch(7)), flows([1]));
    }

    #[test]
    fn this_nodes_own_clients_are_not_tickled_when_it_opens_again() {
        let mut standby = Standby::new([WWW]);
        standby.hear(WWW, &heard(5, 0, 1, &[1], &[]));
        assert_eq!(standby.opened(WWW, epoch(5)), [], "not newer");
        assert_eq!(standby.opened(WWW, epoch(6)), flows([1]));
        assert_eq!(standby.opened(WWW, epoch(6)), []);
    }

    #[test]
    fn memory_is_bounded() {
        let mut standby = Standby::new([WWW]);
        assert_eq!(standby.hear(GroupId(2), &heard(5, 0, 1, &[1], &[])), 0);
        let many: Vec<u32> = (0..FLOWS_MAX as u32 + 1).collect();
        assert_eq!(standby.hear(WWW, &heard(5, 0, 1, &many, &[])), 0);
        assert_eq!(standby.hear(WWW, &heard(5, 0, 2, &many[1..], &[])), 2);
        assert_eq!(standby.hear(WWW, &heard(5, 2, 3, &[0], &[])), 2);
    }
}
