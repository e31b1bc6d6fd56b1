//! The task of one service. It does one thing at a time and looks only when it does
//! nothing else, so that what it has seen is never older than what it has done.

use std::path::Path;

use evenkeel_config::{Runs, ServiceSpec};
use tokio::sync::mpsc;

use super::Shared;
use super::command::{Foreground, Scripts};
use super::unit::Unit;
use crate::machine::{Event, Seen, StopOutcome};

/// Orders on their way: a step, and the word to give it up.
const ORDERS_MAX: usize = 4;

/// What a group's task tells a service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Start,
    GiveUp,
    Stop,
}

/// A kind of service.
pub(super) trait Driver: Send + 'static {
    /// Starts it, within its deadline. May be dropped at any time.
    fn start(&mut self) -> impl Future<Output = Result<(), String>> + Send;

    /// Stops it, by the ladder, within bounds.
    fn stop(&mut self) -> impl Future<Output = StopOutcome> + Send;

    /// Returns when there is something new to see; at first at once. May be dropped at any
    /// time, and then sees it the next time.
    fn look(&mut self) -> impl Future<Output = (Seen, String)> + Send;

    /// What is seen next is news, whatever was seen before.
    fn look_anew(&mut self);
}

/// Starts the task of a service.
pub(super) fn start(
    shared: &Shared,
    at: usize,
    spec: &ServiceSpec,
    note: &Path,
    events: mpsc::Sender<Event>,
) -> mpsc::Sender<Order> {
    let (orders, heard) = mpsc::channel(ORDERS_MAX);
    match (&spec.what, &shared.systemd) {
        (Runs::Unit(unit), Some(systemd)) => {
            tokio::spawn(run(Unit::new(systemd, unit, spec), at, heard, events));
        }
        // The room keeps a line to systemd as soon as one group has a unit.
        (Runs::Unit(_), None) => {}
        (Runs::Foreground { start, status }, _) => {
            let driver = Foreground::new(start, status.as_ref(), spec, note);
            tokio::spawn(run(driver, at, heard, events));
        }
        (
            Runs::Scripts {
                start,
                stop,
                status,
            },
            _,
        ) => {
            let driver = Scripts::new(start, stop, status.as_ref(), spec, note);
            tokio::spawn(run(driver, at, heard, events));
        }
    }
    orders
}

async fn run(
    mut driver: impl Driver,
    at: usize,
    mut orders: mpsc::Receiver<Order>,
    events: mpsc::Sender<Event>,
) {
    loop {
        let event = tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Start) => {
                    let outcome = tokio::select! {
                        biased;
                        outcome = driver.start() => outcome,
                        // Whatever comes meanwhile: it is not wanted any more.
                        _ = orders.recv() => Err("it is no longer wanted".to_owned()),
                    };
                    driver.look_anew();
                    Event::Started(at, outcome)
                }
                Some(Order::Stop) => {
                    let outcome = driver.stop().await;
                    driver.look_anew();
                    Event::Stopped(at, outcome)
                }
                // It came when the start was over already.
                Some(Order::GiveUp) => continue,
                None => return,
            },
            (seen, detail) = driver.look() => Event::Seen(at, seen, detail),
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}
