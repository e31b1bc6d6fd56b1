//! The driver's part in generations of the log (`core::generation` decides): `recover`, giving
//! way to a greater generation, and making the cluster whole again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_consensus::{Engine, Limits, LogFile, Recovered, Recovery, SetAside, WholeError};
use evenkeel_console::api::v1::Answer;
use evenkeel_core::command::{self, Command};
use evenkeel_core::generation::{Because, Facts, Members, SETTLE_PATIENCE, Step, Voters};
use evenkeel_core::health::Standing;
use evenkeel_core::node::Event;
use evenkeel_core::policy::NO_VOTE_YET;
use evenkeel_core::quorum::majority;
use evenkeel_core::{NodeId, NodeName};
use evenkeel_host::clock;
use evenkeel_wire::v1::entry;
use ring::rand::SecureRandom;
use tokio::sync::{mpsc, oneshot};

use crate::decision::{Brought, Driver, ENGINE_LOOK, ENGINE_PAUSE, NO_ENGINE, Started, wall_ms};
use crate::lease::Order;

/// A follower that lacks so few entries has the log: more come all the time.
const LAG_MAX: u64 = 8;
/// A follower that has answered the leader so lately follows.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(1);

/// Where the log is, and whose.
#[derive(Clone, Debug)]
pub struct LogPlace {
    /// The file.
    pub path: PathBuf,
    /// This node.
    pub me: NodeId,
    /// All voters.
    pub all: Vec<NodeId>,
    /// Its limits.
    pub limits: Limits,
}

impl LogPlace {
    fn file(&self) -> LogFile {
        LogFile::new(&self.path, self.me, self.limits)
    }

    /// Begins a generation. Blocks.
    fn recover(&self, drawn: u64, stopped: &[NodeId]) -> Result<Recovered, String> {
        let recovery = Recovery {
            me: self.me,
            all: self.all.clone(),
            drawn,
        };
        let told = |recovered: &Recovered| {
            entry::encode(&Command::Recovered(command::Recovered {
                by: self.me,
                stopped: stopped.to_vec(),
                generation: recovered.generation,
                last: recovered.last,
                wall_ms: wall_ms(),
            }))
        };
        evenkeel_consensus::recover(&mut self.file(), &recovery, told)
            .map_err(|error| error.to_string())
    }

    /// Gives the log up for another generation; a copy stays, for people. Blocks.
    fn join(&self, generation: u64) -> Result<SetAside, String> {
        match self.file().keep_copy() {
            Ok(copy) => tracing::warn!(copy = %copy.display(), "the old log was set aside"),
            // It was declared void by an operator: a full disk must not keep this node out.
            Err(error) => tracing::error!(%error, "the old log is given up without a copy"),
        }
        evenkeel_consensus::join(&mut self.file(), generation).map_err(|error| error.to_string())
    }
}

/// What became of a change of generation.
pub enum Changed {
    /// Everything is closed: this node obeys the generation from here on.
    Closed(u64),
    /// It follows that generation.
    Joined(SetAside, Started),
    /// An operator's recovery.
    Recovered(Result<Recovered, String>, Started),
    /// What became of the proposal that all vote again.
    Whole(Result<(), WholeError>),
}

/// What goes on while the log changes its generation.
#[derive(Default)]
pub struct Pending {
    /// The operator who waits, and the nodes declared stopped.
    recovering: Option<(oneshot::Sender<Answer>, Vec<NodeId>)>,
    /// What was given up, until it is known what of it the others lacked.
    set_aside: Option<SetAside>,
    may_open: bool,
}

/// Ends an engine; tasks that still use it end within their own deadlines.
pub async fn close(engine: Option<Arc<Engine>>) {
    let Some(mut old) = engine else { return };
    loop {
        match Arc::try_unwrap(old) {
            Ok(engine) => break engine.shutdown().await,
            Err(shared) => old = shared,
        }
        tokio::time::sleep(ENGINE_LOOK).await;
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(error.to_string()))
}

