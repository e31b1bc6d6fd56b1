//! The room with real commands that behave well and badly. Programs are small scripts in a
//! directory of the test's own; each test ends what it started.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_config::{Hosted, parse};
use evenkeel_core::{Epoch, GroupId, GroupName, NodeName};
use evenkeel_services::{Context, GroupSettings, Hook, Report, Services, Settings, Want};
use tokio::sync::mpsc;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// What the file says about the group `www`, with `DIR` for the test's directory.
fn hosted(text: &str, directory: &Path) -> Hosted {
    let head = "cluster = \"t\"\n[node.a]\naddress = \"192.0.2.1:7946\"\n[node.b]\naddress = \"192.0.2.2:7946\"\n[group.www]\nnodes = [\"a\", \"b\"]\naddresses = [\"192.0.2.9/24\"]\n";
    let text = format!(
        "{head}{}",
        text.replace("DIR", &directory.display().to_string())
    );
    let config = parse(&text, "f").unwrap_or_else(|faults| panic!("{faults}"));
    config.hosted[&www()].clone()
}

fn www() -> GroupId {
    GroupId::of(&GroupName::new("www").expect("a name"))
}

fn epoch(index: u64) -> Epoch {
    Epoch { term: 1, index }
}

struct Room {
    directory: tempfile::TempDir,
    hosted: Hosted,
    services: Option<Services>,
    reports: mpsc::Receiver<Report>,
}

