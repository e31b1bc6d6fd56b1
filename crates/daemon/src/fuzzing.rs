//! Doors for `crates/fuzz`, and for nobody else: the daemon's files and memory, and who is let in.
//!
//! Not behind a feature: see the module of the same name in `evenkeel_transport`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_consensus::{Floors, Machine};
use evenkeel_core::lease::Mirror;
use evenkeel_core::{Incarnation, Moment, NodeId, NodeName};
use evenkeel_transport::seal::Mirrored;
use evenkeel_wire::v1::hello::Hello;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::agreement::{AssignmentsRaiseFloors, SharedLedger};
use crate::line::{Ask, Board};
use crate::mirror::{Found, Memory};
use crate::peers::Gate;
use crate::reload::Forms;
use crate::state::{self, StateDir, Whose};

/// What a state directory's files have come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The number of the life that was begun in it.
    pub counter: u64,
    /// The longest lease that it remembers.
    pub lease_max: Option<Duration>,
    /// Its lives, that one included.
    pub lives: Vec<Incarnation>,
    /// Its oaths; none if they cannot be read.
    pub oaths: Option<Vec<u64>>,
}

/// Begins a life of `node` in the directory, as a start of the daemon does; else why not.
pub fn begin(dir: &Path, node: &NodeName, lease: Duration, nonce: u64) -> Result<State, String> {
    let whose = Whose {
        cluster: "shop",
        authority: "aa",
        node,
        lease,
    };
    let looked = state::look(dir, &whose).map_err(|error| error.to_string());
    let opened = StateDir::open(dir, &whose).map_err(|error| error.to_string());
    // Who only looks says the same as who starts.
    assert_eq!(looked.is_ok(), opened.is_ok(), "{looked:?}, {opened:?}");
    let counter = opened?
        .begin_life(&whose, nonce)
        .map_err(|error| error.to_string())?;
    Ok(State {
        counter,
        lease_max: state::lease_max(dir),
        lives: state::lives(dir),
        oaths: state::oaths(dir).ok(),
    })
}

/// Notes oaths in the directory.
pub fn swear(dir: &Path, oaths: &[u64]) -> Result<(), String> {
    state::note_oaths(dir, oaths).map_err(|error| error.to_string())
}

/// The files of a state directory.
pub const STATE_FILES: [&str; 3] = state::FILES;

/// What is read of a mirror's memory: nothing yet, what is in it, or that it cannot be trusted.
pub fn mirror(path: &Path, life: Incarnation) -> Result<Option<(Mirror, Vec<Mirrored>)>, String> {
    let mut memory = Memory::open(path).map_err(|error| error.to_string())?;
    match memory.read(life) {
        Found::Blank => Ok(None),
        Found::Whole { mirror, keys } => Ok(Some((mirror, keys))),
        Found::Torn => Err("torn".to_owned()),
    }
}

/// Writes a mirror into memory that is blank.
pub fn write_mirror(path: &Path, mirror: &Mirror, keys: &[Mirrored]) -> Result<(), String> {
    let mut memory = Memory::open(path).map_err(|error| error.to_string())?;
    memory.begin(mirror);
    memory.write_keys(keys.iter().cloned());
    Ok(())
}

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
    let value = serde_json::from_slice::<T>(bytes).ok()?;
    serde_json::to_vec(&value).ok()
}

/// Writes what it has read, if it could.
pub type Again = fn(&[u8]) -> Option<Vec<u8>>;

/// What parents, workers and other programs of this machine say to each other, by its name: what
/// is written of what was read.
pub const FORMS: &[(&str, Again)] = &[
    ("question of a worker", again::<Ask>),
    ("board of a parent", again::<Board>),
    ("forms of another program", again::<Forms>),
];

/// The forms of this program.
pub fn own_forms() -> Vec<u8> {
    serde_json::to_vec(&Forms::own(None)).unwrap_or_default()
}

/// A gate that knows nothing but the file.
pub struct Door(Gate);

impl Door {
    /// Of the node `me`.
    pub fn new(me: NodeId, membership: u64) -> Self {
        let ledger = SharedLedger::default();
        Self(Gate::new(me, "shop".to_owned(), membership, ledger))
    }

    /// Whether a node that has proved its name is let in with these words.
    pub fn admit(&self, now: Moment, from: NodeId, words: &[u8]) -> Result<(), String> {
        let hello = Hello::decode(words).map_err(|error| error.to_string())?;
        self.0.admit(now, from, &hello)
    }
}

/// What agreed entries drive, and which of them raise floors.
pub fn agreed() -> (Box<dyn Machine>, Arc<dyn Floors>) {
    let machine = Box::new(SharedLedger::default());
    (machine, Arc::new(AssignmentsRaiseFloors))
}
