//! One group on this node: from the lease machine's word to what the rooms should do.
//!
//! | now      | assigned to us | opened | lapsed | held again | assigned away, released |
//! |----------|----------------|--------|--------|------------|-------------------------|
//! | Off      | Opening        | -      | -      | -          | Off                     |
//! | Opening  | Opening        | Open   | Lapsed | -          | Released, Off           |
//! | Open     | Opening (newer)| Open   | Lapsed | Open       | Released, Off           |
//! | Lapsed   | Opening (newer)| Open   | Lapsed | Open       | Released, Off           |
//! | Released | Opening (newer)| -      | -      | -          | Released                |
//!
//! While it is open, [`Leave`] says whether its clients are let go for a planned move. What
//! the administrator has run before the closing runs first, while the group still serves: held
//! connections would not wait for it.

use core::time::Duration;

use crate::Moment;
use crate::command::{Opened, Phase};
use crate::health::Standing;
use crate::names::{Epoch, GroupId, NodeId};
use crate::switchover::{Departure, Leave, UNASKED_MAX};
use crate::topology::ServiceAddress;

/// What the lease machine says of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leased {
    /// It is open.
    Open,
    /// It was open; its lease ran out and may come back.
    Lapsed,
    /// It was given up.
    Released,
}

/// What the movers should make true for a group (a level, not an order).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing of the group is on this machine.
    Absent,
    /// The addresses are configured, the guard keeps them mute, nothing is announced.
    Closed {
        /// The addresses of the assignment.
        addresses: Vec<ServiceAddress>,
    },
    /// Announced and serving.
    Open {
        /// The epoch: a new one announces anew.
        epoch: Epoch,
        /// The addresses of the assignment.
        addresses: Vec<ServiceAddress>,
    },
    /// Serving what is in flight; new connections are held for the next holder.
    Draining {
        /// The epoch.
        epoch: Epoch,
        /// The addresses of the assignment.
        addresses: Vec<ServiceAddress>,
        /// How long requests in flight may take.
        drain: Duration,
    },
}

/// What of a group should run on this machine beside its addresses (a level, not an order).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Only what runs on every node of the group.
    Standby,
    /// All of it: this node is about to open the group.
    Opening {
        /// The epoch.
        epoch: Epoch,
    },
    /// All of it: the group is open here.
    Open {
        /// The epoch.
        epoch: Epoch,
    },
    /// All of it, and what comes before a planned closing.
    Closing {
        /// The epoch.
        epoch: Epoch,
    },
}

impl Run {
    /// Under which assignment the group is held here, or about to be.
    pub fn epoch(self) -> Option<Epoch> {
        match self {
            Self::Standby => None,
            Self::Opening { epoch } | Self::Open { epoch } | Self::Closing { epoch } => Some(epoch),
        }
    }

    /// Whether the group is held here, or about to be.
    pub fn is_holding(self) -> bool {
        self.epoch().is_some()
    }
}

/// What of a group in use here has to wait for its administrator, and how long its clients
/// get, when it moves as planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Farewell {
    /// For requests in flight.
    pub drain: Duration,
    /// For what is run before they are waited for.
    pub before_close: Duration,
}

impl Farewell {
    /// Both.
    pub fn whole(self) -> Duration {
        self.before_close + self.drain
    }
}

/// One group on this node.
#[derive(Clone, Debug)]
pub struct Role {
    group: GroupId,
    epoch: Epoch,
    standing: Standing,
    since: Moment,
    addresses: Vec<ServiceAddress>,
    /// Open by the lease machine's word alone: the log is not known.
    unlogged: bool,
    appended_at: Moment,
    phases: Vec<Phase>,
    told: bool,
    leave: Leave,
    /// When the leader asked last to let the clients go.
    asked_at: Option<Moment>,
    farewell: Farewell,
    /// What is run before the closing is over.
    may_close: bool,
}

/// The most phases that one move tells of.
pub const PHASES_MAX: usize = 12;

impl Role {
    /// A group that is not here.
    pub fn new(group: GroupId, now: Moment) -> Self {
        Self {
            group,
            epoch: Epoch::NONE,
            standing: Standing::Off,
            since: now,
            addresses: Vec::new(),
            unlogged: false,
            appended_at: now,
            phases: Vec::new(),
            told: false,
            leave: Leave::Staying,
            asked_at: None,
            farewell: Farewell::default(),
            may_close: false,
        }
    }

