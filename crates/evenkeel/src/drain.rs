//! `evenkeel drain`: asks for it, then watches the status until the groups have left.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use evenkeel_console::api::v1::{Answer, Request, State, Status};
use evenkeel_console::client::{self, AWAY_MAX, ClientError};

use crate::cli::Drain;

/// How often the status is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the groups may take to leave: longer than the longest `drain` of a group, 10 minutes,
/// since they leave together.
const LEAVE_MAX: Duration = Duration::from_secs(660);
/// How long it must have been said of every group left that it stays: a standby that was just
/// restarted becomes fit within less.
const STAYS_AFTER: Duration = Duration::from_secs(6);
/// How long the entry may take to be known to the node that is asked.
const KNOWN_MAX: Duration = Duration::from_secs(5);
/// The exit code if the node is drained and still holds groups.
const STAYS: u8 = 2;

/// How the daemon is asked.
type Asking<'a> = &'a mut dyn FnMut(&Request) -> Result<Answer, ClientError>;

/// How long somebody waits for the groups to leave; see the constants.
#[derive(Clone, Copy)]
struct Patience {
    pace: Duration,
    away: Duration,
    leave: Duration,
}

const PATIENCE: Patience = Patience {
    pace: LOOK_EVERY,
    away: AWAY_MAX,
    leave: LEAVE_MAX,
};

/// How far the drain of a node has come.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// The node that is asked does not know of it.
    NotKnown,
    /// Groups leave; or one that has left is not served yet.
    Leaving,
    /// All that is left stays, with the reasons.
    Staying,
    /// It holds nothing, and what it held is served elsewhere.
    Done,
}

/// What was seen of the groups that the node held.
#[derive(Default)]
struct Watch {
    /// What was last said of each.
    said: BTreeMap<String, String>,
    /// What is to be printed, in order.
    news: Vec<String>,
}

impl Watch {
    fn look(&mut self, node: &str, status: &Status) -> Progress {
        let known = status.nodes.iter().find(|one| one.name == node);
        let Some(drained) = known.and_then(|one| one.drained.as_ref()) else {
            return Progress::NotKnown;
        };
        for held in &drained.holds {
            self.say(&held.group, &held.why);
        }
        let mut moving = false;
        let left: Vec<String> = self.said.keys().cloned().collect();
        for name in left {
            let group = status.groups.iter().find(|group| group.name == name);
            let Some(group) = group.filter(|group| group.holder.as_deref() != Some(node)) else {
                continue;
            };
            let serves = group.state == State::Serving;
            moving |= !serves;
            if let (true, Some(holder)) = (serves, &group.holder) {
                self.say(&name, &format!("{holder} serves it"));
            }
        }
        match drained.holds.as_slice() {
            [] if moving => Progress::Leaving,
            [] => Progress::Done,
            holds if !moving && holds.iter().all(|held| held.to.is_none()) => Progress::Staying,
            _ => Progress::Leaving,
        }
    }

    fn say(&mut self, group: &str, what: &str) {
        // Reasons carry ages and counters: only the first of a kind is news.
        let kind = |text: &str| text.split([':', ';']).next().unwrap_or_default().to_owned();
        let before = self.said.insert(group.to_owned(), what.to_owned());
        if before.as_deref().map(kind) != Some(kind(what)) {
            self.news.push(format!("{group}: {what}"));
        }
    }

    fn tell(&mut self) {
        self.news.drain(..).for_each(|line| println!("{line}"));
    }
}

