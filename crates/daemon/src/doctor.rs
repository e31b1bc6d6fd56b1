//! `evenkeel doctor`: is this node fit. Joins what each room finds on this machine (`doctor.rs`
//! of each) with what the daemon says of itself, if one runs. Changes nothing.
//!
//! It is run by the command line, outside of the daemon: a daemon that does not start is what it
//! is asked about most.

mod asked;
mod disk;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use evenkeel_config::{Config, Hosted, Question};
use evenkeel_console::api::v1::{self as api, Answer, Fit, Found, Request};
use evenkeel_console::client::{self, ClientError};
use evenkeel_core::NodeName;
use evenkeel_core::finding::{Finding, Severity};
use evenkeel_core::topology::{Node, ServiceAddress, Timing, Topology};
use evenkeel_host::doctor as machine;
use evenkeel_host::frame::Mac;
use evenkeel_host::ping::{Family, Pinger};
use evenkeel_host::systemd::{SYSTEM_BUS, Systemd};

use crate::prepare::fingerprints;
use crate::{lease, worker};

/// How long answers on the wire are waited for, on each interface.
const WIRE_PATIENCE: Duration = Duration::from_millis(900);
/// How long another node may take to answer an echo request.
const PING_PATIENCE: Duration = Duration::from_secs(1);
/// The longest measurement of jitter; the shortest is for tests.
pub const MEASURE_MAX: Duration = Duration::from_secs(60);
/// The shortest measurement of jitter that says anything.
pub const MEASURE_MIN: Duration = Duration::from_millis(100);
/// Findings of one area that are told; more are counted.
const FINDINGS_MAX: usize = 64;

/// What is to be looked at.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The control socket of the daemon that may run.
    pub socket: PathBuf,
    /// The file; the running daemon's, or the unit's, if none.
    pub config: Option<PathBuf>,
    /// Which of its nodes this is; likewise.
    pub node: Option<String>,
    /// The state directory; likewise.
    pub state: Option<PathBuf>,
    /// The certificates; likewise.
    pub pki: Option<PathBuf>,
    /// For how long jitter is measured.
    pub measure: Duration,
}

/// Where things are, as the unit of the package has them.
const UNIT_CONFIG: &str = "/etc/evenkeel/evenkeel.toml";
const UNIT_NODE: &str = "/etc/evenkeel/node";
const UNIT_STATE: &str = "/var/lib/evenkeel";
const UNIT_PKI: &str = "/etc/evenkeel/pki";
/// The file with the node's name is a line.
const NODE_LENGTH_MAX: u64 = 4096;

/// What is found, in groups.
struct Chart(Vec<Found>);

impl Chart {
    fn add(&mut self, area: &str, findings: impl IntoIterator<Item = Finding>) {
        let before = self.0.len();
        let mut left = 0;
        for finding in findings {
            // What is fine need not be told of hundreds of addresses.
            if self.0.len() - before >= FINDINGS_MAX && finding.severity == Severity::Fine {
                left += 1;
                continue;
            }
            self.0.push(told(area, finding));
        }
        if left > 0 {
            let more = Finding::fine("", format!("{left} more are as they should be"));
            self.0.push(told(area, more));
        }
    }
}

fn told(area: &str, finding: Finding) -> Found {
    Found {
        area: area.to_owned(),
        severity: match finding.severity {
            Severity::Fine => Fit::Fit,
            Severity::Warning => Fit::Reduced,
            Severity::Unfit => Fit::Unfit,
        },
        place: finding.place,
        what: finding.what,
        remedy: finding.remedy,
    }
}

/// What the daemon has said, if there is one.
struct Daemon {
    doctor: Option<api::Doctor>,
    /// Groups that nobody holds, as it says; none if there is no daemon.
    unheld: Option<Vec<String>>,
    said: Vec<Finding>,
}

