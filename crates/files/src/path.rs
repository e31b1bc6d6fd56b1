//! Where something is below the root of a share.

use core::cmp::Ordering;
use core::fmt;
use std::sync::Arc;

/// The longest path that the kernel takes in one call (`PATH_MAX`, without the zero).
pub const PATH_BYTES_MAX: usize = 4095;
/// The longest name in a directory (`NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// The directory in the root of a share where the product keeps what has to be on the same file
/// system.
pub const OWN: &str = ".evenkeel";

/// A path below the root of a share, in any bytes but zero: names with slashes between them. The
/// empty one is the root. No name is empty, `.` or `..`, so that nothing leads out of the share
/// but a symbolic link, which nobody here follows.
///
/// Ordered so that a directory comes directly before all that is below it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SharePath(Arc<[u8]>);

/// Why bytes are no path below a root. Follows "is no path below a share: ".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// Longer than [`PATH_BYTES_MAX`].
    TooLong,
    /// A name is longer than [`NAME_BYTES_MAX`].
    NameTooLong,
    /// A name is empty: it begins or ends with a slash, or has two of them in a row.
    EmptyName,
    /// A name is `.` or `..`.
    Dots,
    /// It has a zero byte.
    Zero,
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "it is longer than {PATH_BYTES_MAX} bytes"),
            Self::NameTooLong => write!(f, "a name in it is longer than {NAME_BYTES_MAX} bytes"),
            Self::EmptyName => write!(f, "a name in it is empty"),
            Self::Dots => write!(f, "a name in it is \".\" or \"..\""),
            Self::Zero => write!(f, "it has a zero byte"),
        }
    }
}

impl std::error::Error for PathFault {}

impl SharePath {
    /// The root.
    pub fn root() -> Self {
        Self(Arc::from([]))
    }

    /// The path with these bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, PathFault> {
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathFault::TooLong);
        }
        for name in bytes.split(|byte| *byte == b'/') {
            match name {
                b"" => return Err(PathFault::EmptyName),
                b"." | b".." => return Err(PathFault::Dots),
                name if name.len() > NAME_BYTES_MAX => return Err(PathFault::NameTooLong),
                name if name.contains(&0) => return Err(PathFault::Zero),
                _ => {}
            }
        }
        Ok(Self(bytes.into()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that it is in; none of the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }

    /// Its name in that directory; empty of the root.
    pub fn name(&self) -> &[u8] {
        let start = self.0.iter().rposition(|byte| *byte == b'/');
        &self.0[start.map_or(0, |slash| slash + 1)..]
    }

    /// The names in it, from the root on; none of the root.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let all = self.0.split(|byte| *byte == b'/');
        all.filter(|name| !name.is_empty())
    }

    /// Whether it is the product's own directory in the root, or below it: [`OWN`]. That is no part of
    /// what is replicated.
    pub fn is_own(&self) -> bool {
        self.0.split(|byte| *byte == b'/').next() == Some(OWN.as_bytes())
    }

    /// The entry of this directory with a name.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathFault> {
        if name.contains(&b'/') || name.is_empty() {
            return Err(PathFault::EmptyName);
        }
        if self.is_root() {
            return Self::new(name);
        }
        Self::new(&[&self.0, &b"/"[..], name].concat())
    }

    /// Whether it is below a directory (the directory itself is not).
    pub fn is_below(&self, directory: &Self) -> bool {
        if directory.is_root() {
            return !self.is_root();
        }
        self.0
            .strip_prefix(&*directory.0)
            .is_some_and(|rest| rest.first() == Some(&b'/'))
    }

    /// What it is called when the directory `from`, which it is or is below, is called `to`; none
    /// if it is neither, or would be too long.
    pub fn moved(&self, from: &Self, to: &Self) -> Option<Self> {
        if self == from {
            return Some(to.clone());
        }
        if !self.is_below(from) || from.is_root() || to.is_root() {
            return None;
        }
        let rest = &self.0[from.0.len()..];
        Self::new(&[&to.0, rest].concat()).ok()
    }
}

/// A slash before everything else.
fn rank(byte: &u8) -> u8 {
    if *byte == b'/' { 0 } else { *byte }
}

