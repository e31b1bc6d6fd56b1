//! The configuration file: one module per element, diagnostics with line and column.
//!
//! One file, the same on every node (DESIGN 5). It is read as a whole: every fault is
//! found in one run, with its place, the reason and the remedy ([`Faults`]); only a file
//! without any becomes a [`Config`]. The TOML is walked by hand, because a deserialiser
//! stops at the first fault and knows no places inside strings.
//!
//! What is not here: anything that depends on the machine (interfaces, ports, rights).
//! [`interface_for`] and [`Config::fault_at_address`] let the daemon say such things with
//! the same places.

mod address;
mod check;
mod command;
mod config;
mod dns;
mod duration;
mod effective;
mod exec;
mod fault;
mod group;
mod hook;
mod http;
mod interface;
mod load;
mod name;
mod node;
mod process;
mod revoked;
mod section;
mod service;
mod smtp;
mod source;
mod status;
mod syntax;
mod target;
mod tcp;
mod timing;

pub use check::{CheckSpec, Question};
pub use command::{ARGUMENTS_MAX, COMMAND_LENGTH_MAX, Command};
pub use config::{Config, Hosted};
pub use dns::{Dns, RecordType};
pub use duration::time;
pub use exec::Exec;
pub use fault::{FAULTS_MAX, Fault, Faults, Severity};
pub use group::{ADDRESSES_MAX, ADDRESSES_PER_GROUP_MAX, CHECKS_MAX, GROUPS_MAX};
pub use hook::Hooks;
pub use http::{Http, Method, Trust};
pub use interface::{Interface, NoInterface, interface_for};
pub use load::{FILE_SIZE_MAX, load, parse};
pub use node::NODES_MAX;
pub use process::Process;
pub use revoked::{Fingerprint, REVOKED_MAX};
pub use service::{Runs, SERVICES_MAX, SERVICES_PER_GROUP_MAX, ServiceSpec, When};
pub use smtp::Smtp;
pub use source::Place;
pub use status::StatusSet;
pub use target::{Target, Template};
pub use tcp::Tcp;
pub use timing::{HEARTBEATS_PER_LEASE, profile};
