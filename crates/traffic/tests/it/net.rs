//! Hosts for the tests: network namespaces, each with an interface `eth0` on one bridge
//! that lives in a namespace of its own.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use evenkeel_core::topology::ServiceAddress;
use evenkeel_core::{Epoch, GroupId};
use evenkeel_host::address::{Address, Placement, addresses, stopgaps};
use evenkeel_host::netlink::{Connection, Family};
use evenkeel_traffic::{Mover, Report, Settings, Want};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::mpsc;

/// How long a test waits for anything before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const WWW: GroupId = GroupId(1);
pub(crate) const DB: GroupId = GroupId(2);
pub(crate) const OPEN: Want = Want::Open {
    epoch: Epoch { term: 1, index: 1 },
};

static LANS: AtomicU32 = AtomicU32::new(0);

pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).output().expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A bridge and its hosts, gone when dropped.
pub(crate) struct Lan {
    tag: String,
    spaces: Vec<String>,
}

impl Lan {
    /// Makes a bridge and as many hosts, 192.0.2.N/24 and 2001:db8::N/64 for N from 1.
    /// `None`, said loudly, where this process may not make network namespaces.
    pub(crate) fn new(hosts: u32) -> Option<Self> {
        let number = LANS.fetch_add(1, Ordering::Relaxed);
        let tag = format!("ekt{:x}-{number}", std::process::id());
        let mut lan = Self {
            tag,
            spaces: Vec::new(),
        };
        let bridge = lan.space("br");
        let made = Command::new("ip").args(["netns", "add", &bridge]).output();
        match made {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                eprintln!(
                    "SKIPPED: cannot make network namespaces here (root is needed): {}",
                    String::from_utf8_lossy(&output.stderr)
                );
                return None;
            }
            Err(error) => {
                eprintln!("SKIPPED: cannot run ip: {error}");
                return None;
            }
        }
        lan.spaces.push(bridge.clone());
        run(&format!("ip -n {bridge} link add br0 type bridge"));
        run(&format!("ip -n {bridge} link set br0 up"));
        for host in 1..=hosts {
            lan.add_host(host);
        }
        Some(lan)
    }

    pub(crate) fn space(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    pub(crate) fn host(&self, host: u32) -> Host {
        Host {
            space: self.space(&host.to_string()),
            host,
        }
    }

    fn add_host(&mut self, host: u32) {
        let (bridge, space) = (self.space("br"), self.space(&host.to_string()));
        run(&format!("ip netns add {space}"));
        self.spaces.push(space.clone());
        run(&format!("ip -n {space} link set lo up"));
        let host = self.host(host);
        host.plug(&bridge);
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for space in self.spaces.drain(..) {
            let _ = Command::new("ip")
                .args(["netns", "delete", &space])
                .output();
        }
    }
}

#[derive(Clone)]
pub(crate) struct Host {
    space: String,
    host: u32,
}

impl Host {
    /// Gives it `eth0`, a port of the bridge, and its own addresses.
    pub(crate) fn plug(&self, bridge: &str) {
        let Self { space, host } = self;
        run(&format!(
            "ip -n {space} link add eth0 type veth peer name port{host} netns {bridge}"
        ));
        run(&format!("ip -n {bridge} link set port{host} master br0 up"));
        run(&format!(
            "ip -n {space} address add 192.0.2.{host}/24 dev eth0"
        ));
        run(&format!(
            "ip -n {space} address add 2001:db8::{host}/64 dev eth0 nodad"
        ));
        run(&format!("ip -n {space} link set eth0 up"));
    }

