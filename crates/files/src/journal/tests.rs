//! The journal between a tree and its replica, both modelled: changes in any order, notices that
//! come late, by names that are old or new, answers that come late or never.

use std::collections::BTreeSet;

use super::*;
use chance::Chance;

#[path = "../../tests/chance/mod.rs"]
mod chance;

const R: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

fn path(text: &str) -> SharePath {
    SharePath::new(text.as_bytes()).expect("a path")
}

fn at(millis: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(millis)
}

const CLOSED: Notice = Notice {
    open: false,
    whole: false,
};
const WHOLE: Notice = Notice {
    open: false,
    whole: true,
};
const OPEN: Notice = Notice {
    open: true,
    whole: false,
};

/// To which nothing is owed at first.
fn journal(limits: Limits) -> Journal {
    let mut journal = Journal::new(limits);
    for replica in [R, OTHER] {
        journal.add(replica, at(0));
        let behind = journal.behind(replica).expect("it is new");
        journal.compared(replica, behind.fall);
    }
    journal
}

/// Sends what is due, as it comes.
fn send(journal: &mut Journal, now: Moment) -> Vec<Work> {
    let mut all = Vec::new();
    while let Some(work) = journal.next(R, now) {
        journal.sent(R, &work, Way::Stream);
        all.push(work);
    }
    all
}

fn paths(all: &[Work]) -> Vec<String> {
    all.iter().map(|work| work.path.to_string()).collect()
}

#[test]
fn a_path_is_owed_once_however_often_it_changes_and_again_if_it_changes_on_its_way() {
    let mut journal = journal(Limits::default());
    for _ in 0..3 {
        journal.note(&path("f"), CLOSED, at(1));
    }
    assert_eq!(journal.announce(R), [path("f")]);
    assert_eq!(journal.announce(R), []);
    let sent = send(&mut journal, at(1));
    assert_eq!(paths(&sent), ["f"]);
    journal.note(&path("f"), CLOSED, at(5));
    assert_eq!(send(&mut journal, at(5)), []);
    journal.done(R, &path("f"), sent[0].version, at(6));
    // Not at once: it was sent a moment ago.
    assert_eq!(send(&mut journal, at(6)), []);
    let lag = journal.lag(R, at(10));
    assert_eq!((lag.paths, lag.age), (1, Duration::from_millis(5)));
    let wakes = journal.wakes(R).expect("it waits");
    assert_eq!(wakes, at(6) + Limits::default().apart);
    let sent = send(&mut journal, wakes);
    assert_eq!(paths(&sent), ["f"]);
    journal.done(R, &path("f"), sent[0].version, wakes);
    assert_eq!(journal.lag(R, wakes), Lag::default());
    // The other replica is owed all of it still.
    assert_eq!(journal.lag(OTHER, at(10)).age, Duration::from_millis(9));
}

#[test]
fn a_file_that_is_never_closed_is_sent_all_the_same_and_a_closed_one_at_once() {
    let limits = Limits::default();
    let mut journal = journal(limits);
    for now in 0..100 {
        journal.note(&path("log"), OPEN, at(now * 10));
        assert_eq!(send(&mut journal, at(now * 10)), []);
    }
    assert_eq!(journal.wakes(R), Some(at(0) + limits.settle));
    let sent = send(&mut journal, at(0) + limits.settle);
    assert_eq!(paths(&sent), ["log"]);
    journal.note(&path("other"), OPEN, at(2000));
    journal.note(&path("other"), CLOSED, at(2001));
    assert_eq!(paths(&send(&mut journal, at(2001))), ["other"]);
}

