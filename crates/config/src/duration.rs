//! Spans of time: `"50ms"`, `"1.5 s"`, `"1h30m"`.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::fault::{Report, shown};
use crate::section::{Section, Text};
use crate::source::Span;

/// The units, greatest first, with their nanoseconds.
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400 * SECOND),
    ("h", 3_600 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
];
const SECOND: u64 = 1_000_000_000;

/// No text of a time is longer, in bytes.
const LENGTH_MAX: usize = 64;

const UNITS_HELP: &str = "write a number and a unit, as in \"50ms\", \"1.5s\", \"10m\" or \"1h30m\" (units: us, ms, s, m, h, d)";

/// Why a text is no time; the bytes of the text that are wrong come with it.
type Wrong = (std::ops::Range<usize>, String);

/// Reads the time under `key`, if there is one.
pub(crate) fn read(
    section: &Section<'_>,
    key: &str,
    bounds: RangeInclusive<Duration>,
    report: &mut Report,
) -> Option<(Duration, Span)> {
    let text = section.text_with(key, UNITS_HELP, report)?;
    let time = parse_within(key, &text, bounds, report)?;
    Some((time, text.span))
}

/// Reads the time that `text` says; `name` is what it is called in messages.
pub(crate) fn parse_within(
    name: &str,
    text: &Text<'_>,
    bounds: RangeInclusive<Duration>,
    report: &mut Report,
) -> Option<Duration> {
    let time = match parse(text.value) {
        Ok(time) => time,
        Err((part, what)) => {
            let place = text.inside(report.source(), part);
            report.refuse(&place, what, UNITS_HELP);
            return None;
        }
    };
    if time < *bounds.start() {
        let least = show(*bounds.start());
        report.refuse(
            &text.span,
            format!("{name} = {} is too short", show(time)),
            format!("the shortest {name} is {least}"),
        );
        return None;
    }
    if time > *bounds.end() {
        let most = show(*bounds.end());
        report.refuse(
            &text.span,
            format!("{name} = {} is too long", show(time)),
            format!("the longest {name} is {most}"),
        );
        return None;
    }
    Some(time)
}

/// Reads a time that stands alone, as on a command line: `1h30m`.
///
/// # Errors
///
/// What is wrong with the text, and how a time is written.
pub fn time(text: &str) -> Result<Duration, String> {
    parse(text).map_err(|(_, what)| format!("{what}: {UNITS_HELP}"))
}

/// The time that `text` says: numbers with units, each unit once, greatest first.
pub(crate) fn parse(text: &str) -> Result<Duration, Wrong> {
    if text.trim().is_empty() || text.len() > LENGTH_MAX {
        return Err((0..text.len(), format!("{} is not a time", shown(text))));
    }
    let mut at = skip_blanks(text, 0);
    let mut sum: u64 = 0;
    let mut units_left = &UNITS[..];
    while at < text.len() {
        let start = at;
        let (number, digits) = leading(&text[at..], |c| c.is_ascii_digit() || c == '.');
        if number.is_empty() {
            return Err((at..text.len(), format!("{} is not a time", shown(text))));
        }
        at = skip_blanks(text, at + digits);
        let (unit, letters) = leading(&text[at..], |c| !c.is_ascii_digit() && !c.is_whitespace());
        if unit.is_empty() {
            return Err((start..start + digits, format!("{number} has no unit")));
        }
        let place = at..at + letters;
        at = skip_blanks(text, at + letters);
        let Some(known) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err((place, format!("{unit:?} is no unit of time")));
        };
        let Some(position) = units_left.iter().position(|(name, _)| *name == unit) else {
            return Err((
                place,
                format!("{unit:?} stands after a smaller or equal unit"),
            ));
        };
        units_left = &units_left[position + 1..];
        let more = scaled(number, known.1);
        sum = more.and_then(|more| sum.checked_add(more)).ok_or_else(|| {
            (
                start..start + digits,
                format!("{number} is no number that fits"),
            )
        })?;
    }
    Ok(Duration::from_nanos(sum))
}

/// `number` (digits with at most one point) times `unit`, if it is one and fits.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    // More decimals than this are below a nanosecond.
    const DECIMALS_MAX: usize = 9;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let decimals_fit = !decimals.is_empty() && decimals.len() <= DECIMALS_MAX;
    if whole.is_empty() || !decimals_fit || decimals.contains('.') {
        return None;
    }
    let part = u128::from(decimals.parse::<u64>().ok()?) * u128::from(unit);
    let part = part / 10_u128.pow(u32::try_from(decimals.len()).ok()?);
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    whole.checked_add(u64::try_from(part).ok()?)
}

