//! Which cases are played: a covering design.
//!
//! A case is one or two troubles on a cluster of some shape: how many nodes, which profile, over
//! which family the nodes talk, and how soon the second trouble follows the first. All
//! combinations would take days. What goes wrong where two things meet needs those two alone, so
//! it is enough that **every pair** meets: every two troubles, and every trouble with every
//! value of the shape, and every two values of the shape. Each case has one pair of troubles, so
//! there are as many cases as such pairs; the greedy choice of shapes makes the other pairs meet
//! within the first of them. All is drawn from a seed: equal seed, equal design.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use super::trouble::{self, Trouble, Whom};
use crate::chance::Chance;
use crate::cluster::Profile;
use crate::host::Family;

/// How many nodes a cluster of the matrix has, all of them voters: 2 are two servers alone, 3
/// are two and a witness, 5 are four and a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nodes {
    Two,
    Three,
    Five,
}

impl Nodes {
    /// As many as that.
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Five => 5,
        }
    }

    /// Servers among them.
    pub(crate) fn servers(self) -> usize {
        match self {
            Self::Two | Self::Three => 2,
            Self::Five => 4,
        }
    }

    /// Whether the last of them is a witness.
    pub(crate) fn witness(self) -> bool {
        self != Self::Two
    }
}

impl FromStr for Nodes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "2" => Ok(Self::Two),
            "3" => Ok(Self::Three),
            "5" => Ok(Self::Five),
            other => Err(format!(
                "{other}: the matrix has clusters of 2, 3 and 5 nodes"
            )),
        }
    }
}

/// Which family was meant.
pub(crate) fn family(text: &str) -> Result<Family, String> {
    match text {
        "4" => Ok(Family::Four),
        "6" => Ok(Family::Six),
        other => Err(format!("{other}: the families are 4 and 6")),
    }
}

/// How soon the second trouble follows the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Gap {
    /// Some time within one lease.
    Within,
    /// Once what the first one led to is over.
    After,
}

/// What a cluster of the matrix is like, and when the second trouble comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) nodes: Nodes,
    pub(crate) profile: Profile,
    /// In which family the nodes talk and the quick client asks.
    pub(crate) family: Family,
    pub(crate) gap: Gap,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) shape: Shape,
    pub(crate) first: Trouble,
    pub(crate) second: Option<Trouble>,
    /// What is drawn in it is drawn from this.
    pub(crate) seed: u64,
}

impl Case {
    /// Its troubles.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = Trouble> + use<> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// Whether one of them is this.
    pub(crate) fn has(&self, trouble: Trouble) -> bool {
        self.troubles().any(|one| one == trouble)
    }
}

/// Where parts of a case's name meet.
const BETWEEN: char = '/';

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape {
            nodes,
            profile,
            family,
            gap,
        } = self.shape;
        let family = match family {
            Family::Four => 4,
            Family::Six => 6,
        };
        write!(
            f,
            "{}/{}/{family}/{}",
            nodes.count(),
            profile.name(),
            self.first
        )?;
        if let Some(second) = self.second {
            let gap = match gap {
                Gap::Within => "within",
                Gap::After => "after",
            };
            write!(f, "+{second}/{gap}")?;
        }
        write!(f, "/{}", self.seed)
    }
}

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let typed = |name: &str| {
            let found = trouble::ALL.into_iter().find(|one| one.name() == name);
            found.with_context(|| format!("no trouble is called {name}"))
        };
        let parts: Vec<&str> = text.split(BETWEEN).collect();
        let [nodes, profile, told, troubles, rest @ .., seed] = parts.as_slice() else {
            bail!("{text}: a case is NODES/PROFILE/FAMILY/TROUBLE[+TROUBLE/GAP]/SEED");
        };
        let profile = match *profile {
            "balanced" => Profile::Balanced,
            "fast" => Profile::Fast,
            other => bail!("no profile of the matrix is called {other}"),
        };
        let (first, second) = match troubles.split_once('+') {
            Some((first, second)) => (typed(first)?, Some(typed(second)?)),
            None => (typed(troubles)?, None),
        };
        let gap = match (rest, second) {
            ([], None) | (["after"], Some(_)) => Gap::After,
            (["within"], Some(_)) => Gap::Within,
            _ => bail!("{text}: two troubles come `within` a lease, or one `after` the other"),
        };
        let shape = Shape {
            nodes: nodes.parse().map_err(anyhow::Error::msg)?,
            profile,
            family: family(told).map_err(anyhow::Error::msg)?,
            gap,
        };
        let case = Self {
            shape,
            first,
            second,
            seed: seed.parse().context("a case's seed")?,
        };
        ensure!(
            fits(shape.nodes, first, second),
            "{text}: that cannot be played"
        );
        Ok(case)
    }
}

