//! Bad files: each fault is found at its line and column, with the reason and the remedy.

use evenkeel_config::{Faults, parse};

/// A file without fault; each case changes one thing of it.
const GOOD: &str = r#"cluster = "shop"
profile = "balanced"

[node.ams1]
address = "192.0.2.11:7946"
[node.fra1]
address = "192.0.2.12:7946"
[node.tie]
address = "192.0.2.13:7946"
witness = true

[group.www]
nodes = ["ams1", "fra1"]
addresses = ["192.0.2.100/24", "2001:db8::100/64@eth0"]
fail_when = "ping and apache"
failback = "manual"
drain = "2s"
[group.www.check.ping]
ping = "{node}"
[group.www.check.apache]
http = "http://{node}/"
interval = "50ms"
from = ["node", "peers"]
fall = 2
"#;

fn shown(faults: &Faults) -> Vec<String> {
    faults
        .iter()
        .map(|fault| format!("{fault} | {}", fault.help))
        .collect()
}

/// `GOOD` with `old` replaced by `new` is refused with exactly these faults.
fn refused(old: &str, new: &str, expected: &[&str]) {
    assert_eq!(
        GOOD.matches(old).count(),
        1,
        "{old:?} must stand once in the good file"
    );
    refused_text(&GOOD.replace(old, new), expected);
}

fn refused_text(text: &str, expected: &[&str]) {
    let faults = parse(text, "f")
        .err()
        .map(|faults| shown(&faults))
        .unwrap_or_default();
    assert_eq!(faults, expected, "{text}");
    assert!(!faults.is_empty(), "{text}");
}

/// `GOOD` with `old` replaced by `new` is used, with exactly these warnings.
fn warned(old: &str, new: &str, expected: &[&str]) {
    assert_eq!(
        GOOD.matches(old).count(),
        1,
        "{old:?} must stand once in the good file"
    );
    let config = parse(&GOOD.replace(old, new), "f").unwrap_or_else(|faults| panic!("{faults}"));
    let warnings = shown(&config.warnings);
    assert_eq!(warnings, expected, "{new}");
}

#[test]
fn the_good_file_is_good() {
    let config = parse(GOOD, "f").unwrap_or_else(|faults| panic!("{faults}"));
    assert!(config.warnings.is_empty(), "{}", config.warnings);
}

#[test]
fn unknown_keys_are_told_what_was_meant() {
    refused(
        "profile =",
        "profil =",
        &["f:2:1: unknown key \"profil\" at the top of the file | did you mean \"profile\"?"],
    );
    refused(
        "cluster =",
        "lease = \"1s\"\ncluster =",
        &["f:1:1: unknown key \"lease\" at the top of the file | it belongs in [timing]"],
    );
    refused(
        "cluster =",
        "colour = 1\ncluster =",
        &[
            "f:1:1: unknown key \"colour\" at the top of the file | known here: cluster, profile, timing, node, group, revoked",
        ],
    );
    refused(
        "[node.ams1]",
        "[nodes.ams1]",
        &[
            "f:4:2: unknown key \"nodes\" at the top of the file | did you mean \"node\"?",
            "f:13:10: there is no node \"ams1\" | the nodes that host are fra1",
        ],
    );
    refused(
        "witness = true",
        "wittness = true",
        &["f:10:1: unknown key \"wittness\" in [node.tie] | did you mean \"witness\"?"],
    );
    refused(
        "drain =",
        "revoked = []\ndrain =",
        &[
            "f:17:1: unknown key \"revoked\" in [group.www] | it belongs at the top of the file, before the first [section]",
        ],
    );
    refused(
        "fall = 2",
        "fail = 2",
        &["f:24:1: unknown key \"fail\" in [group.www.check.apache] | did you mean \"fall\"?"],
    );
    refused(
        "fall = 2",
        "xyzzy = 2",
        &[
            "f:24:1: unknown key \"xyzzy\" in [group.www.check.apache] | known here: http, interval, timeout, from, fall, rise, service, status, body, method, host, tls",
        ],
    );
    refused(
        "ping = \"{node}\"",
        "ping = \"{node}\"\nstatus = 200",
        &["f:20:1: \"status\" belongs to http checks | remove it, or ask with http"],
    );
    refused(
        "ping = \"{node}\"",
        "tcp = \"{node}\"\nsned = \"x\"\nbody = \"y\"\nexpect = \"\"",
        &[
            "f:19:7: \"{node}\" has no port | write for example \"{node}:5432\" or \"[2001:db8::1]:5432\"",
            "f:20:1: unknown key \"sned\" in [group.www.check.ping] | did you mean \"send\"?",
            "f:21:1: \"body\" belongs to http checks | remove it, or ask with http",
            "f:22:10: expect is empty | remove it",
        ],
    );
    refused(
        "ping = \"{node}\"",
        "ping = \"{node}\"\ntcp = \"{node}:80\"",
        &["f:20:1: a check asks one question, not ping and tcp | make two checks of it"],
    );
    refused(
        "drain =",
        "interval = \"1s\"\ndrain =",
        &[
            "f:17:1: unknown key \"interval\" in [group.www] | it belongs in [group.NAME.check.NAME]",
        ],
    );
    refused(
        "ping = \"{node}\"",
        "mysql = \"x\"",
        &[
            "f:19:1: \"mysql\" is not built yet in this version | ask in another way, as with tcp or nagios, or remove this check",
        ],
    );
    refused(
        "[group.www]",
        "[timing]\nleese = \"1s\"\n[group.www]",
        &["f:13:1: unknown key \"leese\" in [timing] | did you mean \"lease\"?"],
    );
}

#[test]
fn checks_of_units_and_of_services() {
    let ping = "ping = \"{node}\"";
    refused(
        ping,
        "unit = \"apache2\"",
        &[
            "f:19:8: \"apache2\" does not say which kind of unit it is | did you mean \"apache2.service\"?",
        ],
    );
    refused(
        ping,
        "unit = \"apache2.service\"\nfrom = [\"node\", \"peers\"]",
        &[
            "f:20:8: peers cannot see whether \"apache2.service\" is up | write from = [\"node\"], or ask with tcp or http what it serves",
        ],
    );
    refused(
        ping,
        "unit = \"apache2.service\"\npidfile = \"/x\"",
        &["f:20:1: \"pidfile\" belongs to process checks | remove it, or ask with process"],
    );
    let service = "[group.www.service.web]\nunit = \"apache2.service\"\n[group.www.check.ping]";
    refused(
        "[group.www.check.ping]",
        &format!("{service}\nservice = \"wbe\""),
        &["f:21:11: the group has no service \"wbe\" | did you mean \"web\"?"],
    );
    refused(
        ping,
        &format!("{ping}\nservice = \"web\""),
        &[
            "f:20:11: the group has no service \"web\" | write the name of a service of the same group",
        ],
    );
    warned(
        "[group.www.check.ping]\nping = \"{node}\"",
        "[group.www.service.web]\nunit = \"a.service\"\nrestart = 2\n[group.www.check.ping]\nunit = \"a.service\"",
        &[],
    );
    refused(
        ping,
        &format!("{ping}\nservice = 1"),
        &[
            "f:20:11: service must be a string in quotes, not a whole number | write the name of a service of the same group",
        ],
    );
}

