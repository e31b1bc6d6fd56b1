//! The network: links that can be cut in one direction, connections over them, and the way that
//! requests of the engines take (`OverQuic` in `crates/daemon/src/agreement.rs`).
//!
//! Datagrams are lost, doubled, delayed and overtake one another. What goes over a connection is
//! sent again until it arrives or the connection is given up, as QUIC does.

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_consensus::{BoxFuture, Engine, Network, NetworkError, Virtual, virtual_time};
use evenkeel_core::NodeId;

use super::recipe::{MS, Recipe};
use crate::chance::Chance;

/// After how long what was lost on a connection is sent again.
const AGAIN: u64 = 25 * MS;
/// How often a report is sent again before it is given up: another follows.
const REPORT_TRIES: u64 = 6;
/// The longest delay once all is mended.
const CALM_DELAY_MAX: u64 = MS / 4;

/// One end of the network.
#[derive(Default)]
struct End {
    /// The worker that has it; what is from or for another is void.
    process: u64,
    runs: bool,
    frozen_until: u64,
    engine: Option<Engine<Virtual>>,
}

struct Net {
    ids: Vec<NodeId>,
    ends: Vec<End>,
    cut: Vec<Vec<bool>>,
    connected: Vec<Vec<bool>>,
    lags_until: Vec<u64>,
    loss: u64,
    doubled: u64,
    slow: u64,
    delay_min: u64,
    delay_max: u64,
    lease: u64,
    calm: bool,
    chance: Chance,
}

/// All of it.
#[derive(Clone)]
pub(super) struct Wires(Arc<Mutex<Net>>);

enum Fate {
    Gone,
    Lost,
    After(u64),
}

impl Net {
    fn delay(&mut self, at: u64, from: usize) -> u64 {
        if self.calm {
            return self.chance.between(self.delay_min, CALM_DELAY_MAX);
        }
        if at < self.lags_until[from] {
            return self.chance.between(self.lease / 4, 2 * self.lease);
        }
        let slow = self.chance.happens(self.slow);
        let longest = if slow { 3 * self.lease } else { self.delay_max };
        self.chance
            .between(self.delay_min, longest.max(self.delay_min))
    }

    fn passes(&mut self, from: usize, to: usize) -> bool {
        !self.cut[from][to] && (self.calm || !self.chance.happens(self.loss))
    }

    fn fate(&mut self, from: (usize, u64), to: usize) -> Fate {
        let (from, process) = from;
        let end = &self.ends[from];
        if end.process != process || !end.runs || !self.connected[from][to] {
            Fate::Gone
        } else if self.passes(from, to) {
            let at = now();
            Fate::After(self.delay(at, from))
        } else {
            Fate::Lost
        }
    }
}

fn now() -> u64 {
    super::recipe::nanos(virtual_time::now())
}

async fn sleep_until(at: u64) {
    virtual_time::sleep_until(Duration::from_nanos(at)).await;
}

fn gone() -> NetworkError {
    NetworkError::Unreachable("no connection".to_owned())
}

