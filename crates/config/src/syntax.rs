//! What is wrong with a file before it is TOML at all.

use toml::de::Error;

use crate::fault::{Report, shown};
use crate::source::Span;

/// Refuses the file for its syntax: one fault per line, and none after one that makes the
/// parser lose its way (an array that is not closed swallows the rest of the file).
pub(crate) fn refuse(errors: &[Error], report: &mut Report) {
    let mut errors: Vec<(Span, &str)> = errors
        .iter()
        .map(|error| (error.span().unwrap_or(0..0), error.message()))
        .collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut line_before = None;
    for (span, message) in errors {
        let line = report.source().line(span.start);
        if line_before == Some(line) {
            continue;
        }
        line_before = Some(line);
        refuse_one(&span, message, report);
        if message.contains("unclosed") || message.contains("missing comma") {
            break;
        }
    }
}

/// Whether the value around `at` is a text that somebody forgot to quote: what the parser
/// then says is about numbers, dates or booleans.
fn unquoted(text: &str, at: usize) -> bool {
    let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..];
    let line = line.lines().next().unwrap_or_default();
    let value = line
        .split_once('=')
        .map_or("", |(_, value)| value.trim_start_matches([' ', '\t', '[']));
    let value = value
        .split(['#', ',', ']'])
        .next()
        .unwrap_or_default()
        .trim();
    let letters = value
        .chars()
        .any(|c| c.is_ascii_alphabetic() || c == ':' || c == '/');
    letters && !value.contains(['"', '\''])
}

fn refuse_one(span: &Span, message: &str, report: &mut Report) {
    let (what, expected) = match message.split_once(", expected ") {
        Some((what, expected)) => (what, Some(expected)),
        None => (message, None),
    };
    let found = report.source().text().get(span.clone()).unwrap_or_default();
    let help = match what {
        "duplicate key" => format!(
            "{} stands here a second time: remove one of them",
            shown(found)
        ),
        "string values must be quoted" => format!("write {}", shown(found)),
        _ if unquoted(report.source().text(), span.start) => {
            "a text stands in quotes, as in drain = \"2s\"".into()
        }
        _ => match expected {
            Some(expected) if expected != "nothing" => format!("expected here: {expected}"),
            Some(_) | None => "https://toml.io/en/v1.1.0 describes the format".into(),
        },
    };
    report.refuse(span, format!("this is not TOML: {what}"), help);
}
