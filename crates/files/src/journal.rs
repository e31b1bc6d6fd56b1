//! What has changed on the holder and is not known to be on a replica.
//!
//! A journal of *where to look*: for each replica the paths that are owed to it, each once however
//! often it changed, in the order in which they became so. What is there is read when it is sent.
//! So whatever the notices of the kernel leave out, join or turn around costs at most that a path is
//! sent twice; and what a journal can come to is bounded by the number of paths.
//!
//! ```text
//!                noted               next                    done, of the newest change
//!     (nothing) -------> waiting ----------> on its way ----------------------------------> (nothing)
//!                          ^  ^ failed: later  |   | done, but it has changed since
//!                          |  +----------------+   |
//!                          +-----------------------+
//!
//!     too many paths, or notices lost: behind, until everything has been compared
//! ```
//!
//! **Renames.** A name that moved is owed under its new path, together with where the replica has
//! it: so a directory of gigabytes costs one call there. That is only a hint. If it is no longer
//! true when it is sent, the replica says so, and the content is sent. Everything else that is owed
//! below a moved directory moves with it, and comes after it.
//!
//! **Ways.** Small things go one after the other over one stream, in order; large ones beside it, as
//! long as they take. What is on its way over one of them holds back what is related (the path
//! itself, all above and below it) on the other.
//!
//! Each replica is owed for itself: one that is slow, full or dead delays no other.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use evenkeel_core::{Moment, NodeId};

use crate::path::SharePath;

/// The number of a change in one journal. Only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// Bounds, and how patient it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many paths may be owed to one replica. One more, and it is behind.
    pub paths: usize,
    /// How long a file that is still being written rests after a write before it is sent all
    /// the same: a log file is never closed.
    pub settle: Duration,
    /// The least time between two sendings of one path that keeps changing.
    pub apart: Duration,
    /// How soon what failed is tried again; twice as long each time, up to the second.
    pub retry: (Duration, Duration),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            paths: 500_000,
            settle: Duration::from_secs(1),
            apart: Duration::from_millis(200),
            retry: (Duration::from_millis(100), Duration::from_secs(30)),
        }
    }
}

/// How many paths that were sent a moment ago are remembered for [`Limits::apart`]. Beyond, the
/// oldest are forgotten: they may be sent again sooner.
const RESTING_MAX: usize = 10_000;

/// How a path was noticed to have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// It is a file that was written and not closed.
    pub open: bool,
    /// All that is below it has to be looked at, too, if it is a directory. So it is wherever the
    /// name came or went: what the replica has there may be what had the name before, of which
    /// nobody can tell any more what was in it when it went.
    pub whole: bool,
}

/// Over which way something is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In order, with all the others.
    Stream,
    /// Beside it, for as long as it takes.
    Bulk,
}

/// What to look at and send next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Where.
    pub path: SharePath,
    /// Its newest change.
    pub version: Seq,
    /// Where the replica has it, as far as is known here.
    pub from: Option<SharePath>,
    /// Whether all that is below has to be looked at.
    pub whole: bool,
}

/// How far a replica lags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Paths that are owed.
    pub paths: usize,
    /// How many of them have failed at least once.
    pub failing: usize,
    /// How long the oldest change has been owed.
    pub age: Duration,
    /// Whether everything has to be compared, so that nothing is known of the rest.
    pub behind: bool,
}

/// Nothing is known of what a replica lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The number of this fall: a comparison that was begun for it is worth nothing after another.
    pub fall: Seq,
    /// Since when.
    pub since: Moment,
    /// For people.
    pub why: &'static str,
}

/// The journal of one share.
#[derive(Clone, Debug)]
pub struct Journal {
    limits: Limits,
    last: Seq,
    replicas: BTreeMap<NodeId, Replica>,
}

