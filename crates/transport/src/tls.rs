//! TLS 1.3 with both sides proved by the cluster's own authority, and nothing resumed:
//! a revoked certificate must not come in on an old ticket.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use evenkeel_core::{NodeId, NodeName};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::{CertificateFault, Fingerprint, Presented, provider};
use crate::pki::Identity;

/// What both sides must speak; the digit is the version of hello and streams.
const PROTOCOL: &[u8] = b"evenkeel/1";
/// TLS wants a server's name; ours are in the certificates, so all say the same.
pub(crate) const SERVER_NAME: &str = "evenkeel";

/// Who may connect, as of now.
#[derive(Default)]
pub(crate) struct Directory {
    pub(crate) names: BTreeMap<NodeId, NodeName>,
    pub(crate) revoked: BTreeSet<Fingerprint>,
}

/// Shared with the verifiers of handshakes under way.
pub(crate) type SharedDirectory = Arc<RwLock<Directory>>;

/// Whom a handshake must prove.
#[derive(Clone)]
pub(crate) enum Expected {
    /// The node that was dialled.
    Node(NodeName),
    /// Any other node of the file.
    Peer,
}

/// Why the verifier of one handshake refused, for our own report.
pub(crate) type Verdict = Arc<OnceLock<CertificateFault>>;

/// Judges the certificate of the other side of one handshake.
struct Verifier {
    identity: Identity,
    directory: SharedDirectory,
    expected: Expected,
    verdict: Verdict,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// A fault on its way through rustls: its text is what the other side gets to read.
struct Told(CertificateFault);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Told {}

/// The fault in the words of the side that found it, out of the reason of its close.
pub(crate) fn told(reason: &str) -> &str {
    let inner = reason
        .strip_prefix("invalid peer certificate: Other(OtherError(")
        .and_then(|rest| rest.strip_suffix("))"));
    inner.unwrap_or(reason)
}

/// Whether a certificate that our authority signed may speak for a peer now.
pub(crate) fn permit(
    presented: &Presented,
    ours: &NodeName,
    expected: &Expected,
    directory: &Directory,
) -> Result<(), CertificateFault> {
    let node = presented.node.clone();
    match expected {
        Expected::Node(wanted) if *wanted != node => {
            return Err(CertificateFault::OtherNode {
                found: node,
                wanted: wanted.clone(),
            });
        }
        Expected::Peer if node == *ours => return Err(CertificateFault::Ourselves { node }),
        Expected::Node(_) | Expected::Peer => {}
    }
    if directory.names.get(&presented.id()) != Some(&node) {
        return Err(CertificateFault::UnknownNode { node });
    }
    let fingerprint = presented.fingerprint;
    if directory.revoked.contains(&fingerprint) {
        return Err(CertificateFault::Revoked { node, fingerprint });
    }
    Ok(())
}

impl Verifier {
    fn judge(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let judged = self
            .identity
            .authority
            .check(certificate)
            .and_then(|presented| {
                let directory = self
                    .directory
                    .read()
                    .unwrap_or_else(PoisonError::into_inner);
                permit(&presented, self.identity.name(), &self.expected, &directory)
            });
        judged.map_err(|fault| {
            let _ = self.verdict.set(fault.clone());
            CertificateError::Other(OtherError(Arc::new(Told(fault)))).into()
        })
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is never spoken".into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// The configuration of one handshake, and where its verdict appears.
pub(crate) struct Handshake<C> {
    pub(crate) config: C,
    pub(crate) verdict: Verdict,
}

fn verifier(identity: &Identity, directory: &SharedDirectory, expected: Expected) -> Arc<Verifier> {
    Arc::new(Verifier {
        identity: identity.clone(),
        directory: Arc::clone(directory),
        expected,
        verdict: Verdict::default(),
        provider: provider(),
    })
}

/// For dialling `node`.
pub(crate) fn client(
    identity: &Identity,
    directory: &SharedDirectory,
    node: NodeName,
) -> Result<Handshake<QuicClientConfig>, rustls::Error> {
    let verifier = verifier(identity, directory, Expected::Node(node));
    let verdict = Arc::clone(&verifier.verdict);
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
            &identity.certified,
        ))));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    let config = QuicClientConfig::try_from(config)
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Handshake { config, verdict })
}

/// For one caller.
pub(crate) fn server(
    identity: &Identity,
    directory: &SharedDirectory,
) -> Result<Handshake<QuicServerConfig>, rustls::Error> {
    let verifier = verifier(identity, directory, Expected::Peer);
    let verdict = Arc::clone(&verifier.verdict);
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
            &identity.certified,
        ))));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.send_tls13_tickets = 0;
    let config = QuicServerConfig::try_from(config)
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Handshake { config, verdict })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::Validity;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).expect("a name")
    }

    fn presented(node: &str) -> Presented {
        Presented {
            node: name(node),
            cluster: "shop".into(),
            validity: Validity {
                not_before: 0,
                not_after: 0,
            },
            fingerprint: Fingerprint::of(node.as_bytes()),
        }
    }

    fn judge(node: &str, expected: &Expected) -> Result<(), CertificateFault> {
        let names = ["b", "c"].map(|node| (NodeId::of(&name(node)), name(node)));
        let directory = Directory {
            names: names.into_iter().collect(),
            revoked: BTreeSet::from([Fingerprint::of(b"c")]),
        };
        permit(&presented(node), &name("a"), expected, &directory)
    }

    #[test]
    fn only_the_right_node_may_speak() {
        let other = CertificateFault::OtherNode {
            found: name("c"),
            wanted: name("b"),
        };
        let ourselves = CertificateFault::Ourselves { node: name("a") };
        let unknown = CertificateFault::UnknownNode { node: name("d") };
        let fingerprint = Fingerprint::of(b"c");
        let revoked = CertificateFault::Revoked {
            node: name("c"),
            fingerprint,
        };
        assert_eq!(judge("b", &Expected::Peer), Ok(()));
        assert_eq!(judge("b", &Expected::Node(name("b"))), Ok(()));
        assert_eq!(judge("c", &Expected::Node(name("b"))), Err(other));
        assert_eq!(judge("a", &Expected::Peer), Err(ourselves));
        assert_eq!(judge("d", &Expected::Peer), Err(unknown));
        assert_eq!(judge("c", &Expected::Peer), Err(revoked));
    }

    #[test]
    fn the_other_side_reads_the_fault_alone() {
        let fault = CertificateFault::UnknownNode { node: name("d") };
        let error: rustls::Error =
            CertificateError::Other(OtherError(Arc::new(Told(fault.clone())))).into();
        assert_eq!(told(&error.to_string()), fault.to_string());
        assert_eq!(told("something else"), "something else");
    }
}
