//! What parent and workers say to each other.
//!
//! Workers ask through a pipe, one line a question. The parent answers on a *board*, memory
//! that all its workers can read: an operator's question often ends with the worker that it
//! was put to, and the worker after it must know the answer.
//!
//! ```text
//!   worker ── line of JSON ──▶ pipe ──▶ parent ──▶ board ──▶ every worker, at any time
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use evenkeel_console::api::v1::{Reload, ReloadWhat};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe::Receiver;

/// Outcomes of each kind (what was to change something, and what was not) that are
/// remembered: an operator asks for theirs within seconds. Each kind has room of its own, since
/// other nodes have this one's file checked as often as they like.
const OUTCOMES_MAX: usize = 8;
/// The longest text of an outcome, in bytes: some faults of a file with their places.
const TEXT_MAX: usize = 6 * 1024;
/// The longest board, in bytes: outcomes with every character of their texts escaped.
const BOARD_MAX: usize = 8 * 2 * OUTCOMES_MAX * TEXT_MAX;
/// The longest question, in bytes: written in one piece or not at all (`pipe(7)`,
/// `PIPE_BUF`).
const ASK_MAX: usize = 4096;
/// Length and checksum before the board's content.
const HEAD: usize = 16;
/// How often a board that changes under the reader's eyes is read again.
const READ_TRIES: usize = 5;

/// What a worker asks of its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Its number, drawn by whoever asks.
    pub id: u64,
    /// What.
    pub what: ReloadWhat,
    /// Of a reload: only this file.
    pub digest: Option<String>,
}

/// What the parent shows its workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Board {
    /// The last outcomes, newest last.
    outcomes: Vec<Reload>,
}

impl Board {
    /// Notes how a reload stands, in the place of what was noted of it before.
    pub fn note(&mut self, mut outcome: Reload) {
        if outcome.text.len() > TEXT_MAX {
            let end = outcome.text.floor_char_boundary(TEXT_MAX);
            outcome.text.truncate(end);
            outcome
                .text
                .push_str("\n... and more: `evenkeel config check` tells all");
        }
        self.outcomes.retain(|known| known.id != outcome.id);
        let alike = |known: &Reload| changes(known) == changes(&outcome);
        if self.outcomes.iter().filter(|known| alike(known)).count() >= OUTCOMES_MAX
            && let Some(oldest) = self.outcomes.iter().position(alike)
        {
            self.outcomes.remove(oldest);
        }
        self.outcomes.push(outcome);
    }

    /// How the one of that number stands.
    pub fn outcome(&self, id: u64) -> Option<&Reload> {
        self.outcomes.iter().find(|one| one.id == id)
    }

    /// The last one that was to change something.
    pub fn last(&self) -> Option<&Reload> {
        self.outcomes.iter().rev().find(|one| changes(one))
    }
}

/// Whether it was to change something.
fn changes(outcome: &Reload) -> bool {
    outcome.what != ReloadWhat::Check
}

/// The parent's end.
pub struct ParentEnd {
    questions: Lines<BufReader<Receiver>>,
    /// The reading end once more, to be handed to the program after this one.
    read: OwnedFd,
    ends: WorkerEnd,
}

impl ParentEnd {
    /// A new one. Within a runtime.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let board = rustix::fs::memfd_create("evenkeel-board", MemfdFlags::CLOEXEC)?;
        let end = Self::of(read, WorkerEnd::of(write, board)?)?;
        end.show(&Board::default())?;
        Ok(end)
    }

    /// From the reading end of the pipe, and what workers get. Within a runtime.
    pub fn of(read: OwnedFd, ends: WorkerEnd) -> io::Result<Self> {
        rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
        let receiver = Receiver::from_owned_fd(read.try_clone()?)?;
        Ok(Self {
            questions: BufReader::with_capacity(ASK_MAX, receiver).lines(),
            read,
            ends,
        })
    }

    /// The next question. Loses nothing when it is dropped before that. What makes no sense
    /// is passed over.
    pub async fn next(&mut self) -> io::Result<Ask> {
        loop {
            match self.questions.next_line().await? {
                Some(line) => match serde_json::from_str(&line) {
                    Ok(ask) => return Ok(ask),
                    Err(error) => tracing::warn!(%error, "a worker's question makes no sense"),
                },
                // This process has a writing end itself.
                None => std::future::pending().await,
            }
        }
    }

    /// Shows the board.
    pub fn show(&self, board: &Board) -> io::Result<()> {
        let content = serde_json::to_vec(board).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEAD + content.len());
        bytes.extend((content.len() as u64).to_le_bytes());
        bytes.extend(checksum(&content).to_le_bytes());
        bytes.extend(content);
        self.ends.board.write_all_at(&bytes, 0)
    }

    /// What workers get.
    pub fn ends(&self) -> &WorkerEnd {
        &self.ends
    }

    /// The reading end, for the program after this one.
    pub fn read_end(&self) -> &OwnedFd {
        &self.read
    }
}

