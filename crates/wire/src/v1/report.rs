//! What one node tells the others.
//!
//! What was added to the first form follows it: older programs do not look there, and
//! where it is missing an older program spoke.

use evenkeel_core::health::{
    CheckReport, CheckState, GroupReport, Measure, Report, Silence, Standing,
};
use evenkeel_core::settling::Settling;
use evenkeel_core::switchover::Departure;
use evenkeel_core::{NodeId, ServiceName};
use serde::{Deserialize, Serialize};

use super::parts::{EpochForm, IncarnationForm, SpanForm, check_name, group, node};
use crate::WireError;

/// The longest report: every check of a large cluster with its detail.
pub const REPORT_LENGTH_MAX: usize = 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct ReportForm {
    incarnation: IncarnationForm,
    seq: u64,
    stopping: bool,
    guard_full: bool,
    config_digest: u64,
    leader: Option<u64>,
    checks: Vec<CheckForm>,
    groups: Vec<(u64, EpochForm, StandingForm, Option<String>)>,
    silences: Vec<(u64, EpochForm, SpanForm, Option<SpanForm>)>,
    floors_above: Vec<(u64, EpochForm)>,
}

/// What was added first.
#[derive(Default, Serialize, Deserialize)]
struct AddedForm {
    lateness: SpanForm,
    /// How long each check has been silent, in the order of `checks`.
    silent: Vec<Option<SpanForm>>,
    generation: u64,
}

/// What was added next: what its log remembers.
#[derive(Serialize, Deserialize)]
struct MemoryForm {
    votes: bool,
    stored: u64,
}

/// What was added then: planned moves.
#[derive(Default, Serialize, Deserialize)]
struct PlannedForm {
    leaving: Vec<(u64, EpochForm)>,
    /// In the order of `groups`.
    departures: Vec<DepartureForm>,
}

/// What was added then: checks in turns, and what they measured.
#[derive(Serialize, Deserialize)]
struct TurnsForm {
    whole: bool,
    /// Places in `checks`, in their order.
    terse: Vec<u32>,
    measures: Vec<(u32, Vec<MeasureForm>)>,
}

