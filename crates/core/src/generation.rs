//! Which generation of the agreed log this node belongs to, and when it takes part: after
//! `evenkeel recover`, when the others return, and until the cluster is whole again.
//!
//! `recover` begins a new **generation** of the log with one voter (the consensus room makes it).
//! Three things are decided here, without clock or I/O, and carried out by the driver:
//!
//! **When a new life takes part.** The voters that were declared stopped know nothing of the new
//! generation when they start, and two of three are a majority of the old one. So a new life is
//! not **settled** at first: it neither votes nor seeks leadership, and without a vote of a new
//! life an old majority can assign nothing. It settles when
//!
//! - every other voter was heard in this life, and is in its generation; or
//! - a *settled* node of its generation is heard. That one has been alive since it settled, so
//!   nobody could declare it stopped truthfully, and it was as careful before; or
//! - [`SETTLE_PATIENCE`] is over: two of three must be able to start without the third.
//!
//! But never while a node of a *lesser* generation is heard: it may hold something until it has
//! learned of the greater one. It does so at the first report.
//!
//! **Who gives way.** A node that hears of a greater generation closes whatever it holds, gives
//! its log up, and joins. It says that it belongs to the new one only when its guards are shut.
//!
//! **How one voter becomes all.** At {A} -> {A, B, T} the majority {B, T} does not share a voter
//! with {A}, so A must not hold by its own vote alone once B and T can decide:
//!
//! | state    | leases need     | decisions need | next                                                |
//! | -------- | --------------- | -------------- | --------------------------------------------------- |
//! | alone    | A               | A              | enough others have A's log: switching               |
//! | switching| (closed, spent) | A              | the lease thread has switched: proving              |
//! | proving  | majority of all | A              | held for [`PROVE_LEASES`]: proposed; or alone again |
//! | proposed | majority of all | A              | the log names all: whole; refused: alone again      |
//! | whole    | majority of all | majority       | -                                                   |
//!
//! A can go back to holding alone for as long as nothing can be decided without it, which is
//! until its own log names the others: until then also after a crash at any point, because the
//! log on A's disk is read at the start, and what the others may have been sent of the growth
//! cannot be agreed on without A. From the switch on no lease rests on A's word alone, and those
//! from before were closed by it. A node that is not a voter opens nothing, whatever is assigned
//! to it ([`Generations::may_open`]): it would hold by promises that A never heard of.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::Moment;
use crate::health::REPORT_AGE_MAX;
use crate::names::NodeId;
use crate::quorum::majority;

/// How long a new life waits for voters that it does not hear. A node that runs is heard within
/// half a second of its peer's start, or, if it refused the peer as a double of its former life,
/// within two more; the rest is for a machine that is busy booting.
pub const SETTLE_PATIENCE: Duration = Duration::from_secs(4);

/// For how many leases all groups must have been held by a majority of all: one for the longest
/// lease that may rest on the old voter alone, one more for margins and delays.
pub const PROVE_LEASES: u32 = 2;

/// How much longer that may take before the node serves alone again: a new assignment and an
/// opening, on a busy machine.
pub const PROVE_SLACK: Duration = Duration::from_secs(1);

/// How long it then serves alone before it tries again: each try costs a blink.
pub const GROW_PAUSE: Duration = Duration::from_secs(15);

/// Who votes, by the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// Not known: the log is empty, or cannot be read now.
    Unknown,
    /// One node alone.
    Alone(NodeId),
    /// All, and as long as that is being agreed on also the one that was alone.
    Growing(NodeId),
    /// All.
    All,
}

/// Whose promises make a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voters {
    /// This node's alone.
    Me,
    /// A majority of all.
    All,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This life takes part from now on.
    Settle(Because),
    /// Close everything, give the log up, and say [`Generations::joined`].
    Join {
        /// The generation to join.
        generation: u64,
        /// Who belongs to it.
        of: NodeId,
    },
    /// The lease machine replaces its voters; then say [`Generations::switched`].
    Voters(Voters),
    /// Propose that all vote again; then say [`Generations::refused`] if it was refused.
    MakeWhole,
}

/// Why a new life takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// It has heard every other voter.
    AllHeard,
    /// A node that takes part was heard.
    Vouched(NodeId),
    /// Nobody else came.
    PatienceOver,
}

/// What the driver sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Who votes, by this node's log.
    pub members: Members,
    /// This node leads.
    pub leads: bool,
    /// The other voters that have all of this node's log.
    pub caught_up: BTreeSet<NodeId>,
    /// Every group that is assigned to this node is open here.
    pub serving: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    generation: u64,
    settled: bool,
    at: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    Not,
    Switching,
    Proving { since: Moment },
    Proposed { since: Moment },
}

