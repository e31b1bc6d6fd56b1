//! The files of an authority and of its nodes, and every reason to refuse them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use evenkeel_core::NodeName;
use evenkeel_transport::pki::{self, PkiError};
use evenkeel_transport::{CertificateFault, Fingerprint};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a name")
}

fn now() -> SystemTime {
    SystemTime::now()
}

/// A directory with the authority of "shop" and the files of `a` and `b`.
fn shop() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    pki::init(dir.path(), Some("shop"), now()).expect("an authority");
    for node in ["a", "b"] {
        pki::issue(dir.path(), &name(node), dir.path(), now()).expect("a certificate");
    }
    dir
}

fn load(dir: &Path, node: &str) -> Result<pki::Identity, PkiError> {
    pki::load(dir, "shop", &name(node), &[])
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

/// The fault, and that the text names the file and the word.
fn refusal(result: Result<pki::Identity, PkiError>, word: &str) -> PkiError {
    let error = result.expect_err("refused");
    let text = error.to_string();
    assert!(text.contains(word), "{text:?} does not contain {word:?}");
    error
}

#[test]
fn what_is_issued_can_be_loaded() {
    let dir = shop();
    let identity = load(dir.path(), "a").expect("an identity");
    assert_eq!(identity.name(), &name("a"));
    assert_eq!(mode(&dir.path().join("ca.key")), 0o600);
    assert_eq!(mode(&dir.path().join("a.key")), 0o600);
    assert!(identity.validity().days_left(now()) >= 364);
    assert!(identity.authority_validity().days_left(now()) > 3650);
    assert!(!format!("{identity:?}").contains("key"));
}

#[test]
fn files_for_one_node_go_to_another_directory() {
    let dir = shop();
    let out = dir.path().join("for-c");
    let fingerprint = pki::issue(dir.path(), &name("c"), &out, now()).expect("a certificate");
    let identity = load(&out, "c").expect("an identity");
    assert_eq!(identity.fingerprint(), fingerprint);
    assert!(
        !out.join("ca.key").exists(),
        "the authority's key must stay at home"
    );
    pki::issue(dir.path(), &name("d"), &out, now()).expect("the same authority is there already");
}

#[test]
fn an_authority_without_a_cluster_serves_any() {
    let dir = tempfile::tempdir().expect("a directory");
    pki::init(dir.path(), None, now()).expect("an authority");
    pki::issue(dir.path(), &name("a"), dir.path(), now()).expect("a certificate");
    assert!(pki::load(dir.path(), "shop", &name("a"), &[]).is_ok());
    assert!(pki::load(dir.path(), "bank", &name("a"), &[]).is_ok());
}

#[test]
fn nothing_is_overwritten() {
    let dir = shop();
    let before = fs::read(dir.path().join("ca.key")).expect("a key");
    assert!(matches!(
        pki::init(dir.path(), Some("shop"), now()),
        Err(PkiError::Exists { .. })
    ));
    assert_eq!(fs::read(dir.path().join("ca.key")).expect("a key"), before);
    fs::remove_file(dir.path().join("a.pem")).expect("removed");
    let again = pki::issue(dir.path(), &name("a"), dir.path(), now());
    assert!(
        matches!(again, Err(PkiError::Exists { .. })),
        "a.key is still there"
    );

    let elsewhere = tempfile::tempdir().expect("a directory");
    symlink("/nowhere/at/all", elsewhere.path().join("ca.key")).expect("a link");
    let through = pki::init(elsewhere.path(), None, now());
    assert!(
        matches!(through, Err(PkiError::Exists { .. })),
        "a dangling link was followed"
    );
}

#[test]
fn a_key_without_its_certificate_is_not_left_behind() {
    let dir = shop();
    let out = dir.path().join("out");
    fs::create_dir(&out).expect("a directory");
    fs::write(out.join("ca.pem"), "no certificate").expect("written");
    assert!(pki::issue(dir.path(), &name("c"), &out, now()).is_err());
    assert!(!out.join("c.key").exists());
}

#[test]
fn names_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = pki::init(dir.path(), Some("a/b"), now());
    assert!(matches!(cluster, Err(PkiError::ClusterName { .. })));
    assert!(!dir.path().join("ca.key").exists());
    pki::init(dir.path(), None, now()).expect("an authority");
    let node = pki::issue(dir.path(), &name("ca"), dir.path(), now());
    assert!(matches!(node, Err(PkiError::ReservedName)));
    assert!(matches!(
        load(dir.path(), "ca"),
        Err(PkiError::ReservedName)
    ));
}

#[test]
fn missing_files_say_where_they_come_from() {
    let dir = shop();
    refusal(load(dir.path(), "c"), "evenkeel pki issue");
    fs::remove_file(dir.path().join("ca.pem")).expect("removed");
    let error = refusal(load(dir.path(), "a"), "ca.pem");
    assert!(matches!(error, PkiError::Missing { .. }));
    let empty = tempfile::tempdir().expect("a directory");
    let issued = pki::issue(empty.path(), &name("a"), empty.path(), now());
    assert!(
        issued
            .expect_err("no authority")
            .to_string()
            .contains("evenkeel pki init")
    );
}

