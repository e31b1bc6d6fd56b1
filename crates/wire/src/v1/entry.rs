//! Entries of the log.
//!
//! A cause that was added later is written as the nearest one of the first form, which means the
//! same to the agreed state, and by its number after the entry: an older program reads the
//! former and does not look at the latter. So all versions agree on the same.

use evenkeel_core::command::{Assign, Command, Drain, Opened, Phase, Recovered};
use evenkeel_core::evidence::{Cause, CheckFact, Considered, Evidence};
use evenkeel_core::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use super::parts::{AddressForm, EpochForm, IncarnationForm, SpanForm, check_name, group, node};
use crate::WireError;

/// The longest entry: 4,096 addresses with device names, and full evidence.
pub const ENTRY_LENGTH_MAX: usize = 512 * 1024;

#[derive(Clone, Serialize, Deserialize)]
pub(super) enum CommandForm {
    Assign(AssignForm),
    Started {
        node: u64,
        incarnation: IncarnationForm,
    },
    Readmit {
        node: u64,
    },
    Opened(OpenedForm),
    Recovered(RecoveredForm),
    Drain {
        node: u64,
        lasting: Option<SpanForm>,
        wall_ms: u64,
    },
    Undrain {
        node: u64,
        began: Option<EpochForm>,
    },
    Forgive {
        group: u64,
        node: u64,
        failure: EpochForm,
    },
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AssignForm {
    group: u64,
    holder: u64,
    incarnation: IncarnationForm,
    addresses: Vec<AddressForm>,
    evidence: EvidenceForm,
}

#[derive(Clone, Serialize, Deserialize)]
struct EvidenceForm {
    cause: CauseForm,
    from: Option<u64>,
    decided_by: u64,
    wall_ms: u64,
    known_for: SpanForm,
    checks: Vec<(String, u64, String)>,
    considered: Vec<(u64, String)>,
}

#[derive(Clone, Serialize, Deserialize)]
enum CauseForm {
    FirstStart,
    HolderSilent {
        voters: u32,
        of: u32,
        silence: SpanForm,
    },
    HolderDeaf {
        standing: SpanForm,
    },
    RuleHolds,
    Operator,
    HolderStopping,
    HolderRestarted,
    HolderReleased,
    FloorAbove {
        voter: u64,
    },
    Failback,
    Recovered,
    Reconfigured,
    Drained,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct RecoveredForm {
    by: u64,
    stopped: Vec<u64>,
    generation: u64,
    last: EpochForm,
    wall_ms: u64,
}

impl From<&Recovered> for RecoveredForm {
    fn from(recovered: &Recovered) -> Self {
        Self {
            by: recovered.by.0,
            stopped: recovered.stopped.iter().map(|node| node.0).collect(),
            generation: recovered.generation,
            last: recovered.last.into(),
            wall_ms: recovered.wall_ms,
        }
    }
}

impl From<RecoveredForm> for Recovered {
    fn from(form: RecoveredForm) -> Self {
        Self {
            by: node(form.by),
            stopped: form.stopped.into_iter().map(node).collect(),
            generation: form.generation,
            last: form.last.into(),
            wall_ms: form.wall_ms,
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct OpenedForm {
    group: u64,
    epoch: EpochForm,
    node: u64,
    phases: Vec<(String, SpanForm)>,
}

impl From<&Cause> for CauseForm {
    fn from(cause: &Cause) -> Self {
        match cause {
            Cause::FirstStart => Self::FirstStart,
            Cause::HolderSilent {
                voters,
                of,
                silence,
            } => Self::HolderSilent {
                voters: *voters,
                of: *of,
                silence: (*silence).into(),
            },
            Cause::HolderDeaf { standing } => Self::HolderDeaf {
                standing: (*standing).into(),
            },
            Cause::RuleHolds | Cause::HolderUnready => Self::RuleHolds,
            Cause::Operator => Self::Operator,
            Cause::HolderStopping => Self::HolderStopping,
            Cause::HolderRestarted => Self::HolderRestarted,
            Cause::HolderReleased => Self::HolderReleased,
            Cause::FloorAbove { voter } => Self::FloorAbove { voter: voter.0 },
            Cause::Failback => Self::Failback,
            Cause::Recovered => Self::Recovered,
            Cause::Reconfigured | Cause::HolderUnlisted => Self::Reconfigured,
            Cause::Drained => Self::Drained,
        }
    }
}

impl From<CauseForm> for Cause {
    fn from(form: CauseForm) -> Self {
        match form {
            CauseForm::FirstStart => Self::FirstStart,
            CauseForm::HolderSilent {
                voters,
                of,
                silence,
            } => Self::HolderSilent {
                voters,
                of,
                silence: silence.into(),
            },
            CauseForm::HolderDeaf { standing } => Self::HolderDeaf {
                standing: standing.into(),
            },
            CauseForm::RuleHolds => Self::RuleHolds,
            CauseForm::Operator => Self::Operator,
            CauseForm::HolderStopping => Self::HolderStopping,
            CauseForm::HolderRestarted => Self::HolderRestarted,
            CauseForm::HolderReleased => Self::HolderReleased,
            CauseForm::FloorAbove { voter } => Self::FloorAbove { voter: node(voter) },
            CauseForm::Failback => Self::Failback,
            CauseForm::Recovered => Self::Recovered,
            CauseForm::Reconfigured => Self::Reconfigured,
            CauseForm::Drained => Self::Drained,
        }
    }
}

/// The number of a cause that the first form does not have.
pub(super) fn added_cause(cause: &Cause) -> Option<u64> {
    match cause {
        Cause::HolderUnready => Some(1),
        Cause::HolderUnlisted => Some(2),
        Cause::FirstStart
        | Cause::HolderSilent { .. }
        | Cause::HolderDeaf { .. }
        | Cause::RuleHolds
        | Cause::Operator
        | Cause::HolderStopping
        | Cause::HolderRestarted
        | Cause::HolderReleased
        | Cause::FloorAbove { .. }
        | Cause::Failback
        | Cause::Recovered
        | Cause::Reconfigured
        | Cause::Drained => None,
    }
}

/// What a number after an entry says its cause is; nothing of one that a later program has added.
pub(super) fn cause_added(number: u64) -> Option<Cause> {
    match number {
        1 => Some(Cause::HolderUnready),
        2 => Some(Cause::HolderUnlisted),
        _ => None,
    }
}

impl From<&Evidence> for EvidenceForm {
    fn from(evidence: &Evidence) -> Self {
        Self {
            cause: (&evidence.cause).into(),
            from: evidence.from.map(|node| node.0),
            decided_by: evidence.decided_by.0,
            wall_ms: evidence.wall_ms,
            known_for: evidence.known_for.into(),
            checks: evidence
                .checks
                .iter()
                .map(|fact| (fact.check.to_string(), fact.said_by.0, fact.detail.clone()))
                .collect(),
            considered: evidence
                .considered
                .iter()
                .map(|one| (one.node.0, one.why.clone()))
                .collect(),
        }
    }
}

impl From<EvidenceForm> for Evidence {
    fn from(form: EvidenceForm) -> Self {
        Self {
            cause: form.cause.into(),
            from: form.from.map(NodeId),
            decided_by: node(form.decided_by),
            wall_ms: form.wall_ms,
            known_for: form.known_for.into(),
            checks: form
                .checks
                .into_iter()
                .map(|(check, said_by, detail)| CheckFact {
                    check: check_name(&check),
                    said_by: node(said_by),
                    detail,
                })
                .collect(),
            considered: form
                .considered
                .into_iter()
                .map(|(id, why)| Considered {
                    node: node(id),
                    why,
                })
                .collect(),
        }
    }
}

impl From<&Assign> for AssignForm {
    fn from(assign: &Assign) -> Self {
        Self {
            group: assign.group.0,
            holder: assign.holder.0,
            incarnation: assign.incarnation.into(),
            addresses: assign.addresses.iter().map(Into::into).collect(),
            evidence: (&assign.evidence).into(),
        }
    }
}

impl From<AssignForm> for Assign {
    fn from(form: AssignForm) -> Self {
        Self {
            group: group(form.group),
            holder: node(form.holder),
            incarnation: form.incarnation.into(),
            addresses: form.addresses.into_iter().map(Into::into).collect(),
            evidence: form.evidence.into(),
        }
    }
}

impl From<&Opened> for OpenedForm {
    fn from(opened: &Opened) -> Self {
        Self {
            group: opened.group.0,
            epoch: opened.epoch.into(),
            node: opened.node.0,
            phases: opened
                .phases
                .iter()
                .map(|phase| (phase.what.clone(), phase.after.into()))
                .collect(),
        }
    }
}

impl From<OpenedForm> for Opened {
    fn from(form: OpenedForm) -> Self {
        Self {
            group: group(form.group),
            epoch: form.epoch.into(),
            node: node(form.node),
            phases: form
                .phases
                .into_iter()
                .map(|(what, after)| Phase {
                    what,
                    after: after.into(),
                })
                .collect(),
        }
    }
}

impl From<&Command> for CommandForm {
    fn from(command: &Command) -> Self {
        match command {
            Command::Assign(assign) => Self::Assign(assign.into()),
            Command::Started { node, incarnation } => Self::Started {
                node: node.0,
                incarnation: (*incarnation).into(),
            },
            Command::Readmit { node } => Self::Readmit { node: node.0 },
            Command::Opened(opened) => Self::Opened(opened.into()),
            Command::Recovered(recovered) => Self::Recovered(recovered.into()),
            Command::Drain(drain) => Self::Drain {
                node: drain.node.0,
                lasting: drain.lasting.map(Into::into),
                wall_ms: drain.wall_ms,
            },
            Command::Undrain { node, began } => Self::Undrain {
                node: node.0,
                began: began.map(Into::into),
            },
            Command::Forgive {
                group,
                node,
                failure,
            } => Self::Forgive {
                group: group.0,
                node: node.0,
                failure: (*failure).into(),
            },
        }
    }
}

impl From<CommandForm> for Command {
    fn from(form: CommandForm) -> Self {
        match form {
            CommandForm::Assign(assign) => Self::Assign(assign.into()),
            CommandForm::Started {
                node: id,
                incarnation,
            } => Self::Started {
                node: node(id),
                incarnation: incarnation.into(),
            },
            CommandForm::Readmit { node: id } => Self::Readmit { node: node(id) },
            CommandForm::Opened(opened) => Self::Opened(opened.into()),
            CommandForm::Recovered(recovered) => Self::Recovered(recovered.into()),
            CommandForm::Drain {
                node: id,
                lasting,
                wall_ms,
            } => Self::Drain(Drain {
                node: node(id),
                lasting: lasting.map(Into::into),
                wall_ms,
            }),
            CommandForm::Undrain { node: id, began } => Self::Undrain {
                node: node(id),
                began: began.map(Into::into),
            },
            CommandForm::Forgive {
                group: of,
                node: id,
                failure,
            } => Self::Forgive {
                group: group(of),
                node: node(id),
                failure: failure.into(),
            },
        }
    }
}

/// The bytes of an entry.
pub fn encode(command: &Command) -> Vec<u8> {
    let form = CommandForm::from(command);
    let added = match command {
        Command::Assign(assign) => added_cause(&assign.evidence.cause),
        _ => None,
    };
    match added {
        Some(added) => crate::encode(&(form, added)),
        None => crate::encode(&form),
    }
}

/// Reads an entry.
pub fn decode(bytes: &[u8]) -> Result<Command, WireError> {
    const WHAT: &str = "log entry";
    let (form, rest): (CommandForm, _) = crate::decode_part(WHAT, ENTRY_LENGTH_MAX, bytes)?;
    let mut command = form.into();
    if let (Command::Assign(assign), Some((number, _))) =
        (&mut command, crate::decode_added(WHAT, rest)?)
        && let Some(cause) = cause_added(number)
    {
        assign.evidence.cause = cause;
    }
    Ok(command)
}

/// What is kept beside a floor: whose epoch it is.
pub fn encode_floor(holder: NodeId, incarnation: Incarnation) -> Vec<u8> {
    crate::encode(&(holder.0, IncarnationForm::from(incarnation)))
}

/// Reads what is kept beside a floor.
pub fn decode_floor(bytes: &[u8]) -> Result<(NodeId, Incarnation), WireError> {
    let (holder, incarnation): (u64, IncarnationForm) = crate::decode("floor", 64, bytes)?;
    Ok((NodeId(holder), incarnation.into()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use core::time::Duration;
    use evenkeel_core::topology::ServiceAddress;
    use evenkeel_core::{CheckName, Epoch, GroupId};

    /// One entry of each kind, and an assignment for each cause.
    pub(crate) fn samples() -> Vec<Command> {
        let ms = Duration::from_millis;
        let causes = vec![
            Cause::FirstStart,
            Cause::HolderSilent {
                voters: 2,
                of: 3,
                silence: ms(61),
            },
            Cause::HolderDeaf { standing: ms(62) },
            Cause::RuleHolds,
            Cause::HolderUnready,
            Cause::HolderUnlisted,
            Cause::Operator,
            Cause::HolderStopping,
            Cause::HolderRestarted,
            Cause::HolderReleased,
            Cause::FloorAbove { voter: NodeId(4) },
            Cause::Failback,
            Cause::Recovered,
            Cause::Reconfigured,
            Cause::Drained,
        ];
        let assign = |cause| {
            Command::Assign(Assign {
                group: GroupId(u64::MAX),
                holder: NodeId(2),
                incarnation: Incarnation {
                    counter: 3,
                    nonce: 4,
                },
                addresses: vec![
                    ServiceAddress {
                        ip: "192.0.2.100".parse().expect("an address"),
                        prefix: 24,
                        device: None,
                    },
                    ServiceAddress {
                        ip: "2001:db8::1".parse().expect("an address"),
                        prefix: 64,
                        device: Some("eth0".to_owned()),
                    },
                ],
                evidence: Evidence {
                    cause,
                    from: Some(NodeId(1)),
                    decided_by: NodeId(3),
                    wall_ms: 5,
                    known_for: ms(1),
                    checks: vec![CheckFact {
                        check: CheckName::new("apache").expect("a name"),
                        said_by: NodeId(1),
                        detail: "HTTP 503".to_owned(),
                    }],
                    considered: vec![Considered {
                        node: NodeId(2),
                        why: "well".to_owned(),
                    }],
                },
            })
        };
        let mut all: Vec<Command> = causes.into_iter().map(assign).collect();
        all.push(Command::Started {
            node: NodeId(1),
            incarnation: Incarnation {
                counter: 1,
                nonce: 2,
            },
        });
        all.push(Command::Readmit { node: NodeId(1) });
        all.push(Command::Recovered(Recovered {
            by: NodeId(1),
            stopped: vec![NodeId(2), NodeId(3)],
            generation: (1 << 32) | 5,
            last: Epoch { term: 2, index: 3 },
            wall_ms: 6,
        }));
        all.extend([Some(ms(3_600_000)), None].map(|lasting| {
            Command::Drain(Drain {
                node: NodeId(5),
                lasting,
                wall_ms: 8,
            })
        }));
        let epoch = Epoch { term: 2, index: 3 };
        all.extend([Some(epoch), None].map(|began| Command::Undrain {
            node: NodeId(6),
            began,
        }));
        all.push(Command::Forgive {
            group: GroupId(u64::MAX),
            node: NodeId(1),
            failure: epoch,
        });
        all.push(Command::Opened(Opened {
            group: GroupId(1),
            epoch: Epoch { term: 2, index: 3 },
            node: NodeId(4),
            phases: vec![Phase {
                what: "announced".to_owned(),
                after: ms(7),
            }],
        }));
        all
    }

    #[test]
    fn what_is_written_is_read() {
        for command in samples() {
            assert_eq!(decode(&encode(&command)), Ok(command));
        }
    }

    /// Stored for ever: the bytes of this entry may never change their meaning.
    #[test]
    fn an_entry_written_by_the_first_version_is_read() {
        let stored = [1, 1, 5, 7, 9];
        let known = Command::Started {
            node: NodeId(5),
            incarnation: Incarnation {
                counter: 7,
                nonce: 9,
            },
        };
        assert_eq!(encode(&known), stored);
        assert_eq!(decode(&stored), Ok(known));
    }

    #[test]
    fn the_entries_of_drains_keep_their_meaning() {
        let drain = |lasting| {
            Command::Drain(Drain {
                node: NodeId(5),
                lasting,
                wall_ms: 7,
            })
        };
        let table = [
            (drain(None), &[1, 5, 5, 0, 7][..]),
            (drain(Some(Duration::from_nanos(9))), &[1, 5, 5, 1, 9, 7]),
            (
                Command::Undrain {
                    node: NodeId(5),
                    began: Some(Epoch { term: 2, index: 3 }),
                },
                &[1, 6, 5, 1, 2, 3],
            ),
            (
                Command::Forgive {
                    group: GroupId(4),
                    node: NodeId(5),
                    failure: Epoch { term: 2, index: 3 },
                },
                &[1, 7, 4, 5, 2, 3],
            ),
        ];
        for (command, stored) in table {
            assert_eq!(encode(&command), stored, "{command:?}");
            assert_eq!(decode(stored), Ok(command));
        }
    }

    /// An older program reads the form alone; what it makes of it must lead to the same state. And
    /// this one reads what a later one adds.
    #[test]
    fn causes_that_were_added_mean_the_same_to_older_programs() {
        let mut added = 0;
        for command in samples() {
            let Command::Assign(assign) = &command else {
                continue;
            };
            let cause = &assign.evidence.cause;
            let Some(number) = added_cause(cause) else {
                continue;
            };
            added += 1;
            assert_eq!(cause_added(number).as_ref(), Some(cause));
            let bytes = encode(&command);
            let (last, older) = bytes.split_last().expect("bytes");
            assert_eq!(u64::from(*last), number, "after the entry");
            let Ok(Command::Assign(read)) = decode(older) else {
                panic!("{cause:?}");
            };
            let nearest = read.evidence.cause;
            assert_ne!(&nearest, cause);
            let meaning = |cause: &Cause| (cause.is_failure(), cause.is_planned());
            assert_eq!(meaning(&nearest), meaning(cause));
            let later = [older, &[99]].concat();
            let Ok(Command::Assign(read)) = decode(&later) else {
                panic!("{cause:?}");
            };
            assert_eq!(read.evidence.cause, nearest);
        }
        assert_eq!(added, 2);
    }

    #[test]
    fn a_floor_is_read_as_written() {
        let life = Incarnation {
            counter: 3,
            nonce: u64::MAX,
        };
        assert_eq!(
            decode_floor(&encode_floor(NodeId(9), life)),
            Ok((NodeId(9), life))
        );
    }

    #[test]
    fn cut_off_entries_are_refused() {
        for command in samples() {
            let bytes = encode(&command);
            let form = crate::encode(&CommandForm::from(&command));
            assert!(bytes.starts_with(&form));
            for length in 0..form.len() {
                assert!(decode(&bytes[..length]).is_err());
            }
        }
    }
}
