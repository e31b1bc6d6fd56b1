//! Rules as people write them, and the logic of unknown answers.

use proptest::prelude::*;

use super::{RULE_DEPTH_MAX, RULE_LENGTH_MAX, RULE_TERMS_MAX, RULE_WORDS, Rule, Truth};
use crate::names::CheckName;

const TRUTHS: [Truth; 3] = [Truth::Yes, Truth::No, Truth::Unknown];

fn names(texts: &[&str]) -> Vec<CheckName> {
    texts
        .iter()
        .map(|text| CheckName::new(text).expect("a name"))
        .collect()
}

/// The checks that the texts of these tests speak of.
fn checks() -> Vec<CheckName> {
    names(&["ping", "apache", "my-sql", "v1.2_x", "24"])
}

/// `text` means what `canonical` says.
fn reads(text: &str, canonical: &str) {
    let rule = Rule::parse(text, &checks()).unwrap_or_else(|fault| panic!("{text:?}: {fault}"));
    assert_eq!(rule.to_string(), canonical, "{text:?}");
    assert_eq!(Rule::parse(canonical, &checks()), Ok(rule), "{canonical:?}");
}

/// `text` is refused; the fault points at what stands between the two `^` of `marked`
/// (or at the one, if the place is empty).
fn refused(marked: &str, what: &str, help: &str) {
    let text = marked.replace('^', "");
    let at = marked.find('^').expect("a mark");
    let length = marked
        .rfind('^')
        .map_or(0, |end| (end - at).saturating_sub(1));
    let fault = Rule::parse(&text, &checks()).expect_err(&text);
    assert_eq!(
        (fault.what.as_str(), fault.help.as_str()),
        (what, help),
        "{text:?}"
    );
    assert_eq!((fault.at, fault.length), (at, length), "{text:?}");
}

#[test]
fn rules_read_as_people_mean_them() {
    reads("ping", "ping");
    reads("  ping\tand\napache ", "ping and apache");
    reads("ping and apache or my-sql", "(ping and apache) or my-sql");
    reads("ping or apache and my-sql", "ping or (apache and my-sql)");
    reads("(ping or apache) and v1.2_x", "(ping or apache) and v1.2_x");
    reads(
        "ping and (apache and my-sql)",
        "ping and (apache and my-sql)",
    );
    reads("ping and apache and my-sql", "ping and apache and my-sql");
    reads("not ping and not not apache", "not ping and not not apache");
    reads("not (ping and apache)", "not (ping and apache)");
    reads("((ping))", "ping");
    reads("any", "ping or apache or my-sql or v1.2_x or 24");
    reads("all", "ping and apache and my-sql and v1.2_x and 24");
    reads(
        "not all",
        "not (ping and apache and my-sql and v1.2_x and 24)",
    );
    reads("any of (ping, apache)", "ping or apache");
    reads("all of (ping)", "all of (ping)");
    reads("2 of (ping, apache, my-sql)", "2 of (ping, apache, my-sql)");
    reads(
        "2 of(ping,apache and 24,not my-sql,)",
        "2 of (ping, apache and 24, not my-sql)",
    );
    reads(
        "1 of (2 of (ping, apache), 24)",
        "1 of (2 of (ping, apache), 24)",
    );
    reads("24 and 24", "24 and 24");
}

#[test]
fn a_single_check_needs_no_words() {
    let one = names(&["web"]);
    assert_eq!(Rule::parse("any", &one), Ok(Rule::Check(one[0].clone())));
    assert_eq!(Rule::parse("all", &one), Ok(Rule::Check(one[0].clone())));
    assert_eq!(Rule::any_of(one.clone()), Rule::Check(one[0].clone()));
}

#[test]
fn a_group_without_checks_is_never_unfit() {
    let rule = Rule::any_of([]);
    assert_eq!(rule.evaluate(|_| Truth::Yes), Truth::No);
    assert_eq!(rule.checks().count(), 0);
}

