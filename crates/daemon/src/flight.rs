//! The flight recorder: what went into the decision machine and what it wanted. The last of it stays
//! in memory ([`memory`]); around an incident it is written into the state directory ([`file`]), as
//! lines that can be fed into the machine again ([`evenkeel_wire::flight`]): `evenkeel replay FILE`.
//!
//! What leaves memory is not lost altogether: the agreed state is carried along, and so is the last
//! word on each thing that stays true until the next one. A file begins with that. What the machine
//! had counted until then is missing, and a replay says so.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use evenkeel_core::node::{Act, Event, Node, Start};
use evenkeel_core::story::Said;
use evenkeel_core::{Epoch, Moment};

mod feed;
mod file;
mod memory;

pub use self::feed::replay;
use self::file::Incident;
use self::memory::{Kept, Record};

/// Memory for what happened: about a minute of three nodes in `balanced`, and seconds where thousands
/// of checks answer. The worker's memory is locked, so that it counts.
const KEPT_MAX: usize = 4 << 20;
/// Memory for what follows an incident, until its file is written. What is more is cut off.
const FOLLOWS_MAX: usize = 4 << 20;
/// How long after an incident's first sign its file is written: what follows belongs to it.
const AFTERMATH: Duration = Duration::from_secs(5);
/// Files in a row, after which there is one for each [`SPACING`]: a group that flaps is to leave room
/// for what happened before.
const IN_A_ROW: u32 = 4;
const SPACING: Duration = Duration::from_secs(60);
/// How long a daemon that stops waits for its last file.
const LAST_MAX: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

/// A decision machine, and what happens to it on record.
pub struct Recorded {
    node: Node,
    flight: Flight,
}

impl Deref for Recorded {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Recorded {
    /// A machine that begins. `place` says whose the record is, and where its files go.
    pub fn new(now: Moment, start: Start, place: Place) -> Self {
        let flight = Flight::new(now, &start, place);
        let node = Node::new(now, start);
        Self { node, flight }
    }

    /// As [`Node::step`].
    pub fn step(&mut self, now: Moment, event: Event, wall_ms: u64) {
        self.flight.step(now, wall_ms, std::slice::from_ref(&event));
        self.node.step(now, event, wall_ms);
    }

    /// As [`Node::step_all`].
    pub fn step_all(&mut self, now: Moment, events: Vec<Event>, wall_ms: u64) {
        self.flight.step(now, wall_ms, &events);
        self.node.step_all(now, events, wall_ms);
    }

    /// As [`Node::poll`].
    pub fn poll(&mut self) -> Option<Act> {
        let act = self.node.poll()?;
        self.flight.act(&act);
        Some(act)
    }

    /// Puts an incident on record, and writes its file once that is due. Call it a few times a second,
    /// when nothing waits. Nothing is written while the log's disk does not answer at once: a thread that
    /// hangs in it would keep this process from ending, and the next from its log.
    pub fn mind(&mut self, now: Moment, wall_ms: u64, disk_answers: bool) {
        self.flight.mind(now, wall_ms, disk_answers);
    }

    /// Writes what is still due and waits for it, [`LAST_MAX`] at most.
    pub async fn finish(&mut self, now: Moment, wall_ms: u64, disk_answers: bool) {
        self.flight.mind(now, wall_ms, disk_answers);
        self.flight.mind(now + AFTERMATH, wall_ms, disk_answers);
        let until = tokio::time::Instant::now() + LAST_MAX;
        while self.flight.is_writing() && tokio::time::Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whose record it is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The node's name.
    pub node: String,
    /// Its life's counter.
    pub life: u64,
    /// The configuration's text.
    pub file: Arc<str>,
    /// The state directory.
    pub state: PathBuf,
}

/// An incident of which there is no file yet.
struct Pending {
    /// Its first sign.
    because: String,
    /// When its file is due.
    due: Moment,
    /// What was in memory soon after the first sign, and what followed.
    record: Option<Record>,
    is_cut: bool,
}

/// The record.
struct Flight {
    place: Place,
    record: Record,
    pending: Option<Pending>,
    /// The newest assignment that came while this worker looked on: what it opens beyond that was open
    /// before, under another worker, and is no move.
    assigned: Epoch,
    /// Files that may be written now, and since when the next one is being earned.
    files: u32,
    earned: Moment,
    now: Moment,
    /// The log's disk fails: what is on the same one had better not be tried.
    disk_fails: bool,
    writer: Option<JoinHandle<()>>,
}

impl Flight {
    fn new(now: Moment, start: &Start, place: Place) -> Self {
        Self {
            place,
            record: Record::new(now, start),
            pending: None,
            assigned: Epoch::NONE,
            files: IN_A_ROW,
            earned: now,
            now,
            disk_fails: false,
            writer: None,
        }
    }

