//! Planned moves without a lost request: the holder is asked to let its clients go
//! first, and only then is the move proposed.
//!
//! Nothing here is about safety. A leader may propose at any time, and a holder that is
//! assigned away closes whatever it was doing; both sides only wait for each other, and
//! each for a bounded time.
//!
//! The leader, for each group ([`Switchovers`]):
//!
//! | now   | a planned move is wanted              | not wanted any more, or another epoch |
//! |-------|---------------------------------------|---------------------------------------|
//! | Idle  | Asked: its reports say "leave"        | Idle                                  |
//! | Asked | drained, or long enough: propose      | Idle                                  |
//!
//! The holder ([`Leave`]), as long as the leader's reports ask it:
//!
//! | now      | asked    | its mover has drained | too long  | not asked for [`UNASKED_MAX`] |
//! |----------|----------|-----------------------|-----------|-------------------------------|
//! | Staying  | Draining | -                     | -         | Staying                       |
//! | Draining | Draining | Drained               | Tired     | Staying                       |
//! | Drained  | Drained  | Drained               | Tired     | Staying                       |
//! | Tired    | Tired    | -                     | -         | Staying                       |
//!
//! `Tired` serves as `Staying` does: the leader asked and then did not move the group.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::Moment;
use crate::health::{GroupReport, Standing};
use crate::ledger::Assigned;
use crate::names::{Epoch, GroupId};

/// How long a holder may take to say that it drains: a round trip and a turn of each
/// node, with much to spare. One that does not is of a version that cannot.
pub const HEARING_MAX: Duration = Duration::from_millis(600);
/// How long after `drain` the leader still waits to hear that it is over.
pub const DRAIN_SLACK: Duration = Duration::from_millis(500);
/// How long a drained holder waits to be assigned away: several elections of a new
/// leader. New connections wait meanwhile, so it is not more.
pub const DRAINED_MAX: Duration = Duration::from_secs(2);
/// How long a holder goes on letting its clients go without being asked. The leader stops
/// asking when the move is agreed on, and the holder may hear that before it has the
/// entry; a new leader takes a while to ask.
pub const UNASKED_MAX: Duration = Duration::from_millis(300);
/// How long new connections may be held at most, then the kernel ends it by itself: the last
/// stretch of a drain, the wait to be assigned away, and as much time again. A client
/// that waits for longer has given up.
pub const HOLD_MAX: Duration = Duration::from_secs(5);

/// How far a holder is with letting its clients go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Departure {
    /// It serves, and takes new connections.
    #[default]
    Staying,
    /// It holds new connections and finishes what is in flight.
    Draining,
    /// Nothing is in flight, or the time for that is over.
    Drained {
        /// How many connections were still busy.
        busy: u32,
        /// How long it took.
        took: Duration,
    },
}

/// What the leader makes of a planned move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// The holder has let its clients go, or cannot: propose.
    Now,
    /// It has not yet.
    Wait,
}

/// The leader's planned moves under way.
#[derive(Clone, Debug, Default)]
pub struct Switchovers {
    asked: BTreeMap<GroupId, Asked>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    epoch: Epoch,
    since: Moment,
    /// Since when the holder does not say that it serves.
    lost: Option<Moment>,
}

impl Switchovers {
    /// A planned move of a group away from its holder is wanted: whether it may be
    /// proposed now. `said` is the holder's own account, if it is fresh.
    pub fn consider(
        &mut self,
        now: Moment,
        drain: Duration,
        current: &Assigned,
        said: Option<&GroupReport>,
    ) -> Go {
        let group = current.assign.group;
        let serves = said.is_some_and(|said| {
            said.epoch == current.epoch && matches!(said.standing, Standing::Open)
        });
        let known = self.asked.get_mut(&group);
        if let Some(asked) = known.filter(|asked| asked.epoch == current.epoch && !serves) {
            // A worker that was replaced in the middle serves on and says so in a moment.
            let lost = *asked.lost.get_or_insert(now);
            return match now.since(lost) < HEARING_MAX {
                true => Go::Wait,
                false => Go::Now,
            };
        }
        if drain.is_zero() || !serves {
            return Go::Now;
        }
        let new = Asked {
            epoch: current.epoch,
            since: now,
            lost: None,
        };
        let asked = self.asked.entry(group).or_insert(new);
        if asked.epoch != current.epoch {
            *asked = new;
        }
        asked.lost = None;
        let waited = now.since(asked.since);
        let departure = said.map(|said| said.departure).unwrap_or_default();
        let enough = match departure {
            Departure::Drained { .. } => true,
            Departure::Draining => waited >= HEARING_MAX + drain + DRAIN_SLACK,
            Departure::Staying => waited >= HEARING_MAX,
        };
        if enough { Go::Now } else { Go::Wait }
    }

    /// No planned move of this group is wanted.
    pub fn drop_group(&mut self, group: GroupId) {
        self.asked.remove(&group);
    }

