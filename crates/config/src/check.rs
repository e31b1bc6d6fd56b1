//! `[group.G.check.NAME]`: one question about health.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use evenkeel_core::names::{CheckName, ServiceName};
use evenkeel_core::rule::{RULE_WORDS, nearest};
use evenkeel_core::settling::grace;
use evenkeel_core::topology::{CheckPolicy, OfService};

use crate::dns::{self, Dns};
use crate::duration;
use crate::exec::{self, Exec};
use crate::fault::{Report, shown};
use crate::http::{self, Http, Trust};
use crate::name;
use crate::process::{self, Process};
use crate::section::{Keys, Section, Text};
use crate::service::{Runs, ServiceSpec, UNIT_EXAMPLE, When, judge_unit};
use crate::smtp::{self, Smtp};
use crate::source::Span;
use crate::target::{NODE, Target, read_target};
use crate::tcp::{self, Tcp};

/// How often a check may ask: not so often that asking is a load of its own, not so
/// seldom that the answer says nothing.
const INTERVAL_BOUNDS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(3_600);

/// How long an answer may take: a round trip at least.
const TIMEOUT_BOUNDS: RangeInclusive<Duration> =
    Duration::from_millis(5)..=Duration::from_secs(300);

/// Failures in a row, and good answers in a row.
const COUNT_BOUNDS: RangeInclusive<u32> = 1..=1_000;

const INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const FALL_DEFAULT: u32 = 2;
const RISE_DEFAULT: u32 = 3;

const LATER_HELP: &str = "ask in another way, as with tcp or nagios, or remove this check";

/// Kinds of a later version.
const LATER: &[(&str, &str)] = &[("mysql", LATER_HELP), ("postgres", LATER_HELP)];

/// A kind of question.
struct Kind {
    /// The key that names it.
    name: &'static str,
    /// What stands in such a check.
    keys: Keys,
    /// What stands in no other.
    own: &'static [&'static str],
}

const KINDS: [Kind; 9] = [
    Kind {
        name: "ping",
        keys: Keys {
            known: &[
                "ping", "interval", "timeout", "from", "fall", "rise", "service",
            ],
            later: LATER,
        },
        own: &[],
    },
    Kind {
        name: "http",
        keys: Keys {
            known: &[
                "http", "interval", "timeout", "from", "fall", "rise", "service", "status", "body",
                "method", "host", "tls",
            ],
            later: LATER,
        },
        own: &["status", "body", "method", "host", "tls"],
    },
    Kind {
        name: "tcp",
        keys: Keys {
            known: &[
                "tcp", "interval", "timeout", "from", "fall", "rise", "service", "send", "expect",
            ],
            later: LATER,
        },
        own: &["send", "expect"],
    },
    Kind {
        name: "exec",
        keys: Keys {
            known: &[
                "exec", "interval", "timeout", "from", "fall", "rise", "service",
            ],
            later: LATER,
        },
        own: &[],
    },
    Kind {
        name: "nagios",
        keys: Keys {
            known: &[
                "nagios", "interval", "timeout", "from", "fall", "rise", "service",
            ],
            later: LATER,
        },
        own: &[],
    },
    Kind {
        name: "process",
        keys: Keys {
            known: &[
                "process", "interval", "timeout", "from", "fall", "rise", "service", "pidfile",
            ],
            later: LATER,
        },
        own: &["pidfile"],
    },
    Kind {
        name: "unit",
        keys: Keys {
            known: &[
                "unit", "interval", "timeout", "from", "fall", "rise", "service",
            ],
            later: LATER,
        },
        own: &[],
    },
    Kind {
        name: "dns",
        keys: Keys {
            known: &[
                "dns", "interval", "timeout", "from", "fall", "rise", "service", "server", "type",
                "expect",
            ],
            later: LATER,
        },
        own: &["server", "type", "expect"],
    },
    Kind {
        name: "smtp",
        keys: Keys {
            known: &[
                "smtp", "interval", "timeout", "from", "fall", "rise", "service", "starttls",
                "host", "tls",
            ],
            later: LATER,
        },
        own: &["starttls", "host", "tls"],
    },
];

/// What a check without a question could have.
const ANY_KEYS: Keys = Keys {
    known: &[
        "ping", "http", "tcp", "exec", "nagios", "process", "unit", "dns", "smtp", "interval",
        "timeout", "from", "fall", "rise", "service",
    ],
    later: LATER,
};

