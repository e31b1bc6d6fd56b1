//! Reading the text of a rule: words first, then one function per line of the grammar.

use super::{
    RULE_DEPTH_MAX, RULE_LENGTH_MAX, RULE_TERMS_MAX, RULE_WORDS, Rule, RuleFault, nearest,
};
use crate::names::CheckName;

/// How many names a help line lists before it says "and so on".
const NAMES_LISTED_MAX: usize = 12;

pub(super) fn parse(text: &str, checks: &[CheckName]) -> Result<Rule, RuleFault> {
    if text.len() > RULE_LENGTH_MAX {
        let cut = text.floor_char_boundary(RULE_LENGTH_MAX);
        return Err(RuleFault {
            at: cut,
            length: text.len() - cut,
            what: format!("the rule is longer than {RULE_LENGTH_MAX} bytes"),
            help: "use any, all or \"2 of (a, b, c)\", or split the group".into(),
        });
    }
    let mut parser = Parser {
        text,
        checks,
        word: Word::at_end(0),
        depth: 0,
        terms: 0,
    };
    parser.advance()?;
    if parser.word.kind == Kind::End {
        return Err(parser.fault_here("the rule is empty", leave_out_help()));
    }
    let rule = parser.rule()?;
    match parser.word.kind {
        Kind::End => Ok(rule),
        Kind::Close => Err(parser.fault_here(
            "this bracket closes nothing",
            "remove it, or open one before it",
        )),
        Kind::Comma => Err(parser.fault_here(
            "a comma separates the parts of \"2 of (a, b, c)\" only",
            "write `and` or `or` instead",
        )),
        Kind::Open | Kind::Name => Err(parser.missing_connective()),
    }
}

fn leave_out_help() -> &'static str {
    "name the checks that must fail, as in \"ping and apache\", or leave fail_when out: then any failing check counts"
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A name, a number or a word of the language: what it is depends on its place.
    Name,
    Open,
    Close,
    Comma,
    End,
}

#[derive(Clone, Copy)]
struct Word {
    kind: Kind,
    at: usize,
    end: usize,
}

