//! The fence of a replica, with its seal on the disk, and the one lock that every change of the
//! replica takes ([`evenkeel_core::fence`]).
//!
//! The seal is a file of one line, `1 TERM INDEX WRITER`, in the state directory of the node, not in
//! the share: a share that is restored from a backup does not bring an old seal with it. It is
//! replaced by a new file that is on the disk before it gets the name.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use evenkeel_core::fence::{Fence, Raised, Refused, Seal};
use evenkeel_core::{Epoch, NodeId};

const VERSION: &str = "1";

/// Three numbers and the version.
const LENGTH_MAX: u64 = 128;

/// Why a gate cannot be opened or raised.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// What is stored is no seal. It is not taken for "nothing was ever let in".
    #[error(
        "{path} is no seal of a share: {text:?}. If it cannot be restored, this replica has to be \
         made anew"
    )]
    NoSeal {
        /// Where.
        path: PathBuf,
        /// What is there.
        text: String,
    },
    /// The disk.
    #[error("failed to {what} {path}: {source}")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The assignment is not one to follow.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
}

/// The gate of the replica of one share.
#[derive(Debug)]
pub struct Gate {
    fence: RwLock<Fence>,
    path: PathBuf,
}

impl Gate {
    /// The gate whose seal is kept at `path`, closed.
    pub fn open(me: NodeId, path: PathBuf) -> Result<Self, GateError> {
        let seal = read(&path)?;
        let fence = RwLock::new(Fence::new(me, seal));
        Ok(Self { fence, path })
    }

    /// A committed assignment. When this has returned, nothing of an older epoch changes the replica
    /// any more, and nothing of this one before its seal is on the disk.
    pub fn raise(&self, to: Seal) -> Result<(), GateError> {
        let mut fence = self.write();
        let Raised::Store(seal) = fence.raise(to)? else {
            return Ok(());
        };
        match store(&self.path, seal) {
            Ok(()) => {
                fence.stored(seal);
                Ok(())
            }
            Err(error) => {
                fence.not_stored(seal);
                Err(error)
            }
        }
    }

    /// Nothing is let in until an assignment is known again.
    pub fn close(&self) {
        self.write().close();
    }

    /// What is stored.
    pub fn seal(&self) -> Seal {
        self.read().seal()
    }

    /// Does something to the replica, for `writer` in `epoch`, if that is let in. No epoch changes
    /// meanwhile.
    pub fn within<T>(
        &self,
        (epoch, writer): (Epoch, NodeId),
        work: impl FnOnce() -> T,
    ) -> Result<T, Refused> {
        let fence = self.read();
        fence.admit(epoch, writer)?;
        let done = work();
        drop(fence);
        Ok(done)
    }

