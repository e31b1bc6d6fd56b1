//! Views for people: short lines that can be read at three in the morning.

use std::fmt::Write as _;

use crate::api::v1::{Check, Group, GroupNode, Measure, Move, State, Status};

/// Checks of one node that a screen holds beside what else there is.
const CHECKS_SHOWN_MAX: usize = 24;
/// Measures of one check that a line holds.
const MEASURES_SHOWN_MAX: usize = 8;

/// The status as text: the verdict first, then each group, then the nodes.
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", verdict(status));
    for advice in &status.advice {
        let _ = writeln!(text, "  ! {advice}");
    }
    for group in &status.groups {
        let _ = writeln!(text);
        group_lines(&mut text, group);
        service_lines(&mut text, group, &status.node);
    }
    let _ = writeln!(text);
    node_lines(&mut text, status);
    text
}

/// One sentence: is anything wrong.
pub fn verdict(status: &Status) -> String {
    let serving = status
        .groups
        .iter()
        .filter(|one| one.state == State::Serving)
        .count();
    let bare: Vec<&str> = status
        .groups
        .iter()
        .filter(|one| one.state == State::Serving && !one.protected)
        .map(|one| one.name.as_str())
        .collect();
    let down: Vec<&str> = status
        .groups
        .iter()
        .filter(|one| one.state != State::Serving)
        .map(|one| one.name.as_str())
        .collect();
    let all = status.groups.len();
    let head = format!("{}: {serving} of {all} groups serving", status.cluster);
    match (down.is_empty(), bare.is_empty()) {
        (true, true) if !status.advice.is_empty() => format!("{head}, all protected; see below."),
        (true, true) => format!("{head}, all protected. Nothing to do."),
        (true, false) => format!("{head}, but NOT PROTECTED: {}.", bare.join(", ")),
        (false, _) => format!("{head}. NOT SERVING: {}.", down.join(", ")),
    }
}

fn group_lines(text: &mut String, group: &Group) {
    let state = match group.state {
        State::Serving => "serving on",
        State::Moving => "MOVING to",
        State::Closed => "CLOSED",
        State::Muted => "MUTED on",
    };
    let _ = writeln!(
        text,
        "{}  {state} {}  epoch {}  since {}  guard {}",
        group.name,
        group.holder.as_deref().unwrap_or("nobody"),
        group.epoch,
        group.since,
        group.guard
    );
    let shown: Vec<&str> = group.addresses.iter().take(6).map(String::as_str).collect();
    let more = group.addresses.len().saturating_sub(shown.len());
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    let _ = writeln!(text, "  addresses {}{more}", shown.join(", "));
    match &group.next {
        Some(next) => {
            let _ = writeln!(text, "  next      {next}");
        }
        None => {
            let _ = writeln!(text, "  next      nobody could take over now");
        }
    }
    for node in &group.nodes {
        group_node_lines(text, group, node);
    }
}

fn group_node_lines(text: &mut String, group: &Group, node: &GroupNode) {
    let role = if group.holder.as_deref() == Some(node.name.as_str()) {
        "holder"
    } else {
        "standby"
    };
    let ready = if node.ready { "ready" } else { "NOT READY" };
    let _ = writeln!(
        text,
        "  {:<12} {role:<8} {ready}: {}",
        node.name, node.reason
    );
    check_lines(text, &node.checks);
}

/// The checks of a node: all if they fit on a screen, else first those that are not well.
fn check_lines(text: &mut String, checks: &[Check]) {
    let unwell = |check: &&Check| !matches!(check.state.as_str(), "ok" | "idle");
    let shown: Vec<&Check> = match checks.len() {
        0..=CHECKS_SHOWN_MAX => checks.iter().collect(),
        _ => {
            let unwell_first = checks.iter().filter(unwell);
            let unwell_first = unwell_first.chain(checks.iter().filter(|one| !unwell(one)));
            unwell_first.take(CHECKS_SHOWN_MAX).collect()
        }
    };
    for check in &shown {
        check_line(text, check);
    }
    if checks.len() > shown.len() {
        let count = |state: &str| checks.iter().filter(|one| one.state == state).count();
        let states = ["failing", "unknown", "ok", "idle"].map(|state| (count(state), state));
        let states = states.iter().filter(|(count, _)| *count > 0);
        let states: Vec<String> = states.map(|(n, state)| format!("{n} {state}")).collect();
        let _ = writeln!(
            text,
            "    and {} more checks; of all {}: {}. `evenkeel status --json` has each",
            checks.len() - shown.len(),
            checks.len(),
            states.join(", ")
        );
    }
}

