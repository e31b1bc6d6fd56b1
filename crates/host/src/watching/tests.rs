//! With the real kernel, on whatever file system the temporary directory is.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A watched directory, and one beside it that is not.
struct Tree {
    whole: tempfile::TempDir,
    watch: Watch,
    cookies: u32,
}

impl Tree {
    /// Nothing where it cannot be had; the reason has been told then.
    fn new() -> Option<Self> {
        let whole = tempfile::tempdir().expect("a directory");
        fs::create_dir(whole.path().join("in")).expect("made");
        fs::create_dir(whole.path().join("out")).expect("made");
        match Watch::start(&whole.path().join("in")) {
            Ok(watch) => Some(Self {
                whole,
                watch,
                cookies: 0,
            }),
            Err(error @ (WatchError::Rights | WatchError::Unable { .. })) => {
                eprintln!("SKIPPED: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.whole.path().join(path)
    }

    /// What was told since the last time: all until the notice of a file that is made for it.
    async fn told(&mut self) -> Vec<Change> {
        self.cookies += 1;
        let cookie = PathBuf::from(format!("cookie{}", self.cookies));
        fs::create_dir(self.at("in").join(&cookie)).expect("made");
        let mut told = Vec::new();
        let reading = async {
            loop {
                for change in self.watch.changes().await.expect("read") {
                    match change {
                        Change::Touched { path, .. } if path == cookie => return,
                        other => told.push(other),
                    }
                }
            }
        };
        tokio::time::timeout(LONG, reading).await.expect("in time");
        told
    }
}

fn run(test: impl AsyncFnOnce(Tree)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        if let Some(tree) = Tree::new() {
            test(tree).await;
        }
    });
}

/// Where to look, in order, each path once.
fn paths(told: &[Change]) -> Vec<&str> {
    let mut paths: Vec<&str> = Vec::new();
    for change in told {
        let path = match change {
            Change::Touched { path, .. } | Change::Arrived { path, .. } => path,
            other => panic!("{other:?}"),
        };
        let path = path.to_str().expect("a name of the test");
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

#[test]
fn every_way_of_changing_something_is_told_where_it_is() {
    run(async |mut tree| {
        fs::create_dir_all(tree.at("in/a/b")).expect("made");
        fs::write(tree.at("in/a/b/f"), "x").expect("written");
        let told = tree.told().await;
        assert_eq!(paths(&told), ["a", "a/b", "a/b/f"]);
        let own = i32::try_from(std::process::id()).expect("a number of a process");
        for change in &told {
            assert!(
                matches!(change, Change::Touched { process, .. } if *process == own),
                "{change:?}"
            );
        }
        let ways = told.iter().fold(0, |all, change| match change {
            Change::Touched { path, ways, .. } if path.ends_with("f") => all | ways.0,
            _ => all,
        });
        let ways = Ways(ways);
        assert!(ways.entry() && ways.written() && ways.closed() && !ways.attributes());

        fs::write(tree.at("in/a/b/f"), "xy").expect("written");
        assert_eq!(paths(&tree.told().await), ["a/b/f"]);
        let some = fs::Permissions::from_mode(0o640);
        fs::set_permissions(tree.at("in/a/b/f"), some).expect("set");
        let told = tree.told().await;
        assert_eq!(paths(&told), ["a/b/f"]);
        assert!(
            matches!(&told[0], Change::Touched { ways, .. } if ways.attributes()),
            "{told:?}"
        );
        let some = fs::Permissions::from_mode(0o750);
        fs::set_permissions(tree.at("in/a/b"), some.clone()).expect("set");
        assert_eq!(paths(&tree.told().await), ["a/b"]);
        fs::set_permissions(tree.at("in"), some).expect("set");
        assert_eq!(paths(&tree.told().await), [""]);

        fs::hard_link(tree.at("in/a/b/f"), tree.at("in/a/g")).expect("linked");
        assert_eq!(paths(&tree.told().await), ["a/g"]);
        std::os::unix::fs::symlink("nowhere", tree.at("in/a/s")).expect("linked");
        assert_eq!(paths(&tree.told().await), ["a/s"]);
        fs::remove_file(tree.at("in/a/g")).expect("removed");
        assert_eq!(paths(&tree.told().await), ["a/g"]);
    });
}

#[test]
fn a_rename_is_one_notice_with_both_names() {
    run(async |mut tree| {
        fs::create_dir(tree.at("in/a")).expect("made");
        fs::write(tree.at("in/a/f"), "x").expect("written");
        tree.told().await;
        fs::rename(tree.at("in/a/f"), tree.at("in/g")).expect("renamed");
        fs::rename(tree.at("in/a"), tree.at("in/b")).expect("renamed");
        let told = tree.told().await;
        let told: Vec<_> = told
            .iter()
            .map(|change| match change {
                Change::Moved {
                    from,
                    to,
                    directory,
                    ..
                } => (
                    from.to_str().expect("a name"),
                    to.to_str().expect("a name"),
                    *directory,
                ),
                other => panic!("{other:?}"),
            })
            .collect();
        // The first by the name that its directory has when it is read.
        assert_eq!(told, [("b/f", "g", false), ("a", "b", true)]);
    });
}

#[test]
fn what_comes_from_outside_and_goes_there_is_told_and_nothing_else_of_it() {
    run(async |mut tree| {
        fs::create_dir_all(tree.at("out/a/b")).expect("made");
        fs::write(tree.at("out/a/b/f"), "x").expect("written");
        fs::write(tree.at("inside"), "its name begins like the watched one's").expect("written");
        assert_eq!(tree.told().await, []);
        fs::rename(tree.at("out/a"), tree.at("in/a")).expect("renamed");
        let told = tree.told().await;
        assert!(
            matches!(&told[..], [Change::Arrived { path, .. }] if path == Path::new("a")),
            "{told:?}"
        );
        fs::write(tree.at("in/a/b/f"), "xy").expect("written");
        assert_eq!(paths(&tree.told().await), ["a/b/f"]);
        fs::rename(tree.at("in/a"), tree.at("out/c")).expect("renamed");
        assert_eq!(paths(&tree.told().await), ["a"]);
        fs::write(tree.at("out/c/b/f"), "xyz").expect("written");
        assert_eq!(tree.told().await, []);
    });
}

#[test]
fn a_directory_that_is_gone_when_its_notices_are_read_is_told_by_its_name_alone() {
    run(async |mut tree| {
        fs::create_dir_all(tree.at("in/a/b")).expect("made");
        fs::write(tree.at("in/a/b/f"), "x").expect("written");
        fs::remove_dir_all(tree.at("in/a")).expect("removed");
        assert_eq!(paths(&tree.told().await), ["a"]);
    });
}

#[test]
fn names_in_any_bytes_are_told_as_they_are() {
    run(async |mut tree| {
        let name = std::ffi::OsStr::from_bytes(b"-\xff\n \x01#");
        fs::write(tree.at("in").join(name), "x").expect("written");
        let told = tree.told().await;
        assert!(!told.is_empty());
        for change in told {
            assert!(
                matches!(&change, Change::Touched { path, .. } if path.as_os_str() == name),
                "{change:?}"
            );
        }
    });
}

#[test]
fn while_the_watched_directory_is_away_that_is_told_and_what_waits_is_kept() {
    run(async |mut tree| {
        fs::rename(tree.at("in"), tree.at("other")).expect("renamed");
        fs::write(tree.at("other/f"), "x").expect("written");
        let away = tokio::time::timeout(LONG, tree.watch.changes());
        let away = away.await.expect("in time");
        assert!(matches!(away, Err(WatchError::Open { .. })), "{away:?}");
        fs::rename(tree.at("other"), tree.at("in")).expect("renamed");
        assert_eq!(paths(&tree.told().await), ["f"]);
    });
}

#[test]
fn more_than_the_queue_holds_is_told_as_lost() {
    let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap_or_default();
    let Ok(limit @ ..=100_000) = limit.trim().parse::<u32>() else {
        eprintln!("SKIPPED: this machine's queue of notices is {limit:?} long");
        return;
    };
    run(async |mut tree| {
        for number in 0..=limit {
            fs::create_dir(tree.at(&format!("in/{number}"))).expect("made");
        }
        // The cookie comes after the queue has been emptied, or it would be lost itself.
        let first = tokio::time::timeout(LONG, async {
            let mut told = tree.watch.changes().await.expect("read");
            while !matches!(told.last(), Some(Change::Lost { .. })) {
                told.extend(tree.watch.changes().await.expect("read"));
            }
            told
        });
        let first = first.await.expect("in time");
        let kept = u32::try_from(first.len()).expect("not so many");
        assert!(kept > limit / 2, "only {kept} of {limit} were told");
        assert_eq!(tree.told().await, []);
    });
}
