//! What peers ask of this node.

use std::sync::atomic::Ordering;

use evenkeel_core::names::NodeId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use super::{Engine, fits};
use crate::runtime::{Runtime, unbroken};
use crate::settings::{MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::types::{Snapshot, Types, Vote};
use crate::v1::{self, Appended, Body, Proposed, Refusal, Reply, Request};

impl<R: Runtime> Engine<R> {
    /// Answers a request that peer `from` has sent through [`Network`](crate::Network). `from`
    /// must be who the transport has proven it to be; any bytes are safe.
    pub async fn handle(&self, from: NodeId, request: Vec<u8>) -> Vec<u8> {
        let reply = match self.admit(from, &request) {
            Ok(request) => {
                let engine = self.clone();
                let answer = unbroken::<R, _>(async move { engine.answer(request).await }).await;
                let answer = answer.unwrap_or(Err(Refusal::Stopped));
                answer.unwrap_or_else(Reply::Refused)
            }
            Err(refusal) => {
                tracing::debug!(?from, ?refusal, "refused a peer's request");
                Reply::Refused(refusal)
            }
        };
        v1::encode(&reply)
    }

    /// Lets a request in that may be answered.
    fn admit(&self, from: NodeId, bytes: &[u8]) -> Result<Request, Refusal> {
        let inner = &self.inner;
        if inner.stopping.load(Ordering::Relaxed) {
            return Err(Refusal::Stopped);
        }
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Refusal::Unreadable);
        }
        if from == inner.me || !inner.voters.contains(&from.0) {
            return Err(Refusal::Stranger);
        }
        let v1::Asked {
            generation,
            request,
        }: v1::Asked<Request> = v1::decode(bytes).map_err(|_| Refusal::Unreadable)?;
        if generation != inner.generation {
            return Err(Refusal::OtherGeneration);
        }
        if request.claimed().is_some_and(|claimed| claimed != from.0) {
            return Err(Refusal::Stranger);
        }
        if self.names_other_voters(&request)? {
            tracing::error!(
                ?from,
                "a peer's log names other voters than this node's configuration"
            );
            return Err(Refusal::OtherVoters);
        }
        if self.asks_for_leadership(&request) {
            return Err(Refusal::NotVoting);
        }
        Ok(request)
    }

    fn names_other_voters(&self, request: &Request) -> Result<bool, Refusal> {
        let (voters, generation) = (&self.inner.voters, self.inner.generation);
        Ok(match request {
            Request::Append { entries, .. } => entries.iter().any(|entry| match &entry.body {
                Body::Voters(named) => named != voters,
                Body::Members(members) => !fits(members, generation, voters),
                Body::Blank | Body::Proposal { .. } => false,
            }),
            Request::Snapshot { snapshot, .. } => {
                let snapshot: v1::Snapshot =
                    v1::decode(snapshot).map_err(|_| Refusal::Unreadable)?;
                snapshot.voters_at.is_some() && !fits(&snapshot.members, generation, voters)
            }
            Request::Vote { .. }
            | Request::WouldVote { .. }
            | Request::Transfer { .. }
            | Request::Propose { .. }
            | Request::Fit
            | Request::Term => false,
        })
    }

    /// Whether the request asks for a vote that this node does not cast now, or hands it
    /// leadership that it does not take now.
    fn asks_for_leadership(&self, request: &Request) -> bool {
        let inner = &self.inner;
        match request {
            Request::Vote { .. } | Request::WouldVote { .. } => {
                !inner.voting.load(Ordering::Relaxed)
            }
            Request::Transfer { to, .. } => *to == inner.me.0 && !inner.fit(),
            Request::Append { .. }
            | Request::Snapshot { .. }
            | Request::Propose { .. }
            | Request::Fit
            | Request::Term => false,
        }
    }

    async fn answer(&self, request: Request) -> Result<Reply, Refusal> {
        let raft = &self.inner.raft;
        if let Request::Append { vote, .. } | Request::Snapshot { vote, .. } = &request
            && !self.inner.follows(vote).await
        {
            return Err(Refusal::Unsure);
        }
        match request {
            Request::Vote {
                vote,
                last,
                transfer,
            } => {
                let mut ballot = VoteRequest::new(vote.into(), last.map(Into::into));
                ballot.leadership_transfer = transfer;
                raft.vote(ballot)
                    .await
                    .map(ballot_reply)
                    .map_err(|_| Refusal::Stopped)
            }
            Request::WouldVote { vote, last } => {
                let ballot = VoteRequest::new(vote.into(), last.map(Into::into));
                raft.pre_vote(ballot)
                    .await
                    .map(ballot_reply)
                    .map_err(|_| Refusal::Stopped)
            }
            Request::Fit => Ok(Reply::Fit(self.inner.fit())),
            Request::Term => Ok(self.inner.term()),
            Request::Append {
                vote,
                after,
                entries,
                committed,
            } => {
                let append = AppendEntriesRequest {
                    vote: vote.into(),
                    prev_log_id: after.map(Into::into),
                    entries: entries.into_iter().map(Into::into).collect(),
                    leader_commit: committed.map(Into::into),
                };
                let appended = raft
                    .append_entries(append)
                    .await
                    .map_err(|_| Refusal::Stopped)?;
                let appended = append_reply(&appended);
                if !matches!(appended, Appended::HigherVote(_)) {
                    self.inner.heard.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Reply::Append(appended))
            }
            Request::Snapshot { vote, snapshot } => self.take_snapshot(vote, snapshot).await,
            Request::Transfer { from, to, last } => {
                let handed = TransferLeaderRequest::new(Vote::from(from), to, last.map(Into::into));
                let taken = raft
                    .handle_transfer_leader(handed)
                    .await
                    .map_err(|_| Refusal::Stopped)?;
                Ok(Reply::Transfer {
                    taken: taken.is_ok(),
                })
            }
            Request::Propose { request, payload } => {
                if payload.len() > PAYLOAD_BYTES_MAX {
                    return Ok(Reply::Proposed(Proposed::TooBig));
                }
                let leading = self.leader() == Some(self.inner.me);
                let proposed = match leading {
                    // The asker waits no longer than this either.
                    true => {
                        self.enter(request, payload, self.inner.timing.election_max)
                            .await
                    }
                    false => Ok(Proposed::NotLeading),
                };
                proposed.map(Reply::Proposed).map_err(|_| Refusal::Stopped)
            }
        }
    }

    async fn take_snapshot(&self, vote: v1::Vote, bytes: Vec<u8>) -> Result<Reply, Refusal> {
        let decoded: v1::Snapshot = v1::decode(&bytes).map_err(|_| Refusal::Unreadable)?;
        if let Err(why) = self.inner.floors.reads(&decoded.machine) {
            tracing::error!(%why, "cannot read the snapshot of the leader: of a newer version?");
            return Err(Refusal::Unreadable);
        }
        let snapshot = Snapshot {
            meta: decoded.meta(),
            snapshot: bytes.into(),
        };
        let taken = self
            .inner
            .raft
            .install_full_snapshot(vote.into(), snapshot)
            .await;
        let taken = taken.map_err(|_| Refusal::Stopped)?;
        Ok(Reply::Snapshot {
            vote: (&taken.vote).into(),
        })
    }
}

fn ballot_reply<R: Runtime>(ballot: VoteResponse<Types<R>>) -> Reply {
    Reply::Vote {
        vote: (&ballot.vote).into(),
        granted: ballot.vote_granted,
        last: v1::mark(ballot.last_log_id.as_ref()),
    }
}

fn append_reply<R: Runtime>(appended: &AppendEntriesResponse<Types<R>>) -> Appended {
    match appended {
        AppendEntriesResponse::Success => Appended::All,
        AppendEntriesResponse::PartialSuccess(id) => Appended::UpTo(v1::mark(id.as_ref())),
        AppendEntriesResponse::Conflict => Appended::Conflict,
        AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote(vote.into()),
    }
}
