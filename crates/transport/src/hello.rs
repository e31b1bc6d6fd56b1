//! The first words on a connection: each side says who it is in this life, and the
//! daemon of each decides whether to go on.
//!
//! ```text
//! dialler  -> length u32, form u8, life u64, the daemon's hello
//! acceptor -> the same, if it admits the dialler
//! dialler  -> one byte, if it admits the acceptor
//! ```
//!
//! Whoever does not admit the other closes the connection with the reason in words.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use evenkeel_core::NodeId;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::certificate::{CertificateFault, Presented};
use crate::endpoint::Shared;
use crate::event::RefusedBy;
use crate::seal::LeaseKeys;
use crate::tls;

/// The longest hello of a daemon in bytes.
pub(crate) const HELLO_MAX: usize = 4096;
/// The longest reason in bytes that is sent to the other side or believed from it.
const REASON_MAX: usize = 256;
/// Version of the hello's form.
const FORM: u8 = 1;
/// Form and life.
const PREFIX: usize = 9;
/// The dialler's last word.
const ADMITTED: u8 = 0xad;
/// Label of the exporter (RFC 8446, 7.5) for the keys of lease datagrams.
const LABEL: &[u8] = b"EXPORTER-evenkeel-lease-v1";

/// Why a connection is closed, as QUIC's application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// The process ends.
    Shutdown,
    /// A newer connection has taken over.
    Replaced,
    /// The daemon or the transport did not admit the other side.
    Refused,
    /// The node is not in the file any more, or its certificate has been revoked.
    Removed,
}

impl Close {
    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            // 0 is what QUIC says when a connection is merely dropped.
            Self::Shutdown => 1,
            Self::Replaced => 2,
            Self::Refused => 3,
            Self::Removed => 4,
        })
    }
}

/// Why an attempt came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Failure {
    /// One side would not have the other.
    #[error("refused by {by:?}: {reason}")]
    Refused {
        peer: Option<NodeId>,
        by: RefusedBy,
        reason: String,
    },
    /// No answer, or the connection was lost: nothing that people need to hear of.
    #[error("{0}")]
    Lost(String),
}

/// A connection whose both ends want it.
pub(crate) struct Admitted {
    pub(crate) connection: Connection,
    pub(crate) presented: Presented,
    /// Who dialled it.
    pub(crate) dialler: NodeId,
    /// The life of the peer's endpoint.
    pub(crate) life: u64,
    pub(crate) keys: LeaseKeys,
    pub(crate) hello: Bytes,
}

/// What one side says.
struct Hello {
    life: u64,
    body: Bytes,
}

/// Text fit for a log line and a close frame: bounded and without control characters.
pub(crate) fn tidy(reason: &str) -> String {
    let printable: String = reason
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut end = printable.len().min(REASON_MAX);
    while !printable.is_char_boundary(end) {
        end -= 1;
    }
    printable[..end].to_owned()
}

