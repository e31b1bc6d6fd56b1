//! The table of the machine, row by row.

use super::*;

const GROUP: GroupId = GroupId(7);

fn epoch(index: u64) -> Epoch {
    Epoch { term: 1, index }
}

/// A machine with services, each an `active` one behind all before it unless said
/// otherwise, and a clock.
struct Bench {
    machine: Machine,
    now: Moment,
    /// What the next life would find noted.
    noted: Option<Epoch>,
}

fn service(name: &str, after: &[usize]) -> Service {
    Service {
        name: ServiceName::new(name).expect("a name"),
        when: When::Active,
        restart: 0,
        after: after.to_vec(),
        bound: false,
        started: false,
    }
}

fn always(name: &str) -> Service {
    Service {
        when: When::Always,
        ..service(name, &[])
    }
}

fn restarted(name: &str, restart: u32) -> Service {
    Service {
        restart,
        ..service(name, &[])
    }
}

impl Bench {
    fn new(services: Vec<Service>) -> Self {
        Self::after_life(services, Earlier::default())
    }

    fn after_life(services: Vec<Service>, earlier: Earlier) -> Self {
        Self {
            machine: Machine::new(GROUP, services, earlier),
            now: Moment::ZERO + Duration::from_secs(1),
            noted: earlier.opened,
        }
    }

    /// Everything is down, and it stands by.
    fn standing_by(services: Vec<Service>) -> Self {
        let count = services.len();
        let mut bench = Self::new(services);
        for at in 0..count {
            bench.sees(at, Seen::Down);
        }
        bench.wants(Want::Standby);
        bench
    }

    /// What the next life is told.
    fn earlier(&self) -> Earlier {
        let opened = self.noted;
        let cut = false;
        Earlier { opened, cut }
    }

    fn step(&mut self, event: Event) -> Vec<String> {
        self.now += Duration::from_millis(10);
        let effects = self.machine.step(self.now, event);
        for effect in &effects {
            match effect {
                Effect::NoteOpened(epoch) => self.noted = Some(*epoch),
                Effect::ForgetOpened => self.noted = None,
                _ => {}
            }
        }
        let notes =
            |effect: &&Effect| !matches!(effect, Effect::NoteOpened(_) | Effect::ForgetOpened);
        let effects = effects.iter().filter(notes);
        effects.map(|effect| self.shown(effect)).collect()
    }

    fn wants(&mut self, want: Want) -> Vec<String> {
        self.step(Event::Want(want))
    }

    fn opening(&mut self, index: u64) -> Vec<String> {
        self.wants(Want::Opening {
            epoch: epoch(index),
        })
    }

    fn open(&mut self, index: u64) -> Vec<String> {
        self.wants(Want::Open {
            epoch: epoch(index),
        })
    }

    fn sees(&mut self, at: usize, seen: Seen) -> Vec<String> {
        self.step(Event::Seen(at, seen, "seen".to_owned()))
    }

    fn started(&mut self, at: usize) -> Vec<String> {
        self.step(Event::Started(at, Ok(())))
    }

    fn not_started(&mut self, at: usize) -> Vec<String> {
        self.step(Event::Started(at, Err("no".to_owned())))
    }

    fn stopped(&mut self, at: usize) -> Vec<String> {
        self.step(Event::Stopped(at, StopOutcome::Clean))
    }

    fn done(&mut self, hook: Hook) -> Vec<String> {
        self.step(Event::HookDone(hook, Ok(())))
    }

    fn after(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.step(Event::Time)
    }

    /// Effects in few words.
    fn shown(&self, effect: &Effect) -> String {
        let name = |at: &usize| self.machine.name(*at);
        match effect {
            Effect::Start(at) => format!("start {}", name(at)),
            Effect::GiveUp(at) => format!("give up {}", name(at)),
            Effect::Stop(at) => format!("stop {}", name(at)),
            Effect::RunHook(hook, epoch) => format!("{hook} {epoch}"),
            Effect::NoteOpened(epoch) => format!("note {epoch}"),
            Effect::ForgetOpened => "forget".to_owned(),
            Effect::Notify(state) => format!("notify {state}"),
            Effect::Report(report) => match report {
                Report::Ready { epoch, goes_on, .. } => {
                    let how = if *goes_on { " at once" } else { "" };
                    format!("Ready {epoch}{how}")
                }
                Report::MayClose {
                    epoch, by_deadline, ..
                } => format!("MayClose {epoch} {by_deadline}"),
                Report::Stopped { .. } => "Stopped".to_owned(),
                Report::Failed {
                    service, reason, ..
                } => format!("Failed {service} {reason}"),
                Report::Recovered { service, .. } => format!("Recovered {service}"),
                Report::Died { service, .. } => format!("Died {service}"),
                Report::Foreign { service, .. } => format!("Foreign {service}"),
                Report::Forced { service, .. } => format!("Forced {service}"),
                Report::StopFailed { service, .. } => format!("StopFailed {service}"),
                Report::HookFailed { hook, .. } => format!("HookFailed {hook}"),
                Report::LeftRuns { .. } | Report::LeftStopped { .. } | Report::Missed { .. } => {
                    unreachable!("the room tells them")
                }
            },
        }
    }
}

