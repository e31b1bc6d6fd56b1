//! `revoked = [..]`: certificates that no longer count, by their SHA-256 fingerprint.

use std::collections::BTreeSet;

use crate::fault::{Report, shown};
use crate::section::Section;

/// More revoked certificates than this call for a new authority.
pub const REVOKED_MAX: usize = 1024;

const EXAMPLE: &str = "revoked = [\"AB:CD:...\"] with the 64 hexadecimal digits that `openssl x509 -noout -fingerprint -sha256 -in NAME.pem` prints";

/// The SHA-256 of a certificate in DER.
pub type Fingerprint = [u8; 32];

/// Reads all fingerprints; one written twice counts once.
pub(crate) fn read(top: &Section<'_>, report: &mut Report) -> Vec<Fingerprint> {
    let Some(texts) = top.texts("revoked", EXAMPLE, report) else {
        return Vec::new();
    };
    if let Some(beyond) = texts.get(REVOKED_MAX) {
        let what = format!("more than {REVOKED_MAX} certificates are revoked");
        report.refuse(
            &beyond.span,
            what,
            "make a new authority with `evenkeel pki init`",
        );
    }
    let mut prints = BTreeSet::new();
    for text in texts.iter().take(REVOKED_MAX) {
        match parse(text.value) {
            Some(print) => {
                prints.insert(print);
            }
            None => {
                let what = format!("{} is no SHA-256 fingerprint", shown(text.value));
                report.refuse(&text.span, what, format!("write for example {EXAMPLE}"));
            }
        }
    }
    prints.into_iter().collect()
}

/// 64 hexadecimal digits, with or without colons between pairs, with or without
/// `sha256:` before them.
fn parse(text: &str) -> Option<Fingerprint> {
    let head = text
        .get(..7)
        .filter(|head| head.eq_ignore_ascii_case("sha256:"));
    let digits = &text[head.map_or(0, str::len)..];
    let pairs: Vec<&[u8]> = match digits.contains(':') {
        true => digits.split(':').map(str::as_bytes).collect(),
        false => digits.as_bytes().chunks(2).collect(),
    };
    let bytes: Option<Vec<u8>> = pairs.into_iter().map(byte).collect();
    bytes?.try_into().ok()
}

fn byte(pair: &[u8]) -> Option<u8> {
    let [high, low] = pair else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}

/// As the file writes it.
pub(crate) fn show(print: &Fingerprint) -> String {
    print.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_read_as_tools_print_them() {
        let print: Fingerprint = std::array::from_fn(|at| (at as u8).wrapping_mul(37));
        let plain = show(&print);
        let colons: Vec<String> = print.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(parse(&plain), Some(print));
        assert_eq!(parse(&colons.join(":")), Some(print));
        assert_eq!(parse(&format!("SHA256:{plain}")), Some(print));
        assert_eq!(parse(&plain[1..]), None);
        assert_eq!(parse(&plain.replace('0', "g")), None);
        assert_eq!(parse(&format!("{plain}00")), None);
        assert_eq!(parse(""), None);
        assert_eq!(parse("sha256:"), None);
        assert_eq!(parse("ééééééééé"), None);
    }
}
