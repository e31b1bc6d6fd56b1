//! The cold handle: addresses, devices, repair.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::{Epoch, GroupId, Moment};
use evenkeel_host::clock;
use rustix::event::epoll;

use crate::bpf::Bpf;
use crate::device::{Device, Devices};
use crate::nft::{CLOSED, Condition, Content, Guarded, Ownership, Table, Tag};
use crate::slots::{Slot, Slots};
use crate::state::{BackendState, GuardState, Repairs};
use crate::{ADDRESSES_MAX, Backends, Claim, Guard, GuardError, Seat, Settings};

/// Failures of the last round of repairs.
#[derive(Debug, Default)]
struct Faults {
    bpf: Option<String>,
    nft: Option<String>,
}

/// Why a mechanism is absent that the settings leave out.
const NOT_WANTED: &str = "left out by the settings";

/// The cold handle: runs on an ordinary thread, and never writes a deadline.
///
/// Why its repairs open nothing: it never writes a deadline, so what eBPF lets pass is
/// the hot handle's word alone. A table made anew holds nothing, unless eBPF enforces
/// as well: then the groups that are open go into it with the rest of their time, since
/// otherwise they would be mute until their next renewal. Should such a group be closed
/// at that very moment, eBPF has already muted it, and its element is removed.
pub struct Keeper {
    slots: Arc<Slots>,
    bpf: Result<Bpf, String>,
    nft: Result<Table, String>,
    devices: Devices,
    events: OwnedFd,
    /// Why the last repair of a mechanism failed: it may not enforce everywhere.
    faults: Faults,
    /// All guarded addresses; those of no group belong to [`CLOSED`].
    pub(crate) guarded: Guarded,
    /// Addresses that are to join a group which is open under an older epoch: closed
    /// until it is open under this one, or closed.
    waiting: BTreeMap<IpAddr, (GroupId, u64)>,
    /// Addresses to which attempts to connect are dropped, and until when.
    attempts: BTreeMap<GroupId, (Vec<IpAddr>, Moment)>,
}

impl Keeper {
    pub(crate) fn open(
        settings: &Settings,
        ownership: Ownership,
        claim: &Claim,
    ) -> Result<(Guard, Self), GuardError> {
        let keeper = Self::sit(settings, ownership, claim, None)?;
        let slots = Arc::clone(&keeper.slots);
        let guard = match (&keeper.bpf, &keeper.nft) {
            (Ok(_), Ok(table)) => Guard::both(slots, table)?,
            (_, table) => Guard::one(slots, table.as_ref().ok()),
        };
        Ok((guard, keeper))
    }

    /// The keeper for a guard that [`Guard::resume`] gave, once the process before this
    /// one is gone.
    ///
    /// # Errors
    ///
    /// As [`Guard::open`]; also [`GuardError::Changed`] if a mechanism that the guard goes
    /// on with is not there any more: begin anew.
    pub fn join(settings: &Settings, claim: &Claim, seat: Seat) -> Result<Self, GuardError> {
        let found = (seat.map.is_some(), seat.by_nft);
        let keeper = Self::sit(settings, Ownership::IfPossible, claim, Some(seat))?;
        if found != (keeper.bpf.is_ok(), keeper.nft.is_ok()) {
            return Err(GuardError::Changed);
        }
        Ok(keeper)
    }

