//! The mirror's memory, as a killed worker, a broken machine or another program may have left it;
//! and what the lease machine makes of what was read.

use std::sync::LazyLock;

use evenkeel_core::lease::{
    Assigned, Assignment, Held, Life, Machine, Mirror, Promise, Record, Settings, Start,
};
use evenkeel_core::{GroupId, Moment};
use evenkeel_daemon::fuzzing::{mirror, write_mirror};
use evenkeel_transport::Fingerprint;
use evenkeel_transport::seal::{LeaseKeys, Mirrored};

use crate::input::{Input, piece};
use crate::{MEMORY, Target, place, values};

pub(crate) const TARGET: Target = Target {
    name: "mirror",
    reads: "the mirror's memory (a worker that goes on for another)",
    seeds,
    judge,
    length_max: 4096,
    memory: MEMORY,
    memory_per_byte: 256,
    mutants: 300,
};

fn record(group: u64) -> Record {
    let [ams1, fra1, _] = values::nodes();
    let until = Moment::from_nanos(1 << 40);
    let promise = Promise {
        to: Assigned {
            epoch: values::epoch(3),
            node: fra1,
            incarnation: values::life(4),
        },
        until,
        seq: 9,
    };
    Record {
        group: GroupId(group),
        floor: Some(Assignment {
            group: GroupId(group),
            epoch: values::epoch(4),
            holder: ams1,
            incarnation: values::life(3),
        }),
        committed: values::epoch(4),
        released: values::epoch(2),
        promises: [None, Some(promise), None, None],
        spent: values::epoch(1),
        guard: until,
        held: Some(Held {
            epoch: values::epoch(4),
            until,
        }),
    }
}

fn written() -> (Mirror, Vec<Mirrored>) {
    let [_, fra1, tie] = values::nodes();
    let mirror = Mirror {
        incarnation: values::life(3),
        quiet_until: Moment::from_nanos(5),
        records: (1..4).map(record).collect(),
    };
    let key = |peer, id| Mirrored {
        keys: LeaseKeys {
            peer,
            id,
            seal: [7; 32],
            open: [8; 32],
            proof: Fingerprint::of(b"a certificate"),
        },
        opened: 6,
    };
    (mirror, vec![key(fra1, 1), key(tie, 2)])
}

/// The memory of a worker that has written that.
static MEMORY_OF_IT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = place::directory();
    let path = memory(dir.path(), &[]);
    let (mirror, keys) = written();
    write_mirror(&path, &mirror, &keys).expect("written");
    std::fs::read(&path).expect("read")
});

/// A file as a parent makes it.
fn memory(dir: &std::path::Path, bytes: &[u8]) -> std::path::PathBuf {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join("mirror");
    let mut options = std::fs::File::options();
    let made = options.write(true).create_new(true).mode(0o600).open(&path);
    made.expect("made").write_all(bytes).expect("written");
    path
}

fn seeds() -> Vec<Vec<u8>> {
    let change = |at: u32, bytes: &[u8]| [&at.to_le_bytes()[..], &piece(bytes)].concat();
    vec![
        Vec::new(),
        change(8, &3_u64.to_le_bytes()),
        [change(300, &[1; 8]), change(1000, &[0; 16])].concat(),
    ]
}

fn judge(input: &[u8]) {
    let mut bytes = MEMORY_OF_IT.clone();
    let mut input = Input(input);
    while !input.is_over() {
        let at = u32::from_le_bytes(std::array::from_fn(|_| input.byte())) as usize % bytes.len();
        let piece = input.piece();
        let end = (at + piece.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&piece[..end - at]);
    }
    let dir = place::directory();
    let path = memory(dir.path(), &bytes);
    let Ok(Some((found, keys))) = mirror(&path, values::life(3)) else {
        return;
    };
    let (whole, known) = written();
    for record in &found.records {
        assert!(whole.records.contains(record), "a mixture: {record:?}");
    }
    assert!(
        keys.iter().all(|key| known.contains(key)),
        "a key that nobody made"
    );
    go_on(found);
}

/// A lease machine takes it up, whatever its head says.
fn go_on(mirror: Mirror) {
    let [ams1, fra1, tie] = values::nodes();
    let topology = values::topology();
    let settings = Settings {
        me: ams1,
        voters: vec![ams1, fra1, tie],
        membership: topology.membership(),
        lease: topology.timing.lease,
        heartbeat: topology.timing.heartbeat,
        lease_max: topology.timing.lease,
        prepared: Default::default(),
        faults: Default::default(),
    };
    let life = Life {
        incarnation: values::life(3),
        seq_base: 1,
    };
    let now = Moment::from_nanos(1 << 39);
    let mut machine = Machine::new(now, settings, life, Start::Mirrored(mirror));
    while machine.poll().is_some() {}
    machine.tick(now + topology.timing.lease);
    while machine.poll().is_some() {}
}
