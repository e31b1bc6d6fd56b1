//! The first process of a host: makes the host's mounts, starts what it is told to on
//! its standard input, and buries the dead. Its end is the host's power cut: the
//! kernel ends every process of the host at once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};
use serde::{Deserialize, Serialize};

use crate::systemd;

/// How long the burial waits when the host has no process to wait for.
const NO_CHILD_PAUSE: Duration = Duration::from_millis(20);

/// "Start this": one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Program and arguments.
    pub(crate) argv: Vec<OsString>,
    /// Added to the environment.
    pub(crate) env: BTreeMap<String, String>,
    /// Where its output is appended.
    pub(crate) log: PathBuf,
}

/// What the first process says: one line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The host is up; its first process has this number in the lab.
    Up(i32),
    /// The order was carried out; the new process has this number on the host.
    Started(u32),
    /// The order could not be carried out.
    Failed(String),
}

fn say(answer: &Answer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Where a host has an empty directory of its own.
pub(crate) const OWN_PLACES: [&str; 4] = ["/run", "/tmp", "/dev/shm", "/var/log/apache2"];

/// Mounts what a machine has for itself. The host's /proc comes last: until then /proc
/// is the lab's and tells this process's number there.
fn make_mounts() -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    for place in OWN_PLACES {
        if Path::new(place).is_dir() {
            mount("tmpfs", place, "tmpfs", flags, Some(c"mode=1777"))
                .with_context(|| format!("mounting {place}"))?;
        }
    }
    // Not allowed in every user namespace, and nothing depends on it there.
    let _ = mount("sysfs", "/sys", "sysfs", flags, None);
    mount("proc", "/proc", "proc", flags, None).context("mounting /proc")
}

fn make_settings() -> Result<()> {
    // An ordinary user's Apache serves port 80 too.
    let port = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    fs::write(port, "0").with_context(|| format!("writing {port}"))?;
    // A new connection every 2 ms for minutes: all ports are needed.
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    fs::write(range, "10000 65535").with_context(|| format!("writing {range}"))
}

fn start(order: &Order) -> Result<u32> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&order.log)
        .with_context(|| format!("opening {}", order.log.display()))?;
    let (program, arguments) = order
        .argv
        .split_first()
        .context("an order without a program")?;
    let child = Command::new(program)
        .args(arguments)
        .envs(&order.env)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    Ok(child.id())
}

/// Buries every process that ends, orphans of others too. It only looks first and
/// then takes `starting`: a start that fails buries its own child.
fn bury(starting: &Mutex<()>) {
    loop {
        match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(Some(_)) => {
                let _held = starting.lock().unwrap_or_else(PoisonError::into_inner);
                while matches!(waitpid(None, WaitOptions::NOHANG), Ok(Some(_))) {}
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(_) => std::thread::sleep(NO_CHILD_PAUSE),
        }
    }
}

/// The role itself. With a second argument, the host's disk, a real systemd takes this
/// process's place, and a child of it carries out the orders.
pub(crate) fn main(arguments: &[OsString]) -> Result<ExitCode> {
    let name = arguments
        .first()
        .and_then(|name| name.to_str())
        .context("which host?")?;
    let number = fs::read_link("/proc/self").context("reading /proc/self")?;
    let number = number
        .to_str()
        .and_then(|text| text.parse().ok())
        .context("a process number")?;
    make_mounts()?;
    make_settings()?;
    rustix::system::sethostname(name.as_bytes()).context("naming the host")?;
    match arguments.get(1) {
        Some(disk) => systemd::take_place(number, Path::new(disk)),
        None => obey(number),
    }
}

/// The role of the child of a host's systemd.
pub(crate) fn agent(arguments: &[OsString]) -> Result<ExitCode> {
    let number = arguments.first().and_then(|number| number.to_str());
    obey(number.context("which number?")?.parse()?)
}

/// Says that the host is up and starts what it is told to, until nobody tells it any more.
fn obey(number: i32) -> Result<ExitCode> {
    let starting = Arc::new(Mutex::new(()));
    let burial = Arc::clone(&starting);
    std::thread::Builder::new()
        .name("burial".into())
        .spawn(move || bury(&burial))?;
    say(&Answer::Up(number))?;
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?).context("reading an order")?;
        let done = {
            let _held = starting.lock().unwrap_or_else(PoisonError::into_inner);
            start(&order)
        };
        say(&match done {
            Ok(pid) => Answer::Started(pid),
            Err(fault) => Answer::Failed(format!("{fault:#}")),
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Turns a number from an answer into a process number.
pub(crate) fn pid(number: i32) -> Result<Pid> {
    Pid::from_raw(number).context("a process number of zero")
}
