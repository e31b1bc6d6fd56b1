//! The flight recorder's lines: what went into a decision machine and what it wanted, as JSON, one
//! thing a line. The daemon writes them of its life and the simulation of its worlds, so that what
//! happened to either can be fed into the machine again ([`replay`]).
//!
//! ```json
//! {"node":0,"what":"born","now":5,"in":{"me":..,"life":[1,7],"file":0,"ledger":"01..","had":{}}}
//! {"node":0,"what":"step","now":9,"wall":0,"in":[{"kind":"opened","group":..,"epoch":[3,7]}]}
//! {"node":0,"what":"act","text":"Propose ...","digest":"7d.."}
//! ```
//!
//! A step has one input or several that came together; the acts that follow are what it wanted, in
//! order, each shortened for people and with a digest of the whole. `now` is the node's own clock in
//! nanoseconds, `wall` the calendar in milliseconds. What has a versioned form is in that form, in
//! hexadecimal: reports, entries, snapshots. Numbers that are identities are decimal strings,
//! because they use all 64 bits. `file` says which configuration: whoever replays knows how to read
//! it (the simulation has the number of a version, the daemon the file's text). A machine that was
//! not born there but only seen from there on is a `"taken"`, in place of `"born"`: what it knew is
//! in the step that follows, what it counted is not ([`replay::Replayed::astray`]).
//! Lines of other kinds, and other fields, are for people and passed over.

use core::fmt::Write as _;
use core::time::Duration;

use evenkeel_core::command::{Assign, Command};
use evenkeel_core::health::{CheckState, Measure, Silence};
use evenkeel_core::lease::Assignment;
use evenkeel_core::maintenance::Ask;
use evenkeel_core::node::{Act, Event, Start};
use evenkeel_core::policy::Wish;
use evenkeel_core::settling::Fresh;
use evenkeel_core::topology::ServiceAddress;
use evenkeel_core::{CheckName, Epoch, GroupId, Incarnation, Moment, NodeId, ServiceName};
use serde_json::{Map, Value, json};

use crate::v1::{entry, report, snapshot};

pub mod replay;

/// The form of these lines, as a file names it: to be counted up when an older reader would
/// misunderstand them. What is in hexadecimal has a version of its own.
pub const FORM: u64 = 1;

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
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).into()
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

fn measure(one: &Measure) -> Value {
    json!([one.label, one.value, one.unit])
}

fn measure_of(value: &Value) -> Option<Measure> {
    Some(Measure {
        label: value.get(0)?.as_str()?.to_owned(),
        value: value.get(1)?.as_f64(),
        unit: value.get(2)?.as_str()?.to_owned(),
    })
}

fn service((name, fresh): &(ServiceName, Option<Fresh>)) -> Value {
    let fresh = fresh.map(|fresh| match fresh {
        Fresh::Restarting => Value::from("restarting"),
        Fresh::Started(at) => at.as_nanos().into(),
    });
    json!([name.as_str(), fresh])
}

fn service_of(value: &Value) -> Option<(ServiceName, Option<Fresh>)> {
    let name = ServiceName::new(value.get(0)?.as_str()?).ok()?;
    let fresh = match value.get(1)? {
        Value::Null => None,
        Value::String(_) => Some(Fresh::Restarting),
        at => Some(Fresh::Started(Moment::from_nanos(number(at)?))),
    };
    Some((name, fresh))
}

fn list<T, L: FromIterator<T>>(
    value: Option<&Value>,
    one: impl Fn(&Value) -> Option<T>,
) -> Option<L> {
    value?.as_array()?.iter().map(one).collect()
}

/// What became of a group, in one of the shapes that several events share.
fn of_group(kind: &str, group: GroupId, of: Epoch) -> Value {
    json!({"kind": kind, "group": id(group.0), "epoch": epoch(of)})
}

/// A report that arrived, in its versioned form.
pub fn reported(from: NodeId, report: &[u8]) -> Value {
    json!({"kind": "reported", "from": id(from.0), "report": hex(report)})
}