/// The engine's members in the decision machine's words.
pub fn members_of(engine: &Engine) -> Members {
    match engine.members() {
        evenkeel_consensus::Members::Unknown => Members::Unknown,
        evenkeel_consensus::Members::Alone(one) => Members::Alone(one),
        evenkeel_consensus::Members::Growing(one) => Members::Growing(one),
        evenkeel_consensus::Members::All => Members::All,
    }
}

impl Driver {
    /// Looks at the generations, does what follows, and tells the machines about it.
    pub(crate) fn mind_generations(&mut self, bring: &mpsc::Sender<Brought>) {
        let now = clock::now();
        self.rejoin(bring);
        let facts = self.facts();
        while let Some(step) = self.generations.step(now, &facts) {
            self.carry_step(step, bring);
        }
        let generation = self.generations.own();
        let voters = self.generations.deciders();
        if self.told_deciders != Some((generation, voters.clone())) {
            self.told_deciders = Some((generation, voters.clone()));
            self.step(Event::Deciders { generation, voters }, bring);
            self.greet();
        }
        let may_open = self.generations.may_open();
        if may_open != self.pending.may_open {
            self.pending.may_open = may_open;
            let unready = self.unready();
            self.readiness(&unready, bring);
            self.restore();
        }
    }

    /// Why this node could not take a group, as far as the log goes.
    pub(crate) fn unready(&self) -> Option<String> {
        (!self.generations.may_open()).then(|| NO_VOTE_YET.to_owned())
    }

    fn facts(&self) -> Facts {
        let Some(engine) = &self.engine else {
            return Facts {
                members: Members::Unknown,
                leads: false,
                caught_up: BTreeSet::new(),
                serving: false,
            };
        };
        let members = members_of(engine);
        let mut caught_up = BTreeSet::new();
        if matches!(members, Members::Alone(_) | Members::Growing(_)) {
            let status = engine.status();
            let followers = status.followers.iter().filter(|follower| {
                let near = follower.matched.map(|matched| matched + LAG_MAX) >= status.last_index;
                near && follower.heard.is_some_and(|age| age < FOLLOWS_WITHIN)
            });
            let now = clock::now();
            let followers = followers.map(|follower| follower.node);
            // One that does not vote would be counted on when this node needs a majority.
            caught_up = followers
                .filter(|node| self.is_voting(now, *node))
                .collect();
        }
        let ledger = self.node.ledger();
        let mut own = ledger.groups.values().filter_map(|record| {
            let current = record.current.as_ref()?;
            (current.assign.holder == self.me).then_some(current)
        });
        let open = |group, epoch| {
            self.node
                .role(group)
                .is_some_and(|role| role.standing() == Standing::Open && role.epoch() == epoch)
        };
        Facts {
            members,
            leads: self.node.leader() == Some(self.me),
            caught_up,
            serving: own.all(|current| open(current.assign.group, current.epoch)),
        }
    }

    fn carry_step(&mut self, step: Step, bring: &mpsc::Sender<Brought>) {
        match step {
            Step::Settle(because) => self.settle(because, bring),
            Step::Join { generation, of } => {
                tracing::warn!(
                    generation,
                    of = self.node.topology().node_name(of),
                    "this node's log was declared void by `recover` on another one: closing \
                     everything and following that one"
                );
                self.join(generation, bring);
            }
            Step::Voters(voters) => {
                match voters {
                    Voters::All => tracing::info!(
                        "the others are back: leases need a majority of all from now on"
                    ),
                    Voters::Me => tracing::warn!(
                        "the others do not renew: serving alone again until they are well"
                    ),
                }
                self.lease.order(Order::Voters(voters));
            }
            Step::MakeWhole => {
                let Some(engine) = self.engine.clone() else {
                    return;
                };
                let bring = bring.clone();
                tokio::spawn(async move {
                    let made = engine.make_whole().await;
                    drop(engine);
                    // The driver has ended: nobody asks any more.
                    let _ = bring.send(Brought::Changed(Changed::Whole(made))).await;
                });
            }
        }
    }

