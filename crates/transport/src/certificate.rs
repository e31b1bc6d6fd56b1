//! What a certificate says, and whether our authority said it.
//!
//! A node's certificate carries its name as a URI, `evenkeel:CLUSTER/NAME`, the
//! authority's carries `evenkeel:CLUSTER`. An authority may be made without the name of
//! a cluster; CLUSTER is then empty, and the authority alone tells clusters apart.
//!
//! Dates never decide (DESIGN 5): a cluster must not stop because a year has passed.
//! They are read here so that people can be told.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_core::{NodeId, NodeName};
use ring::digest;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What the URI in our certificates begins with.
pub(crate) const URI_SCHEME: &str = "evenkeel:";
/// Days before the end of a certificate at which people are told.
pub const ALARM_DAYS: i64 = 30;
const DAY: i64 = 86_400;

/// SHA-256 of a certificate: what `revoked` in the file lists, and what
/// `openssl x509 -noout -fingerprint -sha256` prints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// A text that is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a fingerprint is 64 hexadecimal digits, with or without colons between pairs")]
pub struct FingerprintFault;

impl Fingerprint {
    /// The fingerprint with these bytes, as a file lists it.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The fingerprint of a certificate in DER form.
    pub fn of(certificate: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits of either case; colons are skipped.
    pub fn parse(text: &str) -> Result<Self, FingerprintFault> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(FingerprintFault);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn hex_digit(digit: u8) -> Result<u8, FingerprintFault> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(FingerprintFault),
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// From when to when a certificate is meant to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Seconds of Unix time.
    pub not_before: i64,
    /// Seconds of Unix time.
    pub not_after: i64,
}

impl Validity {
    /// Whole days until the end; negative after it.
    pub fn days_left(&self, now: SystemTime) -> i64 {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.not_after.saturating_sub(now).div_euclid(DAY)
    }

    /// The days left, if people should be told.
    pub fn alarm(&self, now: SystemTime) -> Option<i64> {
        let left = self.days_left(now);
        (left < ALARM_DAYS).then_some(left)
    }
}

/// What the certificate of a node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Presented {
    /// The node it belongs to.
    pub(crate) node: NodeName,
    /// The cluster it belongs to; empty if the authority names none.
    pub(crate) cluster: String,
    /// Its dates.
    pub(crate) validity: Validity,
    /// Its fingerprint.
    pub(crate) fingerprint: Fingerprint,
}

impl Presented {
    /// The identity of the node.
    pub(crate) fn id(&self) -> NodeId {
        NodeId::of(&self.node)
    }
}

/// Why a certificate does not count. Each says whose certificate it is, or claims to be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertificateFault {
    /// No certificate at all, or none of ours.
    #[error("{subject} is not the certificate of an evenkeel node ({what})")]
    NotOfANode {
        /// The subject it names.
        subject: String,
        /// What is missing.
        what: &'static str,
    },
    /// Not signed by the cluster's authority.
    #[error("the certificate of {node:?} was issued by another authority ({what})")]
    ForeignAuthority {
        /// The node it claims to be of.
        node: NodeName,
        /// What the check of the signature said.
        what: String,
    },
    /// From our authority, but for another cluster.
    #[error("the certificate of {node:?} is for the cluster {found:?}, not {wanted:?}")]
    OtherCluster {
        /// The node it is of.
        node: NodeName,
        /// Its cluster.
        found: String,
        /// Ours.
        wanted: String,
    },
    /// Not of the node that should be there.
    #[error("the certificate is of {found:?}, not of {wanted:?}")]
    OtherNode {
        /// The node it is of.
        found: NodeName,
        /// The node that was expected.
        wanted: NodeName,
    },
    /// Of a node that the file does not name.
    #[error("the certificate is of {node:?}, which is no node of this cluster's file")]
    UnknownNode {
        /// The node it is of.
        node: NodeName,
    },
    /// Our own name, presented by somebody else.
    #[error("the certificate is of {node:?}, which is this node: two processes share one name")]
    Ourselves {
        /// Our name.
        node: NodeName,
    },
    /// Listed in `revoked`.
    #[error("the certificate of {node:?} is revoked (fingerprint {fingerprint})")]
    Revoked {
        /// The node it is of.
        node: NodeName,
        /// Its fingerprint.
        fingerprint: Fingerprint,
    },
}

