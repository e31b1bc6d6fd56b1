//! From single answers to one state: pure, its own events and effects.
//!
//! A question is asked every `interval`, whether or not the former has been answered, so
//! that a service that hangs is found out after `interval * fall + timeout` at the
//! latest, not after `fall` whole time-outs in a row. Answers count in the order in which
//! they come. What moves the state (`F` failures and `G` good answers in a row):
//!
//! ```text
//! settled | Good              | Bad, or Silent in time | Silent but late, Unasked | Deserted
//! --------+-------------------+------------------------+--------------------------+---------
//! nothing | Well              | F+1; at fall: Ill      | F=0, veiled              | Ill
//! Well    | F=0               | F+1; at fall: Ill      | F=0, veiled              | Ill
//! Ill     | G+1; at rise: Well| G=0                    | G=0, veiled              | G=0
//! ```
//!
//! What is settled is what others see, unless a veil lies over it: the newest round told
//! nothing, because this prober itself ran late or could not ask. Then they see
//! "unknown", and the next answer takes the veil away. A refusal or a wrong status is an
//! answer however late it is read; only silence may be the prober's own fault.
//!
//! The prober runs late when it is woken, or judges a silence, later than it wished by
//! more than [`Limits::late_max`]. While a question is pending the machine wishes to be
//! woken every half of that, so that a pause is noticed wherever in the wait it falls.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_core::Moment;
use evenkeel_core::health::CheckState;

/// Questions of one check without an answer. More add nothing: with that many pending,
/// `fall` of them run into their deadlines one after another.
pub const OUTSTANDING_MAX: usize = 8;
/// Shortest time from one question to the next: an end to what a file may ask for.
const INTERVAL_MIN: Duration = Duration::from_millis(5);
/// How late a prober may run at least: pauses below happen on any loaded machine.
const LATE_MIN: Duration = Duration::from_millis(100);
/// Bounds of the time after which an unchanged state is reported again: others take a
/// prober for lost that they have not heard for about three of these.
const REFRESH_MIN: Duration = Duration::from_millis(400);
const REFRESH_MAX: Duration = Duration::from_secs(1);

/// How often, how patient, how stubborn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From one question to the next.
    pub interval: Duration,
    /// After that an answer counts as missing.
    pub timeout: Duration,
    /// Failures in a row that make it failing.
    pub fall: u32,
    /// Good answers in a row that make it well again.
    pub rise: u32,
}

impl Limits {
    /// How late this prober may run before a silence says nothing.
    pub fn late_max(&self) -> Duration {
        (self.timeout / 2).max(LATE_MIN)
    }

    /// An unchanged state is reported again after this.
    pub fn refresh(&self) -> Duration {
        self.interval.clamp(REFRESH_MIN, REFRESH_MAX)
    }
}

/// What came of one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered as it should.
    Good,
    /// It answered wrongly, refused or broke off.
    Bad,
    /// No whole answer within the time-out.
    Silent,
    /// It could not be asked, by no fault of its own.
    Unasked,
}

/// What happens to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The moment of [`Machine::wake`] has come; earlier calls are harmless.
    Woke,
    /// A question has ended.
    Settled {
        /// Which.
        question: u64,
        /// How.
        outcome: Outcome,
    },
    /// The kernel says that nobody listens: waits for neither `interval` nor `fall`.
    Deserted,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask, with the time-out of the limits.
    Ask {
        /// The number to settle it by.
        question: u64,
    },
    /// The state has changed: tell it at once.
    Change,
    /// Nothing has changed for a while: tell it again.
    Refresh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Nothing,
    Well,
    Ill,
}

/// Why the newest round told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Veil {
    /// It told something.
    None,
    /// This prober ran so late.
    Late(Duration),
    /// It could not ask.
    Unasked,
}