impl Room {
    /// `scripts` are written first, each executable.
    fn new(text: &str, scripts: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, script) in scripts {
            let path = directory.path().join(name);
            let script = script.replace("DIR", &directory.path().display().to_string());
            fs::write(&path, script).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        }
        let hosted = hosted(text, directory.path());
        let (services, reports) = start(&hosted, directory.path());
        Self {
            directory,
            hosted,
            services: Some(services),
            reports,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    fn want(&self, want: Want) {
        let context = Context {
            reason: "a test".into(),
            peer: "b".into(),
        };
        self.services
            .as_ref()
            .expect("it runs")
            .want(www(), want, context);
    }

    /// Ends the room as the end of a worker does, and starts the next.
    fn restart(&mut self) {
        self.services = None;
        let (services, reports) = start(&self.hosted, self.directory.path());
        self.services = Some(services);
        self.reports = reports;
    }

    fn next(&mut self) -> Report {
        let deadline = std::time::Instant::now() + LONG;
        loop {
            match self.reports.try_recv() {
                Ok(report) => return report,
                Err(_) if std::time::Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("no report: {error}"),
            }
        }
    }

    fn eventually(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = std::time::Instant::now() + LONG;
        while !holds(self) {
            assert!(std::time::Instant::now() < deadline, "never: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The process whose number a script wrote into a file.
    fn pid(&self, name: &str) -> u32 {
        self.eventually(name, |room| room.text(name).trim().parse::<u32>().is_ok());
        self.text(name).trim().parse().expect("a number")
    }

    fn unready(&self) -> Vec<String> {
        let status = self.services.as_ref().expect("it runs").status();
        status
            .get(&www())
            .map(|group| group.unready.clone())
            .unwrap_or_default()
    }
}

fn start(hosted: &Hosted, directory: &Path) -> (Services, mpsc::Receiver<Report>) {
    let group = GroupSettings {
        group: www(),
        name: GroupName::new("www").expect("a name"),
        hosted: hosted.clone(),
        priority: 200,
    };
    let (send, reports) = mpsc::channel(64);
    let settings = settings(vec![group], directory);
    (Services::start(settings, send).expect("it starts"), reports)
}

fn settings(groups: Vec<GroupSettings>, directory: &Path) -> Settings {
    let node = NodeName::new("a").expect("a name");
    Settings::new(groups, node, directory.join("notes"))
}

impl Drop for Room {
    fn drop(&mut self) {
        // Whatever the test left running.
        if let Some(services) = &self.services {
            services.want(www(), Want::Standby, Context::default());
            let deadline = std::time::Instant::now() + LONG;
            while std::time::Instant::now() < deadline {
                if services
                    .status()
                    .get(&www())
                    .is_some_and(|one| one.want == Some(Want::Standby) && one.reached)
                {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.rsplit(") ").next().unwrap_or("Z").starts_with('Z')
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let _ = rustix::process::kill_process(pid.expect("a number"), rustix::process::Signal::KILL);
}

const APP: (&str, &str) = (
    "app",
    "#!/bin/sh\necho $$ > DIR/new; mv DIR/new DIR/pid; exec sleep 600\n",
);

const OPENING: Want = Want::Opening {
    epoch: Epoch { term: 1, index: 5 },
};

#[test]
fn a_takeover_runs_services_and_hooks_in_order_with_their_environment() {
    let text = r#"[group.www.service.db]
start = ["DIR/note", "start db"]
stop = ["DIR/note", "stop db"]
[group.www.service.app]
start = "echo start app >> DIR/log; exec DIR/app"
[group.www.hook]
before_open = ["DIR/hook", "x y"]
after_open = "DIR/hook"
before_close = "DIR/hook"
after_close = "DIR/hook"
keepalived = "DIR/notify"
"#;
    let note = "#!/bin/sh\necho \"$1\" >> DIR/log\n";
    let hook = "#!/bin/sh\nset | grep -q EVENKEEL_WORKER && exit 9\necho $EVENKEEL_HOOK $EVENKEEL_GROUP $EVENKEEL_ROLE $EVENKEEL_EPOCH $EVENKEEL_NODE $EVENKEEL_PEER $EVENKEEL_REASON $1 >> DIR/log\n";
    let notify = "#!/bin/sh\necho $# $1 $2 $3 $4 >> DIR/states\n";
    let mut room = Room::new(
        text,
        &[("note", note), ("hook", hook), ("notify", notify), APP],
    );
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { epoch: ready, .. } if ready == epoch(5)));
    room.want(Want::Open { epoch: epoch(5) });
    room.eventually("after_open", |room| room.text("log").contains("after_open"));
    let pid = room.pid("pid");
    room.want(Want::Closing { epoch: epoch(5) });
    assert!(matches!(
        room.next(),
        Report::MayClose {
            by_deadline: false,
            ..
        }
    ));
    assert!(lives(pid), "it serves until the addresses are closed");
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    assert!(!lives(pid));
    let log = room.text("log");
    let lines: Vec<&str> = log.lines().filter(|line| *line != "stop db").collect();
    assert_eq!(
        lines,
        [
            "start db",
            "start app",
            "before_open www opening 5 a b a test x y",
            "after_open www holder 5 a b a test",
            "before_close www closing 5 a b a test",
            "after_close www standby 5 a b a test",
        ]
    );
    room.eventually("the last state", |room| {
        room.text("states").trim_end().ends_with("BACKUP 200")
    });
    assert!(room.text("states").contains("4 INSTANCE www MASTER 200\n"));
}

#[test]
fn a_death_is_told_at_once_and_what_was_left_of_it_is_gone() {
    let text = "[group.www.service.app]\nstart = \"sleep 600 & echo $! > DIR/child; exec DIR/app\"\nrestart = 1\n";
    let mut room = Room::new(text, &[APP]);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    let (pid, child) = (room.pid("pid"), room.pid("child"));
    kill(pid);
    let Report::Died { detail, .. } = room.next() else {
        panic!("no death")
    };
    assert_eq!(detail, "it was ended by signal 9");
    room.eventually("its child ends", |_| !lives(child));
    room.eventually("it runs again", |room| room.pid("pid") != pid);
    kill(room.pid("pid"));
    assert!(matches!(room.next(), Report::Died { .. }));
    assert!(matches!(room.next(), Report::Failed { .. }));
    assert_eq!(room.unready(), ["service app: it was ended by signal 9"]);
}

#[test]
fn a_service_that_ignores_sigterm_is_killed_with_its_group() {
    let text = "[group.www.service.app]\nstart = \"trap '' TERM; sleep 600 & echo $! > DIR/child; echo $$ > DIR/pid; while :; do sleep 0.1; done\"\nstop_timeout = \"100ms\"\n";
    let mut room = Room::new(text, &[]);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    let (pid, child) = (room.pid("pid"), room.pid("child"));
    room.want(Want::Standby);
    let Report::Forced { how, .. } = room.next() else {
        panic!("not forced")
    };
    assert!(how.contains("SIGKILL"), "{how}");
    assert!(matches!(room.next(), Report::Stopped { .. }));
    assert!(!lives(pid));
    room.eventually("its child ends", |_| !lives(child));
}

#[test]
fn what_the_file_does_not_name_any_more_is_stopped_when_that_is_said() {
    let text = "[group.www.service.app]\nstart = [\"DIR/app\"]\n\
        [group.www.service.scripts]\nstart = [\"DIR/say\", \"start\"]\nstop = [\"DIR/say\", \"stop it\"]\n\
        [group.www.service.warm]\nwhen = \"always\"\nstart = \"echo $$ > DIR/warm; exec sleep 600\"\n";
    let say = ("say", "#!/bin/sh\necho \"$1\" >> DIR/said\n");
    let mut room = Room::new(text, &[APP, say]);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    let (app, warm) = (room.pid("pid"), room.pid("warm"));
    // A worker with the same file disturbs nothing.
    room.restart();
    room.services.as_mut().expect("it runs").sweep();
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    assert!(!room.text("said").contains("stop"));
    assert!(lives(app) && lives(warm));
    assert_eq!(room.pid("pid"), app, "nor is it started twice");
    // One whose file has the group and no more, and it is not known yet whether it is open.
    room.hosted = hosted("", room.directory.path());
    room.restart();
    room.services.as_mut().expect("it runs").sweep();
    room.eventually("it is there", |room| {
        let services = room.services.as_ref().expect("it runs");
        services.status().contains_key(&www())
    });
    assert!(lives(app), "not before the first word");
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    assert!(!lives(app));
    assert!(room.text("said").ends_with("stop it\n"));
    assert!(lives(warm), "what runs always is left alone");
    kill(warm);
    let notes = || {
        fs::read_dir(room.file("notes"))
            .into_iter()
            .flatten()
            .flatten()
    };
    room.eventually("no notes are left", |_| {
        !notes().any(|note| note.path().extension() == Some("held".as_ref()))
    });
}

#[test]
fn what_ran_before_the_group_opened_is_stopped_with_it_too() {
    let text = "[group.www.service.app]\nstart = \"false\"\nstop = \"rm DIR/up\"\n\
        status = \"test -e DIR/up || exit 3\"\n";
    let mut room = Room::new(text, &[]);
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    fs::write(room.file("up"), "").expect("written");
    assert!(matches!(room.next(), Report::Foreign { .. }));
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    room.hosted = hosted("", room.directory.path());
    room.restart();
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    assert!(!room.file("up").exists());
}

#[test]
fn what_is_left_of_a_group_that_is_gone_is_stopped_when_that_is_said() {
    let text = "[group.www.service.app]\nstart = [\"DIR/app\"]\n";
    let mut room = Room::new(text, &[APP]);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    let app = room.pid("pid");
    room.services = None;
    let settings = settings(Vec::new(), room.directory.path());
    assert!(evenkeel_services::is_needed(&settings));
    let (send, _reports) = mpsc::channel(64);
    let mut services = Services::start(settings.clone(), send).expect("it starts");
    assert!(lives(app), "not before it is closed");
    services.sweep();
    room.eventually("it ends", |_| !lives(app));
    room.eventually("no note is left, nor that it was open", |_| {
        !evenkeel_services::is_needed(&settings)
    });
}

#[test]
fn a_renamed_service_is_stopped_before_it_is_started_by_its_new_name() {
    // One that needs its time to end, and takes another that runs for a fault.
    let slow = (
        "slow",
        "#!/bin/sh\ntrap 'sleep 0.3; rmdir DIR/runs; exit 0' TERM\n\
         mkdir DIR/runs || echo two >> DIR/two\necho $$ > DIR/new; mv DIR/new DIR/pid\n\
         while :; do sleep 600 & wait $!; done\n",
    );
    let text = "[group.www.service.app]\nstart = [\"DIR/slow\"]\n\
        [group.www.service.scripts]\nstart = \"echo start >> DIR/said; touch DIR/up\"\n\
        stop = \"rm DIR/up\"\nstatus = \"test -e DIR/up || exit 3\"\n";
    let mut room = Room::new(text, &[slow]);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    let open = Want::Open { epoch: epoch(5) };
    room.want(open);
    let pid = room.pid("pid");
    let text = text.replace("service.app", "service.web");
    let text = text.replace("service.scripts", "service.others");
    room.hosted = hosted(&text, room.directory.path());
    room.restart();
    room.services.as_mut().expect("it runs").sweep();
    room.want(open);
    room.eventually("all of it runs", |room| {
        let status = room.services.as_ref().expect("it runs").status();
        status.get(&www()).is_some_and(|group| group.reached)
    });
    assert!(!lives(pid));
    assert!(lives(room.pid("pid")));
    assert_eq!(room.text("two"), "");
    assert_eq!(room.text("said"), "start\nstart\n");
    assert!(room.file("up").exists());
    assert!(room.reports.try_recv().is_err(), "nothing has died");
}

#[test]
fn what_is_left_and_does_not_stop_is_told_and_tried_again() {
    let text = "[group.www.service.app]\nstart = \"true\"\nstop = \"test -e DIR/may\"\n";
    let mut room = Room::new(text, &[]);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    room.hosted = hosted("", room.directory.path());
    room.restart();
    room.want(Want::Standby);
    let Report::LeftRuns { service, reason } = room.next() else {
        panic!("not told")
    };
    assert_eq!(service, "www.app");
    assert!(reason.contains("ended with status 1"), "{reason}");
    fs::write(room.file("may"), "").expect("written");
    while !matches!(room.next(), Report::LeftStopped { .. }) {}
    assert!(!room.file("notes/www.app.held").exists());
}

#[test]
fn what_would_be_killed_with_the_daemon_is_stopped_before() {
    let text = "[group.www.service.app]\nwhen = \"always\"\n\
        start = \"trap 'echo > DIR/clean; exit 0' TERM; echo $$ > DIR/pid; sleep 600 & wait\"\n";
    let mut room = Room::new(text, &[]);
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    let pid = room.pid("pid");
    assert!(lives(pid));
    let services = room.services.as_ref().expect("it runs");
    services.leave(&Context::default());
    assert!(matches!(room.next(), Report::Stopped { .. }));
    assert!(!lives(pid));
    assert!(room.file("clean").exists(), "by its own hand");
    let all = evenkeel_services::stop_max(&room.hosted);
    assert!(all >= room.hosted.services[0].stop_timeout);
}

#[test]
fn starts_that_fail_say_why() {
    let start = |line: &str, reason: &str| {
        let mut room = Room::new(
            &format!("[group.www.service.app]\n{line}\nstart_timeout = \"300ms\"\n"),
            &[("plain", "echo")],
        );
        let plain = fs::Permissions::from_mode(0o644);
        fs::set_permissions(room.file("plain"), plain).expect("set");
        room.want(OPENING);
        let Report::Failed { reason: told, .. } = room.next() else {
            panic!("it started")
        };
        assert!(told.contains(reason), "{told}");
    };
    start(
        "start = \"exit 77\"\nstop = \"true\"",
        "ended with status 77",
    );
    start("start = [\"/nonexistent/x\"]", "No such file");
    start("start = [\"DIR/plain\"]", "chmod 755");
    start(
        "start = \"sleep 600\"\nstop = \"true\"",
        "not up within 300ms",
    );
    start(
        "start = \"sleep 600\"\nstatus = \"false\"",
        "not up within 300ms",
    );
    start(
        "start = \"exit 3\"\nstatus = \"false\"",
        "ended with status 3",
    );
}

#[test]
fn a_start_that_hangs_is_given_up_when_it_is_no_longer_wanted() {
    let text = "[group.www.service.app]\nstart = \"echo $$ > DIR/pid; exec sleep 600\"\nstop = \"true\"\nstart_timeout = \"10m\"\n";
    let mut room = Room::new(text, &[]);
    room.want(OPENING);
    let pid = room.pid("pid");
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    room.eventually("the start ends", |_| !lives(pid));
}

#[test]
fn hooks_that_hang_or_flood_are_cut_and_told() {
    let text = "[group.www.hook]\nbefore_open = \"DIR/hangs\"\nafter_open = \"DIR/floods\"\nhook_timeout = \"500ms\"\n";
    let floods = "#!/bin/sh\nhead -c 100000000 /dev/zero\necho full >&2\nexit 1\n";
    let mut room = Room::new(
        text,
        &[
            (
                "hangs",
                "#!/bin/sh\ntrap '' TERM\nsleep 600 & echo $! > DIR/child\nwait\n",
            ),
            ("floods", floods),
        ],
    );
    room.want(OPENING);
    let Report::HookFailed { hook, reason, .. } = room.next() else {
        panic!("no failure")
    };
    assert_eq!(hook, Hook::BeforeOpen);
    assert!(reason.contains("its time was over"), "{reason}");
    assert!(
        matches!(room.next(), Report::Ready { .. }),
        "it holds nothing up"
    );
    let child = room.pid("child");
    room.eventually("the whole group ends", |_| !lives(child));
    room.want(Want::Open { epoch: epoch(5) });
    let Report::HookFailed { hook, .. } = room.next() else {
        panic!("no failure")
    };
    assert_eq!(hook, Hook::AfterOpen);
}

#[test]
fn a_room_that_closes_what_an_earlier_one_opened_runs_after_close() {
    let text = "[group.www.hook]\nafter_close = \"DIR/hook\"\n";
    let hook = "#!/bin/sh\necho $EVENKEEL_HOOK $EVENKEEL_EPOCH >> DIR/log\n";
    let mut room = Room::new(text, &[("hook", hook)]);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    room.want(Want::Open { epoch: epoch(5) });
    room.restart();
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    assert_eq!(room.text("log"), "after_close 5\n");
    // Once.
    room.restart();
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    assert_eq!(room.text("log"), "after_close 5\n");
}

const KILLED: &str = "[group.www.service.app]\nstart = [\"DIR/once\", \"start\"]\nstop = \"true\"\n\
    [group.www.hook]\nbefore_open = [\"DIR/once\", \"hook\"]\n";

#[test]
#[ignore = "no test: the worker that the next one kills, in a process of its own"]
fn as_a_worker_that_is_killed() {
    let directory = std::env::var_os("KILLED_WORKER").expect("started by the test");
    let directory = Path::new(&directory);
    let (services, _reports) = start(&hosted(KILLED, directory), directory);
    services.want(www(), OPENING, Context::default());
    std::thread::sleep(LONG);
}

#[test]
fn programs_of_a_worker_that_was_killed_are_ended_before_they_run_again() {
    // It hangs the first time, and finds fault with another one beside it.
    let once = "#!/bin/sh\nread other < DIR/$1 && \\\n\
        grep -q '^State:.[^ZX]' /proc/$other/status && echo $1 >> DIR/two\n\
        echo $$ > DIR/new; mv DIR/new DIR/$1\ntest -e DIR/$1.go || exec sleep 600\n";
    let mut room = Room::new(KILLED, &[("once", once)]);
    for program in ["start", "hook"] {
        room.services = None;
        let _ = fs::remove_file(room.file(program));
        let mut worker = std::process::Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "as_a_worker_that_is_killed", "--ignored"])
            .env("KILLED_WORKER", room.directory.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        let pid = room.pid(program);
        room.eventually("it is noted", |room| {
            let notes = fs::read_dir(room.file("notes")).into_iter().flatten();
            notes.flatten().any(|note| {
                let text = fs::read_to_string(note.path()).unwrap_or_default();
                text.starts_with(&format!("1 {pid} "))
            })
        });
        worker.kill().expect("killed");
        worker.wait().expect("it ended");
        assert!(lives(pid), "it outlives the worker");
        fs::write(room.file(&format!("{program}.go")), "").expect("written");
        room.restart();
        room.want(OPENING);
        room.eventually("it has ended", |_| !lives(pid));
        room.eventually("it runs again", |room| room.pid(program) != pid);
    }
    assert!(matches!(room.next(), Report::Ready { .. }));
    assert_eq!(room.text("two"), "");
}

#[test]
fn what_was_started_outlives_the_room_and_is_found_again() {
    let text = "[group.www.service.app]\nstart = [\"DIR/app\"]\n";
    let mut room = Room::new(text, &[APP]);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    let pid = room.pid("pid");
    room.restart();
    assert!(lives(pid));
    room.want(Want::Open { epoch: epoch(5) });
    room.eventually("it is open", |room| {
        let status = room.services.as_ref().expect("it runs").status();
        status.get(&www()).is_some_and(|group| group.reached)
    });
    assert_eq!(room.pid("pid"), pid, "not a second time");
    kill(pid);
    assert!(matches!(room.next(), Report::Died { .. }));
    assert!(matches!(room.next(), Report::Failed { .. }));
}

#[test]
fn what_one_that_was_found_again_leaves_behind_is_killed() {
    // A child that does not listen, which holds the service's port.
    let text = "[group.www.service.app]\nstart = \"(trap '' TERM; exec sleep 600) & echo $! > DIR/child; exec DIR/app\"\nrestart = 1\n";
    let mut room = Room::new(text, &[APP]);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    let child = room.pid("child");
    room.restart();
    room.want(Want::Open { epoch: epoch(5) });
    // What is dead before it is found again has not died for this room.
    room.eventually("it is found", |room| {
        let status = room.services.as_ref().expect("it runs").status();
        status.get(&www()).is_some_and(|group| group.reached)
    });
    kill(room.pid("pid"));
    assert!(matches!(room.next(), Report::Died { .. }));
    room.eventually("its child ends", |_| !lives(child));
    room.eventually("another is there", |room| {
        let status = room.services.as_ref().expect("it runs").status();
        status.get(&www()).is_some_and(|group| group.reached)
    });
    let child = room.pid("child");
    room.restart();
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    room.eventually("the other child ends", |_| !lives(child));
}

#[test]
fn one_that_daemonises_is_watched_by_its_status() {
    let text = "[group.www.service.app]\nstart = \"setsid sh -c 'echo $$ > DIR/pid; exec sleep 600' > /dev/null 2>&1 < /dev/null &\"\nstop = \"kill $(cat DIR/pid)\"\nstatus = \"kill -0 $(cat DIR/pid)\"\n";
    let mut room = Room::new(text, &[]);
    fs::write(room.file("pid"), "999999999").expect("written");
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    let pid = room.pid("pid");
    assert!(lives(pid), "it stays although its starter has ended");
    kill(pid);
    assert!(matches!(room.next(), Report::Died { .. }));
    assert!(matches!(room.next(), Report::Failed { .. }));
}

#[test]
fn files_that_others_can_write_make_the_node_unready() {
    let text = "[group.www.service.app]\nstart = \"DIR/app -d\"\n[group.www.hook]\nbefore_open = \"DIR/hook\"\n";
    let room = Room::new(text, &[APP]);
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(room.file("app"), open).expect("set");
    // It looked once at its start, and may have been quicker.
    let look = || evenkeel_services::doctor::examine_files(&room.hosted);
    let faults = look();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("service app") && faults[0].contains("chmod go-w"));
    assert!(faults[1].contains("hook before_open") && faults[1].contains("No such file"));
    room.eventually("the missing hook is told", |room| {
        room.unready()
            .iter()
            .any(|one| one.contains("No such file"))
    });
}

impl Room {
    fn set_mode(&self, name: &str, mode: u32) {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.file(name), mode).expect("set");
    }

    fn is_reached(&self) -> bool {
        let status = self.services.as_ref().expect("it runs").status();
        status.get(&www()).is_some_and(|group| group.reached)
    }
}

#[test]
fn what_others_can_write_never_runs_and_the_reason_is_told() {
    let text = "[group.www.service.app]\nwhen = \"always\"\nstart = \"DIR/open start\"\n\
        [group.www.hook]\nkeepalived = \"DIR/open\"\nafter_close = \"DIR/open\"\n";
    let open = (
        "open",
        "#!/bin/sh\necho \"$@\" >> DIR/ran\nexec sleep 600\n",
    );
    let mut room = Room::new(text, &[open]);
    room.set_mode("open", 0o777);
    room.want(Want::Standby);
    let (mut hook, mut service) = (None, None);
    while hook.is_none() || service.is_none() {
        match room.next() {
            Report::HookFailed {
                hook: Hook::Keepalived,
                reason,
                ..
            } => hook = Some(reason),
            Report::Failed { reason, .. } => service = Some(reason),
            _ => {}
        }
    }
    for reason in [hook, service].map(Option::unwrap_or_default) {
        assert!(reason.contains("chmod go-w makes it safe"), "{reason}");
    }
    let unready = room.unready();
    let told = |one: &String| one.contains("service app") && one.contains("chmod go-w");
    assert!(unready.iter().any(told), "{unready:?}");
    assert_eq!(room.text("ran"), "");
}

#[test]
fn a_stop_that_others_can_write_does_not_run_and_holds_nothing_up() {
    let text = "[group.www.service.app]\nstart = \"true\"\nstop = [\"DIR/stop\"]\n";
    let stop = ("stop", "#!/bin/sh\necho stop >> DIR/ran\n");
    let mut room = Room::new(text, &[stop]);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    room.set_mode("stop", 0o777);
    room.want(Want::Standby);
    let Report::StopFailed { reason, .. } = room.next() else {
        panic!("not told")
    };
    assert!(reason.contains("chmod go-w makes it safe"), "{reason}");
    assert!(matches!(room.next(), Report::Stopped { .. }));
    assert_eq!(room.text("ran"), "");
    // It is tried again, and somebody has read what the status says.
    room.set_mode("stop", 0o755);
    room.eventually("it stops", |room| room.text("ran") == "stop\n");
}

#[test]
fn a_room_that_goes_on_starts_no_script_a_second_time() {
    // As many a script of init does: what runs is a failure. The status takes its time, so that
    // the group is heard of first.
    let app = |name: &str| {
        format!(
            "[group.www.service.{name}]\nstart = \"mkdir DIR/{name} && echo {name} >> DIR/said\"\nstop = \"rmdir DIR/{name}\"\n"
        )
    };
    let seen = format!(
        "{}status = \"sleep 0.2; test -d DIR/seen || exit 3\"\n",
        app("seen")
    );
    let text = format!("{seen}{}", app("blind"));
    let mut room = Room::new(&text, &[]);
    room.want(OPENING);
    assert!(matches!(room.next(), Report::Ready { .. }));
    let open = Want::Open { epoch: epoch(5) };
    room.want(open);
    // The next one's file has one more, which has to be started.
    room.hosted = hosted(&format!("{text}{}", app("new")), room.directory.path());
    room.restart();
    room.want(open);
    room.eventually("all of it runs", Room::is_reached);
    assert_eq!(room.text("said"), "seen\nblind\nnew\n");
    assert!(room.reports.try_recv().is_err(), "nothing has failed");
    // What was stopped is started again.
    room.want(Want::Standby);
    assert!(matches!(room.next(), Report::Stopped { .. }));
    room.restart();
    room.want(Want::Opening { epoch: epoch(9) });
    assert!(matches!(room.next(), Report::Ready { .. }));
    assert_eq!(room.text("said").lines().count(), 6);
}

#[test]
fn what_a_status_and_a_script_of_keepalived_say_is_told() {
    let text = "[group.www.service.app]\nstart = \"true\"\nstop = \"true\"\n\
        status = \"echo it recovers; exit 4\"\nstart_timeout = \"1s\"\n\
        [group.www.hook]\nkeepalived = \"DIR/notify\"\n";
    let notify = ("notify", "#!/bin/sh\necho no such table >&2\nexit 7\n");
    let mut room = Room::new(text, &[notify]);
    room.want(OPENING);
    let mut said = Vec::new();
    while said.len() < 2 {
        match room.next() {
            Report::Failed { reason, .. } | Report::HookFailed { reason, .. } => said.push(reason),
            _ => {}
        }
    }
    let told = |what: &str| said.iter().any(|one| one.contains(what));
    assert!(
        told("not up within 1s: /bin/sh ended with status 4: it recovers"),
        "{said:?}"
    );
    assert!(told("ended with status 7: no such table"), "{said:?}");
}
