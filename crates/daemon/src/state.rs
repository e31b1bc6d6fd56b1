//! The state directory: one node's durable identity, used by one daemon at a time
//! (DESIGN 3.1 rule 8).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_core::{Incarnation, NodeName};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Name of the lock's file within the directory.
const LOCK: &str = "lock";
/// Name of the identity's file.
const IDENTITY: &str = "identity.json";
/// Name of the log's file.
const LOG: &str = "log.redb";
/// Name of the file that says that this directory's node has voted.
const VOTED: &str = "voted";
/// Name of the file with the last lives of this directory.
const LIVES: &str = "lives";
/// The files that are read of it, but for the log.
pub const FILES: [&str; 3] = [IDENTITY, LIVES, VOTED];
/// Lives that are kept: more than a cluster misses. What it knows of an older one cannot be
/// compared.
const LIVES_MAX: usize = 64;
/// What people read in it, after the oath's number.
const VOTED_TEXT: &str = "This node votes under this oath. Should its log be lost, it votes again once it is readmitted.";
/// The one that is left, and the one that is being taken.
const OATHS_MAX: usize = 2;
/// No log bears it.
pub const OATH_UNKNOWN: u64 = u64::MAX;
/// The longest note that is read, in bytes: 64 lives take less than half of it.
const NOTE_LENGTH_MAX: u64 = 8192;
/// An identity is a few lines; more is not ours.
const IDENTITY_LENGTH_MAX: u64 = 4096;

/// Why a state directory cannot be used. The text follows "refused: ".
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon uses it.
    #[error(
        "the state directory {} is in use by another evenkeel: stop that one first, or give this \
         one a directory of its own with --state",
        .0.display()
    )]
    InUse(PathBuf),
    /// It belongs to another cluster.
    #[error(
        "the state directory {} belongs to another cluster ({found}, not {wanted}): name the right \
         one with --state, or move it away if that cluster is gone",
        path.display()
    )]
    OtherCluster {
        /// Where.
        path: PathBuf,
        /// What it belongs to.
        found: String,
        /// What it should belong to.
        wanted: String,
    },
    /// It belongs to another node.
    #[error(
        "the state directory {} belongs to the node {found}, not {wanted}: state is never copied \
         from node to node; give this node an empty directory with --state",
        path.display()
    )]
    OtherNode {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// The identity cannot be understood.
    #[error(
        "{} is damaged ({why}): restore the file system, or move the whole directory away, start \
         again and let the node back in with `evenkeel readmit` on another one",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No space.
    #[error("cannot {attempt} {}: no space is left there; free some", path.display())]
    Full {
        /// What was tried.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// Read-only.
    #[error("cannot {attempt} {}: it is mounted read-only; remount it writable", path.display())]
    ReadOnly {
        /// What was tried.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot {attempt} {}: {source}", path.display())]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn fault(attempt: &'static str, path: &Path, source: io::Error) -> StateError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StateError::Full { attempt, path }
        }
        io::ErrorKind::ReadOnlyFilesystem => StateError::ReadOnly { attempt, path },
        _ => StateError::Io {
            attempt,
            path,
            source,
        },
    }
}

/// What is kept of a node's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    version: u32,
    cluster: String,
    authority: String,
    node: String,
    counter: u64,
    lease_max_ns: u64,
}

/// What this node is and how often it has been started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Fingerprint of the cluster's authority.
    pub authority: &'a str,
    /// The node.
    pub node: &'a NodeName,
    /// The longest lease that the configuration allows now.
    pub lease: Duration,
}

/// What is known of a state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// How often the node has been started.
    pub counter: u64,
    /// The longest lease ever allowed.
    pub lease_max_ns: u64,
}

/// A state directory, locked for as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: File,
    counter: u64,
    lease_max: Duration,
}

