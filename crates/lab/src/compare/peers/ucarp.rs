//! ucarp, set up as its README says: the same options on both servers, with two scripts that
//! add and remove the address. `--shutdown` besides, as Debian's own start script has it:
//! without it the address would stay where ucarp has been told to stop.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::{Need, Peer, Rank};
use crate::cluster::SERVICE;
use crate::compare::stage::Stage;
use crate::fault::Ground;
use crate::host::Host;
use crate::process;

/// What it runs to become a master and a backup; it gives interface and address.
const SCRIPTS: [(&str, &str); 2] = [
    ("vip-up.sh", "#!/bin/sh\nip addr add \"$2\"/24 dev \"$1\"\n"),
    (
        "vip-down.sh",
        "#!/bin/sh\nip addr del \"$2\"/24 dev \"$1\"\n",
    ),
];

/// The program with its defaults.
pub(super) struct Ucarp;

impl Peer for Ucarp {
    fn mark(&self) -> &'static str {
        "ucarp"
    }

    fn told(&self) -> String {
        "its defaults: an advert every second, dead after three; the same options on both \
         servers, scripts that add and remove the address, `--shutdown`. It checks no service"
            .to_owned()
    }

    fn needs(&self) -> &'static [Need] {
        &[("ucarp", "ucarp")]
    }

    fn start(&self, host: &mut Host, _rank: Rank) -> Result<()> {
        let mut paths = Vec::new();
        for (name, text) in SCRIPTS {
            let path = host.disk().join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            paths.push(path.display().to_string());
        }
        let options = [
            "--interface=eth0".to_owned(),
            format!("--srcip={}", host.ip()),
            "--vhid=42".to_owned(),
            "--pass=love".to_owned(),
            format!("--addr={SERVICE}"),
            format!("--upscript={}", paths[0]),
            format!("--downscript={}", paths[1]),
            "--shutdown".to_owned(),
            // There is no system log on a host of the lab; it also writes to its output.
            "--facility=none".to_owned(),
        ];
        let mut argv = vec![OsString::from("ucarp")];
        argv.extend(options.map(OsString::from));
        host.start(self.mark(), &argv).map(drop)
    }

    fn calm(&self) -> Duration {
        // Twice what it takes one to miss the other.
        Duration::from_secs(8)
    }

    fn switch_over(&self, stage: &Stage, from: &str, _to: &str) -> Result<()> {
        process::signal(&stage.host(from)?.mark(self.mark()), Signal::USR2)
    }
}
