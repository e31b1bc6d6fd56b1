//! Getting connected: dialling each peer for as long as there is no link to it, and
//! taking the calls of others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::NodeId;
use quinn::Connection;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::endpoint::{PeerAddress, Shared};
use crate::hello::{self, Admitted, Failure};
use crate::tls;

/// Handshakes of callers under way at once: each costs a signature.
const CALLERS_MAX: usize = 32;
/// From so many on, a caller must first show that it receives at its address (RFC 9000,
/// 8.1.2), so that a flood with forged addresses keeps nobody out.
const CALLERS_UNPROVED_MAX: usize = 8;
/// Attempts to one peer at once: on a busy machine a handshake may take longer than the
/// time after which the next attempt starts.
const ATTEMPTS_MAX: usize = 4;
/// The longest pause after being refused: what refuses is put right by people.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(2);

/// What the dialling task of a peer must know.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) peer: PeerAddress,
    /// There is a link: nothing to do.
    pub(crate) linked: bool,
}

/// A random part of up to a quarter of `base`, so that two nodes do not keep colliding.
fn jitter(base: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter, and TLS will complain loudly enough.
    let _ = SystemRandom::new().fill(&mut byte);
    base * u32::from(byte[0]) / 1024
}

/// Why a round of dialling ended.
enum Round {
    /// There is a link now, ours or theirs.
    Linked,
    /// Nobody answered, or the answer was lost.
    Failed,
    /// One side would not have the other.
    Refused,
    /// The peer is not in the file any more, or the endpoint is closed.
    Over,
}

/// Keeps a link to one peer: dials whenever there is none. Ends with its target.
pub(crate) async fn keep(shared: Arc<Shared>, mut target: watch::Receiver<Target>) {
    let handshake = shared.tuning.handshake;
    let mut refusals = 0;
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            linked = linked(&mut target) => if linked.is_err() { return } else { refusals = 0 },
            () = sleep(pause + jitter(pause)) => {
                match round(&shared, &mut target).await {
                    Round::Over => return,
                    Round::Linked => {}
                    // It answers and then breaks off: not faster than attempts without answer.
                    Round::Failed => {
                        pause = handshake;
                        continue;
                    }
                    Round::Refused => {
                        refusals += 1;
                        pause = (handshake * 2u32.saturating_pow(refusals)).min(REFUSED_PAUSE_MAX);
                        continue;
                    }
                }
            }
        }
        if target.wait_for(|target| !target.linked).await.is_err() {
            return;
        }
        // After a loss both sides know at about the same time: the lower one calls first.
        let lower = shared.id() < NodeId::of(&target.borrow().peer.name);
        pause = if lower { Duration::ZERO } else { handshake };
    }
}

async fn linked(target: &mut watch::Receiver<Target>) -> Result<(), watch::error::RecvError> {
    target.wait_for(|target| target.linked).await.map(drop)
}

/// Dials until connected: a new attempt whenever the last has had its time, the older
/// ones going on beside it; the first to connect is the one.
async fn round(shared: &Arc<Shared>, target: &mut watch::Receiver<Target>) -> Round {
    let mut attempts = JoinSet::new();
    let handshake = shared.tuning.handshake;
    loop {
        if attempts.len() < ATTEMPTS_MAX {
            let peer = target.borrow().peer.clone();
            attempts.spawn(attempt(Arc::clone(shared), peer));
        }
        let beat = sleep(handshake + jitter(handshake));
        tokio::pin!(beat);
        loop {
            tokio::select! {
                linked = linked(target) => {
                    return if linked.is_err() { Round::Over } else { Round::Linked };
                }
                Some(done) = attempts.join_next() => match done {
                    Ok(Ok(connection)) => return greet(shared, target, connection).await,
                    Ok(Err(Failure::Refused { .. })) => return Round::Refused,
                    Ok(Err(Failure::Lost(_))) | Err(_) => {}
                },
                () = &mut beat => break,
            }
        }
    }
}

/// One handshake with a peer.
async fn attempt(shared: Arc<Shared>, peer: PeerAddress) -> Result<Connection, Failure> {
    let remote = peer.address;
    let id = NodeId::of(&peer.name);
    let outcome = async {
        let tls = tls::client(&shared.identity(), &shared.directory, peer.name)
            .map_err(|error| Failure::Lost(error.to_string()))?;
        let config = shared.client_config(tls.config);
        let connecting = shared
            .quinn
            .connect_with(config, remote, tls::SERVER_NAME)
            .map_err(|error| Failure::Lost(error.to_string()))?;
        match timeout(shared.tuning.attempt(), connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(hello::failure(Some(id), tls.verdict.get(), &error)),
            Err(_) => Err(Failure::Lost("no answer".into())),
        }
    };
    let outcome = outcome.await;
    if let Err(failure) = &outcome {
        hello::report(&shared, remote, failure);
    }
    outcome
}

/// The hello on a connection that we dialled.
async fn greet(
    shared: &Arc<Shared>,
    target: &mut watch::Receiver<Target>,
    connection: Connection,
) -> Round {
    let remote = connection.remote_address();
    let exchange = timeout(shared.tuning.attempt(), hello::call(shared, connection));
    tokio::select! {
        linked = linked(target) => if linked.is_err() { Round::Over } else { Round::Linked },
        admitted = exchange => match admitted {
            Ok(Ok(admitted)) => {
                Shared::install(shared, admitted);
                Round::Linked
            }
            Ok(Err(failure)) => {
                hello::report(shared, remote, &failure);
                match failure {
                    Failure::Refused { .. } => Round::Refused,
                    Failure::Lost(_) => Round::Failed,
                }
            }
            Err(_) => Round::Failed,
        },
    }
}

/// Takes calls until the endpoint is closed.
pub(crate) async fn accept(shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(CALLERS_MAX));
    while let Some(caller) = shared.quinn.accept().await {
        let crowded = slots.available_permits() <= CALLERS_MAX - CALLERS_UNPROVED_MAX;
        if crowded && caller.may_retry() {
            // It fails only for callers that have been asked already.
            let _ = caller.retry();
            continue;
        }
        match Arc::clone(&slots).try_acquire_owned() {
            Ok(slot) => drop(tokio::spawn(take_call(Arc::clone(&shared), caller, slot))),
            Err(_) => caller.ignore(),
        }
    }
}

async fn take_call(shared: Arc<Shared>, caller: quinn::Incoming, _slot: OwnedSemaphorePermit) {
    let remote = caller.remote_address();
    let deadline = shared.tuning.attempt();
    match timeout(deadline, answer(&shared, caller, remote)).await {
        Ok(Ok(admitted)) => Shared::install(&shared, admitted),
        Ok(Err(failure)) => hello::report(&shared, remote, &failure),
        Err(_) => tracing::debug!(%remote, "a caller did not finish its handshake"),
    }
}

async fn answer(
    shared: &Arc<Shared>,
    caller: quinn::Incoming,
    remote: SocketAddr,
) -> Result<Admitted, Failure> {
    let tls = tls::server(&shared.identity(), &shared.directory)
        .map_err(|error| Failure::Lost(error.to_string()))?;
    let config = Arc::new(shared.server_config(tls.config));
    let failed = |error| hello::failure(shared.peer_at(remote), tls.verdict.get(), &error);
    let connecting = caller.accept_with(config).map_err(failed)?;
    let connection = connecting.await.map_err(failed)?;
    hello::answer(shared, connection).await
}
