//! `http` and `https`: one new connection per question, as a new visitor makes one.
//!
//! The connection is made here and not by a client library, so that the time of each
//! phase is known and a failure can be named after the phase that it happened in. What
//! a server sends is bounded before it is read: head, number of headers, body.
//!
//! The connection is reset, not closed, when the question ends: a closed one would
//! occupy a port of this node for a minute, and checks make twenty a second.

use std::future::Future;
use std::io;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use evenkeel_core::Moment;
use evenkeel_host::clock;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::io::Answer;
use crate::io::connect::{Curt, Failure, connect};
use crate::io::tls::{Tls, remark_on_end};
use crate::machine::Outcome;
use crate::probe::{Http, Millis, Phases, bounded};

/// What is read of a body: health pages are short, and no check shall move a film
/// every 50 ms.
pub const BODY_LENGTH_MAX: usize = 64 * 1024;
/// Longest status line and headers together, and their number.
const HEAD_LENGTH_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;

/// A question made ready: what does not change from one asking to the next.
#[derive(Clone)]
pub(crate) struct Page {
    http: Http,
    tls: Option<Tls>,
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
    /// Makes a question ready, or says why it can never be asked.
    pub(crate) fn new(http: &Http) -> Result<Self, String> {
        let tls = http.tls.as_ref();
        let tls = tls.map(|expect| Tls::new(expect, &[b"http/1.1"]));
        let tls = tls.transpose()?;
        let page = Self {
            http: http.clone(),
            tls,
        };
        page.request()
            .map_err(|refused| format!("the request cannot be made: {refused}"))?;
        Ok(page)
    }

    /// Asks once. Returns within `within`, whatever the server does.
    pub(crate) async fn ask(&self, within: Duration) -> Answer {
        let mut progress = Progress::new(clock::now());
        let ended = tokio::time::timeout(within, self.exchange(&mut progress)).await;
        let mut answer = match ended {
            Ok(Ok((status, body))) => self.judge(status, &body, &progress),
            Ok(Err(failure)) => failed(failure, &progress),
            Err(_) => progress.silence(within),
        };
        answer.phases = progress.phases;
        answer
    }

    async fn exchange(&self, progress: &mut Progress) -> Result<(u16, Vec<u8>), Failure> {
        let stream = connect(self.http.connect).await?;
        match &self.tls {
            None => {
                progress.reach(Stage::Head);
                self.talk(Curt(stream), progress).await
            }
            Some(tls) => {
                progress.reach(Stage::Tls);
                let connected = tls.connector.connect(tls.name.clone(), stream).await;
                let stream = connected.map_err(|broken| of_tls(&broken))?;
                let certificate = stream
                    .get_ref()
                    .1
                    .peer_certificates()
                    .and_then(|chain| chain.first());
                progress.remark =
                    certificate.and_then(|first| remark_on_end(first, SystemTime::now()));
                progress.reach(Stage::Head);
                self.talk(stream, progress).await
            }
        }
    }

    async fn talk<S>(&self, stream: S, progress: &mut Progress) -> Result<(u16, Vec<u8>), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let request = self
            .request()
            .map_err(|refused| Failure::Ours(refused.to_string()))?;
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(HEAD_LENGTH_MAX)
            .max_headers(HEADERS_MAX);
        let (mut sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|broken| of_http(&broken))?;
        let work = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|broken| of_http(&broken))?;
            let status = answer.status().as_u16();
            progress.reach(Stage::Body(status));
            let body = read_body(answer).await?;
            progress.end();
            Ok((status, body))
        };
        alongside(connection, work).await
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
        Request::builder()
            .method(self.http.method.as_str())
            .uri(self.http.path.as_str())
            .header(HOST, self.http.host.as_str())
            .header(USER_AGENT, "evenkeel-check")
            .header(ACCEPT, "*/*")
            .header(CONNECTION, "close")
            .body(Empty::new())
    }

    fn judge(&self, status: u16, body: &[u8], progress: &Progress) -> Answer {
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

/// What is read of a body, up to its end or [`BODY_LENGTH_MAX`].
async fn read_body(answer: Response<Incoming>) -> Result<Vec<u8>, Failure> {
    let mut body = answer.into_body();
    let mut read = Vec::new();
    while read.len() < BODY_LENGTH_MAX {
        match body.frame().await {
            None => break,
            Some(Err(broken)) => return Err(of_http(&broken)),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let room = BODY_LENGTH_MAX - read.len();
                    read.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
        }
    }
    Ok(read)
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

/// Drives a connection for as long as the work on it takes, without a task of its own.
async fn alongside<T>(connection: impl Future, work: impl Future<Output = T>) -> T {
    let mut connection = std::pin::pin!(connection);
    let mut work = std::pin::pin!(work);
    let mut open = true;
    std::future::poll_fn(|context| {
        // Its errors reach the work as well.
        open = open && connection.as_mut().poll(context).is_pending();
        match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
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

fn of_http(broken: &hyper::Error) -> Failure {
    let text = if broken.is_incomplete_message() {
        "connection closed before the answer was whole".to_owned()
    } else if broken.is_parse() {
        format!("the answer is not HTTP: {broken}")
    } else {
        match std::error::Error::source(broken) {
            Some(source) => format!("{broken}: {source}"),
            None => broken.to_string(),
        }
    };
    Failure::Theirs(text)
}
