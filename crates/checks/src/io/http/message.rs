//! Answers of web servers, read piece by piece as they come (RFC 9112): pure, every part bounded,
//! and believing nothing.
//!
//! ```text
//! Head -> Body, UntilEnd, or Size -> Chunk -> ChunkEnd -> Size ... -> Trailer -> Done
//! ```
//!
//! Each byte is looked at once, in however small pieces it comes: lines are only gathered until
//! the empty one, and heads are taken apart by `httparse`.

use std::fmt;

/// What is read of a body: health pages are short, and no check shall move a film
/// every 50 ms.
pub const BODY_LENGTH_MAX: usize = 64 * 1024;
/// Longest status line and headers together, and their number.
const HEAD_LENGTH_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;
/// Longest line with the size of a chunk, extensions included: nobody uses those.
const SIZE_LENGTH_MAX: usize = 4 * 1024;
/// Longest trailer of a body in chunks.
const TRAILER_LENGTH_MAX: usize = HEAD_LENGTH_MAX;

/// Why bytes are no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// They are not what RFC 9112 says.
    NotHttp(String),
    /// They end too early.
    Cut,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHttp(why) => write!(f, "the answer is not HTTP: {why}"),
            Self::Cut => f.write_str("connection closed before the answer was whole"),
        }
    }
}

fn not_http(why: impl fmt::Display) -> Unusable {
    Unusable::NotHttp(why.to_string())
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Head,
    /// So much of the body is to come.
    Body(u64),
    /// The body lasts as long as the connection.
    UntilEnd,
    /// The line with the size of the next chunk.
    Size,
    /// So much of the chunk is to come.
    Chunk(u64),
    /// The end of the line after a chunk.
    ChunkEnd,
    Trailer,
    Done,
}

/// An answer as far as it has come.
#[derive(Debug)]
pub(crate) struct Reading {
    part: Part,
    /// The question was `HEAD`: its answer has no body, whatever it says.
    bare: bool,
    /// Whether anybody will look at the body.
    keeps: bool,
    status: Option<u16>,
    /// The first piece has come.
    begun: bool,
    /// What has come of a head, or of a line.
    text: Vec<u8>,
    /// Where the last line in `text` begins.
    line: usize,
    /// What has come of the trailer in the lines before.
    trailer: usize,
    body: Vec<u8>,
    body_length: usize,
}

impl Reading {
    /// Nothing has come yet.
    pub(crate) fn new(bare: bool, keeps: bool) -> Self {
        Self {
            part: Part::Head,
            bare,
            keeps,
            status: None,
            begun: false,
            text: Vec::new(),
            line: 0,
            trailer: 0,
            body: Vec::new(),
            body_length: 0,
        }
    }

    /// The status, once the head is there.
    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether all has come that is read.
    pub(crate) fn is_done(&self) -> bool {
        self.part == Part::Done
    }

    /// The first [`BODY_LENGTH_MAX`] bytes of the body, if they are kept.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Takes in the next bytes. What comes after the answer is nobody's concern.
    pub(crate) fn take(&mut self, mut piece: &[u8]) -> Result<(), Unusable> {
        while !piece.is_empty() {
            let used = match self.part {
                Part::Head => self.head(piece)?,
                Part::Body(left) => {
                    let (used, left) = self.more_body(piece, left);
                    self.reach(if left == 0 {
                        Part::Done
                    } else {
                        Part::Body(left)
                    });
                    used
                }
                Part::UntilEnd => self.more_body(piece, u64::MAX).0,
                Part::Size => self.size(piece)?,
                Part::Chunk(left) => {
                    let (used, left) = self.more_body(piece, left);
                    self.reach(if left == 0 {
                        Part::ChunkEnd
                    } else {
                        Part::Chunk(left)
                    });
                    used
                }
                Part::ChunkEnd => self.chunk_end(piece)?,
                Part::Trailer => self.trailer(piece)?,
                Part::Done => return Ok(()),
            };
            if self.body_length >= BODY_LENGTH_MAX {
                self.part = Part::Done;
            }
            piece = &piece[used..];
        }
        // Who does not speak HTTP need not be waited for.
        if !std::mem::replace(&mut self.begun, true) && self.part == Part::Head {
            parse(&self.text)?;
        }
        Ok(())
    }

