//! The new holder's side: which client is tickled when. Four rounds, because packets get
//! lost, and the way to a client may have to be found first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use evenkeel_core::{Epoch, GroupId, Moment};

use super::Flow;

/// When each round starts, from the opening, in milliseconds. A client whose answer was lost
/// answers again only half a second later (Linux, `net.ipv4.tcp_invalid_ratelimit`), hence
/// the last.
pub const SCHEDULE_MS: [u64; 4] = [0, 100, 400, 1_000];

/// Clients tickled for one group before the next group has its turn.
const TURN: usize = 32;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Find out which connections live here, on these addresses, and say so with
    /// [`Tickles::living`]: theirs are not touched. A round begins.
    Look(GroupId, BTreeSet<IpAddr>),
    /// Tickle these clients, with this sequence number, and say with [`Tickles::sent`] what
    /// became of it.
    Send(GroupId, Vec<Flow>, u32),
}

/// What the first round of a group came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tickled {
    /// The group.
    pub group: GroupId,
    /// The assignment that opened here.
    pub epoch: Epoch,
    /// Clients that were tickled.
    pub clients: usize,
    /// Connections that live here already, and were left alone.
    pub living: usize,
    /// Packets that did not leave.
    pub dropped: usize,
    /// Since the opening was heard of.
    pub took: Duration,
}

#[derive(Debug)]
struct Campaign {
    epoch: Epoch,
    flows: Vec<Flow>,
    started: Moment,
    round: usize,
    cursor: usize,
    looked: bool,
    living: usize,
    dropped: usize,
}

impl Campaign {
    fn due(&self) -> Moment {
        SCHEDULE_MS
            .get(self.round)
            .map_or(Moment::MAX, |ms| self.started + Duration::from_millis(*ms))
    }

    /// A quarter of all numbers apart from round to round: if one falls into a client's
    /// window, the next does not.
    fn sequence(&self) -> u32 {
        (self.round as u32).wrapping_mul(1 << 30)
    }
}

/// All groups whose clients are being tickled.
#[derive(Debug, Default)]
pub struct Tickles {
    campaigns: BTreeMap<GroupId, Campaign>,
    turn: Option<GroupId>,
}

impl Tickles {
    /// The group opened here for `epoch`, and these clients, in order, belonged to another.
    pub fn begin(&mut self, now: Moment, group: GroupId, epoch: Epoch, flows: Vec<Flow>) {
        if flows.is_empty() {
            return;
        }
        let campaign = Campaign {
            epoch,
            flows,
            started: now,
            round: 0,
            cursor: 0,
            looked: false,
            living: 0,
            dropped: 0,
        };
        self.campaigns.insert(group, campaign);
    }

    /// The group is not open here any more.
    pub fn end(&mut self, group: GroupId) {
        self.campaigns.remove(&group);
    }

