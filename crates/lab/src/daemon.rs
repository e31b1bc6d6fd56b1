//! The real daemon on a host, by its command line only: what an administrator has.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Pid;
use serde::Deserialize;

use crate::host::Host;
use crate::process::MARK;
use crate::{process, systemd, wait};

/// The mark of the daemon's processes.
pub(crate) const PROGRAM: &str = "evenkeel";

/// Its unit.
pub(crate) const UNIT: &str = "evenkeel.service";

/// That unit as it is shipped.
const PACKAGED: &str = include_str!("../../../packaging/evenkeel.service");

/// `status --json`, as far as the lab needs it (DESIGN 5).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// Who leads.
    pub(crate) leader: Option<String>,
    /// A majority of voters can be reached.
    pub(crate) quorum: bool,
    /// The groups.
    pub(crate) groups: Vec<GroupStatus>,
    /// The nodes.
    pub(crate) nodes: Vec<NodeStatus>,
    /// Digest of the configuration that runs.
    pub(crate) digest: String,
    /// What people should know.
    pub(crate) advice: Vec<String>,
}

/// One group in it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GroupStatus {
    /// Its name.
    pub(crate) name: String,
    /// Its addresses, with their prefixes.
    pub(crate) addresses: Vec<String>,
    /// To whom it is assigned.
    pub(crate) holder: Option<String>,
    /// The number of the assignment.
    pub(crate) epoch: u64,
    /// `serving`, `moving`, `closed` or `muted`.
    pub(crate) state: String,
    /// `full` or `reduced`.
    pub(crate) guard: String,
    /// Who would be next.
    pub(crate) next: Option<String>,
    /// Its nodes.
    pub(crate) nodes: Vec<Candidate>,
}

/// A node in a group.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Candidate {
    /// Which.
    pub(crate) name: String,
    /// It could serve.
    pub(crate) ready: bool,
    /// Why not.
    pub(crate) reason: Option<String>,
    /// Its checks.
    pub(crate) checks: Vec<CheckStatus>,
}

/// A check of a node in a group.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CheckStatus {
    /// Which.
    pub(crate) name: String,
    /// `ok`, `failing`, `unknown` or `idle`.
    pub(crate) state: String,
}

/// A node of the cluster.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    /// Which.
    pub(crate) name: String,
    /// It is heard.
    pub(crate) alive: bool,
}

/// The daemon's program and files, for all hosts of a lab.
#[derive(Clone, Debug)]
pub(crate) struct Evenkeel {
    /// The program.
    pub(crate) program: PathBuf,
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// The directory of the cluster authority.
    pub(crate) authority: PathBuf,
}

/// The control socket of the daemon on `host`. It is on the host's disk to be seen
/// from the lab; the host's boot removes it as a boot clears /run.
pub(crate) fn socket(host: &Host) -> PathBuf {
    host.disk().join("evenkeel.sock")
}

/// Where the certificate of `node` is on `host`.
pub(crate) fn pki(host: &Host, node: &str) -> PathBuf {
    host.disk().join(format!("pki-{node}"))
}

/// The name of the state directory on a host's disk.
pub(crate) const STATE: &str = "state";

/// The state directory of the daemon on `host`.
pub(crate) fn state(host: &Host) -> PathBuf {
    host.disk().join(STATE)
}

/// Time for killed processes to let go of a state directory.
const LETS_GO: Duration = Duration::from_secs(5);

/// Waits until no process uses the state directory. A daemon that was killed may have left one
/// that is ending: the kernel takes its time over locked memory, and it has no mark any more.
fn wait_unused(state: &Path) -> Result<()> {
    let lock = state.join("lock");
    wait::until("the state directory is free", LETS_GO, || {
        let Ok(file) = fs::File::open(&lock) else {
            return Ok(Some(()));
        };
        let free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        Ok(free.then_some(()))
    })
}

