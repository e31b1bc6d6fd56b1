//! The epoch gate of what is copied from the holder of a group to its other nodes: the replica
//! of a share, the copy of a database (S3).
//!
//! One node may change such a copy: the holder of the epoch that the copy follows. The copy
//! itself remembers, durably, the newest epoch that it has followed and who was the holder then
//! (the [`Seal`]), and lets nothing in that is of an older one, however the old holder comes to
//! send it: late, from a queue, by a connection that nobody has closed, with a good certificate.
//! Only assignments that are committed reach it; what a sender says of itself never does.
//!
//! After a start the copy is closed until the newest assignment is known: what the seal says may
//! be old, and then the node that it names is an old holder.
//!
//! ```text
//!           start             raised to a newer epoch                    stored
//!   Closed <------   any state ----------------------> Storing(seal) ------------> Open
//!      |                                                    |   ^                    |
//!      | the newest assignment is the seal's own            |   | a newer one yet    | closed
//!      +--> Open                                  not stored|   +--- (replaces it)   v
//!                                                           v                     Closed
//!                                                        Closed
//! ```
//!
//! `Storing` lets nothing in: neither the old epoch, which is over, nor the new one, of which a
//! crash would leave nothing. Whoever uses this takes one lock for "is it let in" together with the
//! change that was let in, and the same lock for [`Fence::raise`]: then nothing of an older epoch is
//! under way when `raise` has returned. Open, the copy is changed by one node, which may be this one
//! (then it is no copy but the original).

use core::fmt;

use crate::names::{Epoch, NodeId};

/// The newest epoch that a copy has followed. Durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// The epoch; [`Epoch::NONE`] before the first.
    pub epoch: Epoch,
    /// The holder of the group in it, who alone may change the copy.
    pub writer: NodeId,
}

/// The gate of one copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    me: NodeId,
    /// As it is stored.
    seal: Seal,
    /// The newest that this life of the daemon has heard of, stored or not: never older than
    /// the seal.
    newest: Seal,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// The newest one.
    Storing,
    Open,
}

/// What comes of a newer assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// The copy is open for it.
    Open,
    /// This has to be durable first: then [`Fence::stored`], or [`Fence::not_stored`].
    Store(Seal),
}

/// Why somebody may not change a copy. Follows "refused: ".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The newest assignment is not known here yet, or not durable. Worth another try.
    Closed,
    /// The epoch is over.
    Outdated {
        /// The one that the copy follows.
        sealed: Epoch,
    },
    /// The epoch has not come yet as far as is known here. Worth another try.
    Early {
        /// The one that the copy follows.
        sealed: Epoch,
    },
    /// Another node holds the group in that epoch.
    NotTheWriter {
        /// Who.
        writer: NodeId,
    },
}

impl Refused {
    /// Whether the same may be let in before long.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::Closed | Self::Early { .. })
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => write!(f, "the newest assignment is not known here yet"),
            Self::Outdated { sealed } => write!(f, "this copy follows epoch {sealed}, a later one"),
            Self::Early { sealed } => write!(f, "this copy still follows epoch {sealed}"),
            Self::NotTheWriter { writer } => {
                write!(f, "node {writer:?} holds the group in that epoch")
            }
        }
    }
}

impl std::error::Error for Refused {}

impl Fence {
    /// The gate of a copy on node `me`, closed. `seal` is what was stored last;
    /// [`Seal::default`] for a copy that has never followed anybody.
    pub fn new(me: NodeId, seal: Seal) -> Self {
        Self {
            me,
            seal,
            newest: seal,
            state: State::Closed,
        }
    }

    /// What is stored.
    pub fn seal(&self) -> Seal {
        self.seal
    }

    /// A committed assignment: from now on only its holder may change the copy. An older one than
    /// is known already is refused and changes nothing.
    ///
    /// # Errors
    /// [`Refused::Outdated`]; [`Refused::NotTheWriter`] if the same epoch has been given to two
    /// nodes, which can never be (S2).
    pub fn raise(&mut self, to: Seal) -> Result<Raised, Refused> {
        let newest = self.newest;
        if to.epoch < newest.epoch || to.epoch == Epoch::NONE {
            let sealed = newest.epoch;
            return Err(Refused::Outdated { sealed });
        }
        if to.epoch == newest.epoch && to.writer != newest.writer {
            let writer = newest.writer;
            return Err(Refused::NotTheWriter { writer });
        }
        self.newest = to;
        if to == self.seal {
            self.state = State::Open;
            return Ok(Raised::Open);
        }
        self.state = State::Storing;
        Ok(Raised::Store(to))
    }

