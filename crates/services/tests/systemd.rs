//! The room with a real systemd in namespaces of its own (`host/tests/machine`).

#[path = "../../host/tests/machine/mod.rs"]
mod machine;

use std::time::{Duration, Instant};

use evenkeel_config::parse;
use evenkeel_core::{Epoch, GroupId, GroupName, NodeName};
use evenkeel_host::systemd::{Running, Seen, Systemd, SystemdError};
use evenkeel_services::{Context, GroupSettings, Report, Services, Settings, Want, doctor};
use tokio::sync::mpsc;

use machine::{LONG, Machine, UnitFile};

/// What runs in it besides.
const UNITS: [UnitFile; 4] = [
    (
        "good.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=exec\nExecStart=/bin/sleep 600\n",
    ),
    // This one and the next are up when their traps are set: a signal that came before would
    // end them at once.
    (
        "hangs.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=exec\nTimeoutStopSec=600\n\
         ExecStartPre=/bin/rm -f /run/hangs.trap\n\
         ExecStart=/bin/sh -c 'trap : TERM; : >/run/hangs.trap; while :; do sleep 600 & wait; done'\n\
         ExecStartPost=/bin/sh -c 'until [ -e /run/hangs.trap ]; do sleep 0.01; done'\n\
         ExecStop=/bin/sleep 600\n",
    ),
    // It takes `SLOW` to stop, which is longer than the ladder of signals.
    (
        "slow.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=exec\n\
         ExecStartPre=/bin/rm -f /run/slow.trap\n\
         ExecStart=/bin/sh -c 'trap \"sleep 6; exit 0\" TERM; : >/run/slow.trap; \
         while :; do sleep 600 & wait; done'\n\
         ExecStartPost=/bin/sh -c 'until [ -e /run/slow.trap ]; do sleep 0.01; done'\n\
         KillMode=mixed\n",
    ),
    (
        "bad.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=exec\nExecStart=/bin/sh -c 'exit 1'\n\
         ExecStartPre=/bin/false\n",
    ),
];

/// How long the slow one is in its trap.
const SLOW: Duration = Duration::from_secs(6);

fn www() -> GroupId {
    GroupId::of(&GroupName::new("www").expect("a name"))
}

struct Room {
    services: Services,
    reports: mpsc::Receiver<Report>,
    _notes: tempfile::TempDir,
    hosted: evenkeel_config::Hosted,
}

impl Room {
    fn new(machine: &Machine, text: &str) -> Self {
        let head = "cluster = \"t\"\n[node.a]\naddress = \"192.0.2.1:7946\"\n[node.b]\naddress = \"192.0.2.2:7946\"\n[group.www]\nnodes = [\"a\", \"b\"]\naddresses = [\"192.0.2.9/24\"]\n";
        let config =
            parse(&format!("{head}{text}"), "f").unwrap_or_else(|faults| panic!("{faults}"));
        let hosted = config.hosted[&www()].clone();
        let notes = tempfile::tempdir().expect("a directory");
        let (send, reports) = mpsc::channel(64);
        let group = GroupSettings {
            group: www(),
            name: GroupName::new("www").expect("a name"),
            hosted: hosted.clone(),
            priority: 100,
        };
        let node = NodeName::new("a").expect("a name");
        let settings = Settings {
            bus: machine.bus(),
            ..Settings::new(vec![group], node, notes.path().to_owned())
        };
        Self {
            services: Services::start(settings, send).expect("it starts"),
            reports,
            _notes: notes,
            hosted,
        }
    }

    fn want(&self, want: Want) {
        self.services.want(www(), want, Context::default());
    }

    fn next(&mut self) -> Report {
        let deadline = Instant::now() + LONG;
        loop {
            match self.reports.try_recv() {
                Ok(report) => return report,
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("no report: {error}"),
            }
        }
    }
}

const OPENING: Want = Want::Opening {
    epoch: Epoch { term: 1, index: 5 },
};
const OPEN: Want = Want::Open {
    epoch: Epoch { term: 1, index: 5 },
};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Waits until what is known of a unit is as wanted.
async fn until(systemd: &Systemd, unit: &str, wanted: impl FnMut(&Seen) -> bool) -> Seen {
    let mut watch = systemd.watch(unit);
    let seen = tokio::time::timeout(LONG, watch.wait_for(wanted)).await;
    seen.expect("in time").expect("it is watched").clone()
}

