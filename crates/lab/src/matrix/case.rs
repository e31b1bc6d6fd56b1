//! One case, played: calm, trouble, perhaps another one, a look, all of it put right again; and
//! what clients, the observer on the switch, and `why` have to say of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;
use serde::Serialize;

use super::design::{Case, Gap};
use super::judge::{self, Facts};
use super::outlook::{Left, Outlook, Struck, choose};
use super::strike::{self, Under};
use super::trouble::{Trouble, Whom};
use crate::bench::{settled, wait_steady};
use crate::chance::Chance;
use crate::client::{Client, PACE, PACE6, QUICK, SLOW};
use crate::cluster::{Cluster, Verdict};
use crate::figures::{self, Seen};
use crate::host::Family;
use crate::wait;

/// Good requests watched before a trouble.
const CALM: Duration = Duration::from_millis(300);

/// What one trouble led to is over by then; nothing that is detected by a time-out takes longer.
const OVER: Duration = Duration::from_secs(1);

/// How long the cluster is watched after the last trouble at least: a move that nothing is a
/// reason for would come by then.
const WATCH: Duration = Duration::from_millis(1_500);

/// How long, where it may or may not be served: what a rule or a hold-down decides takes so long.
const WATCH_LONG: Duration = Duration::from_secs(4);

/// How long it is watched that nobody answers.
const WATCH_MUTE: Duration = Duration::from_secs(2);

/// Requests that were begun before the last lease was over may be answered so much later, and a
/// lease ends so much later than the trouble began that the lab needs to make it happen.
const MUTE_SLACK: Duration = Duration::from_millis(150);

/// A move that was planned goes on for so long though the majority is gone: the file's `drain`
/// and what is held for the next holder.
const PLANNED_SLACK: Duration = Duration::from_millis(3_500);

/// An order to let a node in again is taken by then.
const TAKEN: Duration = Duration::from_secs(20);

/// An order to give a node groups again is taken by then, if it was drained.
const UNDRAINED: Duration = Duration::from_secs(5);

/// The client is answered if its last good answer is no older.
const FRESH: Duration = Duration::from_millis(250);

/// The same for both families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Both<T> {
    pub(crate) ipv4: T,
    pub(crate) ipv6: T,
}

/// What a case came to.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Played {
    /// The longest time without a good answer until it was put right, in ms, if clients were
    /// served again before that.
    pub(crate) outage_ms: Both<Option<f64>>,
    pub(crate) requests: Both<u64>,
    pub(crate) failed: Both<u64>,
    /// The longest time in which the quick client began no request: an outage that is not longer
    /// says nothing of the servers.
    pub(crate) client_pause_ms: f64,
    /// What had to be seen: `served`, `mute` or `either`.
    pub(crate) expected: &'static str,
    /// Whether clients were served when it was put right.
    pub(crate) served: bool,
    /// From there to the first good answer, if they were not.
    pub(crate) back_ms: Option<f64>,
    /// Whom what befell, and what was drawn.
    pub(crate) struck: Vec<String>,
    /// The moves, as `why` tells them.
    pub(crate) moves: Vec<String>,
    /// Moves to a node that the group had left in the same case.
    pub(crate) went_back: usize,
    /// Each case of two nodes answering for one address.
    pub(crate) two_answered: Vec<String>,
    /// For how long they did.
    pub(crate) two_answered_ms: f64,
    /// Frames that the observer missed: with any it is no proof.
    pub(crate) frames_missed: u64,
    /// Requests that were answered though no majority was left.
    pub(crate) answered_without_majority: u64,
    pub(crate) false_takeovers: Vec<String>,
    pub(crate) untruths: Vec<String>,
    /// What else was short.
    pub(crate) short: Vec<String>,
}

impl Played {
    /// Whether all was as it has to be.
    pub(crate) fn is_well(&self) -> bool {
        self.two_answered.is_empty()
            && self.frames_missed == 0
            && self.answered_without_majority == 0
            && self.false_takeovers.is_empty()
            && self.untruths.is_empty()
            && self.short.is_empty()
    }

