//! A queue in which the newest word on a subject replaces the older one.
//!
//! Bounded by the number of subjects, so putting never waits and never fails.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// One word per subject, taken out in the order in which subjects were first put.
pub(crate) struct Mailbox<S, W> {
    inner: Mutex<Inner<S, W>>,
    filled: Notify,
}

struct Inner<S, W> {
    words: BTreeMap<S, W>,
    order: VecDeque<S>,
    closed: bool,
}

impl<S: Ord + Copy, W> Mailbox<S, W> {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            words: BTreeMap::new(),
            order: VecDeque::new(),
            closed: false,
        };
        Self {
            inner: Mutex::new(inner),
            filled: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S, W>> {
        // Nothing can panic while the lock is held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `word` in the place of an older one on the same subject.
    pub(crate) fn put(&self, subject: S, word: W) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        if inner.words.insert(subject, word).is_none() {
            inner.order.push_back(subject);
        }
        drop(inner);
        self.filled.notify_one();
    }

    /// Lets the taker take what is there and then end.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// The next word, waiting for it; `None` once closed and empty. One taker only.
    pub(crate) async fn take(&self) -> Option<(S, W)> {
        loop {
            {
                let mut inner = self.lock();
                if let Some(subject) = inner.order.pop_front()
                    && let Some(word) = inner.words.remove(&subject)
                {
                    return Some((subject, word));
                }
                if inner.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_word_wins_and_keeps_its_place() {
        let mailbox = Mailbox::new();
        mailbox.put('a', 1);
        mailbox.put('b', 2);
        mailbox.put('a', 3);
        mailbox.close();
        mailbox.put('c', 4);
        assert_eq!(mailbox.take().await, Some(('a', 3)));
        assert_eq!(mailbox.take().await, Some(('b', 2)));
        assert_eq!(mailbox.take().await, None);
    }
}
