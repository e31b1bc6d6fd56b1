//! What servers say to a check that looks for a text.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use evenkeel_checks::ANSWER_LENGTH_MAX;
use evenkeel_checks::fuzzing::tcp;
use tokio::io::{AsyncRead, ReadBuf};

use crate::input::{Input, piece};
use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "tcp",
    reads: "answers in which a text is looked for (checks)",
    seeds,
    judge,
    length_max: 2 * ANSWER_LENGTH_MAX,
    memory: MEMORY,
    memory_per_byte: 16,
    mutants: 20_000,
};

/// A stream that hands out so many bytes at a time, and then ends.
pub(super) struct Pieces<'a>(pub(super) &'a [u8], pub(super) usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.1.min(self.0.len()).min(into.remaining());
        let (piece, rest) = self.0.split_at(length);
        into.put_slice(piece);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}

/// What comes of something that waits for nothing.
pub(super) fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits though nothing more can come"),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let seed =
        |text: &[u8], length: u8, answer: &[u8]| [&piece(text)[..], &[length], answer].concat();
    vec![
        seed(b"+PONG", 3, b"-ERR\r\n+PONG\r\n"),
        seed(b"aab", 1, b"aaaab"),
        seed(b"ready", 200, &b"not yet ".repeat(100)),
    ]
}

fn judge(input: &[u8]) {
    let mut input = Input(input);
    let text = input.piece();
    // A file without a text has no such check.
    if text.is_empty() {
        return;
    }
    let length = usize::from(input.byte()).max(1);
    let answer = input.0;
    let there = |answer: &[u8]| answer.windows(text.len()).any(|window| window == text);
    match at_once(tcp(text, Pieces(answer, length))) {
        Ok(read) => assert!(there(&answer[..read]), "found where it is not"),
        Err(_) => {
            let looked = answer.len().min(ANSWER_LENGTH_MAX);
            assert!(!there(&answer[..looked]), "not found where it is");
        }
    }
}
