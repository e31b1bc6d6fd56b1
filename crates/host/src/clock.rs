//! The boot clock and the calendar clock. Only the driver and the edges read them.

use evenkeel_core::Moment;

/// Now, on `CLOCK_BOOTTIME`: the only clock that decides anything.
pub fn now() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Moment::from_nanos(seconds * 1_000_000_000 + nanos)
}
