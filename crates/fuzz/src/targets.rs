//! The targets, a file each. What reads bytes from outside and has none is named here, too.
//!
//! Not ours: TLS, QUIC and X.509 up to the proof of a name (rustls, quinn, webpki; what they are
//! given and what comes of it is the lab's scenario `hostile`), D-Bus (zbus hands over typed values),
//! TOML up to its tree (target `config` goes through it), redb's own pages (target `log_file`).
//! Nobody outside: numbers in `/proc` and `/sys` that the kernel writes alone.

mod agreement;
mod certificate;
mod config;
mod connections;
mod consensus_forms;
mod control;
mod daemon_forms;
mod dns;
mod echo;
mod entry;
mod flight;
mod frames;
mod gate;
mod hello;
mod http;
mod lease;
mod leases;
mod log_file;
mod mirror;
mod nagios;
mod neighbours;
mod netlink;
mod nftables;
mod node;
mod notes;
mod notices;
mod process;
mod report;
mod seal;
mod server_certificate;
mod shares;
mod smtp;
mod snapshot;
mod state;
mod stored_log;
mod tcp;

use crate::Target;

/// All of them.
pub const TARGETS: &[Target] = &[
    agreement::TARGET,
    certificate::TARGET,
    config::TARGET,
    connections::TARGET,
    consensus_forms::TARGET,
    control::TARGET,
    daemon_forms::TARGET,
    dns::TARGET,
    echo::TARGET,
    entry::TARGET,
    flight::TARGET,
    frames::TARGET,
    gate::TARGET,
    hello::TARGET,
    http::TARGET,
    lease::TARGET,
    leases::TARGET,
    log_file::TARGET,
    mirror::TARGET,
    nagios::TARGET,
    neighbours::TARGET,
    netlink::TARGET,
    nftables::TARGET,
    node::TARGET,
    notes::TARGET,
    notices::TARGET,
    process::TARGET,
    report::TARGET,
    seal::TARGET,
    server_certificate::TARGET,
    shares::TARGET,
    smtp::TARGET,
    snapshot::TARGET,
    state::TARGET,
    stored_log::TARGET,
    tcp::TARGET,
];
