//! What is at a path: all of it that is replicated, but the content of files.

use std::collections::BTreeMap;

/// The longest extended attributes that one object may have, names and values together. The kernel
/// allows 64 KiB of names and for each a value of as much; no program comes near.
pub const EXTENDED_BYTES_MAX: usize = 256 * 1024;

/// A moment of the calendar, as file systems store it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Since 1970; before it, negative.
    pub seconds: i64,
    /// Less than a second more.
    pub nanos: u32,
}

/// What kind of thing it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file of so many bytes.
    File {
        /// How many.
        size: u64,
        /// Whether it has holes: fewer of its bytes take up space.
        sparse: bool,
    },
    /// A symbolic link, to any bytes.
    Link {
        /// Where it says.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket that somebody listens on, or did.
    Socket,
    /// A device.
    Device {
        /// Of blocks, or of characters.
        block: bool,
        /// Which driver.
        major: u32,
        /// Which of its devices.
        minor: u32,
    },
}

/// What is known of it besides. Numbers, not names, of owners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Rights, with the bits for set-user-id, set-group-id and sticky: 12 bits. A symbolic link's
    /// mean nothing.
    pub mode: u32,
    /// Number of the user.
    pub owner: u32,
    /// Number of the group.
    pub group: u32,
    /// When its content changed last.
    pub modified: Time,
    /// Extended attributes, access control lists among them (`system.posix_acl_*`), as the kernel
    /// keeps them.
    pub extended: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What it is.
    pub kind: Kind,
    /// And how.
    pub attributes: Attributes,
}

/// Whether an extended attribute is replicated. Not what belongs to one machine: labels of its
/// security policy, what a file system keeps there for itself.
pub fn is_replicated(name: &[u8]) -> bool {
    let begins = |with: &[u8]| name.starts_with(with);
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => begins(b"user.") || (begins(b"trusted.") && !begins(b"trusted.overlay.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_one_machine_stay_there() {
        for name in [
            "user.a",
            "trusted.a",
            "security.capability",
            "system.posix_acl_default",
        ] {
            assert!(is_replicated(name.as_bytes()), "{name}");
        }
        for name in [
            "security.selinux",
            "security.ima",
            "trusted.overlay.opaque",
            "system.nfs4_acl",
            "btrfs.compression",
        ] {
            assert!(!is_replicated(name.as_bytes()), "{name}");
        }
    }
}
