//! What a run is made of: sizes, clocks, the network and the mix of faults, all drawn
//! from the seed. Each kind of fault is absent from about a third of the runs, because
//! one kind can hide what another would show.

use core::time::Duration;

use crate::chance::Chance;
use crate::clock::TRUE_RATE;

/// One millisecond of true time.
pub const MS: u64 = 1_000_000;

/// What somebody or something does to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// An election.
    Elect,
    /// A leader assigns the group to some node.
    Propose,
    /// A leader brings one follower up to date.
    Replicate,
    /// A leader brings everybody whom it can reach up to date, and commits.
    Settle,
    /// A follower crashes between cutting off and appending.
    CutOnly,
    /// A node is asked to release, whether or not it holds.
    Release,
    /// One direction of a link dies, or lives again.
    CutLink,
    /// A node stands still.
    Freeze,
    /// A node stands still between deciding and doing.
    Stall,
    /// The worker dies; its parent starts it again with its mirror.
    CrashWorker,
    /// The same, after some of the outputs of one step are done.
    CrashMidway,
    /// The whole daemon is started anew; the mirror survives.
    CrashDaemon,
    /// The whole daemon is started anew, without a mirror.
    Amnesia,
    /// The machine is started anew: no guard, no mirror, another boot clock.
    Reboot,
    /// A node's identity comes into doubt at one voter, or out of it.
    Exclude,
    /// All that a node sends for a while arrives late.
    Lag,
    /// A plot: an assignment is appended, cut off, and comes back.
    CutAndBack,
    /// A plot: a holder releases, its words are late, it returns without memory.
    ReleaseAndReturn,
    /// A plot: a holder hears nobody, and the group is assigned to another.
    Deafen,
}

/// All deeds with their usual frequency.
const DEEDS: [(Deed, u64); 19] = [
    (Deed::Elect, 5),
    (Deed::Propose, 8),
    (Deed::Replicate, 30),
    (Deed::Settle, 12),
    (Deed::CutOnly, 6),
    (Deed::Release, 6),
    (Deed::CutLink, 6),
    (Deed::Freeze, 4),
    (Deed::Stall, 6),
    (Deed::CrashWorker, 4),
    (Deed::CrashMidway, 4),
    (Deed::CrashDaemon, 3),
    (Deed::Amnesia, 4),
    (Deed::Reboot, 2),
    (Deed::Exclude, 1),
    (Deed::Lag, 3),
    (Deed::CutAndBack, 2),
    (Deed::ReleaseAndReturn, 2),
    (Deed::Deafen, 3),
];

/// Deeds without which nothing would ever move.
const NEEDED: [Deed; 3] = [Deed::Propose, Deed::Replicate, Deed::Settle];

/// The make-up of one run.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Nodes that vote: 3 or 5.
    pub voters: usize,
    /// Nodes that do not vote but may hold: none or one.
    pub learners: usize,
    /// L of each node: they differ while a new configuration spreads.
    pub leases: Vec<Duration>,
    /// The longest of them: what every voter allows.
    pub lease_max: Duration,
    /// Nanoseconds that each clock counts in a true millisecond.
    pub rates: Vec<u64>,
    /// Messages lost, per mille.
    pub loss: u64,
    /// Messages doubled, per mille.
    pub doubled: u64,
    /// The shortest delay.
    pub delay_min: u64,
    /// The usual longest delay.
    pub delay_max: u64,
    /// Messages delayed by up to three leases, per mille.
    pub slow: u64,
    /// How late a due timer may be served.
    pub late_max: u64,
    /// How late guards shut by themselves, on their own clocks: one that is not told to
    /// shut may count in ticks of its own. Less than what the margin has left at the
    /// greatest drift.
    pub guard_late: Duration,
    /// Whether the group has services that must be started before it opens.
    pub prepared: bool,
    /// The usual time between two deeds.
    pub pause: u64,
    /// How long deeds are done.
    pub chaos: u64,
    /// What is done how often.
    deeds: Vec<(Deed, u64)>,
}