    /// Nothing more will come.
    pub(crate) fn end(&mut self) -> Result<(), Unusable> {
        match self.part {
            Part::Done | Part::UntilEnd => {
                self.part = Part::Done;
                Ok(())
            }
            Part::Head => {
                parse(&self.text)?;
                Err(Unusable::Cut)
            }
            Part::Body(_) | Part::Size | Part::Chunk(_) | Part::ChunkEnd | Part::Trailer => {
                Err(Unusable::Cut)
            }
        }
    }

    fn reach(&mut self, part: Part) {
        self.part = part;
        self.text.clear();
        self.line = 0;
    }

    /// Adds to `text` what belongs to the present line. Says how much, and whether it is whole.
    fn more_line(&mut self, piece: &[u8]) -> (usize, bool) {
        let end = piece.iter().position(|&byte| byte == b'\n');
        let used = end.map_or(piece.len(), |at| at + 1);
        self.text.extend_from_slice(&piece[..used]);
        (used, end.is_some())
    }

    fn line_is_empty(&self) -> bool {
        matches!(&self.text[self.line..], b"\r\n" | b"\n")
    }

    /// Adds to the head, up to the empty line that ends it.
    fn head(&mut self, piece: &[u8]) -> Result<usize, Unusable> {
        let (used, whole) = self.more_line(piece);
        if self.text.len() > HEAD_LENGTH_MAX {
            return Err(not_http(format!(
                "its head is over {HEAD_LENGTH_MAX} bytes"
            )));
        }
        if whole && self.line_is_empty() && self.line > 0 {
            let head = parse(&self.text)?.ok_or_else(|| not_http("its head does not end"))?;
            self.begin(head);
        } else if whole {
            self.line = self.text.len();
        }
        Ok(used)
    }

    /// What comes after a head.
    fn begin(&mut self, head: Head) {
        // Interim answers are none; nobody here asks for another protocol.
        let interim = (100..200).contains(&head.status) && head.status != 101;
        if interim {
            return self.reach(Part::Head);
        }
        self.status = Some(head.status);
        let bodiless = self.bare || matches!(head.status, 101 | 204 | 304);
        self.reach(match head.length {
            _ if bodiless => Part::Done,
            Length::Of(0) => Part::Done,
            Length::Of(length) => Part::Body(length),
            Length::Chunks => Part::Size,
            Length::UntilEnd => Part::UntilEnd,
        });
    }

    /// Adds to the body what it has room for. Says how much was used, and how much is left to come.
    fn more_body(&mut self, piece: &[u8], left: u64) -> (usize, u64) {
        let room = BODY_LENGTH_MAX - self.body_length;
        let used = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(piece.len())
            .min(room);
        if self.keeps {
            self.body.extend_from_slice(&piece[..used]);
        }
        self.body_length += used;
        (used, left - used as u64)
    }

    fn size(&mut self, piece: &[u8]) -> Result<usize, Unusable> {
        let (used, whole) = self.more_line(piece);
        if self.text.len() > SIZE_LENGTH_MAX {
            return Err(not_http("the size of a chunk does not end"));
        }
        // The parser takes no digit at all for nought.
        if !self.text[0].is_ascii_hexdigit() {
            return Err(not_http("a chunk without a size"));
        }
        // Also of half a line: what is no number need not be waited for.
        let size = httparse::parse_chunk_size(&self.text).map_err(not_http)?;
        match size {
            httparse::Status::Complete((_, 0)) => self.reach(Part::Trailer),
            httparse::Status::Complete((_, size)) => self.reach(Part::Chunk(size)),
            httparse::Status::Partial if whole => return Err(not_http("a chunk without a size")),
            httparse::Status::Partial => {}
        }
        Ok(used)
    }

    fn chunk_end(&mut self, piece: &[u8]) -> Result<usize, Unusable> {
        self.text.push(piece[0]);
        match self.text.as_slice() {
            b"\r" => {}
            b"\r\n" => self.reach(Part::Size),
            _ => return Err(not_http("a chunk is longer than it says")),
        }
        Ok(1)
    }