/// A worker's end.
pub struct WorkerEnd {
    pipe: File,
    board: File,
}

impl WorkerEnd {
    /// From the writing end of the pipe and the board.
    pub fn of(pipe: OwnedFd, board: OwnedFd) -> io::Result<Self> {
        // A parent that does not read must not hold up the decision thread.
        rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        Ok(Self {
            pipe: pipe.into(),
            board: board.into(),
        })
    }

    /// Puts a question. Never waits.
    pub fn ask(&self, ask: &Ask) -> io::Result<()> {
        let mut line = serde_json::to_vec(ask).map_err(io::Error::other)?;
        line.push(b'\n');
        if line.len() > ASK_MAX {
            return Err(io::Error::other("the question is too long"));
        }
        (&self.pipe).write_all(&line)
    }

    /// What the parent shows; none if it is being written all the time.
    pub fn board(&self) -> Option<Board> {
        (0..READ_TRIES).find_map(|_| {
            let mut head = [0; HEAD];
            self.board.read_exact_at(&mut head, 0).ok()?;
            let (length, sum) = head.split_at(8);
            let length = u64::from_le_bytes(length.try_into().ok()?);
            let length = usize::try_from(length)
                .ok()
                .filter(|one| *one <= BOARD_MAX)?;
            let mut content = vec![0; length];
            self.board.read_exact_at(&mut content, HEAD as u64).ok()?;
            (checksum(&content).to_le_bytes() == sum).then_some(())?;
            serde_json::from_slice(&content).ok()
        })
    }

    /// Both, by number.
    pub fn numbers(&self) -> (RawFd, RawFd) {
        (self.pipe.as_raw_fd(), self.board.as_raw_fd())
    }

    /// Both.
    pub fn descriptors(&self) -> [std::os::fd::BorrowedFd<'_>; 2] {
        [self.pipe.as_fd(), self.board.as_fd()]
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_console::api::v1::ReloadState;

    fn outcome(id: u64, what: ReloadWhat, text: String) -> Reload {
        Reload {
            id,
            what,
            state: ReloadState::Refused,
            at: String::new(),
            digest: None,
            text,
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn questions_arrive_and_answers_are_seen() {
        runtime().block_on(async {
            let mut parent = ParentEnd::new().expect("made");
            let ask = Ask {
                id: 7,
                what: ReloadWhat::Reload,
                digest: Some("00ff".to_owned()),
            };
            parent.ends().ask(&ask).expect("asked");
            assert_eq!(parent.next().await.expect("heard"), ask);
            let mut board = Board::default();
            assert_eq!(parent.ends().board(), Some(board.clone()));
            board.note(outcome(7, ReloadWhat::Reload, "no".repeat(TEXT_MAX)));
            parent.show(&board).expect("shown");
            let seen = parent.ends().board().expect("seen");
            assert_eq!(seen.outcome(7), board.outcome(7));
            assert!(seen.outcome(7).expect("there").text.len() < TEXT_MAX + 100);
            assert_eq!(seen.outcome(8), None);
        });
    }

    #[test]
    fn the_board_is_bounded_whatever_is_noted() {
        let mut board = Board::default();
        for id in 0..100 {
            board.note(outcome(
                id,
                ReloadWhat::Reload,
                "\u{1}".repeat(2 * TEXT_MAX),
            ));
        }
        assert_eq!(board.outcomes.len(), OUTCOMES_MAX);
        for id in 200..300 {
            board.note(outcome(id, ReloadWhat::Check, "\u{1}".repeat(TEXT_MAX)));
        }
        assert_eq!(board.outcomes.len(), 2 * OUTCOMES_MAX);
        let kept = |id| board.outcome(id).is_some();
        assert!(kept(92) && kept(99), "checks take no answer away");
        assert!(kept(299) && !kept(91) && !kept(291));
        let length = serde_json::to_vec(&board).expect("written").len();
        assert!(length <= BOARD_MAX, "{length}");
        board.note(outcome(1000, ReloadWhat::Check, String::new()));
        assert_eq!(
            board.last().map(|one| one.id),
            Some(99),
            "a check changes nothing"
        );
    }

    #[test]
    fn a_full_pipe_refuses_and_blocks_nobody() {
        runtime().block_on(async {
            let parent = ParentEnd::new().expect("made");
            let ask = Ask {
                id: 1,
                what: ReloadWhat::Check,
                digest: None,
            };
            let refused = (0..100_000).any(|_| parent.ends().ask(&ask).is_err());
            assert!(refused);
        });
    }
}
