//! `evenkeel-fuzz`: the targets by hand. See the library.
//!
//! ```text
//! evenkeel-fuzz list                            names, and what each reads
//! evenkeel-fuzz seeds DIR                       writes the seeds of each target to DIR/NAME
//! evenkeel-fuzz run SECONDS [NAME...]           mutants by chance, so long for each target
//! evenkeel-fuzz one NAME FILE...                judges these inputs
//! ```

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evenkeel_fuzz::{Mutator, TARGETS, Target, attend, attend_or_keep, target};

/// Mutants between two looks at the clock.
const TURN: u32 = 16;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["list"] => list(),
        ["seeds", place] => seeds(Path::new(place)),
        ["run", seconds, names @ ..] => run(seconds, names),
        ["one", name, files @ ..] => one(name, files),
        _ => Err(
            "usage: evenkeel-fuzz list | seeds DIR | run SECONDS [NAME...] | one NAME FILE..."
                .to_owned(),
        ),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("evenkeel-fuzz: {why}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<(), String> {
    for target in TARGETS {
        println!("{:<20} {}", target.name, target.reads);
    }
    Ok(())
}

fn seeds(place: &Path) -> Result<(), String> {
    for target in TARGETS {
        let place = place.join(target.name);
        fs::create_dir_all(&place).map_err(|error| error.to_string())?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            let path = place.join(format!("seed-{number:02}"));
            fs::write(path, seed).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn found(name: &str) -> Result<&'static Target, String> {
    target(name).ok_or_else(|| format!("no target {name}: `evenkeel-fuzz list` names them"))
}

fn run(seconds: &str, names: &[&str]) -> Result<(), String> {
    let seconds = seconds
        .parse()
        .map_err(|_| format!("{seconds} is no number of seconds"))?;
    let chosen = match names {
        [] => TARGETS.iter().collect(),
        names => names
            .iter()
            .map(|name| found(name))
            .collect::<Result<Vec<_>, _>>()?,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = now.map_or(0, |now| now.as_nanos() as u64);
    for target in chosen {
        let begun = Instant::now();
        let mut mutator = Mutator::new((target.seeds)(), target.length_max, seed);
        let mut judged = 0_u64;
        while begun.elapsed() < Duration::from_secs(seconds) {
            for _ in 0..TURN {
                attend_or_keep(target, &mutator.mutant());
            }
            judged += u64::from(TURN);
        }
        println!(
            "{:<20} {judged} inputs, nothing found (seed {seed})",
            target.name
        );
    }
    Ok(())
}

fn one(name: &str, files: &[&str]) -> Result<(), String> {
    let target = found(name)?;
    for file in files {
        let input = fs::read(file).map_err(|error| format!("{file}: {error}"))?;
        attend(target, &input);
        println!("{name}: {file}: holds");
    }
    Ok(())
}