    /// How the group stands here.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The epoch it speaks of.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Since when it has stood so.
    pub fn since(&self) -> Moment {
        self.since
    }

    fn stand(&mut self, now: Moment, standing: Standing) {
        if self.standing != standing {
            self.standing = standing;
            self.since = now;
            (self.leave, self.asked_at) = (Leave::Staying, None);
            self.may_close = false;
        }
    }

    /// Whether the leader asks to let the clients go. True if that changes anything.
    pub fn asked_to_leave(&mut self, now: Moment, asked: bool, farewell: Farewell) -> bool {
        if asked && self.standing == Standing::Open {
            self.asked_at = Some(now);
        }
        let lately = |at: Moment| now.since(at) < UNASKED_MAX;
        let asked = self.asked_at.is_some_and(lately);
        let before = self.leave;
        self.leave = before.asked(now, asked, farewell.whole());
        self.farewell = farewell;
        self.may_close &= self.leave.holds();
        self.leave != before
    }

    /// What is run before the closing of an epoch is over.
    pub fn may_close(&mut self, epoch: Epoch) {
        self.may_close |= epoch == self.epoch && self.leave.holds();
    }

    /// Whether its clients are let go now.
    fn lets_go(&self) -> bool {
        self.leave.holds() && (self.may_close || self.farewell.before_close.is_zero())
    }

    /// The mover has let the clients of an epoch go. True if that was waited for.
    pub fn drained(&mut self, now: Moment, epoch: Epoch, busy: u32) -> bool {
        let before = self.leave;
        if epoch == self.epoch {
            self.leave = before.drained(now, busy);
        }
        self.leave != before
    }

    /// How far it is with letting its clients go.
    pub fn departure(&self) -> Departure {
        self.leave.departure()
    }

    /// An assignment that names this life of this node has become durable here.
    pub fn assigned(&mut self, now: Moment, epoch: Epoch, addresses: &[ServiceAddress]) {
        if epoch == self.epoch && self.unlogged {
            self.addresses = addresses.to_vec();
            self.unlogged = false;
        }
        if epoch <= self.epoch {
            return;
        }
        self.epoch = epoch;
        self.unlogged = false;
        self.addresses = addresses.to_vec();
        self.appended_at = now;
        self.phases.clear();
        self.told = false;
        self.stand(now, Standing::Opening);
    }

    /// The lease machine goes on with an epoch while the log cannot be read: a worker that follows
    /// another beside a disk that hangs. What is assigned shows later; until then the group has
    /// the `addresses` that it had here.
    pub fn continued(&mut self, now: Moment, epoch: Epoch, addresses: &[ServiceAddress]) {
        if epoch <= self.epoch {
            return;
        }
        self.epoch = epoch;
        self.unlogged = true;
        self.addresses = addresses.to_vec();
        self.appended_at = now;
        self.stand(now, Standing::Opening);
    }

    /// Whether it rests on the lease machine's word alone.
    pub fn is_unlogged(&self) -> bool {
        self.unlogged
    }

    /// The log cannot be read, and the lease machine knows a newer epoch, of somebody else.
    pub fn continued_elsewhere(&mut self, now: Moment, epoch: Epoch) {
        if epoch <= self.epoch {
            return;
        }
        self.epoch = epoch;
        self.unlogged = true;
        self.addresses.clear();
        self.stand(now, Standing::Off);
    }

    /// An assignment that names somebody else has become durable here.
    pub fn assigned_away(&mut self, now: Moment, epoch: Epoch) {
        if epoch <= self.epoch {
            return;
        }
        self.stand(now, Standing::Off);
    }

    /// The epoch was given up.
    pub fn released(&mut self, now: Moment, epoch: Epoch) {
        if epoch == self.epoch && self.standing != Standing::Off {
            self.stand(now, Standing::Released);
        }
    }

    /// The lease machine opened the epoch. True if that is news.
    pub fn opened(&mut self, now: Moment, epoch: Epoch) -> bool {
        let held = match self.standing {
            Standing::Opening | Standing::Lapsed => true,
            // What was assigned away or given up meanwhile is over, whatever was under way.
            Standing::Open | Standing::Off | Standing::Released => false,
        };
        if epoch != self.epoch || !held {
            return false;
        }
        let first = self.standing == Standing::Opening;
        self.stand(now, Standing::Open);
        if first {
            self.phase(now, "older promises had run out, guard opened");
        }
        first
    }

