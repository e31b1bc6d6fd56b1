//! The room with a real systemd: the first process of namespaces of its own (PID, mount,
//! network, IPC, control groups), which sees no units but those of the test, so that
//! nothing of this machine is touched. A `dbus-daemon` runs in it as a unit. Where that
//! cannot be had the test says so loudly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use evenkeel_config::parse;
use evenkeel_core::{Epoch, GroupId, GroupName, NodeName};
use evenkeel_host::systemd::{Running, Seen, Systemd, SystemdError};
use evenkeel_services::{Context, GroupSettings, Report, Services, Settings, Want, doctor};
use tokio::sync::mpsc;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// What the first process needs: a bus, and nothing that would look at this machine.
const UNITS: [(&str, &str); 7] = [
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
struct Machine {
    unshare: Child,
    cgroup: PathBuf,
    _units: tempfile::TempDir,
    /// Its first process, as this machine counts.
    init: u32,
}

impl Machine {
    /// Nothing where it cannot be had; the reason has been told then.
    fn boot() -> Option<Self> {
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

    fn bus(&self) -> String {
        let socket = self.path("/run/dbus/system_bus_socket");
        format!("unix:path={}", socket.display())
    }

    /// Runs a program in it.
    fn run(&self, program: &[&str]) {
        let status = Command::new("nsenter")
            .args(["-t", &self.init.to_string(), "-m", "-p", "-C", "-n", "--"])
            .args(program)
            .stdin(Stdio::null())
            .status();
        assert!(status.expect("nsenter runs").success(), "{program:?}");
    }
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

fn www() -> GroupId {
    GroupId::of(&GroupName::new("www").expect("a name"))
}

struct Room {
    services: Services,
    reports: mpsc::Receiver<Report>,
    _notes: tempfile::TempDir,
    hosted: evenkeel_config::Hosted,
}

impl Room {
    fn new(machine: &Machine, text: &str) -> Self {
        let head = "cluster = \"t\"\n[node.a]\naddress = \"192.0.2.1:7946\"\n[node.b]\naddress = \"192.0.2.2:7946\"\n[group.www]\nnodes = [\"a\", \"b\"]\naddresses = [\"192.0.2.9/24\"]\n";
        let config =
            parse(&format!("{head}{text}"), "f").unwrap_or_else(|faults| panic!("{faults}"));
        let hosted = config.hosted[&www()].clone();
        let notes = tempfile::tempdir().expect("a directory");
        let (send, reports) = mpsc::channel(64);
        let group = GroupSettings {
            group: www(),
            name: GroupName::new("www").expect("a name"),
            hosted: hosted.clone(),
            priority: 100,
        };
        let node = NodeName::new("a").expect("a name");
        let settings = Settings {
            bus: machine.bus(),
            ..Settings::new(vec![group], node, notes.path().to_owned())
        };
        Self {
            services: Services::start(settings, send).expect("it starts"),
            reports,
            _notes: notes,
            hosted,
        }
    }

    fn want(&self, want: Want) {
        self.services.want(www(), want, Context::default());
    }

    fn next(&mut self) -> Report {
        let deadline = Instant::now() + LONG;
        loop {
            match self.reports.try_recv() {
                Ok(report) => return report,
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("no report: {error}"),
            }
        }
    }
}

const OPENING: Want = Want::Opening {
    epoch: Epoch { term: 1, index: 5 },
};
const OPEN: Want = Want::Open {
    epoch: Epoch { term: 1, index: 5 },
};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Waits until what is known of a unit is as wanted.
async fn until(systemd: &Systemd, unit: &str, wanted: impl FnMut(&Seen) -> bool) -> Seen {
    let mut watch = systemd.watch(unit);
    let seen = tokio::time::timeout(LONG, watch.wait_for(wanted)).await;
    seen.expect("in time").expect("it is watched").clone()
}

fn runs(running: Running) -> impl FnMut(&Seen) -> bool {
    move |seen| matches!(seen, Seen::Known(unit) if unit.running() == running)
}

#[test]
fn units_are_known_by_events_and_started_and_stopped() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    runtime().block_on(async {
        let systemd = Systemd::start(&machine.bus());
        until(&systemd, "good.service", runs(Running::Down)).await;
        systemd.start_unit("good.service").await.expect("started");
        let up = until(&systemd, "good.service", runs(Running::Up)).await;
        let Seen::Known(unit) = up else { panic!("{up:?}") };
        assert!(unit.main_pid > 1 && unit.invocation.len() == 16, "{unit:?}");
        assert_eq!(unit.to_string(), "active (running)");
        // Death by somebody's hand.
        systemd.kill_unit("good.service", 9).await.expect("killed");
        let dead = until(&systemd, "good.service", runs(Running::Down)).await;
        assert!(matches!(&dead, Seen::Known(unit) if unit.active == "failed" && unit.result == "signal"), "{dead:?}");
        systemd.start_unit("good.service").await.expect("started");
        systemd.stop_unit("good.service").await.expect("stopped");
        until(&systemd, "good.service", runs(Running::Down)).await;

        let missing = systemd.look("missing.service").await.expect("no error");
        assert_eq!((missing.running(), missing.to_string().as_str()), (Running::Missing, "not-found"));
        let error = systemd.start_unit("missing.service").await.expect_err("refused");
        assert!(matches!(error, SystemdError::Refused { .. }), "{error}");
        let error = systemd.start_unit("bad.service").await.expect_err("failed");
        assert!(matches!(&error, SystemdError::Job { result, .. } if result == "failed"), "{error}");

        // The bus dies and comes back: meanwhile nothing is known, and no more than that.
        systemd.start_unit("good.service").await.expect("started");
        until(&systemd, "good.service", runs(Running::Up)).await;
        let mut watch = systemd.watch("good.service");
        watch.borrow_and_update();
        machine.run(&["pkill", "-x", "dbus-daemon"]);
        let unknown = watch.wait_for(|seen| matches!(seen, Seen::Unknown(_)));
        let unknown = tokio::time::timeout(LONG, unknown).await.expect("in time").expect("watched").clone();
        assert!(matches!(unknown, Seen::Unknown(_)));
        until(&systemd, "good.service", runs(Running::Up)).await;
        systemd.stop_unit("good.service").await.expect("stopped");
    });
}

#[test]
fn a_takeover_starts_units_and_their_death_is_told() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let mut room = Room::new(
        &machine,
        "[group.www.service.good]\nunit = \"good.service\"\n",
    );
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    room.want(OPENING);
    let Report::Ready { took, .. } = room.next() else {
        panic!("not ready")
    };
    eprintln!("a unit was up after {took:?}");
    room.want(OPEN);
    let begun = Instant::now();
    machine.run(&["pkill", "-KILL", "-x", "-f", "/bin/sleep 600"]);
    let Report::Died { detail, .. } = room.next() else {
        panic!("no death")
    };
    eprintln!(
        "its death was told {:?} after nsenter was started",
        begun.elapsed()
    );
    assert!(detail.contains("failed"), "{detail}");
    assert!(matches!(room.next(), Report::Failed { .. }));
    // Somebody starts it on a standby.
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    machine.run(&["systemctl", "start", "good.service"]);
    assert!(matches!(room.next(), Report::Foreign { .. }));
}

#[test]
fn a_unit_that_hangs_in_its_stop_is_killed_whole() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let text = "[group.www.service.hangs]\nunit = \"hangs.service\"\nstop_timeout = \"200ms\"\n";
    let mut room = Room::new(&machine, text);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    room.want(Want::Standby);
    let Report::Forced { how, .. } = room.next() else {
        panic!("not forced")
    };
    assert!(how.contains("SIGKILL"), "{how}");
    assert!(matches!(room.next(), Report::Stopped { .. }));
}

