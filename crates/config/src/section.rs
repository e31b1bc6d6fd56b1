//! One table of the file, with the place of everything in it: what may stand there, what
//! must, and what was probably meant.

use std::ops::{Range, RangeInclusive};

use evenkeel_core::rule::nearest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::fault::{Report, shown};
use crate::source::{Source, Span};

/// A string of the file and the bytes where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Text<'t> {
    pub(crate) value: &'t str,
    pub(crate) span: Span,
}

impl Text<'_> {
    /// Where bytes of the value stand in the file.
    pub(crate) fn inside(&self, source: &Source, part: Range<usize>) -> Span {
        source.inside(&self.span, self.value, part)
    }
}

/// Which keys a table knows.
pub(crate) struct Keys {
    /// Those that this version reads.
    pub(crate) known: &'static [&'static str],
    /// Those of the design that a later version reads, with what to do until then.
    pub(crate) later: &'static [(&'static str, &'static str)],
}

/// Keys that people put into the wrong table, and where they belong.
const HOMES: [(&str, &[&str]); 7] = [
    (
        "at the top of the file, before the first [section]",
        &["cluster", "profile", "revoked"],
    ),
    ("in [timing]", &["lease", "heartbeat"]),
    ("in [node.NAME]", &["address", "witness", "voter"]),
    (
        "in [group.NAME]",
        &[
            "nodes",
            "addresses",
            "fail_when",
            "failback",
            "drain",
            "without_majority",
        ],
    ),
    (
        "in [group.NAME.check.NAME]",
        &[
            "ping", "http", "tcp", "exec", "nagios", "process", "dns", "smtp", "interval",
            "timeout", "from", "fall", "rise", "status", "body", "tls", "pidfile", "server",
            "type", "starttls",
        ],
    ),
    (
        "in [group.NAME.service.NAME]",
        &[
            "when",
            "restart",
            "start_timeout",
            "stop_timeout",
            "after",
            "stop",
        ],
    ),
    (
        "in [group.NAME.hook]",
        &[
            "before_open",
            "after_open",
            "before_close",
            "after_close",
            "keepalived",
            "hook_timeout",
        ],
    ),
];

/// One table of the file.
pub(crate) struct Section<'t> {
    /// As in its header, without brackets; empty for the top of the file.
    pub(crate) path: String,
    /// Its header.
    pub(crate) span: Span,
    table: &'t DeTable<'t>,
}

impl<'t> Section<'t> {
    pub(crate) fn top(table: &'t DeTable<'t>) -> Self {
        Self {
            path: String::new(),
            span: 0..0,
            table,
        }
    }

    /// Where its keys stand, as messages say it.
    fn place(&self) -> String {
        match self.path.as_str() {
            "" => "at the top of the file".into(),
            path => format!("in [{path}]"),
        }
    }

