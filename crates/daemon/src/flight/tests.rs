//! Three machines that talk to one another, on record, and their files fed back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use evenkeel_core::command::Command;
use evenkeel_core::health::{CheckState, Silence};
use evenkeel_core::ledger::Ledger;
use evenkeel_core::{CheckName, GroupId, GroupName, Incarnation, NodeId, NodeName};

use super::file::DIRECTORY;
use super::*;

const FILE: &str = "cluster = \"shop\"\n\
    [node.ams1]\naddress = \"192.0.2.11:7946\"\n\
    [node.fra1]\naddress = \"192.0.2.12:7946\"\n\
    [node.tie]\naddress = \"192.0.2.13:7946\"\nwitness = true\n\
    [group.www]\nnodes = [\"ams1\", \"fra1\"]\naddresses = [\"192.0.2.100/24@eth0\"]\n\
    [group.www.check.ping]\nping = \"{node}\"\n";
const NAMES: [&str; 3] = ["ams1", "fra1", "tie"];
const STEP: Duration = Duration::from_millis(20);
/// Who leads.
const TIE: usize = 2;

const LIFE: Incarnation = Incarnation {
    counter: 1,
    nonce: 7,
};

fn id(name: &str) -> NodeId {
    NodeId::of(&NodeName::new(name).expect("a name"))
}

fn www() -> GroupId {
    GroupId::of(&GroupName::new("www").expect("a name"))
}

/// Machines whose words arrive at once, and whose proposals are agreed on at once.
struct World {
    nodes: Vec<Recorded>,
    lives: [bool; 3],
    now: Moment,
    index: u64,
    _place: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let now = Moment::from_nanos(1_000_000_000);
        let config = evenkeel_config::parse(FILE, "test").expect("a good file");
        let begin = |name: &str| {
            let start = Start {
                me: id(name),
                incarnation: LIFE,
                topology: config.topology.clone(),
                config_digest: config.digest,
                ledger: Some(Ledger::default()),
                had: BTreeMap::new(),
                first_seq: 5,
            };
            let state = place.path().join(name);
            fs::create_dir(&state).expect("our directory");
            let of = Place {
                node: name.to_owned(),
                life: 1,
                file: FILE.into(),
                state,
            };
            Recorded::new(now, start, of)
        };
        let mut world = Self {
            nodes: NAMES.map(begin).into(),
            lives: [true; 3],
            now,
            index: 1,
            _place: place,
        };
        let voters: BTreeSet<NodeId> = NAMES.map(id).into();
        for node in 0..3 {
            world.step(
                node,
                Event::Deciders {
                    generation: 1,
                    voters: voters.clone(),
                },
            );
            world.step(node, Event::Votes(true));
            world.step(
                node,
                Event::Leader {
                    leader: Some(id(NAMES[TIE])),
                },
            );
            world.step(
                node,
                Event::Readiness {
                    group: www(),
                    unready: None,
                },
            );
        }
        for node in voters {
            let incarnation = LIFE;
            world.agree(Command::Started { node, incarnation });
        }
        world
    }

    fn step(&mut self, node: usize, event: Event) {
        let wall = self.now.as_nanos() / 1_000_000;
        self.nodes[node].step(self.now, event, wall);
        while let Some(act) = self.nodes[node].poll() {
            self.act(node, act);
        }
    }

    fn act(&mut self, node: usize, act: Act) {
        let living: Vec<usize> = (0..3).filter(|one| self.lives[*one]).collect();
        match act {
            Act::Tell(report) => {
                let from = id(NAMES[node]);
                for other in living.into_iter().filter(|other| *other != node) {
                    let report = report.clone();
                    self.step(other, Event::Reported { from, report });
                }
            }
            Act::Propose { id, command } => {
                self.agree(command);
                self.step(node, Event::Proposed { id, failed: None });
            }
            _ => {}
        }
    }

    fn agree(&mut self, command: Command) {
        self.index += 1;
        let epoch = Epoch {
            term: 1,
            index: self.index,
        };
        for node in (0..3).filter(|one| self.lives[*one]).collect::<Vec<_>>() {
            if let Command::Assign(assign) = &command {
                let assign = assign.clone();
                self.step(node, Event::Appended { epoch, assign });
            }
            let committed = command.clone();
            self.step(
                node,
                Event::Committed {
                    epoch,
                    command: committed,
                },
            );
            // Its lease machine had all promises.
            if let Command::Assign(assign) = &command
                && assign.holder == id(NAMES[node])
            {
                let group = assign.group;
                self.step(node, Event::Opened { group, epoch });
            }
        }
    }

    fn holder(&self) -> Option<NodeId> {
        let ledger = self.nodes[TIE].ledger();
        ledger.current(www()).map(|one| one.assign.holder)
    }

    /// The holder is not heard any more.
    fn lose_power(&mut self, node: usize) {
        self.lives[node] = false;
        let epoch = self.nodes[TIE].ledger().current(www()).map(|one| one.epoch);
        let silence = Silence {
            group: www(),
            epoch: epoch.expect("assigned"),
            unheard: Duration::from_millis(500),
            standing: None,
        };
        for other in (0..3).filter(|one| self.lives[*one]).collect::<Vec<_>>() {
            self.step(other, Event::Silences(vec![silence]));
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            for node in (0..3).filter(|one| self.lives[*one]).collect::<Vec<_>>() {
                self.step(node, Event::Tick);
                let wall = self.now.as_nanos() / 1_000_000;
                self.nodes[node].mind(self.now, wall, true);
            }
        }
    }

    /// The files of a node, once they are written.
    fn files(&mut self, node: usize) -> Vec<PathBuf> {
        let flight = &mut self.nodes[node].flight;
        if let Some(writer) = flight.writer.take() {
            writer.join().expect("it writes");
        }
        let listed = fs::read_dir(flight.place.state.join(DIRECTORY));
        let mut all: Vec<PathBuf> = listed
            .into_iter()
            .flatten()
            .map(|one| one.expect("listed").path())
            .collect();
        all.sort();
        all
    }
}

