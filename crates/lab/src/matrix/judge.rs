//! Whether `why` told the truth, and whether a move was worth its while.
//!
//! Judged by what the lab did ([`Struck`]) and by the table of [`Trouble::causes`]:
//!
//! - a move away from a node that nothing befell, or that nothing befell which is a reason to
//!   move, is a **false takeover**;
//! - a move whose cause is none that the table has for what befell the node that it left, a story
//!   that does not go on where the last one ended, one without a reason or without the evidence
//!   that its cause needs, two nodes that tell the same move differently, and a holder that
//!   answers and that no move made the holder, are **untruths**.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use evenkeel_console::api::v1::Move;

use super::design::Case;
use super::outlook::Struck;
use super::trouble::Trouble;
use crate::cluster::{Cluster, Profile};

/// Causes that say that a majority came back, or that the leaders changed: true after any
/// trouble for which there may have been no majority.
const OF_NO_MAJORITY: [&str; 6] = [
    "holder-silent",
    "holder-deaf",
    "holder-restarted",
    "holder-released",
    "holder-unready",
    "rule",
];

/// An assignment that was never agreed on: the same holder gets a newer epoch. True whenever
/// leaders changed, which everything can bring about that touches a voter.
const RENEWED: &str = "floor-above";

/// What is told of a case's moves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Judgement {
    /// Moves that there was no reason for, in words.
    pub(crate) false_takeovers: Vec<String>,
    /// What was not true, in words.
    pub(crate) untruths: Vec<String>,
    /// The moves in short.
    pub(crate) moves: Vec<String>,
    /// Moves to a node that the group had left before.
    pub(crate) went_back: usize,
}

/// All moves that living nodes remember, by their epochs, and where two tell them differently.
pub(crate) fn told(cluster: &Cluster) -> Result<(Vec<Move>, Vec<String>)> {
    let (mut moves, mut untruths) = (BTreeMap::<u64, Move>::new(), Vec::new());
    for name in cluster.names() {
        let Ok(host) = cluster.host(&name) else {
            continue;
        };
        let output = cluster.evenkeel().ask(host, &["why", "--json"])?;
        if !output.status.success() {
            continue;
        }
        let theirs: Vec<Move> =
            serde_json::from_slice(&output.stdout).context("understanding why --json")?;
        for one in theirs {
            let core = |one: &Move| (one.from.clone(), one.to.clone(), one.cause.clone());
            match moves.get(&one.epoch) {
                Some(known) if core(known) != core(&one) => {
                    untruths.push(format!(
                        "{name} tells otherwise than others: {}",
                        short(&one)
                    ));
                }
                Some(_) => {}
                None => {
                    moves.insert(one.epoch, one);
                }
            }
        }
    }
    Ok((moves.into_values().collect(), untruths))
}

/// A move in a few words.
fn short(one: &Move) -> String {
    let from = one.from.as_deref().unwrap_or("nobody");
    format!("{from} to {} ({})", one.to, one.cause)
}

/// What a judge knows of a case.
pub(crate) struct Facts<'a> {
    pub(crate) case: &'a Case,
    pub(crate) struck: &'a Struck,
    /// Who held the group before.
    pub(crate) holder: &'a str,
    /// Whether there may have been no majority.
    pub(crate) majority_is_doubtful: bool,
}

impl Facts<'_> {
    /// What befell a node.
    fn befell<'b>(&'b self, name: &'b str) -> impl Iterator<Item = Trouble> + 'b {
        let both = self.struck.iter();
        both.filter(move |(_, one)| one == name || one.is_empty())
            .map(|(trouble, _)| *trouble)
    }

    /// Judges the moves of the case, oldest first, and who answers at its end.
    pub(crate) fn judge(&self, moves: &[Move], answers: Option<&str>) -> Judgement {
        let mut found = Judgement::default();
        let (mut held_by, mut left) = (self.holder.to_owned(), BTreeSet::new());
        for one in moves {
            found.moves.push(short(one));
            if one.from.as_deref() != Some(held_by.as_str()) {
                let wrong = format!("{}: {held_by} held it", short(one));
                found.untruths.push(wrong);
            }
            self.judge_one(one, &mut found);
            found.went_back += usize::from(left.contains(&one.to));
            if one.to != held_by {
                left.insert(held_by);
            }
            held_by = one.to.clone();
        }
        if let Some(answers) = answers.filter(|answers| **answers != *held_by) {
            let wrong = format!("{answers} answers, and nothing tells why {held_by} does not");
            found.untruths.push(wrong);
        }
        found
    }

    fn judge_one(&self, one: &Move, found: &mut Judgement) {
        found.untruths.extend(unexplained(one));
        let left = one.from.as_deref().unwrap_or_default();
        let renewed = one.cause == RENEWED && left == one.to;
        let anyway = self.majority_is_doubtful && OF_NO_MAJORITY.contains(&one.cause.as_str());
        // Who holds a group goes on while its disk stands still; who gets one then cannot take it.
        let stuck = self.befell(left).any(|one| one == Trouble::DiskFrozen);
        let not_taken = stuck && left != self.holder && one.cause == "holder-silent";
        if renewed || anyway || not_taken {
            return;
        }
        let profile: Profile = self.case.shape.profile;
        if !self.befell(left).any(|trouble| trouble.may_move(profile)) {
            found.false_takeovers.push(short(one));
        } else if !self
            .befell(left)
            .any(|trouble| trouble.causes().contains(&one.cause.as_str()))
        {
            let befell: Vec<&str> = self.befell(left).map(Trouble::name).collect();
            let wrong = format!(
                "{}: what befell {left} was {}",
                short(one),
                befell.join(", ")
            );
            found.untruths.push(wrong);
        }
    }
}

