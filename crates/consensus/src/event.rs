//! What the engine tells the driver, in a bounded queue that never blocks the engine.

use core::future::poll_fn;
use core::task::{Poll, Waker};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_core::names::{Epoch, NodeId};

use crate::settings::EVENTS_WAITING_MAX;

/// Something that happened in the engine.
///
/// `Appended` and `Truncated` come in the order of the log thread, `Committed` and `Restored` in
/// the order of the machine. Between the two there is no order: an entry may be committed by the
/// others before this node has it on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An entry is durable on this node. It is not decided yet and may be truncated.
    Appended {
        /// Its epoch.
        epoch: Epoch,
        /// Its payload.
        payload: Arc<[u8]>,
    },
    /// An entry is decided and was applied to the machine.
    Committed {
        /// Its epoch.
        epoch: Epoch,
        /// Its payload.
        payload: Arc<[u8]>,
    },
    /// Appended entries from this index on are gone: they were never decided. Floors stay.
    Truncated {
        /// The first index that is gone.
        since: u64,
    },
    /// This node leads, and knows what was decided before it did: everything of that has been told.
    Leading {
        /// Its term.
        term: u64,
    },
    /// This node does not lead.
    Following {
        /// Who does, if known.
        leader: Option<NodeId>,
        /// The term.
        term: u64,
    },
    /// The machine was replaced as a whole, at start or by a leader's snapshot. Floors may have
    /// risen: read [`Engine::floors`](crate::Engine::floors).
    Restored {
        /// The last entry that it contains.
        applied: Epoch,
    },
    /// A write has been waiting for the disk for so long (rule 11). Told once per spell.
    DiskSlow {
        /// For how long so far.
        waiting: Duration,
    },
    /// The spell is over.
    DiskQuick {
        /// How long the last write took.
        took: Duration,
    },
    /// A write failed: the engine has stopped and must be started again.
    DiskFailed {
        /// What failed and what to do.
        reason: String,
    },
    /// The engine has stopped by itself.
    Stopped {
        /// Why.
        reason: String,
    },
    /// The driver was too slow: so many events were dropped. What they said is in
    /// [`Engine::floors`](crate::Engine::floors), [`Engine::status`](crate::Engine::status) and
    /// the machine, which has missed nothing.
    Missed {
        /// How many.
        count: u64,
    },
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Event>,
    missed: u64,
    reader: Option<Waker>,
    closed: bool,
}

/// The engine's end.
#[derive(Clone, Default)]
pub(crate) struct Teller(Arc<Mutex<Queue>>);

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Teller {
    /// The two ends.
    pub(crate) fn new() -> (Self, Events) {
        let teller = Self::default();
        (teller.clone(), Events(teller.0))
    }

    /// Tells one event; drops it, and counts it, when the driver is too far behind.
    pub(crate) fn tell(&self, event: Event) {
        let waker = {
            let mut queue = lock(&self.0);
            if queue.waiting.len() < EVENTS_WAITING_MAX {
                queue.waiting.push_back(event);
            } else {
                queue.missed += 1;
            }
            queue.reader.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the stream once it is drained.
    pub(crate) fn close(&self) {
        let waker = {
            let mut queue = lock(&self.0);
            queue.closed = true;
            queue.reader.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The driver's end.
pub struct Events(Arc<Mutex<Queue>>);

impl core::fmt::Debug for Events {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// The next event; `None` after the engine was shut down or has stopped by itself. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|context| {
            let mut queue = lock(&self.0);
            if let Some(event) = take(&mut queue) {
                return Poll::Ready(Some(event));
            }
            if queue.closed {
                return Poll::Ready(None);
            }
            queue.reader = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The next event, if one is waiting.
    pub fn try_next(&mut self) -> Option<Event> {
        take(&mut lock(&self.0))
    }
}

fn take(queue: &mut Queue) -> Option<Event> {
    if queue.missed > 0 {
        let count = core::mem::take(&mut queue.missed);
        return Some(Event::Missed { count });
    }
    queue.waiting.pop_front()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_sleeps_is_told_how_much_it_missed() {
        let (teller, mut events) = Teller::new();
        for term in 0..EVENTS_WAITING_MAX as u64 + 7 {
            teller.tell(Event::Leading { term });
        }
        assert_eq!(events.try_next(), Some(Event::Missed { count: 7 }));
        assert_eq!(events.try_next(), Some(Event::Leading { term: 0 }));
        let rest = core::iter::from_fn(|| events.try_next()).count();
        assert_eq!(rest, EVENTS_WAITING_MAX - 1);
    }
}
