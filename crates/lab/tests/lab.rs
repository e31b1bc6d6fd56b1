//! The lab tests itself: as root, as an ordinary user, and when it is killed. The
//! daemon has no part in it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const LAB: &str = env!("CARGO_BIN_EXE_evenkeel-lab");

/// An ordinary user whom every Linux knows.
const NOBODY: &str = "65534";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The lab's command line, as an ordinary user even if this is root.
fn as_ordinary_user() -> Command {
    if !is_root() {
        return Command::new(LAB);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", LAB]);
    command
}

/// Says loudly what was not tested, where the machine does not allow it.
fn allowed(test: &str, output: &Output) -> bool {
    let told = String::from_utf8_lossy(&output.stderr);
    let refused = told.contains("Operation not permitted") && told.contains("unshare");
    if refused {
        eprintln!(
            "NOT TESTED: {test}: this machine does not allow it: {}",
            told.trim()
        );
    }
    !refused
}

fn check_self_test(test: &str, mut command: Command) {
    let output = command
        .arg("self-test")
        .stdin(Stdio::null())
        .output()
        .expect("the lab starts");
    if allowed(test, &output) {
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn sees_what_it_is_to_see() {
    if !is_root() {
        eprintln!("NOT TESTED: the lab as root: this is no root");
        return;
    }
    check_self_test("the lab as root", Command::new(LAB));
}

#[test]
fn works_for_an_ordinary_user() {
    check_self_test("the lab as an ordinary user", as_ordinary_user());
}

/// The directory of the lab whose first process is `lab`: its janitor was told.
fn directory_of(lab: u32) -> Option<PathBuf> {
    let entries = std::fs::read_dir("/proc").expect("processes").flatten();
    entries.map(|entry| entry.path()).find_map(|place| {
        let status = std::fs::read_to_string(place.join("status")).ok()?;
        let line = std::fs::read(place.join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0).skip(1);
        let ours =
            status.contains(&format!("PPid:\t{lab}\n")) && words.next() == Some(b"lab-janitor");
        ours.then(|| {
            String::from_utf8_lossy(words.next().unwrap_or_default())
                .as_ref()
                .into()
        })
    })
}

/// Killed in the middle, the lab leaves no process and no file. One test for all
/// signals: they look for what is left of the same kind.
#[test]
fn leaves_nothing_when_it_is_killed() {
    for signal in ["INT", "KILL"] {
        let mut lab = as_ordinary_user()
            .arg("self-test")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the lab starts");
        let mut line = String::new();
        let mut output = BufReader::new(lab.stdout.take().expect("a pipe"));
        if output.read_line(&mut line).expect("output") == 0 {
            lab.wait().expect("the lab ends");
            eprintln!("NOT TESTED: a lab that is killed: no lab is allowed here");
            return;
        }
        let ours = directory_of(lab.id()).expect("the lab has a directory");
        assert!(ours.exists(), "{}", ours.display());
        let pid = lab.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &pid])
                .status()
                .expect("kill")
                .success()
        );
        lab.wait().expect("the lab ends");
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let processes = processes_in(&ours);
            if !ours.exists() && processes.is_empty() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "SIG{signal}: left: {ours:?}, {processes:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Command lines of processes that know `place`.
fn processes_in(place: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("processes").flatten();
    entries
        .filter_map(|entry| {
            let all = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&all).replace('\0', " ");
            line.contains(&*place.to_string_lossy()).then_some(line)
        })
        .collect()
}
