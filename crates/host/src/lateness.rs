//! How late work of ordinary priority runs on this machine.
//!
//! A thread of ordinary priority wishes to be woken again and again. Each time it notes
//! the greater of two waits:
//!
//! - how late it was woken itself. The scheduler is kind to those that mostly sleep, so
//!   this is the least that anybody waits, and it counts what control groups and
//!   priorities do to us;
//! - how long a process waits that has used up its slice: a whole round of those that are
//!   ready to run. That is what a web server meets as soon as it has work to do.
//!
//! One late wake-up says little (a machine that was paused, sixty threads of a server
//! woken at once); two within a second say that processors are short. Hence the second
//! greatest of the last [`SAMPLES`] notes counts.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock;

/// From one wake-up to the next: often enough to notice overload before a check with a
/// time-out of 100 ms fails twice, and twenty short wake-ups a second cost nothing.
pub const PACE: Duration = Duration::from_millis(50);

/// Notes that are remembered: a second, more when they are late. A service needs about
/// that long to answer in time again when an overload has ended.
pub const SAMPLES: usize = 20;

/// Work that runs so late makes checks with the usual time-outs of a fifth of a second
/// doubtful (`core::health::WAITS_PER_ANSWER`).
pub const BUSY: Duration = Duration::from_millis(33);

/// What the scheduler gives one process before it turns to the next: 1.4 to 2.8 ms by
/// default, rounded up to the tick of 1 to 10 ms.
const SLICE: Duration = Duration::from_millis(3);

/// Who is ready to run, as the fourth word: `0.20 0.18 0.12 1/80 11206`.
const LOADAVG: &str = "/proc/loadavg";
/// The processors, as `0-3,5`.
const ONLINE: &str = "/sys/devices/system/cpu/online";
/// Longer than either.
const LINE_MAX: usize = 128;

/// Measures until it is dropped.
#[derive(Debug)]
pub struct Canary {
    micros: Arc<AtomicU64>,
}

impl Canary {
    /// Starts the thread, of the ordinary priority that new threads have.
    pub fn start() -> io::Result<Self> {
        let micros = Arc::new(AtomicU64::new(0));
        let weak = Arc::downgrade(&micros);
        std::thread::Builder::new()
            .name("canary".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let mut window = Window::default();
                // Where either cannot be read, the wake-ups alone count.
                let ready = std::fs::File::open(LOADAVG).ok();
                let online = std::fs::read_to_string(ONLINE).ok();
                let processors = online
                    .and_then(|text| processors(&text))
                    .unwrap_or(u32::MAX);
                while let Some(micros) = weak.upgrade() {
                    micros.store(window.lateness().as_micros() as u64, Ordering::Relaxed);
                    drop(micros);
                    let wish = clock::now() + PACE;
                    std::thread::sleep(PACE);
                    let late = clock::now().since(wish);
                    let ready = ready.as_ref().and_then(read_ready).unwrap_or(0);
                    window.note(late.max(round(ready, processors)));
                }
            })?;
        Ok(Self { micros })
    }

    /// How late ordinary work has lately run.
    pub fn lateness(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

/// Enough for a loop without calls; locked memory counts.
const STACK: usize = 64 * 1024;

/// How many are ready to run now, this thread among them.
fn read_ready(file: &std::fs::File) -> Option<u32> {
    let mut line = [0; LINE_MAX];
    let length = file.read_at(&mut line, 0).ok()?;
    ready(std::str::from_utf8(&line[..length]).ok()?)
}

fn ready(loadavg: &str) -> Option<u32> {
    let word = loadavg.split(' ').nth(3)?;
    word.split_once('/')?.0.parse().ok()
}

fn processors(online: &str) -> Option<u32> {
    let count = |range: &str| match range.split_once('-') {
        None => range.parse::<u32>().ok().map(|_| 1),
        Some((from, to)) => {
            let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
            to.checked_sub(from)?.checked_add(1)
        }
    };
    online.trim().split(',').map(count).sum()
}

/// How long one waits that has to let all others run first.
fn round(ready: u32, processors: u32) -> Duration {
    let others = ready.saturating_sub(1);
    SLICE * others / processors.max(1)
}

/// The last notes.
#[derive(Clone, Debug, Default)]
struct Window(VecDeque<Duration>);

impl Window {
    fn note(&mut self, late: Duration) {
        if self.0.len() >= SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(late);
    }

    /// The second greatest.
    fn lateness(&self) -> Duration {
        let (mut first, mut second) = (Duration::ZERO, Duration::ZERO);
        for late in &self.0 {
            if *late >= first {
                (first, second) = (*late, first);
            } else {
                second = second.max(*late);
            }
        }
        second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples: &[u64]) -> u64 {
        let mut window = Window::default();
        for sample in samples {
            window.note(Duration::from_millis(*sample));
        }
        window.lateness().as_millis() as u64
    }

    #[test]
    fn one_late_wake_up_is_none_and_two_are_the_lesser() {
        assert_eq!(after(&[]), 0);
        assert_eq!(after(&[0, 500, 0]), 0);
        assert_eq!(after(&[0, 500, 0, 80]), 80);
        assert_eq!(after(&[80, 0, 500]), 80);
        assert_eq!(after(&[70, 70]), 70);
    }

    #[test]
    fn the_kernels_lines_are_read() {
        assert_eq!(ready("0.20 0.18 0.12 67/180 11206\n"), Some(67));
        assert_eq!(ready("nonsense"), None);
        assert_eq!(processors("0-3,5\n"), Some(5));
        assert_eq!(processors("0\n"), Some(1));
        assert_eq!(processors("3-1"), None);
    }

    #[test]
    fn a_round_is_long_when_many_are_ready() {
        let ms = |ready, processors| round(ready, processors).as_millis();
        assert_eq!(ms(0, 2), 0);
        assert_eq!(ms(1, 2), 0, "this thread alone");
        assert_eq!(ms(5, 2), 6, "two more than processors for each");
        assert_eq!(ms(65, 2), 96, "32 busy loops per processor");
        assert_eq!(ms(65, 64), 3);
        assert_eq!(ms(1000, u32::MAX), 0, "an unknown number of processors");
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let mut samples = vec![90; SAMPLES];
        samples.extend([1; SAMPLES]);
        assert_eq!(after(&samples), 1);
    }

    #[test]
    fn the_thread_measures() {
        let canary = Canary::start().expect("a thread");
        let weak = Arc::downgrade(&canary.micros);
        assert!(canary.lateness() < Duration::from_secs(5));
        drop(canary);
        let deadline = clock::now() + Duration::from_secs(20);
        while weak.upgrade().is_some() {
            assert!(clock::now() < deadline, "the thread ends with its owner");
            std::thread::yield_now();
        }
    }
}
