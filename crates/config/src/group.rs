//! `[group.NAME]`: what moves together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use evenkeel_core::names::{CheckName, GroupId, GroupName, NodeId};
use evenkeel_core::rule::{Rule, Truth, nearest};
use evenkeel_core::topology::{Failback, Group, ServiceAddress, WithoutMajority};

use crate::address;
use crate::check::{self, CheckSpec, Held};
use crate::duration;
use crate::fault::{Report, shown};
use crate::hook::{self, Hooks};
use crate::name;
use crate::node::FoundNodes;
use crate::section::{Keys, Section, Text};
use crate::service::{self, SERVICES_MAX, ServiceSpec, Taken, When};
use crate::source::Span;

/// Every group has a lease of its own.
pub const GROUPS_MAX: usize = 256;

/// All addresses of a group are announced within one burst.
pub const ADDRESSES_PER_GROUP_MAX: usize = 4_096;

/// The tables of the guard are made for so many.
pub const ADDRESSES_MAX: usize = 16_384;

/// Every check is a task on every node that asks, and is told to all others once a second: with
/// so many, asked by a node and two peers, that is a few hundred kilobytes a second.
pub const CHECKS_MAX: usize = 8_192;

/// How long requests in flight get, unless the file says otherwise.
const DRAIN_DEFAULT: Duration = Duration::from_secs(2);

/// A planned move must end while somebody still waits for it.
const DRAIN_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);

/// Sooner would be flapping; later is `"manual"`.
const FAILBACK_BOUNDS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);

/// Checks of a rule of which all answers are tried to see whether it can hold: 4096 cases, a
/// moment's work for each group of the largest file.
const TRIED_MAX: usize = 12;

/// How many names a help line lists.
const LISTED_MAX: usize = 12;

const KEYS: Keys = Keys {
    known: &[
        "nodes",
        "addresses",
        "fail_when",
        "failback",
        "drain",
        "without_majority",
        "check",
        "service",
        "hook",
    ],
    later: &[],
};

const ADDRESSES_EXAMPLE: &str = "addresses = [\"192.0.2.100/24\"]";
const NODES_EXAMPLE: &str = "nodes = [\"ams1\", \"fra1\"]";

/// A group as the file describes it.
pub(crate) struct FoundGroup {
    pub(crate) group: Group,
    pub(crate) span: Span,
    /// Its addresses with their places; the same as in `group`, in the same order.
    pub(crate) addresses: Vec<(ServiceAddress, Span)>,
    pub(crate) checks: Vec<(CheckSpec, Span)>,
    pub(crate) services: Vec<(ServiceSpec, Span)>,
    pub(crate) hooks: Hooks,
    pub(crate) hook_places: hook::Places,
}

/// Reads all groups and what must hold between them and the nodes.
pub(crate) fn read(top: &Section<'_>, nodes: &FoundNodes, report: &mut Report) -> Vec<FoundGroup> {
    let sections = top.sections("group", report);
    if sections.is_empty() && !top.has("group") {
        let what = "the file has no groups, so nothing is kept up";
        report.warn(
            &top.span,
            what,
            format!("add for example [group.www] with {NODES_EXAMPLE}"),
        );
    }
    if let Some((name, _)) = sections.get(GROUPS_MAX) {
        let what = format!(
            "there are {} groups, more than {GROUPS_MAX}",
            sections.len()
        );
        report.refuse(&name.span, what, "put what moves together into one group");
    }
    let mut groups = Vec::new();
    let mut budget = Budget {
        checks: CHECKS_MAX,
        addresses: ADDRESSES_MAX,
        services: SERVICES_MAX,
        taken: Taken::default(),
    };
    let held = all_addresses(&sections, report);
    let around = Around { nodes, held: &held };
    for (name, section) in sections.iter().take(GROUPS_MAX) {
        groups.extend(read_one(name, section, &around, &mut budget, report));
    }
    judge_identities(&groups, report);
    judge_overlaps(&groups, nodes, report);
    judge_notes(&groups, report);
    groups
}

