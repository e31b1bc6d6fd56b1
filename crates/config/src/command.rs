//! Commands of the administrator: a line for the shell, or a program with arguments.

use toml::de::DeValue;

use crate::fault::{Report, shown};
use crate::section::{Section, Text, refuse_kind};
use crate::source::Span;

/// The longest command, all arguments together, in bytes. Longer ones belong in a file.
pub const COMMAND_LENGTH_MAX: usize = 4_096;

/// Arguments of one command. Longer lists belong in a file.
pub const ARGUMENTS_MAX: usize = 64;

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    /// A line for `/bin/sh -c`.
    Shell(String),
    /// A program by its absolute path, with arguments; no shell.
    Program {
        /// The file.
        path: String,
        /// What follows its name.
        arguments: Vec<String>,
    },
}

/// What a string in quotes is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strings {
    /// A line for the shell.
    Lines,
    /// The path of a program.
    Paths,
}

/// Reads the command under `key`, if anything stands there.
pub(crate) fn read(
    section: &Section<'_>,
    key: &str,
    strings: Strings,
    report: &mut Report,
) -> Option<Command> {
    let help = match strings {
        Strings::Lines => format!(
            "write a line for the shell, as in {key} = \"/usr/sbin/app --config /etc/app\", \
             or a list, as in {key} = [\"/usr/sbin/app\", \"--config\", \"/etc/app\"]"
        ),
        Strings::Paths => format!(
            "write the path of a program, as in {key} = \"/etc/evenkeel/hook\", or a list with \
             its arguments"
        ),
    };
    let value = section.value(key)?;
    let span = value.span();
    match (value.get_ref(), strings) {
        (DeValue::String(line), Strings::Lines) => {
            judge(key, &span, &[line], report)?;
            Some(Command::Shell(line.to_string()))
        }
        (DeValue::String(path), Strings::Paths) => {
            judge(key, &span, &[path], report)?;
            if path.contains(char::is_whitespace) {
                let what = format!("{} has blanks in it, and no shell reads it", shown(path));
                let help = format!("write a list, as in {key} = [\"/etc/evenkeel/hook\", \"now\"]");
                report.refuse(&span, what, help);
                return None;
            }
            judge_path(&Text { value: path, span }, report)?;
            Some(Command::Program {
                path: path.to_string(),
                arguments: Vec::new(),
            })
        }
        (DeValue::Array(members), _) => {
            let texts =
                section.texts(key, &format!("{key} = [\"/usr/sbin/app\", \"-d\"]"), report)?;
            let values: Vec<&str> = texts.iter().map(|text| text.value).collect();
            judge(key, &span, &values, report)?;
            let path = texts.first()?;
            judge_path(path, report)?;
            // A member that is no string has been refused.
            (texts.len() == members.len()).then(|| Command::Program {
                path: path.value.to_owned(),
                arguments: values[1..].iter().map(|one| (*one).to_owned()).collect(),
            })
        }
        (other, _) => {
            refuse_kind(
                key,
                "a string or a list of strings",
                other,
                span,
                &help,
                report,
            );
            None
        }
    }
}

/// Looks at the size of a command, and for what cannot be passed to a program.
fn judge(key: &str, span: &Span, parts: &[&str], report: &mut Report) -> Option<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let (what, help) = if parts.first().is_none_or(|first| first.trim().is_empty()) {
        (
            format!("{key} runs nothing"),
            "name a program, or remove it",
        )
    } else if parts.len() > ARGUMENTS_MAX || length > COMMAND_LENGTH_MAX {
        let what =
            format!("{key} is longer than {COMMAND_LENGTH_MAX} bytes or {ARGUMENTS_MAX} parts");
        (what, "put it into a script")
    } else if parts.iter().any(|part| part.contains('\0')) {
        let what = format!("{key} contains a null byte, which no program can be told");
        (what, "remove it")
    } else {
        return Some(());
    };
    report.refuse(span, what, help);
    None
}

fn judge_path(path: &Text<'_>, report: &mut Report) -> Option<()> {
    if path.value.starts_with('/') {
        return Some(());
    }
    let what = format!("{} is not an absolute path", shown(path.value));
    report.refuse(&path.span, what, "write the whole path, from / on");
    None
}
