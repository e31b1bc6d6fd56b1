//! Chance from a seed, so that what was drawn can be had again (splitmix64).

use std::time::Duration;

/// A stream of drawn numbers; equal seeds, equal streams.
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    /// The next number, from all.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; zero if that is zero.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let drawn = self.next() % u64::try_from(limit.max(1)).unwrap_or(1);
        usize::try_from(drawn).unwrap_or_default()
    }

    /// True in half of all cases.
    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// A time from `low` to `high`, as likely within any factor as within any other of its
    /// size: short ones are as well tried as long ones.
    pub(crate) fn span(&mut self, low: Duration, high: Duration) -> Duration {
        const STEPS: u32 = 1 << 20;
        let part = f64::from(u32::try_from(self.next() % u64::from(STEPS)).unwrap_or_default());
        let (low, high) = (low.as_secs_f64(), high.as_secs_f64());
        Duration::from_secs_f64(low * (high / low).powf(part / f64::from(STEPS)))
    }

    /// The same in another order.
    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        // The first number of splitmix64 from zero, as everybody has it.
        assert_eq!(Chance(0).next(), 0xe220_a839_7b1d_cdaf);
        let drawn = |seed| {
            let mut chance = Chance(seed);
            (0..8).map(|_| chance.below(1_000)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(3), drawn(3));
        assert_ne!(drawn(3), drawn(4));
    }

    #[test]
    fn short_times_are_drawn_as_often_as_long_ones() {
        let (low, high) = (Duration::from_millis(100), Duration::from_secs(60));
        let mut chance = Chance(1);
        let spans: Vec<Duration> = (0..2_000).map(|_| chance.span(low, high)).collect();
        assert!(spans.iter().all(|span| (low..=high).contains(span)));
        // The middle of the scale is the geometric mean, 2.4 s.
        let middle = Duration::from_secs_f64((0.1_f64 * 60.0).sqrt());
        let short = spans.iter().filter(|span| **span < middle).count();
        assert!((900..1_100).contains(&short), "{short}");
    }

    #[test]
    fn shuffling_keeps_all() {
        let mut all: Vec<u32> = (0..50).collect();
        Chance(9).shuffle(&mut all);
        assert_ne!(all, (0..50).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }
}
