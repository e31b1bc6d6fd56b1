//! Which checks on this node do not count now, because what they ask for is being started.
//!
//! A check that watches a process sees its death before whoever may start it again has begun,
//! and a program that has just been started may need a while for its first answer. Neither is a
//! reason to move a group. So a node says in its reports which services settle here, and what fails
//! of their checks is taken for unknown meanwhile ([`crate::health`]). Every state has an end, so
//! that a service that never answers moves its group all the same.
//!
//! | now        | a check fails here           | being started again | started (news) | neither | its checks are well | time is over |
//! |------------|------------------------------|---------------------|----------------|---------|---------------------|--------------|
//! | -          | Asked, if it may be restarted | Restarting         | Started        | -       | -                   | -            |
//! | Asked      | Asked                        | Restarting          | Started        | Asked   | Asked               | -            |
//! | Restarting | Restarting                   | Restarting          | Started        | -       | Restarting          | (1)          |
//! | Started    | Started                      | Restarting          | Started        | -       | -                   | -            |
//!
//! (1) The tries on the spot are counted and each has a deadline, by the file: who starts it says
//! when it has failed, and then the node itself says that it cannot serve.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::Moment;
use crate::health::{CheckState, Silent, View};
use crate::names::{CheckName, GroupId, NodeId, ServiceName};
use crate::topology::{CheckPolicy, OfService, Topology};

/// A check that fails is held back for so long until whoever restarts its service has seen the
/// death as well: both are told by the kernel within milliseconds, in any order, and a machine
/// under load may keep one of them waiting.
pub const ASKED_MAX: Duration = Duration::from_millis(100);
/// The longest time for the first good answer of what has just been started, whatever its start
/// may take: beyond the patience of whoever waits for a web page. What needs longer until it can
/// answer says so by its start (`Type=notify`, `status`), which has a deadline of its own.
pub const GRACE_MAX: Duration = Duration::from_secs(10);

/// What the one who starts services says of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// It ended, and is being started again on the spot.
    Restarting,
    /// It was started then, by us.
    Started(Moment),
}

/// Why the checks of a service do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settling {
    /// One fails, and it may be that the service is about to be started again.
    Asked,
    /// It is being started again.
    Restarting,
    /// It has just been started, and has not answered well since.
    Started,
}

impl Settling {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Asked => "does not count yet, its service may be started again on the spot",
            Self::Restarting => {
                "does not count now, its service is being started again on the spot"
            }
            Self::Started => "does not count yet, its service has just been started",
        }
    }
}

/// How long the first good answer of a check may take, by how long the start of its service may.
pub fn grace(start: Duration, interval: Duration, timeout: Duration, fall: u32) -> Duration {
    start.max((interval + timeout) * fall).min(GRACE_MAX)
}

#[derive(Clone, Copy, Debug)]
enum State {
    Asked {
        until: Moment,
    },
    Restarting,
    /// Its time begins when its group opens, if it runs on the holder alone.
    Started {
        at: Moment,
        until: Option<Moment>,
    },
}

/// A service that checks ask for.
#[derive(Clone, Debug, Default)]
struct Service {
    checks: Vec<CheckPolicy>,
    grace: Duration,
    active: bool,
    /// The last start that was taken note of.
    started: Moment,
    state: Option<State>,
}

impl Service {
    fn settling(&self) -> Option<Settling> {
        self.state.map(|state| match state {
            State::Asked { .. } => Settling::Asked,
            State::Restarting => Settling::Restarting,
            State::Started { .. } => Settling::Started,
        })
    }

    fn told(&mut self, now: Moment, open: bool, fresh: Option<Fresh>) {
        match (fresh, self.state) {
            (Some(Fresh::Restarting), _) => self.state = Some(State::Restarting),
            (Some(Fresh::Started(at)), _) if at > self.started => {
                self.started = at;
                let waits = self.active && !open;
                let until = (!waits).then(|| now + self.grace);
                self.state = Some(State::Started { at, until });
            }
            (Some(Fresh::Started(_)), Some(State::Restarting)) => self.state = None,
            (Some(Fresh::Started(_)), _) => {}
            (None, Some(State::Asked { .. })) => {}
            (None, _) => self.state = None,
        }
    }

    /// Whether all its checks have answered well since it was started.
    fn is_well(&self, now: Moment, me: NodeId, group: GroupId, view: &View, at: Moment) -> bool {
        self.checks.iter().all(|policy| {
            let said = view.check(now, me, group, policy, Silent::AtFace);
            said.state == CheckState::Ok && said.age <= now.since(at)
        })
    }
}

/// All of them, on one node.
#[derive(Clone, Debug)]
pub(crate) struct Settle {
    /// Whose check each is, if it may be started again on the spot.
    restarted: BTreeMap<(GroupId, CheckName), ServiceName>,
    services: BTreeMap<(GroupId, ServiceName), Service>,
}

impl Settle {
    pub(crate) fn new(topology: &Topology) -> Self {
        let mut settle = Self {
            restarted: BTreeMap::new(),
            services: BTreeMap::new(),
        };
        let groups = topology.groups.values();
        for (group, policy) in groups.flat_map(|one| one.checks.iter().map(|p| (one.id, p))) {
            let Some(of) = &policy.service else { continue };
            settle.add(group, policy, of);
        }
        settle
    }

