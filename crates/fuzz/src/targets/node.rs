//! The decision machine of a leader under any series of reports of nodes that have proved their
//! names.

use std::time::Duration;

use evenkeel_core::command::Command;
use evenkeel_core::health::Silence;
use evenkeel_core::node::{Act, Event, Node, Start};
use evenkeel_core::{Epoch, Moment};
use evenkeel_wire::v1::{entry, report};

use crate::input::{Input, piece};
use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "node",
    reads: "series of reports, as the decision machine takes them (decision thread)",
    seeds,
    judge,
    length_max: 64 * 1024,
    memory: MEMORY,
    memory_per_byte: 512,
    mutants: 3_000,
};

/// Acts of one step: the machine keeps no more.
const ACTS_MAX: usize = 4096;

fn seeds() -> Vec<Vec<u8>> {
    let said = |from: u8, seq: u64| {
        let report = report::encode(&values::report(seq));
        [&[0, from][..], &piece(&report)].concat()
    };
    let well = |from: u8, seq: u64| {
        let mut report = values::report(seq);
        for check in &mut report.checks {
            check.state = evenkeel_core::health::CheckState::Ok;
        }
        report.groups.clear();
        report.silences.clear();
        (report.log_fault, report.floors_above) = (None, Vec::new());
        [&[0, from][..], &piece(&report::encode(&report))].concat()
    };
    let later: &[u8] = &[1, 50];
    vec![
        [
            &said(0, 1)[..],
            later,
            &said(1, 1),
            later,
            &said(0, 2),
            later,
        ]
        .concat(),
        [
            &well(0, 1)[..],
            &well(1, 1),
            later,
            later,
            &well(0, 2),
            &said(1, 2),
            later,
        ]
        .concat(),
    ]
}

struct World {
    node: Node,
    now: Moment,
    epoch: Epoch,
}

impl World {
    fn new() -> Self {
        let now = Moment::from_nanos(1 << 40);
        let tie = values::node("tie");
        let topology = values::topology();
        let start = Start {
            me: tie,
            incarnation: values::life(3),
            topology,
            config_digest: 4,
            ledger: Some(Default::default()),
            had: Default::default(),
            first_seq: 1,
        };
        let mut world = Self {
            node: Node::new(now, start),
            now,
            epoch: values::epoch(1),
        };
        for event in [
            Event::Deciders {
                generation: 0,
                voters: values::nodes().into(),
            },
            Event::Votes(true),
            Event::Leader { leader: Some(tie) },
        ] {
            world.step(event);
        }
        world
    }

    fn step(&mut self, event: Event) {
        self.node.step(self.now, event, 1_700_000_000_000);
        let mut acts = 0;
        let mut agreed = Vec::new();
        while let Some(act) = self.node.poll() {
            acts += 1;
            assert!(acts <= ACTS_MAX, "one step causes ever more");
            match act {
                Act::Propose { id, command } => agreed.push((id, command)),
                Act::Tell(told) => {
                    let bytes = report::encode(&told);
                    assert!(report::decode(&bytes).is_ok(), "nobody can read its report");
                }
                // Whatever was said, it can be told.
                Act::Say(said) => {
                    assert!(!said.text(self.node.topology()).is_empty());
                }
                _ => {}
            }
        }
        for (id, command) in agreed {
            self.agree(id, command);
        }
    }

    /// What it proposes is agreed on at once.
    fn agree(&mut self, id: u64, command: Command) {
        if let Command::Assign(assign) = &command {
            let group = &self.node.topology().groups[&assign.group];
            assert!(group.nodes.contains(&assign.holder), "a stranger gets it");
            assert_eq!(assign.evidence.decided_by, values::node("tie"));
        }
        let bytes = entry::encode(&command);
        assert!(bytes.len() <= entry::ENTRY_LENGTH_MAX);
        assert_eq!(
            entry::decode(&bytes).as_ref(),
            Ok(&command),
            "it cannot be stored"
        );
        self.epoch.index += 1;
        let epoch = self.epoch;
        if let Command::Assign(assign) = &command {
            self.node.step(
                self.now,
                Event::Appended {
                    epoch,
                    assign: assign.clone(),
                },
                0,
            );
        }
        self.node
            .step(self.now, Event::Committed { epoch, command }, 0);
        self.node
            .step(self.now, Event::Proposed { id, failed: None }, 0);
    }
}

fn judge(input: &[u8]) {
    let [ams1, fra1, _] = values::nodes();
    let mut world = World::new();
    let mut input = Input(input);
    while !input.is_over() {
        match input.below(3) {
            0 => {
                let from = [ams1, fra1][usize::from(input.below(2))];
                if let Ok(report) = report::decode(input.piece()) {
                    world.step(Event::Reported { from, report });
                }
            }
            1 => {
                let passes = Duration::from_millis(u64::from(input.byte()));
                world.now += passes;
                world.step(Event::Tick);
            }
            _ => {
                let silence = Silence {
                    group: values::www(),
                    epoch: world.epoch,
                    unheard: Duration::from_millis(u64::from(input.byte())),
                    standing: None,
                };
                world.step(Event::Silences(vec![silence]));
            }
        }
    }
}
