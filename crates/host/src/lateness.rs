//! How late work of ordinary priority runs on this machine, measured by doing some.
//!
//! A thread of ordinary priority wishes to be woken again and again and notes how late it
//! was: that is what every process here that waits for a client, a disk or another
//! process experiences. It is the wait itself, not a load from which one could be guessed:
//! many busy processes of low priority, or in a control group of their own, delay nobody.
//!
//! One late wake-up says little (a machine that was paused, an interrupt); two within
//! half a second say that processors are short. Hence the second greatest of the last
//! [`SAMPLES`] wake-ups counts.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock;

/// From one wake-up to the next: often enough to notice overload before a check with a
/// time-out of 100 ms fails twice, and twenty short wake-ups a second cost nothing.
pub const PACE: Duration = Duration::from_millis(50);

/// Wake-ups that are remembered: half a second, more when they are late.
pub const SAMPLES: usize = 10;

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
                while let Some(micros) = weak.upgrade() {
                    micros.store(window.lateness().as_micros() as u64, Ordering::Relaxed);
                    drop(micros);
                    let wish = clock::now() + PACE;
                    std::thread::sleep(PACE);
                    window.note(clock::now().since(wish));
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

/// The last wake-ups.
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