const NONE: [&str; 0] = [];

#[test]
fn before_the_first_word_nothing_is_touched() {
    let mut bench = Bench::new(vec![service("a", &[]), always("b")]);
    assert_eq!(bench.sees(0, Seen::Up), NONE);
    assert_eq!(bench.sees(1, Seen::Down), NONE);
    assert_eq!(bench.after(Duration::from_secs(99)), NONE);
}

#[test]
fn a_life_from_standby_to_standby() {
    let mut bench = Bench::standing_by(vec![service("a", &[]), service("b", &[0])]);
    assert_eq!(bench.opening(5), ["start a"]);
    assert_eq!(bench.started(0), ["start b"]);
    assert_eq!(bench.started(1), ["before_open 5"]);
    assert_eq!(bench.done(Hook::BeforeOpen), ["Ready 5"]);
    assert_eq!(bench.open(5), ["notify MASTER", "after_open 5"]);
    assert_eq!(bench.done(Hook::AfterOpen), NONE);
    assert_eq!(bench.sees(0, Seen::Up), NONE);
    let closing = Want::Closing { epoch: epoch(5) };
    assert_eq!(bench.wants(closing), ["before_close 5"]);
    assert_eq!(bench.done(Hook::BeforeClose), ["MayClose 5 false"]);
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP", "stop b"]);
    assert_eq!(bench.stopped(1), ["stop a"]);
    assert_eq!(bench.stopped(0), ["after_close 5"]);
    assert_eq!(bench.done(Hook::AfterClose), ["Stopped"]);
    assert_eq!(bench.wants(Want::Standby), NONE, "the same word again");
}

#[test]
fn those_that_do_not_wait_for_each_other_start_at_once() {
    let services = vec![service("a", &[]), service("b", &[]), service("c", &[0, 1])];
    let mut bench = Bench::standing_by(services);
    assert_eq!(bench.opening(5), ["start a", "start b"]);
    assert_eq!(bench.started(1), NONE);
    assert_eq!(bench.started(0), ["start c"]);
    bench.started(2);
    bench.done(Hook::BeforeOpen);
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP", "stop c"]);
    assert_eq!(bench.stopped(2), ["stop a", "stop b"]);
}

#[test]
fn what_runs_on_a_standby_at_first_is_stopped_and_later_is_only_told() {
    let mut bench = Bench::new(vec![service("a", &[])]);
    bench.sees(0, Seen::Up);
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP", "stop a"]);
    assert_eq!(
        bench.stopped(0),
        ["Stopped"],
        "nothing was opened, so no hook"
    );
    assert_eq!(bench.sees(0, Seen::Up), ["Foreign a"]);
    assert_eq!(bench.sees(0, Seen::Up), NONE, "once");
    let status = bench.machine.status();
    assert_eq!(status.services[0].detail.as_deref(), Some(FOREIGN));
    assert!(status.services[0].foreign && status.unready.is_empty());
    assert_eq!(bench.sees(0, Seen::Down), NONE, "its end is no death");
    assert!(!bench.machine.status().services[0].foreign);
    assert_eq!(bench.sees(0, Seen::Up), ["Foreign a"]);
    // And it serves when it is wanted.
    assert_eq!(bench.opening(5), ["before_open 5"]);
    assert!(!bench.machine.status().services[0].foreign);
}

