//! The mover against a real kernel: hosts are network namespaces on a bridge. Needs
//! root (or a user namespace with its own network), `ip` and nothing else.

mod clients;
mod drain;
mod net;
mod repair;
mod reset;
mod start;
mod takeover;
