//! A unit of systemd as a service.

use std::time::Duration;

use evenkeel_config::ServiceSpec;
use evenkeel_host::systemd::{Running, Seen as Known, Systemd, SystemdError, Unit as State};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::service::Driver;
use crate::machine::{Seen, StopOutcome};

/// How long the processes of a unit have after SIGTERM, and then after SIGKILL. The second
/// is the kernel's and systemd's own time.
const AFTER_SIGNAL: Duration = Duration::from_secs(2);

/// How soon a bus that was lost during a start is asked what came of it.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How soon a stop that was not done is asked for again, and how seldom at the most.
const STOP_AGAIN_MIN: Duration = Duration::from_millis(100);
const STOP_AGAIN_MAX: Duration = Duration::from_secs(2);

/// How long after a question without an answer a unit is looked at again, should there be no
/// news of it. Longer than an answer that is merely late.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

const TERM: i32 = 15;
const KILL: i32 = 9;

pub(super) struct Unit {
    systemd: Systemd,
    unit: String,
    start_timeout: Duration,
    stop_timeout: Duration,
    looks: Looks,
}

impl Unit {
    pub(super) fn new(systemd: &Systemd, unit: &str, spec: &ServiceSpec) -> Self {
        Self {
            systemd: systemd.clone(),
            unit: unit.to_owned(),
            start_timeout: spec.start_timeout,
            stop_timeout: spec.stop_timeout,
            looks: Looks::new(systemd.watch(unit)),
        }
    }

    /// Only to be stopped.
    pub(super) fn to_stop(systemd: &Systemd, unit: &str, stop_timeout: Duration) -> Self {
        Self {
            systemd: systemd.clone(),
            unit: unit.to_owned(),
            start_timeout: Duration::ZERO,
            stop_timeout,
            looks: Looks::new(systemd.watch(unit)),
        }
    }

    /// Starts it and, if the bus is lost meanwhile, finds out what came of it.
    async fn start_it(&self) -> Result<(), String> {
        loop {
            let Err(error) = self.systemd.start_unit(&self.unit).await else {
                return Ok(());
            };
            if !matches!(error, SystemdError::Lost(_)) {
                return Err(match self.systemd.look(&self.unit).await {
                    Ok(unit) => format!("failed to {error} (it is {unit})"),
                    Err(_) => format!("failed to {error}"),
                });
            }
            sleep(ASK_AGAIN).await;
            if let Ok(unit) = self.systemd.look(&self.unit).await
                && unit.running() == Running::Up
            {
                return Ok(());
            }
        }
    }

    /// Has it stopped, within its time. A job that was lost with the bus, or ended by
    /// somebody's other order, is no reason for haste: it is asked for again.
    async fn stop_it(&self) -> Result<(), String> {
        let (unit, within) = (&self.unit, self.stop_timeout);
        let deadline = Instant::now() + within;
        let mut why = format!("{unit} was not down within {within:?}");
        let mut pause = STOP_AGAIN_MIN;
        let stopping = async {
            while let Err(error) = self.systemd.stop_unit(unit).await {
                if let Ok(state) = self.systemd.look(unit).await
                    && matches!(state.running(), Running::Down | Running::Missing)
                {
                    return;
                }
                why = format!("{unit} was not down within {within:?}; failed to {error}");
                sleep(pause).await;
                pause = (pause * 2).min(STOP_AGAIN_MAX);
            }
        };
        timeout_at(deadline, stopping).await.map_err(|_| why)
    }

    /// Waits until none of its processes is left.
    async fn down(&self, within: Duration) -> bool {
        let mut watch = self.systemd.watch(&self.unit);
        let down = watch.wait_for(|known| match known {
            Known::Known(unit) => matches!(unit.running(), Running::Down | Running::Missing),
            Known::Unknown(_) => false,
        });
        matches!(timeout(within, down).await, Ok(Ok(_)))
    }
}

/// A state that is news, with a word for people. Nothing while it is on its way.
fn seen(state: &State) -> Option<(Seen, String)> {
    let seen = match state.running() {
        Running::Up => Seen::Up,
        Running::Down => Seen::Down,
        Running::Missing => Seen::Missing,
        // It died, and systemd starts it again by itself: it does not serve.
        Running::Changing if state.restarts_by_itself() => Seen::Down,
        Running::Changing => return None,
    };
    let word = match seen {
        Seen::Missing => format!("the unit is {state}"),
        _ => format!("the unit became {state}"),
    };
    Some((seen, word))
}