#[test]
fn what_fails_is_tried_again_ever_more_seldom_and_holds_up_nothing() {
    let limits = Limits::default();
    let mut journal = journal(limits);
    journal.note(&path("bad"), CLOSED, at(1));
    let mut now = at(1);
    let mut pause = limits.retry.0;
    for number in 0..12 {
        let good = path(&format!("good{number}"));
        let sent = send(&mut journal, now);
        assert_eq!(paths(&sent), ["bad"]);
        journal.failed(R, &path("bad"), sent[0].version, "no space".to_owned(), now);
        assert_eq!(journal.wakes(R), Some(now + pause));
        // That it changes is no reason to hurry.
        journal.note(&path("bad"), CLOSED, now);
        journal.note(&good, CLOSED, now);
        let sent = send(&mut journal, now);
        assert_eq!(sent.len(), 1);
        journal.done(R, &good, sent[0].version, now);
        now += pause;
        pause = (pause * 2).min(limits.retry.1);
    }
    let failures: Vec<_> = journal.failures(R).collect();
    assert_eq!(failures, [(&path("bad"), "no space")]);
    assert_eq!(journal.lag(R, now).failing, 1);
    let sent = send(&mut journal, now);
    journal.note(&path("bad"), CLOSED, now);
    journal.done(R, &path("bad"), sent[0].version, now);
    // It is there, though not as it is by now.
    assert_eq!(journal.lag(R, now).failing, 0);
    assert_eq!(journal.failures(R).count(), 0);
}

