//! keepalived, set up as keepalived.conf(5) and its samples say: one VRRP instance, a server
//! with `state MASTER` and the higher priority, and one with `state BACKUP`. A script or the
//! tracking of processes asks about the service; its failure is a fault of the instance.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Need, Peer, Rank};
use crate::cluster::SERVICE;
use crate::compare::row::Row;
use crate::compare::stage::Stage;
use crate::host::Host;
use crate::wait;

/// The check, of Debian's monitoring-plugins-basic: a question by http, whose answer has to
/// be there within a second, its shortest time-out.
const CHECK: &str = "/usr/lib/nagios/plugins/check_http";

/// Its log on a host, in memory: a slow disk of this machine should not count against it. Its
/// election writes its log lines itself, in its only thread.
const LOG: &str = "/run/keepalived.log";

/// Time for one of the two to become master at all.
const FIRST_LIMIT: Duration = Duration::from_secs(20);

/// Lines of the log that are looked at to tell why none does.
const LOG_LINES: usize = 40;

/// How often it adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Not said: every second, by VRRP version 2.
    Default,
    /// Every 100 ms, which takes version 3.
    Hundred,
    /// Every 10 ms, the least it allows.
    Ten,
}

/// How it watches the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watching {
    /// A script every second, the least that this version allows.
    Script,
    /// The processes by name, through the kernel's process connector.
    Process,
}

/// One way to set it up.
pub(super) struct Keepalived {
    pub(super) pace: Pace,
    pub(super) real_time: bool,
    pub(super) watching: Watching,
}

impl Keepalived {
    fn text(&self, name: &str, rank: Rank) -> String {
        let mut text = format!("global_defs {{\n    router_id {name}\n");
        if self.watching == Watching::Script {
            text += "    script_user root\n    enable_script_security\n";
        }
        if self.pace != Pace::Default {
            text += "    vrrp_version 3\n";
        }
        if self.real_time {
            text += "    vrrp_rt_priority 50\n    vrrp_no_swap\n    vrrp_rlimit_rttime 100000\n";
        }
        text += "}\n\n";
        let track = match self.watching {
            Watching::Script => {
                let _ = write!(
                    text,
                    "vrrp_script apache {{\n    script \"{CHECK} -H 127.0.0.1 -u /who -t 1\"\n    \
                     interval 1\n}}\n\n"
                );
                "track_script"
            }
            Watching::Process => {
                text += "vrrp_track_process apache {\n    process apache2\n}\n\n";
                "track_process"
            }
        };
        let (state, priority) = match rank {
            Rank::First => ("MASTER", 150),
            Rank::Second | Rank::Third => ("BACKUP", 100),
        };
        let advert = match self.pace {
            Pace::Default => "",
            Pace::Hundred => "    advert_int 0.1\n",
            Pace::Ten => "    advert_int 0.01\n",
        };
        let _ = write!(
            text,
            "vrrp_instance www {{\n    state {state}\n    interface eth0\n    virtual_router_id \
             51\n    priority {priority}\n{advert}    virtual_ipaddress {{\n        {SERVICE}/24\n    \
             }}\n    {track} {{\n        apache\n    }}\n}}\n"
        );
        text
    }

    /// What the log of a host says of process tracking.
    fn reason(stage: &Stage) -> String {
        let told = stage.powered().find_map(|host| {
            let text = fs::read_to_string(host.seen(LOG)).ok()?;
            let lines = text.lines().take(LOG_LINES);
            let mut about = lines.filter(|line| {
                let line = line.to_lowercase();
                line.contains("connector") || line.contains("proc") && line.contains("refused")
            });
            about.next().map(str::to_owned)
        });
        told.unwrap_or_else(|| "its log does not say why".to_owned())
    }
}

impl Peer for Keepalived {
    fn mark(&self) -> &'static str {
        "keepalived"
    }

    fn told(&self) -> String {
        let pace = match self.pace {
            Pace::Default => "its default advert of 1 s (VRRP version 2)",
            Pace::Hundred => "`advert_int 0.1` (VRRP version 3)",
            Pace::Ten => "`advert_int 0.01` (VRRP version 3)",
        };
        let watching = match self.watching {
            Watching::Script => {
                "`vrrp_script` with `check_http` every second, its shortest interval"
            }
            Watching::Process => "`vrrp_track_process`",
        };
        let real_time = if self.real_time {
            "; `vrrp_rt_priority 50`, `vrrp_no_swap`, `vrrp_rlimit_rttime 100000`"
        } else {
            ""
        };
        format!("{pace}, priorities 150 and 100, {watching}{real_time}")
    }

    fn needs(&self) -> &'static [Need] {
        &[
            ("keepalived", "keepalived"),
            (CHECK, "monitoring-plugins-basic"),
        ]
    }

    fn cannot(&self, row: Row) -> Option<String> {
        let why = "it has no order for a move; its users tell the active one to stop, which is \
                   the row below";
        (row == Row::Switchover).then(|| why.to_owned())
    }

    fn start(&self, host: &mut Host, rank: Rank) -> Result<()> {
        let file = host.disk().join("keepalived.conf");
        let text = self.text(host.name(), rank);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let line = format!(
            "exec keepalived --dont-fork --log-console --no-syslog --vrrp --use-file={} >>{LOG} \
             2>&1",
            file.display()
        );
        let argv = ["sh", "-c", &line].map(OsString::from);
        host.start(self.mark(), &argv).map(drop)
    }

    fn set_up(&self, stage: &Stage) -> Result<Option<String>> {
        if self.watching == Watching::Script {
            return Ok(None);
        }
        let first = wait::until("one becomes master", FIRST_LIMIT, || {
            std::thread::sleep(Duration::from_millis(100));
            let owners = stage.owners()?;
            Ok((!owners.is_empty()).then_some(()))
        });
        Ok(first.err().map(|_| {
            format!(
                "its process tracking hears of processes by the kernel's process connector, \
                 which exists only in the machine's first network namespace, and the hosts of \
                 the lab have their own: neither server became master within {} s, and it says: \
                 {}",
                FIRST_LIMIT.as_secs(),
                Self::reason(stage)
            )
        }))
    }

    fn calm(&self) -> Duration {
        // More than the longest time in which one misses the other, 3.6 s by default, or in
        // which its check finds the service well again.
        Duration::from_secs(5)
    }

    fn logs(&self, host: &Host) -> Vec<PathBuf> {
        vec![host.seen(LOG)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_says_nothing_about_its_pace() {
        let keepalived = Keepalived {
            pace: Pace::Default,
            real_time: false,
            watching: Watching::Script,
        };
        let text = keepalived.text("ams1", Rank::First);
        assert!(!text.contains("advert_int") && !text.contains("vrrp_version"));
        assert!(!text.contains("vrrp_rt_priority"));
        assert!(text.contains("state MASTER") && text.contains("priority 150"));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn what_is_tuned_is_said() {
        let keepalived = Keepalived {
            pace: Pace::Ten,
            real_time: true,
            watching: Watching::Process,
        };
        let text = keepalived.text("fra1", Rank::Second);
        for wanted in [
            "advert_int 0.01",
            "vrrp_version 3",
            "vrrp_rt_priority 50",
            "track_process",
            "state BACKUP",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in:\n{text}");
        }
        assert!(!text.contains("vrrp_script"));
    }
}
