//! What the source of a share and a replica say to one another, version 1.
//!
//! ```text
//!   version u8 | length of the head u32 | length of the content u32 | head (postcard) | content
//! ```
//!
//! Lengths in network order. Content is the bytes of a file, of [`Frame::Put`] alone. Whatever
//! the other side sends is checked before anything comes of it: lengths before memory is taken,
//! paths so that they cannot lead out of the share, and nothing may follow the head.

use std::collections::BTreeMap;

use evenkeel_core::{Epoch, NodeId};
use serde::{Deserialize, Serialize};

use crate::journal::Seq;
use crate::path::SharePath;
use crate::state::{Attributes, EXTENDED_BYTES_MAX, Kind, State, Time};

/// The version that is spoken.
pub const VERSION: u8 = 1;

/// The longest content that goes in one frame, and so the longest file that the stream carries: 8 ms
/// at a gigabit a second, less than a start of rsync takes.
pub const CONTENT_MAX: usize = 1024 * 1024;

/// The longest head: all extended attributes that one object may have, two paths, and as much again.
pub const HEAD_MAX: usize = 2 * EXTENDED_BYTES_MAX;

/// How many entries of a directory one listing has at most.
pub const LISTED_MAX: usize = 4096;

/// How many paths are told of at once.
pub const ANNOUNCED_MAX: usize = 1024;

/// Of one frame before its head.
pub const PREFIX: usize = 9;

/// Why bytes are no frame. Follows "the other side sent ".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// Another version.
    #[error("version {0} of the protocol of shares, and this is {VERSION}")]
    Version(u8),
    /// Longer than any frame.
    #[error("a frame that is longer than any may be")]
    Length,
    /// Not what a frame says.
    #[error("a frame that cannot be read")]
    Broken,
    /// A path or a name that leads out of the share, or into the product's own directory.
    #[error("a path that is none below a share")]
    Path,
}

/// One entry of a directory: its name, and what tells whether it is the same elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: Vec<u8>,
    /// Of its state.
    pub print: [u8; 16],
    /// Whether there may be more below it.
    pub directory: bool,
}

/// From the source to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first one: who sends, in which epoch.
    Hello {
        /// The epoch in which it holds the group.
        epoch: Epoch,
        /// Who.
        source: NodeId,
    },
    /// These have changed and will follow.
    Announce {
        /// Which.
        paths: Vec<SharePath>,
    },
    /// This is at a path.
    Put {
        /// Which change.
        seq: Seq,
        /// Where.
        path: SharePath,
        /// What.
        state: State,
        /// When the directory that it is in changed, on the source.
        parent: Option<Time>,
    },
    /// Nothing is at a path.
    Remove {
        /// Which change.
        seq: Seq,
        /// Where.
        path: SharePath,
        /// When the directory that it was in changed, on the source.
        parent: Option<Time>,
    },
    /// What was at one path is at another.
    Move {
        /// Which change.
        seq: Seq,
        /// Where it was.
        from: SharePath,
        /// Where it is.
        to: SharePath,
        /// What it is.
        state: State,
        /// When the directories changed.
        parents: (Option<Time>, Option<Time>),
    },
    /// A directory has these entries, and no others, from the name `after` on to the last one here, or
    /// to the end.
    List {
        /// Which change.
        seq: Seq,
        /// Which directory.
        path: SharePath,
        /// The last name of the listing before this one; none for the first.
        after: Option<Vec<u8>>,
        /// Whether more follow.
        more: bool,
        /// Ordered by name.
        entries: Vec<Listed>,
    },
    /// Say when all before this is on the disk.
    Sync {
        /// A number for the answer.
        seq: Seq,
    },
}

