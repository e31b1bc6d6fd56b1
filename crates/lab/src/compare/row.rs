//! The rows of the comparison: what is done to the holder, or to others.

use serde::Serialize;

use crate::client::{QUICK, SLOW};
use crate::fault::Fault;

/// One row: something that is done while a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// Power cut of the holder.
    PowerCut,
    /// The holder's service killed.
    ServiceKilled,
    /// The holder's service hung.
    ServiceHung,
    /// All processes of the holder's daemon stopped, later let go on.
    DaemonFrozen,
    /// All processes of the holder's daemon killed.
    DaemonKilled,
    /// The holder's cable cut in both directions.
    CutBoth,
    /// Nobody hears the holder.
    CutFrom,
    /// The holder hears nobody.
    CutTo,
    /// Power cut of a host that does not hold: the third and the standby in turn, where
    /// there is a third.
    VoterDeath,
    /// The operator orders a move, requests in flight.
    Switchover,
    /// The holder's daemon is told to stop, requests in flight.
    DaemonStopped,
    /// Busy loops on both servers, for a time: nothing should move.
    Load,
}

/// All rows, in the tables' order.
pub(crate) const ROWS: [Row; 12] = [
    Row::PowerCut,
    Row::ServiceKilled,
    Row::ServiceHung,
    Row::DaemonFrozen,
    Row::DaemonKilled,
    Row::CutBoth,
    Row::CutFrom,
    Row::CutTo,
    Row::VoterDeath,
    Row::Switchover,
    Row::DaemonStopped,
    Row::Load,
];

/// When a run can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Once another host than the holder serves steadily.
    Moved,
    /// The same, or once the holder serves steadily again after requests had failed.
    Served,
    /// After a fixed time: nothing should happen.
    Quiet,
    /// After the time that was given for busy loops.
    Loaded,
}

impl Row {
    /// As in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PowerCut => "power cut of the active",
            Self::ServiceKilled => "service killed",
            Self::ServiceHung => "service hung",
            Self::DaemonFrozen => "daemon frozen",
            Self::DaemonKilled => "daemon killed",
            Self::CutBoth => "cut, both directions",
            Self::CutFrom => "cut, from the holder",
            Self::CutTo => "cut, to the holder",
            Self::VoterDeath => "another host dies",
            Self::Switchover => "planned switchover",
            Self::DaemonStopped => "daemon told to stop",
            Self::Load => "busy loops",
        }
    }

    /// What happens in it, for the page that explains the figures.
    pub(crate) fn told(self) -> &'static str {
        match self {
            Self::PowerCut => "the host that holds the address loses its power",
            Self::ServiceKilled => "every process of the holder's Apache is killed",
            Self::ServiceHung => {
                "every process of the holder's Apache is stopped: connections are accepted and \
                 never answered"
            }
            Self::DaemonFrozen => {
                "every process of the failover software on the holder is stopped; Apache and the \
                 kernel go on"
            }
            Self::DaemonKilled => {
                "every process of the failover software on the holder is killed; Apache and the \
                 kernel go on, and nothing starts it again"
            }
            Self::CutBoth => "the holder and its neighbour are cut off from everybody else",
            Self::CutFrom => "nobody but its neighbour hears the holder, which hears all",
            Self::CutTo => "the holder hears nobody but its neighbour, and all hear it",
            Self::VoterDeath => {
                "a host that does not hold loses its power: the third one and the standby in \
                 turn, or the standby where there is no third"
            }
            Self::Switchover => "the operator orders a move; 50 requests are in flight",
            Self::DaemonStopped => {
                "the failover software on the holder is told to stop as an init system does; 50 \
                 requests are in flight"
            }
            Self::Load => "busy loops on both servers; whatever moves is a false takeover",
        }
    }

    /// The fault that befalls the holder, if it is one.
    pub(crate) fn fault(self) -> Option<Fault> {
        Some(match self {
            Self::PowerCut => Fault::PowerCut,
            Self::ServiceKilled => Fault::ServiceKilled,
            Self::ServiceHung => Fault::ServiceHung,
            Self::DaemonFrozen => Fault::DaemonFrozen,
            Self::DaemonKilled => Fault::DaemonKilled,
            Self::CutBoth => Fault::CutBoth,
            Self::CutFrom => Fault::CutFromHost,
            Self::CutTo => Fault::CutToHost,
            Self::VoterDeath | Self::Switchover | Self::DaemonStopped | Self::Load => return None,
        })
    }

    /// What the client asks for: planned moves have requests in flight.
    pub(crate) fn page(self) -> &'static str {
        match self {
            Self::Switchover | Self::DaemonStopped => SLOW,
            _ => QUICK,
        }
    }

    /// When a run of it can end.
    pub(crate) fn end(self) -> End {
        match self {
            // Restarted on the spot is as good for a client.
            Self::ServiceKilled | Self::ServiceHung => End::Served,
            Self::VoterDeath => End::Quiet,
            Self::Load => End::Loaded,
            _ => End::Moved,
        }
    }

    /// Whether what counts is failed requests, and not the time without an answer.
    pub(crate) fn counts_failures(self) -> bool {
        matches!(
            self,
            Self::VoterDeath | Self::Switchover | Self::DaemonStopped
        )
    }
}
