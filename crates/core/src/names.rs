//! Names and identities: of nodes, groups, checks, epochs and processes.

use core::fmt;
use std::sync::Arc;

/// The longest name of a node, group or check, in bytes: it must fit into a host
/// label, a certificate's common name and a line of a status table.
pub const NAME_LENGTH_MAX: usize = 63;

/// Why a text is no name. The text follows "is not a name: ".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFault {
    /// Nothing there.
    Empty,
    /// Longer than [`NAME_LENGTH_MAX`].
    TooLong,
    /// A character other than `a-z A-Z 0-9 . _ -`, or a first one that is no letter
    /// or digit.
    Character(char),
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "it is empty"),
            Self::TooLong => write!(f, "it is longer than {NAME_LENGTH_MAX} bytes"),
            Self::Character(c) => write!(
                f,
                "{c:?} cannot stand there (letters, digits, '.', '_' and '-', a letter or digit first)"
            ),
        }
    }
}

impl std::error::Error for NameFault {}

fn check_name(text: &str) -> Result<(), NameFault> {
    if text.is_empty() {
        return Err(NameFault::Empty);
    }
    if text.len() > NAME_LENGTH_MAX {
        return Err(NameFault::TooLong);
    }
    for (at, c) in text.chars().enumerate() {
        let fits = c.is_ascii_alphanumeric() || (at > 0 && matches!(c, '.' | '_' | '-'));
        if !fits {
            return Err(NameFault::Character(c));
        }
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name written as `text`, or why it is none.
            pub fn new(text: &str) -> Result<Self, NameFault> {
                check_name(text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

name!(
    /// The name of a node, as in the file and in its certificate.
    NodeName
);
name!(
    /// The name of a group.
    GroupName
);
name!(
    /// The name of a check within its group.
    CheckName
);
name!(
    /// The name of a service within its group.
    ServiceName
);

/// FNV-1a, 64 bits: equal on every machine and in every version.
const fn stable_hash(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash ^= bytes[at] as u64;
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

macro_rules! id {
    ($(#[$doc:meta])* $id:ident of $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $id(pub u64);

        impl $id {
            /// The identity that belongs to `name`. The configuration refuses two
            /// names with one identity.
            pub fn of(name: &$name) -> Self {
                Self(stable_hash(name.as_str()))
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }
    };
}

id!(
    /// A node in messages and tables: a stable hash of its name, so that the order
    /// of the file means nothing.
    NodeId of NodeName
);
id!(
    /// A group in messages and tables: a stable hash of its name.
    GroupId of GroupName
);

/// The number of an assignment: the (term, index) of its log entry. Ordered; a later
/// assignment of a group has a greater epoch (DESIGN 3.1 rule 1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// Index of the entry in the log.
    pub index: u64,
}

impl Epoch {
    /// Before every assignment.
    pub const NONE: Self = Self { term: 0, index: 0 };

    /// The epoch as people see it. Committed entries have one index each, so this
    /// grows with every committed assignment.
    pub const fn number(self) -> u64 {
        self.index
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.term, self.index)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// One life of a node's daemon (DESIGN 3.1 rule 8). The counter is durable and raised
/// at each start of the daemon; the nonce is drawn. A worker restarted by its parent
/// continues the same incarnation. Two incarnations with one counter and different
/// nonces are a clone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation {
    /// How often this node's daemon has been started.
    pub counter: u64,
    /// Drawn at that start.
    pub nonce: u64,
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}/{:x}", self.counter, self.nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(NodeName::new("ams1").is_ok());
        assert!(NodeName::new("a.b_c-9").is_ok());
        assert_eq!(NodeName::new(""), Err(NameFault::Empty));
        assert_eq!(NodeName::new("-a"), Err(NameFault::Character('-')));
        assert_eq!(NodeName::new("a b"), Err(NameFault::Character(' ')));
        assert_eq!(NodeName::new(&"x".repeat(64)), Err(NameFault::TooLong));
    }

    /// Stored in logs and sent between versions: it may never change.
    #[test]
    fn identities_are_stable() {
        let id = NodeId::of(&NodeName::new("ams1").expect("a name"));
        assert_eq!(id, NodeId(stable_hash("ams1")));
        assert_eq!(stable_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash("a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn epochs_are_ordered_by_term_first() {
        assert!(Epoch { term: 2, index: 1 } > Epoch { term: 1, index: 9 });
        assert!(Epoch { term: 2, index: 3 } > Epoch { term: 2, index: 2 });
    }
}
