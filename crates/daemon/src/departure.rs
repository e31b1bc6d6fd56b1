//! Letting a group's clients go before a planned move: joins the mover, who sees them,
//! with the guard's keeper, who can hold new ones.
//!
//! ```text
//!   Want::Draining ─▶ mover: copies attempts to connect ── Holding ─▶ keeper: drops them
//!   Event::Drained ◀─ mover: nothing in flight any more ◀── Held ────┘
//!   Want::Absent   ─▶ mover: passes the copies on        the guard closes: no need to hold
//!   Want::Open     ─▶ mover: lets the copies in again ◀─ Unheld ◀── keeper: drops nothing more
//! ```

use std::net::IpAddr;
use std::time::Duration;

use evenkeel_core::node::Event;
use evenkeel_core::role::Want;
use evenkeel_core::switchover::{Departure, HOLD_MAX};
use evenkeel_core::topology::Group;
use evenkeel_core::{Epoch, GroupId};
use evenkeel_host::clock;
use tokio::sync::mpsc;

use crate::decision::{Brought, Driver};
use crate::keeper::KeeperNews;

/// How long after its clients were let go a stopping daemon still passes on those who come:
/// the move itself, and the first announcements, one of which may be lost.
const STRAGGLERS_TIME: Duration = Duration::from_secs(1);

impl Driver {
    /// The longest time that a group may take to let its clients go when it moves as planned.
    pub(crate) fn longest_drain(&self) -> Duration {
        let groups = self.node.topology().groups.values();
        groups.map(Group::departure_max).max().unwrap_or_default()
    }

    /// The longest time that a planned move of a group may take by the file, with the start of what
    /// runs with it on the next holder.
    pub(crate) fn longest_move(&self) -> Duration {
        let groups = self.node.topology().groups.values();
        let whole = groups.map(|group| group.departure_max().saturating_add(group.preparing));
        whole.max().unwrap_or_default()
    }

    /// What is wanted of the group now: nothing is held unless its clients are let go.
    pub(crate) fn stop_holding(&mut self, group: GroupId, want: &Want) {
        // Also when the lease has lapsed: it may come back, and then begins anew.
        if matches!(want, Want::Open { .. } | Want::Closed { .. }) {
            self.unhold(group);
        }
        if matches!(want, Want::Absent) && self.let_go_at.is_some() {
            self.let_go_at = Some(clock::now());
        }
    }

    /// New connections of the group are not held any more.
    pub(crate) fn unhold(&mut self, group: GroupId) {
        if let (true, Some(keeper)) = (self.held.remove(&group), &self.keeper) {
            keeper.unhold(group);
        }
    }

    /// The mover copies attempts to connect: they may be dropped now.
    pub(crate) fn holding(&mut self, group: GroupId, epoch: Epoch) {
        let leaving = self.node.role(group).is_some_and(|role| {
            role.epoch() == epoch && matches!(role.departure(), Departure::Draining)
        });
        let addresses = self.placed.get(&group);
        let (true, Some(keeper), Some(addresses)) = (leaving, &self.keeper, addresses) else {
            return;
        };
        let ips: Vec<IpAddr> = addresses.iter().map(|address| address.ip).collect();
        keeper.hold(group, ips, HOLD_MAX);
        self.held.insert(group);
    }

    /// What the keeper says.
    pub(crate) fn kept(&mut self, news: KeeperNews, bring: &mpsc::Sender<Brought>) {
        match news {
            KeeperNews::State(state) => {
                let full = state.is_full();
                self.step(Event::Guard { full }, bring);
            }
            KeeperNews::Held { group, transaction } => {
                if let Some(mover) = &self.mover {
                    mover.held(group, transaction);
                }
            }
            KeeperNews::Unheld { group } => {
                if let Some(mover) = &self.mover {
                    mover.freed(group);
                }
            }
            KeeperNews::Kept(addresses) => self.guarded.add(addresses),
        }
    }

    /// Neighbours that have not heard yet send clients here for a moment: the process
    /// stays for them before it ends.
    pub(crate) async fn forward_stragglers(&self) {
        if let Some(at) = self.let_go_at {
            tokio::time::sleep(clock::now().until(at + STRAGGLERS_TIME)).await;
        }
    }
}
