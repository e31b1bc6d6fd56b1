//! The mirror: what the lease thread knows, in memory that outlives the worker
//! (DESIGN 3.1 rule 4).
//!
//! The memory belongs to the parent process (a memfd), so it lives exactly as long as
//! one incarnation: a restarted worker goes on where the last one stopped, a restarted
//! daemon finds none and keeps the silence that the rule asks for.
//!
//! Each record has two places, written in turn, each with a number and a checksum. A
//! worker killed in the middle of writing spoils one; the other is the record before,
//! and nothing that relies on the new one has left the node yet.
//!
//! ```text
//!   head    magic, counter, nonce, quiet until, ready, worker, retired, settled, alone,
//!           generation, voted (2), reserve, serving, baton
//!   groups  GROUPS_MAX x 2 x (number, checksum, record)
//!   keys    KEYS_MAX   x 2 x (number, checksum, key)
//! ```

use evenkeel_config::GROUPS_MAX;
use evenkeel_core::generation::Voters;
use evenkeel_core::lease::{Assigned, Assignment, Held, Mirror, Promise, Record};
use evenkeel_core::{Epoch, GroupId, Incarnation, Moment, NodeId};
use evenkeel_host::sys::baton::{BATON_BYTES, Baton};
use evenkeel_host::sys::shm::{SharedPage, ShmError};
use evenkeel_transport::LeaseKeys;
use evenkeel_transport::seal::Mirrored;
use rustix::process::Pid;
use std::path::{Path, PathBuf};

/// Keys kept: three for each of 63 peers.
const KEYS_MAX: usize = 192;
const PROMISES: usize = evenkeel_core::lease::PROMISES_MAX;
const PROMISE_WORDS: usize = 8;
/// Words of a record: group, floor, committed, released, promises, spent, guard, held.
const RECORD_WORDS: usize = 1 + 6 + 2 + 2 + PROMISES * PROMISE_WORDS + 2 + 1 + 4;
/// Words of a key: what it encodes to, and the highest counter opened.
const KEY_WORDS: usize = LeaseKeys::BYTES / 8 + 1;
const HEAD_WORDS: usize = BATON_WORD + BATON_BYTES / WORD;
const WORD: usize = 8;
/// Where in the head which word is.
const READY_WORD: usize = 4;
const WORKER_WORD: usize = 5;
const RETIRED_WORD: usize = 6;
const SETTLED_WORD: usize = 7;
const ALONE_WORD: usize = 8;
const GENERATION_WORD: usize = 9;
const VOTED_WORD: usize = 10;
const RESERVE_WORD: usize = 12;
const SERVING_WORD: usize = 13;
const BATON_WORD: usize = 16;
const GROUPS_AT: usize = HEAD_WORDS * WORD;
const GROUP_PLACE: usize = (2 + RECORD_WORDS) * WORD;
const KEYS_AT: usize = GROUPS_AT + GROUPS_MAX * 2 * GROUP_PLACE;
const KEY_PLACE: usize = (2 + KEY_WORDS) * WORD;
/// Length of the whole mirror in bytes.
pub const LENGTH: usize = KEYS_AT + KEYS_MAX * 2 * KEY_PLACE;

/// Says that the memory is a mirror of this layout: its last byte counts the layouts. A
/// worker that finds another one does not trust it. 2: promises with their numbers; 3: the
/// baton in the head; 4: readmissions and the reserve there, and a silence without an end; 5: keys
/// with the certificates that they were proved by.
pub const MAGIC: u64 = 0x6576_656e_6b65_6505;

/// The mirror's memory.
pub struct Memory {
    page: SharedPage,
    path: PathBuf,
    slots: Vec<GroupId>,
    keys: Vec<u64>,
}

/// The baton in the memory at `path`: whose lease thread has it, has the leases. The
/// parent prepares it once for each life.
pub fn baton(path: &Path) -> Result<Baton, ShmError> {
    let page = SharedPage::of(&file(path)?, path, LENGTH)?;
    Ok(Baton::at(page, BATON_WORD * WORD))
}

fn file(path: &Path) -> Result<std::fs::File, ShmError> {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|source| ShmError::Kernel {
            attempt: "open",
            path: path.to_owned(),
            source,
        })
}

/// What a worker finds.
pub enum Found {
    /// Nothing: the first worker of this incarnation.
    Blank,
    /// What the worker before it knew.
    Whole {
        /// The lease machine's part.
        mirror: Mirror,
        /// Keys for lease datagrams, oldest first.
        keys: Vec<Mirrored>,
    },
    /// Something that cannot be trusted: this incarnation must end.
    Torn,
}

