//! The probes that a configuration asks of one node.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use evenkeel_config as config;
use evenkeel_config::{CheckSpec, Question};
use evenkeel_core::topology::{Group, Node, Topology};
use evenkeel_core::{CheckName, GroupId, NodeId};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

use crate::probe::{
    Asker, Command, Dns, Http, Manner, Probe, Process, Resolved, Smtp, Tcp, TlsExpect, Trust,
};

/// The largest file of authorities: all that browsers trust take a quarter of it.
const AUTHORITIES_SIZE_MAX: u64 = 1024 * 1024;

/// Why a check cannot be asked as the file says.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The file of its authorities cannot be used.
    #[error("read the authorities of check {check} from {}: {source}", path.display())]
    Authorities {
        /// The group of the check.
        group: GroupId,
        /// The check.
        check: CheckName,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What node `me` asks: of itself where the check is from the node, of every other node
/// of the group where it is from peers. A witness is a peer too. Reads the files of
/// authorities that checks name; a check for which one cannot be used is always unknown
/// ([`faults_of`]): a file that is gone keeps no daemon from going on.
///
/// Those that rest ask nothing before the prober is told where their group is open.
pub fn probes_of(
    topology: &Topology,
    checks: &BTreeMap<GroupId, Vec<CheckSpec>>,
    me: NodeId,
) -> Vec<Probe> {
    let mut probes = Vec::new();
    for group in topology.groups.values() {
        for spec in checks.get(&group.id).into_iter().flatten() {
            let judged = group.nodes.iter().filter_map(|id| topology.nodes.get(id));
            probes.extend(judged.filter_map(|judged| probe_of(group, spec, judged, me)));
        }
    }
    probes
}

/// What [`probes_of`] cannot use of what node `me` asks, one for each check.
pub fn faults_of(
    topology: &Topology,
    checks: &BTreeMap<GroupId, Vec<CheckSpec>>,
    me: NodeId,
) -> Vec<ResolveError> {
    let mut faults = Vec::new();
    for group in topology.groups.values() {
        for spec in checks.get(&group.id).into_iter().flatten() {
            let judged = group.nodes.iter().filter_map(|id| topology.nodes.get(id));
            let mut roles = judged.map(|judged| role_of(judged, me));
            if !roles.any(|role| asks(spec, role)) {
                continue;
            }
            let Some(config::Trust::Ca(path)) = spec.question.trust() else {
                continue;
            };
            faults.extend(
                read_authorities(path)
                    .err()
                    .map(|source| ResolveError::Authorities {
                        group: group.id,
                        check: spec.policy.name.clone(),
                        path: path.clone(),
                        source,
                    }),
            );
        }
    }
    faults
}

fn role_of(judged: &Node, me: NodeId) -> Asker {
    match judged.id == me {
        true => Asker::Node,
        false => Asker::Peer,
    }
}

fn asks(spec: &CheckSpec, role: Asker) -> bool {
    match role {
        Asker::Node => spec.policy.from_node,
        Asker::Peer => spec.policy.from_peers,
    }
}

fn probe_of(group: &Group, spec: &CheckSpec, judged: &Node, me: NodeId) -> Option<Probe> {
    let policy = &spec.policy;
    let role = role_of(judged, me);
    if !asks(spec, role) {
        return None;
    }
    let question = resolve(&spec.question, judged.address.ip());
    Some(Probe {
        group: group.id,
        check: policy.name.clone(),
        judged: judged.id,
        role,
        watch_listener: role == Asker::Node && question.connects_to().is_some(),
        question,
        interval: policy.interval,
        timeout: policy.timeout,
        fall: policy.fall,
        rise: policy.rise,
        rests: policy.rests,
        service: policy.service.as_ref().map(|of| of.name.clone()),
    })
}

/// The question with the address of the judged node for its name.
fn resolve(question: &Question, node: IpAddr) -> Resolved {
    match question {
        Question::Ping { target } => Resolved::Ping {
            target: target.at(node),
            source: None,
        },
        Question::Http(http) => Resolved::Http(page_of(http, node)),
        Question::Tcp(tcp) => Resolved::Tcp(Tcp {
            connect: tcp.address(node),
            send: tcp.send.clone(),
            expect: tcp.expect.clone(),
        }),
        Question::Exec(command) => Resolved::Command(Command {
            words: command.fill(node),
            manner: Manner::Exec,
        }),
        Question::Nagios(command) => Resolved::Command(Command {
            words: command.fill(node),
            manner: Manner::Nagios,
        }),
        Question::Process(process) => Resolved::Process(Process {
            name: process.name.clone(),
            pidfile: process.pidfile.clone(),
        }),
        Question::Unit(unit) => Resolved::Unit(unit.clone()),
        Question::Dns(dns) => Resolved::Dns(Dns {
            server: dns.address(node),
            name: dns.name.clone(),
            record: dns.record,
            expect: dns.expect.clone(),
        }),
        Question::Smtp(smtp) => Resolved::Smtp(Smtp {
            connect: smtp.address(node),
            starttls: smtp.starttls.as_ref().map(|trust| TlsExpect {
                trust: trust_of(trust),
                name: smtp.server_name(node),
            }),
        }),
    }
}

fn page_of(http: &config::Http, node: IpAddr) -> Http {
    Http {
        connect: http.address(node),
        method: http.method,
        tls: http.tls.as_ref().map(|trust| TlsExpect {
            trust: trust_of(trust),
            name: http.server_name(node),
        }),
        host: http.host_header(node),
        path: http.path.fill(node),
        statuses: http.status.clone(),
        body: http.body.clone(),
    }
}

fn trust_of(trust: &config::Trust) -> Trust {
    match trust {
        config::Trust::WebRoots => Trust::WebRoots,
        config::Trust::Anybody => Trust::Anybody,
        config::Trust::Ca(path) => match read_authorities(path) {
            Ok(authorities) => Trust::Authorities(authorities.into()),
            Err(error) => Trust::Unusable(format!(
                "the authorities in {} cannot be used: {error}; put that right and reload",
                path.display()
            )),
        },
    }
}

fn read_authorities(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let mut text = Vec::new();
    File::open(path)?
        .take(AUTHORITIES_SIZE_MAX + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > AUTHORITIES_SIZE_MAX {
        return Err(io::Error::other(format!(
            "it is larger than {AUTHORITIES_SIZE_MAX} bytes"
        )));
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(io::Error::other)?;
    if found.is_empty() {
        return Err(io::Error::other("there is no certificate in it"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::NodeName;

    fn file(extra: &str) -> config::Config {
        let text = format!(
            "cluster = \"shop\"\n\
             [node.ams1]\naddress = \"192.0.2.11:7946\"\n\
             [node.fra1]\naddress = \"[2001:db8::12]:7946\"\n\
             [node.tie]\naddress = \"192.0.2.13:7946\"\nwitness = true\n\
             [group.www]\nnodes = [\"ams1\", \"fra1\"]\naddresses = [\"192.0.2.100/24@eth0\"]\n\
             [group.www.check.ping]\nping = \"{{node}}\"\n\
             [group.www.check.web]\nhttp = \"http://{{node}}:8080/x\"\nfrom = [\"node\", \"peers\"]\n\
             interval = \"50ms\"\ntimeout = \"200ms\"\n{extra}"
        );
        match config::parse(&text, "test.toml") {
            Ok(config) => config,
            Err(faults) => panic!("{faults}"),
        }
    }

    fn id(node: &str) -> NodeId {
        NodeId::of(&NodeName::new(node).expect("a name"))
    }

    fn asked_by(me: &str, extra: &str) -> Vec<Probe> {
        let config = file(extra);
        probes_of(&config.topology, &config.checks, id(me))
    }

    #[test]
    fn each_node_asks_what_is_its_to_ask() {
        let check = |me: &str, expected: &[(&str, &str, Asker)]| {
            let mut asked: Vec<_> = asked_by(me, "")
                .into_iter()
                .map(|probe| (probe.check.to_string(), probe.judged, probe.role))
                .collect();
            asked.sort_by_key(|(check, judged, _)| (check.clone(), *judged != id("ams1")));
            let expected: Vec<_> = expected
                .iter()
                .map(|(check, judged, role)| ((*check).to_owned(), id(judged), *role))
                .collect();
            assert_eq!(asked, expected, "{me}");
        };
        use Asker::{Node, Peer};
        check(
            "ams1",
            &[
                ("ping", "fra1", Peer),
                ("web", "ams1", Node),
                ("web", "fra1", Peer),
            ],
        );
        check(
            "fra1",
            &[
                ("ping", "ams1", Peer),
                ("web", "ams1", Peer),
                ("web", "fra1", Node),
            ],
        );
        check(
            "tie",
            &[
                ("ping", "ams1", Peer),
                ("ping", "fra1", Peer),
                ("web", "ams1", Peer),
                ("web", "fra1", Peer),
            ],
        );
    }

    #[test]
    fn the_judged_node_stands_for_its_name() {
        let probes = asked_by("fra1", "");
        let own = probes
            .iter()
            .find(|probe| probe.role == Asker::Node)
            .expect("one");
        let Resolved::Http(page) = &own.question else {
            panic!("a page")
        };
        assert_eq!(page.connect.to_string(), "[2001:db8::12]:8080");
        assert_eq!(
            (page.host.as_str(), page.path.as_str()),
            ("[2001:db8::12]:8080", "/x")
        );
        assert!(own.watch_listener);
        assert!(
            !probes
                .iter()
                .any(|probe| probe.role == Asker::Peer && probe.watch_listener)
        );
        let ping = probes
            .iter()
            .find(|probe| probe.check.as_str() == "ping")
            .expect("one");
        let target = "192.0.2.11".parse().expect("an address");
        assert_eq!(
            ping.question,
            Resolved::Ping {
                target,
                source: None
            }
        );
    }

    #[test]
    fn authorities_are_read_and_faults_named() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("ca.pem");
        let extra = format!(
            "[group.www.check.safe]\nhttp = \"https://{{node}}/\"\nhost = \"www.example.com\"\n\
             tls = {{ ca = \"{}\" }}\n",
            path.display()
        );
        let config = file(&extra);
        let trust = || {
            let probes = probes_of(&config.topology, &config.checks, id("ams1"));
            let safe = probes.iter().find(|probe| probe.check.as_str() == "safe");
            let Resolved::Http(page) = &safe.expect("asked all the same").question else {
                panic!("a page")
            };
            let expect = page.tls.as_ref().expect("https");
            assert_eq!(expect.name, "www.example.com");
            expect.trust.clone()
        };
        let faults = || faults_of(&config.topology, &config.checks, id("ams1"));
        let refused = |expected: &str| {
            let [fault] = &faults()[..] else {
                panic!("one check, one fault: {:?}", faults())
            };
            let text = fault.to_string();
            assert!(
                text.starts_with("read the authorities of check safe from "),
                "{text}"
            );
            assert!(text.contains(expected), "{text}");
            let Trust::Unusable(why) = trust() else {
                panic!("{:?}", trust())
            };
            assert!(why.contains(expected) && why.contains("reload"), "{why}");
        };
        refused("No such file");
        std::fs::write(&path, "nothing").expect("our directory");
        refused("no certificate");
        std::fs::write(&path, vec![b'#'; 2 << 20]).expect("our directory");
        refused("larger than");

        let made = rcgen::generate_simple_self_signed(["www.example.com".to_owned()]);
        let made = made.expect("a certificate").cert;
        std::fs::write(&path, made.pem()).expect("our directory");
        assert_eq!(trust(), Trust::Authorities(vec![made.der().clone()].into()));
        assert!(faults().is_empty());
    }
}
