//! What makes this machine unfit to ask a configuration's checks, found without asking and
//! without changing anything. None of it is a fault of the file: another node may be fit.

use std::collections::BTreeSet;

use evenkeel_config::{CheckSpec, Question};
use evenkeel_core::finding::Finding;
use evenkeel_core::names::{CheckName, NodeId};
use evenkeel_core::topology::Group;
use evenkeel_host::run::trusted;
use evenkeel_host::systemd::{Running, Systemd};

use crate::io::unit::missing;
use crate::probe::{Asker, Probe, Resolved};

/// Looks at the programs of the checks that `me` asks for a group. Waits for file systems.
pub fn examine(group: &Group, checks: &[CheckSpec], me: NodeId) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (check, program) in programs(group, checks, me) {
        if !seen.insert(program) {
            continue;
        }
        let place = format!("{}/{check}", group.name);
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

/// The programs that `me` runs for a group, each with its check.
fn programs<'a>(
    group: &'a Group,
    checks: &'a [CheckSpec],
    me: NodeId,
) -> impl Iterator<Item = (&'a CheckName, &'a str)> {
    let program = move |spec: &'a CheckSpec| {
        let own = spec.policy.from_node && group.nodes.contains(&me);
        let peers = spec.policy.from_peers && group.nodes.iter().any(|node| *node != me);
        let (Question::Exec(exec) | Question::Nagios(exec)) = &spec.question else {
            return None;
        };
        let program = exec.words().first().filter(|_| own || peers)?;
        Some((&spec.policy.name, program.as_str()))
    };
    checks.iter().filter_map(program)
}

/// The checks of a group whose programs `me` cannot run, each with the reason. Waits for file
/// systems.
pub fn unusable<'a>(
    group: &'a Group,
    checks: &'a [CheckSpec],
    me: NodeId,
) -> Vec<(&'a CheckName, String)> {
    let judged = programs(group, checks, me).filter_map(|(check, program)| {
        let fault = trusted(program).err()?;
        Some((check, format!("{program}: {fault}")))
    });
    judged.collect()
}

/// Everything that is wrong on this machine with what these probes ask of it. Asks systemd if
/// it has to; call it within a tokio runtime, where waiting is allowed.
pub async fn examine_units(probes: &[Probe], systemd: &Systemd) -> Vec<String> {
    let mut faults = Vec::new();
    for probe in probes.iter().filter(|probe| probe.role == Asker::Node) {
        let Resolved::Unit(unit) = &probe.question else {
            continue;
        };
        let check = &probe.check;
        match systemd.look(unit).await {
            Ok(state) if state.running() == Running::Missing => {
                faults.push(format!("check {check}: {unit} is {}", missing(&state)));
            }
            Ok(_) => {}
            Err(error) => faults.push(format!("check {check}: failed to {error}")),
        }
    }
    faults
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
