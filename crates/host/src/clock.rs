//! The boot clock and the calendar clock. Only the driver and the edges read them.

use std::time::Duration;

use evenkeel_core::Moment;

/// Now, on `CLOCK_BOOTTIME`: the only clock that decides anything.
pub fn now() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Moment::from_nanos(seconds * 1_000_000_000 + nanos)
}

/// By how much the boot clock of this process is shifted against the machine's own
/// (time_namespaces(7)); none if it is not, or if the kernel knows no such thing. The
/// kernel's guard counts by the machine's clock, so a shifted one cannot be used.
pub fn shift() -> Option<Duration> {
    shift_of(&std::fs::read_to_string("/proc/self/timens_offsets").ok()?)
}

/// From lines of a clock's name, seconds and nanoseconds. How far is enough: the sign of
/// a shift does not matter.
fn shift_of(offsets: &str) -> Option<Duration> {
    let line = offsets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "boottime").then_some(words)
    })?;
    let mut numbers = line.map(|word| word.parse::<i64>().unwrap_or(0).unsigned_abs());
    let (seconds, nanos) = (numbers.next()?, numbers.next()?);
    Some(Duration::from_secs(seconds) + Duration::from_nanos(nanos)).filter(|by| !by.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_boot_clock_is_seen() {
        let plain = "monotonic           0         0\nboottime            0         0\n";
        assert_eq!(shift_of(plain), None);
        let other = "monotonic           5         0\nboottime            0         0\n";
        assert_eq!(shift_of(other), None, "nothing counts by that one");
        let ahead = "monotonic           0         0\nboottime         3600       500\n";
        assert_eq!(shift_of(ahead), Some(Duration::new(3600, 500)));
        let back = "monotonic           0         0\nboottime           -7         0\n";
        assert_eq!(shift_of(back), Some(Duration::from_secs(7)));
        assert_eq!(shift_of(""), None);
    }
}
