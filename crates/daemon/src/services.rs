//! What runs with a group: joins the decision machine, the lease thread and the room of
//! services.
//!
//! ```text
//!   Act::Run ─▶ room: units, commands, hooks ── Ready ────▶ lease thread: may open
//!                    │                        ── MayClose ─▶ Event::MayClose
//!                    └── status ──────────────────────────▶ Event::Readiness
//! ```
//!
//! The room hears nothing before the lease thread has told what is open here: a worker that
//! goes on for another must not begin with a group's opening, nor with its end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_config::{Hosted, When};
use evenkeel_console::api::v1 as api;
use evenkeel_core::command::Assign;
use evenkeel_core::evidence::{FACT_LENGTH_MAX, shortened};
use evenkeel_core::node::Event;
use evenkeel_core::role::Run;
use evenkeel_core::settling::Fresh;
use evenkeel_core::{Epoch, GroupId, Moment, NodeId, ServiceName};
use evenkeel_host::clock;
use evenkeel_services::{
    Context, FOREIGN, GroupSettings, GroupStatus, Report, ServiceStatus, Services, Settings, State,
};
use tokio::sync::mpsc;

use crate::decision::{Brought, Driver};
use crate::lease::Order;
use crate::prepare::Prepared;

/// Where started commands are noted: gone after a boot, as they are.
const NOTES: &str = "/run/evenkeel";
/// What keepalived's script is told as priority by the first node of a group; each later one
/// is one less.
const PRIORITY_MAX: usize = 200;
/// What happened with the services of a group that people should know, kept for `status`: the
/// last word on each service and hook, in at most so many lines in all.
const TROUBLES_MAX: usize = 64;
/// For so long it is told.
const TROUBLE_TIME: Duration = Duration::from_secs(3600);

/// The group, if the file has it, and the service or hook.
type Concerned = (Option<GroupId>, String);

/// The room, and what is known of it.
pub(crate) struct Running {
    room: Services,
    /// What is to be said to the room.
    pending: BTreeMap<GroupId, Run>,
    /// The lease thread has told what is open here.
    told: bool,
    version: u64,
    status: BTreeMap<GroupId, GroupStatus>,
    /// What was said of each group's services.
    fresh: BTreeMap<GroupId, Vec<(ServiceName, Option<Fresh>)>>,
    troubles: BTreeMap<Concerned, (Moment, String)>,
    /// Why each group was assigned last, as soon as that is in the log: an opening begins
    /// before it is agreed.
    causes: BTreeMap<GroupId, (Epoch, String)>,
    /// How long all of it may take to stop.
    stop_max: Duration,
}

impl Running {
    /// Starts the room, if a group that this node may hold has anything to run, or an earlier
    /// life has left something running for a group that the file does not have any more.
    pub(crate) fn start(
        prepared: &Prepared,
        reports: mpsc::Sender<Report>,
    ) -> anyhow::Result<Option<Self>> {
        let groups = groups_of(prepared);
        let stop_max = stop_max(groups.iter().map(|group| &group.hosted));
        let cluster = &prepared.topology().cluster;
        let node = prepared.node.name.clone();
        let settings = Settings::new(groups, node.clone(), notes(cluster, node.as_str()));
        if !evenkeel_services::is_needed(&settings) {
            return Ok(None);
        }
        Ok(Some(Self {
            room: Services::start(settings, reports)?,
            pending: BTreeMap::new(),
            told: false,
            version: 0,
            status: BTreeMap::new(),
            fresh: BTreeMap::new(),
            troubles: BTreeMap::new(),
            causes: BTreeMap::new(),
            stop_max,
        }))
    }

    /// Why this node could not hold a group well.
    fn unready(&self, group: GroupId) -> Option<String> {
        let unready = &self.status.get(&group)?.unready;
        (!unready.is_empty()).then(|| shortened(&unready.join("; "), FACT_LENGTH_MAX))
    }

