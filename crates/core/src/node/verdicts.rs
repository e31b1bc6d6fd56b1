//! What this node says of the checks that it asks. Few are told whole in each report. Many are
//! told in turns, so that neither a report nor the work of a node grows with their number: what
//! has changed at once and again in the reports that follow, since one may be lost; the rest once
//! a round; the words of what has not changed less often still.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::Moment;
use crate::health::{CheckReport, CheckState, Measure};
use crate::names::{CheckName, GroupId, NodeId};

/// Checks that are told whole in each report.
pub const WHOLE_MAX: usize = 512;
/// Bytes of words that are told whole in each report.
const WHOLE_WORDS_MAX: usize = 96 * 1024;
/// Checks in one report at most.
const PART_MAX: usize = 2_500;
/// Bytes of checks in one report at most: with what else is in it, less than a message may have.
const PART_BYTES_MAX: usize = 176 * 1024;
/// In which time each check is told at least once.
const ROUND: Duration = Duration::from_secs(1);
/// For how long a change is told in every report.
const NEWS_SPAN: Duration = Duration::from_millis(600);
/// Changes that are told so at most, the newest; more wait for their turn.
const NEWS_MAX: usize = 768;
/// Bytes of changes in one report at most: the turns of the others need room as well, or all that
/// has not changed would turn unknown in a flood.
const NEWS_BYTES_MAX: usize = PART_BYTES_MAX / 2;
/// How often the words of a check that has not changed are told.
const WORDS_PAUSE: Duration = Duration::from_secs(3);
/// Bytes of such words in one report.
const WORDS_MAX: usize = 16 * 1024;
/// Bytes of a check in a report beside its name and its words.
const FRAME_LENGTH: usize = 44;
/// Measures of a check that are kept: what a page shows.
pub const MEASURES_MAX: usize = 16;

/// Which check of which node.
pub(super) type Key = (GroupId, NodeId, CheckName);

/// What this node itself knows of a check.
#[derive(Clone, Debug)]
pub(super) struct OwnVerdict {
    pub(super) state: CheckState,
    pub(super) at: Moment,
    pub(super) silent_since: Option<Moment>,
    pub(super) detail: String,
    pub(super) measures: Vec<Measure>,
}

impl OwnVerdict {
    /// Bytes of its words.
    fn words(&self) -> usize {
        let measures = self.measures.iter();
        let measures = measures.map(|one| one.label.len() + one.unit.len() + 12);
        self.detail.len() + measures.sum::<usize>()
    }
}

#[derive(Clone, Debug)]
struct Known {
    verdict: OwnVerdict,
    /// When its words were told last.
    worded: Option<Moment>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdicts {
    known: BTreeMap<Key, Known>,
    /// Bytes of all words.
    words: usize,
    /// What has changed, oldest first.
    news: VecDeque<(Moment, Key)>,
    /// Who was told last in turn, and when.
    last: Option<Key>,
    turned: Moment,
}

impl Verdicts {
    /// Takes a verdict in. Says whether the state is another one now.
    pub(super) fn put(&mut self, now: Moment, key: Key, mut verdict: OwnVerdict) -> bool {
        verdict.measures.truncate(MEASURES_MAX);
        let state = verdict.state;
        self.words += verdict.words();
        let before = self.known.get_mut(&key);
        let changed = before.as_ref().map(|known| known.verdict.state) != Some(state);
        match before {
            Some(known) => {
                self.words -= known.verdict.words();
                known.verdict = verdict;
            }
            None => {
                let worded = None;
                self.known.insert(key.clone(), Known { verdict, worded });
            }
        }
        if changed {
            if self.news.len() == NEWS_MAX {
                self.news.pop_front();
            }
            self.news.push_back((now, key));
        }
        changed
    }

    /// What the next report tells, and whether that is all.
    pub(super) fn report(&mut self, now: Moment) -> (Vec<CheckReport>, bool) {
        let whole = self.known.len() <= WHOLE_MAX && self.words <= WHOLE_WORDS_MAX;
        if whole {
            let all = self.known.iter();
            let all = all.map(|(key, known)| told(now, key, &known.verdict, true));
            return (all.collect(), true);
        }
        (self.part(now), false)
    }