#[test]
fn faults_point_at_the_character() {
    let connect = "say whether both must fail (`and`) or either (`or`)";
    let follow = "name the check that should follow";
    let bare = "a name alone means that this check fails: write \"ping and apache\"";
    let listed = "write for example \"2 of (a, b, c)\"";
    let empty = "name the checks that must fail, as in \"ping and apache\", or leave fail_when out: then any failing check counts";

    refused("^", "the rule is empty", empty);
    refused("  ^", "the rule is empty", empty);
    refused(
        "ping and ^apach^",
        "there is no check \"apach\"",
        "did you mean \"apache\"?",
    );
    refused(
        "^nginx^",
        "there is no check \"nginx\"",
        "the checks of this group are ping, apache, my-sql, v1.2_x, 24",
    );
    refused(
        "^Ping^ and apache",
        "there is no check \"Ping\"",
        "did you mean \"ping\"?",
    );
    refused(
        "ping ^AND^ apache",
        "`and` or `or` is missing before `AND`",
        "write `and` in small letters",
    );
    refused(
        "^NOT^ ping",
        "there is no check \"NOT\"",
        "write `not` in small letters",
    );
    refused(
        "ping ^apache^",
        "`and` or `or` is missing before `apache`",
        connect,
    );
    refused(
        "ping ^not^ apache",
        "`and` or `or` is missing before `not`",
        "write `and not` or `or not`",
    );
    refused(
        "ping ^(^apache)",
        "`and` or `or` is missing before `(`",
        connect,
    );
    refused("ping and^", "the rule ends after `and`", follow);
    refused("ping or  ^", "the rule ends after `or`", follow);
    refused("not^", "the rule ends after `not`", follow);
    refused(
        "^and^ ping",
        "`and` stands between two checks, and there is none before it",
        "name the check that should stand there, or remove the word",
    );
    refused(
        "ping and ^or^ apache",
        "`or` stands between two checks, and there is none before it",
        "name the check that should stand there, or remove the word",
    );
    refused(
        "^(^ping or apache",
        "this bracket is never closed",
        "add `)`",
    );
    refused(
        "2 of ^(^ping, apache",
        "this bracket is never closed",
        "add `)`",
    );
    refused(
        "ping^)^",
        "this bracket closes nothing",
        "remove it, or open one before it",
    );
    refused(
        "(^)^",
        "a check is missing before this bracket",
        "name one, or remove the bracket",
    );
    refused("(^", "the rule ends too early", follow);
    refused(
        "ping ^&&^ apache",
        "`&&` has no meaning in a rule",
        "write `and`",
    );
    refused(
        "ping ^||^ apache",
        "`||` has no meaning in a rule",
        "write `or`",
    );
    refused("^!^ping", "`!` has no meaning in a rule", "write `not`");
    refused("ping ^=^ false", "`=` has no meaning in a rule", bare);
    refused("ping ^==^ false", "`==` has no meaning in a rule", bare);
    refused("ping ^!=^ ok", "`!=` has no meaning in a rule", bare);
    refused(
        "^'^ping'",
        "`'` has no meaning in a rule",
        "write names without quotes",
    );
    refused(
        "^[^ping]",
        "`[` has no meaning in a rule",
        "write round brackets",
    );
    refused(
        "ping ^+^ apache",
        "`+` has no meaning in a rule",
        "rules do not calculate: write `and`, `or` or \"2 of (a, b, c)\"",
    );
    refused(
        "ping and ^é^",
        "`é` has no meaning in a rule",
        "a rule has names of checks, and, or, not, any, all, numbers, commas and round brackets",
    );
    refused(
        "ping^,^ apache",
        "a comma separates the parts of \"2 of (a, b, c)\" only",
        "write `and` or `or` instead",
    );
    refused(
        "(ping^,^ apache)",
        "a comma separates the parts of \"2 of (a, b, c)\" only",
        "write \"any of (a, b)\" or \"all of (a, b)\"",
    );
    refused(
        "2 of (^,^ ping)",
        "a check is missing before this comma",
        "name one, or remove the comma",
    );
    refused("2 of ^ping^", "a list in brackets follows `of`", listed);
    refused("2 of^", "a list in brackets follows `of`", listed);
    refused(
        "2 of (^)^",
        "the list is empty",
        "name checks in it, separated by commas",
    );
    refused(
        "^3^ of (ping, apache)",
        "3 of 2 can never hold",
        "the largest number here is 2",
    );
    refused(
        "^0^ of (ping, apache)",
        "0 of them always hold",
        "the smallest number is 1",
    );
    refused(
        "^99999999999999999999^ of (ping)",
        "99999999999999999999 of 1 can never hold",
        "the largest number here is 1",
    );
    refused(
        "^two^ of (ping, apache)",
        "\"two\" is no number",
        "before `of` stands a number in digits, `any` or `all`, as in \"2 of (a, b, c)\"",
    );
    refused(
        "^2^ (ping, apache)",
        "`of` is missing after 2",
        "write \"2 of (\"",
    );
    refused(
        "^of^ (ping)",
        "`of` follows a number, `any` or `all`",
        listed,
    );
}