#[test]
fn cluster_and_timing() {
    refused(
        "cluster = \"shop\"\n",
        "",
        &[
            "f:1:1: \"cluster\" is missing at the top of the file | add for example cluster = \"shop\"",
        ],
    );
    refused(
        "cluster = \"shop\"",
        "cluster = \"my shop\"",
        &[
            "f:1:11: \"my shop\" is not a name: ' ' cannot stand there (letters, digits, '.', '_' and '-', a letter or digit first) | choose another name for the cluster",
        ],
    );
    refused(
        "cluster = \"shop\"",
        "cluster = 5",
        &[
            "f:1:11: cluster must be a string in quotes, not a whole number | write for example cluster = \"shop\"",
        ],
    );
    refused(
        "\"balanced\"",
        "\"blanced\"",
        &[
            "f:2:11: there is no profile \"blanced\" | did you mean \"balanced\"? the profiles are fast, balanced, wan",
        ],
    );
    refused(
        "\"balanced\"",
        "\"slow\"",
        &["f:2:11: there is no profile \"slow\" | the profiles are fast, balanced, wan"],
    );
    refused(
        "\"balanced\"",
        "1",
        &[
            "f:2:11: profile must be a string in quotes, not a whole number | the profiles are fast, balanced, wan",
        ],
    );
    refused(
        "[group.www]",
        "[timing]\nlease = \"50ms\"\nheartbeat = \"20ms\"\n[group.www]",
        &[
            "f:13:9: lease = 50ms is too short for heartbeat = 20ms | a lease is at least 3 heartbeats: write lease = \"60ms\" or heartbeat = \"16ms\"",
        ],
    );
    refused(
        "[group.www]",
        "[timing]\nlease = \"50ms\"\n[group.www]",
        &[
            "f:13:9: lease = 50ms is too short for heartbeat = 20ms (of profile \"balanced\") | a lease is at least 3 heartbeats: write lease = \"60ms\" or heartbeat = \"16ms\"",
        ],
    );
    refused(
        "[group.www]",
        "[timing]\nheartbeat = \"50ms\"\n[group.www]",
        &[
            "f:13:13: lease = 120ms (of profile \"balanced\") is too short for heartbeat = 50ms | a lease is at least 3 heartbeats: write lease = \"150ms\" or heartbeat = \"40ms\"",
        ],
    );
    refused(
        "[group.www]",
        "[timing]\nlease = \"5ms\"\nheartbeat = \"100us\"\n[group.www]",
        &[
            "f:13:9: lease = 5ms is too short | the shortest lease is 20ms",
            "f:14:13: heartbeat = 100us is too short | the shortest heartbeat is 1ms",
        ],
    );
    refused(
        "[group.www]",
        "[timing]\nlease = 120\nheartbeat = \"twenty\"\n[group.www]",
        &[
            "f:13:9: lease must be a string in quotes, not a whole number | write a number and a unit, as in \"50ms\", \"1.5s\", \"10m\" or \"1h30m\" (units: us, ms, s, m, h, d)",
            "f:14:14: \"twenty\" is not a time | write a number and a unit, as in \"50ms\", \"1.5s\", \"10m\" or \"1h30m\" (units: us, ms, s, m, h, d)",
        ],
    );
    refused(
        "[group.www]",
        "[timing]\nlease = \"2m\"\n[group.www]",
        &["f:13:9: lease = 2m is too long | the longest lease is 1m"],
    );
    refused(
        "profile = \"balanced\"",
        "timing = 5",
        &[
            "f:2:1: [timing] must be a section, not a whole number | write [timing] and its keys below it",
        ],
    );
}

#[test]
fn nodes() {
    refused(
        "address = \"192.0.2.11:7946\"\n",
        "",
        &[
            "f:4:1: \"address\" is missing in [node.ams1] | add for example address = \"192.0.2.11:7946\"",
        ],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"192.0.2.11\"",
        &["f:5:11: \"192.0.2.11\" has no port | write for example \"192.0.2.11:7946\""],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"2001:db8::11\"",
        &["f:5:11: \"2001:db8::11\" has no port | write for example \"[2001:db8::11]:7946\""],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"[2001:db8::11]\"",
        &["f:5:11: \"[2001:db8::11]\" has no port | write for example \"[2001:db8::11]:7946\""],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"192.0.2.11:http\"",
        &["f:5:11: \"http\" is no port | a port is a number from 1 to 65535"],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"192.0.2.11:0\"",
        &["f:5:11: \"192.0.2.11:0\": port 0 is no port | write the port to listen on"],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"ams1.example.com:7946\"",
        &[
            "f:5:11: \"ams1.example.com:7946\" is not an address with a port | write for example \"192.0.2.11:7946\" or \"[2001:db8::11]:7946\"; names are not looked up, because nodes must find each other when DNS is down",
        ],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"0.0.0.0:7946\"",
        &[
            "f:5:11: \"0.0.0.0:7946\": a node's address cannot be unspecified | write the address at which the other nodes reach it",
        ],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"[::]:7946\"",
        &[
            "f:5:11: \"[::]:7946\": a node's address cannot be unspecified | write the address at which the other nodes reach it",
        ],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"239.1.1.1:7946\"",
        &[
            "f:5:11: \"239.1.1.1:7946\": a node's address cannot be a multicast or broadcast address | write the address at which the other nodes reach it",
        ],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"[fe80::1%2]:7946\"",
        &[
            "f:5:11: \"[fe80::1%2]:7946\": a link-local address means another thing on every interface | write a global or unique local address",
        ],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"[::ffff:192.0.2.11]:7946\"",
        &[
            "f:5:11: \"[::ffff:192.0.2.11]:7946\": this is an IPv4 address written as IPv6 | write it as IPv4",
        ],
    );
    refused(
        "\"192.0.2.11:7946\"",
        "\"192.0.2.12:7946\"",
        &[
            "f:7:11: 192.0.2.12:7946 is already the address of \"ams1\" | every node has its own address and port",
        ],
    );
    refused(
        "[node.tie]",
        "[node.\"tie break\"]",
        &[
            "f:8:7: \"tie break\" is not a name: ' ' cannot stand there (letters, digits, '.', '_' and '-', a letter or digit first) | choose another name for the node",
        ],
    );
    refused(
        "witness = true",
        "witness = \"yes\"",
        &[
            "f:10:11: witness must be true or false, not a string | write true or false, without quotes",
        ],
    );
    refused(
        "witness = true",
        "witness = true\nvoter = false",
        &["f:11:9: a witness that does not vote has no purpose | remove witness or voter"],
    );
    refused(
        "witness = true",
        "voter = false",
        &[
            "f:10:9: every node votes in this version | remove it; a node that is to host nothing is a witness (witness = true)",
        ],
    );
    refused(
        "[node.tie]",
        "[[node.tie]]",
        &[
            "f:8:8: [node.tie] is one section, not a list of them | write [node.tie] in single brackets, once",
        ],
    );
    refused(
        "[node.ams1]",
        "[node]\nams1 = 5\n[node.ams2]",
        &[
            "f:5:1: [node.ams1] must be a section, not a whole number | write [node.NAME] and its keys below it",
        ],
    );
}

