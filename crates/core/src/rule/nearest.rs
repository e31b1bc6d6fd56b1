//! What a misspelt word was probably meant to be.

/// The candidate that `word` is most likely a misspelling of, if one is near enough:
/// the same but for case, or at most a third of its letters wrong (an exchange of two
/// neighbours counts once). The first of equally near ones.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Longer words are no names; the cost grows with the square of the length.
    const LENGTH_MAX: usize = 80;
    if word.len() > LENGTH_MAX {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        if candidate.len() > LENGTH_MAX {
            continue;
        }
        let wrong = if candidate.eq_ignore_ascii_case(word) {
            0
        } else {
            distance(word, candidate)
        };
        let allowed = (word.chars().count().max(candidate.chars().count()) / 3).max(1);
        if wrong <= allowed && best.is_none_or(|(least, _)| wrong < least) {
            best = Some((wrong, candidate));
        }
    }
    // One letter resembles any other: that is no likeness.
    best.map(|(_, candidate)| candidate)
        .filter(|found| word.chars().count() > 1 || found.eq_ignore_ascii_case(word))
}

/// Letters to insert, delete, replace or exchange with a neighbour (the "optimal
/// string alignment" distance).
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.to_lowercase().chars().collect();
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (row, &l) in left.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, &r) in right.iter().enumerate() {
            let mut least = (above[column] + usize::from(l != r))
                .min(above[column + 1] + 1)
                .min(line[column] + 1);
            let exchanged =
                row > 0 && column > 0 && l == right[column - 1] && left[row - 1] == r && l != r;
            if exchanged {
                least = least.min(before[column - 1] + 1);
            }
            line.push(least);
        }
        before = core::mem::replace(&mut above, line);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn distances_are_those_of_the_textbook() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("ping", "pnig"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let words = ["apache", "ping", "mysql"];
        assert_eq!(nearest("apach", words), Some("apache"));
        assert_eq!(nearest("PING", words), Some("ping"));
        assert_eq!(nearest("pnig", words), Some("ping"));
        assert_eq!(nearest("nginx", words), None);
        assert_eq!(nearest("x", ["a", "b"]), None);
        assert_eq!(nearest("", words), None);
    }
}
