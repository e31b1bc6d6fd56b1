//! A cluster in the lab: servers with Apache (two, unless a plan has others), a witness
//! (unless a plan has none), a client, an observer.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use evenkeel_core::standby::WAIT_MAX;
use rustix::process::Signal;
use serde::Serialize;

use crate::bridge::{Cable, Switch};
use crate::client::{Client, PACE, PACE6, QUICK};
use crate::config_text::{self, GroupPlan, Wishes};
use crate::daemon::{self, Evenkeel, GroupStatus, Status};
use crate::fault::{Ground, disk};
use crate::host::{Family, Host, Place};
use crate::inside::Lab;
use crate::observer::Observer;
use crate::setup::Setup;
use crate::{apache, process, systemd, wait};

/// The group of every cluster of the lab that is not planned otherwise.
pub(crate) const GROUP: &str = "www";

/// The address whose answers are measured.
pub(crate) const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100));

/// The group's other address, watched as well.
pub(crate) const SERVICE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100));

/// The witness's name.
pub(crate) const WITNESS: &str = "tie";

/// The servers that a cluster may have, in order of preference.
pub(crate) const SERVERS: [&str; 4] = ["ams1", "fra1", "bru1", "spare"];

/// Their numbers; the witness is 13, the client 50.
const NUMBERS: [u8; SERVERS.len()] = [11, 12, 14, 15];

/// So many servers; there are [`SERVERS`] at most.
pub(crate) fn servers(count: usize) -> Vec<Place> {
    let all = SERVERS.iter().zip(NUMBERS).take(count);
    all.map(|(name, number)| Place::new(name, number)).collect()
}

/// Time for a cluster to be whole: an election, some leases, and the wait for a node that has
/// failed the group, as often as it may be (a flapping cable does that again and again).
const WHOLE_LIMIT: Duration = Duration::from_secs(30).saturating_add(WAIT_MAX);

/// Time for a daemon that was told to stop: handing over and draining included.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A timing profile of the daemon (DESIGN 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// A lease of 120 ms.
    Balanced,
    /// A lease of 40 ms.
    Fast,
}

impl Profile {
    /// As in the configuration file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Fast => "fast",
        }
    }

    /// How long a promise lasts.
    pub(crate) fn lease(self) -> Duration {
        match self {
            Self::Balanced => Duration::from_millis(120),
            Self::Fast => Duration::from_millis(40),
        }
    }

    /// How often a promise is asked for.
    pub(crate) fn heartbeat(self) -> Duration {
        match self {
            Self::Balanced => Duration::from_millis(20),
            Self::Fast => Duration::from_millis(8),
        }
    }
}

/// What a cluster of the lab is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The daemon's program.
    pub(crate) program: PathBuf,
    /// A program of another version for every second node, if versions are to be mixed.
    pub(crate) older: Option<PathBuf>,
    /// Its timing.
    pub(crate) profile: Profile,
    /// The servers. The witness is number 13, the client 50.
    pub(crate) servers: Vec<Place>,
    /// Whether there is a witness.
    pub(crate) witness: bool,
    /// In which family the nodes talk.
    pub(crate) talk: Family,
    /// The groups.
    pub(crate) groups: Vec<GroupPlan>,
    /// The groups' rule; `None` for the default.
    pub(crate) fail_when: Option<String>,
    /// The disk of its logs.
    pub(crate) log_disk: LogDisk,
    /// From one question of a check to the next.
    pub(crate) interval: Duration,
    /// How Apache runs, and what asks about it.
    pub(crate) setup: Setup,
}

/// What the state directories lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogDisk {
    /// A directory on this machine's disk.
    Plain,
    /// A small file system that can be filled up.
    Small,
    /// A file system of its own that can be frozen.
    Image,
}

impl Plan {
    /// A cluster of `program` in `profile`: two servers, one group, the default rule.
    pub(crate) fn new(program: &Path, profile: Profile) -> Self {
        Self::with_servers(program, profile, servers(2))
    }

