//! Which requests were applied, so that proposing one twice applies it once.
//!
//! The memory is bounded and part of the replicated state: every node forgets the same requests at
//! the same entry.

use std::collections::{BTreeMap, VecDeque};

use evenkeel_core::names::Epoch;

use crate::settings::REQUESTS_REMEMBERED;

/// The requests applied last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    order: VecDeque<u128>,
    epochs: BTreeMap<u128, Epoch>,
}

impl Requests {
    /// When `request` was applied, if it is remembered.
    pub(crate) fn applied(&self, request: u128) -> Option<Epoch> {
        self.epochs.get(&request).copied()
    }

    /// Remembers that `request` was applied at `epoch`, and forgets the oldest.
    pub(crate) fn remember(&mut self, request: u128, epoch: Epoch) {
        if self.epochs.insert(request, epoch).is_none() {
            self.order.push_back(request);
        }
        while self.order.len() > REQUESTS_REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.epochs.remove(&oldest);
            }
        }
    }

    /// All of them, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, Epoch)> + '_ {
        self.order
            .iter()
            .filter_map(|request| Some((*request, self.applied(*request)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut requests = Requests::default();
        let last = REQUESTS_REMEMBERED as u64;
        for index in 0..=last {
            requests.remember(u128::from(index), Epoch { term: 1, index });
        }
        assert_eq!(requests.applied(0), None);
        assert_eq!(requests.applied(1), Some(Epoch { term: 1, index: 1 }));
        assert_eq!(requests.iter().count(), REQUESTS_REMEMBERED);
        assert_eq!(
            requests.iter().next(),
            Some((1, Epoch { term: 1, index: 1 }))
        );
    }
}
