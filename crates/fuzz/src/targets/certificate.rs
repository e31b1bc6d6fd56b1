//! Certificates: those that other nodes present, and this node's files.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use evenkeel_transport::Fingerprint;
use evenkeel_transport::fuzzing::{der, pem};
use evenkeel_transport::pki::{self, Credentials};

use crate::input::{Input, piece};
use crate::{MEMORY, Target, place, values};

pub(crate) const TARGET: Target = Target {
    name: "certificate",
    reads: "certificates, of others and our own files, and fingerprints (handshakes, start)",
    seeds,
    judge,
    length_max: 8 * 1024,
    memory: MEMORY,
    memory_per_byte: 256,
    mutants: 2_000,
};

/// An authority and what it has issued for `ams1`. Keys are drawn, so an input says what to change
/// of the certificate and not the certificate: that means the same in every process.
static ISSUED: LazyLock<Credentials> = LazyLock::new(|| {
    let dir = place::directory();
    let node = values::name("ams1");
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    pki::init(dir.path(), Some("shop"), now).expect("an authority");
    pki::issue(dir.path(), &node, dir.path(), now).expect("a certificate");
    Credentials::read(dir.path(), &node).expect("just written")
});

fn seeds() -> Vec<Vec<u8>> {
    let change = |at: u16, with: u8| [&[0][..], &at.to_le_bytes(), &[with]].concat();
    let fingerprint = Fingerprint::of(b"a certificate").to_string();
    vec![
        Vec::new(),
        change(100, 1),
        [change(4, 0x80), change(300, 0xff)].concat(),
        [&[1][..], &10_u16.to_le_bytes()].concat(),
        [&[2][..], &piece(b"more")].concat(),
        [&[3][..], &piece(ISSUED.authority.as_bytes())].concat(),
        [&[4][..], &piece(fingerprint.as_bytes())].concat(),
    ]
}

fn judge(input: &[u8]) {
    let node = values::name("ams1");
    let real = der(&ISSUED.certificate).expect("a certificate");
    let mut changed = real.clone();
    let mut input = Input(input);
    let mut issued = ISSUED.clone();
    while !input.is_over() {
        match input.below(5) {
            0 => {
                let at = usize::from(input.short());
                let with = input.byte();
                let length = changed.len().max(1);
                if let Some(byte) = changed.get_mut(at % length) {
                    *byte ^= with;
                }
            }
            1 => changed.truncate(usize::from(input.short())),
            2 => changed.extend_from_slice(input.piece()),
            // The files of this node as texts.
            3 => issued.authority = String::from_utf8_lossy(input.piece()).into_owned(),
            _ => {
                let text = String::from_utf8_lossy(input.piece()).into_owned();
                if let Ok(read) = Fingerprint::parse(&text) {
                    assert_eq!(Fingerprint::parse(&read.to_string()), Ok(read));
                }
            }
        }
    }
    let same_authority = issued.authority == ISSUED.authority;
    issued.certificate = pem(&changed);
    let identity = issued.identity("/".as_ref(), "shop", &node, &[]);
    if same_authority {
        assert_eq!(
            identity.is_ok(),
            changed == real,
            "only what was issued counts"
        );
    }
    if let Ok(identity) = identity {
        assert_eq!(identity.name(), &node);
        let revoked = [identity.fingerprint()];
        let again = issued.identity("/".as_ref(), "shop", &node, &revoked);
        assert!(again.is_err(), "revoked, and in use");
        let other = issued.identity("/".as_ref(), "other", &node, &[]);
        assert!(other.is_err(), "of another cluster");
    }
}
