//! The first words between two nodes: who, of which cluster, in which life.
//!
//! What was added to the first form follows it: older programs do not look there, and where it is
//! missing an older program spoke.

use evenkeel_core::{Epoch, Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use super::parts::{EpochForm, IncarnationForm};
use crate::WireError;

/// The longest hello.
pub const HELLO_LENGTH_MAX: usize = 4096;

/// In the place of the last index: the log cannot be read now, so that what is said of it, and
/// of what the node knows, means nothing.
pub const LOG_UNREAD: u64 = u64::MAX;

/// What a node says when a connection comes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Name of its cluster.
    pub cluster: String,
    /// The speaker.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Version of its program, for people.
    pub version: String,
    /// Digest of who votes, by its file.
    pub membership: u64,
    /// Index of the last entry in its log: zero says that it remembers nothing, [`LOG_UNREAD`]
    /// that it does not know.
    pub last_log_index: u64,
    /// The generation of the agreed log that it obeys.
    pub generation: u64,
    /// Whether this life takes part (`core::generation`).
    pub settled: bool,
    /// The lives of all nodes in the speaker's agreed state: a node that remembers
    /// nothing learns here whether it is new or has lost its memory.
    pub knows: Vec<(NodeId, Incarnation)>,
    /// Lives of the speaker's state directory, this one perhaps among them, oldest first: one that
    /// was restored from a backup lacks lives that others know.
    pub past: Vec<Incarnation>,
    /// The last entry in the speaker's agreed state.
    pub applied: Epoch,
}

/// What was added.
#[derive(Serialize, Deserialize)]
struct AddedForm {
    past: Vec<IncarnationForm>,
    applied: EpochForm,
}

#[derive(Serialize, Deserialize)]
struct HelloForm {
    cluster: String,
    node: u64,
    incarnation: IncarnationForm,
    version: String,
    membership: u64,
    last_log_index: u64,
    knows: Vec<(u64, IncarnationForm)>,
    generation: u64,
    settled: bool,
}

impl Hello {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let added = AddedForm {
            past: self.past.iter().map(|life| (*life).into()).collect(),
            applied: self.applied.into(),
        };
        crate::encode(&(self.first_form(), added))
    }

    fn first_form(&self) -> HelloForm {
        HelloForm {
            cluster: self.cluster.clone(),
            node: self.node.0,
            incarnation: self.incarnation.into(),
            version: self.version.clone(),
            membership: self.membership,
            last_log_index: self.last_log_index,
            knows: self
                .knows
                .iter()
                .map(|(node, life)| (node.0, (*life).into()))
                .collect(),
            generation: self.generation,
            settled: self.settled,
        }
    }

    /// Reads the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (form, rest): (HelloForm, _) = crate::decode_part("hello", HELLO_LENGTH_MAX, bytes)?;
        let not_said = AddedForm {
            past: Vec::new(),
            applied: Epoch::NONE.into(),
        };
        let added = crate::decode_added("hello", rest)?.map_or(not_said, |(added, _)| added);
        Ok(Self {
            cluster: form.cluster,
            node: NodeId(form.node),
            incarnation: form.incarnation.into(),
            version: form.version,
            membership: form.membership,
            last_log_index: form.last_log_index,
            generation: form.generation,
            settled: form.settled,
            knows: form
                .knows
                .into_iter()
                .map(|(node, life)| (NodeId(node), life.into()))
                .collect(),
            past: added.past.into_iter().map(Into::into).collect(),
            applied: added.applied.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_also_by_the_program_before() {
        let mut hello = Hello {
            cluster: "shop".to_owned(),
            node: NodeId(u64::MAX),
            incarnation: Incarnation {
                counter: 3,
                nonce: u64::MAX,
            },
            version: "0.1.0".to_owned(),
            membership: 9,
            last_log_index: 4,
            generation: u64::MAX,
            settled: true,
            knows: vec![(
                NodeId(1),
                Incarnation {
                    counter: 1,
                    nonce: 2,
                },
            )],
            past: vec![Incarnation {
                counter: 2,
                nonce: 9,
            }],
            applied: Epoch { term: 3, index: 8 },
        };
        assert_eq!(Hello::decode(&hello.encode()).as_ref(), Ok(&hello));
        let shorter = crate::encode(&hello.first_form());
        hello.past.clear();
        hello.applied = Epoch::NONE;
        assert_eq!(Hello::decode(&shorter), Ok(hello));
    }
}
