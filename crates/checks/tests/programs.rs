//! `exec` and `nagios` checks: Debian's plugins as they are, and programs that do everything
//! wrong. Programs live in a directory that belongs to whoever runs the tests.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use evenkeel_checks::{Manner, Probe, State};
use evenkeel_core::{CheckName, NodeId};
use support::apache::{self, Apache, Mpm};
use support::server::{Server, hold};
use support::{SOON, Told, check, program, quick};

const PLUGINS: &str = "/usr/lib/nagios/plugins";

/// Writes a script for the shell.
fn script(place: &Path, name: &str, mode: u32, text: &str) -> String {
    let path = place.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("our directory");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our file");
    path.to_str().expect("a plain path").to_owned()
}

fn plugins_are_here(test: &str) -> bool {
    let here = Path::new(PLUGINS).join("check_http").exists() && apache::is_here(test);
    if !here {
        eprintln!("NOT TESTED: {test} needs apache2 and monitoring-plugins-basic");
    }
    here
}

/// The first verdict about `probe` for that reason, whatever it says.
async fn says(probe: Probe, state: State, reason: &str) {
    let mut told = Told::start(vec![quick(probe)]);
    let verdict = told
        .wait_for(|verdict| verdict.detail.contains(reason))
        .await;
    assert_eq!(verdict.state, state, "{}", verdict.detail);
}

#[tokio::test]
async fn plugins_of_debian_run_unmodified() {
    if !plugins_are_here("plugins_of_debian_run_unmodified") {
        return;
    }
    let apache = Apache::start(Mpm::Event);
    let (host, port) = (apache.at.ip().to_string(), apache.at.port().to_string());
    let plugin = |name: &str, more: &[&str]| {
        let path = format!("{PLUGINS}/{name}");
        let mut words = vec![path.as_str()];
        words.extend(more);
        program(Manner::Nagios, &words)
    };
    let http = plugin("check_http", &["-H", &host, "-p", &port, "-u", "/"]);
    let verdict = support::verdict_on(http).await;
    assert_eq!(verdict.state, State::Ok, "{}", verdict.detail);
    assert!(verdict.detail.contains("HTTP "), "{}", verdict.detail);
    let labels: Vec<&str> = verdict
        .measures
        .iter()
        .map(|one| one.label.as_str())
        .collect();
    assert_eq!(labels[..2], ["time", "size"]);
    assert_eq!(verdict.measures[0].unit, "s");
    assert!(verdict.measures[1].value.is_some_and(|size| size > 0.0));

    let tcp = plugin("check_tcp", &["-H", &host, "-p", &port]);
    check(tcp, State::Ok, "ok: TCP OK").await;
    let text = plugin(
        "check_http",
        &["-H", &host, "-p", &port, "-s", "no such text"],
    );
    check(text, State::Failing, "critical: HTTP CRITICAL").await;
    let missing = ["-H", &host, "-p", &port, "-u", "/missing"];
    check(
        plugin("check_http", &missing),
        State::Ok,
        "warning: HTTP WARNING",
    )
    .await;
    says(
        plugin("check_http", &[]),
        State::Unknown,
        "the plugin does not know",
    )
    .await;
    for (status, state) in [("0", State::Ok), ("1", State::Ok), ("2", State::Failing)] {
        check(plugin("check_dummy", &[status, "said"]), state, "").await;
    }
    drop(apache);
    let refused = plugin("check_tcp", &["-H", &host, "-p", &port]);
    check(refused, State::Failing, "critical: connect to address").await;
}

#[tokio::test]
async fn the_status_of_a_program_counts_and_its_first_line_is_told() {
    let place = tempfile::tempdir().expect("a directory");
    let run = |text: &str| program(Manner::Exec, &[&script(place.path(), "one", 0o755, text)]);
    check(run("echo fine; echo more"), State::Ok, "ended well in ").await;
    let bad = "ended with status 1: disk is full";
    check(run("echo disk is full; exit 1"), State::Failing, bad).await;
    let words = script(
        place.path(),
        "two",
        0o755,
        "test \"$1\" = 'a b' && exit 3; exit 4",
    );
    let probe = program(Manner::Exec, &[&words, "a b"]);
    check(probe, State::Failing, "ended with status 3").await;
    says(run("kill -SEGV $$"), State::Unknown, "ended by signal 11").await;
}

