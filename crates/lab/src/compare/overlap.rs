//! For how long two hosts answered for one address, out of what the observer saw.
//!
//! Each server has a neighbour that asks it, and it alone, for the address every
//! [`ASKED`](super::stage::ASKED) ([`super::stage`]). A server that answers such questions
//! one after the other answers in between as well: its frames make a _spell_. Two answer
//! wherever spells of two servers overlap.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::observer::Stretch;

/// A host that has not answered for so long has stopped: five questions of its neighbour.
pub(crate) const SILENT: Duration = Duration::from_millis(50);

/// A time in which a host answered, on the calendar clock, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spell {
    /// Its first frame.
    pub(crate) first: Duration,
    /// Its last frame.
    pub(crate) last: Duration,
}

/// The times in which two hosts answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overlap {
    /// All of them, one after the other.
    pub(crate) spells: Vec<Spell>,
}

impl Overlap {
    /// How long in all.
    pub(crate) fn total(&self) -> Duration {
        let each = self.spells.iter();
        each.map(|spell| spell.last.saturating_sub(spell.first))
            .sum()
    }

    /// Only what came before `moment`.
    pub(crate) fn before(&self, moment: Duration) -> Self {
        let began = self.spells.iter().filter(|spell| spell.first < moment);
        let spells = began.map(|spell| Spell {
            first: spell.first,
            last: spell.last.min(moment),
        });
        Self {
            spells: spells.collect(),
        }
    }

    /// Whether two answered at `moment`, as far as can be told.
    pub(crate) fn lasts_at(&self, moment: Duration) -> bool {
        self.spells
            .iter()
            .any(|spell| spell.first <= moment && spell.last + SILENT >= moment)
    }
}

/// The spells of each host: its stretches, joined where it was not silent in between.
pub(crate) fn spells(row: &[Stretch]) -> BTreeMap<String, Vec<Spell>> {
    let mut all: BTreeMap<String, Vec<Spell>> = BTreeMap::new();
    for stretch in row {
        let (first, last) = (stretch.first.calendar, stretch.last.calendar);
        let spells = all.entry(stretch.host.clone()).or_default();
        match spells.last_mut() {
            Some(spell) if first.saturating_sub(spell.last) <= SILENT => {
                spell.last = spell.last.max(last);
            }
            _ => spells.push(Spell { first, last }),
        }
    }
    all
}

/// When two hosts answered.
pub(crate) fn overlap(spells: &BTreeMap<String, Vec<Spell>>) -> Overlap {
    let hosts: Vec<&Vec<Spell>> = spells.values().collect();
    let mut common = Vec::new();
    for (at, one) in hosts.iter().enumerate() {
        for other in &hosts[at + 1..] {
            common.extend(one.iter().flat_map(|a| {
                other.iter().filter_map(|b| {
                    let (first, last) = (a.first.max(b.first), a.last.min(b.last));
                    (first <= last).then_some(Spell { first, last })
                })
            }));
        }
    }
    common.sort_unstable();
    let mut joined: Vec<Spell> = Vec::new();
    for spell in common {
        match joined.last_mut() {
            Some(before) if spell.first <= before.last => {
                before.last = before.last.max(spell.last);
            }
            _ => joined.push(spell),
        }
    }
    Overlap { spells: joined }
}

/// How often another host than `holder` began to answer: takeovers, wanted or not.
pub(crate) fn takeovers(spells: &BTreeMap<String, Vec<Spell>>, holder: &str) -> usize {
    let others = spells.iter().filter(|(host, _)| *host != holder);
    others.map(|(_, spells)| spells.len()).sum()
}

#[cfg(test)]
mod tests {
    use evenkeel_core::Moment;

    use super::*;
    use crate::observer::Sent;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sent(at: u64) -> Sent {
        Sent {
            calendar: ms(at),
            moment: Moment::from_nanos(at * 1_000_000),
        }
    }

    fn stretch(host: &str, first: u64, last: u64) -> Stretch {
        Stretch {
            host: host.to_owned(),
            first: sent(first),
            last: sent(last),
            kinds: BTreeMap::new(),
        }
    }

    fn of(row: &[(&str, u64, u64)]) -> Overlap {
        let row: Vec<Stretch> = row.iter().map(|(h, a, b)| stretch(h, *a, *b)).collect();
        overlap(&spells(&row))
    }

    #[test]
    fn a_clean_move_has_none() {
        assert_eq!(of(&[("a", 0, 100), ("b", 101, 900)]).total(), ms(0));
        let there_and_back = of(&[("a", 0, 100), ("b", 300, 900), ("a", 2000, 2100)]);
        assert_eq!(there_and_back, Overlap::default());
    }

    #[test]
    fn two_that_answer_in_turns_answer_both() {
        let row = [
            ("a", 0, 100),
            ("b", 105, 106),
            ("a", 110, 111),
            ("b", 115, 116),
            ("a", 120, 121),
            ("b", 125, 500),
        ];
        let both = of(&row);
        assert_eq!((both.total(), both.spells.len()), (ms(16), 1));
        assert!(both.lasts_at(ms(130)), "both answered until just now");
        assert!(!both.lasts_at(ms(300)));
    }

    #[test]
    fn one_late_frame_is_a_case_without_length() {
        let both = of(&[
            ("a", 0, 100),
            ("b", 200, 210),
            ("a", 211, 211),
            ("b", 212, 300),
        ]);
        assert_eq!((both.total(), both.spells.len()), (ms(0), 1));
    }

    #[test]
    fn what_came_later_can_be_left_out() {
        let both = of(&[("a", 0, 40), ("b", 41, 42), ("a", 60, 80), ("b", 81, 81)]);
        assert_eq!(both.total(), ms(39));
        assert_eq!(both.before(ms(50)).total(), ms(9));
        assert_eq!(both.before(ms(41)), Overlap::default());
    }

    #[test]
    fn takeovers_are_counted_by_spells() {
        let row = [
            stretch("a", 0, 100),
            stretch("b", 105, 106),
            stretch("a", 110, 111),
            stretch("b", 115, 116),
            stretch("a", 117, 400),
            stretch("b", 401, 402),
        ];
        assert_eq!(takeovers(&spells(&row), "a"), 2);
        assert_eq!(takeovers(&spells(&row[..1]), "a"), 0);
    }
}
