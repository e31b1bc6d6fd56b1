//! `exec = "/usr/local/bin/is-well {node}"` and `nagios = [...]`: a program and its arguments.
//!
//! No shell reads them: a string is cut at its blanks, and what needs more is a list.

use std::net::IpAddr;

use evenkeel_core::rule::nearest;
use toml::de::DeValue;

use crate::fault::{Report, shown};
use crate::section::{Section, Text, refuse_kind};
use crate::target::NODE;

/// The most arguments, the program among them: plugins know a few dozen options.
const ARGUMENTS_MAX: usize = 64;

/// The longest of all arguments together, in bytes: far below what the kernel takes.
const LENGTH_MAX: usize = 4096;

/// A program that is run to ask, and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The program first, an absolute path.
    words: Vec<String>,
}

impl Exec {
    /// The program and its arguments when the node at `node` is judged.
    pub fn fill(&self, node: IpAddr) -> Vec<String> {
        let node = node.to_string();
        let words = self.words.iter();
        words.map(|word| word.replace(NODE, &node)).collect()
    }

    /// As the file writes it, in canonical form: the members of a list.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Whether the question depends on the node that is judged.
    pub(crate) fn names_the_node(&self) -> bool {
        self.words.iter().any(|word| word.contains(NODE))
    }
}

/// Reads the command under `key`.
pub(crate) fn read(key: &'static str, section: &Section<'_>, report: &mut Report) -> Option<Exec> {
    let value = section.value(key)?;
    let help = help(key);
    let words = match value.get_ref() {
        DeValue::String(text) => split(
            &Text {
                value: text,
                span: value.span(),
            },
            &help,
            report,
        )?,
        DeValue::Array(_) => section.texts(key, &help, report)?,
        other => {
            let wanted = "a string or a list of strings";
            refuse_kind(key, wanted, other, value.span(), &help, report);
            return None;
        }
    };
    let span = value.span();
    let length: usize = words.iter().map(|word| word.value.len() + 1).sum();
    if words.len() > ARGUMENTS_MAX || length > LENGTH_MAX {
        let what = format!("{key} is longer than {ARGUMENTS_MAX} words or {LENGTH_MAX} bytes");
        report.refuse(&span, what, "put it into a script");
        return None;
    }
    if let Some(word) = words.iter().find(|word| word.value.contains('\0')) {
        let what = "an argument cannot contain a zero byte";
        report.refuse(&word.span, what, "remove it");
        return None;
    }
    let Some(program) = words.first() else {
        report.refuse(&span, format!("{key} is empty"), help);
        return None;
    };
    if !program.value.starts_with('/') {
        let what = format!("{} is not an absolute path", shown(program.value));
        report.refuse(&program.span, what, help);
        return None;
    }
    if program.value.contains(NODE) {
        let what = format!("{NODE} cannot stand in the path of a program");
        report.refuse(&program.span, what, "put it among the arguments");
        return None;
    }
    for word in &words[1..] {
        warn_of_another_brace(word, report);
    }
    Some(Exec {
        words: words.iter().map(|word| word.value.to_owned()).collect(),
    })
}

/// Braces are ordinary in arguments; a name in them that is almost the one that is replaced is not.
fn warn_of_another_brace(word: &Text<'_>, report: &mut Report) {
    let Some((_, rest)) = word.value.split_once('{') else {
        return;
    };
    let Some((name, _)) = rest.split_once('}') else {
        return;
    };
    let meant = NODE.trim_matches(['{', '}']);
    if name != meant && nearest(name, [meant]).is_some() {
        let what = format!(
            "{} is passed on as it stands",
            shown(&format!("{{{name}}}"))
        );
        report.warn(&word.span, what, format!("did you mean {NODE}?"));
    }
}

fn help(key: &str) -> String {
    match key {
        "nagios" => {
            format!("write for example nagios = \"/usr/lib/nagios/plugins/check_http -H {NODE}\"")
        }
        _ => format!("write for example {key} = [\"/usr/local/bin/is-well\", \"{NODE}\"]"),
    }
}

/// Cuts a string at its blanks. What only a shell understands is refused: it would reach the
/// program as it stands.
fn split<'t>(text: &Text<'t>, help: &str, report: &mut Report) -> Option<Vec<Text<'t>>> {
    if let Some(at) = text
        .value
        .find(['"', '\'', '\\', '|', ';', '&', '<', '>', '`', '$'])
    {
        let place = text.inside(report.source(), at..at + 1);
        let what = "no shell reads this command";
        let list = "write a list, each argument a string of its own";
        report.refuse(&place, what, list);
        return None;
    }
    if text.value.trim().is_empty() {
        report.refuse(&text.span, "the command is empty", help);
        return None;
    }
    let words = text.value.split_whitespace();
    Some(
        words
            .map(|value| Text {
                value,
                span: text.span.clone(),
            })
            .collect(),
    )
}
