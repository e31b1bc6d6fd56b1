//! The inputs of a decision machine as JSON, and back: so that what happened can be fed into the
//! machine again, here or wherever the same lines were written.
//!
//! ```json
//! {"at":1,"node":0,"what":"born","now":5,"in":{"me":..,"life":[1,7],"file":0,"ledger":"01..","had":[]}}
//! {"at":2,"node":0,"what":"step","now":9,"wall":0,"in":[{"kind":"opened","group":..,"epoch":[3,7]}]}
//! {"at":2,"node":0,"what":"act","text":"Propose ...","digest":"7d.."}
//! ```
//!
//! A step has one input or several that came together; the acts that follow are what it wanted, in
//! order, each shortened for people and with a digest of the whole. `now` is the node's own clock in nanoseconds. What has a versioned form is in that form, in
//! hexadecimal: reports, entries, snapshots. Numbers that are identities are decimal strings,
//! because they use all 64 bits.

use core::fmt::Write as _;
use core::time::Duration;
use std::collections::BTreeMap;

use evenkeel_core::command::{Assign, Command};
use evenkeel_core::health::{CheckState, Silence};
use evenkeel_core::lease::Assignment;
use evenkeel_core::ledger::Ledger;
use evenkeel_core::maintenance::Ask;
use evenkeel_core::node::{Event, Node, Start};
use evenkeel_core::policy::Wish;
use evenkeel_core::topology::{ServiceAddress, Topology};
use evenkeel_core::{CheckName, Epoch, GroupId, Incarnation, Moment, NodeId};
use evenkeel_wire::v1::{entry, report, snapshot};
use serde_json::{Map, Value, json};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes whatever is written.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str()?;
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok())
        .collect()
}

fn id(number: u64) -> Value {
    number.to_string().into()
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    }
}

fn epoch(epoch: Epoch) -> Value {
    json!([epoch.term, epoch.index])
}

fn epoch_of(value: &Value) -> Option<Epoch> {
    Some(Epoch {
        term: number(value.get(0)?)?,
        index: number(value.get(1)?)?,
    })
}

fn life(life: Incarnation) -> Value {
    json!([life.counter, id(life.nonce)])
}

fn life_of(value: &Value) -> Option<Incarnation> {
    Some(Incarnation {
        counter: number(value.get(0)?)?,
        nonce: number(value.get(1)?)?,
    })
}

fn span(span: Duration) -> Value {
    super::recipe::nanos(span).into()
}

fn state(state: CheckState) -> &'static str {
    match state {
        CheckState::Ok => "ok",
        CheckState::Failing => "failing",
        CheckState::Unknown => "unknown",
        CheckState::Idle => "idle",
    }
}

fn state_of(text: &str) -> Option<CheckState> {
    let all = [
        CheckState::Ok,
        CheckState::Failing,
        CheckState::Unknown,
        CheckState::Idle,
    ];
    all.into_iter().find(|one| state(*one) == text)
}

fn assign(assign: &Assign) -> Value {
    hex(&entry::encode(&Command::Assign(assign.clone()))).into()
}

fn silence(one: &Silence) -> Value {
    json!([
        id(one.group.0),
        epoch(one.epoch),
        span(one.unheard),
        one.standing.map(span),
    ])
}

fn silence_of(value: &Value) -> Option<Silence> {
    let standing = match value.get(3)? {
        Value::Null => None,
        standing => Some(Duration::from_nanos(number(standing)?)),
    };
    Some(Silence {
        group: GroupId(number(value.get(0)?)?),
        epoch: epoch_of(value.get(1)?)?,
        unheard: Duration::from_nanos(number(value.get(2)?)?),
        standing,
    })
}

/// What became of a group, in one of the shapes that several events share.
fn of_group(kind: &str, group: GroupId, of: Epoch) -> Value {
    json!({"kind": kind, "group": id(group.0), "epoch": epoch(of)})
}

