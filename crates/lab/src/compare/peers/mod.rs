//! The peers: each a way to keep one address served by two servers, set up as its own
//! manual says. evenkeel is one of them.

mod evenkeel;
mod keepalived;
mod pacemaker;
mod ucarp;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use super::row::Row;
use super::stage::Stage;
use crate::cluster::Profile;
use crate::host::Host;
use crate::inside::Lab;

use evenkeel::Evenkeel;
use keepalived::{Keepalived, Pace, Watching};
use pacemaker::Pacemaker;
use ucarp::Ucarp;

/// Which host of a stage one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// The server that is preferred, where a peer knows preference.
    First,
    /// The other server.
    Second,
    /// The third host.
    Third,
}

/// A peer's name, as on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Name {
    /// evenkeel in its profile `balanced`.
    Evenkeel,
    /// evenkeel in its profile `fast`.
    EvenkeelFast,
    /// keepalived with its defaults: an advert every second.
    Keepalived,
    /// The same with its real-time options.
    KeepalivedRt,
    /// keepalived with an advert every 100 ms.
    #[value(name = "keepalived-100ms")]
    #[serde(rename = "keepalived-100ms")]
    Keepalived100,
    /// The same with its real-time options.
    #[value(name = "keepalived-100ms-rt")]
    #[serde(rename = "keepalived-100ms-rt")]
    Keepalived100Rt,
    /// keepalived with an advert every 10 ms.
    #[value(name = "keepalived-10ms")]
    #[serde(rename = "keepalived-10ms")]
    Keepalived10,
    /// The same with its real-time options.
    #[value(name = "keepalived-10ms-rt")]
    #[serde(rename = "keepalived-10ms-rt")]
    Keepalived10Rt,
    /// keepalived that watches the service's processes, an advert every 100 ms.
    KeepalivedProcess,
    /// ucarp with its defaults.
    Ucarp,
    /// Pacemaker and Corosync with their defaults.
    Pacemaker,
    /// The same with a token of 300 ms and checks every second.
    #[value(name = "pacemaker-300ms")]
    #[serde(rename = "pacemaker-300ms")]
    Pacemaker300,
}

/// All peers, in the tables' order.
pub(crate) const NAMES: [Name; 12] = [
    Name::Evenkeel,
    Name::EvenkeelFast,
    Name::Keepalived,
    Name::KeepalivedRt,
    Name::Keepalived100,
    Name::Keepalived100Rt,
    Name::Keepalived10,
    Name::Keepalived10Rt,
    Name::KeepalivedProcess,
    Name::Ucarp,
    Name::Pacemaker,
    Name::Pacemaker300,
];

impl Name {
    /// As in tables.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Evenkeel => "evenkeel, balanced",
            Self::EvenkeelFast => "evenkeel, fast",
            Self::Keepalived => "keepalived, 1 s",
            Self::KeepalivedRt => "keepalived, 1 s, real-time",
            Self::Keepalived100 => "keepalived, 100 ms",
            Self::Keepalived100Rt => "keepalived, 100 ms, real-time",
            Self::Keepalived10 => "keepalived, 10 ms",
            Self::Keepalived10Rt => "keepalived, 10 ms, real-time",
            Self::KeepalivedProcess => "keepalived, process tracking",
            Self::Ucarp => "ucarp",
            Self::Pacemaker => "Pacemaker",
            Self::Pacemaker300 => "Pacemaker, 300 ms",
        }
    }

    /// Whether it is what the others are compared with.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Evenkeel | Self::EvenkeelFast)
    }

    /// The peer of that name. `program` is the daemon's.
    pub(crate) fn peer(self, program: &Path) -> Box<dyn Peer> {
        let keepalived = |pace, real_time| {
            Box::new(Keepalived {
                pace,
                real_time,
                watching: Watching::Script,
            })
        };
        match self {
            Self::Evenkeel => Box::new(Evenkeel::new(program, Profile::Balanced)),
            Self::EvenkeelFast => Box::new(Evenkeel::new(program, Profile::Fast)),
            Self::Keepalived => keepalived(Pace::Default, false),
            Self::KeepalivedRt => keepalived(Pace::Default, true),
            Self::Keepalived100 => keepalived(Pace::Hundred, false),
            Self::Keepalived100Rt => keepalived(Pace::Hundred, true),
            Self::Keepalived10 => keepalived(Pace::Ten, false),
            Self::Keepalived10Rt => keepalived(Pace::Ten, true),
            Self::KeepalivedProcess => Box::new(Keepalived {
                pace: Pace::Hundred,
                real_time: false,
                watching: Watching::Process,
            }),
            Self::Ucarp => Box::new(Ucarp),
            Self::Pacemaker => Box::new(Pacemaker { tuned: false }),
            Self::Pacemaker300 => Box::new(Pacemaker { tuned: true }),
        }
    }
}

