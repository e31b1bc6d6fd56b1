//! Load on the processor and on the disk of a host.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::{process, role};

/// The mark of what makes load.
const PROGRAM: &str = "load";

/// Size to which the file of the disk load grows before it is written anew.
const CHURN_FILE: u64 = 64 << 20;

/// Written between two syncs.
const CHURN_STEP: usize = 1 << 20;

/// Makes `threads` busy loops on `host` until [`stop`].
pub(crate) fn start_spinning(host: &mut Host, threads: usize) -> Result<()> {
    let argv: [OsString; 3] = [
        host.program().into(),
        role::SPIN.into(),
        threads.to_string().into(),
    ];
    host.start(PROGRAM, &argv).map(drop)
}

/// Writes and syncs on the disk of `host` without pause until [`stop`].
pub(crate) fn start_churning(host: &mut Host) -> Result<()> {
    let file = host.disk().join("churn");
    let argv: [OsString; 3] = [host.program().into(), role::CHURN.into(), file.into()];
    host.start(PROGRAM, &argv).map(drop)
}

/// Ends the load on `host`.
pub(crate) fn stop(host: &Host) -> Result<()> {
    process::kill_all(&host.mark(PROGRAM))
}

/// The role of [`start_spinning`].
pub(crate) fn spin(arguments: &[OsString]) -> Result<ExitCode> {
    let threads: usize = arguments
        .first()
        .and_then(|text| text.to_str()?.parse().ok())
        .context("how many threads?")?;
    for _ in 1..threads {
        std::thread::spawn(|| loop_for_ever());
    }
    loop_for_ever()
}

fn loop_for_ever() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// The role of [`start_churning`].
pub(crate) fn churn(arguments: &[OsString]) -> Result<ExitCode> {
    let path = PathBuf::from(arguments.first().context("which file?")?);
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    let step = vec![0xa5; CHURN_STEP];
    loop {
        if file.stream_position()? >= CHURN_FILE {
            file.seek(SeekFrom::Start(0))?;
        }
        file.write_all(&step).context("writing")?;
        file.sync_all().context("syncing")?;
    }
}
