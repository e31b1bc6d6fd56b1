//! What the daemon supplies to the engine: a network, a disk, the machine that entries drive, and
//! the knowledge of which entries raise floors.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::time::Duration;
use std::sync::Arc;

use evenkeel_core::names::{Epoch, GroupId, NodeId};

use crate::error::{DiskError, NetworkError};

/// A future that may move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Carries opaque requests to a peer's [`Engine::handle`](crate::Engine::handle) and brings the
/// reply. Losing, delaying, repeating and reordering are allowed; inventing is not.
pub trait Network: Send + Sync + 'static {
    /// Sends `request` to `to` and waits for its reply, at most `ttl`. The future is dropped when
    /// `ttl` is over, so it must not hold what cannot be dropped.
    fn request(
        &self,
        to: NodeId,
        request: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<Result<Vec<u8>, NetworkError>>;
}

/// What the engine must know of a payload without knowing what it means (DESIGN 3.1 rule 1).
pub trait Floors: Send + Sync + 'static {
    /// The groups whose floor the entry raises, each with the bytes to keep beside the floor
    /// (the whole assignment). Must depend on `payload` alone.
    fn floors(&self, payload: &[u8]) -> Vec<(GroupId, Vec<u8>)>;

    /// Whether [`Machine::restore`] will be able to read a snapshot of another node: one that it
    /// cannot read is refused before the engine takes it, since it could not go on afterwards.
    fn reads(&self, snapshot: &[u8]) -> Result<(), Unreadable> {
        let _ = snapshot;
        Ok(())
    }
}

/// No entry raises a floor: for tests and tools.
impl Floors for () {
    fn floors(&self, _payload: &[u8]) -> Vec<(GroupId, Vec<u8>)> {
        Vec::new()
    }
}

/// A snapshot that the machine cannot read. The text follows "cannot read the snapshot: ".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

/// The replicated state: the same entries in the same order on every node.
///
/// It starts empty at every start of the engine and is brought up to date from the stored snapshot
/// and the committed entries before [`Engine::start`](crate::Engine::start) returns. Everything it
/// does must depend on its state and arguments alone.
pub trait Machine: Send + 'static {
    /// A committed entry, once each (repeats of one request id are left out).
    fn apply(&mut self, epoch: Epoch, payload: &[u8]);
    /// The whole state.
    fn snapshot(&self) -> Vec<u8>;
    /// Replaces the whole state by one that [`Machine::snapshot`] made, here or on another node.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), Unreadable>;
}

/// The highest assignment of a group that this node has ever appended: below its epoch nothing is
/// renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The group.
    pub group: GroupId,
    /// The epoch of the assignment.
    pub epoch: Epoch,
    /// What [`Floors::floors`] gave for it.
    pub assignment: Vec<u8>,
}

/// One change of what is stored. The bytes are versioned forms of this crate; a disk keeps them as
/// they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Replaces the vote.
    Vote(Vec<u8>),
    /// Replaces the mark of what is known to be committed.
    Committed(Vec<u8>),
    /// Stores an entry, in place of one that is already there.
    Entry {
        /// Its index.
        index: u64,
        /// The entry.
        entry: Vec<u8>,
    },
    /// Removes the entries from this index on. Floors stay.
    TruncateFrom(u64),
    /// Removes the entries up to and with this index, and replaces the mark of what was removed.
    PurgeTo {
        /// The last index to go.
        index: u64,
        /// The mark.
        mark: Vec<u8>,
    },
    /// Replaces the snapshot.
    Snapshot(Vec<u8>),
    /// Raises a floor, unless it is already as high.
    Floor(Floor),
    /// Marks the log as that of a node that votes, under an oath of this number.
    Oath(u64),
    /// Replaces the generation.
    Generation(u64),
    /// Removes everything but the floors.
    Forget,
    /// Replaces a value that nobody reads: shows whether the disk is quick.
    Probe,
}

/// The oath of a log that was written before there were oaths, and is believed as it was then.
pub const OATH_BEFORE: u64 = 0;

/// Everything that is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The generation, zero at first.
    pub generation: u64,
    /// The oath under which this node votes: everything that it said as a voter since is in here.
    /// None in a log that was lost and is being fetched again, [`OATH_BEFORE`] in one from before
    /// there were oaths.
    pub oath: Option<u64>,
    /// The vote, if one was ever cast.
    pub vote: Option<Vec<u8>>,
    /// The mark of what is known to be committed.
    pub committed: Option<Vec<u8>>,
    /// The mark of what was purged.
    pub purged: Option<Vec<u8>>,
    /// The snapshot.
    pub snapshot: Option<Vec<u8>>,
    /// The entries in the order of their indexes.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// The floors.
    pub floors: Vec<Floor>,
}

/// Where the log is kept. Used by the log thread alone, so it may block.
pub trait Disk: Send + 'static {
    /// Opens the disk and reads everything, once, before the first write.
    fn load(&mut self) -> Result<Image, DiskError>;
    /// Makes all of `writes`, in order, or none. They are durable when this returns.
    fn write(&mut self, writes: &[Write]) -> Result<(), DiskError>;
    /// How long the following write of `writes` shall take on top. A disk in virtual time cannot
    /// block and says so here; a real one leaves it at zero.
    fn delay(&mut self, writes: &[Write]) -> Duration {
        let _ = writes;
        Duration::ZERO
    }
}

/// What an engine is built from.
pub struct Ports {
    /// Where the log is kept.
    pub disk: Box<dyn Disk>,
    /// The way to the peers.
    pub network: Arc<dyn Network>,
    /// What committed entries drive.
    pub machine: Box<dyn Machine>,
    /// Which entries raise floors.
    pub floors: Arc<dyn Floors>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ports")
    }
}
