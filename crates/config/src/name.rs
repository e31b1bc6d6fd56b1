//! Names of nodes, groups and checks as keys of the file.

use evenkeel_core::names::NameFault;

use crate::fault::{Report, shown};
use crate::section::Text;
use crate::source::Span;

/// The name that `text` is, made by the word's own constructor; `word` is what it names.
pub(crate) fn read<N>(
    word: &str,
    text: &Text<'_>,
    make: fn(&str) -> Result<N, NameFault>,
    report: &mut Report,
) -> Option<N> {
    match make(text.value) {
        Ok(name) => Some(name),
        Err(fault) => {
            let what = format!("{} is not a name: {fault}", shown(text.value));
            report.refuse(
                &text.span,
                what,
                format!("choose another name for the {word}"),
            );
            None
        }
    }
}

/// Two names that are one number inside messages and the log.
pub(crate) fn refuse_collision(
    word: &str,
    name: &str,
    span: &Span,
    other: (&str, &Span),
    report: &mut Report,
) {
    let what = format!(
        "the {word}s {name:?} and {:?} have the same identity",
        other.0
    );
    let help = format!("rename one of them: {word}s are known by a hash of their name");
    report
        .refuse(span, what, help)
        .also(other.1, "the other one");
}
