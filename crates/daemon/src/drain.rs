//! What operators ask of the leader: to move a group, to drain a node and to let it back in.
//! Asked of another node, it is passed on. What may be done is decided by the leader's decision
//! machine; `evenkeel drain` itself watches the status until the groups have left.

use std::time::Duration;

use evenkeel_console::api::v1::{Answer, Request as Asked};
use evenkeel_core::maintenance::Ask;
use evenkeel_core::node::Event;
use evenkeel_core::{NodeId, NodeName};
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::decision::{ASK_PATIENCE, Brought, Driver, Waiting};
use crate::peers::ASK;

impl Driver {
    /// Does what the leader has to do, or passes it on to the leader.
    pub(crate) fn at_leader(
        &mut self,
        asked: Asked,
        answer: oneshot::Sender<Answer>,
        bring: &mpsc::Sender<Brought>,
    ) {
        match self.node.leader() {
            Some(leader) if leader != self.me => self.pass_on(leader, &asked, answer),
            Some(_) => self.as_leader(asked, Waiting::Here(answer), bring),
            None => {
                let reason = "no leader now: without a majority of voters nothing moves; see \
                              `evenkeel status`";
                // The operator may have gone.
                let _ = answer.send(Answer::Refused(reason.to_owned()));
            }
        }
    }

    fn pass_on(&self, leader: NodeId, asked: &Asked, answer: oneshot::Sender<Answer>) {
        let endpoint = self.endpoint.clone();
        let body = serde_json::to_vec(asked).unwrap_or_default();
        let patience = match asked {
            Asked::Switch { .. } => ASK_PATIENCE.saturating_add(self.longest_move()),
            _ => ASK_PATIENCE,
        };
        tokio::spawn(async move {
            let got = endpoint.request(leader, ASK, body.into(), patience).await;
            let said = match got {
                Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                    Answer::Refused(format!("the leader's answer is not understood: {error}"))
                }),
                Err(error) => {
                    Answer::Refused(format!("the leader did not answer: {error}; ask again"))
                }
            };
            let _ = answer.send(said);
        });
    }

    /// This node was taken for the leader; whether it is, the decision machine says.
    pub(crate) fn as_leader(
        &mut self,
        asked: Asked,
        waiting: Waiting,
        bring: &mpsc::Sender<Brought>,
    ) {
        match asked {
            Asked::Switch { group, to, force } => {
                self.switch(&group, to.as_deref(), force, waiting, bring);
            }
            Asked::Drain {
                node,
                for_ms,
                force,
            } => {
                let lasting = for_ms.map(Duration::from_millis);
                let ask = |node| Ask::Drain {
                    node,
                    lasting,
                    force,
                };
                self.maintain(&node, ask, waiting, bring);
            }
            Asked::Undrain { node } => {
                self.maintain(&node, |node| Ask::Undrain { node }, waiting, bring);
            }
            Asked::Plan { failure } => self.plan(failure, waiting),
            Asked::Status
            | Asked::Doctor
            | Asked::Why { .. }
            | Asked::Readmit { .. }
            | Asked::Recover { .. }
            | Asked::Reload { .. } => {
                let id = self.waits(waiting);
                self.reply(id, Err("the leader does not understand this".to_owned()));
            }
        }
    }

    fn maintain(
        &mut self,
        name: &str,
        ask: impl Fn(NodeId) -> Ask,
        waiting: Waiting,
        bring: &mpsc::Sender<Brought>,
    ) {
        let id = self.waits(waiting);
        let known = NodeName::new(name).ok().map(|name| NodeId::of(&name));
        match known.filter(|node| self.node.topology().nodes.contains_key(node)) {
            Some(node) => self.step(Event::Maintain { id, ask: ask(node) }, bring),
            None => self.reply(id, Err(format!("the configuration has no node {name}"))),
        }
    }
}
