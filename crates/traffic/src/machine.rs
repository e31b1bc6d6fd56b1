//! What is wanted of each group against what the kernel says is there. Pure: words and
//! changes come in with the time, effects go out as data.
//!
//! | wanted    | seen                       | effect                                        |
//! | --------- | -------------------------- | --------------------------------------------- |
//! | nothing said yet | whatever            | none: an earlier life's addresses stay        |
//! | `Absent`  | sockets not ended yet      | `EndSockets`, once per `Absent`               |
//! | `Absent`  | some of its addresses      | `Remove`                                      |
//! | `Absent`  | none of its addresses      | report `Gone`, once                           |
//! | `Closed`, `Open` | one missing         | `Add`, all that are missing in one batch      |
//! | `Closed`, `Open` | one on another device | `Remove` there                             |
//! | `Closed`, `Open` | local route missing | `RestoreRoutes`                               |
//! | `Closed`, `Open` | device missing, down | wait for it; report `Failed`, once           |
//! | `Closed`, `Open` | complete            | report `Placed` once, later `Repaired`        |
//! | `Open`    | complete, or waiting only  | a [`Campaign`] for that epoch                 |
//!
//! What is done is not believed: an effect changes nothing here until the kernel tells
//! of the change. Tries are spaced, from [`TRY_SPACING_MIN`] to [`TRY_SPACING_MAX`], so
//! that a quarrel with another program or a refusal of the kernel costs little.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use evenkeel_core::{Epoch, GroupId, Moment};
use evenkeel_host::address::{Address, Change, Link, Owner, Placement, single};
use evenkeel_host::frame::Mac;

use crate::campaign::{Campaign, Round, Why};
use crate::resolve::Site;

/// The first pause before something is tried again: a tenth of the 100 ms within which
/// a deleted address is back.
pub const TRY_SPACING_MIN: Duration = Duration::from_millis(10);
/// The longest pause before something is tried again.
pub const TRY_SPACING_MAX: Duration = Duration::from_secs(1);
/// How long the addresses of an absent group wait for the end of its sockets. Longer
/// than ending 100,000 takes; the guard is closed or about to close anyway.
pub const END_SOCKETS_MAX: Duration = Duration::from_secs(2);
/// Addresses announced for one group before the next group has its turn.
pub const TURN: usize = 32;

/// What is wanted of a group on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Its addresses are not on this machine, and no connection to them is open.
    Absent,
    /// Its addresses are configured, but not announced: the guard is closed still.
    Closed,
    /// The guard is open for `epoch`: announce, now and for a minute.
    Open {
        /// The assignment; a newer one is announced anew.
        epoch: Epoch,
    },
}

/// What was put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// An address had been deleted.
    Address,
    /// The interface had been down, or gone and made again.
    Interface,
    /// The local route of an address had been deleted, or it had a twin on another
    /// interface.
    Route,
}

/// What was attempted when something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// To put addresses onto their interface.
    Place,
    /// To take them away.
    Remove,
    /// To end the sockets on them.
    EndSockets,
    /// To announce them.
    Announce,
    /// To hear of changes.
    Listen,
}

/// What the mover observed. Each is also a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// All addresses of the group are on their interfaces.
    Placed {
        /// The group.
        group: GroupId,
        /// How many addresses it has.
        addresses: usize,
        /// How many of them were there already, from an earlier life.
        adopted: usize,
        /// Since it was wanted.
        took: Duration,
    },
    /// All addresses of the group were announced once; repeats follow.
    Announced {
        /// The group.
        group: GroupId,
        /// The assignment.
        epoch: Epoch,
        /// Why.
        why: Why,
        /// How many addresses were announced. Fewer than the group has if an interface
        /// is down or has no neighbours.
        addresses: usize,
        /// How many were dropped on the way out: the guard was not open, or the queue
        /// full.
        dropped: usize,
        /// Since the reason to announce.
        took: Duration,
    },
    /// Something had changed under the group and was put right.
    Repaired {
        /// The group.
        group: GroupId,
        /// What.
        what: Repair,
        /// How often something was put right for this group so far.
        count: u64,
        /// Since it was noticed.
        took: Duration,
    },
    /// The connections to the group's addresses were ended.
    Reset {
        /// The group.
        group: GroupId,
        /// How many.
        sockets: usize,
        /// Since it was wanted.
        took: Duration,
    },
    /// None of the group's addresses is on this machine any more.
    Gone {
        /// The group.
        group: GroupId,
        /// Since it was wanted.
        took: Duration,
    },
    /// Something does not succeed; it is tried again. Told when it starts and when the
    /// reason changes.
    Failed {
        /// The group; `None` if it concerns all.
        group: Option<GroupId>,
        /// What was attempted.
        what: Attempt,
        /// The reason, and the remedy where there is one.
        error: String,
    },
    /// Somebody else configured one of the group's addresses on this machine.
    Foreign {
        /// The group.
        group: GroupId,
        /// The address.
        address: IpAddr,
        /// The interface.
        device: String,
    },
    /// Reports that nobody fetched were dropped.
    Missed {
        /// How many.
        reports: u64,
    },
}

