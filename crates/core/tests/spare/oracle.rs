//! Where each group must be, told independently of the code: the rules of the manual in words
//! of its own, over exact times, with nothing in between.
//!
//! The decision machines need some tenths of a second for what happens here at once. So a run
//! is chosen such that nothing that matters to a group comes within [`APART`] of anything else
//! that does: then there is one right answer.

use crate::place::{COLD, GROUPS, NODES, SERVERS};

/// Milliseconds.
pub type Ms = u64;

/// How far apart events of one group are, so that their order is beyond doubt.
pub const APART: Ms = 1_600;
const WELL_MIN: Ms = 3_000;
/// How far a run is looked ahead: beyond every time that a rule knows, but one.
const AHEAD: Ms = 1_500_000;
const FORGIVEN: Ms = 3_600_000;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Die(usize),
    Return(usize),
    /// Told to stop; it dies by a later step.
    Stop(usize),
    Sick(usize, usize),
    Heal(usize, usize),
    /// For so many seconds, or without an end.
    Drain(usize, Option<u64>),
    Undrain(usize),
    Switch(usize, usize),
}

#[derive(Clone, Debug)]
struct Host {
    up: bool,
    stopping: bool,
    life: u64,
    /// Since when, its number in the order of events, and until when.
    drained: Option<(Ms, u64, Option<Ms>)>,
}

#[derive(Clone, Debug)]
struct Failed {
    at: Ms,
    order: u64,
    count: u32,
    /// What it serves with failed, not the node.
    served_badly: bool,
}

#[derive(Clone, Debug)]
struct Here {
    sick: bool,
    well_since: Ms,
    failed: Option<Failed>,
}

#[derive(Clone, Debug)]
struct Held {
    holder: usize,
    life: u64,
    since: Ms,
}

/// How well a node could serve; the first is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Good,
    HeldDown,
    Recovering,
    Sick,
    Gone,
}

#[derive(Clone, Debug)]
pub struct Oracle {
    now: Ms,
    /// When time brought something last.
    brought: Ms,
    order: u64,
    hosts: Vec<Host>,
    here: Vec<Vec<Here>>,
    held: Vec<Held>,
    /// Group, from, to, cause.
    pub moves: Vec<(usize, usize, usize, &'static str)>,
}

/// Doubled for each further failure, at most 10 minutes.
fn grown(first: Ms, count: u32) -> Ms {
    let span = (0..count.saturating_sub(1)).fold(first, |span, _| (span * 2).min(600_000));
    span.min(600_000)
}

/// How long a node must have been well that failed: 3 s, doubled for each further failure, a minute at
/// most.
fn well_min(failed: Option<&Failed>) -> Ms {
    grown(WELL_MIN, failed.map_or(1, |failed| failed.count)).min(60_000)
}

/// Two things that matter to one group come too close together.
#[derive(Debug)]
pub struct TooClose;

impl Oracle {
    /// Every group is on its first node, all is well.
    pub fn new(now: Ms) -> Self {
        let host = Host {
            up: true,
            stopping: false,
            life: 1,
            drained: None,
        };
        let here = Here {
            sick: false,
            well_since: now,
            failed: None,
        };
        let held = |group: &(&str, &[usize], Option<u64>)| Held {
            holder: group.1[0],
            life: 1,
            since: now,
        };
        Self {
            now,
            brought: now,
            order: 0,
            hosts: vec![host; NODES.len()],
            here: vec![vec![here; NODES.len()]; GROUPS.len()],
            held: GROUPS.iter().map(held).collect(),
            moves: Vec::new(),
        }
    }

    pub fn holder(&self, group: usize) -> usize {
        self.held[group].holder
    }

    pub fn up(&self, node: usize) -> bool {
        self.hosts[node].up
    }

    pub fn stopping(&self, node: usize) -> bool {
        self.hosts[node].stopping
    }

    pub fn sick(&self, node: usize, group: usize) -> bool {
        self.here[group][node].sick
    }

    pub fn drained(&self, node: usize) -> bool {
        self.hosts[node].drained.is_some()
    }

    /// Whether three of five votes are left without it, counting on nobody who is about to go.
    pub fn may_drain(&self, node: usize) -> bool {
        let counts = |(other, host): (usize, &Host)| {
            other != node && host.up && !host.stopping && host.drained.is_none()
        };
        self.hosts
            .iter()
            .enumerate()
            .filter(|one| counts(*one))
            .count()
            >= 3
    }

    /// Whether an operator may move a group there.
    pub fn may_switch(&self, group: usize, to: usize) -> bool {
        let holder = self.held[group].holder;
        let good = self.grade(group, to) <= Grade::HeldDown && !self.drained(to);
        good && to != holder && self.up(holder) && GROUPS[group].1.contains(&to)
    }

