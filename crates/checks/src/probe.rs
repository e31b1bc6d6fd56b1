//! What is asked, and what is said about it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_config::{Method, RecordType, StatusSet};
use evenkeel_core::{CheckName, GroupId, Moment, NodeId, ServiceName};
use rustls_pki_types::CertificateDer;

pub use evenkeel_core::health::CheckState as State;

/// The longest detail of a verdict, in bytes: a line of a terminal, and what evidence
/// carries at most.
pub const DETAIL_LENGTH_MAX: usize = 200;

/// One check of one node, as this node shall ask it.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The group.
    pub group: GroupId,
    /// The check.
    pub check: CheckName,
    /// The node that is judged.
    pub judged: NodeId,
    /// Who asks.
    pub role: Asker,
    /// What to ask.
    pub question: Resolved,
    /// From one question to the next.
    pub interval: Duration,
    /// After that an answer counts as missing.
    pub timeout: Duration,
    /// Failures in a row that make it failing.
    pub fall: u32,
    /// Good answers in a row that make it well again.
    pub rise: u32,
    /// Also watch the process that listens where the question [connects to]. Only
    /// for what this node asks of itself.
    ///
    /// [connects to]: Resolved::connects_to
    pub watch_listener: bool,
    /// Ask only while the group is open on the judged node ([`crate::Prober::serving`]): what it
    /// asks for runs nowhere else.
    pub rests: bool,
    /// The service that it asks for, if any ([`crate::Prober::renew`]).
    pub service: Option<ServiceName>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The judged node itself.
    Node,
    /// Another one.
    Peer,
}

/// A question with all names of nodes replaced.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolved {
    /// Does it echo?
    Ping {
        /// Whom to ask.
        target: IpAddr,
        /// From which of our addresses; else the kernel chooses.
        source: Option<IpAddr>,
    },
    /// Does it serve this page?
    Http(Http),
    /// Does it take a connection, and say this?
    Tcp(Tcp),
    /// Does this program say that all is well?
    Command(Command),
    /// Does this process run on this machine?
    Process(Process),
    /// Is this unit of systemd up on this machine?
    Unit(String),
    /// Does it know this name?
    Dns(Dns),
    /// Does it take mail?
    Smtp(Smtp),
}

impl Resolved {
    /// Where it connects to by TCP; none if it does not.
    pub fn connects_to(&self) -> Option<SocketAddr> {
        match self {
            Self::Ping { .. }
            | Self::Command(_)
            | Self::Process(_)
            | Self::Unit(_)
            | Self::Dns(_) => None,
            Self::Smtp(smtp) => Some(smtp.connect),
            Self::Http(http) => Some(http.connect),
            Self::Tcp(tcp) => Some(tcp.connect),
        }
    }
}

/// A server, and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Where to connect.
    pub connect: SocketAddr,
    /// What is sent once connected.
    pub send: Option<String>,
    /// A text that must occur in the first [`crate::ANSWER_LENGTH_MAX`] bytes of the answer. Without
    /// it the connection is the answer.
    pub expect: Option<String>,
}

/// A program, and how its answer is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program, an absolute path, and its arguments.
    pub words: Vec<String>,
    /// How its answer is read.
    pub manner: Manner,
}

/// How the answer of a program is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Status 0 is good, and every other one bad.
    Exec,
    /// As a plugin of Nagios means it.
    Nagios,
}

/// A process.
pub use evenkeel_host::named::Wanted as Process;

/// A name, and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name server.
    pub server: SocketAddr,
    /// The name, without its last dot; empty for the root. Its labels are at most 63 bytes long.
    pub name: String,
    /// What about it.
    pub record: RecordType,
    /// What one of the records must be.
    pub expect: Option<String>,
}

/// A mail server, and what is expected of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Smtp {
    /// Where to connect.
    pub connect: SocketAddr,
    /// It must go over to TLS, and what is expected of its certificate.
    pub starttls: Option<TlsExpect>,
}

