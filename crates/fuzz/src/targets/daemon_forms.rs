//! What parent, workers and other programs of this machine say to each other, in JSON.

use evenkeel_daemon::fuzzing::{FORMS, own_forms};

use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "daemon_forms",
    reads: "questions of workers, boards of parents, answers of other programs (daemon)",
    seeds,
    judge,
    length_max: 64 * 1024,
    memory: MEMORY,
    memory_per_byte: 64,
    mutants: 20_000,
};

fn seeds() -> Vec<Vec<u8>> {
    let board = r#"{"outcomes":[{"id":7,"what":"reload","state":"refused","at":"2026-11-27T00:00:00Z","text":"no"}]}"#;
    let ask = r#"{"id":7,"what":"check","digest":"00ff"}"#;
    let all = [
        ask.as_bytes().to_vec(),
        board.as_bytes().to_vec(),
        own_forms(),
    ];
    let numbered = (0..).zip(all);
    numbered
        .map(|(form, bytes)| [&[form][..], &bytes].concat())
        .collect()
}

fn judge(input: &[u8]) {
    let Some((form, bytes)) = input.split_first() else {
        return;
    };
    let (name, again) = FORMS[usize::from(*form) % FORMS.len()];
    if let Some(written) = again(bytes) {
        assert_eq!(
            again(&written),
            Some(written.clone()),
            "{name}: what is read is written"
        );
    }
}
