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
    /// [`Engine::floors`](crate::Engine::floors) and the machine, which has missed nothing; who
    /// leads and how the disk does is told again, as it is by then.
    Missed {
        /// How many.
        count: u64,
    },
}

/// What events of one kind say stays so until the next: of those that found no room the last one
/// counts, and is not dropped.
#[derive(Clone, Copy)]
enum State {
    Leadership,
    Disk,
}

fn state_of(event: &Event) -> Option<State> {
    match event {
        Event::Leading { .. } | Event::Following { .. } => Some(State::Leadership),
        Event::DiskSlow { .. } | Event::DiskQuick { .. } | Event::DiskFailed { .. } => {
            Some(State::Disk)
        }
        Event::Appended { .. }
        | Event::Committed { .. }
        | Event::Truncated { .. }
        | Event::Restored { .. }
        // The stream ends behind it, which says the same.
        | Event::Stopped { .. }
        | Event::Missed { .. } => None,
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Event>,
    /// States that found no room, one of each kind: told when all that waits has been.
    late: [Option<Event>; 2],
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
            queue.add(event);
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
            if let Some(event) = queue.take() {
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
        lock(&self.0).take()
    }
}

impl Queue {
    fn add(&mut self, event: Event) {
        let full = self.waiting.len() >= EVENTS_WAITING_MAX;
        match state_of(&event) {
            // None overtakes an older one of its kind. An engine whose disk has failed stops.
            Some(state) if full || self.late[state as usize].is_some() => {
                let known = &mut self.late[state as usize];
                if !matches!(known, Some(Event::DiskFailed { .. })) {
                    *known = Some(event);
                }
            }
            _ if full => self.missed += 1,
            _ => self.waiting.push_back(event),
        }
    }

    fn take(&mut self) -> Option<Event> {
        if self.missed > 0 {
            let count = core::mem::take(&mut self.missed);
            return Some(Event::Missed { count });
        }
        let late = || self.late.iter_mut().find_map(Option::take);
        self.waiting.pop_front().or_else(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truncated(since: u64) -> Event {
        Event::Truncated { since }
    }

    #[test]
    fn a_driver_that_sleeps_is_told_how_much_it_missed() {
        let (teller, mut events) = Teller::new();
        for since in 0..EVENTS_WAITING_MAX as u64 + 7 {
            teller.tell(truncated(since));
        }
        assert_eq!(events.try_next(), Some(Event::Missed { count: 7 }));
        assert_eq!(events.try_next(), Some(truncated(0)));
        let rest = core::iter::from_fn(|| events.try_next()).count();
        assert_eq!(rest, EVENTS_WAITING_MAX - 1);
    }

    /// Nobody would say again who leads, or that the disk is quick.
    #[test]
    fn a_driver_that_sleeps_does_not_miss_who_leads() {
        let (teller, mut events) = Teller::new();
        for since in 0..=EVENTS_WAITING_MAX as u64 {
            teller.tell(truncated(since));
        }
        let waiting = Duration::from_secs(1);
        let took = Duration::ZERO;
        let leader = None;
        teller.tell(Event::Following { leader, term: 4 });
        teller.tell(Event::DiskSlow { waiting });
        teller.tell(Event::Leading { term: 5 });
        assert_eq!(events.try_next(), Some(Event::Missed { count: 1 }));
        assert_eq!(events.try_next(), Some(truncated(0)));
        // There is room again, and none overtakes an older one of its kind.
        teller.tell(Event::DiskQuick { took });
        teller.tell(truncated(7));
        let rest: Vec<Event> = core::iter::from_fn(|| events.try_next()).collect();
        let last = [
            truncated(7),
            Event::Leading { term: 5 },
            Event::DiskQuick { took },
        ];
        assert!(rest.ends_with(&last));
        assert_eq!(rest.len(), EVENTS_WAITING_MAX - 1 + last.len());
        teller.tell(Event::Leading { term: 6 });
        assert_eq!(events.try_next(), Some(Event::Leading { term: 6 }));
    }
}
