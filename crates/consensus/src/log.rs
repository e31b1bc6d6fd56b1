//! The log as the engine sees it: whole in memory, every change also ordered from the writer.
//!
//! Reads never wait for the disk, and an entry can be read as soon as it is ordered, which is what
//! the engine requires. What is acknowledged to others waits for the writer.

use core::fmt::Debug;
use core::ops::{Bound, RangeBounds};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_core::names::Epoch;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};

use crate::error::ConsensusError;
use crate::event::Event;
use crate::ports::{Floor, Floors, Image, Write};
use crate::runtime::Runtime;
use crate::settings::APPEND_BYTES_MAX;
use crate::types::{Entry, LogId, Payload, Types, Vote, epoch_of};
use crate::v1;
use crate::writer::{Done, Order, Writer};

/// What is in the log.
#[derive(Debug, Default)]
struct Mirror {
    /// Durable: the oath under which this node votes.
    oath: Option<u64>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
    /// The mark of what is committed has changed since it was ordered last. It rides along with
    /// the next write, because nothing depends on its being fresh.
    mark_stale: bool,
    /// Bytes of all payloads.
    bytes: usize,
}

/// The log; clones share it.
pub(crate) struct Log<R: Runtime> {
    mirror: Arc<Mutex<Mirror>>,
    writer: Writer<R>,
    floors: Arc<dyn Floors>,
}

impl<R: Runtime> Clone for Log<R> {
    fn clone(&self) -> Self {
        Self {
            mirror: self.mirror.clone(),
            writer: self.writer.clone(),
            floors: self.floors.clone(),
        }
    }
}

fn lock(mirror: &Mutex<Mirror>) -> MutexGuard<'_, Mirror> {
    mirror.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The proposal in an entry, if it is one.
fn payload_of(entry: &Entry) -> Option<&crate::types::Proposal> {
    match &entry.payload {
        Payload::Normal(proposal) => Some(proposal),
        Payload::Blank | Payload::Membership(_) => None,
    }
}

fn bytes_of(entry: &Entry) -> usize {
    payload_of(entry).map_or(0, |proposal| proposal.payload.len())
}

/// The stored value called `what`, or what is wrong with it.
pub(crate) fn stored<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    what: &str,
) -> Result<T, ConsensusError> {
    v1::decode(bytes).map_err(|garbled| {
        ConsensusError::Engine(format!(
            "the stored {what} has {garbled} (move the log away, start the node again and run `evenkeel readmit` with its name)"
        ))
    })
}

impl<R: Runtime> Log<R> {
    /// The log that `image` holds.
    pub(crate) fn open(
        image: &Image,
        writer: Writer<R>,
        floors: Arc<dyn Floors>,
    ) -> Result<Self, ConsensusError> {
        let vote: Option<v1::Vote> = image
            .vote
            .as_deref()
            .map(|bytes| stored(bytes, "vote"))
            .transpose()?;
        let mark = |bytes: &Option<Vec<u8>>, what| -> Result<Option<LogId>, ConsensusError> {
            let id: Option<v1::LogId> = bytes
                .as_deref()
                .map(|bytes| stored(bytes, what))
                .transpose()?
                .flatten();
            Ok(id.map(Into::into))
        };
        let mut mirror = Mirror {
            oath: image.oath,
            vote: vote.map(Into::into),
            committed: mark(&image.committed, "mark of what is committed")?,
            purged: mark(&image.purged, "mark of what was purged")?,
            ..Mirror::default()
        };
        let mut next = mirror.purged.map(|id| id.index + 1);
        for (index, bytes) in &image.entries {
            let entry = Entry::from(stored::<v1::Entry>(bytes, &format!("entry {index}"))?);
            if entry.log_id.index != *index || next.is_some_and(|next| next != *index) {
                return Err(ConsensusError::Engine(format!(
                    "the stored log has a hole before entry {index} (move the log away, start the node again and run `evenkeel readmit` with its name)"
                )));
            }
            next = Some(index + 1);
            mirror.bytes += bytes_of(&entry);
            mirror.entries.insert(*index, entry);
        }
        Ok(Self {
            mirror: Arc::new(Mutex::new(mirror)),
            writer,
            floors,
        })
    }

