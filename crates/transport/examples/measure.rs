//! Measures what DESIGN 4 asks before choosing how Renew travels: QUIC datagrams beside
//! sealed datagrams of our own under loss, and how fast the control connection comes up,
//! answers and comes back. Prints distributions; changes nothing on the machine.
//!
//! Seen on a 2-core virtual machine busy with other builds (load 4 to 8), 64-byte messages:
//!
//! | 8 ms beat               | QUIC: lost, longest streak, p99 gap | sealed: the same      |
//! | ----------------------- | ----------------------------------- | --------------------- |
//! | 30 % loss               | 30 %, 5, 33 ms                      | 29 %, 5, 33 ms        |
//! | 30 % loss, bulk beside  | 96 %, 458, 455 ms                   | 27 %, 6, 36 ms        |
//! | bulk beside             | 18 %, 7, 27 ms                      | 0 %, 0, 23 ms         |
//! | flood of both ports     | 8 %, 5, 33 ms                       | 0 %, 0, 28 ms         |
//!
//! Alone, QUIC datagrams lose no more than the line does. Beside anything else on the
//! connection they wait for its congestion window; a sealed datagram never does, nor for
//! a handshake after an outage. Hence leases travel sealed. Start to linked: p50 6 to 9 ms,
//! under 30 % loss 44 to 70 ms (max 0.34 s). Cut of 0.5 to 8 s: answers again 4 to 14 ms
//! (p50) after it healed, never later than 39 ms.
//!
//! Needs root (two network namespaces with a cable between them), `ip` and `nft`:
//! `cargo run --release -p evenkeel-transport --example measure [SECONDS]`

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use evenkeel_core::topology::Timing;
use evenkeel_core::{Moment, NodeId, NodeName};
use evenkeel_transport::{
    Class, Endpoint, Events, Fingerprint, Keyring, LeaseKeys, PeerAddress, PeerEvent, Settings,
    Tuning, pki,
};
use quinn::{ClientConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

const PAYLOAD: usize = 64;
const RECEIVE_BUFFER: usize = 4 << 20;
const CLASS: Class = Class(0);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn run(line: &str) -> Outcome<()> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap_or("true"))
        .args(words)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Two network namespaces and a cable; both gone when dropped.
struct Cable {
    names: [String; 2],
}

const ADDRESSES: [&str; 2] = ["10.97.0.1", "10.97.0.2"];

impl Cable {
    fn new() -> Outcome<Self> {
        let pid = std::process::id();
        let cable = Self {
            names: [
                format!("evk-measure-{pid}-a"),
                format!("evk-measure-{pid}-b"),
            ],
        };
        let [a, b] = &cable.names;
        for name in &cable.names {
            run(&format!("ip netns add {name}"))?;
        }
        run(&format!(
            "ip -n {a} link add eth0 type veth peer name eth0 netns {b}"
        ))?;
        for (name, address) in cable.names.iter().zip(ADDRESSES) {
            run(&format!("ip -n {name} address add {address}/24 dev eth0"))?;
            run(&format!("ip -n {name} link set eth0 up"))?;
            run(&format!("ip netns exec {name} nft add table inet lossy"))?;
            let hook = "{ type filter hook input priority 0 ; }";
            run(&format!(
                "ip netns exec {name} nft add chain inet lossy in {hook}"
            ))?;
        }
        Ok(cable)
    }

    /// Drops so many of 100 packets in each direction.
    fn lose(&self, percent: u32) -> Outcome<()> {
        for name in &self.names {
            run(&format!(
                "ip netns exec {name} nft flush chain inet lossy in"
            ))?;
            let which = match percent {
                0 => continue,
                100 => String::new(),
                _ => format!("numgen random mod 100 < {percent} "),
            };
            let rule = format!("add rule inet lossy in meta l4proto udp {which}drop");
            run(&format!("ip netns exec {name} nft {rule}"))?;
        }
        Ok(())
    }