    /// Whether nothing that runs on holders alone is left of any group here, nor about to be.
    fn is_at_rest(&self) -> bool {
        let rests = |one: &GroupStatus| one.want == Some(Run::Standby) && one.reached;
        self.pending.is_empty() && self.room.status().values().all(rests)
    }

    /// Whether nothing runs any more that would end with the daemon.
    fn has_left(&self) -> bool {
        let status = self.room.status();
        status.values().all(|one| one.leaving && one.reached)
    }

    fn trouble(&mut self, concerned: Concerned, text: String) {
        let now = clock::now();
        self.troubles
            .retain(|_, (at, _)| now.since(*at) < TROUBLE_TIME);
        if self.troubles.len() >= TROUBLES_MAX {
            let oldest = self.troubles.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.troubles.remove(&oldest);
            }
        }
        self.troubles.insert(concerned, (now, text));
    }
}

/// What this node may hold and what runs with it.
fn groups_of(prepared: &Prepared) -> Vec<GroupSettings> {
    let topology = prepared.topology();
    let hosted = prepared.config.hosted.iter();
    let own = hosted.filter_map(|(id, hosted)| {
        let group = topology.groups.get(id)?;
        let place = group
            .nodes
            .iter()
            .position(|one| *one == prepared.node.id)?;
        let empty = *hosted == Hosted::default();
        let priority = PRIORITY_MAX.saturating_sub(place).max(1);
        (!empty).then(|| GroupSettings {
            group: *id,
            name: group.name.clone(),
            hosted: hosted.clone(),
            priority: u8::try_from(priority).unwrap_or(u8::MAX),
        })
    });
    own.collect()
}

/// Whether a group opens only once what runs with it says that it may.
pub(crate) fn is_prepared(hosted: &Hosted) -> bool {
    let mut services = hosted.services.iter();
    services.any(|one| one.when == When::Active) || hosted.hooks.before_open.is_some()
}

/// How long everything that runs with these groups on a holder alone may take to stop: groups
/// stop side by side, the services of one in turn at worst.
pub(crate) fn stop_max<'a>(groups: impl Iterator<Item = &'a Hosted>) -> Duration {
    groups
        .map(evenkeel_services::stop_max)
        .max()
        .unwrap_or_default()
}

/// The groups that are about to be opened and have all that they need for it.
fn may_open(status: &BTreeMap<GroupId, GroupStatus>) -> Vec<(GroupId, Epoch)> {
    let reached = status.iter().filter(|(_, one)| one.reached);
    let epochs = reached.filter_map(|(group, one)| match one.want? {
        Run::Opening { epoch } | Run::Open { epoch } => Some((*group, epoch)),
        Run::Standby | Run::Closing { .. } => None,
    });
    epochs.collect()
}

fn notes(cluster: &str, node: &str) -> PathBuf {
    Path::new(NOTES)
        .join(format!("{cluster}-{node}"))
        .join("services")
}

impl Driver {
    /// This should run of a group from now on.
    pub(crate) fn run_group(&mut self, group: GroupId, run: Run) {
        if let Some(services) = &mut self.services {
            services.pending.insert(group, run);
        }
    }

    /// The lease thread has told what is open here.
    pub(crate) fn leases_told(&mut self) {
        if let Some(services) = &mut self.services {
            services.told = true;
            // What is not in the file any more has been closed before the driver's first step.
            services.room.sweep();
        }
    }

    /// Says to the room what is new, but for the end of what clients still have open: that
    /// comes when it is closed.
    pub(crate) fn tell_services(&mut self) {
        let Some(services) = &self.services else {
            return;
        };
        if !services.told || services.pending.is_empty() {
            return;
        }
        let ready = |group: &GroupId, run: &Run| *run != Run::Standby || !self.parts_with(*group);
        let said: Vec<(GroupId, Run)> = services
            .pending
            .iter()
            .filter(|(group, run)| ready(group, run))
            .map(|(group, run)| (*group, *run))
            .collect();
        for (group, run) in said {
            let context = self.context(group, run);
            if let Some(services) = &mut self.services {
                services.pending.remove(&group);
                services.room.want(group, run, context);
            }
        }
    }