/// What a group looks like now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// What is wanted; `None` if nobody said yet.
    pub want: Option<Want>,
    /// How many addresses it has.
    pub addresses: usize,
    /// How many of them are on their interfaces.
    pub placed: usize,
    /// How often something was put right.
    pub repairs: u64,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The group consists of these addresses from now on.
    Assign(GroupId, Vec<Site>),
    /// This is wanted of the group from now on.
    Want(GroupId, Want),
    /// End the connections to the group's addresses now, whatever is wanted of it.
    Reset(GroupId),
    /// Somebody saw a reason to announce the group anew.
    Doubt(GroupId),
    /// The kernel told of a change.
    Change(Change),
    /// Everything that is there, because changes were missed.
    Resync(Vec<Link>, Vec<Address>),
    /// The kernel refused an effect.
    Refused(GroupId, Attempt, String),
    /// An `EndSockets` with this ticket ended so many sockets, or failed.
    SocketsEnded(u64, Result<usize, String>),
    /// So much became of the last [`Volley`] of the group.
    Sent(GroupId, Round),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Configure these addresses, in one batch.
    Add(GroupId, Vec<Placement>),
    /// Delete these; of no group if they left theirs.
    Remove(Option<GroupId>, Vec<Placement>),
    /// Put back their local routes.
    RestoreRoutes(GroupId, Vec<Placement>),
    /// Renew their lifetimes.
    Refresh(Vec<Placement>),
    /// End the sockets on these addresses and say so with the ticket.
    EndSockets(u64, BTreeSet<IpAddr>),
    /// Tell.
    Report(Report),
}

/// Addresses to announce now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volley {
    /// The group.
    pub group: GroupId,
    /// Where, from which hardware address, what.
    pub shots: Vec<(Placement, Mac)>,
}

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

/// Whether the sockets of a group have been ended for its current want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Idle,
    Needed,
    Running { ticket: u64, since: Moment },
}

/// What was last told of a group's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Placed,
    Gone,
}

/// When something may be tried again.
#[derive(Clone, Copy, Debug)]
struct Tries {
    next: Moment,
    pause: Duration,
}

impl Tries {
    const NEW: Self = Self {
        next: Moment::ZERO,
        pause: TRY_SPACING_MIN,
    };

    fn tried(&mut self, now: Moment) {
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(TRY_SPACING_MAX);
    }

    fn succeeded(&mut self) {
        self.pause = TRY_SPACING_MIN;
    }
}

#[derive(Debug)]
struct Group {
    sites: Vec<Site>,
    want: Option<Want>,
    since: Moment,
    look_at: Moment,
    tries: Tries,
    ending: Ending,
    told: Told,
    adopted: Option<usize>,
    broken: Option<(Repair, Moment)>,
    repairs: u64,
    trouble: Option<(Attempt, String)>,
    campaign: Option<Campaign>,
}

impl Group {
    fn new(sites: Vec<Site>) -> Self {
        Self {
            sites,
            want: None,
            since: Moment::ZERO,
            look_at: Moment::ZERO,
            tries: Tries::NEW,
            ending: Ending::Idle,
            told: Told::Nothing,
            adopted: None,
            broken: None,
            repairs: 0,
            trouble: None,
            campaign: None,
        }
    }

    fn wants_addresses(&self) -> bool {
        matches!(self.want, Some(Want::Closed | Want::Open { .. }))
    }
}

/// What a group lacks.
#[derive(Debug, Default)]
struct Lack {
    missing: Vec<Placement>,
    stray: Vec<Placement>,
    routes: Vec<Placement>,
    waiting: Option<String>,
}