#[test]
fn groups() {
    refused(
        "nodes = [\"ams1\", \"fra1\"]\n",
        "",
        &[
            "f:12:1: \"nodes\" is missing in [group.www] | add for example nodes = [\"ams1\", \"fra1\"]",
        ],
    );
    refused(
        "[\"ams1\", \"fra1\"]",
        "\"ams1\"",
        &[
            "f:13:9: nodes must be a list of strings, not a string | write for example nodes = [\"ams1\", \"fra1\"]",
        ],
    );
    refused(
        "[\"ams1\", \"fra1\"]",
        "[]",
        &["f:13:9: no node may hold this group | write for example nodes = [\"ams1\", \"fra1\"]"],
    );
    refused(
        "[\"ams1\", \"fra1\"]",
        "[1, \"ams1\", \"ams1\"]",
        &[
            "f:13:10: a member of nodes must be a string in quotes, not a whole number | write for example nodes = [\"ams1\", \"fra1\"]",
            "f:13:21: \"ams1\" is named twice | remove one of them",
        ],
    );
    refused(
        "[\"ams1\", \"fra1\"]",
        "[\"ams2\", \"tie\", \"paris\"]",
        &[
            "f:13:10: there is no node \"ams2\" | did you mean \"ams1\"?",
            "f:13:18: \"tie\" is a witness, which hosts nothing | remove it here, or remove witness = true there",
            "f:13:25: there is no node \"paris\" | the nodes that host are ams1, fra1",
        ],
    );
    refused(
        "\"manual\"",
        "\"auto after\"",
        &[
            "f:16:12: \"auto after\" is no way to come back | write \"manual\", or for example \"auto after 10m\"",
        ],
    );
    refused(
        "\"manual\"",
        "\"auto after 10\"",
        &[
            "f:16:24: 10 has no unit | write a number and a unit, as in \"50ms\", \"1.5s\", \"10m\" or \"1h30m\" (units: us, ms, s, m, h, d)",
        ],
    );
    refused(
        "\"manual\"",
        "\"auto after 1ms\"",
        &["f:16:24: failback = 1ms is too short | the shortest failback is 1s"],
    );
    refused(
        "\"manual\"",
        "\"manul\"",
        &["f:16:12: \"manul\" is no way to come back | did you mean \"manual\"?"],
    );
    refused(
        "\"manual\"",
        "\"auto after 40d\"",
        &["f:16:24: failback = 40d is too long | the longest failback is 30d"],
    );
    refused(
        "\"2s\"",
        "2",
        &[
            "f:17:9: drain must be a string in quotes, not a whole number | write a number and a unit, as in \"50ms\", \"1.5s\", \"10m\" or \"1h30m\" (units: us, ms, s, m, h, d)",
        ],
    );
    refused(
        "\"2s\"",
        "\"1h\"",
        &["f:17:9: drain = 1h is too long | the longest drain is 10m"],
    );
    refused(
        "\"2s\"",
        "\"-1s\"",
        &[
            "f:17:10: \"-1s\" is not a time | write a number and a unit, as in \"50ms\", \"1.5s\", \"10m\" or \"1h30m\" (units: us, ms, s, m, h, d)",
        ],
    );
    refused(
        "\"2s\"",
        "\"2 s econds\"",
        &[
            "f:17:14: \"2 s econds\" is not a time | write a number and a unit, as in \"50ms\", \"1.5s\", \"10m\" or \"1h30m\" (units: us, ms, s, m, h, d)",
        ],
    );
    refused(
        "drain =",
        "without_majority = \"serv\"\ndrain =",
        &[
            "f:17:20: \"serv\" is not \"mute\" | write \"mute\", or leave it out, which means the same",
        ],
    );
    refused(
        "drain =",
        "without_majority = \"vote\"\ndrain =",
        &[
            "f:17:20: \"vote\" is not \"mute\" | write \"mute\", or leave it out, which means the same",
        ],
    );
    refused(
        "drain =",
        "without_majority = \"serve\"\ndrain =",
        &[
            "f:17:20: no node of this version serves without a majority: it cannot know whether the others are dead or serve where it does not see them | take it out; a third vote anywhere keeps the majority (witness = true), and when the others are off for certain an operator runs `evenkeel recover --alone`",
        ],
    );
}

#[test]
fn addresses() {
    refused(
        "\"192.0.2.100/24\"",
        "\"192.0.2.100\"",
        &[
            "f:14:15: \"192.0.2.100\" has no prefix length | write the length of its subnet, for example \"192.0.2.100/24\"",
        ],
    );
    refused(
        "\"192.0.2.100/24\"",
        "\"192.0.2.100/33\"",
        &["f:14:27: \"33\" is no prefix length | for IPv4 it is a number from 1 to 32"],
    );
    refused(
        "\"192.0.2.100/24\"",
        "\"192.0.2.11/24\"",
        &[
            "f:14:14: 192.0.2.11 is the own address of node \"ams1\" | an address that moves is no node's own",
        ],
    );
    refused(
        "\"192.0.2.100/24\"",
        "\"2001:DB8:0::100/60@eth1\"",
        &["f:14:41: 2001:db8::100 stands twice in this group | remove one of them"],
    );
    refused(
        "\"192.0.2.100/24\"",
        "\"192.0.2.100/32\"",
        &[
            "f:14:27: a subnet of /32 has no interface | write the length of the subnet, or name the interface, as in \"192.0.2.100/32@eth0\"",
        ],
    );
    refused(
        "\"192.0.2.100/24\"",
        "\"192.0.2.100/24@\"",
        &["f:14:30: \"\" is no name of an interface | `ip link` lists the interfaces of a machine"],
    );
    refused(
        "fall = 2\n",
        "fall = 2\n[group.mail]\nnodes = [\"fra1\", \"ams1\"]\naddresses = [\"192.0.2.100/24\"]\n",
        &["f:27:14: 192.0.2.100 is in group \"www\" already | remove one of them"],
    );
}

