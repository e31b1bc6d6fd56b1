//! The leader's view of each group, to at most one move per group.
//!
//! Policy proposes; it cannot break safety whatever it proposes (DESIGN 3).
//!
//! | the holder                                   | somebody fitter            | proposal                  |
//! |----------------------------------------------|----------------------------|---------------------------|
//! | none yet                                     | any that could serve       | first start               |
//! | not named for the group by the file          | any that could serve       | move                      |
//! | told to stop                                 | any that could serve       | move; not planned if it fails or cannot serve |
//! | says that it cannot serve                    | fit                        | move                      |
//! | unheard by a majority of voters for S        | alive and ready            | move                      |
//! | the same, without its assignment or with it only just now | -             | nothing, for a while      |
//! | heard, but deaf for S                        | fit                        | move                      |
//! | the same for [`DEAF_PATIENCE`] leases        | alive and ready            | move                      |
//! | unheard, deaf or restarted, alive again      | nobody, or less fit        | new epoch for the same    |
//! | gave up after a lost lease, well again       | as fit as it               | move                      |
//! | gave up after a lost lease, well again       | nobody so fit              | new epoch for the same    |
//! | from before a recovery                       | any that could serve       | new epoch, for it or the best |
//! | a voter's floor is above its epoch           | -                          | new epoch for the same    |
//! | unfit by its rule                            | fit                        | move                      |
//! | silent for long on an overloaded machine     | fit, or well with time     | move                      |
//! | silent on an overloaded machine              | fit with time to spare     | move                      |
//! | well, but drained                            | fit                        | move                      |
//! | well                                         | operator names it, fit     | move                      |
//! | anything, with other addresses in the file   | -                          | new epoch for the same    |
//! | well                                         | preferred, well for long   | move (failback)           |
//! | anything                                     | nobody would do better     | nothing                   |

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::Moment;
use crate::command::Assign;
use crate::evidence::{
    Cause, CheckFact, Considered, Evidence, FACT_LENGTH_MAX, FACTS_MAX, shortened,
};
use crate::health::{Heard, Ruling, Standing, View};
use crate::ledger::{Assigned, Ledger};
use crate::maintenance;
use crate::names::{GroupId, Incarnation, NodeId};
use crate::quorum::majority;
use crate::rule::Truth;
use crate::standby::{self, Candidate, Fitness, Wellness};
use crate::topology::{Failback, Group, ServiceAddress, Timing, Topology};

/// How long a new leader listens before it gives a group its very first holder, so
/// that the preferred node has had time to be heard.
pub const FIRST_START_PATIENCE: Duration = Duration::from_millis(1500);

/// How long a new holder may take to learn of its assignment, if it lives and does not say that
/// it has it: voters miss its renewals from the moment that they know of it themselves, and its
/// log may be behind theirs, on a slow link or after its start. As long as a proposal may take.
pub const ASSIGNMENT_PATIENCE: Duration = Duration::from_millis(500);

/// How long a holder that is heard and hears nobody may take to hear somebody again, in leases,
/// if nobody fit could go on for it. One whose answers are lost by chance resumes before that
/// (DESIGN 3.1 rule 6: one that has not resumed by then gives up); and the next one, which fails as
/// well or failed a moment ago, would hear them no better.
pub const DEAF_PATIENCE: u32 = 10;

/// The longest that it may take, however long a lease is: who is deaf for so long is so for good.
pub const DEAF_PATIENCE_MAX: Duration = Duration::from_secs(3);

/// The same for leases of this length.
pub fn deaf_patience(lease: Duration) -> Duration {
    (lease * DEAF_PATIENCE).min(DEAF_PATIENCE_MAX)
}

/// Why a node that came back after a recovery takes nothing yet.
pub const NO_VOTE_YET: &str =
    "it has come back and does not vote yet: it takes over nothing until the cluster is whole";

/// What a voter makes of a holder (DESIGN 3.1 rule 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// It renews, or its silence is no reason yet.
    Fine,
    /// Unheard for so long that its lease is nearly over.
    Silent,
    /// Heard, but its proven deadline stands still: it hears nobody.
    Deaf,
}