    fn part(&mut self, now: Moment) -> Vec<CheckReport> {
        let mut part = Part::new(now);
        while let Some((at, _)) = self.news.front()
            && now.since(*at) > NEWS_SPAN
        {
            self.news.pop_front();
        }
        for (_, key) in self.news.iter().rev() {
            if let Some(known) = self.known.get_mut(key)
                && !part.take(key, known, true)
            {
                break;
            }
        }
        let since = now.since(self.turned).min(ROUND);
        self.turned = now;
        let due = self.known.len() as u128 * since.as_nanos() / ROUND.as_nanos() + 1;
        for _ in 0..due.min(PART_MAX as u128) {
            let Some(key) = self.after_last() else { break };
            let Some(known) = self.known.get_mut(&key) else {
                break;
            };
            if !part.take(&key, known, false) {
                break;
            }
            self.last = Some(key);
        }
        part.checks
    }

    fn after_last(&self) -> Option<Key> {
        use core::ops::Bound::{Excluded, Unbounded};
        let next = self.last.as_ref().and_then(|last| {
            let mut after = self.known.range((Excluded(last), Unbounded));
            after.next()
        });
        let next = next.or_else(|| self.known.iter().next());
        next.map(|(key, _)| key.clone())
    }
}

/// A part of the checks, as it grows.
struct Part {
    now: Moment,
    checks: Vec<CheckReport>,
    taken: BTreeSet<Key>,
    bytes: usize,
    /// Bytes of words of what has not changed.
    words: usize,
}

impl Part {
    fn new(now: Moment) -> Self {
        Self {
            now,
            checks: Vec::new(),
            taken: BTreeSet::new(),
            bytes: 0,
            words: 0,
        }
    }

