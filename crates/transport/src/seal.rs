//! Sealed lease datagrams: our own, because a lease must not wait for a congestion
//! window, a retransmission or a handshake (measured: `examples/measure.rs`).
//!
//! Sans I/O: bytes and moments in, bytes out. Keys come from the TLS exporter
//! (RFC 8446, 7.5) of the control connection, one per direction and connection; the
//! lease thread mirrors them in memory that outlives the process.
//!
//! ```text
//! byte 0        0x0E: not QUIC, whose first byte has the bit 0x40
//! bytes 1-8     id of the key, little endian: old and new keys overlap on reconnection
//! bytes 9-16    counter, little endian
//! then          ChaCha20-Poly1305 (RFC 8439) of the message, nonce 0000 || counter,
//!               the 17 bytes before it authenticated too; 16 bytes of tag at the end
//! ```
//!
//! The counter is `max(last + 1, CLOCK_BOOTTIME in ns)`. It never runs ahead of the
//! clock by more than the datagrams sealed within one nanosecond reading, so a process
//! that restarts within one boot and continues with mirrored keys never repeats a nonce,
//! without storing it. Keys must not outlive the boot; nor does QUIC or TLS survive that
//! a virtual machine is rolled back with its memory.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use evenkeel_core::{Moment, NodeId};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;

use crate::certificate::Fingerprint;

/// First byte of every sealed datagram.
pub const FIRST_BYTE: u8 = 0x0e;
/// Bytes before the sealed message.
pub const HEADER: usize = 17;
/// Bytes after it.
pub const TAG: usize = 16;
/// The longest message that can be sealed, in bytes: the datagram stays within 1232
/// bytes, which every path carries whole.
pub const MESSAGE_MAX: usize = 1232 - HEADER - TAG;
/// Keys remembered per peer: the one in use, the one that replaces it, and one more for
/// a connection that failed between the two.
const KEYS_MAX: usize = 3;
/// How long a new key is not used for sealing while the peer has not shown that it has
/// it: the peer's lease thread learns of it by way of its runtime.
const OVERLAP: Duration = Duration::from_millis(50);
/// Counters remembered per key: reordering beyond so many datagrams counts as replay.
const WINDOW: usize = 128;

/// The keys of one connection to a peer. Plain bytes, so that they can be mirrored.
#[derive(Clone, PartialEq, Eq)]
pub struct LeaseKeys {
    /// Who has the other half.
    pub peer: NodeId,
    /// Sent in the clear with every datagram; the same on both sides.
    pub id: u64,
    /// For what we send.
    pub seal: [u8; 32],
    /// For what the peer sends.
    pub open: [u8; 32],
    /// The certificate by which the peer proved itself on that connection: who restores keys
    /// leaves those behind whose certificate has been revoked since.
    pub proof: Fingerprint,
}

impl LeaseKeys {
    /// Length of [`LeaseKeys::to_bytes`].
    pub const BYTES: usize = 112;

    /// As bytes for the mirror: peer, id (little endian), seal, open, proof.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.peer.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.seal);
        bytes[48..80].copy_from_slice(&self.open);
        bytes[80..].copy_from_slice(&self.proof.to_bytes());
        bytes
    }

    /// From the bytes of the mirror.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let part = |at: usize| {
            let mut part = [0; 32];
            part.copy_from_slice(&bytes[at..at + 32]);
            part
        };
        Self {
            peer: NodeId(number(&bytes[..8])),
            id: number(&bytes[8..16]),
            seal: part(16),
            open: part(48),
            proof: Fingerprint::from_bytes(part(80)),
        }
    }
}

impl fmt::Debug for LeaseKeys {
    /// Never the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseKeys({:?}, {:x})", self.peer, self.id)
    }
}

/// Eight little-endian bytes; the callers cut exactly so many.
fn number(bytes: &[u8]) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(bytes);
    u64::from_le_bytes(eight)
}

