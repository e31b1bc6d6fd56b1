//! Programs that behave badly in every way, really run.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn limits(time: Duration) -> Limits {
    Limits {
        time,
        output: 1000,
        leftovers: Leftovers::Kill,
    }
}

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

async fn shell(line: &str) -> Finished {
    run(&Program::shell(line), &limits(LONG))
        .await
        .expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until a process is gone, for real or as a zombie of somebody else.
async fn gone(pid: u32) {
    let wait = async {
        while let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
            let state = stat.rsplit(") ").next().unwrap_or("Z");
            if state.starts_with('Z') {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("it is gone");
}

#[tokio::test]
async fn output_errors_and_status_are_told_apart() {
    let finished = shell("echo out; echo err >&2; exit 77").await;
    assert_eq!(finished.end, End::Exit(77));
    assert_eq!(text(&finished.output), "out\n");
    assert_eq!(text(&finished.errors), "err\n");
    assert!(!finished.cut);
    assert_eq!(finished.line(), "err");
    assert_eq!(shell("kill -9 $$").await.end, End::Signal(9));
    assert!(shell("true").await.end.is_success());
}

#[tokio::test]
async fn arguments_and_environment_are_passed_and_nothing_else() {
    let program = Program::new("/usr/bin/env", [] as [&str; 0]).env("EVENKEEL_GROUP", "www");
    let finished = run(&program, &limits(LONG)).await.expect("it runs");
    assert_eq!(
        text(&finished.output),
        format!("EVENKEEL_GROUP=www\nPATH={PATH}\n")
    );
    let program = Program::new("/bin/echo", ["a b", "$HOME"]);
    let finished = run(&program, &limits(LONG)).await.expect("it runs");
    assert_eq!(text(&finished.output), "a b $HOME\n");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children() {
    let line = "trap '' TERM; sleep 600 & echo $!; wait; sleep 600";
    let finished = run(&Program::shell(line), &limits(Duration::from_millis(300)))
        .await
        .expect("it runs");
    assert_eq!(finished.end, End::Killed);
    let child = text(&finished.output).trim().parse().expect("a number");
    gone(child).await;
}

#[tokio::test]
async fn what_is_left_behind_is_killed_or_left_as_wanted() {
    let line = "sleep 600 & echo $!";
    let killed = shell(line).await;
    assert!(killed.end.is_success());
    gone(text(&killed.output).trim().parse().expect("a number")).await;

    let leave = Limits {
        leftovers: Leftovers::Leave,
        ..limits(LONG)
    };
    let left = run(&Program::shell(line), &leave).await.expect("it runs");
    assert!(left.end.is_success(), "not waited for");
    let pid: u32 = text(&left.output).trim().parse().expect("a number");
    assert!(fs::exists(format!("/proc/{pid}")).expect("proc"));
    let pid = as_pid(pid).expect("a number");
    rustix::process::kill_process(pid, Signal::KILL).expect("our grandchild");
}

#[tokio::test]
async fn a_gigabyte_is_read_and_cut() {
    let line = "head -c 1000000000 /dev/zero; echo end >&2";
    let finished = shell(line).await;
    assert!(finished.end.is_success(), "{:?}", finished.end);
    assert_eq!(finished.output.len(), 1000);
    assert_eq!(text(&finished.errors), "end\n");
    assert!(finished.cut);
}

#[tokio::test]
async fn one_that_writes_for_ever_is_killed() {
    let program = Program::new("/usr/bin/yes", [] as [&str; 0]);
    let finished = run(&program, &limits(Duration::from_millis(200)))
        .await
        .expect("it runs");
    assert_eq!(finished.end, End::Killed);
    assert_eq!(finished.output.len(), 1000);
}

#[tokio::test]
async fn what_is_no_program_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, content: &str, mode| {
        let path = directory.path().join(name);
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        path
    };
    let plain = file("plain", "echo", 0o644);
    let shebang = file("shebang", "echo no line", 0o755);
    for (path, reason) in [
        (plain, "chmod 755"),
        (shebang, "#!/bin/sh"),
        (PathBuf::from("/nonexistent/x"), "No such file"),
    ] {
        let program = Program::new(path, [] as [&str; 0]);
        let error = run(&program, &limits(LONG)).await.expect_err("refused");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.is_of_the_program());
    }
    let program = Program::new("/bin/true", ["a\0b"]);
    let error = run(&program, &limits(LONG)).await.expect_err("refused");
    assert!(matches!(error, RunError::Null { .. }));
}

#[tokio::test]
async fn no_descriptor_of_ours_is_inherited() {
    let (_read, write) = rustix::pipe::pipe().expect("a pipe, not close-on-exec");
    let finished = shell("ls -l /proc/self/fd | grep -c -e 'pipe:' ; ls /proc/$$/fd").await;
    drop(write);
    // Standard output and error of ls are pipes, and that of ls to grep.
    assert_eq!(text(&finished.output), "2\n0\n1\n2\n");
}

/// Field `number` of proc(5) `stat`, counted from 1.
fn field(stat: &str, number: usize) -> i64 {
    let after_name = stat.rsplit(')').next().expect("a name in brackets");
    let field = after_name.split_whitespace().nth(number - 3);
    field.and_then(|field| field.parse().ok()).expect("a field")
}

#[test]
fn a_real_time_and_favoured_starter_starts_ordinary_programs() {
    let stat = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(|| {
                let _ = crate::sys::sched::favoured();
            })
            .enable_all()
            .build()
            .expect("a runtime");
        let task = runtime.spawn(shell("cat /proc/self/stat; umask; pwd"));
        runtime.block_on(task).expect("no panic")
    });
    let stat = text(&stat.join().expect("no panic").output);
    let lines: Vec<&str> = stat.lines().collect();
    assert_eq!((field(lines[0], 19), field(lines[0], 41)), (0, 0), "{stat}");
    assert_eq!(lines[1..], ["0022", "/"]);
    // In a session of its own, the shell's.
    assert_eq!(field(lines[0], 5), field(lines[0], 6));
}

