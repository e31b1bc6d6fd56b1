//! Generations: a new log after a majority was lost for good, and how the others join it.
//!
//! The agreed log has a **generation**, zero at first. `evenkeel recover` on one node begins a new
//! one in which that node is the only voter ([`recover`]); the others, when they return, set their
//! own logs aside ([`join`]), learn the new one, and become voters again
//! ([`Engine::make_whole`](crate::Engine::make_whole)). Engines of different generations do not
//! answer each other, so an old majority that comes back decides nothing in the new one.
//!
//! A generation is named by the term in which it begins: the number of recoveries in the upper
//! half, a drawn number in the lower.
//!
//! - *Above all old terms.* The others may have held elections that this node never heard of, each
//!   a term. The next generation begins at least 2^31 terms above whatever this node has seen: at
//!   one election every 400 ms, the most that the timing allows, 27 years. So every new epoch
//!   (term, index) is above all old ones (S2), and floors need not sink.
//! - *Never the same twice.* Should two nodes be told to recover, both against the truth that the
//!   operator swore to, their generations differ by the drawn number, one of them is greater, and
//!   its epochs are above the floors of the other: when they meet, the lesser gives way.
//!
//! Both changes are one transaction on the log file: a crash leaves the old generation or the new
//! one, whole. [`recover`] keeps every entry that this node has, decided or not: one that it had
//! only appended may have been decided and acknowledged by the others (S5).
//!
//! Who voted in earlier generations is taken out of the log and the snapshot, though: a node that
//! joins has forgotten what it did as a voter, so while it learns the log it must never come by an
//! entry that makes it one, alone or with another that learns. (The lab found that: a server that
//! had recovered once led alone for a moment when it followed another one's recovery.)

use std::collections::BTreeSet;

use evenkeel_core::names::{Epoch, NodeId};

use crate::error::ConsensusError;
use crate::ports::{Disk, Image, Write};
use crate::v1::{self, Body, LogId, Members, Vote};

/// Terms between the beginnings of two generations, but for the drawn number.
const STRIDE: u32 = 32;

/// The drawn number is below this: half a stride is left for elections.
const DRAWN_MAX: u64 = 1 << 31;

/// What an operator ordered.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// This node: the only voter of the new generation.
    pub me: NodeId,
    /// All voters of the configuration. The others follow the new log without a vote.
    pub all: Vec<NodeId>,
    /// Any number.
    pub drawn: u64,
}

/// What a new generation begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The generation.
    pub generation: u64,
    /// The last entry of the old one that this node has.
    pub last: Epoch,
    /// How many of its entries were not known to be decided; now they are.
    pub undecided: u64,
}

/// What was given up for another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The generation that was left.
    pub generation: u64,
    /// Its last entry.
    pub last: Epoch,
}

/// Begins a new generation on `disk`, whose only voter is this node. Its first entries are the
/// membership and what `told` makes of it. Returns once it is durable. The engine must not run.
pub fn recover(
    disk: &mut dyn Disk,
    recovery: &Recovery,
    told: impl FnOnce(&Recovered) -> Vec<u8>,
) -> Result<Recovered, ConsensusError> {
    let image = disk.load()?;
    let (writes, recovered) = recover_writes(&image, recovery, told)?;
    disk.write(&writes)?;
    Ok(recovered)
}

/// Leaves the generation on `disk` for a greater one, with an empty log: floors stay. The new log
/// bears the mark of a voter if the old one did: it was not lost, so this node cannot have voted
/// in the new one before. Nothing is written if the log is in that generation, or a greater one, already.
/// The engine must not run.
pub fn join(disk: &mut dyn Disk, generation: u64) -> Result<SetAside, ConsensusError> {
    let image = disk.load()?;
    let set_aside = SetAside {
        generation: image.generation,
        last: epoch(last(&image)?),
    };
    if image.generation < generation {
        let mut writes = vec![Write::Forget, Write::Generation(generation)];
        writes.extend(image.oath.map(Write::Oath));
        disk.write(&writes)?;
    }
    Ok(set_aside)
}

/// The term at which the generation after `seen` begins.
fn begin_after(seen: u64, drawn: u64) -> u64 {
    (((seen >> STRIDE) + 1) << STRIDE) | (drawn % DRAWN_MAX)
}

fn epoch(id: LogId) -> Epoch {
    Epoch {
        term: id.term,
        index: id.index,
    }
}

