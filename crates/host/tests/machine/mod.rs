//! A real systemd for tests, of this room and of others: the first process of namespaces of its
//! own (PID, mount, network, IPC, control groups), which sees no units but those of the test, so
//! that nothing of this machine is touched. A `dbus-daemon` runs in it as a unit. Where that
//! cannot be had the test says so loudly.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test programs, each of which uses its part"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Far longer than anything here takes.
pub const LONG: Duration = Duration::from_secs(60);

/// What the first process needs: a bus, and nothing that would look at this machine.
const UNITS: [(&str, &str); 8] = [
    (
        "test.target",
        "[Unit]\nDefaultDependencies=no\nRequires=dbus.service\n",
    ),
    (
        "dbus.socket",
        "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
    ),
    (
        "dbus.service",
        "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\nAfter=dbus.socket\n\
         [Service]\nRestart=always\nRestartSec=300ms\n\
         ExecStart=/usr/bin/dbus-daemon --config-file=/run/units/bus.conf --address=systemd: \
         --nofork --nopidfile\n",
    ),
    (
        "bus.conf",
        "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
         \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\"><busconfig>\
         <type>system</type><listen>systemd:</listen>\
         <auth>EXTERNAL</auth><policy context=\"default\"><allow user=\"*\"/>\
         <allow own=\"*\"/><allow send_type=\"method_call\"/><allow send_type=\"signal\"/>\
         <allow send_requested_reply=\"true\" send_type=\"method_return\"/>\
         <allow send_requested_reply=\"true\" send_type=\"error\"/>\
         <allow receive_type=\"method_call\"/><allow receive_type=\"method_return\"/>\
         <allow receive_type=\"error\"/><allow receive_type=\"signal\"/></policy></busconfig>\n",
    ),
    (
        "good.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=exec\nExecStart=/bin/sleep 600\n",
    ),
    (
        "again.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=exec\nRestart=always\nRestartSec=600\n\
         ExecStart=/bin/sleep 601\n",
    ),
    (
        "hangs.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=exec\nTimeoutStopSec=600\n\
         ExecStart=/bin/sh -c 'trap : TERM; while :; do sleep 600 & wait; done'\n\
         ExecStop=/bin/sleep 600\n",
    ),
    (
        "bad.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=exec\nExecStart=/bin/sh -c 'exit 1'\n\
         ExecStartPre=/bin/false\n",
    ),
];

/// Run by `sh` as the first process of the namespaces, in the place of which systemd comes.
const BOOT: &str = r#"set -e
mount --make-rprivate /
if mountpoint -q /sys/fs/cgroup; then umount -R -l /sys/fs/cgroup; fi
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
mkdir -p /run/dbus /run/units /run/systemd /run/lock
cp "$1"/* /run/units/
exec env -i container=test PATH="$PATH" SYSTEMD_UNIT_PATH=/run/units \
	SYSTEMD_GENERATOR_PATH=/nonexistent SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/nonexistent \
	/usr/lib/systemd/systemd --system --unit=test.target --log-target=console \
	--log-level=warning --show-status=no
"#;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A systemd of the test's own. Dropped, it is gone with everything in it.
pub struct Machine {
    unshare: Child,
    cgroup: PathBuf,
    _units: tempfile::TempDir,
    /// Its first process, as this machine counts.
    init: u32,
}

impl Machine {
    /// Nothing where it cannot be had; the reason has been told then.
    pub fn boot() -> Option<Self> {
        match Self::try_boot() {
            Ok(machine) => Some(machine),
            Err(reason) => {
                eprintln!("SKIPPED: no systemd for the test: {reason}");
                None
            }
        }
    }

    fn try_boot() -> Result<Self, String> {
        for program in ["/usr/lib/systemd/systemd", "/usr/bin/dbus-daemon"] {
            fs::metadata(program).map_err(|error| format!("{program}: {error}"))?;
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
        let root = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4))
            .ok_or("no cgroup2 is mounted")?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("evenkeel-test-{}-{number}", std::process::id());
        let cgroup = Path::new(root).join(name);
        fs::create_dir(&cgroup).map_err(|error| format!("make a control group: {error}"))?;
        let units = tempfile::tempdir().map_err(|error| error.to_string())?;
        for (name, text) in UNITS {
            fs::write(units.path().join(name), text).map_err(|error| error.to_string())?;
        }
        let script = format!(
            "echo 0 > {}/cgroup.procs && exec unshare --pid --fork --kill-child --mount --net \
             --ipc --uts --cgroup --mount-proc sh -c \"$1\" sh \"$2\"",
            cgroup.display()
        );
        let unshare = Command::new("sh")
            .args(["-c", &script, "sh", BOOT])
            .arg(units.path())
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut machine = Self {
            unshare,
            cgroup,
            _units: units,
            init: 0,
        };
        machine.wait_for_bus()?;
        Ok(machine)
    }

    fn wait_for_bus(&mut self) -> Result<(), String> {
        let children = format!("/proc/{0}/task/{0}/children", self.unshare.id());
        let deadline = Instant::now() + LONG;
        loop {
            let child = fs::read_to_string(&children).unwrap_or_default();
            if let Some(init) = child.split_whitespace().next().and_then(|c| c.parse().ok()) {
                self.init = init;
                if fs::exists(self.path("/run/dbus/system_bus_socket")).unwrap_or(false) {
                    return Ok(());
                }
            }
            if let Ok(Some(status)) = self.unshare.try_wait() {
                return Err(format!("it ended at once: {status}"));
            }
            if Instant::now() > deadline {
                return Err("it has no bus".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A path of its file system.
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Where its bus listens, as this machine sees it.
    pub fn bus(&self) -> String {
        let socket = self.path("/run/dbus/system_bus_socket");
        format!("unix:path={}", socket.display())
    }

    /// Runs a program in it.
    pub fn run(&self, program: &[&str]) {
        let status = Command::new("nsenter")
            .args(["-t", &self.init.to_string(), "-m", "-p", "-C", "-n", "--"])
            .args(program)
            .stdin(Stdio::null())
            .status();
        assert!(status.expect("nsenter runs").success(), "{program:?}");
    }
}

const INSIDE: &str = "EVENKEEL_TEST_INSIDE_MACHINE";

/// Whether this process runs on a machine of its own: the test binary starts itself anew there,
/// for one test, so that both count processes alike. The outer one fails with the inner one, and
/// tests nothing itself.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let Some(machine) = Machine::boot() else {
        return false;
    };
    let own = std::env::current_exe().expect("the path of this test");
    let status = Command::new("nsenter")
        .args([
            "-t",
            &machine.init.to_string(),
            "-m",
            "-p",
            "-C",
            "-n",
            "--",
        ])
        .arg(own)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .expect("nsenter runs");
    assert!(status.success(), "{test} failed on its machine");
    false
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its first process is tied to it (--kill-child), and all others to that one.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let deadline = Instant::now() + LONG;
        while !remove(&self.cgroup) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Removes a control group with those below it, once nobody is in them.
fn remove(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}