/// From a replica to the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done. `new`: there was no directory there before, so that nothing is in it.
    Done {
        /// Which change.
        seq: u64,
        /// Whether a directory was made.
        new: bool,
    },
    /// These entries differ, or are only on one side.
    Differs {
        /// Which listing.
        seq: u64,
        /// Their names.
        names: Vec<Vec<u8>>,
    },
    /// What was to be moved is not there.
    NotThere {
        /// Which change.
        seq: u64,
    },
    /// It could not be done.
    Failed {
        /// Which change.
        seq: u64,
        /// Why, for people.
        why: String,
    },
    /// All up to this is on the disk.
    Synced {
        /// Which question.
        seq: u64,
    },
    /// The fence lets nothing in: this connection is over.
    Refused {
        /// Why, for people.
        why: String,
        /// Whether it is worth another try.
        passing: bool,
    },
}

#[derive(Serialize, Deserialize)]
enum FrameForm {
    Hello {
        term: u64,
        index: u64,
        source: u64,
    },
    Announce {
        paths: Vec<Vec<u8>>,
    },
    Put {
        seq: u64,
        path: Vec<u8>,
        state: StateForm,
        parent: Option<TimeForm>,
    },
    Remove {
        seq: u64,
        path: Vec<u8>,
        parent: Option<TimeForm>,
    },
    Move {
        seq: u64,
        from: Vec<u8>,
        to: Vec<u8>,
        state: StateForm,
        parents: (Option<TimeForm>, Option<TimeForm>),
    },
    List {
        seq: u64,
        path: Vec<u8>,
        after: Option<Vec<u8>>,
        more: bool,
        entries: Vec<Listed>,
    },
    Sync {
        seq: u64,
    },
}

type TimeForm = (i64, u32);

#[derive(Serialize, Deserialize)]
enum KindForm {
    Directory,
    File { size: u64, sparse: bool },
    Link { target: Vec<u8> },
    Fifo,
    Socket,
    Device { block: bool, major: u32, minor: u32 },
}

#[derive(Serialize, Deserialize)]
pub(crate) struct StateForm {
    kind: KindForm,
    mode: u32,
    owner: u32,
    group: u32,
    modified: TimeForm,
    extended: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn time_form(time: Time) -> TimeForm {
    (time.seconds, time.nanos)
}

/// The kernel takes no more nanoseconds than a second has.
fn time((seconds, nanos): TimeForm) -> Result<Time, FrameFault> {
    match nanos < 1_000_000_000 {
        true => Ok(Time { seconds, nanos }),
        false => Err(FrameFault::Broken),
    }
}

impl From<&State> for StateForm {
    fn from(state: &State) -> Self {
        let Attributes {
            mode,
            owner,
            group,
            modified,
            ref extended,
        } = state.attributes;
        let kind = match state.kind.clone() {
            Kind::Directory => KindForm::Directory,
            Kind::File { size, sparse } => KindForm::File { size, sparse },
            Kind::Link { target } => KindForm::Link { target },
            Kind::Fifo => KindForm::Fifo,
            Kind::Socket => KindForm::Socket,
            Kind::Device {
                block,
                major,
                minor,
            } => KindForm::Device {
                block,
                major,
                minor,
            },
        };
        Self {
            kind,
            mode,
            owner,
            group,
            modified: time_form(modified),
            extended: extended.clone(),
        }
    }
}

impl TryFrom<StateForm> for State {
    type Error = FrameFault;

