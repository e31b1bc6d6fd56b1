//! Processes: their lines in `/proc`, in which they say their own names.

use evenkeel_host::fuzzing::start_of;

use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "process",
    reads: "stat lines of processes with any name (services, checks)",
    seeds,
    judge,
    length_max: 4096,
    memory: MEMORY,
    memory_per_byte: 64,
    mutants: 30_000,
};

/// When it was started.
const START: u64 = 987_654;
/// The longest name that the kernel shows (`TASK_COMM_LEN`, with what workers add).
const NAME_MAX: usize = 64;

fn line(name: &str) -> String {
    let before: Vec<String> = (4..22).map(|field| field.to_string()).collect();
    format!("77 ({name}) S {} {START} 23 24\n", before.join(" "))
}

fn seeds() -> Vec<Vec<u8>> {
    ["apache2", "a) S 1 (b", ")", "(sd-pam)", ""]
        .map(|name| line(name).into_bytes())
        .into()
}

fn judge(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = start_of(&text);
    // Whatever it calls itself, it was started when it was started.
    let name: String = text.chars().take(NAME_MAX).filter(|c| *c != '\n').collect();
    assert_eq!(start_of(&line(&name)), Some(START), "{name:?}");
}
