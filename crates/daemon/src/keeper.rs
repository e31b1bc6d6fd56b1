//! The guard's cold side on a thread of its own: which addresses it guards, and whether
//! everything is still where it was put.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use evenkeel_core::{Epoch, GroupId, Moment};
use evenkeel_guard::{BackendState, GuardState, Keeper, VERIFY_INTERVAL};
use evenkeel_host::address;
use evenkeel_host::netlink::{Connection, Family, NetlinkError};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::os::fd::{AsFd, OwnedFd};
use tokio::sync::mpsc;

/// Orders that may wait: one per assignment.
const ORDERS_MAX: usize = 512;

/// How long an address that is new to the guard is waited for: the guard's thread may be in
/// the middle of a repair, some 50 ms.
const GUARD_MAX: Duration = Duration::from_millis(500);

enum Order {
    Guard(GroupId, Epoch, Vec<IpAddr>),
    /// The same, and to be told when it is done.
    GuardNow(GroupId, Epoch, Vec<IpAddr>, SyncSender<bool>),
    Forget(Vec<IpAddr>),
    Hold(GroupId, Vec<IpAddr>, Duration),
    Unhold(GroupId),
    Stop,
}

/// The way to the thread.
pub struct KeeperThread {
    orders: SyncSender<Order>,
    wake: Arc<OwnedFd>,
    handle: Option<std::thread::JoinHandle<()>>,
}

/// What the thread says.
#[derive(Clone, Debug)]
pub enum KeeperNews {
    /// The guard's state, at the start and when it changes.
    State(GuardState),
    /// The answer to [`KeeperThread::hold`].
    Held {
        /// The group.
        group: GroupId,
        /// When the transaction began and was done; `None` if attempts cannot be held.
        transaction: Option<(Moment, Moment)>,
    },
    /// The answer to [`KeeperThread::unhold`]: attempts pass again.
    Unheld {
        /// The group.
        group: GroupId,
    },
    /// Of what was to be forgotten, this is guarded all the same.
    Kept(Vec<IpAddr>),
}

/// How the thread's news are heard.
pub type GuardNews = mpsc::UnboundedReceiver<KeeperNews>;

impl KeeperThread {
    /// Starts the thread. The state is told once at the start and at each change; it
    /// changes when a mechanism is lost or comes back, so there is little to queue.
    pub fn start(keeper: Keeper) -> std::io::Result<(Self, GuardNews)> {
        let (orders, received) = sync_channel(ORDERS_MAX);
        let (news, heard) = mpsc::unbounded_channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let own = Arc::clone(&wake);
        let handle = std::thread::Builder::new()
            .name("guard".to_owned())
            .spawn(move || run(keeper, &received, &news, &own))?;
        Ok((
            Self {
                orders,
                wake,
                handle: Some(handle),
            },
            heard,
        ))
    }

    /// Says which addresses belong to a group under an assignment.
    pub fn guard(&self, group: GroupId, assigned: Epoch, addresses: Vec<IpAddr>) {
        self.order(Order::Guard(group, assigned, addresses));
    }

    /// The same, and waits until the kernel has it, [`GUARD_MAX`] at most; says whether it
    /// does.
    pub fn guard_now(&self, group: GroupId, assigned: Epoch, addresses: Vec<IpAddr>) -> bool {
        let (done, told) = sync_channel(1);
        self.order(Order::GuardNow(group, assigned, addresses, done));
        told.recv_timeout(GUARD_MAX).unwrap_or(false)
    }

    /// Stops guarding addresses that are in no group and on no device of this machine; the
    /// others are told by [`KeeperNews::Kept`].
    pub fn forget(&self, addresses: Vec<IpAddr>) {
        self.order(Order::Forget(addresses));
    }

    /// Drops attempts to connect to `addresses`, for at most so long: [`KeeperNews::Held`].
    pub fn hold(&self, group: GroupId, addresses: Vec<IpAddr>, at_most: Duration) {
        self.order(Order::Hold(group, addresses, at_most));
    }

    /// Lets attempts to connect to the group pass again.
    pub fn unhold(&self, group: GroupId) {
        self.order(Order::Unhold(group));
    }

    fn order(&self, order: Order) {
        if self.orders.try_send(order).is_err() {
            // The kernel goes on dropping what it does not know as open.
            tracing::error!("the guard's thread does not take its orders");
        }
        // A full counter wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for KeeperThread {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(handle) = self.handle.take() {
            // A panic was told by the panic hook.
            let _ = handle.join();
        }
    }
}

