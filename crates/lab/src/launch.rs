//! The way into the lab: a directory, a janitor who removes it, and the namespaces.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{role, wait};

/// Names the lab's directory to the processes inside.
pub(crate) const DIRECTORY: &str = "EVENKEEL_LAB_DIR";

/// Where directories of labs are made: on a real disk, so that syncing costs what it
/// costs, and not under /tmp, which every host has for itself.
const PLACE: &str = "/var/tmp";

/// Beginning of a lab directory's name; the janitor removes nothing else.
pub(crate) const PREFIX: &str = "evenkeel-lab-";

/// Time for the last processes of an ended lab to let go of its directory.
const CLEAR_OUT: Duration = Duration::from_secs(10);

/// The programs that a lab needs, with the Debian package that has each.
const NEEDED: [(&str, &str); 7] = [
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("nsenter", "util-linux"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("apache2", "apache2"),
    ("ping", "iputils-ping"),
];

/// The search path with the system's directories, which an ordinary user of Debian
/// does not have in theirs.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

fn check_needed(path: &OsStr) -> Result<()> {
    let lacks =
        |program: &str| !std::env::split_paths(path).any(|place| place.join(program).is_file());
    let mut missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| lacks(program))
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if !missing.is_empty() {
        bail!(
            "the lab needs programs that are not here; on Debian: apt-get install {}",
            missing.join(" ")
        );
    }
    Ok(())
}

/// Makes the lab's directory; the janitor removes it.
fn make_directory() -> Result<PathBuf> {
    let directory = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(PLACE)
        .with_context(|| format!("making a directory in {PLACE}"))?
        .keep();
    // Apache's own user reads pages in there.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

fn start_janitor(program: &Path, directory: &Path) -> Result<Child> {
    Command::new(program)
        .arg(role::JANITOR)
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("starting the janitor")
}

/// Runs this program again as the first process of a lab, with `arguments`, and waits
/// until the lab is gone, its directory too.
pub(crate) fn launch(arguments: &[OsString]) -> Result<ExitCode> {
    let path = search_path();
    check_needed(&path)?;
    let program = std::env::current_exe().context("finding this program")?;
    let directory = make_directory()?;
    let mut janitor = start_janitor(&program, &directory).inspect_err(|_| {
        // Nobody else would.
        let _ = fs::remove_dir(&directory);
    })?;

    // The chain of deaths: this process, unshare, the lab's first process. The kernel
    // then ends everything in its process id namespace.
    let mut command = Command::new("setpriv");
    command
        .env("PATH", &path)
        .args(["--pdeathsig", "KILL", "unshare"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args([
            "--mount",
            "--net",
            "--pid",
            "--ipc",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(&program)
        .arg(role::INSIDE)
        .args(arguments)
        .env(DIRECTORY, &directory)
        .stdin(Stdio::piped());
    let mut lab = command.spawn().context("starting the lab's namespaces")?;
    // Held open until the lab ends: its end of file tells the lab that we are gone.
    let leash = lab.stdin.take();
    let ended = lab.wait().context("waiting for the lab")?;
    drop(leash);
    drop(janitor.stdin.take());
    janitor.wait().context("waiting for the janitor")?;
    Ok(match ended.code() {
        Some(0) => ExitCode::SUCCESS,
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::FAILURE,
    })
}

/// The janitor's role: waits until the process that started it is gone, then removes
/// the lab's directory. In a session of its own, so that nothing typed at the terminal
/// ends it first.
pub(crate) fn janitor(arguments: &[OsString]) -> Result<ExitCode> {
    let directory = PathBuf::from(arguments.first().context("which directory?")?);
    let ours = directory.parent() == Some(Path::new(PLACE))
        && directory
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    if !ours {
        bail!("{} is no lab's directory", directory.display());
    }
    // Fails only if it leads a session already, which is as good.
    let _ = rustix::process::setsid();
    let mut sink = Vec::new();
    std::io::stdin()
        .read_to_end(&mut sink)
        .context("waiting for the lab to end")?;
    crate::fault::disk::thaw_left_frozen(&directory);
    crate::fault::clock::undo_left_step(&directory);
    crate::systemd::remove_left(&directory);
    wait::until("removing the lab's directory", CLEAR_OUT, || {
        Ok(match fs::remove_dir_all(&directory) {
            Ok(()) => Some(()),
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => Some(()),
            Err(_) => None,
        })
    })?;
    Ok(ExitCode::SUCCESS)
}