#[derive(Clone, Debug, Default)]
struct Replica {
    owed: BTreeMap<SharePath, Owed>,
    /// What may be sent now, in order.
    ready: BTreeMap<Seq, SharePath>,
    /// What may be sent later, by when.
    later: BTreeMap<(Moment, Seq), SharePath>,
    /// From where what is owed has moved, and to where.
    origins: BTreeSet<(SharePath, SharePath)>,
    /// What is on its way, also where it is no longer owed like that.
    flights: BTreeMap<SharePath, (Seq, Way)>,
    /// How many are owed since a moment.
    ages: BTreeMap<Moment, usize>,
    failing: usize,
    /// Sent before, and not again until then: by path, and by time.
    resting: BTreeMap<SharePath, Moment>,
    rests: VecDeque<(Moment, SharePath)>,
    /// Owed and not told of yet.
    fresh: BTreeSet<SharePath>,
    behind: Option<Behind>,
}

#[derive(Clone, Debug)]
struct Owed {
    /// Where it stands in the order.
    place: Seq,
    version: Seq,
    /// When it changed first of all that the replica lacks.
    since: Moment,
    from: Option<SharePath>,
    whole: bool,
    stage: Stage,
    /// It changed while it was on its way: when first, and when it may go again.
    again: Option<(Moment, Moment)>,
    tries: u32,
    why: Option<String>,
}

/// Where it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ready,
    Later(Moment),
    Flight(Seq),
}

