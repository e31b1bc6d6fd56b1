//! The tasks that ask: one per probe, on the ordinary runtime.
//!
//! ```text
//! probe task: machine <- woken, settled, deserted        (one per probe)
//!                \-> ask: a question each, at most 8     (polled by the same task)
//!                \-> change, refresh -> outbox -> forwarder -> the reader's queue
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use evenkeel_core::{CheckName, GroupId, NodeId, ServiceName};
use evenkeel_host::listener::{Listeners, Watch};
use evenkeel_host::named::Names;
use evenkeel_host::systemd::{SYSTEM_BUS, Systemd};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::asking;
use crate::io::command::Turns;
use crate::io::ping::Pingers;
use crate::outbox::{Outbox, Weight};
use crate::probe::{Probe, Verdict};

/// First questions are this far apart, so that a thousand checks do not ask all at once,
/// now and in each interval to come: but so many go together, because each time that the
/// thread wakes costs as much as a small question.
const STAGGER: Duration = Duration::from_micros(200);
const TOGETHER: u32 = 16;

/// When the check of this number asks first.
fn stagger(number: usize) -> Duration {
    let bundle = u32::try_from(number).unwrap_or(u32::MAX) / TOGETHER;
    STAGGER.saturating_mul(bundle.saturating_mul(TOGETHER))
}

/// Addresses whose listeners are watched at most: each is looked at once a second, and every
/// process that listens there takes a descriptor. What is asked elsewhere fails by its answers.
const DOORS_MAX: usize = 256;

/// Asks a set of probes for as long as it lives.
pub struct Prober {
    shared: Arc<Shared>,
    running: Mutex<All>,
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
    listeners: Listeners,
    doors: Mutex<BTreeSet<SocketAddr>>,
    pub(crate) pingers: Pingers,
    pub(crate) names: Names,
    pub(crate) turns: Turns,
    bus: String,
    systemd: OnceLock<Systemd>,
}

impl Shared {
    /// Watches who listens on an address, unless too many others are watched.
    pub(crate) fn watch(&self, target: SocketAddr) -> Option<Watch> {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        if doors.len() < DOORS_MAX {
            doors.insert(target);
        }
        let watched = doors.contains(&target);
        watched.then(|| self.listeners.watch(target))
    }

    /// The line to systemd, which is made when the first unit is asked for.
    pub(crate) fn systemd(&self) -> &Systemd {
        self.systemd.get_or_init(|| Systemd::start(&self.bus))
    }
}

/// The probes, and where their groups are open.
#[derive(Default)]
struct All {
    probes: BTreeMap<Key, Running>,
    serving: BTreeMap<GroupId, NodeId>,
}

impl All {
    /// Whether a probe is to ask nothing now.
    fn is_idle(&self, probe: &Probe) -> bool {
        probe.rests && self.serving.get(&probe.group) != Some(&probe.judged)
    }
}

/// Which check of which node.
type Key = (GroupId, NodeId, CheckName);

/// A probe and its task, which ends with it.
struct Running {
    probe: Probe,
    /// As the outbox knows it.
    speaker: u64,
    /// None while it is idle.
    task: Option<AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.iter().for_each(AbortHandle::abort);
    }
}

impl Prober {
    /// Starts asking. Verdicts that the reader has no room for wait, the newest of each
    /// check. Must be called within a tokio runtime.
    pub fn start(probes: Vec<Probe>, verdicts: mpsc::Sender<Verdict>) -> Self {
        Self::with_bus(SYSTEM_BUS, probes, verdicts)
    }

    /// The same, with systemd asked over the bus at this address.
    pub fn with_bus(bus: &str, probes: Vec<Probe>, verdicts: mpsc::Sender<Verdict>) -> Self {
        let shared = Arc::new(Shared {
            outbox: Outbox::default(),
            listeners: Listeners::start(),
            doors: Mutex::default(),
            pingers: Pingers::default(),
            names: Names::start(),
            turns: Turns::default(),
            bus: bus.to_owned(),
            systemd: OnceLock::new(),
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
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeMap<Key, Probe> = probes
            .into_iter()
            .map(|probe| (key_of(&probe), probe))
            .collect();
        all.probes.retain(|key, running| {
            let stays = wanted.contains_key(key);
            if !stays {
                self.shared.outbox.dismiss(running.speaker);
            }
            stays
        });
        let mut begun = 0;
        for (key, probe) in wanted {
            let known = all.probes.get(&key);
            if known.is_some_and(|old| old.probe == probe) {
                continue;
            }
            self.begin(&mut all, key, probe, stagger(begun));
            begun += 1;
        }
    }

    /// Takes note of where a group is open, if anywhere. Probes that rest are asked at once when
    /// it opens on the node that they judge, unknown until the first answer, and no more once it
    /// does not any more. Costs nothing if nothing changes.
    pub fn serving(&self, group: GroupId, node: Option<NodeId>) {
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match node {
            Some(node) => all.serving.insert(group, node),
            None => all.serving.remove(&group),
        };
        if before == node {
            return;
        }
        let touched = |judged: NodeId| Some(judged) == before || Some(judged) == node;
        let resting = all.probes.values().map(|running| &running.probe);
        let resting = resting
            .filter(|probe| probe.rests && probe.group == group && touched(probe.judged))
            .cloned();
        for (number, probe) in resting.collect::<Vec<_>>().into_iter().enumerate() {
            self.begin(&mut all, key_of(&probe), probe, stagger(number));
        }
    }

    /// Takes note that a service was started again on a node: the probes that ask for it there
    /// start anew, unknown until the first answer.
    pub fn renew(&self, group: GroupId, judged: NodeId, service: &ServiceName) {
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let probes = all.probes.values().map(|running| &running.probe);
        let touched = probes.filter(|probe| {
            let of = probe.service.as_ref() == Some(service);
            of && probe.group == group && probe.judged == judged
        });
        for (number, probe) in touched.cloned().collect::<Vec<_>>().into_iter().enumerate() {
            self.begin(&mut all, key_of(&probe), probe, stagger(number));
        }
    }

    fn begin(&self, all: &mut All, key: Key, probe: Probe, stagger: Duration) {
        if let Some(before) = all.probes.get(&key) {
            self.shared.outbox.dismiss(before.speaker);
        }
        let speaker = self.shared.outbox.appoint();
        let task = if all.is_idle(&probe) {
            let outbox = &self.shared.outbox;
            outbox.put(speaker, Weight::Change, asking::idle(&probe));
            None
        } else {
            // No later than its second question would be.
            let interval = probe.interval.as_nanos().max(1);
            let stagger = Duration::from_nanos((stagger.as_nanos() % interval) as u64);
            let asking = asking::run(self.shared.clone(), probe.clone(), speaker, stagger);
            Some(self.runtime.spawn(asking).abort_handle())
        };
        let running = Running {
            probe,
            speaker,
            task,
        };
        all.probes.insert(key, running);
    }
}

fn key_of(probe: &Probe) -> Key {
    (probe.group, probe.judged, probe.check.clone())
}