/// What was added last: what is being started.
#[derive(Default, Serialize, Deserialize)]
struct StartingForm {
    /// Places in `groups`, in their order.
    settling: Vec<(u32, Vec<(String, SettlingForm)>)>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum SettlingForm {
    Asked,
    Restarting,
    Started,
}

impl From<Settling> for SettlingForm {
    fn from(settling: Settling) -> Self {
        match settling {
            Settling::Asked => Self::Asked,
            Settling::Restarting => Self::Restarting,
            Settling::Started => Self::Started,
        }
    }
}

impl From<SettlingForm> for Settling {
    fn from(form: SettlingForm) -> Self {
        match form {
            SettlingForm::Asked => Self::Asked,
            SettlingForm::Restarting => Self::Restarting,
            SettlingForm::Started => Self::Started,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct MeasureForm {
    label: String,
    value: Option<f64>,
    unit: String,
}

/// What was added then: how far its log is, and what is wrong with it.
#[derive(Serialize, Deserialize)]
struct LogForm {
    caught_up: bool,
    fault: Option<String>,
}

/// A program that does not say takes what it is given.
const CAUGHT_UP: LogForm = LogForm {
    caught_up: true,
    fault: None,
};

/// A program that does not say tells everything.
const ALL_TOLD: TurnsForm = TurnsForm {
    whole: true,
    terse: Vec::new(),
    measures: Vec::new(),
};

impl From<&Measure> for MeasureForm {
    fn from(measure: &Measure) -> Self {
        Self {
            label: measure.label.clone(),
            value: measure.value,
            unit: measure.unit.clone(),
        }
    }
}

impl From<MeasureForm> for Measure {
    fn from(form: MeasureForm) -> Self {
        Self {
            label: form.label,
            value: form.value,
            unit: form.unit,
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum DepartureForm {
    Staying,
    Draining,
    Drained { busy: u32, took: SpanForm },
}

impl From<Departure> for DepartureForm {
    fn from(departure: Departure) -> Self {
        match departure {
            Departure::Staying => Self::Staying,
            Departure::Draining => Self::Draining,
            Departure::Drained { busy, took } => Self::Drained {
                busy,
                took: took.into(),
            },
        }
    }
}

impl From<DepartureForm> for Departure {
    fn from(form: DepartureForm) -> Self {
        match form {
            DepartureForm::Staying => Self::Staying,
            DepartureForm::Draining => Self::Draining,
            DepartureForm::Drained { busy, took } => Self::Drained {
                busy,
                took: took.into(),
            },
        }
    }
}

/// A program that does not say it has no log that it may have lost.
const NOT_SAID: MemoryForm = MemoryForm {
    votes: true,
    stored: 0,
};

#[derive(Serialize, Deserialize)]
struct CheckForm {
    group: u64,
    check: String,
    judged: u64,
    state: StateForm,
    age: SpanForm,
    detail: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum StateForm {
    Ok,
    Failing,
    Unknown,
    Idle,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum StandingForm {
    Off,
    Opening,
    Open,
    Lapsed,
    Released,
}

impl From<CheckState> for StateForm {
    fn from(state: CheckState) -> Self {
        match state {
            CheckState::Ok => Self::Ok,
            CheckState::Failing => Self::Failing,
            CheckState::Unknown => Self::Unknown,
            CheckState::Idle => Self::Idle,
        }
    }
}

impl From<StateForm> for CheckState {
    fn from(form: StateForm) -> Self {
        match form {
            StateForm::Ok => Self::Ok,
            StateForm::Failing => Self::Failing,
            StateForm::Unknown => Self::Unknown,
            StateForm::Idle => Self::Idle,
        }
    }
}

impl From<Standing> for StandingForm {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Off => Self::Off,
            Standing::Opening => Self::Opening,
            Standing::Open => Self::Open,
            Standing::Lapsed => Self::Lapsed,
            Standing::Released => Self::Released,
        }
    }
}

impl From<StandingForm> for Standing {
    fn from(form: StandingForm) -> Self {
        match form {
            StandingForm::Off => Self::Off,
            StandingForm::Opening => Self::Opening,
            StandingForm::Open => Self::Open,
            StandingForm::Lapsed => Self::Lapsed,
            StandingForm::Released => Self::Released,
        }
    }
}

/// The bytes of a report.
pub fn encode(report: &Report) -> Vec<u8> {
    let added = added_to(report);
    let first = first_form(report);
    crate::encode(&(
        first,
        added,
        memory_of(report),
        planned_in(report),
        turns_of(report),
        log_of(report),
        starting_of(report),
    ))
}

fn log_of(report: &Report) -> LogForm {
    LogForm {
        caught_up: report.caught_up,
        fault: report.log_fault.clone(),
    }
}

fn starting_of(report: &Report) -> StartingForm {
    let groups = (0..).zip(&report.groups);
    let settling = groups.filter(|(_, one)| !one.settling.is_empty());
    let forms = |one: &GroupReport| {
        let all = one.settling.iter();
        all.map(|(name, why)| (name.to_string(), (*why).into()))
            .collect()
    };
    StartingForm {
        settling: settling.map(|(at, one)| (at, forms(one))).collect(),
    }
}

/// Puts what was added to groups into its places; names that nobody can have are left out.
fn take_settling(groups: &mut [GroupReport], settling: Vec<(u32, Vec<(String, SettlingForm)>)>) {
    for (at, all) in settling {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let Some(group) = groups.get_mut(at) else {
            continue;
        };
        let all = all.into_iter();
        let read = all.filter_map(|(name, why)| Some((ServiceName::new(&name).ok()?, why.into())));
        group.settling = read.collect();
    }
}

fn turns_of(report: &Report) -> TurnsForm {
    let checks = || (0..).zip(&report.checks);
    let terse = checks().filter(|(_, one)| one.terse);
    let measuring = checks().filter(|(_, one)| !one.measures.is_empty());
    TurnsForm {
        whole: report.whole,
        terse: terse.map(|(at, _)| at).collect(),
        measures: measuring
            .map(|(at, one)| (at, one.measures.iter().map(Into::into).collect()))
            .collect(),
    }
}

/// Puts what was added to checks into its places; others do not exist.
fn take_turns(checks: &mut [CheckReport], turns: TurnsForm) {
    let place = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
    for at in turns.terse {
        if let Some(one) = checks.get_mut(place(at)) {
            one.terse = true;
        }
    }
    for (at, measures) in turns.measures {
        if let Some(one) = checks.get_mut(place(at)) {
            one.measures = measures.into_iter().map(Into::into).collect();
        }
    }
}

fn memory_of(report: &Report) -> MemoryForm {
    MemoryForm {
        votes: report.votes,
        stored: report.stored,
    }
}

fn planned_in(report: &Report) -> PlannedForm {
    let leaving = report.leaving.iter();
    let groups = report.groups.iter();
    PlannedForm {
        leaving: leaving.map(|(id, epoch)| (id.0, (*epoch).into())).collect(),
        departures: groups.map(|one| one.departure.into()).collect(),
    }
}

fn added_to(report: &Report) -> AddedForm {
    AddedForm {
        lateness: report.lateness.into(),
        silent: report
            .checks
            .iter()
            .map(|one| one.silent.map(Into::into))
            .collect(),
        generation: report.generation,
    }
}

fn first_form(report: &Report) -> ReportForm {
    ReportForm {
        incarnation: report.incarnation.into(),
        seq: report.seq,
        stopping: report.stopping,
        guard_full: report.guard_full,
        config_digest: report.config_digest,
        leader: report.leader.map(|node| node.0),
        checks: report
            .checks
            .iter()
            .map(|one| CheckForm {
                group: one.group.0,
                check: one.check.to_string(),
                judged: one.judged.0,
                state: one.state.into(),
                age: one.age.into(),
                detail: one.detail.clone(),
            })
            .collect(),
        groups: report
            .groups
            .iter()
            .map(|one| {
                (
                    one.group.0,
                    one.epoch.into(),
                    one.standing.into(),
                    one.unready.clone(),
                )
            })
            .collect(),
        silences: report
            .silences
            .iter()
            .map(|one| {
                (
                    one.group.0,
                    one.epoch.into(),
                    one.unheard.into(),
                    one.standing.map(Into::into),
                )
            })
            .collect(),
        floors_above: report
            .floors_above
            .iter()
            .map(|(group, epoch)| (group.0, (*epoch).into()))
            .collect(),
    }
}

/// Reads a report.
pub fn decode(bytes: &[u8]) -> Result<Report, WireError> {
    let (form, rest): (ReportForm, _) = crate::decode_part("report", REPORT_LENGTH_MAX, bytes)?;
    let (added, rest): (AddedForm, _) = crate::decode_added("report", rest)?.unwrap_or_default();
    let (memory, rest) = crate::decode_added("report", rest)?.unwrap_or((NOT_SAID, &[]));
    let (planned, rest): (PlannedForm, _) =
        crate::decode_added("report", rest)?.unwrap_or_default();
    let (turns, rest) = crate::decode_added("report", rest)?.unwrap_or((ALL_TOLD, &[]));
    let (log, rest) = crate::decode_added("report", rest)?.unwrap_or((CAUGHT_UP, &[]));
    let (starting, _): (StartingForm, _) = crate::decode_added("report", rest)?.unwrap_or_default();
    let mut departures = planned.departures.into_iter();
    let mut silent = added.silent.into_iter();
    let whole = turns.whole;
    let checks = form.checks.into_iter();
    let mut checks: Vec<CheckReport> = checks
        .map(|one| CheckReport {
            group: group(one.group),
            check: check_name(&one.check),
            judged: node(one.judged),
            state: one.state.into(),
            age: one.age.into(),
            silent: silent.next().flatten().map(Into::into),
            detail: one.detail,
            measures: Vec::new(),
            terse: false,
        })
        .collect();
    take_turns(&mut checks, turns);
    let groups = form.groups.into_iter();
    let mut groups: Vec<GroupReport> = groups
        .map(|(id, epoch, standing, unready)| GroupReport {
            group: group(id),
            epoch: epoch.into(),
            standing: standing.into(),
            unready,
            departure: departures.next().map(Into::into).unwrap_or_default(),
            settling: Vec::new(),
        })
        .collect();
    take_settling(&mut groups, starting.settling);
    Ok(Report {
        incarnation: form.incarnation.into(),
        seq: form.seq,
        stopping: form.stopping,
        guard_full: form.guard_full,
        config_digest: form.config_digest,
        generation: added.generation,
        votes: memory.votes,
        stored: memory.stored,
        caught_up: log.caught_up,
        log_fault: log.fault,
        leader: form.leader.map(NodeId),
        lateness: added.lateness.into(),
        checks,
        whole,
        groups,
        silences: form
            .silences
            .into_iter()
            .map(|(id, epoch, unheard, standing)| Silence {
                group: group(id),
                epoch: epoch.into(),
                unheard: unheard.into(),
                standing: standing.map(Into::into),
            })
            .collect(),
        floors_above: form
            .floors_above
            .into_iter()
            .map(|(id, epoch)| (group(id), epoch.into()))
            .collect(),
        leaving: planned
            .leaving
            .into_iter()
            .map(|(id, epoch)| (group(id), epoch.into()))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use evenkeel_core::{CheckName, Epoch, GroupId, Incarnation};

    #[test]
    fn what_is_written_is_read() {
        let report = example();
        assert_eq!(decode(&encode(&report)), Ok(report));
    }

    #[test]
    fn the_program_before_and_after_are_understood() {
        let mut report = example();
        let mut longer = encode(&report);
        longer.extend([1, 2, 3]);
        assert_eq!(decode(&longer).as_ref(), Ok(&report));
        let without_log = |report: &Report| {
            let first = (first_form(report), added_to(report), memory_of(report));
            crate::encode(&(first, planned_in(report), turns_of(report)))
        };
        assert_ne!(decode(&without_log(&report)).as_ref(), Ok(&report));
        report.caught_up = CAUGHT_UP.caught_up;
        report.log_fault = None;
        for group in &mut report.groups {
            group.settling.clear();
        }
        assert_eq!(decode(&without_log(&report)).as_ref(), Ok(&report));
        let (whole, checks) = (report.whole, report.checks.clone());
        report.whole = true;
        for check in &mut report.checks {
            check.terse = false;
            check.measures.clear();
        }
        let without_turns = |report: &Report| {
            let first = (first_form(report), added_to(report));
            crate::encode(&(first, memory_of(report), planned_in(report)))
        };
        assert!(!whole && checks != report.checks);
        assert_eq!(decode(&without_turns(&report)).as_ref(), Ok(&report));
        report.leaving.clear();
        for group in &mut report.groups {
            group.departure = Departure::Staying;
        }
        let parts = (first_form(&report), added_to(&report), memory_of(&report));
        assert_eq!(decode(&crate::encode(&parts)).as_ref(), Ok(&report));
        (report.votes, report.stored) = (NOT_SAID.votes, NOT_SAID.stored);
        let without_votes = crate::encode(&(first_form(&report), added_to(&report)));
        assert_eq!(decode(&without_votes).as_ref(), Ok(&report));
        let shorter = crate::encode(&first_form(&report));
        report.lateness = Duration::ZERO;
        report.generation = 0;
        for check in &mut report.checks {
            check.silent = None;
        }
        assert_eq!(decode(&shorter), Ok(report));
    }

    fn example() -> Report {
        let ms = Duration::from_millis;
        let states = [
            CheckState::Ok,
            CheckState::Failing,
            CheckState::Unknown,
            CheckState::Idle,
        ];
        let standings = [
            Standing::Off,
            Standing::Opening,
            Standing::Open,
            Standing::Lapsed,
            Standing::Released,
        ];
        Report {
            incarnation: Incarnation {
                counter: 1,
                nonce: 2,
            },
            seq: 3,
            stopping: true,
            guard_full: true,
            config_digest: 4,
            generation: u64::MAX,
            votes: false,
            stored: 6,
            caught_up: false,
            log_fault: Some("its log cannot be written: no space".to_owned()),
            leader: Some(NodeId(5)),
            lateness: ms(70),
            checks: states
                .into_iter()
                .map(|state| CheckReport {
                    group: GroupId(1),
                    check: CheckName::new("ping").expect("a name"),
                    judged: NodeId(2),
                    state,
                    age: ms(3),
                    silent: (state == CheckState::Failing).then_some(ms(400)),
                    detail: "no echo".to_owned(),
                    measures: vec![Measure {
                        label: "rta".to_owned(),
                        value: (state == CheckState::Ok).then_some(0.05),
                        unit: "ms".to_owned(),
                    }],
                    terse: state == CheckState::Idle,
                })
                .collect(),
            whole: false,
            groups: standings
                .into_iter()
                .map(|standing| GroupReport {
                    group: GroupId(1),
                    epoch: Epoch { term: 1, index: 2 },
                    standing,
                    unready: Some("no interface".to_owned()),
                    departure: match standing {
                        Standing::Open => Departure::Drained {
                            busy: 2,
                            took: ms(9),
                        },
                        Standing::Lapsed => Departure::Draining,
                        _ => Departure::Staying,
                    },
                    settling: match standing {
                        Standing::Open => {
                            [Settling::Asked, Settling::Restarting, Settling::Started]
                                .map(|why| (ServiceName::new("apache").expect("a name"), why))
                                .to_vec()
                        }
                        _ => Vec::new(),
                    },
                })
                .collect(),
            silences: vec![Silence {
                group: GroupId(1),
                epoch: Epoch { term: 1, index: 2 },
                unheard: ms(60),
                standing: Some(ms(70)),
            }],
            floors_above: vec![(GroupId(1), Epoch { term: 3, index: 4 })],
            leaving: vec![(GroupId(2), Epoch { term: 5, index: 6 })],
        }
    }
}
