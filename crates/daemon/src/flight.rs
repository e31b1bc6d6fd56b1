//! The flight recorder: what went into the decision machine and what it wanted. The last minute or
//! two stay in memory; around an incident they are written into the state directory, as lines that
//! can be fed into the machine again ([`evenkeel_wire::flight`]): `evenkeel replay FILE`.
//!
//! What leaves memory is not lost altogether: the agreed state is carried along, and so is the last
//! word on each thing that stays true until the next one. A file begins with that. What the machine
//! had counted until then is missing, and a replay says so.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use evenkeel_core::ledger::Ledger;
use evenkeel_core::node::{Act, Event, Node, Start};
use evenkeel_core::story::Said;
use evenkeel_core::{CheckName, GroupId, Moment, NodeId};
use evenkeel_wire::flight;
use evenkeel_wire::v1::report;
use serde_json::{Value, json};

mod feed;

pub use self::feed::replay;

/// Memory for what happened: about a minute of three nodes in `balanced`. The worker's memory is
/// locked, so that it counts.
const KEPT_MAX: usize = 4 << 20;
/// What a step or an act takes beside what it says.
const ENTRY_BYTES: usize = 96;
/// How long after an incident's first sign its file is written: what follows belongs to it.
const AFTERMATH: Duration = Duration::from_secs(5);
/// The shortest time from one file to the next: a group that flaps is to leave room for what
/// happened before.
const SPACING: Duration = Duration::from_secs(60);
/// Files that are kept.
const FILES_MAX: usize = 16;
/// What they may take together, in bytes: a dozen times what is in memory, written out.
const FILES_BYTES_MAX: u64 = 128 << 20;
/// The directory within the state directory.
const DIRECTORY: &str = "flight";
/// The end of each file's name.
const ENDING: &str = ".jsonl";

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

    /// Writes the file of an incident, if one is due.
    pub fn mind(&mut self, now: Moment, wall_ms: u64) {
        self.flight.mind(now, wall_ms);
    }
}

/// Whose record it is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The node's name.
    pub node: String,
    /// The configuration's text.
    pub file: Arc<str>,
    /// The state directory.
    pub state: PathBuf,
}

/// Something that went in.
enum Input {
    /// The many: in their versioned form, which takes a tenth of the room.
    Reported(NodeId, Vec<u8>),
    Other(Box<Event>),
}

impl Input {
    fn of(event: &Event) -> Self {
        match event {
            Event::Reported { from, report } => Self::Reported(*from, report::encode(report)),
            other => Self::Other(Box::new(other.clone())),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Reported(from, report) => flight::reported(*from, report),
            Self::Other(event) => flight::write(event),
        }
    }

    /// What it takes, more or less.
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Reported(_, report) => report.len(),
                Self::Other(event) => size_of::<Event>() + text_of(event),
            }
    }
}

/// What an event takes beside its own size, more or less.
fn text_of(event: &Event) -> usize {
    match event {
        Event::Tick | Event::Lateness(_) | Event::Stored(_) => 0,
        Event::Silences(all) => size_of_val(all.as_slice()),
        Event::Verdict {
            detail, measures, ..
        } => detail.len() + size_of_val(measures.as_slice()),
        // Rare, but of any size.
        rare => flight::write(rare).to_string().len(),
    }
}

enum Kept {
    Step {
        now: Moment,
        wall: u64,
        inputs: Vec<Input>,
    },
    Act {
        text: String,
        digest: String,
        proposal: Option<u64>,
    },
}

impl Kept {
    fn bytes(&self) -> usize {
        let what = match self {
            Self::Step { inputs, .. } => inputs.iter().map(Input::bytes).sum(),
            Self::Act { text, digest, .. } => text.len() + digest.len(),
        };
        ENTRY_BYTES + what
    }
}

/// Of what something stays true until the next word on it. In the order in which it is told again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Deciders,
    Votes,
    Stored,
    Log,
    Guard,
    Lateness,
    Stop,
    Readiness,
    Services,
    Appended,
    Leader,
    Report,
    Verdict,
    Lease,
    FloorAbove,
    Silences,
}

type Key = (Topic, Option<GroupId>, Option<NodeId>, Option<CheckName>);