impl Driver for Unit {
    async fn start(&mut self) -> Result<(), String> {
        let within = self.start_timeout;
        timeout(within, self.start_it())
            .await
            .unwrap_or_else(|_| Err(format!("{} was not up within {within:?}", self.unit)))
    }

    async fn stop(&mut self) -> StopOutcome {
        let unit = &self.unit;
        let Err(why) = self.stop_it().await else {
            return StopOutcome::Clean;
        };
        match self.systemd.look(unit).await {
            Ok(state) if matches!(state.running(), Running::Down | Running::Missing) => {
                return StopOutcome::Clean;
            }
            Ok(_) => {}
            Err(error) => {
                let reason = format!("{why}; failed to {error}");
                return StopOutcome::Failed { reason };
            }
        }
        for (signal, name) in [(TERM, "SIGTERM"), (KILL, "SIGKILL")] {
            // That there is nobody left to kill shows below.
            let _ = timeout(AFTER_SIGNAL, self.systemd.kill_unit(unit, signal)).await;
            if self.down(AFTER_SIGNAL).await {
                let how = format!("{why}; {name} to its control group ended it");
                return StopOutcome::Forced { how };
            }
        }
        StopOutcome::Failed {
            reason: format!("{why}; SIGKILL to its control group has not ended it yet"),
        }
    }

    async fn look(&mut self) -> (Seen, String) {
        let (systemd, unit) = (&self.systemd, &self.unit);
        self.looks.next(|| systemd.look(unit)).await
    }

    fn look_anew(&mut self) {
        self.looks.due = Due::Now;
    }
}

/// When a unit is looked at: at every news of it.
struct Looks {
    news: watch::Receiver<Known>,
    due: Due,
}

/// When it is looked at next.
enum Due {
    /// At once, whatever was seen before.
    Now,
    /// Before long even without news: what it became while nobody could be asked may have
    /// been the last.
    Soon,
    /// When there is news.
    AtNews,
}

impl Looks {
    fn new(news: watch::Receiver<Known>) -> Self {
        let due = Due::Now;
        Self { news, due }
    }

    /// What `ask` says when it is due, if it tells whether the unit runs.
    async fn next<F>(&mut self, ask: impl Fn() -> F) -> (Seen, String)
    where
        F: Future<Output = Result<State, SystemdError>>,
    {
        loop {
            let news = match self.due {
                Due::Now => Ok(()),
                Due::Soon => timeout(LOOK_AGAIN, self.news.changed())
                    .await
                    .unwrap_or(Ok(())),
                Due::AtNews => self.news.changed().await,
            };
            if news.is_err() {
                return std::future::pending().await;
            }
            // Dropped while it asks, it has to ask again; and what comes meanwhile is news.
            self.due = Due::Now;
            self.news.borrow_and_update();
            match ask().await {
                Ok(state) => {
                    self.due = Due::AtNews;
                    if let Some(found) = seen(&state) {
                        return found;
                    }
                }
                Err(error) => {
                    self.due = Due::Soon;
                    return (Seen::Unknown, format!("failed to {error}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: &str) -> State {
        State {
            load: "loaded".to_owned(),
            active: active.to_owned(),
            ..State::default()
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn what_a_unit_becomes_while_it_is_asked_for_is_seen_next() {
        let (tell, news) = watch::channel(Known::Known(unit("active")));
        let mut looks = Looks::new(news);
        runtime().block_on(async {
            let late = || {
                tell.send_replace(Known::Known(unit("inactive")));
                std::future::ready(Ok(unit("active")))
            };
            assert_eq!(looks.next(late).await.0, Seen::Up);
            let now = || std::future::ready(Ok(unit("inactive")));
            let next = timeout(LOOK_AGAIN, looks.next(now)).await;
            assert_eq!(next.expect("at once").0, Seen::Down);
        });
    }

    #[test]
    fn where_nobody_could_be_asked_it_is_asked_again_without_news() {
        let (_tell, news) = watch::channel(Known::Known(unit("active")));
        let mut looks = Looks::new(news);
        runtime().block_on(async {
            let lost = || std::future::ready(Err(SystemdError::Lost("it is away".to_owned())));
            assert_eq!(looks.next(lost).await.0, Seen::Unknown);
            let back = || std::future::ready(Ok(unit("active")));
            let next = timeout(LOOK_AGAIN * 5, looks.next(back)).await;
            assert_eq!(next.expect("soon").0, Seen::Up);
        });
    }
}
