//! A standby's side of a share: does what the source says, one frame after the other, through the
//! gate.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use evenkeel_core::fence::Refused;

use crate::io::gate::Gate;
use crate::io::look::{Looked, look, names_in};
use crate::io::make::{MakeError, Maker};
use crate::io::root::Root;
use crate::path::SharePath;
use crate::print::print;
use crate::state::Kind;
use crate::v1::{Answer, Frame, Listed};

/// How many paths are known to be stale, each for itself. One more, and all of it may be.
const STALE_MAX: usize = 500_000;

/// One connection from a source.
#[derive(Debug)]
pub struct Replica {
    path: PathBuf,
    gate: Arc<Gate>,
    maker: Option<Maker>,
    stale: BTreeSet<SharePath>,
    /// More were told of than are remembered.
    all_stale: bool,
}

impl Replica {
    /// Of the share whose copy is at this path of the machine.
    pub fn new(path: &Path, gate: Arc<Gate>) -> Self {
        Self {
            path: path.to_owned(),
            gate,
            maker: None,
            stale: BTreeSet::new(),
            all_stale: false,
        }
    }

    /// What the source has told of and not sent yet; nothing if that is too much to be known path by
    /// path.
    pub fn stale(&self) -> Option<impl Iterator<Item = &SharePath>> {
        (!self.all_stale).then(|| self.stale.iter())
    }

    /// Does what a frame says, with its content.
    pub fn receive(&mut self, frame: Frame, content: &[u8]) -> Option<Answer> {
        match frame {
            Frame::Hello { epoch, source } => {
                let who = (epoch, source);
                if let Err(refused) = self.gate.within(who, || ()) {
                    return Some(refuse(refused));
                }
                let made = Root::open(&self.path)
                    .map_err(|error| error.to_string())
                    .and_then(|root| {
                        let gate = Arc::clone(&self.gate);
                        Maker::new(root, gate, who).map_err(|error| error.to_string())
                    });
                match made {
                    Ok(maker) => {
                        self.maker = Some(maker);
                        None
                    }
                    Err(why) => Some(Answer::Refused { why, passing: true }),
                }
            }
            Frame::Announce { paths } => {
                self.stale.extend(paths);
                if self.stale.len() > STALE_MAX {
                    self.stale.clear();
                    self.all_stale = true;
                }
                None
            }
            other => Some(self.change(other, content)),
        }
    }

    fn change(&mut self, frame: Frame, content: &[u8]) -> Answer {
        let Some(maker) = &mut self.maker else {
            let why = "the first word is to be who sends".to_owned();
            let passing = false;
            return Answer::Refused { why, passing };
        };
        // Where nothing is any more.
        let left;
        let (seq, path, done) = match frame {
            Frame::Put {
                seq,
                path,
                state,
                parent,
            } => {
                let done = maker.put(&path, &state, content, parent);
                left = (state.kind != Kind::Directory).then(|| path.clone());
                (seq.0, path, done)
            }
            Frame::Remove { seq, path, parent } => {
                let done = maker.remove_at(&path, parent).map(|()| false);
                left = Some(path.clone());
                (seq.0, path, done)
            }
            Frame::Move {
                seq,
                from,
                to,
                state,
                parents,
            } => {
                let done = maker.rename_to(&from, &to, &state, parents);
                left = Some(from);
                (seq.0, to, done.map(|()| false))
            }
            Frame::List {
                seq,
                path,
                after,
                more,
                entries,
            } => {
                let range = Range::new(after, more, &entries);
                return match differing(maker.root(), &path, &range, &entries) {
                    Ok((names, ours)) => {
                        let there = |name: &[u8]| {
                            ours.contains(name) || entries.iter().any(|one| one.name == name)
                        };
                        self.forget(&path, &range, there);
                        Answer::Differs { seq: seq.0, names }
                    }
                    Err(why) => Answer::Failed { seq: seq.0, why },
                };
            }
            Frame::Sync { seq } => {
                let seq = seq.0;
                return match maker.root().sync() {
                    Ok(()) => Answer::Synced { seq },
                    Err(error) => Answer::Failed {
                        seq,
                        why: format!("failed to reach the disk: {error}"),
                    },
                };
            }
            Frame::Hello { .. } | Frame::Announce { .. } => unreachable!("answered before"),
        };
        match done {
            Ok(new) => {
                self.stale.remove(&path);
                // What is below by another name now was told of by that.
                if let Some(left) = left {
                    self.forget_below(&left);
                }
                Answer::Done { seq, new }
            }
            Err(MakeError::Refused(refused)) => refuse(refused),
            Err(MakeError::NotThere) => Answer::NotThere { seq },
            Err(error) => Answer::Failed {
                seq,
                why: error.to_string(),
            },
        }
    }
}

