//! Feeds what a flight recorder wrote into a decision machine again.

use std::collections::{BTreeMap, VecDeque};

use evenkeel_core::ledger::Ledger;
use evenkeel_core::node::{Act, Event, Node, Start};
use evenkeel_core::topology::{ServiceAddress, Topology};
use evenkeel_core::{GroupId, Moment, NodeId};
use serde_json::Value;

use super::{act, life_of, number, read, unhex};
use crate::v1::snapshot;

/// Differences that are told word by word.
const ASTRAY_MAX: usize = 20;

/// Acts of a machine that was not seen from its birth on that wait for their like: what it wants
/// earlier or later than in the story comes within some seconds, or never.
const PENDING_MAX: usize = 1_000;

/// Inputs of one step that make the machine say something each, beside verdicts and reports: more than
/// any driver feeds at once, fewer than the machine keeps acts.
const STEP_MAX: usize = 1_024;
/// As much of a line as an error shows.
const SHOWN_MAX: usize = 200;

/// What a replay came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Machines that began.
    pub born: u64,
    /// Machines that were seen only from some moment on.
    pub taken: u64,
    /// Inputs that were fed.
    pub steps: u64,
    /// Acts that were the same as in the story.
    pub acts: u64,
    /// Acts of a machine that was seen only from some moment on that were not the same: what it had
    /// counted until then is not known, so that some are told once more, or at another moment.
    pub differing: u64,
    /// The first of them.
    pub astray: Vec<String>,
}