    /// An assignment is in the log.
    pub(crate) fn note_cause(&mut self, epoch: Epoch, assign: &Assign) {
        if let Some(services) = &mut self.services {
            let cause = assign.evidence.cause.to_string();
            services.causes.insert(assign.group, (epoch, cause));
        }
    }

    /// Why this node is to open a group in an epoch that may not be agreed yet.
    fn cause_of(&self, group: GroupId, run: Run) -> Option<String> {
        let (Run::Opening { epoch } | Run::Open { epoch }) = run else {
            return None;
        };
        let (noted, cause) = self.services.as_ref()?.causes.get(&group)?;
        (*noted == epoch).then(|| cause.clone())
    }

    /// Why, and who else, for the environment of hooks.
    fn context(&self, group: GroupId, run: Run) -> Context {
        let ledger = self.node.ledger();
        let name = |id: NodeId| self.node.topology().node_name(id);
        let record = ledger.groups.get(&group);
        let moves = record
            .into_iter()
            .flat_map(|record| record.moves.iter().rev());
        let other = moves
            .map(|one| one.assigned.assign.holder)
            .find(|holder| *holder != self.me);
        let agreed = || match (run, ledger.current(group)) {
            (Run::Closing { .. }, _) => "it is to move as planned".to_owned(),
            (_, Some(current)) => current.assign.evidence.cause.to_string(),
            (_, None) => "it has no holder".to_owned(),
        };
        let reason = self.cause_of(group, run).unwrap_or_else(agreed);
        Context {
            reason,
            peer: other.map(name).unwrap_or_default(),
        }
    }

    /// What the room says.
    pub(crate) fn served(&mut self, report: Report, bring: &mpsc::Sender<Brought>) {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        match report {
            Report::Ready { group, epoch, took } => {
                self.lease.order(Order::Ready(group, epoch));
                let what = "services up, before_open over".to_owned();
                tracing::info!(group = self.group_name(group), ms = ms(took), "{what}");
                self.phase(group, what, bring);
            }
            Report::MayClose {
                group,
                epoch,
                took,
                by_deadline,
            } => {
                let group_name = self.group_name(group);
                tracing::info!(group = group_name, ms = ms(took), by_deadline, "may close");
                self.step(Event::MayClose { group, epoch }, bring);
            }
            Report::Stopped { group, took } => {
                let group = self.group_name(group);
                tracing::info!(group, ms = ms(took), "nothing of it runs here");
            }
            Report::Missed { reports } => {
                tracing::warn!(reports, "reports of the services were missed");
                self.ready_again();
            }
            Report::Recovered { group, service } => {
                let group_name = self.group_name(group);
                tracing::info!(group = group_name, %service, "runs again");
                if let Some(services) = &mut self.services {
                    services
                        .troubles
                        .remove(&(Some(group), format!("service {service}")));
                }
            }
            Report::LeftRuns { service, reason } => {
                if let Some(services) = &mut self.services {
                    let text = format!("it may still run, though no file names it: {reason}");
                    services.trouble((None, format!("service {service}")), text);
                }
            }
            Report::LeftStopped { service } => {
                if let Some(services) = &mut self.services {
                    services
                        .troubles
                        .remove(&(None, format!("service {service}")));
                }
            }
            other => self.trouble(other, bring),
        }
        self.mind_services(bring);
    }

    /// That a group may open is said once: if that word was lost, the group would stay closed.
    fn ready_again(&mut self) {
        let Some(services) = &self.services else {
            return;
        };
        for (group, epoch) in may_open(&services.room.status()) {
            self.lease.order(Order::Ready(group, epoch));
        }
    }

