//! The holder's side of a share: notices become frames for each replica, and answers settle what is
//! owed.
//!
//! ```text
//!   owed ──> looked at ──> Put / Remove / Move ──> Done ──────────────────────────> settled
//!                                                   │ a directory, to be looked at whole
//!                                                   v
//!                                                  List ──> Differs ──> what differs is owed
//!                                                   ^          │ more
//!                                                   └──────────┘
//! ```
//!
//! Nothing here waits: whoever drives it reads notices, sends the bytes it is given, and brings the
//! answers. A replica of which nothing is known is owed its root, whole: that compares everything,
//! directory by directory, and sends what differs.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use evenkeel_core::{Epoch, Moment, NodeId};
use evenkeel_host::watching::{Change, Ways};

use crate::io::look::{Looked, is_lone_file, look, names_in};
use crate::io::root::{Root, RootId};
use crate::journal::{Journal, Lag, Limits, Notice, Seq, Way, Work};
use crate::path::SharePath;
use crate::print::print;
use crate::state::{Kind, State, Time};
use crate::v1::{ANNOUNCED_MAX, Answer, CONTENT_MAX, Frame, LISTED_MAX, Listed, write};

/// How many frames may be unanswered by one replica, and with how many bytes of content: what a
/// gigabit carries in some round trips.
const UNANSWERED_MAX: usize = 256;
const UNANSWERED_BYTES_MAX: usize = 8 * CONTENT_MAX;

/// Everything below has to be looked at.
const WHOLE: Notice = Notice {
    open: false,
    whole: true,
};

/// The source of one share.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    /// What was there when it began.
    root: RootId,
    who: (Epoch, NodeId),
    journal: Journal,
    streams: BTreeMap<NodeId, Stream>,
}

/// What goes to one replica that is connected.
#[derive(Debug, Default)]
struct Stream {
    /// To be sent before anything else.
    first: VecDeque<Vec<u8>>,
    unanswered: BTreeMap<Seq, Unanswered>,
    bytes: usize,
}

#[derive(Debug)]
struct Unanswered {
    path: SharePath,
    bytes: usize,
    /// A directory: whether all that is in it has to be looked at.
    directory: Option<bool>,
    /// The last name that was listed, and whether that was the last of all.
    listed: Option<(Option<Vec<u8>>, bool)>,
}

