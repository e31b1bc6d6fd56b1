//! A new connection, and what it means when there is none.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

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
    match begin(address)? {
        Begun::Connected(socket) => {
            let stream = TcpStream::from_std(socket.into());
            stream.map_err(|error| failed(address, &error))
        }
        Begun::UnderWay(socket) => finish(address, socket).await,
    }
}

/// Whether a connection can be had; it is reset at once.
pub(crate) async fn reach(address: SocketAddr) -> Result<(), Failure> {
    match begin(address)? {
        // It need not even be waited for.
        Begun::Connected(_) => Ok(()),
        Begun::UnderWay(socket) => finish(address, socket).await.map(drop),
    }
}

/// How far a connection is when the kernel has been asked for it.
enum Begun {
    /// There already, as on this machine.
    Connected(Socket),
    UnderWay(Socket),
}

fn begin(address: SocketAddr) -> Result<Begun, Failure> {
    let begun = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            None,
        )?;
        socket.set_linger(Some(Duration::ZERO))?;
        match socket.connect(&address.into()) {
            Ok(()) => Ok(Begun::Connected(socket)),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                match socket.take_error()? {
                    Some(error) => Err(error),
                    None if socket.peer_addr().is_ok() => Ok(Begun::Connected(socket)),
                    None => Ok(Begun::UnderWay(socket)),
                }
            }
            Err(error) => Err(error),
        }
    };
    begun().map_err(|error| failed(address, &error))
}

async fn finish(address: SocketAddr, socket: Socket) -> Result<TcpStream, Failure> {
    let finished = async {
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    };
    finished.await.map_err(|error| failed(address, &error))
}

fn failed(address: SocketAddr, error: &io::Error) -> Failure {
    match fault_of(error) {
        _ if error.kind() == io::ErrorKind::ConnectionRefused => Failure::Refused,
        Fault::Ours => Failure::Ours(format!("connect to {address}: {error}")),
        Fault::Theirs => Failure::Theirs(format!("no connection: {error}")),
    }
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
