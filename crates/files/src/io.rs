//! The share as it is on this machine's disk.

pub(crate) mod gate;
pub(crate) mod look;
pub(crate) mod make;
pub(crate) mod root;

#[cfg(test)]
mod tests;
