//! One group: what is wanted of its services against what is seen of them. Pure: words,
//! observations and the ends of steps come in with the time, effects go out as data.
//!
//! | wanted         | seen                                  | effect                            |
//! | -------------- | ------------------------------------- | --------------------------------- |
//! | nothing yet    | whatever                              | none: an earlier life's run on    |
//! | `Standby`      | an `active` one may run or has died, newly wanted | `Stop`, last started first |
//! | `Standby`      | an `active` one is being started      | `GiveUp` the start, then `Stop`   |
//! | `Standby`      | all `active` ones down                | hook `after_close` if it had been opened, in whatever life, then report `Stopped`, once |
//! | `Standby`      | later, an `active` one runs           | report `Foreign`, once; the status has it for as long |
//! | any            | an `always` one is down               | `Start`                           |
//! | the daemon ends | as `Standby`; an `always` one runs that ends with it | `Stop`           |
//! | `Opening`, `Open` | one is down whose `after` all run  | `Start`                           |
//! | `Opening`      | a start fails                         | `Start` again up to `restart` times, then report `Failed`, once |
//! | `Opening`      | all run                               | hook `before_open`, then report `Ready`, once |
//! | `Opening`      | it has been open, with no `Standby` since | report `Ready` at once: it goes on in another epoch |
//! | `Open`         | newly wanted, not as the first word   | hook `after_open`, once per epoch, and again after a `Standby` |
//! | `Opening`, `Open` | one that ran is down               | `Start` again up to `restart` times, then report `Failed`, at once |
//! | `Closing`      | newly wanted                          | hook `before_close`, then report `MayClose`, once |
//!
//! keepalived's script is told MASTER, BACKUP and FAULT on the way, and MASTER again when the last
//! service of an open group that failed runs again.
//!
//! A service that is being stopped is left to it, and started after that if it is wanted
//! by then. One hook runs at a time, in order; a hook that fails is told ([`Report::HookFailed`])
//! and holds nothing up beyond its deadline. A service that failed is tried again from
//! [`RETRY_MIN`] to [`RETRY_MAX`] apart for as long as it is wanted, and so is a stop that
//! failed: perhaps no other node is fit, and nobody comes to look.

mod words;

use std::collections::VecDeque;
use std::time::Duration;

use evenkeel_config::When;
use evenkeel_core::settling::Fresh;
use evenkeel_core::{Epoch, GroupId, Moment, ServiceName};

pub use self::words::{
    Context, Effect, Event, FOREIGN, GroupStatus, Hook, Report, Seen, ServiceStatus, State,
    StopOutcome, Want,
};

/// The first pause before a service that failed is tried again.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest pause between such tries: somebody may have repaired it.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// After so long a life the deaths before it are forgiven.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// What the machine needs to know of a service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// When it runs.
    pub when: When,
    /// Tries on the spot.
    pub restart: u32,
    /// Those of the group that it waits for, by their place in the list.
    pub after: Vec<usize>,
    /// It ends with the daemon, whatever it is for: a command in the foreground.
    pub bound: bool,
    /// An earlier life started it, and nothing tells whether it runs: it is taken to run until it
    /// is stopped. To start it again could fail for no other reason than that it runs.
    pub started: bool,
}

/// What an earlier life noted of the group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Earlier {
    /// It was to open in this epoch ([`Effect::NoteOpened`]).
    pub opened: Option<Epoch>,
    /// Its `after_open` was cut off by its end.
    pub cut: bool,
}

/// What a service is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Doing {
    /// Nothing; [`One::seen`] says what there is.
    Rests,
    Starts,
    /// The start was given up and its end is awaited.
    GivesUp,
    Stops,
}

#[derive(Debug)]
struct One {
    service: Service,
    seen: Seen,
    doing: Doing,
    /// Tries left before it counts as failed.
    tries: u32,
    failed: Option<String>,
    /// It runs because we wanted it: its end is a death.
    ours: bool,
    /// This word has found it down, or brought it down.
    was_down: bool,
    foreign: bool,
    /// It ended by itself: whoever watches over it, as systemd does, may be about to start it
    /// again, and only a stop keeps it down.
    loose: bool,
    /// A stop failed, and it may still run.
    owed: bool,
    up_since: Moment,
    retry: Duration,
    retry_at: Moment,
    trouble: Option<String>,
    /// Whether it has just been started, or is being started again.
    fresh: Option<Fresh>,
}

