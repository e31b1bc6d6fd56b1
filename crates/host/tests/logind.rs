//! Shutdowns told by a real logind under a real systemd (`machine`), and by stand-ins on its
//! bus that behave badly.

mod machine;

use std::pin::Pin;
use std::process::Command;
use std::time::Duration;

use evenkeel_host::logind::{Lock, Logind, Seen, Told, delay_max};
use tokio::sync::watch;
use zbus::MessageStream;
use zbus::export::futures_core::Stream;
use zbus::wire::Variant;

use machine::{LONG, Machine, UnitFile};

/// A logind, and what it starts for a reboot: nothing that would end the first process.
const UNITS: [UnitFile; 2] = [
    (
        "logind.service",
        "[Unit]\nDefaultDependencies=no\nAfter=dbus.service\nStartLimitIntervalSec=0\n[Service]\nRestart=always\n\
         ExecStart=/usr/lib/systemd/systemd-logind\nRestartSec=100ms\n",
    ),
    ("reboot.target", "[Unit]\nDefaultDependencies=no\n"),
];

/// Says that this process is in the machine: logind wants to know who asks for a lock, and sees
/// no process outside.
const INSIDE: &str = "EVENKEEL_TEST_INSIDE_MACHINE";

/// The bus in there.
const BUS: &str = "unix:path=/run/dbus/system_bus_socket";

/// Whether this process is the inner one. The outer one boots a machine, runs the test in it,
/// and fails with it.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if let Some(machine) = Machine::boot(&UNITS) {
        let own = std::env::current_exe().expect("the path of this test");
        let own = own.to_str().expect("a plain path");
        let variable = format!("{INSIDE}=1");
        machine.run(&["env", &variable, own, "--exact", test, "--nocapture"]);
    }
    false
}

/// Runs a program in the machine that this process is in.
fn run(program: &[&str]) {
    let status = Command::new(program[0]).args(&program[1..]).status();
    assert!(status.expect("it runs").success(), "{program:?}");
}

const LOGIN: &str = "org.freedesktop.login1";
const OBJECT: &str = "/org/freedesktop/login1";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

async fn until(logind: &Logind, wanted: impl FnMut(&Seen) -> bool) -> Seen {
    let mut seen: watch::Receiver<Seen> = logind.seen();
    let seen = tokio::time::timeout(LONG, seen.wait_for(wanted)).await;
    seen.expect("in time").expect("it is watched").clone()
}

fn told(wanted: impl Fn(&Told) -> bool) -> impl FnMut(&Seen) -> bool {
    move |seen| matches!(seen, Seen::Known(told) if wanted(told))
}

fn held(told: &Told) -> bool {
    !told.preparing && told.lock == Lock::Held
}

/// Asks for a reboot. The answer comes only when it goes on, or not at all.
async fn reboot(bus: &str) -> zbus::Result<()> {
    let connection = zbus::connection::Builder::address(bus).build().await?;
    let manager = "org.freedesktop.login1.Manager";
    connection
        .call_method(Some(LOGIN), OBJECT, Some(manager), "Reboot", &false)
        .await
        .map(drop)
}

#[test]
fn a_reboot_waits_for_the_lock_and_can_be_called_off() {
    if !inside("a_reboot_waits_for_the_lock_and_can_be_called_off") {
        return;
    }
    run(&["systemctl", "start", "logind.service"]);
    runtime().block_on(async {
        let logind = Logind::start(BUS, "evenkeel", "to hand over");
        let seen = until(&logind, told(held)).await;
        let Seen::Known(first) = seen else {
            panic!("{seen:?}")
        };
        assert_eq!(first.delay, Duration::from_secs(5), "its default");
        assert_eq!(delay_max(BUS).await, Ok(first.delay));
        run(&["sh", "-c", "systemd-inhibit --list | grep -q evenkeel"]);

        // Given back and taken again.
        logind.hold(false);
        until(&logind, told(|told| told.lock == Lock::NotWanted)).await;
        run(&["sh", "-c", "! systemd-inhibit --list | grep -q evenkeel"]);
        logind.hold(true);
        until(&logind, told(held)).await;

        reboot(BUS).await.expect("it begins");
        until(&logind, told(|told| told.preparing)).await;
        // It waits for us: the target that would end the machine is not started yet.
        run(&["sh", "-c", "! systemctl is-active -q reboot.target"]);
        logind.hold(false);
        // Nothing ends here, so logind says in the end that it does not go down after all.
        until(&logind, told(|told| !told.preparing)).await;
        run(&["systemctl", "is-active", "-q", "reboot.target"]);
        logind.hold(true);
        until(&logind, told(held)).await;
    });
}