#[test]
fn a_moved_directory_goes_by_its_name_and_takes_along_what_is_owed_below_it() {
    let mut journal = journal(Limits::default());
    journal.note(&path("a/x"), CLOSED, at(1));
    journal.note(&path("ab"), CLOSED, at(1));
    journal.moved(&path("a"), &path("b/c"), true, at(2));
    journal.moved(&path("b/c/y"), &path("b/c/z"), false, at(3));
    journal.moved(&path("b"), &path("d"), true, at(4));
    let sent = send(&mut journal, at(4));
    let told: Vec<_> = sent
        .iter()
        .map(|work| {
            let from = work.from.as_ref().map(ToString::to_string);
            (work.path.to_string(), from, work.whole)
        })
        .collect();
    let some = |text: &str| Some(text.to_owned());
    let expected = [
        ("ab".to_owned(), None, false),
        ("d".to_owned(), some("b"), true),
        // These by the names that they have on the replica once `b` is `d` there.
        ("d/c".to_owned(), some("a"), true),
        ("d/c/x".to_owned(), None, false),
        ("d/c/z".to_owned(), some("d/c/y"), false),
        ("d/c/y".to_owned(), None, true),
        // And these after what moved away from there.
        ("a".to_owned(), None, true),
        ("b".to_owned(), None, true),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_file_saved_by_way_of_a_temporary_one_is_sent_as_what_it_is() {
    let mut journal = journal(Limits::default());
    journal.note(&path("tmp"), CLOSED, at(1));
    journal.moved(&path("tmp"), &path("f"), false, at(1));
    let sent = send(&mut journal, at(1));
    assert_eq!(paths(&sent), ["f", "tmp"]);
    assert!(sent.iter().all(|work| work.from.is_none()));
}

/// What is on its way is its content before it changed again: the replica would rename that.
#[test]
fn a_file_that_changes_on_its_way_and_moves_is_sent_by_its_content() {
    let mut journal = journal(Limits::default());
    journal.note(&path("f"), CLOSED, at(1));
    send(&mut journal, at(1));
    journal.note(&path("f"), CLOSED, at(2));
    journal.moved(&path("f"), &path("g"), false, at(2));
    let sent = send(&mut journal, at(2));
    assert_eq!(paths(&sent), ["g", "f"]);
    assert!(sent.iter().all(|work| work.from.is_none()));
}

#[test]
fn what_goes_beside_the_stream_holds_back_what_is_related_to_it() {
    let mut journal = journal(Limits::default());
    journal.note(&path("a"), CLOSED, at(1));
    journal.note(&path("a/big"), CLOSED, at(1));
    let dir = journal.next(R, at(1)).expect("it is due");
    journal.sent(R, &dir, Way::Stream);
    let big = journal.next(R, at(1)).expect("it is due");
    assert_eq!(big.path, path("a/big"));
    assert!(!journal.may_go_beside(R, &big.path));
    journal.done(R, &dir.path, dir.version, at(1));
    assert!(journal.may_go_beside(R, &big.path));
    journal.sent(R, &big, Way::Bulk);
    // The directory is moved away: its new name waits, or what is on its way would make the old
    // one anew. Others go on.
    journal.moved(&path("a"), &path("b"), true, at(2));
    journal.note(&path("c"), CLOSED, at(2));
    assert_eq!(paths(&send(&mut journal, at(2))), ["b/big", "c"]);
    journal.done(R, &big.path, big.version, at(3));
    assert_eq!(paths(&send(&mut journal, at(3))), ["b", "a"]);
}

#[test]
fn one_that_falls_behind_costs_no_more_than_its_bound_and_delays_nobody() {
    let limits = Limits {
        paths: 10,
        ..Limits::default()
    };
    let mut journal = journal(limits);
    for number in 0..100 {
        journal.note(&path(&format!("f{number}")), CLOSED, at(number));
        while let Some(work) = journal.next(OTHER, at(number)) {
            journal.sent(OTHER, &work, Way::Stream);
            journal.done(OTHER, &work.path, work.version, at(number));
        }
        assert!(journal.lag(R, at(number)).paths <= limits.paths);
    }
    assert_eq!(journal.lag(OTHER, at(100)), Lag::default());
    let first = journal.behind(R).expect("it fell behind");
    assert_eq!(journal.next(R, at(100)), None);
    journal.lose(at(101));
    // A comparison that was begun before proves nothing.
    journal.compared(R, first.fall);
    let second = journal.behind(R).expect("it is behind");
    assert_eq!(journal.lag(R, at(102)).age, Duration::from_millis(1));
    journal.note(&path("late"), CLOSED, at(102));
    assert_eq!(journal.next(R, at(102)), None);
    journal.compared(R, second.fall);
    assert_eq!(paths(&send(&mut journal, at(102))), ["late"]);
}

#[test]
fn after_a_broken_connection_all_that_was_on_its_way_goes_again_and_is_told_again() {
    let mut journal = journal(Limits::default());
    for name in ["a", "b"] {
        journal.note(&path(name), CLOSED, at(1));
    }
    assert_eq!(journal.announce(R).len(), 2);
    let sent = send(&mut journal, at(1));
    journal.dropped(R);
    assert_eq!(journal.announce(R).len(), 2);
    assert_eq!(send(&mut journal, at(1)).len(), 2);
    // An answer from before.
    journal.done(R, &path("a"), Seq(0), at(1));
    assert_eq!(journal.lag(R, at(1)).paths, 2);
    journal.done(R, &path("a"), sent[0].version, at(1));
    assert_eq!(journal.lag(R, at(1)).paths, 1);
}

#[test]
fn what_is_not_told_of_to_a_replica_that_is_away_takes_no_more_than_what_is_owed() {
    let mut journal = journal(Limits::default());
    for now in 0..1000 {
        journal.note(&path("tmp"), CLOSED, at(now));
        journal.moved(&path("tmp"), &path("f"), false, at(now));
    }
    assert_eq!(journal.announce(R), [path("f"), path("tmp")]);
}

/// What a tree has at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Directory,
    File { content: u64 },
}

/// All that is in a tree, by its path; the root is always there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tree(BTreeMap<SharePath, Thing>);

impl Tree {
    fn get(&self, path: &SharePath) -> Option<Thing> {
        if path.is_root() {
            return Some(Thing::Directory);
        }
        self.0.get(path).copied()
    }

    fn is_directory(&self, path: &SharePath) -> bool {
        self.get(path) == Some(Thing::Directory)
    }

    fn has_parent(&self, path: &SharePath) -> bool {
        path.parent()
            .is_some_and(|parent| self.is_directory(&parent))
    }

    fn below(&self, path: &SharePath) -> Vec<SharePath> {
        let all = self.0.keys().filter(|one| one.is_below(path));
        all.cloned().collect()
    }

    fn remove(&mut self, path: &SharePath) {
        self.0.retain(|one, _| one != path && !one.is_below(path));
    }

    fn rename(&mut self, from: &SharePath, to: &SharePath) {
        self.remove(to);
        let moved: Vec<_> = self
            .0
            .iter()
            .filter_map(|(path, thing)| Some((path.moved(from, to)?, *thing)))
            .collect();
        self.remove(from);
        self.0.extend(moved);
    }

    fn exchange(&mut self, one: &SharePath, other: &SharePath) {
        let moved = |path: &SharePath| path.moved(one, other).or_else(|| path.moved(other, one));
        let all = core::mem::take(&mut self.0).into_iter();
        self.0 = all
            .map(|(path, thing)| (moved(&path).unwrap_or(path), thing))
            .collect();
    }

    fn children(&self, directory: &SharePath) -> BTreeSet<SharePath> {
        let is_child = |one: &&SharePath| one.parent().as_ref() == Some(directory);
        self.0.keys().filter(is_child).cloned().collect()
    }
}

/// A notice that waits in the kernel. The directory is remembered by what it is, as a handle
/// does: a number that moves with it.
#[derive(Clone, Debug)]
enum Waiting {
    /// Whether the name came or went.
    Touched((u64, Vec<u8>), bool),
    Moved((u64, Vec<u8>), (u64, Vec<u8>), bool),
}

/// Something that goes beside the stream, with what was read.
struct Beside {
    work: Work,
    content: u64,
}

struct World {
    chance: Chance,
    now: Moment,
    source: Tree,
    replica: Tree,
    journal: Journal,
    /// The numbers of directories, by their present paths.
    handles: BTreeMap<u64, SharePath>,
    waiting: VecDeque<Waiting>,
    beside: Vec<Beside>,
    /// Answers that are on their way back.
    answers: VecDeque<(SharePath, Seq, Answer)>,
    count: u64,
    falls: u32,
    renames: u32,
    /// What happened, the newest last: printed with a failure.
    told: VecDeque<String>,
}

/// How much of what happened is printed.
const TOLD_MAX: usize = 100;

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in &self.told {
                eprintln!("{line}");
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Done,
    NotThere,
    Failed,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let limits = Limits {
            paths: [6, 30, 1000][chance.below(3)],
            ..Limits::default()
        };
        let mut journal = Journal::new(limits);
        journal.add(R, at(0));
        let mut world = Self {
            chance,
            now: at(0),
            source: Tree::default(),
            replica: Tree::default(),
            journal,
            handles: [(0, SharePath::root())].into(),
            waiting: VecDeque::new(),
            beside: Vec::new(),
            answers: VecDeque::new(),
            count: 0,
            falls: 0,
            renames: 0,
            told: VecDeque::new(),
        };
        // Both begin with things that the other lacks.
        for _ in 0..world.chance.below(8) {
            world.change();
        }
        world.replica = world.source.clone();
        for _ in 0..world.chance.below(8) {
            world.change();
        }
        world.waiting.clear();
        world
    }

    fn say(&mut self, line: String) {
        if self.told.len() >= TOLD_MAX {
            self.told.pop_front();
        }
        self.told.push_back(line);
    }

    fn handle(&self, directory: &SharePath) -> u64 {
        let found = self.handles.iter().find(|(_, path)| *path == directory);
        *found.expect("every directory has a number").0
    }

    fn place(&self, path: &SharePath) -> (u64, Vec<u8>) {
        let parent = path.parent().expect("not the root");
        let name = path.as_bytes().rsplit(|byte| *byte == b'/').next();
        (self.handle(&parent), name.expect("a name").to_vec())
    }

    fn told(&mut self, path: &SharePath, entry: bool) {
        let place = self.place(path);
        self.waiting.push_back(Waiting::Touched(place, entry));
    }

    /// Somebody changes something on the source, as far as a kernel allows it.
    fn change(&mut self) {
        let mut directories = vec![SharePath::root()];
        let is_directory = |(path, thing): (&SharePath, &Thing)| {
            (*thing == Thing::Directory).then(|| path.clone())
        };
        directories.extend(self.source.0.iter().filter_map(is_directory));
        let directory = self.chance.pick(&directories).expect("the root is there");
        let name = [&b"a"[..], b"b", b"c", b"a.b"][self.chance.below(4)];
        let path = directory.join(name).expect("a path");
        let all: Vec<_> = self.source.0.keys().cloned().collect();
        let there = self.source.get(&path);
        self.count += 1;
        match self.chance.below(8) {
            0..3 if there != Some(Thing::Directory) => {
                let content = self.count;
                self.say(format!("write {path} {content}"));
                self.source.0.insert(path.clone(), Thing::File { content });
                self.told(&path, there.is_none());
            }
            3..5 if there.is_none() && path.as_bytes().len() < 12 => {
                self.source.0.insert(path.clone(), Thing::Directory);
                self.handles.insert(self.count, path.clone());
                self.say(format!("mkdir {path}"));
                self.told(&path, true);
            }
            5 => {
                let Some(gone) = self.chance.pick(&all) else {
                    return;
                };
                self.say(format!("rm -r {gone}"));
                // From below, each with a notice of its own, as `rm -r` does.
                for path in self.source.below(&gone).into_iter().rev().chain([gone]) {
                    self.told(&path, true);
                    self.source.remove(&path);
                    self.handles.retain(|_, directory| *directory != path);
                }
            }
            6.. => {
                let Some(from) = self.chance.pick(&all) else {
                    return;
                };
                let directory = self.source.is_directory(&from);
                if there.is_some() && self.chance.below(3) == 0 {
                    return self.exchange(&from, &path);
                }
                let fits = match there {
                    None => true,
                    Some(Thing::File { .. }) => !directory,
                    Some(Thing::Directory) => directory && self.source.below(&path).is_empty(),
                };
                if !fits || path == from || path.is_below(&from) {
                    return;
                }
                let places = (self.place(&from), self.place(&path));
                self.say(format!("mv {from} {path}"));
                self.waiting
                    .push_back(Waiting::Moved(places.0, places.1, directory));
                self.source.rename(&from, &path);
                self.handles.retain(|_, one| *one != path);
                for one in self.handles.values_mut() {
                    if let Some(moved) = one.moved(&from, &path) {
                        *one = moved;
                    }
                }
            }
            _ => {}
        }
    }

    /// Two things change places: two notices.
    fn exchange(&mut self, one: &SharePath, other: &SharePath) {
        if one == other || one.is_below(other) || other.is_below(one) {
            return;
        }
        self.say(format!("exchange {one} {other}"));
        let places = (self.place(one), self.place(other));
        let kinds = (
            self.source.is_directory(one),
            self.source.is_directory(other),
        );
        let back = Waiting::Moved(places.1.clone(), places.0.clone(), kinds.1);
        self.waiting
            .push_back(Waiting::Moved(places.0, places.1, kinds.0));
        self.waiting.push_back(back);
        self.source.exchange(one, other);
        for path in self.handles.values_mut() {
            if let Some(moved) = path.moved(one, other).or_else(|| path.moved(other, one)) {
                *path = moved;
            }
        }
    }

    /// Where an entry is by now, if its directory is still there.
    fn path(&self, (directory, name): &(u64, Vec<u8>)) -> Option<SharePath> {
        Some(self.handles.get(directory)?.join(name).expect("a path"))
    }

    fn read_notices(&mut self, how_many: usize) {
        if self.chance.below(200) == 0 {
            self.say("notices are lost".to_owned());
            self.waiting.clear();
            self.journal.lose(self.now);
        }
        for _ in 0..how_many {
            let Some(one) = self.waiting.pop_front() else {
                return;
            };
            self.say(format!("notice {one:?}"));
            match one {
                Waiting::Touched(place, entry) => {
                    if let Some(path) = self.path(&place) {
                        let notice = Notice {
                            open: self.chance.below(4) == 0,
                            whole: entry,
                        };
                        self.journal.note(&path, notice, self.now);
                    }
                }
                Waiting::Moved(from, to, directory) => match (self.path(&from), self.path(&to)) {
                    (Some(from), Some(to)) => self.journal.moved(&from, &to, directory, self.now),
                    (Some(path), None) | (None, Some(path)) => {
                        self.journal.note(&path, WHOLE, self.now);
                    }
                    (None, None) => {}
                },
            }
        }
    }

    /// Looks at what is due and sends it. The stream arrives at once and in order; its answers
    /// come later.
    fn send(&mut self) {
        if let Some(behind) = self.journal.behind(R) {
            return self.compare(behind);
        }
        let Some(work) = self.journal.next(R, self.now) else {
            return;
        };
        match self.source.get(&work.path) {
            Some(Thing::File { content })
                if work.from.is_none() && content % 3 == 0 && !work.path.is_root() =>
            {
                if self.journal.may_go_beside(R, &work.path) {
                    self.say(format!("send beside {work:?} {content}"));
                    self.journal.sent(R, &work, Way::Bulk);
                    self.beside.push(Beside { work, content });
                }
            }
            _ => {
                self.journal.sent(R, &work, Way::Stream);
                let answer = self.arrive(&work);
                self.say(format!("send {work:?}: {answer:?}"));
                self.answers.push_back((work.path, work.version, answer));
            }
        }
    }

    /// What the replica makes of something that comes over the stream.
    fn arrive(&mut self, work: &Work) -> Answer {
        let Work { path, from, .. } = work;
        if self.chance.below(20) == 0 {
            return Answer::Failed;
        }
        let Some(thing) = self.source.get(path) else {
            self.replica.remove(path);
            return Answer::Done;
        };
        if !path.is_root() && !self.replica.has_parent(path) {
            return Answer::Failed;
        }
        if let Some(from) = from {
            let fits = match (self.replica.get(from), self.replica.get(path)) {
                // A file is known by its size and times, which a rename keeps.
                (Some(file @ Thing::File { .. }), None | Some(Thing::File { .. })) => file == thing,
                (Some(Thing::Directory), None) => thing == Thing::Directory,
                _ => false,
            };
            if !fits || path.is_below(from) {
                return Answer::NotThere;
            }
            self.replica.rename(from, path);
            self.renames += 1;
        }
        let new = self.replica.get(path) != Some(thing);
        if !path.is_root() && (new || thing != Thing::Directory) {
            self.replica.remove(path);
            self.replica.0.insert(path.clone(), thing);
        }
        if thing == Thing::Directory && (work.whole || new) {
            // Both say what they have in it, and what differs is owed.
            let both = &self.source.children(path) | &self.replica.children(path);
            for child in both {
                let (here, there) = (self.source.get(&child), self.replica.get(&child));
                if here != there || here == Some(Thing::Directory) {
                    self.journal.note(&child, WHOLE, self.now);
                }
            }
        }
        Answer::Done
    }

    /// Something that went beside the stream arrives.
    fn arrive_beside(&mut self) {
        if self.beside.is_empty() {
            return;
        }
        let Beside { work, content } = self
            .beside
            .swap_remove(self.chance.below(self.beside.len()));
        let path = work.path;
        let answer = if self.replica.has_parent(&path) && self.chance.below(20) > 0 {
            self.replica.remove(&path);
            self.replica.0.insert(path.clone(), Thing::File { content });
            Answer::Done
        } else {
            Answer::Failed
        };
        self.say(format!("arrives beside {path} {content}: {answer:?}"));
        self.answers.push_back((path, work.version, answer));
    }

    fn hear(&mut self) {
        let Some((path, version, answer)) = self.answers.pop_front() else {
            return;
        };
        self.say(format!("hear {path} {version:?} {answer:?}"));
        match answer {
            Answer::Done => self.journal.done(R, &path, version, self.now),
            Answer::NotThere => self.journal.not_there(R, &path, version),
            Answer::Failed => {
                self.journal
                    .failed(R, &path, version, "not now".to_owned(), self.now);
            }
        }
    }

    /// All connections break. What goes beside the stream arrives before that or never.
    fn break_off(&mut self) {
        self.say("all connections break".to_owned());
        while !self.beside.is_empty() {
            if self.chance.below(2) == 0 {
                self.arrive_beside();
            } else {
                self.beside.pop();
            }
        }
        self.answers.clear();
        self.journal.dropped(R);
    }

    /// Everything is compared: what there is by now is there as well.
    fn compare(&mut self, behind: Behind) {
        self.break_off();
        self.say("everything is compared".to_owned());
        self.falls += 1;
        self.replica = self.source.clone();
        // What changes meanwhile is owed.
        for _ in 0..self.chance.below(3) {
            self.change();
            let all = self.waiting.len();
            self.read_notices(all);
        }
        self.journal.compared(R, behind.fall);
    }

    /// Once all notices are read, whatever differs is owed, itself or by a directory above it:
    /// else nobody would ever know.
    fn check(&mut self) {
        let all = self.waiting.len();
        self.read_notices(all);
        if self.journal.behind(R).is_some() {
            return;
        }
        let replica = &self.journal.replicas[&R];
        let both: BTreeSet<_> = self.source.0.keys().chain(self.replica.0.keys()).collect();
        for path in both {
            if self.source.get(path) == self.replica.get(path) {
                continue;
            }
            let known = replica
                .owed
                .keys()
                .any(|owed| path == owed || path.is_below(owed));
            assert!(
                known,
                "{path} differs ({:?}, {:?}) and is not owed: {:?}",
                self.source.get(path),
                self.replica.get(path),
                replica.owed
            );
        }
        let sorted = replica.owed.len();
        let filed = replica.ready.len() + replica.later.len();
        let flying = replica
            .owed
            .values()
            .filter(|owed| !owed.is_waiting())
            .count();
        assert_eq!(sorted, filed + flying);
        assert_eq!(replica.ages.values().sum::<usize>(), sorted);
        let origins = replica.owed.iter().filter_map(|(path, owed)| {
            let from = owed.from.clone()?;
            Some((from, path.clone()))
        });
        assert_eq!(replica.origins, origins.collect());
        let failing = replica.owed.values().filter(|owed| owed.tries > 0).count();
        assert_eq!(replica.failing, failing);
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(u64::try_from(self.chance.below(40)).expect("small"));
        match self.chance.below(10) {
            0..3 => self.change(),
            3..5 => {
                let some = self.chance.below(6);
                self.read_notices(some);
            }
            5..7 => self.send(),
            7 => self.arrive_beside(),
            8 => self.hear(),
            _ if self.chance.below(10) == 0 => self.break_off(),
            _ if self.chance.below(4) == 0 => self.check(),
            _ => {}
        }
    }

    /// Nobody changes anything any more: it comes to an end, and both are equal.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.now += Duration::from_millis(50);
            let all = self.waiting.len();
            self.read_notices(all);
            self.send();
            self.arrive_beside();
            self.hear();
            let lag = self.journal.lag(R, self.now);
            if lag == Lag::default() && self.waiting.is_empty() && self.beside.is_empty() {
                assert_eq!(self.source, self.replica);
                return;
            }
        }
        panic!("it goes on for ever: {:?}", self.journal.replicas[&R]);
    }
}

#[test]
fn whatever_happens_both_trees_are_equal_in_the_end_and_what_differs_is_known_before() {
    let (mut falls, mut renames) = (0, 0);
    // 29, 141, 2514 and 4126 each found a hole.
    for seed in (0..3000).chain([4126]) {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..400 {
                world.step();
            }
            world.check();
            world.settle();
            (world.falls, world.renames)
        });
        match outcome {
            Ok((fell, renamed)) => {
                falls += fell;
                renames += renamed;
            }
            Err(_) => panic!("seed {seed}"),
        }
    }
    // All of it was in play.
    assert!(
        falls > 3000 && renames > 3000,
        "{falls} falls, {renames} renames"
    );
}
