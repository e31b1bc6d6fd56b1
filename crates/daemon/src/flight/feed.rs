//! `evenkeel replay FILE`: feeds a flight recorder's file into the decision machine of this program.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use evenkeel_core::Moment;
use evenkeel_core::node::{Act, Event};
use evenkeel_core::topology::Topology;
use evenkeel_wire::flight::FORM;
use evenkeel_wire::flight::replay::{Replayed, Told, replay as feed};
use serde_json::Value;

/// The largest file that is read: what the recorder keeps, written out, and as much again.
const FILE_MAX: u64 = 64 << 20;

/// Feeds the machine with what `file` says, and prints what came of it: with `tell` every input but
/// reports and the passing of time, and everything that it wants but reports.
///
/// # Errors
/// The file cannot be read or understood, or this program's machine wants something else.
pub fn replay(file: &Path, tell: bool, to: &mut impl Write) -> anyhow::Result<()> {
    let text = read(file)?;
    let first = text.lines().next().unwrap_or_default();
    let first: Value = serde_json::from_str(first)
        .with_context(|| format!("{} is no file of the flight recorder", file.display()))?;
    let Some(node) = first.get("node") else {
        bail!("{} does not say of which node it is", file.display());
    };
    let form = first.get("form").and_then(Value::as_u64);
    ensure!(
        form == Some(FORM),
        "{} is written in form {form:?}, and this program reads {FORM}: use the version that wrote it",
        file.display()
    );
    let mut begun = None;
    let told = |told: Told<'_>| {
        if tell {
            // Who reads may have gone: what follows is for nobody.
            let _ = write(&mut *to, &mut begun, told);
        }
    };
    let replayed = feed(text.lines(), node, topology, told);
    let replayed = replayed.map_err(anyhow::Error::msg).with_context(|| {
        format!(
            "{}: this program (version {}) does not do the same",
            file.display(),
            env!("CARGO_PKG_VERSION")
        )
    })?;
    ensure!(
        replayed.born + replayed.taken > 0,
        "no machine begins in {}",
        file.display()
    );
    summarise(to, &replayed)?;
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    let failed = || format!("failed to read {}", file.display());
    let mut text = String::new();
    let opened = File::open(file).with_context(failed)?;
    let length = opened
        .take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .with_context(failed)?;
    ensure!(
        length as u64 <= FILE_MAX,
        "{} is larger than {FILE_MAX} bytes",
        file.display()
    );
    Ok(text)
}

fn topology(file: &Value) -> Result<Topology, String> {
    let text = file.as_str().ok_or("there is no configuration in it")?;
    let config = evenkeel_config::parse(text, "the configuration in the file");
    config
        .map(|config| config.topology)
        .map_err(|faults| faults.to_string())
}

fn write(to: &mut impl Write, begun: &mut Option<Moment>, told: Told<'_>) -> io::Result<()> {
    match told {
        Told::Begins(_) => writeln!(to, "begins"),
        Told::Step(now, events) => {
            let since = now.since(*begun.get_or_insert(now)).as_secs_f64();
            let of_weight = |event: &&Event| !matches!(event, Event::Tick | Event::Reported { .. });
            for event in events.iter().filter(of_weight) {
                writeln!(to, "{since:10.3} s  {event:?}")?;
            }
            Ok(())
        }
        Told::Wants(Act::Tell(_)) => Ok(()),
        Told::Wants(act) => writeln!(to, "{:14}{act:?}", ""),
    }
}

fn summarise(to: &mut impl Write, replayed: &Replayed) -> io::Result<()> {
    let Replayed {
        steps,
        acts,
        differing,
        astray,
        ..
    } = replayed;
    writeln!(to, "{steps} steps, {acts} acts the same as on record")?;
    if replayed.taken > 0 {
        writeln!(
            to,
            "{differing} acts differ. The file begins in the middle of a life: what had been counted \
             until then is not known."
        )?;
    }
    for one in astray {
        writeln!(to, "  {one}")?;
    }
    Ok(())
}
