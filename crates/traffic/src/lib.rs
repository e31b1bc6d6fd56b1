//! Movers: ways to make traffic arrive at the holder of a group. So far one, the link
//! layer: the group's addresses on an interface of this machine, and their neighbours
//! told by gratuitous ARP and neighbour advertisements.
//!
//! It is level-triggered. Somebody says what is wanted of a group ([`Want`]); the newest
//! word replaces the older one. A thread compares that with what the kernel says is
//! there, puts right what differs, whoever changed it, and reports what it sees
//! ([`Report`]). It decides nothing: whether this node may answer for an address is the
//! guard's business, and nothing here opens or closes it.
//!
//! ```text
//!   want, doubt, assign ──> Mover ──> io: one thread ──> kernel: netlink, frames
//!                                      │      ^              │
//!                         reports <────┤      └── changes ───┘
//!                                      v
//!                                   machine (pure): wanted - seen = effects
//! ```
//!
//! One thread per mover, and a second one that ends sockets, because a busy server has
//! more of them than a takeover can wait for.
//!
//! Beside it [`FlowWatch`], for clients of a holder that could say no farewell ([`flows`]).

pub mod campaign;
pub mod doctor;
pub mod drain;
mod error;
pub mod flows;
mod io;
pub mod machine;
pub mod resolve;

pub use error::TrafficError;
pub use io::{BELT, FlowReport, FlowWatch, Held, Mover, Settings, Snapshots, fits, placed};
pub use machine::{Attempt, GroupStatus, Repair, Report, Want};
