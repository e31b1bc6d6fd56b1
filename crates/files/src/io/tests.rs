//! Looking and making, with a real file system on both sides: what is made is what was looked at.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use evenkeel_core::fence::{Refused, Seal};
use evenkeel_core::{Epoch, NodeId};

use super::gate::Gate;
use super::look::{Here, Looked, look, names_in};
use super::make::{MakeError, Maker};
use super::root::Root;
use crate::path::{NAME_BYTES_MAX, OWN, SharePath};
use crate::state::{Kind, Time};

const ME: NodeId = NodeId(1);
const SOURCE: NodeId = NodeId(2);
const FIRST: Epoch = Epoch { term: 1, index: 1 };
const SECOND: Epoch = Epoch { term: 1, index: 2 };

/// Longer than any file of these tests.
const LONG: u64 = 64 * 1024;

/// A source, and a replica that follows it.
struct Pair {
    whole: tempfile::TempDir,
    gate: Arc<Gate>,
}

impl Pair {
    fn new() -> Self {
        let whole = tempfile::tempdir().expect("a directory");
        for name in ["source", "replica"] {
            fs::create_dir(whole.path().join(name)).expect("made");
        }
        let gate = Gate::open(ME, whole.path().join("seal")).expect("a gate");
        let gate = Arc::new(gate);
        let pair = Self { whole, gate };
        pair.follow(FIRST);
        pair
    }

    fn follow(&self, epoch: Epoch) {
        let writer = SOURCE;
        self.gate.raise(Seal { epoch, writer }).expect("raised");
    }

    fn source(&self, path: &str) -> PathBuf {
        self.whole.path().join("source").join(path)
    }

    fn replica(&self, path: &str) -> PathBuf {
        self.whole.path().join("replica").join(path)
    }

    fn roots(&self) -> (Root, Root) {
        let open = |name| Root::open(&self.whole.path().join(name)).expect("opened");
        (open("source"), open("replica"))
    }

    fn maker(&self) -> Maker {
        let (_, replica) = self.roots();
        Maker::new(replica, Arc::clone(&self.gate), (FIRST, SOURCE)).expect("a maker")
    }

    /// Looks at a path and makes the replica have it.
    fn send(&self, path: &SharePath) -> Result<(), MakeError> {
        let (source, _) = self.roots();
        let mut maker = self.maker();
        let parent = path
            .parent()
            .and_then(|parent| look(&source, &parent, LONG).ok());
        let parent = parent.and_then(|parent| match parent {
            Looked::Here(here) => Some(here.state.attributes.modified),
            Looked::Gone | Looked::Elsewhere => None,
        });
        match look(&source, path, LONG).expect("looked at") {
            Looked::Gone => maker.remove_at(path, parent),
            Looked::Here(here) => {
                let content = here.content.unwrap_or_default();
                maker.put(path, &here.state, &content, parent).map(drop)
            }
            Looked::Elsewhere => panic!("{path} is elsewhere"),
        }
    }

    /// All of it, directories first, and their times last.
    fn send_all(&self) {
        let (source, replica) = self.roots();
        let all: BTreeSet<_> = [paths(&source), paths(&replica)]
            .concat()
            .into_iter()
            .collect();
        for path in &all {
            self.send(path)
                .unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        self.is_equal();
    }

    /// The comparer: everything that a look tells of both trees, and which names are of one inode.
    fn is_equal(&self) {
        let (source, replica) = self.roots();
        let (ours, theirs) = (paths(&source), paths(&replica));
        assert_eq!(ours, theirs);
        for path in &ours {
            let (one, other) = (here(&source, path), here(&replica, path));
            assert_eq!(one.state, other.state, "{path}");
            assert_eq!(one.content, other.content, "{path}");
        }
    }
}

fn path(text: &str) -> SharePath {
    SharePath::new(text.as_bytes()).expect("a path")
}

fn here(root: &Root, path: &SharePath) -> Here {
    match look(root, path, LONG).expect("looked at") {
        Looked::Here(here) => here,
        other => panic!("{path}: {other:?}"),
    }
}

/// Everything below, the root first, but for what is the product's own.
fn paths(root: &Root) -> Vec<SharePath> {
    let mut all = vec![SharePath::root()];
    let mut at = 0;
    while at < all.len() {
        let path = all[at].clone();
        at += 1;
        if here(root, &path).state.kind == Kind::Directory {
            let names = names_in(root, &path).expect("read").into_iter();
            let inner = names.map(|name| path.join(&name).expect("a path"));
            all.extend(inner.filter(|path| !path.is_own()));
        }
    }
    all.sort();
    all
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).expect("set");
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: owners, devices and capabilities, which take root");
    }
    root
}

