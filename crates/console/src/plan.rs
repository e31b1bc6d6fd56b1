//! A forecast for people.

use std::fmt::Write;

use crate::api::v1::{Foreseen, GroupPlan, Plan};

/// Groups that simply go on are named up to this many; more are counted.
const STAYING_MAX: usize = 12;

/// A forecast as text: what matters first.
pub fn text(plan: &Plan) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "If {}:", plan.failure_words);
    let _ = writeln!(text, "  {}", votes(plan));
    let (stays, others): (Vec<&GroupPlan>, Vec<&GroupPlan>) = plan
        .groups
        .iter()
        .partition(|one| one.outcome == Foreseen::Stays && one.note.is_none());
    for group in &others {
        group_lines(&mut text, group);
    }
    staying(&mut text, &stays, others.is_empty());
    let bare = plan.groups.iter();
    let bare = bare.filter(|one| one.serves.is_some() && !one.protected);
    let bare: Vec<&str> = bare.map(|one| one.name.as_str()).collect();
    if !bare.is_empty() {
        let _ = writeln!(
            text,
            "  not protected any more, one failure later nobody serves: {}",
            bare.join(", ")
        );
    }
    text
}

fn votes(plan: &Plan) -> String {
    let left = format!(
        "{} of {} votes are left ({}), {} are needed",
        plan.votes.len(),
        plan.voters,
        match plan.votes.is_empty() {
            true => "nobody's".to_owned(),
            false => plan.votes.join(", "),
        },
        plan.needed
    );
    match (&plan.decider, plan.elected) {
        (None, _) => format!("{left}: NO MAJORITY, so nothing may serve"),
        (Some(decider), true) => format!("{left}: another leader is elected, such as {decider}"),
        (Some(decider), false) => format!("{left}; {decider} goes on deciding"),
    }
}

fn group_lines(text: &mut String, group: &GroupPlan) {
    let from = group.holder.as_deref().unwrap_or("nobody");
    let what = match (group.outcome, &group.to) {
        (Foreseen::Moves, Some(to)) => format!("moves from {from} to {to}"),
        (Foreseen::Moves | Foreseen::Stays, _) => format!("stays on {from}"),
        (Foreseen::Renewed, _) => format!("stays on {from} under a new epoch, with a blink"),
        (Foreseen::Muted, _) => "is MUTE: nobody serves it".to_owned(),
        (Foreseen::Closed, _) => "is served by nobody, as now".to_owned(),
    };
    let _ = writeln!(text, "  {}: {what}", group.name);
    for line in group.because.iter().chain(&group.note) {
        let _ = writeln!(text, "      because {line}");
    }
    if let Some(dark) = &group.dark_ms
        && dark.most > 0
    {
        let _ = writeln!(text, "      dark for {}", span(dark.least, dark.most));
    }
    if group.outcome != Foreseen::Stays {
        for line in &group.considered {
            let _ = writeln!(text, "      {line}");
        }
    }
    if group.serves.is_some() {
        let next = match &group.next {
            Some(next) => format!("{next} could take over"),
            None => "nobody could take over".to_owned(),
        };
        let _ = writeln!(text, "      after that {next}");
    }
}

fn span(least: u64, most: u64) -> String {
    match (least, most) {
        (0, most) => format!("up to {} s", seconds(most)),
        (least, most) => format!("{} to {} s", seconds(least), seconds(most)),
    }
}

fn seconds(ms: u64) -> String {
    match ms {
        0..=9_999 => format!("{:.2}", ms as f64 / 1e3),
        _ => format!("{:.0}", ms as f64 / 1e3),
    }
}

fn staying(text: &mut String, stays: &[&GroupPlan], all: bool) {
    if stays.is_empty() {
        return;
    }
    let named = stays.iter().take(STAYING_MAX).map(|one| {
        let holder = one.holder.as_deref().unwrap_or("nobody");
        format!("{} on {holder}", one.name)
    });
    let named: Vec<String> = named.collect();
    let more = match stays.len().saturating_sub(STAYING_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let what = if all { "every group stays" } else { "stays" };
    let _ = writeln!(text, "  {what}: {}{more}", named.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1::Span;

    fn group(name: &str, outcome: Foreseen, to: Option<&str>) -> GroupPlan {
        GroupPlan {
            name: name.into(),
            holder: Some("ams1".into()),
            outcome,
            to: to.map(Into::into),
            cause: to.map(|_| "holder-silent".into()),
            because: to.map(|_| "the holder was silent".into()),
            note: None,
            serves: Some(to.unwrap_or("ams1").into()),
            dark_ms: to.map(|_| Span {
                least: 100,
                most: 170,
            }),
            next: None,
            protected: false,
            considered: vec!["fra1: well".into()],
        }
    }

    #[test]
    fn moves_come_before_what_stays_and_bare_groups_are_named() {
        let plan = Plan {
            failure: "node:ams1".into(),
            failure_words: "ams1 dies".into(),
            at: String::new(),
            asked: "tie".into(),
            decider: Some("tie".into()),
            elected: false,
            votes: vec!["fra1".into(), "tie".into()],
            needed: 2,
            voters: 3,
            groups: vec![
                group("mail", Foreseen::Stays, None),
                group("www", Foreseen::Moves, Some("fra1")),
            ],
        };
        let text = text(&plan);
        let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
        assert!(place("If ams1 dies") < place("2 of 3 votes are left (fra1, tie)"));
        assert!(place("www: moves from ams1 to fra1") < place("dark for 0.10 to 0.17 s"));
        assert!(place("dark for") < place("stays: mail on ams1"));
        assert!(place("stays: mail") < place("one failure later nobody serves: mail, www"));
    }
}
