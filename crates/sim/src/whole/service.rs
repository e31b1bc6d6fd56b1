//! What runs with the groups on a machine, and the checks that ask about it
//! (`crates/daemon/src/{services,checks}.rs`): services fail and hang, checks lie.

use std::collections::BTreeMap;

use evenkeel_core::health::CheckState;
use evenkeel_core::node::Event;
use evenkeel_core::role::Run;
use evenkeel_core::{Epoch, GroupId, Moment};

use super::place::{self, ASKED};
use super::recipe::{MS, S, nanos};
use super::thread::Order;
use super::world::{Happening, World};

/// How long a service takes to start: from a program that is there to one that reads its files.
const START: (u64, u64) = (5 * MS, 600 * MS);

/// The longest pause before a service that could not be started is tried again, after 1 s, 2 s, ...
const RETRY_MAX: u64 = 60 * S;

/// How a service does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Health {
    /// Well.
    #[default]
    Well,
    /// It refuses.
    Failing,
    /// It has not answered since then.
    Hanging(Moment),
}

/// All services of one machine.
#[derive(Default)]
pub(super) struct Services {
    health: BTreeMap<GroupId, Health>,
    /// Until when the check of a group says the opposite.
    lies: BTreeMap<GroupId, u64>,
    /// What should run of each group.
    runs: BTreeMap<GroupId, Run>,
    /// Groups whose service was started.
    started: BTreeMap<GroupId, bool>,
    /// Starts that failed in the epoch that is wanted, and when the next try is.
    tries: BTreeMap<GroupId, (Epoch, u32, u64)>,
    /// When a start last failed.
    failed_at: BTreeMap<GroupId, u64>,
    /// The lease thread has told what is open here.
    told: bool,
}

impl Services {
    /// A new worker: it has said nothing yet.
    pub(super) fn renew(&mut self) {
        self.runs.clear();
        self.told = false;
    }

    /// The machine was off.
    pub(super) fn boot(&mut self) {
        *self = Self::default();
    }

    /// How a service does from now on.
    pub(super) fn set(&mut self, group: GroupId, health: Health) {
        self.health.insert(group, health);
    }

    /// Its check says the opposite until then.
    pub(super) fn lie(&mut self, group: GroupId, until: u64) {
        self.lies.insert(group, until);
    }

    /// Everything is well, and said truly.
    pub(super) fn heal(&mut self) {
        self.health.clear();
        self.lies.clear();
    }

    /// How a service does.
    pub(super) fn health(&self, group: GroupId) -> Health {
        self.health.get(&group).copied().unwrap_or_default()
    }

    /// Whether its check tells the truth.
    pub(super) fn is_honest(&self, group: GroupId, at: u64) -> bool {
        self.lies.get(&group).is_none_or(|until| at >= *until)
    }

    /// When what runs on the holder alone could last not be started: nothing is known of it since.
    pub(super) fn failed_at(&self, group: GroupId) -> Option<u64> {
        self.failed_at.get(&group).copied()
    }

    /// Why the node could not hold a group well.
    pub(super) fn unready(&self, group: GroupId) -> Option<String> {
        let wanted = self.runs.get(&group).is_some_and(|run| run.is_holding());
        let failed = wanted && self.started.get(&group) == Some(&false);
        failed.then(|| "httpd could not be started".to_owned())
    }
}

impl World {
    /// This should run of a group from now on.
    pub(super) fn run_group(&mut self, host: usize, group: GroupId, run: Run) {
        let services = &mut self.hosts[host].services;
        services.runs.insert(group, run);
        if services.told {
            self.start_or_stop(host, group, run);
        }
    }

    /// The lease thread has told what is open: only now is anything started or stopped.
    pub(super) fn services_told(&mut self, host: usize) {
        let now = self.hosts[host].now(self.at);
        let runs = self.hosts[host]
            .driver_of()
            .and_then(|one| one.node.runs(now));
        let Some(runs) = runs else { return };
        let services = &mut self.hosts[host].services;
        if services.told {
            return;
        }
        services.told = true;
        services.runs = runs.clone();
        for (group, run) in runs {
            self.start_or_stop(host, group, run);
        }
    }

    fn is_cold(&self, group: GroupId) -> bool {
        let groups = 0..self.recipe.groups;
        let number = groups
            .into_iter()
            .find(|one| place::group_id(*one) == group);
        number.is_some_and(|number| self.recipe.cold[number])
    }

