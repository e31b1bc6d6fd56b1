//! One link per peer: which connection is the current one, and what serves it.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::NodeId;
use quinn::{Connection, ConnectionError};
use tokio::time::{Instant, sleep};

use crate::endpoint::Shared;
use crate::event::DownReason;
use crate::hello::{Admitted, Close, tidy};
use crate::stream::{self, Newest, Outbox};

/// How long a replaced connection still carries what is under way on it.
const LINGER: Duration = Duration::from_millis(500);

/// The current connection to a peer.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) admitted: crate::certificate::Presented,
    dialler: NodeId,
    life: u64,
    since: Instant,
    /// Which of the links of this endpoint it is.
    pub(crate) serial: u64,
}

/// What becomes of a new connection when there is one already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contest {
    /// The old one stays: both sides dialled at once, and the lower node's call counts.
    KeepOld,
    /// The new one replaces it.
    TakeNew,
}

/// What decides between two connections to one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) dialler: NodeId,
    pub(crate) life: u64,
}

/// Both sides come to the same answer, whichever connection each saw first: a peer that
/// dials again has lost the old connection or its memory, unless both dialled at once.
pub(crate) fn contest(
    ours: NodeId,
    peer: NodeId,
    old: Claim,
    old_age: Duration,
    new: Claim,
    simultaneous: Duration,
) -> Contest {
    let lower = ours.min(peer);
    let at_once = old.life == new.life && old_age <= simultaneous;
    if at_once && old.dialler == lower && new.dialler != lower {
        Contest::KeepOld
    } else {
        Contest::TakeNew
    }
}

impl Link {
    pub(crate) fn new(admitted: &Admitted, serial: u64) -> Self {
        Self {
            connection: admitted.connection.clone(),
            outbox: Arc::new(Outbox::new()),
            admitted: admitted.presented.clone(),
            dialler: admitted.dialler,
            life: admitted.life,
            since: Instant::now(),
            serial,
        }
    }

    /// Whether `new` is to take the place of this link.
    pub(crate) fn yields_to(&self, shared: &Shared, new: &Admitted) -> bool {
        if self.connection.close_reason().is_some() {
            return true;
        }
        let old = Claim {
            dialler: self.dialler,
            life: self.life,
        };
        let new_claim = Claim {
            dialler: new.dialler,
            life: new.life,
        };
        let simultaneous = shared.tuning.simultaneous();
        let age = self.since.elapsed();
        match contest(
            shared.id(),
            new.presented.id(),
            old,
            age,
            new_claim,
            simultaneous,
        ) {
            Contest::KeepOld => false,
            Contest::TakeNew => true,
        }
    }
}

/// Serves what the peer sends on a connection until it ends; then tells the endpoint.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    peer: NodeId,
    life: u64,
    newest: Arc<Newest>,
    connection: Connection,
    serial: Option<u64>,
) {
    loop {
        tokio::select! {
            request = connection.accept_bi() => {
                let Ok((send, receive)) = request else { break };
                let requests = shared.requests.clone();
                tokio::spawn(stream::serve_request(peer, requests, send, receive));
            }
            message = connection.accept_uni() => {
                let Ok(receive) = message else { break };
                let inbox = Arc::clone(&shared.inbox);
                let newest = Arc::clone(&newest);
                tokio::spawn(stream::serve_message(peer, life, newest, inbox, receive));
            }
        }
    }
    let reason = down_reason(&connection.closed().await);
    if let Some(serial) = serial {
        shared.lost(peer, serial, reason);
    }
}

/// Lets a replaced connection finish what is under way, then closes it.
pub(crate) fn retire(shared: &Shared, connection: Connection) {
    shared.runtime.spawn(async move {
        sleep(LINGER).await;
        connection.close(Close::Replaced.code(), b"a newer connection has taken over");
    });
}

/// Why a connection ended, for people.
pub(crate) fn down_reason(error: &ConnectionError) -> DownReason {
    match error {
        ConnectionError::TimedOut => DownReason::Silent,
        ConnectionError::ApplicationClosed(close) => {
            let reason = tidy(&String::from_utf8_lossy(&close.reason));
            DownReason::ClosedByPeer(if reason.is_empty() {
                "no reason given".into()
            } else {
                reason
            })
        }
        ConnectionError::LocallyClosed => DownReason::ClosedHere("by this node".into()),
        ConnectionError::Reset => DownReason::ClosedByPeer("it was restarted".into()),
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::CidsExhausted => DownReason::Broken(tidy(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: NodeId = NodeId(1);
    const HIGH: NodeId = NodeId(2);
    const WINDOW: Duration = Duration::from_millis(300);

    fn decide(ours: NodeId, old: NodeId, new: NodeId, age: u64, same_life: bool) -> Contest {
        let peer = if ours == LOW { HIGH } else { LOW };
        let old = Claim {
            dialler: old,
            life: 7,
        };
        let new = Claim {
            dialler: new,
            life: if same_life { 7 } else { 8 },
        };
        contest(ours, peer, old, Duration::from_millis(age), new, WINDOW)
    }

    #[test]
    fn both_sides_choose_the_lower_diallers_call_whatever_came_first() {
        for ours in [LOW, HIGH] {
            assert_eq!(decide(ours, LOW, HIGH, 10, true), Contest::KeepOld);
            assert_eq!(decide(ours, HIGH, LOW, 10, true), Contest::TakeNew);
        }
    }

    #[test]
    fn a_peer_that_lost_its_end_or_its_memory_is_believed() {
        for ours in [LOW, HIGH] {
            assert_eq!(decide(ours, LOW, HIGH, 10, false), Contest::TakeNew);
            assert_eq!(decide(ours, LOW, HIGH, 301, true), Contest::TakeNew);
            assert_eq!(decide(ours, LOW, LOW, 10, true), Contest::TakeNew);
        }
    }
}
