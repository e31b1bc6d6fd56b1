//! Traffic that means harm: invented, spoiled, cut, repeated, in another order.

use std::time::Duration;

use anyhow::{Result, ensure};
use evenkeel_host::clock::now;

use super::chance::Chance;
use super::forger::{Ear, End, Forger, Heard, LEASE, PAYLOAD_MAX, QUIC, frame};
use crate::cluster::{Cluster, WITNESS};
use crate::config_text::PORT;

/// Datagrams invented by each attack on one daemon: more than any of its queues holds.
const INVENTED: usize = 10_000;
/// Where a captured datagram is cut: in each part of the header, in the seal, and at the ends.
const CUTS: [usize; 12] = [0, 1, 2, 8, 9, 16, 17, 18, 32, 33, 34, 48];
/// The shortest and the longest lease datagram: what a daemon's socket lets in.
const LEASE_LENGTHS: (usize, usize) = (33, 1232);
/// Header of a lease datagram: form, key, counter.
const LEASE_HEADER: usize = 17;
const KEY: std::ops::Range<usize> = 1..9;
const COUNTER: std::ops::Range<usize> = 9..17;
/// Datagrams that are held back and sent on in reverse, and for how long that is done.
const TURNED: usize = 3;
const TURNING: Duration = Duration::from_secs(5);
/// Renewals go from a holder to each voter so often at least, in any profile; at most half of
/// them may have been missed in the time of [`TURNING`].
const TURNED_MIN: usize = 60;

/// An attack's target and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Front {
    /// All daemons.
    pub(super) daemons: Vec<End>,
    /// Whom the forger pretends to be: itself, and each node.
    pub(super) faces: Vec<End>,
}

impl Front {
    pub(super) fn of(cluster: &Cluster) -> Result<Self> {
        let mut daemons = Vec::new();
        for name in cluster.names() {
            daemons.push(End::daemon(cluster.host(&name)?.ip())?);
        }
        let own = End {
            port: PORT + 1,
            ..End::daemon(cluster.client_host().ip())?
        };
        let faces = daemons.iter().copied().chain([own]).collect();
        Ok(Self { daemons, faces })
    }

    /// A frame with this payload, from somebody else to somebody.
    pub(super) fn send(&self, chance: &mut Chance, payload: &[u8]) -> Option<Vec<u8>> {
        let to = *chance.one(&self.daemons)?;
        let from = *chance.one(&self.faces)?;
        (from != to).then(|| frame(from, to, payload))
    }
}

/// What an attacker invents who has listened: every kind of thing that a daemon looks into.
pub(super) fn invented(chance: &mut Chance, heard: &[Heard]) -> Vec<u8> {
    let (low, high) = LEASE_LENGTHS;
    match chance.below(6) {
        // Nothing at all, or anything.
        0 => {
            let length = chance.below(PAYLOAD_MAX + 1);
            chance.bytes(length)
        }
        // A lease datagram of nobody.
        1 => {
            let length = low + chance.below(high - low + 1);
            let mut bytes = chance.bytes(length);
            bytes[0] = LEASE;
            bytes
        }
        // One with a key that is in use and a counter that was never seen: it has to be opened.
        2 => match chance.one(heard) {
            Some(heard) if heard.is_lease() && heard.payload.len() >= low => {
                let mut bytes = heard.payload.clone();
                let later = chance.number() >> 1;
                bytes[COUNTER].copy_from_slice(&later.to_le_bytes());
                let body = chance.bytes(bytes.len() - LEASE_HEADER);
                bytes[LEASE_HEADER..].copy_from_slice(&body);
                bytes
            }
            _ => Vec::new(),
        },
        // A packet of QUIC, of either kind.
        3 => {
            let length = 1 + chance.below(PAYLOAD_MAX);
            let mut bytes = chance.bytes(length);
            bytes[0] |= QUIC;
            bytes
        }
        // A first packet of QUIC version 1 (RFC 9000 17.2.2) with identities of any length.
        4 => {
            let mut bytes = vec![0xc0 | chance.below(16) as u8, 0, 0, 0, 1];
            let length = chance.below(24);
            bytes.push(length as u8);
            let more = 1180 + chance.below(100);
            bytes.extend(chance.bytes(length + more));
            bytes
        }
        // What was heard, with one bit turned.
        _ => match chance.one(heard) {
            Some(heard) if !heard.payload.is_empty() => {
                let mut bytes = heard.payload.clone();
                let at = chance.below(bytes.len());
                bytes[at] ^= 1 << chance.below(8);
                bytes
            }
            _ => Vec::new(),
        },
    }
}

