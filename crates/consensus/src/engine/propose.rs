//! Getting an entry decided, from any node, once.

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use evenkeel_core::names::{Epoch, NodeId};
use openraft::alias::InstantOf;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::{AsyncRuntime, Instant as _};

use super::Engine;
use crate::error::ProposeError;
use crate::runtime::{Runtime, unbroken};
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

    /// Gets `payload` decided and applied if this node leads, in this term, and answers its epoch:
    /// for what follows from what a leader knew in its term. It is neither forwarded nor tried
    /// again, so nothing of it can come after what another leader has decided. Waits for as long as
    /// this node leads in the term: until then it may take effect.
    pub async fn propose_in(
        &self,
        term: u64,
        request: u128,
        payload: Vec<u8>,
    ) -> Result<Epoch, ProposeError> {
        let inner = &self.inner;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(ProposeError::TooBig {
                found: payload.len(),
                bound: PAYLOAD_BYTES_MAX,
            });
        }
        if inner.stopping.load(Ordering::Relaxed) {
            return Err(ProposeError::Stopped);
        }
        if self.is_busy() {
            return Err(ProposeError::Busy);
        }
        let payload = payload.into();
        let (responder, mut answer) = ProgressResponder::complete_only();
        let raft = inner.raft.clone();
        let write = async move {
            let write = raft.write(Proposal { request, payload });
            write.with_leader(term).responder(responder).await.is_ok()
        };
        let written = unbroken::<R, _>(write).await;
        written.filter(|ok| *ok).ok_or(ProposeError::Stopped)?;
        loop {
            let looked =
                <R::Async as AsyncRuntime>::timeout(inner.timing.election_max, &mut answer);
            match looked.await {
                Ok(Ok(Ok(response))) => return Ok(response.data.into()),
                Ok(Ok(Err(_))) => return Err(ProposeError::NotLeading),
                Ok(Err(_)) => return Err(ProposeError::Stopped),
                Err(_) if self.leads_in(term) => {}
                Err(_) => return Err(ProposeError::NotLeading),
            }
        }
    }

    fn leads_in(&self, term: u64) -> bool {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.current_leader, metrics.vote.leader_id.term) == (Some(self.inner.me.0), term)
    }

    /// Whether too many entries wait for a majority.
    fn is_busy(&self) -> bool {
        let applied = self.inner.desk.applied().unwrap_or_default().index;
        self.inner.log.last_index() > Some(applied + UNCOMMITTED_MAX)
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
        if self.is_busy() {
            return Ok(Proposed::Busy);
        }
        let raft = inner.raft.clone();
        let write = async move { raft.client_write(Proposal { request, payload }).await };
        let outcome = <R::Async as AsyncRuntime>::timeout(ttl, unbroken::<R, _>(write)).await;
        drop(entering);
        let Ok(outcome) = outcome else {
            return Ok(Proposed::TimedOut);
        };
        match outcome.ok_or(ProposeError::Stopped)? {
            Ok(response) => Ok(applied(response.data.into())),
            Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_),
            )) => Ok(Proposed::NotLeading),
            Err(RaftError::APIError(_)) => Ok(Proposed::NotLeading),
            Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
        }
    }
}
