//! What the guard costs and how exactly it ends, on this machine:
//!
//! ```text
//! cargo run --release -p evenkeel-guard --example refresh     (as root)
//! ```
//!
//! For each mechanism alone and for both: time to open the guard, to take 2,000
//! addresses, to extend a lease (with 1 and with 2,000 addresses, and while another
//! program loads a large nftables ruleset), to cover a device that was made again; and
//! when the last answer of a server left, relative to the deadline that nobody renewed.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use evenkeel_core::lease::{Assignment, Faults, Lease, Life, Machine, Output, Settings, Start};
use evenkeel_core::{Epoch, GroupId, Incarnation, Moment, NodeId};
use evenkeel_guard::{Backends, Guard, Keeper};
use evenkeel_host::clock::now;
use evenkeel_host::sys::sched::{self, Share};

const GROUP: GroupId = GroupId(0x0123_4567_89ab_cdef);
const ME: NodeId = NodeId(1);
const ADDRESS: &str = "10.77.0.100";
/// Enough for a 99.9th percentile that is not one sample.
const EXTENSIONS: usize = 5_000;
/// The daemon's lease thread has this priority.
const LEASE_PRIORITY: u8 = 30;
const MUTE_RUNS: usize = 20;
const LEASE: Duration = Duration::from_millis(120);

fn main() {
    // As the daemon's lease thread runs.
    if let Err(error) = sched::realtime(LEASE_PRIORITY, Share::UntilItWaits) {
        eprintln!("the figures are those of an ordinary thread: failed to {error}");
    }
    let namespaces = Namespaces::make();
    for backends in [Backends::BpfOnly, Backends::NftOnly, Backends::Both] {
        println!("{backends:?}");
        measure(&namespaces, backends);
    }
}

fn measure(namespaces: &Namespaces, backends: Backends) {
    let settings = evenkeel_guard::Settings {
        cluster: "bench".to_owned(),
        node: "node".to_owned(),
        bpffs: namespaces.pins.path().to_owned(),
        backends,
    };
    let start = Instant::now();
    let (mut guard, mut keeper) = Guard::open(
        &settings,
        &evenkeel_guard::Claim::open().expect("a netfilter socket"),
    )
    .expect("a guard");
    println!(
        "  open                                    {:?}",
        start.elapsed()
    );
    let mut leases = Leases::new();
    take(&mut keeper, &[ip(ADDRESS)]);
    print(
        "extend, 1 address",
        extensions(&mut guard, &mut leases, EXTENSIONS),
    );
    mute_delays(namespaces, &mut guard, &mut leases);

    let mut many = vec![ip(ADDRESS)];
    many.extend((0..2_000_u32).map(|number| IpAddr::V4((0x0a50_0000 + number).into())));
    let start = Instant::now();
    take(&mut keeper, &many);
    println!(
        "  take 2,000 addresses                    {:?}",
        start.elapsed()
    );
    print(
        "extend, 2,000 addresses",
        extensions(&mut guard, &mut leases, EXTENSIONS),
    );
    let samples = beside_a_large_ruleset(&mut guard, &mut leases);
    print("extend, others load 20,000 elements", samples);

    let verifications = (0..500).map(|_| {
        let start = Instant::now();
        keeper.verify_and_repair().expect("a verification");
        start.elapsed()
    });
    print("verify", verifications.collect());
    print("cover a device made again", recoveries(&mut keeper));
    keeper.uninstall().expect("it is taken away");
}

fn take(keeper: &mut Keeper, addresses: &[IpAddr]) {
    keeper
        .set_addresses(GROUP, Epoch::NONE, addresses)
        .expect("the addresses are taken");
}

/// Leases as the machine of a cluster of one voter proves them.
struct Leases {
    machine: Machine,
}

impl Leases {
    fn new() -> Self {
        let settings = Settings {
            me: ME,
            voters: vec![ME],
            membership: 1,
            lease: LEASE,
            heartbeat: Duration::from_millis(1),
            lease_max: LEASE,
            prepared: std::collections::BTreeSet::new(),
            faults: Faults::default(),
        };
        let incarnation = Incarnation {
            counter: 1,
            nonce: 1,
        };
        let life = Life {
            incarnation,
            seq_base: now().as_nanos(),
        };
        let mut machine = Machine::new(now(), settings, life, Start::Fresh);
        let epoch = Epoch { term: 1, index: 1 };
        let assignment = Assignment {
            group: GROUP,
            epoch,
            holder: ME,
            incarnation,
        };
        machine.floor_raised(now(), &assignment);
        machine.committed(now(), GROUP, epoch);
        Self { machine }
    }