    /// Forgets what has happened: groups that are in another epoch by now.
    pub fn keep_current(&mut self, epoch_of: impl Fn(GroupId) -> Option<Epoch>) {
        self.asked
            .retain(|group, asked| epoch_of(*group) == Some(asked.epoch));
    }

    /// This node does not lead any more.
    pub fn clear(&mut self) {
        self.asked.clear();
    }

    /// What the holders are asked to leave.
    pub fn leaving(&self) -> Vec<(GroupId, Epoch)> {
        let asked = self.asked.iter();
        asked.map(|(group, asked)| (*group, asked.epoch)).collect()
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }
}

/// The holder's side for one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leave {
    /// Nobody asked.
    #[default]
    Staying,
    /// The mover holds new connections and waits for those in flight.
    Draining {
        /// Since when.
        since: Moment,
    },
    /// The mover is done.
    Drained {
        /// Since when.
        since: Moment,
        /// Connections that were still busy.
        busy: u32,
        /// How long it took.
        took: Duration,
    },
    /// It has waited too long to be assigned away: it serves on until it is asked anew.
    Tired,
}

impl Leave {
    /// What it is after the leader's last word; `asked`: within [`UNASKED_MAX`].
    pub fn asked(self, now: Moment, asked: bool, drain: Duration) -> Self {
        if !asked {
            return Self::Staying;
        }
        match self {
            Self::Staying => Self::Draining { since: now },
            Self::Draining { since } if now.since(since) >= drain + DRAIN_SLACK + DRAINED_MAX => {
                Self::Tired
            }
            Self::Drained { since, .. } if now.since(since) >= DRAINED_MAX => Self::Tired,
            same @ (Self::Draining { .. } | Self::Drained { .. } | Self::Tired) => same,
        }
    }

    /// What it is after the mover's word.
    pub fn drained(self, now: Moment, busy: u32) -> Self {
        match self {
            Self::Draining { since } => Self::Drained {
                since: now,
                busy,
                took: now.since(since),
            },
            same @ (Self::Staying | Self::Drained { .. } | Self::Tired) => same,
        }
    }

    /// What the others hear.
    pub fn departure(self) -> Departure {
        match self {
            Self::Staying | Self::Tired => Departure::Staying,
            Self::Draining { .. } => Departure::Draining,
            Self::Drained { busy, took, .. } => Departure::Drained { busy, took },
        }
    }

    /// Whether new connections are to be held.
    pub fn holds(self) -> bool {
        matches!(self, Self::Draining { .. } | Self::Drained { .. })
    }
}

/// What the old holder says of its clients, for the evidence of a move.
pub fn account(departure: Departure) -> Option<String> {
    let Departure::Drained { busy, took } = departure else {
        return None;
    };
    let ms = took.as_millis();
    let text = match busy {
        0 => format!("its clients were let go within {ms} ms, no request was cut off"),
        1 => format!("one connection was still busy after {ms} ms and is reset"),
        _ => format!("{busy} connections were still busy after {ms} ms and are reset"),
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    const DRAIN: Duration = Duration::from_secs(2);

    /// The holder's table.
    #[test]
    fn the_holders_table_is_walked() {
        let draining = Leave::Draining { since: at(0) };
        let drained = Leave::Drained {
            since: at(70),
            busy: 0,
            took: Duration::from_millis(70),
        };
        let table = [
            (Leave::Staying, 0, true, draining),
            (draining, 4_499, true, draining),
            (draining, 4_500, true, Leave::Tired),
            (drained, 2_069, true, drained),
            (drained, 2_070, true, Leave::Tired),
            (Leave::Tired, 9_000, true, Leave::Tired),
            (Leave::Staying, 0, false, Leave::Staying),
            (draining, 10, false, Leave::Staying),
            (drained, 80, false, Leave::Staying),
            (Leave::Tired, 9_000, false, Leave::Staying),
        ];
        for (from, ms, asked, to) in table {
            assert_eq!(from.asked(at(ms), asked, DRAIN), to, "{from:?} {asked}");
        }
        assert_eq!(draining.drained(at(70), 0), drained);
        assert_eq!(drained.drained(at(90), 5), drained, "the first word counts");
        for one in [Leave::Staying, Leave::Tired] {
            assert_eq!(one.drained(at(70), 0), one);
        }
        let holds = |leave: Leave| leave.holds();
        assert!(holds(draining) && holds(drained));
        assert!(!holds(Leave::Staying) && !holds(Leave::Tired));
    }

    /// What the kernel is told outlasts what the holder waits for.
    #[test]
    fn the_hold_outlasts_the_wait() {
        assert!(HOLD_MAX > DRAINED_MAX * 2);
    }

    #[test]
    fn the_account_says_what_was_cut_off() {
        let took = Duration::from_millis(103);
        let text = |busy| account(Departure::Drained { busy, took }).expect("an account");
        assert!(text(0).contains("within 103 ms, no request"));
        assert!(text(1).starts_with("one connection"));
        assert!(text(7).starts_with("7 connections"));
        assert_eq!(account(Departure::Draining), None);
    }
}