#[test]
fn rules_point_into_the_string() {
    refused(
        "\"ping and apache\"",
        "\"ping and apach\"",
        &["f:15:23: there is no check \"apach\" | did you mean \"apache\"?"],
    );
    refused(
        "\"ping and apache\"",
        "'ping && apache'",
        &["f:15:19: `&&` has no meaning in a rule | write `and`"],
    );
    refused(
        "\"ping and apache\"",
        "\"p\\u0069ng and (apache\"",
        &["f:15:28: this bracket is never closed | add `)`"],
    );
    refused(
        "\"ping and apache\"",
        "\"\"\"\nping\nand \\\n   nginx\"\"\"",
        &["f:18:4: there is no check \"nginx\" | the checks of this group are apache, ping"],
    );
    refused(
        "\"ping and apache\"",
        "\"\"",
        &[
            "f:15:14: the rule is empty | name the checks that must fail, as in \"ping and apache\", or leave fail_when out: then any failing check counts",
        ],
    );
    refused(
        "\"ping and apache\"",
        "\"ping or\"",
        &["f:15:21: the rule ends after `or` | name the check that should follow"],
    );
    refused(
        "\"ping and apache\"",
        "\"not ping\"",
        &[
            "f:15:13: this rule holds when every check is well | a name means that this check fails: remove `not`",
        ],
    );
    refused(
        "\"ping and apache\"",
        "[\"ping\"]",
        &[
            "f:15:13: fail_when must be a string in quotes, not a list | write names of checks, as in \"ping and apache\"",
        ],
    );
}

#[test]
fn checks() {
    refused(
        "\"50ms\"",
        "\"50 msec\"",
        &[
            "f:22:16: \"msec\" is no unit of time | write a number and a unit, as in \"50ms\", \"1.5s\", \"10m\" or \"1h30m\" (units: us, ms, s, m, h, d)",
        ],
    );
    refused(
        "\"50ms\"",
        "\"5ms\"",
        &["f:22:12: interval = 5ms is too short | the shortest interval is 10ms"],
    );
    refused(
        "fall = 2",
        "fall = 0",
        &["f:24:8: fall = 0 is out of bounds | write a whole number from 1 to 1000"],
    );
    refused(
        "fall = 2",
        "fall = -1",
        &["f:24:8: fall = -1 is out of bounds | write a whole number from 1 to 1000"],
    );
    refused(
        "fall = 2",
        "fall = 2.0",
        &[
            "f:24:8: fall must be a whole number, not a number with a point | write a whole number from 1 to 1000",
        ],
    );
    refused(
        "fall = 2",
        "fall = \"2\"",
        &[
            "f:24:8: fall must be a whole number, not a string | write a whole number from 1 to 1000",
        ],
    );
    refused(
        "[\"node\", \"peers\"]",
        "[]",
        &["f:23:8: nobody asks | write for example from = [\"node\", \"peers\"], or remove it"],
    );
    refused(
        "[\"node\", \"peers\"]",
        "[\"nodes\", \"everyone\"]",
        &[
            "f:23:9: \"nodes\" cannot ask | did you mean \"node\"?",
            "f:23:18: \"everyone\" cannot ask | \"node\" is the judged node itself, \"peers\" are the others",
        ],
    );
    refused(
        "ping = \"{node}\"\n",
        "",
        &[
            "f:18:1: [group.www.check.ping] asks nothing | add for example ping = \"{node}\" or http = \"http://{node}/\"",
        ],
    );
    refused(
        "ping = \"{node}\"",
        "ping = \"{nod}\"",
        &[
            "f:19:8: \"{nod}\" is neither {node} nor an IP address | write {node} or an address: a check must not depend on DNS",
        ],
    );
    refused(
        "ping = \"{node}\"",
        "ping = \"gateway.example.com\"",
        &[
            "f:19:8: \"gateway.example.com\" is neither {node} nor an IP address | write {node} or an address: a check must not depend on DNS",
        ],
    );
    refused(
        "[group.www.check.ping]",
        "[group.www.check.any]",
        &[
            "f:15:14: there is no check \"ping\" | the checks of this group are apache",
            "f:18:18: \"any\" is a word of fail_when | choose another name for the check",
        ],
    );
    refused(
        "[group.www.check.ping]",
        "[group.www.check.\"a b\"]",
        &[
            "f:15:14: there is no check \"ping\" | the checks of this group are apache",
            "f:18:18: \"a b\" is not a name: ' ' cannot stand there (letters, digits, '.', '_' and '-', a letter or digit first) | choose another name for the check",
        ],
    );
}

#[test]
fn web_checks() {
    refused(
        "ping = \"{node}\"",
        "ping = \"{node}\"\nhttp = \"http://{node}/\"",
        &["f:20:1: a check asks one question, not ping and http | make two checks of it"],
    );
    refused(
        "\"http://{node}/\"",
        "\"http://www.example.com/\"",
        &[
            "f:21:16: \"www.example.com\" is neither {node} nor an IP address | write {node} or an address: a check must not depend on DNS",
        ],
    );
    refused(
        "\"http://{node}/\"",
        "\"http://{node}:0/\"",
        &["f:21:23: \"0\" is no port | a port is a number from 1 to 65535"],
    );
    refused(
        "\"http://{node}/\"",
        "\"http://{node}/\\u00fc\"",
        &["f:21:23: 'ü' cannot stand in a URL | write it as % and two hexadecimal digits per byte"],
    );
    refused(
        "\"http://{node}/\"",
        "\"{node}\"",
        &[
            "f:21:9: \"{node}\" is not a URL | write for example \"http://{node}/\" or \"https://{node}:8443/health\"",
        ],
    );
    refused(
        "fall = 2",
        "status = \"200-99\"",
        &[
            "f:24:11: \"99\" is no status code | write codes and ranges, as in \"200-399\" or \"200, 204, 301-302\"",
        ],
    );
    refused(
        "fall = 2",
        "status = 2000",
        &[
            "f:24:10: \"2000\" is no status code | write codes and ranges, as in \"200-399\" or \"200, 204, 301-302\"",
        ],
    );
    refused(
        "fall = 2",
        "status = true",
        &[
            "f:24:10: status must be a string or a number, not true or false | write codes and ranges, as in \"200-399\" or \"200, 204, 301-302\"",
        ],
    );
    refused(
        "fall = 2",
        "method = \"get\"",
        &["f:24:10: there is no method \"get\" for checks | did you mean \"GET\"?"],
    );
    refused(
        "fall = 2",
        "method = \"HEAD\"\nbody = \"x\"",
        &["f:25:1: an answer to HEAD has no body | remove body, or method"],
    );
    refused(
        "fall = 2",
        "body = \"\"",
        &["f:24:8: every answer contains an empty text | write a text that a good answer contains"],
    );
    refused(
        "fall = 2",
        "host = \"http://x\"",
        &[
            "f:24:8: \"http://x\" is no host | write the name of the site, as in \"www.example.com\" or \"www.example.com:8080\"",
        ],
    );
    refused(
        "fall = 2",
        "tls = { verify = false }",
        &["f:24:1: tls has no meaning for an http:// URL | write https:// or remove tls"],
    );
    refused(
        "http = \"http://{node}/\"",
        "http = \"https://{node}/\"\ntls = { ca = \"ca.pem\" }",
        &["f:22:14: \"ca.pem\" is not an absolute path | write the whole path, from / on"],
    );
    refused(
        "http = \"http://{node}/\"",
        "http = \"https://{node}/\"\ntls = { ca = \"/ca.pem\", verify = false, cert = 1 }",
        &[
            "f:22:25: verify = false ignores the authority in ca | remove one of them",
            "f:22:41: unknown key \"cert\" in [group.www.check.apache.tls] | known here: ca, verify",
        ],
    );
    refused(
        "http = \"http://{node}/\"",
        "http = \"https://{node}/\"\ntls = true",
        &[
            "f:22:1: [group.www.check.apache.tls] must be a section, not true or false | write tls = { ca = \"/path/of/ca.pem\" } or tls = { verify = false }",
        ],
    );
}