    fn sit(
        settings: &Settings,
        ownership: Ownership,
        claim: &Claim,
        seat: Option<Seat>,
    ) -> Result<Self, GuardError> {
        settings.check()?;
        let pins = settings.pins()?;
        let (known, map) = match seat {
            Some(seat) => (Some(seat.slots), seat.map),
            None => (None, None),
        };
        let bpf = match settings.backends {
            Backends::Both | Backends::BpfOnly => {
                Bpf::open(&settings.bpffs, &pins, settings.digest(), map)
                    .map_err(|error| error.to_string())
            }
            Backends::NftOnly => Err(NOT_WANTED.to_owned()),
        };
        let nft = match settings.backends {
            Backends::Both | Backends::NftOnly => {
                match Table::open(&settings.key(), ownership, claim.port()) {
                    Err(error @ GuardError::InUse { .. }) => return Err(error),
                    answer => answer.map_err(|error| error.to_string()),
                }
            }
            Backends::BpfOnly => Err(NOT_WANTED.to_owned()),
        };
        if let (Err(bpf), Err(nft)) = (&bpf, &nft) {
            return Err(GuardError::NoBackend {
                bpf: bpf.clone(),
                nft: nft.clone(),
            });
        }
        let devices = Devices::open()
            .map_err(|error| GuardError::kernel("open a route netlink socket", error))?;
        let (slots, bpf) = match bpf {
            Ok((bpf, words)) => (Slots::mapped(words), Ok(bpf)),
            Err(reason) => (Slots::private(), Err(reason)),
        };
        let (nft, in_table) = match nft {
            Ok((table, guarded)) => (Ok(table), guarded),
            Err(reason) => (Err(reason), Guarded::new()),
        };
        let hot = known.is_some();
        let slots = known.unwrap_or_else(|| Arc::new(slots));
        let events = watch(&devices, nft.as_ref().ok())?;
        let mut keeper = Self {
            slots,
            bpf,
            nft,
            devices,
            events,
            faults: Faults::default(),
            guarded: Guarded::new(),
            waiting: BTreeMap::new(),
            attempts: BTreeMap::new(),
        };
        keeper.continue_from(in_table, hot)?;
        Ok(keeper)
    }

    /// Finds the addresses that an earlier process guarded, makes both mechanisms agree
    /// on them, and covers all devices.
    ///
    /// With a `hot` handle at work, no slot is freed: it may be about to write into one.
    fn continue_from(&mut self, in_table: Guarded, hot: bool) -> Result<(), GuardError> {
        let devices = self.list_devices()?;
        match &self.bpf {
            Err(_) => {
                for group in in_table.values().filter(|group| **group != CLOSED) {
                    self.slot_for(*group)?;
                }
                self.guarded = in_table.clone();
            }
            Ok(bpf) => {
                let pinned = bpf.addresses()?;
                let used = |slot: Slot| pinned.iter().any(|(_, found)| *found == slot);
                if !hot {
                    self.slots.free_unused(clock::now(), used);
                }
                let group = |slot| self.slots.group(slot).unwrap_or(CLOSED);
                self.guarded = pinned
                    .iter()
                    .map(|(address, slot)| (*address, group(*slot)))
                    .collect();
                bpf.take_over(&devices)?;
                // What only the table knows stays guarded, and closed.
                for address in in_table.keys() {
                    if !self.guarded.contains_key(address) {
                        bpf.set(*address, Slot::CLOSED)?;
                        self.guarded.insert(*address, CLOSED);
                    }
                }
            }
        }
        if let Ok(table) = &mut self.nft
            && in_table != self.guarded
        {
            let all: BTreeSet<IpAddr> = in_table
                .keys()
                .chain(self.guarded.keys())
                .copied()
                .collect();
            let changes: Vec<_> = all
                .into_iter()
                .map(|address| (address, in_table.get(&address), self.guarded.get(&address)))
                .filter(|(_, old, new)| old != new)
                .map(|(address, old, new)| (address, old.copied(), new.copied()))
                .collect();
            table
                .change(&changes)
                .map_err(|error| GuardError::kernel("fill the nftables table", error))?;
        }
        self.verify_and_repair()?;
        // A process that has ended was moving a group: whoever holds it now serves it.
        if let Ok(table) = &mut self.nft {
            table
                .flush_attempts()
                .map_err(|error| GuardError::kernel("let attempts to connect pass again", error))?;
        }
        if let Ok(bpf) = &self.bpf {
            bpf.detach_strays(&devices);
        }
        Ok(())
    }

    fn list_devices(&self) -> Result<Vec<Device>, GuardError> {
        self.devices
            .list()
            .map_err(|error| GuardError::kernel("list the devices", error))
    }