/// One check of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckSpec {
    /// What decisions need to know of it.
    pub policy: CheckPolicy,
    /// What is asked.
    pub question: Question,
    /// The service that it asks about, where it bears neither its name nor asks for its unit.
    pub service: Option<ServiceName>,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Does it answer an ICMP echo request?
    Ping {
        /// Whom to ask.
        target: Target,
    },
    /// Does its web server answer well?
    Http(Http),
    /// Does a server take a connection, and say what is expected?
    Tcp(Tcp),
    /// Does a program end well?
    Exec(Exec),
    /// What does a plugin of Nagios say?
    Nagios(Exec),
    /// Does a process run?
    Process(Process),
    /// Is a unit of systemd up?
    Unit(String),
    /// Does a name server know a name?
    Dns(Dns),
    /// Does a mail server greet?
    Smtp(Smtp),
}

impl Question {
    /// Whom it asks; none if it asks nobody by an address.
    pub const fn target(&self) -> Option<Target> {
        match self {
            Self::Ping { target } => Some(*target),
            Self::Http(http) => Some(http.target),
            Self::Tcp(tcp) => Some(tcp.target),
            Self::Dns(dns) => Some(dns.target),
            Self::Smtp(smtp) => Some(smtp.target),
            Self::Exec(_) | Self::Nagios(_) | Self::Process(_) | Self::Unit(_) => None,
        }
    }

    /// Who must have signed the certificate that it is shown; none if it is shown none.
    pub const fn trust(&self) -> Option<&Trust> {
        match self {
            Self::Http(http) => http.tls.as_ref(),
            Self::Smtp(smtp) => smtp.starttls.as_ref(),
            Self::Ping { .. }
            | Self::Tcp(_)
            | Self::Exec(_)
            | Self::Nagios(_)
            | Self::Process(_)
            | Self::Unit(_)
            | Self::Dns(_) => None,
        }
    }

    /// Who asks unless the file says otherwise: the judged node itself, and its peers.
    const fn asked_from(&self) -> (bool, bool) {
        match self {
            // A node that pings itself learns nothing.
            Self::Ping { .. } => (false, true),
            // Programs, processes and units are those of the machine itself.
            Self::Exec(_) | Self::Nagios(_) | Self::Process(_) | Self::Unit(_) => (true, false),
            Self::Http(_) | Self::Tcp(_) | Self::Dns(_) | Self::Smtp(_) => (true, true),
        }
    }
}

/// Reads the name of a check. The words of the rule are taken.
pub(crate) fn read_name(key: &Text<'_>, report: &mut Report) -> Option<CheckName> {
    if RULE_WORDS.contains(&key.value) {
        let what = format!("{:?} is a word of fail_when", key.value);
        report.refuse(&key.span, what, "choose another name for the check");
        return None;
    }
    name::read("check", key, CheckName::new, report)
}

/// The addresses of all groups, each with the name of its group.
pub(crate) type Held = BTreeMap<IpAddr, String>;

/// Reads a check of a group that has these services.
pub(crate) fn read(
    name: CheckName,
    section: &Section<'_>,
    related: &Related<'_>,
    report: &mut Report,
) -> Option<CheckSpec> {
    let question = read_question(section, report);
    let named = related.named(section, report);
    let implied = related.implied(&name, question.as_ref());
    let interval = read_time(
        section,
        "interval",
        INTERVAL_BOUNDS,
        INTERVAL_DEFAULT,
        report,
    );
    let timeout = read_time(section, "timeout", TIMEOUT_BOUNDS, TIMEOUT_DEFAULT, report);
    let fall = section
        .number("fall", COUNT_BOUNDS, report)
        .unwrap_or(FALL_DEFAULT);
    let rise = section
        .number("rise", COUNT_BOUNDS, report)
        .unwrap_or(RISE_DEFAULT);
    let from = read_from(section, report);
    let question = question?;
    let from = from.unwrap_or_else(|| {
        let (node, peers) = question.asked_from();
        let span = section.span.clone();
        From { node, peers, span }
    });
    let rests = named
        .or(implied)
        .is_some_and(|service| service.when == When::Active);
    if !judge_held(&question, section, (&from, rests), related, report) {
        judge_target(&question, &from, report);
    }
    let policy = CheckPolicy {
        name,
        interval,
        timeout,
        fall,
        rise,
        from_node: from.node,
        from_peers: from.peers,
        rests,
        service: named.or(implied).map(|service| OfService {
            name: service.name.clone(),
            restarts: service.restart > 0,
            grace: grace(service.start_timeout, interval, timeout, fall),
        }),
    };
    let service = named.filter(|named| implied.is_none_or(|implied| implied.name != named.name));
    Some(CheckSpec {
        policy,
        question,
        service: service.map(|service| service.name.clone()),
    })
}

/// What a check of a group may be about.
pub(crate) struct Related<'a> {
    /// Its group.
    pub(crate) group: &'a str,
    /// The addresses that move.
    pub(crate) held: &'a Held,
    /// The names of all services of the group, faulty ones too: those have been spoken of.
    pub(crate) names: Vec<String>,
    /// Those that are whole.
    pub(crate) whole: &'a [(ServiceSpec, Span)],
}