    fn try_from(form: StateForm) -> Result<Self, FrameFault> {
        let kind = match form.kind {
            KindForm::Directory => Kind::Directory,
            KindForm::File { size, sparse } => Kind::File { size, sparse },
            KindForm::Link { target } => Kind::Link { target },
            KindForm::Fifo => Kind::Fifo,
            KindForm::Socket => Kind::Socket,
            KindForm::Device {
                block,
                major,
                minor,
            } => Kind::Device {
                block,
                major,
                minor,
            },
        };
        let own = |name: &Vec<u8>| crate::state::is_replicated(name);
        if form.mode & !0o7777 != 0 || !form.extended.keys().all(own) {
            return Err(FrameFault::Broken);
        }
        Ok(Self {
            kind,
            attributes: Attributes {
                mode: form.mode,
                owner: form.owner,
                group: form.group,
                modified: time(form.modified)?,
                extended: form.extended,
            },
        })
    }
}

fn path(bytes: &[u8]) -> Result<SharePath, FrameFault> {
    let path = SharePath::new(bytes).map_err(|_| FrameFault::Path)?;
    match path.is_own() {
        true => Err(FrameFault::Path),
        false => Ok(path),
    }
}

/// A path that something may be removed from or moved to: not the root.
fn below(bytes: &[u8]) -> Result<SharePath, FrameFault> {
    path(bytes).and_then(|path| match path.is_root() {
        true => Err(FrameFault::Path),
        false => Ok(path),
    })
}

fn name(bytes: &[u8]) -> Result<(), FrameFault> {
    let joined = SharePath::root().join(bytes);
    joined.map(drop).map_err(|_| FrameFault::Path)
}

/// The bytes of a frame, with the content of a file.
pub fn write(frame: &Frame, content: &[u8]) -> Vec<u8> {
    let bytes = |path: &SharePath| path.as_bytes().to_vec();
    let form = match frame {
        Frame::Hello { epoch, source } => FrameForm::Hello {
            term: epoch.term,
            index: epoch.index,
            source: source.0,
        },
        Frame::Announce { paths } => FrameForm::Announce {
            paths: paths.iter().map(bytes).collect(),
        },
        Frame::Put {
            seq,
            path,
            state,
            parent,
        } => FrameForm::Put {
            seq: seq.0,
            path: bytes(path),
            state: state.into(),
            parent: parent.map(time_form),
        },
        Frame::Remove { seq, path, parent } => FrameForm::Remove {
            seq: seq.0,
            path: bytes(path),
            parent: parent.map(time_form),
        },
        Frame::Move {
            seq,
            from,
            to,
            state,
            parents,
        } => FrameForm::Move {
            seq: seq.0,
            from: bytes(from),
            to: bytes(to),
            state: state.into(),
            parents: (parents.0.map(time_form), parents.1.map(time_form)),
        },
        Frame::List {
            seq,
            path,
            after,
            more,
            entries,
        } => FrameForm::List {
            seq: seq.0,
            path: bytes(path),
            after: after.clone(),
            more: *more,
            entries: entries.clone(),
        },
        Frame::Sync { seq } => FrameForm::Sync { seq: seq.0 },
    };
    framed(&form, content)
}

/// The bytes of an answer.
pub fn write_answer(answer: &Answer) -> Vec<u8> {
    framed(answer, &[])
}

fn framed(head: &impl Serialize, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![VERSION, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes =
        postcard::to_extend(head, bytes).expect("forms have only types that postcard can write");
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let head = length(bytes.len() - PREFIX);
    bytes[1..5].copy_from_slice(&head);
    bytes[5..PREFIX].copy_from_slice(&length(content.len()));
    bytes.extend_from_slice(content);
    bytes
}

/// How long the head and the content are that follow a prefix.
pub fn lengths(prefix: &[u8; PREFIX]) -> Result<(usize, usize), FrameFault> {
    let [version, head @ .., a, b, c, d] = *prefix;
    if version != VERSION {
        return Err(FrameFault::Version(version));
    }
    let length = |bytes| usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX);
    let (head, content) = (length(head), length([a, b, c, d]));
    if head > HEAD_MAX || content > CONTENT_MAX {
        return Err(FrameFault::Length);
    }
    Ok((head, content))
}

fn form<'a, T: Deserialize<'a>>(head: &'a [u8]) -> Result<T, FrameFault> {
    let (form, rest) = postcard::take_from_bytes(head).map_err(|_| FrameFault::Broken)?;
    match rest.is_empty() {
        true => Ok(form),
        false => Err(FrameFault::Broken),
    }
}

/// The frame with this head, before a content of so many bytes.
pub fn read(head: &[u8], content: usize) -> Result<Frame, FrameFault> {
    let frame = match form(head)? {
        FrameForm::Hello {
            term,
            index,
            source,
        } => Frame::Hello {
            epoch: Epoch { term, index },
            source: NodeId(source),
        },
        FrameForm::Announce { paths } if paths.len() <= ANNOUNCED_MAX => Frame::Announce {
            paths: paths
                .iter()
                .map(|bytes| path(bytes))
                .collect::<Result<_, _>>()?,
        },
        FrameForm::Put {
            seq,
            path: at,
            state,
            parent,
        } => {
            let state = State::try_from(state)?;
            let (path, is_directory) = (path(&at)?, state.kind == Kind::Directory);
            // The root is a directory and stays one.
            if path.is_root() && !is_directory {
                return Err(FrameFault::Path);
            }
            Frame::Put {
                seq: Seq(seq),
                path,
                state,
                parent: parent.map(time).transpose()?,
            }
        }
        FrameForm::Remove { seq, path, parent } => Frame::Remove {
            seq: Seq(seq),
            path: below(&path)?,
            parent: parent.map(time).transpose()?,
        },
        FrameForm::Move {
            seq,
            from,
            to,
            state,
            parents,
        } => Frame::Move {
            seq: Seq(seq),
            from: below(&from)?,
            to: below(&to)?,
            state: state.try_into()?,
            parents: (
                parents.0.map(time).transpose()?,
                parents.1.map(time).transpose()?,
            ),
        },
        FrameForm::List {
            seq,
            path: at,
            after,
            more,
            entries,
        } if entries.len() <= LISTED_MAX => {
            after.iter().try_for_each(|bytes| name(bytes))?;
            entries.iter().try_for_each(|entry| name(&entry.name))?;
            let names = after.iter().chain(entries.iter().map(|entry| &entry.name));
            // More of nothing would never end.
            if !names.is_sorted_by(|one, next| one < next) || (more && entries.is_empty()) {
                return Err(FrameFault::Broken);
            }
            Frame::List {
                seq: Seq(seq),
                path: path(&at)?,
                after,
                more,
                entries,
            }
        }
        FrameForm::Sync { seq } => Frame::Sync { seq: Seq(seq) },
        FrameForm::Announce { .. } | FrameForm::List { .. } => return Err(FrameFault::Length),
    };
    let size = match &frame {
        Frame::Put { state, .. } => match state.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        },
        _ => 0,
    };
    match usize::try_from(size) == Ok(content) {
        true => Ok(frame),
        false => Err(FrameFault::Broken),
    }
}

