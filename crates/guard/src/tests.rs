//! The guard against the real kernel: two network namespaces, `node` with the guard
//! and `client`, joined by a pair of virtual devices. These tests need root; without it
//! they fail and say so.

mod addresses;
mod attempts;
mod claims;
mod hold;
mod repair;
mod restart;
mod rootless;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use evenkeel_core::{Epoch, GroupId, Moment};
use evenkeel_host::clock::now;

use crate::nft::Ownership;
use crate::{Backends, Claim, Guard, Keeper, Settings};

const GROUP: GroupId = GroupId(0x1234_5678_9abc_def0);
const OTHER: GroupId = GroupId(77);
const V4: &str = "10.77.0.100";
const V6: &str = "fd77::100";
const BOTH_FAMILIES: [&str; 2] = [V4, V6];
const ALL_BACKENDS: [Backends; 3] = [Backends::Both, Backends::BpfOnly, Backends::NftOnly];

/// Far longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Runs a program and fails with what it said if it fails.
fn run(line: &str) -> Output {
    let output = try_run(line);
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn try_run(line: &str) -> Output {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Moves this thread into a network namespace.
fn enter(namespace: &str) {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).expect("a namespace");
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)
        .expect("to enter the namespace");
}

/// Runs `body` in another network namespace.
fn within<T: Send>(namespace: &str, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = move || {
            enter(namespace);
            body()
        };
        scope.spawn(run).join().expect("the thread ends well")
    })
}

/// Waits until `condition` holds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// Two network namespaces; the test's thread is in the one of the node.
struct World {
    node: String,
    client: String,
    pins: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces and loads eBPF: run it as root"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |part| format!("ek-guard-{}-{number}-{part}", std::process::id());
        let pins = tempfile::tempdir().expect("a directory");
        let world = Self {
            node: name("n"),
            client: name("c"),
            pins,
        };
        for namespace in [&world.node, &world.client] {
            run(&format!("ip netns add {namespace}"));
            run(&format!("ip -n {namespace} link set lo up"));
        }
        world.join("veth0");
        let (node, client) = (&world.node, &world.client);
        for (namespace, address) in [
            (node, "10.77.0.1/24"),
            (node, "10.77.0.100/24"),
            (node, "fd77::1/64"),
            (node, "fd77::100/64"),
            (client, "10.77.0.2/24"),
            (client, "fd77::2/64"),
        ] {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            run(&format!(
                "ip -n {namespace} address add {address} dev veth0 {nodad}"
            ));
        }
        enter(node);
        world
    }

    /// Joins both namespaces by a pair of devices called `name`.
    fn join(&self, name: &str) {
        let (node, client) = (&self.node, &self.client);
        run(&format!(
            "ip -n {node} link add {name} type veth peer name {name} netns {client}"
        ));
        for namespace in [node, client] {
            let addrgen = format!("ip -n {namespace} link set {name} addrgenmode none");
            run(&addrgen);
            run(&format!("ip -n {namespace} link set {name} up"));
        }
    }

    /// The client knows where the addresses are: otherwise its own pauses between
    /// questions, after those that found no answer, would be measured.
    fn teach_client(&self) {
        let output = run(&format!("ip -n {} -br link show veth0", self.node));
        let text = String::from_utf8(output.stdout).expect("text");
        let mac = text.split_whitespace().nth(2).expect("a MAC").to_owned();
        for address in BOTH_FAMILIES {
            let client = &self.client;
            run(&format!(
                "ip -n {client} neigh replace {address} lladdr {mac} dev veth0"
            ));
        }
    }

    fn settings(&self, backends: Backends) -> Settings {
        Settings {
            cluster: "test.cluster".to_owned(),
            node: "node".to_owned(),
            bpffs: self.pins.path().to_owned(),
            backends,
        }
    }

    /// A guard that knows both addresses, closed.
    fn guard(&self, backends: Backends) -> (Guard, Keeper) {
        self.guard_with(backends, Ownership::IfPossible)
    }

    fn guard_with(&self, backends: Backends, ownership: Ownership) -> (Guard, Keeper) {
        let settings = self.settings(backends);
        let (guard, mut keeper) = Keeper::open(&settings, ownership, &claim()).expect("a guard");
        let state = keeper.state();
        assert_eq!(
            state.bpf.is_active(),
            backends != Backends::NftOnly,
            "{state:?}"
        );
        assert_eq!(
            state.nft.is_active(),
            backends != Backends::BpfOnly,
            "{state:?}"
        );
        keeper
            .set_addresses(GROUP, Epoch::NONE, &[ip(V4), ip(V6)])
            .expect("the addresses are taken");
        (guard, keeper)
    }

    /// Whether the client gets an answer from `address`.
    fn answers(&self, address: &str) -> bool {
        let client = &self.client;
        try_run(&format!(
            "ip netns exec {client} ping -n -q -c 1 -W 0.15 {address}"
        ))
        .status
        .success()
    }

    /// Asserts that each of the addresses answers, or that none does.
    fn assert_answers(&self, expected: bool, when: &str) {
        for address in BOTH_FAMILIES {
            if expected {
                until(&format!("{address} answers {when}"), || {
                    self.answers(address)
                });
            } else {
                assert!(!self.answers(address), "{address} answers {when}");
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.client] {
            try_run(&format!("ip netns delete {namespace}"));
        }
        let _ = rustix::mount::unmount(self.pins.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// A claim of a process of its own.
fn claim() -> Claim {
    Claim::open().expect("a netfilter socket")
}

/// The group may act for so long from now, without end of renewals in a test.
fn hold(guard: &mut Guard, span: Duration) -> Moment {
    let deadline = now() + span;
    guard.set_deadline(GROUP, 1, deadline, now);
    deadline
}

/// A server that answers each datagram with the moment of its answer.
struct Echo {
    socket: UdpSocket,
}

impl Echo {
    fn open(address: &str) -> Self {
        let socket = UdpSocket::bind(SocketAddr::new(ip(address), 4000)).expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_millis(5)))
            .expect("a time-out");
        Self { socket }
    }

    fn serve_until(&self, end: Moment) {
        let mut buffer = [0; 64];
        while now() < end {
            if let Ok((_, from)) = self.socket.recv_from(&mut buffer) {
                // Refused when the guard drops it.
                let _ = self.socket.send_to(&now().as_nanos().to_be_bytes(), from);
            }
        }
    }
}

/// Asks the echo server of `address` until `end`; when each answer left the server.
fn ask_until(address: &str, end: Moment) -> Vec<Moment> {
    let any = if address.contains(':') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .expect("a time-out");
    let mut answers = Vec::new();
    let mut buffer = [0; 8];
    while now() < end {
        let _ = socket.send_to(b"?", SocketAddr::new(ip(address), 4000));
        if let Ok((8, _)) = socket.recv_from(&mut buffer) {
            answers.push(Moment::from_nanos(u64::from_be_bytes(buffer)));
        }
    }
    answers
}
