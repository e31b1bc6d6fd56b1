//! Reading the file from disk, within bounds.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::config::Config;
use crate::fault::{Faults, Report};
use crate::source::Source;

/// The largest file in bytes: sixteen thousand addresses and eight thousand checks fit.
pub const FILE_SIZE_MAX: u64 = 4 << 20;

/// Reads and checks the file at `path`.
///
/// # Errors
///
/// Everything that is wrong with it, or why it cannot be read.
pub fn load(path: &Path) -> Result<Config, Faults> {
    let origin = path.display().to_string();
    let bytes = read(path, &origin)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text, &origin),
        Err(broken) => {
            // What comes before the broken byte is whole, so the place is right.
            let text = String::from_utf8_lossy(&bytes);
            let at = broken.valid_up_to();
            let mut report = Report::new(Source::new(&origin, &text).into());
            let what = format!("this byte (0x{:02x}) is not UTF-8", bytes[at]);
            report.refuse(&(at..at), what, "save the file as UTF-8");
            Err(report.finish().unwrap_or_else(|faults| faults))
        }
    }
}

/// Checks a file's text; `origin` names it in messages.
///
/// # Errors
///
/// Everything that is wrong with it, in the order of the file.
pub fn parse(text: &str, origin: &str) -> Result<Config, Faults> {
    if text.len() as u64 > FILE_SIZE_MAX {
        return Err(too_large(origin));
    }
    crate::config::read(Source::new(origin, text).into())
}

fn read(path: &Path, origin: &str) -> Result<Vec<u8>, Faults> {
    let refused = |what: String, help: &str| Err(Faults::of_file(origin, what, help));
    // Asked before opening, which would wait for ever on a pipe that nobody writes to.
    let opened = std::fs::metadata(path).and_then(|about| match about.is_file() {
        true => Ok((Some(File::open(path)?), about)),
        false => Ok((None, about)),
    });
    let file = match opened {
        Ok((Some(file), _)) => file,
        Ok((None, about)) if about.is_dir() => {
            return refused("this is a directory".into(), "name the file in it");
        }
        Ok((None, _)) => {
            return refused("this is not a regular file".into(), "name a regular file");
        }
        Err(error) => return refused(format!("cannot be read: {error}"), remedy(error.kind())),
    };
    let mut bytes = Vec::new();
    match file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 > FILE_SIZE_MAX => Err(too_large(origin)),
        Ok(_) => Ok(bytes),
        Err(error) => refused(format!("cannot be read: {error}"), remedy(error.kind())),
    }
}

fn too_large(origin: &str) -> Faults {
    let what = format!("the file is larger than {} KiB", FILE_SIZE_MAX / 1024);
    Faults::of_file(
        origin,
        what,
        "is it the right file? else make several clusters of it",
    )
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => {
            "name another file, or write this one; the manual begins with an example"
        }
        ErrorKind::PermissionDenied => "run as root, or let this user read it",
        _ => "look at the file system and its messages in the kernel's log",
    }
}
