//! The door to virtual time for a simulated world: it runs beside the engines, on their clock and
//! in their order, without knowing which runtime that is.
//!
//! One thread, tasks in the order in which they became runnable, timers by their deadline and then
//! by the order in which they were set: the same seed gives the same run.

use core::future::Future;
use core::time::Duration;

use openraft::AsyncRuntime;
use openraft::Instant as _;
use openraft_rt_sim::{SimInstant, SimRuntime};

/// Runs `world` to its end. What is still running then is dropped.
pub fn run<T: Send>(seed: u64, world: impl Future<Output = T>) -> T {
    SimRuntime::with_seed(seed).block_on(world)
}

/// The time since the beginning of the run.
pub fn now() -> Duration {
    SimInstant::now().elapsed_since_start()
}

/// Waits until so long after the beginning of the run.
pub fn sleep_until(at: Duration) -> impl Future<Output = ()> + Send + Unpin {
    let now = SimInstant::now();
    let left = at.saturating_sub(now.elapsed_since_start());
    SimRuntime::sleep_until(now + left)
}

/// Starts a task that runs to its end whether or not anybody waits for it. None: it panicked.
pub fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = Option<T>> + Send {
    let handle = SimRuntime::spawn(task);
    async move { handle.await.ok() }
}
