//! From what is wanted and what is seen to what is done.

use std::net::IpAddr;

use evenkeel_core::{GroupId, Moment};
use evenkeel_host::address::Placement;

use super::group::{Ending, Lack, Told, Tries};
use super::words::{Attempt, Effect, Report, Want};
use super::{END_SOCKETS_MAX, Machine, STOPGAP_MAX, TRY_SPACING_MAX};
use crate::campaign::{Campaign, Why};

impl Machine {
    pub(super) fn plan_group(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.look_at = Moment::MAX;
        match group.want {
            None => {}
            Some(Want::Absent) => self.plan_absent(now, id),
            Some(Want::Closed | Want::Open { .. } | Want::Draining { .. }) => {
                self.plan_present(now, id);
            }
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
        if group.clearing {
            return;
        }
        // One that has gone to another group here is that one's business.
        let owners = &self.owners;
        let own: Vec<IpAddr> = group
            .sites
            .iter()
            .map(|site| site.ip)
            .filter(|ip| owners.get(ip).is_some_and(|(owner, _)| *owner == id))
            .collect();
        let left: Vec<Placement> = own.iter().flat_map(|ip| self.kernel.ours(*ip)).collect();
        let gaps: Vec<Placement> = own
            .iter()
            .flat_map(|ip| self.kernel.stopgaps_of(*ip))
            .collect();
        if left.is_empty() && gaps.is_empty() {
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
            if !left.is_empty() {
                group.clearing = true;
                self.effects.push(Effect::Clear(Some(id), left));
            }
            self.remove_stopgaps(gaps);
        } else {
            group.look_at = group.tries.next;
        }
    }

    fn plan_present(&mut self, now: Moment, id: GroupId) {
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        if group.placing {
            // Looking what is missing yet is for the end: it costs as much for each of the
            // many turns.
            self.campaign(now, id);
            return;
        }
        let spent = self.kernel.spent_stopgaps(&group.sites);
        let lack = self.kernel.lack(&group.sites);
        let missing = lack.missing.len();
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.missing = missing;
        if !spent.is_empty() {
            // Should it fail, there is nothing else that makes us look.
            group.look_at = now + TRY_SPACING_MAX;
        }
        self.remove_stopgaps(spent);
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
        self.campaign(now, id);
        if missing == 0 {
            self.tell_first_round(now, id);
        }
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
                group.look_at = group.look_at.min(group.tries.next);
            } else {
                group.tries.tried(now);
                group.look_at = group.look_at.min(group.tries.next);
                // Away from the wrong place first: no moment with two.
                if !lack.stray.is_empty() {
                    self.effects.push(Effect::Remove(id, lack.stray));
                }
                if !lack.missing.is_empty() {
                    group.placing = true;
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

    /// Starts a campaign when a group is open. It does not wait for what is not placed yet:
    /// clients of the others would wait with it.
    fn campaign(&mut self, now: Moment, id: GroupId) {
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
        if !runs {
            let count = group.sites.len();
            group.campaign = Some(Campaign::new(now, epoch, Why::Opened, count));
        }
        let placing = group.placing;
        if let Some(campaign) = &mut group.campaign {
            campaign.set_placing(placing);
        }
    }

    /// Addresses that belong to no group any more: their sockets end and they go.
    pub(super) fn plan_leaving(&mut self, now: Moment) {
        if self.leaving.is_empty() || self.leaving_clears || now < self.leaving_tries.next {
            return;
        }
        let kernel = &self.kernel;
        self.leaving.retain(|ip| {
            kernel.ours(*ip).next().is_some() || kernel.stopgaps_of(*ip).next().is_some()
        });
        if self.leaving.is_empty() {
            self.leaving_tries = Tries::NEW;
            return;
        }
        self.leaving_tries.tried(now);
        let leaving = self.leaving.iter();
        let left: Vec<Placement> = leaving.flat_map(|ip| self.kernel.ours(*ip)).collect();
        let leaving = self.leaving.iter();
        let gaps = leaving
            .flat_map(|ip| self.kernel.stopgaps_of(*ip))
            .collect();
        let ticket = self.next_ticket();
        self.effects
            .push(Effect::EndSockets(ticket, self.leaving.clone()));
        if !left.is_empty() {
            self.leaving_clears = true;
            self.effects.push(Effect::Clear(None, left));
        }
        self.remove_stopgaps(gaps);
    }

    fn remove_stopgaps(&mut self, spent: Vec<Placement>) {
        if !spent.is_empty() {
            self.effects.push(Effect::RemoveStopgaps(spent));
        }
    }

    /// Stopgaps about which nobody has said anything for so long. Those of groups about which
    /// somebody has are planned with them.
    pub(super) fn plan_stopgaps(&mut self, now: Moment) {
        if self.kernel.stopgaps().next().is_none() {
            self.stopgaps_at = Moment::MAX;
        } else if self.stopgaps_at == Moment::MAX {
            self.stopgaps_at = now + STOPGAP_MAX;
        } else if now >= self.stopgaps_at {
            self.stopgaps_at = now + STOPGAP_MAX;
            let said = |one: &Placement| {
                let owner = self.owners.get(&one.ip);
                let group = owner.and_then(|(owner, _)| self.groups.get(owner));
                group.is_some_and(|group| group.want.is_some())
            };
            let left = self.kernel.stopgaps().filter(|one| !said(one)).collect();
            self.remove_stopgaps(left);
        }
    }

    pub(super) fn plan_refresh(&mut self, now: Moment) {
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
            .flat_map(|site| self.kernel.ours(site.ip))
            .collect();
        self.refresh_at = now + every;
        if !here.is_empty() {
            self.effects.push(Effect::Refresh(here));
        }
    }
}
