//! The cluster's own authority and the certificates of its nodes, as files.
//!
//! `ca.pem` and `ca.key` are the authority; `NAME.pem` and `NAME.key` belong to a node.
//! Keys are written once, readable by their owner alone, and never overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use evenkeel_core::names::NameFault;
use evenkeel_core::{NodeId, NodeName};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use thiserror::Error;

use crate::certificate::{
    Authority, CertificateFault, Fingerprint, Presented, URI_SCHEME, Validity, provider,
};

const DAY: Duration = Duration::from_secs(86_400);
/// An authority outlives the machines it speaks for.
const AUTHORITY_DAYS: u32 = 20 * 365;
/// A node's certificate is to be renewed once a year.
const NODE_DAYS: u32 = 365;
/// Clocks of new machines are wrong: certificates begin a day early.
const EARLY: Duration = DAY;
/// The largest file read here; a certificate or key has about 1 KiB.
const FILE_MAX: u64 = 64 * 1024;
/// The name of the authority's files, which no node may have.
const AUTHORITY: &str = "ca";

/// What can be wrong with the files of an identity.
#[derive(Debug, Error)]
pub enum PkiError {
    /// A file is not there.
    #[error("{path} does not exist: {remedy}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner can get at a key.
    #[error(
        "others can read the key {path} (mode {mode:04o}): `chmod 600 {path}`, and if the machine has other users, issue a new one and list the old certificate in `revoked`"
    )]
    Exposed {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file holds something else.
    #[error("{path} is not usable: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A certificate that does not count.
    #[error("{path}: {fault}; {remedy}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Whose it is, and why it does not count.
        fault: CertificateFault,
        /// What to do.
        remedy: &'static str,
    },
    /// Key and certificate are not a pair.
    #[error("the key {key} does not belong to the certificate {certificate}")]
    Unpaired {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// The authority is another cluster's.
    #[error("{path} is the authority of the cluster {found:?}, and the file says {wanted:?}")]
    OtherCluster {
        /// The authority's certificate.
        path: PathBuf,
        /// The cluster it names.
        found: String,
        /// The cluster of the file.
        wanted: String,
    },
    /// Something is there that must not be overwritten.
    #[error("{path} exists and is never overwritten: move it away if it is not needed any more")]
    Exists {
        /// What is there.
        path: PathBuf,
    },
    /// A cluster's name that is none.
    #[error("{name:?} is not a name of a cluster: {fault}")]
    ClusterName {
        /// The text.
        name: String,
        /// What is wrong.
        fault: NameFault,
    },
    /// A node called as the authority's files are.
    #[error("a node cannot be called {AUTHORITY:?}: its files would be the authority's")]
    ReservedName,
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The cryptographic library refused.
    #[error("cannot make {what}: {source}")]
    Crypto {
        /// What was to be made.
        what: &'static str,
        /// What the library said.
        source: rcgen::Error,
    },
}

/// A node's own name, proved: its certificate, its key, and the authority of its cluster.
#[derive(Clone)]
pub struct Identity {
    pub(crate) authority: Authority,
    pub(crate) certified: Arc<CertifiedKey>,
    presented: Presented,
}

impl Identity {
    /// This node.
    pub fn id(&self) -> NodeId {
        self.presented.id()
    }

    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.presented.node
    }

    /// The fingerprint of its certificate: what `revoked` would list.
    pub fn fingerprint(&self) -> Fingerprint {
        self.presented.fingerprint
    }

    /// The dates of its certificate.
    pub fn validity(&self) -> Validity {
        self.presented.validity
    }

    /// The fingerprint of its cluster's authority: what tells clusters apart.
    pub fn authority_fingerprint(&self) -> Fingerprint {
        self.authority.fingerprint()
    }

    /// The dates of its cluster's authority.
    pub fn authority_validity(&self) -> Validity {
        self.authority.validity()
    }
}

impl std::fmt::Debug for Identity {
    /// Never the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("presented", &self.presented)
            .finish_non_exhaustive()
    }
}

