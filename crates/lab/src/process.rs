//! Processes of a host, seen and signalled from outside it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Environment variable that marks what belongs to one program started on a host; its
/// children inherit it whoever their parent becomes.
pub(crate) const MARK: &str = "EVENKEEL_LAB_MARK";

/// Time within which the processes of a program are all gone, or all stopped.
const SOON: Duration = Duration::from_secs(5);

/// One process of a host.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Its number in the lab.
    pub(crate) pid: Pid,
    /// One letter: how it is (proc(5)): `R`, `S`, `D`, `T`, `Z` ...
    pub(crate) state: char,
}

/// The value of a line `name:\tvalue` of /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn parse(status: &str) -> Option<Process> {
    let pid: i32 = field(status, "Pid")?.parse().ok()?;
    Some(Process {
        pid: Pid::from_raw(pid)?,
        state: field(status, "State")?.chars().next()?,
    })
}

fn marked(pid: &str, mark: &str) -> bool {
    let wanted = format!("{MARK}={mark}");
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| {
        all.split(|byte| *byte == 0)
            .any(|entry| entry == wanted.as_bytes())
    })
}

/// The living processes that carry `mark`, oldest number first. A process that ends
/// while it is looked at is left out; so is a zombie, which does nothing any more.
pub(crate) fn with_mark(mark: &str) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("listing processes")? {
        let name = entry.context("listing processes")?.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        if !marked(pid, mark) {
            continue;
        }
        if let Some(process) = fs::read_to_string(format!("/proc/{pid}/status"))
            .ok()
            .and_then(|text| parse(&text))
            && !matches!(process.state, 'Z' | 'X')
        {
            found.push(process);
        }
    }
    found.sort_by_key(|process| process.pid.as_raw_nonzero());
    Ok(found)
}

/// Sends `signal` to every process that carries `mark`, parents before children.
pub(crate) fn signal(mark: &str, signal: Signal) -> Result<()> {
    for process in with_mark(mark)? {
        // One that has just ended needs no signal.
        let _ = kill_process(process.pid, signal);
    }
    Ok(())
}

/// Whether a process has let go of everything. One that is ending has no environment
/// any more, and so no mark, while its files are still open; so they are while another of its
/// threads ends.
fn has_ended(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
    let last = threads.map_or(0, Iterator::count) <= 1;
    fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))
        .ok()
        .and_then(|text| parse(&text))
        .is_none_or(|process| last && matches!(process.state, 'Z' | 'X'))
}

/// Kills every process that carries `mark`, those included that one of them starts
/// meanwhile, and waits until they have let go of everything.
pub(crate) fn kill_all(mark: &str) -> Result<()> {
    let mut killed = Vec::new();
    wait::until("killing all processes", SOON, || {
        let alive = with_mark(mark)?;
        for process in &alive {
            // One that has just ended needs no signal.
            let _ = kill_process(process.pid, Signal::KILL);
            killed.push(process.pid);
        }
        killed.retain(|pid| !has_ended(*pid));
        Ok((alive.is_empty() && killed.is_empty()).then_some(()))
    })
}

/// Stops every process that carries `mark`, as a debugger or a frozen machine would:
/// none of them can notice or prevent it.
pub(crate) fn freeze_all(mark: &str) -> Result<()> {
    wait::until("stopping all processes", SOON, || {
        signal(mark, Signal::STOP)?;
        Ok(with_mark(mark)?
            .iter()
            .all(|process| process.state == 'T')
            .then_some(()))
    })
}

/// Lets every process that carries `mark` go on.
pub(crate) fn thaw_all(mark: &str) -> Result<()> {
    signal(mark, Signal::CONT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read() {
        let text = "Name:\tx\nState:\tT (stopped)\nPid:\t41\n";
        let process = parse(text).expect("whole");
        assert_eq!(process.state, 'T');
        assert!(parse("Pid:\t41\n").is_none());
    }
}
