//! The log file by itself: what it keeps, and how it refuses.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use evenkeel_core::names::{Epoch, GroupId};
use redb::TableDefinition;
use tempfile::TempDir;

use super::harness::{A, B};
use crate::{Disk, DiskError, Floor, Image, Limits, LogFile, Write};

fn place() -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("log.redb");
    (dir, path)
}

fn open(path: &Path) -> Result<(LogFile, Image), DiskError> {
    let mut disk = LogFile::new(path, A, Limits::default());
    disk.load().map(|image| (disk, image))
}

fn entry(index: u64) -> Write {
    Write::Entry {
        index,
        entry: vec![index.to_le_bytes()[0]; 700],
    }
}

fn floor(term: u64, index: u64) -> Floor {
    Floor {
        group: GroupId(5),
        epoch: Epoch { term, index },
        assignment: vec![1, 2, 3],
    }
}

/// A file with something of everything, as the engine leaves it.
fn filled(path: &Path) -> Image {
    let (mut disk, _) = open(path).expect("a new log");
    let writes: Vec<Write> = (0..60).map(entry).collect();
    disk.write(&writes).expect("written");
    disk.write(&[
        Write::Oath(5),
        Write::Vote(vec![1, 1]),
        Write::Committed(vec![1, 2]),
        Write::Floor(floor(2, 9)),
        Write::Snapshot(vec![7; 5000]),
        Write::PurgeTo {
            index: 9,
            mark: vec![1, 3],
        },
        Write::TruncateFrom(50),
    ])
    .expect("written");
    drop(disk);
    open(path).expect("a log").1
}

#[test]
fn what_was_written_is_read_back() {
    let (_dir, path) = place();
    let image = filled(&path);
    let indexes: Vec<u64> = image.entries.iter().map(|(index, _)| *index).collect();
    assert_eq!(indexes, (10..50).collect::<Vec<u64>>());
    assert_eq!(
        (image.vote, image.committed),
        (Some(vec![1, 1]), Some(vec![1, 2]))
    );
    assert_eq!(
        (image.purged, image.snapshot),
        (Some(vec![1, 3]), Some(vec![7; 5000]))
    );
    assert_eq!(image.floors, [floor(2, 9)]);
}

#[test]
fn a_floor_only_rises() {
    let (_dir, path) = place();
    let (mut disk, _) = open(&path).expect("a new log");
    for lower in [floor(2, 9), floor(2, 8), floor(1, 100)] {
        disk.write(&[Write::Floor(lower)]).expect("written");
    }
    drop(disk);
    assert_eq!(open(&path).expect("a log").1.floors, [floor(2, 9)]);
}

#[test]
fn a_generation_is_kept_and_forgetting_keeps_the_floors() {
    let (dir, path) = place();
    let before = filled(&path);
    assert_eq!((before.generation, before.oath), (0, Some(5)));
    let (mut disk, _) = open(&path).expect("a log");
    let aside = disk.keep_copy().expect("copied");
    disk.write(&[Write::Forget, Write::Generation(7), Write::Vote(vec![1, 9])])
        .expect("written");
    drop(disk);
    let image = open(&path).expect("a log").1;
    let wanted = Image {
        generation: 7,
        vote: Some(vec![1, 9]),
        floors: before.floors.clone(),
        ..Image::default()
    };
    assert_eq!(image, wanted);
    // What was forgotten is beside it.
    assert_eq!(aside, dir.path().join("log.redb.generation-0"));
    assert_eq!(open(&aside).expect("the old log").1, before);
}

/// The file as it is on disk the moment a write returns is what a power cut leaves.
#[test]
fn a_power_cut_after_a_write_loses_nothing() {
    let (dir, path) = place();
    let (mut disk, _) = open(&path).expect("a new log");
    for index in 0..20 {
        disk.write(&[entry(index), Write::Floor(floor(1, index))])
            .expect("written");
        let copy = dir.path().join("copy.redb");
        std::fs::copy(&path, &copy).expect("copied");
        let (_, image) = open(&copy).expect("the copy");
        assert_eq!(
            image.entries.len(),
            usize::try_from(index).expect("small") + 1
        );
        assert_eq!(image.floors, [floor(1, index)]);
        std::fs::remove_file(&copy).expect("removed");
    }
}

#[test]
fn space_is_taken_before_it_is_needed_and_never_given_back() {
    let (_dir, path) = place();
    let (mut disk, _) = open(&path).expect("a new log");
    let taken = || std::fs::metadata(&path).expect("a file").blocks() * 512;
    let reserve = Limits::default().log_reserved_bytes;
    assert!(taken() >= reserve, "{} of {reserve} bytes", taken());
    // Grow, then shrink.
    for round in 0..40 {
        let writes: Vec<Write> = (0..20)
            .map(|at| Write::Entry {
                index: round * 20 + at,
                entry: vec![0; 10_000],
            })
            .collect();
        disk.write(&writes).expect("written");
    }
    disk.write(&[Write::TruncateFrom(0)]).expect("written");
    for _ in 0..5 {
        disk.write(&[Write::Probe]).expect("written");
    }
    assert!(taken() >= reserve, "{} of {reserve} bytes", taken());
    drop(disk);
    let (_disk, _) = open(&path).expect("a log");
    assert!(taken() >= reserve, "{} of {reserve} bytes", taken());
}