/// Troubles that can befall two servers at once.
fn comes_twice(trouble: Trouble) -> bool {
    matches!(
        trouble,
        Trouble::PowerCut
            | Trouble::ServiceKilled
            | Trouble::ServiceHung
            | Trouble::DaemonFrozen
            | Trouble::DaemonKilled
            | Trouble::WorkerKilled
            | Trouble::MachineFrozen
            | Trouble::CutBoth
            | Trouble::CutFrom
            | Trouble::CutTo
            | Trouble::Loss
            | Trouble::Flapping
            | Trouble::DiskFull
            | Trouble::DaemonStopped
    )
}

/// Whether these can be played on so many nodes.
pub(crate) fn fits(nodes: Nodes, first: Trouble, second: Option<Trouble>) -> bool {
    let witness = |trouble: Trouble| trouble.whom() != Whom::Witness || nodes.witness();
    if !witness(first) || !second.is_none_or(witness) {
        return false;
    }
    let Some(second) = second else { return true };
    if first.is_alone() || second.is_alone() {
        return false;
    }
    if first == second {
        return comes_twice(first);
    }
    // A process that waits for a frozen disk cannot be killed: no power cut, no old copy.
    let has = |trouble| first == trouble || second == trouble;
    !(has(Trouble::DiskFrozen) && (has(Trouble::AllRestart) || has(Trouble::OldState)))
}

/// What a design is made of.
#[derive(Clone, Debug)]
pub(crate) struct Factors {
    pub(crate) troubles: Vec<Trouble>,
    pub(crate) nodes: Vec<Nodes>,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) families: Vec<Family>,
}

/// One value of one factor. Which of two troubles comes first is drawn, so it makes no
/// difference which of them it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Trouble(Trouble),
    Nodes(Nodes),
    Profile(Profile),
    Family(Family),
    Gap(Gap),
}

/// Two that meet; the lesser first.
type Pair = (Level, Level);

/// All that meets in a case.
fn meets(case: &Case) -> Vec<Pair> {
    let Shape {
        nodes,
        profile,
        family,
        gap,
    } = case.shape;
    let mut levels: Vec<Level> = case.troubles().map(Level::Trouble).collect();
    levels.extend([
        Level::Nodes(nodes),
        Level::Profile(profile),
        Level::Family(family),
    ]);
    // How soon the second one follows is nothing where there is none.
    levels.extend(case.second.map(|_| Level::Gap(gap)));
    let mut pairs = Vec::new();
    for (index, one) in levels.iter().enumerate() {
        for other in &levels[index + 1..] {
            pairs.push((*one.min(other), *one.max(other)));
        }
    }
    pairs
}

/// A design: its cases in the order in which they are to be played, the most telling first.
#[derive(Clone, Debug)]
pub(crate) struct Design {
    pub(crate) cases: Vec<Case>,
    wanted: BTreeSet<Pair>,
}

/// How many of the pairs of troubles left are thought of for the next case: more would hardly
/// choose better, and take as much longer.
const CANDIDATES: usize = 8;

/// How many cases in a row have one shape, where they may: as many as are played on one cluster
/// ([`super::WARM_CASES`]).
const KEPT: usize = super::WARM_CASES;

/// A shape by chance; more seldom two nodes alone, which mostly have to be mute.
fn draw_shape(shapes: &[Shape], chance: &mut Chance) -> Option<Shape> {
    let mut draw = || shapes.get(chance.below(shapes.len())).copied();
    let first = draw()?;
    if first.nodes == Nodes::Two {
        draw()
    } else {
        Some(first)
    }
}

impl Factors {
    fn shapes(&self) -> Vec<Shape> {
        let mut all = Vec::new();
        for nodes in &self.nodes {
            for profile in &self.profiles {
                for family in &self.families {
                    for gap in [Gap::Within, Gap::After] {
                        all.push(Shape {
                            nodes: *nodes,
                            profile: *profile,
                            family: *family,
                            gap,
                        });
                    }
                }
            }
        }
        all
    }

