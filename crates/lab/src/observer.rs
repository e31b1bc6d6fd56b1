//! The observer on the switch: who answers for an address.
//!
//! It sees every frame as it leaves a host, before the faults of the cable: a frame
//! that a cut-off host sends is one that its guard let through. A host answers for an
//! address when it sends a packet from it, an ARP message with it as the sender
//! (gratuitous ones too), or a neighbour advertisement with it as the target.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;
use evenkeel_host::sys::tap::Tap;
use rustix::time::{ClockId, clock_gettime};

use crate::bridge::{self, Ports, Switch, wait_for_frames};

/// Bytes of a frame that matter: an Ethernet and an IPv6 header and a neighbour
/// advertisement without options.
const FRAME_HEAD: usize = 14 + 40 + 24;

/// The two clocks are read within this of each other.
const READING: Duration = Duration::from_micros(20);

/// Most tries at that, on a machine that is too busy.
const READINGS_MAX: u32 = 10;

/// How a host answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A packet from the address.
    Packet,
    /// An ARP message with the address as the sender.
    Arp,
    /// A neighbour advertisement with the address as the target.
    Advertisement,
}

/// When a frame was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// As the kernel noted it when it left the host: says which frame was first. The
    /// order in which the observer gets them does not, for a busy processor hands the
    /// frames of its hosts over late.
    pub(crate) calendar: Duration,
    /// About the same on the boot clock, for comparison with what the lab did.
    pub(crate) moment: Moment,
}

/// Frames of one host in a row, with no other host's between them.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    /// Who sent them.
    pub(crate) host: String,
    /// The first one.
    pub(crate) first: Sent,
    /// The last one.
    pub(crate) last: Sent,
    /// How many of each kind.
    pub(crate) kinds: BTreeMap<Kind, u64>,
}

/// A host answered for an address, then another one, then it again.
#[derive(Clone, Debug)]
pub(crate) struct Return {
    /// The address.
    pub(crate) address: IpAddr,
    /// Who answered again.
    pub(crate) host: String,
    /// When it did.
    pub(crate) at: Sent,
    /// When it did so last, before anybody else.
    pub(crate) last: Sent,
    /// When the other one had begun.
    pub(crate) other_began: Sent,
    /// All of it in words.
    pub(crate) told: String,
}

/// What was seen since a mark.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Per address, who answered, in order.
    pub(crate) stretches: BTreeMap<IpAddr, Vec<Stretch>>,
    /// Each time that a host answered again after another one had begun: two hosts
    /// answer, unless it got the address back in between.
    pub(crate) returns: Vec<Return>,
    /// Frames that the observer missed: a report with any is no proof.
    pub(crate) missed: u64,
}

impl Report {
    /// The last frame of `host` for any address.
    pub(crate) fn last_of(&self, host: &str) -> Option<Moment> {
        let all = self.stretches.values().flatten();
        all.filter(|stretch| stretch.host == host)
            .map(|stretch| stretch.last.moment)
            .max()
    }
}

#[derive(Debug, Default)]
struct Shared {
    stretches: Mutex<BTreeMap<IpAddr, Vec<Stretch>>>,
    missed: Mutex<u64>,
    stopping: AtomicBool,
}

/// An observer at work.
#[derive(Debug)]
pub(crate) struct Observer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Observer {
    /// Watches `addresses` on all ports of `switch`.
    pub(crate) fn start(switch: &Switch, addresses: &[IpAddr]) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        for address in addresses {
            lock(&shared.stretches).insert(*address, Vec::new());
        }
        let tap = bridge::tap()?;
        let (theirs, ports) = (Arc::clone(&shared), switch.ports());
        let thread = std::thread::Builder::new()
            .name("observer".into())
            .spawn(move || watch(&tap, &ports, &theirs))
            .context("starting the observer")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Forgets what was seen: a report covers what comes after the last mark.
    pub(crate) fn mark(&self) {
        for stretches in lock(&self.shared.stretches).values_mut() {
            stretches.clear();
        }
        *lock(&self.shared.missed) = 0;
    }

    /// What was seen since the last mark.
    pub(crate) fn report(&self) -> Report {
        let stretches = lock(&self.shared.stretches).clone();
        let returns = stretches
            .iter()
            .flat_map(|(address, row)| returns(*address, row))
            .collect();
        Report {
            stretches,
            returns,
            missed: *lock(&self.shared.missed),
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(fault))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("evenkeel lab: the observer failed: {:#}", anyhow!(fault));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every stretch of a host that has answered before another one began.
fn returns(address: IpAddr, row: &[Stretch]) -> Vec<Return> {
    let mut found = Vec::new();
    for (at, stretch) in row.iter().enumerate().skip(2) {
        let other = &row[at - 1];
        if !row[..at - 1]
            .iter()
            .any(|earlier| earlier.host == stretch.host)
        {
            continue;
        }
        let after = stretch.first.calendar.saturating_sub(other.first.calendar);
        found.push(Return {
            address,
            host: stretch.host.clone(),
            at: stretch.first,
            last: stretch.last,
            other_began: other.first,
            told: format!(
                "{address}: {} answered {:.1} ms after {} began ({:?})",
                stretch.host,
                after.as_secs_f64() * 1e3,
                other.host,
                stretch.kinds,
            ),
        });
    }
    found
}

/// The address that the sender of a frame answers for, if it answers for any.
fn answered(frame: &[u8]) -> Option<(IpAddr, Kind)> {
    let payload = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => Some((v4(payload.get(12..16)?)?, Kind::Packet)),
        // RFC 826: the sender's protocol address, of Ethernet and IPv4.
        [0x08, 0x06] => Some((v4(payload.get(14..18)?)?, Kind::Arp)),
        [0x86, 0xdd] => {
            // RFC 4861 4.4: ICMPv6 (58), type 136, the target after four bytes of flags.
            let advertisement = payload.get(6) == Some(&58) && payload.get(40) == Some(&136);
            if advertisement {
                Some((v6(payload.get(48..64)?)?, Kind::Advertisement))
            } else {
                Some((v6(payload.get(8..24)?)?, Kind::Packet))
            }
        }
        _ => None,
    }
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)))
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::V6(Ipv6Addr::from(
        <[u8; 16]>::try_from(bytes).ok()?,
    )))
}

