//! Without the right to load eBPF: in a user namespace nftables guards alone, and
//! without any right the refusal says what to do. The inner tests run in the namespaces
//! that the outer ones make.

use super::*;
use crate::GuardError;

fn run_inside(unshare: &str, test: &str) {
    let exe = std::env::current_exe().expect("this program");
    let line = format!(
        "unshare {unshare} {} --ignored --exact {test} --nocapture",
        exe.display()
    );
    let output = run(&line);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("1 passed"),
        "the inner test did not run: {said}"
    );
}

fn settings(pins: &tempfile::TempDir) -> Settings {
    Settings {
        cluster: "test".to_owned(),
        node: "rootless".to_owned(),
        bpffs: pins.path().to_owned(),
        backends: Backends::Both,
    }
}

#[test]
fn a_user_namespace_has_a_reduced_guard() {
    run_inside("-Urn", "tests::rootless::inside_a_user_namespace");
}

#[test]
#[ignore = "run in a user namespace by a_user_namespace_has_a_reduced_guard"]
fn inside_a_user_namespace() {
    run("ip link set lo up");
    run("ip address add 10.77.0.100/32 dev lo");
    let pins = tempfile::tempdir().expect("a directory");
    let (mut guard, mut keeper) = Guard::open(&settings(&pins), &claim()).expect("a guard");
    let state = keeper.state();
    assert!(!state.is_full() && state.nft.is_active(), "{state:?}");
    keeper
        .set_addresses(GROUP, Epoch::NONE, &[ip(V4)])
        .expect("it is taken");
    let answers = || {
        try_run(&format!("ping -n -q -c 1 -W 0.15 {V4}"))
            .status
            .success()
    };
    assert!(!answers(), "closed");
    hold(&mut guard, PATIENCE);
    until("it answers", answers);
    let deadline = hold(&mut guard, Duration::from_millis(300));
    until("it has run out", || now() >= deadline);
    assert!(!answers(), "after its deadline");
    keeper.uninstall().expect("it is taken away");
}

#[test]
fn without_rights_there_is_a_reason_and_a_remedy() {
    run_inside("-U", "tests::rootless::inside_without_rights");
}

#[test]
#[ignore = "run without rights by without_rights_there_is_a_reason_and_a_remedy"]
fn inside_without_rights() {
    let pins = tempfile::tempdir().expect("a directory");
    let Err(error) = Guard::open(&settings(&pins), &claim()) else {
        panic!("a guard without rights")
    };
    assert!(matches!(error, GuardError::NoBackend { .. }), "{error}");
    assert!(error.to_string().contains("run as root"), "{error}");
}