    /// Every two troubles that can be played on some shape.
    fn couples(&self) -> Vec<(Trouble, Trouble)> {
        let mut all = Vec::new();
        let meet: Vec<&Trouble> = self.troubles.iter().filter(|one| !one.is_alone()).collect();
        for (index, first) in meet.iter().enumerate() {
            for second in &meet[index..] {
                if self
                    .nodes
                    .iter()
                    .any(|nodes| fits(*nodes, **first, Some(**second)))
                {
                    all.push((**first, **second));
                }
            }
        }
        all
    }

    /// Every pair that some case can have.
    fn wanted(&self) -> BTreeSet<Pair> {
        let shapes = self.shapes();
        let mut wanted = BTreeSet::new();
        for (first, second) in self.couples() {
            for shape in &shapes {
                if fits(shape.nodes, first, Some(second)) {
                    let second = Some(second);
                    wanted.extend(meets(&Case {
                        shape: *shape,
                        first,
                        second,
                        seed: 0,
                    }));
                }
            }
        }
        wanted
    }

    /// A design in which every pair that can meet does.
    pub(crate) fn design(&self, seed: u64) -> Design {
        let mut chance = Chance(seed);
        let wanted = self.wanted();
        let (mut open, shapes) = (wanted.clone(), self.shapes());
        let (mut left, mut cases) = (self.couples(), Vec::new());
        chance.shuffle(&mut left);
        let mut favourite = None;
        while !left.is_empty() {
            // Where several would do as well, one shape is kept for a while: its cluster is there.
            if cases.len().is_multiple_of(KEPT) {
                favourite = draw_shape(&shapes, &mut chance);
            }
            let best = left
                .iter()
                .take(CANDIDATES)
                .enumerate()
                .flat_map(|(index, couple)| {
                    shapes.iter().map(move |shape| (index, *couple, *shape))
                });
            let best = best
                .filter(|(_, (first, second), shape)| fits(shape.nodes, *first, Some(*second)))
                .map(|(index, (first, second), shape)| {
                    let case = Case {
                        shape,
                        first,
                        second: Some(second),
                        seed: 0,
                    };
                    let new = meets(&case)
                        .iter()
                        .filter(|pair| open.contains(pair))
                        .count();
                    (new, favourite == Some(shape), index, case)
                })
                .max_by_key(|(new, same, index, _)| (*new, *same, usize::MAX - index));
            let Some((_, _, index, mut case)) = best else {
                break;
            };
            left.remove(index);
            for pair in meets(&case) {
                open.remove(&pair);
            }
            if let Some(second) = case.second
                && chance.coin()
            {
                (case.first, case.second) = (second, Some(case.first));
            }
            case.seed = seed_of(&mut chance);
            cases.push(case);
        }
        Design { cases, wanted }
    }

    /// The pairs that the issue names: the witness gone, then the active; and two failures within
    /// one lease. They come first.
    pub(crate) fn named(&self, seed: u64) -> Vec<Case> {
        const NAMED: [(Trouble, Trouble, Gap); 2] = [
            (Trouble::WitnessDeath, Trouble::PowerCut, Gap::After),
            (Trouble::PowerCut, Trouble::StandbyDeath, Gap::Within),
        ];
        let mut chance = Chance(seed);
        let mut cases = Vec::new();
        for shape in self.shapes() {
            for (first, second, gap) in NAMED {
                let second = Some(second);
                let asked = |trouble| self.troubles.contains(&trouble);
                let here = gap == shape.gap && fits(shape.nodes, first, second);
                if here && asked(first) && second.is_some_and(asked) {
                    cases.push(Case {
                        shape,
                        first,
                        second,
                        seed: seed_of(&mut chance),
                    });
                }
            }
        }
        cases
    }

    /// Single troubles: round after round, each trouble on one shape after the other, so that
    /// the first rounds have all troubles and all values of the shape.
    pub(crate) fn singles(&self, rounds: usize, seed: u64) -> Vec<Case> {
        let mut chance = Chance(seed);
        let mut shapes = self.shapes();
        shapes.retain(|shape| shape.gap == Gap::After);
        chance.shuffle(&mut shapes);
        let mut cases = Vec::new();
        for round in 0..rounds {
            let mut these: Vec<Case> = Vec::new();
            for (index, first) in self.troubles.iter().enumerate() {
                let fit: Vec<&Shape> = shapes
                    .iter()
                    .filter(|shape| fits(shape.nodes, *first, None))
                    .collect();
                if fit.is_empty() {
                    continue;
                }
                let shape = *fit[(round + index) % fit.len()];
                let seed = seed_of(&mut chance);
                these.push(Case {
                    shape,
                    first: *first,
                    second: None,
                    seed,
                });
            }
            // Cases of one shape in a row can be played on one cluster.
            these.sort_by_key(|case| case.shape);
            cases.append(&mut these);
        }
        cases
    }
}