    /// A socket in one of the two; it stays there whoever uses it.
    fn socket(&self, side: usize) -> Outcome<UdpSocket> {
        let path = format!("/run/netns/{}", self.names[side]);
        let bound = std::thread::spawn(move || -> io::Result<UdpSocket> {
            let space = std::fs::File::open(path)?;
            let network = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(space.as_fd(), Some(network))?;
            let socket = UdpSocket::bind((ADDRESSES[side], 0))?;
            socket.set_nonblocking(true)?;
            // As large as the daemon's, see `evenkeel_host::sys::udp`.
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
            Ok(socket)
        });
        Ok(bound
            .join()
            .map_err(|_| "the thread that binds panicked")??)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = run(&format!("ip netns delete {name}")) {
                eprintln!("left behind: {error}");
            }
        }
    }
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// "p50 p90 p99 max" of nanoseconds, in milliseconds.
fn spread(mut values: Vec<u64>) -> String {
    values.sort_unstable();
    let at = |part: usize| {
        values
            .get((values.len().max(1) - 1) * part / 100)
            .copied()
            .unwrap_or(0)
    };
    let [p50, p90, p99, max] = [50, 90, 99, 100].map(|part| millis(at(part)));
    format!(
        "p50 {p50:8.3}  p90 {p90:8.3}  p99 {p99:8.3}  max {max:8.3}  (n {})",
        values.len()
    )
}

/// What arrived of a numbered series: (number, latency, moment of arrival).
#[derive(Default)]
struct Series {
    arrived: Vec<(u64, u64, u64)>,
}

impl Series {
    fn note(&mut self, start: Instant, payload: &[u8]) {
        let word = |at: usize| {
            payload[at..at + 8]
                .try_into()
                .map(u64::from_le_bytes)
                .unwrap_or(0)
        };
        let now = start.elapsed().as_nanos() as u64;
        self.arrived
            .push((word(0), now.saturating_sub(word(8)), now));
    }

    fn print(mut self, what: &str, sent: u64) {
        let latencies = self
            .arrived
            .iter()
            .map(|(_, latency, _)| *latency)
            .collect();
        let moments: Vec<u64> = self.arrived.iter().map(|(_, _, at)| *at).collect();
        let gaps = moments
            .windows(2)
            .map(|pair| pair[1].saturating_sub(pair[0]))
            .collect();
        self.arrived.sort_unstable();
        let numbers = self.arrived.iter().map(|(number, _, _)| *number);
        let mut streaks: Vec<u64> = Vec::new();
        let mut next = 0;
        for number in numbers.chain([sent]) {
            if number > next {
                streaks.push(number - next);
            }
            next = number + 1;
        }
        let lost = 100.0 * (1.0 - self.arrived.len() as f64 / sent as f64);
        println!("  {what:7} latency ms  {}", spread(latencies));
        println!("  {what:7} gaps ms     {}", spread(gaps));
        let longest = streaks.iter().max().copied().unwrap_or(0);
        let long = streaks.iter().filter(|streak| **streak >= 5).count();
        println!(
            "  {what:7} lost {lost:.1} %, longest streak {longest}, streaks of 5 or more {long}"
        );
    }
}

fn payload(number: u64, start: Instant) -> [u8; PAYLOAD] {
    let mut bytes = [0; PAYLOAD];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..16].copy_from_slice(&(start.elapsed().as_nanos() as u64).to_le_bytes());
    bytes
}

/// A QUIC connection with the settings of the control connections, and datagrams on.
async fn quic_pair(cable: &Cable) -> Outcome<[(quinn::Endpoint, quinn::Connection); 2]> {
    let certified = rcgen::generate_simple_self_signed(["evenkeel".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(
        certified.signing_key.serialize_der(),
    ));
    let der = certified.cert.der().clone();
    let mut transport = TransportConfig::default();
    transport
        .initial_rtt(Duration::from_millis(10))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(5000))))
        // Room for two: a stale renewal is worth nothing.
        .datagram_send_buffer_size(2 * PAYLOAD)
        .mtu_discovery_config(None);
    let transport = Arc::new(transport);
    let mut server = ServerConfig::with_single_cert(vec![der.clone()], key)?;
    server.transport_config(Arc::clone(&transport));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der)?;
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots))?;
    client.transport_config(transport);
    let runtime = || Arc::new(quinn::TokioRuntime);
    let config = quinn::EndpointConfig::default;
    let b = quinn::Endpoint::new(config(), Some(server), cable.socket(1)?, runtime())?;
    let a = quinn::Endpoint::new(config(), None, cable.socket(0)?, runtime())?;
    let connecting = a.connect_with(client, b.local_addr()?, "evenkeel")?;
    let accepted = async {
        b.accept()
            .await
            .ok_or("closed")?
            .await
            .map_err(|_| "no handshake")
    };
    let (dialled, accepted) = tokio::join!(connecting, accepted);
    let (dialled, accepted) = (dialled?, accepted?);
    Ok([(a, dialled), (b, accepted)])
}