    /// The same with these servers, of which each may hold the group.
    pub(crate) fn with_servers(program: &Path, profile: Profile, servers: Vec<Place>) -> Self {
        let www = GroupPlan {
            name: GROUP.to_owned(),
            nodes: servers.iter().map(|place| place.name.clone()).collect(),
            addresses: vec![(SERVICE, 24), (SERVICE6, 64)],
            failback: None,
        };
        Self {
            program: program.to_owned(),
            older: None,
            profile,
            servers,
            witness: true,
            talk: Family::Four,
            groups: vec![www],
            fail_when: None,
            log_disk: LogDisk::Plain,
            interval: Duration::from_millis(50),
            setup: Setup::default(),
        }
    }

    /// Time-out of the cluster's checks.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(200)
    }
}

/// How the daemon's log says that a group opened on its node.
const OPENED: &str = "open here in epoch";

/// The log says a little later that it opened than it did: writing it is not in the way
/// of opening.
const LOG_SLACK: Duration = Duration::from_millis(50);

/// A line of the daemon's log, as far as the lab reads it.
#[derive(Debug, serde::Deserialize)]
struct LogLine {
    timestamp: String,
    message: String,
}

/// What the observer's sightings come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Each case of two hosts answering, in words.
    pub(crate) violations: Vec<String>,
    /// For how long they did, from the first frame of the one to the last of the other.
    pub(crate) overlap: Duration,
    /// Each case of an address that went back to a host, in words.
    pub(crate) returns: Vec<String>,
    /// Frames that the observer missed: a verdict with any is no proof.
    pub(crate) missed: u64,
}

impl Verdict {
    /// Fails if two hosts answered or a frame was missed.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.violations.is_empty() {
            bail!("two hosts answered: {}", self.violations.join("; "));
        }
        if self.missed > 0 {
            bail!("the observer missed {} frames", self.missed);
        }
        Ok(())
    }
}

/// A cluster that has been switched on.
#[derive(Debug)]
pub(crate) struct Cluster {
    lab: Lab,
    switch: Arc<Switch>,
    evenkeel: Evenkeel,
    /// The program of every second node.
    older: Evenkeel,
    profile: Profile,
    servers: Vec<Place>,
    witness: Option<Place>,
    groups: Vec<GroupPlan>,
    setup: Setup,
    /// Those that have power.
    hosts: BTreeMap<String, Host>,
    client: Host,
    /// Disks that were put in, to be taken out.
    disks: Vec<PathBuf>,
    /// Who answers for the group's addresses.
    pub(crate) observer: Observer,
}

impl Cluster {
    /// Switches a new cluster on: fresh disks, nothing assigned yet.
    pub(crate) fn start(lab: &Lab, switch: &Arc<Switch>, plan: &Plan) -> Result<Self> {
        let (mut servers, mut groups) = (plan.servers.clone(), plan.groups.clone());
        if plan.setup.has_third() {
            let third = Place::new("lon1", 14);
            groups
                .iter_mut()
                .for_each(|group| group.nodes.push(third.name.clone()));
            servers.push(third);
        }
        let dress = |place: Place| place.with_systemd(plan.setup.has_systemd());
        let servers: Vec<Place> = servers.into_iter().map(dress).collect();
        let witness = plan.witness.then(|| Place::new(WITNESS, 13));
        let place = lab.directory().join("cluster");
        let _ = fs::remove_dir_all(&place);
        for host in servers.iter().chain(&witness) {
            let _ = fs::remove_dir_all(lab.directory().join(&host.name));
        }
        fs::create_dir_all(&place).context("making the cluster's directory")?;
        let evenkeel = Evenkeel {
            program: plan.program.clone(),
            config: place.join("evenkeel.toml"),
            authority: place.join("authority"),
        };
        let older = Evenkeel {
            program: plan.older.clone().unwrap_or_else(|| plan.program.clone()),
            ..evenkeel.clone()
        };
        let wishes = Wishes {
            profile: plan.profile.name(),
            fail_when: plan.fail_when.clone(),
            timeout: plan.timeout(),
            interval: plan.interval,
            talk: plan.talk,
        };
        let text = config_text::text(&wishes, &servers, witness.as_ref(), &groups);
        let text = plan.setup.edit(&text, &place)?;
        fs::write(&evenkeel.config, text).context("writing the configuration")?;
        evenkeel.make_authority()?;
        let addresses = groups.iter().flat_map(|group| &group.addresses);
        let addresses: Vec<IpAddr> = addresses.map(|(ip, _)| *ip).collect();
        let observer = Observer::start(switch, &addresses)?;
        let client = Host::boot(lab, switch, &Place::new("client", 50))?;
        let mut cluster = Self {
            lab: lab.clone(),
            switch: Arc::clone(switch),
            evenkeel,
            older,
            profile: plan.profile,
            servers,
            witness,
            groups,
            setup: plan.setup,
            hosts: BTreeMap::new(),
            client,
            disks: Vec::new(),
            observer,
        };
        for name in cluster.names() {
            cluster.put_in_disk(&name, plan.log_disk)?;
            cluster.boot(&name)?;
        }
        Ok(cluster)
    }