    /// It is durable. Says whether the copy is open for it: not if a newer one has come since.
    pub fn stored(&mut self, seal: Seal) -> bool {
        if seal.epoch > self.seal.epoch {
            self.seal = seal;
        }
        let now = self.state == State::Storing && seal == self.newest;
        if now {
            self.state = State::Open;
        }
        now
    }

    /// It could not be stored: nothing is let in until it, or a newer one, is raised again.
    pub fn not_stored(&mut self, seal: Seal) {
        if self.state == State::Storing && seal == self.newest {
            self.state = State::Closed;
        }
    }

    /// Whether the newest assignment is one in which this node itself changes the copy.
    pub fn is_mine(&self) -> bool {
        self.state == State::Open && self.seal.writer == self.me
    }

    /// Lets in what `writer` sends in `epoch`, or says why not.
    pub fn admit(&self, epoch: Epoch, writer: NodeId) -> Result<(), Refused> {
        let sealed = self.newest.epoch;
        if epoch < sealed {
            return Err(Refused::Outdated { sealed });
        }
        if self.state != State::Open {
            return Err(Refused::Closed);
        }
        if epoch > sealed {
            return Err(Refused::Early { sealed });
        }
        if writer != self.seal.writer {
            let writer = self.seal.writer;
            return Err(Refused::NotTheWriter { writer });
        }
        Ok(())
    }