/// What goes on beside the messages.
#[derive(Clone, Copy, Debug)]
enum Beside {
    Nothing,
    /// A stream on the QUIC connection that always has more to send.
    Bulk,
    /// A stranger who sends random bytes to both ports as fast as he can.
    Flood,
}

/// Ends what goes on beside when dropped.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Random enough, and with the first byte that reaches the port's reader.
fn flood(cable: &Cable, targets: [(SocketAddr, u8); 2]) -> Outcome<Stop> {
    let socket = cable.socket(0)?;
    socket.set_nonblocking(false)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    std::thread::spawn(move || {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        while !stopped.load(Ordering::Relaxed) {
            for (target, first) in targets {
                let mut bytes = [0; 200];
                for eight in bytes.chunks_exact_mut(8) {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    eight.copy_from_slice(&state.to_be_bytes());
                }
                bytes[0] = first;
                let _ = socket.send_to(&bytes, target);
            }
        }
    });
    Ok(Stop(stop))
}

async fn bulk(from: quinn::Connection, to: quinn::Connection) -> Outcome<()> {
    let mut out = from.open_uni().await?;
    tokio::spawn(async move { while out.write_all(&[0; 65_536]).await.is_ok() {} });
    tokio::spawn(async move {
        let Ok(mut arriving) = to.accept_uni().await else {
            return;
        };
        let mut buffer = vec![0; 65_536];
        while let Ok(Some(_)) = arriving.read(&mut buffer).await {}
    });
    Ok(())
}

/// Opens sealed datagrams in a thread of their own until `end`.
fn receive_sealed(socket: UdpSocket, mut opener: Keyring, start: Instant, end: Instant) -> Series {
    let mut series = Series::default();
    let mut buffer = [0; 2048];
    let _ = socket.set_nonblocking(false);
    let _ = socket.set_read_timeout(Some(Duration::from_millis(50)));
    while Instant::now() < end {
        let Ok(length) = socket.recv(&mut buffer) else {
            continue;
        };
        if let Ok((_, message)) = opener.open(&mut buffer[..length]) {
            series.note(start, message);
        }
    }
    series
}

/// Sends a message every `beat` in both ways at once and prints what arrived.
async fn compare(
    cable: &Cable,
    percent: u32,
    beat: Duration,
    beside: Beside,
    time: Duration,
) -> Outcome<()> {
    cable.lose(0)?;
    let [(a_end, dialled), (b_end, accepted)] = quic_pair(cable).await?;
    let (from, to) = (cable.socket(0)?, cable.socket(1)?);
    let target = to.local_addr()?;
    cable.lose(percent)?;
    let (a, b) = (NodeId(1), NodeId(2));
    let (mut sealer, mut opener) = (Keyring::new(), Keyring::new());
    let keys = |peer| LeaseKeys {
        peer,
        id: 1,
        seal: [1; 32],
        open: [1; 32],
        proof: Fingerprint::of(b"a certificate"),
    };
    sealer.install(Moment::ZERO, keys(b));
    opener.install(Moment::ZERO, keys(a));
    let _stop = match beside {
        Beside::Nothing => None,
        Beside::Bulk => {
            bulk(dialled.clone(), accepted.clone()).await?;
            None
        }
        Beside::Flood => Some(flood(cable, [(b_end.local_addr()?, 0x40), (target, 0x0e)])?),
    };
    let start = Instant::now();
    let end = start + time + Duration::from_millis(500);
    let sealed = std::thread::spawn(move || receive_sealed(to, opener, start, end));
    let quic = tokio::spawn(async move {
        let mut series = Series::default();
        let end = end.into();
        while let Ok(Ok(bytes)) = tokio::time::timeout_at(end, accepted.read_datagram()).await {
            series.note(start, &bytes);
        }
        series
    });
    let mut clock = tokio::time::interval(beat);
    let mut sent = 0;
    let mut out = Vec::new();
    while start.elapsed() < time {
        clock.tick().await;
        let now = Moment::from_nanos(start.elapsed().as_nanos() as u64);
        sealer.seal(now, b, &payload(sent, start), &mut out)?;
        let _ = from.send_to(&out, target);
        let _ = dialled.send_datagram(Bytes::copy_from_slice(&payload(sent, start)));
        sent += 1;
    }
    println!("loss {percent} % each way, a message every {beat:?}, beside: {beside:?}");
    quic.await?.print("QUIC", sent);
    tokio::task::spawn_blocking(move || sealed.join())
        .await?
        .map_err(|_| "the receiving thread panicked")?
        .print("sealed", sent);
    // Else the bulk would go on beside the next measurement.
    a_end.close(VarInt::from_u32(0), b"done");
    b_end.close(VarInt::from_u32(0), b"done");
    Ok(())
}

