//! Shares: directories whose content follows the holder of their group.
//!
//! Being built (issue 5); the daemon does not use it yet. What is here:
//!
//! - [`SharePath`]: where something is below the root of a share, in any bytes;
//! - [`State`]: what is there, but for the content of files;
//! - [`journal`]: what has changed on the holder and is not known to be on a replica (pure);
//! - [`look`] and [`names_in`]: reading what is at a path, so that it is of one moment;
//! - [`Source`] and [`Replica`]: the two sides of a stream of small changes, in the words of [`v1`];
//! - [`Maker`]: making a replica have that, in one step each, through the
//! - [`Gate`]: the fence of a replica, with its seal on the disk (S3).
//!
//! ```text
//!   source:   notices ──> journal ──> look ──┐
//!                            ^               │ over the network
//!                            └── answers <── │ ──> replica: Maker ──> gate ──> the tree
//! ```

#[doc(hidden)]
pub mod fuzzing;
mod io;
pub mod journal;
mod path;
mod print;
mod replica;
mod source;
mod state;
pub mod v1;

pub use io::gate::{Gate, GateError};
pub use io::look::{Here, LookError, Looked, Stamp, look, names_in};
pub use io::make::{MakeError, Maker};
pub use io::root::Root;
pub use path::{NAME_BYTES_MAX, OWN, PATH_BYTES_MAX, PathFault, SharePath};
pub use replica::Replica;
pub use source::Source;
pub use state::{Attributes, EXTENDED_BYTES_MAX, Kind, State, Time, is_replicated};
