//! What happens to peers, as the daemon hears of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use evenkeel_core::NodeId;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::seal::LeaseKeys;

/// Refusals and alarms waiting to be taken: older ones are dropped.
const NEWS_MAX: usize = 64;
/// A refusal that is repeated (each attempt of a stranger fails alike) is told once in
/// this time.
const REPEAT: Duration = Duration::from_secs(30);
/// Different refusals remembered for that.
const REMEMBERED_MAX: usize = 64;

/// News of a peer.
#[derive(Clone, Debug)]
pub enum PeerEvent {
    /// A connection to the peer works and both sides have admitted each other. May come
    /// again without a [`PeerEvent::Down`] between: a newer connection replaced the
    /// older one, and its keys are to be installed beside the older keys.
    Up {
        /// The peer.
        peer: NodeId,
        /// Keys for lease datagrams, from this connection.
        keys: LeaseKeys,
        /// Round trip measured so far.
        rtt: Duration,
        /// What the peer's daemon said in its hello.
        hello: Bytes,
    },
    /// The connection is gone and none has replaced it. Lease keys stay valid.
    Down {
        /// The peer.
        peer: NodeId,
        /// Why.
        reason: DownReason,
    },
    /// Somebody was not let in, by us or by them.
    Refused {
        /// The node concerned, if it could prove or was dialled under a name.
        peer: Option<NodeId>,
        /// Where it is.
        remote: SocketAddr,
        /// Who refused.
        by: RefusedBy,
        /// Whose certificate or which claim, and why.
        reason: String,
    },
    /// A certificate ends soon, or has ended. Nothing stops because of it.
    CertificateAlarm {
        /// Whose.
        whose: Alarmed,
        /// Whole days left; negative once it has ended.
        days_left: i64,
    },
}

/// Whose certificate ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarmed {
    /// A node's, this one included.
    Node(NodeId),
    /// The authority's.
    Authority,
}

/// Who refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    /// This node.
    Us,
    /// The other node; the reason is in its words.
    Them,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DownReason {
    /// Nothing heard for [`crate::Tuning::idle`].
    #[error("nothing heard from it")]
    Silent,
    /// The peer ended it.
    #[error("it closed the connection: {0}")]
    ClosedByPeer(String),
    /// We ended it.
    #[error("closed here: {0}")]
    ClosedHere(String),
    /// QUIC failed.
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// The daemon's end of the events, in the order in which things happened.
///
/// Bounded: per peer only the newest of Up and Down waits, so whoever takes events late
/// learns what is, not all that was.
pub struct Events(pub(crate) Arc<EventQueue>);

impl Events {
    /// The next event, waiting for it; `None` after the endpoint has been closed.
    pub async fn next(&mut self) -> Option<PeerEvent> {
        self.0.take().await
    }
}

/// The transport's end.
pub(crate) struct EventQueue {
    inner: Mutex<Inner>,
    filled: Notify,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<PeerEvent>,
    told: VecDeque<(Instant, Option<NodeId>, String)>,
    closed: bool,
}

/// The peer whose link the event is about.
fn link_of(event: &PeerEvent) -> Option<NodeId> {
    match event {
        PeerEvent::Up { peer, .. } | PeerEvent::Down { peer, .. } => Some(*peer),
        PeerEvent::Refused { .. } | PeerEvent::CertificateAlarm { .. } => None,
    }
}

impl Inner {
    /// Whether a refusal was told a moment ago; notes it if not.
    fn is_repeated(&mut self, event: &PeerEvent) -> bool {
        let PeerEvent::Refused { peer, reason, .. } = event else {
            return false;
        };
        let now = Instant::now();
        self.told
            .retain(|(at, ..)| now.duration_since(*at) < REPEAT);
        if self
            .told
            .iter()
            .any(|(_, whose, what)| whose == peer && what == reason)
        {
            return true;
        }
        if self.told.len() == REMEMBERED_MAX {
            self.told.pop_front();
        }
        self.told.push_back((now, *peer, reason.clone()));
        false
    }

    /// An Up or Down replaces what waits for its peer; other news displace the oldest.
    fn make_room(&mut self, event: &PeerEvent) {
        if let Some(peer) = link_of(event) {
            self.events.retain(|waiting| link_of(waiting) != Some(peer));
            return;
        }
        let is_news = |waiting: &PeerEvent| link_of(waiting).is_none();
        if self
            .events
            .iter()
            .filter(|waiting| is_news(waiting))
            .count()
            >= NEWS_MAX
            && let Some(oldest) = self.events.iter().position(is_news)
        {
            self.events.remove(oldest);
        }
    }
}

impl EventQueue {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            filled: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: PeerEvent) {
        let mut inner = self.lock();
        if inner.closed || inner.is_repeated(&event) {
            return;
        }
        inner.make_room(&event);
        inner.events.push_back(event);
        drop(inner);
        self.filled.notify_one();
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    async fn take(&self) -> Option<PeerEvent> {
        loop {
            {
                let mut inner = self.lock();
                if let Some(event) = inner.events.pop_front() {
                    return Some(event);
                }
                if inner.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(peer: u64, why: &str) -> PeerEvent {
        PeerEvent::Down {
            peer: NodeId(peer),
            reason: DownReason::Broken(why.to_owned()),
        }
    }

    fn refused(reason: &str) -> PeerEvent {
        let remote = "192.0.2.9:1".parse().expect("an address");
        PeerEvent::Refused {
            peer: None,
            remote,
            by: RefusedBy::Us,
            reason: reason.to_owned(),
        }
    }

    async fn drain(queue: EventQueue) -> Vec<String> {
        queue.close();
        let mut all = Vec::new();
        while let Some(event) = queue.take().await {
            all.push(match event {
                PeerEvent::Down { reason, .. } => reason.to_string(),
                PeerEvent::Refused { reason, .. } => reason,
                PeerEvent::Up { .. } | PeerEvent::CertificateAlarm { .. } => "other".into(),
            });
        }
        all
    }

    #[tokio::test]
    async fn only_the_newest_of_a_peer_waits() {
        let queue = EventQueue::new();
        queue.push(down(1, "a"));
        queue.push(down(2, "b"));
        queue.push(down(1, "c"));
        let broke = |why: &str| format!("the connection broke: {why}");
        assert_eq!(drain(queue).await, [broke("b"), broke("c")]);
    }

    #[tokio::test]
    async fn refusals_are_bounded_and_not_repeated() {
        let queue = EventQueue::new();
        queue.push(down(1, "kept"));
        for number in 0..NEWS_MAX + 5 {
            queue.push(refused(&number.to_string()));
            queue.push(refused(&number.to_string()));
        }
        let all = drain(queue).await;
        assert_eq!(all.len(), 1 + NEWS_MAX);
        assert_eq!(all[1], "5");
    }
}
