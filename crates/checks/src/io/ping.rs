//! `ping`: one socket per family and source for all checks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evenkeel_host::ping::{Family, PingError, Pinger};

use crate::io::{Answer, Fault, fault_of};
use crate::machine::Outcome;
use crate::probe::{Millis, Phases};

type Key = (Family, Option<IpAddr>);

/// The sockets, opened when first needed; one that could not be had is tried again at
/// the next question.
#[derive(Default)]
pub(crate) struct Pingers(Mutex<BTreeMap<Key, Arc<Pinger>>>);

impl Pingers {
    fn get(&self, key: Key) -> Result<Arc<Pinger>, PingError> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pinger) = open.get(&key) {
            return Ok(pinger.clone());
        }
        let pinger = Arc::new(Pinger::open(key.0, key.1)?);
        open.insert(key, pinger.clone());
        Ok(pinger)
    }

    pub(crate) async fn ask(
        &self,
        target: IpAddr,
        source: Option<IpAddr>,
        within: Duration,
    ) -> Answer {
        let pinger = match self.get((Family::of(target), source)) {
            Ok(pinger) => pinger,
            Err(refused) => return Answer::new(Outcome::Unasked, could_not(&refused)),
        };
        match pinger.ask(target, within).await {
            Ok(reply) => Answer {
                phases: Phases {
                    first_byte: Some(reply.took),
                    ..Phases::default()
                },
                ..Answer::new(Outcome::Good, format!("echo in {} ms", Millis(reply.took)))
            },
            Err(PingError::Silent { .. }) => {
                let detail = format!("no echo within {} ms", Millis(within));
                Answer::new(Outcome::Silent, detail)
            }
            Err(PingError::Send { source, .. }) if fault_of(&source) == Fault::Theirs => {
                Answer::new(Outcome::Bad, format!("no echo: {source}"))
            }
            Err(refused) => Answer::new(Outcome::Unasked, could_not(&refused)),
        }
    }
}

fn could_not(refused: &PingError) -> String {
    format!("could not ask: {refused}")
}
