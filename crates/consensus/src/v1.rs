//! Everything stored or sent, version 1: a version byte, then postcard.
//!
//! These are copies of the engine's types on purpose: an upgrade of the engine must not change
//! what is on disk or on the wire. New variants go last; a changed one becomes version 2 beside
//! this file, which stays for the version before.

use std::collections::BTreeSet;
use std::sync::Arc;

use evenkeel_core::names::{Epoch, GroupId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ports::Floor;
use crate::types;

/// The version that is written.
pub(crate) const VERSION: u8 = 1;

/// Why bytes are no value of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Garbled {
    #[error("a version {0} that is not known")]
    Version(u8),
    #[error("bytes that make no sense")]
    Content,
}

/// `value` as bytes.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION])
        .expect("writing to memory cannot fail and every type here has a length")
}

/// The value in `bytes`, all of them.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Garbled> {
    let (&version, rest) = bytes.split_first().ok_or(Garbled::Content)?;
    if version != VERSION {
        return Err(Garbled::Version(version));
    }
    let (value, left) = postcard::take_from_bytes(rest).map_err(|_| Garbled::Content)?;
    if left.is_empty() {
        Ok(value)
    } else {
        Err(Garbled::Content)
    }
}

/// A position in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LogId {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

impl From<&types::LogId> for LogId {
    fn from(id: &types::LogId) -> Self {
        Self {
            term: id.leader_id.term,
            index: id.index,
        }
    }
}

impl From<LogId> for types::LogId {
    fn from(id: LogId) -> Self {
        types::log_id(id.term, id.index)
    }
}

/// A mark: a position, or the start of the log.
pub(crate) fn mark(id: Option<&types::LogId>) -> Option<LogId> {
    id.map(LogId::from)
}

/// For whom this node voted last, and whether a majority did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vote {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) committed: bool,
}

impl From<&types::Vote> for Vote {
    fn from(vote: &types::Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            node: vote.leader_id.voted_for,
            committed: vote.committed,
        }
    }
}

impl From<Vote> for types::Vote {
    fn from(vote: Vote) -> Self {
        let mut made = types::Vote::new(vote.term, vote.node);
        made.committed = vote.committed;
        made
    }
}

/// Who votes, while that is not simply all: a generation that has one voter, or grows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    /// A majority of each of these is needed.
    pub(crate) configs: Vec<BTreeSet<u64>>,
    /// Who follows without a vote.
    pub(crate) learners: BTreeSet<u64>,
}

impl Members {
    pub(crate) fn of(membership: &types::Membership) -> Self {
        Self {
            configs: membership.get_joint_config().clone(),
            learners: membership.learner_ids().collect(),
        }
    }

    pub(crate) fn membership(self) -> types::Membership {
        types::Membership::new_with_defaults(self.configs, self.learners)
    }

    /// Everybody who is named, in whatever part.
    pub(crate) fn everybody(&self) -> BTreeSet<u64> {
        let voters = self.configs.iter().flatten();
        voters.chain(&self.learners).copied().collect()
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Body {
    Blank,
    Voters(BTreeSet<u64>),
    Proposal { request: u128, payload: Arc<[u8]> },
    Members(Members),
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: LogId,
    pub(crate) body: Body,
}

impl From<&types::Entry> for Entry {
    fn from(entry: &types::Entry) -> Self {
        let body = match &entry.payload {
            types::Payload::Blank => Body::Blank,
            types::Payload::Membership(membership) => {
                let Members { configs, learners } = Members::of(membership);
                match <[_; 1]>::try_from(configs) {
                    Ok([voters]) if learners.is_empty() => Body::Voters(voters),
                    Ok([voters]) => Body::Members(Members {
                        configs: vec![voters],
                        learners,
                    }),
                    Err(configs) => Body::Members(Members { configs, learners }),
                }
            }
            types::Payload::Normal(proposal) => Body::Proposal {
                request: proposal.request,
                payload: proposal.payload.clone(),
            },
        };
        Self {
            id: LogId::from(&entry.log_id),
            body,
        }
    }
}

impl From<Entry> for types::Entry {
    fn from(entry: Entry) -> Self {
        let payload = match entry.body {
            Body::Blank => types::Payload::Blank,
            Body::Voters(voters) => types::Payload::Membership(membership(voters)),
            Body::Members(members) => types::Payload::Membership(members.membership()),
            Body::Proposal { request, payload } => {
                types::Payload::Normal(types::Proposal { request, payload })
            }
        };
        Self {
            log_id: entry.id.into(),
            payload,
        }
    }
}

/// The engine's form of a set of voters.
pub(crate) fn membership(voters: BTreeSet<u64>) -> types::Membership {
    types::Membership::new_with_defaults(vec![voters], [])
}

/// A floor beside its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredFloor {
    pub(crate) epoch: LogId,
    pub(crate) assignment: Vec<u8>,
}

impl StoredFloor {
    pub(crate) fn of(floor: &Floor) -> Self {
        Self {
            epoch: LogId {
                term: floor.epoch.term,
                index: floor.epoch.index,
            },
            assignment: floor.assignment.clone(),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch {
            term: self.epoch.term,
            index: self.epoch.index,
        }
    }

    pub(crate) fn of_group(self, group: u64) -> Floor {
        Floor {
            group: GroupId(group),
            epoch: self.epoch(),
            assignment: self.assignment,
        }
    }
}

/// The whole applied state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) applied: Option<LogId>,
    /// Where the voters were written.
    pub(crate) voters_at: Option<LogId>,
    pub(crate) members: Members,
    /// The request ids applied last, oldest first, with the epochs at which they were.
    pub(crate) requests: Vec<(u128, LogId)>,
    /// The floors that the applied entries have raised.
    pub(crate) floors: Vec<(u64, StoredFloor)>,
    pub(crate) machine: Vec<u8>,
}

impl Snapshot {
    /// The engine's description of it.
    pub(crate) fn meta(&self) -> types::SnapshotMeta {
        types::SnapshotMeta {
            last_log_id: self.applied.map(Into::into),
            last_membership: self.membership(),
        }
    }

