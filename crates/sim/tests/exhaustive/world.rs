//! A small world of which every state is visited.
//!
//! Time comes in ticks of 2 ms. L is three ticks, the margin one, so a lease lasts two
//! ticks from its sending. Three nodes, all of them voters, run the real machine; one
//! group; node 0 holds it at the beginning, node 2 leads.
//!
//! What may happen, in any order: a node serves its due timers, or does not for as long
//! as it likes (a freeze; the guard's deadline stays in its kernel); a message arrives
//! late, never, twice, or before an earlier one; a leader assigns, appends, is replaced;
//! a follower's entries are cut off and come back; a holder releases; a worker is
//! restarted with its mirror, a daemon without; a clock gains or loses a tick.
//!
//! What bounds it is in [`Bounds`]. A message that finds the network full is lost;
//! since any message may be dropped to make room, every history with at most that many
//! messages in flight is there.

use core::time::Duration;

use evenkeel_core::lease::{
    Assignment, Faults, Life, Machine, Message, Output, Renew, Settings, Start,
};
use evenkeel_core::{Epoch, GroupId, Incarnation, Moment, NodeId};
use evenkeel_sim::agreement::{Agreement, Disk, Extent, Told};
use stateright::{Model, Property};

/// Nodes, all voting.
pub(crate) const NODES: usize = 3;
/// One tick of every clock.
const TICK: Duration = Duration::from_millis(2);
/// L in ticks.
const LEASE: u32 = 3;
/// A message arrives within so many ticks, or never.
const DELAY_MAX: u8 = 2;
/// What every clock shows at the beginning, in ticks.
const BOOT: u64 = 100;
const GROUP: GroupId = GroupId(7);
/// The property that no fault may break.
pub(crate) const S1: &str = "S1: one guard";
/// The property of which S1 is a consequence.
pub(crate) const S4: &str = "S4: a majority is bound";

/// How often what may happen at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Bounds {
    /// Ticks of true time.
    pub(crate) ticks: u8,
    /// The holder's pace in ticks; a holder that waits to open asks at every tick. With
    /// one, a lease that runs out leaves asks behind that could still be answered.
    pub(crate) heartbeat: u8,
    /// Messages in flight at once.
    pub(crate) in_flight: usize,
    /// To whom the group may be assigned, one bit for each node.
    pub(crate) holders: u8,
    /// Assignments after the first.
    pub(crate) proposals: u8,
    /// Elections after the first.
    pub(crate) elections: u8,
    /// Replications that end between cutting off and appending, or after one entry.
    pub(crate) cuts: u8,
    /// Releases.
    pub(crate) releases: u8,
    /// Restarts of a worker, with its mirror.
    pub(crate) workers: u8,
    /// Restarts of a daemon, without one.
    pub(crate) amnesias: u8,
    /// Messages that arrive twice.
    pub(crate) doubles: u8,
    /// Ticks gained or lost by a clock.
    pub(crate) skews: u8,
    /// Nodes that stand still, each for as long as it likes.
    pub(crate) freezes: u8,
}

/// The model: what is possible, and which rules are taken away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Small {
    /// How far it goes.
    pub(crate) bounds: Bounds,
    /// Rules taken away.
    pub(crate) faults: Faults,
}

/// One state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    left: Bounds,
    nodes: [Node; NODES],
    disks: Vec<Disk>,
    agreement: Agreement,
    /// In flight, in a fixed order: the network has none of its own.
    net: Vec<Letter>,
    /// The newest epoch under which a guard was opened, and where.
    newest: Epoch,
    opened_by: usize,
    /// A property that was seen broken in the last step.
    broken: Option<&'static str>,
}

/// One node with its kernel and clock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    machine: Machine,
    guard: Moment,
    clock: u64,
    incarnation: Incarnation,
    /// Stands still: serves no timer, reads no message.
    frozen: bool,
}

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Letter {
    from: usize,
    to: usize,
    /// For so many ticks it may still arrive.
    ticks: u8,
    message: Message,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A tick of true time.
    Tick,
    /// The same, but this node's clock goes on by so many ticks.
    Skewed(usize, u64),
    /// A node stands still, or goes on.
    Freeze(usize, bool),
    /// A message arrives.
    Arrive(usize),
    /// It arrives, and stays in flight.
    Double(usize),
    /// It is lost.
    Drop(usize),
    /// A node is elected by itself and another.
    Elect(usize, usize),
    /// The newest leader assigns the group.
    Propose(usize),
    /// It brings a follower up to date.
    Replicate(usize, Extent),
    /// A node is asked to give back.
    Release(usize),
    /// Its worker starts anew, from the mirror.
    Worker(usize),
    /// Its daemon starts anew, without one.
    Amnesia(usize),
}

