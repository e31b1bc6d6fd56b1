//! A real systemd as the first process of a host, in a control group and a cgroup namespace
//! of the host's own. It sees no units but those on the host's disk ([`UNITS`]), so nothing
//! of this machine is started, and the system's bus is in the host's own /run. Only hosts
//! that ask for it have one.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_move};

use crate::host::Host;
use crate::inside::Lab;
use crate::{role, wait};

/// The program.
const PROGRAM: &str = "/usr/lib/systemd/systemd";

/// The bus on which it answers.
const BUS_PROGRAM: &str = "/usr/bin/dbus-daemon";

/// Its socket on a host.
const BUS: &str = "/run/dbus/system_bus_socket";

/// The directory of units on a host's disk.
const UNITS: &str = "units";

/// Time for it to be up, and for its control groups to be empty after its end.
const SOON: Duration = Duration::from_secs(10);

/// What it is told to be: a bus, a logind, and something that a reboot can be. The others are
/// there because every unit requires or follows them by default.
const OWN_UNITS: [(&str, &str); 12] = [
    (
        "lab.target",
        "Requires=dbus.service\nWants=systemd-logind.service\nAfter=dbus.service\n",
    ),
    (
        "systemd-logind.service",
        "After=dbus.service\n[Service]\nType=dbus\nBusName=org.freedesktop.login1\n\
         ExecStart=/usr/lib/systemd/systemd-logind\nRuntimeDirectoryPreserve=yes\n\
         RuntimeDirectory=systemd/sessions systemd/seats systemd/users systemd/inhibit \
         systemd/shutdown\n",
    ),
    (
        "reboot.target",
        "Requires=systemd-reboot.service\nAfter=systemd-reboot.service\n",
    ),
    (
        "systemd-reboot.service",
        "Requires=shutdown.target\nAfter=shutdown.target\nSuccessAction=reboot-force\n\
         [Service]\nType=oneshot\nExecStart=/bin/true\n",
    ),
    (
        "dbus.socket",
        "[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
    ),
    (
        "dbus.service",
        "Requires=dbus.socket\nAfter=dbus.socket\n\
         [Service]\nExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork \
         --nopidfile --systemd-activation\nExecReload=/bin/true\n",
    ),
    ("sysinit.target", ""),
    ("basic.target", ""),
    ("shutdown.target", ""),
    ("network.target", ""),
    ("network-online.target", ""),
    ("multi-user.target", ""),
];

/// Why no host can have one here.
pub(crate) fn hindrance() -> Option<String> {
    if !crate::apache::can_change_user() {
        return Some("a systemd in the lab's hosts needs real root".to_owned());
    }
    let lacks = [PROGRAM, BUS_PROGRAM].into_iter();
    if let Some(program) = lacks.into_iter().find(|path| !Path::new(path).exists()) {
        return Some(format!("{program} is not installed"));
    }
    cgroups().err().map(|fault| fault.to_string())
}

/// Where the second version of control groups is mounted.
fn cgroups() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    let mounted = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let place = mounted.and_then(|line| line.split(' ').nth(4));
    place
        .map(PathBuf::from)
        .context("control groups of version 2 are mounted nowhere")
}

/// The control group of a host. Dropped, it is gone, with all below it.
#[derive(Debug)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes that of host `name`.
    pub(crate) fn make(lab: &Lab, name: &str) -> Result<Self> {
        let directory = lab
            .directory()
            .file_name()
            .context("a lab without a name")?;
        let mut group = directory.to_owned();
        group.push(format!(".{name}"));
        let path = cgroups()?.join(group);
        // One of an earlier boot would show units that do not run.
        remove(&path);
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let gone = wait::until("a host's control groups go", SOON, || {
            Ok(remove(&self.0).then_some(()))
        });
        if let Err(fault) = gone {
            eprintln!("evenkeel lab: {}: {fault:#}", self.0.display());
        }
    }
}

/// Removes a control group with those below it, if nobody is in them.
fn remove(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}

/// Removes what a lab that was killed has left of its hosts' control groups.
pub(crate) fn remove_left(directory: &Path) {
    let (Ok(place), Some(name)) = (cgroups(), directory.file_name()) else {
        return;
    };
    let mut mark = name.as_encoded_bytes().to_vec();
    mark.push(b'.');
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(&mark) {
            drop(Cgroup(entry.path()));
        }
    }
}

/// Puts the units on a host's disk and returns the command that makes its namespaces.
pub(crate) fn prepare(cgroup: &Cgroup, disk: &Path) -> Result<Command> {
    for (name, text) in OWN_UNITS {
        put_unit(
            disk,
            name,
            &format!("[Unit]\nDefaultDependencies=no\n{text}"),
        )?;
    }
    let enter = "echo 0 > \"$1/cgroup.procs\" && shift && exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", enter, "sh"]).arg(&cgroup.0);
    command.args(["unshare", "--cgroup"]);
    Ok(command)
}

