//! The only place that touches the disk: takes writes in order, makes them durable, says so.
//!
//! It runs on the log thread (in virtual time: as a task). Writes that wait together share one
//! transaction. After the first failure nothing more is written: every later write fails, the
//! engine stops, and the daemon starts it again.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_core::names::{Epoch, GroupId};
use openraft::AsyncRuntime;
use openraft::Instant as _;
use openraft::alias::{InstantOf, MpscReceiverOf, MpscSenderOf, OneshotSenderOf};
use openraft::async_runtime::{Mpsc as _, MpscReceiver as _, MpscSender as _, OneshotSender as _};
use openraft::storage::IOFlushed;

use crate::error::DiskError;
use crate::event::{Event, Teller};
use crate::ports::{Disk, Floor, Image, Write};
use crate::runtime::Runtime;
use crate::settings::{WRITES_PER_COMMIT_MAX, WRITES_WAITING_MAX};
use crate::types::Types;

/// Whom to tell that a write is durable.
pub(crate) enum Done<R: Runtime> {
    /// The engine, about entries.
    Entries(IOFlushed<Types<R>>),
    /// A task that waits.
    Waiter(OneshotSenderOf<Types<R>, io::Result<()>>),
    /// Nobody.
    Nobody,
}

impl<R: Runtime> Done<R> {
    fn tell(self, failure: Option<&DiskError>) {
        let result = match failure {
            None => Ok(()),
            Some(error) => Err(io::Error::other(error.to_string())),
        };
        match self {
            Self::Entries(callback) => callback.io_completed(result),
            Self::Waiter(waiter) => {
                let _ = waiter.send(result);
            }
            Self::Nobody => {}
        }
    }
}

/// Writes that become durable together.
pub(crate) struct Order<R: Runtime> {
    pub(crate) writes: Vec<Write>,
    /// What the driver is told once they are durable.
    pub(crate) events: Vec<Event>,
    pub(crate) done: Done<R>,
}

enum Errand<R: Runtime> {
    Write(Order<R>),
    Stop(OneshotSenderOf<Types<R>, ()>),
}

/// How the disk does, for `watch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// How long the oldest write that is not durable yet has been waiting.
    pub(crate) waiting: Option<Duration>,
    /// How long the last durable write took.
    pub(crate) took: Option<Duration>,
}

struct Gauge<R: Runtime> {
    /// When the writes under way were ordered, oldest first.
    ordered: VecDeque<InstantOf<Types<R>>>,
    took: Option<Duration>,
    floors: BTreeMap<GroupId, Floor>,
}

/// The engine's end of the writer.
pub(crate) struct Writer<R: Runtime> {
    errands: MpscSenderOf<Types<R>, Errand<R>>,
    gauge: Arc<Mutex<Gauge<R>>>,
}

impl<R: Runtime> Clone for Writer<R> {
    fn clone(&self) -> Self {
        Self {
            errands: self.errands.clone(),
            gauge: self.gauge.clone(),
        }
    }
}

fn lock<R: Runtime>(gauge: &Mutex<Gauge<R>>) -> MutexGuard<'_, Gauge<R>> {
    gauge.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone() -> io::Error {
    io::Error::other("the log thread has ended")
}

impl<R: Runtime> Writer<R> {
    /// Starts the log thread on `disk`, and waits for what is stored there.
    pub(crate) async fn start(
        disk: Box<dyn Disk>,
        teller: Teller,
    ) -> Result<(Self, Image), crate::ConsensusError> {
        let (errands, queue) = <R::Async as AsyncRuntime>::Mpsc::channel(WRITES_WAITING_MAX);
        let (loaded, load) = oneshot::<R, Result<Image, DiskError>>();
        let gauge = Arc::new(Mutex::new(Gauge {
            ordered: VecDeque::new(),
            took: None,
            floors: BTreeMap::new(),
        }));
        let worker = Worker {
            disk,
            queue,
            gauge: gauge.clone(),
            teller,
            failed: false,
        };
        R::start_writer(worker.run(loaded)).map_err(crate::ConsensusError::Thread)?;
        let image = load
            .await
            .map_err(|_| crate::ConsensusError::Engine("the log thread died".to_owned()))??;
        for floor in &image.floors {
            raise(&mut lock(&gauge).floors, floor);
        }
        Ok((Self { errands, gauge }, image))
    }

    /// Orders writes. Returns when they are queued, not when they are durable.
    pub(crate) async fn order(&self, order: Order<R>) -> io::Result<()> {
        lock(&self.gauge)
            .ordered
            .push_back(InstantOf::<Types<R>>::now());
        self.errands
            .send(Errand::Write(order))
            .await
            .map_err(|_| gone())
    }

