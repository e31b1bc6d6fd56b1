//! Where each group has to be, by the manual's words: the order of the file, the holder stays
//! unless it is unfit, failback and hold-down by time, drained nodes in need only.
//!
//! It knows what the scenario did and which moves were seen, and asks the cluster nothing. The
//! daemon counts some times a moment earlier or later than the scenario can see, so a question is
//! asked once for each way to see the clock ([`Oracle::needs`]): within [`SLACK`] of the end of a
//! span both answers are right, elsewhere there is one.

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel_core::Moment;

use super::place::{GROUPS, SERVERS, VOTERS};

/// A group's node that failed it is held down for so long, twice as long each further time.
const HOLD_DOWN: Duration = Duration::from_secs(30);
/// The longest.
const HOLD_DOWN_MAX: Duration = Duration::from_secs(600);
/// A node that failed the group serves before nobody does once it has been well for so long, and
/// twice as long each further time.
const WELL_MIN: Duration = Duration::from_secs(3);
const WELL_MAX: Duration = Duration::from_secs(60);
/// How far the daemon's count of a span may be from ours: a boot until it is heard, checks that
/// have to be well three times.
const SLACK: Duration = Duration::from_secs(3);

/// A move: where to, and the word that `why` has for its cause.
pub(super) type Step = (usize, &'static str);

/// How well a server could serve a group, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    Good,
    HeldDown,
    Recovering,
    Sick,
    Gone,
}

/// One server, as the scenario made it.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) up: bool,
    /// Which life of it.
    pub(super) life: u64,
    pub(super) booted: Moment,
    /// Its Apache does not run.
    pub(super) sick: bool,
    /// Since when it could be well.
    pub(super) well_since: Moment,
    pub(super) drained: Option<Moment>,
}

/// That a server failed a group.
#[derive(Clone, Copy, Debug)]
struct Failed {
    at: Moment,
    count: u32,
}

/// A group, as its moves made it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) holder: usize,
    life: u64,
    since: Moment,
    failed: [Option<Failed>; SERVERS.len()],
}

/// One way to see the clock: at the earliest or the latest, for each kind of span.
#[derive(Clone, Copy, Debug)]
struct Eyes {
    hold: Moment,
    well: Moment,
    held: Moment,
    /// What was before the daemon of the leader started is counted from then.
    leads_since: Moment,
    /// What happened to other nodes may have made a check unknown for a moment.
    disturbed: Option<Moment>,
}

/// All that matters.
#[derive(Clone, Debug)]
pub(super) struct Oracle {
    pub(super) servers: Vec<Server>,
    pub(super) groups: Vec<Held>,
    /// When the scenario last did something.
    pub(super) disturbed: Moment,
    /// What an operator has asked for, until it is seen.
    pub(super) wish: Option<(usize, usize)>,
}

impl Oracle {
    /// All servers are up, every group is on its first one.
    pub(super) fn new(now: Moment) -> Self {
        let server = Server {
            up: true,
            life: 1,
            booted: now,
            sick: false,
            well_since: now,
            drained: None,
        };
        let held = |group: &super::place::Group| Held {
            holder: group.nodes[0],
            life: 1,
            since: now,
            failed: Default::default(),
        };
        Self {
            servers: vec![server; SERVERS.len()],
            groups: GROUPS.iter().map(held).collect(),
            disturbed: now,
            wish: None,
        }
    }

    /// How many voters live and are not about to go, without one of them.
    fn votes_without(&self, node: usize) -> usize {
        let servers = self.servers.iter().enumerate();
        let counts =
            servers.filter(|(one, server)| *one != node && server.up && server.drained.is_none());
        // The witness always lives.
        counts.count() + 1
    }

    /// How many servers are dead.
    pub(super) fn dead(&self) -> usize {
        self.servers.iter().filter(|server| !server.up).count()
    }

    /// Whether a drain leaves a majority.
    pub(super) fn may_drain(&self, node: usize) -> bool {
        self.votes_without(node) > VOTERS / 2
    }

