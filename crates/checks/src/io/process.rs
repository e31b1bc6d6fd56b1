//! `process`: whether one runs. Its death is told by the kernel (`evenkeel_host::named`).

use std::time::Duration;

use evenkeel_host::named::{Presence, Watch};

use crate::io::Answer;
use crate::machine::Outcome;
use crate::probe::{Millis, bounded};

/// Asks once: searches only where none is known to run.
pub(crate) async fn ask(watch: &Watch, within: Duration) -> Answer {
    let Ok(presence) = tokio::time::timeout(within, watch.look()).await else {
        let within = Millis(within);
        let detail = format!("could not ask: processes not searched within {within} ms");
        return Answer::new(Outcome::Unasked, detail);
    };
    match presence {
        Presence::Running { oldest, processes } => {
            let others = match processes {
                0 | 1 => String::new(),
                2 => " and another".to_owned(),
                more => format!(" and {} others", more - 1),
            };
            Answer::new(
                Outcome::Good,
                format!(
                    "{oldest}{others} run{}",
                    if processes < 2 { "s" } else { "" }
                ),
            )
        }
        Presence::Absent { death_of: None } => Answer::new(Outcome::Bad, "no such process runs"),
        Presence::Absent {
            death_of: Some(holder),
        } => Answer::new(
            Outcome::Bad,
            format!("none runs since the death of {holder}"),
        ),
        Presence::Unknown { reason } => {
            let detail = format!("could not ask: {reason}");
            Answer::new(Outcome::Unasked, bounded(&detail))
        }
    }
}