fn mark(bytes: Option<&[u8]>, what: &str) -> Result<Option<LogId>, ConsensusError> {
    let stored = bytes.map(|bytes| crate::log::stored::<Option<LogId>>(bytes, what));
    Ok(stored.transpose()?.flatten())
}

/// The last entry that the log has or had.
fn last(image: &Image) -> Result<LogId, ConsensusError> {
    let none = LogId { term: 0, index: 0 };
    if let Some((index, bytes)) = image.entries.last() {
        let entry: v1::Entry = crate::log::stored(bytes, &format!("entry {index}"))?;
        return Ok(entry.id);
    }
    let purged = mark(image.purged.as_deref(), "mark of what was purged")?;
    Ok(purged.unwrap_or(none))
}

fn recover_writes(
    image: &Image,
    recovery: &Recovery,
    told: impl FnOnce(&Recovered) -> Vec<u8>,
) -> Result<(Vec<Write>, Recovered), ConsensusError> {
    let last = last(image)?;
    if last.index == 0 {
        return Err(ConsensusError::NothingToRecover);
    }
    let vote: Option<Vote> = image
        .vote
        .as_deref()
        .map(|bytes| crate::log::stored(bytes, "vote"))
        .transpose()?;
    let committed = mark(
        image.committed.as_deref(),
        "mark of what is known to be decided",
    )?;
    let seen = vote.map_or(0, |vote| vote.term).max(last.term);
    let generation = begin_after(seen.max(image.generation), recovery.drawn);
    let recovered = Recovered {
        generation,
        last: epoch(last),
        undecided: last.index - committed.map_or(0, |id| id.index).min(last.index),
    };
    let at = |offset: u64| LogId {
        term: generation,
        index: last.index + offset,
    };
    let voters = BTreeSet::from([recovery.me.0]);
    let others = recovery.all.iter().map(|node| node.0);
    let voting = Members {
        learners: others.filter(|node| !voters.contains(node)).collect(),
        configs: vec![voters],
    };
    let told = Body::Proposal {
        // Nobody waits for it, and no proposer draws it: incarnations are never zero.
        request: u128::from(generation),
        payload: told(&recovered).into(),
    };
    let entry = |id: LogId, body| Write::Entry {
        index: id.index,
        entry: v1::encode(&v1::Entry { id, body }),
    };
    let vote = Vote {
        term: generation,
        node: recovery.me.0,
        committed: false,
    };
    let mut writes = forget_members(image, &voting)?;
    writes.extend([
        Write::Generation(generation),
        entry(at(1), Body::Members(voting)),
        entry(at(2), told),
        Write::Vote(v1::encode(&vote)),
        Write::Committed(v1::encode(&Some(at(2)))),
    ]);
    Ok((writes, recovered))
}

/// Blanks all entries that say who votes, and lets the snapshot say `voting` instead.
fn forget_members(image: &Image, voting: &Members) -> Result<Vec<Write>, ConsensusError> {
    let mut writes = Vec::new();
    for (index, bytes) in &image.entries {
        let entry: v1::Entry = crate::log::stored(bytes, &format!("entry {index}"))?;
        if let Body::Voters(_) | Body::Members(_) = entry.body {
            let blank = v1::Entry {
                id: entry.id,
                body: Body::Blank,
            };
            writes.push(Write::Entry {
                index: *index,
                entry: v1::encode(&blank),
            });
        }
    }
    if let Some(bytes) = &image.snapshot {
        let mut snapshot: v1::Snapshot = crate::log::stored(bytes, "snapshot")?;
        snapshot.members = voting.clone();
        writes.push(Write::Snapshot(v1::encode(&snapshot)));
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generation_begins_far_above_the_terms_of_the_last() {
        for seen in [
            0,
            1,
            17,
            u64::from(u32::MAX),
            (3 << STRIDE) | (DRAWN_MAX - 1),
        ] {
            for drawn in [0, 1, DRAWN_MAX - 1, DRAWN_MAX, u64::MAX] {
                let next = begin_after(seen, drawn);
                // Whatever was drawn last time, unless that generation held 2^31 elections.
                let began = seen & !(DRAWN_MAX - 1) | (DRAWN_MAX - 1);
                if seen % (1 << STRIDE) < DRAWN_MAX {
                    assert!(next - began >= DRAWN_MAX, "{seen:x} {drawn:x} {next:x}");
                }
                assert!(next > seen);
            }
        }
    }
}
