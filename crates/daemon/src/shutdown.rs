//! The end of the daemon, and of the machine that it runs on: how long handing over may take,
//! and a shutdown that waits for it.
//!
//! | heard                      | what is done                                                    |
//! |----------------------------|-----------------------------------------------------------------|
//! | the machine is going down  | the groups are handed over as planned; the process goes on      |
//! | nothing is held, nothing runs here | the lock is given back: the shutdown goes on, and ends us |
//! | its time is over           | the same                                                        |
//! | it does not go down        | this node takes part again, and asks for the lock again         |
//! | SIGTERM                    | what is left is handed over, then the process ends (`decision`) |
//!
//! Without systemd-logind a shutdown is heard of by SIGTERM alone, like everything else on the
//! machine: what the group serves may be gone before the group is.

use std::time::Duration;

use evenkeel_config::Config;
use evenkeel_core::Moment;
use evenkeel_core::node::Event;
use evenkeel_host::clock;
use evenkeel_host::logind::{Lock, Logind, Seen, system_bus};
use tokio::sync::{mpsc, watch};

use crate::decision::{Brought, Driver};
use crate::services::stop_max;

/// How long a node that was told to stop tries to hand its groups over, beside the time that
/// requests in flight get.
pub(crate) const HANDOVER_MAX: Duration = Duration::from_secs(5);
/// What a worker may need after that: its addresses leave (2 s), it passes on those who come
/// late (1 s), its log is closed.
const ENDING_MAX: Duration = Duration::from_secs(10);
/// The least that a worker gets until it is ended: an overloaded machine is slow at everything.
const STOP_PATIENCE_MIN: Duration = Duration::from_secs(30);
/// What a planned move takes beside the time for requests in flight, with room to spare.
const MOVE_MARGIN: Duration = Duration::from_secs(1);
/// How long a machine that was going down is believed to be when nobody can be asked any more:
/// longer than services take to end.
const UNKNOWN_MAX: Duration = Duration::from_secs(120);

/// How long a worker with this configuration may take from SIGTERM to its end. The parent ends
/// it then, and lets the service manager wait for a little longer.
pub(crate) fn stop_patience(config: &Config) -> Duration {
    let groups = config.topology.groups.values();
    let drains = groups.map(evenkeel_core::topology::Group::departure_max);
    let drain = drains.max().unwrap_or_default();
    let services = stop_max(config.hosted.values());
    (HANDOVER_MAX + drain + services + ENDING_MAX).max(STOP_PATIENCE_MIN)
}

/// What people should know if a shutdown waits for less time than handing over may take.
pub(crate) fn too_short(delay: Duration, drain: Duration) -> Option<String> {
    let needed = drain + MOVE_MARGIN;
    (delay < needed).then(|| {
        format!(
            "a shutdown or reboot of this machine waits {} s at most, and handing over may take \
             {} s (the longest drain, and the move): set InhibitDelayMaxSec={} in \
             /etc/systemd/logind.conf.d/evenkeel.conf and restart systemd-logind, or run \
             `evenkeel drain` before",
            delay.as_secs_f64(),
            needed.as_secs_f64(),
            needed.as_secs_f64().ceil()
        )
    })
}

/// What is known of a shutdown of the machine.
pub struct Shutdown {
    /// A witness holds nothing, and keeps nobody waiting.
    logind: Option<Logind>,
    /// The machine has been going down since then.
    since: Option<Moment>,
    /// Nobody can be asked since then.
    unknown: Option<Moment>,
    /// How long a shutdown waits at most.
    delay: Option<Duration>,
    /// The last thing that was said of the lock.
    said: Option<String>,
}

/// What the machine's word changes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The groups are handed over.
    Down,
    /// This node takes part again, and asks for the lock again.
    Up,
}

/// How it is heard of.
pub struct Machine(Option<watch::Receiver<Seen>>);

impl Shutdown {
    /// Starts to listen, on a node that may hold groups. Within a runtime, on which the
    /// questions are asked.
    pub fn start(hosts: bool) -> (Self, Machine) {
        let logind = hosts.then(|| {
            let why = "groups are handed over to other nodes first";
            Logind::start(&system_bus(), "evenkeel", why)
        });
        let machine = Machine(logind.as_ref().map(Logind::seen));
        let shutdown = Self {
            logind,
            since: None,
            unknown: None,
            delay: None,
            said: None,
        };
        (shutdown, machine)
    }

    /// Asks for the lock, or gives it back.
    fn hold(&self, wanted: bool) {
        if let Some(logind) = &self.logind {
            logind.hold(wanted);
        }
    }

    /// What follows from the machine's word that it is going down or is not, if that is news.
    fn turn(&mut self, now: Moment, preparing: bool) -> Option<Turn> {
        match (preparing, self.since) {
            (true, None) => {
                self.since = Some(now);
                Some(Turn::Down)
            }
            (false, Some(_)) => {
                self.since = None;
                Some(Turn::Up)
            }
            (true, Some(_)) | (false, None) => None,
        }
    }

    /// Whether it was going down so long ago, and nobody can be asked since, that it is not any
    /// more: nothing may wait for a person for ever.
    fn is_forgotten(&self, now: Moment) -> bool {
        let lost = self.unknown.filter(|_| self.since.is_some());
        lost.is_some_and(|lost| now.since(lost) >= UNKNOWN_MAX)
    }

    /// Says how it stands with the lock, once.
    fn say(&mut self, text: String) {
        if self.said.as_ref() != Some(&text) {
            tracing::info!("{text}");
            self.said = Some(text);
        }
    }
}