fn run(
    mut keeper: Keeper,
    orders: &Receiver<Order>,
    news: &mpsc::UnboundedSender<KeeperNews>,
    wake: &OwnedFd,
) {
    let mut told: Option<GuardState> = None;
    let mut failing = false;
    loop {
        let mut drained = [0; 8];
        // Nothing to drain is nothing to do.
        let _ = rustix::io::read(wake, &mut drained);
        while let Ok(order) = orders.try_recv() {
            let answer = match order {
                Order::Guard(group, assigned, addresses) => {
                    guard(&mut keeper, group, assigned, addresses);
                    None
                }
                Order::GuardNow(group, assigned, addresses, done) => {
                    // Who asked may have given up.
                    let _ = done.send(guard(&mut keeper, group, assigned, addresses));
                    None
                }
                Order::Forget(addresses) => {
                    let kept = forget(&mut keeper, &addresses);
                    (!kept.is_empty()).then_some(KeeperNews::Kept(kept))
                }
                Order::Hold(group, addresses, at_most) => Some(KeeperNews::Held {
                    group,
                    transaction: hold(&mut keeper, group, &addresses, at_most),
                }),
                Order::Unhold(group) => {
                    if let Err(error) = keeper.unhold(group) {
                        tracing::warn!(%error, "attempts to connect are held until their time is over");
                    }
                    Some(KeeperNews::Unheld { group })
                }
                Order::Stop => return,
            };
            if answer.is_some_and(|answer| news.send(answer).is_err()) {
                return;
            }
        }
        failing = verify(&mut keeper, failing);
        let state = keeper.state();
        if told.as_ref() != Some(&state) {
            tell(&state);
            told = Some(state.clone());
            if news.send(KeeperNews::State(state)).is_err() {
                return;
            }
        }
        let timeout = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(VERIFY_INTERVAL.subsec_nanos()),
        };
        let events = keeper.events();
        let mut fds = [
            PollFd::from_borrowed_fd(events, PollFlags::IN),
            PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN),
        ];
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, Some(&timeout));
    }
}

/// Says whether the kernel has them.
fn guard(keeper: &mut Keeper, group: GroupId, assigned: Epoch, addresses: Vec<IpAddr>) -> bool {
    let addresses: BTreeSet<IpAddr> = addresses.into_iter().collect();
    let addresses: Vec<IpAddr> = addresses.into_iter().collect();
    let set = keeper.set_addresses(group, assigned, &addresses);
    if let Err(error) = &set {
        tracing::error!(%error, "failed to guard the addresses of a group: they stay closed");
    }
    set.is_ok()
}

/// What this machine would answer for if nothing were guarded.
fn answered_for() -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let mut route = Connection::open(Family::Route)?;
    let stopgaps = address::stopgaps(&mut route)?.into_iter();
    let stopgaps: Vec<IpAddr> = stopgaps.map(|one| one.ip).collect();
    // One that is placed meanwhile is in both.
    let placed = address::addresses(&mut route)?.into_iter();
    Ok(placed.map(|one| one.ip).chain(stopgaps).collect())
}

/// Gives back what is on no device; returns what stays guarded.
fn forget(keeper: &mut Keeper, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let free: Vec<IpAddr> = match answered_for() {
        Ok(here) => {
            let on_device = |ip: &&IpAddr| here.contains(ip);
            addresses
                .iter()
                .filter(|ip| !on_device(ip))
                .copied()
                .collect()
        }
        Err(error) => {
            tracing::warn!(%error, "failed to list addresses: those that left stay guarded");
            Vec::new()
        }
    };
    match keeper.forget(&free) {
        Ok(()) if free.is_empty() => {}
        Ok(()) => tracing::info!(addresses = ?free, "not guarded any more: they left the cluster"),
        Err(error) => tracing::warn!(%error, "addresses that left the cluster stay guarded"),
    }
    let guarded = keeper.addresses();
    let kept = addresses.iter().filter(|ip| guarded.contains(ip));
    kept.copied().collect()
}

fn hold(
    keeper: &mut Keeper,
    group: GroupId,
    addresses: &[IpAddr],
    at_most: Duration,
) -> Option<(Moment, Moment)> {
    match keeper.hold(group, addresses, at_most) {
        Ok(transaction) => Some(transaction),
        Err(error) => {
            tracing::warn!(%error, "failed to hold attempts to connect: they are served until the group moves");
            None
        }
    }
}

fn verify(keeper: &mut Keeper, failing: bool) -> bool {
    match keeper.verify_and_repair() {
        Ok(repairs) => {
            if !repairs.is_clean() {
                tracing::warn!(
                    links = repairs.links,
                    pins = repairs.pins,
                    tables = repairs.tables,
                    "somebody took a part of the guard away; it was put back"
                );
            }
            false
        }
        Err(error) => {
            if !failing {
                tracing::error!(%error, "failed to repair the guard; trying again");
            }
            true
        }
    }
}

fn tell(state: &GuardState) {
    for (name, state) in [("eBPF", &state.bpf), ("nftables", &state.nft)] {
        match state {
            BackendState::Active => tracing::info!("guard by {name}: active"),
            BackendState::Absent(reason) => tracing::warn!("guard by {name}: absent: {reason}"),
        }
    }
}