impl Journal {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            last: Seq::default(),
            replicas: BTreeMap::new(),
        }
    }

    /// A replica to which changes are owed from now on. It is behind: nothing is known of what it
    /// has.
    pub fn add(&mut self, replica: NodeId, now: Moment) {
        let fall = next(&mut self.last);
        let new = self.replicas.entry(replica).or_default();
        new.fall_behind(fall, now, "it is new");
    }

    /// Nothing is owed to it any more.
    pub fn remove(&mut self, replica: NodeId) {
        self.replicas.remove(&replica);
    }

    /// Something at this path changed, or may have.
    pub fn note(&mut self, path: &SharePath, notice: Notice, now: Moment) {
        let limits = self.limits;
        for replica in self.replicas.values_mut() {
            let version = next(&mut self.last);
            replica.note(path, notice, version, &limits, now);
        }
    }

    /// The same for one replica: it differs there.
    pub fn note_for(&mut self, replica: NodeId, path: &SharePath, notice: Notice, now: Moment) {
        if let Some(replica) = self.replicas.get_mut(&replica) {
            let version = next(&mut self.last);
            replica.note(path, notice, version, &self.limits, now);
        }
    }

    /// What had the path `from` has the path `to`.
    pub fn moved(&mut self, from: &SharePath, to: &SharePath, directory: bool, now: Moment) {
        if from == to || from.is_root() || to.is_root() {
            return;
        }
        let limits = self.limits;
        for replica in self.replicas.values_mut() {
            replica.move_owed(from, to, directory, now, &mut self.last);
            replica.bound(&limits, self.last, now);
        }
    }

    /// Notices are missing: everything has to be compared, on every replica.
    pub fn lose(&mut self, now: Moment) {
        let fall = next(&mut self.last);
        for replica in self.replicas.values_mut() {
            replica.fall_behind(fall, now, "notices of changes were lost");
        }
    }

    /// Whether everything has to be compared on a replica. Connections over which something is on
    /// its way to it are closed first, and [`Self::dropped`] is called.
    pub fn behind(&self, replica: NodeId) -> Option<Behind> {
        self.replicas.get(&replica)?.behind
    }

    /// All that a replica lacked when this fall was told is there, or is owed path by path. Nothing
    /// comes of it if it fell once more since.
    pub fn compared(&mut self, replica: NodeId, fall: Seq) {
        if let Some(replica) = self.replicas.get_mut(&replica)
            && replica.behind.is_some_and(|behind| behind.fall == fall)
        {
            replica.behind = None;
        }
    }

    /// Paths that are owed to a replica and of which it has not been told, each once: it has to
    /// know before any of them is sent.
    pub fn announce(&mut self, replica: NodeId) -> Vec<SharePath> {
        self.replicas
            .get_mut(&replica)
            .map(|replica| core::mem::take(&mut replica.fresh).into_iter().collect())
            .unwrap_or_default()
    }

    /// What to look at and send next to a replica; nothing if nothing is due, or if everything has
    /// to be compared first. It waits until [`Self::sent`] says that it is on its way.
    pub fn next(&mut self, replica: NodeId, now: Moment) -> Option<Work> {
        let replica = self.replicas.get_mut(&replica)?;
        if replica.behind.is_some() {
            return None;
        }
        replica.wake(now);
        let free = |path: &&SharePath| {
            let from = replica.owed[*path].from.as_ref();
            !replica.related(path, Way::Bulk)
                && !from.is_some_and(|from| replica.related(from, Way::Bulk))
        };
        let path = replica.ready.values().find(free)?;
        let owed = &replica.owed[path];
        Some(Work {
            path: path.clone(),
            version: owed.version,
            from: owed.from.clone(),
            whole: owed.whole,
        })
    }

    /// Whether something may go beside the stream now: nothing related is on its way over it.
    pub fn may_go_beside(&self, replica: NodeId, path: &SharePath) -> bool {
        self.replicas
            .get(&replica)
            .is_some_and(|replica| !replica.related(path, Way::Stream))
    }

    /// When something will be due that is not due yet; nothing if that takes a change or an answer.
    pub fn wakes(&self, replica: NodeId) -> Option<Moment> {
        let (at, _) = self.replicas.get(&replica)?.later.keys().next()?;
        Some(*at)
    }

    /// This was looked at and is on its way.
    pub fn sent(&mut self, replica: NodeId, work: &Work, way: Way) {
        let Some(replica) = self.replicas.get_mut(&replica) else {
            return;
        };
        if replica.owed.contains_key(&work.path) {
            replica
                .flights
                .insert(work.path.clone(), (work.version, way));
            replica.put(&work.path, Stage::Flight(work.version));
            replica.overtake(work);
        }
    }

    /// The replica has it. With what was below it, if that was asked for: that is owed for itself.
    pub fn done(&mut self, replica: NodeId, path: &SharePath, version: Seq, now: Moment) {
        let limits = self.limits;
        let Some(replica) = self.replicas.get_mut(&replica) else {
            return;
        };
        let Some(owed) = replica.landed(path, version) else {
            return;
        };
        let rested = now + limits.apart;
        if owed.version == version {
            replica.settle(path);
        } else {
            let failed = core::mem::take(&mut owed.tries) > 0;
            owed.why = None;
            let (since, ready) = owed.again.take().unwrap_or((now, now));
            let before = core::mem::replace(&mut owed.since, since);
            replica.failing -= usize::from(failed);
            replica.count(since);
            replica.uncount(before);
            replica.set_from(path, None);
            replica.put(path, Stage::Later(ready.max(rested)));
        }
        replica.rest(path, now, rested);
    }

    /// The replica does not have it where it was said to be: its content has to be sent.
    pub fn not_there(&mut self, replica: NodeId, path: &SharePath, version: Seq) {
        let Some(replica) = self.replicas.get_mut(&replica) else {
            return;
        };
        if replica.landed(path, version).is_some() {
            replica.set_from(path, None);
            replica.put(path, Stage::Ready);
        }
    }

    /// It could not be read here, or not be made there: it is tried again later.
    pub fn failed(
        &mut self,
        replica: NodeId,
        path: &SharePath,
        version: Seq,
        why: String,
        now: Moment,
    ) {
        let (least, most) = self.limits.retry;
        let Some(replica) = self.replicas.get_mut(&replica) else {
            return;
        };
        let Some(owed) = replica.landed(path, version) else {
            return;
        };
        let pause = least.saturating_mul(1 << owed.tries.min(16)).min(most);
        owed.tries = owed.tries.saturating_add(1);
        owed.why = Some(why);
        if owed.tries == 1 {
            replica.failing += 1;
        }
        replica.put(path, Stage::Later(now + pause));
    }

    /// The connections to a replica are gone, and nothing comes over them any more: what was on its
    /// way has arrived or not.
    pub fn dropped(&mut self, replica: NodeId) {
        let Some(replica) = self.replicas.get_mut(&replica) else {
            return;
        };
        for path in core::mem::take(&mut replica.flights).into_keys() {
            let stage = replica.owed.get(&path).map(|owed| owed.stage);
            if matches!(stage, Some(Stage::Flight(_))) {
                replica.put(&path, Stage::Ready);
            }
        }
        // Who answers next may be another life, which has been told nothing.
        replica.fresh = replica.owed.keys().cloned().collect();
    }

    /// How far a replica lags.
    pub fn lag(&self, replica: NodeId, now: Moment) -> Lag {
        let Some(replica) = self.replicas.get(&replica) else {
            return Lag::default();
        };
        let oldest = replica.ages.keys().next().copied();
        let behind = replica.behind.map(|behind| behind.since);
        let oldest = match (oldest, behind) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Lag {
            paths: replica.owed.len(),
            failing: replica.failing,
            age: oldest.map_or(Duration::ZERO, |oldest| now.since(oldest)),
            behind: replica.behind.is_some(),
        }
    }

    /// What has failed and waits for another try, with the last reason.
    pub fn failures(&self, replica: NodeId) -> impl Iterator<Item = (&SharePath, &str)> {
        let replica = self.replicas.get(&replica);
        let owed = replica.into_iter().flat_map(|replica| &replica.owed);
        owed.filter_map(|(path, owed)| Some((path, owed.why.as_deref()?)))
    }
}

