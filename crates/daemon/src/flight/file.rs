//! The files of the flight recorder.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use evenkeel_wire::flight;
use serde_json::{Value, json};

use super::Place;
use super::memory::Record;

/// Files that are kept.
const FILES_MAX: usize = 16;
/// What they may take together, in bytes: some dozen times what is in memory, written out.
const FILES_BYTES_MAX: u64 = 128 << 20;
/// Room that is left to others on the file system, in bytes: the next start needs some, and the log.
/// Twice what these files may take.
const ROOM_MIN: u64 = 256 << 20;
/// The directory within the state directory.
pub(super) const DIRECTORY: &str = "flight";
/// The end of each file's name.
const ENDING: &str = ".jsonl";
/// The same while it is written.
const HALF: &str = ".half";

/// What is to be written of an incident.
pub(super) struct Incident {
    pub(super) place: Place,
    pub(super) record: Record,
    /// Its first sign.
    pub(super) because: String,
    /// More happened than was kept.
    pub(super) is_cut: bool,
    /// Calendar and boot clock in milliseconds.
    pub(super) wall_ms: u64,
    pub(super) boot_ms: u64,
}

impl Incident {
    /// Writes it, and says so or why not.
    pub(super) fn write(self) {
        let directory = self.place.state.join(DIRECTORY);
        match self.write_into(&directory) {
            Ok(path) => {
                let file = path.display();
                tracing::info!(%file, "the flight recorder's file of this; see evenkeel replay");
                tidy(&directory, &path);
            }
            Err(error) => {
                let directory = directory.display();
                tracing::warn!(
                    "failed to write the flight recorder's file in {directory}: {error}"
                );
            }
        }
    }

    fn write_into(&self, directory: &Path) -> io::Result<PathBuf> {
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        has_room(directory)?;
        let name = self.name();
        let (path, half) = (
            directory.join(format!("{name}{ENDING}")),
            directory.join(format!("{name}{HALF}")),
        );
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&half);
        let written = opened.and_then(|file| self.lines(BufWriter::new(file)));
        // What could not be written is in nobody's way.
        let named = written.and_then(|()| fs::rename(&half, &path));
        if named.is_err() {
            let _ = fs::remove_file(&half);
        }
        named.map(|()| path)
    }

    /// In the order of lives and of the clock since boot, because the calendar may be put back; with
    /// the calendar for people.
    fn name(&self) -> String {
        let at = i64::try_from(self.wall_ms).map(jiff::Timestamp::from_millisecond);
        let at = at.ok().and_then(Result::ok).unwrap_or_default();
        format!(
            "{:08}-{:012}-{}",
            self.place.life,
            self.boot_ms,
            at.strftime("%Y%m%dT%H%M%SZ")
        )
    }

    fn lines(&self, mut to: impl Write) -> io::Result<()> {
        let Place { node, file, .. } = &self.place;
        let first = json!({
            "node": node, "what": "recorder", "form": flight::FORM,
            "version": env!("CARGO_PKG_VERSION"), "because": self.because,
        });
        writeln!(to, "{first}")?;
        for line in self.record.lines(node, file, self.wall_ms) {
            writeln!(to, "{line}")?;
        }
        if self.is_cut {
            let last: Value = json!({"node": node, "what": "cut"});
            writeln!(to, "{last}")?;
        }
        to.flush()
    }
}

fn has_room(directory: &Path) -> io::Result<()> {
    let room = rustix::fs::statvfs(directory)?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < ROOM_MIN {
        let why = format!("{free} bytes are free, and {ROOM_MIN} are left to others");
        return Err(io::Error::other(why));
    }
    Ok(())
}

/// Removes the oldest files beyond what is kept, never `newest`, and what somebody who was killed left
/// half written. Their names are in the order of time.
fn tidy(directory: &Path, newest: &Path) {
    let listed = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut all = Vec::new();
    for one in listed {
        let (path, name) = (one.path(), one.file_name());
        let name = name.to_string_lossy();
        if name.ends_with(HALF) {
            // It is tried again with the next file, as those below.
            let _ = fs::remove_file(path);
        } else if name.ends_with(ENDING) && path != newest {
            all.push((path, one.metadata().map_or(0, |meta| meta.len())));
        }
    }
    all.sort();
    let mut bytes = fs::metadata(newest).map_or(0, |meta| meta.len());
    for (before, (path, length)) in all.iter().rev().enumerate() {
        bytes += length;
        if before + 1 >= FILES_MAX || bytes > FILES_BYTES_MAX {
            let _ = fs::remove_file(path);
        }
    }
}