/// Both clocks, read so close together that nothing came between.
fn clocks() -> (Duration, Moment) {
    let calendar = || {
        let time = clock_gettime(ClockId::Realtime);
        Duration::new(
            time.tv_sec.unsigned_abs(),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        )
    };
    let mut pair = (calendar(), now());
    for _ in 0..READINGS_MAX {
        let moment = now();
        pair = (calendar(), moment);
        if now().since(moment) < READING {
            break;
        }
    }
    pair
}

/// A frame that the kernel took in at `calendar`. Its moment is wrong by as much as the
/// calendar clock was stepped since then.
fn sent(calendar: Duration) -> Sent {
    let (today, now) = clocks();
    Sent {
        calendar,
        moment: now.back(today.saturating_sub(calendar)),
    }
}

fn watch(tap: &Tap, ports: &Ports, shared: &Shared) -> Result<()> {
    let mut buffer = [0; FRAME_HEAD];
    while !shared.stopping.load(Ordering::Relaxed) {
        wait_for_frames(tap)?;
        while let Some(seen) = tap.receive(&mut buffer).context("taking a frame")? {
            let Some((address, kind)) = answered(&buffer[..seen.length]) else {
                continue;
            };
            let Some(host) = lock(ports).get(&seen.device).cloned() else {
                continue;
            };
            if let Some(row) = lock(&shared.stretches).get_mut(&address) {
                note(row, host, kind, sent(seen.calendar));
            }
        }
        *lock(&shared.missed) += u64::from(tap.take_lost().context("counting frames")?);
    }
    Ok(())
}

/// Adds a frame to the row. One that was sent before the other host's first frame and
/// is only seen after it belongs to the stretch before.
fn note(row: &mut Vec<Stretch>, host: String, kind: Kind, at: Sent) {
    let earlier = row.len().checked_sub(2).and_then(|index| {
        let other_began = row[index + 1].first.calendar;
        (row[index].host == host && at.calendar <= other_began).then_some(index)
    });
    let same = row
        .len()
        .checked_sub(1)
        .filter(|index| row[*index].host == host);
    match earlier.or(same) {
        Some(index) => {
            let stretch = &mut row[index];
            if at.calendar > stretch.last.calendar {
                stretch.last = at;
            }
            *stretch.kinds.entry(kind).or_default() += 1;
        }
        None => row.push(Stretch {
            host,
            first: at,
            last: at,
            kinds: BTreeMap::from([(kind, 1)]),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Sent {
        Sent {
            calendar: Duration::from_millis(ms),
            moment: Moment::from_nanos(ms * 1_000_000),
        }
    }

    fn row(sightings: &[(&str, u64)]) -> Vec<Stretch> {
        let mut row = Vec::new();
        for (host, ms) in sightings {
            note(&mut row, (*host).to_owned(), Kind::Packet, at(*ms));
        }
        row
    }

    /// How many returns a row of sightings has.
    fn returning(sightings: &[(&str, u64)]) -> usize {
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100));
        returns(address, &row(sightings)).len()
    }

    #[test]
    fn an_answer_after_a_move_is_seen() {
        assert_eq!(returning(&[("a", 1), ("a", 2), ("b", 3), ("b", 9)]), 0);
        assert_eq!(returning(&[("a", 1), ("b", 3), ("c", 4)]), 0);
        assert_eq!(returning(&[("a", 1), ("b", 3), ("a", 4)]), 1);
        assert_eq!(returning(&[("a", 1), ("b", 3), ("c", 4), ("b", 5)]), 1);
        assert_eq!(
            returning(&[("a", 1), ("b", 3), ("b", 60), ("a", 61), ("b", 62)]),
            2
        );
    }

    /// What counts is when a frame was sent, not when it was seen.
    #[test]
    fn a_frame_seen_late_is_no_return() {
        assert_eq!(returning(&[("a", 1), ("b", 4), ("a", 3), ("b", 5)]), 0);
    }

    #[test]
    fn frames_are_read() {
        let mut arp = vec![0; 14 + 28];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        arp[28..32].copy_from_slice(&[192, 0, 2, 100]);
        let service = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100));
        assert_eq!(answered(&arp), Some((service, Kind::Arp)));

        let target: Ipv6Addr = "2001:db8::100".parse().expect("an address");
        let mut advertisement = vec![0; FRAME_HEAD];
        advertisement[12..14].copy_from_slice(&[0x86, 0xdd]);
        advertisement[14 + 6] = 58;
        advertisement[14 + 40] = 136;
        advertisement[14 + 48..].copy_from_slice(&target.octets());
        assert_eq!(
            answered(&advertisement),
            Some((target.into(), Kind::Advertisement))
        );
        assert_eq!(answered(&arp[..20]), None);
    }
}
