//! Real-time scheduling and locked memory for the threads that must not wait, and how a
//! worker dies with its parent. Only the scheduling class needs an unsafe call; the rest
//! lives here because all of it is what a thread does before it starts its work.

use std::ffi::CString;
use std::{fs, io};

use rustix::mm::MlockAllFlags;
use rustix::process::{Pid, Signal};
use rustix::thread::CapabilitySet;

/// The highest priority evenkeel may ask for. The kernel's own threads that carry
/// packets and timers run up to 50; above them a busy thread of ours would starve them.
pub const PRIORITY_MAX: u8 = 49;

/// How a real-time thread shares a processor with others of its priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// It runs until it waits (`SCHED_FIFO`).
    UntilItWaits,
    /// It takes turns (`SCHED_RR`), 100 ms each unless the administrator set
    /// `kernel.sched_rr_timeslice_ms`.
    InTurns,
}

/// Why a thread does not get what it asked for. Follows "failed to".
#[derive(Debug, thiserror::Error)]
pub enum SchedError {
    /// A right is missing.
    #[error("{attempt}: this process lacks {right}; {remedy}")]
    Right {
        /// What was asked for.
        attempt: &'static str,
        /// The capability or limit.
        right: &'static str,
        /// What an administrator does about it.
        remedy: &'static str,
    },
    /// The rights are there, but the control group has no real-time budget.
    #[error(
        "{attempt}: the control group of this process has no real-time budget; \
         raise cpu.rt_runtime_us of {group} or run in the root group"
    )]
    Budget {
        /// What was asked for.
        attempt: &'static str,
        /// The control group.
        group: String,
    },
    /// The priority is not between 1 and [`PRIORITY_MAX`].
    #[error("schedule a thread in real time: priority {0} is not between 1 and {PRIORITY_MAX}")]
    Priority(u8),
    /// Anything else.
    #[error("{attempt}: {source}")]
    Kernel {
        /// What was asked for.
        attempt: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

const REALTIME: &str = "schedule a thread in real time";
const LOCK: &str = "lock memory";

/// Puts the calling thread into the real-time class. Processes and threads it starts
/// are ordinary again (`SCHED_RESET_ON_FORK`), so that no hook or check inherits it.
/// See sched(7).
pub fn realtime(priority: u8, share: Share) -> Result<(), SchedError> {
    if priority == 0 || priority > PRIORITY_MAX {
        return Err(SchedError::Priority(priority));
    }
    let policy = match share {
        Share::UntilItWaits => libc::SCHED_FIFO,
        Share::InTurns => libc::SCHED_RR,
    };
    schedule(policy, priority).map_err(|source| explain_realtime(source, rights(), &cgroups()))
}

/// Puts the calling thread back among the ordinary ones.
pub fn ordinary() -> Result<(), SchedError> {
    schedule(libc::SCHED_OTHER, 0).map_err(|source| SchedError::Kernel {
        attempt: "schedule a thread as others are",
        source,
    })
}

/// What [`favoured`] sets: such a thread weighs ten times as much as an ordinary one, so
/// that among dozens of busy ones it is still woken within milliseconds, but it cannot
/// keep a processor from anybody.
const FAVOUR: i32 = -10;

/// Lets the calling thread, still an ordinary one, go before others of its kind: for what
/// asks whether others are well, so that the load that it meets is theirs and not its own.
/// Threads and processes that it starts inherit this.
pub fn favoured() -> Result<(), SchedError> {
    // 0, that is none, names the calling thread alone: setpriority(2), bugs.
    rustix::process::setpriority_process(None, FAVOUR).map_err(|source| SchedError::Kernel {
        attempt: "let a thread go before others",
        source: source.into(),
    })
}

fn schedule(policy: libc::c_int, priority: u8) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: libc::c_int::from(priority),
    };
    let policy = policy | libc::SCHED_RESET_ON_FORK;
    // The bare call, because musl's `sched_setscheduler` only says that it does nothing.
    // SAFETY: `parameters` is a whole `sched_param` that outlives the call, which only
    // reads it; 0 names the calling thread.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            policy,
            std::ptr::from_ref(&parameters),
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn rights() -> CapabilitySet {
    rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

fn cgroups() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// Tells a missing right from a control group without budget: both are `EPERM`
/// (`__sched_setscheduler`: `user_check_sched_setscheduler` before the group's
/// `rt_bandwidth.rt_runtime`).
fn explain_realtime(source: io::Error, rights: CapabilitySet, cgroups: &str) -> SchedError {
    if source.raw_os_error() != Some(libc::EPERM) {
        return SchedError::Kernel {
            attempt: REALTIME,
            source,
        };
    }
    let group = cpu_group(cgroups);
    match group {
        Some(group) if rights.contains(CapabilitySet::SYS_NICE) && group != "/" => {
            SchedError::Budget {
                attempt: REALTIME,
                group: group.to_owned(),
            }
        }
        Some(_) | None => SchedError::Right {
            attempt: REALTIME,
            right: "CAP_SYS_NICE (of the machine, not of a user namespace)",
            remedy: "run it as root, or set AmbientCapabilities=CAP_SYS_NICE or \
                     LimitRTPRIO=49 in its unit",
        },
    }
}

/// The group of the version 1 `cpu` controller in the text of `/proc/self/cgroup`.
fn cpu_group(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let group = parts.next()?;
        controllers
            .split(',')
            .any(|name| name == "cpu")
            .then_some(group)
    })
}