fn next(last: &mut Seq) -> Seq {
    last.0 += 1;
    *last
}

impl Replica {
    /// See [`Journal::note`].
    fn note(
        &mut self,
        path: &SharePath,
        notice: Notice,
        version: Seq,
        limits: &Limits,
        now: Moment,
    ) {
        let ready = if notice.open {
            now + limits.settle
        } else {
            now
        };
        let rested = self.resting.get(path).copied().unwrap_or(now);
        let owed = self.owe(path, version, now, ready.max(rested), now);
        owed.whole |= notice.whole;
        self.bound(limits, version, now);
    }

    /// Owes it a path, as of this version, from `ready` on; since `since`, if it was not owed.
    fn owe(
        &mut self,
        path: &SharePath,
        version: Seq,
        since: Moment,
        ready: Moment,
        now: Moment,
    ) -> &mut Owed {
        let Some(owed) = self.owed.get_mut(path) else {
            self.fresh.insert(path.clone());
            self.count(since);
            let owed = Owed {
                place: version,
                version,
                since,
                from: None,
                whole: false,
                stage: Stage::Ready,
                again: None,
                tries: 0,
                why: None,
            };
            self.owed.insert(path.clone(), owed);
            let stage = if ready > now {
                Stage::Later(ready)
            } else {
                Stage::Ready
            };
            return self.put(path, stage);
        };
        owed.version = version;
        let sooner = match owed.stage {
            Stage::Flight(_) => {
                let (_, known) = owed.again.get_or_insert((now, ready));
                *known = ready.min(*known);
                false
            }
            // What failed is not tried sooner because it changed again.
            Stage::Later(at) => owed.tries == 0 && ready < at,
            Stage::Ready => false,
        };
        if sooner {
            return self.put(path, Stage::Later(ready));
        }
        self.owed.get_mut(path).expect("it was there")
    }

    /// Files what is owed at a path anew.
    fn put(&mut self, path: &SharePath, stage: Stage) -> &mut Owed {
        let owed = self.owed.get_mut(path).expect("only what is owed is filed");
        match core::mem::replace(&mut owed.stage, stage) {
            Stage::Ready => {
                self.ready.remove(&owed.place);
            }
            Stage::Later(at) => {
                self.later.remove(&(at, owed.place));
            }
            Stage::Flight(_) => {}
        }
        match stage {
            Stage::Ready => {
                self.ready.insert(owed.place, path.clone());
            }
            Stage::Later(at) => {
                self.later.insert((at, owed.place), path.clone());
            }
            Stage::Flight(_) => {}
        }
        owed
    }

