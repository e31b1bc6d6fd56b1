//! Verdicts on their way out: the newest of each check, whatever the reader's pace.
//!
//! The reader's queue is bounded. Behind it stands one place per check, where a newer
//! verdict replaces the older one, so that a flood of failures can neither fill memory
//! nor stop a prober, and what is read is never older than what is known. Changes go
//! first and at once; repeats go in bundles, so that thousands of them do not wake the
//! reader thousands of times. Within each kind checks take turns.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

use crate::probe::Verdict;

/// From one bundle of repeats to the next. A verdict bears its own time, so that it loses
/// nothing by waiting.
const BUNDLE: Duration = Duration::from_millis(100);

/// Whether a verdict is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    Change,
    Refresh,
}

#[derive(Default)]
pub(crate) struct Outbox {
    places: Mutex<Places>,
    filled: Notify,
}

#[derive(Default)]
struct Places {
    /// One for each prober that may speak: a stopped one may be about to.
    by_speaker: BTreeMap<u64, Place>,
    changes: VecDeque<u64>,
    refreshes: VecDeque<u64>,
    speakers: u64,
    sequence: u64,
}

/// Where the newest verdict of a check waits, and in which rows it stands: at most once in each.
#[derive(Default)]
struct Place {
    verdict: Option<(Weight, Verdict)>,
    in_changes: bool,
    in_refreshes: bool,
}

impl Places {
    fn take_change(&mut self) -> Option<Verdict> {
        while let Some(speaker) = self.changes.pop_front() {
            if let Some(place) = self.by_speaker.get_mut(&speaker) {
                place.in_changes = false;
                if let Some((_, verdict)) = place.verdict.take() {
                    return Some(self.numbered(verdict));
                }
            }
        }
        None
    }

    fn take_refresh(&mut self) -> Option<Verdict> {
        while let Some(speaker) = self.refreshes.pop_front() {
            if let Some(place) = self.by_speaker.get_mut(&speaker) {
                place.in_refreshes = false;
                // It may have become a change meanwhile, which goes by the other row.
                if let Some((Weight::Refresh, _)) = place.verdict
                    && let Some((_, verdict)) = place.verdict.take()
                {
                    return Some(self.numbered(verdict));
                }
            }
        }
        None
    }

    fn numbered(&mut self, mut verdict: Verdict) -> Verdict {
        self.sequence += 1;
        verdict.sequence = self.sequence;
        verdict
    }
}

impl Outbox {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new speaker, who is heard until dismissed.
    pub(crate) fn appoint(&self) -> u64 {
        let mut places = self.places();
        places.speakers += 1;
        let speaker = places.speakers;
        places.by_speaker.insert(speaker, Place::default());
        speaker
    }

    /// Nobody hears this one any more; what it left is forgotten.
    pub(crate) fn dismiss(&self, speaker: u64) {
        self.places().by_speaker.remove(&speaker);
    }

    /// Puts a verdict into its place. Never waits.
    pub(crate) fn put(&self, speaker: u64, weight: Weight, verdict: Verdict) {
        let mut guard = self.places();
        let places = &mut *guard;
        let Some(place) = places.by_speaker.get_mut(&speaker) else {
            return;
        };
        // A refresh of an unread change is still a change to the reader.
        let unread = matches!(place.verdict, Some((Weight::Change, _)));
        let weight = if unread { Weight::Change } else { weight };
        place.verdict = Some((weight, verdict));
        let (row, stands) = match weight {
            Weight::Change => (&mut places.changes, &mut place.in_changes),
            Weight::Refresh => (&mut places.refreshes, &mut place.in_refreshes),
        };
        let first = row.is_empty();
        if !std::mem::replace(stands, true) {
            row.push_back(speaker);
        }
        drop(guard);
        // Whoever brings the first repeat out brings the others too.
        if first || weight == Weight::Change {
            self.filled.notify_one();
        }
    }

    /// Brings verdicts to the reader until it has gone.
    pub(crate) async fn forward(&self, verdicts: mpsc::Sender<Verdict>) {
        let mut bundle = Instant::now();
        // Room first, then the verdict: what waits for room can still be replaced.
        while let Ok(room) = verdicts.reserve().await {
            room.send(self.next(&mut bundle).await);
        }
    }

