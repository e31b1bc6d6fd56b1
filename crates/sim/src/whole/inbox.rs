//! What tasks of the engine's runtime have for the world, and how it waits for that or for a moment.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_consensus::{Engine, Event, Events, Virtual, virtual_time};
use evenkeel_core::Epoch;

/// An engine that has been started, or why it was not.
pub(super) type Started = Result<(Engine<Virtual>, Events), String>;

/// What a task brings.
pub(super) enum News {
    /// The engine of a worker says something.
    Agreed(Event),
    /// The engine of a worker has stopped.
    EngineEnded,
    /// What became of a proposal.
    Proposed {
        /// Its number.
        id: u64,
        /// What was proposed.
        payload: Vec<u8>,
        /// Its epoch, or why it was not agreed on.
        outcome: Result<Epoch, String>,
    },
    /// An engine was started.
    Started(Started),
    /// An oath is in the log, or could not be taken.
    Sworn(Result<u64, String>),
}

/// Something for one worker.
pub(super) struct Letter {
    /// The node.
    pub(super) host: usize,
    /// The process; what is for another one is void.
    pub(super) process: u64,
    /// What.
    pub(super) news: News,
}

#[derive(Default)]
struct Letters {
    letters: VecDeque<Letter>,
    reader: Option<Waker>,
}

/// The letters that wait for the world. Emptied at every turn of it, so bounded by what the
/// engines do in one.
#[derive(Clone, Default)]
pub(super) struct Inbox(Arc<Mutex<Letters>>);

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a letter.
    pub(super) fn put(&self, letter: Letter) {
        let reader = {
            let mut inner = self.lock();
            inner.letters.push_back(letter);
            inner.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The oldest letter.
    pub(super) fn take(&self) -> Option<Letter> {
        self.lock().letters.pop_front()
    }

    /// Waits for a letter, and at most until the true time `at`.
    pub(super) fn wait(&self, at: u64) -> impl Future<Output = ()> + '_ {
        Waiting {
            inbox: self,
            sleep: virtual_time::sleep_until(Duration::from_nanos(at)),
        }
    }
}

struct Waiting<'a, S> {
    inbox: &'a Inbox,
    sleep: S,
}

impl<S: Future<Output = ()> + Unpin> Future for Waiting<'_, S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut inner = self.inbox.lock();
            if !inner.letters.is_empty() {
                return Poll::Ready(());
            }
            inner.reader = Some(context.waker().clone());
        }
        Pin::new(&mut self.sleep).poll(context)
    }
}