/// Drains a node and waits until it holds nothing.
pub fn drain(drain: &Drain) -> anyhow::Result<ExitCode> {
    let request = Request::Drain {
        node: drain.node.clone(),
        for_ms: drain
            .lasting
            .map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        force: drain.force,
    };
    match client::ask(&drain.client.socket, &request)? {
        Answer::Done(text) => println!("{text}"),
        Answer::Refused(reason) => {
            eprintln!("evenkeel: refused: {reason}");
            return Ok(ExitCode::FAILURE);
        }
        Answer::Status(_)
        | Answer::Why(_)
        | Answer::Reload(_)
        | Answer::Plan(_)
        | Answer::Doctor(_) => {
            anyhow::bail!("the daemon answered something else")
        }
    }
    if drain.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let mut ask = |request: &Request| client::ask(&drain.client.socket, request);
    wait(&drain.node, &mut ask, PATIENCE)
}

/// Watches a node that is drained. The daemon that is asked may be replaced meanwhile.
fn wait(node: &str, ask: Asking<'_>, patience: Patience) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let mut watch = Watch::default();
    let mut known = false;
    // Who has just been started may not know of the drain yet.
    let mut asked_since = began;
    let mut away_since: Option<Instant> = None;
    let mut stays_since: Option<Instant> = None;
    loop {
        let status = match ask(&Request::Status) {
            Ok(Answer::Status(status)) => status,
            Ok(_) => anyhow::bail!("the daemon answered something else"),
            Err(error) if error.may_pass() => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= patience.away {
                    eprintln!(
                        "evenkeel: {node} is drained, but how far its groups have left cannot be \
                         seen any more ({error}); ask on another node: evenkeel status"
                    );
                    return Ok(ExitCode::from(STAYS));
                }
                std::thread::sleep(patience.pace);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if away_since.take().is_some() {
            (known, asked_since, stays_since) = (false, Instant::now(), None);
        }
        let progress = watch.look(node, &status);
        watch.tell();
        match progress {
            Progress::Done => {
                println!("{node} holds nothing");
                return Ok(ExitCode::SUCCESS);
            }
            Progress::NotKnown if known || asked_since.elapsed() >= KNOWN_MAX => {
                anyhow::bail!(
                    "{node} is drained no more: somebody has ended it, or its time is over"
                );
            }
            Progress::NotKnown => {}
            Progress::Leaving => stays_since = None,
            Progress::Staying => {
                let since = stays_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= STAYS_AFTER {
                    eprintln!(
                        "evenkeel: {node} is drained, but groups stay on it as long as nobody else is fit"
                    );
                    return Ok(ExitCode::from(STAYS));
                }
            }
        }
        known |= progress != Progress::NotKnown;
        if began.elapsed() >= patience.leave {
            eprintln!(
                "evenkeel: {node} is drained, but its groups have not all left within {} s; \
                 `evenkeel status` tells more",
                patience.leave.as_secs()
            );
            return Ok(ExitCode::from(STAYS));
        }
        std::thread::sleep(patience.pace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_console::api::v1::{Drained, Group, Held, Node};

    fn status(groups: &[(&str, &str, State)], holds: Option<&[(&str, Option<&str>)]>) -> Status {
        let held = |one: &(&str, Option<&str>)| Held {
            group: one.0.into(),
            to: one.1.map(Into::into),
            why: match one.1 {
                Some(to) => format!("it leaves for {to}"),
                None => format!("nobody else is fit to take it: {} ms", groups.len()),
            },
        };
        let drained = holds.map(|holds| {
            Box::new(Drained {
                since: "now".into(),
                left_s: None,
                words: "drained".into(),
                holds: holds.iter().map(held).collect(),
            })
        });
        let group = |(name, holder, state): &(&str, &str, State)| Group {
            name: (*name).into(),
            holder: Some((*holder).into()),
            epoch: 1,
            state: *state,
            since: String::new(),
            addresses: Vec::new(),
            guard: "full".into(),
            protected: true,
            next: None,
            nodes: Vec::new(),
            services: Vec::new(),
        };
        Status {
            groups: groups.iter().map(group).collect(),
            nodes: vec![Node {
                name: "ams1".into(),
                alive: true,
                witness: false,
                rtt_ms: None,
                note: None,
                drained,
            }],
            ..Status::default()
        }
    }

    #[test]
    fn the_groups_are_followed_until_they_are_served_elsewhere() {
        use State::{Moving, Serving};
        let mut watch = Watch::default();
        let steps = [
            (status(&[], None), Progress::NotKnown),
            (
                status(
                    &[("www", "ams1", Serving), ("shop", "ams1", Serving)],
                    Some(&[("www", Some("fra1")), ("shop", None)]),
                ),
                Progress::Leaving,
            ),
            (
                status(
                    &[("www", "fra1", Moving), ("shop", "ams1", Serving)],
                    Some(&[("shop", None)]),
                ),
                Progress::Leaving,
            ),
            (
                status(
                    &[("www", "fra1", Serving), ("shop", "ams1", Serving)],
                    Some(&[("shop", None)]),
                ),
                Progress::Staying,
            ),
            (
                status(
                    &[("www", "fra1", Serving), ("shop", "bru1", Moving)],
                    Some(&[]),
                ),
                Progress::Leaving,
            ),
            (
                status(
                    &[("www", "fra1", Serving), ("shop", "bru1", Serving)],
                    Some(&[]),
                ),
                Progress::Done,
            ),
        ];
        for (number, (status, wanted)) in steps.iter().enumerate() {
            assert_eq!(watch.look("ams1", status), *wanted, "step {number}");
        }
        let wanted = [
            "www: it leaves for fra1",
            "shop: nobody else is fit to take it: 2 ms",
            "www: fra1 serves it",
            "shop: bru1 serves it",
        ];
        assert_eq!(watch.news, wanted);
    }

    fn gone() -> Result<Answer, ClientError> {
        Err(ClientError::Broken {
            path: "/run/s".into(),
            said: std::io::Error::other("the connection was closed"),
        })
    }

    const QUICK: Patience = Patience {
        pace: Duration::ZERO,
        away: Duration::from_millis(5),
        leave: LEAVE_MAX,
    };

    /// The exit code is no number that can be compared.
    fn shown(code: anyhow::Result<ExitCode>) -> String {
        format!("{:?}", code.expect("no error"))
    }

    #[test]
    fn a_daemon_that_is_replaced_meanwhile_is_asked_again() {
        use State::Serving;
        let held = status(&[("www", "ams1", Serving)], Some(&[("www", Some("fra1"))]));
        let left = status(&[("www", "fra1", Serving)], Some(&[]));
        // The new one does not know of the drain at first.
        let young = status(&[("www", "ams1", Serving)], None);
        let mut answers = vec![
            Ok(Answer::Status(held)),
            gone(),
            gone(),
            Ok(Answer::Status(young)),
            Ok(Answer::Status(left)),
        ]
        .into_iter();
        let mut ask = |_: &Request| answers.next().expect("it is done");
        // Twice is not for long.
        let patience = Patience {
            away: AWAY_MAX,
            ..QUICK
        };
        let code = wait("ams1", &mut ask, patience);
        assert_eq!(shown(code), shown(Ok(ExitCode::SUCCESS)));
        assert!(answers.next().is_none(), "each was asked for");
    }

    #[test]
    fn a_daemon_that_stays_away_does_not_mean_that_nothing_was_changed() {
        let mut ask = |_: &Request| gone();
        let code = wait("ams1", &mut ask, QUICK);
        assert_eq!(shown(code), shown(Ok(ExitCode::from(STAYS))));
        let mut ask = |_: &Request| {
            Err(ClientError::Forbidden {
                path: "/run/s".into(),
            })
        };
        wait("ams1", &mut ask, QUICK).expect_err("that does not pass");
    }

    #[test]
    fn a_node_that_held_nothing_is_done_at_once() {
        let empty = status(&[("www", "fra1", State::Serving)], Some(&[]));
        assert_eq!(Watch::default().look("ams1", &empty), Progress::Done);
    }
}
