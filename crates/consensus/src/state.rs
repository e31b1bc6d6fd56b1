//! The replicated state around the driver's machine: which requests were applied, which floors the
//! applied entries raised, and how all of it is kept and sent as a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_core::names::{Epoch, GroupId};
use futures_util::{Stream, StreamExt};
use openraft::alias::{MutexOf, OneshotSenderOf};
use openraft::async_runtime::{Mutex as _, OneshotSender as _};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use crate::event::{Event, Teller};
use crate::ports::{Floor, Floors, Machine, Write};
use crate::requests::Requests;
use crate::runtime::Runtime;
use crate::settings::SNAPSHOT_BYTES_MAX;
use crate::types::{
    Answer, Entry, LogId, Payload, Proposal, Snapshot, SnapshotMeta, StoredMembership, Types,
    epoch_of,
};
use crate::v1::{self, StoredFloor};
use crate::writer::{Writer, raise};

/// What the state and the engine's callers both look at.
pub(crate) struct Desk<R: Runtime>(Mutex<DeskInner<R>>);

struct DeskInner<R: Runtime> {
    requests: Requests,
    applied: Option<Epoch>,
    waiting: BTreeMap<u128, Vec<OneshotSenderOf<Types<R>, Epoch>>>,
    /// Requests that this node, as leader, is putting into the log right now.
    entering: BTreeSet<u128>,
}

/// What a proposer on the leader has to do.
pub(crate) enum Turn<R: Runtime> {
    /// Nothing: it was applied.
    Applied(Epoch),
    /// Wait: it is in the log, or on its way there.
    Wait(openraft::alias::OneshotReceiverOf<Types<R>, Epoch>),
    /// Put it into the log.
    Enter(Entering<R>),
}

/// The right to put a request into the log, given back when dropped.
pub(crate) struct Entering<R: Runtime> {
    request: u128,
    desk: Arc<Desk<R>>,
}

impl<R: Runtime> Drop for Entering<R> {
    fn drop(&mut self) {
        self.desk.lock().entering.remove(&self.request);
    }
}

impl<R: Runtime> Desk<R> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(DeskInner {
            requests: Requests::default(),
            applied: None,
            waiting: BTreeMap::new(),
            entering: BTreeSet::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, DeskInner<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the proposer of `request` has to do; `in_log` says whether an entry after the given
    /// index carries it.
    pub(crate) fn turn(
        self: &Arc<Self>,
        request: u128,
        in_log: impl FnOnce(Option<u64>) -> bool,
    ) -> Turn<R> {
        let mut desk = self.lock();
        if let Some(epoch) = desk.requests.applied(request) {
            return Turn::Applied(epoch);
        }
        if desk.entering.contains(&request) || in_log(desk.applied.map(|epoch| epoch.index)) {
            let (told, applied) = crate::writer::oneshot::<R, Epoch>();
            let waiting = desk.waiting.entry(request).or_default();
            // Those who gave up leave nothing behind but their place here, so that repeats do
            // not pile up while there is no majority.
            if waiting.len() >= WAITING_PER_REQUEST_MAX {
                waiting.remove(0);
            }
            waiting.push(told);
            return Turn::Wait(applied);
        }
        desk.entering.insert(request);
        Turn::Enter(Entering {
            request,
            desk: self.clone(),
        })
    }

    /// The last entry applied to the machine.
    pub(crate) fn applied(&self) -> Option<Epoch> {
        self.lock().applied
    }

    fn note(&self, entry: Epoch, applied: Option<(u128, Epoch)>) {
        let mut desk = self.lock();
        desk.applied = Some(entry);
        let Some((request, epoch)) = applied else {
            return;
        };
        desk.requests.remember(request, epoch);
        for waiter in desk.waiting.remove(&request).unwrap_or_default() {
            // Whoever gave up does not hear it.
            let _ = waiter.send(epoch);
        }
    }

    fn replace(&self, requests: Requests, applied: Option<Epoch>) {
        let mut desk = self.lock();
        desk.requests = requests;
        desk.applied = applied;
        desk.waiting.clear();
    }
}

/// How many callers may wait for one request on the leader: its repeats, forwarded by each node.
const WAITING_PER_REQUEST_MAX: usize = 16;

/// The stored snapshot. Locked while one replaces it, so that they do so in order.
type Shelf<R> = Arc<MutexOf<Types<R>, Option<Arc<[u8]>>>>;

/// The replicated state.
pub(crate) struct State<R: Runtime> {
    // The engine wants to share the state between threads although it never uses it from two.
    machine: Mutex<Box<dyn Machine>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    floors: BTreeMap<GroupId, Floor>,
    rules: Arc<dyn Floors>,
    desk: Arc<Desk<R>>,
    shelf: Shelf<R>,
    writer: Writer<R>,
    teller: Teller,
    /// Off while the stored entries are applied again at start.
    telling: Arc<Telling>,
}

/// Whether events are told.
#[derive(Debug, Default)]
pub(crate) struct Telling(std::sync::atomic::AtomicBool);

impl Telling {
    pub(crate) fn start(&self) {
        self.0.store(true, std::sync::atomic::Ordering::Release);
    }

    fn on(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Acquire)
    }
}