/// What is told while a story is replayed.
pub enum Told<'a> {
    /// A machine begins.
    Begins(&'a Node),
    /// It was fed with this.
    Step(Moment, &'a [Event]),
    /// It wants this.
    Wants(&'a Act),
}

/// An act of the story, or of the machine that is fed with it.
#[derive(PartialEq, Eq)]
struct Wanted {
    text: String,
    digest: String,
}

impl Wanted {
    fn is_report(&self) -> bool {
        self.text.starts_with("Tell ")
    }
}

/// A machine on its way through a story. What it wants and what the story says come in the same
/// order, but not in step: a driver may feed it while acts of an earlier step still wait.
struct Fed {
    machine: Node,
    /// Nothing that it knew is missing.
    whole: bool,
    /// Wanted, and not found in the story yet.
    wants: VecDeque<Wanted>,
    /// In the story, and not wanted yet.
    told: VecDeque<Wanted>,
}

impl Fed {
    fn new(machine: Node, whole: bool) -> Self {
        Self {
            machine,
            whole,
            wants: VecDeque::new(),
            told: VecDeque::new(),
        }
    }

    fn wants(&mut self, one: Wanted, replayed: &mut Replayed) {
        if self.whole {
            self.wants.push_back(one);
        } else if !one.is_report() {
            self.look(one, false, replayed);
        }
    }

    fn told(&mut self, one: Wanted, replayed: &mut Replayed) -> Result<(), String> {
        if !self.whole {
            if !one.is_report() {
                self.look(one, true, replayed);
            }
            return Ok(());
        }
        let wanted = self.wants.pop_front();
        if wanted.as_ref() == Some(&one) {
            replayed.acts += 1;
            return Ok(());
        }
        let wanted = wanted.map(|wanted| wanted.text);
        Err(format!("in the story: {}\nwanted: {wanted:?}", one.text))
    }

    /// Looks for one side's act among those of the other, in whatever order.
    fn look(&mut self, one: Wanted, is_told: bool, replayed: &mut Replayed) {
        let (own, other) = match is_told {
            true => (&mut self.told, &mut self.wants),
            false => (&mut self.wants, &mut self.told),
        };
        if let Some(at) = other.iter().position(|wanted| *wanted == one) {
            other.remove(at);
            replayed.acts += 1;
            return;
        }
        own.push_back(one);
        if own.len() > PENDING_MAX
            && let Some(oldest) = own.pop_front()
        {
            replayed.differs(is_told, &oldest);
        }
    }

    fn end(self, replayed: &mut Replayed) -> Result<(), String> {
        if let Some(wanted) = self.wants.front().filter(|_| self.whole) {
            return Err(format!("wanted, and not in the story: {}", wanted.text));
        }
        for one in &self.told {
            replayed.differs(true, one);
        }
        for one in &self.wants {
            replayed.differs(false, one);
        }
        Ok(())
    }
}

impl Replayed {
    fn differs(&mut self, is_told: bool, one: &Wanted) {
        self.differing += 1;
        if self.astray.len() < ASTRAY_MAX {
            let whose = match is_told {
                true => "in the story alone",
                false => "wanted alone",
            };
            self.astray.push(format!("{whose}: {}", one.text));
        }
    }
}

/// Feeds the inputs of one node into the decision machine again, and compares what it wants with
/// what the story says. Lines before it begins are passed over, and those that are not of node
/// `of`, as the lines name it. `topology` reads what a line says of the configuration, or says why it
/// cannot; `tell` hears of everything.
///
/// # Errors
/// The first line that cannot be read, or, of a machine that was born in the story, that differs.
pub fn replay<'l>(
    lines: impl Iterator<Item = &'l str>,
    of: &Value,
    topology: impl Fn(&Value) -> Result<Topology, String>,
    mut tell: impl FnMut(Told<'_>),
) -> Result<Replayed, String> {
    let mut fed: Option<Fed> = None;
    let mut replayed = Replayed::default();
    for line in lines {
        let value: Value =
            serde_json::from_str(line).map_err(|why| format!("{why}: {}", shown(line)))?;
        if value.get("node") != Some(of) {
            continue;
        }
        let unreadable = || format!("not understood: {}", shown(line));
        let now = value.get("now").and_then(number).map(Moment::from_nanos);
        match value.get("what").and_then(Value::as_str) {
            Some(what @ ("born" | "taken")) => {
                if let Some(fed) = fed.take() {
                    fed.end(&mut replayed)?;
                }
                let (now, how) = now.zip(value.get("in")).ok_or_else(unreadable)?;
                let file = topology(how.get("file").unwrap_or(&Value::Null))?;
                let machine = begin(now, how, file).ok_or_else(unreadable)?;
                tell(Told::Begins(&machine));
                let whole = what == "born";
                match whole {
                    true => replayed.born += 1,
                    false => replayed.taken += 1,
                }
                fed = Some(Fed::new(machine, whole));
            }
            Some("step") => {
                let Some(fed) = &mut fed else { continue };
                let events = value.get("in").and_then(Value::as_array);
                let events = events.and_then(|all| all.iter().map(read).collect());
                let events: Vec<Event> = events.ok_or_else(unreadable)?;
                let many = |event: &&Event| {
                    !matches!(event, Event::Verdict { .. } | Event::Reported { .. })
                };
                if events.iter().filter(many).count() > STEP_MAX {
                    return Err(format!("more than one step: {}", shown(line)));
                }
                let wall = value.get("wall").and_then(number).unwrap_or(0);
                let now = now.ok_or_else(unreadable)?;
                tell(Told::Step(now, &events));
                fed.machine.step_all(now, events, wall);
                while let Some(one) = fed.machine.poll() {
                    tell(Told::Wants(&one));
                    let (text, digest) = act(&one);
                    fed.wants(Wanted { text, digest }, &mut replayed);
                }
                replayed.steps += 1;
            }
            Some("act") => {
                let Some(fed) = &mut fed else { continue };
                let text = |key: &str| Some(value.get(key)?.as_str()?.to_owned());
                let one = Wanted {
                    text: text("text").ok_or_else(unreadable)?,
                    digest: text("digest").ok_or_else(unreadable)?,
                };
                fed.told(one, &mut replayed)?;
            }
            _ => {}
        }
    }
    if let Some(fed) = fed {
        fed.end(&mut replayed)?;
    }
    Ok(replayed)
}

/// A line's beginning, with nothing in it that a terminal would obey.
fn shown(line: &str) -> String {
    let start: String = line.chars().take(SHOWN_MAX).collect();
    format!("{start:?}")
}

/// A machine that begins as one did.
fn begin(now: Moment, value: &Value, topology: Topology) -> Option<Node> {
    let ledger: Option<Ledger> = match value.get("ledger")? {
        Value::Null => None,
        bytes => Some(snapshot::decode(&unhex(bytes)?).ok()?),
    };
    let mut had = BTreeMap::new();
    for (group, all) in value.get("had")?.as_object()? {
        let all = all.as_array()?.iter().map(address_of);
        had.insert(GroupId(group.parse().ok()?), all.collect::<Option<_>>()?);
    }
    let start = Start {
        me: NodeId(number(value.get("me")?)?),
        incarnation: life_of(value.get("life")?)?,
        topology,
        config_digest: number(value.get("digest")?)?,
        ledger,
        had,
        first_seq: number(value.get("first_seq")?)?,
    };
    Some(Node::new(now, start))
}

/// `192.0.2.100/24@eth0`.
fn address_of(value: &Value) -> Option<ServiceAddress> {
    let text = value.as_str()?;
    let (rest, device) = match text.split_once('@') {
        Some((rest, device)) => (rest, Some(device.to_owned())),
        None => (text, None),
    };
    let (ip, prefix) = rest.split_once('/')?;
    Some(ServiceAddress {
        ip: ip.parse().ok()?,
        prefix: prefix.parse().ok()?,
        device,
    })
}