#[test]
fn revoked_certificates() {
    refused(
        "profile =",
        "revoked = [\"12:34\"]\nprofile =",
        &[
            "f:2:12: \"12:34\" is no SHA-256 fingerprint | write for example revoked = [\"AB:CD:...\"] with the 64 hexadecimal digits that `openssl x509 -noout -fingerprint -sha256 -in NAME.pem` prints",
        ],
    );
    refused(
        "profile =",
        "revoked = \"x\"\nprofile =",
        &[
            "f:2:11: revoked must be a list of strings, not a string | write for example revoked = [\"AB:CD:...\"] with the 64 hexadecimal digits that `openssl x509 -noout -fingerprint -sha256 -in NAME.pem` prints",
        ],
    );
}

#[test]
fn text_that_is_no_toml() {
    refused_text(
        "drain = 2s",
        &["f:1:9: this is not TOML: string values must be quoted | write \"2s\""],
    );
    refused_text(
        "lease = 120ms\n",
        &["f:1:9: this is not TOML: string values must be quoted | write \"120ms\""],
    );
    refused_text(
        "address = 192.0.2.11:7946",
        &[
            "f:1:16: this is not TOML: invalid float | a text stands in quotes, as in drain = \"2s\"",
        ],
    );
    refused_text(
        "from = [node]",
        &["f:1:9: this is not TOML: invalid float | a text stands in quotes, as in drain = \"2s\""],
    );
    refused_text(
        "addresses = [192.0.2.1/24]",
        &[
            "f:1:19: this is not TOML: invalid float | a text stands in quotes, as in drain = \"2s\"",
        ],
    );
    refused_text(
        "witness = yes",
        &["f:1:11: this is not TOML: string values must be quoted | write \"yes\""],
    );
    refused_text(
        "x = 1.2.3",
        &[
            "f:1:8: this is not TOML: invalid float | https://toml.io/en/v1.1.0 describes the format",
        ],
    );
    refused_text(
        "x = 2020-01-99",
        &["f:1:5: this is not TOML: invalid date | expected here: day between 01 and 31"],
    );
    refused_text(
        "x = 07",
        &[
            "f:1:5: this is not TOML: unexpected leading zero | https://toml.io/en/v1.1.0 describes the format",
        ],
    );
    refused_text(
        "",
        &[
            "f:1:1: \"cluster\" is missing at the top of the file | add for example cluster = \"shop\"",
            "f:1:1: the file has no nodes | add for example [node.ams1] with address = \"192.0.2.11:7946\"",
        ],
    );
    refused_text(
        "\n\n",
        &[
            "f:1:1: \"cluster\" is missing at the top of the file | add for example cluster = \"shop\"",
            "f:1:1: the file has no nodes | add for example [node.ams1] with address = \"192.0.2.11:7946\"",
        ],
    );
    refused_text(
        "cluster = shop\nprofile = fast\n",
        &[
            "f:1:11: this is not TOML: string values must be quoted | write \"shop\"",
            "f:2:11: this is not TOML: invalid boolean | a text stands in quotes, as in drain = \"2s\"",
        ],
    );
    refused_text(
        "a = 1\na = 2\n[b\n[c]\n",
        &[
            "f:2:1: this is not TOML: duplicate key | \"a\" stands here a second time: remove one of them",
            "f:3:3: this is not TOML: unclosed table | expected here: `]`",
        ],
    );
    refused_text(
        "[node.a]\naddress = \"x\n[node.b]\naddress = 'y\n",
        &[
            "f:2:13: this is not TOML: invalid basic string | expected here: `\"`",
            "f:4:13: this is not TOML: invalid literal string | expected here: `'`",
        ],
    );
    refused_text(
        "x = [1, 2\ny = 3\n[z]\n",
        &["f:2:1: this is not TOML: missing comma between array elements | expected here: `,`"],
    );
    refused_text(
        "cluster = \"x\\q\"",
        &[
            "f:1:14: this is not TOML: missing escaped value | expected here: `b`, `e`, `f`, `n`, `r`, `\\`, `\"`, `x`, `u`, `U`",
        ],
    );
    refused_text(
        "\u{feff}cluster = 5",
        &[
            "f:1:1: the file has no nodes | add for example [node.ams1] with address = \"192.0.2.11:7946\"",
            "f:1:11: cluster must be a string in quotes, not a whole number | write for example cluster = \"shop\"",
        ],
    );
    refused_text(
        "= 5",
        &[
            "f:1:1: this is not TOML: unquoted keys cannot be empty | expected here: letters, numbers, `-`, `_`",
        ],
    );
    refused_text(
        "cluster",
        &["f:1:8: this is not TOML: key with no value | expected here: `=`"],
    );
    refused_text(
        "\0",
        &[
            "f:1:1: this is not TOML: invalid unquoted key | expected here: letters, numbers, `-`, `_`",
        ],
    );
    refused_text(
        "a.b = 1\na = 2\n",
        &[
            "f:2:1: this is not TOML: duplicate key | \"a\" stands here a second time: remove one of them",
        ],
    );
    refused_text(
        "[node.a]\naddress = { a = 1\n",
        &[
            "f:2:18: this is not TOML: unclosed inline table | a text stands in quotes, as in drain = \"2s\"",
        ],
    );
}

