//! Exit codes and bad input of `doctor` and `plan`, with the program as people run it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn evenkeel(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(arguments)
        .output()
        .expect("it runs")
}

fn doctor(dir: &Path, config: &str, more: &[&str]) -> (Option<i32>, String) {
    let (socket, file) = (dir.join("none.sock"), dir.join("c.toml"));
    std::fs::write(&file, config).expect("written");
    let path = |path: &Path| path.display().to_string();
    let (socket, file) = (path(&socket), path(&file));
    let (state, pki) = (path(&dir.join("state")), path(&dir.join("pki")));
    let mut all = vec!["doctor", "--measure", "100ms", "--socket", &socket];
    all.extend(["--config", &file, "--state", &state, "--pki", &pki]);
    all.extend(more);
    let output = evenkeel(&all);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said)
}

const GOOD: &str = "cluster = \"shop\"\nnode.a.address = \"127.0.0.1:7946\"\n";

#[test]
fn a_node_without_its_certificate_is_unfit_and_told_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let (code, said) = doctor(dir.path(), GOOD, &["--node", "a"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.starts_with("a (shop) is UNFIT"), "{said}");
    assert!(said.contains("evenkeel pki issue"), "{said}");
}

#[test]
fn every_fault_of_a_file_is_told_with_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let faulty = "cluster = 7\nnode.a.adress = \"127.0.0.1:7946\"\n";
    let (code, said) = doctor(dir.path(), faulty, &["--node", "a"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("c.toml:1:") && said.contains("c.toml:2:"),
        "{said}"
    );
}

#[test]
fn json_is_read_by_programs_whatever_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let (code, said) = doctor(dir.path(), GOOD, &["--node", "nobody", "--json"]);
    assert_eq!(code, Some(2));
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (said["verdict"].as_str(), said["daemon"].as_bool()),
        (Some("unfit"), Some(false))
    );
    let findings = said["findings"].as_array().expect("findings");
    let file = findings.iter().filter(|one| one["area"] == "file");
    let told: Vec<&str> = file.filter_map(|one| one["what"].as_str()).collect();
    assert!(
        told.iter()
            .any(|what| what.contains("no node \"nobody\"; it has a")),
        "{told:?}"
    );
    let areas = findings.iter().filter(|one| one["area"] == "machine");
    assert!(areas.count() >= 5, "the machine is looked at all the same");
}

#[test]
fn an_impossible_measurement_is_refused() {
    let output = evenkeel(&["doctor", "--measure", "2h"]);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{why}");
    assert!(why.contains("--measure is from 100 ms to 60 s"), "{why}");
}

#[test]
fn a_plan_without_a_daemon_says_whom_it_asked() {
    let output = evenkeel(&["plan", "node:a", "--socket", "/no/such.sock"]);
    assert_eq!(output.status.code(), Some(1));
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(why.contains("nothing listens at /no/such.sock"), "{why}");
}
