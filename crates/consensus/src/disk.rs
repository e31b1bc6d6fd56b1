//! Where the log is kept: one redb file, or memory with a crash model for virtual time.

mod file;
#[cfg(any(test, feature = "virtual"))]
mod memory;
mod reserve;

pub use file::LogFile;
#[cfg(any(test, feature = "virtual"))]
pub use memory::MemoryDisk;