/// Invented and spoiled datagrams to every daemon, from the client and in each node's name.
pub(super) fn forged(
    forger: &Forger,
    front: &Front,
    chance: &mut Chance,
    heard: &[Heard],
) -> Result<u64> {
    let mut sent = 0;
    for _ in 0..INVENTED * front.daemons.len() {
        let payload = invented(chance, heard);
        if let Some(frame) = front.send(chance, &payload) {
            sent += u64::from(forger.send(&frame)?);
        }
    }
    Ok(sent)
}

/// Everything that was heard, cut off at many places.
pub(super) fn truncated(forger: &Forger, heard: &[Heard]) -> Result<u64> {
    let cut = |one: &Heard| {
        let length = one.payload.len();
        let places = CUTS
            .into_iter()
            .chain([length / 2, length.saturating_sub(1)]);
        let frames = places.filter(move |place| *place < length);
        let (from, to, payload) = (one.from, one.to, one.payload.clone());
        frames.map(move |place| frame(from, to, &payload[..place]))
    };
    forger.send_all(heard.iter().flat_map(cut))
}

/// Everything that was heard once more: in its order, in reverse, and mixed.
pub(super) fn replayed(forger: &Forger, chance: &mut Chance, heard: &[Heard]) -> Result<u64> {
    let mut sent = forger.send_all(heard.iter().map(Heard::again))?;
    sent += forger.send_all(heard.iter().rev().map(Heard::again))?;
    let mut mixed = heard.to_vec();
    chance.shuffle(&mut mixed);
    sent += forger.send_all(mixed.iter().map(Heard::again))?;
    Ok(sent)
}

/// The holder's lease datagrams to the witness, and the witness's answers, held back and sent on
/// in another order, each twice: leases have to bear that.
pub(super) fn reordered(cluster: &Cluster, forger: &Forger, holder: &str) -> Result<u64> {
    let ear = Ear::open(cluster.switch())?;
    let ends = [
        End::daemon(cluster.host(holder)?.ip())?,
        End::daemon(cluster.witness_ip()?)?,
    ];
    for (name, to) in [
        (holder, cluster.witness_ip()?),
        (WITNESS, cluster.host(holder)?.ip()),
    ] {
        let leases = format!("@from ip daddr {to} udp dport {PORT} @th,64,8 {LEASE}");
        cluster.switch().set_filter(name, &[&leases])?;
    }
    let turned = turn(&ear, forger, ends);
    for name in [holder, WITNESS] {
        cluster.switch().set_filter(name, &[])?;
    }
    let turned = turned?;
    ensure!(
        turned >= TURNED_MIN as u64,
        "only {turned} datagrams were put into another order: nothing was tried"
    );
    Ok(turned)
}

/// What is said between these two, [`TURNED`] datagrams of each in reverse.
fn turn(ear: &Ear, forger: &Forger, ends: [End; 2]) -> Result<u64> {
    let end = now() + TURNING;
    let mut held: [Vec<Heard>; 2] = [Vec::new(), Vec::new()];
    let mut sent = 0;
    while now() < end {
        for heard in ear.next(end)? {
            let [one, other] = ends;
            let way = match (heard.from, heard.to) {
                (from, to) if (from, to) == (one, other) => 0,
                (from, to) if (from, to) == (other, one) => 1,
                _ => continue,
            };
            if heard.is_lease() {
                held[way].push(heard);
            }
            if held[way].len() == TURNED {
                for heard in held[way].drain(..).rev() {
                    sent += u64::from(forger.send(&heard.again())?);
                    forger.send(&heard.again())?;
                }
            }
        }
    }
    Ok(sent)
}

/// The keys of lease datagrams that were heard.
pub(super) fn keys(heard: &[Heard]) -> std::collections::BTreeSet<Vec<u8>> {
    let leases = heard.iter().filter(|one| one.is_lease());
    leases
        .filter_map(|one| Some(one.payload.get(KEY)?.to_vec()))
        .collect()
}
