//! What each prober said of each check last, laid out so that thousands of checks can be gone
//! through with every report: by their place in the file, not by their names.

use core::time::Duration;
use std::collections::BTreeMap;

use super::{CheckReport, CheckState, Measure, answer_age_max};
use crate::Moment;
use crate::names::{CheckName, GroupId, NodeId};
use crate::topology::{CheckPolicy, Topology};

/// How long a prober that tells its checks in turns may take to come round, a lost report
/// included. What it said last is taken for its word so much longer.
pub const ROUND_MAX: Duration = Duration::from_millis(2_000);

/// What one prober said of one check of one node.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) state: CheckState,
    /// How old that was when it was heard.
    age: Duration,
    silent: Option<Duration>,
    heard: Moment,
    /// It is told in turns.
    in_turns: bool,
    pub(super) detail: String,
    pub(super) measures: Vec<Measure>,
}

impl Said {
    pub(super) fn age(&self, now: Moment) -> Duration {
        self.age + now.since(self.heard)
    }

    /// How old it may become before it says nothing any more.
    pub(super) fn age_max(&self, policy: &CheckPolicy) -> Duration {
        let turns = if self.in_turns {
            ROUND_MAX
        } else {
            Duration::ZERO
        };
        answer_age_max(policy) + turns
    }

    /// The last moment at which it still says something.
    pub(super) fn stale_after(&self, policy: &CheckPolicy) -> Moment {
        self.heard + self.age_max(policy).saturating_sub(self.age)
    }

    /// For how long nothing has been answered at all.
    pub(super) fn silence(&self, now: Moment) -> Option<Duration> {
        self.silent.map(|silent| silent + now.since(self.heard))
    }
}

/// The checks of one group on one node, in the order of the file: one place for each.
pub(super) type Row = Vec<Option<Said>>;

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Sayings {
    /// The checks of each group by name, with their places in the file.
    places: BTreeMap<GroupId, Vec<(CheckName, usize)>>,
    rows: BTreeMap<NodeId, BTreeMap<(GroupId, NodeId), Row>>,
}

impl Sayings {
    pub(super) fn new(topology: &Topology) -> Self {
        let places = topology.groups.values().map(|group| {
            let names = group.checks.iter().map(|policy| policy.name.clone());
            let mut places: Vec<_> = names.zip(0..).collect();
            places.sort();
            (group.id, places)
        });
        Self {
            places: places.collect(),
            rows: BTreeMap::new(),
        }
    }

    /// The place of a check in the file.
    pub(super) fn index(&self, group: GroupId, check: &CheckName) -> Option<usize> {
        let places = self.places.get(&group)?;
        let at = places.binary_search_by(|(name, _)| name.cmp(check)).ok()?;
        Some(places[at].1)
    }

    /// What each prober has said of a group on a node.
    pub(super) fn rows(
        &self,
        group: GroupId,
        judged: NodeId,
    ) -> impl Iterator<Item = (NodeId, &Row)> {
        let rows = self.rows.iter();
        rows.filter_map(move |(prober, rows)| Some((*prober, rows.get(&(group, judged))?)))
    }

    pub(super) fn forget(&mut self, prober: NodeId) {
        self.rows.remove(&prober);
    }

    /// Takes in what a report tells of checks: of all that the prober asks, or of some.
    pub(super) fn hear(
        &mut self,
        now: Moment,
        prober: NodeId,
        checks: Vec<CheckReport>,
        whole: bool,
    ) {
        let mut before = match whole {
            true => self.rows.remove(&prober).unwrap_or_default(),
            false => BTreeMap::new(),
        };
        for one in checks {
            // Another configuration may have others: they concern nobody here.
            let Some(index) = self.index(one.group, &one.check) else {
                continue;
            };
            let length = self.places.get(&one.group).map_or(0, Vec::len);
            let key = (one.group, one.judged);
            let rows = self.rows.entry(prober).or_default();
            let row = rows.entry(key).or_insert_with(|| vec![None; length]);
            let known = match before.get_mut(&key) {
                Some(row) => row[index].take(),
                None => row[index].take(),
            };
            row[index] = Some(said(now, one, known, !whole));
        }
    }
}

fn said(now: Moment, one: CheckReport, before: Option<Said>, in_turns: bool) -> Said {
    let (detail, measures) = match before.filter(|_| one.terse) {
        Some(before) => (before.detail, before.measures),
        None => (one.detail, one.measures),
    };
    Said {
        state: one.state,
        age: one.age,
        silent: one.silent,
        heard: now,
        in_turns,
        detail,
        measures,
    }
}