impl Source {
    /// For the share at this path of the machine, held in this epoch by this node.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn new(path: PathBuf, who: (Epoch, NodeId), limits: Limits) -> io::Result<Self> {
        let root = Root::open(&path)?.id();
        Ok(Self {
            path,
            root,
            who,
            journal: Journal::new(limits),
            streams: BTreeMap::new(),
        })
    }

    /// Why nothing is sent though something may be owed: the share is not there.
    pub fn trouble(&self) -> Option<String> {
        self.open().err()
    }

    /// The share, if it is still the one that it was at first: what is at its path where its file
    /// system was unmounted is not it, and its emptiness no news.
    fn open(&self) -> Result<Root, String> {
        let path = self.path.display();
        let root = Root::open(&self.path).map_err(|error| {
            format!("failed to open {path}: {error}; nothing is replicated until it is there again")
        })?;
        if root.id() != self.root {
            return Err(format!(
                "{path} is another directory than when this node began to serve: is its file \
                 system mounted? Nothing is replicated until it is there again"
            ));
        }
        Ok(root)
    }

    /// A replica that is owed everything from now on.
    pub fn add(&mut self, replica: NodeId, now: Moment) {
        self.journal.add(replica, now);
    }

    /// How far a replica lags.
    pub fn lag(&self, replica: NodeId, now: Moment) -> Lag {
        self.journal.lag(replica, now)
    }

    /// What could not be replicated so far, and why.
    pub fn failures(&self, replica: NodeId) -> impl Iterator<Item = (&SharePath, &str)> {
        self.journal.failures(replica)
    }

    /// A connection to a replica is there; one before it is gone.
    pub fn connected(&mut self, replica: NodeId, now: Moment) {
        self.journal.dropped(replica);
        let (epoch, source) = self.who;
        let mut stream = Stream::default();
        stream
            .first
            .push_back(write(&Frame::Hello { epoch, source }, &[]));
        self.streams.insert(replica, stream);
        if let Some(behind) = self.journal.behind(replica) {
            self.journal.compared(replica, behind.fall);
            self.journal
                .note_for(replica, &SharePath::root(), WHOLE, now);
        }
    }

    /// It is gone.
    pub fn disconnected(&mut self, replica: NodeId) {
        self.streams.remove(&replica);
        self.journal.dropped(replica);
    }

    /// Whether a replica has fallen behind since it was connected: it has to be connected anew.
    pub fn is_behind(&self, replica: NodeId) -> bool {
        self.journal.behind(replica).is_some()
    }

    /// What the kernel says has changed.
    pub fn notices(&mut self, changes: Vec<Change>, now: Moment) {
        let root = self.open().ok();
        for change in changes {
            match change {
                Change::Touched { path, ways, .. } => {
                    if let Some(path) = replicated(&path) {
                        let open = is_being_written(ways, root.as_ref(), &path);
                        let whole = ways.entry();
                        self.journal.note(&path, Notice { open, whole }, now);
                    }
                }
                Change::Arrived { path, .. } => {
                    if let Some(path) = replicated(&path) {
                        self.journal.note(&path, WHOLE, now);
                    }
                }
                Change::Moved {
                    from,
                    to,
                    directory,
                    ..
                } => match (replicated(&from), replicated(&to)) {
                    (Some(from), Some(to)) => self.journal.moved(&from, &to, directory, now),
                    (Some(path), None) | (None, Some(path)) => {
                        self.journal.note(&path, WHOLE, now);
                    }
                    (None, None) => {}
                },
                Change::Lost { .. } => self.journal.lose(now),
            }
        }
    }

    /// When there will be something to send that there is not now, if nothing else happens.
    pub fn wakes(&self, replica: NodeId) -> Option<Moment> {
        self.journal.wakes(replica)
    }

    /// What to send to a replica next; nothing if nothing is due, or if enough is unanswered.
    pub fn next(&mut self, replica: NodeId, now: Moment) -> Option<Vec<u8>> {
        let stream = self.streams.get_mut(&replica)?;
        let mut paths = self.journal.announce(replica);
        paths.retain(|path| !path.is_root());
        for paths in paths.chunks(ANNOUNCED_MAX) {
            let paths = paths.to_vec();
            stream
                .first
                .push_back(write(&Frame::Announce { paths }, &[]));
        }
        if let Some(first) = stream.first.pop_front() {
            return Some(first);
        }
        let root = self.open().ok()?;
        loop {
            let stream = self.streams.get(&replica)?;
            if stream.unanswered.len() >= UNANSWERED_MAX || stream.bytes >= UNANSWERED_BYTES_MAX {
                return None;
            }
            let work = self.journal.next(replica, now)?;
            self.journal.sent(replica, &work, Way::Stream);
            match frame_for(&root, &work) {
                Ok(Some((frame, content))) => {
                    let directory = match &frame {
                        Frame::Put { state, .. } | Frame::Move { state, .. } => {
                            (state.kind == Kind::Directory).then_some(work.whole)
                        }
                        _ => None,
                    };
                    let stream = self.streams.get_mut(&replica)?;
                    stream.bytes += content.len();
                    let unanswered = Unanswered {
                        path: work.path,
                        bytes: content.len(),
                        directory,
                        listed: None,
                    };
                    stream.unanswered.insert(work.version, unanswered);
                    return Some(write(&frame, &content));
                }
                // No part of the share.
                Ok(None) => self.journal.done(replica, &work.path, work.version, now),
                Err(why) => {
                    self.journal
                        .failed(replica, &work.path, work.version, why, now);
                }
            }
        }
    }

    /// What a replica answers. An error if it makes no sense: the connection is over then.
    pub fn answer(&mut self, replica: NodeId, answer: Answer, now: Moment) -> Result<(), String> {
        let Some(stream) = self.streams.get_mut(&replica) else {
            return Ok(());
        };
        let mut asked = |seq| {
            let found = stream.unanswered.remove(&Seq(seq));
            let found = found.ok_or_else(|| format!("an answer to {seq}, which was not asked"))?;
            stream.bytes -= found.bytes;
            Ok::<_, String>(found)
        };
        match answer {
            Answer::Done { seq, new } => {
                let mut done = asked(seq)?;
                if done.directory.is_some_and(|whole| whole || new) {
                    done.bytes = 0;
                    self.list(replica, Seq(seq), done, now);
                } else {
                    self.journal.done(replica, &done.path, Seq(seq), now);
                }
            }
            Answer::Differs { seq, names } => {
                let listed = asked(seq)?;
                let Some((_, more)) = listed.listed else {
                    return Err(format!("differences to {seq}, which is no listing"));
                };
                for name in names {
                    if let Ok(path) = listed.path.join(&name)
                        && !path.is_own()
                    {
                        self.journal.note_for(replica, &path, WHOLE, now);
                    }
                }
                if more {
                    self.list(replica, Seq(seq), listed, now);
                } else {
                    self.journal.done(replica, &listed.path, Seq(seq), now);
                }
            }
            Answer::NotThere { seq } => {
                let path = asked(seq)?.path;
                self.journal.not_there(replica, &path, Seq(seq));
            }
            Answer::Failed { seq, why } => {
                let path = asked(seq)?.path;
                self.journal.failed(replica, &path, Seq(seq), why, now);
            }
            Answer::Synced { .. } => {}
            Answer::Refused { why, .. } => return Err(format!("it refuses: {why}")),
        }
        Ok(())
    }

    /// Sends the next part of what a directory has in it.
    fn list(&mut self, replica: NodeId, seq: Seq, mut asked: Unanswered, now: Moment) {
        let after = asked.listed.take().and_then(|(last, _)| last);
        let listed = self
            .open()
            .and_then(|root| listing(&root, &asked.path, after.as_deref()));
        let (entries, more) = match listed {
            Ok(listed) => listed,
            Err(why) => {
                self.journal.failed(replica, &asked.path, seq, why, now);
                return;
            }
        };
        for entry in entries.iter().filter(|entry| entry.directory) {
            if let Ok(path) = asked.path.join(&entry.name) {
                self.journal.note_for(replica, &path, WHOLE, now);
            }
        }
        let last = entries.last().map(|entry| entry.name.clone());
        let frame = Frame::List {
            seq,
            path: asked.path.clone(),
            after,
            more,
            entries,
        };
        asked.listed = Some((last, more));
        if let Some(stream) = self.streams.get_mut(&replica) {
            stream.first.push_back(write(&frame, &[]));
            stream.unanswered.insert(seq, asked);
        }
    }
}