fn id(node: usize) -> NodeId {
    NodeId(node as u64)
}

/// A message without what no promise or lease depends on, so that states that differ in
/// nothing else are one.
fn plain(message: Message) -> Message {
    match message {
        Message::Renew(renew) => Message::Renew(Renew { proven: 0, ..renew }),
        Message::Answer(_) | Message::Standing(_) | Message::Released(_) => message,
    }
}

fn moment(ticks: u64) -> Moment {
    Moment::ZERO + TICK * u32::try_from(ticks).expect("few ticks")
}

impl Node {
    fn now(&self) -> Moment {
        moment(self.clock)
    }

    fn open(&self) -> bool {
        self.now() < self.guard
    }

    fn life(&self) -> Life {
        Life {
            incarnation: self.incarnation,
            seq_base: self.now().as_nanos(),
        }
    }
}

impl Small {
    fn settings(&self, node: usize) -> Settings {
        Settings {
            me: id(node),
            voters: (0..NODES).map(id).collect(),
            membership: 1,
            lease: TICK * LEASE,
            heartbeat: TICK * u32::from(self.bounds.heartbeat),
            lease_max: TICK * LEASE,
            prepared: std::collections::BTreeSet::new(),
            faults: self.faults,
        }
    }

    /// The first assignment is agreed upon and opened.
    fn begin(&self) -> State {
        let nodes = core::array::from_fn(|n| {
            let incarnation = Incarnation {
                counter: 1,
                nonce: n as u64,
            };
            let life = Life {
                incarnation,
                seq_base: 0,
            };
            let machine = Machine::new(moment(BOOT), self.settings(n), life, Start::Fresh);
            Node {
                machine,
                guard: Moment::ZERO,
                clock: BOOT,
                incarnation,
                frozen: false,
            }
        });
        let mut state = State {
            left: Bounds {
                in_flight: 16,
                ..self.bounds
            },
            nodes,
            disks: vec![Disk::default(); NODES],
            agreement: Agreement::new(NODES),
            net: Vec::new(),
            newest: Epoch::NONE,
            opened_by: 0,
            broken: None,
        };
        state.agreement.elect(&mut state.disks, 2, &[0, 1, 2]);
        state.propose(0);
        for follower in [0, 1, 0, 1] {
            state.replicate(follower, Extent::Whole);
        }
        while !state.net.is_empty() {
            state.arrive(0);
        }
        state.left.in_flight = self.bounds.in_flight;
        assert!(state.nodes[0].open(), "node 0 holds");
        state
    }
}

impl State {
    // ---- time and network -------------------------------------------------------

    fn tick(&mut self, skewed: Option<(usize, u64)>) {
        self.left.ticks -= 1;
        self.net.retain(|letter| letter.ticks > 0);
        self.net.iter_mut().for_each(|letter| letter.ticks -= 1);
        self.net.sort_unstable();
        for n in 0..NODES {
            self.nodes[n].clock += match skewed {
                Some((which, ticks)) if which == n => ticks,
                Some(_) | None => 1,
            };
            self.serve(n);
        }
    }

    /// A node that moves serves its timers.
    fn serve(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if !node.frozen {
            let now = node.now();
            node.machine.tick(now);
            self.carry_out(n);
        }
    }

    fn arrive(&mut self, at: usize) {
        let letter = self.net.remove(at);
        self.hand_over(&letter);
    }

    fn hand_over(&mut self, letter: &Letter) {
        let node = &mut self.nodes[letter.to];
        let now = node.now();
        node.machine.receive(now, id(letter.from), letter.message);
        self.carry_out(letter.to);
    }