#[test]
fn a_file_that_is_no_file_is_unreadable() {
    let dir = shop();
    fs::remove_file(dir.path().join("a.pem")).expect("removed");
    fs::create_dir(dir.path().join("a.pem")).expect("a directory");
    let error = refusal(load(dir.path(), "a"), "a.pem");
    assert!(matches!(error, PkiError::Unreadable { .. }));
}

#[test]
fn keys_that_others_can_read_are_refused() {
    let dir = shop();
    for key in ["a.key", "ca.key"] {
        for exposed in [0o640, 0o604, 0o620] {
            let path = dir.path().join(key);
            fs::set_permissions(&path, Permissions::from_mode(exposed)).expect("changed");
            let error = match key {
                "a.key" => load(dir.path(), "a").expect_err("exposed"),
                _ => pki::issue(dir.path(), &name("c"), dir.path(), now()).expect_err("exposed"),
            };
            assert!(error.to_string().contains("chmod 600"), "{error}");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("changed");
        }
    }
    assert!(load(dir.path(), "a").is_ok());
}

#[test]
fn broken_files_are_refused() {
    for file in ["ca.pem", "a.pem", "a.key"] {
        let dir = shop();
        fs::write(dir.path().join(file), "-----BEGIN NOTHING-----\n").expect("written");
        let error = refusal(load(dir.path(), "a"), file);
        assert!(matches!(error, PkiError::Malformed { .. }), "{error}");
    }
    let dir = shop();
    fs::write(dir.path().join("a.pem"), vec![b'x'; 100_000]).expect("written");
    refusal(load(dir.path(), "a"), "too many");
    // A node's certificate in the place of the authority's.
    fs::copy(dir.path().join("b.pem"), dir.path().join("ca.pem")).expect("copied");
    refusal(load(dir.path(), "b"), "not an authority's");
}

#[test]
fn the_certificate_of_another_node_is_refused() {
    let dir = shop();
    fs::copy(dir.path().join("b.pem"), dir.path().join("a.pem")).expect("copied");
    let error = refusal(load(dir.path(), "a"), "issued for its own name");
    let PkiError::Certificate { fault, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(
        fault,
        CertificateFault::OtherNode {
            found: name("b"),
            wanted: name("a")
        }
    );
}

#[test]
fn names_are_compared_to_the_letter() {
    let dir = shop();
    pki::issue(dir.path(), &name("A"), dir.path(), now()).expect("a certificate");
    fs::copy(dir.path().join("A.pem"), dir.path().join("a.pem")).expect("copied");
    refusal(load(dir.path(), "a"), "not of a");
}

#[test]
fn the_key_of_another_certificate_is_refused() {
    let dir = shop();
    fs::copy(dir.path().join("b.key"), dir.path().join("a.key")).expect("copied");
    let error = refusal(load(dir.path(), "a"), "does not belong");
    assert!(matches!(error, PkiError::Unpaired { .. }));
}

#[test]
fn a_foreign_authority_is_refused() {
    let (ours, theirs) = (shop(), shop());
    for file in ["a.pem", "a.key"] {
        fs::copy(theirs.path().join(file), ours.path().join(file)).expect("copied");
    }
    let error = refusal(load(ours.path(), "a"), "another authority");
    let PkiError::Certificate { fault, .. } = error else {
        panic!("{error}")
    };
    assert!(matches!(fault, CertificateFault::ForeignAuthority { .. }));
    let into = pki::issue(ours.path(), &name("c"), theirs.path(), now());
    assert!(
        matches!(into, Err(PkiError::Exists { .. })),
        "another authority's directory"
    );
}

#[test]
fn the_authority_of_another_cluster_is_refused() {
    let dir = shop();
    let error = refusal(pki::load(dir.path(), "bank", &name("a"), &[]), "shop");
    assert!(matches!(error, PkiError::OtherCluster { .. }));
}

#[test]
fn a_revoked_certificate_is_refused() {
    let dir = shop();
    let fingerprint = load(dir.path(), "a").expect("an identity").fingerprint();
    let revoked = Fingerprint::parse(&fingerprint.to_string()).expect("a fingerprint");
    let error = refusal(
        pki::load(dir.path(), "shop", &name("a"), &[revoked]),
        "revoked",
    );
    assert!(matches!(error, PkiError::Certificate { .. }));
    assert!(pki::load(dir.path(), "shop", &name("b"), &[revoked]).is_ok());
}

#[test]
fn dates_never_refuse() {
    let dir = tempfile::tempdir().expect("a directory");
    let long_ago = now() - 40 * 365 * DAY;
    pki::init(dir.path(), Some("shop"), long_ago).expect("an authority");
    pki::issue(dir.path(), &name("a"), dir.path(), long_ago).expect("a certificate");
    pki::issue(dir.path(), &name("b"), dir.path(), now() + 10 * DAY).expect("a certificate");
    let old = load(dir.path(), "a").expect("loaded although expired");
    assert!(
        old.validity()
            .alarm(now())
            .is_some_and(|left| left < -10_000)
    );
    assert!(
        old.authority_validity()
            .alarm(now())
            .is_some_and(|left| left < 0)
    );
    assert!(
        load(dir.path(), "b").is_ok(),
        "loaded although not valid yet"
    );
}