/// Judges a holder by the time since its last Renew and since its proven deadline
/// moved.
///
/// Silence counts after three quarters of a lease: the next holder waits for a whole
/// one and the margin anyway, so an earlier suspicion would gain nothing, and a worker
/// that its parent restarts has the time to resume. Deafness counts after two thirds: a
/// deaf holder declares void what it was promised when its lease runs out, a lease less
/// the margin after its last ask that was answered. Voters see that one advance a
/// heartbeat later, so by then the lease is over or nearly, and a holder that only misses
/// a few answers is not suspected. (After three heartbeats, where one datagram in ten is
/// lost, a healthy holder would be suspected every few minutes in `balanced`.)
pub fn hearing(timing: &Timing, unheard: Duration, standing: Option<Duration>) -> Hearing {
    if unheard >= silent_after(timing) {
        Hearing::Silent
    } else if unheard < timing.heartbeat * 3 / 2
        && standing.is_some_and(|span| span >= deaf_after(timing))
    {
        Hearing::Deaf
    } else {
        Hearing::Fine
    }
}

fn silent_after(timing: &Timing) -> Duration {
    timing.lease * 3 / 4
}

fn deaf_after(timing: &Timing) -> Duration {
    timing.lease * 2 / 3
}

/// How long a judgement of [`hearing`] that is fine stays so at least if nothing more is
/// heard: when to look again.
pub fn fine_for(timing: &Timing, unheard: Duration, standing: Option<Duration>) -> Duration {
    // One that has stood for longer is judged anew when the holder is heard again.
    let until_deaf = standing
        .and_then(|span| deaf_after(timing).checked_sub(span))
        .filter(|span| !span.is_zero());
    let until_silent = silent_after(timing).saturating_sub(unheard);
    until_deaf.map_or(until_silent, |span| span.min(until_silent))
}

/// An operator's wish to move a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The group.
    pub group: GroupId,
    /// Where to; none means the best standby.
    pub to: Option<NodeId>,
    /// Though the group would then depend on a node whose vote is one of the last majority, or on
    /// one that failed it a moment ago.
    pub force: bool,
}

/// Why a wish cannot be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

/// Everything that policy looks at.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    /// Now.
    pub now: Moment,
    /// This node: the leader.
    pub me: NodeId,
    /// The configuration.
    pub topology: &'a Topology,
    /// What is agreed.
    pub ledger: &'a Ledger,
    /// What is known.
    pub view: &'a View,
    /// For how long nodes have been well.
    pub wellness: &'a Wellness,
    /// Who decides: all voters, or after a recovery one alone.
    pub deciders: &'a BTreeSet<NodeId>,
    /// Since when this node leads.
    pub leading_since: Moment,
    /// The calendar, in milliseconds: for people only.
    pub wall_ms: u64,
}

