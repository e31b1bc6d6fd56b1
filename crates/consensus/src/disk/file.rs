//! The log in one redb file.
//!
//! Tables: `marks` (format, owner, generation, oath, vote, committed, purged, probe), `entries` by index,
//! `floors` by group, `snapshot` (one row). One [`Disk::write`] is one transaction with immediate
//! durability, so an entry and the floors it raises are stored together or not at all.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use evenkeel_core::names::NodeId;
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use super::reserve::{AT_BOUND, Reserved};
use crate::error::DiskError;
use crate::ports::{Disk, Floor, Image, OATH_BEFORE, Write};
use crate::settings::Limits;
use crate::v1::{self, Garbled, StoredFloor};

const MARKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("marks");
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const FLOORS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("floors");
const SNAPSHOT: TableDefinition<'_, (), &[u8]> = TableDefinition::new("snapshot");

/// The mark `oath` is its number, or this: none was taken yet. A file without the mark is of a
/// version that had no oaths.
const NO_OATH: &[u8] = &[];

/// The newest format of the file that this version reads and writes.
const FORMAT: u8 = 1;

/// Memory for pages: the log is read once, at start, so there is little to keep.
const CACHE_BYTES: usize = 1024 * 1024;

/// What the name of a copy goes on with; the generation follows.
const COPY: &str = "generation-";

/// How many copies of earlier generations stay: each is as large as the log, some 32 MiB, and a
/// generation is given up about once in a cluster's life.
const COPIES_MAX: usize = 3;

/// The log of one node in one file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    owner: NodeId,
    limits: Limits,
    database: Option<Database>,
}

