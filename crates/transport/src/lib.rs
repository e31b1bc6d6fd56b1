//! Identities and encrypted connections between nodes; carries opaque bytes.
//!
//! - [`pki`]: the cluster's own authority and the certificates of its nodes, as files.
//! - [`Endpoint`]: one QUIC connection per pair of nodes, mutually proved, kept up by
//!   both sides, for requests and for one-way messages of which the newest wins.
//! - [`seal`]: lease datagrams of our own beside it, with keys from that connection;
//!   sans I/O, so that the lease thread waits for nothing here.

mod certificate;
mod dial;
pub mod doctor;
mod endpoint;
mod event;
#[doc(hidden)]
pub mod fuzzing;
mod hello;
mod link;
mod mailbox;
pub mod pki;
pub mod seal;
mod stream;
mod tls;
mod tuning;

pub use certificate::{ALARM_DAYS, CertificateFault, Fingerprint, FingerprintFault, Validity};
pub use endpoint::{Admission, Endpoint, Incoming, PeerAddress, Settings, StartError};
pub use event::{Alarmed, DownReason, Events, PeerEvent, RefusedBy};
pub use pki::{Identity, PkiError};
pub use seal::{Keyring, LeaseKeys};
pub use stream::{
    BODY_MAX, Class, Message, Messages, ONE_WAY_MAX, Request, Requests, Responder, TransportError,
};
pub use tuning::Tuning;