/// Why a datagram was refused. Nothing of it may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Not of this form.
    #[error("not a lease datagram")]
    Foreign,
    /// Sealed with a key that we do not have, or have no longer.
    #[error("sealed with an unknown key")]
    UnknownKey,
    /// Forged or damaged.
    #[error("the seal is broken")]
    Broken,
    /// Seen before, or too far behind.
    #[error("a replay")]
    Replay,
}

/// Why a message was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unsealed {
    /// No connection to the peer has been made yet.
    #[error("no key for this peer yet")]
    NoKey,
    /// Longer than [`MESSAGE_MAX`].
    #[error("the message is longer than {MESSAGE_MAX} bytes")]
    TooLong,
}

/// Remembers which counters of one key have been seen.
///
/// Counters are nanoseconds, so a bitmap would cover nothing: the last [`WINDOW`] of
/// them are kept, and everything at or below what has fallen out counts as seen.
struct Window {
    seen: [u64; WINDOW],
    floor: u64,
}

impl Window {
    fn new(floor: u64) -> Self {
        Self {
            seen: [0; WINDOW],
            floor,
        }
    }

    fn is_new(&self, counter: u64) -> bool {
        counter > self.floor && !self.seen.contains(&counter)
    }

    fn note(&mut self, counter: u64) {
        let oldest = self.seen.iter_mut().min_by_key(|seen| **seen);
        if let Some(oldest) = oldest {
            self.floor = self.floor.max(*oldest);
            *oldest = counter;
        }
    }

    fn highest(&self) -> u64 {
        self.seen
            .iter()
            .fold(self.floor, |highest, seen| highest.max(*seen))
    }
}

/// One pair of keys at work.
struct Key {
    keys: LeaseKeys,
    seal: LessSafeKey,
    open: LessSafeKey,
    /// When it was installed.
    since: Moment,
    /// The peer has sealed with it, so it can open what we seal with it.
    confirmed: bool,
    /// Counter of the last datagram sealed.
    last: u64,
    window: Window,
}

impl Key {
    fn new(keys: LeaseKeys, since: Moment, opened: u64) -> Option<Self> {
        let key = |bytes: &[u8; 32]| UnboundKey::new(&CHACHA20_POLY1305, bytes).ok();
        let seal = LessSafeKey::new(key(&keys.seal)?);
        let open = LessSafeKey::new(key(&keys.open)?);
        Some(Self {
            keys,
            seal,
            open,
            since,
            confirmed: opened != 0,
            last: 0,
            window: Window::new(opened),
        })
    }

    fn seal(&mut self, now: Moment, message: &[u8], out: &mut Vec<u8>) {
        let counter = now.as_nanos().max(self.last.saturating_add(1));
        self.last = counter;
        out.clear();
        out.push(FIRST_BYTE);
        out.extend_from_slice(&self.keys.id.to_le_bytes());
        out.extend_from_slice(&counter.to_le_bytes());
        out.extend_from_slice(message);
        let (header, body) = out.split_at_mut(HEADER);
        let tag = self
            .seal
            .seal_in_place_separate_tag(nonce(counter), Aad::from(&*header), body);
        match tag {
            Ok(tag) => out.extend_from_slice(tag.as_ref()),
            // Only for messages of many gigabytes. An empty datagram goes nowhere.
            Err(ring::error::Unspecified) => out.clear(),
        }
    }

    fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<&'a [u8], Refused> {
        let (header, body) = datagram.split_at_mut(HEADER);
        let counter = number(&header[9..]);
        if !self.window.is_new(counter) {
            return Err(Refused::Replay);
        }
        let message = self
            .open
            .open_in_place(nonce(counter), Aad::from(&*header), body)
            .map_err(|ring::error::Unspecified| Refused::Broken)?;
        // Only now: a forger must not be able to move the window.
        self.window.note(counter);
        self.confirmed = true;
        Ok(message)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The keys of one peer, oldest first.
#[derive(Default)]
struct Ring {
    keys: Vec<Key>,
    /// While a new key is unconfirmed, every other datagram is sealed with it.
    turn: bool,
}

impl Ring {
    /// The key to seal with: the newest that the peer has shown to have. A newer one
    /// that it has not shown takes every other datagram once it has had [`OVERLAP`], so
    /// that a peer with only one of the two, whichever, hears half of them at least.
    fn choose(&mut self, now: Moment) -> Option<&mut Key> {
        let newest = self.keys.len().checked_sub(1)?;
        let confirmed = self
            .keys
            .iter()
            .rposition(|key| key.confirmed)
            .unwrap_or(newest);
        let mut chosen = confirmed;
        if confirmed != newest && now.since(self.keys[newest].since) >= OVERLAP {
            self.turn = !self.turn;
            if self.turn {
                chosen = newest;
            }
        }
        self.keys.get_mut(chosen)
    }
}

/// A key as the mirror holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The keys.
    pub keys: LeaseKeys,
    /// The highest counter opened with them: what is at or below it is refused after a
    /// restart. Zero if the peer has not used them yet.
    pub opened: u64,
}

/// The keys to all peers: seals what goes to them and opens what comes from them.
///
/// Keys outlive the connection they came from, so that a lease survives the loss of the
/// control connection; they go when newer ones displace them, and with a process that restores
/// the others alone.
#[derive(Default)]
pub struct Keyring {
    rings: BTreeMap<NodeId, Ring>,
}

impl Keyring {
    /// A ring without keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the keys of a new connection. Those that it replaces stay for what is under way.
    pub fn install(&mut self, now: Moment, keys: LeaseKeys) {
        self.restore(now, Mirrored { keys, opened: 0 });
    }

    /// Adds a key from the mirror, oldest first, after a restart of the process.
    pub fn restore(&mut self, now: Moment, mirrored: Mirrored) {
        let Mirrored { keys, opened } = mirrored;
        let ring = self.rings.entry(keys.peer).or_default();
        if ring.keys.iter().any(|key| key.keys.id == keys.id) {
            // The same connection twice; its window and counter must not be forgotten.
            return;
        }
        if ring.keys.len() == KEYS_MAX {
            // The oldest, unless it is the only one that the peer is known to have.
            let confirmed = ring.keys.iter().rposition(|key| key.confirmed);
            ring.keys.remove(usize::from(confirmed == Some(0)));
        }
        ring.keys.extend(Key::new(keys, now, opened));
    }

    /// What the mirror should hold, oldest first per peer.
    pub fn mirror(&self) -> impl Iterator<Item = Mirrored> + '_ {
        let keys = self.rings.values().flat_map(|ring| &ring.keys);
        keys.map(|key| Mirrored {
            keys: key.keys.clone(),
            opened: key.window.highest(),
        })
    }

    /// Seals `message` for `to` into `out`, whose old content is dropped. `now` is
    /// CLOCK_BOOTTIME; it may be a little old, never ahead.
    pub fn seal(
        &mut self,
        now: Moment,
        to: NodeId,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Unsealed> {
        out.clear();
        if message.len() > MESSAGE_MAX {
            return Err(Unsealed::TooLong);
        }
        let key = self.rings.get_mut(&to).and_then(|ring| ring.choose(now));
        key.ok_or(Unsealed::NoKey)?.seal(now, message, out);
        Ok(())
    }

    /// Opens a datagram in place: who sealed it, and the message.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<(NodeId, &'a [u8]), Refused> {
        if datagram.len() < HEADER + TAG || datagram[0] != FIRST_BYTE {
            return Err(Refused::Foreign);
        }
        let id = number(&datagram[1..9]);
        for (peer, ring) in &mut self.rings {
            if let Some(key) = ring.keys.iter_mut().find(|key| key.keys.id == id) {
                return Ok((*peer, key.open(datagram)?));
            }
        }
        Err(Refused::UnknownKey)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.mirror().map(|mirrored| mirrored.keys))
            .finish()
    }
}

#[cfg(test)]
mod tests;
