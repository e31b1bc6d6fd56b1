//! The troubles of the matrix, and what is true of each: whom it befalls, what it takes from
//! its node, whether it is a reason to move, and what `why` may say of a move that it made.
//!
//! The last is the table by which `why` is judged ([`super::judge`]); docs/matrix.md shows it.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::cluster::Profile;
use crate::setup::Setup;

/// What can befall a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trouble {
    /// Power cut of the holder.
    PowerCut,
    /// The holder's Apache killed.
    ServiceKilled,
    /// The holder's Apache stopped: connections are accepted and never answered.
    ServiceHung,
    /// All processes of the holder's daemon stopped until the end.
    DaemonFrozen,
    /// All processes of the holder's daemon killed.
    DaemonKilled,
    /// The worker of the holder's daemon killed.
    WorkerKilled,
    /// Daemon and Apache of the holder stopped for 0.1 to 60 s, then let go on.
    MachineFrozen,
    /// The holder's cable cut in both directions.
    CutBoth,
    /// Nobody hears the holder.
    CutFrom,
    /// The holder hears nobody.
    CutTo,
    /// The next one does not hear the holder; all others do.
    LinkOut,
    /// The holder does not hear the next one; all others do.
    LinkIn,
    /// Three in ten frames from and to the holder are lost.
    Loss,
    /// The holder's cable is cut and mended again and again.
    Flapping,
    /// The disk of the holder's log is full.
    DiskFull,
    /// The disk of the holder's log is frozen: what is written waits.
    DiskFrozen,
    /// The holder's daemon is killed and comes back with an old copy of its state.
    OldState,
    /// Planned switchover.
    Switchover,
    /// The holder is drained for maintenance.
    NodeDrained,
    /// The holder's daemon is told to stop.
    DaemonStopped,
    /// Power cut of the next one.
    StandbyDeath,
    /// Power cut of the witness.
    WitnessDeath,
    /// All nodes lose their power at once and get it back.
    AllRestart,
    /// Busy loops on all servers.
    Load,
    /// The calendar clock of the machine goes an hour ahead.
    ClockStep,
    /// Every second node runs an older version.
    Older,
    /// The holder's Apache killed; its processes are watched by their name.
    KilledProcess,
    /// The holder's Apache killed, a unit of a real systemd that is watched.
    KilledUnit,
    /// The holder's Apache killed, a unit that runs on the holder alone.
    KilledCold,
    /// The holder is rebooted, a real systemd with its logind.
    Rebooted,
}

/// All of them, in the order of the tables.
pub(crate) const ALL: [Trouble; 30] = [
    Trouble::PowerCut,
    Trouble::ServiceKilled,
    Trouble::ServiceHung,
    Trouble::DaemonFrozen,
    Trouble::DaemonKilled,
    Trouble::WorkerKilled,
    Trouble::MachineFrozen,
    Trouble::CutBoth,
    Trouble::CutFrom,
    Trouble::CutTo,
    Trouble::LinkOut,
    Trouble::LinkIn,
    Trouble::Loss,
    Trouble::Flapping,
    Trouble::DiskFull,
    Trouble::DiskFrozen,
    Trouble::OldState,
    Trouble::Switchover,
    Trouble::NodeDrained,
    Trouble::DaemonStopped,
    Trouble::StandbyDeath,
    Trouble::WitnessDeath,
    Trouble::AllRestart,
    Trouble::Load,
    Trouble::ClockStep,
    Trouble::Older,
    Trouble::KilledProcess,
    Trouble::KilledUnit,
    Trouble::KilledCold,
    Trouble::Rebooted,
];

/// Whom a trouble befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The server that holds the group; a second one may befall the next instead.
    Holder,
    /// The server that would be next.
    Next,
    /// The witness.
    Witness,
    /// Everybody.
    All,
}

/// What a trouble takes from its node while it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Takes {
    /// Nothing: it votes and could serve.
    Nothing,
    /// It votes and cannot serve.
    Service,
    /// It may vote and serve, or not.
    Perhaps,
    /// It neither votes nor serves.
    All,
}

/// The shortest freeze; shorter than any lease of the lab is no question.
pub(crate) const FREEZE_MIN: Duration = Duration::from_millis(100);

/// The longest freeze (issue).
pub(crate) const FREEZE_MAX: Duration = Duration::from_secs(60);

