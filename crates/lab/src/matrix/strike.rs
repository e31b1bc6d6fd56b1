//! How each trouble of the matrix is made to happen, and how it is made to end.
//!
//! Loss and flapping are rules on the switch's port of the host (nftables, family bridge:
//! `numgen random mod 100 < 30 drop` in both directions, and `drop` in turns with nothing), as
//! are links that are cut in one direction; the hosts' own kernels know nothing of them, and no
//! queueing discipline is needed.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use evenkeel_core::Moment;
use evenkeel_host::clock::now;
use rustix::process::{Signal, kill_process};

use super::trouble::{FREEZE_MAX, FREEZE_MIN, Trouble};
use crate::bridge::{Cable, Switch, Wire, run};
use crate::chance::Chance;
use crate::cluster::{Cluster, GROUP, WITNESS};
use crate::fault::clock::Step;
use crate::fault::disk::{self, Frozen};
use crate::fault::{self, Fault, load};
use crate::{apache, daemon, process, wait};

/// So many frames in a hundred are lost in each direction (issue).
const LOSS: u8 = 30;

/// How long a flapping cable is cut, and whole, at least and at most: from a fraction of the
/// shortest lease to several of the longest.
const FLAP_MIN: Duration = Duration::from_millis(10);
const FLAP_MAX: Duration = Duration::from_millis(500);

/// Busy loops per server: several for each processor of any machine that runs this.
const LOOPS: usize = 8;

/// A step of the calendar clock (issue).
const STEP: Duration = Duration::from_secs(3600);

/// A client command that has not ended when the case is over is waited for no longer: it waits
/// for what cannot happen any more.
const ORDER_LIMIT: Duration = Duration::from_millis(500);

/// A daemon that was told to stop has stopped by then, drained or not.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// After which a node has told the others how far its log goes: twice the time from one report
/// to the next.
const REPORTED: Duration = Duration::from_millis(400);

/// Where an old copy of a state directory is kept, on the host's disk.
const COPY: &str = "state.old";

/// Something that goes on by itself until it is stopped.
struct Background {
    /// Dropped to stop it.
    leash: Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl Background {
    fn start(work: impl FnOnce(&Receiver<()>) -> Result<()> + Send + 'static) -> Result<Self> {
        let (leash, held) = channel();
        let thread = std::thread::Builder::new()
            .name("trouble".into())
            .spawn(move || work(&held))
            .context("starting a thread")?;
        Ok(Self { leash, thread })
    }

    fn stop(self) -> Result<()> {
        drop(self.leash);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow!("a trouble panicked"))?
    }
}

/// Waits for `span`; whether it is to go on after that.
fn pause(held: &Receiver<()>, span: Duration) -> bool {
    held.recv_timeout(span) == Err(RecvTimeoutError::Timeout)
}

/// What is under way, to be undone. Dropped without [`Under::end`], the lab's own guards undo
/// what would outlive it: a frozen disk, a stepped clock.
#[derive(Default)]
pub(crate) struct Under {
    going_on: Vec<Background>,
    orders: Vec<Child>,
    frozen: Option<Frozen>,
    step: Option<Step>,
    /// On whose disks there is no room.
    full: Vec<String>,
    spinning: bool,
    /// Whose daemon was told to stop.
    stopping: Vec<String>,
    /// Not over before that.
    pub(crate) until: Option<Moment>,
    /// What was drawn, for the report.
    pub(crate) drawn: Vec<String>,
}

/// Makes an old copy of the state of who will hold the group then, and has the group move there:
/// the copy knows nothing of that.
pub(crate) fn prepare_old_state(cluster: &Cluster, holder: &str, next: &str) -> Result<()> {
    let state = daemon::state(cluster.host(next)?);
    let copy = state.with_file_name(COPY);
    let _ = fs::remove_dir_all(&copy);
    let (from, to) = (state.display().to_string(), copy.display().to_string());
    run("cp", &["-a", &from, &to], "").context("copying a state directory")?;
    cluster.switch_over(holder, next)?;
    std::thread::sleep(REPORTED);
    Ok(())
}