/// The input as JSON.
pub fn write(event: &Event) -> Value {
    match event {
        Event::Reported { from, report } => {
            json!({"kind": "reported", "from": id(from.0), "report": hex(&report::encode(report))})
        }
        Event::Verdict {
            group,
            check,
            judged,
            state: said,
            at,
            silent_since,
            detail,
            measures: _,
        } => json!({
            "kind": "verdict", "group": id(group.0), "check": check.as_str(),
            "judged": id(judged.0), "state": state(*said), "when": at.as_nanos(),
            "silent_since": silent_since.map(Moment::as_nanos), "detail": detail,
        }),
        Event::Lateness(late) => json!({"kind": "lateness", "late": span(*late)}),
        Event::Votes(votes) => json!({"kind": "votes", "votes": votes}),
        Event::Stored(index) => json!({"kind": "stored", "index": index}),
        Event::Readiness { group, unready } => {
            json!({"kind": "readiness", "group": id(group.0), "unready": unready})
        }
        // Services that are started again on the spot are not simulated yet.
        Event::Services { group, .. } => json!({"kind": "services", "group": id(group.0)}),
        Event::Log { fault } => json!({"kind": "log", "fault": fault}),
        Event::Guard { full } => json!({"kind": "guard", "full": full}),
        Event::Appended {
            epoch: of,
            assign: one,
        } => json!({"kind": "appended", "epoch": epoch(*of), "entry": assign(one)}),
        Event::Deciders { generation, voters } => {
            let voters: Vec<Value> = voters.iter().map(|voter| id(voter.0)).collect();
            json!({"kind": "deciders", "generation": generation, "voters": voters})
        }
        Event::Committed { epoch: of, command } => {
            json!({"kind": "committed", "epoch": epoch(*of), "entry": hex(&entry::encode(command))})
        }
        Event::Restored { ledger } => {
            json!({"kind": "restored", "ledger": hex(&snapshot::encode(ledger))})
        }
        Event::Leader { leader } => {
            json!({"kind": "leader", "leader": leader.map(|leader| id(leader.0))})
        }
        Event::Proposed { id: of, failed } => {
            json!({"kind": "proposed", "id": id(*of), "failed": failed})
        }
        Event::Opened { group, epoch } => of_group("opened", *group, *epoch),
        Event::Opening { group, epoch } => of_group("opening", *group, *epoch),
        Event::Lapsed { group, epoch } => of_group("lapsed", *group, *epoch),
        Event::Released { group, epoch } => of_group("released", *group, *epoch),
        Event::FloorAbove { group, floor } => of_group("floor-above", *group, *floor),
        Event::MayClose { group, epoch } => of_group("may-close", *group, *epoch),
        Event::Idle(newest) => json!({
            "kind": "idle", "group": id(newest.group.0), "epoch": epoch(newest.epoch),
            "holder": id(newest.holder.0), "life": life(newest.incarnation),
        }),
        Event::Silences(silences) => {
            let all: Vec<Value> = silences.iter().map(silence).collect();
            json!({"kind": "silences", "silences": all})
        }
        Event::Phase { group, what, last } => {
            json!({"kind": "phase", "group": id(group.0), "what": what, "last": last})
        }
        Event::Drained {
            group,
            epoch: of,
            busy,
        } => json!({"kind": "drained", "group": id(group.0), "epoch": epoch(*of), "busy": busy}),
        Event::Wish { id: of, wish } => json!({
            "kind": "wish", "id": of, "group": id(wish.group.0),
            "to": wish.to.map(|to| id(to.0)), "force": wish.force,
        }),
        Event::Maintain { id: of, ask } => maintain(*of, *ask),
        Event::Stop => json!({"kind": "stop"}),
        Event::Stay => json!({"kind": "stay"}),
        Event::Tick => json!({"kind": "tick"}),
    }
}

fn maintain(of: u64, ask: Ask) -> Value {
    match ask {
        Ask::Drain {
            node,
            lasting,
            force,
        } => json!({
            "kind": "drain", "id": of, "of": id(node.0), "lasting": lasting.map(span),
            "force": force,
        }),
        Ask::Undrain { node } => json!({"kind": "undrain", "id": of, "of": id(node.0)}),
    }
}

