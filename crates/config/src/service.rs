//! `[group.G.service.NAME]`: what runs on the holder, and in which order.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use evenkeel_core::names::ServiceName;
use evenkeel_core::rule::nearest;

use crate::command::{self, Command, Strings};
use crate::duration;
use crate::fault::{Report, shown};
use crate::name;
use crate::section::{Keys, Section, Text};
use crate::source::Span;

/// Services of one group: they are started one after the other within one takeover.
pub const SERVICES_PER_GROUP_MAX: usize = 64;

/// Services of the file: each is watched by every node of its group.
pub const SERVICES_MAX: usize = 512;

/// The longest name of a unit in bytes (systemd's `UNIT_NAME_MAX`, less its end).
const UNIT_LENGTH_MAX: usize = 255;

/// Kinds of units that can be started and stopped (systemd.unit(5)).
const UNIT_KINDS: [&str; 8] = [
    "service",
    "socket",
    "target",
    "mount",
    "automount",
    "swap",
    "timer",
    "path",
];

const START_DEFAULT: Duration = Duration::from_secs(30);
/// A database may recover for an hour; nothing starts in less than a process takes.
const START_BOUNDS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3_600);

const STOP_DEFAULT: Duration = Duration::from_secs(10);
const STOP_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);

/// More tries on the spot are an outage of their own.
const RESTART_BOUNDS: RangeInclusive<u32> = 0..=100;

/// The unit of the daemon itself, as it is installed.
const OWN_UNIT: &str = "evenkeel.service";

/// Targets of systemd whose start ends the machine or all that runs on it, or puts it to sleep, and
/// those whose stop does (systemd.special(7)): none is a service.
const WHOLE_MACHINE: [&str; 22] = [
    "basic",
    "ctrl-alt-del",
    "default",
    "emergency",
    "exit",
    "final",
    "graphical",
    "halt",
    "hibernate",
    "hybrid-sleep",
    "kexec",
    "multi-user",
    "poweroff",
    "reboot",
    "rescue",
    "shutdown",
    "sleep",
    "soft-reboot",
    "suspend",
    "suspend-then-hibernate",
    "sysinit",
    "umount",
];

/// How a unit is named.
pub(crate) const UNIT_EXAMPLE: &str = "unit = \"apache2.service\"";

const KEYS: Keys = Keys {
    known: &[
        "unit",
        "start",
        "stop",
        "status",
        "when",
        "restart",
        "start_timeout",
        "stop_timeout",
        "after",
    ],
    later: &[],
};

/// One service of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its name within the group.
    pub name: ServiceName,
    /// What is started and stopped.
    pub what: Runs,
    /// When it runs.
    pub when: When,
    /// How often it is started anew on the spot before it counts as failed.
    pub restart: u32,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// How long a stop may take before it is done by signals.
    pub stop_timeout: Duration,
    /// Those of its group that must run before it is started, and that are stopped only
    /// after it. Never a cycle.
    pub after: Vec<ServiceName>,
}

/// What is started and stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runs {
    /// A unit of systemd.
    Unit(String),
    /// A program that stays in the foreground: while it runs, the service runs.
    Foreground {
        /// What is run.
        start: Command,
        /// Ends with status 0 once the service is up; without it, it is up when it runs.
        status: Option<Command>,
    },
    /// Commands that end, as those of an init script.
    Scripts {
        /// Ends with status 0 when the service is up.
        start: Command,
        /// Ends with status 0 when the service is down.
        stop: Command,
        /// Ends with status 0 while the service is up, 1 to 3 while it is not.
        status: Option<Command>,
    },
}

/// When a service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// On the holder alone: started at takeover, stopped on release.
    Active,
    /// On every node of the group.
    Always,
}

/// What is a service already, and where: one thing belongs to one group.
#[derive(Default)]
pub(crate) struct Taken {
    units: BTreeMap<String, Span>,
    /// Starts with their stops.
    commands: BTreeMap<(Command, Command), Span>,
}