impl Related<'_> {
    /// The service that a check asks about unless it names one: the one whose name it bears,
    /// or whose unit it asks for.
    fn implied(&self, check: &CheckName, question: Option<&Question>) -> Option<&ServiceSpec> {
        let of_unit = |unit: &String| {
            let mut all = self.whole.iter().map(|(service, _)| service);
            all.find(|service| matches!(&service.what, Runs::Unit(own) if own == unit))
        };
        self.of_name(check.as_str()).or_else(|| match question {
            Some(Question::Unit(unit)) => of_unit(unit),
            Some(_) | None => None,
        })
    }

    /// The service that a check names.
    fn named(&self, section: &Section<'_>, report: &mut Report) -> Option<&ServiceSpec> {
        let help = "write the name of a service of the same group";
        let text = section.text_with("service", help, report)?;
        if !self.names.iter().any(|name| name == text.value) {
            let what = format!("the group has no service {}", shown(text.value));
            let names = self.names.iter().map(String::as_str);
            let help = match nearest(text.value, names) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => help.to_owned(),
            };
            report.refuse(&text.span, what, help);
        }
        self.of_name(text.value)
    }

    fn of_name(&self, name: &str) -> Option<&ServiceSpec> {
        let mut all = self.whole.iter().map(|(service, _)| service);
        all.find(|service| service.name.as_str() == name)
    }
}

fn read_question(section: &Section<'_>, report: &mut Report) -> Option<Question> {
    let asked: Vec<&Kind> = KINDS.iter().filter(|kind| section.has(kind.name)).collect();
    refuse_other_keys(section, &asked, report);
    let names: Vec<&str> = asked.iter().map(|kind| kind.name).collect();
    match names[..] {
        [] => {
            // A kind of a later version has been refused already.
            if !LATER.iter().any(|(kind, _)| section.has(kind)) {
                let what = format!("[{}] asks nothing", section.path);
                let help =
                    format!("add for example ping = \"{NODE}\" or http = \"http://{NODE}/\"");
                report.refuse(&section.span, what, help);
            }
            None
        }
        ["ping"] => {
            let help = format!("write for example ping = \"{NODE}\"");
            let text = section.text_with("ping", &help, report)?;
            match read_target(text.value) {
                Ok(target) => Some(Question::Ping { target }),
                Err((what, help)) => {
                    report.refuse(&text.span, what, help);
                    None
                }
            }
        }
        ["http"] => Some(Question::Http(http::read(section, report)?)),
        ["tcp"] => Some(Question::Tcp(tcp::read(section, report)?)),
        ["exec"] => Some(Question::Exec(exec::read("exec", section, report)?)),
        ["nagios"] => Some(Question::Nagios(exec::read("nagios", section, report)?)),
        ["process"] => Some(Question::Process(process::read(section, report)?)),
        ["unit"] => Some(Question::Unit(read_unit(section, report)?)),
        ["dns"] => Some(Question::Dns(dns::read(section, report)?)),
        ["smtp"] => Some(Question::Smtp(smtp::read(section, report)?)),
        [first, second, ..] => {
            let what = format!("a check asks one question, not {first} and {second}");
            report
                .refuse(&section.key_span(second), what, "make two checks of it")
                .also(&section.key_span(first), "the other question");
            None
        }
        // The kinds are those of the table.
        [_] => None,
    }
}

fn read_unit(section: &Section<'_>, report: &mut Report) -> Option<String> {
    let help = format!("write for example {UNIT_EXAMPLE}");
    let text = section.text_with("unit", &help, report)?;
    match judge_unit(text.value) {
        Ok(()) => Some(text.value.to_owned()),
        Err((what, help)) => {
            report.refuse(&text.span, what, help);
            None
        }
    }
}

/// Refuses unknown keys, and names the kind of question that a key belongs to if it is another
/// one.
fn refuse_other_keys(section: &Section<'_>, asked: &[&Kind], report: &mut Report) {
    let is_asked = |key: &str| asked.iter().any(|one| one.own.contains(&key));
    let mut judged: Vec<&str> = asked.iter().map(|kind| kind.name).collect();
    for kind in &KINDS {
        for key in kind.own.iter().filter(|key| section.has(key)) {
            let told = judged.contains(key);
            judged.push(key);
            // Nothing is asked: that is fault enough.
            if !told && !is_asked(key) && !asked.is_empty() {
                let owners = KINDS.iter().filter(|kind| kind.own.contains(key));
                let owners: Vec<&str> = owners.map(|kind| kind.name).collect();
                let what = format!("{key:?} belongs to {} checks", owners.join(" and "));
                let help = format!("remove it, or ask with {}", owners.join(" or "));
                report.refuse(&section.key_span(key), what, help);
            }
        }
    }
    let keys = asked.first().map_or(&ANY_KEYS, |kind| &kind.keys);
    section.only_but(keys, &judged, report);
}

