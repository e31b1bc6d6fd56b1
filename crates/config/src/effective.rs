//! The meaning of a file in one canonical text, defaults written out: what two nodes
//! compare, and what `config show` prints. Comments, order of sections and the ways to
//! write one thing leave no trace in it.
//!
//! A key of a later version must stay out of it as long as it has its default, or the
//! nodes of a cluster that is being upgraded would seem to differ.

use std::fmt::Write;

use evenkeel_core::topology::{Failback, Group, Node, Topology, WithoutMajority};

use crate::check::{CheckSpec, Question};
use crate::command::Command;
use crate::config::Hosted;
use crate::dns::Dns;
use crate::duration::show;
use crate::hook::Hooks;
use crate::http::{Http, Method, Trust};
use crate::process::Process;
use crate::revoked::{self, Fingerprint};
use crate::service::{Runs, ServiceSpec, When};
use crate::smtp::Smtp;
use crate::tcp::Tcp;

/// Raised when the same meaning gets another text.
const FORM: &str = "evenkeel configuration, form 1\n";

/// The canonical text; `checks` gives the checks of a group, `hosted` what runs with it.
pub(crate) fn text<'c>(
    topology: &Topology,
    revoked: &[Fingerprint],
    checks: impl Fn(&Group) -> &'c [CheckSpec],
    hosted: impl Fn(&Group) -> Option<&'c Hosted>,
) -> String {
    let mut text = String::new();
    line(&mut text, "cluster", quoted(&topology.cluster));
    if !revoked.is_empty() {
        line(
            &mut text,
            "revoked",
            list(revoked.iter().map(revoked::show)),
        );
    }
    text.push_str("\n[timing]\n");
    line(&mut text, "lease", quoted(&show(topology.timing.lease)));
    line(
        &mut text,
        "heartbeat",
        quoted(&show(topology.timing.heartbeat)),
    );
    let mut nodes: Vec<&Node> = topology.nodes.values().collect();
    nodes.sort_by(|left, right| left.name.cmp(&right.name));
    for node in nodes {
        write_node(&mut text, node);
    }
    let mut groups: Vec<&Group> = topology.groups.values().collect();
    groups.sort_by(|left, right| left.name.cmp(&right.name));
    for group in groups {
        write_group(&mut text, topology, group);
        let mut specs: Vec<&CheckSpec> = checks(group).iter().collect();
        specs.sort_by(|left, right| left.policy.name.cmp(&right.policy.name));
        for spec in specs {
            write_check(&mut text, group, spec);
        }
        if let Some(hosted) = hosted(group) {
            write_hosted(&mut text, group, hosted);
        }
    }
    text
}

