//! Agreement, reduced to what leases see of it: entries that voters append at their
//! own moments, that can be truncated until they are committed, and commits that are
//! learned late. The rules are Raft's (the extended paper, figure 2); its messages and
//! time-outs are not here, so any election and any replication may happen at any
//! moment at which Raft would allow it.

use std::collections::BTreeMap;

use evenkeel_core::Epoch;
use evenkeel_core::lease::Assignment;
use evenkeel_core::quorum::majority;

/// One entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Term of the leader that wrote it.
    pub term: u64,
    /// An assignment, or something that leases do not care about.
    pub assignment: Option<Assignment>,
}

/// What a node's disk keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Disk {
    /// The highest term it has voted in or followed.
    pub term: u64,
    /// The log; the entry of index 1 first.
    pub entries: Vec<Entry>,
    /// The floor, kept apart from the log: the newest assignment ever appended.
    pub floor: Option<Assignment>,
}

impl Disk {
    fn last(&self) -> (u64, usize) {
        (
            self.entries.last().map_or(0, |entry| entry.term),
            self.entries.len(),
        )
    }

    /// The newest assignment among the first `length` entries.
    pub fn assignment_within(&self, length: usize) -> Option<Assignment> {
        self.entries
            .iter()
            .take(length)
            .rev()
            .find_map(|entry| entry.assignment)
    }

    fn append(&mut self, entry: Entry) -> Option<Told> {
        self.entries.push(entry);
        let assignment = entry.assignment?;
        if self
            .floor
            .is_none_or(|floor| floor.epoch < assignment.epoch)
        {
            self.floor = Some(assignment);
        }
        Some(Told::Appended(assignment))
    }
}

/// What a node's lease machine must be told about its log, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// An assignment is durable here.
    Appended(Assignment),
    /// The assignment of this epoch was cut off; what is left of assignments.
    Truncated(Epoch, Option<Assignment>),
    /// The assignment of this epoch is committed.
    Committed(Epoch),
}

/// A leader, as it believes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Leader {
    node: usize,
    /// Entries known to be equal, for each node.
    matched: BTreeMap<usize, usize>,
    /// Entries known to be committed.
    commit: usize,
}

/// All leaders that have not learned of their end, by term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agreement {
    voters: usize,
    leaders: BTreeMap<u64, Leader>,
}

/// Leaders remembered: more than three at one time show nothing new.
const LEADERS_MAX: usize = 3;

/// Whether a follower took all that it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// It crashed after cutting off what conflicts, before it appended the rest.
    CutOnly,
    /// The next entry that it lacks, and no more.
    OneEntry,
}

impl Agreement {
    /// Nobody leads. The first `voters` nodes vote.
    pub fn new(voters: usize) -> Self {
        Self {
            voters,
            leaders: BTreeMap::new(),
        }
    }

    /// The term in which `node` believes itself the leader.
    pub fn leads(&self, node: usize) -> Option<u64> {
        self.leaders
            .iter()
            .rev()
            .find(|(_, leader)| leader.node == node)
            .map(|(term, _)| *term)
    }

    /// The newest leader.
    pub fn newest(&self) -> Option<(u64, usize)> {
        self.leaders
            .iter()
            .next_back()
            .map(|(term, leader)| (*term, leader.node))
    }

    /// A node's process ends: it leads no more.
    pub fn forget(&mut self, node: usize) {
        self.leaders.retain(|_, leader| leader.node != node);
    }

    /// `electors` (the candidate among them) elect `candidate`, if Raft allows it.
    /// Its term begins with an entry of no meaning.
    pub fn elect(&mut self, disks: &mut [Disk], candidate: usize, electors: &[usize]) -> bool {
        let fit = |v: &usize| disks[*v].last() <= disks[candidate].last();
        let enough = electors.len() >= majority(self.voters) && electors.contains(&candidate);
        if !enough || !electors.iter().all(fit) || candidate >= self.voters {
            return false;
        }
        let term = electors.iter().map(|v| disks[*v].term).max().unwrap_or(0) + 1;
        for v in electors {
            disks[*v].term = term;
        }
        disks[candidate].append(Entry {
            term,
            assignment: None,
        });
        let leader = Leader {
            node: candidate,
            matched: BTreeMap::new(),
            commit: 0,
        };
        self.leaders.insert(term, leader);
        while self.leaders.len() > LEADERS_MAX {
            self.leaders.pop_first();
        }
        true
    }

    /// The leader of `term` appends an assignment to its own log.
    pub fn propose(
        &self,
        disks: &mut [Disk],
        term: u64,
        make: impl FnOnce(Epoch) -> Assignment,
    ) -> Option<Told> {
        let disk = &mut disks[self.leaders.get(&term)?.node];
        if disk.term != term {
            return None;
        }
        let epoch = Epoch {
            term,
            index: disk.entries.len() as u64 + 1,
        };
        disk.append(Entry {
            term,
            assignment: Some(make(epoch)),
        })
    }

