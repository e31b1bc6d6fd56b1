//! What runs with a group: units of systemd, commands, and the administrator's hooks.
//!
//! It is level-triggered. Somebody says what is wanted of a group ([`Want`]); the newest
//! word replaces the older one, also while something is being started or stopped. The room
//! converges on it and tells what it sees ([`Report`]). It decides nothing: whether this
//! node may serve is the guard's business, whether a group moves the cluster's. A hook or
//! a command that fails, hangs or writes for ever is cut off at its deadline and told.
//!
//! ```text
//!   want ──> machine (pure, one per group): wanted - seen = effects
//!               ^                              │
//!               └── seen, started, stopped <── io: systemd, commands, hooks
//! ```
//!
//! One thread for all groups, with a task per group and per service. What is started here
//! outlives the room: the next life finds units by systemd, and commands by a note.

pub mod doctor;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod io;
pub mod machine;
mod v1;

pub use error::ServicesError;
pub use io::{GroupSettings, Services, Settings, is_needed, stop_max};
pub use machine::{Context, FOREIGN, GroupStatus, Hook, Report, ServiceStatus, State, Want};
