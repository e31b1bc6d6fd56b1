//! What is worth saying: every line of the log about a decision or a move, in one
//! enum, so that each move can be explained from the log alone.

use core::fmt;
use core::fmt::Write;
use core::time::Duration;

use crate::evidence::{Cause, Evidence};
use crate::names::{Epoch, GroupId, NodeId};

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loudness {
    /// For the record.
    Info,
    /// Somebody should look at it by day.
    Warning,
}

/// One thing worth saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The leader proposes a move.
    Deciding {
        /// The group.
        group: GroupId,
        /// To where.
        to: NodeId,
        /// From where, why, and what was known of each node.
        evidence: Evidence,
    },
    /// The proposal did not get through.
    NotAgreed {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// The leader asks a holder to let its clients go.
    Leaving {
        /// The group.
        group: GroupId,
        /// The holder.
        holder: NodeId,
        /// To where the group is to move.
        to: NodeId,
        /// Why.
        cause: Cause,
    },
    /// This node lets the clients of a group go.
    Draining {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
    },
    /// It has.
    LetGo {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
        /// Connections that were still busy.
        busy: u32,
        /// How long it took.
        took: Duration,
    },
    /// The planned move did not come: this node takes new connections again.
    Stayed {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: Epoch,
    },
    /// An assignment is agreed.
    Assigned {
        /// The group.
        group: GroupId,
        /// Its epoch.
        epoch: Epoch,
        /// The holder.
        holder: NodeId,
        /// Why.
        cause: Cause,
    },
    /// This node serves the group now.
    Opened {
        /// The group.
        group: GroupId,
        /// Its epoch.
        epoch: Epoch,
        /// Since the assignment reached this node.
        after: Duration,
    },
    /// This node's lease ran out: the group is mute here.
    Lapsed {
        /// The group.
        group: GroupId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// This node gave the group up.
    Released {
        /// The group.
        group: GroupId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// A check changed, as this node asks it.
    Check {
        /// The group.
        group: GroupId,
        /// The check's name.
        check: String,
        /// The judged node.
        judged: NodeId,
        /// What it says now.
        state: &'static str,
        /// What exactly.
        detail: String,
    },
    /// So many more changed than lines were written.
    MoreChecks {
        /// How many.
        more: u32,
    },
    /// A node went silent or came back, as this node hears it.
    Node {
        /// The node.
        node: NodeId,
        /// Heard or not.
        heard: bool,
    },
    /// An operator drains a node.
    Drained {
        /// The node.
        node: NodeId,
        /// For how long; none: until an operator ends it.
        lasting: Option<Duration>,
    },
    /// A node is drained no more.
    Undrained {
        /// The node.
        node: NodeId,
    },
    /// A node's failures of a group are forgotten.
    Forgiven {
        /// The group.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
    /// Leadership.
    Leads {
        /// Who, if anybody.
        leader: Option<NodeId>,
    },
}

impl Said {
    /// How loud.
    pub fn loudness(&self) -> Loudness {
        match self {
            Self::Lapsed { .. } | Self::NotAgreed { .. } | Self::Stayed { .. } => Loudness::Warning,
            Self::MoreChecks { .. } => Loudness::Warning,
            Self::LetGo { busy, .. } if *busy > 0 => Loudness::Warning,
            Self::Check { state, .. } if *state == "failing" => Loudness::Warning,
            Self::Node { heard: false, .. } => Loudness::Warning,
            Self::Deciding { .. }
            | Self::Leaving { .. }
            | Self::Draining { .. }
            | Self::LetGo { .. }
            | Self::Assigned { .. }
            | Self::Opened { .. }
            | Self::Released { .. }
            | Self::Check { .. }
            | Self::Node { .. }
            | Self::Drained { .. }
            | Self::Undrained { .. }
            | Self::Forgiven { .. }
            | Self::Leads { .. } => Loudness::Info,
        }
    }

    /// The line, with names instead of numbers.
    pub fn text(&self, name: &dyn Names) -> String {
        Line { said: self, name }.to_string()
    }
}

/// Names for numbers.
pub trait Names {
    /// The name of a node.
    fn node(&self, node: NodeId) -> String;
    /// The name of a group.
    fn group(&self, group: GroupId) -> String;
}

impl Names for crate::topology::Topology {
    fn node(&self, node: NodeId) -> String {
        self.node_name(node)
    }
    fn group(&self, group: GroupId) -> String {
        self.group_name(group)
    }
}

/// What was known, as a continuation of a line.
fn facts(evidence: &Evidence, name: &dyn Names) -> String {
    let mut text = String::new();
    for fact in &evidence.checks {
        let by = name.node(fact.said_by);
        // Writing to a string cannot fail.
        let _ = write!(text, "; {} fails, {by} says: {}", fact.check, fact.detail);
    }
    for one in &evidence.considered {
        let _ = write!(text, "; {} is considered: {}", name.node(one.node), one.why);
    }
    text
}

struct Line<'a> {
    said: &'a Said,
    name: &'a dyn Names,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = |id: &NodeId| self.name.node(*id);
        let group = |id: &GroupId| self.name.group(*id);
        match self.said {
            Said::Deciding {
                group: g,
                to,
                evidence,
            } => write!(
                f,
                "{}: deciding to move from {} to {} because {} (known for {} ms{})",
                group(g),
                evidence
                    .from
                    .as_ref()
                    .map_or_else(|| "nobody".to_owned(), node),
                node(to),
                evidence.cause,
                evidence.known_for.as_millis(),
                facts(evidence, self.name)
            ),
            Said::NotAgreed { group: g, reason } => {
                write!(f, "{}: the move was not agreed on: {reason}", group(g))
            }
            Said::Leaving {
                group: g,
                holder,
                to,
                cause,
            } => write!(
                f,
                "{}: {} shall let its clients go, so that {} takes over because {cause}",
                group(g),
                node(holder),
                node(to)
            ),
            Said::Draining { group: g, epoch } => write!(
                f,
                "{}: new connections wait, requests in flight finish (epoch {epoch})",
                group(g)
            ),
            Said::LetGo {
                group: g,
                epoch,
                busy,
                took,
            } => write!(
                f,
                "{}: drained within {} ms, {busy} connections still busy (epoch {epoch})",
                group(g),
                took.as_millis()
            ),
            Said::Stayed { group: g, epoch } => write!(
                f,
                "{}: the planned move did not come, new connections are taken again (epoch {epoch})",
                group(g)
            ),
            Said::Assigned {
                group: g,
                epoch,
                holder,
                cause,
            } => {
                write!(
                    f,
                    "{}: assigned to {} in epoch {epoch} because {cause}",
                    group(g),
                    node(holder)
                )
            }
            Said::Opened {
                group: g,
                epoch,
                after,
            } => write!(
                f,
                "{}: open here in epoch {epoch}, {:.1} ms after the assignment came",
                group(g),
                after.as_secs_f64() * 1e3
            ),
            Said::Lapsed { group: g, epoch } => write!(
                f,
                "{}: mute here: no majority of voters renews the lease of epoch {epoch}",
                group(g)
            ),
            Said::Released { group: g, epoch } => {
                write!(f, "{}: closed here, epoch {epoch} given up", group(g))
            }
            Said::MoreChecks { more } => write!(
                f,
                "{more} more changes of checks within a moment: `evenkeel status` shows how they are"
            ),
            Said::Check {
                group: g,
                check,
                judged,
                state,
                detail,
            } => {
                write!(
                    f,
                    "{}: check {check} of {} is {state}: {detail}",
                    group(g),
                    node(judged)
                )
            }
            Said::Node {
                node: n,
                heard: true,
            } => write!(f, "{} is heard", node(n)),
            Said::Node {
                node: n,
                heard: false,
            } => write!(f, "{} is not heard any more", node(n)),
            Said::Drained { node: n, lasting } => {
                let until = match lasting {
                    Some(span) => format!("for {} s", span.as_secs()),
                    None => "until `evenkeel undrain`".to_owned(),
                };
                write!(
                    f,
                    "{} is drained {until}: its groups leave it, and it gets none while others could serve",
                    node(n)
                )
            }
            Said::Undrained { node: n } => write!(f, "{} is drained no more", node(n)),
            Said::Forgiven { group: g, node: n } => write!(
                f,
                "{}: {} has been well for long: what it failed is forgotten",
                group(g),
                node(n)
            ),
            Said::Leads {
                leader: Some(leader),
            } => write!(f, "{} leads", node(leader)),
            Said::Leads { leader: None } => write!(f, "nobody leads: no majority agrees"),
        }
    }
}
