//! A worker's part in reloads: it passes operators' questions on, to its parent or to another
//! node, and tells outcomes. It may be ended by what it passes on, so it promises nothing: it
//! names a number, by which whoever answers next can be asked.

use std::time::Duration;

use evenkeel_console::api::v1::{Answer, Reload, ReloadState, ReloadStep, ReloadWhat, Request};
use evenkeel_core::{NodeId, NodeName};
use ring::rand::SecureRandom;
use tokio::sync::oneshot;
use tokio::time::Instant;

use std::sync::Arc;

use crate::decision::{Driver, as_json, wall_ms};
use crate::line::{Ask, WorkerEnd};
use crate::peers::ASK;
use crate::status::rfc3339;

/// How long a check of the file may take: a little longer than the parent's own patience.
const CHECK_PATIENCE: Duration = Duration::from_secs(8);
/// How often the board is looked at meanwhile.
const CHECK_LOOK: Duration = Duration::from_millis(10);
/// How long another node may take to answer: longer than its own check.
const FORWARD_PATIENCE: Duration = Duration::from_secs(10);

/// Where an answer goes.
pub type Back = Box<dyn FnOnce(Answer) + Send>;

impl Driver {
    /// Answers a step of a reload of `node`, or of this one.
    pub(crate) fn reload(
        &self,
        node: Option<String>,
        step: ReloadStep,
        answer: oneshot::Sender<Answer>,
    ) {
        // An operator who has gone needs no answer.
        let back: Back = Box::new(move |said| drop(answer.send(said)));
        let named = node.as_deref().map(|name| NodeName::new(name).ok());
        match named.map(|name| name.map(|name| NodeId::of(&name))) {
            None => reload_here(&self.line, step, back),
            Some(Some(id)) if id == self.me => reload_here(&self.line, step, back),
            Some(Some(id)) if self.node.topology().nodes.contains_key(&id) => {
                self.reload_there(id, step, back);
            }
            Some(_) => back(Answer::Refused(format!(
                "the configuration has no node {}",
                node.unwrap_or_default()
            ))),
        }
    }

    /// The same, asked by another node.
    pub(crate) fn reload_for_peer(&self, step: ReloadStep, reply: evenkeel_transport::Responder) {
        let back: Back = Box::new(move |said| reply.send(as_json(&said)));
        match step {
            ReloadStep::Upgrade => back(Answer::Refused(
                "a program is replaced on its own node: run `evenkeel upgrade` there".to_owned(),
            )),
            step => reload_here(&self.line, step, back),
        }
    }

    fn reload_there(&self, to: NodeId, step: ReloadStep, back: Back) {
        let endpoint = self.endpoint.clone();
        let request = Request::Reload { node: None, step };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        tokio::spawn(async move {
            let got = endpoint
                .request(to, ASK, body.into(), FORWARD_PATIENCE)
                .await;
            back(match got {
                Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                    Answer::Refused(format!("its answer is not understood: {error}"))
                }),
                Err(error) => Answer::Refused(format!("it does not answer: {error}")),
            });
        });
    }
}

fn reload_here(line: &Arc<WorkerEnd>, step: ReloadStep, back: Back) {
    let (what, digest) = match step {
        ReloadStep::Outcome { id } => {
            let known = line.board().and_then(|board| board.outcome(id).cloned());
            back(Answer::Reload(known.unwrap_or_else(|| {
                // The parent has not come to it yet, or never will: who asks has a deadline.
                begun(id, ReloadWhat::Reload)
            })));
            return;
        }
        ReloadStep::Check => (ReloadWhat::Check, None),
        ReloadStep::Apply { digest } => (ReloadWhat::Reload, digest),
        ReloadStep::Upgrade => (ReloadWhat::Upgrade, None),
    };
    let mut id = [0; 8];
    if ring::rand::SystemRandom::new().fill(&mut id).is_err() {
        back(Answer::Refused(
            "the kernel gives no random numbers".to_owned(),
        ));
        return;
    }
    let id = u64::from_le_bytes(id);
    if let Err(error) = line.ask(&Ask { id, what, digest }) {
        back(Answer::Refused(format!(
            "the parent of this daemon's worker cannot be asked: {error}"
        )));
        return;
    }
    if what != ReloadWhat::Check {
        back(Answer::Reload(begun(id, what)));
        return;
    }
    let line = Arc::clone(line);
    tokio::spawn(async move {
        let until = Instant::now() + CHECK_PATIENCE;
        while Instant::now() < until {
            let known = line.board().and_then(|board| board.outcome(id).cloned());
            if let Some(outcome) = known.filter(|one| one.state != ReloadState::Running) {
                back(Answer::Reload(outcome));
                return;
            }
            tokio::time::sleep(CHECK_LOOK).await;
        }
        back(Answer::Refused(
            "the file was not judged in time".to_owned(),
        ));
    });
}

fn begun(id: u64, what: ReloadWhat) -> Reload {
    Reload {
        id,
        what,
        state: ReloadState::Running,
        at: rfc3339(wall_ms()),
        digest: None,
        text: String::new(),
    }
}