    fn step(&mut self, now: Moment, wall: u64, events: &[Event]) {
        self.now = now;
        for event in events {
            match event {
                Event::Log { fault } => self.disk_fails = fault.is_some(),
                Event::Appended { epoch, .. } => self.assigned = self.assigned.max(*epoch),
                _ => {}
            }
        }
        self.keep(Kept::step(now, wall, events));
    }

    fn act(&mut self, act: &Act) {
        if let Act::Say(said) = act
            && self.is_sign(said)
        {
            self.sign(said);
        }
        self.keep(Kept::act(act));
    }

    /// Whether a move begins, or this node has a part in one.
    fn is_sign(&self, said: &Said) -> bool {
        match said {
            Said::Deciding { .. }
            | Said::Leaving { .. }
            | Said::Draining { .. }
            | Said::Lapsed { .. }
            | Said::Released { .. } => true,
            Said::Opened { epoch, .. } => *epoch <= self.assigned,
            _ => false,
        }
    }

    /// Only the first one begins an incident.
    fn sign(&mut self, said: &Said) {
        let earned = self.now.since(self.earned).as_nanos() / SPACING.as_nanos();
        if let Ok(earned @ 1..) = u32::try_from(earned) {
            self.files = self.files.saturating_add(earned).min(IN_A_ROW);
            self.earned = self.now;
        }
        if self.pending.is_some() || self.files == 0 {
            return;
        }
        self.files -= 1;
        self.pending = Some(Pending {
            because: format!("{said:?}"),
            due: self.now + AFTERMATH,
            record: None,
            is_cut: false,
        });
    }

    fn keep(&mut self, kept: Kept) {
        let kept = Arc::new(kept);
        if let Some(Pending {
            record: Some(record),
            is_cut,
            ..
        }) = &mut self.pending
        {
            *is_cut |= record.bytes() > KEPT_MAX + FOLLOWS_MAX;
            if !*is_cut {
                record.add(Arc::clone(&kept));
            }
        }
        self.record.add(kept);
        self.record.forget(KEPT_MAX);
    }

    fn is_writing(&self) -> bool {
        let writer = self.writer.as_ref();
        writer.is_some_and(|writer| !writer.is_finished())
    }

    fn mind(&mut self, now: Moment, wall_ms: u64, disk_answers: bool) {
        let may_write = disk_answers && !self.disk_fails && !self.is_writing();
        let Some(pending) = &mut self.pending else {
            return;
        };
        // Not at the sign itself: the move is not to wait for it.
        pending.record.get_or_insert_with(|| self.record.clone());
        if now < pending.due || !may_write {
            return;
        }
        let Some(Pending {
            because,
            record: Some(record),
            is_cut,
            ..
        }) = self.pending.take()
        else {
            return;
        };
        let incident = Incident {
            place: self.place.clone(),
            record,
            because,
            is_cut,
            wall_ms,
            boot_ms: now.as_nanos() / 1_000_000,
        };
        // A thread of its own, of ordinary priority: it writes to a disk.
        let writer = std::thread::Builder::new().name("flight".to_owned());
        match writer.spawn(move || incident.write()) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => tracing::warn!(%error, "failed to write the flight recorder's file"),
        }
    }
}

#[cfg(test)]
mod tests;