    fn start_or_stop(&mut self, host: usize, group: GroupId, run: Run) {
        if !self.is_cold(group) {
            return;
        }
        let process = self.hosts[host].process;
        let running = self.hosts[host].services.started.get(&group) == Some(&true);
        match run {
            Run::Standby => {
                let services = &mut self.hosts[host].services;
                services.started.remove(&group);
                services.tries.remove(&group);
                self.tell_readiness_of(host, group);
            }
            Run::Opening { epoch } | Run::Open { epoch } => {
                let (least, most) = if running { (1, MS) } else { START };
                let took = if self.is_calm() {
                    least
                } else {
                    self.chance.between(least, most)
                };
                let up = Happening::Up {
                    host,
                    process,
                    group,
                    epoch,
                };
                self.plan(self.at + took, up);
            }
            Run::Closing { .. } => {}
        }
    }

    /// A service has started, or could not.
    pub(super) fn up(&mut self, host: usize, group: GroupId, epoch: Epoch) {
        let services = &mut self.hosts[host].services;
        let wanted = services.runs.get(&group).and_then(|run| run.epoch());
        if wanted != Some(epoch) {
            return;
        }
        let well = services.health(group) != Health::Failing;
        services.started.insert(group, well);
        if well {
            services.tries.remove(&group);
            self.order(host, Order::Ready(group, epoch));
        } else {
            // Tried again for as long as it is wanted: perhaps no other node is fit.
            services.failed_at.insert(group, self.at);
            let known = services.tries.entry(group).or_default();
            if known.0 != epoch {
                *known = (epoch, 0, 0);
            }
            let (_, tries, next) = known;
            if *next <= self.at {
                *next = self.at + (S << *tries).min(RETRY_MAX);
                *tries = (*tries + 1).min(6);
                let (at, process) = (*next, self.hosts[host].process);
                let up = Happening::Up {
                    host,
                    process,
                    group,
                    epoch,
                };
                self.plan(at, up);
            }
        }
        self.tell_readiness_of(host, group);
    }

    /// The checks of a node answer.
    pub(super) fn ask(&mut self, host: usize, again: bool) {
        let events = self.verdicts(host);
        self.step_all(host, events);
        if again {
            let process = self.hosts[host].process;
            let late = self.chance.below(self.recipe.late_max);
            let at = self.at + nanos(ASKED) / 2 + late;
            self.plan(at, Happening::Asks { host, process });
        }
    }

    fn verdicts(&mut self, host: usize) -> Vec<Event> {
        let (at, now) = (self.at, self.hosts[host].now(self.at));
        let me = self.hosts[host].id;
        let mut events = Vec::new();
        for number in 0..self.recipe.groups {
            let group = place::group_id(number);
            let nodes = self.places[0].groups[&group].nodes.clone();
            for judged in nodes {
                let Some(other) = self.place_of(judged) else {
                    continue;
                };
                let (check, (state, silent_since)) = if judged == me {
                    (place::web(), self.web(host, number, now))
                } else {
                    (place::ping(), (self.ping(host, other), None))
                };
                if state == CheckState::Failing {
                    self.books.s6.failing(at, group, judged);
                }
                events.push(Event::Verdict {
                    group,
                    check,
                    judged,
                    state,
                    at: now,
                    silent_since,
                    detail: String::new(),
                    measures: Vec::new(),
                });
            }
        }
        events
    }

    fn web(&self, host: usize, number: usize, now: Moment) -> (CheckState, Option<Moment>) {
        let services = &self.hosts[host].services;
        let group = place::group_id(number);
        let rests = self.recipe.cold[number] && services.started.get(&group) != Some(&true);
        if rests {
            return (CheckState::Idle, None);
        }
        let honest = services.is_honest(group, self.at);
        match (services.health(group), honest) {
            (Health::Well, true) | (Health::Failing | Health::Hanging(_), false) => {
                (CheckState::Ok, None)
            }
            (Health::Failing, true) | (Health::Well, false) => (CheckState::Failing, None),
            (Health::Hanging(since), true) if now.since(since) >= ASKED => {
                (CheckState::Failing, Some(since))
            }
            (Health::Hanging(_), true) => (CheckState::Ok, None),
        }
    }

    fn ping(&self, host: usize, other: usize) -> CheckState {
        let there = &self.hosts[other];
        let cut = self.wires.is_cut(host, other) || self.wires.is_cut(other, host);
        if there.powered && !there.paused && !cut {
            CheckState::Ok
        } else {
            CheckState::Failing
        }
    }
}