    fn add(&mut self, group: GroupId, policy: &CheckPolicy, of: &OfService) {
        let service = self.services.entry((group, of.name.clone())).or_default();
        service.checks.push(policy.clone());
        service.grace = service.grace.max(of.grace);
        service.active |= policy.rests;
        if of.restarts {
            let key = (group, policy.name.clone());
            self.restarted.insert(key, of.name.clone());
        }
    }

    /// A check of this node says that it itself fails. True if that is held back from now on.
    pub(crate) fn fails(&mut self, now: Moment, group: GroupId, check: &CheckName) -> bool {
        let Some(name) = self.restarted.get(&(group, check.clone())) else {
            return false;
        };
        let Some(service) = self.services.get_mut(&(group, name.clone())) else {
            return false;
        };
        let idle = service.state.is_none();
        if idle {
            let until = now + ASKED_MAX;
            service.state = Some(State::Asked { until });
        }
        idle
    }

    /// What is said of the services of a group that is open here or not. True if it changes
    /// anything.
    pub(crate) fn told(
        &mut self,
        now: Moment,
        group: GroupId,
        open: bool,
        all: &[(ServiceName, Option<Fresh>)],
    ) -> bool {
        let before = self.of(group);
        for (name, fresh) in all {
            if let Some(service) = self.services.get_mut(&(group, name.clone())) {
                service.told(now, open, *fresh);
            }
        }
        before != self.of(group)
    }

    /// The group opened: what was started for that is asked from now on.
    pub(crate) fn opened(&mut self, now: Moment, group: GroupId) {
        let services = self.services.iter_mut();
        for (_, service) in services.filter(|((of, _), _)| *of == group) {
            let grace = service.grace;
            if let Some(State::Started { until, .. }) = &mut service.state {
                until.get_or_insert(now + grace);
            }
        }
    }

    /// Ends what is over. True if anything is.
    pub(crate) fn observe(&mut self, now: Moment, me: NodeId, view: &View) -> bool {
        let mut over = false;
        for ((group, _), service) in &mut self.services {
            let ends = match service.state {
                Some(State::Asked { until }) => now >= until,
                Some(State::Started { until: None, .. } | State::Restarting) | None => false,
                Some(State::Started {
                    at,
                    until: Some(until),
                }) => now >= until || service.is_well(now, me, *group, view, at),
            };
            if ends {
                service.state = None;
                over = true;
            }
        }
        over
    }

    /// What settles of a group.
    pub(crate) fn of(&self, group: GroupId) -> Vec<(ServiceName, Settling)> {
        let services = self.services.iter();
        let own = services.filter(|((of, _), _)| *of == group);
        own.filter_map(|((_, name), service)| Some((name.clone(), service.settling()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn service() -> Service {
        Service {
            grace: Duration::from_secs(4),
            ..Service::default()
        }
    }

    /// The columns of the table that need nobody else.
    #[test]
    fn the_table_is_walked() {
        use Settling::{Asked, Restarting, Started};
        let until = Some(at(50));
        let states = [
            None,
            Some(State::Asked { until: at(50) }),
            Some(State::Restarting),
            Some(State::Started { at: at(5), until }),
        ];
        let news = Some(Fresh::Started(at(9)));
        let old = Some(Fresh::Started(at(5)));
        let again = Some(Fresh::Restarting);
        let table = [
            (0, again, Some(Restarting)),
            (0, news, Some(Started)),
            (0, old, None),
            (0, None, None),
            (1, again, Some(Restarting)),
            (1, news, Some(Started)),
            (1, old, Some(Asked)),
            (1, None, Some(Asked)),
            (2, again, Some(Restarting)),
            (2, news, Some(Started)),
            (2, old, None),
            (2, None, None),
            (3, again, Some(Restarting)),
            (3, news, Some(Started)),
            (3, old, Some(Started)),
            (3, None, None),
        ];
        for (from, fresh, expected) in table {
            let mut service = Service {
                state: states[from],
                started: at(5),
                ..service()
            };
            service.told(at(10), true, fresh);
            assert_eq!(service.settling(), expected, "{from}, {fresh:?}");
        }
    }

    #[test]
    fn the_time_of_what_runs_on_the_holder_alone_begins_when_it_is_asked() {
        let mut service = Service {
            active: true,
            ..service()
        };
        let until = |service: &Service| match service.state {
            Some(State::Started { until, .. }) => until,
            _ => panic!("{service:?}"),
        };
        service.told(at(10), false, Some(Fresh::Started(at(9))));
        assert_eq!(until(&service), None);
        service.told(at(20), true, Some(Fresh::Started(at(19))));
        assert_eq!(until(&service), Some(at(4020)));
    }

    #[test]
    fn the_first_answer_gets_as_long_as_the_start_or_the_check_and_no_longer_than_the_most() {
        let ms = Duration::from_millis;
        assert_eq!(grace(ms(3000), ms(50), ms(200), 2), ms(3000));
        assert_eq!(grace(ms(100), ms(1000), ms(1000), 2), ms(4000));
        assert_eq!(grace(ms(30_000), ms(50), ms(200), 2), GRACE_MAX);
        assert_eq!(grace(ms(100), ms(60_000), ms(1000), 2), GRACE_MAX);
    }
}
