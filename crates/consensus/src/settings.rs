//! What is chosen for one engine: who votes, how patient elections are, how much is kept.

use core::time::Duration;

use evenkeel_core::names::NodeId;

/// The largest payload of one entry, in bytes: the longest command of the cluster, an assignment
/// of 4,096 IPv6 addresses with the names of their interfaces (140 KiB) and its evidence, fits; and
/// a full window of unapplied entries stays in the tens of megabytes.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// The largest request or reply between two engines, in bytes: a snapshot and its frame.
pub const MESSAGE_BYTES_MAX: usize = SNAPSHOT_BYTES_MAX + 64 * 1024;

/// The largest snapshot, in bytes. It travels in one request.
pub const SNAPSHOT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How many entries may be in a leader's log without being committed. More can only pile up while
/// there is no majority; then refusing is kinder than filling the disk.
pub(crate) const UNCOMMITTED_MAX: u64 = 256;

/// How many request ids are remembered as applied: enough for every retry within minutes at the
/// pace of a cluster, some 200 kB of memory.
pub const REQUESTS_REMEMBERED: usize = 4096;

/// How many events wait for the driver. A driver that is this far behind re-reads state instead.
pub(crate) const EVENTS_WAITING_MAX: usize = 1024;

/// How many writes wait for the log thread. When they are that many the disk is stuck, and the
/// engine (not the runtime) waits.
pub(crate) const WRITES_WAITING_MAX: usize = 256;

/// How many writes share one transaction, to bound its size.
pub(crate) const WRITES_PER_COMMIT_MAX: usize = 64;

/// How many bytes of entries one append message carries, unless a single entry is larger.
pub(crate) const APPEND_BYTES_MAX: usize = 512 * 1024;

/// How many entries one append message carries.
pub(crate) const APPEND_ENTRIES_MAX: u64 = 64;

/// How patient elections are.
///
/// A follower waits `election_max` and then a drawn `election_min..election_max` before it asks
/// for votes, so a lost leader is replaced after `election_max + election_min` to
/// `2 * election_max`, plus two round trips and two writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElectionTiming {
    /// How often the leader tells the others that it lives.
    pub heartbeat: Duration,
    /// The shortest drawn wait before an election.
    pub election_min: Duration,
    /// The longest drawn wait, and how long a follower trusts a leader it heard.
    pub election_max: Duration,
    /// An append that takes longer than this makes a leader give leadership up (rule 11).
    pub append_slow: Duration,
    /// How long a proposal is tried before it is given up.
    pub propose_within: Duration,
}

impl ElectionTiming {
    /// For nodes within a few milliseconds of each other: a lost leader is replaced within 0.9 s
    /// and neither busy loops nor a saturated disk provoke an election. Three heartbeats may be
    /// lost before a follower stops trusting its leader.
    pub const LAN: Self = Self {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(200),
        election_max: Duration::from_millis(400),
        append_slow: Duration::from_millis(300),
        propose_within: Duration::from_secs(3),
    };

    /// For data centres up to 150 ms apart.
    pub const WAN: Self = Self {
        heartbeat: Duration::from_millis(250),
        election_min: Duration::from_millis(1000),
        election_max: Duration::from_millis(2000),
        append_slow: Duration::from_millis(1000),
        propose_within: Duration::from_secs(10),
    };
}

impl Default for ElectionTiming {
    fn default() -> Self {
        Self::LAN
    }
}

/// How much is kept, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Disk space taken for the log file before it is needed, in bytes (rule 11).
    pub log_reserved_bytes: u64,
    /// The log file never grows past this, in bytes.
    pub log_bytes_max: u64,
    /// A snapshot is taken after so many entries.
    pub snapshot_every: u64,
    /// So many entries stay in the log although a snapshot covers them, for a follower that is
    /// only a little behind.
    pub entries_kept: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Room for several full logs side by side, which copy-on-write needs.
            log_reserved_bytes: 32 * 1024 * 1024,
            log_bytes_max: 256 * 1024 * 1024,
            snapshot_every: 1000,
            entries_kept: 200,
        }
    }
}

/// Everything that one engine must know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub me: NodeId,
    /// All voters, this node among them. Fixed when a cluster is made (rule 8).
    pub voters: Vec<NodeId>,
    /// How patient elections are.
    pub timing: ElectionTiming,
    /// How much is kept.
    pub limits: Limits,
    /// Whether this node votes from the start; whoever says so knows that it never voted, or that
    /// its log shows that it did. Otherwise it takes entries but neither votes nor seeks leadership
    /// until [`Engine::set_voting`](crate::Engine::set_voting) says so.
    pub may_vote: bool,
}

impl Settings {
    /// Settings with the defaults for a local network.
    pub fn new(me: NodeId, voters: Vec<NodeId>) -> Self {
        Self {
            me,
            voters,
            timing: ElectionTiming::default(),
            limits: Limits::default(),
            may_vote: true,
        }
    }
}