    fn carry_out(&mut self, n: usize) {
        while let Some(output) = self.nodes[n].machine.poll() {
            match output {
                Output::Transmit { to, message } => {
                    let to = usize::try_from(to.0).expect("a node");
                    if self.net.len() < self.left.in_flight {
                        let letter = Letter {
                            from: n,
                            to,
                            ticks: DELAY_MAX,
                            message: plain(message),
                        };
                        let at = self.net.binary_search(&letter).unwrap_or_else(|at| at);
                        self.net.insert(at, letter);
                    }
                }
                Output::Extend(lease) => {
                    self.nodes[n].guard = lease.until();
                    if lease.epoch() < self.newest {
                        self.broken = Some("S2");
                    }
                    if lease.epoch() > self.newest {
                        self.newest = lease.epoch();
                        self.opened_by = n;
                    }
                    if n != self.opened_by {
                        self.broken = Some("S2");
                    }
                }
                Output::Close { .. } => self.nodes[n].guard = Moment::ZERO,
                // The mirror is always what the machine knows: restarts are between
                // steps here. (The random search restarts within them too.)
                Output::Mirror(_) | Output::Event(_) => {}
            }
        }
    }

    // ---- agreement --------------------------------------------------------------

    fn told(&mut self, n: usize, told: impl IntoIterator<Item = Told>) {
        for told in told {
            let node = &mut self.nodes[n];
            let now = node.now();
            let before = node.machine.status(GROUP).floor.map(|floor| floor.epoch);
            match told {
                Told::Appended(assignment) => node.machine.floor_raised(now, &assignment),
                Told::Truncated(epoch, back) => {
                    node.machine.truncated(now, GROUP, epoch, back.as_ref());
                }
                Told::Committed(epoch) => node.machine.committed(now, GROUP, epoch),
            }
            if node.machine.status(GROUP).floor.map(|floor| floor.epoch) < before {
                self.broken = Some("S2");
            }
            self.carry_out(n);
        }
    }

    fn propose(&mut self, holder: usize) {
        let Some((term, leader)) = self.agreement.newest() else {
            return;
        };
        let incarnation = self.nodes[holder].incarnation;
        let told = self
            .agreement
            .propose(&mut self.disks, term, |epoch| Assignment {
                group: GROUP,
                epoch,
                holder: id(holder),
                incarnation,
            });
        self.told(leader, told);
    }

    fn replicate(&mut self, follower: usize, extent: Extent) {
        let Some((term, leader)) = self.agreement.newest() else {
            return;
        };
        let (told, leader_told) = self
            .agreement
            .replicate(&mut self.disks, term, follower, extent);
        self.told(follower, told);
        self.told(leader, leader_told);
    }

    // ---- restarts ---------------------------------------------------------------

    fn restart(&mut self, n: usize, faults: Faults, remembers: bool) {
        self.agreement.forget(n);
        let node = &mut self.nodes[n];
        let settings = node.machine.settings().clone();
        let start = if remembers {
            Start::Mirrored(node.machine.mirror())
        } else {
            node.incarnation.counter += 1;
            Start::Amnesiac {
                quiet_for: settings.lease_max,
            }
        };
        node.machine = Machine::new(node.now(), settings, node.life(), start);
        self.carry_out(n);
        let disk = &self.disks[n];
        let in_log = disk.assignment_within(disk.entries.len());
        let floor = if faults.floor_follows_log {
            in_log
        } else {
            disk.floor
        };
        self.told(n, floor.map(Told::Appended));
    }

    // ---- properties -------------------------------------------------------------

    /// S1: two guards open at one instant.
    fn two_open(&self) -> bool {
        self.nodes.iter().filter(|node| node.open()).count() > 1
    }

    /// S4, in its strongest form: as long as a guard is open, a majority of voters is
    /// bound for at least as long, by a promise to its node or by silence.
    fn unproven(&self) -> bool {
        (0..NODES).filter(|n| self.nodes[*n].open()).any(|n| {
            let rest = self.nodes[n].now().until(self.nodes[n].guard);
            let bound = self.nodes.iter().filter(|voter| voter.bound_to(n) >= rest);
            bound.count() < 2
        })
    }
}