    /// Whether an entry after `applied` carries `request`: then it may still be decided.
    pub(crate) fn awaits(&self, request: u128, applied: Option<u64>) -> bool {
        let mirror = lock(&self.mirror);
        let start = applied.map_or(0, |index| index + 1);
        mirror
            .entries
            .range(start..)
            .filter_map(|(_, entry)| payload_of(entry))
            .any(|proposal| proposal.request == request)
    }

    /// The last index.
    pub(crate) fn last_index(&self) -> Option<u64> {
        let mirror = lock(&self.mirror);
        mirror
            .entries
            .keys()
            .next_back()
            .copied()
            .or(mirror.purged.map(|id| id.index))
    }

    /// Whether the log has the entry of an epoch.
    pub(crate) fn has(&self, epoch: Epoch) -> bool {
        let mirror = lock(&self.mirror);
        let entry = mirror.entries.get(&epoch.index);
        entry.is_some_and(|entry| epoch_of(&entry.log_id) == epoch)
    }

    /// The newest vote, durable or about to be.
    pub(crate) fn vote(&self) -> Option<v1::Vote> {
        lock(&self.mirror).vote.as_ref().map(Into::into)
    }

    /// The durable oath under which this node votes; none if it never has, or the log was lost.
    pub(crate) fn oath(&self) -> Option<u64> {
        lock(&self.mirror).oath
    }

    /// Marks it as that of a node that votes, durably: before its first vote, so that a log
    /// without the mark was lost or never voted.
    pub(crate) async fn swear(&self, oath: u64) -> io::Result<()> {
        if self.oath() != Some(oath) {
            self.writer
                .write(vec![Write::Oath(oath)], Vec::new())
                .await?;
            lock(&self.mirror).oath = Some(oath);
        }
        Ok(())
    }

    /// The first index that is not purged.
    #[cfg(test)]
    pub(crate) fn first_index(&self) -> Option<u64> {
        lock(&self.mirror).entries.keys().next().copied()
    }

    /// The bytes of all payloads.
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.mirror).bytes
    }

    /// The members that the newest membership entry names, if the log has one.
    pub(crate) fn members(&self) -> Option<v1::Members> {
        let mirror = lock(&self.mirror);
        mirror
            .entries
            .values()
            .rev()
            .find_map(|entry| match &entry.payload {
                Payload::Membership(membership) => Some(v1::Members::of(membership)),
                Payload::Blank | Payload::Normal(_) => None,
            })
    }

    /// Writes the mark of what is committed, if it is stale: before a planned stop.
    pub(crate) async fn settle(&self) -> io::Result<()> {
        let mut writes = Vec::new();
        take_mark(&mut lock(&self.mirror), &mut writes);
        if writes.is_empty() {
            Ok(())
        } else {
            self.writer.write(writes, Vec::new()).await
        }
    }

    /// What storing `entries` writes and tells.
    fn append_writes(&self, mirror: &mut Mirror, entries: Vec<Entry>) -> (Vec<Write>, Vec<Event>) {
        let (mut writes, mut events) = (Vec::new(), Vec::new());
        take_mark(mirror, &mut writes);
        for entry in entries {
            let epoch = epoch_of(&entry.log_id);
            let bytes = v1::encode(&v1::Entry::from(&entry));
            writes.push(Write::Entry {
                index: epoch.index,
                entry: bytes,
            });
            if let Some(proposal) = payload_of(&entry) {
                for (group, assignment) in self.floors.floors(&proposal.payload) {
                    writes.push(Write::Floor(Floor {
                        group,
                        epoch,
                        assignment,
                    }));
                }
                events.push(Event::Appended {
                    epoch,
                    payload: proposal.payload.clone(),
                });
            }
            mirror.bytes += bytes_of(&entry);
            if let Some(former) = mirror.entries.insert(epoch.index, entry) {
                mirror.bytes -= bytes_of(&former);
            }
        }
        (writes, events)
    }
}