/// What a state is made from.
pub(crate) struct StateParts<R: Runtime> {
    pub(crate) machine: Box<dyn Machine>,
    pub(crate) rules: Arc<dyn Floors>,
    pub(crate) desk: Arc<Desk<R>>,
    pub(crate) snapshot: Option<Vec<u8>>,
    pub(crate) writer: Writer<R>,
    pub(crate) teller: Teller,
    pub(crate) telling: Arc<Telling>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: Runtime> State<R> {
    pub(crate) fn new(parts: StateParts<R>) -> Self {
        Self {
            machine: Mutex::new(parts.machine),
            applied: None,
            membership: StoredMembership::default(),
            floors: BTreeMap::new(),
            rules: parts.rules,
            desk: parts.desk,
            shelf: Arc::new(MutexOf::<Types<R>, _>::new(parts.snapshot.map(Arc::from))),
            writer: parts.writer,
            teller: parts.teller,
            telling: parts.telling,
        }
    }

    /// Applies one entry; answers the epoch at which its request took effect.
    fn apply_one(&mut self, entry: Entry) -> Epoch {
        let epoch = epoch_of(&entry.log_id);
        self.applied = Some(entry.log_id);
        let proposal = match entry.payload {
            Payload::Blank => None,
            Payload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                None
            }
            Payload::Normal(proposal) => Some(proposal),
        };
        let Some(proposal) = proposal else {
            self.desk.note(epoch, None);
            return epoch;
        };
        let former = self.desk.lock().requests.applied(proposal.request);
        if former.is_none() {
            self.apply_proposal(epoch, &proposal);
        }
        let epoch_applied = former.unwrap_or(epoch);
        self.desk
            .note(epoch, Some((proposal.request, epoch_applied)));
        epoch_applied
    }

    fn apply_proposal(&mut self, epoch: Epoch, proposal: &Proposal) {
        for (group, assignment) in self.rules.floors(&proposal.payload) {
            raise(
                &mut self.floors,
                &Floor {
                    group,
                    epoch,
                    assignment,
                },
            );
        }
        held(&self.machine).apply(epoch, &proposal.payload);
        if self.telling.on() {
            self.teller.tell(Event::Committed {
                epoch,
                payload: proposal.payload.clone(),
            });
        }
    }

    fn picture(&self) -> v1::Snapshot {
        let log_id = |epoch: Epoch| v1::LogId {
            term: epoch.term,
            index: epoch.index,
        };
        v1::Snapshot {
            applied: v1::mark(self.applied.as_ref()),
            voters_at: v1::mark(self.membership.log_id().as_ref()),
            members: v1::Members::of(self.membership.membership()),
            requests: self
                .desk
                .lock()
                .requests
                .iter()
                .map(|(request, epoch)| (request, log_id(epoch)))
                .collect(),
            floors: self
                .floors
                .values()
                .map(|floor| (floor.group.0, StoredFloor::of(floor)))
                .collect(),
            machine: held(&self.machine).snapshot(),
        }
    }

