//! What a run is made of: sizes, timing, clocks, the network, and the mix of what goes wrong, all
//! drawn from the seed. Each kind of trouble is absent from many runs, because one kind can hide
//! what another would show.

use core::time::Duration;

use evenkeel_core::topology::Timing;

use crate::chance::Chance;
use crate::clock::TRUE_RATE;

/// One millisecond of true time.
pub const MS: u64 = 1_000_000;
/// One second of true time.
pub const S: u64 = 1_000 * MS;

/// How long things go wrong at least.
pub const CHAOS_MIN: u64 = 60 * S;
/// How long they go wrong at most.
pub const CHAOS_MAX: u64 = 75 * S;

/// Something that goes wrong, or that somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// One direction of a link dies, or lives again.
    CutLink,
    /// A node is cut off, both ways.
    Isolate,
    /// All links live again.
    Rejoin,
    /// The network loses more, or less.
    Loss,
    /// All that a node sends for a while arrives late.
    Lag,
    /// The daemon of a node stands still for a moment.
    Freeze,
    /// The daemon of a node stands still for long.
    FreezeLong,
    /// The lease thread stands still between deciding and doing.
    Stall,
    /// The decision thread stands still.
    StallDriver,
    /// A virtual machine is paused as a whole: its clock stands still as well.
    Pause,
    /// A worker dies; its parent starts the next.
    KillWorker,
    /// The same, after some of the outputs of one step are done.
    KillMidway,
    /// All processes of a daemon die; it is started anew.
    KillDaemon,
    /// The power of a machine goes, and comes back.
    PowerCut,
    /// The power of all machines goes.
    Blackout,
    /// A log is lost while the machine is off.
    LoseLog,
    /// A state directory is restored from a backup.
    Restore,
    /// A disk hangs.
    Hang,
    /// A disk is slow.
    Slow,
    /// A disk fails, until it is mended.
    Fail,
    /// A service fails on a node.
    ServiceFails,
    /// A service hangs on a node.
    ServiceHangs,
    /// A service is mended.
    ServiceHeals,
    /// A check says the opposite of what is so.
    CheckLies,
    /// An operator switches a group.
    Switch,
    /// An operator insists on a switch.
    ForceSwitch,
    /// An operator drains a node.
    Drain,
    /// An operator drains a node no more.
    Undrain,
    /// An operator stops a daemon, and starts it later.
    Stop,
    /// An operator gives the nodes another file, one after the other.
    Reload,
}

/// All deeds with their usual frequency.
const DEEDS: [(Deed, u64); 30] = [
    (Deed::CutLink, 8),
    (Deed::Isolate, 6),
    (Deed::Rejoin, 10),
    (Deed::Loss, 4),
    (Deed::Lag, 4),
    (Deed::Freeze, 8),
    (Deed::FreezeLong, 3),
    (Deed::Stall, 8),
    (Deed::StallDriver, 4),
    (Deed::Pause, 2),
    (Deed::KillWorker, 6),
    (Deed::KillMidway, 4),
    (Deed::KillDaemon, 4),
    (Deed::PowerCut, 5),
    (Deed::Blackout, 1),
    (Deed::LoseLog, 2),
    (Deed::Restore, 1),
    (Deed::Hang, 4),
    (Deed::Slow, 3),
    (Deed::Fail, 2),
    (Deed::ServiceFails, 8),
    (Deed::ServiceHangs, 3),
    (Deed::ServiceHeals, 10),
    (Deed::CheckLies, 2),
    (Deed::Switch, 6),
    (Deed::ForceSwitch, 3),
    (Deed::Drain, 3),
    (Deed::Undrain, 4),
    (Deed::Stop, 3),
    (Deed::Reload, 3),
];

/// The make-up of one run.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Nodes: 2 to 5.
    pub nodes: usize,
    /// The last one votes and hosts nothing.
    pub witness: bool,
    /// Groups: 1 to 4.
    pub groups: usize,
    /// Groups whose services are started at takeover.
    pub cold: Vec<bool>,
    /// Lease and heartbeat.
    pub timing: Timing,
    /// Nanoseconds that each clock counts in a true millisecond.
    pub rates: Vec<u64>,
    /// Datagrams lost, per mille.
    pub loss: u64,
    /// Datagrams doubled, per mille.
    pub doubled: u64,
    /// The shortest delay.
    pub delay_min: u64,
    /// The usual longest delay.
    pub delay_max: u64,
    /// Datagrams delayed by up to three leases, per mille.
    pub slow: u64,
    /// How late a due timer may be served.
    pub late_max: u64,
    /// The longest usual delay between two threads.
    pub seam_max: u64,
    /// Words between threads that take a thousand times as long, per million.
    pub seam_stalls: u64,
    /// News of the lease thread that may wait for the decision thread.
    pub news_max: usize,
    /// How late guards shut by themselves.
    pub guard_late: Duration,
    /// How long a write takes on each disk.
    pub writes: Vec<Duration>,
    /// The usual time between two deeds.
    pub pause: u64,
    /// How long deeds are done.
    pub chaos: u64,
    deeds: Vec<(Deed, u64)>,
}

