//! The side that acts: one tenure for each epoch that this life may still use
//! (rules 2, 3, 6).

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use super::message::Refusal;
use super::mirror::Held;
use super::opening::Vote;
use super::settings::{ASKS_MAX, Settings};
use crate::Moment;
use crate::names::{Epoch, NodeId};

/// One epoch of one group, in the hands of this life of this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tenure {
    /// The epoch.
    pub(super) epoch: Epoch,
    /// When this process learned of it.
    pub(super) since: Moment,
    /// Rule 3 was fulfilled once: from then on the lease alone decides.
    pub(super) opened: bool,
    /// The proven deadline; zero if nothing is proven, or no more.
    pub(super) lease: Moment,
    /// When to ask next.
    pub(super) next_ask: Moment,
    /// Renewals whose answers still count, the oldest first. At most [`ASKS_MAX`].
    asks: VecDeque<Ask>,
    /// What each voter has said.
    pub(super) votes: BTreeMap<NodeId, Vote>,
}

/// One Renew as its sender remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ask {
    seq: u64,
    /// What a promise to it is worth: its sending time + L - margin.
    worth: Moment,
}

impl Tenure {
    /// An epoch just learned of: asked for at once.
    pub(super) fn new(now: Moment, epoch: Epoch) -> Self {
        Self {
            epoch,
            since: now,
            opened: false,
            lease: Moment::ZERO,
            next_ask: now,
            asks: VecDeque::new(),
            votes: BTreeMap::new(),
        }
    }

    /// An epoch that the last process had opened.
    pub(super) fn resumed(now: Moment, held: Held) -> Self {
        Self {
            opened: true,
            lease: held.until,
            ..Self::new(now, held.epoch)
        }
    }

    /// Forgets renewals and promises that prove nothing any more.
    pub(super) fn prune(&mut self, now: Moment) {
        while self.asks.front().is_some_and(|ask| ask.worth <= now) {
            self.asks.pop_front();
        }
        if self.lease <= now {
            self.lease = Moment::ZERO;
        }
        self.votes.values_mut().for_each(|vote| vote.prune(now));
    }

    /// Notes a Renew sent at `now`, and when the next is due.
    pub(super) fn asked(&mut self, now: Moment, seq: u64, settings: &Settings) {
        if self.asks.len() >= ASKS_MAX {
            self.asks.pop_front();
        }
        let worth = settings.worth(now);
        self.asks.push_back(Ask { seq, worth });
        self.next_ask = now + self.pace(now, settings);
    }

    /// What a holder says that asks again at `now`, as number `seq`, and has been without
    /// its lease since `lapsed`: only asks of the later half of that time still count,
    /// everything before them is void from here on and for ever. Returns the number below
    /// which that is so. The guard has shut.
    ///
    /// Half of the time: soon after the lapse a round trip's worth of asks is void, so
    /// voters are free quickly; and an ask made a round trip after the lapse, or later,
    /// still counts when its answer comes, however long that trip (up to the lease).
    pub(super) fn void(
        &mut self,
        now: Moment,
        lapsed: Moment,
        seq: u64,
        settings: &Settings,
    ) -> u64 {
        let half = settings.worth(lapsed + lapsed.until(now) / 2);
        let counts = self.asks.iter().find(|ask| ask.worth >= half);
        let below = counts.map_or(seq, |ask| ask.seq);
        if !settings.faults.void_counts {
            self.asks.retain(|ask| ask.seq >= below);
            let votes = self.votes.values_mut();
            votes
                .filter(|vote| vote.seq < below)
                .for_each(Vote::unprove);
            self.lease = self.proven(settings);
        }
        below
    }

    /// Time between renewals: short while the group waits to open.
    fn pace(&self, now: Moment, settings: &Settings) -> Duration {
        if !self.opened && now.since(self.since) < settings.patience() {
            settings.opening_heartbeat()
        } else {
            settings.heartbeat
        }
    }

    /// A voter promised for the Renew `seq`. Answers to a Renew that this process did
    /// not send, or sent too long ago, prove nothing.
    pub(super) fn promised(&mut self, voter: NodeId, seq: u64, settings: &Settings) {
        let Some(ask) = self.asks.iter().find(|ask| ask.seq == seq) else {
            return;
        };
        let vote = self.votes.entry(voter).or_default();
        if seq >= vote.seq {
            (vote.until, vote.seq) = (ask.worth, seq);
        }
        self.lease = self.lease.max(self.proven(settings));
    }

    /// Forgets what was proven, for the fault that keeps a released epoch in use.
    pub(super) fn unprove(&mut self) {
        self.lease = Moment::ZERO;
        self.votes.values_mut().for_each(Vote::unprove);
    }

    /// The deadline up to which a majority has promised: for each voter its newest
    /// promise counts, and the majority-th newest of those is the deadline.
    fn proven(&self, settings: &Settings) -> Moment {
        let mut worths: Vec<Moment> = self.votes.values().map(|vote| vote.until).collect();
        worths.sort_unstable_by(|a, b| b.cmp(a));
        worths
            .get(settings.majority() - 1)
            .copied()
            .unwrap_or(Moment::ZERO)
    }

    /// Notes why a voter refused; true if it had not said so before.
    pub(super) fn refused(&mut self, voter: NodeId, refusal: Refusal, floor: Epoch) -> bool {
        let vote = self.votes.entry(voter).or_default();
        let new = vote.said.0 != Some((refusal, floor));
        vote.said.0 = Some((refusal, floor));
        match refusal {
            Refusal::BelowFloor => vote.floor = vote.floor.max(floor),
            // What it refused for before was cut off, or is older than what is on its way here.
            Refusal::BelowOwn => vote.floor = Epoch::NONE,
            Refusal::Released
            | Refusal::OtherHolder
            | Refusal::OtherMembership
            | Refusal::TooLong
            | Refusal::Full
            | Refusal::Excluded => {}
        }
        new
    }

    /// Whether a majority has a newer assignment to somebody else: nothing can be proven any more.
    /// One to this very life is waited for: the lease ends by itself if it does not come.
    pub(super) fn overtaken(&self, settings: &Settings) -> bool {
        let above = self
            .votes
            .values()
            .filter(|vote| vote.floor > self.epoch)
            .count();
        above >= settings.majority()
    }

    /// Whether the proven deadline has stood still for two rounds of renewals: a single late answer
    /// closes nothing, and the deadline itself still ends in time.
    pub(super) fn has_waited(&self, now: Moment, settings: &Settings) -> bool {
        settings.worth(now).since(self.lease) >= settings.heartbeat * 2
    }
}
