//! The task of one probe: waits, feeds its machine, carries out what that says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::Moment;
use evenkeel_host::clock;
use evenkeel_host::listener::{Presence, Watch, diag};
use evenkeel_host::named::{self, Deaths};
use evenkeel_host::unit::{self, Falls};

use crate::io::http::Page;
use crate::io::smtp::Mail;
use crate::io::{self, Answer};
use crate::machine::{Effect, Event, Limits, Machine, Outcome, Veil};
use crate::outbox::Weight;
use crate::pending::{Asked, Pending};
use crate::probe::{
    Asker, Command, Dns, Measure, Millis, Phases, Probe, Resolved, State, Tcp, Verdict, bounded,
};
use crate::prober::Shared;

/// What is said of a check that rests.
const IDLE: &str = "not asked: its service is not meant to run here now";
/// Programs of one check that run at once at most: those that hang must not take all turns.
const PROGRAMS_MAX: u32 = 4;

/// Asks until it is aborted, the first time after `stagger`.
pub(crate) async fn run(shared: Arc<Shared>, probe: Probe, speaker: u64, stagger: Duration) {
    tokio::time::sleep(stagger).await;
    Asking::new(shared, probe, speaker).run().await;
}

/// What is said of a check that is not asked. Once: it does not become old.
pub(crate) fn idle(probe: &Probe) -> Verdict {
    let detail = IDLE.to_owned();
    verdict(probe, State::Idle, clock::now(), detail, Phases::default())
}

struct Asking {
    shared: Arc<Shared>,
    probe: Probe,
    speaker: u64,
    machine: Machine,
    question: Question,
    door: Option<Door>,
    /// The end of what it asks for.
    ends: Option<Ends>,
    /// It has answered well since this began.
    proven: bool,
    /// The newest thing that was learnt.
    text: String,
    phases: Phases,
    measures: Vec<Measure>,
}

/// A question made ready.
#[derive(Clone)]
enum Question {
    Ping {
        target: std::net::IpAddr,
        source: Option<std::net::IpAddr>,
    },
    Page(Arc<Page>),
    Tcp(Arc<Tcp>),
    Command(Arc<Command>),
    Process(Arc<named::Watch>),
    Unit(Arc<unit::Watch>),
    Dns(Arc<Dns>),
    Mail(Arc<Mail>),
    /// It can never be asked, for this reason.
    Never(Arc<str>),
}

/// Who tells, unasked, that what is asked for has ended.
enum Ends {
    Processes(Deaths),
    Unit(Falls),
}

/// The port where the judged service listens on this machine.
struct Door {
    target: SocketAddr,
    watch: Watch,
    presence: Presence,
}

impl Asking {
    fn new(shared: Arc<Shared>, probe: Probe, speaker: u64) -> Self {
        let mut ends = None;
        let question = match &probe.question {
            Resolved::Ping { target, source } => Question::Ping {
                target: *target,
                source: *source,
            },
            Resolved::Http(http) => match Page::new(http, probe.interval) {
                Ok(page) => Question::Page(Arc::new(page)),
                Err(why) => Question::Never(why.into()),
            },
            Resolved::Tcp(tcp) => Question::Tcp(Arc::new(tcp.clone())),
            Resolved::Command(command) => Question::Command(Arc::new(command.clone())),
            Resolved::Process(process) => {
                let (watch, told) = shared.names.watch(process.clone());
                ends = Some(Ends::Processes(told));
                Question::Process(Arc::new(watch))
            }
            Resolved::Unit(unit) => {
                let (watch, told) = unit::Watch::start(shared.systemd(), unit);
                ends = Some(Ends::Unit(told));
                Question::Unit(Arc::new(watch))
            }
            Resolved::Dns(dns) => Question::Dns(Arc::new(dns.clone())),
            Resolved::Smtp(smtp) => match Mail::new(smtp) {
                Ok(mail) => Question::Mail(Arc::new(mail)),
                Err(why) => Question::Never(why.into()),
            },
        };
        let door = target_of(&probe).and_then(|target| {
            Some(Door {
                target,
                watch: shared.watch(target)?,
                presence: Presence::Unseen,
            })
        });
        let machine = Machine::new(limits_of(&probe), clock::now());
        let machine = match &question {
            Question::Command(_) => machine.overlapping(probe.fall.min(PROGRAMS_MAX) as usize),
            _ => machine,
        };
        let text = "not answered yet".to_owned();
        Self {
            shared,
            probe,
            speaker,
            machine,
            question,
            door,
            ends,
            proven: false,
            text,
            phases: Phases::default(),
            measures: Vec::new(),
        }
    }

    async fn run(mut self) {
        let mut pending = Pending::default();
        loop {
            let wait = clock::now().until(self.machine.wake());
            // All arms are cancel-safe: what is not taken now is there the next time.
            let event = tokio::select! {
                biased;
                presence = changed(&mut self.door) => self.opened(presence),
                text = ended(&mut self.ends) => self.bereaved(text),
                (question, answer) = pending.next() => Some(self.answered(question, answer)),
                () = tokio::time::sleep(wait) => Some(Event::Woke),
            };
            let Some(event) = event else { continue };
            for effect in self.machine.step(clock::now(), event) {
                match effect {
                    Effect::Ask { question } => pending.push(question, self.ask()),
                    Effect::Change => self.tell(Weight::Change),
                    Effect::Refresh => self.tell(Weight::Refresh),
                }
            }
        }
    }

