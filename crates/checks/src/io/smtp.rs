//! `smtp`: one new connection per question; greeting, EHLO, perhaps STARTTLS and EHLO again,
//! QUIT (RFC 5321, RFC 3207).
//!
//! The answer is known before QUIT; that is said, and its answer waited for within the time of
//! the question, because a connection that breaks off is a line in the server's log each time.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use evenkeel_core::Moment;
use evenkeel_host::clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::io::Answer;
use crate::io::connect::{Failure, connect, of_stream};
use crate::io::http::of_tls;
use crate::io::tls::{Tls, remark_on_end};
use crate::machine::Outcome;
use crate::probe::{Millis, Phases, Smtp, bounded};

/// The longest reply of all its lines (RFC 5321 4.5.3.1.5 allows 512 bytes each).
const REPLY_LENGTH_MAX: usize = 16 * 1024;
/// Read in one go.
const PIECE: usize = 1024;

/// A question made ready.
#[derive(Clone)]
pub(crate) struct Mail {
    at: SocketAddr,
    tls: Option<Tls>,
}

/// How far a question has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connect,
    Greeting,
    Hello,
    Starttls,
    Tls,
    Quit,
}

struct Progress {
    stage: Stage,
    since: Moment,
    phases: Phases,
    remark: Option<String>,
}

impl Progress {
    fn reach(&mut self, stage: Stage) {
        let now = clock::now();
        let took = now.since(self.since);
        self.since = now;
        match self.stage {
            Stage::Connect => self.phases.connect = Some(took),
            Stage::Greeting => self.phases.first_byte = Some(took),
            Stage::Tls => self.phases.tls = Some(took),
            Stage::Hello | Stage::Starttls => *self.phases.body.get_or_insert_default() += took,
            Stage::Quit => {}
        }
        self.stage = stage;
    }

    fn good(&self) -> Answer {
        let remark = self.remark.as_ref();
        let remark = remark.map_or_else(String::new, |text| format!(", {text}"));
        let total = Millis(self.phases.total());
        let detail = format!("greets in {total} ms ({}){remark}", self.phases);
        Answer::new(Outcome::Good, detail)
    }

    fn silence(&self, within: Duration) -> Answer {
        let what = match self.stage {
            Stage::Connect => "no connection",
            Stage::Greeting => "no greeting",
            Stage::Hello => "no answer to EHLO",
            Stage::Starttls => "no answer to STARTTLS",
            Stage::Tls => "no TLS handshake",
            Stage::Quit => return self.good(),
        };
        let detail = format!("{what} within {} ms ({})", Millis(within), self.phases);
        Answer::new(Outcome::Silent, detail)
    }
}

impl Mail {
    /// Makes a question ready, or says why it can never be asked.
    pub(crate) fn new(smtp: &Smtp) -> Result<Self, String> {
        let tls = smtp.starttls.as_ref();
        Ok(Self {
            at: smtp.connect,
            tls: tls.map(|expect| Tls::new(expect, &[])).transpose()?,
        })
    }

    /// Asks once. Returns within `within`, whatever the server does.
    pub(crate) async fn ask(&self, within: Duration) -> Answer {
        let mut progress = Progress {
            stage: Stage::Connect,
            since: clock::now(),
            phases: Phases::default(),
            remark: None,
        };
        let ended = tokio::time::timeout(within, self.exchange(&mut progress)).await;
        let mut answer = match ended {
            Ok(Ok(())) => progress.good(),
            Ok(Err(failure)) => failure.answer("", ""),
            Err(_) => progress.silence(within),
        };
        answer.phases = progress.phases;
        answer
    }

    async fn exchange(&self, progress: &mut Progress) -> Result<(), Failure> {
        let stream = connect(self.at).await?;
        let name = literal(stream.local_addr().map_err(of_stream)?.ip());
        progress.reach(Stage::Greeting);
        let mut plain = Talk {
            stream,
            read: Vec::new(),
        };
        plain.expect(220, "greets").await?;
        progress.reach(Stage::Hello);
        plain.say(&format!("EHLO {name}\r\n")).await?;
        plain.expect(250, "answers EHLO").await?;
        let Some(tls) = &self.tls else {
            progress.reach(Stage::Quit);
            return plain.quit().await;
        };
        progress.reach(Stage::Starttls);
        plain.say("STARTTLS\r\n").await?;
        plain.expect(220, "answers STARTTLS").await?;
        if !plain.read.is_empty() {
            let why = "it speaks on without TLS after STARTTLS";
            return Err(Failure::Theirs(why.to_owned()));
        }
        progress.reach(Stage::Tls);
        let connected = tls.connector.connect(tls.name.clone(), plain.stream).await;
        let stream = connected.map_err(|broken| of_tls(&broken))?;
        let chain = stream.get_ref().1.peer_certificates();
        let first = chain.and_then(|chain| chain.first());
        progress.remark = first.and_then(|first| remark_on_end(first, SystemTime::now()));
        progress.reach(Stage::Hello);
        let mut sealed = Talk {
            stream,
            read: Vec::new(),
        };
        sealed.say(&format!("EHLO {name}\r\n")).await?;
        sealed.expect(250, "answers EHLO").await?;
        progress.reach(Stage::Quit);
        sealed.quit().await
    }
}

