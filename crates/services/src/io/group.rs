//! The task of one group.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use evenkeel_config::{Command, Hosted, Runs};
use evenkeel_core::{Epoch, GroupName, Moment, ServiceName};
use evenkeel_host::clock;
use evenkeel_host::run::{Finished, Leftovers, Limits, RunError};
use tokio::sync::{mpsc, watch};

use super::command::{program, run_noted};
use super::left::{self, Left};
use super::service::{self, Order};
use super::{GroupSettings, Said, Shared, Word};
use crate::doctor;
use crate::machine::{
    Context, Earlier, Effect, Event, Hook, Machine, Report, Service, StopOutcome, Want,
};
use crate::v1;

/// Events on their way to the machine. Each service and each hook has one step under way
/// at most; whoever finds it full waits, and loses nothing.
const EVENTS_MAX: usize = 256;

/// Reports that wait for a reader.
const REPORTS_MAX: usize = 1_024;

/// How much of a hook's output is kept: enough to say what is wrong.
const OUTPUT_MAX: usize = 4_096;

/// How often files that are run are looked at again while nothing happens.
const EXAMINE_EVERY: Duration = Duration::from_secs(30);

/// How long a look at some files may take before the file system is said to hang.
const LOOK_MAX: Duration = Duration::from_secs(2);

struct Task {
    shared: Shared,
    settings: GroupSettings,
    machine: Machine,
    context: Context,
    orders: Vec<mpsc::Sender<Order>>,
    events: mpsc::Sender<Event>,
    notify: watch::Sender<Option<(&'static str, u64)>>,
    waiting: VecDeque<Report>,
    missed: u64,
    faults: watch::Receiver<Vec<String>>,
}

/// Runs a group until the room ends.
pub(super) async fn run(
    shared: Shared,
    settings: GroupSettings,
    left: Vec<Left>,
    mut words: watch::Receiver<Word>,
    reports: mpsc::Sender<Report>,
) {
    let (events, mut heard) = mpsc::channel(EVENTS_MAX);
    let (notify, states) = watch::channel(None);
    let (faults, seen) = watch::channel(Vec::new());
    tokio::spawn(examine(settings.hosted.clone(), faults));
    let mut task = Task {
        machine: Machine::new(
            settings.group,
            known(&shared, &settings),
            earlier(&shared, &settings, &left),
        ),
        context: Context::default(),
        orders: Vec::new(),
        notify,
        waiting: VecDeque::new(),
        missed: 0,
        faults: seen,
        shared,
        settings,
        events,
    };
    tokio::spawn(task.notifier(states));
    let mut faults = task.faults.clone();
    let mut reading = true;
    let mut clear = left.is_empty();
    if clear {
        task.start_services();
    }
    let clearing = clear_up(task.shared.clone(), left, words.clone(), reports.clone());
    let mut clearing = std::pin::pin!(clearing);
    loop {
        task.publish();
        let pause = task.pause();
        let told = !task.waiting.is_empty() && reading;
        let event = tokio::select! {
            () = &mut clearing, if !clear => {
                clear = true;
                task.start_services();
                None
            }
            changed = words.changed(), if clear => match changed {
                Ok(()) => task.heard(words.borrow_and_update().clone()),
                Err(_) => return,
            },
            event = heard.recv() => event,
            () = tokio::time::sleep(pause) => Some(Event::Time),
            // They are published above.
            Ok(()) = faults.changed() => None,
            room = reports.reserve(), if told => {
                match room {
                    Ok(room) => task.tell(room),
                    // Nobody will ever read them.
                    Err(_) => reading = false,
                }
                None
            }
        };
        if let Some(event) = event {
            task.note_step(&event);
            for effect in task.machine.step(clock::now(), event) {
                task.carry_out(effect);
            }
        }
    }
}

/// Looks now and then whether the files that are run can be trusted, where waiting is
/// allowed. A file system that hangs is told, and not looked at a second time meanwhile.
async fn examine(hosted: Hosted, faults: watch::Sender<Vec<String>>) {
    loop {
        let files = hosted.clone();
        let mut look = tokio::task::spawn_blocking(move || doctor::examine_files(&files));
        let found = match tokio::time::timeout(LOOK_MAX, &mut look).await {
            Ok(found) => found,
            Err(_) => {
                let late = "the files of its commands could not be looked at in time";
                faults.send_replace(vec![late.to_owned()]);
                look.await
            }
        };
        // Only a runtime that is going down gives a task up.
        let Ok(found) = found else { return };
        faults.send_replace(found);
        tokio::select! {
            () = faults.closed() => return,
            () = tokio::time::sleep(EXAMINE_EVERY) => {}
        }
    }
}

/// What the machine needs to know of the services.
fn known(shared: &Shared, settings: &GroupSettings) -> Vec<Service> {
    let hosted = &settings.hosted;
    let place = |name: &ServiceName| hosted.services.iter().position(|one| one.name == *name);
    let one = |spec: &evenkeel_config::ServiceSpec| Service {
        name: spec.name.clone(),
        when: spec.when,
        restart: spec.restart,
        after: spec.after.iter().filter_map(place).collect(),
        // It is in our control group.
        bound: matches!(spec.what, Runs::Foreground { .. }),
        started: left::is_started(&shared.notes, &settings.name, spec),
    };
    hosted.services.iter().map(one).collect()
}

/// What an earlier life noted of the group.
fn earlier(shared: &Shared, settings: &GroupSettings, left: &[Left]) -> Earlier {
    let hook = hook_name(&settings.name, Hook::AfterOpen);
    Earlier {
        opened: left::opened(&shared.notes, &settings.name),
        cut: left.iter().any(|one| one.is_program(&hook)),
    }
}

/// What a hook is noted by while it runs.
fn hook_name(group: &GroupName, hook: Hook) -> String {
    format!("{group}+{}", hook.name())
}

/// Waits for the first word about the group, and ends what an earlier life left of it.
async fn clear_up(
    shared: Shared,
    left: Vec<Left>,
    mut words: watch::Receiver<Word>,
    reports: mpsc::Sender<Report>,
) {
    let told = words.wait_for(Option::is_some).await.is_ok();
    // The room ends.
    if told {
        left::stop(shared, left, reports).await;
    }
}

/// Whether a hook ended well; else how it ended, and what it said.
fn well(ended: Result<Finished, RunError>) -> Result<(), String> {
    match ended {
        Ok(finished) if finished.end.is_success() => Ok(()),
        Ok(finished) => Err(match finished.line() {
            line if line.is_empty() => format!("it {}", finished.end),
            line => format!("it {}: {line}", finished.end),
        }),
        Err(error) => Err(format!("failed to {error}")),
    }
}

impl Task {
    /// Only when nothing else runs that could be taken for them.
    fn start_services(&mut self) {
        let services = self.settings.hosted.services.iter().enumerate();
        let started = services.map(|(at, spec)| {
            let note = left::own_path(&self.shared.notes, &self.settings.name, &spec.name);
            service::start(&self.shared, at, spec, &note, self.events.clone())
        });
        self.orders = started.collect();
    }

