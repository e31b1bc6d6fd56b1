//! Getting an entry decided, from any node, once.

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use evenkeel_core::names::{Epoch, NodeId};
use openraft::alias::InstantOf;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{AsyncRuntime, Instant as _};

use super::Engine;
use crate::error::ProposeError;
use crate::runtime::Runtime;
use crate::settings::{PAYLOAD_BYTES_MAX, UNCOMMITTED_MAX};
use crate::state::Turn;
use crate::types::{Proposal, Types};
use crate::v1::{self, Proposed, Reply, Request};

/// How long to wait before a proposal looks for the leader again.
const PROPOSE_PAUSE: Duration = Duration::from_millis(20);

impl<R: Runtime> Engine<R> {
    /// Gets `payload` decided and applied, and answers its epoch. From any node; it is forwarded
    /// to the leader. The same `request` proposed again, anywhere, is applied once and answers the
    /// same epoch, as long as it is among the [`REQUESTS_REMEMBERED`] applied last.
    ///
    /// When this returns, the entry is applied on the leader; on this node its
    /// [`Event::Committed`](crate::Event::Committed) may still be on the way.
    ///
    /// [`REQUESTS_REMEMBERED`]: crate::REQUESTS_REMEMBERED
    pub async fn propose(&self, request: u128, payload: Vec<u8>) -> Result<Epoch, ProposeError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(ProposeError::TooBig {
                found: payload.len(),
                bound: PAYLOAD_BYTES_MAX,
            });
        }
        let payload: Arc<[u8]> = payload.into();
        let timing = self.inner.timing;
        let deadline = InstantOf::<Types<R>>::now() + timing.propose_within;
        let mut led = false;
        loop {
            let now = InstantOf::<Types<R>>::now();
            if now >= deadline {
                return Err(match led {
                    true => ProposeError::TimedOut(timing.propose_within),
                    false => ProposeError::NoLeader(timing.propose_within),
                });
            }
            // A leader that does not answer for this long may no longer be one.
            let ttl = (deadline - now).min(timing.election_max);
            let leader = self.leader();
            led |= leader.is_some();
            match self.try_propose(leader, request, &payload, ttl).await? {
                Some(epoch) => return Ok(epoch),
                None => R::Async::sleep(PROPOSE_PAUSE).await,
            }
        }
    }

    /// One attempt; nothing when there should be another.
    async fn try_propose(
        &self,
        leader: Option<NodeId>,
        request: u128,
        payload: &Arc<[u8]>,
        ttl: Duration,
    ) -> Result<Option<Epoch>, ProposeError> {
        if self.inner.stopping.load(Ordering::Relaxed) {
            return Err(ProposeError::Stopped);
        }
        let proposed = match leader {
            None => return Ok(None),
            Some(leader) if leader == self.inner.me => {
                self.enter(request, payload.clone(), ttl).await?
            }
            Some(leader) => {
                let wanted = Request::Propose {
                    request,
                    payload: payload.clone(),
                };
                match self.inner.ask(leader, &wanted, ttl).await {
                    Ok(Reply::Proposed(proposed)) => proposed,
                    Ok(_) | Err(_) => return Ok(None),
                }
            }
        };
        match proposed {
            Proposed::Applied(id) => Ok(Some(Epoch {
                term: id.term,
                index: id.index,
            })),
            Proposed::NotLeading | Proposed::TimedOut => Ok(None),
            Proposed::Busy => Err(ProposeError::Busy),
            Proposed::TooBig => Err(ProposeError::TooBig {
                found: payload.len(),
                bound: PAYLOAD_BYTES_MAX,
            }),
        }
    }

    /// Puts a request into the log of this node, which leads, and waits until it is applied.
    pub(super) async fn enter(
        &self,
        request: u128,
        payload: Arc<[u8]>,
        ttl: Duration,
    ) -> Result<Proposed, ProposeError> {
        let inner = &self.inner;
        let applied = |epoch: Epoch| {
            Proposed::Applied(v1::LogId {
                term: epoch.term,
                index: epoch.index,
            })
        };
        let entering = match inner
            .desk
            .turn(request, |after| inner.log.awaits(request, after))
        {
            Turn::Applied(epoch) => return Ok(applied(epoch)),
            Turn::Wait(waiting) => {
                let waited = <R::Async as AsyncRuntime>::timeout(ttl, waiting).await;
                return Ok(match waited {
                    Ok(Ok(epoch)) => applied(epoch),
                    Ok(Err(_)) | Err(_) => Proposed::TimedOut,
                });
            }
            Turn::Enter(entering) => entering,
        };
        let applied_index = inner.desk.applied().unwrap_or_default().index;
        if inner.log.last_index() > Some(applied_index + UNCOMMITTED_MAX) {
            return Ok(Proposed::Busy);
        }
        let written = inner.raft.client_write(Proposal { request, payload });
        let outcome = <R::Async as AsyncRuntime>::timeout(ttl, written).await;
        drop(entering);
        match outcome {
            Ok(Ok(response)) => Ok(applied(response.data.into())),
            Ok(Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_),
            ))) => Ok(Proposed::NotLeading),
            Ok(Err(RaftError::APIError(_))) => Ok(Proposed::NotLeading),
            Ok(Err(RaftError::Fatal(_))) => Err(ProposeError::Stopped),
            Err(_) => Ok(Proposed::TimedOut),
        }
    }
}
