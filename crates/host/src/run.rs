//! Running programs of the administrator, within bounds.
//!
//! Such a program may hang, fork, ignore signals and write for ever. So it gets a time and
//! an amount of output, runs in a session and process group of its own, and what is left
//! at the end of its time is killed as a group. It is an ordinary process whatever started
//! it, with no descriptor and no environment of ours ([`crate::sys::spawn`]).
//!
//! Everything waits for events of the runtime: hundreds of programs at once take no
//! thread, only a buffer each. Only the moment of the execution itself waits for a file
//! system, on a thread for such waits, and no more than [`STARTING_MAX`] at once.
//!
//! [`run`] is for programs that answer and end; [`Child`] for those that stay.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::process::{Identity, ProcessError};
use crate::sys::pidfd::await_readable;
use crate::sys::spawn::{self, Image};

/// Where a shell and scripts look for programs.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many programs are being executed at once, that is, read from their file system.
/// It takes well under a millisecond each unless that file system hangs; each that hangs
/// holds one thread.
pub const STARTING_MAX: usize = 64;

/// How long a killed program is waited for. The kernel ends it within milliseconds unless
/// it waits for a disk; then it is left to be reaped whenever that is over.
const KILLED_MAX: Duration = Duration::from_secs(1);

/// Output that is read at once.
const BUFFER_SIZE: usize = 8 * 1024;

/// Reads of what a program had written when it ended. A pipe holds 64 KiB; whoever
/// inherited its other end and goes on writing is not waited for.
const LAST_READS_MAX: usize = 64 * 1024 / BUFFER_SIZE + 1;

static STARTING: Semaphore = Semaphore::const_new(STARTING_MAX);

/// A program with its arguments and its whole environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    /// What must be [`trusted`], or the program is not run.
    guarded: Option<PathBuf>,
}

impl Program {
    /// The file at `path`, which is absolute, with these arguments. Its environment is
    /// [`PATH`] and nothing else.
    pub fn new<A: Into<OsString>>(
        path: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            path: path.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: [("PATH".into(), PATH.into())].into(),
            guarded: None,
        }
    }

    /// A line for `/bin/sh -c`.
    pub fn shell(line: &str) -> Self {
        Self::new("/bin/sh", ["-c", line])
    }

    /// With `name=value` in its environment as well.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Run only where `file` can be [`trusted`]. It is looked at on the thread that executes the
    /// program, right before that: what was safe when somebody last looked may not be any more.
    #[must_use]
    pub fn only_if_trusted(mut self, file: impl Into<PathBuf>) -> Self {
        self.guarded = Some(file.into());
        self
    }

    /// The file that is executed.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// How much a program may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long it may run.
    pub time: Duration,
    /// How many bytes are kept of its output, and as many of its errors. What it writes
    /// beyond is read and thrown away, so that it neither waits nor fails for that.
    pub output: usize,
    /// What becomes of processes that it started and left behind.
    pub leftovers: Leftovers,
}

/// What becomes of the processes of a program's group when the program itself has ended
/// in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// They are killed: a question leaves nothing behind.
    Kill,
    /// They stay: a script may start something.
    Leave,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exit(i32),
    /// By this signal, not ours.
    Signal(i32),
    /// Its time was over, and it was killed with its group.
    Killed,
    /// It ended, and somebody else fetched how.
    Unknown,
}

impl End {
    /// Whether it says that all went well.
    pub fn is_success(self) -> bool {
        self == Self::Exit(0)
    }
}

/// For people; follows "it".
impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(status) => write!(f, "ended with status {status}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::Killed => f.write_str("was killed because its time was over"),
            Self::Unknown => f.write_str("ended"),
        }
    }
}

/// What came of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub end: End,
    /// What it wrote to standard output, up to the limit.
    pub output: Vec<u8>,
    /// What it wrote to standard error, up to the limit.
    pub errors: Vec<u8>,
    /// It wrote more than the limit, to one of the two.
    pub cut: bool,
    /// From the word to start it to its end.
    pub took: Duration,
}