#[test]
fn an_always_service_runs_on_standbys_and_is_started_again() {
    let mut bench = Bench::standing_by(vec![]);
    assert_eq!(
        bench.opening(1),
        ["before_open 1"],
        "a group without services"
    );

    let mut bench = Bench::new(vec![always("db")]);
    bench.sees(0, Seen::Down);
    assert_eq!(
        bench.wants(Want::Standby),
        ["notify BACKUP", "start db", "Stopped"]
    );
    assert_eq!(bench.started(0), NONE);
    assert_eq!(bench.sees(0, Seen::Down), ["Died db", "Failed db seen"]);
    assert_eq!(bench.machine.deadline(), bench.now + RETRY_MIN);
    assert_eq!(bench.after(RETRY_MIN), ["start db"]);
    assert_eq!(bench.not_started(0), NONE, "told once");
    assert_eq!(bench.after(RETRY_MIN), NONE, "spaced");
    assert_eq!(bench.after(RETRY_MIN), ["start db"]);
    assert_eq!(bench.started(0), ["Recovered db"]);
    assert_eq!(bench.machine.deadline(), Moment::MAX);
    assert!(bench.machine.status().unready.is_empty());
}

#[test]
fn a_start_that_fails_is_told_once_and_a_new_epoch_is_a_new_chance() {
    let mut bench = Bench::standing_by(vec![service("a", &[]), service("b", &[0])]);
    bench.opening(5);
    assert_eq!(bench.not_started(0), ["Failed a no", "notify FAULT"]);
    assert_eq!(bench.after(Duration::ZERO), NONE);
    assert_eq!(bench.machine.status().unready, ["service a: no"]);
    assert_eq!(
        bench.machine.deadline(),
        bench.now + RETRY_MIN - Duration::from_millis(10)
    );
    assert_eq!(
        bench.after(RETRY_MIN),
        ["start a"],
        "perhaps no other node is fit"
    );
    assert_eq!(bench.not_started(0), NONE, "told once");
    // Part of it may run.
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP", "stop a"]);
    assert_eq!(bench.stopped(0), ["after_close 5"]);
    assert_eq!(bench.opening(9), NONE, "not beside the hook");
    assert_eq!(bench.done(Hook::AfterClose), ["start a"]);
}

#[test]
fn tries_on_the_spot_come_before_a_failure() {
    let mut bench = Bench::standing_by(vec![restarted("a", 2)]);
    bench.opening(5);
    assert_eq!(bench.not_started(0), ["start a"]);
    assert_eq!(bench.not_started(0), ["start a"]);
    assert_eq!(bench.not_started(0), ["Failed a no", "notify FAULT"]);
}

#[test]
fn a_death_is_told_at_once_and_tries_are_forgiven_after_a_long_life() {
    let mut bench = Bench::standing_by(vec![restarted("a", 1)]);
    bench.opening(5);
    bench.started(0);
    bench.done(Hook::BeforeOpen);
    bench.open(5);
    assert_eq!(bench.sees(0, Seen::Down), ["Died a", "start a"]);
    bench.started(0);
    bench.after(FORGIVEN_AFTER);
    assert_eq!(bench.sees(0, Seen::Down), ["Died a", "start a"]);
    bench.started(0);
    assert_eq!(
        bench.sees(0, Seen::Down),
        ["Died a", "Failed a seen", "notify FAULT"]
    );
    assert_eq!(
        bench.sees(0, Seen::Up),
        ["Recovered a", "notify MASTER"],
        "somebody repaired it"
    );
}

#[test]
fn keepalived_hears_that_a_fault_is_over_when_the_last_of_it_is() {
    let mut bench = Bench::standing_by(vec![service("a", &[]), service("b", &[])]);
    bench.opening(5);
    assert_eq!(bench.not_started(0), ["Failed a no", "notify FAULT"]);
    bench.started(1);
    assert_eq!(bench.after(RETRY_MIN), ["start a"]);
    assert_eq!(
        bench.started(0),
        ["Recovered a", "before_open 5"],
        "it is no master yet"
    );
    bench.done(Hook::BeforeOpen);
    assert_eq!(bench.open(5), ["notify MASTER", "after_open 5"]);
    for at in [0, 1] {
        let told = bench.sees(at, Seen::Down);
        assert_eq!(told.last().map(String::as_str), Some("notify FAULT"));
    }
    assert_eq!(bench.sees(1, Seen::Up), ["Recovered b"], "one is left");
    assert_eq!(bench.sees(0, Seen::Up), ["Recovered a", "notify MASTER"]);
    // One that fails on its way out is heard of no more.
    bench.sees(0, Seen::Down);
    let closing = Want::Closing { epoch: epoch(5) };
    bench.wants(closing);
    assert_eq!(bench.sees(0, Seen::Up), ["Recovered a"]);
}

