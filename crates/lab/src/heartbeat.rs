//! The heartbeats of holders, counted on the wire: lease datagrams to one voter, by the
//! host that sent them. And how late a thread of the daemon's priority runs on this
//! machine, without which a late heartbeat says nothing about the daemon.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use evenkeel_host::clock::now;
use evenkeel_host::sys::sched::{self, Share};
use evenkeel_host::sys::tap::Tap;

use crate::bridge::{self, Ports, Switch, wait_for_frames};
use crate::config_text::PORT;

/// Bytes of a frame that matter: Ethernet, IPv4 and UDP headers and a first byte.
const FRAME_HEAD: usize = 14 + 20 + 8 + 1;

/// First byte of a lease datagram; QUIC, on the same port, never has it.
const LEASE: u8 = 0x0e;

/// Lease datagrams kept per host: an hour in the fastest profile.
const KEPT_MAX: usize = 1 << 19;

/// The priority of the daemon's lease thread.
const PRIORITY: u8 = 30;

/// How long the measuring thread sleeps at a time.
const NAP: Duration = Duration::from_millis(1);

/// Naps that ended so late at least are remembered.
const LATE: Duration = Duration::from_micros(200);

#[derive(Debug, Default)]
struct Shared {
    /// When each host sent, on the calendar clock as the kernel noted it.
    sent: Mutex<BTreeMap<String, Vec<Duration>>>,
    /// When a nap ended late, and by how much.
    late: Mutex<Vec<(Duration, Duration)>>,
    stopping: AtomicBool,
}

/// The watch at work.
#[derive(Debug)]
pub(crate) struct Heartbeats {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Heartbeats {
    /// Watches what lease datagrams go to the voter at `to`. While one group is held in
    /// the cluster, they are its holder's renewals.
    pub(crate) fn start(switch: &Switch, to: Ipv4Addr) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let tap = bridge::tap()?;
        let (ours, ports) = (Arc::clone(&shared), switch.ports());
        let watching = std::thread::Builder::new()
            .name("heartbeats".into())
            .spawn(move || watch(&tap, &ports, to, &ours))
            .context("starting the watch")?;
        let ours = Arc::clone(&shared);
        let napping = std::thread::Builder::new()
            .name("naps".into())
            .spawn(move || {
                // Without the right it is late more often, which only excuses more.
                let _ = sched::realtime(PRIORITY, Share::UntilItWaits);
                nap(&ours);
                Ok(())
            })
            .context("starting the measuring thread")?;
        Ok(Self {
            shared,
            threads: vec![watching, napping],
        })
    }

    /// Forgets what was seen.
    pub(crate) fn mark(&self) {
        lock(&self.shared.sent).clear();
        lock(&self.shared.late).clear();
    }

    /// The times between lease datagrams of `host` that it sent from `from` on and
    /// before `to`, both on the calendar clock.
    pub(crate) fn gaps(&self, host: &str, from: Duration, to: Duration) -> Vec<Duration> {
        let sent = lock(&self.shared.sent);
        let all = sent.get(host).map_or(&[][..], Vec::as_slice);
        let within: Vec<Duration> = all
            .iter()
            .copied()
            .filter(|at| (from..to).contains(at))
            .collect();
        within
            .windows(2)
            .map(|pair| pair[1].saturating_sub(pair[0]))
            .collect()
    }

    /// The latest that a thread of the lease thread's priority ran between `from` and `to`.
    pub(crate) fn noise(&self, from: Duration, to: Duration) -> Duration {
        let late = lock(&self.shared.late);
        let within = late.iter().filter(|(at, _)| (from..to).contains(at));
        within.map(|(_, by)| *by).max().unwrap_or(LATE)
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Ok(Err(fault)) = thread.join() {
                eprintln!("evenkeel lab: the watch over heartbeats failed: {fault:#}");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The calendar clock, which the kernel notes frames by.
pub(crate) fn calendar() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Whether a frame is a lease datagram to `to`.
fn is_lease(frame: &[u8], to: Ipv4Addr) -> bool {
    // IPv4 without options: UDP is protocol 17 (RFC 791, 768).
    frame.get(12..15) == Some(&[0x08, 0x00, 0x45])
        && frame.get(23) == Some(&17)
        && frame.get(30..34) == Some(&to.octets())
        && frame.get(36..38) == Some(&PORT.to_be_bytes())
        && frame.get(42) == Some(&LEASE)
}

fn watch(tap: &Tap, ports: &Ports, to: Ipv4Addr, shared: &Shared) -> Result<()> {
    let mut buffer = [0; FRAME_HEAD];
    while !shared.stopping.load(Ordering::Relaxed) {
        wait_for_frames(tap)?;
        while let Some(seen) = tap.receive(&mut buffer).context("taking a frame")? {
            if !is_lease(&buffer[..seen.length], to) {
                continue;
            }
            let Some(host) = lock(ports).get(&seen.device).cloned() else {
                continue;
            };
            let mut sent = lock(&shared.sent);
            let row = sent.entry(host).or_default();
            if row.len() < KEPT_MAX {
                row.push(seen.calendar);
            }
        }
    }
    Ok(())
}

fn nap(shared: &Shared) {
    while !shared.stopping.load(Ordering::Relaxed) {
        let start = now();
        std::thread::sleep(NAP);
        let late = now().since(start).saturating_sub(NAP);
        if late >= LATE {
            let mut all = lock(&shared.late);
            if all.len() < KEPT_MAX {
                all.push((calendar(), late));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_datagrams_are_told_from_others() {
        let to = Ipv4Addr::new(192, 0, 2, 13);
        let mut frame = vec![0; FRAME_HEAD];
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[23] = 17;
        frame[30..34].copy_from_slice(&to.octets());
        frame[36..38].copy_from_slice(&PORT.to_be_bytes());
        frame[42] = LEASE;
        assert!(is_lease(&frame, to));
        assert!(!is_lease(&frame, Ipv4Addr::new(192, 0, 2, 12)));
        assert!(!is_lease(&frame[..42], to));
        frame[42] = 0x40;
        assert!(!is_lease(&frame, to), "QUIC");
    }
}