/// Two nodes of one cluster on the two sides of the cable.
struct Nodes {
    cluster: tempfile::TempDir,
}

struct Node {
    endpoint: Endpoint,
    events: Events,
}

fn name(side: usize) -> Outcome<NodeName> {
    Ok(NodeName::new(["a", "b"][side])?)
}

impl Nodes {
    fn new() -> Outcome<Self> {
        let cluster = tempfile::tempdir()?;
        pki::init(cluster.path(), None, SystemTime::now())?;
        for side in 0..2 {
            pki::issue(
                cluster.path(),
                &name(side)?,
                cluster.path(),
                SystemTime::now(),
            )?;
        }
        Ok(Self { cluster })
    }

    fn start(&self, side: usize, socket: UdpSocket, other: SocketAddr) -> Outcome<Node> {
        let timing = Timing {
            lease: Duration::from_millis(120),
            heartbeat: Duration::from_millis(20),
        };
        let identity = pki::load(self.cluster.path(), "any", &name(side)?, &[])?;
        let settings = Settings {
            tuning: Tuning::of(&timing),
            peers: vec![PeerAddress {
                name: name(1 - side)?,
                address: other,
            }],
            revoked: Vec::new(),
            hello: Bytes::new(),
            admission: Arc::new(|_, _| Ok(())),
        };
        let (endpoint, incoming) = Endpoint::start(settings, socket, identity)?;
        let mut requests = incoming.requests;
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                request.reply.send(request.body);
            }
        });
        Ok(Node {
            endpoint,
            events: incoming.events,
        })
    }

    fn both(&self, cable: &Cable) -> Outcome<[Node; 2]> {
        let (socket_a, socket_b) = (cable.socket(0)?, cable.socket(1)?);
        let (at_a, at_b) = (socket_a.local_addr()?, socket_b.local_addr()?);
        Ok([
            self.start(0, socket_a, at_b)?,
            self.start(1, socket_b, at_a)?,
        ])
    }
}

/// Waits for an Up (`true`) or a Down.
async fn until(node: &mut Node, up: bool) -> Outcome<()> {
    loop {
        match node.events.next().await.ok_or("closed")? {
            PeerEvent::Up { .. } if up => return Ok(()),
            PeerEvent::Down { .. } if !up => return Ok(()),
            PeerEvent::Up { .. }
            | PeerEvent::Down { .. }
            | PeerEvent::Refused { .. }
            | PeerEvent::CertificateAlarm { .. } => {}
        }
    }
}

/// From the start of both nodes to a link, hello included.
async fn connect(cable: &Cable, percent: u32, rounds: usize) -> Outcome<()> {
    let nodes = Nodes::new()?;
    cable.lose(percent)?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let [mut a, mut b] = nodes.both(cable)?;
        let started = Instant::now();
        until(&mut a, true).await?;
        until(&mut b, true).await?;
        times.push(started.elapsed().as_nanos() as u64);
        a.endpoint.close().await;
    }
    println!(
        "loss {percent:2} %: start to linked on both sides, ms\n  {}",
        spread(times)
    );
    Ok(())
}