    /// `ip` on this host.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.space))
    }

    pub(crate) fn mac(&self) -> String {
        let text = self.ip("-o link show eth0");
        let mut words = text
            .split_whitespace()
            .skip_while(|word| *word != "link/ether");
        words.nth(1).expect("an Ethernet address").to_owned()
    }

    /// Runs `work` on a thread of this host; sockets it opens stay on the host.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{}", self.space);
        let thread = std::thread::spawn(move || {
            let space = std::fs::File::open(path).expect("the namespace is there");
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&space), kind).expect("root");
            work()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The neighbour entry for `ip`, if any.
    pub(crate) fn neighbour(&self, ip: &str) -> String {
        self.ip(&format!("neighbour show {ip} dev eth0"))
    }

    /// Makes sure that this host knows where `ip` is.
    pub(crate) fn learn(&self, ip: &str) {
        let version = if ip.contains(':') { "-6" } else { "-4" };
        run(&format!(
            "ip netns exec {} ping {version} -c 1 -W 5 -n -q {ip}",
            self.space
        ));
    }

    /// All addresses on this host.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.inside(|| {
            let mut connection = Connection::open(Family::Route).expect("a socket");
            addresses(&mut connection).expect("listed")
        })
    }

    /// All stopgaps of IPv4 addresses on this host.
    pub(crate) fn stopgaps(&self) -> Vec<Placement> {
        self.inside(|| {
            let mut connection = Connection::open(Family::Route).expect("a socket");
            stopgaps(&mut connection).expect("listed")
        })
    }

    pub(crate) fn has(&self, ip: &str) -> bool {
        let ip: std::net::IpAddr = ip.parse().expect("an address");
        self.addresses().iter().any(|address| address.ip == ip)
    }

    /// Starts a mover for one group.
    pub(crate) fn mover(&self, addresses: &[&str]) -> Running {
        self.try_mover(addresses).expect("it starts")
    }

    pub(crate) fn try_mover(
        &self,
        addresses: &[&str],
    ) -> Result<Running, evenkeel_traffic::TrafficError> {
        let addresses = addresses.iter().map(|text| service(text)).collect();
        self.start(Settings::new(vec![(WWW, addresses)]))
    }

    pub(crate) fn start(
        &self,
        settings: Settings,
    ) -> Result<Running, evenkeel_traffic::TrafficError> {
        let (sender, reports) = mpsc::channel(1_024);
        let mover = self.inside(move || Mover::start(settings, sender))?;
        Ok(Running { mover, reports })
    }
}

/// A mover and what it tells.
pub(crate) struct Running {
    pub(crate) mover: Mover,
    pub(crate) reports: mpsc::Receiver<Report>,
}

impl Running {
    /// The next report that `wanted` takes; others are passed over.
    pub(crate) fn report<T>(&mut self, mut wanted: impl FnMut(&Report) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut passed = Vec::new();
        while Instant::now() < deadline {
            match self.reports.try_recv() {
                Ok(report) => match wanted(&report) {
                    Some(value) => return value,
                    None => passed.push(report),
                },
                Err(mpsc::error::TryRecvError::Empty) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(mpsc::error::TryRecvError::Disconnected) => panic!("the mover died"),
            }
        }
        panic!("no such report within {PATIENCE:?}, only {passed:?}");
    }

    pub(crate) fn placed(&mut self) -> usize {
        self.report(|report| match report {
            Report::Placed { adopted, .. } => Some(*adopted),
            _ => None,
        })
    }

    pub(crate) fn announced(&mut self) -> usize {
        self.report(|report| match report {
            Report::Announced { addresses, .. } => Some(*addresses),
            _ => None,
        })
    }

    pub(crate) fn gone(&mut self) {
        self.report(|report| matches!(report, Report::Gone { .. }).then_some(()));
    }
}

/// Waits until `holds`; says what was waited for if it never does.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The address written as in the file: `192.0.2.100/24@eth0`.
pub(crate) fn service(text: &str) -> ServiceAddress {
    let (rest, device) = match text.split_once('@') {
        Some((rest, device)) => (rest, Some(device.to_owned())),
        None => (text, None),
    };
    let (ip, prefix) = rest.split_once('/').expect("a prefix");
    ServiceAddress {
        ip: ip.parse().expect("an address"),
        prefix: prefix.parse().expect("a number"),
        device,
    }
}