/// A page, and what is expected of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// Where to connect. Never a name: a check that needs DNS would report every
    /// failure of DNS as a failure of every node.
    pub connect: SocketAddr,
    /// With the body, or without.
    pub method: Method,
    /// `https`, and what is expected of the certificate.
    pub tls: Option<TlsExpect>,
    /// Value of the `Host` header.
    pub host: String,
    /// Path and query, starting with `/`.
    pub path: String,
    /// Which statuses are good. Redirects are not followed: they are statuses.
    pub statuses: StatusSet,
    /// A text that must occur in the first [`crate::BODY_LENGTH_MAX`] bytes of the body.
    pub body: Option<String>,
}

/// What is expected of a server's certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsExpect {
    /// Who must have signed it.
    pub trust: Trust,
    /// The name that it must carry, and that the server is asked for; else the host of
    /// the URL.
    pub name: String,
}

/// Who must have signed a certificate.
#[derive(Clone, Debug, PartialEq)]
pub enum Trust {
    /// One of the authorities that browsers trust.
    WebRoots,
    /// One of these.
    Authorities(Arc<[CertificateDer<'static>]>),
    /// Anybody: the check is about the service, not about who runs it.
    Anybody,
    /// Who that is could not be read, for this reason: the check is unknown until a reload.
    Unusable(String),
}

/// What a plugin measured.
pub use evenkeel_core::health::Measure;

/// What this node says about a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The group.
    pub group: GroupId,
    /// The check.
    pub check: CheckName,
    /// The node that is judged.
    pub judged: NodeId,
    /// How it stands.
    pub state: State,
    /// When that was last confirmed by an answer or by the lack of one. A verdict that is
    /// repeated without news keeps it, so that its age can be judged.
    pub at: Moment,
    /// Since when nothing at all has been answered, if it is failing and nothing but
    /// silence speaks against it.
    pub silent_since: Option<Moment>,
    /// What exactly, for people; at most [`DETAIL_LENGTH_MAX`] bytes.
    pub detail: String,
    /// Where the time of the newest answer went.
    pub phases: Phases,
    /// What the newest answer measured; only plugins do.
    pub measures: Vec<Measure>,
    /// Grows with each verdict of one [`crate::Prober`].
    pub sequence: u64,
}

/// Where the time went. Phases that were not reached, or do not apply, are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// The TCP handshake.
    pub connect: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// From the request to status and headers; for a ping, to the reply.
    pub first_byte: Option<Duration>,
    /// From there to the end of what is read of the body.
    pub body: Option<Duration>,
}

impl Phases {
    /// All phases together.
    pub fn total(&self) -> Duration {
        let Self {
            connect,
            tls,
            first_byte,
            body,
        } = *self;
        [connect, tls, first_byte, body].into_iter().flatten().sum()
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        [
            ("connect", self.connect),
            ("TLS", self.tls),
            ("first byte", self.first_byte),
            ("body", self.body),
        ]
        .into_iter()
        .filter_map(|(name, time)| Some((name, time?)))
    }
}

impl fmt::Display for Phases {
    /// As in `connect 0.2, first byte 3.9`: milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, time)) in self.named().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {}", Millis(time))?;
        }
        Ok(())
    }
}

/// A time in milliseconds for people: `0.2`, `41`.
#[derive(Clone, Copy)]
pub(crate) struct Millis(pub(crate) Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1000.0;
        if millis < 10.0 && !self.0.subsec_micros().is_multiple_of(1000) {
            write!(f, "{millis:.1}")
        } else {
            write!(f, "{millis:.0}")
        }
    }
}

/// One line of at most [`DETAIL_LENGTH_MAX`] bytes: what a server says may be anything.
pub(crate) fn bounded(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if line.len() + c.len_utf8() > DETAIL_LENGTH_MAX - '…'.len_utf8() {
            line.push('…');
            break;
        }
        line.push(c);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_read_like_a_sentence() {
        let phases = Phases {
            connect: Some(Duration::from_micros(210)),
            first_byte: Some(Duration::from_micros(41_900)),
            ..Phases::default()
        };
        assert_eq!(phases.to_string(), "connect 0.2, first byte 42");
        assert_eq!(phases.total(), Duration::from_micros(42_110));
    }

    #[test]
    fn details_are_bounded_lines() {
        assert_eq!(bounded("a\nb\u{1b}[31m"), "a b [31m");
        let long = bounded(&"ä".repeat(1000));
        assert!(long.len() <= DETAIL_LENGTH_MAX && long.ends_with('…'));
        assert_eq!(bounded("short"), "short");
    }
}
