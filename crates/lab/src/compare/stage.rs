//! The stage on which every peer plays: the same two servers with Apache, a third host for
//! those that take one, a client and an observer.
//!
//! Each server has a _neighbour_ besides: a host that is on the same side as the server
//! wherever the network is cut, and for whom the address is at that server and nowhere else,
//! as for anybody whose ARP entry is old. It asks for the address every [`ASKED`], so that
//! the observer learns of each server at every moment whether it answers. Of a server that
//! nobody happens to ask, the client alone would not learn that.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::peers::{Peer, Rank};
use crate::bridge::{Cable, Switch};
use crate::client::{Client, PACE, QUICK};
use crate::cluster::{SERVICE, WITNESS};
use crate::fault::{Ground, load};
use crate::host::{Host, Place, hardware};
use crate::inside::Lab;
use crate::observer::Observer;
use crate::{apache, process, wait};

/// A neighbour asks its server so often.
pub(crate) const ASKED: Duration = Duration::from_millis(10);

/// The number of a server's neighbour is the server's and this.
const NEIGHBOUR: u8 = 40;

/// How often it is looked whether a peer has settled: seldom enough to be no load on it.
const LOOK: Duration = Duration::from_millis(100);

/// Time for a program that was told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The switched-on hosts of one peer.
pub(crate) struct Stage {
    lab: Lab,
    switch: Arc<Switch>,
    mark: &'static str,
    servers: Vec<Place>,
    third: Option<Place>,
    hosts: BTreeMap<String, Host>,
    client: Host,
    neighbours: Vec<Host>,
    /// Who answers for the address.
    pub(crate) observer: Observer,
}

/// The places of the servers.
pub(crate) fn servers() -> Vec<Place> {
    vec![Place::new("ams1", 11), Place::new("fra1", 12)]
}

/// The place of the third host.
pub(crate) fn third() -> Place {
    Place::new(WITNESS, 13)
}

/// The place of a server's neighbour.
fn neighbour_of(server: &Place) -> Place {
    let name = format!("near-{}", server.name);
    Place::new(&name, server.number + NEIGHBOUR)
}

/// Tells `host` for good at which hardware address `ip` is.
fn know(host: &Host, ip: IpAddr, address: &str) -> Result<()> {
    let ip = ip.to_string();
    let order = ["ip", "neigh", "replace", &ip, "lladdr", address];
    let argv = [&order[..], &["dev", "eth0", "nud", "permanent"]].concat();
    host.run(&argv, "").map(drop)
}

/// Switches the neighbour of a server on, for whom [`SERVICE`] is at that server.
pub(crate) fn boot_neighbour(lab: &Lab, switch: &Arc<Switch>, server: &Place) -> Result<Host> {
    let host = Host::boot(lab, switch, &neighbour_of(server))?;
    know(&host, SERVICE, &hardware(server.number))?;
    Ok(host)
}

/// Puts the neighbour of a server on that server's side of whatever is cut.
pub(crate) fn join_neighbour(switch: &Switch, host: &Host, server: &Place) -> Result<()> {
    let neighbour = neighbour_of(server);
    let address = hardware(neighbour.number);
    know(host, neighbour.ip(), &address)?;
    switch.set_neighbour(&server.name, Some(address))
}

impl Stage {
    /// Switches everything on, with new disks, and starts the peer on it. `Err` inside: it
    /// cannot work here, and why.
    pub(crate) fn open(
        lab: &Lab,
        switch: &Arc<Switch>,
        peer: &mut dyn Peer,
    ) -> Result<std::result::Result<Self, String>> {
        let servers = servers();
        let third = peer.has_third().then(third);
        for place in servers.iter().chain(&third) {
            let _ = fs::remove_dir_all(lab.directory().join(&place.name));
        }
        peer.prepare(lab)?;
        let observer = Observer::start(switch, &[SERVICE])?;
        let client = Host::boot(lab, switch, &Place::new("client", 50))?;
        let mut neighbours = Vec::new();
        for server in &servers {
            neighbours.push(boot_neighbour(lab, switch, server)?);
        }
        let mut stage = Self {
            lab: lab.clone(),
            switch: Arc::clone(switch),
            mark: peer.mark(),
            servers,
            third,
            hosts: BTreeMap::new(),
            client,
            neighbours,
            observer,
        };
        for name in stage.names() {
            stage.boot(&name, peer)?;
        }
        Ok(match peer.set_up(&stage)? {
            None => Ok(stage),
            Some(hindrance) => Err(hindrance),
        })
    }

    /// All hosts that take part, with power or without.
    pub(crate) fn names(&self) -> Vec<String> {
        let all = self.servers.iter().chain(&self.third);
        all.map(|place| place.name.clone()).collect()
    }

    /// The servers, with power or without.
    pub(crate) fn server_names(&self) -> Vec<String> {
        let all = self.servers.iter();
        all.map(|place| place.name.clone()).collect()
    }

    /// The third host's name, if one takes part.
    pub(crate) fn third_name(&self) -> Option<String> {
        self.third.as_ref().map(|place| place.name.clone())
    }

    /// The server that is not `name`.
    pub(crate) fn other(&self, name: &str) -> Result<String> {
        let mut others = self.server_names().into_iter();
        let other = others.find(|server| server != name);
        other.context("a stage with one server")
    }

    /// A host that has power, to do something to it.
    pub(crate) fn host_mut(&mut self, name: &str) -> Result<&mut Host> {
        self.hosts
            .get_mut(name)
            .with_context(|| format!("{name} has no power"))
    }