#[test]
fn what_an_earlier_life_started_is_not_started_again_if_nothing_tells_whether_it_runs() {
    let blind = |name| Service {
        started: true,
        ..service(name, &[])
    };
    // One that the file has only had since then is started beside it.
    let mut bench = Bench::new(vec![blind("a"), service("new", &[0])]);
    assert_eq!(bench.open(5), ["notify MASTER", "start new"]);
    assert_eq!(bench.machine.status().services[0].state, State::Up);
    bench.started(1);
    assert!(bench.machine.status().reached);
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP", "stop new"]);
    assert_eq!(bench.stopped(1), ["stop a"]);
    assert_eq!(bench.stopped(0), ["after_close 5"]);
    bench.done(Hook::AfterClose);
    assert_eq!(bench.opening(9), ["start a"], "it is down now");
    // A standby stops what was left running.
    let mut bench = Bench::new(vec![blind("a")]);
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP", "stop a"]);
    // One that runs always is not touched.
    let warm = Service {
        started: true,
        ..always("warm")
    };
    let mut bench = Bench::new(vec![warm]);
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP", "Stopped"]);
}

/// It lost its lease, stopped, and gets the next epoch while the hook after the closing runs.
#[test]
fn nothing_starts_beside_what_ends_the_last_opening() {
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    bench.opening(5);
    bench.started(0);
    bench.done(Hook::BeforeOpen);
    bench.open(5);
    bench.done(Hook::AfterOpen);
    bench.wants(Want::Standby);
    let told = bench.stopped(0);
    assert_eq!(told.last().map(String::as_str), Some("after_close 5"));
    assert_eq!(bench.opening(6), NONE);
    assert_eq!(bench.done(Hook::AfterClose), ["start a"]);
}

/// Once in a blue moon is not again and again.
#[test]
fn the_pause_before_another_try_is_short_again_after_a_long_life() {
    let mut bench = Bench::standing_by(vec![always("a")]);
    bench.started(0);
    bench.sees(0, Seen::Up);
    for _ in 0..6 {
        bench.after(FORGIVEN_AFTER);
        bench.sees(0, Seen::Down);
        assert_eq!(bench.machine.deadline(), bench.now + RETRY_MIN);
        assert_eq!(bench.after(RETRY_MIN), ["start a"]);
        bench.started(0);
        bench.sees(0, Seen::Up);
    }
}

#[test]
fn what_died_is_stopped_too_for_systemd_may_be_about_to_start_it_again() {
    let mut bench = Bench::standing_by(vec![service("apache", &[])]);
    bench.opening(1);
    bench.started(0);
    bench.done(Hook::BeforeOpen);
    bench.open(1);
    bench.done(Hook::AfterOpen);
    bench.sees(0, Seen::Down);
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP", "stop apache"]);
    assert_eq!(bench.stopped(0), ["after_close 1"]);
    assert_eq!(bench.done(Hook::AfterClose), ["Stopped"]);
    assert_eq!(bench.sees(0, Seen::Up), ["Foreign apache"]);
}

#[test]
fn a_bus_that_is_away_is_no_death() {
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    bench.opening(5);
    bench.started(0);
    bench.done(Hook::BeforeOpen);
    bench.open(5);
    assert_eq!(bench.sees(0, Seen::Unknown), NONE);
    let status = bench.machine.status();
    assert!(status.unready.is_empty(), "it moves no group");
    assert_eq!(status.services[0].detail.as_deref(), Some("seen"));
    assert_eq!(bench.sees(0, Seen::Up), NONE);
    assert_eq!(bench.machine.status().services[0].detail, None);
    assert_eq!(
        bench.sees(0, Seen::Missing),
        ["Died a", "Failed a seen", "notify FAULT"]
    );
}

#[test]
fn a_standby_that_cannot_see_its_services_is_not_ready() {
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    assert_eq!(bench.sees(0, Seen::Unknown), NONE);
    assert_eq!(bench.machine.status().unready, ["service a: seen"]);
}

#[test]
fn a_start_is_given_up_and_then_stopped() {
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    bench.opening(5);
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP", "give up a"]);
    assert_eq!(bench.not_started(0), ["stop a"]);
    assert_eq!(bench.stopped(0), ["after_close 5"]);

    // It was up just before it heard.
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    bench.opening(5);
    bench.wants(Want::Standby);
    assert_eq!(bench.started(0), ["stop a"]);

    // It is wanted again meanwhile.
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    bench.opening(5);
    bench.wants(Want::Standby);
    assert_eq!(bench.opening(6), NONE);
    assert_eq!(bench.not_started(0), ["start a"]);
}