fn checked(output: Output, what: &str) -> Result<String> {
    if !output.status.success() {
        bail!(
            "evenkeel {what}: {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim(),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Evenkeel {
    fn command(&self, arguments: &[&str], paths: &[(&str, &Path)]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        for (option, path) in paths {
            command.arg(option).arg(path);
        }
        command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {}", self.program.display()))
    }

    /// Makes the cluster authority.
    pub(crate) fn make_authority(&self) -> Result<()> {
        let output = self.command(
            &["pki", "init", "--cluster", "lab"],
            &[("--dir", &self.authority)],
        )?;
        checked(output, "pki init").map(drop)
    }

    /// Issues the certificate of a node into `into`.
    pub(crate) fn issue(&self, node: &str, into: &Path) -> Result<()> {
        self.issue_from(node, into, None).map(drop)
    }

    /// The same, valid from then on, a time by RFC 3339; from now on if none is given. Returns
    /// what was said of it.
    pub(crate) fn issue_from(&self, node: &str, into: &Path, from: Option<&str>) -> Result<String> {
        fs::create_dir_all(into).context("making a directory for certificates")?;
        let mut arguments = vec!["pki", "issue", "--node", node];
        arguments.extend(from.iter().flat_map(|from| ["--from", from]));
        let output = self.command(&arguments, &[("--dir", &self.authority), ("--out", into)])?;
        checked(output, "pki issue")
    }

    /// Starts the daemon of node `node` on `host`, with `state` as its state directory
    /// and under the mark of `mark`.
    pub(crate) fn run_as(
        &self,
        host: &mut Host,
        node: &str,
        state: &Path,
        socket: &Path,
        mark: &str,
    ) -> Result<u32> {
        let argv = self.command_line(host, node, state, socket)?;
        host.start(mark, &argv)
    }

    /// The command line of the daemon, whose directories are there then.
    fn command_line(
        &self,
        host: &Host,
        node: &str,
        state: &Path,
        socket: &Path,
    ) -> Result<Vec<OsString>> {
        let pki = pki(host, node);
        if !pki.exists() {
            self.issue(node, &pki)?;
        }
        fs::create_dir_all(state).context("making a state directory")?;
        let mut argv = vec![self.program.clone().into_os_string(), "run".into()];
        let options: [(&str, OsString); 5] = [
            ("--config", self.config.clone().into()),
            ("--node", node.into()),
            ("--state", state.into()),
            ("--pki", pki.into()),
            ("--socket", socket.into()),
        ];
        for (option, value) in options {
            argv.extend([option.into(), value]);
        }
        Ok(argv)
    }

    /// Starts the daemon on a host with systemd: the packaged unit, with a drop-in that says
    /// where the lab has its files.
    fn start_unit(&self, host: &Host, state: &Path, socket: &Path) -> Result<()> {
        let argv = self.command_line(host, host.name(), state, socket)?;
        let words: Vec<String> = argv
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let (program, config) = (self.program.display(), self.config.display());
        let log = host.disk().join(format!("{PROGRAM}.log"));
        let drop_in = format!(
            "[Service]\nEnvironmentFile=\nEnvironment={MARK}={mark}\n\
             ExecStartPre=\nExecStartPre={program} config check {config}\n\
             ExecStart=\nExecStart={line}\n\
             ExecReload=\nExecReload={program} reload --socket {socket}\n\
             StateDirectory=\nStandardOutput=append:{log}\nStandardError=append:{log}\n",
            mark = host.mark(PROGRAM),
            line = words.join(" "),
            socket = socket.display(),
            log = log.display(),
        );
        systemd::add_unit(host, UNIT, PACKAGED, &drop_in)?;
        systemd::systemctl(host, &["start", UNIT]).map(drop)
    }

    /// Starts the daemon on `host`, of the node of that name.
    pub(crate) fn start(&self, host: &mut Host) -> Result<()> {
        let socket = socket(host);
        // Gone after a power cut, as all of /run is.
        let _ = fs::remove_file(&socket);
        let (node, state) = (host.name().to_owned(), state(host));
        wait_unused(&state)?;
        if host.has_systemd() {
            return self.start_unit(host, &state, &socket);
        }
        self.run_as(host, &node, &state, &socket, PROGRAM).map(drop)
    }

    /// Runs a client command at the daemon of `host`; its whole output, good or bad.
    pub(crate) fn ask(&self, host: &Host, arguments: &[&str]) -> Result<Output> {
        self.command(arguments, &[("--socket", &socket(host))])
    }

    /// Runs a client command at the daemon of `host` to its good end.
    pub(crate) fn order(&self, host: &Host, arguments: &[&str]) -> Result<String> {
        checked(self.ask(host, arguments)?, &arguments.join(" "))
    }

    /// Feeds each file of the flight recorder of `host` into the program's own machine again; how many
    /// there were.
    pub(crate) fn replay_all(&self, host: &Host) -> Result<usize> {
        let directory = state(host).join("flight");
        let mut files = 0;
        // None before the first move.
        for file in fs::read_dir(&directory).into_iter().flatten() {
            let path = file.context("listing the flight recorder's files")?.path();
            if path.extension().is_some_and(|end| end == "jsonl") {
                let file = path.to_string_lossy();
                let replayed = self.command(&["replay", &file], &[])?;
                checked(replayed, &format!("replay {file}"))?;
                files += 1;
            }
        }
        Ok(files)
    }

    /// What the daemon of `host` says of the cluster; `None` if it says nothing.
    pub(crate) fn status(&self, host: &Host) -> Result<Option<Status>> {
        // The client would wait for a daemon that is starting; asking again is ours.
        if !socket(host).exists() {
            return Ok(None);
        }
        let output = self.ask(host, &["status", "--json"])?;
        if !output.status.success() {
            return Ok(None);
        }
        serde_json::from_slice(&output.stdout)
            .map(Some)
            .context("understanding status --json")
    }
}

/// The daemon's processes on `host`: the parent first, then the worker, then others.
pub(crate) fn processes(host: &Host) -> Result<Vec<Pid>> {
    Ok(process::with_mark(&host.mark(PROGRAM))?
        .iter()
        .map(|process| process.pid)
        .collect())
}

/// The worker: the child of the daemon's parent process whose lease thread is at work.
/// The one in reserve has none of that name.
pub(crate) fn worker(host: &Host) -> Result<Pid> {
    processes(host)?
        .into_iter()
        .find(|pid| has_thread(*pid, "lease"))
        .with_context(|| format!("no worker of the daemon on {}", host.name()))
}

fn has_thread(pid: Pid, name: &str) -> bool {
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    let Ok(tasks) = fs::read_dir(tasks) else {
        return false;
    };
    tasks.flatten().any(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    })
}