impl Under {
    /// Makes one trouble befall `name`; `other` is at the other end of a link that is cut.
    pub(crate) fn strike(
        &mut self,
        cluster: &mut Cluster,
        trouble: Trouble,
        (name, other): (&str, &str),
        chance: &mut Chance,
    ) -> Result<()> {
        let mut simply = |fault| fault::inject(cluster, fault, name);
        match trouble {
            Trouble::PowerCut | Trouble::StandbyDeath | Trouble::WitnessDeath => {
                simply(Fault::PowerCut)
            }
            Trouble::ServiceKilled
            | Trouble::KilledProcess
            | Trouble::KilledUnit
            | Trouble::KilledCold => simply(Fault::ServiceKilled),
            Trouble::ServiceHung => simply(Fault::ServiceHung),
            Trouble::DaemonFrozen => simply(Fault::DaemonFrozen),
            Trouble::DaemonKilled => simply(Fault::DaemonKilled),
            Trouble::WorkerKilled => simply(Fault::WorkerKilled),
            Trouble::CutBoth => simply(Fault::CutBoth),
            Trouble::CutFrom => simply(Fault::CutFromHost),
            Trouble::CutTo => simply(Fault::CutToHost),
            Trouble::MachineFrozen => self.freeze(cluster, name, chance),
            Trouble::LinkOut => cut_link(cluster, name, other),
            Trouble::LinkIn => cut_link(cluster, other, name),
            Trouble::Loss => cluster.switch().worsen_cable(name, LOSSY),
            Trouble::Flapping => self.flap(cluster, name, chance),
            Trouble::DiskFull => {
                self.full.push(name.to_owned());
                disk::fill(&daemon::state(cluster.host(name)?))
            }
            Trouble::DiskFrozen => {
                let state = daemon::state(cluster.host(name)?);
                let frozen = Frozen::freeze(cluster.lab().directory(), &state)?;
                self.frozen = Some(frozen);
                Ok(())
            }
            Trouble::OldState => put_old_state(cluster, name),
            Trouble::Switchover => self.order(cluster, other, &["switch", GROUP, "--to", other]),
            // Two alone have no majority to spare, and say so.
            Trouble::NodeDrained if cluster.names().len() == 2 => {
                self.order(cluster, other, &["drain", name, "--force"])
            }
            Trouble::NodeDrained => self.order(cluster, other, &["drain", name]),
            Trouble::DaemonStopped => self.stop_daemon(cluster, name),
            Trouble::Rebooted => cluster.reboot(name),
            Trouble::AllRestart => {
                self.stopping.clear();
                restart_all(cluster)
            }
            Trouble::Load => self.spin(cluster),
            Trouble::ClockStep => {
                self.step = Some(Step::ahead(cluster.lab().directory(), STEP)?);
                Ok(())
            }
            // The cluster was made so.
            Trouble::Older => Ok(()),
        }
    }

    /// Stops daemon and Apache, as a paused machine would stand still, and lets them go on.
    fn freeze(&mut self, cluster: &Cluster, name: &str, chance: &mut Chance) -> Result<()> {
        let span = chance.span(FREEZE_MIN, FREEZE_MAX);
        let host = cluster.host(name)?;
        let marks = [host.mark(daemon::PROGRAM), host.mark(apache::PROGRAM)];
        for mark in &marks {
            process::freeze_all(mark)?;
        }
        let end = now() + span;
        self.until = Some(self.until.map_or(end, |until| until.max(end)));
        self.drawn
            .push(format!("{name} frozen for {:.2} s", span.as_secs_f64()));
        self.going_on.push(Background::start(move |held| {
            // Thawed early if the case ends early.
            let _ = pause(held, span);
            marks.iter().try_for_each(|mark| process::thaw_all(mark))
        })?);
        Ok(())
    }

    fn flap(&mut self, cluster: &Cluster, name: &str, chance: &mut Chance) -> Result<()> {
        let (switch, name) = (Arc::clone(cluster.switch()), name.to_owned());
        let mut chance = Chance(chance.next());
        self.going_on.push(Background::start(move |held| {
            flap_until_stopped(&switch, &name, &mut chance, held)
        })?);
        Ok(())
    }

    /// Gives an order and does not wait for its end: the next trouble comes meanwhile. At the
    /// witness, or at a server if it is not there: whom another trouble befell may not answer.
    fn order(&mut self, cluster: &Cluster, server: &str, arguments: &[&str]) -> Result<()> {
        let host = cluster.host(WITNESS).or_else(|_| cluster.host(server));
        let Ok(host) = host else {
            // Nobody takes it.
            return Ok(());
        };
        let child = Command::new(&cluster.evenkeel().program)
            .args(arguments)
            .arg("--socket")
            .arg(daemon::socket(host))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("giving an order")?;
        self.orders.push(child);
        Ok(())
    }

