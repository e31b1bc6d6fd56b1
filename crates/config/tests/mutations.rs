//! A good file with one token changed, or with anything in it: used or refused, with
//! places inside the text, and never a panic.

use evenkeel_config::{Faults, parse};
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../examples/three-machines.toml");

/// Uses the elements that the example leaves out.
const MORE: &str = r#"cluster = "shop"
revoked = ["0000000000000000000000000000000000000000000000000000000000000001"]
[timing]
lease = "1s500ms"
heartbeat = '8ms'
[node."a.1"]
address = "[2001:db8::11]:7946"
voter = true
[group.g]
nodes = ["a.1"]
addresses = ["2001:db8::1/64@eth0"]
fail_when = """2 of (\u0061, \
   b or not c)"""
failback = "auto after 10m"
without_majority = "mute"
[group.g.check]
a = { http = "https://[2001:db8::9]:8443/x?{node}&y", tls = { ca = "/x", verify = true }, status = 200 }
b = { http = "http://{node}", method = "GET", body = "b", host = "h:80" }
c.ping = "{node}"
d = { exec = "/x {node} y", from = ["node"] }
e = { nagios = ["/usr/lib/nagios/plugins/check_http", "-H", "{node}", "a b"], from = ["peers"] }
f = { process = "apache2", pidfile = "/run/x.pid" }
g = { dns = "www.example.net.", server = "[2001:db8::9]:5353", type = "MX", expect = "10 mail." }
h = { smtp = "{node}:25", starttls = true, host = "mail.example.net", tls = { verify = false } }
i = { smtp = "192.0.2.5:25", from = ["node"], service = "b" }
k = { unit = "a.service", service = "b" }
j.dns = "."
[group.g.service]
a = { unit = "a.service", when = "always", restart = 1, after = ["b"] }
b = { start = ["/x", "y"], stop = "z", when = "always", status = 'w', start_timeout = "1s", after = [] }
[group.g.hook]
before_open = "/x"
keepalived = ["/y", "z"]
hook_timeout = "1s"
"#;

/// What a token is replaced with: every kind of thing that a file is made of.
const REPLACEMENTS: [&str; 24] = [
    "",
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "]]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "#",
    "\n",
    "-1",
    "0",
    "1e9",
    "99999999999999999999",
    "true",
    "1979-05-27",
    "\u{fc}",
    "\0",
    "\"{node}\"",
    "\\",
];

/// The bytes where tokens start and end: words, numbers, blanks, and each other sign.
fn tokens(text: &str) -> Vec<std::ops::Range<usize>> {
    let class = |c: char| match c {
        c if c.is_alphanumeric() => 0,
        ' ' => 1,
        _ => 2,
    };
    let mut tokens: Vec<std::ops::Range<usize>> = Vec::new();
    let mut before = 2;
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        match tokens.last_mut() {
            Some(last) if class(c) == before && before != 2 => last.end = end,
            Some(_) | None => tokens.push(at..end),
        }
        before = class(c);
    }
    tokens
}

/// The faults of a text are usable, whatever is wrong with it.
fn judge(text: &str) {
    let faults: Faults = match parse(text, "f") {
        Ok(config) => {
            let again = parse(&config.effective(), "again");
            let again = again.unwrap_or_else(|faults| panic!("{text}\n{faults}"));
            assert_eq!(again.digest, config.digest, "{text}");
            config.warnings
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "{text}");
            faults
        }
    };
    for fault in &faults {
        let span = fault.span().expect("every fault of a text has a place");
        assert!(
            text.get(span.clone()).is_some(),
            "{fault} at {span:?} of {}",
            text.len()
        );
        let place = fault
            .place
            .as_ref()
            .expect("every fault of a text has a place");
        let line = text
            .split('\n')
            .nth(place.line - 1)
            .expect("a line of the text");
        assert!(place.column <= line.chars().count() + 1, "{fault}");
        assert!(
            !fault.message.is_empty() && !fault.help.is_empty(),
            "{fault}"
        );
        assert!(
            !fault.to_string().contains('\n'),
            "{fault:?} takes one line"
        );
    }
}

/// Only a good file shows what one changed token does.
#[test]
fn what_is_changed_is_good() {
    for good in [EXAMPLE, MORE] {
        assert!(
            parse(good, "f").is_ok(),
            "{}",
            parse(good, "f").expect_err("faults")
        );
    }
}

#[test]
fn every_token_deleted_or_replaced() {
    for good in [EXAMPLE, MORE] {
        for token in tokens(good) {
            for replacement in REPLACEMENTS {
                let (before, after) = (&good[..token.start], &good[token.end..]);
                judge(&format!("{before}{replacement}{after}"));
            }
        }
    }
}

#[test]
fn every_token_doubled_and_every_beginning() {
    for good in [EXAMPLE, MORE] {
        for token in tokens(good) {
            judge(&format!("{}{}", &good[..token.end], &good[token.start..]));
            judge(&good[..token.end]);
        }
    }
}

#[test]
fn what_was_changed_can_be_shown() {
    for token in tokens(MORE).iter().step_by(7) {
        let text = format!("{}\u{fc}\n{}", &MORE[..token.start], &MORE[token.end..]);
        if let Err(faults) = parse(&text, "f") {
            assert_eq!(
                faults.render(false).matches("help: ").count(),
                faults.len(),
                "{text}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_used_or_refused(text in "(\\PC|[\"'=\\[\\]{}\n#.]){0,80}") {
        judge(&text);
    }

    #[test]
    fn any_value_in_any_place(
        key in prop_oneof![
            Just("cluster"), Just("profile"), Just("revoked"), Just("timing.lease"),
            Just("node.a.address"), Just("group.g.nodes"), Just("group.g.addresses"),
            Just("group.g.fail_when"), Just("group.g.failback"), Just("group.g.drain"),
            Just("group.g.check.c.http"), Just("group.g.check.c.ping"),
            Just("group.g.check.c.status"), Just("group.g.check.c.from"),
        ],
        value in "[ -~é]{0,20}",
        kind in 0..3,
    ) {
        let quoted = value.replace(['\\', '"'], "x");
        judge(&match kind {
            0 => format!("{key} = \"{quoted}\"\n"),
            1 => format!("{key} = [\"{quoted}\"]\n"),
            _ => format!("{key} = {value}\n"),
        });
    }
}