    /// The leader of `term` brings `follower` up to its own log, then sees what is
    /// committed. Returns what the follower's and the leader's machines must be told.
    pub fn replicate(
        &mut self,
        disks: &mut [Disk],
        term: u64,
        follower: usize,
        extent: Extent,
    ) -> (Vec<Told>, Vec<Told>) {
        let nothing = (Vec::new(), Vec::new());
        let Some(leader) = self.leaders.get_mut(&term) else {
            return nothing;
        };
        if disks[leader.node].term != term || disks[follower].term > term {
            return nothing;
        }
        let source = disks[leader.node].entries.clone();
        let disk = &mut disks[follower];
        disk.term = term;
        let mut told = cut(disk, &source);
        if extent == Extent::CutOnly {
            return (told, Vec::new());
        }
        let most = if extent == Extent::OneEntry {
            1
        } else {
            source.len()
        };
        for entry in source.iter().skip(disk.entries.len()).take(most) {
            told.extend(disk.append(*entry));
        }
        leader
            .matched
            .insert(follower, disk.entries.len().min(source.len()));
        leader.matched.insert(leader.node, source.len());
        leader.commit = leader
            .commit
            .max(committed(&leader.matched, &source, term, self.voters));
        let commit = leader.commit;
        let matched = leader.matched.get(&follower).copied().unwrap_or(0);
        told.extend(commit_of(&disks[follower], commit.min(matched)));
        let leader_told = commit_of(&disks[leader.node], commit).into_iter().collect();
        (told, leader_told)
    }
}

/// Cuts off what conflicts with the leader's log. A log that is merely longer stays.
fn cut(disk: &mut Disk, source: &[Entry]) -> Vec<Told> {
    let same = disk
        .entries
        .iter()
        .zip(source)
        .take_while(|(ours, theirs)| ours == theirs)
        .count();
    if same == disk.entries.len().min(source.len()) {
        return Vec::new();
    }
    let back = disk.assignment_within(same);
    let cut = disk.entries.drain(same..);
    cut.filter_map(|entry| entry.assignment)
        .map(|a| Told::Truncated(a.epoch, back))
        .collect()
}

/// The longest prefix that a majority of voters has and that ends in this term.
fn committed(
    matched: &BTreeMap<usize, usize>,
    source: &[Entry],
    term: u64,
    voters: usize,
) -> usize {
    let mut lengths: Vec<usize> = (0..voters)
        .map(|v| matched.get(&v).copied().unwrap_or(0))
        .collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let length = lengths[majority(voters) - 1];
    if length > 0 && source[length - 1].term == term {
        length
    } else {
        0
    }
}

fn commit_of(disk: &Disk, commit: usize) -> Option<Told> {
    let assignment = disk.assignment_within(commit.min(disk.entries.len()))?;
    (commit > 0).then_some(Told::Committed(assignment.epoch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::{GroupId, Incarnation, NodeId};

    fn to(node: u64) -> impl FnOnce(Epoch) -> Assignment {
        move |epoch| Assignment {
            group: GroupId(1),
            epoch,
            holder: NodeId(node),
            incarnation: Incarnation::default(),
        }
    }

    /// The case that makes a floor of its own necessary: an appended assignment is cut
    /// off, and comes back.
    #[test]
    fn an_entry_can_be_cut_off_and_come_back() {
        let mut disks = vec![Disk::default(); 3];
        let mut agreement = Agreement::new(3);
        assert!(agreement.elect(&mut disks, 0, &[0, 1]));
        assert!(agreement.propose(&mut disks, 1, to(7)).is_some());
        let epoch = Epoch { term: 1, index: 2 };
        let (told, _) = agreement.replicate(&mut disks, 1, 1, Extent::Whole);
        assert!(matches!(told[..], [Told::Appended(a), Told::Committed(_)] if a.epoch == epoch));

        // Without the commit having been learned: a log of its own at node 2.
        let mut disks = vec![Disk::default(); 3];
        let mut agreement = Agreement::new(3);
        assert!(agreement.elect(&mut disks, 0, &[0, 1]));
        agreement.propose(&mut disks, 1, to(7));
        assert!(agreement.elect(&mut disks, 2, &[1, 2]));
        agreement.replicate(&mut disks, 1, 1, Extent::Whole);
        assert_eq!(disks[1].entries.len(), 0, "it has voted in a later term");
        assert!(agreement.elect(&mut disks, 0, &[0, 1]));
        let (told, _) = agreement.replicate(&mut disks, 3, 1, Extent::Whole);
        assert_eq!(told.len(), 2);
        assert!(agreement.elect(&mut disks, 2, &[2, 1]) || disks[1].floor.is_some());
        assert!(
            !agreement.elect(&mut disks, 2, &[2, 1]),
            "its log is behind"
        );
    }

    #[test]
    fn conflicts_are_cut_and_the_floor_stays() {
        let mut disks = vec![Disk::default(); 3];
        let mut agreement = Agreement::new(3);
        assert!(agreement.elect(&mut disks, 0, &[0, 1]));
        agreement.propose(&mut disks, 1, to(7));
        assert!(agreement.elect(&mut disks, 1, &[1, 2]));
        let (told, _) = agreement.replicate(&mut disks, 2, 0, Extent::CutOnly);
        assert_eq!(told, [Told::Truncated(Epoch { term: 1, index: 2 }, None)]);
        assert_eq!(disks[0].entries.len(), 0);
        assert_eq!(
            disks[0].floor.map(|f| f.epoch),
            Some(Epoch { term: 1, index: 2 })
        );
    }
}
