//! Planned moves: what operators wish, and how holders let their clients go first.

use core::time::Duration;

use super::{Act, Node, WISH_PATIENCE, WISHES_MAX};
use crate::Moment;
use crate::command::Assign;
use crate::evidence::{FACT_LENGTH_MAX, shortened};
use crate::health::{GroupReport, Standing};
use crate::names::{Epoch, GroupId, NodeId};
use crate::policy::{self, Wish};
use crate::role::Farewell;
use crate::story::Said;
use crate::switchover::{Departure, Go, account};

/// An operator's wish under way.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    id: u64,
    wish: Wish,
    /// The epoch that the group is to leave.
    from: Epoch,
    to: NodeId,
    /// Once it is proposed.
    proposal: Option<u64>,
    deadline: Moment,
}

impl Node {
    pub(super) fn wish(&mut self, now: Moment, id: u64, wish: Wish, wall_ms: u64) {
        let refused = if self.leader != Some(self.me) {
            Some("this node does not lead any more: ask again".to_owned())
        } else if self.wishes.len() >= WISHES_MAX {
            Some("too many switchovers are under way: ask again in a moment".to_owned())
        } else if self.is_moving(now, wish.group) || self.is_wished(wish.group) {
            Some("the group is moving already: ask again in a moment".to_owned())
        } else {
            None
        };
        let granted = match refused {
            Some(reason) => Err(reason),
            None => policy::grant(&self.situation(now, wall_ms), wish).map_err(|no| no.0),
        };
        match granted {
            Err(reason) => self.refuse(id, reason),
            Ok(assign) => {
                let from = self.current_epoch(wish.group);
                // It is granted anew, and proposed, when this node leads next: at once.
                self.wishes.push(Pending {
                    id,
                    wish,
                    from,
                    to: assign.holder,
                    proposal: None,
                    deadline: now + self.move_max(wish.group) + WISH_PATIENCE,
                });
            }
        }
    }

    /// How long a planned move may take by the file: the clients are let go, and what runs on the
    /// holder alone starts on the next one.
    fn move_max(&self, group: GroupId) -> Duration {
        let preparing = self.topology.groups.get(&group).map(|one| one.preparing);
        self.farewell(group)
            .whole()
            .saturating_add(preparing.unwrap_or_default())
    }

    fn refuse(&mut self, id: u64, reason: String) {
        let outcome = Err(reason);
        self.act(Act::Reply { id, outcome });
    }

    /// What is not proposed yet is for whoever leads next, and nobody told that one.
    pub(super) fn refuse_wishes(&mut self) {
        let wishes = core::mem::take(&mut self.wishes);
        let (proposed, not): (Vec<Pending>, Vec<Pending>) =
            wishes.into_iter().partition(|one| one.proposal.is_some());
        self.wishes = proposed;
        for one in not {
            self.refuse(
                one.id,
                "this node does not lead any more: ask again".to_owned(),
            );
        }
    }

    fn current_epoch(&self, group: GroupId) -> Epoch {
        let current = self.ledger.current(group);
        current.map_or(Epoch::NONE, |current| current.epoch)
    }

    /// Whether a wish for this group waits to be proposed.
    pub(super) fn is_wished(&self, group: GroupId) -> bool {
        let mut wishes = self.wishes.iter();
        wishes.any(|one| one.wish.group == group && one.proposal.is_none())
    }

    /// Proposes what operators wish, as soon as the holder has let its clients go. What
    /// was granted once is judged again each time: much can happen meanwhile.
    pub(super) fn grant_wishes(&mut self, now: Moment, wall_ms: u64) {
        let mut wishes = core::mem::take(&mut self.wishes);
        let mut refused = Vec::new();
        wishes.retain_mut(|one| {
            let group = one.wish.group;
            if one.proposal.is_some() || self.is_moving(now, group) {
                return true;
            }
            if self.current_epoch(group) != one.from {
                let reason = "the group moved meanwhile for another reason; see `evenkeel why`";
                refused.push((one.id, reason.to_owned()));
                return false;
            }
            match policy::grant(&self.situation(now, wall_ms), one.wish) {
                Err(refusal) => {
                    refused.push((one.id, refusal.0));
                    false
                }
                Ok(assign) => {
                    one.to = assign.holder;
                    one.proposal = self.go(now, assign);
                    true
                }
            }
        });
        self.wishes = wishes;
        for (id, reason) in refused {
            self.refuse(id, reason);
        }
    }