/// What a move does not explain that a person needs.
fn unexplained(one: &Move) -> Option<String> {
    let lacks = |what: &str| Some(format!("{}: {what}", short(one)));
    if one.because.is_empty() || one.decided_by.is_empty() {
        return lacks("no reason is given");
    }
    if one.considered.is_empty() {
        return lacks("nothing is said of the others");
    }
    let check = |line: &String| line.contains("apache") || line.contains("ping");
    if one.cause == "rule" && !one.evidence.iter().any(check) {
        return lacks("no failing check is named");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_move(from: &str, to: &str, cause: &str) -> Move {
        Move {
            group: "www".into(),
            epoch: 7,
            at: String::new(),
            from: Some(from.into()),
            to: to.into(),
            cause: cause.into(),
            because: "a sentence".into(),
            decided_by: "tie".into(),
            known_for_ms: 0.0,
            evidence: vec!["apache: refused, says tie".into()],
            considered: vec!["fra1: fit".into()],
            phases: Vec::new(),
            completed: true,
        }
    }

    fn judged(case: &str, moves: &[Move], answers: &str, doubtful: bool) -> (usize, usize) {
        let case: Case = case.parse().expect("a case");
        let struck = super::super::outlook::choose(&case, "ams1", "fra1");
        let facts = Facts {
            case: &case,
            struck: &struck,
            holder: "ams1",
            majority_is_doubtful: doubtful,
        };
        let found = facts.judge(moves, Some(answers));
        (found.false_takeovers.len(), found.untruths.len())
    }

    #[test]
    fn a_move_with_a_true_cause_is_right() {
        let moves = [a_move("ams1", "fra1", "holder-silent")];
        assert_eq!(
            judged("3/fast/4/power-cut/1", &moves, "fra1", false),
            (0, 0)
        );
    }

    #[test]
    fn another_cause_than_the_true_one_is_an_untruth() {
        let moves = [a_move("ams1", "fra1", "operator")];
        assert_eq!(
            judged("3/fast/4/power-cut/1", &moves, "fra1", false),
            (0, 1)
        );
        let moves = [a_move("ams1", "fra1", "holder-silent")];
        assert_eq!(
            judged("3/fast/4/service-hung/1", &moves, "fra1", false),
            (0, 1)
        );
    }

    #[test]
    fn a_move_away_from_a_node_that_is_well_is_false() {
        let moves = [a_move("ams1", "fra1", "holder-silent")];
        assert_eq!(
            judged("3/fast/4/standby-death/1", &moves, "fra1", false),
            (1, 0)
        );
        assert_eq!(
            judged("3/fast/4/worker-killed/1", &moves, "fra1", false),
            (1, 0)
        );
        // And back to where it was struck.
        let moves = [
            a_move("ams1", "fra1", "holder-silent"),
            a_move("fra1", "ams1", "rule"),
        ];
        assert_eq!(judged("3/fast/4/flapping/1", &moves, "ams1", false), (1, 0));
    }

    #[test]
    fn who_gets_it_again_is_counted() {
        let case: Case = "3/fast/4/flapping/1".parse().expect("a case");
        let struck = super::super::outlook::choose(&case, "ams1", "fra1");
        let facts = Facts {
            case: &case,
            struck: &struck,
            holder: "ams1",
            majority_is_doubtful: false,
        };
        let there = a_move("ams1", "fra1", "holder-silent");
        let again = a_move("fra1", "fra1", "floor-above");
        let back = a_move("fra1", "ams1", "rule");
        let count = |moves: &[Move]| facts.judge(moves, None).went_back;
        assert_eq!(count(&[there.clone(), again.clone()]), 0);
        assert_eq!(count(&[there, again, back]), 1);
    }

    #[test]
    fn a_node_whose_disk_stands_still_is_left_only_if_it_gets_the_group_then() {
        let moves = [
            a_move("ams1", "fra1", "rule"),
            a_move("fra1", "bru1", "holder-silent"),
        ];
        let name = "5/fast/4/service-hung+disk-frozen/within/402606";
        assert_eq!(judged(name, &moves, "bru1", false), (0, 0));
        let moves = [a_move("ams1", "fra1", "holder-silent")];
        assert_eq!(
            judged("5/fast/4/disk-frozen/1", &moves, "fra1", false),
            (1, 0)
        );
    }

    #[test]
    fn without_a_majority_only_what_comes_of_that_is_right() {
        let moves = [a_move("ams1", "ams1", "holder-released")];
        assert_eq!(
            judged("2/fast/4/standby-death/1", &moves, "ams1", true),
            (0, 0)
        );
        assert_eq!(
            judged("3/fast/4/standby-death/1", &moves, "ams1", false),
            (1, 0)
        );
        let moves = [a_move("ams1", "fra1", "operator")];
        assert_eq!(
            judged("2/fast/4/standby-death/1", &moves, "fra1", true),
            (1, 0)
        );
    }

    #[test]
    fn a_move_that_nobody_tells_is_an_untruth() {
        assert_eq!(judged("3/fast/4/power-cut/1", &[], "fra1", false), (0, 1));
        let moves = [a_move("bru1", "fra1", "holder-silent")];
        let (_, untruths) = judged("3/fast/4/power-cut/1", &moves, "fra1", false);
        assert_eq!(untruths, 1, "it was not bru1's");
        let mut silent = a_move("ams1", "fra1", "rule");
        silent.evidence.clear();
        assert_eq!(
            judged("3/fast/4/service-hung/1", &[silent], "fra1", false),
            (0, 1)
        );
    }
}