    /// Asks: each kind has a future of its own, because most are small and none is to pay for
    /// the largest.
    fn ask(&self) -> Asked {
        let within = self.probe.timeout;
        match self.question.clone() {
            Question::Ping { target, source } => {
                let shared = self.shared.clone();
                Box::pin(async move { shared.pingers.ask(target, source, within).await })
            }
            Question::Page(page) => Box::pin(async move { page.ask(within).await }),
            Question::Tcp(tcp) => Box::pin(async move { io::tcp::ask(&tcp, within).await }),
            Question::Command(command) => {
                let shared = self.shared.clone();
                Box::pin(async move { io::command::ask(&command, &shared.turns, within).await })
            }
            Question::Process(watch) => {
                Box::pin(async move { io::process::ask(&watch, within).await })
            }
            Question::Unit(watch) => Box::pin(async move { io::unit::ask(&watch, within).await }),
            Question::Dns(dns) => Box::pin(async move { io::dns::ask(&dns, within).await }),
            Question::Mail(mail) => Box::pin(async move { mail.ask(within).await }),
            Question::Never(why) => {
                let answer = Answer::new(Outcome::Unasked, format!("could not ask: {why}"));
                Box::pin(std::future::ready(answer))
            }
        }
    }

    /// What the newest state of the port means.
    fn opened(&mut self, presence: Presence) -> Option<Event> {
        let starting = self.is_starting();
        let door = self.door.as_mut()?;
        door.presence = presence;
        if starting || !matches!(door.presence, Presence::Gone { .. }) {
            return None;
        }
        self.text = door.deserted();
        self.phases = Phases::default();
        Some(Event::Deserted)
    }

    /// What the end of what is asked for means.
    fn bereaved(&mut self, text: String) -> Option<Event> {
        if self.is_starting() {
            return None;
        }
        self.text = text;
        self.phases = Phases::default();
        Some(Event::Deserted)
    }

    /// Whether what it asks for has just been started, by all that is known: then it may come and
    /// go, and only answers count, by `fall`.
    fn is_starting(&self) -> bool {
        self.probe.rests && !self.proven
    }

    /// What the end of a question means.
    fn answered(&mut self, question: u64, answer: Answer) -> Event {
        self.phases = answer.phases;
        self.text = answer.detail;
        self.proven |= answer.outcome == Outcome::Good;
        self.measures = answer.measures;
        let starting = self.is_starting();
        let door = self.door.as_ref();
        // A refusal may be a full queue; that nobody listens is what the kernel says.
        if let Some(door) = door.filter(|door| answer.refused && door.is_deserted()) {
            self.text = format!("connection refused, {}", door.deserted());
            if !starting {
                return Event::Deserted;
            }
        }
        if let Some(remark) = door.and_then(Door::remark) {
            self.text.push_str(&remark);
        }
        Event::Settled {
            question,
            outcome: answer.outcome,
        }
    }

    fn tell(&self, weight: Weight) {
        let state = self.machine.state();
        let detail = match self.machine.veil() {
            Veil::Late(late) => {
                format!("this prober ran {} ms late: {}", Millis(late), self.text)
            }
            Veil::None | Veil::Unasked => match self.machine.against() {
                (0, _) => self.text.clone(),
                (count, enough) if count >= enough => self.text.clone(),
                (count, enough) => format!("{}; {count} of {enough} in a row", self.text),
            },
        };
        let at = self.machine.confirmed();
        let mut verdict = verdict(&self.probe, state, at, bounded(&detail), self.phases);
        verdict.measures.clone_from(&self.measures);
        verdict.silent_since = self.machine.silent_since(clock::now());
        self.shared.outbox.put(self.speaker, weight, verdict);
    }
}

fn verdict(probe: &Probe, state: State, at: Moment, detail: String, phases: Phases) -> Verdict {
    Verdict {
        group: probe.group,
        check: probe.check.clone(),
        judged: probe.judged,
        state,
        at,
        silent_since: None,
        detail,
        phases,
        measures: Vec::new(),
        sequence: 0,
    }
}

fn limits_of(probe: &Probe) -> Limits {
    let Probe {
        interval,
        timeout,
        fall,
        rise,
        ..
    } = *probe;
    Limits {
        interval,
        timeout,
        fall,
        rise,
    }
}

/// Where to watch the listener, if that is wished and possible.
fn target_of(probe: &Probe) -> Option<SocketAddr> {
    let watched = probe.watch_listener && probe.role == Asker::Node;
    probe.question.connects_to().filter(|_| watched)
}

/// Waits for news of the port, if one is watched.
async fn changed(door: &mut Option<Door>) -> Presence {
    match door {
        Some(door) => door.watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of what is asked for, if somebody would tell, and says what people read.
async fn ended(ends: &mut Option<Ends>) -> String {
    match ends {
        Some(Ends::Processes(deaths)) => {
            format!("none runs since the death of {}", deaths.next().await)
        }
        Some(Ends::Unit(falls)) => io::unit::told(&falls.next().await),
        None => std::future::pending().await,
    }
}

impl Door {
    fn is_deserted(&self) -> bool {
        matches!(diag::listening(self.target), Ok(None))
    }

    fn deserted(&self) -> String {
        let target = self.target;
        match &self.presence {
            Presence::Gone {
                death_of: Some(holder),
                ..
            } => {
                format!("nobody listens on {target} since the death of {holder}")
            }
            Presence::Gone { death_of: None, .. } => {
                format!("nobody listens on {target} any more")
            }
            Presence::Unseen | Presence::Listening { .. } | Presence::Unknown { .. } => {
                format!("nobody listens on {target}")
            }
        }
    }

    /// What is worth saying about the watch itself.
    fn remark(&self) -> Option<String> {
        match &self.presence {
            Presence::Listening { by: None, .. } => {
                Some("; the process that listens cannot be seen".to_owned())
            }
            Presence::Unknown { reason } => Some(format!("; listener not watched: {reason}")),
            Presence::Listening { by: Some(_), .. } | Presence::Unseen | Presence::Gone { .. } => {
                None
            }
        }
    }
}