impl Finished {
    /// The first line that it wrote, to standard error or else to standard output, for
    /// people: no control characters, at most 200 characters.
    pub fn line(&self) -> String {
        let first = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let line = text.lines().find(|line| !line.trim().is_empty());
            line.map(|line| {
                let kept = line.trim().chars().filter(|c| !c.is_control());
                kept.take(200).collect::<String>()
            })
        };
        first(&self.errors)
            .or_else(|| first(&self.output))
            .unwrap_or_default()
    }
}

/// Why a program did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its path, an argument or its environment cannot be passed on.
    #[error("run {path}: {what} contains a null byte")]
    Null {
        /// The program.
        path: PathBuf,
        /// Which part.
        what: &'static str,
    },
    /// The kernel refused.
    #[error("run {path}: failed to {attempt}: {source}{}", remedy(.source))]
    Refused {
        /// The program.
        path: PathBuf,
        /// What was attempted.
        attempt: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else could have put anything there.
    #[error("run {path}: {why}")]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// What speaks against it, and the remedy.
        why: Untrusted,
    },
    /// So many programs are being executed already, or the file system of this one hangs.
    #[error("run {path}: it could not be executed within {within:?}; its file system may hang")]
    Late {
        /// The program.
        path: PathBuf,
        /// How long that was tried.
        within: Duration,
    },
}

impl RunError {
    /// Whether the program itself is at fault (missing, no program, not executable), and
    /// not this machine's state at the moment.
    pub fn is_of_the_program(&self) -> bool {
        match self {
            Self::Null { .. } | Self::Untrusted { .. } => true,
            Self::Refused { source, .. } => matches!(
                source.raw_os_error(),
                Some(
                    libc::ENOENT
                        | libc::EACCES
                        | libc::ENOEXEC
                        | libc::ENOTDIR
                        | libc::ELOOP
                        | libc::E2BIG
                        | libc::EISDIR
                )
            ),
            Self::Late { .. } => false,
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOEXEC) => " (a script begins with a line such as #!/bin/sh)",
        Some(libc::EACCES) => " (chmod 755 makes a file executable)",
        _ => "",
    }
}

/// Runs a program to its end or to the end of its time. Must be called within a tokio
/// runtime. Dropped before that, it kills the program and its group.
///
/// # Errors
///
/// Why the program did not run at all.
pub async fn run(program: &Program, limits: &Limits) -> Result<Finished, RunError> {
    run_told(program, limits, |_| ()).await
}

/// The same, and tells the number of the process as soon as there is one: who may be killed
/// meanwhile can note it for who comes after.
///
/// # Errors
///
/// As [`run`].
pub async fn run_told(
    program: &Program,
    limits: &Limits,
    started: impl FnOnce(u32),
) -> Result<Finished, RunError> {
    let begun = Instant::now();
    let refused = |attempt| {
        move |source| RunError::Refused {
            path: program.path.clone(),
            attempt,
            source,
        }
    };
    let (output_write, output) = pipe_pair().map_err(refused("make a pipe"))?;
    let (errors_write, errors) = pipe_pair().map_err(refused("make a pipe"))?;
    let start = Child::start(
        program,
        Output::Into(output_write, errors_write),
        None,
        limits.time,
    );
    let mut child = start.await?;
    started(child.pid());
    let mut output = Captured::new(output, limits.output);
    let mut errors = Captured::new(errors, limits.output);
    let deadline = begun + limits.time;
    let in_time = loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(deadline) => break false,
            () = child.ended() => break true,
            () = output.read() => {}
            () = errors.read() => {}
        }
    };
    if !in_time || limits.leftovers == Leftovers::Kill {
        // Before anybody waits for the leader: until then its number, which names the
        // group, cannot belong to another one.
        child.kill();
    }
    let end = if in_time {
        child.fetch()
    } else {
        let _ = tokio::time::timeout(KILLED_MAX, child.ended()).await;
        End::Killed
    };
    output.last();
    errors.last();
    Ok(Finished {
        end,
        cut: output.cut || errors.cut,
        output: output.kept,
        errors: errors.kept,
        took: begun.elapsed(),
    })
}

