//! Signals that wait: a program that executes another one in its place keeps them from
//! being lost, or from ending it, until the new one listens (`execve(2)`: the mask and what
//! is pending survive, handlers do not).

use std::io;

/// Which signals a daemon is told things by.
const TOLD_BY: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Keeps SIGTERM, SIGINT and SIGHUP waiting in the calling thread, and in what it starts or
/// executes from now on.
pub fn hold() -> io::Result<()> {
    mask(libc::SIG_BLOCK)
}

/// Lets them through again, those that waited first.
pub fn let_through() -> io::Result<()> {
    mask(libc::SIG_UNBLOCK)
}

/// Sends the calling thread a signal, which waits there if it is [held back](hold), also over
/// an execution.
pub fn say_again(signal: rustix::process::Signal) -> io::Result<()> {
    // SAFETY: it takes and returns plain numbers; a signal that is not held back does what this
    // program has said that it shall.
    match unsafe { libc::raise(signal.as_raw()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn mask(how: libc::c_int) -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the set is initialised by the first call and lives until the last one; the
    // signals are valid; no old set is asked for.
    let answer = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in TOLD_BY {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut())
    };
    match answer {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("it is there");
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        u64::from_str_radix(line.expect("a line").trim(), 16).expect("a number")
    }

    #[test]
    fn what_is_held_is_let_through_again() {
        let before = held();
        hold().expect("held");
        for signal in TOLD_BY {
            assert_ne!(held() & (1 << (signal - 1)), 0, "signal {signal}");
        }
        let_through().expect("let through");
        for signal in TOLD_BY {
            assert_eq!(held() & (1 << (signal - 1)), 0, "signal {signal}");
        }
        assert_eq!(held() | before, before);
    }
}