#[test]
fn rules_of_a_group_without_checks_are_refused() {
    let fault = Rule::parse("any", &[]).expect_err("no checks");
    assert_eq!(
        fault.what,
        "`any` means the checks of this group, and it has none"
    );
    let fault = Rule::parse("ping", &[]).expect_err("no checks");
    assert_eq!(
        fault.help,
        "this group has no checks: add one, or leave fail_when out"
    );
}

#[test]
fn every_bound_holds() {
    let deepest = format!(
        "{}ping{}",
        "(".repeat(RULE_DEPTH_MAX),
        ")".repeat(RULE_DEPTH_MAX)
    );
    assert!(Rule::parse(&deepest, &checks()).is_ok());
    let deeper = Rule::parse(&format!("({deepest})"), &checks()).expect_err("too deep");
    assert_eq!((deeper.at, deeper.length), (RULE_DEPTH_MAX, 1));
    assert_eq!(deeper.what, "the rule is nested deeper than 32 levels");
    assert!(Rule::parse(&"not ".repeat(1000), &checks()).is_err());

    let longest = format!("ping{}", " ".repeat(RULE_LENGTH_MAX - 4));
    assert!(Rule::parse(&longest, &checks()).is_ok());
    let longer = Rule::parse(&format!("{longest}é"), &checks()).expect_err("too long");
    assert_eq!((longer.at, longer.length), (RULE_LENGTH_MAX, 2));

    let many: Vec<CheckName> = (0..RULE_TERMS_MAX / 2)
        .map(|number| CheckName::new(&format!("c{number}")).expect("a name"))
        .collect();
    assert!(Rule::parse("any and any", &many).is_ok());
    let fault = Rule::parse("any and any and c0", &many).expect_err("too many");
    assert_eq!(
        (fault.at, fault.what.as_str()),
        (16, "the rule names checks more than 16384 times")
    );
}

#[test]
fn kleene_truth_tables() {
    use Truth::{No, Unknown, Yes};
    let table = |text: &str| -> Vec<Truth> {
        let rule = Rule::parse(text, &checks()).expect("a rule");
        let pairs = TRUTHS
            .iter()
            .flat_map(|left| TRUTHS.iter().map(move |right| (*left, *right)));
        pairs
            .map(|(left, right)| {
                rule.evaluate(|name| if name.as_str() == "ping" { left } else { right })
            })
            .collect()
    };
    // Columns: Yes/Yes, Yes/No, Yes/Unknown, No/Yes, No/No, No/Unknown, Unknown/...
    assert_eq!(
        table("ping and apache"),
        [Yes, No, Unknown, No, No, No, Unknown, No, Unknown]
    );
    assert_eq!(
        table("ping or apache"),
        [Yes, Yes, Yes, Yes, No, Unknown, Yes, Unknown, Unknown]
    );
    assert_eq!(
        table("not ping"),
        [No, No, No, Yes, Yes, Yes, Unknown, Unknown, Unknown]
    );
    assert_eq!(table("1 of (ping, apache)"), table("ping or apache"));
    assert_eq!(table("2 of (ping, apache)"), table("ping and apache"));
    assert_eq!(table("any of (ping, apache)"), table("ping or apache"));
    assert_eq!(table("all of (ping, apache)"), table("ping and apache"));
}