    /// All that was not, in words.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let told = |what: &str, all: &[String]| -> Vec<String> {
            all.iter().map(|one| format!("{what}: {one}")).collect()
        };
        let mut all = told("TWO ANSWERED", &self.two_answered);
        if self.frames_missed > 0 {
            all.push(format!("the observer missed {} frames", self.frames_missed));
        }
        if self.answered_without_majority > 0 {
            let count = self.answered_without_majority;
            all.push(format!("ANSWERED WITHOUT A MAJORITY: {count} requests"));
        }
        all.extend(told("false takeover", &self.false_takeovers));
        if !self.false_takeovers.is_empty() {
            // A machine that is late with everything is late with renewals, too.
            let pause = self.client_pause_ms;
            all.push(format!(
                "meanwhile the client itself stood still for {pause:.1} ms at most"
            ));
        }
        all.extend(told("untruth", &self.untruths));
        all.extend(self.short.iter().cloned());
        all
    }
}

/// Clients of both families; the quick one in the family in which the nodes talk.
struct Clients {
    ipv4: Client,
    ipv6: Client,
}

impl Clients {
    fn start(cluster: &Cluster, case: &Case) -> Result<Self> {
        let (pace4, pace6) = match case.shape.family {
            Family::Four => (PACE, PACE6),
            Family::Six => (PACE6, PACE),
        };
        // Planned moves have requests in flight, as in the benchmark.
        let alone = case.second.is_none() && case.first.is_planned();
        let page = if alone { SLOW } else { QUICK };
        Ok(Self {
            ipv4: cluster.client_over(Family::Four, page, pace4)?,
            ipv6: cluster.client_over(Family::Six, page, pace6)?,
        })
    }

    fn both(&self) -> [&Client; 2] {
        [&self.ipv4, &self.ipv6]
    }

    fn wait_steady(&self, since: Moment) -> Result<()> {
        self.both()
            .iter()
            .try_for_each(|client| wait_steady(client, since, None))
    }

    fn are_served(&self) -> bool {
        let fresh = |client: &&Client| {
            let last = client.last_good();
            last.is_some_and(|(at, _)| now().since(at) < FRESH)
        };
        self.both().iter().all(fresh)
    }

    /// Who answered last.
    fn answered_by(&self) -> Option<String> {
        self.ipv4.last_good().map(|(_, host)| host.to_string())
    }
}

/// When what was.
struct Times {
    from: Moment,
    /// When the last trouble had been made to happen.
    struck: Moment,
    to: Moment,
}

/// Everything known of a case while it is played.
struct Play<'a> {
    cluster: &'a mut Cluster,
    case: &'a Case,
    holder: String,
    next: String,
    struck: Struck,
    left: Left,
    outlook: Outlook,
    played: Played,
}

/// Plays a case on a cluster that is whole. An error says that the lab could not play it, and
/// nothing of the cluster; also whether the cluster is as it was.
pub(crate) fn play(cluster: &mut Cluster, case: &Case) -> Result<(Played, bool)> {
    let (mut holder, mut next) = who(cluster)?;
    if case.has(Trouble::OldState) {
        strike::prepare_old_state(cluster, &holder, &next)?;
        (holder, next) = who(cluster)?;
    }
    let struck = choose(case, &holder, &next);
    let left = Left::of(case, &cluster.names(), &cluster.server_names(), &struck);
    let outlook = left.outlook(case.has(Trouble::AllRestart));
    let play = Play {
        cluster,
        case,
        holder,
        next,
        struck,
        left,
        outlook,
        played: Played::default(),
    };
    play.run()
}

/// Who holds the group, and who would be next.
fn who(cluster: &Cluster) -> Result<(String, String)> {
    let holder = cluster.wait_whole()?;
    let status = cluster
        .status(&holder)?
        .context("the holder says nothing")?;
    let next = status
        .groups
        .into_iter()
        .next()
        .and_then(|group| group.next);
    let next = next.filter(|next| *next != holder);
    let next = next.map_or_else(|| cluster.other(&holder), Ok)?;
    Ok((holder, next))
}

