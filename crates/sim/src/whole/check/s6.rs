//! S6: every move in the ledger is explained by something that was true in the world.
//!
//! The books hold what happened, by the world's own hand and clock, as far as a move can be
//! explained by it; each decided assignment must find its cause among what was so lately.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use evenkeel_core::command::Assign;
use evenkeel_core::evidence::Cause;
use evenkeel_core::health::{Report, Standing};
use evenkeel_core::lease::Message;
use evenkeel_core::ledger::Assigned;
use evenkeel_core::topology::Timing;
use evenkeel_core::{Epoch, GroupId, Incarnation, Moment, NodeId};

use super::{Violation, broken};
use crate::whole::host::Host;
use crate::whole::recipe::S;

/// How long ago something may have been so: a report is fresh for 700 ms, a proposal may take as
/// long as its leader leads without a majority, and a check's answer counts for some intervals.
const LATELY: u64 = 15 * S;

/// What a voter heard of a holder, on its own clock, and when that was a reason to suspect it.
#[derive(Clone, Copy, Default)]
struct Ear {
    epoch: Epoch,
    heard: Moment,
    proven: u64,
    advanced: Moment,
    /// True time of the last end of a silence.
    silent: Option<u64>,
    /// True time at which the proven deadline had stood still for long.
    deaf: Option<u64>,
}

/// Its books.
pub(in crate::whole) struct Books {
    timing: Timing,
    ears: BTreeMap<(usize, GroupId), Ear>,
    /// When each node's lease of a group advanced last, on its clock; true time of the end of a
    /// standstill.
    leases: BTreeMap<(usize, GroupId), (Moment, Option<u64>)>,
    /// When a check said that a node fails a group.
    failing: BTreeMap<(GroupId, NodeId), u64>,
    /// When an operator wished a switch.
    wished: BTreeMap<GroupId, u64>,
    /// When a node was told to stop, or said that it stops.
    stopped: BTreeMap<NodeId, u64>,
    /// When a node said that it could not serve a group, or gave it up.
    unready: BTreeMap<(GroupId, NodeId), u64>,
    released: BTreeMap<(GroupId, NodeId), u64>,
    /// When a node last said of an epoch that it holds it no more.
    over: BTreeMap<(GroupId, NodeId, Epoch), u64>,
    /// The assignments that a node has proposed, as entries, and whether their cause was so then.
    proposed: BTreeMap<Vec<u8>, bool>,
    /// The newest assignment that any node has on its disk.
    floors: BTreeMap<GroupId, Epoch>,
    lives: BTreeMap<NodeId, BTreeSet<Incarnation>>,
    /// Who led each term.
    leaders: BTreeMap<u64, NodeId>,
    /// The newest assignment of each group.
    current: BTreeMap<GroupId, (Epoch, Assign)>,
    drained: BTreeMap<NodeId, u64>,
}

impl Books {
    /// Nothing has happened.
    pub(in crate::whole) fn new(timing: Timing) -> Self {
        Self {
            timing,
            ears: BTreeMap::new(),
            leases: BTreeMap::new(),
            failing: BTreeMap::new(),
            wished: BTreeMap::new(),
            stopped: BTreeMap::new(),
            unready: BTreeMap::new(),
            released: BTreeMap::new(),
            over: BTreeMap::new(),
            proposed: BTreeMap::new(),
            floors: BTreeMap::new(),
            lives: BTreeMap::new(),
            leaders: BTreeMap::new(),
            current: BTreeMap::new(),
            drained: BTreeMap::new(),
        }
    }

    /// A voter's machine is handed a message.
    pub(in crate::whole) fn heard(&mut self, at: u64, now: Moment, node: usize, message: &Message) {
        let Message::Renew(renew) = message else {
            return;
        };
        let (silent, deaf) = (self.silent_after(), self.deaf_after());
        let ear = self.ears.entry((node, renew.group)).or_default();
        if renew.epoch < ear.epoch {
            return;
        }
        let unheard = now.since(ear.heard);
        if unheard >= silent {
            ear.silent = Some(at);
        }
        if renew.epoch > ear.epoch || renew.proven > ear.proven || unheard >= renew.length {
            // After a silence, what it hears is judged from now on.
            ear.advanced = now;
        } else if now.since(ear.advanced) >= deaf {
            ear.deaf = Some(at);
        }
        // One that was overtaken on the way proves nothing less.
        let known = if renew.epoch > ear.epoch {
            0
        } else {
            ear.proven
        };
        (ear.epoch, ear.proven) = (renew.epoch, renew.proven.max(known));
        ear.heard = now;
    }

