//! Requests and one-way messages on the streams of a connection.
//!
//! ```text
//! request   bidirectional   class u8, length u32, body
//! answer                    status u8, length u32, body
//! one-way   unidirectional  class u8, sequence u64, length u32, body
//! ```
//!
//! Numbers are little endian. The length is sent although a stream has an end of its own:
//! a sender that is cancelled half-way ends its stream, and what it sent must not pass
//! for a whole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use evenkeel_core::NodeId;
use quinn::{Connection, RecvStream, SendStream};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::event::DownReason;
use crate::link::down_reason;
use crate::mailbox::Mailbox;

/// The longest body of a request or an answer in bytes: a snapshot of the ledger of a
/// large cluster fits many times.
pub const BODY_MAX: usize = 4 << 20;
/// The longest body of a one-way message in bytes: one waits per peer and class.
pub const ONE_WAY_MAX: usize = 256 << 10;
/// Requests waiting for the daemon; further ones are answered "busy" at once.
pub(crate) const REQUESTS_MAX: usize = 256;
/// How long a stream may take to arrive once it has begun: longer than any retransmission,
/// short enough that a stuck sender does not hold memory.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Which room of the receiver a message is for. Transport does not know the rooms; the
/// daemon names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u8);

/// Why a request failed. Whether the other side acted on it is unknown, except for
/// [`TransportError::NotConnected`], [`TransportError::TooLong`] and [`TransportError::Busy`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransportError {
    /// There is no connection to this peer now.
    #[error("no connection to this node")]
    NotConnected,
    /// The body is longer than allowed.
    #[error("a body of {length} bytes is longer than {max}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The other side has too many requests waiting.
    #[error("the other node is busy")]
    Busy,
    /// The other side took the request and let go of it without an answer.
    #[error("the other node gave no answer")]
    Unanswered,
    /// The connection ended before the answer.
    #[error("the connection ended: {0}")]
    Lost(DownReason),
    /// The answer makes no sense.
    #[error("the answer cannot be read")]
    Garbled,
}

/// A request from a peer.
#[derive(Debug)]
pub struct Request {
    /// Who asks: proved by its certificate.
    pub from: NodeId,
    /// Which room it is for.
    pub class: Class,
    /// What it asks.
    pub body: Bytes,
    /// Where the answer goes. Dropped, it tells the other side that there is none.
    pub reply: Responder,
}

/// Takes the answer to one request.
#[derive(Debug)]
pub struct Responder(oneshot::Sender<Bytes>);

impl Responder {
    /// Whether the other side has stopped waiting: working on the answer is of no use.
    pub fn is_given_up(&self) -> bool {
        self.0.is_closed()
    }

    /// Sends the answer. Never waits; what is longer than [`BODY_MAX`] is not sent, and
    /// the other side hears that there is no answer.
    pub fn send(self, body: Bytes) {
        // The other side may have given up meanwhile.
        let _ = self.0.send(body);
    }
}

/// A one-way message from a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sent it: proved by its certificate.
    pub from: NodeId,
    /// Which room it is for.
    pub class: Class,
    /// What it says.
    pub body: Bytes,
}

/// The daemon's end of the requests.
#[derive(Debug)]
pub struct Requests(pub(crate) mpsc::Receiver<Request>);

impl Requests {
    /// The next request, waiting for it; `None` after the endpoint has been closed.
    pub async fn next(&mut self) -> Option<Request> {
        self.0.recv().await
    }
}

/// What has arrived one-way, the newest per peer and class.
pub(crate) type Inbox = Mailbox<(NodeId, Class), Bytes>;
/// What is to be sent one-way on one connection, the newest per class.
pub(crate) type Outbox = Mailbox<Class, Outgoing>;

/// A one-way message on its way out.
pub(crate) struct Outgoing {
    pub(crate) sequence: u64,
    pub(crate) body: Bytes,
}

/// The daemon's end of the one-way messages: per peer and class only the newest waits.
pub struct Messages(pub(crate) Arc<Inbox>);