    /// Something of a group is not as it should be: told, in the log, in `status`, and in the
    /// account of an opening that is under way.
    fn trouble(&mut self, report: Report, bring: &mpsc::Sender<Brought>) {
        // The status has it for as long as it is so, and no longer.
        let kept = !matches!(report, Report::Foreign { .. });
        let Some((group, what, text)) = trouble_of(report) else {
            return;
        };
        tracing::warn!(group = self.group_name(group), "{what}: {text}");
        self.phase(group, format!("{what}: {text}"), bring);
        if let Some(services) = &mut self.services
            && kept
        {
            services.trouble((Some(group), what), text);
        }
    }

    fn phase(&mut self, group: GroupId, what: String, bring: &mpsc::Sender<Brought>) {
        let what = shortened(&what, FACT_LENGTH_MAX);
        let last = false;
        self.step(Event::Phase { group, what, last }, bring);
    }

    fn group_name(&self, group: GroupId) -> String {
        self.node.topology().group_name(group)
    }

    /// Looks whether what runs here is as it should be.
    pub(crate) fn mind_services(&mut self, bring: &mpsc::Sender<Brought>) {
        let Some(services) = &mut self.services else {
            return;
        };
        if let Some(status) = services.room.status_since(&mut services.version) {
            services.status = status;
            self.tell_readiness(bring);
            self.tell_fresh(bring);
        }
    }

    /// Tells the decision machine what has just been started or is being started again, if that is
    /// news. Readiness is told before: what has failed for good is not held back for a moment.
    fn tell_fresh(&mut self, bring: &mpsc::Sender<Brought>) {
        let Some(services) = &mut self.services else {
            return;
        };
        let mut news = Vec::new();
        for (group, status) in &services.status {
            let all = status.services.iter();
            let all: Vec<_> = all.map(|one| (one.name.clone(), one.fresh)).collect();
            if services.fresh.get(group) != Some(&all) {
                services.fresh.insert(*group, all.clone());
                news.push((*group, all));
            }
        }
        for (group, all) in news {
            self.step(Event::Services { group, all }, bring);
        }
    }

    /// Why a group could not be held well here, by what runs with it.
    pub(crate) fn services_unready(&self, group: GroupId) -> Option<String> {
        self.services.as_ref()?.unready(group)
    }

    /// What runs with a group here, for people.
    pub(crate) fn services_status(&self, group: GroupId) -> Vec<api::Service> {
        let services = self.services.as_ref();
        let status = services.and_then(|services| services.status.get(&group));
        let all = status.into_iter().flat_map(|status| &status.services);
        all.map(service_line).collect()
    }

    /// What went wrong here lately with what runs, for people.
    pub(crate) fn services_advice(&self) -> Vec<String> {
        let Some(services) = &self.services else {
            return Vec::new();
        };
        let now = clock::now();
        let topology = self.node.topology();
        let lately = services.troubles.iter();
        let lately = lately.filter(|(_, (at, _))| now.since(*at) < TROUBLE_TIME);
        let mut all: Vec<String> = lately
            .map(|((group, what), (at, text))| {
                let ago = now.since(*at).as_secs();
                let group = group.map(|group| format!("group {}, ", topology.group_name(group)));
                let group = group.unwrap_or_default();
                format!("{group}{what}, {ago} s ago: {text}")
            })
            .collect();
        for (group, status) in &services.status {
            let group = topology.group_name(*group);
            let foreign = status.services.iter().filter(|one| one.foreign);
            all.extend(
                foreign.map(|one| format!("group {group}, service {}: {FOREIGN}", one.name)),
            );
            all.extend(
                status
                    .faults
                    .iter()
                    .map(|fault| format!("group {group}: {fault}")),
            );
        }
        all
    }

    /// How long what runs here may take to stop.
    pub(crate) fn services_stop_max(&self) -> Duration {
        let services = self.services.as_ref();
        services.map(|one| one.stop_max).unwrap_or_default()
    }

