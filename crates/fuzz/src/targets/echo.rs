//! Replies to pings: anybody may send some.

use evenkeel_host::fuzzing::echoed;
use evenkeel_host::ping::{Family, Kind};

use crate::input::Input;
use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "echo",
    reads: "replies of ICMP and ICMPv6 (checks)",
    seeds,
    judge,
    length_max: 256,
    memory: MEMORY,
    memory_per_byte: 0,
    mutants: 50_000,
};

const NONCE: u64 = 0x0123_4567_89ab_cdef;
const NUMBER: u64 = 7;

/// The reply of an honest host.
fn reply(kind: u8, header: usize) -> Vec<u8> {
    let mut packet = vec![0; header];
    if let Some(first) = packet.first_mut() {
        *first = 0x40 | (header / 4) as u8;
    }
    packet.extend([kind, 0, 0, 0, 0, 1, 0, 7]);
    packet.extend(NONCE.to_be_bytes());
    packet.extend(NUMBER.to_be_bytes());
    packet
}

fn seeds() -> Vec<Vec<u8>> {
    vec![
        [&[0][..], &reply(0, 20)].concat(),
        [&[0][..], &reply(0, 60)].concat(),
        [&[1][..], &reply(0, 0)].concat(),
        [&[2][..], &reply(129, 0)].concat(),
    ]
}

fn judge(input: &[u8]) {
    let mut input = Input(input);
    let (kind, family) = match input.below(3) {
        0 => (Kind::Raw, Family::V4),
        1 => (Kind::Datagram, Family::V4),
        _ => (Kind::Raw, Family::V6),
    };
    let packet = input.0;
    if let Some(number) = echoed(kind, family, NONCE, packet) {
        let said = [NONCE.to_be_bytes(), number.to_be_bytes()].concat();
        assert!(
            packet.windows(16).any(|window| window == said),
            "taken from nowhere"
        );
    }
    // Whoever does not know the nonce answers nothing.
    let other = packet
        .windows(8)
        .all(|window| window != (!NONCE).to_be_bytes());
    assert!(!other || echoed(kind, family, !NONCE, packet).is_none());
}