/// Since when a reason to move has been known, per group: how fast was the decision.
#[derive(Clone, Debug, Default)]
pub struct Noticed(BTreeMap<GroupId, (&'static str, Moment)>);

impl Noticed {
    fn since(&mut self, now: Moment, group: GroupId, cause: &Cause) -> Duration {
        let known = self.0.entry(group).or_insert((cause.word(), now));
        if known.0 != cause.word() {
            *known = (cause.word(), now);
        }
        now.since(known.1)
    }

    /// There is no reason any more, or the move is proposed.
    pub(crate) fn nothing(&mut self, group: GroupId) {
        self.0.remove(&group);
    }
}

/// The move that one group needs now, if any.
pub fn decide(situation: &Situation<'_>, noticed: &mut Noticed, group: &Group) -> Option<Assign> {
    let ranked = rank(situation, group);
    let wanted = match situation.ledger.current(group.id) {
        None => first_start(situation, &ranked),
        Some(current) => reason_to_leave(situation, group, current, &ranked),
    };
    let Some((cause, target)) = wanted else {
        noticed.nothing(group.id);
        return None;
    };
    let known_for = noticed.since(situation.now, group.id, &cause);
    assignment(situation, group, cause, target, &ranked, known_for)
}

/// The group's nodes, best first. One that does not vote now could not open what it is assigned.
pub(crate) fn rank(situation: &Situation<'_>, group: &Group) -> Vec<Candidate> {
    let mut ranked = standby::rank(
        situation.now,
        situation.ledger,
        situation.view,
        situation.wellness,
        group,
    );
    for one in &mut ranked {
        if !situation.deciders.contains(&one.node) && one.fitness < Fitness::Unready {
            one.fitness = Fitness::Unready;
            one.why = NO_VOTE_YET.to_owned();
        }
    }
    ranked.sort_by_key(standby::order);
    ranked
}

/// Grants an operator's wish, or says why not.
pub fn grant(situation: &Situation<'_>, wish: Wish) -> Result<Assign, Refusal> {
    let topology = situation.topology;
    let Some(group) = topology.groups.get(&wish.group) else {
        return Err(Refusal("the configuration has no such group".to_owned()));
    };
    let Some(current) = situation.ledger.current(group.id) else {
        return Err(Refusal(
            "the group has no holder yet: wait until it serves".to_owned(),
        ));
    };
    let holder = current.assign.holder;
    let ranked = rank(situation, group);
    let chosen = match wish.to {
        Some(to) => ranked.iter().find(|one| one.node == to).ok_or_else(|| {
            Refusal(format!(
                "{} is not one of the group's nodes",
                topology.node_name(to)
            ))
        })?,
        None => ranked
            .iter()
            .find(|one| one.node != holder)
            .ok_or_else(|| Refusal("the group has no other node".to_owned()))?,
    };
    if chosen.node == holder {
        return Err(Refusal(format!(
            "{} holds the group already",
            topology.node_name(holder)
        )));
    }
    match chosen.fitness {
        Fitness::Fit | Fitness::HeldDown => {}
        // Who insists knows better than a count of seconds.
        Fitness::Recovering if wish.force => {}
        Fitness::Recovering => {
            return Err(Refusal(format!(
                "{} should not serve yet: {}. Wait, or say --force",
                topology.node_name(chosen.node),
                chosen.why
            )));
        }
        Fitness::Drained => {
            return Err(Refusal(format!(
                "{} is to get no group now: {}; `evenkeel undrain` ends that",
                topology.node_name(chosen.node),
                chosen.why
            )));
        }
        Fitness::Unknown | Fitness::Failing | Fitness::Unready | Fitness::Absent => {
            return Err(Refusal(format!(
                "{} could not serve now: {}",
                topology.node_name(chosen.node),
                chosen.why
            )));
        }
    }
    if !wish.force {
        keeps_the_majority(situation, holder, chosen.node)?;
    }
    assignment(
        situation,
        group,
        Cause::Operator,
        chosen.node,
        &ranked,
        Duration::ZERO,
    )
    .ok_or_else(|| Refusal("that node has not been heard lately".to_owned()))
}

/// A switch takes no vote away. But it may put a group on a node whose death would then take the
/// majority with it, so that nobody could take over, where the holder's would not.
fn keeps_the_majority(
    situation: &Situation<'_>,
    holder: NodeId,
    to: NodeId,
) -> Result<(), Refusal> {
    let last = |node| maintenance::is_last_majority(situation, node);
    if last(to) && !last(holder) {
        let to = situation.topology.node_name(to);
        return Err(Refusal(format!(
            "without {to} no majority of voters would be left: if it failed, nobody could take over from it. Bring the missing voters back first, or say --force"
        )));
    }
    Ok(())
}

fn first_start(situation: &Situation<'_>, ranked: &[Candidate]) -> Option<(Cause, NodeId)> {
    let patient = situation.now.since(situation.leading_since) < FIRST_START_PATIENCE;
    let known = |one: &Candidate| one.drained.unwrap_or(one.fitness) < Fitness::Unknown;
    let all_known = ranked.iter().all(known);
    let best = ranked
        .first()
        .filter(|best| best.fitness < Fitness::Unready)?;
    (all_known || !patient).then_some((Cause::FirstStart, best.node))
}

/// Why the group should leave its holder (or its epoch), and where it should go.
fn reason_to_leave(
    situation: &Situation<'_>,
    group: &Group,
    current: &Assigned,
    ranked: &[Candidate],
) -> Option<(Cause, NodeId)> {
    let holder = current.assign.holder;
    let others = || ranked.iter().filter(|one| one.node != holder);
    if let Some(to) = recovered(situation, current, ranked) {
        return Some((Cause::Recovered, to));
    }
    let own = ranked.iter().find(|one| one.node == holder);
    // Dead or mute holders: whoever is alive and ready does better.
    if let Some(cause) = lost(situation, current)
        && let Some(to) = instead_of_lost(situation, current, &cause, ranked)
    {
        let cause = match own {
            Some(_) => cause,
            None => Cause::HolderUnlisted,
        };
        return Some((cause, to));
    }
    if let Some(cause) = floor_above(situation, current) {
        return Some((cause, holder));
    }
    let ruling = situation.view.rule(situation.now, group, holder);
    let Some(own) = own else {
        // It closes what the file does not give it, as soon as it has the file.
        let next = others().find(|one| better_than_stopping(one))?;
        return Some((Cause::HolderUnlisted, next.node));
    };
    let unready = own.fitness == Fitness::Unready;
    if unready {
        let (cause, better) = unready_cause(situation, current, &ruling);
        if let Some(next) = others().find(|one| better(one)) {
            return Some((cause, next.node));
        }
    } else if ruling.face == Truth::Yes {
        let better = match (ruling.definite, ruling.patient) {
            (Truth::Yes, _) => better_than_failing,
            (_, Truth::Yes) => better_than_silent,
            _ => better_than_slow,
        };
        if let Some(next) = others().find(|one| better(one)) {
            return Some((Cause::RuleHolds, next.node));
        }
    }
    if let Some(to) = maintenance::target(situation.ledger, group.id, holder, ranked) {
        return Some((Cause::Drained, to));
    }
    if reconfigured(situation, group, current) {
        return Some((Cause::Reconfigured, holder));
    }
    if unready || ruling.face == Truth::Yes {
        return None;
    }
    failback(situation, group, holder, ranked).map(|node| (Cause::Failback, node))
}

/// Who goes on for a holder that is lost: somebody fit; the holder itself, if it is alive again and
/// no less fit than the others, for it has what the group left there; or whoever is alive and ready.
///
/// A deaf one may hear again at any moment: it is left at once for somebody fit, and for others only
/// when it has been deaf for long.
///
/// A holder that has given up in good order has failed nothing: a node that has, and may not have
/// recovered, would do no better, so it is left only for one that is as fit.
fn instead_of_lost(
    situation: &Situation<'_>,
    current: &Assigned,
    cause: &Cause,
    ranked: &[Candidate],
) -> Option<NodeId> {
    let holder = current.assign.holder;
    let own = ranked.iter().find(|one| one.node == holder);
    let own_fitness = own.map_or(Fitness::Absent, |own| own.fitness);
    let gave_up = *cause == Cause::HolderReleased;
    // The best comes first.
    let other = ranked.iter().find(|one| one.node != holder);
    let other = other.filter(|other| !gave_up || other.fitness <= own_fitness);
    let before = |limit| other.filter(|one| one.fitness < limit).map(|one| one.node);
    let back = returned(situation, current);
    let well_back = back.filter(|_| {
        let no_less = |own: Fitness| other.is_none_or(|other| own <= other.fitness);
        own.is_some_and(|own| own.fitness <= Fitness::Drained && no_less(own.fitness))
    });
    let next = before(Fitness::Unknown).or(well_back);
    if let Cause::HolderDeaf { standing } = cause
        && *standing < deaf_patience(situation.topology.timing.lease)
    {
        return next;
    }
    next.or_else(|| before(Fitness::Unready)).or(back)
}

/// Why a holder should be left that is about to stop or could not serve, and for whom. There is
/// time to let clients go only while they are served. One that may be slow only is not hurried.
fn unready_cause(
    situation: &Situation<'_>,
    current: &Assigned,
    ruling: &Ruling,
) -> (Cause, fn(&Candidate) -> bool) {
    let Situation { now, view, .. } = *situation;
    let holder = current.assign.holder;
    let heard = view.fresh(now, holder);
    let stopping = heard.is_some_and(|heard| heard.report.stopping);
    let said = view.standing(now, holder, current.assign.group);
    let dead = said.is_some_and(|said| said.unready.is_some());
    let fails = ruling.definite == Truth::Yes || ruling.patient == Truth::Yes;
    let life = current.assign.incarnation;
    let cause = match stopping {
        _ if fails => Cause::RuleHolds,
        _ if heard.is_some_and(|heard| heard.report.incarnation != life) => Cause::HolderRestarted,
        true if !dead => Cause::HolderStopping,
        _ => Cause::HolderUnready,
    };
    match stopping {
        true => (cause, better_than_stopping),
        false => (cause, better_than_failing),
    }
}

/// Who gets a group whose assignment is from before a recovery: its leases rested on voters that
/// were declared stopped.
fn recovered(
    situation: &Situation<'_>,
    current: &Assigned,
    ranked: &[Candidate],
) -> Option<NodeId> {
    let (epoch, _) = situation.ledger.recovered.as_ref()?;
    let could = |one: &&Candidate| one.fitness < Fitness::Unready;
    let holder = |one: &&Candidate| one.node == current.assign.holder;
    let same = || ranked.iter().filter(could).find(holder);
    let to = same().or_else(|| ranked.iter().find(could));
    to.filter(|_| current.epoch < *epoch).map(|one| one.node)
}

/// Whether the file gives the group other addresses than its assignment does (DESIGN 3.1 rule
/// 10). All nodes of the file must be heard, and have it: one that is away may still answer for
/// what another file gives it.
fn reconfigured(situation: &Situation<'_>, group: &Group, current: &Assigned) -> bool {
    digests_agree(situation) && addresses_for(situation, group) != current.assign.addresses
}

fn digests_agree(situation: &Situation<'_>) -> bool {
    let own = situation.view.fresh(situation.now, situation.me);
    own.is_some_and(|own| {
        situation.topology.nodes.keys().all(|node| {
            let heard = situation.view.fresh(situation.now, *node);
            heard.is_some_and(|heard| heard.report.config_digest == own.report.config_digest)
        })
    })
}

/// Whether the addresses of a group that the file does not have any more are free for others.
/// They are once all nodes have that file: a node closes what its file has not before it
/// reports with the new digest.
fn is_gone(situation: &Situation<'_>, group: GroupId) -> bool {
    !situation.topology.groups.contains_key(&group) && digests_agree(situation)
}

/// The addresses of a group by the file, without those that another group still
/// holds or may still be answering for: an address leaves one group, that group is
/// seen open without it, and only then does it enter the next.
fn addresses_for(situation: &Situation<'_>, group: &Group) -> Vec<ServiceAddress> {
    let elsewhere = |address: &ServiceAddress| {
        situation
            .ledger
            .groups
            .iter()
            .filter(|(id, _)| **id != group.id)
            .filter(|(id, _)| !is_gone(situation, **id))
            .any(|(_, record)| {
                record
                    .moves
                    .iter()
                    .rev()
                    .scan(false, |done, one| {
                        let seen = !*done;
                        *done |= one.opened.is_some();
                        seen.then_some(one)
                    })
                    .any(|one| {
                        one.assigned
                            .assign
                            .addresses
                            .iter()
                            .any(|held| held.ip == address.ip)
                    })
            })
    };
    group
        .addresses
        .iter()
        .filter(|address| !elsewhere(address))
        .cloned()
        .collect()
}

/// A holder that is about to stop is worse than every node that might serve.
fn better_than_stopping(one: &Candidate) -> bool {
    match one.fitness {
        Fitness::Fit
        | Fitness::HeldDown
        | Fitness::Unknown
        | Fitness::Recovering
        | Fitness::Drained => true,
        Fitness::Failing | Fitness::Unready | Fitness::Absent => false,
    }
}

/// A standby for a holder whose checks fail, or that says itself that it cannot serve, must be
/// known to be well: a move to a node that would do no better is an outage for nothing.
/// One that an operator drains comes last, and serves rather than nobody.
fn better_than_failing(one: &Candidate) -> bool {
    match one.drained.unwrap_or(one.fitness) {
        Fitness::Fit | Fitness::HeldDown => true,
        Fitness::Unknown
        | Fitness::Recovering
        | Fitness::Drained
        | Fitness::Failing
        | Fitness::Unready
        | Fitness::Absent => false,
    }
}

/// A holder on an overloaded machine that has answered nothing for long may be dead or
/// hopelessly slow. A node that failed the group as well, and is overloaded as well, is
/// no better until its hold-down ends: two busy nodes would pass the group to and fro.
fn better_than_silent(one: &Candidate) -> bool {
    match one.drained.unwrap_or(one.fitness) {
        Fitness::Fit => true,
        Fitness::HeldDown => !one.overloaded,
        Fitness::Unknown
        | Fitness::Recovering
        | Fitness::Drained
        | Fitness::Failing
        | Fitness::Unready
        | Fitness::Absent => false,
    }
}

/// A holder that may only be slow is left for a node that has time to spare, and that
/// has not failed the group itself.
fn better_than_slow(one: &Candidate) -> bool {
    one.fitness == Fitness::Fit && !one.overloaded
}

/// Whether the holder is lost, by the voters' word or its own (DESIGN 3.1 rule 7).
fn lost(situation: &Situation<'_>, current: &Assigned) -> Option<Cause> {
    let Situation {
        now,
        topology,
        view,
        ..
    } = situation;
    let mut silent: Vec<Duration> = Vec::new();
    let mut astray: Vec<NodeId> = Vec::new();
    let mut deaf: Option<Duration> = None;
    // Who holds the epoch that is agreed is refused by voters with a higher floor, and tells so
    // itself ([`floor_above`]). Nobody tells that nobody holds it.
    let gone = view.fresh(*now, current.assign.holder).is_none()
        || restarted(situation, current).is_some();
    let voters = situation.deciders.len();
    for voter in situation.deciders {
        let Some(heard) = view.fresh(*now, *voter) else {
            continue;
        };
        let said = heard
            .report
            .silences
            .iter()
            .find(|one| one.group == current.assign.group && one.epoch >= current.epoch);
        let Some(said) = said else { continue };
        // A floor that was raised in vain: this voter promises nothing for the epoch that is agreed.
        // If it hears somebody renew the other, that one waits for what will never be agreed on: what
        // could be, this leader has.
        if said.epoch > current.epoch {
            astray.push(*voter);
            continue;
        }
        match hearing(&topology.timing, said.unheard, said.standing) {
            Hearing::Silent => silent.push(said.unheard),
            Hearing::Deaf => deaf = deaf.max(said.standing),
            Hearing::Fine => {}
        }
    }
    // They say nothing of the holder, and count only where nothing else is known of it.
    let refusing = astray
        .first()
        .filter(|_| gone && silent.len() < majority(voters));
    let missing = silent.len() + refusing.map_or(0, |_| astray.len());
    if missing >= majority(voters) && !is_behind(situation, current) {
        let silence = silent.iter().copied().min().unwrap_or_default();
        let cause = match (restarted(situation, current), refusing) {
            (Some(cause), _) => cause,
            (None, Some(voter)) => Cause::FloorAbove { voter: *voter },
            (None, None) => Cause::HolderSilent {
                voters: u32::try_from(silent.len()).unwrap_or(u32::MAX),
                of: u32::try_from(voters).unwrap_or(u32::MAX),
                silence,
            },
        };
        return Some(cause);
    }
    deaf.map(|standing| Cause::HolderDeaf { standing })
}

/// Whether a new holder that lives has not got its assignment yet, and may still take its time; or
/// has only just got it, so that voters miss renewals which it could not send before.
fn is_behind(situation: &Situation<'_>, current: &Assigned) -> bool {
    let Situation { now, view, .. } = *situation;
    let group = current.assign.group;
    let known_for = situation.wellness.assigned_for(now, group);
    if known_for.is_none_or(|known| known >= ASSIGNMENT_PATIENCE) {
        return false;
    }
    let heard = view.fresh(now, current.assign.holder);
    let lives = heard.is_some_and(|heard| {
        heard.report.incarnation == current.assign.incarnation
            && heard.report.groups.iter().any(|one| one.group == group)
    });
    let taken_for = situation.wellness.taken_for(now, group);
    lives && taken_for.is_none_or(|taken| taken < silent_after(&situation.topology.timing))
}

/// What a holder that is heard, but not renewing, says of itself.
fn restarted(situation: &Situation<'_>, current: &Assigned) -> Option<Cause> {
    let heard = situation.view.fresh(situation.now, current.assign.holder)?;
    if heard.report.incarnation != current.assign.incarnation {
        return Some(Cause::HolderRestarted);
    }
    let said = heard
        .report
        .groups
        .iter()
        .find(|one| one.group == current.assign.group)?;
    // Off in its own epoch: it gave that up for an assignment that was cut off again.
    let over = matches!(said.standing, Standing::Released | Standing::Off);
    (said.epoch == current.epoch && over).then_some(Cause::HolderReleased)
}

/// The holder itself, if it is alive but cannot resume its epoch.
fn returned(situation: &Situation<'_>, current: &Assigned) -> Option<NodeId> {
    restarted(situation, current).map(|_| current.assign.holder)
}

/// A voter whose floor was raised by an entry that was never committed refuses the
/// holder: a newer epoch for the same holder makes it whole again (rule 1).
fn floor_above(situation: &Situation<'_>, current: &Assigned) -> Option<Cause> {
    for node in situation.topology.nodes.keys() {
        let Some(heard) = situation.view.fresh(situation.now, *node) else {
            continue;
        };
        let above = heard
            .report
            .floors_above
            .iter()
            .any(|(group, floor)| *group == current.assign.group && *floor > current.epoch);
        if above {
            return Some(Cause::FloorAbove { voter: *node });
        }
    }
    let holder = current.assign.holder;
    if is_ahead(situation, current) {
        return Some(Cause::FloorAbove { voter: holder });
    }
    refused(situation, current).map(|voter| Cause::FloorAbove { voter })
}

/// A voter of the majority that has a higher floor, while the holder lives and has been without the
/// group for longer than its assignment may take: what it was told of the floor was lost on its way.
fn refused(situation: &Situation<'_>, current: &Assigned) -> Option<NodeId> {
    let Situation { now, view, .. } = *situation;
    let (group, holder) = (current.assign.group, current.assign.holder);
    let known_for = situation.wellness.assigned_for(now, group);
    let same_life = |heard: &Heard| heard.report.incarnation == current.assign.incarnation;
    let said = view.standing(now, holder, group)?;
    let without = view.fresh(now, holder).is_some_and(same_life)
        && known_for.is_none_or(|known| known >= ASSIGNMENT_PATIENCE)
        && said.epoch <= current.epoch
        && said.standing != Standing::Open;
    let above = |voter: &&NodeId| {
        let heard = view.fresh(now, **voter);
        let mut silences = heard.into_iter().flat_map(|heard| &heard.report.silences);
        silences.any(|one| one.group == group && one.epoch > current.epoch)
    };
    let mut above = situation.deciders.iter().filter(above);
    let first = above.next().filter(|_| without)?;
    (above.count() + 1 >= majority(situation.deciders.len())).then_some(*first)
}

/// Whether the holder itself has got a newer assignment that this leader knows nothing of, once
/// what was on its way has had the time to be agreed on: it was cut off. The holder refuses its own
/// vote to the epoch that is agreed, and nobody else can see that.
fn is_ahead(situation: &Situation<'_>, current: &Assigned) -> bool {
    let Situation { now, view, .. } = *situation;
    let heard = view.fresh(now, current.assign.holder);
    let same_life = |heard: &&Heard| heard.report.incarnation == current.assign.incarnation;
    let said = view.standing(now, current.assign.holder, current.assign.group);
    let settled = now.since(situation.leading_since) >= ASSIGNMENT_PATIENCE;
    let is_ahead = said.is_some_and(|said| said.epoch > current.epoch);
    settled && is_ahead && heard.filter(same_life).is_some()
}

fn failback(
    situation: &Situation<'_>,
    group: &Group,
    holder: NodeId,
    ranked: &[Candidate],
) -> Option<NodeId> {
    let Failback::AutoAfter(after) = group.failback else {
        return None;
    };
    // Else an operator's switch would be undone at once.
    let held = situation.wellness.held_for(situation.now, group.id)?;
    if held < after {
        return None;
    }
    let place = |node: NodeId| group.nodes.iter().position(|one| *one == node);
    let own = place(holder).unwrap_or(usize::MAX);
    ranked
        .iter()
        .filter(|one| one.fitness == Fitness::Fit)
        .find(|one| {
            place(one.node).is_some_and(|at| at < own)
                && situation
                    .wellness
                    .well_for(situation.now, group.id, one.node)
                    .is_some_and(|well| well >= after)
        })
        .map(|one| one.node)
}

fn incarnation_of(situation: &Situation<'_>, node: NodeId) -> Option<Incarnation> {
    situation
        .view
        .fresh(situation.now, node)
        .map(|heard| heard.report.incarnation)
}

fn assignment(
    situation: &Situation<'_>,
    group: &Group,
    cause: Cause,
    target: NodeId,
    ranked: &[Candidate],
    known_for: Duration,
) -> Option<Assign> {
    let current = situation.ledger.current(group.id);
    let from = current.map(|one| one.assign.holder);
    let checks = from.map_or_else(Vec::new, |from| failing_checks(situation, group, from));
    let addresses = match (&cause, current) {
        (Cause::Reconfigured, _) | (_, None) => addresses_for(situation, group),
        (_, Some(current)) => situation.ledger.addresses_of(current),
    };
    let mut considered: Vec<Considered> = ranked
        .iter()
        .take(FACTS_MAX)
        .map(|one| Considered {
            node: one.node,
            why: shortened(&one.why, FACT_LENGTH_MAX),
        })
        .collect();
    if cause == Cause::Recovered {
        tell_stopped(situation, &mut considered);
    }
    Some(Assign {
        group: group.id,
        holder: target,
        incarnation: incarnation_of(situation, target)?,
        addresses,
        evidence: Evidence {
            cause,
            from,
            decided_by: situation.me,
            wall_ms: situation.wall_ms,
            known_for,
            checks,
            considered,
        },
    })
}

/// Puts on record whom the operator declared stopped.
fn tell_stopped(situation: &Situation<'_>, considered: &mut Vec<Considered>) {
    let recovered = situation.ledger.recovered.as_ref();
    let stopped = recovered.map_or(&[][..], |(_, recovered)| &recovered.stopped);
    considered.retain(|one| !stopped.contains(&one.node));
    considered.extend(stopped.iter().take(FACTS_MAX).map(|node| Considered {
        node: *node,
        why: "declared stopped by an operator".to_owned(),
    }));
    considered.truncate(FACTS_MAX);
}

fn failing_checks(situation: &Situation<'_>, group: &Group, node: NodeId) -> Vec<CheckFact> {
    let ruling = situation.view.rule(situation.now, group, node);
    ruling
        .failing
        .into_iter()
        .take(FACTS_MAX)
        .map(|(check, merged)| CheckFact {
            check,
            said_by: merged.said_by.unwrap_or(node),
            detail: shortened(&merged.detail, FACT_LENGTH_MAX),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BALANCED: Timing = Timing {
        lease: Duration::from_millis(120),
        heartbeat: Duration::from_millis(20),
    };

    #[test]
    fn a_holder_is_suspected_when_its_lease_is_nearly_over_or_it_hears_nobody() {
        let ms = Duration::from_millis;
        let table = [
            (0, Some(0), Hearing::Fine),
            // A worker that is restarted: neither heard nor advancing for a while.
            (65, Some(80), Hearing::Fine),
            (89, Some(89), Hearing::Fine),
            (90, Some(90), Hearing::Silent),
            (90, None, Hearing::Silent),
            // Heard, but it proves nothing new.
            (10, Some(79), Hearing::Fine),
            (10, Some(80), Hearing::Deaf),
            (10, None, Hearing::Fine),
        ];
        for (unheard, standing, wanted) in table {
            let judged = hearing(&BALANCED, ms(unheard), standing.map(ms));
            assert_eq!(judged, wanted, "unheard {unheard}, standing {standing:?}");
        }
    }

    #[test]
    fn looking_again_in_time_misses_no_suspicion() {
        let ms = Duration::from_millis;
        for (unheard, standing) in (0..120).flat_map(|u| (0..120).map(move |s| (u, s))) {
            let judged =
                |later| hearing(&BALANCED, ms(unheard) + later, Some(ms(standing) + later));
            if judged(Duration::ZERO) != Hearing::Fine {
                continue;
            }
            let fine = fine_for(&BALANCED, ms(unheard), Some(ms(standing)));
            assert!(fine > Duration::ZERO);
            let just_before = fine.saturating_sub(Duration::from_nanos(1));
            assert_eq!(judged(just_before), Hearing::Fine, "{unheard}, {standing}");
        }
        assert_eq!(fine_for(&BALANCED, ms(5), Some(ms(5))), ms(75));
        assert_eq!(fine_for(&BALANCED, ms(70), Some(ms(80))), ms(20));
        assert_eq!(fine_for(&BALANCED, ms(0), None), ms(90));
    }

    #[test]
    fn suspicion_comes_before_the_lease_ends() {
        for (lease, heartbeat) in [(40, 8), (120, 20), (1500, 250), (20, 6)] {
            let lease = Duration::from_millis(lease);
            let timing = Timing {
                lease,
                heartbeat: Duration::from_millis(heartbeat),
            };
            assert_eq!(hearing(&timing, lease * 3 / 4, None), Hearing::Silent);
            assert!(lease * 3 / 4 < lease);
        }
    }
}
