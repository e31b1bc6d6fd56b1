//! The client: one request, one answer, with a deadline. Of what may take longer, as a switchover
//! does where the file lets it, the daemon knows the deadline; the client waits for as long as the
//! daemon answers other questions meanwhile.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::v1::{ANSWER_LENGTH_MAX, Answer, ReloadStep, Request};

/// How long a client waits for an answer: longer than a node takes that asks another for it.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// How long a client waits for a switchover, of a daemon that answers others: longer than anybody
/// would let clients finish and services start. The daemon itself has an answer by the deadline
/// that its file makes.
pub const SWITCH_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How long the daemon may be away while a client asks again and again: its worker is replaced by a
/// reload, an upgrade or a crash within seconds, and so is a daemon that is restarted.
pub const AWAY_MAX: Duration = Duration::from_secs(10);

/// How long a client waits that asks again and again how a change stands: a worker that was
/// killed for it keeps its connections open for as long as its disk hangs, and answers none.
/// Longer than a node takes that asks another.
pub const LOOK_PATIENCE: Duration = Duration::from_secs(3);

/// Why there is no answer. The text follows "cannot ask the daemon: ".
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket there.
    #[error(
        "nothing listens at {}: {said}. Is the daemon running (systemctl status evenkeel)? \
         Another socket is named with --socket",
        path.display()
    )]
    Absent {
        /// Where.
        path: PathBuf,
        /// What the system said. No cause of its own: the text has it.
        said: std::io::Error,
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
    #[error("the daemon at {} gave no answer: {said}", path.display())]
    Broken {
        /// Where.
        path: PathBuf,
        /// What the system said. No cause of its own: the text has it.
        said: std::io::Error,
    },
    /// Not understood.
    #[error("the daemon's answer is not understood (another version?): {0}")]
    Unreadable(serde_json::Error),
}

impl ClientError {
    /// Whether the same question may be answered in a moment: the daemon is being replaced.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::Broken { .. })
    }
}

/// Asks the daemon at `socket`.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, ClientError> {
    ask_within(socket, request, patience(request))
}

/// The same, where `patience` is how long nothing may be heard of the daemon.
fn ask_within(socket: &Path, request: &Request, patience: Duration) -> Result<Answer, ClientError> {
    let broken = |said| ClientError::Broken {
        path: socket.to_owned(),
        said,
    };
    let mut stream = UnixStream::connect(socket).map_err(|said| match said.kind() {
        std::io::ErrorKind::PermissionDenied => ClientError::Forbidden {
            path: socket.to_owned(),
        },
        _ => ClientError::Absent {
            path: socket.to_owned(),
            said,
        },
    })?;
    stream.set_read_timeout(Some(patience)).map_err(broken)?;
    stream.set_write_timeout(Some(patience)).map_err(broken)?;
    let mut line = serde_json::to_vec(request).map_err(ClientError::Unreadable)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    let mut answer = Vec::new();
    let mut reader = BufReader::new(stream).take(ANSWER_LENGTH_MAX as u64);
    let began = Instant::now();
    while let Err(error) = reader.read_until(b'\n', &mut answer) {
        if !(is_late(&error) && takes_long(request) && began.elapsed() < SWITCH_MAX) {
            return Err(broken(error));
        }
        // Whatever it says, it lives.
        ask_within(socket, &Request::Status, patience)?;
    }
    if answer.is_empty() {
        return Err(broken(std::io::Error::other("the connection was closed")));
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

fn is_late(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock)
}

/// Whether the daemon may rightly take longer than [`ANSWER_PATIENCE`].
const fn takes_long(request: &Request) -> bool {
    matches!(request, Request::Switch { .. })
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
    use std::os::unix::net::UnixListener;

    /// Short, so that a test is; what it is about is what comes after it.
    const PATIENCE: Duration = Duration::from_millis(300);

    fn switch() -> Request {
        Request::Switch {
            group: "www".to_owned(),
            to: None,
            force: false,
        }
    }

    /// The next client and what it asks.
    fn next(listener: &UnixListener) -> (UnixStream, Request) {
        let (stream, _) = listener.accept().expect("a client");
        let mut line = String::new();
        let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
        reader.read_line(&mut line).expect("a request");
        (stream, serde_json::from_str(&line).expect("a request"))
    }

    fn say(mut stream: &UnixStream, answer: &Answer) {
        let mut line = serde_json::to_vec(answer).expect("an answer");
        line.push(b'\n');
        stream.write_all(&line).expect("heard");
    }

    fn listener() -> (tempfile::TempDir, PathBuf, UnixListener) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).expect("bound");
        (directory, path, listener)
    }

    #[test]
    fn a_switchover_is_waited_for_as_long_as_the_daemon_lives() {
        let (_directory, path, listener) = listener();
        let daemon = std::thread::spawn(move || {
            let (mover, request) = next(&listener);
            assert_eq!(request, switch());
            // It is not done before others have asked twice.
            for _ in 0..2 {
                let (other, request) = next(&listener);
                assert_eq!(request, Request::Status);
                say(&other, &Answer::Status(Status::default()));
            }
            say(&mover, &Answer::Done("fra1 serves www".to_owned()));
        });
        let answer = ask_within(&path, &switch(), PATIENCE).expect("an answer");
        assert_eq!(answer, Answer::Done("fra1 serves www".to_owned()));
        daemon.join().expect("asked as expected");
    }

    #[test]
    fn a_daemon_that_answers_nobody_is_not_waited_for() {
        // Clients wait in the queue of the listener.
        let (_directory, path, listener) = listener();
        for request in [switch(), Request::Status] {
            let error = ask_within(&path, &request, PATIENCE).expect_err("nobody answers");
            assert!(matches!(error, ClientError::Broken { .. }), "{error}");
            assert!(error.may_pass());
        }
        drop(listener);
    }

    #[test]
    fn what_the_system_says_is_told_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = ask(&directory.path().join("none"), &Request::Status).expect_err("absent");
        let text = error.to_string();
        assert_eq!(text.matches("No such file").count(), 1, "{text}");
        // The command line shows an error with all its causes.
        assert!(std::error::Error::source(&error).is_none());
    }

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
