//! The engine's types, once for real and once for virtual time.

use core::cmp::Ordering;
use core::fmt;
use core::marker::PhantomData;
use std::sync::Arc;

use evenkeel_core::names::Epoch;
use openraft::impls::leader_id_std;
use openraft::vote::RaftLeaderId;
use openraft::{EmptyNode, RaftTypeConfig};
use serde::{Deserialize, Serialize};

use crate::runtime::Runtime;

/// The choice of types for runtime `R`.
pub(crate) struct Types<R>(PhantomData<fn() -> R>);

// Written by hand because deriving would ask the same of `R`, which is never a value.
impl<R> fmt::Debug for Types<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}
impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Types<R> {}
impl<R> Default for Types<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<R> PartialEq for Types<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<R> Eq for Types<R> {}
impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<R> Ord for Types<R> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl<R: Runtime> RaftTypeConfig for Types<R> {
    type D = Proposal;
    type R = Answer;
    type NodeId = u64;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::Vote<LeaderId>;
    type Payload = openraft::EntryPayload<Proposal, u64, EmptyNode>;
    type Entry = Entry;
    type AsyncRuntime = R::Async;
    type Responder<T>
        = openraft::impls::ProgressResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// One leader per term: simple to explain and to print.
pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type Committed = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<Committed>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = openraft::EntryPayload<Proposal, u64, EmptyNode>;
pub(crate) type Entry = openraft::Entry<Committed, Payload>;
pub(crate) type Membership = openraft::Membership<u64, EmptyNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<Committed, u64, EmptyNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<Committed, u64, EmptyNode>;
pub(crate) type Snapshot = openraft::Snapshot<Committed, u64, EmptyNode, Arc<[u8]>>;

/// What a proposer wants in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    /// Makes repeats harmless.
    pub(crate) request: u128,
    pub(crate) payload: Arc<[u8]>,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x} ({} bytes)", self.request, self.payload.len())
    }
}

/// What applying an entry answers: the epoch at which its request was first applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

impl From<Epoch> for Answer {
    fn from(epoch: Epoch) -> Self {
        Self {
            term: epoch.term,
            index: epoch.index,
        }
    }
}

impl From<Answer> for Epoch {
    fn from(answer: Answer) -> Self {
        Self {
            term: answer.term,
            index: answer.index,
        }
    }
}

/// The epoch of a log position (DESIGN 3.1 rule 1).
pub(crate) fn epoch_of(id: &LogId) -> Epoch {
    Epoch {
        term: id.leader_id.term,
        index: id.index,
    }
}

/// The log position of an epoch.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, voted_for: 0 }.to_committed(), index)
}
