//! What is stored, so that the next life of the daemon neither starts a thing twice nor
//! forgets to stop it. The directory is below /run, so a note never outlives its boot.
//!
//! Which process a command became: one line, `1 PID START`. START is the moment of the start
//! in clock ticks since boot, which tells the process from a later one with its number.
//!
//! What was started because its group is held here, and how it is stopped ([`Held`]): the
//! line `1 KIND MS`, MS being its time to stop in milliseconds, and below it the unit, or one
//! line for the shell, or the path of a program and a line for each of its arguments. Line
//! breaks and backslashes within are written `\n` and `\\`.
//!
//! A program that has to end, while it runs ([`running`]): the same line as for a command.
//!
//! That a command was started of which nothing tells whether it runs, until it is stopped:
//! `1`.
//!
//! In which epoch a group was to open: one line, `1 TERM INDEX`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_config::Command;
use evenkeel_core::Epoch;
use evenkeel_host::process::Identity;

/// Two numbers.
const LENGTH_MAX: u64 = 64;

/// A command and its arguments: what the configuration allows is shorter.
const HELD_MAX: u64 = 256 * 1024;

const VERSION: &str = "1";

/// Something that was started because its group is held here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// A unit of systemd.
    Unit {
        /// Its name.
        unit: String,
        /// Time to stop.
        stop_timeout: Duration,
    },
    /// A process, which has a note of its own.
    Process {
        /// Time to stop.
        stop_timeout: Duration,
    },
    /// What a command started and another stops.
    Scripts {
        /// The other.
        stop: Command,
        /// Time to stop.
        stop_timeout: Duration,
    },
}

impl Held {
    /// Its time to stop.
    pub(crate) fn stop_timeout(&self) -> Duration {
        match self {
            Self::Unit { stop_timeout, .. }
            | Self::Process { stop_timeout }
            | Self::Scripts { stop_timeout, .. } => *stop_timeout,
        }
    }

    pub(crate) fn write(&self) -> String {
        let (kind, lines): (_, Vec<&str>) = match self {
            Self::Unit { unit, .. } => ("unit", vec![unit]),
            Self::Process { .. } => ("process", Vec::new()),
            Self::Scripts { stop, .. } => match stop {
                Command::Shell(line) => ("shell", vec![line]),
                Command::Program { path, arguments } => {
                    let arguments = arguments.iter().map(String::as_str);
                    (
                        "program",
                        std::iter::once(path.as_str()).chain(arguments).collect(),
                    )
                }
            },
        };
        let mut text = format!("{VERSION} {kind} {}\n", self.stop_timeout().as_millis());
        for line in lines {
            text.push_str(&line.replace('\\', "\\\\").replace('\n', "\\n"));
            text.push('\n');
        }
        text
    }

    pub(crate) fn read(text: &str) -> Option<Self> {
        // Not `lines`, which takes a carriage return for a part of the end of a line.
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        let mut head = lines.next()?.split(' ');
        if head.next() != Some(VERSION) {
            return None;
        }
        let kind = head.next()?;
        let stop_timeout = Duration::from_millis(head.next()?.parse().ok()?);
        let mut lines = lines.map(unescaped);
        Some(match kind {
            "unit" => Self::Unit {
                unit: lines.next()?,
                stop_timeout,
            },
            "process" => Self::Process { stop_timeout },
            "shell" => Self::Scripts {
                stop: Command::Shell(lines.next()?),
                stop_timeout,
            },
            "program" => Self::Scripts {
                stop: Command::Program {
                    path: lines.next()?,
                    arguments: lines.collect(),
                },
                stop_timeout,
            },
            _ => return None,
        })
    }
}

fn unescaped(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        });
    }
    text
}

/// Notes what is started because its group is held here.
pub(crate) fn note_held(path: &Path, held: &Held) -> io::Result<()> {
    let new = beside(path, NEW_HELD);
    fs::write(&new, held.write())?;
    fs::rename(new, path)
}

/// What is noted so, if the note makes sense.
pub(crate) fn noted_held(path: &Path) -> Option<Held> {
    if fs::metadata(path).ok()?.len() > HELD_MAX {
        return None;
    }
    Held::read(&fs::read_to_string(path).ok()?)
}

/// Notes two numbers. The old note or the new one is there at any moment.
fn note_two(path: &Path, first: u64, second: u64) -> io::Result<()> {
    let new = beside(path, NEW);
    fs::write(&new, format!("{VERSION} {first} {second}\n"))?;
    fs::rename(new, path)
}

fn noted_two(path: &Path) -> Option<(u64, u64)> {
    if fs::metadata(path).ok()?.len() > LENGTH_MAX {
        return None;
    }
    two(&fs::read_to_string(path).ok()?)
}

