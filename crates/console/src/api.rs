//! Versions of the control API.

pub mod v1;