/// Requests of 64 bytes every 20 ms.
async fn ask(cable: &Cable, percent: u32, time: Duration) -> Outcome<()> {
    let nodes = Nodes::new()?;
    cable.lose(0)?;
    let [mut a, mut b] = nodes.both(cable)?;
    until(&mut a, true).await?;
    until(&mut b, true).await?;
    cable.lose(percent)?;
    let to = NodeId::of(&name(1)?);
    let mut clock = tokio::time::interval(Duration::from_millis(20));
    let mut asked = tokio::task::JoinSet::new();
    let start = Instant::now();
    while start.elapsed() < time {
        clock.tick().await;
        let endpoint = a.endpoint.clone();
        asked.spawn(async move {
            let started = Instant::now();
            let body = Bytes::from_static(&[0; PAYLOAD]);
            let answer = endpoint
                .request(to, CLASS, body, Duration::from_secs(2))
                .await;
            answer.map(|_| started.elapsed().as_nanos() as u64)
        });
    }
    let all = asked.join_all().await;
    let failed = all.iter().filter(|answer| answer.is_err()).count();
    let times = all.into_iter().flatten().collect();
    println!(
        "loss {percent:2} %: request and answer, ms ({failed} failed)\n  {}",
        spread(times)
    );
    Ok(())
}

/// How long after the line has healed the link works again.
async fn outage(cable: &Cable, cut: Duration, rounds: usize) -> Outcome<()> {
    let nodes = Nodes::new()?;
    cable.lose(0)?;
    let [mut a, mut b] = nodes.both(cable)?;
    until(&mut a, true).await?;
    until(&mut b, true).await?;
    let to = NodeId::of(&name(1)?);
    let mut times = Vec::new();
    for _ in 0..rounds {
        cable.lose(100)?;
        tokio::time::sleep(cut).await;
        cable.lose(0)?;
        let healed = Instant::now();
        let ask = || {
            a.endpoint
                .request(to, CLASS, Bytes::new(), Duration::from_millis(20))
        };
        while ask().await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(healed.elapsed().as_nanos() as u64);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!(
        "cut of {cut:?}: healed to the first answer, ms\n  {}",
        spread(times)
    );
    Ok(())
}

/// Time of the main thread, which runs everything here, on a processor so far
/// (Documentation/scheduler/sched-stats.rst: nanoseconds, first field).
fn busy() -> Outcome<Duration> {
    let stat = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanos = stat.split_whitespace().next().ok_or("no schedstat")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

/// What two linked nodes cost that say nothing to each other, and whether they stay linked.
async fn rest(cable: &Cable, percent: u32, time: Duration) -> Outcome<()> {
    let nodes = Nodes::new()?;
    cable.lose(0)?;
    let [mut a, mut b] = nodes.both(cable)?;
    until(&mut a, true).await?;
    until(&mut b, true).await?;
    cable.lose(percent)?;
    let before = busy()?;
    let end = tokio::time::Instant::now() + time;
    let mut lost = 0;
    while tokio::time::timeout_at(end, until(&mut a, false))
        .await
        .is_ok()
    {
        lost += 1;
    }
    let part = (busy()? - before).as_secs_f64() / time.as_secs_f64();
    let cost = 100.0 * part;
    println!(
        "loss {percent:2} %: at rest, both ends of one link: {cost:.2} % of a core, \
         lost {lost} times in {time:?}"
    );
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let seconds = std::env::args()
        .nth(1)
        .map_or(Ok(15), |word| word.parse())?;
    let time = Duration::from_secs(seconds);
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "a cryptographic provider was installed already")?;
    let cable = Cable::new()?;
    for (percent, beside) in [
        (0, Beside::Nothing),
        (30, Beside::Nothing),
        (30, Beside::Bulk),
        (0, Beside::Bulk),
        (0, Beside::Flood),
    ] {
        for beat in [8, 20] {
            compare(&cable, percent, Duration::from_millis(beat), beside, time).await?;
        }
    }
    for percent in [0, 30] {
        connect(&cable, percent, 50).await?;
        ask(&cable, percent, time).await?;
        rest(&cable, percent, 4 * time).await?;
    }
    for (cut, rounds) in [(500, 5), (2000, 5), (5000, 3), (8000, 2)] {
        outage(&cable, Duration::from_millis(cut), rounds).await?;
    }
    Ok(())
}