/// The two numbers of a note.
pub(crate) fn two(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.split_ascii_whitespace();
    if parts.next() != Some(VERSION) {
        return None;
    }
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What the name of the note of a running program ends in. No name of the file has a `+`.
pub(crate) const RUNNING: &str = "+running";

/// Where a program is noted that runs for what has its notes at `path`, and has to end.
pub(crate) fn running(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(RUNNING);
    path.into()
}

/// What the name of the note ends in that a thing was started.
const STARTED: &str = "+started";

/// Where it is noted that what has its notes at `path` was started.
fn started(path: &Path) -> PathBuf {
    beside(path, STARTED)
}

/// What the names of notes end in that are being written. (No name has a `+`: another service's
/// note is never written over.)
const NEW: &str = "+new";
const NEW_HELD: &str = "+new-held";

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// Notes that what has its notes at `path` was started.
pub(crate) fn note_started(path: &Path) -> io::Result<()> {
    fs::write(started(path), VERSION)
}

/// Whether it is noted so.
pub(crate) fn is_noted_started(path: &Path) -> bool {
    fs::read(started(path)).is_ok_and(|text| text.starts_with(VERSION.as_bytes()))
}

/// It has been stopped.
pub(crate) fn forget_started(path: &Path) {
    forget(&started(path));
}

/// Notes in which epoch a group was to open.
pub(crate) fn note_opened(path: &Path, epoch: Epoch) -> io::Result<()> {
    note_two(path, epoch.term, epoch.index)
}

/// The epoch that is noted so, if the note makes sense.
pub(crate) fn noted_opened(path: &Path) -> Option<Epoch> {
    let (term, index) = noted_two(path)?;
    Some(Epoch { term, index })
}

/// Notes a process.
pub(crate) fn note(path: &Path, identity: Identity) -> io::Result<()> {
    note_two(path, u64::from(identity.pid), identity.start)
}

/// The noted process, if there is a note that makes sense. It may have ended.
pub(crate) fn noted(path: &Path) -> Option<Identity> {
    let (pid, start) = noted_two(path)?;
    let pid = u32::try_from(pid).ok()?;
    Some(Identity { start, pid })
}

/// Nothing of it runs any more.
pub(crate) fn forget(path: &Path) {
    // One that stays says nothing wrong: its process has ended.
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_read_back_and_rubbish_is_none() {
        let stop_timeout = Duration::from_millis(1_500);
        let stop = |stop| Held::Scripts { stop, stop_timeout };
        let all = [
            Held::Unit {
                unit: "apache2.service".into(),
                stop_timeout,
            },
            Held::Process { stop_timeout },
            stop(Command::Shell("a \\n | b\nc\\".into())),
            stop(Command::Program {
                path: "/usr/bin/x y".into(),
                arguments: vec![String::new(), "\n".into(), "-v".into()],
            }),
            // A carriage return belongs to the line, not to its end.
            stop(Command::Shell("echo \r".into())),
            stop(Command::Program {
                path: "/usr/bin/x\r".into(),
                arguments: vec!["\r".into(), "\r\n\r".into(), "\\r".into()],
            }),
        ];
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("www.app.held");
        for held in all {
            note_held(&path, &held).expect("written");
            assert_eq!(noted_held(&path), Some(held));
        }
        for rubbish in ["", "1", "2 unit 9\nx", "1 unit x\ny", "1 unit 9", "1 odd 9"] {
            fs::write(&path, rubbish).expect("written");
            assert_eq!(noted_held(&path), None, "{rubbish}");
        }
    }

    #[test]
    fn a_start_is_read_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("www.app");
        assert!(!is_noted_started(&path));
        note_started(&path).expect("written");
        assert!(is_noted_started(&path));
        assert_eq!(noted(&path), None, "it names no process");
        forget_started(&path);
        assert!(!is_noted_started(&path));
        fs::write(started(&path), "").expect("written");
        assert!(!is_noted_started(&path), "rubbish");
    }

    #[test]
    fn writing_a_note_leaves_those_of_services_with_whatever_name_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let of = |name: &str| directory.path().join(name);
        note_opened(&of("www.new"), Epoch { term: 1, index: 7 }).expect("written");
        note_opened(&of("www.apache"), Epoch { term: 1, index: 9 }).expect("written");
        assert_eq!(
            noted_opened(&of("www.new")),
            Some(Epoch { term: 1, index: 7 })
        );
    }

    #[test]
    fn an_opening_is_read_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("www+opened");
        assert_eq!(noted_opened(&path), None);
        let epoch = Epoch { term: 3, index: 9 };
        note_opened(&path, epoch).expect("written");
        assert_eq!(noted_opened(&path), Some(epoch));
    }

    #[test]
    fn a_note_is_read_back_and_rubbish_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("www.apache");
        assert_eq!(noted(&path), None);
        let identity = Identity { start: 99, pid: 7 };
        note(&path, identity).expect("written");
        assert_eq!(noted(&path), Some(identity));
        for rubbish in ["", "2 7 99", "1 7", "1 x 99", &"1 7 9".repeat(100)] {
            fs::write(&path, rubbish).expect("written");
            assert_eq!(noted(&path), None, "{rubbish}");
        }
        forget(&path);
        forget(&path);
    }
}