fn text(error: &DiskError) -> String {
    error.to_string()
}

#[test]
fn a_file_that_is_no_log_is_refused_with_a_remedy() {
    let (_dir, path) = place();
    std::fs::write(&path, b"this is no log at all, it is a letter to my aunt").expect("written");
    let refused = open(&path).expect_err("refused");
    assert!(matches!(refused, DiskError::Corrupt { .. }), "{refused:?}");
    assert!(
        text(&refused).contains(&path.display().to_string()),
        "{refused}"
    );
    assert!(text(&refused).contains("evenkeel readmit"), "{refused}");
    let letter = std::fs::read(&path).expect("a file");
    assert!(letter.starts_with(b"this is no log"), "it was changed");
}

/// One flipped bit anywhere is found, or lies where nothing is stored; it is never believed.
#[test]
fn a_flipped_bit_is_never_believed() {
    let (dir, path) = place();
    let image = filled(&path);
    let bytes = std::fs::read(&path).expect("a file");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("content");
    let copy = dir.path().join("copy.redb");
    let mut found = 0;
    for at in (0..used).step_by(used / 150) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&copy, &damaged).expect("written");
        match open(&copy) {
            Ok((_, read)) => assert_eq!(read, image, "byte {at}"),
            Err(error) => {
                assert!(
                    matches!(error, DiskError::Corrupt { .. } | DiskError::Newer { .. }),
                    "byte {at}: {error:?}"
                );
                found += 1;
            }
        }
    }
    assert!(found > 10, "only {found} of the flips were found");
}

#[test]
fn a_shortened_file_is_refused() {
    let (_dir, path) = place();
    filled(&path);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("a file");
    file.set_len(8192).expect("shortened");
    let refused = open(&path).expect_err("refused");
    assert!(matches!(refused, DiskError::Corrupt { .. }), "{refused:?}");
}

#[test]
fn a_log_in_use_is_refused() {
    let (_dir, path) = place();
    let _first = open(&path).expect("a new log");
    let refused = open(&path).expect_err("refused");
    assert!(matches!(refused, DiskError::Locked { .. }), "{refused:?}");
}

#[test]
fn the_log_of_another_node_is_refused() {
    let (_dir, path) = place();
    drop(open(&path).expect("a new log"));
    let refused = LogFile::new(&path, B, Limits::default())
        .load()
        .expect_err("refused");
    assert!(matches!(refused, DiskError::Foreign { .. }), "{refused:?}");
}

#[test]
fn the_log_of_a_newer_version_is_refused() {
    const MARKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("marks");
    let (_dir, path) = place();
    drop(open(&path).expect("a new log"));
    let database = redb::Database::open(&path).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    transaction
        .open_table(MARKS)
        .expect("a table")
        .insert("format", &[9_u8][..])
        .expect("set");
    transaction.commit().expect("committed");
    drop(database);
    let refused = open(&path).expect_err("refused");
    assert!(
        matches!(
            refused,
            DiskError::Newer {
                found: 9,
                known: 1,
                ..
            }
        ),
        "{refused:?}"
    );
}

#[test]
fn a_disk_without_room_for_the_reservation_is_refused() {
    let (dir, path) = place();
    let room = rustix::fs::statvfs(dir.path()).expect("a file system");
    let limits = Limits {
        log_reserved_bytes: room.f_bavail.saturating_mul(room.f_frsize) * 2 + (1 << 30),
        ..Limits::default()
    };
    let refused = LogFile::new(&path, A, limits).load().expect_err("refused");
    assert!(matches!(refused, DiskError::Full { .. }), "{refused:?}");
    assert!(text(&refused).contains("free some space"), "{refused}");
}

#[test]
fn the_log_never_grows_past_its_bound() {
    let (_dir, path) = place();
    let limits = Limits {
        log_bytes_max: 4 << 20,
        log_reserved_bytes: 1 << 20,
        ..Limits::default()
    };
    let mut disk = LogFile::new(&path, A, limits);
    disk.load().expect("a new log");
    let refused = (0..200)
        .find_map(|index| {
            disk.write(&[Write::Entry {
                index,
                entry: vec![0; 60_000],
            }])
            .err()
        })
        .expect("refused at some point");
    assert!(
        matches!(
            refused,
            DiskError::TooBig {
                bound: 4_194_304,
                ..
            }
        ),
        "{refused:?}"
    );
    assert!(std::fs::metadata(&path).expect("a file").len() <= 4 << 20);
}

#[test]
fn a_missing_directory_is_named() {
    let (dir, _) = place();
    let refused = open(&dir.path().join("nowhere/log")).expect_err("refused");
    assert!(matches!(refused, DiskError::Open { .. }), "{refused:?}");
    assert!(text(&refused).contains("nowhere/log"), "{refused}");
}
