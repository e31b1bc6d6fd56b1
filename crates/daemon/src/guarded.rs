//! Which addresses the guard certainly has, and giving back those that left the cluster.
//!
//! An address that no group has any more stays guarded, and so mute, until it is forgotten.
//! Only then can this machine use it for something else. Why forgetting opens nothing:
//!
//! - *The mover does not know it any more.* It is told so first, and on a standby it only ever takes
//!   addresses away.
//! - *Nobody here answers for it.* It is forgotten only when it is on no device (the guard's
//!   thread asks the kernel), and in no group of the guard (`Keeper::forget` leaves others
//!   alone): no lease can open it.
//! - *Nobody puts it here later without the guard.* The mover is told of an address only if the
//!   guard certainly has it ([`Guarded::has`]). A forgotten one is struck out there before the
//!   order to forget it is given, and the guard's thread takes its orders one after the other.
//!   So an assignment that brings it back waits until it is guarded again, closed.
//! - *Nobody else is about to be told to serve it.* Neither this node's file nor the last
//!   assignment of any group, as far as the log is committed, has it, and that has been so for
//!   [`FORGET_AFTER`] with a leader all the time: leases of older assignments have run out many
//!   times over. (This node alone answering for it would take somebody who configures it here
//!   by hand while it is served elsewhere, against which no guard would have helped either
//!   once it is uninstalled.)
//!
//! What the log still says of a group that is gone from the file counts too: its addresses
//! stay guarded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use evenkeel_core::role::Want;
use evenkeel_core::topology::ServiceAddress;
use evenkeel_core::{Epoch, GroupId, Moment};
use evenkeel_host::clock;

use crate::decision::Driver;

/// How long nobody has wanted an address before it is forgotten: far longer than leases of
/// older assignments and changes under way.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(60);
/// How often it is looked whether any can be.
const LOOK: Duration = Duration::from_secs(1);

/// What the guard has.
#[derive(Debug, Default)]
pub struct Guarded {
    has: BTreeSet<IpAddr>,
    unwanted: BTreeMap<IpAddr, Moment>,
    looked: Option<Moment>,
}

impl Guarded {
    /// The guard has these.
    pub fn new(has: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut guarded = Self::default();
        guarded.add(has);
        guarded
    }

    /// Whether it certainly has this one.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.has.contains(&ip.to_canonical())
    }

    /// It has these too.
    pub fn add(&mut self, has: impl IntoIterator<Item = IpAddr>) {
        self.has.extend(has.into_iter().map(|ip| ip.to_canonical()));
    }

    /// Those that can be forgotten, struck out: nobody has wanted them for long enough.
    /// Without a word of what is wanted (the log cannot be read, nobody leads) it begins anew.
    fn forgotten(&mut self, now: Moment, wanted: Option<&BTreeSet<IpAddr>>) -> Vec<IpAddr> {
        let Some(wanted) = wanted else {
            self.unwanted.clear();
            return Vec::new();
        };
        let unwanted: BTreeSet<IpAddr> = self.has.difference(wanted).copied().collect();
        self.unwanted.retain(|ip, _| unwanted.contains(ip));
        for ip in unwanted {
            self.unwanted.entry(ip).or_insert(now);
        }
        let long = self.unwanted.iter();
        let long = long.filter(|(_, since)| now.since(**since) >= FORGET_AFTER);
        let forgotten: Vec<IpAddr> = long.map(|(ip, _)| *ip).collect();
        for ip in &forgotten {
            self.has.remove(ip);
            self.unwanted.remove(ip);
        }
        forgotten
    }
}

impl Driver {
    /// Has the addresses of an assignment guarded. What the guard may not have yet is waited
    /// for, since it must be guarded before it is placed.
    pub(crate) fn guard(&mut self, group: GroupId, epoch: Epoch, addresses: &[ServiceAddress]) {
        let Some(keeper) = &self.keeper else { return };
        let ips: Vec<IpAddr> = addresses.iter().map(|address| address.ip).collect();
        if ips.iter().all(|ip| self.guarded.has(*ip)) {
            keeper.guard(group, epoch, ips);
        } else if keeper.guard_now(group, epoch, ips.clone()) {
            self.guarded.add(ips);
        } else {
            tracing::error!(
                group = self.node.topology().group_name(group),
                "new addresses of the group cannot be guarded now: they are not placed"
            );
        }
    }

