//! Whether this node votes: what its log, its state directory, the ledger and the others say of
//! it, and the oath that precedes the first vote (DESIGN 3.1 rule 8, [`core::suffrage`]).
//!
//! ```text
//!   log's mark, readmission, or new ──▶ may vote ──▶ sworn: the log is marked, then the state
//!                                                    directory, both durably
//!                                        settled ──▶ votes
//! ```
//!
//! Until then it makes no promise either, if its floors are not known: they were in the log.
//!
//! Log first: a crash in between leaves a log that is known to be whole. Were the directory
//! marked first, it would leave a node that never voted and looks as if it had lost its log.
//!
//! [`core::suffrage`]: evenkeel_core::suffrage

use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_core::node::Event;
use evenkeel_core::suffrage::{Greeting, Suffrage};
use evenkeel_core::{Moment, NodeId};
use evenkeel_wire::v1::hello::{Hello, LOG_UNREAD};
use tokio::sync::mpsc;

use crate::decision::{Brought, Driver};
use crate::lease::Order;
use crate::state;

/// How long the oath may take. A disk that is slower has stopped the engine by then.
const OATH_MAX: Duration = Duration::from_secs(5);

/// What is known of this node's right to vote.
pub(crate) struct Voting {
    state: PathBuf,
    suffrage: Suffrage,
    /// The state directory says that this node has voted.
    noted: bool,
    /// It may vote, once it has sworn and settled.
    may: bool,
    swearing: bool,
    /// What the decision machine was told.
    told: bool,
}

impl Voting {
    /// Reads what the state directory says; one that cannot be read says the worst.
    pub(crate) fn new(state: &Path, me: NodeId, voters: Vec<NodeId>) -> Self {
        Self {
            state: state.to_owned(),
            suffrage: Suffrage::new(me, voters),
            noted: state::has_voted(state),
            may: false,
            swearing: false,
            told: false,
        }
    }

    /// Another log was opened, which may lack what was forgotten with the one before.
    pub(crate) fn reopened(&mut self) {
        self.may = false;
    }

    /// Whether this node votes for all that its log remembers.
    pub(crate) fn may(&self) -> bool {
        self.may
    }
}

impl Driver {
    /// What another node says of itself and of what it knows.
    pub(crate) fn weigh(&mut self, from: NodeId, hello: &Hello) {
        if hello.last_log_index == LOG_UNREAD {
            return;
        }
        let mut lives = hello.knows.iter();
        let greeting = Greeting {
            knows_earlier_life: lives
                .any(|(node, life)| *node == self.me && *life != self.incarnation),
            // The log of a later generation was begun by a recovery, not by an installation.
            has_log: hello.last_log_index > 0 || hello.generation > 0,
        };
        self.voting.suffrage.greeted(from, greeting);
    }

    /// Votes as soon as it may. Called whenever something that counts may have changed.
    pub(crate) fn consider_voting(&mut self, bring: &mpsc::Sender<Brought>) {
        let marked = self
            .engine
            .as_ref()
            .is_some_and(|engine| engine.status().remembers);
        self.voting.may |= marked || (self.engine.is_some() && self.may_begin_to_vote());
        let sworn = marked && self.voting.noted;
        if self.voting.may && !sworn && !self.voting.swearing {
            self.swear(bring);
        }
        let votes = self.voting.may && sworn && self.generations.settled();
        if let Some(engine) = &self.engine {
            engine.set_voting(votes);
        }
        if votes {
            let readmission = self
                .ledger
                .with(|ledger| ledger.readmission(self.me, self.incarnation));
            self.memory
                .set_voted(readmission.map_or(0, |epoch| epoch.index));
        }
        if self.voting.told != votes {
            self.voting.told = votes;
            if votes {
                self.lease.order(Order::Recall);
            }
            self.step(Event::Votes(votes), bring);
        }
    }

    /// Whether it may vote although its log does not say so.
    fn may_begin_to_vote(&self) -> bool {
        let used = self.memory.voted();
        let readmission = self
            .ledger
            .with(|ledger| ledger.readmission(self.me, self.incarnation));
        // One from before this life's last vote was for an earlier loss.
        let readmitted =
            readmission.is_some_and(|epoch| used.is_none_or(|used| epoch.index > used));
        let is_new = !self.voting.noted
            && used.is_none()
            && self.generations.settled()
            && self.voting.suffrage.is_new();
        readmitted || is_new
    }

    fn swear(&mut self, bring: &mpsc::Sender<Brought>) {
        let Some(engine) = self.engine.clone() else {
            return;
        };
        self.voting.swearing = true;
        let (state, bring) = (self.voting.state.clone(), bring.clone());
        tokio::spawn(async move {
            let oath = async {
                engine
                    .mark_votes()
                    .await
                    .map_err(|error| error.to_string())?;
                tokio::task::spawn_blocking(move || state::note_voted(&state))
                    .await
                    .map_err(|error| error.to_string())?
                    .map_err(|error| error.to_string())
            };
            let sworn = tokio::time::timeout(OATH_MAX, oath).await;
            drop(engine);
            let sworn =
                sworn.unwrap_or_else(|_| Err("the disk of the log takes too long".to_owned()));
            // The driver has ended: nobody asks any more.
            let _ = bring.send(Brought::Sworn(sworn)).await;
        });
    }

    /// The oath was taken, or could not be.
    pub(crate) fn sworn(&mut self, sworn: Result<(), String>, bring: &mpsc::Sender<Brought>) {
        self.voting.swearing = false;
        match sworn {
            Ok(()) => {
                self.voting.noted = true;
                self.consider_voting(bring);
            }
            Err(reason) => {
                tracing::error!(
                    reason,
                    "this node cannot note that it votes, so it does not vote; trying again"
                );
                // Its log cannot be written any more once a write has failed.
                if self.engine.is_some() && !self.generations.changing() {
                    self.lose_engine(bring);
                }
            }
        }
    }

    /// Whether a node votes, as far as is known here.
    pub(crate) fn is_voting(&self, now: Moment, node: NodeId) -> bool {
        if node == self.me {
            self.voting.told
        } else {
            self.node.view().votes(now, node)
        }
    }

    /// What people should know of it.
    pub(crate) fn voting_advice(&self) -> Option<String> {
        let topology = self.node.topology();
        let voter = topology.voters().any(|one| one.id == self.me);
        if !voter || !self.generations.settled() || self.engine.is_none() || self.voting.told {
            return None;
        }
        if self.voting.may {
            return Some(
                "this node does not vote yet: its disk has not taken the note that it does"
                    .to_owned(),
            );
        }
        let me = topology.node_name(self.me);
        Some(format!(
            "this node does not vote: its log was lost, or it is new and not all others have said \
             so. If its log is lost for good (a new disk), run `evenkeel readmit {me}` on another \
             node. If no node leads any more, that is refused: then stop this node, run `evenkeel \
             recover` on a server that has its log, start this one and readmit it"
        ))
    }
}
