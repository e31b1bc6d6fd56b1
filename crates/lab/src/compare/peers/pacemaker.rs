//! Pacemaker on Corosync, set up as "Clusters from Scratch", corosync.conf(5) and the agents'
//! own advice say. The third host is a full member that no resource may run on, so that a
//! majority decides, as with evenkeel's witness. Apache is a clone, so that it runs on both
//! servers as it does with the other peers, and the address goes where a healthy one is.
//!
//! Fencing is off (`stonith-enabled=false`), as the quick start has it until there is a
//! device: the lab has no power switches. Pacemaker then takes a host that it does not hear
//! for dead without making it so, and says itself that this is not for production.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Need, Peer, Rank, command};
use crate::cluster::SERVICE;
use crate::compare::stage::{self, Stage};
use crate::fault::Ground;
use crate::host::Host;
use crate::{apache, process, wait};

/// What its agent for Apache lies at.
const AGENT: &str = "/usr/lib/ocf/resource.d/heartbeat/apache";

/// Where the agent finds Apache's file, the same on both servers.
const SITE: &str = "/run/web.conf";

/// What the agent sets before it starts Apache: such an Apache belongs to the service, and
/// not to Pacemaker, when the lab stops or kills either.
const ENVIRONMENT: &str = "/run/web.env";

/// Time for Corosync to be reached on its host.
const SOON: Duration = Duration::from_secs(20);

/// Time for it to stop what it runs and itself.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Time for all members to be online for the first time: without a coordinator each waits
/// for 20 s before it elects one.
const ONLINE_LIMIT: Duration = Duration::from_secs(90);

/// How often its commands are asked: each is a program.
const LOOK: Duration = Duration::from_millis(500);

/// Makes a host's directories for it: its own are in places that all hosts of the lab share.
const DIRECTORIES: &str = r#"
for place in "$1" "$1/cib" "$1/pengine" "$1/blackbox" "$1/cores"; do
	install -d -o hacluster -g haclient -m 0750 "$place"
done
mountpoint -q /var/lib/pacemaker || mount --bind "$1" /var/lib/pacemaker
install -d "$2" /run/resource-agents
"#;

/// One way to set it up.
pub(super) struct Pacemaker {
    /// A token of 300 ms and checks every second, instead of the defaults.
    pub(super) tuned: bool,
}

/// An attribute with a value, as its configuration has them.
fn pair(of: &str, name: &str, value: &str) -> String {
    format!("<nvpair id=\"{of}-{name}\" name=\"{name}\" value=\"{value}\"/>")
}

impl Pacemaker {
    fn corosync(&self, state: &str, log: &str) -> String {
        let timing = if self.tuned {
            // The coefficient would add 650 ms for the third member.
            "    token: 300\n    token_coefficient: 0\n"
        } else {
            ""
        };
        let mut text = format!(
            "totem {{\n    version: 2\n    cluster_name: lab\n    transport: knet\n{timing}}}\n\
             nodelist {{\n"
        );
        let mut number = 0;
        for place in stage::servers().into_iter().chain([stage::third()]) {
            number += 1;
            let (name, ip) = (&place.name, place.ip());
            let _ = write!(
                text,
                "    node {{\n        name: {name}\n        nodeid: {number}\n        \
                 ring0_addr: {ip}\n    }}\n"
            );
        }
        let _ = write!(
            text,
            "}}\nquorum {{\n    provider: corosync_votequorum\n}}\n\
             system {{\n    state_dir: {state}\n}}\n\
             logging {{\n    to_stderr: no\n    to_syslog: no\n    to_logfile: yes\n    logfile: \
             {log}\n    timestamp: on\n}}\n"
        );
        text
    }

    /// From one check to the next, and their time-out.
    fn monitor(&self) -> (&'static str, &'static str) {
        if self.tuned {
            ("1s", "2s")
        } else {
            ("10s", "20s")
        }
    }