    pub(crate) fn membership(&self) -> types::StoredMembership {
        if self.voters_at.is_none() {
            return types::StoredMembership::default();
        }
        types::StoredMembership::new(
            self.voters_at.map(Into::into),
            self.members.clone().membership(),
        )
    }
}

/// A request and the generation in which it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked<R> {
    pub(crate) generation: u64,
    pub(crate) request: R,
}

/// What one engine asks another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    Vote {
        vote: Vote,
        last: Option<LogId>,
        transfer: bool,
    },
    WouldVote {
        vote: Vote,
        last: Option<LogId>,
    },
    Append {
        vote: Vote,
        after: Option<LogId>,
        entries: Vec<Entry>,
        committed: Option<LogId>,
    },
    Snapshot {
        vote: Vote,
        snapshot: Vec<u8>,
    },
    Transfer {
        from: Vote,
        to: u64,
        last: Option<LogId>,
    },
    Propose {
        request: u128,
        payload: Arc<[u8]>,
    },
    /// Would you take leadership now?
    Fit,
    /// In which term are you, and whose?
    Term,
}

impl Request {
    /// The node that the request says it comes from; none for what any node may ask.
    pub(crate) fn claimed(&self) -> Option<u64> {
        match self {
            Self::Vote { vote, .. }
            | Self::WouldVote { vote, .. }
            | Self::Append { vote, .. }
            | Self::Snapshot { vote, .. }
            | Self::Transfer { from: vote, .. } => Some(vote.node),
            Self::Propose { .. } | Self::Fit | Self::Term => None,
        }
    }
}

/// What one engine answers another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Vote {
        vote: Vote,
        granted: bool,
        last: Option<LogId>,
    },
    Append(Appended),
    Snapshot {
        vote: Vote,
    },
    Transfer {
        taken: bool,
    },
    Proposed(Proposed),
    Refused(Refusal),
    Fit(bool),
    Term(Standpoint),
}

/// In which term a node is, and what its word is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standpoint {
    pub(crate) vote: Option<Vote>,
    /// Its log bears no mark of a voter.
    pub(crate) lost: bool,
    /// Its log says that it decides alone.
    pub(crate) alone: bool,
}

/// How an append went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Appended {
    All,
    UpTo(Option<LogId>),
    Conflict,
    HigherVote(Vote),
}

/// How a forwarded proposal went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Proposed {
    Applied(LogId),
    NotLeading,
    Busy,
    TooBig,
    TimedOut,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// The bytes are no request of a version that is known.
    Unreadable,
    /// The sender is no voter, or the request says it comes from another.
    Stranger,
    /// The request names other voters than the configuration.
    OtherVoters,
    /// This node does not vote now.
    NotVoting,
    /// The engine has stopped.
    Stopped,
    /// The request is of another generation.
    OtherGeneration,
    /// This node's log was lost, and the leader may be an old one.
    Unsure,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes on disk and on the wire of a released version may never change.
    #[test]
    fn the_forms_are_stable() {
        let entry = Entry {
            id: LogId {
                term: 3,
                index: 300,
            },
            body: Body::Proposal {
                request: 5,
                payload: Arc::from(*b"ab"),
            },
        };
        assert_eq!(encode(&entry), [1, 3, 0xac, 2, 2, 5, 2, b'a', b'b']);
        let vote = Vote {
            term: 2,
            node: 1,
            committed: true,
        };
        assert_eq!(encode(&vote), [1, 2, 1, 1]);
        assert_eq!(
            encode(&Request::WouldVote { vote, last: None }),
            [1, 1, 2, 1, 1, 0]
        );
        assert_eq!(encode(&Reply::Refused(Refusal::NotVoting)), [1, 5, 3]);
        let asked = Asked {
            generation: 1,
            request: &Request::Fit,
        };
        assert_eq!(encode(&asked), [1, 1, 6]);
        let members = Body::Members(Members {
            configs: vec![[1].into()],
            learners: [2, 3].into(),
        });
        assert_eq!(encode(&members), [1, 3, 1, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(decode::<Vote>(&[]), Err(Garbled::Content));
        assert_eq!(decode::<Vote>(&[9, 2, 1, 1]), Err(Garbled::Version(9)));
        assert_eq!(decode::<Vote>(&[1, 2]), Err(Garbled::Content));
        assert_eq!(decode::<Vote>(&[1, 2, 1, 1, 0]), Err(Garbled::Content));
        // A length that promises more than there is must not be believed.
        assert_eq!(
            decode::<Request>(&[1, 3, 1, 1, 1, 0xff, 0xff, 0xff, 0x7f]),
            Err(Garbled::Content)
        );
    }

    #[test]
    fn entries_come_back_as_they_were() {
        for body in [
            Body::Blank,
            Body::Voters([1, 2, 3].into()),
            Body::Members(Members {
                configs: vec![[1].into(), [1, 2, 3].into()],
                learners: [4].into(),
            }),
            Body::Members(Members {
                configs: vec![[1].into()],
                learners: [2].into(),
            }),
            Body::Proposal {
                request: u128::MAX,
                payload: Arc::from(vec![0; 300]),
            },
        ] {
            let entry = Entry {
                id: LogId { term: 7, index: 8 },
                body,
            };
            let there = types::Entry::from(entry.clone());
            assert_eq!(Entry::from(&there), entry);
            assert_eq!(decode::<Entry>(&encode(&entry)), Ok(entry));
        }
    }
}