/// Why the same thing is refused as a service a second time.
const ONE_GROUP: &str =
    "it belongs to one group, or two would start and stop it against each other";

/// Reads the services of a group, in the order of the file.
pub(crate) fn read_all(
    group: &Section<'_>,
    budget: &mut usize,
    taken: &mut Taken,
    report: &mut Report,
) -> Vec<(ServiceSpec, Span)> {
    let sections = group.sections("service", report);
    let most = SERVICES_PER_GROUP_MAX.min(*budget);
    if let Some((name, _)) = sections.get(most) {
        let what = match most {
            SERVICES_PER_GROUP_MAX => format!("the group has more than {most} services"),
            _ => format!("the file has more than {SERVICES_MAX} services"),
        };
        report.refuse(
            &name.span,
            what,
            "let systemd start those that belong to others",
        );
    }
    *budget -= sections.len().min(most);
    let mut found = Vec::new();
    let mut names: Vec<(ServiceName, Span)> = Vec::new();
    for (key, section) in sections.iter().take(most) {
        let spec = read_one(key, section, taken, report);
        let after = read_after(section, report);
        if let Some(name) = name::read("service", key, ServiceName::new, report) {
            names.push((name.clone(), key.span.clone()));
            found.push((name, spec, after, key.span.clone()));
        }
    }
    let mut after: Vec<Vec<(usize, Option<Span>)>> = (0..found.len())
        .map(|at| resolve(&found[at].2, at, &names, report))
        .collect();
    let when = |at: usize| found[at].1.as_ref().map(|spec| spec.when);
    judge_warm(&names, &mut after, when, report);
    refuse_cycle(&names, &after, report);
    let whole = found.into_iter().zip(after);
    let whole = whole.filter_map(|((name, spec, _, span), after)| {
        let after = after.iter().map(|(at, _)| names[*at].0.clone()).collect();
        Some((
            ServiceSpec {
                name,
                after,
                ..spec?
            },
            span,
        ))
    });
    whole.collect()
}

fn read_one(
    key: &Text<'_>,
    section: &Section<'_>,
    taken: &mut Taken,
    report: &mut Report,
) -> Option<ServiceSpec> {
    section.only(&KEYS, report);
    let what = read_runs(section, taken, report);
    let when = read_when(section, report);
    let restart = section
        .number("restart", RESTART_BOUNDS, report)
        .unwrap_or(0);
    let mut time = |key, bounds, otherwise| {
        duration::read(section, key, bounds, report).map_or(otherwise, |(time, _)| time)
    };
    let start_timeout = time("start_timeout", START_BOUNDS, START_DEFAULT);
    let stop_timeout = time("stop_timeout", STOP_BOUNDS, STOP_DEFAULT);
    Some(ServiceSpec {
        // A faulty name is refused by the caller.
        name: ServiceName::new(key.value).ok()?,
        what: what?,
        when,
        restart,
        start_timeout,
        stop_timeout,
        after: Vec::new(),
    })
}

fn read_runs(section: &Section<'_>, taken: &mut Taken, report: &mut Report) -> Option<Runs> {
    let commands = ["start", "stop", "status"];
    if section.has("unit") {
        if let Some(other) = commands.into_iter().find(|key| section.has(key)) {
            let what = format!("a service is a unit or commands, not unit and {other}");
            report
                .refuse(&section.key_span(other), what, "remove one of them")
                .also(&section.key_span("unit"), "the unit");
            return None;
        }
        return read_unit(section, taken, report).map(Runs::Unit);
    }
    if !section.has("start") {
        let what = format!("[{}] starts nothing", section.path);
        let help = format!("add for example {UNIT_EXAMPLE}, or start = \"...\"");
        report.refuse(&section.span, what, help);
    }
    let [start, stop, status] =
        commands.map(|key| command::read(section, key, Strings::Lines, report));
    let start = start?;
    // A stop that is wrong has been refused; it must not turn one kind into the other.
    match (section.has("stop"), stop) {
        (true, stop) => {
            let stop = stop?;
            refuse_same_commands(section, (&start, &stop), taken, report);
            Some(Runs::Scripts {
                start,
                stop,
                status,
            })
        }
        (false, _) => Some(Runs::Foreground { start, status }),
    }
}