    fn settle(&mut self, because: Because, bring: &mpsc::Sender<Brought>) {
        match because {
            Because::AllHeard => tracing::info!("taking part: all voters are heard"),
            Because::Vouched(node) => tracing::info!(
                by = self.node.topology().node_name(node),
                "taking part: another node that does is heard"
            ),
            Because::PatienceOver => tracing::warn!(
                waited_ms = SETTLE_PATIENCE.as_millis(),
                "taking part although not all voters are heard: none of them came"
            ),
        }
        self.memory.set_settled();
        self.consider_voting(bring);
        self.greet();
    }

    /// The log on disk is of a lesser generation than the one obeyed: a worker died in between,
    /// or the disk failed.
    fn rejoin(&mut self, bring: &mpsc::Sender<Brought>) {
        let own = self.generations.own();
        let older = self
            .engine
            .as_ref()
            .is_some_and(|one| one.generation() < own);
        if older && !self.generations.changing() {
            self.generations.change();
            self.join(own, bring);
        }
    }

    /// Shuts the guards, then gives the log up. Nothing of the old log is heard meanwhile.
    fn join(&mut self, generation: u64, bring: &mpsc::Sender<Brought>) {
        let groups: Vec<_> = self.node.topology().groups.keys().copied().collect();
        for group in groups {
            self.lease.order(Order::Release(group));
        }
        let (told, reached) = oneshot::channel();
        self.lease.order(Order::Reached(told));
        let engine = self.engine.take();
        self.consider_voting(bring);
        self.step(Event::Leader { leader: None }, bring);
        let (place, ledger) = (self.place.clone(), self.ledger.clone());
        let (restart, bring) = (Arc::clone(&self.restart), bring.clone());
        tokio::spawn(async move {
            close(engine).await;
            if reached.await.is_err() {
                return; // The lease thread has ended, and the worker with it.
            }
            let closed = Brought::Changed(Changed::Closed(generation));
            if bring.send(closed).await.is_err() {
                return;
            }
            let set_aside = loop {
                let place = place.clone();
                match blocking(move || place.join(generation)).await {
                    Ok(set_aside) => break set_aside,
                    Err(reason) => tracing::error!(reason, "the old log cannot be given up yet"),
                }
                tokio::time::sleep(ENGINE_PAUSE).await;
            };
            ledger.clear();
            let started = restart().await;
            // The driver has ended: nobody wants it any more.
            let _ = bring
                .send(Brought::Changed(Changed::Joined(set_aside, started)))
                .await;
        });
    }

    /// A change of generation has come so far. The events of the new engine, if there is one.
    pub(crate) fn changed(
        &mut self,
        changed: Changed,
        bring: &mpsc::Sender<Brought>,
    ) -> Option<evenkeel_consensus::Events> {
        match changed {
            Changed::Closed(generation) => {
                self.forget_stored(bring);
                self.generations.joined(generation);
                self.memory.set_generation(generation);
                self.mind_generations(bring);
                None
            }
            Changed::Joined(set_aside, started) => {
                self.pending.set_aside = Some(set_aside);
                let agreed = self.regain_engine(started, bring);
                self.mind_generations(bring);
                agreed
            }
            Changed::Recovered(outcome, started) => self.recovered(outcome, started, bring),
            Changed::Whole(made) => {
                self.made_whole(made);
                None
            }
        }
    }

    fn made_whole(&mut self, made: Result<(), WholeError>) {
        match made {
            Ok(()) => tracing::info!("all nodes vote again: the cluster is whole"),
            Err(WholeError::Refused(reason)) => {
                tracing::warn!(reason, "not made whole yet");
                self.generations.refused(clock::now());
            }
            Err(error @ WholeError::TimedOut(_)) => tracing::warn!(%error, "not made whole yet"),
        }
    }

    /// Tells people what of this node's old log is gone for good: once, when it is known what
    /// the node that recovered had.
    pub(crate) fn tell_lost(&mut self) {
        let Some(set_aside) = self.pending.set_aside else {
            return;
        };
        let recovered = self.ledger.with(|ledger| ledger.recovered.clone());
        // Earlier recoveries come by while the log is learned.
        let own = self.generations.own();
        let recovered = recovered.filter(|(_, recovered)| recovered.generation == own);
        let Some((_, recovered)) = recovered else {
            return;
        };
        self.pending.set_aside = None;
        let lost = set_aside.last.index.saturating_sub(recovered.last.index);
        if set_aside.last > recovered.last {
            tracing::warn!(
                entries = lost,
                last = ?set_aside.last,
                by = self.node.topology().node_name(recovered.by),
                "what this node's old log had beyond the one that recovered is void; a copy is \
                 beside the log"
            );
        }
    }

