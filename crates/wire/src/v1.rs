//! Version 1 of everything that is stored or sent.

pub mod entry;
pub mod flows;
pub mod hello;
pub mod lease;
pub mod report;
pub mod snapshot;

mod parts;
