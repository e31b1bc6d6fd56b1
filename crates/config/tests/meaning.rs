//! What a good file means, and that nothing else does.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use evenkeel_config::{
    Command, Config, Hosted, Http, Interface, Method, Question, Runs, Severity, Target, Trust,
    When, load, parse,
};
use evenkeel_core::names::{CheckName, GroupId, GroupName, NodeId, NodeName};
use evenkeel_core::topology::{Failback, Group, WithoutMajority};

/// The example that the manual shows.
fn example() -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/three-machines.toml");
    load(&path).unwrap_or_else(|faults| panic!("{faults}"))
}

/// Uses everything that a file can say.
const EVERYTHING: &str = r#"
cluster = "shop"
profile = "fast"
revoked = ["AB:CD:EF:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:01"]
[timing]
heartbeat = "10 ms"
[node."a.1"]
address = "[2001:db8::11]:7946"
[node.b]
address = "[2001:db8::12]:7946"
[node.c]
address = "[2001:db8::13]:7946"
witness = true
[node.d]
address = "[2001:db8::14]:7946"
voter = true
[group."www.x"]
nodes = ["b", "a.1", "d"]
addresses = ["2001:db8::200/64@eth0.1", "192.0.2.100/24"]
fail_when = "2 of (ping, web, not gate)"
failback = "auto after 1h30m"
drain = "1.5s"
without_majority = "mute"
[group."www.x".check.web]
http = "https://{node}:8443/health?from={node}"
host = "www.example.com"
status = "200, 204"
body = "\"fine\"\t"
tls = { ca = "/etc/ssl/shop.pem" }
interval = "50ms"
timeout = "200ms"
from = ["node"]
fall = 1
rise = 10
[group."www.x".check.ping]
ping = "{node}"
[group."www.x".check.gate]
ping = "2001:db8::1"
from = ["node"]
[group."www.x".check.head]
http = "https://192.0.2.9/"
method = "HEAD"
tls = { verify = false }
[group."www.x".check.cache]
tcp = "{node}:6379"
send = "PING\r\n"
expect = "+PONG"
[group."www.x".service.web]
unit = "apache2.service"
when = "always"
restart = 3
[group."www.x".service."app.1"]
start = ["/usr/bin/app", "-d", "a b"]
status = "/usr/bin/app --ask | grep -q up"
start_timeout = "2m"
stop_timeout = "500ms"
after = []
[group."www.x".service.init]
start = "/etc/init.d/x start"
stop = "/etc/init.d/x stop"
[group."www.x".hook]
before_open = "/etc/evenkeel/before-open"
after_close = ["/etc/evenkeel/hook", "closed"]
keepalived = "/etc/keepalived/notify.sh"
hook_timeout = "1500ms"
[group.idle]
nodes = ["a.1", "b"]
"#;

fn group<'c>(config: &'c Config, name: &str) -> &'c Group {
    &config.topology.groups[&GroupId::of(&GroupName::new(name).expect("a name"))]
}