fn fed(file: &Path) -> anyhow::Result<String> {
    let mut told = Vec::new();
    replay(file, true, &mut told)?;
    Ok(String::from_utf8(told).expect("text"))
}

fn only(files: &[PathBuf]) -> &Path {
    let [file] = files else {
        panic!("one file: {files:?}")
    };
    file
}

#[test]
fn what_is_on_record_can_be_fed_back_and_comes_to_the_same() {
    let mut world = World::new();
    world.pass(Duration::from_secs(20));
    assert_eq!(world.holder(), Some(id("ams1")));
    for node in 0..2 {
        let files = world.files(node);
        // The standby had no part in it.
        if node == 1 {
            assert!(files.is_empty(), "{files:?}");
            continue;
        }
        let told = fed(only(&files)).expect("it wants the same");
        assert!(told.contains("Opened {"), "{told}");
        assert!(
            told.contains("acts the same") && !told.contains("differ"),
            "{told}"
        );
    }
    let files = world.files(TIE);
    let told = fed(only(&files)).expect("it wants the same");
    assert!(told.contains("Say(Deciding {"), "{told}");

    // What went in was something else: it does not want what is on record.
    let text = fs::read_to_string(only(&files)).expect("written");
    let other = text.replacen("\"votes\":true", "\"votes\":false", 1);
    assert_ne!(text, other);
    let changed = only(&files).with_extension("changed");
    fs::write(&changed, other).expect("our directory");
    let refused = fed(&changed).expect_err("it was changed");
    assert!(
        format!("{refused:#}").contains("does not do the same"),
        "{refused:#}"
    );
    for (bad, why) in [
        ("", "is no file"),
        ("{}", "does not say"),
        ("{\"node\":1}", "is written in form None"),
        (
            "{\"node\":1,\"form\":2}",
            "form Some(2), and this program reads 1",
        ),
        ("{\"node\":1,\"form\":1}\n{}", "no machine"),
    ] {
        fs::write(&changed, bad).expect("our directory");
        let refused = format!("{:#}", fed(&changed).expect_err(why));
        assert!(refused.contains(why), "{refused}");
    }
}

/// After hours the beginning is long gone from memory; what was decided is found all the same.
#[test]
fn a_record_that_begins_in_the_middle_leads_to_the_same_decision() {
    let mut world = World::new();
    world.pass(Duration::from_secs(600));
    let first = world.files(TIE);
    only(&first);
    for node in &world.nodes {
        assert!(node.flight.record.bytes() <= KEPT_MAX);
        assert!(!node.flight.record.is_whole(), "some of it has left memory");
    }
    world.lose_power(0);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.holder(), Some(id("fra1")));
    for (node, sign) in [(TIE, "HolderSilent"), (1, "Opened {")] {
        let files = world.files(node);
        let newest = files.iter().max().expect("of the move");
        assert!(!first.contains(newest), "{files:?}");
        let text = fs::read_to_string(newest).expect("written");
        let second = text.lines().nth(1).unwrap_or_default();
        assert!(second.contains("\"taken\""), "{}", &second[..99]);
        let told = fed(newest).expect("it is understood");
        let moved = told.lines().any(|line| line.contains(sign));
        assert!(moved, "{}: {told}", NAMES[node]);
        assert!(told.contains("in the middle of a life"));
        let alone = told
            .lines()
            .find(|line| line.contains("alone: Say(Deciding"));
        assert_eq!(alone, None);
    }
}

/// Its lease runs out, and it goes on.
fn lapse(world: &mut World) {
    let epoch = world.nodes[0].ledger().current(www()).map(|one| one.epoch);
    let epoch = epoch.expect("assigned");
    let group = www();
    world.step(0, Event::Lapsed { group, epoch });
    world.step(0, Event::Opened { group, epoch });
    world.pass(AFTERMATH + 2 * STEP);
}

