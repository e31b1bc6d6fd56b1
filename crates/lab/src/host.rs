//! A host: a machine with its own network, mounts, process ids and name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::bridge::{Cable, Switch, mac, run};
use crate::init::{self, Answer, Order};
use crate::inside::Lab;
use crate::process::MARK;
use crate::systemd::{self, Cgroup};
use crate::{role, wait};

/// Time for the kernel to end all processes of a host.
const GONE_LIMIT: Duration = Duration::from_secs(5);

/// A host's place in the lab's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its name; short, for it becomes part of a device's name.
    pub(crate) name: String,
    /// Last byte of its addresses.
    pub(crate) number: u8,
    /// Its first process is a real systemd.
    pub(crate) systemd: bool,
}

impl Place {
    /// A host `name` with `number` as the last byte of its addresses.
    pub(crate) fn new(name: &str, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            number,
            systemd: false,
        }
    }

    /// The same, with a real systemd if `systemd` says so.
    pub(crate) fn with_systemd(self, systemd: bool) -> Self {
        Self { systemd, ..self }
    }

    /// Its IPv4 address, in a network kept for documentation (RFC 5737).
    pub(crate) fn ip(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, self.number))
    }

    /// Its IPv6 address, in a network kept for documentation (RFC 3849).
    pub(crate) fn ip6(&self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(
            0x2001,
            0xdb8,
            0,
            0,
            0,
            0,
            0,
            u16::from(self.number),
        ))
    }

    /// Its address of a family.
    pub(crate) fn ip_of(&self, family: Family) -> IpAddr {
        match family {
            Family::Four => self.ip(),
            Family::Six => self.ip6(),
        }
    }

    /// The hardware address of its network device.
    pub(crate) fn hardware(&self) -> String {
        hardware(self.number)
    }
}

/// The hardware address of the host with that number: locally administered.
pub(crate) fn hardware(number: u8) -> String {
    mac(number).map(|byte| format!("{byte:02x}")).join(":")
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// IPv4.
    #[default]
    Four,
    /// IPv6.
    Six,
}

/// A host that is up. Dropping it is a power cut.
#[derive(Debug)]
pub(crate) struct Host {
    place: Place,
    lab: Lab,
    switch: Arc<Switch>,
    /// unshare(1), the parent of the host's first process.
    holder: Child,
    init: Pid,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Where its systemd keeps units; goes last, when nobody is in it any more.
    _cgroup: Option<Cgroup>,
}

impl Host {
    /// Switches the host on and waits until it is up, on the network too.
    pub(crate) fn boot(lab: &Lab, switch: &Arc<Switch>, place: &Place) -> Result<Self> {
        let name = &place.name;
        fs::create_dir_all(disk_of(lab, place)).context("making the host's disk")?;
        let cgroup = place.systemd.then(|| Cgroup::make(lab, name)).transpose()?;
        let mut command = match &cgroup {
            Some(cgroup) => systemd::prepare(cgroup, &disk_of(lab, place))?,
            None => Command::new("unshare"),
        };
        let mut holder = command
            .args([
                "--mount",
                "--net",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child",
            ])
            .arg(lab.program())
            .arg(role::INIT)
            .arg(name)
            .args(place.systemd.then(|| disk_of(lab, place)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting host {name}"))?;
        let orders = holder.stdin.take().context("a pipe")?;
        let mut answers = BufReader::new(holder.stdout.take().context("a pipe")?);
        let Answer::Up(number) = hear(&mut answers).with_context(|| format!("booting {name}"))?
        else {
            bail!("{name}: unexpected answer at boot");
        };
        let host = Self {
            place: place.clone(),
            lab: lab.clone(),
            switch: Arc::clone(switch),
            holder,
            init: init::pid(number)?,
            orders,
            answers,
            _cgroup: cgroup,
        };
        switch.disconnect(name);
        switch.set_filter(name, &[])?;
        switch.set_cable(name, Cable::WHOLE)?;
        switch.connect(name, place.number, number)?;
        host.run(
            &["ip", "-batch", "-"],
            &format!(
                "link set lo up\n\
                 link set eth0 up\n\
                 addr add {}/24 dev eth0\n\
                 addr add {}/64 dev eth0 nodad\n",
                place.ip(),
                place.ip6()
            ),
        )?;
        if place.systemd {
            systemd::wait_up(&host)?;
        }
        Ok(host)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.place.name
    }

    /// The host's disk: what survives a power cut. At this path in the lab, too.
    pub(crate) fn disk(&self) -> PathBuf {
        disk_of(&self.lab, &self.place)
    }

    /// This program, to start it in a helper role.
    pub(crate) fn program(&self) -> &std::path::Path {
        self.lab.program()
    }

    /// Whether its first process is a real systemd.
    pub(crate) fn has_systemd(&self) -> bool {
        self.place.systemd
    }

    /// Its address.
    pub(crate) fn ip(&self) -> IpAddr {
        self.place.ip()
    }

    /// A path of the host as the lab finds it.
    pub(crate) fn seen(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init.as_raw_nonzero()))
    }