/// A digest of the canonical text: equal on all nodes that mean the same. FNV-1a of 64
/// bits, which tells honest files apart; it is no proof against a forger, and need not be
/// one, because only nodes of the cluster's own authority compare.
pub(crate) fn digest(canonical: &str) -> u64 {
    let bytes = FORM.bytes().chain(canonical.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn write_node(text: &mut String, node: &Node) {
    header(text, &["node", node.name.as_str()]);
    line(text, "address", quoted(&node.address.to_string()));
    if node.witness {
        line(text, "witness", "true");
    }
    if !node.voter {
        line(text, "voter", "false");
    }
}

fn write_group(text: &mut String, topology: &Topology, group: &Group) {
    header(text, &["group", group.name.as_str()]);
    line(
        text,
        "nodes",
        list(group.nodes.iter().map(|id| topology.node_name(*id))),
    );
    let mut addresses: Vec<_> = group.addresses.iter().collect();
    addresses.sort();
    line(
        text,
        "addresses",
        list(addresses.iter().map(ToString::to_string)),
    );
    // Without checks the rule has no text; it is the default then.
    if !group.checks.is_empty() {
        line(text, "fail_when", quoted(&group.fail_when.to_string()));
    }
    let failback = match group.failback {
        Failback::Manual => "manual".into(),
        Failback::AutoAfter(time) => format!("auto after {}", show(time)),
    };
    line(text, "failback", quoted(&failback));
    line(text, "drain", quoted(&show(group.drain)));
    let without_majority = match group.without_majority {
        WithoutMajority::Mute => "mute",
        WithoutMajority::Serve => "serve",
    };
    line(text, "without_majority", quoted(without_majority));
}

fn write_check(text: &mut String, group: &Group, spec: &CheckSpec) {
    let policy = &spec.policy;
    header(
        text,
        &["group", group.name.as_str(), "check", policy.name.as_str()],
    );
    match &spec.question {
        Question::Ping { target } => line(text, "ping", quoted(&target.text())),
        Question::Http(http) => write_http(text, http),
        Question::Tcp(tcp) => write_tcp(text, tcp),
        Question::Exec(command) => line(text, "exec", list(command.words().iter().cloned())),
        Question::Nagios(command) => line(text, "nagios", list(command.words().iter().cloned())),
        Question::Process(process) => write_process(text, process),
        Question::Unit(unit) => line(text, "unit", quoted(unit)),
        Question::Dns(dns) => write_dns(text, dns),
        Question::Smtp(smtp) => write_smtp(text, smtp),
    }
    line(text, "interval", quoted(&show(policy.interval)));
    line(text, "timeout", quoted(&show(policy.timeout)));
    let from = [("node", policy.from_node), ("peers", policy.from_peers)];
    let from = from
        .iter()
        .filter(|(_, asks)| *asks)
        .map(|(who, _)| (*who).to_owned());
    line(text, "from", list(from));
    line(text, "fall", policy.fall);
    line(text, "rise", policy.rise);
    if let Some(service) = &spec.service {
        line(text, "service", quoted(service.as_str()));
    }
}

fn write_http(text: &mut String, http: &Http) {
    line(text, "http", quoted(&http.url()));
    line(text, "status", quoted(&http.status.to_string()));
    match http.method {
        Method::Get => {}
        Method::Head => line(text, "method", quoted(http.method.as_str())),
    }
    if let Some(host) = &http.host {
        line(text, "host", quoted(host));
    }
    if let Some(body) = &http.body {
        line(text, "body", quoted(body));
    }
    write_trust(text, http.tls.as_ref());
}

fn write_trust(text: &mut String, trust: Option<&Trust>) {
    match trust {
        None | Some(Trust::WebRoots) => {}
        Some(Trust::Anybody) => line(text, "tls", "{ verify = false }"),
        Some(Trust::Ca(path)) => {
            line(
                text,
                "tls",
                format!("{{ ca = {} }}", quoted(&path.to_string_lossy())),
            );
        }
    }
}

fn write_tcp(text: &mut String, tcp: &Tcp) {
    line(text, "tcp", quoted(&tcp.text()));
    for (key, value) in [("send", &tcp.send), ("expect", &tcp.expect)] {
        if let Some(value) = value {
            line(text, key, quoted(value));
        }
    }
}

fn write_hosted(text: &mut String, group: &Group, hosted: &Hosted) {
    let mut services: Vec<&ServiceSpec> = hosted.services.iter().collect();
    services.sort_by(|left, right| left.name.cmp(&right.name));
    for service in services {
        header(
            text,
            &[
                "group",
                group.name.as_str(),
                "service",
                service.name.as_str(),
            ],
        );
        write_service(text, service);
    }
    let hooks = &hosted.hooks;
    if *hooks == Hooks::default() {
        return;
    }
    header(text, &["group", group.name.as_str(), "hook"]);
    for (key, command) in hooks.all() {
        line(text, key, command_text(command));
    }
    line(text, "hook_timeout", quoted(&show(hooks.timeout)));
}

fn write_service(text: &mut String, service: &ServiceSpec) {
    let mut command = |key, command: &Command| line(text, key, command_text(command));
    match &service.what {
        Runs::Unit(unit) => line(text, "unit", quoted(unit)),
        Runs::Foreground { start, status } => {
            command("start", start);
            status.iter().for_each(|status| command("status", status));
        }
        Runs::Scripts {
            start,
            stop,
            status,
        } => {
            command("start", start);
            command("stop", stop);
            status.iter().for_each(|status| command("status", status));
        }
    }
    let when = match service.when {
        When::Active => "active",
        When::Always => "always",
    };
    line(text, "when", quoted(when));
    line(text, "restart", service.restart);
    line(text, "start_timeout", quoted(&show(service.start_timeout)));
    line(text, "stop_timeout", quoted(&show(service.stop_timeout)));
    // The order of the file, written out.
    let mut after: Vec<&str> = service.after.iter().map(|name| name.as_str()).collect();
    after.sort_unstable();
    line(text, "after", list(after.into_iter().map(str::to_owned)));
}

fn command_text(command: &Command) -> String {
    match command {
        Command::Shell(line) => quoted(line),
        Command::Program { path, arguments } => {
            list(std::iter::once(path).chain(arguments).cloned())
        }
    }
}

fn write_process(text: &mut String, process: &Process) {
    line(text, "process", quoted(&process.name));
    if let Some(path) = &process.pidfile {
        line(text, "pidfile", quoted(&path.to_string_lossy()));
    }
}

fn write_dns(text: &mut String, dns: &Dns) {
    let name = match dns.name.as_str() {
        "" => ".",
        name => name,
    };
    line(text, "dns", quoted(name));
    line(text, "server", quoted(&dns.server()));
    line(text, "type", quoted(dns.record.as_str()));
    if let Some(expect) = &dns.expect {
        line(text, "expect", quoted(expect));
    }
}

fn write_smtp(text: &mut String, smtp: &Smtp) {
    line(text, "smtp", quoted(&smtp.text()));
    if let Some(trust) = &smtp.starttls {
        line(text, "starttls", "true");
        write_trust(text, Some(trust));
    }
    if let Some(host) = &smtp.host {
        line(text, "host", quoted(host));
    }
}

fn header(text: &mut String, path: &[&str]) {
    let path: Vec<String> = path
        .iter()
        .map(|part| {
            if part.contains('.') {
                quoted(part)
            } else {
                (*part).to_owned()
            }
        })
        .collect();
    text.push_str(&format!("\n[{}]\n", path.join(".")));
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    writeln!(text, "{key} = {value}").expect("writing into memory cannot fail");
}

fn list(members: impl Iterator<Item = String>) -> String {
    let members: Vec<String> = members.map(|member| quoted(&member)).collect();
    format!("[{}]", members.join(", "))
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