    /// Whether what runs on holders alone has stopped here.
    pub(crate) fn services_rest(&self) -> bool {
        self.services.as_ref().is_none_or(Running::is_at_rest)
    }

    /// Stops whatever runs on holders alone or ends with us, and waits for it, at most until
    /// `by`.
    pub(crate) async fn stop_services(&mut self, reports: &mut mpsc::Receiver<Report>, by: Moment) {
        let Some(services) = &mut self.services else {
            return;
        };
        services.pending.clear();
        services.room.leave(&Context {
            reason: "the daemon was told to stop".to_owned(),
            peer: String::new(),
        });
        let until = tokio::time::Instant::now() + clock::now().until(by);
        while !services.has_left() {
            match tokio::time::timeout_at(until, reports.recv()).await {
                Ok(Some(report)) => {
                    if let Some((_, what, text)) = trouble_of(report) {
                        tracing::warn!("{what}: {text}");
                    }
                }
                Ok(None) | Err(_) => {
                    tracing::warn!("not everything that runs with the groups here has stopped");
                    return;
                }
            }
        }
    }
}

fn service_line(service: &ServiceStatus) -> api::Service {
    let when = match service.when {
        When::Active => "active",
        When::Always => "always",
    };
    let state = match service.state {
        State::Up => "up",
        State::Down => "down",
        State::Starting => "starting",
        State::Stopping => "stopping",
        State::Failed => "failed",
        State::Unknown => "unknown",
    };
    api::Service {
        name: service.name.to_string(),
        when: when.to_owned(),
        state: state.to_owned(),
        detail: service.detail.clone().unwrap_or_default(),
    }
}

/// What is wrong with what, by a report that says so.
fn trouble_of(report: Report) -> Option<(GroupId, String, String)> {
    Some(match report {
        Report::Failed {
            group,
            service,
            reason,
        } => (
            group,
            format!("service {service}"),
            format!("it does not run, and is tried again now and then: {reason}"),
        ),
        Report::Died {
            group,
            service,
            detail,
        } => (
            group,
            format!("service {service}"),
            format!("it ended: {detail}"),
        ),
        Report::Foreign { group, service } => {
            (group, format!("service {service}"), FOREIGN.to_owned())
        }
        Report::Forced {
            group,
            service,
            how,
        } => (
            group,
            format!("service {service}"),
            format!("it did not stop when asked: {how}"),
        ),
        Report::StopFailed {
            group,
            service,
            reason,
        } => (
            group,
            format!("service {service}"),
            format!("it may still run though it was to stop: {reason}"),
        ),
        Report::HookFailed {
            group,
            hook,
            reason,
            ..
        } => (
            group,
            format!("hook {hook}"),
            format!("it failed: {reason}"),
        ),
        Report::Ready { .. }
        | Report::MayClose { .. }
        | Report::Stopped { .. }
        | Report::Recovered { .. }
        | Report::LeftRuns { .. }
        | Report::LeftStopped { .. }
        | Report::Missed { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_open_is_read_off_the_status() {
        let epoch = Epoch { term: 1, index: 2 };
        let status = |want, reached| GroupStatus {
            unready: Vec::new(),
            faults: Vec::new(),
            want,
            reached,
            hook: None,
            services: Vec::new(),
            leaving: false,
        };
        let table = [
            (status(None, false), false),
            (status(Some(Run::Standby), true), false),
            (status(Some(Run::Opening { epoch }), false), false),
            (status(Some(Run::Opening { epoch }), true), true),
            (status(Some(Run::Open { epoch }), true), true),
        ];
        for (number, (status, may)) in table.into_iter().enumerate() {
            let group = GroupId(number as u64);
            let known = BTreeMap::from([(group, status)]);
            let wanted = may.then_some((group, epoch));
            assert_eq!(may_open(&known), Vec::from_iter(wanted));
        }
    }
}
