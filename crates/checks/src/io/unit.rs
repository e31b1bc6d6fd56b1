//! `unit`: whether a unit of systemd is up. Nothing is asked over the bus for a question: systemd
//! tells every change, and the kernel the death of the main process (`evenkeel_host::unit`).

use std::time::Duration;

use evenkeel_host::systemd::{Running, Unit};
use evenkeel_host::unit::{Presence, Watch};

use crate::io::Answer;
use crate::machine::Outcome;
use crate::probe::bounded;

/// Asks once. Waits only where nothing is known: a bus that is away may come back.
pub(crate) async fn ask(watch: &Watch, within: Duration) -> Answer {
    let presence = tokio::time::timeout(within, watch.look()).await;
    let presence = presence.unwrap_or_else(|_| watch.presence());
    let outcome = match &presence {
        Presence::Unknown(_) => Outcome::Unasked,
        Presence::Known(unit) if unit.running() == Running::Up => Outcome::Good,
        Presence::Known(_) | Presence::Dead { .. } => Outcome::Bad,
    };
    Answer::new(outcome, told(&presence))
}

/// What people read.
pub(crate) fn told(presence: &Presence) -> String {
    let text = match presence {
        Presence::Unknown(reason) => format!("could not ask: {reason}"),
        Presence::Dead { main } => format!("nothing of it lives since the death of {main}"),
        Presence::Known(unit) if unit.running() == Running::Missing => missing(unit),
        Presence::Known(unit) if unit.restarts_by_itself() => {
            format!("{unit}: its main process died, and systemd is about to start it again")
        }
        Presence::Known(unit) => unit.to_string(),
    };
    bounded(&text)
}

/// What is to be done about a unit that there is not.
pub(crate) fn missing(unit: &Unit) -> String {
    match unit.load.as_str() {
        "masked" => format!("{unit}: unmask it (systemctl unmask), or correct unit"),
        _ => format!("{unit}: install it, or correct unit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(load: &str, active: &str, sub: &str, result: &str) -> Presence {
        let owned = |text: &str| text.to_owned();
        Presence::Known(Unit {
            load: owned(load),
            active: owned(active),
            sub: owned(sub),
            result: owned(result),
            ..Unit::default()
        })
    }

    #[test]
    fn states_read_like_systemd_and_say_what_to_do() {
        let up = unit("loaded", "active", "running", "success");
        assert_eq!(told(&up), "active (running)");
        let failed = unit("loaded", "failed", "failed", "signal");
        assert_eq!(told(&failed), "failed (failed), signal");
        let missing = unit("not-found", "inactive", "dead", "");
        assert_eq!(told(&missing), "not-found: install it, or correct unit");
        let masked = unit("masked", "inactive", "dead", "");
        assert!(told(&masked).starts_with("masked: unmask it"));
        let again = unit("loaded", "activating", "auto-restart", "signal");
        assert_eq!(
            told(&again),
            "activating (auto-restart), signal: its main process died, and systemd is about to \
             start it again"
        );
        let away = Presence::Unknown("no bus".to_owned());
        assert_eq!(told(&away), "could not ask: no bus");
    }
}