    fn grade(&self, group: usize, node: usize) -> Grade {
        let (host, here) = (&self.hosts[node], &self.here[group][node]);
        if !host.up || host.stopping {
            return Grade::Gone;
        }
        if here.sick {
            return Grade::Sick;
        }
        match self.hold_ends(group, node) {
            Some(end) if self.now < end => {
                let failed = here.failed.as_ref();
                let barred = self.bar_ends(group, node).is_some_and(|end| self.now < end);
                if barred || self.now < here.well_since + well_min(failed) {
                    Grade::Recovering
                } else {
                    Grade::HeldDown
                }
            }
            _ => Grade::Good,
        }
    }

    /// Until when nobody knows whether what failed on a node would do so again: a minute at most.
    fn bar_ends(&self, group: usize, node: usize) -> Option<Ms> {
        let failed = self.here[group][node].failed.as_ref();
        let failed = failed.filter(|failed| group == COLD && failed.served_badly)?;
        Some(failed.at + grown(30_000, failed.count).min(60_000))
    }

    /// 30 s, doubled for each further failure, at most 10 minutes.
    fn hold_ends(&self, group: usize, node: usize) -> Option<Ms> {
        let failed = self.here[group][node].failed.as_ref()?;
        Some(failed.at + grown(30_000, failed.count))
    }

    /// The best of the others up to a grade, drained or not, in order of the file.
    fn best(&self, group: usize, worst: Grade, drained: bool) -> Option<usize> {
        let holder = self.held[group].holder;
        let nodes = GROUPS[group].1.iter().copied();
        let nodes = nodes.filter(|node| *node != holder && self.drained(*node) == drained);
        nodes
            .map(|node| (self.grade(group, node), node))
            .filter(|(grade, _)| *grade <= worst)
            .min_by_key(|(grade, _)| *grade)
            .map(|(_, node)| node)
    }

    /// The move that a group needs now.
    fn needs(&self, group: usize) -> Option<(usize, &'static str)> {
        let Held {
            holder,
            life,
            since,
        } = self.held[group];
        let host = &self.hosts[holder];
        let anyone = |worst| {
            let best = self.best(group, worst, false);
            best.or_else(|| self.best(group, worst, true))
        };
        if !host.up || host.life != life {
            let back = Some(holder).filter(|_| host.up);
            let cause = if host.up {
                "holder-restarted"
            } else {
                "holder-silent"
            };
            // One that is alive again is as good as another that failed a moment ago.
            let well = back.filter(|node| self.grade(group, *node) <= Grade::Recovering);
            let to = self
                .best(group, Grade::HeldDown, false)
                .or(well.filter(|node| !self.drained(*node)))
                .or_else(|| self.best(group, Grade::Recovering, false))
                .or(well)
                .or_else(|| self.best(group, Grade::Recovering, true))
                .or_else(|| anyone(Grade::Sick))
                .or(back);
            return to.map(|to| (to, cause));
        }
        if host.stopping {
            let cause = match self.here[group][holder].sick {
                true => "rule",
                false => "holder-stopping",
            };
            return anyone(Grade::Recovering).map(|to| (to, cause));
        }
        if self.here[group][holder].sick {
            return anyone(Grade::HeldDown).map(|to| (to, "rule"));
        }
        if let Some((_, order, _)) = host.drained {
            let before = |node: usize| {
                let failed = self.here[group][node].failed.as_ref();
                failed.is_none_or(|failed| failed.order < order)
            };
            let nodes = GROUPS[group].1.iter().copied();
            let nodes = nodes.filter(|node| *node != holder && !self.drained(*node));
            let to = nodes
                .map(|node| (self.grade(group, node), node))
                .filter(|(grade, node)| {
                    *grade == Grade::Good || *grade == Grade::HeldDown && before(*node)
                })
                .min_by_key(|(grade, _)| *grade);
            if let Some((_, to)) = to {
                return Some((to, "drained"));
            }
        }
        let after = GROUPS[group].2? * 1000;
        let nodes = GROUPS[group].1.iter().copied();
        let mut before = nodes.take_while(|node| *node != holder);
        let to = before.find(|node| {
            self.grade(group, *node) == Grade::Good
                && !self.drained(*node)
                && self.now >= self.here[group][*node].well_since + after
                && self.now >= since + after
        })?;
        Some((to, "failback"))
    }

    fn go(&mut self, group: usize, to: usize, cause: &'static str) {
        let from = self.held[group].holder;
        self.order += 1;
        let failed = matches!(cause, "holder-silent" | "holder-restarted" | "rule");
        let here = &mut self.here[group][from];
        here.failed = failed.then(|| Failed {
            at: self.now,
            order: self.order,
            count: here.failed.as_ref().map_or(0, |failed| failed.count) + 1,
            served_badly: cause == "rule",
        });
        if failed {
            // How well it was before says nothing.
            here.well_since = self.now;
        }
        self.moves.push((group, from, to, cause));
        let since = match from == to {
            true => self.held[group].since,
            false => self.now,
        };
        self.held[group] = Held {
            holder: to,
            life: self.hosts[to].life,
            since,
        };
    }

