//! A node's boot clock as a function of true time.

use evenkeel_core::Moment;

/// A rate of exactly one.
pub const TRUE_RATE: u64 = 1_000_000;

/// A clock that runs evenly, at its own rate, from its own boot.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it showed, in nanoseconds, at the true time zero (it may be before boot).
    offset: i128,
    /// Nanoseconds that it counts in a true millisecond.
    rate: u64,
}

impl Clock {
    /// A clock that shows `shows` at true time `at`.
    pub fn booted(at: u64, shows: u64, rate: u64) -> Self {
        let offset = i128::from(shows) - i128::from(at) * i128::from(rate) / i128::from(TRUE_RATE);
        Self { offset, rate }
    }

    /// What it shows at true time `at`.
    pub fn shows(&self, at: u64) -> Moment {
        let nanos = self.offset + i128::from(at) * i128::from(self.rate) / i128::from(TRUE_RATE);
        Moment::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }

    /// The first true time at which it shows `moment` or later.
    pub fn when(&self, moment: Moment) -> u64 {
        let span = i128::from(moment.as_nanos()) - self.offset;
        let rate = i128::from(self.rate);
        let mut at = (span * i128::from(TRUE_RATE)).div_euclid(rate).max(0);
        while self.shows(u64::try_from(at).unwrap_or(u64::MAX)) < moment {
            at += 1;
        }
        u64::try_from(at).unwrap_or(u64::MAX)
    }

    /// Its rate.
    pub fn rate(&self) -> u64 {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for rate in [910_000, TRUE_RATE, 1_090_000] {
            let clock = Clock::booted(5_000, 1_000_000, rate);
            assert_eq!(clock.shows(5_000).as_nanos(), 1_000_000);
            for at in [5_000, 77_777, 123_456_789] {
                let shown = clock.shows(at);
                assert!(clock.when(shown) <= at);
                assert!(clock.shows(clock.when(shown)) >= shown);
            }
        }
    }
}
