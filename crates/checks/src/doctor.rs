//! What makes this machine unfit to ask, found without asking.

use std::collections::BTreeSet;

use evenkeel_config::{CheckSpec, Question};
use evenkeel_core::finding::Finding;
use evenkeel_core::names::NodeId;
use evenkeel_core::topology::Group;
use evenkeel_host::run::trusted;

/// Looks at the programs of the checks that `me` asks for a group. Waits for file systems.
pub fn examine(group: &Group, checks: &[CheckSpec], me: NodeId) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for spec in checks {
        let own = spec.policy.from_node && group.nodes.contains(&me);
        let peers = spec.policy.from_peers && group.nodes.iter().any(|node| *node != me);
        let (Question::Exec(exec) | Question::Nagios(exec)) = &spec.question else {
            continue;
        };
        let Some(program) = exec.words().first().filter(|_| own || peers) else {
            continue;
        };
        if !seen.insert(program) {
            continue;
        }
        let place = format!("{}/{}", group.name, spec.policy.name);
        findings.push(match trusted(program) {
            Ok(()) => Finding::fine(&place, format!("{program} can be run")),
            Err(fault) => Finding::unfit(&place, format!("{program}: {fault}")).remedy(
                "install the program, or make it root's own and writable by nobody else; until \
                 then the check says unknown",
            ),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::finding::Severity;

    #[test]
    fn programs_that_are_missing_are_found_once_where_they_are_asked_from() {
        let text = r#"
            cluster = "shop"
            node.a.address = "192.0.2.1:7946"
            node.b.address = "192.0.2.2:7946"
            node.t = { address = "192.0.2.3:7946", witness = true }
            [group.g]
            nodes = ["a", "b"]
            addresses = ["192.0.2.9/24"]
            check.good = { exec = "/bin/true" }
            check.gone = { exec = "/no/such/program x", from = ["node"] }
            check.again = { exec = "/no/such/program y", from = ["node"] }
        "#;
        let config = evenkeel_config::parse(text, "f").expect("a good file");
        let group = config.topology.groups.values().next().expect("a group");
        let look = |name: &str| {
            let me = config.node(name).expect("a node").id;
            examine(group, &config.checks[&group.id], me)
        };
        let found = look("a");
        let bad = found.iter().filter(|one| one.severity == Severity::Unfit);
        let bad: Vec<&Finding> = bad.collect();
        assert_eq!(bad.len(), 1, "{found:?}");
        assert!(bad[0].what.contains("/no/such/program"), "{bad:?}");
        // The witness asks nothing that only the nodes themselves are asked for.
        let foreign = look("t");
        let mut foreign = foreign.iter();
        assert!(foreign.all(|one| !one.what.contains("/no/such/program")));
    }
}