/// The machine. One per node.
#[derive(Clone, Debug)]
pub struct Generations {
    others: BTreeSet<NodeId>,
    me: NodeId,
    lease: Duration,
    own: u64,
    began: Moment,
    settled: bool,
    /// Closing, joining or recovering: nothing else is decided meanwhile.
    changing: bool,
    words: BTreeMap<NodeId, Word>,
    members: Members,
    voters: Voters,
    growth: Growth,
    not_before: Moment,
}

/// What the machine starts from.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// This node.
    pub me: NodeId,
    /// The longest lease.
    pub lease: Duration,
    /// The log's generation.
    pub generation: u64,
    /// A worker that continues a life that was settled.
    pub settled: bool,
    /// Whose promises the lease machine has started with.
    pub voters: Voters,
}

impl Generations {
    /// A node that starts now, among these voters.
    pub fn new(now: Moment, start: Start, all: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            others: all.into_iter().filter(|node| *node != start.me).collect(),
            me: start.me,
            lease: start.lease,
            own: start.generation,
            began: now,
            settled: start.settled,
            changing: false,
            words: BTreeMap::new(),
            members: Members::Unknown,
            voters: start.voters,
            growth: Growth::Not,
            not_before: now,
        }
    }

    /// The generation that this node obeys.
    pub fn own(&self) -> u64 {
        self.own
    }

    /// Whether this life takes part.
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// Whether a log is being given up or begun.
    pub fn changing(&self) -> bool {
        self.changing
    }

    /// Who votes, by the log.
    pub fn members(&self) -> Members {
        self.members
    }

    /// Whether this node may open what is assigned to it: by its own log it is a voter.
    pub fn may_open(&self) -> bool {
        match self.members {
            Members::All | Members::Growing(_) => true,
            Members::Alone(one) => one == self.me,
            Members::Unknown => self.own == 0,
        }
    }

    /// The nodes that decide now.
    pub fn deciders(&self) -> BTreeSet<NodeId> {
        match self.members {
            Members::Alone(one) => BTreeSet::from([one]),
            Members::Growing(_) | Members::All | Members::Unknown => {
                self.others.iter().copied().chain([self.me]).collect()
            }
        }
    }

    /// The other voters that are heard, and belong to this generation.
    pub fn present(&self, now: Moment) -> BTreeSet<NodeId> {
        let here = |word: &Word| word.generation == self.own && is_fresh(now, word);
        let words = self.words.iter();
        words
            .filter(|(_, word)| here(word))
            .map(|(node, _)| *node)
            .collect()
    }

    /// A node said hello.
    pub fn greeted(&mut self, now: Moment, node: NodeId, generation: u64, settled: bool) {
        if self.others.contains(&node) {
            let word = Word {
                generation,
                settled,
                at: now,
            };
            self.words.insert(node, word);
        }
    }

    /// A node's report came.
    pub fn reported(&mut self, now: Moment, node: NodeId, generation: u64) {
        let settled = self.words.get(&node).is_some_and(|word| word.settled);
        self.greeted(now, node, generation, settled);
    }

    /// A log is being given up or begun: until it is done nothing else is decided.
    pub fn change(&mut self) {
        self.changing = true;
    }

    /// This node has shut its guards, given its log up, and follows another generation.
    pub fn joined(&mut self, generation: u64) {
        self.own = self.own.max(generation);
        self.changing = false;
        self.members = Members::Unknown;
        self.growth = Growth::Not;
    }

    /// This node begins a generation; its lease machine has been ordered to rely on itself. None:
    /// nothing came of it.
    pub fn recovered(&mut self, generation: Option<u64>) {
        self.changing = false;
        self.growth = Growth::Not;
        if let Some(generation) = generation {
            self.own = generation;
            self.members = Members::Alone(self.me);
            self.voters = Voters::Me;
        }
    }

    /// The lease machine has replaced its voters.
    pub fn switched(&mut self, now: Moment, voters: Voters) {
        if self.growth == Growth::Switching && voters == Voters::All {
            self.growth = Growth::Proving { since: now };
        }
    }

    /// The proposal to make the cluster whole was refused: it will not take effect by itself.
    pub fn refused(&mut self, now: Moment) {
        if let Growth::Proposed { .. } = self.growth {
            // Falls back, unless the log names the others all the same.
            self.growth = Growth::Proving { since: now };
            self.not_before = now + GROW_PAUSE;
        }
    }

    /// The next thing to do, if any: ask until there is none.
    pub fn step(&mut self, now: Moment, facts: &Facts) -> Option<Step> {
        if self.changing {
            return None;
        }
        if let Some((of, generation)) = self.greater() {
            self.changing = true;
            return Some(Step::Join { generation, of });
        }
        if facts.members != Members::Unknown {
            self.members = facts.members;
        }
        let alone = self.members == Members::Alone(self.me);
        // Settled or not: nobody's own promise is enough in a log that names others.
        if !alone && self.members != Members::Unknown && self.voters == Voters::Me {
            self.growth = Growth::Not;
            self.voters = Voters::All;
            return Some(Step::Voters(Voters::All));
        }
        if !self.settled {
            let because = self.may_settle(now)?;
            self.settled = true;
            return Some(Step::Settle(because));
        }
        if alone {
            self.grow(now, facts)
        } else {
            self.finish(now, facts)
        }
    }

    fn greater(&self) -> Option<(NodeId, u64)> {
        let words = self.words.iter();
        let greater = words.filter(|(_, word)| word.generation > self.own);
        let greatest = greater.max_by_key(|(_, word)| word.generation)?;
        Some((*greatest.0, greatest.1.generation))
    }

    fn may_settle(&self, now: Moment) -> Option<Because> {
        let lesser = |word: &Word| word.generation < self.own && is_fresh(now, word);
        if self.words.values().any(lesser) {
            return None;
        }
        let same = |node: &NodeId| {
            self.words
                .get(node)
                .filter(|word| word.generation == self.own)
        };
        if self.others.iter().all(|node| same(node).is_some()) {
            return Some(Because::AllHeard);
        }
        let vouches = |node: &&NodeId| same(node).is_some_and(|word| word.settled);
        if let Some(node) = self.others.iter().find(vouches) {
            return Some(Because::Vouched(*node));
        }
        (now.since(self.began) >= SETTLE_PATIENCE).then_some(Because::PatienceOver)
    }

    /// Whether so many are back that the cluster, made whole, would outlive the next failure:
    /// with fewer it would depend on them and be no safer for it.
    fn enough(&self, now: Moment, facts: &Facts) -> bool {
        let all = self.others.len() + 1;
        let present = self.present(now);
        let back = facts.caught_up.intersection(&present).count() + 1;
        back >= (majority(all) + 1).min(all)
    }

    fn prove_max(&self) -> Duration {
        self.lease * PROVE_LEASES * 2 + PROVE_SLACK
    }

    fn grow(&mut self, now: Moment, facts: &Facts) -> Option<Step> {
        match self.growth {
            Growth::Not if self.voters == Voters::All => {
                // A process that died while it was proving, or a growth that came to nothing.
                self.growth = Growth::Proving { since: now };
                None
            }
            Growth::Not => {
                let due = facts.leads && now >= self.not_before && self.enough(now, facts);
                due.then(|| {
                    self.growth = Growth::Switching;
                    self.voters = Voters::All;
                    Step::Voters(Voters::All)
                })
            }
            Growth::Switching => None,
            Growth::Proving { since } => {
                let spent = now.since(since);
                let paused = now < self.not_before;
                if paused || !self.enough(now, facts) || spent >= self.prove_max() {
                    self.growth = Growth::Not;
                    self.voters = Voters::Me;
                    self.not_before = self.not_before.max(now + GROW_PAUSE);
                    return Some(Step::Voters(Voters::Me));
                }
                let proven = spent >= self.lease * PROVE_LEASES && facts.serving && facts.leads;
                proven.then(|| {
                    self.growth = Growth::Proposed { since: now };
                    Step::MakeWhole
                })
            }
            Growth::Proposed { since } => self.propose_again(now, since, facts),
        }
    }

    /// A growth that was left half done: whoever leads finishes it.
    fn finish(&mut self, now: Moment, facts: &Facts) -> Option<Step> {
        match (self.members, self.growth) {
            (Members::Growing(_), Growth::Proposed { since }) => {
                self.propose_again(now, since, facts)
            }
            (Members::Growing(_), _) if facts.leads => {
                self.growth = Growth::Proposed { since: now };
                Some(Step::MakeWhole)
            }
            (Members::Growing(_), _) => None,
            _ => {
                self.growth = Growth::Not;
                None
            }
        }
    }

    fn propose_again(&mut self, now: Moment, since: Moment, facts: &Facts) -> Option<Step> {
        let due = facts.leads && now.since(since) >= GROW_PAUSE;
        due.then(|| {
            self.growth = Growth::Proposed { since: now };
            Step::MakeWhole
        })
    }
}