    fn heard(&mut self, word: Word) -> Option<Event> {
        let (said, context) = word?;
        self.context = context;
        let Said::Want(want) = said else {
            return Some(Event::Leave);
        };
        if matches!(want, Want::Opening { .. } | Want::Open { .. }) {
            // Also what runs already, whoever started it: from now on it is the group's.
            for spec in &self.settings.hosted.services {
                left::note(&self.shared.notes, &self.settings.name, spec);
            }
        }
        Some(Event::Want(want))
    }

    /// What has started is not to be started by a later life, nor stopped what has stopped.
    fn note_step(&self, event: &Event) {
        let spec = |at: &usize| self.settings.hosted.services.get(*at);
        let (notes, group) = (&self.shared.notes, &self.settings.name);
        match event {
            Event::Started(at, Ok(())) => {
                if let Some(spec) = spec(at) {
                    left::note_started(notes, group, spec);
                }
            }
            Event::Stopped(at, StopOutcome::Clean | StopOutcome::Forced { .. }) => {
                if let Some(spec) = spec(at) {
                    left::forget(notes, group, &spec.name);
                }
            }
            _ => {}
        }
    }

    /// How long nothing has to be done if nothing happens.
    fn pause(&self) -> Duration {
        match self.machine.deadline() {
            Moment::MAX => EXAMINE_EVERY,
            at => at.since(clock::now()),
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start(at) => {
                if let Some(spec) = self.settings.hosted.services.get(at) {
                    left::note(&self.shared.notes, &self.settings.name, spec);
                }
                self.order(at, Order::Start);
            }
            Effect::GiveUp(at) => self.order(at, Order::GiveUp),
            Effect::Stop(at) => self.order(at, Order::Stop),
            Effect::RunHook(hook, epoch) => self.run_hook(hook, epoch),
            Effect::NoteOpened(epoch) => {
                left::note_opened(&self.shared.notes, &self.settings.name, epoch);
            }
            Effect::ForgetOpened => left::forget_opened(&self.shared.notes, &self.settings.name),
            Effect::Notify(state) => self.notify.send_modify(|told| {
                let count = told.map_or(0, |(_, count)| count);
                *told = Some((state, count + 1));
            }),
            Effect::Report(report) => {
                if self.waiting.len() == REPORTS_MAX {
                    self.waiting.pop_front();
                    self.missed += 1;
                }
                self.waiting.push_back(report);
            }
        }
    }

