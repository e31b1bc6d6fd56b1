//! Answers of web servers, in pieces of any length.

use evenkeel_checks::BODY_LENGTH_MAX;
use evenkeel_checks::fuzzing::http;

use crate::input::Input;
use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "http",
    reads: "answers of HTTP (checks)",
    seeds,
    judge,
    length_max: 3 * BODY_LENGTH_MAX,
    memory: MEMORY,
    memory_per_byte: 64,
    mutants: 20_000,
};

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell",
        "HTTP/1.0 200\n\nwell",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\nA;x=\"y\"\r\n1234567890\r\n0\r\nX: y\r\n\r\n",
        "HTTP/1.1 503 No\r\nContent-Length: 4, 4\r\nconnection: close\r\n\r\nbusy",
    ];
    let seed = |text: &str| [&[0, 5][..], text.as_bytes()].concat();
    texts.map(seed).into()
}

fn judge(input: &[u8]) {
    let mut input = Input(input);
    let bare = input.below(2) == 1;
    let length = usize::from(input.byte()).max(1);
    let text = input.0;
    let whole = http(bare, &[text]);
    let pieces: Vec<&[u8]> = text.chunks(length).collect();
    let cut = http(bare, &pieces);
    if let Ok(page) = &whole {
        assert!(page.body.len() <= BODY_LENGTH_MAX);
        assert!(page.body.len() <= text.len());
        // Three digits; that some of them mean nothing is the configuration's business.
        assert!(page.status < 1000, "{}", page.status);
        assert!(!bare || page.body.is_empty());
    }
    // Why it is none may be seen earlier or later; what it is does not depend on the pieces.
    assert_eq!(whole.ok(), cut.ok(), "in pieces of {length}");
}
