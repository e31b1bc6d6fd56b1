//! The configuration file: any text, and any bytes in its place.

use evenkeel_config::{Faults, load, parse};

use crate::{MEMORY, Target, place, values};

pub(crate) const TARGET: Target = Target {
    name: "config",
    reads: "the configuration file (config check, start, reload)",
    seeds,
    judge,
    length_max: 64 * 1024,
    // Each of a hundred faults is rendered with its lines of the file, which may be the whole of it.
    memory: 2 * MEMORY,
    memory_per_byte: 2048,
    mutants: 1_500,
};

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [values::FILE, values::THREE_MACHINES]
        .map(|text| text.as_bytes().to_vec())
        .into();
    // The same again with all that is left out, as it is written by the program itself.
    for text in [values::FILE, values::THREE_MACHINES] {
        let config = parse(text, "seed").unwrap_or_else(|faults| panic!("a good file: {faults}"));
        seeds.push(config.effective().into_bytes());
    }
    seeds
}

fn judge(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        let dir = place::directory();
        let path = dir.path().join("file");
        std::fs::write(&path, input).expect("written");
        assert!(load(&path).is_err(), "what is no text is used");
        return;
    };
    let faults = match parse(text, "f") {
        Ok(config) => {
            let again = parse(&config.effective(), "again");
            let again =
                again.unwrap_or_else(|faults| panic!("its own words are refused: {faults}"));
            assert_eq!(
                again.digest, config.digest,
                "its own words mean something else"
            );
            assert_eq!(again.topology.membership(), config.topology.membership());
            config.warnings
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            faults
        }
    };
    places(text, &faults);
}

/// Every fault points into the text.
fn places(text: &str, faults: &Faults) {
    for fault in faults {
        let span = fault.span().expect("every fault of a text has a place");
        assert!(text.get(span).is_some(), "{fault}");
        let place = fault
            .place
            .as_ref()
            .expect("every fault of a text has a place");
        let line = text.split('\n').nth(place.line - 1);
        assert!(line.is_some(), "{fault}: there is no such line");
        assert!(!fault.help.is_empty(), "{fault}");
    }
    let shown = faults.render(false);
    assert!(faults.is_empty() || !shown.is_empty());
}