#[tokio::test]
async fn hundreds_run_at_once() {
    let all: Vec<_> = (0..300)
        .map(|number| {
            tokio::spawn(async move { shell(&format!("sleep 0.2; exit {}", number % 100)).await })
        })
        .collect();
    for (number, one) in (0..).zip(all) {
        assert_eq!(one.await.expect("no panic").end, End::Exit(number % 100));
    }
}

#[tokio::test]
async fn a_run_that_is_given_up_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let note = directory.path().join("pid");
    let program = Program::shell(&format!("echo $$ > {}; exec sleep 600", note.display()));
    let task = tokio::spawn(async move { run(&program, &limits(LONG)).await });
    let pid = async {
        loop {
            let noted = fs::read_to_string(&note).unwrap_or_default();
            match noted.trim().parse::<u32>() {
                Ok(pid) => return pid,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    let pid = tokio::time::timeout(LONG, pid).await.expect("it runs");
    task.abort();
    gone(pid).await;
}

#[tokio::test]
async fn a_child_that_stays_outlives_its_handle() {
    let program = Program::new("/bin/sleep", ["600"]);
    let start = Child::start(&program, Output::Nowhere, None, LONG);
    let mut child = start.await.expect("it runs");
    let identity = child.identity().expect("it runs");
    child.stay();
    drop(child);
    let watched = crate::process::Watched::open_same(identity).expect("it still runs");
    let pid = as_pid(identity.pid).expect("a number");
    rustix::process::kill_process(pid, Signal::KILL).expect("our child");
    tokio::time::timeout(LONG, watched.wait_death())
        .await
        .expect("it ends");
    // And it is waited for: no zombie stays.
    let reaped = async {
        while fs::exists(format!("/proc/{}", identity.pid)).expect("proc") {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, reaped).await.expect("reaped");
}

#[tokio::test]
async fn a_child_ends_by_signal_and_says_so() {
    let program = Program::new("/bin/sleep", ["600"]);
    let start = Child::start(&program, Output::Nowhere, None, LONG);
    let mut child = start.await.expect("it runs");
    child.signal(Signal::TERM);
    let end = tokio::time::timeout(LONG, child.wait()).await;
    assert_eq!(end.expect("it ends"), End::Signal(15));
    child.kill();
    assert_eq!(child.wait().await, End::Unknown);
}

#[test]
fn files_that_others_can_change_are_not_trusted() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hook");
    fs::write(&path, "#!/bin/sh\n").expect("written");
    let mode = |mode| {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        trusted(&path)
    };
    mode(0o755).expect("fine");
    assert!(matches!(mode(0o644), Err(Untrusted::NotExecutable)));
    assert!(matches!(mode(0o775), Err(Untrusted::Writable { .. })));
    assert!(matches!(mode(0o757), Err(Untrusted::Writable { .. })));
    mode(0o700).expect("fine");
    assert!(matches!(trusted(directory.path()), Err(Untrusted::NoFile)));
    assert!(matches!(
        trusted("/nonexistent"),
        Err(Untrusted::Unreadable(_))
    ));
    // Whoever may write the directory may put another file there.
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(directory.path(), open).expect("set");
    assert!(matches!(trusted(&path), Err(Untrusted::Writable { .. })));
    trusted("/bin/sh").expect("fine");
}

#[test]
fn a_link_that_others_can_replace_is_not_trusted() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = directory.path().join("open");
    fs::create_dir(&open).expect("made");
    let link = open.join("sh");
    std::os::unix::fs::symlink("/bin/sh", &link).expect("made");
    let mode = |mode| fs::set_permissions(&open, fs::Permissions::from_mode(mode)).expect("set");
    mode(0o755);
    trusted(&link).expect("fine");
    mode(0o777);
    assert!(matches!(trusted(&link), Err(Untrusted::Writable { .. })));
}

#[tokio::test]
async fn what_others_can_change_is_not_run_if_that_is_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("program");
    let trace = directory.path().join("trace");
    fs::write(&path, format!("#!/bin/sh\necho >> {}\n", trace.display())).expect("written");
    let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
    let program = Program::new(&path, [] as [&str; 0]).only_if_trusted(&path);
    mode(0o777);
    let error = run(&program, &limits(LONG)).await.expect_err("refused");
    assert!(matches!(error, RunError::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains("chmod go-w"), "{error}");
    assert!(!trace.exists(), "it did not run");
    mode(0o755);
    run(&program, &limits(LONG)).await.expect("it runs");
    assert!(trace.exists());
}
