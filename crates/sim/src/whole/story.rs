//! What happened, as JSON lines: one event a line, in the order in which it happened.
//!
//! ```json
//! {"at":1234567,"node":1,"what":"hears","text":"from 0: Renew ..."}
//! ```
//!
//! `at` is true time in nanoseconds, `node` the number of a node (absent: the world itself), `what`
//! one word, `group` and `epoch` ("term.index") where the event is about one, `text` for people.
//! Lines of what is `born`, `step` and `act` are the life of the decision machine of their node, and
//! can be fed into one again ([`evenkeel_wire::flight`]), as those that the daemon writes of its life can.

use std::collections::VecDeque;

use evenkeel_core::node::{Act, Event};
use evenkeel_core::{Epoch, GroupId, Moment};
use evenkeel_wire::flight;
use serde_json::{Map, Value};

/// Lines that a failure prints.
pub const STORY_MAX: usize = 200;

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    node: Option<usize>,
    what: &'static str,
    fields: Map<String, Value>,
}

impl Line {
    /// Something happened to the world.
    pub fn world(what: &'static str) -> Self {
        Self {
            node: None,
            what,
            fields: Map::new(),
        }
    }

    /// Something happened on a node.
    pub fn node(node: usize, what: &'static str) -> Self {
        Self {
            node: Some(node),
            ..Self::world(what)
        }
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(key.to_owned(), value.into());
        self
    }

    /// About a group.
    pub fn group(self, group: GroupId) -> Self {
        self.with("group", format!("{group:?}"))
    }

    /// About an epoch.
    pub fn epoch(self, epoch: Epoch) -> Self {
        self.with("epoch", format!("{}.{}", epoch.term, epoch.index))
    }

    /// For people.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.with("text", text.into())
    }

    fn json(self, at: u64) -> String {
        let mut all = Map::new();
        all.insert("at".to_owned(), at.into());
        if let Some(node) = self.node {
            all.insert("node".to_owned(), node.into());
        }
        all.insert("what".to_owned(), self.what.into());
        all.extend(self.fields);
        Value::Object(all).to_string()
    }
}

/// Inputs of a decision machine that came together.
pub(super) fn step(node: usize, now: Moment, wall: u64, events: &[Event]) -> Line {
    let all: Vec<Value> = events.iter().map(flight::write).collect();
    Line::node(node, "step")
        .with("now", now.as_nanos())
        .with("wall", wall)
        .with("in", all)
}

/// What a decision machine wants.
pub(super) fn act(node: usize, act: &Act) -> Line {
    let (text, digest) = flight::act(act);
    Line::node(node, "act").text(text).with("digest", digest)
}

/// A decision machine begins.
pub(super) fn born(node: usize, now: Moment, how: Value) -> Line {
    Line::node(node, "born")
        .with("now", now.as_nanos())
        .with("in", how)
}

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Only what broke.
    Verdict,
    /// The last lines too.
    Last,
    /// Everything, printed as it happens.
    All,
    /// Everything, kept.
    Kept,
}

/// The story of one run.
pub(super) struct Story {
    telling: Telling,
    last: VecDeque<String>,
    /// Of every line: equal runs have equal digests.
    digest: u64,
}

impl Story {
    /// Nothing happened yet.
    pub(super) fn new(telling: Telling) -> Self {
        Self {
            telling,
            last: VecDeque::new(),
            digest: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Whether lines are wanted.
    pub(super) fn is_told(&self) -> bool {
        self.telling != Telling::Verdict
    }

    /// One more.
    pub(super) fn add(&mut self, at: u64, line: Line) {
        let text = line.json(at);
        for byte in text.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.telling == Telling::All {
            println!("{text}");
        }
        if self.telling != Telling::Kept && self.last.len() >= STORY_MAX {
            self.last.pop_front();
        }
        self.last.push_back(text);
    }

    /// The last lines, and a digest of all.
    pub(super) fn end(self) -> (Vec<String>, u64) {
        (self.last.into(), self.digest)
    }
}