/// The cluster's authority: the only one whose word about names counts.
#[derive(Clone)]
pub(crate) struct Authority {
    cluster: String,
    validity: Validity,
    der: CertificateDer<'static>,
    chain: Arc<dyn ClientCertVerifier>,
}

impl Authority {
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// The authority with this certificate, or why it is none.
    pub(crate) fn new(der: CertificateDer<'static>) -> Result<Self, String> {
        let (cluster, validity) = {
            let certificate = parse(&der)?;
            let uri = our_uri(&certificate).ok_or("it is not an evenkeel authority's")?;
            if uri.contains('/') {
                return Err("it is a node's certificate, not an authority's".into());
            }
            (uri.to_owned(), validity(&certificate))
        };
        let mut roots = RootCertStore::empty();
        roots.add(der.clone()).map_err(|error| error.to_string())?;
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            cluster,
            validity,
            der,
            chain,
        })
    }

    /// The cluster it is for; empty if it names none.
    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Whose certificate this is, if the authority signed it for a node of its cluster.
    pub(crate) fn check(&self, der: &CertificateDer<'_>) -> Result<Presented, CertificateFault> {
        let presented = read(der)?;
        // The dates never decide, so the check of the chain happens at a moment within them.
        let within = u64::try_from(presented.validity.not_before).unwrap_or(0);
        let within = UnixTime::since_unix_epoch(Duration::from_secs(within));
        // No intermediates: the authority itself signs every node.
        self.chain
            .verify_client_cert(der, &[], within)
            .map_err(|error| CertificateFault::ForeignAuthority {
                node: presented.node.clone(),
                what: error.to_string(),
            })?;
        if presented.cluster != self.cluster {
            return Err(CertificateFault::OtherCluster {
                node: presented.node,
                found: presented.cluster,
                wanted: self.cluster.clone(),
            });
        }
        Ok(presented)
    }
}

/// The cryptography: ring, nothing else.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err("bytes after the certificate".into()),
        Err(error) => Err(format!("not a certificate: {error}")),
    }
}

/// What follows the scheme in the one URI of ours that a certificate carries.
fn our_uri<'a>(certificate: &X509Certificate<'a>) -> Option<&'a str> {
    let names = certificate.subject_alternative_name().ok().flatten()?;
    let mut ours = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(URI_SCHEME),
            _ => None,
        });
    let first = ours.next()?;
    ours.next().is_none().then_some(first)
}

fn validity(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity {
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    }
}

/// What a certificate says, believed by nobody yet.
fn read(der: &CertificateDer<'_>) -> Result<Presented, CertificateFault> {
    let fault = |subject: String, what| CertificateFault::NotOfANode { subject, what };
    let certificate =
        parse(der).map_err(|_| fault("what was presented".into(), "it cannot be read"))?;
    let subject = || format!("{:?}", certificate.subject().to_string());
    let uri = our_uri(&certificate).ok_or_else(|| {
        fault(
            subject(),
            "it carries no name of the form evenkeel:CLUSTER/NODE",
        )
    })?;
    let (cluster, node) = uri
        .split_once('/')
        .ok_or_else(|| fault(subject(), "it names no node"))?;
    let node = NodeName::new(node).map_err(|_| fault(subject(), "it names no possible node"))?;
    Ok(Presented {
        node,
        cluster: cluster.to_owned(),
        validity: validity(&certificate),
        fingerprint: Fingerprint::of(der),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_read_what_they_print() {
        let fingerprint = Fingerprint::of(b"a certificate");
        let text = fingerprint.to_string();
        assert_eq!(Fingerprint::parse(&text), Ok(fingerprint));
        assert_eq!(
            Fingerprint::parse(&text.replace(':', "").to_lowercase()),
            Ok(fingerprint)
        );
        assert_eq!(Fingerprint::parse(&text[3..]), Err(FingerprintFault));
        assert_eq!(
            Fingerprint::parse(&text.replace('A', "g")),
            Err(FingerprintFault)
        );
    }

    #[test]
    fn days_are_counted_downwards() {
        let validity = Validity {
            not_before: 0,
            not_after: 100 * DAY,
        };
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs());
        assert_eq!(validity.days_left(at(0)), 100);
        assert_eq!(validity.alarm(at(0)), None);
        assert_eq!(validity.alarm(at(70 * DAY)), None);
        assert_eq!(validity.alarm(at(70 * DAY + 1)), Some(29));
        assert_eq!(validity.alarm(at(100 * DAY + 1)), Some(-1));
    }
}
