//! What mail servers say, in pieces of any length.

use evenkeel_checks::DETAIL_LENGTH_MAX;
use evenkeel_checks::fuzzing::smtp;

use crate::input::Input;
use crate::{MEMORY, Target};

use super::tcp::{Pieces, at_once};

pub(crate) const TARGET: Target = Target {
    name: "smtp",
    reads: "replies of mail servers (checks)",
    seeds,
    judge,
    length_max: 64 * 1024,
    memory: MEMORY,
    memory_per_byte: 16,
    mutants: 20_000,
};

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "220 mail ready\r\n250-mail\r\n250-SIZE 1000\r\n250 STARTTLS\r\n221 bye\r\n",
        "220-one\r\n220 two\r\n250 mail\r\n",
        "554 no\r\n",
    ];
    let seed = |text: &str| [&[7][..], text.as_bytes()].concat();
    texts.map(seed).into()
}

fn judge(input: &[u8]) {
    let mut input = Input(input);
    let length = usize::from(input.byte()).max(1);
    let answered = |length| {
        at_once(smtp(tokio::io::join(
            Pieces(input.0, length),
            tokio::io::sink(),
        )))
    };
    let cut = answered(length);
    assert_eq!(
        answered(usize::MAX).is_ok(),
        cut.is_ok(),
        "in pieces of {length}"
    );
    match cut {
        Ok(()) => assert!(input.0.starts_with(b"220"), "it greets as it should not"),
        Err(why) => {
            assert!(why.len() <= DETAIL_LENGTH_MAX + 32, "{why}");
            assert!(!why.chars().any(char::is_control), "{why:?}");
        }
    }
}
