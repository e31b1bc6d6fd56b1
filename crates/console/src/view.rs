//! Views for people: short lines that can be read at three in the morning.

use std::fmt::Write as _;

use crate::api::v1::{Group, GroupNode, Move, State, Status};

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
    for check in &node.checks {
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