impl StateDir {
    /// Makes the directory if there is none, locks it and checks whose it is. Nothing
    /// in it is changed by a refusal.
    pub fn open(path: &Path, whose: &Whose<'_>) -> Result<Self, StateError> {
        make_private(path)?;
        let lock_path = path.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|source| fault("open the lock", &lock_path, source))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => StateError::InUse(path.to_owned()),
            other => fault("lock", &lock_path, other.into()),
        })?;
        Self::with_lock(path, whose, lock)
    }

    /// Goes on with a directory that this process has locked already, and with what the program
    /// before this one knew of it: nothing is read, since its disk may hang or be broken.
    pub fn go_on(path: &Path, lock: OwnedFd, known: Known) -> Self {
        Self {
            path: path.to_owned(),
            lock: lock.into(),
            counter: known.counter,
            lease_max: Duration::from_nanos(known.lease_max_ns),
        }
    }

    /// What the program after this one has to know.
    pub fn known(&self) -> Known {
        Known {
            counter: self.counter,
            lease_max_ns: u64::try_from(self.lease_max.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    fn with_lock(path: &Path, whose: &Whose<'_>, lock: File) -> Result<Self, StateError> {
        let known = read_identity(path)?;
        if let Some(known) = &known {
            known.belongs_to(path, whose)?;
        }
        let (counter, lease_max) = match &known {
            None => (0, Duration::ZERO),
            Some(known) => (known.counter, Duration::from_nanos(known.lease_max_ns)),
        };
        Ok(Self {
            path: path.to_owned(),
            lock,
            counter,
            lease_max,
        })
    }

    /// Begins a new life under `nonce`: raises the counter, durably, before anybody can hear of
    /// it.
    pub fn begin_life(&mut self, whose: &Whose<'_>, nonce: u64) -> Result<u64, StateError> {
        let counter = self.counter + 1;
        let mut lives = lives(&self.path);
        // A program that does not keep lives ran in between: they would look like lives of
        // another directory.
        if lives.last().is_some_and(|last| last.counter < self.counter) {
            lives.clear();
        }
        lives.push(Incarnation { counter, nonce });
        let kept = lives.split_off(lives.len().saturating_sub(LIVES_MAX));
        let text: String = kept
            .iter()
            .map(|life| format!("{} {:016x}\n", life.counter, life.nonce))
            .collect();
        replace(&self.path, LIVES, text.as_bytes())?;
        // Promises of the last life may have been as long as its longest lease; from
        // now on they may also be as long as the new one.
        let lease_max = self.lease_max.max(whose.lease);
        let identity = Identity {
            version: 1,
            cluster: whose.cluster.to_owned(),
            authority: whose.authority.to_owned(),
            node: whose.node.to_string(),
            counter,
            lease_max_ns: u64::try_from(lease_max.as_nanos()).unwrap_or(u64::MAX),
        };
        write_identity(&self.path, &identity)?;
        self.counter = counter;
        self.lease_max = lease_max;
        Ok(counter)
    }

    /// The lock, to be handed to the worker: it is free when both have ended.
    pub fn lock(&self) -> &File {
        &self.lock
    }
}

/// What somebody finds who only looks at a state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is not there yet: a start makes it.
    Absent,
    /// Nobody uses it.
    Free,
    /// A daemon uses it.
    InUse,
}

/// Looks whether `path` could be used, and changes nothing. Tries its lock for an instant.
pub fn look(path: &Path, whose: &Whose<'_>) -> Result<Looked, StateError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Looked::Absent),
        Err(source) => return Err(fault("look at", path, source)),
        Ok(found) if !found.is_dir() => {
            let source = io::Error::other("something that is no directory is there");
            return Err(fault("use as state directory", path, source));
        }
        Ok(_) => {}
    }
    if let Some(known) = read_identity(path)? {
        known.belongs_to(path, whose)?;
    }
    let lock_path = path.join(LOCK);
    let lock = match File::open(&lock_path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Looked::Free),
        opened => opened.map_err(|source| fault("open the lock", &lock_path, source))?,
    };
    // Shared: a daemon that starts at this instant is the only one that could be refused.
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Looked::Free),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Looked::InUse),
        Err(other) => Err(fault("lock", &lock_path, other.into())),
    }
}

/// Where the log of a state directory is.
pub fn log_path(state: &Path) -> PathBuf {
    state.join(LOG)
}

/// The longest lease ever allowed by a state directory that the parent has locked; none
/// if that cannot be read.
pub fn lease_max(state: &Path) -> Option<Duration> {
    let identity = read_identity(state).ok()??;
    Some(Duration::from_nanos(identity.lease_max_ns))
}

