//! `process = "apache2"` and what refines it: pidfile.

use std::path::PathBuf;

use crate::fault::{Report, shown};
use crate::section::Section;

/// The longest name that the kernel keeps of a process, in bytes (`TASK_COMM_LEN` less the zero
/// byte, `proc_pid_comm(5)`).
const NAME_LENGTH_MAX: usize = 15;

const HELP: &str = "write the name as in /proc/PID/comm, for example process = \"apache2\"";

/// A process that must run on the judged node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its name, as in `/proc/PID/comm`.
    pub name: String,
    /// The file with its number; else every process of that name is meant.
    pub pidfile: Option<PathBuf>,
}

/// Reads the question.
pub(crate) fn read(section: &Section<'_>, report: &mut Report) -> Option<Process> {
    let text = section.text_with("process", HELP, report)?;
    let pidfile = read_pidfile(section, report);
    let name = text.value;
    if name.is_empty() || name.contains(['/', '\0', '\n']) {
        let what = format!("{} is not the name of a process", shown(name));
        report.refuse(&text.span, what, HELP);
        return None;
    }
    if name.len() > NAME_LENGTH_MAX {
        let kept = (0..=NAME_LENGTH_MAX)
            .rev()
            .find(|end| name.is_char_boundary(*end))
            .unwrap_or_default();
        let what = format!("the kernel keeps {NAME_LENGTH_MAX} bytes of a name");
        report.refuse(&text.span, what, format!("write {:?}", &name[..kept]));
        return None;
    }
    Some(Process {
        name: name.to_owned(),
        pidfile,
    })
}

fn read_pidfile(section: &Section<'_>, report: &mut Report) -> Option<PathBuf> {
    let help = "write the whole path, as in \"/run/apache2/apache2.pid\"";
    let text = section.text_with("pidfile", help, report)?;
    if !text.value.starts_with('/') || text.value.contains('\0') {
        let what = format!("{} is not an absolute path", shown(text.value));
        report.refuse(&text.span, what, help);
        return None;
    }
    Some(text.value.into())
}
