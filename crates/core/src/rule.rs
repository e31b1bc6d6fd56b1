//! The rule: which failing checks mean that a group should move.
//!
//! `fail_when` is a boolean expression over the names of checks. A name stands for
//! "this check fails". Answers have three values, because a silent prober must never
//! move a group: unknown stays unknown unless the rest decides (Kleene's logic).
//!
//! ```text
//! rule  = and { "or" and }
//! and   = not { "and" not }
//! not   = "not" not | part
//! part  = "(" rule ")" | NAME
//!       | "any" | "all"                       over every check of the group
//!       | ( NUMBER | "any" | "all" ) "of" "(" rule { "," rule } ")"
//! ```

use core::fmt;

use crate::names::CheckName;

mod nearest;
mod parse;
#[cfg(test)]
mod tests;

pub use nearest::nearest;

/// The longest text of a rule, in bytes: far beyond what a person can follow.
pub const RULE_LENGTH_MAX: usize = 4096;

/// How deep brackets and `not` may nest: parsing recurses, and the stack is bounded.
pub const RULE_DEPTH_MAX: usize = 32;

/// How many checks a rule may name, counting each time: `any` and `all` name every
/// check of the group, so a short text can mean a great deal.
pub const RULE_TERMS_MAX: usize = 16_384;

/// The words of the language: no check may have such a name.
pub const RULE_WORDS: [&str; 6] = ["and", "or", "not", "any", "all", "of"];

/// An expression over failing checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// This check fails.
    Check(CheckName),
    /// The part does not hold.
    Not(Box<Rule>),
    /// All parts hold. Written `a and b`, or `all` for all checks.
    All(Vec<Rule>),
    /// At least one part holds. Written `a or b`, or `any` for all checks.
    Any(Vec<Rule>),
    /// At least so many parts hold. Written `2 of (a, b, c)`.
    AtLeast(usize, Vec<Rule>),
}

/// A truth that may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Truth {
    /// It holds.
    Yes,
    /// It does not hold.
    No,
    /// Nobody knows, or what is known is too old.
    Unknown,
}

/// Why a text is no rule: what is wrong, and the bytes of the text it points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFault {
    /// First byte of the place in the text.
    pub at: usize,
    /// Length of the place in bytes; at least 1 unless the text ended too early.
    pub length: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub help: String,
}

impl fmt::Display for RuleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)
    }
}

impl std::error::Error for RuleFault {}

impl Rule {
    /// Reads the text of a rule over these checks of one group. The fault points at
    /// bytes of `text`, which always start and end between characters.
    pub fn parse(text: &str, checks: &[CheckName]) -> Result<Self, RuleFault> {
        parse::parse(text, checks)
    }

    /// The rule of a group that has none: any failing check. Without checks it never
    /// holds.
    pub fn any_of(checks: impl IntoIterator<Item = CheckName>) -> Self {
        Self::of_checks(checks, Self::Any)
    }

    /// Every check fails.
    pub fn all_of(checks: impl IntoIterator<Item = CheckName>) -> Self {
        Self::of_checks(checks, Self::All)
    }

    /// One check alone needs no wrapping, so that the canonical text reads back as
    /// the same rule.
    fn of_checks(checks: impl IntoIterator<Item = CheckName>, wrap: fn(Vec<Self>) -> Self) -> Self {
        let mut parts: Vec<Self> = checks.into_iter().map(Self::Check).collect();
        match parts.pop() {
            Some(only) if parts.is_empty() => only,
            Some(last) => {
                parts.push(last);
                wrap(parts)
            }
            None => wrap(parts),
        }
    }

    /// Whether the rule holds, given what is known of each check.
    pub fn evaluate(&self, failing: impl Fn(&CheckName) -> Truth) -> Truth {
        self.judge(&failing)
    }

    fn judge(&self, failing: &dyn Fn(&CheckName) -> Truth) -> Truth {
        match self {
            Self::Check(name) => failing(name),
            Self::Not(part) => part.judge(failing).not(),
            Self::All(parts) => at_least(parts.len(), parts, failing),
            Self::Any(parts) => at_least(1, parts, failing),
            Self::AtLeast(wanted, parts) => at_least(*wanted, parts, failing),
        }
    }

    /// The checks that the rule names, each once, in the order of the text.
    pub fn checks(&self) -> impl Iterator<Item = &CheckName> {
        let mut names = Vec::new();
        self.gather(&mut names);
        names.into_iter()
    }

    fn gather<'r>(&'r self, names: &mut Vec<&'r CheckName>) {
        match self {
            Self::Check(name) => {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            Self::Not(part) => part.gather(names),
            Self::All(parts) | Self::Any(parts) | Self::AtLeast(_, parts) => {
                parts.iter().for_each(|part| part.gather(names));
            }
        }
    }
}

impl Truth {
    /// The opposite; unknown stays unknown.
    pub const fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// Kleene's connectives as one count: enough parts hold whatever the unknown ones
/// turn out to be, or too few do, or it depends on them.
fn at_least(wanted: usize, parts: &[Rule], failing: &dyn Fn(&CheckName) -> Truth) -> Truth {
    let (mut holding, mut unknown) = (0, 0);
    for part in parts {
        match part.judge(failing) {
            Truth::Yes => holding += 1,
            Truth::Unknown => unknown += 1,
            Truth::No => {}
        }
    }
    if holding >= wanted {
        Truth::Yes
    } else if holding + unknown < wanted {
        Truth::No
    } else {
        Truth::Unknown
    }
}

/// The canonical text: brackets wherever `and` and `or` meet, so that nobody needs to
/// know which binds tighter. It reads back as the same rule, unless a list is empty.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(name) => write!(f, "{name}"),
            Self::Not(part) => {
                write!(f, "not ")?;
                part.write_part(f)
            }
            Self::All(parts) if parts.len() < 2 => write_list(f, "all", parts),
            Self::Any(parts) if parts.len() < 2 => write_list(f, "any", parts),
            Self::All(parts) => write_joined(f, " and ", parts),
            Self::Any(parts) => write_joined(f, " or ", parts),
            Self::AtLeast(wanted, parts) => write_list(f, wanted, parts),
        }
    }
}

impl Rule {
    /// The text of a part, in brackets where it would otherwise run into its
    /// neighbours.
    fn write_part(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(parts) | Self::Any(parts) if parts.len() >= 2 => write!(f, "({self})"),
            Self::Check(_) | Self::Not(_) | Self::All(_) | Self::Any(_) | Self::AtLeast(..) => {
                write!(f, "{self}")
            }
        }
    }
}

fn write_joined(f: &mut fmt::Formatter<'_>, word: &str, parts: &[Rule]) -> fmt::Result {
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            f.write_str(word)?;
        }
        part.write_part(f)?;
    }
    Ok(())
}

fn write_list(
    f: &mut fmt::Formatter<'_>,
    quantity: impl fmt::Display,
    parts: &[Rule],
) -> fmt::Result {
    write!(f, "{quantity} of (")?;
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{part}")?;
    }
    f.write_str(")")
}