impl Word {
    const fn at_end(at: usize) -> Self {
        Self {
            kind: Kind::End,
            at,
            end: at,
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    checks: &'t [CheckName],
    /// The word in front of the reader.
    word: Word,
    depth: usize,
    terms: usize,
}

impl<'t> Parser<'t> {
    /// `rule = and { "or" and }`
    fn rule(&mut self) -> Result<Rule, RuleFault> {
        let first = self.and()?;
        let parts = self.chain(first, "or", Self::and)?;
        Ok(one_or(parts, Rule::Any))
    }

    /// `and = not { "and" not }`
    fn and(&mut self) -> Result<Rule, RuleFault> {
        let first = self.not()?;
        let parts = self.chain(first, "and", Self::not)?;
        Ok(one_or(parts, Rule::All))
    }

    fn chain(
        &mut self,
        first: Rule,
        connective: &str,
        next: fn(&mut Self) -> Result<Rule, RuleFault>,
    ) -> Result<Vec<Rule>, RuleFault> {
        let mut parts = vec![first];
        while self.is_word(connective) {
            self.advance()?;
            if self.word.kind == Kind::End {
                let what = format!("the rule ends after `{connective}`");
                return Err(self.fault_here(&what, "name the check that should follow"));
            }
            parts.push(next(self)?);
        }
        Ok(parts)
    }

    /// `not = "not" not | part`
    fn not(&mut self) -> Result<Rule, RuleFault> {
        if !self.is_word("not") {
            return self.part();
        }
        let word = self.word;
        self.advance()?;
        if self.word.kind == Kind::End {
            return Err(self.fault_here(
                "the rule ends after `not`",
                "name the check that should follow",
            ));
        }
        let inner = self.nested(word, Self::not)?;
        Ok(Rule::Not(Box::new(inner)))
    }

    /// `part`: a bracket, a quantity with its list, or a name.
    fn part(&mut self) -> Result<Rule, RuleFault> {
        let word = self.word;
        match word.kind {
            Kind::Name => self.name_or_quantity(word),
            Kind::Open => {
                self.advance()?;
                let inner = self.nested(word, Self::rule)?;
                self.close(word)?;
                Ok(inner)
            }
            Kind::Close => Err(self.fault_here(
                "a check is missing before this bracket",
                "name one, or remove the bracket",
            )),
            Kind::Comma => Err(self.fault_here(
                "a check is missing before this comma",
                "name one, or remove the comma",
            )),
            Kind::End => Err(self.fault_here(
                "the rule ends too early",
                "name the check that should follow",
            )),
        }
    }

    fn name_or_quantity(&mut self, word: Word) -> Result<Rule, RuleFault> {
        let text = self.text_of(word);
        self.advance()?;
        let of_follows = self.is_word("of");
        match text {
            "any" | "all" if of_follows => {
                let parts = self.list()?;
                Ok(if text == "any" {
                    Rule::Any(parts)
                } else {
                    Rule::All(parts)
                })
            }
            "any" | "all" => self.every_check(word, text),
            _ if of_follows => self.count(word, text),
            "and" | "or" => Err(self.fault(
                word,
                format!("`{text}` stands between two checks, and there is none before it"),
                "name the check that should stand there, or remove the word",
            )),
            "of" => Err(self.fault(
                word,
                "`of` follows a number, `any` or `all`",
                "write for example \"2 of (a, b, c)\"",
            )),
            _ => self.check(word, text),
        }
    }

    /// `any` or `all` alone: every check of the group.
    fn every_check(&mut self, word: Word, text: &str) -> Result<Rule, RuleFault> {
        if self.checks.is_empty() {
            return Err(self.fault(
                word,
                format!("`{text}` means the checks of this group, and it has none"),
                "add a check, or leave fail_when out",
            ));
        }
        self.count_terms(word, self.checks.len())?;
        let checks = self.checks.iter().cloned();
        Ok(if text == "any" {
            Rule::any_of(checks)
        } else {
            Rule::all_of(checks)
        })
    }

    /// `NUMBER "of" list`
    fn count(&mut self, word: Word, text: &str) -> Result<Rule, RuleFault> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits {
            return Err(self.fault(
                word,
                format!("{text:?} is no number"),
                "before `of` stands a number in digits, `any` or `all`, as in \"2 of (a, b, c)\"",
            ));
        }
        let parts = self.list()?;
        let most = parts.len();
        match text.parse::<usize>() {
            Ok(wanted @ 1..) if wanted <= most => Ok(Rule::AtLeast(wanted, parts)),
            Ok(0) => Err(self.fault(word, "0 of them always hold", "the smallest number is 1")),
            Ok(_) | Err(_) => Err(self.fault(
                word,
                format!("{text} of {most} can never hold"),
                format!("the largest number here is {most}"),
            )),
        }
    }

    /// `"of" "(" rule { "," rule } ")"`
    fn list(&mut self) -> Result<Vec<Rule>, RuleFault> {
        self.advance()?;
        let open = self.word;
        if open.kind != Kind::Open {
            return Err(self.fault_here(
                "a list in brackets follows `of`",
                "write for example \"2 of (a, b, c)\"",
            ));
        }
        self.advance()?;
        if self.word.kind == Kind::Close {
            return Err(self.fault_here(
                "the list is empty",
                "name checks in it, separated by commas",
            ));
        }
        let mut parts = Vec::new();
        loop {
            parts.push(self.nested(open, Self::rule)?);
            if self.word.kind != Kind::Comma {
                break;
            }
            self.advance()?;
            // A comma after the last part is a habit from other languages.
            if self.word.kind == Kind::Close {
                break;
            }
        }
        self.close(open)?;
        Ok(parts)
    }

    fn close(&mut self, open: Word) -> Result<(), RuleFault> {
        match self.word.kind {
            Kind::Close => self.advance(),
            Kind::End => Err(self.fault(open, "this bracket is never closed", "add `)`")),
            Kind::Comma => Err(self.fault_here(
                "a comma separates the parts of \"2 of (a, b, c)\" only",
                "write \"any of (a, b)\" or \"all of (a, b)\"",
            )),
            Kind::Open | Kind::Name => Err(self.missing_connective()),
        }
    }

    fn check(&mut self, word: Word, text: &str) -> Result<Rule, RuleFault> {
        if let Some(found) = self.checks.iter().find(|check| check.as_str() == text) {
            let rule = Rule::Check(found.clone());
            self.count_terms(word, 1)?;
            return Ok(rule);
        }
        if self.word.kind == Kind::Open && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let what = format!("`of` is missing after {text}");
            return Err(self.fault(word, what, format!("write \"{text} of (\"")));
        }
        Err(self.fault(
            word,
            format!("there is no check {text:?}"),
            self.help_for_unknown(text),
        ))
    }

    fn help_for_unknown(&self, text: &str) -> String {
        let small = text.to_ascii_lowercase();
        if let Some(word) = RULE_WORDS.iter().find(|word| **word == small) {
            return format!("write `{word}` in small letters");
        }
        if let Some(meant) = nearest(text, self.checks.iter().map(CheckName::as_str)) {
            return format!("did you mean {meant:?}?");
        }
        if self.checks.is_empty() {
            return "this group has no checks: add one, or leave fail_when out".into();
        }
        let listed: Vec<&str> = self
            .checks
            .iter()
            .take(NAMES_LISTED_MAX)
            .map(CheckName::as_str)
            .collect();
        let more = if self.checks.len() > NAMES_LISTED_MAX {
            ", and so on"
        } else {
            ""
        };
        format!("the checks of this group are {}{more}", listed.join(", "))
    }