fn pipe_pair() -> io::Result<(OwnedFd, pipe::Receiver)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((write, pipe::Receiver::from_owned_fd(read)?))
}

/// One of a program's two outputs.
struct Captured {
    /// Nothing once its other end is closed.
    pipe: Option<pipe::Receiver>,
    kept: Vec<u8>,
    most: usize,
    cut: bool,
    buffer: Box<[u8]>,
}

impl Captured {
    fn new(pipe: pipe::Receiver, most: usize) -> Self {
        Self {
            pipe: Some(pipe),
            kept: Vec::new(),
            most,
            cut: false,
            buffer: vec![0; BUFFER_SIZE].into(),
        }
    }

    /// Reads once; never returns after the end.
    async fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        match pipe.read(&mut self.buffer).await {
            Ok(0) | Err(_) => self.pipe = None,
            Ok(length) => self.keep(length),
        }
    }

    /// What is still there, without waiting.
    fn last(&mut self) {
        for _ in 0..LAST_READS_MAX {
            let Some(pipe) = &self.pipe else { return };
            match pipe.try_read(&mut self.buffer) {
                Ok(0) | Err(_) => return,
                Ok(length) => self.keep(length),
            }
        }
        self.cut = true;
    }

    fn keep(&mut self, length: usize) {
        let room = self.most - self.kept.len();
        self.cut |= length > room;
        self.kept
            .extend_from_slice(&self.buffer[..length.min(room)]);
    }
}

/// Where a program's output goes.
#[derive(Debug)]
pub enum Output {
    /// Nowhere.
    Nowhere,
    /// Where our own messages go: to the system's log, if a service manager started us. It
    /// outlives this process, as a pipe to us would not.
    Log,
    /// Into these two.
    Into(OwnedFd, OwnedFd),
}

/// A process that we have started and that nobody else waits for.
///
/// Dropped, it is killed with its group, unless it has been told to [stay](Child::stay).
/// Either way somebody waits for it as long as the runtime lives.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    /// Nothing once it has been waited for.
    pidfd: Option<Arc<AsyncFd<OwnedFd>>>,
    stays: bool,
}

