//! The holder's side: from what the kernel lists to what the standbys are told.

use evenkeel_core::Epoch;

use super::{FLOWS_MAX, Flow, Snapshot};

/// What was seen of one group's connections, while this node holds it.
#[derive(Clone, Debug)]
pub struct Listing {
    epoch: Epoch,
    /// In order, each with the number of the look that saw it first.
    seen: Vec<(Flow, u64)>,
    looks: u64,
    told: Option<Snapshot>,
}

impl Listing {
    /// Nothing seen yet under `epoch`.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            seen: Vec::new(),
            looks: 0,
            told: None,
        }
    }

    /// For which assignment it is.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the last look found more than is told.
    pub fn leaves_out(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.left_out > 0)
    }

    /// Takes in what a look found, in order, and gives what is to be told if that is news (an
    /// empty first list is: it replaces what an older holder told). `number` is larger than
    /// 0 and larger than at every look before, in earlier lives too.
    pub fn look(&mut self, number: u64, found: &[Flow]) -> Option<Snapshot> {
        self.looks += 1;
        let looks = self.looks;
        let mut before = std::mem::take(&mut self.seen).into_iter().peekable();
        self.seen = found
            .iter()
            .map(|flow| {
                while before.next_if(|(old, _)| old < flow).is_some() {}
                let known = before.next_if(|(old, _)| old == flow);
                (*flow, known.map_or(looks, |(_, first)| first))
            })
            .collect();
        let flows = self.newest();
        let left_out = self.seen.len() - flows.len();
        let same = |told: &Snapshot| *told.flows == flows[..] && told.left_out == left_out;
        if self.told.as_ref().is_some_and(same) {
            return None;
        }
        let snapshot = Snapshot {
            epoch: self.epoch,
            sequence: number,
            flows: flows.into(),
            left_out,
        };
        self.told = Some(snapshot.clone());
        Some(snapshot)
    }

    /// The last [`FLOWS_MAX`] that came, in order. Among those that one look saw first the
    /// order itself decides, so that the choice does not waver.
    fn newest(&self) -> Vec<Flow> {
        let mut all = self.seen.clone();
        if all.len() > FLOWS_MAX {
            let oldest = all.len() - FLOWS_MAX;
            all.select_nth_unstable_by_key(oldest, |(flow, first)| (*first, *flow));
            all.drain(..oldest);
            all.sort_unstable();
        }
        all.into_iter().map(|(flow, _)| flow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::flows;
    use super::*;

    const EPOCH: Epoch = Epoch { term: 1, index: 1 };

    #[test]
    fn only_news_are_told_and_the_first_look_always_is() {
        let mut listing = Listing::new(EPOCH);
        let first = listing.look(7, &[]).expect("told");
        assert_eq!((first.sequence, first.flows.len()), (7, 0));
        assert_eq!(listing.look(8, &[]), None);
        let second = listing.look(9, &flows([1, 2])).expect("told");
        assert_eq!((second.sequence, second.epoch), (9, EPOCH));
        assert_eq!(*second.flows, flows([1, 2])[..]);
        assert_eq!(listing.look(10, &flows([1, 2])), None);
        assert!(listing.look(11, &flows([1])).is_some());
    }

    #[test]
    fn beyond_the_bound_the_newest_are_kept_and_the_rest_is_said() {
        let max = FLOWS_MAX as u32;
        let mut listing = Listing::new(EPOCH);
        listing.look(1, &flows(10..10 + max));
        // Five more, some before and some after the others in order.
        let more: Vec<Flow> = flows((0..2).chain(10..10 + max).chain(10 + max..13 + max));
        let told = listing.look(2, &more).expect("told");
        assert_eq!((told.flows.len(), told.left_out), (FLOWS_MAX, 5));
        for newer in flows((0..2).chain(10 + max..13 + max)) {
            assert!(told.flows.binary_search(&newer).is_ok());
        }
        assert_eq!(listing.look(3, &more), None, "the choice does not waver");
        // One of the kept ones ends: an older one has its place back.
        let fewer: Vec<Flow> = more[1..].to_vec();
        let told = listing.look(4, &fewer).expect("told");
        assert_eq!((told.flows.len(), told.left_out), (FLOWS_MAX, 4));
    }
}