/// Makes the authority of a cluster in `dir`: `ca.pem`, `ca.key`. Without the name of a
/// cluster it can serve one of any name. `now` is the beginning of its validity.
pub fn init(dir: &Path, cluster: Option<&str>, now: SystemTime) -> Result<(), PkiError> {
    let cluster = cluster.unwrap_or("");
    if !cluster.is_empty() {
        NodeName::new(cluster).map_err(|fault| PkiError::ClusterName {
            name: cluster.to_owned(),
            fault,
        })?;
    }
    let files = Files::of(dir, AUTHORITY);
    files.refuse_existing()?;
    let crypto = |source| PkiError::Crypto {
        what: "the authority's certificate",
        source,
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
    let title = format!("evenkeel authority {cluster}");
    let mut params = params(&title, cluster, now, AUTHORITY_DAYS);
    params.subject_alt_names = vec![uri(cluster.to_owned()).map_err(crypto)?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(crypto)?;
    make_directory(dir)?;
    files.create(&key.serialize_pem(), &certificate.pem())
}

/// Issues a certificate for `node` by the authority in `dir`, into `out`: `NAME.pem`,
/// `NAME.key` and the authority's `ca.pem`. Answers its fingerprint.
pub fn issue(
    dir: &Path,
    node: &NodeName,
    out: &Path,
    now: SystemTime,
) -> Result<Fingerprint, PkiError> {
    refuse_reserved(node)?;
    let (authority, issuer) = load_authority(dir)?;
    let files = Files::of(out, node.as_str());
    files.refuse_existing()?;
    let beside = refuse_other_authority(out, &authority)?;

    let crypto = |source| PkiError::Crypto {
        what: "the node's certificate",
        source,
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
    let mut params = params(node.as_str(), authority.cluster(), now, NODE_DAYS);
    params.subject_alt_names =
        vec![uri(format!("{}/{node}", authority.cluster())).map_err(crypto)?];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Either side dials, so each certificate serves both roles.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).map_err(crypto)?;

    make_directory(out)?;
    files.create(&key.serialize_pem(), &certificate.pem())?;
    if let AuthorityBeside::Absent(path) = beside {
        let pem = read(&Files::of(dir, AUTHORITY).certificate, String::new)?;
        create(&path, 0o644, &pem)?;
    }
    Ok(Fingerprint::of(certificate.der()))
}

/// Loads the identity of `node` from `dir` (`ca.pem`, `NAME.pem`, `NAME.key`) for the
/// cluster of the file, and refuses whatever the other nodes would refuse.
pub fn load(
    dir: &Path,
    cluster: &str,
    node: &NodeName,
    revoked: &[Fingerprint],
) -> Result<Identity, PkiError> {
    Credentials::read(dir, node)?.identity(dir, cluster, node, revoked)
}

/// The files of an identity as they were read, so that a program that goes on with it needs
/// none of them. PEM, each.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The certificate of the cluster's authority.
    pub authority: String,
    /// The node's own.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for Credentials {
    /// Never the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads those of `node` from `dir`.
    pub fn read(dir: &Path, node: &NodeName) -> Result<Self, PkiError> {
        refuse_reserved(node)?;
        let ca = Files::of(dir, AUTHORITY);
        let ours = Files::of(dir, node.as_str());
        let remedy = || {
            format!(
                "`evenkeel pki issue --dir DIR --node {node}` makes it; copy it to {}",
                dir.display()
            )
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let authority = read(&ca.certificate, || {
            format!("copy it from where `evenkeel pki issue --node {node}` wrote it")
        })?;
        let certificate = read(&ours.certificate, remedy)?;
        refuse_exposed(&ours.key, remedy)?;
        Ok(Self {
            authority: text(authority),
            certificate: text(certificate),
            key: text(read(&ours.key, remedy)?),
        })
    }

    /// What they prove, for the cluster of the file; refuses whatever the other nodes would
    /// refuse. `dir` is where they were, for people.
    pub fn identity(
        &self,
        dir: &Path,
        cluster: &str,
        node: &NodeName,
        revoked: &[Fingerprint],
    ) -> Result<Identity, PkiError> {
        let ca = Files::of(dir, AUTHORITY);
        let ours = Files::of(dir, node.as_str());
        let authority = authority(
            &ca,
            certificate(&ca.certificate, self.authority.as_bytes())?,
        )?;
        if !authority.cluster().is_empty() && authority.cluster() != cluster {
            return Err(PkiError::OtherCluster {
                path: ca.certificate,
                found: authority.cluster().to_owned(),
                wanted: cluster.to_owned(),
            });
        }
        let certificate = certificate(&ours.certificate, self.certificate.as_bytes())?;
        let presented = check_own(&authority, &certificate, node, revoked, &ours.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        let key = key.map_err(|error| malformed(&ours.key, &error))?;
        let certified =
            CertifiedKey::from_der(vec![certificate], key, &provider()).map_err(|_| {
                PkiError::Unpaired {
                    key: ours.key,
                    certificate: ours.certificate,
                }
            })?;
        Ok(Identity {
            authority,
            certified: Arc::new(certified),
            presented,
        })
    }
}

fn check_own(
    authority: &Authority,
    certificate: &CertificateDer<'_>,
    node: &NodeName,
    revoked: &[Fingerprint],
    path: &Path,
) -> Result<Presented, PkiError> {
    let refuse = |fault, remedy| PkiError::Certificate {
        path: path.to_owned(),
        fault,
        remedy,
    };
    let presented = authority.check(certificate).map_err(|fault| {
        refuse(
            fault,
            "use the certificate and the ca.pem that one `evenkeel pki issue` wrote",
        )
    })?;
    if presented.node != *node {
        let fault = CertificateFault::OtherNode {
            found: presented.node,
            wanted: node.clone(),
        };
        return Err(refuse(
            fault,
            "each node needs the certificate issued for its own name",
        ));
    }
    if revoked.contains(&presented.fingerprint) {
        let fault = CertificateFault::Revoked {
            node: presented.node,
            fingerprint: presented.fingerprint,
        };
        return Err(refuse(fault, "issue a new one with `evenkeel pki issue`"));
    }
    Ok(presented)
}

fn refuse_reserved(node: &NodeName) -> Result<(), PkiError> {
    if node.as_str() == AUTHORITY {
        Err(PkiError::ReservedName)
    } else {
        Ok(())
    }
}

/// The two files of one owner.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(dir: &Path, owner: &str) -> Self {
        Self {
            certificate: dir.join(format!("{owner}.pem")),
            key: dir.join(format!("{owner}.key")),
        }
    }

    fn refuse_existing(&self) -> Result<(), PkiError> {
        for path in [&self.key, &self.certificate] {
            // Also a dangling link is something that somebody put there.
            if path.symlink_metadata().is_ok() {
                return Err(PkiError::Exists { path: path.clone() });
            }
        }
        Ok(())
    }

    /// Writes both or neither.
    fn create(&self, key: &str, certificate: &str) -> Result<(), PkiError> {
        create(&self.key, 0o600, key.as_bytes())?;
        let written = create(&self.certificate, 0o644, certificate.as_bytes());
        if written.is_err() {
            // The key that was written a moment ago: without a certificate it is worth nothing.
            let _ = fs::remove_file(&self.key);
        }
        written
    }
}

fn params(title: &str, cluster: &str, now: SystemTime, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, title);
    if !cluster.is_empty() {
        subject.push(DnType::OrganizationName, cluster);
    }
    params.distinguished_name = subject;
    params.not_before = (now - EARLY).into();
    params.not_after = (now + DAY * days).into();
    params
}

