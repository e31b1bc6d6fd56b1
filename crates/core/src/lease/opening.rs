//! The wait before opening (rule 3): a majority of voters, each with its floor at the
//! new epoch, has said how long older promises still run, and those have run out.

use core::time::Duration;

use super::holder::Tenure;
use super::message::Refusal;
use super::settings::Settings;
use crate::Moment;
use crate::names::{Epoch, NodeId};

/// What one voter has said to one tenure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Vote {
    /// What its newest promise is worth on this clock; zero once that is over.
    pub(super) until: Moment,
    /// The Renew that it was made for; zero once that is over.
    pub(super) seq: u64,
    /// When its promises to lower epochs have run out on this clock, the margin
    /// counted; zero once that is past. It can make no new ones: its floor is at this epoch, for ever.
    pub(super) clear: Option<Moment>,
    /// The highest floor it has refused with.
    pub(super) floor: Epoch,
    /// Its last refusal, so that each is told once.
    pub(super) said: Said,
}

/// A refusal that has been told. Nothing else comes of it: for a search of all states,
/// machines that differ in nothing else are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said(pub(super) Option<(Refusal, Epoch)>);

impl core::hash::Hash for Said {
    fn hash<H: core::hash::Hasher>(&self, _: &mut H) {}
}

impl Vote {
    /// Forgets what is over.
    pub(super) fn prune(&mut self, now: Moment) {
        if self.until <= now {
            self.unprove();
        }
        if self.clear.is_some_and(|at| at <= now) {
            self.clear = Some(Moment::ZERO);
        }
    }

    /// Its promise proves nothing any more.
    pub(super) fn unprove(&mut self) {
        self.until = Moment::ZERO;
        self.seq = 0;
    }
}

impl Tenure {
    /// A voter whose floor is this epoch says how long lower promises run, as of some
    /// moment before `now`. Every such word stays true for ever, so the best counts.
    pub(super) fn heard_lower(
        &mut self,
        now: Moment,
        voter: NodeId,
        lower: Duration,
        settings: &Settings,
    ) {
        let clear = if lower.is_zero() {
            now
        } else {
            now + lower + settings.margin(settings.lease.max(lower))
        };
        let vote = self.votes.entry(voter).or_default();
        vote.clear = Some(vote.clear.map_or(clear, |known| known.min(clear)));
    }

    /// Whether older promises have run out at a majority.
    pub(super) fn is_clear(&self, now: Moment, settings: &Settings) -> bool {
        self.clear_at(settings).is_some_and(|at| at <= now)
    }

    /// When the wait is over, if a majority has spoken; zero once it is.
    pub(super) fn clear_at(&self, settings: &Settings) -> Option<Moment> {
        if settings.faults.no_wait {
            return Some(Moment::ZERO);
        }
        let mut clears: Vec<Moment> = self.votes.values().filter_map(|vote| vote.clear).collect();
        clears.sort_unstable();
        clears.get(settings.majority() - 1).copied()
    }
}