/// How much of the time real-time threads may run at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttle {
    /// No limit.
    None,
    /// So many microseconds out of each `period_us`; the usual 950,000 of 1,000,000
    /// never matters to threads that mostly wait.
    Limited {
        /// Microseconds for real-time threads.
        runtime_us: u32,
        /// Out of so many.
        period_us: u32,
    },
    /// Real-time threads do not run.
    Nothing,
    /// This kernel does not say.
    Unknown,
}

/// What the kernel grants real-time threads (`kernel.sched_rt_runtime_us`).
pub fn throttle() -> Throttle {
    let read = |name| fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok();
    throttle_of(read("sched_rt_runtime_us"), read("sched_rt_period_us"))
}

fn throttle_of(runtime: Option<String>, period: Option<String>) -> Throttle {
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<i64>().ok());
    match (number(runtime), number(period)) {
        (Some(0), _) => Throttle::Nothing,
        (Some(-1), _) => Throttle::None,
        (Some(runtime), Some(period)) => match (u32::try_from(runtime), u32::try_from(period)) {
            (Ok(runtime_us), Ok(period_us)) => Throttle::Limited {
                runtime_us,
                period_us,
            },
            _ => Throttle::Unknown,
        },
        _ => Throttle::Unknown,
    }
}

/// Keeps this process in memory. What is mapped now, above all the program itself, is
/// read in and stays: no real-time thread ever waits for a disk to fetch its own code.
/// What comes later is locked as it is touched, so that the unused parts of stacks cost
/// nothing. Call it once, early, before threads are started.
pub fn lock_memory() -> Result<(), SchedError> {
    let lock = |flags| {
        rustix::mm::mlockall(flags).map_err(|error| match error {
            rustix::io::Errno::PERM | rustix::io::Errno::NOMEM => SchedError::Right {
                attempt: LOCK,
                right: "CAP_IPC_LOCK",
                remedy: "run it as root, or set LimitMEMLOCK=infinity or \
                         AmbientCapabilities=CAP_IPC_LOCK in its unit",
            },
            error => SchedError::Kernel {
                attempt: LOCK,
                source: error.into(),
            },
        })
    };
    lock(MlockAllFlags::CURRENT)?;
    lock(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
}

/// Gives the calling thread a name for `ps` and `top`; the kernel keeps 15 bytes of it.
pub fn name_thread(name: &str) {
    let kept: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).collect();
    if let Ok(name) = CString::new(kept) {
        // A thread without a name runs as well.
        let _ = rustix::thread::set_name(&name);
    }
}

/// What a worker learns when it ties its life to its parent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// It lives, and its death will kill this process.
    Alive,
    /// It died before the tie was made: stop.
    Gone,
}