fn ask_daemon(asked: &Asked) -> Daemon {
    let place = asked.socket.display().to_string();
    let mut daemon = Daemon {
        doctor: None,
        unheld: None,
        said: Vec::new(),
    };
    match client::ask(&asked.socket, &Request::Doctor) {
        Ok(Answer::Doctor(doctor)) => daemon.doctor = Some(doctor),
        Ok(_) => daemon.said.push(
            Finding::warning(&place, "the daemon there is of a version that has no doctor")
                .remedy("`evenkeel upgrade`, once this program is installed in its place"),
        ),
        // Whoever names the file asks about a node that is not started yet.
        Err(ClientError::Absent { .. }) if asked.config.is_some() => daemon.said.push(
            Finding::fine(&place, "no daemon answers: only this machine is looked at"),
        ),
        Err(ClientError::Absent { .. }) => daemon.said.push(
            Finding::warning(&place, "no daemon answers: only this machine can be looked at").remedy(
                "`systemctl start evenkeel` if it should run; another socket is named with --socket",
            ),
        ),
        Err(error) => daemon.said.push(Finding::unfit(&place, error.to_string())),
    }
    if daemon.doctor.is_some() {
        let groups = match client::ask(&asked.socket, &Request::Status) {
            Ok(Answer::Status(status)) => status.groups,
            // Then nobody knows of one that nobody holds.
            Ok(_) | Err(_) => Vec::new(),
        };
        let unheld = groups
            .into_iter()
            .filter(|one| one.state == api::State::Closed);
        daemon.unheld = Some(unheld.map(|one| one.name).collect());
    }
    daemon
}

/// Where the files are.
struct Places {
    config: PathBuf,
    node: String,
    state: PathBuf,
    pki: PathBuf,
}

impl Places {
    /// As asked; else the daemon's; else the unit's.
    fn of(asked: &Asked, runs: Option<&api::Runs>) -> Result<Self, Finding> {
        let path = |said: &Option<PathBuf>, own: Option<&String>, unit: &str| {
            let own = || own.map(PathBuf::from);
            said.clone().or_else(own).unwrap_or_else(|| unit.into())
        };
        let own = runs.map(|runs| runs.node.clone());
        let node = asked.node.clone().or(own).or_else(unit_node);
        Ok(Self {
            config: path(&asked.config, runs.map(|runs| &runs.config), UNIT_CONFIG),
            node: node.ok_or_else(|| {
                Finding::unfit("--node", "it is not said which node of the file this is").remedy(
                    "give --config, --node, --state and --pki as `evenkeel run` has them (or \
                     --socket, if its daemon runs)",
                )
            })?,
            state: path(&asked.state, runs.map(|runs| &runs.state), UNIT_STATE),
            pki: path(&asked.pki, runs.map(|runs| &runs.pki), UNIT_PKI),
        })
    }
}

/// The node's name as the unit reads it.
fn unit_node() -> Option<String> {
    let about = fs::metadata(UNIT_NODE).ok()?;
    if !about.is_file() || about.len() > NODE_LENGTH_MAX {
        return None;
    }
    let text = fs::read_to_string(UNIT_NODE).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("NODE="))?;
    Some(name.trim().trim_matches('"').to_owned())
}