#[test]
fn units_that_are_missing_or_bad_are_told_and_stop_nothing_else() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let text = "[group.www.service.missing]\nunit = \"missing.service\"\nafter = []\n[group.www.service.bad]\nunit = \"bad.service\"\nafter = []\n[group.www.service.good]\nunit = \"good.service\"\nafter = []\n";
    let mut room = Room::new(&machine, text);
    let faults = runtime()
        .block_on(async { doctor::examine(&room.hosted, &Systemd::start(&machine.bus())).await });
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].contains("missing.service is not-found"),
        "{faults:?}"
    );
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    room.want(OPENING);
    let mut failed = [room.next(), room.next()].map(|report| match report {
        Report::Failed {
            service, reason, ..
        } => (service.to_string(), reason),
        other => panic!("{other:?}"),
    });
    failed.sort();
    assert!(
        failed[0].0 == "bad" && failed[0].1.contains("its job ended with \"failed\""),
        "{failed:?}"
    );
    assert!(
        failed[1].0 == "missing" && failed[1].1.contains("not-found"),
        "{failed:?}"
    );
    let unready = room.services.status()[&www()].unready.clone();
    assert_eq!(unready.len(), 2, "{unready:?}");
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
}

#[test]
fn a_standby_stops_what_systemd_started_with_the_machine() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.run(&["systemctl", "start", "good.service"]);
    let mut room = Room::new(
        &machine,
        "[group.www.service.good]\nunit = \"good.service\"\n",
    );
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    let state = runtime().block_on(async {
        let systemd = Systemd::start(&machine.bus());
        systemd.look("good.service").await.expect("it answers")
    });
    assert_eq!(state.running(), Running::Down);
}
