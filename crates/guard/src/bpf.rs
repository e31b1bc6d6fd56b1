//! The strong mechanism: eBPF programs at tcx on every device, their maps, their pins.
//!
//! Maps and links are pinned, programs are not: a process that starts loads its own
//! programs over the pinned maps and puts them into the pinned links, one by one in
//! one step each. So an upgrade changes the program without a moment unguarded.

mod assembler;
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use evenkeel_host::sys::bpf::{self, Link, Map, MapKind, MapShape, MappedWords, Program, Tcx};
use evenkeel_host::sys::bpffs;

use crate::device::Device;
use crate::slots::{self, Slot};
use crate::state::Repairs;
use crate::{ADDRESSES_MAX, GuardError};
use program::Framing;

/// What the map of addresses looks like: IPv4 as `::ffff:a.b.c.d`, to a slot.
const ADDRESSES: MapShape = MapShape {
    kind: MapKind::Hash,
    key: 16,
    value: 4,
    entries: ADDRESSES_MAX as u32,
};

/// Name of the pin of the slots.
const SLOTS: &str = "slots";

const SIDES: [Tcx; 2] = [Tcx::Ingress, Tcx::Egress];

/// The programs, by framing and side.
struct Programs {
    ethernet: [Program; 2],
    other: [Program; 2],
}

/// Everything of one guard in the kernel.
pub(crate) struct Bpf {
    mount: PathBuf,
    directory: PathBuf,
    addresses: Map,
    programs: Programs,
    names: [String; 2],
    links: BTreeMap<(u32, Tcx), Link>,
}