/// Names in a directory.
type Names = BTreeSet<Vec<u8>>;

/// Which names of a directory were listed: those behind the first, up to the last.
struct Range {
    after: Option<Vec<u8>>,
    last: Option<Vec<u8>>,
}

impl Range {
    fn new(after: Option<Vec<u8>>, more: bool, listed: &[Listed]) -> Self {
        let last = listed.last().filter(|_| more);
        let last = last.map(|entry| entry.name.clone());
        Self { after, last }
    }

    fn has(&self, name: &[u8]) -> bool {
        self.after.as_deref().is_none_or(|after| name > after)
            && self.last.as_deref().is_none_or(|last| name <= last)
    }
}

impl Replica {
    /// Nothing is stale below this path, for nothing is there.
    fn forget_below(&mut self, path: &SharePath) {
        let below: Vec<SharePath> = self.stale_below(path).cloned().collect();
        for path in below {
            self.stale.remove(&path);
        }
    }

    /// Nothing is stale at the names of a directory that neither side has.
    fn forget(&mut self, directory: &SharePath, range: &Range, there: impl Fn(&[u8]) -> bool) {
        let depth = directory.names().count();
        let gone: Vec<SharePath> = self
            .stale_below(directory)
            .filter(|path| {
                let name = path.names().nth(depth).unwrap_or_default();
                range.has(name) && !there(name)
            })
            .cloned()
            .collect();
        for path in gone {
            self.stale.remove(&path);
        }
    }

    fn stale_below<'a>(&'a self, path: &'a SharePath) -> impl Iterator<Item = &'a SharePath> {
        use core::ops::Bound::{Excluded, Unbounded};
        self.stale
            .range::<SharePath, _>((Excluded(path), Unbounded))
            .take_while(move |one| one.is_below(path))
    }
}

fn refuse(refused: Refused) -> Answer {
    Answer::Refused {
        why: refused.to_string(),
        passing: refused.is_passing(),
    }
}

/// Which entries of a directory, in the range that was listed, differ here, or are only here or there;
/// and which are here.
fn differing(
    root: &Root,
    directory: &SharePath,
    range: &Range,
    listed: &[Listed],
) -> Result<(Vec<Vec<u8>>, Names), String> {
    let theirs: BTreeMap<&[u8], &Listed> = listed
        .iter()
        .map(|entry| (entry.name.as_slice(), entry))
        .collect();
    let names = names_in(root, directory).map_err(|error| error.to_string())?;
    let ours: Names = names.into_iter().filter(|name| range.has(name)).collect();
    let mut differing = Vec::new();
    for name in &ours {
        let Ok(path) = directory.join(name) else {
            continue;
        };
        if path.is_own() {
            continue;
        }
        let same = theirs.get(name.as_slice()).is_some_and(|entry| {
            matches!(look(root, &path, 0), Ok(Looked::Here(here)) if print(&here.state) == entry.print)
        });
        if !same {
            differing.push(name.clone());
        }
    }
    let missing = theirs.keys().filter(|name| !ours.contains(**name));
    differing.extend(missing.map(|name| name.to_vec()));
    Ok((differing, ours))
}