#[test]
fn two_of_three_over_all_truths() {
    let rule = Rule::parse("2 of (ping, apache, my-sql)", &checks()).expect("a rule");
    for one in TRUTHS {
        for two in TRUTHS {
            for three in TRUTHS {
                let verdict = rule.evaluate(|name| match name.as_str() {
                    "ping" => one,
                    "apache" => two,
                    _ => three,
                });
                let count = |wanted| [one, two, three].iter().filter(|t| **t == wanted).count();
                let expected = match (count(Truth::Yes), count(Truth::Unknown)) {
                    (2 | 3, _) => Truth::Yes,
                    (1, 0) | (0, 0 | 1) => Truth::No,
                    _ => Truth::Unknown,
                };
                assert_eq!(verdict, expected, "{one:?} {two:?} {three:?}");
            }
        }
    }
}

#[test]
fn checks_are_named_once_in_order() {
    let rule = Rule::parse("apache and (ping or not apache) and 1 of (24)", &checks());
    let rule = rule.expect("a rule");
    let named: Vec<&str> = rule.checks().map(CheckName::as_str).collect();
    assert_eq!(named, ["apache", "ping", "24"]);
}

#[test]
fn the_words_of_the_language_are_small_letters() {
    assert!(
        RULE_WORDS
            .iter()
            .all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()))
    );
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let leaf = (0..checks().len()).prop_map(|at| Rule::Check(checks()[at].clone()));
    leaf.prop_recursive(4, 40, 4, |inner| {
        let parts = || prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            inner.clone().prop_map(|part| Rule::Not(Box::new(part))),
            parts().prop_map(Rule::All),
            parts().prop_map(Rule::Any),
            (parts(), 0..4_usize)
                .prop_map(|(parts, at)| Rule::AtLeast(at % parts.len() + 1, parts)),
        ]
    })
}

fn any_truth() -> impl Strategy<Value = Truth> {
    prop_oneof![Just(Truth::Yes), Just(Truth::No), Just(Truth::Unknown)]
}

proptest! {
    #[test]
    fn the_canonical_text_reads_back_as_the_same_rule(rule in any_rule()) {
        let text = rule.to_string();
        prop_assert_eq!(Rule::parse(&text, &checks()), Ok(rule), "{}", text);
    }

    /// What was decided without knowing everything stays decided, however the unknown
    /// checks turn out: a silent prober can delay a move, never cause or undo one.
    #[test]
    fn learning_more_never_changes_a_verdict(
        rule in any_rule(),
        truths in prop::collection::vec(any_truth(), 5),
        learnt in prop::collection::vec(any::<bool>(), 5),
    ) {
        let of = |name: &CheckName| checks().iter().position(|check| check == name).expect("known");
        let before = rule.evaluate(|name| truths[of(name)]);
        let after = rule.evaluate(|name| match truths[of(name)] {
            Truth::Unknown => Truth::from(learnt[of(name)]),
            known => known,
        });
        prop_assert!(after != Truth::Unknown);
        prop_assert!(before == Truth::Unknown || before == after);
    }

    /// Nothing that a person can type makes the reader stumble, and every fault points
    /// at whole characters of the text.
    #[test]
    fn any_text_is_read_or_refused(
        words in prop::collection::vec(
            prop_oneof![
                Just("ping"), Just("apache"), Just("and"), Just("or"), Just("not"), Just("any"),
                Just("all"), Just("of"), Just("2"), Just("("), Just(")"), Just(","), Just("é"),
                Just("\u{a0}"), Just("&&"), Just("\""), Just("x"),
            ],
            0..12,
        ),
        glue in prop_oneof![Just(""), Just(" ")],
    ) {
        let text = words.join(glue);
        match Rule::parse(&text, &checks()) {
            Ok(rule) => prop_assert_eq!(Rule::parse(&rule.to_string(), &checks()), Ok(rule)),
            Err(fault) => {
                prop_assert!(text.get(fault.at..fault.at + fault.length).is_some(), "{:?}", fault);
                prop_assert!(fault.length > 0 || fault.at == text.len() || text.trim().is_empty());
                prop_assert!(!fault.what.is_empty() && !fault.help.is_empty());
            }
        }
    }
}
