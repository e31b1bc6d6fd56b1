//! The side that promises: floors, promises, refusals (rules 1, 2, 3, 5, 8).

use core::time::Duration;

use super::Assignment;
use super::message::{Refusal, Released, Renew, Verdict};
use super::mirror::{Assigned, Promise};
use super::settings::{PROMISES_MAX, Settings};
use crate::Moment;
use crate::names::{Epoch, NodeId};

/// What a voter knows of one group, apart from the floor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Voter {
    /// The newest epoch given back: it and lower ones get no promise.
    pub(super) released: Epoch,
    /// Promises that may still run, one for each epoch. At most [`PROMISES_MAX`].
    pub(super) promises: Vec<Promise>,
}

/// Whether a `Released` changed anything that a waiting holder wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freed {
    /// Promises were given back.
    Promises,
    /// The mark was raised, no promise ran.
    Mark,
    /// Not the sender's to give back, or known already.
    Nothing,
}

impl Voter {
    /// Judges a Renew and, if nothing speaks against it, makes the promise: exactly
    /// `now` + its length.
    pub(super) fn renew(
        &mut self,
        now: Moment,
        from: NodeId,
        renew: &Renew,
        floor: Option<&Assignment>,
        settings: &Settings,
    ) -> Verdict {
        self.prune(now);
        let to = Assigned {
            epoch: renew.epoch,
            node: from,
            incarnation: renew.incarnation,
        };
        if let Some(refusal) = self.refusal(&to, renew, floor, settings) {
            return Verdict::Refused(refusal);
        }
        let until = now + renew.length;
        if let Some(promise) = self.promises.iter_mut().find(|p| p.to.epoch == to.epoch) {
            promise.to = to;
            promise.until = promise.until.max(until);
            // An older Renew that comes late prolongs the promise for the newer one.
            promise.seq = promise.seq.max(renew.seq);
        } else if self.promises.len() < PROMISES_MAX {
            let seq = renew.seq;
            self.promises.push(Promise { to, until, seq });
        } else {
            return Verdict::Refused(Refusal::Full);
        }
        Verdict::Promised
    }

    /// What speaks against a promise.
    fn refusal(
        &self,
        to: &Assigned,
        renew: &Renew,
        floor: Option<&Assignment>,
        settings: &Settings,
    ) -> Option<Refusal> {
        if renew.membership != settings.membership {
            return Some(Refusal::OtherMembership);
        }
        if renew.length > settings.lease_max || renew.length.is_zero() {
            return Some(Refusal::TooLong);
        }
        if let Some(floor) = floor {
            if to.epoch < floor.epoch {
                return Some(match settings.same_life(to, &floor.assigned()) {
                    true => Refusal::BelowOwn,
                    false => Refusal::BelowFloor,
                });
            }
            if to.epoch == floor.epoch && !settings.same_life(to, &floor.assigned()) {
                return Some(Refusal::OtherHolder);
            }
        }
        if to.epoch <= self.released {
            return Some(Refusal::Released);
        }
        let bound = self.promises.iter().find(|p| p.to.epoch == to.epoch);
        bound
            .is_some_and(|p| !settings.same_life(to, &p.to))
            .then_some(Refusal::OtherHolder)
    }

    /// Takes back the promises to this life that were made for nothing but Renews which
    /// it now declares void. True if there were any.
    pub(super) fn void(&mut self, from: NodeId, renew: &Renew, settings: &Settings) -> bool {
        if renew.void == 0 {
            return false;
        }
        let claim = Assigned {
            epoch: renew.epoch,
            node: from,
            incarnation: renew.incarnation,
        };
        let before = self.promises.len();
        self.promises.retain(|promise| {
            promise.to.epoch > claim.epoch
                || !settings.same_life(&promise.to, &claim)
                || (promise.seq >= renew.void && !settings.faults.void_unnumbered)
        });
        self.promises.len() < before
    }

    /// How long promises below `floor` to others than its own holder still run.
    pub(super) fn lower(&self, now: Moment, floor: &Assignment, settings: &Settings) -> Duration {
        let own = floor.assigned();
        self.promises
            .iter()
            .filter(|p| p.to.epoch < floor.epoch && !settings.same_life(&p.to, &own))
            .map(|p| now.until(p.until))
            .max()
            .unwrap_or(Duration::ZERO)
    }

