//! What a plugin of Nagios says (Monitoring Plugins Development Guidelines): its status, the
//! text of its first line, and measures after a bar.
//!
//! Measures are `'label'=value[unit];[warning];[critical];[min];[max]`, separated by blanks.
//! Plugins take liberties with that form: what is not understood is left out, and never makes
//! an answer worse.

use crate::io::Answer;
use crate::machine::Outcome;
use crate::probe::{Measure, bounded};

/// Measures kept of one answer, and the longest label and unit, in bytes: what a page shows.
const MEASURES_MAX: usize = 32;
const LABEL_LENGTH_MAX: usize = 64;
const UNIT_LENGTH_MAX: usize = 16;

/// What an answer means.
pub(crate) fn judge(status: i32, output: &[u8]) -> Answer {
    let text = text(output);
    let (outcome, word) = match status {
        0 => (Outcome::Good, "ok".to_owned()),
        1 => (Outcome::Good, "warning".to_owned()),
        2 => (Outcome::Bad, "critical".to_owned()),
        3 => (Outcome::Unasked, "the plugin does not know".to_owned()),
        other => {
            let word = format!("the plugin ended with status {other}, which means nothing");
            (Outcome::Unasked, word)
        }
    };
    let detail = match text.as_str() {
        "" => word,
        text => format!("{word}: {text}"),
    };
    Answer {
        measures: measures(output),
        ..Answer::new(outcome, bounded(&detail))
    }
}

/// The text of the first line.
pub(crate) fn text(output: &[u8]) -> String {
    let output = String::from_utf8_lossy(output);
    let line = output.lines().next().unwrap_or_default();
    let text = line.split('|').next().unwrap_or_default();
    bounded(text.trim())
}

/// The measures after the bar of the first line, and after that of the long text.
fn measures(output: &[u8]) -> Vec<Measure> {
    let output = String::from_utf8_lossy(output);
    let (first, rest) = output.split_once('\n').unwrap_or((&output, ""));
    let behind = |text: &str| {
        text.split_once('|')
            .map_or_else(String::new, |(_, behind)| behind.replace('|', " "))
    };
    let mut found = Vec::new();
    for text in [behind(first), behind(rest)] {
        for word in words(&text) {
            if found.len() == MEASURES_MAX {
                return found;
            }
            found.extend(measure(&word));
        }
    }
    found
}

/// Words between blanks, of which those in single quotes are none; a doubled quote is one.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            '\'' if quoted && signs.peek() == Some(&'\'') => word.extend(signs.next()),
            '\'' => quoted = !quoted,
            sign if sign.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            sign => word.push(sign),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn measure(word: &str) -> Option<Measure> {
    // A label in quotes may contain the sign.
    let (label, behind) = word.rsplit_once('=')?;
    let value = behind.split(';').next().unwrap_or_default();
    let end = value
        .find(|c: char| !(c.is_ascii_digit() || "+-.,".contains(c)))
        .unwrap_or(value.len());
    let (number, unit) = value.split_at(end);
    let value = match (number, unit) {
        ("", "U") => None,
        // Some write as their language does. More digits than any measure has are no number.
        (number, _) => {
            let value = number.replace(',', ".").parse::<f64>();
            Some(value.ok().filter(|value| value.is_finite())?)
        }
    };
    let unit = if value.is_none() { "" } else { unit };
    let fits = (1..=LABEL_LENGTH_MAX).contains(&label.len()) && unit.len() <= UNIT_LENGTH_MAX;
    fits.then(|| Measure {
        label: bounded(label),
        value,
        unit: bounded(unit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(output: &str) -> Vec<String> {
        let one = |measure: Measure| {
            let value = measure
                .value
                .map_or("?".to_owned(), |value| value.to_string());
            format!("{}={value}{}", measure.label, measure.unit)
        };
        measures(output.as_bytes()).into_iter().map(one).collect()
    }

    #[test]
    fn statuses_mean_what_the_guidelines_say() {
        let check = |status, outcome, detail: &str| {
            let answer = judge(status, b"HTTP OK: 200 | time=0.1s\nlong\n");
            assert_eq!((answer.outcome, answer.detail.as_str()), (outcome, detail));
            assert_eq!(answer.measures.len(), 1);
        };
        check(0, Outcome::Good, "ok: HTTP OK: 200");
        check(1, Outcome::Good, "warning: HTTP OK: 200");
        check(2, Outcome::Bad, "critical: HTTP OK: 200");
        check(
            3,
            Outcome::Unasked,
            "the plugin does not know: HTTP OK: 200",
        );
        let odd = "the plugin ended with status 77, which means nothing: HTTP OK: 200";
        check(77, Outcome::Unasked, odd);
        assert_eq!(judge(0, b"").detail, "ok");
    }

    #[test]
    fn measures_are_read_leniently() {
        assert_eq!(
            shown("OK | time=0.006s;;;0.0;10 size=612B;;;0\nlong | text 'a b'=5%;80;90\n/var=7MB"),
            ["time=0.006s", "size=612B", "a b=5%", "/var=7MB"]
        );
        assert_eq!(
            shown("PING|rta=0,05ms;100,0 'it''s=so'=-3 x=U y= =4 z=nan w=1e3x v=+2c"),
            ["rta=0.05ms", "it's=so=-3", "x=?", "w=1e3x", "v=2c"]
        );
        // So many digits are endless to a computer, which JSON cannot say.
        assert_eq!(shown(&format!("|a={} b=1", "9".repeat(400))), ["b=1"]);
        assert_eq!(shown("no bar at all\nnone"), [""; 0]);
        assert_eq!(shown("| 'open=1 b=2"), ["open=1 b=2"]);
    }

    #[test]
    fn measures_are_bounded() {
        let many = format!("|{}", "a=1 ".repeat(1000));
        assert_eq!(shown(&many).len(), MEASURES_MAX);
        assert_eq!(shown(&format!("|{}=1", "a".repeat(65))), [""; 0]);
        assert_eq!(measures(&[b'|', 0xff, b'=', b'1']).len(), 1);
    }
}
