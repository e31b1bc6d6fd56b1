//! The agreed state as a whole.
//!
//! What was added to the first form follows it: older programs do not look there, and
//! where it is missing an older program wrote it.

use std::collections::BTreeMap;

use evenkeel_core::command::{Assign, Opened};
use evenkeel_core::ledger::{Assigned, Drained, Failure, GroupRecord, Ledger, Move, NodeRecord};
use evenkeel_core::{Epoch, GroupId, NodeId};
use serde::{Deserialize, Serialize};

use super::entry::{AssignForm, OpenedForm, RecoveredForm, added_cause, cause_added};
use super::parts::{EpochForm, IncarnationForm, SpanForm};
use crate::WireError;

/// The longest snapshot: a full ledger of 256 groups with many addresses.
pub const SNAPSHOT_LENGTH_MAX: usize = 256 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct LedgerForm {
    applied: EpochForm,
    groups: Vec<(u64, GroupForm)>,
    nodes: Vec<(u64, NodeForm)>,
    recovered: Option<(EpochForm, RecoveredForm)>,
}

/// What was added first: the nodes that are drained.
#[derive(Default, Serialize, Deserialize)]
struct DrainsForm(Vec<(u64, EpochForm, Option<SpanForm>, u64)>);

/// What was added second: assignments with a cause that the first form does not have, by group
/// and epoch.
#[derive(Default, Serialize, Deserialize)]
struct CausesForm(Vec<(u64, EpochForm, u64)>);

fn causes_form(ledger: &Ledger) -> CausesForm {
    let all = ledger.groups.iter().flat_map(|(id, record)| {
        let moves = record.moves.iter().map(|one| &one.assigned);
        let all = moves.chain(&record.current).filter_map(|one| {
            let number = added_cause(&one.assign.evidence.cause)?;
            Some((id.0, one.epoch.into(), number))
        });
        all.collect::<Vec<_>>()
    });
    CausesForm(all.collect())
}

fn put_causes(groups: &mut BTreeMap<GroupId, GroupRecord>, causes: CausesForm) {
    for (id, epoch, number) in causes.0 {
        let (Some(record), Some(cause)) = (groups.get_mut(&GroupId(id)), cause_added(number))
        else {
            continue;
        };
        let epoch = Epoch::from(epoch);
        let moves = record.moves.iter_mut().map(|one| &mut one.assigned);
        for one in moves.chain(&mut record.current) {
            if one.epoch == epoch {
                one.assign.evidence.cause = cause.clone();
            }
        }
    }
}

fn drains_form(ledger: &Ledger) -> DrainsForm {
    let drained = ledger
        .nodes
        .iter()
        .filter_map(|(id, record)| Some((id, record.drained?)));
    let form = drained.map(|(id, drained)| {
        let lasting = drained.lasting.map(Into::into);
        (id.0, drained.began.into(), lasting, drained.wall_ms)
    });
    DrainsForm(form.collect())
}

#[derive(Serialize, Deserialize)]
struct GroupForm {
    current: Option<(EpochForm, AssignForm)>,
    moves: Vec<(EpochForm, AssignForm, Option<OpenedForm>)>,
    failures: Vec<(u64, EpochForm, u32)>,
}

#[derive(Serialize, Deserialize)]
struct NodeForm {
    incarnation: Option<IncarnationForm>,
    readmitted: Option<EpochForm>,
}

fn group_form(record: &GroupRecord) -> GroupForm {
    GroupForm {
        current: record
            .current
            .as_ref()
            .map(|one| (one.epoch.into(), (&one.assign).into())),
        moves: record
            .moves
            .iter()
            .map(|one| {
                let assigned = &one.assigned;
                (
                    assigned.epoch.into(),
                    (&assigned.assign).into(),
                    one.opened.as_ref().map(Into::into),
                )
            })
            .collect(),
        failures: record
            .failures
            .iter()
            .map(|(node, failure)| (node.0, failure.epoch.into(), failure.count))
            .collect(),
    }
}

fn group_record(form: GroupForm) -> GroupRecord {
    let assigned = |(epoch, assign): (EpochForm, AssignForm)| Assigned {
        epoch: epoch.into(),
        assign: Assign::from(assign),
    };
    GroupRecord {
        current: form.current.map(assigned),
        moves: form
            .moves
            .into_iter()
            .map(|(epoch, assign, opened)| Move {
                assigned: assigned((epoch, assign)),
                opened: opened.map(Opened::from),
            })
            .collect(),
        failures: form
            .failures
            .into_iter()
            .map(|(node, epoch, count)| {
                (
                    NodeId(node),
                    Failure {
                        epoch: epoch.into(),
                        count,
                    },
                )
            })
            .collect(),
    }
}

