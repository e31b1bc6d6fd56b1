//! What makes this machine unfit to run a group's services, found without changing
//! anything. None of it is a fault of the file: another node may be fit.

use evenkeel_config::{Command, Hosted, Runs};
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

/// The part that only looks at files. Waits for file systems.
pub fn examine_files(hosted: &Hosted) -> Vec<String> {
    let mut faults = Vec::new();
    let mut look = |whose: String, command: &Command| {
        if let Some(path) = file_of(command)
            && let Err(fault) = trusted(path)
        {
            faults.push(format!("{whose}: {path}: {fault}"));
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
            look(format!("service {}", service.name), command);
        }
    }
    for (name, command) in hosted.hooks.all() {
        look(format!("hook {name}"), command);
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