    /// Gives back what `from` no longer needs. Only its own promises: what another
    /// node or another life was promised stays promised.
    pub(super) fn release(
        &mut self,
        from: NodeId,
        released: &Released,
        floor: Option<&Assignment>,
        settings: &Settings,
    ) -> Freed {
        let given = Assigned {
            epoch: released.epoch,
            node: from,
            incarnation: released.incarnation,
        };
        let foreign = floor
            .is_some_and(|f| f.epoch == given.epoch && !settings.same_life(&given, &f.assigned()));
        if foreign {
            return Freed::Nothing;
        }
        let before = self.promises.len();
        self.promises
            .retain(|p| p.to.epoch > given.epoch || !settings.same_life(&p.to, &given));
        let marked = given.epoch > self.released;
        self.released = self.released.max(given.epoch);
        if self.promises.len() < before {
            Freed::Promises
        } else if marked {
            Freed::Mark
        } else {
            Freed::Nothing
        }
    }

    /// Forgets promises that have run out, and with them the binding of an epoch that
    /// has not reached this voter's log (once it has, the floor names its holder).
    pub(super) fn prune(&mut self, now: Moment) {
        self.promises.retain(|p| p.until > now);
    }
}

impl Settings {
    /// Whether two claims are of one life of one node (rule 8).
    pub(super) fn same_life(&self, a: &Assigned, b: &Assigned) -> bool {
        a.node == b.node && (a.incarnation == b.incarnation || self.faults.any_incarnation)
    }
}

/// What a voter has heard of one group's holder, for the leader's suspicion (rule 7).
/// No promise and no lease depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The newest assignment that this voter knows of, from its log or from a Renew.
    pub epoch: Epoch,
    /// Time since the last Renew of that epoch, or since it was first heard of.
    pub renewed: Duration,
    /// Time since the holder's proven deadline was last seen to advance, or since it was heard
    /// again. Far behind `renewed`: the holder hears nobody. None while it may still be waiting for older
    /// promises to run out ([`super::OPENING_LEASES`]): until it opens it has no deadline,
    /// and that is no deafness.
    pub advanced: Option<Duration>,
}

/// The moments behind an [`Observation`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sighting {
    epoch: Epoch,
    renewed: Moment,
    /// Since when it is known, agreed on, or heard again after a silence: what came before says
    /// nothing of what its holder hears.
    since: Moment,
    /// When the deadline advanced, if ever in this epoch.
    advanced: Option<Moment>,
    proven: u64,
}

/// Nothing but [`Observation`]s comes of it: for a search of all states, machines that
/// differ in nothing else are the same.
impl core::hash::Hash for Sighting {
    fn hash<H: core::hash::Hasher>(&self, _: &mut H) {}
}

impl Sighting {
    /// An epoch was heard of: from here on its holder is expected to renew.
    pub(super) fn expect(&mut self, now: Moment, epoch: Epoch) {
        if epoch > self.epoch {
            *self = Self {
                epoch,
                renewed: now,
                since: now,
                advanced: None,
                proven: 0,
            };
        }
    }

    /// The epoch was agreed on: its holder could not open before, so its time begins.
    pub(super) fn agreed(&mut self, now: Moment, epoch: Epoch) {
        if epoch == self.epoch {
            self.since = now;
        }
    }

    /// A Renew was heard, from the epoch's own holder, which may be that of the floor: then a higher
    /// epoch that is not renewed any more was never agreed on, and must not hide this one.
    pub(super) fn renewed(&mut self, now: Moment, renew: &Renew, of_floor: bool) {
        let again = now.since(self.renewed) >= renew.length;
        if of_floor && renew.epoch < self.epoch && again {
            *self = Self::default();
        }
        self.expect(now, renew.epoch);
        if renew.epoch < self.epoch {
            return;
        }
        if again {
            // Nobody can have told it yet that it is heard.
            self.since = now;
        }
        self.renewed = now;
        if renew.proven > self.proven {
            self.proven = renew.proven;
            self.advanced = Some(now);
        }
    }

    /// What it comes to at `now`.
    pub(super) fn observation(&self, now: Moment, settings: &Settings) -> Observation {
        let advanced = match self.advanced {
            Some(at) => Some(now.since(at.max(self.since))),
            None => Some(now.since(self.since)).filter(|span| *span >= settings.opening_time()),
        };
        Observation {
            epoch: self.epoch,
            renewed: now.since(self.renewed),
            advanced,
        }
    }
}
