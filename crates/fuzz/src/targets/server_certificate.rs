//! Certificates of servers that are checked: when they end.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_checks::fuzzing::certificate;
use evenkeel_transport::fuzzing::der;
use evenkeel_transport::pki;

use crate::{MEMORY, Target, place};

pub(crate) const TARGET: Target = Target {
    name: "server_certificate",
    reads: "certificates of checked servers (checks)",
    seeds,
    judge,
    length_max: 16 * 1024,
    memory: MEMORY,
    memory_per_byte: 256,
    mutants: 10_000,
};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn seeds() -> Vec<Vec<u8>> {
    let dir = place::directory();
    pki::init(dir.path(), Some("shop"), now()).expect("an authority");
    let text = std::fs::read_to_string(dir.path().join("ca.pem")).expect("just written");
    vec![der(&text).expect("a certificate")]
}

fn judge(input: &[u8]) {
    for now in [UNIX_EPOCH, now(), UNIX_EPOCH + Duration::from_secs(1 << 40)] {
        let remark = certificate(input, now);
        assert!(remark.is_none_or(|remark| remark.len() < 100));
    }
}
