//! What can go wrong, whose fault it is, and what to do.

use core::time::Duration;
use std::io;
use std::path::PathBuf;

use evenkeel_core::names::NodeId;

/// The log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be opened or made.
    #[error(
        "open the log {}: {source} (the state directory must exist and belong to the user that runs evenkeel)",
        path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has the file open.
    #[error(
        "open the log {}: another process uses it (is a second evenkeel running with this state directory?)",
        path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is no log, or it is damaged.
    #[error(
        "read the log {}: it is damaged: {detail} (move the file away, start the node again and run `evenkeel readmit` with its name; the other voters still have every decision)",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A newer evenkeel wrote the file.
    #[error(
        "read the log {}: it has format {found}, this evenkeel reads up to {known} (run the newer evenkeel again)",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u8,
        /// The newest format that is known.
        known: u8,
    },
    /// The file belongs to another node.
    #[error(
        "read the log {}: it belongs to another node (was the state directory copied? every node needs its own)",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// No space left.
    #[error("{doing} {}: the disk is full (free some space, then start the node again)", path.display())]
    Full {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file system is read-only.
    #[error(
        "{doing} {}: the file system is read-only (look at the kernel's log for disk errors, remount it, then start the node again)",
        path.display()
    )]
    ReadOnly {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The log has reached its bound.
    #[error(
        "write the log {}: it would grow past its bound of {bound} bytes (snapshots are not being taken: look for earlier errors)",
        path.display()
    )]
    TooBig {
        /// The file.
        path: PathBuf,
        /// The bound.
        bound: u64,
    },
    /// Any other fault of the disk.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An earlier write failed, so nothing more is written.
    #[error("write the log: an earlier write failed")]
    Failed,
}

/// The engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// The log.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// This node is not among the voters.
    #[error("start the engine: node {0:?} is not among the voters")]
    NotAVoter(NodeId),
    /// The timing makes no sense.
    #[error("start the engine: the timing does not fit together: {0}")]
    Timing(String),
    /// The log was written for other voters.
    #[error(
        "start the engine: the log was written for other voters (they are fixed when a cluster is made; put the former nodes back into the file, or replace a dead voter with `evenkeel readmit`)"
    )]
    OtherVoters,
    /// A log with nothing in it cannot begin a new generation.
    #[error(
        "begin a new generation: this node's log is empty (recover on a node that has served or voted before)"
    )]
    NothingToRecover,
    /// The log thread could not be started.
    #[error("start the log thread: {0}")]
    Thread(io::Error),
    /// What is stored cannot be brought together.
    #[error("start the engine: {0}")]
    Engine(String),
}

/// The voters were not made whole again. It may still happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WholeError {
    /// The engine refused.
    #[error("make all nodes voters again: {0}")]
    Refused(String),
    /// Not agreed on within the time.
    #[error("make all nodes voters again: not agreed on within {0:?}")]
    TimedOut(Duration),
}

/// A request did not bring a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No way to the peer now.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No reply in time.
    #[error("no reply in time")]
    TimedOut,
}

/// A proposal was not acknowledged. Unless said otherwise it may still take effect; proposing it
/// again with the same request id is safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The payload is larger than an entry may be. It has no effect.
    #[error("propose an entry of {found} bytes: at most {bound} are allowed")]
    TooBig {
        /// Its size.
        found: usize,
        /// The bound.
        bound: usize,
    },
    /// Nobody led within the time.
    #[error(
        "propose an entry: no leader within {0:?} (is a majority of voters running and connected?)"
    )]
    NoLeader(Duration),
    /// A leader was there but did not acknowledge within the time.
    #[error("propose an entry: not acknowledged within {0:?} (it may still take effect)")]
    TimedOut(Duration),
    /// This node does not lead in the term that was asked for, or not any more.
    #[error("propose an entry: this node leads no more (what it had begun may still take effect)")]
    NotLeading,
    /// Too many entries wait for a majority. It has no effect.
    #[error("propose an entry: too many entries wait for a majority of voters")]
    Busy,
    /// The engine has stopped.
    #[error("propose an entry: the engine has stopped")]
    Stopped,
}

/// Leadership did not move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This node does not lead; who does, if known.
    #[error("hand over leadership: this node does not lead")]
    NotLeader(Option<NodeId>),
    /// The node is no voter.
    #[error("hand over leadership: node {0:?} is not a voter")]
    NotAVoter(NodeId),
    /// The other node is not there, or would not take it: it does not vote now, or its disk is
    /// slow. Nothing has changed.
    #[error("hand over leadership: node {0:?} is away or would not take it now")]
    Refused(NodeId),
    /// The other node did not take it within the time.
    #[error("hand over leadership: node {0:?} did not take it within {1:?}")]
    TimedOut(NodeId, Duration),
    /// The engine has stopped.
    #[error("hand over leadership: the engine has stopped")]
    Stopped,
}