/// Seeds are typed by people: six digits are enough.
fn seed_of(chance: &mut Chance) -> u64 {
    chance.next() % 1_000_000
}

impl Design {
    /// How many pairs meet in `played`, of how many that can.
    pub(crate) fn covered<'a>(&self, played: impl Iterator<Item = &'a Case>) -> (usize, usize) {
        let met: BTreeSet<Pair> = played.flat_map(meets).collect();
        (self.wanted.intersection(&met).count(), self.wanted.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Factors {
        Factors {
            troubles: trouble::ALL.to_vec(),
            nodes: vec![Nodes::Two, Nodes::Three, Nodes::Five],
            profiles: vec![Profile::Balanced, Profile::Fast],
            families: vec![Family::Four, Family::Six],
        }
    }

    /// Counted here by every possible case, not by what the generator thinks is wanted.
    #[test]
    fn every_pair_that_can_meet_does() {
        let factors = all();
        let design = factors.design(7);
        let met: BTreeSet<Pair> = design.cases.iter().flat_map(meets).collect();
        for first in trouble::ALL {
            for second in trouble::ALL {
                for shape in factors.shapes() {
                    if !fits(shape.nodes, first, Some(second)) {
                        continue;
                    }
                    let case = Case {
                        shape,
                        first,
                        second: Some(second),
                        seed: 0,
                    };
                    for pair in meets(&case) {
                        assert!(met.contains(&pair), "{pair:?} never meet");
                    }
                }
            }
        }
        let (covered, wanted) = design.covered(design.cases.iter());
        assert_eq!(covered, wanted);
        assert!(wanted > 400, "{wanted}");
    }

    #[test]
    fn there_is_one_case_for_each_two_troubles_and_none_that_cannot_be_played() {
        let factors = all();
        let design = factors.design(7);
        assert_eq!(design.cases.len(), factors.couples().len());
        for case in &design.cases {
            assert!(fits(case.shape.nodes, case.first, case.second), "{case}");
        }
    }

    /// What is not a pair of troubles meets long before the end: a run that is cut short has it.
    #[test]
    fn shapes_meet_everything_early() {
        let design = all().design(3);
        let half = design.cases.len() / 2;
        let met: BTreeSet<Pair> = design.cases[..half].iter().flat_map(meets).collect();
        let lacking = design.wanted.difference(&met);
        let of_shapes = lacking.filter(|(_, other)| !matches!(other, Level::Trouble(_)));
        assert_eq!(of_shapes.count(), 0);
    }

    #[test]
    fn equal_seeds_make_equal_designs() {
        let factors = all();
        assert_eq!(factors.design(5).cases, factors.design(5).cases);
        assert_ne!(factors.design(5).cases, factors.design(6).cases);
        assert_eq!(factors.singles(3, 5), factors.singles(3, 5));
    }

    #[test]
    fn twelve_rounds_of_single_troubles_have_every_trouble_on_every_number_of_nodes() {
        // Twelve shapes, of which each round takes the next: all of them after twelve.
        let cases = all().singles(12, 1);
        for first in trouble::ALL {
            for nodes in [Nodes::Two, Nodes::Three, Nodes::Five] {
                let played = |case: &Case| case.first == first && case.shape.nodes == nodes;
                assert_eq!(
                    cases.iter().any(played),
                    fits(nodes, first, None),
                    "{first}"
                );
            }
        }
    }

    #[test]
    fn a_case_is_found_again_by_its_name() {
        let factors = all();
        let mut cases = factors.design(11).cases;
        cases.extend(factors.singles(2, 11));
        for case in cases {
            assert_eq!(case.to_string().parse::<Case>().expect("a case"), case);
        }
        assert!("2/fast/4/witness-death/1".parse::<Case>().is_err());
        assert!("3/fast/4/power-cut+loss/1".parse::<Case>().is_err());
        assert!("4/fast/4/power-cut/1".parse::<Case>().is_err());
    }
}
