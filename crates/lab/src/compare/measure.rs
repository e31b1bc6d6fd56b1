//! One run: calm, something happens, the client is served again or not, it is put right.

use std::time::Duration;

use anyhow::{Result, ensure};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;
use serde::Serialize;

use super::overlap::{self, Overlap};
use super::peers::Peer;
use super::row::{End, Row};
use super::stage::Stage;
use crate::bench::{CALM, STEADY, STEADY_GAP, settled, wait_steady};
use crate::client::{Client, Outcome, Record};
use crate::cluster::SERVICE;
use crate::fault::{self, Ground, load};
use crate::heartbeat::calendar;
use crate::observer::Observer;
use crate::{figures, wait};

/// Watched for so long after the client was served again: a second host that answers for
/// good is told from one that was a little late.
const AFTER: Duration = Duration::from_secs(3);

/// How long a row is watched in which nothing should happen: longer than the slowest of the
/// peers takes to miss a host.
const QUIET: Duration = Duration::from_secs(10);

/// Busy loops on each server.
pub(crate) const LOOPS: usize = 32;

/// What is the same for all runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A service that is not back by then counts as lost.
    pub(crate) lost: Duration,
    /// How long the busy loops run.
    pub(crate) load: Duration,
}

/// What one run came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    /// The longest time in which the client got no good answer.
    pub(crate) outage_ms: f64,
    /// Whether what should happen did while the fault lasted: it moved, or was served again.
    pub(crate) back: bool,
    /// Whether the client was served at the end of it.
    pub(crate) served: bool,
    /// Requests begun.
    pub(crate) requests: u64,
    /// Requests that failed.
    pub(crate) failed: u64,
    /// For how long two hosts answered while the fault lasted.
    pub(crate) two_ms: f64,
    /// How often two hosts answered, until all was right again.
    pub(crate) two_cases: usize,
    /// They still did when the fault was lifted.
    pub(crate) two_to_the_end: bool,
    /// For how long they did from then on until all was right.
    pub(crate) two_later_ms: f64,
    /// How often another host than the holder began to answer.
    pub(crate) takeovers: usize,
    /// For how long the fault lasted.
    pub(crate) watched_ms: f64,
    /// What was still wrong long after the fault had been lifted; nothing if all was right
    /// again by itself.
    pub(crate) unhealed: Option<String>,
    /// The longest time in which the client began no request.
    pub(crate) client_pause_ms: f64,
    /// Frames that the observer missed: with any, that two never answered is not proved.
    pub(crate) frames_missed: u64,
}

/// Decides, answer by answer, whether the client is served again.
#[derive(Debug)]
struct Served<'a> {
    /// Nothing before counts.
    since: Moment,
    /// The host that had the address.
    holder: &'a str,
    end: End,
    /// The longest pause in steady service.
    gap: Duration,
    /// A request has failed.
    trouble: bool,
    /// Good answers without a gap: the first and the last of them.
    steady: Option<(Moment, Moment)>,
}

impl<'a> Served<'a> {
    fn new(since: Moment, holder: &'a str, end: End, pace: Duration) -> Self {
        Self {
            since,
            holder,
            end,
            gap: STEADY_GAP + pace,
            trouble: false,
            steady: None,
        }
    }

    fn take(&mut self, record: &Record) {
        if record.end < self.since {
            return;
        }
        let Outcome::Good(host) = &record.outcome else {
            self.trouble |= record.start >= self.since;
            return;
        };
        let enough = **host != *self.holder || (self.end == End::Served && self.trouble);
        if !enough {
            self.steady = None;
            return;
        }
        self.steady = match self.steady {
            Some((first, last)) if record.end.since(last) < self.gap => Some((first, record.end)),
            _ => Some((record.end, record.end)),
        };
    }

    fn is_settled(&self) -> bool {
        let steady = self.steady;
        steady.is_some_and(|(first, last)| last.since(first) >= STEADY)
    }
}

/// Watches until the run can end. Whether it could, and did not only last too long.
fn watch(client: &Client, struck: Moment, holder: &str, row: Row, limits: Limits) -> bool {
    let fixed = match row.end() {
        End::Quiet => Some(QUIET),
        End::Loaded => Some(limits.load),
        End::Moved | End::Served => None,
    };
    if let Some(length) = fixed {
        std::thread::sleep(now().until(struck + length));
        return is_served(client);
    }
    let mut served = Served::new(struck, holder, row.end(), client.pace());
    let mut cursor = 0;
    let back = wait::until("the client is served", limits.lost, || {
        for record in client.since(&mut cursor) {
            served.take(&record);
        }
        Ok(served.is_settled().then_some(()))
    });
    if back.is_ok() {
        std::thread::sleep(AFTER);
    }
    back.is_ok()
}

/// Whether the client was served just now.
fn is_served(client: &Client) -> bool {
    let last = client.last_good();
    last.is_some_and(|(at, _)| now().since(at) < STEADY)
}