impl Play<'_> {
    fn run(mut self) -> Result<(Played, bool)> {
        let clients = Clients::start(self.cluster, self.case)?;
        let known = judge::told(self.cluster)?
            .0
            .last()
            .map_or(0, |one| one.epoch);
        self.cluster.observer.mark();
        clients.wait_steady(now()).context("before the trouble")?;
        let from = now();
        std::thread::sleep(CALM);
        let mut under = Under::default();
        self.strike(&mut under)?;
        let struck = now();
        self.watch(&clients, &under, struck);
        let times = Times {
            from,
            struck,
            to: now(),
        };
        self.played.served = clients.are_served();
        if self.outlook == Outlook::Served && !self.played.served && self.played.short.is_empty() {
            self.played
                .short
                .push("clients were served again, and then no more".into());
        }
        self.played.struck = self
            .struck
            .iter()
            .map(|(trouble, name)| match name.is_empty() {
                true => trouble.to_string(),
                false => format!("{trouble} of {name}"),
            })
            .collect();
        self.played.struck.append(&mut under.drawn);

        let ahead = under.is_clock_ahead().then(|| self.cluster.verdict());
        under.end(self.cluster)?;
        if ahead.is_some() {
            self.cluster.observer.mark();
        }
        let whole = self.put_right(&clients, times.to);
        self.note_requests(&clients, &times)?;
        for verdict in ahead.into_iter().chain([self.cluster.verdict()]) {
            self.note_verdict(verdict);
        }
        // Who answers is nobody's word while not all is well.
        let answers = whole.then(|| clients.answered_by()).flatten();
        self.note_moves(known, answers.as_deref())?;
        let as_it_was = whole && self.played.is_well() && !self.is_odd();
        Ok((self.played, as_it_was))
    }

    /// Makes the troubles happen.
    fn strike(&mut self, under: &mut Under) -> Result<()> {
        let mut chance = Chance(self.case.seed);
        for (index, (trouble, name)) in self.struck.clone().into_iter().enumerate() {
            if index > 0 {
                let lease = self.case.shape.profile.lease();
                std::thread::sleep(match self.case.shape.gap {
                    Gap::Within => lease.mul_f64(chance.below(1_000) as f64 / 1e3),
                    Gap::After => OVER,
                });
            }
            let other = if name == self.holder {
                &self.next
            } else {
                &self.holder
            };
            let other = other.clone();
            under
                .strike(self.cluster, trouble, (&name, &other), &mut chance)
                .with_context(|| format!("making {trouble} befall {name}"))?;
        }
        Ok(())
    }

    /// Watches what comes of it.
    fn watch(&mut self, clients: &Clients, under: &Under, struck: Moment) {
        let mut least = match self.outlook {
            Outlook::Served => WATCH,
            Outlook::Mute => self.mute_after() + WATCH_MUTE,
            Outlook::Either => WATCH_LONG,
        };
        if let Some(until) = under.until {
            least = least.max(until.since(struck) + OVER);
        }
        self.played.expected = match self.outlook {
            Outlook::Served => "served",
            Outlook::Mute => "mute",
            Outlook::Either => "either",
        };
        std::thread::sleep(now().until(struck + least));
        if self.outlook == Outlook::Served
            && let Err(fault) = clients.wait_steady(struck)
        {
            self.played
                .short
                .push(format!("clients were not served again: {fault:#}"));
        }
    }

    /// How long after the last trouble nobody may answer any more.
    fn mute_after(&self) -> Duration {
        let planned = self.case.troubles().any(Trouble::is_planned);
        let slack = if planned { PLANNED_SLACK } else { MUTE_SLACK };
        self.case.shape.profile.lease() + slack
    }

    /// Whether a cluster on which it was played is no longer like a new one.
    fn is_odd(&self) -> bool {
        self.case.troubles().any(Trouble::needs_readmission) || self.case.first.is_alone()
    }

    /// Puts everything right and waits until clients are served; whether they are.
    fn put_right(&mut self, clients: &Clients, since: Moment) -> bool {
        match self.mend(clients, since) {
            Ok(whole) => whole,
            Err(fault) => {
                self.played
                    .short
                    .push(format!("not whole again: {fault:#}"));
                false
            }
        }
    }

    fn mend(&mut self, clients: &Clients, since: Moment) -> Result<bool> {
        self.cluster.mend()?;
        if self.case.has(Trouble::KilledCold) {
            // It is held down for half a minute, rightly.
            return Ok(false);
        }
        if let Some((_, name)) = self.struck.iter().find(|(one, _)| one.needs_readmission()) {
            if self.cluster.names().len() == 2 {
                // Without its vote there is no majority that could let it in (DESIGN 6).
                return Ok(false);
            }
            self.order_somebody(&["readmit", name], TAKEN)?;
        }
        if let Some((_, name)) = self
            .struck
            .iter()
            .find(|(one, _)| *one == Trouble::NodeDrained)
        {
            // Refused if the drain was; if it ought not to be, the cluster will not be whole.
            let _ = self.order_somebody(&["undrain", name], UNDRAINED);
        }
        self.cluster.wait_whole()?;
        clients
            .wait_steady(since)
            .context("clients, though the cluster says that it is whole")?;
        if !self.played.served {
            let first = |client: &Client| {
                let good = client.records().into_iter().filter(|one| one.is_good());
                good.map(|one| one.end).find(|end| *end > since)
            };
            let back = clients.both().into_iter().filter_map(first).max();
            self.played.back_ms = back.map(|back| ms(back.since(since)));
        }
        Ok(true)
    }

    /// Gives an order at whoever takes it.
    fn order_somebody(&self, arguments: &[&str], limit: Duration) -> Result<()> {
        wait::until(&arguments.join(" "), limit, || {
            for name in self.cluster.names() {
                let Ok(host) = self.cluster.host(&name) else {
                    continue;
                };
                if self
                    .cluster
                    .evenkeel()
                    .ask(host, arguments)?
                    .status
                    .success()
                {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })
    }

    fn note_requests(&mut self, clients: &Clients, times: &Times) -> Result<()> {
        let read = |client: &Client| -> Result<(Seen, u64)> {
            let records = settled(client, times.from, times.to);
            let seen = figures::seen(&records, times.from, times.to);
            ensure!(
                seen.unasked == 0,
                "a client itself failed {} times",
                seen.unasked
            );
            let silent_from = times.struck + self.mute_after();
            let late = records.iter().filter(|one| one.is_good());
            // What is asked within may be answered after that, rightly.
            let late = late.filter(|one| one.start > silent_from && one.end < times.to);
            Ok((seen, late.count() as u64))
        };
        let ((four, late4), (six, late6)) = (read(&clients.ipv4)?, read(&clients.ipv6)?);
        let played = &mut self.played;
        let outage = |seen: &Seen| played.served.then_some(ms(seen.gap));
        played.outage_ms = Both {
            ipv4: outage(&four),
            ipv6: outage(&six),
        };
        played.requests = Both {
            ipv4: four.requests,
            ipv6: six.requests,
        };
        played.failed = Both {
            ipv4: four.failed,
            ipv6: six.failed,
        };
        played.client_pause_ms = ms(four.pause.min(six.pause));
        if self.outlook == Outlook::Mute {
            played.answered_without_majority = late4 + late6;
        }
        Ok(())
    }

    /// Whether the group must have left its holder.
    fn demands_a_move(&self) -> bool {
        let first = self.case.first;
        let alone = self.case.second.is_none() && self.outlook == Outlook::Served;
        let moves = first.whom() == Whom::Holder && first.may_move(self.case.shape.profile);
        // A freeze that is shorter than the lease is none.
        alone && moves && first != Trouble::MachineFrozen
    }

    fn note_verdict(&mut self, verdict: Verdict) {
        self.played.two_answered.extend(verdict.violations);
        self.played.two_answered_ms += ms(verdict.overlap);
        self.played.frames_missed += verdict.missed;
    }

    fn note_moves(&mut self, known: u64, answers: Option<&str>) -> Result<()> {
        let (moves, untruths) = judge::told(self.cluster)?;
        let first = moves.partition_point(|one| one.epoch <= known);
        let facts = Facts {
            case: self.case,
            struck: &self.struck,
            holder: &self.holder,
            majority_is_doubtful: self.left.majority_is_doubtful()
                || self.case.has(Trouble::AllRestart),
        };
        let found = facts.judge(&moves[first..], answers);
        if self.demands_a_move() && found.moves.is_empty() {
            self.played.short.push("nothing moved".into());
        }
        self.played.moves = found.moves;
        self.played.went_back = found.went_back;
        self.played.false_takeovers = found.false_takeovers;
        self.played.untruths = found.untruths;
        self.played.untruths.extend(untruths);
        Ok(())
    }
}

/// In milliseconds.
pub(crate) fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
