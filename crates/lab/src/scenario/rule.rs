//! Issue, "Seen to hold" 4: which checks move the group.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Ending;
use crate::apache;
use crate::cluster::Cluster;

/// How long a group is watched that is to stay.
const STAYS: Duration = Duration::from_secs(3);

/// Time in which a group that is to move must have moved.
const MOVES: Duration = Duration::from_secs(5);

/// What the cable of a host drops when ping is blocked: echo requests to it.
const NO_PING: [&str; 2] = [
    "@to ether type ip ip protocol icmp icmp type echo-request",
    "@to ether type ip6 icmpv6 type echo-request",
];

fn stays(cluster: &Cluster, holder: &str, after: &str) -> Result<()> {
    std::thread::sleep(STAYS);
    let serving = cluster.serving()?;
    ensure!(
        serving.as_deref() == Some(holder),
        "after {after} {serving:?} serves, not {holder}"
    );
    Ok(())
}

/// The rule "ping and apache".
pub(super) fn and(cluster: &mut Cluster) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    cluster.observer.mark();
    apache::stop(cluster.host(&holder)?)?;
    stays(cluster, &holder, "apache alone was stopped")?;
    apache::heal(cluster.host_mut(&holder)?)?;
    cluster.switch().set_filter(&holder, &NO_PING)?;
    stays(cluster, &holder, "ping alone was blocked")?;
    apache::stop(cluster.host(&holder)?)?;
    cluster.wait_holder(&cluster.other(&holder)?, MOVES)?;
    cluster.verdict().check()?;
    Ok(Ending::Held(
        "neither alone moved the group, both did".into(),
    ))
}

/// The default rule.
pub(super) fn any(cluster: &mut Cluster) -> Result<Ending> {
    let holder = cluster.wait_whole()?;
    apache::stop(cluster.host(&holder)?)?;
    cluster.wait_holder(&cluster.other(&holder)?, MOVES)?;
    let holder = cluster.heal()?;
    cluster.switch().set_filter(&holder, &NO_PING)?;
    cluster.wait_holder(&cluster.other(&holder)?, MOVES)?;
    Ok(Ending::Held(
        "apache alone moved the group, ping alone too".into(),
    ))
}