    /// A voter's machine is told of an assignment on its disk: from here on its holder is to renew it,
    /// and what renews an older one says nothing.
    pub(in crate::whole) fn floor(
        &mut self,
        now: Moment,
        node: usize,
        group: GroupId,
        floor: Epoch,
    ) {
        let known = self.floors.entry(group).or_insert(floor);
        *known = floor.max(*known);
        let ear = self.ears.entry((node, group)).or_default();
        if floor > ear.epoch {
            (ear.epoch, ear.proven) = (floor, 0);
            (ear.heard, ear.advanced) = (now, now);
        }
    }

    /// A holder's lease advances.
    pub(in crate::whole) fn extended(&mut self, at: u64, now: Moment, node: usize, group: GroupId) {
        let deaf = self.deaf_after();
        let own = self.leases.entry((node, group)).or_insert((now, None));
        if now.since(own.0) >= deaf {
            own.1 = Some(at);
        }
        own.0 = now;
    }

    /// A holder begins to ask for its lease: from here on it is expected to advance.
    pub(in crate::whole) fn asks(&mut self, now: Moment, node: usize, group: GroupId) {
        let own = self.leases.entry((node, group)).or_insert((now, None));
        own.0 = now;
    }

    /// How long a lease must stand still to be suspicious at the next look: a voter looks up to one
    /// and a half heartbeats after it heard a holder.
    fn deaf_after(&self) -> Duration {
        (self.timing.lease * 2 / 3).saturating_sub(self.timing.heartbeat * 3 / 2)
    }

    /// Whether a node's own lease stands still, or did lately.
    fn is_deaf(&self, at: u64, node: usize, group: GroupId, hosts: &[Host]) -> bool {
        let Some((last, ended)) = self.leases.get(&(node, group)) else {
            return false;
        };
        let now = hosts[node].now(at);
        let ended = ended.is_some_and(|since| at <= since + LATELY);
        ended || now.since(*last) >= self.deaf_after()
    }

    /// How long a silence is suspicious, with what a timer may be late.
    fn silent_after(&self) -> Duration {
        self.timing.lease * 3 / 4
    }

    /// The machine of a node starts: its clock begins anew.
    pub(in crate::whole) fn booted(&mut self, node: usize) {
        self.ears.retain(|(of, _), _| *of != node);
        self.leases.retain(|(of, _), _| *of != node);
    }

    /// A lease was given up.
    pub(in crate::whole) fn gave_up(&mut self, at: u64, group: GroupId, node: NodeId) {
        self.released.insert((group, node), at);
    }

    /// A check says that a node fails a group.
    pub(in crate::whole) fn failing(&mut self, at: u64, group: GroupId, judged: NodeId) {
        self.failing.insert((group, judged), at);
    }

    /// An operator wishes a switch.
    pub(in crate::whole) fn wished(&mut self, at: u64, group: GroupId) {
        self.wished.insert(group, at);
    }

    /// A node is told to stop.
    pub(in crate::whole) fn stopped(&mut self, at: u64, node: NodeId) {
        self.stopped.insert(node, at);
    }

    /// Whether a node was lately told to stop, or said that it stops.
    pub(in crate::whole) fn stops(&self, at: u64, node: NodeId) -> bool {
        let since = self.stopped.get(&node);
        since.is_some_and(|since| at <= since + LATELY)
    }

    /// A drain was decided, or ended.
    pub(in crate::whole) fn drained(&mut self, at: u64, node: NodeId) {
        self.drained.insert(node, at);
    }

    /// A node leads a term.
    pub(in crate::whole) fn leads(&mut self, term: u64, node: NodeId) -> Result<(), Violation> {
        let known = *self.leaders.entry(term).or_insert(node);
        if known == node {
            return Ok(());
        }
        let seen = format!("nodes {known:?} and {node:?} both lead term {term}");
        broken("S2", seen)
    }

    /// A node reports of itself.
    pub(in crate::whole) fn reported(&mut self, at: u64, node: NodeId, report: &Report) {
        if report.stopping {
            self.stopped.insert(node, at);
        }
        for one in &report.groups {
            if matches!(one.standing, Standing::Released | Standing::Off) {
                // Maybe before it is agreed on that it should hold it.
                self.over.insert((one.group, node, one.epoch), at);
            }
            let ready = report.votes && report.caught_up && report.log_fault.is_none();
            if one.unready.is_some() || !ready {
                self.unready.insert((one.group, node), at);
            }
        }
    }

    /// A leader proposes a move: that is when its cause must be so. It may be decided much later, when
    /// a majority can be reached again.
    pub(in crate::whole) fn proposes(
        &mut self,
        at: u64,
        assign: &Assign,
        entry: &[u8],
        hosts: &[Host],
    ) {
        let so = self.explains(at, self.current.get(&assign.group), assign, hosts);
        self.proposed.insert(entry.to_vec(), so);
    }