fn runs(running: Running) -> impl FnMut(&Seen) -> bool {
    move |seen| matches!(seen, Seen::Known(unit) if unit.running() == running)
}

#[test]
fn units_are_known_by_events_and_started_and_stopped() {
    let Some(machine) = Machine::boot(&UNITS) else {
        return;
    };
    runtime().block_on(async {
        let systemd = Systemd::start(&machine.bus());
        until(&systemd, "good.service", runs(Running::Down)).await;
        systemd.start_unit("good.service").await.expect("started");
        let up = until(&systemd, "good.service", runs(Running::Up)).await;
        let Seen::Known(unit) = up else { panic!("{up:?}") };
        assert!(unit.main_pid > 1 && unit.invocation.len() == 16, "{unit:?}");
        assert_eq!(unit.to_string(), "active (running)");
        // Death by somebody's hand.
        systemd.kill_unit("good.service", 9).await.expect("killed");
        let dead = until(&systemd, "good.service", runs(Running::Down)).await;
        assert!(matches!(&dead, Seen::Known(unit) if unit.active == "failed" && unit.result == "signal"), "{dead:?}");
        systemd.start_unit("good.service").await.expect("started");
        systemd.stop_unit("good.service").await.expect("stopped");
        until(&systemd, "good.service", runs(Running::Down)).await;

        let missing = systemd.look("missing.service").await.expect("no error");
        assert_eq!((missing.running(), missing.to_string().as_str()), (Running::Missing, "not-found"));
        let error = systemd.start_unit("missing.service").await.expect_err("refused");
        assert!(matches!(error, SystemdError::Refused { .. }), "{error}");
        let error = systemd.start_unit("bad.service").await.expect_err("failed");
        assert!(matches!(&error, SystemdError::Job { result, .. } if result == "failed"), "{error}");

        // The bus dies and comes back: meanwhile nothing is known, and no more than that.
        systemd.start_unit("good.service").await.expect("started");
        until(&systemd, "good.service", runs(Running::Up)).await;
        let mut watch = systemd.watch("good.service");
        watch.borrow_and_update();
        machine.run(&["pkill", "-x", "dbus-daemon"]);
        let unknown = watch.wait_for(|seen| matches!(seen, Seen::Unknown(_)));
        let unknown = tokio::time::timeout(LONG, unknown).await.expect("in time").expect("watched").clone();
        assert!(matches!(unknown, Seen::Unknown(_)));
        until(&systemd, "good.service", runs(Running::Up)).await;
        systemd.stop_unit("good.service").await.expect("stopped");
    });
}

#[test]
fn a_takeover_starts_units_and_their_death_is_told() {
    let Some(machine) = Machine::boot(&UNITS) else {
        return;
    };
    let mut room = Room::new(
        &machine,
        "[group.www.service.good]\nunit = \"good.service\"\n",
    );
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    room.want(OPENING);
    let Report::Ready { took, .. } = room.next() else {
        panic!("not ready")
    };
    eprintln!("a unit was up after {took:?}");
    room.want(OPEN);
    let begun = Instant::now();
    machine.run(&["pkill", "-KILL", "-x", "-f", "/bin/sleep 600"]);
    let Report::Died { detail, .. } = room.next() else {
        panic!("no death")
    };
    eprintln!(
        "its death was told {:?} after nsenter was started",
        begun.elapsed()
    );
    assert!(detail.contains("failed"), "{detail}");
    assert!(matches!(room.next(), Report::Failed { .. }));
    // Somebody starts it on a standby.
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    machine.run(&["systemctl", "start", "good.service"]);
    assert!(matches!(room.next(), Report::Foreign { .. }));
}

#[test]
fn a_unit_that_hangs_in_its_stop_is_killed_whole() {
    let Some(machine) = Machine::boot(&UNITS) else {
        return;
    };
    let text = "[group.www.service.hangs]\nunit = \"hangs.service\"\nstop_timeout = \"200ms\"\n";
    let mut room = Room::new(&machine, text);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    room.want(Want::Standby);
    let Report::Forced { how, .. } = room.next() else {
        panic!("not forced")
    };
    assert!(how.contains("SIGKILL"), "{how}");
    assert!(matches!(room.next(), Report::Stopped { .. }));
}

