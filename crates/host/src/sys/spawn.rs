//! Starting a program without copying this process.
//!
//! `fork` copies the page tables of a daemon whose memory is locked, and every page that
//! a real-time thread then writes costs it a fault. So the child shares our memory until
//! it executes its program, as in posix_spawn(3), and only the calling thread waits for
//! that. What posix_spawn cannot do is done here too: the child is an ordinary process
//! again (scheduling, niceness, OOM score, signals, file mode mask) in a session of its
//! own, and nothing but its three standard descriptors is open in it, whether or not
//! close-on-exec was set on the others.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_char, c_int, c_void};

/// The stack of the child until it executes its program: it makes a dozen system calls.
const STACK_SIZE: usize = 64 * 1024;

/// What is to be executed.
#[derive(Debug)]
pub struct Image<'a> {
    /// The program's absolute path.
    pub path: &'a CStr,
    /// Its arguments, its own name first.
    pub argv: &'a [CString],
    /// Its whole environment, `NAME=value`.
    pub env: &'a [CString],
    /// Standard input, output and error.
    pub standard: [BorrowedFd<'a>; 3],
    /// The open `cgroup.procs` of the control group that it begins in (cgroups(7)); that
    /// of this process without one.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A process that has just been started.
#[derive(Debug)]
pub struct Born {
    /// Its number, which is also that of its session and process group. It stays taken
    /// until somebody waits for the process.
    pub pid: u32,
    /// Readable once it has ended; close-on-exec.
    pub pidfd: OwnedFd,
}

/// Why a program was not executed.
#[derive(Debug)]
pub struct Unborn {
    /// What was attempted; follows "failed to".
    pub attempt: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// What the child reads, and where it says what failed. It lives in the parent's frame,
/// which waits until the child has executed its program or ended.
struct Plan {
    path: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    standard: [RawFd; 3],
    cgroup: RawFd,
    failed: Cell<Option<(&'static str, c_int)>>,
}

/// Executes a program. Waits until the kernel has read its beginning from its file
/// system, so call it where waiting is allowed.
///
/// # Errors
///
/// What could not be done. Nothing runs then, and nothing is left to wait for.
pub fn spawn(image: &Image<'_>) -> Result<Born, Unborn> {
    let refused = |attempt| move |source| Unborn { attempt, source };
    // Copies above 2, so that putting one in its place cannot overwrite another.
    let duplicate = |fd: &BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let mut standard = Vec::with_capacity(3);
    for fd in &image.standard {
        let copy = duplicate(fd).map_err(io::Error::from);
        standard.push(copy.map_err(refused("duplicate a descriptor"))?);
    }
    let argv = pointers(image.argv);
    let env = pointers(image.env);
    let plan = Plan {
        path: image.path.as_ptr(),
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        standard: [0, 1, 2].map(|at: usize| standard[at].as_raw_fd()),
        cgroup: image.cgroup.map_or(-1, |fd| fd.as_raw_fd()),
        failed: Cell::new(None),
    };
    let born = clone(&plan).map_err(refused("start a process"))?;
    let Some((attempt, errno)) = plan.failed.get() else {
        return Ok(born);
    };
    reap_now(&born.pidfd);
    Err(Unborn {
        attempt,
        source: io::Error::from_raw_os_error(errno),
    })
}

/// The list with a null pointer at its end, as execve(2) wants it.
fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    let texts = texts.iter().map(|text| text.as_ptr());
    texts.chain(std::iter::once(std::ptr::null())).collect()
}

/// Waits for a child that is ending by itself.
fn reap_now(pidfd: &OwnedFd) {
    use std::os::fd::AsFd;

    use rustix::process::{WaitId, WaitIdOptions, waitid};
    while let Err(rustix::io::Errno::INTR) =
        waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
    {}
}

/// Makes the child and waits until it has executed its program or ended.
fn clone(plan: &Plan) -> io::Result<Born> {
    let mut stack = vec![0_u128; STACK_SIZE / size_of::<u128>()];
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // A handler of ours must not run in the child, in our memory: it is born with all
    // signals blocked.
    let mask = Mask::block_all();
    // SAFETY: `child` runs on `stack`, whose end is aligned to 16 bytes and which is not
    // used otherwise; with CLONE_VFORK this thread goes on only when the child no longer
    // uses our memory, so `stack`, `plan` and what `plan` points at outlive its use. The
    // child shares this thread's thread-local storage (errno) while this thread waits.
    // `child` neither returns into Rust frames of ours, unwinds, allocates nor locks.
    // CLONE_PIDFD writes one int to `pidfd`, in the place of the parent's tid.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr_range().end.cast(),
            flags,
            std::ptr::from_ref(plan).cast_mut().cast::<c_void>(),
            std::ptr::from_mut(&mut pidfd),
        )
    };
    let failed = io::Error::last_os_error();
    mask.restore();
    drop(stack);
    let Ok(pid) = u32::try_from(pid) else {
        return Err(failed);
    };
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Born { pid, pidfd })
}

