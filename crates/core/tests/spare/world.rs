//! The real decision machines of five nodes, with agreement and leases that are simple and
//! never fail: a majority of the nodes lives at all times.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use evenkeel_core::command::Command;
use evenkeel_core::health::{CheckState, Silence, Standing};
use evenkeel_core::ledger::Ledger;
use evenkeel_core::maintenance::Ask;
use evenkeel_core::node::{Act, Event, Node, Start};
use evenkeel_core::policy::Wish;
use evenkeel_core::standby;
use evenkeel_core::{Epoch, GroupId, Incarnation, Moment, NodeId};

use crate::place::{GROUPS, NODES, check, group_id, id, number, topology};

/// Time from a proposal to its agreement.
const AGREEMENT: Duration = Duration::from_millis(20);
/// Time from the death of a leader to the next one.
pub const ELECTION: Duration = Duration::from_millis(300);
/// Time from an assignment to the opening, when the old holder is dead.
const LEASE: Duration = Duration::from_millis(150);
/// Steps of time right after something happened, and later: reports are fresh for 700 ms.
const FINE: Duration = Duration::from_millis(100);
const COARSE: Duration = Duration::from_millis(500);
/// How long time passes in fine steps after something happened.
const LIVELY: Duration = Duration::from_millis(2500);
/// How often a check is asked.
const ASKED: Duration = Duration::from_secs(1);
/// More events than this in one step are a storm.
const EVENTS_MAX: usize = 20_000;

/// One machine.
struct Machine {
    node: Option<Node>,
    life: Incarnation,
    died: Moment,
    asked: Moment,
    /// Groups whose service fails here.
    sick: [bool; GROUPS.len()],
}

struct Proposal {
    due: Moment,
    from: usize,
    life: Incarnation,
    /// The term in which it was proposed.
    term: u64,
    id: u64,
    command: Command,
}

struct Opening {
    due: Moment,
    node: usize,
    group: GroupId,
    epoch: Epoch,
}

pub struct World {
    pub now: Moment,
    machines: Vec<Machine>,
    log: Vec<(Epoch, Command)>,
    ledger: Ledger,
    leader: Option<usize>,
    term: u64,
    elect: Option<(Moment, usize)>,
    proposals: Vec<Proposal>,
    openings: Vec<Opening>,
    events: VecDeque<(usize, Event)>,
    lively_until: Moment,
    pub replies: BTreeMap<u64, Result<String, String>>,
    next_id: u64,
    /// When each move was agreed on: group, from, to, cause.
    pub moves: Vec<(Moment, usize, Option<usize>, usize, &'static str)>,
}

impl World {
    pub fn new() -> Self {
        let now = Moment::from_nanos(1_000_000_000_000);
        let machine = |_| Machine {
            node: None,
            life: Incarnation {
                counter: 0,
                nonce: 7,
            },
            died: now,
            asked: Moment::ZERO,
            sick: [false; GROUPS.len()],
        };
        let mut world = Self {
            now,
            machines: (0..NODES.len()).map(machine).collect(),
            log: Vec::new(),
            ledger: Ledger::default(),
            leader: None,
            term: 0,
            elect: None,
            proposals: Vec::new(),
            openings: Vec::new(),
            events: VecDeque::new(),
            lively_until: now + LIVELY,
            replies: BTreeMap::new(),
            next_id: 0,
            moves: Vec::new(),
        };
        (0..NODES.len()).for_each(|node| world.boot(node));
        world.lead(NODES.len() - 1);
        world.pass(Duration::from_secs(5));
        world
    }

    pub fn alive(&self, node: usize) -> bool {
        self.machines[node].node.is_some()
    }

