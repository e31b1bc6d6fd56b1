//! The import table (ARCHITECTURE.md, "The rooms"): which room may use which. Read from
//! the workspace's own metadata, so that an arrow outside the table fails here however it
//! came in. Development dependencies are free: a test may look from wherever it likes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What the names of all rooms' crates begin with; the binary's crate has no room.
const PREFIX: &str = "evenkeel-";
/// The crate of the command line.
const BINARY: &str = "evenkeel";

/// Rooms below the daemon, in the table's order.
const BELOW_DAEMON: &[&str] = &[
    "core",
    "wire",
    "config",
    "transport",
    "consensus",
    "host",
    "guard",
    "services",
    "checks",
    "traffic",
    "files",
    "databases",
    "alerts",
    "console",
];

/// What a room may import. A room that is not built yet stands here all the same, so that
/// whoever builds it finds its bounds.
fn may_import(room: &str) -> Option<Vec<&'static str>> {
    let all = BELOW_DAEMON.iter().copied();
    Some(match room {
        "core" => vec![],
        "wire" | "config" | "transport" | "host" | "console" => vec!["core"],
        "consensus" => vec!["core", "wire"],
        "guard" => vec!["core", "host"],
        "services" | "checks" | "traffic" | "databases" => vec!["core", "config", "host"],
        "files" => vec!["core", "config", "host", "transport"],
        "alerts" => vec!["core", "config"],
        "daemon" => all.collect(),
        "lab" => vec!["core", "config", "host", "console"],
        // Of the leaf rooms only the pure parts, which this test cannot tell apart.
        "sim" => vec!["core", "wire", "config", "consensus", "checks", "traffic"],
        // Every reader of bytes from outside.
        "fuzz" => all.chain(["daemon"]).collect(),
        BINARY => all.chain(["daemon", "lab"]).collect(),
        _ => return None,
    })
}

/// Libraries that only one room names, so that they can be replaced there.
const ONLY_THERE: &[(&str, &str)] = &[
    ("openraft", "consensus"),
    ("openraft-rt-sim", "consensus"),
    ("redb", "consensus"),
    ("quinn", "transport"),
    ("quinn-proto", "transport"),
    ("quinn-udp", "transport"),
    ("rcgen", "transport"),
];

/// The keyword, in pieces: this file must not contain it.
const KEYWORD: &str = concat!("un", "safe");
/// Where it may stand.
const KEYWORD_PLACE: &str = "crates/host/src/sys";

/// One crate that the workspace builds.
struct Room {
    name: String,
    manifest: PathBuf,
    uses: Vec<String>,
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("crates/daemon is two levels down")
        .to_owned()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in the metadata: {value}"))
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("no {key} in the metadata"))
}

/// The crates of the workspace with what they are built from.
fn rooms() -> Vec<Room> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .expect("cargo can be run again");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {told}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let rooms = list(&metadata, "packages").iter().map(|package| Room {
        name: text(package, "name").to_owned(),
        manifest: PathBuf::from(text(package, "manifest_path")),
        uses: list(package, "dependencies")
            .iter()
            .filter(|dependency| dependency["kind"] != "dev")
            .map(|dependency| text(dependency, "name").to_owned())
            .collect(),
    });
    rooms.collect()
}

fn room_of(crate_name: &str) -> &str {
    crate_name.strip_prefix(PREFIX).unwrap_or(crate_name)
}

/// What is wrong with one room's arrows, a line each.
fn arrows_outside(room: &str, uses: &[String]) -> Vec<String> {
    let Some(allowed) = may_import(room) else {
        return vec![format!("{room}: a crate that is not in the table of rooms")];
    };
    let arrows = uses.iter().filter_map(|name| match name.as_str() {
        BINARY => Some(BINARY),
        name => name.strip_prefix(PREFIX),
    });
    let outside = arrows.filter(|to| !allowed.contains(to));
    outside
        .map(|to| match allowed.is_empty() {
            true => format!("{room} -> {to}: {room} may import nothing"),
            false => format!(
                "{room} -> {to}: {room} may import only {}",
                allowed.join(", ")
            ),
        })
        .collect()
}

/// Libraries that a room names although they belong to another, a line each.
fn strangers(room: &str, uses: &[String]) -> Vec<String> {
    let named = ONLY_THERE
        .iter()
        .filter(|(library, home)| room != *home && uses.iter().any(|name| name == library));
    named
        .map(|(library, home)| format!("{room} -> {library}: only {home} may name it"))
        .collect()
}

