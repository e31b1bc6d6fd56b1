//! What is stored: which process a command became, so that the next life of the daemon
//! neither starts it twice nor forgets to stop it. One line, `1 PID START`: START is the
//! moment of the start in clock ticks since boot, which tells the process from a later one
//! with its number. The directory is below /run, so a note never outlives its boot.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use evenkeel_host::process::Identity;

/// Two numbers.
const LENGTH_MAX: u64 = 64;

const VERSION: &str = "1";

/// Notes a process. The old note or the new one is there at any moment.
pub(crate) fn note(path: &Path, identity: Identity) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    writeln!(file, "{VERSION} {} {}", identity.pid, identity.start)?;
    fs::rename(new, path)
}

/// The noted process, if there is a note that makes sense. It may have ended.
pub(crate) fn noted(path: &Path) -> Option<Identity> {
    if fs::metadata(path).ok()?.len() > LENGTH_MAX {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let mut parts = text.split_ascii_whitespace();
    if parts.next() != Some(VERSION) {
        return None;
    }
    let pid = parts.next()?.parse().ok()?;
    let start = parts.next()?.parse().ok()?;
    Some(Identity { start, pid })
}

/// Nothing of it runs any more.
pub(crate) fn forget(path: &Path) {
    // One that stays says nothing wrong: its process has ended.
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_rubbish_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("www.apache");
        assert_eq!(noted(&path), None);
        let identity = Identity { start: 99, pid: 7 };
        note(&path, identity).expect("written");
        assert_eq!(noted(&path), Some(identity));
        for rubbish in ["", "2 7 99", "1 7", "1 x 99", &"1 7 9".repeat(100)] {
            fs::write(&path, rubbish).expect("written");
            assert_eq!(noted(&path), None, "{rubbish}");
        }
        forget(&path);
        forget(&path);
    }
}
