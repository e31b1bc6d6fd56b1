//! The client: one request, one answer, with a deadline.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

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
    self::answer(&answer)
}

/// Understands an answer. Control characters in its texts become blanks, line breaks excepted: a
/// daemon passes on what other nodes, and the servers and programs that they ask, have said, and
/// that is not to speak to the terminal of whoever reads it.
pub fn answer(bytes: &[u8]) -> Result<Answer, ClientError> {
    let mut value = serde_json::from_slice(bytes).map_err(ClientError::Unreadable)?;
    tidy(&mut value);
    serde_json::from_value(value).map_err(ClientError::Unreadable)
}

fn tidy(value: &mut Value) {
    let speaks = |c: char| c.is_control() && c != '\n';
    match value {
        Value::String(text) if text.contains(speaks) => *text = text.replace(speaks, " "),
        Value::Array(all) => all.iter_mut().for_each(tidy),
        Value::Object(all) => all.values_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1::{Check, Group, GroupNode, State, Status};

    /// Details of checks are what other nodes say that they are.
    #[test]
    fn what_nodes_say_does_not_speak_to_the_terminal() {
        let check = Check {
            name: "apache".to_owned(),
            state: "failing".to_owned(),
            age_ms: 30,
            detail: "\u{1b}]0;all is well\u{7}\u{1b}[2J\u{9b}1m\r\nHTTP 503".to_owned(),
            measures: Vec::new(),
        };
        let group = Group {
            name: "www".to_owned(),
            holder: Some("ams1".to_owned()),
            epoch: u64::MAX,
            state: State::Serving,
            since: String::new(),
            addresses: Vec::new(),
            guard: "full".to_owned(),
            protected: true,
            next: None,
            nodes: vec![GroupNode {
                name: "ams1".to_owned(),
                ready: true,
                reason: "well".to_owned(),
                checks: vec![check],
            }],
            services: Vec::new(),
        };
        let status = Status {
            groups: vec![group],
            ..Status::default()
        };
        let bytes = serde_json::to_vec(&Answer::Status(status)).expect("written");
        let Ok(Answer::Status(read)) = answer(&bytes) else {
            panic!("not understood");
        };
        assert_eq!(read.groups[0].epoch, u64::MAX);
        let shown = crate::view::status(&read);
        assert!(shown.contains("HTTP 503"), "{shown}");
        let speaks = |c: char| c.is_control() && c != '\n';
        assert!(!shown.chars().any(speaks), "{shown:?}");
    }
}
