//! How many voters are enough.

/// The smallest number that is more than half of `voters`.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::majority;

    #[test]
    fn two_majorities_always_share_a_voter() {
        for voters in 1..20 {
            assert!(2 * majority(voters) > voters);
            assert!(majority(voters) <= voters);
        }
    }
}
