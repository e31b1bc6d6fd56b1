//! `process` checks: a real Apache, by its name and by its pid file.

mod support;

use std::time::Duration;

use evenkeel_checks::{Probe, Process, Resolved, State};
use rustix::process::Signal;
use support::apache::{self, Apache, Mpm};
use support::{SOON, Told, asking, check};

fn process(name: &str, pidfile: Option<std::path::PathBuf>) -> Probe {
    asking(Resolved::Process(Process {
        name: name.to_owned(),
        pidfile,
    }))
}

#[tokio::test]
async fn a_death_needs_no_question() {
    if !apache::is_here("a_death_needs_no_question") {
        return;
    }
    for mpm in [Mpm::Prefork, Mpm::Event] {
        let apache = Apache::start(mpm);
        // Other tests have an Apache too: only the pid file tells them apart.
        let seldom = Probe {
            interval: Duration::from_secs(3600),
            rise: 1,
            ..process("apache2", Some(apache.pidfile()))
        };
        let mut told = Told::start(vec![seldom]);
        let well = told.wait_for_state(State::Ok).await;
        assert!(well.detail.starts_with("apache2 (pid "), "{}", well.detail);
        apache.signal(Signal::KILL);
        let dead = told.wait_for_state(State::Failing).await;
        let since = "none runs since the death of apache2 (pid ";
        assert!(dead.detail.starts_with(since), "{}", dead.detail);
    }
}

#[tokio::test]
async fn a_process_that_comes_is_found_and_one_that_is_not_there_fails() {
    let name = format!("evk-p{}", std::process::id());
    check(process(&name, None), State::Failing, "no such process runs").await;
    let place = tempfile::tempdir().expect("a directory");
    let program = place.path().join(&name);
    std::fs::copy("/bin/sleep", &program).expect("sleep is there");
    let mut told = Told::start(vec![process(&name, None)]);
    told.wait_for_state(State::Failing).await;
    let mut child = std::process::Command::new(program)
        .arg(SOON.as_secs().to_string())
        .spawn()
        .expect("it starts");
    let well = told.wait_for_state(State::Ok).await;
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    assert_eq!(well.detail, format!("{name} (pid {}) runs", child.id()));
    told.wait_for_state(State::Failing).await;
}
