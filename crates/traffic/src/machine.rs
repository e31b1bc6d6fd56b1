//! What is wanted of each group against what the kernel says is there. Pure: words and
//! changes come in with the time, effects go out as data.
//!
//! | wanted    | seen                       | effect                                        |
//! | --------- | -------------------------- | --------------------------------------------- |
//! | nothing said yet | addresses           | none: an earlier life's stay                  |
//! | nothing said, no group | stopgap, for [`STOPGAP_MAX`] | `RemoveStopgaps`               |
//! | `Absent`  | sockets not ended yet      | `EndSockets`, once per `Absent`               |
//! | `Absent`  | some of its addresses, stopgaps | `Clear`, `RemoveStopgaps`                 |
//! | `Absent`  | none of its addresses      | report `Gone`, once                           |
//! | `Closed`, `Open` | one missing         | `Add`, all that are missing                   |
//! | `Closed`, `Open` | one on another device | `Remove` there                             |
//! | `Closed`, `Open` | local route missing | `RestoreRoutes`                               |
//! | `Closed`, `Open` | stopgap beside its address | `RemoveStopgaps`                       |
//! | `Closed`, `Open` | device missing, down | wait for it; report `Failed`, once           |
//! | `Closed`, `Open` | complete            | report `Placed` once, later `Repaired`        |
//! | `Open`    | whatever                   | a [`Campaign`] of what is placed, for that epoch |
//!
//! What is done is not believed: an effect changes nothing here until the kernel tells
//! of the change. Tries are spaced, from [`TRY_SPACING_MIN`] to [`TRY_SPACING_MAX`], so
//! that a quarrel with another program or a refusal of the kernel costs little.

mod group;
mod kernel;
mod plan;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use evenkeel_core::{GroupId, Moment};
use evenkeel_host::address::Placement;

use self::group::{Ending, Group, Told, Tries};
use self::kernel::{Kernel, Noted, Voice};
pub use self::words::{
    Attempt, Effect, Event, Everything, GroupStatus, Repair, Report, Volley, Want,
};
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
/// How long a stopgap stays about which nobody says anything: an earlier life left it behind.
/// A route does not expire as its address does. Longer than a restarted worker needs to know
/// what is wanted, and than any placing takes.
pub const STOPGAP_MAX: Duration = Duration::from_secs(5);
/// Addresses announced for one group before the next group has its turn.
pub const TURN: usize = 32;