    /// Everything that follows at this moment.
    fn settle(&mut self) {
        for group in 0..GROUPS.len() {
            for round in 0.. {
                let Some((to, cause)) = self.needs(group) else {
                    break;
                };
                assert!(round < 8, "the rules themselves flap: {self:#?}");
                self.go(group, to, cause);
            }
        }
    }

    /// When something may come to matter to a group by the mere passing of time.
    fn moments(&self, group: usize) -> Vec<Ms> {
        let mut moments = Vec::new();
        let after = GROUPS[group].2.map(|secs| secs * 1000);
        if let Some(after) = after {
            moments.push(self.held[group].since + after);
        }
        for node in GROUPS[group].1 {
            let here = &self.here[group][*node];
            if self.hosts[*node].up && !self.hosts[*node].stopping && !here.sick {
                moments.extend(self.hold_ends(group, *node));
                moments.extend(self.bar_ends(group, *node));
                if here.failed.is_some() {
                    moments.push(here.well_since + well_min(here.failed.as_ref()));
                    moments.push(here.well_since + FORGIVEN);
                }
                moments.extend(after.map(|after| here.well_since + after));
            }
        }
        for node in SERVERS {
            moments.extend(self.hosts[node].drained.and_then(|(_, _, until)| until));
        }
        moments.retain(|at| *at > self.now);
        moments.sort_unstable();
        moments.dedup();
        moments
    }

    fn at_this_moment(&mut self) {
        for node in SERVERS {
            let drained = &mut self.hosts[node].drained;
            if drained.is_some_and(|(_, _, until)| until.is_some_and(|until| until <= self.now)) {
                *drained = None;
            }
            for group in 0..GROUPS.len() {
                let up = self.hosts[node].up && !self.hosts[node].stopping;
                let well = up && !self.here[group][node].sick;
                let here = &mut self.here[group][node];
                if well && self.now >= here.well_since + FORGIVEN {
                    here.failed = None;
                }
            }
        }
        self.settle();
    }

    /// Whether what time brought last has had time to happen.
    pub fn is_settled(&self) -> Result<(), TooClose> {
        match self.now - self.brought < APART {
            true => Err(TooClose),
            false => Ok(()),
        }
    }

    /// Whether nothing that matters comes soon.
    pub fn is_quiet(&self) -> Result<(), TooClose> {
        let soon = |group: usize| {
            let moments = self.moments(group);
            moments
                .first()
                .is_some_and(|first| *first - self.now < APART)
        };
        match (0..GROUPS.len()).any(soon) {
            true => Err(TooClose),
            false => Ok(()),
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, until: Ms) -> Result<(), TooClose> {
        loop {
            let mut next = until;
            for group in 0..GROUPS.len() {
                let moments = self.moments(group);
                let close = |pair: &&[Ms]| pair[0] <= until && pair[1] - pair[0] < APART;
                if moments.windows(2).find(close).is_some() {
                    return Err(TooClose);
                }
                next = next.min(moments.first().copied().unwrap_or(until));
            }
            self.now = next;
            self.at_this_moment();
            if next == until {
                return Ok(());
            }
            self.brought = next;
            // What followed from this moment may be close to the next one.
            self.is_quiet()?;
        }
    }

    /// Something happens now; a look ahead tells whether the outcome is beyond doubt.
    pub fn apply(&mut self, op: Op) -> Result<(), TooClose> {
        self.order += 1;
        let now = self.now;
        match op {
            Op::Die(node) => {
                self.hosts[node].up = false;
                self.hosts[node].stopping = false;
            }
            Op::Return(node) => {
                self.hosts[node].up = true;
                self.hosts[node].life += 1;
                self.here
                    .iter_mut()
                    .for_each(|group| group[node].well_since = now);
            }
            Op::Stop(node) => self.hosts[node].stopping = true,
            Op::Sick(node, group) => self.here[group][node].sick = true,
            Op::Heal(node, group) => {
                self.here[group][node].sick = false;
                self.here[group][node].well_since = now;
            }
            Op::Drain(node, secs) => {
                let until = secs.map(|secs| now + secs * 1000);
                self.hosts[node].drained = Some((now, self.order, until));
            }
            Op::Undrain(node) => self.hosts[node].drained = None,
            Op::Switch(group, to) => self.go(group, to, "operator"),
        }
        self.settle();
        self.is_quiet()?;
        self.clone().pass(now + AHEAD)
    }
}