impl Mix {
    /// The mix that belongs to this stream.
    pub fn draw(chance: &mut Chance) -> Self {
        let voters = if chance.happens(700) { 3 } else { 5 };
        let learners = usize::from(chance.happens(200));
        let nodes = voters + learners;
        let lease = chance.pick(&[10, 20, 40]) * MS;
        let mixed = chance.happens(150);
        let mut length = || lease * if mixed { chance.pick(&[1, 1, 2, 3]) } else { 1 };
        let leases: Vec<Duration> = (0..nodes).map(|_| Duration::from_nanos(length())).collect();
        let lease_max = leases.iter().max().copied().unwrap_or_default();
        // Two clocks may differ by a fifth: (1 + 0.09) / (1 - 0.09) < 1.2.
        let drift = chance.pick(&[0, 500, 20_000, 90_000, 90_000]);
        let extreme = chance.happens(500);
        let mut rate = || {
            if extreme {
                chance.pick(&[1_000_000 - drift, 1_000_000 + drift])
            } else {
                chance.between(1_000_000 - drift, 1_000_000 + drift)
            }
        };
        let rates = (0..nodes).map(|_| rate()).collect();
        let deeds = draw_deeds(chance);
        Self {
            voters,
            learners,
            leases,
            lease_max,
            rates,
            loss: chance.pick(&[0, 0, 20, 200, 400]),
            doubled: chance.pick(&[0, 30, 200]),
            delay_min: 20_000,
            delay_max: lease / chance.pick(&[40, 10, 4, 2]),
            slow: chance.pick(&[0, 20, 150]),
            late_max: lease / chance.pick(&[100, 20, 8]),
            guard_late: Duration::from_nanos(chance.pick(&[0, 0, lease / 40])),
            // Of a copy, so that older seeds still play what they played.
            prepared: chance.clone().happens(250),
            pause: lease / chance.pick(&[3, 8, 20]),
            chaos: lease * chance.between(6, 14),
            deeds,
        }
    }

    /// Three voters, true clocks, nothing lost, every message on its way for `delay`.
    pub fn calm(lease: Duration, delay: Duration) -> Self {
        let nanos = |span: Duration| span.as_nanos() as u64;
        Self {
            voters: 3,
            learners: 0,
            leases: vec![lease; 3],
            lease_max: lease,
            rates: vec![TRUE_RATE; 3],
            loss: 0,
            doubled: 0,
            delay_min: nanos(delay),
            delay_max: nanos(delay),
            slow: 0,
            late_max: nanos(lease) / 100,
            guard_late: Duration::ZERO,
            prepared: false,
            pause: nanos(lease),
            chaos: 0,
            deeds: Vec::new(),
        }
    }

    /// The next deed.
    pub fn deed(&self, chance: &mut Chance) -> Deed {
        let total: u64 = self.deeds.iter().map(|(_, weight)| weight).sum();
        let mut at = chance.below(total);
        for (deed, weight) in &self.deeds {
            if at < *weight {
                return *deed;
            }
            at -= weight;
        }
        Deed::Replicate
    }

    /// All nodes.
    pub fn nodes(&self) -> usize {
        self.voters + self.learners
    }
}

/// Most runs are a mixture; some are about one plot and little else, because plots need
/// a world that is calm enough for them to go through.
fn draw_deeds(chance: &mut Chance) -> Vec<(Deed, u64)> {
    let theme = match chance.below(10) {
        0 => Some(Deed::CutAndBack),
        1 => Some(Deed::ReleaseAndReturn),
        2 => Some(Deed::Deafen),
        _ => None,
    };
    let often = if theme.is_some() { 100 } else { 650 };
    let mut deeds: Vec<(Deed, u64)> = DEEDS.to_vec();
    deeds
        .retain(|(deed, _)| NEEDED.contains(deed) || theme == Some(*deed) || chance.happens(often));
    for (deed, weight) in &mut deeds {
        *weight *= if theme == Some(*deed) {
            20
        } else {
            chance.pick(&[1, 1, 2, 4])
        };
    }
    deeds
}
