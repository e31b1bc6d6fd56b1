//! Clients do not hang: the holder of a group lists its clients' connections and the standbys
//! keep the list; whoever takes the group over without the old holder's farewell *tickles*
//! each client ([`evenkeel_host::tickle`]), which is then reset at once, also if it only waits.
//!
//! ```text
//!   holder                               standby
//!   kernel ──> Listing ──> Snapshot      Standby <── what changed (the daemon carries it)
//!                            │              │
//!                            └── changes ──>│ the group opens here for a newer epoch
//!                                           v
//!                                        Tickles ──> packets, four times in a second
//! ```
//!
//! Nothing here is needed for safety, and nothing here moves a group. Everything in these
//! files is pure; `io/flows.rs` has the thread.

mod listing;
mod standby;
mod tickles;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::Epoch;
pub use evenkeel_host::sockets::Flow;

pub use self::listing::Listing;
pub use self::standby::{Heard, Standby};
pub use self::tickles::{Due, SCHEDULE_MS, Tickled, Tickles};

/// Connections of a group that standbys know of; with more, the newest. They are told in one
/// message of under 1 MB, and tickled within 160 ms.
pub const FLOWS_MAX: usize = 20_000;

/// Time from one look at the kernel's list to the next while it is cheap: a client that
/// connects is known to the standbys a little later than this.
pub const PAUSE_MIN: Duration = Duration::from_millis(200);
/// And at most, however dear a look is.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A look that found no change costs at most one part in so many of a processor.
const REST_SHARE: u32 = 1_000;
/// One that found a change: at most 5 % of a processor, where the connections themselves cost
/// many times that.
const CHANGE_SHARE: u32 = 20;

/// How long to wait after a look that took `took`: from [`PAUSE_MIN`] to [`PAUSE_MAX`], so
/// that looking costs little of a processor.
pub fn pause(took: Duration, changed: bool) -> Duration {
    let share = if changed { CHANGE_SHARE } else { REST_SHARE };
    took.saturating_mul(share).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// The connections to a group's addresses at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The assignment under which this node holds the group.
    pub epoch: Epoch,
    /// Grows from one snapshot of a group to the next, also across restarts of the process.
    pub sequence: u64,
    /// In order, at most [`FLOWS_MAX`].
    pub flows: Arc<[Flow]>,
    /// How many more there are.
    pub left_out: usize,
}

/// What leads from one list to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Only in the later one.
    pub added: Vec<Flow>,
    /// Only in the earlier one.
    pub gone: Vec<Flow>,
}

/// What leads from `before` to `after`, both in order.
pub fn changes(before: &[Flow], after: &[Flow]) -> Changes {
    Changes {
        added: without(after, before),
        gone: without(before, after),
    }
}

/// What of `list` is not in `others`, both in order.
fn without(list: &[Flow], others: &[Flow]) -> Vec<Flow> {
    let mut others = others.iter().peekable();
    list.iter()
        .filter(|flow| {
            while others.next_if(|other| other < flow).is_some() {}
            others.peek() != Some(flow)
        })
        .copied()
        .collect()
}

/// `before` with `changes`, in order and bounded; none if it would be longer than
/// [`FLOWS_MAX`].
fn applied(before: &[Flow], changes: &Changes) -> Option<Vec<Flow>> {
    let gone: BTreeSet<&Flow> = changes.gone.iter().collect();
    let stays = before.iter().filter(|flow| !gone.contains(flow));
    let mut after: Vec<Flow> = stays.chain(&changes.added).copied().collect();
    after.sort_unstable();
    after.dedup();
    (after.len() <= FLOWS_MAX).then_some(after)
}

#[cfg(test)]
pub(crate) mod samples {
    use super::Flow;

    /// A connection of the client with that number.
    pub(crate) fn flow(client: u32) -> Flow {
        Flow {
            service: "192.0.2.100:80".parse().expect("an address"),
            client: std::net::SocketAddr::new(std::net::Ipv4Addr::from(client).into(), 40_000),
        }
    }

    pub(crate) fn flows(clients: impl IntoIterator<Item = u32>) -> Vec<Flow> {
        clients.into_iter().map(flow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::samples::flows;
    use super::*;

    #[test]
    fn changes_lead_from_one_list_to_the_other() {
        let lists = [
            flows([]),
            flows([1, 2, 3]),
            flows([2]),
            flows([0, 2, 4]),
            flows([5, 6]),
        ];
        for before in &lists {
            for after in &lists {
                let changes = changes(before, after);
                assert_eq!(applied(before, &changes).as_ref(), Some(after));
                assert_eq!(before == after, changes == Changes::default());
            }
        }
    }

    #[test]
    fn a_list_never_outgrows_its_bound() {
        let added = flows(0..FLOWS_MAX as u32 + 1);
        let changes = Changes {
            added,
            gone: Vec::new(),
        };
        assert_eq!(applied(&[], &changes), None);
    }

    #[test]
    fn a_dear_look_is_rare_and_a_cheap_one_is_not_too_frequent() {
        let micros = Duration::from_micros;
        assert_eq!(pause(micros(10), false), PAUSE_MIN);
        assert_eq!(pause(micros(300), false), micros(300_000));
        assert_eq!(pause(micros(300), true), PAUSE_MIN);
        assert_eq!(pause(micros(15_000), true), micros(300_000));
        assert_eq!(pause(Duration::MAX, true), PAUSE_MAX);
    }
}