impl Bpf {
    /// Continues from the pins under `directory` in the bpffs at `mount`, or makes
    /// everything new and closed.
    pub(crate) fn open(
        mount: &Path,
        directory: &Path,
        digest: u32,
        seat: Option<Map>,
    ) -> Result<(Self, MappedWords), GuardError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| GuardError::Bpffs { path, source }
        };
        bpffs::ensure(mount).map_err(at(mount))?;
        fs::create_dir_all(directory).map_err(at(directory))?;
        let slots = match seat {
            Some(map) => {
                pin_again(directory, SLOTS, &map)?;
                map
            }
            None => open_map(directory, SLOTS, slots::SHAPE)?,
        };
        let addresses = open_map(directory, "addresses", ADDRESSES)?;
        let words = slots
            .words()
            .map_err(|error| GuardError::kernel("map the deadlines", error))?;
        let names = [
            format!("ek_{digest:08x}_in"),
            format!("ek_{digest:08x}_out"),
        ];
        let programs = Programs {
            ethernet: load(Framing::Ethernet, &names, &addresses, &slots)?,
            other: load(Framing::Other, &names, &addresses, &slots)?,
        };
        let mut new = Self {
            mount: mount.to_path_buf(),
            directory: directory.to_path_buf(),
            addresses,
            programs,
            names,
            links: BTreeMap::new(),
        };
        new.adopt_links()?;
        Ok((new, words))
    }

    fn link_path(&self, ifindex: u32, side: Tcx) -> PathBuf {
        let side = match side {
            Tcx::Ingress => "in",
            Tcx::Egress => "out",
        };
        self.directory.join(format!("{side}-{ifindex}"))
    }

    /// Opens the links of an earlier process that are still attached; they get their
    /// program, and their device its check, with the first verification.
    fn adopt_links(&mut self) -> Result<(), GuardError> {
        let failed = |error| GuardError::kernel("read the pins", error);
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some((side, ifindex)) = link_of(&path) else {
                continue;
            };
            let Ok(link) = Link::open(&path) else {
                continue;
            };
            if link.is_on(ifindex, side).unwrap_or(false) {
                self.links.insert((ifindex, side), link);
            } else {
                // Its device is gone: a dead pin, perhaps of an older network namespace
                // with the same number.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    fn program(&self, device: &Device, side: Tcx) -> &Program {
        let pair = if device.ethernet {
            &self.programs.ethernet
        } else {
            &self.programs.other
        };
        match side {
            Tcx::Ingress => &pair[0],
            Tcx::Egress => &pair[1],
        }
    }

    /// Puts our own programs into the links found at opening.
    pub(crate) fn take_over(&self, devices: &[Device]) -> Result<(), GuardError> {
        for device in devices {
            for side in SIDES {
                if let Some(link) = self.links.get(&(device.index, side)) {
                    link.replace(self.program(device, side)).map_err(|error| {
                        GuardError::kernel(format!("replace the program on {}", device.name), error)
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Detaches programs of this guard that hang on other pins, for example in another
    /// bpffs that a former process used: nobody would ever extend their deadlines.
    pub(crate) fn detach_strays(&self, devices: &[Device]) {
        for device in devices {
            for (side, name) in SIDES.into_iter().zip(&self.names) {
                let own = self
                    .links
                    .get(&(device.index, side))
                    .and_then(|link| link.id().ok());
                for link in Link::all_on(device.index, side, name).unwrap_or_default() {
                    if link.id().ok() != own {
                        let detached = link.detach();
                        tracing::warn!(
                            device = device.name,
                            ?detached,
                            "found a program of an earlier guard whose pins are elsewhere"
                        );
                    }
                }
            }
        }
    }

    /// Covers `devices`, and nothing else; counts what had been taken away.
    pub(crate) fn cover(&mut self, devices: &[Device]) -> Result<Repairs, GuardError> {
        let mut repairs = Repairs::default();
        let gone = |key: &(u32, Tcx)| !devices.iter().any(|device| device.index == key.0);
        let dead: Vec<_> = self.links.keys().copied().filter(gone).collect();
        for (ifindex, side) in dead {
            self.links.remove(&(ifindex, side));
            let _ = fs::remove_file(self.link_path(ifindex, side));
        }
        // One device that refuses must not leave the others uncovered.
        let mut failure = None;
        let mut missing = Vec::new();
        for device in devices {
            for side in SIDES {
                match self.links.get(&(device.index, side)) {
                    Some(link) if link.is_on(device.index, side).unwrap_or(false) => {
                        match self.restore_pin(device.index, side) {
                            Ok(count) => repairs.pins += count,
                            Err(error) => failure = Some(error),
                        }
                        continue;
                    }
                    Some(_) => repairs.links += 1,
                    None if side == Tcx::Ingress => repairs.devices += 1,
                    None => {}
                }
                missing.push((device, side));
            }
        }
        // One after another: each waits, under one lock of the kernel's, until no
        // processor can be in the old list of programs any more, some 25 ms.
        for (device, side) in missing {
            if let Err(error) = self.attach(device, side) {
                failure = Some(error);
            }
        }
        failure.map_or(Ok(repairs), Err)
    }

    /// Attaches the program and pins the link.
    fn attach(&mut self, device: &Device, side: Tcx) -> Result<(), GuardError> {
        let link = match Link::attach(self.program(device, side), device.index, side) {
            Ok(link) => link,
            // The device has gone meanwhile.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                self.links.remove(&(device.index, side));
                return Ok(());
            }
            Err(error) => {
                let what = format!("attach the program to {}", device.name);
                return Err(GuardError::kernel(what, error));
            }
        };
        let path = self.link_path(device.index, side);
        self.repin(&path)?;
        pin(link.as_fd(), &path)?;
        self.links.insert((device.index, side), link);
        Ok(())
    }

    /// Pins a link again if its pin is gone; how many that were.
    fn restore_pin(&self, ifindex: u32, side: Tcx) -> Result<usize, GuardError> {
        let path = self.link_path(ifindex, side);
        match self.links.get(&(ifindex, side)) {
            Some(link) if !path.exists() => {
                self.repin(&path)?;
                pin(link.as_fd(), &path)?;
                Ok(1)
            }
            Some(_) | None => Ok(0),
        }
    }

    /// Makes room for a pin at `path`: the directory is there, the path is free.
    fn repin(&self, path: &Path) -> Result<(), GuardError> {
        let _ = fs::remove_file(path);
        fs::create_dir_all(&self.directory).map_err(|source| GuardError::Bpffs {
            path: self.directory.clone(),
            source,
        })
    }

    /// The address belongs to `slot` from now on.
    pub(crate) fn set(&self, address: IpAddr, slot: Slot) -> Result<(), GuardError> {
        self.addresses
            .set(&key(address), &slot.to_bytes())
            .map_err(|error| GuardError::kernel(format!("guard {address} by eBPF"), error))
    }

    /// The address is not guarded any more.
    pub(crate) fn remove(&self, address: IpAddr) -> Result<(), GuardError> {
        self.addresses
            .remove(&key(address))
            .map(|_| ())
            .map_err(|error| GuardError::kernel(format!("stop guarding {address} by eBPF"), error))
    }

    /// All guarded addresses and their slots.
    pub(crate) fn addresses(&self) -> Result<Vec<(IpAddr, Slot)>, GuardError> {
        let failed = |error| GuardError::kernel("read the guarded addresses", error);
        let mut found = Vec::new();
        for key in self.addresses.keys().map_err(failed)? {
            let mut value = [0; 4];
            let Ok(octets) = <[u8; 16]>::try_from(key.as_slice()) else {
                continue;
            };
            if self.addresses.get(&key, &mut value).map_err(failed)? {
                let address = Ipv6Addr::from(octets).to_canonical();
                found.push((address, Slot::from_bytes(value)));
            }
        }
        Ok(found)
    }

    /// Takes everything away.
    pub(crate) fn uninstall(self) -> Result<(), GuardError> {
        remove_pins(&self.mount, &self.directory)
    }
}

/// Detaches and removes what is pinned under `directory`.
pub(crate) fn remove_pins(mount: &Path, directory: &Path) -> Result<(), GuardError> {
    let failed = |source| GuardError::Bpffs {
        path: directory.to_path_buf(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        answer => answer.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        // Not only unpinned: another process, stopped perhaps, may hold the link, too.
        if link_of(&path).is_some()
            && let Ok(link) = Link::open(&path)
        {
            let _ = link.detach();
        }
    }
    fs::remove_dir_all(directory)
        .and_then(|()| bpffs::unmount_if_empty(mount))
        .map_err(failed)
}

fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Which link is pinned at `path`.
fn link_of(path: &Path) -> Option<(Tcx, u32)> {
    let (side, ifindex) = path.file_name()?.to_str()?.split_once('-')?;
    let side = match side {
        "in" => Tcx::Ingress,
        "out" => Tcx::Egress,
        _ => return None,
    };
    Some((side, ifindex.parse().ok()?))
}

fn pin(fd: std::os::fd::BorrowedFd<'_>, path: &Path) -> Result<(), GuardError> {
    bpf::pin(fd, path).map_err(|source| GuardError::Bpffs {
        path: path.to_path_buf(),
        source,
    })
}

/// The map of deadlines that an earlier process pinned, and a mapping of it; none if
/// there is none.
pub(crate) fn find_slots(directory: &Path) -> Result<Option<(Map, MappedWords)>, GuardError> {
    let failed = |error| GuardError::kernel("map the deadlines", error);
    let Some(map) = Map::open(&directory.join(SLOTS), slots::SHAPE).map_err(failed)? else {
        return Ok(None);
    };
    let words = map.words().map_err(failed)?;
    Ok(Some((map, words)))
}

/// Whatever is pinned as `name` is this map afterwards.
fn pin_again(directory: &Path, name: &str, map: &Map) -> Result<(), GuardError> {
    let path = directory.join(name);
    let _ = fs::remove_file(&path);
    pin(map.as_fd(), &path)
}

/// The pinned map `name`, or a new one if there is none or if it is another version's.
fn open_map(directory: &Path, name: &str, shape: MapShape) -> Result<Map, GuardError> {
    let path = directory.join(name);
    if let Ok(Some(map)) = Map::open(&path, shape) {
        return Ok(map);
    }
    let map = Map::create(&format!("evenkeel_{name}"), shape)
        .map_err(|error| GuardError::kernel(format!("make the map of {name}"), error))?;
    pin_again(directory, name, &map)?;
    Ok(map)
}

fn load(
    framing: Framing,
    [ingress, egress]: &[String; 2],
    addresses: &Map,
    slots: &Map,
) -> Result<[Program; 2], GuardError> {
    let load_side = |side, name: &str| {
        let (addresses, slots) = (addresses.as_fd().as_raw_fd(), slots.as_fd().as_raw_fd());
        let instructions = program::program(framing, side, addresses, slots);
        Program::load(name, &instructions)
            .map_err(|error| GuardError::kernel("load the eBPF program", error))
    };
    Ok([
        load_side(Tcx::Ingress, ingress)?,
        load_side(Tcx::Egress, egress)?,
    ])
}