impl One {
    fn new(service: Service) -> Self {
        Self {
            tries: service.restart,
            seen: match service.started {
                true => Seen::Up,
                false => Seen::Unknown,
            },
            ours: service.started,
            service,
            doing: Doing::Rests,
            failed: None,
            was_down: false,
            foreign: false,
            loose: false,
            owed: false,
            up_since: Moment::ZERO,
            retry: RETRY_MIN,
            retry_at: Moment::ZERO,
            trouble: None,
            fresh: None,
        }
    }

    fn is_up(&self) -> bool {
        self.seen == Seen::Up && self.doing == Doing::Rests
    }

    fn always(&self) -> bool {
        self.service.when == When::Always
    }
}

/// One group.
#[derive(Debug)]
pub struct Machine {
    group: GroupId,
    all: Vec<One>,
    want: Option<Want>,
    /// The daemon ends.
    leaving: bool,
    since: Moment,
    /// What was wanted has been reached and told.
    told: bool,
    /// It was to open in this epoch, in this life or an earlier one, and `after_close` has not
    /// been asked for since.
    opened: Option<Epoch>,
    /// [`Earlier::cut`], until something is wanted.
    cut: bool,
    hooks: VecDeque<(Hook, Epoch)>,
    running: Option<(Hook, Epoch)>,
    /// The hook that has to end before what was wanted is reached.
    awaited: Option<Hook>,
    /// The last epoch whose `after_open` was run, and nothing closed since.
    after_opened: Option<Epoch>,
    /// It has been open, and nothing has been stopped since.
    serves: bool,
    /// keepalived's script was told so last.
    faulty: bool,
    epoch: Epoch,
    effects: Vec<Effect>,
}

impl Machine {
    /// Nothing wanted yet, nothing known but what an earlier life noted.
    pub fn new(group: GroupId, services: Vec<Service>, earlier: Earlier) -> Self {
        Self {
            group,
            all: services.into_iter().map(One::new).collect(),
            want: None,
            leaving: false,
            since: Moment::ZERO,
            told: false,
            opened: earlier.opened,
            cut: earlier.cut,
            hooks: VecDeque::new(),
            running: None,
            awaited: None,
            after_opened: None,
            serves: false,
            faulty: false,
            epoch: earlier.opened.unwrap_or_default(),
            effects: Vec::new(),
        }
    }

