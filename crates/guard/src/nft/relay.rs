//! Carries renewals to nftables while eBPF enforces the deadline itself.
//!
//! The kernel carries out one nftables transaction at a time in a network namespace,
//! and a container engine that loads its rules takes 100 ms for one. The lease thread
//! must not wait for that, and need not: eBPF has the deadline. So a thread of its own
//! brings the element of each open group up to date when it is woken. It reads the
//! deadline before and after: what was closed or renewed meanwhile is done again, and
//! what has passed is deleted.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use evenkeel_core::Moment;
use evenkeel_host::clock::now;
use evenkeel_host::sys::sched::{self, Share};
use rustix::event::EventfdFlags;

use super::hold::Hold;
use crate::GuardError;
use crate::hot::RESERVE;
use crate::slots::{Slot, Slots};

/// Above everything ordinary, since an element that is not renewed in time mutes a group
/// that is held; below the threads that decide.
const PRIORITY: u8 = 10;

/// How often one group is done again at once when its deadline changed meanwhile; after
/// that the next waking does it.
const ROUNDS_MAX: usize = 8;

/// The thread and the way to wake it.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    slots: Arc<Slots>,
    wake: OwnedFd,
    stop: AtomicBool,
}

impl Relay {
    /// Starts the thread.
    pub(crate) fn start(slots: Arc<Slots>, hold: Hold) -> Result<Self, GuardError> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|error| GuardError::kernel("make an eventfd", error))?;
        let shared = Arc::new(Shared {
            slots,
            wake,
            stop: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("guard-relay".to_owned())
            .spawn(move || run(&own, hold))
            .map_err(|error| GuardError::kernel("start a thread", error))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A deadline has changed.
    pub(crate) fn wake(&self) {
        // Only a counter at its end refuses, and then the thread is awake.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // Nothing in it panics; if it did, the panic has been told.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, mut hold: Hold) {
    // Without the right, it is an ordinary thread: the elements have the rest of the
    // lease as their reserve.
    let _ = sched::realtime(PRIORITY, Share::InTurns);
    let mut carried = vec![Moment::ZERO; Slots::COUNT];
    let mut counter = [0; 8];
    loop {
        // Interrupted is awake as well.
        let _ = rustix::io::read(shared.wake.as_fd(), &mut counter);
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        for (slot, carried) in Slots::all().zip(carried.iter_mut()) {
            carry(&shared.slots, slot, carried, &mut hold);
        }
    }
}

/// Brings the element of one group up to date.
fn carry(slots: &Slots, slot: Slot, carried: &mut Moment, hold: &mut Hold) {
    for _ in 0..ROUNDS_MAX {
        let deadline = slots.deadline(slot);
        if deadline == *carried {
            return;
        }
        let Some(group) = slots.group(slot) else {
            return;
        };
        let left = now().until(deadline);
        if left.is_zero() {
            hold.delete(group);
        } else {
            hold.refresh(group, left + RESERVE);
            if now() >= deadline {
                hold.delete(group);
            }
        }
        *carried = deadline;
    }
    // Renewed again and again while we looked: the next waking goes on.
    *carried = Moment::ZERO;
}