/// Refuses a start and a stop that are those of another service.
fn refuse_same_commands(
    section: &Section<'_>,
    (start, stop): (&Command, &Command),
    taken: &mut Taken,
    report: &mut Report,
) {
    let span = section
        .value("start")
        .map_or(section.span.clone(), |value| value.span());
    let both = (start.clone(), stop.clone());
    match taken.commands.get(&both) {
        Some(first) => {
            let what = "what is started and stopped by these commands is a service a second time";
            report
                .refuse(&span, what, ONE_GROUP)
                .also(first, "here first");
        }
        None => {
            taken.commands.insert(both, span);
        }
    }
}

fn read_unit(section: &Section<'_>, taken: &mut Taken, report: &mut Report) -> Option<String> {
    let help = format!("write for example {UNIT_EXAMPLE}");
    let text = section.text_with("unit", &help, report)?;
    if let Err((what, help)) = judge_unit(text.value) {
        report.refuse(&text.span, what, help);
        return None;
    }
    if let Some((what, help)) = against(text.value) {
        report.refuse(&text.span, what, help);
        return None;
    }
    if let Some(first) = taken.units.get(text.value) {
        let what = format!("{} is a service a second time", shown(text.value));
        report
            .refuse(&text.span, what, ONE_GROUP)
            .also(first, "here first");
        return None;
    }
    taken.units.insert(text.value.to_owned(), text.span);
    Some(text.value.to_owned())
}

/// Why a unit must not be started and stopped with a group, if there is a reason; and what to do.
fn against(unit: &str) -> Option<(String, &'static str)> {
    if unit == OWN_UNIT {
        let what = "a group that stops the daemon itself would end all groups here";
        return Some((what.to_owned(), "name what the group serves with"));
    }
    let target = unit.strip_suffix(".target")?;
    WHOLE_MACHINE.contains(&target).then(|| {
        let what = format!("{} is for the whole machine", shown(unit));
        let help = "a group would end or stop it; name a unit of its own";
        (what, help)
    })
}

/// Whether a unit could have that name; else what is wrong and what to do.
pub(crate) fn judge_unit(unit: &str) -> Result<(), (String, String)> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let (stem, kind) = unit.rsplit_once('.').unwrap_or((unit, ""));
    if unit.is_empty() || unit.len() > UNIT_LENGTH_MAX || !unit.chars().all(fits) || stem.is_empty()
    {
        let what = format!("{} is not the name of a unit", shown(unit));
        return Err((what, format!("write for example {UNIT_EXAMPLE}")));
    }
    if !UNIT_KINDS.contains(&kind) {
        let what = format!("{} does not say which kind of unit it is", shown(unit));
        let help = match kind {
            "slice" | "scope" | "device" | "snapshot" => {
                return Err((
                    format!("a {kind} cannot be started and stopped as a service is"),
                    format!("name a unit that can, as in {UNIT_EXAMPLE}"),
                ));
            }
            _ => format!("did you mean {:?}?", format!("{unit}.service")),
        };
        return Err((what, help));
    }
    if stem.ends_with('@') {
        let what = format!("{} is a template without its instance", shown(unit));
        return Err((what, format!("write for example \"{stem}main.{kind}\"")));
    }
    Ok(())
}

