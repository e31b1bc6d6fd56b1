//! The lease machine under any series of messages of nodes that have proved their names, beside
//! what its own log tells it. What may not be is looked for after each step.

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel_core::lease::{
    Assignment, Event, Faults, Life, Machine, Message, Output, Settings, Start,
};
use evenkeel_core::{GroupId, Moment, NodeId};
use evenkeel_wire::v1::lease::{self, MESSAGE_LENGTH_MAX};

use crate::input::{Input, piece};
use crate::{MEMORY, Target, values};

pub(crate) const TARGET: Target = Target {
    name: "leases",
    reads: "series of lease messages, as the machine takes them (lease thread)",
    seeds,
    judge,
    length_max: 16 * 1024,
    memory: MEMORY,
    memory_per_byte: 512,
    mutants: 8_000,
};

const LEASE: Duration = Duration::from_millis(120);
const HEARTBEAT: Duration = Duration::from_millis(20);
/// One of these in a step: so many seconds in a series.
const TICK: u64 = 1 << 20;
/// What one step may cause: a few for each voter of each of the groups.
const OUTPUTS_MAX: usize = 512;

fn membership() -> u64 {
    values::topology().membership()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut buffer = [0; MESSAGE_LENGTH_MAX];
    let said = |message: &Message, buffer: &mut [u8; MESSAGE_LENGTH_MAX]| {
        [&[0, 1][..], &piece(lease::encode(message, buffer))].concat()
    };
    let messages: Vec<Vec<u8>> = values::messages(membership())
        .iter()
        .map(|message| said(message, &mut buffer))
        .collect();
    // Assigned here, agreed on, time passes; then what others say.
    let taken: &[u8] = &[1, 0, 3, 2, 0, 3, 5, 10, 5, 10];
    vec![
        messages.concat(),
        [taken, &messages.concat(), &[5, 200, 5, 200, 3, 0]].concat(),
        [
            taken,
            &messages[2],
            &messages[2],
            &[7],
            &messages.concat(),
            &[5, 255],
        ]
        .concat(),
    ]
}

fn settings() -> Settings {
    let [ams1, fra1, tie] = values::nodes();
    Settings {
        me: ams1,
        voters: vec![ams1, fra1, tie],
        membership: membership(),
        lease: LEASE,
        heartbeat: HEARTBEAT,
        lease_max: LEASE,
        prepared: BTreeSet::new(),
        faults: Faults::default(),
    }
}

fn life() -> Life {
    Life {
        incarnation: values::life(3),
        seq_base: 1,
    }
}

/// Who has which epoch: agreed, so the same whenever it is told.
fn assignment(group: GroupId, index: u64) -> Assignment {
    let nodes = values::nodes();
    Assignment {
        group,
        epoch: values::epoch(index),
        holder: nodes[(index / 3) as usize % nodes.len()],
        incarnation: values::life(3),
    }
}

/// The groups of a series.
fn group(number: u8) -> GroupId {
    match number % 3 {
        0 => values::www(),
        other => GroupId(u64::from(other)),
    }
}

struct World {
    machine: Machine,
    now: Moment,
    /// The newest epoch that is told to be agreed on here, of each group.
    committed: BTreeSet<(GroupId, u64)>,
}

impl World {
    fn new() -> Self {
        let now = Moment::from_nanos(1 << 40);
        Self {
            machine: Machine::new(now, settings(), life(), Start::Fresh),
            now,
            committed: BTreeSet::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let now = self.now;
        match input.below(9) {
            0 => {
                let from: NodeId = values::nodes()[1 + usize::from(input.below(2))];
                if let Ok(message) = lease::decode(input.piece()) {
                    self.machine.receive(now, from, message);
                }
            }
            1 => {
                let (group, index) = (group(input.byte()), u64::from(input.byte()));
                self.machine.floor_raised(now, &assignment(group, index));
            }
            2 => {
                let (group, index) = (group(input.byte()), u64::from(input.byte()));
                self.committed.insert((group, index));
                self.machine.committed(now, group, values::epoch(index));
            }
            3 => self.machine.release(now, group(input.byte())),
            4 => {
                let (group, index) = (group(input.byte()), u64::from(input.byte()));
                self.machine
                    .truncated(now, group, values::epoch(index), None);
            }
            5 => {
                self.now = Moment::from_nanos(now.as_nanos() + u64::from(input.byte()) * TICK);
                self.machine.tick(self.now);
            }
            6 => {
                let node = values::nodes()[usize::from(input.below(3))];
                self.machine.set_excluded(node, input.below(2) == 0);
            }
            7 => {
                // Another process goes on with what this one knew.
                let mirror = self.machine.mirror();
                self.machine = Machine::new(now, settings(), life(), Start::Mirrored(mirror));
            }
            _ => self.machine.tick(now),
        }
        self.look();
    }

    /// Carries out what the machine wants, and looks at it.
    fn look(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.machine.poll() {
            outputs += 1;
            assert!(outputs <= OUTPUTS_MAX, "one step causes ever more");
            match output {
                Output::Transmit { to, message } => {
                    assert_ne!(to, self.machine.settings().me);
                    let mut buffer = [0; MESSAGE_LENGTH_MAX];
                    let bytes = lease::encode(&message, &mut buffer);
                    assert_eq!(lease::decode(bytes), Ok(message), "it cannot be said");
                }
                Output::Extend(lease) => {
                    let most = self.now + LEASE.saturating_sub(settings().margin(LEASE));
                    assert!(lease.until() <= most, "open for longer than is proven");
                    assert!(
                        self.committed
                            .contains(&(lease.group(), lease.epoch().index)),
                        "open though it is not agreed on"
                    );
                }
                Output::Event(Event::NoRoom { .. }) => {}
                Output::Mirror(_) | Output::Close { .. } | Output::Event(_) => {}
            }
        }
        let mirror = self.machine.mirror();
        for record in &mirror.records {
            for promise in record.promises.iter().flatten() {
                assert!(promise.until <= self.now + LEASE, "promised for too long");
            }
            assert!(record.guard <= self.now + LEASE);
        }
        let due = self.machine.next_deadline();
        assert!(due.is_none_or(|due| due <= Moment::MAX));
    }
}

fn judge(input: &[u8]) {
    let mut world = World::new();
    let mut input = Input(input);
    while !input.is_over() {
        world.step(&mut input);
    }
}
