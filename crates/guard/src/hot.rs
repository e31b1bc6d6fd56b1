//! The hot handle: what the lease thread does.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::lease::Lease;
use evenkeel_core::{GroupId, Moment};

use crate::nft::{Hold, Ownership, Relay, Table, groups_of};
use crate::slots::{Slot, Slots};
use crate::{Backends, Claim, GuardError, Keeper, Settings, bpf};
use evenkeel_host::sys::bpf::Map;

/// What became of an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// The kernel lets the group act until the lease ends.
    Open,
    /// The lease had run out before the kernel knew of it: the group stays mute.
    Late,
    /// No [`Keeper::set_addresses`] has named the group: there is nothing to open.
    UnknownGroup,
}

/// With nftables alone: how much of a lease is left unused, so that a time-out that the
/// kernel reads a little later than we read the clock still ends in time.
const READING_TIME: Duration = Duration::from_millis(1);

/// With nftables alone: how often a refresh that took longer than [`READING_TIME`] is
/// done again before the group is muted until the next renewal.
const REFRESH_TRIES: usize = 3;

/// While eBPF enforces the deadline: how much longer than the lease the element of
/// nftables lives. A renewal of it can be held up for so long by others: a container
/// engine that loads its rules takes 100 ms, and each netfilter socket that anybody closes
/// (a worker that dies, an administrator's `nft list`) keeps the kernel's lock on tables
/// for a grace period of RCU. Without this, a group that is held would be mute meanwhile.
/// What it costs: while somebody has taken the eBPF programs away (up to 100 ms, until the
/// keeper has put them back), a group whose lease ends or is given back in that very time
/// is muted as much later, or as late as the relay deletes its element.
pub(crate) const RESERVE: Duration = Duration::from_millis(100);

/// How renewals reach nftables.
enum Nft {
    /// Not at all.
    Absent,
    /// By the lease thread itself: nothing else enforces, so what it does must be done
    /// when it returns.
    Alone(Hold),
    /// eBPF enforces. The lease thread itself only opens a closed group, so that its
    /// announcements pass; renewals go by the relay, which may have to wait for others.
    Behind(Hold, Relay),
}

/// The hot handle: one thread, the lease thread, owns it and alone writes deadlines.
/// Nothing here allocates, opens a file or logs.
///
/// With both mechanisms, eBPF decides: its deadline is absolute. The element of
/// nftables then lives a little longer (`RESERVE`, and as late as the kernel read it); a
/// packet must pass both. With nftables alone its element is kept within the lease as well as a
/// relative time-out can be.
pub struct Guard {
    slots: Arc<Slots>,
    nft: Nft,
}

impl Guard {
    /// Opens the guard of this network namespace: continues what an earlier process
    /// left (deadlines found there stay in force, nothing is opened or closed by it),
    /// or makes it new with every address closed. Covers all devices that exist.
    ///
    /// # Errors
    ///
    /// [`GuardError::NoBackend`] if neither mechanism works here, and others if
    /// something is there but cannot be taken over.
    pub fn open(settings: &Settings, claim: &Claim) -> Result<(Self, Keeper), GuardError> {
        Keeper::open(settings, Ownership::IfPossible, claim)
    }

    /// A second hot handle, beside one of a process that lives: for the process that takes
    /// over when that one dies. Finds what is there and changes nothing, so that it can be
    /// had long before; until the other lease thread is dead it must not be used. The
    /// [`Seat`] is for [`Keeper::join`].
    ///
    /// # Errors
    ///
    /// [`GuardError::NoBackend`] if nothing is there to go on with.
    pub fn resume(settings: &Settings, claim: &Claim) -> Result<(Self, Seat), GuardError> {
        settings.check()?;
        let bpf = match settings.backends {
            Backends::Both | Backends::BpfOnly => bpf::find_slots(&settings.pins()?),
            Backends::NftOnly => Ok(None),
        };
        let nft = match settings.backends {
            Backends::Both | Backends::NftOnly => groups_of(&settings.key(), &claim.port()),
            Backends::BpfOnly => Ok(None),
        };
        let hold = || Hold::new(claim.port(), &settings.key());
        let (slots, map, nft) = match (bpf, nft) {
            (Ok(Some((map, words))), nft) => {
                let slots = Arc::new(Slots::mapped(words));
                let nft = match nft {
                    Ok(Some(_)) => Nft::Behind(hold(), Relay::start(Arc::clone(&slots), hold())?),
                    Ok(None) | Err(_) => Nft::Absent,
                };
                (slots, Some(map), nft)
            }
            (_, Ok(Some(groups))) => {
                let slots = Slots::private();
                for group in groups {
                    slots.claim(group).ok_or(GuardError::TooManyGroups)?;
                }
                (Arc::new(slots), None, Nft::Alone(hold()))
            }
            (bpf, nft) => {
                let reason = |error: Option<GuardError>| {
                    error.map_or("nothing is there".to_owned(), |error| error.to_string())
                };
                return Err(GuardError::NoBackend {
                    bpf: reason(bpf.err()),
                    nft: reason(nft.err()),
                });
            }
        };
        let seat = Seat {
            slots: Arc::clone(&slots),
            map,
            by_nft: !matches!(nft, Nft::Absent),
        };
        Ok((Self { slots, nft }, seat))
    }