    /// Says which addresses belong to `group`, as the Assign with epoch `assigned`
    /// lists them ([`Epoch::NONE`] for what the file says at the start, before any
    /// Assign is known).
    ///
    /// Never opens anything: an address that is new in a group waits, closed, while
    /// the group is open under an older epoch; one that is no longer listed stays
    /// closed until [`Keeper::forget`]. An address listed for another group moves. What an older
    /// assignment lists than the one under which the group is open changes nothing.
    ///
    /// # Errors
    ///
    /// Too many groups or addresses, or the kernel refused; what was done so far is
    /// closed, and calling it again completes it.
    pub fn set_addresses(
        &mut self,
        group: GroupId,
        assigned: Epoch,
        addresses: &[IpAddr],
    ) -> Result<(), GuardError> {
        let listed: BTreeSet<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
        let slot = self.slot_for(group)?;
        let known = listed
            .iter()
            .filter(|address| self.guarded.contains_key(address))
            .count();
        if let Some(address) = listed
            .iter()
            .find(|address| !self.guarded.contains_key(address))
            && self.guarded.len() + listed.len() - known > ADDRESSES_MAX
        {
            return Err(GuardError::TooManyAddresses { address: *address });
        }
        if clock::now() < self.slots.deadline(slot) && assigned.number() < self.slots.epoch(slot) {
            return Ok(());
        }
        self.waiting
            .retain(|address, (of, _)| *of != group && !listed.contains(address));
        let opened_late = self.opened_before(slot, assigned.number());
        let mut changes = BTreeMap::new();
        for (address, of) in &self.guarded {
            if *of == group && !listed.contains(address) {
                changes.insert(*address, CLOSED);
            }
        }
        for address in listed {
            if self.guarded.get(&address) == Some(&group) {
                continue;
            }
            if opened_late {
                self.waiting.insert(address, (group, assigned.number()));
                changes.insert(address, CLOSED);
            } else {
                changes.insert(address, group);
            }
        }
        self.apply(changes)
    }

    /// Guards those of `addresses` that are not guarded yet, closed: a changed configuration
    /// has them, and no assignment does so far. The others stay as they are.
    ///
    /// # Errors
    ///
    /// As [`Keeper::set_addresses`].
    pub fn guard_closed(&mut self, addresses: &[IpAddr]) -> Result<(), GuardError> {
        let addresses = addresses.iter().map(IpAddr::to_canonical);
        let new: BTreeMap<IpAddr, GroupId> = addresses
            .filter(|address| !self.guarded.contains_key(address))
            .map(|address| (address, CLOSED))
            .collect();
        if let Some(address) = new.keys().next()
            && self.guarded.len() + new.len() > ADDRESSES_MAX
        {
            return Err(GuardError::TooManyAddresses { address: *address });
        }
        self.apply(new)
    }

    /// The slot of `group`; refused if the table could not tell it from another, or from
    /// the addresses of none.
    fn slot_for(&self, group: GroupId) -> Result<Slot, GuardError> {
        let alike = |other: &GroupId| *other != group && Tag::of(*other) == Tag::of(group);
        match self.slots.groups().chain([CLOSED]).find(alike) {
            Some(other) => Err(GuardError::AlikeGroups { one: group, other }),
            None if group == CLOSED => Err(GuardError::AlikeGroups {
                one: group,
                other: CLOSED,
            }),
            None => self.slots.claim(group).ok_or(GuardError::TooManyGroups),
        }
    }

    /// Whether the group is open, and under an epoch before `assigned`.
    fn opened_before(&self, slot: Slot, assigned: u64) -> bool {
        clock::now() < self.slots.deadline(slot) && self.slots.epoch(slot) < assigned
    }