#[test]
fn a_stop_keeps_its_time_though_the_bus_is_lost_and_somebody_gives_another_order() {
    let Some(machine) = Machine::boot(&UNITS) else {
        return;
    };
    let text = "[group.www.service.slow]\nunit = \"slow.service\"\nstop_timeout = \"30s\"\n";
    let mut room = Room::new(&machine, text);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    room.want(Want::Standby);
    let begun = Instant::now();
    runtime().block_on(async {
        let systemd = Systemd::start(&machine.bus());
        until(&systemd, "slow.service", runs(Running::Changing)).await;
    });
    machine.run(&["systemctl", "start", "--no-block", "slow.service"]);
    machine.run(&["pkill", "-x", "dbus-daemon"]);
    let stopped = room.next();
    assert!(matches!(stopped, Report::Stopped { .. }), "{stopped:?}");
    // Else nothing was going on that the other order and the loss could have disturbed.
    assert!(begun.elapsed() >= SLOW, "{:?}", begun.elapsed());
    let state = runtime().block_on(async {
        let systemd = Systemd::start(&machine.bus());
        systemd.look("slow.service").await.expect("it answers")
    });
    assert_eq!(state.running(), Running::Down);
}

#[test]
fn units_that_are_missing_or_bad_are_told_and_stop_nothing_else() {
    let Some(machine) = Machine::boot(&UNITS) else {
        return;
    };
    let text = "[group.www.service.missing]\nunit = \"missing.service\"\nafter = []\n[group.www.service.bad]\nunit = \"bad.service\"\nafter = []\n[group.www.service.good]\nunit = \"good.service\"\nafter = []\n";
    let mut room = Room::new(&machine, text);
    let faults = runtime()
        .block_on(async { doctor::examine(&room.hosted, &Systemd::start(&machine.bus())).await });
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].contains("missing.service is not-found"),
        "{faults:?}"
    );
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    room.want(OPENING);
    let mut failed = [room.next(), room.next()].map(|report| match report {
        Report::Failed {
            service, reason, ..
        } => (service.to_string(), reason),
        other => panic!("{other:?}"),
    });
    failed.sort();
    assert!(
        failed[0].0 == "bad" && failed[0].1.contains("its job ended with \"failed\""),
        "{failed:?}"
    );
    assert!(
        failed[1].0 == "missing" && failed[1].1.contains("not-found"),
        "{failed:?}"
    );
    let unready = room.services.status()[&www()].unready.clone();
    assert_eq!(unready.len(), 2, "{unready:?}");
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
}

#[test]
fn a_standby_stops_what_systemd_started_with_the_machine() {
    let Some(machine) = Machine::boot(&UNITS) else {
        return;
    };
    machine.run(&["systemctl", "start", "good.service"]);
    let mut room = Room::new(
        &machine,
        "[group.www.service.good]\nunit = \"good.service\"\n",
    );
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    let state = runtime().block_on(async {
        let systemd = Systemd::start(&machine.bus());
        systemd.look("good.service").await.expect("it answers")
    });
    assert_eq!(state.running(), Running::Down);
}

#[test]
fn a_unit_that_is_a_service_by_two_names_is_found() {
    let Some(machine) = Machine::boot(&UNITS) else {
        return;
    };
    machine.run(&[
        "ln",
        "-s",
        "/run/units/good.service",
        "/run/units/other.service",
    ]);
    machine.run(&["systemctl", "daemon-reload"]);
    let room = |unit: &str| {
        let text = format!("[group.www.service.app]\nunit = \"{unit}\"\n");
        Room::new(&machine, &text).hosted
    };
    let [www, mail] = ["www", "mail"].map(|name| GroupName::new(name).expect("a name"));
    let (good, other, bad) = (
        room("good.service"),
        room("other.service"),
        room("bad.service"),
    );
    let found = |second: &evenkeel_config::Hosted| {
        runtime().block_on(async {
            let systemd = Systemd::start(&machine.bus());
            doctor::same_units(&[(&www, &good), (&mail, second)], &systemd).await
        })
    };
    assert_eq!(found(&bad), [""; 0]);
    let faults = found(&other);
    assert_eq!(faults.len(), 1, "{faults:?}");
    let what =
        "other.service (service app of mail) is good.service (service app of www) by another name";
    assert!(faults[0].starts_with(what), "{faults:?}");
}
