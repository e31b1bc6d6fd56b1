//! Whom a node follows whose log does not bear the mark of a voter.
//!
//! It takes entries without a vote of its own, but what it acknowledges counts towards a majority.
//! If its log was lost, it may have helped to elect a later leader than the one that it hears now,
//! and to decide what that one never saw: together with a leader that was left behind it would
//! decide something else in the same places. So it follows a leader only when so many others are
//! in that leader's term, the leader among them, that each majority with this node has one of them
//! ([`witnesses`]): whoever was elected later with its forgotten vote had one of them, who would be
//! in the later term. One that has lost its log as well proves nothing.
//!
//! Or when that leader's own log says that it decides alone (after `recover`): nobody else has
//! voted in that generation then, and what this node acknowledges is not counted.
//!
//! Once is enough: a loss lies before the first entry that is taken, and terms only grow.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use evenkeel_core::names::NodeId;
use evenkeel_core::quorum::witnesses;

use super::Inner;
use crate::runtime::Runtime;
use crate::v1::{Reply, Request, Standpoint, Vote};

impl<R: Runtime> Inner<R> {
    /// Whether this node takes entries from the leader that `vote` names.
    pub(crate) async fn follows(&self, vote: &Vote) -> bool {
        if self.remembers() || vote.term >= self.trusted_from.load(Ordering::Relaxed) {
            return true;
        }
        let mut agree = 0;
        let mut alone = false;
        for other in &self.voters {
            if *other == self.me.0 {
                continue;
            }
            let ttl = self.timing.election_min;
            if let Ok(Reply::Term(said)) = self.ask(NodeId(*other), &Request::Term, ttl).await {
                let named = said.vote.map(|theirs| (theirs.term, theirs.node));
                let agrees = !said.lost && named == Some((vote.term, vote.node));
                agree += usize::from(agrees);
                alone |= agrees && said.alone && *other == vote.node;
            }
        }
        let follows = alone || agree >= witnesses(self.voters.len());
        if follows {
            self.trusted_from.store(vote.term, Ordering::Relaxed);
        } else {
            tracing::debug!(
                term = vote.term,
                agree,
                "a leader is not followed: this log was lost, and it may be an old one"
            );
        }
        follows
    }

    /// What this node says to another that asks whom to follow.
    pub(crate) fn term(&self) -> Reply {
        let members = self.members().configs;
        let me = BTreeSet::from([self.me.0]);
        Reply::Term(Standpoint {
            vote: self.log.vote(),
            lost: !self.remembers(),
            alone: members == [me],
        })
    }
}