/// One check of one node, as one prober sees it.
#[derive(Clone, Debug)]
pub struct Machine {
    limits: Limits,
    /// Questions without an answer at most.
    overlap: usize,
    settled: Settled,
    veil: Veil,
    failures: u32,
    goods: u32,
    /// Wrong answers since the last good one.
    wrongs: u32,
    /// When the first question was asked that nothing has answered since.
    unanswered: Option<Moment>,
    /// When each pending question was asked.
    pending: BTreeMap<u64, Moment>,
    next: u64,
    due: Moment,
    stepped: Moment,
    /// The last time that this prober ran late: when it came to, and how late it was.
    stalled: Option<(Moment, Duration)>,
    confirmed: Moment,
    reported: Moment,
}

impl Machine {
    /// Nothing known; the first question is due at `now`.
    pub fn new(limits: Limits, now: Moment) -> Self {
        let interval = limits.interval.max(INTERVAL_MIN);
        let limits = Limits {
            interval,
            fall: limits.fall.max(1),
            rise: limits.rise.max(1),
            ..limits
        };
        Self {
            limits,
            overlap: OUTSTANDING_MAX,
            settled: Settled::Nothing,
            veil: Veil::None,
            failures: 0,
            goods: 0,
            wrongs: 0,
            unanswered: None,
            pending: BTreeMap::new(),
            next: 0,
            due: now,
            stepped: now,
            stalled: None,
            confirmed: now,
            reported: now,
        }
    }

    /// With fewer questions at once than [`OUTSTANDING_MAX`], for those that cost much. At
    /// least `fall` of them find out as soon as any number whether something hangs.
    #[must_use]
    pub fn overlapping(mut self, most: usize) -> Self {
        self.overlap = most.clamp(1, OUTSTANDING_MAX);
        self
    }

    /// What others shall see.
    pub fn state(&self) -> CheckState {
        match (self.veil, self.settled) {
            (Veil::Late(_) | Veil::Unasked, _) | (Veil::None, Settled::Nothing) => {
                CheckState::Unknown
            }
            (Veil::None, Settled::Well) => CheckState::Ok,
            (Veil::None, Settled::Ill) => CheckState::Failing,
        }
    }

    /// Why the newest round told nothing, if so.
    pub fn veil(&self) -> Veil {
        self.veil
    }

    /// When the state was last confirmed by an answer, or by the lack of one.
    pub fn confirmed(&self) -> Moment {
        self.confirmed
    }

    /// Since when there has been no answer at all, if it is failing and silence is all
    /// that speaks against it; since now, if there was one a moment ago.
    ///
    /// A service that is slow is silent too. Fewer than `fall` wrong answers since the
    /// last good one are not what made it failing.
    pub fn silent_since(&self, now: Moment) -> Option<Moment> {
        let by_silence = self.state() == CheckState::Failing && self.wrongs < self.limits.fall;
        by_silence.then(|| self.unanswered.unwrap_or(now))
    }

    /// Answers in a row that speak against the settled state, and how many turn it.
    pub fn against(&self) -> (u32, u32) {
        match self.settled {
            Settled::Nothing | Settled::Well => (self.failures, self.limits.fall),
            Settled::Ill => (self.goods, self.limits.rise),
        }
    }

    /// When to step next if nothing happens before.
    pub fn wake(&self) -> Moment {
        let wake = self.due.min(self.reported + self.limits.refresh());
        if self.pending.is_empty() {
            return wake;
        }
        wake.min(self.stepped + self.limits.late_max() / 2)
    }