impl Child {
    /// Executes a program, in the control group whose open `cgroup.procs` is given, if
    /// any. Must be called within a tokio runtime. Dropped before it returns, it leaves
    /// nothing running.
    ///
    /// # Errors
    ///
    /// Why it does not run; also when that takes longer than `within`.
    pub async fn start(
        program: &Program,
        output: Output,
        cgroup: Option<OwnedFd>,
        within: Duration,
    ) -> Result<Self, RunError> {
        let prepared = Prepared::new(program)?;
        let late = || RunError::Late {
            path: program.path.clone(),
            within,
        };
        let path = program.path.clone();
        let starting = async {
            let permit = STARTING.acquire().await;
            let start = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                prepared.start(output, cgroup.as_ref().map(AsFd::as_fd))
            });
            match start.await {
                Ok(child) => child,
                // Only a runtime that is going down gives a task up.
                Err(_) => Err(RunError::Refused {
                    path,
                    attempt: "start a process",
                    source: io::Error::other("this program is ending"),
                }),
            }
        };
        tokio::time::timeout(within, starting)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    /// Its number, and that of its session and process group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Which process it is, for somebody who finds it later.
    ///
    /// # Errors
    ///
    /// It has ended, and somebody has fetched how.
    pub fn identity(&self) -> Result<Identity, ProcessError> {
        Identity::of(self.pid)
    }

    /// Returns once it has ended. May be called again.
    pub async fn ended(&self) {
        let Some(pidfd) = self.pidfd.clone() else {
            return;
        };
        ended(&pidfd).await;
    }

    /// Returns how it ended, once it has.
    pub async fn wait(&mut self) -> End {
        self.ended().await;
        self.fetch()
    }

    /// Sends a signal to it and to its process group, as long as it has not been waited for.
    pub fn signal(&self, signal: Signal) {
        if let (Some(pidfd), Some(pid)) = (&self.pidfd, as_pid(self.pid)) {
            // Nobody has waited for it, so its number still names it and its group.
            let told = rustix::process::kill_process_group(pid, signal);
            // One that has left its group is told apart from it; nobody is told twice, for
            // some programs take a second SIGTERM for impatience.
            let left = rustix::process::getpgid(Some(pid)) != Ok(pid);
            if left || told.is_err() {
                let _ = rustix::process::pidfd_send_signal(pidfd.get_ref(), signal);
            }
        }
    }

    /// Kills it and its process group.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// It outlives this handle, and this process.
    pub fn stay(&mut self) {
        self.stays = true;
    }

    /// How it ended, if it has.
    fn fetch(&mut self) -> End {
        let Some(pidfd) = &self.pidfd else {
            return End::Unknown;
        };
        let end = fetch(pidfd.get_ref().as_fd());
        if end.is_some() {
            self.pidfd = None;
        }
        end.unwrap_or(End::Unknown)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.stays {
            self.kill();
        }
        let Some(pidfd) = self.pidfd.take() else {
            return;
        };
        if fetch(pidfd.get_ref().as_fd()).is_some() {
            return;
        }
        // Without a runtime this process is ending, and init waits for it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                ended(&pidfd).await;
                fetch(pidfd.get_ref().as_fd());
            });
        }
    }
}

/// Waits for the end of a process without fetching how it ended.
async fn ended(pidfd: &AsyncFd<OwnedFd>) {
    loop {
        match pidfd.readable().await {
            Ok(mut ready) => {
                if has_ended(pidfd.get_ref().as_fd()) {
                    return;
                }
                ready.clear_ready();
            }
            // The runtime is going down; nobody is left to be told.
            Err(_) => return std::future::pending().await,
        }
    }
}

fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error: somebody else has waited for it.
    !matches!(
        rustix::process::waitid(WaitId::PidFd(pidfd), look),
        Ok(None)
    )
}

/// How a process ended, if it has; it is gone for good then.
fn fetch(pidfd: BorrowedFd<'_>) -> Option<End> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match rustix::process::waitid(WaitId::PidFd(pidfd), look) {
        Ok(None) => None,
        Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(status), _) => End::Exit(status),
            (None, Some(signal)) => End::Signal(signal),
            (None, None) => End::Unknown,
        }),
        Err(_) => Some(End::Unknown),
    }
}

fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// A program in the form in which the kernel takes it.
struct Prepared {
    program: PathBuf,
    path: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
    guarded: Option<PathBuf>,
}

impl Prepared {
    fn new(program: &Program) -> Result<Self, RunError> {
        let text = |bytes: &[u8], what| {
            CString::new(bytes).map_err(|_| RunError::Null {
                path: program.path.clone(),
                what,
            })
        };
        let path = text(program.path.as_os_str().as_bytes(), "its path")?;
        let mut argv = vec![path.clone()];
        for argument in &program.arguments {
            argv.push(text(argument.as_bytes(), "an argument")?);
        }
        let mut env = Vec::new();
        for (name, value) in &program.environment {
            let both = [name.as_bytes(), b"=", value.as_bytes()].concat();
            env.push(text(&both, "its environment")?);
        }
        Ok(Self {
            program: program.path.clone(),
            path,
            argv,
            env,
            guarded: program.guarded.clone(),
        })
    }

