//! Kernel enforcement of leases: eBPF and nftables.
//!
//! A lease that a process enforces on itself is no lease: a frozen, swapped-out or
//! killed process keeps its addresses. So the kernel is told until when a group may
//! act, and drops every packet that would let an address of the group answer or claim
//! itself after that moment, whatever the daemon does or no longer does. Two
//! mechanisms stand behind one another, and a packet must pass both:
//!
//! - **eBPF** at tcx, with the absolute deadline of each group in a mapped page. A
//!   renewal is one atomic store, a late store of an old deadline is harmless, and the
//!   pins in a bpffs outlive the daemon.
//! - **nftables** at netdev ingress and egress, with one timed element per group.
//!   Alone it is best effort (the time-out is relative to when the kernel reads it):
//!   [`GuardState::is_full`] says no.
//!
//! [`Guard::open`] gives two handles. [`Guard`] is the hot one, for the lease thread
//! alone: it does not allocate, open files or log. [`Keeper`] is the cold one, for an
//! ordinary thread: it says which addresses belong to which group, covers new devices
//! and puts right what others took away.
//!
//! A process that takes over from one that has just died, while the kernel is still
//! clearing that one away, opens them one after the other: [`Guard::resume`] is ready
//! beforehand and touches nothing, [`Keeper::join`] follows when the other is gone. Both
//! go through the same [`Claim`], the socket that owns the table.
//!
//! Limit: a guarded address is judged wherever it passes this machine. A node that
//! forwards or bridges the traffic of another node's guarded addresses would drop it.

mod bpf;
mod claim;
mod device;
pub mod doctor;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod hot;
mod keeper;
mod netlink;
mod nft;
mod settings;
mod slots;
mod state;
#[cfg(test)]
mod tests;

pub use claim::Claim;
pub use error::GuardError;
pub use hot::{Extended, Guard, Seat};
pub use keeper::Keeper;
pub use settings::{Backends, Settings, uninstall};
pub use state::{BackendState, GuardState, Repairs};

/// How many groups one guard enforces at a time: as many as a cluster may have.
pub const GROUPS_MAX: usize = evenkeel_core::lease::GROUPS_MAX;

/// How many addresses one guard knows, over all groups: eight times the 2,000 that
/// DESIGN 7 measures with.
pub const ADDRESSES_MAX: usize = 16_384;

/// How often [`Keeper::verify_and_repair`] is called without any event: half of the
/// 100 ms in which a foreign change has to be put right.
pub const VERIFY_INTERVAL: std::time::Duration = std::time::Duration::from_millis(50);

/// How long [`Keeper::hold`] drops attempts to connect at most: longer than any client
/// waits for one, and so short that a hold which is never taken back mends itself.
pub const HOLD_MAX: std::time::Duration = std::time::Duration::from_secs(60);
