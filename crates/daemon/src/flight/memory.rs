//! What is in memory of what happened, and what is left of what was.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use evenkeel_core::command::Command;
use evenkeel_core::health::REPORT_AGE_MAX;
use evenkeel_core::ledger::Ledger;
use evenkeel_core::node::{Act, Event, Start};
use evenkeel_core::role::Want;
use evenkeel_core::topology::ServiceAddress;
use evenkeel_core::{CheckName, GroupId, Moment, NodeId};
use evenkeel_wire::flight;
use evenkeel_wire::v1::report;
use serde_json::{Value, json};

/// What a step or an act takes beside what it says, and what is around each allocation.
const ENTRY_BYTES: usize = 128;
/// An account of why, or a group's part in the agreed state: more or less.
const EVIDENCE_BYTES: usize = 2_048;

/// Something that went in. Kept as it came: nothing is written out where decisions are made.
#[derive(Clone)]
enum Input {
    /// The many: in their versioned form, which takes a tenth of the room.
    Reported(NodeId, Arc<[u8]>),
    Other(Arc<Event>),
}

impl Input {
    fn of(event: &Event) -> Self {
        match event {
            Event::Reported { from, report } => {
                Self::Reported(*from, report::encode(report).into())
            }
            other => Self::Other(Arc::new(other.clone())),
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
                Self::Other(event) => size_of::<Event>() + beside(event),
            }
    }
}

/// What an event takes beside its own size.
fn beside(event: &Event) -> usize {
    match event {
        Event::Verdict {
            detail, measures, ..
        } => detail.capacity() + size_of_val(measures.as_slice()),
        Event::Silences(all) => size_of_val(all.as_slice()),
        Event::Appended { assign, .. } => of_addresses(&assign.addresses) + EVIDENCE_BYTES,
        Event::Committed { command, .. } => of_command(command),
        Event::Restored { ledger } => of_ledger(ledger),
        Event::Phase { what, .. } => what.capacity(),
        Event::Services { all, .. } => size_of_val(all.as_slice()),
        _ => 0,
    }
}

fn of_addresses(addresses: &[ServiceAddress]) -> usize {
    size_of_val(addresses)
}

fn of_command(command: &Command) -> usize {
    match command {
        Command::Assign(assign) => of_addresses(&assign.addresses) + EVIDENCE_BYTES,
        _ => EVIDENCE_BYTES,
    }
}

fn of_ledger(ledger: &Ledger) -> usize {
    let records = ledger.groups.values();
    let moves = records.flat_map(|record| record.moves.iter());
    let moves: usize = moves
        .map(|one| of_addresses(&one.assigned.assign.addresses) + EVIDENCE_BYTES)
        .sum();
    moves + (ledger.groups.len() + ledger.nodes.len()) * EVIDENCE_BYTES
}

/// What an act takes beside its own size.
fn beside_act(act: &Act) -> usize {
    match act {
        Act::Propose { command, .. } => of_command(command),
        Act::Want { want, .. } => match want {
            Want::Absent => 0,
            Want::Closed { addresses }
            | Want::Open { addresses, .. }
            | Want::Draining { addresses, .. } => of_addresses(addresses),
        },
        Act::Say(_) => EVIDENCE_BYTES,
        _ => 0,
    }
}

/// Something that was wanted.
enum Wanted {
    /// A report: its number, and its versioned form.
    Told(u64, Arc<[u8]>),
    Other(Box<Act>),
}

impl Wanted {
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Told(_, report) => report.len(),
                Self::Other(act) => size_of::<Act>() + beside_act(act),
            }
    }

    fn json(&self, node: &str) -> Value {
        let (text, digest) = match self {
            Self::Told(seq, report) => flight::told(*seq, report),
            Self::Other(act) => flight::act(act),
        };
        json!({"node": node, "what": "act", "text": text, "digest": digest})
    }
}

/// One entry of the record.
pub(super) struct Kept {
    what: What,
    bytes: usize,
}

enum What {
    Step {
        now: Moment,
        wall: u64,
        inputs: Vec<Input>,
    },
    Act(Wanted),
}

impl Kept {
    pub(super) fn step(now: Moment, wall: u64, events: &[Event]) -> Self {
        let inputs: Vec<Input> = events.iter().map(Input::of).collect();
        let bytes = ENTRY_BYTES + inputs.iter().map(Input::bytes).sum::<usize>();
        let what = What::Step { now, wall, inputs };
        Self { what, bytes }
    }

    pub(super) fn act(act: &Act) -> Self {
        let wanted = match act {
            Act::Tell(report) => Wanted::Told(report.seq, report::encode(report).into()),
            other => Wanted::Other(Box::new(other.clone())),
        };
        Self {
            bytes: ENTRY_BYTES + wanted.bytes(),
            what: What::Act(wanted),
        }
    }

