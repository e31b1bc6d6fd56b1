use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const A: NodeId = NodeId(0xa);
const B: NodeId = NodeId(0xb);

/// The two halves of the keys of connection number `id`: what A gets, what B gets.
fn pair(id: u8) -> (LeaseKeys, LeaseKeys) {
    let (up, down) = ([id; 32], [id ^ 0xff; 32]);
    let id = u64::from(id);
    let a = LeaseKeys {
        peer: B,
        id,
        seal: up,
        open: down,
        proof: Fingerprint::of(b"b"),
    };
    let b = LeaseKeys {
        peer: A,
        id,
        seal: down,
        open: up,
        proof: Fingerprint::of(b"a"),
    };
    (a, b)
}

fn at(millis: u64) -> Moment {
    Moment::ZERO + Duration::from_secs(1000) + Duration::from_millis(millis)
}

/// Two rings that share connection 1.
fn rings() -> (Keyring, Keyring) {
    let (mut a, mut b) = (Keyring::new(), Keyring::new());
    let (keys_a, keys_b) = pair(1);
    a.install(at(0), keys_a);
    b.install(at(0), keys_b);
    (a, b)
}

fn seal(ring: &mut Keyring, now: Moment, to: NodeId, message: &[u8]) -> Vec<u8> {
    let mut out = vec![1, 2, 3];
    ring.seal(now, to, message, &mut out).expect("sealed");
    out
}

fn key_of(datagram: &[u8]) -> u64 {
    number(&datagram[1..9])
}

fn counter_of(datagram: &[u8]) -> u64 {
    number(&datagram[9..17])
}

#[test]
fn what_one_seals_the_other_opens() {
    let (mut a, mut b) = rings();
    for message in [&b""[..], b"renew", &[7; MESSAGE_MAX]] {
        let mut datagram = seal(&mut a, at(1), B, message);
        assert_eq!(datagram.len(), HEADER + message.len() + TAG);
        assert_eq!(datagram[0] & 0x40, 0, "QUIC's bit must be clear");
        assert_eq!(b.open(&mut datagram), Ok((A, message)));
        let mut back = seal(&mut b, at(2), A, message);
        assert_eq!(a.open(&mut back), Ok((B, message)));
    }
}

#[test]
fn what_cannot_be_sealed_says_why() {
    let (mut a, _) = rings();
    let mut out = vec![9];
    assert_eq!(
        a.seal(at(0), NodeId(0xc), b"x", &mut out),
        Err(Unsealed::NoKey)
    );
    assert!(out.is_empty());
    assert_eq!(
        a.seal(at(0), B, &[0; MESSAGE_MAX + 1], &mut out),
        Err(Unsealed::TooLong)
    );
    assert!(out.is_empty());
}

#[test]
fn every_changed_bit_is_noticed() {
    let (mut a, mut b) = rings();
    let datagram = seal(&mut a, at(1), B, b"renew");
    for bit in 0..datagram.len() * 8 {
        let mut forged = datagram.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let refused = b.open(&mut forged).expect_err("forged");
        match bit / 8 {
            0 => assert_eq!(refused, Refused::Foreign),
            1..=8 => assert_eq!(refused, Refused::UnknownKey),
            _ => assert_eq!(refused, Refused::Broken),
        }
    }
    assert_eq!(
        b.open(&mut datagram.clone()),
        Ok((A, &b"renew"[..])),
        "forgeries moved the window"
    );
}

#[test]
fn one_direction_does_not_open_as_the_other() {
    let (mut a, _) = rings();
    let mut datagram = seal(&mut a, at(1), B, b"renew");
    assert_eq!(a.open(&mut datagram), Err(Refused::Broken));
}

#[test]
fn replays_are_refused_however_late() {
    let (mut a, mut b) = rings();
    let sent: Vec<_> = (0..2 * WINDOW as u64)
        .map(|n| seal(&mut a, at(n), B, b"renew"))
        .collect();
    for datagram in &sent {
        assert!(b.open(&mut datagram.clone()).is_ok());
        assert_eq!(b.open(&mut datagram.clone()), Err(Refused::Replay));
    }
    for datagram in &sent {
        assert_eq!(b.open(&mut datagram.clone()), Err(Refused::Replay));
    }
}

#[test]
fn reordering_within_the_window_is_not_replay() {
    let (mut a, mut b) = rings();
    let sent: Vec<_> = (0..WINDOW as u64)
        .map(|n| seal(&mut a, at(n), B, b"renew"))
        .collect();
    for datagram in sent.iter().rev() {
        assert!(b.open(&mut datagram.clone()).is_ok());
    }
}

