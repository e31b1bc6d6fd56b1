//! When a group's addresses are announced: all once, then again and again for a minute.
//! Frames get lost, a neighbour whose entry is fresh may ignore the first one (Linux
//! before 4.13 for a second, `locktime`), switches relearn, and a machine that was
//! frozen may have woken and confused everybody. Pure.
//!
//! The first round has one frame for each address, so that the last of thousands does not
//! wait for the second forms of the others ([`Forms`]); those follow at once. It does not
//! wait either until all addresses are placed: one that is placed when the round has passed
//! it is announced before anything else ([`Campaign::placed`]).

use std::collections::VecDeque;
use std::time::Duration;

use evenkeel_core::{Epoch, Moment};

/// When each round starts, from the start of the campaign, in milliseconds.
pub const SCHEDULE_MS: [u64; 14] = [
    0, 0, 50, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000,
];

/// A campaign starts anew at most so often, however often there is doubt: its own
/// rounds are that dense anyway.
pub const DOUBT_SPACING: Duration = Duration::from_secs(1);

/// How long second forms and repeats wait for addresses that are still being placed: they would
/// only delay them. Far longer than it takes to place thousands, short enough that neighbours
/// who have missed the first frame are told soon in any case.
pub const REPEATS_WAIT_MAX: Duration = Duration::from_millis(250);

/// Why addresses are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The group was opened here.
    Opened,
    /// An address or its interface came back.
    Repaired,
    /// The interface has its carrier again, or another hardware address.
    Link,
    /// Somebody saw a reason, such as another machine that answers.
    Doubt,
}

/// Which frames announce an address: there are two forms of ARP, and some devices heed only
/// one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forms {
    /// The one that more devices heed; the only one of IPv6.
    First,
    /// What is left.
    Second,
    /// All of them.
    All,
}

/// One campaign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Campaign {
    /// The assignment it speaks for.
    pub epoch: Epoch,
    /// Why it runs.
    pub why: Why,
    started: Moment,
    round: usize,
    cursor: usize,
    again: Option<Why>,
    /// Which addresses the first round has announced, or `fresh` is about to.
    announced: Vec<bool>,
    /// Addresses that were placed when the first round had passed them.
    fresh: VecDeque<usize>,
    /// More addresses are being placed.
    placing: bool,
    /// What the last [`Campaign::next`] was.
    last: Forms,
    sent: usize,
    dropped: usize,
    told: bool,
}

/// What a round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Addresses of which frames left.
    pub sent: usize,
    /// Addresses of which frames were dropped on the way out: a full queue, or the guard.
    pub dropped: usize,
}

impl Campaign {
    /// Starts one at `now`, for `count` addresses.
    pub fn new(now: Moment, epoch: Epoch, why: Why, count: usize) -> Self {
        Self {
            epoch,
            why,
            started: now,
            round: 0,
            cursor: 0,
            again: None,
            announced: vec![false; count],
            fresh: VecDeque::new(),
            placing: false,
            last: Forms::First,
            sent: 0,
            dropped: 0,
            told: false,
        }
    }

    fn round_at(&self, round: usize) -> Option<Moment> {
        let offset = Duration::from_millis(*SCHEDULE_MS.get(round)?);
        let earliest = match self.placing && round > 0 {
            true => REPEATS_WAIT_MAX,
            false => Duration::ZERO,
        };
        Some(self.started + offset.max(earliest))
    }

    /// Whether more addresses are being placed.
    pub fn set_placing(&mut self, placing: bool) {
        self.placing = placing;
    }

    fn restart(&mut self, now: Moment, why: Why) {
        *self = Self {
            placing: self.placing,
            ..Self::new(now, self.epoch, why, self.announced.len())
        };
    }

    /// When it was started.
    pub fn started(&self) -> Moment {
        self.started
    }

    /// When there is something to do next; earlier calls are harmless.
    pub fn due(&self) -> Option<Moment> {
        let round = self.round_at(self.round);
        let again = self.again.map(|_| self.started + DOUBT_SPACING);
        let fresh = (!self.fresh.is_empty()).then_some(self.started);
        round.into_iter().chain(again).chain(fresh).min()
    }

    /// There is a new reason to announce.
    pub fn doubt(&mut self, now: Moment, why: Why) {
        if now >= self.started + DOUBT_SPACING {
            self.restart(now, why);
        } else {
            self.again = Some(why);
        }
    }

