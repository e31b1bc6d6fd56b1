//! What the kernel has, as it told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use evenkeel_host::address::{Address, Change, Link, Owner, Placement, single};

use super::group::Lack;
use crate::resolve::Site;

/// One address that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    device: u32,
    prefix: u8,
    owner: Owner,
    route: Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    There,
    Deleted,
}

impl Seen {
    /// Ours, in the only form in which evenkeel configures an address.
    fn ours(&self, ip: IpAddr) -> bool {
        self.owner == Owner::Evenkeel && self.prefix == single(ip)
    }
}

/// What a change means to the groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// Nothing new.
    Nothing,
    /// Whoever has this address must look.
    Address(IpAddr),
    /// Whoever has this address must look, because somebody else configured it on the
    /// named interface.
    Foreign(IpAddr, String),
    /// Whoever has an address on this interface must look.
    Link(String, Voice),
    /// Everybody must look.
    Everything,
}

/// Whether neighbours must hear of a link's addresses again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    /// It can speak again, or speaks from another hardware address.
    Anew,
    /// It speaks as before, or cannot.
    AsBefore,
}

/// Links, addresses and stopgaps, by number, name and address.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    links: BTreeMap<u32, Link>,
    names: BTreeMap<String, u32>,
    seen: BTreeMap<IpAddr, Vec<Seen>>,
    /// The device of each stopgap of an address.
    stopgaps: BTreeSet<(IpAddr, u32)>,
}

impl Kernel {
    /// Takes note of one change.
    pub(super) fn note(&mut self, change: Change) -> Noted {
        match change {
            Change::Link(link) => self.link(link),
            Change::LinkGone(index) => self.link_gone(index),
            Change::Address(address) => self.address(&address),
            Change::AddressGone(address) => self.address_gone(&address),
            Change::Route(placement) => self.route(placement, Route::There),
            Change::RouteGone(placement) => self.route(placement, Route::Deleted),
            Change::Stopgap(Placement { device, ip }) => {
                self.stopgaps.insert((ip, device));
                Noted::Address(ip)
            }
            Change::StopgapGone(Placement { device, ip }) => {
                self.stopgaps.remove(&(ip, device));
                Noted::Address(ip)
            }
        }
    }

    /// Takes note of everything that is there: what is not listed is gone.
    pub(super) fn replace(
        &mut self,
        links: Vec<Link>,
        addresses: &[Address],
        stopgaps: &[Placement],
    ) -> Vec<Noted> {
        let there: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        let gone: Vec<u32> = self
            .links
            .keys()
            .copied()
            .filter(|index| !there.contains(index))
            .collect();
        for index in gone {
            self.link_gone(index);
        }
        let mut noted: Vec<Noted> = links.into_iter().map(|link| self.link(link)).collect();
        let key = |address: &Address| (address.ip, address.device, address.prefix);
        let listed: BTreeSet<_> = addresses.iter().map(key).collect();
        for (ip, seen) in &mut self.seen {
            seen.retain(|seen| listed.contains(&(*ip, seen.device, seen.prefix)));
        }
        self.seen.retain(|_, seen| !seen.is_empty());
        noted.extend(addresses.iter().map(|address| self.address(address)));
        self.stopgaps = stopgaps.iter().map(|one| (one.ip, one.device)).collect();
        noted.push(Noted::Everything);
        noted
    }

    fn link(&mut self, link: Link) -> Noted {
        let (index, name) = (link.index, link.name.clone());
        let old = self.links.insert(index, link.clone());
        if let Some(old) = &old
            && old.name != name
            && self.names.get(&old.name) == Some(&index)
        {
            self.names.remove(&old.name);
        }
        self.names.insert(name.clone(), index);
        match old {
            Some(old) if old == link => Noted::Nothing,
            // Whose place it had under its old name must look as well.
            Some(old) if old.name != name => Noted::Everything,
            old => {
                let heard = old.as_ref().and_then(Link::voice);
                let anew = link.voice().is_some() && link.voice() != heard;
                Noted::Link(name, if anew { Voice::Anew } else { Voice::AsBefore })
            }
        }
    }

    fn link_gone(&mut self, index: u32) -> Noted {
        if let Some(link) = self.links.remove(&index)
            && self.names.get(&link.name) == Some(&index)
        {
            self.names.remove(&link.name);
        }
        for seen in self.seen.values_mut() {
            seen.retain(|seen| seen.device != index);
        }
        self.seen.retain(|_, seen| !seen.is_empty());
        // The kernel tells of none of those.
        self.stopgaps.retain(|(_, device)| *device != index);
        Noted::Everything
    }

    fn address(&mut self, address: &Address) -> Noted {
        let new = Seen {
            device: address.device,
            prefix: address.prefix,
            owner: address.owner,
            route: Route::There,
        };
        let seen = self.seen.entry(address.ip).or_default();
        let same = |seen: &&mut Seen| seen.device == new.device && seen.prefix == new.prefix;
        match seen.iter_mut().find(same) {
            // A refreshed lifetime says nothing about the route.
            Some(old) if old.owner == new.owner => return Noted::Nothing,
            Some(old) => old.owner = new.owner,
            None => seen.push(new),
        }
        if new.ours(address.ip) {
            Noted::Address(address.ip)
        } else {
            Noted::Foreign(address.ip, self.device_name(address.device))
        }
    }

