//! The machine that the lease thread drives: voter side and holder side of all groups.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::holder::Tenure;
use super::message::{Answer, Message, Refusal, Released, Renew, Standing, Verdict};
use super::mirror::{Held, Mirror, Promise, Record, Start};
use super::output::{Event, Output, Phase, Why};
use super::settings::{GROUPS_MAX, PROMISES_MAX, Settings, VOTERS_MAX};
use super::voter::{Freed, Observation, Sighting, Voter};
use super::{Assignment, Lease};
use crate::Moment;
use crate::names::{Epoch, GroupId, Incarnation, NodeId};

/// The identity of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The life of the daemon. A worker restarted by its parent with a good mirror
    /// keeps it; every other start is a new one.
    pub incarnation: Incarnation,
    /// The first number of this process's Renews: nanoseconds of the boot clock at its
    /// start, so that no number is ever used twice by one incarnation.
    pub seq_base: u64,
}

/// Voter and holder of all groups on one node. See the module's page for the protocol.
///
/// The driver calls the methods with `now` read *after* the event arrived (a message
/// received, an append durable): an older `now` would make promises end too early.
/// After each call it polls all outputs and carries them out in order; it calls
/// [`Machine::tick`] at [`Machine::next_deadline`], earlier calls are harmless.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    settings: Settings,
    incarnation: Incarnation,
    /// Never runs back.
    now: Moment,
    /// Rule 4: until then this voter answers nothing.
    quiet_until: Moment,
    next_seq: u64,
    excluded: BTreeSet<NodeId>,
    groups: BTreeMap<GroupId, Group>,
    /// Emptied by the driver after every call, so bounded by what one call causes: a
    /// few for each voter of each group.
    steps: VecDeque<Step>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// The driver does something.
    Do(Output),
    /// The guard has shut, because the driver has come past the Close before this: only
    /// now is this node's own promise free. Nothing may know it free earlier, the
    /// mirror least of all: if the worker dies before the Close, the next one must not
    /// help anybody else while the guard is open. (The random search found that.)
    Shut(Released),
    /// The guard of a lapsed holder has shut: only now are its asks declared void, this
    /// node's own vote the first to hear of it.
    Void(GroupId),
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Group {
    floor: Option<Assignment>,
    committed: Epoch,
    voter: Voter,
    sighting: Sighting,
    spent: Epoch,
    /// Everything of the group is started for this epoch. Not in the mirror: the next
    /// process hears it anew from whoever starts things.
    ready: Epoch,
    /// The last deadline given to the guard.
    guard: Moment,
    /// Said since the guard's deadline passed.
    lapse: Lapse,
    /// At most two, the lower epoch first: one that is opened, and a newer one that is
    /// not yet.
    tenures: Vec<Tenure>,
}

/// Whether there was anything to lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    GivenBack,
    Nothing,
}

/// How far a lapse has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Lapse {
    #[default]
    None,
    Told,
    Abandoned,
}

impl Group {
    fn opened(&self) -> Option<&Tenure> {
        self.tenures.iter().find(|tenure| tenure.opened)
    }

    /// Nothing is known of it that the log does not tell again, and nothing runs.
    fn is_blank(&self) -> bool {
        self.floor.is_none()
            && self.committed == Epoch::NONE
            && self.spent == Epoch::NONE
            && self.tenures.is_empty()
            && self.voter.promises.is_empty()
    }

    fn tenure(&mut self, epoch: Epoch) -> Option<&mut Tenure> {
        self.tenures.iter_mut().find(|tenure| tenure.epoch == epoch)
    }
}

impl Machine {
    /// A machine that starts now. The driver writes [`Machine::mirror`] as a whole, then
    /// polls and carries out, and tells the durable floors with
    /// [`Machine::floor_raised`].
    ///
    /// # Panics
    /// If there are no voters, or more than [`VOTERS_MAX`].
    pub fn new(now: Moment, settings: Settings, life: Life, start: Start) -> Self {
        assert!(
            (1..=VOTERS_MAX).contains(&settings.voters.len()),
            "between 1 and 15 voters"
        );
        let mut machine = Self {
            settings,
            incarnation: life.incarnation,
            now,
            quiet_until: Moment::ZERO,
            next_seq: life.seq_base,
            excluded: BTreeSet::new(),
            groups: BTreeMap::new(),
            steps: VecDeque::new(),
        };
        match start {
            Start::Fresh => {}
            Start::Amnesiac { .. } if machine.settings.faults.no_restart_rule => {}
            Start::Amnesiac { quiet_for } => machine.quiet_until = now + quiet_for,
            Start::Mirrored(mirror) => machine.remember(now, &mirror),
        }
        machine
    }