    fn living(&self) -> Vec<usize> {
        let nodes = 0..NODES.len();
        nodes.filter(|node| self.alive(*node)).collect()
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn leader(&self) -> Option<usize> {
        self.leader
    }

    /// The machine of a node.
    pub fn node(&self, node: usize) -> &Node {
        self.machines[node].node.as_ref().expect("alive")
    }

    /// Nothing is on its way.
    pub fn is_calm(&self) -> bool {
        self.elect.is_none() && self.proposals.is_empty() && self.openings.is_empty()
    }

    /// Who holds a group, if it is open there.
    pub fn serving(&self, group: usize) -> Option<usize> {
        let current = self.ledger.current(group_id(group))?;
        let holder = number(current.assign.holder);
        let role = self.machines[holder].node.as_ref()?.role(group_id(group))?;
        (role.standing() == Standing::Open && role.epoch() == current.epoch).then_some(holder)
    }

    /// What a node says of another as a standby.
    pub fn why(&self, by: usize, group: usize, of: usize) -> String {
        let node = self.machines[by].node.as_ref().expect("alive");
        let topology = node.topology();
        let judged = standby::judge(
            self.now,
            node.ledger(),
            node.view(),
            node.wellness(),
            &topology.groups[&group_id(group)],
            id(of),
        );
        judged.why
    }

    // What happens to the machines.

    pub fn boot(&mut self, node: usize) {
        self.lively_until = self.now + LIVELY;
        let machine = &mut self.machines[node];
        assert!(machine.node.is_none(), "it runs");
        machine.life.counter += 1;
        let start = Start {
            me: id(node),
            incarnation: machine.life,
            topology: topology(),
            config_digest: 1,
            ledger: Some(self.ledger.clone()),
            had: BTreeMap::new(),
            first_seq: self.now.as_nanos(),
        };
        machine.node = Some(Node::new(self.now, start));
        machine.asked = Moment::ZERO;
        self.events.push_back((node, Event::Votes(true)));
        self.events.push_back((node, Event::Guard { full: true }));
        let leader = self.leader.map(id);
        self.events.push_back((node, Event::Leader { leader }));
        self.ask_checks(node);
        // Its checks have answered by the time that it is ready.
        for group in (0..GROUPS.len()).map(group_id) {
            let unready = None;
            self.events
                .push_back((node, Event::Readiness { group, unready }));
        }
        self.settle();
    }

    pub fn die(&mut self, node: usize) {
        self.lively_until = self.now + LIVELY;
        let machine = &mut self.machines[node];
        machine.node = None;
        machine.died = self.now;
        self.openings.retain(|one| one.node != node);
        if self.leader == Some(node) {
            self.leader = None;
            let next = (0..NODES.len()).rev().find(|node| self.alive(*node));
            self.elect = next.map(|next| (self.now + ELECTION, next));
        }
    }

    pub fn stop(&mut self, node: usize) {
        self.give(node, Event::Stop);
    }

    pub fn service(&mut self, node: usize, group: usize, sick: bool) {
        self.lively_until = self.now + LIVELY;
        self.machines[node].sick[group] = sick;
        self.ask_checks(node);
        self.settle();
    }

    pub fn maintain(&mut self, ask: Ask) -> u64 {
        let id = self.fresh();
        self.give_leader(Event::Maintain { id, ask });
        id
    }

    pub fn switch(&mut self, group: usize, to: usize) -> u64 {
        let id = self.fresh();
        let wish = Wish {
            group: group_id(group),
            to: Some(crate::place::id(to)),
            force: false,
        };
        self.give_leader(Event::Wish { id, wish });
        id
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn give_leader(&mut self, event: Event) {
        let leader = self.leader.expect("somebody leads");
        self.give(leader, event);
    }

    pub fn give(&mut self, node: usize, event: Event) {
        self.lively_until = self.now + LIVELY;
        self.events.push_back((node, event));
        self.settle();
    }

    // Time.

    pub fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            let step = match self.now < self.lively_until {
                true => FINE,
                false => COARSE,
            };
            self.now = (self.now + step).min(until);
            self.tick();
        }
    }

    pub fn pass_to(&mut self, ms: u64) {
        let until = Moment::from_nanos(ms * 1_000_000);
        assert!(self.now <= until, "time goes on");
        self.pass(self.now.until(until));
    }

    fn tick(&mut self) {
        if let Some((_, next)) = self.elect.take_if(|(due, _)| *due <= self.now) {
            let any = (0..NODES.len()).find(|node| self.alive(*node));
            let next = Some(next).filter(|next| self.alive(*next)).or(any);
            self.lead(next.expect("a majority lives"));
        }
        for node in 0..NODES.len() {
            if self.alive(node) {
                if self.now.since(self.machines[node].asked) >= ASKED {
                    self.ask_checks(node);
                }
                let silences = Event::Silences(self.silences());
                self.events.push_back((node, silences));
                self.events.push_back((node, Event::Tick));
                self.settle();
            }
        }
        self.agree();
        self.open();
    }

    fn lead(&mut self, node: usize) {
        self.leader = Some(node);
        self.term += 1;
        let leader = Some(id(node));
        for node in self.living() {
            self.events.push_back((node, Event::Leader { leader }));
        }
        self.settle();
    }

    fn ask_checks(&mut self, node: usize) {
        self.machines[node].asked = self.now;
        if !self.alive(node) {
            return;
        }
        for (number, (_, nodes, _)) in GROUPS.iter().enumerate() {
            if !nodes.contains(&node) {
                continue;
            }
            let state = match self.machines[node].sick[number] {
                true => CheckState::Failing,
                false => CheckState::Ok,
            };
            let verdict = Event::Verdict {
                group: group_id(number),
                check: check(),
                judged: id(node),
                state,
                at: self.now,
                silent_since: None,
                detail: "as the test says".to_owned(),
                measures: Vec::new(),
            };
            self.events.push_back((node, verdict));
        }
    }