impl Memory {
    /// Maps the memory at `path`, which a parent has made.
    pub fn open(path: &Path) -> Result<Self, ShmError> {
        let page = SharedPage::of(&file(path)?, path, LENGTH)?;
        Ok(Self {
            page,
            path: path.to_owned(),
            slots: Vec::with_capacity(GROUPS_MAX),
            keys: Vec::with_capacity(KEYS_MAX),
        })
    }

    /// The same once more, for reading what another thread writes.
    pub fn again(&self) -> Result<Self, ShmError> {
        Self::open(&self.path)
    }

    fn word(&self, at: usize) -> u64 {
        self.page
            .word(at)
            .load(core::sync::atomic::Ordering::Acquire)
    }

    fn put(&self, at: usize, value: u64) {
        self.page
            .word(at)
            .store(value, core::sync::atomic::Ordering::Release);
    }

    /// Whether a worker of this incarnation has come up once: later faults are worth a
    /// restart, earlier ones are a refusal to start.
    pub fn was_ready(&self) -> bool {
        self.word(READY_WORD * WORD) != 0
    }

    /// Notes that this worker is up.
    pub fn set_ready(&self) {
        self.put(READY_WORD * WORD, u64::from(std::process::id()));
    }

    /// Whether the worker of that number has done all that it does before it speaks to others:
    /// what its configuration takes away from this node is closed and given back.
    pub fn is_serving(&self, worker: Pid) -> bool {
        self.word(SERVING_WORD * WORD) == u64::from(worker.as_raw_nonzero().get().cast_unsigned())
    }

    /// Notes that this worker has.
    pub fn set_serving(&self) {
        self.put(SERVING_WORD * WORD, u64::from(std::process::id()));
    }

    /// Whether no worker of this incarnation has written it yet.
    pub fn is_blank(&self) -> bool {
        self.word(0) == 0
    }

    /// The worker whose lease thread is at work, or was last; none before the first.
    pub fn worker(&self) -> Option<Pid> {
        let number = i32::try_from(self.word(WORKER_WORD * WORD)).ok()?;
        Pid::from_raw(number)
    }

    /// Notes that the lease thread of this process is at work.
    pub fn set_worker(&self) {
        self.put(WORKER_WORD * WORD, u64::from(std::process::id()));
    }

    /// Whether a worker was told to stop: its end is no death, nobody goes on.
    pub fn is_retired(&self) -> bool {
        self.word(RETIRED_WORD * WORD) != 0
    }

    /// Notes that this worker was told to stop.
    pub fn retire(&self) {
        self.put(RETIRED_WORD * WORD, 1);
    }

    /// Whether this life takes part (`core::generation`).
    pub fn was_settled(&self) -> bool {
        self.word(SETTLED_WORD * WORD) != 0
    }

    /// Notes that it does.
    pub fn set_settled(&self) {
        self.put(SETTLED_WORD * WORD, 1);
    }