    /// The proven lease ran out. True if that is news. To a worker that goes on for another
    /// an epoch looks as if it were about to open, until the lease thread tells.
    pub fn lapsed(&mut self, now: Moment, epoch: Epoch) -> bool {
        let held = match self.standing {
            Standing::Opening | Standing::Open => true,
            Standing::Off | Standing::Lapsed | Standing::Released => false,
        };
        let news = epoch == self.epoch && held;
        if news {
            self.stand(now, Standing::Lapsed);
        }
        news
    }

    /// What the lease machine had said of the epoch before it was known here.
    pub fn leased(&mut self, now: Moment, epoch: Epoch, word: Leased) {
        match word {
            Leased::Open => {
                self.opened(now, epoch);
            }
            Leased::Lapsed => {
                self.lapsed(now, epoch);
            }
            Leased::Released => self.released(now, epoch),
        }
    }

    /// Notes a phase of the move.
    pub fn phase(&mut self, now: Moment, what: &str) {
        if self.phases.len() < PHASES_MAX {
            let after = now.since(self.appended_at);
            self.phases.push(Phase {
                what: what.to_owned(),
                after,
            });
        }
    }

    /// How long ago the assignment reached this node.
    pub fn after_assignment(&self, now: Moment) -> Duration {
        now.since(self.appended_at)
    }

    /// The account of the opening, once.
    pub fn account(&mut self, node: NodeId) -> Option<Opened> {
        if self.told || self.standing != Standing::Open {
            return None;
        }
        self.told = true;
        Some(Opened {
            group: self.group,
            epoch: self.epoch,
            node,
            phases: self.phases.clone(),
        })
    }

    /// Forgets that the account was given: it was not agreed on.
    pub fn untell(&mut self, epoch: Epoch) {
        if epoch == self.epoch {
            self.told = false;
        }
    }

    /// What the movers should make true.
    pub fn want(&self) -> Want {
        match self.standing {
            Standing::Off | Standing::Released => Want::Absent,
            Standing::Opening | Standing::Lapsed => Want::Closed {
                addresses: self.addresses.clone(),
            },
            Standing::Open if self.lets_go() => Want::Draining {
                epoch: self.epoch,
                addresses: self.addresses.clone(),
                drain: self.farewell.drain,
            },
            Standing::Open => Want::Open {
                epoch: self.epoch,
                addresses: self.addresses.clone(),
            },
        }
    }

    /// What should run beside the addresses. Nothing new, for `patience`, after the right to
    /// act is lost: it may come back, and a pause of the voters is not a move (DESIGN 3.1
    /// rule 6). What stops after that takes the epoch with it ([`Role::abandons`]).
    ///
    /// `alone` since then this node hears no majority of those who decide: nobody could tell it
    /// that the group, which it is about to open, has gone elsewhere meanwhile.
    pub fn run(&self, now: Moment, patience: Duration, alone: Option<Moment>) -> Option<Run> {
        let epoch = self.epoch;
        match self.standing {
            Standing::Off => Some(Run::Standby),
            Standing::Opening => {
                let cut_off = alone.map_or(Duration::ZERO, |at| now.since(at.max(self.since)));
                let goes_on = cut_off < patience;
                Some(if goes_on {
                    Run::Opening { epoch }
                } else {
                    Run::Standby
                })
            }
            Standing::Open if self.leave.holds() => Some(Run::Closing { epoch }),
            Standing::Open => Some(Run::Open { epoch }),
            Standing::Lapsed | Standing::Released => {
                (now.since(self.since) >= patience).then_some(Run::Standby)
            }
        }
    }