    /// A resource of an agent of resource-agents, with the time-outs that those advise.
    fn primitive(&self, id: &str, agent: &str, attributes: &[(&str, &str)]) -> String {
        let (interval, timeout) = self.monitor();
        let pairs = attributes.iter().map(|(name, value)| pair(id, name, value));
        let pairs: String = pairs.collect();
        let (start, stop) = match agent {
            "apache" => ("40s", "60s"),
            _ => ("20s", "20s"),
        };
        format!(
            "<primitive id=\"{id}\" class=\"ocf\" provider=\"heartbeat\" type=\"{agent}\">\
             <instance_attributes id=\"{id}-attributes\">{pairs}</instance_attributes>\
             <operations>\
             <op id=\"{id}-start\" name=\"start\" interval=\"0s\" timeout=\"{start}\"/>\
             <op id=\"{id}-stop\" name=\"stop\" interval=\"0s\" timeout=\"{stop}\"/>\
             <op id=\"{id}-monitor\" name=\"monitor\" interval=\"{interval}\" \
             timeout=\"{timeout}\"/>\
             </operations></primitive>"
        )
    }

    fn resources(&self) -> [String; 2] {
        let address = SERVICE.to_string();
        let web = self.primitive(
            "web",
            "apache",
            &[
                ("configfile", SITE),
                ("envfiles", ENVIRONMENT),
                ("statusurl", "http://127.0.0.1/who"),
                ("testregex", "[a-z]"),
            ],
        );
        let ip = [("ip", &*address), ("cidr_netmask", "24"), ("nic", "eth0")];
        [
            format!("<clone id=\"web-clone\">{web}</clone>"),
            self.primitive("ip", "IPaddr2", &ip),
        ]
    }

    fn constraints() -> Vec<String> {
        let third = stage::third().name;
        let off = ["web-clone", "ip"].map(|resource| {
            format!(
                "<rsc_location id=\"{resource}-off\" rsc=\"{resource}\" node=\"{third}\" \
                 score=\"-INFINITY\" resource-discovery=\"never\"/>"
            )
        });
        let mut all = off.to_vec();
        all.push(
            "<rsc_colocation id=\"ip-with-web\" rsc=\"ip\" with-rsc=\"web-clone\" \
             score=\"INFINITY\"/>"
                .to_owned(),
        );
        all.push("<rsc_order id=\"web-then-ip\" first=\"web-clone\" then=\"ip\"/>".to_owned());
        all
    }

    /// What holds for all resources.
    fn defaults(&self) -> String {
        // As "Clusters from Scratch" has it: what was moved stays there.
        let mut pairs = pair("defaults", "resource-stickiness", "100");
        if self.tuned {
            pairs += &pair("defaults", "migration-threshold", "1");
            pairs += &pair("defaults", "failure-timeout", "30s");
        }
        format!(
            "<rsc_defaults><meta_attributes id=\"defaults\">{pairs}</meta_attributes></rsc_defaults>"
        )
    }

    /// A host of the stage that can be asked about the cluster.
    fn speaker(stage: &Stage) -> Result<&Host> {
        stage.powered().next().context("no host has power")
    }

    /// What Pacemaker says about the cluster, if it says anything.
    fn status(stage: &Stage) -> Result<Option<String>> {
        let asked = command(
            Self::speaker(stage)?,
            &["crm_mon", "--one-shot", "--output-as=xml"],
        );
        Ok(asked.ok())
    }
}

/// What is wrong with the members in what `crm_mon` says; `None` if all are online.
fn offline(status: &str, names: &[String]) -> Option<String> {
    let online = |name: &String| {
        let begins = format!("<node name=\"{name}\"");
        let mut lines = status.lines().map(str::trim);
        lines.any(|line| {
            line.starts_with(&begins)
                && line.contains("online=\"true\"")
                && line.contains("pending=\"false\"")
        })
    };
    let absent = names.iter().find(|name| !online(name))?;
    Some(format!("{absent} is not online"))
}