#[test]
fn what_is_used_but_doubtful() {
    warned(
        "[node.tie]\naddress = \"192.0.2.13:7946\"\nwitness = true\n",
        "",
        &[
            "f:4:7: warning: there are 2 voters: when either fails, everything is mute | add a third vote: a small machine anywhere, with witness = true",
        ],
    );
    warned(
        "[node.tie]",
        "[node.four]\naddress = \"192.0.2.14:7946\"\n[node.tie]",
        &[
            "f:4:7: warning: 4 voters outlive no more failures than 3 | add a witness: a small machine anywhere, with witness = true",
        ],
    );
    warned(
        "\"192.0.2.13:7946\"",
        "\"192.0.2.12:7947\"",
        &[
            "f:9:11: warning: \"fra1\" and \"tie\" are on one machine | they fail together, so two such votes count as one; give each a machine of its own",
        ],
    );
    warned(
        "[\"ams1\", \"fra1\"]",
        "[\"ams1\"]",
        &[
            "f:13:9: warning: only one node may hold this group: it cannot move | name a second node",
        ],
    );
    warned(
        "[\"192.0.2.100/24\", \"2001:db8::100/64@eth0\"]",
        "[]",
        &[
            "f:12:1: warning: [group.www] has no addresses, so nothing moves | add for example addresses = [\"192.0.2.100/24\"]",
        ],
    );
    warned(
        "\"ping and apache\"",
        "\"ping\"",
        &[
            "f:20:18: warning: fail_when does not name the check \"apache\" | it is shown, but never moves the group; name it, or remove it",
        ],
    );
    warned(
        "ping = \"{node}\"",
        "ping = \"192.0.2.1\"",
        &[
            "f:18:1: warning: peers that ask 192.0.2.1 learn nothing about the node that is judged | ask {node}, or write from = [\"node\"]",
        ],
    );
    warned(
        "ping = \"{node}\"",
        "ping = \"{node}\"\nfrom = [\"node\"]",
        &["f:20:8: warning: a node that pings itself always answers | write from = [\"peers\"]"],
    );
    warned(
        "\"ping and apache\"",
        "\"ping and apache and not ping\"",
        &[
            "f:15:13: warning: this rule never holds, whatever fails | the group would never move for a check: look at its `and` and `not`",
        ],
    );
    warned(
        "http://",
        "https://",
        &[
            "f:21:8: warning: the server's certificate must carry the address itself | add host = \"www.example.com\" with the name in the certificate, or tls = { verify = false }",
        ],
    );
}

/// Whoever holds an address that moves answers for it: the node that is judged does not.
#[test]
fn a_check_that_asks_for_an_address_of_a_group_is_doubted() {
    let held = |at: &str, ip: &str, group: &str| {
        format!(
            "f:{at}: warning: {ip} is an address of the group {group:?}: whoever holds that answers, not the node that is judged | ask {{node}}"
        )
    };
    let own = held("21:8", "192.0.2.100", "www");
    warned("http://{node}/", "http://192.0.2.100/", &[own.as_str()]);
    for from in ["[\"node\"]", "[\"peers\"]"] {
        let new = format!("tcp = \"[2001:db8::100]:80\"\nfrom = {from}");
        let own = held("19:7", "2001:db8::100", "www");
        warned("ping = \"{node}\"", &new, &[own.as_str()]);
    }
    warned(
        "[group.www.check.ping]",
        "[group.www.check.dns]\ndns = \"x\"\nserver = \"192.0.2.101:53\"\n[group.mail]\nnodes = [\"ams1\", \"fra1\"]\naddresses = [\"192.0.2.101/24\"]\n[group.www.check.ping]",
        &[
            "f:18:18: warning: fail_when does not name the check \"dns\" | it is shown, but never moves the group; name it, or remove it",
            &held("20:10", "192.0.2.101", "mail"),
        ],
    );
    let program = "nagios = \"/usr/lib/nagios/plugins/check_http -I 192.0.2.100\"";
    let own = held("19:10", "192.0.2.100", "www");
    warned("ping = \"{node}\"", program, &[own.as_str()]);
    // Asked of the holder alone, and by itself: a service that is bound to the address.
    let service = "[group.www.service.apache]\nunit = \"apache2.service\"\n[group.www.check.apache]\nhttp = \"http://192.0.2.100/\"\nfrom = [\"node\"]\n";
    let (head, _) = GOOD
        .split_once("[group.www.check.apache]")
        .expect("a check");
    let config =
        parse(&format!("{head}{service}"), "f").unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(shown(&config.warnings), [""; 0]);
}

#[test]
fn an_argument_that_is_almost_replaced_is_doubted() {
    warned(
        "ping = \"{node}\"",
        "exec = [\"/bin/x\", \"{nodes}\", \"{print $1}\"]",
        &["f:19:19: warning: \"{nodes}\" is passed on as it stands | did you mean {node}?"],
    );
}

/// `GOOD` with these lines before its first check, which are line 18 and on, is refused
/// with exactly these faults.
fn refused_hosting(lines: &str, expected: &[&str]) {
    let new = format!("{lines}\n[group.www.check.ping]");
    refused("[group.www.check.ping]", &new, expected);
}

#[test]
fn a_service_is_a_unit_or_commands() {
    let service = |keys: &str, expected: &[&str]| {
        refused_hosting(&format!("[group.www.service.a]\n{keys}"), expected);
    };
    service(
        "restart = 1",
        &[
            "f:18:1: [group.www.service.a] starts nothing | add for example unit = \"apache2.service\", or start = \"...\"",
        ],
    );
    service(
        "unit = \"apache2\"",
        &[
            "f:19:8: \"apache2\" does not say which kind of unit it is | did you mean \"apache2.service\"?",
        ],
    );
    service(
        "unit = \"a.service\"\nstart = \"/bin/a\"",
        &["f:20:1: a service is a unit or commands, not unit and start | remove one of them"],
    );
    service(
        "stop = \"/bin/a\"",
        &[
            "f:18:1: [group.www.service.a] starts nothing | add for example unit = \"apache2.service\", or start = \"...\"",
        ],
    );
    service(
        "start = [\"bin/a\", \"-d\"]",
        &["f:19:10: \"bin/a\" is not an absolute path | write the whole path, from / on"],
    );
    service(
        "start = \" \"",
        &["f:19:9: start runs nothing | name a program, or remove it"],
    );
    service(
        "start = []",
        &["f:19:9: start runs nothing | name a program, or remove it"],
    );
    service(
        "start = \"a\\u0000b\"",
        &["f:19:9: start contains a null byte, which no program can be told | remove it"],
    );
    service(
        "unit = \"a.service\"\nwhen = \"activ\"\nrestart = 101\nstart_timeout = \"1ms\"\nstop_timout = \"1s\"",
        &[
            "f:20:8: \"activ\" is no time for a service to run | did you mean \"active\"?",
            "f:21:11: restart = 101 is out of bounds | write a whole number from 0 to 100",
            "f:22:17: start_timeout = 1ms is too short | the shortest start_timeout is 100ms",
            "f:23:1: unknown key \"stop_timout\" in [group.www.service.a] | did you mean \"stop_timeout\"?",
        ],
    );
    service(
        "unit = \"a.service\"\nbefore_open = \"/x\"",
        &[
            "f:20:1: unknown key \"before_open\" in [group.www.service.a] | it belongs in [group.NAME.hook]",
        ],
    );
}

