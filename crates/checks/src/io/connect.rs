//! A new connection, and what it means when there is none.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use crate::io::{Answer, Fault, fault_of};
use crate::machine::Outcome;
use crate::probe::bounded;

/// Why there is no good answer.
pub(crate) enum Failure {
    Refused,
    Theirs(String),
    Ours(String),
}

impl Failure {
    /// What people read: why, with what was known `before` it and `after` it.
    pub(crate) fn answer(self, before: &str, after: &str) -> Answer {
        match self {
            Self::Refused => Answer {
                refused: true,
                ..Answer::new(Outcome::Bad, "connection refused")
            },
            Self::Ours(why) => Answer::new(
                Outcome::Unasked,
                format!("could not ask: {}", bounded(&why)),
            ),
            Self::Theirs(why) => {
                Answer::new(Outcome::Bad, format!("{before}{}{after}", bounded(&why)))
            }
        }
    }
}

/// Connects. What is left of the connection when it is dropped is reset, not closed: a closed one
/// would occupy a port of this node for a minute.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    };
    let failed = |error: io::Error| match fault_of(&error) {
        _ if error.kind() == io::ErrorKind::ConnectionRefused => Failure::Refused,
        Fault::Ours => Failure::Ours(format!("connect to {address}: {error}")),
        Fault::Theirs => Failure::Theirs(format!("no connection: {error}")),
    };
    let socket = socket.map_err(failed)?;
    socket.set_zero_linger().map_err(failed)?;
    socket.connect(address).await.map_err(failed)
}

/// A connection that says no goodbye: it is reset anyhow, and a packet that nobody waits for costs
/// as much as a tenth of a question.
pub(crate) struct Curt(pub(crate) TcpStream);

impl AsyncRead for Curt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Curt {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