    /// The epoch that is over for this node if so much runs and no more, though nobody else
    /// has got the group yet: what had been made ready for it no longer is.
    pub fn abandons(&self, run: Run) -> Option<Epoch> {
        let lost = match self.standing {
            Standing::Opening | Standing::Lapsed => run == Run::Standby,
            Standing::Off | Standing::Open | Standing::Released => false,
        };
        lost.then_some(self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(index: u64) -> Epoch {
        Epoch { term: 1, index }
    }

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    /// Brings a role into a standing at epoch 5.
    fn role(standing: Standing) -> Role {
        let mut role = Role::new(GroupId(1), at(0));
        let put = |role: &mut Role| role.assigned(at(1), epoch(5), &[]);
        match standing {
            Standing::Off => {}
            Standing::Opening => put(&mut role),
            Standing::Open => {
                put(&mut role);
                role.opened(at(2), epoch(5));
            }
            Standing::Lapsed => {
                put(&mut role);
                role.opened(at(2), epoch(5));
                role.lapsed(at(3), epoch(5));
            }
            Standing::Released => {
                put(&mut role);
                role.released(at(3), epoch(5));
            }
        }
        assert_eq!(role.standing(), standing);
        role
    }

    #[derive(Clone, Copy)]
    enum Step {
        Assigned,
        Opened,
        Lapsed,
        Away,
        Released,
        StaleOpened,
        StaleLapsed,
    }

    /// The lease thread had opened it when the assignment to somebody else came.
    #[test]
    fn what_was_assigned_away_is_not_opened_by_a_late_word() {
        let mut role = role(Standing::Opening);
        role.assigned_away(at(3), epoch(6));
        assert!(!role.opened(at(4), epoch(5)));
        assert_eq!(role.standing(), Standing::Off);
    }

    /// The whole table of the module's doc.
    #[test]
    fn the_table_is_walked() {
        use Standing::{Lapsed, Off, Open, Opening, Released};
        let table = [
            (Off, Step::Assigned, Opening),
            (Off, Step::Opened, Off),
            (Off, Step::Lapsed, Off),
            (Off, Step::Away, Off),
            (Off, Step::Released, Off),
            (Opening, Step::Assigned, Opening),
            (Opening, Step::Opened, Open),
            (Opening, Step::Lapsed, Lapsed),
            (Opening, Step::StaleLapsed, Opening),
            (Opening, Step::Away, Off),
            (Opening, Step::Released, Released),
            (Opening, Step::StaleOpened, Opening),
            (Open, Step::Assigned, Opening),
            (Open, Step::Opened, Open),
            (Open, Step::Lapsed, Lapsed),
            (Open, Step::StaleLapsed, Open),
            (Open, Step::Away, Off),
            (Open, Step::Released, Released),
            (Lapsed, Step::Assigned, Opening),
            (Lapsed, Step::Opened, Open),
            (Lapsed, Step::StaleOpened, Lapsed),
            (Lapsed, Step::Lapsed, Lapsed),
            (Lapsed, Step::Away, Off),
            (Lapsed, Step::Released, Released),
            (Released, Step::Assigned, Opening),
            (Released, Step::Opened, Released),
            (Released, Step::Away, Off),
            (Released, Step::Released, Released),
        ];
        for (from, step, to) in table {
            let mut role = role(from);
            // Nothing was assigned to a role that is off, so its epoch is none.
            let own = role.epoch();
            match step {
                Step::Assigned => role.assigned(at(9), epoch(6), &[]),
                Step::Opened => {
                    role.opened(at(9), own);
                }
                Step::StaleOpened => {
                    role.opened(at(9), epoch(4));
                }
                // Nothing that is off can lapse: no epoch is none.
                Step::Lapsed => {
                    role.lapsed(at(9), own);
                }
                Step::StaleLapsed => {
                    role.lapsed(at(9), epoch(4));
                }
                Step::Away => role.assigned_away(at(9), epoch(6)),
                Step::Released => role.released(at(9), own),
            }
            assert_eq!(role.standing(), to, "from {from:?}");
        }
    }

    #[test]
    fn addresses_are_configured_before_and_kept_while_mute() {
        assert_eq!(role(Standing::Off).want(), Want::Absent);
        assert_eq!(
            role(Standing::Opening).want(),
            Want::Closed { addresses: vec![] }
        );
        assert!(matches!(role(Standing::Open).want(), Want::Open { .. }));
        assert_eq!(
            role(Standing::Lapsed).want(),
            Want::Closed { addresses: vec![] }
        );
        assert_eq!(role(Standing::Released).want(), Want::Absent);
    }

    #[test]
    fn clients_are_let_go_only_while_it_is_open_and_asked() {
        let drain = Duration::from_secs(2);
        let farewell = Farewell {
            drain,
            ..Farewell::default()
        };
        for standing in [Standing::Off, Standing::Opening, Standing::Lapsed] {
            let mut role = role(standing);
            assert!(!role.asked_to_leave(at(9), true, farewell), "{standing:?}");
        }
        let mut role = role(Standing::Open);
        assert!(role.asked_to_leave(at(9), true, farewell));
        let wanted = Want::Draining {
            epoch: epoch(5),
            addresses: vec![],
            drain,
        };
        assert_eq!(role.want(), wanted);
        assert!(!role.drained(at(80), epoch(4), 0), "of an older epoch");
        assert!(role.drained(at(80), epoch(5), 1));
        let took = Duration::from_millis(71);
        assert_eq!(role.departure(), Departure::Drained { busy: 1, took });
        assert_eq!(role.want(), wanted, "held until it is assigned away");
        assert!(
            !role.asked_to_leave(at(300), false, farewell),
            "it may be agreed on"
        );
        assert!(role.asked_to_leave(at(309), false, farewell));
        assert_eq!(role.departure(), Departure::Staying);
        role.asked_to_leave(at(310), true, farewell);
        role.lapsed(at(390), epoch(5));
        assert_eq!(role.departure(), Departure::Staying);
        role.opened(at(395), epoch(5));
        assert!(matches!(role.want(), Want::Open { .. }));
    }

    #[test]
    fn what_runs_before_the_closing_is_waited_for_while_it_serves() {
        let farewell = Farewell {
            drain: Duration::from_secs(2),
            before_close: Duration::from_secs(5),
        };
        let mut role = role(Standing::Open);
        role.may_close(epoch(5));
        role.asked_to_leave(at(9), true, farewell);
        assert!(matches!(role.want(), Want::Open { .. }), "said too early");
        let running = |role: &Role| role.run(at(9), Duration::from_secs(1), None);
        assert_eq!(running(&role), Some(Run::Closing { epoch: epoch(5) }));
        assert_eq!(role.departure(), Departure::Draining);
        role.may_close(epoch(4));
        assert!(matches!(role.want(), Want::Open { .. }), "an older epoch");
        role.may_close(epoch(5));
        assert!(matches!(role.want(), Want::Draining { .. }));
        role.asked_to_leave(at(900), false, farewell);
        assert_eq!(running(&role), Some(Run::Open { epoch: epoch(5) }));
        role.asked_to_leave(at(1_000), true, farewell);
        assert!(matches!(role.want(), Want::Open { .. }), "it runs anew");
    }

    #[test]
    fn what_runs_on_the_holder_stops_when_the_lease_does_not_come_back() {
        let patience = Duration::from_secs(1);
        for standing in [Standing::Lapsed, Standing::Released] {
            let role = role(standing);
            assert_eq!(role.run(at(1_002), patience, None), None, "{standing:?}");
            assert_eq!(role.run(at(1_003), patience, None), Some(Run::Standby));
        }
        let mut role = role(Standing::Lapsed);
        role.assigned_away(at(4), epoch(6));
        assert_eq!(role.run(at(4), patience, None), Some(Run::Standby));
    }

    #[test]
    fn what_starts_on_a_node_that_is_cut_off_stops_after_a_while() {
        let patience = Duration::from_secs(1);
        let role = role(Standing::Opening);
        let goes_on = Some(Run::Opening { epoch: epoch(5) });
        assert_eq!(
            role.run(at(60_000), patience, None),
            goes_on,
            "a long start"
        );
        // It was cut off before it was assigned, and after.
        for (alone, until) in [(at(0), 1_001), (at(30_000), 31_000)] {
            let run = |ms| role.run(at(ms), patience, Some(alone));
            assert_eq!(run(until - 1), goes_on);
            assert_eq!(run(until), Some(Run::Standby));
        }
        let open = self::role(Standing::Open);
        let run = open.run(at(60_000), patience, Some(at(3)));
        assert_eq!(
            run,
            Some(Run::Open { epoch: epoch(5) }),
            "its lease decides"
        );
    }

    #[test]
    fn an_epoch_ends_here_with_what_runs_in_it() {
        for standing in [Standing::Opening, Standing::Lapsed] {
            let role = role(standing);
            assert_eq!(role.abandons(Run::Standby), Some(epoch(5)), "{standing:?}");
        }
        let opening = role(Standing::Opening);
        assert_eq!(opening.abandons(Run::Opening { epoch: epoch(5) }), None);
        for standing in [Standing::Off, Standing::Released] {
            assert_eq!(role(standing).abandons(Run::Standby), None, "{standing:?}");
        }
        let open = role(Standing::Open);
        assert_eq!(open.abandons(Run::Open { epoch: epoch(5) }), None);
    }

    #[test]
    fn the_account_is_given_once() {
        let mut role = role(Standing::Open);
        assert!(role.account(NodeId(1)).is_some());
        assert!(role.account(NodeId(1)).is_none());
        role.untell(epoch(5));
        assert!(role.account(NodeId(1)).is_some());
    }
}