fn uri(rest: String) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(format!("{URI_SCHEME}{rest}").try_into()?))
}

fn load_authority(dir: &Path) -> Result<(Authority, Issuer<'static, KeyPair>), PkiError> {
    let files = Files::of(dir, AUTHORITY);
    let remedy = || {
        format!(
            "`evenkeel pki init --dir {}` makes an authority",
            dir.display()
        )
    };
    let authority = read_authority(&files, remedy)?;
    refuse_exposed(&files.key, remedy)?;
    let pem = read(&files.key, remedy)?;
    let malformed = |error: rcgen::Error| PkiError::Malformed {
        path: files.key.clone(),
        what: error.to_string(),
    };
    let pem = String::from_utf8_lossy(&pem);
    let key = KeyPair::from_pem(&pem).map_err(malformed)?;
    let issuer = Issuer::from_ca_cert_der(authority.der(), key).map_err(malformed)?;
    Ok((authority, issuer))
}

fn read_authority(files: &Files, remedy: impl Fn() -> String) -> Result<Authority, PkiError> {
    authority(files, read_certificate(&files.certificate, remedy)?)
}

fn authority(files: &Files, der: CertificateDer<'static>) -> Result<Authority, PkiError> {
    Authority::new(der).map_err(|what| PkiError::Malformed {
        path: files.certificate.clone(),
        what,
    })
}

