//! What makes this machine unfit to keep a lease: clocks, rights, and how late it wakes up.

use std::time::Duration;

use evenkeel_core::finding::Finding;
use evenkeel_core::topology::Timing;

use crate::lateness::Canary;
use crate::sys::sched::{self, SchedError, Share, Throttle};
use crate::{clock, lateness};

/// From one wake-up to the next while jitter is measured: several in each heartbeat.
const STEP: Duration = Duration::from_millis(1);
/// The least of real time that threads need: they mostly wait.
const SHARE_MIN: f64 = 0.05;

/// Looks at clock and rights of this process, without changing the machine. Locks the memory of
/// the calling process, if it may.
pub fn examine(priority: u8) -> Vec<Finding> {
    vec![
        clock_of(clock::shift()),
        throttled(sched::throttle()),
        realtime(try_realtime(priority)),
        locked(sched::lock_memory()),
    ]
}

fn clock_of(shift: Option<Duration>) -> Finding {
    match shift {
        None => Finding::fine("clock", "the boot clock is the machine's own"),
        Some(by) => Finding::unfit(
            "clock",
            format!(
                "the boot clock is shifted by {} s (time_namespaces(7)), and the kernel's guard \
                 counts by the machine's own",
                by.as_secs_f64()
            ),
        )
        .remedy("run evenkeel outside of a time namespace"),
    }
}

fn throttled(throttle: Throttle) -> Finding {
    let place = "kernel.sched_rt_runtime_us";
    match throttle {
        Throttle::None => Finding::fine(place, "real-time threads may run without limit"),
        Throttle::Unknown => Finding::fine(place, "this kernel does not limit real-time threads"),
        Throttle::Nothing => {
            Finding::warning(place, "real-time threads do not run at all on this machine")
                .remedy("sysctl kernel.sched_rt_runtime_us=950000, which is the usual value")
        }
        Throttle::Limited {
            runtime_us,
            period_us,
        } => {
            let share = f64::from(runtime_us) / f64::from(period_us.max(1));
            let what = format!("real-time threads may run {:.0} % of the time", share * 1e2);
            match share < SHARE_MIN {
                true => Finding::warning(place, what)
                    .remedy("sysctl kernel.sched_rt_runtime_us=950000, which is the usual value"),
                false => Finding::fine(place, what),
            }
        }
    }
}

/// On a thread of its own: what follows is to run as it did.
fn try_realtime(priority: u8) -> Result<(), SchedError> {
    let tried = std::thread::scope(|scope| {
        scope
            .spawn(|| sched::realtime(priority, Share::UntilItWaits))
            .join()
    });
    tried.unwrap_or(Err(SchedError::Priority(priority)))
}

fn realtime(tried: Result<(), SchedError>) -> Finding {
    let place = "real-time scheduling";
    match tried {
        Ok(()) => Finding::fine(place, "granted"),
        Err(error) => Finding::warning(
            place,
            format!("failed to {error}. Without it a busy machine may lose a lease without need"),
        ),
    }
}

fn locked(tried: Result<(), SchedError>) -> Finding {
    let place = "locked memory";
    match tried {
        Ok(()) => Finding::fine(place, "granted"),
        Err(error) => Finding::warning(
            place,
            format!("failed to {error}. Without it a lease may be lost while memory is read back"),
        ),
    }
}

/// How late this machine woke up a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jitter {
    /// The latest wake-up.
    pub worst: Duration,
    /// How many there were.
    pub count: u32,
    /// The thread was a real-time one, as the lease thread is.
    pub realtime: bool,
    /// How late work of ordinary priority ran.
    pub ordinary: Duration,
    /// For how long it was measured.
    pub span: Duration,
}

