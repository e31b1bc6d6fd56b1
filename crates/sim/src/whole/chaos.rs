//! What goes wrong: each deed of the recipe, done to drawn victims for drawn times.

use core::time::Duration;

use evenkeel_core::GroupId;

use super::disk::Backup;
use super::host::{Begin, StateDir};
use super::place;
use super::recipe::{Deed, MS, S, nanos};
use super::service::Health;
use super::story::Line;
use super::world::{Happening, World};
use crate::clock::Clock;

impl World {
    /// Any machine at all.
    pub(super) fn any_host(&mut self) -> usize {
        usize::try_from(self.chance.below(self.hosts.len() as u64)).unwrap_or(0)
    }

    /// Any group at all.
    pub(super) fn any_group(&mut self) -> GroupId {
        let groups = self.recipe.groups as u64;
        place::group_id(usize::try_from(self.chance.below(groups)).unwrap_or(0))
    }

    /// The holder of some group as often as anybody else: most trouble is there.
    fn victim(&mut self) -> usize {
        let group = self.any_group();
        let holder = (0..self.hosts.len()).find(|host| self.hosts[*host].serves(group, self.at));
        let any = self.any_host();
        let leader = self.leader();
        match self.chance.below(10) {
            0..4 => holder.unwrap_or(any),
            4..6 => leader.unwrap_or(any),
            _ => any,
        }
    }

    /// Any span up to three leases, short ones as often as long ones.
    fn span(&mut self) -> u64 {
        let lease = self.recipe.lease();
        let most = self.chance.pick(&[lease / 20, lease / 4, lease, 3 * lease]);
        self.chance.between(1, most)
    }

    /// Does one deed.
    pub(super) fn act(&mut self, deed: Deed) {
        let host = self.victim();
        self.seen.deeds += 1;
        self.tell(|| Line::node(host, "deed").text(format!("{deed:?}")));
        match deed {
            Deed::CutLink | Deed::Isolate | Deed::Rejoin | Deed::Loss | Deed::Lag => {
                self.act_on_network(host, deed)
            }
            Deed::Freeze
            | Deed::FreezeLong
            | Deed::Stall
            | Deed::StallDriver
            | Deed::Pause
            | Deed::KillWorker
            | Deed::KillMidway
            | Deed::KillDaemon => self.act_on_process(host, deed),
            Deed::PowerCut
            | Deed::Blackout
            | Deed::LoseLog
            | Deed::Restore
            | Deed::Hang
            | Deed::Slow
            | Deed::Fail => self.act_on_machine(host, deed),
            Deed::ServiceFails | Deed::ServiceHangs | Deed::ServiceHeals | Deed::CheckLies => {
                self.act_on_service(host, deed)
            }
            Deed::Switch => self.switch(false),
            Deed::ForceSwitch => self.switch(true),
            Deed::Drain => self.drain(),
            Deed::Undrain => self.undrain_all(),
            Deed::Stop => {
                if self.hosts[host].driver_of().is_some() && !self.hosts[host].stopping {
                    self.books.s6.stopped(self.at, self.hosts[host].id);
                    self.stop(host);
                }
            }
            Deed::Reload => self.reload(),
        }
    }

    fn act_on_network(&mut self, host: usize, deed: Deed) {
        match deed {
            Deed::CutLink => {
                let other = self.any_host();
                let (from, to) = if self.chance.happens(500) {
                    (host, other)
                } else {
                    (other, host)
                };
                let cut = self.wires.is_cut(from, to);
                self.wires.cut(from, to, !cut && from != to);
            }
            Deed::Isolate => {
                for other in (0..self.hosts.len()).filter(|other| *other != host) {
                    self.wires.cut(host, other, true);
                    self.wires.cut(other, host, true);
                }
            }
            Deed::Rejoin => self.wires.rejoin(),
            Deed::Loss => {
                let loss = self.chance.pick(&[0, 0, 20, 100, 300, 500]);
                self.wires.set_loss(loss);
            }
            _ => {
                let until = self.at + 3 * self.span();
                self.wires.lag(host, until);
            }
        }
    }