    fn address_gone(&mut self, address: &Address) -> Noted {
        if let Some(seen) = self.seen.get_mut(&address.ip) {
            let same = |seen: &Seen| seen.device == address.device && seen.prefix == address.prefix;
            seen.retain(|seen| !same(seen));
            if seen.is_empty() {
                self.seen.remove(&address.ip);
            }
        }
        Noted::Address(address.ip)
    }

    fn route(&mut self, placement: Placement, route: Route) -> Noted {
        let ip = placement.ip;
        let ours = |seen: &&mut Seen| seen.device == placement.device && seen.ours(ip);
        let seen = self
            .seen
            .get_mut(&ip)
            .and_then(|seen| seen.iter_mut().find(ours));
        match seen {
            Some(seen) if seen.route != route => {
                seen.route = route;
                Noted::Address(ip)
            }
            Some(_) | None => Noted::Nothing,
        }
    }

    /// The name of an interface, or its number if it has none any more.
    pub(super) fn device_name(&self, index: u32) -> String {
        let link = self.links.get(&index);
        link.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }

    fn named(&self, name: &str) -> Option<&Link> {
        self.links.get(self.names.get(name)?)
    }

    fn at(&self, ip: IpAddr) -> &[Seen] {
        self.seen.get(&ip).map_or(&[][..], Vec::as_slice)
    }

    /// Whether anybody has configured a site's address on the site's interface.
    pub(super) fn placed(&self, site: &Site) -> bool {
        let link = self.named(&site.device);
        link.is_some_and(|link| self.is_at(site.ip, link.index))
    }

    fn is_at(&self, ip: IpAddr, device: u32) -> bool {
        self.at(ip).iter().any(|seen| seen.device == device)
    }

    /// Where this machine answers for a site's address: it is placed, or its stopgap is there.
    pub(super) fn answers(&self, site: &Site) -> Option<(Placement, &Link)> {
        let link = self.named(&site.device)?;
        let device = link.index;
        let here = self.is_at(site.ip, device) || self.stopgaps.contains(&(site.ip, device));
        let ip = site.ip;
        here.then_some((Placement { device, ip }, link))
    }

    /// All stopgaps.
    pub(super) fn stopgaps(&self) -> impl Iterator<Item = Placement> + '_ {
        let all = self.stopgaps.iter();
        all.map(|(ip, device)| Placement {
            device: *device,
            ip: *ip,
        })
    }

    /// The stopgaps of an address.
    pub(super) fn stopgaps_of(&self, ip: IpAddr) -> impl Iterator<Item = Placement> + '_ {
        let all = self.stopgaps.range((ip, 0)..=(ip, u32::MAX));
        all.map(|(ip, device)| Placement {
            device: *device,
            ip: *ip,
        })
    }

    /// The stopgaps that are of no use if all of `sites` are wanted.
    pub(super) fn spent_stopgaps(&self, sites: &[Site]) -> Vec<Placement> {
        if self.stopgaps.is_empty() {
            return Vec::new();
        }
        let of_site = |site: &Site| {
            let wanted = self.named(&site.device).map(|link| link.index);
            let placed = self.placed(site);
            let spent = move |one: &Placement| placed || Some(one.device) != wanted;
            self.stopgaps_of(site.ip).filter(spent).collect::<Vec<_>>()
        };
        sites.iter().flat_map(of_site).collect()
    }

    /// Where an address is that evenkeel configured.
    pub(super) fn ours(&self, ip: IpAddr) -> impl Iterator<Item = Placement> + '_ {
        let ours = self.at(ip).iter().filter(move |seen| seen.ours(ip));
        ours.map(move |seen| Placement {
            device: seen.device,
            ip,
        })
    }

    /// What is not as it should be if all of `sites` are wanted.
    pub(super) fn lack(&self, sites: &[Site]) -> Lack {
        let mut lack = Lack::default();
        for site in sites {
            match self.named(&site.device) {
                Some(link) if link.up => self.lack_at(site, link, &mut lack),
                Some(_) => {
                    lack.waiting = Some(format!(
                        "place {}: the interface {device} is down; bring it up with: \
                         ip link set {device} up",
                        site.ip,
                        device = site.device
                    ));
                }
                None => {
                    lack.waiting = Some(format!(
                        "place {}: the interface {} is gone; it is placed as soon as it is back",
                        site.ip, site.device
                    ));
                }
            }
        }
        lack
    }

    fn lack_at(&self, site: &Site, link: &Link, lack: &mut Lack) {
        let place = Placement {
            device: link.index,
            ip: site.ip,
        };
        let seen = self.at(site.ip);
        if !seen.iter().any(|seen| seen.device == link.index) {
            lack.missing.push(place);
        }
        for seen in seen.iter().filter(|seen| seen.ours(site.ip)) {
            if seen.device != link.index {
                lack.stray.push(Placement {
                    device: seen.device,
                    ip: site.ip,
                });
            } else if seen.route == Route::Deleted {
                lack.routes.push(place);
            }
        }
    }
}