impl Node {
    /// How long this voter is bound not to help anybody but `holder`.
    fn bound_to(&self, holder: usize) -> Duration {
        let silence = self.now().until(self.machine.quiet_until());
        let promises = self.machine.record(GROUP).map(|record| record.promises);
        promises
            .iter()
            .flatten()
            .flatten()
            .filter(|promise| promise.to.node == id(holder))
            .map(|promise| self.now().until(promise.until))
            .max()
            .unwrap_or_default()
            .max(silence)
    }
}

impl Model for Small {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.begin()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let left = &state.left;
        if state.broken.is_some() {
            return;
        }
        if left.ticks > 0 {
            actions.push(Action::Tick);
            if left.skews > 0 {
                actions.extend((0..NODES).flat_map(|n| [0, 2].map(|t| Action::Skewed(n, t))));
            }
        }
        let full = state.net.len() >= left.in_flight;
        for at in 0..state.net.len() {
            if at > 0 && state.net[at] == state.net[at - 1] {
                continue;
            }
            if full {
                actions.push(Action::Drop(at));
            }
            if state.nodes[state.net[at].to].frozen {
                continue;
            }
            actions.push(Action::Arrive(at));
            if left.doubles > 0 {
                actions.push(Action::Double(at));
            }
        }
        for n in 0..NODES {
            let node = &state.nodes[n];
            if node.frozen {
                actions.push(Action::Freeze(n, false));
                continue;
            }
            if left.freezes > 0 {
                actions.push(Action::Freeze(n, true));
            }
            if left.releases > 0 && node.machine.status(GROUP).held.is_some() {
                actions.push(Action::Release(n));
            }
            if left.workers > 0 {
                actions.push(Action::Worker(n));
            }
            if left.amnesias > 0 {
                actions.push(Action::Amnesia(n));
            }
            if left.proposals > 0 && left.holders & (1 << n) != 0 {
                actions.push(Action::Propose(n));
            }
            if left.elections > 0 {
                let others = (0..NODES).filter(|other| *other != n);
                actions.extend(others.map(|other| Action::Elect(n, other)));
            }
            actions.push(Action::Replicate(n, Extent::Whole));
            if left.cuts > 0 {
                actions.push(Action::Replicate(n, Extent::CutOnly));
                actions.push(Action::Replicate(n, Extent::OneEntry));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => state.tick(None),
            Action::Skewed(node, ticks) => {
                state.left.skews -= 1;
                state.tick(Some((node, ticks)));
            }
            Action::Freeze(n, frozen) => {
                state.left.freezes -= u8::from(frozen);
                state.nodes[n].frozen = frozen;
                state.serve(n);
            }
            Action::Arrive(at) => state.arrive(at),
            Action::Double(at) => {
                state.left.doubles -= 1;
                let letter = state.net[at];
                state.hand_over(&letter);
            }
            Action::Drop(at) => {
                state.net.remove(at);
            }
            Action::Elect(candidate, other) => {
                state.left.elections -= 1;
                let electors = [candidate, other];
                if !state
                    .agreement
                    .elect(&mut state.disks, candidate, &electors)
                {
                    return None;
                }
            }
            Action::Propose(holder) => {
                state.left.proposals -= 1;
                state.propose(holder);
            }
            Action::Replicate(follower, extent) => {
                let (_, leader) = state.agreement.newest()?;
                if follower == leader {
                    return None;
                }
                state.replicate(follower, extent);
                if (&state.disks, &state.agreement) == (&last.disks, &last.agreement) {
                    return None;
                }
                if extent != Extent::Whole {
                    state.left.cuts -= 1;
                }
            }
            Action::Release(n) => {
                state.left.releases -= 1;
                let now = state.nodes[n].now();
                state.nodes[n].machine.release(now, GROUP);
                state.carry_out(n);
            }
            Action::Worker(n) => {
                state.left.workers -= 1;
                state.restart(n, self.faults, true);
            }
            Action::Amnesia(n) => {
                state.left.amnesias -= 1;
                state.restart(n, self.faults, false);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(S1, |_, state: &State| !state.two_open()),
            Property::always("S2: epochs grow", |_, state: &State| {
                state.broken != Some("S2")
            }),
            Property::always(S4, |_, state: &State| !state.unproven()),
            Property::sometimes("another node opens", |_, state: &State| {
                state.opened_by != 0 && state.nodes[state.opened_by].open()
            }),
        ]
    }
}