/// Looks at everything. Takes as long as jitter is measured, and some seconds.
pub fn examine(asked: &Asked) -> api::Doctor {
    let daemon = ask_daemon(asked);
    let runs = daemon.doctor.as_ref().and_then(|one| one.runs.clone());
    let mut chart = Chart(Vec::new());
    chart.add("daemon", daemon.said);
    if let Some(doctor) = &daemon.doctor {
        chart.0.extend(doctor.findings.iter().cloned());
    }
    let (mut node, mut cluster) = ("this machine".to_owned(), "no usable file".to_owned());
    let mut timing = evenkeel_config::profile("balanced");
    match Places::of(asked, runs.as_ref()) {
        Err(finding) => chart.add("file", [finding]),
        Ok(places) => {
            node.clone_from(&places.node);
            chart.add("file", disk::file(&places.config));
            match evenkeel_config::load(&places.config) {
                Err(faults) => chart.add("file", faults_of(&faults)),
                Ok(config) => {
                    cluster.clone_from(&config.topology.cluster);
                    timing = Some(config.topology.timing);
                    chart.add("file", faults_of(&config.warnings));
                    by_file(&mut chart, &places, &config, daemon.unheld.as_deref());
                }
            }
        }
    }
    chart.add("machine", machine::examine(lease::PRIORITY));
    if let Some(timing) = timing {
        chart.add("machine", jitter(asked.measure, &timing));
    }
    let verdict = chart.0.iter().map(|one| one.severity).max();
    api::Doctor {
        node,
        cluster,
        verdict: verdict.unwrap_or(Fit::Fit),
        daemon: daemon.doctor.is_some(),
        findings: chart.0,
        runs,
    }
}

fn jitter(span: Duration, timing: &Timing) -> Vec<Finding> {
    match machine::measure(span, lease::PRIORITY) {
        Ok(jitter) => machine::judge(&jitter, timing),
        Err(error) => vec![Finding::warning(
            "jitter",
            format!("cannot be measured: {error}"),
        )],
    }
}

fn faults_of(faults: &evenkeel_config::Faults) -> Vec<Finding> {
    let faults = faults.iter();
    let finding = |fault: &evenkeel_config::Fault| {
        let place = match &fault.place {
            Some(place) => place.to_string(),
            None => fault.file.to_string(),
        };
        let finding = match fault.severity {
            evenkeel_config::Severity::Refused => Finding::unfit(&place, &*fault.message),
            evenkeel_config::Severity::Warning => Finding::warning(&place, &*fault.message),
        };
        finding.remedy(&*fault.help)
    };
    faults.map(finding).collect()
}

/// What the file says about this node, held against this machine.
fn by_file(chart: &mut Chart, places: &Places, config: &Config, unheld: Option<&[String]>) {
    let topology = &config.topology;
    let name = NodeName::new(&places.node).ok();
    let nodes = || topology.nodes.values();
    let Some(node) = nodes().find(|one| Some(&one.name) == name.as_ref()) else {
        let known: Vec<&str> = nodes().map(|one| one.name.as_str()).collect();
        let finding = Finding::unfit(
            &places.config.display().to_string(),
            format!(
                "it has no node {:?}; it has {}",
                places.node,
                known.join(", ")
            ),
        );
        let remedy = "correct --node (NODE= in /etc/evenkeel/node), or add the node to the file";
        return chart.add("file", [finding.remedy(remedy)]);
    };
    let revoked = fingerprints(config);
    chart.add(
        "certificate",
        evenkeel_transport::doctor::examine(
            &places.pki,
            &topology.cluster,
            &node.name,
            &revoked,
            SystemTime::now(),
        ),
    );
    chart.add("state", disk::state(places, config, node, unheld.is_some()));
    if !node.witness {
        chart.add("guard", evenkeel_guard::doctor::examine(&worker::bpffs()));
    }
    chart.add("network", network(config, node, unheld));
    for group in topology.groups.values() {
        if let Some(checks) = config.checks.get(&group.id) {
            let found = evenkeel_checks::doctor::examine(group, checks, node.id);
            chart.add("checks", found);
        }
    }
    let faults = evenkeel_checks::faults_of(topology, &config.checks, node.id);
    chart.add("checks", faults.iter().map(unusable_authorities));
    waiting(chart, config, node, unheld.is_none());
}

fn unusable_authorities(fault: &evenkeel_checks::ResolveError) -> Finding {
    Finding::unfit("", format!("failed to {fault}"))
        .remedy("put the file there, readable, and reload; until then the check says unknown")
}