#[test]
fn files_are_spaced_and_the_oldest_go() {
    let mut world = World::new();
    world.pass(Duration::from_secs(20));
    assert_eq!(world.files(0).len(), 1);
    for files in [2, 3, 4, 4, 4] {
        lapse(&mut world);
        assert_eq!(world.files(0).len(), files, "some in a row, and no more");
    }
    world.pass(SPACING);
    lapse(&mut world);
    assert_eq!(world.files(0).len(), 5, "but later");
    world.pass(SPACING);
    world.step(
        0,
        Event::Log {
            fault: Some("its disk fails".to_owned()),
        },
    );
    lapse(&mut world);
    assert_eq!(world.files(0).len(), 5, "the disk is left alone");
    world.step(0, Event::Log { fault: None });
    world.pass(STEP);
    assert_eq!(world.files(0).len(), 6);
    // What somebody left half written goes.
    let directory = world.nodes[0].flight.place.state.join(DIRECTORY);
    fs::write(directory.join("00000000-0-x.half"), "{").expect("our directory");
    let first = world.files(0)[0].clone();
    for _ in 0..16 {
        world.pass(SPACING);
        lapse(&mut world);
        // It does not begin another one before it has written this.
        world.files(0);
    }
    let files = world.files(0);
    assert_eq!(files.len(), 16, "{files:?}");
    assert!(!files.contains(&first));
}

/// A newer life comes later, whatever the calendar says, and what was just written stays.
#[test]
fn a_calendar_that_was_ahead_costs_no_file() {
    let mut world = World::new();
    let directory = world.nodes[0].flight.place.state.join(DIRECTORY);
    fs::create_dir(&directory).expect("our directory");
    for number in 10..40 {
        let name = format!("00000000-{number:012}-20990101T000000Z.jsonl");
        fs::write(directory.join(name), "{}").expect("our directory");
    }
    world.pass(Duration::from_secs(20));
    let files = world.files(0);
    assert_eq!(files.len(), 16);
    fed(files.last().expect("ours")).expect("the newest is that of this life");
}

/// A worker that goes on for another opens again what was open: that is no move.
#[test]
fn what_was_open_before_is_no_incident() {
    let mut world = World::new();
    world.pass(Duration::from_secs(20));
    let ledger = world.nodes[0].ledger().clone();
    let epoch = ledger.current(www()).expect("assigned").epoch;
    let place = Place {
        state: world.nodes[1].flight.place.state.clone(),
        ..world.nodes[0].flight.place.clone()
    };
    let config = evenkeel_config::parse(FILE, "test").expect("a good file");
    let start = Start {
        me: id("ams1"),
        incarnation: LIFE,
        topology: config.topology,
        config_digest: config.digest,
        ledger: Some(ledger),
        had: BTreeMap::new(),
        first_seq: 9,
    };
    world.nodes[0] = Recorded::new(world.now, start, place);
    let group = www();
    world.step(0, Event::Opened { group, epoch });
    world.pass(AFTERMATH + 2 * STEP);
    assert!(world.files(0).is_empty());
}

/// Five thousand checks that answer each second leave seconds in memory: the move is in its file all
/// the same, and memory is bounded.
#[test]
fn many_checks_do_not_push_the_move_out_of_its_file() {
    let mut world = World::new();
    world.pass(Duration::from_secs(20));
    let verdicts = |now: Moment| -> Vec<Event> {
        let one = |number: usize| Event::Verdict {
            group: www(),
            check: CheckName::new(&format!("check-{number}")).expect("a name"),
            judged: id("fra1"),
            state: CheckState::Ok,
            at: now,
            silent_since: None,
            detail: "HTTP 200 in 0.4 ms (connect 0.0, first byte 0.4, body 0)".to_owned(),
            measures: Vec::new(),
        };
        (0..100).map(one).collect()
    };
    let crowd = |world: &mut World, steps: usize| {
        for _ in 0..steps {
            let (now, all) = (world.now, verdicts(world.now));
            world.nodes[1].step_all(now, all, 0);
            world.pass(STEP);
        }
    };
    crowd(&mut world, 500);
    assert!(!world.nodes[1].flight.record.is_whole());
    world.lose_power(0);
    crowd(&mut world, 300);
    let pending = world.nodes[1].flight.pending.is_some();
    assert!(!pending, "it is written");
    let files = world.files(1);
    let text = fs::read_to_string(only(&files)).expect("written");
    for sign in ["\"appended\"", "\"opened\""] {
        let steps = text.lines().skip(3).filter(|line| line.contains(sign));
        assert_eq!(steps.count(), 1, "{sign}");
    }
    assert!(world.nodes[1].flight.record.bytes() <= KEPT_MAX);
    fed(only(&files)).expect("it is understood");
}