    fn read(&self) -> RwLockReadGuard<'_, Fence> {
        self.fence.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Fence> {
        self.fence.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn disk<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> GateError + 'a {
    move |source| GateError::Disk {
        what,
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<Seal, GateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        // A replica that has never followed anybody.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Seal::default()),
        Err(error) => return Err(disk("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(LENGTH_MAX)
        .read_to_end(&mut bytes)
        .map_err(disk("read", path))?;
    let text = String::from_utf8_lossy(&bytes);
    parse(&text).ok_or_else(|| GateError::NoSeal {
        path: path.to_owned(),
        text: text.into_owned(),
    })
}

pub(crate) fn parse(text: &str) -> Option<Seal> {
    let mut words = text.strip_suffix('\n')?.split(' ');
    let mut number = || words.next()?.parse().ok();
    if number()? != VERSION.parse::<u64>().ok()? {
        return None;
    }
    let epoch = Epoch {
        term: number()?,
        index: number()?,
    };
    let writer = NodeId(number()?);
    (words.next().is_none() && epoch != Epoch::NONE).then_some(Seal { epoch, writer })
}

pub(crate) fn text(seal: Seal) -> String {
    let Seal { epoch, writer } = seal;
    format!("{VERSION} {} {} {}\n", epoch.term, epoch.index, writer.0)
}

fn store(path: &Path, seal: Seal) -> Result<(), GateError> {
    // Another seal's name may differ from this one's behind a point alone.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = File::create(&new).map_err(disk("make", &new))?;
    file.write_all(text(seal).as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(disk("write", &new))?;
    fs::rename(&new, path).map_err(disk("replace", path))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(disk("sync the directory of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const A: NodeId = NodeId(2);
    const B: NodeId = NodeId(u64::MAX);

    fn seal(index: u64, writer: NodeId) -> Seal {
        let epoch = Epoch { term: 3, index };
        Seal { epoch, writer }
    }

    #[test]
    fn a_seal_outlives_the_process_and_lets_nothing_in_by_itself() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("seal");
        let gate = Gate::open(ME, path.clone()).expect("opened");
        gate.raise(seal(5, A)).expect("raised");
        gate.raise(seal(6, B)).expect("raised");
        let done = gate.within((seal(6, B).epoch, B), || 7);
        assert_eq!(done, Ok(7));
        drop(gate);

        let gate = Gate::open(ME, path).expect("opened");
        assert_eq!(gate.seal(), seal(6, B));
        let closed = gate.within((seal(6, B).epoch, B), || panic!("let in"));
        assert_eq!(closed, Err(Refused::Closed));
        let error = gate.raise(seal(5, A)).expect_err("it is over");
        assert!(
            matches!(error, GateError::Refused(Refused::Outdated { .. })),
            "{error}"
        );
        gate.raise(seal(6, B)).expect("raised");
        let over = gate.within((seal(5, A).epoch, A), || panic!("let in"));
        assert!(matches!(over, Err(Refused::Outdated { .. })), "{over:?}");
    }

    #[test]
    fn what_is_no_seal_is_not_taken_for_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("seal");
        for text in [
            "",
            "1 3 5 2",
            "2 3 5 2\n",
            "1 3 5\n",
            "1 3 5 2 7\n",
            "1 0 0 2\n",
            "1 3 -5 2\n",
            "\u{fffd}\n",
        ] {
            fs::write(&path, text).expect("written");
            let error = Gate::open(ME, path.clone()).expect_err("refused");
            assert!(
                matches!(error, GateError::NoSeal { .. }),
                "{text:?}: {error}"
            );
        }
        fs::write(&path, "1 3 5 2\n").expect("written");
        let gate = Gate::open(ME, path).expect("opened");
        assert_eq!(gate.seal(), seal(5, A));
    }

    #[test]
    fn what_cannot_be_stored_lets_nothing_in() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("gone").join("seal");
        let gate = Gate::open(ME, path.clone()).expect("opened");
        let error = gate.raise(seal(5, A)).expect_err("no directory");
        assert!(matches!(error, GateError::Disk { .. }), "{error}");
        let closed = gate.within((seal(5, A).epoch, A), || panic!("let in"));
        assert_eq!(closed, Err(Refused::Closed));
        fs::create_dir(path.parent().expect("a directory")).expect("made");
        gate.raise(seal(5, A)).expect("raised");
        assert_eq!(gate.within((seal(5, A).epoch, A), || 7), Ok(7));
    }

    /// Who is inside when a newer epoch comes is done before that counts.
    #[test]
    fn a_new_epoch_waits_for_a_change_that_was_let_in() {
        let directory = tempfile::tempdir().expect("a directory");
        let gate = Gate::open(ME, directory.path().join("seal")).expect("opened");
        gate.raise(seal(5, A)).expect("raised");
        let (inside, is_inside) = std::sync::mpsc::channel();
        let (go, goes) = std::sync::mpsc::channel::<()>();
        let (raised, is_raised) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let gate = &gate;
            scope.spawn(move || {
                let change = || {
                    inside.send(()).expect("told");
                    goes.recv().expect("told");
                };
                gate.within((seal(5, A).epoch, A), change).expect("let in");
            });
            is_inside.recv().expect("told");
            scope.spawn(move || {
                gate.raise(seal(6, B)).expect("raised");
                raised.send(()).expect("told");
            });
            // It takes a moment for the disk; as long as somebody is inside it takes for ever.
            let early = is_raised.recv_timeout(std::time::Duration::from_millis(300));
            assert!(early.is_err(), "raised while somebody was inside");
            go.send(()).expect("told");
            is_raised.recv().expect("raised after that");
        });
        let over = gate.within((seal(5, A).epoch, A), || panic!("let in"));
        assert!(matches!(over, Err(Refused::Outdated { .. })), "{over:?}");
    }
}
