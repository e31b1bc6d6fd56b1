//! Why the mover cannot start or take an address: what was tried on what, and what to
//! do about it.

use std::io;

use evenkeel_host::netlink::NetlinkError;

/// Follows "failed to".
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The file names an interface that is not there.
    #[error(
        "place {address}: this machine has no interface {device}; it has {present}: name one \
         of them after the @, or make {device} before evenkeel starts"
    )]
    NoDevice {
        /// The address as in the file.
        address: String,
        /// The interface it names.
        device: String,
        /// The interfaces there are.
        present: String,
    },
    /// No interface is in the address's subnet.
    #[error(
        "place {address}: no interface of this machine has an address in {subnet}: name one \
         with @, as in {address}@eth0, or give an interface an address there"
    )]
    NoSubnet {
        /// The address as in the file.
        address: String,
        /// Its subnet.
        subnet: String,
    },
    /// Several interfaces are in the address's subnet.
    #[error(
        "place {address}: the interfaces {devices} all have an address in {subnet}: name one \
         of them with @"
    )]
    SeveralDevices {
        /// The address as in the file.
        address: String,
        /// Its subnet.
        subnet: String,
        /// The interfaces.
        devices: String,
    },
    /// Somebody else configured the address.
    #[error(
        "place {address}: the operating system itself configured it on {device}, and would \
         do so on every node; remove it from the network configuration of the system and, \
         now, with: ip address delete {ip}/{prefix} dev {device}"
    )]
    Foreign {
        /// The address as in the file.
        address: String,
        /// The address alone.
        ip: std::net::IpAddr,
        /// The prefix with which it is configured.
        prefix: u8,
        /// Where it is.
        device: String,
    },
    /// No group of that identity was given at start or by `assign`.
    #[error("move a group: it is not known here")]
    UnknownGroup,
    /// The kernel does not talk to us about links and addresses.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No raw frames.
    #[error(
        "open a socket for announcements: {0}; it takes CAP_NET_RAW: run evenkeel as root or \
         set AmbientCapabilities=CAP_NET_RAW in its unit"
    )]
    Frames(#[source] io::Error),
    /// No right to configure addresses.
    #[error(
        "place {0} addresses: this process lacks CAP_NET_ADMIN; run evenkeel as root or set \
         AmbientCapabilities=CAP_NET_ADMIN in its unit"
    )]
    Right(usize),
    /// No thread or wake-up.
    #[error("start the mover: {0}")]
    Start(#[source] io::Error),
}