/// What groups may speak of besides their own.
struct Around<'a> {
    nodes: &'a FoundNodes,
    held: &'a Held,
}

/// The addresses of all groups, each with its group, before any of them is judged: a check may ask
/// for one of a group that stands below it.
fn all_addresses(sections: &[(Text<'_>, Section<'_>)], report: &Report) -> Held {
    // What is wrong with them is told when they are read in earnest.
    let mut unheard = report.aside();
    let mut held = Held::new();
    for (name, section) in sections.iter().take(GROUPS_MAX) {
        let texts = section.texts("addresses", ADDRESSES_EXAMPLE, &mut unheard);
        for text in texts.unwrap_or_default() {
            if let Some(address) = address::read(&text, &mut unheard) {
                held.insert(address.ip, name.value.to_owned());
            }
        }
    }
    held
}

/// What the file may still have.
struct Budget {
    checks: usize,
    addresses: usize,
    services: usize,
    /// What belongs to a group already.
    taken: Taken,
}

fn read_one(
    key: &Text<'_>,
    section: &Section<'_>,
    around: &Around<'_>,
    budget: &mut Budget,
    report: &mut Report,
) -> Option<FoundGroup> {
    section.only(&KEYS, report);
    let name = name::read("group", key, GroupName::new, report);
    let members = read_nodes(section, around.nodes, report);
    let addresses = read_addresses(section, budget, report);
    let services = service::read_all(section, &mut budget.services, &mut budget.taken, report);
    let related = check::Related {
        group: key.value,
        held: around.held,
        names: section.names("service"),
        whole: &services,
    };
    let FoundChecks {
        names,
        whole: checks,
    } = read_checks(section, &related, budget, report);
    let (hooks, hook_places) = hook::read(section, report);
    let fail_when = read_rule(section, &names, report);
    let failback = read_failback(section, report);
    let drain = duration::read(section, "drain", DRAIN_BOUNDS, report)
        .map_or(DRAIN_DEFAULT, |(time, _)| time);
    let without_majority = read_without_majority(section, report);
    let name = name?;
    let group = Group {
        id: GroupId::of(&name),
        name,
        nodes: members,
        addresses: addresses
            .iter()
            .map(|(address, _)| address.clone())
            .collect(),
        // A faulty rule has been refused; the rest of the group is judged all the same.
        fail_when: fail_when.unwrap_or_else(|| Rule::any_of([])),
        failback,
        drain,
        before_close: match hooks.before_close {
            Some(_) => hooks.timeout,
            None => Duration::ZERO,
        },
        preparing: preparing(&services, &hooks),
        cold: services.iter().any(|(one, _)| one.when == When::Active),
        without_majority,
        services: services.iter().map(|(one, _)| one.name.clone()).collect(),
        checks: checks.iter().map(|(spec, _)| spec.policy.clone()).collect(),
    };
    Some(FoundGroup {
        group,
        span: key.span.clone(),
        addresses,
        checks,
        services,
        hooks,
        hook_places,
    })
}

/// How long what a new holder starts and runs before it opens may take: its services in turn at
/// worst, each stopped and started as often as it is tried, and `before_open`. Nothing, if it waits
/// for none of it.
fn preparing(services: &[(ServiceSpec, Span)], hooks: &Hooks) -> Duration {
    let active = services.iter().any(|(one, _)| one.when == When::Active);
    if !active && hooks.before_open.is_none() {
        return Duration::ZERO;
    }
    let starts = services.iter().map(|(one, _)| {
        let once = one.stop_timeout + one.start_timeout;
        once.saturating_mul(one.restart.saturating_add(1))
    });
    let hook = match hooks.before_open {
        Some(_) => hooks.timeout,
        None => Duration::ZERO,
    };
    starts.fold(hook, Duration::saturating_add)
}

