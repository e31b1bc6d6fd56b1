//! Where the engine runs: on tokio, or in virtual time.
//!
//! The real runtime is tokio as it is, whose clock is `CLOCK_MONOTONIC` and stands still while the
//! machine is suspended. That is good enough here: no decision about leases rests on this clock
//! (DESIGN 3.1 needs only agreement from the engine, not its timing), and a suspended voter that
//! wakes finds its election timer where it left it, which at worst delays an election.

use core::future::Future;
use core::time::Duration;
use std::io;

/// A place to run the engine in. Only [`Live`] and, for simulations, `Virtual` are one.
pub trait Runtime: sealed::Runtime {}

impl<T: sealed::Runtime> Runtime for T {}

/// Real time on tokio: [`Engine::start`](crate::Engine::start) must be called within a runtime
/// whose timers are enabled. The log has a thread of its own.
#[derive(Clone, Copy, Debug)]
pub enum Live {}

/// Virtual time in `openraft-rt-sim`: one thread, the same seed gives the same run.
#[cfg(any(test, feature = "virtual"))]
#[derive(Clone, Copy, Debug)]
pub enum Virtual {}

pub(crate) mod sealed {
    use super::*;

    /// The engine's needs; not nameable outside.
    pub trait Runtime: Send + Sync + 'static {
        /// Tasks, timers, channels.
        type Async: openraft::AsyncRuntime;

        /// Runs the log's writer where blocking harms nobody.
        fn start_writer(writer: impl Future<Output = ()> + Send + 'static) -> io::Result<()>;

        /// Lets time pass within the writer.
        fn pause(span: Duration) -> impl Future<Output = ()> + Send;
    }
}

impl sealed::Runtime for Live {
    type Async = openraft::TokioRuntime;

    fn start_writer(writer: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || parked::block_on(writer))
            .map(|_thread| ())
    }

    async fn pause(span: Duration) {
        std::thread::sleep(span);
    }
}

#[cfg(any(test, feature = "virtual"))]
impl sealed::Runtime for Virtual {
    type Async = openraft_rt_sim::SimRuntime;

    fn start_writer(writer: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        drop(<Self::Async as openraft::AsyncRuntime>::spawn(writer));
        Ok(())
    }

    async fn pause(span: Duration) {
        <Self::Async as openraft::AsyncRuntime>::sleep(span).await;
    }
}

/// Lets a call into openraft come to its end even if whoever waits for it gives up; nothing if it
/// panicked. The first call that learns of the end of openraft's core waits for that core: dropped
/// while it waits (a disk hangs, and patience ends), it leaves all later calls to a panic.
pub(crate) async fn unbroken<R, T>(call: impl Future<Output = T> + Send + 'static) -> Option<T>
where
    R: Runtime,
    T: Send + 'static,
{
    <R::Async as openraft::AsyncRuntime>::spawn(call).await.ok()
}

/// The smallest executor: one future on one thread that sleeps while there is nothing to do.
mod parked {
    use core::future::Future;
    use core::pin::pin;
    use core::task::{Context, Poll, Waker};
    use std::sync::Arc;
    use std::task::Wake;
    use std::thread::{self, Thread};

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    pub(super) fn block_on<F: Future>(future: F) -> F::Output {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(output) => return output,
                Poll::Pending => thread::park(),
            }
        }
    }
}