/// What an event is a word on; none: it is over with its step.
fn key(event: &Event) -> Option<Key> {
    let (topic, group) = match event {
        Event::Deciders { .. } => (Topic::Deciders, None),
        Event::Votes(_) => (Topic::Votes, None),
        Event::Stored(_) => (Topic::Stored, None),
        Event::Log { .. } => (Topic::Log, None),
        Event::Guard { .. } => (Topic::Guard, None),
        Event::Lateness(_) => (Topic::Lateness, None),
        Event::Stop | Event::Stay => (Topic::Stop, None),
        Event::Leader { .. } => (Topic::Leader, None),
        Event::Silences(_) => (Topic::Silences, None),
        Event::Readiness { group, .. } => (Topic::Readiness, Some(*group)),
        Event::Services { group, .. } => (Topic::Services, Some(*group)),
        Event::Appended { assign, .. } => (Topic::Appended, Some(assign.group)),
        Event::FloorAbove { group, .. } => (Topic::FloorAbove, Some(*group)),
        Event::Opened { group, .. }
        | Event::Opening { group, .. }
        | Event::Lapsed { group, .. }
        | Event::Released { group, .. } => (Topic::Lease, Some(*group)),
        Event::Idle(newest) => (Topic::Lease, Some(newest.group)),
        Event::Verdict {
            group,
            check,
            judged,
            ..
        } => {
            let key = (
                Topic::Verdict,
                Some(*group),
                Some(*judged),
                Some(check.clone()),
            );
            return Some(key);
        }
        Event::Reported { from, .. } => return Some((Topic::Report, None, Some(*from), None)),
        Event::Committed { .. }
        | Event::Restored { .. }
        | Event::Proposed { .. }
        | Event::Phase { .. }
        | Event::Drained { .. }
        | Event::MayClose { .. }
        | Event::Wish { .. }
        | Event::Maintain { .. }
        | Event::Tick => return None,
    };
    Some((topic, group, None, None))
}

/// What was so when the oldest step in memory came.
#[derive(Clone)]
struct Base {
    /// As [`flight::born`] has it, without the agreed state.
    start: Arc<Start>,
    ledger: Option<Arc<Ledger>>,
    /// The last proposal's number.
    last: u64,
    /// The last word on each thing: an input of a step.
    words: BTreeMap<Key, (Arc<Kept>, usize)>,
    /// Nothing has left memory yet.
    whole: bool,
    at: Moment,
}

impl Base {
    fn take(&mut self, kept: &Arc<Kept>) {
        self.whole = false;
        match &**kept {
            Kept::Act { proposal, .. } => self.last = proposal.unwrap_or(self.last),
            Kept::Step { now, inputs, .. } => {
                self.at = *now;
                for (at, input) in inputs.iter().enumerate() {
                    self.hear(kept, at, input);
                }
            }
        }
    }

    fn hear(&mut self, kept: &Arc<Kept>, at: usize, input: &Input) {
        let key = match input {
            Input::Reported(from, _) => Some((Topic::Report, None, Some(*from), None)),
            Input::Other(event) => key(event),
        };
        if let Some(key) = key {
            self.words.insert(key, (Arc::clone(kept), at));
        }
        let Input::Other(event) = input else { return };
        match &**event {
            Event::Committed { epoch, command } => {
                if let Some(ledger) = &mut self.ledger {
                    Arc::make_mut(ledger).apply(*epoch, command);
                }
            }
            Event::Restored { ledger } => self.ledger = Some(Arc::new(ledger.clone())),
            _ => {}
        }
    }
}

/// The record.
struct Flight {
    place: Place,
    base: Base,
    kept: VecDeque<Arc<Kept>>,
    bytes: usize,
    /// When the file of an incident is to be written, and what it was.
    due: Option<(Moment, String)>,
    not_before: Moment,
    /// The log's disk fails: what is on the same one had better not be tried.
    disk_fails: bool,
    writer: Option<JoinHandle<()>>,
}

impl Flight {
    fn new(now: Moment, start: &Start, place: Place) -> Self {
        let base = Base {
            ledger: start.ledger.clone().map(Arc::new),
            last: start.first_seq,
            start: Arc::new(start.clone()),
            words: BTreeMap::new(),
            whole: true,
            at: now,
        };
        Self {
            place,
            base,
            kept: VecDeque::new(),
            bytes: 0,
            due: None,
            not_before: now,
            disk_fails: false,
            writer: None,
        }
    }

    fn step(&mut self, now: Moment, wall: u64, events: &[Event]) {
        for event in events {
            match event {
                Event::Log { fault } => self.disk_fails = fault.is_some(),
                Event::Lapsed { .. } => self.strange(now, "a lease ran out"),
                _ => {}
            }
        }
        let inputs = events.iter().map(Input::of).collect();
        self.keep(Kept::Step { now, wall, inputs });
    }

    fn act(&mut self, act: &Act) {
        let (text, digest) = flight::act(act);
        let proposal = match act {
            Act::Propose { id, .. } => Some(*id),
            _ => None,
        };
        if let Act::Say(Said::Deciding { .. } | Said::Opened { .. } | Said::Leaving { .. }) = act
            && let Some(Kept::Step { now, .. }) = self.newest_step()
        {
            self.strange(*now, &text);
        }
        self.keep(Kept::Act {
            text,
            digest,
            proposal,
        });
    }

    fn newest_step(&self) -> Option<&Kept> {
        let mut newest = self.kept.iter().rev().map(|kept| &**kept);
        newest.find(|kept| matches!(kept, Kept::Step { .. }))
    }

    /// The first sign of an incident, or another one.
    fn strange(&mut self, now: Moment, what: &str) {
        if self.due.is_none() {
            let at = (now + AFTERMATH).max(self.not_before);
            self.due = Some((at, what.to_owned()));
        }
    }

