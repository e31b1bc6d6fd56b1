//! What a check expects of a certificate, as the TLS library wants it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::probe::{TlsExpect, Trust};

/// A certificate that ends sooner than this is mentioned.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);

/// A connector and the name to ask for.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) connector: TlsConnector,
    pub(crate) name: ServerName<'static>,
}

impl Tls {
    /// What `expect` says, for one of `protocols` (RFC 7301) if any, or why that cannot be, for people.
    pub(crate) fn new(expect: &TlsExpect, protocols: &[&[u8]]) -> Result<Self, String> {
        let name = ServerName::try_from(expect.name.clone())
            .map_err(|_| format!("{:?} is not a name for a certificate", expect.name))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|refused| format!("TLS cannot be used: {refused}"))?;
        let builder = match &expect.trust {
            Trust::WebRoots => {
                let anchors = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
                builder.with_root_certificates(RootCertStore {
                    roots: anchors.collect(),
                })
            }
            Trust::Authorities(authorities) => {
                builder.with_root_certificates(store_of(authorities)?)
            }
            Trust::Unusable(why) => return Err(why.clone()),
            Trust::Anybody => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody { provider })),
        };
        let mut config = builder.with_no_client_auth();
        // Each question shakes hands in full: a resumed session would not show a new
        // certificate, and its time would not be that of a new visitor.
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }
}

fn store_of(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for authority in authorities {
        store
            .add(authority.clone())
            .map_err(|refused| format!("the authority's certificate cannot be used: {refused}"))?;
    }
    Ok(store)
}

/// Accepts every certificate, but not a handshake that its key did not sign.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A remark on when a certificate ends, if it is soon or past. `now` is the calendar's:
/// for people, no state depends on it here.
pub(crate) fn remark_on_end(certificate: &CertificateDer<'_>, now: SystemTime) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let end = certificate.validity().not_after.timestamp();
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let left = end.checked_sub_unsigned(now)?;
    if left < 0 {
        return Some("certificate has ended".to_owned());
    }
    let days = left / 86_400;
    (left.unsigned_abs() < ENDS_SOON.as_secs()).then(|| match days {
        0 => "certificate ends today".to_owned(),
        1 => "certificate ends in 1 day".to_owned(),
        days => format!("certificate ends in {days} days"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_remarked_when_it_is_near() {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(2030, 1, 31);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signs");
        let end = UNIX_EPOCH + Duration::from_secs(1_896_048_000);
        let day = Duration::from_secs(86_400);
        let check = |now: SystemTime, expected: Option<&str>| {
            assert_eq!(remark_on_end(certificate.der(), now).as_deref(), expected);
        };
        check(end - 30 * day, None);
        check(end - 14 * day, None);
        check(end - 13 * day, Some("certificate ends in 13 days"));
        check(end - day, Some("certificate ends in 1 day"));
        check(end - Duration::from_secs(5), Some("certificate ends today"));
        check(end + Duration::from_secs(5), Some("certificate has ended"));
        assert_eq!(
            remark_on_end(&CertificateDer::from(vec![1, 2, 3]), end),
            None
        );
    }
}