#[test]
fn a_logind_or_bus_that_was_started_anew_is_asked_for_the_lock_again() {
    if !inside("a_logind_or_bus_that_was_started_anew_is_asked_for_the_lock_again") {
        return;
    }
    runtime().block_on(async {
        // Before there is any.
        let logind = Logind::start(BUS, "evenkeel", "to hand over");
        let mut seen = logind.seen();
        seen.changed().await.expect("it is watched");
        assert!(matches!(*seen.borrow(), Seen::Unknown(_)));
        run(&["systemctl", "start", "logind.service"]);
        for kill in ["systemd-logind", "dbus-daemon"] {
            until(&logind, told(held)).await;
            let mut seen = logind.seen();
            seen.borrow_and_update();
            run(&["pkill", "-KILL", "-x", kill]);
            let lost = seen.wait_for(|seen| matches!(seen, Seen::Unknown(_)));
            let lost = tokio::time::timeout(LONG, lost).await;
            lost.expect("in time").expect("it is watched");
            if kill == "dbus-daemon" {
                // This logind lives on without a bus, and never comes back to one by itself.
                run(&["systemctl", "restart", "logind.service"]);
            }
        }
        until(&logind, told(held)).await;
        run(&["sh", "-c", "systemd-inhibit --list | grep -q evenkeel"]);
    });
}

#[test]
fn a_worker_that_comes_during_a_shutdown_hears_of_it() {
    if !inside("a_worker_that_comes_during_a_shutdown_hears_of_it") {
        return;
    }
    run(&["systemctl", "start", "logind.service"]);
    runtime().block_on(async {
        let first = Logind::start(BUS, "evenkeel", "to hand over");
        until(&first, told(held)).await;
        reboot(BUS).await.expect("it begins");
        until(&first, told(|told| told.preparing)).await;
        // It is too late for another lock; that is no reason not to be told.
        let second = Logind::start(BUS, "evenkeel", "to hand over");
        let seen = until(&second, told(|told| told.preparing)).await;
        let refused = |told: &Told| matches!(told.lock, Lock::Refused(_));
        assert!(
            matches!(&seen, Seen::Known(told) if refused(told)),
            "{seen:?}"
        );
    });
}

/// A stand-in of logind, which refuses the lock, or never answers when it is asked for it.
/// Aborted, it leaves the bus.
async fn stand_in(bus: &str, refuses: bool) -> tokio::task::JoinHandle<()> {
    let connection = zbus::connection::Builder::address(bus).name(LOGIN).build();
    let connection = connection.await.expect("it has the name");
    tokio::spawn(async move {
        let mut calls = MessageStream::from(&connection);
        while let Some(Ok(call)) =
            std::future::poll_fn(|context| Pin::new(&mut calls).poll_next(context)).await
        {
            let header = call.header();
            let member = header.member().map(|member| member.to_string());
            let answer = match member.as_deref() {
                Some("Inhibit") if refuses => {
                    let denied = "org.freedesktop.DBus.Error.AccessDenied";
                    connection.reply_error(&header, denied, &"no").await
                }
                Some("Get") => {
                    let (_, name): (String, String) = call.body().deserialize().expect("two");
                    let value = match name.as_str() {
                        "PreparingForShutdown" => Variant::Bool(false),
                        _ => Variant::U64(1_500_000),
                    };
                    connection.reply(&header, &value).await
                }
                _ => Ok(()),
            };
            answer.expect("it is connected");
        }
    })
}

#[test]
fn one_that_refuses_never_answers_or_dies_is_told_and_tried_again() {
    let Some(machine) = Machine::boot(&[]) else {
        return;
    };
    runtime().block_on(async {
        let refusing = stand_in(&machine.bus(), true).await;
        let logind = Logind::start(&machine.bus(), "evenkeel", "to hand over");
        let seen = until(&logind, told(|_| true)).await;
        let Seen::Known(seen) = seen else {
            panic!("{seen:?}")
        };
        assert!(
            matches!(&seen.lock, Lock::Refused(why) if why.contains("no")),
            "{seen:?}"
        );
        assert_eq!(seen.delay, Duration::from_millis(1500));
        refusing.abort();
        until(
            &logind,
            |seen| matches!(seen, Seen::Unknown(why) if why.contains("gone")),
        )
        .await;

        let silent = stand_in(&machine.bus(), false).await;
        let unknown = |seen: &Seen| matches!(seen, Seen::Unknown(why) if why.contains("timed out"));
        until(&logind, unknown).await;
        silent.abort();
        let _refusing = stand_in(&machine.bus(), true).await;
        until(&logind, told(|_| true)).await;
    });
}

#[test]
fn without_a_bus_it_is_unknown_and_nothing_fails() {
    runtime().block_on(async {
        let logind = Logind::start("unix:path=/nonexistent/bus", "evenkeel", "to hand over");
        let unknown =
            |seen: &Seen| matches!(seen, Seen::Unknown(why) if why.contains("no connection"));
        until(&logind, unknown).await;
        assert!(delay_max("unix:path=/nonexistent/bus").await.is_err());
    });
}