fn read_when(section: &Section<'_>, report: &mut Report) -> When {
    let help = "write \"active\" (on the holder alone) or \"always\" (on every node)";
    let Some(text) = section.text_with("when", help, report) else {
        return When::Active;
    };
    match text.value {
        "active" => When::Active,
        "always" => When::Always,
        other => {
            let what = format!("{} is no time for a service to run", shown(other));
            let help = match nearest(other, ["active", "always"]) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => help.into(),
            };
            report.refuse(&text.span, what, help);
            When::Active
        }
    }
}

/// The names under `after`, owned; nothing if it is left out.
fn read_after(section: &Section<'_>, report: &mut Report) -> Option<Vec<(String, Span)>> {
    let texts = section.texts("after", "after = [\"mysql\"]", report)?;
    Some(
        texts
            .into_iter()
            .map(|text| (text.value.to_owned(), text.span))
            .collect(),
    )
}

/// Whom the service at `at` waits for: those that it names, each with its place, or else
/// all above it in the file.
fn resolve(
    after: &Option<Vec<(String, Span)>>,
    at: usize,
    names: &[(ServiceName, Span)],
    report: &mut Report,
) -> Vec<(usize, Option<Span>)> {
    let Some(after) = after else {
        return (0..at).map(|above| (above, None)).collect();
    };
    let mut waits = Vec::new();
    for (wanted, span) in after {
        let found = names.iter().position(|(name, _)| name.as_str() == wanted);
        match found {
            None => {
                let what = format!("the group has no service {}", shown(wanted));
                let others = names.iter().map(|(name, _)| name.as_str());
                let help = match nearest(wanted, others) {
                    Some(meant) => format!("did you mean {meant:?}?"),
                    None => "name services of the same group".into(),
                };
                report.refuse(span, what, help);
            }
            Some(other) if waits.iter().any(|(one, _)| *one == other) => {
                let what = format!("{} is named twice", shown(wanted));
                report.refuse(span, what, "remove one of them");
            }
            Some(other) => waits.push((other, Some(span.clone()))),
        }
    }
    waits
}

/// Refuses the first order that cannot be kept, at a place that makes it so.
fn refuse_cycle(
    names: &[(ServiceName, Span)],
    after: &[Vec<(usize, Option<Span>)>],
    report: &mut Report,
) {
    let Some(cycle) = cycle(after) else { return };
    let mut told: Vec<&str> = cycle.iter().map(|at| names[*at].0.as_str()).collect();
    told.push(told[0]);
    let what = format!("no order is possible: {}", told.join(" waits for "));
    // Each waits for the next, the last for the first. At least one says so by `after`:
    // waiting for those above alone makes no cycle.
    let next = |place: usize| cycle[(place + 1) % cycle.len()];
    let mut silent = None;
    let mut said = None;
    for (place, at) in cycle.iter().enumerate() {
        let edge = after[*at].iter().find(|(other, _)| *other == next(place));
        match edge.and_then(|(_, span)| span.as_ref()) {
            Some(span) => said = said.or(Some(span)),
            None => silent = silent.or(Some(*at)),
        }
    }
    let Some(said) = said else { return };
    let help = match silent {
        Some(at) => format!(
            "take one out; {:?} has no after and so waits for all above it (after = [] waits for none)",
            names[at].0.as_str()
        ),
        None => "take one out of an after".into(),
    };
    let fault = report.refuse(said, what, help);
    if let Some(at) = silent {
        fault.also(&names[at].1, "waits for all above it");
    }
}