/// What lies in the target directory as `ca.pem`.
enum AuthorityBeside {
    Absent(PathBuf),
    Ours,
}

fn refuse_other_authority(out: &Path, authority: &Authority) -> Result<AuthorityBeside, PkiError> {
    let path = Files::of(out, AUTHORITY).certificate;
    match read_certificate(&path, String::new) {
        Ok(der) if der == *authority.der() => Ok(AuthorityBeside::Ours),
        Ok(_) => Err(PkiError::Exists { path }),
        Err(PkiError::Missing { .. }) => Ok(AuthorityBeside::Absent(path)),
        Err(error) => Err(error),
    }
}

fn read_certificate(
    path: &Path,
    remedy: impl Fn() -> String,
) -> Result<CertificateDer<'static>, PkiError> {
    certificate(path, &read(path, remedy)?)
}

fn certificate(path: &Path, pem: &[u8]) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem).map_err(|error| malformed(path, &error))
}

fn malformed(path: &Path, error: &rustls_pki_types::pem::Error) -> PkiError {
    PkiError::Malformed {
        path: path.to_owned(),
        what: error.to_string(),
    }
}

fn refuse_exposed(path: &Path, remedy: impl Fn() -> String) -> Result<(), PkiError> {
    let meta = fs::metadata(path).map_err(|source| unread(path, source, remedy))?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(PkiError::Exposed {
            path: path.to_owned(),
            mode,
        })
    }
}

fn unread(path: &Path, source: io::Error, remedy: impl Fn() -> String) -> PkiError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => PkiError::Missing {
            path,
            remedy: remedy(),
        },
        _ => PkiError::Unreadable { path, source },
    }
}

fn read(path: &Path, remedy: impl Fn() -> String) -> Result<Vec<u8>, PkiError> {
    let meta = fs::metadata(path).map_err(|source| unread(path, source, &remedy))?;
    if meta.len() > FILE_MAX {
        let what = format!("{} bytes are too many for a certificate or key", meta.len());
        return Err(PkiError::Malformed {
            path: path.to_owned(),
            what,
        });
    }
    fs::read(path).map_err(|source| unread(path, source, remedy))
}

fn make_directory(dir: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(dir).map_err(|source| PkiError::Unwritable {
        path: dir.to_owned(),
        source,
    })
}

/// Writes a new file, on disk when this returns; never touches one that exists.
fn create(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), PkiError> {
    let open = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = open.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists {
            path: path.to_owned(),
        },
        _ => PkiError::Unwritable {
            path: path.to_owned(),
            source,
        },
    })?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|source| {
            let _ = fs::remove_file(path);
            PkiError::Unwritable {
                path: path.to_owned(),
                source,
            }
        })
}
