//! Who votes: all of the configuration, or, after `recover`, one node alone until it has made the
//! cluster whole again.

use core::time::Duration;
use std::collections::BTreeSet;

use evenkeel_core::names::NodeId;
use openraft::{AsyncRuntime, ChangeMembers};

use super::Engine;
use crate::error::WholeError;
use crate::runtime::{Runtime, unbroken};

/// How long the others may take to agree that they vote again: two entries, each of which must
/// reach a majority of all. Until then nothing else is decided.
const WHOLE_WITHIN: Duration = Duration::from_secs(10);

/// Who votes, as far as this node's log tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// The log is empty: not known.
    Unknown,
    /// One node alone: it decides without asking, the others follow without a vote.
    Alone(NodeId),
    /// All of the configuration, and the one that was alone: it is being agreed on.
    Growing(NodeId),
    /// All of the configuration.
    All,
}

impl<R: Runtime> Engine<R> {
    /// The log's generation: greater after each recovery (see [`recover`](crate::recover)).
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// Who votes now. Taken from the newest entry in this node's log, decided or not.
    pub fn members(&self) -> Members {
        let configs = self.inner.members().configs;
        match configs.as_slice() {
            [] => Members::Unknown,
            [one] if one == &self.inner.voters => Members::All,
            [former, ..] => {
                let one = former.first().copied().map(NodeId);
                let is = match configs.len() {
                    1 => Members::Alone,
                    _ => Members::Growing,
                };
                one.map_or(Members::Unknown, is)
            }
        }
    }

    /// Makes all nodes of the configuration voters again. For the node that is alone, once the
    /// others have its log: from the moment this is called until [`Engine::members`] says
    /// otherwise again, the others may become able to decide without this node.
    pub async fn make_whole(&self) -> Result<(), WholeError> {
        let all: BTreeSet<u64> = self.inner.voters.clone();
        let change = ChangeMembers::ReplaceAllVoters(all);
        let raft = self.inner.raft.clone();
        let changed = unbroken::<R, _>(async move {
            let changed = raft.change_membership(change, true).await;
            changed.map_err(|error| error.to_string())
        });
        match <R::Async as AsyncRuntime>::timeout(WHOLE_WITHIN, changed).await {
            Ok(Some(Ok(_))) => Ok(()),
            Ok(Some(Err(reason))) => Err(WholeError::Refused(reason)),
            Ok(None) => Err(WholeError::Refused("the engine has stopped".to_owned())),
            Err(_) => Err(WholeError::TimedOut(WHOLE_WITHIN)),
        }
    }
}