/// A program, by name or path, and Debian's package that has it.
pub(crate) type Need = (&'static str, &'static str);

/// A way to keep one address served by two servers. What has no body here is what one cannot
/// do without; the rest is what is the same for most.
pub(crate) trait Peer {
    /// The mark of its processes on a host.
    fn mark(&self) -> &'static str;

    /// How it is set up, in a sentence or two.
    fn told(&self) -> String;

    /// What it needs besides what the lab needs; the first one is the peer itself.
    fn needs(&self) -> &'static [Need];

    /// The version that is measured.
    fn version(&self) -> String {
        let package = self.needs().first().map(|(_, package)| *package);
        package.and_then(version_of).unwrap_or_default()
    }

    /// Why it cannot be measured on this machine.
    fn hindrance(&self) -> Option<String> {
        None
    }

    /// Why a row says nothing about it.
    fn cannot(&self, _row: Row) -> Option<String> {
        None
    }

    /// Whether a third host takes part.
    fn has_third(&self) -> bool {
        false
    }

    /// Makes what all its hosts share, before they are switched on.
    fn prepare(&mut self, _lab: &Lab) -> Result<()> {
        Ok(())
    }

    /// Starts it on a host that has just been switched on, or on which it has died.
    fn start(&self, host: &mut Host, rank: Rank) -> Result<()>;

    /// What is left to do once it runs on all hosts; `Some`: it cannot work here, and why.
    fn set_up(&self, _stage: &Stage) -> Result<Option<String>> {
        Ok(None)
    }

    /// Who holds the address, if all is right as far as the peer knows; else what is wrong.
    fn settled(&self, stage: &Stage) -> Result<std::result::Result<String, String>> {
        stage.sole_owner()
    }

    /// For so long the same one has to hold before it counts as settled: longer than it may
    /// take this peer to change its mind.
    fn calm(&self) -> Duration;

    /// Time for it to settle.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Moves the address on an operator's order.
    fn switch_over(&self, _stage: &Stage, _from: &str, _to: &str) -> Result<()> {
        bail!("it has no order for that")
    }

    /// Stops it on a host, as an init system does, and waits for that.
    fn stop(&self, stage: &Stage, name: &str) -> Result<()> {
        stage.terminate(name, self.mark())
    }

    /// What an operator does once all is right again.
    fn tidy(&self, _stage: &Stage) -> Result<()> {
        Ok(())
    }

    /// Where its logs are, as the lab finds them.
    fn logs(&self, host: &Host) -> Vec<PathBuf> {
        vec![host.disk().join(format!("{}.log", self.mark()))]
    }
}

/// The version of an installed package of Debian.
fn version_of(package: &str) -> Option<String> {
    let mut query = Command::new("dpkg-query");
    let told = query.args(["-W", "-f", "${Version}", package]).output();
    let told = told.ok().filter(|told| told.status.success())?;
    Some(String::from_utf8_lossy(&told.stdout).trim().to_owned())
}

/// Runs an operator's command of a peer on a host, to its good end. Such commands may wait
/// for daemons for ever: this one is given [`COMMAND_LIMIT`].
fn command(host: &Host, argv: &[&str]) -> Result<String> {
    host.run(&[&["timeout", COMMAND_LIMIT][..], argv].concat(), "")
}

/// For timeout(1).
const COMMAND_LIMIT: &str = "20s";