#[test]
fn a_stop_ends_before_the_next_start() {
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    bench.opening(5);
    bench.started(0);
    bench.done(Hook::BeforeOpen);
    bench.wants(Want::Standby);
    assert_eq!(bench.opening(6), NONE);
    assert_eq!(bench.sees(0, Seen::Up), NONE);
    assert_eq!(bench.stopped(0), ["start a"]);
}

#[test]
fn a_stop_that_fails_is_told_and_holds_nothing_up() {
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    bench.opening(5);
    bench.started(0);
    bench.done(Hook::BeforeOpen);
    bench.wants(Want::Standby);
    let reason = "it hangs".to_owned();
    let failed = bench.step(Event::Stopped(0, StopOutcome::Failed { reason }));
    assert_eq!(failed, ["StopFailed a", "after_close 5"]);
    assert_eq!(bench.machine.status().unready, ["service a: it hangs"]);
    bench.done(Hook::AfterClose);
    // It turns out to run still: that is nobody else's doing, and it is stopped again.
    assert_eq!(bench.sees(0, Seen::Up), NONE);
    assert!(bench.machine.deadline() < Moment::MAX);
    assert_eq!(bench.after(RETRY_MIN), ["stop a"]);
    let reason = "it hangs".to_owned();
    let failed = bench.step(Event::Stopped(0, StopOutcome::Failed { reason }));
    assert_eq!(failed, NONE, "told once");
    bench.sees(0, Seen::Up);
    assert_eq!(bench.after(RETRY_MAX), ["stop a"]);
    bench.stopped(0);
    assert_eq!(bench.sees(0, Seen::Up), ["Foreign a"]);
}

#[test]
fn a_stop_that_failed_is_tried_again_though_nothing_tells_whether_it_runs() {
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    bench.opening(5);
    bench.started(0);
    bench.done(Hook::BeforeOpen);
    bench.wants(Want::Standby);
    let reason = "it hangs".to_owned();
    bench.step(Event::Stopped(0, StopOutcome::Failed { reason }));
    bench.done(Hook::AfterClose);
    let status = bench.machine.status();
    assert_eq!(status.services[0].state, State::Unknown);
    assert!(bench.machine.deadline() < bench.now + RETRY_MIN);
    assert_eq!(bench.after(RETRY_MIN), ["stop a"]);
    assert_eq!(bench.stopped(0), NONE);
    let status = bench.machine.status();
    assert!(status.unready.is_empty(), "{:?}", status.unready);
    assert_eq!(status.services[0].state, State::Down);
    assert_eq!(bench.machine.deadline(), Moment::MAX);
}

#[test]
fn one_that_waits_for_a_failed_one_wakes_nobody() {
    let mut bench = Bench::standing_by(vec![service("a", &[]), service("b", &[0])]);
    bench.opening(5);
    bench.started(0);
    bench.started(1);
    bench.sees(0, Seen::Down);
    bench.sees(1, Seen::Down);
    // The second is due before the first has been started.
    assert_eq!(bench.after(RETRY_MIN), ["start a"]);
    assert_eq!(bench.machine.deadline(), Moment::MAX);
    assert_eq!(bench.not_started(0), NONE);
    assert!(bench.machine.deadline() > bench.now + RETRY_MIN);
    bench.after(RETRY_MAX);
    assert_eq!(bench.started(0), ["Recovered a", "start b"]);
}

#[test]
fn a_hook_that_fails_holds_nothing_up() {
    let mut bench = Bench::standing_by(vec![]);
    bench.opening(5);
    let failed = |hook| Event::HookDone(hook, Err("x".to_owned()));
    assert_eq!(
        bench.step(failed(Hook::BeforeOpen)),
        ["HookFailed before_open", "Ready 5"]
    );
    bench.open(5);
    assert_eq!(
        bench.step(failed(Hook::Keepalived)),
        ["HookFailed keepalived"]
    );
    assert_eq!(
        bench.step(failed(Hook::AfterOpen)),
        ["HookFailed after_open"]
    );
    bench.wants(Want::Closing { epoch: epoch(5) });
    assert_eq!(
        bench.step(failed(Hook::BeforeClose)),
        ["HookFailed before_close", "MayClose 5 true"]
    );
}

#[test]
fn hooks_run_one_at_a_time_and_one_of_an_older_epoch_reaches_nothing() {
    let mut bench = Bench::standing_by(vec![]);
    bench.opening(5);
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP"]);
    assert_eq!(bench.opening(6), NONE);
    assert_eq!(bench.done(Hook::BeforeOpen), ["after_close 5"]);
    assert_eq!(bench.done(Hook::AfterClose), ["before_open 6"]);
    assert_eq!(bench.done(Hook::BeforeOpen), ["Ready 6"]);
}