/// The nodes that may hold the group, each known, hosting, and named once.
fn read_nodes(section: &Section<'_>, nodes: &FoundNodes, report: &mut Report) -> Vec<NodeId> {
    if !section.has("nodes") {
        section.missing("nodes", NODES_EXAMPLE, report);
        return Vec::new();
    }
    let Some(texts) = section.texts("nodes", NODES_EXAMPLE, report) else {
        return Vec::new();
    };
    let mut members: Vec<NodeId> = Vec::new();
    let mut places: BTreeMap<&str, &Span> = BTreeMap::new();
    for text in &texts {
        if let Some(first) = places.get(text.value) {
            let what = format!("{} is named twice", shown(text.value));
            report
                .refuse(&text.span, what, "remove one of them")
                .also(first, "here first");
            continue;
        }
        places.insert(text.value, &text.span);
        match nodes.find(text.value) {
            Some(node) if node.witness => {
                let what = format!("{:?} is a witness, which hosts nothing", text.value);
                let help = "remove it here, or remove witness = true there";
                report
                    .refuse(&text.span, what, help)
                    .also(&node.span, "the witness");
            }
            Some(node) => members.push(NodeId::of(&node.name)),
            // Its own section is faulty and has been spoken of.
            None if nodes.names.iter().any(|name| name == text.value) => {}
            None => refuse_unknown_node(text, nodes, report),
        }
    }
    let span = section
        .value("nodes")
        .map_or(section.span.clone(), |value| value.span());
    match texts.len() {
        0 => {
            let what = "no node may hold this group";
            report.refuse(&span, what, format!("write for example {NODES_EXAMPLE}"));
        }
        1 => {
            let what = "only one node may hold this group: it cannot move";
            report.warn(&span, what, "name a second node");
        }
        _ => {}
    }
    members
}

fn refuse_unknown_node(text: &Text<'_>, nodes: &FoundNodes, report: &mut Report) {
    let hosting: Vec<&str> = nodes
        .all
        .iter()
        .filter(|node| !node.witness)
        .map(|node| node.name.as_str())
        .collect();
    let help = match nearest(text.value, hosting.iter().copied()) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None if hosting.is_empty() => "add [node.NAME] sections".into(),
        None => {
            let listed: Vec<&str> = hosting.iter().take(LISTED_MAX).copied().collect();
            let more = if hosting.len() > LISTED_MAX {
                ", and so on"
            } else {
                ""
            };
            format!("the nodes that host are {}{more}", listed.join(", "))
        }
    };
    report.refuse(
        &text.span,
        format!("there is no node {}", shown(text.value)),
        help,
    );
}

fn read_addresses(
    section: &Section<'_>,
    budget: &mut Budget,
    report: &mut Report,
) -> Vec<(ServiceAddress, Span)> {
    let texts = section.texts("addresses", ADDRESSES_EXAMPLE, report);
    if texts
        .as_ref()
        .map_or(!section.has("addresses"), Vec::is_empty)
    {
        let what = format!("[{}] has no addresses, so nothing moves", section.path);
        report.warn(
            &section.span,
            what,
            format!("add for example {ADDRESSES_EXAMPLE}"),
        );
    }
    let texts = texts.unwrap_or_default();
    let most = ADDRESSES_PER_GROUP_MAX.min(budget.addresses);
    if let Some(beyond) = texts.get(most) {
        let what = match most {
            ADDRESSES_PER_GROUP_MAX => format!("the group has more than {most} addresses"),
            _ => format!("the file has more than {ADDRESSES_MAX} addresses"),
        };
        report.refuse(
            &beyond.span,
            what,
            "make several groups or clusters of them",
        );
    }
    budget.addresses -= texts.len().min(most);
    let read = texts.into_iter().take(most).filter_map(|text| {
        let address = address::read(&text, report)?;
        Some((address, text.span))
    });
    read.collect()
}

