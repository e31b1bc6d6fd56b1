//! How long it takes to learn that a real Apache was killed, or hangs, from the signal
//! to the verdict in the reader's hands: `cargo run -p evenkeel-checks --example death`.
//!
//! Killed: the questions are an hour apart, so that only the watch of its processes can
//! notice. Hung: asked every 50 ms, 200 ms to answer, two failures; the bound is twice the
//! time-out and 50 ms.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use evenkeel_checks::{Probe, State};
use rustix::process::Signal;
use support::apache::{Apache, Mpm, is_here};
use support::{Told, page};

const RUNS: usize = 20;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if !is_here("this example") {
        return;
    }
    let hour = Duration::from_secs(3600);
    for mpm in [Mpm::Prefork, Mpm::Event] {
        let patient = move |probe| Probe {
            interval: hour,
            fall: 1000,
            ..probe
        };
        measure(&format!("killed, {mpm:?}"), mpm, Signal::KILL, patient).await;
    }
    measure("hung, Event", Mpm::Event, Signal::STOP, |probe| probe).await;
    at_rest().await;
}

async fn measure(what: &str, mpm: Mpm, signal: Signal, change: impl Fn(Probe) -> Probe) {
    let mut times = Vec::new();
    for run in 0..RUNS {
        let apache = Apache::start(mpm);
        let mut told = Told::start(vec![change(page(apache.at))]);
        let well = told.wait_for_state(State::Ok).await;
        told.wait_for(|verdict| verdict.sequence > well.sequence)
            .await;
        // Not always at the same point between two questions.
        tokio::time::sleep(Duration::from_micros(2_700 * run as u64)).await;
        let begun = Instant::now();
        apache.signal(signal);
        told.wait_for_state(State::Failing).await;
        times.push(begun.elapsed());
    }
    print(what, times);
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    println!(
        "{what:>16}: p50 {:6.1} ms, p99 {:6.1} ms, max {:6.1} ms ({} runs)",
        at(50).as_secs_f64() * 1e3,
        at(99).as_secs_f64() * 1e3,
        at(100).as_secs_f64() * 1e3,
        times.len()
    );
}

/// What one check every 50 ms costs while all is well.
async fn at_rest() {
    let span = Duration::from_secs(5);
    let apache = Apache::start(Mpm::Event);
    let mut told = Told::start(vec![page(apache.at)]);
    told.wait_for_state(State::Ok).await;
    let before = processor_time();
    told.stays(span, |verdict| verdict.state == State::Ok).await;
    let used = processor_time() - before;
    let share = used.as_secs_f64() / span.as_secs_f64() * 100.0;
    println!(
        "{:>16}: {share:.2} % of a core for one check every 50 ms",
        "at rest"
    );
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}
