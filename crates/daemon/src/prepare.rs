//! Everything that can be refused before anything runs: the file, the node's name, the
//! certificates.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use evenkeel_config::Config;
use evenkeel_core::NodeId;
use evenkeel_core::lease;
use evenkeel_core::topology::{Node, Topology};
use evenkeel_transport::pki::Credentials;
use evenkeel_transport::{Fingerprint, Identity};

use crate::inherited::Handed;
use crate::options::Options;
use crate::services::is_prepared;
use crate::state::Whose;

/// What both parent and worker start from.
pub struct Prepared {
    /// The file.
    pub config: Config,
    /// This node's certificate and key.
    pub identity: Identity,
    /// What they were read from.
    pub credentials: Credentials,
    /// Fingerprint of the cluster's authority: names the cluster.
    pub authority: String,
    /// This node.
    pub node: Node,
    /// What people should know, though nothing is refused for it.
    pub warnings: Vec<String>,
}

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{}", .0.render(std::io::IsTerminal::is_terminal(&std::io::stderr())))]
    File(evenkeel_config::Faults),
    #[error(
        "the file {file} has no node {node}; it has {known}. Correct --node, or add [node.{node}]"
    )]
    NoSuchNode {
        file: String,
        node: String,
        known: String,
    },
}

impl Prepared {
    /// Reads and checks everything.
    pub fn load(options: &Options) -> anyhow::Result<Self> {
        let config = evenkeel_config::load(&options.config).map_err(Refused::File)?;
        Self::with(options, config, None)
    }

    /// The same for a worker or the program after this one, with what the parent read. The
    /// files may have been changed since, or their disk be broken; a change counts for all of a
    /// daemon at once, not for whichever worker starts next. (A longer lease, above all, must
    /// be remembered by the state directory before anybody is promised it: rule 4.)
    pub fn again(options: &Options, handed: Handed) -> anyhow::Result<Self> {
        let origin = options.config.display().to_string();
        let config = evenkeel_config::parse(&handed.config, &origin).map_err(Refused::File)?;
        Self::with(options, config, Some(handed.credentials))
    }

    fn with(
        options: &Options,
        config: Config,
        credentials: Option<Credentials>,
    ) -> anyhow::Result<Self> {
        let topology = &config.topology;
        let node = topology
            .nodes
            .get(&NodeId::of(&options.node))
            .cloned()
            .ok_or_else(|| {
                let known: Vec<&str> = topology
                    .nodes
                    .values()
                    .map(|node| node.name.as_str())
                    .collect();
                Refused::NoSuchNode {
                    file: options.config.display().to_string(),
                    node: options.node.to_string(),
                    known: known.join(", "),
                }
            })?;
        let revoked = fingerprints(&config);
        let (pki, cluster) = (&options.pki, &topology.cluster);
        let credentials = match credentials {
            Some(credentials) => credentials,
            None => Credentials::read(pki, &options.node)?,
        };
        let identity = credentials.identity(pki, cluster, &options.node, &revoked)?;
        let authority = identity.authority_fingerprint().to_string();
        let mut warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        if let Some(days) = identity.validity().alarm(SystemTime::now()) {
            warnings.push(format!(
                "the certificate of {} {}: issue a new one with `evenkeel pki issue`; nothing \
                 stops because of it",
                options.node,
                if days < 0 {
                    "has ended".to_owned()
                } else {
                    format!("ends in {days} days")
                }
            ));
        }
        Ok(Self {
            config,
            identity,
            credentials,
            authority,
            node,
            warnings,
        })
    }

    /// Whose the state directory must be.
    pub fn whose(&self) -> Whose<'_> {
        Whose {
            cluster: &self.config.topology.cluster,
            authority: &self.authority,
            node: &self.node.name,
            lease: self.config.topology.timing.lease,
        }
    }

    /// The topology.
    pub fn topology(&self) -> &Topology {
        &self.config.topology
    }

    /// The other nodes and where they are.
    pub fn peers(&self) -> BTreeMap<NodeId, SocketAddr> {
        let others = self
            .topology()
            .nodes
            .values()
            .filter(|node| node.id != self.node.id);
        others.map(|node| (node.id, node.address)).collect()
    }

    /// Settings of the lease machine.
    pub fn lease_settings(&self) -> lease::Settings {
        let topology = self.topology();
        let hosted = self.config.hosted.iter();
        let hosted = hosted.filter(|(_, hosted)| is_prepared(hosted));
        lease::Settings {
            me: self.node.id,
            voters: topology.voters().map(|node| node.id).collect(),
            membership: topology.membership(),
            lease: topology.timing.lease,
            heartbeat: topology.timing.heartbeat,
            lease_max: topology.timing.lease,
            prepared: hosted.map(|(group, _)| *group).collect(),
            faults: lease::Faults::default(),
        }
    }
}

/// The certificates that do not count any more.
pub fn fingerprints(config: &Config) -> Vec<Fingerprint> {
    config
        .revoked
        .iter()
        .map(|bytes| Fingerprint::from_bytes(*bytes))
        .collect()
}