#[test]
fn everything_that_a_tree_can_have_is_made_as_it_is() {
    let pair = Pair::new();
    fs::create_dir_all(pair.source("d/e/f")).expect("made");
    fs::write(pair.source("d/file"), "content").expect("written");
    fs::write(pair.source("empty"), "").expect("written");
    std::os::unix::fs::symlink("../outside\n/\u{e4}", pair.source("d/link")).expect("linked");
    let rights = |path: &str, mode| {
        let rights = fs::Permissions::from_mode(mode);
        fs::set_permissions(pair.source(path), rights).expect("set");
    };
    rights("d/file", 0o6751);
    rights("d/e", 0o1777);
    rights("d/e/f", 0o500);
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mkfifoat(rustix::fs::CWD, pair.source("pipe"), mode).expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(pair.source("socket")).expect("bound");
    set(&pair.source("d/file"), "user.some", b"v\0alue");
    set(&pair.source("d"), "user.empty", b"");
    // An access control list for user 7, as the kernel keeps it: version 2, then tag, rights, whom.
    let entry = |tag: u16, rights: u16, whom: u32| {
        [
            &tag.to_le_bytes()[..],
            &rights.to_le_bytes(),
            &whom.to_le_bytes(),
        ]
        .concat()
    };
    let list = [
        2_u32.to_le_bytes().to_vec(),
        entry(0x01, 7, u32::MAX),
        entry(0x02, 6, 7),
        entry(0x04, 5, u32::MAX),
        entry(0x10, 7, u32::MAX),
        entry(0x20, 1, u32::MAX),
    ]
    .concat();
    set(&pair.source("d/file"), "system.posix_acl_access", &list);
    set(&pair.source("d"), "system.posix_acl_default", &list);
    if is_root() {
        std::os::unix::fs::chown(pair.source("d/file"), Some(12345), Some(54321)).expect("given");
        std::os::unix::fs::lchown(pair.source("d/link"), Some(1), Some(2)).expect("given");
        rights("d/file", 0o6751);
        let device = rustix::fs::makedev(1, 3);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, pair.source("null"), kind, mode, device)
            .expect("made");
        set(&pair.source("d/link"), "trusted.some", b"x");
        // cap_net_bind_service=ep, of version 2.
        let capability = [0x0200_0001_u32, 0x400, 0, 0, 0]
            .map(u32::to_le_bytes)
            .concat();
        set(&pair.source("empty"), "security.capability", &capability);
    }
    let before_1970 = UNIX_EPOCH - Duration::new(86_400, 1);
    let file = fs::File::open(pair.source("d/file")).expect("opened");
    file.set_modified(before_1970).expect("set");
    pair.send_all();

    // And again, with everything different.
    fs::remove_file(pair.source("d/link")).expect("removed");
    fs::remove_dir_all(pair.source("d/e")).expect("removed");
    rights("d/file", 0o600);
    rustix::fs::lremovexattr(pair.source("d/file"), "user.some").expect("removed");
    rustix::fs::lremovexattr(pair.source("d"), "system.posix_acl_default").expect("removed");
    fs::write(pair.source("empty"), "no longer").expect("written");
    pair.send_all();
}

#[test]
fn one_kind_of_thing_becomes_another_and_back() {
    let pair = Pair::new();
    let at = pair.source("x");
    let remove = |at: &Path| {
        let gone = fs::remove_file(at).or_else(|_| fs::remove_dir_all(at));
        gone.expect("removed");
    };
    let kinds: [&dyn Fn(&Path); 5] = [
        &|at| fs::write(at, "file").expect("written"),
        &|at| {
            fs::create_dir_all(at.join("deep/er")).expect("made");
            fs::write(at.join("deep/er/file"), "in it").expect("written");
        },
        &|at| std::os::unix::fs::symlink("/nowhere", at).expect("linked"),
        &|at| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mkfifoat(rustix::fs::CWD, at, mode).expect("made");
        },
        &|at| fs::create_dir(at).expect("made"),
    ];
    for make in kinds {
        for other in kinds {
            for one in [make, other] {
                one(&at);
                pair.send_all();
                remove(&at);
            }
        }
    }
    pair.send_all();
    let own = fs::read_dir(pair.replica(OWN).join("new"))
        .expect("read")
        .count();
    assert_eq!(own, 0, "nothing is left over");
}

