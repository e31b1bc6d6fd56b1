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
//! The first oath is in the log first: a crash in between leaves a log that is known to be whole.
//! An oath is taken anew with each engine, so that a copy of the log from before shows as one; the
//! node votes under the former one meanwhile, and if the disk does not take it. Each later one is
//! noted beside the one before it, then taken, then noted alone.
//!
//! [`core::suffrage`]: evenkeel_core::suffrage

use std::path::{Path, PathBuf};

use evenkeel_consensus::{ConsensusError, OATH_BEFORE};
use evenkeel_core::node::Event;
use evenkeel_core::suffrage::{Greeting, Suffrage};
use evenkeel_core::{Epoch, Incarnation, Moment, NodeId};
use evenkeel_host::clock;
use evenkeel_wire::v1::hello::{Hello, LOG_UNREAD};
use ring::rand::SecureRandom;
use tokio::sync::mpsc;

use crate::decision::{Brought, Driver, ENGINE_PAUSE};
use crate::lease::Order;
use crate::state;

/// What is known of this node's right to vote.
pub(crate) struct Voting {
    state: PathBuf,
    suffrage: Suffrage,
    /// The oaths that the state directory notes.
    noted: Vec<u64>,
    /// The one that the engine that runs now has taken.
    taken: Option<u64>,
    /// Earlier lives of this state directory.
    past: Vec<Incarnation>,
    /// It may vote, once it has sworn and settled.
    may: bool,
    swearing: bool,
    /// When the oath may be tried again.
    again_at: Moment,
    /// What the decision machine was told.
    told: bool,
}

impl Voting {
    /// Reads what the state directory says; one that cannot be read says the worst.
    pub(crate) fn new(state: &Path, me: NodeId, voters: Vec<NodeId>) -> Self {
        Self {
            state: state.to_owned(),
            suffrage: Suffrage::new(me, voters),
            noted: noted(state),
            taken: None,
            past: state::lives(state),
            may: false,
            swearing: false,
            again_at: Moment::ZERO,
            told: false,
        }
    }

    /// Another log was opened, which may lack what was forgotten with the one before.
    pub(crate) fn reopened(&mut self) {
        self.may = false;
        self.taken = None;
        self.again_at = Moment::ZERO;
        if !self.swearing {
            self.noted = noted(&self.state);
        }
    }