    /// Whether all may be placed.
    pub(crate) fn may_place(&self, addresses: &[ServiceAddress]) -> bool {
        self.keeper.is_none() || addresses.iter().all(|one| self.guarded.has(one.ip))
    }

    /// Gives addresses back that left the cluster.
    pub(crate) fn mind_guarded(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let now = clock::now();
        let due = self.guarded.looked.is_none_or(|at| now.since(at) >= LOOK);
        if !due {
            return;
        }
        self.guarded.looked = Some(now);
        let knows = self.engine.is_some() && self.node.leader().is_some();
        let wanted = knows.then(|| self.wanted_addresses());
        let forgotten = self.guarded.forgotten(now, wanted.as_ref());
        if forgotten.is_empty() {
            return;
        }
        if let Some(mover) = &self.mover {
            // Or it would go on taking them away from whoever uses them here.
            for (group, known) in &mut self.placed {
                let before = known.len();
                known.retain(|one| !forgotten.contains(&one.ip.to_canonical()));
                if known.len() == before {
                    continue;
                }
                if let Err(error) = mover.assign(*group, known) {
                    tracing::error!(%error, "failed to give addresses back that left the cluster");
                }
            }
        }
        keeper.forget(forgotten);
    }

    /// Those of the file, of the log, and what the mover has for groups that are here. Of a group
    /// that is elsewhere it only takes away what is left.
    fn wanted_addresses(&self) -> BTreeSet<IpAddr> {
        let groups = self.node.topology().groups.values();
        let here = |group: &GroupId| {
            let role = self.node.role(*group);
            role.is_none_or(|role| role.want() != Want::Absent)
        };
        let placed = self.placed.iter().filter(|(group, _)| here(group));
        let mut wanted: BTreeSet<IpAddr> = groups
            .flat_map(|group| &group.addresses)
            .chain(placed.flat_map(|(_, addresses)| addresses))
            .map(|address| address.ip.to_canonical())
            .collect();
        self.ledger.with(|ledger| {
            let current = ledger
                .groups
                .values()
                .filter_map(|one| one.current.as_ref());
            let agreed = current.flat_map(|one| &one.assign.addresses);
            wanted.extend(agreed.map(|address| address.ip.to_canonical()));
        });
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn after(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_nobody_wants_for_long_enough_is_forgotten_once() {
        let mut guarded = Guarded::new([ip(1), ip(2), ip(3)]);
        let wanted: BTreeSet<IpAddr> = [ip(1)].into();
        assert!(guarded.forgotten(after(0), Some(&wanted)).is_empty());
        // Wanted again in between: counted anew.
        let both: BTreeSet<IpAddr> = [ip(1), ip(3)].into();
        assert!(guarded.forgotten(after(30), Some(&both)).is_empty());
        assert!(guarded.forgotten(after(31), Some(&wanted)).is_empty());
        assert_eq!(guarded.forgotten(after(60), Some(&wanted)), [ip(2)]);
        assert!(guarded.has(ip(1)) && !guarded.has(ip(2)) && guarded.has(ip(3)));
        assert_eq!(guarded.forgotten(after(91), Some(&wanted)), [ip(3)]);
        assert!(guarded.forgotten(after(1000), Some(&wanted)).is_empty());
    }

    #[test]
    fn without_knowing_what_is_agreed_nothing_is_forgotten() {
        let mut guarded = Guarded::new([ip(1)]);
        let nothing = BTreeSet::new();
        assert!(guarded.forgotten(after(0), Some(&nothing)).is_empty());
        assert!(guarded.forgotten(after(59), None).is_empty());
        assert!(guarded.forgotten(after(100), Some(&nothing)).is_empty());
        assert!(guarded.forgotten(after(159), Some(&nothing)).is_empty());
        assert_eq!(guarded.forgotten(after(160), Some(&nothing)), [ip(1)]);
    }

    #[test]
    fn one_that_comes_back_is_not_had_until_it_is_guarded_again() {
        let mut guarded = Guarded::new([ip(1)]);
        let nothing = BTreeSet::new();
        guarded.forgotten(after(0), Some(&nothing));
        guarded.forgotten(after(60), Some(&nothing));
        assert!(!guarded.has(ip(1)));
        let mapped = "::ffff:192.0.2.1".parse().expect("an address");
        guarded.add([mapped]);
        assert!(guarded.has(ip(1)));
    }
}