/// Who we are, without a name that would have to be looked up (RFC 5321 4.1.3).
fn literal(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    }
}

/// The conversation up to the end of the first EHLO, on any stream. For `crate::fuzzing`.
pub(crate) async fn greet(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Failure> {
    let mut talk = Talk {
        stream,
        read: Vec::new(),
    };
    talk.expect(220, "greets").await?;
    talk.say("EHLO [192.0.2.1]\r\n").await?;
    talk.expect(250, "answers EHLO").await?;
    talk.quit().await
}

/// One side of the conversation.
struct Talk<S> {
    stream: S,
    /// What has come and is not taken yet.
    read: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    async fn say(&mut self, line: &str) -> Result<(), Failure> {
        self.stream
            .write_all(line.as_bytes())
            .await
            .map_err(of_stream)?;
        self.stream.flush().await.map_err(of_stream)
    }

    /// Takes the next reply, which must have this code.
    async fn expect(&mut self, code: u16, what: &str) -> Result<(), Failure> {
        let (found, text) = self.reply().await?;
        if found == code {
            return Ok(());
        }
        Err(Failure::Theirs(format!("it {what} with {found} {text}")))
    }

    /// The code of a reply and the text of its last line.
    async fn reply(&mut self) -> Result<(u16, String), Failure> {
        let mut taken = 0;
        let mut first = None;
        loop {
            let line = self.line().await?;
            taken += line.len();
            let (code, text) = parse(&line).ok_or_else(|| {
                let shown = String::from_utf8_lossy(&line).into_owned();
                Failure::Theirs(format!(
                    "the answer is not SMTP: {:?}",
                    bounded(shown.trim())
                ))
            })?;
            let begun = *first.get_or_insert(code);
            if begun != code {
                let why = format!("a reply begins with {begun} and goes on with {code}");
                return Err(Failure::Theirs(why));
            }
            match text.first() {
                Some(b'-') if taken < REPLY_LENGTH_MAX => {}
                Some(b'-') => {
                    let why = format!("a reply is longer than {REPLY_LENGTH_MAX} bytes");
                    return Err(Failure::Theirs(why));
                }
                Some(_) | None => {
                    let text = text.get(1..).unwrap_or_default();
                    return Ok((code, bounded(String::from_utf8_lossy(text).trim())));
                }
            }
        }
    }

    /// Takes a line with its end.
    async fn line(&mut self) -> Result<Vec<u8>, Failure> {
        let mut looked = 0;
        loop {
            if let Some(end) = self.read[looked..].iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(looked + end + 1);
                return Ok(std::mem::replace(&mut self.read, rest));
            }
            looked = self.read.len();
            if looked >= REPLY_LENGTH_MAX {
                let why = format!("a line is longer than {REPLY_LENGTH_MAX} bytes");
                return Err(Failure::Theirs(why));
            }
            let mut piece = [0; PIECE];
            let length = self.stream.read(&mut piece).await.map_err(of_stream)?;
            if length == 0 {
                let shown = String::from_utf8_lossy(&self.read).into_owned();
                let after = match shown.as_str() {
                    "" => String::new(),
                    shown => format!(" after {:?}", bounded(shown)),
                };
                return Err(Failure::Theirs(format!("connection closed{after}")));
            }
            self.read.extend_from_slice(&piece[..length]);
        }
    }

    /// Takes leave. How that is answered is no matter.
    async fn quit(&mut self) -> Result<(), Failure> {
        if self.say("QUIT\r\n").await.is_ok() {
            let _ = self.reply().await;
        }
        Ok(())
    }
}

/// The code of a line, and what follows it: `-` on all lines but the last.
fn parse(line: &[u8]) -> Option<(u16, &[u8])> {
    let line = line.trim_ascii_end();
    let (code, text) = line.split_at_checked(3)?;
    let digits = code.iter().all(u8::is_ascii_digit);
    let follows = matches!(text.first(), None | Some(b' ' | b'-'));
    let code = std::str::from_utf8(code).ok()?.parse().ok()?;
    (digits && follows).then_some((code, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by fuzzing: the last line alone was believed (RFC 5321 4.2.1: all have one code).
    #[tokio::test]
    async fn a_reply_of_two_codes_is_none() {
        let said = |text: &'static str| async move {
            let mut talk = Talk {
                stream: tokio::io::join(text.as_bytes(), tokio::io::sink()),
                read: Vec::new(),
            };
            talk.expect(220, "greets").await.is_ok()
        };
        assert!(said("220-one\r\n220 two\r\n").await);
        assert!(!said("228-one\r\n220 two\r\n").await);
        assert!(!said("220-one\r\n554 two\r\n").await);
    }

    #[test]
    fn lines_are_told_from_what_is_none() {
        assert_eq!(
            parse(b"220 mail ready\r\n"),
            Some((220, &b" mail ready"[..]))
        );
        assert_eq!(parse(b"250-SIZE\r\n"), Some((250, &b"-SIZE"[..])));
        assert_eq!(parse(b"250\n"), Some((250, &b""[..])));
        for line in [
            &b"HTTP/1.1 200"[..],
            b"22",
            b"+20 x",
            b"2200 x",
            b"\xff\xff\xff x",
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }
}
