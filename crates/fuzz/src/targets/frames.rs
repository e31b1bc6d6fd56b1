//! What streams of a peer carry, before anybody knows what is in it: `transport`'s hello, requests,
//! answers, one-way messages; and the reason with which a stranger closes a connection.

use evenkeel_transport::fuzzing;

use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "frames",
    reads: "frames on streams of QUIC, close reasons (transport's runtime)",
    seeds,
    judge,
    length_max: 64 * 1024,
    memory: MEMORY,
    memory_per_byte: 16,
    mutants: 20_000,
};

/// A frame carries this.
const BODY: &[u8] = b"a body";

fn short(first: u8) -> Vec<u8> {
    [&[first][..], &(BODY.len() as u32).to_le_bytes(), BODY].concat()
}

fn one_way() -> Vec<u8> {
    let (sequence, length) = (7_u64.to_le_bytes(), (BODY.len() as u32).to_le_bytes());
    [&[2][..], &sequence, &length, BODY].concat()
}

fn hello() -> Vec<u8> {
    let length = (9 + BODY.len() as u32).to_le_bytes();
    [&length[..], &[1], &5_u64.to_le_bytes(), BODY].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let told = "invalid peer certificate: Other(OtherError(Told(it is revoked)))";
    vec![short(1), one_way(), hello(), told.as_bytes().to_vec()]
}

fn judge(input: &[u8]) {
    if let Some((_, body)) = fuzzing::request(input.to_vec()) {
        assert_eq!(&body[..], &input[5..], "nothing is left out of a whole one");
    }
    if let Some((_, _, body)) = fuzzing::one_way(input.to_vec()) {
        assert_eq!(
            &body[..],
            &input[13..],
            "nothing is left out of a whole one"
        );
    }
    if let Ok((life, body)) = fuzzing::hello(input) {
        assert_eq!(&input[5..13], life.to_le_bytes());
        assert_eq!(&body[..], &input[13..13 + body.len()]);
        assert!(body.len() <= 4096);
    }
    let told = fuzzing::reason(input);
    assert!(
        told.len() <= 256 && !told.chars().any(char::is_control),
        "{told:?}"
    );
}