    /// Its keys and values in the order of the file.
    fn entries(&self) -> Vec<(Text<'t>, &'t Spanned<DeValue<'t>>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| {
                (
                    Text {
                        value: key.get_ref(),
                        span: key.span(),
                    },
                    value,
                )
            })
            .collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        entries
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table.get(key)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The names below `key`, those of faulty sections too.
    pub(crate) fn names(&self, key: &str) -> Vec<String> {
        let table = self.value(key).and_then(|value| value.get_ref().as_table());
        let names = table.into_iter().flat_map(DeTable::keys);
        names.map(|name| name.get_ref().to_string()).collect()
    }

    /// The place of a key.
    pub(crate) fn key_span(&self, key: &str) -> Span {
        self.table
            .get_key_value(key)
            .map_or(self.span.clone(), |(key, _)| key.span())
    }

    /// Refuses keys that do not belong here.
    pub(crate) fn only(&self, keys: &Keys, report: &mut Report) {
        self.only_but(keys, &[], report);
    }

    /// The same; those in `judged` have been spoken of already.
    pub(crate) fn only_but(&self, keys: &Keys, judged: &[&str], report: &mut Report) {
        for (key, _) in self.entries() {
            if keys.known.contains(&key.value) || judged.contains(&key.value) {
                continue;
            }
            if let Some((_, help)) = keys.later.iter().find(|(later, _)| *later == key.value) {
                let what = format!("{:?} is not built yet in this version", key.value);
                report.refuse(&key.span, what, *help);
                continue;
            }
            let what = format!("unknown key {} {}", shown(key.value), self.place());
            report.refuse(&key.span, what, self.help_for_unknown(key.value, keys));
        }
    }

    fn help_for_unknown(&self, key: &str, keys: &Keys) -> String {
        // A whole section of that name is a misspelt section.
        let section = self
            .value(key)
            .is_some_and(|value| value.get_ref().is_table());
        let home = HOMES
            .iter()
            .filter(|_| !section)
            .find(|(_, belonging)| belonging.contains(&key));
        if let Some((home, _)) = home {
            return format!("it belongs {home}");
        }
        let known = keys.known.iter().copied();
        match nearest(key, known) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("known here: {}", keys.known.join(", ")),
        }
    }

    /// Refuses the table for lack of `key`.
    pub(crate) fn missing(&self, key: &str, example: &str, report: &mut Report) {
        let what = format!("{key:?} is missing {}", self.place());
        report.refuse(&self.span, what, format!("add for example {example}"));
    }

    /// The string under `key`; anything else there is refused with `help`.
    pub(crate) fn text_with(&self, key: &str, help: &str, report: &mut Report) -> Option<Text<'t>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Text {
                value: text,
                span: value.span(),
            }),
            other => {
                refuse_kind(key, "a string in quotes", other, value.span(), help, report);
                None
            }
        }
    }

    /// The string that must stand under `key`; `example` is a whole line.
    pub(crate) fn required(
        &self,
        key: &str,
        example: &str,
        report: &mut Report,
    ) -> Option<Text<'t>> {
        if !self.has(key) {
            self.missing(key, example, report);
            return None;
        }
        self.text_with(key, &format!("write for example {example}"), report)
    }

    /// `true` or `false` under `key`, if anything stands there.
    pub(crate) fn flag(&self, key: &str, report: &mut Report) -> Option<bool> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            other => {
                let help = "write true or false, without quotes";
                refuse_kind(key, "true or false", other, value.span(), help, report);
                None
            }
        }
    }

    /// The whole number under `key`, if anything stands there.
    pub(crate) fn number(
        &self,
        key: &str,
        bounds: RangeInclusive<u32>,
        report: &mut Report,
    ) -> Option<u32> {
        let value = self.value(key)?;
        let help = format!(
            "write a whole number from {} to {}",
            bounds.start(),
            bounds.end()
        );
        let DeValue::Integer(number) = value.get_ref() else {
            refuse_kind(
                key,
                "a whole number",
                value.get_ref(),
                value.span(),
                &help,
                report,
            );
            return None;
        };
        match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if bounds.contains(&number) => Some(number),
            Ok(_) | Err(_) => {
                report.refuse(
                    &value.span(),
                    format!("{key} = {number} is out of bounds"),
                    help,
                );
                None
            }
        }
    }

    /// The list of strings under `key`, if anything stands there. Members that are no
    /// strings are refused and left out.
    pub(crate) fn texts(
        &self,
        key: &str,
        example: &str,
        report: &mut Report,
    ) -> Option<Vec<Text<'t>>> {
        let value = self.value(key)?;
        let help = format!("write for example {example}");
        let DeValue::Array(members) = value.get_ref() else {
            refuse_kind(
                key,
                "a list of strings",
                value.get_ref(),
                value.span(),
                &help,
                report,
            );
            return None;
        };
        let mut texts = Vec::new();
        for member in members.iter() {
            match member.get_ref() {
                DeValue::String(text) => texts.push(Text {
                    value: text,
                    span: member.span(),
                }),
                other => {
                    let name = format!("a member of {key}");
                    refuse_kind(
                        &name,
                        "a string in quotes",
                        other,
                        member.span(),
                        &help,
                        report,
                    );
                }
            }
        }
        Some(texts)
    }

    /// The table under `key`, if anything stands there.
    pub(crate) fn section(&self, key: &str, help: &str, report: &mut Report) -> Option<Self> {
        let (name, value) = self.table.get_key_value(key)?;
        self.open(
            &Text {
                value: name.get_ref(),
                span: name.span(),
            },
            value,
            help,
            report,
        )
    }

    /// The tables under `key`, each with its name, as in `[node.ams1]`.
    pub(crate) fn sections(&self, key: &str, report: &mut Report) -> Vec<(Text<'t>, Self)> {
        let path = self.path_of(key);
        let help = format!("write [{path}.NAME] and its keys below it");
        if let Some((name, value)) = self.table.get_key_value(key)
            && is_list_of_tables(value.get_ref())
        {
            let what = format!("[{path}] has sections with names, not a list of them");
            let help = format!("write [{path}.NAME] in single brackets, once for each");
            report.refuse(&name.span(), what, help);
            return Vec::new();
        }
        let Some(all) = self.section(key, &help, report) else {
            return Vec::new();
        };
        let named = all.entries().into_iter();
        let opened = named.filter_map(|(name, value)| {
            let section = all.open(&name, value, &help, report)?;
            Some((name, section))
        });
        opened.collect()
    }

    fn open(
        &self,
        name: &Text<'t>,
        value: &'t Spanned<DeValue<'t>>,
        help: &str,
        report: &mut Report,
    ) -> Option<Self> {
        let path = self.path_of(name.value);
        match value.get_ref() {
            DeValue::Table(table) => Some(Self {
                path,
                span: header(value, name),
                table,
            }),
            list if is_list_of_tables(list) => {
                let what = format!("[{path}] is one section, not a list of them");
                report.refuse(
                    &name.span,
                    what,
                    format!("write [{path}] in single brackets, once"),
                );
                None
            }
            other => {
                let what = format!("[{path}] must be a section, not {}", kind(other));
                report.refuse(&name.span, what, help);
                None
            }
        }
    }

    fn path_of(&self, key: &str) -> String {
        let bare = !key.is_empty()
            && key
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        let key = if bare { key.to_owned() } else { shown(key) };
        match self.path.as_str() {
            "" => key,
            path => format!("{path}.{key}"),
        }
    }
}

/// Written with double brackets.
fn is_list_of_tables(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Array(members) => members.iter().all(|member| member.get_ref().is_table()),
        _ => false,
    }
}

/// What stands for a table in a frame: its header, or the key before its brace. (An inline
/// table would be underlined over all its lines.)
fn header(value: &Spanned<DeValue<'_>>, name: &Text<'_>) -> Span {
    let span = value.span();
    if span.contains(&name.span.start) {
        span
    } else {
        name.span.clone()
    }
}

/// The value is of another kind than it must be.
pub(crate) fn refuse_kind(
    name: &str,
    wanted: &str,
    found: &DeValue<'_>,
    span: Span,
    help: &str,
    report: &mut Report,
) {
    report.refuse(
        &span,
        format!("{name} must be {wanted}, not {}", kind(found)),
        help,
    );
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}