    /// The next verdict to go; repeats not before `bundle`, which then moves on.
    async fn next(&self, bundle: &mut Instant) -> Verdict {
        loop {
            let now = Instant::now();
            let waits = {
                let mut places = self.places();
                let mut verdict = places.take_change();
                if verdict.is_none() && now >= *bundle {
                    verdict = places.take_refresh();
                }
                match verdict {
                    Some(verdict) => return verdict,
                    None => !places.refreshes.is_empty(),
                }
            };
            if now >= *bundle {
                *bundle = now + BUNDLE;
            }
            match waits {
                // Either way it is looked again.
                true => drop(timeout_at(*bundle, self.filled.notified()).await),
                false => self.filled.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Phases, State};
    use evenkeel_core::{CheckName, GroupId, Moment, NodeId};

    fn verdict(check: &str, detail: &str) -> Verdict {
        Verdict {
            group: GroupId(1),
            check: CheckName::new(check).expect("a name"),
            judged: NodeId(1),
            state: State::Ok,
            at: Moment::ZERO,
            silent_since: None,
            detail: detail.to_owned(),
            phases: Phases::default(),
            measures: Vec::new(),
            sequence: 0,
        }
    }

    /// An outbox and speakers for some checks.
    fn outbox<const COUNT: usize>() -> (Outbox, [u64; COUNT]) {
        let outbox = Outbox::default();
        let speakers = std::array::from_fn(|_| outbox.appoint());
        (outbox, speakers)
    }

    fn take(outbox: &Outbox) -> Option<String> {
        let mut places = outbox.places();
        let verdict = places.take_change();
        let verdict = verdict.or_else(|| places.take_refresh());
        verdict.map(|verdict| verdict.detail)
    }

    fn taken(outbox: &Outbox) -> Vec<String> {
        std::iter::from_fn(|| take(outbox)).collect()
    }

    #[test]
    fn the_newest_wins_and_changes_go_first() {
        let (outbox, [a, b]) = outbox();
        outbox.put(a, Weight::Refresh, verdict("a", "a1"));
        outbox.put(a, Weight::Refresh, verdict("a", "a2"));
        outbox.put(b, Weight::Change, verdict("b", "b1"));
        outbox.put(b, Weight::Refresh, verdict("b", "b2"));
        assert_eq!(taken(&outbox), ["b2", "a2"]);
        // A repeat that becomes news goes with the news, and once.
        outbox.put(a, Weight::Refresh, verdict("a", "a3"));
        outbox.put(b, Weight::Refresh, verdict("b", "b3"));
        outbox.put(b, Weight::Change, verdict("b", "b4"));
        assert_eq!(taken(&outbox), ["b4", "a3"]);
        let rows = outbox.places();
        assert!(rows.changes.is_empty() && rows.refreshes.is_empty());
    }

    #[test]
    fn no_row_grows_beyond_the_number_of_checks() {
        let (outbox, [a, b]) = outbox();
        outbox.put(b, Weight::Refresh, verdict("b", "b"));
        for _ in 0..100 {
            outbox.put(a, Weight::Refresh, verdict("a", "a"));
            outbox.put(a, Weight::Change, verdict("a", "a"));
            assert!(outbox.places().take_change().is_some());
        }
        assert!(outbox.places().refreshes.len() <= 2);
    }

    #[test]
    fn a_flood_of_one_check_does_not_starve_another() {
        let (outbox, [a, b, c]) = outbox();
        outbox.put(b, Weight::Change, verdict("b", "b"));
        outbox.put(c, Weight::Change, verdict("c", "c"));
        let mut order = Vec::new();
        for _ in 0..3 {
            outbox.put(a, Weight::Change, verdict("a", "a"));
            order.extend(take(&outbox));
        }
        assert_eq!(order, ["b", "c", "a"]);
    }

    #[test]
    fn only_those_who_are_appointed_are_heard() {
        let (outbox, [a, other]) = outbox();
        outbox.put(a, Weight::Change, verdict("a", "old"));
        outbox.dismiss(a);
        outbox.put(a, Weight::Change, verdict("a", "too late"));
        assert_eq!(taken(&outbox), [""; 0]);
        outbox.put(other, Weight::Change, verdict("a", "new"));
        assert_eq!(taken(&outbox), ["new"]);
    }

    #[tokio::test]
    async fn a_slow_reader_gets_the_newest_in_order_of_sequence() {
        let (outbox, [a, b]) = outbox();
        let outbox = std::sync::Arc::new(outbox);
        let (send, mut receive) = mpsc::channel(1);
        for round in 0..1000 {
            outbox.put(a, Weight::Change, verdict("a", &format!("a{round}")));
            outbox.put(b, Weight::Change, verdict("b", &format!("b{round}")));
        }
        let forwarder = {
            let outbox = outbox.clone();
            tokio::spawn(async move { outbox.forward(send).await })
        };
        let first = receive.recv().await.expect("a verdict");
        let second = receive.recv().await.expect("a verdict");
        assert_eq!(
            (first.detail.as_str(), second.detail.as_str()),
            ("a999", "b999")
        );
        assert!(first.sequence < second.sequence);
        drop(receive);
        outbox.put(a, Weight::Change, verdict("a", "nobody reads"));
        outbox.put(b, Weight::Change, verdict("b", "nobody reads"));
        let ended = tokio::time::timeout(std::time::Duration::from_secs(5), forwarder).await;
        ended.expect("it ends with its reader").expect("no panic");
    }

    #[tokio::test]
    async fn repeats_go_in_bundles_and_news_does_not_wait_for_them() {
        let (outbox, [a, b, c]) = outbox();
        let hour = Duration::from_secs(3600);
        let mut bundle = Instant::now() + hour;
        outbox.put(a, Weight::Refresh, verdict("a", "repeat"));
        outbox.put(c, Weight::Refresh, verdict("c", "repeat"));
        outbox.put(b, Weight::Change, verdict("b", "news"));
        assert_eq!(outbox.next(&mut bundle).await.detail, "news");
        let waits = tokio::time::timeout(Duration::from_millis(20), outbox.next(&mut bundle));
        assert!(waits.await.is_err(), "a repeat before its bundle");
        bundle = Instant::now();
        assert_eq!(outbox.next(&mut bundle).await.detail, "repeat");
        assert_eq!(outbox.next(&mut bundle).await.detail, "repeat");
        // That bundle is over, and the next one comes by itself.
        outbox.put(a, Weight::Refresh, verdict("a", "later"));
        assert_eq!(outbox.next(&mut bundle).await.detail, "later");
    }
}
