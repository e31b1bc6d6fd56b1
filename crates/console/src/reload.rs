//! An operator's reload or upgrade, from the outside: the process that is asked is replaced
//! by what it is asked for, so the client begins it, comes back, and asks for the outcome.
//!
//! On all nodes there are two phases. All judge their own file; only if every node answers,
//! every file is good and all have one digest, all take it up. A client that is interrupted
//! between leaves some nodes with the new one: they say so, addresses stay where they are
//! until all agree, and the same command again completes it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::api::v1::{Answer, Node, Reload, ReloadState, ReloadStep, Request};
use crate::client::ClientError;

/// How long a change may take: longer than all patience of the parent that carries it out.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long nodes that do not answer are asked again: a worker that has just taken over hears
/// the others within a fraction of a second.
const HEARD: Duration = Duration::from_secs(3);
/// How often it is asked for: a worker that is replaced does not answer for a tenth of a
/// second.
const PACE: Duration = Duration::from_millis(50);

/// How the daemon is asked.
pub type Asking<'a> = &'a mut dyn FnMut(&Request) -> Result<Answer, ClientError>;

/// A client that reloads.
pub struct Client<'a> {
    ask: Asking<'a>,
    patience: Duration,
    heard: Duration,
    pace: Duration,
}

/// One node of many.
struct One {
    name: String,
    /// Its digest once judged, or why it has none.
    judged: Result<String, Judged>,
}

/// Why a node is not ready.
enum Judged {
    Absent(String),
    Refused(String),
}

impl<'a> Client<'a> {
    /// One that asks in this way.
    pub fn new(ask: Asking<'a>) -> Self {
        Self {
            ask,
            patience: PATIENCE,
            heard: HEARD,
            pace: PACE,
        }
    }

