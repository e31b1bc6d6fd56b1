//! Numbers drawn from a seed: SplitMix64, the same on every machine and for ever.

/// A stream of drawn numbers.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The stream that belongs to `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed ^ 0x5ee_d0fe_7e4b_ee1d)
    }

    /// The next number, from all.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; zero if that is zero. The bias is far below anything
    /// a run could notice.
    pub const fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// A number from `low` up to and including `high`.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `per_mille` of 1000 cases.
    pub const fn happens(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::Chance;

    /// A seed in a report from last year must still mean the same run.
    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut chance = Chance::new(1);
        let first = chance.next();
        assert_eq!(first, Chance::new(1).next());
        assert_ne!(first, Chance::new(2).next());
        assert!((0..1000).all(|_| (3..=5).contains(&chance.between(3, 5))));
    }
}
