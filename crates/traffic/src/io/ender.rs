//! The thread that ends sockets: a busy server has a hundred thousand of them, and
//! ending them takes longer than another group's takeover may wait.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use evenkeel_host::{sockets, sys::sched};

use super::Shared;

/// Jobs that wait: as many groups as can leave at once, and then some.
const JOBS_MAX: usize = 1_024;

/// What came of a job: its ticket, and the number of sockets or the reason.
pub(super) type Ended = (u64, Result<usize, String>);

/// Where jobs are left. The thread ends when this is dropped and the last job is done.
#[derive(Debug)]
pub(super) struct Ender {
    jobs: SyncSender<(u64, BTreeSet<IpAddr>)>,
}

impl Ender {
    /// Leaves a job; the outcome comes by the other channel, unless this says so now.
    pub(super) fn end(&self, ticket: u64, ips: BTreeSet<IpAddr>) -> Result<(), String> {
        self.jobs
            .try_send((ticket, ips))
            .map_err(|error| match error {
                TrySendError::Full(_) => format!("end sockets: {JOBS_MAX} such jobs wait already"),
                TrySendError::Disconnected(_) => "end sockets: the thread for it died".to_owned(),
            })
    }
}

/// Starts the thread, in the network namespace of the calling one.
pub(super) fn start(shared: Arc<Shared>) -> io::Result<(Ender, Receiver<Ended>)> {
    let (jobs, todo) = sync_channel::<(u64, BTreeSet<IpAddr>)>(JOBS_MAX);
    let (done, ended) = sync_channel(JOBS_MAX);
    std::thread::Builder::new()
        .name("traffic-ender".to_owned())
        .spawn(move || {
            sched::name_thread("traffic-ender");
            for (ticket, ips) in todo {
                let outcome = sockets::destroy(&ips).map_err(|error| error.to_string());
                if done.send((ticket, outcome)).is_err() {
                    return;
                }
                shared.wake();
            }
        })?;
    Ok((Ender { jobs }, ended))
}
