//! What plugins of Nagios, and any other program that is run to ask, may print.

use evenkeel_checks::DETAIL_LENGTH_MAX;
use evenkeel_checks::fuzzing::{line, nagios};
use evenkeel_checks::machine::Outcome;

use crate::input::Input;
use crate::{MEMORY, Target};

pub(crate) const TARGET: Target = Target {
    name: "nagios",
    reads: "output of plugins with its measures, and lines of any program (checks)",
    seeds,
    judge,
    // What is kept of a program's output.
    length_max: 16 * 1024,
    memory: MEMORY,
    memory_per_byte: 256,
    mutants: 20_000,
};

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "OK | time=0.006s;;;0.0;10 size=612B;;;0\nlong | text 'a b'=5%;80;90\n/var=7MB",
        "PING|rta=0,05ms;100,0 'it''s=so'=-3 x=U y= =4 z=nan w=1e3x v=+2c",
        "no bar at all\nnone",
    ];
    let seed = |text: &str| [&[0][..], text.as_bytes()].concat();
    texts.map(seed).into()
}

fn judge(input: &[u8]) {
    let mut input = Input(input);
    let status = i32::from(input.below(6));
    let (outcome, detail, measures) = nagios(status, input.0);
    let expected = match status {
        0 | 1 => Outcome::Good,
        2 => Outcome::Bad,
        _ => Outcome::Unasked,
    };
    assert_eq!(
        outcome, expected,
        "the status decides, and nothing that is printed"
    );
    let printable = |text: &str| !text.chars().any(char::is_control);
    assert!(
        detail.len() <= DETAIL_LENGTH_MAX && printable(&detail),
        "{detail:?}"
    );
    assert!(measures.len() <= 32);
    for measure in &measures {
        assert!((1..=64).contains(&measure.label.len()) && printable(&measure.label));
        assert!(measure.unit.len() <= 16 && printable(&measure.unit));
        assert!(measure.value.is_none_or(f64::is_finite), "{measure:?}");
    }
    let line = line(&String::from_utf8_lossy(input.0));
    assert!(line.len() <= DETAIL_LENGTH_MAX && printable(&line));
}