#[test]
fn a_unit_belongs_to_one_group() {
    refused_hosting(
        "[group.www.service.a]\nunit = \"a.service\"\n[group.db]\nnodes = [\"ams1\"]\n\
         [group.db.service.b]\nunit = \"a.service\"",
        &[
            "f:23:8: \"a.service\" is a service a second time | it belongs to one group, or two would start and stop it against each other",
        ],
    );
}

#[test]
fn commands_belong_to_one_group() {
    let two = |stop: &str| {
        format!(
            "[group.www.service.a]\nstart = \"/etc/init.d/x start\"\nstop = \"/etc/init.d/x stop\"\n[group.db]\nnodes = [\"ams1\", \"fra1\"]\naddresses = [\"192.0.2.101/24\"]\n\
             [group.db.service.b]\nstart = \"/etc/init.d/x start\"\nstop = \"{stop}\""
        )
    };
    refused_hosting(
        &two("/etc/init.d/x stop"),
        &[
            "f:25:9: what is started and stopped by these commands is a service a second time | it belongs to one group, or two would start and stop it against each other",
        ],
    );
    let other = format!("{}\n[group.www.check.ping]", two("/etc/init.d/x stop-b"));
    warned("[group.www.check.ping]", &other, &[]);
}

#[test]
fn a_group_does_not_stop_the_machine_or_the_daemon() {
    for (unit, fault) in [
        (
            "evenkeel.service",
            "a group that stops the daemon itself would end all groups here | name what the group serves with",
        ),
        (
            "poweroff.target",
            "\"poweroff.target\" is for the whole machine | a group would end or stop it; name a unit of its own",
        ),
    ] {
        refused_hosting(
            &format!("[group.www.service.a]\nunit = \"{unit}\""),
            &[format!("f:19:8: {fault}").as_str()],
        );
    }
    let mine = "[group.www.service.a]\nunit = \"shop.target\"\n[group.www.check.ping]";
    warned("[group.www.check.ping]", mine, &[]);
}

#[test]
fn what_runs_everywhere_does_not_wait_for_what_runs_on_the_holder_alone() {
    let services = |after: &str| {
        format!(
            "[group.www.service.db]\nunit = \"mysql.service\"\n[group.www.service.cache]\nunit = \"redis.service\"\n\
             [group.www.service.web]\nunit = \"apache2.service\"\nwhen = \"always\"\n{after}"
        )
    };
    refused_hosting(
        &services("after = [\"db\"]"),
        &[
            "f:25:10: web runs on every node, and db on the holder alone: no order is possible | take it out, or make db run everywhere, too (\"always\")",
        ],
    );
    let implied = format!("{}[group.www.check.ping]", services(""));
    warned(
        "[group.www.check.ping]",
        &implied,
        &[
            "f:22:20: warning: web runs on every node, and db on the holder alone: it does not wait for that, though it stands below | write what it waits for, as in after = [], or put it above",
        ],
    );
    let config = parse(&GOOD.replace("[group.www.check.ping]", &implied), "f");
    let config = config.unwrap_or_else(|faults| panic!("{faults}"));
    let services_of = |config: &evenkeel_config::Config| {
        let mut all = config.hosted.values().flat_map(|one| one.services.clone());
        all.find(|one| one.name.as_str() == "web")
            .expect("a service")
    };
    assert!(services_of(&config).after.is_empty(), "nor does it wait");
    let again = parse(&config.effective(), "f").unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(services_of(&again), services_of(&config));
    let said = format!("{}\n[group.www.check.ping]", services("after = []"));
    warned("[group.www.check.ping]", &said, &[]);
    // The other way round it is an order.
    let lamp = services("").replace(
        "[group.www.service.cache]",
        "after = [\"web\"]\n[group.www.service.cache]",
    );
    let lamp = lamp.replace(
        "[group.www.service.web]",
        "after = []\n[group.www.service.web]",
    );
    warned(
        "[group.www.check.ping]",
        &format!("{lamp}[group.www.check.ping]"),
        &[
            "f:24:20: warning: web runs on every node, and cache on the holder alone: it does not wait for that, though it stands below | write what it waits for, as in after = [], or put it above",
        ],
    );
}

#[test]
fn two_services_are_not_called_the_same() {
    refused_hosting(
        "[group.www.service.\"api.web\"]\nstart = \"/bin/a\"\n[group.\"www.api\"]\nnodes = [\"ams1\", \"fra1\"]\naddresses = [\"192.0.2.101/24\"]\n\
         [group.\"www.api\".service.web]\nstart = \"/bin/b\"",
        &[
            "f:23:26: two services would be called \"www.api.web\" | choose another name for one of them, or for its group",
        ],
    );
}

#[test]
fn a_list_of_sections_is_told_how_sections_are_named() {
    refused_hosting(
        "[[group.www.service]]\nunit = \"a.service\"",
        &[
            "f:18:13: [group.www.service] has sections with names, not a list of them | write [group.www.service.NAME] in single brackets, once for each",
        ],
    );
}

#[test]
fn an_order_that_cannot_be_kept_is_refused() {
    let order = |after: [&str; 3], expected: &[&str]| {
        let service = |name: &str, after: &str| {
            format!("[group.www.service.{name}]\nunit = \"{name}.service\"\n{after}\n")
        };
        let [a, b, c] = after;
        let text = service("a", a) + &service("b", b) + &service("c", c);
        refused_hosting(&text, expected);
    };
    order(
        ["after = [\"b\"]", "", ""],
        &[
            "f:20:10: no order is possible: a waits for b waits for a | take one out; \"b\" has no after and so waits for all above it (after = [] waits for none)",
        ],
    );
    order(
        ["after = [\"b\"]", "after = [\"c\"]", "after = [\"a\"]"],
        &[
            "f:20:10: no order is possible: a waits for b waits for c waits for a | take one out of an after",
        ],
    );
    order(
        ["", "after = [\"b\"]", ""],
        &["f:23:10: no order is possible: b waits for b | take one out of an after"],
    );
    order(
        ["", "after = [\"a\", \"a\", \"mysql\", \"cc\"]", ""],
        &[
            "f:23:15: \"a\" is named twice | remove one of them",
            "f:23:20: the group has no service \"mysql\" | name services of the same group",
            "f:23:29: the group has no service \"cc\" | did you mean \"c\"?",
        ],
    );
}