#[tokio::test]
async fn what_is_wrong_with_a_program_moves_nothing() {
    let place = tempfile::tempdir().expect("a directory");
    let run = |name: &str, mode, text: &str| {
        program(Manner::Nagios, &[&script(place.path(), name, mode, text)])
    };
    let missing = program(Manner::Nagios, &["/nonexistent/check_http"]);
    says(missing, State::Unknown, "No such file").await;
    says(
        run("a", 0o644, "exit 2"),
        State::Unknown,
        "it is not executable",
    )
    .await;
    says(
        run("b", 0o757, "exit 2"),
        State::Unknown,
        "can be written by others",
    )
    .await;
    says(
        run("c", 0o775, "exit 2"),
        State::Unknown,
        "can be written by others",
    )
    .await;
    says(run("d", 0o755, "exit 77"), State::Unknown, "status 77").await;
    let directory = place.path().to_str().expect("a plain path");
    let directory = program(Manner::Nagios, &[directory]);
    says(directory, State::Unknown, "not a regular file").await;
    // No program at all, though executable.
    let junk = place.path().join("junk");
    fs::write(&junk, b"\0\x01").expect("our directory");
    fs::set_permissions(&junk, fs::Permissions::from_mode(0o755)).expect("our file");
    let junk = program(Manner::Nagios, &[junk.to_str().expect("a plain path")]);
    says(junk, State::Unknown, "could not ask: run ").await;
}

#[tokio::test]
async fn programs_that_hang_flood_or_leave_children_are_ended() {
    let place = tempfile::tempdir().expect("a directory");
    let run = |name: &str, text: &str| {
        program(Manner::Nagios, &[&script(place.path(), name, 0o755, text)])
    };
    let mark = place.path().join("mark");
    let hang = format!(
        "trap '' TERM; (sleep 300 & echo $! > {}; wait)",
        mark.display()
    );
    let hung = Probe {
        timeout: Duration::from_millis(500),
        interval: Duration::from_secs(3600),
        ..run("hang", &hang)
    };
    check(hung, State::Failing, "no end within 500 ms; it was killed").await;
    let child = fs::read_to_string(&mark).expect("it came so far");
    gone(child.trim()).await;

    let flood = "echo 'full | a=1'; head -c 1000000000 /dev/zero; exit 2";
    check(run("flood", flood), State::Failing, "critical: full").await;

    let leave = format!(
        "sleep 300 & echo $! > {}; echo left; exit 0",
        mark.display()
    );
    check(run("leave", &leave), State::Ok, "ok: left").await;
    let child = fs::read_to_string(&mark).expect("it came so far");
    gone(child.trim()).await;
}

/// Waits until a process is gone.
async fn gone(pid: &str) {
    let stat = format!("/proc/{pid}/stat");
    let wait = async {
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let gone = tokio::time::timeout(SOON, wait).await;
    gone.unwrap_or_else(|_| panic!("process {pid} lives on"));
}

#[tokio::test]
async fn hung_programs_take_turns_from_each_other_and_from_nobody_else() {
    let place = tempfile::tempdir().expect("a directory");
    let hang = script(place.path(), "hang", 0o755, "exec sleep 300");
    let server = Server::start(hold).await;
    // Twice as many as may run at once.
    let mut probes: Vec<Probe> = (0..128)
        .map(|number| Probe {
            judged: NodeId(1000 + number),
            timeout: Duration::from_secs(2),
            interval: Duration::from_secs(2),
            fall: 1,
            ..program(Manner::Exec, &[&hang])
        })
        .collect();
    let well = Probe {
        check: CheckName::new("well").expect("a name"),
        ..support::line(server.at, None, None)
    };
    probes.push(Probe {
        timeout: SOON,
        ..well
    });
    let mut told = Told::start(probes);
    let (mut failing, mut late) = (0, 0);
    let watch = async {
        while failing < 32 || late < 1 {
            let verdict = told.verdicts.recv().await.expect("the prober lives");
            match (verdict.judged == support::ME, verdict.state) {
                (true, State::Failing) => panic!("{}", verdict.detail),
                (false, State::Failing) => {
                    assert!(
                        verdict.detail.contains("it was killed"),
                        "{}",
                        verdict.detail
                    );
                    failing += 1;
                }
                (false, State::Unknown) if verdict.detail.contains("its turn did not") => late += 1,
                _ => {}
            }
        }
    };
    tokio::time::timeout(SOON, watch)
        .await
        .expect("all are judged");
}