/// Reads an input; none: it is of a kind that is not known here.
pub fn read(value: &Value) -> Option<Event> {
    let at = |key: &str| value.get(key);
    let text = |key: &str| Some(value.get(key)?.as_str()?.to_owned());
    let maybe = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let yes = |key: &str| value.get(key)?.as_bool();
    let group = || Some(GroupId(number(at("group")?)?));
    let of = || epoch_of(at("epoch")?);
    let command = || entry::decode(&unhex(at("entry")?)?).ok();
    let node = |key: &str| Some(NodeId(number(value.get(key)?)?));
    let lasting = || Some(Duration::from_nanos(number(at("lasting")?)?));
    Some(match value.get("kind")?.as_str()? {
        "reported" => Event::Reported {
            from: node("from")?,
            report: report::decode(&unhex(at("report")?)?).ok()?,
        },
        "verdict" => Event::Verdict {
            group: group()?,
            check: CheckName::new(&text("check")?).ok()?,
            judged: node("judged")?,
            state: state_of(&text("state")?)?,
            at: Moment::from_nanos(number(at("when")?)?),
            silent_since: number(at("silent_since")?).map(Moment::from_nanos),
            detail: text("detail")?,
            measures: Vec::new(),
        },
        "lateness" => Event::Lateness(Duration::from_nanos(number(at("late")?)?)),
        "votes" => Event::Votes(yes("votes")?),
        "stored" => Event::Stored(number(at("index")?)?),
        "readiness" => Event::Readiness {
            group: group()?,
            unready: maybe("unready"),
        },
        "log" => Event::Log {
            fault: maybe("fault"),
        },
        "guard" => Event::Guard { full: yes("full")? },
        "appended" => match command()? {
            Command::Assign(assign) => Event::Appended {
                epoch: of()?,
                assign,
            },
            _ => return None,
        },
        "deciders" => Event::Deciders {
            generation: number(at("generation")?)?,
            voters: at("voters")?
                .as_array()?
                .iter()
                .map(|voter| number(voter).map(NodeId))
                .collect::<Option<_>>()?,
        },
        "committed" => Event::Committed {
            epoch: of()?,
            command: command()?,
        },
        "restored" => Event::Restored {
            ledger: snapshot::decode(&unhex(at("ledger")?)?).ok()?,
        },
        "leader" => Event::Leader {
            leader: node("leader"),
        },
        "proposed" => Event::Proposed {
            id: number(at("id")?)?,
            failed: maybe("failed"),
        },
        "opened" => Event::Opened {
            group: group()?,
            epoch: of()?,
        },
        "opening" => Event::Opening {
            group: group()?,
            epoch: of()?,
        },
        "lapsed" => Event::Lapsed {
            group: group()?,
            epoch: of()?,
        },
        "released" => Event::Released {
            group: group()?,
            epoch: of()?,
        },
        "floor-above" => Event::FloorAbove {
            group: group()?,
            floor: of()?,
        },
        "may-close" => Event::MayClose {
            group: group()?,
            epoch: of()?,
        },
        "idle" => Event::Idle(Assignment {
            group: group()?,
            epoch: of()?,
            holder: node("holder")?,
            incarnation: life_of(at("life")?)?,
        }),
        "silences" => Event::Silences(
            at("silences")?
                .as_array()?
                .iter()
                .map(silence_of)
                .collect::<Option<_>>()?,
        ),
        "phase" => Event::Phase {
            group: group()?,
            what: text("what")?,
            last: yes("last")?,
        },
        "drained" => Event::Drained {
            group: group()?,
            epoch: of()?,
            busy: u32::try_from(number(at("busy")?)?).ok()?,
        },
        "wish" => Event::Wish {
            id: number(at("id")?)?,
            wish: Wish {
                group: group()?,
                to: node("to"),
                force: yes("force")?,
            },
        },
        "drain" => Event::Maintain {
            id: number(at("id")?)?,
            ask: Ask::Drain {
                node: node("of")?,
                lasting: lasting(),
                force: yes("force")?,
            },
        },
        "undrain" => Event::Maintain {
            id: number(at("id")?)?,
            ask: Ask::Undrain { node: node("of")? },
        },
        "stop" => Event::Stop,
        "stay" => Event::Stay,
        "tick" => Event::Tick,
        _ => return None,
    })
}

/// A digest of a text: FNV-1a, 64 bits.
pub(super) fn digest(text: &str) -> String {
    let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{sum:016x}")
}

