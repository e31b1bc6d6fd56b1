//! Sockets of this machine: listing and destroying those on an address.