    fn stop_daemon(&mut self, cluster: &Cluster, name: &str) -> Result<()> {
        let first = daemon::processes(cluster.host(name)?)?.first().copied();
        let parent = first.with_context(|| format!("{name}'s daemon does not run"))?;
        self.stopping.push(name.to_owned());
        kill_process(parent, Signal::TERM).context("stopping the daemon")
    }

    fn spin(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.spinning = true;
        for name in cluster.server_names() {
            if cluster.has_power(&name) {
                load::start_spinning(cluster.host_mut(&name)?, LOOPS)?;
            }
        }
        Ok(())
    }

    /// Whether the calendar clock is ahead: what the observer sees before and after it is set
    /// back cannot be compared.
    pub(crate) fn is_clock_ahead(&self) -> bool {
        self.step.is_some()
    }

    /// Ends all that would go on, and puts right what [`Cluster::mend`] knows nothing of.
    pub(crate) fn end(mut self, cluster: &mut Cluster) -> Result<()> {
        // Whoever waits for a disk can be waited for after that.
        drop(self.frozen.take());
        drop(self.step.take());
        for background in self.going_on.drain(..) {
            background.stop()?;
        }
        for name in &self.full {
            // A host without power has its disk as well; a disk that was swapped has room.
            let state = cluster.lab().directory().join(name).join(daemon::STATE);
            let _ = disk::empty(&state);
        }
        if self.spinning {
            for name in cluster.server_names() {
                if cluster.has_power(&name) {
                    load::stop(cluster.host(&name)?)?;
                }
            }
        }
        for order in self.orders.drain(..) {
            await_order(order)?;
        }
        for name in &self.stopping {
            if let Ok(host) = cluster.host(name) {
                // One that a frozen machine or a cut cable holds up is not waited for.
                let gone = wait::until("the daemon stops", STOP_LIMIT, || {
                    Ok(daemon::processes(host)?.is_empty().then_some(()))
                });
                if gone.is_err() {
                    process::kill_all(&host.mark(daemon::PROGRAM))?;
                }
            }
        }
        Ok(())
    }
}

/// Three in ten are lost in each direction.
const LOSSY: Cable = Cable {
    from_host: Wire::Lossy(LOSS),
    to_host: Wire::Lossy(LOSS),
};

/// Frames from one host to the other do not arrive; all others do.
fn cut_link(cluster: &Cluster, from: &str, to: &str) -> Result<()> {
    let to = cluster.place(to)?.hardware();
    let rule = format!("@from ether daddr {to}");
    cluster.switch().add_filter(from, &rule)
}

fn flap_until_stopped(
    switch: &Switch,
    name: &str,
    chance: &mut Chance,
    held: &Receiver<()>,
) -> Result<()> {
    loop {
        for pulled in [true, false] {
            switch.pull_cable(name, pulled)?;
            if !pause(held, chance.span(FLAP_MIN, FLAP_MAX)) {
                return switch.pull_cable(name, false);
            }
        }
    }
}

/// Puts the copy that [`prepare_old_state`] made in the place of the state, and starts the daemon on it;
/// the machine, if it has no power.
fn put_old_state(cluster: &mut Cluster, name: &str) -> Result<()> {
    let state = cluster.lab().directory().join(name).join(daemon::STATE);
    let powered = cluster.has_power(name);
    if powered {
        process::kill_all(&cluster.host(name)?.mark(daemon::PROGRAM))?;
    }
    disk::replace(&state, &state.with_file_name(COPY))?;
    if powered {
        cluster.start_daemon(name)
    } else {
        cluster.boot(name)
    }
}

fn restart_all(cluster: &mut Cluster) -> Result<()> {
    let names: Vec<String> = cluster
        .names()
        .into_iter()
        .filter(|name| cluster.has_power(name))
        .collect();
    for name in &names {
        cluster.power_cut(name)?;
    }
    names.iter().try_for_each(|name| cluster.boot(name))
}

/// Waits for the end of an order, whatever it is; one that does not end is ended.
fn await_order(mut order: Child) -> Result<()> {
    let ended = wait::until("an order ends", ORDER_LIMIT, || {
        Ok(order.try_wait().context("waiting for an order")?.map(drop))
    });
    if ended.is_err() {
        let _ = order.kill();
        order.wait().context("waiting for an order")?;
    }
    Ok(())
}
