//! L1: once the faults have stopped and a live node is assigned, it serves within the
//! promised time, and goes on serving.

use core::time::Duration;

use super::Violation;
use crate::mix::{MS, Mix};
use crate::node::Node;

/// The promised time, true time from the end of the faults to the opening. A voter
/// that has just started is silent for the longest lease; promises to older epochs
/// run for as long at most, the margin is counted on top, and the slowest clock takes
/// a tenth more for it. Then a few round trips and late timers.
pub fn bound(mix: &Mix) -> u64 {
    let longest = mix.lease_max.as_nanos() as u64;
    longest + longest / 5 + (longest + longest / 5) / 8 + 6 * mix.late_max + 10 * MS
}

/// How long it must then go on without a gap.
pub fn lasting(mix: &Mix) -> Duration {
    mix.lease_max * 4
}

/// Asked when the promised time is over, and again until the end.
pub fn serves(nodes: &[Node], assigned: usize, at: u64) -> Result<(), Violation> {
    if nodes[assigned].open(at) {
        return Ok(());
    }
    let status: Vec<_> = nodes
        .iter()
        .map(|n| (n.id, n.machine.quiet_until()))
        .collect();
    let seen = format!("node {assigned} does not serve; silent until {status:?}");
    Err(Violation {
        property: "L1",
        seen,
    })
}