/// What has to be waited for: other nodes, systemd.
fn waiting(chart: &mut Chart, config: &Config, node: &Node, alone: bool) {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => return chart.add("peers", [Finding::unfit("", error.to_string())]),
    };
    if alone {
        let found = runtime.block_on(reachable(&config.topology, node));
        chart.add("peers", found);
    }
    chart.add("checks", runtime.block_on(units_asked_about(config, node)));
    let own = config.topology.groups.values();
    let own = own.filter(|group| group.nodes.contains(&node.id));
    let hosted = own.filter_map(|group| Some((group, config.hosted.get(&group.id)?)));
    let hosted: Vec<_> = hosted
        .filter(|(_, one)| **one != Hosted::default())
        .collect();
    if hosted.is_empty() {
        return;
    }
    let found = runtime.block_on(async {
        let systemd = Systemd::start(SYSTEM_BUS);
        let mut all = Vec::new();
        let named: Vec<_> = hosted
            .iter()
            .map(|(group, one)| (&group.name, *one))
            .collect();
        let same = evenkeel_services::doctor::same_units(&named, &systemd).await;
        all.extend(same.into_iter().map(|fault| Finding::unfit("", fault)));
        for (group, hosted) in hosted {
            let faults = evenkeel_services::doctor::examine(hosted, &systemd).await;
            if faults.is_empty() {
                all.push(Finding::fine(
                    group.name.as_str(),
                    "its services and hooks can be run here",
                ));
            }
            let unfit = |fault: String| Finding::unfit(group.name.as_str(), fault);
            all.extend(faults.into_iter().map(unfit));
        }
        all
    });
    chart.add("services", found);
}

/// Whether the units that checks ask about are there. Asks systemd only if there are any.
async fn units_asked_about(config: &Config, node: &Node) -> Vec<Finding> {
    let all = config.checks.values().flatten();
    if !all
        .map(|one| &one.question)
        .any(|question| matches!(question, Question::Unit(_)))
    {
        return Vec::new();
    }
    let probes = evenkeel_checks::probes_of(&config.topology, &config.checks, node.id);
    let systemd = Systemd::start(SYSTEM_BUS);
    let faults = evenkeel_checks::doctor::examine_units(&probes, &systemd).await;
    let unfit = |fault: String| Finding::unfit("", fault);
    faults.into_iter().map(unfit).collect()
}

/// Whether the other nodes can be reached, as far as that shows without their daemons.
async fn reachable(topology: &Topology, node: &Node) -> Vec<Finding> {
    let mut found = Vec::new();
    let others = topology.nodes.values().filter(|other| other.id != node.id);
    for other in others {
        let (name, ip) = (other.name.as_str(), other.address.ip());
        let asked = match Pinger::open(Family::of(ip), None) {
            Ok(pinger) => pinger.ask(ip, PING_PATIENCE).await,
            Err(error) => Err(error),
        };
        found.push(match asked {
            Ok(reply) => near(name, reply.took, &topology.timing),
            Err(error) => Finding::warning(name, format!("failed to {error}")).remedy(
                "is it on, and does the network let echo requests through? What counts is UDP to \
                 its port, which only a daemon here can try",
            ),
        });
    }
    found
}

/// Whether a round trip fits into the lease.
pub(crate) fn near(name: &str, rtt: Duration, timing: &Timing) -> Finding {
    let what = format!(
        "answers within {:.1} ms; a quarter of the lease is {:.0} ms",
        rtt.as_secs_f64() * 1e3,
        (timing.lease / 4).as_secs_f64() * 1e3
    );
    match rtt < timing.lease / 4 {
        true => Finding::fine(name, what),
        false => Finding::warning(name, format!("{what}: renewals may come too late"))
            .remedy("profile = \"wan\", or another lease of at least four round trips"),
    }
}

