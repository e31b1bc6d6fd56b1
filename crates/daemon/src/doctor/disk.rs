//! Files and the state directory, looked at.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use evenkeel_config::Config;
use evenkeel_core::finding::Finding;
use evenkeel_core::topology::Node;
use evenkeel_transport::pki;

use super::Places;
use crate::prepare::fingerprints;
use crate::state::{self, Looked, Whose};

/// Below this a log cannot be made (32 MiB are reserved for it, and copies while it is written).
const FREE_LEAST: u64 = 64 << 20;
/// Room for the longest log, and for the logs that a recovery sets aside.
const FREE_GOOD: u64 = 512 << 20;

/// File systems that are shared or forget (`include/uapi/linux/magic.h`, statfs(2)).
const SHARED: [(u64, &str); 6] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9p"),
    (0x7461_636f, "OCFS2"),
];
const FORGETS: [(u64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

/// Who may change the configuration: whoever may, commands what runs as root.
pub(super) fn file(path: &Path) -> Vec<Finding> {
    let place = path.display().to_string();
    // What cannot be read is told by whoever reads it.
    let Ok(about) = fs::metadata(path) else {
        return Vec::new();
    };
    vec![rights(&place, about.mode(), about.uid())]
}

fn rights(place: &str, mode: u32, uid: u32) -> Finding {
    let own = rustix::process::geteuid().as_raw();
    if uid != 0 && uid != own {
        return Finding::unfit(
            place,
            format!("belongs to user {uid}, who decides by it what runs as root"),
        )
        .remedy(format!("chown root {place}"));
    }
    match mode & 0o022 {
        0 => Finding::fine(place, "only its owner can change it"),
        _ => Finding::unfit(
            place,
            "can be changed by others than its owner, who decide by it what runs as root",
        )
        .remedy(format!("chmod go-w {place}")),
    }
}

/// The state directory. `runs`: this node's daemon does.
pub(super) fn state(places: &Places, config: &Config, node: &Node, runs: bool) -> Vec<Finding> {
    let place = places.state.display().to_string();
    let mut found = Vec::new();
    let topology = &config.topology;
    // Without a certificate it cannot be told whose it must be: that is told elsewhere.
    let revoked = fingerprints(config);
    if let Ok(identity) = pki::load(&places.pki, &topology.cluster, &node.name, &revoked) {
        let whose = Whose {
            cluster: &topology.cluster,
            authority: &identity.authority_fingerprint().to_string(),
            node: &node.name,
            lease: topology.timing.lease,
        };
        found.push(used(&place, state::look(&places.state, &whose), runs));
    }
    if let Ok(about) = fs::metadata(&places.state)
        && about.mode() & 0o077 != 0
    {
        found.push(
            Finding::warning(&place, "others than root can look into it")
                .remedy(format!("chmod 700 {place}")),
        );
    }
    found.extend(file_system(&places.state));
    found
}

fn used(place: &str, looked: Result<Looked, state::StateError>, runs: bool) -> Finding {
    match (looked, runs) {
        (Err(error), _) => Finding::unfit(place, error.to_string()),
        (Ok(Looked::Absent), _) => {
            Finding::fine(place, "is not there yet: the first start makes it")
        }
        (Ok(Looked::InUse), true) => Finding::fine(place, "is this node's, and its daemon uses it"),
        (Ok(Looked::Free), false) => Finding::fine(place, "is this node's, and free"),
        (Ok(Looked::InUse), false) => Finding::unfit(
            place,
            "a daemon uses it that does not answer at the control socket",
        )
        .remedy("name its socket with --socket; or it hangs: `systemctl status evenkeel`"),
        (Ok(Looked::Free), true) => {
            Finding::warning(place, "the daemon that answers does not use this directory")
                .remedy("is --state right, and is it the daemon of this machine that answers?")
        }
    }
}

/// The directory itself, or the nearest one above it that is there.
fn nearest(path: &Path) -> PathBuf {
    let there = path.ancestors().find(|one| one.exists());
    there.unwrap_or(Path::new("/")).to_owned()
}

fn file_system(path: &Path) -> Vec<Finding> {
    let place = path.display().to_string();
    let there = nearest(path);
    let found = rustix::fs::statfs(&there).and_then(|kind| {
        let free = rustix::fs::statvfs(&there)?;
        // The type of the field differs between machines; the magic number has 32 bits.
        let kind = kind.f_type as u64 & 0xffff_ffff;
        Ok((kind, free.f_bavail.saturating_mul(free.f_frsize)))
    });
    match found {
        Err(error) => vec![Finding::unfit(
            &place,
            format!("cannot be looked at: {error}"),
        )],
        Ok((kind, free)) => vec![kind_of(&place, kind), room(&place, free)],
    }
}

fn kind_of(place: &str, kind: u64) -> Finding {
    let named = |list: &[(u64, &'static str)]| {
        let found = list.iter().find(|(number, _)| *number == kind);
        found.map(|(_, name)| *name)
    };
    if let Some(name) = named(&SHARED) {
        return Finding::unfit(
            place,
            format!("lies on {name}: when that is not reached, this node cannot vote"),
        )
        .remedy("put it on a disk of this machine, and never on one that other nodes see");
    }
    if let Some(name) = named(&FORGETS) {
        return Finding::warning(
            place,
            format!("lies on {name}: each restart of the machine loses this node's vote"),
        )
        .remedy("put it on a disk; a node that lost its log has to be readmitted");
    }
    Finding::fine(place, "lies on a file system of this machine")
}

fn room(place: &str, free: u64) -> Finding {
    let what = format!("{} MiB are free", free >> 20);
    if free < FREE_LEAST {
        return Finding::unfit(place, what).remedy(format!(
            "free at least {} MiB: the log cannot be written otherwise",
            FREE_LEAST >> 20
        ));
    }
    if free < FREE_GOOD {
        return Finding::warning(place, what)
            .remedy(format!("{} MiB have room for every log", FREE_GOOD >> 20));
    }
    Finding::fine(place, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::finding::Severity;

    #[test]
    fn who_may_write_a_file_commands_root() {
        let severity = |mode, uid| rights("f", mode, uid).severity;
        assert_eq!(severity(0o100_644, 0), Severity::Fine);
        assert_eq!(severity(0o100_664, 0), Severity::Unfit);
        assert_eq!(severity(0o100_646, 0), Severity::Unfit);
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(severity(0o100_600, own), Severity::Fine);
        assert_eq!(severity(0o100_600, own + 12_345), Severity::Unfit);
    }

    #[test]
    fn shared_and_forgetful_file_systems_are_found() {
        assert_eq!(kind_of("d", 0x6969).severity, Severity::Unfit);
        assert_eq!(kind_of("d", 0x0102_1994).severity, Severity::Warning);
        assert_eq!(kind_of("d", 0xef53).severity, Severity::Fine);
    }

    #[test]
    fn room_is_told_and_a_directory_that_is_not_there_is_judged_by_what_is_above() {
        assert_eq!(room("d", 1 << 20).severity, Severity::Unfit);
        assert_eq!(room("d", 100 << 20).severity, Severity::Warning);
        assert_eq!(room("d", 1 << 30).severity, Severity::Fine);
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(nearest(&dir.path().join("a/b")), dir.path());
    }

    #[test]
    fn whoever_uses_the_directory_is_the_daemon_that_answers() {
        let severity = |looked, runs| used("d", Ok(looked), runs).severity;
        assert_eq!(severity(Looked::Absent, false), Severity::Fine);
        assert_eq!(severity(Looked::Free, false), Severity::Fine);
        assert_eq!(severity(Looked::InUse, true), Severity::Fine);
        assert_eq!(severity(Looked::InUse, false), Severity::Unfit);
        assert_eq!(severity(Looked::Free, true), Severity::Warning);
    }
}