    /// Puts the disk of a node's logs in, before its first boot.
    fn put_in_disk(&mut self, name: &str, kind: LogDisk) -> Result<()> {
        let state = self.lab.directory().join(name).join(daemon::STATE);
        match kind {
            LogDisk::Plain => return Ok(()),
            LogDisk::Small => disk::mount_small(&state)?,
            LogDisk::Image => disk::mount_image(&state.with_file_name("state.ext4"), &state)?,
        }
        self.disks.push(state);
        Ok(())
    }

    /// The places of all nodes.
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.servers.iter().chain(&self.witness)
    }

    /// The place of a node.
    pub(crate) fn place(&self, name: &str) -> Result<&Place> {
        self.places()
            .find(|place| place.name == name)
            .with_context(|| format!("no node {name}"))
    }

    /// All nodes, with power or without.
    pub(crate) fn names(&self) -> Vec<String> {
        self.places().map(|place| place.name.clone()).collect()
    }

    /// The servers, with power or without.
    pub(crate) fn server_names(&self) -> Vec<String> {
        self.servers
            .iter()
            .map(|place| place.name.clone())
            .collect()
    }

    /// The server that is not `name`.
    pub(crate) fn other(&self, name: &str) -> Result<String> {
        self.server_names()
            .into_iter()
            .find(|server| server != name)
            .context("a cluster of one server")
    }

    /// A node that has power.
    pub(crate) fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .get(name)
            .with_context(|| format!("{name} has no power"))
    }

    /// A node that has power.
    pub(crate) fn host_mut(&mut self, name: &str) -> Result<&mut Host> {
        self.hosts
            .get_mut(name)
            .with_context(|| format!("{name} has no power"))
    }

    /// Writes another configuration file, the same for all nodes.
    pub(crate) fn write_config(&self, text: &str) -> Result<()> {
        fs::write(&self.evenkeel.config, text).context("writing the configuration")
    }

    /// The configuration file as it is.
    pub(crate) fn config(&self) -> Result<String> {
        fs::read_to_string(&self.evenkeel.config).context("reading the configuration")
    }

    /// The daemon's program and files.
    pub(crate) fn evenkeel(&self) -> &Evenkeel {
        &self.evenkeel
    }

    /// The program and files of one node's daemon: of the other version on every second one.
    fn evenkeel_of(&self, name: &str) -> &Evenkeel {
        let second = self.places().position(|place| place.name == name);
        match second.is_some_and(|index| index % 2 == 1) {
            true => &self.older,
            false => &self.evenkeel,
        }
    }

    /// Its timing.
    pub(crate) fn profile(&self) -> Profile {
        self.profile
    }

    /// The switch.
    pub(crate) fn switch(&self) -> &Arc<Switch> {
        &self.switch
    }

    /// The witness's address.
    pub(crate) fn witness_ip(&self) -> Result<IpAddr> {
        let witness = self.witness.as_ref();
        witness
            .map(Place::ip)
            .context("a cluster without a witness")
    }

    /// The lab.
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The machine of the clients.
    pub(crate) fn client_host(&self) -> &Host {
        &self.client
    }

    /// A client that begins to ask for the group's page.
    pub(crate) fn client(&self) -> Result<Client> {
        self.client_of(QUICK)
    }

    /// A client that begins to ask for one of the group's pages over IPv4 or IPv6, every `pace`.
    pub(crate) fn client_over(
        &self,
        family: Family,
        page: &'static str,
        pace: Duration,
    ) -> Result<Client> {
        let service = match family {
            Family::Four => SERVICE,
            Family::Six => SERVICE6,
        };
        Client::start(&self.client, apache::page(service), page, pace)
    }

    /// A client that begins to ask for one of the group's pages.
    pub(crate) fn client_of(&self, page: &'static str) -> Result<Client> {
        self.client_over(Family::Four, page, PACE)
    }

    /// The same for the group's IPv6 address, less often.
    pub(crate) fn client6_of(&self, page: &'static str) -> Result<Client> {
        self.client_over(Family::Six, page, PACE6)
    }

    /// Switches a node on, with all that runs on it.
    pub(crate) fn boot(&mut self, name: &str) -> Result<()> {
        let place = self.place(name)?.clone();
        let mut host = Host::boot(&self.lab, &self.switch, &place)?;
        if self.serves(name) {
            match self.setup.is_warm() {
                true => apache::start(&mut host)?,
                false => apache::install(&mut host)?,
            }
        }
        self.evenkeel_of(name).start(&mut host)?;
        self.hosts.insert(name.to_owned(), host);
        Ok(())
    }

    /// Whether a node is a server.
    fn serves(&self, name: &str) -> bool {
        self.servers.iter().any(|place| place.name == name)
    }

    /// Whether a node has power.
    pub(crate) fn has_power(&self, name: &str) -> bool {
        self.hosts.contains_key(name)
    }

    /// Starts the daemon of a node that has power.
    pub(crate) fn start_daemon(&mut self, name: &str) -> Result<()> {
        let evenkeel = self.evenkeel_of(name).clone();
        evenkeel.start(self.host_mut(name)?)
    }

    /// Cuts the power of a node.
    pub(crate) fn power_cut(&mut self, name: &str) -> Result<()> {
        self.hosts
            .remove(name)
            .with_context(|| format!("{name} has no power"))?
            .power_cut()
    }

    /// What a node says of the cluster; `None` if it says nothing.
    pub(crate) fn status(&self, name: &str) -> Result<Option<Status>> {
        match self.hosts.get(name) {
            Some(host) => self.evenkeel.status(host),
            None => Ok(None),
        }
    }

    /// What is wrong with the cluster; `Ok` with the first group's status if nothing is.
    fn whole(&self) -> Result<std::result::Result<GroupStatus, String>> {
        whole(&self.names(), &self.groups, |name| self.status(name))
    }

    /// Waits until nothing is wrong with the cluster and returns who holds the (first) group.
    pub(crate) fn wait_whole(&self) -> Result<String> {
        let mut last = String::new();
        let done = wait::until("the cluster is whole", WHOLE_LIMIT, || {
            Ok(match self.whole()? {
                Ok(group) => group.holder,
                Err(lacking) => {
                    last = lacking;
                    None
                }
            })
        });
        done.with_context(|| format!("last: {last}; logs in {}", self.lab.directory().display()))
    }

    /// Puts everything right that a fault has broken and waits until the cluster is
    /// whole; returns who holds the group.
    pub(crate) fn heal(&mut self) -> Result<String> {
        self.mend()?;
        self.wait_whole()
    }

    /// The same without the wait.
    pub(crate) fn mend(&mut self) -> Result<()> {
        for name in self.names() {
            self.heal_node(&name)
                .with_context(|| format!("healing {name}"))?;
        }
        Ok(())
    }

    fn heal_node(&mut self, name: &str) -> Result<()> {
        let Some(host) = self.hosts.get_mut(name) else {
            return self.boot(name);
        };
        self.switch.set_filter(name, &[])?;
        self.switch.set_cable(name, Cable::WHOLE)?;
        process::thaw_all(&host.mark(daemon::PROGRAM))?;
        if self.servers.iter().any(|place| place.name == name) && self.setup.is_warm() {
            apache::heal(host)?;
        }
        if daemon::processes(host)?.is_empty() {
            self.start_daemon(name)?;
        }
        Ok(())
    }

    /// Judges what the observer has seen since its mark. A host that answers again after
    /// another one began has got the address back if its daemon says that it opened in
    /// between, once per time; otherwise two hosts answer.
    pub(crate) fn verdict(&self) -> Verdict {
        let report = self.observer.report();
        let mut verdict = Verdict {
            missed: report.missed,
            ..Verdict::default()
        };
        let mut openings: BTreeMap<(IpAddr, String), Vec<Duration>> = BTreeMap::new();
        for case in report.returns {
            let key = (case.address, case.host.clone());
            let left = openings
                .entry(key)
                .or_insert_with(|| self.openings_of(&case.host, self.group_of(case.address)));
            let earliest = case.other_began.calendar.saturating_sub(LOG_SLACK);
            let latest = case.at.calendar + LOG_SLACK;
            match left.iter().position(|at| (earliest..=latest).contains(at)) {
                Some(index) => {
                    left.drain(..=index);
                    verdict.returns.push(case.told);
                }
                None => {
                    let began = case.other_began.calendar;
                    verdict.overlap += case.last.calendar.saturating_sub(began);
                    verdict.violations.push(case.told);
                }
            }
        }
        verdict
    }

    /// The group that an address belongs to; none where one group was planned, whose addresses
    /// a scenario may give to another by a reload.
    fn group_of(&self, address: IpAddr) -> Option<&str> {
        let has = |group: &&GroupPlan| group.addresses.iter().any(|(ip, _)| *ip == address);
        let several = self.groups.len() > 1;
        let found = self.groups.iter().find(has).filter(|_| several);
        found.map(|group| &*group.name)
    }

    /// When the daemon of a node says it opened, on the calendar clock.
    pub(crate) fn openings(&self, name: &str) -> Vec<Duration> {
        self.openings_of(name, None)
    }

    /// When it says it opened a group; any, if none is named.
    fn openings_of(&self, name: &str, group: Option<&str>) -> Vec<Duration> {
        let of = |line: &LogLine| {
            let told = line.message.split_once(": ").map(|(group, _)| group);
            group.is_none() || told == group
        };
        let path = self.lab.directory().join(name).join("evenkeel.log");
        let text = fs::read_to_string(path).unwrap_or_default();
        let opened = text.lines().filter_map(|line| {
            let line: LogLine = serde_json::from_str(line).ok()?;
            (line.message.contains(OPENED) && of(&line)).then_some(line.timestamp)
        });
        opened.filter_map(|at| calendar(&at)).collect()
    }

    /// How many lines of a node's log have this in them.
    pub(crate) fn log_count(&self, name: &str, what: &str) -> usize {
        let path = self.lab.directory().join(name).join("evenkeel.log");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter(|line| line.contains(what)).count()
    }

    /// The last lines of a node's log, for a person to whom something went wrong.
    pub(crate) fn log_tail(&self, name: &str, lines: usize) -> String {
        let path = self.lab.directory().join(name).join("evenkeel.log");
        let text = fs::read_to_string(path).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Orders a planned switchover to `to` at the daemon of `at` and waits for its end.
    pub(crate) fn switch_over(&self, at: &str, to: &str) -> Result<()> {
        let host = self.host(at)?;
        self.evenkeel
            .order(host, &["switch", GROUP, "--to", to])
            .map(drop)
    }

    /// Has the node `at` asked to let a node's groups go, or to take it back.
    pub(crate) fn maintain(&self, at: &str, order: &str, node: &str) -> Result<()> {
        let host = self.host(at)?;
        self.evenkeel.order(host, &[order, node]).map(drop)
    }

    /// Tells the daemon of a node to stop, as an init system does, and waits for its end.
    pub(crate) fn stop_daemon(&self, name: &str) -> Result<()> {
        let host = self.host(name)?;
        if host.has_systemd() {
            return systemd::systemctl(host, &["stop", daemon::UNIT]).map(drop);
        }
        let first = daemon::processes(host)?.first().copied();
        let parent = first.with_context(|| format!("{name}'s daemon does not run"))?;
        rustix::process::kill_process(parent, Signal::TERM).context("stopping the daemon")?;
        wait::until("the daemon stops", STOP_LIMIT, || {
            Ok(daemon::processes(host)?.is_empty().then_some(()))
        })
    }

    /// Has a node with a systemd reboot, as an operator does, and waits until it is down. It
    /// is left without power.
    pub(crate) fn reboot(&mut self, name: &str) -> Result<()> {
        let host = self.host_mut(name)?;
        systemd::systemctl(host, &["reboot"])?;
        wait::until("the machine goes down", STOP_LIMIT, || {
            Ok(host.is_down()?.then_some(()))
        })?;
        self.power_cut(name)
    }

    /// Sends a signal to all processes of a node's daemon.
    pub(crate) fn signal_daemon(&self, name: &str, signal: Signal) -> Result<()> {
        process::signal(&self.host(name)?.mark(daemon::PROGRAM), signal)
    }

    /// A fresh start if healing did not help: everything off and on again, new disks.
    pub(crate) fn restart(self, plan: &Plan) -> Result<Self> {
        let (lab, switch) = (self.lab.clone(), Arc::clone(&self.switch));
        drop(self);
        Self::start(&lab, &switch, plan)
    }

    /// Waits until `name` holds the group and serves, as a live node tells it.
    pub(crate) fn wait_holder(&self, name: &str, limit: Duration) -> Result<()> {
        wait::until(&format!("{name} holds the group"), limit, || {
            Ok((self.serving()?.as_deref() == Some(name)).then_some(()))
        })
    }

    /// Who serves, as far as any live node knows.
    pub(crate) fn serving(&self) -> Result<Option<String>> {
        for name in self.names() {
            if let Some(status) = self.status(&name)?
                && status.quorum
                && let Some(group) = status.groups.first()
                && group.state == "serving"
            {
                return Ok(group.holder.clone());
            }
        }
        Ok(None)
    }
}

