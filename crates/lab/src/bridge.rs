//! The switch: a bridge in the lab's own network namespace with one port per host, and
//! the faults of its cables. A cable that is cut keeps its carrier: the hosts at both
//! ends believe in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use evenkeel_host::sys::tap::Tap;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::host::hardware;

/// What one cable does to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cable {
    /// Frames from the host do not reach the switch.
    pub(crate) from_host: Wire,
    /// Frames from the switch do not reach the host.
    pub(crate) to_host: Wire,
}

/// One direction of a cable; what is worse is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wire {
    /// Every frame arrives.
    #[default]
    Whole,
    /// So many frames in a hundred are lost, by chance.
    Lossy(u8),
    /// No frame arrives.
    Cut,
}

impl Cable {
    /// No frame passes in either direction.
    pub(crate) const CUT: Self = Self {
        from_host: Wire::Cut,
        to_host: Wire::Cut,
    };
    /// The host hears, and nobody hears it.
    pub(crate) const MUTE: Self = Self {
        from_host: Wire::Cut,
        to_host: Wire::Whole,
    };
    /// The host is heard, and hears nobody.
    pub(crate) const DEAF: Self = Self {
        from_host: Wire::Whole,
        to_host: Wire::Cut,
    };
    /// Every frame passes.
    pub(crate) const WHOLE: Self = Self {
        from_host: Wire::Whole,
        to_host: Wire::Whole,
    };

    /// With both to bear.
    fn and(self, other: Self) -> Self {
        Self {
            from_host: self.from_host.max(other.from_host),
            to_host: self.to_host.max(other.to_host),
        }
    }
}

/// The hardware address of the host with this number.
pub(crate) const fn mac(number: u8) -> [u8; 6] {
    [0x02, 0x45, 0x4b, 0, 0, number]
}

/// The hardware address under which a scenario sends frames that no host of the cluster sent. Who
/// watches the switch leaves them out: they are told apart from everything else by it, and a flood
/// of them blinds nobody.
pub(crate) const FORGER: [u8; 6] = [0x02, 0x45, 0x4b, 0xff, 0, 1];

/// Which port belongs to which host, for the observer: index of the device to name.
pub(crate) type Ports = Arc<Mutex<BTreeMap<u32, String>>>;

/// The switch.
#[derive(Debug)]
pub(crate) struct Switch {
    cables: Mutex<BTreeMap<String, Cable>>,
    /// Hosts whose cables are pulled for a moment, whatever else is wrong with them.
    pulled: Mutex<BTreeSet<String>>,
    ports: Ports,
    /// Further rules per host, of the form that follows `iifname PORT`: filters that a
    /// scenario puts in.
    filters: Mutex<BTreeMap<String, Vec<String>>>,
    /// Per host, the hardware address of a neighbour on its own side of the cable.
    neighbours: Mutex<BTreeMap<String, String>>,
}