    /// Whether an operator may move a group there, if the answer does not depend on a moment.
    pub(super) fn may_switch(
        &self,
        group: usize,
        to: usize,
        now: Moment,
        leads_since: Moment,
    ) -> Option<bool> {
        let ready = self.is_ready(group, to, now, leads_since);
        let holder = self.groups[group].holder;
        let last = |node: usize| self.votes_without(node) <= VOTERS / 2;
        let never =
            to == holder || !GROUPS[group].nodes.contains(&to) || (last(to) && !last(holder));
        match never {
            true => Some(false),
            false => ready,
        }
    }

    /// Whether a group is served: its holder lives, in the life that it was given the group in.
    pub(super) fn is_served(&self, group: usize) -> bool {
        let held = &self.groups[group];
        let server = &self.servers[held.holder];
        server.up && server.life == held.life
    }

    /// Whether somebody answers for a group.
    pub(super) fn answers(&self, group: usize) -> bool {
        self.is_served(group) && !self.servers[self.groups[group].holder].sick
    }

    /// Whether a server could take a group, if the answer does not depend on a moment.
    pub(super) fn is_ready(
        &self,
        group: usize,
        node: usize,
        now: Moment,
        leads_since: Moment,
    ) -> Option<bool> {
        let eyes = self.all_eyes(now, leads_since);
        let drained = self.servers[node].drained.is_some();
        let ready = |eyes: &Eyes| self.grade(group, node, eyes) <= Grade::HeldDown && !drained;
        let first = eyes.first().map(ready);
        first.filter(|first| eyes.iter().all(|eyes| ready(eyes) == *first))
    }

    /// What may have to happen to a group now: every right answer. `None` among them: nothing.
    pub(super) fn needs(
        &self,
        group: usize,
        now: Moment,
        leads_since: Moment,
    ) -> BTreeSet<Option<Step>> {
        let wish = self.wish.filter(|wish| wish.0 == group);
        let wish = wish.map(|(_, to)| Some((to, "operator")));
        let eyes = self.all_eyes(now, leads_since);
        let mut all: BTreeSet<Option<Step>> =
            eyes.iter().map(|eyes| self.need(group, eyes)).collect();
        all.extend(wish);
        all
    }

    fn all_eyes(&self, now: Moment, leads_since: Moment) -> Vec<Eyes> {
        let (late, early) = (now.back(SLACK), now + SLACK);
        let mut all = Vec::new();
        for hold in [late, now, early] {
            for (well, disturbed) in [(late, Some(self.disturbed)), (now, None), (early, None)] {
                all.extend([late, now, early].map(|held| Eyes {
                    hold,
                    well,
                    held,
                    leads_since,
                    disturbed,
                }));
            }
        }
        all
    }

    fn well_for(&self, node: usize, eyes: &Eyes, failed: Option<Failed>) -> Duration {
        let since = self.servers[node].well_since.max(eyes.leads_since);
        let since = failed.map_or(since, |failed| since.max(failed.at));
        let since = eyes
            .disturbed
            .map_or(since, |disturbed| since.max(disturbed));
        eyes.well.since(since)
    }

    fn grade(&self, group: usize, node: usize, eyes: &Eyes) -> Grade {
        let server = &self.servers[node];
        if !server.up {
            return Grade::Gone;
        }
        if server.sick {
            return Grade::Sick;
        }
        let Some(failed) = self.groups[group].failed[node] else {
            return Grade::Good;
        };
        let times = 2u32.saturating_pow(failed.count.saturating_sub(1).min(8));
        let doubled = |first: Duration| (first * times).min(HOLD_DOWN_MAX);
        let ends = failed.at.max(eyes.leads_since) + doubled(HOLD_DOWN);
        if eyes.hold >= ends {
            Grade::Good
        } else if self.well_for(node, eyes, Some(failed)) < doubled(WELL_MIN).min(WELL_MAX) {
            Grade::Recovering
        } else {
            Grade::HeldDown
        }
    }

