//! What services note below /run for the next worker, as it was written and as it was not.

use std::time::Duration;

use evenkeel_config::Command;
use evenkeel_services::fuzzing::{held, held_back, numbers};

use crate::input::Input;
use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "notes",
    reads: "notes of services below /run (services)",
    seeds,
    judge,
    length_max: 64 * 1024,
    memory: MEMORY,
    memory_per_byte: 128,
    mutants: 30_000,
};

fn seeds() -> Vec<Vec<u8>> {
    let note = |stop| held_back(stop, Duration::from_millis(1500)).0.into_bytes();
    vec![
        note(Command::Shell("kill -TERM \\n | cat\nx".into())),
        note(Command::Program {
            path: "/usr/bin/app".into(),
            arguments: vec!["stop".into(), String::new(), "\\".into()],
        }),
        b"1 unit 1500\napache2.service\n".to_vec(),
        b"1 process 10\n".to_vec(),
        b"1 77 99\n".to_vec(),
    ]
}

fn judge(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        if let Some(written) = held(text) {
            assert_eq!(
                held(&written).as_ref(),
                Some(&written),
                "what is read is written"
            );
        }
        if let Some((first, second)) = numbers(text) {
            assert_eq!(
                numbers(&format!("1 {first} {second}\n")),
                Some((first, second))
            );
        }
    }
    // And whatever a command of the file is, it is found again as it was.
    let mut input = Input(input);
    let stop_timeout = Duration::from_millis(u64::from(input.short()));
    let mut words = Vec::new();
    let shell = input.below(2) == 0;
    while !input.is_over() {
        let length = usize::from(input.byte());
        words.push(String::from_utf8_lossy(input.take(length)).into_owned());
    }
    let mut words = words.into_iter();
    let first = words.next().unwrap_or_default();
    let stop = match shell {
        true => Command::Shell(first),
        false => Command::Program {
            path: first,
            arguments: words.collect(),
        },
    };
    let (note, same) = held_back(stop.clone(), stop_timeout);
    assert!(
        same,
        "{stop:?} is noted as {note:?} and read as something else"
    );
}