impl Lack {
    /// What can be put right now.
    fn acts(&self) -> bool {
        !(self.missing.is_empty() && self.stray.is_empty() && self.routes.is_empty())
    }

    fn kind(&self) -> Repair {
        if self.waiting.is_some() {
            Repair::Interface
        } else if !self.missing.is_empty() {
            Repair::Address
        } else {
            Repair::Route
        }
    }
}

/// All groups of this node, and what the kernel has.
#[derive(Debug)]
pub struct Machine {
    groups: BTreeMap<GroupId, Group>,
    owners: BTreeMap<IpAddr, GroupId>,
    leaving: BTreeSet<IpAddr>,
    leaving_tries: Tries,
    links: BTreeMap<u32, Link>,
    names: BTreeMap<String, u32>,
    seen: BTreeMap<IpAddr, Vec<Seen>>,
    refresh_every: Option<Duration>,
    refresh_at: Moment,
    ticket: u64,
    reset_tickets: BTreeMap<u64, (GroupId, Moment)>,
    turn: Option<GroupId>,
    effects: Vec<Effect>,
}

impl Machine {
    /// Nothing known yet. Lifetimes of addresses are renewed every `refresh_every`, if
    /// they have any.
    pub fn new(refresh_every: Option<Duration>) -> Self {
        Self {
            groups: BTreeMap::new(),
            owners: BTreeMap::new(),
            leaving: BTreeSet::new(),
            leaving_tries: Tries::NEW,
            links: BTreeMap::new(),
            names: BTreeMap::new(),
            seen: BTreeMap::new(),
            refresh_every,
            refresh_at: Moment::ZERO,
            ticket: 0,
            reset_tickets: BTreeMap::new(),
            turn: None,
            effects: Vec::new(),
        }
    }

    /// Takes note of `event`. What follows from it comes from [`Machine::plan`].
    pub fn step(&mut self, now: Moment, event: Event) {
        match event {
            Event::Assign(group, sites) => self.assign(now, group, sites),
            Event::Want(group, want) => self.want(now, group, want),
            Event::Reset(group) => self.reset(now, group),
            Event::Doubt(group) => self.doubt(now, group, Why::Doubt),
            Event::Change(change) => self.change(now, change),
            Event::Resync(links, addresses) => self.resync(now, links, addresses),
            Event::Refused(group, what, error) => self.trouble(group, what, error),
            Event::SocketsEnded(ticket, outcome) => self.sockets_ended(now, ticket, outcome),
            Event::Sent(group, round) => self.sent(now, group, round),
        }
    }