    pub(super) fn json(&self, node: &str) -> Value {
        match &self.what {
            What::Step { now, wall, inputs } => step(node, *now, *wall, inputs),
            What::Act(wanted) => wanted.json(node),
        }
    }
}

fn step(node: &str, now: Moment, wall: u64, inputs: &[Input]) -> Value {
    let all: Vec<Value> = inputs.iter().map(Input::json).collect();
    json!({"node": node, "what": "step", "now": now.as_nanos(), "wall": wall, "in": all})
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
            let (group, judged) = (Some(*group), Some(*judged));
            return Some((Topic::Verdict, group, judged, Some(check.clone())));
        }
        Event::Reported { .. }
        | Event::Committed { .. }
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

/// What was so when the oldest entry in memory came.
#[derive(Clone)]
struct Base {
    /// How the machine began, without the agreed state.
    start: Arc<Start>,
    ledger: Option<Arc<Ledger>>,
    /// The last proposal's number.
    last: u64,
    /// The last word on each thing, and when it came. As many as there are nodes, groups and checks.
    words: BTreeMap<Key, (Moment, Input)>,
    /// Nothing has left memory yet.
    whole: bool,
    at: Moment,
}

impl Base {
    fn take(&mut self, kept: &Kept) {
        self.whole = false;
        match &kept.what {
            What::Act(Wanted::Other(act)) => {
                if let Act::Propose { id, .. } = &**act {
                    self.last = *id;
                }
            }
            What::Act(Wanted::Told(..)) => {}
            What::Step { now, inputs, .. } => {
                self.at = *now;
                for input in inputs {
                    self.hear(*now, input);
                }
            }
        }
    }

    fn hear(&mut self, now: Moment, input: &Input) {
        let key = match input {
            Input::Reported(from, _) => Some((Topic::Report, None, Some(*from), None)),
            Input::Other(event) => key(event),
        };
        if let Some(key) = key {
            self.words.insert(key, (now, input.clone()));
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

    /// How the machine began, or what it knew.
    fn begins(&self, node: &str, file: &str) -> Value {
        let start = Start {
            ledger: self.ledger.as_deref().cloned(),
            first_seq: self.last,
            ..Start::clone(&self.start)
        };
        let what = if self.whole { "born" } else { "taken" };
        json!({
            "node": node, "what": what, "now": self.at.as_nanos(),
            "in": flight::born(&start, Value::from(file)),
        })
    }

    /// The words that still hold, as one step, so that nothing is decided half-way.
    fn told(&self, node: &str, wall: u64) -> Option<Value> {
        let holds = |heard: Moment, input: &Input| {
            // Of a node that was not heard for so long nothing counts.
            !matches!(input, Input::Reported(..)) || self.at.since(heard) <= REPORT_AGE_MAX
        };
        let words = self.words.values();
        let words = words.filter(|(heard, input)| holds(*heard, input));
        let words: Vec<Input> = words.map(|(_, input)| input.clone()).collect();
        (!words.is_empty()).then(|| step(node, self.at, wall, &words))
    }
}

/// What happened, from some moment on.
#[derive(Clone)]
pub(super) struct Record {
    base: Base,
    kept: VecDeque<Arc<Kept>>,
    bytes: usize,
}

impl Record {
    pub(super) fn new(now: Moment, start: &Start) -> Self {
        let mut start = start.clone();
        let ledger = start.ledger.take().map(Arc::new);
        let base = Base {
            ledger,
            last: start.first_seq,
            start: Arc::new(start),
            words: BTreeMap::new(),
            whole: true,
            at: now,
        };
        Self {
            base,
            kept: VecDeque::new(),
            bytes: 0,
        }
    }

    /// What the entries take, more or less.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it goes back to the machine's beginning.
    #[cfg(test)]
    pub(super) fn is_whole(&self) -> bool {
        self.base.whole
    }

    pub(super) fn add(&mut self, kept: Arc<Kept>) {
        self.bytes += kept.bytes;
        self.kept.push_back(kept);
    }

    /// Folds the oldest entries into what was, until the others take so much.
    pub(super) fn forget(&mut self, bytes: usize) {
        while self.bytes > bytes
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.bytes;
            self.base.take(&oldest);
        }
    }

    /// Its lines; `wall` is the calendar in milliseconds.
    pub(super) fn lines(&self, node: &str, file: &str, wall: u64) -> impl Iterator<Item = Value> {
        let begins = [self.base.begins(node, file)].into_iter();
        let told = self.base.told(node, wall).into_iter();
        let kept = self.kept.iter().map(move |kept| kept.json(node));
        begins.chain(told).chain(kept)
    }
}
