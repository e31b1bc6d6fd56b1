//! Full and frozen disks of the log.
//!
//! A small disk is a file system of its own at the place of the state directory. Full:
//! it is filled up. Frozen: `fsfreeze` on an ext4 image, on which every write then
//! waits in the kernel until it is thawed; that takes a loop device, so root only.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};

use crate::bridge::run;

/// Where a frozen disk is noted, in the lab's directory: its path.
const NOTE: &str = "frozen";

/// Size of a small disk: enough for the daemon's log with its reserve.
const SMALL_DISK: u64 = 96 << 20;

/// What fills a disk.
const FILLER: &str = "filler";

/// Puts a small disk at `place` that can be filled up.
pub(crate) fn mount_small(place: &Path) -> Result<()> {
    fs::create_dir_all(place).context("making a place for a disk")?;
    let size = format!("size={SMALL_DISK},mode=0700");
    let options = std::ffi::CString::new(size).context("an option of mount")?;
    mount(
        "tmpfs",
        place,
        "tmpfs",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .context("mounting a small disk")
}

/// Puts an ext4 image at `place` that can be frozen, kept in file `image`.
pub(crate) fn mount_image(image: &Path, place: &Path) -> Result<()> {
    fs::create_dir_all(place).context("making a place for a disk")?;
    File::create(image)
        .and_then(|file| file.set_len(SMALL_DISK))
        .context("making an image")?;
    let (image, place) = (image.display().to_string(), place.display().to_string());
    run("mkfs.ext4", &["-q", "-F", &image], "")?;
    run("mount", &["-o", "loop", &image, &place], "").map(drop)
}

/// Fills the disk at `place` to the last byte.
pub(crate) fn fill(place: &Path) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(place.join(FILLER))
        .context("filling a disk")?;
    let mut step = vec![0x5a; 1 << 16];
    while !step.is_empty() {
        match file.write(&step) {
            Ok(_) => {}
            Err(fault) if fault.kind() == std::io::ErrorKind::StorageFull => {
                step.truncate(step.len() / 2);
            }
            Err(fault) => return Err(fault).context("filling a disk"),
        }
    }
    Ok(())
}

/// Makes room again on the disk at `place`.
pub(crate) fn empty(place: &Path) -> Result<()> {
    fs::remove_file(place.join(FILLER)).context("making room on a disk")
}

/// Puts the files of directory `copy` in the place of those on the disk at `place`, which may be
/// mounted there. What fills the disk stays.
pub(crate) fn replace(place: &Path, copy: &Path) -> Result<()> {
    for entry in fs::read_dir(place).context("looking at a disk")? {
        let entry = entry.context("looking at a disk")?;
        let path = entry.path();
        let gone = match entry.file_type().context("looking at a disk")?.is_dir() {
            // Made with the file system; nobody's.
            true if entry.file_name() == "lost+found" => Ok(()),
            true => fs::remove_dir_all(&path),
            false if entry.file_name() == FILLER => Ok(()),
            false => fs::remove_file(&path),
        };
        gone.with_context(|| format!("removing {}", path.display()))?;
    }
    let (from, to) = (format!("{}/.", copy.display()), place.display().to_string());
    run("cp", &["-a", &from, &to], "")
        .context("putting a copy on a disk")
        .map(drop)
}

/// A frozen disk; thawed when this is dropped.
#[derive(Debug)]
pub(crate) struct Frozen {
    note: PathBuf,
    place: PathBuf,
}

impl Frozen {
    /// Freezes the disk at `place`.
    pub(crate) fn freeze(directory: &Path, place: &Path) -> Result<Self> {
        let note = directory.join(NOTE);
        fs::write(&note, place.as_os_str().as_encoded_bytes()).context("noting a frozen disk")?;
        let frozen = Self {
            note,
            place: place.to_owned(),
        };
        run("fsfreeze", &["-f", &place.display().to_string()], "")?;
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.place).status();
        let _ = fs::remove_file(&self.note);
    }
}

/// Thaws a disk that a lab has left frozen: the janitor's duty, for processes that wait
/// for such a disk cannot even be killed. The mount is seen only from inside the lab,
/// so the way leads through the root directory of each process that is left of it.
pub(crate) fn thaw_left_frozen(directory: &Path) {
    let Ok(place) = fs::read_to_string(directory.join(NOTE)) else {
        return;
    };
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.flatten() {
        let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        if mounts.split_whitespace().any(|word| word == place) {
            let inside = format!("{}/root{place}", entry.path().display());
            let _ = Command::new("fsfreeze").args(["-u", &inside]).status();
        }
    }
}