    fn act_on_process(&mut self, host: usize, deed: Deed) {
        if self.hosts[host].paused {
            return;
        }
        match deed {
            Deed::Freeze => {
                let span = self.span();
                self.freeze(host, span);
            }
            Deed::FreezeLong => {
                let span = self.chance.between(100 * MS, 10 * S);
                self.freeze(host, span);
            }
            Deed::Stall => self.hosts[host].stalls_for = self.span(),
            Deed::StallDriver => {
                let until = self.at + 3 * self.span();
                let frozen = self.hosts[host].driver_frozen.max(until);
                self.hosts[host].driver_frozen = frozen;
            }
            Deed::Pause => self.pause(host),
            Deed::KillWorker => self.kill_worker(host),
            Deed::KillMidway => {
                let after = usize::try_from(self.chance.below(8)).unwrap_or(0);
                self.hosts[host].dies_after = Some(after);
            }
            _ => self.kill_daemon(host),
        }
    }

    fn act_on_machine(&mut self, host: usize, deed: Deed) {
        match deed {
            Deed::PowerCut => self.power_cut(host),
            Deed::Blackout => (0..self.hosts.len()).for_each(|host| self.power_cut(host)),
            Deed::LoseLog => {
                if self.may_forget() {
                    self.power_cut(host);
                    self.lose_log(host);
                }
            }
            Deed::Restore => self.back_up_or_restore(host),
            Deed::Hang => {
                let until = self.at + self.chance.between(50 * MS, 8 * S);
                self.hosts[host]
                    .disk
                    .hang_until(Duration::from_nanos(until));
            }
            Deed::Slow => {
                let latency = Duration::from_micros(self.chance.between(100, 200_000));
                self.hosts[host].disk.set_latency(latency);
            }
            _ => {
                self.hosts[host].disk.set_failing(true);
                let at = self.at + self.moment();
                self.plan(at, Happening::Mended { host });
            }
        }
    }

    fn act_on_service(&mut self, host: usize, deed: Deed) {
        let group = self.any_group();
        let now = self.hosts[host].now(self.at);
        let services = &mut self.hosts[host].services;
        match deed {
            Deed::ServiceFails => services.set(group, Health::Failing),
            Deed::ServiceHangs => services.set(group, Health::Hanging(now)),
            Deed::ServiceHeals => {
                self.hosts.iter_mut().for_each(|host| host.services.heal());
                return;
            }
            _ => {
                let until = self.at + self.chance.between(S, 10 * S);
                self.hosts[host].services.lie(group, until);
            }
        }
        let process = self.hosts[host].process;
        let at = self.at + self.chance.between(MS / 10, 200 * MS);
        self.plan(at, Happening::AsksOnce { host, process });
    }

    // ---- processes and machines -----------------------------------------------------------

    /// The daemon of a node stands still.
    pub(super) fn freeze(&mut self, host: usize, span: u64) {
        let until = self.at + span;
        let one = &mut self.hosts[host];
        one.thread_frozen = one.thread_frozen.max(until);
        one.driver_frozen = one.driver_frozen.max(until);
        self.wires.freeze(host, until);
    }

    /// A machine is paused as a whole, and knows nothing of it afterwards.
    fn pause(&mut self, host: usize) {
        if self.hosts[host].paused || !self.hosts[host].powered {
            return;
        }
        let span = self.chance.between(10 * MS, 5 * S);
        self.freeze(host, span);
        let shows = self.hosts[host].now(self.at).as_nanos();
        let one = &mut self.hosts[host];
        one.paused = true;
        one.pauses += 1;
        let pauses = one.pauses;
        let unpauses = Happening::Unpauses {
            host,
            pauses,
            shows,
        };
        self.plan(self.at + span, unpauses);
    }

    /// It goes on where it was.
    pub(super) fn unpause(&mut self, host: usize, shows: u64) {
        let one = &mut self.hosts[host];
        if !one.paused {
            return;
        }
        one.paused = false;
        one.clock = Clock::booted(self.at, shows, one.clock.rate());
        // What it was allowed before the pause seems to run on.
        let drift = one
            .clock
            .when(one.clock.shows(self.at) + self.recipe.timing.lease);
        one.excused_until = drift + nanos(one.kernel.guard.late);
        self.check_openings(host);
    }