    fn order(&self, at: usize, order: Order) {
        // There is room: of each service one step is under way, and one word to give it up.
        if let Some(orders) = self.orders.get(at)
            && let Err(error) = orders.try_send(order)
        {
            tracing::error!(%error, service = at, "the task of a service has ended");
        }
    }

    fn tell(&mut self, room: mpsc::Permit<'_, Report>) {
        if self.missed > 0 {
            let reports = std::mem::take(&mut self.missed);
            room.send(Report::Missed { reports });
        } else if let Some(report) = self.waiting.pop_front() {
            room.send(report);
        }
    }

    fn run_hook(&self, hook: Hook, epoch: Epoch) {
        let hooks = &self.settings.hosted.hooks;
        let command = match hook {
            Hook::BeforeOpen => &hooks.before_open,
            Hook::AfterOpen => &hooks.after_open,
            Hook::BeforeClose => &hooks.before_close,
            Hook::AfterClose => &hooks.after_close,
            Hook::Keepalived => &hooks.keepalived,
        };
        let done = command
            .as_ref()
            .map(|command| self.hook(command, hook, epoch));
        let events = self.events.clone();
        tokio::spawn(async move {
            let outcome = match done {
                Some(done) => done.await,
                // What is not there is over at once.
                None => Ok(()),
            };
            let _ = events.send(Event::HookDone(hook, outcome)).await;
        });
    }

    /// Where a hook is noted while it runs.
    fn note_of(&self, hook: Hook) -> PathBuf {
        let name = hook_name(&self.settings.name, hook);
        v1::running(&self.shared.notes.join(name))
    }

    /// Runs a hook of the administrator.
    fn hook(
        &self,
        command: &Command,
        hook: Hook,
        epoch: Epoch,
    ) -> impl Future<Output = Result<(), String>> + use<> {
        let role = match self.machine.want() {
            Some(Want::Opening { .. }) => "opening",
            Some(Want::Open { .. }) => "holder",
            Some(Want::Closing { .. }) => "closing",
            Some(Want::Standby) | None => "standby",
        };
        let program = program(command, &[])
            .env("EVENKEEL_GROUP", self.settings.name.as_str())
            .env("EVENKEEL_ROLE", role)
            .env("EVENKEEL_EPOCH", epoch.number().to_string())
            .env("EVENKEEL_REASON", self.context.reason.replace('\0', " "))
            .env("EVENKEEL_NODE", self.shared.node.as_str())
            .env("EVENKEEL_PEER", self.context.peer.replace('\0', " "))
            .env("EVENKEEL_HOOK", hook.name());
        let limits = Limits {
            time: self.settings.hosted.hooks.timeout,
            output: OUTPUT_MAX,
            leftovers: Leftovers::Leave,
        };
        let note = self.note_of(hook);
        async move { well(run_noted(&program, &limits, &note).await) }
    }

    /// Tells keepalived's script the newest state, one at a time. `INSTANCE` and the order
    /// of the arguments are keepalived's (keepalived.conf(5), notify scripts).
    fn notifier(
        &self,
        mut states: watch::Receiver<Option<(&'static str, u64)>>,
    ) -> impl Future<Output = ()> + use<> {
        let command = self.settings.hosted.hooks.keepalived.clone();
        let name = self.settings.name.clone();
        let priority = self.settings.priority.to_string();
        let node = self.shared.node.clone();
        let timeout = self.settings.hosted.hooks.timeout;
        let events = self.events.clone();
        let note = self.note_of(Hook::Keepalived);
        async move {
            while states.changed().await.is_ok() {
                let state = *states.borrow_and_update();
                let (Some(command), Some((state, _))) = (&command, state) else {
                    continue;
                };
                let arguments = ["INSTANCE", name.as_str(), state, &priority];
                let program = program(command, &arguments)
                    .env("EVENKEEL_GROUP", name.as_str())
                    .env("EVENKEEL_NODE", node.as_str())
                    .env("EVENKEEL_HOOK", Hook::Keepalived.name());
                let limits = Limits {
                    time: timeout,
                    output: OUTPUT_MAX,
                    leftovers: Leftovers::Leave,
                };
                let Err(reason) = well(run_noted(&program, &limits, &note).await) else {
                    continue;
                };
                let done = Event::HookDone(Hook::Keepalived, Err(reason));
                if events.send(done).await.is_err() {
                    return;
                }
            }
        }
    }

    fn publish(&self) {
        let mut status = self.machine.status();
        status.faults = self.faults.borrow().clone();
        if !status.want.is_some_and(Want::is_holding) {
            status.unready.extend(status.faults.iter().cloned());
        }
        let all = &self.shared.status;
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.groups.get(&self.settings.group) != Some(&status) {
            all.groups.insert(self.settings.group, status);
            all.version += 1;
        }
    }
}