/// How a decision machine began, as JSON; the configuration by the number of its version.
pub(super) fn born(start: &Start, file: usize) -> Value {
    let ledger = start.ledger.as_ref();
    let ledger = ledger.map(|ledger| hex(&snapshot::encode(ledger)));
    let had: Map<String, Value> = start
        .had
        .iter()
        .map(|(group, all)| {
            let all: Vec<String> = all.iter().map(|one| one.ip.to_string()).collect();
            (group.0.to_string(), all.into())
        })
        .collect();
    json!({
        "me": id(start.me.0), "life": life(start.incarnation), "file": file,
        "digest": start.config_digest, "first_seq": id(start.first_seq), "ledger": ledger,
        "had": had,
    })
}

/// A machine that begins as one did.
fn begin(now: Moment, value: &Value, topology: impl Fn(usize) -> Topology) -> Option<Node> {
    let ledger: Option<Ledger> = match value.get("ledger")? {
        Value::Null => None,
        bytes => Some(snapshot::decode(&unhex(bytes)?).ok()?),
    };
    let mut had = BTreeMap::new();
    for (group, all) in value.get("had")?.as_object()? {
        let all = all.as_array()?.iter().map(|one| {
            Some(ServiceAddress {
                ip: one.as_str()?.parse().ok()?,
                prefix: 24,
                device: None,
            })
        });
        had.insert(GroupId(group.parse().ok()?), all.collect::<Option<_>>()?);
    }
    let file = usize::try_from(number(value.get("file")?)?).ok()?;
    let start = Start {
        me: NodeId(number(value.get("me")?)?),
        incarnation: life_of(value.get("life")?)?,
        topology: topology(file),
        config_digest: number(value.get("digest")?)?,
        ledger,
        had,
        first_seq: number(value.get("first_seq")?)?,
    };
    Some(Node::new(now, start))
}

/// What a replay came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Machines that began.
    pub born: u64,
    /// Inputs that were fed.
    pub steps: u64,
    /// Acts that were the same as in the story.
    pub acts: u64,
}

/// Feeds the inputs of one node into the decision machine again, and compares what it wants with
/// what the story says. Lines before its first birth are passed over.
///
/// # Errors
/// The first line that cannot be read, or that differs.
pub fn replay<'l>(
    lines: impl Iterator<Item = &'l str>,
    node: usize,
    topology: impl Fn(usize) -> Topology,
) -> Result<Replayed, String> {
    let mut machine: Option<Node> = None;
    let mut wants: Vec<String> = Vec::new();
    let mut replayed = Replayed::default();
    for line in lines {
        let value: Value = serde_json::from_str(line).map_err(|why| format!("{why}: {line}"))?;
        if value.get("node").and_then(Value::as_u64) != Some(node as u64) {
            continue;
        }
        let unreadable = || format!("not understood: {line}");
        let now = value.get("now").and_then(number).map(Moment::from_nanos);
        match value.get("what").and_then(Value::as_str) {
            Some("born") => {
                let now = now.ok_or_else(unreadable)?;
                let how = value.get("in").ok_or_else(unreadable)?;
                machine = Some(begin(now, how, &topology).ok_or_else(unreadable)?);
                wants.clear();
                replayed.born += 1;
            }
            Some("step") => {
                let Some(machine) = &mut machine else {
                    continue;
                };
                let events = value.get("in").and_then(Value::as_array);
                let events = events.and_then(|all| all.iter().map(read).collect());
                let events: Vec<Event> = events.ok_or_else(unreadable)?;
                let wall = value.get("wall").and_then(number).unwrap_or(0);
                let now = now.ok_or_else(unreadable)?;
                if let Some(wanted) = wants.pop() {
                    return Err(format!("wanted, and not in the story: {wanted}"));
                }
                machine.step_all(now, events, wall);
                wants.extend(core::iter::from_fn(|| machine.poll()).map(|act| format!("{act:?}")));
                wants.reverse();
                replayed.steps += 1;
            }
            Some("act") => {
                if machine.is_none() {
                    continue;
                }
                let told = value
                    .get("digest")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                match wants.pop() {
                    Some(wanted) if digest(&wanted) == told => replayed.acts += 1,
                    other => return Err(format!("in the story: {line}\nwanted: {other:?}")),
                }
            }
            _ => {}
        }
    }
    Ok(replayed)
}
