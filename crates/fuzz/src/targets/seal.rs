//! Lease datagrams before anything is believed: `transport::seal`. A series of what two rings seal for
//! each other, what becomes of it on the way, restarts, and anything else.

use std::collections::BTreeSet;

use evenkeel_core::{Moment, NodeId};
use evenkeel_transport::Fingerprint;
use evenkeel_transport::seal::{FIRST_BYTE, Keyring, LeaseKeys, MESSAGE_MAX, Mirrored};

use crate::input::{Input, piece};
use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "seal",
    reads: "lease datagrams as they arrive (lease thread)",
    seeds,
    judge,
    length_max: 16 * 1024,
    memory: MEMORY,
    memory_per_byte: 256,
    mutants: 10_000,
};

const A: NodeId = NodeId(0xa);
const B: NodeId = NodeId(0xb);
/// Datagrams under way at most.
const WAY_MAX: usize = 64;

fn seeds() -> Vec<Vec<u8>> {
    let sealed = [&[0][..], &piece(b"renew")].concat();
    let delivered = [1, 0, 0, 0];
    let turned = [1, 0, 2, 17];
    let raw = [&[2][..], &piece(&[&[FIRST_BYTE][..], &[7; 40]].concat())].concat();
    vec![
        [&sealed[..], &delivered, &delivered].concat(),
        [&sealed[..], &sealed, &turned, &delivered, &raw].concat(),
        [
            &sealed[..],
            &[3, 9],
            &sealed,
            &delivered,
            &[4],
            &sealed,
            &delivered,
        ]
        .concat(),
    ]
}

/// The two halves of the keys of connection number `id`: what A gets, what B gets.
fn pair(id: u64) -> [LeaseKeys; 2] {
    let (up, down) = ([id as u8; 32], [!(id as u8); 32]);
    [(B, up, down), (A, down, up)].map(|(peer, seal, open)| LeaseKeys {
        peer,
        id,
        seal,
        open,
        proof: Fingerprint::of(b"a certificate"),
    })
}

/// A seals, B opens.
struct Pair {
    a: Keyring,
    b: Keyring,
    now: Moment,
    connections: u64,
    /// What was sealed, with its message.
    way: Vec<(Vec<u8>, Vec<u8>)>,
    /// What B has opened.
    opened: BTreeSet<Vec<u8>>,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            a: Keyring::new(),
            b: Keyring::new(),
            now: Moment::from_nanos(1 << 40),
            connections: 0,
            way: Vec::new(),
            opened: BTreeSet::new(),
        };
        pair.connect();
        pair
    }

    fn connect(&mut self) {
        self.connections += 1;
        let [a, b] = pair(self.connections);
        self.a.install(self.now, a);
        self.b.install(self.now, b);
    }

    fn pass(&mut self, nanos: u64) {
        self.now = Moment::from_nanos(self.now.as_nanos() + nanos);
    }

    fn seal(&mut self, message: &[u8]) {
        let message = &message[..message.len().min(MESSAGE_MAX)];
        let mut out = Vec::new();
        self.pass(1);
        if self.a.seal(self.now, B, message, &mut out).is_ok() {
            assert!(out.len() <= 1232 && out[0] == FIRST_BYTE);
            self.way.truncate(WAY_MAX);
            self.way.insert(0, (out, message.to_vec()));
        }
    }

    /// Something arrives. Whatever it is, it opens only if A sealed it, and once.
    fn arrive(&mut self, datagram: &[u8]) {
        let mut bytes = datagram.to_vec();
        let Ok((from, message)) = self.b.open(&mut bytes) else {
            return;
        };
        let message = message.to_vec();
        assert_eq!(from, A);
        let sealed = self.way.iter().find(|(sealed, _)| sealed == datagram);
        let Some((_, said)) = sealed else {
            panic!("opened, and never sealed");
        };
        assert_eq!(*said, message);
        assert!(self.opened.insert(datagram.to_vec()), "opened twice");
    }

    /// The process that opens is another one, with what the mirror has.
    fn restart(&mut self) {
        let mirrored: Vec<Mirrored> = self.b.mirror().collect();
        self.b = Keyring::new();
        for key in mirrored {
            let bytes = key.keys.to_bytes();
            assert_eq!(LeaseKeys::from_bytes(&bytes), key.keys);
            self.b.restore(self.now, key);
        }
    }
}

fn judge(input: &[u8]) {
    let mut pair = Pair::new();
    let mut input = Input(input);
    while !input.is_over() {
        match input.below(5) {
            0 => pair.seal(input.piece()),
            // Of what is under way one, as it is or with a byte changed.
            1 => {
                let (which, change, at) = (input.byte(), input.byte(), input.byte());
                let there = pair.way.get(usize::from(which)).cloned();
                if let Some((mut datagram, _)) = there {
                    let at = usize::from(at) % datagram.len();
                    datagram[at] ^= change;
                    pair.arrive(&datagram);
                }
            }
            2 => pair.arrive(input.piece()),
            3 => {
                pair.pass(u64::from(input.byte()) << 20);
                pair.connect();
            }
            _ => pair.restart(),
        }
    }
    // Whatever came before: what A seals now arrives, at the second try at the latest, since a key
    // that B has not shown takes every other datagram.
    pair.pass(1 << 30);
    let before = pair.opened.len();
    for _ in 0..2 {
        pair.seal(b"at the end");
        let newest = pair.way[0].0.clone();
        pair.arrive(&newest);
    }
    assert!(pair.opened.len() > before, "nothing gets through any more");
}