/// The input as JSON.
pub fn write(event: &Event) -> Value {
    match event {
        Event::Reported { from, report } => reported(*from, &report::encode(report)),
        Event::Verdict {
            group,
            check,
            judged,
            state: said,
            at,
            silent_since,
            detail,
            measures,
        } => json!({
            "kind": "verdict", "group": id(group.0), "check": check.as_str(),
            "judged": id(judged.0), "state": state(*said), "when": at.as_nanos(),
            "silent_since": silent_since.map(Moment::as_nanos), "detail": detail,
            "measures": measures.iter().map(measure).collect::<Vec<_>>(),
        }),
        Event::Lateness(late) => json!({"kind": "lateness", "late": span(*late)}),
        Event::Votes(votes) => json!({"kind": "votes", "votes": votes}),
        Event::Stored(index) => json!({"kind": "stored", "index": index}),
        Event::Readiness { group, unready } => {
            json!({"kind": "readiness", "group": id(group.0), "unready": unready})
        }
        Event::Services { group, all } => {
            let all: Vec<Value> = all.iter().map(service).collect();
            json!({"kind": "services", "group": id(group.0), "all": all})
        }
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
            measures: list(at("measures"), measure_of)?,
        },
        "lateness" => Event::Lateness(Duration::from_nanos(number(at("late")?)?)),
        "votes" => Event::Votes(yes("votes")?),
        "stored" => Event::Stored(number(at("index")?)?),
        "readiness" => Event::Readiness {
            group: group()?,
            unready: maybe("unready"),
        },
        "services" => Event::Services {
            group: group()?,
            all: list(at("all"), service_of)?,
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
            voters: list(at("voters"), |voter| number(voter).map(NodeId))?,
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
        "silences" => Event::Silences(list(at("silences"), silence_of)?),
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

/// A digest: FNV-1a, 64 bits.
fn digest(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{sum:016x}")
}

/// The longest text of one act.
const TEXT_MAX: usize = 160;

/// An act as it is told: shortened for people, and a digest of the whole.
pub fn act(act: &Act) -> (String, String) {
    if let Act::Tell(report) = act {
        return told(report.seq, &report::encode(report));
    }
    let text = format!("{act:?}");
    let end = text.char_indices().nth(TEXT_MAX).map(|(end, _)| end);
    let short = end.and_then(|end| text.get(..end)).unwrap_or(&text);
    (short.to_owned(), digest(text.as_bytes()))
}

/// The same of a report that was told, by its number and its versioned form: they are many and
/// large, so that the number is all that people get.
pub fn told(seq: u64, report: &[u8]) -> (String, String) {
    (format!("Tell {seq}"), digest(report))
}

/// How a decision machine began, as JSON; `file` says which configuration.
pub fn born(start: &Start, file: Value) -> Value {
    let ledger = start.ledger.as_ref();
    let ledger = ledger.map(|ledger| hex(&snapshot::encode(ledger)));
    let had: Map<String, Value> = start
        .had
        .iter()
        .map(|(group, all)| {
            let all: Vec<String> = all.iter().map(ServiceAddress::to_string).collect();
            (group.0.to_string(), all.into())
        })
        .collect();
    json!({
        "me": id(start.me.0), "life": life(start.incarnation), "file": file,
        "digest": start.config_digest, "first_seq": id(start.first_seq), "ledger": ledger,
        "had": had,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that the simulated world does not have; the others are fed back from its stories.
    #[test]
    fn what_is_written_is_read_again() {
        let group = GroupId(u64::MAX);
        let name = |text: &str| ServiceName::new(text).expect("a name");
        let measure = |value| Measure {
            label: "time".to_owned(),
            value,
            unit: "s".to_owned(),
        };
        let all = [
            Event::Services {
                group,
                all: vec![
                    (name("apache"), None),
                    (name("php"), Some(Fresh::Restarting)),
                    (name("db"), Some(Fresh::Started(Moment::from_nanos(7)))),
                ],
            },
            Event::Verdict {
                group,
                check: CheckName::new("web").expect("a name"),
                judged: NodeId(3),
                state: CheckState::Failing,
                at: Moment::from_nanos(1 << 60),
                silent_since: Some(Moment::from_nanos(9)),
                detail: "\"no\"\n".to_owned(),
                measures: vec![measure(Some(0.1)), measure(None)],
            },
            Event::Maintain {
                id: 4,
                ask: Ask::Drain {
                    node: NodeId(1),
                    lasting: Some(Duration::from_secs(3)),
                    force: true,
                },
            },
        ];
        for event in all {
            let text = write(&event).to_string();
            let value: Value = serde_json::from_str(&text).expect("JSON");
            let again = read(&value).expect("its own");
            assert_eq!(format!("{event:?}"), format!("{again:?}"));
        }
    }
}
