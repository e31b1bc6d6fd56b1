//! Why a group moved: carried inside the log entry that moves it, so that every node
//! can explain every move for ever (DESIGN 3.3, S6).

use core::fmt;
use core::time::Duration;

use crate::names::{CheckName, NodeId};

/// The most facts that one piece of evidence carries: more would not be read.
pub const FACTS_MAX: usize = 12;
/// The longest fact, in bytes: a line of a terminal.
pub const FACT_LENGTH_MAX: usize = 200;

/// What made the leader assign a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The group had no holder yet.
    FirstStart,
    /// A majority of voters heard no Renew.
    HolderSilent {
        /// How many voters reported it.
        voters: u32,
        /// Out of how many.
        of: u32,
        /// The shortest silence among them.
        silence: Duration,
    },
    /// The holder speaks but its proven deadline stands still: it hears nobody.
    HolderDeaf {
        /// How long it has stood still.
        standing: Duration,
    },
    /// The rule of the group holds for its holder.
    RuleHolds,
    /// The holder could not serve: it says so itself, or it does not vote.
    HolderUnready,
    /// The configuration does not name the holder for the group any more.
    HolderUnlisted,
    /// An operator asked for it.
    Operator,
    /// The holder's daemon was told to stop.
    HolderStopping,
    /// The holder's daemon has started anew and cannot resume the old epoch.
    HolderRestarted,
    /// The holder gave the epoch up and nobody else took over.
    HolderReleased,
    /// A voter's floor is above the epoch: an assignment that was never committed.
    FloorAbove {
        /// The voter that refuses.
        voter: NodeId,
    },
    /// A preferred node has been well for as long as the file asks.
    Failback,
    /// An operator declared the other voters stopped.
    Recovered,
    /// The addresses of the group were changed in the configuration.
    Reconfigured,
    /// An operator drains the holder: `evenkeel drain`.
    Drained,
}

impl Cause {
    /// Whether the old holder failed the group, so that it is held down.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::HolderSilent { .. }
            | Self::HolderDeaf { .. }
            | Self::RuleHolds
            | Self::HolderUnready
            | Self::HolderRestarted => true,
            Self::FirstStart
            | Self::HolderUnlisted
            | Self::Operator
            | Self::HolderStopping
            | Self::HolderReleased
            | Self::FloorAbove { .. }
            | Self::Failback
            | Self::Recovered
            | Self::Reconfigured
            | Self::Drained => false,
        }
    }

    /// Whether what failed is what the old holder served with, and not its machine or network.
    pub fn is_of_services(&self) -> bool {
        match self {
            Self::RuleHolds | Self::HolderUnready => true,
            Self::HolderSilent { .. }
            | Self::HolderDeaf { .. }
            | Self::HolderRestarted
            | Self::FirstStart
            | Self::HolderUnlisted
            | Self::Operator
            | Self::HolderStopping
            | Self::HolderReleased
            | Self::FloorAbove { .. }
            | Self::Failback
            | Self::Recovered
            | Self::Reconfigured
            | Self::Drained => false,
        }
    }

    /// Whether the holder is well and moves on purpose, so that there is time to ask it to
    /// finish what it has begun.
    pub fn is_planned(&self) -> bool {
        match self {
            Self::Operator
            | Self::HolderStopping
            | Self::HolderUnlisted
            | Self::Failback
            | Self::Reconfigured
            | Self::Drained => true,
            Self::FirstStart
            | Self::HolderUnready
            | Self::HolderSilent { .. }
            | Self::HolderDeaf { .. }
            | Self::RuleHolds
            | Self::HolderRestarted
            | Self::HolderReleased
            | Self::FloorAbove { .. }
            | Self::Recovered => false,
        }
    }

    /// One word for logs and programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::FirstStart => "first-start",
            Self::HolderSilent { .. } => "holder-silent",
            Self::HolderDeaf { .. } => "holder-deaf",
            Self::RuleHolds => "rule",
            Self::HolderUnready => "holder-unready",
            Self::HolderUnlisted => "holder-unlisted",
            Self::Operator => "operator",
            Self::HolderStopping => "holder-stopping",
            Self::HolderRestarted => "holder-restarted",
            Self::HolderReleased => "holder-released",
            Self::FloorAbove { .. } => "floor-above",
            Self::Failback => "failback",
            Self::Recovered => "recovered",
            Self::Reconfigured => "reconfigured",
            Self::Drained => "drained",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstStart => write!(f, "the group had no holder yet"),
            Self::HolderSilent {
                voters,
                of,
                silence,
            } => write!(
                f,
                "{voters} of {of} voters had heard nothing from the holder for at least {} ms",
                silence.as_millis()
            ),
            Self::HolderDeaf { standing } => write!(
                f,
                "the holder was heard but heard nobody: its lease had not advanced for {} ms",
                standing.as_millis()
            ),
            Self::RuleHolds => write!(f, "the group's rule said that the holder was unfit"),
            Self::HolderUnready => write!(f, "the holder could not serve"),
            Self::HolderUnlisted => write!(
                f,
                "the configuration did not name the holder for the group any more"
            ),
            Self::Operator => write!(f, "an operator asked for it"),
            Self::HolderStopping => write!(f, "the holder's daemon was told to stop"),
            Self::HolderRestarted => write!(f, "the holder's daemon had started anew"),
            Self::HolderReleased => write!(f, "the holder had given the group up"),
            Self::FloorAbove { .. } => {
                write!(
                    f,
                    "a voter had seen a newer assignment that was never agreed on"
                )
            }
            Self::Failback => write!(f, "a preferred node had been well for long enough"),
            Self::Recovered => write!(f, "an operator declared the other voters stopped"),
            Self::Reconfigured => write!(f, "the addresses of the group were changed"),
            Self::Drained => write!(f, "an operator drains the holder"),
        }
    }
}

/// What the leader thought of one node when it decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// The node.
    pub node: NodeId,
    /// What spoke for or against it, for people.
    pub why: String,
}

/// A check that took part in a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFact {
    /// The check.
    pub check: CheckName,
    /// Who said so.
    pub said_by: NodeId,
    /// What it said, bounded to [`FACT_LENGTH_MAX`].
    pub detail: String,
}

/// The whole reason of one assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What made the leader act.
    pub cause: Cause,
    /// Who held the group before.
    pub from: Option<NodeId>,
    /// Who decided.
    pub decided_by: NodeId,
    /// When, in milliseconds of the decider's calendar clock: for people only.
    pub wall_ms: u64,
    /// How long the leader had known the evidence before it decided.
    pub known_for: Duration,
    /// Checks that failed.
    pub checks: Vec<CheckFact>,
    /// Every node of the group as the leader saw it.
    pub considered: Vec<Considered>,
}

/// `text` shortened to at most `max` bytes, at a character's border.
pub fn shortened(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub(3);
    while end > 0 && !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}