/// The checks of a group.
struct FoundChecks {
    /// The names of all, faulty ones too: a rule may speak of them.
    names: Vec<(CheckName, Span)>,
    /// Those that are whole.
    whole: Vec<(CheckSpec, Span)>,
}

/// Reads the checks of a group.
fn read_checks(
    section: &Section<'_>,
    related: &check::Related<'_>,
    budget: &mut Budget,
    report: &mut Report,
) -> FoundChecks {
    let sections = section.sections("check", report);
    if let Some((name, _)) = sections.get(budget.checks) {
        let what = format!("the file has more than {CHECKS_MAX} checks");
        report.refuse(&name.span, what, "leave out those that cannot move a group");
    }
    let mut found = FoundChecks {
        names: Vec::new(),
        whole: Vec::new(),
    };
    for (key, section) in sections.iter().take(budget.checks) {
        let Some(name) = check::read_name(key, report) else {
            continue;
        };
        found.names.push((name.clone(), key.span.clone()));
        let spec = check::read(name, section, related, report);
        found
            .whole
            .extend(spec.map(|spec| (spec, key.span.clone())));
    }
    budget.checks -= sections.len().min(budget.checks);
    found
}

/// The rule; nothing if it is wrong.
fn read_rule(
    section: &Section<'_>,
    checks: &[(CheckName, Span)],
    report: &mut Report,
) -> Option<Rule> {
    // The order of the sections in the file means nothing.
    let mut names: Vec<CheckName> = checks.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    if !section.has("fail_when") {
        return Some(Rule::any_of(names));
    }
    let help = "write names of checks, as in \"ping and apache\"";
    let text = section.text_with("fail_when", help, report)?;
    let rule = match Rule::parse(text.value, &names) {
        Ok(rule) => rule,
        Err(fault) => {
            let place = text.inside(report.source(), fault.at..fault.at + fault.length);
            report.refuse(&place, fault.what, fault.help);
            return None;
        }
    };
    if rule.evaluate(|_| Truth::No) == Truth::Yes {
        let what = "this rule holds when every check is well";
        let help = "a name means that this check fails: remove `not`";
        report.refuse(&text.span, what, help);
        return None;
    }
    if never_holds(&rule) {
        let what = "this rule never holds, whatever fails";
        let help = "the group would never move for a check: look at its `and` and `not`";
        report.warn(&text.span, what, help);
    }
    let named: Vec<&CheckName> = rule.checks().collect();
    for (name, span) in checks.iter().filter(|(name, _)| !named.contains(&name)) {
        let what = format!("fail_when does not name the check {:?}", name.as_str());
        let help = "it is shown, but never moves the group; name it, or remove it";
        report.warn(span, what, help).also(&text.span, "the rule");
    }
    Some(rule)
}

/// Whether no answers of its checks make a rule hold, as far as all of them can be tried.
fn never_holds(rule: &Rule) -> bool {
    let names: Vec<&CheckName> = rule.checks().collect();
    if names.len() > TRIED_MAX {
        return false;
    }
    let place = |check: &CheckName| names.iter().position(|name| *name == check);
    let holds = |failing: u32| {
        let fails = |check: &CheckName| match place(check) {
            Some(at) if (failing >> at) & 1 == 1 => Truth::Yes,
            _ => Truth::No,
        };
        rule.evaluate(fails) == Truth::Yes
    };
    !(0..1_u32 << names.len()).any(holds)
}