impl Wires {
    /// All links live, nobody is connected.
    pub(super) fn new(recipe: &Recipe, ids: Vec<NodeId>, chance: Chance) -> Self {
        let count = ids.len();
        Self(Arc::new(Mutex::new(Net {
            ids,
            ends: (0..count).map(|_| End::default()).collect(),
            cut: vec![vec![false; count]; count],
            connected: vec![vec![false; count]; count],
            lags_until: vec![0; count],
            loss: recipe.loss,
            doubled: recipe.doubled,
            slow: recipe.slow,
            delay_min: recipe.delay_min,
            delay_max: recipe.delay_max,
            lease: recipe.lease(),
            calm: false,
            chance,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What the world does to it.

    /// A worker begins, or none runs.
    pub(super) fn seat(&self, node: usize, process: u64, runs: bool) {
        let mut net = self.lock();
        let end = &mut net.ends[node];
        (end.process, end.runs, end.engine) = (process, runs, None);
        for other in 0..net.ids.len() {
            net.connected[node][other] = false;
            net.connected[other][node] = false;
        }
    }

    /// The engine that answers there.
    pub(super) fn answer_by(&self, node: usize, engine: Option<Engine<Virtual>>) {
        self.lock().ends[node].engine = engine;
    }

    /// Nothing goes in or out before this moment.
    pub(super) fn freeze(&self, node: usize, until: u64) {
        let mut net = self.lock();
        let end = &mut net.ends[node];
        end.frozen_until = end.frozen_until.max(until);
    }

    /// Cuts one direction of a link, or mends it.
    pub(super) fn cut(&self, from: usize, to: usize, cut: bool) {
        self.lock().cut[from][to] = cut;
    }

    /// Whether one direction is cut.
    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.lock().cut[from][to]
    }

    /// All links live.
    pub(super) fn rejoin(&self) {
        let mut net = self.lock();
        net.cut.iter_mut().for_each(|row| row.fill(false));
    }

    /// How much is lost from now on.
    pub(super) fn set_loss(&self, per_mille: u64) {
        self.lock().loss = per_mille;
    }

    /// How much is lost now, if the network is not calm.
    pub(super) fn loss(&self) -> u64 {
        let net = self.lock();
        if net.calm { 0 } else { net.loss }
    }

    /// What a node sends before this moment is late.
    pub(super) fn lag(&self, node: usize, until: u64) {
        self.lock().lags_until[node] = until;
    }

    /// Whether what a node sends now is late.
    pub(super) fn lags(&self, node: usize, at: u64) -> bool {
        let net = self.lock();
        !net.calm && at < net.lags_until[node]
    }

    /// Everything is well from now on.
    pub(super) fn calm(&self) {
        let mut net = self.lock();
        net.calm = true;
        net.cut.iter_mut().for_each(|row| row.fill(false));
        net.lags_until.fill(0);
        net.ends.iter_mut().for_each(|end| end.frozen_until = 0);
    }

    /// Whether two nodes are connected.
    pub(super) fn is_connected(&self, one: usize, other: usize) -> bool {
        self.lock().connected[one][other]
    }

    /// Two nodes are connected from now on, or no more.
    pub(super) fn connect(&self, one: usize, other: usize, connected: bool) {
        let mut net = self.lock();
        net.connected[one][other] = connected;
        net.connected[other][one] = connected;
    }

    // What travels.

    /// When the copies of a datagram arrive: none, one, or more.
    pub(super) fn datagram(&self, at: u64, from: usize, to: usize) -> Vec<u64> {
        let mut net = self.lock();
        let doubled = net.doubled;
        let copies = 1 + u64::from(!net.calm && net.chance.happens(doubled));
        let mut arrivals = Vec::new();
        for _ in 0..copies {
            if net.passes(from, to) {
                arrivals.push(at + net.delay(at, from));
            }
        }
        arrivals
    }

    /// When a report arrives, if it does.
    pub(super) fn report(&self, at: u64, from: usize, to: usize) -> Option<u64> {
        let mut net = self.lock();
        if !net.connected[from][to] {
            return None;
        }
        let again = (0..REPORT_TRIES).find(|_| net.passes(from, to))?;
        Some(at + again * AGAIN + net.delay(at, from))
    }

    /// A handshake: how long it takes, if it comes to anything.
    pub(super) fn handshake(&self, at: u64, one: usize, other: usize) -> Option<u64> {
        let mut net = self.lock();
        let both = net.passes(one, other) && net.passes(other, one);
        both.then(|| net.delay(at, one) + net.delay(at, other))
    }

    async fn thawed(&self, node: usize) {
        loop {
            let until = self.lock().ends[node].frozen_until;
            if until <= now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Lets something travel over a connection, however often it must be sent.
    async fn travel(&self, from: (usize, u64), to: usize) -> Result<(), NetworkError> {
        self.thawed(from.0).await;
        loop {
            let fate = self.lock().fate(from, to);
            match fate {
                Fate::Gone => return Err(gone()),
                Fate::Lost => sleep_until(now() + AGAIN).await,
                Fate::After(delay) => {
                    sleep_until(now() + delay).await;
                    self.thawed(to).await;
                    return Ok(());
                }
            }
        }
    }

    fn place(&self, id: NodeId) -> Option<usize> {
        self.lock().ids.iter().position(|known| *known == id)
    }

    fn engine(&self, node: usize) -> Option<(u64, Engine<Virtual>)> {
        let net = self.lock();
        let end = &net.ends[node];
        Some((end.process, end.engine.clone()?))
    }

    /// The way of one worker to its peers.
    pub(super) fn of(&self, me: usize, process: u64) -> Wire {
        Wire {
            wires: self.clone(),
            me: (me, process),
        }
    }
}

/// One worker's way to its peers.
pub(super) struct Wire {
    wires: Wires,
    me: (usize, u64),
}

impl Network for Wire {
    fn request(
        &self,
        to: NodeId,
        request: Vec<u8>,
        _ttl: Duration,
    ) -> BoxFuture<Result<Vec<u8>, NetworkError>> {
        let (wires, me) = (self.wires.clone(), self.me);
        Box::pin(async move {
            let to = wires.place(to).ok_or_else(gone)?;
            wires.travel(me, to).await?;
            let (process, engine) = wires.engine(to).ok_or_else(gone)?;
            let id = wires.lock().ids[me.0];
            // It is answered to its end, whether or not anybody waits any more.
            let answer = virtual_time::spawn(async move { engine.handle(id, request).await });
            let answer = answer.await.ok_or_else(gone)?;
            wires.travel((to, process), me.0).await?;
            Ok(answer)
        })
    }
}
