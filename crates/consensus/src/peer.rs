//! The engine's way to one peer: its calls as our requests, the replies as its answers.

use core::future::Future;
use core::time::Duration;
use std::sync::Arc;

use evenkeel_core::names::NodeId;
use openraft::errors::{
    NetworkError as Fault, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{
    AsyncRuntime, EmptyNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
};

use crate::error::NetworkError;
use crate::ports::Network;
use crate::runtime::Runtime;
use crate::types::{Snapshot, Types, Vote};
use crate::v1::{self, Reply, Request};

/// Sends one request and reads its reply, within `ttl`.
pub(crate) async fn ask<R: Runtime>(
    network: &dyn Network,
    to: NodeId,
    generation: u64,
    request: &Request,
    ttl: Duration,
) -> Result<Reply, NetworkError> {
    let asked = v1::encode(&v1::Asked {
        generation,
        request,
    });
    let sent = network.request(to, asked, ttl);
    let bytes = <R::Async as AsyncRuntime>::timeout(ttl, sent)
        .await
        .map_err(|_| NetworkError::TimedOut)??;
    v1::decode(&bytes)
        .map_err(|garbled| NetworkError::Unreachable(format!("a reply with {garbled}")))
}

/// Makes the ways to the peers.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) me: NodeId,
    pub(crate) generation: u64,
    pub(crate) network: Arc<dyn Network>,
    /// How long an append with entries may take. Longer than the engine's own patience, which is
    /// less than a heartbeat and would send again and again to a follower whose disk needs longer.
    pub(crate) append_ttl: Duration,
}

impl<R: Runtime> RaftNetworkFactory<Types<R>> for Peers {
    type Network = Peer<R>;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Peer<R> {
        Peer {
            me: self.me,
            to: NodeId(target),
            generation: self.generation,
            network: self.network.clone(),
            append_ttl: self.append_ttl,
            runtime: core::marker::PhantomData,
        }
    }
}

/// The way to one peer.
pub(crate) struct Peer<R> {
    me: NodeId,
    to: NodeId,
    generation: u64,
    network: Arc<dyn Network>,
    append_ttl: Duration,
    runtime: core::marker::PhantomData<fn() -> R>,
}

impl<R: Runtime> Peer<R> {
    async fn call(
        &self,
        request: Request,
        action: RPCTypes,
        ttl: Duration,
    ) -> Result<Reply, RPCError<Types<R>>> {
        ask::<R>(&*self.network, self.to, self.generation, &request, ttl)
            .await
            .map_err(|error| match error {
                NetworkError::TimedOut => RPCError::Timeout(Timeout {
                    action,
                    id: self.me.0,
                    target: self.to.0,
                    timeout: ttl,
                }),
                NetworkError::Unreachable(_) => RPCError::Unreachable(Unreachable::new(&error)),
            })
    }

    async fn ballot(
        &self,
        request: Request,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        match self
            .call(request, RPCTypes::Vote, option.soft_ttl())
            .await?
        {
            Reply::Vote {
                vote,
                granted,
                last,
            } => Ok(VoteResponse::new(
                Vote::from(vote),
                last.map(Into::into),
                granted,
            )),
            other => Err(odd(&other).into()),
        }
    }
}

/// The error for a reply that does not fit its request, or a refusal. Never counted as a grant.
fn odd<R: Runtime>(reply: &Reply) -> Fault<Types<R>> {
    Fault::from_string(match reply {
        Reply::Refused(why) => format!("refused: {why:?}"),
        other => format!("an unfitting reply: {other:?}"),
    })
}

impl<R: Runtime> RaftNetworkV2<Types<R>> for Peer<R> {
    type SnapshotData = Arc<[u8]>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        let request = Request::Append {
            vote: (&rpc.vote).into(),
            after: v1::mark(rpc.prev_log_id.as_ref()),
            entries: rpc.entries.iter().map(Into::into).collect(),
            committed: v1::mark(rpc.leader_commit.as_ref()),
        };
        let ttl = match rpc.entries.is_empty() {
            true => option.soft_ttl(),
            false => option.soft_ttl().max(self.append_ttl),
        };
        match self.call(request, RPCTypes::AppendEntries, ttl).await? {
            Reply::Append(appended) => Ok(match appended {
                v1::Appended::All => AppendEntriesResponse::Success,
                v1::Appended::UpTo(id) => AppendEntriesResponse::PartialSuccess(id.map(Into::into)),
                v1::Appended::Conflict => AppendEntriesResponse::Conflict,
                v1::Appended::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
            }),
            other => Err(odd(&other).into()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let request = Request::Vote {
            vote: (&rpc.vote).into(),
            last: v1::mark(rpc.last_log_id.as_ref()),
            transfer: rpc.leadership_transfer,
        };
        self.ballot(request, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let request = Request::WouldVote {
            vote: (&rpc.vote).into(),
            last: v1::mark(rpc.last_log_id.as_ref()),
        };
        self.ballot(request, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        let request = Request::Snapshot {
            vote: (&vote).into(),
            snapshot: snapshot.snapshot.to_vec(),
        };
        let sent = self.call(request, RPCTypes::InstallSnapshot, option.soft_ttl());
        match <R::Async as AsyncRuntime>::select2(cancel, sent).await {
            openraft::async_runtime::Select2::First(closed) => Err(closed.into()),
            openraft::async_runtime::Select2::Second(reply) => match reply? {
                Reply::Snapshot { vote } => Ok(SnapshotResponse::new(vote.into())),
                other => Err(StreamingError::Network(odd(&other))),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, RPCError<Types<R>>> {
        let from = *request.from_leader();
        let last = request.last_log_id().copied();
        let request = Request::Transfer {
            from: (&from).into(),
            to: *request.to_node_id(),
            last: v1::mark(last.as_ref()),
        };
        match self
            .call(request, RPCTypes::TransferLeader, option.soft_ttl())
            .await?
        {
            Reply::Transfer { taken: true } => Ok(Ok(())),
            Reply::Transfer { taken: false } => Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: last,
                actual: None,
            })),
            other => Err(odd(&other).into()),
        }
    }
}
