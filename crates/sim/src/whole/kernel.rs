//! What the kernel of one machine keeps while the daemon comes and goes: the guard's deadlines and
//! whose addresses it guards (`crates/guard/src/{slots,keeper}.rs`), which addresses are on the
//! interfaces, and the memory that a worker leaves to the next (`crates/daemon/src/mirror.rs`).

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use evenkeel_core::lease::{Machine, Mirror, Record};
use evenkeel_core::{Epoch, GroupId, Incarnation, Moment};

/// The guard.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    /// The epoch that was extended last, and until when.
    slots: BTreeMap<GroupId, (u64, Moment)>,
    /// Whose each address is; none: closed.
    guarded: BTreeMap<IpAddr, Option<GroupId>>,
    /// Addresses that join their group once that opens nothing.
    waiting: BTreeMap<IpAddr, (GroupId, u64)>,
    /// How much later it shuts by itself: one that counts in ticks of its own.
    pub(super) late: Duration,
}

impl Guard {
    /// Whether the group may act.
    pub(super) fn is_open(&self, group: GroupId, now: Moment) -> bool {
        let slot = self.slots.get(&group);
        slot.is_some_and(|(_, until)| *until > Moment::ZERO && now < *until + self.late)
    }

    /// Sets a deadline. False: the group is not known yet.
    pub(super) fn extend(&mut self, group: GroupId, epoch: Epoch, until: Moment) -> bool {
        let Some(slot) = self.slots.get_mut(&group) else {
            return false;
        };
        *slot = (epoch.number(), until);
        true
    }

    /// Mutes a group.
    pub(super) fn close(&mut self, group: GroupId) {
        if let Some(slot) = self.slots.get_mut(&group) {
            slot.1 = Moment::ZERO;
        }
    }

    fn opened_before(&self, group: GroupId, assigned: u64, now: Moment) -> bool {
        let slot = self.slots.get(&group);
        slot.is_some_and(|(epoch, until)| now < *until && *epoch < assigned)
    }

    /// The addresses of an assignment: never opens anything.
    pub(super) fn set_addresses(
        &mut self,
        group: GroupId,
        assigned: Epoch,
        listed: &BTreeSet<IpAddr>,
        now: Moment,
    ) {
        let (epoch, until) = *self.slots.entry(group).or_insert((0, Moment::ZERO));
        if now < until && assigned.number() < epoch {
            return;
        }
        self.waiting
            .retain(|ip, (of, _)| *of != group && !listed.contains(ip));
        let late = self.opened_before(group, assigned.number(), now);
        for (ip, of) in &mut self.guarded {
            if *of == Some(group) && !listed.contains(ip) {
                *of = None;
            }
        }
        for ip in listed {
            if self.guarded.get(ip) == Some(&Some(group)) {
                continue;
            }
            if late {
                self.waiting.insert(*ip, (group, assigned.number()));
                self.guarded.insert(*ip, None);
            } else {
                self.guarded.insert(*ip, Some(group));
            }
        }
    }

    /// Guards what is not guarded yet, closed.
    pub(super) fn guard_closed(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for ip in addresses {
            self.guarded.entry(ip).or_insert(None);
        }
    }

    /// Lets those in that waited, as far as that opens nothing. Who was.
    pub(super) fn admit_waiting(&mut self, now: Moment) -> Vec<IpAddr> {
        let waiting = core::mem::take(&mut self.waiting);
        let (still, ready): (BTreeMap<_, _>, BTreeMap<_, _>) = waiting
            .into_iter()
            .partition(|(_, (group, assigned))| self.opened_before(*group, *assigned, now));
        self.waiting = still;
        for (ip, (group, _)) in &ready {
            self.guarded.insert(*ip, Some(*group));
        }
        ready.into_keys().collect()
    }

    /// Whether it guards the address.
    pub(super) fn has(&self, ip: IpAddr) -> bool {
        self.guarded.contains_key(&ip)
    }

    /// The addresses of a group.
    pub(super) fn addresses_of(&self, group: GroupId) -> impl Iterator<Item = IpAddr> + '_ {
        let guarded = self.guarded.iter();
        guarded.filter_map(move |(ip, of)| (*of == Some(group)).then_some(*ip))
    }
}

/// The memory that outlives a worker, and ends with the daemon.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    incarnation: Incarnation,
    quiet_until: Moment,
    records: BTreeMap<GroupId, Record>,
    /// This life takes part.
    pub(super) settled: bool,
    /// The readmission by which this life has voted last.
    pub(super) voted: Option<Epoch>,
}

impl Memory {
    /// The whole of what a lease machine knows at its start; the rest as it was.
    pub(super) fn begin(machine: &Machine, before: Option<&Self>) -> Self {
        let mirror = machine.mirror();
        let records = mirror.records.into_iter();
        let same = before.filter(|one| one.incarnation == mirror.incarnation);
        Self {
            incarnation: mirror.incarnation,
            quiet_until: mirror.quiet_until,
            records: records.map(|record| (record.group, record)).collect(),
            settled: same.is_some_and(|one| one.settled),
            voted: same.and_then(|one| one.voted),
        }
    }

    /// One record, newer.
    pub(super) fn write(&mut self, record: Record) {
        self.records.insert(record.group, record);
    }

    /// The silence has an end now.
    pub(super) fn set_quiet_until(&mut self, until: Moment) {
        self.quiet_until = until;
    }

    /// What the next worker starts from.
    pub(super) fn mirror(&self) -> Mirror {
        Mirror {
            incarnation: self.incarnation,
            quiet_until: self.quiet_until,
            records: self.records.values().copied().collect(),
        }
    }
}

/// What a machine has while it has power.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    /// The guard.
    pub(super) guard: Guard,
    /// The addresses of each group on the interfaces.
    pub(super) placed: BTreeMap<GroupId, Vec<IpAddr>>,
    /// What the workers leave to each other.
    pub(super) memory: Option<Memory>,
}

impl Kernel {
    /// Whether a packet for the address would pass.
    pub(super) fn passes(&self, ip: IpAddr, now: Moment) -> bool {
        match self.guard.guarded.get(&ip) {
            Some(Some(group)) => self.guard.is_open(*group, now),
            Some(None) => false,
            None => self.placed.values().flatten().any(|placed| *placed == ip),
        }
    }
}