#[test]
fn a_life_that_begins_open_starts_what_is_down_and_runs_no_hook_again() {
    let mut bench = Bench::new(vec![service("a", &[]), service("b", &[0])]);
    bench.sees(0, Seen::Up);
    bench.sees(1, Seen::Down);
    assert_eq!(bench.open(5), ["notify MASTER", "start b"]);
    assert_eq!(bench.started(1), NONE);
    assert!(bench.machine.status().reached);
    assert_eq!(bench.open(8), ["notify MASTER", "after_open 8"]);
}

/// An address more, or a floor above its epoch: a group that serves is assigned anew.
#[test]
fn a_group_that_serves_goes_on_in_another_epoch_at_once() {
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    bench.opening(5);
    bench.started(0);
    assert_eq!(bench.opening(6), NONE, "it has not been open yet");
    assert_eq!(bench.done(Hook::BeforeOpen), ["before_open 6"]);
    bench.done(Hook::BeforeOpen);
    bench.open(6);
    bench.done(Hook::AfterOpen);
    assert_eq!(bench.opening(7), ["Ready 7 at once"]);
    assert_eq!(bench.sees(0, Seen::Up), NONE, "once, and no hook");
    assert_eq!(bench.opening(8), ["Ready 8 at once"], "not open in between");
    assert_eq!(bench.open(8), ["notify MASTER", "after_open 8"]);
    bench.done(Hook::AfterOpen);
    // One that serves as well as it can goes on so.
    assert_eq!(
        bench.sees(0, Seen::Down),
        ["Died a", "Failed a seen", "notify FAULT"]
    );
    assert_eq!(bench.opening(9), ["Ready 9 at once", "start a"]);
    bench.started(0);
    // A move that is called off by a new assignment.
    bench.open(9);
    bench.done(Hook::AfterOpen);
    bench.wants(Want::Closing { epoch: epoch(9) });
    assert_eq!(bench.opening(10), ["Ready 10 at once"]);
    bench.done(Hook::BeforeClose);
    // What was to stop meanwhile has to be made ready.
    bench.wants(Want::Standby);
    bench.stopped(0);
    bench.done(Hook::AfterClose);
    assert_eq!(bench.opening(11), ["start a"]);
    assert_eq!(bench.started(0), ["before_open 11"]);
}

#[test]
fn a_life_that_begins_with_a_group_that_serves_goes_on_in_another_epoch_at_once() {
    for closing in [false, true] {
        let mut bench = Bench::new(vec![service("a", &[])]);
        bench.sees(0, Seen::Up);
        if closing {
            bench.wants(Want::Closing { epoch: epoch(5) });
            bench.done(Hook::BeforeClose);
        } else {
            bench.open(5);
        }
        assert_eq!(bench.opening(6), ["Ready 6 at once"]);
    }
    let mut bench = Bench::new(vec![service("a", &[])]);
    bench.sees(0, Seen::Up);
    assert_eq!(
        bench.opening(6),
        ["before_open 6"],
        "it may never have been open"
    );
}

/// It resumed while what runs on it alone was being stopped.
#[test]
fn what_was_to_stop_does_not_count_as_serving_when_it_is_open_again() {
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    bench.opening(5);
    bench.started(0);
    bench.done(Hook::BeforeOpen);
    bench.open(5);
    bench.done(Hook::AfterOpen);
    bench.wants(Want::Standby);
    bench.open(5);
    bench.done(Hook::AfterOpen);
    assert_eq!(bench.opening(6), NONE);
    assert_eq!(bench.stopped(0), ["start a"]);
    assert_eq!(bench.started(0), ["before_open 6"]);
}

/// A group with nothing that has to be made ready resumes its epoch, however late.
#[test]
fn what_was_closed_and_is_open_again_is_told_both_times() {
    let mut bench = Bench::standing_by(vec![]);
    bench.opening(5);
    bench.done(Hook::BeforeOpen);
    bench.open(5);
    bench.done(Hook::AfterOpen);
    assert_eq!(
        bench.wants(Want::Standby),
        ["notify BACKUP", "after_close 5"]
    );
    bench.done(Hook::AfterClose);
    assert_eq!(bench.open(5), ["notify MASTER", "after_open 5"]);
    bench.done(Hook::AfterOpen);
    assert_eq!(
        bench.wants(Want::Standby),
        ["notify BACKUP", "after_close 5"]
    );
}