/// Measures for so long, with a thread like the lease thread if that is granted.
pub fn measure(span: Duration, priority: u8) -> std::io::Result<Jitter> {
    let canary = Canary::start()?;
    let sampler = std::thread::Builder::new().spawn(move || {
        let realtime = sched::realtime(priority, Share::UntilItWaits).is_ok();
        let until = clock::now() + span;
        let (mut worst, mut count) = (Duration::ZERO, 0_u32);
        loop {
            let wish = clock::now() + STEP;
            std::thread::sleep(STEP);
            let woken = clock::now();
            worst = worst.max(woken.since(wish));
            count += 1;
            if woken >= until {
                return (worst, count, realtime);
            }
        }
    })?;
    let panicked = |_| std::io::Error::other("the thread that measures failed");
    let (worst, count, realtime) = sampler.join().map_err(panicked)?;
    Ok(Jitter {
        worst,
        count,
        realtime,
        ordinary: canary.lateness(),
        span,
    })
}

/// What the jitter means for a lease: a quarter of it is what a machine may take for itself.
pub fn judge(jitter: &Jitter, timing: &Timing) -> Vec<Finding> {
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let quarter = timing.lease / 4;
    let kind = match jitter.realtime {
        true => "a real-time thread",
        false => "an ordinary thread (real-time scheduling is not granted)",
    };
    let what = format!(
        "{kind} was woken {:.1} ms late at worst, of {} times in {:.1} s; a quarter of the lease is {:.0} ms",
        ms(jitter.worst),
        jitter.count,
        jitter.span.as_secs_f64(),
        ms(quarter)
    );
    let lease = match jitter.worst < quarter {
        true => Finding::fine("jitter", what),
        false => {
            let least = (ms(jitter.worst) * 4.0).ceil();
            Finding::warning("jitter", what).remedy(format!(
                "groups may move without need: take a profile with a lease above {least} ms, or \
                 find what keeps this machine busy (a hypervisor that pauses it, interrupts, \
                 power saving)"
            ))
        }
    };
    let work = format!(
        "work of ordinary priority ran {:.1} ms late",
        ms(jitter.ordinary)
    );
    let ordinary = match jitter.ordinary < lateness::BUSY {
        true => Finding::fine("processors", work),
        false => Finding::warning("processors", format!("{work}: they are overloaded")).remedy(
            "checks of services with short time-outs are not believed while it lasts; give the \
             machine more processors or less to do",
        ),
    };
    vec![lease, ordinary]
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::finding::{Severity, worst};

    const FAST: Timing = Timing {
        lease: Duration::from_millis(40),
        heartbeat: Duration::from_millis(8),
    };

    fn jitter(worst: u64, ordinary: u64) -> Jitter {
        Jitter {
            worst: Duration::from_millis(worst),
            count: 3000,
            realtime: true,
            ordinary: Duration::from_millis(ordinary),
            span: Duration::from_secs(3),
        }
    }

    #[test]
    fn jitter_is_judged_by_a_quarter_of_the_lease() {
        assert_eq!(worst(&judge(&jitter(9, 0), &FAST)), Severity::Fine);
        let late = judge(&jitter(10, 0), &FAST);
        assert_eq!(late[0].severity, Severity::Warning);
        assert!(late[0].remedy.contains("above 40 ms"), "{late:?}");
        let far = Timing {
            lease: Duration::from_millis(1500),
            ..FAST
        };
        assert_eq!(worst(&judge(&jitter(374, 0), &far)), Severity::Fine);
        assert_eq!(worst(&judge(&jitter(0, 60), &far)), Severity::Warning);
    }

    #[test]
    fn what_the_kernel_does_not_grant_is_told() {
        assert_eq!(clock_of(None).severity, Severity::Fine);
        let shifted = clock_of(Some(Duration::from_secs(60)));
        assert_eq!(shifted.severity, Severity::Unfit);
        assert_eq!(throttled(Throttle::Nothing).severity, Severity::Warning);
        let limited = |runtime_us| {
            let period_us = 1_000_000;
            throttled(Throttle::Limited {
                runtime_us,
                period_us,
            })
            .severity
        };
        assert_eq!(limited(950_000), Severity::Fine);
        assert_eq!(limited(10_000), Severity::Warning);
        let refused = realtime(Err(SchedError::Priority(99)));
        assert_eq!(refused.severity, Severity::Warning);
    }

    #[test]
    fn jitter_is_measured() {
        let span = Duration::from_millis(50);
        let seen = measure(span, 30).expect("measured");
        assert!(seen.count > 0 && seen.span == span);
    }
}
