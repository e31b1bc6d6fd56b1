//! What a client has seen, in figures.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_core::Moment;
use serde::Serialize;

use crate::client::{Outcome, Record};

/// What a client saw in one stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// From when on.
    pub(crate) from: Moment,
    /// The longest time in which no good answer came: from the end of one good request
    /// to the end of the next. Without a fault this is about the pace.
    pub(crate) gap: Duration,
    /// Requests begun.
    pub(crate) requests: u64,
    /// Requests begun that failed.
    pub(crate) failed: u64,
    /// Of those: refused, reset or ended early.
    pub(crate) broken: u64,
    /// When the first and the last of those that failed were begun.
    pub(crate) failed_at: Option<(Moment, Moment)>,
    /// Requests that the client itself could not begin: the figures are worth nothing
    /// if there are any.
    pub(crate) unasked: u64,
    /// The longest time in which the client began no request: a gap that is not longer
    /// says nothing about the servers.
    pub(crate) pause: Duration,
    /// The slowest good request.
    pub(crate) slowest: Duration,
    /// Good answers of each host.
    pub(crate) by_host: BTreeMap<String, u64>,
}

/// What the client saw of requests begun from `from` on and before `to`. Those that
/// were under way at `to` must have ended; a service that never came back counts as
/// gone until `to`.
pub(crate) fn seen(records: &[Record], from: Moment, to: Moment) -> Seen {
    let mut seen = Seen {
        from,
        ..Seen::default()
    };
    let mut starts = Vec::new();
    let mut answers = vec![from, to];
    for record in records
        .iter()
        .filter(|record| record.start >= from && record.start < to)
    {
        seen.requests += 1;
        starts.push(record.start);
        let failed = seen.failed;
        match &record.outcome {
            Outcome::Good(host) => {
                *seen.by_host.entry(host.to_string()).or_default() += 1;
                seen.slowest = seen.slowest.max(record.end.since(record.start));
                answers.push(record.end.min(to));
            }
            Outcome::Broken => {
                seen.failed += 1;
                seen.broken += 1;
            }
            Outcome::Wrong | Outcome::Silent => seen.failed += 1,
            Outcome::Unasked => seen.unasked += 1,
        }
        if seen.failed > failed {
            let (first, last) = seen.failed_at.unwrap_or((record.start, record.start));
            seen.failed_at = Some((first.min(record.start), last.max(record.start)));
        }
    }
    seen.gap = longest_step(&mut answers);
    seen.pause = longest_step(&mut starts);
    seen
}

fn longest_step(moments: &mut [Moment]) -> Duration {
    moments.sort_unstable();
    moments
        .windows(2)
        .map(|pair| pair[1].since(pair[0]))
        .max()
        .unwrap_or_default()
}

/// A distribution, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// How many.
    pub(crate) count: usize,
    /// The middle one.
    pub(crate) p50: f64,
    /// The one that 99 of 100 do not exceed; with fewer than 100 runs, the greatest.
    pub(crate) p99: f64,
    /// The greatest.
    pub(crate) max: f64,
}

/// The distribution of `values`: nearest ranks, nothing is interpolated.
pub(crate) fn spread(values: &[Duration]) -> Spread {
    let mut sorted: Vec<f64> = values
        .iter()
        .map(|value| value.as_secs_f64() * 1e3)
        .collect();
    sorted.sort_by(f64::total_cmp);
    let rank = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    };
    Spread {
        count: sorted.len(),
        p50: rank(50),
        p99: rank(99),
        max: rank(100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn record(start: u64, end: u64, outcome: Outcome) -> Record {
        Record {
            start: at(start),
            end: at(end),
            outcome,
        }
    }

    #[test]
    fn the_gap_runs_from_good_to_good() {
        let records = [
            record(0, 1, Outcome::Good("a".into())),
            record(2, 3, Outcome::Good("a".into())),
            record(6, 7, Outcome::Broken),
            record(4, 1004, Outcome::Silent),
            record(152, 153, Outcome::Good("b".into())),
            record(154, 155, Outcome::Good("b".into())),
        ];
        let seen = seen(&records, at(0), at(156));
        assert_eq!(seen.gap, Duration::from_millis(150));
        assert_eq!((seen.requests, seen.failed, seen.broken), (6, 2, 1));
        assert_eq!(seen.failed_at, Some((at(4), at(6))));
        assert_eq!(seen.by_host["b"], 2);
        assert_eq!(seen.pause, Duration::from_millis(146));
    }

    #[test]
    fn a_service_that_stays_away_is_gone_until_the_end() {
        let records = [
            record(0, 1, Outcome::Good("a".into())),
            record(2, 1002, Outcome::Silent),
        ];
        assert_eq!(
            seen(&records, at(0), at(500)).gap,
            Duration::from_millis(499)
        );
    }

    #[test]
    fn ranks_are_nearest() {
        let values: Vec<Duration> = (1..=20).map(Duration::from_millis).collect();
        let spread = spread(&values);
        assert_eq!((spread.p50, spread.p99, spread.max), (10.0, 20.0, 20.0));
    }
}