fn leading(text: &str, belongs: impl Fn(char) -> bool) -> (&str, usize) {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    (&text[..end], end)
}

fn skip_blanks(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start().len()
}

/// A time as the file writes it; reads back as the same time if it is whole microseconds.
pub(crate) fn show(time: Duration) -> String {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (name, unit) = UNITS[4..]
        .iter()
        .find(|(_, unit)| nanos % SECOND != 0 && nanos % unit == 0)
        .copied()
        .unwrap_or(("s", SECOND));
    if name != "s" || nanos == 0 {
        return format!("{}{name}", nanos / unit);
    }
    let mut rest = nanos;
    let mut text = String::new();
    for (name, unit) in &UNITS[..4] {
        if rest / unit > 0 {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn millis(text: &str) -> u128 {
        parse(text)
            .unwrap_or_else(|wrong| panic!("{text:?}: {wrong:?}"))
            .as_millis()
    }

    #[test]
    fn times_read_as_people_write_them() {
        assert_eq!(millis("50ms"), 50);
        assert_eq!(millis("1s"), 1_000);
        assert_eq!(millis("1.5 s"), 1_500);
        assert_eq!(millis("0.25s"), 250);
        assert_eq!(millis("10m"), 600_000);
        assert_eq!(millis("1h30m"), 5_400_000);
        assert_eq!(millis(" 1 h 30 m "), 5_400_000);
        assert_eq!(millis("2d"), 172_800_000);
        assert_eq!(millis("0s"), 0);
        assert_eq!(parse("500us"), Ok(Duration::from_micros(500)));
    }

    #[test]
    fn a_time_that_stands_alone_is_read_or_explained() {
        assert_eq!(time("1h"), Ok(Duration::from_secs(3600)));
        let wrong = time("soon").expect_err("no time");
        assert!(wrong.contains("is not a time: write a number"), "{wrong}");
    }

    #[test]
    fn what_is_no_time_is_pointed_at() {
        let wrong = |text: &str| parse(text).expect_err(text);
        assert_eq!(wrong(""), (0..0, "\"\" is not a time".into()));
        assert_eq!(wrong("soon"), (0..4, "\"soon\" is not a time".into()));
        assert_eq!(wrong("50"), (0..2, "50 has no unit".into()));
        assert_eq!(wrong("1m 30"), (3..5, "30 has no unit".into()));
        assert_eq!(wrong("5 sec"), (2..5, "\"sec\" is no unit of time".into()));
        assert_eq!(wrong("5 µs"), (2..5, "\"µs\" is no unit of time".into()));
        assert_eq!(
            wrong("30m1h"),
            (4..5, "\"h\" stands after a smaller or equal unit".into())
        );
        assert_eq!(
            wrong("1s1s"),
            (3..4, "\"s\" stands after a smaller or equal unit".into())
        );
        assert_eq!(wrong("-1s"), (0..3, "\"-1s\" is not a time".into()));
        assert_eq!(wrong("1..5s"), (0..4, "1..5 is no number that fits".into()));
        assert_eq!(wrong(".5s"), (0..2, ".5 is no number that fits".into()));
        assert_eq!(wrong("5.s"), (0..2, "5. is no number that fits".into()));
        assert_eq!(
            wrong("99999999999999d"),
            (0..14, "99999999999999 is no number that fits".into())
        );
        assert!(parse(&"1s".repeat(100)).is_err());
    }

    #[test]
    fn times_are_shown_in_the_greatest_fitting_unit() {
        let shows = |nanos, text: &str| assert_eq!(show(Duration::from_nanos(nanos)), text);
        shows(0, "0s");
        shows(1_000, "1us");
        shows(8_000_000, "8ms");
        shows(1_500_000_000, "1500ms");
        shows(5_400 * SECOND, "1h30m");
        shows(90_061 * SECOND, "1d1h1m1s");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(micros in 0..u64::MAX / 2_000) {
            let time = Duration::from_micros(micros);
            prop_assert_eq!(parse(&show(time)), Ok(time));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-zµ. ]{0,12}") {
            if let Err((part, _)) = parse(&text) {
                prop_assert!(text.get(part).is_some());
            }
        }
    }
}