    /// What is to be done at `now`.
    pub fn plan(&mut self, now: Moment) -> Vec<Effect> {
        let due = |group: &Group| group.look_at <= now;
        let groups: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|(_, group)| due(group))
            .map(|(id, _)| *id)
            .collect();
        for id in groups {
            self.plan_group(now, id);
        }
        self.plan_leaving(now);
        self.plan_refresh(now);
        std::mem::take(&mut self.effects)
    }

    /// When to ask for a plan or a volley again, if nothing happens before;
    /// [`Moment::MAX`] for never.
    pub fn deadline(&self) -> Moment {
        let of_group = |group: &Group| {
            let campaign = group.campaign.as_ref().and_then(Campaign::due);
            campaign.unwrap_or(Moment::MAX).min(group.look_at)
        };
        let groups = self
            .groups
            .values()
            .map(of_group)
            .min()
            .unwrap_or(Moment::MAX);
        let refresh = match self.refresh_every {
            Some(_) if self.groups.values().any(Group::wants_addresses) => self.refresh_at,
            Some(_) | None => Moment::MAX,
        };
        let leaving = if self.leaving.is_empty() {
            Moment::MAX
        } else {
            self.leaving_tries.next
        };
        groups.min(refresh).min(leaving)
    }

    /// What each group looks like.
    pub fn status(&self) -> BTreeMap<GroupId, GroupStatus> {
        let status = |group: &Group| GroupStatus {
            want: group.want,
            addresses: group.sites.len(),
            placed: group
                .sites
                .iter()
                .filter(|site| self.placed(site).is_some())
                .count(),
            repairs: group.repairs,
        };
        self.groups
            .iter()
            .map(|(id, group)| (*id, status(group)))
            .collect()
    }

    fn assign(&mut self, now: Moment, id: GroupId, sites: Vec<Site>) {
        let group = self
            .groups
            .entry(id)
            .or_insert_with(|| Group::new(Vec::new()));
        let new: BTreeSet<IpAddr> = sites.iter().map(|site| site.ip).collect();
        for site in &group.sites {
            if !new.contains(&site.ip) && self.owners.get(&site.ip) == Some(&id) {
                self.owners.remove(&site.ip);
                self.leaving.insert(site.ip);
            }
        }
        for ip in new {
            self.owners.insert(ip, id);
            self.leaving.remove(&ip);
        }
        group.sites = sites;
        group.look_at = now;
        group.told = Told::Nothing;
        group.since = now;
        // The new ones are to be announced as well.
        group.campaign = None;
    }

    fn want(&mut self, now: Moment, id: GroupId, want: Want) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if group.want == Some(want) {
            return;
        }
        let had_addresses = group.wants_addresses();
        group.want = Some(want);
        group.look_at = now;
        group.since = now;
        group.tries = Tries::NEW;
        group.trouble = None;
        match want {
            Want::Absent => {
                // Even if no address is left: a holder that was frozen may have lost its
                // addresses, but not the requests in the buffers of its programs.
                group.ending = Ending::Needed;
                group.told = Told::Nothing;
                group.broken = None;
                group.campaign = None;
                group.adopted = None;
            }
            Want::Closed | Want::Open { .. } => {
                group.ending = Ending::Idle;
                if !had_addresses {
                    group.told = Told::Nothing;
                    group.adopted = None;
                }
                if want == Want::Closed {
                    group.campaign = None;
                }
            }
        }
    }

    fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    fn reset(&mut self, now: Moment, id: GroupId) {
        let ticket = self.next_ticket();
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        let ips = group.sites.iter().map(|site| site.ip).collect();
        self.reset_tickets.insert(ticket, (id, now));
        self.effects.push(Effect::EndSockets(ticket, ips));
    }

    fn sockets_ended(&mut self, now: Moment, ticket: u64, outcome: Result<usize, String>) {
        let Some((id, since)) = self.reset_tickets.remove(&ticket) else {
            return;
        };
        if let Some(group) = self.groups.get_mut(&id)
            && matches!(group.ending, Ending::Running { ticket: running, .. } if running == ticket)
        {
            group.ending = Ending::Idle;
            group.look_at = now;
        }
        match outcome {
            Ok(sockets) => {
                let report = Report::Reset {
                    group: id,
                    sockets,
                    took: now.since(since),
                };
                self.effects.push(Effect::Report(report));
            }
            Err(error) => self.trouble(id, Attempt::EndSockets, error),
        }
    }

    fn doubt(&mut self, now: Moment, id: GroupId, why: Why) {
        if let Some(campaign) = self
            .groups
            .get_mut(&id)
            .and_then(|group| group.campaign.as_mut())
        {
            campaign.doubt(now, why);
        }
    }

    /// Tells of trouble when it is new. It is forgotten once the group is complete.
    fn trouble(&mut self, id: GroupId, what: Attempt, error: String) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let trouble = Some((what, error.clone()));
        if group.trouble != trouble {
            group.trouble = trouble;
            let report = Report::Failed {
                group: Some(id),
                what,
                error,
            };
            self.effects.push(Effect::Report(report));
        }
    }

    fn change(&mut self, now: Moment, change: Change) {
        match change {
            Change::Link(link) => self.link(now, link),
            Change::LinkGone(index) => self.link_gone(now, index),
            Change::Address(address) => self.address(now, &address),
            Change::AddressGone(address) => self.address_gone(now, &address),
            Change::Route(placement) => self.route(now, placement, Route::There),
            Change::RouteGone(placement) => self.route(now, placement, Route::Deleted),
        }
    }

    fn link(&mut self, now: Moment, link: Link) {
        let (index, name) = (link.index, link.name.clone());
        let old = self.links.insert(index, link.clone());
        if let Some(old) = &old
            && old.name != name
            && self.names.get(&old.name) == Some(&index)
        {
            self.names.remove(&old.name);
        }
        self.names.insert(name.clone(), index);
        if old.as_ref() == Some(&link) {
            return;
        }
        let speaks = |link: &Link| link.carrier.then_some(link.mac).flatten();
        let heard = old.as_ref().and_then(speaks);
        let anew = speaks(&link).is_some() && speaks(&link) != heard;
        for (id, group) in &mut self.groups {
            if !group.sites.iter().any(|site| site.device == name) {
                continue;
            }
            group.look_at = now;
            if let Some(campaign) = &mut group.campaign
                && anew
            {
                tracing::debug!(group = ?id, device = %name, "the link speaks again");
                campaign.doubt(now, Why::Link);
            }
        }
    }

    fn link_gone(&mut self, now: Moment, index: u32) {
        if let Some(link) = self.links.remove(&index)
            && self.names.get(&link.name) == Some(&index)
        {
            self.names.remove(&link.name);
        }
        for seen in self.seen.values_mut() {
            seen.retain(|seen| seen.device != index);
        }
        self.seen.retain(|_, seen| !seen.is_empty());
        self.look_at_all(now);
    }

    fn look_at_all(&mut self, now: Moment) {
        for group in self.groups.values_mut() {
            group.look_at = now;
        }
    }

    fn look_at_owner(&mut self, now: Moment, ip: IpAddr) -> Option<GroupId> {
        let id = *self.owners.get(&ip)?;
        self.groups.get_mut(&id)?.look_at = now;
        Some(id)
    }

    fn address(&mut self, now: Moment, address: &Address) {
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
            Some(old) if old.owner == new.owner => return,
            Some(old) => old.owner = new.owner,
            None => seen.push(new),
        }
        if let Some(id) = self.look_at_owner(now, address.ip)
            && !new.ours(address.ip)
        {
            let device = self
                .links
                .get(&address.device)
                .map(|link| link.name.clone());
            self.effects.push(Effect::Report(Report::Foreign {
                group: id,
                address: address.ip,
                device: device.unwrap_or_else(|| format!("interface {}", address.device)),
            }));
        }
    }

    fn address_gone(&mut self, now: Moment, address: &Address) {
        if let Some(seen) = self.seen.get_mut(&address.ip) {
            seen.retain(|seen| seen.device != address.device || seen.prefix != address.prefix);
            if seen.is_empty() {
                self.seen.remove(&address.ip);
            }
        }
        self.look_at_owner(now, address.ip);
    }

    fn route(&mut self, now: Moment, placement: Placement, route: Route) {
        let ip = placement.ip;
        let Some(seen) = self.seen.get_mut(&ip) else {
            return;
        };
        let ours = |seen: &&mut Seen| seen.device == placement.device && seen.ours(ip);
        if let Some(seen) = seen.iter_mut().find(ours)
            && seen.route != route
        {
            seen.route = route;
            self.look_at_owner(now, ip);
        }
    }

    fn resync(&mut self, now: Moment, links: Vec<Link>, addresses: Vec<Address>) {
        let there: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        let gone: Vec<u32> = self
            .links
            .keys()
            .copied()
            .filter(|index| !there.contains(index))
            .collect();
        for index in gone {
            self.link_gone(now, index);
        }
        for link in links {
            self.link(now, link);
        }
        let key = |address: &Address| (address.ip, address.device, address.prefix);
        let listed: BTreeSet<_> = addresses.iter().map(key).collect();
        for (ip, seen) in &mut self.seen {
            seen.retain(|seen| listed.contains(&(*ip, seen.device, seen.prefix)));
        }
        self.seen.retain(|_, seen| !seen.is_empty());
        for address in &addresses {
            self.address(now, address);
        }
        self.look_at_all(now);
    }

    /// Where a site's address is, if anybody has configured it on the site's interface.
    fn placed(&self, site: &Site) -> Option<(Placement, &Link)> {
        let link = self.links.get(self.names.get(&site.device)?)?;
        let here = |seen: &Seen| seen.device == link.index;
        let seen = self.seen.get(&site.ip)?;
        seen.iter().any(here).then_some((
            Placement {
                device: link.index,
                ip: site.ip,
            },
            link,
        ))
    }

    fn plan_group(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.look_at = Moment::MAX;
        match group.want {
            None => {}
            Some(Want::Absent) => self.plan_absent(now, id),
            Some(Want::Closed | Want::Open { .. }) => self.plan_present(now, id),
        }
    }

    fn plan_absent(&mut self, now: Moment, id: GroupId) {
        let ticket = self.ticket + 1;
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        match group.ending {
            Ending::Idle => {}
            Ending::Needed => {
                self.ticket = ticket;
                group.ending = Ending::Running { ticket, since: now };
                group.look_at = now + END_SOCKETS_MAX;
                self.reset_tickets.insert(ticket, (id, now));
                let ips = group.sites.iter().map(|site| site.ip).collect();
                self.effects.push(Effect::EndSockets(ticket, ips));
                return;
            }
            Ending::Running { since, .. } if now < since + END_SOCKETS_MAX => {
                group.look_at = since + END_SOCKETS_MAX;
                return;
            }
            Ending::Running { .. } => {
                group.ending = Ending::Idle;
                let error = format!("end its sockets within {END_SOCKETS_MAX:?}");
                self.trouble(id, Attempt::EndSockets, error);
            }
        }
        self.plan_removal(now, id);
    }

    fn plan_removal(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let left: Vec<Placement> = group
            .sites
            .iter()
            .flat_map(|site| ours(&self.seen, site.ip))
            .collect();
        if left.is_empty() {
            group.tries.succeeded();
            group.trouble = None;
            if group.told != Told::Gone {
                group.told = Told::Gone;
                let report = Report::Gone {
                    group: id,
                    took: now.since(group.since),
                };
                self.effects.push(Effect::Report(report));
            }
        } else if now >= group.tries.next {
            group.tries.tried(now);
            group.look_at = group.tries.next;
            self.effects.push(Effect::Remove(Some(id), left));
        } else {
            group.look_at = group.tries.next;
        }
    }

    fn lack(&self, group: &Group) -> Lack {
        let mut lack = Lack::default();
        for site in &group.sites {
            let link = self
                .names
                .get(&site.device)
                .and_then(|index| self.links.get(index));
            let Some(link) = link else {
                lack.waiting = Some(format!(
                    "place {}: the interface {} is gone; it is placed as soon as it is back",
                    site.ip, site.device
                ));
                continue;
            };
            if !link.up {
                lack.waiting = Some(format!(
                    "place {}: the interface {device} is down; bring it up with: \
                     ip link set {device} up",
                    site.ip,
                    device = site.device
                ));
                continue;
            }
            let place = Placement {
                device: link.index,
                ip: site.ip,
            };
            let seen = self.seen.get(&site.ip).map_or(&[][..], Vec::as_slice);
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
        lack
    }

    fn plan_present(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        let lack = self.lack(group);
        let missing = lack.missing.len();
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if group.adopted.is_none() && lack.waiting.is_none() {
            let adopted = group.sites.len() - missing;
            group.adopted = Some(adopted);
            if adopted > 0 {
                // What is left of their lifetimes is not known.
                self.refresh_at = self.refresh_at.min(now);
            }
        }
        if !lack.acts() && lack.waiting.is_none() {
            self.complete(now, id);
        } else {
            if group.told == Told::Placed && group.broken.is_none() {
                group.broken = Some((lack.kind(), now));
            }
            self.put_right(now, id, lack);
        }
        self.campaign(now, id, missing);
    }

    fn complete(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.tries.succeeded();
        group.trouble = None;
        if group.told != Told::Placed {
            group.told = Told::Placed;
            group.broken = None;
            self.effects.push(Effect::Report(Report::Placed {
                group: id,
                addresses: group.sites.len(),
                adopted: group.adopted.unwrap_or(0),
                took: now.since(group.since),
            }));
        } else if let Some((what, since)) = group.broken.take() {
            group.repairs += 1;
            if let Some(campaign) = &mut group.campaign {
                campaign.doubt(now, Why::Repaired);
            }
            self.effects.push(Effect::Report(Report::Repaired {
                group: id,
                what,
                count: group.repairs,
                took: now.since(since),
            }));
        }
    }

    fn put_right(&mut self, now: Moment, id: GroupId, lack: Lack) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if lack.acts() {
            if now < group.tries.next {
                group.look_at = group.tries.next;
            } else {
                group.tries.tried(now);
                group.look_at = group.tries.next;
                // Away from the wrong place first: no moment with two.
                if !lack.stray.is_empty() {
                    self.effects.push(Effect::Remove(Some(id), lack.stray));
                }
                if !lack.missing.is_empty() {
                    self.effects.push(Effect::Add(id, lack.missing));
                }
                if !lack.routes.is_empty() {
                    self.effects.push(Effect::RestoreRoutes(id, lack.routes));
                }
            }
        }
        if let Some(waiting) = lack.waiting {
            self.trouble(id, Attempt::Place, waiting);
        }
    }

    /// Starts a campaign when an open group has all that it can have now.
    fn campaign(&mut self, now: Moment, id: GroupId, missing: usize) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let Some(Want::Open { epoch }) = group.want else {
            return;
        };
        let runs = group
            .campaign
            .as_ref()
            .is_some_and(|campaign| campaign.epoch == epoch);
        if !runs && missing == 0 {
            group.campaign = Some(Campaign::new(now, epoch, Why::Opened));
        }
    }

    /// Addresses that belong to no group any more: their sockets end and they go.
    fn plan_leaving(&mut self, now: Moment) {
        if self.leaving.is_empty() || now < self.leaving_tries.next {
            return;
        }
        self.leaving
            .retain(|ip| ours(&self.seen, *ip).next().is_some());
        if self.leaving.is_empty() {
            self.leaving_tries = Tries::NEW;
            return;
        }
        self.leaving_tries.tried(now);
        let left = self
            .leaving
            .iter()
            .flat_map(|ip| ours(&self.seen, *ip))
            .collect();
        let ticket = self.next_ticket();
        self.effects
            .push(Effect::EndSockets(ticket, self.leaving.clone()));
        self.effects.push(Effect::Remove(None, left));
    }

    fn plan_refresh(&mut self, now: Moment) {
        let Some(every) = self.refresh_every else {
            return;
        };
        if now < self.refresh_at {
            return;
        }
        let here: Vec<Placement> = self
            .groups
            .values()
            .filter(|group| group.wants_addresses())
            .flat_map(|group| group.sites.iter())
            .flat_map(|site| ours(&self.seen, site.ip))
            .collect();
        self.refresh_at = now + every;
        if !here.is_empty() {
            self.effects.push(Effect::Refresh(here));
        }
    }

    /// The next addresses to announce, at most `limit`: one group's turn. Say with
    /// [`Event::Sent`] what became of them.
    pub fn volley(&mut self, now: Moment, limit: usize) -> Option<Volley> {
        let due = |group: &Group| {
            group
                .campaign
                .as_ref()
                .and_then(Campaign::due)
                .is_some_and(|due| due <= now)
        };
        let after = |id: &GroupId| self.turn.is_none_or(|turn| *id > turn);
        let mut ready = self
            .groups
            .iter()
            .filter(|(_, group)| due(group))
            .map(|(id, _)| *id);
        let first = ready.clone().find(after).or_else(|| ready.next())?;
        self.turn = Some(first);
        let group = self.groups.get_mut(&first)?;
        let count = group.sites.len();
        let range = group.campaign.as_mut()?.next(now, count, limit.min(TURN));
        let group = self.groups.get(&first)?;
        let shots = group.sites[range]
            .iter()
            .filter_map(|site| {
                let (placement, link) = self.placed(site)?;
                Some((placement, link.carrier.then_some(link.mac).flatten()?))
            })
            .collect();
        Some(Volley {
            group: first,
            shots,
        })
    }

    fn sent(&mut self, now: Moment, id: GroupId, part: Round) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let Some(campaign) = &mut group.campaign else {
            return;
        };
        let Some(round) = campaign.done(group.sites.len(), part) else {
            return;
        };
        let since = match campaign.why {
            // Counted from the word that opened it, placing included.
            Why::Opened => group.since.min(campaign.started()),
            Why::Repaired | Why::Link | Why::Doubt => campaign.started(),
        };
        self.effects.push(Effect::Report(Report::Announced {
            group: id,
            epoch: campaign.epoch,
            why: campaign.why,
            addresses: round.sent,
            dropped: round.dropped,
            took: now.since(since),
        }));
    }
}

/// Where an address of ours is.
fn ours(seen: &BTreeMap<IpAddr, Vec<Seen>>, ip: IpAddr) -> impl Iterator<Item = Placement> + use<> {
    let seen = seen.get(&ip).map_or(&[][..], Vec::as_slice);
    let ours = seen.iter().filter(|seen| seen.ours(ip));
    ours.map(|seen| Placement {
        device: seen.device,
        ip,
    })
    .collect::<Vec<_>>()
    .into_iter()
}

#[cfg(test)]
mod tests;