fn is_fresh(now: Moment, word: &Word) -> bool {
    now.since(word.at) <= REPORT_AGE_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const T: NodeId = NodeId(3);
    const NEW: u64 = 1 << 32;
    const LEASE: Duration = Duration::from_millis(120);

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn node(me: NodeId, generation: u64) -> Generations {
        let start = Start {
            me,
            lease: LEASE,
            generation,
            settled: false,
            voters: Voters::All,
        };
        Generations::new(at(0), start, [A, B, T])
    }

    fn facts(members: Members) -> Facts {
        Facts {
            members,
            leads: false,
            caught_up: BTreeSet::new(),
            serving: false,
        }
    }

    #[test]
    fn a_new_life_waits_for_all_or_for_one_that_takes_part_or_a_while() {
        let all = facts(Members::All);
        let mut one = node(B, 0);
        one.greeted(at(10), T, 0, false);
        assert_eq!(one.step(at(3999), &all), None);
        let over = Some(Step::Settle(Because::PatienceOver));
        assert_eq!(one.step(at(4000), &all), over);
        assert_eq!(one.step(at(4001), &all), None);
        let mut one = node(B, 0);
        one.greeted(at(10), T, 0, false);
        one.greeted(at(20), A, 0, false);
        assert_eq!(
            one.step(at(21), &all),
            Some(Step::Settle(Because::AllHeard))
        );
        let mut one = node(B, 0);
        one.greeted(at(10), T, 0, true);
        let vouched = Some(Step::Settle(Because::Vouched(T)));
        assert_eq!(one.step(at(11), &all), vouched);
    }

    /// Both of the old majority come back at once: neither takes part before it has heard the
    /// one that recovered.
    #[test]
    fn who_hears_of_a_greater_generation_joins_it() {
        let mut one = node(B, 0);
        one.greeted(at(10), T, 0, false);
        assert_eq!(one.step(at(11), &facts(Members::All)), None);
        one.greeted(at(300), A, NEW, true);
        let join = Step::Join {
            generation: NEW,
            of: A,
        };
        assert_eq!(one.step(at(301), &facts(Members::All)), Some(join));
        // Once; and nothing else until it is done.
        assert_eq!(one.step(at(9000), &facts(Members::All)), None);
        assert_eq!(one.own(), 0);
        one.joined(NEW);
        assert!(!one.may_open(), "it is no voter yet");
        let follows = facts(Members::Alone(A));
        let vouched = Some(Step::Settle(Because::Vouched(A)));
        assert_eq!(one.step(at(9001), &follows), vouched);
        assert!(!one.may_open());
        assert_eq!(one.step(at(9002), &facts(Members::All)), None);
        assert!(one.may_open());
    }

    /// It recovered once and joined a later recovery since: its own promise counts no more,
    /// whether it has settled or not.
    #[test]
    fn one_that_was_alone_needs_the_others_before_it_has_settled() {
        let mut one = node(A, NEW);
        one.voters = Voters::Me;
        let step = one.step(at(10), &facts(Members::All));
        assert_eq!(step, Some(Step::Voters(Voters::All)));
        assert_eq!(one.step(at(11), &facts(Members::All)), None, "not settled");
    }

    /// A settled node learns of it by a report on a connection that is up.
    #[test]
    fn a_report_is_enough() {
        let mut one = node(B, 0);
        one.greeted(at(10), A, 0, true);
        one.step(at(11), &facts(Members::All));
        one.reported(at(500), A, NEW);
        let step = one.step(at(501), &facts(Members::All));
        assert!(matches!(step, Some(Step::Join { of: A, .. })), "{step:?}");
    }

    /// The one that recovered was off while the old majority came back and served: it waits
    /// until they have closed.
    #[test]
    fn while_a_lesser_generation_is_heard_nobody_takes_part() {
        let mut one = node(A, NEW);
        let alone = facts(Members::Alone(A));
        for ms in (0..9000).step_by(100) {
            one.reported(at(ms), B, 0);
            assert_eq!(one.step(at(ms), &alone), None, "{ms}");
        }
        one.reported(at(9000), B, NEW);
        let over = Some(Step::Settle(Because::PatienceOver));
        assert_eq!(one.step(at(9000), &alone), over);
    }

    fn settled_alone() -> (Generations, Facts) {
        let mut one = node(A, 0);
        one.settled = true;
        one.change();
        one.recovered(Some(NEW));
        let facts = Facts {
            leads: true,
            caught_up: BTreeSet::from([B, T]),
            serving: true,
            ..facts(Members::Alone(A))
        };
        (one, facts)
    }

    fn hear(one: &mut Generations, ms: u64, nodes: &[NodeId]) {
        nodes
            .iter()
            .for_each(|node| one.reported(at(ms), *node, NEW));
    }

    #[test]
    fn the_table_of_growth_is_walked() {
        let (mut one, facts) = settled_alone();
        assert!(one.may_open());
        assert_eq!(one.deciders(), BTreeSet::from([A]));
        hear(&mut one, 100, &[B]);
        assert_eq!(one.step(at(100), &facts), None, "the witness is missing");
        hear(&mut one, 200, &[B, T]);
        assert_eq!(one.step(at(200), &facts), Some(Step::Voters(Voters::All)));
        assert_eq!(one.step(at(201), &facts), None, "not switched yet");
        one.switched(at(210), Voters::All);
        assert_eq!(one.step(at(210 + 239), &facts), None, "not long enough");
        let shut = Facts {
            serving: false,
            ..facts.clone()
        };
        assert_eq!(one.step(at(210 + 240), &shut), None, "not held");
        assert_eq!(one.step(at(210 + 241), &facts), Some(Step::MakeWhole));
        assert_eq!(one.step(at(5000), &facts), None, "no way back now");
        let whole = Facts {
            members: Members::All,
            ..facts
        };
        assert_eq!(one.step(at(5001), &whole), None);
        assert_eq!(one.deciders().len(), 3);
    }

    #[test]
    fn it_serves_alone_again_if_they_vanish_while_it_proves() {
        let (mut one, facts) = settled_alone();
        hear(&mut one, 0, &[B, T]);
        assert_eq!(one.step(at(0), &facts), Some(Step::Voters(Voters::All)));
        one.switched(at(1), Voters::All);
        // Not heard any more.
        assert_eq!(one.step(at(702), &facts), Some(Step::Voters(Voters::Me)));
        hear(&mut one, 710, &[B, T]);
        assert_eq!(one.step(at(710), &facts), None, "not again at once");
        hear(&mut one, 16_000, &[B, T]);
        assert_eq!(
            one.step(at(16_000), &facts),
            Some(Step::Voters(Voters::All))
        );
        one.switched(at(16_001), Voters::All);
        // Heard, but their promises do not come.
        let shut = Facts {
            serving: false,
            ..facts
        };
        hear(&mut one, 17_481, &[B, T]);
        assert_eq!(one.step(at(17_481), &shut), Some(Step::Voters(Voters::Me)));
    }

    #[test]
    fn a_refusal_leads_back_and_silence_does_not() {
        let (mut one, facts) = settled_alone();
        hear(&mut one, 0, &[B, T]);
        one.step(at(0), &facts);
        one.switched(at(1), Voters::All);
        hear(&mut one, 300, &[B, T]);
        assert_eq!(one.step(at(300), &facts), Some(Step::MakeWhole));
        // No answer: it may still take effect, so it is proposed again.
        hear(&mut one, 15_300, &[B, T]);
        assert_eq!(one.step(at(15_300), &facts), Some(Step::MakeWhole));
        one.refused(at(15_400));
        assert_eq!(one.step(at(15_400), &facts), Some(Step::Voters(Voters::Me)));
    }

    /// Its process died in the middle; another goes on.
    #[test]
    fn what_was_left_half_done_is_finished_or_undone() {
        let start = Start {
            me: A,
            lease: LEASE,
            generation: NEW,
            settled: true,
            voters: Voters::All,
        };
        let (_, facts) = settled_alone();
        // The log still says alone, the leases already need all: proven anew.
        let mut one = Generations::new(at(0), start, [A, B, T]);
        hear(&mut one, 0, &[B, T]);
        assert_eq!(one.step(at(0), &facts), None);
        hear(&mut one, 300, &[B, T]);
        assert_eq!(one.step(at(300), &facts), Some(Step::MakeWhole));
        // The log is between the two: whoever leads goes on; nobody holds alone any more.
        let growing = Facts {
            members: Members::Growing(A),
            ..facts
        };
        let me_only = Start {
            voters: Voters::Me,
            ..start
        };
        let mut one = Generations::new(at(0), me_only, [A, B, T]);
        assert_eq!(one.step(at(0), &growing), Some(Step::Voters(Voters::All)));
        assert_eq!(one.step(at(1), &growing), Some(Step::MakeWhole));
        assert_eq!(one.step(at(2), &growing), None);
    }
}