impl Trouble {
    /// Its name, as on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PowerCut => "power-cut",
            Self::ServiceKilled => "service-killed",
            Self::ServiceHung => "service-hung",
            Self::DaemonFrozen => "daemon-frozen",
            Self::DaemonKilled => "daemon-killed",
            Self::WorkerKilled => "worker-killed",
            Self::MachineFrozen => "machine-frozen",
            Self::CutBoth => "cut-both",
            Self::CutFrom => "cut-from",
            Self::CutTo => "cut-to",
            Self::LinkOut => "link-out",
            Self::LinkIn => "link-in",
            Self::Loss => "loss",
            Self::Flapping => "flapping",
            Self::DiskFull => "disk-full",
            Self::DiskFrozen => "disk-frozen",
            Self::OldState => "old-state",
            Self::Switchover => "switchover",
            Self::NodeDrained => "node-drained",
            Self::DaemonStopped => "daemon-stopped",
            Self::StandbyDeath => "standby-death",
            Self::WitnessDeath => "witness-death",
            Self::AllRestart => "all-restart",
            Self::Load => "load",
            Self::ClockStep => "clock-step",
            Self::Older => "older",
            Self::KilledProcess => "killed-process",
            Self::KilledUnit => "killed-unit",
            Self::KilledCold => "killed-cold",
            Self::Rebooted => "rebooted",
        }
    }

    /// Whom it befalls.
    pub(crate) fn whom(self) -> Whom {
        match self {
            Self::StandbyDeath => Whom::Next,
            Self::WitnessDeath => Whom::Witness,
            Self::AllRestart | Self::Load | Self::ClockStep | Self::Older => Whom::All,
            _ => Whom::Holder,
        }
    }

    /// What it takes from whom it befalls.
    pub(crate) fn takes(self) -> Takes {
        match self {
            Self::PowerCut
            | Self::DaemonFrozen
            | Self::DaemonKilled
            | Self::CutBoth
            | Self::CutFrom
            | Self::CutTo
            | Self::OldState
            | Self::DaemonStopped
            | Self::StandbyDeath
            | Self::WitnessDeath
            | Self::Rebooted => Takes::All,
            Self::ServiceKilled
            | Self::ServiceHung
            | Self::KilledProcess
            | Self::KilledUnit
            | Self::KilledCold => Takes::Service,
            // Frozen: it may have been let go on. A frozen disk: it serves, and votes for
            // nothing new.
            Self::MachineFrozen | Self::Loss | Self::Flapping | Self::DiskFrozen => Takes::Perhaps,
            Self::WorkerKilled
            | Self::LinkOut
            | Self::LinkIn
            | Self::DiskFull
            | Self::Switchover
            | Self::NodeDrained
            | Self::AllRestart
            | Self::Load
            | Self::ClockStep
            | Self::Older => Takes::Nothing,
        }
    }

    /// Whether clients may be served badly meanwhile, whoever holds the group: nothing is
    /// demanded then but that no two answer and that it ends.
    pub(crate) fn is_foggy(self) -> bool {
        matches!(
            self,
            Self::Loss | Self::Flapping | Self::AllRestart | Self::Load
        )
    }

    /// Whether the processes that it acts on are gone afterwards, so that nothing else can
    /// befall them.
    pub(crate) fn leaves_nobody(self) -> bool {
        matches!(
            self,
            Self::PowerCut
                | Self::DaemonFrozen
                | Self::DaemonKilled
                | Self::OldState
                | Self::DaemonStopped
                | Self::MachineFrozen
        )
    }

    /// Whether it comes alone: it takes a cluster that is set up for it, and what it has in
    /// common with another trouble meets the others in that one's name.
    pub(crate) fn is_alone(self) -> bool {
        self.setup() != Setup::Http
    }

    /// How Apache runs in its cluster, and what asks about it.
    pub(crate) fn setup(self) -> Setup {
        match self {
            Self::KilledProcess => Setup::Process,
            Self::KilledUnit => Setup::Unit,
            Self::KilledCold => Setup::Cold,
            Self::Rebooted => Setup::Systemd,
            _ => Setup::Http,
        }
    }

    /// Whether it is done on purpose, so that not one request may fail: clients have requests in
    /// flight then, if it comes alone.
    pub(crate) fn is_planned(self) -> bool {
        matches!(
            self,
            Self::Switchover | Self::NodeDrained | Self::DaemonStopped | Self::Rebooted
        )
    }

    /// Whether it takes a disk of its own for the log.
    pub(crate) fn needs_image(self) -> bool {
        matches!(self, Self::DiskFull | Self::DiskFrozen)
    }

    /// Whether a node that it befell has to be let in again by an operator.
    pub(crate) fn needs_readmission(self) -> bool {
        self == Self::OldState
    }

    /// Whether it is a reason for the group to leave whom it befalls, if it is there. Any other
    /// move is a false takeover, whatever its cause says.
    pub(crate) fn may_move(self, profile: Profile) -> bool {
        match self {
            Self::PowerCut
            | Self::ServiceKilled
            | Self::ServiceHung
            | Self::DaemonFrozen
            | Self::DaemonKilled
            | Self::MachineFrozen
            | Self::CutBoth
            | Self::CutFrom
            | Self::CutTo
            | Self::Loss
            | Self::Flapping
            | Self::OldState
            | Self::Switchover
            | Self::NodeDrained
            | Self::DaemonStopped
            | Self::StandbyDeath
            | Self::AllRestart
            | Self::KilledProcess
            | Self::KilledUnit
            | Self::KilledCold
            | Self::Rebooted => true,
            // Promised where the jitter is under a quarter of the lease (DESIGN 7): busy loops
            // make more than 10 ms of it here.
            Self::Load => profile == Profile::Fast,
            Self::WorkerKilled
            | Self::LinkOut
            | Self::LinkIn
            | Self::DiskFull
            | Self::DiskFrozen
            | Self::WitnessDeath
            | Self::ClockStep
            | Self::Older => false,
        }
    }

    /// The causes that `why` may give for a move away from whom it befell: those that are true.
    pub(crate) fn causes(self) -> &'static [&'static str] {
        match self {
            // A node that is gone is silent. Where the leader went with it, the next one may
            // find that its ping fails by the time it is elected, which is as true.
            Self::PowerCut | Self::StandbyDeath | Self::CutFrom | Self::CutBoth => {
                &["holder-silent", "rule"]
            }
            Self::DaemonFrozen | Self::DaemonKilled => &["holder-silent"],
            Self::ServiceKilled | Self::ServiceHung | Self::KilledProcess | Self::KilledUnit => {
                &["rule"]
            }
            // The service itself may say so before its check does.
            Self::KilledCold => &["rule", "holder-unready"],
            Self::MachineFrozen => &["holder-silent", "rule"],
            // It speaks and hears nobody; once its lease is over it says nothing of the group.
            Self::CutTo => &["holder-deaf", "holder-silent", "rule"],
            Self::Loss | Self::Flapping => {
                &["holder-silent", "holder-deaf", "rule", "holder-released"]
            }
            Self::OldState => &["holder-silent", "holder-restarted", "holder-unready"],
            Self::WorkerKilled => &["holder-silent", "holder-restarted"],
            Self::Switchover => &["operator"],
            Self::NodeDrained => &["drained"],
            Self::DaemonStopped | Self::Rebooted => &["holder-stopping"],
            Self::AllRestart => &["holder-silent", "holder-restarted", "first-start"],
            Self::Load => &["holder-silent", "rule"],
            Self::LinkOut
            | Self::LinkIn
            | Self::DiskFull
            | Self::DiskFrozen
            | Self::WitnessDeath
            | Self::ClockStep
            | Self::Older => &[],
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum;

    use super::*;

    #[test]
    fn all_are_listed_once_under_the_name_of_the_command_line() {
        let listed: BTreeSet<Trouble> = ALL.into_iter().collect();
        assert_eq!(listed.len(), ALL.len());
        assert_eq!(listed.len(), Trouble::value_variants().len());
        for trouble in ALL {
            let typed = trouble.to_possible_value().expect("not hidden");
            assert_eq!(typed.get_name(), trouble.name());
        }
    }

    /// What people read is what judges.
    #[test]
    fn the_documentation_has_the_table() {
        const TEXT: &str = include_str!("../../../../docs/matrix.md");
        for trouble in ALL {
            let begin = format!("| `{trouble}` |");
            let row = TEXT.lines().find(|line| line.starts_with(&begin));
            let cells: Vec<&str> = row.expect("a row").split('|').map(str::trim).collect();
            let causes = match trouble.causes() {
                [] => "-".to_owned(),
                some => some.join(", "),
            };
            let reason = match [Profile::Balanced, Profile::Fast].map(|one| trouble.may_move(one)) {
                [true, true] => "yes",
                [false, true] => "in `fast`",
                [false, false] => "no",
                [true, false] => "in `balanced`",
            };
            assert_eq!(cells[3..5], [reason, &causes], "{trouble}");
        }
    }

    /// A reason to move that no cause could tell, or the other way round, would judge nothing.
    #[test]
    fn what_is_a_reason_has_a_true_cause() {
        for trouble in ALL {
            for profile in [Profile::Balanced, Profile::Fast] {
                let told = !trouble.causes().is_empty();
                assert!(told || !trouble.may_move(profile), "{trouble}");
            }
        }
    }
}
