//! `http` and `https`: one new connection per question, as a new visitor makes one. A connection
//! that is kept would be cheaper to ask on, and would hide that the server takes no new ones.
//!
//! Both the connection and the exchange are made here and not by a client library, so that the
//! time of each phase is known, a failure can be named after the phase that it happened in, and a
//! question costs little more than the kernel's part of it (`examples/many.rs`). What a server
//! sends is bounded before it is read ([`message`]).
//!
//! The connection is reset, not closed, when the question ends: a closed one would
//! occupy a port of this node for a minute, and checks make twenty a second.

pub(crate) mod message;

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use evenkeel_config::Method;
use evenkeel_core::Moment;
use evenkeel_host::clock;
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::io::Answer;
use crate::io::connect::{Called, Failure, call, connect, of_stream, watched};
use crate::io::tls::{Tls, remark_on_end};
use crate::machine::Outcome;
use crate::probe::{Http, Millis, Phases, bounded};

pub use message::BODY_LENGTH_MAX;
use message::Reading;

/// Read in one go: most answers are shorter.
const PIECE: usize = 4096;
/// An answer from this machine is looked for after so long, and only waited for if it has not come:
/// those to questions that were asked together are read together, which saves a wake each. So
/// times are not told more exactly than that. Not for checks that are asked often: who wants to
/// know within milliseconds wants to know at once.
const PATIENCE: Duration = Duration::from_millis(1);
const PATIENT_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// A question made ready: what does not change from one asking to the next.
#[derive(Clone)]
pub(crate) struct Page {
    http: Http,
    tls: Option<Tls>,
    request: Vec<u8>,
    is_patient: bool,
}

/// How far a question has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connect,
    Tls,
    Head,
    Body(u16),
}

/// What is known of a question that may be cut off at any moment.
struct Progress {
    stage: Stage,
    since: Moment,
    phases: Phases,
    remark: Option<String>,
}

impl Page {
    /// Makes a question ready that is asked every `interval`, or says why it can never be asked.
    pub(crate) fn new(http: &Http, interval: Duration) -> Result<Self, String> {
        let tls = http.tls.as_ref();
        let tls = tls.map(|expect| Tls::new(expect, &[b"http/1.1"]));
        let tls = tls.transpose()?;
        Ok(Self {
            http: http.clone(),
            tls,
            request: request(http)?,
            is_patient: interval >= PATIENT_INTERVAL_MIN,
        })
    }

    /// Asks once. Returns within `within`, whatever the server does.
    pub(crate) async fn ask(&self, within: Duration) -> Answer {
        let mut progress = Progress::new(clock::now());
        let ended = tokio::time::timeout(within, self.exchange(&mut progress)).await;
        let mut answer = match ended {
            Ok(Ok(reading)) => self.judge(&reading, &progress),
            Ok(Err(failure)) => failed(failure, &progress),
            Err(_) => progress.silence(within),
        };
        answer.phases = progress.phases;
        answer
    }

    async fn exchange(&self, progress: &mut Progress) -> Result<Reading, Failure> {
        let Some(tls) = &self.tls else {
            return self.exchange_plainly(progress).await;
        };
        let stream = connect(self.http.connect).await?;
        progress.reach(Stage::Tls);
        let connected = tls.connector.connect(tls.name.clone(), stream).await;
        let mut stream = connected.map_err(|broken| of_tls(&broken))?;
        let chain = stream.get_ref().1.peer_certificates();
        let first = chain.and_then(|chain| chain.first());
        progress.remark = first.and_then(|first| remark_on_end(first, SystemTime::now()));
        progress.reach(Stage::Head);
        let said = async {
            stream.write_all(&self.request).await?;
            stream.flush().await
        };
        said.await.map_err(of_stream)?;
        self.read(stream, self.reading(), progress).await
    }

    async fn exchange_plainly(&self, progress: &mut Progress) -> Result<Reading, Failure> {
        let address = self.http.connect;
        let connected = || progress.reach(Stage::Head);
        let mut reading = self.reading();
        let stream = match call(address, &self.request, connected).await? {
            Called::Watched(stream) => stream,
            Called::Unwatched(socket) => {
                if self.is_patient {
                    tokio::time::sleep(PATIENCE).await;
                    glance(&socket, &mut reading, progress)?;
                    if reading.is_done() {
                        return Ok(reading);
                    }
                }
                watched(address, socket)?
            }
        };
        self.read(stream, reading, progress).await
    }

    fn reading(&self) -> Reading {
        Reading::new(self.http.method == Method::Head, self.http.body.is_some())
    }

    /// Reads what is answered, to the end.
    async fn read(
        &self,
        mut stream: impl AsyncRead + Unpin,
        mut reading: Reading,
        progress: &mut Progress,
    ) -> Result<Reading, Failure> {
        while !reading.is_done() {
            let more = std::future::poll_fn(|context| {
                // Not held while nothing comes: there may be thousands of questions.
                let mut piece = [0; PIECE];
                let mut piece = ReadBuf::new(&mut piece);
                ready!(Pin::new(&mut stream).poll_read(context, &mut piece)).map_err(of_stream)?;
                Poll::Ready(hear(piece.filled(), &mut reading, progress))
            });
            more.await?;
        }
        Ok(reading)
    }