/// The bytes of the agreed state.
pub fn encode(ledger: &Ledger) -> Vec<u8> {
    let first = LedgerForm {
        applied: ledger.applied.into(),
        groups: ledger
            .groups
            .iter()
            .map(|(id, record)| (id.0, group_form(record)))
            .collect(),
        nodes: ledger
            .nodes
            .iter()
            .map(|(id, record)| {
                let form = NodeForm {
                    incarnation: record.incarnation.map(Into::into),
                    readmitted: record.readmitted.map(Into::into),
                };
                (id.0, form)
            })
            .collect(),
        recovered: ledger
            .recovered
            .as_ref()
            .map(|(epoch, recovered)| ((*epoch).into(), recovered.into())),
    };
    crate::encode(&(first, drains_form(ledger), causes_form(ledger)))
}

/// Reads the agreed state.
pub fn decode(bytes: &[u8]) -> Result<Ledger, WireError> {
    let (form, rest): (LedgerForm, _) = crate::decode_part("snapshot", SNAPSHOT_LENGTH_MAX, bytes)?;
    let (drains, rest): (DrainsForm, _) =
        crate::decode_added("snapshot", rest)?.unwrap_or_default();
    let (causes, _): (CausesForm, _) = crate::decode_added("snapshot", rest)?.unwrap_or_default();
    let mut groups: BTreeMap<GroupId, GroupRecord> = form
        .groups
        .into_iter()
        .map(|(id, form)| (GroupId(id), group_record(form)))
        .collect();
    put_causes(&mut groups, causes);
    if let Some(group) = foreign(&groups) {
        return Err(WireError::Broken {
            what: "snapshot",
            why: format!("what it has of group {group:?} is of another group"),
        });
    }
    let mut nodes: BTreeMap<NodeId, NodeRecord> = form
        .nodes
        .into_iter()
        .map(|(id, form)| {
            let record = NodeRecord {
                incarnation: form.incarnation.map(Into::into),
                readmitted: form.readmitted.map(Into::into),
                drained: None,
            };
            (NodeId(id), record)
        })
        .collect();
    for (id, began, lasting, wall_ms) in drains.0 {
        nodes.entry(NodeId(id)).or_default().drained = Some(Drained {
            began: began.into(),
            lasting: lasting.map(Into::into),
            wall_ms,
        });
    }
    Ok(Ledger {
        groups,
        nodes,
        applied: form.applied.into(),
        recovered: form
            .recovered
            .map(|(epoch, recovered)| (epoch.into(), recovered.into())),
    })
}

/// A group whose record has an assignment of another group: whoever takes it up would hand the wrong
/// addresses on.
fn foreign(groups: &BTreeMap<GroupId, GroupRecord>) -> Option<GroupId> {
    let is_foreign = |group: GroupId, record: &GroupRecord| {
        let moves = record.moves.iter().map(|one| &one.assigned);
        let mut all = record.current.iter().chain(moves);
        all.any(|assigned| assigned.assign.group != group)
    };
    let mut all = groups.iter();
    all.find_map(|(group, record)| is_foreign(*group, record).then_some(*group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut ledger = Ledger::default();
        for (index, command) in super::super::entry::tests::samples().iter().enumerate() {
            ledger.apply(
                Epoch {
                    term: 1,
                    index: index as u64 + 1,
                },
                command,
            );
        }
        assert!(!ledger.groups.is_empty() && !ledger.nodes.is_empty());
        assert!(ledger.recovered.is_some());
        assert!(ledger.drained(NodeId(5)).is_some());
        assert_eq!(decode(&encode(&ledger)), Ok(ledger));
    }

    /// (Found by a mutated file of the flight recorder: the machine took the record up for the other
    /// group.)
    #[test]
    fn a_record_of_another_group_is_refused() {
        let mut ledger = Ledger::default();
        for (index, command) in (1..).zip(super::super::entry::tests::samples()) {
            ledger.apply(Epoch { term: 1, index }, &command);
        }
        let (group, record) = ledger.groups.pop_first().expect("one");
        ledger.groups.insert(GroupId(group.0 ^ 1), record);
        let refused = decode(&encode(&ledger)).expect_err("it names another one");
        assert!(
            refused.to_string().contains("of another group"),
            "{refused}"
        );
    }

    #[test]
    fn a_snapshot_of_a_program_that_knew_no_drains_is_read() {
        let mut ledger = Ledger::default();
        ledger.nodes.entry(NodeId(5)).or_default().readmitted = Some(Epoch { term: 1, index: 2 });
        let bytes = encode(&ledger);
        // It ended before what was added: here, the numbers of drained nodes and of causes.
        let (old, added) = bytes.split_at(bytes.len() - 2);
        assert_eq!(added, [0, 0]);
        assert_eq!(decode(old).as_ref(), Ok(&ledger));
        // One that knew drains and no causes.
        assert_eq!(decode(&bytes[..bytes.len() - 1]), Ok(ledger));
    }
}
