//! The text of a file and the places in it: offsets become lines and columns here, and
//! only here.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::NamedSource;

/// Bytes of the file that something speaks of.
pub(crate) type Span = Range<usize>;

/// A place in a file, as editors and compilers write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named to us.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A file's name and text.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: Arc<str>,
    text: Arc<str>,
    /// Where each line starts.
    lines: Vec<usize>,
    /// The same for the renderer of source frames.
    named: NamedSource<Arc<str>>,
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0)
            .chain(starts.map(|(at, _)| at + 1))
            .collect();
        let text: Arc<str> = text.into();
        Self {
            name: name.into(),
            named: NamedSource::new(name, text.clone()),
            text,
            lines,
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The line and column of a byte; past the end is the end.
    pub(crate) fn place(&self, at: usize) -> Place {
        let at = self.text.floor_char_boundary(at);
        let line = self.lines.partition_point(|start| *start <= at);
        let start = self.lines[line - 1];
        // A byte order mark is no character that an editor would count.
        let before = self.text[start..at].trim_start_matches('\u{feff}');
        Place {
            file: self.name.clone(),
            line,
            column: before.chars().count() + 1,
        }
    }

    /// The line of a byte, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    /// The text as the renderer of source frames wants it.
    pub(crate) fn named(&self) -> &NamedSource<Arc<str>> {
        &self.named
    }

    /// Where bytes of a string's *value* stand in the file: the value is what is left
    /// after quotes are taken off and escapes are resolved. The whole string if that
    /// cannot be told.
    pub(crate) fn inside(&self, string: &Span, value: &str, part: Range<usize>) -> Span {
        let Some(raw) = self.text.get(string.clone()) else {
            return string.clone();
        };
        let Some(offsets) = offsets_of(raw, value) else {
            return string.clone();
        };
        match (offsets.get(part.start), offsets.get(part.end)) {
            (Some(start), Some(end)) => string.start + start..string.start + end,
            _ => string.clone(),
        }
    }
}

/// For each byte of `value`, and for its end, the byte of the TOML string `raw` that it
/// comes from. `None` if `raw` is not how `value` is written.
fn offsets_of(raw: &str, value: &str) -> Option<Vec<usize>> {
    let (quotes, escapes) = match raw {
        _ if raw.starts_with("\"\"\"") => (3, true),
        _ if raw.starts_with("'''") => (3, false),
        _ if raw.starts_with('"') => (1, true),
        _ if raw.starts_with('\'') => (1, false),
        _ => return None,
    };
    let mut at = quotes;
    let end = raw.len().checked_sub(quotes).filter(|end| *end >= at)?;
    if quotes == 3 {
        // A line break right after the opening quotes does not belong to the value.
        at += ["\r\n", "\n"]
            .iter()
            .find(|b| raw[at..end].starts_with(**b))
            .map_or(0, |b| b.len());
    }
    let mut offsets = Vec::with_capacity(value.len() + 1);
    let mut decoded = String::with_capacity(value.len());
    while at < end {
        let (character, length) = match raw[at..end].chars().next()? {
            '\\' if escapes => unescape(&raw[at..end])?,
            plain => (Some(plain), plain.len_utf8()),
        };
        if let Some(character) = character {
            decoded.push(character);
            offsets.resize(decoded.len(), at);
        }
        at += length;
    }
    offsets.push(at);
    (decoded == value).then_some(offsets)
}

/// The character that the escape at the start of `raw` stands for (none for a line
/// break that is taken out), and the length of the escape. TOML 1.1, "String".
fn unescape(raw: &str) -> Option<(Option<char>, usize)> {
    let simple = |character| Some((Some(character), 2));
    let coded = |digits: usize| {
        let code = u32::from_str_radix(raw.get(2..2 + digits)?, 16).ok()?;
        Some((Some(char::from_u32(code)?), 2 + digits))
    };
    match raw.chars().nth(1)? {
        'b' => simple('\u{8}'),
        't' => simple('\t'),
        'n' => simple('\n'),
        'f' => simple('\u{c}'),
        'r' => simple('\r'),
        'e' => simple('\u{1b}'),
        '"' => simple('"'),
        '\\' => simple('\\'),
        'x' => coded(2),
        'u' => coded(4),
        'U' => coded(8),
        ' ' | '\t' | '\r' | '\n' => {
            let rest = raw[1..].trim_start_matches([' ', '\t', '\r', '\n']);
            Some((None, raw.len() - rest.len()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let source = Source::new("f", "a\nbüc\n\nd");
        let at = |offset| (source.place(offset).line, source.place(offset).column);
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(2), (2, 1));
        assert_eq!(at(5), (2, 3), "ü is one character of two bytes");
        assert_eq!(at(7), (3, 1));
        assert_eq!(at(99), (4, 2));
        assert_eq!(source.place(5).to_string(), "f:2:3");
    }

    #[test]
    fn a_byte_order_mark_is_not_counted() {
        assert_eq!(Source::new("f", "\u{feff}ab").place(4).column, 2);
    }

    /// The place of `wanted` in the value of the string that makes up `text` from its
    /// first quote on.
    fn found(text: &str, wanted: &str) -> String {
        let table = toml::de::DeTable::parse(text).expect("valid");
        let value = table.get_ref().get("k").expect("a key");
        let decoded = value.get_ref().as_str().expect("a string");
        let at = decoded.find(wanted).expect("the part");
        let source = Source::new("f", text);
        text[source.inside(&value.span(), decoded, at..at + wanted.len())].to_owned()
    }

    #[test]
    fn parts_of_strings_are_found_through_every_way_to_write_them() {
        assert_eq!(found(r#"k = "ping and x""#, "x"), "x");
        assert_eq!(found(r"k = 'ping and x'", "x"), "x");
        assert_eq!(found(r#"k = "p\u0069ng \t and \"x\" y""#, "y"), "y");
        assert_eq!(found(r#"k = "p\u0069ng \x41 y""#, "i"), r"\u0069");
        assert_eq!(found("k = \"\"\"\na \\\n   b c\"\"\"", "b"), "b");
        assert_eq!(found("k = '''\r\na\r\nb c'''", "b"), "b");
        assert_eq!(found("k = \"üé x\"", "x"), "x");
    }

    #[test]
    fn the_end_of_a_value_is_its_closing_quote() {
        let source = Source::new("f", "k = \"a\"");
        assert_eq!(source.inside(&(4..7), "a", 1..1), 6..6);
        assert_eq!(source.inside(&(4..7), "not it", 1..1), 4..7);
    }
}