/// A planned move began before the word that it is open was said, and was called off.
#[test]
fn an_opening_whose_word_was_overtaken_by_a_closing_is_told() {
    let mut bench = Bench::standing_by(vec![]);
    bench.opening(5);
    bench.done(Hook::BeforeOpen);
    bench.wants(Want::Closing { epoch: epoch(5) });
    bench.done(Hook::BeforeClose);
    assert_eq!(bench.open(5), ["notify MASTER", "after_open 5"]);
}

/// A planned move is called off in the life after the one that opened it.
#[test]
fn a_life_that_begins_with_a_closing_does_not_tell_of_the_opening_again() {
    let mut bench = Bench::new(vec![]);
    bench.wants(Want::Closing { epoch: epoch(5) });
    bench.done(Hook::BeforeClose);
    assert_eq!(bench.open(5), ["notify MASTER"]);
}

#[test]
fn what_an_earlier_life_opened_is_closed_with_its_hook() {
    let mut bench = Bench::standing_by(vec![service("a", &[])]);
    assert_eq!(bench.noted, None);
    bench.opening(5);
    assert_eq!(bench.noted, Some(epoch(5)));
    // Replaced before it closes, or while it does.
    let mut bench = Bench::after_life(vec![service("a", &[])], bench.earlier());
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP", "stop a"]);
    assert_eq!(bench.stopped(0), ["after_close 5"]);
    assert_eq!(bench.noted, Some(epoch(5)), "it may be replaced once more");
    let mut bench = Bench::after_life(vec![service("a", &[])], bench.earlier());
    bench.wants(Want::Standby);
    assert_eq!(bench.stopped(0), ["after_close 5"]);
    assert_eq!(bench.done(Hook::AfterClose), ["Stopped"]);
    assert_eq!(bench.noted, None);
}

#[test]
fn an_after_open_that_was_cut_off_is_run_again() {
    let cut = Earlier {
        opened: Some(epoch(5)),
        cut: true,
    };
    let mut bench = Bench::after_life(vec![], cut);
    assert_eq!(bench.open(5), ["notify MASTER", "after_open 5"]);
    // Nor is it lost in a planned move that is called off.
    let mut bench = Bench::after_life(vec![], cut);
    bench.wants(Want::Closing { epoch: epoch(5) });
    bench.done(Hook::BeforeClose);
    assert_eq!(bench.open(5), ["notify MASTER", "after_open 5"]);
    // Not if it has been closed meanwhile.
    let mut bench = Bench::after_life(vec![], cut);
    assert_eq!(
        bench.wants(Want::Standby),
        ["notify BACKUP", "after_close 5"]
    );
    assert_eq!(bench.done(Hook::AfterClose), ["Stopped"]);
}

#[test]
fn a_life_that_begins_with_a_closing_closes_what_was_open() {
    let mut bench = Bench::new(vec![]);
    let closing = Want::Closing { epoch: epoch(5) };
    assert_eq!(bench.wants(closing), ["before_close 5"]);
    assert_eq!(bench.done(Hook::BeforeClose), ["MayClose 5 false"]);
    // The move is called off: it was open all the time.
    assert_eq!(bench.open(5), ["notify MASTER"]);
    bench.wants(closing);
    bench.done(Hook::BeforeClose);
    assert_eq!(
        bench.wants(Want::Standby),
        ["notify BACKUP", "after_close 5"]
    );
}

#[test]
fn a_new_epoch_is_noted_and_the_end_of_the_old_one_does_not_forget_it() {
    let mut bench = Bench::standing_by(vec![]);
    bench.opening(5);
    bench.done(Hook::BeforeOpen);
    bench.open(5);
    bench.done(Hook::AfterOpen);
    bench.wants(Want::Standby);
    bench.opening(6);
    assert_eq!(bench.noted, Some(epoch(6)));
    assert_eq!(bench.done(Hook::AfterClose), ["before_open 6"]);
    assert_eq!(bench.noted, Some(epoch(6)));
}

#[test]
fn hooks_that_wait_when_it_is_closed_are_not_run_any_more() {
    let mut bench = Bench::standing_by(vec![]);
    bench.opening(5);
    bench.done(Hook::BeforeOpen);
    bench.open(5);
    assert_eq!(bench.wants(Want::Closing { epoch: epoch(5) }), NONE);
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP"]);
    assert_eq!(bench.done(Hook::AfterOpen), ["after_close 5"]);
    assert_eq!(bench.done(Hook::AfterClose), ["Stopped"]);
}

