//! Runs one test again in a network namespace of its own.
//!
//! A thread cannot leave its namespace without unsafe code, so the test binary starts
//! itself anew under `unshare`, for one test.

use std::process::Command;

const INSIDE: &str = "EVENKEEL_TEST_INSIDE_NETNS";

/// Whether this process is the inner one. The outer one runs the inner one and fails
/// with it; where namespaces cannot be made it says so and tests nothing.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let root = rustix::process::geteuid().is_root();
    let flags: &[&str] = if root {
        &["--net"]
    } else {
        &["--user", "--map-root-user", "--net"]
    };
    let able = Command::new("unshare").args(flags).arg("true").status();
    if !able.is_ok_and(|status| status.success()) {
        assert!(!root, "root cannot make a network namespace");
        eprintln!("NOT TESTED: {test} needs a network namespace, which this user may not make");
        return false;
    }
    let status = Command::new("unshare")
        .args(flags)
        .arg(std::env::current_exe().expect("the path of this test"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare starts");
    assert!(status.success(), "{test} failed in its namespace");
    false
}

/// Runs a command that must succeed, such as `ip link set lo up`.
pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command");
    let status = Command::new(program).args(words).status().expect(program);
    assert!(status.success(), "{command}");
}
