//! What makes this machine unfit to run a group's services, found without changing
//! anything. None of it is a fault of the file: another node may be fit.

use std::collections::BTreeMap;
use std::fmt;

use evenkeel_config::{Command, Hosted, Runs};
use evenkeel_core::{GroupName, ServiceName};
use evenkeel_host::run::trusted;
use evenkeel_host::systemd::{Running, Systemd};

/// Everything that is wrong on this machine with what `hosted` runs. Asks systemd if it
/// has to; call it within a tokio runtime, where waiting is allowed.
pub async fn examine(hosted: &Hosted, systemd: &Systemd) -> Vec<String> {
    let mut faults = examine_files(hosted);
    for service in &hosted.services {
        let Runs::Unit(unit) = &service.what else {
            continue;
        };
        match systemd.look(unit).await {
            Ok(state) if state.running() == Running::Missing => {
                faults.push(format!(
                    "service {}: {unit} is {state}: install it, or correct unit",
                    service.name
                ));
            }
            Ok(_) => {}
            Err(error) => faults.push(format!("service {}: failed to {error}", service.name)),
        }
    }
    faults
}

/// Units that are services of these groups by two names: systemd knows that they are one. What it
/// cannot be asked about is left to [`examine`].
pub async fn same_units(all: &[(&GroupName, &Hosted)], systemd: &Systemd) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for (group, hosted) in all {
        for service in &hosted.services {
            let Runs::Unit(unit) = &service.what else {
                continue;
            };
            let Ok(own) = systemd.own_name(unit).await else {
                continue;
            };
            let who = format!("{unit} (service {} of {group})", service.name);
            match seen.get(&own) {
                Some(first) => faults.push(format!(
                    "{who} is {first} by another name: two services would start and stop it \
                     against each other; take one of them out"
                )),
                None => drop(seen.insert(own, who)),
            }
        }
    }
    faults
}

/// Whose a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A service's.
    Service(ServiceName),
    /// A hook's, by its key in the file.
    Hook(&'static str),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service {name}"),
            Self::Hook(name) => write!(f, "hook {name}"),
        }
    }
}

/// The part that only looks at files. Waits for file systems.
pub fn examine_files(hosted: &Hosted) -> Vec<String> {
    let faults = unusable(hosted).into_iter();
    faults
        .map(|(owner, fault)| format!("{owner}: {fault}"))
        .collect()
}

/// The same, each with what it belongs to.
pub fn unusable(hosted: &Hosted) -> Vec<(Owner, String)> {
    let mut faults = Vec::new();
    let mut look = |owner: Owner, command: &Command| {
        if let Some(path) = file_of(command)
            && let Err(fault) = trusted(path)
        {
            faults.push((owner, format!("{path}: {fault}")));
        }
    };
    for service in &hosted.services {
        let (start, others): (_, [Option<&Command>; 2]) = match &service.what {
            Runs::Unit(_) => continue,
            Runs::Foreground { start, status } => (start, [None, status.as_ref()]),
            Runs::Scripts {
                start,
                stop,
                status,
            } => (start, [Some(stop), status.as_ref()]),
        };
        for command in std::iter::once(start).chain(others.into_iter().flatten()) {
            look(Owner::Service(service.name.clone()), command);
        }
    }
    for (name, command) in hosted.hooks.all() {
        look(Owner::Hook(name), command);
    }
    faults
}

/// The file that a command runs, as far as that can be told: of a line for the shell the
/// first word, if it is a plain path.
pub(crate) fn file_of(command: &Command) -> Option<&str> {
    match command {
        Command::Program { path, .. } => Some(path),
        Command::Shell(line) => {
            let word = line.split_ascii_whitespace().next()?;
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
            (word.starts_with('/') && word.chars().all(plain)).then_some(word)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_line_is_its_first_word() {
        let file = |line: &str| file_of(&Command::Shell(line.to_owned())).map(str::to_owned);
        assert_eq!(file("/usr/sbin/app -d"), Some("/usr/sbin/app".into()));
        assert_eq!(file("cd /x && ./y"), None);
        assert_eq!(file("/x;y"), None);
        assert_eq!(file(" "), None);
    }
}
