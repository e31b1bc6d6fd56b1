//! The inside of a lab: what its first process knows.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{init, launch};

/// The lab from the inside: its directory and this program.
#[derive(Clone, Debug)]
pub(crate) struct Lab {
    directory: PathBuf,
    program: PathBuf,
}

impl Lab {
    /// Takes up the lab that [`launch::launch`] prepared: to be called once, by its
    /// first process.
    pub(crate) fn enter() -> Result<Self> {
        let directory = std::env::var_os(launch::DIRECTORY)
            .map(PathBuf::from)
            .context("this is not the inside of a lab")?;
        let program = std::env::current_exe().context("finding this program")?;
        let program = within_reach(&directory, &program)?;
        std::thread::Builder::new()
            .name("leash".into())
            .spawn(end_with_the_outside)
            .context("starting a thread")?;
        Ok(Self { directory, program })
    }

    /// A place for files that live as long as the lab, seen by all hosts at this path.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// This program, to start it in a helper role.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// A path at which the hosts find `program`.
    pub(crate) fn within_reach(&self, program: &Path) -> Result<PathBuf> {
        within_reach(&self.directory, program)
    }
}

/// A path at which the hosts find `program`: its own, or that of a copy if a host has
/// something else in its place.
fn within_reach(directory: &Path, program: &Path) -> Result<PathBuf> {
    let path = program
        .canonicalize()
        .with_context(|| format!("no program {}", program.display()))?;
    if !init::OWN_PLACES.iter().any(|place| path.starts_with(place)) {
        return Ok(path);
    }
    let name = path.file_name().context("a program without a name")?;
    let copy = directory.join(name);
    std::fs::copy(&path, &copy).with_context(|| format!("copying {}", path.display()))?;
    Ok(copy)
}

/// Ends the lab when the process outside is gone: its parent's death does so too, but
/// not in the moment between its start and its asking for that.
fn end_with_the_outside() {
    let mut sink = [0; 64];
    let mut outside = std::io::stdin();
    while matches!(outside.read(&mut sink), Ok(read) if read > 0) {}
    std::process::exit(1);
}