/// Addresses, interfaces, the node's own port, and who else is there.
fn network(config: &Config, node: &Node, unheld: Option<&[String]>) -> Vec<Finding> {
    let mut found = Vec::new();
    if unheld.is_none() {
        found.push(own_port(node));
    }
    let groups = config.topology.groups.values();
    let own: Vec<_> = groups.filter(|one| one.nodes.contains(&node.id)).collect();
    let addresses = own.iter().flat_map(|group| group.addresses.clone());
    let addresses: Vec<ServiceAddress> = addresses.collect();
    if node.witness {
        return found;
    }
    found.extend(evenkeel_traffic::doctor::examine(&addresses));
    // Where somebody may hold them, an answer is as it should be.
    let free = own.iter().filter(|group| {
        let known = |names: &[String]| names.iter().any(|name| name == group.name.as_str());
        unheld.is_none_or(known)
    });
    let free: Vec<ServiceAddress> = free.flat_map(|group| group.addresses.clone()).collect();
    match evenkeel_traffic::doctor::on_the_wire(&free, WIRE_PATIENCE) {
        Ok(answers) => {
            let neighbours = fs::read_to_string("/proc/net/arp").unwrap_or_default();
            let neighbours = neighbours_of(&neighbours);
            let asked = unheld.is_some();
            let one =
                |(ip, mac): (IpAddr, Mac)| answered(&config.topology, ip, mac, &neighbours, asked);
            found.extend(answers.into_iter().map(one));
        }
        Err(error) => found.push(Finding::warning("", format!("failed to {error}"))),
    }
    found
}

fn own_port(node: &Node) -> Finding {
    let place = node.address.to_string();
    let remedy = |error: &std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => "another process has it: ss -ulpn shows which",
        std::io::ErrorKind::AddrNotAvailable => {
            "it is no address of this machine: correct `address` of this node, or is the network \
             not up?"
        }
        std::io::ErrorKind::PermissionDenied => "take a port from 1024 on, or ask as root",
        _ => "see what the system says",
    };
    match UdpSocket::bind(node.address) {
        Ok(_) => Finding::fine(&place, "this node's UDP port is free"),
        Err(error) => Finding::unfit(
            &place,
            format!("this node's UDP port cannot be had: {error}"),
        )
        .remedy(remedy(&error)),
    }
}

/// Addresses by hardware address, from /proc/net/arp.
fn neighbours_of(text: &str) -> BTreeMap<String, Vec<IpAddr>> {
    let mut all: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let (Some(Ok(ip)), Some(mac)) = (words.first().map(|ip| ip.parse()), words.get(3)) {
            all.entry((*mac).to_owned()).or_default().push(ip);
        }
    }
    all
}

/// Somebody answers for an address: the cluster's holder, or a stranger.
fn answered(
    topology: &Topology,
    ip: IpAddr,
    mac: Mac,
    neighbours: &BTreeMap<String, Vec<IpAddr>>,
    nobody_holds_it: bool,
) -> Finding {
    let shown: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = shown.join(":");
    let known = neighbours.get(&shown);
    let mut nodes = topology.nodes.values();
    let whose = nodes.find(|node| known.is_some_and(|ips| ips.contains(&node.address.ip())));
    let place = ip.to_string();
    match (whose, nobody_holds_it) {
        (Some(node), false) => Finding::fine(
            &place,
            format!("{} ({shown}) answers for it now", node.name),
        ),
        (Some(node), true) => Finding::unfit(
            &place,
            format!(
                "{} ({shown}) answers for it, though no node holds it",
                node.name
            ),
        )
        .remedy("take it out of the network configuration there"),
        (None, true) => Finding::unfit(
            &place,
            format!("{shown} answers for it, though no node holds it: another machine has it"),
        )
        .remedy("find that machine (its switch port, ip neighbour), and give one of them another"),
        (None, false) => Finding::warning(
            &place,
            format!("{shown} answers for it, which is no node's address for its peers"),
        )
        .remedy(
            "fine if that is the holder's other interface; otherwise another machine has the \
             address",
        ),
    }
}

#[cfg(test)]
mod tests;