/// What runs on every node cannot wait for what runs on the holder alone: on a standby it runs
/// without that, and at a takeover it is there first. So it does not where it merely stands below.
fn judge_warm(
    names: &[(ServiceName, Span)],
    after: &mut [Vec<(usize, Option<Span>)>],
    when: impl Fn(usize) -> Option<When>,
    report: &mut Report,
) {
    for (at, waits) in after.iter().enumerate() {
        if when(at) != Some(When::Always) {
            continue;
        }
        let (name, place) = &names[at];
        let mut told = false;
        for (other, span) in waits {
            if when(*other) != Some(When::Active) {
                continue;
            }
            let (active, there) = &names[*other];
            let why = format!("{name} runs on every node, and {active} on the holder alone");
            match span {
                Some(span) => {
                    let what = format!("{why}: no order is possible");
                    let help =
                        format!("take it out, or make {active} run everywhere, too (\"always\")");
                    report.refuse(span, what, help).also(there, "the other one");
                }
                None if told || waits_for(&after[*other], at) => {}
                None => {
                    told = true;
                    let what = format!("{why}: it does not wait for that, though it stands below");
                    let help = "write what it waits for, as in after = [], or put it above";
                    report.warn(place, what, help).also(there, "the other one");
                }
            }
        }
    }
    let warm = (0..after.len()).filter(|at| when(*at) == Some(When::Always));
    for at in warm.collect::<Vec<usize>>() {
        after[at].retain(|(other, span)| span.is_some() || when(*other) != Some(When::Active));
    }
}

/// Whether the service at `at` is among those that are named in an `after`.
fn waits_for(after: &[(usize, Option<Span>)], at: usize) -> bool {
    after
        .iter()
        .any(|(other, span)| *other == at && span.is_some())
}

/// Services that wait for each other in a circle, if there are any: each for the next.
fn cycle(after: &[Vec<(usize, Option<Span>)>]) -> Option<Vec<usize>> {
    let mut left: Vec<usize> = (0..after.len()).collect();
    loop {
        // Take away whoever waits for nobody that is left.
        let waits = |at: usize, left: &[usize]| {
            after[at]
                .iter()
                .map(|(other, _)| *other)
                .find(|other| left.contains(other))
        };
        let kept: Vec<usize> = left
            .iter()
            .copied()
            .filter(|at| waits(*at, &left).is_some())
            .collect();
        if kept.len() == left.len() {
            // Everybody left waits for somebody left: following that leads into a circle.
            let mut path = vec![*left.first()?];
            loop {
                let last = path[path.len() - 1];
                let next = waits(last, &left)?;
                if let Some(start) = path.iter().position(|at| *at == next) {
                    return Some(path.split_off(start));
                }
                path.push(next);
            }
        }
        left = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_units_are_told_from_others() {
        for good in [
            "apache2.service",
            "a@b.service",
            "x\\x2dy.mount",
            "a.b.timer",
        ] {
            assert_eq!(judge_unit(good), Ok(()), "{good}");
        }
        let help = |unit: &str| judge_unit(unit).expect_err(unit).1;
        assert_eq!(help("apache2"), "did you mean \"apache2.service\"?");
        assert_eq!(help("php8.2-fpm"), "did you mean \"php8.2-fpm.service\"?");
        assert!(help("a@.service").contains("a@main.service"));
        for bad in [
            "",
            ".service",
            "a b.service",
            "a/b.service",
            "system.slice",
            "x\0.service",
        ] {
            assert!(judge_unit(bad).is_err(), "{bad}");
        }
        assert!(judge_unit(&format!("{}.service", "a".repeat(248))).is_err());
    }

    #[test]
    fn circles_are_found_and_orders_are_not() {
        let waits = |lists: &[&[usize]]| {
            let lists: Vec<Vec<(usize, Option<Span>)>> = lists
                .iter()
                .map(|list| list.iter().map(|at| (*at, None)).collect())
                .collect();
            cycle(&lists)
        };
        assert_eq!(waits(&[]), None);
        assert_eq!(waits(&[&[], &[0], &[0, 1]]), None);
        assert_eq!(waits(&[&[1], &[]]), None);
        assert_eq!(waits(&[&[0]]), Some(vec![0]));
        assert_eq!(waits(&[&[1], &[0]]), Some(vec![0, 1]));
        assert_eq!(waits(&[&[1], &[2], &[1], &[]]), Some(vec![1, 2]));
    }
}
