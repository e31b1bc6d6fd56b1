//! What thousands of checks cost the node that asks them, and how late it becomes:
//! `cargo run -p evenkeel-checks --example many -- [CHECKS] [SECONDS] [KIND]`, as root.
//!
//! Each is asked every second, of a real Apache in the network namespace of this program, which
//! is one of its own. Only the processor time of this process counts: what the kernel does for
//! it is in it, and with that its half of each connection.
//!
//! The prober has one thread, as in the daemon; beside it the lateness of that thread is
//! measured as a heartbeat would feel it.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
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
    let kinds: [(&str, Make); 3] = [
        ("ping", |at| ping(at.ip())),
        ("tcp", |at| line(at, None, None)),
        ("http", page),
    ];
    let chosen = |name: &str| kind.as_deref().is_none_or(|kind| kind == name);
    for (name, make) in kinds.into_iter().filter(|(name, _)| chosen(name)) {
        let probes = (0..checks).map(|number| Probe {
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
    let (send, mut verdicts) = mpsc::channel(16);
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
            verdict = verdicts.recv() => {
                told += 1;
                bad += u32::from(verdict.is_none_or(|verdict| verdict.state != State::Ok));
            }
        }
    }
    let (took, used) = (begun.elapsed(), processor_time() - used);
    let share = used.as_secs_f64() / took.as_secs_f64() * 100.0;
    println!(
        "{count} x {name:<4} at 1 s: {share:5.1} % of a core, {:4.1} us each; latest beat {:.1} ms; {told} verdicts, {bad} not ok",
        used.as_secs_f64() * 1e6 / (count as f64 * took.as_secs_f64()),
        worst.as_secs_f64() * 1e3,
    );
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}