impl Recipe {
    /// The recipe that belongs to this stream.
    pub fn draw(chance: &mut Chance) -> Self {
        let nodes = chance.pick(&[2, 3, 3, 3, 3, 4, 5]);
        let witness = nodes >= 3 && chance.happens(500);
        let groups = chance.pick(&[1, 1, 2, 2, 3, 4]);
        let (lease, heartbeat) = chance.pick(&[(120, 20), (120, 20), (40, 8)]);
        let timing = Timing {
            lease: Duration::from_millis(lease),
            heartbeat: Duration::from_millis(heartbeat),
        };
        let lease = lease * MS;
        // Two clocks may differ by a fifth: (1 + 0.09) / (1 - 0.09) < 1.2.
        let drift = chance.pick(&[0, 500, 500, 20_000, 90_000]);
        let extreme = chance.happens(500);
        let mut rate = || {
            if extreme {
                chance.pick(&[TRUE_RATE - drift, TRUE_RATE + drift])
            } else {
                chance.between(TRUE_RATE - drift, TRUE_RATE + drift)
            }
        };
        let rates = (0..nodes).map(|_| rate()).collect();
        let cold = (0..groups).map(|_| chance.happens(300)).collect();
        let mut write = || Duration::from_micros(chance.pick(&[50, 300, 1_000, 5_000]));
        let writes = (0..nodes).map(|_| write()).collect();
        let deeds = draw_deeds(chance);
        Self {
            nodes,
            witness,
            groups,
            cold,
            timing,
            rates,
            loss: chance.pick(&[0, 0, 0, 10, 100, 300]),
            doubled: chance.pick(&[0, 0, 30, 200]),
            delay_min: 20_000,
            delay_max: lease / chance.pick(&[200, 40, 10, 4]),
            slow: chance.pick(&[0, 0, 1, 20]),
            late_max: lease / chance.pick(&[400, 100, 20]),
            seam_max: chance.pick(&[50_000, 300_000, 2 * MS]),
            seam_stalls: chance.pick(&[0, 100, 3_000]),
            // The least that all of it fits into: silences, each group, the last word.
            news_max: chance.pick(&[1024, 1024, groups + 2]),
            guard_late: Duration::from_nanos(chance.pick(&[0, 0, lease / 40])),
            writes,
            pause: chance.pick(&[100, 400, 1_500, 5_000]) * MS,
            chaos: chance.between(CHAOS_MIN, CHAOS_MAX),
            deeds,
        }
    }

    /// Nothing goes wrong: for measuring, and for tests of the world itself.
    pub fn calm(nodes: usize, groups: usize) -> Self {
        let mut chance = Chance::new(0);
        let mut recipe = Self::draw(&mut chance);
        recipe.nodes = nodes;
        recipe.witness = false;
        recipe.groups = groups;
        recipe.cold = vec![false; groups];
        recipe.timing = Timing {
            lease: Duration::from_millis(120),
            heartbeat: Duration::from_millis(20),
        };
        recipe.rates = vec![TRUE_RATE; nodes];
        recipe.writes = vec![Duration::from_micros(300); nodes];
        (recipe.loss, recipe.doubled, recipe.slow) = (0, 0, 0);
        (recipe.delay_max, recipe.late_max, recipe.seam_max) = (300_000, 200_000, 50_000);
        (recipe.seam_stalls, recipe.news_max) = (0, 1024);
        recipe.guard_late = Duration::ZERO;
        recipe.deeds.clear();
        recipe
    }

    /// The next deed, if there are any.
    pub fn deed(&self, chance: &mut Chance) -> Option<Deed> {
        let total: u64 = self.deeds.iter().map(|(_, weight)| weight).sum();
        let mut at = chance.below(total);
        for (deed, weight) in &self.deeds {
            if at < *weight {
                return Some(*deed);
            }
            at -= weight;
        }
        None
    }

    /// L in nanoseconds of true time.
    pub fn lease(&self) -> u64 {
        nanos(self.timing.lease)
    }
}

/// A span in nanoseconds.
pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Most runs are a mixture; some are about one kind of deed and little else, because one kind
/// needs a world that is calm enough to show what it does.
fn draw_deeds(chance: &mut Chance) -> Vec<(Deed, u64)> {
    let theme = chance.happens(400).then(|| chance.pick(&DEEDS).0);
    let often = if theme.is_some() { 150 } else { 600 };
    let mut deeds: Vec<(Deed, u64)> = DEEDS.to_vec();
    deeds.retain(|(deed, _)| theme == Some(*deed) || mends(*deed) || chance.happens(often));
    for (deed, weight) in &mut deeds {
        *weight *= if theme == Some(*deed) {
            20
        } else {
            chance.pick(&[1, 1, 2, 4])
        };
    }
    deeds
}

/// Without these what is broken would stay so, and little else could be seen.
fn mends(deed: Deed) -> bool {
    matches!(deed, Deed::Rejoin | Deed::ServiceHeals | Deed::Undrain)
}
