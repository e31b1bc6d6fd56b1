//! How many voters are enough.

/// The smallest number that is more than half of `voters`.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// How many of the others must say something of a voter, so that whoever decided anything with
/// that voter is among them: each majority that it belongs to has one of theirs.
pub const fn witnesses(voters: usize) -> usize {
    voters - majority(voters) + 1
}

#[cfg(test)]
mod tests {
    use super::{majority, witnesses};

    #[test]
    fn witnesses_meet_every_majority_that_one_belongs_to() {
        for voters in 1..20 {
            let others = voters - 1;
            let deciders = majority(voters) - 1;
            // More than the others that such a majority can do without, and not one more.
            assert_eq!(witnesses(voters), others - deciders + 1);
            assert!(voters == 1 || witnesses(voters) <= others);
        }
    }

    #[test]
    fn two_majorities_always_share_a_voter() {
        for voters in 1..20 {
            assert!(2 * majority(voters) > voters);
            assert!(majority(voters) <= voters);
        }
    }
}