    /// The mark of the processes of `program` on this host.
    pub(crate) fn mark(&self, program: &str) -> String {
        format!("{}/{program}", self.place.name)
    }

    /// Starts `argv` on the host under the mark of `program`, its output appended to
    /// `program.log` on the host's disk. Returns its number on the host.
    pub(crate) fn start(&mut self, program: &str, argv: &[OsString]) -> Result<u32> {
        let order = Order {
            argv: argv.to_vec(),
            env: BTreeMap::from([(MARK.to_owned(), self.mark(program))]),
            log: self.disk().join(format!("{program}.log")),
        };
        let mut line = serde_json::to_vec(&order)?;
        line.push(b'\n');
        self.orders
            .write_all(&line)
            .with_context(|| format!("{} is down", self.place.name))?;
        self.orders.flush()?;
        match hear(&mut self.answers)? {
            Answer::Started(pid) => Ok(pid),
            Answer::Failed(fault) => bail!("{}: {fault}", self.place.name),
            Answer::Up(_) => bail!("{}: unexpected answer", self.place.name),
        }
    }

    /// The command line that enters the host.
    fn entering(&self) -> Vec<String> {
        let target = self.init.as_raw_nonzero().to_string();
        ["nsenter", "-t", &target, "-m", "-u", "-i", "-n", "-p", "--"]
            .map(str::to_owned)
            .to_vec()
    }

    /// Runs a command on the host to its end, whatever its end.
    pub(crate) fn output(&self, argv: &[&str]) -> Result<Output> {
        let entering = self.entering();
        Command::new(&entering[0])
            .args(&entering[1..])
            .args(argv)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {} on {}", argv.join(" "), self.place.name))
    }

    /// Runs a command on the host to its good end and returns what it printed.
    pub(crate) fn run(&self, argv: &[&str], input: &str) -> Result<String> {
        let entering = self.entering();
        let mut all: Vec<&str> = entering[1..].iter().map(String::as_str).collect();
        all.extend_from_slice(argv);
        run(&entering[0], &all, input).with_context(|| format!("on {}", self.place.name))
    }

    /// The host's network namespace, for a thread of the lab that works in it. Whoever
    /// keeps it keeps the network alive beyond a power cut.
    pub(crate) fn network(&self) -> Result<OwnedFd> {
        let path = format!("/proc/{}/ns/net", self.init.as_raw_nonzero());
        Ok(File::open(&path)
            .with_context(|| format!("opening {path}"))?
            .into())
    }

    /// Whether its first process has ended by itself.
    pub(crate) fn is_down(&mut self) -> Result<bool> {
        let ended = self.holder.try_wait().context("looking at the host")?;
        Ok(ended.is_some())
    }

    /// Cuts the power: no frame leaves any more, and every process is gone. The cable
    /// comes first: the kernel of the lab outlives the host and would otherwise refuse
    /// connections in its name for a moment, which no machine without power does.
    pub(crate) fn power_cut(self) -> Result<()> {
        self.switch.set_cable(&self.place.name, Cable::CUT)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // First its parent, which would remark on the death of its child; the first
        // process goes with it.
        let _ = self.holder.kill();
        let _ = kill_process(self.init, Signal::KILL);
        let _ = self.holder.wait();
        // Then the first process is the lab's to bury, once all others are gone.
        let gone = wait::until("the host's processes end", GONE_LIMIT, || {
            Ok(match waitpid(Some(self.init), WaitOptions::NOHANG) {
                Ok(None) => None,
                Ok(Some(_)) | Err(_) => Some(()),
            })
        });
        if let Err(fault) = gone {
            eprintln!("evenkeel lab: {}: {fault:#}", self.place.name);
        }
    }
}

fn disk_of(lab: &Lab, place: &Place) -> PathBuf {
    lab.directory().join(&place.name)
}

fn hear(answers: &mut BufReader<ChildStdout>) -> Result<Answer> {
    let mut line = String::new();
    if answers
        .read_line(&mut line)
        .context("listening to a host")?
        == 0
    {
        bail!("the host went down");
    }
    serde_json::from_str(&line).context("understanding a host")
}