    fn keep(&mut self, kept: Kept) {
        self.bytes += kept.bytes();
        self.kept.push_back(Arc::new(kept));
        while self.bytes > KEPT_MAX
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.bytes();
            self.base.take(&oldest);
        }
    }

    fn mind(&mut self, now: Moment, wall_ms: u64) {
        let Some((at, _)) = &self.due else { return };
        let is_busy = self.writer.as_ref().is_some_and(|one| !one.is_finished());
        if now < *at || is_busy || self.disk_fails {
            return;
        }
        let because = self.due.take().map(|(_, what)| what).unwrap_or_default();
        self.not_before = now + SPACING;
        let file = Incident {
            place: self.place.clone(),
            base: self.base.clone(),
            kept: self.kept.iter().map(Arc::clone).collect(),
            because,
            wall_ms,
        };
        // A thread of its own, of ordinary priority: it writes to a disk.
        let writer = std::thread::Builder::new().name("flight".to_owned());
        match writer.spawn(move || file.write()) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => tracing::warn!(%error, "failed to write the flight recorder's file"),
        }
    }
}

/// What is to be written.
struct Incident {
    place: Place,
    base: Base,
    kept: Vec<Arc<Kept>>,
    because: String,
    wall_ms: u64,
}

impl Incident {
    fn write(self) {
        let directory = self.place.state.join(DIRECTORY);
        match self.write_into(&directory) {
            Ok(path) => {
                tracing::info!(
                    file = %path.display(),
                    "the flight recorder's last minutes; see evenkeel replay"
                );
                tidy(&directory);
            }
            Err(error) => {
                let directory = directory.display();
                tracing::warn!(
                    "failed to write the flight recorder's file in {directory}: {error}"
                );
            }
        }
    }

    fn write_into(&self, directory: &Path) -> io::Result<PathBuf> {
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let at = i64::try_from(self.wall_ms).map(jiff::Timestamp::from_millisecond);
        let at = at.ok().and_then(Result::ok).unwrap_or_default();
        let name = at.strftime("%Y%m%dT%H%M%SZ");
        let path = directory.join(format!("{name}{ENDING}"));
        let half = directory.join(format!("{name}.half"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&half)?;
        let written = self.lines(BufWriter::new(file));
        // What could not be written is in nobody's way.
        let named = written.and_then(|()| fs::rename(&half, &path));
        if named.is_err() {
            let _ = fs::remove_file(&half);
        }
        named.map(|()| path)
    }

    fn lines(&self, mut to: impl Write) -> io::Result<()> {
        let node = &self.place.node;
        let base = &self.base;
        let mut line = |value: Value| writeln!(to, "{value}");
        line(json!({
            "node": node, "what": "recorder", "version": env!("CARGO_PKG_VERSION"),
            "because": self.because,
        }))?;
        let start = Start {
            ledger: base.ledger.as_deref().cloned(),
            first_seq: base.last,
            ..Start::clone(&base.start)
        };
        let begins = flight::born(&start, Value::from(&*self.place.file));
        let what = if base.whole { "born" } else { "taken" };
        line(json!({"node": node, "what": what, "now": base.at.as_nanos(), "in": begins}))?;
        if !base.words.is_empty() {
            let words: Vec<Value> = base.words.values().filter_map(word).collect();
            line(step(node, base.at, self.wall_ms, &words))?;
        }
        for kept in &self.kept {
            line(match &**kept {
                Kept::Step { now, wall, inputs } => {
                    let all: Vec<Value> = inputs.iter().map(Input::json).collect();
                    step(node, *now, *wall, &all)
                }
                Kept::Act { text, digest, .. } => {
                    json!({"node": node, "what": "act", "text": text, "digest": digest})
                }
            })?;
        }
        to.flush()
    }
}

fn word((kept, at): &(Arc<Kept>, usize)) -> Option<Value> {
    match &**kept {
        Kept::Step { inputs, .. } => inputs.get(*at).map(Input::json),
        Kept::Act { .. } => None,
    }
}

fn step(node: &str, now: Moment, wall: u64, inputs: &[Value]) -> Value {
    json!({"node": node, "what": "step", "now": now.as_nanos(), "wall": wall, "in": inputs})
}

/// Removes the oldest files beyond what is kept. Their names are in the order of time.
fn tidy(directory: &Path) {
    let listed = fs::read_dir(directory).into_iter().flatten().flatten();
    let ours = listed.filter(|one| one.file_name().to_string_lossy().ends_with(ENDING));
    let mut all: Vec<(PathBuf, u64)> = ours
        .map(|one| (one.path(), one.metadata().map_or(0, |meta| meta.len())))
        .collect();
    all.sort();
    let mut bytes = 0;
    for (at, (path, length)) in all.iter().rev().enumerate() {
        bytes += length;
        if at > 0 && (at >= FILES_MAX || bytes > FILES_BYTES_MAX) {
            // It is tried again with the next.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests;