    /// A worker dies; the one that waits, or one that the parent starts, goes on.
    pub(super) fn kill_worker(&mut self, host: usize) {
        if self.hosts[host].worker.is_none() {
            return;
        }
        // Before its lease thread has begun there is nothing to go on from.
        let begun = self.hosts[host].thread().is_some();
        let begin = if begun { Begin::Heir } else { Begin::Life };
        self.end_worker(host);
        let waits = self.chance.happens(800);
        let down = if waits { 2 * MS } else { 80 * MS };
        let at = self.at + self.chance.between(MS / 2, down);
        let process = self.hosts[host].process;
        self.plan(
            at,
            Happening::Begins {
                host,
                process,
                begin,
            },
        );
    }

    /// All processes of a daemon die; it is started anew.
    fn kill_daemon(&mut self, host: usize) {
        if self.hosts[host].worker.is_none() {
            return;
        }
        self.end_worker(host);
        self.hosts[host].kernel.memory = None;
        let at = self.at + self.chance.between(20 * MS, 3 * S);
        let process = self.hosts[host].process;
        let begin = Begin::Life;
        self.plan(
            at,
            Happening::Begins {
                host,
                process,
                begin,
            },
        );
    }

    /// The power of a machine goes, and comes back.
    fn power_cut(&mut self, host: usize) {
        if !self.hosts[host].powered {
            return;
        }
        self.end_worker(host);
        let keep = self.chance.happens(500);
        let one = &mut self.hosts[host];
        let late = one.kernel.guard.late;
        one.powered = false;
        one.paused = false;
        one.stopped = false;
        one.kernel = super::kernel::Kernel::default();
        one.kernel.guard.late = late;
        one.announced.clear();
        one.services.boot();
        one.disk = one.disk.next(keep, true);
        one.disk.hang_until(Duration::ZERO);
        let at = self.at + self.chance.between(S, 15 * S);
        let process = self.hosts[host].process;
        let begin = Begin::Boot;
        self.plan(
            at,
            Happening::Begins {
                host,
                process,
                begin,
            },
        );
    }

    /// Whether a node may lose what it has stored: no protocol survives that at two voters before
    /// the first has been let in again, and what `core::suffrage` says it cannot see is left out:
    /// a life that is not on record yet, with each of the others.
    fn may_forget(&self) -> bool {
        let votes = |host: &super::host::Host| {
            let driver = host.driver_of();
            driver.is_some_and(super::driver::Driver::votes)
        };
        let Some(number) = self.leader() else {
            return false;
        };
        // One that was restored may think that it votes; the others do not let it in.
        let admitted = |other: usize| other == number || self.wires.is_connected(number, other);
        let lives: Vec<_> = self
            .hosts
            .iter()
            .map(|one| (one.id, one.incarnation))
            .collect();
        let knows = |other: &super::host::Host| {
            let ledger = other.driver_of().map(|driver| driver.node.ledger());
            ledger.is_some_and(|ledger| lives.iter().all(|(id, life)| ledger.counts(*id, *life)))
        };
        self.hosts.len() >= 3
            && self.hosts.iter().all(knows)
            && self.hosts.iter().all(votes)
            && (0..self.hosts.len()).all(admitted)
    }

    fn lose_log(&mut self, host: usize) {
        self.seen.forgotten += 1;
        self.hosts[host].disk.replace(None);
        self.hosts[host].backup = None;
        if self.chance.happens(300) {
            self.hosts[host].state = StateDir::default();
        }
        self.books.s2.forget(host);
    }

    /// Makes a backup, or restores one that lacks at least one start since.
    fn back_up_or_restore(&mut self, host: usize) {
        let may = self.may_forget();
        let one = &mut self.hosts[host];
        let counter = one.state.counter;
        let older = one
            .backup
            .as_ref()
            .is_some_and(|(state, _)| state.counter < counter);
        match one.backup.take_if(|_| may && older) {
            Some((state, log)) => {
                self.power_cut(host);
                self.restore_dir(host, state, &log);
            }
            None if one.backup.is_none() => {
                one.backup = Some((one.state.clone(), one.disk.copy()));
            }
            None => {}
        }
    }

    fn restore_dir(&mut self, host: usize, state: StateDir, log: &Backup) {
        self.seen.forgotten += 1;
        self.hosts[host].state = state;
        self.hosts[host].disk.replace(Some(log));
        self.books.s2.forget(host);
    }
}
