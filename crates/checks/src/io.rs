//! The questions themselves: thin, with a deadline each, and never a verdict.

pub(crate) mod command;
pub(crate) mod connect;
pub(crate) mod dns;
pub(crate) mod http;
pub(crate) mod nagios;
pub(crate) mod ping;
pub(crate) mod process;
pub(crate) mod smtp;
pub(crate) mod tcp;
pub(crate) mod tls;
pub(crate) mod unit;

use crate::machine::Outcome;
use crate::probe::{Measure, Phases};

/// What came of one question.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    /// What exactly, for people.
    pub(crate) detail: String,
    pub(crate) phases: Phases,
    /// The connection was refused: perhaps nobody listens.
    pub(crate) refused: bool,
    /// What was measured, if the asked one says so.
    pub(crate) measures: Vec<Measure>,
}

impl Answer {
    pub(crate) fn new(outcome: Outcome, detail: impl Into<String>) -> Self {
        Self {
            outcome,
            detail: detail.into(),
            phases: Phases::default(),
            refused: false,
            measures: Vec::new(),
        }
    }
}

/// Whose fault an error of the kernel is: the asked one's, or our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Theirs,
    Ours,
}

/// Errors that say something about this machine: no free descriptor, port or memory, no
/// right, no route, no address. A check that cannot be asked is unknown.
pub(crate) fn fault_of(error: &std::io::Error) -> Fault {
    let ours = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
        libc::ENOBUFS,
        libc::EADDRNOTAVAIL,
        libc::EADDRINUSE,
        libc::EAFNOSUPPORT,
        libc::EPERM,
        libc::EACCES,
        libc::EINVAL,
        libc::ENETDOWN,
        libc::ENETUNREACH,
    ];
    match error.raw_os_error() {
        Some(errno) if ours.contains(&errno) => Fault::Ours,
        _ => Fault::Theirs,
    }
}
