//! `unit` checks: a real systemd (`machine`), on whose machine the test itself runs, so that it
//! counts processes as systemd does.

#[path = "../../host/tests/machine/mod.rs"]
mod machine;
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use evenkeel_checks::{Probe, Prober, Resolved, State, doctor};
use evenkeel_host::systemd::Systemd;
use support::{SOON, Told, asking};
use tokio::sync::mpsc;

const BUS: &str = "unix:path=/run/dbus/system_bus_socket";

fn unit(name: &str) -> Probe {
    asking(Resolved::Unit(name.to_owned()))
}

/// So seldom asked that only events can tell anything in time.
fn seldom(probe: Probe) -> Probe {
    Probe {
        interval: Duration::from_secs(3600),
        fall: 5,
        rise: 1,
        ..probe
    }
}

fn systemctl(words: &[&str]) {
    let status = Command::new("systemctl").args(words).status();
    assert!(status.is_ok_and(|status| status.success()), "{words:?}");
}

fn main_pid(unit: &str) -> i32 {
    let said = Command::new("systemctl")
        .args(["show", "--property=MainPID", "--value", unit])
        .output()
        .expect("systemctl runs");
    let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    text.parse().unwrap_or_else(|_| panic!("{text:?}"))
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

#[tokio::test]
async fn the_death_of_a_unit_needs_no_question() {
    if !machine::inside("the_death_of_a_unit_needs_no_question") {
        return;
    }
    systemctl(&["start", "good.service"]);
    let mut told = Told::start(vec![seldom(unit("good.service"))]);
    let well = told.wait_for_state(State::Ok).await;
    assert_eq!(well.detail, "active (running)");
    let pid = main_pid("good.service");
    let killed = Instant::now();
    kill(pid);
    let dead = told.wait_for_state(State::Failing).await;
    eprintln!("told after {:?}: {}", killed.elapsed(), dead.detail);
    // By the kernel, or by a systemd that was quicker.
    let by_kernel = format!("nothing of it lives since the death of sleep (pid {pid})");
    assert!(
        dead.detail == by_kernel || dead.detail == "failed (failed), signal",
        "{}",
        dead.detail
    );
}

#[tokio::test]
async fn a_unit_that_is_stopped_or_restarts_by_itself_fails_at_once() {
    if !machine::inside("a_unit_that_is_stopped_or_restarts_by_itself_fails_at_once") {
        return;
    }
    systemctl(&["start", "good.service", "again.service"]);
    let mut told = Told::start(vec![seldom(unit("good.service"))]);
    told.wait_for_state(State::Ok).await;
    systemctl(&["stop", "good.service"]);
    told.wait_for_state(State::Failing).await;

    let mut told = Told::start(vec![Probe {
        fall: 1,
        rise: 1,
        ..unit("again.service")
    }]);
    told.wait_for_state(State::Ok).await;
    kill(main_pid("again.service"));
    told.wait_for_state(State::Failing).await;
    let again = |detail: &str| detail.contains("systemd is about to start it again");
    let said = told.wait_for(|verdict| again(&verdict.detail)).await;
    assert_eq!(said.state, State::Failing);
    systemctl(&["restart", "again.service"]);
    let well = told.wait_for_state(State::Ok).await;
    assert_eq!(well.detail, "active (running)");
}

#[tokio::test]
async fn a_missing_unit_fails_and_the_doctor_says_so() {
    if !machine::inside("a_missing_unit_fails_and_the_doctor_says_so") {
        return;
    }
    let missing = unit("missing.service");
    let mut told = Told::start(vec![missing.clone()]);
    let failing = told.wait_for_state(State::Failing).await;
    assert!(
        failing
            .detail
            .starts_with("not-found: install it, or correct unit"),
        "{}",
        failing.detail
    );
    let faults = doctor::examine(&[missing, unit("good.service")], &Systemd::start(BUS)).await;
    assert_eq!(
        faults,
        ["check web: missing.service is not-found: install it, or correct unit"]
    );
}

#[tokio::test]
async fn a_bus_that_is_away_is_unknown_and_no_failure() {
    if !machine::inside("a_bus_that_is_away_is_unknown_and_no_failure") {
        return;
    }
    systemctl(&["start", "good.service"]);
    let patient = Probe {
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(50),
        rise: 1,
        ..unit("good.service")
    };
    let mut told = Told::start(vec![patient]);
    told.wait_for_state(State::Ok).await;
    // It comes back by itself a while later.
    let status = Command::new("pkill").args(["-x", "dbus-daemon"]).status();
    assert!(status.is_ok_and(|status| status.success()));
    let mut states = Vec::new();
    let back = tokio::time::timeout(SOON, async {
        loop {
            let verdict = told.verdicts.recv().await.expect("the prober lives");
            states.push(verdict.state);
            if verdict.state == State::Ok && states.contains(&State::Unknown) {
                return;
            }
        }
    });
    assert!(back.await.is_ok(), "{states:?}");
    assert!(!states.contains(&State::Failing), "{states:?}");
}

#[tokio::test]
async fn without_a_bus_a_unit_is_unknown() {
    let (send, mut verdicts) = mpsc::channel(16);
    let probe = Probe {
        timeout: Duration::from_millis(50),
        ..unit("good.service")
    };
    let _prober = Prober::with_bus("unix:path=/nonexistent/bus", vec![probe], send);
    let answered = async {
        loop {
            let verdict = verdicts.recv().await.expect("the prober lives");
            assert_eq!(verdict.state, State::Unknown);
            if verdict
                .detail
                .starts_with("could not ask: no connection to the bus at")
            {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, answered)
        .await
        .expect("it is said");
}