    /// Takes in what happened.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let before = self.state();
        self.notice_stall(now);
        let mut effects = Vec::new();
        match event {
            Event::Woke => effects.extend(self.ask(now)),
            Event::Settled { question, outcome } => self.settle(now, question, outcome),
            Event::Deserted => self.desert(now),
        }
        self.stepped = now;
        if self.state() != before {
            self.reported = now;
            effects.push(Effect::Change);
        } else if now >= self.reported + self.limits.refresh() {
            self.reported = now;
            effects.push(Effect::Refresh);
        }
        effects
    }

    fn notice_stall(&mut self, now: Moment) {
        let late = now.since(self.wake());
        if late > self.limits.late_max() {
            self.stalled = Some((now, late));
        }
    }

    /// The next question, if one is due. Missed ones are not made up for.
    fn ask(&mut self, now: Moment) -> Option<Effect> {
        if now < self.due {
            return None;
        }
        let interval = self.limits.interval.as_nanos() as u64;
        let behind = now.since(self.due).as_nanos() as u64;
        self.due = now + Duration::from_nanos(interval - behind % interval);
        if self.pending.len() >= self.overlap {
            return None;
        }
        let question = self.next;
        self.next += 1;
        self.pending.insert(question, now);
        Some(Effect::Ask { question })
    }

    fn settle(&mut self, now: Moment, question: u64, outcome: Outcome) {
        // A question from before a desertion is no longer of interest.
        let Some(asked) = self.pending.remove(&question) else {
            return;
        };
        self.confirmed = now;
        match outcome {
            Outcome::Good => self.count_good(),
            Outcome::Bad => {
                self.unanswered = None;
                self.wrongs = self.wrongs.saturating_add(1);
                self.count_failure();
            }
            Outcome::Unasked => self.cover(Veil::Unasked),
            Outcome::Silent => match self.lateness(now, asked) {
                Some(late) => self.cover(Veil::Late(late)),
                None => {
                    self.unanswered.get_or_insert(asked);
                    self.count_failure();
                }
            },
        }
    }

    /// How late this prober ran during a question that was asked then, if too late.
    fn lateness(&self, now: Moment, asked: Moment) -> Option<Duration> {
        let judged_late = now.since(asked + self.limits.timeout);
        let stalled = self
            .stalled
            .filter(|(at, _)| *at >= asked)
            .map(|(_, late)| late);
        stalled.or((judged_late > self.limits.late_max()).then_some(judged_late))
    }

    fn count_good(&mut self) {
        self.veil = Veil::None;
        self.failures = 0;
        self.wrongs = 0;
        self.unanswered = None;
        self.goods = self.goods.saturating_add(1);
        match self.settled {
            Settled::Nothing => self.settled = Settled::Well,
            Settled::Ill if self.goods >= self.limits.rise => self.settled = Settled::Well,
            Settled::Ill | Settled::Well => {}
        }
    }

    fn count_failure(&mut self) {
        self.veil = Veil::None;
        self.goods = 0;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.limits.fall {
            self.settled = Settled::Ill;
        }
    }

    /// A round that told nothing breaks every row.
    fn cover(&mut self, veil: Veil) {
        self.veil = veil;
        self.failures = 0;
        self.goods = 0;
    }

    fn desert(&mut self, now: Moment) {
        self.cover(Veil::None);
        self.settled = Settled::Ill;
        self.wrongs = self.limits.fall;
        // Answers that were under way before the death must not count towards rise.
        self.pending.clear();
        self.confirmed = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LIMITS: Limits = Limits {
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(200),
        fall: 2,
        rise: 2,
    };

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(1_000_000_000) + MS * millis as u32
    }

    /// A machine with its clock: asks by itself, is told what comes of the questions.
    struct Bench {
        machine: Machine,
        now: u64,
        asked: Vec<(u64, u64)>,
    }

    impl Bench {
        fn new(limits: Limits) -> Self {
            Self {
                machine: Machine::new(limits, at(0)),
                now: 0,
                asked: Vec::new(),
            }
        }

        fn step(&mut self, event: Event) -> Vec<Effect> {
            let effects = self.machine.step(at(self.now), event);
            for effect in &effects {
                if let Effect::Ask { question } = effect {
                    self.asked.push((*question, self.now));
                }
            }
            effects
        }

        /// Lets the time pass until `end`, punctually.
        fn run_to(&mut self, end: u64) {
            while self.machine.wake() <= at(end) {
                self.now = (self.machine.wake().since(at(0)).as_millis() as u64).max(self.now);
                self.step(Event::Woke);
            }
            self.now = self.now.max(end);
        }

        /// Asks one question in time and settles it: one row of the table.
        fn round(&mut self, round: Round) -> CheckState {
            let due = self.machine.due.since(at(0)).as_millis() as u64;
            self.run_to(due);
            let (question, asked) = *self.asked.last().expect("one was due");
            let event = |outcome| Event::Settled { question, outcome };
            let event = match round {
                Round::Good => event(Outcome::Good),
                Round::Bad => event(Outcome::Bad),
                Round::Unasked => event(Outcome::Unasked),
                Round::Deserted => Event::Deserted,
                Round::Late => {
                    self.now = asked + 301;
                    event(Outcome::Silent)
                }
            };
            self.step(event);
            self.machine.state()
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Round {
        Good,
        Bad,
        Unasked,
        Late,
        Deserted,
    }

    const ROUNDS: [Round; 5] = [
        Round::Good,
        Round::Bad,
        Round::Unasked,
        Round::Late,
        Round::Deserted,
    ];

    #[test]
    fn the_table() {
        use CheckState::{Failing, Ok, Unknown};
        use Round::{Bad, Deserted, Good, Late, Unasked};
        let check = |rounds: &[Round], expected: &[CheckState]| {
            let mut bench = Bench::new(LIMITS);
            let states: Vec<_> = rounds.iter().map(|round| bench.round(*round)).collect();
            assert_eq!(states, expected, "{rounds:?}");
        };
        // Nothing settled.
        check(&[Good], &[Ok]);
        check(&[Bad, Bad], &[Unknown, Failing]);
        check(&[Bad, Good], &[Unknown, Ok]);
        check(&[Bad, Late, Bad], &[Unknown, Unknown, Unknown]);
        check(&[Deserted], &[Failing]);
        // Well.
        check(&[Good, Bad, Bad], &[Ok, Ok, Failing]);
        check(&[Good, Bad, Good, Bad], &[Ok, Ok, Ok, Ok]);
        check(&[Good, Late, Good], &[Ok, Unknown, Ok]);
        check(&[Good, Unasked, Bad, Bad], &[Ok, Unknown, Ok, Failing]);
        check(&[Good, Bad, Unasked, Bad], &[Ok, Ok, Unknown, Ok]);
        check(&[Good, Deserted], &[Ok, Failing]);
        // Ill.
        check(&[Deserted, Good, Good], &[Failing, Failing, Ok]);
        check(
            &[Deserted, Good, Bad, Good],
            &[Failing, Failing, Failing, Failing],
        );
        check(&[Deserted, Late, Bad], &[Failing, Unknown, Failing]);
        check(
            &[Deserted, Good, Unasked, Good],
            &[Failing, Failing, Unknown, Failing],
        );
        check(
            &[Deserted, Good, Deserted, Good],
            &[Failing, Failing, Failing, Failing],
        );
    }

    /// What the state must be after `rounds`, said without a machine.
    fn expected(rounds: &[Round]) -> CheckState {
        let mut well = None;
        for end in 1..=rounds.len() {
            let row = |wanted: Round, length: usize| {
                end >= length
                    && rounds[end - length..end]
                        .iter()
                        .all(|round| *round == wanted)
            };
            if row(Round::Deserted, 1) || row(Round::Bad, 2) {
                well = Some(false);
            } else if row(Round::Good, 2) || (row(Round::Good, 1) && well.is_none()) {
                well = Some(true);
            }
        }
        match (rounds.last(), well) {
            (Some(Round::Late | Round::Unasked) | None, _) | (_, None) => CheckState::Unknown,
            (_, Some(true)) => CheckState::Ok,
            (_, Some(false)) => CheckState::Failing,
        }
    }

    #[test]
    fn every_history_of_six_rounds() {
        const LENGTH: u32 = 6;
        for history in 0..ROUNDS.len().pow(LENGTH) {
            let mut bench = Bench::new(LIMITS);
            let mut rounds = Vec::new();
            let mut rest = history;
            for _ in 0..LENGTH {
                rounds.push(ROUNDS[rest % ROUNDS.len()]);
                rest /= ROUNDS.len();
                let state = bench.round(*rounds.last().expect("just pushed"));
                assert_eq!(state, expected(&rounds), "{rounds:?}");
            }
        }
    }

    #[test]
    fn questions_overlap_so_that_a_hung_service_is_found_in_time() {
        let mut bench = Bench::new(LIMITS);
        bench.run_to(0);
        bench.step(Event::Settled {
            question: 0,
            outcome: Outcome::Good,
        });
        // It hangs from here on; each question runs into its own deadline.
        bench.run_to(250);
        assert_eq!(
            bench.asked,
            [(0, 0), (1, 50), (2, 100), (3, 150), (4, 200), (5, 250)]
        );
        bench.step(Event::Settled {
            question: 1,
            outcome: Outcome::Silent,
        });
        assert_eq!(bench.machine.state(), CheckState::Ok);
        bench.run_to(300);
        let effects = bench.step(Event::Settled {
            question: 2,
            outcome: Outcome::Silent,
        });
        assert_eq!(effects, [Effect::Change]);
        assert_eq!(bench.machine.state(), CheckState::Failing);
        let limit = 2 * LIMITS.timeout + Duration::from_millis(50);
        assert!(at(bench.now).since(at(0)) <= limit);
    }

    /// Settles the oldest question under way, at the moment given.
    fn settle(bench: &mut Bench, now: u64, outcome: Outcome) {
        bench.run_to(now);
        let question = *bench.machine.pending.keys().next().expect("one is pending");
        bench.step(Event::Settled { question, outcome });
    }

    #[test]
    fn silence_is_told_from_wrong_answers() {
        let since = |bench: &Bench| bench.machine.silent_since(at(bench.now));
        let mut bench = Bench::new(LIMITS);
        settle(&mut bench, 10, Outcome::Good);
        assert_eq!(since(&bench), None, "well");
        settle(&mut bench, 250, Outcome::Silent);
        settle(&mut bench, 300, Outcome::Silent);
        assert_eq!(since(&bench), Some(at(50)), "from the first question on");
        settle(&mut bench, 301, Outcome::Good);
        assert_eq!(
            bench.machine.state(),
            CheckState::Failing,
            "one is not enough"
        );
        assert_eq!(since(&bench), Some(at(301)), "but it is not dead");
        settle(&mut bench, 400, Outcome::Silent);
        assert_eq!(since(&bench), Some(at(200)));
        settle(&mut bench, 450, Outcome::Bad);
        assert_eq!(since(&bench), Some(at(450)), "one wrong answer");
        settle(&mut bench, 460, Outcome::Bad);
        assert_eq!(since(&bench), None, "enough of them");
        settle(&mut bench, 600, Outcome::Silent);
        assert_eq!(since(&bench), None, "until it has been well");
    }

    #[test]
    fn a_death_is_no_silence() {
        let mut bench = Bench::new(LIMITS);
        settle(&mut bench, 10, Outcome::Good);
        bench.step(Event::Deserted);
        assert_eq!(bench.machine.silent_since(at(10)), None);
        settle(&mut bench, 250, Outcome::Silent);
        settle(&mut bench, 300, Outcome::Silent);
        assert_eq!(bench.machine.silent_since(at(300)), None);
    }

    #[test]
    fn the_number_of_questions_is_bounded() {
        let mut bench = Bench::new(Limits {
            timeout: Duration::from_secs(60),
            ..LIMITS
        });
        bench.run_to(10_000);
        assert_eq!(bench.asked.len(), OUTSTANDING_MAX);
        bench.step(Event::Settled {
            question: 0,
            outcome: Outcome::Good,
        });
        bench.run_to(10_050);
        assert_eq!(bench.asked.len(), OUTSTANDING_MAX + 1);
    }

    #[test]
    fn costly_questions_overlap_less_and_find_a_hang_as_soon() {
        let mut bench = Bench::new(LIMITS);
        bench.machine = bench.machine.overlapping(2);
        bench.run_to(190);
        assert_eq!(bench.asked, [(0, 0), (1, 50)]);
        settle(&mut bench, 200, Outcome::Silent);
        settle(&mut bench, 250, Outcome::Silent);
        assert_eq!(bench.machine.state(), CheckState::Failing);
    }

    #[test]
    fn a_pause_of_the_prober_makes_silence_unknown_but_not_a_refusal() {
        for (outcome, expected) in [
            (Outcome::Silent, CheckState::Unknown),
            (Outcome::Bad, CheckState::Failing),
            (Outcome::Good, CheckState::Ok),
        ] {
            let mut bench = Bench::new(Limits { fall: 1, ..LIMITS });
            bench.run_to(0);
            // It should have been woken at 50 and comes to at 190: within the time-out.
            bench.now = 190;
            bench.step(Event::Woke);
            bench.now = 200;
            bench.step(Event::Settled {
                question: 0,
                outcome,
            });
            assert_eq!(bench.machine.state(), expected, "{outcome:?}");
        }
    }

    #[test]
    fn a_pause_ends_with_the_questions_that_it_touched() {
        let mut bench = Bench::new(Limits { fall: 1, ..LIMITS });
        bench.run_to(0);
        bench.now = 190;
        bench.step(Event::Woke);
        bench.run_to(390);
        let (touched, untouched) = (bench.asked[1].0, bench.asked[2].0);
        bench.step(Event::Settled {
            question: touched,
            outcome: Outcome::Silent,
        });
        assert_eq!(bench.machine.state(), CheckState::Unknown);
        assert!(matches!(bench.machine.veil(), Veil::Late(late) if late == 140 * MS));
        bench.step(Event::Settled {
            question: untouched,
            outcome: Outcome::Silent,
        });
        assert_eq!(bench.machine.state(), CheckState::Failing);
    }

    #[test]
    fn after_a_long_pause_one_question_is_asked_and_the_beat_is_kept() {
        let mut bench = Bench::new(LIMITS);
        bench.run_to(0);
        bench.step(Event::Settled {
            question: 0,
            outcome: Outcome::Good,
        });
        bench.now = 1_020;
        bench.step(Event::Woke);
        assert_eq!(bench.asked.last(), Some(&(1, 1_020)));
        bench.run_to(1_049);
        assert_eq!(bench.asked.len(), 2);
        bench.run_to(1_050);
        assert_eq!(bench.asked.last(), Some(&(2, 1_050)));
    }

    #[test]
    fn an_answer_from_before_the_desertion_does_not_count() {
        let mut bench = Bench::new(Limits { rise: 1, ..LIMITS });
        bench.run_to(0);
        bench.step(Event::Deserted);
        bench.step(Event::Settled {
            question: 0,
            outcome: Outcome::Good,
        });
        assert_eq!(bench.machine.state(), CheckState::Failing);
    }

    #[test]
    fn an_unchanged_state_is_told_again() {
        let mut bench = Bench::new(Limits {
            interval: Duration::from_secs(30),
            ..LIMITS
        });
        bench.run_to(0);
        bench.step(Event::Settled {
            question: 0,
            outcome: Outcome::Good,
        });
        let mut told = 0;
        for now in 1..=5_000 {
            bench.now = now;
            told += bench
                .step(Event::Woke)
                .iter()
                .filter(|one| **one == Effect::Refresh)
                .count();
        }
        assert_eq!(told, 5);
        assert_eq!(bench.machine.confirmed(), at(0));
    }

    #[test]
    fn absurd_limits_are_survived() {
        let nothing = Limits {
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            fall: 0,
            rise: 0,
        };
        let mut bench = Bench::new(nothing);
        bench.run_to(100);
        assert_eq!(bench.asked.len(), OUTSTANDING_MAX);
        bench.step(Event::Settled {
            question: 0,
            outcome: Outcome::Bad,
        });
        assert_eq!(bench.machine.state(), CheckState::Failing);
    }
}