    /// The groups whose clients are being tickled.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.campaigns.keys().copied()
    }

    /// When there is something to do next; [`Moment::MAX`] for never.
    pub fn due(&self) -> Moment {
        let all = self.campaigns.values().map(Campaign::due);
        all.min().unwrap_or(Moment::MAX)
    }

    /// What is to be done at `now`, at most `limit` packets of it.
    pub fn next(&mut self, now: Moment, limit: usize) -> Option<Due> {
        let after = |group: &GroupId| self.turn.is_none_or(|turn| *group > turn);
        let mut ready = self
            .campaigns
            .iter()
            .filter(|(_, campaign)| campaign.due() <= now)
            .map(|(group, _)| *group);
        let group = ready.clone().find(after).or_else(|| ready.next())?;
        self.turn = Some(group);
        let campaign = self.campaigns.get_mut(&group)?;
        if !campaign.looked {
            let services = campaign.flows.iter().map(|flow| flow.service.ip());
            return Some(Due::Look(group, services.collect()));
        }
        let start = campaign.cursor.min(campaign.flows.len());
        let end = campaign.flows.len().min(start + limit.min(TURN));
        let part = campaign.flows[start..end].to_vec();
        campaign.cursor = end;
        Some(Due::Send(group, part, campaign.sequence()))
    }

    /// These connections, in order, live here.
    pub fn living(&mut self, group: GroupId, living: &[Flow]) {
        let Some(campaign) = self.campaigns.get_mut(&group) else {
            return;
        };
        let before = campaign.flows.len();
        campaign
            .flows
            .retain(|flow| living.binary_search(flow).is_err());
        campaign.living += before - campaign.flows.len();
        campaign.looked = true;
        campaign.cursor = 0;
    }

    /// So many of the last packets of the group were dropped. Says what the round came to if
    /// it ended the first one.
    pub fn sent(&mut self, now: Moment, group: GroupId, dropped: usize) -> Option<Tickled> {
        let campaign = self.campaigns.get_mut(&group)?;
        campaign.dropped += dropped;
        if campaign.cursor < campaign.flows.len() {
            return None;
        }
        let first = campaign.round == 0;
        let tickled = Tickled {
            group,
            epoch: campaign.epoch,
            clients: campaign.flows.len(),
            living: campaign.living,
            dropped: campaign.dropped,
            took: now.since(campaign.started),
        };
        campaign.round += 1;
        campaign.looked = false;
        if campaign.round == SCHEDULE_MS.len() {
            self.campaigns.remove(&group);
        }
        first.then_some(tickled)
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{flow, flows};
    use super::*;

    const WWW: GroupId = GroupId(1);
    const DB: GroupId = GroupId(2);
    const EPOCH: Epoch = Epoch { term: 1, index: 1 };

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    /// Does all that is due; gives clients with their sequence numbers, and what was told.
    fn settle(
        tickles: &mut Tickles,
        now: Moment,
        living: &[Flow],
    ) -> (Vec<(GroupId, Flow, u32)>, Vec<Tickled>) {
        let (mut sent, mut told) = (Vec::new(), Vec::new());
        while let Some(due) = tickles.next(now, 1_000) {
            match due {
                Due::Look(group, services) => {
                    assert_eq!(services.len(), 1);
                    tickles.living(group, living);
                }
                Due::Send(group, part, sequence) => {
                    sent.extend(part.iter().map(|flow| (group, *flow, sequence)));
                    told.extend(tickles.sent(now, group, 0));
                }
            }
        }
        (sent, told)
    }

    #[test]
    fn each_client_is_tickled_in_four_rounds_with_four_numbers() {
        let mut tickles = Tickles::default();
        let all = flows(0..100);
        tickles.begin(at(1_000), WWW, EPOCH, all.clone());
        let mut numbers = BTreeSet::new();
        for ms in SCHEDULE_MS {
            assert_eq!(tickles.due(), at(1_000 + ms));
            assert_eq!(tickles.next(at(999 + ms), 100), None, "not before its time");
            let (sent, told) = settle(&mut tickles, at(1_000 + ms), &[]);
            assert_eq!(
                sent.iter().map(|(_, flow, _)| *flow).collect::<Vec<_>>(),
                all
            );
            numbers.insert(sent[0].2);
            assert_eq!(told.len(), usize::from(ms == 0), "told once");
        }
        assert_eq!(numbers.len(), SCHEDULE_MS.len());
        assert_eq!(tickles.due(), Moment::MAX, "and then it is over");
    }

    #[test]
    fn a_connection_that_lives_here_is_left_alone() {
        let mut tickles = Tickles::default();
        tickles.begin(at(0), WWW, EPOCH, flows([1, 2, 3]));
        let (sent, told) = settle(&mut tickles, at(0), &flows([2]));
        let clients = |sent: &[(GroupId, Flow, u32)]| -> Vec<Flow> {
            sent.iter().map(|(_, flow, _)| *flow).collect()
        };
        assert_eq!(clients(&sent), flows([1, 3]));
        assert_eq!((told[0].clients, told[0].living), (2, 1));
        // The first has come back from the same port.
        let (sent, _) = settle(&mut tickles, at(100), &flows([1]));
        assert_eq!(clients(&sent), [flow(3)]);
        let (sent, _) = settle(&mut tickles, at(400), &flows([1, 3]));
        assert_eq!(sent, []);
    }

    #[test]
    fn groups_take_turns_and_a_closed_one_is_left() {
        let mut tickles = Tickles::default();
        tickles.begin(at(0), WWW, EPOCH, flows(0..200));
        tickles.begin(at(0), DB, EPOCH, flows(0..2));
        let (sent, _) = settle(&mut tickles, at(0), &[]);
        let last = sent.iter().rposition(|(group, ..)| *group == DB);
        assert!(last.is_some_and(|at| at < 100), "{last:?}");
        tickles.end(WWW);
        let (sent, _) = settle(&mut tickles, at(100), &[]);
        assert_eq!(sent.len(), 2);
    }
}