    /// `evenkeel recover`: begins a generation in which this node decides alone.
    pub(crate) fn recover(
        &mut self,
        stopped: &[String],
        answer: oneshot::Sender<Answer>,
        bring: &mpsc::Sender<Brought>,
    ) {
        let mut drawn = [0; 8];
        let drew = ring::rand::SystemRandom::new().fill(&mut drawn);
        let ids = match self.may_recover(stopped) {
            Ok(_) if drew.is_err() => Err("the kernel gives no random numbers".to_owned()),
            other => other,
        };
        let ids = match ids {
            Ok(ids) => ids,
            Err(reason) => {
                // The operator may have gone.
                let _ = answer.send(Answer::Refused(reason));
                return;
            }
        };
        tracing::warn!(
            stopped = stopped.join(", "),
            "an operator declared these nodes stopped: this node goes on alone"
        );
        self.pending.recovering = Some((answer, ids.clone()));
        self.generations.change();
        let engine = self.engine.take();
        self.consider_voting(bring);
        self.step(Event::Leader { leader: None }, bring);
        let (place, restart) = (self.place.clone(), Arc::clone(&self.restart));
        let bring = bring.clone();
        tokio::spawn(async move {
            close(engine).await;
            let drawn = u64::from_le_bytes(drawn);
            let outcome = blocking(move || place.recover(drawn, &ids)).await;
            let started = restart().await;
            // The driver has ended: nobody wants it any more.
            let _ = bring
                .send(Brought::Changed(Changed::Recovered(outcome, started)))
                .await;
        });
    }

    /// The nodes that were declared stopped, or why this cannot be, and what to do.
    fn may_recover(&self, stopped: &[String]) -> Result<Vec<NodeId>, String> {
        let topology = self.node.topology();
        let hosts = topology
            .groups
            .values()
            .any(|group| group.nodes.contains(&self.me));
        let all: Vec<NodeId> = topology.voters().map(|node| node.id).collect();
        let up = self.endpoint.up();
        let now = clock::now();
        let alive =
            |id: NodeId| id == self.me || up.contains(&id) || self.node.view().alive(now, id);
        let deciders = self.generations.deciders();
        let (voting, voteless): (Vec<NodeId>, Vec<NodeId>) = deciders
            .iter()
            .filter(|id| alive(**id))
            .partition(|id| self.is_voting(now, **id));
        if !hosts {
            return Err(
                "this node hosts nothing, so alone it would serve nothing: run recover on \
                        one of the servers"
                    .to_owned(),
            );
        }
        if self.generations.changing() {
            return Err(
                "this node is changing its log right now: ask again in a moment".to_owned(),
            );
        }
        if voting.len() >= majority(deciders.len()) {
            return Err(match self.generations.members() {
                Members::Alone(_) => {
                    "a node decides alone already, and is heard: there is nothing \
                                      to recover; see `evenkeel status`"
                        .to_owned()
                }
                _ => "a majority of the voters can be reached: there is nothing to recover; see \
                      `evenkeel status`"
                    .to_owned(),
            });
        }
        if voting.len() + voteless.len() >= majority(deciders.len()) {
            // They may still keep promises, or hold something.
            let names: Vec<String> = voteless.iter().map(|id| topology.node_name(*id)).collect();
            return Err(format!(
                "a majority of the voters can be reached, but {} do not vote: if they lost their \
                 logs, stop them, then ask again and name them as stopped; start and readmit them \
                 afterwards",
                names.join(" and ")
            ));
        }
        if !self.generations.settled() {
            return Err(format!(
                "this node has just started and listens for the others for up to {} s: ask again",
                SETTLE_PATIENCE.as_secs()
            ));
        }
        if self.engine.is_none() {
            return Err(NO_ENGINE.to_owned());
        }
        if !self.voting.may() {
            return Err(
                "this node has lost its log, so it may not know what was agreed: run \
                        recover on a node that has its log"
                    .to_owned(),
            );
        }
        self.declared(stopped, &all, &alive)
    }

