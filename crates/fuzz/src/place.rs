//! A directory for targets whose readers read files: in memory if it can be.

use std::path::Path;

use tempfile::TempDir;

/// Where files cost nothing.
const IN_MEMORY: &str = "/dev/shm";

/// A new empty directory, removed when it is dropped.
pub(crate) fn directory() -> TempDir {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("evenkeel-fuzz-");
        builder
    };
    match Path::new(IN_MEMORY).is_dir() {
        true => builder().tempdir_in(IN_MEMORY),
        false => builder().tempdir(),
    }
    .expect("a directory for files")
}