impl Ord for SharePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.iter().map(rank).cmp(other.0.iter().map(rank))
    }
}

impl PartialOrd for SharePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As people read it: what is no text is escaped, and it is one line whatever it is.
impl fmt::Display for SharePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str("./");
        }
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || c == '\\' {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SharePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> SharePath {
        SharePath::new(text.as_bytes()).unwrap_or_else(|fault| panic!("{text:?} {fault}"))
    }

    #[test]
    fn what_leads_out_of_a_share_is_no_path_below_it() {
        let long = vec![b'a'; NAME_BYTES_MAX + 1];
        let deep = b"a/".repeat(PATH_BYTES_MAX / 2 + 1);
        for (bytes, fault) in [
            (&b"/etc"[..], PathFault::EmptyName),
            (b"a/", PathFault::EmptyName),
            (b"a//b", PathFault::EmptyName),
            (b"..", PathFault::Dots),
            (b"a/../../b", PathFault::Dots),
            (b"./a", PathFault::Dots),
            (b"a\0b", PathFault::Zero),
            (&long, PathFault::NameTooLong),
            (&deep, PathFault::TooLong),
        ] {
            assert_eq!(SharePath::new(bytes), Err(fault));
        }
        for bytes in [
            &b""[..],
            b"...",
            b"-rf",
            b"a\nb",
            b"\xff",
            b" ",
            b"a/.b/..c",
        ] {
            assert_eq!(SharePath::new(bytes).expect("a path").as_bytes(), bytes);
        }
        assert_eq!(path("a").join(b".."), Err(PathFault::Dots));
        assert_eq!(path("a").join(b"b/c"), Err(PathFault::EmptyName));
        assert_eq!(path("a").join(b"b"), Ok(path("a/b")));
        assert_eq!(SharePath::root().join(b"b"), Ok(path("b")));
    }

    #[test]
    fn a_directory_comes_directly_before_what_is_below_it() {
        let ordered = ["", "a", "a/b", "a/b/c", "a/c", "a.b", "a\n", "ab", "b"];
        let mut sorted: Vec<_> = ordered.iter().map(|text| path(text)).collect();
        sorted.sort();
        let below = sorted
            .iter()
            .position(|one| one == &path("a"))
            .expect("it is there");
        assert!(
            sorted[below + 1..below + 4]
                .iter()
                .all(|one| one.is_below(&path("a")))
        );
        assert!(!path("ab").is_below(&path("a")) && !path("a").is_below(&path("a")));
        assert!(path("a").is_below(&SharePath::root()));
        assert!(!SharePath::root().is_below(&SharePath::root()));
    }

    #[test]
    fn parents_and_moves() {
        assert_eq!(path("a/b/c").parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), Some(SharePath::root()));
        assert_eq!(
            (path("a/b").name(), path("a").name()),
            (&b"b"[..], &b"a"[..])
        );
        assert_eq!(SharePath::root().name(), b"");
        assert!(path(".evenkeel").is_own() && path(".evenkeel/a").is_own());
        assert!(!path(".evenkeel2").is_own() && !path("a/.evenkeel").is_own());
        assert_eq!(SharePath::root().parent(), None);
        assert_eq!(
            path("a/b").moved(&path("a"), &path("c/d")),
            Some(path("c/d/b"))
        );
        assert_eq!(path("a").moved(&path("a"), &path("b")), Some(path("b")));
        assert_eq!(path("ab").moved(&path("a"), &path("b")), None);
        let long = SharePath::new(&[b"a/".repeat(2000), b"b".to_vec()].concat()).expect("a path");
        let deep = SharePath::new(&[b"c/".repeat(100), b"d".to_vec()].concat()).expect("a path");
        assert_eq!(long.moved(&path("a"), &deep), None);
    }

    #[test]
    fn it_is_one_line_for_people_whatever_its_bytes_are() {
        let odd = SharePath::new(b"a\nb\xff\\\x1b[2J").expect("a path");
        assert_eq!(odd.to_string(), "a\\nb\\xff\\\\\\u{1b}[2J");
        assert_eq!(path("Bücher/ä b").to_string(), "Bücher/ä b");
        assert_eq!(SharePath::root().to_string(), "./");
    }
}