impl LogFile {
    /// The log of node `owner` at `path`, which is opened, and made if need be, when the engine
    /// starts.
    pub fn new(path: impl AsRef<Path>, owner: NodeId, limits: Limits) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            owner,
            limits,
            database: None,
        }
    }

    /// Copies the file, which must be open or unused, beside itself under the name of its
    /// generation, in place of an earlier copy of that generation: for people, should anything in
    /// it be missed once it has been given up. The newest [`COPIES_MAX`] copies stay.
    pub fn keep_copy(&mut self) -> Result<PathBuf, DiskError> {
        let doing = "copy the log";
        if self.database.is_none() {
            self.load()?;
        }
        let generation = match &self.database {
            Some(database) => self.read(database)?.generation,
            None => 0,
        };
        let copy = self.beside(&format!("{COPY}{generation}"));
        let half = self.beside("copy");
        let copied = std::fs::copy(&self.path, &half)
            .and_then(|_| std::fs::File::open(&half)?.sync_all())
            .and_then(|()| std::fs::rename(&half, &copy));
        if let Err(source) = copied {
            drop(std::fs::remove_file(&half));
            return Err(self.io(doing, source));
        }
        self.drop_old_copies();
        Ok(copy)
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{what}"));
        PathBuf::from(name)
    }

    /// The copies are for people: one that cannot be removed harms nobody.
    fn drop_old_copies(&self) {
        let prefix = self.beside(COPY);
        let Some(prefix) = prefix.file_name().and_then(|name| name.to_str()) else {
            return;
        };
        let entries = self.path.parent().map(std::fs::read_dir);
        let Some(Ok(entries)) = entries else { return };
        let mut copies: Vec<(u64, PathBuf)> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let number = path.file_name()?.to_str()?.strip_prefix(prefix)?;
                Some((number.parse().ok()?, path))
            })
            .collect();
        copies.sort_unstable();
        let old = copies.len().saturating_sub(COPIES_MAX);
        for (_, path) in copies.into_iter().take(old) {
            drop(std::fs::remove_file(path));
        }
    }

    fn corrupt(&self, detail: impl ToString) -> DiskError {
        DiskError::Corrupt {
            path: self.path.clone(),
            detail: detail.to_string(),
        }
    }

    /// An error of the operating system while `doing`, in words that help.
    fn io(&self, doing: &'static str, source: io::Error) -> DiskError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::StorageFull => DiskError::Full { doing, path },
            io::ErrorKind::ReadOnlyFilesystem => DiskError::ReadOnly { doing, path },
            io::ErrorKind::QuotaExceeded if source.to_string() == AT_BOUND => DiskError::TooBig {
                path,
                bound: self.limits.log_bytes_max,
            },
            io::ErrorKind::QuotaExceeded => DiskError::Full { doing, path },
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => self.corrupt(source),
            _ => DiskError::Io {
                doing,
                path,
                source,
            },
        }
    }

    fn fault(&self, doing: &'static str, error: impl Into<redb::Error>) -> DiskError {
        match error.into() {
            redb::Error::Io(source) => self.io(doing, source),
            redb::Error::DatabaseAlreadyOpen => DiskError::Locked {
                path: self.path.clone(),
            },
            redb::Error::PreviousIo => DiskError::Failed,
            other => self.corrupt(other),
        }
    }

    fn open(&self) -> Result<Database, DiskError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem => {
                    self.io("open the log", source)
                }
                _ => DiskError::Open {
                    path: self.path.clone(),
                    source,
                },
            })?;
        let backend = Reserved::new(
            file,
            self.limits.log_reserved_bytes,
            self.limits.log_bytes_max,
        )
        .map_err(|source| self.io("open the log", source))?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            // The file is small, so the whole of it is checked at every start: a damaged log must
            // never be trusted.
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
            .map_err(|error| match error {
                DatabaseError::UpgradeRequired(found) => DiskError::Newer {
                    path: self.path.clone(),
                    found,
                    known: FORMAT,
                },
                other => self.fault("open the log", other),
            })?;
        Ok(database)
    }

    /// Writes what a new file must say, or checks what an old one says.
    fn claim(&self, database: &Database) -> Result<(), DiskError> {
        let doing = "write the log";
        let transaction = self.begin(database)?;
        {
            let mut marks = transaction
                .open_table(MARKS)
                .map_err(|error| self.fault(doing, error))?;
            for table in [ENTRIES, FLOORS] {
                transaction
                    .open_table(table)
                    .map_err(|error| self.fault(doing, error))?;
            }
            transaction
                .open_table(SNAPSHOT)
                .map_err(|error| self.fault(doing, error))?;
            let owner = self.owner.0.to_be_bytes();
            for (name, ours) in [("format", &[FORMAT][..]), ("owner", &owner[..])] {
                let found = marks
                    .get(name)
                    .map_err(|error| self.fault(doing, error))?
                    .map(|found| found.value().to_vec());
                match found {
                    Some(found) if found == ours => {}
                    Some(found) if name == "format" => {
                        let found = found.first().copied().unwrap_or_default();
                        return Err(DiskError::Newer {
                            path: self.path.clone(),
                            found,
                            known: FORMAT,
                        });
                    }
                    Some(_) => {
                        return Err(DiskError::Foreign {
                            path: self.path.clone(),
                        });
                    }
                    None => {
                        marks
                            .insert(name, ours)
                            .map_err(|error| self.fault(doing, error))?;
                        if name == "format" {
                            marks
                                .insert("oath", NO_OATH)
                                .map_err(|error| self.fault(doing, error))?;
                        }
                    }
                }
            }
        }
        transaction
            .commit()
            .map_err(|error| self.fault(doing, error))
    }

    fn begin(&self, database: &Database) -> Result<WriteTransaction, DiskError> {
        let doing = "write the log";
        let mut transaction = database
            .begin_write()
            .map_err(|error| self.fault(doing, error))?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(|error| self.corrupt(format!("{error:?}")))?;
        Ok(transaction)
    }

    fn read(&self, database: &Database) -> Result<Image, DiskError> {
        self.read_image(database).map_err(|error| match error {
            ReadFault::Store(error) => self.fault("read the log", *error),
            ReadFault::Floor(group, garbled) => {
                self.corrupt(format!("the floor of group {group:x} has {garbled}"))
            }
            ReadFault::Number(what) => self.corrupt(format!("its {what} is no number")),
        })
    }

    fn read_image(&self, database: &Database) -> Result<Image, ReadFault> {
        let transaction = database.begin_read()?;
        let marks = transaction.open_table(MARKS)?;
        let mark = |name: &str| -> Result<Option<Vec<u8>>, redb::StorageError> {
            Ok(marks.get(name)?.map(|value| value.value().to_vec()))
        };
        let generation = match mark("generation")? {
            None => 0,
            Some(bytes) => number(bytes, "generation")?,
        };
        let mut image = Image {
            generation,
            oath: None,
            vote: mark("vote")?,
            committed: mark("committed")?,
            purged: mark("purged")?,
            snapshot: None,
            entries: Vec::new(),
            floors: Vec::new(),
        };
        image.snapshot = transaction
            .open_table(SNAPSHOT)?
            .get(())?
            .map(|value| value.value().to_vec());
        for row in transaction.open_table(ENTRIES)?.iter()? {
            let (index, entry) = row?;
            image.entries.push((index.value(), entry.value().to_vec()));
        }
        image.oath = match mark("oath")? {
            Some(mark) if mark == NO_OATH => None,
            Some(mark) => Some(number(mark, "oath")?),
            None => {
                let remembers = image.vote.is_some()
                    || image.purged.is_some()
                    || image.snapshot.is_some()
                    || !image.entries.is_empty();
                remembers.then_some(OATH_BEFORE)
            }
        };
        for row in transaction.open_table(FLOORS)?.iter()? {
            let (group, floor) = row?;
            let group = group.value();
            let floor: StoredFloor =
                v1::decode(floor.value()).map_err(|garbled| ReadFault::Floor(group, garbled))?;
            image.floors.push(floor.of_group(group));
        }
        Ok(image)
    }

    fn write_all(
        &self,
        transaction: &WriteTransaction,
        writes: &[Write],
    ) -> Result<(), redb::Error> {
        let mut marks = transaction.open_table(MARKS)?;
        let mut entries = transaction.open_table(ENTRIES)?;
        let mut floors = transaction.open_table(FLOORS)?;
        for write in writes {
            match write {
                Write::Vote(vote) => drop(marks.insert("vote", vote.as_slice())?),
                Write::Committed(mark) => drop(marks.insert("committed", mark.as_slice())?),
                Write::Entry { index, entry } => drop(entries.insert(index, entry.as_slice())?),
                Write::TruncateFrom(index) => entries.retain_in(*index.., |_, _| false)?,
                Write::PurgeTo { index, mark } => {
                    entries.retain_in(..=*index, |_, _| false)?;
                    marks.insert("purged", mark.as_slice())?;
                }
                Write::Snapshot(snapshot) => {
                    drop(
                        transaction
                            .open_table(SNAPSHOT)?
                            .insert((), snapshot.as_slice())?,
                    );
                }
                Write::Floor(floor) => raise(&mut floors, floor)?,
                Write::Oath(oath) => drop(marks.insert("oath", &oath.to_be_bytes()[..])?),
                Write::Generation(generation) => {
                    drop(marks.insert("generation", &generation.to_be_bytes()[..])?);
                }
                Write::Forget => {
                    for mark in ["vote", "committed", "purged", "generation"] {
                        drop(marks.remove(mark)?);
                    }
                    marks.insert("oath", NO_OATH)?;
                    entries.retain(|_, _| false)?;
                    drop(transaction.open_table(SNAPSHOT)?.remove(())?);
                }
                Write::Probe => drop(marks.insert("probe", &[][..])?),
            }
        }
        Ok(())
    }
}

