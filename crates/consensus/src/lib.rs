//! Agreement: the engine and its durable log behind our own port.
//!
//! Everything that a cluster decides passes through here once: an entry is _proposed_ on any node,
//! _appended_ durably by voters, _committed_ when a majority has it, and _applied_ to the
//! [`Machine`] on every node in the same order. DESIGN 3.1 rests on agreement alone, never on the
//! timing of elections, so these are relaxed: the death of the leader disturbs no holder.
//!
//! ```text
//!   daemon ── propose, transfer ──▶ Engine ──▶ openraft ──▶ log ──▶ writer ──▶ Disk
//!     ▲                              │  ▲         │         (memory)  (own thread)
//!     └───────── Events ◀────────────┘  └─────────┴──▶ peer ──▶ Network (QUIC or simulated)
//! ```
//!
//! What is where: [`ports`] is what the daemon supplies, [`Engine`] what it calls, [`Event`] what
//! it hears. `v1` holds every stored and sent form; `log` is the log as the engine sees it, kept
//! whole in memory because it is small; `writer` is the only place that touches the disk, on a
//! thread of its own, so that a disk that hangs stops nothing else. One engine, one log thread,
//! one log file per node.
//!
//! Rule 1 lives in `log` and `disk`: a floor is raised in the same transaction as the append of
//! the entry that carries it, and nothing lowers it. Rule 11 lives in `watch`: a leader whose
//! append takes too long gives leadership up and does not seek it until its disk is quick again.
//!
//! `generation` is what follows the loss of a majority: a new log with one voter, and how it grows.
//!
//! Nothing of openraft is visible outside this crate.

mod disk;
mod engine;
mod error;
mod event;
#[doc(hidden)]
pub mod fuzzing;
mod generation;
mod log;
mod peer;
pub mod ports;
mod requests;
mod runtime;
mod settings;
mod state;
mod status;
mod types;
mod v1;
#[cfg(any(test, feature = "virtual"))]
pub mod virtual_time;
mod watch;
mod writer;

pub use disk::LogFile;
#[cfg(any(test, feature = "virtual"))]
pub use disk::MemoryDisk;
pub use engine::{Engine, Members};
pub use error::{ConsensusError, DiskError, NetworkError, ProposeError, TransferError, WholeError};
pub use event::{Event, Events};
pub use generation::{Recovered, Recovery, SetAside, join, recover};
pub use ports::{
    BoxFuture, Disk, Floor, Floors, Image, Machine, Network, OATH_BEFORE, Ports, Unreadable, Write,
};
#[cfg(any(test, feature = "virtual"))]
pub use runtime::Virtual;
pub use runtime::{Live, Runtime};
pub use settings::{
    ElectionTiming, Limits, MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX, REQUESTS_REMEMBERED,
    SNAPSHOT_BYTES_MAX, Settings,
};
pub use status::{Follower, Status};

#[cfg(test)]
mod tests;