/// Does what the row says.
fn strike(stage: &mut Stage, peer: &dyn Peer, row: Row, holder: &str, round: usize) -> Result<()> {
    if let Some(fault) = row.fault() {
        return fault::inject(stage, fault, holder);
    }
    let standby = stage.other(holder)?;
    match row {
        Row::VoterDeath => {
            let third = stage.third_name();
            let dies = third.filter(|_| round.is_multiple_of(2));
            stage.power_cut(&dies.unwrap_or(standby))
        }
        Row::Load => {
            for name in stage.server_names() {
                load::start_spinning(stage.host_mut(&name)?, LOOPS)?;
            }
            Ok(())
        }
        Row::DaemonStopped => peer.stop(stage, holder),
        _ => peer.switch_over(stage, holder, &standby),
    }
}

/// What the observer saw of the address since its mark: when two answered, how often another
/// host than the holder began to, and how many frames it missed.
fn seen_by(observer: &Observer, holder: &str) -> (Overlap, usize, u64) {
    let report = observer.report();
    let row = report
        .stretches
        .get(&SERVICE)
        .map_or(&[][..], Vec::as_slice);
    let spells = overlap::spells(row);
    (
        overlap::overlap(&spells),
        overlap::takeovers(&spells, holder),
        report.missed,
    )
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// One run on a stage that has settled or is about to. It is left as it is after the fault
/// was lifted; `unhealed` says whether it can be used again.
pub(crate) fn run(
    stage: &mut Stage,
    peer: &dyn Peer,
    row: Row,
    round: usize,
    limits: Limits,
) -> Result<Measured> {
    let holder = stage.wait_settled(peer)?;
    let client = stage.client(row.page())?;
    let asking = stage.ask()?;
    wait_steady(&client, now(), None)?;
    stage.observer.mark();
    let from = now();
    std::thread::sleep(CALM);
    let struck = now();
    strike(stage, peer, row, &holder, round)?;
    let back = watch(&client, struck, &holder, row, limits);
    let served = is_served(&client);
    let (to, lifted) = (now(), calendar());
    let (_, takeovers, _) = seen_by(&stage.observer, &holder);
    let records = settled(&client, from, to);
    drop(client);
    stage.lift(peer)?;
    let healed = stage.wait_settled(peer);
    let (two, _, missed) = seen_by(&stage.observer, &holder);
    drop(asking);
    if healed.is_ok() {
        peer.tidy(stage)?;
    }
    let seen = figures::seen(&records, from, to);
    ensure!(
        seen.unasked == 0,
        "the client itself failed {} times",
        seen.unasked
    );
    let during = two.before(lifted);
    Ok(Measured {
        outage_ms: ms(seen.gap),
        back,
        served,
        requests: seen.requests,
        failed: seen.failed,
        two_ms: ms(during.total()),
        two_cases: two.spells.len(),
        two_to_the_end: during.lasts_at(lifted),
        two_later_ms: ms(two.total().saturating_sub(during.total())),
        takeovers,
        watched_ms: ms(to.since(struck)),
        unhealed: healed.err().map(|fault| format!("{fault:#}")),
        client_pause_ms: ms(seen.pause),
        frames_missed: missed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn record(start: u64, outcome: Outcome) -> Record {
        Record {
            start: at(start),
            end: at(start + 1),
            outcome,
        }
    }

    fn good(host: &str, from: u64, to: u64) -> Vec<Record> {
        (from..to)
            .step_by(2)
            .map(|ms| record(ms, Outcome::Good(host.into())))
            .collect()
    }

    /// Whether the client counts as served after these, when the fault was at 100 ms.
    fn served(end: End, records: &[Record]) -> bool {
        let mut served = Served::new(at(100), "a", end, Duration::from_millis(2));
        records.iter().for_each(|record| served.take(record));
        served.is_settled()
    }

    #[test]
    fn another_host_has_to_serve_steadily() {
        assert!(served(End::Moved, &good("b", 200, 700)));
        assert!(!served(End::Moved, &good("b", 200, 500)), "too short");
        let mut broken = good("b", 200, 500);
        broken.extend(good("b", 600, 900));
        assert!(!served(End::Moved, &broken), "a gap starts the count again");
        assert!(!served(End::Moved, &good("b", 0, 90)), "before the fault");
    }

    #[test]
    fn the_old_holder_counts_only_after_trouble_and_where_that_is_enough() {
        let mut records = good("a", 100, 700);
        assert!(!served(End::Served, &records), "nothing happened yet");
        records.insert(0, record(150, Outcome::Broken));
        assert!(served(End::Served, &records), "restarted on the spot");
        assert!(!served(End::Moved, &records), "it should have moved");
        records[0] = record(50, Outcome::Broken);
        assert!(!served(End::Served, &records), "failed before the fault");
    }
}
