//! Words and decisions of evenkeel. Pure: no clock, no I/O, no async, no serde, no
//! randomness, no map with a random order. Time comes in as a [`Moment`], facts come
//! in as events, and what is to be done goes out as data.
//!
//! Two machines live here and are kept apart: [`lease`] answers "may it move" and
//! cannot be persuaded by any policy; the others answer "should it move" and cannot
//! break safety whatever they answer.

pub mod lease;
pub mod moment;
pub mod names;
pub mod quorum;
pub mod rule;
pub mod topology;

pub use moment::Moment;
pub use names::{CheckName, Epoch, GroupId, GroupName, Incarnation, NodeId, NodeName};