    /// An address is on its interface now. If the first round has left it out it is next.
    pub fn placed(&mut self, index: usize) {
        let passed = self.round > 0 || index < self.cursor;
        if let Some(announced) = self.announced.get_mut(index).filter(|_| passed)
            && !std::mem::replace(announced, true)
        {
            self.fresh.push_back(index);
        }
    }

    /// The next addresses to announce, by their numbers, at most `limit` of them, and how;
    /// none if none is due. Say of those that are on an interface [`Campaign::announces`].
    pub fn next(&mut self, now: Moment, limit: usize) -> (Vec<usize>, Forms) {
        if let Some(why) = self.again
            && now >= self.started + DOUBT_SPACING
        {
            self.restart(now, why);
        }
        if !self.fresh.is_empty() {
            self.last = Forms::First;
            let some = self.fresh.len().min(limit);
            return (self.fresh.drain(..some).collect(), Forms::First);
        }
        if self.cursor == 0 && self.round > 0 && !self.placing {
            // Rounds that were missed are not made up for: the latest one stands for all.
            while self.round_at(self.round + 1).is_some_and(|at| at <= now) {
                self.round += 1;
            }
        }
        self.last = match self.round {
            0 => Forms::First,
            1 => Forms::Second,
            _ => Forms::All,
        };
        if self.round_at(self.round).is_none_or(|at| now < at) {
            return (Vec::new(), self.last);
        }
        let count = self.announced.len();
        let start = self.cursor.min(count);
        let end = count.min(start + limit);
        self.cursor = end;
        ((start..end).collect(), self.last)
    }

    /// The address with that number of the last [`Campaign::next`] is being announced.
    pub fn announces(&mut self, index: usize) {
        if self.last == Forms::First
            && let Some(announced) = self.announced.get_mut(index)
        {
            *announced = true;
        }
    }

    /// Counts what became of the addresses of the last [`Campaign::next`].
    pub fn done(&mut self, part: Round) {
        if self.last == Forms::First {
            self.sent += part.sent;
            self.dropped += part.dropped;
        }
        if self.cursor >= self.announced.len() {
            self.cursor = 0;
            self.round += 1;
        }
    }

