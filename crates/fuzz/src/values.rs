//! Real values of what nodes tell each other and agree on: what seeds are made of.

use std::time::Duration;

use evenkeel_core::command::{Assign, Command, Drain, Opened, Phase, Recovered};
use evenkeel_core::evidence::{Cause, CheckFact, Considered, Evidence};
use evenkeel_core::health::{
    CheckReport, CheckState, GroupReport, Measure, Report, Silence, Standing,
};
use evenkeel_core::lease::{self, Answer, Message, Refusal, Released, Renew, Verdict};
use evenkeel_core::ledger::Ledger;
use evenkeel_core::settling::Settling;
use evenkeel_core::switchover::Departure;
use evenkeel_core::topology::{ServiceAddress, Topology};
use evenkeel_core::{
    CheckName, Epoch, GroupId, GroupName, Incarnation, NodeId, NodeName, ServiceName,
};
use evenkeel_wire::v1::hello::Hello;

/// A configuration of two servers and a witness.
pub(crate) const THREE_MACHINES: &str = include_str!("../../config/examples/three-machines.toml");

/// The file that every value here is of.
pub(crate) const FILE: &str = "cluster = \"shop\"\n\
    [node.ams1]\naddress = \"192.0.2.11:7946\"\n\
    [node.fra1]\naddress = \"192.0.2.12:7946\"\n\
    [node.tie]\naddress = \"192.0.2.13:7946\"\nwitness = true\n\
    [group.www]\nnodes = [\"ams1\", \"fra1\"]\naddresses = [\"192.0.2.100/24\"]\n\
    [group.www.check.ping]\nping = \"{node}\"\n\
    [group.www.check.apache]\nhttp = \"http://{node}/\"\n";

/// What it says.
pub(crate) fn topology() -> Topology {
    match evenkeel_config::parse(FILE, "seed") {
        Ok(config) => config.topology,
        Err(faults) => panic!("a good file: {faults}"),
    }
}

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a name")
}

pub(crate) fn node(text: &str) -> NodeId {
    NodeId::of(&name(text))
}

/// The servers and the witness.
pub(crate) fn nodes() -> [NodeId; 3] {
    ["ams1", "fra1", "tie"].map(node)
}

pub(crate) fn www() -> GroupId {
    GroupId::of(&GroupName::new("www").expect("a name"))
}

pub(crate) fn life(counter: u64) -> Incarnation {
    Incarnation {
        counter,
        nonce: 0x1234_5678_9abc_def0,
    }
}

pub(crate) fn epoch(index: u64) -> Epoch {
    Epoch { term: 2, index }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn check(text: &str) -> CheckName {
    CheckName::new(text).expect("a name")
}

/// An assignment of the group.
pub(crate) fn assign(holder: NodeId, cause: Cause) -> Assign {
    let address = |ip: &str, device: Option<&str>| ServiceAddress {
        ip: ip.parse().expect("an address"),
        prefix: 24,
        device: device.map(str::to_owned),
    };
    Assign {
        group: www(),
        holder,
        incarnation: life(3),
        addresses: vec![
            address("192.0.2.100", None),
            address("2001:db8::100", Some("eth0")),
        ],
        evidence: Evidence {
            cause,
            from: Some(node("fra1")),
            decided_by: node("tie"),
            wall_ms: 1_700_000_000_000,
            known_for: ms(1),
            checks: vec![CheckFact {
                check: check("apache"),
                said_by: node("ams1"),
                detail: "HTTP 503 in 4 ms".to_owned(),
            }],
            considered: vec![Considered {
                node: node("fra1"),
                why: "well".to_owned(),
            }],
        },
    }
}

/// One entry of each kind.
pub(crate) fn commands() -> Vec<Command> {
    let [ams1, fra1, tie] = nodes();
    vec![
        Command::Started {
            node: ams1,
            incarnation: life(3),
        },
        Command::Started {
            node: fra1,
            incarnation: life(1),
        },
        Command::Assign(assign(ams1, Cause::FirstStart)),
        Command::Opened(Opened {
            group: www(),
            epoch: epoch(3),
            node: ams1,
            phases: vec![Phase {
                what: "announced".to_owned(),
                after: ms(7),
            }],
        }),
        Command::Assign(assign(
            fra1,
            Cause::HolderSilent {
                voters: 2,
                of: 3,
                silence: ms(61),
            },
        )),
        Command::Assign(assign(ams1, Cause::HolderUnready)),
        Command::Readmit { node: tie },
        Command::Drain(Drain {
            node: fra1,
            lasting: Some(ms(3_600_000)),
            wall_ms: 8,
        }),
        Command::Undrain {
            node: fra1,
            began: Some(epoch(8)),
        },
        Command::Forgive {
            group: www(),
            node: fra1,
            failure: epoch(5),
        },
        Command::Recovered(Recovered {
            by: ams1,
            stopped: vec![fra1, tie],
            generation: (1 << 32) | 5,
            last: epoch(9),
            wall_ms: 6,
        }),
    ]
}

/// What is agreed after all of them.
pub(crate) fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    for (index, command) in (1..).zip(commands()) {
        ledger.apply(epoch(index), &command);
    }
    ledger
}

