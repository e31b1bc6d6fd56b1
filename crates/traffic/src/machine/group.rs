//! One group: what is wanted of it, and how far that is.

use std::time::Duration;

use evenkeel_core::Moment;
use evenkeel_host::address::Placement;

use super::words::{Attempt, Repair, Want};
use super::{TRY_SPACING_MAX, TRY_SPACING_MIN};
use crate::campaign::Campaign;
use crate::resolve::Site;

/// Whether the sockets of a group have been ended for its current want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Idle,
    Needed,
    Running { ticket: u64, since: Moment },
}

/// What was last told of a group's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Placed,
    Gone,
}

/// When something may be tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tries {
    pub(super) next: Moment,
    pub(super) pause: Duration,
}

impl Tries {
    pub(super) const NEW: Self = Self {
        next: Moment::ZERO,
        pause: TRY_SPACING_MIN,
    };

    pub(super) fn tried(&mut self, now: Moment) {
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(TRY_SPACING_MAX);
    }

    pub(super) fn succeeded(&mut self) {
        self.pause = TRY_SPACING_MIN;
    }
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) sites: Vec<Site>,
    pub(super) want: Option<Want>,
    pub(super) since: Moment,
    pub(super) look_at: Moment,
    pub(super) tries: Tries,
    /// Its addresses are being placed: what is missing is not asked for again.
    pub(super) placing: bool,
    /// Its addresses are being deleted: what is left is not asked for again.
    pub(super) clearing: bool,
    /// How many were missing when it was last looked.
    pub(super) missing: usize,
    pub(super) ending: Ending,
    pub(super) told: Told,
    pub(super) adopted: Option<usize>,
    pub(super) broken: Option<(Repair, Moment)>,
    pub(super) repairs: u64,
    pub(super) trouble: Option<(Attempt, String)>,
    pub(super) campaign: Option<Campaign>,
}

impl Group {
    pub(super) fn new(sites: Vec<Site>) -> Self {
        Self {
            sites,
            want: None,
            since: Moment::ZERO,
            look_at: Moment::ZERO,
            tries: Tries::NEW,
            placing: false,
            clearing: false,
            missing: 0,
            ending: Ending::Idle,
            told: Told::Nothing,
            adopted: None,
            broken: None,
            repairs: 0,
            trouble: None,
            campaign: None,
        }
    }

    /// No more of its addresses are about to be placed, as far as is known.
    pub(super) fn is_whole(&self) -> bool {
        !self.placing && self.missing == 0
    }

    pub(super) fn wants_addresses(&self) -> bool {
        matches!(
            self.want,
            Some(Want::Closed | Want::Open { .. } | Want::Draining { .. })
        )
    }
}

/// What a group lacks.
#[derive(Debug, Default)]
pub(super) struct Lack {
    pub(super) missing: Vec<Placement>,
    pub(super) stray: Vec<Placement>,
    pub(super) routes: Vec<Placement>,
    pub(super) waiting: Option<String>,
}

impl Lack {
    /// What can be put right now.
    pub(super) fn acts(&self) -> bool {
        !(self.missing.is_empty() && self.stray.is_empty() && self.routes.is_empty())
    }

    pub(super) fn kind(&self) -> Repair {
        if self.waiting.is_some() {
            Repair::Interface
        } else if !self.missing.is_empty() {
            Repair::Address
        } else {
            Repair::Route
        }
    }
}