    /// Reloads the node that is asked.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn reload(&mut self) -> Result<String, String> {
        let digest = None;
        let done = self.carry_out(None, ReloadStep::Apply { digest })?;
        Ok(done.text)
    }

    /// Replaces the program of the node that is asked.
    ///
    /// # Errors
    /// Why it runs on as it was.
    pub fn upgrade(&mut self) -> Result<String, String> {
        self.carry_out(None, ReloadStep::Upgrade)
            .map(|done| done.text)
    }

    /// Reloads all nodes, or none. With `force`, those that answer.
    ///
    /// # Errors
    /// Every node with what it said.
    pub fn everywhere(&mut self, force: bool) -> Result<String, String> {
        let until = Instant::now() + self.heard;
        let all = loop {
            let all = self.judge_all()?;
            let absent = |one: &One| matches!(one.judged, Err(Judged::Absent(_)));
            if !all.iter().any(absent) || Instant::now() >= until {
                break all;
            }
            std::thread::sleep(self.pace);
        };
        let digest = all_alike(&all, force)?;
        let mut text = String::new();
        let mut failed = false;
        for one in &all {
            let outcome = match &one.judged {
                Err(_) => "LEFT OUT, keeps what it has".to_owned(),
                // What one node could not bring up, the next would not either.
                Ok(_) if failed => "not tried, keeps what it has".to_owned(),
                Ok(_) => {
                    let digest = Some(digest.clone());
                    let step = ReloadStep::Apply { digest };
                    match self.carry_out(Some(one.name.clone()), step) {
                        Ok(done) => runs(&done),
                        Err(reason) => {
                            failed = true;
                            format!("FAILED: {reason}")
                        }
                    }
                }
            };
            let _ = writeln!(text, "{}  {outcome}", one.name);
        }
        if failed {
            return Err(format!(
                "not all nodes took it up, though all had found it good; the same command again \
                 completes it:\n{text}"
            ));
        }
        Ok(text.trim_end().to_owned())
    }

    /// What every node says of its own file, the one that is asked last: while it is replaced,
    /// nobody else can be asked.
    fn judge_all(&mut self) -> Result<Vec<One>, String> {
        let status = match (self.ask)(&Request::Status) {
            Ok(Answer::Status(status)) => status,
            Ok(_) => return Err("the daemon answered something else".to_owned()),
            Err(error) => return Err(format!("cannot ask the daemon: {error}")),
        };
        let mut nodes: Vec<&Node> = status.nodes.iter().collect();
        nodes.sort_by_key(|node| node.name == status.node);
        let one = |node: &Node| One {
            name: node.name.clone(),
            judged: match node.alive {
                true => self.judge(&node.name),
                false => Err(Judged::Absent("is not heard".to_owned())),
            },
        };
        Ok(nodes.into_iter().map(one).collect())
    }

    fn judge(&mut self, name: &str) -> Result<String, Judged> {
        let request = Request::Reload {
            node: Some(name.to_owned()),
            step: ReloadStep::Check,
        };
        match (self.ask)(&request) {
            Ok(Answer::Reload(Reload {
                state: ReloadState::Good,
                digest: Some(digest),
                ..
            })) => Ok(digest),
            Ok(Answer::Reload(other)) => Err(Judged::Refused(other.text)),
            Ok(Answer::Refused(reason)) => Err(Judged::Absent(reason)),
            Ok(_) => Err(Judged::Absent("answered something else".to_owned())),
            Err(error) => Err(Judged::Absent(error.to_string())),
        }
    }

    /// Begins one step and waits for its outcome.
    fn carry_out(&mut self, node: Option<String>, step: ReloadStep) -> Result<Reload, String> {
        let request = Request::Reload {
            node: node.clone(),
            step,
        };
        let id = match (self.ask)(&request) {
            Ok(Answer::Reload(begun)) => begun.id,
            Ok(Answer::Refused(reason)) => return Err(reason),
            Ok(_) => return Err("the daemon answered something else".to_owned()),
            Err(error) => return Err(format!("cannot ask the daemon: {error}")),
        };
        let until = Instant::now() + self.patience;
        let step = ReloadStep::Outcome { id };
        let request = Request::Reload { node, step };
        let mut last = "it is still under way".to_owned();
        while Instant::now() < until {
            std::thread::sleep(self.pace);
            match (self.ask)(&request) {
                Ok(Answer::Reload(outcome)) => match outcome.state {
                    ReloadState::Running => {}
                    ReloadState::Refused => return Err(outcome.text),
                    ReloadState::Good | ReloadState::Applied => return Ok(outcome),
                },
                // It, or the one that asks it, is being replaced.
                Ok(Answer::Refused(reason)) => last = reason,
                Ok(_) => last = "the daemon answered something else".to_owned(),
                Err(ClientError::Forbidden { path }) => {
                    return Err(ClientError::Forbidden { path }.to_string());
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(format!(
            "no outcome within {} s ({last}): `evenkeel status` and the log tell how it ended",
            self.patience.as_secs()
        ))
    }
}

/// What a node that has taken it up is told with: below it, what it warns of.
fn runs(done: &Reload) -> String {
    let mut text = format!("{}  runs", done.digest.as_deref().unwrap_or_default());
    for warning in done.text.lines().skip(1) {
        let _ = write!(text, "\n    {warning}");
    }
    text
}

/// The digest that all have, or every node with what it said.
fn all_alike(all: &[One], force: bool) -> Result<String, String> {
    let mut digests: Vec<&String> = all
        .iter()
        .filter_map(|one| one.judged.as_ref().ok())
        .collect();
    digests.dedup();
    let absent = all
        .iter()
        .any(|one| matches!(one.judged, Err(Judged::Absent(_))));
    let refused = all
        .iter()
        .any(|one| matches!(one.judged, Err(Judged::Refused(_))));
    let why = match digests[..] {
        _ if refused => "not every file is good",
        [] => "no node answers",
        [_] if absent && !force => {
            "not every node answers: bring them back, or leave them out with --force"
        }
        [digest] => return Ok(digest.clone()),
        _ => "the files differ",
    };
    let mut text = format!("nothing is changed on any node, because {why}:");
    for one in all {
        let said = match &one.judged {
            Ok(digest) => format!("{digest}  good"),
            Err(Judged::Absent(reason)) => format!("NO ANSWER: {reason}"),
            Err(Judged::Refused(reason)) => format!("REFUSED: {reason}"),
        };
        let _ = write!(text, "\n{}  {said}", one.name);
    }
    Err(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1::{ReloadWhat, Status};
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    fn reload(id: u64, state: ReloadState, digest: &str, text: &str) -> Answer {
        Answer::Reload(Reload {
            id,
            what: ReloadWhat::Reload,
            state,
            at: String::new(),
            digest: Some(digest.to_owned()),
            text: text.to_owned(),
        })
    }

    fn gone() -> ClientError {
        ClientError::Broken {
            path: "/run/s".into(),
            said: std::io::Error::other("the connection was closed"),
        }
    }

    /// Nodes with the digest of their file, or why it is faulty; none: dead.
    fn play(
        files: &[(&str, Option<Result<&str, &str>>)],
        force: bool,
    ) -> (Result<String, String>, Vec<String>) {
        let files: BTreeMap<&str, _> = files.iter().copied().collect();
        let applied = RefCell::new(Vec::new());
        let silence = RefCell::new(2);
        let mut ask = |request: &Request| match request {
            Request::Status => {
                let node = |(name, file): (&&str, &Option<_>)| Node {
                    drained: None,
                    name: (*name).to_owned(),
                    alive: file.is_some(),
                    witness: false,
                    rtt_ms: None,
                    note: None,
                };
                Ok(Answer::Status(Status {
                    node: "a".to_owned(),
                    nodes: files.iter().map(node).collect(),
                    ..Status::default()
                }))
            }
            Request::Reload { node, step } => {
                let name = node.as_deref().unwrap_or("a");
                let file = files[name].expect("the dead are not asked");
                match (step, file) {
                    (ReloadStep::Check, Ok(digest)) => Ok(reload(1, ReloadState::Good, digest, "")),
                    (ReloadStep::Check, Err(reason)) => {
                        Ok(reload(1, ReloadState::Refused, "", reason))
                    }
                    (ReloadStep::Apply { digest }, Ok(own)) => {
                        assert_eq!(digest.as_deref(), Some(own));
                        applied.borrow_mut().push(name.to_owned());
                        *silence.borrow_mut() = 2;
                        Ok(reload(2, ReloadState::Running, own, ""))
                    }
                    (ReloadStep::Outcome { id: 2 }, Ok(own)) => {
                        let mut silence = silence.borrow_mut();
                        if *silence > 0 {
                            *silence -= 1;
                            return Err(gone());
                        }
                        let text = match name {
                            "b" => "done\nf:3:1: warning: odd",
                            _ => "done",
                        };
                        Ok(reload(2, ReloadState::Applied, own, text))
                    }
                    other => panic!("not asked for: {other:?}"),
                }
            }
            other => panic!("not asked for: {other:?}"),
        };
        let mut client = Client {
            ask: &mut ask,
            patience: Duration::from_secs(20),
            heard: Duration::from_millis(5),
            pace: Duration::ZERO,
        };
        let said = client.everywhere(force);
        (said, applied.into_inner())
    }

    #[test]
    fn all_take_it_up_when_all_files_are_good_and_the_same_and_the_asked_one_is_last() {
        let (said, applied) = play(
            &[
                ("a", Some(Ok("00ff"))),
                ("b", Some(Ok("00ff"))),
                ("c", Some(Ok("00ff"))),
            ],
            false,
        );
        let text = said.expect("done");
        assert_eq!(
            text,
            "b  00ff  runs\n    f:3:1: warning: odd\nc  00ff  runs\na  00ff  runs"
        );
        assert_eq!(applied, ["b", "c", "a"]);
    }

    #[test]
    fn one_that_is_faulty_differs_or_is_dead_keeps_all_as_they_are() {
        let good = Some(Ok("00ff"));
        for (other, force, what) in [
            (Some(Err("f:3:1: no")), true, "c  REFUSED: f:3:1: no"),
            (Some(Ok("0011")), true, "the files differ"),
            (None, false, "c  NO ANSWER: is not heard"),
        ] {
            let (said, applied) = play(&[("a", good), ("b", good), ("c", other)], force);
            let text = said.expect_err("refused");
            assert!(
                text.contains(what) && text.contains("nothing is changed"),
                "{text}"
            );
            assert!(text.contains("b  00ff  good"), "{text}");
            assert_eq!(applied, Vec::<String>::new());
        }
    }

    #[test]
    fn force_leaves_the_dead_out() {
        let good = Some(Ok("00ff"));
        let (said, applied) = play(&[("a", good), ("b", good), ("c", None)], true);
        assert!(said.expect("done").contains("c  LEFT OUT"));
        assert_eq!(applied, ["b", "a"]);
    }

    #[test]
    fn an_outcome_that_never_comes_ends_the_wait() {
        let mut ask = |request: &Request| match request {
            Request::Reload {
                step: ReloadStep::Apply { .. },
                ..
            } => Ok(reload(2, ReloadState::Running, "", "")),
            _ => Err(gone()),
        };
        let mut client = Client {
            ask: &mut ask,
            patience: Duration::from_millis(20),
            heard: Duration::ZERO,
            pace: Duration::from_millis(1),
        };
        let said = client.reload().expect_err("no outcome");
        assert!(said.contains("connection was closed"), "{said}");
    }
}