    /// Addresses that waited join their group once that opens nothing.
    fn admit_waiting(&mut self) -> Result<(), GuardError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut changes = BTreeMap::new();
        for (address, (group, assigned)) in &self.waiting {
            let late = |slot| self.opened_before(slot, *assigned);
            if !self.slots.find(*group).is_some_and(late) {
                changes.insert(*address, *group);
            }
        }
        self.apply(changes.clone())?;
        self.waiting
            .retain(|address, _| !changes.contains_key(address));
        Ok(())
    }

    /// Gives addresses to groups, in both mechanisms.
    fn apply(&mut self, mut changes: BTreeMap<IpAddr, GroupId>) -> Result<(), GuardError> {
        changes.retain(|address, group| self.guarded.get(address) != Some(group));
        if let Ok(table) = &mut self.nft {
            let steps: Vec<_> = changes
                .iter()
                .map(|(address, group)| {
                    (*address, self.guarded.get(address).copied(), Some(*group))
                })
                .collect();
            if let Err(error) = table.change(&steps) {
                // What is there and what is not is unknown now: it is made anew.
                table.distrust();
                return Err(GuardError::kernel("change the guarded addresses", error));
            }
        }
        for (address, group) in changes {
            if let Ok(bpf) = &self.bpf {
                let slot = match group {
                    CLOSED => Slot::CLOSED,
                    group => self.slots.find(group).unwrap_or(Slot::CLOSED),
                };
                bpf.set(address, slot)?;
            }
            self.guarded.insert(address, group);
        }
        Ok(())
    }

    /// All addresses that are guarded, of a group or of none.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.guarded.keys().copied().collect()
    }

    /// The addresses of a group.
    pub fn addresses_of(&self, group: GroupId) -> impl Iterator<Item = IpAddr> + '_ {
        let guarded = self.guarded.iter();
        guarded.filter_map(move |(address, of)| (*of == group).then_some(*address))
    }

    /// The addresses that belong to no group any more and are held closed.
    pub fn orphans(&self) -> Vec<IpAddr> {
        let orphan = |(address, group): (&IpAddr, &GroupId)| {
            (*group == CLOSED && !self.waiting.contains_key(address)).then_some(*address)
        };
        self.guarded.iter().filter_map(orphan).collect()
    }

    /// All groups that have addresses here, those of earlier processes too.
    pub fn groups(&self) -> Vec<GroupId> {
        let groups: BTreeSet<GroupId> = self
            .guarded
            .values()
            .copied()
            .filter(|group| *group != CLOSED)
            .collect();
        groups.into_iter().collect()
    }

    /// Stops guarding addresses of [`Keeper::orphans`]; others are left alone. Only
    /// after they are off every device.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn forget(&mut self, addresses: &[IpAddr]) -> Result<(), GuardError> {
        let orphans = self.orphans();
        for address in addresses.iter().map(IpAddr::to_canonical) {
            if !orphans.contains(&address) {
                continue;
            }
            if let Ok(bpf) = &self.bpf {
                bpf.remove(address)?;
            }
            if let Ok(table) = &mut self.nft
                && let Err(error) = table.change(&[(address, Some(CLOSED), None)])
            {
                table.distrust();
                return Err(GuardError::kernel(
                    format!("stop guarding {address}"),
                    error,
                ));
            }
            self.guarded.remove(&address);
        }
        Ok(())
    }

    /// Drops attempts to connect (TCP, the first segment) to those of `addresses` that
    /// belong to `group`, for `at_most` and never longer than [`crate::HOLD_MAX`], also
    /// after the death of this process. Everything else passes as before, and nothing
    /// passes that did not. Calling it again replaces what was held for the group.
    ///
    /// Says when the kernel's work on it began and when it was done: from some moment in
    /// between on they are dropped.
    ///
    /// # Errors
    ///
    /// [`GuardError::CannotHold`] without nftables; or the kernel refused.
    pub fn hold(
        &mut self,
        group: GroupId,
        addresses: &[IpAddr],
        at_most: Duration,
    ) -> Result<(Moment, Moment), GuardError> {
        self.unhold(group)?;
        let Ok(table) = &mut self.nft else {
            return Err(GuardError::CannotHold);
        };
        let own = |address: &IpAddr| self.guarded.get(address) == Some(&group);
        let addresses: BTreeSet<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
        let addresses: Vec<IpAddr> = addresses.into_iter().filter(own).collect();
        let span = at_most.min(crate::HOLD_MAX);
        let began = clock::now();
        // Noted first: what a failure leaves behind can then be taken back.
        self.attempts
            .insert(group, (addresses.clone(), began + span));
        table
            .hold_attempts(&addresses, Some(span))
            .map_err(|error| GuardError::kernel("hold attempts to connect", error))?;
        Ok((began, clock::now()))
    }

    /// Lets attempts to connect to the group pass again. Does nothing if none are held.
    ///
    /// # Errors
    ///
    /// The kernel refused; they are held until their time is over.
    pub fn unhold(&mut self, group: GroupId) -> Result<(), GuardError> {
        let (Ok(table), Some((addresses, _))) = (&mut self.nft, self.attempts.remove(&group))
        else {
            return Ok(());
        };
        table
            .hold_attempts(&addresses, None)
            .map_err(|error| GuardError::kernel("let attempts to connect pass", error))
    }

    /// Puts back what is held into a table that was made anew.
    fn hold_again(&mut self) -> Result<(), GuardError> {
        let now = clock::now();
        self.attempts.retain(|_, (_, until)| now < *until);
        let Ok(table) = &mut self.nft else {
            return Ok(());
        };
        for (addresses, until) in self.attempts.values() {
            table
                .hold_attempts(addresses, Some(now.until(*until)))
                .map_err(|error| GuardError::kernel("hold attempts to connect again", error))?;
        }
        Ok(())
    }

    /// Readable (poll for input) when devices or the table may have changed: call
    /// [`Keeper::verify_and_repair`] then, and every [`crate::VERIFY_INTERVAL`] anyhow.
    pub fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Looks whether everything is where it should be, covers new devices, and puts
    /// right what others took away. Never opens anything.
    ///
    /// # Errors
    ///
    /// A repair failed; the other mechanism still enforces, and calling again retries.
    pub fn verify_and_repair(&mut self) -> Result<Repairs, GuardError> {
        self.devices.skip_news();
        let devices = self.list_devices()?;
        // nftables first, which covers a new device in a millisecond; eBPF takes some
        // 50 ms for it. If one cannot be repaired, the other must be all the same.
        let nft = self.repair_table(&devices);
        let bpf = match &mut self.bpf {
            Ok(bpf) => bpf.cover(&devices),
            Err(_) => Ok(Repairs::default()),
        };
        let waiting = self.admit_waiting();
        self.faults = Faults {
            bpf: bpf.as_ref().err().map(GuardError::to_string),
            nft: nft.as_ref().err().map(GuardError::to_string),
        };
        let (bpf, nft) = (bpf?, nft?);
        waiting?;
        Ok(Repairs {
            devices: bpf.devices.max(nft.devices),
            tables: nft.tables,
            ..bpf
        })
    }

    fn repair_table(&mut self, devices: &[Device]) -> Result<Repairs, GuardError> {
        let Ok(table) = &mut self.nft else {
            return Ok(Repairs::default());
        };
        let verify = |error| GuardError::kernel("verify the nftables table", error);
        match table.verify(devices).map_err(verify)? {
            Condition::Whole(count) => Ok(Repairs {
                devices: count,
                ..Repairs::default()
            }),
            Condition::Broken => {
                let held = match &self.bpf {
                    Ok(_) => held(&self.slots, &self.guarded, clock::now()),
                    Err(_) => Vec::new(),
                };
                let content = Content {
                    guarded: &self.guarded,
                    held: &held,
                    devices,
                };
                table
                    .make(&content)
                    .map_err(|error| GuardError::kernel("make the nftables table anew", error))?;
                for (group, _) in &held {
                    let slot = self.slots.find(*group).unwrap_or(Slot::CLOSED);
                    if self.slots.deadline(slot) <= clock::now() {
                        table.drop_held(*group);
                    }
                }
                self.hold_again()?;
                Ok(Repairs {
                    tables: 1,
                    ..Repairs::default()
                })
            }
        }
    }

    /// Which mechanisms enforce, as far as the last round of repairs knows.
    pub fn state(&self) -> GuardState {
        let state = |absent: Option<&String>, fault: &Option<String>| {
            let reason = absent.or(fault.as_ref());
            reason.map_or(BackendState::Active, |reason| {
                BackendState::Absent(reason.clone())
            })
        };
        GuardState {
            bpf: state(self.bpf.as_ref().err(), &self.faults.bpf),
            nft: state(self.nft.as_ref().err(), &self.faults.nft),
        }
    }

    /// Takes everything away: pins, links, table. Nothing is enforced afterwards, so
    /// the addresses must be off the devices before.
    ///
    /// # Errors
    ///
    /// Something is there and cannot be removed.
    pub fn uninstall(self) -> Result<(), GuardError> {
        let bpf = self.bpf.map_or(Ok(()), Bpf::uninstall);
        let nft = self.nft.map_or(Ok(()), Table::uninstall);
        bpf.and(nft)
    }
}

/// The groups that are open, and for how long yet.
fn held(slots: &Slots, guarded: &Guarded, now: Moment) -> Vec<(GroupId, Duration)> {
    let groups: BTreeSet<GroupId> = guarded.values().copied().collect();
    let left = |group: GroupId| {
        let slot = slots.find(group)?;
        Some((group, now.until(slots.deadline(slot)))).filter(|(_, left)| !left.is_zero())
    };
    groups.into_iter().filter_map(left).collect()
}

/// One descriptor that is readable when any of the sockets is.
fn watch(devices: &Devices, table: Option<&Table>) -> Result<OwnedFd, GuardError> {
    let failed = |error| GuardError::kernel("watch for changes", error);
    let events = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
    let sources = std::iter::once(devices.news()).chain(table.into_iter().flat_map(Table::sources));
    for (number, source) in sources.enumerate() {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&events, source, data, epoll::EventFlags::IN).map_err(failed)?;
    }
    Ok(events)
}
