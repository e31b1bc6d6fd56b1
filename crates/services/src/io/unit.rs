//! A unit of systemd as a service.

use std::time::Duration;

use evenkeel_config::ServiceSpec;
use evenkeel_host::systemd::{Running, Seen as Known, Systemd, SystemdError, Unit as State};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::service::Driver;
use crate::machine::{Seen, StopOutcome};

/// How long the processes of a unit have after SIGTERM, and then after SIGKILL. The second
/// is the kernel's and systemd's own time.
const AFTER_SIGNAL: Duration = Duration::from_secs(2);

/// How soon a bus that was lost during a start is asked what came of it.
const ASK_AGAIN: Duration = Duration::from_millis(100);

const TERM: i32 = 15;
const KILL: i32 = 9;

pub(super) struct Unit {
    systemd: Systemd,
    unit: String,
    start_timeout: Duration,
    stop_timeout: Duration,
    watch: watch::Receiver<Known>,
    /// To be told whatever it is.
    anew: bool,
}

impl Unit {
    pub(super) fn new(systemd: &Systemd, unit: &str, spec: &ServiceSpec) -> Self {
        Self {
            systemd: systemd.clone(),
            unit: unit.to_owned(),
            start_timeout: spec.start_timeout,
            stop_timeout: spec.stop_timeout,
            watch: systemd.watch(unit),
            anew: true,
        }
    }

    /// Only to be stopped.
    pub(super) fn to_stop(systemd: &Systemd, unit: &str, stop_timeout: Duration) -> Self {
        Self {
            systemd: systemd.clone(),
            unit: unit.to_owned(),
            start_timeout: Duration::ZERO,
            stop_timeout,
            watch: systemd.watch(unit),
            anew: true,
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
        let asked = timeout(self.stop_timeout, self.systemd.stop_unit(unit)).await;
        let why = match asked {
            Ok(Ok(())) => return StopOutcome::Clean,
            Ok(Err(error)) => format!("failed to {error}"),
            Err(_) => format!("{unit} was not down within {:?}", self.stop_timeout),
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
        loop {
            if !self.anew && self.watch.changed().await.is_err() {
                return std::future::pending().await;
            }
            // Dropped while it asks, it has to ask again.
            self.anew = true;
            let found = match self.systemd.look(&self.unit).await {
                Ok(state) => seen(&state),
                Err(error) => {
                    sleep(ASK_AGAIN).await;
                    Some((Seen::Unknown, format!("failed to {error}")))
                }
            };
            self.watch.borrow_and_update();
            self.anew = false;
            if let Some(found) = found {
                return found;
            }
        }
    }

    fn look_anew(&mut self) {
        self.anew = true;
    }
}