    /// What the first round came to, once, when it is over. Ask when no more addresses are
    /// about to be placed.
    pub fn first_round(&mut self) -> Option<Round> {
        let over = self.round > 0 && self.fresh.is_empty();
        let news = over && !self.told;
        self.told |= over;
        news.then_some(Round {
            sent: self.sent,
            dropped: self.dropped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch { term: 1, index: 1 };

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn campaign(count: usize) -> Campaign {
        Campaign::new(at(0), EPOCH, Why::Opened, count)
    }

    /// Announces what is due, all of it placed but `missing`; says what, and how.
    fn step(
        campaign: &mut Campaign,
        ms: u64,
        limit: usize,
        missing: &[usize],
    ) -> (Vec<usize>, Forms) {
        let (mut range, forms) = campaign.next(at(ms), limit);
        range.retain(|index| !missing.contains(index));
        range.iter().for_each(|index| campaign.announces(*index));
        campaign.done(Round {
            sent: range.len(),
            dropped: 0,
        });
        (range, forms)
    }

    /// Runs a campaign of `count` addresses, `limit` at a time, and gives the times at
    /// which its rounds began.
    fn rounds(count: usize, limit: usize, step_ms: u64) -> Vec<u64> {
        let mut campaign = campaign(count);
        let mut begun = Vec::new();
        let mut now = 0;
        while let Some(due) = campaign.due() {
            now = now.max(due.as_nanos() / 1_000_000);
            let (range, _) = step(&mut campaign, now, limit, &[]);
            if range.first() == Some(&0) {
                begun.push(now);
            }
            now += step_ms;
            assert!(now < 100_000, "it ends");
        }
        begun
    }

    #[test]
    fn all_are_announced_once_and_then_again_for_a_minute() {
        assert_eq!(rounds(3, 10, 0), SCHEDULE_MS);
    }

    #[test]
    fn a_slow_round_is_finished_before_the_next() {
        // 10 steps of 20 ms each: the rounds at 0 and 50 ms fall into the first one, whose
        // second forms the round at 200 ms brings.
        let begun = rounds(100, 10, 20);
        assert_eq!(begun[..4], [0, 200, 500, 1_000]);
        assert_eq!(begun.last(), Some(&60_000));
    }

    #[test]
    fn every_address_has_its_first_form_before_any_has_its_second() {
        let mut campaign = campaign(3);
        assert_eq!(step(&mut campaign, 0, 2, &[]), (vec![0, 1], Forms::First));
        assert_eq!(step(&mut campaign, 1, 2, &[]), (vec![2], Forms::First));
        assert_eq!(
            step(&mut campaign, 2, 5, &[]),
            (vec![0, 1, 2], Forms::Second)
        );
        assert!(
            step(&mut campaign, 49, 5, &[]).0.is_empty(),
            "not before its time"
        );
        assert_eq!(step(&mut campaign, 50, 5, &[]), (vec![0, 1, 2], Forms::All));
    }

    #[test]
    fn the_first_round_says_once_what_it_came_to() {
        let mut campaign = campaign(3);
        step(&mut campaign, 0, 2, &[]);
        assert_eq!(campaign.first_round(), None);
        campaign.next(at(1), 2);
        campaign.announces(2);
        campaign.done(Round {
            sent: 0,
            dropped: 1,
        });
        let whole = Round {
            sent: 2,
            dropped: 1,
        };
        assert_eq!(campaign.first_round(), Some(whole));
        step(&mut campaign, 2, 5, &[]);
        assert_eq!(campaign.first_round(), None);
    }

    #[test]
    fn one_that_is_placed_late_is_announced_at_once_and_once() {
        let mut campaign = campaign(4);
        assert_eq!(step(&mut campaign, 0, 2, &[1, 3]).0, [0]);
        campaign.placed(3);
        assert_eq!(campaign.due(), Some(at(0)));
        campaign.placed(1);
        campaign.placed(1);
        assert_eq!(step(&mut campaign, 1, 5, &[]), (vec![1], Forms::First));
        // The round itself comes to the one that it had not passed.
        assert_eq!(step(&mut campaign, 1, 5, &[2]), (vec![3], Forms::First));
        assert_eq!(step(&mut campaign, 2, 5, &[2]).1, Forms::Second);
        campaign.placed(2);
        assert_eq!(campaign.first_round(), None, "it is still to be announced");
        assert_eq!(step(&mut campaign, 3, 5, &[]), (vec![2], Forms::First));
        let whole = Round {
            sent: 4,
            dropped: 0,
        };
        assert_eq!(campaign.first_round(), Some(whole));
        campaign.placed(2);
        assert_eq!(campaign.due(), Some(at(50)), "only the next round is left");
    }

    #[test]
    fn second_forms_and_repeats_wait_for_what_is_being_placed_but_not_for_ever() {
        let mut campaign = campaign(2);
        campaign.set_placing(true);
        assert_eq!(step(&mut campaign, 0, 5, &[1]), (vec![0], Forms::First));
        assert_eq!(campaign.due(), Some(at(0) + REPEATS_WAIT_MAX));
        assert!(step(&mut campaign, 60, 5, &[1]).0.is_empty());
        campaign.placed(1);
        assert_eq!(campaign.due(), Some(at(0)));
        assert_eq!(step(&mut campaign, 61, 5, &[]), (vec![1], Forms::First));
        let mut patient = campaign.clone();
        campaign.set_placing(false);
        assert_eq!(step(&mut campaign, 61, 5, &[]), (vec![0, 1], Forms::All));
        assert_eq!(step(&mut patient, 250, 5, &[]), (vec![0, 1], Forms::Second));
    }

    #[test]
    fn doubt_starts_it_anew_at_once_or_soon() {
        let mut campaign = campaign(1);
        step(&mut campaign, 0, 1, &[]);
        campaign.doubt(at(30_500), Why::Link);
        assert_eq!((campaign.started(), campaign.why), (at(30_500), Why::Link));
        assert_eq!(step(&mut campaign, 30_500, 1, &[]).0, [0]);
        campaign.doubt(at(30_600), Why::Doubt);
        campaign.doubt(at(30_700), Why::Doubt);
        assert_eq!(campaign.started(), at(30_500), "it has just begun");
        campaign.next(at(31_500), 1);
        assert_eq!((campaign.started(), campaign.why), (at(31_500), Why::Doubt));
    }
}