/// Writes a file of a unit, or of its drop-in, below the host's units.
fn put_unit(disk: &Path, name: &str, text: &str) -> Result<()> {
    let path = disk.join(UNITS).join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context("making a directory for units")?;
    }
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// Puts a unit with a drop-in on `host`, also while its systemd runs.
pub(crate) fn add_unit(host: &Host, unit: &str, text: &str, drop_in: &str) -> Result<()> {
    put_unit(&host.disk(), unit, text)?;
    put_unit(&host.disk(), &format!("{unit}.d/lab.conf"), drop_in)?;
    systemctl(host, &["daemon-reload"]).map(drop)
}

/// In the first process of a host: starts the agent, and becomes systemd. What that has to
/// say goes to `systemd.log` on the host's disk, in the place of the kernel's log.
pub(crate) fn take_place(number: i32, disk: &Path) -> Result<ExitCode> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", flags, None).context("mounting cgroup2")?;
    make_var_tmp(disk.parent().context("a disk outside the lab")?)?;
    fs::create_dir_all("/run/lock").context("making /run/lock")?;
    fs::set_permissions("/run/lock", fs::Permissions::from_mode(0o1777))?;
    let log = disk.join("systemd.log");
    fs::write(&log, "").context("making systemd's log")?;
    mount_bind(&log, "/dev/kmsg").context("putting systemd's log into its place")?;
    Command::new(std::env::current_exe().context("finding this program")?)
        .arg(role::AGENT)
        .arg(number.to_string())
        .spawn()
        .context("starting the agent")?;
    let nowhere = OsStr::new("/nonexistent");
    let fault = Command::new(PROGRAM)
        .args(["--system", "--unit=lab.target", "--show-status=no"])
        .args(["--log-target=kmsg", "--log-level=info"])
        .env_clear()
        // It asks no hardware and mounts nothing then.
        .env("container", "lab")
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("SYSTEMD_UNIT_PATH", disk.join(UNITS))
        .env("SYSTEMD_GENERATOR_PATH", nowhere)
        .env("SYSTEMD_ENVIRONMENT_GENERATOR_PATH", nowhere)
        .exec();
    Err(fault).context("becoming systemd")
}

/// Gives the host a /var/tmp of its own, where systemd makes directories for units, with
/// nothing of the machine's in it but the lab.
fn make_var_tmp(lab: &Path) -> Result<()> {
    let (place, aside) = ("/var/tmp", "/run/lab");
    fs::create_dir_all(aside).context("making a place for the lab")?;
    mount_bind_recursive(lab, aside).context("putting the lab aside")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", place, "tmpfs", flags, Some(c"mode=1777")).context("mounting /var/tmp")?;
    fs::create_dir_all(lab).context("making a place for the lab")?;
    mount_move(aside, lab).context("putting the lab back")?;
    fs::remove_dir(aside).context("tidying up")
}

/// Waits until a booted host can be told to start units.
pub(crate) fn wait_up(host: &Host) -> Result<()> {
    let bus = host.seen(BUS);
    wait::until("the host's bus is there", SOON, || {
        Ok(bus.exists().then_some(()))
    })?;
    wait::until("the host's systemd answers", SOON, || {
        let state = host.output(&["systemctl", "is-active", "dbus.service"])?;
        Ok(state.status.success().then_some(()))
    })
    .with_context(|| format!("see {}", host.disk().join("systemd.log").display()))
}

/// Has the host's systemd do something, to its good end.
pub(crate) fn systemctl(host: &Host, arguments: &[&str]) -> Result<String> {
    let argv: Vec<&str> = ["systemctl"].iter().chain(arguments).copied().collect();
    host.run(&argv, "")
}

/// A property of a unit.
pub(crate) fn property(host: &Host, unit: &str, name: &str) -> Result<String> {
    let told = systemctl(host, &["show", "--value", "-p", name, unit])?;
    Ok(told.trim().to_owned())
}

/// Whether a unit is `active`, `inactive`, `failed` and so on.
pub(crate) fn active_state(host: &Host, unit: &str) -> Result<String> {
    property(host, unit, "ActiveState")
}

/// A unit file of this machine, as its package has it.
pub(crate) fn packaged(unit: &str) -> Result<String> {
    for place in ["/usr/lib/systemd/system", "/lib/systemd/system"] {
        if let Ok(text) = fs::read_to_string(Path::new(place).join(unit)) {
            return Ok(text);
        }
    }
    bail!("no package has brought {unit}")
}