    /// The worker that waits for another's death, or did: a process of that number may be gone,
    /// or at work by now.
    pub fn reserve(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.word(RESERVE_WORD * WORD)).ok()?)
    }

    /// Notes that this process waits for another's death.
    pub fn set_reserve(&self) {
        self.put(RESERVE_WORD * WORD, u64::from(std::process::id()));
    }

    /// The newest readmission that was known when this life last had a vote; none if it never had.
    pub fn voted(&self) -> Option<Epoch> {
        let index = self.word((VOTED_WORD + 1) * WORD).checked_sub(1)?;
        let term = self.word(VOTED_WORD * WORD);
        Some(Epoch { term, index })
    }

    /// Notes that it has one. The term first: a worker that dies in between leaves one that
    /// believes in fewer readmissions.
    pub fn set_voted(&self, readmission: Epoch) {
        self.put(VOTED_WORD * WORD, readmission.term);
        let index = readmission.index.saturating_add(1);
        self.put((VOTED_WORD + 1) * WORD, index);
    }

    /// Whose promises make this node's leases.
    pub fn voters(&self) -> Voters {
        match self.word(ALONE_WORD * WORD) {
            0 => Voters::All,
            _ => Voters::Me,
        }
    }

    /// Notes whose do. For the lease thread: relying on itself alone is noted after it has
    /// begun, and its end before it has ended, so that a worker that dies in between leaves one
    /// that needs more than enough.
    pub fn set_voters(&self, voters: Voters) {
        self.put(ALONE_WORD * WORD, u64::from(voters == Voters::Me));
    }

    /// The generation that this node obeys.
    pub fn generation(&self) -> u64 {
        self.word(GENERATION_WORD * WORD)
    }

    /// Notes which.
    pub fn set_generation(&self, generation: u64) {
        self.put(GENERATION_WORD * WORD, generation);
    }

    /// Reads what the last worker left.
    pub fn read(&mut self, incarnation: Incarnation) -> Found {
        if self.is_blank() {
            return Found::Blank;
        }
        let written = Incarnation {
            counter: self.word(WORD),
            nonce: self.word(2 * WORD),
        };
        if self.word(0) != MAGIC || written != incarnation {
            return Found::Torn;
        }
        let mut records = Vec::new();
        for slot in 0..GROUPS_MAX {
            let at = GROUPS_AT + slot * 2 * GROUP_PLACE;
            match self.newest::<RECORD_WORDS>(at, GROUP_PLACE) {
                Place::Never => break,
                Place::Broken => return Found::Torn,
                Place::Holds(words) => {
                    let record = record_from(&words);
                    self.slots.push(record.group);
                    records.push(record);
                }
            }
        }
        let mut keys = Vec::new();
        for slot in 0..KEYS_MAX {
            let at = KEYS_AT + slot * 2 * KEY_PLACE;
            // A lost key costs a reconnection, never safety.
            if let Place::Holds(words) = self.newest::<KEY_WORDS>(at, KEY_PLACE) {
                keys.push(key_from(&words));
            }
        }
        keys.retain(|key| key.keys.id != 0);
        let quiet_until = Moment::from_nanos(self.word(3 * WORD));
        Found::Whole {
            mirror: Mirror {
                incarnation,
                quiet_until,
                records,
            },
            keys,
        }
    }

    /// Notes until when the machine is silent, when that has changed.
    pub fn set_quiet_until(&self, until: Moment) {
        self.put(3 * WORD, until.as_nanos());
    }

    /// Writes the head and all records of a machine that starts.
    pub fn begin(&mut self, mirror: &Mirror) {
        self.put(WORD, mirror.incarnation.counter);
        self.put(2 * WORD, mirror.incarnation.nonce);
        self.set_quiet_until(mirror.quiet_until);
        for record in &mirror.records {
            self.write(record);
        }
        // Last: before this the memory is blank.
        self.put(0, MAGIC);
    }

    /// Writes one record. It is whole before this returns.
    pub fn write(&mut self, record: &Record) {
        let slot = match self.slots.iter().position(|known| *known == record.group) {
            Some(slot) => slot,
            None => {
                assert!(
                    self.slots.len() < GROUPS_MAX,
                    "more groups than the guard can hold"
                );
                self.slots.push(record.group);
                self.slots.len() - 1
            }
        };
        let at = GROUPS_AT + slot * 2 * GROUP_PLACE;
        self.renew(at, GROUP_PLACE, &words_of(record));
    }

    /// Writes the keys that are in use.
    pub fn write_keys(&mut self, keys: impl Iterator<Item = Mirrored>) {
        let mut count = 0;
        for key in keys.take(KEYS_MAX) {
            let at = KEYS_AT + count * 2 * KEY_PLACE;
            self.renew(at, KEY_PLACE, &key_words(&key));
            count += 1;
        }
        for slot in count..self.keys.len() {
            let at = KEYS_AT + slot * 2 * KEY_PLACE;
            self.renew(at, KEY_PLACE, &[0; KEY_WORDS]);
        }
        self.keys.resize(count, 0);
    }

    /// The valid one of two places with the higher number.
    fn newest<const N: usize>(&self, at: usize, length: usize) -> Place<N> {
        let mut best: Option<(u64, [u64; N])> = None;
        let mut touched = false;
        for place in [at, at + length] {
            let number = self.word(place);
            touched |= number != 0;
            let mut words = [0; N];
            for (index, word) in words.iter_mut().enumerate() {
                *word = self.word(place + (2 + index) * WORD);
            }
            let valid = number != 0 && self.word(place + WORD) == checksum(number, &words);
            if valid && best.is_none_or(|(known, _)| known < number) {
                best = Some((number, words));
            }
        }
        match (best, touched) {
            (Some((_, words)), _) => Place::Holds(words),
            (None, false) => Place::Never,
            (None, true) => Place::Broken,
        }
    }

    /// Overwrites the older of two places.
    fn renew(&self, at: usize, length: usize, words: &[u64]) {
        let (first, second) = (self.word(at), self.word(at + length));
        let (place, number) = if first <= second {
            (at, second + 1)
        } else {
            (at + length, first + 1)
        };
        // The place is invalid while it is written.
        self.put(place + WORD, 0);
        self.put(place, number);
        for (index, word) in words.iter().enumerate() {
            self.put(place + (2 + index) * WORD, *word);
        }
        self.put(place + WORD, checksum(number, words));
    }
}