/// Asks the kernel to kill this process (SIGKILL) when its parent dies, and looks
/// whether `parent` still is the parent. The tie is to the parent's *thread* that made
/// this process (prctl(2), `PR_SET_PDEATHSIG`): that thread must live as long as the
/// parent does. Lost again by executing a program with more rights.
pub fn die_with(parent: Pid) -> Result<Parent, SchedError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| {
        SchedError::Kernel {
            attempt: "tie this process to its parent",
            source: error.into(),
        }
    })?;
    // The parent may have died between the start of this process and the call above.
    Ok(if rustix::process::getppid() == Some(parent) {
        Parent::Alive
    } else {
        Parent::Gone
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> io::Error {
        io::Error::from_raw_os_error(libc::EPERM)
    }

    #[test]
    fn a_missing_right_and_a_missing_budget_are_told_apart() {
        let nothing = CapabilitySet::empty();
        let nice = CapabilitySet::SYS_NICE;
        let version1 = "4:memory:/a\n3:cpu,cpuacct:/docker/x\n";
        let version2 = "0::/system.slice/evenkeel.service\n";
        let right = |error| matches!(error, SchedError::Right { .. });
        assert!(right(explain_realtime(refused(), nothing, version1)));
        assert!(right(explain_realtime(refused(), nothing, version2)));
        assert!(right(explain_realtime(refused(), nice, version2)));
        assert!(right(explain_realtime(
            refused(),
            nice,
            "3:cpu,cpuacct:/\n"
        )));
        let text = explain_realtime(refused(), nice, version1).to_string();
        assert!(text.contains("cpu.rt_runtime_us of /docker/x"), "{text}");
        let other = io::Error::from_raw_os_error(libc::EINVAL);
        assert!(matches!(
            explain_realtime(other, nice, version1),
            SchedError::Kernel { .. }
        ));
    }

    #[test]
    fn throttling_is_read() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(throttle_of(text("-1\n"), text("1000000\n")), Throttle::None);
        assert_eq!(
            throttle_of(text("0\n"), text("1000000\n")),
            Throttle::Nothing
        );
        assert_eq!(
            throttle_of(text("950000\n"), text("1000000\n")),
            Throttle::Limited {
                runtime_us: 950_000,
                period_us: 1_000_000
            }
        );
        assert_eq!(throttle_of(None, None), Throttle::Unknown);
        assert_eq!(
            throttle_of(text("many"), text("1000000\n")),
            Throttle::Unknown
        );
    }

    #[test]
    fn a_priority_out_of_range_is_refused() {
        assert!(matches!(
            realtime(0, Share::InTurns),
            Err(SchedError::Priority(0))
        ));
        assert!(matches!(
            realtime(50, Share::InTurns),
            Err(SchedError::Priority(50))
        ));
    }

    /// The second field from the end that matters: field 41 of proc(5) `stat`.
    fn policy_of_this_thread() -> i32 {
        let stat = fs::read_to_string("/proc/thread-self/stat").expect("proc is mounted");
        let after_name = stat.rsplit(')').next().expect("a name in brackets");
        after_name
            .split_whitespace()
            .nth(38)
            .expect("field 41")
            .parse()
            .expect("a number")
    }

    #[test]
    fn a_thread_becomes_real_time_and_its_children_do_not() {
        let child = std::thread::spawn(|| {
            name_thread("a-name-that-is-much-too-long");
            let comm = fs::read_to_string("/proc/thread-self/comm").expect("proc is mounted");
            assert_eq!(comm.trim_end(), "a-name-that-is-");
            match realtime(2, Share::InTurns) {
                Ok(()) => {}
                Err(error @ (SchedError::Right { .. } | SchedError::Budget { .. })) => {
                    eprintln!("SKIPPED: this machine grants no real-time scheduling: {error}");
                    return None;
                }
                Err(error) => panic!("{error}"),
            }
            assert_eq!(policy_of_this_thread(), libc::SCHED_RR);
            let grandchild = std::thread::spawn(policy_of_this_thread)
                .join()
                .expect("it ran");
            ordinary().expect("always allowed");
            Some((grandchild, policy_of_this_thread()))
        });
        if let Some(policies) = child.join().expect("it ran") {
            assert_eq!(policies, (libc::SCHED_OTHER, libc::SCHED_OTHER));
        }
    }
}
