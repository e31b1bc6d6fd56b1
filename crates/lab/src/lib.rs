//! Real hosts in namespaces: demo, fault matrix, benchmarks.
//!
//! A lab is one process tree in name spaces of its own (mount, network, process ids;
//! for an ordinary user a user namespace as well). Its root's network namespace is a
//! switch; every host hangs on it by a cable of its own and has its own network,
//! mounts, process ids and name. On the hosts run the real Apache and the real
//! daemon; faults come from outside; a client asks every 2 ms and an observer on the
//! switch notes who answers. When the lab's first process ends, however it ends, the
//! kernel ends all of it.
//!
//! The way in for a binary: call [`entry`] before anything else (the lab starts the
//! same binary again in helper roles), then [`demo`] or [`main_lab`].

mod apache;
mod application;
mod bench;
mod bridge;
mod chance;
mod cli;
mod client;
mod cluster;
mod compare;
mod config_text;
mod daemon;
mod demo;
mod fault;
mod figures;
mod heartbeat;
mod host;
mod init;
mod inside;
mod launch;
mod matrix;
mod observer;
mod plot;
mod process;
mod role;
mod scenario;
mod self_test;
mod setup;
mod soak;
mod systemd;
mod wait;

pub use bench::Row;
pub use cli::main_lab;
pub use cluster::Profile;
pub use demo::{DemoOptions, demo};
pub use role::entry;