    /// Takes a check in, unless it is there already. Says whether there was room.
    fn take(&mut self, key: &Key, known: &mut Known, is_news: bool) -> bool {
        let words = known.verdict.words();
        let rested = |at| self.now.since(at) >= WORDS_PAUSE;
        let is_due = self.words + words <= WORDS_MAX && known.worded.is_none_or(rested);
        let worded = is_news || is_due;
        let length = FRAME_LENGTH + key.2.as_str().len() + if worded { words } else { 0 };
        let bytes_max = if is_news {
            NEWS_BYTES_MAX
        } else {
            PART_BYTES_MAX
        };
        if self.checks.len() >= PART_MAX || self.bytes + length > bytes_max {
            return false;
        }
        if !self.taken.insert(key.clone()) {
            return true;
        }
        if worded {
            known.worded = Some(self.now);
        }
        if worded && !is_news {
            self.words += words;
        }
        self.bytes += length;
        self.checks
            .push(told(self.now, key, &known.verdict, worded));
        true
    }
}

fn told(now: Moment, key: &Key, verdict: &OwnVerdict, worded: bool) -> CheckReport {
    let (group, judged, check) = key;
    CheckReport {
        group: *group,
        check: check.clone(),
        judged: *judged,
        state: verdict.state,
        age: now.since(verdict.at),
        silent: verdict.silent_since.map(|since| now.since(since)),
        detail: match worded {
            true => verdict.detail.clone(),
            false => String::new(),
        },
        measures: match worded {
            true => verdict.measures.clone(),
            false => Vec::new(),
        },
        terse: !worded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        let name = CheckName::new(&format!("c{number}")).expect("a name");
        (GroupId(1), NodeId(1), name)
    }

    fn verdict(state: CheckState, detail: &str) -> OwnVerdict {
        OwnVerdict {
            state,
            at: Moment::ZERO,
            silent_since: None,
            detail: detail.to_owned(),
            measures: Vec::new(),
        }
    }

    fn many(count: usize) -> Verdicts {
        let mut all = Verdicts::default();
        for number in 0..count {
            assert!(all.put(at(0), key(number), verdict(CheckState::Ok, "well")));
        }
        all
    }

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn names(checks: &[CheckReport]) -> BTreeSet<CheckName> {
        checks.iter().map(|one| one.check.clone()).collect()
    }

    #[test]
    fn few_are_told_whole_each_time() {
        let mut all = many(WHOLE_MAX);
        for time in [1, 2, 900] {
            let (checks, whole) = all.report(at(time));
            assert!(whole && checks.len() == WHOLE_MAX);
            assert!(checks.iter().all(|one| !one.terse));
        }
    }

    #[test]
    fn many_are_all_told_within_a_round_and_their_words_within_a_few() {
        let mut all = many(5_000);
        all.report(at(10_000));
        let (mut told, mut worded) = (BTreeSet::new(), BTreeSet::new());
        for turn in 1..=40_u64 {
            let (checks, whole) = all.report(at(10_000 + 200 * turn));
            assert!(!whole && checks.len() <= 1_002, "{}", checks.len());
            told.extend(names(&checks));
            worded.extend(
                checks
                    .iter()
                    .filter(|one| !one.terse)
                    .map(|one| one.check.clone()),
            );
            if turn == 5 {
                assert_eq!(told.len(), 5_000);
            }
        }
        assert_eq!(worded.len(), 5_000);
    }

    #[test]
    fn a_change_is_told_at_once_and_again_with_its_words() {
        let mut all = many(5_000);
        all.report(at(10_000));
        assert!(all.put(at(10_001), key(7), verdict(CheckState::Failing, "dead")));
        assert!(!all.put(
            at(10_001),
            key(7),
            verdict(CheckState::Failing, "still dead")
        ));
        for time in [10_001, 10_050, 10_250, 10_450] {
            let (checks, _) = all.report(at(time));
            let first = &checks[0];
            assert_eq!(
                (&first.check, first.state),
                (&key(7).2, CheckState::Failing)
            );
            assert_eq!((first.detail.as_str(), first.terse), ("still dead", false));
            assert_eq!(checks.iter().filter(|one| one.check == key(7).2).count(), 1);
        }
    }

    /// Hundreds change with every report, and say much: the others do not turn unknown for it.
    #[test]
    fn a_flood_of_changes_leaves_room_for_the_others_turns() {
        let mut all = many(5_000);
        all.report(at(10_000));
        let long = "x".repeat(200);
        let mut told = BTreeSet::new();
        for turn in 1..=8_u64 {
            let states = [CheckState::Failing, CheckState::Ok];
            let state = states[usize::from(turn % 2 == 0)];
            for number in 0..NEWS_MAX {
                all.put(at(10_000 + 200 * turn), key(number), verdict(state, &long));
            }
            let (checks, _) = all.report(at(10_000 + 200 * turn));
            let news = checks.iter().filter(|one| one.state == CheckState::Failing);
            assert!(turn % 2 == 0 || news.count() > 100, "the newest changes");
            told.extend(names(&checks));
        }
        assert_eq!(told.len(), 5_000);
    }

    #[test]
    fn no_report_outgrows_a_message_whatever_the_checks_say() {
        let mut all = Verdicts::default();
        let long = "x".repeat(200);
        let measure = Measure {
            label: "l".repeat(64),
            value: Some(1.0),
            unit: "u".repeat(16),
        };
        for number in 0..4_000 {
            let mut wordy = verdict(CheckState::Failing, &long);
            wordy.measures = vec![measure.clone(); 40];
            all.put(at(0), key(number), wordy);
        }
        let (checks, whole) = all.report(at(1));
        let bytes = |one: &CheckReport| {
            let measures = one.measures.iter();
            let measures = measures.map(|one| one.label.len() + one.unit.len() + 9);
            FRAME_LENGTH + one.check.as_str().len() + one.detail.len() + measures.sum::<usize>()
        };
        assert!(!whole && checks.iter().map(bytes).sum::<usize>() <= PART_BYTES_MAX);
        // Few that say much are told in turns too.
        let mut few = Verdicts::default();
        for number in 0..100 {
            let mut wordy = verdict(CheckState::Ok, &long);
            wordy.measures = vec![measure.clone(); 40];
            few.put(at(0), key(number), wordy);
        }
        assert!(!few.report(at(1_000)).1);
    }
}
