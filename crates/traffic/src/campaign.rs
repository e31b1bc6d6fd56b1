//! When a group's addresses are announced: all once, then again and again for a minute.
//! Frames get lost, a neighbour whose entry is fresh may ignore the first one (Linux
//! before 4.13 for a second, `locktime`), switches relearn, and a machine that was
//! frozen may have woken and confused everybody. Pure.

use std::time::Duration;

use evenkeel_core::{Epoch, Moment};

/// When each round starts, from the start of the campaign, in milliseconds.
pub const SCHEDULE_MS: [u64; 13] = [
    0, 50, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000,
];

/// A campaign starts anew at most so often, however often there is doubt: its own
/// rounds are that dense anyway.
pub const DOUBT_SPACING: Duration = Duration::from_secs(1);

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
    /// Starts one at `now`.
    pub fn new(now: Moment, epoch: Epoch, why: Why) -> Self {
        Self {
            epoch,
            why,
            started: now,
            round: 0,
            cursor: 0,
            again: None,
            sent: 0,
            dropped: 0,
            told: false,
        }
    }

    fn round_at(&self, round: usize) -> Option<Moment> {
        SCHEDULE_MS
            .get(round)
            .map(|offset| self.started + Duration::from_millis(*offset))
    }

    /// When it was started.
    pub fn started(&self) -> Moment {
        self.started
    }

    /// When there is something to do next; earlier calls are harmless.
    pub fn due(&self) -> Option<Moment> {
        let round = self.round_at(self.round);
        let again = self.again.map(|_| self.started + DOUBT_SPACING);
        round.into_iter().chain(again).min()
    }

    /// There is a new reason to announce.
    pub fn doubt(&mut self, now: Moment, why: Why) {
        if now >= self.started + DOUBT_SPACING {
            *self = Self::new(now, self.epoch, why);
        } else {
            self.again = Some(why);
        }
    }

    /// The next addresses to announce, as a range of the group's `count`, at most
    /// `limit` of them; empty if none is due.
    pub fn next(&mut self, now: Moment, count: usize, limit: usize) -> std::ops::Range<usize> {
        if let Some(why) = self.again
            && now >= self.started + DOUBT_SPACING
        {
            *self = Self::new(now, self.epoch, why);
        }
        if self.cursor == 0 {
            // Rounds that were missed are not made up for: the latest one stands for all.
            while self.round_at(self.round + 1).is_some_and(|at| at <= now) {
                self.round += 1;
            }
        }
        if self.round_at(self.round).is_none_or(|at| now < at) {
            return 0..0;
        }
        let start = self.cursor.min(count);
        let end = count.min(start + limit);
        self.cursor = end;
        start..end
    }

    /// Counts what became of the addresses of the last [`Campaign::next`]; says what the
    /// round came to if it ended the first round.
    pub fn done(&mut self, count: usize, part: Round) -> Option<Round> {
        self.sent += part.sent;
        self.dropped += part.dropped;
        if self.cursor < count {
            return None;
        }
        let round = Round {
            sent: self.sent,
            dropped: self.dropped,
        };
        self.cursor = 0;
        self.sent = 0;
        self.dropped = 0;
        self.round += 1;
        let first = !self.told;
        self.told = true;
        first.then_some(round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch { term: 1, index: 1 };

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    /// Runs a campaign of `count` addresses, `limit` at a time, and gives the times at
    /// which its rounds began.
    fn rounds(count: usize, limit: usize, step_ms: u64) -> Vec<u64> {
        let mut campaign = Campaign::new(at(0), EPOCH, Why::Opened);
        let mut begun = Vec::new();
        let mut now = 0;
        while let Some(due) = campaign.due() {
            now = now.max(due.as_nanos() / 1_000_000);
            let range = campaign.next(at(now), count, limit);
            if range.start == 0 {
                begun.push(now);
            }
            let part = Round {
                sent: range.len(),
                dropped: 0,
            };
            campaign.done(count, part);
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
        // 10 steps of 20 ms each: the round at 50 ms falls into the first one.
        let begun = rounds(100, 10, 20);
        assert_eq!(begun[..4], [0, 200, 500, 1_000]);
        assert_eq!(begun.last(), Some(&60_000));
    }

    #[test]
    fn the_first_round_says_what_it_came_to() {
        let mut campaign = Campaign::new(at(0), EPOCH, Why::Opened);
        assert_eq!(campaign.next(at(0), 3, 2), 0..2);
        assert_eq!(
            campaign.done(
                3,
                Round {
                    sent: 2,
                    dropped: 0
                }
            ),
            None
        );
        assert_eq!(campaign.next(at(1), 3, 2), 2..3);
        let whole = campaign.done(
            3,
            Round {
                sent: 0,
                dropped: 1,
            },
        );
        assert_eq!(
            whole,
            Some(Round {
                sent: 2,
                dropped: 1
            })
        );
        assert_eq!(campaign.next(at(49), 3, 2), 0..0, "not before its time");
        assert_eq!(campaign.next(at(50), 3, 5), 0..3);
        assert_eq!(
            campaign.done(
                3,
                Round {
                    sent: 3,
                    dropped: 0
                }
            ),
            None
        );
    }

    #[test]
    fn doubt_starts_it_anew_at_once_or_soon() {
        let mut campaign = Campaign::new(at(0), EPOCH, Why::Opened);
        campaign.next(at(0), 1, 1);
        campaign.done(
            1,
            Round {
                sent: 1,
                dropped: 0,
            },
        );
        campaign.doubt(at(30_500), Why::Link);
        assert_eq!((campaign.started(), campaign.why), (at(30_500), Why::Link));
        assert_eq!(campaign.next(at(30_500), 1, 1), 0..1);
        campaign.done(
            1,
            Round {
                sent: 1,
                dropped: 0,
            },
        );
        campaign.doubt(at(30_600), Why::Doubt);
        campaign.doubt(at(30_700), Why::Doubt);
        assert_eq!(campaign.started(), at(30_500), "it has just begun");
        campaign.next(at(31_500), 1, 1);
        assert_eq!((campaign.started(), campaign.why), (at(31_500), Why::Doubt));
    }
}
