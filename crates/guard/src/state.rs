//! What the guard reports of itself.

/// Whether one mechanism enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// It enforces.
    Active,
    /// It does not, and why.
    Absent(String),
}

impl BackendState {
    /// It enforces.
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Active)
    }
}

/// Which mechanisms enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardState {
    /// eBPF at tcx, the strong one.
    pub bpf: BackendState,
    /// nftables at netdev, the wide one.
    pub nft: BackendState,
}

impl GuardState {
    /// The deadline is enforced as an absolute one: `guard: full`. Otherwise a daemon
    /// frozen in the middle of a renewal can be granted up to one lease too much:
    /// `guard: reduced`.
    pub fn is_full(&self) -> bool {
        self.bpf.is_active()
    }
}

/// What one round of verification had to put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Devices that were covered newly.
    pub devices: usize,
    /// eBPF links that were missing and are attached again.
    pub links: usize,
    /// Pins that were missing and are made again.
    pub pins: usize,
    /// The table, or a part of it, was missing and is made again.
    pub tables: usize,
}

impl Repairs {
    /// Nothing had been taken away. New devices are no repair.
    pub fn is_clean(&self) -> bool {
        self.links == 0 && self.pins == 0 && self.tables == 0
    }
}
