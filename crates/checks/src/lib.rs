//! Asking whether things are well.
//!
//! A [`Prober`] asks the questions of a set of [`Probe`]s and tells a [`Verdict`] at
//! every change and every so often. What verdicts mean for a group is not decided here.
//!
//! - [`machine`] turns single answers into one state: pure, with its table.
//! - [`probes_of`] says what a configuration asks of one node.
//! - `io` asks: ICMP echo, HTTP, TCP, DNS, SMTP, programs, processes, units. Each question has a deadline and a bounded answer.
//! - `prober` has one task per probe and one that brings verdicts out; no thread or
//!   process per check, and no queue that can grow.
//!
//! What a node asks of itself is watched as well: when the processes that listen there
//! are gone, no question is waited for (`evenkeel_host::listener`).

mod asking;
pub mod doctor;
mod from_config;
#[doc(hidden)]
pub mod fuzzing;
mod io;
pub mod machine;
mod outbox;
mod pending;
mod probe;
mod prober;

pub use from_config::{ResolveError, faults_of, probes_of};
pub use io::http::BODY_LENGTH_MAX;
pub use io::tcp::ANSWER_LENGTH_MAX;
pub use probe::{
    Asker, Command, DETAIL_LENGTH_MAX, Dns, Http, Manner, Measure, Phases, Probe, Process,
    Resolved, Smtp, State, Tcp, TlsExpect, Trust, Verdict,
};
pub use prober::Prober;
