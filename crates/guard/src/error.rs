//! What can go wrong when the guard is made or changed.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::{ADDRESSES_MAX, GROUPS_MAX};

/// Why the guard could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Neither mechanism works here. The text names both reasons.
    #[error(
        "neither kernel mechanism is available: eBPF: {bpf}; nftables: {nft} (run as root, or in a \
         user namespace that owns its network namespace)"
    )]
    NoBackend {
        /// Why eBPF is absent.
        bpf: String,
        /// Why nftables is absent.
        nft: String,
    },
    /// A name that cannot be part of a pin or table.
    #[error("{what} is empty")]
    EmptyName {
        /// Which name: cluster or node.
        what: &'static str,
    },
    /// Another process that still lives has this guard.
    #[error(
        "another process guards this cluster and node here (netlink port {owner} owns the nftables \
         table {table}): stop it first"
    )]
    InUse {
        /// The table.
        table: String,
        /// Port of the netlink socket; usually the number of the process.
        owner: u32,
    },
    /// Only nftables can drop attempts to connect and nothing else.
    #[error(
        "hold attempts to connect: this guard works without nftables (install support for nf_tables \
         in the netdev family, or put up with attempts that fail while a group moves)"
    )]
    CannotHold,
    /// What a resumed guard goes on with is not what is there.
    #[error("a part of the guard was taken away while nobody kept it: it has to begin anew")]
    Changed,
    /// A kernel interface refused.
    #[error("{what}: {source}")]
    Kernel {
        /// What was attempted, on what.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The bpffs could not be used.
    #[error("bpffs at {}: {source}", path.display())]
    Bpffs {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// More groups than the guard has places for.
    #[error("more than {GROUPS_MAX} groups since the daemon started")]
    TooManyGroups,
    /// Two groups that the table could not tell apart.
    #[error("the names of groups {one:?} and {other:?} are too alike in number: rename one")]
    AlikeGroups {
        /// The group that was to be guarded.
        one: evenkeel_core::GroupId,
        /// The group that is.
        other: evenkeel_core::GroupId,
    },
    /// More addresses than the guard has places for.
    #[error("more than {ADDRESSES_MAX} addresses, {address} is one too many")]
    TooManyAddresses {
        /// The first that did not fit.
        address: IpAddr,
    },
}

impl GuardError {
    /// A refusal of the kernel with what was attempted.
    pub(crate) fn kernel(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Kernel {
            what: what.into(),
            source: source.into(),
        }
    }

    /// The kernel does not know the interface at all.
    pub(crate) fn is_unsupported(&self) -> bool {
        use rustix::io::Errno;
        let unsupported = [
            Errno::OPNOTSUPP,
            Errno::PROTONOSUPPORT,
            Errno::INVAL,
            Errno::NOSYS,
        ];
        match self {
            Self::Kernel { source, .. } | Self::Bpffs { source, .. } => source
                .raw_os_error()
                .is_some_and(|code| unsupported.iter().any(|errno| errno.raw_os_error() == code)),
            Self::NoBackend { .. }
            | Self::EmptyName { .. }
            | Self::InUse { .. }
            | Self::TooManyGroups
            | Self::AlikeGroups { .. }
            | Self::TooManyAddresses { .. }
            | Self::CannotHold
            | Self::Changed => false,
        }
    }
}