    /// What every voter hears of holders whose life is over.
    fn silences(&self) -> Vec<Silence> {
        let current = self.ledger.groups.values();
        let current = current.filter_map(|record| record.current.as_ref());
        let gone = current.filter(|current| {
            let machine = &self.machines[number(current.assign.holder)];
            machine.node.is_none() || machine.life != current.assign.incarnation
        });
        gone.map(|current| {
            let unheard = self
                .now
                .since(self.machines[number(current.assign.holder)].died);
            Silence {
                group: current.assign.group,
                epoch: current.epoch,
                unheard,
                standing: Some(unheard),
            }
        })
        .collect()
    }

    // What the nodes want.

    fn settle(&mut self) {
        let mut count = 0;
        while let Some((to, event)) = self.events.pop_front() {
            count += 1;
            assert!(count < EVENTS_MAX, "a storm of events: {event:?}");
            let Some(node) = self.machines[to].node.as_mut() else {
                continue;
            };
            node.step(self.now, event, self.now.as_nanos() / 1_000_000);
            let acts: Vec<Act> = std::iter::from_fn(|| node.poll()).collect();
            acts.into_iter().for_each(|act| self.act(to, act));
        }
    }

    fn act(&mut self, from: usize, act: Act) {
        match act {
            Act::Propose { id, command } => {
                self.lively_until = self.now + LIVELY;
                self.proposals.push(Proposal {
                    due: self.now + AGREEMENT,
                    from,
                    life: self.machines[from].life,
                    term: self.term,
                    id,
                    command,
                });
            }
            Act::Tell(report) => {
                for to in (0..NODES.len()).filter(|to| *to != from) {
                    let report = report.clone();
                    let from = id(from);
                    self.events
                        .push_back((to, Event::Reported { from, report }));
                }
            }
            Act::Reply { id, outcome } => {
                self.replies.insert(id, outcome);
            }
            Act::Transfer { to } => {
                if self.leader == Some(from) {
                    self.elect = Some((self.now + AGREEMENT, number(to)));
                }
            }
            Act::Want { .. } | Act::Run { .. } | Act::Abandon { .. } | Act::Say(_) => {}
        }
    }

    fn agree(&mut self) {
        if self.leader.is_none() {
            return;
        }
        let (due, rest) = std::mem::take(&mut self.proposals)
            .into_iter()
            .partition(|one| one.due <= self.now);
        self.proposals = rest;
        let due: Vec<Proposal> = due;
        for one in due {
            let assigns = matches!(one.command, Command::Assign(_));
            if assigns && one.term != self.term {
                self.proposed(&one, Some("another leads".to_owned()));
                continue;
            }
            let index = self.log.len() as u64 + 1;
            let epoch = Epoch {
                term: self.term,
                index,
            };
            self.log.push((epoch, one.command.clone()));
            self.assigned(epoch, &one.command);
            self.ledger.apply(epoch, &one.command);
            for node in self.living() {
                let command = one.command.clone();
                self.events
                    .push_back((node, Event::Committed { epoch, command }));
            }
            self.proposed(&one, None);
        }
    }

    fn proposed(&mut self, one: &Proposal, failed: Option<String>) {
        let proposed = Event::Proposed { id: one.id, failed };
        if self.machines[one.from].life == one.life {
            self.events.push_back((one.from, proposed));
        }
        self.settle();
    }

    fn assigned(&mut self, epoch: Epoch, command: &Command) {
        let Command::Assign(assign) = command else {
            return;
        };
        self.lively_until = self.now + LIVELY;
        let held = self.ledger.current(assign.group);
        let from = held.map(|held| held.assign.holder);
        assert_eq!(assign.evidence.from, from, "the evidence names the holder");
        let to = number(assign.holder);
        let group = (0..GROUPS.len())
            .find(|group| group_id(*group) == assign.group)
            .expect("a group");
        self.moves.push((
            self.now,
            group,
            from.map(number),
            to,
            assign.evidence.cause.word(),
        ));
        self.openings.retain(|one| one.group != assign.group);
        if self.machines[to].life == assign.incarnation && self.alive(to) {
            let released = from.is_none_or(|from: NodeId| self.alive(number(from)));
            self.openings.push(Opening {
                due: self.now + if released { AGREEMENT } else { LEASE },
                node: to,
                group: assign.group,
                epoch,
            });
        }
    }

    fn open(&mut self) {
        let (due, rest): (Vec<Opening>, Vec<Opening>) = std::mem::take(&mut self.openings)
            .into_iter()
            .partition(|one| one.due <= self.now);
        self.openings = rest;
        for Opening {
            node, group, epoch, ..
        } in due
        {
            self.events
                .push_back((node, Event::Opened { group, epoch }));
            let told = Event::Phase {
                group,
                what: "announced".to_owned(),
                last: true,
            };
            self.events.push_back((node, told));
            self.settle();
        }
    }
}
