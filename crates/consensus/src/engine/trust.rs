//! Whom a node follows whose log does not bear the mark of a voter.
//!
//! It takes entries without a vote of its own, but what it acknowledges counts towards a majority.
//! If its log was lost, it may have helped to elect a later leader than the one that it hears now,
//! and to decide what that one never saw: together with a leader that was left behind it would
//! decide something else in the same places. So it follows a leader only when so many others as
//! make a majority, the leader among them, are in that leader's term. Whoever was elected later
//! with its forgotten vote had one of them, who would be in the later term. Others whose logs were
//! lost as well know nothing and stand in nobody's way.
//!
//! Once is enough: a loss lies before the first entry that is taken, and terms only grow.

use std::sync::atomic::Ordering;

use evenkeel_core::names::NodeId;
use evenkeel_core::quorum::majority;

use super::Inner;
use crate::runtime::Runtime;
use crate::v1::{Reply, Request, Vote};

impl<R: Runtime> Inner<R> {
    /// Whether this node takes entries from the leader that `vote` names.
    pub(crate) async fn follows(&self, vote: &Vote) -> bool {
        if self.log.remembers() || vote.term >= self.trusted_from.load(Ordering::Relaxed) {
            return true;
        }
        let mut agree = 1;
        for other in &self.voters {
            if *other == self.me.0 || *other == vote.node {
                continue;
            }
            let ttl = self.timing.election_min;
            let answer = self.ask(NodeId(*other), &Request::Term, ttl).await;
            agree += usize::from(match answer {
                Ok(Reply::Term { vote: theirs, lost }) => {
                    let named = theirs.map(|theirs| (theirs.term, theirs.node));
                    lost || named == Some((vote.term, vote.node))
                }
                Ok(_) | Err(_) => false,
            });
        }
        let follows = agree >= majority(self.voters.len());
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
        Reply::Term {
            vote: self.log.vote(),
            lost: !self.log.remembers(),
        }
    }
}