    /// Two parts stand side by side.
    fn missing_connective(&self) -> RuleFault {
        let text = self.text_of(self.word);
        match text {
            "not" => self.fault_here(
                "`and` or `or` is missing before `not`",
                "write `and not` or `or not`",
            ),
            "of" => self.fault_here(
                "`of` follows a number, `any` or `all`",
                "write for example \"2 of (a, b, c)\"",
            ),
            _ => {
                let small = text.to_ascii_lowercase();
                let help = match small.as_str() {
                    "and" | "or" => format!("write `{small}` in small letters"),
                    _ => "say whether both must fail (`and`) or either (`or`)".into(),
                };
                self.fault_here(&format!("`and` or `or` is missing before `{text}`"), help)
            }
        }
    }

    /// Goes one level deeper; `word` is what opened it.
    fn nested(
        &mut self,
        word: Word,
        inner: fn(&mut Self) -> Result<Rule, RuleFault>,
    ) -> Result<Rule, RuleFault> {
        if self.depth == RULE_DEPTH_MAX {
            return Err(self.fault(
                word,
                format!("the rule is nested deeper than {RULE_DEPTH_MAX} levels"),
                "simplify it: nobody could say at night what it means",
            ));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn count_terms(&mut self, word: Word, more: usize) -> Result<(), RuleFault> {
        self.terms += more;
        if self.terms > RULE_TERMS_MAX {
            return Err(self.fault(
                word,
                format!("the rule names checks more than {RULE_TERMS_MAX} times"),
                "use any and all only once",
            ));
        }
        Ok(())
    }

    fn is_word(&self, wanted: &str) -> bool {
        self.word.kind == Kind::Name && self.text_of(self.word) == wanted
    }

    fn text_of(&self, word: Word) -> &'t str {
        &self.text[word.at..word.end]
    }

    /// Reads the next word.
    fn advance(&mut self) -> Result<(), RuleFault> {
        let rest = &self.text[self.word.end..];
        let at = self.word.end + (rest.len() - rest.trim_start().len());
        let mut characters = self.text[at..].chars();
        let (kind, length) = match characters.next() {
            None => (Kind::End, 0),
            Some('(') => (Kind::Open, 1),
            Some(')') => (Kind::Close, 1),
            Some(',') => (Kind::Comma, 1),
            Some(first) if first.is_ascii_alphanumeric() => {
                let rest = &self.text[at..];
                let end = rest
                    .find(|c: char| !is_name_character(c))
                    .unwrap_or(rest.len());
                (Kind::Name, end)
            }
            Some(other) => return Err(self.foreign(at, other, characters.next())),
        };
        self.word = Word {
            kind,
            at,
            end: at + length,
        };
        Ok(())
    }

    /// A character that no rule contains, and what was probably meant.
    fn foreign(&self, at: usize, character: char, next: Option<char>) -> RuleFault {
        let doubled = next == Some(character);
        let shown: String = if doubled && matches!(character, '&' | '|' | '=') {
            [character, character].iter().collect()
        } else if character == '!' && next == Some('=') {
            "!=".into()
        } else {
            character.into()
        };
        let help = match character {
            '&' => "write `and`",
            '|' => "write `or`",
            '!' if next != Some('=') => "write `not`",
            '=' | '<' | '>' | '!' => {
                "a name alone means that this check fails: write \"ping and apache\""
            }
            '"' | '\'' | '`' => "write names without quotes",
            '[' | ']' | '{' | '}' => "write round brackets",
            '+' | '*' | '/' => "rules do not calculate: write `and`, `or` or \"2 of (a, b, c)\"",
            _ => {
                "a rule has names of checks, and, or, not, any, all, numbers, commas and round brackets"
            }
        };
        let length = shown.len();
        RuleFault {
            at,
            length,
            what: format!("`{shown}` has no meaning in a rule"),
            help: help.into(),
        }
    }

    fn fault(&self, word: Word, what: impl Into<String>, help: impl Into<String>) -> RuleFault {
        RuleFault {
            at: word.at,
            length: word.end - word.at,
            what: what.into(),
            help: help.into(),
        }
    }

    fn fault_here(&self, what: &str, help: impl Into<String>) -> RuleFault {
        self.fault(self.word, what, help)
    }
}

const fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

/// A chain of one part is that part.
fn one_or(mut parts: Vec<Rule>, wrap: fn(Vec<Rule>) -> Rule) -> Rule {
    if parts.len() == 1 {
        parts.remove(0)
    } else {
        wrap(parts)
    }
}