impl Messages {
    /// The next message, waiting for it; `None` after the endpoint has been closed.
    pub async fn next(&mut self) -> Option<Message> {
        let ((from, class), body) = self.0.take().await?;
        Some(Message { from, class, body })
    }
}

/// Which one-way messages of one life of a peer are older than what was delivered:
/// streams overtake each other, across a change of connection too.
#[derive(Default)]
pub(crate) struct Newest(Mutex<NewestInner>);

#[derive(Default)]
struct NewestInner {
    life: u64,
    sequences: BTreeMap<Class, u64>,
}

impl Newest {
    fn delivers(&self, life: u64, class: Class, sequence: u64, deliver: impl FnOnce()) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.life != life {
            *inner = NewestInner {
                life,
                sequences: BTreeMap::new(),
            };
        }
        let newest = inner.sequences.entry(class).or_insert(0);
        if sequence > *newest {
            *newest = sequence;
            // Under the lock, or an older one could be put after a newer one.
            deliver();
        }
    }
}

/// What an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Answer,
    Busy,
    Unanswered,
}

impl Status {
    fn to_byte(self) -> u8 {
        match self {
            Self::Answer => 0,
            Self::Busy => 1,
            Self::Unanswered => 2,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Answer),
            1 => Some(Self::Busy),
            2 => Some(Self::Unanswered),
            _ => None,
        }
    }
}

const SHORT_HEADER: usize = 5;
const ONE_WAY_HEADER: usize = 13;

/// First byte and length: the header of requests and answers.
fn short_header(first: u8, body: &Bytes) -> Bytes {
    let mut header = BytesMut::with_capacity(SHORT_HEADER);
    header.put_u8(first);
    header.put_u32_le(length(body));
    header.freeze()
}

/// The callers have checked the bound, which fits.
fn length(body: &Bytes) -> u32 {
    u32::try_from(body.len()).unwrap_or(u32::MAX)
}

/// The first byte and the body, if all of it has arrived.
pub(crate) fn split_short(bytes: Vec<u8>) -> Option<(u8, Bytes)> {
    let bytes = Bytes::from(bytes);
    let header = bytes.get(..SHORT_HEADER)?;
    let length = u32::from_le_bytes(header[1..].try_into().ok()?);
    let first = header[0];
    let body = bytes.slice(SHORT_HEADER..);
    (body.len() == length as usize).then_some((first, body))
}

pub(crate) fn split_one_way(bytes: Vec<u8>) -> Option<(Class, u64, Bytes)> {
    let bytes = Bytes::from(bytes);
    let header = bytes.get(..ONE_WAY_HEADER)?;
    let class = Class(header[0]);
    let sequence = u64::from_le_bytes(header[1..9].try_into().ok()?);
    let length = u32::from_le_bytes(header[9..].try_into().ok()?);
    let body = bytes.slice(ONE_WAY_HEADER..);
    (body.len() == length as usize).then_some((class, sequence, body))
}

pub(crate) fn check_length(body: &Bytes, max: usize) -> Result<(), TransportError> {
    match body.len() {
        length if length > max => Err(TransportError::TooLong { length, max }),
        _ => Ok(()),
    }
}

async fn write(stream: &mut SendStream, header: Bytes, body: Bytes) -> Result<(), DownReason> {
    let broken = |error: &dyn std::fmt::Display| DownReason::Broken(error.to_string());
    let written = stream.write_all_chunks(&mut [header, body]).await;
    written.map_err(|error| match error {
        quinn::WriteError::ConnectionLost(error) => down_reason(&error),
        error => broken(&error),
    })?;
    stream.finish().map_err(|error| broken(&error))
}

