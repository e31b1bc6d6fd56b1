//! Why the room does not start.

use std::io;
use std::path::PathBuf;

/// Follows "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// The directory for notes about started commands.
    #[error("make {}, where started commands are noted: {source}", .path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread or no runtime.
    #[error("start the thread of the services: {0}")]
    Start(io::Error),
}
