//! What names one guard on a machine, and how it is taken away again.

use std::path::PathBuf;

use crate::nft;
use crate::{GuardError, bpf};

/// Which mechanisms to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backends {
    /// Both, each as far as the kernel allows it.
    #[default]
    Both,
    /// eBPF alone: for tests and benchmarks.
    BpfOnly,
    /// nftables alone: for tests and benchmarks.
    NftOnly,
}

/// What names one guard on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// Where the bpffs is: used if one is mounted there, otherwise the directory is
    /// made and one is mounted. Pins are keyed by cluster, node and network namespace,
    /// so that several guards may share it.
    pub bpffs: PathBuf,
    /// Which mechanisms to use.
    pub backends: Backends,
}

/// How much of a name is shown in a key; the digest behind it tells names apart.
const NAME_SHOWN: usize = 40;

/// FNV-1a, 64 bits: equal in every version, so that each finds what another left.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// `name` in the characters that names in a bpffs and of a table may have (no dot).
fn shown(name: &str) -> String {
    let fits = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '_'
        }
    };
    name.chars().take(NAME_SHOWN).map(fits).collect()
}

impl Settings {
    /// Refuses names that name nothing.
    pub(crate) fn check(&self) -> Result<(), GuardError> {
        for (what, name) in [
            ("name of the cluster", &self.cluster),
            ("name of the node", &self.node),
        ] {
            if name.is_empty() {
                return Err(GuardError::EmptyName { what });
            }
        }
        Ok(())
    }

    /// Name of the table, and the first part of the directory of pins.
    pub(crate) fn key(&self) -> String {
        let digest = self.digest();
        format!(
            "evenkeel-{}-{}-{digest:08x}",
            shown(&self.cluster),
            shown(&self.node)
        )
    }

    /// Tells guards apart where there is no room for names.
    pub(crate) fn digest(&self) -> u32 {
        digest(format!("{}\0{}", self.cluster, self.node).as_bytes()) as u32
    }

    /// Directory of the pins. Numbers of network namespaces are used again after the
    /// end of one; what is found under an old one is closed and its links are dead.
    pub(crate) fn pins(&self) -> Result<PathBuf, GuardError> {
        let stat = rustix::fs::stat("/proc/thread-self/ns/net")
            .map_err(|error| GuardError::kernel("find the network namespace", error))?;
        Ok(self.bpffs.join(format!("{}-{}", self.key(), stat.st_ino)))
    }
}

/// Takes away everything that a guard with these settings left in this network
/// namespace: pins, links and the table. Nothing is enforced afterwards, so the
/// addresses must be off the devices before.
///
/// # Errors
///
/// [`GuardError::Kernel`] or [`GuardError::Bpffs`] if something is there and cannot be
/// removed.
pub fn uninstall(settings: &Settings) -> Result<(), GuardError> {
    let directory = settings.pins()?;
    let pins = bpf::remove_pins(&settings.bpffs, &directory);
    // A kernel without nftables has no table of ours.
    let table = match nft::delete(&settings.key()) {
        Err(error) if error.is_unsupported() => Ok(()),
        answer => answer,
    };
    pins.and(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(cluster: &str, node: &str) -> Settings {
        Settings {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            bpffs: PathBuf::from("/run/pins"),
            backends: Backends::Both,
        }
    }

    /// A later version must find what an earlier one left.
    #[test]
    fn keys_are_stable() {
        assert_eq!(
            settings("shop", "ams1").key(),
            format!("evenkeel-shop-ams1-{:08x}", {
                digest(b"shop\0ams1") as u32
            })
        );
        assert_eq!(digest(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn names_that_look_alike_have_different_keys() {
        assert_ne!(settings("a.b", "c").key(), settings("a_b", "c").key());
        assert_ne!(settings("a-b", "c").key(), settings("a", "b-c").key());
        assert!(!settings("a.b/c", "d").key().contains(['.', '/']));
    }

    #[test]
    fn a_missing_name_is_refused() {
        assert!(matches!(
            settings("", "a").check(),
            Err(GuardError::EmptyName { .. })
        ));
        assert!(settings("a", "b").check().is_ok());
    }
}