/// The last lives of this directory, oldest first; none if they cannot be read.
pub fn lives(state: &Path) -> Vec<Incarnation> {
    let bytes = read_small(&state.join(LIVES)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let life = |line: &str| {
        let (counter, nonce) = line.split_once(' ')?;
        Some(Incarnation {
            counter: counter.parse().ok()?,
            nonce: u64::from_str_radix(nonce, 16).ok()?,
        })
    };
    text.lines().take(LIVES_MAX).filter_map(life).collect()
}

/// The oath under which the node of this directory votes, as noted beside the log, or the two of
/// which its log bears one; none if it never voted. A note that means nothing says
/// [`OATH_UNKNOWN`].
pub fn oaths(state: &Path) -> Result<Vec<u64>, StateError> {
    let path = state.join(VOTED);
    let bytes = match read_small(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|source| fault("read", &path, source))?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let words = text.split_whitespace().take(OATHS_MAX);
    let oaths: Vec<u64> = words
        .map_while(|word| u64::from_str_radix(word, 16).ok())
        .collect();
    Ok(if oaths.is_empty() {
        vec![OATH_UNKNOWN]
    } else {
        oaths
    })
}

/// Notes under which oath the node of this directory votes from now on, durably: if its log is
/// lost or replaced by an old copy, that is seen from it.
pub fn note_oaths(state: &Path, oaths: &[u64]) -> Result<(), StateError> {
    let numbers = oaths.iter().map(|oath| format!("{oath:016x} "));
    let text = format!("{}: {VOTED_TEXT}\n", numbers.collect::<String>());
    replace(state, VOTED, text.as_bytes())
}

/// The beginning of a file of ours, of which more than [`NOTE_LENGTH_MAX`] means nothing.
fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(NOTE_LENGTH_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn make_private(path: &Path) -> Result<(), StateError> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => {
            let source = io::Error::other("something that is no directory is there");
            return Err(fault("use as state directory", path, source));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(fault("look at", path, source)),
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| fault("make the state directory", path, source))
}

impl Identity {
    fn belongs_to(&self, path: &Path, whose: &Whose<'_>) -> Result<(), StateError> {
        if self.cluster != whose.cluster || self.authority != whose.authority {
            let tell = |cluster: &str, authority: &str| {
                // The file may say anything, also in the middle of a letter.
                let begin = authority.floor_char_boundary(16);
                format!("{cluster} with the authority {}", &authority[..begin])
            };
            return Err(StateError::OtherCluster {
                path: path.to_owned(),
                found: tell(&self.cluster, &self.authority),
                wanted: tell(whose.cluster, whose.authority),
            });
        }
        if self.node != whose.node.as_str() {
            return Err(StateError::OtherNode {
                path: path.to_owned(),
                found: self.node.clone(),
                wanted: whose.node.to_string(),
            });
        }
        Ok(())
    }
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, StateError> {
    let path = dir.join(IDENTITY);
    let damaged = |why: String| StateError::Damaged {
        path: path.clone(),
        why,
    };
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(fault("look at", &path, source)),
        Ok(found) if found.len() > IDENTITY_LENGTH_MAX => {
            return Err(damaged("it is too long".to_owned()));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(&path).map_err(|source| fault("read", &path, source))?;
    let identity: Identity =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if identity.version != 1 {
        return Err(damaged(format!(
            "its version {} is not known here",
            identity.version
        )));
    }
    if identity.counter == u64::MAX {
        return Err(damaged(
            "no start can follow the last that it names".to_owned(),
        ));
    }
    Ok(Some(identity))
}

fn write_identity(dir: &Path, identity: &Identity) -> Result<(), StateError> {
    let mut bytes = serde_json::to_vec_pretty(identity)
        .map_err(|error| fault("write", &dir.join(IDENTITY), io::Error::other(error)))?;
    bytes.push(b'\n');
    replace(dir, IDENTITY, &bytes)
}

/// Writes beside, syncs, renames, syncs the directory: after a power cut there is the
/// old file or the new one, never half of either.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StateError> {
    let path = dir.join(name);
    let beside = dir.join(format!("{name}.new"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| fault("write", &path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose<'a>(cluster: &'a str, node: &'a NodeName, lease_ms: u64) -> Whose<'a> {
        Whose {
            cluster,
            authority: "aa",
            node,
            lease: Duration::from_millis(lease_ms),
        }
    }

    #[test]
    fn each_life_has_a_higher_number_and_the_longest_lease_is_remembered() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let node = NodeName::new("ams1").expect("a name");
        for (life, lease, longest) in [(1, 120, 120), (2, 1500, 1500), (3, 40, 1500)] {
            let whose = whose("shop", &node, lease);
            let mut state = StateDir::open(&path, &whose).expect("opened");
            assert_eq!(state.begin_life(&whose, life + 6).expect("begun"), life);
            let known: Vec<(u64, u64)> = lives(&path)
                .iter()
                .map(|one| (one.counter, one.nonce))
                .collect();
            assert_eq!(
                known,
                (1..=life).map(|life| (life, life + 6)).collect::<Vec<_>>()
            );
            assert_eq!(lease_max(&path), Some(Duration::from_millis(longest)));
        }
    }

    #[test]
    fn lives_from_before_a_gap_are_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = NodeName::new("ams1").expect("a name");
        let whose = whose("shop", &node, 120);
        let begin = |nonce| {
            let mut state = StateDir::open(dir.path(), &whose).expect("opened");
            state.begin_life(&whose, nonce).expect("begun")
        };
        begin(1);
        let known = fs::read(dir.path().join(LIVES)).expect("there");
        begin(2);
        // As if the second life had been of a program that keeps none.
        fs::write(dir.path().join(LIVES), known).expect("written");
        begin(3);
        let lives = lives(dir.path());
        assert_eq!(
            lives.iter().map(|life| life.counter).collect::<Vec<_>>(),
            [3]
        );
    }

    #[test]
    fn oaths_are_noted() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(oaths(dir.path()).expect("read").is_empty());
        for numbers in [&[1][..], &[1, 0xdead_beef_dead_beef], &[7]] {
            note_oaths(dir.path(), numbers).expect("noted");
            assert_eq!(oaths(dir.path()).expect("read"), numbers);
        }
        // What means nothing says that it has voted; what cannot be read is an error.
        for text in [&b""[..], b"\xff\xfe", b": text"] {
            fs::write(dir.path().join(VOTED), text).expect("written");
            assert_eq!(oaths(dir.path()).expect("read"), [OATH_UNKNOWN]);
        }
        oaths(&dir.path().join(VOTED)).expect_err("no directory");
    }

    #[test]
    fn it_is_used_by_one_daemon_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = NodeName::new("ams1").expect("a name");
        let whose = whose("shop", &node, 120);
        let first = StateDir::open(dir.path(), &whose).expect("opened");
        let error = StateDir::open(dir.path(), &whose).expect_err("in use");
        assert!(matches!(error, StateError::InUse(_)), "{error}");
        drop(first);
        StateDir::open(dir.path(), &whose).expect("free again");
    }

    #[test]
    fn looking_changes_nothing_and_sees_who_uses_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let node = NodeName::new("ams1").expect("a name");
        let whose = whose("shop", &node, 120);
        assert_eq!(look(&path, &whose).expect("looked"), Looked::Absent);
        assert!(!path.exists());
        let mut state = StateDir::open(&path, &whose).expect("opened");
        state.begin_life(&whose, 1).expect("begun");
        assert_eq!(look(&path, &whose).expect("looked"), Looked::InUse);
        drop(state);
        assert_eq!(look(&path, &whose).expect("looked"), Looked::Free);
        let other = NodeName::new("fra1").expect("a name");
        let other = Whose {
            node: &other,
            ..whose
        };
        let error = look(&path, &other).expect_err("not its own");
        assert!(matches!(error, StateError::OtherNode { .. }), "{error}");
        let file = path.join(IDENTITY);
        let error = look(&file, &whose).expect_err("no directory");
        assert!(error.to_string().contains("no directory"), "{error}");
    }

    #[test]
    fn another_cluster_node_or_a_damaged_file_is_refused_and_nothing_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (ams1, fra1) = (
            NodeName::new("ams1").expect("a name"),
            NodeName::new("fra1").expect("a name"),
        );
        let own = whose("shop", &ams1, 120);
        StateDir::open(dir.path(), &own)
            .expect("opened")
            .begin_life(&own, 1)
            .expect("begun");
        let before = fs::read(dir.path().join(IDENTITY)).expect("there");
        let error = StateDir::open(dir.path(), &whose("other", &ams1, 120)).expect_err("refused");
        assert!(matches!(error, StateError::OtherCluster { .. }), "{error}");
        let error = StateDir::open(dir.path(), &whose("shop", &fra1, 120)).expect_err("refused");
        assert!(matches!(error, StateError::OtherNode { .. }), "{error}");
        assert_eq!(fs::read(dir.path().join(IDENTITY)).expect("there"), before);
        fs::write(dir.path().join(IDENTITY), b"{").expect("written");
        let error = StateDir::open(dir.path(), &own).expect_err("refused");
        assert!(matches!(error, StateError::Damaged { .. }), "{error}");
    }

    fn identity(authority: &str, counter: u64) -> Identity {
        Identity {
            version: 1,
            cluster: "shop".to_owned(),
            authority: authority.to_owned(),
            node: "ams1".to_owned(),
            counter,
            lease_max_ns: 1,
        }
    }

    /// It is shown cut off, perhaps where a letter has not ended.
    #[test]
    fn an_authority_of_any_letters_is_refused_with_words() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = NodeName::new("ams1").expect("a name");
        for authority in ["ä".repeat(8), "a".repeat(15) + "ä", String::new()] {
            write_identity(dir.path(), &identity(&authority, 1)).expect("written");
            let error = StateDir::open(dir.path(), &whose("shop", &node, 120));
            let error = error.expect_err("another authority");
            assert!(matches!(error, StateError::OtherCluster { .. }), "{error}");
        }
    }

    /// The next one would be start 0, which everybody has seen.
    #[test]
    fn a_counter_at_its_end_is_refused_and_not_begun_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = NodeName::new("ams1").expect("a name");
        let own = whose("shop", &node, 120);
        write_identity(dir.path(), &identity("aa", u64::MAX)).expect("written");
        let error = StateDir::open(dir.path(), &own).expect_err("refused");
        assert!(matches!(error, StateError::Damaged { .. }), "{error}");
        write_identity(dir.path(), &identity("aa", u64::MAX - 1)).expect("written");
        let mut state = StateDir::open(dir.path(), &own).expect("opened");
        assert_eq!(state.begin_life(&own, 1).expect("begun"), u64::MAX);
    }
}