enum Place<const N: usize> {
    Never,
    Broken,
    Holds([u64; N]),
}

/// Never zero, so that an unfinished place is never valid.
fn checksum(number: u64, words: &[u64]) -> u64 {
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325 ^ number;
    for word in words {
        sum = (sum ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23);
    }
    sum | 1
}

struct Writer<'a> {
    words: &'a mut [u64],
    at: usize,
}

impl Writer<'_> {
    fn word(&mut self, word: u64) {
        self.words[self.at] = word;
        self.at += 1;
    }

    fn epoch(&mut self, epoch: Epoch) {
        self.word(epoch.term);
        self.word(epoch.index);
    }
}

struct Reader<'a> {
    words: &'a [u64],
    at: usize,
}

impl Reader<'_> {
    fn word(&mut self) -> u64 {
        let word = self.words[self.at];
        self.at += 1;
        word
    }

    fn epoch(&mut self) -> Epoch {
        Epoch {
            term: self.word(),
            index: self.word(),
        }
    }

    fn incarnation(&mut self) -> Incarnation {
        Incarnation {
            counter: self.word(),
            nonce: self.word(),
        }
    }
}

fn words_of(record: &Record) -> [u64; RECORD_WORDS] {
    let mut words = [0; RECORD_WORDS];
    let mut out = Writer {
        words: &mut words,
        at: 0,
    };
    out.word(record.group.0);
    match &record.floor {
        Some(floor) => {
            out.word(1);
            out.epoch(floor.epoch);
            out.word(floor.holder.0);
            out.word(floor.incarnation.counter);
            out.word(floor.incarnation.nonce);
        }
        None => out.at += 6,
    }
    out.epoch(record.committed);
    out.epoch(record.released);
    for promise in &record.promises {
        match promise {
            Some(promise) => {
                out.word(1);
                out.epoch(promise.to.epoch);
                out.word(promise.to.node.0);
                out.word(promise.to.incarnation.counter);
                out.word(promise.to.incarnation.nonce);
                out.word(promise.until.as_nanos());
                out.word(promise.seq);
            }
            None => out.at += PROMISE_WORDS,
        }
    }
    out.epoch(record.spent);
    out.word(record.guard.as_nanos());
    // Without one its words stay zero.
    if let Some(held) = &record.held {
        out.word(1);
        out.epoch(held.epoch);
        out.word(held.until.as_nanos());
    }
    words
}

fn record_from(words: &[u64; RECORD_WORDS]) -> Record {
    let mut from = Reader { words, at: 0 };
    let group = GroupId(from.word());
    let there = from.word() == 1;
    let floor = Assignment {
        group,
        epoch: from.epoch(),
        holder: NodeId(from.word()),
        incarnation: from.incarnation(),
    };
    let floor = there.then_some(floor);
    let (committed, released) = (from.epoch(), from.epoch());
    let mut promises = [None; PROMISES];
    for promise in &mut promises {
        let there = from.word() == 1;
        let to = Assigned {
            epoch: from.epoch(),
            node: NodeId(from.word()),
            incarnation: from.incarnation(),
        };
        let until = Moment::from_nanos(from.word());
        let seq = from.word();
        *promise = there.then_some(Promise { to, until, seq });
    }
    let spent = from.epoch();
    let guard = Moment::from_nanos(from.word());
    let there = from.word() == 1;
    let held = Held {
        epoch: from.epoch(),
        until: Moment::from_nanos(from.word()),
    };
    let held = there.then_some(held);
    Record {
        group,
        floor,
        committed,
        released,
        promises,
        spent,
        guard,
        held,
    }
}

fn key_words(key: &Mirrored) -> [u64; KEY_WORDS] {
    let mut words = [0; KEY_WORDS];
    let bytes = key.keys.to_bytes();
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(WORD)) {
        *word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes"));
    }
    words[KEY_WORDS - 1] = key.opened;
    words
}

