//! A new connection, and what it means when there is none.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncWriteExt;
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

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Talk,
    /// To be had, and nothing else. The last packet of the handshake is then held back, and the
    /// reset sent in its place: the server's program is not woken for nothing, and the kernel saves
    /// a quarter of its work. That its queue is full shows before, as no first packet is answered
    /// then.
    Reach,
}

/// Connects. What is left of the connection when it is dropped is reset, not closed: a closed one
/// would occupy a port of this node for a minute.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    match begin(address, Purpose::Talk)? {
        Begun::Connected(socket) => watched(address, socket),
        Begun::UnderWay(socket) => finish(address, socket).await,
    }
}

/// Whether a connection can be had; it is reset at once.
pub(crate) async fn reach(address: SocketAddr) -> Result<(), Failure> {
    match begin(address, Purpose::Reach)? {
        // It need not even be waited for.
        Begun::Connected(_) => Ok(()),
        Begun::UnderWay(socket) => finish(address, socket).await.map(drop),
    }
}

/// A connection on which something has been said.
pub(crate) enum Called {
    /// The runtime has not heard of it yet; see [`watched`].
    Unwatched(Socket),
    /// It has.
    Watched(TcpStream),
}

/// Connects, tells when that is done, and says `text`. What the kernel takes at once, which is the
/// rule on this machine, is sent before the runtime hears of the connection: it need not wake
/// anybody for that.
pub(crate) async fn call(
    address: SocketAddr,
    text: &[u8],
    connected: impl FnOnce(),
) -> Result<Called, Failure> {
    let (mut stream, said) = match begin(address, Purpose::Talk)? {
        Begun::Connected(socket) => {
            connected();
            match socket.send_with_flags(text, libc::MSG_NOSIGNAL) {
                Ok(said) if said == text.len() => return Ok(Called::Unwatched(socket)),
                Ok(said) => (watched(address, socket)?, said),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    (watched(address, socket)?, 0)
                }
                Err(error) => return Err(of_stream(error)),
            }
        }
        Begun::UnderWay(socket) => {
            let stream = finish(address, socket).await?;
            connected();
            (stream, 0)
        }
    };
    let rest = stream.write_all(&text[said..]).await;
    rest.map_err(of_stream)?;
    Ok(Called::Watched(stream))
}

/// Has the runtime watch a connection.
pub(crate) fn watched(address: SocketAddr, socket: Socket) -> Result<TcpStream, Failure> {
    TcpStream::from_std(socket.into()).map_err(|error| failed(address, &error))
}

/// What it means when a connection breaks.
pub(crate) fn of_stream(error: io::Error) -> Failure {
    match fault_of(&error) {
        Fault::Ours => Failure::Ours(error.to_string()),
        Fault::Theirs => Failure::Theirs(format!("connection breaks off: {error}")),
    }
}

/// How far a connection is when the kernel has been asked for it.
enum Begun {
    /// There already, as on this machine.
    Connected(Socket),
    UnderWay(Socket),
}

fn begin(address: SocketAddr, purpose: Purpose) -> Result<Begun, Failure> {
    let begun = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            None,
        )?;
        socket.set_linger(Some(Duration::ZERO))?;
        if purpose == Purpose::Reach {
            socket.set_tcp_quickack(false)?;
        }
        match socket.connect(&address.into()) {
            Ok(()) => Ok(Begun::Connected(socket)),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                // Asked in this order, because there mostly is one.
                if socket.peer_addr().is_ok() {
                    return Ok(Begun::Connected(socket));
                }
                match socket.take_error()? {
                    Some(error) => Err(error),
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