/// What a node says hello with.
pub(crate) fn hello(from: NodeId, membership: u64) -> Hello {
    Hello {
        cluster: "shop".to_owned(),
        node: from,
        incarnation: life(3),
        version: "0.1.0".to_owned(),
        membership,
        last_log_index: 12,
        generation: 0,
        settled: true,
        knows: nodes().map(|node| (node, life(3))).to_vec(),
        past: vec![life(2), life(3)],
        applied: epoch(12),
    }
}

/// What a server tells the others.
pub(crate) fn report(seq: u64) -> Report {
    let [_, fra1, tie] = nodes();
    let states = [
        CheckState::Ok,
        CheckState::Failing,
        CheckState::Unknown,
        CheckState::Idle,
    ];
    let checks = states.into_iter().map(|state| CheckReport {
        group: www(),
        check: check("apache"),
        judged: fra1,
        state,
        age: ms(30),
        silent: (state == CheckState::Failing).then_some(ms(400)),
        detail: "no answer within 200 ms".to_owned(),
        measures: vec![Measure {
            label: "rta".to_owned(),
            value: Some(0.05),
            unit: "ms".to_owned(),
        }],
        terse: state == CheckState::Idle,
    });
    Report {
        incarnation: life(3),
        seq,
        stopping: false,
        guard_full: true,
        config_digest: 4,
        generation: 0,
        votes: true,
        stored: 12,
        caught_up: true,
        log_fault: Some("its log cannot be written: no space".to_owned()),
        leader: Some(tie),
        lateness: ms(2),
        checks: checks.collect(),
        whole: true,
        groups: vec![GroupReport {
            group: www(),
            epoch: epoch(3),
            standing: Standing::Open,
            unready: Some("no interface".to_owned()),
            departure: Departure::Drained {
                busy: 2,
                took: ms(9),
            },
            settling: vec![(
                ServiceName::new("apache").expect("a name"),
                Settling::Restarting,
            )],
        }],
        silences: vec![Silence {
            group: www(),
            epoch: epoch(3),
            unheard: ms(60),
            standing: Some(ms(70)),
        }],
        floors_above: vec![(www(), epoch(4))],
        leaving: vec![(www(), epoch(3))],
    }
}

/// One message between lease machines of each kind.
pub(crate) fn messages(membership: u64) -> Vec<Message> {
    let renew = Renew {
        group: www(),
        epoch: epoch(3),
        incarnation: life(3),
        length: ms(120),
        seq: 1_000_000_000,
        membership,
        proven: 1_100_000_000,
        void: 0,
    };
    let answer = |verdict| {
        Message::Answer(Answer {
            group: www(),
            epoch: epoch(3),
            seq: 1_000_000_000,
            floor: epoch(3),
            verdict,
            lower: Some(ms(0)),
        })
    };
    vec![
        Message::Renew(renew),
        Message::Renew(Renew {
            void: 999_000_000,
            ..renew
        }),
        answer(Verdict::Promised),
        answer(Verdict::Refused(Refusal::BelowFloor)),
        Message::Standing(lease::Standing {
            group: www(),
            epoch: epoch(3),
            membership,
            lower: ms(40),
        }),
        Message::Released(Released {
            group: www(),
            epoch: epoch(3),
            incarnation: life(3),
        }),
    ]
}