    /// Hosts that have power.
    pub(crate) fn powered(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    fn rank(&self, name: &str) -> Rank {
        match self.servers.iter().position(|place| place.name == name) {
            Some(0) => Rank::First,
            Some(_) => Rank::Second,
            None => Rank::Third,
        }
    }

    /// Switches a host on, with all that runs on it.
    fn boot(&mut self, name: &str, peer: &dyn Peer) -> Result<()> {
        let mut all = self.servers.iter().chain(&self.third);
        let place = all.find(|place| place.name == name);
        let place = place.with_context(|| format!("no host {name}"))?.clone();
        let mut host = Host::boot(&self.lab, &self.switch, &place)?;
        let rank = self.rank(name);
        if rank != Rank::Third {
            join_neighbour(&self.switch, &host, &place)?;
            apache::start(&mut host)?;
        }
        peer.start(&mut host, rank)
            .with_context(|| format!("starting {} on {name}", self.mark))?;
        self.hosts.insert(name.to_owned(), host);
        Ok(())
    }

    /// A client that begins to ask for a page at the address.
    pub(crate) fn client(&self, page: &'static str) -> Result<Client> {
        Client::start(&self.client, apache::page(SERVICE), page, PACE)
    }

    /// The neighbours begin to ask; until these are dropped.
    pub(crate) fn ask(&self) -> Result<Vec<Client>> {
        let all = self.neighbours.iter();
        all.map(|host| Client::start(host, apache::page(SERVICE), QUICK, ASKED))
            .collect()
    }

    /// The servers with power whose kernel has the address.
    pub(crate) fn owners(&self) -> Result<Vec<String>> {
        let wanted = SERVICE.to_string();
        let mut owners = Vec::new();
        for name in self.server_names() {
            let Some(host) = self.hosts.get(&name) else {
                continue;
            };
            let told = host.run(&["ip", "-o", "addr", "show", "to", &wanted], "")?;
            if !told.trim().is_empty() {
                owners.push(name);
            }
        }
        Ok(owners)
    }

    /// The one server whose kernel has the address, or what is wrong.
    pub(crate) fn sole_owner(&self) -> Result<std::result::Result<String, String>> {
        let mut owners = self.owners()?;
        Ok(match owners.len() {
            0 => Err("no server has the address".to_owned()),
            1 => Ok(owners.remove(0)),
            _ => Err(format!("{} have the address", owners.join(" and "))),
        })
    }

    /// Waits until the peer has settled: one holder, the same one for as long as it may take
    /// this peer to change its mind.
    pub(crate) fn wait_settled(&self, peer: &dyn Peer) -> Result<String> {
        let mut last = String::new();
        let mut held: Option<(String, Instant)> = None;
        let settled = wait::until("it settles", peer.patience(), || {
            std::thread::sleep(LOOK);
            match peer.settled(self)? {
                Ok(holder) => {
                    if held.as_ref().is_none_or(|(name, _)| *name != holder) {
                        held = Some((holder, Instant::now()));
                    }
                }
                Err(lacking) => {
                    last = lacking;
                    held = None;
                }
            }
            Ok(held
                .clone()
                .filter(|(_, since)| since.elapsed() >= peer.calm())
                .map(|(holder, _)| holder))
        });
        settled.with_context(|| format!("last: {last}"))
    }

    /// Lifts whatever fault there is, as an administrator would: power, cables, what was
    /// stopped goes on, what does not run is started again.
    pub(crate) fn lift(&mut self, peer: &dyn Peer) -> Result<()> {
        for name in self.names() {
            self.lift_one(&name, peer)
                .with_context(|| format!("putting {name} right"))?;
        }
        Ok(())
    }

    fn lift_one(&mut self, name: &str, peer: &dyn Peer) -> Result<()> {
        let rank = self.rank(name);
        let Some(host) = self.hosts.get_mut(name) else {
            return self.boot(name, peer);
        };
        self.switch.set_cable(name, Cable::WHOLE)?;
        load::stop(host)?;
        let mark = host.mark(self.mark);
        process::thaw_all(&mark)?;
        if rank != Rank::Third {
            apache::heal(host)?;
        }
        if process::with_mark(&mark)?.is_empty() {
            peer.start(host, rank)?;
        }
        Ok(())
    }

    /// Tells what carries `mark` on a host to stop, the first process of it, as an init
    /// system does, and waits until all of it has.
    pub(crate) fn terminate(&self, name: &str, mark: &str) -> Result<()> {
        let mark = self.host(name)?.mark(mark);
        let Some(first) = process::with_mark(&mark)?.into_iter().next() else {
            bail!("{mark} does not run");
        };
        rustix::process::kill_process(first.pid, Signal::TERM).context("telling it to stop")?;
        wait::until("it stops", STOP_LIMIT, || {
            Ok(process::with_mark(&mark)?.is_empty().then_some(()))
        })
    }

    /// Copies the peer's logs into a directory.
    pub(crate) fn keep_logs(&self, peer: &dyn Peer, into: &Path) {
        let _ = fs::create_dir_all(into);
        for host in self.powered() {
            for log in peer.logs(host) {
                let name = log.file_name().unwrap_or_default().to_string_lossy();
                let _ = fs::copy(&log, into.join(format!("{}-{name}", host.name())));
            }
        }
    }
}

impl Ground for Stage {
    fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .get(name)
            .with_context(|| format!("{name} has no power"))
    }

    fn switch(&self) -> &Switch {
        &self.switch
    }

    fn power_cut(&mut self, name: &str) -> Result<()> {
        let host = self
            .hosts
            .remove(name)
            .with_context(|| format!("{name} has no power"))?;
        // The kernel of the lab outlives the host: to its neighbour, too, it is dead at once.
        self.switch.set_neighbour(name, None)?;
        host.power_cut()
    }

    fn program(&self) -> &'static str {
        self.mark
    }
}