    /// An assignment is on the disk of a node, decided or not.
    pub(in crate::whole) fn appended(&mut self, group: GroupId, epoch: Epoch) {
        let known = self.floors.entry(group).or_insert(epoch);
        *known = epoch.max(*known);
    }

    /// A daemon begins a life.
    pub(in crate::whole) fn begins(&mut self, node: NodeId, life: Incarnation) {
        self.lives.entry(node).or_default().insert(life);
    }

    /// A move was decided that nobody has told of.
    pub(in crate::whole) fn learned(&mut self, group: GroupId, assigned: &Assigned) {
        let known = self.current.get(&group);
        if known.is_none_or(|(epoch, _)| *epoch < assigned.epoch) {
            let current = (assigned.epoch, assigned.assign.clone());
            self.current.insert(group, current);
        }
    }

    /// A move is decided.
    pub(in crate::whole) fn moved(
        &mut self,
        epoch: Epoch,
        assign: &Assign,
        entry: &[u8],
    ) -> Result<(), Violation> {
        let before = self.current.insert(assign.group, (epoch, assign.clone()));
        let decided_by = assign.evidence.decided_by;
        if self
            .leaders
            .get(&epoch.term)
            .is_some_and(|leader| *leader != decided_by)
        {
            let seen = format!(
                "{epoch:?} was decided by node {decided_by:?}, and {:?} led its term",
                self.leaders[&epoch.term]
            );
            return broken("S6", seen);
        }
        let from = before.as_ref().map(|(_, before)| before.holder);
        if assign.evidence.from != from {
            let seen = format!(
                "{epoch:?} says that the group leaves {:?}, and it was on {from:?}",
                assign.evidence.from
            );
            return broken("S6", seen);
        }
        if self.proposed.remove(entry) == Some(true) {
            return Ok(());
        }
        let seen = format!(
            "{epoch:?} moves group {:?} to {:?} because \"{}\", which was not so",
            assign.group, assign.holder, assign.evidence.cause
        );
        broken("S6", seen)
    }

    fn explains(
        &self,
        at: u64,
        before: Option<&(Epoch, Assign)>,
        assign: &Assign,
        hosts: &[Host],
    ) -> bool {
        let group = assign.group;
        let lately = |since: Option<&u64>| since.is_some_and(|since| at <= since + LATELY);
        let Some((held, before)) = before else {
            return assign.evidence.cause == Cause::FirstStart;
        };
        if assign.evidence.cause == Cause::FirstStart {
            // Decided while the first one was not known yet.
            return assign.evidence.from.is_none();
        }
        let from = before.holder;
        let of_holder = (group, from);
        match &assign.evidence.cause {
            Cause::FirstStart | Cause::Recovered | Cause::HolderUnlisted => false,
            Cause::HolderSilent { voters, .. } => {
                let silent =
                    (0..hosts.len()).filter(|voter| self.is_silent(at, *voter, group, hosts));
                silent.count() >= *voters as usize
            }
            Cause::HolderDeaf { .. } => {
                let mut ears = self.ears.iter();
                let heard = ears.any(|((_, of), ear)| *of == group && lately(ear.deaf.as_ref()));
                // It may say so itself.
                let mut holders = (0..hosts.len()).filter(|host| hosts[*host].id == from);
                heard || holders.any(|host| self.is_deaf(at, host, group, hosts))
            }
            Cause::RuleHolds => lately(self.failing.get(&of_holder)),
            Cause::HolderUnready => {
                lately(self.unready.get(&of_holder)) || lately(self.stopped.get(&from))
            }
            Cause::Operator => lately(self.wished.get(&group)),
            Cause::HolderStopping => lately(self.stopped.get(&from)),
            Cause::HolderRestarted => {
                let lives = self.lives.get(&from).into_iter().flatten();
                lives.count() > 1
            }
            Cause::HolderReleased => {
                lately(self.over.get(&(group, from, *held)))
                    || lately(self.released.get(&of_holder))
            }
            Cause::FloorAbove { .. } => self.floors.get(&group).is_some_and(|floor| floor > held),
            Cause::Failback => hosts.iter().any(|host| host.id == assign.holder),
            Cause::Reconfigured => assign.addresses != before.addresses,
            Cause::Drained => self.drained.contains_key(&from),
        }
    }

    /// Whether a voter has not heard a holder for long, lately or now. One that holds the group
    /// itself, or has never heard of it, hears nobody else.
    fn is_silent(&self, at: u64, voter: usize, group: GroupId, hosts: &[Host]) -> bool {
        let Some(ear) = self.ears.get(&(voter, group)) else {
            return true;
        };
        let now = hosts[voter].now(at);
        let ended = ear.silent.is_some_and(|since| at <= since + LATELY);
        ended || now.since(ear.heard) >= self.silent_after()
    }
}