    /// Lets nothing in until the newest assignment is known again.
    pub fn close(&mut self) {
        self.state = State::Closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const A: NodeId = NodeId(2);
    const B: NodeId = NodeId(3);

    fn seal(index: u64, writer: NodeId) -> Seal {
        let epoch = Epoch { term: 1, index };
        Seal { epoch, writer }
    }

    fn open(at: Seal) -> Fence {
        let mut fence = Fence::new(ME, Seal::default());
        assert_eq!(fence.raise(at), Ok(Raised::Store(at)));
        assert!(fence.stored(at));
        fence
    }

    #[test]
    fn after_a_start_nothing_is_let_in_until_the_newest_assignment_is_known() {
        let old = seal(5, A);
        let mut fence = Fence::new(ME, old);
        assert_eq!(fence.admit(old.epoch, A), Err(Refused::Closed));
        assert_eq!(fence.raise(old), Ok(Raised::Open));
        assert_eq!(fence.admit(old.epoch, A), Ok(()));
        fence.close();
        assert_eq!(fence.admit(old.epoch, A), Err(Refused::Closed));
    }

    #[test]
    fn an_old_holder_is_refused_from_the_moment_in_which_a_newer_epoch_is_known() {
        let (old, new) = (seal(5, A), seal(6, B));
        let mut fence = open(old);
        assert_eq!(fence.raise(new), Ok(Raised::Store(new)));
        let sealed = new.epoch;
        let over = Err(Refused::Outdated { sealed });
        assert_eq!(fence.admit(old.epoch, A), over);
        assert_eq!(fence.admit(new.epoch, B), Err(Refused::Closed));
        assert!(fence.stored(new));
        assert_eq!(fence.admit(old.epoch, A), over);
        assert_eq!(fence.admit(new.epoch, B), Ok(()));
        assert_eq!(fence.raise(old), Err(Refused::Outdated { sealed }));
        assert_eq!(fence.admit(new.epoch, B), Ok(()));
    }

    #[test]
    fn what_a_sender_says_of_itself_raises_nothing() {
        let mut fence = open(seal(5, A));
        let sealed = seal(5, A).epoch;
        let later = seal(9, B).epoch;
        assert_eq!(fence.admit(later, B), Err(Refused::Early { sealed }));
        assert_eq!(
            fence.admit(sealed, B),
            Err(Refused::NotTheWriter { writer: A })
        );
        assert_eq!(fence.admit(sealed, A), Ok(()));
        assert_eq!(
            fence.raise(seal(5, B)),
            Err(Refused::NotTheWriter { writer: A })
        );
        assert_eq!(
            fence.raise(Seal::default()),
            Err(Refused::Outdated { sealed })
        );
    }

    #[test]
    fn what_cannot_be_stored_lets_nothing_in_and_may_be_tried_again() {
        let (old, new) = (seal(5, A), seal(6, B));
        let mut fence = open(old);
        assert_eq!(fence.raise(new), Ok(Raised::Store(new)));
        fence.not_stored(new);
        let sealed = new.epoch;
        let over = Err(Refused::Outdated { sealed });
        assert_eq!(fence.admit(old.epoch, A), over);
        assert_eq!(fence.admit(new.epoch, B), Err(Refused::Closed));
        // Nor is the older one raised again.
        assert_eq!(fence.raise(old), Err(Refused::Outdated { sealed }));
        assert_eq!(fence.raise(new), Ok(Raised::Store(new)));
        assert!(fence.stored(new));
        assert_eq!(fence.admit(new.epoch, B), Ok(()));
    }

    #[test]
    fn a_newer_one_replaces_what_is_being_stored() {
        let (first, second) = (seal(6, B), seal(7, A));
        let mut fence = open(seal(5, A));
        assert_eq!(fence.raise(first), Ok(Raised::Store(first)));
        assert_eq!(fence.raise(second), Ok(Raised::Store(second)));
        // The first is durable: it is over all the same.
        assert!(!fence.stored(first));
        fence.not_stored(first);
        let sealed = second.epoch;
        let over = Refused::Outdated { sealed };
        assert_eq!(fence.admit(first.epoch, B), Err(over));
        assert_eq!(fence.raise(first), Err(over));
        assert!(fence.stored(second));
        assert_eq!(fence.admit(second.epoch, A), Ok(()));
        // An answer that is late shrinks nothing.
        assert!(!fence.stored(first));
        assert_eq!(fence.seal(), second);
    }

    #[test]
    fn this_node_changes_it_itself_only_where_it_is_the_holder() {
        let mut fence = open(seal(5, A));
        assert!(!fence.is_mine());
        let mine = seal(6, ME);
        assert_eq!(fence.raise(mine), Ok(Raised::Store(mine)));
        assert!(!fence.is_mine());
        assert!(fence.stored(mine));
        assert!(fence.is_mine());
        assert_eq!(
            fence.admit(mine.epoch, A),
            Err(Refused::NotTheWriter { writer: ME })
        );
        fence.close();
        assert!(!fence.is_mine());
    }

    /// Whatever order things come in, nothing of an epoch is let in after a newer one has been
    /// raised, and the seal never shrinks. All orders of some words, to a depth.
    #[test]
    fn no_order_of_events_lets_an_older_epoch_in() {
        #[derive(Clone, Copy, Debug)]
        enum Event {
            Raise(Seal),
            Stored(Seal),
            NotStored(Seal),
            Close,
            Restart,
        }
        let seals = [seal(1, A), seal(2, ME), seal(3, B)];
        let mut events = vec![Event::Close, Event::Restart];
        for seal in seals {
            events.extend([
                Event::Raise(seal),
                Event::Stored(seal),
                Event::NotStored(seal),
            ]);
        }
        let start = (Fence::new(ME, Seal::default()), Epoch::NONE, Vec::new());
        let mut states: Vec<(Fence, Epoch, Vec<Seal>)> = vec![start];
        let mut seen = 0;
        for _ in 0..5 {
            let mut next = Vec::new();
            for (fence, raised, asked) in &states {
                for event in &events {
                    let (mut fence, mut raised, mut asked) =
                        (fence.clone(), *raised, asked.clone());
                    let before = fence.seal().epoch;
                    match *event {
                        Event::Raise(to) => match fence.raise(to) {
                            Ok(answer) => {
                                raised = raised.max(to.epoch);
                                if let Raised::Store(seal) = answer {
                                    asked.push(seal);
                                }
                            }
                            Err(error) => assert!(!error.is_passing(), "{error}"),
                        },
                        // Nothing is stored that was not asked for.
                        Event::Stored(seal) if asked.contains(&seal) => {
                            fence.stored(seal);
                        }
                        Event::NotStored(seal) if asked.contains(&seal) => fence.not_stored(seal),
                        Event::Stored(_) | Event::NotStored(_) => continue,
                        Event::Close => fence.close(),
                        Event::Restart => {
                            fence = Fence::new(ME, fence.seal());
                            // What was raised and never stored is forgotten, and was never let in.
                            raised = fence.seal().epoch;
                            asked.clear();
                        }
                    }
                    assert!(fence.seal().epoch >= before, "{event:?}: {fence:?}");
                    for seal in seals {
                        for writer in [A, B, ME] {
                            if fence.admit(seal.epoch, writer).is_ok() {
                                assert_eq!(seal.epoch, raised, "{event:?}: {fence:?}");
                                assert_eq!(writer, seal.writer, "{event:?}: {fence:?}");
                                seen += 1;
                            }
                        }
                    }
                    next.push((fence, raised, asked));
                }
            }
            next.dedup();
            states = next;
        }
        assert!(seen > 1000, "{seen}");
    }
}