    /// Orders writes and waits until they are durable.
    pub(crate) async fn write(&self, writes: Vec<Write>, events: Vec<Event>) -> io::Result<()> {
        let (told, durable) = oneshot::<R, io::Result<()>>();
        self.order(Order {
            writes,
            events,
            done: Done::Waiter(told),
        })
        .await?;
        durable.await.map_err(|_| gone())?
    }

    /// Ends the log thread after what is queued, and waits for that.
    pub(crate) async fn stop(&self) {
        let (told, stopped) = oneshot::<R, ()>();
        if self.errands.send(Errand::Stop(told)).await.is_ok() {
            drop(stopped.await);
        }
    }

    /// How the disk does.
    pub(crate) fn pace(&self) -> Pace {
        let gauge = lock(&self.gauge);
        Pace {
            waiting: gauge.ordered.front().map(|at| at.elapsed()),
            took: gauge.took,
        }
    }

    /// The durable floors, in the order of their groups.
    pub(crate) fn floors(&self) -> Vec<Floor> {
        lock(&self.gauge).floors.values().cloned().collect()
    }

    /// The epoch of one.
    pub(crate) fn floor_of(&self, group: GroupId) -> Option<Epoch> {
        lock(&self.gauge)
            .floors
            .get(&group)
            .map(|floor| floor.epoch)
    }
}

/// A channel for one answer.
pub(crate) fn oneshot<R: Runtime, T: Send>() -> (
    OneshotSenderOf<Types<R>, T>,
    openraft::alias::OneshotReceiverOf<Types<R>, T>,
) {
    use openraft::async_runtime::Oneshot as _;
    <R::Async as AsyncRuntime>::Oneshot::channel()
}

/// Keeps the higher of two floors.
pub(crate) fn raise(floors: &mut BTreeMap<GroupId, Floor>, floor: &Floor) {
    let known = floors
        .get(&floor.group)
        .is_some_and(|known| known.epoch >= floor.epoch);
    if !known {
        floors.insert(floor.group, floor.clone());
    }
}

struct Worker<R: Runtime> {
    disk: Box<dyn Disk>,
    queue: MpscReceiverOf<Types<R>, Errand<R>>,
    gauge: Arc<Mutex<Gauge<R>>>,
    teller: Teller,
    failed: bool,
}

impl<R: Runtime> Worker<R> {
    async fn run(mut self, loaded: OneshotSenderOf<Types<R>, Result<Image, DiskError>>) {
        let image = self.disk.load();
        let usable = image.is_ok();
        if loaded.send(image).is_err() || !usable {
            return;
        }
        while let Some(errand) = self.queue.recv().await {
            let mut orders = Vec::new();
            let mut stop = self.sort(errand, &mut orders);
            while stop.is_none() && orders.len() < WRITES_PER_COMMIT_MAX {
                match self.queue.try_recv() {
                    Ok(errand) => stop = self.sort(errand, &mut orders),
                    Err(_) => break,
                }
            }
            self.commit(orders).await;
            if let Some(told) = stop {
                // The disk is closed, and its lock given up, before anybody hears of it.
                drop(self);
                let _ = told.send(());
                return;
            }
        }
    }

    fn sort(
        &self,
        errand: Errand<R>,
        orders: &mut Vec<Order<R>>,
    ) -> Option<OneshotSenderOf<Types<R>, ()>> {
        match errand {
            Errand::Write(order) => {
                orders.push(order);
                None
            }
            Errand::Stop(told) => Some(told),
        }
    }

    async fn commit(&mut self, mut orders: Vec<Order<R>>) {
        if orders.is_empty() {
            return;
        }
        let writes: Vec<Write> = orders
            .iter_mut()
            .flat_map(|order| core::mem::take(&mut order.writes))
            .collect();
        let failure = self.write(&writes).await.err();
        if let Some(error) = &failure
            && !self.failed
        {
            self.failed = true;
            tracing::error!(%error, "the log cannot be written; the engine stops");
            let reason = error.to_string();
            self.teller.tell(Event::DiskFailed { reason });
        }
        self.measure(orders.len(), &writes, failure.is_none());
        for order in orders {
            if failure.is_none() {
                order
                    .events
                    .into_iter()
                    .for_each(|event| self.teller.tell(event));
            }
            order.done.tell(failure.as_ref());
        }
    }

    async fn write(&mut self, writes: &[Write]) -> Result<(), DiskError> {
        if self.failed {
            return Err(DiskError::Failed);
        }
        let delay = self.disk.delay(writes);
        if !delay.is_zero() {
            R::pause(delay).await;
        }
        self.disk.write(writes)
    }

    fn measure(&self, orders: usize, writes: &[Write], durable: bool) {
        let mut gauge = lock(&self.gauge);
        let oldest = gauge.ordered.drain(..orders).next();
        gauge.took = oldest.map(|at| at.elapsed()).or(gauge.took);
        if durable {
            for write in writes {
                if let Write::Floor(floor) = write {
                    raise(&mut gauge.floors, floor);
                }
            }
        }
    }
}
