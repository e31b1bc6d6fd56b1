//! Doors for `crates/fuzz`, and for nobody else: the stored and sent forms, which are private. Each
//! reads with the one reader that there is, and writes what it has read.
//!
//! Not behind a feature: see the module of the same name in `transport`.

use evenkeel_core::names::NodeId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::v1;

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
    v1::decode::<T>(bytes).ok().map(|value| v1::encode(&value))
}

/// Writes what it has read, if it could.
pub type Again = fn(&[u8]) -> Option<Vec<u8>>;

/// Every form by its name, as [`again`] does it: what is written of what was read, if anything was.
pub const FORMS: &[(&str, Again)] = &[
    ("request", again::<v1::Asked<v1::Request>>),
    ("reply", again::<v1::Reply>),
    ("entry", again::<v1::Entry>),
    ("vote", again::<v1::Vote>),
    ("mark", again::<Option<v1::LogId>>),
    ("floor", again::<v1::StoredFloor>),
    ("snapshot", again::<v1::Snapshot>),
];

/// Real values: requests, replies and stored forms, each with the number of its form in [`FORMS`].
pub fn examples(
    peer: NodeId,
    voters: &[NodeId],
    payload: &[u8],
    machine: &[u8],
) -> Vec<(usize, Vec<u8>)> {
    use v1::{Appended, Asked, Body, Entry, LogId, Proposed, Refusal, Reply, Request};
    let vote = v1::Vote {
        term: 2,
        node: peer.0,
        committed: true,
    };
    let id = |index| LogId { term: 2, index };
    let all = voters.iter().map(|node| node.0).collect();
    let members = v1::Members {
        configs: vec![voters.iter().map(|node| node.0).collect()],
        learners: [].into(),
    };
    let proposal = |request| Body::Proposal {
        request,
        payload: payload.into(),
    };
    let entry = |index, body| Entry {
        id: id(index),
        body,
    };
    let floor = v1::StoredFloor {
        epoch: id(2),
        assignment: payload.to_vec(),
    };
    let snapshot = v1::Snapshot {
        applied: Some(id(3)),
        voters_at: Some(LogId { term: 0, index: 0 }),
        members: members.clone(),
        requests: vec![(7, id(2)), (8, id(3))],
        floors: vec![(9, floor.clone())],
        machine: machine.to_vec(),
    };
    let requests = [
        Request::Vote {
            vote: v1::Vote {
                committed: false,
                ..vote
            },
            last: Some(id(1)),
            transfer: false,
        },
        Request::WouldVote { vote, last: None },
        Request::Append {
            vote,
            after: None,
            entries: vec![
                entry(0, Body::Voters(all)),
                entry(1, proposal(1)),
                entry(2, Body::Blank),
            ],
            committed: Some(id(1)),
        },
        Request::Append {
            vote,
            after: Some(id(2)),
            entries: vec![entry(3, proposal(3)), entry(4, Body::Members(members))],
            committed: Some(id(3)),
        },
        Request::Snapshot {
            vote,
            snapshot: v1::encode(&snapshot),
        },
        Request::Transfer {
            from: vote,
            to: peer.0,
            last: None,
        },
        Request::Propose {
            request: 5,
            payload: payload.into(),
        },
        Request::Fit,
        Request::Term,
    ];
    let replies = [
        Reply::Vote {
            vote,
            granted: true,
            last: Some(id(4)),
        },
        Reply::Append(Appended::UpTo(Some(id(2)))),
        Reply::Append(Appended::HigherVote(vote)),
        Reply::Proposed(Proposed::Applied(id(4))),
        Reply::Refused(Refusal::Unsure),
    ];
    let asked = requests.into_iter().map(|request| Asked {
        generation: 0,
        request,
    });
    let mut examples: Vec<(usize, Vec<u8>)> = asked.map(|asked| (0, v1::encode(&asked))).collect();
    examples.extend(replies.iter().map(|reply| (1, v1::encode(reply))));
    examples.extend([
        (2, v1::encode(&entry(4, proposal(4)))),
        (3, v1::encode(&vote)),
        (4, v1::encode(&Some(id(4)))),
        (5, v1::encode(&floor)),
        (6, v1::encode(&snapshot)),
    ]);
    examples
}