/// The signals that a thread blocks, as the kernel keeps them: 64 bits. The C library's
/// calls would spare the two that it needs itself.
struct Mask(u64);

impl Mask {
    fn block_all() -> Self {
        Self(set_mask(u64::MAX))
    }

    fn restore(self) {
        set_mask(self.0);
    }
}

fn set_mask(mask: u64) -> u64 {
    let mut before = 0_u64;
    // SAFETY: both sets are 8 bytes, as said, and outlive the call, which reads one and
    // writes the other (rt_sigprocmask(2)). It changes the calling thread alone.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            std::ptr::from_ref(&mask),
            std::ptr::from_mut(&mut before),
            size_of::<u64>(),
        );
    }
    before
}

/// The child's life before its program. In the parent's memory, on a stack of its own:
/// system calls only.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `clone` passes a `Plan` that lives until this process has executed its
    // program or ended, and the parent does not touch it meanwhile.
    let plan = unsafe { &*plan.cast::<Plan>() };
    let Err(failed) = execute(plan);
    plan.failed.set(Some(failed));
    // SAFETY: it ends the calling process at once and runs nothing of ours.
    unsafe { libc::_exit(127) }
}

type Failed = (&'static str, c_int);

fn execute(plan: &Plan) -> Result<std::convert::Infallible, Failed> {
    reset_signals();
    // SAFETY: none of these calls takes memory of ours but the three strings with a null
    // byte at their end, and they change the calling process alone: its descriptors are
    // its own copy (no CLONE_FILES).
    unsafe {
        check("begin a session", libc::setsid())?;
        become_ordinary()?;
        libc::umask(0o022);
        check("change into /", libc::chdir(c"/".as_ptr()))?;
        if plan.cgroup >= 0 {
            let zero = c"0".as_ptr().cast::<c_void>();
            let written = libc::write(plan.cgroup, zero, 1);
            check("enter a control group", if written == 1 { 0 } else { -1 })?;
        }
        for (number, fd) in (0..).zip(plan.standard) {
            check("hand over a descriptor", libc::dup2(fd, number))?;
        }
        let closed = libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32);
        check("close descriptors", if closed == 0 { 0 } else { -1 })?;
        set_mask(0);
        libc::execve(plan.path, plan.argv, plan.env);
        Err(("execute it", errno()))
    }
}

/// Every signal does what it does by default. Handlers went with our memory otherwise,
/// but what is ignored stays ignored across an execution, and a handler must not run
/// between the unblocking and the execution.
fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: an all-zero `sigaction` is SIG_DFL without flags; the table of this
        // process is its own copy (no CLONE_SIGHAND). Refused for KILL, STOP and the C
        // library's own, whose handlers do nothing without a request of that library.
        unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, &default, std::ptr::null_mut());
        }
    }
}

/// Neither real-time, nor favoured, nor the last to go when memory is short, whatever the
/// thread that starts it is.
///
/// # Safety
///
/// Only in the child: it changes the calling process.
unsafe fn become_ordinary() -> Result<(), Failed> {
    let nothing = libc::sched_param { sched_priority: 0 };
    // SAFETY: a whole `sched_param` that outlives the call, which only reads it; 0 names
    // the calling process. The bare call, because musl's own only says that it does
    // nothing.
    let scheduled = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_OTHER,
            std::ptr::from_ref(&nothing),
        )
    };
    check(
        "be scheduled as others are",
        if scheduled == 0 { 0 } else { -1 },
    )?;
    // SAFETY: plain calls that name the calling process; the buffer is a string.
    unsafe {
        // Only downwards: going up is a right that it may lack.
        if libc::getpriority(libc::PRIO_PROCESS, 0) < 0 {
            check(
                "be as nice as others",
                libc::setpriority(libc::PRIO_PROCESS, 0, 0),
            )?;
        }
        // Where /proc is missing it goes without.
        let path = c"/proc/self/oom_score_adj".as_ptr();
        let file = libc::open(path, libc::O_RDWR | libc::O_CLOEXEC);
        let mut sign = 0_u8;
        let one = std::ptr::from_mut(&mut sign).cast::<c_void>();
        if file >= 0 && libc::read(file, one, 1) == 1 && sign == b'-' {
            libc::pwrite(file, c"0".as_ptr().cast::<c_void>(), 1, 0);
        }
        // What is open here is closed before the program is executed.
    }
    Ok(())
}

fn check(attempt: &'static str, answer: c_int) -> Result<(), Failed> {
    if answer < 0 {
        Err((attempt, errno()))
    } else {
        Ok(())
    }
}

/// The error of the last call of this thread, without allocation.
fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