    /// Whether there is an oath to be taken.
    pub(crate) fn owes_oath(&self) -> bool {
        self.may && self.taken.is_none() && !self.swearing
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
                .any(|(node, life)| *node == self.me && self.may_have_voted(*life)),
            // The log of a later generation was begun by a recovery, not by an installation.
            has_log: hello.last_log_index > 0 || hello.generation > 0,
        };
        self.voting.suffrage.greeted(from, greeting);
    }

    /// Whether a life of this node that others know may have voted. Not one of this directory,
    /// which says that none of them did.
    fn may_have_voted(&self, life: Incarnation) -> bool {
        let of_this_directory = self.voting.past.contains(&life);
        life != self.incarnation && !(of_this_directory && self.voting.noted.is_empty())
    }

    /// Whether the log was lost: the directory notes an oath that the log does not bear.
    pub(crate) fn has_lost_log(&self) -> bool {
        let remembers = self
            .engine
            .as_ref()
            .is_some_and(|engine| engine.status().remembers);
        !self.voting.noted.is_empty() && !remembers
    }

    /// Votes as soon as it may. Called whenever something that counts may have changed.
    pub(crate) fn consider_voting(&mut self, bring: &mpsc::Sender<Brought>) {
        let status = self.engine.as_ref().map(|engine| engine.status());
        let borne = status
            .filter(|status| status.remembers)
            .and_then(|status| status.oath);
        self.voting.may |= borne.is_some() || (self.engine.is_some() && self.may_begin_to_vote());
        let sworn = borne.is_some_and(|borne| self.voting.noted.contains(&borne));
        if self.voting.owes_oath() {
            self.swear(borne, bring);
        }
        let votes = self.voting.may && sworn && self.generations.settled();
        if let Some(engine) = &self.engine {
            engine.set_voting(votes);
        }
        if votes {
            self.memory.set_voted(self.readmission());
        }
        if self.voting.told != votes {
            self.voting.told = votes;
            if votes {
                self.lease.order(Order::Recall);
            }
            self.step(Event::Votes(votes), bring);
        }
    }

    /// The readmission of this life; before all others if there is none.
    fn readmission(&self) -> Epoch {
        let readmission = self
            .ledger
            .with(|ledger| ledger.readmission(self.me, self.incarnation));
        readmission.unwrap_or(Epoch::NONE)
    }

    /// Whether it may vote although its log does not say so.
    fn may_begin_to_vote(&self) -> bool {
        let used = self.memory.voted();
        // One from before this life's last vote was for an earlier loss.
        let readmitted = self.readmission() > used.unwrap_or(Epoch::NONE);
        let is_new = self.voting.noted.is_empty()
            && used.is_none()
            && self.generations.settled()
            && self.voting.suffrage.is_new();
        readmitted || is_new
    }

    /// Takes an oath, with a log that `bears` this one so far.
    fn swear(&mut self, bears: Option<u64>, bring: &mpsc::Sender<Brought>) {
        let now = clock::now();
        let Some(engine) = self.engine.clone().filter(|_| now >= self.voting.again_at) else {
            return;
        };
        let Some(number) = draw() else {
            tracing::error!("the kernel gives no random numbers: no oath is taken");
            return;
        };
        self.voting.swearing = true;
        self.voting.again_at = now + ENGINE_PAUSE;
        // With a note there is always one that names what the log bears, or will.
        let beside = bears.or(self.voting.noted.first().copied());
        if let Some(former) = beside {
            self.voting.noted = vec![former, number];
        }
        let sworn = engine.swear(number);
        let (state, bring) = (self.voting.state.clone(), bring.clone());
        // To its end, however long the disk takes: what is under way cannot be called back.
        tokio::spawn(async move {
            let taken = take_oath(&state, beside, number, sworn).await;
            // The driver has ended: nobody asks any more.
            let _ = bring.send(Brought::Sworn(taken)).await;
        });
    }

    /// The oath was taken, or could not be.
    pub(crate) fn sworn(&mut self, taken: Result<u64, NoOath>, bring: &mpsc::Sender<Brought>) {
        self.voting.swearing = false;
        match taken {
            Ok(number) => {
                self.voting.noted = vec![number];
                self.voting.taken = Some(number);
                self.consider_voting(bring);
                self.greet();
            }
            Err(NoOath::Log(reason)) => {
                tracing::error!(reason, "this node cannot note that it votes: its log");
                // It cannot be written any more once a write has failed.
                if self.engine.is_some() && !self.generations.changing() {
                    self.lose_engine(bring);
                }
            }
            Err(NoOath::Note(reason)) => tracing::error!(
                reason,
                "this node cannot note its oath, and does not vote without a first one; trying again"
            ),
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
             recover` on a server that has its log, start this one and readmit it. If no server \
             has its log, nothing is left that could be forgotten: stop all, empty their state \
             directories, start all"
        ))
    }
}

/// Why no oath was taken.
#[derive(Debug)]
pub(crate) enum NoOath {
    /// The log cannot be written.
    Log(String),
    /// Anything else: it may work the next time.
    Note(String),
}

async fn take_oath(
    state: &Path,
    beside: Option<u64>,
    number: u64,
    sworn: impl Future<Output = Result<(), ConsensusError>>,
) -> Result<u64, NoOath> {
    if let Some(former) = beside {
        // Whichever of the two it bears after a crash: it was not lost.
        note(state, vec![former, number]).await?;
    }
    sworn
        .await
        .map_err(|error| NoOath::Log(error.to_string()))?;
    note(state, vec![number]).await?;
    Ok(number)
}

async fn note(state: &Path, oaths: Vec<u64>) -> Result<(), NoOath> {
    let state = state.to_owned();
    let noted = tokio::task::spawn_blocking(move || state::note_oaths(&state, &oaths)).await;
    let noted = noted.map_err(|error| NoOath::Note(error.to_string()))?;
    noted.map_err(|error| NoOath::Note(error.to_string()))
}

/// A number for an oath: neither of the two that mean something else.
fn draw() -> Option<u64> {
    let mut drawn = [0; 8];
    ring::rand::SystemRandom::new().fill(&mut drawn).ok()?;
    Some(u64::from_le_bytes(drawn).clamp(OATH_BEFORE + 1, state::OATH_UNKNOWN - 1))
}

/// What the state directory notes; if that cannot be read, the worst.
fn noted(state: &Path) -> Vec<u64> {
    state::oaths(state).unwrap_or_else(|error| {
        tracing::error!(%error, "whether this node has voted is not known: it counts as lost");
        vec![state::OATH_UNKNOWN]
    })
}
