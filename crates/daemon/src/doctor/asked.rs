//! What a running daemon says of its node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_console::api::v1::{self as api, Fit};
use evenkeel_core::finding::Finding;
use evenkeel_core::topology::Timing;

use super::{Chart, near};
use crate::decision::Driver;

impl Driver {
    /// What this daemon knows. What the machine says is looked at by whoever asks.
    pub(crate) fn doctor(&self) -> api::Doctor {
        let status = self.status();
        let mut chart = Chart(Vec::new());
        chart.add("daemon", of_daemon(&status));
        chart.add("peers", peers(&status, &self.node.topology().timing));
        chart.add("groups", groups(&status));
        let verdict = chart.0.iter().map(|one| one.severity).max();
        api::Doctor {
            node: status.node,
            cluster: status.cluster,
            verdict: verdict.unwrap_or(Fit::Fit),
            daemon: true,
            findings: chart.0,
            runs: runs(),
        }
    }
}

/// What this process was started with: a worker's arguments name all of it.
fn runs() -> Option<api::Runs> {
    let arguments: Vec<String> = std::env::args_os()
        .map(|one| one.to_string_lossy().into_owned())
        .collect();
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    runs_of(&arguments, &here)
}

fn runs_of(arguments: &[String], here: &Path) -> Option<api::Runs> {
    let after = |name: &str| {
        let at = arguments.iter().position(|one| one == name)?;
        arguments.get(at + 1)
    };
    let path = |name| Some(here.join(after(name)?).display().to_string());
    Some(api::Runs {
        config: path("--config")?,
        node: after("--node")?.clone(),
        state: path("--state")?,
        pki: path("--pki")?,
    })
}

fn of_daemon(status: &api::Status) -> Vec<Finding> {
    let runs = format!("version {} runs", status.version);
    let own = env!("CARGO_PKG_VERSION");
    let mut found = vec![match status.version == own {
        true => Finding::fine("", runs),
        false => Finding::warning("", format!("{runs}, and this program is {own}"))
            .remedy("`evenkeel upgrade`"),
    }];
    found.push(match status.quorum {
        true => Finding::fine("", "a majority of voters is there"),
        false => Finding::unfit("", "no majority of voters is there: nothing may serve"),
    });
    let advice = status.advice.iter();
    found.extend(advice.map(|one| Finding::warning("", one)));
    found
}

fn peers(status: &api::Status, timing: &Timing) -> Vec<Finding> {
    let others = status.nodes.iter().filter(|one| one.name != status.node);
    let mut found = Vec::new();
    for node in others {
        let name = node.name.as_str();
        match (node.alive, node.rtt_ms) {
            (false, _) => found.push(
                Finding::warning(name, "is not heard")
                    .remedy("it is down, or UDP does not pass both ways"),
            ),
            (true, Some(ms)) => {
                found.push(near(
                    name,
                    Duration::from_secs_f64(ms.max(0.0) / 1e3),
                    timing,
                ));
            }
            (true, None) => found.push(Finding::fine(name, "is heard")),
        }
        if let Some(note) = &node.note {
            found.push(Finding::warning(name, note));
        }
    }
    found
}

fn groups(status: &api::Status) -> Vec<Finding> {
    let mut found = Vec::new();
    for group in &status.groups {
        let name = group.name.as_str();
        found.push(match group.state {
            api::State::Serving if group.protected => Finding::fine(name, "served, and protected"),
            api::State::Serving => Finding::warning(name, "served, and NOT PROTECTED")
                .remedy("`evenkeel status` says why no other node could take over"),
            api::State::Moving => Finding::warning(name, "is moving"),
            api::State::Closed => Finding::unfit(name, "no node holds it"),
            api::State::Muted => Finding::unfit(name, "is mute: no majority proves its lease"),
        });
        let own = group.nodes.iter().find(|one| one.name == status.node);
        if let Some(own) = own.filter(|one| !one.ready) {
            found.push(Finding::warning(
                name,
                format!("this node could not serve it: {}", own.reason),
            ));
        }
        let holds = group.holder.as_ref() == Some(&status.node);
        if holds && group.guard != "full" {
            found.push(
                Finding::warning(name, "the guard is reduced here").remedy(
                    "the area guard says which mechanism is absent, and the daemon's log why",
                ),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::finding::{Severity, worst};

    #[test]
    fn the_arguments_of_a_worker_say_where_its_files_are() {
        let words = "evenkeel run --config c.toml --node a --state /s --pki p --socket /x";
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let runs = runs_of(&words, Path::new("/home")).expect("all named");
        assert_eq!(
            (runs.config.as_str(), runs.node.as_str()),
            ("/home/c.toml", "a")
        );
        assert_eq!((runs.state.as_str(), runs.pki.as_str()), ("/s", "/home/p"));
        assert_eq!(runs_of(&words[..5], Path::new("/")), None);
    }

    #[test]
    fn a_silent_or_far_peer_and_a_lost_majority_are_found() {
        let timing = Timing {
            lease: Duration::from_millis(120),
            heartbeat: Duration::from_millis(20),
        };
        let node = |name: &str, alive, rtt_ms| api::Node {
            name: name.into(),
            alive,
            witness: false,
            rtt_ms,
            note: None,
            drained: None,
        };
        let mut status = api::Status {
            node: "a".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            quorum: true,
            nodes: vec![node("a", true, None), node("b", true, Some(0.4))],
            ..Default::default()
        };
        assert_eq!(worst(&of_daemon(&status)), Severity::Fine);
        assert_eq!(worst(&peers(&status, &timing)), Severity::Fine);
        status.nodes.push(node("far", true, Some(31.0)));
        let found = peers(&status, &timing);
        assert!(found[1].remedy.contains("wan"), "{found:?}");
        status.nodes.push(node("gone", false, None));
        let found = peers(&status, &timing);
        assert_eq!(found[2].what, "is not heard");
        status.quorum = false;
        assert_eq!(worst(&of_daemon(&status)), Severity::Unfit);
        status.version = "0.0.1".into();
        assert!(of_daemon(&status)[0].remedy.contains("upgrade"));
    }
}