/// What a lost connection means for the attempt.
pub(crate) fn failure(
    peer: Option<NodeId>,
    verdict: Option<&CertificateFault>,
    error: &ConnectionError,
) -> Failure {
    if let Some(fault) = verdict {
        return Failure::Refused {
            peer,
            by: RefusedBy::Us,
            reason: fault.to_string(),
        };
    }
    let them = |reason: &str| Failure::Refused {
        peer,
        by: RefusedBy::Them,
        reason: tidy(reason),
    };
    match error {
        ConnectionError::ConnectionClosed(close) if is_tls(u64::from(close.error_code)) => {
            them(tls::told(&String::from_utf8_lossy(&close.reason)))
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == Close::Refused.code() => {
            them(&String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::TransportError(error) if is_tls(u64::from(error.code)) => {
            let reason = tidy(&error.to_string());
            Failure::Refused {
                peer,
                by: RefusedBy::Us,
                reason,
            }
        }
        ConnectionError::VersionMismatch => {
            let reason = "it speaks another version of QUIC".to_owned();
            Failure::Refused {
                peer,
                by: RefusedBy::Us,
                reason,
            }
        }
        error => Failure::Lost(error.to_string()),
    }
}

/// RFC 9001, 4.8: codes 0x100 to 0x1ff carry alerts of TLS.
fn is_tls(code: u64) -> bool {
    (0x100..0x200).contains(&code)
}

/// Whose certificate the handshake has proved. The verifier has judged it already; here
/// it is only read again.
pub(crate) fn proved(shared: &Shared, connection: &Connection) -> Result<Presented, Failure> {
    let chain = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let presented = chain
        .as_ref()
        .and_then(|chain| chain.first())
        .and_then(|certificate| shared.identity().authority.check(certificate).ok());
    presented.ok_or_else(|| Failure::Lost("no certificate was presented".into()))
}

/// The dialler's part. The caller sets the deadline.
pub(crate) async fn call(shared: &Shared, connection: Connection) -> Result<Admitted, Failure> {
    let presented = proved(shared, &connection)?;
    let peer = presented.id();
    let lost = |error: ConnectionError| failure(Some(peer), None, &error);
    let (mut send, mut receive) = connection.open_bi().await.map_err(lost)?;
    say(&mut send, shared)
        .await
        .map_err(|error| broken(&connection, peer, error))?;
    let theirs = hear(&mut receive)
        .await
        .map_err(|error| broken(&connection, peer, error))?;
    admit(shared, &connection, peer, &theirs)?;
    let keys = derive(shared, &connection, &presented)?;
    let last = send
        .write_all(&[ADMITTED])
        .await
        .map_err(|error| error.to_string());
    let last = last.and_then(|()| send.finish().map_err(|error| error.to_string()));
    last.map_err(|error| broken(&connection, peer, error))?;
    let Hello { life, body: hello } = theirs;
    Ok(Admitted {
        connection,
        presented,
        dialler: shared.id(),
        life,
        keys,
        hello,
    })
}

/// The acceptor's part. The caller sets the deadline.
pub(crate) async fn answer(shared: &Shared, connection: Connection) -> Result<Admitted, Failure> {
    let presented = proved(shared, &connection)?;
    let peer = presented.id();
    let lost = |error: ConnectionError| failure(Some(peer), None, &error);
    let (mut send, mut receive) = connection.accept_bi().await.map_err(lost)?;
    let theirs = hear(&mut receive)
        .await
        .map_err(|error| broken(&connection, peer, error))?;
    admit(shared, &connection, peer, &theirs)?;
    let keys = derive(shared, &connection, &presented)?;
    say(&mut send, shared)
        .await
        .map_err(|error| broken(&connection, peer, error))?;
    let mut last = [0];
    let heard = receive
        .read_exact(&mut last)
        .await
        .map_err(|error| error.to_string());
    heard.map_err(|error| broken(&connection, peer, error))?;
    if last != [ADMITTED] {
        return Err(Failure::Lost(
            "the dialler's last word is not understood".into(),
        ));
    }
    let Hello { life, body: hello } = theirs;
    Ok(Admitted {
        connection,
        presented,
        dialler: peer,
        life,
        keys,
        hello,
    })
}

/// A failed stream: what matters is why the connection ended, if it did.
fn broken(connection: &Connection, peer: NodeId, error: String) -> Failure {
    match connection.close_reason() {
        Some(reason) => failure(Some(peer), None, &reason),
        None => Failure::Lost(error),
    }
}

fn admit(
    shared: &Shared,
    connection: &Connection,
    peer: NodeId,
    theirs: &Hello,
) -> Result<(), Failure> {
    (shared.admission)(peer, &theirs.body).map_err(|reason| {
        let reason = tidy(&reason);
        connection.close(Close::Refused.code(), reason.as_bytes());
        Failure::Refused {
            peer: Some(peer),
            by: RefusedBy::Us,
            reason,
        }
    })
}

async fn say(send: &mut SendStream, shared: &Shared) -> Result<(), String> {
    let hello = shared.hello();
    let mut frame = BytesMut::with_capacity(4 + PREFIX + hello.len());
    frame.put_u32_le(u32::try_from(PREFIX + hello.len()).unwrap_or(u32::MAX));
    frame.put_u8(FORM);
    frame.put_u64_le(shared.life);
    frame.put_slice(&hello);
    send.write_all(&frame)
        .await
        .map_err(|error| error.to_string())
}

async fn hear(receive: &mut RecvStream) -> Result<Hello, String> {
    let mut length = [0; 4];
    receive
        .read_exact(&mut length)
        .await
        .map_err(|error| error.to_string())?;
    let mut frame = vec![0; length_of(length)?];
    receive
        .read_exact(&mut frame)
        .await
        .map_err(|error| error.to_string())?;
    Hello::of(frame)
}

/// How long a frame says that it is, if one may be so long.
fn length_of(said: [u8; 4]) -> Result<usize, String> {
    let length = u32::from_le_bytes(said) as usize;
    if !(PREFIX..=PREFIX + HELLO_MAX).contains(&length) {
        return Err(format!("a hello of {length} bytes is not understood"));
    }
    Ok(length)
}

impl Hello {
    /// From a frame without its length.
    fn of(frame: Vec<u8>) -> Result<Self, String> {
        let frame = Bytes::from(frame);
        let (form, life) = frame
            .get(..PREFIX)
            .and_then(<[u8]>::split_first)
            .ok_or_else(|| "a hello that is cut off".to_owned())?;
        if *form != FORM {
            return Err(format!("a hello of form {form} is not understood"));
        }
        let mut eight = [0; 8];
        eight.copy_from_slice(life);
        Ok(Self {
            life: u64::from_le_bytes(eight),
            body: frame.slice(PREFIX..),
        })
    }
}

/// What a stream of a peer begins with: the length, then the frame. For `crate::fuzzing`.
pub(crate) fn read(stream: &[u8]) -> Result<(u64, Bytes), String> {
    let (length, rest) = stream
        .split_first_chunk()
        .ok_or_else(|| "no length".to_owned())?;
    let frame = rest
        .get(..length_of(*length)?)
        .ok_or_else(|| "a hello that is cut off".to_owned())?;
    Hello::of(frame.to_vec()).map(|hello| (hello.life, hello.body))
}

/// The keys for lease datagrams: bound to this connection and to both nodes.
fn derive(
    shared: &Shared,
    connection: &Connection,
    presented: &Presented,
) -> Result<LeaseKeys, Failure> {
    let (ours, peer) = (shared.id(), presented.id());
    let (low, high) = (ours.min(peer), ours.max(peer));
    let mut context = [0; 16];
    context[..8].copy_from_slice(&low.0.to_be_bytes());
    context[8..].copy_from_slice(&high.0.to_be_bytes());
    // Key from low to high, key from high to low, id: of the id alone nothing follows.
    let mut material = [0; 72];
    connection
        .export_keying_material(&mut material, LABEL, &context)
        .map_err(|_| Failure::Lost("the TLS exporter gave no keys".into()))?;
    let mut keys = LeaseKeys {
        peer,
        id: 0,
        seal: [0; 32],
        open: [0; 32],
        proof: presented.fingerprint,
    };
    let (upward, rest) = material.split_at(32);
    let (downward, id) = rest.split_at(32);
    let (seal, open) = if ours == low {
        (upward, downward)
    } else {
        (downward, upward)
    };
    keys.seal.copy_from_slice(seal);
    keys.open.copy_from_slice(open);
    let mut eight = [0; 8];
    eight.copy_from_slice(id);
    keys.id = u64::from_le_bytes(eight);
    Ok(keys)
}

/// Tells the daemon and the log of an attempt that failed.
pub(crate) fn report(shared: &Arc<Shared>, remote: SocketAddr, failure: &Failure) {
    match failure {
        Failure::Refused { peer, by, reason } => {
            shared.refused(*peer, remote, *by, reason.clone());
        }
        Failure::Lost(why) => tracing::debug!(%remote, why, "attempt to connect failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_bounded_and_printable() {
        assert_eq!(tidy("a\nb\u{1b}[31m"), "a b [31m");
        let long = "ä".repeat(REASON_MAX);
        assert!(tidy(&long).len() <= REASON_MAX);
    }
}