/// The answer with this head.
pub fn read_answer(head: &[u8]) -> Result<Answer, FrameFault> {
    let answer = form(head)?;
    if let Answer::Differs { names, .. } = &answer {
        names.iter().try_for_each(|bytes| name(bytes))?;
    }
    Ok(answer)
}

/// What a state is written as, for its print.
pub(crate) fn state_bytes(state: &State) -> Vec<u8> {
    postcard::to_stdvec(&StateForm::from(state))
        .expect("forms have only types that postcard can write")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SharePath {
        SharePath::new(text.as_bytes()).expect("a path")
    }

    fn state(kind: Kind) -> State {
        State {
            kind,
            attributes: Attributes {
                mode: 0o4755,
                owner: 1,
                group: u32::MAX,
                modified: Time {
                    seconds: -1,
                    nanos: 999_999_999,
                },
                extended: [(b"user.a".to_vec(), vec![0, 255])].into(),
            },
        }
    }

    fn again(frame: &Frame, content: &[u8]) -> Result<Frame, FrameFault> {
        let bytes = write(frame, content);
        let prefix = bytes.first_chunk().expect("a prefix");
        let (head, length) = lengths(prefix)?;
        assert_eq!(bytes.len(), PREFIX + head + length);
        assert_eq!(&bytes[PREFIX + head..], content);
        read(&bytes[PREFIX..PREFIX + head], length)
    }

    #[test]
    fn what_is_written_is_read() {
        let file = Kind::File {
            size: 3,
            sparse: true,
        };
        let time = Some(Time::default());
        let frames = [
            Frame::Hello {
                epoch: Epoch { term: 1, index: 2 },
                source: NodeId(u64::MAX),
            },
            Frame::Announce {
                paths: vec![at("a"), at("b/c")],
            },
            Frame::Put {
                seq: Seq(1),
                path: SharePath::root(),
                state: state(Kind::Directory),
                parent: None,
            },
            Frame::Remove {
                seq: Seq(2),
                path: at("x"),
                parent: time,
            },
            Frame::Move {
                seq: Seq(3),
                from: at("a"),
                to: at("b"),
                state: state(Kind::Link {
                    target: b"../x".to_vec(),
                }),
                parents: (time, None),
            },
            Frame::List {
                seq: Seq(4),
                path: at("d"),
                after: Some(b"a".to_vec()),
                more: true,
                entries: vec![Listed {
                    name: b"b".to_vec(),
                    print: [7; 16],
                    directory: true,
                }],
            },
            Frame::Sync { seq: Seq(5) },
        ];
        for frame in frames {
            assert_eq!(again(&frame, &[]), Ok(frame));
        }
        let put = Frame::Put {
            seq: Seq(6),
            path: at("f"),
            state: state(file),
            parent: time,
        };
        assert_eq!(again(&put, b"abc"), Ok(put.clone()));
        assert_eq!(again(&put, b"ab"), Err(FrameFault::Broken));
        let answer = Answer::Differs {
            seq: 1,
            names: vec![b"a".to_vec()],
        };
        let bytes = write_answer(&answer);
        assert_eq!(read_answer(&bytes[PREFIX..]), Ok(answer));
    }

    #[test]
    fn what_leads_out_of_the_share_is_refused() {
        let remove = |path: &[u8]| FrameForm::Remove {
            seq: 1,
            path: path.to_vec(),
            parent: None,
        };
        let fault = |form: &FrameForm| {
            let bytes = framed(form, &[]);
            read(&bytes[PREFIX..], 0).expect_err("refused")
        };
        for path in [
            &b""[..],
            b"..",
            b"/etc",
            b"a/../b",
            b".evenkeel/new",
            b"a\0",
        ] {
            assert_eq!(fault(&remove(path)), FrameFault::Path);
        }
        let put = FrameForm::Put {
            seq: 1,
            path: Vec::new(),
            state: (&state(Kind::Fifo)).into(),
            parent: None,
        };
        assert_eq!(fault(&put), FrameFault::Path);
        let mut other = StateForm::from(&state(Kind::Fifo));
        other
            .extended
            .insert(b"security.selinux".to_vec(), Vec::new());
        let put = FrameForm::Put {
            seq: 1,
            path: b"a".to_vec(),
            state: other,
            parent: None,
        };
        assert_eq!(fault(&put), FrameFault::Broken);
        let listed = |name: &[u8]| Listed {
            name: name.to_vec(),
            print: [0; 16],
            directory: false,
        };
        let list = |entries: Vec<Listed>, more| FrameForm::List {
            seq: 1,
            path: Vec::new(),
            after: None,
            more,
            entries,
        };
        assert_eq!(fault(&list(vec![listed(b"a/b")], false)), FrameFault::Path);
        let twice = list(vec![listed(b"a"), listed(b"a")], false);
        assert_eq!(fault(&twice), FrameFault::Broken);
        assert_eq!(fault(&list(vec![], true)), FrameFault::Broken);
        let many = vec![listed(b"a"); LISTED_MAX + 1];
        assert_eq!(fault(&list(many, false)), FrameFault::Length);
    }

    #[test]
    fn lengths_are_bounded_before_memory_is_taken() {
        let mut prefix = [VERSION, 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(lengths(&prefix), Ok((1, 0)));
        prefix[1] = 1;
        assert_eq!(lengths(&prefix), Err(FrameFault::Length));
        let long = [VERSION, 0, 0, 0, 1, 0, 16, 0, 1];
        assert_eq!(lengths(&long), Err(FrameFault::Length));
        let other = [VERSION + 1, 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(lengths(&other), Err(FrameFault::Version(VERSION + 1)));
    }
}