#[test]
fn no_arrow_is_outside_the_table() {
    let rooms = rooms();
    // An empty answer would prove nothing.
    for known in ["evenkeel-core", "evenkeel-daemon", BINARY] {
        assert!(
            rooms.iter().any(|room| room.name == known),
            "{known} is not in the workspace"
        );
    }
    let faults: Vec<String> = rooms
        .iter()
        .flat_map(|room| arrows_outside(room_of(&room.name), &room.uses))
        .collect();
    assert!(
        faults.is_empty(),
        "arrows that are not in the table:\n  {}",
        faults.join("\n  ")
    );
}

#[test]
fn replaceable_libraries_are_named_in_one_room() {
    let rooms = rooms();
    for (library, home) in [("openraft", "consensus"), ("quinn", "transport")] {
        let room = rooms.iter().find(|room| room_of(&room.name) == home);
        let room = room.unwrap_or_else(|| panic!("there is no {home}"));
        assert!(
            room.uses.iter().any(|name| name == library),
            "{home} has given {library} up"
        );
    }
    let faults: Vec<String> = rooms
        .iter()
        .flat_map(|room| strangers(room_of(&room.name), &room.uses))
        .collect();
    assert!(
        faults.is_empty(),
        "libraries outside their room:\n  {}",
        faults.join("\n  ")
    );
}

#[test]
fn the_table_sees_what_is_outside_of_it() {
    let uses = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    assert!(arrows_outside("guard", &uses(&["evenkeel-core", "evenkeel-host", "libc"])).is_empty());
    assert_eq!(arrows_outside("core", &uses(&["evenkeel-wire"])).len(), 1);
    assert_eq!(
        arrows_outside("checks", &uses(&["evenkeel-traffic"])).len(),
        1
    );
    assert_eq!(
        arrows_outside(
            "daemon",
            &uses(&["evenkeel-sim", "evenkeel-lab", "evenkeel"])
        )
        .len(),
        3
    );
    assert_eq!(
        arrows_outside("evenkeel", &uses(&["evenkeel-sim"])).len(),
        1
    );
    assert_eq!(arrows_outside("attic", &[]).len(), 1);
    assert_eq!(strangers("daemon", &uses(&["redb", "serde"])).len(), 1);
    assert!(strangers("consensus", &uses(&["redb"])).is_empty());
}

/// The lints that forbid the rest (unwrap, missing documentation) hold only where they are
/// inherited.
#[test]
fn every_room_inherits_the_lints() {
    for room in rooms() {
        let manifest = fs::read_to_string(&room.manifest).expect("a manifest");
        let after = manifest
            .split_once("[lints]")
            .map(|(_, after)| after.trim_start());
        assert!(
            after.is_some_and(|after| after.starts_with("workspace = true")),
            "{}: add [lints] with workspace = true",
            room.manifest.display()
        );
    }
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the tree") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether a line of code, its comment left out, has the keyword. A `//` after a colon is
/// part of a URL and hides nothing.
fn has_keyword(line: &str) -> bool {
    let comment = line
        .match_indices("//")
        .find(|(at, _)| !line[..*at].ends_with(':'));
    let code = comment.map_or(line, |(at, _)| &line[..at]);
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word == KEYWORD)
}

#[test]
fn code_that_the_compiler_cannot_check_is_in_one_place() {
    let root = root();
    let mut files = Vec::new();
    sources(&root.join("crates"), &mut files);
    let (mut there, mut elsewhere) = (0, Vec::new());
    for file in files {
        let within = file.strip_prefix(&root).expect("below the root");
        let code = fs::read_to_string(&file).expect("a source");
        for (at, _) in code
            .lines()
            .enumerate()
            .filter(|(_, line)| has_keyword(line))
        {
            // `crates/host/src/sys.rs` is the door of the directory.
            if within.starts_with(KEYWORD_PLACE) || within == Path::new("crates/host/src/sys.rs") {
                there += 1;
            } else {
                elsewhere.push(format!("{}:{}", within.display(), at + 1));
            }
        }
    }
    assert!(
        there > 0,
        "nothing was found at all: does the search still see?"
    );
    assert!(
        elsewhere.is_empty(),
        "only {KEYWORD_PLACE} may hold such code, each block with its reason:\n  {}",
        elsewhere.join("\n  ")
    );
}