    /// Takes up what the last process of this boot knew.
    fn remember(&mut self, now: Moment, mirror: &Mirror) {
        self.quiet_until = mirror.quiet_until;
        for record in mirror.records.iter().take(GROUPS_MAX) {
            let voter = Voter {
                released: record.released,
                promises: record.promises.iter().flatten().copied().collect(),
            };
            let group = self.groups.entry(record.group).or_default();
            group.floor = record.floor;
            group.committed = record.committed;
            group.voter = voter;
            if let Some(floor) = record.floor {
                group.sighting.expect(now, floor.epoch);
            }
            group.guard = record.guard;
            if let Some(held) = record.held {
                group.tenures.push(Tenure::resumed(now, held));
            }
            if mirror.incarnation == self.incarnation {
                group.spent = record.spent;
                self.shut_orphan(now, record);
                self.take_up(now, record.group);
            } else {
                self.lay_down(now, record, mirror.incarnation);
            }
            self.advance(now, record.group);
        }
    }

    /// Closes and gives back what an earlier life of this node held or waited for: that
    /// process is gone, the state directory's lock says so.
    fn lay_down(&mut self, now: Moment, record: &Record, earlier: Incarnation) {
        let id = record.group;
        let me = self.settings.me;
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if let Some(floor) = record.floor
            && floor.is_of(me, earlier)
            && floor.epoch > record.spent
            && record.held.is_none_or(|held| held.epoch < floor.epoch)
        {
            group.tenures.push(Tenure::new(now, floor.epoch));
        }
        if let Some(epoch) = self.give_back(id, earlier, None) {
            self.event(Event::Lost {
                group: id,
                epoch,
                why: Why::EarlierLife,
            });
        }
    }

    /// A guard that the last process left open under an epoch that is no more held: it
    /// died between deciding to close and closing. Closed and given back again.
    fn shut_orphan(&mut self, now: Moment, record: &Record) {
        let (id, epoch) = (record.group, record.spent);
        if record.held.is_none() && record.guard > now {
            self.push(Output::Close { group: id, epoch });
            let incarnation = self.incarnation;
            self.steps.push_back(Step::Shut(Released {
                group: id,
                epoch,
                incarnation,
            }));
        }
    }

    /// All that must outlive this process: written whole at once after a start, before
    /// anything is polled; later it is brought up to date record by record.
    pub fn mirror(&self) -> Mirror {
        Mirror {
            incarnation: self.incarnation,
            quiet_until: self.quiet_until,
            records: self
                .groups
                .keys()
                .filter_map(|id| self.record(*id))
                .collect(),
        }
    }

    /// The mirror's record of one group.
    pub fn record(&self, id: GroupId) -> Option<Record> {
        let group = self.groups.get(&id)?;
        let mut promises: [Option<Promise>; PROMISES_MAX] = [None; PROMISES_MAX];
        for (slot, promise) in promises.iter_mut().zip(&group.voter.promises) {
            *slot = Some(*promise);
        }
        let held = group.opened().map(|t| Held {
            epoch: t.epoch,
            until: t.lease,
        });
        Some(Record {
            group: id,
            floor: group.floor,
            committed: group.committed,
            released: group.voter.released,
            promises,
            spent: group.spent,
            guard: group.guard,
            held,
        })
    }

    /// An Assign is durable in this node's log (or came with a durable snapshot). The
    /// floor rises to it and never sinks, whatever becomes of the entry; the same one
    /// may be told again. On a node without a vote: it has learned of it.
    ///
    /// # Panics
    /// If one epoch is assigned twice: agreement is broken, and nothing may go on.
    pub fn floor_raised(&mut self, now: Moment, assignment: &Assignment) {
        let now = self.at(now);
        let id = assignment.group;
        if !self.room_for(id) {
            self.event(Event::NoRoom { group: id });
            return;
        }
        let group = self.groups.entry(id).or_default();
        let known = group.floor.map_or(Epoch::NONE, |floor| floor.epoch);
        if assignment.epoch < known {
            return;
        }
        if assignment.epoch == known {
            assert_eq!(
                group.floor.as_ref(),
                Some(assignment),
                "one epoch, two assignments"
            );
        }
        group.floor = Some(*assignment);
        group.sighting.expect(now, assignment.epoch);
        self.mirrored(id);
        if self.is_mine(assignment) {
            self.take_up(now, id);
            self.stand(now, id);
        } else if self.lose(id, Why::Superseded, Some(assignment.holder)) == Lost::Nothing {
            self.stand(now, id);
        }
        self.advance(now, id);
    }