    fn judge(&self, reading: &Reading, progress: &Progress) -> Answer {
        // It is whole, so it has one.
        let status = reading.status().unwrap_or_default();
        let body = reading.body();
        let took = format!(
            "{} ms ({})",
            Millis(progress.phases.total()),
            progress.phases
        );
        let remark = progress
            .remark
            .as_ref()
            .map_or_else(String::new, |text| format!(", {text}"));
        if !self.http.statuses.contains(status) {
            return Answer::new(Outcome::Bad, format!("HTTP {status} in {took}{remark}"));
        }
        match &self.http.body {
            Some(text) if !contains(body, text.as_bytes()) => {
                let wanted = bounded(text);
                let read = body.len();
                let detail = format!("HTTP {status} without {wanted:?} in {read} bytes, {took}");
                Answer::new(Outcome::Bad, detail)
            }
            _ => Answer::new(Outcome::Good, format!("HTTP {status} in {took}{remark}")),
        }
    }
}

/// The request, or why it cannot be made.
fn request(http: &Http) -> Result<Vec<u8>, String> {
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let (host, path) = (&http.host, &http.path);
    // A line of its own in one of them would be a second request.
    if !is_word(host) || !is_word(path) || !path.starts_with('/') {
        return Err(format!("the request cannot be made: {path:?} of {host:?}"));
    }
    let method = http.method.as_str();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: evenkeel-check\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    Ok(request.into_bytes())
}

/// Reads what has come already, once: who sends without end must not hold up others.
fn glance(
    mut socket: &Socket,
    reading: &mut Reading,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let mut piece = [0; PIECE];
    match socket.read(&mut piece) {
        Ok(length) => hear(&piece[..length], reading, progress),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(of_stream(error)),
    }
}

/// Takes in the next bytes of an answer; none are the end of the connection.
fn hear(piece: &[u8], reading: &mut Reading, progress: &mut Progress) -> Result<(), Failure> {
    let taken = match piece {
        [] => reading.end(),
        more => reading.take(more),
    };
    if let (Stage::Head, Some(status)) = (progress.stage, reading.status()) {
        progress.reach(Stage::Body(status));
    }
    taken.map_err(|why| Failure::Theirs(why.to_string()))?;
    if reading.is_done() {
        progress.end();
    }
    Ok(())
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

impl Progress {
    fn new(now: Moment) -> Self {
        Self {
            stage: Stage::Connect,
            since: now,
            phases: Phases::default(),
            remark: None,
        }
    }

    /// Ends the present phase and begins the next.
    fn reach(&mut self, stage: Stage) {
        self.end();
        self.stage = stage;
    }

    fn end(&mut self) {
        let now = clock::now();
        let took = Some(now.since(self.since));
        self.since = now;
        match self.stage {
            Stage::Connect => self.phases.connect = took,
            Stage::Tls => self.phases.tls = took,
            Stage::Head => self.phases.first_byte = took,
            Stage::Body(_) => self.phases.body = took,
        }
    }

    fn silence(&self, within: Duration) -> Answer {
        let within = Millis(within);
        let after = self.after();
        match self.stage {
            Stage::Connect => Answer::new(
                Outcome::Silent,
                format!("no connection within {within} ms{after}"),
            ),
            Stage::Tls => Answer::new(
                Outcome::Silent,
                format!("no TLS handshake within {within} ms{after}"),
            ),
            Stage::Head => Answer::new(
                Outcome::Silent,
                format!("no answer within {within} ms{after}"),
            ),
            Stage::Body(status) => {
                let detail = format!("HTTP {status}, but no whole body within {within} ms{after}");
                Answer::new(Outcome::Silent, detail)
            }
        }
    }

    /// The phases that came before, in brackets.
    fn after(&self) -> String {
        let phases = self.phases.to_string();
        if phases.is_empty() {
            phases
        } else {
            format!(" ({phases})")
        }
    }
}

/// What a failure means that far.
fn failed(failure: Failure, progress: &Progress) -> Answer {
    let status = match progress.stage {
        Stage::Body(status) => format!("HTTP {status}, but "),
        Stage::Connect | Stage::Tls | Stage::Head => String::new(),
    };
    failure.answer(&status, &progress.after())
}

/// What a broken handshake means. The library wraps its own errors into those of I/O.
pub(crate) fn of_tls(broken: &io::Error) -> Failure {
    match broken
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::InvalidCertificate(why)) => {
            Failure::Theirs(format!("certificate refused: {why}"))
        }
        Some(other) => Failure::Theirs(format!("TLS fails: {other}")),
        None => Failure::Theirs(format!("TLS breaks off: {broken}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_config::StatusSet;

    #[test]
    fn a_request_is_one_request() {
        let page = |host: &str, path: &str| Http {
            connect: ([192, 0, 2, 1], 80).into(),
            method: Method::Head,
            tls: None,
            host: host.to_owned(),
            path: path.to_owned(),
            statuses: StatusSet::default(),
            body: None,
        };
        let good = request(&page("www.example.com:8080", "/a?b=\"c\"")).expect("it can be made");
        let text = String::from_utf8(good).expect("text");
        assert!(
            text.starts_with("HEAD /a?b=\"c\" HTTP/1.1\r\nHost: www.example.com:8080\r\n"),
            "{text:?}"
        );
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n"), "{text:?}");
        for (host, path) in [
            ("", "/"),
            ("a", ""),
            ("a", "*"),
            ("a b", "/"),
            ("a", "/ b"),
            ("a\r\nX: y", "/"),
            ("a", "/\r\n\r\nGET /"),
            ("a", "/ä"),
        ] {
            request(&page(host, path)).expect_err(path);
        }
    }
}