/// `"manual"` or `"auto after 10m"`.
fn read_failback(section: &Section<'_>, report: &mut Report) -> Failback {
    let help = "write \"manual\", or for example \"auto after 10m\"";
    let Some(text) = section.text_with("failback", help, report) else {
        return Failback::Manual;
    };
    let mut words = text.value.trim().splitn(3, char::is_whitespace);
    match (words.next(), words.next(), words.next()) {
        (Some("manual"), None, None) => Failback::Manual,
        (Some("auto"), Some("after"), Some(time)) => {
            let end = text.value.trim_end().len();
            let place = text.inside(report.source(), end - time.len()..end);
            let time = Text {
                value: time,
                span: place,
            };
            duration::parse_within("failback", &time, FAILBACK_BOUNDS, report)
                .map_or(Failback::Manual, Failback::AutoAfter)
        }
        _ => {
            let what = format!("{} is no way to come back", shown(text.value));
            let help = match nearest(text.value, ["manual"]) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => help.into(),
            };
            report.refuse(&text.span, what, help);
            Failback::Manual
        }
    }
}

fn read_without_majority(section: &Section<'_>, report: &mut Report) -> WithoutMajority {
    let help = "write \"mute\", or leave it out, which means the same";
    let Some(text) = section.text_with("without_majority", help, report) else {
        return WithoutMajority::Mute;
    };
    match text.value {
        "mute" => {}
        // Refused rather than read and not done: who writes it relies on it.
        "serve" => {
            let what = "no node of this version serves without a majority: it cannot know whether \
                        the others are dead or serve where it does not see them";
            let help = "take it out; a third vote anywhere keeps the majority (witness = true), \
                        and when the others are off for certain an operator runs `evenkeel \
                        recover --alone`";
            report.refuse(&text.span, what, help);
        }
        other => {
            let what = format!("{} is not \"mute\"", shown(other));
            report.refuse(&text.span, what, help);
        }
    }
    WithoutMajority::Mute
}

fn judge_identities(groups: &[FoundGroup], report: &mut Report) {
    let mut seen: BTreeMap<GroupId, &FoundGroup> = BTreeMap::new();
    for found in groups {
        if let Some(other) = seen.insert(found.group.id, found) {
            let other = (other.group.name.as_str(), &other.span);
            name::refuse_collision(
                "group",
                found.group.name.as_str(),
                &found.span,
                other,
                report,
            );
        }
    }
}

/// Notes and messages call a service `GROUP.SERVICE`, and names may have dots.
fn judge_notes(groups: &[FoundGroup], report: &mut Report) {
    let mut seen: BTreeMap<String, &Span> = BTreeMap::new();
    for found in groups {
        for (service, span) in &found.services {
            let whole = format!("{}.{}", found.group.name, service.name);
            let Some(first) = seen.get(&whole) else {
                seen.insert(whole, span);
                continue;
            };
            let what = format!("two services would be called {}", shown(&whole));
            let help = "choose another name for one of them, or for its group";
            report.refuse(span, what, help).also(first, "the other one");
        }
    }
}

/// An address belongs to one group or to one node, once.
fn judge_overlaps(groups: &[FoundGroup], nodes: &FoundNodes, report: &mut Report) {
    let own = nodes.all.iter().filter_map(|node| {
        let (address, span) = node.address.as_ref()?;
        Some((address.ip(), (node.name.as_str(), span)))
    });
    let own: BTreeMap<IpAddr, (&str, &Span)> = own.collect();
    let mut seen: BTreeMap<IpAddr, (&FoundGroup, &Span)> = BTreeMap::new();
    for found in groups {
        for (address, span) in &found.addresses {
            if let Some((name, place)) = own.get(&address.ip) {
                let what = format!("{} is the own address of node {name:?}", address.ip);
                let help = "an address that moves is no node's own";
                report
                    .refuse(span, what, help)
                    .also(place, "the node's address");
            }
            let Some((other, place)) = seen.insert(address.ip, (found, span)) else {
                continue;
            };
            let what = match other.group.id == found.group.id {
                true => format!("{} stands twice in this group", address.ip),
                false => format!(
                    "{} is in group {:?} already",
                    address.ip,
                    other.group.name.as_str()
                ),
            };
            report
                .refuse(span, what, "remove one of them")
                .also(place, "here first");
        }
    }
}