fn service_lines(text: &mut String, group: &Group, here: &str) {
    for service in &group.services {
        let state = if service.state == "failed" {
            "FAILED"
        } else {
            service.state.as_str()
        };
        let _ = writeln!(
            text,
            "  service   {:<12} {state:<8} on {here}, {}  {}",
            service.name, service.when, service.detail
        );
    }
}

fn check_line(text: &mut String, check: &Check) {
    let state = if check.state == "failing" {
        "FAILING"
    } else {
        check.state.as_str()
    };
    let _ = writeln!(
        text,
        "    {:<12} {state:<8} {}  ({} ago)",
        check.name,
        check.detail,
        age(check.age_ms)
    );
    if check.measures.is_empty() {
        return;
    }
    let measures = check.measures.iter().take(MEASURES_SHOWN_MAX);
    let mut measures: Vec<String> = measures.map(measure_words).collect();
    if check.measures.len() > measures.len() {
        measures.push(format!("{} more", check.measures.len() - measures.len()));
    }
    let _ = writeln!(text, "    {:<12} {:<8} {}", "", "", measures.join(", "));
}

/// As in `time 0.006 s`.
fn measure_words(measure: &Measure) -> String {
    let value = measure
        .value
        .map_or_else(|| "unknown".to_owned(), |value| value.to_string());
    let blank = if measure.unit.is_empty() || measure.unit == "%" {
        ""
    } else {
        " "
    };
    format!("{} {value}{blank}{}", measure.label, measure.unit)
}

