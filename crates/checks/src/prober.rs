//! The tasks that ask: one per probe, on the ordinary runtime.
//!
//! ```text
//! probe task: machine <- woken, settled, deserted        (one per probe)
//!                \-> ask: a question each, at most 8     (polled by the same task)
//!                \-> change, refresh -> outbox -> forwarder -> the reader's queue
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evenkeel_host::listener::Listeners;
use evenkeel_host::named::Names;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::asking;
use crate::io::command::Turns;
use crate::io::ping::Pingers;
use crate::outbox::{Key, Outbox};
use crate::probe::{Probe, Verdict};

/// First questions are this far apart, so that a thousand checks do not ask all at once,
/// now and in each interval to come.
const STAGGER: Duration = Duration::from_micros(200);

/// Asks a set of probes for as long as it lives.
pub struct Prober {
    shared: Arc<Shared>,
    running: Mutex<BTreeMap<Key, Running>>,
    runtime: Handle,
    forwarder: AbortHandle,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

/// What the probes have in common.
pub(crate) struct Shared {
    pub(crate) outbox: Outbox,
    pub(crate) listeners: Listeners,
    pub(crate) pingers: Pingers,
    pub(crate) names: Names,
    pub(crate) turns: Turns,
    speakers: AtomicU64,
}

/// A probe and its task, which ends with it.
struct Running {
    probe: Probe,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    /// Starts asking. Verdicts that the reader has no room for wait, the newest of each
    /// check. Must be called within a tokio runtime.
    pub fn start(probes: Vec<Probe>, verdicts: mpsc::Sender<Verdict>) -> Self {
        let shared = Arc::new(Shared {
            outbox: Outbox::default(),
            listeners: Listeners::start(),
            pingers: Pingers::default(),
            names: Names::start(),
            turns: Turns::default(),
            speakers: AtomicU64::new(0),
        });
        let forward = {
            let shared = shared.clone();
            async move { shared.outbox.forward(verdicts).await }
        };
        let runtime = Handle::current();
        let forwarder = runtime.spawn(forward).abort_handle();
        let prober = Self {
            shared,
            running: Mutex::default(),
            runtime,
            forwarder,
        };
        prober.set_probes(probes);
        prober
    }

    /// Asks these from now on, and no others. Unchanged ones go on undisturbed; a changed
    /// one starts anew, unknown until it is answered. Of two probes of one check and node
    /// the last counts.
    pub fn set_probes(&self, probes: Vec<Probe>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeMap<Key, Probe> = probes
            .into_iter()
            .map(|probe| (key_of(&probe), probe))
            .collect();
        running.retain(|key, _| {
            let stays = wanted.contains_key(key);
            if !stays {
                self.shared.outbox.dismiss(key);
            }
            stays
        });
        let mut stagger = Duration::ZERO;
        for (key, probe) in wanted {
            if running.get(&key).is_some_and(|old| old.probe == probe) {
                continue;
            }
            let task = self.begin(&key, probe.clone(), stagger);
            stagger += STAGGER;
            running.insert(key, Running { probe, task });
        }
    }

    fn begin(&self, key: &Key, probe: Probe, stagger: Duration) -> AbortHandle {
        let speaker = self.shared.speakers.fetch_add(1, Ordering::Relaxed);
        self.shared.outbox.appoint(key, speaker);
        // No later than its second question would be.
        let stagger =
            Duration::from_nanos((stagger.as_nanos() % probe.interval.as_nanos().max(1)) as u64);
        self.runtime
            .spawn(asking::run(self.shared.clone(), probe, speaker, stagger))
            .abort_handle()
    }
}

fn key_of(probe: &Probe) -> Key {
    (probe.group, probe.judged, probe.check.clone())
}