/// Raises a stored floor. One that cannot be read is never overwritten by a lower one, because it
/// would have been refused at start.
fn raise(
    floors: &mut redb::Table<'_, u64, &'static [u8]>,
    floor: &Floor,
) -> Result<(), redb::Error> {
    let known = floors
        .get(floor.group.0)?
        .and_then(|known| v1::decode::<StoredFloor>(known.value()).ok())
        .is_some_and(|known| known.epoch() >= floor.epoch);
    if !known {
        floors.insert(
            floor.group.0,
            v1::encode(&StoredFloor::of(floor)).as_slice(),
        )?;
    }
    Ok(())
}

enum ReadFault {
    Store(Box<redb::Error>),
    Floor(u64, Garbled),
    Number(&'static str),
}

/// The number in a mark.
fn number(bytes: Vec<u8>, what: &'static str) -> Result<u64, ReadFault> {
    let bytes = bytes.try_into().map_err(|_| ReadFault::Number(what))?;
    Ok(u64::from_be_bytes(bytes))
}

impl<E: Into<redb::Error>> From<E> for ReadFault {
    fn from(error: E) -> Self {
        Self::Store(Box::new(error.into()))
    }
}

impl Disk for LogFile {
    fn load(&mut self) -> Result<Image, DiskError> {
        let database = self.open()?;
        self.claim(&database)?;
        let image = self.read(&database)?;
        self.database = Some(database);
        Ok(image)
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), DiskError> {
        let database = self.database.as_ref().ok_or(DiskError::Failed)?;
        let transaction = self.begin(database)?;
        self.write_all(&transaction, writes)
            .map_err(|error| self.fault("write the log", error))?;
        transaction
            .commit()
            .map_err(|error| self.fault("write the log", error))
    }
}
