//! The deadlines of all groups: words that the lease thread writes, the kernel's
//! program reads, and a later process finds again.
//!
//! Who writes what: the hot handle writes deadlines and epochs, the keeper writes
//! which group a slot belongs to. A slot keeps its group as long as the process lives,
//! so that a lease thread that was stopped between finding the slot and storing the
//! deadline cannot open another group.

use std::sync::atomic::{AtomicU64, Ordering};

use evenkeel_core::{GroupId, Moment};
use evenkeel_host::sys::bpf::{MapKind, MapShape, MappedWords};

use crate::GROUPS_MAX;

/// Words of a slot: deadline, group, number of the epoch, one to spare.
const SLOT_WORDS: usize = 4;
const DEADLINE: usize = 0;
const GROUP: usize = 1;
const EPOCH: usize = 2;

/// One slot for each group, and the one that is closed for ever.
const SLOTS: usize = GROUPS_MAX + 1;

/// What the kernel's map of slots looks like. The program reads the first word.
pub(crate) const SHAPE: MapShape = MapShape {
    kind: MapKind::MappedArray,
    key: 4,
    value: (SLOT_WORDS * 8) as u32,
    entries: SLOTS as u32,
};

/// Number of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    /// The slot whose deadline is never written.
    pub(crate) const CLOSED: Self = Self(0);

    /// As the kernel's map of addresses stores it.
    pub(crate) fn to_bytes(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// What the kernel's map of addresses stores; what is no slot is the closed one.
    pub(crate) fn from_bytes(bytes: [u8; 4]) -> Self {
        let number = u32::from_ne_bytes(bytes);
        if (number as usize) < SLOTS {
            Self(number)
        } else {
            Self::CLOSED
        }
    }
}

enum Words {
    /// Mapped: the kernel's program reads them.
    Mapped(MappedWords),
    /// Ours alone: without eBPF.
    Private(Box<[AtomicU64]>),
}

/// All slots.
pub(crate) struct Slots {
    words: Words,
}

impl Slots {
    /// The slots that the kernel's program reads.
    pub(crate) fn mapped(words: MappedWords) -> Self {
        Self {
            words: Words::Mapped(words),
        }
    }

    /// Slots that only this process reads.
    pub(crate) fn private() -> Self {
        let words = (0..SLOTS * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect();
        Self {
            words: Words::Private(words),
        }
    }

    fn word(&self, slot: Slot, word: usize) -> &AtomicU64 {
        let words = match &self.words {
            Words::Mapped(words) => words.as_slice(),
            Words::Private(words) => words,
        };
        &words[slot.0 as usize * SLOT_WORDS + word]
    }

    /// How many slots [`Slots::all`] has.
    pub(crate) const COUNT: usize = GROUPS_MAX;

    /// All slots of groups.
    pub(crate) fn all() -> impl Iterator<Item = Slot> {
        (1..SLOTS as u32).map(Slot)
    }

    /// The slot of `group`.
    pub(crate) fn find(&self, group: GroupId) -> Option<Slot> {
        Self::all().find(|slot| self.group(*slot) == Some(group))
    }

    /// Whose slot it is.
    pub(crate) fn group(&self, slot: Slot) -> Option<GroupId> {
        match self.word(slot, GROUP).load(Ordering::Acquire) {
            0 => None,
            id => Some(GroupId(id)),
        }
    }

    /// Until when the group may act, or [`Moment::ZERO`].
    pub(crate) fn deadline(&self, slot: Slot) -> Moment {
        Moment::from_nanos(self.word(slot, DEADLINE).load(Ordering::Acquire))
    }

    /// Number of the epoch that was last extended.
    pub(crate) fn epoch(&self, slot: Slot) -> u64 {
        self.word(slot, EPOCH).load(Ordering::Acquire)
    }

    /// For the hot handle alone. The epoch is stored first: whoever sees the group open
    /// sees at least this epoch.
    pub(crate) fn open(&self, slot: Slot, epoch: u64, until: Moment) {
        self.word(slot, EPOCH).store(epoch, Ordering::Release);
        self.word(slot, DEADLINE)
            .store(until.as_nanos(), Ordering::Release);
    }

    /// For the hot handle alone.
    pub(crate) fn close(&self, slot: Slot) {
        self.word(slot, DEADLINE).store(0, Ordering::SeqCst);
    }

    /// For the keeper alone: the slot of `group`, a free one if it has none yet.
    pub(crate) fn claim(&self, group: GroupId) -> Option<Slot> {
        if let Some(slot) = self.find(group) {
            return Some(slot);
        }
        let free = Self::all().find(|slot| self.group(*slot).is_none())?;
        self.word(free, GROUP).store(group.0, Ordering::Release);
        Some(free)
    }

    /// All groups that have a slot.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> {
        Self::all().filter_map(|slot| self.group(slot))
    }

    /// For the opening of the guard alone, before there is a hot handle: slots of
    /// groups that an earlier process left without addresses and whose deadline has
    /// passed are free again.
    pub(crate) fn free_unused(&self, now: Moment, used: impl Fn(Slot) -> bool) {
        for slot in Self::all().filter(|slot| !used(*slot) && self.deadline(*slot) <= now) {
            for word in [DEADLINE, EPOCH, GROUP] {
                self.word(slot, word).store(0, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_keeps_its_slot() {
        let slots = Slots::private();
        let a = slots.claim(GroupId(7)).expect("a slot");
        let b = slots.claim(GroupId(8)).expect("a slot");
        assert_ne!(a, b);
        assert_ne!(a, Slot::CLOSED);
        assert_eq!(slots.claim(GroupId(7)), Some(a));
        assert_eq!(slots.find(GroupId(8)), Some(b));
        assert_eq!(slots.find(GroupId(9)), None);
    }

    #[test]
    fn the_number_of_groups_is_bounded() {
        let slots = Slots::private();
        for group in 1..=GROUPS_MAX as u64 {
            assert!(slots.claim(GroupId(group)).is_some());
        }
        assert_eq!(slots.claim(GroupId(99_999)), None);
    }

    /// A slot that is still open must not become another group's.
    #[test]
    fn only_slots_that_ran_out_are_freed() {
        let slots = Slots::private();
        let open = slots.claim(GroupId(1)).expect("a slot");
        let used = slots.claim(GroupId(2)).expect("a slot");
        let gone = slots.claim(GroupId(3)).expect("a slot");
        slots.open(open, 5, Moment::from_nanos(100));
        slots.open(gone, 5, Moment::from_nanos(50));
        slots.free_unused(Moment::from_nanos(60), |slot| slot == used);
        assert_eq!(slots.find(GroupId(1)), Some(open));
        assert_eq!(slots.find(GroupId(2)), Some(used));
        assert_eq!(slots.find(GroupId(3)), None);
        assert_eq!(slots.deadline(gone), Moment::ZERO);
    }
}