    /// What was to be sent later and is due now.
    fn wake(&mut self, now: Moment) {
        while let Some(((at, _), path)) = self.later.first_key_value()
            && *at <= now
        {
            let path = path.clone();
            self.put(&path, Stage::Ready);
        }
    }

    /// See [`Journal::moved`].
    fn move_owed(
        &mut self,
        from: &SharePath,
        to: &SharePath,
        directory: bool,
        now: Moment,
        last: &mut Seq,
    ) {
        let before = self.settle(from);
        let replaced = |path: &SharePath| path == to || path.is_below(to);
        let (origin, moved_before) = match &before {
            // It is not there either yet: it is still where it was before.
            Some(owed) if owed.is_waiting() && owed.from.is_some() => (owed.from.clone(), true),
            // Its content is owed anyway: also if what is on its way is an older one.
            Some(owed) if !directory && (owed.is_waiting() || owed.again.is_some()) => {
                (None, false)
            }
            _ => (Some(from.clone()), false),
        };
        // What the move replaces is no origin any more.
        let origin = origin.filter(|origin| !replaced(origin));
        // What is below comes after the move, by its new name, also what was noted by that before.
        let mut below = Vec::new();
        for path in self.below(from) {
            let owed = self.settle(&path);
            // Where that is too long for a path, the whole directory is looked at all the same.
            below.extend(owed.zip(path.moved(from, to)));
        }
        for path in self.below(to) {
            let owed = self.settle(&path);
            below.extend(owed.map(|owed| (owed, path)));
        }
        // In their order: what moved from one path before that is settled comes first.
        below.sort_by_key(|(owed, _)| owed.place);
        let there = self.settle(to).map_or(now, |owed| owed.since);
        let since = before.map_or(now, |owed| owed.since).min(there);
        self.owe(to, next(last), since, now, now).whole = directory;
        self.set_from(to, origin.clone());
        for (was, path) in &below {
            let came = was.from.as_ref().filter(|came| !replaced(came));
            let came = came.map(|came| came.moved(from, to).unwrap_or_else(|| came.clone()));
            self.owe_again(was, path, came, now, last);
        }
        // What became of the places from which these came is told after that, as before; and so on.
        let mut origins: Vec<SharePath> =
            below.into_iter().filter_map(|(was, _)| was.from).collect();
        origins.extend(origin.filter(|_| moved_before));
        let mut done = BTreeSet::new();
        while let Some(came) = origins.pop() {
            let waits = self.owed.get(&came).is_some_and(Owed::is_waiting);
            if waits
                && done.insert(came.clone())
                && let Some(was) = self.settle(&came)
            {
                self.owe_again(&was, &came, was.from.clone(), now, last);
                origins.extend(was.from);
            }
        }
        // Another thing may have come there meanwhile.
        self.owe(from, next(last), now, now, now).whole = true;
    }

    /// Owes what was owed before, in a new place.
    fn owe_again(
        &mut self,
        was: &Owed,
        path: &SharePath,
        from: Option<SharePath>,
        now: Moment,
        last: &mut Seq,
    ) {
        let ready = match was.stage {
            Stage::Later(at) => at,
            Stage::Ready | Stage::Flight(_) => now,
        };
        let owed = self.owe(path, next(last), was.since, ready, now);
        owed.whole |= was.whole;
        self.set_from(path, from);
    }

    /// From where a path that is owed has moved.
    fn set_from(&mut self, path: &SharePath, from: Option<SharePath>) {
        let Some(owed) = self.owed.get_mut(path) else {
            return;
        };
        if let Some(before) = core::mem::replace(&mut owed.from, from.clone()) {
            self.origins.remove(&(before, path.clone()));
        }
        self.origins.extend(from.map(|from| (from, path.clone())));
    }