#[test]
fn hooks_are_whole_paths() {
    let hook = |key: &str, expected: &[&str]| {
        refused_hosting(&format!("[group.www.hook]\n{key}"), expected);
    };
    hook(
        "before_open = \"hook\"",
        &["f:19:15: \"hook\" is not an absolute path | write the whole path, from / on"],
    );
    hook(
        "after_close = \"/etc/hook now\"",
        &[
            "f:19:15: \"/etc/hook now\" has blanks in it, and no shell reads it | write a list, as in after_close = [\"/etc/evenkeel/hook\", \"now\"]",
        ],
    );
    hook(
        "before_close = 5",
        &[
            "f:19:16: before_close must be a string or a list of strings, not a whole number | write the path of a program, as in before_close = \"/etc/evenkeel/hook\", or a list with its arguments",
        ],
    );
    hook(
        "before_opne = \"/x\"\nhook_timeout = \"11m\"",
        &[
            "f:19:1: unknown key \"before_opne\" in [group.www.hook] | did you mean \"before_open\"?",
            "f:20:16: hook_timeout = 11m is too long | the longest hook_timeout is 10m",
        ],
    );
}

/// One check in place of the good file's ping, refused with one fault.
fn check_refused(check: &str, fault: &str) {
    refused("ping = \"{node}\"", check, &[fault]);
}

#[test]
fn programs_and_processes() {
    check_refused(
        "exec = [\"x\"]\nfall = 1",
        "f:19:9: \"x\" is not an absolute path | write for example exec = [\"/usr/local/bin/is-well\", \"{node}\"]",
    );
    check_refused(
        "exec = []",
        "f:19:8: exec is empty | write for example exec = [\"/usr/local/bin/is-well\", \"{node}\"]",
    );
    check_refused(
        "exec = 5",
        "f:19:8: exec must be a string or a list of strings, not a whole number | write for example exec = [\"/usr/local/bin/is-well\", \"{node}\"]",
    );
    check_refused(
        "exec = \"/bin/x | y\"",
        "f:19:16: no shell reads this command | write a list, each argument a string of its own",
    );
    check_refused(
        "nagios = \"  \"",
        "f:19:10: the command is empty | write for example nagios = \"/usr/lib/nagios/plugins/check_http -H {node}\"",
    );
    check_refused(
        "nagios = [\"/{node}\"]",
        "f:19:11: {node} cannot stand in the path of a program | put it among the arguments",
    );
    check_refused(
        &format!("exec = \"/x {}\"", "a ".repeat(64)),
        "f:19:8: exec is longer than 64 words or 4096 bytes | put it into a script",
    );
    check_refused(
        "process = \"systemd-networkd\"",
        "f:19:11: the kernel keeps 15 bytes of a name | write \"systemd-network\"",
    );
    check_refused(
        "process = \"/usr/sbin/apache2\"",
        "f:19:11: \"/usr/sbin/apache2\" is not the name of a process | write the name as in /proc/PID/comm, for example process = \"apache2\"",
    );
    check_refused(
        "process = \"apache2\"\npidfile = \"apache2.pid\"",
        "f:20:11: \"apache2.pid\" is not an absolute path | write the whole path, as in \"/run/apache2/apache2.pid\"",
    );
    check_refused(
        "process = \"apache2\"\nfrom = [\"peers\"]",
        "f:20:8: peers cannot see whether \"apache2\" runs | write from = [\"node\"], or ask with tcp or http what it serves",
    );
    check_refused(
        "exec = \"/x\"\npidfile = \"/x\"",
        "f:20:1: \"pidfile\" belongs to process checks | remove it, or ask with process",
    );
    check_refused(
        "ping = \"{node}\"\nexpect = \"x\"",
        "f:20:1: \"expect\" belongs to tcp and dns checks | remove it, or ask with tcp or dns",
    );
    warned(
        "ping = \"{node}\"",
        "exec = \"/x\"\nfrom = [\"peers\"]",
        &[
            "f:20:8: warning: peers that run this learn nothing about the node that is judged | put {node} among its arguments, or write from = [\"node\"]",
        ],
    );
}

#[test]
fn name_and_mail_servers() {
    check_refused(
        "dns = \"a..b\"",
        "f:19:7: \"a..b\" is not a name that can be asked for | write a name, as in dns = \"www.example.net\"",
    );
    check_refused(
        "dns = \"b\u{fc}cher.example\"",
        "f:19:7: \"b\u{fc}cher.example\" is not a name that can be asked for | write it as it is sent, as in \"xn--bcher-kva.example\"",
    );
    check_refused(
        "dns = \"x\"\nserver = \"{node}\"",
        "f:20:10: \"{node}\" has no port | write for example \"{node}:53\" or \"[2001:db8::1]:53\"",
    );
    check_refused(
        "dns = \"x\"\ntype = \"AAA\"",
        "f:20:8: there is no type \"AAA\" for checks | did you mean \"AAAA\"? the types are A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT",
    );
    check_refused(
        "dns = \"x\"\nexpect = \"2001:db8::1\"",
        "f:20:10: \"2001:db8::1\" is no A record | write for example expect = \"192.0.2.80\"",
    );
    check_refused(
        "smtp = \"mail.example.net:25\"",
        "f:19:8: \"mail.example.net\" is neither {node} nor an IP address | write {node} or an address: a check must not depend on DNS",
    );
    check_refused(
        "smtp = \"{node}:25\"\nhost = \"x\"",
        "f:20:1: host has no meaning without starttls | add starttls = true, or remove it",
    );
    warned(
        "ping = \"{node}\"",
        "smtp = \"{node}:25\"\nstarttls = true",
        &[
            "f:19:8: warning: the server's certificate must carry the address itself | add host = \"mail.example.com\" with the name in the certificate, or tls = { verify = false }",
        ],
    );
    for (record, expect) in [
        ("MX", "mail.example.net"),
        ("MX", "ten mail.example.net"),
        ("SRV", "5060 sip.example.net"),
        ("CNAME", "10 www.example.net"),
    ] {
        let example = match record {
            "MX" => "10 mail.example.net",
            "SRV" => "0 5 5060 sip.example.net",
            _ => "www.example.net",
        };
        check_refused(
            &format!("dns = \"x\"\ntype = \"{record}\"\nexpect = \"{expect}\""),
            &format!(
                "f:21:10: {expect:?} is no {record} record | write for example expect = {example:?}"
            ),
        );
    }
    check_refused(
        "dns = \"x\"\ntype = \"NS\"\nexpect = \"..\"",
        "f:21:10: \"..\" is no NS record | write for example expect = \"www.example.net\"",
    );
    // Two of one name: the second stands where the fault is.
    refused(
        "[group.www.check.apache]",
        "[group.www.check.ping]\nping = \"{node}\"\n[group.www.check.apache]",
        &[
            "f:20:18: this is not TOML: duplicate key | \"ping\" stands here a second time: remove one of them",
            "f:21:1: this is not TOML: duplicate key | \"ping\" stands here a second time: remove one of them",
        ],
    );
}