impl Ground for Cluster {
    fn host(&self, name: &str) -> Result<&Host> {
        self.host(name)
    }

    fn switch(&self) -> &Switch {
        self.switch()
    }

    fn power_cut(&mut self, name: &str) -> Result<()> {
        self.power_cut(name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.hosts.clear();
        for state in &self.disks {
            // The last one on a disk may still be on its way out.
            let _ = rustix::mount::unmount(state, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// What is wrong with a cluster of `nodes` that say of themselves what `status` gives; `Ok`
/// with the first group's status if nothing is: every node says that the same holders serve
/// and all of their groups' nodes could.
pub(crate) fn whole(
    nodes: &[String],
    groups: &[GroupPlan],
    status: impl Fn(&str) -> Result<Option<Status>>,
) -> Result<std::result::Result<GroupStatus, String>> {
    let mut first: Vec<GroupStatus> = Vec::new();
    for name in nodes {
        let Some(status) = status(name)? else {
            return Ok(Err(format!("{name} says nothing")));
        };
        if !status.quorum || status.leader.is_none() {
            return Ok(Err(format!("{name} sees no majority")));
        }
        if let Some(gone) = status.nodes.iter().find(|node| !node.alive) {
            return Ok(Err(format!("{name} does not hear {}", gone.name)));
        }
        let mut told = Vec::new();
        for planned in groups {
            match whole_group(&status, &planned.name) {
                Ok(group) => told.push(group),
                Err(lacking) => return Ok(Err(format!("{name}: {lacking}"))),
            }
        }
        let mut pairs = first.iter().zip(&told);
        if pairs.any(|(one, other)| one.holder != other.holder) {
            return Ok(Err("the nodes name different holders".into()));
        }
        first = told;
    }
    let group = first.into_iter().next();
    group.map(Ok).context("a cluster without nodes or groups")
}

/// What is wrong with a group by a node's status; `Ok` with its part of it if nothing is.
fn whole_group(status: &Status, name: &str) -> std::result::Result<GroupStatus, String> {
    let Some(told) = status.groups.iter().find(|one| one.name == name) else {
        return Err(format!("{name} is not known"));
    };
    if told.state != "serving" || told.holder.is_none() {
        return Err(format!("{name} is {}", told.state));
    }
    match told.nodes.iter().find(|node| !node.ready) {
        Some(unfit) => Err(format!(
            "{} is not ready for {name}: {}",
            unfit.name,
            unfit.reason.clone().unwrap_or_default()
        )),
        None => Ok(told.clone()),
    }
}

/// A time of the log as the calendar clock gives it.
fn calendar(text: &str) -> Option<Duration> {
    text.parse::<jiff::Timestamp>()
        .ok()?
        .as_duration()
        .try_into()
        .ok()
}

/// The epoch that `name` tells, for scenarios that compare.
pub(crate) fn epoch(cluster: &Cluster, name: &str) -> Result<u64> {
    let Some(status) = cluster.status(name)? else {
        bail!("{name} says nothing")
    };
    Ok(status.groups.first().map_or(0, |group| group.epoch))
}