    /// Proposes a move: at once, or if it is planned once the holder has let its clients
    /// go. The proposal's number, if it is made.
    pub(super) fn go(&mut self, now: Moment, mut assign: Assign) -> Option<u64> {
        let group = assign.group;
        let current = self.ledger.current(group);
        let leaves = current.filter(|current| current.assign.holder != assign.holder);
        if let Some(current) = leaves
            && assign.evidence.cause.is_planned()
        {
            let holder = current.assign.holder;
            let said = self.view.standing(now, holder, group);
            let whole = self.farewell(group).whole();
            let before = self.switchovers.leaving().len();
            let go = self.switchovers.consider(now, whole, current, said);
            let departure = said.map(|said| said.departure).unwrap_or_default();
            if self.switchovers.leaving().len() != before {
                self.dirty = true;
                self.act(Act::Say(Said::Leaving {
                    group,
                    holder,
                    to: assign.holder,
                    cause: assign.evidence.cause.clone(),
                }));
            }
            if go == Go::Wait {
                return None;
            }
            tell_of(&mut assign, holder, departure);
        }
        Some(self.propose(assign))
    }

    /// Whether the leader's last word asks this node to let clients go.
    pub(super) fn mind_departures(&mut self, now: Moment) {
        let leaving = match self.leader {
            Some(leader) if leader == self.me => self.switchovers.leaving(),
            Some(leader) => match self.view.fresh(now, leader) {
                Some(heard) => heard.report.leaving.clone(),
                None => Vec::new(),
            },
            // Its log may be out of order, and with it the knowledge who leads: whoever does, says so.
            None => self.asked_by_leaders(now),
        };
        let mut said = Vec::new();
        let farewells: Vec<Farewell> = self.roles.keys().map(|id| self.farewell(*id)).collect();
        for ((group, role), farewell) in self.roles.iter_mut().zip(farewells) {
            let epoch = role.epoch();
            let asked = leaving.contains(&(*group, epoch));
            if role.asked_to_leave(now, asked, farewell) {
                let (group, stays) = (*group, role.departure() == Departure::Staying);
                said.push(match stays {
                    true => Said::Stayed { group, epoch },
                    false => Said::Draining { group, epoch },
                });
            }
        }
        for one in said {
            self.dirty = true;
            self.act(Act::Say(one));
        }
    }

    /// Which groups those who take themselves for the leader want to be left.
    fn asked_by_leaders(&self, now: Moment) -> Vec<(GroupId, Epoch)> {
        let heard = self.topology.nodes.keys();
        let heard = heard.filter_map(|node| Some((*node, self.view.fresh(now, *node)?)));
        let leaders = heard.filter(|(node, heard)| heard.report.leader == Some(*node));
        leaders
            .flat_map(|(_, heard)| heard.report.leaving.iter().copied())
            .collect()
    }

    pub(super) fn drained(&mut self, now: Moment, group: GroupId, epoch: Epoch, busy: u32) {
        let Some(role) = self.roles.get_mut(&group) else {
            return;
        };
        if !role.drained(now, epoch, busy) {
            return;
        }
        self.dirty = true;
        if let Departure::Drained { busy, took } = role.departure() {
            self.act(Act::Say(Said::LetGo {
                group,
                epoch,
                busy,
                took,
            }));
        }
    }

    pub(super) fn wish_not_agreed(&mut self, proposal: u64, reason: &str) {
        let known = |one: &Pending| one.proposal == Some(proposal);
        if let Some(at) = self.wishes.iter().position(known) {
            let wish = self.wishes.swap_remove(at);
            self.refuse(wish.id, format!("the move was not agreed on: {reason}"));
        }
    }

    /// Answers those whose wish has come true, or has taken too long.
    pub(super) fn settle_wishes(&mut self, now: Moment) {
        let mut settled = Vec::new();
        let mut wishes = core::mem::take(&mut self.wishes);
        wishes.retain(|one| {
            let (group, to) = (one.wish.group, one.to);
            let epoch = self.current_epoch(group);
            let serves = |standing: &GroupReport| {
                standing.epoch == epoch && standing.standing == Standing::Open
            };
            let current = self.ledger.current(group);
            let moved = current.is_some_and(|current| current.assign.holder == to);
            if moved && self.view.standing(now, to, group).is_some_and(serves) {
                let text = format!(
                    "{} serves {} (epoch {epoch})",
                    self.topology.node_name(to),
                    self.topology.group_name(group)
                );
                settled.push((one.id, Ok(text)));
                return false;
            }
            if now >= one.deadline {
                let text = format!(
                    "{} does not serve {} within its time to drain and to start what runs with it, \
                     and {} s more; `evenkeel why` tells how far it came",
                    self.topology.node_name(to),
                    self.topology.group_name(group),
                    WISH_PATIENCE.as_secs()
                );
                settled.push((one.id, Err(text)));
                return false;
            }
            true
        });
        self.wishes = wishes;
        settled.extend(self.desk.late(now));
        for (id, outcome) in settled {
            self.act(Act::Reply { id, outcome });
        }
    }
}

/// Puts on record how the old holder's clients fared.
fn tell_of(assign: &mut Assign, holder: NodeId, departure: Departure) {
    let Some(text) = account(departure) else {
        return;
    };
    let mut considered = assign.evidence.considered.iter_mut();
    if let Some(one) = considered.find(|one| one.node == holder) {
        one.why = shortened(&format!("{}; {text}", one.why), FACT_LENGTH_MAX);
    }
}
