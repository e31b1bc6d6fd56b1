//! Everything in a file has a bound, and a file that cannot be read says what to do.

use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;

use evenkeel_config::{
    ADDRESSES_MAX, ADDRESSES_PER_GROUP_MAX, CHECKS_MAX, FAULTS_MAX, FILE_SIZE_MAX, GROUPS_MAX,
    NODES_MAX, REVOKED_MAX, load, parse,
};

/// The faults of a text, without their remedies.
fn faults(text: &str) -> Vec<String> {
    let faults = parse(text, "f").err();
    let shown = faults
        .iter()
        .flat_map(|faults| faults.iter().map(ToString::to_string));
    shown.collect()
}

fn nodes(count: usize) -> String {
    let mut text = "cluster = \"shop\"\n".to_owned();
    for number in 0..count {
        let port = 7000 + number;
        let _ = writeln!(text, "[node.n{number}]\naddress = \"192.0.2.1:{port}\"");
    }
    text
}

/// A list of so many addresses, from `10.first.0.1` on.
fn addresses(first: usize, count: usize) -> String {
    let texts: Vec<String> = (0..count)
        .map(|at| format!("\"10.{first}.{}.{}/8\"", at / 200, at % 200 + 1))
        .collect();
    texts.join(", ")
}

#[test]
fn as_many_as_allowed_and_one_more() {
    assert_eq!(faults(&nodes(NODES_MAX)), [""; 0]);
    assert_eq!(
        faults(&nodes(NODES_MAX + 1)),
        ["f:130:7: there are 65 nodes, more than 64"]
    );

    let groups = |count: usize| {
        let mut text = nodes(3);
        for number in 0..count {
            let _ = writeln!(text, "[group.g{number}]\nnodes = [\"n0\", \"n1\"]");
        }
        text
    };
    assert_eq!(faults(&groups(GROUPS_MAX)), [""; 0]);
    assert_eq!(
        faults(&groups(GROUPS_MAX + 1)),
        ["f:520:8: there are 257 groups, more than 256"]
    );

    let checks = |count: usize| {
        let mut text = format!("{}[group.g]\nnodes = [\"n0\", \"n1\"]\n", nodes(3));
        for number in 0..count {
            let _ = writeln!(text, "[group.g.check.c{number}]\nping = \"{{node}}\"");
        }
        text
    };
    assert_eq!(faults(&checks(CHECKS_MAX)), [""; 0]);
    assert_eq!(
        faults(&checks(CHECKS_MAX + 1)),
        ["f:16394:16: the file has more than 8192 checks"]
    );

    let revoked = |count: usize| {
        let prints: Vec<String> = (0..count).map(|at| format!("\"{at:064x}\"")).collect();
        format!("revoked = [\n{}]\n{}", prints.join(",\n"), nodes(3))
    };
    assert_eq!(faults(&revoked(REVOKED_MAX)), [""; 0]);
    assert_eq!(
        faults(&revoked(REVOKED_MAX + 1)),
        ["f:1026:1: more than 1024 certificates are revoked"]
    );
}

#[test]
fn as_many_addresses_as_allowed_and_one_more() {
    let groups = |counts: &[usize]| {
        let mut text = nodes(3);
        for (number, count) in counts.iter().enumerate() {
            let list = addresses(number, *count);
            let _ = writeln!(
                text,
                "[group.g{number}]\nnodes = [\"n0\", \"n1\"]\naddresses = [\n{list}]"
            );
        }
        text
    };
    let full = ADDRESSES_MAX / ADDRESSES_PER_GROUP_MAX;
    let most = vec![ADDRESSES_PER_GROUP_MAX; full];
    assert_eq!(faults(&groups(&most)), [""; 0]);

    let faulty = faults(&groups(&[ADDRESSES_PER_GROUP_MAX + 1]));
    assert_eq!(faulty.len(), 1);
    assert!(
        faulty[0].ends_with("the group has more than 4096 addresses"),
        "{faulty:?}"
    );

    let faulty = faults(&groups(&[most.as_slice(), &[1]].concat()));
    assert_eq!(faulty, ["f:27:1: the file has more than 16384 addresses"]);
}

#[test]
fn faults_are_counted_beyond_those_that_are_shown() {
    let mut text = nodes(3);
    let unknown = FAULTS_MAX + 7;
    for number in 0..unknown {
        let _ = writeln!(text, "[strange{number}]");
    }
    let faults = parse(&text, "f").expect_err("unknown sections");
    assert_eq!((faults.iter().count(), faults.len()), (FAULTS_MAX, unknown));
    assert!(
        faults.to_string().ends_with("\nf: and 7 more\n"),
        "{faults}"
    );
    assert!(faults.render(false).ends_with("\nf: and 7 more\n"));
}

/// Two texts with one FNV-1a of 64 bits, found by others long ago: both are names.
#[test]
fn names_with_one_identity_are_refused() {
    let (one, other) = ("8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ");
    let text = nodes(3).replace("n1", one).replace("n2", other);
    assert_eq!(
        faults(&text),
        [format!(
            "f:6:7: the nodes \"{other}\" and \"{one}\" have the same identity"
        )]
    );
    let groups = [one, other].map(|name| format!("[group.{name}]\nnodes = [\"n0\", \"n1\"]\n"));
    assert_eq!(
        faults(&(nodes(3) + &groups.concat())),
        [format!(
            "f:10:8: the groups \"{other}\" and \"{one}\" have the same identity"
        )]
    );
}

/// What `load` says of a file with these bytes; `FILE` stands for its path.
fn loaded(path: &Path) -> String {
    let faults = load(path)
        .err()
        .map(|faults| faults.to_string())
        .unwrap_or_default();
    faults.replace(&path.display().to_string(), "FILE")
}

#[test]
fn files_that_cannot_be_read_say_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("evenkeel.toml");
    assert_eq!(
        loaded(&path),
        "FILE: cannot be read: No such file or directory (os error 2)\n  help: name another file, or write this one; the manual begins with an example\n"
    );
    assert_eq!(
        loaded(directory.path()),
        "FILE: this is a directory\n  help: name the file in it\n"
    );
    assert_eq!(
        loaded(Path::new("/dev/null")),
        "FILE: this is not a regular file\n  help: name a regular file\n"
    );

    let write = |bytes: &[u8]| {
        let mut file = std::fs::File::create(&path).expect("a file");
        file.write_all(bytes).expect("room");
    };
    write(b"cluster = \"shop\"\nprofile = \"\xfcber\"\n");
    assert_eq!(
        loaded(&path),
        "FILE:2:12: this byte (0xfc) is not UTF-8\n  help: save the file as UTF-8\n"
    );
    write(&vec![
        b'\n';
        usize::try_from(FILE_SIZE_MAX).expect("small") + 1
    ]);
    assert_eq!(
        loaded(&path),
        "FILE: the file is larger than 4096 KiB\n  help: is it the right file? else make several clusters of it\n"
    );
    let most =
        nodes(3) + &"#".repeat(usize::try_from(FILE_SIZE_MAX).expect("small") - nodes(3).len());
    write(most.as_bytes());
    assert_eq!(loaded(&path), "");
}
