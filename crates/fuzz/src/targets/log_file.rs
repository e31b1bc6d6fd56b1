//! The log's file, as a disk or a hand may have left it: what is read of it was written into it at
//! some time, or it is refused.

use std::sync::LazyLock;

use evenkeel_consensus::{Disk, Floor, Image, Limits, LogFile, Write};

use crate::input::{Input, piece};
use crate::{MEMORY, Target, place, values};

pub(crate) const TARGET: Target = Target {
    name: "log_file",
    reads: "log.redb (start, doctor)",
    seeds,
    judge,
    length_max: 4096,
    memory: 4 * MEMORY,
    memory_per_byte: 1024,
    mutants: 200,
};

const LIMITS: Limits = Limits {
    log_reserved_bytes: 64 * 1024,
    log_bytes_max: 16 * 1024 * 1024,
    snapshot_every: 1000,
    entries_kept: 200,
};

fn log(path: &std::path::Path) -> LogFile {
    LogFile::new(path, values::node("ams1"), LIMITS)
}

/// A file with some entries, and what was in it after each write.
static WRITTEN: LazyLock<(Vec<u8>, Vec<Image>)> = LazyLock::new(|| {
    let dir = place::directory();
    let path = dir.path().join("log");
    let writes = [
        Write::Vote(vec![1; 9]),
        Write::Entry {
            index: 0,
            entry: vec![2; 300],
        },
        Write::Floor(Floor {
            group: values::www(),
            epoch: values::epoch(3),
            assignment: vec![3; 20],
        }),
        Write::Entry {
            index: 1,
            entry: vec![4; 3000],
        },
        Write::Snapshot(vec![5; 9000]),
        Write::Oath(77),
    ];
    let mut images = vec![log(&path).load().expect("a new log")];
    for write in writes {
        let mut log = log(&path);
        log.load().expect("a log");
        log.write(&[write]).expect("written");
        drop(log);
        images.push(self::log(&path).load().expect("a log"));
    }
    (std::fs::read(&path).expect("a file"), images)
});

fn seeds() -> Vec<Vec<u8>> {
    let change = |at: u32, bytes: &[u8]| [&[0][..], &at.to_le_bytes(), &piece(bytes)].concat();
    let pages = [0_u32, 8, 64, 200, 4096, 5000, 8192, 16_384, 65_536];
    let mut seeds: Vec<Vec<u8>> = pages.iter().map(|at| change(*at, &[1])).collect();
    seeds.push([&[1][..], &4096_u32.to_le_bytes()].concat());
    seeds
}

fn judge(input: &[u8]) {
    let (file, images) = &*WRITTEN;
    let mut bytes = file.clone();
    let mut input = Input(input);
    while !input.is_over() {
        let what = input.below(2);
        let at = u32::from_le_bytes(std::array::from_fn(|_| input.byte())) as usize;
        let at = at % bytes.len().max(1);
        if what == 1 {
            bytes.truncate(at);
            continue;
        }
        for (place, with) in bytes[at..].iter_mut().zip(input.piece()) {
            *place ^= with;
        }
    }
    let dir = place::directory();
    let path = dir.path().join("log");
    std::fs::write(&path, &bytes).expect("written");
    // An empty file is a new log.
    let empty = bytes.iter().all(|byte| *byte == 0);
    match log(&path).load() {
        Ok(image) => assert!(
            images.contains(&image) || empty || image.entries.is_empty(),
            "read though nobody wrote it: {image:?}"
        ),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