    /// Something is sent to a path: what was to be moved away from there, or from below, and has not
    /// been, may be another thing by now. But what was moved there took along what is below it.
    fn overtake(&mut self, work: &Work) {
        let Some(place) = self.owed.get(&work.path).map(|owed| owed.place) else {
            return;
        };
        let is_old = |from: &SharePath, to: &SharePath| {
            work.from.is_none() || *from == work.path || self.owed[to].place < place
        };
        let least = (work.path.clone(), SharePath::root());
        let moved: Vec<SharePath> = self
            .origins
            .range(least..)
            .take_while(|(from, _)| *from == work.path || from.is_below(&work.path))
            .filter(|(from, to)| *to != work.path && is_old(from, to))
            .map(|(_, to)| to.clone())
            .collect();
        for to in moved {
            self.set_from(&to, None);
        }
    }

    fn below(&self, directory: &SharePath) -> Vec<SharePath> {
        use core::ops::Bound::{Excluded, Unbounded};
        let after = self
            .owed
            .range::<SharePath, _>((Excluded(directory), Unbounded));
        after
            .map(|(path, _)| path)
            .take_while(|path| path.is_below(directory))
            .cloned()
            .collect()
    }

    /// Nothing is owed at this path any more. What is on its way stays so.
    fn settle(&mut self, path: &SharePath) -> Option<Owed> {
        let owed = self.owed.remove(path)?;
        self.fresh.remove(path);
        if let Some(from) = &owed.from {
            self.origins.remove(&(from.clone(), path.clone()));
        }
        match owed.stage {
            Stage::Ready => {
                self.ready.remove(&owed.place);
            }
            Stage::Later(at) => {
                self.later.remove(&(at, owed.place));
            }
            Stage::Flight(_) => {}
        }
        self.uncount(owed.since);
        self.failing -= usize::from(owed.tries > 0);
        Some(owed)
    }

    fn count(&mut self, since: Moment) {
        *self.ages.entry(since).or_default() += 1;
    }

    fn uncount(&mut self, since: Moment) {
        if let Some(count) = self.ages.get_mut(&since) {
            *count -= 1;
            if *count == 0 {
                self.ages.remove(&since);
            }
        }
    }

    /// An answer to this version. Nothing if it is not owed like that any more.
    fn landed(&mut self, path: &SharePath, version: Seq) -> Option<&mut Owed> {
        if self
            .flights
            .get(path)
            .is_some_and(|(sent, _)| *sent == version)
        {
            self.flights.remove(path);
        }
        let owed = self.owed.get_mut(path)?;
        (owed.stage == Stage::Flight(version)).then_some(owed)
    }

    /// Whether something is on its way over `way` that is at this path, above it or below it.
    fn related(&self, path: &SharePath, way: Way) -> bool {
        self.flights.iter().any(|(other, (_, by))| {
            *by == way && (other == path || other.is_below(path) || path.is_below(other))
        })
    }

    fn rest(&mut self, path: &SharePath, now: Moment, until: Moment) {
        self.resting.insert(path.clone(), until);
        self.rests.push_back((until, path.clone()));
        while let Some((until, path)) = self.rests.front()
            && (*until <= now || self.rests.len() > RESTING_MAX)
        {
            // It may have been sent again since, and rest for longer.
            if self.resting.get(path) == Some(until) {
                self.resting.remove(path);
            }
            self.rests.pop_front();
        }
    }

    fn bound(&mut self, limits: &Limits, fall: Seq, now: Moment) {
        if self.owed.len() > limits.paths {
            self.fall_behind(fall, now, "too many paths were owed");
        }
    }

    /// Nothing is known any more of what it lacks.
    fn fall_behind(&mut self, fall: Seq, since: Moment, why: &'static str) {
        *self = Self {
            behind: Some(Behind { fall, since, why }),
            flights: core::mem::take(&mut self.flights),
            ..Self::default()
        };
    }
}

impl Owed {
    fn is_waiting(&self) -> bool {
        !matches!(self.stage, Stage::Flight(_))
    }
}

#[cfg(test)]
mod tests;