    /// The best of the other servers that is at least so good; drained ones in need only.
    fn best(&self, group: usize, worst: Grade, drained: bool, eyes: &Eyes) -> Option<usize> {
        let nodes = GROUPS[group].nodes.iter().copied();
        nodes
            .filter(|node| *node != self.groups[group].holder)
            .filter(|node| self.servers[*node].drained.is_some() == drained)
            .map(|node| (self.grade(group, node, eyes), node))
            .filter(|(grade, _)| *grade <= worst)
            .min_by_key(|(grade, _)| *grade)
            .map(|(_, node)| node)
    }

    fn anyone(&self, group: usize, worst: Grade, eyes: &Eyes) -> Option<usize> {
        let free = self.best(group, worst, false, eyes);
        free.or_else(|| self.best(group, worst, true, eyes))
    }

    /// The move that a group needs.
    fn need(&self, group: usize, eyes: &Eyes) -> Option<Step> {
        let held = &self.groups[group];
        let server = &self.servers[held.holder];
        if !self.is_served(group) {
            return self.after_death(group, eyes);
        }
        if server.sick {
            let to = self.anyone(group, Grade::HeldDown, eyes);
            return to.map(|to| (to, "rule"));
        }
        let leaves = server
            .drained
            .and_then(|since| self.drained_to(group, since, eyes));
        leaves
            .map(|to| (to, "drained"))
            .or_else(|| Some((self.failback(group, eyes)?, "failback")))
    }

    /// The holder is dead, or another life of it is back: whoever could serve.
    fn after_death(&self, group: usize, eyes: &Eyes) -> Option<Step> {
        let holder = self.groups[group].holder;
        let back = Some(holder).filter(|node| self.servers[*node].up);
        let well = back.filter(|node| self.grade(group, *node, eyes) <= Grade::Recovering);
        let to = self
            .best(group, Grade::Recovering, false, eyes)
            .or(well)
            .or_else(|| self.best(group, Grade::Recovering, true, eyes))
            .or_else(|| self.anyone(group, Grade::Sick, eyes))
            .or(back)?;
        let cause = match back {
            Some(_) => "holder-restarted",
            None => "holder-silent",
        };
        Some((to, cause))
    }

    /// Where a group of a drained server goes: one that failed it since then waits for its
    /// hold-down.
    fn drained_to(&self, group: usize, since: Moment, eyes: &Eyes) -> Option<usize> {
        let known = |node: usize| {
            let failed = self.groups[group].failed[node];
            failed.is_none_or(|failed| failed.at < since)
        };
        let nodes = GROUPS[group].nodes.iter().copied();
        nodes
            .filter(|node| *node != self.groups[group].holder)
            .filter(|node| self.servers[*node].drained.is_none())
            .map(|node| (self.grade(group, node, eyes), node))
            .filter(|(grade, node)| {
                *grade == Grade::Good || *grade == Grade::HeldDown && known(*node)
            })
            .min_by_key(|(grade, _)| *grade)
            .map(|(_, node)| node)
    }

    /// A preferred server that has been well for long, while the group has been elsewhere.
    fn failback(&self, group: usize, eyes: &Eyes) -> Option<usize> {
        let after = GROUPS[group].failback?;
        let held = &self.groups[group];
        let elsewhere = eyes.held.since(held.since.max(eyes.leads_since));
        let before = GROUPS[group].nodes.iter().copied();
        before.take_while(|node| *node != held.holder).find(|node| {
            self.grade(group, *node, eyes) == Grade::Good
                && self.servers[*node].drained.is_none()
                && self.well_for(*node, eyes, held.failed[*node]) >= after
                && elsewhere >= after
        })
    }

    /// When at the latest a group goes back by itself, if nothing else happens and soon enough.
    pub(super) fn goes_back(
        &self,
        group: usize,
        now: Moment,
        leads_since: Moment,
        within: Duration,
    ) -> Option<Moment> {
        let seconds = (1..=within.as_secs()).map(|secs| now + Duration::from_secs(secs));
        let mut due = seconds.filter(|then| {
            let all = self.needs(group, *then, leads_since);
            all.iter()
                .all(|one| one.is_some_and(|(_, cause)| cause == "failback"))
        });
        due.next()
    }