/// All groups of this node, and what the kernel has.
#[derive(Debug)]
pub struct Machine {
    groups: BTreeMap<GroupId, Group>,
    /// The group of each address, and the address's number in it.
    owners: BTreeMap<IpAddr, (GroupId, usize)>,
    leaving: BTreeSet<IpAddr>,
    leaving_tries: Tries,
    /// Those that leave are being deleted.
    leaving_clears: bool,
    /// When to look for stopgaps that were left behind.
    stopgaps_at: Moment,
    kernel: Kernel,
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
            leaving_clears: false,
            stopgaps_at: Moment::MAX,
            kernel: Kernel::default(),
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
            Event::Change(change) => {
                let noted = self.kernel.note(change);
                self.noted(now, noted);
            }
            Event::Resync(all) => {
                let noted = self
                    .kernel
                    .replace(all.links, &all.addresses, &all.stopgaps);
                for noted in noted {
                    self.noted(now, noted);
                }
            }
            Event::Tried(group) => self.tried(now, group),
            Event::Cleared(group) => self.cleared(now, group),
            Event::Broken => self.broken(now),
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
        self.plan_stopgaps(now);
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
        let leaving = if self.leaving.is_empty() || self.leaving_clears {
            Moment::MAX
        } else {
            self.leaving_tries.next
        };
        groups.min(refresh).min(leaving).min(self.stopgaps_at)
    }

    /// What each group looks like.
    pub fn status(&self) -> BTreeMap<GroupId, GroupStatus> {
        let status = |group: &Group| GroupStatus {
            want: group.want,
            addresses: group.sites.len(),
            placed: group
                .sites
                .iter()
                .filter(|site| self.kernel.placed(site))
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
        if !sites.is_empty() && group.sites == sites {
            return;
        }
        let new: BTreeSet<IpAddr> = sites.iter().map(|site| site.ip).collect();
        for site in &group.sites {
            let owner = self.owners.get(&site.ip).map(|(owner, _)| *owner);
            if !new.contains(&site.ip) && owner == Some(id) {
                self.owners.remove(&site.ip);
                self.leaving.insert(site.ip);
            }
        }
        for (number, site) in sites.iter().enumerate() {
            self.owners.insert(site.ip, (id, number));
            self.leaving.remove(&site.ip);
        }
        group.sites = sites;
        group.look_at = now;
        group.placing = false;
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
            Want::Closed | Want::Open { .. } | Want::Draining { .. } => {
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

    /// Whether addresses of the group are to be placed here.
    pub fn places(&self, id: GroupId) -> bool {
        self.groups.get(&id).is_some_and(Group::wants_addresses)
    }

    /// Looks what is still missing.
    fn tried(&mut self, now: Moment, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id)
            && group.placing
        {
            group.placing = false;
            group.look_at = now;
        }
    }

    /// Whether the address is to be deleted there: it is there, and no group wants it on this machine.
    pub fn clears(&self, place: Placement) -> bool {
        let owner = self.owners.get(&place.ip);
        let is_wanted = owner.is_some_and(|(owner, _)| self.places(*owner));
        !is_wanted && self.kernel.ours(place.ip).any(|one| one == place)
    }

    /// Looks at everything anew.
    fn broken(&mut self, now: Moment) {
        for group in self.groups.values_mut() {
            (group.placing, group.clearing) = (false, false);
        }
        self.leaving_clears = false;
        self.look_at_all(now);
    }

    /// Looks what is still there.
    fn cleared(&mut self, now: Moment, id: Option<GroupId>) {
        match id {
            None => self.leaving_clears = false,
            Some(id) => {
                if let Some(group) = self.groups.get_mut(&id) {
                    group.clearing = false;
                    group.look_at = now;
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

    /// Makes whoever is concerned look, and tells what is to be told.
    fn noted(&mut self, now: Moment, noted: Noted) {
        match noted {
            Noted::Nothing => {}
            Noted::Everything => self.look_at_all(now),
            Noted::Address(ip) => {
                self.look_at_owner(now, ip);
            }
            Noted::Foreign(address, device) => {
                if let Some(group) = self.look_at_owner(now, address) {
                    let report = Report::Foreign {
                        group,
                        address,
                        device,
                    };
                    self.effects.push(Effect::Report(report));
                }
            }
            Noted::Link(name, voice) => self.link_noted(now, &name, voice),
        }
    }

    fn link_noted(&mut self, now: Moment, name: &str, voice: Voice) {
        for group in self.groups.values_mut() {
            if !group.sites.iter().any(|site| site.device == name) {
                continue;
            }
            group.look_at = now;
            if let (Voice::Anew, Some(campaign)) = (voice, &mut group.campaign) {
                campaign.doubt(now, Why::Link);
            }
        }
    }

    fn look_at_all(&mut self, now: Moment) {
        for group in self.groups.values_mut() {
            group.look_at = now;
        }
    }

    fn look_at_owner(&mut self, now: Moment, ip: IpAddr) -> Option<GroupId> {
        let (id, number) = *self.owners.get(&ip)?;
        let group = self.groups.get_mut(&id)?;
        group.look_at = now;
        if let (Some(campaign), Some(site)) = (&mut group.campaign, group.sites.get(number))
            && self.kernel.answers(site).is_some()
        {
            campaign.placed(number);
        }
        Some(id)
    }

    /// The name of the interface with that number.
    pub fn device_name(&self, index: u32) -> String {
        self.kernel.device_name(index)
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
        let (numbers, forms) = group.campaign.as_mut()?.next(now, limit.min(TURN));
        let mut shots = Vec::with_capacity(numbers.len());
        for number in numbers {
            let shot = group.sites.get(number).and_then(|site| {
                let (placement, link) = self.kernel.answers(site)?;
                Some((placement, link.voice()?))
            });
            if let (Some(shot), Some(campaign)) = (shot, &mut group.campaign) {
                campaign.announces(number);
                shots.push(shot);
            }
        }
        Some(Volley {
            group: first,
            forms,
            shots,
        })
    }

    fn sent(&mut self, now: Moment, id: GroupId, part: Round) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if let Some(campaign) = &mut group.campaign {
            campaign.done(part);
        }
        if group.is_whole() {
            self.tell_first_round(now, id);
        }
    }

    /// Tells that all were announced once, when that is so.
    fn tell_first_round(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let Some(campaign) = &mut group.campaign else {
            return;
        };
        let Some(round) = campaign.first_round() else {
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

#[cfg(test)]
mod tests;