    /// Whether exactly those are declared stopped that are not heard.
    fn declared(
        &self,
        stopped: &[String],
        all: &[NodeId],
        alive: &dyn Fn(NodeId) -> bool,
    ) -> Result<Vec<NodeId>, String> {
        let topology = self.node.topology();
        let mut ids = BTreeSet::new();
        for name in stopped {
            let id = NodeName::new(name).ok().map(|name| NodeId::of(&name));
            let Some(id) = id.filter(|id| all.contains(id)) else {
                return Err(format!("the configuration has no node {name} that votes"));
            };
            if id == self.me {
                return Err(format!("{name} is this node, and it runs: name the others"));
            }
            if alive(id) {
                return Err(format!(
                    "{name} is heard: it is not stopped. Stop it (its power, or its daemon for \
                     good), then ask again"
                ));
            }
            ids.insert(id);
        }
        let silent = all.iter().filter(|id| !alive(**id) && !ids.contains(id));
        let unnamed: Vec<String> = silent
            .map(|id| format!("--i-have-stopped {}", topology.node_name(*id)))
            .collect();
        if unnamed.is_empty() {
            return Ok(ids.into_iter().collect());
        }
        Err(format!(
            "not every voter that is not heard was named: one of them may be serving behind a \
             broken network. Make sure that each is stopped, then add {}",
            unnamed.join(" ")
        ))
    }

    fn recovered(
        &mut self,
        outcome: Result<Recovered, String>,
        started: Started,
        bring: &mpsc::Sender<Brought>,
    ) -> Option<evenkeel_consensus::Events> {
        let waiting = self.pending.recovering.take();
        // A disk that reports a fault may have written all the same: the log that was opened
        // afterwards says what counts.
        let begun = match &outcome {
            Ok(recovered) => Some(recovered.generation),
            Err(_) => self.begun_by(&started),
        };
        self.generations.recovered(begun);
        let said = match begun {
            Some(generation) => {
                // Before anything of the new engine is heard: no epoch of it may be proven to
                // the old voters.
                self.lease.order(Order::Voters(Voters::Me));
                self.memory.set_generation(generation);
                tracing::warn!(generation, ?outcome, "a new generation of the log begins");
                let ids = waiting.as_ref().map_or(&[][..], |(_, ids)| ids);
                let text = self.recovered_text(ids);
                Answer::Done(match outcome {
                    Ok(_) => text,
                    Err(reason) => {
                        format!("{text} (the disk reported a fault on the way: {reason})")
                    }
                })
            }
            None => {
                let reason = outcome.err().unwrap_or_default();
                tracing::error!(reason, "no new generation was begun");
                Answer::Refused(format!("nothing was changed: {reason}"))
            }
        };
        let agreed = self.regain_engine(started, bring);
        self.mind_generations(bring);
        if let Some((answer, _)) = waiting {
            // The operator may have gone.
            let _ = answer.send(said);
        }
        agreed
    }

    /// The generation in which a log names this node alone, if it is a new one.
    fn begun_by(&self, started: &Started) -> Option<u64> {
        let (engine, _) = started.as_ref().ok()?;
        let alone = members_of(engine) == Members::Alone(self.me);
        Some(engine.generation()).filter(|generation| alone && *generation > self.generations.own())
    }

    fn recovered_text(&self, stopped: &[NodeId]) -> String {
        let topology = self.node.topology();
        let names: Vec<String> = stopped.iter().map(|id| topology.node_name(*id)).collect();
        let me = topology.node_name(self.me);
        format!(
            "{me} decides alone from now on and serves what it can, within seconds. Until the \
             cluster is whole again nobody can take over from it. {} must stay off, or come back \
             only where they can reach {me}: they then follow it by themselves, and vote again \
             once they have its log. Two of them that come back without reaching it would serve \
             as well",
            names.join(" and ")
        )
    }
}