fn read(text: &str) -> Config {
    parse(text, "f").unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn the_example_means_what_its_comments_say() {
    let config = example();
    assert!(config.warnings.is_empty(), "{}", config.warnings);
    assert_eq!(config.topology.cluster, "shop");
    assert_eq!(config.topology.timing.lease, Duration::from_millis(120));
    assert_eq!(config.topology.timing.heartbeat, Duration::from_millis(20));
    assert_eq!(config.topology.voters().count(), 3);
    let tie = config.node("tie").expect("a node");
    assert!(tie.witness && tie.voter);
    assert_eq!(tie.address.to_string(), "192.0.2.13:7946");

    let www = group(&config, "www");
    let nodes: Vec<String> = www
        .nodes
        .iter()
        .map(|id| config.topology.node_name(*id))
        .collect();
    assert_eq!(nodes, ["ams1", "fra1"]);
    assert_eq!(www.addresses[0].to_string(), "192.0.2.100/24");
    assert_eq!(www.fail_when.to_string(), "ping and apache");
    assert_eq!(www.failback, Failback::Manual);
    assert_eq!(www.drain, Duration::from_secs(2));
    assert_eq!(www.without_majority, WithoutMajority::Mute);

    let checks = &config.checks[&www.id];
    let (ping, apache) = (&checks[0], &checks[1]);
    assert_eq!(www.checks, [ping.policy.clone(), apache.policy.clone()]);
    assert_eq!(
        ping.question,
        Question::Ping {
            target: Target::Node
        }
    );
    assert_eq!(
        (ping.policy.from_node, ping.policy.from_peers),
        (false, true)
    );
    assert_eq!((ping.policy.fall, ping.policy.rise), (2, 3));
    assert_eq!(
        (ping.policy.interval, ping.policy.timeout),
        (SECOND, SECOND)
    );
    assert_eq!(
        (apache.policy.from_node, apache.policy.from_peers),
        (true, true)
    );
    assert_eq!(apache.policy.interval, Duration::from_millis(50));
    assert_eq!(apache.policy.timeout, Duration::from_millis(200));
    let Question::Http(http) = &apache.question else {
        panic!("not http")
    };
    assert_eq!(
        (&http.tls, http.method, http.port),
        (&None, Method::Get, 80)
    );
    assert!(http.status.contains(302) && !http.status.contains(404));
}

#[test]
fn what_runs_with_a_group_is_understood() {
    let config = read(EVERYTHING);
    let hosted = &config.hosted[&group(&config, "www.x").id];
    let [web, app, init] = &hosted.services[..] else {
        panic!("three services")
    };
    assert_eq!(web.what, Runs::Unit("apache2.service".into()));
    assert_eq!((web.when, web.restart), (When::Always, 3));
    assert_eq!(web.start_timeout, Duration::from_secs(30));
    assert_eq!(web.stop_timeout, Duration::from_secs(10));
    let Runs::Foreground {
        start: Command::Program { path, arguments },
        status: Some(Command::Shell(_)),
    } = &app.what
    else {
        panic!("{:?}", app.what)
    };
    assert_eq!(path, "/usr/bin/app");
    assert_eq!(arguments, &["-d", "a b"]);
    assert_eq!((app.when, app.restart), (When::Active, 0));
    assert!(app.after.is_empty());
    assert!(matches!(init.what, Runs::Scripts { status: None, .. }));
    // Without `after` it waits for all above it.
    assert_eq!(init.after, [web.name.clone(), app.name.clone()]);
    let hooks: Vec<&str> = hosted.hooks.all().map(|(name, _)| name).collect();
    assert_eq!(hooks, ["before_open", "after_close", "keepalived"]);
    assert_eq!(hosted.hooks.timeout, Duration::from_millis(1_500));
    // Four times 40 s, 120.5 s, 40 s, and the hook.
    let preparing = group(&config, "www.x").preparing;
    assert_eq!(preparing, Duration::from_secs(160 + 120 + 40 + 2));
    assert_eq!(group(&config, "idle").preparing, Duration::ZERO);
    let place = config.place_of_service(group(&config, "www.x").id, &app.name);
    assert!(place.is_some());
    assert_eq!(config.hosted[&group(&config, "idle").id], Hosted::default());
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn everything_that_can_be_said_is_understood() {
    let config = read(EVERYTHING);
    assert_eq!(config.topology.timing.lease, Duration::from_millis(40));
    assert_eq!(config.topology.timing.heartbeat, Duration::from_millis(10));
    assert_eq!(config.revoked.len(), 1);
    assert_eq!(config.revoked[0][..3], [0xab, 0xcd, 0xef]);
    assert!(config.node("d").expect("a node").voter);

    let www = group(&config, "www.x");
    assert_eq!(
        www.failback,
        Failback::AutoAfter(Duration::from_secs(5_400))
    );
    assert_eq!(www.drain, Duration::from_millis(1_500));
    assert_eq!(www.without_majority, WithoutMajority::Mute);
    assert_eq!(www.addresses[0].device.as_deref(), Some("eth0.1"));
    let names: Vec<&str> = www.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(
        names,
        ["web", "ping", "gate", "head", "cache"],
        "the order of the file"
    );

    let checks = &config.checks[&www.id];
    let Question::Http(web) = &checks[0].question else {
        panic!("not http")
    };
    assert_eq!(web.tls, Some(Trust::Ca("/etc/ssl/shop.pem".into())));
    assert_eq!(web.body.as_deref(), Some("\"fine\"\t"));
    let node: IpAddr = "2001:db8::11".parse().expect("an address");
    let Question::Tcp(cache) = &checks[4].question else {
        panic!("not tcp")
    };
    assert_eq!(cache.address(node).to_string(), "[2001:db8::11]:6379");
    assert_eq!(cache.send.as_deref(), Some("PING\r\n"));
    assert_eq!(cache.expect.as_deref(), Some("+PONG"));
    assert!(checks[4].policy.from_node && checks[4].policy.from_peers);
    assert_eq!(web.address(node).to_string(), "[2001:db8::11]:8443");
    assert_eq!(web.path.fill(node), "/health?from=2001:db8::11");
    assert_eq!(web.server_name(node), "www.example.com");
    assert!(matches!(
        &checks[3].question,
        Question::Http(Http {
            method: Method::Head,
            tls: Some(Trust::Anybody),
            ..
        })
    ));
    let idle = group(&config, "idle");
    assert_eq!(idle.fail_when.checks().count(), 0);
    assert_eq!(config.checks[&idle.id], []);
}

#[test]
fn the_canonical_text_means_the_same() {
    for config in [example(), read(EVERYTHING)] {
        let text = config.effective();
        let again = read(&text);
        assert_eq!(again.effective(), text);
        assert_eq!(again.digest, config.digest);
        assert_eq!(again.topology.nodes, config.topology.nodes);
        assert_eq!(again.topology.timing, config.topology.timing);
    }
}

#[test]
fn the_digest_sees_meaning_and_nothing_else() {
    let text = "cluster = \"shop\"\n[node.a]\naddress = \"192.0.2.1:1\"\n[node.b]\naddress = \"192.0.2.2:1\"\n[node.c]\naddress = \"192.0.2.3:1\"\n[group.g]\nnodes = [\"a\", \"b\"]\naddresses = [\"192.0.2.9/24\", \"192.0.2.8/24\"]\n[group.g.check.p]\nping = \"{node}\"\n[group.g.check.q]\nhttp = \"http://{node}\"\n";
    let digest = |old: &str, new: &str| {
        assert_eq!(text.matches(old).count(), 1, "{old}");
        read(&text.replace(old, new)).digest
    };
    let same = read(text).digest;
    assert_eq!(
        digest("cluster = \"shop\"", "# a comment\ncluster = 'shop'"),
        same
    );
    assert_eq!(
        digest(
            "cluster = \"shop\"",
            "cluster = \"shop\"\nprofile = \"balanced\""
        ),
        same
    );
    assert_eq!(digest("[node.c]", "[node.c]\nwitness = false"), same);
    assert_eq!(
        digest(
            "\"192.0.2.9/24\", \"192.0.2.8/24\"",
            "\"192.0.2.8/24\", \"192.0.2.9/24\""
        ),
        same
    );
    let (p, q) = (
        "[group.g.check.p]\nping = \"{node}\"\n",
        "[group.g.check.q]\nhttp = \"http://{node}\"\n",
    );
    assert_eq!(digest(&format!("{p}{q}"), &format!("{q}{p}")), same);
    assert_eq!(digest("http://{node}", "http://{node}:80/"), same);
    assert_eq!(
        digest(
            "[group.g.check.p]",
            "fail_when = \"(q) or p\"\n[group.g.check.p]"
        ),
        digest(
            "[group.g.check.p]",
            "fail_when = \"q or p\"\n[group.g.check.p]"
        )
    );
    assert_eq!(
        digest(
            "[group.g.check.p]",
            "fail_when = \"any\"\n[group.g.check.p]"
        ),
        same
    );

    assert_ne!(digest("cluster = \"shop\"", "cluster = \"shop2\""), same);
    assert_ne!(
        digest(
            "cluster = \"shop\"",
            "cluster = \"shop\"\nprofile = \"fast\""
        ),
        same
    );
    assert_ne!(digest("[node.c]", "[node.c]\nwitness = true"), same);
    assert_ne!(
        digest("[\"a\", \"b\"]", "[\"b\", \"a\"]"),
        same,
        "the order of preference"
    );
    assert_ne!(digest("http://{node}", "http://{node}/x"), same);
    assert_ne!(
        digest("ping = \"{node}\"", "ping = \"{node}\"\nfall = 3"),
        same
    );
}

/// Sent between nodes: it may change only with the form in `effective.rs`.
#[test]
fn the_digest_of_the_example_is_stable() {
    assert_eq!(example().digest, 11_732_082_466_052_895_832);
}

#[test]
fn places_are_kept_for_what_shows_only_on_a_machine() {
    let config = example();
    let at = |place: Option<evenkeel_config::Place>| place.map(|place| (place.line, place.column));
    let www = group(&config, "www").id;
    let ip: IpAddr = "192.0.2.100".parse().expect("an address");
    let apache = CheckName::new("apache").expect("a name");
    assert_eq!(
        at(config.place_of_node(&NodeName::new("fra1").expect("a name"))),
        Some((8, 7))
    );
    assert_eq!(at(config.place_of_group(www)), Some((14, 8)));
    assert_eq!(at(config.place_of_address(www, ip)), Some((16, 14)));
    assert_eq!(at(config.place_of_check(www, &apache)), Some((24, 18)));
    assert_eq!(
        at(config.place_of_address(www, "192.0.2.1".parse().expect("an address"))),
        None
    );
}

#[test]
fn an_address_without_an_interface_is_refused_at_its_place() {
    let text = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/three-machines.toml"),
    );
    let config = parse(&text.expect("readable"), "f").unwrap_or_else(|faults| panic!("{faults}"));
    let www = group(&config, "www");
    let interface = |ip: &str| Interface {
        device: "eth7".into(),
        addresses: vec![(ip.parse().expect("an address"), 24)],
    };
    let found = config.interface_of(www.id, &www.addresses[0], &[interface("192.0.2.11")]);
    assert_eq!(found.expect("in the subnet"), "eth7");
    let faults = config.interface_of(www.id, &www.addresses[0], &[interface("10.0.0.1")]);
    let faults = faults.expect_err("in no subnet");
    assert_eq!(
        faults.to_string(),
        "f:16:14: no interface of this machine is in the subnet of 192.0.2.100/24\n  help: give an interface an address of that subnet, or name the interface, as in \"192.0.2.100/24@eth7\": there is eth7\n"
    );
    assert!(
        faults
            .render(false)
            .contains("addresses = [\"192.0.2.100/24\"]")
    );
}

#[test]
fn a_node_that_is_not_in_the_file_is_refused() {
    let config = read(EVERYTHING);
    let fault = config.node("a1").expect_err("no such node");
    assert_eq!(
        fault.to_string(),
        "f: there is no node \"a1\" in this file\n  help: did you mean \"a.1\"?\n"
    );
    let fault = config.node("zebra").expect_err("no such node");
    assert_eq!(
        fault.to_string(),
        "f: there is no node \"zebra\" in this file\n  help: its nodes are a.1, b, c, d\n"
    );
}

#[test]
fn warnings_are_no_refusals() {
    let config = read(EVERYTHING);
    assert!(!config.warnings.is_empty());
    assert!(
        config
            .warnings
            .iter()
            .all(|fault| fault.severity == Severity::Warning)
    );
    let id = NodeId::of(&NodeName::new("b").expect("a name"));
    assert_eq!(config.topology.nodes[&id].name.as_str(), "b");
}

#[test]
fn a_frame_shows_the_line_and_the_remedy() {
    let text = EVERYTHING.replace("2 of (ping, web", "2 of (ping, wbe");
    let faults = parse(&text, "/etc/evenkeel.toml").expect_err("a misspelt check");
    assert_eq!(
        faults.render(false),
        r#"  × there is no check "wbe"
    ╭─[/etc/evenkeel.toml:20:26]
 19 │ addresses = ["2001:db8::200/64@eth0.1", "192.0.2.100/24"]
 20 │ fail_when = "2 of (ping, wbe, not gate)"
    ·                          ───
 21 │ failback = "auto after 1h30m"
    ╰────
  help: did you mean "web"?
"#
    );
    assert!(faults.render(true).contains("\u{1b}["));
    let report = format!("{:?}", miette::Report::new(faults));
    assert!(report.contains("did you mean"), "{report}");
}

#[test]
fn checks_of_active_services_rest_on_standbys() {
    let config = read(
        "cluster = \"shop\"\n[node.a]\naddress = \"192.0.2.1:7946\"\n\
         [node.b]\naddress = \"192.0.2.2:7946\"\n[node.c]\naddress = \"192.0.2.3:7946\"\n\
         [group.g]\nnodes = [\"a\", \"b\"]\naddresses = [\"192.0.2.9/24\"]\n\
         [group.g.service.web]\nunit = \"apache2.service\"\n\
         [group.g.service.db]\nunit = \"mysql.service\"\nwhen = \"always\"\n\
         restart = 2\nstart_timeout = \"5s\"\n\
         [group.g.check.web]\nhttp = \"http://{node}/\"\n\
         [group.g.check.port]\ntcp = \"{node}:80\"\nservice = \"web\"\n\
         [group.g.check.unit]\nunit = \"apache2.service\"\n\
         [group.g.check.named]\nunit = \"apache2.service\"\nservice = \"db\"\n\
         [group.g.check.db]\nunit = \"mysql.service\"\n\
         [group.g.check.other]\nunit = \"cron.service\"\n\
         [group.g.check.ping]\nping = \"{node}\"\n",
    );
    let rests = |config: &Config, name: &str| {
        let mut all = group(config, "g").checks.iter();
        let found = all.find(|policy| policy.name.as_str() == name);
        found.expect("a check").rests
    };
    let text = config.effective();
    let again = read(&text);
    for (name, expected) in [
        ("web", true),
        ("port", true),
        ("unit", true),
        ("named", false),
        ("db", false),
        ("other", false),
        ("ping", false),
    ] {
        assert_eq!(rests(&config, name), expected, "{name}");
        assert_eq!(rests(&again, name), expected, "{name} in {text}");
    }
    let of = |name: &str| {
        let mut all = group(&config, "g").checks.iter();
        let found = all.find(|policy| policy.name.as_str() == name);
        found.expect("a check").service.as_ref()
    };
    for (name, service) in [
        ("port", "web"),
        ("unit", "web"),
        ("named", "db"),
        ("db", "db"),
    ] {
        assert_eq!(of(name).map(|of| of.name.as_str()), Some(service), "{name}");
    }
    assert!(of("other").is_none() && of("ping").is_none());
    let restarts = |name: &str| of(name).is_some_and(|of| of.restarts);
    assert!(!restarts("web") && restarts("db"));
    let grace = |name: &str| of(name).map(|of| of.grace.as_secs());
    assert_eq!((grace("web"), grace("db")), (Some(10), Some(5)));
    let unit = &config.checks[&group(&config, "g").id];
    let unit = unit.iter().find(|spec| spec.policy.name.as_str() == "unit");
    let unit = &unit.expect("a check").policy;
    assert!(unit.from_node && !unit.from_peers);
    // Only what the file has to say is in the canonical text.
    assert_eq!(text.matches("service = ").count(), 2, "{text}");
    assert_eq!(again.digest, config.digest);
}