/// Asks on a stream of its own and waits for the answer.
pub(crate) async fn ask(
    connection: &Connection,
    class: Class,
    body: Bytes,
) -> Result<Bytes, TransportError> {
    let lost = |error| TransportError::Lost(down_reason(&error));
    let (mut send, mut receive) = connection.open_bi().await.map_err(lost)?;
    let header = short_header(class.0, &body);
    write(&mut send, header, body)
        .await
        .map_err(TransportError::Lost)?;
    let answer =
        receive
            .read_to_end(SHORT_HEADER + BODY_MAX)
            .await
            .map_err(|error| match error {
                quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(error)) => lost(error),
                quinn::ReadToEndError::Read(_) => TransportError::Unanswered,
                quinn::ReadToEndError::TooLong => TransportError::Garbled,
            })?;
    let (status, body) = split_short(answer).ok_or(TransportError::Unanswered)?;
    match Status::from_byte(status) {
        Some(Status::Answer) => Ok(body),
        Some(Status::Busy) => Err(TransportError::Busy),
        Some(Status::Unanswered) => Err(TransportError::Unanswered),
        None => Err(TransportError::Garbled),
    }
}

/// Takes one request in, hands it to the daemon and carries the answer back.
pub(crate) async fn serve_request(
    from: NodeId,
    requests: mpsc::Sender<Request>,
    mut send: SendStream,
    mut receive: RecvStream,
) {
    let arrived = timeout(ARRIVAL, receive.read_to_end(SHORT_HEADER + BODY_MAX)).await;
    let Ok(Ok(bytes)) = arrived else { return };
    let Some((class, body)) = split_short(bytes) else {
        return;
    };
    let (reply, answer) = oneshot::channel();
    let request = Request {
        from,
        class: Class(class),
        body,
        reply: Responder(reply),
    };
    let (status, body) = match requests.try_send(request) {
        Err(mpsc::error::TrySendError::Full(_)) => (Status::Busy, Bytes::new()),
        Err(mpsc::error::TrySendError::Closed(_)) => (Status::Unanswered, Bytes::new()),
        Ok(()) => tokio::select! {
            answer = answer => match answer {
                Ok(body) if body.len() <= BODY_MAX => (Status::Answer, body),
                Ok(_) | Err(_) => (Status::Unanswered, Bytes::new()),
            },
            // The other side has given up, or the connection is gone.
            _ = send.stopped() => return,
        },
    };
    let header = short_header(status.to_byte(), &body);
    // A failure here is the other side's lost connection, which it sees by itself.
    let _ = write(&mut send, header, body).await;
}

/// Takes one one-way message in.
pub(crate) async fn serve_message(
    from: NodeId,
    life: u64,
    newest: Arc<Newest>,
    inbox: Arc<Inbox>,
    mut receive: RecvStream,
) {
    let arrived = timeout(ARRIVAL, receive.read_to_end(ONE_WAY_HEADER + ONE_WAY_MAX)).await;
    let Ok(Ok(bytes)) = arrived else { return };
    let Some((class, sequence, body)) = split_one_way(bytes) else {
        return;
    };
    newest.delivers(life, class, sequence, || inbox.put((from, class), body));
}

/// Sends what is put into the outbox until it or the connection is closed.
pub(crate) async fn drain(outbox: Arc<Outbox>, connection: Connection) {
    while let Some((class, Outgoing { sequence, body })) = outbox.take().await {
        let Ok(mut stream) = connection.open_uni().await else {
            return;
        };
        let mut header = BytesMut::with_capacity(ONE_WAY_HEADER);
        header.put_u8(class.0);
        header.put_u64_le(sequence);
        header.put_u32_le(length(&body));
        if write(&mut stream, header.freeze(), body).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_message_is_no_message() {
        let body = Bytes::from_static(b"all of it");
        let mut whole = short_header(7, &body).to_vec();
        whole.extend_from_slice(&body);
        assert_eq!(split_short(whole.clone()), Some((7, body)));
        for length in 0..whole.len() {
            assert_eq!(split_short(whole[..length].to_vec()), None);
        }
    }

    #[test]
    fn an_overtaken_message_is_dropped() {
        let newest = Newest::default();
        let mut got = Vec::new();
        for (life, sequence) in [(1, 1), (1, 3), (1, 2), (1, 3), (2, 1)] {
            newest.delivers(life, Class(0), sequence, || got.push((life, sequence)));
        }
        assert_eq!(got, [(1, 1), (1, 3), (2, 1)]);
    }
}