impl Machine {
    /// The next news. Loses nothing when it is dropped before that.
    pub async fn next(&mut self) -> Seen {
        if let Some(seen) = &mut self.0
            && seen.changed().await.is_ok()
        {
            return seen.borrow_and_update().clone();
        }
        std::future::pending().await
    }
}

impl Driver {
    /// How long a node that was told to stop tries to hand over.
    pub(crate) fn handover_patience(&self) -> Duration {
        HANDOVER_MAX + self.longest_drain()
    }

    /// What people should know of shutdowns.
    pub(crate) fn shutdown_advice(&self) -> Option<String> {
        let delay = self.shutdown.delay?;
        too_short(delay, self.longest_drain())
    }

    /// The machine has told something of a shutdown.
    pub(crate) fn machine(&mut self, seen: Seen, bring: &mpsc::Sender<Brought>) {
        match seen {
            Seen::Unknown(reason) => {
                self.shutdown.unknown.get_or_insert_with(clock::now);
                tracing::debug!(reason, "systemd-logind cannot be asked");
                self.shutdown.say(
                    "no systemd-logind to be asked: a shutdown of this machine does not wait until \
                     the groups are handed over"
                        .to_owned(),
                );
            }
            Seen::Known(told) => {
                self.shutdown.unknown = None;
                self.shutdown.delay = Some(told.delay);
                match told.lock {
                    Lock::Held => self.shutdown.say(format!(
                        "a shutdown of this machine waits until the groups are handed over, {} s at \
                         most",
                        told.delay.as_secs_f64()
                    )),
                    Lock::Refused(reason) if !told.preparing => self.shutdown.say(format!(
                        "systemd-logind does not let a shutdown of this machine wait: {reason}"
                    )),
                    Lock::Refused(_) | Lock::NotWanted => {}
                }
                self.going_down(told.preparing, bring);
            }
        }
    }

    fn going_down(&mut self, preparing: bool, bring: &mpsc::Sender<Brought>) {
        match self.shutdown.turn(clock::now(), preparing) {
            Some(Turn::Down) => {
                tracing::info!("this machine is going down: handing over");
                self.step(Event::Stop, bring);
            }
            Some(Turn::Up) => {
                tracing::info!("this machine does not go down after all: taking part again");
                if !self.told_to_stop() {
                    self.step(Event::Stay, bring);
                }
                self.shutdown.hold(true);
            }
            None => {}
        }
    }

    /// Lets a shutdown go on once nothing is held here, or its time is over.
    pub(crate) fn mind_shutdown(&mut self, bring: &mpsc::Sender<Brought>) {
        let Some(since) = self.shutdown.since else {
            return;
        };
        let now = clock::now();
        let over = self
            .shutdown
            .delay
            .is_some_and(|delay| now >= since + delay);
        // What runs here with the groups is stopped by us, in its order, and not by a shutdown.
        let rests = self.node.may_stop() && self.services_rest();
        if over || rests {
            self.shutdown.hold(false);
        }
        if self.shutdown.is_forgotten(now) {
            self.going_down(false, bring);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(drain: &str) -> Config {
        let text = format!(
            "cluster = \"shop\"\n[node.a]\naddress = \"192.0.2.1:7946\"\n[node.b]\naddress = \
             \"192.0.2.2:7946\"\n[group.www]\nnodes = [\"a\", \"b\"]\naddresses = \
             [\"192.0.2.9/24\"]\ndrain = \"{drain}\"\n"
        );
        evenkeel_config::parse(&text, "f").unwrap_or_else(|faults| panic!("{faults}"))
    }

    #[test]
    fn the_longest_drain_is_waited_for() {
        assert_eq!(stop_patience(&config("2s")), STOP_PATIENCE_MIN);
        let text = format!(
            "{}[group.www.service.web]\nunit = \"web.service\"\nstop_timeout = \"70s\"\n",
            config("2s").text()
        );
        let hosts = evenkeel_config::parse(&text, "f").unwrap_or_else(|faults| panic!("{faults}"));
        assert!(stop_patience(&hosts) > Duration::from_secs(77));
        for seconds in [30, 600] {
            let drain = Duration::from_secs(seconds);
            let patience = stop_patience(&config(&format!("{seconds}s")));
            assert!(patience > drain + HANDOVER_MAX, "{patience:?}");
        }
    }

    #[test]
    fn a_shutdown_that_is_called_off_or_not_heard_of_any_more_is_over() {
        let at = |seconds: u64| Moment::from_nanos(seconds * 1_000_000_000);
        let (mut shutdown, _) = Shutdown::start(false);
        assert_eq!(shutdown.turn(at(1), false), None, "as ever");
        assert_eq!(shutdown.turn(at(2), true), Some(Turn::Down));
        assert_eq!(shutdown.turn(at(3), true), None, "it is known");
        assert_eq!(shutdown.turn(at(4), false), Some(Turn::Up), "called off");
        assert_eq!(shutdown.turn(at(5), true), Some(Turn::Down), "and another");
        shutdown.unknown = Some(at(6));
        assert!(!shutdown.is_forgotten(at(6)));
        assert!(shutdown.is_forgotten(at(6) + UNKNOWN_MAX));
        assert_eq!(shutdown.turn(at(130), false), Some(Turn::Up));
        assert!(!shutdown.is_forgotten(at(131) + UNKNOWN_MAX));
    }

    #[test]
    fn a_delay_that_is_too_short_is_told_with_what_to_set() {
        let s = Duration::from_secs;
        assert_eq!(too_short(s(5), s(2)), None);
        let said = too_short(s(5), s(8)).expect("too short");
        assert!(said.contains("InhibitDelayMaxSec=9 "), "{said}");
        assert!(said.contains("waits 5 s"), "{said}");
    }
}
