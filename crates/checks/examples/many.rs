//! What thousands of checks cost the node that asks them, and how late it becomes:
//! `cargo run -p evenkeel-checks --example many -- [CHECKS] [SECONDS] [KIND]`, as root.
//!
//! Each is asked every second, of a real Apache in the network namespace of this program, which
//! is one of its own. Only the processor time of this process counts: what the kernel does for
//! it is in it, and with that its half of each connection.
//!
//! The prober has one thread, as in the daemon; beside it the lateness of that thread is
//! measured as a heartbeat would feel it.
//!
//! `KIND` is `ping`, `tcp`, `http`, or `mix`, a third of each; all of them if it is left out. Before
//! `tcp` and `http` stands what the kernel takes for as many bare connections, made in the same
//! bundles by nothing but the system calls that cannot be done without: nobody gets below that.

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use evenkeel_checks::{Asker, Probe, Prober, State};
use evenkeel_core::NodeId;
use support::apache::{Apache, Mpm, is_here};
use support::{line, netns, page, ping};
use tokio::sync::mpsc;

const CHECKS: u32 = 5_000;
const SECONDS: u32 = 20;
/// A heartbeat of the balanced profile.
const HEARTBEAT: Duration = Duration::from_millis(20);

/// Verdicts that are read at once.
const AT_ONCE_MAX: usize = 256;

type Make = fn(SocketAddr) -> Probe;

fn main() {
    let number = |at, otherwise| {
        let word = std::env::args().nth(at);
        word.and_then(|word| word.parse().ok()).unwrap_or(otherwise)
    };
    let (checks, seconds) = (number(1, CHECKS), number(2, SECONDS));
    let kind = std::env::args().nth(3);
    if !is_here("this example") || !is_inside(checks, seconds, kind.as_deref()) {
        return;
    }
    netns::run("ip link set lo up");
    let apache = Apache::start(Mpm::Event);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let span = Duration::from_secs(u64::from(seconds));
    let ask_ping: Make = |at| ping(at.ip());
    let ask_tcp: Make = |at| line(at, None, None);
    let ask_http: Make = page;
    let kinds: [(&str, &[Make]); 4] = [
        ("ping", &[ask_ping]),
        ("tcp", &[ask_tcp]),
        ("http", &[ask_http]),
        ("mix", &[ask_ping, ask_tcp, ask_http]),
    ];
    let chosen = |name: &str| kind.as_deref().is_none_or(|kind| kind == name);
    for (name, makes) in kinds.into_iter().filter(|(name, _)| chosen(name)) {
        if matches!(name, "tcp" | "http") {
            bare(apache.at, checks, span / 2, name == "http");
        }
        let probes = (0..checks).zip(makes.iter().cycle());
        let probes = probes.map(|(number, make)| Probe {
            judged: NodeId(1000 + u64::from(number)),
            role: Asker::Peer,
            watch_listener: false,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            ..make(apache.at)
        });
        let probes: Vec<Probe> = probes.collect();
        runtime.block_on(measure(name, probes, span));
    }
}

/// Whether this process has a network namespace of its own; else it starts one that has, and
/// waits for it.
fn is_inside(checks: u32, seconds: u32, kind: Option<&str>) -> bool {
    const INSIDE: &str = "EVENKEEL_MANY_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let inner = std::process::Command::new("unshare")
        .args(["--net"])
        .arg(std::env::current_exe().expect("the path of this program"))
        .args([checks.to_string(), seconds.to_string()])
        .args(kind)
        .env(INSIDE, "1")
        .status();
    assert!(inner.is_ok_and(|status| status.success()), "failed");
    false
}

async fn measure(name: &str, probes: Vec<Probe>, span: Duration) {
    let count = probes.len();
    // The reader takes what there is at once, as the daemon does.
    let (send, mut verdicts) = mpsc::channel(AT_ONCE_MAX);
    let mut taken = Vec::with_capacity(AT_ONCE_MAX);
    let _prober = Prober::start(probes, send);
    // Until each has been asked, and the first connections are over.
    let warm = Instant::now() + Duration::from_secs(3);
    while Instant::now() < warm {
        let _ = tokio::time::timeout(HEARTBEAT, verdicts.recv()).await;
    }
    let (begun, used) = (Instant::now(), processor_time());
    let (mut told, mut bad) = (0, 0);
    let (mut worst, mut beat) = (Duration::ZERO, Instant::now() + HEARTBEAT);
    while begun.elapsed() < span {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(beat.into()) => {
                worst = worst.max(beat.elapsed());
                beat = Instant::now() + HEARTBEAT;
            }
            count = verdicts.recv_many(&mut taken, AT_ONCE_MAX) => {
                told += count;
                bad += taken.drain(..).filter(|verdict| verdict.state != State::Ok).count();
            }
        }
    }
    let (took, used) = (begun.elapsed(), processor_time() - used);
    println!(
        "{count} x {name:<4} at 1 s: {}; latest beat {:.1} ms; {told} verdicts, {bad} not ok",
        share(count as f64 * took.as_secs_f64(), used, took),
        worst.as_secs_f64() * 1e3,
    );
}

/// Processor time for so many questions in so much time, for people.
fn share(questions: f64, used: Duration, took: Duration) -> String {
    format!(
        "{:5.1} % of a core, {:4.1} us each",
        used.as_secs_f64() / took.as_secs_f64() * 100.0,
        used.as_secs_f64() * 1e6 / questions,
    )
}

/// Connects so many times a second, sixteen in a row, and asks for a page if wished.
fn bare(at: SocketAddr, checks: u32, span: Duration, asks: bool) {
    const TOGETHER: u32 = 16;
    let request = format!("GET / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    let (begun, used) = (Instant::now(), processor_time());
    let mut made = 0;
    while begun.elapsed() < span {
        let mut open = Vec::new();
        for _ in 0..TOGETHER {
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(at),
                socket2::Type::STREAM.nonblocking(),
                None,
            )
            .expect("a socket");
            socket.set_linger(Some(Duration::ZERO)).expect("a socket");
            let _ = socket.connect(&at.into());
            let mut stream = TcpStream::from(socket);
            if asks {
                stream.write_all(request.as_bytes()).expect("loopback");
                open.push(stream);
            }
        }
        let mut answer = [0; 4096];
        while let Some(stream) = open.last_mut() {
            match stream.read(&mut answer) {
                Ok(length) => {
                    assert!(length > 0, "no answer");
                    open.pop();
                }
                Err(_) => std::thread::sleep(Duration::from_micros(200)),
            }
        }
        made += TOGETHER;
        let next = begun + Duration::from_secs(1) * made / checks;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let share = share(f64::from(made), processor_time() - used, begun.elapsed());
    println!("{checks} x bare at 1 s: {share}");
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}