    fn start(&self, output: Output, cgroup: Option<BorrowedFd<'_>>) -> Result<Child, RunError> {
        let refused = |attempt, source| RunError::Refused {
            path: self.program.clone(),
            attempt,
            source,
        };
        if let Some(file) = &self.guarded {
            trusted(file).map_err(|why| RunError::Untrusted {
                path: file.clone(),
                why,
            })?;
        }
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.map_err(|source| refused("open /dev/null", source))?;
        let log = io::stderr();
        let [output, errors] = match &output {
            Output::Nowhere => [null.as_fd(), null.as_fd()],
            Output::Log => [log.as_fd(), log.as_fd()],
            Output::Into(output, errors) => [output.as_fd(), errors.as_fd()],
        };
        let born = spawn::spawn(&Image {
            path: &self.path,
            argv: &self.argv,
            env: &self.env,
            standard: [File::as_fd(&null), output, errors],
            cgroup,
        });
        let born = born.map_err(|unborn| refused(unborn.attempt, unborn.source))?;
        // Should the runtime refuse to wait for it, it must not run on unseen.
        let kept = born.pidfd.try_clone();
        match await_readable(born.pidfd) {
            Ok(pidfd) => Ok(Child {
                pid: born.pid,
                pidfd: Some(Arc::new(pidfd)),
                stays: false,
            }),
            Err(source) => {
                if let Ok(pidfd) = kept {
                    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                    let all = WaitIdOptions::EXITED;
                    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), all);
                }
                Err(refused("wait for its end", source))
            }
        }
    }
}

/// Why a file must not be run with our rights. Follows the file's path and a colon.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// It cannot be looked at.
    #[error("{0}")]
    Unreadable(io::Error),
    /// A directory, a device.
    #[error("it is not a regular file")]
    NoFile,
    /// Nobody may execute it.
    #[error("it is not executable: chmod 755 makes it so")]
    NotExecutable,
    /// Its owner could put anything there.
    #[error("{} belongs to user {uid}, who could change what is run as root: chown root makes it safe", .path.display())]
    Owner {
        /// The file, or the directory above it.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Others could put anything there.
    #[error("{} can be written by others than its owner, who could change what is run as root: chmod go-w makes it safe", .path.display())]
    Writable {
        /// The file, or the directory above it.
        path: PathBuf,
    },
}

/// Looks whether the file at `path` can be executed, and whether nobody but root and the
/// user of this process can change it or what lies on the way to it, symbolic links included
/// (a directory with the sticky bit is safe, as nobody can replace another's file there).
/// Waits for the file system.
///
/// # Errors
///
/// The first reason against it.
pub fn trusted(path: impl AsRef<OsStr>) -> Result<(), Untrusted> {
    let named = Path::new(path.as_ref());
    let path = std::fs::canonicalize(named).map_err(Untrusted::Unreadable)?;
    let about = std::fs::metadata(&path).map_err(Untrusted::Unreadable)?;
    if !about.is_file() {
        return Err(Untrusted::NoFile);
    }
    if about.mode() & 0o111 == 0 {
        return Err(Untrusted::NotExecutable);
    }
    // As it is named as well: whoever can replace a link chooses the file.
    let both = path.ancestors().chain(named.ancestors());
    for part in both.filter(|part| !part.as_os_str().is_empty()) {
        only_ours(part)?;
    }
    Ok(())
}

/// Whether nobody else can change a file, or what a directory has in it.
fn only_ours(part: &Path) -> Result<(), Untrusted> {
    let about = std::fs::symlink_metadata(part).map_err(Untrusted::Unreadable)?;
    let uid = about.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(Untrusted::Owner {
            path: part.to_owned(),
            uid,
        });
    }
    // The mode of a link means nothing.
    let sticky = about.is_dir() && about.mode() & 0o1000 != 0;
    if about.mode() & 0o022 != 0 && !sticky && !about.is_symlink() {
        return Err(Untrusted::Writable {
            path: part.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