    /// Over both mechanisms.
    pub(crate) fn both(slots: Arc<Slots>, table: &Table) -> Result<Self, GuardError> {
        let relay = Relay::start(Arc::clone(&slots), table.hold())?;
        Ok(Self {
            slots,
            nft: Nft::Behind(table.hold(), relay),
        })
    }

    /// Over eBPF alone, or over `table` alone.
    pub(crate) fn one(slots: Arc<Slots>, table: Option<&Table>) -> Self {
        let nft = table.map_or(Nft::Absent, |table| Nft::Alone(table.hold()));
        Self { slots, nft }
    }

    /// Lets the group of `lease` act until the lease ends, and not a moment longer.
    /// `now` reads `CLOCK_BOOTTIME`; it is read before and after the kernel is told.
    pub fn extend(&mut self, lease: &Lease, now: impl Fn() -> Moment) -> Extended {
        self.set_deadline(lease.group(), lease.epoch().number(), lease.until(), now)
    }

    /// What [`Guard::extend`] does, apart from the proof that a [`Lease`] is.
    pub(crate) fn set_deadline(
        &mut self,
        group: GroupId,
        epoch: u64,
        until: Moment,
        now: impl Fn() -> Moment,
    ) -> Extended {
        let Some(slot) = self.slots.find(group) else {
            return Extended::UnknownGroup;
        };
        let before = self.slots.deadline(slot);
        self.slots.open(slot, epoch, until);
        match &mut self.nft {
            Nft::Absent => {}
            Nft::Alone(hold) => refresh_alone(hold, group, until, &now),
            Nft::Behind(hold, relay) => {
                let start = now();
                if before <= start {
                    hold.refresh(group, start.until(until) + RESERVE);
                    if now() >= until {
                        hold.delete(group);
                    }
                }
                relay.wake();
            }
        }
        if now() < until {
            Extended::Open
        } else {
            Extended::Late
        }
    }

    /// Mutes the group. It is mute when this returns.
    pub fn close(&mut self, group: GroupId) {
        if let Some(slot) = self.slots.find(group) {
            self.slots.close(slot);
        }
        match &mut self.nft {
            Nft::Absent => {}
            Nft::Alone(hold) => hold.delete(group),
            Nft::Behind(_, relay) => relay.wake(),
        }
    }

    /// Until when the kernel lets the group act; `None` if it is closed or unknown. It
    /// may be past. With nftables alone, what an earlier process granted is not known.
    pub fn deadline(&self, group: GroupId) -> Option<Moment> {
        let slot: Slot = self.slots.find(group)?;
        Some(self.slots.deadline(slot)).filter(|deadline| *deadline != Moment::ZERO)
    }
}

/// Where a guard that [`Guard::resume`] gave sits: its keeper must have the same deadlines.
pub struct Seat {
    pub(crate) slots: Arc<Slots>,
    pub(crate) map: Option<Map>,
    /// The hot handle renews elements of the table.
    pub(crate) by_nft: bool,
}

/// A time-out counts from when the kernel reads it. Whatever lies between our look at
/// the clock and that moment is granted too much, so a refresh during which more than
/// [`READING_TIME`] passed is repeated with what is left then, and what has passed in the
/// end is deleted.
fn refresh_alone(hold: &mut Hold, group: GroupId, until: Moment, now: &impl Fn() -> Moment) {
    for _ in 0..REFRESH_TRIES {
        let before = now();
        if before >= until {
            break;
        }
        hold.refresh(group, before.until(until).saturating_sub(READING_TIME));
        if now().since(before) <= READING_TIME {
            return;
        }
    }
    hold.delete(group);
}
