//! Files of the flight recorder, as `evenkeel replay` reads them: `wire::flight`.

use std::time::Duration;

use evenkeel_core::health::CheckState;
use evenkeel_core::maintenance::Ask;
use evenkeel_core::node::{Event, Start};
use evenkeel_core::{CheckName, Moment};
use evenkeel_wire::flight;
use evenkeel_wire::flight::replay::replay;
use serde_json::{Value, json};

use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "flight",
    reads: "files of the flight recorder (replay)",
    seeds,
    judge,
    length_max: 256 * 1024,
    memory: MEMORY,
    memory_per_byte: 512,
    mutants: 5_000,
};

fn inputs() -> Vec<Event> {
    let tie = values::node("tie");
    let group = values::report(1).groups[0].group;
    vec![
        Event::Deciders {
            generation: 0,
            voters: values::nodes().into(),
        },
        Event::Votes(true),
        Event::Leader { leader: Some(tie) },
        Event::Reported {
            from: values::node("ams1"),
            report: values::report(3),
        },
        Event::Verdict {
            group,
            check: CheckName::new("web").expect("a name"),
            judged: tie,
            state: CheckState::Failing,
            at: Moment::from_nanos(7),
            silent_since: None,
            detail: "no".to_owned(),
            measures: Vec::new(),
        },
        Event::Committed {
            epoch: values::epoch(9),
            command: values::commands()[0].clone(),
        },
        Event::Maintain {
            id: 1,
            ask: Ask::Drain {
                node: tie,
                lasting: Some(Duration::from_secs(1)),
                force: false,
            },
        },
        Event::Tick,
    ]
}

fn seeds() -> Vec<Vec<u8>> {
    let start = Start {
        me: values::node("tie"),
        incarnation: values::life(3),
        topology: values::topology(),
        config_digest: 4,
        ledger: Some(values::ledger()),
        had: Default::default(),
        first_seq: 1,
    };
    let begins = flight::born(&start, Value::from(0));
    let began = 1_u64 << 40;
    let story = |what: &str| {
        let mut lines = vec![json!({"node": 1, "what": what, "now": began, "in": begins})];
        for (at, event) in (1_u64..).zip(inputs()) {
            let now = began + at * 1_000_000_000;
            let step = json!({"node": 1, "what": "step", "now": now, "wall": 7, "in": [flight::write(&event)]});
            lines.push(step);
        }
        lines.push(json!({"node": 1, "what": "act", "text": "Tell 2", "digest": "0"}));
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        lines.join("\n").into_bytes()
    };
    vec![story("taken"), story("born")]
}

fn judge(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    for line in text.lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let all = value.get("in").and_then(Value::as_array);
        for event in all.into_iter().flatten().filter_map(flight::read) {
            let written = flight::write(&event);
            let again = flight::read(&written).expect("what is written is read");
            assert_eq!(flight::write(&again), written);
        }
    }
    // It may be refused, and goes on with nothing else.
    let _ = replay(
        text.lines(),
        &Value::from(1),
        |_| Ok(values::topology()),
        |_| {},
    );
}