/// Runs a program to its end.
///
/// # Errors
///
/// That it could not be started or failed, with what it said.
pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    child
        .stdin
        .take()
        .context("a pipe")?
        .write_all(input.as_bytes())
        .with_context(|| format!("writing to {program}"))?;
    let output = child
        .wait_with_output()
        .with_context(|| format!("waiting for {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The port of a host, on the switch.
fn port(host: &str) -> String {
    format!("p-{host}")
}

/// The rule for one direction of a cable, none if it is whole. `what` names the port.
fn rule(what: &str, wire: Wire) -> Option<String> {
    match wire {
        Wire::Whole => None,
        Wire::Lossy(percent) => Some(format!("{what} numgen random mod 100 < {percent} drop")),
        Wire::Cut => Some(format!("{what} drop")),
    }
}

impl Switch {
    /// Makes the bridge in the network namespace of this process.
    pub(crate) fn new() -> Result<Self> {
        // Ports forward at once, and neighbour solicitations reach everybody, as on the
        // simplest switch. The bridge itself has no address: the lab sends nothing.
        let script = "link set lo up\n\
             link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set br0 addrgenmode none\n\
             link set br0 up\n";
        run("ip", &["-batch", "-"], script).context("making the switch")?;
        let switch = Self {
            cables: Mutex::default(),
            pulled: Mutex::default(),
            ports: Ports::default(),
            filters: Mutex::default(),
            neighbours: Mutex::default(),
        };
        switch.apply()?;
        Ok(switch)
    }

    /// Hangs a host on the switch: the other end of the cable is `eth0` in the network
    /// namespace of process `init`. A cable set before stays as it was set.
    pub(crate) fn connect(&self, host: &str, number: u8, init: i32) -> Result<()> {
        let (port, hardware) = (port(host), hardware(number));
        let script = format!(
            "link add {port} type veth peer name eth0 netns {init} address {hardware}\n\
             link set {port} addrgenmode none\n\
             link set {port} master br0\n\
             link set {port} up\n"
        );
        run("ip", &["-batch", "-"], &script)
            .with_context(|| format!("connecting {host} to the switch"))?;
        let index = index_of(&port)?;
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.retain(|_, name| name != host);
        ports.insert(index, host.to_owned());
        Ok(())
    }

    /// Which port belongs to which host.
    pub(crate) fn ports(&self) -> Ports {
        Arc::clone(&self.ports)
    }

    /// Takes the port away, with a host that has lost its power.
    pub(crate) fn disconnect(&self, host: &str) {
        // The kernel takes it away itself when the host's network namespace goes.
        let _ = run("ip", &["link", "del", &port(host)], "");
    }

    /// Does this to the cable of `host`, from the next frame on.
    pub(crate) fn set_cable(&self, host: &str, cable: Cable) -> Result<()> {
        self.cables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(host.to_owned(), cable);
        self.apply()
    }

    /// Does this to the cable of `host` besides what was done to it before.
    pub(crate) fn worsen_cable(&self, host: &str, cable: Cable) -> Result<()> {
        {
            let mut all = self.cables.lock().unwrap_or_else(PoisonError::into_inner);
            let known = all.entry(host.to_owned()).or_default();
            *known = known.and(cable);
        }
        self.apply()
    }

    /// Pulls the cable of `host`, or puts it back, whatever state it is in.
    pub(crate) fn pull_cable(&self, host: &str, pulled: bool) -> Result<()> {
        {
            let mut all = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
            if pulled {
                all.insert(host.to_owned());
            } else {
                all.remove(host);
            }
        }
        self.apply()
    }

    /// Gives `host` a neighbour by its hardware address, or takes it away: what happens to the
    /// cable of `host` does not happen between those two, as if they were on the same side of
    /// the place where the network is cut.
    pub(crate) fn set_neighbour(&self, host: &str, neighbour: Option<String>) -> Result<()> {
        {
            let mut all = self
                .neighbours
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match neighbour {
                Some(address) => all.insert(host.to_owned(), address),
                None => all.remove(host),
            };
        }
        self.apply()
    }

    /// Drops frames from or to `host` that match any of `matches` (nftables, bridge
    /// family; `@from` and `@to` stand for "comes in by" and "goes out by" its port);
    /// an empty list lifts the filter.
    pub(crate) fn set_filter(&self, host: &str, matches: &[&str]) -> Result<()> {
        self.filters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(
                host.to_owned(),
                matches.iter().map(|text| (*text).to_owned()).collect(),
            );
        self.apply()
    }

    /// One rule of that form besides those that are there.
    pub(crate) fn add_filter(&self, host: &str, text: &str) -> Result<()> {
        self.filters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(host.to_owned())
            .or_default()
            .push(text.to_owned());
        self.apply()
    }

    /// The whole rule set, replaced in one transaction.
    fn apply(&self) -> Result<()> {
        let (mut entering, mut leaving) = (String::new(), String::new());
        let mut cables = self
            .cables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for host in self
            .pulled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            cables.insert(host.clone(), Cable::CUT);
        }
        let neighbours = self
            .neighbours
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (host, cable) in &cables {
            let port = port(host);
            let but = |which: &str| match neighbours.get(host) {
                Some(address) => format!(" ether {which} != {address}"),
                None => String::new(),
            };
            let from = format!("iifname \"{port}\"{}", but("daddr"));
            if let Some(rule) = rule(&from, cable.from_host) {
                entering += &format!("    {rule}\n");
            }
            let to = format!("oifname \"{port}\"{}", but("saddr"));
            if let Some(rule) = rule(&to, cable.to_host) {
                leaving += &format!("    {rule}\n");
            }
        }
        let filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        for (host, matches) in filters.iter() {
            let (from, to) = (
                format!("iifname \"{}\"", port(host)),
                format!("oifname \"{}\"", port(host)),
            );
            for text in matches {
                let rule = text.replace("@from", &from).replace("@to", &to);
                let chain = if text.contains("@to") {
                    &mut leaving
                } else {
                    &mut entering
                };
                *chain += &format!("    {rule} drop\n");
            }
        }
        let rules = format!(
            "table bridge lab\ndelete table bridge lab\ntable bridge lab {{\n\
             \x20 chain entering {{ type filter hook prerouting priority -300;\n{entering}  }}\n\
             \x20 chain leaving {{ type filter hook postrouting priority 300;\n{leaving}  }}\n}}\n"
        );
        run("nft", &["-f", "-"], &rules)
            .context("setting the cables of the switch")
            .map(drop)
    }
}

/// The index of a device; /sys may show another network namespace's.
fn index_of(device: &str) -> Result<u32> {
    let text = run("ip", &["-o", "link", "show", "dev", device], "")?;
    text.split(':')
        .next()
        .and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("no index in: {text}"))
}

/// A tap on all ports that sees what the hosts send, and not what a scenario forges.
pub(crate) fn tap() -> Result<Tap> {
    let tap = Tap::open().context("watching the switch")?;
    tap.leave_out(FORGER).context("leaving forged frames out")?;
    Ok(tap)
}

/// How often who waits for frames looks whether it is to end.
const LOOK_UP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Waits for frames, a moment at most.
pub(crate) fn wait_for_frames(tap: &Tap) -> Result<()> {
    let mut fds = [PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)];
    match poll(&mut fds, Some(&LOOK_UP)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(fault) => Err(fault).context("waiting for frames"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_wire_needs_no_rule() {
        assert_eq!(rule("x", Wire::Whole), None);
        assert_eq!(rule("x", Wire::Cut).as_deref(), Some("x drop"));
        assert_eq!(
            rule("x", Wire::Lossy(30)).as_deref(),
            Some("x numgen random mod 100 < 30 drop")
        );
    }
}