fn take_mark(mirror: &mut Mirror, writes: &mut Vec<Write>) {
    if core::mem::take(&mut mirror.mark_stale) {
        writes.push(Write::Committed(v1::encode(&v1::mark(
            mirror.committed.as_ref(),
        ))));
    }
}

impl<R: Runtime> RaftLogReader<Types<R>> for Log<R> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let bounds: (Bound<u64>, Bound<u64>) =
            (range.start_bound().cloned(), range.end_bound().cloned());
        if is_empty(bounds) {
            return Ok(Vec::new());
        }
        Ok(lock(&self.mirror)
            .entries
            .range(bounds)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(lock(&self.mirror).vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let mut left = APPEND_BYTES_MAX;
        let mut taken = Vec::new();
        for (_, entry) in lock(&self.mirror).entries.range(start..end) {
            let bytes = bytes_of(entry);
            if !taken.is_empty() && bytes > left {
                break;
            }
            left = left.saturating_sub(bytes);
            taken.push(entry.clone());
        }
        Ok(taken)
    }
}

/// A range that the map would refuse to be asked for.
fn is_empty((start, end): (Bound<u64>, Bound<u64>)) -> bool {
    let first = match start {
        Bound::Included(index) => Some(index),
        Bound::Excluded(index) => index.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let last = match end {
        Bound::Included(index) => Some(index),
        Bound::Excluded(index) => index.checked_sub(1),
        Bound::Unbounded => Some(u64::MAX),
    };
    !matches!((first, last), (Some(first), Some(last)) if first <= last)
}

impl<R: Runtime> RaftLogStorage<Types<R>> for Log<R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types<R>>> {
        let mirror = lock(&self.mirror);
        let last = mirror
            .entries
            .values()
            .next_back()
            .map(|entry| entry.log_id);
        Ok(LogState {
            last_purged_log_id: mirror.purged,
            last_log_id: last.or(mirror.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let mut writes = vec![Write::Vote(v1::encode(&v1::Vote::from(vote)))];
        take_mark(&mut lock(&self.mirror), &mut writes);
        // Readers may see the vote before it is durable: all they use it for is to stop sending
        // in a former leader's name. No answer goes out before this returns.
        lock(&self.mirror).vote = Some(*vote);
        self.writer.write(writes, Vec::new()).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut mirror = lock(&self.mirror);
        mirror.committed = committed;
        mirror.mark_stale = true;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(lock(&self.mirror).committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<R>>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let (writes, events) = self.append_writes(&mut lock(&self.mirror), entries);
        self.writer
            .order(Order {
                writes,
                events,
                done: Done::Entries(callback),
            })
            .await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let since = last.map_or(0, |id| id.index + 1);
        let mut writes = vec![Write::TruncateFrom(since)];
        {
            let mut mirror = lock(&self.mirror);
            let gone = mirror.entries.split_off(&since);
            mirror.bytes -= gone.values().map(bytes_of).sum::<usize>();
            take_mark(&mut mirror, &mut writes);
        }
        let events = vec![Event::Truncated { since }];
        self.writer
            .order(Order {
                writes,
                events,
                done: Done::Nobody,
            })
            .await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mark = v1::encode(&Some(v1::LogId::from(&upto)));
        let mut writes = vec![Write::PurgeTo {
            index: upto.index,
            mark,
        }];
        {
            let mut mirror = lock(&self.mirror);
            let kept = mirror.entries.split_off(&(upto.index + 1));
            let gone = core::mem::replace(&mut mirror.entries, kept);
            mirror.bytes -= gone.values().map(bytes_of).sum::<usize>();
            mirror.purged = mirror.purged.max(Some(upto));
            take_mark(&mut mirror, &mut writes);
        }
        self.writer
            .order(Order {
                writes,
                events: Vec::new(),
                done: Done::Nobody,
            })
            .await
    }
}