fn read_time(
    section: &Section<'_>,
    key: &str,
    bounds: RangeInclusive<Duration>,
    otherwise: Duration,
    report: &mut Report,
) -> Duration {
    duration::read(section, key, bounds, report).map_or(otherwise, |(time, _)| time)
}

/// Who asks.
struct From {
    node: bool,
    peers: bool,
    span: Span,
}

fn read_from(section: &Section<'_>, report: &mut Report) -> Option<From> {
    const EXAMPLE: &str = "from = [\"node\", \"peers\"]";
    let members = section.texts("from", EXAMPLE, report)?;
    let span = section
        .value("from")
        .map_or(section.span.clone(), |value| value.span());
    if members.is_empty() {
        let what = "nobody asks";
        report.refuse(
            &span,
            what,
            format!("write for example {EXAMPLE}, or remove it"),
        );
        return None;
    }
    let mut from = From {
        node: false,
        peers: false,
        span,
    };
    for member in &members {
        match member.value {
            "node" => from.node = true,
            "peers" => from.peers = true,
            other => {
                let what = format!("{} cannot ask", shown(other));
                let help = match nearest(other, ["node", "peers"]) {
                    Some(meant) => format!("did you mean {meant:?}?"),
                    None => "\"node\" is the judged node itself, \"peers\" are the others".into(),
                };
                report.refuse(&member.span, what, help);
            }
        }
    }
    Some(from)
}

/// Warns of a question that goes to an address which moves: whoever holds that answers it, so that
/// a standby is judged by the holder. True if it did.
fn judge_held(
    question: &Question,
    section: &Section<'_>,
    (from, rests): (&From, bool),
    related: &Related<'_>,
    report: &mut Report,
) -> bool {
    let ip = match (question, question.target()) {
        (_, Some(Target::Ip(ip))) => Some(ip),
        (Question::Exec(command) | Question::Nagios(command), _) => {
            let mut words = command.words().iter();
            words.find_map(|word| {
                let ip = word.parse::<IpAddr>().ok();
                ip.filter(|ip| related.held.contains_key(ip))
            })
        }
        _ => None,
    };
    let Some((ip, group)) = ip.and_then(|ip| Some((ip, related.held.get(&ip)?))) else {
        return false;
    };
    // Where it is asked only of the holder, and by itself, the answer is its own.
    if rests && !from.peers && group == related.group {
        return false;
    }
    let what = format!(
        "{ip} is an address of the group {}: whoever holds that answers, not the node that is judged",
        shown(group)
    );
    let asked = KINDS
        .iter()
        .map(|kind| kind.name)
        .find(|kind| section.has(kind));
    let key = match section.has("server") {
        true => Some("server"),
        false => asked,
    };
    let span = key.and_then(|key| section.value(key));
    let span = span.map_or(section.span.clone(), |value| value.span());
    report.warn(&span, what, format!("ask {NODE}"));
    true
}

/// Questions whose answer does not depend on the node that is judged.
fn judge_target(question: &Question, from: &From, report: &mut Report) {
    match (question, question.target()) {
        (Question::Process(process), _) if from.peers => {
            let what = format!("peers cannot see whether {} runs", shown(&process.name));
            let help = "write from = [\"node\"], or ask with tcp or http what it serves";
            report.refuse(&from.span, what, help);
        }
        (Question::Unit(unit), _) if from.peers => {
            let what = format!("peers cannot see whether {} is up", shown(unit));
            let help = "write from = [\"node\"], or ask with tcp or http what it serves";
            report.refuse(&from.span, what, help);
        }
        (Question::Exec(command) | Question::Nagios(command), _)
            if from.peers && !command.names_the_node() =>
        {
            let what = "peers that run this learn nothing about the node that is judged";
            let help = format!("put {NODE} among its arguments, or write from = [\"node\"]");
            report.warn(&from.span, what, help);
        }
        (_, Some(Target::Ip(ip))) if from.peers => {
            let what = format!("peers that ask {ip} learn nothing about the node that is judged");
            let help = format!("ask {NODE}, or write from = [\"node\"]");
            report.warn(&from.span, what, help);
        }
        (Question::Ping { .. }, Some(Target::Node)) if from.node && !from.peers => {
            let what = "a node that pings itself always answers";
            report.warn(&from.span, what, "write from = [\"peers\"]");
        }
        (_, Some(Target::Node | Target::Ip(_)) | None) => {}
    }
}