    /// A move was seen.
    pub(super) fn moved(&mut self, group: usize, (to, cause): Step, at: Moment) {
        let life = self.servers[to].life;
        let held = &mut self.groups[group];
        let from = held.holder;
        let fails = matches!(cause, "holder-silent" | "holder-restarted" | "rule");
        // Who served well to the end is forgiven.
        held.failed[from] = fails.then(|| Failed {
            at,
            count: held.failed[from].map_or(0, |failed| failed.count) + 1,
        });
        if from != to {
            held.since = at;
        }
        (held.holder, held.life) = (to, life);
        self.wish = self.wish.filter(|wish| *wish != (group, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = Duration::from_secs(100);

    fn at(secs: u64) -> Moment {
        Moment::from_nanos((1_000 + secs) * 1_000_000_000)
    }

    /// All has been well for long.
    fn calm() -> Oracle {
        Oracle::new(at(0))
    }

    fn only(oracle: &Oracle, group: usize, now: Moment) -> Option<Step> {
        let all = oracle.needs(group, now, at(0));
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().flatten()
    }

    #[test]
    fn a_holder_stays_and_the_next_in_order_follows_the_dead() {
        let mut oracle = calm();
        let now = at(0) + LATER;
        assert_eq!(only(&oracle, 0, now), None);
        oracle.servers[0].up = false;
        assert_eq!(only(&oracle, 0, now), Some((3, "holder-silent")));
        oracle.servers[3].up = false;
        assert_eq!(only(&oracle, 0, now), None, "nobody is left");
    }

    #[test]
    fn a_group_goes_back_after_hold_down_and_a_stable_time_if_the_file_says_so() {
        let mut oracle = calm();
        let now = at(100);
        oracle.servers[0].up = false;
        oracle.moved(0, (3, "holder-silent"), now);
        oracle.servers[0].up = true;
        oracle.servers[0].life += 1;
        oracle.servers[0].well_since = at(101);
        assert_eq!(only(&oracle, 0, at(125)), None, "held down");
        let near = oracle.needs(0, at(130), at(0));
        assert_eq!(near.len(), 2, "both are right: {near:?}");
        assert_eq!(only(&oracle, 0, at(134)), Some((0, "failback")));
        let due = oracle.goes_back(0, at(110), at(0), LATER).expect("it does");
        assert!(due >= at(133) && due <= at(134), "{due:?}");

        oracle.moved(1, (3, "holder-silent"), now);
        assert_eq!(only(&oracle, 1, at(1000)), None, "by hand only");
    }

    #[test]
    fn drained_servers_serve_in_need_only() {
        let mut oracle = calm();
        let now = at(100);
        oracle.servers[3].drained = Some(now);
        oracle.servers[0].sick = true;
        assert_eq!(only(&oracle, 0, now), Some((3, "rule")), "nobody else");
        oracle.servers[0].sick = false;
        oracle.servers[0].drained = Some(now);
        assert_eq!(only(&oracle, 0, now), None, "drained both");
        assert!(!oracle.may_drain(1), "two votes are left, and the witness");
        oracle.servers[3].drained = None;
        assert_eq!(only(&oracle, 0, now), Some((3, "drained")));
    }

    #[test]
    fn a_server_that_failed_the_group_is_no_refuge_while_it_recovers() {
        let mut oracle = calm();
        oracle.moved(0, (3, "rule"), at(100));
        oracle.servers[0].well_since = at(100);
        oracle.servers[3].sick = true;
        oracle.disturbed = at(100);
        assert_eq!(only(&oracle, 0, at(107)), Some((0, "rule")), "held down");
        oracle.servers[0].well_since = at(120);
        oracle.disturbed = at(120);
        assert_eq!(oracle.needs(0, at(120), at(0)).len(), 2, "3 s or not yet");
    }
}
