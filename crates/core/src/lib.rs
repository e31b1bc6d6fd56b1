//! Words and decisions of evenkeel. Pure: no clock, no I/O, no async, no serde, no
//! randomness, no map with a random order. Time comes in as a [`Moment`], facts come
//! in as events, and what is to be done goes out as data.
//!
//! Two machines live here and are kept apart: [`lease`] answers "may it move" and
//! cannot be persuaded by any policy; [`node`] answers "should it move" and cannot
//! break safety whatever it answers.

pub mod command;
pub mod evidence;
pub mod fence;
pub mod finding;
pub mod foresee;
pub mod generation;
pub mod health;
pub mod lease;
pub mod ledger;
pub mod maintenance;
pub mod moment;
pub mod names;
pub mod node;
pub mod policy;
pub mod quorum;
pub mod role;
pub mod rule;
pub mod settling;
pub mod standby;
pub mod story;
pub mod suffrage;
pub mod switchover;
pub mod topology;

pub use moment::Moment;
pub use names::{CheckName, Epoch, GroupId, GroupName, Incarnation, NodeId, NodeName, ServiceName};
