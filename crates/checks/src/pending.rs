//! The questions of one probe that wait for answers: all within the probe's own task.
//!
//! A task per question would be simpler, but spawning one wakes another thread of the
//! runtime each time: with a question every 50 ms that was a large part of the cost of
//! asking.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use crate::io::Answer;
use crate::machine::OUTSTANDING_MAX;

/// A question under way.
pub(crate) type Asked = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Questions under way, oldest first.
#[derive(Default)]
pub(crate) struct Pending(Vec<(u64, Asked)>);

impl Pending {
    /// Takes one more. The machine never has more than [`OUTSTANDING_MAX`] pending; after
    /// a desertion it forgets those, and the oldest are given up here.
    pub(crate) fn push(&mut self, question: u64, asked: Asked) {
        if self.0.len() >= OUTSTANDING_MAX {
            drop(self.0.remove(0));
        }
        self.0.push((question, asked));
    }

    /// The next answer; waits for ever if nothing is under way. Cancel-safe.
    pub(crate) async fn next(&mut self) -> (u64, Answer) {
        poll_fn(|context| {
            // Few: each is polled whoever was woken.
            for at in 0..self.0.len() {
                if let Poll::Ready(answer) = self.0[at].1.as_mut().poll(context) {
                    let (question, _) = self.0.remove(at);
                    return Poll::Ready((question, answer));
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Outcome;
    use tokio::sync::oneshot;

    fn answer(text: &str) -> Answer {
        Answer::new(Outcome::Good, text)
    }

    #[tokio::test]
    async fn answers_come_in_their_own_order_and_survive_a_cancelled_wait() {
        let mut pending = Pending::default();
        let mut ends = Vec::new();
        for question in 0..3 {
            let (end, ended) = oneshot::channel();
            ends.push(end);
            let asked = async move { ended.await.expect("answered") };
            pending.push(question, Box::pin(asked));
        }
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(10), pending.next());
        assert!(nothing.await.is_err());
        ends.remove(2).send(answer("last")).expect("waited for");
        ends.remove(0).send(answer("first")).expect("waited for");
        let mut order = vec![pending.next().await.0, pending.next().await.0];
        order.sort_unstable();
        assert_eq!(order, [0, 2]);
        ends.remove(0).send(answer("middle")).expect("waited for");
        let (question, found) = pending.next().await;
        assert_eq!((question, found.detail.as_str()), (1, "middle"));
    }

    #[tokio::test]
    async fn the_oldest_is_given_up_when_there_are_too_many() {
        let mut pending = Pending::default();
        for question in 0..=OUTSTANDING_MAX as u64 {
            pending.push(question, Box::pin(async { answer("") }));
        }
        assert_eq!(pending.0.len(), OUTSTANDING_MAX);
        assert_eq!(pending.next().await.0, 1);
    }
}