    /// Whatever it says is ignored.
    fn trailer(&mut self, piece: &[u8]) -> Result<usize, Unusable> {
        let (used, whole) = self.more_line(piece);
        if self.trailer + self.text.len() > TRAILER_LENGTH_MAX {
            return Err(not_http(format!(
                "its trailer is over {TRAILER_LENGTH_MAX} bytes"
            )));
        }
        if whole && self.line_is_empty() {
            self.reach(Part::Done);
        } else if whole {
            self.trailer += self.text.len();
            self.text.clear();
        }
        Ok(used)
    }
}

/// What a head says.
struct Head {
    status: u16,
    length: Length,
}

/// How the end of a body is known.
enum Length {
    Of(u64),
    Chunks,
    UntilEnd,
}

/// Takes a head apart; none if it is not whole.
fn parse(text: &[u8]) -> Result<Option<Head>, Unusable> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    if answer.parse(text).map_err(not_http)?.is_partial() {
        return Ok(None);
    }
    let (Some(status), Some(version)) = (answer.code, answer.version) else {
        return Ok(None);
    };
    let length = length_of(version, answer.headers)?;
    Ok(Some(Head { status, length }))
}

/// How the end of a body is known (RFC 9112 6.3).
fn length_of(version: u8, headers: &[httparse::Header<'_>]) -> Result<Length, Unusable> {
    let values = |name: &'static str| {
        let named = headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.flat_map(|header| header.value.split(|&byte| byte == b','))
    };
    if let Some(last) = values("Transfer-Encoding").last() {
        if version == 0 {
            return Err(not_http("chunks in HTTP/1.0"));
        }
        // Also with a length, which counts for nothing then.
        let chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        return Ok(if chunked {
            Length::Chunks
        } else {
            Length::UntilEnd
        });
    }
    let mut length = None;
    for value in values("Content-Length") {
        let number =
            number(value.trim_ascii()).ok_or_else(|| not_http("its length is no number"))?;
        if length.is_some_and(|before| before != number) {
            return Err(not_http("it has two lengths"));
        }
        length = Some(number);
    }
    Ok(length.map_or(Length::UntilEnd, Length::Of))
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of an answer in pieces of this length, after which the connection is closed.
    fn read_in(length: usize, text: &[u8]) -> Result<(u16, Vec<u8>), Unusable> {
        let mut reading = Reading::new(false, true);
        for piece in text.chunks(length) {
            reading.take(piece)?;
            if reading.is_done() {
                break;
            }
        }
        reading.end()?;
        Ok((reading.status().expect("a head"), reading.body().to_vec()))
    }

    /// The same however it is cut.
    fn read(text: &str) -> Result<(u16, String), Unusable> {
        let whole = read_in(usize::MAX, text.as_bytes());
        for length in 1..text.len().min(40) {
            assert_eq!(
                read_in(length, text.as_bytes()),
                whole,
                "{text:?} in pieces of {length}"
            );
        }
        whole.map(|(status, body)| (status, String::from_utf8(body).expect("text")))
    }

    fn good(text: &str, status: u16, body: &str) {
        assert_eq!(read(text), Ok((status, body.to_owned())), "{text:?}");
    }

    fn bad(text: &str) {
        let read = read(text);
        assert!(
            matches!(read, Err(Unusable::NotHttp(_))),
            "{text:?}: {read:?}"
        );
    }

    fn cut(text: &str) {
        assert_eq!(read(text), Err(Unusable::Cut), "{text:?}");
    }

    #[test]
    fn the_end_of_a_body_is_known_by_its_length() {
        good(
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell, and more",
            200,
            "well",
        );
        good("HTTP/1.1 500 No\r\ncontent-length:0\r\n\r\nmore", 500, "");
        good(
            "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\nContent-Length: 4\r\n\r\nwell",
            200,
            "well",
        );
        good("HTTP/1.0 200\nContent-Length: 4\n\nwell", 200, "well");
        for lie in [
            "lots",
            "",
            "-4",
            "+4",
            "4 4",
            "4, 5",
            "18446744073709551616",
            "0x4",
        ] {
            bad(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {lie}\r\n\r\nwell"
            ));
        }
        cut("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwell");
        cut("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nwell");
    }

    #[test]
    fn the_end_of_a_body_is_known_by_that_of_the_connection() {
        good("HTTP/1.1 200 OK\r\n\r\n", 200, "");
        good("HTTP/1.0 200 OK\r\n\r\nwell", 200, "well");
        let squeezed = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n4\r\nwell";
        good(squeezed, 200, "4\r\nwell");
    }

    #[test]
    fn the_end_of_a_body_is_known_by_its_chunks() {
        let chunks = |text: &str| {
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\ntransfer-encoding: Chunked\r\n\r\n{text}"
            )
        };
        good(
            &chunks("4\r\nall \r\nA;x=\"y\"\r\nhands well\r\n0\r\n\r\nmore"),
            200,
            "all hands well",
        );
        good(&chunks("0\r\nX: y\r\nY: z\r\n\r\nmore"), 200, "");
        for lie in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "4\r\nwellx",
            "4\r\nwell\n0\r\n\r\n",
            "11111111111111111\r\n",
        ] {
            bad(&chunks(lie));
        }
        for early in [
            "",
            "4",
            "4\r\n",
            "4\r\nwel",
            "4\r\nwell\r\n",
            "0\r\n",
            "0\r\nX: y\r\n",
        ] {
            cut(&chunks(early));
        }
        bad("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    }

    #[test]
    fn some_answers_have_no_body() {
        good(
            "HTTP/1.1 204 None\r\nContent-Length: 4\r\n\r\nwell",
            204,
            "",
        );
        good(
            "HTTP/1.1 304 Same\r\nTransfer-Encoding: chunked\r\n\r\n",
            304,
            "",
        );
        let mut head = Reading::new(true, true);
        head.take(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
            .expect("a head");
        assert!(head.is_done() && head.status() == Some(200));
    }

    #[test]
    fn interim_answers_are_none() {
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
        good(
            &format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            200,
            "ok",
        );
        cut(interim);
    }

    #[test]
    fn heads_are_believed_when_they_are_whole() {
        for early in [
            "",
            "H",
            "HTTP/1.1 200",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nX: y\r\n",
        ] {
            cut(early);
        }
        for lie in [
            "220 mail ready\r\n",
            "\0",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno header\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
        ] {
            bad(lie);
        }
        let many = "X: y\r\n".repeat(HEADERS_MAX);
        good(&format!("HTTP/1.1 200 OK\r\n{many}\r\n"), 200, "");
        bad(&format!("HTTP/1.1 200 OK\r\n{many}X: y\r\n\r\n"));
    }

    #[test]
    fn what_is_not_http_is_known_by_its_first_piece() {
        let mut reading = Reading::new(false, true);
        assert!(matches!(reading.take(b"220 ma"), Err(Unusable::NotHttp(_))));
    }

    /// What is held in memory of an endless answer, and how long that took to be refused or read.
    fn endless(begin: &str, more: &str) -> (Result<(), Unusable>, usize) {
        let mut reading = Reading::new(false, true);
        let mut ended = reading.take(begin.as_bytes());
        let mut taken = 0;
        while ended.is_ok() && !reading.is_done() && taken < 100 * HEAD_LENGTH_MAX {
            ended = reading.take(more.as_bytes());
            taken += more.len();
            let held = reading.text.len() + reading.body.len();
            assert!(
                held <= HEAD_LENGTH_MAX + BODY_LENGTH_MAX + more.len(),
                "{held}"
            );
        }
        (ended, taken)
    }

    #[test]
    fn nothing_endless_is_held_or_waited_for() {
        let ok = "HTTP/1.1 200 OK\r\n";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (begin, more) in [
            (ok, "X: y\r\n"),
            ("HTTP/1.1 200 OK\r\nX: ", "y"),
            ("HTTP/1.1 200 ", "y"),
            ("", "\r\n"),
            (chunked, "0"),
            (&format!("{chunked}1;"), "x"),
            (&format!("{chunked}0\r\n"), "X: y\r\n"),
            (&format!("{chunked}0\r\n"), "x"),
        ] {
            let (ended, taken) = endless(begin, more);
            assert!(
                matches!(ended, Err(Unusable::NotHttp(_))),
                "{begin:?} {more:?}"
            );
            assert!(taken <= HEAD_LENGTH_MAX + 10, "{begin:?} {more:?}: {taken}");
        }
        for (begin, more) in [(&*format!("{ok}\r\n"), "film"), (chunked, "1\r\nx\r\n")] {
            assert!(endless(begin, more).0.is_ok(), "{begin:?} {more:?}");
        }
    }
}