/// How many Apaches run well in what `crm_mon` says.
fn well(status: &str) -> usize {
    let apaches = status.lines().filter(|line| {
        line.contains("<resource ") && line.contains("resource_agent=\"ocf:heartbeat:apache\"")
    });
    apaches
        .filter(|line| line.contains("role=\"Started\"") && line.contains("failed=\"false\""))
        .count()
}

impl Peer for Pacemaker {
    fn mark(&self) -> &'static str {
        "pacemaker"
    }

    fn told(&self) -> String {
        let timing = if self.tuned {
            "`token: 300` and `token_coefficient: 0`, monitors every second (time-out 2 s), \
             `migration-threshold=1`"
        } else {
            "Corosync's default token (3 s, and 650 ms for the third member), monitors every 10 s \
             (time-out 20 s) as the agents advise"
        };
        format!(
            "{timing}; three members, the third without resources; Apache as a clone and the \
             address (IPaddr2) with it; `stonith-enabled=false`, `resource-stickiness=100`"
        )
    }

    fn needs(&self) -> &'static [Need] {
        &[
            ("pacemakerd", "pacemaker"),
            ("corosync", "corosync"),
            ("crm_mon", "pacemaker-cli-utils"),
            (AGENT, "resource-agents"),
            // What that agent asks Apache with.
            ("wget", "wget"),
        ]
    }

    fn hindrance(&self) -> Option<String> {
        let why = "its daemons run as a user of their own, which takes real root";
        (!apache::can_change_user()).then(|| why.to_owned())
    }

    fn has_third(&self) -> bool {
        true
    }

    fn start(&self, host: &mut Host, rank: Rank) -> Result<()> {
        let disk = host.disk();
        let (library, state) = (disk.join("pacemaker"), disk.join("corosync"));
        let (library, state) = (library.display().to_string(), state.display().to_string());
        host.run(&["sh", "-e", "-c", DIRECTORIES, "sh", &library, &state], "")
            .context("making its directories")?;
        if rank != Rank::Third {
            let site = disk.join("apache/apache2.conf");
            host.run(&["ln", "-sf", &site.display().to_string(), SITE], "")?;
            let text = format!("export {}={}\n", process::MARK, host.mark(apache::PROGRAM));
            fs::write(host.seen(ENVIRONMENT), text).context("writing Apache's environment")?;
        }
        let file = disk.join("corosync.conf");
        let log = disk.join("corosync.log").display().to_string();
        fs::write(&file, self.corosync(&state, &log)).context("writing corosync.conf")?;
        let argv: [OsString; 4] = ["corosync".into(), "-f".into(), "-c".into(), file.into()];
        host.start(self.mark(), &argv)?;
        wait::until("Corosync can be reached", SOON, || {
            std::thread::sleep(LOOK);
            let asked = command(host, &["corosync-cmapctl", "-g", "totem.cluster_name"]);
            Ok(asked.ok().map(drop))
        })?;
        let log = disk.join("pacemakerd.log").display().to_string();
        let argv = [
            "env",
            "PCMK_logfacility=none",
            &format!("PCMK_logfile={log}"),
            "pacemakerd",
        ]
        .map(OsString::from);
        host.start(self.mark(), &argv).map(drop)
    }

    fn set_up(&self, stage: &Stage) -> Result<Option<String>> {
        let mut last = "it says nothing".to_owned();
        let online = wait::until("all members are online", ONLINE_LIMIT, || {
            std::thread::sleep(LOOK);
            let status = Self::status(stage)?;
            let absent = status.map(|status| offline(&status, &stage.names()));
            Ok(match absent {
                Some(None) => Some(()),
                Some(Some(absent)) => {
                    last = absent;
                    None
                }
                None => None,
            })
        });
        online.context(last)?;
        let host = Self::speaker(stage)?;
        let off = ["--name", "stonith-enabled", "--update", "false"];
        let order = ["crm_attribute", "--type", "crm_config"];
        command(host, &[&order[..], &off].concat())?;
        let create = |section: &str, xml: &str| {
            let order = ["cibadmin", "--create", "--scope", section];
            command(host, &[&order[..], &["--xml-text", xml]].concat()).map(drop)
        };
        create("configuration", &self.defaults())?;
        for resource in self.resources() {
            create("resources", &resource)?;
        }
        for constraint in Self::constraints() {
            create("constraints", &constraint)?;
        }
        Ok(None)
    }

    fn settled(&self, stage: &Stage) -> Result<std::result::Result<String, String>> {
        std::thread::sleep(LOOK);
        let Some(status) = Self::status(stage)? else {
            return Ok(Err("it says nothing".to_owned()));
        };
        if let Some(absent) = offline(&status, &stage.names()) {
            return Ok(Err(absent));
        }
        if well(&status) < stage.server_names().len() {
            return Ok(Err("it does not take Apache for well on both".to_owned()));
        }
        stage.sole_owner()
    }

    fn calm(&self) -> Duration {
        // What it decides about a member that is back takes it seconds.
        Duration::from_secs(6)
    }

    fn patience(&self) -> Duration {
        // A member that is back joins, is probed, and has its resources started.
        Duration::from_secs(150)
    }

    fn switch_over(&self, stage: &Stage, _from: &str, to: &str) -> Result<()> {
        let order = ["crm_resource", "--move", "--resource", "ip", "--node", to];
        command(Self::speaker(stage)?, &order).map(drop)
    }

    fn stop(&self, stage: &Stage, name: &str) -> Result<()> {
        let host = stage.host(name)?;
        for program in ["pacemakerd", "corosync"] {
            host.run(&["pkill", "-TERM", "-x", program], "")?;
            wait::until("it stops", STOP_LIMIT, || {
                let left = host.output(&["pgrep", "-x", program])?;
                Ok((!left.status.success()).then_some(()))
            })
            .with_context(|| program.to_owned())?;
        }
        Ok(())
    }

    fn tidy(&self, stage: &Stage) -> Result<()> {
        let host = Self::speaker(stage)?;
        // The constraint that the order to move has left, and what it remembers of failures.
        command(host, &["crm_resource", "--clear", "--resource", "ip"])?;
        command(host, &["crm_resource", "--cleanup"]).map(drop)
    }

    fn logs(&self, host: &Host) -> Vec<PathBuf> {
        ["pacemaker.log", "corosync.log", "pacemakerd.log"]
            .map(|name| host.disk().join(name))
            .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = r#"<pacemaker-result>
  <nodes>
    <node name="ams1" id="1" online="true" standby="false" pending="false" unclean="false"/>
    <node name="fra1" id="2" online="true" standby="false" pending="true" unclean="false"/>
    <node name="tie" id="3" online="true" standby="false" pending="false" unclean="false"/>
  </nodes>
  <resources>
    <clone id="web-clone">
      <resource id="web" resource_agent="ocf:heartbeat:apache" role="Started" active="true" failed="false">
        <node name="fra1" id="2" cached="true"/>
      </resource>
      <resource id="web" resource_agent="ocf:heartbeat:apache" role="Started" active="true" failed="true">
    </clone>
"#;

    #[test]
    fn members_that_only_begin_are_not_online() {
        let names = ["ams1", "fra1", "tie"].map(str::to_owned);
        assert_eq!(
            offline(STATUS, &names).as_deref(),
            Some("fra1 is not online")
        );
        let status = STATUS.replace("pending=\"true\"", "pending=\"false\"");
        assert_eq!(offline(&status, &names), None);
    }

    #[test]
    fn failed_services_are_not_well() {
        assert_eq!(well(STATUS), 1);
    }

    #[test]
    fn only_the_tuned_one_names_a_token() {
        let of = |tuned| Pacemaker { tuned }.corosync("/state", "/log");
        assert!(of(true).contains("token: 300"));
        assert!(!of(false).contains("token"));
        assert_eq!(of(false).matches("ring0_addr").count(), 3);
    }
}