#[test]
fn the_end_of_the_daemon_stops_what_would_end_with_it() {
    let bound = |service| Service {
        bound: true,
        ..service
    };
    let unit = always("unit");
    let services = vec![unit, bound(always("front")), bound(service("a", &[1]))];
    let mut bench = Bench::standing_by(services);
    bench.started(0);
    bench.started(1);
    assert!(bench.machine.status().reached);
    // On a standby.
    assert_eq!(bench.step(Event::Leave), ["stop front"]);
    let status = bench.machine.status();
    assert!(status.leaving && !status.reached);
    assert_eq!(bench.stopped(1), ["Stopped"]);
    assert_eq!(bench.sees(1, Seen::Down), NONE, "it stays down");
    assert_eq!(bench.machine.deadline(), Moment::MAX);
}

#[test]
fn the_end_of_the_daemon_stops_a_holder_in_order() {
    let services = vec![
        Service {
            bound: true,
            ..always("front")
        },
        service("a", &[0]),
    ];
    let mut bench = Bench::standing_by(services);
    bench.started(0);
    bench.opening(5);
    bench.started(1);
    bench.done(Hook::BeforeOpen);
    bench.wants(Want::Standby);
    assert_eq!(bench.stopped(1), ["after_close 5"]);
    // Its hook is awaited, and what is to stop besides.
    assert_eq!(bench.step(Event::Leave), ["stop front"]);
    assert_eq!(bench.done(Hook::AfterClose), NONE);
    assert_eq!(bench.stopped(0), ["Stopped"]);
}

#[test]
fn nothing_is_started_in_a_closing_group() {
    let mut bench = Bench::standing_by(vec![restarted("a", 3)]);
    bench.opening(5);
    bench.started(0);
    bench.done(Hook::BeforeOpen);
    bench.open(5);
    bench.wants(Want::Closing { epoch: epoch(5) });
    assert_eq!(bench.sees(0, Seen::Down), ["Died a"]);
    assert_eq!(bench.wants(Want::Standby), ["notify BACKUP", "stop a"]);
}

#[test]
fn what_is_started_again_is_told_until_it_runs_or_has_failed() {
    let fresh = |bench: &Bench| bench.machine.status().services[0].fresh;
    let mut bench = Bench::standing_by(vec![restarted("web", 1)]);
    assert_eq!(fresh(&bench), None);
    bench.opening(2);
    bench.started(0);
    assert_eq!(
        fresh(&bench),
        Some(Fresh::Started(bench.now)),
        "for the opening"
    );
    bench.done(Hook::BeforeOpen);
    bench.open(2);
    bench.sees(0, Seen::Down);
    assert_eq!(fresh(&bench), Some(Fresh::Restarting));
    assert!(bench.machine.status().unready.is_empty());
    bench.started(0);
    assert_eq!(fresh(&bench), Some(Fresh::Started(bench.now)));
    // Its only try is used up.
    bench.sees(0, Seen::Down);
    assert_eq!(fresh(&bench), None);
    assert!(!bench.machine.status().unready.is_empty());
    bench.started(0);
    bench.wants(Want::Standby);
    bench.stopped(0);
    assert_eq!(fresh(&bench), None);
}

#[test]
fn a_start_that_fails_is_tried_again_and_one_that_systemd_made_counts_as_well() {
    let fresh = |bench: &Bench| bench.machine.status().services[0].fresh;
    let mut bench = Bench::standing_by(vec![restarted("web", 2)]);
    bench.opening(2);
    bench.not_started(0);
    assert_eq!(fresh(&bench), Some(Fresh::Restarting));
    bench.not_started(0);
    assert_eq!(fresh(&bench), Some(Fresh::Restarting));
    bench.not_started(0);
    assert_eq!(fresh(&bench), None, "both tries are used up");
    // One that waits for another service to be started.
    let mut bench = Bench::standing_by(vec![service("db", &[]), {
        let after = vec![0];
        Service {
            after,
            ..restarted("web", 2)
        }
    }]);
    bench.opening(2);
    bench.started(0);
    bench.started(1);
    bench.sees(0, Seen::Down);
    bench.sees(1, Seen::Down);
    let web = |bench: &Bench| bench.machine.status().services[1].fresh;
    assert_eq!(web(&bench), Some(Fresh::Restarting));
    bench.sees(1, Seen::Up);
    assert_eq!(web(&bench), Some(Fresh::Started(bench.now)));
}