    /// Takes note of `event` and says what is to be done.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        match event {
            Event::Want(want) => self.wanted(now, want),
            Event::Leave => self.leave(now),
            Event::Seen(at, seen, detail) => self.seen(now, at, seen, detail),
            Event::Started(at, outcome) => self.started(now, at, outcome),
            Event::Stopped(at, outcome) => self.stopped(now, at, outcome),
            Event::HookDone(hook, outcome) => self.hook_done(now, hook, outcome),
            Event::Time => {}
        }
        self.plan(now);
        std::mem::take(&mut self.effects)
    }

    /// When to step with [`Event::Time`] if nothing happens before; [`Moment::MAX`] for
    /// never.
    pub fn deadline(&self) -> Moment {
        let waits = |at: &usize| {
            let start = self.all[*at].failed.is_some() && self.could_start(*at);
            start || self.owes_stop(*at)
        };
        let waiting = (0..self.all.len()).filter(waits);
        let waiting = waiting.map(|at| self.all[at].retry_at);
        waiting.min().unwrap_or(Moment::MAX)
    }

    /// What it looks like.
    pub fn status(&self) -> GroupStatus {
        let one = |one: &One| ServiceStatus {
            name: one.service.name.clone(),
            when: one.service.when,
            state: match (&one.doing, &one.failed, one.seen) {
                (Doing::Starts | Doing::GivesUp, _, _) => State::Starting,
                (Doing::Stops, _, _) => State::Stopping,
                (Doing::Rests, Some(_), _) => State::Failed,
                (Doing::Rests, None, Seen::Up) => State::Up,
                (Doing::Rests, None, Seen::Down | Seen::Missing) => State::Down,
                (Doing::Rests, None, Seen::Unknown) => State::Unknown,
            },
            detail: one
                .failed
                .clone()
                .or_else(|| one.trouble.clone())
                .or_else(|| one.foreign.then(|| FOREIGN.to_owned())),
            foreign: one.foreign,
            fresh: one.fresh,
        };
        let holds = self.want.is_some_and(Want::is_holding);
        // A failure of an earlier word is forgiven; one that is now is not. Where the group is
        // held, what merely cannot be seen is no reason to leave: the bus may be away.
        let wrong = |one: &One| {
            let trouble = one.trouble.as_ref().filter(|_| !holds);
            let what = one.failed.as_ref().or(trouble)?;
            Some(format!("service {}: {what}", one.service.name))
        };
        GroupStatus {
            unready: self.all.iter().filter_map(wrong).collect(),
            faults: Vec::new(),
            want: self.want,
            leaving: self.leaving,
            reached: self.told,
            hook: self.running.map(|(hook, _)| hook),
            services: self.all.iter().map(one).collect(),
        }
    }

    /// What is wanted.
    pub fn want(&self) -> Option<Want> {
        self.want
    }

    fn report(&mut self, report: Report) {
        self.effects.push(Effect::Report(report));
    }

    fn name(&self, at: usize) -> ServiceName {
        self.all[at].service.name.clone()
    }

    fn wanted(&mut self, now: Moment, want: Want) {
        if self.want == Some(want) {
            return;
        }
        let before = self.want.replace(want);
        let cut = std::mem::take(&mut self.cut);
        self.since = now;
        self.told = false;
        self.awaited = None;
        for one in &mut self.all {
            one.was_down = false;
            one.foreign = false;
            // A word about a new epoch is a new chance.
            if before.and_then(Want::epoch) != want.epoch() {
                one.failed = None;
                one.tries = one.service.restart;
                one.retry = RETRY_MIN;
                one.retry_at = now;
            }
        }
        // Held from the first word on: an earlier life opened it, and ran the hook unless that was
        // cut off.
        if before.is_none() && !cut && !matches!(want, Want::Opening { .. }) {
            self.after_opened = want.epoch();
        }
        match want {
            Want::Standby => {
                self.serves = false;
                self.after_opened = None;
                self.faulty = false;
                self.effects.push(Effect::Notify("BACKUP"));
                // The others are about an opening that is over.
                self.hooks.retain(|(hook, _)| *hook == Hook::AfterClose);
            }
            Want::Opening { epoch } => {
                self.note_opened(epoch);
                if self.serves {
                    self.go_on(epoch);
                }
            }
            Want::Open { epoch } => {
                self.faulty = false;
                self.effects.push(Effect::Notify("MASTER"));
                if self.after_opened != Some(epoch) {
                    self.enqueue(Hook::AfterOpen, epoch);
                }
                self.after_opened = Some(epoch);
                self.note_opened(epoch);
                // After a standby all of it was about to stop.
                self.serves |= before != Some(Want::Standby);
            }
            Want::Closing { epoch } => {
                // It was open, whoever opened it.
                self.note_opened(epoch);
                self.enqueue(Hook::BeforeClose, epoch);
                self.awaited = Some(Hook::BeforeClose);
                self.serves |= before != Some(Want::Standby);
            }
        }
    }

    /// What would be killed with the daemon is stopped, also where it stands by already.
    fn leave(&mut self, now: Moment) {
        self.wanted(now, Want::Standby);
        self.leaving = true;
        self.told = false;
        for one in self.all.iter_mut().filter(|one| one.always()) {
            one.was_down = false;
        }
    }

    /// It has to be closed again, if not in this life then in a later one.
    fn note_opened(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        if self.opened.replace(epoch) != Some(epoch) {
            self.effects.push(Effect::NoteOpened(epoch));
        }
    }

    /// What serves already may do so in another epoch, well or not: every moment that the
    /// opening waited would be an outage for nothing.
    fn go_on(&mut self, epoch: Epoch) {
        self.told = true;
        self.report(Report::Ready {
            group: self.group,
            epoch,
            took: Duration::ZERO,
            goes_on: true,
        });
    }

    /// Puts a hook behind those that wait. Of each kind the newest alone waits, so that the
    /// queue is no longer than there are kinds.
    fn enqueue(&mut self, hook: Hook, epoch: Epoch) {
        self.hooks.retain(|(waiting, _)| *waiting != hook);
        self.hooks.push_back((hook, epoch));
    }

    fn seen(&mut self, now: Moment, at: usize, seen: Seen, detail: String) {
        let Some(one) = self.all.get_mut(at) else {
            return;
        };
        let before = one.seen;
        // A bus that is away says nothing about a unit.
        if seen == Seen::Unknown {
            one.trouble = Some(detail);
            return;
        }
        one.seen = seen;
        one.trouble = None;
        if one.doing != Doing::Rests {
            return;
        }
        match seen {
            Seen::Up => {
                one.up_since = now;
                // Whoever else watches over it was quicker.
                if one.fresh == Some(Fresh::Restarting) {
                    one.fresh = Some(Fresh::Started(now));
                }
                if one.failed.take().is_some() {
                    self.recovered(at);
                }
            }
            Seen::Down if before == Seen::Up => self.died(now, at, detail),
            Seen::Missing if before == Seen::Up => self.died(now, at, detail),
            Seen::Missing => one.trouble = Some(detail),
            Seen::Down | Seen::Unknown => {}
        }
    }

    fn died(&mut self, now: Moment, at: usize, detail: String) {
        let wanted = self.should_run(at);
        let one = &mut self.all[at];
        one.foreign = false;
        let ours = std::mem::take(&mut one.ours);
        one.fresh = None;
        if !wanted && !ours {
            return;
        }
        one.loose = true;
        if now.since(one.up_since) >= FORGIVEN_AFTER {
            one.tries = one.service.restart;
            one.retry = RETRY_MIN;
        }
        let service = self.name(at);
        self.report(Report::Died {
            group: self.group,
            service,
            detail: detail.clone(),
        });
        if wanted {
            self.try_again(now, at, detail);
        }
    }

    /// One try less; without any left it has failed.
    fn try_again(&mut self, now: Moment, at: usize, reason: String) {
        let one = &mut self.all[at];
        if one.tries > 0 {
            one.tries -= 1;
            one.fresh = Some(Fresh::Restarting);
            return;
        }
        one.fresh = None;
        one.retry_at = now + one.retry;
        one.retry = (one.retry * 2).min(RETRY_MAX);
        let first = one.failed.replace(reason.clone()).is_none();
        if first {
            let service = self.name(at);
            self.report(Report::Failed {
                group: self.group,
                service,
                reason,
            });
            if matches!(self.want, Some(Want::Opening { .. } | Want::Open { .. })) {
                self.faulty = true;
                self.effects.push(Effect::Notify("FAULT"));
            }
        }
    }

    /// What had failed runs. With the last of them the fault is over that keepalived's script was
    /// told; a group that is not open yet says so when it is.
    fn recovered(&mut self, at: usize) {
        let service = self.name(at);
        self.report(Report::Recovered {
            group: self.group,
            service,
        });
        let open = matches!(self.want, Some(Want::Open { .. }));
        if self.faulty && open && self.all.iter().all(|one| one.failed.is_none()) {
            self.faulty = false;
            self.effects.push(Effect::Notify("MASTER"));
        }
    }

    fn started(&mut self, now: Moment, at: usize, outcome: Result<(), String>) {
        let Some(one) = self.all.get_mut(at) else {
            return;
        };
        let given_up = one.doing == Doing::GivesUp;
        one.doing = Doing::Rests;
        match outcome {
            Ok(()) => {
                one.seen = Seen::Up;
                one.ours = true;
                one.loose = false;
                one.owed = false;
                one.up_since = now;
                one.trouble = None;
                one.fresh = Some(Fresh::Started(now));
                if one.failed.take().is_some() {
                    self.recovered(at);
                }
            }
            Err(reason) => {
                // Part of it may run: only a stop or a look can tell.
                one.seen = Seen::Unknown;
                one.ours = false;
                one.fresh = None;
                if !given_up && self.should_run(at) {
                    self.try_again(now, at, reason);
                }
            }
        }
    }

    fn stopped(&mut self, now: Moment, at: usize, outcome: StopOutcome) {
        let Some(one) = self.all.get_mut(at) else {
            return;
        };
        one.doing = Doing::Rests;
        one.seen = Seen::Down;
        one.trouble = None;
        one.ours = false;
        one.fresh = None;
        one.was_down = true;
        one.loose = false;
        one.retry_at = now;
        let told = std::mem::take(&mut one.owed);
        let service = one.service.name.clone();
        match outcome {
            StopOutcome::Clean => {}
            StopOutcome::Forced { how } => self.report(Report::Forced {
                group: self.group,
                service,
                how,
            }),
            StopOutcome::Failed { reason } => {
                // Perhaps nothing will ever tell whether it runs: scripts need no status.
                one.seen = Seen::Unknown;
                one.trouble = Some(reason.clone());
                one.owed = true;
                one.retry_at = now + one.retry;
                one.retry = (one.retry * 2).min(RETRY_MAX);
                if !told {
                    self.report(Report::StopFailed {
                        group: self.group,
                        service,
                        reason,
                    });
                }
            }
        }
    }

    fn hook_done(&mut self, now: Moment, hook: Hook, outcome: Result<(), String>) {
        if hook == Hook::Keepalived {
            // Nobody waits for it.
            if let Err(reason) = outcome {
                self.report(Report::HookFailed {
                    group: self.group,
                    hook,
                    epoch: self.epoch,
                    reason,
                });
            }
            return;
        }
        let Some((running, epoch)) = self.running.take() else {
            return;
        };
        // Of an older epoch, it leaves the newer one's to come.
        if running == Hook::AfterClose && self.opened.is_none() && epoch == self.epoch {
            self.effects.push(Effect::ForgetOpened);
        }
        let by_deadline = outcome.is_err();
        if let Err(reason) = outcome {
            self.report(Report::HookFailed {
                group: self.group,
                hook,
                epoch,
                reason,
            });
        }
        if self.awaited == Some(running) && epoch == self.epoch {
            self.awaited = None;
            // On a standby more may have to stop by now: `plan_goal` looks.
            if self.want != Some(Want::Standby) {
                self.reached(now, by_deadline);
            }
        }
    }

    /// Whether a service ought to run by what is wanted.
    fn should_run(&self, at: usize) -> bool {
        match self.want {
            None => false,
            Some(Want::Standby) => {
                let one = &self.all[at];
                one.always() && !(self.leaving && one.service.bound)
            }
            Some(Want::Opening { .. } | Want::Open { .. } | Want::Closing { .. }) => true,
        }
    }

    /// Whether it may be started if it is down: in a closing group nothing new is.
    fn may_start(&self, at: usize) -> bool {
        let closing = matches!(self.want, Some(Want::Closing { .. }));
        self.should_run(at) && (!closing || self.all[at].always())
    }

    fn plan(&mut self, now: Moment) {
        let Some(want) = self.want else { return };
        for at in 0..self.all.len() {
            self.note_down(at);
        }
        for at in 0..self.all.len() {
            self.plan_start(now, at);
            if !self.should_run(at) {
                self.plan_stop(now, at);
            }
        }
        self.plan_goal(now, want);
        if self.running.is_none()
            && let Some((hook, epoch)) = self.hooks.pop_front()
        {
            self.running = Some((hook, epoch));
            self.effects.push(Effect::RunHook(hook, epoch));
        }
    }

    /// Whether it ought to be started as soon as a pause after a failure is over.
    fn could_start(&self, at: usize) -> bool {
        let one = &self.all[at];
        // What is unknown is started too: a start of what runs changes nothing. (Of a unit by
        // systemd, of scripts by their status; what has none is taken to run, see `started`.)
        let down = one.seen != Seen::Up && one.doing == Doing::Rests;
        let runs = |other: &usize| self.all[*other].is_up() || !self.should_run(*other);
        let held_up = !one.always() && self.is_cleaning_up();
        self.may_start(at) && down && !held_up && one.service.after.iter().all(runs)
    }

    /// Whether the administrator's end of the last opening is still to come: what starts then must
    /// not meet a file system that is being unmounted.
    fn is_cleaning_up(&self) -> bool {
        let running = self.running.as_ref();
        let all = running.into_iter().chain(&self.hooks);
        all.into_iter().any(|(hook, _)| *hook == Hook::AfterClose)
    }

    /// Whether a stop that failed is to be tried again after a pause: unless it is surely
    /// down.
    fn owes_stop(&self, at: usize) -> bool {
        let one = &self.all[at];
        let may_run = matches!(one.seen, Seen::Up | Seen::Unknown);
        one.owed && may_run && one.doing == Doing::Rests && !self.should_run(at)
    }

    fn plan_start(&mut self, now: Moment, at: usize) {
        let one = &self.all[at];
        let due = one.failed.is_none() || one.retry_at <= now;
        if due && self.could_start(at) {
            self.all[at].doing = Doing::Starts;
            self.effects.push(Effect::Start(at));
        }
    }

    /// Only what surely does not run needs no stop.
    fn note_down(&mut self, at: usize) {
        let one = &mut self.all[at];
        let down = matches!(one.seen, Seen::Down | Seen::Missing);
        one.was_down |= down && !one.ours && !one.loose && one.doing == Doing::Rests;
    }

    fn plan_stop(&mut self, now: Moment, at: usize) {
        if self.all[at].doing == Doing::Starts {
            self.all[at].doing = Doing::GivesUp;
            self.effects.push(Effect::GiveUp(at));
        }
        if self.all[at].doing != Doing::Rests {
            return;
        }
        if self.owes_stop(at) {
            if self.all[at].retry_at <= now {
                self.all[at].doing = Doing::Stops;
                self.effects.push(Effect::Stop(at));
            }
            return;
        }
        if self.all[at].was_down {
            self.note_foreign(at);
            return;
        }
        let needed = (0..self.all.len()).any(|other| {
            self.all[other].service.after.contains(&at) && !self.is_as_on_standby(other)
        });
        if !needed {
            self.all[at].doing = Doing::Stops;
            self.all[at].foreign = false;
            self.effects.push(Effect::Stop(at));
        }
    }

    /// Whether a service that is to be down on a standby has been brought down.
    fn is_as_on_standby(&self, at: usize) -> bool {
        let one = &self.all[at];
        self.should_run(at) || (one.was_down && one.doing == Doing::Rests)
    }

    /// Somebody else started what was down here.
    fn note_foreign(&mut self, at: usize) {
        let one = &mut self.all[at];
        match one.seen {
            Seen::Up if !one.foreign => {
                one.foreign = true;
                let service = self.name(at);
                self.report(Report::Foreign {
                    group: self.group,
                    service,
                });
            }
            Seen::Down | Seen::Missing => one.foreign = false,
            Seen::Up | Seen::Unknown => {}
        }
    }

    /// Looks whether what is wanted has been reached, but for a hook.
    fn plan_goal(&mut self, now: Moment, want: Want) {
        if matches!(want, Want::Open { .. }) {
            self.told = self.all.iter().all(One::is_up);
        }
        if self.told || self.awaited.is_some() {
            return;
        }
        match want {
            Want::Opening { epoch } if self.all.iter().all(One::is_up) => {
                self.enqueue(Hook::BeforeOpen, epoch);
                self.awaited = Some(Hook::BeforeOpen);
            }
            Want::Standby => {
                if !(0..self.all.len()).all(|at| self.is_as_on_standby(at)) {
                    return;
                }
                if let Some(epoch) = self.opened.take() {
                    self.enqueue(Hook::AfterClose, epoch);
                    self.awaited = Some(Hook::AfterClose);
                } else {
                    self.reached(now, false);
                }
            }
            Want::Opening { .. } | Want::Open { .. } | Want::Closing { .. } => {}
        }
    }

    fn reached(&mut self, now: Moment, by_deadline: bool) {
        let (group, took) = (self.group, now.since(self.since));
        let report = match self.want {
            Some(Want::Opening { epoch }) => {
                // One may have died while the hook ran; then it is not over.
                if !self.all.iter().all(One::is_up) {
                    return;
                }
                Report::Ready {
                    group,
                    epoch,
                    took,
                    goes_on: false,
                }
            }
            Some(Want::Closing { epoch }) => Report::MayClose {
                group,
                epoch,
                took,
                by_deadline,
            },
            Some(Want::Standby) => Report::Stopped { group, took },
            Some(Want::Open { .. }) | None => return,
        };
        self.told = true;
        self.report(report);
    }
}

#[cfg(test)]
mod tests;