    fn adopt(&mut self, picture: v1::Snapshot) -> io::Result<()> {
        held(&self.machine)
            .restore(&picture.machine)
            .map_err(|unreadable| invalid(format!("cannot read the snapshot: {unreadable}")))?;
        let mut requests = Requests::default();
        for (request, id) in &picture.requests {
            requests.remember(
                *request,
                Epoch {
                    term: id.term,
                    index: id.index,
                },
            );
        }
        self.applied = picture.applied.map(Into::into);
        self.membership = picture.membership();
        self.floors.clear();
        for (group, floor) in picture.floors {
            let floor = floor.of_group(group);
            self.floors.insert(floor.group, floor);
        }
        self.desk
            .replace(requests, self.applied.as_ref().map(epoch_of));
        Ok(())
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn readable(bytes: &[u8]) -> io::Result<v1::Snapshot> {
    v1::decode(bytes).map_err(|garbled| invalid(format!("the snapshot has {garbled}")))
}

impl<R: Runtime> RaftStateMachine<Types<R>> for State<R> {
    type SnapshotData = Arc<[u8]>;
    type SnapshotBuilder = Builder<R>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<Types<R>>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let epoch = self.apply_one(entry);
            if let Some(responder) = responder {
                responder.send(Answer::from(epoch));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<R> {
        Builder {
            picture: self.picture(),
            shelf: self.shelf.clone(),
            writer: self.writer.clone(),
        }
    }

    /// Takes over a snapshot, from the leader or, at start, from the disk. The floors in it are
    /// durable, and higher than or equal to what they were, before this returns (rule 1).
    async fn install_snapshot(&mut self, _: &SnapshotMeta, bytes: Arc<[u8]>) -> io::Result<()> {
        let picture = readable(&bytes)?;
        let mut shelf = self.shelf.lock().await;
        if shelf.as_ref() != Some(&bytes) {
            let mut writes: Vec<Write> = picture
                .floors
                .iter()
                .map(|(group, floor)| Write::Floor(floor.clone().of_group(*group)))
                .collect();
            writes.push(Write::Snapshot(bytes.to_vec()));
            self.writer.write(writes, Vec::new()).await?;
            *shelf = Some(bytes);
        }
        drop(shelf);
        self.adopt(picture)?;
        if self.telling.on() {
            let applied = self.applied.as_ref().map(epoch_of).unwrap_or_default();
            self.teller.tell(Event::Restored { applied });
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let bytes = self.shelf.lock().await.clone();
        bytes
            .map(|bytes| {
                Ok(Snapshot {
                    meta: readable(&bytes)?.meta(),
                    snapshot: bytes,
                })
            })
            .transpose()
    }
}

/// Makes a snapshot of what the state was when it was asked for one.
pub(crate) struct Builder<R: Runtime> {
    picture: v1::Snapshot,
    shelf: Shelf<R>,
    writer: Writer<R>,
}

impl<R: Runtime> RaftSnapshotBuilder<Types<R>> for Builder<R> {
    type SnapshotData = Arc<[u8]>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let bytes: Arc<[u8]> = Arc::from(v1::encode(&self.picture));
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            return Err(invalid(format!(
                "a snapshot of {} bytes: at most {SNAPSHOT_BYTES_MAX} are allowed",
                bytes.len()
            )));
        }
        let mut shelf = self.shelf.lock().await;
        if let Some(newer) = newer_than(&self.picture, shelf.as_ref())? {
            return Ok(newer);
        }
        self.writer
            .write(vec![Write::Snapshot(bytes.to_vec())], Vec::new())
            .await?;
        *shelf = Some(bytes.clone());
        Ok(Snapshot {
            meta: self.picture.meta(),
            snapshot: bytes,
        })
    }
}

/// The stored snapshot, if one that reaches further than `picture` was installed meanwhile. An
/// older one must not replace it, because the entries between the two are gone.
fn newer_than(picture: &v1::Snapshot, stored: Option<&Arc<[u8]>>) -> io::Result<Option<Snapshot>> {
    let Some(bytes) = stored else { return Ok(None) };
    let meta = readable(bytes)?.meta();
    let newer = v1::mark(meta.last_log_id.as_ref()) > picture.applied;
    Ok(newer.then(|| Snapshot {
        meta,
        snapshot: bytes.clone(),
    }))
}