    /// The next lease that the machine proves.
    fn next(&mut self) -> Lease {
        loop {
            self.machine.tick(now());
            let mut newest = None;
            while let Some(output) = self.machine.poll() {
                if let Output::Extend(lease) = output {
                    newest = Some(lease);
                }
            }
            if let Some(lease) = newest {
                return lease;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn extensions(guard: &mut Guard, leases: &mut Leases, count: usize) -> Vec<Duration> {
    (0..count).map(|_| extend(guard, leases)).collect()
}

fn extend(guard: &mut Guard, leases: &mut Leases) -> Duration {
    let lease = leases.next();
    let start = Instant::now();
    guard.extend(&lease, now);
    start.elapsed()
}

/// Another program changes its own tables, as container engines do all the time. The
/// kernel lets one transaction at a time happen in a network namespace.
fn beside_a_large_ruleset(guard: &mut Guard, leases: &mut Leases) -> Vec<Duration> {
    let elements: Vec<String> = (0..20_000_u32)
        .map(|number| std::net::Ipv4Addr::from(number).to_string())
        .collect();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let rules = format!(
        "table ip other {{\nset s {{\ntype ipv4_addr\nelements = {{ {} }}\n}}\nchain c {{\n{}}}\n}}\n",
        elements.join(", "),
        "ip daddr 10.9.9.9 counter drop\n".repeat(5_000),
    );
    std::fs::write(file.path(), rules).expect("to write the ruleset");
    let mut samples = Vec::new();
    for _ in 0..3 {
        let mut load = Command::new("nft")
            .arg("-f")
            .arg(file.path())
            .spawn()
            .expect("nft");
        while load.try_wait().expect("its end").is_none() {
            samples.push(extend(guard, leases));
        }
        run("nft delete table ip other");
    }
    samples
}

/// From the making of a device until it is covered.
fn recoveries(keeper: &mut Keeper) -> Vec<Duration> {
    let wait = rustix::event::Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let mut times = Vec::new();
    for _ in 0..20 {
        run("ip link add again type veth peer name again2");
        let made = Instant::now();
        let mut covered = 0;
        while covered == 0 {
            let events = keeper.events();
            let mut polled = [rustix::event::PollFd::new(
                &events,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut polled, Some(&wait)).expect("to poll");
            covered += keeper.verify_and_repair().expect("a repair").devices;
        }
        times.push(made.elapsed());
        run("ip link delete again");
        keeper.verify_and_repair().expect("a repair");
    }
    times
}

/// When the last answer left the server, before the deadline that nobody renews.
fn mute_delays(namespaces: &Namespaces, guard: &mut Guard, leases: &mut Leases) {
    let server = UdpSocket::bind(SocketAddr::new(ip(ADDRESS), 4000)).expect("a socket");
    server
        .set_read_timeout(Some(Duration::from_millis(1)))
        .expect("a time-out");
    let mut early = Vec::new();
    let mut late = 0;
    for _ in 0..MUTE_RUNS {
        let lease = leases.next();
        guard.extend(&lease, now);
        let end = lease.until() + Duration::from_millis(60);
        let answers = std::thread::scope(|scope| {
            scope.spawn(|| serve(&server, end));
            scope.spawn(|| namespaces.ask(end)).join().expect("answers")
        });
        late += answers.iter().filter(|at| **at >= lease.until()).count();
        early.extend(answers.last().map(|last| last.until(lease.until())));
    }
    print("last answer before the deadline", early);
    println!("  answers after the deadline              {late}");
}

fn serve(server: &UdpSocket, end: Moment) {
    let mut buffer = [0; 8];
    while now() < end {
        if let Ok((_, from)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&now().as_nanos().to_be_bytes(), from);
        }
    }
}

fn print(what: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize];
    println!(
        "  {what:<38}  p50 {:?}  p99 {:?}  max {:?}  ({} samples)",
        at(0.5),
        at(0.99),
        at(1.0),
        samples.len()
    );
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let status = Command::new(words.next().expect("a program"))
        .args(words)
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{line} failed: is this root?"
    );
}

fn enter(namespace: &str) {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).expect("a namespace");
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(file.as_fd(), kind).expect("to enter it");
}

/// A node, where this program is, and a client, joined by a pair of devices.
struct Namespaces {
    node: String,
    client: String,
    pins: tempfile::TempDir,
}

impl Namespaces {
    fn make() -> Self {
        let name = |part| format!("ek-bench-{}-{part}", std::process::id());
        let pins = tempfile::tempdir().expect("a directory");
        let made = Self {
            node: name("n"),
            client: name("c"),
            pins,
        };
        let (node, client) = (&made.node, &made.client);
        for namespace in [node, client] {
            run(&format!("ip netns add {namespace}"));
            run(&format!("ip -n {namespace} link set lo up"));
        }
        let peer = format!("peer name veth0 netns {client} address 02:00:00:00:00:02");
        run(&format!(
            "ip -n {node} link add veth0 address 02:00:00:00:00:01 type veth {peer}"
        ));
        for (namespace, address) in [(node, "10.77.0.1"), (node, ADDRESS), (client, "10.77.0.2")] {
            run(&format!(
                "ip -n {namespace} address add {address}/24 dev veth0"
            ));
            run(&format!("ip -n {namespace} link set veth0 up"));
        }
        let lladdr = "lladdr 02:00:00:00:00:01 dev veth0";
        run(&format!("ip -n {client} neigh replace {ADDRESS} {lladdr}"));
        enter(node);
        made
    }

    /// Asks the server every half millisecond; when its answers left it.
    fn ask(&self, end: Moment) -> Vec<Moment> {
        enter(&self.client);
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_micros(500)))
            .expect("a time-out");
        let mut answers = Vec::new();
        let mut buffer = [0; 8];
        while now() < end {
            let _ = socket.send_to(b"?", SocketAddr::new(ip(ADDRESS), 4000));
            if let Ok((8, _)) = socket.recv_from(&mut buffer) {
                answers.push(Moment::from_nanos(u64::from_be_bytes(buffer)));
            }
        }
        answers
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.client] {
            let _ = Command::new("ip")
                .args(["netns", "delete", namespace])
                .status();
        }
        let _ = rustix::mount::unmount(self.pins.path(), rustix::mount::UnmountFlags::DETACH);
    }
}