fn node_lines(text: &mut String, status: &Status) {
    let width = status
        .nodes
        .iter()
        .map(|node| node.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    for node in &status.nodes {
        let mut words = Vec::new();
        if node.name == status.node {
            words.push("this node".to_owned());
        }
        if status.leader.as_deref() == Some(node.name.as_str()) {
            words.push("leads".to_owned());
        }
        if node.witness {
            words.push("witness".to_owned());
        }
        if let Some(rtt) = node.rtt_ms {
            words.push(format!("{rtt:.1} ms away"));
        }
        if let Some(note) = &node.note {
            words.push(note.clone());
        }
        if let Some(drained) = &node.drained {
            words.push(drained.words.replacen("drained", "DRAINED", 1));
        }
        let alive = if node.alive { "alive" } else { "NOT HEARD" };
        let _ = writeln!(
            text,
            "{:<width$}  {alive:<9}  {}",
            node.name,
            words.join(", ")
        );
    }
}

fn age(ms: u64) -> String {
    match ms {
        0..=9_999 => format!("{ms} ms"),
        10_000..=599_999 => format!("{} s", ms / 1000),
        u64::MAX => "never".to_owned(),
        600_000.. => format!("{} min", ms / 60_000),
    }
}

/// Moves as text, newest first.
pub fn why(moves: &[Move]) -> String {
    if moves.is_empty() {
        return "no group has moved yet\n".to_owned();
    }
    let mut text = String::new();
    for one in moves.iter().rev() {
        move_lines(&mut text, one);
        let _ = writeln!(text);
    }
    text
}

fn move_lines(text: &mut String, one: &Move) {
    let from = one.from.as_deref().unwrap_or("nobody");
    let _ = writeln!(
        text,
        "{}  {}: {from} -> {}  (epoch {})",
        one.at, one.group, one.to, one.epoch
    );
    let _ = writeln!(text, "  because {}", one.because);
    for line in &one.evidence {
        let _ = writeln!(text, "    {line}");
    }
    let _ = writeln!(
        text,
        "  decided by {}, {:.1} ms after it knew; it saw",
        one.decided_by, one.known_for_ms
    );
    for line in &one.considered {
        let _ = writeln!(text, "    {line}");
    }
    if one.completed {
        let _ = writeln!(
            text,
            "  {} then, in ms after the assignment reached it:",
            one.to
        );
        for phase in &one.phases {
            let _ = writeln!(text, "    {:>8.1}  {}", phase.after_ms, phase.what);
        }
    } else {
        let _ = writeln!(text, "  {} has not told yet how it went", one.to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(state: State, protected: bool) -> Group {
        Group {
            name: "www".into(),
            holder: Some("ams1".into()),
            epoch: 7,
            state,
            since: "2026-11-22T03:00:00Z".into(),
            addresses: vec!["192.0.2.100/24".into()],
            guard: "full".into(),
            protected,
            next: protected.then(|| "fra1".into()),
            nodes: Vec::new(),
            services: Vec::new(),
        }
    }

    fn with(groups: Vec<Group>) -> Status {
        Status {
            cluster: "shop".into(),
            node: "ams1".into(),
            groups,
            ..Status::default()
        }
    }

    #[test]
    fn the_first_line_says_whether_to_get_up() {
        let well = with(vec![group(State::Serving, true)]);
        assert_eq!(
            verdict(&well),
            "shop: 1 of 1 groups serving, all protected. Nothing to do."
        );
        // What is advised is something to do.
        let mut advised = well.clone();
        advised.advice.push("fra1 has another file".into());
        assert_eq!(
            verdict(&advised),
            "shop: 1 of 1 groups serving, all protected; see below."
        );
        let bare = with(vec![group(State::Serving, false)]);
        assert_eq!(
            verdict(&bare),
            "shop: 1 of 1 groups serving, but NOT PROTECTED: www."
        );
        let down = with(vec![group(State::Muted, false)]);
        assert_eq!(
            verdict(&down),
            "shop: 0 of 1 groups serving. NOT SERVING: www."
        );
    }

    #[test]
    fn many_checks_do_not_flood_the_screen_and_what_is_wrong_comes_first() {
        let check = |number: usize| Check {
            name: format!("c{number}"),
            state: if number == 4_000 { "failing" } else { "ok" }.into(),
            age_ms: 5,
            detail: "HTTP 200".into(),
            measures: Vec::new(),
        };
        let mut many = group(State::Serving, true);
        many.nodes = vec![GroupNode {
            name: "ams1".into(),
            ready: true,
            reason: "well".into(),
            checks: (0..5_000).map(check).collect(),
        }];
        let text = status(&with(vec![many]));
        assert!(text.lines().count() < 40, "{text}");
        let first = text.lines().find(|line| line.contains("HTTP 200"));
        assert!(first.is_some_and(|line| line.contains("c4000") && line.contains("FAILING")));
        assert!(
            text.contains("and 4976 more checks; of all 5000: 1 failing, 4999 ok."),
            "{text}"
        );
    }

    #[test]
    fn measures_stand_below_their_check() {
        let measure = |label: &str, value, unit: &str| Measure {
            label: label.into(),
            value,
            unit: unit.into(),
        };
        let mut text = String::new();
        let check = Check {
            name: "disk".into(),
            state: "ok".into(),
            age_ms: 5,
            detail: "DISK OK".into(),
            measures: vec![
                measure("time", Some(0.006), "s"),
                measure("/", Some(81.0), "%"),
                measure("users", None, ""),
            ],
        };
        check_line(&mut text, &check);
        assert!(
            text.ends_with(" time 0.006 s, / 81%, users unknown\n"),
            "{text}"
        );
    }

    #[test]
    fn many_addresses_do_not_flood_the_screen() {
        let mut many = group(State::Serving, true);
        many.addresses = (0..2000)
            .map(|n| format!("10.0.{}.{}/16", n / 250, n % 250))
            .collect();
        let text = status(&with(vec![many]));
        assert!(text.contains("and 1994 more"), "{text}");
        assert!(text.lines().count() < 20);
    }
}
