//! Which answers of a web server are good: `"200-399"`, `"200, 204, 301-302"`.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use crate::fault::shown;

/// The codes that an answer can have (RFC 9110 15, five classes).
const CODES: RangeInclusive<u16> = 100..=599;

/// More members than this are a mistake.
const MEMBERS_MAX: usize = 64;

/// A set of status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet {
    /// In order, apart from one another.
    ranges: Vec<RangeInclusive<u16>>,
}

impl Default for StatusSet {
    /// Success and redirection.
    fn default() -> Self {
        Self {
            ranges: vec![200..=399],
        }
    }
}

impl StatusSet {
    /// Whether an answer with this code is good.
    pub fn contains(&self, code: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(&code))
    }

    /// Reads a set; a fault is the bytes that are wrong and what is wrong with them.
    pub(crate) fn parse(text: &str) -> Result<Self, (Range<usize>, String)> {
        let mut ranges = Vec::new();
        let mut at = 0;
        for member in text.split(',') {
            let start = at + (member.len() - member.trim_start().len());
            let place = start..(start + member.trim().len());
            ranges.push(parse_member(member.trim()).map_err(|what| (place, what))?);
            at += member.len() + 1;
        }
        if ranges.len() > MEMBERS_MAX {
            return Err((
                0..text.len(),
                format!("{} members are too many", ranges.len()),
            ));
        }
        Ok(Self {
            ranges: merged(ranges),
        })
    }
}

fn parse_member(member: &str) -> Result<RangeInclusive<u16>, String> {
    let code = |text: &str| {
        let text = text.trim();
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        let code = text
            .parse::<u16>()
            .ok()
            .filter(|code| digits && CODES.contains(code));
        code.ok_or_else(|| format!("{} is no status code", shown(text)))
    };
    let (first, last) = member.split_once('-').unwrap_or((member, member));
    let (first, last) = (code(first)?, code(last)?);
    if first > last {
        return Err(format!("{first}-{last} goes downwards"));
    }
    Ok(first..=last)
}

fn merged(mut ranges: Vec<RangeInclusive<u16>>) -> Vec<RangeInclusive<u16>> {
    ranges.sort_by_key(|range| *range.start());
    let mut apart: Vec<RangeInclusive<u16>> = Vec::new();
    for range in ranges {
        match apart.last_mut() {
            Some(last) if *range.start() <= last.end() + 1 => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            Some(_) | None => apart.push(range),
        }
    }
    apart
}

/// The canonical text; reads back as the same set.
impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.ranges.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            match range.start() == range.end() {
                true => write!(f, "{comma}{}", range.start())?,
                false => write!(f, "{comma}{}-{}", range.start(), range.end())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_read_as_people_write_them() {
        let reads = |text: &str, canonical: &str| {
            let set = StatusSet::parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
            assert_eq!(set.to_string(), canonical);
            assert_eq!(StatusSet::parse(canonical), Ok(set));
        };
        reads("200", "200");
        reads("200-399", "200-399");
        reads(" 301 - 302 ,200, 204", "200, 204, 301-302");
        reads("200-299,300-399,250", "200-399");
        assert!(StatusSet::default().contains(399) && !StatusSet::default().contains(400));
    }

    #[test]
    fn what_is_no_set_is_pointed_at() {
        let wrong = |text: &str| StatusSet::parse(text).expect_err(text);
        assert_eq!(wrong(""), (0..0, "\"\" is no status code".into()));
        assert_eq!(wrong("200,"), (4..4, "\"\" is no status code".into()));
        assert_eq!(wrong("200, ok"), (5..7, "\"ok\" is no status code".into()));
        assert_eq!(wrong("399-200"), (0..7, "399-200 goes downwards".into()));
        assert_eq!(wrong("600"), (0..3, "\"600\" is no status code".into()));
        assert_eq!(wrong("2xx"), (0..3, "\"2xx\" is no status code".into()));
        assert_eq!(wrong("0200"), (0..4, "\"0200\" is no status code".into()));
    }
}