#[test]
fn a_restarted_process_never_repeats_a_nonce() {
    let (mut a, mut b) = rings();
    let mut counters = BTreeSet::new();
    // Ten in the same instant, which is the worst that the clock can do.
    for _ in 0..10 {
        assert!(counters.insert(counter_of(&seal(&mut a, at(5), B, b"before"))));
    }
    let mut restarted = Keyring::new();
    for mirrored in a.mirror() {
        restarted.restore(at(6), mirrored);
    }
    for _ in 0..10 {
        let mut datagram = seal(&mut restarted, at(6), B, b"after");
        assert!(
            counters.insert(counter_of(&datagram)),
            "a nonce was repeated"
        );
        assert!(b.open(&mut datagram).is_ok());
    }
}

#[test]
fn a_restarted_process_still_refuses_what_it_opened_before() {
    let (mut a, mut b) = rings();
    let before = seal(&mut a, at(1), B, b"renew");
    assert!(b.open(&mut before.clone()).is_ok());
    let bytes: Vec<_> = b
        .mirror()
        .map(|mirrored| (mirrored.keys.to_bytes(), mirrored.opened))
        .collect();
    let mut restarted = Keyring::new();
    for (keys, opened) in bytes {
        restarted.restore(
            at(2),
            Mirrored {
                keys: LeaseKeys::from_bytes(&keys),
                opened,
            },
        );
    }
    assert_eq!(restarted.open(&mut before.clone()), Err(Refused::Replay));
    assert!(
        restarted
            .open(&mut seal(&mut a, at(3), B, b"renew"))
            .is_ok()
    );
}

#[test]
fn a_new_key_is_used_once_the_peer_has_shown_it() {
    let (mut a, mut b) = rings();
    assert!(b.open(&mut seal(&mut a, at(1), B, b"x")).is_ok());
    assert!(a.open(&mut seal(&mut b, at(1), A, b"x")).is_ok());
    let (new_a, new_b) = pair(2);
    a.install(at(10), new_a);
    assert_eq!(
        key_of(&seal(&mut a, at(11), B, b"x")),
        1,
        "b may not have the new key yet"
    );
    b.install(at(12), new_b);
    // After the overlap A tries the new key, B opens it, and from then on both use it.
    let mut used = BTreeSet::new();
    for n in 0..2 {
        let mut datagram = seal(&mut a, at(60 + n), B, b"x");
        used.insert(key_of(&datagram));
        assert!(b.open(&mut datagram).is_ok());
    }
    assert_eq!(used, BTreeSet::from([1, 2]));
    let mut back = seal(&mut b, at(62), A, b"x");
    assert_eq!(key_of(&back), 2);
    assert!(a.open(&mut back).is_ok());
    assert_eq!(key_of(&seal(&mut a, at(63), B, b"x")), 2);
}

#[test]
fn a_key_that_the_peer_never_got_costs_no_more_than_every_other_datagram() {
    let (mut a, mut b) = rings();
    assert!(a.open(&mut seal(&mut b, at(1), A, b"x")).is_ok());
    for id in 2..10 {
        a.install(at(10), pair(id).0);
    }
    let opened = (0..100)
        .filter(|n| b.open(&mut seal(&mut a, at(100 + n), B, b"x")).is_ok())
        .count();
    assert_eq!(opened, 50);
    assert!(a.mirror().count() <= KEYS_MAX);
}

#[test]
fn a_peer_that_forgot_everything_is_heard_at_once() {
    let (mut a, mut b) = rings();
    assert!(a.open(&mut seal(&mut b, at(1), A, b"x")).is_ok());
    let (new_a, new_b) = pair(2);
    a.install(at(10), new_a);
    let mut reborn = Keyring::new();
    reborn.install(at(10), new_b);
    assert!(a.open(&mut seal(&mut reborn, at(10), A, b"x")).is_ok());
    assert!(reborn.open(&mut seal(&mut a, at(11), B, b"x")).is_ok());
}

#[test]
fn keys_that_were_left_behind_open_nothing() {
    let (mut a, _) = rings();
    let mut datagram = seal(&mut a, at(1), B, b"x");
    let refused = Keyring::new().open(&mut datagram).map(drop);
    assert_eq!(refused, Err(Refused::UnknownKey));
}

#[test]
fn keys_do_not_show_in_logs() {
    let (mut keys, _) = pair(0x5a);
    keys.id = 1;
    assert!(!format!("{keys:?}").contains("5a"));
    assert!(!format!("{keys:?}").contains("90"));
}

proptest! {
    #[test]
    fn random_bytes_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..300), ours in any::<bool>()) {
        let (mut a, mut b) = rings();
        if ours && bytes.len() > 9 {
            bytes[0] = FIRST_BYTE;
            bytes[1..9].copy_from_slice(&1u64.to_le_bytes());
        }
        prop_assert!(b.open(&mut bytes).is_err());
        prop_assert!(b.open(&mut seal(&mut a, at(1), B, b"x")).is_ok());
    }
}
