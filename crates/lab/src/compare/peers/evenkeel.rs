//! evenkeel: the two servers and a witness, with the lab's usual checks (every 50 ms, with a
//! time-out of 200 ms).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Need, Peer, Rank};
use crate::cluster::{self, GROUP, Profile, SERVICE};
use crate::compare::stage::{self, Stage};
use crate::config_text::{self, GroupPlan, Wishes};
use crate::daemon;
use crate::fault::Ground;
use crate::host::{Family, Host};
use crate::inside::Lab;

/// From one question of a check to the next.
const INTERVAL: Duration = Duration::from_millis(50);

/// Time-out of a check.
const TIMEOUT: Duration = Duration::from_millis(200);

/// The product.
pub(super) struct Evenkeel {
    profile: Profile,
    program: PathBuf,
    /// Program and files, once they are there.
    daemon: Option<daemon::Evenkeel>,
}

impl Evenkeel {
    pub(super) fn new(program: &Path, profile: Profile) -> Self {
        Self {
            profile,
            program: program.to_owned(),
            daemon: None,
        }
    }

    fn daemon(&self) -> Result<&daemon::Evenkeel> {
        self.daemon.as_ref().context("evenkeel is not prepared")
    }

    fn group() -> GroupPlan {
        let names = stage::servers().into_iter().map(|place| place.name);
        GroupPlan {
            name: GROUP.to_owned(),
            nodes: names.collect(),
            addresses: vec![(SERVICE, 24)],
            failback: None,
        }
    }
}

impl Peer for Evenkeel {
    fn mark(&self) -> &'static str {
        daemon::PROGRAM
    }

    fn told(&self) -> String {
        format!(
            "profile `{}`, two servers and a witness; checks `ping` and `http` every {} ms, \
             asked by the node itself and by its peers, time-out {} ms, two failures",
            self.profile.name(),
            INTERVAL.as_millis(),
            TIMEOUT.as_millis()
        )
    }

    fn needs(&self) -> &'static [Need] {
        &[]
    }

    fn version(&self) -> String {
        let told = Command::new(&self.program).arg("--version").output();
        let told = told.map(|told| String::from_utf8_lossy(&told.stdout).trim().to_owned());
        let told = told.unwrap_or_default();
        told.trim_start_matches("evenkeel ").to_owned()
    }

    fn has_third(&self) -> bool {
        true
    }

    fn prepare(&mut self, lab: &Lab) -> Result<()> {
        let place = lab.directory().join("evenkeel");
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir_all(&place).context("making the cluster's directory")?;
        let daemon = daemon::Evenkeel {
            program: self.program.clone(),
            config: place.join("evenkeel.toml"),
            authority: place.join("authority"),
        };
        let wishes = Wishes {
            profile: self.profile.name(),
            fail_when: None,
            timeout: TIMEOUT,
            interval: INTERVAL,
            talk: Family::Four,
        };
        let servers = stage::servers();
        let third = stage::third();
        let text = config_text::text(&wishes, &servers, Some(&third), &[Self::group()]);
        std::fs::write(&daemon.config, text).context("writing the configuration")?;
        daemon.make_authority()?;
        self.daemon = Some(daemon);
        Ok(())
    }

    fn start(&self, host: &mut Host, _rank: Rank) -> Result<()> {
        self.daemon()?.start(host)
    }

    fn settled(&self, stage: &Stage) -> Result<std::result::Result<String, String>> {
        let status = |name: &str| self.daemon()?.status(stage.host(name)?);
        let told = cluster::whole(&stage.names(), &[Self::group()], status)?;
        Ok(told.and_then(|group| group.holder.ok_or_else(|| "nobody holds".to_owned())))
    }

    fn calm(&self) -> Duration {
        // It tells by itself when it is whole.
        Duration::ZERO
    }

    fn switch_over(&self, stage: &Stage, from: &str, to: &str) -> Result<()> {
        let daemon = self.daemon()?;
        daemon
            .order(stage.host(from)?, &["switch", GROUP, "--to", to])
            .map(drop)
    }
}