#[test]
fn names_in_any_bytes_are_names_and_nothing_else() {
    let pair = Pair::new();
    let long = vec![b'n'; NAME_BYTES_MAX];
    let names = [
        &b"new\nline"[..],
        b"\r",
        b"\ttab",
        b"-rf",
        b" ",
        b"#hash",
        b";semicolon",
        b"...",
        b"\xff\xfe",
        b".~tmp~",
        b".file.XXXXXX",
        b".evenkeel2",
        &long,
    ];
    for name in names {
        fs::write(pair.source("").join(OsStr::from_bytes(name)), name).expect("written");
    }
    // As deep as a path may be.
    let mut deep = SharePath::root();
    while deep.as_bytes().len() + 200 < 4000 {
        deep = deep.join(&[b'd'; 199]).expect("a path");
        let (source, _) = pair.roots();
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(source, OsStr::from_bytes(deep.as_bytes()), mode).expect("made");
    }
    pair.send_all();
    let top = SharePath::new(&[b'd'; 199]).expect("a path");
    fs::remove_dir_all(pair.source("").join(OsStr::from_bytes(top.as_bytes()))).expect("removed");
    pair.send(&top).expect("removed there as well");
    pair.send(&SharePath::root()).expect("its time");
    pair.is_equal();
}

#[test]
fn a_symbolic_link_on_the_way_leads_nowhere() {
    let pair = Pair::new();
    fs::create_dir(pair.source("d")).expect("made");
    fs::write(pair.source("d/f"), "x").expect("written");
    let outside = pair.whole.path().join("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("f"), "theirs").expect("written");
    // Somebody has put a link on the replica where the source has a directory.
    std::os::unix::fs::symlink(&outside, pair.replica("d")).expect("linked");
    let error = pair.send(&path("d/f")).expect_err("no directory");
    assert!(matches!(error, MakeError::NoParent), "{error}");
    assert_eq!(fs::read(outside.join("f")).expect("read"), b"theirs");
    // And on the source: what is behind it is no part of the share.
    std::os::unix::fs::symlink(&outside, pair.source("l")).expect("linked");
    let (source, _) = pair.roots();
    let looked = look(&source, &path("l/f"), LONG).expect("looked at");
    assert_eq!(looked, Looked::Gone);
    pair.send_all();
    assert_eq!(fs::read(outside.join("f")).expect("read"), b"theirs");
}

#[test]
fn nothing_of_an_old_epoch_changes_anything() {
    let pair = Pair::new();
    fs::create_dir(pair.source("d")).expect("made");
    fs::write(pair.source("d/f"), "x").expect("written");
    fs::write(pair.source("g"), "y").expect("written");
    pair.send_all();
    let (source, replica) = pair.roots();
    let mut maker = pair.maker();
    let before: Vec<_> = paths(&replica)
        .iter()
        .map(|path| here(&replica, path))
        .collect();
    fs::write(pair.source("d/f"), "newer, and too late").expect("written");
    let state = here(&source, &path("d/f"));
    let moved = here(&source, &path("g"));
    let directory = here(&source, &path("d"));
    pair.follow(SECOND);

    let content = state.content.clone().expect("a file");
    let time = Some(Time::default());
    let done = [
        maker
            .put(&path("d/f"), &state.state, &content, time)
            .map(drop),
        maker
            .put(&path("new"), &state.state, &content, time)
            .map(drop),
        maker
            .put(&path("d"), &state.state, &content, time)
            .map(drop),
        maker.put(&path("d"), &directory.state, &[], time).map(drop),
        maker.remove_at(&path("d"), time),
        maker.remove_at(&path("g"), time),
        maker.rename_to(&path("g"), &path("h"), &moved.state, (time, time)),
    ];
    for one in done {
        assert!(
            matches!(one, Err(MakeError::Refused(Refused::Outdated { .. }))),
            "{one:?}"
        );
    }
    let after: Vec<_> = paths(&replica)
        .iter()
        .map(|path| here(&replica, path))
        .collect();
    assert_eq!(before, after);
    let own = fs::read_dir(pair.replica(OWN).join("new"))
        .expect("read")
        .count();
    assert_eq!(own, 0, "nothing is left over");
}

#[test]
fn what_an_earlier_life_left_unfinished_is_removed() {
    let pair = Pair::new();
    let left = pair.replica(OWN).join("new/7");
    fs::create_dir_all(left.join("deep/er")).expect("made");
    fs::write(left.join("deep/file"), "x").expect("written");
    fs::write(pair.source("f"), "x").expect("written");
    pair.send_all();
    assert!(!left.exists());
}

#[test]
fn a_rename_is_made_only_of_what_is_there_as_it_is_on_the_source() {
    let pair = Pair::new();
    fs::create_dir(pair.source("d")).expect("made");
    fs::write(pair.source("d/f"), "x").expect("written");
    fs::write(pair.source("g"), "y").expect("written");
    pair.send_all();
    let (source, _) = pair.roots();
    let inode = |path: &str| fs::metadata(pair.replica(path)).expect("there").ino();
    let mut maker = pair.maker();
    let mut rename = |from: &str, to: &str| {
        let time = |path: &SharePath| Some(here(&source, path).state.attributes.modified);
        let (from, to) = (path(from), path(to));
        let parents = (
            time(&from.parent().expect("a directory")),
            time(&to.parent().expect("a directory")),
        );
        maker.rename_to(&from, &to, &here(&source, &to).state, parents)
    };

    let was = (inode("g"), inode("d/f"));
    fs::rename(pair.source("g"), pair.source("d/g")).expect("renamed");
    rename("g", "d/g").expect("renamed");
    fs::rename(pair.source("d"), pair.source("e")).expect("renamed");
    rename("d", "e").expect("renamed");
    pair.is_equal();
    assert_eq!((inode("e/g"), inode("e/f")), was);
    // One file over another.
    fs::rename(pair.source("e/g"), pair.source("e/f")).expect("renamed");
    rename("e/g", "e/f").expect("renamed");
    pair.is_equal();
    assert_eq!(inode("e/f"), was.0);

    // The replica's own is another one by now.
    fs::write(pair.replica("e/f"), "somebody else's").expect("written");
    fs::rename(pair.source("e/f"), pair.source("h")).expect("renamed");
    let error = rename("e/f", "h").expect_err("it differs");
    assert!(matches!(error, MakeError::NotThere), "{error}");
    // It has nothing there, or in the way what nothing replaces.
    fs::write(pair.source("i"), "z").expect("written");
    let error = rename("nothing", "i").expect_err("it is not there");
    assert!(matches!(error, MakeError::NotThere), "{error}");
    fs::create_dir(pair.replica("i")).expect("made");
    fs::write(pair.replica("j"), "z").expect("written");
    let times = fs::metadata(pair.source("i"))
        .expect("there")
        .modified()
        .expect("a time");
    let file = fs::File::open(pair.replica("j")).expect("opened");
    file.set_modified(times).expect("set");
    let error = rename("j", "i").expect_err("a directory is in the way");
    assert!(matches!(error, MakeError::NotThere), "{error}");
}

#[test]
fn holes_stay_holes() {
    let pair = Pair::new();
    let file = fs::File::create(pair.source("holes")).expect("made");
    file.set_len(48 * 1024).expect("set");
    file.write_all_at(b"data", 20 * 1024).expect("written");
    fs::write(pair.source("zeros"), vec![0; 48 * 1024]).expect("written");
    file.sync_all().expect("synced");
    let (source, _) = pair.roots();
    source.sync().expect("synced");
    let sparse = |path: &SharePath| {
        let kind = here(&source, path).state.kind;
        matches!(kind, Kind::File { sparse: true, .. })
    };
    if !sparse(&path("holes")) {
        eprintln!("SKIPPED: this file system keeps no holes");
        return;
    }
    assert!(!sparse(&path("zeros")));
    pair.send_all();
    let blocks = |path: PathBuf| fs::metadata(path).expect("there").blocks();
    let (_, replica) = pair.roots();
    replica.sync().expect("synced");
    for name in ["holes", "zeros"] {
        assert_eq!(
            blocks(pair.source(name)),
            blocks(pair.replica(name)),
            "{name}"
        );
    }
}

/// One writer gives every part of the file the same number, over and over: no look ever mixes two.
#[test]
fn no_look_ever_sees_half_a_change() {
    let pair = Pair::new();
    let (source, _) = pair.roots();
    let at = pair.source("f");
    fs::write(&at, vec![0; 16 * 1024]).expect("written");
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut seen, mut changing) = (BTreeSet::new(), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = fs::File::options().write(true).open(&at).expect("opened");
            let mut number = 0_u8;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                number = number.wrapping_add(1);
                for part in 0..4 {
                    file.write_all_at(&[number; 4096], part * 4096)
                        .expect("written");
                }
                // Time for a look to be lucky now and then.
                if number.is_multiple_of(8) {
                    std::thread::yield_now();
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while (seen.len() < 20 || changing < 20) && std::time::Instant::now() < deadline {
            match look(&source, &path("f"), LONG) {
                Ok(Looked::Here(here)) => {
                    let content = here.content.expect("a file");
                    let numbers: BTreeSet<u8> = content.iter().copied().collect();
                    // Between two parts the file is a mixture for a while, and that is what it is
                    // then: but never more than a step.
                    let first = content[0];
                    let last = content[content.len() - 1];
                    assert!(numbers.len() <= 2, "{numbers:?}");
                    assert!(
                        first == last || first == last.wrapping_add(1),
                        "{first} {last}"
                    );
                    seen.insert(first);
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => changing += 1,
            }
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert!(
        seen.len() >= 20 && changing >= 20,
        "{} seen, {changing} changing",
        seen.len()
    );
}