    /// The entry of an epoch was truncated from this node's log. The floor stays
    /// (rule 1). An epoch that this node was waiting to open is waited for no more;
    /// if the entry comes back, [`Machine::floor_raised`] is told again. `back` is the
    /// newest assignment left in the log; it matters to a deliberate fault only.
    pub fn truncated(&mut self, now: Moment, id: GroupId, epoch: Epoch, back: Option<&Assignment>) {
        let now = self.at(now);
        let follows = self.settings.faults.floor_follows_log;
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if group.committed != epoch {
            group
                .tenures
                .retain(|tenure| tenure.opened || tenure.epoch != epoch);
        }
        if follows {
            group.floor = back.copied();
        }
        self.advance(now, id);
    }

    /// The Assign of this epoch is committed. May be told before, after and more often
    /// than [`Machine::floor_raised`].
    pub fn committed(&mut self, now: Moment, id: GroupId, epoch: Epoch) {
        let now = self.at(now);
        if !self.room_for(id) {
            return;
        }
        let group = self.groups.entry(id).or_default();
        if epoch > group.committed {
            group.committed = epoch;
            group.sighting.agreed(now, epoch);
            self.mirrored(id);
            self.advance(now, id);
        }
    }

    /// The group's services are started for this epoch: it may open, if the rest allows.
    /// Means nothing for a group that is not one of [`Settings::prepared`]. It can only
    /// make an opening later, so no rule of safety rests on it.
    pub fn ready(&mut self, now: Moment, id: GroupId, epoch: Epoch) {
        let now = self.at(now);
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if epoch > group.ready {
            group.ready = epoch;
            self.advance(now, id);
        }
    }

    /// Closes and gives back whatever this node holds of the group (rule 5). The epoch
    /// is spent: if the move is aborted, only a newer assignment helps. Does nothing
    /// if nothing is held or waited for.
    pub fn release(&mut self, now: Moment, id: GroupId) {
        let now = self.at(now);
        let next = self
            .groups
            .get(&id)
            .and_then(|group| group.floor)
            .map(|floor| floor.holder);
        if let Some(epoch) = self.give_back(id, self.incarnation, next) {
            self.event(Event::Released { group: id, epoch });
        }
        self.advance(now, id);
    }

    /// What ran with this epoch has been stopped, because the right to act did not come
    /// (back) in time (rule 6). It was ready once and is no more, so a group of
    /// [`Settings::prepared`] must not open under it again: it is given back, as by
    /// [`Machine::release`], and the way on is a newer epoch, made ready anew. Any other group
    /// may still resume. If a newer epoch is waited for here, that one is the way on, and
    /// nothing is given back.
    ///
    /// It is a release or nothing, and one may come at any time, so no rule of safety rests
    /// on when this is said.
    pub fn abandon(&mut self, now: Moment, id: GroupId, epoch: Epoch) {
        let newest = self.groups.get(&id).and_then(|group| group.tenures.last());
        let meant = newest.is_some_and(|tenure| tenure.epoch == epoch);
        if meant && self.settings.prepared.contains(&id) {
            self.release(now, id);
        }
    }

    /// A node whose identity is in doubt gets no promise until it is taken off again
    /// (rule 8). Promises that run go on running.
    pub fn set_excluded(&mut self, node: NodeId, excluded: bool) {
        if excluded {
            self.excluded.insert(node);
        } else {
            self.excluded.remove(&node);
        }
    }

    /// Replaces the voters: `recover --alone` and its undoing. Whatever is held is
    /// closed and spent, because nothing proven to the old voters counts among the
    /// new: the group opens again under a *new* epoch only. It is for the caller to
    /// know that the voters left out have stopped.
    ///
    /// # Panics
    /// If there are no voters, or more than [`VOTERS_MAX`].
    pub fn set_voters(&mut self, now: Moment, voters: Vec<NodeId>, membership: u64) {
        assert!(
            (1..=VOTERS_MAX).contains(&voters.len()),
            "between 1 and 15 voters"
        );
        let now = self.at(now);
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in &ids {
            self.lose(*id, Why::VotersReplaced, None);
        }
        self.settings.voters = voters;
        self.settings.membership = membership;
        for id in ids {
            self.advance(now, id);
        }
    }

