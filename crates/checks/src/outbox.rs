//! Verdicts on their way out: the newest of each check, whatever the reader's pace.
//!
//! The reader's queue is bounded. Behind it stands one place per check, where a newer
//! verdict replaces the older one, so that a flood of failures can neither fill memory
//! nor stop a prober, and what is read is never older than what is known. Changes go
//! first; within each kind checks take turns.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use evenkeel_core::{CheckName, GroupId, NodeId};
use tokio::sync::{Notify, mpsc};

use crate::probe::Verdict;

/// Which check of which node.
pub(crate) type Key = (GroupId, NodeId, CheckName);

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
    /// Which prober may speak for a check: a stopped one may be about to.
    speakers: BTreeMap<Key, u64>,
    changes: Turns,
    refreshes: Turns,
    sequence: u64,
}

/// One place per check, emptied in turns.
#[derive(Default)]
struct Turns {
    waiting: BTreeMap<Key, Verdict>,
    last: Option<Key>,
}

impl Turns {
    fn take(&mut self) -> Option<Verdict> {
        let after = match &self.last {
            Some(last) => (Bound::Excluded(last), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let next = self
            .waiting
            .range(after)
            .next()
            .or_else(|| self.waiting.iter().next());
        let key = next.map(|(key, _)| key.clone())?;
        let verdict = self.waiting.remove(&key);
        self.last = Some(key);
        verdict
    }
}

impl Outbox {
    /// From now on `speaker` alone speaks for `key`; what another left is forgotten.
    pub(crate) fn appoint(&self, key: &Key, speaker: u64) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.speakers.insert(key.clone(), speaker);
        places.changes.waiting.remove(key);
        places.refreshes.waiting.remove(key);
    }

    /// Nobody speaks for `key` any more.
    pub(crate) fn dismiss(&self, key: &Key) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.speakers.remove(key);
        places.changes.waiting.remove(key);
        places.refreshes.waiting.remove(key);
    }

    /// Puts a verdict into its place. Never waits.
    pub(crate) fn put(&self, speaker: u64, weight: Weight, verdict: Verdict) {
        let key = (verdict.group, verdict.judged, verdict.check.clone());
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.speakers.get(&key) != Some(&speaker) {
            return;
        }
        // A refresh of an unread change is still a change to the reader.
        if weight == Weight::Change || places.changes.waiting.contains_key(&key) {
            places.refreshes.waiting.remove(&key);
            places.changes.waiting.insert(key, verdict);
        } else {
            places.refreshes.waiting.insert(key, verdict);
        }
        drop(places);
        self.filled.notify_one();
    }

    fn take(&self) -> Option<Verdict> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = places.changes.take();
        let mut verdict = verdict.or_else(|| places.refreshes.take())?;
        places.sequence += 1;
        verdict.sequence = places.sequence;
        Some(verdict)
    }

    /// Brings verdicts to the reader until it has gone.
    pub(crate) async fn forward(&self, verdicts: mpsc::Sender<Verdict>) {
        // Room first, then the verdict: what waits for room can still be replaced.
        while let Ok(room) = verdicts.reserve().await {
            let verdict = loop {
                match self.take() {
                    Some(verdict) => break verdict,
                    None => self.filled.notified().await,
                }
            };
            room.send(verdict);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Phases, State};
    use evenkeel_core::Moment;

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

    fn key(check: &str) -> Key {
        (
            GroupId(1),
            NodeId(1),
            CheckName::new(check).expect("a name"),
        )
    }

    fn outbox(checks: &[&str]) -> Outbox {
        let outbox = Outbox::default();
        for check in checks {
            outbox.appoint(&key(check), 1);
        }
        outbox
    }

    fn taken(outbox: &Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.take())
            .map(|verdict| verdict.detail)
            .collect()
    }

    #[test]
    fn the_newest_wins_and_changes_go_first() {
        let outbox = outbox(&["a", "b"]);
        outbox.put(1, Weight::Refresh, verdict("a", "a1"));
        outbox.put(1, Weight::Refresh, verdict("a", "a2"));
        outbox.put(1, Weight::Change, verdict("b", "b1"));
        outbox.put(1, Weight::Refresh, verdict("b", "b2"));
        assert_eq!(taken(&outbox), ["b2", "a2"]);
    }

    #[test]
    fn a_flood_of_one_check_does_not_starve_another() {
        let outbox = outbox(&["a", "b", "c"]);
        outbox.put(1, Weight::Change, verdict("b", "b"));
        outbox.put(1, Weight::Change, verdict("c", "c"));
        let mut order = Vec::new();
        for _ in 0..3 {
            outbox.put(1, Weight::Change, verdict("a", "a"));
            order.extend(outbox.take().map(|verdict| verdict.detail));
        }
        assert_eq!(order, ["a", "b", "c"]);
    }

    #[test]
    fn only_the_appointed_speaker_is_heard() {
        let outbox = outbox(&["a"]);
        outbox.put(1, Weight::Change, verdict("a", "old"));
        outbox.appoint(&key("a"), 2);
        outbox.put(1, Weight::Change, verdict("a", "too late"));
        assert_eq!(taken(&outbox), [""; 0]);
        outbox.put(2, Weight::Change, verdict("a", "new"));
        assert_eq!(taken(&outbox), ["new"]);
        outbox.dismiss(&key("a"));
        outbox.put(2, Weight::Change, verdict("a", "gone"));
        assert_eq!(taken(&outbox), [""; 0]);
    }

    #[tokio::test]
    async fn a_slow_reader_gets_the_newest_in_order_of_sequence() {
        let outbox = std::sync::Arc::new(outbox(&["a", "b"]));
        let (send, mut receive) = mpsc::channel(1);
        for round in 0..1000 {
            outbox.put(1, Weight::Change, verdict("a", &format!("a{round}")));
            outbox.put(1, Weight::Change, verdict("b", &format!("b{round}")));
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
        outbox.put(1, Weight::Change, verdict("a", "nobody reads"));
        outbox.put(1, Weight::Change, verdict("b", "nobody reads"));
        let ended = tokio::time::timeout(std::time::Duration::from_secs(5), forwarder).await;
        ended.expect("it ends with its reader").expect("no panic");
    }
}