fn key_from(words: &[u64; KEY_WORDS]) -> Mirrored {
    let mut bytes = [0; LeaseKeys::BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(WORD).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    Mirrored {
        keys: LeaseKeys::from_bytes(&bytes),
        opened: words[KEY_WORDS - 1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_transport::Fingerprint;

    fn life() -> Incarnation {
        Incarnation {
            counter: 3,
            nonce: 77,
        }
    }

    fn record(group: u64, n: u64) -> Record {
        let epoch = Epoch {
            term: n,
            index: n + 1,
        };
        let to = Assigned {
            epoch,
            node: NodeId(n + 2),
            incarnation: life(),
        };
        let mut promises = [None; PROMISES];
        promises[1] = Some(Promise {
            to,
            until: Moment::from_nanos(n + 3),
            seq: n + 11,
        });
        Record {
            group: GroupId(group),
            floor: Some(Assignment {
                group: GroupId(group),
                epoch,
                holder: NodeId(n + 4),
                incarnation: life(),
            }),
            committed: epoch,
            released: Epoch {
                term: n + 5,
                index: n + 6,
            },
            promises,
            spent: Epoch {
                term: n + 7,
                index: n + 8,
            },
            guard: Moment::from_nanos(n + 9),
            held: Some(Held {
                epoch,
                until: Moment::from_nanos(n + 10),
            }),
        }
    }

    fn mirror(records: Vec<Record>) -> Mirror {
        Mirror {
            incarnation: life(),
            quiet_until: Moment::from_nanos(5),
            records,
        }
    }

    /// What a parent makes: an empty file that nobody else may read.
    fn blank(dir: &tempfile::TempDir) -> std::path::PathBuf {
        use std::os::unix::fs::OpenOptionsExt;
        let path = dir.path().join("mirror");
        let mut options = std::fs::File::options();
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .expect("made");
        path
    }

    fn found(path: &Path) -> Option<(Mirror, Vec<Mirrored>)> {
        match Memory::open(path).expect("mapped").read(life()) {
            Found::Whole { mirror, keys } => Some((mirror, keys)),
            Found::Blank | Found::Torn => None,
        }
    }

    #[test]
    fn the_next_worker_reads_what_the_last_one_wrote() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = blank(&dir);
        let mut memory = Memory::open(&path).expect("mapped");
        assert!(matches!(memory.read(life()), Found::Blank));
        memory.begin(&mirror(vec![record(1, 10)]));
        memory.write(&record(2, 20));
        memory.write(&record(1, 30));
        let keys = Mirrored {
            keys: LeaseKeys {
                peer: NodeId(4),
                id: 9,
                seal: [7; 32],
                open: [8; 32],
                proof: Fingerprint::of(b"a certificate"),
            },
            opened: 6,
        };
        memory.write_keys([keys.clone()].into_iter());
        let (mirrored, kept) = found(&path).expect("whole");
        assert_eq!(mirrored, mirror(vec![record(1, 30), record(2, 20)]));
        assert_eq!(kept, vec![keys]);
    }

    /// Whatever word a killed worker was at: the record before it is read, or the new
    /// one if it was whole, and never a mixture.
    #[test]
    fn a_record_torn_anywhere_is_the_one_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = blank(&dir);
        let mut memory = Memory::open(&path).expect("mapped");
        memory.begin(&mirror(vec![record(1, 10)]));
        memory.write(&record(1, 20));
        // The third write goes over the first place; spoil it word by word.
        memory.write(&record(1, 30));
        let before: Vec<u64> = (0..GROUP_PLACE / WORD)
            .map(|n| memory.word(GROUPS_AT + n * WORD))
            .collect();
        for (spoiled, word) in before.iter().enumerate() {
            memory.put(GROUPS_AT + spoiled * WORD, word ^ 0x5555);
            let (mirrored, _) = found(&path).expect("whole");
            assert_eq!(mirrored.records, vec![record(1, 20)], "word {spoiled}");
            memory.put(GROUPS_AT + spoiled * WORD, *word);
        }
        assert_eq!(found(&path).expect("whole").0.records, vec![record(1, 30)]);
    }

    #[test]
    fn another_life_or_two_spoiled_places_are_not_trusted() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = blank(&dir);
        let mut memory = Memory::open(&path).expect("mapped");
        memory.begin(&mirror(vec![record(1, 10)]));
        let other = Incarnation {
            counter: 4,
            nonce: 77,
        };
        assert!(matches!(
            Memory::open(&path).expect("mapped").read(other),
            Found::Torn
        ));
        let other_layout = MAGIC - 1;
        memory.put(0, other_layout);
        assert!(matches!(
            Memory::open(&path).expect("mapped").read(life()),
            Found::Torn
        ));
        memory.put(0, MAGIC);
        memory.put(GROUPS_AT + 3 * WORD, 99);
        assert!(matches!(
            Memory::open(&path).expect("mapped").read(life()),
            Found::Torn
        ));
    }
}