/// The path in the share, if it is replicated.
fn replicated(path: &Path) -> Option<SharePath> {
    let path = SharePath::new(path.as_os_str().as_bytes()).ok()?;
    (!path.is_own()).then_some(path)
}

/// Whether a file is being written and was not closed. A name that has just come is no news of a
/// close: of a file alone one will follow.
fn is_being_written(ways: Ways, root: Option<&Root>, path: &SharePath) -> bool {
    if ways.closed() || ways.attributes() {
        return false;
    }
    if ways.written() {
        return true;
    }
    ways.entry() && root.is_some_and(|root| is_lone_file(root, path))
}

/// What to tell of a path; nothing if it is no part of the share.
fn frame_for(root: &Root, work: &Work) -> Result<Option<(Frame, Vec<u8>)>, String> {
    let path = &work.path;
    let limit = u64::try_from(CONTENT_MAX).unwrap_or(u64::MAX);
    let looked = look(root, path, limit).map_err(|error| error.to_string())?;
    let parent = parent_time(root, path);
    let seq = work.version;
    let here = match looked {
        Looked::Elsewhere => return Ok(None),
        Looked::Gone if path.is_root() => return Err("the share is not there".to_owned()),
        Looked::Gone => {
            let path = path.clone();
            return Ok(Some((Frame::Remove { seq, path, parent }, Vec::new())));
        }
        Looked::Here(here) => here,
    };
    let (state, path) = (here.state, path.clone());
    if let Some(from) = work.from.clone() {
        let parents = (parent_time(root, &from), parent);
        let frame = Frame::Move {
            seq,
            from,
            to: path,
            state,
            parents,
        };
        return Ok(Some((frame, Vec::new())));
    }
    let content = match (&state.kind, here.content) {
        (Kind::File { size, .. }, None) => {
            return Err(format!("{size} bytes: no way for so much is built yet"));
        }
        (_, content) => content.unwrap_or_default(),
    };
    let frame = Frame::Put {
        seq,
        path,
        state,
        parent,
    };
    Ok(Some((frame, content)))
}

fn parent_time(root: &Root, path: &SharePath) -> Option<Time> {
    let parent = path.parent()?;
    match look(root, &parent, 0) {
        Ok(Looked::Here(here)) => Some(here.state.attributes.modified),
        _ => None,
    }
}

/// The entries of a directory behind a name, and whether there are more than fit.
fn listing(
    root: &Root,
    directory: &SharePath,
    after: Option<&[u8]>,
) -> Result<(Vec<Listed>, bool), String> {
    let mut names = names_in(root, directory).map_err(|error| error.to_string())?;
    names.retain(|name| after.is_none_or(|after| name.as_slice() > after));
    names.sort();
    let mut entries = Vec::new();
    for name in names {
        if entries.len() == LISTED_MAX {
            return Ok((entries, true));
        }
        let Ok(path) = directory.join(&name) else {
            continue;
        };
        if path.is_own() {
            continue;
        }
        // What cannot be looked at differs, and shows why when its turn comes.
        let state = match look(root, &path, 0) {
            Ok(Looked::Here(here)) => Some(here.state),
            Ok(Looked::Gone | Looked::Elsewhere) => continue,
            Err(_) => None,
        };
        entries.push(Listed {
            directory: state.as_ref().is_some_and(is_directory),
            print: state.as_ref().map(print).unwrap_or_default(),
            name,
        });
    }
    Ok((entries, false))
}

fn is_directory(state: &State) -> bool {
    state.kind == Kind::Directory
}
