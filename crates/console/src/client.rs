//! The client: one request, one answer, with a deadline.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::v1::{ANSWER_LENGTH_MAX, Answer, ReloadStep, Request};

/// How long a client waits for an answer: longer than the longest switchover.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// How long a client waits that asks again and again how a change stands: a worker that was
/// killed for it keeps its connections open for as long as its disk hangs, and answers none.
/// Longer than a node takes that asks another.
pub const LOOK_PATIENCE: Duration = Duration::from_secs(3);

/// Why there is no answer. The text follows "cannot ask the daemon: ".
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket there.
    #[error(
        "nothing listens at {}: {source}. Is the daemon running (systemctl status evenkeel)? \
         Another socket is named with --socket",
        path.display()
    )]
    Absent {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not allowed.
    #[error(
        "no right to use {}: ask as root, or join the group evenkeel to look without changing",
        path.display()
    )]
    Forbidden {
        /// Where.
        path: PathBuf,
    },
    /// Broken off.
    #[error("the daemon at {} gave no answer: {source}", path.display())]
    Broken {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not understood.
    #[error("the daemon's answer is not understood (another version?): {0}")]
    Unreadable(serde_json::Error),
}

/// Asks the daemon at `socket`.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, ClientError> {
    let broken = |source| ClientError::Broken {
        path: socket.to_owned(),
        source,
    };
    let mut stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        std::io::ErrorKind::PermissionDenied => ClientError::Forbidden {
            path: socket.to_owned(),
        },
        _ => ClientError::Absent {
            path: socket.to_owned(),
            source,
        },
    })?;
    let patience = Some(patience(request));
    stream.set_read_timeout(patience).map_err(broken)?;
    stream.set_write_timeout(patience).map_err(broken)?;
    let mut line = serde_json::to_vec(request).map_err(ClientError::Unreadable)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    let mut answer = Vec::new();
    BufReader::new(stream)
        .take(ANSWER_LENGTH_MAX as u64)
        .read_until(b'\n', &mut answer)
        .map_err(broken)?;
    if answer.is_empty() {
        let source = std::io::Error::other("the connection was closed");
        return Err(ClientError::Broken {
            path: socket.to_owned(),
            source,
        });
    }
    serde_json::from_slice(&answer).map_err(ClientError::Unreadable)
}

fn patience(request: &Request) -> Duration {
    match request {
        Request::Reload {
            step: ReloadStep::Outcome { .. },
            ..
        } => LOOK_PATIENCE,
        _ => ANSWER_PATIENCE,
    }
}