    /// A message arrived from a node whose identity the transport has proven.
    pub fn receive(&mut self, now: Moment, from: NodeId, message: Message) {
        let now = self.at(now);
        match message {
            Message::Renew(renew) => {
                if let Some(answer) = self.answer(now, from, &renew) {
                    self.transmit(from, Message::Answer(answer));
                }
            }
            Message::Answer(answer) => self.heard_answer(now, from, &answer),
            Message::Standing(standing) => self.heard_standing(now, from, &standing),
            Message::Released(released) => self.heard_released(now, from, &released),
        }
    }

    /// The floors are known again that were lost before the start
    /// ([`Start::Amnesiac`] without an end): the silence ends at `until`. A silence that has an
    /// end already keeps it.
    pub fn recall(&mut self, now: Moment, until: Moment) {
        let now = self.at(now);
        if self.quiet_until != Moment::MAX {
            return;
        }
        self.quiet_until = until.max(now);
        if !self.is_quiet() {
            self.stand_for_all(now);
        }
    }

    fn stand_for_all(&mut self, now: Moment) {
        let all: Vec<GroupId> = self.groups.keys().copied().collect();
        all.into_iter().for_each(|id| self.stand(now, id));
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Moment) {
        let before = self.now;
        let now = self.at(now);
        let woke = before < self.quiet_until && self.quiet_until <= now;
        if woke {
            self.stand_for_all(now);
        }
        // A group that was only ever promised for, and is no more, makes room again.
        self.groups.retain(|_, group| {
            group.voter.prune(now);
            !group.is_blank()
        });
        let is_due = |group: &Group| self.wake(group).is_some_and(|at| at <= now);
        let due: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|(_, group)| is_due(group))
            .map(|(id, _)| *id)
            .collect();
        due.into_iter().for_each(|id| self.advance(now, id));
    }

    /// When to call [`Machine::tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Moment> {
        let quiet = (self.quiet_until > self.now).then_some(self.quiet_until);
        self.groups
            .values()
            .filter_map(|group| self.wake(group))
            .chain(quiet)
            .min()
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        loop {
            match self.steps.pop_front()? {
                Step::Do(output) => return Some(output),
                Step::Shut(released) => self.shut(&released),
                Step::Void(id) => self.ask_anew(id),
            }
        }
    }

    /// What this voter has heard of the holders.
    pub fn observations(&self, now: Moment) -> impl Iterator<Item = (GroupId, Observation)> {
        let now = self.now.max(now);
        self.groups
            .iter()
            .map(move |(id, group)| (*id, group.sighting.observation(now, &self.settings)))
    }

    /// Where a group stands on this node.
    pub fn status(&self, id: GroupId) -> Status {
        let Some(group) = self.groups.get(&id) else {
            return Status::default();
        };
        Status {
            phase: self.phase(group),
            floor: group.floor,
            committed: group.committed,
            held: group.opened().map(|tenure| tenure.epoch),
            until: group.guard,
        }
    }

    /// Until when this voter is silent; past or zero if it is not.
    pub fn quiet_until(&self) -> Moment {
        self.quiet_until
    }

    /// What it was told at its start, with the voters as they are now.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn phase(&self, group: &Group) -> Phase {
        if group.opened().is_some() {
            if group.guard > self.now {
                Phase::Held
            } else {
                Phase::Lapsed
            }
        } else if !group.tenures.is_empty() {
            Phase::Opening
        } else if group
            .floor
            .is_some_and(|f| self.is_mine(&f) && f.epoch <= group.spent)
        {
            Phase::Spent
        } else {
            Phase::Idle
        }
    }

    // ---- the voter's side -------------------------------------------------------

    fn is_quiet(&self) -> bool {
        self.now < self.quiet_until
    }

    /// Answers a Renew, from another node or from this one. Nothing while quiet. A
    /// group that is unknown so far takes up room only if it gets a promise.
    fn answer(&mut self, now: Moment, from: NodeId, renew: &Renew) -> Option<Answer> {
        if !self.settings.votes() {
            return None;
        }
        self.void(now, from, renew);
        if !self.room_for(renew.group) {
            return (!self.is_quiet()).then(|| refusal(renew, Epoch::NONE, Refusal::Full));
        }
        let known = self.groups.contains_key(&renew.group);
        let answer = self.judge(now, from, renew);
        if !known && answer.is_none_or(|answer| answer.verdict != Verdict::Promised) {
            self.groups.remove(&renew.group);
        }
        answer
    }

    /// Before a Renew is judged, and whatever comes of that: a holder without its lease
    /// says which of its Renews it counts no more. If the floor is above, the next holder
    /// may be waiting for just that.
    fn void(&mut self, now: Moment, from: NodeId, renew: &Renew) {
        let id = renew.group;
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if !group.voter.void(from, renew, &self.settings) {
            return;
        }
        let waited_for = group
            .floor
            .is_some_and(|f| f.epoch > renew.epoch && !f.is_of(from, renew.incarnation));
        self.mirrored(id);
        if waited_for {
            self.stand(now, id);
        }
    }

    fn judge(&mut self, now: Moment, from: NodeId, renew: &Renew) -> Option<Answer> {
        let quiet = self.is_quiet();
        let excluded = self.excluded.contains(&from);
        let group = self.groups.entry(renew.group).or_default();
        let floor = group.floor;
        let epoch = floor.map_or(Epoch::NONE, |f| f.epoch);
        let own = floor.is_some_and(|f| f.epoch == renew.epoch && f.is_of(from, renew.incarnation));
        // An epoch above the floor may never be agreed on: a node that waits for it in vain must not
        // hide how the holder does. Opened, it was agreed on, and this voter is behind.
        if own || renew.epoch > epoch && renew.proven > 0 {
            group.sighting.renewed(now, renew, own);
        }
        if quiet {
            return None;
        }
        if excluded {
            return Some(refusal(renew, epoch, Refusal::Excluded));
        }
        let verdict = group
            .voter
            .renew(now, from, renew, floor.as_ref(), &self.settings);
        let speaks = own && verdict != Verdict::Refused(Refusal::OtherMembership);
        let lower = floor
            .filter(|_| speaks)
            .map(|floor| group.voter.lower(now, &floor, &self.settings));
        if verdict == Verdict::Promised {
            self.mirrored(renew.group);
        }
        Some(Answer {
            group: renew.group,
            epoch: renew.epoch,
            seq: renew.seq,
            floor: epoch,
            verdict,
            lower,
        })
    }

    /// Tells the holder that the floor names how long lower promises run.
    fn stand(&mut self, now: Moment, id: GroupId) {
        if self.is_quiet() || !self.settings.votes() {
            return;
        }
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        let Some(floor) = group.floor else { return };
        let standing = Standing {
            group: id,
            epoch: floor.epoch,
            membership: self.settings.membership,
            lower: group.voter.lower(now, &floor, &self.settings),
        };
        if floor.holder == self.settings.me {
            self.heard_standing(now, self.settings.me, &standing);
        } else {
            self.transmit(floor.holder, Message::Standing(standing));
        }
    }

    fn heard_released(&mut self, now: Moment, from: NodeId, released: &Released) {
        let id = released.group;
        match self.free(from, released) {
            Freed::Promises => self.stand(now, id),
            Freed::Mark | Freed::Nothing => {}
        }
        // The sender has closed: the other voters will say better things now.
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if let Some(tenure) = group.tenures.iter_mut().find(|t| !t.opened) {
            tenure.next_ask = now;
        }
        self.advance(now, id);
    }

    /// Gives back promises on this voter.
    fn free(&mut self, from: NodeId, released: &Released) -> Freed {
        let Some(group) = self.groups.get_mut(&released.group) else {
            return Freed::Nothing;
        };
        let floor = group.floor;
        let freed = group
            .voter
            .release(from, released, floor.as_ref(), &self.settings);
        match freed {
            Freed::Promises | Freed::Mark => self.mirrored(released.group),
            Freed::Nothing => {}
        }
        freed
    }

    // ---- the holder's side ------------------------------------------------------

    fn is_mine(&self, assignment: &Assignment) -> bool {
        let any_life = self.settings.faults.any_incarnation;
        assignment.holder == self.settings.me
            && (any_life || assignment.incarnation == self.incarnation)
    }

    /// Begins the tenure that the floor names, unless it is known or spent.
    fn take_up(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        let Some(floor) = group.floor.filter(|floor| self.is_mine(floor)) else {
            return;
        };
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let newest = group
            .tenures
            .last()
            .map_or(group.spent, |tenure| tenure.epoch);
        if floor.epoch <= newest.max(group.spent) {
            return;
        }
        group.tenures.retain(|tenure| tenure.opened);
        group.tenures.push(Tenure::new(now, floor.epoch));
        self.event(Event::Opening {
            group: id,
            epoch: floor.epoch,
        });
    }

    fn heard_answer(&mut self, now: Moment, voter: NodeId, answer: &Answer) {
        if !self.settings.voters.contains(&voter) {
            return;
        }
        let id = answer.group;
        let settings = &self.settings;
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let Some(tenure) = group.tenure(answer.epoch) else {
            return;
        };
        if answer.floor == answer.epoch
            && let Some(lower) = answer.lower
        {
            tenure.heard_lower(now, voter, lower, settings);
        }
        match answer.verdict {
            Verdict::Promised => tenure.promised(voter, answer.seq, settings),
            Verdict::Refused(refusal) => {
                let new = tenure.refused(voter, refusal, answer.floor);
                let overtaken = tenure.overtaken(settings) && tenure.has_waited(now, settings);
                if new {
                    self.told_refusal(voter, answer, refusal);
                }
                if overtaken {
                    self.overtaken(id, answer.epoch);
                }
            }
        }
        self.advance(now, id);
    }

    fn told_refusal(&mut self, voter: NodeId, answer: &Answer, refusal: Refusal) {
        let (group, epoch, floor) = (answer.group, answer.epoch, answer.floor);
        self.event(match refusal {
            Refusal::BelowFloor | Refusal::BelowOwn => Event::FloorAbove {
                group,
                epoch,
                voter,
                floor,
            },
            Refusal::Released
            | Refusal::OtherHolder
            | Refusal::OtherMembership
            | Refusal::TooLong
            | Refusal::Full
            | Refusal::Excluded => Event::Refused {
                group,
                epoch,
                voter,
                refusal,
            },
        });
    }

    /// A majority refuses an epoch for a newer one, and has for a second round. If that is this
    /// node's own next epoch, the older one has only been replaced.
    fn overtaken(&mut self, id: GroupId, epoch: Epoch) {
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        if group
            .tenures
            .last()
            .is_some_and(|newest| newest.epoch == epoch)
        {
            let next = group.floor.map(|floor| floor.holder);
            if let Some(epoch) = self.give_back(id, self.incarnation, next) {
                self.event(Event::Lost {
                    group: id,
                    epoch,
                    why: Why::Overtaken,
                });
            }
        }
    }

    fn heard_standing(&mut self, now: Moment, voter: NodeId, standing: &Standing) {
        let known = self.settings.voters.contains(&voter)
            && standing.membership == self.settings.membership;
        let Some(group) = self.groups.get_mut(&standing.group).filter(|_| known) else {
            return;
        };
        if let Some(tenure) = group.tenure(standing.epoch) {
            tenure.heard_lower(now, voter, standing.lower, &self.settings);
            self.advance(now, standing.group);
        }
    }

    /// Gives back what is over; the voter's side then speaks once the guard has shut.
    fn lose(&mut self, id: GroupId, why: Why, next: Option<NodeId>) -> Lost {
        match self.give_back(id, self.incarnation, next) {
            Some(epoch) => {
                self.event(Event::Lost {
                    group: id,
                    epoch,
                    why,
                });
                Lost::GivenBack
            }
            None => Lost::Nothing,
        }
    }

    /// Rule 5: marks the epochs spent, shuts the guard, and only then says so to all
    /// voters, this node's own first, and to the next holder.
    fn give_back(
        &mut self,
        id: GroupId,
        incarnation: Incarnation,
        next: Option<NodeId>,
    ) -> Option<Epoch> {
        let reusable = self.settings.faults.spent_reusable;
        let group = self.groups.get_mut(&id)?;
        let epoch = group.tenures.last()?.epoch;
        if reusable {
            // One that has not opened would ask again at each Released, its own included.
            group.tenures.retain(|tenure| tenure.opened);
            group.tenures.iter_mut().for_each(Tenure::unprove);
            group.lapse = Lapse::Told;
        } else {
            group.tenures.clear();
            group.spent = group.spent.max(epoch);
            group.lapse = Lapse::None;
        }
        self.mirrored(id);
        self.push(Output::Close { group: id, epoch });
        let released = Released {
            group: id,
            epoch,
            incarnation,
        };
        self.steps.push_back(Step::Shut(released));
        let me = self.settings.me;
        let strangers = next.filter(|node| !self.settings.voters.contains(node));
        let everybody: Vec<NodeId> = self
            .settings
            .voters
            .iter()
            .copied()
            .chain(strangers)
            .filter(|to| *to != me)
            .collect();
        for to in everybody {
            self.transmit(to, Message::Released(released));
        }
        Some(epoch)
    }

    /// The guard has shut: this node's own promise is free.
    fn shut(&mut self, released: &Released) {
        let id = released.group;
        if let Some(group) = self.groups.get_mut(&id) {
            group.guard = Moment::ZERO;
        }
        if self.settings.votes() {
            self.free(self.settings.me, released);
        }
        self.mirrored(id);
        self.stand(self.now, id);
    }

    /// Brings the holder's side of one group up to `now`: asks, opens, extends, lapses.
    fn advance(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.voter.prune(now);
        group
            .tenures
            .iter_mut()
            .for_each(|tenure| tenure.prune(now));
        let due = group.tenures.iter().filter(|tenure| tenure.next_ask <= now);
        for epoch in due.map(|tenure| tenure.epoch).collect::<Vec<Epoch>>() {
            self.ask(now, id, epoch);
        }
        self.open(now, id);
        self.extend(now, id);
        self.lapse(now, id);
    }

    /// Asks all voters to promise, this node's own vote first.
    fn ask(&mut self, now: Moment, id: GroupId, epoch: Epoch) {
        let settings = &self.settings;
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let (guard, lapse) = (group.guard, group.lapse);
        let committed = group.committed;
        let Some(tenure) = group.tenure(epoch) else {
            return;
        };
        let seq = self.next_seq.max(now.as_nanos());
        self.next_seq = seq + 1;
        let opened = tenure.opened;
        // One that waits for nothing but its services is not deaf.
        let waits = committed == epoch && tenure.is_clear(now, settings);
        let void = if opened && lapse != Lapse::None {
            tenure.void(now, guard, seq, settings)
        } else {
            0
        };
        tenure.asked(now, seq, settings);
        let lease = tenure.lease;
        let renew = Renew {
            group: id,
            epoch,
            incarnation: self.incarnation,
            length: settings.lease,
            seq,
            membership: settings.membership,
            // Of this epoch: what an earlier one proved says nothing of this one.
            proven: match (opened, waits) {
                (true, _) => guard.as_nanos(),
                (false, true) => lease.as_nanos(),
                (false, false) => 0,
            },
            void,
        };
        let me = settings.me;
        let others: Vec<NodeId> = settings
            .voters
            .iter()
            .copied()
            .filter(|v| *v != me)
            .collect();
        for to in others {
            self.transmit(to, Message::Renew(renew));
        }
        if let Some(answer) = self.answer(now, me, &renew) {
            self.count_own(now, &answer);
        }
    }

    /// This node's own vote, without the events that a stranger's refusal causes.
    fn count_own(&mut self, now: Moment, answer: &Answer) {
        let me = self.settings.me;
        let settings = &self.settings;
        let Some(group) = self.groups.get_mut(&answer.group) else {
            return;
        };
        let Some(tenure) = group.tenure(answer.epoch) else {
            return;
        };
        if let Some(lower) = answer.lower {
            tenure.heard_lower(now, me, lower, settings);
        }
        match answer.verdict {
            Verdict::Promised => tenure.promised(me, answer.seq, settings),
            Verdict::Refused(refusal) => {
                tenure.refused(me, refusal, answer.floor);
            }
        }
    }

    /// Rule 3: opens the newest tenure if it is committed, older promises have run out
    /// at a majority, and its own lease runs.
    fn open(&mut self, now: Moment, id: GroupId) {
        let settings = &self.settings;
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let (committed, ready) = (group.committed, group.ready);
        let Some(tenure) = group.tenures.last_mut().filter(|tenure| !tenure.opened) else {
            return;
        };
        if tenure.epoch != committed || !tenure.is_clear(now, settings) || tenure.lease <= now {
            return;
        }
        if settings.prepared.contains(&id) && ready < tenure.epoch {
            return;
        }
        tenure.opened = true;
        let (epoch, until) = (tenure.epoch, tenure.lease);
        let waited = now.since(tenure.since);
        group.tenures.retain(|tenure| tenure.epoch == epoch);
        self.event(Event::Opened {
            group: id,
            epoch,
            waited,
            until,
        });
    }

    /// Gives the guard what has been proven, never more (S4).
    fn extend(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let Some(tenure) = group.opened() else { return };
        let (epoch, until) = (tenure.epoch, tenure.lease);
        if until <= group.guard || until <= now {
            return;
        }
        let gap = now.since(group.guard);
        let resumed = group.lapse != Lapse::None;
        group.guard = until;
        group.lapse = Lapse::None;
        self.mirrored(id);
        self.push(Output::Extend(Lease {
            group: id,
            epoch,
            until,
        }));
        if resumed {
            self.event(Event::Resumed {
                group: id,
                epoch,
                gap,
            });
        }
    }

    /// Asks at once: the guard of a lapsed holder has shut.
    fn ask_anew(&mut self, id: GroupId) {
        let now = self.now;
        let group = self.groups.get_mut(&id);
        if let Some(tenure) = group.and_then(|group| group.tenures.iter_mut().find(|t| t.opened)) {
            tenure.next_ask = now;
            self.advance(now, id);
        }
    }

    /// Tells that the lease has run out, shuts the guard, so that it can be asked anew,
    /// and later tells that it stays so.
    fn lapse(&mut self, now: Moment, id: GroupId) {
        let patience = self.settings.patience();
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let Some(epoch) = group.opened().map(|tenure| tenure.epoch) else {
            return;
        };
        let at = group.guard;
        match group.lapse {
            Lapse::None if at <= now => {
                group.lapse = Lapse::Told;
                self.event(Event::Lapsed {
                    group: id,
                    epoch,
                    at,
                });
                if !self.settings.faults.void_before_shut {
                    self.push(Output::Close { group: id, epoch });
                }
                self.steps.push_back(Step::Void(id));
            }
            Lapse::Told if at + patience <= now => {
                group.lapse = Lapse::Abandoned;
                self.event(Event::Abandoned { group: id, epoch });
            }
            Lapse::None | Lapse::Told | Lapse::Abandoned => {}
        }
    }

    /// When something becomes due for a group.
    fn wake(&self, group: &Group) -> Option<Moment> {
        let asks = group.tenures.iter().map(|tenure| tenure.next_ask);
        let waiting = group.tenures.last().filter(|tenure| !tenure.opened);
        let clear = waiting
            .and_then(|tenure| tenure.clear_at(&self.settings))
            .filter(|clear| *clear > Moment::ZERO);
        let lapse = group.opened().and_then(|_| match group.lapse {
            Lapse::None => Some(group.guard),
            Lapse::Told => Some(group.guard + self.settings.patience()),
            Lapse::Abandoned => None,
        });
        asks.chain(clear).chain(lapse).min()
    }

    // ---- plain helpers ----------------------------------------------------------

    /// The present: never before what was already seen.
    fn at(&mut self, now: Moment) -> Moment {
        self.now = self.now.max(now);
        self.now
    }

    fn room_for(&self, id: GroupId) -> bool {
        self.groups.contains_key(&id) || self.groups.len() < GROUPS_MAX
    }

    fn mirrored(&mut self, id: GroupId) {
        self.push(Output::Mirror(id));
    }

    fn push(&mut self, output: Output) {
        self.steps.push_back(Step::Do(output));
    }

    fn transmit(&mut self, to: NodeId, message: Message) {
        self.push(Output::Transmit { to, message });
    }

    fn event(&mut self, event: Event) {
        self.push(Output::Event(event));
    }
}

/// A refusal that says nothing of promises.
fn refusal(renew: &Renew, floor: Epoch, refusal: Refusal) -> Answer {
    Answer {
        group: renew.group,
        epoch: renew.epoch,
        seq: renew.seq,
        floor,
        verdict: Verdict::Refused(refusal),
        lower: None,
    }
}

/// Where a group stands on this node, for people and for the node machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// As holder.
    pub phase: Phase,
    /// The newest assignment in this node's log.
    pub floor: Option<Assignment>,
    /// The newest epoch known as committed.
    pub committed: Epoch,
    /// The epoch that was opened here.
    pub held: Option<Epoch>,
    /// The guard's deadline, past or zero if shut.
    pub until: Moment,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            phase: Phase::Idle,
            floor: None,
            committed: Epoch::NONE,
            held: None,
            until: Moment::ZERO,
        }
    }
}
